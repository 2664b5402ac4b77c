"""Whether thresholds keep their promise: how often fresh normal rows exceed them, beside the intervals stated."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

import edgeae
from benchmarks.adbench import load_split
from edgeae.cli.output import print_table, status, table
from edgeae.errors import InputError
from edgeae.evaluation import choose_threshold
from edgeae.evaluation.intervals import clopper_pearson

__all__ = ["Promise", "measure_false_alarms", "print_false_alarms"]


@dataclass(frozen=True)
class Promise:
    """One threshold and what became of it.

    Attributes:
        data: The set.
        seed: Of the split and the training.
        method: How the threshold was chosen.
        rows: Validation rows that it was chosen from.
        requested: The false-alarm rate that was asked for.
        stated: The rate that the threshold states.
        interval: Its 95 % confidence interval.
        fresh: How many fresh normal rows were scored.
        measured: The share of them above the threshold.
        recall: The share of the anomalies above it.
        ratio: The threshold over the median score of the validation rows.
    """

    data: str
    seed: int
    method: str
    rows: int
    requested: float
    stated: float
    interval: tuple[float, float]
    fresh: int
    measured: float
    recall: float
    ratio: float

    @property
    def within(self) -> bool:
        """Whether the measured rate lies within the stated interval, whose ends are rounded outwards to whole rows."""
        low, high = self.interval
        return math.floor(low * self.fresh) <= round(self.measured * self.fresh) <= math.ceil(high * self.fresh)

    @property
    def contradicts(self) -> bool:
        """Whether the rate is certainly another: its own 95 % interval and the stated one have nothing in common."""
        low, high = clopper_pearson(round(self.measured * self.fresh), self.fresh)
        return low > self.interval[1] or high < self.interval[0]


def measure_false_alarms(paths: Sequence[Path], methods: Sequence[str], *, seeds: int, fpr: float) -> list[Promise]:
    """Train on half the normal rows of each set, choose thresholds from those held out, try them on the other half.

    Args:
        paths: The sets.
        methods: See `edgeae.evaluation.choose_threshold`; one that a set has too few rows for is left out there.
        seeds: Splits of each set.
        fpr: The rate to ask for.
    """
    made = []
    with status("measuring") as say:
        for path in paths:
            for seed in range(seeds):
                say(f"{path.stem}, split {seed + 1} of {seeds}")
                made += _promises(path, seed, methods, fpr)
    return made


def print_false_alarms(promises: Sequence[Promise]) -> None:
    """Print a table for each method: a line per set, with means over the splits.

    The last column is the median, over the splits, of the threshold over the median score.
    """
    for method in dict.fromkeys(each.method for each in promises):
        chosen = [each for each in promises if each.method == method]
        columns = ("rows", "stated", "interval", "fresh", "measured", "range", "within", "recall", "/ median")
        asked = f"False alarms in %, {method}: {100 * chosen[0].requested:g} % asked for"
        shown = table(asked, "", *(f">{name}" for name in columns))
        for name in dict.fromkeys(each.data for each in chosen):
            some = [each for each in chosen if each.data == name]
            low, high = np.mean([each.interval for each in some], axis=0)
            rates = [each.measured for each in some]
            shown.add_row(
                name,
                str(some[0].rows),
                _percent(float(np.mean([each.stated for each in some]))),
                f"{_percent(low)}-{_percent(high)}",
                str(some[0].fresh),
                _percent(float(np.mean(rates))),
                f"{_percent(min(rates))}-{_percent(max(rates))}",
                f"{sum(each.within for each in some)}/{len(some)}",
                f"{np.mean([each.recall for each in some]):.3f}",
                f"{np.median([each.ratio for each in some]):.1f}",
            )
        print_table(shown)
        within, wrong = (sum(getattr(each, name) for each in chosen) for name in ("within", "contradicts"))
        click.echo(
            f"{method}: measured rate within the stated interval in {within} of {len(chosen)} trials "
            f"({100 * within / len(chosen):.1f} %), certainly outside in {wrong}; mean rate "
            f"{_percent(float(np.mean([each.measured for each in chosen])))} %, stated "
            f"{_percent(float(np.mean([each.stated for each in chosen])))} %"
        )


def _promises(path: Path, seed: int, methods: Sequence[str], fpr: float) -> list[Promise]:
    split = load_split(path, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = edgeae.train(split.training, Path(folder) / "run", seed=seed, progress=False)
        bundle = edgeae.export_bundle(run, Path(folder) / "bundle", fpr=fpr)
        with edgeae.load(bundle.path, device="cpu") as model:
            held_out, fresh, odd = (
                model.score(rows) for rows in (run.reference.x_validation, split.normal, split.anomalies)
            )
    made = []
    for method in methods:
        try:
            threshold = choose_threshold(held_out, odd, method=method, fpr=fpr)
        except InputError:
            continue  # too few rows for it
        if threshold.fpr is None or threshold.interval is None:
            continue
        value = np.float32(threshold.value)
        made.append(
            Promise(
                data=path.stem,
                seed=seed,
                method=method,
                rows=len(held_out),
                requested=fpr,
                stated=threshold.fpr,
                interval=(threshold.interval[0], threshold.interval[1]),
                fresh=len(fresh),
                measured=float(np.mean(~(fresh <= value))),
                recall=float(np.mean(~(odd <= value))),
                ratio=float(value / np.median(held_out)),
            )
        )
    return made


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}"
