"""Graphs of dense chains as export makes them, and what ONNX Runtime and the native operators make of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgeae.runtime import native

Array = np.ndarray[Any, Any]

ACTIVATIONS = ("linear", "relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid")


def session_of(data: bytes | None, *, operators: bool = False) -> ort.InferenceSession:
    assert data is not None, "not recognised"
    made = ort.SessionOptions()
    made.intra_op_num_threads = 1
    made.log_severity_level = 4
    if operators:
        native.register(made)
    return ort.InferenceSession(data, made, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, x: Array) -> Array:
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def both(data: bytes, x: Array, **how: Any) -> tuple[Array, Array]:
    """What the native operator gives, and what the graph does."""
    return run(session_of(native.rewrite(data, **how), operators=True), x), run(session_of(data), x)


class Graph:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str | Array | float, domain: str = "", **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self.constant(np.asarray(each)) for each in inputs]
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array) -> str:
        value = value.astype(np.float32) if value.dtype == np.float64 else value
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return self.constants[-1].name

    def finish(self, output: str, row: Sequence[int], out_row: Sequence[int], *, opset: int = 18) -> bytes:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *out_row])
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        graph = helper.make_graph(self.nodes, "graph", [x], [y], self.constants)
        data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return data

    def activation(self, kind: str, value: str, opset: int = 18) -> str:
        if kind == "linear":
            return value
        if kind == "silu":
            return self.add("Mul", value, self.add("Sigmoid", value))
        if kind == "gelu" and opset < 20:
            erf = self.add("Erf", self.add("Div", value, np.sqrt(2.0)))
            return self.add("Mul", value, self.add("Mul", 0.5, self.add("Add", erf, 1.0)))
        names = {"relu": "Relu", "leaky_relu": "LeakyRelu", "elu": "Elu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        alpha: dict[str, Any] = {"leaky_relu": {"alpha": 0.1}, "elu": {"alpha": 0.7}}.get(kind, {})
        return self.add(names.get(kind, "Gelu"), value, **alpha)

    def largest(self, value: str, k: int) -> str:
        """Keep the k largest of each row, as PyTorch's exporter writes it."""
        top = self.add("TopK", value, np.array([k]), axis=1, largest=1, sorted=1)
        self.nodes[-1].output.append(f"{top}_places")
        last = self.add("Slice", top, *(np.array([each]) for each in (-1, 2**63 - 1, 1, 1)))
        return self.add("Where", self.add("GreaterOrEqual", value, last), value, 0.0)


def add_layers(
    graph: Graph, value: str, widths: Sequence[int], kinds: Sequence[str], rng: np.random.Generator, opset: int = 18
) -> str:
    for i, (wide, out) in enumerate(pairwise(widths)):
        weight, bias = rng.normal(0, wide**-0.5, (out, wide)), rng.normal(0, 0.3, out)
        if i % 3 == 2:
            value = graph.add("Add", graph.add("MatMul", value, weight.T), bias)
        else:
            value = graph.add("Gemm", value, weight if i % 3 == 0 else weight.T, bias, transB=int(i % 3 == 0))
        value = graph.activation(kinds[i], value, opset)
    return value


def scorer(
    widths: Sequence[int],
    kinds: Sequence[str],
    *,
    score: str = "mse",
    sums: bool = False,
    seed: int = 0,
    opset: int = 18,
) -> bytes:
    """A scorer as export makes it, the mean of errors, or with the reductions that ONNX has for some sums."""
    rng, graph, wide = np.random.default_rng(seed), Graph(), widths[0]
    x = graph.add("Mul", graph.add("Sub", "x", rng.normal(size=wide)), rng.uniform(0.5, 2, wide))
    out = add_layers(graph, x, widths, kinds, rng, opset)
    if score == "bce":
        inside = graph.add("Clip", x, 0.0, 1.0)
        errors = graph.add("Sub", graph.add("Softplus", out), graph.add("Mul", inside, out))
        excess = graph.add("Sub", x, inside)
        if sums:
            squares = graph.add("ReduceSumSquare", excess, np.array([1]), keepdims=0)
            total = graph.add("Add", graph.add("ReduceSum", errors, np.array([1]), keepdims=0), squares)
        else:
            errors = graph.add("Add", errors, graph.add("Mul", excess, excess))
    else:
        difference = graph.add("Sub", x, out)
        if score == "zscore":
            difference = graph.add("Mul", difference, rng.uniform(0.5, 2, wide))
        if sums:
            total = graph.add(
                "ReduceL1" if score == "mae" else "ReduceSumSquare", difference, np.array([1]), keepdims=0
            )
        else:
            errors = graph.add("Abs", difference) if score == "mae" else graph.add("Mul", difference, difference)
    if sums:
        return graph.finish(graph.add("Mul", total, 1 / wide), [wide], [], opset=opset)
    return graph.finish(graph.add("ReduceMean", errors, np.array([1]), keepdims=0), [wide], [], opset=opset)


