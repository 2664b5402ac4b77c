"""`edgeae compress` and `edgeae decompress`, in files and in pipes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("zstandard", reason="needs zstandard: pip install 'edgeae[codec]'")

from edgeae.bundle.manifest import Input
from edgeae.cli import main
from edgeae.codec.streams import RowsOut, npy_blocks
from edgeae.data import delimited, load_rows
from edgeae.data.load import row_blocks
from edgeae.errors import InputError

ROOT = Path(__file__).parents[1]
DENSE, TABLE = str(ROOT / "export" / "golden" / "dense"), str(ROOT / "export" / "golden" / "table")


def run(*arguments: str | Path, fails: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == fails, result.output
    return result


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).integers(0, 200, (300, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "x.npy", rows)
    return tmp_path / "x.npy"


def test_there_and_back_in_files(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.eae"
    done = json.loads(run("compress", DENSE, digits, "-o", out, "--lossless", "--json").stdout)
    assert done["rows"] == 300 and done["largest_error"] == 0 and done["zstd_bytes"] > 0
    assert "exists already" in run("compress", DENSE, digits, "-o", out, fails=1).output
    assert "times" in run("compress", DENSE, digits, "-o", tmp_path / "y.eae", "--report").stdout
    run("decompress", DENSE, out, "-o", tmp_path / "back.npy")
    assert np.array_equal(np.load(tmp_path / "back.npy"), np.load(digits))
    run("decompress", DENSE, out, "-o", tmp_path / "part.npy", "--rows", "10:20")
    assert np.array_equal(np.load(tmp_path / "part.npy"), np.load(digits)[10:20])
    run("decompress", DENSE, out, "-o", tmp_path / "z.csv", "--latents", "--rows", ":7")
    assert np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1).shape == (7, 8)
    run("compress", DENSE, digits, "-o", out, "--append")
    run("decompress", DENSE, out, "-o", tmp_path / "back.npy", "--force")
    assert len(np.load(tmp_path / "back.npy")) == 600


def test_a_torn_file_is_recovered_on_request(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.eae"
    run("compress", DENSE, digits, "-o", out)
    run("compress", DENSE, digits, "-o", out, "--append")
    out.write_bytes(out.read_bytes()[:-200])
    assert "--recover" in run("decompress", DENSE, out, "-o", tmp_path / "back.npy", fails=1).output
    assert not (tmp_path / "back.npy").exists()
    assert "recovered 300 rows" in run("decompress", DENSE, out, "-o", tmp_path / "back.npy", "--recover").output
    assert len(np.load(tmp_path / "back.npy")) == 300


def test_wrong_usage_is_explained(digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.eae"
    run("compress", DENSE, digits, "-o", out)
    assert "another model" in run("decompress", TABLE, out, "-o", tmp_path / "y.npy", fails=1).output
    assert "no such rows" in run("decompress", DENSE, out, "-o", tmp_path / "y.npy", "--rows", "5:999", fails=1).output
    assert "do not fit a .csv" in run("decompress", DENSE, out, "-o", tmp_path / "y.csv", fails=1).output
    assert "must end in" in run("decompress", DENSE, out, "-o", tmp_path / "y.txt", fails=1).output
    run("decompress", DENSE, out, "-o", tmp_path / "y.npy", "--rows", "abc", fails=2)
    run("compress", DENSE, digits, "-o", "-", "--json", fails=2)


def piped(*arguments: str, data: bytes, fails: bool = False) -> bytes:
    done = subprocess.run([sys.executable, "-m", "edgeae", *arguments], input=data, capture_output=True, cwd=ROOT)
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout


def test_there_and_back_through_pipes(digits: Path, tmp_path: Path) -> None:
    coded = piped("compress", DENSE, "-", "-o", "-", "--max-error", "3", data=digits.read_bytes())
    (tmp_path / "x.eae").write_bytes(coded)
    rows = np.frombuffer(piped("decompress", DENSE, "-", "-o", "-", "--format", "raw", data=coded), np.uint8)
    assert np.abs(rows.reshape(-1, 8, 8).astype(int) - np.load(digits)).max() <= 3
    whole = np.load(io.BytesIO(piped("decompress", DENSE, str(tmp_path / "x.eae"), "-o", "-", data=b"")))
    assert np.array_equal(whole.reshape(-1), rows)
    assert b"--format" in piped("decompress", DENSE, "-", "-o", "-", data=coded, fails=True)
    table = "\n".join(",".join(f"{column + row / 7:.3f}" for column in range(10)) for row in range(9)).encode()
    coded = piped("compress", TABLE, "-", "-o", "-", "--dtype", "float32", data=table)
    text = piped("decompress", TABLE, "-", "-o", "-", "--format", "csv", data=coded).decode()
    assert len(text.splitlines()) == 10 and text.startswith("sensor_0,")


@pytest.mark.parametrize(("start", "stop"), [(0, -1), (0, 20), (0, 6), (1, None)])
def test_an_array_that_is_not_whole_in_a_pipe_is_said(start: int, stop: int | None) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((5, 3), np.float32))
    with pytest.raises(InputError):
        list(npy_blocks(io.BytesIO(buffer.getvalue()[start:stop])))


def test_objects_in_a_pipe_are_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], object), allow_pickle=True)
    with pytest.raises(InputError, match="plain numbers"):
        list(npy_blocks(io.BytesIO(buffer.getvalue())))


def test_an_array_of_unknown_length_gets_its_header_at_the_end(tmp_path: Path) -> None:
    with RowsOut(tmp_path / "x.npy", (2, 3), "uint8") as out:
        for size in (0, 1, 999_999):
            out.write(np.full((size, 2, 3), 7, np.uint8))
    assert np.load(tmp_path / "x.npy", mmap_mode="r").shape == (1_000_000, 2, 3)
    with pytest.raises(KeyError), RowsOut(tmp_path / "y.npy", (2,), "uint8") as out:
        raise KeyError
    assert not (tmp_path / "y.npy").exists()


class Lines(io.RawIOBase):
    """A CSV file that is made while it is read."""

    def __init__(self, rows: int, spoilt: str = "") -> None:
        self.lines = iter([b"a,b,c\n", *[b"1.5,-2,3e3\n"] * rows, spoilt.encode()])
        self.rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self.rest = self.rest or next(self.lines, b"")
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class StandardInput:
    def __init__(self, data: io.RawIOBase) -> None:
        self.buffer = io.BufferedReader(data)


ENDINGS = {
    "good": "",
    "text": "1,x,2\n",
    "too few cells": "1,2\n",
    "a gap": "1,,2\n",
    "a comma": '"1,5",2,3\n',
    "infinite": "1,2,1e999\n",
    "zero bytes": "1,2,\0\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("rows", [0, 5, 1000])
def test_a_table_in_a_pipe_is_the_same_in_blocks(ending: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_VALUES", 300)
    wanted = Input((3,), "float32", "vector", feature_names=("c", "a", "b"))

    def found(whole: bool) -> object:
        monkeypatch.setattr(sys, "stdin", StandardInput(Lines(rows, ENDINGS[ending])))
        try:
            if whole:
                return load_rows("-", wanted).x.tolist()
            blocks = list(row_blocks("-", wanted))
            assert len(blocks) > rows // 150
            return [row for block in blocks for row in block.x.tolist()]
        except InputError as problem:
            return str(problem)

    assert found(whole=True) == found(whole=False)
    assert isinstance(found(whole=False), list) is (ending == "good" and rows > 0)


def test_a_long_table_in_a_pipe_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BLOCK_VALUES", 3000)
    wanted = Input((3,), "float32", "vector")

    def peak(rows: int) -> int:
        data = Lines(rows)
        monkeypatch.setattr(sys, "stdin", StandardInput(data))
        tracemalloc.start()
        try:
            assert sum(len(block) for block in row_blocks("-", wanted)) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(24_000) < 1.2 * peak(6_000) + 2**16


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize(
    "command", [["inspect", DENSE], ["score", DENSE, "{rows}"], ["compress", DENSE, "{rows}", "-o", "-"]]
)
def test_a_full_disk_behind_standard_output_is_one_line(digits: Path, command: list[str]) -> None:
    arguments = [part.format(rows=digits) for part in command]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeae", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "edgeae: standard output: No space left on device; check the disk and the folder"
    )
    assert "Traceback" not in done.stderr
