"""From series of time steps to windows [T, channels]: which column holds timestamps, gaps, labels of windows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgeae.bundle.manifest import Series, StepLabel
from edgeae.data.dataset import Array, Dataset
from edgeae.data.delimited import read_column
from edgeae.data.tables import Request, is_frame
from edgeae.data.timestamps import Gaps, Steps, find_time, parse_period, parse_times, regular_steps, resample
from edgeae.data.windows import window_labels, windows_of
from edgeae.errors import InputError, MissingPackageError

__all__ = ["Times", "Windowing", "check_windowing", "cut_windows", "read_times", "without_times"]

log = logging.getLogger("edgeae")


@dataclass(frozen=True)
class Windowing:
    """How series of steps become windows.

    Attributes:
        length: Steps in a window, T.
        stride: Steps from one window to the next.
        time: The column with timestamps; None: one that is called so ("timestamp", "time", "date", ...), or the first
            one that holds dates.
        resample: Make regular steps so far apart, such as "5min", each the mean of the rows in it. None: the rows are
            the steps, which must be equally far apart.
        gaps: Missing steps: "refuse" them, or "split" the series there. No window ever reaches across a gap.
        label: A window is an anomaly if "any" of its steps is labelled so, or if its "last" one is.

    Example:
        >>> Windowing(48, stride=4, resample="30min").length
        48
    """

    length: int
    stride: int = 1
    time: str | None = None
    resample: str | float | None = None
    gaps: Gaps = "refuse"
    label: StepLabel = "any"


@dataclass(frozen=True)
class Times:
    """Timestamps of a table's rows.

    Attributes:
        column: Where they stand; None for the index of a frame.
        values: int64 [rows], nanoseconds since 1970.
        header: Whether the table has names of its own.
    """

    column: str | None
    values: Array
    header: bool = True


def check_windowing(windowing: Windowing) -> None:
    """Refuse impossible values.

    Raises:
        InputError: naming the field.
    """
    for name in ("length", "stride"):
        value = getattr(windowing, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{'window' if name == 'length' else name} must be a whole number from 1, not {value!r}")
    for name, kind in (("gaps", Gaps), ("label", StepLabel)):
        if getattr(windowing, name) not in get_args(kind):
            raise InputError(f"{name}: {getattr(windowing, name)!r} is not one of {', '.join(get_args(kind))}")
    if windowing.resample is not None:
        parse_period(windowing.resample)


def read_times(source: Any, wanted: str | None, request: Request) -> Times | None:
    """Read the timestamps of a table: a .csv or .parquet file, or a pandas DataFrame.

    Args:
        source: The path, or the frame.
        wanted: Name of the column, or None to find it.
        request: The columns that are asked for as features or labels hold no timestamps, unless `wanted` is one.

    Returns:
        None where there are none.

    Raises:
        InputError: if there is no such column, or what it holds are no timestamps.
        MissingPackageError: for Parquet without pyarrow.
    """
    taken = {request.label_column, *(name for name in request.columns or () if not name.startswith("-"))}
    taken |= set(request.feature_names or ())

    def choose(names: Sequence[str], cells: Sequence[object], where: str) -> int | None:
        at = find_time(names, cells, wanted, where)
        return None if at is None or (wanted is None and names[at] in taken) else at

    if is_frame(source):
        return _times_of_frame(source, wanted, choose)
    path = Path(source)
    if path.name.lower().endswith((".parquet", ".pq")):
        return _times_of_parquet(path, choose)
    found = read_column(path, lambda names, cells: choose(names, cells, str(path)))
    if found is None:
        return None
    name, cells, header = found
    return Times(name, parse_times(cells, str(path)), header)


def _times_of_frame(frame: Any, wanted: str | None, choose: Any) -> Times | None:
    if wanted is None and getattr(frame.index.dtype, "kind", "O") == "M":
        return Times(None, _nanoseconds(frame.index))
    names = [str(name) for name in frame.columns]
    dates = [at for at, kind in enumerate(frame.dtypes) if getattr(kind, "kind", "O") == "M"]
    cells = [frame.iloc[0, at] if len(frame) else None for at in range(len(names))]
    at = dates[0] if dates and wanted is None else choose(names, cells, "DataFrame")
    if at is None:
        return None
    column = frame.iloc[:, at]
    values = _nanoseconds(column.array) if at in dates else parse_times(column.tolist(), "DataFrame")
    return Times(names[at], values, any(isinstance(name, str) for name in frame.columns))


def _nanoseconds(values: Any) -> Array:
    """Return a pandas index or array of dates as int64 nanoseconds; local times as UTC."""
    plain = values.tz_convert(None) if getattr(values, "tz", None) is not None else values
    return np.asarray(plain.to_numpy(), "datetime64[ns]").astype(np.int64)


def _times_of_parquet(path: Path, choose: Any) -> Times | None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            dates = [at for at, kind in enumerate(schema.types) if pa.types.is_timestamp(kind)]
            batch = next(file.iter_batches(1), None)
            cells = [None] * len(schema.names) if batch is None else [column[0].as_py() for column in batch.columns]
            at = choose(schema.names, cells, str(path))
            at = dates[0] if at is None and dates else at
            if at is None:
                return None
            column = file.read(columns=[schema.names[at]]).column(0)
            if at not in dates:
                return Times(schema.names[at], parse_times(column.to_pylist(), str(path)))
            values = column.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy()
            return Times(schema.names[at], np.asarray(values, np.int64))
    except InputError:
        raise
    except (pa.ArrowException, ValueError, OSError) as problem:
        raise InputError(f"{path}: not a readable Parquet file: {str(problem).splitlines()[0]}") from None


def without_times(request: Request, times: Times | None) -> Request:
    """Return what to ask of a table so that its timestamps are no feature."""
    if times is None or times.column is None:
        return request
    left_out = (f"-{times.column}",)
    if request.columns is None:
        named = request.feature_names is not None and times.header  # these columns are taken, and no others
        return request if named else replace(request, columns=left_out)
    if all(name.startswith("-") for name in request.columns) and left_out[0] not in request.columns:
        return replace(request, columns=request.columns + left_out)
    return request


def cut_windows(parts: Sequence[tuple[Dataset, Times | None]], windowing: Windowing) -> Dataset:
    """Cut series of steps into windows.

    The windows of a single series without gaps are views of its steps; else they are copied.

    Args:
        parts: Series of vectors [steps, channels] with the same channels, and their timestamps where there are any.
        windowing: How.

    Returns:
        Windows [n, T, channels] of the layout TC with `steps`, the number of each one's last step; those of a second
        series go on where the first ends.

    Raises:
        InputError: for irregular steps, gaps that may not be, or if no stretch is as long as a window.
    """
    first = parts[0][0]
    series = [_regular(dataset, times, windowing) for dataset, times in parts]
    xs, ys, lasts, numbers = [], [], [], []
    longest = offset = 0
    for (dataset, _), steps in zip(parts, series, strict=True):
        if dataset.row_shape != first.row_shape or dataset.feature_names != first.feature_names:
            raise InputError(f"{dataset.source}: has other channels than {first.source}; all series need the same ones")
        breaks = np.flatnonzero(np.diff(steps.numbers) != 1) + 1
        for begin, end in zip([0, *breaks], [*breaks, len(steps.x)], strict=True):
            longest = max(longest, int(end - begin))
            windows = windows_of(steps.x[begin:end], windowing.length, windowing.stride)
            if not len(windows):
                continue
            xs.append(windows)
            numbers.append(offset + steps.numbers[begin + windowing.length - 1 : end : windowing.stride])
            if steps.y is not None:
                y, shape = steps.y[begin:end], (windowing.length, windowing.stride)
                ys.append(window_labels(y, *shape, windowing.label))
                lasts.append(window_labels(y, *shape, "last"))
        offset += int(steps.numbers[-1]) + windowing.length + windowing.stride
    if not xs:
        raise InputError(
            f"{first.source}: the longest unbroken stretch has {longest} steps, a window {windowing.length}; "
            "choose a shorter --window, or give longer series"
        )
    if len(xs) > 1:
        log.info("%s: %d unbroken stretches, the longest of %d steps", first.source, len(xs), longest)
    labelled = len(ys) == len(xs)
    periods = {steps.period for steps in series}
    return Dataset(
        x=xs[0] if len(xs) == 1 else np.concatenate(xs),
        y=np.concatenate(ys) if labelled else None,
        layout="TC",
        source=first.source,
        series=Series(
            stride=windowing.stride,
            channel_names=first.feature_names,
            period=periods.pop() if len(periods) == 1 else None,
            resampled=windowing.resample is not None,
            label=windowing.label,
        ),
        steps=np.concatenate(numbers),
        step_labels=np.concatenate(lasts) if labelled else None,
    )


def _regular(dataset: Dataset, times: Times | None, windowing: Windowing) -> Steps:
    x = dataset.x if dataset.x.dtype == np.float32 else dataset.x.astype(np.float32)
    if windowing.resample is not None:
        if times is None:
            raise InputError(f"{dataset.source}: has no timestamps to resample by; name their column with --time")
        return resample(x, dataset.y, times.values, parse_period(windowing.resample), dataset.source)
    if times is None:
        return Steps(x, dataset.y, np.arange(len(x), dtype=np.int64))
    return regular_steps(x, dataset.y, times.values, windowing.gaps, dataset.source)
