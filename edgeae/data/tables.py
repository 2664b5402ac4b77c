"""Tables with named columns: which columns become features, which one is the label; pandas frames and Parquet files."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeae.data.arrays import Missing, as_labels, has_missing, impute
from edgeae.data.dataset import Array, Dataset
from edgeae.errors import InputError, MissingPackageError

__all__ = ["Request", "Selection", "is_frame", "join_blocks", "read_frame", "read_parquet", "refuse_text", "select"]

BATCH_ROWS = 2**16


@dataclass(frozen=True)
class Request:
    """What the caller wants from a table; see `load_data`."""

    columns: tuple[str, ...] | None = None
    label_column: str | None = None
    missing: Missing = "refuse"
    feature_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Selection:
    """The columns of one table that are used.

    Attributes:
        positions: Where the features are, in the order asked for.
        label: Where the label is, or None.
        names: The features' names, for messages (positions where the table has no header).
        feature_names: The features' names as the data set gets them, or None.
    """

    positions: tuple[int, ...]
    label: int | None
    names: tuple[str, ...]
    feature_names: tuple[str, ...] | None

    @property
    def used(self) -> tuple[int, ...]:
        """Positions of the features and, last, the label."""
        return self.positions if self.label is None else (*self.positions, self.label)


def select(names: Sequence[str], header: bool, request: Request, where: str) -> Selection:
    """Choose the columns of a table.

    Args:
        names: The table's column names; without a header their positions "0", "1", ...
        header: Whether the table has names of its own.
        request: What the caller wants. Columns that all begin with "-" are left out instead of taken. With a header and
            no columns, `feature_names` are the columns to take.
        where: Name for messages.

    Raises:
        InputError: for names that are not there, not unique or taken twice.
    """
    counts = Counter(names)
    first = {name: position for position, name in reversed(list(enumerate(names)))}

    def find(name: str) -> int:
        if name not in first:
            close = [other for other in names if other.lower() == name.lower()]
            close = close or difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            kind = "its columns are" if header else "it has no header, its columns are"
            raise InputError(f"{where}: no column {name!r}; {hint}{kind} {_listed(names)}")
        if counts[name] > 1:
            raise InputError(f"{where}: {counts[name]} columns are called {name!r}; give them different names")
        return first[name]

    label = None if request.label_column is None else find(request.label_column)
    wanted = request.columns
    if wanted is None and header:
        wanted = request.feature_names
    if wanted is None or (wanted and all(name.startswith("-") and name not in first for name in wanted)):
        left_out = {find(name[1:]) for name in wanted or ()} | {label}
        positions = tuple(position for position in range(len(names)) if position not in left_out)
        for position in positions:
            if not names[position]:
                like = "the index that pandas writes (index=False writes none)"
                if position == len(names) - 1 and position:
                    like = "what a delimiter at the end of the lines makes"
                raise InputError(
                    f"{where}: column {position} (counting from 0) has no name, like {like}; "
                    "leave it out with --columns=-"
                )
            if counts[names[position]] > 1:
                find(names[position])
    else:
        positions = tuple(find(name) for name in wanted)
        if len(set(positions)) < len(positions):
            twice = next(name for name, times in Counter(wanted).items() if times > 1)
            raise InputError(f"{where}: the column {twice!r} is chosen twice")
        if label in positions:
            raise InputError(f"{where}: {request.label_column!r} is the label column, it cannot be a feature as well")
    if not positions:
        raise InputError(f"{where}: no column is left as a feature; its columns are {_listed(names)}")
    feature_names = tuple(names[position] for position in positions) if header else None
    if request.feature_names is not None:
        if len(request.feature_names) != len(positions):
            wanted = request.feature_names
            raise InputError(
                f"{where}: {len(positions)} columns{'' if header else ' and no header'}, where {len(wanted)} are "
                f"wanted: {_listed(wanted)}; give these columns, or choose them with --columns"
            )
        feature_names = request.feature_names
    return Selection(positions, label, tuple(names[position] for position in positions), feature_names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown}, ... ({len(names)} in all)"


def refuse_text(columns: Sequence[str], example: str, place: str, label: str | None, where: str) -> InputError:
    """Make the error for columns that hold something else than numbers.

    Args:
        columns: Their names, the label column last.
        example: What stands in the first of them.
        place: Where it stands.
        label: Name of the label column, or None.
        where: Name for messages.
    """
    shown = repr(example if len(example) <= 40 else f"{example[:37]}...")
    columns = [name for name in columns if name != label]
    if not columns:
        return InputError(
            f"{where}: {place}, label column {label!r}: {shown} is not a whole number; "
            "write 0 for normal rows and 1 for anomalies, or a number for each class"
        )
    several = f", nor is what stands in {', '.join(map(repr, columns[1:]))}" if len(columns) > 1 else ""
    return InputError(
        f"{where}: {place}, column {columns[0]!r}: {shown} is not a number{several}; leave such columns out with "
        f"--columns={','.join(f'-{name}' for name in columns)}, or encode them as numbers"
    )


def join_blocks(
    blocks: Iterable[tuple[Array, Array | None]], chosen: Selection, missing: Missing, where: str
) -> Dataset:
    """Put blocks of (features float32 [rows, d], labels [rows] or None) together and fill what is missing."""
    features, labels = [], []
    for values, label in blocks:
        features.append(values)
        if label is not None:
            labels.append(label)
    if not sum(map(len, features)):
        raise InputError(f"{where}: has a header but no rows; was it written completely?")
    x = np.concatenate(features)
    if missing in ("mean", "median", "zero"):
        impute(x, where, missing, chosen.names)
    y = as_labels(np.concatenate(labels), where) if labels else None
    return Dataset(x, y, "vector", chosen.feature_names, Path(where).name)


def is_frame(source: object) -> bool:
    """Tell, without importing pandas, whether `source` is a pandas DataFrame."""
    kind = type(source)
    return kind.__name__ == "DataFrame" and kind.__module__.split(".")[0] == "pandas"


def read_frame(frame: Any, request: Request) -> Dataset:
    """Read a pandas DataFrame; column labels that are not text (0, 1, ...) count as no header."""
    where = "DataFrame"
    names = [str(name) for name in frame.columns]
    chosen = select(names, any(isinstance(name, str) for name in frame.columns), request, where)
    columns = [frame.iloc[:, position] for position in chosen.used]
    label = None if chosen.label is None else names[chosen.label]
    text = [names[position] for position, column in zip(chosen.used, columns, strict=True) if not _is_number(column)]
    if text and len(frame):
        example = str(columns[chosen.used.index(names.index(text[0]))].iloc[0])
        raise refuse_text(text, example, "row 0", label, where)
    table = np.empty((len(frame), len(columns)), np.float64)
    for index, column in enumerate(columns):
        table[:, index] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return join_blocks([_checked(table, 0, chosen, request.missing, where)], chosen, request.missing, where)


def _is_number(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "biuf"


def read_parquet(path: Path, request: Request) -> Dataset:
    """Read a Parquet file, batch by batch; an index that pandas stored is left out unless it is asked for.

    Raises:
        InputError: for a damaged file, columns that are not numbers, missing values.
        MissingPackageError: without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingPackageError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            index = [name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)]
            asked = {*(request.columns or ()), *(request.feature_names or ()), request.label_column}
            names = [name for name in schema.names if name not in index or name in asked]
            chosen = select(names, True, request, str(path))
            used = [names[position] for position in chosen.used]
            text = [name for name in used if not _is_arrow_number(pa.types, schema.field(name).type)]
            if text and file.metadata.num_rows:
                value = next(file.iter_batches(1, columns=[text[0]])).column(0)[0]
                label = None if chosen.label is None else used[-1]
                raise refuse_text(text, str(value.as_py()), "row 0", label, str(path))
            batches = _parquet_batches(pa, file, used, chosen, request.missing, str(path))
            return join_blocks(batches, chosen, request.missing, str(path))
    except InputError:
        raise
    except (pa.ArrowException, ValueError, OSError) as problem:
        reason = str(problem).splitlines()[0]
        raise InputError(f"{path}: not a readable Parquet file: {reason}") from None


def _is_arrow_number(types: Any, kind: Any) -> bool:
    return any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def _parquet_batches(
    pa: Any, file: Any, used: list[str], chosen: Selection, missing: Missing, where: str
) -> Iterator[tuple[Array, Array | None]]:
    start = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=used):
        table = np.empty((batch.num_rows, len(used)), np.float64)
        for index, name in enumerate(used):
            column = batch.column(batch.schema.get_field_index(name))
            table[:, index] = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        yield _checked(table, start, chosen, missing, where)
        start += batch.num_rows


def _checked(table: Array, start: int, chosen: Selection, missing: Missing, where: str) -> tuple[Array, Array | None]:
    """Split float64 [rows, features (+ label)] that begins at row `start` of its table."""

    def place(index: tuple[int, ...]) -> str:
        return f"row {start + index[0]} (counting from 0), column {chosen.names[index[1]]!r}"

    features = table[:, : len(chosen.positions)]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        values = features.astype(np.float32)
    has_missing(values, features, where, missing, place)
    return values, None if chosen.label is None else table[:, -1]
