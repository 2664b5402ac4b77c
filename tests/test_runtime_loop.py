"""Scores of many rows in a loop inside ONNX Runtime: the same as piece by piece, whatever the rows are."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

import edgeae
from edgeae.errors import InputError
from edgeae.runtime import bulk
from edgeae.runtime.inputs import Array
from edgeae.runtime.session import Graph

GOLDEN = Path(__file__).parents[1] / "export" / "golden"
NAMES = sorted(each.name for each in GOLDEN.iterdir() if (each / "manifest.json").exists() and "batch" not in each.name)
CHUNK = 5


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Loop from the first rows on, and count the runs."""
    runs: list[int] = []
    real = bulk._Loop.run

    def run(self: bulk._Loop, start: int, stop: int) -> int:
        runs.append(stop - start)
        return real(self, start, stop)

    monkeypatch.setattr(bulk._Loop, "run", run)
    monkeypatch.setattr(bulk, "LOOPED_AFTER", 0)
    return runs


def load(path: str | Path, on_invalid: str = "raise") -> edgeae.Autoencoder:
    return edgeae.load(GOLDEN / path, device="cpu", options={"chunk": CHUNK, "workers": 2}, on_invalid=on_invalid)


def rows_of(model: edgeae.Autoencoder, count: int, dtype: str = "float32") -> Array:
    golden = model.bundle.golden().x
    rows = golden[np.arange(count) % len(golden)] + np.random.default_rng(0).integers(0, 2, (count, *golden.shape[1:]))
    return np.asarray(np.clip(rows, 0, 255) if dtype == "uint8" else rows, dtype)


def piece_by_piece(model: edgeae.Autoencoder, rows: Array, monkeypatch: pytest.MonkeyPatch) -> Array:
    with monkeypatch.context() as patch:
        patch.setattr(bulk, "_in_a_loop", lambda *_: False)
        return model.score(rows)


@pytest.mark.parametrize("count", [2 * 4 * CHUNK, 2 * 4 * CHUNK + 1, 999, 1000])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_pieces(
    loops: list[int], monkeypatch: pytest.MonkeyPatch, name: str, dtype: str, count: int
) -> None:
    with load(name) as model:
        if model.manifest.input.dtype == "uint8" and dtype == "float32":
            pytest.skip("takes whole numbers only")
        rows = rows_of(model, count, dtype)
        wanted = piece_by_piece(model, rows, monkeypatch)
        monkeypatch.setattr(bulk, "LOOPED_WORK", 2**60)
        found = model.score(rows)
        assert sum(loops) == count
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        out = np.empty(count + 2, np.float32)
        model.score(rows, out=out[1:-1])
        np.testing.assert_array_equal(out[1:-1], found)
    assert loops


def test_rows_that_cannot_be_read_as_they_lie_go_the_other_way(loops: list[int]) -> None:
    with load("table") as model:
        rows = rows_of(model, 400)
        wanted = model.score(rows)
        runs = len(loops)
        assert runs
        for other in (rows.astype(np.float64), np.asfortranarray(rows), rows.astype(">f4"), rows[::-1][::-1]):
            np.testing.assert_allclose(model.score(other), wanted, rtol=1e-5)
        apart = np.zeros((800, *rows.shape[1:]), np.float32)[::2]
        apart[...] = rows
        np.testing.assert_allclose(model.score(apart), wanted, rtol=1e-5)
        assert len(loops) <= 2 * runs  # rows[::-1][::-1] lie as they did


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 7, 398, 402])
def test_rows_that_are_not_finite(loops: list[int], row: int, value: float) -> None:
    with load("table") as model, load("table", on_invalid="flag") as flagging:
        rows = rows_of(model, 403)
        wanted = model.score(rows)
        rows[row, 2] = value
        with pytest.raises(InputError, match=f"row {row}, .*is {value}"):
            model.score(rows)
        found = flagging.score(rows)
        assert np.isnan(found[row])
        others = np.arange(len(rows)) != row
        np.testing.assert_allclose(found[others], wanted[others], rtol=1e-5)
    assert loops


def test_the_first_of_several_bad_rows_is_named(loops: list[int]) -> None:
    with load("table") as model:
        rows = rows_of(model, 2000)
        rows[[300, 301, 1200, 1999], 0] = np.nan
        for _ in range(5):
            with pytest.raises(InputError, match="row 300, "):
                model.score(rows)
    assert loops


def test_a_loop_is_made_once_and_for_many_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = Graph.session_beside

    def session_beside(self: Graph, name: str, edit: object) -> object:
        made.append(name) if name not in self._beside else None
        return real(self, name, edit)  # type: ignore[arg-type]

    monkeypatch.setattr(Graph, "session_beside", session_beside)
    monkeypatch.setattr(bulk, "LOOPED_AFTER", 300)
    with load("table") as model:
        rows = rows_of(model, 100 * CHUNK)
        for _ in range(2):
            model.score(rows)
            assert not made
        for _ in range(3):
            model.score(rows)
            assert made == ["loop over float32"]
        assert model.score(rows[:3]).shape == (3,)


def test_a_bundle_that_is_gone_by_then_does_not_matter(
    loops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LOOPED_AFTER", 50)  # pieces, which is more than loading a model runs
    shutil.copytree(GOLDEN / "table", tmp_path / "bundle")
    with load(tmp_path / "bundle") as model:
        rows = rows_of(model, 400)
        model.score(rows[:1])
        shutil.rmtree(tmp_path / "bundle")
        assert model.score(rows).shape == (400,)
    assert loops


def test_many_threads_share_a_loop(loops: list[int]) -> None:
    with load("dense") as model:
        rows = rows_of(model, 600)
        wanted = model.score(rows)
        wrong: list[int] = []

        def work(shift: int) -> None:
            mine, right = np.roll(rows, shift, axis=0), np.roll(wanted, shift)
            wrong.extend(shift for _ in range(10) if not np.allclose(model.score(mine), right, rtol=1e-5))

        threads = [threading.Thread(target=work, args=(7 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
    assert loops
