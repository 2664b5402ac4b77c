"""Folding normalisation into the neighbouring layer, where that is exact enough.

ONNX Runtime does not fold (x - shift) / scale into a Gemm, so it is done here, in float64, on the cores. With features
far from zero (|shift| much larger than scale) the folded layer subtracts large numbers from each other: at a ratio of
10³ that costs 4e-4 in the score, at 10⁵ 4e-2. So shifts fold only up to a ratio of 10; pure scaling always does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeae.export.graph import constants_of

__all__ = ["MAX_SHIFT_RATIO", "fold_input", "fold_output", "shift_folds"]

MAX_SHIFT_RATIO = 10.0
_RESHAPING = ("Reshape", "Flatten", "Unsqueeze", "Squeeze")

Array = np.ndarray[Any, Any]


def shift_folds(shift: Array, scale: Array) -> bool:
    """Whether the shift is small enough against the scale for folding to keep the score."""
    return bool(np.all(np.abs(shift) <= MAX_SHIFT_RATIO * scale))


def fold_input(core: onnx.GraphProto, factor: Array, offset: Array, row: tuple[int, ...]) -> onnx.GraphProto | None:
    """Return a core that computes core(x * factor + offset) from x itself, or None where that cannot be folded.

    Args:
        core: A graph whose first layer may be a Gemm, or a Conv when `offset` is zero and `factor` one number (zero
            padding stands for normalised zeros, so a shift would be wrong at the borders).
        factor: Broadcasts against one row.
        offset: Broadcasts against one row.
        row: Shape of one row.
    """
    layer = _only_consumer(core, core.input[0].name)
    while layer is not None and layer.op_type in _RESHAPING:
        layer = _only_consumer(core, layer.output[0])
    weights = constants_of(core)
    if layer is None or len(layer.input) < 2 or layer.input[1] not in weights:
        return None
    weight = weights[layer.input[1]].astype(np.float64)
    uniform = np.size(factor) == 1 and not np.any(offset)
    if layer.op_type == "Conv" and uniform:
        return _with_constants(core, layer, weight * float(np.ravel(factor)[0]), None)
    if layer.op_type != "Gemm" or not _plain_gemm(layer):
        return None
    flat_factor = np.broadcast_to(factor, row).astype(np.float64).ravel()
    flat_offset = np.broadcast_to(offset, row).astype(np.float64).ravel()
    if len(flat_factor) != weight.shape[1]:  # rows of a batched Gemm are not whole rows of data
        return None
    bias = _bias(layer, weights, weight.shape[0])
    return _with_constants(core, layer, weight * flat_factor, bias + weight @ flat_offset)


def fold_output(core: onnx.GraphProto, factor: Array, offset: Array, row: tuple[int, ...]) -> onnx.GraphProto | None:
    """Return a core that computes core(z) * factor + offset, or None where its last layer is not a plain Gemm."""
    makers = {name: node for node in core.node for name in node.output}
    layer = makers.get(core.output[0].name)
    while layer is not None and layer.op_type in _RESHAPING:
        layer = makers.get(layer.input[0])
    weights = constants_of(core)
    if layer is None or layer.op_type != "Gemm" or not _plain_gemm(layer) or layer.input[1] not in weights:
        return None
    if _only_consumer(core, layer.output[0]) is None and layer.output[0] != core.output[0].name:
        return None
    weight = weights[layer.input[1]].astype(np.float64)
    flat_factor = np.broadcast_to(factor, row).astype(np.float64).ravel()
    flat_offset = np.broadcast_to(offset, row).astype(np.float64).ravel()
    if len(flat_factor) != weight.shape[0]:
        return None
    bias = _bias(layer, weights, weight.shape[0])
    return _with_constants(core, layer, weight * flat_factor[:, None], bias * flat_factor + flat_offset)


def _only_consumer(core: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    consumers = [node for node in core.node if name in node.input]
    is_output = any(output.name == name for output in core.output)
    return consumers[0] if len(consumers) == 1 and not is_output and consumers[0].input[0] == name else None


def _plain_gemm(node: onnx.NodeProto) -> bool:
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return bool(
        attributes.get("transB", 0) == 1
        and attributes.get("transA", 0) == 0
        and attributes.get("alpha", 1.0) == 1.0
        and attributes.get("beta", 1.0) == 1.0
    )


def _bias(layer: onnx.NodeProto, weights: dict[str, Array], width: int) -> Array:
    if len(layer.input) < 3 or not layer.input[2]:
        return np.zeros(width)
    return weights[layer.input[2]].astype(np.float64)


def _with_constants(core: onnx.GraphProto, layer: onnx.NodeProto, weight: Array, bias: Array | None) -> onnx.GraphProto:
    """Return a copy of `core` whose `layer` has these constants, under names of their own: others may share the old."""
    copy = onnx.GraphProto()
    copy.CopyFrom(core)
    (target,) = (node for node in copy.node if node.output[0] == layer.output[0])
    dtype = constants_of(core)[layer.input[1]].dtype
    replaced: Sequence[tuple[int, Array]] = [(1, weight)] if bias is None else [(1, weight), (2, bias)]
    for index, value in replaced:
        name = f"{layer.output[0]}.folded_{'weight' if index == 1 else 'bias'}"
        copy.initializer.append(numpy_helper.from_array(value.astype(dtype), name))
        while len(target.input) <= index:
            target.input.append("")
        target.input[index] = name
    return copy
