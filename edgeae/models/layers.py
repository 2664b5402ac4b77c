"""Encoders and decoders, built as plain `nn.Sequential`s from a ModelConfig.

Everything here exports to a small set of ONNX operators with a symbolic batch, and nothing branches on data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgeae.models.config import ActivationName, ModelConfig

__all__ = ["GaussianHead", "TopK", "build_decoder", "build_encoder", "initialise"]

ACTIVATIONS: dict[ActivationName, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
}

# log-variances stay within this of zero: exp() cannot overflow, whatever an outlier does to the layer before
LOG_VARIANCE_BOUND = 10.0


class TopK(nn.Module):
    """Keep the `active` largest values of each row and set the others to zero (k-sparse autoencoders).

    Values that tie with the smallest kept one are kept too. The threshold comes from TopK and the selection is a
    Where, because a scatter is slow on most devices and not allowed in a bundle.

    Source: Makhzani and Frey, k-Sparse Autoencoders, 2013, https://arxiv.org/abs/1312.5663

    Example:
        >>> TopK(2)(torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([[0., 3., 2.]])
    """

    def __init__(self, active: int) -> None:
        super().__init__()
        self.active = active

    def forward(self, z: Tensor) -> Tensor:
        threshold = torch.topk(z, self.active, dim=1).values[:, -1:]  # [batch, 1]
        # a scalar zero, not zeros_like, which exports as Shape and Expand
        return torch.where(z >= threshold, z, torch.zeros((), dtype=z.dtype, device=z.device))


class GaussianHead(nn.Module):
    """Mean and log-variance of a diagonal Gaussian over the latent (Kingma and Welling, 2014).

    Source: https://arxiv.org/abs/1312.6114
    """

    def __init__(self, inputs: int, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(inputs, latent_dim)
        self.log_variance = nn.Linear(inputs, latent_dim)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        log_variance = LOG_VARIANCE_BOUND * torch.tanh(self.log_variance(features) / LOG_VARIANCE_BOUND)
        return self.mean(features), log_variance  # each [batch, latent]


class Axes(nn.Module):
    """Reorder the axes after the batch, for channels-last rows around channels-first convolutions."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.axes)


class Crop(nn.Module):
    """Keep the first `size` values along each spatial axis of [batch, channels, *spatial]."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        for axis, length in enumerate(self.size, start=2):
            x = x.narrow(axis, 0, length)
        return x


def build_encoder(config: ModelConfig) -> nn.Sequential:
    """Build x [batch, *input_shape] -> z [batch, latent], or -> (mean, log_variance) when variational."""
    if config.architecture == "dense":
        layers: list[nn.Module] = [nn.Flatten()] if len(config.input_shape) > 1 else []
        width = config.values
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), *_after(config, hidden)]
            width = hidden
    else:
        grid = _Grid(config)
        conv = nn.Conv2d if grid.dimensions == 2 else nn.Conv1d
        layers = list(grid.to_channels_first)
        channels = grid.channels
        for hidden in config.hidden:
            layers += [conv(channels, hidden, 3, stride=2, padding=1), *_after(config, hidden, grid.dimensions)]
            channels = hidden
        layers.append(nn.Flatten())
        width = grid.features
    if config.bottleneck == "variational":
        return nn.Sequential(*layers, GaussianHead(width, config.latent_dim))
    layers.append(nn.Linear(width, config.latent_dim))
    if config.batch_norm and config.latent_activation != "linear":
        layers.append(nn.BatchNorm1d(config.latent_dim))
    layers += _activation(config.latent_activation)
    if config.active_units is not None:
        layers.append(TopK(config.active_units))
    return nn.Sequential(*layers)


def build_decoder(config: ModelConfig) -> nn.Sequential:
    """Build z [batch, latent] -> the output before its activation, [batch, *input_shape]."""
    if config.architecture == "dense":
        layers: list[nn.Module] = []
        width = config.latent_dim
        for hidden in reversed(config.hidden):
            layers += [nn.Linear(width, hidden), *_after(config, hidden)]
            width = hidden
        layers.append(nn.Linear(width, config.values))
        if len(config.input_shape) > 1:
            layers.append(nn.Unflatten(1, config.input_shape))
        return nn.Sequential(*layers)
    grid = _Grid(config)
    deepest = (config.hidden[-1], *grid.sizes[-1])
    layers = [nn.Linear(config.latent_dim, grid.features)]
    # one statistic per unit here: the units are positions as well as channels
    layers += [*_after(config, grid.features), nn.Unflatten(1, deepest)]
    outputs = (*reversed(config.hidden[:-1]), grid.channels)
    for stage, (channels, following) in enumerate(zip(reversed(config.hidden), outputs, strict=True)):
        size, target = grid.sizes[-1 - stage], grid.sizes[-2 - stage]
        layers += _upsample(config, channels, following, size, target)
        if stage < len(outputs) - 1:
            layers += _after(config, following, grid.dimensions)
    return nn.Sequential(*layers, *grid.from_channels_first)


class _Grid:
    """Where the channels of a row are, and how its spatial sizes shrink from stage to stage."""

    def __init__(self, config: ModelConfig) -> None:
        shape = config.input_shape
        self.to_channels_first: tuple[nn.Module, ...] = ()
        self.from_channels_first: tuple[nn.Module, ...] = ()
        if config.layout == "HW":
            self.channels, spatial = 1, shape
            self.to_channels_first, self.from_channels_first = (nn.Unflatten(1, (1, shape[0])),), (nn.Flatten(1, 2),)
        elif config.layout == "CHW":
            self.channels, spatial = shape[0], shape[1:]
        elif config.layout == "HWC":
            self.channels, spatial = shape[2], shape[:2]
            self.to_channels_first, self.from_channels_first = (Axes(3, 1, 2),), (Axes(2, 3, 1),)
        else:  # TC
            self.channels, spatial = shape[1], shape[:1]
            self.to_channels_first, self.from_channels_first = (Axes(2, 1),), (Axes(2, 1),)
        self.dimensions = len(spatial)
        self.sizes = [spatial]
        for _ in config.hidden:
            self.sizes.append(tuple((side + 1) // 2 for side in self.sizes[-1]))
        self.features = config.hidden[-1]
        for side in self.sizes[-1]:
            self.features *= side


def _upsample(
    config: ModelConfig, channels: int, following: int, size: tuple[int, ...], target: tuple[int, ...]
) -> list[nn.Module]:
    if config.upsample == "transposed":
        # a stride of 2 gives 2 * side - 1 values, and one more where the target is even
        extra = tuple(side - (2 * small - 1) for side, small in zip(target, size, strict=True))
        if len(size) == 2:
            return [nn.ConvTranspose2d(channels, following, 3, 2, padding=1, output_padding=(extra[0], extra[1]))]
        return [nn.ConvTranspose1d(channels, following, 3, 2, padding=1, output_padding=extra[0])]
    # resize, then convolve: no checkerboard (Odena et al., 2016, https://distill.pub/2016/deconv-checkerboard)
    layers: list[nn.Module] = [nn.Upsample(scale_factor=2.0, mode="nearest")]
    if any(side != 2 * small for side, small in zip(target, size, strict=True)):
        layers.append(Crop(target))
    conv = nn.Conv2d if len(size) == 2 else nn.Conv1d
    return [*layers, conv(channels, following, 3, padding=1)]


def _after(config: ModelConfig, width: int, dimensions: int = 0) -> list[nn.Module]:
    """What follows a hidden layer: normalisation, activation, dropout, as far as there are any."""
    norms = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)
    layers: list[nn.Module] = [norms[dimensions](width)] if config.batch_norm else []
    layers += _activation(config.activation)
    return [*layers, nn.Dropout(config.dropout)] if config.dropout else layers


def _activation(name: ActivationName) -> list[nn.Module]:
    return [] if name == "linear" else [ACTIVATIONS[name]()]


def initialise(module: nn.Module) -> None:
    """Give a layer Glorot-uniform weights and zero biases (Glorot and Bengio, 2010)."""
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
