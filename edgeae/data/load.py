"""From a file, a name or an array to a `Dataset`."""

from __future__ import annotations

import difflib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgeae.bundle.manifest import LAYOUTS, Input, Layout, Series
from edgeae.data.arrays import Missing, as_labels, as_rows, find_layout, read_npy, read_npz
from edgeae.data.dataset import Dataset
from edgeae.data.delimited import csv_blocks, read_csv
from edgeae.data.idx import is_idx_name, labels_beside, read_idx
from edgeae.data.images import IMAGE_SUFFIXES, list_images, read_images
from edgeae.data.named import NAMES, load_named
from edgeae.data.series import Times, Windowing, check_windowing, cut_windows, read_times, without_times
from edgeae.data.tables import Request, is_frame, read_frame, read_parquet
from edgeae.data.timestamps import JITTER, said_period
from edgeae.errors import InputError

__all__ = ["load_data", "load_rows", "row_blocks"]

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
    windows: Windowing | None = None,
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
        windows: The rows are steps of a series, [steps, channels], of which windows [T, channels] are to be cut: how.
            A folder of .csv, .parquet and .npy files, and a list of arrays, frames or paths, are several series.

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
    if windows is not None:
        check_windowing(windows)
        if layout not in (None, "TC"):
            raise InputError(f"layout {layout!r}: windows of a series have the layout TC; leave it out")
        return _load_series(source, data_dir, request, windows)
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
    become uint8 for a bundle that takes uint8. Of a series [steps, channels], a bundle for windows gets every window,
    cut as its own were, but one per step and none across a gap.

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
    if wanted.layout == "TC":
        dataset = _load_windows(source, data_dir, request, wanted)
    else:
        dataset = _load(source, data_dir, request, _Axes(wanted=wanted))
    return _fitted(dataset, wanted)


def row_blocks(
    source: Any,
    wanted: Input,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Dataset]:
    """Yield the rows of `load_rows`: of CSV on standard input ("-") a block at a time, as they come, others at once.

    Args:
        source: See `load_data`, like the other arguments.
        wanted: `manifest.input` of the bundle.

    Raises:
        InputError: if the rows do not fit, once it comes to them.
    """
    if isinstance(source, str) and source == "-" and wanted.layout != "TC":
        request = Request(None if columns is None else tuple(columns), label_column, "refuse", wanted.feature_names)
        for block in csv_blocks(None, request):
            yield _fitted(block, wanted)
    else:
        yield load_rows(source, wanted, data_dir=data_dir, label_column=label_column, columns=columns)


def _fitted(dataset: Dataset, wanted: Input) -> Dataset:
    """Return rows in the shape, the layout and the type that a bundle takes."""
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
    return replace(dataset, x=x, layout=wanted.layout, feature_names=wanted.feature_names)


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


def _load_series(
    source: Any, data_dir: str | os.PathLike[str] | None, request: Request, windowing: Windowing
) -> Dataset:
    """Load the steps of one series or several, and cut them into windows."""
    sources = list(source) if _is_list_of_series(source) else [source]
    if len(sources) == 1 and isinstance(source, str | os.PathLike) and Path(source).is_dir():
        kinds = (*_CSV_SUFFIXES, *_PARQUET_SUFFIXES, ".npy")
        sources = sorted(path for path in Path(source).iterdir() if path.name.lower().endswith(kinds))
    if not sources:
        raise InputError(f"{source}: holds no series; edgeae takes .csv, .parquet and .npy files in a folder")
    return cut_windows([_load_steps(each, data_dir, request, windowing) for each in sources], windowing)


def _is_list_of_series(source: Any) -> bool:
    if not isinstance(source, list | tuple) or not source:
        return False
    return all(isinstance(each, str | os.PathLike | Dataset) or is_frame(each) or np.ndim(each) == 2 for each in source)


def _load_steps(
    source: Any, data_dir: str | os.PathLike[str] | None, request: Request, windowing: Windowing
) -> tuple[Dataset, Times | None]:
    """Load the steps [m, channels] of one series, and their timestamps if there are any."""
    if isinstance(source, str) and source == "-":
        with tempfile.TemporaryDirectory() as folder:  # it is read twice
            copy = Path(folder) / "standard input.csv"
            copy.write_bytes(sys.stdin.buffer.read())
            return _load_steps(copy, data_dir, request, windowing)
    times = None
    if _is_table(source):
        try:
            times = read_times(source, windowing.time, request)
        except OSError as problem:
            raise InputError(f"{source}: cannot be read: {problem.strerror or problem}") from None
    elif windowing.time is not None:
        raise InputError(f"--time {windowing.time}: is for tables (.csv, .parquet), this has no named columns")
    elif isinstance(source, str | os.PathLike) and str(source).lower().endswith(".npy") and Path(source).is_file():
        source = read_npy(Path(source))
    if not isinstance(source, str | os.PathLike | Dataset) and not is_frame(source) and np.ndim(source) == 1:
        source = np.asarray(source)[:, None]
    dataset = _load(source, data_dir, without_times(request, times), _Axes())
    if dataset.layout != "vector":
        raise InputError(
            f"{dataset.source}: rows of shape {dataset.row_shape}; a series is [steps, channels]. "
            "Leave --window out if these are windows already (--layout TC)"
        )
    return dataset, times


def _is_table(source: Any) -> bool:
    if is_frame(source):
        return True
    tables = (*_CSV_SUFFIXES, *_PARQUET_SUFFIXES)
    return isinstance(source, str | os.PathLike) and str(source).lower().endswith(tables) and Path(source).is_file()


def _load_windows(source: Any, data_dir: str | os.PathLike[str] | None, request: Request, wanted: Input) -> Dataset:
    """Load rows for a bundle that takes windows: windows as they are, or all those of a series."""
    series, (length, channels) = wanted.series or Series(), wanted.shape
    windowing = Windowing(
        length, resample=series.period if series.resampled else None, gaps="split", label=series.label
    )
    plain = isinstance(source, Dataset) or (not isinstance(source, str | os.PathLike) and np.ndim(source) > 2)
    if plain or length == 1 or not (_is_table(source) or (isinstance(source, str) and source == "-")):
        dataset = _load(source, data_dir, request, _Axes(wanted=wanted))
        if dataset.row_shape != (channels,) or length == 1:
            return dataset
        return cut_windows([(dataset, None)], windowing)
    dataset, times = _load_steps(source, data_dir, replace(request, feature_names=series.channel_names), windowing)
    if times is None and dataset.row_shape == (length * channels,):
        return dataset
    if dataset.row_shape != (channels,):
        raise InputError(
            f"{dataset.source}: has {dataset.row_shape[0]} columns, the bundle's windows {channels} channels; give the "
            "series it was trained on, or choose columns with --columns"
        )
    made = cut_windows([(dataset, times)], windowing)
    period = made.series.period if made.series is not None else None
    if period is not None and series.period is not None and abs(period / series.period - 1) > JITTER:
        raise InputError(
            f"{dataset.source}: its steps are {said_period(period * 1e9)} apart, those of the bundle's windows "
            f"{said_period(series.period * 1e9)}; give a series of that period"
        )
    return made


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
