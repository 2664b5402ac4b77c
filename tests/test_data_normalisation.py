"""Normalisation: fitted statistics against NumPy's, round trips, and the awkward cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeae.bundle.manifest import Layout, Normalisation, NormalisationKind
from edgeae.data import denormalise, fit_normalisation, normalise
from edgeae.errors import InputError

KINDS: tuple[NormalisationKind, ...] = get_args(NormalisationKind)
SHAPES: dict[Layout, tuple[int, ...]] = {
    "vector": (200, 5),
    "HW": (50, 4, 5),
    "CHW": (50, 3, 4, 5),
    "HWC": (50, 4, 5, 3),
    "TC": (50, 6, 3),
}
AXES: dict[Layout, tuple[int, ...] | None] = {
    "vector": (0,),
    "HW": None,
    "CHW": (0, 2, 3),
    "HWC": (0, 1, 2),
    "TC": (0, 1),
}


def rows(layout: Layout) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(0).gamma(2.0, 3.0, SHAPES[layout]) - 1).astype(np.float32)


@pytest.mark.parametrize("layout", list(SHAPES))
def test_statistics_are_numpys_per_feature_or_channel(layout: Layout) -> None:
    x = rows(layout)
    exact = x.astype(np.float64)
    axes = AXES[layout]
    expected: dict[NormalisationKind, tuple[Any, Any]] = {
        "none": (0.0, 1.0),
        "minmax": (exact.min(axes), np.ptp(exact, axes)),
        "standard": (exact.mean(axes), exact.std(axes)),
        "robust": (
            np.median(exact, axes),
            (np.percentile(exact, 75, axes) - np.percentile(exact, 25, axes)) / 1.349,
        ),
    }
    for kind, (shift, scale) in expected.items():
        fitted = fit_normalisation(x, kind, layout)
        assert fitted.kind == kind
        np.testing.assert_allclose(fitted.shift, np.atleast_1d(shift), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(fitted.scale, np.atleast_1d(scale), rtol=1e-6)
        for value in (*fitted.shift, *fitted.scale):
            assert value == float(np.float32(value))


@pytest.mark.parametrize("layout", list(SHAPES))
@pytest.mark.parametrize("kind", KINDS)
def test_normalised_rows_come_back(layout: Layout, kind: NormalisationKind) -> None:
    x = rows(layout)
    before = x.copy()
    fitted = fit_normalisation(x, kind, layout)
    z = normalise(x, fitted, layout)
    assert (z.dtype, z.shape) == (np.float32, x.shape)
    np.testing.assert_allclose(denormalise(z, fitted, layout), x, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(x, before)
    if kind == "minmax":
        assert z.min() == 0
        assert z.max() == 1
    if kind == "standard":
        np.testing.assert_allclose(z.mean(AXES[layout]), 0, atol=1e-5)
        np.testing.assert_allclose(z.std(AXES[layout]), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("peak", "scale"), [(255, 255), (200, 255), (17, 255), (16, 16), (1, 1), (0, 1)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("layout", ["HW", "CHW", "HWC"])
def test_images_in_whole_numbers_are_scaled_from_zero(peak: int, scale: float, dtype: Any, layout: Layout) -> None:
    x = np.full(SHAPES[layout], min(peak, 3), dtype)
    x.flat[0] = peak
    fitted = fit_normalisation(x, "minmax", layout)
    assert (fitted.shift, fitted.scale) == ((0.0,), (scale,))
    assert normalise(x, fitted, layout).max() <= 1


def test_images_in_other_numbers_are_scaled_by_their_extremes() -> None:
    x = np.array([[[0.5, 1.0]], [[0.25, 0.75]]], np.float32)
    assert fit_normalisation(x, "minmax", "HW") == Normalisation("minmax", (0.25,), (0.75,))
    whole = np.array([[0, 100], [50, 200]], np.uint8)
    assert fit_normalisation(whole, "minmax", "vector").scale == (50.0, 100.0)


def test_uint8_is_scaled_as_the_graph_does() -> None:
    x = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    z = normalise(x, Normalisation("minmax", (0.0,), (255.0,)), "HW")
    np.testing.assert_array_equal(z, x.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 5.0, -1e30, 1e-40, 0.1])
def test_what_is_constant_is_not_scaled(kind: NormalisationKind, value: float) -> None:
    x = np.full((1000, 2), value, np.float32)
    x[:, 1] = np.arange(1000)
    fitted = fit_normalisation(x, kind, "vector")
    assert fitted.scale[0] == 1
    if kind != "none":
        assert (normalise(x, fitted, "vector")[:, 0] == 0).all()


def test_a_spread_too_small_for_float32_is_not_scaled() -> None:
    x = np.array([[0.0], [1e-40]], np.float32)
    for kind in KINDS:
        assert fit_normalisation(x, kind, "vector").scale == (1.0,)


def test_a_spread_too_large_for_float32_is_refused() -> None:
    x = np.array([[0.0, -3e38], [1.0, 3e38]], np.float32)
    with pytest.raises(InputError, match="channel 1 spans -3e"):
        fit_normalisation(x, "minmax", "vector")
    assert np.isfinite(normalise(x, fit_normalisation(x, "standard", "vector"), "vector")).all()


def test_coinciding_quartiles_fall_back_to_the_deviation() -> None:
    x = np.zeros((100, 1), np.float32)
    x[0] = 10
    assert fit_normalisation(x, "robust", "vector").scale == fit_normalisation(x, "standard", "vector").scale


def test_quartiles_that_nearly_coincide_do_not_blow_outliers_up() -> None:
    x = np.array([[0.0], [-1e12], [4e-27], [4e-27], [4e-27]], np.float32)
    fitted = fit_normalisation(x, "robust", "vector")
    assert np.square(normalise(x, fitted, "vector")).max() < 1e19


def test_a_large_offset_does_not_cancel() -> None:
    noise = np.random.default_rng(0).integers(0, 3, (200_000, 9))
    x = (1_000_000 + noise).astype(np.float32)
    fitted = fit_normalisation(x, "standard", "vector")
    np.testing.assert_allclose(fitted.scale, noise.std(axis=0), rtol=1e-6)


def test_a_memory_map_is_read_and_large_data_sampled(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgeae.data.normalisation.SAMPLED_VALUES", 50_000)
    x = np.random.default_rng(0).normal(3, 2, (400_000, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    fitted = fit_normalisation(mapped, "robust", "vector")
    np.testing.assert_allclose(fitted.shift, [3, 3], atol=0.1)
    np.testing.assert_allclose(fitted.scale, [2, 2], atol=0.1)
    assert fitted == fit_normalisation(x, "robust", "vector")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["minmax", "standard", "robust"])
def test_values_that_are_not_finite_are_refused(kind: NormalisationKind, value: float) -> None:
    with pytest.raises(InputError, match="NaN or infinite"):
        fit_normalisation(np.array([[1, value]], np.float32), kind, "vector")


def test_no_rows_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        fit_normalisation(np.zeros((0, 3), np.float32), "standard", "vector")
    with pytest.raises(InputError, match="not one of none"):
        fit_normalisation(np.ones((1, 3), np.float32), "zscore", "vector")  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.sampled_from(KINDS),
)
def test_any_finite_rows_stay_finite(x: np.ndarray[Any, Any], kind: NormalisationKind) -> None:
    try:
        fitted = fit_normalisation(x, kind, "vector")
    except InputError:
        assert np.ptp(x.astype(np.float64), axis=0).max() > 1e37
        return
    assert np.isfinite(normalise(x, fitted, "vector")).all()
    assert all(scale > 0 for scale in fitted.scale)
