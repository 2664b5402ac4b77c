"""How well events of real series are found: the Numenta Anomaly Benchmark's realKnownCause, beside simple baselines.

Protocol: of each series the first 15 % of its rows, which NAB calls probationary, are what methods are fitted to, and
the threshold is the 99 % quantile of a method's scores there; the rest is scored row by row, as a stream is: the score
of a row knows that row and those before it. Nothing is tuned for a series. The labels are NAB's windows around the
events (Lavin and Ahmad 2015, https://arxiv.org/abs/1510.03336); the data are the folders realKnownCause and labels of
https://github.com/numenta/NAB. Rows are taken as they follow on each other, whatever their timestamps. What is called
adaptive divides each score by the threshold that follows the stream (`edgeae.runtime.adaptive`).

A second table lets every method multiply its thresholds by one factor, the same for all series: of 1, 1.5, 2, 3, 5, 8,
13, 21, 34, 55, 89 and 144 the one with which its mean NAB score is best. That is chosen with the labels at hand, as NAB
itself does, and flatters all methods alike.

Example:
    python -m benchmarks.series --data-dir nab
    python -m benchmarks.series --data-dir nab --window 32 --json series.json
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest

import edgeae
from benchmarks.accuracy import PCA_SHARE
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.output import print_table, status, table
from edgeae.data import Windowing, load_data
from edgeae.data.windows import windows_of
from edgeae.errors import InputError
from edgeae.evaluation import auroc
from edgeae.evaluation.events import find_runs, measure_events
from edgeae.runtime import Stream, StreamOptions

__all__ = ["METHODS", "Known", "Outcome", "load_known", "run_series"]

PROBATION = 0.15
QUANTILE = 0.99
RATE = 0.001  # of false alarms, for the adaptive threshold
FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0, 89.0, 144.0)

Array = np.ndarray[Any, Any]
Scores = Callable[[Array, int, int], Array]  # values [n], rows to fit to, window -> score of each row, NaN at first


@dataclass(frozen=True)
class Known:
    """A series: values float32 [n], and labels [n] that are 1 within an event."""

    name: str
    values: Array
    labels: Array

    @property
    def probation(self) -> int:
        """How many rows to fit to."""
        return int(PROBATION * len(self.values))


@dataclass(frozen=True)
class Outcome:
    """What a method reached on one series behind its probationary rows, at one factor of its threshold.

    Attributes:
        series: Its name.
        method: "edgeae, convolutional", "rolling z-score", ...
        factor: Of the threshold.
        auroc: Of rows within events against the others.
        events: How many there are.
        found: How many have an alarm in them.
        alarms: Unbroken runs of anomalies.
        false: How many of them touch no event.
        f1: Of events found and alarms.
        delay: Mean rows from an event's beginning to the first anomaly in it, or None.
        nab: NAB's score, standard profile.
    """

    series: str
    method: str
    factor: float
    auroc: float
    events: int
    found: int
    alarms: int
    false: int
    f1: float
    delay: float | None
    nab: float


def load_known(folder: Path) -> list[Known]:
    """Read all series of realKnownCause with their labelled windows.

    Raises:
        InputError: if the folder is not NAB's.
    """
    try:
        windows = json.loads((folder / "labels" / "combined_windows.json").read_text("utf-8"))
        found = []
        for path in sorted((folder / "realKnownCause").glob("*.csv")):
            with open(path, encoding="utf-8", newline="") as file:
                _, *rows = csv.reader(file)
            labels = np.zeros(len(rows), np.int64)
            times = np.array([row[0] for row in rows], "datetime64[s]")
            for begin, end in windows[f"realKnownCause/{path.name}"]:
                labels[(times >= np.datetime64(begin, "s")) & (times <= np.datetime64(end, "s"))] = 1
            found.append(Known(path.stem, np.array([row[1] for row in rows], np.float32), labels))
    except (OSError, KeyError, ValueError, IndexError) as problem:
        raise InputError(f"{folder}: is not the folder of NAB's data and labels: {problem}") from None
    if not found:
        raise InputError(f"{folder}: holds no series in realKnownCause")
    return found


def run_series(known: Known, method: str, window: int) -> list[Outcome]:
    """Score one series with one method, and measure it at each factor."""
    scores = METHODS[method](known.values, known.probation, window)
    own = scores[: known.probation]
    threshold = float(np.quantile(own[~np.isnan(own)], QUANTILE))
    rest, labels = scores[known.probation :], known.labels[known.probation :]
    area = auroc(rest[labels == 0], rest[labels == 1])
    outcomes = []
    for factor in FACTORS:
        found = measure_events(~(rest <= factor * threshold), labels)
        measures = (found.events, found.found, found.alarms, found.false, found.f1, found.delay, found.nab)
        outcomes.append(Outcome(known.name, method, factor, area, *measures))
    return outcomes


def _edgeae(values: Array, probation: int, window: int, *, adaptive: bool = False, **options: Any) -> Array:
    data = load_data(values[:probation], windows=Windowing(window))
    with tempfile.TemporaryDirectory() as folder:
        run = edgeae.train(data, Path(folder) / "run", device="cpu", progress=False, **options)
        bundle = edgeae.export_bundle(run, Path(folder) / "bundle", calibrate=data)
        with edgeae.load(bundle.path, device="cpu") as model:
            stream = Stream(model, StreamOptions(adaptive=RATE if adaptive else None))
            scores = np.full(len(values), np.nan)
            for row, value in enumerate(values):
                threshold = stream.threshold if adaptive else 1.0
                score = stream.push(value).score
                scores[row] = np.nan if score is None else score / threshold
    return scores


def _rolling(values: Array, probation: int, window: int, *, scaled: bool) -> Array:
    """|value - mean of the window before it|, over the deviation there or, not scaled, alone."""
    before = windows_of(values.astype(np.float64)[:, None], window)[:-1, :, 0]
    errors = np.abs(values[window:] - before.mean(axis=1))
    if scaled:
        floor = 1e-3 * float(values[:probation].std())
        errors = errors / np.maximum(before.std(axis=1), floor or 1.0)
    return np.concatenate([np.full(window, np.nan), errors])


def _on_windows(
    values: Array, probation: int, window: int, *, fit: Callable[[Array], Callable[[Array], Array]]
) -> Array:
    own = values[:probation].astype(np.float64)
    scaled = (values.astype(np.float64) - own.mean()) / (own.std() or 1.0)
    windows = windows_of(scaled[:, None], window)[:, :, 0]
    score = fit(windows[: probation - window + 1])
    return np.concatenate([np.full(window - 1, np.nan), score(windows)])


def _forest(windows: Array) -> Callable[[Array], Array]:
    model = IsolationForest(random_state=0).fit(windows)
    return lambda x: np.asarray(-model.score_samples(x))


def _pca(windows: Array) -> Callable[[Array], Array]:
    model = PCA(PCA_SHARE, svd_solver="full").fit(windows)
    return lambda x: np.asarray(np.square(x - model.inverse_transform(model.transform(x))).mean(axis=1))


METHODS: Mapping[str, Scores] = {
    "edgeae, dense": partial(_edgeae),
    "edgeae, dense, adaptive": partial(_edgeae, adaptive=True),
    "edgeae, convolutional": partial(_edgeae, variant="convolutional"),
    "rolling z-score": partial(_rolling, scaled=True),
    "moving average residual": partial(_rolling, scaled=False),
    "IsolationForest on windows": partial(_on_windows, fit=_forest),
    "PCA on windows": partial(_on_windows, fit=_pca),
}


@click.command()
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with NAB's realKnownCause and labels.",
)
@click.option("--window", default=64, show_default=True, type=click.IntRange(2), help="Rows in a window.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write every outcome to this file.")
def main(data_dir: Path, window: int, file: Path | None) -> None:
    """Print what each method finds in each series, and means over all."""
    outcomes: list[Outcome] = []
    known = load_known(data_dir)
    with status("measuring") as say:
        for series in known:
            for method in METHODS:
                say(f"{series.name}, {method}")
                outcomes += run_series(series, method, window)
    _print_series(outcomes)
    _print_methods([outcome for outcome in outcomes if outcome.factor == 1], "At the 99 % quantile of probation")
    best = {method: _best_factor(outcomes, method) for method in METHODS}
    _print_methods([each for each in outcomes if each.factor == best[each.method]], "At each method's best factor")
    events = sum(len(find_runs(series.labels)) for series in known)
    click.echo(f"{len(known)} series, {sum(len(series.values) for series in known):,} rows, {events} labelled events")
    if file is not None:
        write_file(file, to_json(outcomes))


def _best_factor(outcomes: Sequence[Outcome], method: str) -> float:
    return max(
        FACTORS, key=lambda factor: np.mean([o.nab for o in outcomes if (o.method, o.factor) == (method, factor)])
    )


def _print_series(outcomes: Sequence[Outcome]) -> None:
    shown = table("AUROC of rows within events", "", *(f">{method}" for method in METHODS))
    first = [outcome for outcome in outcomes if outcome.factor == 1]
    for name in dict.fromkeys(outcome.series for outcome in first):
        shown.add_row(name, *(f"{outcome.auroc:.3f}" for outcome in first if outcome.series == name))
    print_table(shown)


def _print_methods(outcomes: Sequence[Outcome], title: str) -> None:
    shown = table(title, "", ">factor", ">AUROC", ">events found", ">alarms", ">false", ">F1", ">delay", ">NAB score")
    for method in METHODS:
        own = [outcome for outcome in outcomes if outcome.method == method]
        found, events = sum(each.found for each in own), sum(each.events for each in own)
        alarms, false = sum(each.alarms for each in own), sum(each.false for each in own)
        delays = [each.delay for each in own if each.delay is not None]
        precision, recall = (alarms - false) / alarms if alarms else 0.0, found / events
        shown.add_row(
            method,
            f"{own[0].factor:g}",
            f"{np.mean([each.auroc for each in own]):.3f}",
            f"{found} of {events}",
            f"{alarms:,}",
            f"{false:,}",
            f"{2 * precision * recall / (precision + recall) if precision + recall else 0.0:.3f}",
            f"{np.mean(delays):.0f}" if delays else "-",
            f"{np.mean([each.nab for each in own]):.1f}",
        )
    print_table(shown)


if __name__ == "__main__":
    main()
