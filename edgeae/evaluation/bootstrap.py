"""How sure figures of merit are: scores of labelled rows, drawn again with replacement, class by class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeae.evaluation.intervals import CONFIDENCE
from edgeae.evaluation.metrics import orderable

__all__ = ["Counts", "bootstrap", "figures"]

BLOCK: Final = 2**18  # rows drawn at a time; what is counted of them fits into the cache

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Counts:
    """How many normal rows and anomalies have each score, from the highest score to the lowest, in several samples.

    Attributes:
        normal: int64 [samples, scores].
        anomalous: int64 [samples, scores].
        alarms: How many of the scores, from the first one on, lie above the threshold.
    """

    normal: Array
    anomalous: Array
    alarms: int

    @staticmethod
    def of(normal: Array, anomalous: Array, threshold: float) -> Counts:
        """Count the scores [n] of normal rows and [m] of anomalies as they are: one sample."""
        values, places = _places(normal, anomalous)
        ordinary, strange = (np.bincount(place, minlength=len(values))[None] for place in places)
        return Counts(ordinary, strange, _above(values, threshold))


def figures(counts: Counts, at: Sequence[int]) -> dict[str, Array]:
    """Return figures of merit of each sample, [samples] each; NaN for the precision where there are no alarms.

    Rows of equal score share the ranks that they have together: of 10 rows that share the ranks 1 to 10, 2 anomalies
    among them, one is expected among the first 5.
    """
    found, false = counts.anomalous.cumsum(axis=1), counts.normal.cumsum(axis=1)
    anomalies, normals = found[:, -1], false[:, -1]
    alarms = found + false
    shared = counts.anomalous / anomalies[:, None]
    lower = normals[:, None] - false + counts.normal / 2
    scores_of_f1 = 2 * found / (alarms + anomalies[:, None])
    zero = np.zeros(len(found), np.int64)
    hits, total = (found[:, counts.alarms - 1], alarms[:, counts.alarms - 1]) if counts.alarms else (zero, zero)
    with np.errstate(invalid="ignore"):
        made = {
            "auroc": (shared * lower).sum(axis=1) / normals,
            "average_precision": (shared * found / np.maximum(alarms, 1)).sum(axis=1),
            "precision": hits / total,
            "f1": 2 * hits / (total + anomalies),
            "best_f1": scores_of_f1[:, :-1].max(axis=1, initial=0.0),  # calling every row an anomaly does not count
        }
    ranks, hits_to_there = (np.pad(each, ((0, 0), (1, 0))) for each in (alarms, found))
    for k in at:
        first = np.array([np.interp(k, *each) for each in zip(ranks, hits_to_there, strict=True)])
        made[f"precision_at_{k}"] = first / k
        made[f"recall_at_{k}"] = first / anomalies
    return made


def bootstrap(
    normal: Array, anomalous: Array, threshold: float, *, at: Sequence[int], resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % confidence interval of each of the `figures`.

    Percentiles over stratified resamples: as many normal rows and as many anomalies as there are, each drawn with
    replacement (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). The same seed gives the
    same intervals.

    Args:
        normal: [n] scores of normal rows, at least one.
        anomalous: [m] scores of anomalies, at least one.
        threshold: Of the rows' alarms.
        at: For which k the precision and recall among the k highest scores are wanted.
        resamples: How many.
        seed: Of the drawing.
    """
    values, places = _places(normal, anomalous)
    generator = np.random.default_rng(seed)
    parts: dict[str, list[Array]] = {}
    for size in _blocks(resamples, len(normal) + len(anomalous)):
        ordinary, strange = (_resampled(place, len(values), size, generator) for place in places)
        for name, column in figures(Counts(ordinary, strange, _above(values, threshold)), at).items():
            parts.setdefault(name, []).append(column)
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    intervals = {}
    for name, columns in parts.items():
        column = np.concatenate(columns)
        known = column[~np.isnan(column)]
        low, high = np.quantile(known, ends) if len(known) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals


def _places(normal: Array, anomalous: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return the different scores, descending, and for each row of either class where among them its own is."""
    values, place = np.unique(orderable(np.concatenate([normal, anomalous])), return_inverse=True)
    place = len(values) - 1 - place
    return values[::-1], (place[: len(normal)], place[len(normal) :])


def _above(descending: Array, threshold: float) -> int:
    return int(np.count_nonzero(descending > threshold))


def _resampled(place: Array, scores: int, samples: int, generator: np.random.Generator) -> Array:
    drawn = place[generator.integers(0, len(place), (samples, len(place)))]
    offset = scores * np.arange(samples)[:, None]
    return np.bincount((drawn + offset).ravel(), minlength=samples * scores).reshape(samples, scores)


def _blocks(resamples: int, rows: int) -> Iterator[int]:
    size = max(1, BLOCK // rows)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
