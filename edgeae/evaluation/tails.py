"""Peaks over threshold: false-alarm rates that are rarer than the rows at hand can show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeae.errors import InputError
from edgeae.evaluation.intervals import CONFIDENCE
from edgeae.runtime.pareto import fit_excesses, quantile_excess, survival

__all__ = ["FEWEST_ROWS", "Tail", "fit_tail"]

FEWEST_ROWS: Final = 100
FEWEST_PEAKS: Final = 20
MOST_PEAKS: Final = 2_000  # the tail alone; more would only reach into the body of the distribution
REACH: Final = 20  # how many times rarer than 1 / rows a rate may be: then the interval spans two orders of magnitude
HEAVY: Final = 0.5  # from this shape on the estimate's variance is infinite
LARGEST_EXPONENT: Final = 700.0  # e to this is near the end of float64
RESAMPLES: Final = 1_000

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tail:
    """The upper tail of a distribution of scores, or of their logarithms, as a generalised Pareto distribution.

    Attributes:
        start: The score, or its logarithm, where it begins.
        rows: How many scores there were.
        count: How many of them lie above that.
        shape: Its index xi: below 0 there is an upper bound, 0 is an exponential tail, above 0 a power law.
        scale: Its sigma, in units of `start`.
        logarithmic: Whether it is that of the logarithms.
    """

    start: float
    rows: int
    count: int
    shape: float
    scale: float
    logarithmic: bool = False

    def quantile(self, rate: float) -> float:
        """Return the score that a share `rate` of all scores exceeds; `rate` is at most count / rows."""
        ratio = np.array([rate * self.rows / self.count])
        place = self.start + float(quantile_excess(ratio, np.array([self.shape]), np.array([self.scale]))[0])
        return math.exp(min(place, LARGEST_EXPONENT)) if self.logarithmic else place

    def rate(self, score: float) -> float:
        """Return the share of all scores above `score`, which lies in the tail."""
        excess = np.array([(math.log(score) if self.logarithmic else score) - self.start])
        return self.count / self.rows * float(survival(excess, self.shape, self.scale)[0])

    def interval(self, rate: float, *, seed: int = 0) -> tuple[float, float]:
        """Return where the true rate at `quantile(rate)` is likely to be.

        Tails are drawn from this one (parametric bootstrap), each is fitted and asked for its quantile, and this tail
        says what rate that would have had: the spread of those answers around `rate` is that of the estimate.

        Args:
            rate: What `quantile` was asked for.
            seed: Of the drawing.
        """
        generator = np.random.default_rng(seed)
        shares = 1 - generator.random((RESAMPLES, self.count))  # in (0, 1]
        drawn = np.sort(quantile_excess(shares, np.array(self.shape), np.array(self.scale)), axis=1)
        shape, scale = fit_excesses(drawn)
        counts = np.maximum(generator.binomial(self.rows, self.count / self.rows, RESAMPLES), 1)
        excess = quantile_excess(np.minimum(rate * self.rows / counts, 1), shape, scale)
        rates = self.count / self.rows * survival(excess, self.shape, self.scale)
        low, high = np.quantile(rates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return float(low), float(high)


def fit_tail(scores: Array, fpr: float) -> Tail:
    """Fit a generalised Pareto distribution to the largest tenth of the scores, at least 20 and at most 2,000 of them.

    Above a high threshold the excesses of nearly every distribution are close to one (Pickands 1975). Its parameters
    are the probability-weighted moments' of Hosking and Wallis, "Parameter and quantile estimation for the generalized
    Pareto distribution" (Technometrics 29, 1987), which need no search and do well on few peaks, for shapes below 0.5.
    Squared errors often have heavier tails; then the logarithms of the scores are fitted instead, since a power law's
    logarithm is exponential (Hill 1975).

    Args:
        scores: [n] finite scores of normal rows, n at least 100.
        fpr: The rate that is asked for: rarer than the share of rows in the tail, not rarer than 1 / (20 n).

    Raises:
        InputError: if there are too few rows, the rate is beyond what they can say, or the largest scores are equal.

    Example:
        >>> tail = fit_tail(np.random.default_rng(0).exponential(size=5000), 1e-5)
        >>> bool(abs(tail.shape) < 0.2 and abs(tail.scale - 1) < 0.2)  # an exponential tail has shape 0
        True
    """
    rows = len(scores)
    if rows < FEWEST_ROWS:
        raise InputError(f"evt: {rows} normal rows are too few to fit a tail to; give at least {FEWEST_ROWS}")
    count = min(max(FEWEST_PEAKS, rows // 10), MOST_PEAKS)
    if fpr >= count / rows:
        raise InputError(f"evt: {rows} normal rows resolve a false-alarm rate of {fpr:g} themselves; use quantile")
    if fpr * rows * REACH < 1:
        raise InputError(
            f"evt: a false-alarm rate of {fpr:g} is out of reach of {rows} normal rows; they can say something about "
            f"{1 / (REACH * rows):.2g} and more; ask for that, or give more rows"
        )
    largest = np.sort(scores.astype(np.float64))[rows - count - 1 :]
    peaks = largest[1:] - largest[0]
    if peaks[0] == peaks[-1]:
        raise InputError(f"evt: the {count} largest scores are equal, there is no tail to fit; use quantile")
    shape, scale = fit_excesses(peaks[None])
    if shape[0] < HEAVY or largest[0] <= 0:
        return Tail(float(largest[0]), rows, count, float(shape[0]), float(scale[0]))
    logarithms = np.log(largest)
    shape, scale = fit_excesses((logarithms[1:] - logarithms[0])[None])
    return Tail(float(logarithms[0]), rows, count, float(shape[0]), float(scale[0]), logarithmic=True)