def quantised_scorer(widths: Sequence[int], kinds: Sequence[str], *, per_channel: bool, seed: int = 0) -> bytes:
    """The form that export gives int8 graphs: integers from layer to layer where a rectifier is the clipping."""
    rng, graph, wide = np.random.default_rng(seed), Graph(), widths[0]
    x = graph.add("Mul", "x", rng.uniform(0.5, 2, wide))
    levels: list[Any] = [np.float32(0.04), np.uint8(100)]
    value, integers = x, graph.add("QuantizeLinear", x, *levels)
    for i, (before, out) in enumerate(pairwise(widths)):
        weight = rng.normal(0, before**-0.5, (out, before))
        scale = np.abs(weight).max(axis=1) / 64 if per_channel else np.float64(np.abs(weight).max() / 64)
        whole = np.rint(weight / np.reshape(scale, (-1, 1))).astype(np.int8)
        bias = np.rint(rng.normal(0, 0.3, out) / (levels[0] * scale)).astype(np.int32)
        zero = np.zeros(np.shape(scale), np.int8)
        after: list[Any] = [np.float32(0.03), np.uint8(0 if kinds[i] == "relu" else 128)]
        inputs = [integers, *levels, whole, np.asarray(scale, np.float32), zero, bias]
        last = i == len(widths) - 2
        if kinds[i] in ("relu", "linear") and not last:
            integers = graph.add("QGemm", *inputs, *after, domain="com.microsoft", transB=1)
        else:
            value = graph.add("QGemm", *inputs, domain="com.microsoft", transB=1)
            value = graph.activation(kinds[i], value)
            integers = value if last else graph.add("QuantizeLinear", value, *after)
        levels = after
    total = graph.add("ReduceSumSquare", graph.add("Sub", x, value), np.array([1]), keepdims=0)
    return graph.finish(graph.add("Mul", total, 1 / wide), [wide], [])


def rows_of(n: int, wide: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0, 1.5, (n, wide)).astype(np.float32)


SCORES = ("mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo", "elbo_bernoulli")


