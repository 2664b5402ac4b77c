"""The bare encoder and decoder as ONNX graphs, by PyTorch's own exporter.

A core is what the network alone computes: normalised rows in, latents out; latents in, reconstruction before the output
activation out. `edgeae.export.assemble` puts the bundle's three graphs together from the two cores.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import onnx
import torch
from torch import Tensor, nn

from edgeae.errors import ExportError

__all__ = ["Autoencoder", "Network", "export_core", "trace"]


class Autoencoder(Protocol):
    """What can be exported: something that computes, to compare with, and its cores as graphs."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""

    @property
    def latent_dim(self) -> int:
        """Length of the flat latent."""

    @property
    def variational(self) -> bool:
        """Whether the encoder gives a log variance, too."""

    @property
    def sigmoid(self) -> bool:
        """Whether a sigmoid follows the decoder."""

    @property
    def parameters(self) -> int:
        """Number of weights."""

    @property
    def origin(self) -> str:
        """What computes it, for messages."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (z, log variance or None) of normalised rows, both flat [batch, latent_dim]."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the reconstruction before the output activation, [batch, *row]."""

    def to(self, dtype: torch.dtype) -> Autoencoder:
        """Return a copy that computes in another type, to see what rounding does."""

    def core(self, role: str, *, opset: int, half: bool = False) -> onnx.GraphProto:
        """Return the bare "encoder" or "decoder" as a graph: see `export_core`."""


@dataclass(frozen=True)
class Network:
    """An encoder and a decoder in PyTorch, in eval mode on the CPU, and the shapes between them.

    Attributes:
        encoder: Normalised rows float32 [batch, *row] -> latent, or (mean, log variance) when `variational`.
        decoder: Latent -> reconstruction before the output activation, [batch, *row].
        row_shape: Shape of one row.
        latent_shape: Shape of one latent as the modules have it; bundles always have it flat.
        variational: The encoder returns two tensors.
        sigmoid: A sigmoid follows the decoder.
    """

    encoder: nn.Module
    decoder: nn.Module
    row_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    variational: bool
    sigmoid: bool

    @property
    def latent_dim(self) -> int:
        """Length of the flat latent."""
        return math.prod(self.latent_shape)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for part in (self.encoder, self.decoder) for weight in part.parameters())

    @property
    def origin(self) -> str:
        """What computes it, for messages."""
        return "PyTorch"

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (z, log variance or None), both flat [batch, latent_dim]."""
        result = self.encoder(x)
        if self.variational:
            mean, log_var = result
            return mean.flatten(1), log_var.flatten(1)
        return result.flatten(1), None

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the reconstruction before the output activation, [batch, *row]."""
        result: Tensor = self.decoder(z.reshape(len(z), *self.latent_shape))
        return result

    def to(self, dtype: torch.dtype) -> Network:
        """Return a copy whose weights are of another type."""
        encoder, decoder = (copy.deepcopy(part).to(dtype) for part in (self.encoder, self.decoder))
        return replace(self, encoder=encoder, decoder=decoder)

    def core(self, role: str, *, opset: int, half: bool = False) -> onnx.GraphProto:
        """Return the bare "encoder" or "decoder" as a graph: see `export_core`."""
        return export_core(self, role, opset=opset, half=half)

    @staticmethod
    def of(encoder: nn.Module, decoder: nn.Module, rows: Tensor, *, sigmoid: bool) -> Network:
        """Run `rows` (normalised, float32 [n >= 1, *row]) through copies of the modules to learn their shapes.

        Raises:
            ExportError: if the modules do not fit together.
        """
        encoder, decoder = (copy.deepcopy(part).cpu().float().eval() for part in (encoder, decoder))
        try:
            with torch.no_grad():
                encoded = encoder(rows)
                variational = isinstance(encoded, tuple | list)
                z = encoded[0] if variational else encoded
                decoded = decoder(z)
        except (RuntimeError, TypeError, ValueError, IndexError) as problem:
            raise ExportError(f"the modules do not take rows of shape {tuple(rows.shape[1:])}: {problem}") from problem
        if variational and (len(encoded) != 2 or encoded[1].shape != z.shape):
            raise ExportError("an encoder that returns several tensors must return (mean, log variance) of one shape")
        network = Network(encoder, decoder, tuple(rows.shape[1:]), tuple(z.shape[1:]), variational, sigmoid)
        if not all(bool(torch.isfinite(weight).all()) for part in (encoder, decoder) for weight in part.parameters()):
            raise ExportError(
                "the model has weights that are not finite: its training diverged; train with a lower rate"
            )
        if not torch.equal(network.encode(rows)[0], z.flatten(1)) or not torch.equal(
            network.decode(z.flatten(1)), decoded
        ):
            raise ExportError("the modules give different results for the same rows; take randomness out of eval mode")
        if decoded.shape != rows.shape:
            raise ExportError(
                f"the decoder returns {tuple(decoded.shape[1:])} for rows of shape {tuple(rows.shape[1:])}; "
                "a reconstruction must have the shape of its input"
            )
        return network


