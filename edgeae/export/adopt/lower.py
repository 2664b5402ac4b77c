"""Each operator of a foreign model in terms of those that bundles hold: one small function per kind of operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto

from edgeae.bundle.guard.operators import OPERATORS
from edgeae.export.adopt.rewrite import Work, attributes_of

__all__ = ["LOWERED", "lower"]

_FLOATS: Final = (TensorProto.DOUBLE, TensorProto.FLOAT16)
_ACTIVATIONS: Final = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_EIGHT_BITS: Final = {TensorProto.UINT8: np.uint8, TensorProto.INT8: np.int8}


def lower(work: Work, node: onnx.NodeProto) -> None:
    """Add to `work` what computes the same as `node`."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    LOWERED.get((domain, node.op_type), _as_it_is)(work, node)


def _as_it_is(work: Work, node: onnx.NodeProto) -> None:
    _keep(work, node, list(node.input), attributes_of(node))


def _keep(work: Work, node: onnx.NodeProto, inputs: list[str], attributes: Mapping[str, Any]) -> None:
    """Add the node again, without absent inputs and outputs at its end."""
    outputs = list(node.output)
    for names in (inputs, outputs):
        while names and not names[-1]:
            names.pop()
    domain = "" if node.domain == "ai.onnx" or ("", node.op_type) in OPERATORS else node.domain
    work.add(node.op_type, inputs, outputs, domain=domain, **attributes)


def _same(work: Work, node: onnx.NodeProto) -> None:
    work.alias(node.output[0], node.input[0])


def _cast(work: Work, node: onnx.NodeProto) -> None:
    to = attributes_of(node)["to"]
    source = node.input[0]
    float_already = work.dtype(source) in ("float32", "float64", "float16")
    if to in _FLOATS or to == TensorProto.FLOAT:
        if float_already:
            work.alias(node.output[0], source)
        else:
            work.add("Cast", [source], node.output, to=TensorProto.FLOAT)
    elif to in _EIGHT_BITS and work.resolve(source) == work.source:
        # rows of whole numbers, so that rounding is none
        zero = work.constant(np.zeros((), _EIGHT_BITS[to]))
        work.add("QuantizeLinear", [source, work.constant(np.float32(1)), zero], node.output)
    else:
        _as_it_is(work, node)


def _scaler(work: Work, node: onnx.NodeProto) -> None:
    """ai.onnx.ml Scaler, as skl2onnx writes a StandardScaler: (x - offset) * scale."""
    found = attributes_of(node)
    source = node.input[0]
    if work.dtype(source) not in ("float32", "float64"):
        source = work.add("Cast", [source], work.fresh("float"), to=TensorProto.FLOAT)
    if np.any(found.get("offset", [0.0])):
        offset = work.constant(np.array(found["offset"], np.float32))
        source = work.add("Sub", [source, offset], work.fresh("shifted"))
    work.add("Mul", [source, work.constant(np.array(found.get("scale", [1.0]), np.float32))], node.output)


def _split(work: Work, node: onnx.NodeProto) -> None:
    source = node.input[0]
    axis = attributes_of(node).get("axis", 0) % work.rank(source)
    start = 0
    for name in node.output:
        if not name:
            raise work.refuse(node, "an output without a name; give it one")
        end = start + work.shape(name)[axis]
        bounds = [work.constant(np.array([each], np.int64)) for each in (start, end, axis)]
        work.add("Slice", [source, *bounds], name)
        start = end


