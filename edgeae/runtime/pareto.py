"""The generalised Pareto distribution: what values above a high threshold follow, whatever they are values of."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

__all__ = ["fit_excesses", "quantile_excess", "survival"]

STRAIGHT: Final = 1e-9  # a shape nearer to 0 than this is an exponential tail

Array = np.ndarray[Any, Any]


def fit_excesses(ascending: Array) -> tuple[Array, Array]:
    """Return shape and scale [b] of ascending excesses [b, m], with Hosking and Wallis's plotting positions.

    Their probability-weighted moments' estimate ("Parameter and quantile estimation for the generalized Pareto
    distribution", Technometrics 29, 1987) needs no search and does well on few values, for shapes below 0.5.

    Example:
        >>> shape, scale = fit_excesses(np.sort(np.random.default_rng(0).exponential(2.0, (1, 10_000))))
        >>> bool(abs(shape[0]) < 0.1 and abs(scale[0] - 2) < 0.1)
        True
    """
    count = ascending.shape[1]
    above = 1 - (np.arange(1, count + 1) - 0.35) / count
    first, second = ascending.mean(axis=1), (above * ascending).mean(axis=1)
    spread = np.maximum(first - 2 * second, 1e-12 * first)  # resampled peaks may all be one value
    return 2 - first / spread, np.maximum(2 * first * second / spread, np.finfo(np.float64).tiny)


def quantile_excess(share: Array, shape: Array, scale: Array) -> Array:
    """Return what a share of the excesses lies above; shares are in (0, 1], shape and scale broadcast against them."""
    bent = np.abs(shape) >= STRAIGHT
    safe = np.where(bent, shape, 1.0)
    stretched: Array = scale * np.where(bent, np.expm1(-safe * np.log(share)) / safe, -np.log(share))
    return stretched


def survival(excess: Array, shape: float, scale: float) -> Array:
    """Return the shares of excesses above each of `excess`."""
    if abs(shape) < STRAIGHT:
        return np.exp(-excess / scale)
    inside = np.maximum(1 + shape * excess / scale, 0)  # 0 beyond the upper bound that a shape below 0 has
    with np.errstate(divide="ignore"):
        survived: Array = np.exp(-np.log(inside) / shape)
    return survived
