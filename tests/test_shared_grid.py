"""Chunks that share one grid in the encoder's own graph: what comes out is as near as with a grid for each chunk."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import edgeae
from edgeae.codec import LatentReader, LatentWriter, shared_grid
from edgeae.codec.coders import Array
from edgeae.codec.grids import grid_of, ranges_of
from edgeae.codec.shared_grid import SharedGrid
from edgeae.errors import InputError
from edgeae.runtime.quantiser import Quantiser

GOLDEN = Path(__file__).parents[1] / "export" / "golden"


@pytest.fixture(scope="module")
def model() -> edgeae.Autoencoder:
    return edgeae.load(GOLDEN / "table", device="cpu")


def rows_of(model: edgeae.Autoencoder, count: int, scale: float = 1.0, seed: int = 0) -> Array:
    golden = model.bundle.golden().x
    spread = np.maximum(golden.std(axis=0), 0.1)
    noise = np.random.default_rng(seed).normal(size=(count, *golden.shape[1:]))
    return np.asarray(golden.mean(axis=0) + scale * spread * noise, np.float32)


def on_grid(grid: SharedGrid, model: edgeae.Autoencoder, rows: Array) -> Array | None:
    memory = [np.empty(len(rows) * model.latent_dim, np.uint8) for _ in range(2)]
    found = grid.quantised(rows, *memory)
    return None if found is None else found.latents()


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("name", ["table", "dense", "convolutional", "variational"])
def test_codes_are_those_of_the_latents(name: str, dtype: type[np.generic], chunk: int | None) -> None:
    with edgeae.load(GOLDEN / name, device="cpu", options={"chunk": chunk}) as some:
        golden = some.bundle.golden().x
        rows = np.clip(golden, 0, 255).astype(dtype)
        z = some.encode(rows)
        low, top = z.min(axis=0), z.max(axis=0)
        factor = np.float32(200) / np.maximum(top - low, np.float32(1e-3))
        zero = np.full(some.latent_dim, 20, np.float32)
        codes = np.empty(z.T.shape, np.uint8)
        assert Quantiser.possible(some, rows.dtype) == (dtype is np.uint8 or golden.dtype == dtype)
        if not Quantiser.possible(some, rows.dtype):
            return
        quantiser = Quantiser(some, rows.dtype)
        assert quantiser(rows, (low, factor, zero), codes)
        assert np.abs(codes.T - ((z - low) * factor + zero)).max() <= 0.51
        assert quantiser(rows, (low, 4 * factor, zero - 300), codes)  # what is beyond the ends is at the ends
        exact = np.clip((z - low) * 4 * factor + zero - 300, 0, 255)
        assert np.abs(codes.T - exact).max() <= 0.6
        assert {0, 255} <= set(codes.reshape(-1).tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4, 9])
def test_the_quantiser_sees_what_is_not_finite(row: int, value: float) -> None:
    with edgeae.load(GOLDEN / "table", device="cpu", options={"chunk": 4}) as some:
        rows = rows_of(some, 10)
        ones = np.ones(some.latent_dim, np.float32)
        grid, codes = (0 * ones, ones, ones), np.empty((some.latent_dim, 10), np.uint8)
        quantiser = Quantiser(some, rows.dtype)
        assert quantiser(rows, grid, codes)
        rows[row, -1] = value
        assert not quantiser(rows, grid, codes)


def test_a_model_makes_its_quantiser_once(model: edgeae.Autoencoder) -> None:
    dtype = np.dtype(np.float32)
    assert Quantiser(model, dtype)._session is Quantiser(model, dtype)._session


def test_what_is_on_the_grid_is_half_a_step_away(model: edgeae.Autoencoder) -> None:
    first, rows = rows_of(model, 500), rows_of(model, 4000, seed=1)
    ranges = ranges_of(model.encode(first))
    step = grid_of(ranges, 8, spare=shared_grid.SPARE).step
    found = on_grid(SharedGrid(model, np.dtype(np.float32), ranges, None), model, rows)
    assert found is not None
    z = model.encode(rows)
    assert (z.max(axis=0) > ranges.most).any()  # some are further out than all that the grid was made for
    assert (np.abs(found - z) <= 0.52 * step + 1e-6).all()


def test_few_rows_far_out_are_kept_as_they_are(model: edgeae.Autoencoder) -> None:
    rows = rows_of(model, 1000, seed=2)
    z = model.encode(rows)
    usual = ((z >= np.quantile(z, 0.005, axis=0)) & (z <= np.quantile(z, 0.995, axis=0))).all(axis=1)
    ranges = ranges_of(z[usual])
    levels = grid_of(ranges, 8, spare=shared_grid.SPARE)
    found = on_grid(SharedGrid(model, np.dtype(np.float32), ranges, None), model, rows)
    assert found is not None
    beyond = (z < levels.bottom) | (z > levels.top)
    assert 0 < beyond.any(axis=1).sum() < 50
    np.testing.assert_allclose(found[beyond], z[beyond], rtol=1e-6)
    assert (np.abs(found - z) <= 0.52 * levels.step + 1e-6).all()


def test_a_grid_that_is_too_small_grows(model: edgeae.Autoencoder) -> None:
    grid = SharedGrid(model, np.dtype(np.float32), ranges_of(model.encode(rows_of(model, 500, scale=0.001))), None)
    rows = rows_of(model, 1000, scale=3)
    assert on_grid(grid, model, rows) is None
    z = model.encode(rows)
    grid.hold(ranges_of(z))
    found = on_grid(grid, model, rows)
    assert found is not None
    assert np.abs(found - z).max() <= 0.52 * (z.max(axis=0) - z.min(axis=0)).max() / 200


def test_a_grid_that_holds_half_of_the_rows_keeps_the_others_and_grows(model: edgeae.Autoencoder) -> None:
    rows = rows_of(model, 1000, seed=6)
    z = model.encode(rows)
    inner = ((z >= np.quantile(z, 0.1, axis=0)) & (z <= np.quantile(z, 0.9, axis=0))).all(axis=1)
    grid = SharedGrid(model, np.dtype(np.float32), ranges_of(z[inner]), None)
    levels = grid_of(ranges_of(z[inner]), 8, spare=shared_grid.SPARE)
    beyond = (z < levels.bottom) | (z > levels.top)
    assert 0.1 < beyond.any(axis=1).mean() < 0.7
    assert not grid.settled
    found = on_grid(grid, model, rows)
    assert found is not None
    np.testing.assert_allclose(found[beyond], z[beyond], rtol=1e-5)
    assert (np.abs(found - z) <= 0.52 * levels.step + 1e-6).all()
    assert not grid.settled
    again = on_grid(grid, model, rows)
    assert again is not None
    assert grid.settled
    assert np.abs(again - z).max() <= 0.52 * (z.max(axis=0) - z.min(axis=0)).max() / 230


def test_a_dimension_that_did_not_vary_may_vary_later(model: edgeae.Autoencoder) -> None:
    same = np.repeat(rows_of(model, 1), 300, axis=0)
    ranges = ranges_of(np.repeat(model.encode(same[:1]), 300, axis=0))
    grid = SharedGrid(model, np.dtype(np.float32), ranges, None)
    assert grid_of(ranges, 8).flat.all()
    assert on_grid(grid, model, rows_of(model, 300)) is None  # not one of them passes for the one value
    few = same.copy()
    few[7] = rows_of(model, 1, seed=5)[0]
    found = on_grid(grid, model, few)
    z = model.encode(few)
    if found is not None:  # the same rows may give latents that differ by a rounding, in other places of a batch
        np.testing.assert_allclose(found, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.02, 1.0, 30.0])
def test_files_of_many_chunks_hold_what_a_grid_for_each_would(
    model: edgeae.Autoencoder, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    monkeypatch.setattr("edgeae.codec.latent_writer.VALUES", 2**12)
    rows = np.concatenate(
        [rows_of(model, 3000), rows_of(model, 9000, scale=scale, seed=3), rows_of(model, 3000, seed=4)]
    )
    used: list[bool] = []
    real = SharedGrid.quantised

    def counted(self: SharedGrid, *args: Array) -> object:
        found = real(self, *args)
        used.append(found is not None)
        return found

    monkeypatch.setattr(SharedGrid, "quantised", counted)
    file = io.BytesIO()
    with LatentWriter(file, model) as writer:
        for start in range(0, len(rows), 5000):
            writer.write(rows[start : start + 5000])
    assert any(used)
    found = LatentReader(io.BytesIO(file.getvalue()), model).read()
    wanted = model.reconstruct(rows)
    error = np.abs(found - wanted).mean() / wanted.std()
    assert error < 0.02


def test_rows_that_are_not_finite_are_refused_in_a_later_chunk(
    model: edgeae.Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeae.codec.latent_writer.VALUES", 2**12)
    rows = rows_of(model, 12000)
    rows[11000, 2] = np.nan
    with pytest.raises(InputError, match="row 11000, value 2 is nan"), LatentWriter(io.BytesIO(), model) as writer:
        writer.write(rows)


def test_only_eight_bits_on_the_cpu_share_a_grid(model: edgeae.Autoencoder) -> None:
    assert SharedGrid.possible(model, np.dtype(np.float32), 8)
    assert not SharedGrid.possible(model, np.dtype(np.float32), 7)
    assert not SharedGrid.possible(model, np.dtype(np.float32), 32)
