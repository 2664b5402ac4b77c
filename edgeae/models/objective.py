"""The objective: rows in, one number to minimise out."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeae.models.autoencoder import Autoencoder
from edgeae.models.config import ObjectiveConfig
from edgeae.models.losses import corrupt, gaussian_kl, rate_kl, ssim, weight_penalty

__all__ = ["Objective"]

# A network that has learnt nothing yet takes rows far from the middle for anomalies, whatever they have in common.
TRIMMED_FROM: Final = 0.1  # of the training


class Objective(nn.Module):
    """A model and what it is trained for; its forward pass is the loss.

    The loss of a batch is

        reconstruction + beta * s * KL / d + sparsity and activity penalties + weight penalties

    where the reconstruction loss is a mean over the batch and the d values of a row. KL is that of a variational
    bottleneck, in nats per row. With BCE s = 1, which makes it the negative evidence lower bound per value (Kingma
    and Welling, 2014). The other losses have a scale that the bound depends on; s is what the optimal one gives
    for the batch at hand, so that beta = 1 means the same for every loss: twice the loss for MSE and Huber, once the
    loss for MAE and SSIM (Rybkin, Daniilidis and Levine, Simple and effective VAE training with calibrated decoders,
    2021, https://arxiv.org/abs/2006.13202).

    Example:
        >>> from edgeae.models import Autoencoder, ModelConfig, ObjectiveConfig
        >>> model = Autoencoder(ModelConfig(input_shape=(3,), layout="vector", latent_dim=2))
        >>> loss, reconstruction = Objective(model, ObjectiveConfig())(torch.rand(8, 3))
        >>> bool(loss == reconstruction)
        True
    """

    def __init__(self, model: Autoencoder, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, x: Tensor, done: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return (loss, reconstruction loss alone), each a scalar.

        Randomness (corruption, sampling of the latent) comes from the global generator, in eval mode too, so that
        a validation loss is comparable with a training loss.

        Args:
            x: float32 normalised rows [batch, *input_shape].
            done: 0..1, how much of the training is over: for the warm-up of beta, and trimming, which starts after
                some of it.
        """
        config, model = self.config, self.model
        sigmoid = model.config.output_activation == "sigmoid"
        noisy = corrupt(x, config.noise, config.noise_level, low=config.low, high=config.high, clip=sigmoid)
        divergence = None
        if model.config.bottleneck == "variational":
            z, log_variance = (part.float() for part in model.encoder(noisy))  # each [batch, latent]
            divergence = gaussian_kl(z, log_variance) / model.config.values  # [batch]
            sample = z + torch.exp(0.5 * log_variance) * torch.randn_like(z)
            output = model.decoder(sample)
        else:
            z = model.encoder(noisy)
            output = model.decoder(z)
        # mixed precision ends here: a loss needs more than eight bits
        with torch.autocast(x.device.type, enabled=False):
            output, z = output.float(), z.float()
            if config.trim and done >= TRIMMED_FROM:
                kept = self._typical(output.detach(), x)
                output, z, x = output[kept], z[kept], x[kept]
                divergence = None if divergence is None else divergence[kept]
            reconstruction = self.reconstruction(output, x)
            loss = reconstruction
            if divergence is not None:
                weight = config.beta * min(1.0, done / max(config.beta_warmup, 1e-9))
                loss = loss + weight * self._divergence_scale(reconstruction.detach()) * divergence.mean()
            if config.sparsity == "kl" and config.sparsity_target is not None:
                loss = loss + config.sparsity_weight * rate_kl(z, config.sparsity_target)
            if config.sparsity == "l1":
                loss = loss + config.sparsity_weight * z.abs().mean()
            if config.activity_l1:
                loss = loss + config.activity_l1 * z.abs().mean()
            if config.activity_l2:
                loss = loss + config.activity_l2 * z.square().mean()
            if config.l1 or config.l2:
                loss = loss + weight_penalty(model, config.l1, config.l2)
        return loss, reconstruction.detach()

    def reconstruction(self, output: Tensor, x: Tensor) -> Tensor:
        """Return the reconstruction loss of the decoder's output (before its activation) against x, a scalar."""
        if self.config.loss == "ssim":
            return 1 - self._similarity(output, x).mean()
        return self._difference(output, x, "mean")

    def _typical(self, output: Tensor, x: Tensor) -> Tensor:
        """Return which rows of a batch to learn from: all but the share of those with the largest losses."""
        if self.config.loss == "ssim":
            losses = -self._similarity(output, x)
        else:
            losses = self._difference(output, x, "none").flatten(1).mean(1)
        if self.config.loss == "bce":  # less the entropy of grey values, which no network can undercut
            target = x.clamp(0, 1)
            losses = losses - functional.binary_cross_entropy(target, target, reduction="none").flatten(1).mean(1)
        kept = len(x) - math.ceil(self.config.trim * len(x))
        return torch.topk(losses, max(1, kept), largest=False, sorted=False).indices

    def _difference(self, output: Tensor, x: Tensor, reduction: str) -> Tensor:
        if self.config.loss == "bce":
            return functional.binary_cross_entropy_with_logits(output, x, reduction=reduction)
        x_hat = self.model.activate(output)
        if self.config.loss == "mse":
            return functional.mse_loss(x_hat, x, reduction=reduction)
        if self.config.loss == "mae":
            return functional.l1_loss(x_hat, x, reduction=reduction)
        return functional.huber_loss(x_hat, x, reduction=reduction)

    def _similarity(self, output: Tensor, x: Tensor) -> Tensor:
        span = self.config.high - self.config.low
        return ssim(self.model.activate(output), x, layout=self.model.config.layout, span=span)

    def _divergence_scale(self, reconstruction: Tensor) -> Tensor | float:
        if self.config.loss == "bce":
            return 1.0
        return 2 * reconstruction if self.config.loss in ("mse", "huber") else reconstruction
