"""Thresholds: what they promise, by simulation, and bundles that get new ones."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.manifest import Manifest, Threshold
from edgeae.bundle.protobuf import parse_model, with_metadata
from edgeae.cli import main
from edgeae.data import load_data
from edgeae.errors import BundleError, InputError
from edgeae.evaluation.intervals import beta_cdf, beta_quantile, clopper_pearson
from edgeae.evaluation.rethreshold import rethreshold
from edgeae.evaluation.tails import Tail, fit_tail
from edgeae.evaluation.thresholds import METHODS, best_f1, choose_threshold
from edgeae.runtime.verify import verify_bundle
from tests.bundles import make_bundle
from tests.make_golden import GOLDEN, sensor_table
from tests.test_borders import THIRD_PARTY_OF_TRAIN, blocked, run

Array = np.ndarray[Any, Any]
DISTRIBUTIONS = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "heavy": stats.t(3),
    "power law": stats.pareto(1.2),
}


@pytest.mark.parametrize(("a", "b"), [(1, 100), (3, 5), (50, 5000), (1e4, 1e6), (1, 1e7), (200, 1), (1e6, 1e6)])
def test_beta_quantiles_are_scipy_s(a: float, b: float) -> None:
    for probability in (1e-4, 0.025, 0.5, 0.975):
        found = beta_quantile(probability, a, b)
        assert found == pytest.approx(stats.beta.ppf(probability, a, b), rel=1e-6)
        assert beta_cdf(found, a, b) == pytest.approx(probability, rel=1e-6)
    assert beta_cdf(-1, a, b) == 0 and beta_cdf(2, a, b) == 1


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
@settings(deadline=None, max_examples=50)
def test_clopper_pearson_is_scipy_s(case: tuple[int, int]) -> None:
    count, total = case
    wanted = stats.binomtest(count, total).proportion_ci(0.95, "exact")
    assert clopper_pearson(count, total) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_clopper_pearson_refuses_what_is_no_share() -> None:
    for count, total in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(InputError):
            clopper_pearson(count, total)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("method", ["quantile", "conformal"])
def test_the_rate_on_fresh_rows_is_within_the_interval(name: str, method: str) -> None:
    distribution, generator = DISTRIBUTIONS[name], np.random.default_rng(1)
    rates, inside = [], 0
    for _ in range(400):
        scores = distribution.rvs(700, random_state=generator).astype(np.float32)
        threshold = choose_threshold(scores, method=method, fpr=0.01)
        assert threshold.method == method and threshold.interval is not None and threshold.rows == 700
        rates.append(distribution.sf(threshold.value))
        inside += threshold.interval[0] <= rates[-1] <= threshold.interval[1]
    assert inside >= 0.92 * 400  # 95 % +- 1.1 %
    if method == "quantile":
        assert 0.006 < np.mean(rates) <= 0.0107  # at most 1 % on average: 7 / 701, and not far below
    else:
        assert np.mean(np.array(rates) <= 0.01) >= 0.955  # at most 1 % nearly always


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("rows", "fpr"), [(200, 1e-3), (1000, 1e-3), (1000, 1e-4)])
def test_peaks_over_threshold_reach_rates_that_the_rows_do_not(name: str, rows: int, fpr: float) -> None:
    distribution, generator = DISTRIBUTIONS[name], np.random.default_rng(2)
    ratios, inside = [], 0
    for _ in range(100):
        scores = distribution.rvs(rows, random_state=generator).astype(np.float32)
        threshold = choose_threshold(scores, method="evt", fpr=fpr)
        assert threshold.interval is not None
        rate = distribution.sf(threshold.value)
        ratios.append(rate / fpr)
        inside += threshold.interval[0] <= rate <= threshold.interval[1]
    assert inside >= 80
    assert 0.3 < np.median(ratios) < 4
    # far rarer than what the largest score of so few rows would promise
    assert np.median(ratios) * fpr < 0.8 / rows or fpr * rows >= 1


@given(st.floats(-0.8, 2), st.floats(1e-3, 1e3), st.floats(1e-6, 0.1), st.booleans())
@example(0.0, 1.0, 0.09999999999999999, False)
def test_the_quantile_of_a_tail_has_its_rate(shape: float, scale: float, rate: float, logarithmic: bool) -> None:
    scale = scale * 1e-3 if logarithmic else scale
    tail = Tail(start=3.0, rows=1000, count=100, shape=min(shape, 0.5), scale=scale, logarithmic=logarithmic)
    score = tail.quantile(rate)
    more = min(2 * rate, 0.1)
    assert score >= tail.quantile(more)
    assert score > tail.quantile(more) or more < 1.000001 * rate  # so near that rounding may hide the difference
    if score < 1e300:
        assert tail.rate(score) == pytest.approx(rate, rel=1e-3)


def test_a_power_law_is_fitted_by_its_logarithms() -> None:
    tail = fit_tail(stats.pareto(0.8).ppf((np.arange(20_000) + 0.5) / 20_000), 1e-4)
    assert tail.logarithmic and tail.shape == pytest.approx(0, abs=0.02) and tail.scale == pytest.approx(1.25, rel=0.03)
    assert tail.quantile(1e-4) == pytest.approx(stats.pareto(0.8).isf(1e-4), rel=0.1)
    assert not fit_tail(stats.expon().ppf((np.arange(20_000) + 0.5) / 20_000), 1e-4).logarithmic


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2])
def test_the_fit_finds_the_tail_that_the_peaks_are_from(shape: float) -> None:
    scores = 5 + stats.genpareto(shape, scale=2.0).ppf((np.arange(20_000) + 0.5) / 20_000)
    tail = fit_tail(scores, 1e-4)
    assert tail.count == 2000 and tail.shape == pytest.approx(shape, abs=0.02)
    # above a start u a generalised Pareto distribution is one again, of scale sigma + xi u
    assert tail.scale == pytest.approx(2 + shape * (tail.start - 5), rel=0.03)
    assert tail.interval(1e-4) == tail.interval(1e-4, seed=0) != tail.interval(1e-4, seed=1)


@pytest.mark.parametrize(
    ("scores", "fpr", "words"),
    [
        (np.arange(99.0), 1e-3, "at least 100"),
        (np.arange(1000.0), 0.1, "use quantile"),
        (np.arange(1000.0), 1e-6, "5e-05 and more"),
        (np.minimum(np.arange(1000.0), 500), 1e-3, "are equal"),
    ],
)
def test_a_tail_that_cannot_be_fitted_is_refused(scores: Array, fpr: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_threshold(scores, method="evt", fpr=fpr)


def test_rows_too_few_for_the_confidence_say_what_they_promise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        threshold = choose_threshold(np.arange(367, dtype=np.float32), method="conformal", fpr=0.01)
        assert threshold.fpr == pytest.approx(1 - 0.025 ** (1 / 367)) and threshold.value == 366
        assert threshold.interval is not None and threshold.interval[1] == pytest.approx(threshold.fpr)
    assert "368 rows would do" in caplog.text
    caplog.clear()
    assert choose_threshold(np.arange(368, dtype=np.float32), method="conformal", fpr=0.01).fpr == 0.01
    assert not caplog.text


def test_equal_scores_may_all_stay_below() -> None:
    threshold = choose_threshold(np.ones(200, np.float32), method="quantile", fpr=0.05)
    assert threshold.interval is not None
    low, high = threshold.interval
    assert low == 0 and 0.05 < high < 0.1


def test_sigma_counts_standard_deviations_and_states_the_measured_rate() -> None:
    scores = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    threshold = choose_threshold(scores, method="sigma", fpr=0.001)
    assert threshold.value == pytest.approx(scores.mean(dtype=float) + 3.0902 * scores.std(dtype=float), rel=1e-4)
    assert threshold.fpr == (np.sum(scores > threshold.value) + 1) / 5001
    assert threshold.interval is not None and threshold.interval[0] > 0.01  # and not the 0.001 of a normal distribution


whole = st.integers(0, 12).map(float)


@given(arrays(np.float64, st.integers(1, 40), elements=whole), arrays(np.float64, st.integers(1, 40), elements=whole))
def test_best_f1_is_the_best_of_all_thresholds(normal: Array, anomalous: Array) -> None:
    scores = np.concatenate([normal, anomalous])
    if len(set(scores)) < 2:
        with pytest.raises(InputError, match="equal"):
            best_f1(normal, anomalous)
        return

    def f1(threshold: float) -> float:
        found = np.sum(anomalous > threshold)
        return float(2 * found / (np.sum(scores > threshold) + len(anomalous)))

    best, threshold = best_f1(normal, anomalous)
    assert f1(threshold) == best == max(map(f1, scores))
    assert threshold not in scores and threshold == float(np.float32(threshold))


@pytest.mark.parametrize("recall", [0.5, 0.9])
def test_fresh_anomalies_are_found_as_often_as_promised(recall: float) -> None:
    generator, rates = np.random.default_rng(3), []
    for _ in range(500):
        anomalous = generator.normal(2, 1, 39).astype(np.float32)
        threshold = choose_threshold(np.zeros(9), anomalous, method="recall", recall=recall)
        assert np.mean(anomalous > threshold.value) >= recall and threshold.recall == recall
        rates.append(stats.norm(2, 1).sf(threshold.value))
    assert recall - 0.005 <= np.mean(rates) < recall + 0.02


def test_too_few_anomalies_say_what_they_promise(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        threshold = choose_threshold(np.zeros(9), np.array([3.0, 4.0]), method="recall", recall=0.9)
    assert threshold.recall == pytest.approx(2 / 3) and 2.9 < threshold.value < 3
    assert "2 anomalies cannot promise" in caplog.text


@pytest.mark.parametrize(
    ("normal", "anomalous", "options", "words"),
    [
        ([1.0], None, {"method": "magic"}, "quantile, conformal, evt"),
        ([1.0], None, {"fpr": 0.0}, "fpr: 0.0"),
        ([1.0], None, {"fpr": float("nan")}, "fpr: nan"),
        ([1.0], None, {"recall": 1.0}, "recall: 1.0"),
        ([], None, {}, "no scores of normal rows"),
        ([1.0, np.inf], None, {}, "not finite"),
        ([1.0], [np.nan], {}, "not finite"),
        ([1.0], None, {"method": "best-f1"}, "labelled as anomalies"),
        ([1.0], [], {"method": "recall"}, "labelled as anomalies"),
        ([-3e38, 3e38], None, {"method": "sigma", "fpr": 1e-9}, "beyond float32"),
    ],
)
def test_what_gives_no_threshold_is_refused(normal: Any, anomalous: Any, options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_threshold(np.array(normal), None if anomalous is None else np.array(anomalous), **options)


# Bundles that get new thresholds.


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 fresh rows for the golden table, 40 of them shuffled column by column and labelled 1."""
    table = sensor_table(400, seed=0)
    anomaly = np.arange(400) % 10 == 0
    table[anomaly] = np.random.default_rng(5).permuted(table[anomaly], axis=0)
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    header = ",".join([*(f"sensor_{index}" for index in range(10)), "bad"])
    lines = np.column_stack([table, anomaly])
    np.savetxt(path, lines, delimiter=",", header=header, comments="", fmt="%.9g")
    return path


