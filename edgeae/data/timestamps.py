"""Timestamps of the steps of a series: reading them, regular steps and gaps, and resampling to regular steps."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from edgeae.data.dataset import Array
from edgeae.errors import InputError

__all__ = ["Gaps", "Steps", "find_time", "parse_period", "parse_times", "regular_steps", "resample", "said_period"]

Gaps = Literal["refuse", "split"]

NAMES: Final = ("time", "timestamp", "datetime", "date", "ts", "ds", "date_time", "time_stamp")
SECOND: Final = 10**9  # times are int64, nanoseconds since 1970
UNITS: Final = {"ms": 10**6, "s": SECOND, "min": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
JITTER: Final = 0.05  # of a period, by which a step may come early or late
SPARSE: Final = 100  # times as many steps as there are rows to make them of are a mistake

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


@dataclass(frozen=True)
class Steps:
    """Series in their regular steps.

    Attributes:
        x: [m, channels].
        y: Whole-number labels [m], or None.
        numbers: int64 [m], ascending: which step of its series each is, from 0; more than one apart at a gap.
        period: Seconds from one step to the next, or None.
    """

    x: Array
    y: Array | None
    numbers: Array
    period: float | None = None


def find_time(names: Sequence[str], cells: Sequence[object], wanted: str | None, where: str) -> int | None:
    """Return which column holds timestamps: the one `wanted`, one that is called so, or the first with a date in it.

    Args:
        names: Of the columns.
        cells: What stands in the first row.
        wanted: Its name, or None.
        where: Name for messages.

    Raises:
        InputError: if there is no such column.
    """
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"{where}: no column {wanted!r} with timestamps; its columns are {', '.join(names[:12])}")
        return list(names).index(wanted)
    for position, name in enumerate(names):
        if name.lower() in NAMES:
            return position
    return next((at for at, cell in enumerate(cells) if isinstance(cell, str) and _is_date(cell)), None)


def _is_date(cell: str) -> bool:
    if len(cell.strip()) < 8 or cell.strip().isdigit():
        return False
    try:
        return _parsed(cell) is not None
    except ValueError:
        return False


def _parsed(cell: str) -> int:
    moment = datetime.datetime.fromisoformat(cell.strip())
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
    return (moment - _EPOCH) // _MICROSECOND * 1000


def parse_times(cells: Sequence[Any], where: str) -> Array:
    """Return int64 [n], nanoseconds since 1970, of timestamps.

    Text is ISO 8601 ("2024-05-31 13:00:00", with or without an offset from UTC). Numbers are seconds, or milli-, micro-
    or nanoseconds where they are too large for seconds of this millennium.

    Raises:
        InputError: naming the first row that holds neither.

    Example:
        >>> parse_times(["1970-01-01 00:01", "1970-01-01T00:02:00+00:00"], "series.csv") // 10**9
        array([ 60, 120])
    """
    made = np.empty(len(cells), np.int64)
    scale = 0.0
    for row, cell in enumerate(cells):
        try:
            if isinstance(cell, str) and not _is_number(cell):
                made[row] = _parsed(cell)
                continue
            number = float(cell)
            scale = scale or _unit(number)
            made[row] = round(number * scale)
        except (ValueError, TypeError, OverflowError):
            raise InputError(
                f"{where}: row {row} (counting from 0) has the timestamp {str(cell)[:40]!r}; write ISO 8601, such as "
                "2024-05-31 13:00:00, or seconds"
            ) from None
    return made


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", cell) is not None


def _unit(number: float) -> float:
    size = abs(number)
    return SECOND if size < 1e11 else 1e6 if size < 1e14 else 1e3 if size < 1e17 else 1.0


def parse_period(text: str | float) -> int:
    """Return a period such as "5min" in nanoseconds: a number and ms, s, min, h or d; a number alone is seconds.

    Raises:
        InputError: if it is none.

    Example:
        >>> parse_period("5min") == parse_period(300)
        True
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(ms|s|min|h|d)?\s*", text) if isinstance(text, str) else None
    period = round(float(found[1]) * UNITS[found[2] or "s"]) if found else 0
    if not isinstance(text, str) and math.isfinite(text):
        period = round(text * SECOND)
    if period <= 0:
        raise InputError(f"resample: {text!r} is no period; write a number and ms, s, min, h or d, such as 5min")
    return period


