"""Chunks of which only the latents are stored: each encoded and coded in one thread, several of them at a time.

A thread of its own for coding would share the cores with those that encode, and wait for Python's lock in between; so
every thread does both, one chunk after the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeae.codec.coders import Array, Coder
from edgeae.codec.grids import ranges_of
from edgeae.codec.latents import pack_grid, pack_latents
from edgeae.codec.shared_grid import SharedGrid
from edgeae.runtime import Autoencoder

__all__ = ["Chunk", "Lanes"]

WAITING = 1  # chunks for each thread that are given to it ahead


@dataclass(eq=False)
class Chunk:
    """Rows on their way to the file.

    Attributes:
        rows: [n, *shape].
        first: The number of the first one.
        encoded: Done when nobody needs the rows any more; whether the model took them.
        payload: What becomes of them.
    """

    rows: Array
    first: int
    encoded: Future[bool] = field(default_factory=Future)
    payload: Future[bytes] = field(default_factory=Future)


class Lanes:
    """The threads, and the chunks that they work on."""

    def __init__(self, model: Autoencoder, bits: int, least: Array | None) -> None:
        """Take what `pack_latents` needs."""
        self._model, self._bits, self._least = model, bits, least
        self._most = (1 + WAITING) * model.workers
        self._pool = ThreadPoolExecutor(model.workers, "edgeae-codec")
        self._own = threading.local()
        self._chunks: deque[Chunk] = deque()
        self._grid: SharedGrid | None = None

    @property
    def settled(self) -> bool:
        """Whether large chunks are worth it: a grid that does not fit costs more the more rows are put on it."""
        return self._grid is None or self._grid.settled

    def share(self, dtype: np.dtype[Any], z: Array) -> None:
        """From now on put latents on one grid, where that can be: where z lies, those of the first rows, of a dtype."""
        if SharedGrid.possible(self._model, dtype, self._bits):
            self._grid = SharedGrid(self._model, dtype, ranges_of(z), self._least)

    def submit(self, rows: Array, first: int, code: Callable[[], bytes] | None = None) -> None:
        """Begin with a chunk, or with what `code` makes of rows that are encoded already."""
        chunk = Chunk(rows, first)
        self._chunks.append(chunk)
        if code is None:
            chunk.payload = self._pool.submit(self._run, chunk)
        else:
            chunk.encoded.set_result(True)
            chunk.payload = self._pool.submit(code)

    def ready(self, *, everything: bool = False) -> Iterator[Chunk]:
        """Yield chunks in their order, those that are done, and wait for those that are too many to be waiting."""
        while self._chunks and (everything or len(self._chunks) > self._most or self._chunks[0].payload.done()):
            yield self._chunks.popleft()

    def let_go(self) -> bool:
        """Wait until the rows of all chunks are encoded, so that their owner may change them; were all taken?"""
        taken = [chunk.encoded.result() for chunk in self._chunks]
        return all(taken)

    def drop(self) -> None:
        """Forget the chunks that have not come out yet."""
        for chunk in self._chunks:
            chunk.payload.cancel()
        for chunk in self._chunks:
            if not chunk.payload.cancelled():
                chunk.payload.exception()
        self._chunks.clear()

    def close(self) -> None:
        """End the threads."""
        self.drop()
        self._pool.shutdown()

    def _run(self, chunk: Chunk) -> bytes:
        if not hasattr(self._own, "coder"):
            self._own.coder = Coder()
        own, rows, shared = self._own, chunk.rows, self._grid
        taken, grid = False, None
        try:
            if shared is not None:
                memory = (self._memory(name, len(rows), np.uint8) for name in ("codes", "marks"))
                grid = shared.quantised(rows, *(each.reshape(-1) for each in memory))
            if grid is None:
                z = self._memory("latents", len(rows), np.float32)
                self._model.encode(rows, out=z, workers=1)
            taken = True
        finally:
            chunk.encoded.set_result(taken)
        if grid is not None:
            return pack_grid(own.coder, grid)
        if shared is not None:
            shared.hold(ranges_of(z))
        return pack_latents(own.coder, z, self._bits, self._least)[0]

    def _memory(self, name: str, rows: int, dtype: type[np.generic]) -> Array:
        """Return this thread's [rows, latent_dim] of this name, the same for every chunk: new memory costs time."""
        kept = getattr(self._own, name, None)
        if kept is None or len(kept) < rows:
            kept = np.empty((rows, self._model.latent_dim), dtype)
            setattr(self._own, name, kept)
        found: Array = kept[:rows]
        return found
