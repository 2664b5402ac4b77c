"""From a user's wishes and the data to a model, an objective and options with nothing left open (no PyTorch here).

The figures behind the defaults: MNIST for images, nine ADBench sets for tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from edgeae.bundle.manifest import Layout
from edgeae.errors import InputError
from edgeae.models.config import ModelConfig, ObjectiveConfig
from edgeae.training.config import PRESETS, TrainConfig, chosen

__all__ = ["Facts", "Plan", "check_range", "resolve"]

ROUNDING = 1e-4  # float32 may put the largest value of a min-max scaled column just above 1
STEPS = 2000  # enough optimiser steps for a small data set to converge
NOISE_LEVELS = {"none": 0.0, "gaussian": 0.3, "salt_and_pepper": 0.2, "masking": 0.3}
# weights at which the penalty reaches its target on MNIST without costing much reconstruction
SPARSITY_WEIGHTS = {"topk": 0.0, "l1": 0.1, "kl": 1.0}
LATENT_ACTIVATIONS = {"topk": "linear", "l1": "relu", "kl": "sigmoid"}


@dataclass(frozen=True)
class Facts:
    """What the defaults need to know about the data.

    Attributes:
        rows: Training rows, without those held out.
        shape: One row.
        layout: What its axes mean.
        whole_numbers: Whether all values are whole numbers in 0..255.
        minimum: Smallest value.
        maximum: Largest value.
    """

    rows: int
    shape: tuple[int, ...]
    layout: Layout
    whole_numbers: bool
    minimum: float
    maximum: float

    @property
    def is_image(self) -> bool:
        """Whether a row is an image."""
        return self.layout in ("HW", "CHW", "HWC")

    @property
    def values(self) -> int:
        """How many values a row has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """A training run with every choice made.

    Attributes:
        model: The network.
        objective: What it is trained for.
        options: The options with the defaults filled in.
    """

    model: ModelConfig
    objective: ObjectiveConfig
    options: TrainConfig


def resolve(config: TrainConfig, facts: Facts) -> Plan:
    """Fill in what `config` leaves open, and refuse what does not go together.

    Images in whole numbers are scaled to 0..1 and get a sigmoid output; other data is standardised and gets a linear
    output. Sizes follow the number of values in a row, batch size and epochs the number of rows.

    Raises:
        InputError: naming the option, what is wrong with it and what to use instead.

    Example:
        >>> facts = Facts(54_000, (28, 28), "HW", whole_numbers=True, minimum=0, maximum=255)
        >>> resolve(TrainConfig(), facts).model.describe()
        'dense 784-64-784, relu latent, sigmoid output'
    """
    if config.variant not in PRESETS:
        raise InputError(f"variant {config.variant!r} is not one of {', '.join(PRESETS)}")
    preset = PRESETS[config.variant]
    config = _filled(config, **preset)
    config = _filled(config, architecture="dense", bottleneck="plain", noise="none")
    _check_numbers(config)
    _check_combination(config, facts)
    config = _data_defaults(config, facts)
    config = _network_defaults(config, facts)
    config = _loop_defaults(config, facts)
    model = ModelConfig(
        input_shape=facts.shape,
        layout=facts.layout,
        latent_dim=chosen(config.latent_dim),
        architecture=chosen(config.architecture),
        bottleneck=chosen(config.bottleneck),
        hidden=chosen(config.hidden),
        activation=chosen(config.activation),
        latent_activation=chosen(config.latent_activation),
        output_activation=chosen(config.output_activation),
        batch_norm=chosen(config.batch_norm),
        dropout=config.dropout,
        upsample=config.upsample,
        sparsity=config.sparsity,
        active_units=_active_units(config) if config.sparsity == "topk" else None,
    )
    objective = ObjectiveConfig(
        loss=chosen(config.loss),
        l1=config.l1,
        l2=config.l2,
        activity_l1=config.activity_l1,
        activity_l2=config.activity_l2,
        noise=chosen(config.noise),
        noise_level=chosen(config.noise_level),
        sparsity=config.sparsity,
        sparsity_target=config.sparsity_target,
        sparsity_weight=config.sparsity_weight or 0.0,
        beta=config.beta if config.bottleneck == "variational" else 0.0,
        beta_warmup=config.beta_warmup if config.bottleneck == "variational" else 0.0,
        trim=config.trim,
    )
    return Plan(model, objective, config)


