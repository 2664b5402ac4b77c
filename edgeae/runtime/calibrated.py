"""Calibrated scores: which share of normal rows scores lower, from a table of normal rows' scores in the bundle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeae.errors import BundleError, InputError
from edgeae.runtime.inputs import Array

__all__ = ["bundle_table", "calibrated", "score_table", "table_name"]

ALL_ABOVE = 100  # so many of the largest scores are in a table one by one; below them, ever fewer
GROWTH = 1.05
MAX_STEPS = 4096


def table_name(precision: str) -> str:
    """Return what the table of a precision is called in statistics.npz."""
    return f"scores_{precision}"


def score_table(scores: Array) -> Array:
    """Return the scores of normal rows as a short table: the largest ones, and ever fewer of those below.

    Args:
        scores: float32 [n] of normal rows that the model was not trained on; those that are not finite are left out.

    Returns:
        float32 [2, steps]: ascending scores, and for each the number of rows above the one before it (for the first: of
        all rows). A row's score that lies between two steps is rounded up to the next, so that what is made of the
        table promises no more than the rows themselves would.

    Example:
        >>> score_table(np.array([3, 1, 2], np.float32))
        array([[1., 2., 3.],
               [3., 2., 1.]], dtype=float32)
    """
    ascending = np.sort(scores[np.isfinite(scores)]).astype(np.float32)
    rows = len(ascending)
    if not rows:
        return np.empty((2, 0), np.float32)
    ranks = list(range(min(ALL_ABOVE, rows)))
    while ranks[-1] < rows - 1:
        ranks.append(min(rows - 1, int(ranks[-1] * GROWTH) + 1))
    steps = np.unique(ascending[rows - 1 - np.array(ranks)])
    above = rows - np.searchsorted(ascending, steps, "right")
    return np.stack([steps, np.concatenate([[rows], above[:-1]]).astype(np.float32)])


def calibrated(table: Array, scores: Array) -> Array:
    """Return 1 - p of each score, p being its conformal p-value among the normal rows; NaN stays NaN.

    p = (k + 1) / (n + 1), where k of n normal rows score at least as much: a fresh normal row gets p <= a with a
    probability of at most a (Vovk et al. 2005; Bates et al. 2023, https://arxiv.org/abs/2104.08279).

    Args:
        table: From `score_table`.
        scores: float32 [m].

    Returns:
        float32 [m] from 0 to n / (n + 1), higher is more anomalous.

    Example:
        >>> calibrated(score_table(np.arange(9, dtype=np.float32)), np.array([-1, 8, 99], np.float32))
        array([0. , 0.8, 0.9], dtype=float32)
    """
    steps, above = table
    rows = above[0].astype(np.float64)
    at_least = np.append(above, 0)[np.searchsorted(steps, scores, "left")]
    result: Array = ((rows - at_least) / (rows + 1)).astype(np.float32)
    result[np.isnan(scores)] = np.nan
    return result


def bundle_table(statistics: Mapping[str, Array], precision: str, where: str) -> Array:
    """Return the table of a precision.

    Raises:
        InputError: if the bundle has none.
        BundleError: if it is not one.
    """
    name = table_name(precision)
    if name not in statistics:
        raise InputError(
            f"{where}: has no scores of normal rows to calibrate by; make them with: edgeae threshold {where} DATA"
        )
    table = statistics[name]
    shaped = table.dtype == np.float32 and table.ndim == 2 and len(table) == 2 and 1 <= table.shape[1] <= MAX_STEPS
    if not (
        shaped
        and np.isfinite(table).all()
        and (np.diff(table[0]) > 0).all()
        and (np.diff(table[1]) < 0).all()
        and table[1, -1] >= 1
    ):
        raise BundleError(f"{where}: statistics: {name} is no table of scores; export the bundle again")
    return table
