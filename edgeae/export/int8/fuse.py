"""Take float detours out of a whole graph of integer layers.

Each layer was written as quantise, integer layer, float. Where nothing else reads the float value, the layer gives
integers at once: quantising moves up through what only moves values, and through a rectifier where zero is the lowest
level, and vanishes into the layer before. The integers stay the same, up to the rounding of a product of scales.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from edgeae.export.int8.draft import MOVES, Array, attributes_of

__all__ = ["fuse"]


def fuse(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Array], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes of a graph without needless floats, in order; the given nodes are changed.

    Args:
        nodes: All of a graph's, in order, and none that no output needs.
        constants: Its constants.
        outputs: Names of its outputs, which stay.
    """
    kept = list(nodes)
    makers = {name: node for node in nodes for name in node.output}
    readers = Counter(name for node in nodes for name in node.input) + Counter(outputs)
    for quantise in [node for node in nodes if node.op_type == "QuantizeLinear"]:
        path = _path_above(quantise, makers, readers, constants)
        source = path[0].input[0] if path else quantise.input[0]
        maker = makers.get(source)
        alone = maker is not None and readers[source] == 1
        if maker is not None and alone and maker.op_type == "QGemm" and len(maker.input) == 7:
            maker.input.extend(quantise.input[1:])
        elif maker is not None and alone and _inverts(maker, quantise, constants):
            kept.remove(maker)
            source = maker.input[0]
        elif path:
            early = onnx.NodeProto()
            early.CopyFrom(quantise)
            early.input[0], early.output[0], early.name = source, f"{source}.integers", f"{source}.integers"
            kept.insert(kept.index(path[0]), early)
            makers[early.output[0]] = early
            source = early.output[0]
        else:
            continue
        for node in path:
            if node.op_type == "Relu":
                kept.remove(node)
            else:
                node.input[0] = source
                source = node.output[0]
        kept.remove(quantise)
        for node in kept:
            node.input[:] = [source if name == quantise.output[0] else name for name in node.input]
        readers[source] = readers[quantise.output[0]]
    _sink(kept, readers, outputs)
    return kept


def _sink(nodes: list[onnx.NodeProto], readers: Mapping[str, int], outputs: set[str]) -> None:
    """Let values become float only after they were moved: there is a quarter to move before."""
    for node in [node for node in nodes if node.op_type == "DequantizeLinear"]:
        while readers[node.output[0]] == 1 and node.output[0] not in outputs:
            (following,) = (other for other in nodes if node.output[0] in other.input)
            if not _moves(following):
                break
            following.input[0], node.input[0] = node.input[0], following.output[0]
            nodes.remove(node)
            nodes.insert(nodes.index(following) + 1, node)
            following.output[0], node.output[0] = node.output[0], following.output[0]
            node.input[0] = following.output[0]


def _path_above(
    quantise: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, int],
    constants: Mapping[str, Array],
) -> list[onnx.NodeProto]:
    """Return the nodes above, first to last, that integers can pass or do away with, each read by the next only."""
    path: list[onnx.NodeProto] = []
    value = quantise.input[0]
    while (node := makers.get(value)) is not None and readers[value] == 1:
        rectifies = node.op_type == "Relu" and constants[quantise.input[2]] == 0
        if not rectifies and not _moves(node):
            break
        path.insert(0, node)
        value = node.input[0]
    return path


def _moves(node: onnx.NodeProto) -> bool:
    return node.op_type in MOVES and (node.op_type != "Resize" or attributes_of(node).get("mode") == b"nearest")


def _inverts(node: onnx.NodeProto, quantise: onnx.NodeProto, constants: Mapping[str, Array]) -> bool:
    return node.op_type == "DequantizeLinear" and all(
        np.array_equal(constants[one], constants[other])
        for one, other in zip(node.input[1:], quantise.input[1:], strict=True)
    )
