"""Which values of a row make its score: the reconstruction error, value by value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeae.bundle import Manifest
from edgeae.errors import BundleError, InputError
from edgeae.runtime.inputs import Array

__all__ = ["Explanation", "contributions"]

# The decoder's output went through float32, where a sigmoid cannot come nearer to 0 or 1 than this.
NEAREST = 2.0**-24
WHITENED = ("mahalanobis", "prototype")
MAX_PROTOTYPES = 4096  # a bundle's explanation must not take for ever


@dataclass(frozen=True)
class Explanation:
    """What each value of each row contributes to the row's score.

    Attributes:
        values: float32 [n, *shape], in normalised space. For "elbo" they are nats and add up to the reconstruction
            term; the KL divergence belongs to no single value. For all other scores the mean over a row is the row's
            score. What a value adds to a Mahalanobis distance is the square of the whitened error that is closest to
            its own (Kessy, Lewin and Strimmer 2018, https://doi.org/10.1080/00031305.2016.1277159).
        names: One name per value of a row, where the bundle has names.

    Example:
        >>> values = np.array([[0.25, 0.75, 0.5]], np.float32)
        >>> Explanation(values, ("speed", "pressure", "heat")).top(1)
        [[('pressure', 0.75)]]
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    names: tuple[str, ...] | None = None

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return, for each row, the k largest contributions with their names, largest first.

        Values without names are called by their place: "3", or "7, 12" in an image.

        Raises:
            InputError: if k is not positive.
        """
        if k < 1:
            raise InputError(f"top: expected a whole number from 1, got {k!r}")
        shape = self.values.shape[1:]
        flat = self.values.reshape(len(self.values), -1)
        order = np.argsort(-flat, axis=1, kind="stable")[:, :k]
        return [
            [(self._name(int(index), shape), float(row[index])) for index in best]
            for row, best in zip(flat, order, strict=True)
        ]

    def _name(self, index: int, shape: tuple[int, ...]) -> str:
        if self.names is not None:
            return self.names[index]
        return ", ".join(str(place) for place in np.unravel_index(index, shape))


def contributions(manifest: Manifest, statistics: Mapping[str, Array], x: Array, x_hat: Array) -> Array:
    """Return each value's part of the score.

    The arithmetic is that of the scorer graph, from the user's units: where the data's offset is thousands of times its
    spread, float32 rounding shows in the sum.

    Args:
        manifest: Says how rows are normalised and which score is computed.
        statistics: Of the bundle, float32. For "zscore" the errors' usual size, "spread" [*shape]; for "mahalanobis"
            and "prototype" their mean, "centre" [*shape], and "whitening" [values, values]; for "prototype" also
            "prototypes" [k, values] and how far from them values usually are, "spread" [*shape].
        x: float32 [n, *shape].
        x_hat: float32 [n, *shape].

    Raises:
        BundleError: if the statistics that the score needs are missing.
    """
    shift, scale = manifest.normalisation.arrays(manifest.input.shape, manifest.input.layout)
    kind, variance = manifest.score.kind, manifest.score.decoder_variance
    if kind == "bce" or (kind == "elbo" and variance is None):
        u, v = (x - shift) / scale, (x_hat - shift) / scale
        inside = np.clip(u, 0, 1)
        v = np.clip(v, NEAREST, 1 - NEAREST)
        entropy = -(inside * np.log(v) + (1 - inside) * np.log1p(-v))
        return np.asarray(entropy + np.square(u - inside), np.float32)
    difference = (x - x_hat) / scale
    if kind == "mae":
        return np.asarray(np.abs(difference), np.float32)
    if kind == "zscore":
        difference = difference / _statistic(manifest, statistics, "spread")
    if kind in WHITENED:
        centred = (difference - _statistic(manifest, statistics, "centre")).reshape(len(difference), -1)
        difference = (centred @ _statistic(manifest, statistics, "whitening")).reshape(difference.shape)
    squared = np.square(difference)
    if kind == "prototype":
        squared = squared + _distances(manifest, statistics, (x - shift) / scale)
    return np.asarray(squared / (2 * variance) if variance is not None and kind == "elbo" else squared, np.float32)


def _distances(manifest: Manifest, statistics: Mapping[str, Array], rows: Array) -> Array:
    """Return ((value - that of the row's nearest prototype) / spread)², [n, *shape], of normalised rows."""
    spread = _statistic(manifest, statistics, "spread").reshape(-1)
    flat = rows.reshape(len(rows), -1)
    least = np.full(len(rows), np.inf)
    result = np.full(flat.shape, np.nan)
    for prototype in _statistic(manifest, statistics, "prototypes"):
        each = np.square((flat - prototype) / spread)
        total = each.mean(axis=1)
        nearer = total < least
        result[nearer], least = each[nearer], np.fmin(total, least)
    return result.reshape(rows.shape)


def _count(prototypes: Array | None) -> int:
    return 0 if prototypes is None else min(max(1, len(prototypes)), MAX_PROTOTYPES)


def _statistic(manifest: Manifest, statistics: Mapping[str, Array], name: str) -> Array:
    shape, values = manifest.input.shape, math.prod(manifest.input.shape)
    wanted = {"whitening": (values, values), "prototypes": (_count(statistics.get(name)), values)}.get(name, shape)
    if name not in statistics or statistics[name].shape != wanted:
        raise BundleError(
            f"statistics: the score is {manifest.score.kind}, but no {name!r} that fits the rows' shape is there; "
            "export the bundle again"
        )
    return statistics[name]
