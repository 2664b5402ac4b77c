"""Chunks into a latent file: a new one, the end of an old one, or a pipe."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgeae.bundle.atomic import check_new, explained, new_file
from edgeae.codec.chunk_reader import Prefix, find_end, read_header, whole_prefix
from edgeae.codec.format import ChunkHead, Header, most_rows, payload_limit
from edgeae.errors import InputError, IntegrityError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = ["ChunkWriter"]


class ChunkWriter:
    """Writes a latent file chunk by chunk; knows nothing of what is in their payloads.

    A new file is written in place, each chunk in one piece: whoever kills the writer loses the chunk in flight, and the
    file is read with `recover` or gone on with by `append`. Only an existing file that `force` replaces stays as it is
    until the new one is complete.

    Attributes:
        header: What the file is; None until a new file has begun.
        where: Its name.
        replaces: Whether it takes the place of another file, once it is complete.
    """

    def __init__(self, target: str | os.PathLike[str] | BinaryIO, *, append: bool = False, force: bool = False) -> None:
        """Open a file for writing.

        Args:
            target: A path, or a binary file that is open for writing, which need not be able to seek.
            append: Go on with an existing file, after its last whole chunk; a new one if there is none.
            force: Replace an existing file, once the new one is complete.

        Raises:
            InputError: if it cannot be written, is no latent file, or is being written by another.
            IntegrityError: if it is to be gone on with, and its header is damaged.
        """
        self.header: Header | None = None
        self.replaces = False
        self._prefix = Prefix()
        self._stack = contextlib.ExitStack()
        self._is_file = isinstance(target, str | os.PathLike)
        self._in_place = False  # whether what is behind the last chunk has to go before the next one comes
        if not isinstance(target, str | os.PathLike):
            if append:
                raise InputError("append needs a file, not a pipe")
            self.where = str(getattr(target, "name", "stream"))
            self._file = target
            return
        path = Path(target)
        self.where = str(path)
        try:
            if append and path.exists():
                self._continue(path)
            else:
                check_new(path, force=force, what="the output file")
                self.replaces = path.exists()
                self._file = self._stack.enter_context(new_file(path) if self.replaces else self._create(path))
        except BaseException:
            self._stack.close()
            raise

    @property
    def rows(self) -> int:
        """Rows in the file so far."""
        return self._prefix.rows

    @property
    def chunks(self) -> int:
        """Chunks in the file so far."""
        return len(self._prefix.offsets)

    @property
    def size(self) -> int:
        """Bytes up to the end of the last chunk."""
        return self._prefix.end

    def begin(self, header: Header) -> None:
        """Write the header of a new file.

        Raises:
            InputError: if it cannot be written, or the header makes no sense.
        """
        self._put(header.check(self.where).pack())
        self.header = header

    def write(self, payload: bytes, rows: int, *, unknown: int = 0, decoded_crc: int = 0) -> None:
        """Add a chunk.

        Args:
            payload: What is in it.
            rows: How many rows it stands for.
            unknown: How many of them are anomalies to the model.
            decoded_crc: CRC-32 of the rows that must come out, where the header promises something.

        Raises:
            InputError: if it cannot be written, or is too large for a chunk.
        """
        header = self.header
        if header is None:
            raise InputError(f"{self.where}: no header was written")
        if not 1 <= rows <= most_rows(header) or len(payload) > payload_limit(header, rows):
            raise InputError(f"{self.where}: {rows} rows in {len(payload)} bytes are too many for one chunk")
        crc = zlib.crc32(payload)
        head = ChunkHead(self.chunks, self.rows, rows, len(payload), unknown, crc, decoded_crc)
        self._cut()
        self._in_place = self._is_file  # if this is interrupted, whatever comes next begins where this began
        self._put(head.pack(header.file_id) + payload)
        self._prefix.add(head)
        self._in_place = False

    def sync(self) -> None:
        """Have what was written on the disk, where there is one."""
        with contextlib.suppress(OSError, AttributeError):  # a pipe
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write index and end, and close the file.

        Raises:
            InputError: if they cannot be written.
        """
        if self.header is not None:
            self._cut()
            self._put(self._prefix.tail(self.header.file_id))
            self.sync()
        self._stack.close()

    def abandon(self) -> None:
        """Close the file as it is; a file that would have replaced another one is removed."""
        with contextlib.suppress(_Abandoned):
            self._stack.__exit__(_Abandoned, _Abandoned(), None)

    def _put(self, data: bytes) -> None:
        """Write all of it; to a file in one call, so that a kill in between leaves a whole chunk or a torn one."""
        with explained(self.where) if self._is_file else contextlib.nullcontext():
            view = memoryview(data)
            while len(view):
                view = view[self._file.write(view) :]
            self._file.flush()

    def _cut(self) -> None:
        if self._in_place:
            with explained(self.where):
                self._file.seek(self._prefix.end)
                self._file.truncate()
            self._in_place = False

    @contextlib.contextmanager
    def _create(self, path: Path) -> Iterator[BinaryIO]:
        with explained(path):
            file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed below
        try:
            with file:
                _lock(file, self.where)
                yield file
        except BaseException:
            if not self.rows:  # the name is free again
                path.unlink(missing_ok=True)
            raise

    def _continue(self, path: Path) -> None:
        with explained(path):
            self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by the stack
            self._stack.enter_context(self._file)
        _lock(self._file, self.where)
        if not os.fstat(self._file.fileno()).st_size:  # its writer was killed before it wrote anything
            return
        self.header = read_header(self._file, self.where)
        try:
            self._prefix = find_end(self._file, self.header, self.where)
        except IntegrityError:
            self._prefix, _ = whole_prefix(self._file, self.header, self.where)
        self._in_place = True

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class _Abandoned(Exception):
    """Tells whoever replaces a file that it shall not."""


def _lock(file: BinaryIO, where: str) -> None:
    """Keep other writers away until the file is closed."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{where}: another process is writing it; wait until it is done") from None
    except OSError:
        return  # no locks on this file system
