"""Rows out of a latent file, through the model that wrote it."""

from __future__ import annotations

import logging
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, Final, Literal

import numpy as np

from edgeae.codec.chunk_reader import ChunkReader
from edgeae.codec.coders import Array, Cursor
from edgeae.codec.format import ChunkHead, Header
from edgeae.codec.latents import unpack_latents
from edgeae.codec.residuals import apply_residuals
from edgeae.codec.settings import check_model
from edgeae.errors import InputError, IntegrityError, OutOfMemoryError
from edgeae.runtime import Autoencoder

__all__ = ["LatentReader"]

_logger = logging.getLogger("edgeae")
AHEAD: Final = 2  # chunks that are unpacked while another is decoded
VALUES: Final = 2**21  # in a block of rows, about
_Unpacked = tuple[ChunkHead, Array, Cursor]


class LatentReader:
    """Reads a latent file (.eae): rows by number from a file, blocks of rows one after the other also from a pipe.

    Latents can be read without a model, rows only with the one that wrote the file. Rows of a file that promises
    something are compared with a checksum: a decoder that gives others than the writer's raises instead of being
    silently wrong. One thread at a time may use a reader.

    Attributes:
        header: What the file is.
        lost: With `recover`, what was lost, in words; None if nothing was.

    Raises:
        InputError: if there is no such file, it is no latent file, or another model wrote it; for rows that are not
            there.
        IntegrityError: if the file is damaged or cut short, or this machine decodes it differently.

    Example:
        >>> import tempfile
        >>> import edgeae
        >>> from edgeae.codec import LatentReader, LatentWriter
        >>> path = tempfile.mkdtemp() + "/rows.eae"
        >>> model = edgeae.load("export/golden/dense", device="cpu")
        >>> with LatentWriter(path, model, lossless=True) as writer:
        ...     writer.write(np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8))
        >>> with LatentReader(path, model) as reader:
        ...     len(reader), int(reader[4][7, 7]), [len(block) for block in reader], reader.latents(0, 2).shape
        (5, 63, [5], (2, 8))
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        model: Autoencoder | None = None,
        *,
        recover: bool = False,
        drift: Literal["raise", "warn"] = "raise",
    ) -> None:
        """Open a file.

        Args:
            source: A path, or a binary file that is open for reading, such as a pipe.
            model: The one that wrote the file; None for its latents only.
            recover: Read the chunks from the start as long as they are whole, whatever comes after them.
            drift: What to do when this machine decodes a chunk differently: raise an error, or warn (logger "edgeae").
        """
        if drift not in ("raise", "warn"):
            raise InputError(f"drift: {drift!r} is not one of raise, warn")
        self._file = ChunkReader(source, recover=recover)
        self._model = model
        self._drift = drift
        self.header: Header = self._file.header
        if model is not None:
            try:
                check_model(self.header, model, self._file.where)
            except BaseException:
                self._file.close()
                raise

    @property
    def rows(self) -> int | None:
        """How many rows there are; None for a pipe, which does not say before its end."""
        return self._file.rows

    @property
    def lost(self) -> str | None:
        """With `recover`, what was lost, in words; None if nothing was (of a pipe: so far)."""
        return self._file.lost

    @property
    def dtype(self) -> str:
        """Of the rows that come out: float32, or uint8 where the file promises something about uint8 rows."""
        return "float32" if self.header.bound == "none" else self.header.dtype

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """Yield the rows from `start` to before `stop`, a chunk's or fewer at a time: [n, *shape] of `dtype`."""
        model = self._needed()
        step = max(1, VALUES // self.header.row_values)
        for (head, z, cursor), part in self._parts(start, stop):
            if self.header.bound != "none":
                yield self._corrected(model, head, z, cursor)[part]
                continue
            for first in range(part.start, part.stop, step):
                yield model.decode(z[first : min(first + step, part.stop)])

    def latent_blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """Yield the latents from row `start` to before `stop`, a chunk's at a time: float32 [n, latent_dim]."""
        for (_, z, _), part in self._parts(start, stop):
            yield z[part]

    def read(self, start: int = 0, stop: int | None = None) -> Array:
        """Return the rows from `start` to before `stop`, [n, *shape]."""
        stop = self.rows if stop is None else stop
        if stop is None or self.header.bound != "none":
            return np.concatenate([np.empty((0, *self.header.shape), self.dtype), *self.blocks(start, stop)])
        model, parts = self._needed(), self._parts(start, stop)
        try:
            found = np.empty((max(0, stop - start), *self.header.shape), np.float32)
        except MemoryError:
            raise OutOfMemoryError(
                f"{self._file.where}: {stop - start} rows do not fit in memory; read fewer, or iterate over the reader"
            ) from None
        for (head, z, _), part in parts:
            first = head.first - start
            model.decode(z[part], out=found[first + part.start : first + part.stop])
        return found

    def latents(self, start: int = 0, stop: int | None = None) -> Array:
        """Return the latents from row `start` to before `stop`, float32 [n, latent_dim]."""
        return np.concatenate([np.empty((0, self.header.latent_dim), np.float32), *self.latent_blocks(start, stop)])

    def unknown_rows(self) -> int:
        """Return how many rows are anomalies to the model, as far as the writer counted; reads the whole file."""
        return sum(head.unknown for head, _ in self._file.chunks())

    def close(self) -> None:
        """Close the file, if it was opened here; the model stays open."""
        self._file.close()

    def __len__(self) -> int:
        if self.rows is None:
            raise TypeError(f"{self._file.where}: a pipe does not say how many rows it has; iterate over its blocks")
        return self.rows

    def __getitem__(self, place: int | slice) -> Array:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                raise InputError(f"{self._file.where}: rows are read one after the other, not with a step of {step}")
            return self.read(start, max(start, stop))
        number = place + len(self) if place < 0 else place
        if not 0 <= number < len(self):
            raise IndexError(f"{self._file.where}: there is no row {place}, it has {len(self)}")
        row: Array = self.read(number, number + 1)[0]
        return row

    def __iter__(self) -> Iterator[Array]:
        return self.blocks()

    def __enter__(self) -> LatentReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _needed(self) -> Autoencoder:
        if self._model is None:
            raise InputError(f"{self._file.where}: rows need the model that wrote them; latents do not")
        return self._model

    def _parts(self, start: int, stop: int | None) -> Iterator[tuple[_Unpacked, slice]]:
        """Yield unpacked chunks and which of their rows are wanted."""
        for unpacked in self._unpacked(start, stop):
            head = unpacked[0]
            last = head.first + head.rows if stop is None else min(stop, head.first + head.rows)
            yield unpacked, slice(max(0, start - head.first), last - head.first)

    def _unpacked(self, start: int, stop: int | None) -> Iterator[_Unpacked]:
        chunks = self._file.chunks(start, stop)
        if self.rows is None:  # a pipe may be slow: its rows are wanted as they come
            yield from (self._unpack(*chunk) for chunk in chunks)
            return
        waiting: deque[Future[_Unpacked]] = deque()
        problem: IntegrityError | None = None
        with ThreadPoolExecutor(1, "edgeae-codec") as pool:
            try:
                for chunk in chunks:
                    waiting.append(pool.submit(self._unpack, *chunk))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
            except IntegrityError as found:
                problem = found
            while waiting:
                yield waiting.popleft().result()
        if problem is not None:
            raise problem

    def _unpack(self, head: ChunkHead, payload: bytes) -> _Unpacked:
        cursor = Cursor(payload, f"{self._file.where}: chunk {head.number}")
        z = unpack_latents(cursor, head.rows, self.header.latent_dim, self.header.bits)
        if self.header.bound == "none":
            cursor.end()
        return head, z, cursor

    def _corrected(self, model: Autoencoder, head: ChunkHead, z: Array, cursor: Cursor) -> Array:
        rows = apply_residuals(cursor, model.decode(z).reshape(head.rows, -1), self.header.dtype)
        cursor.end()
        if zlib.crc32(rows.data) != head.decoded_crc:
            text = (
                f"{self._file.where}: rows {head.first} to {head.first + head.rows - 1} come out differently on "
                f"{model.device} than where they were written, and may be beyond their bound"
            )
            if self._drift == "raise":
                raise IntegrityError(f"{text}; decompress on another device, or take them as they are (drift='warn')")
            _logger.warning("%s", text)
        return rows.reshape(head.rows, *self.header.shape)
