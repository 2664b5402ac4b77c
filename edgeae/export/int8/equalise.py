"""Cross-layer equalisation: units of a hidden layer are rescaled so that 8 bits fit all of them alike.

relu(s·u) = s·relu(u) for s > 0, so a unit may leave its layer 1/s times as large if the next layer takes it s times as
seriously. s = sqrt(range of the unit / range of its weights in the next layer) gives both the same range.

Source: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction,
https://arxiv.org/abs/1906.04721; measured ranges of activations instead of weights as in SmoothQuant (Xiao et al. 2022,
https://arxiv.org/abs/2211.10438).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from edgeae.export.int8.draft import Array, Draft, attributes_of, is_layer
from edgeae.export.int8.ranges import Observed

__all__ = ["equalise"]

# a unit that is never or hardly ever active tells nothing about its range
_FLOOR = 1e-2


def equalise(core: onnx.GraphProto, observed: Mapping[str, Observed], *, inputs: bool = False) -> onnx.GraphProto:
    """Return a core that computes the same with its hidden units rescaled, where a rectifier is between two layers.

    Args:
        core: In the form of `prepare`.
        observed: What was seen of the inputs of its layers.
        inputs: Rescale the core's input too, by a multiplication, where a dense layer reads it.
    """
    draft = Draft(core)
    for node in core.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        draft.nodes.append(copy)
    makers = {name: node for node in draft.nodes for name in node.output}
    readers = Counter(name for node in draft.nodes for name in node.input)
    readers.update(value.name for value in core.output)
    for layer in list(draft.nodes):
        source = layer.input[0] if layer.input else ""
        units = _unit_axis(layer)
        if units is None or source not in observed:
            continue
        above = makers.get(source)
        if layer.op_type == "Gemm" and inputs and _is_input(core, makers, source):
            _rescale_input(draft, layer, observed[source].channels)
        if above is None or above.op_type != "Relu":
            continue
        before = makers.get(above.input[0])
        if before is None or before.op_type != layer.op_type or _unit_axis(before) is None:
            continue
        if readers[source] == readers[before.output[0]] == 1:
            _rescale(draft, before, layer, units, observed[source].channels)
    return draft.core()


def _is_input(core: onnx.GraphProto, makers: Mapping[str, onnx.NodeProto], value: str) -> bool:
    """Whether a value is the core's input, perhaps in another shape."""
    while value in makers and makers[value].op_type in ("Flatten", "Reshape"):
        value = makers[value].input[0]
    return bool(value == core.input[0].name)


def _rescale_input(draft: Draft, layer: onnx.NodeProto, ranges: Array) -> None:
    weight = draft.constants[layer.input[1]].astype(np.float64)
    factor = _factors(ranges, np.abs(weight).max(axis=1))
    if factor is None:
        return
    name = f"{layer.input[0]}.evened"
    draft.constants[layer.input[1]] = (weight * factor[:, None]).astype(np.float32)
    scaled = helper.make_node(
        "Mul", [layer.input[0], draft.constant((1 / factor).astype(np.float32), f"{name}.factor")], [name], name=name
    )
    draft.nodes.insert(draft.nodes.index(layer), scaled)
    layer.input[0] = name


def _factors(ranges: Array, needed: Array) -> Array | None:
    ranges, needed = (np.maximum(values, _FLOOR * values.max(initial=0.0)) for values in (ranges, needed))
    return np.sqrt(ranges / needed) if np.all(ranges > 0) and np.all(needed > 0) else None


def _unit_axis(layer: onnx.NodeProto) -> int | None:
    """The axis of a layer's weights along which its inputs lie; None for what is no layer of `prepare`'s."""
    if not is_layer(layer):
        return None
    if layer.op_type == "Gemm":
        return 0
    return 1 if attributes_of(layer).get("group", 1) == 1 else None


def _rescale(draft: Draft, before: onnx.NodeProto, layer: onnx.NodeProto, units: int, ranges: Array) -> None:
    weight = draft.constants[layer.input[1]].astype(np.float64)
    needed = np.abs(np.moveaxis(weight, units, 0)).reshape(weight.shape[units], -1).max(axis=1)
    factor = _factors(ranges, needed)
    if factor is None:
        return
    along = [1] * weight.ndim
    along[units] = -1
    draft.constants[layer.input[1]] = (weight * factor.reshape(along)).astype(np.float32)
    own = draft.constants[before.input[1]]
    outputs = [1] * own.ndim
    outputs[1 if before.op_type == "Gemm" else 0] = -1
    draft.constants[before.input[1]] = (own / factor.reshape(outputs)).astype(np.float32)
    draft.constants[before.input[2]] = (draft.constants[before.input[2]] / factor).astype(np.float32)
