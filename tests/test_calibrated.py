"""Calibrated scores: what they promise of fresh normal rows, and what a short table costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.arrays import pack_arrays
from edgeae.bundle.bundle import describe_file
from edgeae.errors import BundleError, InputError
from edgeae.evaluation.rethreshold import rethreshold
from edgeae.runtime.calibrated import ALL_ABOVE, MAX_STEPS, bundle_table, calibrated, score_table
from edgeae.runtime.verify import verify_bundle

GOLDEN = Path(__file__).parent.parent / "export/golden"
FLOATS = st.floats(-9, 9, width=32)


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS), arrays.arrays(np.float32, 20, elements=FLOATS))
def test_a_table_of_all_scores_gives_the_conformal_p_value(normal: np.ndarray, scores: np.ndarray) -> None:
    p = [(1 + np.count_nonzero(normal >= score)) / (len(normal) + 1) for score in scores]
    np.testing.assert_allclose(calibrated(score_table(normal), scores), 1 - np.array(p), atol=1e-6)


def test_a_short_table_is_exact_at_the_top_and_never_promises_more() -> None:
    random = np.random.default_rng(3)
    normal, scores = (random.gamma(2, size=n).astype(np.float32) for n in (50_000, 5_000))
    table = score_table(normal)
    assert table.shape[1] < 300 < MAX_STEPS
    exact = 1 - (1 + (normal[None, :] >= scores[:, None]).sum(axis=1)) / (len(normal) + 1)
    found = calibrated(table, scores)
    assert (found <= exact + 1e-6).all()
    np.testing.assert_allclose(1 - found, 1 - exact, rtol=0.06)
    top = exact > 1 - ALL_ABOVE / len(normal)
    assert top.any()
    np.testing.assert_allclose(found[top], exact[top], atol=1e-6)


def test_fresh_normal_rows_exceed_a_level_no_more_often_than_it_says() -> None:
    random = np.random.default_rng(4)
    rates = []
    for _ in range(400):
        table = score_table(random.lognormal(size=200).astype(np.float32))
        rates.append(np.mean(calibrated(table, random.lognormal(size=200).astype(np.float32)) >= 0.95))
    assert np.mean(rates) == pytest.approx(0.05, abs=0.004)


def test_nan_stays_nan_and_is_an_anomaly_at_every_level() -> None:
    found = calibrated(
        score_table(np.array([1, np.nan, 2], np.float32)), np.array([np.nan, np.inf, -np.inf], np.float32)
    )
    np.testing.assert_allclose(found, [np.nan, 2 / 3, 0], atol=1e-6)


def test_a_bundle_learns_it_from_fresh_rows(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 17, (300, 8, 8)).astype(np.uint8)
    with edgeae.load(GOLDEN / "dense", device="cpu") as model, pytest.raises(InputError, match="edgeae threshold"):
        model.score(rows, calibrated=True)
    made = rethreshold(GOLDEN / "dense", rows, tmp_path / "b", device="cpu")
    assert all(check.passed for check in verify_bundle(made.path))
    for precision in ("fp32", "int8"):
        with edgeae.load(made.path, device="cpu", precision=precision) as model:
            scores, shares = model.score(rows), model.score(rows, calibrated=True)
            assert shares.argmax() == scores.argmax() and shares.max() == pytest.approx(299 / 301)
            # a threshold at 1 % is the score that one row in a hundred exceeds
            assert np.array_equal(shares > 0.99, model.predict(rows))


@pytest.mark.parametrize(
    "wrong",
    [
        [[2, 1], [2, 1]],
        [[1, 2], [1, 2]],
        [[1], [0]],
        [[np.inf], [1]],
        [1, 2],
        np.ones((2, 0)),
        np.ones((2, 1), np.float64),
    ],
    ids=["scores fall", "counts rise", "no rows", "infinite", "one row", "empty", "float64"],
)
def test_what_is_no_table_is_refused(tmp_path: Path, wrong: list[list[float]]) -> None:
    bundle = Bundle.read(GOLDEN / "table")
    table = wrong if isinstance(wrong, np.ndarray) and wrong.dtype == np.float64 else np.array(wrong, np.float32)
    files = {file.path: bundle.file(file) for file in bundle.files()}
    files["statistics.npz"] = pack_arrays(**bundle.statistics() | {"scores_fp32": np.asarray(table)})
    manifest = replace(bundle.manifest, statistics=describe_file("statistics.npz", files["statistics.npz"]))
    made = Bundle.write(tmp_path / "b", manifest, files)
    with pytest.raises(BundleError, match="no table of scores"):
        bundle_table(made.statistics(), "fp32", str(made.path))
    with edgeae.load(made.path, device="cpu") as model, pytest.raises(BundleError, match="no table of scores"):
        model.score(np.zeros((1, 10), np.float32), calibrated=True)
