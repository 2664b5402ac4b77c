"""Rows through a model into a latent file."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import BinaryIO, Final

import numpy as np
import zstandard

from edgeae.codec.chunk_coder import ChunkCoder, Coded
from edgeae.codec.chunk_writer import ChunkWriter
from edgeae.codec.coders import Array
from edgeae.codec.format import Header, most_rows
from edgeae.codec.lanes import Lanes
from edgeae.codec.report import Report
from edgeae.codec.settings import Settings, check_model, dtype_name, make_header
from edgeae.errors import InputError
from edgeae.runtime import Autoencoder
from edgeae.runtime.inputs import RowSpec, as_rows

__all__ = ["LatentWriter"]

VALUES: Final = 2**21  # in the rows of a chunk, about
MOST_ROWS: Final = 2**16
AHEAD: Final = 2  # chunks that are encoded while others are coded, and that hold on to their rows
TOGETHER: Final = 12  # times as many rows may be in a chunk of which only the latents are held on to
WHOLE: Final = 2.0**24  # up to which float32 holds every whole number


class LatentWriter:
    """Compresses rows into a file (.eae) or a pipe, chunk by chunk, in memory that does not grow with their number.

    A chunk is on its way to the disk when it is full. A new file is written in place: whoever kills the writer loses
    the rows since the last full chunk, and goes on with `append`. Leaving the `with` block because of an error ends the
    file properly, with the rows that were written before; so does Ctrl-C. Only a file that would have replaced another
    (`force`) goes.
    Encoding and coding share the model's number of threads. One thread at a time may use a writer.

    Rows are taken as float32, or as uint8 where the first ones are, like everywhere in edgeae; bounds refer to these.

    Raises:
        InputError: if the file cannot be written or the settings fit neither model nor file; from `write`, for rows of
            another shape, that are not finite, or that a promise cannot be kept for.
        IntegrityError: from `append`, if the file's header is damaged.

    Example:
        >>> import tempfile
        >>> import edgeae
        >>> from edgeae.codec import LatentReader, LatentWriter
        >>> path = tempfile.mkdtemp() + "/rows.eae"
        >>> with edgeae.load("export/golden/table", device="cpu") as model:
        ...     rows = model.bundle.golden().x
        ...     with LatentWriter(path, model, max_error=0.5) as writer:
        ...         writer.write(rows)
        ...     with LatentReader(path, model) as reader:
        ...         bool((abs(reader[2:5] - rows[2:5]) <= 0.5).all())
        True
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        model: Autoencoder,
        *,
        dtype: str | None = None,
        max_error: float | None = None,
        target_psnr: float | None = None,
        lossless: bool = False,
        append: bool = False,
        force: bool = False,
        compare: bool = False,
    ) -> None:
        """Open a file for writing.

        Args:
            target: A path, or a binary file that is open for writing, such as a pipe.
            model: What compresses; a promise needs its fp32 graphs.
            dtype: Of the stored latents; see `Settings`, like the next three.
            max_error: Largest absolute error of a value.
            target_psnr: Lowest peak signal-to-noise ratio of a chunk, in decibels.
            lossless: Every value comes out as it was.
            append: Go on with an existing file, in its own settings; a tail that a killed writer left is cut off.
            force: Replace an existing file, once the new one is complete.
            compare: Also find out what zstd makes of the raw bytes, for the report; takes time.
        """
        self._model = model
        self._settings = Settings(dtype, max_error, target_psnr, lossless)
        row = model.manifest.input
        self._spec = RowSpec(
            "x", row.shape, np.dtype(row.dtype), np.zeros(row.shape, row.dtype), row.layout, row.feature_names
        )
        self._file = ChunkWriter(target, append=append, force=force)
        try:
            if self._file.header is not None:
                _check_settings(self._settings, self._file.header, self._file.where)
                check_model(self._file.header, model, self._file.where)
        except BaseException:
            self._file.abandon()
            raise
        self._before = self._file.size if self._file.header is not None else 0
        self._coder = ChunkCoder(model)
        self._zstd = zstandard.ZstdCompressor(level=3).compressobj() if compare else None
        self._zstd_bytes = 0
        self._pool = ThreadPoolExecutor(1, "edgeae-codec")
        self._waiting: deque[Future[None]] = deque()
        self._lanes: Lanes | None = None
        self._pending: Array | None = None
        self._held = 0
        self._rows = 0
        self._sent = False
        self._failed = self._interrupted = False
        self._closed = False

    @property
    def header(self) -> Header | None:
        """What the file is; None before the first rows of a new one."""
        return self._file.header

    @property
    def rows(self) -> int:
        """Rows given to `write` so far."""
        return self._rows

    def write(self, x: object) -> None:
        """Compress rows [n, *input_shape], any array-like.

        Raises:
            InputError: for rows that cannot be taken; none of them is then.
        """
        if self._closed:
            raise InputError(f"{self._file.where}: this writer was closed")
        if self._interrupted or self._failed:
            what = "was interrupted" if self._interrupted else "could not write a chunk"
            raise InputError(f"{self._file.where}: this writer {what}; close it, and go on with append")
        given = as_rows(x, self._spec)
        if len(given):
            with self._noticing_interrupts():
                self._take(given, self._file.header or self._begin(given))

    def _take(self, given: Array, header: Header) -> None:
        start = 0
        step = self._chunk(header)
        while start < len(given):
            if self._pending is None and len(given) - start >= step:
                size = self._share(len(given) - start, step, self._lanes)
                # encoding looks for what is not finite
                part = self._rows_of(given, start, start + size, header)
                own = not self._plain and np.may_share_memory(part, given)
                self._submit(part.copy() if own else part)
            else:
                if self._pending is None:
                    self._pending, self._held = np.empty((step, *header.shape), header.dtype), 0
                part = self._rows_of(given, start, min(len(given), start + step - self._held), header)
                self._check_finite(part)
                self._pending[self._held : self._held + len(part)] = part
                self._held += len(part)
                if self._held == step:
                    self._submit_pending()
            self._rows += len(part)
            start += len(part)
        # the caller may change its rows, and hears of those that cannot be taken
        if self._lanes is not None and not self._lanes.let_go():
            self._write_ready(self._lanes, everything=True)

    def flush(self) -> None:
        """Make a chunk of the rows that are waiting for more, and have everything on the disk."""
        with self._noticing_interrupts():
            self._submit_pending()
            self._wait(0)
            self._file.sync()

    def close(self) -> None:
        """Write what is waiting, and the end of the file.

        Raises:
            InputError: if the file cannot be written.
        """
        if self._closed:
            return
        if self._failed:
            self._abandon()
            return
        try:
            if self._file.header is None:
                self._begin(np.empty((0, *self._spec.shape), self._spec.dtype))
            if not self._interrupted:
                self._submit_pending()
                self._wait(0)
        except BaseException:
            self._abandon()
            raise
        self._closed = True
        self._end_threads()
        self._file.close()

    def report(self) -> Report:
        """Return what was written and how well; complete after `close`."""
        self._wait(0)
        header = self._file.header
        if header is None:
            raise InputError(f"{self._file.where}: nothing was written yet")
        if self._zstd is not None and self._closed:
            self._zstd_bytes, self._zstd = self._zstd_bytes + len(self._zstd.flush()), None
        return self._coder.report(
            header, coded_bytes=self._file.size - self._before, zstd_bytes=self._zstd_bytes or None
        )

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        nothing = not (self._rows or self._before or self._interrupted)
        if kind is not None and (self._failed or self._file.replaces or nothing):
            self._abandon()
        else:
            self.close()

    @contextmanager
    def _noticing_interrupts(self) -> Iterator[None]:
        """Chunks may be lost on their way when Ctrl-C comes: none that was not written by then is written after it."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self._interrupted = True
            raise

    def _begin(self, rows: Array) -> Header:
        header = make_header(self._model, self._settings, rows)
        self._file.begin(header)
        return header

    @property
    def _plain(self) -> bool:
        """Whether only latents wait to be coded: what they take is little."""
        return self._file.header is not None and self._file.header.bound == "none" and self._zstd is None

    def _chunk(self, header: Header) -> int:
        return max(
            1, min(MOST_ROWS, most_rows(header) // TOGETHER, VALUES // max(header.row_values, header.latent_dim))
        )

    def _share(self, rows: int, step: int, lanes: Lanes | None) -> int:
        """Return the size of the next chunk of so many rows: large ones, but for the last, so that all threads end."""
        if lanes is None:
            return step
        most = max(2 * step, min(TOGETHER * step if lanes.settled else 0, rows // (2 * self._model.workers)))
        return rows if rows < 1.5 * most else most

    def _rows_of(self, given: Array, start: int, stop: int, header: Header) -> Array:
        """Return rows in the file's dtype, checked."""
        part = given[start:stop]
        with np.errstate(all="ignore"):
            rows = part.astype(header.dtype, copy=False)
        bad = None
        if rows.dtype == np.uint8 and part.dtype != np.uint8:
            bad, why = rows != part, "the file holds whole numbers from 0 to 255, as its first rows did"
        elif header.bound == "lossless" and rows.dtype != np.uint8:
            bad, why = (rows != np.rint(rows)) | (np.abs(rows) > WHOLE), "lossless is for whole numbers up to 2^24"
        if bad is not None:
            self._refuse(part, bad, why)
        return np.ascontiguousarray(rows)

    def _check_finite(self, rows: Array) -> None:
        if rows.dtype != np.uint8:
            self._refuse(rows, ~np.isfinite(rows), "remove or impute such values")

    def _refuse(self, rows: Array, bad: Array, why: str) -> None:
        """Refuse rows of which any value is bad."""
        if bad.any():
            row, *place = (int(index) for index in np.argwhere(bad)[0])
            value, where = rows[(row, *place)], place if len(place) > 1 else place[0]
            raise InputError(f"x: row {self._rows + row}, value {where} is {value}; {why}")

    def _submit_pending(self) -> None:
        if self._pending is not None and self._held:
            rows, self._pending, self._held = self._pending[: self._held], None, 0
            self._submit(rows)

    def _submit(self, rows: Array) -> None:
        header = self._file.header
        if header is None:
            return
        if self._lanes is not None:
            self._lanes.submit(rows, self._rows)
            self._write_ready(self._lanes)
            return
        try:
            z = self._model.encode(rows)
        except InputError:
            self._check_finite(rows)
            raise
        if not self._sent:  # the first chunk tells how to code all of them
            self._sent = True
            self._coder.look_at(header, rows, z)
            if self._plain:
                self._lanes = Lanes(self._model, header.bits, self._coder.least)
                sample = self._coder.sample(rows).copy()  # the caller may change its rows once they are encoded
                self._lanes.submit(rows, self._rows, partial(self._coder.first, header, sample, z))
                self._lanes.share(rows.dtype, z)
                return
        self._waiting.append(self._pool.submit(self._code, header, rows, z))
        self._wait(AHEAD)

    def _write_ready(self, lanes: Lanes, *, everything: bool = False) -> None:
        for chunk in lanes.ready(everything=everything):
            try:
                payload = chunk.payload.result()
            except InputError:
                lanes.drop()  # the file ends, or goes on, behind what was before these rows
                self._rows = chunk.first
                self._check_finite(chunk.rows)
                raise
            except Exception:
                self._failed = True
                raise
            self._add(Coded(payload), len(chunk.rows), chunk.rows.nbytes)

    def _end_threads(self) -> None:
        self._pool.shutdown(cancel_futures=self._failed or self._interrupted)
        if self._lanes is not None:
            self._lanes.close()

    def _wait(self, most: int) -> None:
        if self._lanes is not None:
            self._write_ready(self._lanes, everything=most == 0)
        while len(self._waiting) > most or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _abandon(self) -> None:
        self._closed = self._failed = True
        self._end_threads()
        self._file.abandon()

    def _code(self, header: Header, rows: Array, z: Array) -> None:
        """Code one chunk and write it, in the pool's only thread; nothing is written behind one that failed."""
        if self._failed:
            return
        try:
            coded = self._coder.code(header, rows, z)
            if self._zstd is not None:
                self._zstd_bytes += len(self._zstd.compress(rows.data))
        except BaseException:
            self._failed = True
            raise
        self._add(coded, len(z), rows.nbytes)

    def _add(self, coded: Coded, rows: int, raw_bytes: int) -> None:
        try:
            self._file.write(coded.payload, rows, unknown=coded.unknown, decoded_crc=coded.crc)
        except Exception:
            self._failed = True
            raise
        self._coder.tally.rows += rows
        self._coder.tally.raw_bytes += raw_bytes


def _check_settings(settings: Settings, header: Header, where: str) -> None:
    """Refuse to go on with a file in other settings than its own."""
    wanted = {
        "dtype": settings.bits in (None, header.bits),
        "max_error": settings.max_error is None or (header.bound, header.value) == ("max-error", settings.max_error),
        "target_psnr": settings.target_psnr is None,
        "lossless": not settings.lossless or header.bound == "lossless",
    }
    for name, right in wanted.items():
        if not right:
            promise = header.bound if header.bound in ("none", "lossless") else f"{header.bound} {header.value:g}"
            raise InputError(
                f"{where}: is written with dtype {dtype_name(header.bits)} and the bound {promise}; it is gone on with "
                f"in the same way: leave out {name}"
            )
