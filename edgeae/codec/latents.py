"""Latents to bytes and back: float32, float16, or codes of 2 to 8 bits on a grid of its own for each dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from edgeae.codec.coders import DENSE, SPARSE, SPARSE_SHARE, Array, Coder, Cursor
from edgeae.codec.grids import Quantised, quantise
from edgeae.errors import InputError

__all__ = ["pack_grid", "pack_latents", "unpack_latents"]

SAMPLED: Final = 256  # rows that are asked first whether most latents are zero


def pack_latents(coder: Coder, z: Array, bits: int, least: Array | None = None) -> tuple[bytes, Callable[[], Array]]:
    """Return the bytes of latents float32 [n, d], and what gives the latents that come out of these bytes.

    Raises:
        InputError: for latents that `bits` cannot hold.
    """
    if bits <= 8:
        grid = quantise(z, bits, least)
        return pack_grid(coder, grid), grid.latents
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


def pack_grid(coder: Coder, grid: Quantised) -> bytes:
    """Return the bytes of latents on a grid."""
    active = grid.step > 0
    codes = grid.codes if active.all() else grid.codes[active]
    table = coder.planes(grid.low.view(np.uint32)) + coder.planes(grid.step.view(np.uint32)) + coder.planes(grid.zero)
    best = [bytes([DENSE]), coder.symbols(codes.reshape(-1))]
    zero = grid.zero[active][:, None]
    few = codes[:, :: max(1, codes.shape[1] // SAMPLED)] if codes.size else codes
    if np.count_nonzero(few != zero) <= 2 * SPARSE_SHARE * few.size:
        shifted = (codes - zero).reshape(-1)  # modulo 256
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
