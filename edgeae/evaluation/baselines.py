"""Cheap baselines on the same rows, so that nobody ships an autoencoder where something simpler is better.

scikit-learn, imported when it is needed; no PyTorch.
"""

from __future__ import annotations

import io
import logging
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.data import normalise
from edgeae.data.npz import DAMAGED, array_names, read_array
from edgeae.errors import InputError
from edgeae.evaluation.metrics import auroc, average_precision

__all__ = [
    "FITTED",
    "SCORED",
    "Comparison",
    "Detector",
    "Reconstruction",
    "compare_with_baselines",
    "divide",
    "say",
    "take_some",
    "training_rows",
]

_log = logging.getLogger("edgeae")

FITTED: Final = 5_000  # rows that a baseline is fitted to
SCORED: Final = 2_000  # normal rows that are scored, and anomalies
NUMBERS: Final = 2**24  # of rows held at a time, whatever their size: 64 MiB
NEIGHBOURS: Final = 5
FEWEST: Final = 10  # rows to fit to, and to score
CLEAR: Final = 0.005  # of AUROC: what another draw of the rows may well turn round is no win

Array = np.ndarray[Any, Any]
Scores = Callable[[Array], Array]


@dataclass(frozen=True)
class Detector:
    """How well one way of scoring tells anomalies from normal rows.

    Attributes:
        name: "this model", "5 nearest neighbours", ...
        auroc: Area under the ROC curve.
        average_precision: Area under the precision-recall curve, as a sum of steps.
    """

    name: str
    auroc: float
    average_precision: float


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared errors of normal rows in normalised space.

    Attributes:
        model: The autoencoder's.
        pca: That of as many principal components as the latent has values; None where a row has no more.
        mean: Of the mean of the rows that PCA was fitted to.
    """

    model: float
    pca: float | None
    mean: float


@dataclass(frozen=True)
class Comparison:
    """A model beside its baselines, all on the same rows.

    Attributes:
        fitted: Rows that the baselines were fitted to.
        rows: Normal rows that were scored.
        anomalies: Labelled anomalies that were scored.
        components: Of PCA.
        reconstruction: The errors; they need no labels.
        detectors: With labelled anomalies: the model, then its baselines, the best first. Else empty.
    """

    fitted: int
    rows: int
    anomalies: int
    components: int
    reconstruction: Reconstruction
    detectors: tuple[Detector, ...]

    @property
    def better(self) -> tuple[Detector, ...]:
        """The baselines that detect clearly better than the model, by more than 0.005 of AUROC; the best first."""
        return tuple(other for other in self.detectors[1:] if other.auroc - self.detectors[0].auroc > CLEAR)

    @property
    def wins(self) -> bool:
        """Whether the model is worth having: as a detector where labels tell, else by its reconstruction error."""
        errors = self.reconstruction
        if self.detectors:
            return self.detectors[0].auroc - self.detectors[1].auroc > CLEAR
        return errors.model < min(errors.mean, errors.mean if errors.pca is None else errors.pca)

    def sentences(self) -> tuple[str, ...]:
        """Say in plain words who is better, first of all where it is not the model.

        Example:
            >>> both = (Detector("this model", 0.91, 0.6), Detector("5 nearest neighbours", 0.93, 0.7))
            >>> Comparison(5000, 400, 30, 8, Reconstruction(0.2, 0.3, 1.0), both).sentences()[0][:72]
            '5 nearest neighbours are better here: AUROC 0.930 against 0.910 of this '
        """
        return (*((self._detection(),) if self.detectors else ()), self._reconstruction())

    def _detection(self) -> str:
        own, best, *others = self.detectors
        rows = f"({self.rows:,} normal rows, {self.anomalies:,} anomalies)"
        if best.auroc - own.auroc > CLEAR:
            behind = ", ".join(f"{other.auroc:.3f} {other.name}" for other in self.better[1:])
            behind = f"; also {behind}" if behind else ""
            return (
                f"{best.name} {_verb(best.name)} better here: AUROC {best.auroc:.3f} against {own.auroc:.3f} of "
                f"{own.name} {rows}{behind}"
            )
        listed = ", ".join(f"{other.auroc:.3f} {other.name}" for other in (best, *others))
        if own.auroc - best.auroc > CLEAR:
            return f"{own.name} beats its baselines: AUROC {own.auroc:.3f} against {listed} {rows}"
        return f"{own.name} is no better than its best baseline: AUROC {own.auroc:.3f} against {listed} {rows}"

    def _reconstruction(self) -> str:
        errors = self.reconstruction
        if not errors.model < errors.mean:
            return (
                f"the mean row reconstructs as well as the model: mean squared error {errors.mean:.4g} against "
                f"{errors.model:.4g}; train longer, or with a lower lr"
            )
        if errors.pca is None:
            return f"mean squared error {errors.model:.4g}, that of the mean row {errors.mean:.4g}"
        if errors.pca <= errors.model:
            return (
                f"PCA with {self.components} components reconstructs better: mean squared error {errors.pca:.4g} "
                f"against {errors.model:.4g} of the model"
            )
        return (
            f"mean squared error {errors.model:.4g}, that of PCA with {self.components} components {errors.pca:.4g}, "
            f"of the mean row {errors.mean:.4g}"
        )


def compare_with_baselines(
    training: Array,
    normal: Array,
    anomalous: Array | None,
    *,
    score: Scores,
    reconstruct: Callable[[Array], Array],
    normalisation: Normalisation,
    layout: Layout,
    components: int,
    name: str = "this model",
) -> Comparison | None:
    """Hold a model against PCA, an isolation forest and nearest neighbours on the same rows.

    The baselines are fitted to at most 5,000 of the training rows and score at most 2,000 rows of each class, fewer of
    large ones, so that it takes seconds. PCA scores by its reconstruction error and has as many components as the
    latent has values; the isolation forest is scikit-learn's at its defaults (Liu, Ting and Zhou 2008,
    https://doi.org/10.1109/ICDM.2008.17); neighbours score by the mean distance from the five nearest training rows
    (Angiulli and Pizzuti 2002, https://doi.org/10.1007/3-540-45681-3_2). Values of vectors are standardised for them,
    and where a latent has no fewer values than a row, PCA scores with half as many.

    Args:
        training: [n, *row] in the user's units: normal rows that the baselines may know, as the model does.
        normal: [m, *row], normal rows that neither knows.
        anomalous: [k, *row] labelled anomalies, or None.
        score: Returns the model's scores of rows, higher is more anomalous; called only with anomalies.
        reconstruct: Returns the model's reconstructions of rows, in the user's units.
        normalisation: The model's.
        layout: What the axes of a row mean.
        components: Of PCA: as many values as a latent has (active ones, if it is sparse).
        name: What the model is called.

    Returns:
        None where there are fewer than ten rows to fit to or to score, or the reconstructions are not finite.

    Example:
        >>> from edgeae.bundle.manifest import Normalisation
        >>> rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        >>> found = compare_with_baselines(
        ...     rows[:100], rows[100:], rows[:20] + 9, score=lambda x: x[:, 0], reconstruct=np.zeros_like,
        ...     normalisation=Normalisation("none", (0.0,), (1.0,)), layout="vector", components=1,
        ... )
        >>> sorted(other.name for other in found.detectors)
        ['5 nearest neighbours', 'PCA', 'isolation forest', 'this model']
    """
    anomalous = None if anomalous is None else _drawn(anomalous, SCORED)
    training, normal = _drawn(training, FITTED), _drawn(normal, SCORED)
    if min(len(training), len(normal)) < FEWEST:
        return None

    def flat(rows: Array) -> Array:
        return normalise(rows, normalisation, layout).reshape(len(rows), -1).astype(np.float32)

    known, fresh = flat(training), flat(normal)
    mean = known.mean(axis=0, dtype=np.float64)
    pca = _pca(known, components)
    errors = Reconstruction(
        model=float(np.square(fresh - flat(reconstruct(normal)), dtype=np.float64).mean()),
        pca=None if pca is None else float(pca(fresh).mean()),
        mean=float(np.square(fresh - mean).mean()),
    )
    if not np.isfinite(errors.model):
        return None  # of a network that diverged
    detectors: tuple[Detector, ...] = ()
    if anomalous is not None and len(anomalous):
        own = _detector(name, score(normal), score(anomalous))
        detectors = (own, *_baselines(known, fresh, flat(anomalous), components, scaled=layout == "vector"))
    return Comparison(
        fitted=len(known),
        rows=len(fresh),
        anomalies=len(anomalous) if detectors and anomalous is not None else 0,
        components=components,
        reconstruction=errors,
        detectors=detectors,
    )


def say(comparison: Comparison | None) -> None:
    """Log who is better: as a warning where it is not the model."""
    if comparison is None:
        return
    verdict, *others = comparison.sentences()
    _log.log(logging.INFO if comparison.wins else logging.WARNING, verdict)
    for sentence in others:
        _log.info(sentence)


def divide(normal: Array, *, ordered: bool) -> tuple[Array, Array]:
    """Divide the places of normal rows [n] into those that baselines are fitted to and those that are scored.

    Args:
        normal: Whole numbers.
        ordered: Whether rows next to each other overlap, as windows of a series do: then the first half is fitted to.

    Example:
        >>> [part.tolist() for part in divide(np.arange(4), ordered=True)]
        [[0, 1], [2, 3]]
    """
    order = normal if ordered else np.random.default_rng(0).permutation(normal)
    half = len(order) // 2
    return np.sort(order[:half]), np.sort(order[half:])


def training_rows(run: str | os.PathLike[str]) -> Array:
    """Return the sample of training rows [n, *row] that a run directory keeps, without PyTorch.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    file = Path(run) / "reference.npz"
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
            if "x_train" not in array_names(archive):
                raise InputError(f"{file}: holds no training rows; train again")
            return read_array(archive, "x_train")
    except OSError as problem:
        raise InputError(f"{file}: cannot be read: {problem.strerror or problem}; give a run directory") from None
    except DAMAGED as problem:
        raise InputError(f"{file}: not a readable .npz file: {problem}; train again") from None


def _baselines(known: Array, fresh: Array, anomalous: Array, components: int, *, scaled: bool) -> list[Detector]:
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    if scaled:
        centre, spread = known.mean(axis=0), known.std(axis=0)
        spread[spread == 0] = 1
        known, fresh, anomalous = ((rows - centre) / spread for rows in (known, fresh, anomalous))
    forest = IsolationForest(random_state=0).fit(known)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known))).fit(known)
    scorers: dict[str, Scores | None] = {
        "PCA": _pca(known, min(components, max(1, known.shape[1] // 2))),
        "isolation forest": lambda rows: np.asarray(-forest.score_samples(rows)),
        f"{NEIGHBOURS} nearest neighbours": lambda rows: np.asarray(nearest.kneighbors(rows)[0].mean(axis=1)),
    }
    made = [_detector(name, scorer(fresh), scorer(anomalous)) for name, scorer in scorers.items() if scorer is not None]
    return sorted(made, key=lambda each: -each.auroc)


def _detector(name: str, normal: Array, anomalous: Array) -> Detector:
    return Detector(name, auroc(normal, anomalous), average_precision(normal, anomalous))


def _pca(known: Array, components: int) -> Scores | None:
    """Return what gives PCA's mean squared error of rows [n, values], or None where it would keep everything."""
    from sklearn.decomposition import PCA

    if components >= min(known.shape):
        return None
    model = PCA(components, random_state=0).fit(known)
    return lambda rows: np.asarray(np.square(rows - model.inverse_transform(model.transform(rows))).mean(axis=1))


def take_some(x: Array, places: Array, most: int) -> Array:
    """Return the rows at some of the places, at random but the same ones every time, in their order: a bounded number.

    Args:
        x: [n, *row].
        places: Whole numbers below n.
        most: How many rows; fewer if they are so large that they would take more than 64 MiB.
    """
    most = min(most, NUMBERS // max(1, math.prod(x.shape[1:])))
    if len(places) > most:
        places = places[np.sort(np.random.default_rng(0).choice(len(places), most, replace=False))]
    return np.asarray(x[places])


def _drawn(rows: Array, most: int) -> Array:
    """Return some of the rows, without those that are not finite."""
    rows = take_some(rows, np.arange(len(rows)), most)
    finite = np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))
    return rows if finite.all() else rows[finite]


def _verb(name: str) -> str:
    return "are" if name.endswith("s") else "is"
