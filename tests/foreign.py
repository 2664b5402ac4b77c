"""Small autoencoders as other tools write them: fixed batches, NHWC, float64, quantised, recurrent, old opsets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Node = tuple[str, str, str, Mapping[str, Any]]  # operator (with its domain), inputs, outputs, attributes


def draw(*shape: int, seed: int = 0) -> Array:
    """Draw float32 weights."""
    return np.random.default_rng([seed, *shape]).normal(0, 0.5, shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    """Return an int64 vector."""
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Model:
    """A model file to be: its nodes, constants, input and outputs (name to declared shape)."""

    row: tuple[int, ...]
    nodes: Sequence[Node]
    constants: Mapping[str, Any]
    batch: int | str = "N"
    dtype: str = "float32"
    outputs: Mapping[str, Sequence[int | str] | None] = field(default_factory=lambda: {"y": None})
    opset: int = 17
    ir_version: int = 8

    def build(self) -> onnx.ModelProto:
        """Return it as ONNX."""
        nodes: list[onnx.NodeProto] = []
        domains = {""}
        for op, inputs, outputs, attributes in self.nodes:
            domain, _, name = op.rpartition(":")
            names, made = (["" if each == "-" else each for each in text.split()] for text in (inputs, outputs))
            node = helper.make_node(name, names, made, name=f"node_{len(nodes)}", domain=domain)
            node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
            nodes.append(node)
            domains.add(domain)
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        result = TensorProto.DOUBLE if self.dtype == "float64" else TensorProto.FLOAT
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("input", kind, [self.batch, *self.row])],
            [helper.make_tensor_value_info(name, result, shape) for name, shape in self.outputs.items()],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()],
        )
        versions = {"": self.opset, "ai.onnx.ml": 1, "com.microsoft": 1}
        imports = [helper.make_opsetid(domain, versions[domain]) for domain in sorted(domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=self.ir_version)

    def save(self, path: Path) -> Path:
        """Write it as a file and return the path."""
        onnx.save(self.build(), path)
        return path

    def rows(self, count: int, seed: int = 1) -> Array:
        """Draw rows of its type."""
        rng = np.random.default_rng(seed)
        if self.dtype in ("uint8", "int64"):
            return rng.integers(0, 256 if self.dtype == "uint8" else 9, (count, *self.row)).astype(self.dtype)
        return rng.normal(0, 1, (count, *self.row)).astype(self.dtype)


def run(path: Path | onnx.ModelProto, x: Array, output: str | None = None, batch: int = 1) -> Array:
    """Return what ONNX Runtime gives for rows, `batch` at a time."""
    data = path.SerializeToString() if isinstance(path, onnx.ModelProto) else str(path)
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0].name
    names = None if output is None else [output]
    parts = [session.run(names, {source: x[start : start + batch]})[0] for start in range(0, len(x), batch)]
    return np.concatenate(parts)


_DENSE = {"w1": draw(12, 4), "b1": draw(4), "w2": draw(4, 12), "b2": draw(12)}
_MIDDLE: list[Node] = [
    ("MatMul", "flat w1", "h0", {}),
    ("Add", "h0 b1", "h1", {}),
    ("Relu", "h1", "latent", {}),
    ("MatMul", "latent w2", "h2", {}),
    ("Add", "b2 h2", "last", {}),
]


def dense() -> Model:
    """As tf2onnx writes a Keras model: a free batch, MatMul and Add."""
    return Model((12,), [("Identity", "input", "flat", {}), *_MIDDLE, ("Identity", "last", "y", {})], _DENSE)


def fixed() -> Model:
    """A batch of 1, also in the constants of its Reshapes."""
    nodes: list[Node] = [("Reshape", "input s1", "flat", {}), *_MIDDLE, ("Reshape", "last s2", "y", {})]
    return Model((3, 4), nodes, {**_DENSE, "s1": ints(1, -1), "s2": ints(1, 3, 4)}, batch=1, outputs={"y": [1, 3, 4]})


def wrongly_free() -> Model:
    """Declares a free batch, but its Reshape holds a batch of 4."""
    return Model((3, 4), fixed().nodes, {**_DENSE, "s1": ints(4, 12), "s2": ints(4, 3, 4)})


def reads_its_shape() -> Model:
    """As torch.onnx's older exporter writes `x.view(x.size(0), -1)`: Shape, Gather, Unsqueeze, Concat."""
    nodes: list[Node] = [
        ("Shape", "input", "shape", {}),
        ("Constant", "", "zero", {"value": numpy_helper.from_array(np.array(0, np.int64))}),
        ("Gather", "shape zero", "n", {"axis": 0}),
        ("Unsqueeze", "n axes", "n1", {}),
        ("Concat", "n1 minus", "s1", {"axis": 0}),
        ("Reshape", "input s1", "flat", {}),
        *_MIDDLE,
        ("Reshape", "last shape", "y", {}),
    ]
    return Model((3, 4), nodes, {**_DENSE, "axes": ints(0), "minus": ints(-1)})


