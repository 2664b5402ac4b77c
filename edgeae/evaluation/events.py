"""How well alarms tell events of a series: an event is found or missed as a whole, and the sooner the better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeae.errors import InputError

__all__ = ["Events", "find_runs", "measure_events", "nab_score"]

# What a false alarm and a missed event cost where a found event brings 1: NAB's standard profile.
FALSE_ALARM: Final = 0.11
MISSED: Final = 1.0

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Events:
    """What alarms are worth on a series with labelled events.

    Attributes:
        events: How many there are: unbroken runs of steps labelled 1.
        found: How many have an alarm in them.
        alarms: How many there are: unbroken runs of steps that are anomalies.
        false: How many of them touch no event.
        recall: found / events.
        precision: Share of the alarms that touch an event; None without alarms.
        f1: Of the two; 0 without alarms.
        delay: Mean over the events found: steps from an event's first to the first anomaly in it; None if none is.
        nab: Score as the Numenta Anomaly Benchmark has it; 0 for no alarms at all, 100 for nothing but one at the first
            step of each event. It counts anomalies, not alarms.
    """

    events: int
    found: int
    alarms: int
    false: int
    recall: float
    precision: float | None
    f1: float
    delay: float | None
    nab: float


def measure_events(anomalies: Array, labels: Array, numbers: Array | None = None) -> Events:
    """Measure anomalies step by step against labelled events.

    Args:
        anomalies: bool [n], which steps are called anomalies.
        labels: [n], 1 within an event.
        numbers: int64 [n], ascending, the number of each step, where some are missing: nothing goes on across a gap.

    Raises:
        InputError: if there is no event.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 1, 0, 0, 0, 0])
        >>> found = measure_events(np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 0], bool), labels)
        >>> found.recall, found.precision, found.delay
        (1.0, 0.5, 1.0)
    """
    marked = np.asarray(labels) == 1
    anomalies = np.asarray(anomalies, bool)
    if not marked.any():
        raise InputError("events: no step is labelled 1, there is no event to find")
    events, alarms = find_runs(marked, numbers), find_runs(anomalies, numbers)
    first = [int(np.argmax(anomalies[start:stop])) if anomalies[start:stop].any() else -1 for start, stop in events]
    found = sum(delay >= 0 for delay in first)
    true = sum(bool(marked[start:stop].any()) for start, stop in alarms)
    recall, precision = found / len(events), true / len(alarms) if alarms else None
    return Events(
        events=len(events),
        found=found,
        alarms=len(alarms),
        false=len(alarms) - true,
        recall=recall,
        precision=precision,
        f1=2 * recall * precision / (recall + precision) if precision else 0.0,
        delay=sum(delay for delay in first if delay >= 0) / found if found else None,
        nab=nab_score(anomalies, events),
    )


def find_runs(marks: Array, numbers: Array | None = None) -> list[tuple[int, int]]:
    """Return where unbroken runs of true values begin and end (one past the last).

    Example:
        >>> find_runs(np.array([True, True, False, True]))
        [(0, 2), (3, 4)]
    """
    places = np.flatnonzero(marks)
    if not len(places):
        return []
    broken = np.diff(places) != 1
    if numbers is not None:
        broken |= np.diff(np.asarray(numbers)[places]) != 1
    cuts = np.flatnonzero(broken)
    starts, stops = places[np.append(0, cuts + 1)], places[np.append(cuts, len(places) - 1)] + 1
    return [(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def nab_score(anomalies: Array, events: list[tuple[int, int]]) -> float:
    """Return the score of the Numenta Anomaly Benchmark, standard profile: at most 100; below 0 is worse than silence.

    The first anomaly in an event brings nearly 1 at the event's first step, down to 0 at its last; a later one there
    brings nothing. An anomaly outside costs up to 0.11, less soon after an event; an event without one costs 1.

    Source: Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, 2015, https://arxiv.org/abs/1510.03336,
    and the code of its repository, https://github.com/numenta/NAB (nab/sweeper.py).

    Args:
        anomalies: bool [n].
        events: Where they begin and end, at least one, ascending.

    Example:
        >>> nab_score(np.array([0, 0, 1, 0, 0, 0], bool), [(2, 5)])
        100.0
    """
    inside = np.zeros(len(anomalies), bool)
    total = 0.0
    for start, stop in events:
        inside[start:stop] = True
        hits = np.flatnonzero(anomalies[start:stop])
        total += _worth(-(stop - start - int(hits[0])) / (stop - start)) if len(hits) else -MISSED
    for place in np.flatnonzero(anomalies & ~inside):
        before = [(start, stop) for start, stop in events if stop <= place]
        position = math.inf
        if before:
            start, stop = before[-1]
            position = (place - (stop - 1)) / max(1, stop - 1 - start)
        total += FALSE_ALARM * _worth(position)
    best, silent = len(events) * _worth(-1.0), -MISSED * len(events)
    return 100 * (total - silent) / (best - silent)


def _worth(position: float) -> float:
    """Return what an anomaly brings: 1 long before an event's end at 0, -1 long after it."""
    return -1.0 if position > 3 else 2 / (1 + math.exp(5 * position)) - 1
