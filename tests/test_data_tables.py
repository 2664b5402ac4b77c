"""CSV, Parquet and pandas frames: columns, labels, missing values, and what people get wrong."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeae.data import Dataset, load_data
from edgeae.errors import InputError


def read(folder: Path, text: str | bytes, name: str = "t.csv", **options: Any) -> Dataset:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_data(folder / name, **options)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b")),
        ("1,2\n3,4\n", None),
        ("1,2\n3,4", None),
        ("a;b\n1;2\n3;4\n", ("a", "b")),
        ("a\tb\n1\t2\n3\t4\n", ("a", "b")),
        ("a,b\r\n1,2\r\n3,4\r\n", ("a", "b")),
        ("a,b\r1,2\r3,4\r", ("a", "b")),
        ("\n\na,b\n\n1,2\n  \n3,4\n\n", ("a", "b")),
        ("\ufeffa,b\n1,2\n3,4\n", ("a", "b")),
        ('"a","b"\n"1","2"\n"3","4"\n', ("a", "b")),
        ('"a, in \xb0C","b\nc"\n1,2\n3,4\n', ("a, in \xb0C", "b c")),
        ("# a,b\n1,2\n3,4\n", ("a", "b")),
        (" a , b \n 1 , 2 \n 3 , 4 \n", ("a", "b")),
        ("id,2019\n1,2\n3,4\n", ("id", "2019")),
        ("a,b\n+1e0,.2e1\n3.,0.4E+1\n", ("a", "b")),
    ],
)
def test_csv_in_its_many_forms(tmp_path: Path, text: str, names: Any) -> None:
    data = read(tmp_path, text)
    assert data.x.tolist() == [[1, 2], [3, 4]]
    assert data.x.dtype == np.float32
    assert data.feature_names == names
    assert (data.layout, data.source, data.y) == ("vector", "t.csv", None)


def test_csv_gzipped_and_from_standard_input(tmp_path: Path, monkeypatch: Any) -> None:
    text = b"a,b\n1,2\n3,4\n"
    assert read(tmp_path, gzip.compress(text), "t.csv.gz").x.tolist() == [[1, 2], [3, 4]]
    standard_input = io.TextIOWrapper(io.BytesIO(text))
    monkeypatch.setattr(sys, "stdin", standard_input)
    data = load_data("-")
    assert (data.x.tolist(), data.source) == ([[1, 2], [3, 4]], "standard input")
    assert not standard_input.buffer.closed


def test_csv_numbers_are_the_nearest_float32(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 7)) * 10.0 ** np.arange(-20, 15, 5)
    text = "\n".join(",".join(map(repr, row)) for row in values.tolist())
    np.testing.assert_array_equal(read(tmp_path, text).x, values.astype(np.float32))
    quoted = "\n".join(",".join(f'"{value!r}"' for value in row) for row in values.tolist())
    np.testing.assert_array_equal(read(tmp_path, quoted).x, values.astype(np.float32))


def test_csv_of_many_blocks_keeps_order_and_line_numbers(tmp_path: Path) -> None:
    count = 400_000
    lines = [f"{row},{row % 7}" for row in range(count)]
    data = read(tmp_path, "a,b\n" + "\n".join(lines), label_column="b")
    np.testing.assert_array_equal(data.x[:, 0], np.arange(count))
    assert data.y is not None
    np.testing.assert_array_equal(data.y, np.arange(count) % 7)
    lines[345_678] = "x,1"
    with pytest.raises(InputError, match="line 345680, column 'a': 'x' is not a number"):
        read(tmp_path, "a,b\n" + "\n".join(lines))


@pytest.mark.parametrize(
    ("columns", "label_column", "rows", "names", "labels"),
    [
        (None, None, [[1, 2, 0], [3, 4, 1]], ("a", "b", "c"), None),
        (None, "c", [[1, 2], [3, 4]], ("a", "b"), [0, 1]),
        (["b", "a"], None, [[2, 1], [4, 3]], ("b", "a"), None),
        (["b"], "c", [[2], [4]], ("b",), [0, 1]),
        (["-a"], None, [[2, 0], [4, 1]], ("b", "c"), None),
        (["-a"], "c", [[2], [4]], ("b",), [0, 1]),
    ],
)
def test_columns_and_labels(
    tmp_path: Path, columns: Any, label_column: Any, rows: Any, names: Any, labels: Any
) -> None:
    frame = pd.DataFrame({"a": [1, 3], "b": [2.0, 4.0], "c": [False, True]})
    frame.to_parquet(tmp_path / "t.parquet")
    sources: list[Any] = [tmp_path / "t.parquet", frame, tmp_path / "t.csv"]
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,0\n3,4,1\n")
    for source in sources:
        data = load_data(source, columns=columns, label_column=label_column)
        assert data.x.tolist() == rows
        assert data.x.dtype == np.float32
        assert data.feature_names == names
        assert (None if data.y is None else data.y.tolist()) == labels


def test_columns_without_a_header_are_called_by_position(tmp_path: Path) -> None:
    data = read(tmp_path, "5,1,2\n7,3,4\n", label_column="0")
    assert data.x.tolist() == [[1, 2], [3, 4]]
    assert data.y is not None
    assert data.y.tolist() == [5, 7]
    assert data.feature_names is None
    assert load_data(tmp_path / "t.csv", columns=["2", "0"]).x.tolist() == [[2, 5], [4, 7]]
    with pytest.raises(InputError, match="no column 'temp'; it has no header, its columns are 0, 1, 2"):
        load_data(tmp_path / "t.csv", columns=["temp"])
    assert read(tmp_path, "noon,1,2\nnight,3,4\n", columns=["-0"]).x.tolist() == [[1, 2], [3, 4]]


def test_the_numbered_header_of_pandas_is_no_row(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.array([[1.5, 2, 3], [4, 5, 6]]))
    frame.to_csv(tmp_path / "t.csv", index=False)
    data = load_data(tmp_path / "t.csv")
    assert data.x.tolist() == frame.to_numpy().tolist()
    assert data.feature_names is None
    frame.to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="has no name, like the index that pandas writes"):
        load_data(tmp_path / "t.csv")
    assert load_data(tmp_path / "t.csv", columns=["-"]).x.tolist() == frame.to_numpy().tolist()


def test_feature_names_select_columns_or_name_them(tmp_path: Path) -> None:
    data = read(tmp_path, "a,b,c\n1,2,3\n", feature_names=["c", "a"])
    assert (data.x.tolist(), data.feature_names) == ([[3, 1]], ("c", "a"))
    data = load_data(tmp_path / "t.csv", columns=["-b"], feature_names=["first", "last"])
    assert (data.x.tolist(), data.feature_names) == ([[1, 3]], ("first", "last"))
    data = read(tmp_path, "1,2,3\n", feature_names=["x", "y", "z"])
    assert (data.x.tolist(), data.feature_names) == ([[1, 2, 3]], ("x", "y", "z"))
    with pytest.raises(InputError, match=r"3 columns.*, where 2 are wanted: "):
        read(tmp_path, "1,2,3\n", feature_names=["x", "y"])


@pytest.mark.parametrize(("missing", "filled"), [("mean", 4), ("median", 3), ("zero", 0)])
@pytest.mark.parametrize("word", ["", "NA", "nan", "NULL", "?", " n/a "])
def test_missing_cells_are_filled(tmp_path: Path, missing: Any, filled: float, word: str) -> None:
    text = f"a,b\n1,1\n{word},2\n3,3\n8,4\n"
    with pytest.raises(InputError, match=r"line 3, column 'a' is missing .* --missing mean"):
        read(tmp_path, text)
    data = read(tmp_path, text, missing=missing, label_column="b")
    assert data.x.tolist() == [[1], [filled], [3], [8]]
    assert data.y is not None
    assert data.y.tolist() == [1, 2, 3, 4]


def test_missing_values_of_frames_and_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": pd.array([1, None, 3], dtype="Int64"), "b": [1.0, 2.0, np.nan], "c": [True, None, False]}
    )
    frame["c"] = frame["c"].astype("boolean")
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        with pytest.raises(InputError, match=r"row 1 \(counting from 0\), column 'a' is missing"):
            load_data(source)
        kept = load_data(source, missing="keep").x
        np.testing.assert_array_equal(kept, [[1, 1, 1], [np.nan, 2, np.nan], [3, np.nan, 0]])
        assert load_data(source, missing="mean").x.tolist() == [[1, 1, 1], [2, 2, 0.5], [3, 1.5, 0]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("\n \n", {}, "holds no rows"),
        ("a,b\n", {}, "has a header but no rows"),
        ("a,b\n1,2\n3,4,5\n", {}, r"line 3 has 3 cells, the first line has 2 \(separated by commas\)"),
        ("a,b\n1,2\n3\n", {}, "line 3 has 1 cells"),
        ("a\n1,2\n", {}, r"line 2 has 2 cells, the first line has 1 \(separated by commas\)"),
        ('a,b,c\n1,2,3\n"x,y",4\n', {"columns": ["c"]}, "line 3 has 2 cells"),
        ("a;b\n1,5;2,5\n", {}, "line 2, column 'a': '1,5' has a decimal comma"),
        ("1.0 2.0\n3.0 4.0\n", {}, "separate columns by commas"),
        ("a|b\n1|2\n", {}, "separate columns by commas"),
        ("a,b\n1,inf\n", {}, "line 2, column 'b' is infinite"),
        ("a,b\n1,-1e300\n", {}, r"line 2, column 'b' is -1e\+300, beyond"),
        ("a,b\n1,2\n1,error\n", {}, r"line 3, column 'b': 'error' is not a number; .*--columns=-b,"),
        ("t,s,v\nnoon,A,1\n", {}, r"line 2, column 't': 'noon' is not a number, nor .* 's'; .*--columns=-t,-s,"),
        ("2019-01-01,1\n2019-01-02,2\n", {}, "line 1, column '0': '2019-01-01'"),
        ("a,b\n1,1_000\n", {}, "'1_000' is not a number"),
        ("a,b\n1,2\n", {"columns": ["c"]}, "no column 'c'; its columns are a, b"),
        ("alpha,b\n1,2\n", {"columns": ["aplha"]}, "did you mean 'alpha'"),
        ("a,b\n1,2\n", {"columns": ["A"]}, "did you mean 'a'"),
        ("a,b\n1,2\n", {"columns": ["a", "a"]}, "chosen twice"),
        ("a,b\n1,2\n", {"columns": ["-a", "-b"]}, "no column is left"),
        ("a,b\n1,2\n", {"columns": []}, "no column is left"),
        ("a,a\n1,2\n", {}, "2 columns are called 'a'"),
        (",a\n0,2\n", {}, "has no name"),
        ("a,y\n1,2\n", {"label_column": "z"}, "no column 'z'"),
        ("a,y\n1,2\n", {"label_column": "y", "columns": ["a", "y"]}, "'y' is the label column"),
        ("a,y\n1,bad\n", {"label_column": "y"}, "label column 'y': 'bad' is not a whole number; write 0 for normal"),
        ("a,y\n1,0.5\n", {"label_column": "y"}, "labels must be whole numbers"),
        ("a,y\n1,\n", {"label_column": "y", "missing": "mean"}, "line 2 has no label in column 'y'"),
        ("a,b\n1,\n2,\n", {"missing": "mean"}, "column 'b' has no value in any row"),
        ("a,b\n1,2\n", {"layout": "HW"}, "rows of a table are vectors, not HW"),
        ("a,\xb0\n1,2\n".encode("latin-1"), {}, "not UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), {}, "not UTF-8 text"),
        ("a,b\n1,\0\n", {}, "zero bytes"),
        ('a,b\n1,"2\n3,4\n', {}, "line 2, column 'b'"),
        ("a,b\n1,2\n" + "x" * 999 + ",1\n", {}, r"line 3, column 'a': 'x{37}\.\.\.'"),
        ('a,b\n1,"' + "x" * 200_000, {}, "not a readable CSV file"),
    ],
)
def test_csv_mistakes_are_explained_in_one_line(tmp_path: Path, text: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text, **options)
    assert "\n" not in str(caught.value)
    assert "t.csv" in str(caught.value)


def test_true_and_false_are_labels(tmp_path: Path) -> None:
    data = read(tmp_path, "a,y\n1,True\n2,false\n", label_column="y")
    assert data.y is not None
    assert data.y.tolist() == [1, 0]


def test_text_columns_that_are_not_chosen_do_no_harm(tmp_path: Path) -> None:
    text = 'note,a\n"one, two",1\n"he said ""three""",2\n"four\nfive",3\n,4\n'
    assert read(tmp_path, text, columns=["a"]).x.tolist() == [[1], [2], [3], [4]]