def mixes_rows() -> Model:
    """Subtracts the mean of the batch: what a row gives depends on the others."""
    nodes: list[Node] = [
        ("ReduceMean", "input", "m", {"axes": [0], "keepdims": 1}),
        ("Mul", "m half", "hm", {}),
        ("Sub", "input hm", "flat", {}),
        *_MIDDLE,
        ("Identity", "last", "y", {}),
    ]
    return Model((12,), nodes, {**_DENSE, "half": np.float32(0.5)})


def nhwc() -> Model:
    """As tf2onnx writes a convolutional Keras model: NHWC outside, NCHW inside, SAME_UPPER, an output_shape."""
    nodes: list[Node] = [
        ("Transpose", "input", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t k1 b1", "c1", {"strides": [2, 2], "auto_pad": "SAME_UPPER", "kernel_shape": [3, 3]}),
        ("Relu", "c1", "r1", {}),
        ("Conv", "r1 k2 b2", "c2", {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("Relu", "c2", "latent", {}),
        ("ConvTranspose", "latent k3", "d1", {"strides": [2, 2], "auto_pad": "SAME_UPPER", "output_shape": [4, 4]}),
        ("Resize", "d1 roi scales", "d2", {"mode": "nearest", "nearest_mode": "floor",
         "coordinate_transformation_mode": "asymmetric"}),
        ("Conv", "d2 k4", "d3", {"auto_pad": "SAME_LOWER"}),
        ("Sigmoid", "d3", "s", {}),
        ("Transpose", "s", "y", {"perm": [0, 2, 3, 1]}),
    ]  # fmt: skip
    constants = {"k1": draw(4, 3, 3, 3), "b1": draw(4), "k2": draw(2, 4, 3, 3), "b2": draw(2), "k3": draw(2, 4, 3, 3)}
    constants |= {"k4": draw(3, 4, 2, 2), "roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    return Model((8, 8, 3), nodes, constants)


def channels_moved() -> Model:
    """Takes [8, 6, 3], gives [3, 8, 6], 8 x 6 pixels of 3 channels."""
    nodes: list[Node] = [
        ("Transpose", "input", "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", "t k1", "latent", {"strides": [2, 2]}),
        ("ConvTranspose", "latent k2", "y", {"strides": [2, 2]}),
    ]
    return Model((8, 6, 3), nodes, {"k1": draw(2, 3, 2, 2), "k2": draw(2, 3, 2, 2)})


def normed() -> Model:
    """BatchNormalization behind Conv, ConvTranspose and Gemm."""
    image: list[Node] = [
        ("Conv", "input k1", "c1", {"strides": [2, 2], "pads": [1, 1, 0, 0]}),
        ("BatchNormalization", "c1 g1 e1 m1 v1", "n1", {"epsilon": 1e-3}),
        ("Relu", "n1", "r1", {}),
        ("Flatten", "r1", "f", {"axis": 1}),
        ("Gemm", "f w1 b1", "h1", {"alpha": 0.5}),
        ("BatchNormalization", "h1 g2 e2 m2 v2", "latent", {}),
        ("Gemm", "latent w2", "h2", {"transB": 1}),
        ("Reshape", "h2 s", "i", {}),
        ("ConvTranspose", "i k2 b2", "d1", {"strides": [2, 2]}),
        ("BatchNormalization", "d1 g3 e3 m3 v3", "y", {}),
    ]
    constants = {"k1": draw(4, 1, 3, 3), "w1": draw(36, 3), "b1": draw(3), "w2": draw(36, 3), "s": ints(0, 4, 3, 3)}
    constants |= {"k2": draw(4, 1, 2, 2), "b2": draw(1)}
    for index, count in ((1, 4), (2, 3), (3, 1)):
        constants |= {f"g{index}": draw(count, seed=1), f"e{index}": draw(count, seed=2)}
        constants |= {f"m{index}": draw(count, seed=3), f"v{index}": np.abs(draw(count, seed=4)) + 0.5}
    return Model((1, 6, 6), image, constants)


def double() -> Model:
    """float64 throughout."""
    model = dense()
    weights = {name: np.asarray(value).astype(np.float64) for name, value in model.constants.items()}
    return Model((12,), model.nodes, weights, dtype="float64")


def half() -> Model:
    """float16 inside, float32 outside."""
    weights = {name: np.asarray(value).astype(np.float16) for name, value in _DENSE.items()}
    nodes: list[Node] = [("Cast", "input", "flat", {"to": 10}), *_MIDDLE, ("Cast", "last", "y", {"to": 1})]
    return Model((12,), nodes, weights)


def bytes_in() -> Model:
    """uint8 images, cast and scaled inside."""
    nodes: list[Node] = [
        ("Cast", "input", "f", {"to": 1}),
        ("Div", "f most", "u", {}),
        ("Reshape", "u s", "flat", {}),
        *_MIDDLE,
        ("Mul", "last most", "m", {}),
        ("Reshape", "m s2", "y", {}),
    ]
    constants = {**_DENSE, "most": np.float32(255), "s": ints(-1, 12), "s2": ints(-1, 3, 4)}
    return Model((3, 4), nodes, constants, dtype="uint8")


def integers_in() -> Model:
    """int64 rows that are sliced before they are cast."""
    nodes: list[Node] = [
        ("Slice", "input zero twelve one", "i", {}),
        ("Cast", "i", "flat", {"to": 1}),
        *_MIDDLE,
        ("Identity", "last", "y", {}),
    ]
    return Model((12,), nodes, {**_DENSE, "zero": ints(0), "twelve": ints(12), "one": ints(1)}, dtype="int64")


def old() -> Model:
    """Opset 9 and IR version 3: attributes that became inputs, Upsample, Dropout, a pre-13 Softmax."""
    nodes: list[Node] = [
        ("Unsqueeze", "input", "u", {"axes": [1]}),
        ("Conv", "u k1", "c", {"strides": [2, 2]}),
        ("Clip", "c", "c6", {"min": 0.0, "max": 6.0}),
        ("Dropout", "c6", "p", {"ratio": 0.3}),
        ("Reshape", "p s1", "f", {}),
        ("Gemm", "f w1 b1", "g", {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}),
        ("Softmax", "g", "latent", {"axis": 1}),
        ("Gemm", "latent w2 b2", "h", {}),
        ("Reshape", "h s2", "i", {}),
        ("Upsample", "i scales", "up", {"mode": "nearest"}),
        ("Squeeze", "up", "y", {"axes": [1]}),
    ]
    constants = {"k1": draw(2, 1, 2, 2), "s1": ints(-1, 12), "w1": draw(12, 3), "b1": draw(3), "w2": draw(3, 6)}
    constants |= {"b2": draw(6), "s2": ints(-1, 1, 2, 3), "scales": np.array([1, 1, 2, 2], np.float32)}
    return Model((4, 6), nodes, constants, opset=9, ir_version=4)


def pipeline() -> Model:
    """As skl2onnx writes a StandardScaler and an MLPRegressor."""
    nodes: list[Node] = [
        ("ai.onnx.ml:Scaler", "input", "flat", {"offset": [0.5] * 12, "scale": [2.0] * 12}),
        *_MIDDLE,
        ("Reshape", "last s", "y", {}),
    ]
    return Model((12,), nodes, {**_DENSE, "s": ints(-1, 12)}, opset=15)


def several() -> Model:
    """A variational autoencoder's three outputs."""
    nodes = [*dense().nodes, ("Exp", "latent", "variance", {})]
    return Model((12,), nodes, _DENSE, outputs={"y": None, "latent": None, "variance": None})


def qdq() -> Model:
    """Quantised with QuantizeLinear and DequantizeLinear around every layer, weights in int8."""
    q = {"xs": np.float32(0.03), "xz": np.uint8(128), "ws": np.float32(0.02), "wz": np.int8(0)}
    rng = np.random.default_rng(3)
    weights = {"q1": rng.integers(-90, 90, (12, 4)), "q2": rng.integers(-90, 90, (4, 12))}
    nodes: list[Node] = [
        ("QuantizeLinear", "input xs xz", "i8", {}),
        ("DequantizeLinear", "i8 xs xz", "i", {}),
        ("DequantizeLinear", "q1 ws wz", "w1", {}),
        ("MatMul", "i w1", "h", {}),
        ("Relu", "h", "latent", {}),
        ("QuantizeLinear", "latent xs xz", "l8", {}),
        ("DequantizeLinear", "l8 xs xz", "l", {}),
        ("DequantizeLinear", "q2 ws wz", "w2", {}),
        ("MatMul", "l w2", "y", {}),
    ]
    return Model((12,), nodes, {**q, **{name: value.astype(np.int8) for name, value in weights.items()}})


def qoperator() -> Model:
    """Quantised with QLinearMatMul and com.microsoft's QLinearAdd, as ONNX Runtime's tool writes it."""
    base = qdq().constants
    constants = {name: base[name] for name in ("xs", "xz", "ws", "wz", "q1", "q2")}
    rng = np.random.default_rng(4)
    constants |= {"bias": rng.integers(100, 156, 4).astype(np.uint8)}
    nodes: list[Node] = [
        ("QuantizeLinear", "input xs xz", "i8", {}),
        ("QLinearMatMul", "i8 xs xz q1 ws wz xs xz", "h8", {}),
        ("com.microsoft:QLinearAdd", "h8 xs xz bias xs xz xs xz", "a8", {}),
        ("DequantizeLinear", "a8 xs xz", "latent", {}),
        ("QuantizeLinear", "latent xs xz", "l8", {}),
        ("QLinearMatMul", "l8 xs xz q2 ws wz xs xz", "o8", {}),
        ("DequantizeLinear", "o8 xs xz", "y", {}),
    ]
    return Model((12,), nodes, constants)


def dynamic() -> Model:
    """Quantised while it runs, with one scale for the whole batch."""
    base = qdq().constants
    nodes: list[Node] = [
        ("DynamicQuantizeLinear", "input", "i8 s z", {}),
        ("MatMulInteger", "i8 q1 z wz", "n", {}),
        ("Cast", "n", "f", {"to": 1}),
        ("Mul", "s ws", "sw", {}),
        ("Mul", "f sw", "latent", {}),
        ("DequantizeLinear", "q2 ws wz", "w2", {}),
        ("MatMul", "latent w2", "y", {}),
    ]
    return Model((12,), nodes, {name: base[name] for name in ("ws", "wz", "q1", "q2")})


def lstm(batch: int | str = "N") -> Model:
    """As tf2onnx writes a Keras LSTM autoencoder with RepeatVector: zeros of the batch's size, time first, Squeeze."""
    state: list[Node] = [
        ("Shape", "input", "shape", {}),
        ("Slice", "shape zero one", "n", {}),
        ("Concat", "one n four", "size", {"axis": 0}),
        ("ConstantOfShape", "size", "state", {"value": numpy_helper.from_array(np.zeros(1, np.float32))}),
    ]
    usual = {"hidden_size": 4, "activations": ["Sigmoid", "Tanh", "Tanh"]}
    nodes: list[Node] = [
        *state,
        ("Transpose", "input", "t", {"perm": [1, 0, 2]}),
        ("LSTM", "t w r b - state state", "- last -", usual),
        ("Squeeze", "last zero", "latent", {}),
        ("Unsqueeze", "latent one", "u", {}),
        ("Tile", "u repeats", "repeated", {}),
        ("Transpose", "repeated", "t2", {"perm": [1, 0, 2]}),
        ("LSTM", "t2 w2 r2 b2", "all - -", {"hidden_size": 4}),
        ("Squeeze", "all one", "s", {}),
        ("Transpose", "s", "back", {"perm": [1, 0, 2]}),
        ("Reshape", "back merged", "m", {}),
        ("Gemm", "m w3 b3", "g", {}),
        ("Reshape", "g split", "y", {}),
    ]
    constants = {"w": draw(1, 16, 3), "r": draw(1, 16, 4), "b": draw(1, 32), "w2": draw(1, 16, 4), "r2": draw(1, 16, 4)}
    constants |= {"b2": draw(1, 32), "zero": ints(0), "one": ints(1), "four": ints(4), "repeats": ints(1, 6, 1)}
    constants |= {"merged": ints(-1, 4), "split": ints(-1, 6, 3), "w3": draw(4, 3), "b3": draw(3)}
    return Model((6, 3), nodes, constants, batch=batch)


def gru() -> Model:
    """As torch writes a bidirectional GRU encoder and a dense decoder, for a batch of 1."""
    both = {"hidden_size": 2, "direction": "bidirectional", "linear_before_reset": 1}
    nodes: list[Node] = [
        ("Transpose", "input", "t", {"perm": [1, 0, 2]}),
        ("GRU", "t w r b - state", "all last", both),
        ("Transpose", "all", "q", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "q wide", "s", {}),
        ("Transpose", "s", "back", {"perm": [1, 0, 2]}),
        ("Slice", "back minus end one", "final", {}),
        ("Squeeze", "final one", "latent", {}),
        ("Gemm", "latent w1", "g", {}),
        ("Reshape", "g shape", "y", {}),
    ]
    constants = {"w": draw(2, 6, 3), "r": draw(2, 6, 2), "b": draw(2, 12), "state": np.zeros((2, 1, 2), np.float32)}
    constants |= {"wide": ints(0, 0, -1), "minus": ints(-1), "end": ints(2**62), "one": ints(1), "w1": draw(4, 15)}
    return Model((5, 3), nodes, {**constants, "shape": ints(1, 5, 3)}, batch=1)


def split_and_named() -> Model:
    """Split, and values that are called as a bundle's are: x, z, score, edgeae.batch."""
    nodes: list[Node] = [
        ("Split", "input", "x out", {"axis": 1}),
        ("Sub", "x out", "z", {}),
        ("Gemm", "z w1", "score", {}),
        ("Tanh", "score", "edgeae.shape_1", {}),
        ("Gemm", "edgeae.shape_1 w2", "y", {}),
    ]
    return Model((12,), nodes, {"w1": draw(6, 2), "w2": draw(2, 12)}, opset=13)


def sines() -> Model:
    """An operator that bundles hold on request only."""
    return Model((12,), [("Sin", "input", "flat", {}), *_MIDDLE, ("Identity", "last", "y", {})], _DENSE)


# name: (model, the batch that its bundle has)
ZOO: Mapping[str, tuple[Callable[[], Model], int | None]] = {
    "dense": (dense, None),
    "fixed": (fixed, None),
    "wrongly free": (wrongly_free, None),
    "reads its shape": (reads_its_shape, None),
    "nhwc": (nhwc, None),
    "channels moved": (channels_moved, None),
    "normed": (normed, None),
    "float64": (double, None),
    "float16": (half, None),
    "uint8": (bytes_in, None),
    "int64": (integers_in, None),
    "opset 9": (old, None),
    "scikit-learn": (pipeline, None),
    "qdq": (qdq, None),
    "qoperator": (qoperator, None),
    "dynamic": (dynamic, 1),
    "lstm": (lstm, None),
    "lstm of batch 1": (lambda: lstm(1), None),
    "gru": (gru, None),
    "names": (split_and_named, None),
}
