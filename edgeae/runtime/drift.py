"""Drift: how far what a model is fed, and what it scores, has moved away from the normal rows at export.

A bundle keeps histograms, not rows: `input_edges` and `input_shares` of statistics.npz for the values of each channel,
and the table of normal rows' scores for the scores. A block of a stream is counted into the same bins and compared with
them by the population stability index, the sum of (p - q) ln(p / q) over the bins (Siddiqi, Credit Risk Scorecards,
2006): below 0.1 nothing has changed, above 0.25 much has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeae.errors import BundleError, InputError
from edgeae.runtime.calibrated import bundle_table, table_name
from edgeae.runtime.inputs import Array

__all__ = ["Bins", "Drift", "Watch", "input_histograms", "score_bins", "stability_index"]

BINS: Final = 10
FEWEST_ROWS: Final = 100
MAX_CHANNELS: Final = 1024
MAX_EDGES: Final = 63
LEAST_SHARE: Final = 1e-4  # a bin without anything in it has a share of this, so that the index is finite


@dataclass(frozen=True)
class Bins:
    """Histograms, one for each column: bin i holds the share of values above edge i - 1 and not above edge i.

    Attributes:
        edges: float32 [k, columns], not descending.
        shares: float32 [k + 1, columns].
    """

    edges: Array
    shares: Array


@dataclass(frozen=True)
class Drift:
    """How far a block of a stream is from the normal rows at export, as population stability indices.

    Attributes:
        steps: How many steps the block had.
        inputs: By channel; empty where the bundle has no histograms of inputs.
        score: That of the scores, or None where the bundle has no table of them or the block had no scores.
        exceeded: What is above the level: names of channels, and "score".
    """

    steps: int
    inputs: dict[str, float]
    score: float | None
    exceeded: tuple[str, ...]


def input_histograms(values: Array) -> dict[str, Array]:
    """Make the histograms that a bundle keeps of what rows hold.

    Args:
        values: float32 [n, channels] of normal rows.

    Returns:
        `input_edges` (deciles, rounded to three digits) and `input_shares`; nothing for fewer than 100 values or more
        than 1,024 channels.

    Example:
        >>> made = input_histograms(np.arange(1000, dtype=np.float32)[:, None])
        >>> made["input_edges"][0, 0], made["input_shares"][0, 0]
        (np.float32(99.9), np.float32(0.1))
    """
    if len(values) < FEWEST_ROWS or values.shape[1] > MAX_CHANNELS:
        return {}
    exact = np.quantile(values, np.arange(1, BINS) / BINS, axis=0)
    edges = np.array([float(f"{edge:.3g}") for edge in exact.reshape(-1)], np.float32).reshape(exact.shape)
    above = np.stack([(values > edge).mean(axis=0) for edge in edges])
    ends = np.ones((1, values.shape[1]))
    shares = -np.diff(np.concatenate([ends, above, 0 * ends]), axis=0)
    return {"input_edges": edges, "input_shares": shares.astype(np.float32)}


def input_bins(statistics: Mapping[str, Array], channels: int, where: str) -> Bins | None:
    """Return the histograms of inputs that a bundle has, or None.

    Raises:
        BundleError: if they are none.
    """
    edges, shares = statistics.get("input_edges"), statistics.get("input_shares")
    if edges is None and shares is None:
        return None
    fits = (
        edges is not None
        and shares is not None
        and edges.dtype == shares.dtype == np.float32
        and edges.ndim == shares.ndim == 2
        and 1 <= len(edges) <= MAX_EDGES
        and shares.shape == (len(edges) + 1, channels)
        and edges.shape == (len(edges), channels)
        and bool(np.isfinite(edges).all() and (np.diff(edges, axis=0) >= 0).all() and (shares >= 0).all())
        and bool((np.abs(shares.sum(axis=0) - 1) < 1e-3).all())
    )
    if edges is None or shares is None or not fits:
        raise BundleError(f"{where}: statistics: input_edges and input_shares are no histograms; export it again")
    return Bins(edges, shares)


def score_bins(statistics: Mapping[str, Array], precision: str, where: str) -> Bins | None:
    """Return a histogram of the normal rows' scores, from the bundle's table of them, or None where it has none."""
    if table_name(precision) not in statistics:
        return None
    steps, at_least = bundle_table(statistics, precision, where)
    rows = float(at_least[0])
    above = np.append(at_least[1:], 0) / rows  # the share of rows above each step
    if len(steps) < 2 or rows < FEWEST_ROWS:
        return None
    places = np.unique([int(np.argmin(np.abs(above[:-1] - share))) for share in np.arange(1, BINS) / BINS])
    shares = -np.diff(np.concatenate([[1.0], above[places], [0.0]]))
    return Bins(steps[places, None].astype(np.float32), shares[:, None].astype(np.float32))


def stability_index(expected: Array, found: Array) -> Array:
    """Return the population stability index [columns] of shares [bins, columns]; 0 where they are alike.

    Example:
        >>> stability_index(np.array([[0.5], [0.5]]), np.array([[0.4], [0.6]])).round(3)
        array([0.041])
    """
    p, q = (np.maximum(np.asarray(each, np.float64), LEAST_SHARE) for each in (found, expected))
    index: Array = ((p - q) * np.log(p / q)).sum(axis=0)
    return index


class Watch:
    """Counts a stream's values into the bins of histograms, block by block; a step costs two calls of NumPy.

    For each edge it counts the values above it, so that no bin need be looked for.
    """

    def __init__(self, bins: Bins, name: str) -> None:
        """Begin a block; `name` is what its state is called."""
        self._bins = bins
        self._name = name
        self._above = np.zeros(bins.edges.shape, np.int64)
        self._marks = np.empty(bins.edges.shape, np.bool_)
        self._count = 0

    def add(self, values: Array | float) -> None:
        """Count one value for each column: float32 [columns], or a float where there is one."""
        np.greater(values, self._bins.edges, out=self._marks)
        np.add(self._above, self._marks, out=self._above)
        self._count += 1

    def index(self) -> Array | None:
        """Return the stability index of each column since the block began, and begin another; None without values."""
        if not self._count:
            return None
        found = -np.diff(self._above, axis=0, prepend=self._count, append=0) / self._count
        self._above[...], self._count = 0, 0
        return stability_index(self._bins.shares, found)

    def state(self) -> dict[str, Array]:
        """Return what there is to save."""
        return {f"{self._name}_above": self._above, f"{self._name}_count": np.array([self._count])}

    def restore(self, **state: Array) -> None:
        """Take what `state` returned.

        Raises:
            InputError: if it is nothing of that kind.
        """
        above, count = state[f"{self._name}_above"], state[f"{self._name}_count"]
        fits = above.shape == self._above.shape and above.dtype == count.dtype == np.int64 and count.shape == (1,)
        if not (fits and (above >= 0).all() and (above <= count).all()):
            raise InputError(f"the counts of {self._name} are damaged")
        self._above[...], self._count = above, int(count[0])
