"""From a file, a name or an array to a `Dataset`."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgeae.bundle.manifest import LAYOUTS, Input, Layout
from edgeae.data.arrays import Missing, as_labels, as_rows, find_layout, read_npy, read_npz
from edgeae.data.dataset import Dataset
from edgeae.data.delimited import read_csv
from edgeae.data.idx import is_idx_name, labels_beside, read_idx
from edgeae.data.images import IMAGE_SUFFIXES, list_images, read_images
from edgeae.data.named import NAMES, load_named
from edgeae.data.tables import Request, is_frame, read_frame, read_parquet
from edgeae.errors import InputError

__all__ = ["load_data", "load_rows"]

_CSV_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_SHEET_SUFFIXES = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_PARQUET_SUFFIXES = (".parquet", ".pq")
_FORMS = (
    ".npy, .npz, .csv (.tsv, .txt, also .gz), .parquet, IDX files (also .gz), images, a folder of images, - for CSV on "
    f"standard input, or one of the names {', '.join(name for name in NAMES if ':' not in name)}"
)


def load_data(
    source: Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    missing: Missing = "refuse",
    layout: Layout | None = None,
    feature_names: Sequence[str] | None = None,
) -> Dataset:
    """Load rows of data, and their labels where there are any.

    Args:
        source: One of

            - a path: `.npy` (memory-mapped, not read), `.npz` (`file.npz:key` chooses an array; else `X` or `x`, else
              the only one; `y`, or `y_train` for `x_train`, holds labels), `.csv`, `.tsv`, `.txt` (commas, semicolons
              or tabs, with or without a header, also gzipped), `.parquet`, IDX files as MNIST has them (also gzipped;
              the labels beside an images file are found), an image file (one row), or a folder of images (one row
              each, in the order of their names);
            - `-`: CSV from standard input;
            - a name: `mnist`, `fashion-mnist` (their training rows; `mnist:test` for the others), `mnist-5k`, `digits`.
              A file or folder of such a name is reached as `./mnist`;
            - an array [n, ...] or anything NumPy reads as one (not copied where it need not be), a pandas DataFrame,
              or a `Dataset`, which comes back as it is.
        data_dir: Folder with the files of a named data set.
        label_column: Column of a table, or array of an .npz, with labels in whole numbers.
        columns: Columns of a table to use, in this order, or, each with a leading "-", columns to leave out.
            Without a header the columns are called "0", "1", ...
        missing: What to do with missing values (NaN, empty cells): "refuse" them; fill them with the "mean" or "median"
            of that value over the rows of this very source, or with "zero"; "keep" NaN, and infinities as well, for a
            runtime that flags such rows.
        layout: What the axes of a row mean, where it is not plain: see `find_layout`. [n, T, channels] windows need
            "TC".
        feature_names: Names of the values of a vector. From a table with a header, the columns of these names are
            taken, in this order, unless `columns` says which ones.

    Returns:
        Rows as uint8 where the source holds them so (bool too), else float32. Tables always give float32.

    Raises:
        InputError: naming file or argument, what is wrong and what to do. Python objects (pickles) are never loaded.
        MissingPackageError: if the format needs a package that is not installed.

    Example:
        >>> import numpy as np
        >>> data = load_data(np.zeros((10, 28, 28), np.uint8))
        >>> data.layout, data.row_shape
        ('HW', (28, 28))
    """
    if missing not in get_args(Missing):
        raise InputError(f"missing={missing!r} is not one of {', '.join(get_args(Missing))}")
    if layout is not None and layout not in LAYOUTS:
        raise InputError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    names = None if feature_names is None else tuple(feature_names)
    request = Request(None if columns is None else tuple(columns), label_column, missing, names)
    return _load(source, data_dir, request, _Axes(layout))


def load_rows(
    source: Any,
    wanted: Input,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    missing: Missing = "refuse",
) -> Dataset:
    """Load rows as a bundle takes them: `load_data`, fitted to the manifest's input.

    Columns of a table are chosen by the bundle's feature names. Vectors become images (or windows) of as many values
    and the other way round, rows first (C order); channels move to where the bundle has them. Whole numbers 0..255
    become uint8 for a bundle that takes uint8.

    Args:
        source: See `load_data`, like the other arguments.
        wanted: `manifest.input` of the bundle.

    Returns:
        Rows of the bundle's shape and layout. Where the bundle takes float32 they may be uint8.

    Raises:
        InputError: if the rows do not fit.

    Example:
        >>> import numpy as np
        >>> load_rows(np.zeros((2, 784), np.uint8), Input((28, 28), "float32", "HW")).x.shape
        (2, 28, 28)
    """
    request = Request(None if columns is None else tuple(columns), label_column, missing, wanted.feature_names)
    dataset = _load(source, data_dir, request, _Axes(wanted=wanted))
    x, where = dataset.x, dataset.source
    if dataset.row_shape != wanted.shape:
        if "vector" in (dataset.layout, wanted.layout) and math.prod(dataset.row_shape) == math.prod(wanted.shape):
            x = x.reshape(len(x), *wanted.shape)
        elif (dataset.layout, wanted.layout) in (("HWC", "CHW"), ("CHW", "HWC")):
            x = np.ascontiguousarray(np.moveaxis(x, -1, 1) if wanted.layout == "CHW" else np.moveaxis(x, 1, -1))
        if x.shape[1:] != wanted.shape:
            raise InputError(
                f"{where}: rows of shape {dataset.row_shape} ({dataset.layout}); the bundle takes rows of shape "
                f"{wanted.shape} ({wanted.layout}); give rows of the kind it was trained on"
            )
    if wanted.dtype == "uint8" and x.dtype != np.uint8:
        if not dataset.whole_numbers:
            raise InputError(f"{where}: the bundle takes uint8, whole numbers 0..255, and there are other values")
        x = x.astype(np.uint8)
    return Dataset(x, dataset.y, wanted.layout, wanted.feature_names, where)


@dataclass(frozen=True)
class _Axes:
    """How to tell the layout of an array: it is given, or the shape is the one wanted, or plain."""

    given: Layout | None = None
    wanted: Input | None = None

    def find(self, shape: tuple[int, ...], where: str) -> Layout:
        if self.given is None and self.wanted is not None and shape[1:] == self.wanted.shape:
            return self.wanted.layout
        return find_layout(shape, self.given, where)

    def or_else(self, layout: Layout) -> _Axes:
        return replace(self, given=self.given or layout)


def _load(source: Any, data_dir: str | os.PathLike[str] | None, request: Request, axes: _Axes) -> Dataset:
    if isinstance(source, str | os.PathLike):
        return _load_path(source, data_dir, request, axes)
    if is_frame(source):
        return _table(read_frame(source, request), axes)
    if isinstance(source, Dataset):
        return _relabel(source, request, axes)
    return _array(source, None, request, axes, "array", "array")


def _load_path(
    source: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None, request: Request, axes: _Axes
) -> Dataset:
    text = os.fspath(source)
    if not text:
        raise InputError(f"no data: the path is empty; edgeae reads {_FORMS}")
    path, key = Path(text), None
    try:
        # a Path has lost its "./", so that an existing one is taken for what it is
        if text in NAMES and (isinstance(source, str) or not path.exists()):
            _refuse_columns(request, text)
            return _relabel(load_named(text, data_dir), request, axes)
        if text == "-":
            return _table(read_csv(None, request), axes)
        before, colon, after = text.rpartition(":")
        if colon and before.lower().endswith(".npz") and not path.exists():
            path, key = Path(before), after
        return _load_file(path, key, request, axes)
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None


def _load_file(path: Path, key: str | None, request: Request, axes: _Axes) -> Dataset:
    if not path.exists():
        raise InputError(_absent(path))
    where, name = str(path), path.name.lower()
    if path.is_dir():
        rows, layout = read_images(list_images(path))
        return _array(rows, None, request, axes.or_else(layout), where, path.resolve().name)
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{path}: the file is empty; write or copy it again")
    if name.endswith(_CSV_SUFFIXES):
        return _table(read_csv(path, request), axes)
    if name.endswith(_PARQUET_SUFFIXES):
        return _table(read_parquet(path, request), axes)
    if name.endswith(".npz"):
        key, rows, labels = read_npz(path, key, request.label_column)
        return _array(rows, labels, replace(request, label_column=None), axes, f"{where}:{key}", path.name)
    if name.endswith(".npy"):
        return _array(read_npy(path), None, request, axes, where, path.name)
    if name.endswith(IMAGE_SUFFIXES):
        rows, layout = read_images([path])
        return _array(rows, None, request, axes.or_else(layout), where, path.name)
    if is_idx_name(name):
        rows = read_idx(path)
        if rows.ndim == 1:
            raise InputError(f"{path}: holds {len(rows)} single values, probably labels; give the images file")
        beside = labels_beside(path)
        return _array(rows, None if beside is None else read_idx(beside), request, axes, where, path.name)
    if name.endswith(_SHEET_SUFFIXES):
        raise InputError(f"{path}: a spreadsheet; save the sheet with the table as 'CSV UTF-8', with one header line")
    raise InputError(f"{path}: unknown kind of file {path.suffix!r}; edgeae reads {_FORMS}")


def _array(source: Any, labels: Any, request: Request, axes: _Axes, where: str, name: str) -> Dataset:
    _refuse_columns(request, where)
    x = as_rows(source, where, request.missing)
    y = None if labels is None else as_labels(labels, where)
    if y is not None and len(y) != len(x):
        raise InputError(f"{where}: {len(x)} rows but {len(y)} labels; there must be one label per row")
    layout, names = axes.find(x.shape, where), request.feature_names
    if axes.wanted is not None and (layout != "vector" or x.shape[1:] != axes.wanted.shape):
        names = None  # of a bundle whose rows these have yet to become
    return Dataset(x, y, layout, names, name)


def _table(dataset: Dataset, axes: _Axes) -> Dataset:
    if axes.given not in (None, "vector"):
        raise InputError(f"{dataset.source}: the rows of a table are vectors, not {axes.given}; save them as .npy")
    return dataset


def _relabel(dataset: Dataset, request: Request, axes: _Axes) -> Dataset:
    _refuse_columns(request, dataset.source)
    if axes.given is None and request.feature_names is None:
        return dataset
    names = request.feature_names or dataset.feature_names
    return replace(dataset, layout=axes.given or dataset.layout, feature_names=names)


def _refuse_columns(request: Request, where: str) -> None:
    for option, value in (("--columns", request.columns), ("--label-column", request.label_column)):
        if value is not None:
            raise InputError(f"{where}: {option} is for tables (.csv, .parquet), this has no named columns")


def _absent(path: Path) -> str:
    text = str(path)
    known = difflib.get_close_matches(text.lower().replace("_", "-"), NAMES, 1)
    if known and text == path.stem:
        return f"{text}: no such file or data set; did you mean {known[0]}? Known names are {', '.join(NAMES)}"
    close: list[str] = []
    if path.parent.is_dir():
        close = difflib.get_close_matches(path.name, (entry.name for entry in path.parent.iterdir()), 1)
    hint = f"; did you mean {path.with_name(close[0])}?" if close else f"; edgeae reads {_FORMS}"
    return f"{text}: no such file{hint}"
