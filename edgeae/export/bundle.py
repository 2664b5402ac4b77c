"""`export_bundle`: from a run, or any pair of PyTorch modules, to a bundle."""

from __future__ import annotations

import datetime
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

import edgeae
from edgeae.bundle import Bundle, Manifest
from edgeae.bundle.atomic import check_new
from edgeae.bundle.bundle import GRAPHS, describe_file, pack_arrays
from edgeae.bundle.guard import check_graph
from edgeae.bundle.manifest import (
    FORMAT_VERSION,
    PRECISIONS,
    Dtype,
    File,
    Input,
    Layout,
    Normalisation,
    NormalisationKind,
    PrecisionEntry,
    PrecisionName,
    Score,
    Threshold,
)
from edgeae.data import load_data
from edgeae.errors import BundleError, ExportError, InputError
from edgeae.evaluation import quantile_threshold
from edgeae.evaluation.baselines import say
from edgeae.export.assemble import Cores, Plan, assemble, graph_metadata
from edgeae.export.golden import golden_file, random_rows
from edgeae.export.graph import ir_version_for
from edgeae.export.int8.calibrate import integer_cores
from edgeae.export.parity import check_parity, run_graph
from edgeae.export.quality import compare_graphs, measure_quality, why_not
from edgeae.export.score_fit import ScoreChoice, choose_score, fit_score, own_rows
from edgeae.export.scores import ScoreSpec
from edgeae.export.source import Arithmetic, Source, load_source
from edgeae.export.target import Target, prepare, write_beside
from edgeae.runtime.calibrated import score_table, table_name
from edgeae.runtime.drift import input_histograms

__all__ = ["TOLERANCES", "bundle_source", "check_allowed", "export_bundle"]

_log = logging.getLogger("edgeae")

# how far graphs may be from the network, by what that computes in
TOLERANCES: Mapping[Arithmetic, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 5e-2}
_GOLDEN: Mapping[Arithmetic, PrecisionName | None] = {"float32": None, "float16": "fp16", "int8": "int8"}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Exported:
    graphs: dict[str, bytes]
    golden: bytes
    entry: PrecisionEntry
    scores: Array
    cores: Cores