def test_a_cell_quoted_over_lines_may_lie_on_the_border_of_blocks(tmp_path: Path) -> None:
    lines = [f'"{row}\n!",{row}' for row in range(500)]
    assert read(tmp_path, "note,a\n" + "\n".join(lines), columns=["a"]).x[:, 0].tolist() == list(range(500))


def test_cut_gzip_is_refused(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    whole = gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())
    for content in (whole[:-40], whole[:-4] + b"\0\0\0\0", b"1,2\n3,4\n"):
        with pytest.raises(InputError, match=r"damaged or cut short|not gzipped; take the \.gz off its name"):
            read(tmp_path, content, "t.csv.gz")


number = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 5).flatmap(lambda d: st.lists(st.lists(number, min_size=d, max_size=d), min_size=1, max_size=8)),
    st.sampled_from(",;\t"),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_was_written_is_read_back(
    tmp_path: Path, rows: list[list[float]], delimiter: str, header: bool, quoted: bool, end: str
) -> None:
    expected = np.array(rows, np.float32)
    lines = [[f"c{index}" for index in range(len(rows[0]))]] if header else []
    lines += [[repr(value) for value in row] for row in rows]
    if quoted:
        lines = [[f'"{cell}"' for cell in line] for line in lines]
    text = end.join(delimiter.join(line) for line in lines)
    np.testing.assert_array_equal(read(tmp_path, text).x, expected)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet='ab1.5e-,;\t\n\r" ?#\0\xb0', max_size=60) | st.binary(max_size=40))
