"""Bound models: the same results as the model's own, misuse noticed, bad rows contained."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeae
from edgeae.errors import EdgeaeError, InputError
from edgeae.runtime import Autoencoder
from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.session import Binding
from tests.bundles import Array, Network, Recipe, assert_close, make_bundle

RECIPES = {
    "vector": Recipe(),
    "bytes": Recipe(shape=(5, 3), layout="HW", dtype="uint8", shift=0.0, scale=255.0),
    "colour": Recipe(shape=(3, 4, 2), layout="CHW"),
    "fixed batch": Recipe(batch=4),
}
OPERATIONS = ("encode", "decode", "reconstruct", "score")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: (folder / name, make_bundle(folder / name, recipe)) for name, recipe in RECIPES.items()}


@pytest.fixture
def vector(bundles: dict[str, tuple[Path, Network]]) -> tuple[Autoencoder, Network]:
    path, network = bundles["vector"]
    return load(path), network


def load(path: Path, **arguments: Any) -> Autoencoder:
    return edgeae.load(path, device="cpu", **arguments)


def source(network: Network, operation: str, n: int) -> Array:
    rows = network.rows(n)
    return network.encode(rows).astype(np.float32) if operation == "decode" else rows


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_results_are_those_of_the_network(
    bundles: dict[str, tuple[Path, Network]], name: str, operation: str, batch: int
) -> None:
    path, network = bundles[name]
    call = getattr(load(path).bind(batch), operation)
    rows = source(network, operation, 3 * batch)
    wanted = getattr(network, operation)(rows)
    results = [call(rows[start : start + batch]) for start in range(0, len(rows), batch)]
    assert all(result.dtype == np.float32 for result in results)
    assert_close(
        np.concatenate(results), wanted, network.recipe.scale if operation in ("decode", "reconstruct") else 1.0
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", RECIPES)
def test_a_row_gives_the_result_of_a_row(bundles: dict[str, tuple[Path, Network]], name: str, operation: str) -> None:
    path, network = bundles[name]
    call = getattr(load(path).bind(), operation)
    rows = source(network, operation, 3)
    for row in rows:
        result, of_rows = call(row), call(row[None])
        assert isinstance(result, float if operation == "score" else np.ndarray)
        np.testing.assert_array_equal(result, of_rows[0])
        np.testing.assert_array_equal(result, call(row.tolist()))
        np.testing.assert_array_equal(result, call(row.astype(np.float64)))


def test_results_are_fresh(vector: tuple[Autoencoder, Network]) -> None:
    model, network = vector
    one, two = network.rows(2)
    bound = model.bind()
    first = bound.encode(one)
    kept = first.copy()
    bound.encode(two)
    np.testing.assert_array_equal(first, kept)


def test_predictions_use_the_threshold(vector: tuple[Autoencoder, Network]) -> None:
    model, network = vector
    rows = network.rows(40)
    one, many = model.bind(), model.bind(40)
    assert [one.predict(row) for row in rows] == model.predict(rows).tolist()
    np.testing.assert_array_equal(many.predict(rows), model.predict(rows))
    assert {type(one.predict(row)) for row in rows} == {bool}


@pytest.mark.parametrize(
    ("batch", "rows", "message"),
    [
        (1, np.zeros(5), r"expected float32 \[n, 12\], got float64 \[5\]"),
        (1, np.zeros((2, 12)), "2 rows for a model bound to 1"),
        (1, np.zeros((0, 12)), "0 rows for a model bound to 1"),
        (3, np.zeros(12), r"for a single row pass x\[None\]"),
        (3, np.zeros((2, 12)), "2 rows for a model bound to 3"),
        (1, ["a"] * 12, "got text"),
        (1, np.full(12, np.nan, np.float32), "row 0, value 0 is nan"),
        (1, np.full((1, 12), np.inf), "row 0, value 0 is inf"),
        (1, np.full(12, 1e39), "beyond the range of float32"),
        (1, np.ma.masked_equal(np.zeros(12, np.float32), 0), "masked values"),
        (3, np.where(np.arange(36).reshape(3, 12) == 20, np.inf, 0).astype(np.float32), "row 1, value 8 is inf"),
    ],
)
@pytest.mark.parametrize("operation", ["score", "encode"])
def test_wrong_rows_are_refused_and_the_next_call_works(
    vector: tuple[Autoencoder, Network], operation: str, batch: int, rows: object, message: str
) -> None:
    model, network = vector
    bound = model.bind(batch)
    good = network.rows(batch)
    before = getattr(bound, operation)(good)
    with pytest.raises(InputError, match=message):
        getattr(bound, operation)(rows)
    np.testing.assert_array_equal(getattr(bound, operation)(good), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("name", ["vector", "colour", "fixed batch"])
def test_flagged_rows_are_nan_and_others_keep_their_bits(
    bundles: dict[str, tuple[Path, Network]], name: str, value: float
) -> None:
    path, network = bundles[name]
    model = load(path, on_invalid="flag")
    good = network.rows(4)
    place = (2, *(0 for _ in network.recipe.shape))
    for dtype in (np.float32, np.float64):
        bad = good.astype(dtype)
        with np.errstate(over="ignore"):
            bad[place] = value
        one, many = model.bind(), model.bind(4)
        for operation in ("score", "encode", "reconstruct"):
            clean = getattr(many, operation)(good)
            flagged = getattr(many, operation)(bad)
            assert np.isnan(flagged[2]).all()
            np.testing.assert_array_equal(np.delete(flagged, 2, axis=0), np.delete(clean, 2, axis=0))
            assert np.isnan(getattr(one, operation)(bad[2])).all()
            np.testing.assert_array_equal(getattr(one, operation)(bad[1]), getattr(one, operation)(good[1]))
        assert one.predict(bad[2]) is True
        assert np.asarray(many.predict(bad))[2]


def test_large_but_finite_values_are_no_error(vector: tuple[Autoencoder, Network]) -> None:
    bound = vector[0].bind()
    huge = np.full(12, 3e38, np.float32)
    assert bound.score(huge) == np.inf
    assert bound.predict(huge) is True
    assert np.isfinite(bound.encode(np.full(12, 1e30, np.float32))).all()


def test_a_second_thread_is_told_that_the_first_is_in_a_call(vector: tuple[Autoencoder, Network]) -> None:
    model, network = vector
    bound = model.bind()
    row: Array = network.rows(1)[0]
    inside, leave = threading.Event(), threading.Event()
    results: list[object] = []

    class Slow:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
            inside.set()
            leave.wait(30)
            return row

    first = threading.Thread(target=lambda: results.append(bound.score(Slow())))
    first.start()
    assert inside.wait(30)
    for operation in (bound.score, bound.encode):
        with pytest.raises(EdgeaeError, match="while another thread is in a call"):
            operation(row)
    leave.set()
    first.join()
    assert results == [bound.score(row)]


def test_bound_objects_of_several_threads_do_not_mix(vector: tuple[Autoencoder, Network]) -> None:
    model, network = vector
    rows = network.rows(200)
    wanted = [model.bind().score(row) for row in rows]
    results: dict[int, list[float]] = {}

    def work(index: int) -> None:
        bound = model.bind()
        results[index] = [bound.score(row) for _ in range(5) for row in rows]  # type: ignore[misc]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(results[index] == wanted * 5 for index in range(4))


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, None])
def test_a_batch_is_a_whole_number(vector: tuple[Autoencoder, Network], batch: Any) -> None:
    with pytest.raises(InputError, match="batch must be a whole number"):
        vector[0].bind(batch)


def test_a_fixed_batch_is_the_most(bundles: dict[str, tuple[Path, Network]]) -> None:
    with pytest.raises(InputError, match="fixed batch of 4"):
        load(bundles["fixed batch"][0]).bind(5)
    assert repr(load(bundles["fixed batch"][0]).bind(2)) == "Bound(batch=2)"


def test_what_is_bound_for_good_lives_as_long_as_the_binding(bundles: dict[str, tuple[Path, Network]]) -> None:
    """ONNX Runtime has only the addresses: the latents between encoder and decoder were once freed under it."""
    path, _ = bundles["vector"]
    model = load(path)
    model.prepare()
    binding = Binding(model._graph("encoder"))
    source, target = np.zeros((1, *model.input_shape), np.float32), np.zeros((1, model.latent_dim), np.float32)
    binding.bind_for_good(source, target)
    alive = weakref.ref(source), weakref.ref(target)
    run = binding.run
    del source, target, binding
    gc.collect()
    assert alive[0]() is not None and alive[1]() is not None
    run()


@pytest.mark.parametrize(("slow", "switched"), [(0.0, True), (1e9, False)])
def test_denormals_are_switched_off_once_rows_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: float, switched: bool
) -> None:
    entered: list[int] = []

    class Counted(DenormalsAsZero):
        def __enter__(self) -> None:
            entered.append(1)
            super().__enter__()

    monkeypatch.setattr("edgeae.runtime.bound.DenormalsAsZero", Counted)
    monkeypatch.setattr("edgeae.runtime.bound.AVAILABLE", True)
    monkeypatch.setattr("edgeae.runtime.bound.SLOW", slow)
    network = make_bundle(tmp_path / "b", shape=(70,))
    x = network.rows(1)[0]
    one = edgeae.load(tmp_path / "b", device="cpu").bind()
    scores = {one.score(x) for _ in range(20)}
    assert bool(entered) is switched
    assert len(entered) < 20  # not before they were slow
    assert scores == {one.score(x)}
