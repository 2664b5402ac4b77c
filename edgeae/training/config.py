"""Every option of a training run, in one flat dataclass: the library's keywords, the command line's flags and the
keys of a TOML file are these fields. No PyTorch here, so that `edgeae train --help` stays light.
"""

# ruff: noqa: RUF009 - _option() is dataclasses.field() with a docstring

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from edgeae.bundle.manifest import Layout, NormalisationKind, StepLabel
from edgeae.bundle.strict import from_plain
from edgeae.errors import InputError
from edgeae.models.config import (
    ActivationName,
    Architecture,
    Bottleneck,
    LossName,
    NoiseKind,
    OutputActivation,
    SparsityKind,
    Upsample,
)

__all__ = ["PRESETS", "TrainConfig", "VariantName", "chosen"]

T = TypeVar("T")

VariantName = Literal["dense", "denoising", "sparse", "variational", "convolutional", "mlperf-tiny-ad"]

PRESETS: dict[VariantName, dict[str, Any]] = {
    "dense": {},
    "denoising": {"noise": "gaussian"},
    "sparse": {"bottleneck": "sparse"},
    "variational": {"bottleneck": "variational"},
    "convolutional": {"architecture": "convolutional"},
    # The MLPerf Tiny anomaly-detection network (DCASE 2020 task 2 baseline): https://arxiv.org/abs/2106.07597
    "mlperf-tiny-ad": {
        "hidden": (128, 128, 128, 128),
        "latent_dim": 8,
        "batch_norm": True,
        "activation": "relu",
        "latent_activation": "relu",
        "output_activation": "linear",
        "normalise": "standard",
    },
}


def _option(default: Any, doc: str, **extra: Any) -> Any:
    return field(default=default, metadata={"doc": doc, **extra})


