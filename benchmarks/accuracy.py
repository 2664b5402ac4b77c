"""How well scores tell anomalies, on the labelled tables of ADBench, beside PyOD and scikit-learn.

One-class protocol: fit on a random half of the normal rows, score the other half and all anomalies; everything at its
defaults. The data are the `.npz` files (X, y) in the folder Classical of https://github.com/Minqi824/ADBench (Han et
al. 2022, https://arxiv.org/abs/2206.09426).

Example:
    python -m benchmarks.accuracy --data-dir adbench
    python -m benchmarks.accuracy --data-dir adbench --scores auto,mse --seeds 1 --json accuracy.json
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

import edgeae
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.options import NAMES
from edgeae.cli.output import print_table, status, table
from edgeae.errors import InputError
from edgeae.evaluation import auroc

__all__ = ["PEERS", "Split", "Trial", "load_split", "run_trials"]

PCA_SHARE = 0.95
NEIGHBOURS = 5

Array = np.ndarray[Any, Any]
Scores = Callable[[Array], Array]


@dataclass(frozen=True)
class Split:
    """Rows of one set, float32 [n, values]: normal ones to fit on, normal ones and anomalies to score."""

    training: Array
    normal: Array
    anomalies: Array


@dataclass(frozen=True)
class Trial:
    """What one method reached on one split.

    Attributes:
        data: The set.
        seed: Of the split and of the method.
        method: "edgeae, auto", "PyOD VAE", ...
        auroc: Area under the ROC curve.
        average_precision: Area under the precision-recall curve, as scikit-learn has it.
    """

    data: str
    seed: int
    method: str
    auroc: float
    average_precision: float


def load_split(path: Path, seed: int) -> Split:
    """Read a set and divide its normal rows.

    Raises:
        InputError: if the file has no X and y, or one of the two classes is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = np.asarray(file["X"], np.float32), np.asarray(file["y"]).astype(np.int64)
    except (KeyError, OSError, ValueError) as problem:
        raise InputError(f"{path}: is no .npz file with X and y of plain numbers: {problem}") from None
    normal, anomalies = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    if len(normal) < 4 or not len(anomalies):
        raise InputError(f"{path}: has {len(normal)} normal rows (y = 0) and {len(anomalies)} anomalies (y = 1)")
    order = np.random.default_rng(seed).permutation(normal)
    half = len(order) // 2
    return Split(x[order[:half]], x[order[half:]], x[anomalies])


def run_trials(name: str, split: Split, seed: int, scores: Sequence[str], peers: Sequence[str]) -> list[Trial]:
    """Fit everything to one split and measure it.

    Args:
        name: Of the set.
        split: Its rows.
        seed: Of the methods.
        scores: Of edgeae: all are exported of the same network.
        peers: Names in `PEERS`.
    """
    found: dict[str, tuple[Array, Array]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = edgeae.train(split.training, Path(folder) / "run", seed=seed, progress=False)
        for score in scores:
            bundle = edgeae.export_bundle(run, Path(folder) / score, score=score)  # type: ignore[arg-type]
            with edgeae.load(bundle.path, device="cpu") as model:
                found[f"edgeae, {score}"] = model.score(split.normal), model.score(split.anomalies)
    for peer in peers:
        scorer = PEERS[peer](split.training, seed)
        found[peer] = scorer(split.normal), scorer(split.anomalies)
    return [Trial(name, seed, method, *_merits(*both)) for method, both in found.items()]


def _merits(normal: Array, anomalous: Array) -> tuple[float, float]:
    labels = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    precision = average_precision_score(labels, np.concatenate([normal, anomalous]).astype(np.float64))
    return auroc(normal, anomalous), float(precision)


def _pca(training: Array, seed: int) -> Scores:
    scaler = StandardScaler().fit(training)
    model = PCA(PCA_SHARE, svd_solver="full", random_state=seed).fit(scaler.transform(training))

    def score(x: Array) -> Array:
        rows = scaler.transform(x)
        return np.asarray(np.square(rows - model.inverse_transform(model.transform(rows))).mean(axis=1))

    return score


def _neighbours(training: Array, seed: int) -> Scores:
    scaler = StandardScaler().fit(training)
    model = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(training))).fit(scaler.transform(training))
    return lambda x: np.asarray(model.kneighbors(scaler.transform(x))[0].mean(axis=1))


def _forest(training: Array, seed: int) -> Scores:
    model = IsolationForest(random_state=seed).fit(training)
    return lambda x: np.asarray(-model.score_samples(x))


def _pyod(kind: str, training: Array, seed: int) -> Scores:
    import torch
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    detector = {"AutoEncoder": AutoEncoder, "VAE": VAE}[kind](random_state=seed, verbose=0)
    torch.manual_seed(seed)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        detector.fit(training)
    return lambda x: np.asarray(detector.decision_function(x))


PEERS: Mapping[str, Callable[[Array, int], Scores]] = {
    "PyOD AutoEncoder": partial(_pyod, "AutoEncoder"),
    "PyOD VAE": partial(_pyod, "VAE"),
    "IsolationForest": _forest,
    "PCA reconstruction": _pca,
    f"{NEIGHBOURS} nearest neighbours": _neighbours,
}


@click.command()
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of .npz files with X and y (1: anomaly).",
)
@click.option("--scores", default="auto,zscore,mse", show_default=True, type=NAMES, help="Scores of edgeae.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Splits of each set.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write every trial to this file.")
def main(data_dir: Path, scores: Sequence[str], seeds: int, file: Path | None) -> None:
    """Print AUROC and average precision of every method on every set, means over the seeds."""
    paths = sorted(data_dir.glob("*.npz"))
    if not paths:
        raise click.UsageError(f"{data_dir}: holds no .npz files")
    peers = [name for name in PEERS if find_spec("pyod") is not None or not name.startswith("PyOD")]
    for name in PEERS.keys() - set(peers):
        click.echo(f"absent: {name}: needs PyOD: pip install 'edgeae[bench]'")
    trials: list[Trial] = []
    with status("measuring") as say:
        for path in paths:
            for seed in range(seeds):
                say(f"{path.stem}, split {seed + 1} of {seeds}")
                trials += run_trials(path.stem, load_split(path, seed), seed, scores, peers)
    for merit, title in (("auroc", "AUROC"), ("average_precision", "Average precision")):
        _print(trials, merit, f"{title}, mean of {seeds} splits")
    if file is not None:
        write_file(file, to_json(trials))


def _print(trials: Sequence[Trial], merit: str, title: str) -> None:
    methods = list(dict.fromkeys(trial.method for trial in trials))
    shown = table(title, "", *(f">{method}" for method in methods))
    means = {
        name: [
            float(np.mean([getattr(trial, merit) for trial in trials if (trial.data, trial.method) == (name, method)]))
            for method in methods
        ]
        for name in dict.fromkeys(trial.data for trial in trials)
    }
    for name, values in means.items():
        shown.add_row(name, *(f"{value:.3f}" for value in values))
    shown.add_row("mean", *(f"{value:.4f}" for value in np.mean(list(means.values()), axis=0)))
    print_table(shown)


if __name__ == "__main__":
    main()
