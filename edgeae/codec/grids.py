"""Grids for latents: codes of 2 to 8 bits, with an offset and a step of its own for each dimension."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeae.codec.coders import Array
from edgeae.errors import InputError

__all__ = ["Levels", "Quantised", "Ranges", "grid_of", "quantise", "ranges_of"]

TINY: Final = 1e-35  # below which a step is nothing: float32 loses bits there
LONG: Final = 2**10  # values in a row that NumPy is fast on
PIECE: Final = 2**17  # values that stay in a core's caches while several passes go over them
FEW: Final = 256  # rows that are asked first how far values are from the mean
FAR: Final = 8.0  # standard deviations from the mean, beyond which a latent is stored as it is


@dataclass(frozen=True, eq=False)
class Quantised:
    """Latents on a grid: dimension j of a row is low[j] + step[j] · (code - zero[j]), but where it is stored as it is.

    Attributes:
        low: float32 [d].
        step: float32 [d]; 0 where all rows have the same value, and no codes are stored.
        zero: uint8 [d], the code that stands for `low`.
        codes: uint8 [d, n].
        places: int64 [k], ascending places in [d, n] that are stored as they are.
        values: float32 [k], those.
    """

    low: Array
    step: Array
    zero: Array
    codes: Array
    places: Array
    values: Array

    def latents(self) -> Array:
        """Return what these stand for, float32 [n, d]: the same bits everywhere, computed in float64, rounded once."""
        # a code times a step has at most 32 significant bits, so only the addition rounds, and then float32
        codes = np.ascontiguousarray(self.codes.T)
        found = np.empty(codes.shape, np.float32)
        for rows, many in _pieces(codes):
            zero, step, low = (np.tile(each.astype(np.float64), many) for each in (self.zero, self.step, self.low))
            exact = codes[rows].reshape(-1, len(low)) - zero
            exact *= step
            exact += low
            with np.errstate(over="ignore"):  # of a grid that no sound writer makes
                np.copyto(found[rows].reshape(exact.shape), exact, casting="unsafe")
        dims, rows_of = np.divmod(self.places, len(found))
        found[rows_of, dims] = self.values
        return found


def quantise(z: Array, bits: int, least: Array | None = None) -> Quantised:
    """Put latents on the finest grid that `bits` allow in each dimension.

    Zero is on the grid of a dimension that has values on both sides of it. What is FAR from the mean does not widen the
    grid for the others, but is stored as it is.

    Args:
        z: float32 [n, d], finite.
        bits: 2 to 8.
        least: float32 [d], steps that need not be finer; a dimension that varies less than its step is stored as one
            value. None: as fine as `bits` allow.

    Raises:
        InputError: for latents that are not finite.
    """
    z = np.ascontiguousarray(z)
    return grid_of(ranges_of(z), bits, least).quantised(z)


@dataclass(frozen=True, eq=False)
class Ranges:
    """Where latents lie, each float64 [d].

    Attributes:
        least: The smallest values.
        most: The largest ones.
        low: The smallest ones that are not FAR from the mean.
        high: The largest ones of these.
        mean: Of a sample, or of all where one value is far.
        spread: The standard deviations.
    """

    least: Array
    most: Array
    low: Array
    high: Array
    mean: Array
    spread: Array

    def joined(self, other: Ranges) -> Ranges:
        """Return what holds both."""
        return Ranges(
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean,
            np.maximum(self.spread, other.spread),
        )


def ranges_of(z: Array) -> Ranges:
    """Return where latents float32 [n, d] lie.

    Raises:
        InputError: for latents that are not finite.
    """
    least, most = _extremes(z)
    if not np.isfinite(most - least).all():
        raise InputError("latents: some are not finite and cannot be quantised; store them as float32")
    mean, spread = _moments(z[:: max(1, len(z) // FEW)])
    far = np.flatnonzero((mean - FAR * spread > least) | (mean + FAR * spread < most))
    mean[far], spread[far] = _moments(z[:, far])  # do all rows say so, too?
    low, high = np.maximum(least, mean - FAR * spread), np.minimum(most, mean + FAR * spread)
    return Ranges(least, most, low, high, mean, spread)


@dataclass(frozen=True, eq=False)
class Levels:
    """A grid for latents: see `Quantised`.

    Attributes:
        low: float32 [d].
        step: float32 [d].
        zero: float64 [d], whole numbers.
        last: The largest code.
        bottom: float64 [d], below which a latent is stored as it is.
        top: float64 [d], above which it is.
        ranges: Where the latents that it was made for lie.
    """

    low: Array
    step: Array
    zero: Array
    last: int
    bottom: Array
    top: Array
    ranges: Ranges

    @property
    def flat(self) -> Array:
        """Which dimensions are one value, bool [d]."""
        found: Array = self.step == 0
        return found

    @property
    def start(self) -> Array:
        """What is taken from a latent first, float32 [d]."""
        return np.where(self.flat, 0, self.low).astype(np.float32)

    @property
    def factor(self) -> Array:
        """Codes per unit, float32 [d]."""
        return np.where(self.flat, 0, 1 / np.where(self.flat, 1, self.step.astype(np.float64))).astype(np.float32)

    def quantised(self, z: Array) -> Quantised:
        """Return latents float32 [n, d], which the grid was made for, on it."""
        ranges, exact = self.ranges, np.where(self.flat, 1, self.step).astype(np.float64)
        end = self.last + 0.4
        inside = (ranges.least >= self.low - (self.zero + 0.4) * exact) & (
            ranges.most <= self.low + (end - self.zero) * exact
        )
        last = None if (inside | self.flat).all() else self.last
        codes = _codes(z, self.start, self.factor, self.zero.astype(np.float32), last)
        beyond = np.flatnonzero((ranges.least < self.bottom) | (ranges.most > self.top))
        columns = z.T[beyond]
        dims, rows = np.nonzero((columns < self.bottom[beyond, None]) | (columns > self.top[beyond, None]))
        places = beyond[dims] * len(z) + rows
        return Quantised(self.low, self.step, self.zero.astype(np.uint8), codes, places, columns[dims, rows])


def grid_of(ranges: Ranges, bits: int, least: Array | None = None, spare: int = 0) -> Levels:
    """Return the grid for latents that lie in `ranges`; see `quantise`.

    Args:
        ranges: Where they lie.
        bits: 2 to 8.
        least: float32 [d]; see `quantise`.
        spare: Codes at either end that none of them gets.
    """
    low, high = ranges.low, ranges.high
    wanted = np.zeros(len(low)) if least is None else least.astype(np.float64)
    both = (low < 0) & (high > 0)
    last = 2**bits - 1
    levels = last - 2 * spare
    step = np.maximum((high - low) / (levels - both), wanted)  # zero on the grid takes a level: low and high are not
    flat = (step >= high - low) | (step < TINY)
    step = np.where(flat, 0, np.nextafter(step.astype(np.float32), np.float32(np.inf))).astype(np.float32)
    exact = np.where(flat, 1, step).astype(np.float64)
    zero = np.where(flat, 0, spare + np.where(both, np.clip(np.ceil(-low / exact), 0, levels), 0))
    low = np.where(flat, ranges.mean, np.where(both, 0.0, low)).astype(np.float32)
    # beyond the ends of a grid, or further from the one value than what counts as nothing
    more = np.where(flat, np.maximum(wanted, 2 * ranges.spread) + TINY, 0.51 * exact)
    bottom, top = low - zero * step - more, low + (last - zero) * step + more
    return Levels(low, step, zero, last, bottom, top, ranges)


def _pieces(z: Array) -> Iterator[tuple[slice, int]]:
    """Yield which rows to work on at a time, so that they stay in cache, and how many of them to take for one long one.

    NumPy is several times faster on a few long rows than on many short ones.
    """
    n, dims = z.shape
    many = max(1, LONG // dims)
    most = max(1, PIECE // (many * dims)) * many
    whole = n - n % many
    for start in range(0, whole, most):
        yield slice(start, min(start + most, whole)), many
    if whole < n:
        yield slice(whole, n), 1


def _extremes(z: Array) -> tuple[Array, Array]:
    """Return the smallest and the largest value of each dimension, float64 [d]."""
    dims = z.shape[1]
    least, most = [], []
    for rows, many in _pieces(z):
        piece = z[rows].reshape(-1, many * dims)
        least.append(np.minimum.reduce(piece).reshape(many, dims))
        most.append(np.maximum.reduce(piece).reshape(many, dims))
    found = np.minimum.reduce(np.concatenate(least)), np.maximum.reduce(np.concatenate(most))
    return found[0].astype(np.float64), found[1].astype(np.float64)


def _moments(z: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of each dimension, float64 [d]."""
    if not z.size:
        return np.empty(z.shape[1]), np.empty(z.shape[1])
    exact = z.astype(np.float64, order="C")
    mean = exact.mean(axis=0)
    exact -= mean
    return mean, np.sqrt(np.square(exact, out=exact).mean(axis=0))


def _codes(z: Array, low: Array, inverse: Array, zero: Array, levels: int | None) -> Array:
    """Return (z - low) · inverse + zero, rounded, from 0 to `levels` (None: none is beyond them), uint8 [d, n]."""
    n, dims = z.shape
    codes = np.empty((dims, n), np.uint8)
    size = min(z.size, max(PIECE, dims))
    memory, whole = np.empty(size, np.float32), np.empty(size, np.uint8)
    grid = (low, inverse, zero + np.float32(0.5))  # the conversion cuts off what is behind the point
    longer = {many: [np.tile(each, many) for each in grid] for many in {1, max(1, LONG // dims)}}
    for rows, many in _pieces(z):
        piece = z[rows].reshape(-1, many * dims)
        scaled, rounded = memory[: piece.size].reshape(piece.shape), whole[: piece.size].reshape(piece.shape)
        first, factor, offset = longer[many]
        np.multiply(np.subtract(piece, first, out=scaled) if low.any() else piece, factor, out=scaled)
        scaled += offset
        if levels is not None:
            np.clip(scaled, 0, levels, out=scaled)
        np.copyto(rounded, scaled, casting="unsafe")
        codes[:, rows] = rounded.reshape(-1, dims).T
    return codes
