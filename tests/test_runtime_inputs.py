"""What may be passed as rows: array-likes that mean the same give the same, all else gets told what is wrong."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeae
from edgeae.errors import InputError
from edgeae.runtime import Autoencoder
from edgeae.runtime.inputs import RowReader, RowSpec
from tests.bundles import Array, Network, Recipe, make_bundle

NAMES = ("speed", "pressure", "heat", "vibration")
RECIPES = {
    "vector": Recipe(shape=(4,), latent_dim=3, names=NAMES),
    "image": Recipe(shape=(5, 3), layout="HW", shift=0.0, scale=255.0),
    "bytes": Recipe(shape=(5, 3), layout="HW", dtype="uint8", shift=0.0, scale=255.0),
    "colour": Recipe(shape=(3, 5, 4), layout="CHW"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Autoencoder, Network]]:
    folder = tmp_path_factory.mktemp("bundles")
    made = {}
    for name, recipe in RECIPES.items():
        network = make_bundle(folder / name, recipe)
        made[name] = edgeae.load(folder / name, device="cpu", options={"chunk": 4, "workers": 2}), network
    return made


class WithArray:
    """An object that NumPy knows how to read, as data frames and tensors are."""

    def __init__(self, array: Array, columns: list[Any] | None = None) -> None:
        self.array = array
        if columns is not None:
            self.columns = columns

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.array


class WithDlpack:
    """An object that only speaks DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **arguments: Any) -> Any:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class Failing:
    """An object that raises what nobody expects when it is read."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise KeyError("no such thing")


class Subclass(np.ndarray[Any, Any]):
    """An array with manners of its own."""


def unaligned(rows: Array) -> Array:
    data = bytearray(1) + bytearray(rows.tobytes())
    return np.frombuffer(data, rows.dtype, offset=1).reshape(rows.shape)


def mapped(rows: Array, order: Literal["C", "F"] = "C") -> Array:
    """Return the rows as a memory map of a file that has no name any more."""
    with tempfile.TemporaryFile() as file:
        made: Array = np.memmap(file, rows.dtype, "w+", shape=rows.shape, order=order)
        made[...] = rows
        return made


def torch_tensor(rows: Array) -> Any:
    return pytest.importorskip("torch").from_numpy(rows.copy())


def read_only(rows: Array) -> Array:
    copy = rows.copy()
    copy.flags.writeable = False
    return copy


# What means the same, whatever the rows' type
SAME: dict[str, Callable[[Array], object]] = {
    "list": lambda rows: rows.tolist(),
    "list of rows": list,
    "tuples": lambda rows: tuple(map(tuple, rows.tolist())),
    "Fortran order": np.asfortranarray,
    "every other row": lambda rows: np.repeat(rows, 2, axis=0)[::2],
    "reversed": lambda rows: rows[::-1].copy()[::-1],
    "transposed": lambda rows: rows.T.copy().T,
    "all reversed": lambda rows: np.flip(np.flip(rows).copy()),
    "every third value": lambda rows: np.repeat(rows, 3, axis=-1)[..., ::3],
    "read-only": read_only,
    "memory-mapped": mapped,
    "memory-mapped, Fortran order": lambda rows: mapped(rows, "F"),
    "memory-mapped, other byte order": lambda rows: mapped(rows.astype(rows.dtype.newbyteorder())),
    "tensor": torch_tensor,
    "transposed tensor": lambda rows: torch_tensor(rows.swapaxes(0, 1)).swapaxes(0, 1),
    "list of tensors": lambda rows: [torch_tensor(row) for row in rows],
    "unaligned": unaligned,
    "other byte order": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "unaligned, other byte order": lambda rows: unaligned(rows.astype(rows.dtype.newbyteorder())),
    "float64": lambda rows: rows.astype(np.float64),
    "long double": lambda rows: rows.astype(np.longdouble),
    "masked, nothing masked": np.ma.array,
    "list of masked, nothing masked": lambda rows: [np.ma.array(row) for row in rows],
    "__array__": WithArray,
    "__dlpack__": WithDlpack,
    "memory view": lambda rows: rows.data,
    "subclass": lambda rows: rows.view(Subclass),
    "data frame": lambda rows: WithArray(rows, list(NAMES)),
    "data frame without names": lambda rows: WithArray(rows, [0, 1, 2, 3]),
}


@pytest.mark.parametrize("kind", SAME)
@pytest.mark.parametrize("name", RECIPES)
def test_the_same_rows_in_another_form_give_the_same_bits(
    models: dict[str, tuple[Autoencoder, Network]], name: str, kind: str
) -> None:
    model, network = models[name]
    rows = network.rows(11)
    np.testing.assert_array_equal(model.score(SAME[kind](rows)), model.score(rows))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_strides_give_the_same_bits(models: dict[str, tuple[Autoencoder, Network]], data: st.DataObject) -> None:
    model, network = models[data.draw(st.sampled_from(["image", "bytes", "colour"]))]
    rows = network.rows(data.draw(st.integers(1, 9)))
    order = data.draw(st.permutations(range(rows.ndim)))
    steps = [data.draw(st.sampled_from([1, -1, 2, 3])) for _ in order]
    # The same values in memory of another axis order, direction and density
    room = np.zeros([side * abs(step) for side, step in zip((rows.shape[axis] for axis in order), steps, strict=True)])
    room = room.astype(rows.dtype)[tuple(slice(None, None, step) for step in steps)]
    view = room.transpose(np.argsort(order))
    view[...] = rows
    np.testing.assert_array_equal(model.reconstruct(view), model.reconstruct(rows))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "int64", "uint64", "float16", ">i4", ">f8"])
def test_whole_numbers_of_any_type(models: dict[str, tuple[Autoencoder, Network]], dtype: str) -> None:
    whole = np.arange(32).reshape(8, 4) % 2
    for name, shape in (("vector", (8, 4)), ("bytes", (2, 5, 3))):
        model, _ = models[name]
        rows = np.resize(whole, shape)
        wanted = model.score(rows.astype(np.float32 if name == "vector" else np.uint8))
        np.testing.assert_array_equal(model.score(rows.astype(dtype)), wanted)


def test_a_broadcast_row_is_scored_as_often_as_it_is_there(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    model, network = models["colour"]
    row = network.rows(1)
    np.testing.assert_array_equal(
        model.score(np.broadcast_to(row, (9, *row.shape[1:]))), np.repeat(model.score(row), 9)
    )


def test_large_but_finite_values_are_no_error(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    model, _ = models["vector"]
    rows = np.full((3, 4), 3e38, np.float32)
    assert not np.isnan(model.encode(rows)).any()
    assert np.isinf(model.score(rows)).all()
    assert model.predict(rows).all()
    assert np.isinf(model.bind().score(rows[0]))


WRONG: list[tuple[str, object, str]] = [
    (
        "vector",
        np.zeros(4, np.float32),
        r"expected float32 \[n, 4\], got float32 \[4\]; for a single row pass x\[None\]",
    ),
    ("vector", np.zeros((2, 5)), r"got float64 \[2, 5\]: 5 values in a row instead of 4"),
    ("vector", np.zeros((2, 2, 2)), r"pass x.reshape\(-1, 4\)"),
    ("vector", 3.0, r"got float64 \[\]"),
    ("vector", np.zeros((0, 5)), "got float64"),
    ("vector", np.zeros(0), r"got float64 \[0\]"),
    ("image", np.zeros((2, 15)), r"pass x.reshape\(-1, 5, 3\)"),
    ("image", np.zeros((2, 3, 5)), "another order than the bundle's HW"),
    ("colour", np.zeros((2, 5, 4, 3)), r"another order than the bundle's CHW \[3, 5, 4\]"),
    ("image", np.zeros((2, 1, 5, 3)), r"pass x.reshape\(-1, 5, 3\)"),
    ("vector", [[1, 2, 3, 4], [1, 2, 3]], "is not an array of"),
    ("vector", [[1, 2, 3, None]], r"Python objects \(mixed types, text or None\)"),
    ("vector", [[1, 2, 3, Fraction(1, 2)]], "Python objects"),
    ("vector", [["1", "2", "3", "4"]], "got text"),
    ("vector", "rows.csv", "got str"),
    ("vector", {"speed": [1.0]}, "got dict"),
    ("vector", None, "Python objects"),
    ("vector", np.zeros((2, 4), complex), "complex numbers"),
    ("vector", np.zeros((2, 4), "datetime64[s]"), "dates"),
    ("vector", np.zeros(2, [("a", "f4")]), "records"),
    ("vector", np.ma.masked_invalid(np.array([[1, 2, 3, np.nan]])), "masked values"),
    ("vector", [np.ma.masked_equal(np.arange(4.0), 2)], "a list of masked arrays; fill their masked values"),
    ("vector", np.array([["a"] * 4], getattr(np.dtypes, "StringDType", lambda: "U1")()), "got text"),
    ("vector", np.zeros((1, 4), "timedelta64[s]"), "time differences"),
    ("vector", np.zeros((1, 4), "V3"), "values that are no NumPy numbers"),
    ("vector", Failing(), "Failing is not an array of .*: 'no such thing'"),
    ("vector", [[10**30, 0, 0, 0]], "Python objects"),
    ("vector", np.full((1, 4), 1e39), "value|feature 'speed' is 1e\\+39, beyond the range of float32"),
    ("vector", np.full((1, 4), np.longdouble("1e4000")), "beyond the range of float32"),
    ("vector", (row for row in np.zeros((2, 4))), r"a generator; for batches of rows use model.stream"),
    ("vector", WithArray(np.zeros((1, 4)), ["speed", "pressure", "heat", "Vibration"]), "'vibration' is missing"),
    ("vector", WithArray(np.zeros((1, 4)), ["heat", "speed", "pressure", "vibration"]), "columns are in another order"),
    ("vector", np.array([[0, 0, 0, 0], [0, 0, np.nan, 0.0]]), "row 1, feature 'heat' is nan; remove or impute"),
    ("vector", np.array([[0, np.inf, 0, 0]], np.float32), "row 0, feature 'pressure' is inf"),
    ("vector", np.array([[0, 0, 0, -1e300]]), r"feature 'vibration' is -1e\+300, beyond the range of float32"),
    ("image", np.where(np.arange(30).reshape(2, 5, 3) == 26, np.nan, 0), r"row 1, value \[3, 2\] is nan"),
    ("bytes", np.full((1, 5, 3), 256), r"value \[0, 0\] is 256; this bundle takes uint8 images"),
    ("bytes", np.full((1, 5, 3), -1), "is -1"),
    ("bytes", np.full((1, 5, 3), 0.5), "is 0.5; .* whole numbers from 0 to 255; do not rescale"),
    ("bytes", np.full((1, 5, 3), np.nan), "is nan"),
]


@pytest.mark.parametrize(("name", "rows", "message"), WRONG)
def test_anything_else_says_what_was_expected_and_what_came(
    models: dict[str, tuple[Autoencoder, Network]], name: str, rows: object, message: str
) -> None:
    model, _ = models[name]
    with pytest.raises(InputError, match=message) as caught:
        model.score(rows)
    assert str(caught.value).startswith("x: ")
    assert "\n" not in str(caught.value)


def test_latents_are_checked_too(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    model, _ = models["vector"]
    with pytest.raises(InputError, match=r"z: expected float32 \[n, 3\], got float64 \[2, 4\]"):
        model.decode(np.zeros((2, 4)))
    with pytest.raises(InputError, match="z: row 0, value 1 is nan"):
        model.decode(np.array([[0, np.nan, 0]]))


def test_the_first_bad_row_is_named_in_a_large_input(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    model, network = models["bytes"]
    rows = network.rows(100).astype(np.int64)
    rows[[90, 41], 2, 1] = 999
    with pytest.raises(InputError, match=r"row 41, value \[2, 1\] is 999"):
        model.encode(rows)


@pytest.fixture(scope="module")
def flagging(tmp_path_factory: pytest.TempPathFactory) -> tuple[Autoencoder, Network]:
    path: Path = tmp_path_factory.mktemp("flagging") / "b"
    network = make_bundle(path, RECIPES["bytes"])
    return edgeae.load(path, device="cpu", on_invalid="flag"), network


def test_flagging_reaches_floats_passed_for_bytes(flagging: tuple[Autoencoder, Network]) -> None:
    model, network = flagging
    good = network.rows(5)
    rows = good.astype(np.float64)
    rows[2, 1, 1] = np.nan
    scores = model.score(rows)
    assert np.isnan(scores[2])
    np.testing.assert_array_equal(np.delete(scores, 2), np.delete(model.score(good), 2))
    rows[3] = 0.5
    with pytest.raises(InputError, match=r"row 3, value \[0, 0\] is 0.5"):
        model.score(rows)


def test_values_beyond_float32_are_flagged_as_well(tmp_path: Path) -> None:
    network = make_bundle(tmp_path / "b", RECIPES["vector"])
    model = edgeae.load(tmp_path / "b", device="cpu", on_invalid="flag")
    rows = network.rows(3).astype(np.float64)
    wanted = model.score(rows)
    rows[1, 0] = 1e39
    np.testing.assert_array_equal(model.score(rows), [wanted[0], np.nan, wanted[2]])


@pytest.mark.parametrize("rows", [np.zeros((5, 2), np.float32), np.zeros((5, 2)), np.zeros((2, 5), np.float32).T])
def test_a_flagged_row_never_reaches_the_graph(rows: Array) -> None:
    rows[3, 1] = np.nan
    spec = RowSpec("x", (2,), np.dtype(np.float32), np.array([7, 8], np.float32))
    block, replaced = RowReader(rows, spec, flag=True).read(2, 5, np.empty((4, 2), np.float32))
    np.testing.assert_array_equal(block, [[0, 0], [7, 8], [0, 0]])
    np.testing.assert_array_equal(replaced, [False, True, False])
    assert np.isnan(rows[3, 1])


# Objects of other libraries


FRAMES: dict[str, Callable[[Any, dict[str, list[float]]], Any]] = {
    "floats": lambda pandas, rows: pandas.DataFrame(rows),
    "integers and floats": lambda pandas, rows: pandas.DataFrame(rows).astype({"heat": "int32", "speed": "float64"}),
    "booleans and floats": lambda pandas, rows: pandas.DataFrame(rows).astype({"heat": "bool"}),
    "nullable": lambda pandas, rows: pandas.DataFrame(rows).convert_dtypes(),
    "nullable floats": lambda pandas, rows: pandas.DataFrame(rows).astype("Float32"),
    "backed by pyarrow": lambda pandas, rows: pandas.DataFrame(rows).convert_dtypes(dtype_backend="pyarrow"),
    "another index": lambda pandas, rows: pandas.DataFrame(rows).set_index(pandas.Index([9, 8, 7])),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_data_frames_of_numbers_of_any_kind(models: dict[str, tuple[Autoencoder, Network]], kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    if "pyarrow" in kind:
        pytest.importorskip("pyarrow")
    model, _ = models["vector"]
    rows = {"speed": [0.5, 1.5, 2.5], "pressure": [1.25, 0.0, -4.0], "heat": [1.0, 0.0, 1.0], "vibration": [3.0, 4, 5]}
    values = np.column_stack(list(rows.values())).astype(np.float32)
    made = FRAMES[kind](pandas, rows)
    np.testing.assert_array_equal(model.score(made), model.score(values))
    np.testing.assert_array_equal(model.bind().score(made.iloc[:1]), model.score(values)[:1])
    if kind != "booleans and floats":  # of those pandas makes objects
        np.testing.assert_array_equal(model.bind().score(made.iloc[0]), model.score(values)[0])


def test_data_frames_of_anything_else_name_the_column(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    pandas = pytest.importorskip("pandas")
    model, _ = models["vector"]
    good = {"speed": [1.0], "pressure": [1.0], "heat": [1.0], "vibration": [True]}
    for wrong in ({"heat": ["1.5"]}, {"heat": pandas.to_datetime(["2020-01-01"])}, {"heat": [None]}, {"heat": [1j]}):
        with pytest.raises(InputError, match=r"x: column 'heat' is of the type .*; expected numbers"):
            model.score(pandas.DataFrame(good | wrong))
    missing = pandas.DataFrame(good).astype({"heat": "Float64"})
    missing.loc[0, "heat"] = pandas.NA
    with pytest.raises(InputError, match=r"feature 'heat' is nan|NA"):
        model.score(missing)
    with pytest.raises(InputError, match=r"is of the type (object|str)"):
        model.bind().score(pandas.Series(["a", "b", "c", "d"]))


def test_tensors_that_numpy_cannot_read_say_what_to_do(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    torch = pytest.importorskip("torch")
    model, _ = models["vector"]
    for tensor, message in (
        (torch.zeros(2, 4, requires_grad=True), r"requires grad.*detach"),
        (torch.zeros(2, 4, dtype=torch.bfloat16), "BFloat16"),
        (torch.zeros(2, 4, device="meta"), "meta"),
        (torch.zeros(2, 4).to_sparse(), "to_dense"),
        (torch.zeros(2, 4, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(2, 5), r"got float32 \[2, 5\]: 5 values in a row instead of 4"),
    ):
        with pytest.raises(InputError, match=f"^x: .*{message}"):
            model.score(tensor)
    expanded = torch.ones(1, 4).expand(7, 4)
    np.testing.assert_array_equal(model.score(expanded), model.score(np.ones((7, 4))))


def test_neither_torch_nor_pandas_is_imported_for_their_objects(tmp_path: Path) -> None:
    make_bundle(tmp_path / "b", RECIPES["vector"])
    code = f"""
