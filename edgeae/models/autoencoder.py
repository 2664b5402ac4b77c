"""The autoencoder: an encoder, a decoder and an output activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgeae.models.config import ModelConfig
from edgeae.models.layers import build_decoder, build_encoder, initialise

__all__ = ["Autoencoder"]


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
