"""Ctrl-C while a latent file is written: the file ends properly, behind its last whole chunk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgeae
from edgeae.codec import LatentReader, LatentWriter
from edgeae.codec.chunk_writer import ChunkWriter
from edgeae.codec.coders import Array
from edgeae.codec.lanes import Chunk, Lanes
from edgeae.errors import InputError

GOLDEN = Path(__file__).parents[1] / "export" / "golden"


@pytest.fixture(scope="module")
def model() -> Iterator[edgeae.Autoencoder]:
    with edgeae.load(GOLDEN / "table", device="cpu") as model:
        yield model


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeae.codec.latent_writer.VALUES", 2**10)


def rows_of(model: edgeae.Autoencoder, count: int) -> Array:
    golden = model.bundle.golden().x
    noise = np.random.default_rng(0).normal(size=(count, *golden.shape[1:]))
    return np.asarray(golden.mean(axis=0) + golden.std(axis=0) * noise, np.float32)


def begins_like(found: Array, wanted: Array) -> bool:
    return bool((np.abs(found - wanted[: len(found)]) <= 0.1 * wanted.std(axis=0)).all())


def interrupted(path: Path, model: edgeae.Autoencoder, rows: Array, bound: float | None) -> int:
    """Write until Ctrl-C comes, and return how many rows there are."""
    with pytest.raises(KeyboardInterrupt), LatentWriter(path, model, max_error=bound) as writer:
        writer.write(rows)
        writer.flush()
    with LatentReader(path, model) as reader:
        found = reader.read()
        if bound is not None:
            assert np.abs(found - rows[: len(found)]).max(initial=0) <= bound
        else:
            assert begins_like(found, model.reconstruct(rows))
    with LatentWriter(path, model, append=True) as writer:
        writer.write(rows)
    with LatentReader(path, model) as reader:
        assert len(reader) == len(found) + len(rows)
    return len(found)


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("place", [1, 3, 5])
def test_within_a_chunk(
    model: edgeae.Autoencoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    part: float,
) -> None:
    real, calls = ChunkWriter._put, 0

    def put(self: ChunkWriter, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == place:  # the first is the header
            real(self, data[: int(part * len(data))])
            raise KeyboardInterrupt
        real(self, data)

    monkeypatch.setattr(ChunkWriter, "_put", put)
    rows = rows_of(model, 5000)
    assert interrupted(tmp_path / "rows.eae", model, rows, None) < len(rows)
    assert calls > place


@pytest.mark.parametrize("place", [0, 1, 2])
def test_between_two_chunks(
    model: edgeae.Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    real, seen = Lanes.ready, 0

    def ready(self: Lanes, *, everything: bool = False) -> Iterator[Chunk]:
        nonlocal seen
        for chunk in real(self, everything=everything):
            seen += 1
            if seen - 1 == place:
                raise KeyboardInterrupt  # this chunk is in nobody's hands now
            yield chunk

    monkeypatch.setattr(Lanes, "ready", ready)
    rows = rows_of(model, 5000)
    assert interrupted(tmp_path / "rows.eae", model, rows, None) < len(rows)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_while_chunks_with_a_bound_are_coded(
    model: edgeae.Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    real, calls = LatentWriter._wait, 0

    def wait(self: LatentWriter, most: int) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == place:
            raise KeyboardInterrupt
        real(self, most)

    monkeypatch.setattr(LatentWriter, "_wait", wait)
    interrupted(tmp_path / "rows.eae", model, rows_of(model, 2000), 0.5)


@pytest.mark.parametrize("bound", [None, 0.5])
def test_nothing_is_written_behind_a_chunk_that_failed(
    model: edgeae.Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float | None
) -> None:
    real, calls = ChunkWriter._put, 0

    def put(self: ChunkWriter, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            real(self, data[:-5])
            raise InputError("rows.eae: the disk is full")
        real(self, data)

    monkeypatch.setattr(ChunkWriter, "_put", put)
    path, rows = tmp_path / "rows.eae", rows_of(model, 2000)
    writer = LatentWriter(path, model, max_error=bound)
    with pytest.raises(InputError, match="is full"):
        writer.write(rows)
        writer.flush()
    with pytest.raises(InputError, match="could not write a chunk; close it, and go on with append"):
        writer.write(rows)
    writer.close()
    with LatentReader(path, model, recover=True) as reader:
        found = reader.read()
    assert 0 < len(found) < len(rows)
    if bound is None:
        assert begins_like(found, model.reconstruct(rows))
    else:
        assert np.abs(found - rows[: len(found)]).max() <= bound


def test_nothing_is_written_after_it(
    model: edgeae.Autoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.eae"
    with LatentWriter(path, model) as writer:
        writer.write(rows_of(model, 1000))
        writer.flush()
        monkeypatch.setattr(Lanes, "submit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.write(rows_of(model, 1000))
        with pytest.raises(InputError, match="was interrupted; close it, and go on with append"):
            writer.write(rows_of(model, 1))
    with LatentReader(path, model) as reader:
        assert len(reader) == 1000


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_nothing_was_written_to_is_gone(model: edgeae.Autoencoder, tmp_path: Path) -> None:
    rows = rows_of(model, 3)
    rows[1, 0] = np.nan
    with pytest.raises(InputError, match="row 1"), LatentWriter(tmp_path / "rows.eae", model) as writer:
        writer.write(rows)
    assert not list(tmp_path.iterdir())
