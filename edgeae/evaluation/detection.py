"""`edgeae evaluate`: how well a bundle tells labelled anomalies from normal rows, at each of its precisions."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Threshold
from edgeae.data import Dataset, load_rows
from edgeae.errors import InputError, MissingPackageError
from edgeae.evaluation.baselines import (
    FITTED,
    SCORED,
    Comparison,
    compare_with_baselines,
    divide,
    take_some,
    training_rows,
)
from edgeae.evaluation.bootstrap import Counts, bootstrap, figures
from edgeae.evaluation.events import Events, measure_events
from edgeae.evaluation.intervals import clopper_pearson
from edgeae.evaluation.metrics import auroc, average_precision
from edgeae.evaluation.thresholds import best_f1

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = [
    "AtK",
    "Detection",
    "Evaluation",
    "Measure",
    "compare_bundle",
    "evaluate",
    "measure_detection",
    "require_labels",
]

_log = logging.getLogger("edgeae")

RESAMPLES = 1_000
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Measure:
    """A figure of merit with its 95 % confidence interval; None where there is none: a precision without alarms."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class AtK:
    """How the rows with the k highest scores do: the share of them that are anomalies, and the share of those found."""

    k: int
    precision: Measure
    recall: Measure


@dataclass(frozen=True)
class Detection:
    """What the scores of one precision are worth.

    Attributes:
        threshold: The bundle's, with what it promises.
        auroc: Area under the ROC curve: the chance that an anomaly scores higher than a normal row.
        average_precision: Area under the precision-recall curve, as a sum of steps.
        f1: Of the alarms at the threshold, like the next three.
        precision: Share of the alarms that are anomalies.
        recall: Share of the anomalies that raise an alarm.
        false_alarms: Share of the normal rows that raise one.
        best_f1: The best F1 that any threshold has on these rows.
        best_threshold: The threshold that has it.
        at: Precision and recall among the k highest scores.
        events: Of a series with labels: how its anomalies, step by step, do against its labelled events.
    """

    threshold: Threshold
    auroc: Measure
    average_precision: Measure
    f1: Measure
    precision: Measure
    recall: Measure
    false_alarms: Measure
    best_f1: Measure
    best_threshold: float
    at: tuple[AtK, ...]
    events: Events | None = None


@dataclass(frozen=True)
class Evaluation:
    """A bundle, labelled data, and what came of it by precision.

    Attributes:
        bundle: Its name.
        digest: SHA-256 of its manifest.
        data: What the data calls itself.
        rows: How many there were.
        anomalies: How many of them are labelled so.
        resamples: Of the bootstrap, like the seed.
        seed: The same seed gives the same intervals.
        precisions: By name, "fp32" first.
        baselines: The first precision beside simple baselines on these rows; None where there are too few.
    """

    bundle: str
    digest: str
    data: str
    rows: int
    anomalies: int
    resamples: int
    seed: int
    precisions: dict[str, Detection]
    baselines: Comparison | None = None


