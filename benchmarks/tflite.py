"""An edgeae network as a LiteRT (.tflite) file, written operator by operator from the same weights.

The converter, litert-torch, pins versions that cannot be installed beside edgeae's (typing_extensions of 2024, through
xdsl) and brings JAX and Transformers; so the few operators that an autoencoder needs are written here, with the schema
that LiteRT ships. PyTorch pads a strided convolution on all sides, LiteRT's "SAME" on two of them, so there is a PAD
before one (which XNNPACK fuses) and a SLICE after a transposed one. Feature maps are channels-last, and the weights of
the linear layers next to them are reordered accordingly.

Format: https://ai.google.dev/edge/litert/models/metadata and schema.fbs of TensorFlow Lite, version 3.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgeae.models import Autoencoder
from edgeae.models.layers import GaussianHead, TopK

__all__ = ["quantise", "write"]

Array = np.ndarray[Any, Any]
Operator = schema.BuiltinOperator
Options = schema.BuiltinOptions
ACTIVATIONS = {nn.Sigmoid: "LOGISTIC", nn.Tanh: "TANH", nn.ReLU: "RELU"}
FLOAT_OPERATORS = ("INPUT", "OUTPUT", "SELECT_V2")  # float32 rows in and out; a k-sparse unit is chosen in float
RELU = schema.ActivationFunctionType.RELU
TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "bool": schema.TensorType.BOOL}


def write(model: Autoencoder, batch: int) -> bytes:
    """Return a .tflite file that reconstructs [batch, *input_shape] float32.

    Args:
        model: In eval mode; dense, or convolutional over images.
        batch: Fixed, since a transposed convolution's output shape is a constant there.

    Raises:
        NotImplementedError: naming the layer that this writer does not know.
    """
    layers = _fold([*model.encoder, *model.decoder])
    if model.config.output_activation == "sigmoid":
        layers.append(nn.Sigmoid())
    if model.config.layout == "CHW" and model.config.architecture == "convolutional":
        raise NotImplementedError("channels-first rows: LiteRT's convolutions are channels-last")
    writer = _Writer(batch)
    writer.walk(layers, model.config.input_shape)
    return writer.finish()


def quantise(data: bytes, rows: Array) -> bytes:
    """Return the file in int8 (weights per channel, activations static), float32 in and out, by ai-edge-quantizer.

    Args:
        data: What `write` made for a batch of one.
        rows: float32 [n, *input_shape] to calibrate on.
    """
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(bytearray(data), recipe.static_wi8_ai8())
    for kept in FLOAT_OPERATORS:
        made.update_quantization_recipe(".*", kept, algorithm_key="no_quantize")
    samples = [{"x": row[None]} for row in rows]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        calibrated = made.calibrate({"serving_default": samples})
        result = made.quantize(calibrated, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _fold(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Take batch normalisation into the layer before it, dropout away, and of a Gaussian its mean."""
    result: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d) and isinstance(result[-1], nn.Linear):
            result[-1] = fuse_linear_bn_eval(result[-1], layer)
        elif isinstance(layer, nn.BatchNorm2d) and isinstance(result[-1], nn.Conv2d | nn.ConvTranspose2d):
            result[-1] = fuse_conv_bn_eval(result[-1], layer, transpose=isinstance(result[-1], nn.ConvTranspose2d))
        elif isinstance(layer, GaussianHead):
            result.append(layer.mean)
        elif not isinstance(layer, nn.Dropout):
            result.append(layer)
    return result