def read_rows(path: Path) -> tuple[Array, Array]:
    """Return the rows, and which of them are normal."""
    data = load_data(path, label_column="bad")
    assert data.y is not None
    return data.x, data.y == 0


@pytest.mark.parametrize("target", ["new", "new.zip"])
def test_only_thresholds_change_in_the_new_bundle(rows: Path, tmp_path: Path, target: str) -> None:
    old = Bundle.read(GOLDEN / "table")
    x, normal = read_rows(rows)
    made = rethreshold(GOLDEN / "table", rows, tmp_path / target, fpr=0.05, label_column="bad", device="cpu")
    assert made.path == tmp_path / target and made.digest != old.digest
    values = set()
    for precision, entry in made.manifest.precisions.items():
        with edgeae.load(made.path, device="cpu", precision=precision) as model:
            scores = model.score(x)
            assert entry.threshold == choose_threshold(scores[normal], fpr=0.05)
            assert np.sum(model.predict(x)[normal]) == 17  # floor(361 * 0.05) - 1
        values.add(entry.threshold.value)
        for role in ("encoder", "decoder", "scorer"):
            before, after = old.graph(precision, role), made.graph(precision, role)
            assert with_metadata(before, {}) == with_metadata(after, {})
            found = {each["key"]: each["value"] for each in parse_model(after)["metadata"]}
            kept = {each["key"]: each["value"] for each in parse_model(before)["metadata"]}
            assert float(found.pop("edgeae.threshold")) == entry.threshold.value != float(kept.pop("edgeae.threshold"))
            assert found == kept
        assert made.file(entry.golden) == old.file(old.entry(precision).golden)
        flips = entry.quality.label_flips
        assert entry.quality == replace(old.entry(precision).quality, label_flips=flips)
        assert (flips is None) == (precision == "fp32")
    assert len(values) == 3, "every precision has its own"
    entries = ("precisions", "statistics")
    untouched = {name: entry for name, entry in vars(made.manifest).items() if name not in entries}
    assert untouched == {name: entry for name, entry in vars(old.manifest).items() if name not in entries}
    statistics = made.statistics()
    for precision in made.manifest.precisions:
        assert statistics.pop(f"scores_{precision}")[1, 0] == normal.sum()  # calibrated scores follow the same rows
    np.testing.assert_equal(statistics, old.statistics())
    assert all(check.passed for check in verify_bundle(made.path))


