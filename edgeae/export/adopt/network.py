"""The foreign model itself, as ONNX Runtime runs it: what the bundle's graphs are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper
from torch import Tensor

from edgeae.errors import ExportError

__all__ = ["OnnxNetwork", "Runner", "Side", "count_parameters", "from_middle", "to_middle"]

Array = np.ndarray[Any, Any]
_CHUNK: Final = 256


def to_middle(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with `name`, any of its values, as its output."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = [value for value in model.graph.output if value.name == name]
    del exposed.graph.output[:]
    exposed.graph.output.extend(known or [onnx.ValueInfoProto(name=name)])
    return exposed


def from_middle(model: onnx.ModelProto, name: str, dtype: str, sides: Sequence[int]) -> onnx.ModelProto:
    """Return the model with its value `name`, [any batch, *sides], as a first input before its own."""
    fed = onnx.ModelProto()
    fed.CopyFrom(model)
    for node in fed.graph.node:
        node.output[:] = [f"edgeae.instead_of_{each}" if each == name else each for each in node.output]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    fed.graph.input.insert(0, helper.make_tensor_value_info(name, kind, ["edgeae_batch", *sides]))
    return fed


@dataclass(frozen=True)
class Side:
    """An input of a model: its name, NumPy's name of its type, the shape of one row."""

    name: str
    dtype: str
    sides: tuple[int, ...]


@dataclass(frozen=True)
class Runner:
    """Runs a model of a fixed or free batch over any number of rows.

    Attributes:
        model: The bytes of what to run.
        source: The input that takes the rows.
        target: The output's name.
        batch: Rows per call, or None for any number.
        permutation: How the axes of the output, the batch first, come into the order of the rows.
        others: Inputs that are fed zeros, since only their batch counts.
        plain: Run it without ONNX Runtime's rewriting, which rounds in another way.
    """

    model: bytes = field(repr=False)
    source: Side
    target: str
    batch: int | None
    permutation: tuple[int, ...] | None = None
    others: tuple[Side, ...] = ()
    plain: bool = False

    @cached_property
    def _session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if self.plain:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return ort.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # onnxruntime's exceptions have no common base but Exception
            raise ExportError(f"ONNX Runtime does not load the model: {str(problem).splitlines()[0]}") from problem

    def __call__(self, rows: Array) -> Array:
        """Return float32 [n, ...] for rows [n, ...] of as many values as the input has.

        Raises:
            ExportError: if ONNX Runtime does not run the model.
        """
        feed = rows.reshape(len(rows), *self.source.sides).astype(self.source.dtype)
        step = self.batch or _CHUNK
        parts = []
        for start in range(0, len(feed), step):
            part = feed[start : start + step]
            count = len(part)
            if self.batch is not None and count < step:
                part = np.concatenate([part, np.repeat(part[-1:], step - count, axis=0)])
            feeds = {other.name: np.zeros((len(part), *other.sides), other.dtype) for other in self.others}
            try:
                (made,) = self._session.run([self.target], {**feeds, self.source.name: part})
            except Exception as problem:  # as above
                raise ExportError(f"ONNX Runtime does not run the model: {str(problem).splitlines()[0]}") from problem
            parts.append(made[:count])
        made = np.concatenate(parts).astype(np.float32)
        return made if self.permutation is None else np.ascontiguousarray(made.transpose(self.permutation))


@dataclass(frozen=True)
class OnnxNetwork:
    """A foreign autoencoder and its cores: an `edgeae.export.cores.Autoencoder`.

    Attributes:
        encoder: Runs the original from the rows to the latent.
        decoder: Runs the original from the latent to the reconstruction (before a sigmoid where `sigmoid`).
        cores: The graphs that were made of it.
        row_shape: Shape of one row of the bundle.
        latent_dim: Length of the flat latent.
        sigmoid: Whether a sigmoid follows the decoder's core.
        parameters: Number of weights.
        origin: What to call it in messages.
        latent: Name of the latent in the model.
        variational: Never: its latent is the mean.
    """

    encoder: Runner
    decoder: Runner
    cores: tuple[onnx.GraphProto, onnx.GraphProto] = field(repr=False)
    row_shape: tuple[int, ...]
    latent_dim: int
    sigmoid: bool
    parameters: int
    origin: str
    latent: str
    variational: bool = False

    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        """Return (z [batch, latent_dim], None) of normalised rows."""
        z = self.encoder(x.numpy()).reshape(len(x), self.latent_dim)
        return torch.from_numpy(z).to(x.dtype), None

    def decode(self, z: Tensor) -> Tensor:
        """Return the reconstruction [batch, *row] of latents."""
        made = self.decoder(z.numpy()).reshape(len(z), *self.row_shape)
        return torch.from_numpy(made).to(z.dtype)

    def to(self, dtype: torch.dtype) -> OnnxNetwork:
        """Return a copy that rounds in another way: ONNX Runtime has too few float64 operators to measure against."""
        if dtype == torch.float32:
            return self
        return replace(self, encoder=replace(self.encoder, plain=True), decoder=replace(self.decoder, plain=True))

    def core(self, role: str, *, opset: int, half: bool = False) -> onnx.GraphProto:
        """Return the bare "encoder" or "decoder", which has but one opset and is not made in half precision.

        Raises:
            ExportError: for half precision.
        """
        if half:
            raise ExportError("precision: fp16 graphs are made of trained runs and PyTorch modules only")
        return self.cores[role == "decoder"]


def count_parameters(model: onnx.ModelProto) -> int:
    """Return how many numbers the weights of a model hold; shapes and axes are none."""
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.INT64]
    return sum(math.prod(tensor.dims) for tensor in weights)
