"""How well scores tell anomalies, on the labelled tables of ADBench, beside PyOD and scikit-learn.

One-class protocol: fit on a random half of the normal rows, score the other half and all anomalies. Unsupervised
protocol: fit on all rows, anomalies among them, labels unseen, and score the same rows. Contaminated protocol: fit on a
random half of the normal rows and some of the anomalies, score the other half and the anomalies that are never fitted
to, for several shares of anomalies. Everything at its defaults. With --false-alarms: how often fresh normal rows exceed
thresholds, beside what those promise.

The data are the `.npz` files (X, y) in the folder Classical of https://github.com/Minqi824/ADBench (Han et al. 2022,
https://arxiv.org/abs/2206.09426).

Example:
    python -m benchmarks.accuracy --data-dir adbench
    python -m benchmarks.accuracy --data-dir adbench --scores auto,mse --seeds 1 --json accuracy.json
    python -m benchmarks.accuracy --data-dir adbench --protocol unsupervised --trim 0,0.1
    python -m benchmarks.accuracy --data-dir adbench --protocol contaminated --trim 0,0.1 --scores auto
    python -m benchmarks.accuracy --data-dir adbench --false-alarms --seeds 10
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from benchmarks.adbench import Protocol, Split, load_split
from benchmarks.false_alarms import measure_false_alarms, print_false_alarms
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.options import NAMES, NUMBERS
from edgeae.cli.output import print_table, status, table
from edgeae.evaluation import auroc

__all__ = ["PEERS", "Trial", "run_trials"]

PCA_SHARE = 0.95
NEIGHBOURS = 5


Array = np.ndarray[Any, Any]
Scores = Callable[[Array], Array]


@dataclass(frozen=True)
class Trial:
    """What one method reached on one split.

    Attributes:
        data: The set.
        seed: Of the split and of the method.
        method: "edgeae, auto", "edgeae, auto, trim 0.1", "PyOD VAE", ...
        auroc: Area under the ROC curve.
        average_precision: Area under the precision-recall curve, as scikit-learn has it.
        contamination: Share of anomalies among the training rows that was asked for; 0 unless "contaminated".
        reached: Share that there was.
    """

    data: str
    seed: int
    method: str
    auroc: float
    average_precision: float
    contamination: float
    reached: float


def run_trials(
    name: str,
    split: Split,
    seed: int,
    scores: Sequence[str],
    peers: Sequence[str],
    trims: Sequence[float] = (0.0,),
    contamination: float = 0.0,
) -> list[Trial]:
    """Fit everything to one split and measure it.

    Args:
        name: Of the set.
        split: Its rows.
        seed: Of the methods.
        scores: Of edgeae: all are exported of the same network.
        peers: Names in `PEERS`.
        trims: Of edgeae: each takes a training of its own.
        contamination: What the split was asked for.
    """
    found: dict[str, tuple[Array, Array]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for trim in trims:
            run = edgeae.train(split.training, Path(folder) / f"run-{trim}", seed=seed, trim=trim, progress=False)
            for score in scores:
                out = Path(folder) / f"{score}-{trim}"
                bundle = edgeae.export_bundle(run, out, score=score)  # type: ignore[arg-type]
                with edgeae.load(bundle.path, device="cpu") as model:
                    named = f"edgeae, {score}" + (f", trim {trim:g}" if trim else "")
                    found[named] = model.score(split.normal), model.score(split.anomalies)
    for peer in peers:
        scorer = PEERS[peer](split.training, seed)
        found[peer] = scorer(split.normal), scorer(split.anomalies)
    shares = contamination, split.contamination
    return [Trial(name, seed, method, *_merits(*both), *shares) for method, both in found.items()]


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
@click.option(
    "--protocol",
    default="one-class",
    show_default=True,
    type=click.Choice(["one-class", "unsupervised", "contaminated"]),
    help="Above.",
)
@click.option(
    "--contamination",
    "shares",
    default="0,0.02,0.05,0.1",
    show_default=True,
    type=NUMBERS,
    help="For contaminated: shares of the training rows that are anomalies.",
)
@click.option("--trim", "trims", default="0", show_default=True, type=NUMBERS, help="Of edgeae's training.")
@click.option("--false-alarms", "alarms", is_flag=True, help="Measure thresholds instead, on fresh normal rows.")
@click.option("--fpr", default=0.01, show_default=True, help="For --false-alarms: the rate that is asked for.")
@click.option("--methods", default="quantile", show_default=True, type=NAMES, help="For --false-alarms: of thresholds.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Splits of each set.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write every trial to this file.")
def main(
    data_dir: Path,
    scores: Sequence[str],
    protocol: Protocol,
    shares: Sequence[float],
    trims: Sequence[float],
    alarms: bool,
    fpr: float,
    methods: Sequence[str],
    seeds: int,
    file: Path | None,
) -> None:
    """Print AUROC and average precision of every method on every set, means over the seeds."""
    paths = sorted(data_dir.glob("*.npz"))
    if not paths:
        raise click.UsageError(f"{data_dir}: holds no .npz files")
    if alarms:
        with _quiet():
            promises = measure_false_alarms(paths, methods, seeds=seeds, fpr=fpr)
        print_false_alarms(promises)
        if file is not None:
            write_file(file, to_json(promises))
        return
    peers = [name for name in PEERS if find_spec("pyod") is not None or not name.startswith("PyOD")]
    for name in PEERS.keys() - set(peers):
        click.echo(f"absent: {name}: needs PyOD: pip install 'edgeae[bench]'")
    trials: list[Trial] = []
    asked = shares if protocol == "contaminated" else (0.0,)
    with _quiet(), status("measuring") as say:
        for path in paths:
            for seed, share in itertools.product(range(seeds), asked):
                say(f"{path.stem}, split {seed + 1} of {seeds}" + (f", {share:g} anomalies" if share else ""))
                split = load_split(path, seed, protocol, share)
                trials += run_trials(path.stem, split, seed, scores, peers, trims, share)
    for merit, title in (("auroc", "AUROC"), ("average_precision", "Average precision")):
        title = f"{title}, {protocol} protocol, mean of {seeds} seeds"
        if protocol == "contaminated":
            _print_shares(trials, merit, f"{title} and {len(paths)} sets")
        else:
            _print(trials, merit, title)
    if file is not None:
        write_file(file, to_json(trials))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what edgeae has to say of each of so many networks."""
    log = logging.getLogger("edgeae")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


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


def _print_shares(trials: Sequence[Trial], merit: str, title: str) -> None:
    asked = sorted({trial.contamination for trial in trials})
    shown = table(title, "share of anomalies", *(f">{share:g}" for share in asked))

    def add(name: str, field: str, digits: int, chosen: Sequence[Trial]) -> None:
        parts = ([getattr(each, field) for each in chosen if each.contamination == share] for share in asked)
        shown.add_row(name, *(f"{np.mean(part):.{digits}f}" for part in parts))

    add("reached, where anomalies are few", "reached", 3, trials)
    for method in dict.fromkeys(trial.method for trial in trials):
        add(method, merit, 4, [trial for trial in trials if trial.method == method])
    print_table(shown)


if __name__ == "__main__":
    main()
