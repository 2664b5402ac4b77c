"""What a decoder is corrected by, so that every value is within a bound, and the same on every machine.

Rows come out on a grid: value = unit · K with whole K. The decoder's value is rounded to the grid, and corrections,
whole multiples of `step` units, are added where the row would be beyond its bound. Decoders differ in their last bits
from machine to machine, and rounding hides that but near a tie; so wherever the decoder is within a margin of a tie,
the file says which way it was rounded. Any decoder within the margin gives the same bits, which a checksum shows.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeae.codec.coders import Array, Coder, Cursor
from edgeae.errors import InputError

__all__ = [
    "Corrected",
    "Grid",
    "apply_residuals",
    "check_margins",
    "correct",
    "grid_for",
    "grid_within",
    "margins_of",
    "pack_residuals",
]

FAR: Final = 2.0**30  # units; what is beyond is stored as it is
FIRM: Final = 0.25  # units that another decoder may be off at most
PIECE: Final = 2**16  # values at a time, which stay in cache
BY_ROW: Final = 0
BY_VALUE: Final = 1
DECODER: Final = 0
NOTHING: Final = 1
WORTH: Final = 0.125  # bytes a value, above which rows may be smaller without the model
_GRID: Final = struct.Struct("<BdI")


@dataclass(frozen=True)
class Grid:
    """How rows are rounded and corrected.

    Attributes:
        unit: Distance of two values that may come out: 1 for whole numbers, else a power of two.
        step: Corrections are multiples of so many units; 0 for none at all.
    """

    unit: float
    step: int


@dataclass(frozen=True, eq=False)
class Corrected:
    """Rows that are within their bound, and what made them so.

    Attributes:
        rows: [n, values] of the rows' dtype: what every reader gets.
        corrections: int32 [n, values], in multiples of the grid's step.
        ties: int64 [k], ascending places in [n, values] at which the decoder was about halfway between two units.
        up: uint8 [k], whether it was rounded up there.
        places: int64 [j], ascending places of values stored as they are.
        values: float32 [j], those.
        squared_error: Sum over all values.
        largest_error: Of all values.
    """

    rows: Array
    corrections: Array
    ties: Array
    up: Array
    places: Array
    values: Array
    squared_error: float
    largest_error: float


def grid_for(max_error: float, *, whole: bool) -> Grid:
    """Return the coarsest grid whose corrections keep every value within `max_error`.

    Args:
        max_error: Largest absolute error, in the units of the rows.
        whole: Whether the rows are whole numbers.
    """
    if whole:
        return Grid(1.0, 2 * math.floor(max_error) + 1)
    unit = 2.0 ** math.floor(math.log2(max_error / 4))
    return Grid(unit, math.floor(2 * max_error / unit))


def margins_of(x_hat: Array, reference: Array, drift: float) -> Array:
    """Return for each value of a row how far another decoder may be off, float64 [values].

    Args:
        x_hat: float32 [n, values].
        reference: float64 [values], magnitudes that arithmetic goes through even where results are smaller.
        drift: Relative to the larger of these and the results.
    """
    largest: Array = np.abs(x_hat).max(axis=0, initial=0).astype(np.float64)
    return np.where(np.isfinite(largest), drift * np.maximum(largest, reference), np.inf)


def check_margins(margins: Array, grid: Grid) -> None:
    """Refuse a grid so fine that most values would have to be stored as they are.

    Raises:
        InputError: saying what bound is possible.
    """
    margin = float(np.median(margins))
    if margin > FIRM * grid.unit:
        raise InputError(
            f"the bound is too tight for this decoder, which is good to about {margin:.2g} from machine to machine; "
            f"allow an error of {32 * margin:.2g} or more, or store the rows themselves"
        )


def correct(x: Array, x_hat: Array, grid: Grid, margins: Array, max_error: float = math.inf) -> Corrected:
    """Round what a decoder gave, correct it, and prove that every value is within `max_error`.

    Args:
        x: float32 or uint8 [n, values].
        x_hat: float32 [n, values], the decoder's.
        grid: What values may come out.
        margins: float64 [values], how far another decoder may be from this one. Where the grid is too fine for that,
            values are stored as they are.
        max_error: So are values that corrections do not bring this close.
    """
    n, values = x.shape
    rows = np.empty(x.shape, x.dtype)
    corrections = np.zeros(x.shape, np.int32)
    near = margins / grid.unit
    unsure = near > FIRM
    found = _Found()
    for start in range(0, n, step := max(1, PIECE // values)):
        part = slice(start, start + step)
        exact = x[part].astype(np.float64)
        floor, fraction = _scaled(x_hat[part], grid.unit)
        base = floor + (fraction >= 0.5)
        if grid.step:
            wanted = np.clip(np.rint((exact / grid.unit - base) / grid.step), -FAR, FAR)
            corrections[part] = wanted
            base += wanted * grid.step
        rows[part] = _values(base, grid.unit, x.dtype)
        error = np.abs(rows[part].astype(np.float64) - exact)
        wrong = ~(error <= max_error) | (np.abs(base) >= FAR) | unsure
        if wrong.any():
            rows[part][wrong] = x[part][wrong]
            corrections[part][wrong] = 0
            error[wrong] = 0
        tie = (np.abs(fraction - 0.5) <= near) & ~wrong
        found.add(start * values, tie, fraction >= 0.5, wrong, error)
    places = found.all(found.places)
    return Corrected(
        rows=rows,
        corrections=corrections,
        ties=found.all(found.ties),
        up=found.all(found.up).astype(np.uint8),
        places=places,
        values=x.reshape(-1)[places].astype(np.float32),
        squared_error=found.squared_error,
        largest_error=found.largest_error,
    )


class _Found:
    """What the pieces of a chunk have come to."""

    def __init__(self) -> None:
        self.ties: list[Array] = []
        self.up: list[Array] = []
        self.places: list[Array] = []
        self.squared_error = 0.0
        self.largest_error = 0.0

    def add(self, first: int, tie: Array, up: Array, wrong: Array, error: Array) -> None:
        self.ties.append(np.flatnonzero(tie) + first)
        self.up.append(up[tie].astype(np.int64))
        self.places.append(np.flatnonzero(wrong) + first)
        self.squared_error += float(np.square(error).sum())
        self.largest_error = max(self.largest_error, float(error.max(initial=0)))

    @staticmethod
    def all(parts: list[Array]) -> Array:
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def grid_within(
    x: Array, x_hat: Array, max_mse: float, margins: Array, *, whole: bool, first: float | None = None
) -> tuple[Grid, Corrected]:
    """Return the coarsest grid of a handful whose mean squared error is at most `max_mse`, and the rows on it.

    Args:
        x: float32 or uint8 [n, values].
        x_hat: float32 [n, values].
        max_mse: Largest mean squared error.
        margins: As in `correct`.
        whole: Whether the rows are whole numbers.
        first: The largest error of a value to try first, for instance that of the chunk before.
    """
    finest = grid_for(math.sqrt(max_mse), whole=whole)
    none = Grid(finest.unit, 0)
    found = correct(x, x_hat, none, margins)
    if found.squared_error <= max_mse * x.size:
        return none, found
    error = first or 4 * math.sqrt(max_mse)
    while error > math.sqrt(max_mse):
        grid = Grid(finest.unit, max(1, math.floor(2 * error / finest.unit)))
        found = correct(x, x_hat, grid, margins)
        if found.squared_error <= max_mse * x.size:
            return grid, found
        error /= 2**0.25
    # no value is further off than the root of the mean that is allowed
    return finest, correct(x, x_hat, finest, margins, math.sqrt(max_mse))


def pack_residuals(coder: Coder, corrected: Corrected, grid: Grid, *, without: bool = False) -> bytes:
    """Return the bytes of all but the rows themselves; `without`: of rows that were corrected from zero."""
    parts = [_GRID.pack(NOTHING if without else DECODER, grid.unit, grid.step)]
    if grid.step:
        by_row = bytes([BY_ROW]) + coder.integers(corrected.corrections.reshape(-1))
        by_value = bytes([BY_VALUE]) + coder.integers(corrected.corrections.T.reshape(-1))
        parts.append(min(by_row, by_value, key=len))
    parts += [coder.positions(corrected.ties), coder.symbols(corrected.up)]
    parts += [coder.positions(corrected.places), coder.planes(corrected.values.view(np.uint32))]
    return b"".join(parts)


def apply_residuals(cursor: Cursor, x_hat: Array, dtype: str) -> Array:
    """Return the rows, of `dtype`, of a decoder's rows float32 [n, values] and the bytes that correct them.

    Raises:
        IntegrityError: for bytes that no writer writes.
    """
    base, unit, step = _GRID.unpack(cursor.take(_GRID.size))
    if base not in (DECODER, NOTHING) or not (0 < unit < math.inf) or step >= 2**31:
        raise cursor.wrong("has a grid that is none")
    if base == NOTHING:
        x_hat = np.zeros_like(x_hat)
    corrections = np.zeros(x_hat.shape, np.int32)
    if step:
        order = cursor.byte()
        found = cursor.integers(x_hat.size)
        if order not in (BY_ROW, BY_VALUE):
            raise cursor.wrong(f"has corrections in order {order}")
        corrections = found.reshape(x_hat.shape) if order == BY_ROW else found.reshape(x_hat.shape[::-1]).T
    ties = cursor.positions(x_hat.size)
    up = cursor.symbols(len(ties))
    places = cursor.positions(x_hat.size)
    stored = cursor.planes(len(places), np.dtype(np.uint32)).view(np.float32)
    n, values = x_hat.shape
    rows = np.empty(x_hat.shape, dtype)
    with np.errstate(all="ignore"):  # of a decoder that gives other numbers than the writer's the checksum will tell
        for start in range(0, n, piece := max(1, PIECE // values)):
            part = slice(start, start + piece)
            floor, fraction = _scaled(x_hat[part], unit)
            base = floor + (fraction >= 0.5)
            told = slice(*np.searchsorted(ties, (start * values, (start + piece) * values)))
            here = ties[told] - start * values
            base.reshape(-1)[here] = floor.reshape(-1)[here] + up[told]
            if step:
                base += corrections[part] * np.float64(step)
            rows[part] = _values(base, unit, np.dtype(dtype))
        rows.reshape(-1)[places] = stored
    return rows


def _scaled(x_hat: Array, unit: float) -> tuple[Array, Array]:
    """Return a decoder's values in units, as whole number and fraction."""
    scaled = x_hat.astype(np.float64)
    scaled /= unit
    np.fmin(np.fmax(scaled, -FAR, out=scaled), FAR, out=scaled)  # what is no number becomes -FAR
    floor = np.floor(scaled)
    scaled -= floor
    return floor, scaled


def _values(whole: Array, unit: float, dtype: np.dtype[np.generic]) -> Array:
    """Return the values of whole numbers of units; bytes stay in their range, to which clipping only brings closer."""
    if dtype == np.uint8:
        return np.clip(whole * unit, 0, 255).astype(np.uint8)
    return (whole * unit + 0.0).astype(np.float32)  # + 0.0: no negative zero
