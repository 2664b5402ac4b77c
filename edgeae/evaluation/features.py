"""`edgeae evaluate --task features`: what latents are worth as features, beside PCA and the rows themselves."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from edgeae.bundle import Bundle
from edgeae.data import Dataset, load_rows, normalise
from edgeae.errors import InputError, MissingPackageError
from edgeae.evaluation.detection import Measure
from edgeae.evaluation.intervals import clopper_pearson

__all__ = ["Features", "Probe", "evaluate_features", "probe"]

NEIGHBOURS: Final = 5
TESTED: Final = 0.3  # of the rows
MAX_STEPS: Final = 1_000  # of the linear probe's solver

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Probe:
    """How well classes are told from features by two plain classifiers.

    Attributes:
        size: Values per row.
        linear: Share of the tested rows that logistic regression on the standardised features puts into their class.
        neighbours: The same for a vote of the 5 nearest training rows, by Euclidean distance.
    """

    size: int
    linear: Measure
    neighbours: Measure


@dataclass(frozen=True)
class Features:
    """A bundle, data with classes, and what came of them.

    Attributes:
        bundle: Its name.
        digest: SHA-256 of its manifest.
        data: What the data calls itself.
        classes: How many there are.
        trained: How many rows the classifiers, and PCA, were fitted to.
        tested: How many other rows they were tested on.
        largest_class: Share of the tested rows that are of the most frequent class: what always naming it would reach.
        seed: The same seed gives the same rows.
        rows: Of the normalised rows themselves.
        pca: Of as many principal components as a latent has values, or as there are.
        precisions: Of the latents, by precision, "fp32" first.
    """

    bundle: str
    digest: str
    data: str
    classes: int
    trained: int
    tested: int
    largest_class: float
    seed: int
    rows: Probe
    pca: Probe
    precisions: dict[str, Probe]


def evaluate_features(
    path: str | os.PathLike[str],
    data: Any,
    *,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    trust: bool = False,
    rows: int = 5_000,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Features:
    """Say how well the classes of labelled rows are told from their latents, at every precision of a bundle.

    A linear probe (Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016,
    https://arxiv.org/abs/1610.01644) and nearest neighbours, beside principal components of the same size and the
    normalised rows themselves. All are fitted to the same 70 % of the rows and tested on the rest, class by class.

    Args:
        path: The bundle.
        data: Rows with labels, which are classes; best rows that the model was not trained on. See `load_rows`.
        label_column: Where the labels are; by default `y` of an .npz.
        columns: See `load_rows`.
        data_dir: See `load_rows`.
        device: Where to encode.
        trust: See `edgeae.load`.
        rows: Use no more rows than this, drawn at random, class by class.
        seed: Of the drawing.
        progress: Called with what is being done.

    Returns:
        Shares of the tested rows, with their exact 95 % confidence intervals (Clopper-Pearson).

    Raises:
        InputError: if there are no labels, fewer than two classes, too few rows of a class, or `rows` is too small.
        MissingPackageError: without scikit-learn.
        BundleError: if the bundle cannot be used.

    Example:
        >>> found = evaluate_features("export/golden/dense", "digits", device="cpu", rows=600)
        >>> found.classes, found.pca.size, found.precisions["fp32"].size
        (10, 8, 8)
    """
    import edgeae

    if importlib.util.find_spec("sklearn") is None:
        raise MissingPackageError("evaluate: needs scikit-learn; install it with: pip install scikit-learn")
    tell = progress or (lambda step: None)
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    dataset = load_rows(data, manifest.input, label_column=label_column, columns=columns, data_dir=data_dir)
    labels = _require_classes(dataset)
    trained, tested = _split(labels, dataset.source, rows, seed)
    chosen, split = np.concatenate([trained, tested]), len(trained)
    x, y = np.asarray(dataset.x[chosen]), labels[chosen]
    flat = normalise(x.astype(np.float32), manifest.normalisation, manifest.input.layout).reshape(len(x), -1)
    tell("rows: fitting")
    raw = probe(flat, y, split, seed=seed)
    tell("PCA: fitting")
    pca = probe(_components(flat, split, manifest.latent_dim), y, split, seed=seed)
    found: dict[str, Probe] = {}
    for precision in manifest.precisions:
        tell(f"{precision}: encoding and fitting")
        with edgeae.load(path, device=device, precision=precision, trust=trust) as model:
            found[precision] = probe(model.encode(x), y, split, seed=seed)
    return Features(
        bundle=manifest.name,
        digest=bundle.digest,
        data=dataset.source,
        classes=len(np.unique(y)),
        trained=split,
        tested=len(tested),
        largest_class=float(np.unique(y[split:], return_counts=True)[1].max() / len(tested)),
        seed=seed,
        rows=raw,
        pca=pca,
        precisions=found,
    )


def probe(features: Array, y: Array, split: int, *, seed: int = 0) -> Probe:
    """Fit two classifiers to the first `split` rows of features and test them on the others.

    Args:
        features: float [n, size].
        y: [n] classes.
        split: How many rows to fit to.
        seed: Of the solver.

    Example:
        >>> x = np.repeat([[0.0], [9.0]], 10, axis=0)
        >>> probe(np.tile(x, (2, 1)), np.tile(x[:, 0], 2), 20).linear.value
        1.0
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_STEPS, random_state=seed))
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, split))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after so many steps the classes hardly move any more
        return Probe(
            features.shape[1], *(_accuracy(classifier, features, y, split) for classifier in (linear, neighbours))
        )


def _accuracy(classifier: Any, features: Array, y: Array, split: int) -> Measure:
    classifier.fit(features[:split], y[:split])
    hits, total = int((classifier.predict(features[split:]) == y[split:]).sum()), len(y) - split
    return Measure(hits / total, *clopper_pearson(hits, total))


def _components(flat: Array, split: int, size: int) -> Array:
    """Return the rows [n, values] on the first principal components of the first `split` of them."""
    from sklearn.decomposition import PCA

    pca = PCA(min(size, split, flat.shape[1]), svd_solver="full").fit(flat[:split])
    components: Array = pca.transform(flat)
    return components


def _require_classes(dataset: Dataset) -> Array:
    """Return the label of each row, [n], each of at least two classes there at least twice."""
    if dataset.y is None:
        raise InputError(
            f"{dataset.source}: has no labels, the classes that features are to tell apart; name their column with "
            "--label-column, or put them into an .npz as y"
        )
    classes, counts = np.unique(dataset.y, return_counts=True)
    if len(classes) < 2:
        raise InputError(f"{dataset.source}: every row is labelled {classes[0]}; two classes are needed to tell apart")
    if counts.min() < 2:
        raise InputError(
            f"{dataset.source}: class {classes[counts.argmin()]} has one row; leave it out, since fitting and testing "
            "need a row each"
        )
    return dataset.y


def _split(labels: Array, source: str, rows: int, seed: int) -> tuple[Array, Array]:
    """Return the numbers of the rows to fit to and of those to test on, of every class its share."""
    from sklearn.model_selection import StratifiedShuffleSplit

    total, classes = min(rows, len(labels)), len(np.unique(labels))
    tested = max(classes, round(TESTED * total))
    if total - tested < classes:
        raise InputError(
            f"{source}: {total} rows are too few to fit and test {classes} classes; give at least {2 * classes}"
        )
    splitter = StratifiedShuffleSplit(1, test_size=tested, train_size=total - tested, random_state=seed)
    trained_rows, tested_rows = next(splitter.split(labels, labels))
    return trained_rows, tested_rows
