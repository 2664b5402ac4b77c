"""Events of series: runs, what is found, and NAB's score against its own definition."""

from __future__ import annotations

import csv
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgeae.cli import main
from edgeae.errors import InputError
from edgeae.evaluation.detection import evaluate
from edgeae.evaluation.events import find_runs, measure_events, nab_score
from tests.make_golden import sensor_series

WINDOWS = Path(__file__).parents[1] / "export" / "golden" / "windows"
Array = np.ndarray[Any, Any]


@given(marks=st.lists(st.booleans(), max_size=40))
def test_runs_cover_what_is_marked_and_nothing_else(marks: list[bool]) -> None:
    runs = find_runs(np.array(marks, bool))
    covered = np.zeros(len(marks), bool)
    for start, stop in runs:
        covered[start:stop] = True
    assert covered.tolist() == marks
    assert all(before[1] < after[0] for before, after in pairwise(runs))


def test_no_run_goes_on_across_a_gap() -> None:
    assert find_runs(np.ones(4, bool), np.array([0, 1, 5, 6])) == [(0, 2), (2, 4)]


@pytest.mark.parametrize(
    ("anomalies", "found", "false", "precision", "f1", "delay"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0, None, 0.0, None),
        ([0, 0, 1, 0, 0, 0, 0, 1, 1, 0], 2, 0, 1.0, 1.0, 0.5),
        ([1, 0, 0, 0, 1, 0, 0, 0, 0, 1], 1, 2, 1 / 3, 0.4, 2.0),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 2, 0, 1.0, 1.0, 0.0),
    ],
)
def test_events_are_found_or_missed_as_a_whole(
    anomalies: list[int], found: int, false: int, precision: float | None, f1: float, delay: float | None
) -> None:
    labels = np.array([0, 0, 1, 1, 1, 0, 1, 1, 0, 0])
    made = measure_events(np.array(anomalies, bool), labels)
    assert (made.events, made.found, made.false) == (2, found, false)
    assert made.precision == pytest.approx(precision)
    assert made.recall == found / 2 and made.f1 == pytest.approx(f1) and made.delay == delay


def test_without_an_event_there_is_nothing_to_measure() -> None:
    with pytest.raises(InputError, match="no step is labelled 1"):
        measure_events(np.zeros(3, bool), np.zeros(3))


def worth_in_nab(position: float) -> float:
    """scaledSigmoid of nab/sweeper.py."""
    return -1.0 if position > 3.0 else 2.0 * (1.0 / (1.0 + math.exp(5 * position))) - 1.0


@given(anomalies=st.lists(st.booleans(), min_size=30, max_size=30))
def test_nabs_score_is_that_of_its_code(anomalies: list[bool]) -> None:
    """Row by row as nab/sweeper.py goes through a file: its window limits are inclusive."""
    windows = [(5, 9), (17, 18)]
    total, best = 0.0, 2 * worth_in_nab(-1)
    for left, right in windows:
        hits = [row for row in range(left, right + 1) if anomalies[row]]
        total += worth_in_nab(-(right - hits[0] + 1) / (right - left + 1)) if hits else -1.0
    for row, anomaly in enumerate(anomalies):
        if anomaly and not any(left <= row <= right for left, right in windows):
            before = [(left, right) for left, right in windows if right < row]
            cost = worth_in_nab((row - before[-1][1]) / (before[-1][1] - before[-1][0])) if before else -1.0
            total += 0.11 * cost
    wanted = 100 * (total + 2) / (best + 2)
    assert nab_score(np.array(anomalies), [(5, 10), (17, 19)]) == pytest.approx(wanted)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """The golden series with a fault of 40 steps; windows are anomalies from its first step on and 23 steps longer."""
    series = sensor_series(400, seed=9)
    series[200:240, 1] += 0.01
    with open(tmp_path / "series.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["heat", "flow", "fault"])
        writer.writerows([*map(float, row), int(200 <= at < 240)] for at, row in enumerate(series))
    return tmp_path / "series.csv"


def test_evaluate_counts_events_by_step(labelled: Path) -> None:
    found = evaluate(WINDOWS, labelled, label_column="fault", device="cpu", resamples=100)
    assert found.rows == 377 and found.anomalies == 63  # windows with a fault in them
    for detection in found.precisions.values():
        events = detection.events
        assert events is not None and (events.events, events.found) == (1, 1)
        assert events.delay is not None and events.delay < 5
        assert detection.auroc.value is not None and detection.auroc.value > 0.9


def test_the_command_prints_them(labelled: Path) -> None:
    arguments = ["-q", "evaluate", str(WINDOWS), str(labelled), "--label-column", "fault", "--resamples", "100"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0 and "events found" in shown.output and "1 of 1" in shown.output
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert found["precisions"]["fp32"]["events"]["found"] == 1


def test_rows_that_are_no_series_have_no_events() -> None:
    from edgeae.data import Dataset

    x = np.random.default_rng(0).normal(size=(60, 24, 2)).astype(np.float32)
    rows = Dataset(x, np.arange(60) % 2, "TC")
    assert evaluate(WINDOWS, rows, device="cpu", resamples=100).precisions["fp32"].events is None


def test_the_benchmark_reads_nabs_folders_and_measures(tmp_path: Path) -> None:
    benchmark = pytest.importorskip("benchmarks.series")
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(400) / 4) + 0.05 * rng.normal(size=400)
    values[300:320] += 3
    (tmp_path / "realKnownCause").mkdir()
    (tmp_path / "labels").mkdir()
    times = [f"2024-01-{1 + at // 24:02d} {at % 24:02d}:00:00" for at in range(400)]
    text = "timestamp,value\n" + "".join(f"{time},{value}\n" for time, value in zip(times, values, strict=True))
    (tmp_path / "realKnownCause" / "made.csv").write_text(text)
    windows = {"realKnownCause/made.csv": [[f"{times[295]}.000000", f"{times[324]}.000000"]]}
    (tmp_path / "labels" / "combined_windows.json").write_text(json.dumps(windows))
    (known,) = benchmark.load_known(tmp_path)
    assert known.labels.sum() == 30 and known.probation == 60
    for method in ("rolling z-score", "moving average residual", "IsolationForest on windows", "PCA on windows"):
        outcomes = benchmark.run_series(known, method, 12)
        assert [each.factor for each in outcomes] == list(benchmark.FACTORS)
        assert outcomes[0].auroc > 0.5 and outcomes[0].found == 1  # a rolling baseline gets used to the fault
    with pytest.raises(InputError, match="is not the folder of NAB's data"):
        benchmark.load_known(tmp_path / "labels")
