"""A float core's layers in the forms that have integer kernels, computing the same.

- Gemm and MatMul with constant weights become Gemm with weights [inputs, outputs] and a bias.
- A transposed convolution becomes a convolution and a move of its channels to positions. ONNX Runtime never quantises
  ConvTranspose. With stride s, output position s·q + r takes the inputs i = q + d through the weights k = r + p - s·d,
  so each of the s phases r is a convolution with every s-th weight, and its result is every s-th value: the sub-pixel
  convolution of Shi et al. 2016 (https://arxiv.org/abs/1609.05158), here exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx

from edgeae.export.int8.draft import Array, Draft, attributes_of, shapes_of

__all__ = ["prepare"]


def prepare(core: onnx.GraphProto, opset: int, *, floating: Collection[str] = ()) -> onnx.GraphProto:
    """Return a core that computes the same in the forms above; layers that have none stay as they are.

    Args:
        core: A float core.
        opset: Its opset.
        floating: Outputs of layers that shall stay as they are, too.
    """
    shapes = shapes_of(core, opset)
    draft = Draft(core)
    merged: set[str] = set()  # outputs of Add nodes that became a bias
    for node in core.node:
        if node.output[0] in merged:
            continue
        if node.output[0] in floating:
            draft.nodes.append(node)
            continue
        if node.op_type == "Gemm" and _add_gemm(draft, node, shapes):
            continue
        if node.op_type == "MatMul":
            following = _bias_behind(core, node, draft)
            if _add_matmul(draft, node, following, shapes):
                merged.update([] if following is None else [following.output[0]])
                continue
        if node.op_type == "Conv" and _add_conv(draft, node):
            continue
        if node.op_type == "ConvTranspose" and _add_transposed(draft, node, shapes):
            continue
        draft.nodes.append(node)
    return draft.core()


def _add_gemm(draft: Draft, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]]) -> bool:
    attributes = attributes_of(node)
    weight = draft.constants.get(node.input[1])
    named = len(node.input) > 2 and node.input[2]
    bias = draft.constants.get(node.input[2]) if named else np.zeros((), np.float32)
    if weight is None or bias is None or attributes.get("transA", 0) or len(shapes[node.input[0]]) != 2:
        return False
    weight = attributes.get("alpha", 1.0) * (weight.T if attributes.get("transB", 0) else weight)
    bias = attributes.get("beta", 1.0) * bias
    if bias.size not in (1, weight.shape[1]):
        return False
    _add_dense(draft, node.input[0], weight, bias.ravel(), node.output[0])
    return True


def _bias_behind(core: onnx.GraphProto, node: onnx.NodeProto, draft: Draft) -> onnx.NodeProto | None:
    """Return the Add of a constant that is all that follows `node`."""
    following = [other for other in core.node if node.output[0] in other.input]
    if len(following) != 1 or following[0].op_type != "Add" or node.output[0] in {o.name for o in core.output}:
        return None
    return following[0] if any(name in draft.constants for name in following[0].input) else None


def _add_matmul(
    draft: Draft, node: onnx.NodeProto, add: onnx.NodeProto | None, shapes: dict[str, tuple[int | None, ...]]
) -> bool:
    weight = draft.constants.get(node.input[1])
    if weight is None or weight.ndim != 2 or len(shapes[node.input[0]]) != 2:
        return False
    if add is None:
        _add_dense(draft, node.input[0], weight, np.zeros(1), node.output[0])
        return True
    (bias,) = (draft.constants[name] for name in add.input if name in draft.constants)
    if bias.size not in (1, weight.shape[1]):
        return False
    _add_dense(draft, node.input[0], weight, bias.ravel(), add.output[0])
    return True


def _add_dense(draft: Draft, source: str, weight: Array, bias: Array, output: str) -> None:
    _add_layer(draft, "Gemm", source, weight, np.broadcast_to(bias, (weight.shape[1],)), output)


def _add_layer(draft: Draft, op: str, source: str, weight: Array, bias: Array, output: str, **attributes: Any) -> None:
    """Add a layer whose constants are named after its output."""
    draft.constants[f"{output}.weight"] = np.ascontiguousarray(weight, np.float32)
    draft.constants[f"{output}.bias"] = np.ascontiguousarray(bias, np.float32)
    draft.add(op, [source, f"{output}.weight", f"{output}.bias"], output, **attributes)


def _add_conv(draft: Draft, node: onnx.NodeProto) -> bool:
    weight = draft.constants.get(node.input[1])
    named = len(node.input) > 2 and node.input[2]
    bias = draft.constants.get(node.input[2]) if named else None
    attributes = attributes_of(node)
    if weight is None or (named and bias is None) or attributes.pop("auto_pad", b"NOTSET") != b"NOTSET":
        return False
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    _add_layer(draft, "Conv", node.input[0], weight, bias, node.output[0], **attributes)
    return True


def _add_transposed(draft: Draft, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]]) -> bool:
    attributes = attributes_of(node)
    weight = draft.constants.get(node.input[1])  # [inputs, outputs, *kernel]
    source, target = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
    strides = attributes.get("strides", [1] * len(source))
    plain = (
        attributes.get("group", 1) == 1
        and set(attributes.get("dilations", [1])) == {1}
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and "output_shape" not in attributes
        and len(set(strides)) == 1
    )
    if weight is None or not plain or len(source) not in (1, 2) or None in source or None in target:
        return False
    stride, spatial = strides[0], len(source)
    kernel = weight.shape[2:]
    begins = attributes.get("pads", [0] * 2 * spatial)[:spatial]
    low = [math.ceil((begin - side + 1) / stride) for begin, side in zip(begins, kernel, strict=True)]
    high = [(stride - 1 + begin) // stride for begin in begins]
    blocks = [-(-int(side or 0) // stride) for side in target]
    ends = [block - int(side or 0) + above for block, side, above in zip(blocks, source, high, strict=True)]
    if any(below > 0 for below in low) or any(end < 0 for end in ends):
        return False
    phases = _phases(weight, stride, begins, low, high)
    bias = draft.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(weight.shape[1])
    output = node.output[0]
    pads = [*(-below for below in low), *ends]
    value = f"{output}.phases"
    _add_layer(
        draft,
        "Conv",
        node.input[0],
        phases,
        np.tile(bias, stride**spatial),
        value,
        pads=pads,
        kernel_shape=phases.shape[2:],
    )
    cropped = [stride * block != side for block, side in zip(blocks, target, strict=True)]
    placed = f"{output}.placed" if any(cropped) else output
    _place(draft, value, placed, weight.shape[1], stride, blocks)
    if any(cropped):
        limits = [
            draft.constant(np.asarray(numbers, np.int64), f"{output}.{hint}")
            for hint, numbers in (("start", [0] * spatial), ("end", target), ("axes", range(2, 2 + spatial)))
        ]
        draft.add("Slice", [placed, *limits], output)
    return True


def _phases(weight: Array, stride: int, begins: list[int], low: list[int], high: list[int]) -> Array:
    """Return the weights [phases * outputs, inputs, *offsets] of the convolution, zero where there is none."""
    inputs, outputs, *kernel = weight.shape
    spatial = len(kernel)
    offsets = [above - below + 1 for above, below in zip(high, low, strict=True)]
    phases = np.zeros((*[stride] * spatial, outputs, inputs, *offsets), np.float32)
    for phase in itertools.product(range(stride), repeat=spatial):
        for place in itertools.product(*map(range, offsets)):
            taps = [
                r + begin - stride * (step + below)
                for r, begin, step, below in zip(phase, begins, place, low, strict=True)
            ]
            if all(0 <= tap < side for tap, side in zip(taps, kernel, strict=True)):
                into: Any = (*phase, ..., *place)
                out_of: Any = (..., *taps)
                phases[into] = weight[out_of].T
    return phases.reshape(outputs * stride**spatial, inputs, *offsets)


def _place(draft: Draft, value: str, output: str, channels: int, stride: int, blocks: list[int]) -> None:
    """Move phases from channels to positions: DepthToSpace, for any number of axes.

    Written channels last, so that whole runs of channels move, and the outer transpositions cancel those that ONNX
    Runtime puts around integer convolutions; DepthToSpace on 8-bit values took as long as the convolution.
    """
    spatial = len(blocks)

    def shape(hint: str, *sides: int) -> str:
        return draft.constant(np.asarray([0, *sides], np.int64), f"{output}.{hint}")

    last = draft.add("Transpose", [value], f"{output}.last", perm=[0, *range(2, 2 + spatial), 1])
    if spatial == 1:  # [batch, length, stride * channels] are the rows already
        joined = last
    else:
        apart = shape("apart", *blocks, stride, stride * channels)
        value = draft.add("Reshape", [last, apart], f"{output}.phases_apart")
        joined = draft.add("Transpose", [value], f"{output}.phases_placed", perm=[0, 1, 3, 2, 4])
    sides = [stride * block for block in blocks]
    value = draft.add("Reshape", [joined, shape("joined", *sides, channels)], f"{output}.joined_up")
    draft.add("Transpose", [value], output, perm=[0, 1 + spatial, *range(1, 1 + spatial)])