def test_any_text_is_read_or_refused(tmp_path: Path, text: str | bytes) -> None:
    try:
        data = read(tmp_path, text)
    except InputError as problem:
        assert "\n" not in str(problem)
    else:
        assert np.isfinite(data.x).all()


def test_parquet_leaves_the_index_of_pandas_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]}, index=pd.Index([10, 20], name="when"))
    frame.to_parquet(tmp_path / "t.parquet")
    assert load_data(tmp_path / "t.parquet").feature_names == ("a", "b")
    assert load_data(tmp_path / "t.parquet", columns=["when", "a"]).x.tolist() == [[10, 1], [20, 2]]


def test_parquet_of_several_batches(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("edgeae.data.tables.BATCH_ROWS", 7)
    frame = pd.DataFrame({"a": np.arange(30.0), "b.c": np.arange(30), "y": np.arange(30) % 2})
    frame.to_parquet(tmp_path / "t.parquet")
    data = load_data(tmp_path / "t.parquet", label_column="y", columns=["b.c", "a"])
    np.testing.assert_array_equal(data.x, np.stack([np.arange(30)] * 2, axis=1))
    frame.loc[20, "a"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"row 20 \(counting from 0\), column 'a' is missing"):
        load_data(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "values",
    [["x", "y"], pd.Categorical(["x", "y"]), pd.to_datetime(["2020-01-01", "2020-01-02"]), [[1], [2]], [b"x", b"y"]],
    ids=["text", "category", "date", "list", "bytes"],
)
def test_columns_that_are_not_numbers_are_refused(tmp_path: Path, values: Any) -> None:
    frame = pd.DataFrame({"a": [1, 2], "kind": values})
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        with pytest.raises(InputError, match=r"row 0, column 'kind': .* is not a number; .*--columns=-kind,"):
            load_data(source)
        assert load_data(source, columns=["-kind"]).x.tolist() == [[1], [2]]
        with pytest.raises(InputError, match=r"label column 'kind': .* is not a whole number"):
            load_data(source, label_column="kind")


def test_parquet_that_is_damaged_or_has_no_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(path)
    whole = path.read_bytes()
    for content in (b"PAR1", whole[:-20], whole[:4] + b"\xff" * 60 + whole[64:], b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"t\.parquet: "):
            load_data(path)
    pd.DataFrame({"a": np.zeros(0)}).to_parquet(path)
    with pytest.raises(InputError, match="no rows"):
        load_data(path)


def test_a_frame_with_numbered_columns_has_no_names() -> None:
    data = load_data(pd.DataFrame(np.eye(3)), label_column="2")
    assert data.feature_names is None
    assert data.x.shape == (3, 2)
    assert data.y is not None
    assert data.y.tolist() == [0, 0, 1]