def said_period(nanoseconds: float) -> str:
    """Return a period for people, in a form that `parse_period` reads.

    Example:
        >>> said_period(300 * 10**9)
        '5min'
    """
    name = next((name for name, unit in reversed(UNITS.items()) if nanoseconds >= unit), "ms")
    return f"{nanoseconds / UNITS[name]:.6g}{name}"


def said_time(nanoseconds: int) -> str:
    """Return a moment for people."""
    return str((_EPOCH + nanoseconds // 1000 * _MICROSECOND).replace(tzinfo=None))


def regular_steps(x: Array, y: Array | None, times: Array, gaps: Gaps, where: str) -> Steps:
    """Take rows as steps, which must be equally far apart, but for gaps if those may be.

    A step may come a twentieth of the period early or late. What comes after more than one and a half periods comes
    after a gap.

    Raises:
        InputError: naming the first row that comes too early, or after a gap, and what to do.
    """
    numbers = np.arange(len(x), dtype=np.int64)
    if len(times) < 2:
        return Steps(x, y, numbers)
    between = np.diff(times)
    period = int(np.median(between))
    usual = said_period(max(period, 1))
    remedy = f"--resample {usual} makes regular steps"
    wrong = np.flatnonzero(between <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        raise InputError(
            f"{where}: row {row} (counting from 0), {said_time(int(times[row]))}, is not after the row before it, "
            f"{said_time(int(times[row - 1]))}; sort the rows and remove repeated ones, or {remedy}"
        )
    wrong = np.flatnonzero((np.abs(between - period) > JITTER * period) & (between <= 1.5 * period))
    if len(wrong):
        row = int(wrong[0]) + 1
        raise InputError(
            f"{where}: row {row} (counting from 0), {said_time(int(times[row]))}, comes "
            f"{said_period(between[row - 1])} after the row before it, where {usual} is usual "
            f"({len(wrong):,} such rows); {remedy}"
        )
    late = np.flatnonzero(between > 1.5 * period)
    if len(late) and gaps == "refuse":
        row = int(late[0]) + 1
        raise InputError(
            f"{where}: steps are missing before row {row} (counting from 0), {said_time(int(times[row]))}: it comes "
            f"{said_period(between[row - 1])} after the row before it, where {usual} is usual ({len(late):,} gaps); "
            "--gaps split keeps windows within the stretches between gaps"
        )
    lost = np.maximum(1, np.rint(between[late] / period).astype(np.int64) - 1)
    shift = np.zeros(len(x), np.int64)
    shift[late + 1] = lost
    return Steps(x, y, numbers + np.cumsum(shift), period / SECOND)


def resample(x: Array, y: Array | None, times: Array, period: int, where: str) -> Steps:
    """Make regular steps of rows at any times: the mean of the rows in each period, the largest of their labels.

    Periods begin at multiples of the period since 1970, so that the same data give the same steps wherever they begin.
    A period without rows is a gap: nothing is made up.

    Args:
        x: float32 [n, channels].
        y: Labels [n], or None.
        times: int64 [n], nanoseconds, in any order.
        period: Nanoseconds.
        where: Name for messages.

    Raises:
        InputError: if the period is far shorter than the rows are apart.

    Example:
        >>> made = resample(np.float32([[1], [3], [5]]), None, np.array([0, 1, 20]) * 10**9, parse_period("10s"), "x")
        >>> made.x[:, 0].tolist(), made.numbers.tolist()
        ([2.0, 5.0], [0, 2])
    """
    place = times // period
    first = int(place.min())
    place = place - first
    count = int(place.max()) + 1
    filled, back = np.unique(place, return_inverse=True)
    if count > SPARSE * len(filled) and len(filled) > 1:
        raise InputError(
            f"{where}: {len(x):,} rows in {count:,} periods of {said_period(period)}, nearly all of which are empty; "
            f"resample to a longer one, about {said_period(float(np.ptp(times)) / max(1, len(x) - 1))}"
        )
    rows = np.bincount(back)
    columns = [np.bincount(back, column) / rows for column in x.T.astype(np.float64)]
    labels = None
    if y is not None:
        labels = np.full(len(filled), y.min(), y.dtype)
        np.maximum.at(labels, back, y)
    return Steps(np.stack(columns, axis=1).astype(np.float32), labels, filled, period / SECOND)
