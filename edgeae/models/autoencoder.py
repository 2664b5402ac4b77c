"""The autoencoder: an encoder, a decoder and an output activation."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgeae.models.config import ModelConfig
from edgeae.models.layers import build_decoder, build_encoder, initialise

__all__ = ["Autoencoder", "fold_batchnorm"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Autoencoder(nn.Module):
    """Compresses normalised rows to a latent vector and reconstructs them.

    Attributes:
        config: The network's shape.
        encoder: float32 normalised x [batch, *input_shape] -> z [batch, latent]; when variational it returns
            (mean, log_variance), each [batch, latent].
        decoder: z [batch, latent] -> the output before its activation, [batch, *input_shape].

    Example:
        >>> model = Autoencoder(ModelConfig(input_shape=(28, 28), layout="HW", latent_dim=64))
        >>> model(torch.rand(2, 28, 28)).shape
        torch.Size([2, 28, 28])
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config)
        self.decoder = build_decoder(config)
        self.apply(initialise)

    def encode(self, x: Tensor) -> Tensor:
        """Return the latent of x, [batch, latent]; of a variational model its mean, so that it is deterministic."""
        z = self.encoder(x)
        latent: Tensor = z[0] if self.config.bottleneck == "variational" else z
        return latent

    def activate(self, output: Tensor) -> Tensor:
        """Turn the decoder's output into the normalised reconstruction of the same shape."""
        return torch.sigmoid(output) if self.config.output_activation == "sigmoid" else output

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised reconstruction of normalised x, both [batch, *input_shape]."""
        return self.activate(self.decoder(self.encode(x)))


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose batch normalisations are folded into the layer before them.

    Looks into `nn.Sequential`s, where the order of the children is the order of the computation. Dropout, which does
    nothing in eval mode, is left out of them.

    Example:
        >>> folded = fold_batchnorm(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))
        >>> [type(layer).__name__ for layer in folded]
        ['Linear']
    """
    return _fold(copy.deepcopy(module).eval())


def _fold(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, _fold(child))
    if type(module) is not nn.Sequential:
        return module
    layers: list[nn.Module] = []
    for layer in module:
        if isinstance(layer, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout):
            continue
        fused = _fused(layers[-1], layer) if layers else None
        if fused is None:
            layers.append(layer)
        else:
            layers[-1] = fused
    return nn.Sequential(*layers)


def _fused(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    """Return one layer that does what the two do, or None where there is none."""
    if not isinstance(norm, _BATCH_NORMS) or not norm.track_running_stats or not norm.affine:
        return None
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, norm)
    if isinstance(layer, _CONVOLUTIONS):
        return fuse_conv_bn_eval(layer, norm)
    if isinstance(layer, _TRANSPOSED) and layer.groups == 1:
        return fuse_conv_bn_eval(layer, norm, transpose=True)
    return None
