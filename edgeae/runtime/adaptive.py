"""A threshold that follows a stream: peaks over threshold, kept up to date (SPOT)."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final

import numpy as np

from edgeae.errors import InputError
from edgeae.runtime.inputs import Array
from edgeae.runtime.pareto import fit_excesses, quantile_excess

__all__ = ["AdaptiveThreshold"]

FEWEST_ROWS: Final = 100
FEWEST_PEAKS: Final = 20
START_PEAKS: Final = 100  # so many of the largest normal scores a bundle's table has one by one
MOST_PEAKS: Final = 500  # the newest; a fit of so many takes about 20 us
MOST_ALLOWED: Final = 5.0
HEAVY: Final = 0.5  # from this shape on, logarithms are fitted instead


class AdaptiveThreshold:
    """The score that a share `rate` of normal scores exceeds, as far as the scores seen so far can say.

    It begins with the tail of the normal rows' scores that the bundle keeps. A score between the tail's start and the
    threshold is a peak, with which the generalised Pareto distribution of the tail is fitted again. So the threshold
    follows slow changes of the largest normal scores.

    Source: Siffer, Fouque, Termier and Largouet, Anomaly Detection in Streams with Extreme Value Theory, KDD 2017,
    https://doi.org/10.1145/3097983.3098144. There, no score above the threshold is learnt from, so that the tail lacks
    its end and the threshold sinks. Here as many of them as the rate allows count as peaks, each as high as the mean of
    normal scores above the threshold, so that a true anomaly, however long and strong, moves little. Besides, the fit
    is that of probability-weighted moments, heavy tails are fitted in their logarithms, and of the peaks only the
    newest 500 count.

    Attributes:
        value: The threshold now.

    Example:
        >>> from edgeae.runtime.calibrated import score_table
        >>> normal = np.random.default_rng(0).exponential(size=2000).astype(np.float32)
        >>> threshold = AdaptiveThreshold(score_table(normal), rate=0.001)
        >>> 5.5 < threshold.value < 8.5  # of an exponential distribution, 6.9
        True
        >>> threshold.is_anomaly(50.0), threshold.is_anomaly(0.3)
        (True, False)
    """

    def __init__(self, table: Array, rate: float) -> None:
        """Begin with a table from `edgeae.runtime.calibrated.score_table`.

        Args:
            table: Of the scores of at least 100 normal rows.
            rate: Share of normal scores that may exceed the threshold, above 0 and below 0.1.

        Raises:
            InputError: if there are too few rows, their largest scores are equal, or the rate is out of range.
        """
        steps, at_least = table.astype(np.float64)
        rows = int(at_least[0])
        if rows < FEWEST_ROWS:
            raise InputError(
                f"adaptive: the bundle has scores of {rows} normal rows; at least {FEWEST_ROWS} are needed"
            )
        count = min(START_PEAKS, max(FEWEST_PEAKS, rows // 10))
        if not 0 < rate < count / rows:
            raise InputError(
                f"adaptive: the rate {rate} is not between 0 and {count / rows:.3g}, the share of the tail that is "
                "fitted; ask for a rarer one"
            )
        each = -np.diff(np.append(at_least, 0)).astype(np.int64)
        largest = np.repeat(steps, each)[-count - 1 :]
        if largest[1] == largest[-1]:
            raise InputError("adaptive: the largest scores of the normal rows are equal, there is no tail to fit")
        self._rate = rate
        self._seen = rows
        self._allowed = 1.0  # scores above the threshold that may count as peaks
        self._start = float(largest[0])
        self._logarithmic = False
        marks = np.linspace(0, rows, count + 1)[1:]  # how many scores had been seen with each peak
        self._take(largest[1:] - largest[0], marks)
        if self._fit()[0] >= HEAVY and self._start > 0:
            self._logarithmic = True
            logarithms = np.log(largest)
            self._start = float(logarithms[0])
            self._take(logarithms[1:] - logarithms[0], marks)
        self._update()

    def is_anomaly(self, score: float) -> bool:
        """Return whether a score exceeds the threshold, and learn from it; NaN does."""
        self._allowed = min(MOST_ALLOWED, self._allowed + self._rate)
        anomaly = not (score <= self.value)
        if anomaly:
            if self._allowed < 1:
                return True
            self._allowed -= 1
            excess = self._beyond
        else:
            place = score if not self._logarithmic else math.log(score) if score > 0 else -math.inf
            excess = place - self._start
        self._seen += 1
        if excess > 0:
            if len(self._newest) == MOST_PEAKS:
                del self._sorted[bisect_left(self._sorted, self._newest[0])]
            self._newest.append(excess)
            self._marks.append(self._seen)
            insort(self._sorted, excess)
            self._update()
        return anomaly

    def state(self) -> dict[str, Array]:
        """Return what there is to save."""
        facts = [self._seen, self._start, float(self._logarithmic), self.value, self._beyond, self._allowed]
        return {"tail": np.array(facts), "peaks": np.array([self._newest, self._marks])}

    def restore(self, tail: Array, peaks: Array) -> None:
        """Take what `state` returned.

        Raises:
            InputError: if it is nothing of that kind.
        """
        fits = tail.shape == (6,) and peaks.ndim == 2 and tail.dtype == peaks.dtype == np.float64
        fits = fits and len(peaks) == 2 and FEWEST_PEAKS <= peaks.shape[1] <= MOST_PEAKS
        whole = fits and bool(np.isfinite(tail).all() and np.isfinite(peaks).all() and (peaks >= 0).all())
        if not (whole and peaks[0].max() > 0 and (np.diff(peaks[1]) > 0).all() and peaks[1, -1] <= tail[0] < 2**53):
            raise InputError("the state of the adaptive threshold is damaged")
        self._seen, self._start, self._logarithmic = int(tail[0]), float(tail[1]), bool(tail[2])
        self.value, self._beyond, self._allowed = tail[3:].tolist()
        self._take(peaks[0], peaks[1])

    def _take(self, excesses: Array, marks: Array) -> None:
        self._newest: deque[float] = deque(excesses.tolist(), MOST_PEAKS)
        self._marks: deque[float] = deque(marks.tolist(), MOST_PEAKS)
        self._sorted = sorted(self._newest)

    def _fit(self) -> tuple[float, float]:
        shape, scale = fit_excesses(np.array(self._sorted)[None])
        return float(shape[0]), float(scale[0])

    def _update(self) -> None:
        shape, scale = self._fit()
        peaks_a_score = (len(self._marks) - 1) / (self._seen - self._marks[0])  # of late
        share = np.array([min(1.0, self._rate / peaks_a_score)])
        excess = float(quantile_excess(share, np.array([shape]), np.array([scale]))[0])
        place = self._start + excess
        self.value = math.exp(min(place, 700.0)) if self._logarithmic else place
        bent = min(shape, HEAVY)
        self._beyond = excess + (scale + bent * excess) / (1 - bent)  # the mean of what exceeds `excess`
