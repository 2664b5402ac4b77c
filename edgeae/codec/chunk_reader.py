"""Chunks out of a latent file: one after the other from a pipe, by the index from a file, or what is whole of one."""

from __future__ import annotations

import logging
import os
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np

from edgeae.codec.format import (
    CHUNK_BYTES,
    END_BYTES,
    ENTRY,
    HEADER_BYTES,
    INDEX_HEAD,
    INDEX_TAG,
    ChunkHead,
    End,
    Header,
    most_rows,
    pack_index,
)
from edgeae.errors import InputError, IntegrityError

__all__ = ["ChunkReader", "Prefix", "find_end", "read_header", "whole_prefix"]

_logger = logging.getLogger("edgeae")
PIECE: Final = 2**20


class Prefix:
    """The chunks of a file as far as they are known: where each lies and with which row it begins.

    Attributes:
        offsets: Of the chunks.
        firsts: Their first rows.
        end: Where the last one ends.
        rows: How many rows they hold.
    """

    def __init__(self) -> None:
        """Know of no chunk."""
        self.offsets = array("Q")
        self.firsts = array("Q")
        self.end = HEADER_BYTES
        self.rows = 0

    def add(self, head: ChunkHead) -> None:
        """Add the chunk that begins where the last one ends."""
        self.offsets.append(self.end)
        self.firsts.append(self.rows)
        self.end += CHUNK_BYTES + head.size
        self.rows += head.rows

    def tail(self, file_id: bytes) -> bytes:
        """Return the index of these chunks and the end of the file."""
        index = pack_index(zip(self.offsets, self.firsts, strict=True), len(self.offsets))
        end = End(self.rows, self.end, len(self.offsets), zlib.crc32(index, zlib.crc32(file_id)))
        return index + end.pack(file_id)


