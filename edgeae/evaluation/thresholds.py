"""Thresholds from scores: of normal rows alone, or of normal rows and anomalies. NumPy only."""

from __future__ import annotations

import logging
import math
import statistics
from typing import Any, Final, get_args

import numpy as np

from edgeae.bundle.manifest import Threshold, ThresholdMethod
from edgeae.errors import InputError
from edgeae.evaluation.intervals import CONFIDENCE, beta_cdf, beta_quantile, clopper_pearson
from edgeae.evaluation.tails import FEWEST_ROWS, fit_tail

__all__ = ["METHODS", "NEED_ANOMALIES", "best_f1", "choose_threshold", "quantile_threshold"]

_log = logging.getLogger("edgeae")

METHODS: Final = tuple(method for method in get_args(ThresholdMethod) if method != "fixed")
NEED_ANOMALIES: Final = ("best-f1", "recall")
FAR: Final = 100  # times the median; on twelve ADBench sets the usual threshold lies at 10 times
OUTSIDE: Final = (1 - CONFIDENCE) / 2  # at either end of an interval

Array = np.ndarray[Any, Any]


def choose_threshold(
    normal: Array,
    anomalous: Array | None = None,
    *,
    method: str = "quantile",
    fpr: float = 0.01,
    recall: float = 0.95,
) -> Threshold:
    """Choose a threshold and say what false-alarm rate it promises, with a 95 % confidence interval.

    - "quantile": a fresh normal row exceeds it with a probability of at most `fpr`; see `quantile_threshold`.
    - "conformal": the upper end of the interval is at most `fpr`, so that with 97.5 % confidence the rate of this very
      threshold is at most that, not only that of such thresholds on average (Vovk 2012, "Conditional validity of
      inductive conformal predictors", https://arxiv.org/abs/1209.2673).
    - "evt": peaks over threshold, for rates that the rows cannot resolve; see `edgeae.evaluation.tails.fit_tail`.
    - "sigma": mean plus as many standard deviations as a normal distribution exceeds with the probability `fpr`, 3.09
      for 0.001. Scores seldom have that distribution: the rate that is stated is the measured one.
    - "best-f1": the best F1 on these rows, half way to the next higher score; the rate is the measured one.
    - "recall": the highest threshold that a fresh anomaly exceeds with a probability of at least `recall`, by the rank
      of conformal prediction among the anomalies; the rate is the measured one.

    A measured rate is (k + 1) / (n + 1) for k of n normal rows above the threshold, with the Clopper-Pearson interval;
    for "best-f1", which has looked at the same rows, that is on the narrow side.

    Args:
        normal: [n] scores of normal rows that the model was not trained on.
        anomalous: [m] scores of anomalies, for "best-f1" and "recall".
        method: As above.
        fpr: Wanted share of false alarms, above 0 and below 1.
        recall: For "recall": wanted share of anomalies found, above 0 and below 1.

    Raises:
        InputError: if an argument is out of range, a score is not finite, or the rows cannot give such a threshold.

    Example:
        >>> choose_threshold(np.arange(999.0), method="conformal", fpr=0.01).interval[1] <= 0.01
        True
    """
    if method not in METHODS:
        raise InputError(f"method: {method!r} is not one of {', '.join(METHODS)}")
    _check_share("fpr", fpr, "0.01 lets one normal row in a hundred raise an alarm")
    _check_share("recall", recall, "0.95 finds nineteen anomalies in twenty")
    anomalous = np.empty(0) if anomalous is None else anomalous
    if not (np.isfinite(normal).all() and np.isfinite(anomalous).all()):
        raise InputError("threshold: there are scores that are not finite; leave those rows out")
    if not len(normal):
        raise InputError("threshold: there are no scores of normal rows to choose it from")
    if method == "quantile":
        return quantile_threshold(normal, fpr)
    if method == "conformal":
        return _conformal(normal, fpr)
    if method == "evt":
        return _peaks_over_threshold(normal, fpr)
    if method == "sigma":
        deviations = statistics.NormalDist().inv_cdf(1 - fpr)
        spread = normal.astype(np.float64)
        return _measured(normal, spread.mean() + deviations * spread.std(), "sigma")
    if not len(anomalous):
        raise InputError(f"method: {method} needs rows labelled as anomalies")
    if method == "recall":
        return _recall(normal, anomalous, recall)
    return _measured(normal, best_f1(normal, anomalous)[1], "best-f1")


