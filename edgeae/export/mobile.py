"""A bundle as files for ONNX Runtime's mobile packages: graphs in ORT format and what a reduced build needs.

The bundle has opset 18 and IR version 8, which onnxruntime-android, onnxruntime-objc and onnxruntime-c load since
release 1.14, and a fixed batch, without which NNAPI and CoreML take nothing. The ORT format, which is all that a
minimal build loads, has been version 6 since release 1.16; older releases refuse it.

Documents: onnxruntime.ai, "ORT model format", "ONNX Runtime compatibility" and "Reduced operator config file".
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from edgeae.bundle import Bundle, Golden
from edgeae.bundle.atomic import check_new, write_directory
from edgeae.bundle.manifest import GRAPHS, Tolerance
from edgeae.errors import ExportError
from edgeae.export.mobile_providers import Placement, place_operators
from edgeae.export.mobile_sizes import estimate_size
from edgeae.export.mobile_text import constants_swift, placement_rows, readme
from edgeae.export.parity import run_graph

__all__ = [
    "FIRST_FILE",
    "MOBILE_OPSET",
    "Mobile",
    "place_operators",
    "placement_rows",
    "read_operators",
    "to_ort",
    "write_mobile",
]

MOBILE_OPSET = 18
MOBILE_IR = 8
FIRST_FILE = "scorer.ort"  # what tells a folder of ours from one of other things


@dataclass(frozen=True)
class Mobile:
    """What was written for a phone.

    Attributes:
        path: The folder.
        sizes: Bytes by file name.
        operators: What a reduced build must hold, by "domain;opset".
        placements: For the fp32 scorer, which providers take which operators.
    """

    path: Path
    sizes: Mapping[str, int]
    operators: Mapping[str, tuple[str, ...]]
    placements: tuple[Placement, ...]


def write_mobile(
    bundle: Bundle | str | os.PathLike[str], folder: str | os.PathLike[str], *, force: bool = False
) -> Mobile:
    """Write the graphs of a bundle in ORT format, with what a phone's program and a reduced build need beside them.

    The files are checked against the bundle's golden rows. edgeae itself loads no ORT-format files.

    Args:
        bundle: One with opset 18, IR version 8 and a fixed batch, as `export_bundle(..., target="mobile")` writes it.
        folder: Where to write; it appears whole or not at all.
        force: Replace a folder of such files.

    Returns:
        What was written.

    Raises:
        ExportError: if the bundle's graphs are too new for older mobile builds or have no fixed batch, or if a
            converted graph does not give the golden numbers.
        InputError: if the folder exists or cannot be written.

    Example:
        >>> write_mobile("bundle", "bundle-mobile").sizes["scorer.ort"]  # doctest: +SKIP
        12208
    """
    folder = Path(folder)
    check_new(folder, force=force, what="the output folder", holds=FIRST_FILE)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.read(bundle)
    _check_fit(bundle)
    converted: dict[str, bytes] = {}
    for precision, entry in bundle.manifest.precisions.items():
        inner = "" if precision == "fp32" else f"{precision}/"
        graphs = {role: to_ort(bundle.graph(precision, role)) for role in GRAPHS}
        _check_golden(f"{bundle.path} at {precision}", graphs, bundle.golden(precision), entry.tolerance, bundle)
        converted.update({f"{inner}{role}.ort": graphs[role] for role in reversed(GRAPHS)})
    operators = _configuration(converted, types=False)
    files = {
        **converted,
        "required_operators.config": operators,
        "required_operators_and_types.config": _configuration(converted, types=True),
        "EdgeaeModel.swift": constants_swift(bundle).encode(),
        "golden.json": _golden_json(bundle).encode(),
    }
    required = read_operators(operators.decode())
    placements = tuple(place_operators(bundle.graph("fp32", "scorer")))
    sizes = {name: len(data) for name, data in files.items()}
    files["README.md"] = readme(bundle, sizes, required, placements, ort.__version__).encode()
    write_directory(folder, files, force=force)
    return Mobile(folder, {**sizes, "README.md": len(files["README.md"])}, required, placements)


def _check_fit(bundle: Bundle) -> None:
    manifest = bundle.manifest
    remedy = "export the run again with --target mobile (target='mobile')"
    if manifest.batch is None:
        raise ExportError(
            f"{bundle.path}: its batch is not fixed, and NNAPI and CoreML take fixed shapes only; {remedy}"
        )
    if manifest.opset > MOBILE_OPSET or manifest.ir_version > MOBILE_IR:
        raise ExportError(
            f"{bundle.path}: opset {manifest.opset} and IR version {manifest.ir_version} are newer than the "
            f"{MOBILE_OPSET} and {MOBILE_IR} of older mobile builds; {remedy}"
        )


def to_ort(graph: bytes) -> bytes:
    """Convert an ONNX file to ORT format with ONNX Runtime itself.

    Nodes are fused (level "extended") but not rewritten for the layout that suits this machine's processor, which the
    level "all" of ONNX Runtime's own script does.

    Raises:
        ExportError: if ONNX Runtime cannot.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.save_model_format", "ORT")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "graph.ort"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's exceptions have no common base but Exception
            raise ExportError(f"ONNX Runtime does not convert the graph to ORT format: {problem}") from problem
        return path.read_bytes()


