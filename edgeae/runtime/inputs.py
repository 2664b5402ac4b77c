"""Checking what callers pass in: any array-like of the right shape becomes rows that a graph may read.

Nothing is converted as a whole: `as_rows` looks at shape and type only, and `RowReader` converts and checks one chunk
at a time, so that a memory map of any size passes through in flat memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from edgeae.bundle.record import record
from edgeae.errors import EdgeaeError, InputError

__all__ = ["PIECE", "Array", "RowReader", "RowSpec", "address", "all_finite", "as_rows", "result_array"]

Array = np.ndarray[Any, Any]


@record(frozen=True)
class RowSpec:
    """What rows must be.

    Attributes:
        name: The graph's input, "x" or "z".
        shape: One row.
        dtype: What the graph reads.
        filler: A harmless row of that shape and type, which takes the place of an invalid one.
        layout: How an image's or window's axes are ordered, for messages.
        names: One name per value of a row, where there are names.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    filler: Array
    layout: str = "vector"
    names: tuple[str, ...] | None = None

    @property
    def expected(self) -> str:
        """The expected shape and type, in words."""
        return f"{self.dtype} [n, {', '.join(map(str, self.shape))}]"


def as_rows(value: object, spec: RowSpec, *, single: bool = False) -> Array:
    """Return `value` as an array [n, *shape] of some number type, without copying an array.

    Args:
        value: Anything array-like.
        spec: What its rows must be.
        single: Also accept one row, and return it as [*shape].

    Raises:
        InputError: saying what was expected and what came.
    """
    array = _as_array(value, spec)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{spec.name}: {_describe_dtype(array.dtype)}; expected numbers, {spec.expected}")
    if single and array.shape == spec.shape:
        return array
    if array.shape == (0,) and not isinstance(value, np.ndarray):
        return array.reshape(0, *spec.shape)
    if array.ndim != 1 + len(spec.shape) or array.shape[1:] != spec.shape:
        raise InputError(
            f"{spec.name}: expected {spec.expected}, got {array.dtype} {list(array.shape)}{_hint(array.shape, spec)}"
        )
    return array


PIECE = 8192  # values; BLAS starts threads of its own for a longer dot product


def all_finite(block: Array) -> bool:
    """Tell whether a contiguous float32 block holds neither NaN nor infinity.

    A sum is finite only if all values are; it is several times cheaper than the exact test, which is needed only where
    large values overflow the sum. One call for the whole block: between two of them Python's lock goes to another
    worker, which takes longer than the sum. Of a few values the product with itself is the quickest; `vdot` and
    `einsum`, since `dot` and `sum` warn of overflow.
    """
    flat = block.reshape(-1)
    found = np.vdot(flat, flat) if flat.size <= PIECE else np.einsum("i->", flat)
    return math.isfinite(found) or bool(np.isfinite(flat).all())


