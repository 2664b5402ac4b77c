"""CSV and its relatives (semicolon, tab), read with the standard library and NumPy alone.

Blocks of plain numbers go through NumPy's C parser; a block with quotes, gaps or anything odd goes through the csv
module, which is exact about where things stand.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from edgeae.data.arrays import has_missing
from edgeae.data.dataset import Array, Dataset
from edgeae.data.kinds import first_bytes, what_it_is
from edgeae.data.tables import Request, Selection, join_blocks, refuse_text, select
from edgeae.errors import InputError

__all__ = ["csv_blocks", "read_column", "read_csv"]

DELIMITERS = ("\t", ";", ",")
MISSING_WORDS = frozenset(
    ("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none", "?")  # lower case
)
SAMPLE_LINES = 64
BLOCK_VALUES = 2**18


@dataclass(frozen=True)
class _Format:
    where: str
    delimiter: str
    names: tuple[str, ...]
    chosen: Selection
    request: Request

    @property
    def label(self) -> str | None:
        return None if self.chosen.label is None else self.names[self.chosen.label]


def read_csv(path: Path | None, request: Request) -> Dataset:
    """Read a table of numbers separated by commas, semicolons or tabs, plain or gzipped.

    The delimiter is found from the first lines. The first line is a header if it has cells that are not numbers, unless
    it has numbers as well and looks like the second line, or if it is 0, 1, 2, ... as pandas writes it for nameless
    columns. Without a header the columns are called "0", "1", ...
    Empty lines are skipped. An empty cell, NA, N/A, NaN, NULL, None and ? are missing values.

    Args:
        path: The file, or None for standard input.
        request: Columns, label column, what to do with missing values.

    Raises:
        InputError: naming line and column of the first thing that is not as it should be.
    """
    with _explained(path), _opened(path) as file:
        form, parts = _begin(file, path, request)
        return join_blocks(parts, form.chosen, request.missing, form.where)


def csv_blocks(path: Path | None, request: Request) -> Iterator[Dataset]:
    """Read the same table a block of rows at a time, as they come; what is missing is filled block by block.

    Args:
        path: See `read_csv`.
        request: See `read_csv`.

    Raises:
        InputError: once it comes to what is not as it should be.
    """
    with _explained(path), _opened(path) as file:
        form, parts = _begin(file, path, request)
        empty = True
        for part in parts:
            if len(part[0]):
                empty = False
                yield join_blocks([part], form.chosen, request.missing, form.where)
        if empty:
            join_blocks([], form.chosen, request.missing, form.where)  # which says so


def read_column(path: Path, choose: Callable[[list[str], list[str]], int | None]) -> tuple[str, list[str], bool] | None:
    """Read one column of such a table as text, for what is no number.

    Args:
        path: The file.
        choose: Gets the columns' names and the cells of the first row, and returns which column, or None for none.

    Returns:
        The column's name, its cells, and whether the table has a header; None if none was chosen.
    """
    with _explained(path), _opened(path) as file:
        sample = _block(file, SAMPLE_LINES)
        delimiter = _find_delimiter(sample)
        records = list(islice(_records(sample, delimiter), 2))
        if not records:
            return None
        names, header, begin = _heading(records)
        at = choose(names, records[-1][2])
        if at is None:
            return None
        cells = []
        for _, lines in _blocks(file, sample, begin, BLOCK_VALUES):
            cells += [record[at] if at < len(record) else "" for _, _, record in _records(lines, delimiter)]
        return names[at], cells, header


@contextlib.contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Turn what reading can raise into errors for people."""
    where = "standard input" if path is None else str(path)
    try:
        yield
    except UnicodeDecodeError as problem:
        raise InputError(f"{where}: not UTF-8 text ({problem.reason}); {what_it_is(path)}") from None
    except csv.Error as problem:
        raise InputError(f"{where}: not a readable CSV file: {problem}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        if path is not None and first_bytes(path)[:2] != b"\x1f\x8b":
            raise InputError(f"{where}: not gzipped; take the .gz off its name") from None
        raise InputError(f"{where}: damaged or cut short ({problem}); copy it again") from None


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is not None and path.suffix.lower() == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as unzipped:
            yield unzipped
    elif path is not None:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    else:
        standard_input = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline="")
        try:
            yield standard_input
        finally:
            standard_input.detach()  # it is not ours to close