@dataclass(frozen=True)
class TrainConfig:
    """What to train and how. `None` means: what the variant and the data suggest.

    Example:
        >>> TrainConfig(variant="sparse", sparsity="kl", epochs=20).variant
        'sparse'
    """

    variant: VariantName = _option("dense", "a named starting point; any option below overrides it", section="Network")
    architecture: Architecture | None = _option(None, "dense or convolutional (images, or windows of a series)")
    bottleneck: Bottleneck | None = _option(None, "plain, sparse or variational")
    latent_dim: int | None = _option(None, "size of the latent vector")
    hidden: tuple[int, ...] | None = _option(None, "widths of the encoder's hidden layers (channels of its stages)")
    activation: ActivationName | None = _option(None, "activation of the hidden layers")
    latent_activation: ActivationName | None = _option(None, "activation of the latent vector")
    output_activation: OutputActivation | None = _option(None, "activation of the reconstruction")
    batch_norm: bool | None = _option(None, "batch normalisation after each hidden layer; folded at export")
    dropout: float = _option(0.0, "dropout after each hidden layer, in training only")
    upsample: Upsample = _option("transposed", "how a convolutional decoder grows its images")
    loss: LossName | None = _option(None, "reconstruction loss: mse, bce, mae, huber or ssim", section="Objective")
    l1: float = _option(0.0, "penalty on the sum of |weight|")
    l2: float = _option(0.0, "penalty on the sum of weight squared")
    activity_l1: float = _option(0.0, "penalty on the mean |latent|")
    activity_l2: float = _option(0.0, "penalty on the mean latent squared")
    noise: NoiseKind | None = _option(None, "input corruption in training: gaussian, salt_and_pepper or masking")
    noise_level: float | None = _option(None, "standard deviation (normalised space) or share of corrupted values")
    sparsity: SparsityKind | None = _option(None, "how a sparse bottleneck is made sparse: topk, l1 or kl")
    sparsity_target: float | None = _option(None, "share of active latent units (topk), or mean activation (kl)")
    sparsity_weight: float | None = _option(None, "weight of the l1 or kl sparsity penalty")
    beta: float = _option(1.0, "weight of the KL term of a variational bottleneck")
    beta_warmup: float = _option(0.2, "share of the epochs over which beta rises from 0")
    trim: float = _option(
        0.0, "share of the training rows that may be anomalies: the farthest, and the largest losses, are left out"
    )
    normalise: NormalisationKind | None = _option(
        None, "none, minmax, standard or robust; fitted on training rows", section="Data"
    )
    layout: Layout | None = _option(None, "what the axes of a row mean, where it is not plain: HW, CHW, HWC, TC")
    label_column: str | None = _option(None, "column (or .npz key) with labels; 0/1 labels: 1 is an anomaly")
    columns: tuple[str, ...] | None = _option(None, "columns of a table to use, in this order; -NAME leaves one out")
    missing: Literal["refuse", "mean", "median", "zero"] = _option("refuse", "what to do with missing values")
    train_on: Literal["normal", "all"] = _option("normal", "with 0/1 labels: train on rows labelled 0, or on all")
    data_dir: str | None = _option(None, "folder with the files of a named data set", path=True)
    window: int | None = _option(None, "DATA is a series: cut windows of so many steps", section="Series")
    stride: int = _option(1, "steps from one window to the next")
    time: str | None = _option(None, "column with timestamps, where it is not plain; it is no feature")
    resample: str | None = _option(None, "make regular steps so far apart, such as 5min, from rows at any times")
    gaps: Literal["refuse", "split"] = _option("refuse", "missing steps: refuse them, or split the series there")
    window_label: StepLabel = _option("any", "a window is an anomaly if any of its steps, or its last one, is")
    validation: float = _option(0.1, "share of the rows held out to choose the best epoch and the threshold")
    epochs: int | None = _option(None, "passes over the training rows", section="Loop")
    batch_size: int | None = _option(None, "rows per step")
    lr: float | None = _option(None, "learning rate (its peak, where the schedule moves it)")
    schedule: Literal["constant", "cosine", "onecycle"] | None = _option(None, "how the learning rate moves")
    optimizer: Literal["adam", "adamw", "sgd"] = _option("adam", "optimizer")
    clip_norm: float = _option(0.0, "largest gradient norm; 0: no clipping")
    patience: int = _option(0, "stop after this many epochs without a better validation loss; 0: never")
    seed: int = _option(0, "seed of the split, the weights, the order and the noise")
    device: str = _option("auto", "auto, cpu, cuda, mps, ... as Lightning Fabric has them")
    devices: int = _option(1, "how many of them")
    precision: Literal["fp32", "bf16-mixed", "fp16-mixed"] = _option("fp32", "arithmetic of the training steps")
    threads: int | None = _option(None, "CPU threads; small models train on one")

    @staticmethod
    def from_toml(path: str | Path) -> TrainConfig:
        """Read a TOML file whose keys are the fields of this class.

        Raises:
            InputError: naming the file and the key.
        """
        path = Path(path)
        try:
            plain = tomllib.loads(path.read_text("utf-8"))
        except OSError as problem:
            raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise InputError(f"{path}: not valid TOML: {problem}") from None
        return from_plain(TrainConfig, plain, where=str(path), error=InputError)

    def with_options(self, **options: object) -> TrainConfig:
        """Return a copy with these fields replaced.

        Raises:
            InputError: for an option that does not exist or a value of the wrong type.
        """
        known = {option.name for option in fields(self)}
        for name in options:
            if name not in known:
                raise InputError(f"unknown training option {name!r}; known options are {', '.join(sorted(known))}")
        checked = from_plain(TrainConfig, options, where="training options", error=InputError)
        return replace(self, **{name: getattr(checked, name) for name in options})


def chosen(value: T | None) -> T:
    """Return an option that the defaults have filled in."""
    if value is None:
        raise TypeError("an option was left open: resolve() comes first")  # a mistake in edgeae, not the user's
    return value
