"""Mistakes that people make with data, through the real commands: one line with file, place and remedy, and exit 1."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgeae.cli import main

GOLDEN = Path(__file__).parent.parent / "export" / "golden" / "dense"
HEAD = "a,b,c\n"
TABLE = HEAD + "".join(f"{row}.5,{row * row},{row % 3}\n" for row in range(30))


def edgeae(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def refused(*arguments: object) -> str:
    code, said = edgeae(*arguments)
    assert code == 1, said
    line = said.splitlines()[-1]
    assert line.startswith("edgeae: ")
    return line


def png(shape: tuple[int, ...], keep: int | None = None) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:keep]


def parquet(values: Any) -> bytes:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1.0, 2.0], "odd": values}), file)
    return file.getvalue()


MISTAKES: list[tuple[str, str | bytes, str]] = [
    ("ragged.csv", TABLE + "1,2,3,4\n", "line 32 has 4 cells, the first line has 3 .* correct that line"),
    ("trailing.csv", TABLE.replace("\n", ",\n").replace("c,\n", "c\n"), "remove the comma at the end of the lines"),
    ("trailing_all.csv", TABLE.replace("\n", ",\n"), "column 3 .* has no name, like what a delimiter at the end"),
    ("text.csv", TABLE + "1,oops,3\n", "line 32, column 'b': 'oops' is not a number; leave .*--columns=-b"),
    ("pipes.csv", TABLE.replace(",", "|"), "line 2: .* is one cell; separate columns by commas"),
    ("title.csv", "My sensors\n\n" + TABLE, "line 3 has 3 cells, the first line has 1 .* remove the lines above"),
    ("comment.csv", "# by me\n# today\n" + TABLE, "line 2: .*remove lines above the table"),
    (
        "decimal.csv",
        TABLE.replace(",", ";").replace(".", ","),
        "line 2, column 'a': '0,5' has a decimal comma; .*point",
    ),
    ("halved.csv", HEAD + "1,5,2,5,3,5\n" * 5, "6 cells, the first line has 3 .* commas within numbers"),
    ("either.csv", "a;b\n" + "1,234;2\n" * 5, "'1,234' has a decimal comma or thousands separators; .* 1234 or 1.234"),
    ("thousands.csv", 'a,b\n"1,234,567",2\n', "'1,234,567' has thousands separators; write plain numbers"),
    ("swiss.csv", "a,b\n1'234,2\n", "thousands separators"),
    ("quote.csv", 'a,b\n1,"2\n3,4\n', "line 2, column 'b': a quotation mark is not closed"),
    ("double.csv", TABLE.replace("a,b,c", "a,b,b"), "2 columns are called 'b'; give them different names"),
    ("nan.csv", TABLE + "1,,3\n", "line 32, column 'b' is missing .* --missing mean"),
    ("inf.csv", TABLE + "1,inf,3\n", "line 32, column 'b' is infinite; correct the value or remove the row"),
    ("one.csv", HEAD + "1,2,3\n", "1 row.* to train on, training needs at least 2.*; give more"),
    ("none.csv", HEAD, "has a header but no rows; was it written completely"),
    ("empty.csv", "", "the file is empty; write or copy it again"),
    ("blank.csv", "\n\n", "holds no rows, only empty lines"),
    ("utf16.csv", TABLE.encode("utf-16"), "it is UTF-16 .* save it as 'CSV UTF-8'"),
    ("utf16le.csv", TABLE.encode("utf-16-le"), "it may be UTF-16: save it as 'CSV UTF-8'"),
    ("latin.csv", "größe,b\n1,2\n".encode("latin-1"), "not UTF-8 text .* save it as 'CSV UTF-8'"),
    ("binary.csv", b"\xff\x01\x02\x03" * 200, "it is a binary file under a text file's name"),
    ("excel.csv", b"PK\3\4" + b"\xff" * 99, "it is an Excel workbook .* 'CSV UTF-8'"),
    ("old.csv", b"\xd0\xcf\x11\xe0" + b"\xff" * 99, "old Excel workbook"),
    ("sheet.xlsx", b"PK\3\4", "a spreadsheet; save the sheet .* 'CSV UTF-8'"),
    ("zipped.csv", gzip.compress(TABLE.encode()), "it is gzipped: name it .csv.gz"),
    ("plain.csv.gz", TABLE, "not gzipped; take the .gz off its name"),
    ("cut.csv.gz", gzip.compress(TABLE.encode())[:-20], "damaged or cut short .* copy it again"),
    ("page.csv", "<html><body>Not found</body></html>\n", "is HTML, XML or JSON, not a table"),
    ("list.json.csv", '[{"a": 1}, {"a": 2}]\n', "is HTML, XML or JSON, not a table"),
    ("cut.npy", b"\x93NUMPY\1\0", "damaged or cut short .* copy or save it again"),
    ("cut.png", png((40, 40), 200), "not a readable image: .* copy or save it again"),
    ("cut-images-idx3-ubyte", b"\0\0\x08\3\0\0\0\x63\0\0\0\x08\0\0\0\x08", "cut short: .* copy it again"),
    ("list.parquet", parquet([[1, 2], [3]]), "row 0, column 'odd': .* is not a number; .*--columns=-odd"),
    ("struct.parquet", parquet([{"x": 1}, {"x": 2}]), "row 0, column 'odd': .*--columns=-odd"),
    ("cut.parquet", parquet([1, 2])[:-30], "not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "text", "words"), MISTAKES, ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_in_a_file_is_explained(name: str, text: str | bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    line = refused("train", path, "-o", tmp_path / "run", "--epochs", 1)
    assert name in line and re.search(words, line), line
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_images_of_mixed_sizes_are_named(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for index, width in enumerate((8, 8, 9)):
        (tmp_path / "images" / f"{index}.png").write_bytes(png((8, width)))
    line = refused("train", tmp_path / "images", "-o", tmp_path / "run")
    assert "2.png: 9x8 grayscale" in line and "0.png is 8x8" in line and "resize" in line


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (
            (1, 2),
            "t.csv: the labels of column 'y' are not 0 and 1 and are ignored (row 1, counting from 0, has 2)",
        ),
        ((-1, 1), "(row 0, counting from 0, has -1): all rows are trained on; if they mark anomalies, write 0"),
    ],
)
def test_labels_that_are_not_0_and_1_are_pointed_out(labels: tuple[int, int], words: str, tmp_path: Path) -> None:
    text = "a,b,y\n" + "".join(f"{row}.5,{row % 7},{labels[row % 2]}\n" for row in range(30))
    (tmp_path / "t.csv").write_text(text)
    arguments = ("train", tmp_path / "t.csv", "-o", tmp_path / "run", "--epochs", 1, "--label-column", "y")
    code, said = edgeae(*arguments)
    assert code == 0 and words in said
    (tmp_path / "t.csv").write_text("a,b,y\n" + "1,2,1\n2,3,1\n3,1,1\n")
    assert "all are labelled 1, an anomaly: recode the labels" in refused(*arguments, "--force")


def test_constant_columns_are_pointed_out_and_few_rows_are_enough(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n" + "".join(f"{row},7,{row * row}\n" for row in range(5)))
    code, said = edgeae("train", tmp_path / "t.csv", "-o", tmp_path / "run", "--epochs", 1, "--batch-size", 64)
    assert code == 0
    assert "warning: t.csv: column 'b' is constant: nothing to learn there; leave it out with --columns=-NAME" in said


def test_rows_unlike_the_bundle_are_explained(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 999), np.float32))
    line = refused("score", GOLDEN, tmp_path / "wide.npy", "-o", tmp_path / "s.csv")
    assert "rows of shape (999,) (vector); the bundle takes rows of shape" in line
    assert not (tmp_path / "s.csv").exists()


def test_a_table_is_matched_by_names_or_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    edgeae("train", tmp_path / "t.csv", "-o", tmp_path / "run", "--epochs", 1, "--latent-dim", 1)
    edgeae("export", tmp_path / "run", "-o", tmp_path / "bundle")
    lines = [line.split(",") for line in TABLE.split()]
    (tmp_path / "turned.csv").write_text("\ufeff" + "\n".join(",".join(reversed(line)) for line in lines) + "\n")
    for name in ("t", "turned"):
        code, said = edgeae("score", tmp_path / "bundle", tmp_path / f"{name}.csv", "-o", tmp_path / f"{name}.npy")
        assert code == 0, said
    np.testing.assert_array_equal(np.load(tmp_path / "t.npy"), np.load(tmp_path / "turned.npy"))
    score = ("score", tmp_path / "bundle", tmp_path / "t.csv", "-o", tmp_path / "s.csv")
    (tmp_path / "t.csv").write_text(TABLE.replace("a,b,c", "a,b,d"))
    assert "no column 'c'; " in refused(*score) and "its columns are a, b, d" in refused(*score)
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    assert "2 columns and no header, where 3 are wanted: a, b, c" in refused(*score)
