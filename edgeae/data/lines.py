"""Scores for lines of text as they come, one sample a line: `edgeae score BUNDLE - --stream`."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeae.data.delimited import DELIMITERS, MISSING_WORDS
from edgeae.data.timestamps import find_time, parse_times
from edgeae.errors import InputError

if TYPE_CHECKING:
    from edgeae.runtime.stream import Step, Stream

__all__ = ["HEADER", "MAX_LINE", "score_samples"]

HEADER: Final = "row,score,anomaly,alarm\n"
MAX_LINE: Final = 2**20  # bytes


@dataclass(frozen=True)
class _Columns:
    """Where what is wanted stands in a line."""

    delimiter: str
    count: int
    channels: tuple[int, ...]
    time: int | None
    header: bool


def score_samples(stream: Stream, lines: Iterable[bytes], *, time: str | None = None) -> Iterator[str]:
    """Answer each line of numbers with a line: row, score, anomaly, alarm.

    Cells are separated by commas, semicolons or tabs. A first line of names is a header: columns are found by the names
    of the bundle's channels, where it has them. Without, a line has one cell for each channel, and perhaps a timestamp.
    Timestamps more than one and a half periods apart are a gap, after which windows begin anew. Empty lines are passed
    over.

    Args:
        stream: What takes the samples. If its model flags invalid rows, a line that cannot be read gets the score NaN.
        lines: UTF-8, one sample each.
        time: Name of the column with timestamps, where it is not plain.

    Yields:
        For each sample, before the next line is asked for, its answer. The score is empty until a window is full.

    Raises:
        InputError: naming the line and what is wrong with it.

    Example:
        >>> import edgeae
        >>> from edgeae.runtime import Stream
        >>> with edgeae.load("export/golden/table", device="cpu") as model:
        ...     rows = (",".join(map(str, row)).encode() for row in model.bundle.golden().x)
        ...     len(list(score_samples(Stream(model), rows)))
        8
    """
    columns: _Columns | None = None
    before: int | None = None
    for number, line in enumerate(lines, 1):
        where = f"line {number}"
        try:
            cells = _cells(line, columns, where)
            if cells is None:
                continue
            if columns is None:
                columns = _find(stream, cells, _delimiter(line), time, where)
                if columns.header:
                    continue
            if len(cells) != columns.count:
                raise InputError(f"{where}: has {len(cells)} cells, {columns.count} are expected")
            sample = [_number(cells[at], where) for at in columns.channels]
            if columns.time is not None:
                now = int(parse_times([cells[columns.time]], where)[0])
                before = _follow(stream, before, now, where)
            step = stream.push(sample)
        except InputError as problem:
            if columns is None or not stream.flags_invalid:
                raise problem if str(problem).startswith(where) else InputError(f"{where}: {problem}") from None
            step = stream.push([math.nan] * stream.channels)
        yield _answer(step)


def _cells(line: bytes, columns: _Columns | None, where: str) -> list[str] | None:
    """Return a line's cells, or None for an empty one."""
    if len(line) >= MAX_LINE:
        raise InputError(f"{where}: is longer than {MAX_LINE:,} bytes; give one sample a line")
    try:
        text = line.decode("utf-8-sig").strip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{where}: is not UTF-8 text") from None
    if not text.strip():
        return None
    try:
        return next(csv.reader([text], delimiter=columns.delimiter if columns else _delimiter(line)))
    except csv.Error as problem:
        raise InputError(f"{where}: is no line of CSV: {problem}") from None


def _delimiter(line: bytes) -> str:
    return max(reversed(DELIMITERS), key=lambda mark: line.count(mark.encode()))


def _find(stream: Stream, cells: list[str], delimiter: str, time: str | None, where: str) -> _Columns:
    """Take the first line for a header or a sample, and find the channels in it."""
    names, wanted = [cell.strip() for cell in cells], stream.channels
    plain = [_is_number(cell) for cell in names]
    dated = find_time([""] * len(cells), names, None, where)
    header = not all(fits or at == dated for at, fits in enumerate(plain))
    known = stream.channel_names
    at_time = find_time(names, [], time, where) if header else dated if len(cells) > wanted else None
    if at_time is not None and known is not None and names[at_time] in known and time is None:
        at_time = None
    if header and known is not None:
        missing = [name for name in known if names.count(name) != 1]
        if missing:
            raise InputError(
                f"{where}: the header has no one column {missing[0]!r}; its columns are {', '.join(names)}"
            )
        return _Columns(delimiter, len(cells), tuple(names.index(name) for name in known), at_time, header)
    channels = tuple(at for at in range(len(cells)) if at != at_time)
    if len(channels) != wanted:
        raise InputError(
            f"{where}: has {len(channels)} columns, the bundle {wanted} channel{'s' if wanted > 1 else ''}"
        )
    return _Columns(delimiter, len(cells), channels, at_time, header)


def _is_number(cell: str) -> bool:
    try:
        _number(cell, "")
    except InputError:
        return False
    return True


def _number(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        if cell.strip().lower() in MISSING_WORDS:
            return math.nan
        raise InputError(f"{where}: {cell[:40]!r} is not a number") from None


def _follow(stream: Stream, before: int | None, now: int, where: str) -> int:
    """Tell the stream of a gap before the sample at `now`."""
    if before is not None and now <= before:
        raise InputError(f"{where}: its timestamp is not after that of the sample before it")
    if before is not None and stream.period is not None and now - before > 1.5e9 * stream.period:
        stream.gap()
    return now


def _answer(step: Step) -> str:
    score = "" if step.score is None else f"{step.score:.9g}"
    return f"{step.row},{score},{int(step.anomaly)},{int(step.alarm)}\n"