class RowReader:
    """Hands out chunks of rows in the form a graph reads: contiguous, aligned, native, finite.

    One reader may serve many threads; each brings its own buffer.

    Attributes:
        rows: What the caller passed, [n, *shape].
        direct: Whether chunks can be read where they lie; otherwise they are converted into a buffer first.
        place: Then, the address of the first row.
        row_bytes: Then, how far rows lie apart.
    """

    def __init__(self, rows: Array, spec: RowSpec, *, flag: bool, first: int = 0) -> None:
        """Take the rows.

        Args:
            rows: From `as_rows`.
            spec: What they must be.
            flag: Replace rows with non-finite values and report them, instead of raising.
            first: The number of the first row in messages.
        """
        self.rows = rows
        self.spec = spec
        self.flag = flag
        self.first = first
        self.row_bytes = rows.itemsize * math.prod(spec.shape)
        self.direct = rows.dtype == spec.dtype and rows.flags.c_contiguous and rows.flags.aligned
        self.place = address(rows) if self.direct else 0

    def read(self, start: int, stop: int, buffer: Array, *, check: bool = True) -> tuple[Array, Array | None]:
        """Return rows start to stop, checked, and which of them (bool [stop - start]) were replaced, if any.

        The rows lie in the caller's array if `direct` and none was replaced, else in `buffer`.

        Args:
            start: First row.
            stop: One past the last row.
            buffer: At least [stop - start, *shape] of the spec's type; used unless the rows can be read in place.
            check: Whether to look for values that are not finite, or leave that to the caller.

        Raises:
            InputError: if a value is not finite (unless flagging), out of range or not whole, naming row and value.
        """
        part = self.rows[start:stop]
        if self.spec.dtype == np.uint8:
            return self._read_bytes(part, start, buffer[: stop - start])
        block = part
        if not self.direct:
            block = buffer[: stop - start]
            with np.errstate(all="ignore"):
                np.copyto(block, part, casting="unsafe")
        if not check or part.dtype.kind in "biu" or all_finite(block):
            return block, None
        bad = _rows_with(~np.isfinite(block))
        if not self.flag:
            self._refuse(part, block, start)
        cleaned = buffer[: stop - start]
        if cleaned is not block:
            np.copyto(cleaned, block)
        cleaned[bad] = self.spec.filler
        return cleaned, bad

    def _read_bytes(self, part: Array, start: int, block: Array) -> tuple[Array, Array | None]:
        if part.dtype == np.uint8:
            if self.direct:
                return part, None
            np.copyto(block, part)
            return block, None
        bad: Array | None = None
        if part.dtype.kind == "f":
            finite = np.isfinite(part)
            if not finite.all():
                if not self.flag:
                    self._refuse(part, part, start)
                bad = _rows_with(~finite)
                part = np.array(part)
                part[bad] = self.spec.filler
        outside = (part < 0) | (part > 255)
        if part.dtype.kind == "f":
            outside |= part != np.rint(part)
        if outside.any():
            row, *place = (int(index) for index in np.argwhere(outside)[0])
            value = part[(row, *place)]
            raise InputError(
                f"{self._place(start + row, place)} is {value}; this bundle takes uint8 images, whole numbers from "
                "0 to 255; do not rescale them, the graph does"
            )
        np.copyto(block, part, casting="unsafe")
        return block, bad

    def _refuse(self, part: Array, block: Array, start: int) -> None:
        row, *place = (int(index) for index in np.argwhere(~np.isfinite(block))[0])
        value = part[(row, *place)]
        what = f"is {value}" if not np.isfinite(value) else f"is {value}, beyond the range of float32"
        raise InputError(
            f"{self._place(start + row, place)} {what}; remove or impute such values, or load the bundle with "
            "on_invalid='flag' to give these rows the score NaN"
        )

    def _place(self, row: int, place: list[int]) -> str:
        names = self.spec.names
        value = (
            f"feature {names[place[0]]!r}" if names is not None else f"value {place if len(place) > 1 else place[0]}"
        )
        return f"{self.spec.name}: row {self.first + row}, {value}"


def address(array: Array) -> int:
    """Return where the first value lies."""
    place: int = array.ctypes.data
    return place


def result_array(out: Array | None, shape: tuple[int, ...], name: str) -> Array:
    """Return a new float32 array of `shape`, or `out` if results can be written straight into it.

    Raises:
        InputError: if `out` is of another shape or type, is not C-contiguous or is read-only.
    """
    if out is None:
        return np.empty(shape, np.float32)
    if not isinstance(out, np.ndarray):
        raise InputError(f"out: expected a NumPy array for {name}, got {type(out).__name__}")
    if out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out: expected float32 {list(shape)} for {name}, got {out.dtype} {list(out.shape)}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise InputError(
            "out: must be C-contiguous, aligned and writable, so that results can be written straight to it"
        )
    return out


def _rows_with(marks: Array) -> Array:
    return np.asarray(marks.reshape(len(marks), -1).any(axis=1))