def _check_golden(
    where: str, graphs: Mapping[str, bytes], golden: Golden, tolerance: Mapping[str, Tolerance], bundle: Bundle
) -> None:
    for role, feed, name, expected in (
        ("encoder", golden.x, "z", golden.z),
        ("decoder", golden.z, "x_hat", golden.x_hat),
        ("scorer", golden.x, "score", golden.score),
    ):
        actual = run_graph(graphs[role], feed, batch=bundle.manifest.batch)
        allowed = tolerance[name].atol + tolerance[name].rtol * np.abs(expected)
        if not np.all(np.abs(actual.astype(np.float64) - expected) <= allowed):
            raise ExportError(f"{where}: the {role} in ORT format does not give the golden {name}; use the .onnx file")


def _configuration(converted: Mapping[str, bytes], *, types: bool) -> bytes:
    """Return the operators that the graphs need as ONNX Runtime's build script wants to read them."""
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        from onnxruntime.tools.ort_format_model import create_config_from_models

        paths = []
        for index, data in enumerate(converted.values()):
            paths.append(Path(scratch) / f"{index}.ort")
            paths[-1].write_bytes(data)
        made = Path(scratch) / "made.config"
        create_config_from_models(paths, made, types)
        lines = [line for line in made.read_text("utf-8").splitlines() if not line.startswith("#")]
    head = [f"# Operators of {', '.join(converted)}"]
    if not types:
        size = estimate_size(read_operators("\n".join(lines)))
        total = f"{size.total / 1e6:.1f} MB"
        head.append(f"# Estimated size of a reduced build: {total} (how, and per operator: README.md)")
    return "\n".join([*head, *lines, ""]).encode()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's tool from setting up logging for the whole process, and from files that it leaves open."""
    held = logging.NullHandler()
    logging.root.addHandler(held)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        logging.root.removeHandler(held)


def read_operators(configuration: str) -> dict[str, tuple[str, ...]]:
    """Return the operators of a configuration without types, by "domain;opset"."""
    rows = [line.rpartition(";") for line in configuration.splitlines() if line and not line.startswith("#")]
    return {domain: tuple(names.split(",")) for domain, _, names in rows}


def _golden_json(bundle: Bundle) -> str:
    """Return one batch of golden rows, so that an app can check on the device that its scores are right."""
    batch = bundle.manifest.batch or 1
    golden, tolerance = bundle.golden(), bundle.entry("fp32").tolerance["score"]
    rows = np.resize(np.arange(len(golden.score)), batch)
    numbers = {
        "x": [float(f"{value:.9g}") for value in golden.x[rows].ravel().tolist()],
        "score": [float(f"{value:.9g}") for value in golden.score[rows].tolist()],
        "rtol": tolerance.rtol,
        "atol": tolerance.atol,
    }
    return json.dumps(numbers) + "\n"
