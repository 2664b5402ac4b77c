"""Latents to bytes and back: float32, float16, or codes of 2 to 8 bits on a grid of its own for each dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from edgeae.codec.coders import DENSE, SPARSE, SPARSE_SHARE, Array, Coder, Cursor
from edgeae.errors import InputError

__all__ = ["Quantised", "pack_latents", "quantise", "unpack_latents"]

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
    least_value, most = (_folded(reduce, z).astype(np.float64) for reduce in (np.minimum, np.maximum))
    if not np.isfinite(most - least_value).all():
        raise InputError("latents: some are not finite and cannot be quantised; store them as float32")
    mean, spread = _moments(z[:: max(1, len(z) // FEW)])
    far = np.flatnonzero((mean - FAR * spread > least_value) | (mean + FAR * spread < most))
    mean[far], spread[far] = _moments(z[:, far])  # do all rows say so, too?
    low, high = np.maximum(least_value, mean - FAR * spread), np.minimum(most, mean + FAR * spread)
    wanted = np.zeros(len(low)) if least is None else least.astype(np.float64)
    both = (low < 0) & (high > 0)
    levels = 2**bits - 1
    step = np.maximum((high - low) / (levels - both), wanted)  # zero on the grid takes a level: low and high are not
    flat = (step >= high - low) | (step < TINY)
    step = np.where(flat, 0, np.nextafter(step.astype(np.float32), np.float32(np.inf))).astype(np.float32)
    exact = np.where(flat, 1, step).astype(np.float64)
    zero = np.where(both & ~flat, np.clip(np.ceil(-low / exact), 0, levels), 0)
    low = np.where(flat, mean, np.where(both, 0.0, low)).astype(np.float32)
    inside = (least_value >= low - (zero + 0.4) * exact) & (most <= low + (levels - zero + 0.4) * exact)
    inverse = np.where(flat, 0, 1 / exact).astype(np.float32)
    codes = _codes(z, low, inverse, zero.astype(np.float32), None if (inside | flat).all() else levels)
    # beyond the ends of a grid, or further from the one value than what counts as nothing
    spare = np.where(flat, np.maximum(wanted, 2 * spread) + TINY, 0.51 * exact)
    bottom, top = low - zero * step - spare, low + (levels - zero) * step + spare
    beyond = np.flatnonzero((least_value < bottom) | (most > top))
    columns = z.T[beyond]
    dims, rows = np.nonzero((columns < bottom[beyond, None]) | (columns > top[beyond, None]))
    return Quantised(low, step, zero.astype(np.uint8), codes, beyond[dims] * len(z) + rows, columns[dims, rows])


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


def _folded(reduce: np.ufunc, z: Array) -> Array:
    """Reduce [n, d] to [d]."""
    dims = z.shape[1]
    found = [
        reduce.reduce(reduce.reduce(z[rows].reshape(-1, many * dims), axis=0).reshape(many, dims), axis=0)
        for rows, many in _pieces(z)
    ]
    return np.asarray(reduce.reduce(found, axis=0))


def _moments(z: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of each dimension, float64 [d]."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 has no standard deviation
        mean = z.mean(axis=0, dtype=np.float64)
        return mean, z.std(axis=0, dtype=np.float64)


def _codes(z: Array, low: Array, inverse: Array, zero: Array, levels: int | None) -> Array:
    """Return (z - low) · inverse + zero, rounded, from 0 to `levels` (None: none is beyond them), uint8 [d, n]."""
    codes = np.empty(z.shape, np.uint8)
    memory = np.empty(min(z.size, max(PIECE, z.shape[1])), np.float32)
    for rows, many in _pieces(z):
        piece = z[rows].reshape(-1, many * z.shape[1])
        scaled = memory[: piece.size].reshape(piece.shape)
        if low.any():
            np.multiply(np.subtract(piece, np.tile(low, many), out=scaled), np.tile(inverse, many), out=scaled)
        else:
            np.multiply(piece, np.tile(inverse, many), out=scaled)
        scaled += np.tile(zero + np.float32(0.5), many)  # the conversion cuts off what is behind the point
        if levels is not None:
            np.clip(scaled, 0, levels, out=scaled)
        np.copyto(codes[rows].reshape(scaled.shape), scaled, casting="unsafe")
    return np.ascontiguousarray(codes.T)


def pack_latents(coder: Coder, z: Array, bits: int, least: Array | None = None) -> tuple[bytes, Callable[[], Array]]:
    """Return the bytes of latents float32 [n, d], and what gives the latents that come out of these bytes.

    Raises:
        InputError: for latents that `bits` cannot hold.
    """
    if bits <= 8:
        grid = quantise(z, bits, least)
        return _pack_grid(coder, grid), grid.latents
    if bits == 32:
        return _pack_words(coder, np.ascontiguousarray(z.T).view(np.uint32).reshape(-1)), lambda: z
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(z.T).astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError("latents: some are beyond the range of float16; store them as float32")
    return _pack_words(coder, half.view(np.uint16).reshape(-1)), lambda: np.ascontiguousarray(half.T, np.float32)


def unpack_latents(cursor: Cursor, rows: int, latent_dim: int, bits: int) -> Array:
    """Return the latents float32 [rows, latent_dim] that were packed.

    Raises:
        IntegrityError: for bytes that no writer writes.
    """
    shape = (latent_dim, rows)
    if bits <= 8:
        return _unpack_grid(cursor, shape, bits).latents()
    word, number = (np.uint32, np.float32) if bits == 32 else (np.uint16, np.float16)
    words = _unpack_words(cursor, rows * latent_dim, np.dtype(word))
    return np.ascontiguousarray(words.view(number).reshape(shape).T, np.float32)


def _pack_grid(coder: Coder, grid: Quantised) -> bytes:
    active = grid.step > 0
    codes = grid.codes if active.all() else grid.codes[active]
    table = coder.planes(grid.low.view(np.uint32)) + coder.planes(grid.step.view(np.uint32)) + coder.planes(grid.zero)
    best = [bytes([DENSE]), coder.symbols(codes.reshape(-1))]
    shifted = (codes - grid.zero[active][:, None] if grid.zero.any() else codes).reshape(-1)  # modulo 256
    if np.count_nonzero(shifted) <= SPARSE_SHARE * len(shifted):
        places = np.flatnonzero(shifted)
        sparse = [bytes([SPARSE]), coder.positions(places), coder.symbols(shifted[places])]
        best = min(best, sparse, key=lambda parts: sum(map(len, parts)))
    return b"".join((table, *best, coder.positions(grid.places), coder.planes(grid.values.view(np.uint32))))


def _unpack_grid(cursor: Cursor, shape: tuple[int, int], bits: int) -> Quantised:
    latent_dim, rows = shape
    low, step = (cursor.planes(latent_dim, np.dtype(np.uint32)).view(np.float32) for _ in range(2))
    zero = cursor.planes(latent_dim, np.dtype(np.uint8))
    if not (np.isfinite(low).all() and np.isfinite(step).all() and (step >= 0).all()):
        raise cursor.wrong("has a grid that is none")
    active = step > 0
    count = int(active.sum()) * rows
    kind = cursor.byte()
    if kind == DENSE:
        stored = cursor.symbols(count)
    elif kind == SPARSE:
        stored = np.zeros(count, np.uint8)
        places = cursor.positions(count)
        stored[places] = cursor.symbols(len(places))
        stored = (stored.reshape(-1, rows) + zero[active][:, None]).reshape(-1)
    else:
        raise cursor.wrong(f"has latents of kind {kind}")
    if int(stored.max(initial=0)) >= 2**bits or int(zero.max(initial=0)) >= 2**bits:
        raise cursor.wrong(f"has codes of more than {bits} bits")
    codes = np.empty(shape, np.uint8)
    codes[~active] = zero[~active][:, None]
    codes[active] = stored.reshape(-1, rows)
    places = cursor.positions(rows * latent_dim)
    return Quantised(low, step, zero, codes, places, cursor.planes(len(places), np.dtype(np.uint32)).view(np.float32))


def _pack_words(coder: Coder, words: Array) -> bytes:
    best = bytes([DENSE]) + coder.planes(words)
    if np.count_nonzero(words) <= SPARSE_SHARE * len(words):
        places = np.flatnonzero(words)
        best = min(best, bytes([SPARSE]) + coder.positions(places) + coder.planes(words[places]), key=len)
    return best


def _unpack_words(cursor: Cursor, count: int, word: np.dtype[np.generic]) -> Array:
    kind = cursor.byte()
    if kind == DENSE:
        return cursor.planes(count, word)
    if kind != SPARSE:
        raise cursor.wrong(f"has latents of kind {kind}")
    words = np.zeros(count, word)
    places = cursor.positions(count)
    words[places] = cursor.planes(len(places), word)
    return words