class _Writer:
    """Collects tensors and operators; `shape` is the current tensor's as PyTorch has it, without the batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.shape: tuple[int, ...] = ()
        self.order: Array | None = None  # of the values of a flattened feature map

    def walk(self, layers: list[nn.Module], input_shape: tuple[int, ...]) -> None:
        self.shape = input_shape
        self.input = current = self.tensor("x", (self.batch, *input_shape))
        skip = False
        for index, layer in enumerate(layers):
            if skip:
                skip = False
                continue
            following = layers[index + 1 :]
            skip = isinstance(layer, nn.Linear | nn.Conv2d) and bool(following) and isinstance(following[0], nn.ReLU)
            current = self.layer(layer, current, following, relu=skip)
        self.output = current
        self.tensors[current].name = b"x_hat"

    def layer(self, layer: nn.Module, source: int, following: list[nn.Module], *, relu: bool) -> int:
        if isinstance(layer, nn.Linear):
            return self.linear(layer, source, _unflattened(following), relu=relu)
        if isinstance(layer, nn.Conv2d):
            return self.convolution(layer, source, relu=relu)
        if isinstance(layer, nn.ConvTranspose2d):
            return self.transposed(layer, source)
        if isinstance(layer, TopK):
            return self.top_k(layer, source)
        if isinstance(layer, nn.Flatten | nn.Unflatten):
            return self.reshape(layer, source)
        if type(layer) in ACTIVATIONS:
            return self.apply(ACTIVATIONS[type(layer)], [source], self.tensors[source].shape)
        raise NotImplementedError(f"{type(layer).__name__}: not among the layers that benchmarks/tflite.py writes")

    def linear(self, layer: nn.Linear, source: int, image: tuple[int, ...] | None, *, relu: bool) -> int:
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        if self.order is not None:
            weight, self.order = weight[:, self.order], None
        if image is not None:  # becomes a feature map: channels last
            order = np.arange(math.prod(image)).reshape(image).transpose(1, 2, 0).ravel()
            weight, bias = weight[order], bias[order]
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = RELU if relu else 0
        self.shape = (layer.out_features,)
        inputs = [source, self.constant(weight), self.constant(bias)]
        return self.apply("FULLY_CONNECTED", inputs, (self.batch, layer.out_features), options)

    def convolution(self, layer: nn.Conv2d, source: int, *, relu: bool) -> int:
        (before, across), (rows, columns) = _pair(layer.padding), _pair(layer.stride)
        channels, height, width = self.shape
        if before or across:
            pads = np.array([[0, 0], [before, before], [across, across], [0, 0]], np.int32)
            padded = (self.batch, height + 2 * before, width + 2 * across, channels)
            source = self.apply("PAD", [source, self.constant(pads)], padded, schema.PadOptionsT())
        kernel = layer.weight.detach().numpy().transpose(0, 2, 3, 1)
        options = schema.Conv2DOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH, options.strideW = rows, columns
        options.fusedActivationFunction = RELU if relu else 0
        height = (height + 2 * before - kernel.shape[1]) // rows + 1
        width = (width + 2 * across - kernel.shape[2]) // columns + 1
        self.shape = (layer.out_channels, height, width)
        inputs = [source, self.constant(kernel), self.constant(_bias(layer))]
        return self.apply("CONV_2D", inputs, (self.batch, height, width, layer.out_channels), options)

    def transposed(self, layer: nn.ConvTranspose2d, source: int) -> int:
        (before, across), (rows, columns) = _pair(layer.padding), _pair(layer.stride)
        _, height, width = self.shape
        kernel = layer.weight.detach().numpy().transpose(1, 2, 3, 0)
        full = (self.batch, (height - 1) * rows + kernel.shape[1], (width - 1) * columns + kernel.shape[2])
        extra = _pair(layer.output_padding)
        self.shape = (layer.out_channels, full[1] - 2 * before + extra[0], full[2] - 2 * across + extra[1])
        if extra[0] > before or extra[1] > across:
            raise NotImplementedError("a transposed convolution whose output padding exceeds its padding")
        options = schema.TransposeConvOptionsT()
        options.padding = schema.Padding.VALID
        options.strideH, options.strideW = rows, columns
        wide = (*full, layer.out_channels)
        inputs = [self.constant(np.array(wide, np.int32)), self.constant(kernel), source, self.constant(_bias(layer))]
        result = self.apply("TRANSPOSE_CONV", inputs, wide, options, version=3)
        begin = np.array([0, before, across, 0], np.int32)
        size = (self.batch, *self.shape[1:], layer.out_channels)
        inputs = [result, self.constant(begin), self.constant(np.array(size, np.int32))]
        return self.apply("SLICE", inputs, size, schema.SliceOptionsT())

    def top_k(self, layer: TopK, source: int) -> int:
        count, width = layer.active, self.shape[0]
        values = self.tensor("values", (self.batch, count))
        indices = self.tensor("indices", (self.batch, count), "int32")
        inputs = [source, self.constant(np.array(count, np.int32))]
        self.operator("TOPK_V2", inputs, [values, indices], schema.TopKV2OptionsT())
        last = [self.constant(np.array(each, np.int32)) for each in ((0, count - 1), (self.batch, 1))]
        least = self.apply("SLICE", [values, *last], (self.batch, 1), schema.SliceOptionsT())
        keep = self.tensor("keep", (self.batch, width), "bool")
        self.operator("GREATER_EQUAL", [source, least], [keep], schema.GreaterEqualOptionsT())
        inputs = [keep, source, self.constant(np.zeros(1, np.float32))]
        return self.apply("SELECT_V2", inputs, (self.batch, width), schema.SelectV2OptionsT())

    def reshape(self, layer: nn.Flatten | nn.Unflatten, source: int) -> int:
        before = self.shape
        if isinstance(layer, nn.Unflatten):
            self.shape = (*(int(side) for side in layer.unflattened_size), *before[1:])
        else:
            end = len(before) if layer.end_dim == -1 else int(layer.end_dim)
            self.shape = (math.prod(before[:end]), *before[end:])
        if len(before) == 3 and len(self.shape) == 1 and before[0] > 1:
            positions = np.arange(math.prod(before)).reshape(before)
            self.order = positions.transpose(1, 2, 0).ravel()
        stored = (*self.shape[1:], self.shape[0]) if len(self.shape) == 3 else self.shape
        wanted = (self.batch, *stored)
        options = schema.ReshapeOptionsT()
        options.newShape = list(wanted)
        return self.apply("RESHAPE", [source, self.constant(np.array(wanted, np.int32))], wanted, options)

    def tensor(self, name: str, shape: Sequence[int], kind: str = "float32", buffer: int = 0) -> int:
        made = schema.TensorT()
        made.name = f"{name}_{len(self.tensors)}".encode() if name != "x" else b"x"
        made.shape, made.type, made.buffer = list(shape), TYPES[kind], buffer
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, values: Array) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        return self.tensor("constant", values.shape, values.dtype.name, len(self.buffers) - 1)

    def apply(
        self, kind: str, inputs: list[int], shape: Sequence[int], options: Any = None, *, version: int = 1
    ) -> int:
        output = self.tensor(kind.lower(), shape)
        self.operator(kind, inputs, [output], options, version=version)
        return output

    def operator(
        self, kind: str, inputs: list[int], outputs: list[int], options: Any = None, *, version: int = 1
    ) -> None:
        number = getattr(Operator, kind)
        known = [code.builtinCode for code in self.codes]
        if number not in known:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
            self.codes.append(code)
            known.append(number)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = known.index(number), inputs, outputs
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(Options, type(options).__name__.removesuffix("T"))
        self.operators.append(made)

    def finish(self) -> bytes:
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, b"main"
        graph.inputs, graph.outputs = [self.input], [self.output]
        model = schema.ModelT()
        model.version, model.description = 3, b"edgeae benchmark"
        model.buffers, model.operatorCodes, model.subgraphs = self.buffers, self.codes, [graph]
        model.signatureDefs = [_signature(self.input, self.output)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _signature(source: int, target: int) -> Any:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs, signature.outputs = [_named(b"x", source)], [_named(b"x_hat", target)]
    return signature


def _named(name: bytes, index: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, index
    return made


def _unflattened(following: list[nn.Module]) -> tuple[int, ...] | None:
    """Return the shape of the feature map that a linear layer's result becomes with nothing but activations between."""
    for layer in following:
        if isinstance(layer, nn.Unflatten):
            size = tuple(int(side) for side in layer.unflattened_size)
            return size if len(size) == 3 else None
        if type(layer) not in ACTIVATIONS:
            return None
    return None


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Array:
    if layer.bias is None:
        return np.zeros(layer.out_channels, np.float32)
    bias: Array = layer.bias.detach().numpy()
    return bias


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)
