"""Reconstruction losses, input corruption and the penalties of an objective: plain functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeae.bundle.manifest import Layout
from edgeae.models.config import NoiseKind

__all__ = ["corrupt", "gaussian_kl", "rate_kl", "ssim", "weight_penalty"]


def ssim(x: Tensor, y: Tensor, *, layout: Layout = "HW", span: float = 1.0, window: int = 11) -> Tensor:
    """Return the mean structural similarity of each image in x to the one in y, [batch], 1 where they are equal.

    A Gaussian window of standard deviation 1.5, K1 = 0.01 and K2 = 0.03 as in the paper, positions where the window
    fits only, channels averaged. Images smaller than the window get the largest odd window that fits.

    Args:
        x: float32 [batch, *shape].
        y: The same shape.
        layout: HW, CHW or HWC.
        span: The difference between the largest and the smallest value an image can have.
        window: The window's width, odd.

    Source: Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, 2004, https://doi.org/10.1109/TIP.2003.819861

    Example:
        >>> image = torch.rand(1, 16, 16)
        >>> round(float(ssim(image, image)), 4)
        1.0
    """
    x, y = _channels_first(x, layout), _channels_first(y, layout)  # [batch, channels, height, width]
    window = min(window, *(side - 1 + side % 2 for side in x.shape[2:]))
    positions = torch.arange(window, dtype=x.dtype, device=x.device) - window // 2
    weights = torch.exp(-(positions**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    channels = x.shape[1]
    column = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)

    def blur(image: Tensor) -> Tensor:
        return functional.conv2d(functional.conv2d(image, column, groups=channels), row, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _channels_first(x: Tensor, layout: Layout) -> Tensor:
    if layout == "HW":
        return x.unsqueeze(1)
    return x if layout == "CHW" else x.permute(0, 3, 1, 2)


def corrupt(x: Tensor, kind: NoiseKind, level: float, *, low: float, high: float, clip: bool) -> Tensor:
    """Return a corrupted copy of x, for a network that learns to undo it.

    `gaussian` adds noise of standard deviation `level` (clipped to low..high if `clip`), `salt_and_pepper` sets a share
    `level` of the values to low or high, `masking` sets a share `level` of them to zero.

    Source: Vincent et al., Stacked denoising autoencoders, 2010, https://jmlr.org/papers/v11/vincent10a.html

    Example:
        >>> corrupt(torch.ones(1, 4), "masking", 1.0, low=0.0, high=1.0, clip=True)
        tensor([[0., 0., 0., 0.]])
    """
    if kind == "gaussian":
        noisy = x + level * torch.randn_like(x)
        return noisy.clamp(low, high) if clip else noisy
    if kind == "masking":
        return torch.where(torch.rand_like(x) < level, torch.zeros_like(x), x)
    if kind == "salt_and_pepper":
        draw = torch.rand_like(x)
        x = torch.where(draw < level / 2, torch.full_like(x, low), x)
        return torch.where(draw > 1 - level / 2, torch.full_like(x, high), x)
    return x


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) of each row, [batch], in nats, summed over the latent.

    Source: Kingma and Welling, Auto-Encoding Variational Bayes, 2014, appendix B, https://arxiv.org/abs/1312.6114

    Example:
        >>> gaussian_kl(torch.zeros(1, 8), torch.zeros(1, 8)).item()
        0.0
    """
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def rate_kl(activation: Tensor, target: float) -> Tensor:
    """Return the KL divergence of each unit's mean activation over the batch from a target rate, averaged over units.

    Args:
        activation: [batch, units], each in 0..1 (a sigmoid's).
        target: The rate to reach, between 0 and 1.

    Source: Ng, Sparse autoencoder, CS294A lecture notes, 2011,
    https://web.stanford.edu/class/cs294a/sparseAutoencoder_2011new.pdf

    Example:
        >>> rate_kl(torch.full((2, 3), 0.25), 0.25).item()
        0.0
    """
    rate = activation.mean(dim=0).clamp(1e-6, 1 - 1e-6)  # [units]
    divergence = target * (math.log(target) - rate.log()) + (1 - target) * (math.log1p(-target) - (1 - rate).log())
    return divergence.mean()


def weight_penalty(model: nn.Module, l1: float, l2: float) -> Tensor:
    """Return l1 * sum(|weight|) + l2 * sum(weight²) over the layers' weights; biases and batch norms are left out.

    Example:
        >>> weight_penalty(nn.Linear(2, 1), 0.0, 0.0).item()
        0.0
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    total = weights[0].new_zeros(())
    if l1:
        total = total + l1 * torch.stack([weight.abs().sum() for weight in weights]).sum()
    if l2:
        total = total + l2 * torch.stack([weight.square().sum() for weight in weights]).sum()
    return total
