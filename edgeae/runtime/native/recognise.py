"""Is a graph a dense chain? Read backwards from its output, node by node; whatever is not understood is no chain.

What is recognised: the scorers (but elbo's), encoders and decoders that edgeae exports for dense models, in fp32 and in
int8 (QuantizeLinear, a chain of QGemm, floats), and what a plain `MatMul` and `Add` make of the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from edgeae.runtime.native.chain import Array, Chain, Layer, Quantised

__all__ = ["recognise"]

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
Term = tuple[str, str, float]
"""What a score adds up: its kind, the value it is made of, and what it is multiplied by."""


class _NoChain(Exception):
    """The graph holds something that a chain does not."""


def recognise(model: Mapping[str, Any]) -> Chain | None:
    """Return what a graph (from `parse_model`, after the guard) computes, or None if that is no dense chain."""
    graph = model["graph"]
    if len(graph["inputs"]) != 1 or len(graph["outputs"]) != 1:
        return None
    try:
        reader = _Reader(graph)
        return reader.score() if len(reader.out_row) == 0 else reader.values()
    except _NoChain:
        return None


def _row(value: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(side.get("value", 0)) for side in value["type"]["tensor"]["shape"]["dimensions"][1:])


class _Reader:
    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.makers: dict[str, Node] = {name: node for node in graph["nodes"] for name in node["outputs"]}
        self.tensors: dict[str, Any] = {tensor["name"]: tensor for tensor in graph["initializers"]}
        self.source: str = graph["inputs"][0]["name"]
        self.target: str = graph["outputs"][0]["name"]
        self.row, self.out_row = _row(graph["inputs"][0]), _row(graph["outputs"][0])

    def score(self) -> Chain:
        terms = self.totals(self.target, 1.0)
        kind, name, factor = terms[0]
        if len(terms) == 1 and kind in ("squared", "absolute"):
            return replace(self.difference(name), score=kind, score_factor=factor)
        if kind != "cross_entropy" or len(terms) > 2:
            raise _NoChain
        softplus, product = self.maker(name, "Sub")["inputs"]
        out = self.maker(softplus, "Softplus")["inputs"][0]
        inside, again = self.maker(product, "Mul")["inputs"]
        if again != out:
            raise _NoChain
        target = self.clipped(inside, terms[1], factor) if len(terms) == 2 else inside
        return replace(self.chain(out, target), score="cross_entropy", score_factor=factor, clip=len(terms) == 2)

    def totals(self, name: str, factor: float) -> list[Term]:
        """Match what is added up over a row: sums, means, and their sums and multiples."""
        node = self.maker(name)
        source = node["inputs"][0]
        if node["op"] == "Add":
            return [term for part in node["inputs"] for term in self.totals(part, factor)]
        if node["op"] == "Mul":
            inner, number = self.with_constant(node)
            if number.size != 1:
                raise _NoChain
            return self.totals(inner, factor * float(number.reshape(())))
        if node["op"] == "ReduceMean":
            return self.errors(source, factor / math.prod(self.row))
        if node["op"] == "ReduceSum":
            return self.errors(source, factor)
        kind = {"ReduceSumSquare": "squared", "ReduceL1": "absolute"}.get(node["op"])
        if kind is None:
            raise _NoChain
        return [(kind, source, factor)]

    def errors(self, name: str, factor: float) -> list[Term]:
        """Match the error of each value of a row."""
        node = self.maker(name)
        if node["op"] == "Add":
            return [term for part in node["inputs"] for term in self.errors(part, factor)]
        if node["op"] == "Mul" and node["inputs"][0] == node["inputs"][1]:
            return [("squared", node["inputs"][0], factor)]
        if node["op"] == "Abs":
            return [("absolute", node["inputs"][0], factor)]
        return [("cross_entropy", name, factor)]

    def clipped(self, inside: str, excess: Term, factor: float) -> str:
        """Match the squared excess of x over what is inside 0..1, and return x."""
        kind, name, same = excess
        first, second = self.maker(name, "Sub")["inputs"]
        clip = self.maker(second, "Clip")
        bounds = [self.number(bound) for bound in clip["inputs"][1:]]
        matches = kind == "squared" and same == factor and inside == second and bounds == [0.0, 1.0]
        if not matches or self.moved(clip["inputs"][0]) != self.moved(first):
            raise _NoChain
        return str(first)

    def difference(self, name: str) -> Chain:
        """Match (target - out), or that times a weight."""
        node = self.maker(name)
        weight = None
        if node["op"] in ("Mul", "Div"):
            name, weight = self.with_constant(node)
            node = self.maker(name)
        if node["op"] != "Sub":
            raise _NoChain
        target, out = node["inputs"]
        chain = self.chain(out, target)
        if weight is None:
            return chain
        return replace(chain, constants={**chain.constants, "weight": self.along(weight, self.row)})

    def values(self) -> Chain:
        """Match what an encoder or a decoder gives."""
        name, constants = self.target, {}
        for constant, op in (("out_shift", "Add"), ("out_factor", "Mul")):
            node = self.makers.get(self.moved(name))
            if node is not None and node["op"] == op and self.has_constant(node) and self.is_affine(node):
                name, value = self.with_constant(node)
                constants[constant] = self.along(value, self.out_row)
        chain = self.chain(name, None)
        return replace(chain, constants={**chain.constants, **constants})

    def is_affine(self, node: Node) -> bool:
        """Whether an Add is not the bias of a MatMul."""
        name, _ = self.with_constant(node)
        maker = self.makers.get(self.moved(name))
        return maker is None or maker["op"] != "MatMul"

    def chain(self, out: str, target: str | None) -> Chain:
        """Match the layers between `target`, or whatever is not a layer, and `out`."""
        layers: list[Layer] = []
        name = self.moved(out)
        after: Quantised | None = None  # how the layer that follows reads this one's output
        while target is None or name != self.moved(target):
            layer, name, integers = self.layer(name, after)
            layers.insert(0, layer)
            after = integers
            if target is None and not self.ends_layer(name):
                break
        if not layers or after is not None or len({layer.quantised is None for layer in layers}) > 1:
            raise _NoChain
        widths = [layers[0].weight.shape[1], *(len(layer.bias) for layer in layers)]
        if any(layer.weight.shape[1] != width for layer, width in zip(layers, widths, strict=False)):
            raise _NoChain
        if widths[0] != math.prod(self.row) or widths[-1] != math.prod(self.out_row if target is None else self.row):
            raise _NoChain
        return Chain(tuple(layers), self.normalisation(name if target is None else target))

    def ends_layer(self, name: str) -> bool:
        try:
            self.layer(name, None)
        except _NoChain:
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
            raise _NoChain
        return {constant: found[constant] for constant in ("shift", "factor") if constant in found}

    def layer(self, name: str, after: Quantised | None) -> tuple[Layer, str, Quantised | None]:
        """Match one layer that gives `name`, and return it, what it reads, and how that must be quantised before.

        Args:
            name: Float, or integers where `after` says how the next layer understands them.
            after: None for a float.
        """
        activation, alpha, inner = ("linear", 0.0, name) if after is not None else self.activation(name)
        node = self.maker(inner)
        bias: Array = np.zeros(1, np.float32)
        if node["op"] == "Add":
            inner, bias = self.with_constant(node)
            node = self.maker(inner, "MatMul")
        if node["op"] == "QGemm":
            layer, source, integers = self.integer_layer(node, after)
            return replace(layer, activation=activation, alpha=alpha), source, integers
        if after is not None or node["op"] not in ("Gemm", "MatMul"):
            raise _NoChain
        weight = self.constant(node["inputs"][1])
        if node["op"] == "Gemm":
            given = _attributes(node)
            if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
                raise _NoChain
            weight = weight if given.get("transB", 0) else weight.T
            if len(node["inputs"]) > 2:
                bias = self.constant(node["inputs"][2])
        else:
            weight = weight.T
        if weight.ndim != 2 or bias.size not in (1, len(weight)):
            raise _NoChain
        wide = np.broadcast_to(bias.reshape(-1), len(weight))
        return Layer(weight, wide, activation, alpha), self.moved(node["inputs"][0]), None

    def integer_layer(self, node: Node, after: Quantised | None) -> tuple[Layer, str, Quantised | None]:
        """Match a QGemm; the float that it reads is the name that is returned, or integers of another QGemm."""
        inputs = [*node["inputs"], "", "", ""][:9]
        given = _attributes(node)
        own = self.levels(inputs[1], inputs[2])
        if (inputs[7] != "") != (after is not None) or (
            after is not None and self.levels(*inputs[7:]) != _plain(after)
        ):
            raise _NoChain
        integers, scale, zero = (self.constant(name) for name in inputs[3:6])
        if given.get("alpha", 1.0) != 1.0 or integers.dtype != np.int8 or integers.ndim != 2 or np.any(zero != 0):
            raise _NoChain
        integers = integers if given.get("transB", 0) else integers.T
        outputs = len(integers)
        if scale.size not in (1, outputs):
            raise _NoChain
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
                raise _NoChain
            return layer, self.moved(maker["inputs"][0]), None
        return layer, source, quantised

    def activation(self, name: str) -> tuple[str, float, str]:
        """Match the activation that gives `name`: its name, alpha, and what it is applied to."""
        name = self.moved(name)
        node = self.maker(name)
        kind = ACTIVATIONS.get(node["op"])
        if kind is not None:
            given = _attributes(node)
            if given.get("approximate", b"none") != b"none":
                raise _NoChain
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

    def maker(self, name: str, op: str | None = None) -> Node:
        node = self.makers.get(self.moved(name))
        if node is None or (op is not None and node["op"] != op):
            raise _NoChain
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
            raise _NoChain
        return second, self.constant(first)

    def along(self, value: Array, row: tuple[int, ...]) -> Array:
        """Return a constant as one number for each value of a row, flat."""
        if value.size == math.prod(row):
            return value.reshape(-1).astype(np.float32)
        try:
            shape = value.shape[1:] if value.ndim == len(row) + 1 else value.shape  # the batch axis: 1
            return np.broadcast_to(value.reshape(shape), row).astype(np.float32).reshape(-1)
        except ValueError:
            raise _NoChain from None

    def number(self, name: str) -> float:
        value = self.constant(name)
        if value.size != 1:
            raise _NoChain
        return float(value.reshape(()))

    def levels(self, scale: str, zero: str) -> tuple[float, int]:
        """Return the scale and zero point of uint8 numbers."""
        point = self.constant(zero)
        if point.dtype != np.uint8 or point.size != 1:
            raise _NoChain
        return self.number(scale), int(point.reshape(()))

    def constant(self, name: str) -> Array:
        tensor = self.tensors.get(name)
        if tensor is None or tensor.get("dtype") not in DTYPES:
            raise _NoChain
        dtype, shape = np.dtype(DTYPES[tensor["dtype"]]), tuple(tensor["dimensions"])
        if tensor.get("raw") is not None:
            return np.frombuffer(tensor["raw"], dtype).reshape(shape)
        listed = tensor["floats"] or tensor["int32s"] or tensor["int64s"]
        return np.array(listed, dtype).reshape(shape)


def _plain(levels: Quantised) -> tuple[float, int]:
    return levels.input_scale, levels.input_zero


def _attributes(node: Node) -> dict[str, Any]:
    return {
        each["name"]: next((each[field] for field in ("float", "int", "string") if field in each), None)
        for each in node["attributes"]
    }
