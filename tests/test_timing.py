"""Interleaved timing, on a clock that the tests turn themselves."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeae.errors import InputError
from edgeae.timing import Ratio, measure, ratio, summarise


class Clock:
    """Time that passes only when someone works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def job() -> None:
            self.log.append(name)
            self.now += seconds

        return job


def test_every_call_is_timed_and_each_candidate_gets_its_seconds() -> None:
    clock = Clock()
    jobs = {"fast": clock.work("fast", 0.25), "slow": clock.work("slow", 0.5)}
    timings = measure(jobs, seconds=8, slice_seconds=1, warm_up_seconds=0, clock=clock)
    assert timings["fast"].calls == 8 * 4
    assert timings["slow"].calls == 8 * 2
    assert timings["fast"].p50 == timings["fast"].maximum == 0.25
    assert ratio(timings["fast"], timings["slow"]) == Ratio(median=0.5, p10=0.5)


def test_candidates_take_turns_and_none_always_follows_the_same_one() -> None:
    clock = Clock()
    jobs = {name: clock.work(name, 1.0) for name in "abc"}
    measure(jobs, seconds=20, slice_seconds=1, warm_up_seconds=0, clock=clock)
    warm_up, turns = clock.log[:3], clock.log[3:]
    assert warm_up == ["a", "b", "c"]
    assert [sorted(turns[start : start + 3]) for start in range(0, len(turns), 3)] == [["a", "b", "c"]] * 20
    assert set(pairwise(turns)) >= {(one, other) for one in "abc" for other in "abc" if one != other}


def test_a_call_longer_than_its_slice_is_still_made() -> None:
    clock = Clock()
    timings = measure({"long": clock.work("long", 5.0)}, seconds=1, slice_seconds=0.1, warm_up_seconds=0, clock=clock)
    assert timings["long"].p50 == 5.0


def test_warm_up_is_not_counted() -> None:
    clock = Clock()
    durations = iter([9.0] + [1.0] * 100)

    def job() -> None:
        clock.now += next(durations)

    assert measure({"job": job}, seconds=3, slice_seconds=1, clock=clock)["job"].maximum == 1.0


def test_a_candidate_settles_before_its_turn_without_being_counted() -> None:
    clock = Clock()
    timings = measure(
        {"short": clock.work("short", 0.5), "long": clock.work("long", 2.0)},
        seconds=2,
        slice_seconds=1,
        warm_up_seconds=0,
        settle_seconds=0.25,
        clock=clock,
        sleep=lambda seconds: clock.log.append("pause"),
    )
    words = " ".join(clock.log).removeprefix("short long ").split("pause ")
    assert sorted(word.strip() for word in words) == [
        "",
        "long long",
        "long long",
        "short short short",
        "short short short",
    ]
    assert timings["short"].calls == 4


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=50))
def test_percentiles_are_those_of_numpy(durations: list[float]) -> None:
    timing = summarise(durations)
    found = (timing.p10, timing.p50, timing.p90, timing.p99, timing.p999)
    np.testing.assert_array_equal(found, np.percentile(durations, (10, 50, 90, 99, 99.9)))
    assert timing.calls == len(durations)
    assert timing.maximum == max(durations)
    assert timing.mean == pytest.approx(sum(durations) / len(durations))


def test_garbage_collection_rests_meanwhile_and_is_restored_after_an_error() -> None:
    seen = []

    def look() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise KeyError("stop")

    assert gc.isenabled()
    with pytest.raises(KeyError):
        measure({"look": look}, seconds=1, slice_seconds=0.001, warm_up_seconds=0)
    assert seen == [True, False, False]
    assert gc.isenabled()


WRONG = ({"seconds": 0.0}, {"slice_seconds": -1.0}, {"seconds": float("nan")}, {"settle_seconds": -1.0})


@pytest.mark.parametrize("wrong", WRONG)
def test_impossible_durations_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        measure({"nothing": lambda: None}, **wrong)  # type: ignore[arg-type]


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(InputError, match="no candidate"):
        measure({})
    with pytest.raises(InputError, match="no durations"):
        summarise([])
