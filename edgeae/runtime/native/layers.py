"""Reading a graph backwards: constants, layers, and the chain of layers between two values.

Whatever is not understood raises NoChain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeae.runtime.native.chain import Array, Chain, Layer, Quantised

__all__ = ["Heads", "NoChain", "Node", "Reader", "attributes_of"]

DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}
# Between the layers of a chain these keep the order of a row's values.
MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
ACTIVATIONS = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "Gelu": "gelu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
DEFAULT_ALPHAS = {"leaky_relu": 0.01, "elu": 1.0}

Node = Mapping[str, Any]


class NoChain(Exception):
    """The graph holds something that a chain does not."""


@dataclass(frozen=True)
class Heads:
    """Names of what the two layers of Gaussian latents give: means, and log variances before their bound."""

    mean: str
    log_variance: str


class Reader:
    """A graph, as `parse_model` returns it, whose nodes are looked up by what they make."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.makers: dict[str, Node] = {name: node for node in graph["nodes"] for name in node["outputs"]}
        self.tensors: dict[str, Any] = {tensor["name"]: tensor for tensor in graph["initializers"]}
        self.source: str = graph["inputs"][0]["name"]
        self.target: str = graph["outputs"][0]["name"]
        self.row, self.out_row = _row(graph["inputs"][0]), _row(graph["outputs"][0])

    def chain(self, out: str, target: str | None, heads: Heads | None = None) -> tuple[Chain, int | None]:
        """Match the layers between `target`, or whatever is not a layer, and `out`.

        Returns:
            (the chain, which of its layers gives what `heads` names, stacked; None if there are no heads).
        """
        layers: list[Layer] = []
        name = self.moved(out)
        after: Quantised | None = None  # how the layer that follows reads this one's output
        behind: int | None = None  # layers behind the heads
        stop = None if target is None else self.moved(target)
        while stop is None or name != stop:
            if heads is not None and name == self.moved(heads.mean):
                behind = len(layers)
                layer, name, integers = self.stacked(heads, after, stop)
            else:
                layer, name, integers = self.layer(name, after, stop)
            layers.insert(0, layer)
            after = integers
            if stop is None and not self.ends_layer(name):
                break
        if not layers or after is not None or len({layer.quantised is None for layer in layers}) > 1:
            raise NoChain
        if (heads is None) != (behind is None) or behind == 0:
            raise NoChain
        stacked = None if behind is None else len(layers) - behind - 1
        widths = [layers[0].weight.shape[1], *(len(layer.bias) for layer in layers)]
        for i, layer in enumerate(layers):
            halves = 2 if stacked is not None and i == stacked + 1 else 1
            if layer.weight.shape[1] * halves != widths[i]:
                raise NoChain
        if widths[0] != math.prod(self.row) or widths[-1] != math.prod(self.out_row if target is None else self.row):
            raise NoChain
        return Chain(tuple(layers), self.normalisation(name if target is None else target)), stacked

    def stacked(self, heads: Heads, after: Quantised | None, stop: str | None) -> tuple[Layer, str, Quantised | None]:
        """Match two layers that read the same as one layer; see `layer`."""
        mean, source, integers = self.layer(heads.mean, after, stop)
        variance, other, others = self.layer(heads.log_variance, None, stop)
        simple = all(layer.activation == "linear" and layer.keep == 0 for layer in (mean, variance))
        same = other == source and (others is None) == (integers is None)
        if not simple or not same or len(mean.bias) != len(variance.bias):
            raise NoChain
        both = mean.quantised, variance.quantised
        quantised = both[0]
        if both[0] is not None and both[1] is not None:
            factors = [np.ones(1) if each is None else each for each in (both[0].input_factor, both[1].input_factor)]
            if levels_of(both[0]) != levels_of(both[1]) or not np.array_equal(factors[0], factors[1]):
                raise NoChain
            quantised = replace(both[0], scale=np.concatenate([both[0].scale, both[1].scale]))
        elif both != (None, None):
            raise NoChain
        weight = np.concatenate([mean.weight, variance.weight])
        bias = np.concatenate([mean.bias, variance.bias])
        return Layer(weight, bias, quantised=quantised), source, integers and quantised

    def ends_layer(self, name: str) -> bool:
        try:
            self.layer(name, None, None)
        except NoChain:
            node = self.makers.get(self.moved(name))
            return node is not None and node["op"] == "QGemm"
        return True

    def normalisation(self, name: str) -> dict[str, Array]:
        """Match (x - shift) * factor, or that divided, from a cast where x is uint8."""
        found: dict[str, Array] = {}
        for constant, ops in (("factor", ("Mul", "Div")), ("shift", ("Sub",))):
            node = self.makers.get(self.moved(name))
            if node is not None and node["op"] in ops:
                name, value = self.with_constant(node)
                found[constant] = self.along(value, self.row)
        node = self.makers.get(self.moved(name))
        if node is not None and node["op"] == "Cast":
            name = node["inputs"][0]
        if self.moved(name) != self.source:
            raise NoChain
        return {constant: found[constant] for constant in ("shift", "factor") if constant in found}

    def layer(self, name: str, after: Quantised | None, stop: str | None) -> tuple[Layer, str, Quantised | None]:
        """Match one layer that gives `name`, and return it, what it reads, and how that must be quantised before.

        Args:
            name: Float, or integers where `after` says how the next layer understands them.
            after: None for a float.
            stop: What is no layer's own any more, if that is known.
        """
        keep, inner = (0, name) if after is not None else self.kept(name)
        activation, alpha, inner = ("linear", 0.0, inner) if after is not None else self.activation(inner)
        node = self.maker(inner)
        bias: Array = np.zeros(1, np.float32)
        if node["op"] == "Add":
            inner, bias = self.with_constant(node)
            node = self.maker(inner, "MatMul")
        if node["op"] == "QGemm":
            layer, source, integers = self.integer_layer(node, after, stop)
            return replace(layer, activation=activation, alpha=alpha, keep=keep), source, integers
        if after is not None or node["op"] not in ("Gemm", "MatMul"):
            raise NoChain
        weight = self.constant(node["inputs"][1])
        if node["op"] == "Gemm":
            given = attributes_of(node)
            if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
                raise NoChain
            weight = weight if given.get("transB", 0) else weight.T
            if len(node["inputs"]) > 2:
                bias = self.constant(node["inputs"][2])
        else:
            weight = weight.T
        if weight.ndim != 2 or bias.size not in (1, len(weight)):
            raise NoChain
        wide = np.broadcast_to(bias.reshape(-1), len(weight))
        return Layer(weight, wide, activation, alpha, keep), self.moved(node["inputs"][0]), None

    def integer_layer(
        self, node: Node, after: Quantised | None, stop: str | None
    ) -> tuple[Layer, str, Quantised | None]:
        """Match a QGemm; the float that it reads is the name that is returned, or integers of another QGemm."""
        inputs = [*node["inputs"], "", "", ""][:9]
        given = attributes_of(node)
        own = self.levels(inputs[1], inputs[2])
        if (inputs[7] != "") != (after is not None) or (
            after is not None and self.levels(*inputs[7:]) != levels_of(after)
        ):
            raise NoChain
        integers, scale, zero = (self.constant(name) for name in inputs[3:6])
        if given.get("alpha", 1.0) != 1.0 or integers.dtype != np.int8 or integers.ndim != 2 or np.any(zero != 0):
            raise NoChain
        integers = integers if given.get("transB", 0) else integers.T
        outputs = len(integers)
        if scale.size not in (1, outputs):
            raise NoChain
        scales = np.broadcast_to(scale.reshape(-1), outputs).astype(np.float32)
        bias = np.zeros(outputs) if inputs[6] == "" else self.constant(inputs[6]).reshape(-1).astype(np.float64)
        quantised = Quantised(scales, *own)
        layer = Layer(
            (integers * scales[:, None]).astype(np.float32),
            np.broadcast_to(bias * (np.float64(own[0]) * scales), outputs).astype(np.float32),
            quantised=quantised,
        )
        source = self.moved(inputs[0])
        maker = self.maker(source)
        if maker["op"] == "QuantizeLinear":
            if self.levels(*maker["inputs"][1:]) != own:
                raise NoChain
            source, factor = self.evened(self.moved(maker["inputs"][0]), integers.shape[1], stop)
            return replace(layer, quantised=replace(quantised, input_factor=factor)), source, None
        return layer, source, quantised

    def evened(self, name: str, width: int, stop: str | None) -> tuple[str, Array | None]:
        """Match a multiplication that gives all of a layer's inputs the same range."""
        node = self.makers.get(name)
        if name == stop or node is None or node["op"] != "Mul" or not self.has_constant(node):
            return name, None
        source, factor = self.with_constant(node)
        if factor.size not in (1, width):
            raise NoChain
        return self.moved(source), np.broadcast_to(factor.reshape(-1), width).astype(np.float32)

    def kept(self, name: str) -> tuple[int, str]:
        """Match the k largest of each row, with TopK for the threshold: k and what they are taken from; else 0."""
        node = self.makers.get(self.moved(name))
        if node is None or node["op"] != "Where":
            return 0, name
        condition, value, zero = node["inputs"]
        inner, threshold = self.maker(condition, "GreaterOrEqual")["inputs"]
        last = self.maker(threshold, "Slice")
        top = self.maker(last["inputs"][0], "TopK")
        given, k = attributes_of(top), int(self.number(top["inputs"][1]))
        start, end, axis, step = (int(self.number(each)) for each in last["inputs"][1:])
        sorts = given.get("largest", 1) == given.get("sorted", 1) == 1 and given.get("axis", -1) in (1, -1)
        takes_last = start in (-1, k - 1) and end >= k and axis in (1, -1) and step == 1
        same = self.moved(inner) == self.moved(value) == self.moved(top["inputs"][0])
        ordered = self.moved(last["inputs"][0]) == top["outputs"][0]
        if not (sorts and takes_last and same and ordered and self.number(zero) == 0):
            raise NoChain
        return k, value

    def activation(self, name: str) -> tuple[str, float, str]:
        """Match the activation that gives `name`: its name, alpha, and what it is applied to."""
        name = self.moved(name)
        node = self.maker(name)
        kind = ACTIVATIONS.get(node["op"])
        if kind is not None:
            given = attributes_of(node)
            if given.get("approximate", b"none") != b"none":
                raise NoChain
            return kind, float(given.get("alpha", DEFAULT_ALPHAS.get(kind, 0.0))), self.moved(node["inputs"][0])
        if node["op"] == "Mul":
            inner = self.moved(node["inputs"][0])
            gate = self.maker(node["inputs"][1])
            if gate["op"] == "Sigmoid" and self.moved(gate["inputs"][0]) == inner:
                return "silu", 0.0, inner
            if gate["op"] == "Mul" and self.is_gelu_gate(gate, inner):
                return "gelu", 0.0, inner
        return "linear", 0.0, name

    def is_gelu_gate(self, gate: Node, inner: str) -> bool:
        """Whether it is 0.5 * (1 + erf(inner / sqrt 2))."""
        shifted, half = self.with_constant(gate)
        erf, one = self.with_constant(self.maker(shifted, "Add"))
        divided = self.maker(self.maker(erf, "Erf")["inputs"][0])
        source, factor = self.with_constant(divided)
        found = [value.reshape(-1).tolist() for value in (half, one)]
        exact = found == [[0.5], [1.0]] and divided["op"] in ("Mul", "Div") and factor.size == 1
        return exact and abs(float(factor.reshape(())) - math.sqrt(0.5)) < 1e-6 and self.moved(source) == inner

    def is_affine(self, node: Node) -> bool:
        """Whether an Add is not the bias of a MatMul."""
        name, _ = self.with_constant(node)
        maker = self.makers.get(self.moved(name))
        return maker is None or maker["op"] != "MatMul"

    def maker(self, name: str, op: str | None = None) -> Node:
        node = self.makers.get(self.moved(name))
        if node is None or (op is not None and node["op"] != op):
            raise NoChain
        return node

    def moved(self, name: str) -> str:
        """Go back through nodes that only change the shape."""
        while (node := self.makers.get(name)) is not None and node["op"] in MOVES:
            name = node["inputs"][0]
        return name

    def has_constant(self, node: Node) -> bool:
        return any(name in self.tensors for name in node["inputs"])

    def with_constant(self, node: Node) -> tuple[str, Array]:
        """Return the inputs of an Add, Mul, Sub or Div, the constant second: a Div is a product with its reciprocal."""
        first, second = node["inputs"]
        if second in self.tensors:
            value = self.constant(second)
            return first, (1 / value.astype(np.float64)).astype(np.float32) if node["op"] == "Div" else value
        if node["op"] in ("Sub", "Div"):
            raise NoChain
        return second, self.constant(first)

    def along(self, value: Array, row: tuple[int, ...]) -> Array:
        """Return a constant as one number for each value of a row, flat."""
        if value.size == math.prod(row):
            return value.reshape(-1).astype(np.float32)
        try:
            shape = value.shape[1:] if value.ndim == len(row) + 1 else value.shape  # the batch axis: 1
            return np.broadcast_to(value.reshape(shape), row).astype(np.float32).reshape(-1)
        except ValueError:
            raise NoChain from None

    def number(self, name: str) -> float:
        value = self.constant(name)
        if value.size != 1:
            raise NoChain
        return float(value.reshape(()))

    def levels(self, scale: str, zero: str) -> tuple[float, int]:
        """Return the scale and zero point of uint8 numbers."""
        point = self.constant(zero)
        if point.dtype != np.uint8 or point.size != 1:
            raise NoChain
        return self.number(scale), int(point.reshape(()))

    def constant(self, name: str) -> Array:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.get("dtype") not in DTYPES:
            raise NoChain
        dtype, shape = np.dtype(DTYPES[tensor["dtype"]]), tuple(tensor["dimensions"])
        if tensor.get("raw") is not None:
            return np.frombuffer(tensor["raw"], dtype).reshape(shape)
        listed = tensor["floats"] or tensor["int32s"] or tensor["int64s"]
        return np.array(listed, dtype).reshape(shape)


def levels_of(levels: Quantised) -> tuple[float, int]:
    """Return the scale and zero point of a layer's input."""
    return levels.input_scale, levels.input_zero


def attributes_of(node: Node) -> dict[str, Any]:
    """Return a node's attributes that are one value."""
    return {
        each["name"]: next((each[field] for field in ("float", "int", "string") if field in each), None)
        for each in node["attributes"]
    }


def _row(value: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(side.get("value", 0)) for side in value["type"]["tensor"]["shape"]["dimensions"][1:])
