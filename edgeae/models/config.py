"""What a model is and what it is trained for, as frozen dataclasses with nothing left open (no PyTorch here).

`edgeae.training.TrainConfig` holds a user's wishes, `edgeae.training.defaults` turns them and the data into these two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeae.bundle.manifest import Layout

__all__ = [
    "ActivationName",
    "Architecture",
    "Bottleneck",
    "LossName",
    "ModelConfig",
    "NoiseKind",
    "ObjectiveConfig",
    "OutputActivation",
    "SparsityKind",
    "Upsample",
]

Architecture = Literal["dense", "convolutional"]
Bottleneck = Literal["plain", "sparse", "variational"]
LossName = Literal["mse", "bce", "mae", "huber", "ssim"]
ActivationName = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "sigmoid", "linear"]
OutputActivation = Literal["linear", "sigmoid"]
NoiseKind = Literal["none", "gaussian", "salt_and_pepper", "masking"]
SparsityKind = Literal["topk", "l1", "kl"]
Upsample = Literal["transposed", "resize"]


def _doc(text: str) -> dict[str, str]:
    return {"doc": text}


@dataclass(frozen=True)
class ModelConfig:
    """The network: an architecture with a bottleneck.

    Example:
        >>> ModelConfig(input_shape=(28, 28), layout="HW", latent_dim=64).describe()
        'dense 784-64-784, relu latent, linear output'
    """

    input_shape: tuple[int, ...] = field(metadata=_doc("one row, without the batch dimension"))
    layout: Layout
    latent_dim: int
    architecture: Architecture = "dense"
    bottleneck: Bottleneck = "plain"
    hidden: tuple[int, ...] = field(default=(), metadata=_doc("the encoder's hidden widths; the decoder mirrors them"))
    activation: ActivationName = "relu"
    latent_activation: ActivationName = "relu"
    output_activation: OutputActivation = "linear"
    batch_norm: bool = False
    dropout: float = 0.0
    upsample: Upsample = "transposed"
    sparsity: SparsityKind | None = None
    active_units: int | None = field(default=None, metadata=_doc("k of a k-sparse (topk) bottleneck"))

    @property
    def values(self) -> int:
        """How many values one row has."""
        total = 1
        for side in self.input_shape:
            total *= side
        return total

    def describe(self) -> str:
        """Return the network in one line."""
        if self.architecture == "dense":
            widths = [self.values, *self.hidden, self.latent_dim, *reversed(self.hidden), self.values]
            text = f"dense {'-'.join(map(str, widths))}"
        else:
            row = "x".join(map(str, self.input_shape))
            channels = ", ".join(map(str, self.hidden))
            text = f"convolutional {row} ({self.layout}), {channels} channels, {self.latent_dim} latent"
        if self.bottleneck == "variational":
            text += ", gaussian latent"
        elif self.sparsity == "topk":
            text += f", {self.latent_activation} latent, {self.active_units} of {self.latent_dim} active"
        else:
            text += f", {self.latent_activation} latent"
        return text + (", batch norm" if self.batch_norm else "") + f", {self.output_activation} output"


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the network is trained for: a reconstruction loss, penalties, input corruption, a prior on the latent.

    All losses are means over the values of a row, so that weights mean the same for any size of row.
    """

    loss: LossName = "mse"
    l1: float = field(default=0.0, metadata=_doc("times the sum of |weight|, biases left out"))
    l2: float = field(default=0.0, metadata=_doc("times the sum of weight squared, biases left out"))
    activity_l1: float = field(default=0.0, metadata=_doc("times the mean of |latent|"))
    activity_l2: float = field(default=0.0, metadata=_doc("times the mean of latent squared"))
    noise: NoiseKind = "none"
    noise_level: float = field(
        default=0.0, metadata=_doc("standard deviation in normalised space, or share of the values")
    )
    sparsity: SparsityKind | None = None
    sparsity_target: float | None = field(
        default=None, metadata=_doc("share of active units (topk), mean activation (kl)")
    )
    sparsity_weight: float = field(default=0.0, metadata=_doc("of the l1 or kl penalty"))
    beta: float = field(default=0.0, metadata=_doc("of the KL divergence from the prior; 0 unless variational"))
    beta_warmup: float = field(default=0.0, metadata=_doc("share of the epochs over which beta rises from 0"))
    trim: float = field(default=0.0, metadata=_doc("share of each batch's rows, those of the largest losses, left out"))
    low: float = field(default=0.0, metadata=_doc("smallest normalised value among the training rows"))
    high: float = field(default=1.0, metadata=_doc("largest normalised value among the training rows"))
