"""From a prepared float core to a core of integer layers.

Activations are uint8 with one scale and zero point per value. Weights are int8, symmetric, and use 129 of the 256
levels, -64 to 64: without VNNI instructions ONNX Runtime's kernels on x86 add products of two adjacent pairs in 16 bits
that saturate (vpmaddubsw), and 2 · 255 · 64 is the most that fits. So the integers are the same on every machine.
Kernels for unsigned weights do not saturate either, but are no faster than float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from edgeae.export.graph import constants_of
from edgeae.export.int8.draft import Array, Draft, attributes_of, is_layer, settled_at
from edgeae.export.int8.ranges import Quantisation

__all__ = ["MAX_PRODUCTS", "WEIGHT_LEVELS", "integer_layers", "needed_ranges", "to_integers"]

WEIGHT_LEVELS = 64
# a bias may take this many steps of its layer's sums: 2^24 of 2^31, the products take the rest
_BIAS_STEPS = 2.0**24
MAX_PRODUCTS = int((2**31 - _BIAS_STEPS) / (255 * WEIGHT_LEVELS))


def _is_integer(node: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    """Whether a node is a layer whose sums fit 32 bits, whatever its input is."""
    if not is_layer(node):
        return False
    weight = constants[node.input[1]]
    return bool(weight.size // weight.shape[1 if node.op_type == "Gemm" else 0] <= MAX_PRODUCTS)


def integer_layers(core: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a prepared core that `to_integers` writes as integer layers."""
    constants = constants_of(core)
    return [node for node in core.node if _is_integer(node, constants)]


def needed_ranges(core: onnx.GraphProto) -> list[str]:
    """Return the values of a prepared core whose ranges `to_integers` needs."""
    settled = settled_at(core)
    names = [name for node in integer_layers(core) for name in (node.input[0], settled[node.output[0]])]
    return list(dict.fromkeys(names))


def to_integers(core: onnx.GraphProto, ranges: Mapping[str, Quantisation], *, per_channel: bool) -> onnx.GraphProto:
    """Write every layer of a prepared core as quantise, integer layer, float; the rest stays as it is.

    Convolutions get one weight scale per channel, which costs ONNX Runtime nothing; dense layers do if `per_channel`.
    What is needless of that (a value that becomes float and is quantised again) goes when the graph is whole: see
    `edgeae.export.int8.fuse`.
    """
    draft, settled = Draft(core), settled_at(core)
    quantised: dict[str, str] = {}
    for node in core.node:
        if not _is_integer(node, draft.constants):
            draft.nodes.append(node)
            continue
        source, output = node.input[0], node.output[0]
        own = _constants(draft, source, ranges[source])
        if source not in quantised:
            quantised[source] = draft.add("QuantizeLinear", [source, *own], f"{source}.integers")
        weight, bias = draft.constants[node.input[1]], draft.constants[node.input[2]]
        parts = _weights(draft, output, weight, bias, ranges[source], node.op_type, per_channel)
        if node.op_type == "Gemm":
            draft.add("QGemm", [quantised[source], *own, *parts], output, domain="com.microsoft")
            continue
        target = _constants(draft, settled[output], ranges[settled[output]])
        inputs = [quantised[source], *own, *parts[:3], *target, parts[3]]
        value = draft.add("QLinearConv", inputs, f"{output}.integers", **attributes_of(node))
        draft.add("DequantizeLinear", [value, *target], output)
    return draft.core()


def _constants(draft: Draft, name: str, levels: Quantisation) -> list[str]:
    return [draft.constant(levels.scale, f"{name}.scale"), draft.constant(levels.zero, f"{name}.zero")]


def _weights(
    draft: Draft, name: str, weight: Array, bias: Array, source: Quantisation, op: str, per_channel: bool
) -> list[str]:
    """Add a layer's integer weights, scale, zero point and bias."""
    outputs = 1 if op == "Gemm" else 0
    flat = np.moveaxis(weight, outputs, 0).reshape(weight.shape[outputs], -1).astype(np.float64)
    scale = np.abs(flat).max(axis=1) / WEIGHT_LEVELS
    scale = np.maximum(scale, np.abs(bias) / (float(source.scale) * _BIAS_STEPS))
    one_each = per_channel or op == "Conv"
    if not one_each:
        scale = scale.max(keepdims=True)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    along = [1] * weight.ndim
    along[outputs] = -1
    integers = np.clip(np.rint(weight / scale.reshape(along)), -WEIGHT_LEVELS, WEIGHT_LEVELS).astype(np.int8)
    steps = np.rint(bias / (float(source.scale) * scale.astype(np.float64))).astype(np.int32)
    size = scale if one_each else scale.reshape(())
    return [
        draft.constant(integers, f"{name}.w"),
        draft.constant(size, f"{name}.w_scale"),
        draft.constant(np.zeros(size.shape, np.int8), f"{name}.w_zero"),
        draft.constant(steps, f"{name}.b"),
    ]
