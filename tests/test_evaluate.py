"""How well a bundle detects: figures against scikit-learn, their intervals, `edgeae evaluate`."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics

from edgeae.bundle.manifest import Threshold
from edgeae.cli import main
from edgeae.data import Dataset
from edgeae.errors import InputError
from edgeae.evaluation import average_precision
from edgeae.evaluation.bootstrap import Counts, bootstrap, figures
from edgeae.evaluation.detection import evaluate, measure_detection, require_labels
from edgeae.evaluation.intervals import clopper_pearson
from tests.bundles import make_bundle
from tests.make_golden import GOLDEN, sensor_table
from tests.test_borders import blocked, run

Array = np.ndarray[Any, Any]
scores = arrays(np.float32, st.integers(1, 60), elements=st.integers(0, 15).map(float))


@given(scores, scores, st.integers(-1, 15).map(float))
def test_the_figures_are_those_of_scikit_learn(normal: Array, anomalous: Array, threshold: float) -> None:
    found = {name: float(column[0]) for name, column in figures(Counts.of(normal, anomalous, threshold), ()).items()}
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    values = np.concatenate([normal, anomalous])
    alarms = values > threshold
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, values))
    assert found["average_precision"] == pytest.approx(metrics.average_precision_score(labels, values))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, alarms, zero_division=0))
    if alarms.any():
        assert found["precision"] == pytest.approx(metrics.precision_score(labels, alarms))
    else:
        assert math.isnan(found["precision"])
    precision, recall, cuts = metrics.precision_recall_curve(labels, values)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    wanted = max([0.0, *(each for each, cut in zip(f1[:-1], cuts, strict=True) if cut > values.min())])
    assert found["best_f1"] == pytest.approx(wanted)


@given(scores, scores, st.data())
def test_precision_at_k_is_the_mean_over_orders_of_equal_scores(normal: Array, anomalous: Array, data: Any) -> None:
    k = data.draw(st.integers(1, len(normal) + len(anomalous)))
    found = figures(Counts.of(normal, anomalous, 0.0), (k,))
    values = np.concatenate([normal, anomalous])
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])
    last = np.sort(values)[::-1][k - 1]
    share = labels[values == last].mean()  # of those that share the last rank, so many are expected to be anomalies
    hits = labels[values > last].sum() + share * (k - np.sum(values > last))
    assert found[f"precision_at_{k}"][0] == pytest.approx(hits / k)
    assert found[f"recall_at_{k}"][0] == pytest.approx(hits / len(anomalous))


def test_the_interval_of_the_auroc_is_as_wide_as_theory_has_it() -> None:
    generator = np.random.default_rng(0)
    normal, anomalous = generator.normal(0, 1, 400), generator.normal(1, 1, 80)
    intervals = bootstrap(normal, anomalous, 1.0, at=(20,), resamples=2000, seed=0)
    low, high = intervals["auroc"]
    # DeLong's variance, from how each row does against all of the other class
    wins = (anomalous[:, None] > normal[None]).astype(float)
    error = math.sqrt(wins.mean(axis=0).var(ddof=1) / 400 + wins.mean(axis=1).var(ddof=1) / 80)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert (high + low) / 2 == pytest.approx(wins.mean(), abs=error / 4)
    assert all(0 <= low <= high <= 1 for low, high in intervals.values())


@pytest.mark.parametrize("name", ["auroc", "average_precision", "f1", "precision"])
def test_the_intervals_cover_the_truth(name: str) -> None:
    generator, covered = np.random.default_rng(1), 0
    truth = figures(Counts.of(generator.normal(0, 1, 400_000), generator.normal(2, 1, 100_000), 1.5), ())[name][0]
    for seed in range(60):
        normal, anomalous = generator.normal(0, 1, 200), generator.normal(2, 1, 50)
        low, high = bootstrap(normal, anomalous, 1.5, at=(), resamples=200, seed=seed)[name]
        covered += low <= truth <= high
    assert covered >= 50


def test_the_seed_decides_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    normal, anomalous = generator.normal(0, 1, 90), generator.normal(1, 1, 10)
    first, second, other = (bootstrap(normal, anomalous, 1.0, at=(5,), resamples=500, seed=seed) for seed in (3, 3, 4))
    assert first == second != other
    monkeypatch.setattr("edgeae.evaluation.bootstrap.BLOCK", 1000)  # ten resamples at a time
    in_blocks = bootstrap(normal, anomalous, 1.0, at=(5,), resamples=500, seed=3)
    for name, ends in first.items():
        assert in_blocks[name] == pytest.approx(ends, abs=0.05)


def test_scores_that_are_no_numbers_are_anomalies() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.9, np.nan, np.nan], np.float32)
    anomaly = np.array([False, False, False, False, True, True])
    found = measure_detection(values, anomaly, Threshold(0.5, "fixed"), at=(2,), resamples=100)
    assert found.auroc.value == found.average_precision.value == found.recall.value == 1
    assert found.at[0].precision.value == 1 and found.precision.value == pytest.approx(2 / 3)
    assert found.false_alarms.value == 0.25
    assert (found.false_alarms.low, found.false_alarms.high) == clopper_pearson(1, 4)
    assert found.recall.high == 1 and found.recall.low is not None and found.recall.low < 0.5  # two say little
    assert found.best_f1.value == 1 and found.best_threshold >= np.float32(0.9)


def test_a_precision_of_no_alarms_is_none() -> None:
    values, anomaly = np.arange(6, dtype=np.float32), np.arange(6) > 3
    found = measure_detection(values, anomaly, Threshold(9.0, "fixed"), at=(), resamples=100)
    assert found.precision.value is None and found.precision.low is None
    assert found.f1.value == 0 and found.recall.value == 0


def test_average_precision_needs_both() -> None:
    with pytest.raises(InputError, match="average_precision"):
        average_precision(np.array([]), np.array([1.0]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "--label-column"),
        (np.arange(4), "from 0 to 3"),
        (np.zeros(4, int), "labelled as normal; anomalies"),
        (np.ones(4, int), "labelled as an anomaly; normal rows"),
    ],
)
def test_labels_that_will_not_do_are_refused(labels: Array | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_labels(Dataset(np.zeros((4, 2), np.float32), labels))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows for the golden table; 30 of them, labelled 1, with noise larger than what their columns do."""
    table, anomaly = sensor_table(300), np.arange(300) % 10 == 0
    table[anomaly] += 1.5 * table.std(axis=0) * np.random.default_rng(5).standard_normal((30, 10)).astype(np.float32)
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, x=table, y=anomaly.astype(int))
    return path