def check_range(plan: Plan, low: float, high: float) -> Plan:
    """Record the range of the normalised training rows, and refuse an output that cannot reach it.

    Raises:
        InputError: for a sigmoid output (which BCE implies) or SSIM where the values leave 0..1.
    """
    options = plan.options
    if plan.model.output_activation == "sigmoid":
        if low < -ROUNDING or high > 1 + ROUNDING:
            culprit = "loss bce" if options.loss == "bce" else "a sigmoid output"
            raise InputError(
                f"{culprit} needs values in 0..1; with normalise {options.normalise!r} they are in "
                f"{low:.6g}..{high:.6g}: use normalise 'minmax', or loss 'mse' with a linear output"
            )
        low, high = 0.0, 1.0
    return replace(plan, objective=replace(plan.objective, low=low, high=high if high > low else low + 1.0))


def _filled(config: TrainConfig, **values: Any) -> TrainConfig:
    """Fill in options that are None."""
    return replace(config, **{name: value for name, value in values.items() if getattr(config, name) is None})


def _check_numbers(config: TrainConfig) -> None:
    def require(name: str, fits: bool, wanted: str) -> None:
        if not fits:
            raise InputError(f"{name} must be {wanted}, not {getattr(config, name)}")

    for name in ("latent_dim", "epochs", "batch_size", "threads", "devices"):
        value = getattr(config, name)
        require(name, value is None or value >= 1, "at least 1")
    for name in ("l1", "l2", "activity_l1", "activity_l2", "beta", "clip_norm", "patience", "seed", "noise_level"):
        value = getattr(config, name)
        require(name, value is None or value >= 0, "0 or more")
    require("lr", config.lr is None or config.lr > 0, "more than 0")
    require("sparsity_weight", config.sparsity_weight is None or config.sparsity_weight >= 0, "0 or more")
    require("hidden", all(width >= 1 for width in config.hidden or ()), "widths of at least 1")
    require("dropout", 0 <= config.dropout < 1, "from 0 to less than 1")
    require("beta_warmup", 0 <= config.beta_warmup <= 1, "a share of the epochs from 0 to 1")
    require("trim", 0 <= config.trim < 0.5, "a share of the rows from 0 to less than 0.5, for instance 0.05")
    require("validation", 0 < config.validation < 1, "a share of the rows between 0 and 1, for instance 0.1")
    share = config.noise in ("salt_and_pepper", "masking")
    require("noise_level", not share or (config.noise_level or 0) <= 1, "a share of the values from 0 to 1")
    target = config.sparsity_target
    require("sparsity_target", target is None or 0 < target < 1, "a share between 0 and 1")


def _check_combination(config: TrainConfig, facts: Facts) -> None:
    sparse, variational = config.bottleneck == "sparse", config.bottleneck == "variational"
    if config.architecture == "convolutional":
        if facts.layout == "vector":
            raise InputError(
                f"architecture 'convolutional' needs images or windows, the rows are vectors of {facts.values} values: "
                "use architecture 'dense', or give images as [n, height, width]"
            )
        if config.hidden == ():
            raise InputError("hidden must name at least one stage of channels for a convolutional network")
    if not sparse:
        for name in ("sparsity", "sparsity_target", "sparsity_weight"):
            if getattr(config, name) is not None:
                raise InputError(f"{name} is for a sparse bottleneck: add variant 'sparse' or bottleneck 'sparse'")
    if config.noise == "none" and config.noise_level:
        raise InputError("noise_level is given and noise is 'none': choose noise gaussian, salt_and_pepper or masking")
    if config.sparsity == "l1" and config.sparsity_target is not None:
        raise InputError("sparsity_target is for sparsity topk and kl; sparsity l1 is set by sparsity_weight")
    if sparse and config.sparsity in (None, "topk") and config.sparsity_weight:
        raise InputError("sparsity_weight is for sparsity l1 and kl; sparsity topk is set by sparsity_target")
    if config.sparsity == "kl" and config.latent_activation not in (None, "sigmoid"):
        raise InputError(f"sparsity 'kl' needs latent_activation 'sigmoid', not {config.latent_activation!r}")
    if variational and config.latent_activation not in (None, "linear"):
        raise InputError("a variational latent is Gaussian: leave latent_activation 'linear'")
    if config.loss == "bce" and config.output_activation == "linear":
        raise InputError("loss 'bce' needs output_activation 'sigmoid'; a linear output goes with mse, mae or huber")
    if config.loss == "ssim":
        if not facts.is_image:
            raise InputError(
                f"loss 'ssim' compares images, the rows are of layout {facts.layout}: use mse, mae or huber"
            )
        height, width = facts.shape[1:] if facts.layout == "CHW" else facts.shape[:2]
        if min(height, width) < 3:
            raise InputError(f"loss 'ssim' needs images of at least 3x3, these are {height}x{width}: use mse")