def _reshape(work: Work, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze, to the shape that they were seen to make."""
    source, output = node.input[0], node.output[0]
    axis, shape = work.batch_axis(output), work.shape(output)
    if axis is None and work.batch_axis(source) == 0 and len(shape) == 2 and shape[-1] == work.shape(source)[-1]:
        work.alias(output, source)  # as tf2onnx does for a layer that works on the last axis
        work.unmerged.add(output)
    elif shape == work.shape(source):
        work.alias(output, source)
    else:
        work.reshape(source, output, shape, axis)


def _expand(work: Work, node: onnx.NodeProto) -> None:
    if work.shape(node.output[0]) == work.shape(node.input[0]):
        work.alias(node.output[0], node.input[0])
        return
    _as_it_is(work, node)


def _resize(work: Work, node: onnx.NodeProto) -> None:
    """Resize without a region of interest, by scales where they say the same as sizes."""
    found = attributes_of(node)
    source, output = node.input[0], node.output[0]
    before, after = work.shape(source), work.shape(output)
    named = [work.resolve(name) for name in (*node.input, "", "", "")][:4]
    by_sizes = bool(named[3]) and not (named[2] and work.constants.get(named[2], np.ones(1)).size)
    axes = found.pop("axes", None)
    scales = np.array([b / a for a, b in zip(before, after, strict=True)], np.float32)
    if not by_sizes and axes is None and named[2] in work.constants:
        scales = work.constants[named[2]]
    exact = all(int(np.float32(a) * s) == b for a, s, b in zip(before, scales, after, strict=True))
    if by_sizes and not (exact and all((b * 4096) % a == 0 for a, b in zip(before, after, strict=True))):
        # a scale that float32 does not hold would move the sampling points
        sizes = work.shape_list(after, work.batch_axis(output))
        work.add("Resize", [source, "", "", sizes], output, **found)
        return
    work.add("Resize", [source, "", work.constant(scales, "scales")], output, **found)


def _window(work: Work, node: onnx.NodeProto) -> None:
    """Conv, ConvTranspose and pools, with their padding written out."""
    found = attributes_of(node)
    source, output = node.input[0], node.output[0]
    sides, made = work.shape(source)[2:], work.shape(output)[2:]
    count = len(sides)
    kernel = list(found.get("kernel_shape") or work.shape(node.input[1])[2:])
    strides = list(found.get("strides", [1] * count))
    dilations = list(found.get("dilations", [1] * count))
    auto = found.pop("auto_pad", b"NOTSET")
    wanted = found.pop("output_shape", None)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose" and (wanted or auto not in (b"NOTSET", b"VALID")):
        extra = found.get("output_padding", [0] * count)
        total = [s * (i - 1) + e + r - o for s, i, e, r, o in zip(strides, sides, extra, reach, made, strict=True)]
        if min(total) < 0:
            raise work.refuse(node, "its output is larger than what it computes")
        low = [t // 2 if auto == b"SAME_UPPER" else t - t // 2 for t in total]
        found["pads"] = [*low, *(t - a for t, a in zip(total, low, strict=True))]
    elif auto in (b"SAME_UPPER", b"SAME_LOWER"):
        total = [max(0, (o - 1) * s + r - i) for o, s, r, i in zip(made, strides, reach, sides, strict=True)]
        low = [t // 2 if auto == b"SAME_UPPER" else t - t // 2 for t in total]
        found["pads"] = [*low, *(t - a for t, a in zip(total, low, strict=True))]
    if found.pop("ceil_mode", 0):
        pads = found.get("pads", [0] * 2 * count)
        floor = [
            (i + pads[a] + pads[a + count] - reach[a]) // strides[a] + 1 for a, i in enumerate(sides)
        ]  # what it would make without
        if tuple(floor) != tuple(made):
            raise work.refuse(node, "ceil_mode=1 reaches beyond its input; export it with ceil_mode=False and padding")
    _keep(work, node, list(node.input), found)


def _reduce(work: Work, node: onnx.NodeProto) -> None:
    """Reductions, with their axes named where none means all."""
    found = attributes_of(node)
    if len(node.input) > 1 or found.get("noop_with_empty_axes"):
        _as_it_is(work, node)
        return
    axes = work.constant(np.arange(work.rank(node.input[0]), dtype=np.int64), "axes")
    _keep(work, node, [node.input[0], axes], found)


def _recurrent(work: Work, node: onnx.NodeProto) -> None:
    """LSTM, GRU and RNN without what only says the default."""
    found = attributes_of(node)
    directions = 2 if found.get("direction") == b"bidirectional" else 1
    activations = [each.decode().lower() for each in found.get("activations", [])]
    usual = [each.lower() for each in _ACTIVATIONS[node.op_type] * directions]
    if activations in ([], usual):
        for name in ("activations", "activation_alpha", "activation_beta"):
            found.pop(name, None)
    else:
        raise work.refuse(node, f"activations {', '.join(activations)}; only the usual ones are supported")
    for name in ("layout", "input_forget"):
        if not found.get(name):
            found.pop(name, None)
    inputs = [work.resolve(name) for name in (*node.input, *[""] * 8)][:8]
    length = work.constants.get(inputs[4], work.per_row.get(inputs[4]))
    if length is not None and np.all(length == work.shape(node.input[0])[0]):
        inputs[4] = ""
    for index in (5, 6):
        state = work.constants.get(inputs[index], work.per_row.get(inputs[index]))
        if state is not None and not np.any(state):
            inputs[index] = ""
    _keep(work, node, inputs, found)


def _dequantised(op: str, values: int) -> Callable[[Work, onnx.NodeProto], None]:
    """Return the rule for a com.microsoft operator on 8-bit values: dequantise, compute, quantise."""

    def rule(work: Work, node: onnx.NodeProto) -> None:
        found = attributes_of(node)
        if found.pop("channels_last", 0):
            raise work.refuse(node, "channels_last=1 is not supported")
        names = [
            work.add("DequantizeLinear", node.input[3 * i : 3 * i + 3], work.fresh("float")) for i in range(values)
        ]
        made = work.add(op, names, work.fresh("float"), **found)
        work.add("QuantizeLinear", [made, *node.input[3 * values : 3 * values + 2]], node.output)

    return rule


def _fused(op: str) -> Callable[[Work, onnx.NodeProto], None]:
    """Return the rule for what ONNX Runtime writes for a layer with its activation."""

    def rule(work: Work, node: onnx.NodeProto) -> None:
        found = attributes_of(node)
        activation = found.pop("activation", b"").decode()
        parameters = list(found.pop("activation_params", []))
        parameters += [found.pop(name) for name in list(found) if name.startswith("activation_")]
        inner = work.fresh("layer") if activation else node.output[0]
        work.add(op, [name for name in node.input if name], inner, **found)
        names = {"LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(activation, ())
        if len(parameters) != len(names):
            raise work.refuse(node, f"{activation} with {len(parameters)} parameters")
        if activation:
            work.add(activation, [inner], node.output, **dict(zip(names, parameters, strict=True)))

    return rule


LOWERED: Final[Mapping[tuple[str, str], Callable[[Work, onnx.NodeProto], None]]] = {
    ("", "Identity"): _same,
    ("", "Dropout"): _same,
    ("", "Cast"): _cast,
    ("", "Split"): _split,
    **{("", name): _reshape for name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    ("", "Expand"): _expand,
    ("", "Resize"): _resize,
    **{("", name): _window for name in ("Conv", "ConvTranspose", "MaxPool", "AveragePool")},
    **{
        ("", f"Reduce{name}"): _reduce
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    **{("", name): _recurrent for name in _ACTIVATIONS},
    ("ai.onnx.ml", "Scaler"): _scaler,
    ("com.microsoft", "FusedConv"): _fused("Conv"),
    ("com.microsoft", "FusedGemm"): _fused("Gemm"),
    ("com.microsoft", "QuantizeLinear"): _as_it_is,
    ("com.microsoft", "DequantizeLinear"): _as_it_is,
    ("com.microsoft", "QLinearAdd"): _dequantised("Add", 2),
    ("com.microsoft", "QLinearMul"): _dequantised("Mul", 2),
    ("com.microsoft", "QLinearSigmoid"): _dequantised("Sigmoid", 1),
    ("com.microsoft", "QLinearLeakyRelu"): _dequantised("LeakyRelu", 1),
    ("com.microsoft", "QLinearGlobalAveragePool"): _dequantised("GlobalAveragePool", 1),
}
