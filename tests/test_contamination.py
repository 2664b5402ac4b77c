"""Anomalies among the training rows: which rows trimming leaves out, and what it is worth."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgeae
from benchmarks import accuracy
from benchmarks.adbench import load_split
from edgeae.data import Dataset
from edgeae.data.windows import windows_of
from edgeae.evaluation import auroc
from edgeae.export.score_fit import typical_rows
from edgeae.training import Run, contamination, train
from edgeae.training.contamination import typical_part

VALUES = 8
QUICK: dict[str, Any] = {"epochs": 30, "batch_size": 32, "threads": 1, "device": "cpu"}

Array = np.ndarray[Any, Any]


def clustered(count: int = 600, share: float = 0.03) -> tuple[Array, Array]:
    """Rows of three wide clusters, the first of them a tight cluster of anomalies to the side."""
    generator = np.random.default_rng(0)
    middles = 3 * generator.normal(size=(3, VALUES))
    rows = middles[generator.integers(0, 3, count)] + generator.normal(size=(count, VALUES))
    odd = np.arange(count) < share * count
    rows[odd] = 4 * np.sign(generator.normal(size=VALUES)) + 0.02 * generator.normal(size=(odd.sum(), VALUES))
    return rows.astype(np.float32), odd


@pytest.mark.parametrize("count", [600, contamination.REFERENCE_ROWS + 1000])
@pytest.mark.parametrize("trim", [0.03, 0.05, 0.1])
def test_a_tight_cluster_is_left_out_whole(count: int, trim: float) -> None:
    rows, odd = clustered(count)
    index = np.random.default_rng(1).permutation(count)
    kept = typical_part(rows, index, trim, seed=0)
    assert len(kept) == count - np.ceil(trim * count)
    assert not odd[kept].any()
    np.testing.assert_array_equal(kept, index[np.isin(index, kept)])  # in the order they came in
    np.testing.assert_array_equal(kept, typical_part(rows, index, trim, seed=0))


def test_only_the_rows_asked_about_matter_and_none_are_left_out_of_a_share_of_none() -> None:
    rows, _ = clustered()
    index = np.arange(0, 600, 2)
    assert typical_part(rows, index, 0.0, seed=0) is index
    others = rows.copy()
    others[1::2] = 1e6
    np.testing.assert_array_equal(typical_part(rows, index, 0.1, 0), typical_part(others, index, 0.1, 0))
    assert len(typical_part(rows, np.arange(2), 0.4, seed=0)) == 1


def test_units_do_not_matter_and_one_wild_value_does_not_outweigh_many() -> None:
    rows, odd = clustered()
    scaled = rows * np.geomspace(1e-20, 1e20, VALUES).astype(np.float32) + np.float32(1e-20)
    assert not odd[typical_part(scaled, np.arange(600), 0.03, seed=0)].any()
    wild = rows.copy()
    wild[-18:, 0] = 1e30  # else normal
    kept = typical_part(wild, np.arange(600), 0.03, seed=0)
    assert odd[kept].mean() < 0.01


def test_images_windows_and_rows_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 40, (300, 6, 6)).astype(np.uint8)
    images[:9] = 200
    series = generator.normal(size=(400, 2)).astype(np.float32)
    series[100:120] += 8
    assert typical_part(images, np.arange(300), 0.03, seed=0).min() == 9
    windows = windows_of(series, 10)
    kept = typical_part(windows, np.arange(len(windows)), 0.08, seed=0)
    assert not np.isin(np.arange(95, 115), kept).any()
    monkeypatch.setattr(contamination, "REFERENCE_VALUES", 12)
    assert typical_part(images, np.arange(300), 0.03, seed=0).min() == 9


@pytest.mark.parametrize(
    ("variant", "trim", "low", "high"),
    [
        ("dense", 0.0, 0.0, 0.8),  # it is learnt
        ("dense", 0.05, 0.97, 1.0),
        ("variational", 0.05, 0.97, 1.0),
        ("denoising", 0.05, 0.97, 1.0),
        ("sparse", 0.05, 0.97, 1.0),
    ],
)
def test_a_cluster_that_is_learnt_untrimmed_is_found_trimmed(
    variant: str, trim: float, low: float, high: float, tmp_path: Path
) -> None:
    rows, odd = clustered()
    run = train(rows, tmp_path / "run", variant=variant, trim=trim, **QUICK)
    bundle = edgeae.export_bundle(run, tmp_path / "bundle", score="prototype")
    with edgeae.load(bundle.path, device="cpu") as model:
        scores = model.score(rows)
    assert low <= auroc(scores[~odd], scores[odd]) <= high


def test_a_run_says_how_many_rows_it_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, odd = clustered()
    with caplog.at_level(logging.INFO, logger="edgeae"):
        run = train(rows, tmp_path / "run", trim=0.05, **QUICK | {"epochs": 2})
    assert "trim: 27 of 540 training rows left out" in caplog.text
    assert run.results.left_out == Run.load(run.path).results.left_out == 27
    assert run.provenance.rows == len(run.reference.x_train) == 513
    seen = {row.tobytes() for row in run.reference.x_train}
    assert not any(row.tobytes() in seen for row in rows[odd])
    file = run.path / "model.json"
    plain = json.loads(file.read_text())
    del plain["results"]["left_out"]  # as runs were written before there was such a number
    file.write_text(json.dumps(plain))
    assert Run.load(run.path).results.left_out == 0
    resumed = train(rows, run.path, resume=True, epochs=3)
    assert resumed.results.left_out == 27


def test_windows_of_a_series_are_left_out_too(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    series = (np.sin(np.arange(900) / 5)[:, None] + 0.1 * generator.normal(size=(900, 1))).astype(np.float32)
    series[300:320] = 4
    run = train(series, tmp_path / "run", window=10, trim=0.1, **QUICK | {"epochs": 2})
    assert run.results.left_out > 0 and run.reference.x_train[:, 5:].max() < 4


def test_no_prototype_lies_in_a_small_cluster_when_trimmed() -> None:
    rows, odd = clustered()
    for trim, near in ((0.0, True), (0.05, False)):
        prototypes, spread = typical_rows(rows, trim)
        distance = np.abs(prototypes - rows[odd].mean(axis=0)).mean(axis=1).min()
        assert (distance < 0.5) == near and spread > 0
    assert len(typical_rows(rows, 0.05)[0]) <= 20
    assert typical_rows(rows[~odd], 1e-300)[0].shape == typical_rows(rows[~odd])[0].shape


def test_contaminated_splits_score_the_same_rows_whatever_the_share(tmp_path: Path) -> None:
    rows, odd = clustered(400, 0.1)
    np.savez(tmp_path / "set.npz", X=rows, y=odd.astype(int))
    splits = {share: load_split(tmp_path / "set.npz", 3, "contaminated", share) for share in (0.0, 0.05, 0.3)}
    marked = {row.tobytes() for row in rows[odd]}
    for share, anomalies, reached in ((0.0, 0, 0.0), (0.05, 9, 9 / 189), (0.3, 20, 0.1)):
        split = splits[share]
        assert (len(split.training), len(split.normal), len(split.anomalies)) == (180 + anomalies, 180, 20)
        assert split.contamination == pytest.approx(reached)
        fitted = {row.tobytes() for row in split.training}
        assert len(fitted & marked) == anomalies
        assert not fitted & {row.tobytes() for row in np.concatenate([split.normal, split.anomalies])}
        np.testing.assert_array_equal(split.anomalies, splits[0.0].anomalies)
        np.testing.assert_array_equal(split.normal, splits[0.0].normal)


def test_the_contaminated_table_has_a_column_for_each_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"IsolationForest": accuracy.PEERS["IsolationForest"]}
    monkeypatch.setattr(accuracy, "PEERS", kept)
    monkeypatch.setattr(edgeae, "train", partial(edgeae.train, epochs=3))  # the table is tried here, not what it says
    rows, odd = clustered(300, 0.1)
    (tmp_path / "sets").mkdir()
    np.savez(tmp_path / "sets" / "1_clustered.npz", X=rows, y=odd.astype(int))
    options = ["--data-dir", str(tmp_path / "sets"), "--seeds", "1", "--scores", "auto", "--trim", "0.1"]
    more = ["--protocol", "contaminated", "--contamination", "0,0.05", "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(accuracy.main, [*options, *more], catch_exceptions=False)
    trials = json.loads((tmp_path / "out.json").read_text())
    methods = ["edgeae, auto, trim 0.1", "IsolationForest"]
    assert [(each["contamination"], each["method"]) for each in trials] == [
        (share, method) for share in (0.0, 0.05) for method in methods
    ]
    assert [each["reached"] for each in trials] == 2 * [0.0] + 2 * [pytest.approx(7 / 142)]
    assert "share of anomalies" in done.output and "0.049" in done.output
    for method in methods:
        assert f"{next(each['auroc'] for each in trials if each['method'] == method):.4f}" in done.output


def test_labels_and_trimming_go_together(tmp_path: Path) -> None:
    rows, odd = clustered()
    labels = odd.astype(np.int64)
    labels[:9] = 0  # half of them were found
    run = train(Dataset(rows, labels), tmp_path / "run", trim=0.05, **QUICK | {"epochs": 2})
    assert run.reference.x_anomaly is not None and len(run.reference.x_anomaly) == 9
    seen = {row.tobytes() for row in run.reference.x_train}
    assert not any(row.tobytes() in seen for row in rows[odd])