def test_a_bundle_is_changed_in_place_only_when_forced(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    network = make_bundle(path)
    fresh = network.rows(300, seed=3)
    before = Bundle.read(path)
    with pytest.raises(InputError, match="--force"):
        rethreshold(path, fresh, device="cpu")
    with pytest.raises(InputError, match="exists already"):
        rethreshold(path, fresh, path, device="cpu")
    with pytest.raises(InputError, match="labels, 0 for normal"):
        rethreshold(path, fresh, method="best-f1", force=True, device="cpu")
    with pytest.raises(InputError, match="5"):
        rethreshold(path, fresh[:, :5], force=True, device="cpu")
    assert Bundle.read(path).digest == before.digest
    made = rethreshold(path, fresh, fpr=0.1, force=True, device="cpu")
    assert made.path == path and made.manifest.precisions["fp32"].threshold.rows == 300
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_without_one_of_its_files_is_not_written_again(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"decoder\.onnx: the file is missing"):
        rethreshold(tmp_path / "bundle", network.rows(300), tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_from_the_command_line(method: str, rows: Path, tmp_path: Path) -> None:
    arguments = [GOLDEN / "table", rows, "--label-column", "bad", "--method", method, "-o", tmp_path / "new"]
    result = CliRunner().invoke(main, ["threshold", *map(str, arguments), "--json", "--fpr", "0.03"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    made = Bundle.read(tmp_path / "new")
    assert printed["digest"] == made.digest
    for precision, entry in made.manifest.precisions.items():
        assert entry.threshold.method == method and entry.threshold.rows == 360
        assert printed["thresholds"][precision]["value"] == entry.threshold.value
    again = CliRunner().invoke(main, ["threshold", *map(str, arguments), "--force", "--fpr", "0.03"])
    assert again.exit_code == 0 and method in again.stdout and made.digest in again.stdout


def test_mistakes_on_the_command_line_are_one_line(rows: Path, tmp_path: Path) -> None:
    bundle = str(GOLDEN / "table")
    for arguments, code, words in (
        ([bundle, str(rows)], 2, "-o NEW"),
        ([bundle, str(rows), "-o", str(tmp_path / "b"), "--fpr", "2"], 1, "fpr: 2.0"),
        ([bundle, str(rows), "-o", str(tmp_path / "b"), "--method", "recall"], 1, "needs labels"),
        ([bundle, str(rows), "-o", str(tmp_path / "b"), "--method", "evt", "--fpr", "1e-7"], 1, "out of reach"),
    ):
        result = CliRunner().invoke(main, ["threshold", *arguments])
        assert result.exit_code == code and words in result.stderr
        assert code == 2 or len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_device_with_the_thin_install_chooses_thresholds(rows: Path, tmp_path: Path) -> None:
    code = blocked(*THIRD_PARTY_OF_TRAIN) + "from edgeae.cli import main; main(sys.argv[1:])"
    arguments = ["threshold", str(GOLDEN / "table"), str(rows), "--label-column", "bad", "-o", str(tmp_path / "new")]
    assert "evt" in run(code, *arguments, "--method", "evt", "--fpr", "0.001")
    assert Bundle.read(tmp_path / "new").manifest.precisions["int8"].threshold.method == "evt"


@pytest.mark.parametrize("interval", [[0.1], [0.2, 0.1], [-0.1, 0.1], [0.5, 1.5], [0.1, 0.2, 0.3]])
def test_a_manifest_with_an_impossible_interval_is_refused(interval: list[float]) -> None:
    plain = json.loads((GOLDEN / "table" / "manifest.json").read_text())
    plain["precisions"]["fp32"]["threshold"]["interval"] = interval
    with pytest.raises(BundleError, match="interval"):
        Manifest.from_json(json.dumps(plain).encode())


def test_a_threshold_survives_the_manifest() -> None:
    manifest = Bundle.read(GOLDEN / "table").manifest
    threshold = Threshold(1.5, "recall", fpr=0.25, rows=7, interval=(0.125, 0.5), recall=0.75)
    entry = replace(manifest.precisions["fp32"], threshold=threshold)
    changed = replace(manifest, precisions=manifest.precisions | {"fp32": entry})
    assert Manifest.from_json(changed.to_json()) == changed
