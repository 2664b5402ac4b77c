"""What values pass through a core on calibration rows, and the range of them that 8 bits shall cover."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from edgeae.export.graph import ir_version_for
from edgeae.export.int8.draft import Array

__all__ = ["FLAT", "RANGES", "Observed", "Quantisation", "RangeName", "observe", "quantisation"]

RangeName = Literal["minmax", "99.99 %", "99.9 %", "mse"]
RANGES: tuple[RangeName, ...] = get_args(RangeName)

# Beyond these an activation stays within 1/1000 of its limits; a network may go there by the hundreds.
FLAT = {"Sigmoid": 8.0, "Tanh": 4.0}
LEVELS = 255
# share of the values that is left out at each end
_TAILS = {"99.99 %": 1e-4, "99.9 %": 1e-3}
_SAMPLE = 2**18
_CHUNK = 64
# shares of the whole range that "mse" tries at each end
_SHRINK = np.linspace(1.0, 0.2, 33)


@dataclass(frozen=True)
class Observed:
    """One value of a core on the calibration rows.

    Attributes:
        values: A sample of its numbers, sorted, with the smallest and the largest among them, within `FLAT`.
        channels: The largest magnitude along axis 1, [channels].
    """

    values: Array
    channels: Array


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (integer - zero), the integers from 0 to 255."""

    scale: np.float32
    zero: np.uint8


def observe(
    core: onnx.GraphProto, opset: int, rows: Array, names: Sequence[str], *, sigmoid: bool = False
) -> tuple[dict[str, Observed], Array]:
    """Run a core over `rows` of its input and look at the values in `names`, at about 2¹⁸ numbers of each.

    Where nothing but a sigmoid or tanh reads a value, it counts as no larger than `FLAT`.

    Args:
        core: Which.
        opset: Its opset.
        rows: float32 [n, *row].
        names: Of its values.
        sigmoid: Whether nothing but a sigmoid will read its first output.

    Returns:
        What was seen by name, and the core's first output for all rows.
    """
    session, source = _session(core, opset, names), core.input[0].name
    wanted = [output.name for output in session.get_outputs()]
    samples: dict[str, list[Array]] = {name: [] for name in names}
    channels: dict[str, Array] = {}
    results = []
    for start in range(0, len(rows), _CHUNK):
        part = np.ascontiguousarray(rows[start : start + _CHUNK], np.float32)
        values = {source: part, **dict(zip(wanted, session.run(wanted, {source: part}), strict=True))}
        results.append(values[core.output[0].name])
        for name in names:
            value = values[name]
            largest = np.abs(np.moveaxis(value, 1, -1)).reshape(-1, value.shape[1]).max(axis=0)
            channels[name] = np.maximum(channels.get(name, largest), largest)
            step = max(1, value.size * len(rows) // len(part) // _SAMPLE)  # of whole rows: units differ
            samples[name] += [value[::step].ravel(), np.asarray([value.min(), value.max()])]
    seen = {}
    for name in names:
        flat = _flat_beyond(core, name, sigmoid=sigmoid)
        seen[name] = Observed(np.sort(np.clip(np.concatenate(samples[name]), -flat, flat)), channels[name])
    return seen, np.concatenate(results)


def _flat_beyond(core: onnx.GraphProto, name: str, *, sigmoid: bool) -> float:
    readers = {node.op_type for node in core.node if name in node.input}
    if any(name == output.name for output in core.output):
        readers.add("Sigmoid" if sigmoid and name == core.output[0].name else "the user")
    return max((FLAT.get(reader, np.inf) for reader in readers), default=np.inf)


def _session(core: onnx.GraphProto, opset: int, names: Sequence[str]) -> ort.InferenceSession:
    """Load a core whose inner values `names` are outputs too."""
    copy = onnx.GraphProto()
    copy.CopyFrom(core)
    there = {value.name for value in (*core.input, *core.output)}
    copy.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    model = helper.make_model(copy, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version_for(opset))
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def quantisation(observed: Observed, method: RangeName) -> Quantisation:
    """Choose the range of a value that its 256 levels cover; zero is always one of them.

    - "minmax": all that was seen.
    - "99.99 %", "99.9 %": all but 1 in 10,000 or 1,000 at each end.
    - "mse": the range with the least mean squared error over what was seen, of 33 for each end.
    """
    values = observed.values
    low, high = min(float(values[0]), 0.0), max(float(values[-1]), 0.0)
    if method in _TAILS:
        ends = np.quantile(values, (_TAILS[method], 1 - _TAILS[method]))
        low, high = min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)
    elif method == "mse":
        some = values[:: max(1, len(values) // 2**14)]
        for _ in range(2):  # one end after the other, twice
            low = min((low * share for share in _SHRINK), key=lambda end: _error(some, end, high))
            high = min((high * share for share in _SHRINK), key=lambda end: _error(some, low, end))
    return _levels(low, high)


def _levels(low: float, high: float) -> Quantisation:
    if high - low < float(np.finfo(np.float32).tiny) * LEVELS:
        return Quantisation(np.float32(1), np.uint8(0))
    scale = np.float32((high - low) / LEVELS)
    return Quantisation(scale, np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS)))


def _error(values: Array, low: float, high: float) -> float:
    levels = _levels(low, high)
    zero = float(levels.zero)
    integers = np.clip(np.rint(values / levels.scale) + zero, 0, LEVELS)
    return float(np.mean(np.square(values - levels.scale * (integers - zero), dtype=np.float64)))