class _FlatEncoder(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.encoder = network.encoder
        self.flat = len(network.latent_shape) == 1

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.encoder(x)
        if self.flat:
            return result if isinstance(result, Tensor) else tuple(result)
        return result.flatten(1) if isinstance(result, Tensor) else tuple(part.flatten(1) for part in result)


class _FlatDecoder(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.decoder = network.decoder
        self.latent_shape = network.latent_shape

    def forward(self, z: Tensor) -> Tensor:
        shaped = z if len(self.latent_shape) == 1 else z.reshape(-1, *self.latent_shape)
        result: Tensor = self.decoder(shaped)
        return result


def export_core(network: Network, role: str, *, opset: int, half: bool = False) -> onnx.GraphProto:
    """Export the network's bare "encoder" or "decoder".

    Args:
        network: What to export.
        role: "encoder" (input x; outputs z and, when variational, log_var) or "decoder" (input z, output out).
        opset: ONNX operator set version.
        half: In float16, inputs and outputs included.

    Raises:
        ExportError: if PyTorch cannot export the module, or not for every batch size.
    """
    if role == "encoder":
        module: nn.Module = _FlatEncoder(network)
        names, outputs, shape = "x", ["z", "log_var"][: 1 + network.variational], network.row_shape
    else:
        module, names, outputs, shape = _FlatDecoder(network), "z", ["out"], (network.latent_dim,)
    dtype = torch.float16 if half else torch.float32
    module = copy.deepcopy(module).to(dtype).eval()
    # a batch of 2, since the exporter takes a batch of 1 for a constant
    model = trace(module, torch.zeros(2, *shape, dtype=dtype), names, outputs, opset=opset, what=role)
    if model.functions:
        raise ExportError(f"the {role} exports to ONNX functions ({model.functions[0].name}), which edgeae refuses")
    foreign = sorted({node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ExportError(f"the {role} exports to operators outside ONNX ({', '.join(foreign)}), which edgeae refuses")
    _check_batch(model.graph, role)
    return _cleaned(model.graph)


def trace(
    module: nn.Module, example: Tensor, source: str, outputs: list[str] | None, *, opset: int, what: str
) -> onnx.ModelProto:
    """Export a module with PyTorch's exporter, quietly, with a free batch.

    Args:
        module: In eval mode.
        example: Rows [2, *row] of what it takes.
        source: The name of its input.
        outputs: Names of its outputs; None leaves them to the exporter.
        opset: ONNX operator set version.
        what: What to call it in messages.

    Raises:
        ExportError: if PyTorch cannot export it.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                input_names=[source],
                output_names=outputs,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                external_data=False,
                optimize=True,
                verbose=False,
            )
    except Exception as problem:  # the exporter raises whatever its many stages raise
        raise ExportError(f"PyTorch cannot export the {what} as ONNX: {_reason(problem)}") from problem
    if program is None:
        raise ExportError(f"PyTorch's exporter returned nothing for the {what}")
    made: onnx.ModelProto = program.model_proto
    return made


def _check_batch(graph: onnx.GraphProto, role: str) -> None:
    for value in (*graph.input, *graph.output):
        if not value.type.tensor_type.shape.dim[0].dim_param:
            raise ExportError(
                f"the {role} exports with a fixed batch: something in it depends on the batch size; "
                "use reshape(-1, ...) or flatten(1) instead of shapes from an example"
            )


def _cleaned(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Drop what the exporter leaves for debugging: source paths, stack traces, shapes of intermediate values."""
    clean = onnx.GraphProto()
    clean.CopyFrom(graph)
    for field in ("value_info", "metadata_props", "doc_string", "quantization_annotation"):
        clean.ClearField(field)
    for item in (*clean.node, *clean.initializer, *clean.input, *clean.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return clean


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about itself (deprecations inside it, torchvision not installed) from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(problem: BaseException) -> str:
    """Return the first line of what was at the bottom of it, without the exporter's report around it."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(problem)).strip().splitlines()
    return lines[0] if lines else type(problem).__name__
