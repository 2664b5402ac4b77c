"""What a report says, as numbers: scores, curves, latents, errors. No markup, no PyTorch."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae.bundle.manifest import Provenance
from edgeae.bundle.strict import from_plain, parse_json
from edgeae.data import Dataset, normalise
from edgeae.errors import InputError
from edgeae.evaluation import auroc, average_precision
from edgeae.evaluation.baselines import Comparison
from edgeae.evaluation.metrics import orderable

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = ["Curves", "Facts", "History", "gather", "principal_components", "read_history"]

Array = np.ndarray[Any, Any]
LATENT_ROWS = 2000  # on the map, and behind the reconstruction error
LATENT_BYTES = 2**26  # of rows held for them
HISTORY = ("epoch", "train_loss", "validation_loss")


@dataclass(frozen=True)
class Facts:
    """What was measured on the rows of a report.

    Attributes:
        source: What the data calls itself.
        total: How many rows it holds.
        rows: int64 [n], the numbers of those that were looked at, ascending.
        scores: float32 [n], higher is more anomalous; NaN for rows that cannot be scored.
        anomalies: bool [n], `not (score <= threshold)`.
        labels: [n] whole numbers, or None.
        labelled: Whether the labels are 0 for normal and 1 for anomaly.
        map_rows: int64 [m], places in `rows` of the rows on the latent map.
        latents: float32 [m, latent_dim].
        mse: Mean squared error of those rows in normalised space.
        baselines: The bundle beside simple baselines on these rows.
    """

    source: str
    total: int
    rows: Array
    scores: Array
    anomalies: Array
    labels: Array | None
    labelled: bool
    map_rows: Array
    latents: Array
    mse: float
    baselines: Comparison | None = None

    @cached_property
    def ranking(self) -> Array:
        """Places in `rows` from the lowest finite score to the highest; rows without a score are left out."""
        order = np.argsort(self.scores, kind="stable")
        kept: Array = order[np.isfinite(self.scores[order])]
        return kept

    @cached_property
    def curves(self) -> Curves | None:
        """ROC and precision-recall, where both normal rows and anomalies are labelled."""
        if not self.labelled or self.labels is None or len(np.unique(self.labels)) < 2:
            return None
        return _curves(self.labels == 1, self.scores, self.anomalies)


@dataclass(frozen=True)
class Curves:
    """How well the scores separate labelled anomalies from normal rows.

    Attributes:
        roc: [k, 2], false-alarm rate and share of anomalies found, for thresholds from high to low.
        precision_recall: [k, 2], share of anomalies found and share of alarms that are right.
        auroc: Area under the first.
        average_precision: Of the second.
        prevalence: Share of anomalies among the rows.
        false_alarms: Share of normal rows above the bundle's threshold.
        found: Share of anomalies above it.
        right: Share of alarms that are right, or NaN without alarms.
    """

    roc: Array
    precision_recall: Array
    auroc: float
    average_precision: float
    prevalence: float
    false_alarms: float
    found: float
    right: float


@dataclass(frozen=True)
class History:
    """The losses of a run, [epochs] each."""

    epochs: Array
    training: Array
    validation: Array


def gather(model: Autoencoder, data: Dataset, *, rows: int) -> Facts:
    """Score the rows, or a sample of them, and encode a smaller sample.

    Args:
        model: Loaded with on_invalid as the caller wants it.
        data: Rows as the bundle takes them; may be a memory map larger than memory.
        rows: Look at no more rows than this: a random sample, the same one every time.

    Raises:
        InputError: if `rows` is not positive, no row can be scored, or what `score` and `encode` raise.
    """
    if rows < 1:
        raise InputError(f"rows: expected a whole number from 1, got {rows}")
    generator = np.random.default_rng(0)
    chosen = _sample(generator, len(data), rows)
    if len(chosen) == len(data):
        scores: Array = model.score(data.x)
    else:
        scores = np.concatenate(list(model.stream("score", _blocks(data.x, chosen))))
    usable = np.flatnonzero(np.isfinite(scores))
    if not len(usable):
        raise InputError(f"{data.source}: none of the {len(scores)} rows has a finite score; there is nothing to show")
    row_bytes = 4 * max(1, math.prod(data.row_shape))
    on_map = usable[_sample(generator, len(usable), min(LATENT_ROWS, max(16, LATENT_BYTES // row_bytes)))]
    x = np.asarray(data.x[chosen[on_map]])
    latents = model.encode(x)
    manifest = model.manifest
    x, x_hat = (
        normalise(np.asarray(part, np.float32), manifest.normalisation, manifest.input.layout)
        for part in (x, model.decode(latents))
    )
    return Facts(
        source=data.source,
        total=len(data),
        rows=chosen,
        scores=scores,
        anomalies=model.is_anomaly(scores),
        labels=None if data.y is None else data.y[chosen],
        labelled=data.anomaly_labels,
        map_rows=on_map,
        latents=latents,
        mse=float(np.mean(np.square(x - x_hat), dtype=np.float64)),
    )


def principal_components(latents: Array) -> tuple[Array, Array]:
    """Project latents on their first two principal components.

    Args:
        latents: [n, d].

    Returns:
        [n, 2], zero in the second column where d is 1, and the share [2] of the variance that each carries.

    Example:
        >>> line = np.outer(np.arange(5.0), [3.0, 4.0])
        >>> principal_components(line)[1].round(6).tolist()
        [1.0, 0.0]
    """
    centred = latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)
    left, strength, directions = np.linalg.svd(centred, full_matrices=False)
    # the sign of a component means nothing: fix it, so that the same latents give the same map
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    shares = np.square(strength) / (np.square(strength).sum() or 1.0)
    points, carried = np.zeros((len(latents), 2)), np.zeros(2)
    count = min(2, len(strength))
    points[:, :count] = (left * strength * signs)[:, :count]
    carried[:count] = shares[:count]
    return points, carried


def read_history(run: str | os.PathLike[str], trained: Provenance | None) -> History:
    """Read the losses of a run directory, without PyTorch.

    Args:
        run: What `edgeae train` wrote.
        trained: What the bundle's manifest says of its training, to compare with; None skips that.

    Raises:
        InputError: if there is no such run, its history is damaged, or the bundle comes from another run.
    """
    folder = Path(run)
    record, history = folder / "model.json", folder / "history.csv"
    try:
        described = parse_json(record.read_bytes(), where=str(record), error=InputError)
        lines = list(csv.DictReader(history.read_text("utf-8").splitlines()))
    except OSError as problem:
        name = problem.filename or folder
        raise InputError(f"{name}: {problem.strerror or problem}; give the run directory with --run") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise InputError(f"{history}: not a readable .csv file: {problem}") from None
    if trained is not None:
        plain = described.get("provenance") if isinstance(described, dict) else None
        found = from_plain(Provenance, plain, where=f"{record}: provenance", error=InputError)
        if found != trained:
            raise InputError(
                f"{folder}: not the run that the bundle was exported from (its data, rows, epochs, loss or seed "
                "differ); give that one with --run"
            )
    try:
        columns = {name: np.array([float(line[name]) for line in lines]) for name in HISTORY}
    except (KeyError, TypeError, ValueError) as problem:
        raise InputError(f"{history}: expected numbers in the columns {', '.join(HISTORY)}: {problem}") from None
    if not lines:
        raise InputError(f"{history}: holds no epochs")
    return History(columns["epoch"], columns["train_loss"], columns["validation_loss"])


def _sample(generator: np.random.Generator, total: int, most: int) -> Array:
    """Return `most` numbers below `total` in ascending order, or all of them."""
    if total <= most:
        return np.arange(total)
    return np.sort(generator.choice(total, most, replace=False, shuffle=False))


def _blocks(x: Array, chosen: Array) -> Iterator[Array]:
    """Yield the chosen rows in pieces that fit in memory."""
    size = max(1, 2**24 // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(chosen), size):
        yield np.asarray(x[chosen[start : start + size]])


def _curves(anomaly: Array, scores: Array, alarms: Array) -> Curves:
    from sklearn.metrics import precision_recall_curve, roc_curve

    ordered = orderable(scores)
    false_rate, found_rate, _ = roc_curve(anomaly, ordered)
    precision, recall, _ = precision_recall_curve(anomaly, ordered)
    return Curves(
        roc=_thin(np.stack([false_rate, found_rate], axis=1)),
        precision_recall=_thin(np.stack([recall, precision], axis=1)),
        auroc=auroc(scores[~anomaly], scores[anomaly]),
        average_precision=average_precision(scores[~anomaly], scores[anomaly]),
        prevalence=float(anomaly.mean()),
        false_alarms=float(alarms[~anomaly].mean()),
        found=float(alarms[anomaly].mean()),
        right=float(anomaly[alarms].mean()) if alarms.any() else math.nan,
    )


def _thin(points: Array, most: int = 500) -> Array:
    """Keep so many points of a curve that nobody sees that there were more, its ends among them."""
    kept: Array = points[np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]
    return kept
