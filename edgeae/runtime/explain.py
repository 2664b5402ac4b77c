"""Which values of a row make its score: the reconstruction error, value by value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae.bundle import Manifest
from edgeae.bundle.record import record
from edgeae.errors import BundleError, InputError
from edgeae.runtime.inputs import Array

if TYPE_CHECKING:
    from edgeae.runtime.model import Autoencoder

__all__ = ["Explanation", "contributions", "reasons"]

# The decoder's output went through float32, where a sigmoid cannot come nearer to 0 or 1 than this.
NEAREST = 2.0**-24
WHITENED = ("mahalanobis", "prototype")
BLOCK_VALUES = 2**20  # of the rows that are explained at a time
MAX_PROTOTYPES = 4096  # a bundle's explanation must not take for ever


@record(frozen=True)
class Explanation:
    """What each value of each row contributes to the row's score.

    Attributes:
        values: float32 [n, *shape], in normalised space. For "elbo" they are nats and add up to the reconstruction
            term; the KL divergence belongs to no single value. For all other scores the mean over a row is the row's
            score. What a value adds to a Mahalanobis distance is the square of the whitened error that is closest to
            its own (Kessy, Lewin and Strimmer 2018, https://doi.org/10.1080/00031305.2016.1277159).
        names: One name per value of a row, where the bundle has names; of a window, one per channel.
        expected: float32 [n, *shape], the reconstruction in the user's units: what the model takes for normal there.

    Example:
        >>> values = np.array([[0.25, 0.75, 0.5]], np.float32)
        >>> Explanation(values, ("speed", "pressure", "heat")).top(1)
        [[('pressure', 0.75)]]
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    names: tuple[str, ...] | None = None
    expected: np.ndarray[Any, np.dtype[np.float32]] | None = None

    def places(self, k: int = 5) -> np.ndarray[Any, np.dtype[np.intp]]:
        """Return, for each row, where in the flattened row its k largest contributions are, largest first: [n, k].

        Raises:
            InputError: if k is not positive.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"explain: expected a whole number of contributions from 1, got {k!r}")
        return np.argsort(-_flat(self.values), axis=1, kind="stable")[:, :k]

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """Return, for each row, the k largest contributions with their names, largest first.

        Values without names are called by their place: "3", or "7, 12" in an image; those of a window by channel and
        step, counted from 0: "pressure @ 12".

        Raises:
            InputError: if k is not positive.
        """
        return [
            [(self.name(int(place)), float(row[place])) for place in best]
            for row, best in zip(_flat(self.values), self.places(k), strict=True)
        ]

    def name(self, place: int) -> str:
        """Return what the value at a place of the flattened row is called."""
        if self.names is not None and len(self.names) == math.prod(self.values.shape[1:]):
            return self.names[place]
        if self.names is not None:
            step, channel = divmod(place, len(self.names))
            return f"{self.names[channel]} @ {step}"
        return ", ".join(str(index) for index in np.unravel_index(place, self.values.shape[1:]))


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


def reasons(model: Autoencoder, rows: Array, k: int) -> dict[str, Array]:
    """Return the columns that `Autoencoder.reasons` promises, explaining a block of rows at a time.

    Args:
        model: Explains the rows.
        rows: [n, *shape].
        k: How many values of each row to name.
    """
    step = max(1, BLOCK_VALUES // math.prod(model.input_shape))
    k = min(k, math.prod(model.input_shape))
    columns: dict[str, list[Array]] = {}
    for start in range(0, max(1, len(rows)), step):
        block = rows[start : start + step]
        explained = model.explain(block)
        places = explained.places(k)
        sides = {"contribution": explained.values, "value": block}
        if explained.expected is not None:
            sides["expected"] = explained.expected
        picked = {name: np.take_along_axis(_flat(side), places, 1) for name, side in sides.items()}
        met, which = np.unique(places, return_inverse=True)
        names = np.array([explained.name(int(place)) for place in met], object)[which.reshape(places.shape)]
        for i in range(k):
            columns.setdefault(f"feature_{i + 1}", []).append(names[:, i])
            for name, values in picked.items():
                columns.setdefault(f"{name}_{i + 1}", []).append(values[:, i].astype(np.float32))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), math.prod(rows.shape[1:]))  # no rows have no -1


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
