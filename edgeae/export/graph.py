"""A small builder for ONNX graphs: add nodes and constants, paste other graphs in, prune, name, finish.

PyTorch's exporter makes the graphs of the bare encoder and decoder (`edgeae.export.cores`); what stands around them
in a bundle (casts, normalisation, output activation, error) is written here node by node, so that the graphs hold
just the operators that we chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeae.errors import ExportError

__all__ = ["GraphBuilder", "constants_of", "ir_version_for"]

# the first ONNX release with the opset also fixes the IR version that every runtime of its age accepts
_IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


def ir_version_for(opset: int) -> int:
    """Return the IR version of the ONNX release that brought `opset` (opsets 18 to 23).

    Raises:
        ExportError: for another opset.
    """
    if opset not in _IR_VERSIONS:
        raise ExportError(f"opset {opset} is not supported; choose one of {', '.join(map(str, _IR_VERSIONS))}")
    return _IR_VERSIONS[opset]


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray[Any, Any]]:
    """Return a graph's initializers as arrays, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


class GraphBuilder:
    """Collects nodes and constants; `finish` returns a checked model.

    Example:
        >>> graph = GraphBuilder(opset=18)
        >>> doubled = graph.add("Mul", ["x", graph.constant(np.float32(2.0))])
        >>> model = graph.finish({"x": ("float32", ("batch", 3))}, {"y": (doubled, "float32", ("batch", 3))}, {})
        >>> [node.op_type for node in model.graph.node]
        ['Mul']
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self._count = 0

    def _name(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"

    def constant(self, array: np.ndarray[Any, Any] | np.generic, hint: str = "c") -> str:
        """Add a constant tensor and return its name."""
        name = self._name(hint)
        self.constants[name] = np.asarray(array)
        return name

    def add(self, op: str, inputs: Sequence[str], **attributes: int) -> str:
        """Add a node with one output and return the output's name."""
        name = self._name(op.lower())
        node = helper.make_node(op, list(inputs), [name], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return name

    def reduce(self, op: str, value: str, axes: Sequence[int]) -> str:
        """Add a reduction over `axes` that drops them; since opset 18 the axes are an input."""
        return self.add(op, [value, self.constant(np.asarray(axes, np.int64), "axes")], keepdims=0)

    def paste(self, core: onnx.GraphProto, inputs: Mapping[str, str], prefix: str) -> list[str]:
        """Copy the nodes of `core`, feeding its inputs from `inputs`; return the names of its outputs here."""
        renamed = {"": "", **inputs}

        def rename(name: str) -> str:
            return renamed.setdefault(name, f"{prefix}.{name}")

        for name, array in constants_of(core).items():
            self.constants[rename(name)] = array
        for node in core.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [rename(name) for name in node.input]
            copy.output[:] = [rename(name) for name in node.output]
            copy.name = f"{prefix}.{node.name or node.output[0]}"
            self.nodes.append(copy)
        return [rename(output.name) for output in core.output]

    def finish(
        self,
        inputs: Mapping[str, tuple[str, Sequence[int | str]]],
        outputs: Mapping[str, tuple[str, str, Sequence[int | str]]],
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Prune what no output needs, name the outputs and return the checked model.

        Args:
            inputs: Name to (dtype, shape).
            outputs: Final name to (name in this graph, dtype, shape).
            metadata: The model's metadata_props.

        Raises:
            ExportError: if the graph is not valid ONNX.
        """
        final = {inner: name for name, (inner, _, _) in outputs.items()}
        self.prune(set(final))
        nodes = self.nodes
        for node in nodes:
            node.input[:] = [final.get(name, name) for name in node.input]
            node.output[:] = [final.get(name, name) for name in node.output]
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
        used = {name for node in nodes for name in node.input}
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "edgeae",
                [_value(name, dtype, shape) for name, (dtype, shape) in inputs.items()],
                [_value(name, dtype, shape) for name, (_, dtype, shape) in outputs.items()],
                [
                    numpy_helper.from_array(_normal(array), name)
                    for name, array in self.constants.items()
                    if name in used
                ],
            ),
            opset_imports=[
                helper.make_opsetid("", self.opset),
                *(helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in nodes} - {""})),
            ],
            ir_version=ir_version_for(self.opset),
            producer_name="edgeae",
        )
        helper.set_model_props(model, dict(metadata))
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
            raise ExportError(f"the exported graph is not valid ONNX: {problem}") from problem
        return model

    def prune(self, wanted: set[str]) -> None:
        """Keep only what `wanted` depends on."""
        wanted, kept = set(wanted), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]


def _normal(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Set subnormal float32 weights to zero: they change no result and can make arithmetic 100 times slower."""
    if array.dtype != np.float32:
        return array
    return np.where(np.abs(array) < np.finfo(np.float32).tiny, np.float32(0), array)


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}[dtype]
    return helper.make_tensor_value_info(name, kind, list(shape))