def export_bundle(
    source: object,
    path: str | os.PathLike[str],
    *,
    example: object | None = None,
    calibrate: object | None = None,
    score: ScoreChoice = "auto",
    fpr: float = 0.01,
    threshold: float | None = None,
    precision: Sequence[str] = ("fp32",),
    opset: int = 18,
    batch: int | None = None,
    input_dtype: Dtype = "float32",
    golden_from: object | None = None,
    name: str | None = None,
    normalisation: Normalisation | NormalisationKind | None = None,
    output_activation: str = "linear",
    layout: Layout | None = None,
    feature_names: Sequence[str] | None = None,
    label_column: str | None = None,
    target: Target = "server",
    onnxruntime_web: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Bundle:
    """Export encoder, decoder and a fused scorer as ONNX graphs, check them against PyTorch, write a bundle.

    Args:
        source: A run directory, a `Run`, or a pair (encoder, decoder) of `torch.nn.Module`. The encoder of a pair
            takes float32 rows [batch, *row] and returns a latent or (mean, log variance); the decoder takes the latent.
        path: Directory to write, or a file name that ends in ".zip".
        example: For a pair: a few rows [n, *row] in the user's units.
        calibrate: Normal rows (a path, a data set name, or [n, *row]) from which threshold, spreads and int8 ranges
            are taken instead of a run's own rows. Rows labelled 1 are used for the AUROC only. The scores mahalanobis
            and prototype take every other row for themselves, so that the threshold comes from rows they do not know.
        score: "mse", "mae", "bce", "zscore", "mahalanobis", "prototype" or "elbo"; see `edgeae.export.scores`. "auto"
            is "prototype" for vectors of which there are rows enough, else "mse".
        fpr: The share of normal rows that may exceed the threshold.
        threshold: A fixed threshold instead.
        precision: "fp32", and "fp16" or "int8" if asked for; each gets a threshold of its own. One that changes the
            AUROC, or without labels the order of the scores, by more than a little is left out with a warning.
        opset: ONNX operator set, 18 to 23.
        batch: A fixed batch size; None leaves it symbolic.
        input_dtype: "uint8" lets graphs for whole-number images take bytes.
        golden_from: Real rows to keep as golden rows; they become part of the bundle.
        name: The bundle's name; by default the last part of `path`.
        normalisation: For a pair: what is done to rows before the encoder, a kind to fit, or the constants.
        output_activation: For a pair: "sigmoid" if the decoder returns logits.
        layout: For a pair: what the axes of a row mean where it is not plain.
        feature_names: For a pair: names of the values of a vector.
        label_column: Where the labels of `calibrate` are; by default where those of the training data were.
        target: "mobile" fixes the batch (at 1) and writes ORT-format files for phones to the folder PATH-mobile, see
            `edgeae.export.mobile`; "web" writes a page for browsers to PATH.html, see `edgeae.export.web`.
        onnxruntime_web: For "web": folder of the npm package onnxruntime-web, to put it into the page.
        force: Replace what stands at `path`.

    Returns:
        The written bundle, read back.

    Raises:
        InputError: for an argument that does not fit.
        ExportError: if PyTorch cannot export the modules or ONNX Runtime does not agree with PyTorch, or if the one
            precision asked for costs too much accuracy; nothing is left behind.

    Example:
        >>> bundle = export_bundle("run", "bundle", precision=("fp32", "int8"))  # doctest: +SKIP
        >>> bundle.manifest.precisions["fp32"].threshold.value  # doctest: +SKIP
        0.0123
    """
    path = Path(path)
    check_new(path, force=force, what="the output", holds=None if path.suffix == ".zip" else "manifest.json")
    batch = prepare(target, path, opset=opset, batch=batch, onnxruntime_web=onnxruntime_web, force=force)
    _checked_precisions(precision)
    ir_version_for(opset)
    made = load_source(
        source,
        example,
        calibrate,
        normalisation=normalisation,
        output_activation=output_activation,
        layout=layout,
        feature_names=tuple(feature_names) if feature_names is not None else None,
        label_column=label_column,
    )
    bundle = bundle_source(
        made,
        path,
        score=score,
        fpr=fpr,
        threshold=threshold,
        precision=precision,
        opset=opset,
        batch=batch,
        input_dtype=input_dtype,
        golden_from=golden_from,
        name=name,
        force=force,
    )
    write_beside(target, bundle, onnxruntime_web=onnxruntime_web, force=force)
    return bundle


def bundle_source(
    made: Source,
    path: Path,
    *,
    score: ScoreChoice,
    fpr: float,
    threshold: float | None,
    precision: Sequence[str],
    opset: int,
    batch: int | None,
    input_dtype: Dtype,
    golden_from: object | None,
    name: str | None,
    force: bool,
    trust: bool = False,
) -> Bundle:
    """Write the bundle of a source; the arguments are those of `export_bundle`.

    Args:
        made: The network and its rows.
        path: A path at which nothing stands, or `force`.
        trust: Also take operators that a bundle is loaded with on request only.
    """
    precisions = _checked_precisions(precision)
    if batch is not None and batch < 1:
        raise InputError(f"batch: {batch} is not a positive number")
    if input_dtype == "uint8" and made.dtype != "uint8":
        raise InputError(
            "input_dtype: uint8 graphs are for images in whole numbers 0..255; this data is not of that kind"
        )
    kind_of_score = choose_score(score, made)
    made = own_rows(kind_of_score, made)
    normal = made.normal.astype(input_dtype) if input_dtype == "uint8" else made.normal.astype(np.float32)
    plan = Plan(
        input=Input(
            shape=made.row_shape,
            dtype=input_dtype,
            layout=made.layout,
            feature_names=made.feature_names,
            minimum=made.minimum,
            maximum=made.maximum,
            series=made.series,
        ),
        normalisation=made.normalisation,
        latent_dim=made.network.latent_dim,
        sigmoid=made.network.sigmoid,
        score=ScoreSpec(kind_of_score),
        batch=batch,
        opset=opset,
        trust=trust,
    )
    plan = replace(plan, score=fit_score(kind_of_score, made, plan))
    own_golden = None if golden_from is None else _golden_rows(golden_from, plan.input)
    exported: dict[str, _Exported] = {}
    refused: dict[str, str] = {}
    for kind in precisions:
        _log.info("exporting %s at %s", made.description, kind)
        done = _export_precision(kind, made, plan, normal, fpr, threshold, own_golden, exported.get("fp32"))
        if isinstance(done, _Exported):
            exported[kind] = done
            continue
        refused[kind] = done
    if not exported.keys() & set(_listed(precision)):
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in refused.items())
        raise ExportError(f"{reasons}; nothing is written; fp32 can always be had (--precision fp32)")
    for kind, reason in refused.items():
        _log.warning("%s is not kept: %s", kind, reason)
    say(compare_graphs(made, plan, exported["fp32"].graphs))
    files, statistics = _files(exported, plan, made)
    manifest = Manifest(
        format="edgeae-bundle",
        format_version=FORMAT_VERSION,
        name=name or path.stem,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        producer={
            "edgeae": edgeae.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        variant=made.variant,
        description=made.description,
        parameters=made.network.parameters,
        latent_dim=made.network.latent_dim,
        input=plan.input,
        normalisation=made.normalisation,
        score=Score(kind=kind_of_score, decoder_variance=plan.score.decoder_variance),
        batch=batch,
        opset=opset,
        ir_version=ir_version_for(opset),
        precisions={kind: done.entry for kind, done in exported.items()},
        generative=made.generative,
        statistics=statistics,
        training=made.provenance,
    )
    return Bundle.write(path, manifest, files, force=force)


def _listed(precision: Sequence[str]) -> list[str]:
    return [precision] if isinstance(precision, str) else list(precision)


def _checked_precisions(precision: Sequence[str]) -> list[str]:
    wanted = _listed(precision)
    for kind in wanted:
        if kind not in PRECISIONS:
            raise InputError(f"precision: {kind!r} is not one of {', '.join(PRECISIONS)}")
    return ["fp32", *(kind for kind in dict.fromkeys(wanted) if kind != "fp32")]  # fp32 is what others are held against


def _export_precision(
    kind: str,
    source: Source,
    plan: Plan,
    normal: Array,
    fpr: float,
    fixed: float | None,
    own_golden: Array | None,
    fp32: _Exported | None,
) -> _Exported | str:
    """Export one precision, or say why it is not worth keeping."""
    cores = _cores(kind, source, plan, normal, fixed, fp32)
    if isinstance(cores, str):
        return cores
    random = random_rows(plan.input, source.normalisation, 256, seed=1)

    def build(threshold: float) -> dict[str, bytes]:
        graphs = {}
        for role in GRAPHS:
            metadata = graph_metadata(role, plan, variant=source.variant, precision=kind, threshold=threshold)
            graphs[role] = assemble(role, cores, plan, metadata).SerializeToString(deterministic=True)
            check_allowed(role, graphs[role], plan)
        return graphs

    draft = build(0.0)
    strict = kind == "fp32"
    parity = check_parity(
        source.network, plan, draft, random, normal, strict=strict, tolerance=TOLERANCES[source.arithmetic]
    )
    if parity.near_ties:
        _log.info(
            "%s: %d of %d rows set aside from the comparison: a k-sparse unit is within rounding of its neighbour",
            *(kind, parity.near_ties, parity.rows),
        )
    scores = run_graph(draft["scorer"], normal, batch=plan.batch)
    threshold = _threshold(scores, fpr, fixed)
    others = None if fp32 is None else (fp32.scores, fp32.entry.threshold.value)
    quality = measure_quality(source, plan, draft, parity, scores, threshold.value, others)
    reason = None if fp32 is None else why_not(quality, fp32.entry.quality)
    if reason is not None:
        return reason
    graphs = build(threshold.value)
    golden, tolerance = golden_file(
        graphs,
        plan.input,
        source.normalisation,
        precision=_GOLDEN[source.arithmetic] or kind,
        batch=plan.batch,
        rows=own_golden,
    )
    folder = "" if kind == "fp32" else f"{kind}/"
    files = {role: describe_file(f"{folder}{role}.onnx", graphs[role]) for role in GRAPHS}
    entry = PrecisionEntry(
        **files,
        golden=describe_file(f"{folder}golden.npz", golden),
        threshold=threshold,
        tolerance=tolerance,
        quality=quality,
    )
    return _Exported(graphs, golden, entry, scores, cores)


def _cores(
    kind: str, source: Source, plan: Plan, normal: Array, fixed: float | None, fp32: _Exported | None
) -> Cores | str:
    """Make the cores of one precision, or say why there are none."""
    if kind != "int8" or fp32 is None:
        half = kind == "fp16"
        encoder, decoder = (source.network.core(role, opset=plan.opset, half=half) for role in ("encoder", "decoder"))
        return Cores(encoder, decoder, half=half)
    threshold = fp32.entry.threshold.value
    return integer_cores(
        fp32.cores, source, plan, normal, scores=fp32.scores, threshold=threshold, fixed=fixed is not None
    )


def check_allowed(role: str, graph: bytes, plan: Plan) -> None:
    """Hold a graph against the guard, so that what is exported can be loaded.

    Raises:
        ExportError: naming the operator and what is wrong with it.
    """
    row, latent = plan.input.shape, (plan.latent_dim,)
    tensors = {"encoder": (row, "z", latent), "decoder": (latent, "x_hat", row), "scorer": (row, "score", ())}
    shape, name, result = tensors[role]
    source = ("z", "float32", shape) if role == "decoder" else ("x", plan.input.dtype, shape)
    try:
        check_graph(
            graph,
            where=f"the {role}",
            source=source,
            target=(name, "float32", result),
            batch=plan.batch,
            trust=plan.trust,
        )
    except BundleError as problem:
        raise ExportError(f"{problem}; export/FORMAT.md lists what graphs may hold") from None


def _threshold(scores: Array, fpr: float, fixed: float | None) -> Threshold:
    if fixed is not None:
        if not math.isfinite(fixed):
            raise InputError(f"threshold: {fixed} is not a finite number")
        return Threshold(value=float(np.float32(fixed)), method="fixed", rows=len(scores))
    if not len(scores):
        raise InputError(
            "threshold: there are no normal rows to choose it from; give calibrate=ROWS (--calibrate DATA) "
            "or threshold=X (--threshold X)"
        )
    return quantile_threshold(scores, fpr)


def _golden_rows(rows: object, row: Input) -> Array:
    try:
        data = load_data(rows, layout=row.layout)
    except InputError as problem:
        raise InputError(f"golden_from: {problem}") from None
    if data.row_shape != row.shape:
        raise InputError(f"golden_from: rows of shape {data.row_shape}, the model takes {row.shape}")
    return np.asarray(data.x).astype(row.dtype)


def _input_statistics(made: Source) -> dict[str, Array]:
    """How the values of features or channels are shared out, of which a stream's drift is seen."""
    if made.layout not in ("vector", "TC"):
        return {}
    rows = [part.reshape(-1, made.row_shape[-1]) for part in (made.normal, made.training) if part is not None]
    return input_histograms(np.concatenate(rows))


def _files(exported: Mapping[str, _Exported], plan: Plan, made: Source) -> tuple[dict[str, bytes], File | None]:
    files = {}
    for done in exported.values():
        files.update({getattr(done.entry, role).path: data for role, data in done.graphs.items()})
        files[done.entry.golden.path] = done.golden
    statistics = plan.score.statistics | _input_statistics(made)
    for kind, done in exported.items():
        table = score_table(done.scores)
        if table.size:
            statistics[table_name(kind)] = table
    if not statistics:
        return files, None
    files["statistics.npz"] = pack_arrays(**statistics)
    return files, describe_file("statistics.npz", files["statistics.npz"])
