"""Arrays from a pipe and to a file or a pipe, block by block, when nobody knows yet how many rows there will be."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np

from edgeae.bundle.atomic import check_new, explained, new_file
from edgeae.codec.coders import Array
from edgeae.data.npz import DAMAGED
from edgeae.errors import InputError

__all__ = ["FORMATS", "RowsOut", "begins_npy", "npy_blocks"]

FORMATS: Final = ("npy", "csv", "raw")
BLOCK_BYTES: Final = 2**22


def begins_npy(file: BinaryIO) -> bool:
    """Tell whether an .npy file comes through a pipe, without taking anything from it."""
    peek = getattr(file, "peek", None)
    return peek is not None and bytes(peek(1))[:1] == b"\x93"


def npy_blocks(file: BinaryIO, where: str = "standard input") -> Iterator[Array]:
    """Yield the rows of an .npy file as they come through a pipe, a few MiB at a time.

    Args:
        file: Open for reading; need not be able to seek.
        where: Name for messages.

    Raises:
        InputError: if it is no .npy file of plain numbers in C order, or ends too early.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file)
    except (*DAMAGED, KeyError) as problem:
        raise InputError(f"{where}: damaged, or no .npy file that numpy.save writes ({problem})") from None
    if dtype.kind not in "biuf" or not shape or (fortran and len(shape) > 1):
        raise InputError(f"{where}: expected rows of plain numbers in C order, got {dtype} {list(shape)}")
    row = dtype.itemsize * math.prod(shape[1:])
    step = max(1, BLOCK_BYTES // max(1, row))
    for start in range(0, shape[0], step):
        rows = min(step, shape[0] - start)
        data = file.read(rows * row)
        if len(data) != rows * row:
            raise InputError(f"{where}: ends in row {start + len(data) // row} of {shape[0]}; send the whole file")
        yield np.frombuffer(data, dtype).reshape(rows, *shape[1:])


class RowsOut:
    """Writes rows block by block as .npy, CSV, or raw little-endian numbers.

    A file appears when all is written, and its .npy header then says how many rows there are. To a pipe a header goes
    first, so that .npy needs `rows`.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/rows.npy"
        >>> with RowsOut(path, (3,), "float32") as out:
        ...     out.write(np.ones((2, 3)))
        ...     out.write(np.ones((5, 3)))
        >>> np.load(path).shape
        (7, 3)
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        shape: Sequence[int],
        dtype: str,
        *,
        rows: int | None = None,
        kind: str | None = None,
        names: Sequence[str] | None = None,
        force: bool = False,
    ) -> None:
        """Begin.

        Args:
            target: A path, or a binary file that is open for writing.
            shape: Of one row.
            dtype: "float32" or "uint8".
            rows: How many there will be, if that is known.
            kind: "npy", "csv" or "raw"; None: by the ending of a path, .npy for a pipe.
            names: Header of a .csv file.
            force: Replace an existing file.

        Raises:
            InputError: if the target cannot be written, or the rows do not fit the format.
        """
        self._shape, self._dtype, self._names = tuple(shape), np.dtype(dtype), names
        self._rows = 0
        self._promised = rows
        self._stack = contextlib.ExitStack()
        path = Path(target) if isinstance(target, str | os.PathLike) else None
        self._where = str(path or "standard output")
        self._kind = kind or ("npy" if path is None else path.suffix.lower().lstrip("."))
        if self._kind not in FORMATS:
            raise InputError(f"{self._where}: the output's name must end in .npy, .csv or .raw, or --format say which")
        if self._kind == "csv" and len(self._shape) != 1:
            raise InputError(f"{self._where}: rows of shape {self._shape} do not fit a .csv file; write a .npy file")
        if path is None and self._kind == "npy" and rows is None:
            raise InputError(
                f"{self._where}: from a pipe to a pipe nobody knows how many rows there are, which an .npy file begins "
                "with; choose the format csv or raw (--format), or give a file"
            )
        self._seekable = path is not None
        if path is not None:
            check_new(path, force=force, what="the output file")
            self._file: BinaryIO = self._stack.enter_context(new_file(path))
        else:
            self._file = target  # type: ignore[assignment]

    def write(self, rows: Array) -> None:
        """Write rows [n, *shape].

        Raises:
            InputError: if the file cannot be written.
        """
        with self._explained():
            if self._kind == "csv":
                np.savetxt(self._file, rows, delimiter=",", fmt="%d" if self._dtype == np.uint8 else "%.9g")
            else:
                self._file.write(np.ascontiguousarray(rows, self._dtype.newbyteorder("<")).data)
            if not self._seekable:
                self._file.flush()
        self._rows += len(rows)

    def __enter__(self) -> RowsOut:
        with self._explained():
            if self._kind == "npy":
                self._file.write(self._header(self._promised or 0))
            elif self._kind == "csv" and self._names is not None:
                self._file.write((",".join(self._names) + "\n").encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._kind == "npy" and self._rows != (self._promised or 0):
            if not self._seekable:
                raise InputError(f"{self._where}: {self._rows} rows were written, {self._promised} were promised")
            with explained(self._where):
                self._file.seek(0)
                self._file.write(self._header(self._rows))
        self._stack.__exit__(kind, problem, trace)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        """Name the file in errors; those of a pipe are its reader's business."""
        return explained(self._where) if self._seekable else contextlib.nullcontext()

    def _header(self, rows: int) -> bytes:
        """Return the header of an .npy file, which NumPy pads so that the number of rows may grow in its place."""
        buffer = io.BytesIO()
        described: dict[str, Any] = {
            "descr": self._dtype.newbyteorder("<").str,
            "fortran_order": False,
            "shape": (rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(buffer, described)  # type: ignore[no-untyped-call,unused-ignore]
        return buffer.getvalue()