def any_scorer(
    widths: Sequence[int],
    kinds: Sequence[str],
    *,
    score: str,
    keeps: Sequence[int] = (),
    latents: int | None = None,
    bound: float | None = 10.0,
    int8: bool = False,
    evened: bool = False,
    seed: int = 0,
) -> bytes:
    """A scorer as export makes it, with any of its scores and bottlenecks.

    Args:
        widths: Of a row and of every layer; the last is a row's again.
        kinds: Activations.
        score: One of SCORES.
        keeps: For every layer how many of its values stay, 0 for all.
        latents: Which layer gives means, with as many log variances beside them, for the two elbos.
        bound: Of the log variances.
        int8: Whether layers are QGemm.
        evened: Whether their inputs are multiplied first so that all have the same range, for int8.
        seed: Of the weights.
    """
    rng, graph, wide = np.random.default_rng(seed), Graph(), widths[0]
    x = graph.add("Mul", graph.add("Sub", "x", rng.normal(size=wide)), rng.uniform(0.5, 2, wide))
    value, log_variance, mean = x, "", ""
    integers: tuple[str, Sequence[Any]] | None = None  # of the layer before
    for i, (before, out) in enumerate(pairwise(widths)):
        last, head, kept = i == len(widths) - 2, i == latents, i < len(keeps) and keeps[i] > 0
        levels: Sequence[Any] = [np.float32(0.04 if i == 0 else 0.03), np.uint8(100 if i == 0 else 128)]
        if integers is not None:
            value, levels = integers
        elif int8:
            if evened:
                value = graph.add("Mul", value, rng.uniform(0.5, 2, before))
            value = graph.add("QuantizeLinear", value, *levels)
        alone = int8 and kinds[i] == "relu" and not (last or head or kept or evened)
        after = [np.float32(0.02), np.uint8(0)] if alone else []
        made = _add_dense(graph, value, before, out, rng, levels if int8 else None, after)
        if head:
            log_variance = _add_dense(graph, value, before, out, rng, levels if int8 else None, [])
            mean = made
        integers = (made, after) if alone else None
        value = made if alone or head else graph.activation(kinds[i], made)
        if kept:
            value = graph.largest(value, keeps[i])
    total = _add_error(graph, score, x, value, rng, wide)
    if log_variance:
        if bound is not None:
            log_variance = graph.add("Mul", graph.add("Tanh", graph.add("Div", log_variance, bound)), bound)
        squares = graph.add("ReduceSum", graph.add("Mul", mean, mean), np.array([1]), keepdims=0)
        spreads = graph.add("Sub", graph.add("Exp", log_variance), log_variance)
        spreads = graph.add("ReduceSum", spreads, np.array([1]), keepdims=0)
        divergence = graph.add("Mul", graph.add("Add", squares, spreads), 0.5)
        total = graph.add("Add", graph.add("Add", graph.add("Mul", total, wide * 1.0), divergence), -3.0)
    return graph.finish(total, [wide], [])


def _add_dense(
    graph: Graph,
    value: str,
    before: int,
    out: int,
    rng: np.random.Generator,
    levels: Sequence[Any] | None,
    after: Sequence[Any],
) -> str:
    weight, bias = rng.normal(0, before**-0.5, (out, before)), rng.normal(0, 0.3, out)
    if levels is None:
        return graph.add("Gemm", value, weight, bias, transB=1)
    scale = np.abs(weight).max(axis=1) / 64
    whole = np.rint(weight / scale[:, None]).astype(np.int8)
    offset = np.rint(bias / (levels[0] * scale)).astype(np.int32)
    inputs = [value, *levels, whole, scale.astype(np.float32), np.zeros(out, np.int8), offset, *after]
    return graph.add("QGemm", *inputs, domain="com.microsoft", transB=1)


def _add_error(graph: Graph, score: str, x: str, out: str, rng: np.random.Generator, wide: int) -> str:
    def mean(value: str) -> str:
        return graph.add("ReduceMean", value, np.array([1]), keepdims=0)

    def square(value: str) -> str:
        return graph.add("Mul", value, value)

    if score in ("bce", "elbo_bernoulli"):
        inside = graph.add("Clip", x, 0.0, 1.0)
        errors = graph.add("Sub", graph.add("Softplus", out), graph.add("Mul", inside, out))
        return mean(graph.add("Add", errors, square(graph.add("Sub", x, inside))))
    difference = graph.add("Sub", x, out)
    if score == "mae":
        return mean(graph.add("Abs", difference))
    if score == "zscore":
        difference = graph.add("Mul", difference, rng.uniform(0.5, 2, wide))
    if score not in ("mahalanobis", "prototype"):
        return mean(square(difference))
    whitened = graph.add("Gemm", difference, rng.normal(0, wide**-0.5, (wide, wide)), rng.normal(size=wide))
    error = mean(square(whitened))
    if score == "mahalanobis":
        return error
    count = 1 + int(rng.integers(40))
    rows = graph.add("Mul", graph.add("Sub", x, rng.normal(size=wide)), rng.uniform(0.5, 2, wide))
    prototypes = rng.normal(size=(count, wide))
    others = graph.add("Gemm", rows, -2 / wide * prototypes.T, np.square(prototypes).mean(axis=1))
    nearest = graph.add("ReduceMin", others, np.array([1]), keepdims=0)
    return graph.add("Add", error, graph.add("Add", mean(square(rows)), nearest))