import sys
import numpy as np
import edgeae
class WithArray:
    dtypes = [np.dtype("float32")] * 4
    columns = {NAMES!r}
    def __array__(self, dtype=None, copy=None):
        return np.zeros((2, 4), object)
    def astype(self, dtype):
        return np.zeros((2, 4), dtype)
model = edgeae.load(sys.argv[1], device="cpu")
model.score(WithArray()), model.score(np.ma.zeros((2, 4))), model.score([[0] * 4])
sys.stdout.write(str(sorted({{"torch", "pandas", "pyarrow", "onnx"}} & set(sys.modules))))
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "b")]
    environment = {"PYTHONPATH": str(Path(edgeae.__file__).parents[1])}
    found = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert (found.stdout, found.stderr) == ("[]", "")


# Whose memory it is


@pytest.mark.parametrize("operation", ["encode", "decode", "reconstruct", "score", "predict", "stream"])
@pytest.mark.parametrize("name", RECIPES)
def test_results_are_the_callers_and_inputs_are_left_alone(
    models: dict[str, tuple[Autoencoder, Network]], name: str, operation: str
) -> None:
    model, network = models[name]
    source = network.rows(9)
    if operation == "decode":
        source = model.encode(source)
    before = source.copy()

    def call() -> Array:
        if operation == "stream":
            return next(model.stream("encode", [source]))
        result: Array = getattr(model, operation)(source)
        return result

    first = call()
    kept = first.copy()
    assert first.flags.writeable and not np.may_share_memory(first, source)
    second = call()
    second[...] = 0
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(source, before)
    source[...] = 0  # what was computed does not follow
    np.testing.assert_array_equal(first, kept)
    source[...] = before
    np.testing.assert_array_equal(call(), kept)


