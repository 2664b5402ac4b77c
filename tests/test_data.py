"""`load_data` on arrays, .npy and .npz files; the Dataset itself; the border to other packages."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeae.bundle.manifest import Input, Layout
from edgeae.data import Dataset, describe_dataset, digest_rows, load_data, load_rows, split_rows
from edgeae.errors import InputError

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("array", "dtype", "layout"),
    [
        (ROWS, "float32", "vector"),
        (ROWS.astype(np.float64), "float32", "vector"),
        (ROWS.astype(">f4"), "float32", "vector"),
        (ROWS.astype(np.float16), "float32", "vector"),
        (ROWS.astype(np.int64), "float32", "vector"),
        (ROWS.astype(np.uint8), "uint8", "vector"),
        (ROWS > 3, "uint8", "vector"),
        (np.asfortranarray(ROWS), "float32", "vector"),
        (ROWS.tolist(), "float32", "vector"),
        (np.zeros((2, 5, 6), np.uint8), "uint8", "HW"),
        (np.zeros((2, 5, 6, 3), np.uint8), "uint8", "HWC"),
        (np.zeros((2, 1, 5, 6)), "float32", "CHW"),
    ],
)
def test_an_array_becomes_rows_of_the_same_values(array: Any, dtype: str, layout: Layout) -> None:
    data = load_data(array)
    assert data.x.dtype == dtype
    assert data.x.dtype.isnative
    assert data.x.flags.c_contiguous
    assert data.layout == layout
    assert data.y is None
    np.testing.assert_array_equal(data.x, np.asarray(array).astype(dtype))


def test_rows_that_need_no_change_are_not_copied() -> None:
    assert np.shares_memory(load_data(ROWS).x, ROWS)
    images = np.zeros((2, 3, 3), np.uint8)
    assert np.shares_memory(load_data(images).x, images)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float32(3), "single number"),
        (np.arange(5.0), r"reshape to \(1, 5\)"),
        (np.zeros((0, 4)), "holds no values"),
        ([], "holds no values"),
        (np.zeros((3, 0)), "holds no values"),
        (np.zeros((2, 2), complex), "complex"),
        (np.array([["1", "b"]]), "holds text, for instance 1"),
        (np.array([[1, None]], object), "Python objects"),
        ({"a": 1}, "Python objects"),
        (np.zeros((2, 2), "M8[s]"), "dates"),
        (np.zeros((2, 2), "m8[s]"), "seconds"),
        (np.zeros(2, [("a", float)]), "structured_to_unstructured"),
        (np.ma.masked_equal(ROWS, 3), "filled"),
        ([[1, 2], [3]], "cannot be read as an array"),
        (np.zeros((1, 2, 3, 4, 5)), "5 dimensions"),
        (np.zeros((1, 3, 5, 4)), "ambiguous, channels may be first or last; say --layout"),
        (np.zeros((1, 5, 5, 5)), "no dimension looks like"),
        (np.array([[1.0, 2.0], [3.0, np.inf]]), r"\[1, 1\] is infinite"),
        (np.array([[1.0, -1e39]]), r"\[0, 1\] is -1e\+39, beyond the range of float32"),
        (np.array([[1.0, np.nan]]), r"\[0, 1\] is missing .* --missing mean"),
        (np.array([[[0.0], [np.nan]]], np.float32), r"\[0, 1, 0\] is missing"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_data(array)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "HW"}, "the layout HW needs 3 dimensions"),
        ({"layout": "NCHW"}, "not one of vector"),
        ({"columns": ["a"]}, "--columns is for tables"),
        ({"label_column": "a"}, "--label-column is for tables"),
        ({"feature_names": ["a"]}, "1 feature names for rows of shape"),
        ({"missing": "drop"}, "not one of refuse"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(ROWS, **options)


def test_a_layout_that_is_given_wins() -> None:
    assert load_data(np.zeros((2, 6, 3)), layout="TC").layout == "TC"
    assert load_data(np.zeros((2, 3, 5, 4)), layout="CHW").row_shape == (3, 5, 4)


@pytest.mark.parametrize(("missing", "filled"), [("mean", 4.0), ("median", 3.0), ("zero", 0.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_missing_values_are_filled_from_their_own_column(missing: Any, filled: float, dtype: Any) -> None:
    array = np.array([[1, 10], [np.nan, 20], [3, 30], [8, 40]], dtype)
    data = load_data(array, missing=missing)
    assert data.x[:, 0].tolist() == [1, filled, 3, 8]
    assert data.x[:, 1].tolist() == [10, 20, 30, 40]
    assert np.isnan(array[1, 0]), "the caller's array was changed"


def test_missing_values_can_be_kept_for_a_runtime_that_flags_them() -> None:
    array = np.array([[1, np.nan], [np.inf, 2]])
    np.testing.assert_array_equal(load_data(array, missing="keep").x, array)


def test_a_column_without_any_value_cannot_be_filled() -> None:
    array = np.array([[1, np.nan], [2, np.nan]])
    with pytest.raises(InputError, match=r"column 1 \(counting from 0\) has no value"):
        load_data(array, missing="mean")
    assert load_data(array, missing="zero").x[:, 1].tolist() == [0, 0]


def test_the_place_is_right_beyond_the_first_block() -> None:
    array = np.zeros((3000, 1000), np.float32)
    array[2345, 678] = np.nan
    with pytest.raises(InputError, match=r"\[2345, 678\] is missing"):
        load_data(array)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(name) for name in ("f2", ">f4", "f8", "i1", ">i4", "u2", "u1", "?")]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=4),
    )
)
def test_any_real_array_is_read_or_refused(array: np.ndarray[Any, Any]) -> None:
    with np.errstate(over="ignore"):
        expected = array.astype(np.float32)
    if np.isfinite(expected).all():
        np.testing.assert_array_equal(load_data(array).x.astype(np.float32), expected)
    else:
        with pytest.raises(InputError):
            load_data(array)


def test_npy_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", ROWS)
    data = load_data(tmp_path / "x.npy")
    assert isinstance(data.x.base, np.memmap)
    assert not data.x.flags.writeable
    assert data.source == "x.npy"
    np.testing.assert_array_equal(data.x, ROWS)


@pytest.mark.parametrize("array", [np.asfortranarray(ROWS), ROWS.astype(">f8"), ROWS.astype(np.int16)])
def test_npy_of_another_kind_is_converted(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "x.npy", array)
    data = load_data(str(tmp_path / "x.npy"))
    assert data.x.dtype == np.float32
    assert data.x.flags.c_contiguous
    np.testing.assert_array_equal(data.x, ROWS)


def test_damaged_npy_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    whole = path.read_bytes()
    cases = {
        b"": "is empty",
        whole[:20]: "damaged or cut short",
        whole[:-3]: "damaged or cut short",
        whole + whole: "bytes after its array",
        b"1,2,3\n": "not a NumPy .npy file; write it with numpy.save",
        b"PK\3\4" + whole: "rename it",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            load_data(path)
        assert str(path) in str(caught.value)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    evil = np.array([[Evil(mark)]], object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "b.npz", X=evil)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Evil(mark)))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Evil(mark)))
    for name in ("a.npy", "b.npz", "c.npy", "d.npz"):
        with pytest.raises(InputError):
            load_data(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("arrays", "key", "label_column", "labels"),
    [
        ({"X": ROWS, "y": [0, 1, 0]}, "", None, [0, 1, 0]),
        ({"x": ROWS, "y": [[0], [1], [1]]}, "", None, [0, 1, 1]),
        ({"X": ROWS, "y": [0.0, 1.0, 2.0], "other": ROWS * 2}, "", None, [0, 1, 2]),
        ({"X": ROWS, "y": [True, False, True]}, ":X", None, [1, 0, 1]),
        ({"data": ROWS}, "", None, None),
        ({"data": ROWS, "y": [3, 4, 5]}, "", None, [3, 4, 5]),
        ({"data": ROWS, "target": [3, 4, 5]}, "", "target", [3, 4, 5]),
        ({"x_train": ROWS, "y_train": [7, 8, 9], "x_test": ROWS[:2]}, ":x_train", None, [7, 8, 9]),
        ({"x_train": ROWS[:2], "y_train": [7, 8], "x_test": ROWS}, ":x_test", None, None),
        ({"a": ROWS, "b": ROWS * 2, "y": [1, 2]}, ":a", None, None),
    ],
)
def test_npz_rows_and_labels(tmp_path: Path, arrays: Any, key: str, label_column: str, labels: Any) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    data = load_data(f"{tmp_path}/d.npz{key}", label_column=label_column)
    np.testing.assert_array_equal(data.x, ROWS)
    assert (None if data.y is None else data.y.tolist()) == labels
    assert data.y is None or data.y.dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "key", "label_column", "message"),
    [
        ({"a": ROWS, "b": ROWS}, "", None, r"choose one of its arrays \(a, b\)"),
        ({"X": ROWS}, ":Z", None, "no array 'Z'; its arrays are: X"),
        ({"X": ROWS}, "", "label", "no array 'label'"),
        ({"X": ROWS, "y": [0, 1]}, "", None, "3 rows but 2 labels"),
        ({"X": ROWS, "y": ["a", "b", "c"]}, "", None, "labels are not numbers"),
        ({"X": ROWS, "y": [0, 0.5, 1]}, "", None, r"row 1 \(counting from 0\) has 0.5"),
        ({"X": ROWS, "y": [0, np.nan, 1]}, "", None, "row 1"),
        ({"X": ROWS, "y": np.eye(3)}, "", None, "one whole number per row"),
        ({"X": ROWS, "y": np.array([0, 1, 2**64 - 1], np.uint64)}, "", None, "too large"),
        ({}, "", None, r"choose one of its arrays \(none\)"),
    ],
)
def test_npz_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: Any, key: str, label_column: str, message: str
) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_data(f"{tmp_path}/d.npz{key}", label_column=label_column)


def test_damaged_npz_files_are_refused_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, X=ROWS, y=[1, 2, 3])
    whole = path.read_bytes()
    for content in (whole[:50], whole[:-10], whole[:60] + b"\xff" * 40 + whole[100:], b"PK\3\4", b"\x93NUMPY"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npz"):
            load_data(path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "the path is empty"),
        ("no/such.npy", "no such file"),
        ("mnsit", "did you mean mnist"),
        ("mnist_5k", "did you mean mnist-5k"),
        ("sensors.cvs", r"did you mean sensors\.csv"),
        ("sheet.xlsx", "a spreadsheet; save the sheet .* as 'CSV UTF-8'"),
        (Path("empty.npy"), "is empty"),
    ],
)
def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: Any, source: Any, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sensors.csv").write_text("1,2\n")
    (tmp_path / "sheet.xlsx").write_bytes(b"PK")
    (tmp_path / "empty.npy").touch()
    with pytest.raises(InputError, match=message):
        load_data(source)


def test_a_file_wins_over_a_name_only_with_its_folder(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(load_data("digits")) == 1797
    assert len(load_data(Path("mnist-5k"))) == 5000
    for folder in ("./digits", Path("digits")):
        with pytest.raises(InputError, match="a folder without images"):
            load_data(folder)


def test_a_dataset_passes_through() -> None:
    data = load_data(np.zeros((3, 28, 28), np.uint8))
    assert load_data(data) is data
    assert load_data(data, layout="TC").layout == "TC"
    with pytest.raises(InputError, match="--columns"):
        load_data(data, columns=["a"])


@pytest.mark.parametrize(
    ("x", "y", "layout", "names", "message"),
    [
        (ROWS.astype(float), None, "vector", None, "float32 or uint8"),
        (ROWS, None, "HW", None, "layout HW"),
        (ROWS, None, "XY", None, "not one of"),
        (ROWS[:0], None, "vector", None, "no values"),
        (ROWS, np.array([1, 2]), "vector", None, "3 whole numbers"),
        (ROWS, np.array([1.0, 2.0, 3.0]), "vector", None, "3 whole numbers"),
        (ROWS, None, "vector", ("a",), "feature names"),
    ],
)
def test_a_dataset_refuses_fields_that_do_not_fit(x: Any, y: Any, layout: Any, names: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset(x, y, layout, names)


@pytest.mark.parametrize(
    ("x", "whole"),
    [
        (np.zeros((2, 2), np.uint8), True),
        (np.array([[0, 255]], np.float32), True),
        (np.array([[0, 256]], np.float32), False),
        (np.array([[-1, 2]], np.float32), False),
        (np.array([[0.5, 2]], np.float32), False),
    ],
)
def test_whole_numbers(x: np.ndarray[Any, Any], whole: bool) -> None:
    assert Dataset(x).whole_numbers is whole


@pytest.mark.parametrize(("y", "anomalies"), [(None, False), ([0, 1, 0], True), ([0, 0, 0], True), ([0, 1, 2], False)])
def test_anomaly_labels(y: Any, anomalies: bool) -> None:
    assert Dataset(ROWS, None if y is None else np.array(y)).anomaly_labels is anomalies


def test_descriptions_are_one_line() -> None:
    assert describe_dataset(Dataset(ROWS[:1])) == "1 row of 4 float32 (vector)"
    assert describe_dataset(Dataset(ROWS, np.array([1, 1, 0]))).endswith("2 labelled as anomalies")
    images = Dataset(np.zeros((3, 2, 5, 3), np.uint8), np.array([4, 9, 0]), "HWC")
    assert describe_dataset(images) == "3 rows of 2x5x3 uint8 (HWC), labels 0..9"


@given(st.integers(2, 500), st.floats(0.001, 0.999), st.integers(0, 2**32))
def test_a_split_is_disjoint_complete_and_repeatable(n: int, validation: float, seed: int) -> None:
    train, held_out = split_rows(n, validation, seed)
    assert train.dtype == held_out.dtype == np.int64
    assert len(train) >= 1
    assert len(held_out) >= 1
    assert abs(len(held_out) - n * validation) <= 1
    assert sorted([*train, *held_out]) == list(range(n))
    again = split_rows(n, validation, seed)
    np.testing.assert_array_equal(train, again[0])
    np.testing.assert_array_equal(held_out, again[1])


def test_a_split_is_shuffled_and_depends_on_the_seed() -> None:
    train, _ = split_rows(1000, 0.1, 0)
    assert train.tolist() != sorted(train.tolist())
    assert train.tolist() != split_rows(1000, 0.1, 1)[0].tolist()


@pytest.mark.parametrize(
    ("n", "validation", "seed"), [(1, 0.5, 0), (10, 0.0, 0), (10, 1.0, 0), (10, float("nan"), 0), (10, 0.1, -1)]
)
def test_a_split_that_cannot_be_is_refused(n: int, validation: float, seed: int) -> None:
    with pytest.raises(InputError):
        split_rows(n, validation, seed)


def test_the_digest_is_over_dtype_shape_and_bytes(tmp_path: Path) -> None:
    expected = hashlib.sha256(b"float32 (3, 4)\n" + ROWS.astype("<f4").tobytes()).hexdigest()
    np.save(tmp_path / "x.npy", ROWS)
    variants: list[np.ndarray[Any, Any]] = [
        ROWS,
        np.asfortranarray(ROWS),
        ROWS.astype(">f4"),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
    ]
    assert [digest_rows(x) for x in variants] == [expected] * 4
    others: list[np.ndarray[Any, Any]] = [ROWS.reshape(4, 3), ROWS.astype(np.uint8), ROWS[::-1]]
    assert len({expected, *(digest_rows(x) for x in others)}) == 4
    large = np.random.default_rng(0).normal(size=(3000, 1000)).astype(np.float32)
    assert digest_rows(large) == hashlib.sha256(b"float32 (3000, 1000)\n" + large.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("source", "shape", "layout"),
    [
        (np.zeros((2, 784), np.uint8), (28, 28), "HW"),
        (np.zeros((2, 28, 28), np.uint8), (784,), "vector"),
        (np.zeros((2, 3, 8, 9), np.uint8), (8, 9, 3), "HWC"),
        (np.zeros((2, 8, 9, 3), np.uint8), (3, 8, 9), "CHW"),
        (np.zeros((2, 3, 5, 4), np.uint8), (3, 5, 4), "CHW"),
        (np.zeros((2, 6, 2), np.float32), (6, 2), "TC"),
    ],
)
def test_rows_are_fitted_to_a_bundle(source: Any, shape: tuple[int, ...], layout: Layout) -> None:
    data = load_rows(source, Input(shape, "float32", layout))
    assert (data.row_shape, data.layout, len(data)) == (shape, layout, 2)


def test_channels_are_moved_not_reshaped() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    data = load_rows(image, Input((3, 8, 9), "uint8", "CHW"))
    np.testing.assert_array_equal(data.x, image.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(load_rows(data, Input((8, 9, 3), "uint8", "HWC")).x, image)


def test_rows_that_do_not_fit_a_bundle_are_refused() -> None:
    with pytest.raises(InputError, match=r"the bundle takes rows of shape \(28, 28\) \(HW\)"):
        load_rows(np.zeros((2, 10)), Input((28, 28), "float32", "HW"))
    with pytest.raises(InputError, match="takes uint8"):
        load_rows(np.full((2, 4), 0.5), Input((4,), "uint8", "vector"))
    assert load_rows(ROWS, Input((4,), "uint8", "vector")).x.dtype == np.uint8


def test_a_table_is_matched_to_a_bundle_by_its_column_names(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,b,extra,a\nnoon,2,x,1\n")
    wanted = Input((2,), "float32", "vector", ("a", "b"))
    data = load_rows(tmp_path / "t.csv", wanted)
    assert data.x.tolist() == [[1, 2]]
    assert data.feature_names == ("a", "b")
    (tmp_path / "plain.csv").write_text("5,6\n")
    assert load_rows(tmp_path / "plain.csv", wanted).x.tolist() == [[5, 6]]
    (tmp_path / "other.csv").write_text("a,B\n5,6\n")
    with pytest.raises(InputError, match="no column 'b'; did you mean 'B'"):
        load_rows(tmp_path / "other.csv", wanted)


def test_the_data_folder_needs_numpy_alone(tmp_path: Path) -> None:
    program = f"""
import sys
blocked = {{"torch", "onnx", "onnxruntime", "pandas", "pyarrow", "PIL", "sklearn", "mlxtend", "scipy", "lightning"}}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import numpy as np
from edgeae.data import describe_dataset, fit_normalisation, load_data, normalise
folder = {str(tmp_path)!r}
np.save(folder + "/x.npy", np.eye(3))
open(folder + "/x.csv", "w").write("a,b\\n1,2\\n3,4\\n")
for name in ("x.npy", "x.csv"):
    data = load_data(folder + "/" + name)
    normalise(data.x, fit_normalisation(data.x, "robust", data.layout), data.layout)
    describe_dataset(data)
for name in ("x.parquet", "x.png"):
    open(folder + "/" + name, "w").write("x")
    try:
        load_data(folder + "/" + name)
    except ImportError as problem:
        print(problem)
assert not blocked & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install pyarrow" in done.stdout
    assert "pip install Pillow" in done.stdout