def _data_defaults(config: TrainConfig, facts: Facts) -> TrainConfig:
    """Normalisation, output and loss."""
    bounded = config.loss in ("bce", "ssim") or config.output_activation == "sigmoid"
    scaled = bounded or (facts.is_image and facts.whole_numbers)
    config = _filled(config, normalise="minmax" if scaled else "standard")
    unit = facts.is_image and (
        config.normalise == "minmax" or (config.normalise == "none" and facts.minimum >= 0 and facts.maximum <= 1)
    )
    sigmoid = unit or config.loss == "bce"
    config = _filled(config, output_activation="sigmoid" if sigmoid else "linear")
    # BCE is what makes the digits that a variational network generates recognisable
    generative = config.bottleneck == "variational" and config.output_activation == "sigmoid"
    return _filled(config, loss="bce" if generative else "mse")


def _network_defaults(config: TrainConfig, facts: Facts) -> TrainConfig:
    """Sizes and activations."""
    values = facts.values
    variational = config.bottleneck == "variational"
    convolutional = config.architecture == "convolutional"
    if convolutional:
        config = _filled(config, hidden=_stages(facts), activation="relu")
    elif facts.is_image:
        # a network that has to undo noise, or to describe a distribution, needs a hidden layer for it
        hidden = (512, 256) if variational else (512,) if config.noise != "none" else ()
        config = _filled(config, hidden=hidden, activation="relu")
    else:
        # tanh saturates, so that rows far from the training rows are not reconstructed well
        config = _filled(config, hidden=(min(512, max(128, _power_of_two(values))),), activation="tanh")
    plain = round(min(values / 2, 2 * math.sqrt(values)))
    if facts.is_image:
        plain = _power_of_two(2 * math.sqrt(values))
        plain = max(8, plain // 4) if variational else max(4, plain // 2) if convolutional else plain
    plain = max(1, min(plain, values))
    if config.bottleneck == "sparse":
        config = _filled(config, sparsity="topk", latent_dim=max(2, min(2 * values, 4096)))
        sparsity = chosen(config.sparsity)
        if sparsity != "l1":
            # as many active units as an undercomplete latent would have
            share = min(plain, chosen(config.latent_dim) // 2 or 1) / chosen(config.latent_dim)
            config = _filled(config, sparsity_target=share)
        config = _filled(
            config, latent_activation=LATENT_ACTIVATIONS[sparsity], sparsity_weight=SPARSITY_WEIGHTS[sparsity]
        )
    # without a hidden layer a linear latent would be no more than PCA
    shallow = config.hidden == () and not variational
    return _filled(
        config,
        latent_dim=plain,
        latent_activation="relu" if shallow else "linear",
        batch_norm=False,
        noise_level=NOISE_LEVELS[chosen(config.noise)],
    )


def _loop_defaults(config: TrainConfig, facts: Facts) -> TrainConfig:
    """Batch size, epochs, learning rate."""
    fine = config.architecture == "convolutional" or config.bottleneck == "variational"
    largest = 128 if fine else 256
    few = max(16, 2 ** int(math.log2(max(1.0, facts.rows / 20))))
    config = _filled(config, batch_size=min(largest, few), schedule="onecycle", lr=_learning_rate(config))
    steps = math.ceil(facts.rows / chosen(config.batch_size))
    return _filled(config, epochs=min(300, max(10, math.ceil(STEPS / steps))))


def _learning_rate(config: TrainConfig) -> float:
    if config.optimizer == "sgd":
        return 0.1
    if config.architecture == "convolutional":
        return 4e-3
    # a rate that a single layer takes well, with a warm-up, kills units in a deeper network
    return 1e-2 if config.hidden == () and config.sparsity != "l1" else 3e-3


def _active_units(config: TrainConfig) -> int:
    latent = chosen(config.latent_dim)
    return int(min(latent, max(1, round(chosen(config.sparsity_target) * latent))))


def _stages(facts: Facts) -> tuple[int, ...]:
    """Channels per stage: halve until at most 8 x 8 positions (or 16 of a series) are left, doubling the channels."""
    spatial = {"HW": facts.shape, "CHW": facts.shape[1:], "HWC": facts.shape[:2], "TC": facts.shape[:1]}[facts.layout]
    target = 64 if len(spatial) == 2 else 16
    channels = [32]
    sizes = [(side + 1) // 2 for side in spatial]
    while math.prod(sizes) > target and len(channels) < 8:
        sizes = [(side + 1) // 2 for side in sizes]
        channels.append(min(256, 2 * channels[-1]))
    return tuple(channels)


def _power_of_two(value: float) -> int:
    return int(2 ** round(math.log2(max(1.0, value))))
