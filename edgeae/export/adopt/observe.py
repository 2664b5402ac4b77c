"""What shapes the values of a foreign model have: found by running it, in a child process that may crash or hang."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from edgeae.errors import ExportError

__all__ = ["Seen", "observe", "of_rows"]

SECONDS: Final = 120.0
TRIAL: Final = Path(__file__).with_name("trial.py")
_OF_SHAPES: Final = ("Shape", "Size")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Seen:
    """A run at one batch size.

    Attributes:
        batch: How many rows it had.
        shapes: Of every value.
        dtypes: Of every value.
        values: Those that do not depend on what is in the rows, only on their shape.
    """

    batch: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    values: dict[str, Array]


def of_rows(graph: onnx.GraphProto, source: str) -> set[str]:
    """Return the names of the values that depend on what is in the rows, and not on their shape only."""
    found = {source}
    for node in graph.node:
        if node.op_type not in _OF_SHAPES and found.intersection(_read_by(node)):
            found.update(name for name in node.output if name)
    return found


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return what a node reads, also what graphs inside it read of the outer one."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for inner in graph.node:
                names |= _read_by(inner)
            names.update(value.name for value in graph.output)
    return names


def observe(
    model: onnx.ModelProto, row: Sequence[int], dtype: str, batches: Sequence[int], where: str
) -> dict[int, Seen | str]:
    """Run a model of one input at each batch size and look at all of its values.

    Args:
        model: With its weights inline.
        row: Shape of one row.
        dtype: NumPy's name for the type of the input.
        batches: Numbers of rows to try.
        where: What to call the model in messages.

    Returns:
        For each batch size what was seen, or ONNX Runtime's reason why it does not run.

    Raises:
        ExportError: if ONNX Runtime does not load the model, crashes on it or hangs.
    """
    source = model.graph.input[0].name
    dependent = of_rows(model.graph, source)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    # declared shapes may be wrong, and ONNX Runtime would believe some of them
    del exposed.graph.value_info[:]
    del exposed.graph.output[:]
    names = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    declared = exposed.graph.input[0].type.tensor_type
    declared.ClearField("shape")
    for side in ("batch", *row):
        if isinstance(side, str):
            declared.shape.dim.add(dim_param=side)
        else:
            declared.shape.dim.add(dim_value=side)
    order = {
        "input": source,
        "row": list(row),
        "dtype": dtype,
        "scale": {"uint8": 255, "float16": 1, "float32": 1, "float64": 1}.get(dtype, 8),
        "batches": list(batches),
        "kept": [name for name in names if name not in dependent],
    }
    with tempfile.TemporaryDirectory(prefix="edgeae-adopt-") as place:
        folder = Path(place)
        (folder / "model.onnx").write_bytes(exposed.SerializeToString())
        (folder / "order.json").write_text(json.dumps(order))
        _run(folder, where)
        seen = json.loads((folder / "seen.json").read_text())
        if "load" in seen:
            raise ExportError(f"{where}: ONNX Runtime does not load it: {_plain(seen['load'])}")
        made = {batch: _seen(folder, batch, seen[str(batch)]) for batch in batches}
    for batch, each in made.items():
        if isinstance(each, Seen):
            each.shapes[source], each.dtypes[source] = (batch, *row), dtype
    return made


def _run(folder: Path, where: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, str(TRIAL), str(folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"{where}: ONNX Runtime has not run a few rows through it in {SECONDS:g} s; it is refused"
        ) from None
    if done.returncode == 0:
        return
    code = done.returncode
    what = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    raise ExportError(f"{where}: ONNX Runtime crashes on it ({what}); it is refused{': ' + lines[-1] if lines else ''}")


def _plain(reason: str) -> str:
    """Return ONNX Runtime's reason without its codes and the name of our file."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed:\s*", "", reason)


def _seen(folder: Path, batch: int, found: dict[str, Any] | str) -> Seen | str:
    if isinstance(found, str):
        return _plain(found)
    names = json.loads((folder / f"{batch}.json").read_text())
    with np.load(folder / f"{batch}.npz") as arrays:
        values = {name: arrays[f"arr_{index}"] for index, name in enumerate(names)}
    return Seen(
        batch,
        {name: tuple(shape) for name, (_, shape) in found.items()},
        {name: dtype for name, (dtype, _) in found.items()},
        values,
    )