def _as_array(value: object, spec: RowSpec) -> Array:
    name = spec.name
    if _is_masked_array(value):
        if np.ma.is_masked(value):
            raise InputError(f"{name}: a masked array with masked values; fill them or drop those rows first")
        return np.asarray(value.data)
    if isinstance(value, np.ndarray):
        return np.asarray(value)
    if isinstance(value, Iterator):
        raise InputError(f'{name}: a {type(value).__name__}; for batches of rows use model.stream("score", batches)')
    if isinstance(value, str | bytes | dict | set):
        raise InputError(f"{name}: expected {spec.expected}, got {type(value).__name__}")
    if isinstance(value, list | tuple) and any(_is_masked_array(row) and np.ma.is_masked(row) for row in value):
        raise InputError(f"{name}: a {type(value).__name__} of masked arrays; fill their masked values first")
    _check_columns(value, spec)
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        array = np.asarray(value)
        return array if array.dtype.kind != "O" else _columns_as_numbers(value, array, name)
    except (EdgeaeError, MemoryError):
        raise
    except Exception as problem:  # whatever the conversion of somebody else's object raises
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{name}: {type(value).__name__} is not an array of {spec.expected}: {reason}") from None


def _columns_as_numbers(value: Any, array: Array, name: str) -> Array:
    """Return a data frame as floats if all of its columns hold numbers, else `array`, its values as Python objects.

    NumPy sees objects where columns are of numbers and of booleans, or of types that have a missing value.
    """
    types = getattr(value, "dtypes", None)
    if types is None or not hasattr(value, "astype"):
        return array
    listed = list(types) if hasattr(types, "__iter__") else [types]  # a series has one type
    for column, dtype in zip(getattr(value, "columns", [getattr(value, "name", None)]), listed, strict=True):
        if getattr(dtype, "kind", "O") not in "biuf":
            raise InputError(f"{name}: column {column!r} is of the type {dtype}; expected numbers")
    return np.asarray(value.astype("float64"))


def _check_columns(value: object, spec: RowSpec) -> None:
    """Refuse a data frame whose named columns are others, or in another order, than the model's features."""
    columns = getattr(value, "columns", None)
    if columns is None or spec.names is None:
        return
    found = [str(column) for column in columns]
    if found == list(spec.names) or not any(isinstance(column, str) for column in columns):
        return
    missing = [name for name in spec.names if name not in found]
    problem = f"the column {missing[0]!r} is missing" if missing else "columns are in another order, or there are more"
    raise InputError(f"{spec.name}: {problem}; pass frame[list(model.feature_names)]")


def _describe_dtype(dtype: np.dtype[Any]) -> str:
    words = {"O": "Python objects (mixed types, text or None)", "U": "text", "S": "text", "c": "complex numbers"}
    words |= {"T": "text", "M": "dates", "m": "time differences"}
    words["V"] = "records; take their columns as a plain array" if dtype.names else "values that are no NumPy numbers"
    return f"got {words.get(dtype.kind, 'values')} ({dtype})"


def _hint(shape: tuple[int, ...], spec: RowSpec) -> str:
    row = spec.shape
    name = spec.name
    if shape == row:
        return f"; for a single row pass {name}[None]"
    if len(shape) > 1 and len(shape[1:]) == len(row) and sorted(shape[1:]) == sorted(row):
        return f"; the rows' axes are in another order than the bundle's {spec.layout} {list(row)}"
    if len(shape) > 1 and math.prod(shape[1:]) == math.prod(row):
        return f"; pass {name}.reshape(-1, {', '.join(map(str, row))})"
    if len(shape) == 2 and len(row) == 1:
        return f": {shape[1]} values in a row instead of {row[0]}"
    return ""


def _is_masked_array(value: Any) -> TypeGuard[np.ma.MaskedArray[Any, Any]]:
    # Nobody has one who has not imported numpy.ma, which takes a tenth of a cold start.
    return "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray)
