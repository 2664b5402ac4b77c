"""What latents and rows come out as: grids, bounds, and decoders that are not quite the same."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

pytest.importorskip("zstandard", reason="needs zstandard: pip install 'edgeae[codec]'")

import edgeae
from edgeae.codec import LatentReader, LatentWriter, coded_size
from edgeae.codec.coders import Coder, Cursor
from edgeae.codec.grids import quantise
from edgeae.codec.latents import pack_latents, unpack_latents
from edgeae.codec.residuals import (
    Grid,
    apply_residuals,
    check_margins,
    correct,
    grid_for,
    grid_within,
    pack_residuals,
)
from edgeae.codec.settings import Settings, least_steps
from edgeae.errors import InputError, IntegrityError
from tests.bundles import make_bundle

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
Array = np.ndarray[Any, Any]
ordinary = st.floats(-1e6, 1e6, width=32)


@given(nps.arrays(np.int32, st.integers(0, 300), elements=st.integers(-(2**31), 2**31 - 1)), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_integers_of_any_size_and_density_come_back(values: Array, share: float) -> None:
    values = np.where(np.random.default_rng(0).random(len(values)) < share, values, 0).astype(np.int32)
    cursor = Cursor(Coder().integers(values), "test")
    assert np.array_equal(cursor.integers(len(values)), values)
    cursor.end()


@given(st.sets(st.integers(0, 100_000), max_size=50), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_positions_however_far_apart_come_back(places: set[int], more: int) -> None:
    wanted = np.array(sorted(places), np.int64)
    cursor = Cursor(Coder().positions(wanted), "test")
    assert np.array_equal(cursor.positions(int(wanted.max(initial=-1)) + 1 + more), wanted)
    cursor.end()


@given(
    nps.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 6)), elements=ordinary),
    st.sampled_from([2, 3, 4, 7, 8, 16, 32]),
)
@settings(max_examples=100, deadline=None)
def test_latents_come_back_as_the_writer_saw_them_and_near_what_they_were(z: Array, bits: int) -> None:
    if bits == 16 and (np.abs(z) > 65504).any():
        with pytest.raises(InputError, match="float16"):
            pack_latents(Coder(), z, bits)
        return
    data, again = pack_latents(Coder(), z, bits)
    seen = again()
    cursor = Cursor(data, "test")
    assert np.array_equal(unpack_latents(cursor, len(z), z.shape[1], bits).view(np.uint32), seen.view(np.uint32))
    cursor.end()
    allowed = {32: 0.0, 16: 2.0**-10}.get(bits)
    if allowed is not None:
        assert (np.abs(seen - z) <= allowed * np.abs(z) + (2.0**-14 if bits == 16 else 0)).all()
    else:
        half = 0.52 * np.ptp(z.astype(np.float64), axis=0) / (2**bits - 2) + 1e-6 * np.abs(z).max(axis=0) + 1e-35
        assert (np.abs(seen.astype(np.float64) - z) <= half).all()


def test_zero_stays_zero_and_sparse_latents_are_smaller() -> None:
    rng = np.random.default_rng(0)
    z = np.where(rng.random((2000, 32)) < 0.03, rng.normal(size=(2000, 32)), 0).astype(np.float32)
    for bits in (4, 8, 32):
        data, again = pack_latents(Coder(), z, bits)
        seen = again()
        assert (seen[z == 0] == 0).all()
        dense, _ = pack_latents(Coder(), rng.permuted(np.where(z == 0, rng.normal(size=z.shape), z)).astype("f4"), bits)
        assert len(data) < 0.2 * len(dense)


def test_one_strange_row_does_not_coarsen_the_others() -> None:
    z = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    usual = quantise(z, 8).step
    z[500] = [1e6, -1e6, 50]
    grid = quantise(z, 8)
    assert (grid.step < 40 * usual).all() or (np.abs(grid.latents()[500] - z[500]) < 1).all()
    assert np.abs(np.delete(grid.latents() - z, 500, axis=0)).max() < 0.5 * grid.step.max() + 1e-3


def test_dimensions_that_the_decoder_ignores_cost_next_to_nothing() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 16)).astype(np.float32)
    z[:, 4:] *= 0.01  # near-prior means
    weights = rng.normal(size=(16, 20)).astype(np.float32)
    weights[4:] *= 0.01

    def decode(latents: Array) -> Array:
        return np.asarray(latents @ weights)

    least = least_steps(decode, z, 8)
    assert least is not None
    data, again = pack_latents(Coder(), z, 8, least)
    all_dimensions, _ = pack_latents(Coder(), z, 8)
    few, _ = pack_latents(Coder(), np.ascontiguousarray(z[:, :4]), 8)
    assert len(data) < 1.15 * len(few) < 0.4 * len(all_dimensions)
    plain = np.square(decode(pack_latents(Coder(), z, 8)[1]()) - decode(z)).mean()
    assert np.square(decode(again()) - decode(z)).mean() < 3 * plain


def test_latents_that_are_not_finite_are_refused_or_kept() -> None:
    z = np.array([[1.0, np.inf], [np.nan, 2.0]], np.float32)
    with pytest.raises(InputError, match="not finite"):
        pack_latents(Coder(), z, 8)
    data, _ = pack_latents(Coder(), z, 32)
    assert np.array_equal(unpack_latents(Cursor(data, "x"), 2, 2, 32), z, equal_nan=True)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_value_is_beyond_its_bound_and_every_decoder_gives_the_same(data: st.DataObject) -> None:
    whole = data.draw(st.booleans())
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 9)))
    scale = data.draw(st.sampled_from([1e-3, 1.0, 255.0, 1e5]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(0, 256, shape).astype(np.uint8) if whole else (scale * rng.normal(size=shape)).astype(np.float32)
    noise = rng.normal(size=shape) * scale * data.draw(st.sampled_from([0.0, 0.01, 1.0, 100.0]))
    x_hat: Array = np.add(x, noise).astype(np.float32)
    if data.draw(st.booleans()):
        x_hat[0, 0] = data.draw(st.sampled_from([np.inf, -np.inf, np.nan, 1e38, -0.0]))
    max_error = 0.0 if whole and data.draw(st.booleans()) else scale * data.draw(st.sampled_from([1e-3, 0.1, 3.0]))
    if whole:
        max_error = math.floor(max_error) * 1.0
    grid = grid_for(max_error, whole=whole)
    margins = np.full(shape[1], grid.unit * data.draw(st.sampled_from([0.0, 0.01, 0.24, 0.4])))
    found = correct(x, x_hat, grid, margins, max_error)
    assert (np.abs(found.rows.astype(np.float64) - x) <= max_error).all()
    assert found.largest_error <= max_error
    coded = pack_residuals(Coder(), found, grid)
    drift = rng.uniform(-1, 1, shape) * np.minimum(margins, 0.25 * grid.unit) * 0.999
    drifted: Array = np.add(x_hat, drift).astype(np.float32)
    finite = np.isfinite(x_hat)
    moved = np.abs(drifted[finite].astype(np.float64) - x_hat[finite]).max(initial=0)
    # float32 cannot express such a small drift beside a large value
    for other in (x_hat, drifted) if moved <= margins[0] else (x_hat,):
        cursor = Cursor(coded, "test")
        rows = apply_residuals(cursor, other, x.dtype.name)
        cursor.end()
        assert rows.dtype == x.dtype and rows.tobytes() == found.rows.tobytes()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("target", [1e-4, 0.3, 10.0, 1e4])
def test_a_mean_squared_error_is_kept_and_not_undercut_by_much(whole: bool, target: float) -> None:
    rng = np.random.default_rng(0)
    x: Array = rng.integers(0, 256, (50, 64)).astype(np.uint8 if whole else np.float32)
    x_hat = (x + rng.normal(0, 20, x.shape)).astype(np.float32)
    grid, found = grid_within(x, x_hat, target, np.zeros(64), whole=whole)
    error = np.square(found.rows.astype(np.float64) - x).mean()
    assert error == pytest.approx(found.squared_error / x.size) and error <= target
    if not whole and target < 400:
        assert error > target / 3 and grid.step
    if target == 1e4:
        assert grid.step == 0


def test_a_bound_below_the_decoders_own_noise_is_refused() -> None:
    with pytest.raises(InputError, match="too tight"):
        check_margins(np.full(3, 0.01), grid_for(0.02, whole=False))
    check_margins(np.full(3, 0.01), Grid(1.0, 1))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edgeae.Autoencoder]:
    path = tmp_path_factory.mktemp("bundle") / "digits"
    make_bundle(path, shape=(4, 6), layout="HW", dtype="uint8", shift=0.0, scale=255.0)
    with edgeae.load(path, device="cpu", options={"workers": 1}) as loaded:
        yield loaded


def images(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 6)).astype(np.uint8)


@pytest.mark.parametrize(
    "settings", [{"lossless": True}, {"max_error": 2.5}, {"target_psnr": 40.0}, {"lossless": True, "dtype": "int2"}]
)
def test_bytes_stay_bytes_and_within_their_bound(settings: dict[str, Any], digits: edgeae.Autoencoder) -> None:
    x = images(500)
    buffer = io.BytesIO()
    with LatentWriter(buffer, digits, compare=True, **settings) as writer:
        writer.write(x)
    report = writer.report()
    rows = LatentReader(io.BytesIO(buffer.getvalue()), digits).read()
    error = np.abs(rows.astype(np.float64) - x)
    assert rows.dtype == np.uint8 and rows.shape == x.shape
    assert error.max() == report.largest_error and report.zstd_bytes and report.raw_bytes == x.nbytes
    if "lossless" in settings:
        assert not error.any() and report.psnr is None
    elif "max_error" in settings:
        assert error.max() <= 2.5
    else:
        assert report.psnr is not None and report.psnr >= 40
        assert report.psnr == pytest.approx(10 * math.log10(255**2 / np.square(error).mean()))
    assert report.unknown_rows == int(digits.predict(x).sum())


@pytest.mark.parametrize("max_error", [0.5, None])
def test_a_decoder_that_drifts_within_the_margin_gives_the_same_and_beyond_says_so(
    max_error: float | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with edgeae.load(GOLDEN / "dense", device="cpu") as model:
        golden = model.bundle.golden().x
        x = np.clip(np.rint(np.repeat(golden, 30, axis=0)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        with LatentWriter(buffer, model, max_error=max_error, lossless=max_error is None) as writer:
            writer.write(x)
        assert writer.report().ties < 0.02 * x.size
        data, rng, exact = buffer.getvalue(), np.random.default_rng(0), model.decode
        rows = LatentReader(io.BytesIO(data), model).read()

        def drift(size: float) -> None:
            monkeypatch.setattr(model, "decode", lambda z: exact(z) + np.float32(size) * rng.choice([-1, 1], x.shape))

        drift(255 * 2.0**-23)
        assert np.array_equal(LatentReader(io.BytesIO(data), model).read(), rows)
        drift(0.4)
        reader = LatentReader(io.BytesIO(data), model)
        with pytest.raises(IntegrityError, match="come out differently"):
            reader.read()
        with caplog.at_level(logging.WARNING, "edgeae"):
            LatentReader(io.BytesIO(data), model, drift="warn").read()
        assert "come out differently" in caplog.text


def test_rows_that_the_model_does_not_know_cost_more_and_are_counted() -> None:
    with edgeae.load(GOLDEN / "table", device="cpu") as model:
        rng = np.random.default_rng(0)
        golden = model.bundle.golden().x
        usual = model.reconstruct(golden[rng.integers(0, len(golden), 400)])
        usual = usual[~model.predict(usual)]
        strange = usual + 20 * rng.normal(size=usual.shape).astype(np.float32) * usual.std(axis=0)
        reports = []
        for x in (usual, strange):
            with LatentWriter(io.BytesIO(), model, max_error=0.2, dtype="float32") as writer:
                writer.write(x)
            reports.append(writer.report())
        assert reports[0].unknown_rows == 0 and reports[1].unknown_rows == int(model.predict(strange).sum()) > 0
        assert reports[1].corrected_in_unknown > 0.5 * reports[1].corrected_values > 0
        assert reports[1].coded_bytes > 1.5 * reports[0].coded_bytes


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"dtype": "int9"}, "int9"),
        ({"dtype": "float64"}, "float64"),
        ({"max_error": 0.0}, "positive"),
        ({"max_error": math.nan}, "positive"),
        ({"target_psnr": math.inf}, "positive"),
        ({"lossless": True, "max_error": 1.0}, "exclude"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**wanted)


def test_what_cannot_be_promised_is_refused(tmp_path: Path) -> None:
    with edgeae.load(GOLDEN / "table", device="cpu") as model:
        rows = model.bundle.golden().x
        whole: dict[str, Any] = {"lossless": True}
        with pytest.raises(InputError, match="whole numbers"), LatentWriter(io.BytesIO(), model, **whole) as writer:
            writer.write(rows + 0.5)
        with pytest.raises(InputError, match="too tight"), LatentWriter(io.BytesIO(), model, max_error=1e-9) as writer:
            writer.write(rows)
        with pytest.raises(InputError, match="expected float32"), LatentWriter(io.BytesIO(), model) as writer:
            writer.write(rows[:, :-1])
    make_bundle(tmp_path / "half", precisions=("fp32", "fp16"))
    with edgeae.load(tmp_path / "half", device="cpu", precision="fp16") as half:
        with pytest.raises(InputError, match="fp16"), LatentWriter(io.BytesIO(), half, max_error=1.0) as writer:
            writer.write(np.ones((2, 12), np.float32))
        buffer = io.BytesIO()
        with LatentWriter(buffer, half) as writer:
            writer.write(np.ones((2, 12), np.float32))
    with edgeae.load(tmp_path / "half", device="cpu") as single, pytest.raises(InputError, match="precision fp16"):
        LatentReader(io.BytesIO(buffer.getvalue()), single)


def test_a_file_of_bytes_takes_no_other_numbers(digits: edgeae.Autoencoder) -> None:
    buffer = io.BytesIO()
    with pytest.raises(InputError, match="0 to 255"), edgeae.load(GOLDEN / "dense", device="cpu") as model:
        x = np.zeros((2, *model.input_shape), np.uint8)
        with LatentWriter(buffer, model, lossless=True) as writer:
            writer.write(x)
            writer.write(x.astype(np.float64))  # whole numbers all the same
            writer.write(x + 0.5)
    with edgeae.load(GOLDEN / "dense", device="cpu") as model:
        assert len(LatentReader(io.BytesIO(buffer.getvalue()), model)) == 4


def test_the_benchmark_measures_every_way(digits: edgeae.Autoencoder) -> None:
    pytest.importorskip("PIL", reason="needs Pillow")
    from benchmarks.compression import measure

    x = np.repeat(np.repeat(images(64)[:, :1, :1], 8, axis=1), 8, axis=2)
    with edgeae.load(GOLDEN / "dense", device="cpu") as model:
        result = measure(model, np.ascontiguousarray(x), seconds=0.01, speed_bytes=2**18)
    assert [speed.name for speed in result.speeds] == ["write", "read"]
    assert all(speed.rows_per_second > 0 and speed.cpu_share > 0 for speed in result.speeds)
    assert {"edgeae", "PCA, float32", "zstd -19", "PNG", "JPEG"} <= {point.name for point in result.points}
    for point in result.points:
        assert point.bytes_per_row > 0 and point.ratio == pytest.approx(64 / point.bytes_per_row)
        if point.promise == "lossless":
            assert point.largest_error == 0 and point.psnr is None and point.ssim == pytest.approx(1)
        if point.name == "edgeae" and point.promise.startswith("PSNR"):
            assert point.psnr is None or point.psnr >= float(point.promise.split()[1])
    assert [entropy.bits for entropy in result.entropy] == [8, 7, 6, 5, 4, 3, 2]


def test_the_size_and_the_error_at_a_depth_are_those_of_the_file() -> None:
    with edgeae.load(GOLDEN / "table", device="cpu") as model:
        golden = model.bundle.golden().x
        x = np.tile(golden, (20, 1)) + np.random.default_rng(0).normal(0, 0.1, (20 * len(golden), 10)).astype("f4")
        found = {dtype: coded_size(model, x, dtype) for dtype in ("float32", "int8", "int3")}
        assert found["float32"].bytes > found["int8"].bytes > found["int3"].bytes
        error = model.reconstruct(x).astype(np.float64) - x
        assert found["float32"].mean_squared_error == pytest.approx(np.square(error).mean())
        assert found["float32"].largest_error == pytest.approx(np.abs(error).max())
        assert found["int8"].ratio == pytest.approx(x.nbytes / found["int8"].bytes)
        mse = found["int3"].mean_squared_error
        assert found["int3"].psnr(5.0) == pytest.approx(10 * math.log10(25 / mse))
        with pytest.raises(InputError, match="no rows"):
            coded_size(model, x[:0])


@pytest.mark.parametrize("images_wanted", [True, False])
def test_rates_are_measured_and_drawn(images_wanted: bool, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs Pillow")
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    pytest.importorskip("torch", reason="needs PyTorch")
    from benchmarks.rate_distortion import BITS, draw, measure

    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(size=(90, 64)), axis=1)
    x = np.clip(128 + 9 * smooth, 0, 255).astype(np.uint8).reshape(-1, 8, 8) if images_wanted else smooth.astype("f4")
    rates = measure("walks", x[:60], x[60:], (2, 5), steps=3)
    curves = {(curve.codec, curve.size): curve.points for curve in rates.curves}
    assert {("edgeae", 2), ("PCA", 2), ("edgeae", 5), ("PCA", 5), ("zstd -19", None)} <= set(curves)
    for size in (2, 5):
        assert len(curves["edgeae", size]) == len(curves["PCA", size]) == len(BITS)
    wider, narrower = curves["PCA", 5][0].psnr, curves["PCA", 2][0].psnr
    assert wider is not None and narrower is not None and wider > narrower
    if images_wanted:
        assert curves["PNG", None][0].psnr is None and curves["JPEG", None][-1].psnr
    draw(rates, tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes()[:4] == b"\x89PNG"
