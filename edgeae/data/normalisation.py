"""Normalisation: statistics from training rows, and the same arithmetic that the exported graphs do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeae.bundle.manifest import Layout, Normalisation, NormalisationKind
from edgeae.data.dataset import Array, are_whole_numbers, row_blocks
from edgeae.data.windows import map_steps
from edgeae.errors import InputError

__all__ = ["denormalise", "fit_normalisation", "normalise"]

IQR_OF_A_NORMAL = 1.349  # distance between the quartiles of a standard normal distribution
COINCIDING = 1e-9  # of the range; beyond that an outlier's squared error would not fit in float32
SAMPLED_VALUES = 2**24
_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)


def fit_normalisation(x: Array, kind: NormalisationKind, layout: Layout) -> Normalisation:
    """Measure what brings rows to a common scale: normalised = (x - shift) / scale.

    - `none`: shift 0, scale 1.
    - `minmax`: onto 0..1. Images in whole numbers 0..255 keep their zero: shift 0 and scale 255, or their largest value
      where that is at most 16 (the 8x8 digits, masks of 0 and 1).
    - `standard`: mean 0 and standard deviation 1.
    - `robust`: median 0 and a quartile distance of 1.349, which is a standard deviation of 1 for normal data. Where
      the quartiles (nearly) coincide the standard deviation is used. Quartiles of more than 2^24 values come from rows
      drawn with a fixed seed.

    There is one pair per feature of a vector and per channel of CHW, HWC and TC, and one pair for HW. What is constant
    gets the scale 1. Statistics are computed in float64, piece by piece, so that `x` may be a memory map of any size.

    Args:
        x: float32 or uint8 [n, *shape]: training rows only, so that validation and test stay unseen.
        kind: Which of the above.
        layout: What the axes of a row mean.

    Returns:
        Shifts and scales that float32 holds exactly.

    Raises:
        InputError: if there are no rows, values are not finite, or they span more than float32 can.

    Example:
        >>> fitted = fit_normalisation(np.array([[0, 5], [10, 5]], np.float32), "minmax", "vector")
        >>> fitted.shift, fitted.scale
        ((0.0, 5.0), (10.0, 1.0))
    """
    if kind == "none":
        return Normalisation("none", (0.0,), (1.0,))
    if x.size == 0:
        raise InputError(f"normalisation {kind!r}: no rows to fit it on, the shape is {x.shape}")
    stats = _statistics(x, layout)
    is_image = layout in ("HW", "CHW", "HWC")
    if kind == "minmax" and is_image and stats.low.min() >= 0 and stats.high.max() <= 255 and are_whole_numbers(x):
        peak = float(stats.high.max())
        return Normalisation("minmax", (0.0,), (255.0 if peak > 16 else max(peak, 1.0),))
    if kind == "minmax":
        shift, scale = stats.low, stats.high - stats.low
    elif kind == "standard":
        shift, scale = stats.mean, stats.deviation
    elif kind == "robust":
        lower, shift, upper = _quartiles(x, layout)
        scale = (upper - lower) / IQR_OF_A_NORMAL
        scale = np.where(scale > (stats.high - stats.low) * COINCIDING, scale, stats.deviation)
    else:
        raise InputError(f"normalisation {kind!r} is not one of none, minmax, standard, robust")
    # below the smallest normal float32, 1 / scale is infinite
    scale = np.where((stats.high > stats.low) & (scale >= _TINY), scale, 1.0)
    # a result beyond float32's range somewhere between the extremes would turn into infinity in the graphs
    reach = np.maximum(np.abs(stats.low - shift), np.abs(stats.high - shift))
    wrong = np.flatnonzero(~((reach <= _HUGE) & (scale <= _HUGE) & (reach / scale <= _HUGE)))
    if len(wrong):
        channel = wrong[0]
        raise InputError(
            f"normalisation {kind!r}: feature or channel {channel} spans {stats.low[channel]:.6g} to "
            f"{stats.high[channel]:.6g}, more than float32 can scale; rescale or remove it"
        )
    return Normalisation(kind, _float32(shift), _float32(scale))


def normalise(x: Array, normalisation: Normalisation, layout: Layout) -> Array:
    """Return (x - shift) / scale in float32, as the graphs compute it.

    Args:
        x: float32 or uint8 [n, *shape].
        normalisation: What `fit_normalisation` returned, or a manifest holds.
        layout: What the axes of a row mean.

    Returns:
        float32 [n, *shape], a new array; windows that share their steps share them there, too.

    Example:
        >>> normalise(np.array([[51], [255]], np.uint8), Normalisation("minmax", (0.0,), (255.0,)), "vector").tolist()
        [[0.20000000298023224], [1.0]]
    """
    shift, scale = normalisation.arrays(tuple(x.shape[1:]), layout)

    def scaled(values: Array) -> Array:
        result: Array = np.subtract(values, shift, dtype=np.float32)
        result /= scale
        return result

    return map_steps(x, scaled)


def denormalise(x: Array, normalisation: Normalisation, layout: Layout) -> Array:
    """Return x * scale + shift in float32: normalised rows [n, *shape] back in the user's units."""
    shift, scale = normalisation.arrays(tuple(x.shape[1:]), layout)
    result: Array = np.multiply(x, scale, dtype=np.float32)
    result += shift
    return result


@dataclass(frozen=True)
class _Statistics:
    """float64 [channels] each."""

    low: Array
    high: Array
    mean: Array
    deviation: Array


def _by_channel(rows: Array, layout: Layout) -> Array:
    """Arrange rows [n, *shape] as [values, channels]."""
    if layout == "HW":
        return rows.reshape(-1, 1)
    if layout == "CHW":
        return np.moveaxis(rows, 1, -1).reshape(-1, rows.shape[1])
    return rows.reshape(-1, rows.shape[-1])


def _statistics(x: Array, layout: Layout) -> _Statistics:
    # means and squared deviations of pieces are merged as in Chan, Golub, LeVeque (1983), which does not cancel
    count, low, high = 0, np.array(np.inf), np.array(-np.inf)
    mean, squares = np.array(0.0), np.array(0.0)
    for _, block in row_blocks(x):
        values = _by_channel(block, layout).astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError("normalisation: the rows hold NaN or infinite values; impute or remove them first")
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
        block_mean = values.mean(axis=0)
        values -= block_mean
        block_squares = np.einsum("ij,ij->j", values, values)
        total = count + len(values)
        step = block_mean - mean
        squares = squares + block_squares + step**2 * (count * len(values) / total)
        mean = mean + step * (len(values) / total)
        count = total
    return _Statistics(low, high, mean, np.sqrt(squares / count))


def _quartiles(x: Array, layout: Layout) -> tuple[Array, Array, Array]:
    rows = max(1, SAMPLED_VALUES // x[:1].size)
    if len(x) > rows:
        x = x[np.sort(np.random.default_rng(0).choice(len(x), rows, replace=False))]
    values = _by_channel(x, layout).astype(np.float64)
    lower, middle, upper = np.percentile(values, (25, 50, 75), axis=0, overwrite_input=True)
    return lower, middle, upper


def _float32(values: Array) -> tuple[float, ...]:
    return tuple(values.astype(np.float32).astype(np.float64).tolist())