def _begin(file: TextIO, path: Path | None, request: Request) -> tuple[_Format, Iterator[tuple[Array, Array | None]]]:
    """Find out what the table is like; return that, and what parses its rows."""
    where = "standard input" if path is None else str(path)
    sample = _block(file, SAMPLE_LINES)
    if any("\0" in line for line in sample):
        raise InputError(f"{where}: holds zero bytes, so it is not a text file; {what_it_is(path)}")
    delimiter = _find_delimiter(sample)
    records = list(islice(_records(sample, delimiter), 2))
    if not records:
        raise InputError(f"{where}: holds no rows, only empty lines; was it written completely?")
    cells = records[0][2]
    names, header, begin = _heading(records)
    if sample[0].lstrip().startswith("<") or (sample[0].lstrip()[:1] in ("[", "{") and _number(cells[0]) is None):
        raise InputError(f"{where}: is HTML, XML or JSON, not a table of numbers; save the table itself as CSV")
    _refuse_one_cell(where, records)
    chosen = select(names, header, request, where)
    form = _Format(where, delimiter, tuple(names), chosen, request)
    blocks = _blocks(file, sample, begin, max(1, BLOCK_VALUES // len(names)))
    return form, (_parse(lines, start, form) for start, lines in blocks)


def _heading(records: list[tuple[int, int, list[str]]]) -> tuple[list[str], bool, int]:
    """Return the columns' names, whether they stand in a header, and how many lines there are before the first row."""
    begin, end, cells = records[0]
    names = [" ".join(cell.splitlines()).strip() for cell in cells]
    positions = list(map(str, range(len(names))))
    numbered = len(names) > 2 and names in (positions, ["", *positions[:-1]])
    header = _is_header(names, records[-1][2]) or (numbered and not names[0])
    if header:
        names[0] = names[0].removeprefix("#").strip()  # as numpy.savetxt writes it
    return names if header else positions, header, end if header or numbered else begin


def _is_header(first: list[str], second: list[str]) -> bool:
    """Tell whether the first of two records holds names rather than a row."""
    text = [_number(cell) is None for cell in first]
    number = [_number(cell) is not None and bool(cell) for cell in first]
    if any(text) and any(number):  # a row with a timestamp, or names like 2019: does it look like the next row?
        return len(second) != len(first) or text != [_number(cell) is None for cell in second]
    return any(text)


def _records(lines: list[str], delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (lines before, lines up to its end, cells) for every record that is not an empty line."""
    reader = csv.reader(lines, delimiter=delimiter)
    before = 0
    for cells in reader:
        if cells and not (len(cells) == 1 and cells[0].isspace()):
            yield before, reader.line_num, cells
        before = reader.line_num


def _block(file: TextIO, count: int) -> list[str]:
    """Read `count` lines, and more where a quoted cell would be cut."""
    lines = list(islice(file, count))
    quotes = sum(line.count('"') for line in lines)
    while quotes % 2 and (more := file.readline()):
        lines.append(more)
        quotes += more.count('"')
    return lines


def _blocks(file: TextIO, sample: list[str], begin: int, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the first line, counted from 1, lines)."""
    yield begin + 1, sample[begin:]
    start = len(sample) + 1
    while lines := _block(file, count):
        yield start, lines
        start += len(lines)


def _find_delimiter(sample: list[str]) -> str:
    counts = {}
    for delimiter in DELIMITERS:
        widths = [len(cells) for cells in csv.reader(sample, delimiter=delimiter) if cells]
        if widths and widths[0] > 1 and len(set(widths)) == 1:
            return delimiter
        counts[delimiter] = widths[0] if widths else 0
    return max(reversed(DELIMITERS), key=lambda delimiter: counts[delimiter])


def _number(cell: str) -> float | None:
    """Return the number in a cell, NaN where it is missing, None where it is something else."""
    cell = cell.strip()
    if cell.lower() in MISSING_WORDS:
        return float("nan")
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _numbers(cells: list[str]) -> list[float | None]:
    try:
        return [None if "_" in cell else float(cell) for cell in cells]
    except ValueError:
        return [_number(cell) for cell in cells]


def _parse(lines: list[str], start: int, form: _Format) -> tuple[Array, Array | None]:
    values = _parse_plain(lines, form)
    if values is None:
        return _parse_any(lines, start, form)
    width = len(form.chosen.positions)
    return values[:, :width].astype(np.float32), None if form.chosen.label is None else values[:, -1]


def _parse_plain(lines: list[str], form: _Format) -> Array | None:
    """Return float64 [rows, used columns], or None where the block needs a closer look."""
    lines = [line for line in lines if not line.isspace()]
    if not lines:
        return np.empty((0, len(form.chosen.used)))
    delimiters = len(form.names) - 1
    if any(line.count(form.delimiter) != delimiters or '"' in line for line in lines):
        return None
    try:
        values = np.loadtxt(
            lines, np.float64, comments=None, delimiter=form.delimiter, usecols=form.chosen.used, ndmin=2
        )
    except ValueError:
        return None
    return values if bool((np.abs(values) <= np.finfo(np.float32).max).all()) else None


def _parse_any(lines: list[str], start: int, form: _Format) -> tuple[Array, Array | None]:
    used = form.chosen.used
    rows, places = [], []
    for before, _, cells in _records(lines, form.delimiter):
        place = f"line {start + before}"
        if len(cells) != len(form.names):
            raise InputError(
                f"{form.where}: {place} has {len(cells)} cells, the first line has {len(form.names)} "
                f"(separated by {_called(form.delimiter)}); {_hint(cells, form)}"
            )
        numbers = _numbers([cells[position] for position in used])
        if form.chosen.label is not None:
            numbers[-1] = _label(cells[form.chosen.label], place, form)
        if None in numbers:
            raise _not_numbers(cells, numbers, place, form)
        rows.append(numbers)
        places.append(place)
    exact = np.array(rows, np.float64).reshape(len(rows), len(used))
    features = exact[:, : len(form.chosen.positions)]
    with np.errstate(over="ignore", under="ignore"):
        values = features.astype(np.float32)

    def where_is(index: tuple[int, ...]) -> str:
        return f"{places[index[0]]}, column {form.chosen.names[index[1]]!r}"

    has_missing(values, features, form.where, form.request.missing, where_is)
    return values, None if form.chosen.label is None else exact[:, -1]


def _label(cell: str, place: str, form: _Format) -> float | None:
    truth = {"true": 1.0, "false": 0.0}.get(cell.strip().lower())
    number = _number(cell) if truth is None else truth
    if number is not None and not np.isfinite(number):
        raise InputError(f"{form.where}: {place} has no label in column {form.label!r}; add it or remove the row")
    return number


def _not_numbers(cells: list[str], numbers: list[float | None], place: str, form: _Format) -> InputError:
    text = [position for position, number in zip(form.chosen.used, numbers, strict=True) if number is None]
    example = cells[text[0]].strip()
    column = form.names[text[0]]
    if "\n" in example:
        return InputError(
            f"{form.where}: {place}, column {column!r}: a quotation mark is not closed on that line; correct it"
        )
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(?:([,.' \u00a0\u202f])\d{3})(?:\1\d{3})*(?:[.,]\d+)?", example):
        mark = re.sub(r"[+\-\d]", "", example)[0]
        one_comma = mark == "," and example.count(",") == 1 and "." not in example
        meant = f"{example.replace(mark, '')} or {example.replace(mark, '.')}" if one_comma else "1234567.5"
        return InputError(
            f"{form.where}: {place}, column {column!r}: {example!r} has {'a decimal comma or ' * one_comma}"
            f"thousands separators; write plain numbers, such as {meant}"
        )
    if re.fullmatch(r"[+-]?[\d.]*,\d+", example):
        return InputError(
            f"{form.where}: {place}, column {column!r}: {example!r} has a decimal comma; write numbers with a point"
        )
    return refuse_text([form.names[position] for position in text], example, place, form.label, form.where)


def _refuse_one_cell(where: str, records: list[tuple[int, int, list[str]]]) -> None:
    """Refuse lines that are not cut into cells at all, before a column is looked for in them."""
    if any(len(cells) != 1 for _, _, cells in records):
        return
    number, cell = records[-1][0] + 1, records[-1][2][0].strip()
    if _number(cell) is None and re.search(r"[\s|:]", cell):
        raise InputError(
            f"{where}: line {number}: {cell[:40]!r} is one cell; separate columns by commas, semicolons or tabs "
            "(numpy.savetxt: delimiter=','), and remove lines above the table"
        )


def _hint(cells: list[str], form: _Format) -> str:
    width = len(form.names)
    if len(cells) == width + 1 and not cells[-1].strip():
        return f"remove the {_called(form.delimiter)[:-1]} at the end of the lines"
    if width == 1:
        return "remove the lines above the table, or correct that line"
    if form.delimiter == "," and len(cells) > width:
        return (
            "correct that line; commas within numbers (decimal, thousands) are not understood: write a point, or none"
        )
    return "correct that line"


def _called(delimiter: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}[delimiter]
