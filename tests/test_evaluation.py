"""Metrics and thresholds."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgeae.errors import InputError
from edgeae.evaluation import auroc, quantile_threshold, rank_correlation

scores = arrays(
    np.float32, st.integers(1, 300), elements=st.floats(0, 100, width=32, allow_nan=False, allow_subnormal=False)
)


@given(scores, st.floats(0.001, 0.999))
def test_at_most_the_wanted_share_of_rows_is_above_the_threshold(values: np.ndarray, fpr: float) -> None:
    threshold = quantile_threshold(values, fpr)
    assert np.sum(values > threshold.value) + 1 <= max((len(values) + 1) * fpr, 1) + 1e-6
    assert threshold.value == float(np.float32(threshold.value)) and threshold.rows == len(values)
    # it is the smallest such score: the next smaller one would let too many through
    smaller = values[values < threshold.value]
    if len(smaller):
        assert np.sum(values > smaller.max()) + 1 > (len(values) + 1) * fpr - 1e-6


def test_rows_that_cannot_resolve_a_rate_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        assert quantile_threshold(np.array([1.0, 3.0, 2.0], np.float32), 0.01).value == 3.0
        assert quantile_threshold(np.array([1.0, 3.0, 2.0], np.float32), 0.01).fpr == 0.25
    assert "cannot resolve" in caplog.text


@pytest.mark.parametrize(("rows", "tail"), [(99, False), (150, True)])
def test_a_threshold_that_odd_rows_decide_is_reported(rows: int, tail: bool, caplog: pytest.LogCaptureFixture) -> None:
    ordinary = np.linspace(1, 2, rows, dtype=np.float32)
    odd = np.append(ordinary[1:], np.float32(4000))
    with caplog.at_level(logging.WARNING, logger="edgeae"):
        quantile_threshold(ordinary, 0.01)
        assert not caplog.text
        assert quantile_threshold(odd, 0.01).value == 4000
        assert f"4000 is {4000 / np.median(odd):.0f} times the median score of the {rows} normal rows" in caplog.text
        assert "--calibrate DATA" in caplog.text and ("--method evt" in caplog.text) is tail
        caplog.clear()
        quantile_threshold(odd, 0.05)
        quantile_threshold(odd - 3, 0.05)  # scores below zero have no such scale
        assert not caplog.text


@pytest.mark.parametrize(
    ("values", "fpr", "words"), [([], 0.1, "no finite"), ([np.nan], 0.1, "no finite"), ([1], 0, "fpr")]
)
def test_what_gives_no_threshold_is_refused(values: list[float], fpr: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        quantile_threshold(np.array(values, np.float32), fpr)


def test_auroc_counts_pairs() -> None:
    normal, anomalous = np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0])
    pairs = [(a > n) + 0.5 * (a == n) for n in normal for a in anomalous]
    assert auroc(normal, anomalous) == pytest.approx(np.mean(pairs))
    assert auroc(normal, np.array([np.nan])) == 1.0
    with pytest.raises(InputError):
        auroc(normal, np.array([]))


def test_rank_correlation_sees_order_only() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(np.ones(3), np.ones(3)) == 1 and rank_correlation(np.ones(3), np.arange(3.0)) == 0
