"""A core that is being rewritten: nodes and constants under their names, inputs and outputs as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeae.export.graph import constants_of

__all__ = ["MOVES", "Array", "Draft", "attributes_of", "is_layer", "settled_at", "shapes_of"]

Array = np.ndarray[Any, Any]

# What only moves values, so that it may as well move 8-bit ones; Resize where it repeats the nearest value.
MOVES = frozenset({"DepthToSpace", "Flatten", "Reshape", "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


class Draft:
    """Collects the nodes and constants of a new core.

    Attributes:
        nodes: In order.
        constants: By name; those of the old core are there from the start.
    """

    def __init__(self, core: onnx.GraphProto) -> None:
        self._core = core
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = constants_of(core)

    def constant(self, array: Array | np.generic, name: str) -> str:
        """Add a constant under a name of its own, or leave one that is already there, and return the name."""
        self.constants.setdefault(name, np.asarray(array))
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        node = helper.make_node(op, list(inputs), [output], name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output

    def core(self) -> onnx.GraphProto:
        """Return the new core, without constants that no node uses."""
        used = {name for node in self.nodes for name in node.input}
        kept = [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in used]
        return helper.make_graph(self.nodes, "core", list(self._core.input), list(self._core.output), kept)


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def is_layer(node: onnx.NodeProto) -> bool:
    """Whether a node is one of the layers that `edgeae.export.int8.layers.prepare` writes."""
    return node.op_type in ("Gemm", "Conv") and node.input[1:] == [f"{node.output[0]}.weight", f"{node.output[0]}.bias"]


def shapes_of(core: onnx.GraphProto, opset: int) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of a core's values by name; None stands for a side that depends on the batch."""
    model = helper.make_model(core, opset_imports=[helper.make_opsetid("", opset)])
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sides = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)
    return shapes


def settled_at(core: onnx.GraphProto) -> Mapping[str, str]:
    """Return, for each value, where it is once the only things that follow it have moved and rectified it.

    The range of that value is the one that counts: a layer may clip to it at once.
    """
    readers: dict[str, list[onnx.NodeProto]] = {output.name: [onnx.NodeProto()] for output in core.output}
    for node in core.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    settled: dict[str, str] = {}
    for node in reversed(core.node):
        for name in node.output:
            following = readers.get(name, [])
            passes = len(following) == 1 and following[0].op_type in {*MOVES, "Relu"}
            settled[name] = settled[following[0].output[0]] if passes else name
    return settled
