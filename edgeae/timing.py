"""Timing that stands comparison: every call is timed, candidates take turns in short slices, medians decide.

Another process that wakes up, a warming processor or a busy neighbour slow down whatever runs at that moment. When the
candidates take turns every few milliseconds, all of them meet the same weather, and a ratio of medians or of 10th
percentiles stays comparable where two runs one after the other do not.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeae.errors import InputError

__all__ = ["Ratio", "Timing", "measure", "ratio", "summarise"]


@dataclass(frozen=True)
class Timing:
    """The distribution of a call's duration, in seconds."""

    calls: int
    mean: float
    p10: float
    p50: float
    p90: float
    p99: float
    p999: float
    maximum: float


@dataclass(frozen=True)
class Ratio:
    """How long one candidate takes compared with another: 0.5 is half the time.

    Attributes:
        median: Ratio of the medians.
        p10: Ratio of the 10th percentiles, which shows the undisturbed calls; far from `median`, the machine was busy.
    """

    median: float
    p10: float


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    slice_seconds: float = 0.01,
    warm_up_seconds: float = 0.05,
    settle_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Timing]:
    """Time each candidate for about `seconds`, in turns of `slice_seconds`, after an untimed warm-up.

    The order of each turn is drawn anew (the same in every run), so that none always follows the same one and its
    spinning threads. Garbage collection is off.

    Args:
        candidates: Name to function without arguments.
        seconds: Time for each candidate; each is called at least once.
        slice_seconds: Length of a turn; at least one call.
        warm_up_seconds: Time for each before anything is recorded; at least one call.
        settle_seconds: Pause before each turn, and then a call that is not counted: threads of the candidate before
            have stopped spinning, the caches hold this one's data, and cores that slept are awake, which for those of
            a virtual machine may take milliseconds.
        clock: Returns seconds.
        sleep: Waits for seconds.

    Returns:
        Name to distribution, over all calls.

    Raises:
        InputError: if there is nothing to time, or a duration is not positive.

    Example:
        >>> timings = measure({"sum": lambda: sum(range(100)), "list": lambda: list(range(100))}, seconds=0.01)
        >>> timings["sum"].calls > 1
        True
    """
    if not candidates:
        raise InputError("timing: there is no candidate to time")
    if not (seconds > 0 and slice_seconds > 0 and warm_up_seconds >= 0 and settle_seconds >= 0):
        raise InputError("timing: seconds and slice_seconds must be positive, the others not negative")
    for function in candidates.values():
        _run_slice(function, warm_up_seconds, clock)
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    names, order = list(candidates), random.Random(0)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(max(1, round(seconds / slice_seconds))):
            for name in order.sample(names, len(names)):
                if settle_seconds > 0:
                    sleep(settle_seconds)
                    candidates[name]()
                samples[name] += _run_slice(candidates[name], slice_seconds, clock)
    finally:
        if collecting:
            gc.enable()
    return {name: summarise(durations) for name, durations in samples.items()}


def summarise(durations: Any) -> Timing:
    """Return the distribution of durations in seconds, percentiles interpolated linearly.

    Raises:
        InputError: if there are none.
    """
    values = np.asarray(durations, np.float64)
    if values.size == 0:
        raise InputError("timing: no durations to summarise")
    p10, p50, p90, p99, p999 = (float(value) for value in np.percentile(values, (10, 50, 90, 99, 99.9)))
    return Timing(values.size, float(values.mean()), p10, p50, p90, p99, p999, float(values.max()))


def ratio(one: Timing, other: Timing) -> Ratio:
    """Return how long `one` takes compared with `other`.

    Example:
        >>> ratio(summarise([1.0, 1.0]), summarise([4.0, 4.0]))
        Ratio(median=0.25, p10=0.25)
    """
    return Ratio(one.p50 / other.p50, one.p10 / other.p10)


def _run_slice(function: Callable[[], object], seconds: float, clock: Callable[[], float]) -> list[float]:
    durations = []
    before = start = clock()
    while True:
        function()
        after = clock()
        durations.append(after - before)
        if after - start >= seconds:
            return durations
        before = clock()
