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

import numpy as np

from edgeae.codec.coders import Array, Coder
from edgeae.codec.latents import pack_latents
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

    def __init__(self, model: Autoencoder, bits: int, least: Callable[[], Array | None]) -> None:
        """Take what `pack_latents` needs; `least` may wait for the first chunk, which is coded elsewhere."""
        self._model, self._bits, self._least = model, bits, least
        self._most = (1 + WAITING) * model.workers
        self._pool = ThreadPoolExecutor(model.workers, "edgeae-codec")
        self._own = threading.local()
        self._chunks: deque[Chunk] = deque()

    def submit(self, rows: Array, first: int) -> None:
        """Begin with a chunk."""
        chunk = Chunk(rows, first)
        self._chunks.append(chunk)
        chunk.payload = self._pool.submit(self._run, chunk)

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
        taken = False
        try:
            z = self._memory(len(chunk.rows))
            self._model.encode(chunk.rows, out=z, workers=1)
            taken = True
        finally:
            chunk.encoded.set_result(taken)
        return pack_latents(self._own.coder, z, self._bits, self._least())[0]

    def _memory(self, rows: int) -> Array:
        """Return this thread's float32 [rows, latent_dim], the same for every chunk: new memory costs time."""
        if len(getattr(self._own, "latents", ())) < rows:
            self._own.latents = np.empty((rows, self._model.latent_dim), np.float32)
        found: Array = self._own.latents[:rows]
        return found
