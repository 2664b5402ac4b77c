"""Arrays and scores out to files, atomically."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from edgeae.bundle.atomic import check_new, explained, new_file, open_atomic
from edgeae.errors import InputError, MissingPackageError

__all__ = ["ARRAY_FORMATS", "SCORE_FORMATS", "TABLE_FORMATS", "check_output", "create_array", "write_scores"]

ARRAY_FORMATS = (".npy", ".csv")
SCORE_FORMATS = (".csv", ".npy", ".parquet")
TABLE_FORMATS = (".csv", ".parquet")

Array = np.ndarray[Any, Any]
_BLOCK = 65_536
_PIECE = 2**20


def check_output(path: str | os.PathLike[str], formats: tuple[str, ...], *, force: bool) -> Path:
    """Return `path`, refusing early what cannot be written.

    Raises:
        InputError: for another ending than `formats`, an existing file without `force`, or a folder that is missing
            or read-only.
    """
    path = Path(path)
    if path.suffix.lower() not in formats:
        raise InputError(f"{path}: the output's name must end in one of {', '.join(formats)}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file name")
    check_new(path, force=force, what="the output file")
    return path


@contextlib.contextmanager
def create_array(
    path: str | os.PathLike[str], shape: tuple[int, ...], names: Sequence[str] | None = None
) -> Iterator[Array]:
    """Yield a float32 array of `shape` to fill; it is the content of `path` when the block ends without an error.

    A .npy file is filled through a memory map, so that it may be larger than memory; a .csv file needs rows that are
    vectors, and gets `names` as its header.

    Raises:
        InputError: if the file cannot be written, or the rows do not fit the format.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "z.npy"
        >>> with create_array(target, (2, 3)) as z:
        ...     z[:] = 1
        >>> np.load(target).sum()
        np.float32(6.0)
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        with _mapped(path, shape) as array:
            yield array
        return
    if len(shape) != 2:
        raise InputError(f"{path}: rows of shape {shape[1:]} do not fit a .csv file; write a .npy file")
    array = np.empty(shape, np.float32)
    yield array
    with open_atomic(path) as file:
        if names is not None:
            file.write(_csv([names]).encode())
        for start in range(0, len(array), _BLOCK):
            np.savetxt(file, array[start : start + _BLOCK], delimiter=",", fmt="%.9g")


@contextlib.contextmanager
def _mapped(path: Path, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield a float32 array of `shape` that lies in the .npy file `path`, which appears when the block has ended."""
    with new_file(path) as file:
        with explained(path):
            described = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, described)  # type: ignore[no-untyped-call,unused-ignore]
            file.flush()
            start, size = file.tell(), math.prod(shape) * 4
            if size:
                _allocate(file, start + size)
        if not size:  # nothing cannot be mapped
            yield np.empty(shape, np.float32)
            return
        array: Array = np.memmap(file, np.dtype("<f4"), "r+", start, shape)
        yield array
        with explained(path):
            array.flush()  # type: ignore[attr-defined,unused-ignore]


def _allocate(file: BinaryIO, size: int) -> None:
    """Make a file as long as it will be: a full disk is an error here, and would be a bus error in the map."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(file.tell(), size, _PIECE):
        file.write(bytes(min(_PIECE, size - start)))
    file.flush()


def write_scores(
    path: str | os.PathLike[str],
    scores: Array,
    anomalies: Array,
    more: Mapping[str, Array] | None = None,
    rows: Array | None = None,
) -> None:
    """Write scores as .csv or .parquet (columns row, score, anomaly and more) or as a float32 .npy.

    Args:
        path: Where to.
        scores: float32 [n], higher is more anomalous.
        anomalies: bool [n].
        more: Columns [n] of text or numbers; not for .npy.
        rows: Whole numbers [n] for the column row; from 0 if left out.

    Raises:
        InputError: if the file cannot be written, or cannot hold more columns.
        MissingPackageError: for .parquet without pyarrow.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        if more:
            raise InputError(f"{path}: an .npy file holds the scores alone; write .csv or .parquet")
        with create_array(path, scores.shape) as array:
            array[:] = scores
        return
    if path.suffix.lower() == ".csv":
        with open_atomic(path) as file:
            for text in score_lines(scores, anomalies, more, rows):
                file.write(text.encode())
        return
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingPackageError(f"{path}: Parquet needs pyarrow; install it with: pip install pyarrow") from None
    numbers = np.arange(len(scores)) if rows is None else rows
    table = pyarrow.table({"row": numbers, "score": scores, "anomaly": anomalies, **(more or {})})
    with open_atomic(path) as file:
        pyarrow.parquet.write_table(table, file)


def score_lines(
    scores: Array, anomalies: Array, more: Mapping[str, Array] | None = None, rows: Array | None = None
) -> Iterator[str]:
    """Yield the text of a scores .csv in large pieces: a header, then row, score, anomaly (0 or 1) and more."""
    more = more or {}
    yield _csv([("row", "score", "anomaly", *more)])
    for start in range(0, len(scores), _BLOCK):
        part = slice(start, start + _BLOCK)
        columns = [
            values[part] if values.dtype == object else [f"{value:.9g}" for value in values[part]]
            for values in (scores, *more.values())
        ]
        flags = (int(anomaly) for anomaly in anomalies[part])
        numbers = itertools.count(start) if rows is None else rows[part].tolist()
        yield _csv(zip(numbers, columns[0], flags, *columns[1:], strict=False))


def _csv(rows: Iterable[Iterable[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