def evaluate(
    path: str | os.PathLike[str],
    data: Any,
    *,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    at: Sequence[int] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
    run: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Score labelled rows at every precision of a bundle and say how well anomalies stand out.

    Args:
        path: The bundle.
        data: Rows that the model was not trained on, with labels: 0 is normal, 1 an anomaly. See `load_rows`.
        label_column: Where the labels are; by default `y` of an .npz.
        columns: See `load_rows`.
        data_dir: See `load_rows`.
        device: Where to score.
        trust: See `edgeae.load`.
        at: For which k the precision and recall among the k highest scores are wanted; by default 10, 100 and as many
            as there are anomalies.
        resamples: How many times the rows are drawn again for the confidence intervals, at least 100. Those of recall
            and false alarms, which are shares of independent rows, are exact instead (Clopper-Pearson).
        seed: Of the drawing.
        run: The run directory that the bundle was exported from: baselines are then fitted to its training rows.
            Without it, to one half of the normal rows here, and compared on the other half.
        progress: Called with what is being done.

    Raises:
        InputError: if labels are missing, other than 0 and 1, or of one class only, or an argument is out of range.
        MissingPackageError: without scikit-learn.
        BundleError: if the bundle cannot be used.

    Example:
        >>> from edgeae.data import load_data
        >>> digits = load_data("digits").x[:100]
        >>> upside_down = Dataset(np.concatenate([digits, 16 - digits]), np.arange(200) // 100, "HW")
        >>> evaluate("export/golden/dense", upside_down, device="cpu").precisions["fp32"].auroc.value
        1.0
    """
    import edgeae

    if importlib.util.find_spec("sklearn") is None:
        raise MissingPackageError("evaluate: needs scikit-learn; install it with: pip install scikit-learn")
    if resamples < 100:
        raise InputError(f"resamples: {resamples} are too few for an interval; give at least 100")
    tell = progress or (lambda step: None)
    bundle = Bundle.read(path)
    dataset = load_rows(data, bundle.manifest.input, label_column=label_column, columns=columns, data_dir=data_dir)
    anomaly = require_labels(dataset)
    chosen = _ranks(at, len(anomaly), int(anomaly.sum()))
    found: dict[str, Detection] = {}
    beside: Comparison | None = None
    for precision, entry in bundle.manifest.precisions.items():
        tell(f"{precision}: scoring")
        with edgeae.load(path, device=device, precision=precision, trust=trust) as model:
            scores = model.score(dataset.x)
            if not found:
                tell("comparing with baselines")
                beside = compare_bundle(model, dataset, run=run)
        tell(f"{precision}: drawing {resamples} resamples")
        made = measure_detection(scores, anomaly, entry.threshold, at=chosen, resamples=resamples, seed=seed)
        if dataset.step_labels is not None and (dataset.step_labels == 1).any():
            alarms = ~(scores <= np.float32(entry.threshold.value))
            made = replace(made, events=measure_events(alarms, dataset.step_labels, dataset.steps))
        found[precision] = made
        _compare_with_promise(precision, found[precision])
    return Evaluation(
        bundle=bundle.manifest.name,
        digest=bundle.digest,
        data=dataset.source,
        rows=len(anomaly),
        anomalies=int(anomaly.sum()),
        resamples=resamples,
        seed=seed,
        precisions=found,
        baselines=beside,
    )


def compare_bundle(
    model: Autoencoder,
    dataset: Dataset,
    *,
    rows: Array | None = None,
    run: str | os.PathLike[str] | None = None,
) -> Comparison | None:
    """Hold a loaded bundle against simple baselines; see `compare_with_baselines`.

    Args:
        model: The bundle.
        dataset: Rows; without labels 0 and 1 all are taken for normal.
        rows: Places of those to look at, ascending; by default all.
        run: See `evaluate`.

    Raises:
        InputError: if the run's rows are missing, or are not such as the bundle takes.
    """
    places = np.arange(len(dataset)) if rows is None else rows
    marked = np.zeros(len(places), bool)
    if dataset.y is not None and dataset.anomaly_labels:
        marked = dataset.y[places] == 1
    normal, anomalous = places[~marked], places[marked]
    row, layout = model.manifest.input.shape, model.manifest.input.layout
    if run is None:
        fitted, normal = divide(normal, ordered=dataset.steps is not None)
        known = take_some(dataset.x, fitted, FITTED)
    else:
        known = training_rows(run)
        if known.shape[1:] != row:
            raise InputError(f"{run}: its rows are of shape {known.shape[1:]}, the bundle's {row}; give its own run")
    return compare_with_baselines(
        known,
        take_some(dataset.x, normal, SCORED),
        take_some(dataset.x, anomalous, SCORED) if len(anomalous) else None,
        score=model.score,
        reconstruct=model.reconstruct,
        normalisation=model.manifest.normalisation,
        layout=layout,
        components=model.manifest.latent_dim,
    )


def measure_detection(
    scores: Array, anomaly: Array, threshold: Threshold, *, at: Sequence[int], resamples: int = RESAMPLES, seed: int = 0
) -> Detection:
    """Measure what scores are worth on labelled rows.

    Args:
        scores: float32 [n], higher is more anomalous; NaN counts as the highest.
        anomaly: bool [n], both values in it.
        threshold: What the alarms are raised by.
        at: For which k the precision and recall among the k highest scores are wanted.
        resamples: Of the bootstrap, like the seed.
        seed: See `edgeae.evaluation.bootstrap`.

    Raises:
        InputError: if all scores are equal.
    """
    normal, anomalous = scores[~anomaly], scores[anomaly]
    values = {
        name: float(column[0]) for name, column in figures(Counts.of(normal, anomalous, threshold.value), at).items()
    }
    values |= {"auroc": auroc(normal, anomalous), "average_precision": average_precision(normal, anomalous)}
    intervals = bootstrap(normal, anomalous, threshold.value, at=at, resamples=resamples, seed=seed)

    def measure(name: str) -> Measure:
        return Measure(*(None if math.isnan(number) else number for number in (values[name], *intervals[name])))

    return Detection(
        threshold=threshold,
        auroc=measure("auroc"),
        average_precision=measure("average_precision"),
        f1=measure("f1"),
        precision=measure("precision"),
        recall=_share(anomalous, threshold.value),
        false_alarms=_share(normal, threshold.value),
        best_f1=measure("best_f1"),
        best_threshold=best_f1(normal, anomalous)[1],
        at=tuple(AtK(k, measure(f"precision_at_{k}"), measure(f"recall_at_{k}")) for k in at),
    )


def require_labels(dataset: Dataset) -> Array:
    """Return which rows are labelled as anomalies, bool [n].

    Raises:
        InputError: if there are no labels, others than 0 and 1, or only one of the two.
    """
    if dataset.y is None:
        raise InputError(
            f"{dataset.source}: has no labels (0 normal, 1 anomaly); name their column with --label-column, or "
            "put them into an .npz as y"
        )
    if not dataset.anomaly_labels:
        raise InputError(
            f"{dataset.source}: the labels go from {dataset.y.min()} to {dataset.y.max()}; wanted are 0 for normal "
            "rows and 1 for anomalies"
        )
    anomaly: Array = dataset.y == 1
    if anomaly.all() or not anomaly.any():
        only, other = ("an anomaly", "normal rows") if anomaly.all() else ("normal", "anomalies")
        raise InputError(f"{dataset.source}: every row is labelled as {only}; {other} are needed, too")
    return anomaly


def _ranks(at: Sequence[int], rows: int, anomalies: int) -> tuple[int, ...]:
    if not at:
        return tuple(sorted({k for k in (10, 100, anomalies) if k <= rows}))
    for k in at:
        if not 0 < k <= rows:
            raise InputError(f"at: {k} is not from 1 to {rows}, the number of rows")
    return tuple(dict.fromkeys(at))


def _share(scores: Array, threshold: float) -> Measure:
    alarms = int(np.count_nonzero(~(scores <= np.float32(threshold))))
    return Measure(alarms / len(scores), *clopper_pearson(alarms, len(scores)))


def _compare_with_promise(precision: str, found: Detection) -> None:
    """Say so where the false-alarm rate is certainly higher than the threshold said."""
    threshold, seen = found.threshold, found.false_alarms
    if threshold.fpr is None or seen.value is None or seen.low is None:
        return
    most = threshold.fpr if threshold.interval is None else max(threshold.fpr, threshold.interval[1])
    if seen.low > most:
        _log.warning(
            "%s: %.3g %% of the normal rows raise an alarm, more than the threshold promises (%.3g %%, at most %.3g "
            "%%): these rows differ from those it was taken from; take it from such rows with: edgeae threshold",
            *(precision, 100 * seen.value, 100 * threshold.fpr, 100 * most),
        )
