"""Small graphs made by hand that use every operator of the table, to check rules against and to mutate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgeae.bundle.guard import GraphInfo, Limits, Tensor, check_graph

Array = np.ndarray[Any, Any]
Step = tuple[str, str, str, Mapping[str, Any]]  # operator, inputs, outputs, attributes

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


@dataclass(frozen=True)
class Sample:
    """A graph from `x` to `y` and what it is declared to be."""

    name: str
    data: bytes
    source: Tensor
    target: Tensor
    batch: int | None = None

    def check(self, data: bytes | None = None, *, trust: bool = False, **limits: int) -> GraphInfo:
        """Run the guard on the sample, or on other bytes that pretend to be it."""
        return check_graph(
            self.data if data is None else data,
            where=f"{self.name}.onnx",
            source=self.source,
            target=self.target,
            batch=self.batch,
            limits=Limits(**limits),
            trust=trust,
        )


def build(
    name: str,
    row: Sequence[int],
    steps: Sequence[Step],
    constants: Mapping[str, Any] | None = None,
    *,
    target: Sequence[int] | None = None,
    dtype: str = "float32",
    batch: int | None = None,
    opset: int = 20,
) -> Sample:
    """Make a model; the shape of one row of `y` is what ONNX Runtime gives, unless `target` says it."""
    rows: int | str = batch or "batch"
    kind = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16}[dtype]
    domains = [helper.make_opsetid("", opset)]
    if any(op == "QGemm" for op, *_ in steps):
        domains.append(helper.make_opsetid("com.microsoft", 1))
    nodes = []
    for op, inputs, outputs, attributes in steps:
        names = ["" if each == "-" else each for each in inputs.split()]
        node = helper.make_node(op, names, outputs.split(), domain="com.microsoft" if op == "QGemm" else "")
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        nodes.append(node)
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", kind, [rows, *row])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None if target is None else [rows, *target])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=domains, ir_version=IR_VERSIONS[opset])
    if target is None:
        options = ort.SessionOptions()
        options.log_severity_level = 4  # an exception says it, too
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (y,) = session.run(["y"], {"x": np.zeros((batch or 2, *row), dtype)})
        target = y.shape[1:]
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, *target]))
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return Sample(name, data, ("x", dtype, tuple(row)), ("y", "float32", tuple(target)), batch)


def one(op: str, row: Sequence[int], constants: Sequence[Any] = (), opset: int = 20, **attributes: Any) -> Sample:
    """Make a graph of one operator: x and constants in, y out."""
    named = {f"c{index}": value for index, value in enumerate(constants) if value is not None}
    inputs = ["x", *("-" if value is None else f"c{index}" for index, value in enumerate(constants))]
    return build(op, row, [(op, " ".join(inputs), "y", attributes)], named, opset=opset)


def pooled(sample: Sample) -> Sample:
    """Reduce every row of the output to one number, so that mutations before it may change the shape."""
    model = onnx.load_from_string(sample.data)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["inner" if name == "y" else name for name in node.output]
    graph.node.append(helper.make_node("Flatten", ["inner"], ["flattened"], axis=1))
    graph.node.append(helper.make_node("ReduceMax", ["flattened", "second"], ["y"], keepdims=0))
    graph.initializer.append(numpy_helper.from_array(ints(1), "second"))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [sample.batch or "batch"]))
    return replace(sample, name=f"{sample.name}-pooled", data=model.SerializeToString(), target=("y", "float32", ()))


def draw(*shape: int, seed: int = 0) -> Array:
    """Draw float32 numbers."""
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    """Return an int64 vector."""
    return np.array(numbers, np.int64)


@cache
def samples() -> dict[str, Sample]:
    """Return all samples by name."""
    made = [*_elementwise(), *_layers(), *_recurrent(), *_shapes(), *_quantised(), *_whole()]
    return {sample.name: sample for sample in (*made, *map(pooled, made))}


def _elementwise() -> list[Sample]:
    unary = (
        "Abs Ceil Erf Exp Floor HardSwish Log Mish Neg Reciprocal Relu Round Sigmoid Sign Softplus Softsign Sqrt Tanh "
        "Elu ThresholdedRelu LeakyRelu Celu Selu HardSigmoid Gelu Softmax LogSoftmax Identity"
    )
    made = [one(op, (3, 4)) for op in unary.split()]
    made += [one(op, (3, 4), [draw(3, 1)]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Pow")]
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        made.append(build(op, (4,), [(op, "x c", "b", {}), ("Cast", "b", "y", {"to": 1})], {"c": np.float32(0.5)}))
    for op in ("And", "Or"):
        steps: list[Step] = [("Greater", "x c", "b", {}), ("Less", "x d", "e", {}), (op, "b e", "g", {})]
        steps += [("Not", "g", "h", {}), ("Where", "h x c", "y", {})]
        made.append(build(op, (4,), steps, {"c": np.float32(0.5), "d": draw(4)}))
    made.append(one("PRelu", (3, 4), [draw(3, 1)]))
    made.append(one("Clip", (4,), [np.float32(-1), np.float32(1)]))
    half: list[Step] = [("Cast", "x", "h", {"to": 10}), ("Add", "h h", "g", {}), ("Cast", "g", "y", {"to": 1})]
    made.append(build("half", (4,), half))
    return made


def _layers() -> list[Sample]:
    scale, bias = np.abs(draw(4)) + 0.5, draw(4)
    image = (4, 6, 5)
    made = [
        one("BatchNormalization", image, [scale, bias, bias, scale], epsilon=1e-3),
        one("InstanceNormalization", image, [scale, bias]),
        one("GroupNormalization", image, [scale, bias], num_groups=2, opset=21),
        one("LayerNormalization", (3, 4), [scale, bias], axis=-1),
        one("Gemm", (4,), [draw(3, 4), draw(3)], transB=1, alpha=0.5),
        one("MatMul", (3, 4), [draw(4, 2)]),
        build(
            "attention",
            (3, 4),
            [
                ("Transpose", "x", "t", {"perm": [0, 2, 1]}),
                ("MatMul", "x t", "s", {}),
                ("Softmax", "s", "p", {"axis": -1}),
                ("MatMul", "p x", "y", {}),
            ],
        ),
        one("Conv", image, [draw(6, 2, 3, 3), draw(6)], group=2, strides=[2, 1], pads=[1, 1, 1, 0], dilations=[1, 2]),
        build("Conv1d", (2, 9), [("Conv", "x w", "y", {"strides": [2]})], {"w": draw(3, 2, 4)}),
        one(
            "ConvTranspose",
            image,
            [draw(4, 3, 3, 3), draw(3)],
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 0],
        ),
        one("MaxPool", image, kernel_shape=[2, 3], strides=[2, 1], pads=[0, 1, 0, 1]),
        one("AveragePool", image, kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1),
        one("GlobalAveragePool", image),
        one("GlobalMaxPool", image),
    ]
    reductions = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Sum", "SumSquare")
    made += [one(f"Reduce{op}", (3, 4), [ints(1, -1)], keepdims=len(op) % 2) for op in reductions]
    top: list[Step] = [
        ("TopK", "x k", "values indices", {"axis": 1}),
        ("Slice", "values start end axis", "least", {}),
        ("GreaterOrEqual", "x least", "kept", {}),
        ("Where", "kept x zero", "y", {}),
    ]
    numbers = {"k": ints(3), "start": ints(-1), "end": ints(2**63 - 1), "axis": ints(1), "zero": np.float32(0)}
    return [*made, build("TopK", (8,), top, numbers)]


def _recurrent() -> list[Sample]:
    """Series [T, values] through recurrent layers, which take the time first."""
    first: Step = ("Transpose", "x", "t", {"perm": [1, 0, 2]})
    weights = {"w": draw(1, 12, 3), "r": draw(1, 12, 3), "b": draw(1, 24)}
    lstm: list[Step] = [
        first,
        ("LSTM", "t w r b", "y0 h c", {"hidden_size": 3}),
        ("Squeeze", "y0 one", "s", {}),
        ("Add", "s bias", "a", {}),
        ("MatMul", "a m", "p", {}),
        ("Unsqueeze", "h last", "u", {}),
        ("Squeeze", "u last", "v", {}),
        ("Concat", "p v", "j", {"axis": 0}),
        ("Slice", "j start end zero", "k", {}),
        ("Tanh", "k", "n", {}),
        ("Transpose", "n", "y", {"perm": [1, 0, 2]}),
    ]
    numbers = {"one": ints(1), "last": ints(-1), "start": ints(1), "end": ints(9), "zero": ints(0)}
    gru: list[Step] = [
        first,
        ("GRU", "t w r b", "y0 h", {"hidden_size": 3, "direction": "bidirectional", "linear_before_reset": 1}),
        ("Transpose", "y0", "q", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "q wide", "s", {}),
        ("Gather", "s end", "g", {"axis": 0}),
        ("Identity", "g", "y", {}),
    ]
    both = {"w": draw(2, 9, 3), "r": draw(2, 9, 3), "b": draw(2, 18), "wide": ints(0, 0, -1)}
    rnn: list[Step] = [
        first,
        ("RNN", "t w r - - state", "y0 h", {"hidden_size": 2, "direction": "reverse"}),
        ("Squeeze", "h zero", "y", {}),
    ]
    plain = {"w": draw(1, 2, 3), "r": draw(1, 2, 2), "state": draw(1, 1, 2), "zero": ints(0)}
    return [
        build("LSTM", (5, 3), lstm, {**weights, **numbers, "bias": draw(3), "m": draw(3, 3)}),
        build("GRU", (5, 3), gru, {**both, "end": np.array(-1, np.int64)}),
        build("RNN", (5, 3), rnn, plain, batch=1),
    ]


@cache
def trusted_samples() -> dict[str, Sample]:
    """Return a sample of each operator that is run on request only, by name."""
    unary = "Asin Atan Cos Sin Tan Acos Asinh Sinh Cosh Atanh Hardmax Shrink"
    made = [one(op, (3, 4)) for op in unary.split()]
    made.append(build("Acosh", (4,), [("Exp", "x", "e", {}), ("Exp", "e", "f", {}), ("Acosh", "f", "y", {})]))
    made += [one("LpNormalization", (3, 4), axis=-1, p=1), one("LRN", (4, 3, 2), size=3)]
    made += [one("CumSum", (3, 4), [np.array(-1, np.int64)], reverse=1), one("ReduceProd", (3, 4), [ints(1)])]
    made.append(one("Mod", (4,), [np.float32(0.3)], fmod=1))
    for op in ("ArgMax", "ArgMin"):
        made.append(build(op, (3, 4), [(op, "x", "i", {"axis": 2, "keepdims": 0}), ("Cast", "i", "y", {"to": 1})]))
    for op in ("IsNaN", "IsInf"):
        made.append(build(op, (4,), [(op, "x", "b", {}), ("Cast", "b", "y", {"to": 1})]))
    either: list[Step] = [("IsNaN", "x", "a", {}), ("IsInf", "x", "b", {}), ("Xor", "a b", "c", {})]
    made.append(build("Xor", (4,), [*either, ("Cast", "c", "y", {"to": 1})]))
    return {sample.name: sample for sample in made}


def _shapes() -> list[Sample]:
    made = [
        one("Reshape", (3, 4), [ints(-1, 12)]),
        one("Flatten", (3, 4), axis=1),
        one("Squeeze", (1, 4), [ints(1)]),
        one("Unsqueeze", (4,), [ints(1, -1)]),
        one("Transpose", (3, 4, 2), perm=[0, 3, 1, 2]),
        build("Concat", (3, 4), [("Concat", "x x", "y", {"axis": 1})]),
        one("Slice", (3, 4), [ints(2, -1), ints(0, -5), ints(1, 2), ints(-1, -2)]),
        one("Gather", (3, 4), [np.array([[0, -1], [2, 1]], np.int64)[0]], axis=1),
        one("Tile", (3, 4), [ints(1, 2, 1)]),
        one("Pad", (3, 4), [ints(0, 1, 0, 0, 0, 2), np.float32(0.5)]),
        build("Pad-reflect", (3, 4), [("Pad", "x p - a", "y", {"mode": "reflect"})], {"p": ints(2, 1), "a": ints(-1)}),
        one("Resize", (2, 3, 4), [None, np.array([1, 1, 2, 1.5], np.float32)], mode="nearest", nearest_mode="floor"),
        build(
            "Resize-sizes",
            (2, 3, 4),
            [("Resize", "x - - s", "y", {"mode": "linear"})],
            {"s": ints(2, 2, 5, 3)},
            batch=2,
        ),
        one("DepthToSpace", (8, 2, 3), blocksize=2, mode="CRD"),
        one("SpaceToDepth", (2, 4, 6), blocksize=2),
    ]
    steps: list[Step] = [
        ("Shape", "x", "s", {"start": 0, "end": 1}),
        ("Constant", "", "rest", {"value": numpy_helper.from_array(ints(2, 6))}),
        ("Concat", "s rest", "shape", {"axis": 0}),
        ("Reshape", "x shape", "r", {"allowzero": 1}),
        ("Shape", "r", "all", {}),
        ("Slice", "all start end", "some", {}),
        ("Concat", "some last", "wide", {"axis": 0}),
        ("Expand", "one wide", "ones", {}),
        ("Mul", "r ones", "y", {}),
    ]
    numbers = {"one": draw(1, 1, 1), "start": ints(0), "end": ints(2), "last": ints(6)}
    return [*made, build("shapes", (3, 4), steps, numbers)]


def _quantised() -> list[Sample]:
    rng = np.random.default_rng(5)
    xs, xz, ws, wz = np.float32(0.05), np.uint8(128), np.float32(0.02), np.int8(0)
    w = rng.integers(-9, 9, (4, 3)).astype(np.int8)
    kernel = rng.integers(-9, 9, (2, 3, 3, 3)).astype(np.int8)
    named = {"xs": xs, "xz": xz, "ws": ws, "wz": wz, "w": w, "k": kernel, "b": np.array([5, -3, 2], np.int32)}
    named |= {"kb": np.array([5, -3], np.int32), "kz": np.zeros(2, np.int8), "ks": np.full(2, 0.02, np.float32)}
    quantise: Step = ("QuantizeLinear", "x xs xz", "q", {})
    back: Step = ("DequantizeLinear", "r xs xz", "y", {})
    cast: Step = ("Cast", "r", "y", {"to": 1})

    def use(name: str, row: Sequence[int], *steps: Step, batch: int | None = None) -> Sample:
        read = {each for _, inputs, _, _ in steps for each in inputs.split()}
        return build(name, row, steps, {key: value for key, value in named.items() if key in read}, batch=batch)

    dynamic: list[Step] = [
        ("DynamicQuantizeLinear", "x", "q s z", {}),
        ("MatMulInteger", "q w z", "i", {}),
        ("Cast", "i", "f", {"to": 1}),
        ("Mul", "s ws", "sw", {}),
        ("Mul", "f sw", "y", {}),
    ]
    return [
        use("QuantizeLinear", (4,), quantise, ("DequantizeLinear", "q xs xz", "y", {})),
        use("DequantizeLinear", (4,), ("DequantizeLinear", "w ws wz", "f", {}), ("MatMul", "x f", "y", {})),
        use("DynamicQuantizeLinear", (4,), *dynamic, batch=1),
        use("MatMulInteger", (4,), quantise, ("MatMulInteger", "q w xz wz", "r", {}), cast),
        use("ConvInteger", (3, 5, 5), quantise, ("ConvInteger", "q k xz", "r", {"pads": [1, 1, 1, 1]}), cast),
        use("QLinearConv", (3, 5, 5), quantise, ("QLinearConv", "q xs xz k ks kz xs xz kb", "r", {}), back),
        use("QLinearMatMul", (4,), quantise, ("QLinearMatMul", "q xs xz w ws wz xs xz", "r", {}), back),
        use("QGemm", (4,), quantise, ("QGemm", "q xs xz w ws wz b xs xz", "r", {}), back),
        use("QGemm-float", (4,), quantise, ("QGemm", "q xs xz w ws wz b", "y", {})),
    ]


def _whole() -> list[Sample]:
    """Graphs as the exporter writes them: a dense scorer on uint8 images, and a convolutional reconstruction."""
    scorer: list[Step] = [
        ("Cast", "x", "f", {"to": 1}),
        ("Reshape", "f flat", "r", {}),
        ("Mul", "r factor", "u", {}),
        ("Gemm", "u w1 b1", "h", {"transB": 1}),
        ("Relu", "h", "z", {}),
        ("Gemm", "z w2 b2", "o", {"transB": 1}),
        ("Sub", "u o", "d", {}),
        ("ReduceSumSquare", "d axes", "e", {"keepdims": 0}),
        ("Mul", "e share", "y", {}),
    ]
    weights = {"flat": ints(0, -1), "factor": np.float32(1 / 255), "w1": draw(2, 6), "b1": draw(2), "w2": draw(6, 2)}
    weights |= {"b2": draw(6), "axes": ints(1), "share": np.float32(1 / 6)}
    convolutional: list[Step] = [
        ("Transpose", "x", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t k1", "a", {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("Tanh", "a", "b", {}),
        ("ConvTranspose", "b k2", "c", {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ("Sigmoid", "c", "d", {}),
        ("Transpose", "d", "y", {"perm": [0, 2, 3, 1]}),
    ]
    kernels = {"k1": draw(4, 2, 3, 3), "k2": draw(4, 2, 3, 3)}
    return [
        build("scorer", (2, 3), scorer, weights, dtype="uint8", opset=18),
        build("convolutional", (4, 6, 2), convolutional, kernels, opset=18),
        build("fixed", (4,), [("Reshape", "x shape", "y", {})], {"shape": ints(3, 2, -1)}, batch=3),
    ]