@pytest.mark.parametrize("batch", [1, 3])
def test_results_of_a_bound_model_are_the_callers_too(
    models: dict[str, tuple[Autoencoder, Network]], batch: int
) -> None:
    for model, network in models.values():
        bound = model.bind(batch)
        rows = network.rows(2 * batch)
        one, two = (rows[0], rows[1]) if batch == 1 else (rows[:batch], rows[batch:])
        for call in (bound.encode, bound.reconstruct, bound.score):
            first = call(one)
            kept = np.array(first)
            if isinstance(first, np.ndarray):
                assert first.flags.writeable
                assert not np.may_share_memory(first, one)
            second = call(two)
            np.testing.assert_array_equal(first, kept)
            if isinstance(second, np.ndarray):
                second[...] = 7
            np.testing.assert_array_equal(call(one), kept)
        changed = one.copy()
        result = bound.score(changed)
        changed[...] = 0
        assert np.array_equal(result, bound.score(one))


def test_results_must_not_be_written_over_the_rows(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    model, network = models["vector"]
    room = np.zeros((20, 4), np.float32)
    rows = room[:10]
    rows[...] = network.rows(10)
    before = rows.copy()
    for operation, out in (("reconstruct", rows), ("score", room.reshape(-1)[:10]), ("reconstruct", room[5:15])):
        with pytest.raises(InputError, match="out: lies in the memory of x; pass an array of its own"):
            getattr(model, operation)(rows, out=out)
    np.testing.assert_array_equal(rows, before)
    assert model.reconstruct(rows, out=room[10:]) is not None


def test_a_callers_settings_for_arithmetic_errors_change_nothing(
    models: dict[str, tuple[Autoencoder, Network]],
) -> None:
    model, _ = models["vector"]
    rows = np.array([[1e-300, 1e30, -3e38, 1.0]] * 9)
    with np.errstate(all="raise"):
        for each in (rows, rows.astype(">f8"), np.asfortranarray(rows)):
            scores = model.score(each)
            assert np.isinf(scores).all()
            assert np.isinf(model.bind(9).score(each)).all()
        with pytest.raises(InputError, match="beyond the range of float32"):
            model.score(rows * 10)
        with pytest.raises(InputError, match="beyond the range of float32"):
            model.bind(9).encode(rows * 10)


def test_rows_are_read_by_threads_without_a_lock_on_the_array(models: dict[str, tuple[Autoencoder, Network]]) -> None:
    """Several threads may read one array, of any form, at once."""
    model, network = models["colour"]
    rows = network.rows(60)
    forms = [rows, np.asfortranarray(rows), rows.astype(">f8"), unaligned(rows)]
    wanted = model.score(rows)
    wrong: list[int] = []

    def work(index: int) -> None:
        results = [model.score(forms[index]) for _ in range(10)]
        wrong.extend(index for result in results if not np.array_equal(result, wanted))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(forms))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
