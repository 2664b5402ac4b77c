"""Calls of few rows without `bind`: buffers that stay bound are shared by nobody, and nobody sees them."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeae
from edgeae.errors import DeviceError, EdgeaeError, OutOfMemoryError
from edgeae.runtime import Autoencoder, bound
from edgeae.runtime.session import Binding
from tests.bundles import Array, Network, Recipe, make_bundle
from tests.test_runtime_inputs import SAME, Failing, WithArray
from tests.test_runtime_precisions import flushed, needs_denormals

RECIPES = {
    "vector": Recipe(shape=(4,), names=("speed", "pressure", "heat", "vibration")),
    "bytes": Recipe(shape=(5, 3), layout="HW", dtype="uint8", shift=0.0, scale=255.0),
    "colour": Recipe(shape=(3, 4, 2), layout="CHW"),
    "fixed batch": Recipe(batch=4),
    "fixed batch bytes": Recipe(shape=(3, 3), layout="HW", dtype="uint8", shift=0.0, scale=255.0, batch=3),
}
GOLDEN = {path.name: path for path in sorted((Path(__file__).parents[1] / "export" / "golden").iterdir())}
OPERATIONS = ("encode", "decode", "reconstruct", "score", "predict")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: (folder / name, make_bundle(folder / name, recipe)) for name, recipe in RECIPES.items()}


def load(path: Path, **arguments: Any) -> Autoencoder:
    return edgeae.load(path, device="cpu", **arguments)


def load_for_many(path: Path, **arguments: Any) -> Autoencoder:
    """Load a model whose every call goes the way of many rows."""
    model = load(path, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound, "FEW_ROWS", 0)
        for name in ("encode", "decode", "reconstruct", "score"):
            model._stock(name)
    return model


def source(model: Autoencoder, operation: str, n: int, seed: int = 0) -> Array:
    """Draw rows, or latents, that each have a result of their own."""
    rng = np.random.default_rng(seed)
    if operation == "decode":
        return rng.normal(0, 1, (n, model.latent_dim)).astype(np.float32)
    rows = rng.uniform(0, 255, (n, *model.input_shape))
    return rows.astype(model.manifest.input.dtype)


def outcome(call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[str, Any]:
    """Return the bytes of a result, or the class and the message of an error."""
    try:
        return "result", [np.asarray(part).tobytes() for part in call(*arguments, **named)]
    except Exception as problem:
        return type(problem).__name__, str(problem)


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", GOLDEN)
def test_few_rows_have_the_bits_that_they_have_the_other_way(name: str, operation: str) -> None:
    few, many = load(GOLDEN[name]), load_for_many(GOLDEN[name])
    for n in (1, 2, 3, 1, 2, 3):
        rows = source(few, operation, n, seed=n)
        result, wanted = getattr(few, operation)(rows), getattr(many, operation)(rows)
        assert result.dtype == wanted.dtype
        np.testing.assert_array_equal(result, wanted)
    assert not any(stock.most for stock in many._spares.values())


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("name", RECIPES)
def test_rows_in_any_form_give_the_same_bits(bundles: dict[str, tuple[Path, Network]], name: str, kind: str) -> None:
    if kind.startswith("data frame") and name != "vector":
        pytest.skip("data frames have one column for each value of a vector")
    path, network = bundles[name]
    model = load(path)
    for operation in ("score", "reconstruct"):
        call = getattr(model, operation)
        for n in (1, 3):
            rows = network.rows(n, seed=n)
            np.testing.assert_array_equal(call(SAME[kind](rows)), call(rows))


WRONG: dict[str, Callable[[Array], object]] = {
    "a row": lambda rows: rows[0],
    "text": lambda rows: ["a"] * len(rows),
    "other shape": lambda rows: rows[..., :-1],
    "iterator": iter,
    "failing": lambda rows: Failing(),
    "masked": lambda rows: np.ma.masked_equal(rows, rows.reshape(-1)[3]),
    "half": lambda rows: rows + 0.5,
    "negative": lambda rows: rows.astype(np.float64) - 300,
    "nan": lambda rows: spoilt(rows, np.nan),
    "infinite": lambda rows: spoilt(rows, np.inf),
    "infinite as float64": lambda rows: spoilt(rows.astype(np.float64), -np.inf),
    "beyond float32": lambda rows: spoilt(rows.astype(np.float64), 1e39),
    "list with nan": lambda rows: spoilt(rows.astype(np.float64), np.nan).tolist(),
    "all nan": lambda rows: np.full(rows.shape, np.nan),
    "huge": lambda rows: spoilt(rows, 3e38),
    "empty": lambda rows: rows[:0],
}


def spoilt(rows: Array, value: float) -> Array:
    """Return the rows with a value in the last one."""
    changed = rows.copy() if rows.dtype.kind == "f" else rows.astype(np.float32)
    changed.reshape(-1)[-2] = value
    return changed


@pytest.mark.parametrize("flag", ["raise", "flag"])
@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", RECIPES)
def test_wrong_rows_come_to_the_same_as_the_other_way(
    bundles: dict[str, tuple[Path, Network]], name: str, kind: str, flag: str
) -> None:
    path, network = bundles[name]
    few, many = load(path, on_invalid=flag), load_for_many(path, on_invalid=flag)
    for operation in ("score", "encode", "reconstruct", "predict"):
        call, other = getattr(few, operation), getattr(many, operation)
        for n in (1, 3):
            rows = network.rows(n, seed=n)
            for _ in range(2):
                assert outcome(call, WRONG[kind](rows)) == outcome(other, WRONG[kind](rows))
                np.testing.assert_array_equal(call(rows), other(rows))
    batches = [network.rows(2), network.rows(1), WRONG[kind](network.rows(3))]
    assert outcome(few.stream, "encode", batches) == outcome(many.stream, "encode", batches)


def test_results_go_where_out_says_and_nowhere_where_it_is_wrong(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    few, many = load(path), load_for_many(path)
    rows = network.rows(2)
    out = np.zeros((2, 4), np.float32)
    assert few.reconstruct(rows, out=out) is out
    np.testing.assert_array_equal(out, few.reconstruct(rows))
    kept = out.copy()
    few.reconstruct(network.rows(2, seed=5))
    np.testing.assert_array_equal(out, kept)
    for wrong in (out[:1], out.astype(np.float64), np.zeros((4, 2), np.float32).T, "out", rows):
        found = outcome(few.reconstruct, rows, out=wrong)
        assert found == outcome(many.reconstruct, rows, out=wrong)
        assert found[0] == "InputError"
    with pytest.raises(EdgeaeError, match="row 1, feature 'heat' is nan"):
        few.reconstruct(spoilt(rows, np.nan), out=out)
    np.testing.assert_array_equal(out, kept)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_results_stay_as_they_are(bundles: dict[str, tuple[Path, Network]], operation: str) -> None:
    for path, _ in bundles.values():
        model = load(path)
        call = getattr(model, operation)
        rows = source(model, operation, 40)
        results = [call(rows[place : place + n]) for n in (1, 2, 3) for place in range(0, 36, n)]
        kept = [result.copy() for result in results]
        assert len({result.ctypes.data for result in results}) == len(results)
        results[0][...] = 0  # the caller's own
        results[0][...] = kept[0]
        for n in (1, 2, 3):
            call(rows[-n:])
        for result, wanted in zip(results, kept, strict=True):
            np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("name", RECIPES)
def test_threads_that_call_at_once_get_the_results_of_their_own_rows(
    bundles: dict[str, tuple[Path, Network]], name: str
) -> None:
    model = load(bundles[name][0])
    sizes = (1, 2, 1, 3)

    def calls(seed: int) -> list[Array]:
        found = []
        for turn in range(60):
            operation, n = OPERATIONS[(turn + seed) % len(OPERATIONS)], sizes[turn % len(sizes)]
            found.append(getattr(model, operation)(source(model, operation, n, seed=100 * seed + turn)))
        return found

    wanted = [calls(seed) for seed in range(8)]
    for results, alone in zip(in_threads(8, calls), wanted, strict=True):
        for result, one in zip(results, alone, strict=True):
            np.testing.assert_array_equal(result, one)


def test_threads_in_a_run_at_once_have_buffers_of_their_own(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["vector"]
    rows, run, meeting = network.rows(5), Binding.run, threading.Barrier(1)

    def meet(binding: Binding) -> None:
        meeting.wait(30)
        run(binding)

    monkeypatch.setattr(Binding, "run", meet)
    model = load(path)
    wanted = [model.score(rows[n : n + 1]) for n in range(5)]
    meeting = threading.Barrier(5)
    for _ in range(3):
        np.testing.assert_array_equal(in_threads(5, lambda n: model.score(rows[n : n + 1])), wanted)
    meeting = threading.Barrier(1)
    for row in rows:
        model.score(row[None])
    # as many as were in a run at once, however many calls there were
    assert [len(idle) for idle in model._spares["score"]._idle[:3]] == [0, 5, 0]


def test_a_call_within_a_call_has_its_own(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    model = load(path)
    inner, outer = network.rows(1, seed=1), network.rows(1, seed=2)
    wanted = model.score(outer), model.score(inner)
    found = []

    class Calling(WithArray):
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            found.append(model.score(inner))
            return self.array

    result = model.score(Calling(outer))
    np.testing.assert_array_equal([result, found[0]], wanted)


def test_only_what_fits_into_little_memory_stays_bound(tmp_path: Path) -> None:
    most = {}
    for name, changes in {
        "narrow": {"shape": (8,)},
        "wide": {"shape": (2**11,)},
        "huge": {"shape": (2**16 + 1,), "latent_dim": 1},
        "narrow, fixed": {"shape": (8,), "batch": 5},
        "wide, fixed": {"shape": (2**11,), "batch": 33},
    }.items():
        make_bundle(tmp_path / name, **changes)  # type: ignore[arg-type]
        model = load(tmp_path / name)
        for n in (1, 70):
            rows = source(model, "score", n)
            assert np.array_equal(model.score(rows), load_for_many(tmp_path / name).score(rows))
        model.decode(source(model, "decode", 1))
        assert model._spares["decode"].most == model._spares["score"].most  # rows that come out count as well
        most[name] = model._spares["score"].most
    assert most == {"narrow": 64, "wide": 32, "huge": 0, "narrow, fixed": 5, "wide, fixed": 0}
    one_by_one = load(tmp_path / "narrow", options={"chunk": 1})
    one_by_one.score(source(one_by_one, "score", 2))
    assert one_by_one._spares["score"].most == 1


# What may go wrong


def test_a_run_that_fails_is_forgotten(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["vector"]
    model = load(path)
    rows = network.rows(2)
    wanted = model.score(rows)

    def fail(kind: type[Exception]) -> Callable[[Binding], None]:
        def run(binding: Binding) -> None:
            raise kind("no luck")

        return run

    for raised, expected in ((DeviceError, DeviceError), (MemoryError, OutOfMemoryError)):
        with monkeypatch.context() as patch:
            patch.setattr(Binding, "run", fail(raised))
            model._spares.clear()  # the function that runs was looked up before
            with pytest.raises(expected, match="no luck"):
                model.score(rows)
        assert not any(model._spares["score"]._idle)
        np.testing.assert_array_equal(model.score(rows), wanted)


def test_closing_frees_what_was_bound_and_later_calls_say_so(bundles: dict[str, tuple[Path, Network]]) -> None:
    path, network = bundles["vector"]
    model = load(path)
    for operation in OPERATIONS:
        getattr(model, operation)(source(model, operation, 1))
    assert any(model._spares["score"]._idle)
    alive = [weakref.ref(model._graph(role).session) for role in ("encoder", "decoder", "scorer")]
    model.close()
    gc.collect()
    assert [session() for session in alive] == [None, None, None]
    for operation in OPERATIONS:
        with pytest.raises(EdgeaeError, match="was closed; load it again"):
            getattr(model, operation)(network.rows(1))


def test_a_call_that_is_under_way_survives_closing(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["vector"]
    model = load(path)
    rows = network.rows(1)
    wanted = model.score(rows)
    alive = weakref.ref(model._graph("scorer").session)
    run = Binding.run

    def close_first(binding: Binding) -> None:
        model.close()
        run(binding)

    with monkeypatch.context() as patch:
        patch.setattr(Binding, "run", close_first)
        model._spares.clear()
        np.testing.assert_array_equal(model.score(rows), wanted)
    with pytest.raises(EdgeaeError, match="was closed"):
        model.score(rows)
    gc.collect()
    assert alive() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_gets_an_error(
    bundles: dict[str, tuple[Path, Network]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = bundles["vector"]
    model = load(path)
    model.score(network.rows(1))
    monkeypatch.setattr("edgeae.runtime.process.current", -1)  # what a fork does
    with pytest.raises(EdgeaeError, match="before the process forked"):
        model.score(network.rows(1))


@needs_denormals
@pytest.mark.parametrize("name", ["vector", "colour"])
def test_denormals_are_zeros_however_small_the_network(
    bundles: dict[str, tuple[Path, Network]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(bundles[name][0])
    model.prepare()
    seen, run = [], Binding.run

    def look(binding: Binding) -> None:
        seen.append(flushed())
        run(binding)

    monkeypatch.setattr(Binding, "run", look)
    for operation in ("encode", "decode", "reconstruct", "score"):
        getattr(model, operation)(source(model, operation, 1))
        with pytest.raises(EdgeaeError):
            getattr(model, operation)(spoilt(source(model, operation, 1), np.nan))
        assert not flushed()
    assert len(seen) >= 5 and all(seen)