class ChunkReader:
    """Reads a latent file's chunks; knows nothing of what is in their payloads.

    A regular file is read through its index. From a pipe chunks come one after the other, once; index and end are
    compared with what came.

    Attributes:
        header: What the file is.
        where: Its name.
        lost: With `recover`, what was lost, in words; None if nothing was (of a pipe: so far).
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, *, recover: bool = False) -> None:
        """Open a file, or take one that is open.

        Args:
            source: A path, or a binary file that is open for reading.
            recover: Take the chunks from the start as long as they are whole, whatever comes after them.

        Raises:
            InputError: if there is no such file, or it is no latent file.
            IntegrityError: if it is damaged or cut short; with `recover`, only if not even its header is whole.
        """
        self.lost: str | None = None
        self._own = isinstance(source, str | os.PathLike)
        self.where = str(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", "stream"))
        self._file = _open(Path(source)) if isinstance(source, str | os.PathLike) else source
        self._recover = recover
        self._started = False
        self._prefix: Prefix | None = None
        try:
            self._seekable = self._file.seekable()
            self.header = read_header(self._file, self.where)
            if self._seekable and not recover:
                self._prefix = find_end(self._file, self.header, self.where)
            elif self._seekable:
                self._prefix, self.lost = whole_prefix(self._file, self.header, self.where)
        except BaseException:
            self.close()
            raise

    @property
    def rows(self) -> int | None:
        """How many rows there are; None for a pipe, which does not say before its end."""
        return None if self._prefix is None else self._prefix.rows

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[ChunkHead, bytes]]:
        """Yield heads and payloads of all chunks that hold rows from `start` to before `stop`.

        Raises:
            InputError: for rows that are not there, or a pipe that was read before.
            IntegrityError: at the first chunk that is not whole.
        """
        if self._prefix is not None:
            stop = self._prefix.rows if stop is None else stop
            if not 0 <= start <= stop <= self._prefix.rows:
                raise InputError(f"{self.where}: rows {start}:{stop} of {self._prefix.rows}; there are no such rows")
            return self._indexed(self._prefix, start, stop)
        if self._started:
            raise InputError(f"{self.where}: a pipe is read once, from its start; save it as a file to read it again")
        self._started = True
        return self._streamed(start, stop)

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._own:
            self._file.close()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _indexed(self, prefix: Prefix, start: int, stop: int) -> Iterator[tuple[ChunkHead, bytes]]:
        firsts = np.frombuffer(prefix.firsts, np.uint64) if prefix.firsts else np.empty(0, np.uint64)
        number = max(0, int(np.searchsorted(firsts, start, "right")) - 1)
        while number < len(prefix.firsts) and (first := prefix.firsts[number]) < stop:
            last = number + 1 == len(prefix.firsts)
            offset, end = prefix.offsets[number], prefix.end if last else prefix.offsets[number + 1]
            rows = (prefix.rows if last else prefix.firsts[number + 1]) - first
            self._file.seek(offset)
            head = ChunkHead.unpack(_read(self._file, CHUNK_BYTES), self.header, number, first, self.where)
            if (offset + CHUNK_BYTES + head.size, head.rows) != (end, rows):
                raise IntegrityError(f"{self.where}: chunk {number} (from row {first}) is not as the index has it")
            yield head, _payload(self._file, head, self.where)
            number += 1

    def _streamed(self, start: int, stop: int | None) -> Iterator[tuple[ChunkHead, bytes]]:
        prefix = Prefix()
        try:
            while (data := _read(self._file, INDEX_HEAD.size))[:4] != INDEX_TAG:
                data += _read(self._file, CHUNK_BYTES - len(data))
                head = ChunkHead.unpack(data, self.header, len(prefix.offsets), prefix.rows, self.where)
                payload = _payload(self._file, head, self.where)
                prefix.add(head)
                if prefix.rows > start and (stop is None or head.first < stop):
                    yield head, payload
            tail = prefix.tail(self.header.file_id)
            if data + _read(self._file, len(tail) - len(data) + 1) != tail:
                raise IntegrityError(f"{self.where}: its index or its end is damaged or cut short; no rows were lost")
        except IntegrityError as problem:
            if not self._recover:
                raise
            self.lost = f"all from row {prefix.rows}: {problem}"
            _logger.warning("%s: recovered %d rows, lost %s", self.where, prefix.rows, self.lost)
        if stop is not None and stop > prefix.rows:
            raise InputError(f"{self.where}: rows up to {stop} of {prefix.rows}; there are no such rows")


def read_header(file: BinaryIO, where: str) -> Header:
    """Read the header from where a file stands.

    Raises:
        InputError: if it is no latent file.
        IntegrityError: if it is damaged or cut short.
    """
    return Header.unpack(_read(file, HEADER_BYTES), where)


def find_end(file: BinaryIO, header: Header, where: str) -> Prefix:
    """Read end and index of a file that can be sought in.

    Raises:
        IntegrityError: if they are not whole, or not those of this file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(HEADER_BYTES, size - END_BYTES))
    end = End.unpack(_read(file, END_BYTES), header.file_id, where)
    damaged = IntegrityError(f"{where}: its index is damaged; read the rows with recover (--recover)")
    if end.index_offset < HEADER_BYTES or end.index_offset + end.index_size + END_BYTES != size:
        raise damaged
    file.seek(end.index_offset)
    index = _read(file, end.index_size)
    tag, chunks = INDEX_HEAD.unpack_from(index)
    if zlib.crc32(index, zlib.crc32(header.file_id)) != end.index_crc or (tag, chunks) != (INDEX_TAG, end.chunks):
        raise damaged
    entries = np.frombuffer(index, "<u8", offset=INDEX_HEAD.size).reshape(-1, ENTRY.size // 8)
    prefix = Prefix()
    prefix.offsets.frombytes(entries[:, 0].astype(np.uint64).tobytes())
    prefix.firsts.frombytes(entries[:, 1].astype(np.uint64).tobytes())
    prefix.end, prefix.rows = end.index_offset, end.rows
    offsets = np.append(entries[:, 0], np.uint64(prefix.end))
    firsts = np.append(entries[:, 1], np.uint64(prefix.rows))
    inside = int(offsets.max()) <= size and prefix.rows <= end.chunks * most_rows(header)
    apart = inside and bool((offsets[1:] >= offsets[:-1] + np.uint64(CHUNK_BYTES)).all())
    if offsets[0] != HEADER_BYTES or firsts[0] != 0 or not apart or not (firsts[1:] > firsts[:-1]).all():
        raise damaged
    return prefix


def whole_prefix(file: BinaryIO, header: Header, where: str) -> tuple[Prefix, str | None]:
    """Return the chunks from the start that are whole, and what was lost behind them, if anything, in words."""
    size = file.seek(0, os.SEEK_END)
    try:
        promised = End.unpack(_tail(file, size), header.file_id, where).rows
    except IntegrityError:
        promised = None
    prefix = Prefix()
    file.seek(HEADER_BYTES)
    problem: IntegrityError | None = None
    while True:
        data = _read(file, CHUNK_BYTES)
        if data[:4] == INDEX_TAG or not data:
            break
        try:
            head = ChunkHead.unpack(data, header, len(prefix.offsets), prefix.rows, where)
            if head.size > size - prefix.end - CHUNK_BYTES:
                raise IntegrityError(f"{where}: chunk {head.number} is cut short")
            _payload(file, head, where)
        except IntegrityError as found:
            problem = found
            break
        prefix.add(head)
    rest, tail = size - prefix.end, prefix.tail(header.file_id)
    file.seek(prefix.end)
    if rest == len(tail) and _read(file, rest) == tail:
        return prefix, None
    if promised is not None and promised > prefix.rows:
        lost = f"rows {prefix.rows} to {promised - 1} ({rest} bytes)"
    elif problem is not None:
        lost = f"all from row {prefix.rows} ({rest} bytes)"
    else:
        lost = f"its end ({rest} bytes), and no whole chunk of rows"
    _logger.warning("%s: recovered %d rows, lost %s", where, prefix.rows, lost)
    return prefix, lost


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(HEADER_BYTES, size - END_BYTES))
    return _read(file, END_BYTES)


def _open(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as problem:
        raise InputError(f"{path}: cannot be read: {problem.strerror or problem}") from None


def _payload(file: BinaryIO, head: ChunkHead, where: str) -> bytes:
    payload = _read(file, head.size)
    if len(payload) != head.size or zlib.crc32(payload) != head.payload_crc:
        raise IntegrityError(
            f"{where}: chunk {head.number} (rows {head.first} to {head.first + head.rows - 1}) is damaged or cut "
            "short; read what is before it with recover (--recover)"
        )
    return payload


def _read(file: BinaryIO, size: int) -> bytes:
    """Return so many bytes, or fewer at the end; no more memory is taken than bytes are there."""
    parts = []
    while size > 0 and (part := file.read(min(size, PIECE))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