def quantile_threshold(scores: Array, fpr: float) -> Threshold:
    """Choose the smallest of the given scores that a fresh normal row exceeds with a probability of at most `fpr`.

    That is the score of rank ceil((n + 1) (1 - fpr)), the finite-sample quantile of split conformal prediction (Vovk et
    al. 2005; Angelopoulos and Bates 2021, https://arxiv.org/abs/2107.07511). Where the rows are too few to resolve the
    rate it is the largest score, and the threshold says what that can promise, 1 / (n + 1). The rate of one such
    threshold is a Beta variable around that, whose interval is stated.

    Args:
        scores: [n] scores of normal rows that the model was not trained on.
        fpr: Wanted share of false alarms, above 0 and below 1.

    Raises:
        InputError: if `fpr` is out of range or there are no finite scores.

    Example:
        >>> quantile_threshold(np.arange(99, dtype=np.float32), 0.05).value
        94.0
    """
    _check_share("fpr", fpr, "0.01 lets one normal row in a hundred raise an alarm")
    finite = np.sort(scores[np.isfinite(scores)])
    if not len(finite):
        raise InputError("threshold: there are no finite scores of normal rows to take a quantile of")
    promised = 1 / (len(finite) + 1)
    if promised > fpr:
        _log.warning(
            "threshold: %d normal rows cannot resolve a false-alarm rate of %g; the largest of their scores is used, "
            "which promises %.2g; give more (train: --validation 0.3, export: --calibrate DATA), or ask for %.2g",
            *(len(finite), fpr, promised, 2 / (len(finite) + 1)),
        )
    above = max(0, math.floor((len(finite) + 1) * fpr + 1e-9) - 1)
    threshold = _ranked(finite, above, "quantile", max(fpr, promised))
    _warn_if_far(threshold.value, finite)
    return threshold


def best_f1(normal: Array, anomalous: Array) -> tuple[float, float]:
    """Return the best F1 that a threshold can have on labelled scores, and that threshold, a float32 value.

    It lies half way between the lowest score that it calls an anomaly and the next lower one.

    Args:
        normal: [n] scores of normal rows, at least one.
        anomalous: [m] scores of anomalies, at least one.

    Raises:
        InputError: if either is empty, or all scores are equal: then nothing lies above a score and below another.

    Example:
        >>> best_f1(np.array([0.0, 1.0]), np.array([2.0, 4.0]))
        (1.0, 1.5)
    """
    if not len(normal) or not len(anomalous):
        raise InputError("best_f1: needs scores of at least one normal row and one anomaly")
    values, place = np.unique(np.concatenate([normal, anomalous]).astype(np.float32), return_inverse=True)
    if len(values) < 2:
        raise InputError("best_f1: all scores are equal, no threshold separates them")
    found = np.bincount(place[len(normal) :], minlength=len(values))[::-1].cumsum()[::-1]
    alarms = np.bincount(place, minlength=len(values))[::-1].cumsum()[::-1]
    f1 = 2 * found[1:] / (alarms[1:] + len(anomalous))  # by the lowest score that is an alarm
    best = int(np.argmax(f1))
    return float(f1[best]), _between(values[best], values[best + 1])


def _warn_if_far(value: float, finite: Array) -> None:
    """Say so where a few odd rows among the normal ones are the threshold: it keeps its promise and finds little."""
    middle = float(np.median(finite))
    if middle <= 0 or value <= FAR * middle:
        return
    tail = ", or fit their tail (edgeae threshold --method evt)" if len(finite) >= FEWEST_ROWS else ""
    _log.warning(
        "threshold: %.4g is %.0f times the median score of the %d normal rows: a few odd ones among them decide, and "
        "anomalies that are milder pass; look at those rows, give more of them (train: --validation 0.3, export: "
        "--calibrate DATA), ask for a higher rate (--fpr)%s",
        *(value, value / middle, len(finite), tail),
    )