def test_evaluate_says_the_same_in_json_and_in_the_table(labelled: Path) -> None:
    arguments = ["evaluate", str(GOLDEN / "table"), str(labelled), "--at", "5,30", "--resamples", "200"]
    result = CliRunner().invoke(main, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert (printed["rows"], printed["anomalies"]) == (300, 30)
    assert set(printed["precisions"]) == {"fp32", "fp16", "int8"}
    table = CliRunner().invoke(main, arguments).stdout
    for one in printed["precisions"].values():
        assert one["auroc"]["value"] > 0.8 and one["auroc"]["low"] < one["auroc"]["value"] < one["auroc"]["high"]
        assert one["best_f1"]["value"] >= one["f1"]["value"]
        assert [each["k"] for each in one["at"]] == [5, 30]
        at = one["at"][1]  # as many as there are anomalies: precision and recall are one
        assert at["precision"]["value"] == pytest.approx(at["recall"]["value"])
        for name in ("auroc", "average_precision", "best_f1"):
            assert f"{one[name]['value']:.3f} ({one[name]['low']:.3f} to" in table


def test_a_broken_promise_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = make_bundle(tmp_path / "bundle")  # promises 10 %
    x = np.concatenate([network.rows(300), 5 * network.rows(300, seed=2)])
    strange = Dataset(x, np.repeat([0, 0, 1, 0, 1, 0], 100))
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        found = evaluate(tmp_path / "bundle", strange, device="cpu", resamples=100)
        assert "more than the threshold promises (10 %" in caplog.text and "edgeae threshold" in caplog.text
        caplog.clear()
        honest = Dataset(x, np.repeat([0, 0, 0, 1, 1, 1], 100))
        evaluate(tmp_path / "bundle", honest, device="cpu", resamples=100)
        assert not caplog.text
    assert [each.k for each in found.precisions["fp32"].at] == [10, 100, 200]


@pytest.mark.parametrize(
    ("options", "words"), [({"resamples": 99}, "at least 100"), ({"at": (0,)}, "at: 0"), ({"at": (301,)}, "at: 301")]
)
def test_arguments_out_of_range_are_refused(labelled: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(GOLDEN / "table", labelled, **options)


def test_mistakes_are_one_line(labelled: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", sensor_table(20))
    for data in (tmp_path / "rows.npy", f"{labelled}:y"):
        result = CliRunner().invoke(main, ["evaluate", str(GOLDEN / "table"), str(data)])
        assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1


def test_without_scikit_learn_the_error_names_it(labelled: Path) -> None:
    code = blocked("sklearn") + (
        "import importlib.util; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'sklearn' else find(name)\n"
        "from edgeae.cli import main; main(sys.argv[1:])"
    )
    output = run(code, "evaluate", str(GOLDEN / "table"), str(labelled), ok=False)
    assert output.strip() == "edgeae: evaluate: needs scikit-learn; install it with: pip install scikit-learn"
