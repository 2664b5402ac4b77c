"""Arrays from memory, .npy and .npz files, and the checks that make rows of them: dtype, shape, missing values."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeae.bundle.manifest import Layout
from edgeae.data.dataset import Array, row_blocks
from edgeae.data.npz import DAMAGED, array_names, promised_size, read_array
from edgeae.errors import InputError

__all__ = ["Missing", "as_labels", "as_rows", "find_layout", "has_missing", "impute", "read_npy", "read_npz"]

Missing = Literal["refuse", "mean", "median", "zero", "keep"]


def read_npy(path: Path) -> Array:
    """Map the array of an .npy file into memory, read-only; Python objects in it (pickles) are never loaded.

    Raises:
        InputError: if it is no .npy file, damaged, cut short, or has bytes after the array.
    """
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        hint = "; it is an .npz archive: rename it" if magic[:2] == b"PK" else "; write it with numpy.save"
        raise InputError(f"{path}: not a NumPy .npy file{hint}")
    try:
        with open(path, "rb") as file:
            promised = promised_size(file)
            there = path.stat().st_size - file.tell()
        if there < promised:
            raise ValueError(f"its header promises {promised} bytes, there are {there}")
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as problem:
        raise InputError(f"{path}: {_explain(problem)}") from None
    if there > promised:
        raise InputError(f"{path}: has bytes after its array; save one array a file, or several as .npz")
    return np.asarray(mapped)  # a plain view: slicing np.memmap objects is slow


def read_npz(path: Path, key: str | None, label_key: str | None) -> tuple[str, Array, Array | None]:
    """Read rows, and labels where there are any, from an .npz file; pickles are never loaded.

    Args:
        path: The file.
        key: Name of the array with the rows; None: `X` or `x`, else the only array.
        label_key: Name of the array with the labels; None: `y`, or `y_train` for rows called `x_train`, if it is there.

    Returns:
        The name of the array taken, rows and labels (None where there are none), as they are in the file.

    Raises:
        InputError: if the file or the arrays cannot be read.
    """
    with open(path, "rb") as file:
        magic = file.read(6)
    if magic[:2] != b"PK":
        hint = "it is an .npy file: rename it" if magic == b"\x93NUMPY" else "write it with numpy.savez"
        raise InputError(f"{path}: not a NumPy .npz archive; {hint}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = array_names(archive)
            key = _choose(path, names, key, label_key)
            x = read_array(archive, key)
            labels = label_key or _labels_of(key, names)
            y = None if labels is None else read_array(archive, labels)
            if label_key is None and key[:1] not in ("x", "X") and y is not None and y.shape[:1] != x.shape[:1]:
                y = None  # of another array
    except InputError:
        raise
    except DAMAGED as problem:
        raise InputError(f"{path}: {_explain(problem)}") from None
    return key, x, y


def _choose(path: Path, names: list[str], key: str | None, label_key: str | None) -> str:
    listed = ", ".join(names) or "none"
    for name in (key, label_key):
        if name is not None and name not in names:
            raise InputError(f"{path}: holds no array {name!r}; its arrays are: {listed}")
    if key is not None:
        return key
    for name in ("X", "x"):
        if name in names:
            return name
    rest = [name for name in names if name not in (label_key or "y", "y")] or names
    if len(rest) != 1:
        raise InputError(f"{path}: choose one of its arrays ({listed}) with {path}:KEY")
    return rest[0]


def _labels_of(key: str, names: list[str]) -> str | None:
    if key[:1] in ("x", "X"):
        return next((name for name in ("y" + key[1:], "Y" + key[1:]) if name in names), None)
    return "y" if "y" in names and key != "y" else None


def _explain(problem: BaseException) -> str:
    text = str(problem)
    if "object" in text.lower() or "pickle" in text.lower():
        return "holds Python objects (pickles), which edgeae never loads; save plain numbers: numpy.save(path, x)"
    if isinstance(problem, MemoryError):
        return "does not fit in memory"
    return f"damaged or cut short ({text.splitlines()[0] if text else type(problem).__name__}); copy or save it again"


def as_rows(source: Any, where: str, missing: Missing) -> Array:
    """Turn an array into rows: float32 or uint8, C-contiguous, native byte order, no missing value left.

    uint8 stays as it is, bool becomes uint8, every other real dtype float32 (whole numbers beyond 2^24 are rounded, as
    float32 has it). Nothing is copied where nothing has to change.

    Args:
        source: [n, ...], anything NumPy can read.
        where: Name for messages.
        missing: What to do with NaN; see `load_data`.

    Raises:
        InputError: for other dtypes, no rows, values beyond float32, infinities, and missing values.
    """
    array = _as_array(source, where)
    _check_dtype(array, where)
    if array.ndim == 0:
        raise InputError(f"{where}: a single number, not rows")
    if array.ndim == 1 and array.size:
        raise InputError(
            f"{where}: one dimension of {array.size} values is ambiguous; "
            f"reshape to (1, {array.size}) for one row or ({array.size}, 1) for rows of one value"
        )
    if array.size == 0:
        raise InputError(f"{where}: holds no values, its shape is {array.shape}")
    if array.dtype.kind == "b" or array.dtype == np.uint8:
        return np.ascontiguousarray(array, np.uint8)

    ready = array.dtype == np.float32 and array.dtype.isnative and array.flags.c_contiguous
    if ready and missing == "keep":
        return array  # nothing to look for, so a memory map is not read through
    rows = array if ready else _empty(array.shape, where)
    incomplete = False
    for start, block in row_blocks(array):
        target = rows[start : start + len(block)]
        if not ready:
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                np.copyto(target, block, casting="unsafe")

        def place(index: tuple[int, ...], start: int = start) -> str:
            return f"[{', '.join(map(str, (start + index[0], *index[1:])))}]"

        incomplete |= has_missing(target, block, where, missing, place)
    if incomplete and missing != "keep":
        rows = rows.copy() if ready else rows
        impute(rows, where, missing)
    return rows


def _empty(shape: tuple[int, ...], where: str) -> Array:
    try:
        return np.empty(shape, np.float32)
    except MemoryError:
        raise InputError(f"{where}: too large for memory; save it as float32 .npy, which is mapped, not read") from None


def _as_array(source: Any, where: str) -> Array:
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(f"{where}: a masked array; fill it first: x.filled(numpy.nan)")
    if hasattr(source, "toarray") and not isinstance(source, np.ndarray):
        raise InputError(f"{where}: a sparse matrix; make it dense first: x.toarray()")
    try:
        return np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as problem:
        raise InputError(f"{where}: cannot be read as an array: {str(problem).splitlines()[0]}") from None


def _check_dtype(array: Array, where: str) -> None:
    kind = array.dtype.kind
    if kind in "biuf":
        return
    if kind in "US":
        example = f", for instance {array.flat[0]!s:.40}" if array.size else ""
        raise InputError(f"{where}: holds text{example}; encode it as numbers or leave it out")
    if kind == "O":
        raise InputError(f"{where}: holds Python objects, not numbers; convert it first: numpy.asarray(x, float)")
    names = {
        "c": "complex numbers; take their magnitude, or real and imaginary parts as separate features",
        "M": "dates; leave them out or turn them into numbers",
        "m": "time differences; turn them into numbers, for instance seconds",
        "V": "records; make a plain array: numpy.lib.recfunctions.structured_to_unstructured",
    }
    raise InputError(f"{where}: holds {names.get(kind, f'values of type {array.dtype}, not numbers')}")


def has_missing(
    values: Array, original: Array, where: str, missing: Missing, place: Callable[[tuple[int, ...]], str]
) -> bool:
    """Tell whether `values` has NaN; refuse infinities, what float32 cannot hold and, if so asked, NaN.

    Args:
        values: float32 rows.
        original: The same values before they became float32.
        where: Name for messages.
        missing: What is asked for; "keep" lets everything pass.
        place: Says where the value at an index of `values` stands.
    """
    if np.isfinite(values).all():
        return False
    gaps = np.isnan(values)
    if missing == "keep":
        return bool(gaps.any())
    beyond = np.argwhere(np.isinf(values))
    if len(beyond):
        index = tuple(int(number) for number in beyond[0])
        value = original[index]
        what = "infinite" if np.isinf(value) else f"{value}, beyond the range of float32"
        raise InputError(f"{where}: {place(index)} is {what}; correct the value or remove the row")
    if missing == "refuse":
        index = tuple(int(number) for number in np.argwhere(gaps)[0])
        raise InputError(
            f"{where}: {place(index)} is missing (empty or NaN); "
            "remove such rows, fill them when training with --missing mean (median, zero), or flag them when scoring "
            "with --on-invalid flag"
        )
    return True


def impute(rows: Array, where: str, missing: Missing, names: tuple[str, ...] | None = None) -> None:
    """Fill NaN in place: each position of a row with its mean or median over the rows that have it, or with zero."""
    flat = rows.reshape(len(rows), -1)
    gaps = np.zeros(flat.shape[1], bool)
    for _, block in row_blocks(flat):
        gaps |= np.isnan(block).any(axis=0)
    for column in np.flatnonzero(gaps):
        values = flat[:, column]
        known = values[~np.isnan(values)]
        if missing != "zero" and not len(known):
            name = repr(names[column]) if names else f"{column} (counting from 0)"
            raise InputError(f"{where}: column {name} has no value in any row; leave it out, or use --missing zero")
        fill = 0.0
        if missing == "mean":
            fill = float(known.mean(dtype=np.float64))
        elif missing == "median":
            fill = float(np.median(known.astype(np.float64)))
        values[np.isnan(values)] = fill


def as_labels(labels: Array, where: str) -> Array:
    """Turn labels into int64 [n].

    Raises:
        InputError: if they are not one whole number per row.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{where}: the labels must be one whole number per row, their shape is {labels.shape}")
    if labels.dtype.kind not in "biuf":
        example = f", for instance {labels.flat[0]!s:.40}" if labels.size and labels.dtype.kind != "O" else ""
        raise InputError(
            f"{where}: the labels are not numbers but {labels.dtype.name}{example}; "
            "write 0 for normal rows and 1 for anomalies, or a number for each class"
        )
    if labels.dtype.kind == "f":
        wrong = np.flatnonzero(~((np.abs(labels) <= 2**53) & (labels == np.rint(labels))))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"{where}: the labels must be whole numbers; row {row} (counting from 0) has {labels[row]}"
            )
    elif labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise InputError(f"{where}: {labels.max()} is too large for a label")
    return labels.astype(np.int64)


def find_layout(shape: tuple[int, ...], layout: Layout | None, where: str) -> Layout:
    """Return `layout`, or what an array of this shape [n, ...] plainly is.

    Two dimensions are rows of vectors, three are grayscale images, four are images with 1, 3 or 4 channels last (HWC)
    or first (CHW).

    Raises:
        InputError: if it is not plain.
    """
    if layout is not None:
        return layout
    if len(shape) in (2, 3):
        return "vector" if len(shape) == 2 else "HW"
    if len(shape) != 4:
        raise InputError(f"{where}: {len(shape)} dimensions {shape}; rows are vectors, images or windows (2 to 4)")
    last, first = shape[3] in (1, 3, 4), shape[1] in (1, 3, 4)
    if last == first:
        why = "channels may be first or last" if last else "no dimension looks like 1, 3 or 4 channels"
        raise InputError(f"{where}: shape {shape} is ambiguous, {why}; say --layout CHW or --layout HWC")
    return "HWC" if last else "CHW"