def _check_share(name: str, value: float, example: str) -> None:
    if not 0 < value < 1:
        raise InputError(f"{name}: {value} is not between 0 and 1; {example}")


def _ranked(ascending: Array, above: int, method: ThresholdMethod, fpr: float) -> Threshold:
    """Return the threshold that is one of the scores, with `above` of them after it."""
    rows = len(ascending)
    value = np.float32(ascending[rows - 1 - above])
    # the rate of that score is Beta(above + 1, rows - above), or less where others are equal to it
    low, high = (beta_quantile(share, above + 1, rows - above) for share in (OUTSIDE, 1 - OUTSIDE))
    if np.count_nonzero(ascending.astype(np.float32) == value) > 1:
        low = clopper_pearson(int(np.count_nonzero(ascending > value)), rows)[0]
    return Threshold(float(value), method, fpr=fpr, rows=rows, interval=(low, high))


def _conformal(normal: Array, fpr: float) -> Threshold:
    rows = len(normal)
    sure = 1 - OUTSIDE
    if beta_cdf(fpr, 1, rows) < sure:
        promised = -math.expm1(math.log(OUTSIDE) / rows)
        _log.warning(
            "threshold: %d normal rows cannot hold a false-alarm rate of %g with %g %% confidence; the largest of "
            "their scores is used, which promises %.2g; %d rows would do",
            *(rows, fpr, 100 * sure, promised, math.ceil(math.log(OUTSIDE) / math.log1p(-fpr))),
        )
        return _ranked(np.sort(normal), 0, "conformal", promised)
    most, too_many = 0, rows  # as many rows above it as the confidence allows
    while too_many - most > 1:
        middle = (most + too_many) // 2
        if beta_cdf(fpr, middle + 1, rows - middle) >= sure:
            most = middle
        else:
            too_many = middle
    return _ranked(np.sort(normal), most, "conformal", fpr)


def _peaks_over_threshold(normal: Array, fpr: float) -> Threshold:
    tail = fit_tail(normal, fpr)
    value = float(np.float32(tail.quantile(fpr)))
    if not math.isfinite(value):
        raise InputError(
            f"evt: the threshold for a false-alarm rate of {fpr:g} is beyond float32; ask for a larger one"
        )
    return Threshold(value, "evt", fpr=fpr, rows=len(normal), interval=tail.interval(fpr))


def _recall(normal: Array, anomalous: Array, recall: float) -> Threshold:
    count = len(anomalous)
    promised = count / (count + 1)
    if promised < recall:
        _log.warning(
            "threshold: %d anomalies cannot promise that %g of fresh ones are found; all of them are, which promises "
            "%.3g; give more of them",
            *(count, recall, promised),
        )
    missed = max(1, math.floor((count + 1) * (1 - recall) + 1e-9))
    lowest = np.sort(anomalous.astype(np.float32))[missed - 1]
    below = np.nextafter(lowest, np.float32(-np.inf))
    return _measured(normal, float(below), "recall", recall=min(recall, promised))


def _measured(normal: Array, value: float, method: ThresholdMethod, recall: float | None = None) -> Threshold:
    """Return a threshold that owes nothing to the ranks of normal rows, with the rate that was seen."""
    if not abs(value) <= np.finfo(np.float32).max:
        raise InputError(f"{method}: the threshold {value:g} is beyond float32; the scores are out of proportion")
    exact = np.float32(value)
    above, rows = int(np.count_nonzero(~(normal <= exact))), len(normal)
    rate = (above + 1) / (rows + 1)
    return Threshold(float(exact), method, fpr=rate, rows=rows, interval=clopper_pearson(above, rows), recall=recall)


def _between(low: np.float32, high: np.float32) -> float:
    """Return a float32 value from `low` to below `high`, half way where there is one."""
    middle = np.float32((float(low) + float(high)) / 2)
    return float(middle if middle < high else low)
