"""Many rows: cut into cache-sized chunks, shared by workers that each own their bindings, no copy where none is needed.

A small scorer gets many chunks at a time, in a loop inside ONNX Runtime (see looped.py). Otherwise a worker binds the
graph's input and output to slices of the caller's array and of the result, so that a chunk is read and written where it
lies. Workers are threads of this call, the calling thread among them: none works on after the call, and a process that
forks has no pool to lose.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import threading
from collections.abc import Sequence

import numpy as np

from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.inputs import Array, RowReader, address, all_finite
from edgeae.runtime.session import Graph

__all__ = ["run_rows"]

PIECES = 64  # most that run in a loop before a worker asks for more
LOOPED_AFTER = 512  # pieces
LOOPED_WORK = 2**25  # multiply-adds in a piece, beside which what is between two pieces counts little


def run_rows(
    graphs: Sequence[Graph],
    reader: RowReader,
    out: Array,
    *,
    chunk: int,
    workers: int,
    batch: int | None,
) -> None:
    """Run `graphs`, each on the result of the one before, over all rows, and write the last one's results to `out`.

    Args:
        graphs: One graph, or an encoder and a decoder: then no more latents exist at a time than chunks are worked on.
        reader: The rows.
        out: [n, *shape] float32, contiguous. Rows that the reader replaced become NaN.
        chunk: Most rows in one call of ONNX Runtime.
        workers: Most threads.
        batch: The graphs' fixed batch size, to which the last chunk is padded, or None.

    Raises:
        InputError: for the first invalid row, if the reader does not replace them.
        DeviceError: if ONNX Runtime fails.
    """
    loop = _Loop(graphs[0], reader, out, chunk, workers) if _in_a_loop(graphs, reader, chunk, workers, batch) else None
    job = _Job(graphs, reader, out, chunk, batch, loop)
    try:
        with contextlib.suppress(RuntimeError):  # no room for one more thread: those that run do the work
            for _ in range(min(workers, job.pieces) - 1):
                _thread.start_new_thread(job.help, ())
        job.work()
        job.close()
    except BaseException:  # Ctrl-C arrives here, between two chunks
        job.cancelled = True
        job.close()
        raise
    if job.failures:
        raise min(job.failures, key=lambda failure: failure[0])[1]


def _in_a_loop(graphs: Sequence[Graph], reader: RowReader, chunk: int, workers: int, batch: int | None) -> bool:
    """Return whether a loop over pieces of rows is worth it: for a small scorer and rows that it can read as they lie.

    A loop is another session, with another copy of the weights, which is made once many rows have been scored.
    """
    graph, rows = graphs[-1], reader.rows
    pieces = len(rows) // chunk
    short = graph.small and graph.work * chunk <= LOOPED_WORK
    if graph.role != "scorer" or batch or pieces < 4 * workers or not short:
        return False
    taken = rows.dtype == np.uint8 or (rows.dtype == np.float32 and graph.shows_invalid)
    if not taken or graph.native or graph.device.kind != "cpu" or not rows.flags.c_contiguous or not rows.flags.aligned:
        return False
    graph.pieces_run += pieces
    return graph.pieces_run >= LOOPED_AFTER


class _Job:
    """The pieces of one call that are still to be done, and what went wrong."""

    def __init__(
        self,
        graphs: Sequence[Graph],
        reader: RowReader,
        out: Array,
        chunk: int,
        batch: int | None,
        loop: _Loop | None,
    ) -> None:
        self.graphs, self.reader, self.out, self.batch, self.loop = graphs, reader, out, batch, loop
        self.rows = len(reader.rows)
        self.pieces = -(-self.rows // (batch or chunk))
        # Pieces of equal size: 65 rows are 33 and 32, not 64 and 1.
        self.piece = batch or -(-self.rows // max(1, self.pieces))
        self.step = self.piece if loop is None else loop.step  # rows that a worker takes at a time
        self.place = address(out)
        self.target_bytes = out.itemsize * math.prod(graphs[-1].target_shape)
        self.cancelled = False
        self.failures: list[tuple[int, Exception]] = []
        self._next = self._helpers = 0
        self._closed = False
        self._lock, self._last = threading.Lock(), threading.Lock()
        self._last.acquire()

    def help(self) -> None:
        """Do pieces in a thread of its own.

        `threading.Thread` would wait until the thread runs, which a sleeping core delays by more than a short call
        takes; here the caller begins at once, and a thread that comes too late finds nothing to do.
        """
        with self._lock:
            if self._closed or self._next >= self.rows:
                return
            self._helpers += 1
        try:
            self.work()
        finally:
            with self._lock:
                self._helpers -= 1
                if self._closed and not self._helpers:
                    self._last.release()

    def close(self) -> None:
        """Wait for the threads that help; those that have not begun never will. May be called again if interrupted."""
        with self._lock:
            self._closed = True
            helped = self._helpers > 0
        if helped:
            self._last.acquire()

    def work(self) -> None:
        """Do pieces until none is left, in the thread that calls."""
        start = 0
        try:
            with DenormalsAsZero():
                lane = _Lane(self)
                while (start := self._take()) < self.rows:
                    lane.run(start, min(start + self.step, self.rows))
                lane.close()
        except Exception as problem:
            # Pieces are handed out in order and finished, so the failure with the smallest start is the first one.
            self.cancelled = True
            self.failures.append((start, problem))

    def _take(self) -> int:
        with self._lock:
            if self.cancelled:
                return self.rows
            start = self._next
            self._next += self.step
            return start


class _Loop:
    """The whole pieces of what a worker takes, in one run; see looped.py."""

    def __init__(self, graph: Graph, reader: RowReader, out: Array, chunk: int, workers: int) -> None:
        rows = reader.rows
        self._graph, self._out, self._chunk = graph.looped(chunk, rows.dtype), out, chunk
        self._source, self._row_bytes = address(rows), reader.row_bytes
        self._target, self._target_bytes = address(out), out.itemsize * math.prod(out.shape[1:])
        self._whole_numbers = rows.dtype.kind in "biu"
        # enough for Python's part not to matter, few enough for all workers to end together, and for Ctrl-C
        self.step = chunk * max(1, min(PIECES, len(rows) // (4 * workers * chunk)))

    def run(self, start: int, stop: int) -> int:
        """Run all whole pieces of rows start to stop, and return where those begin that are still to be run."""
        pieces = (stop - start) // self._chunk
        end = start + pieces * self._chunk
        if not pieces:
            return start
        binding = self._graph.take_binding()
        binding.bind(pieces, self._source + start * self._row_bytes, self._target + start * self._target_bytes)
        binding.run()
        self._graph.give_back(binding)
        return end if self._whole_numbers or all_finite(self._out[start:end]) else start


class _Lane:
    """What one worker owns: a binding for each graph, and buffers."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        reader, first, last = job.reader, job.graphs[0], job.graphs[-1]
        self._copies = first.device.kind == "cuda"
        in_place = reader.direct and not reader.flag and job.batch is None and not self._copies
        shape = (0 if in_place else job.piece, *first.source_shape)
        if self._copies:
            from edgeae.runtime.cuda import LaneChain, host_array  # here, for a fast start

            once = job.pieces == 1  # pinning memory takes as long as some copies from it
            dtype = first.source_dtype
            self._buffer = np.empty(shape, dtype) if once else host_array(shape, dtype, first.device)
            self._chain: _Chain | LaneChain = LaneChain(job.graphs, self._buffer)
        else:
            self._buffer = np.empty(shape, first.source_dtype)
            self._chain = _Chain(job.graphs, job.piece)
        self._buffer_place = 0 if in_place else address(self._buffer)
        self._padded = None if not job.batch else np.empty((job.piece, *last.target_shape), np.float32)

    def run(self, start: int, stop: int) -> None:
        """Run rows start to stop."""
        job = self._job
        if job.loop is not None:
            start = job.loop.run(start, stop)
        for at in range(start, stop, job.piece):
            self._run_piece(at, min(at + job.piece, stop))

    def _run_piece(self, start: int, stop: int) -> None:
        job = self._job
        results = job.out[start:stop]
        # A scorer that adds up each value's own error shows in the score that a value is not finite, and looking at the
        # scores costs nothing, at the rows a twentieth of the run; other graphs may hide it: max(NaN, 0) may be 0.
        shows = job.graphs[-1].shows_invalid
        replaced = self._run(start, stop, check=not shows)
        if shows and not all_finite(results):
            replaced = self._run(start, stop, check=True)
        if replaced is not None:
            results[replaced] = np.nan

    def _run(self, start: int, stop: int, *, check: bool) -> Array | None:
        job, reader, rows = self._job, self._job.reader, stop - start
        block, replaced = reader.read(start, stop, self._buffer, check=check)
        in_place = reader.direct and replaced is None
        target = job.place + start * job.target_bytes
        padded = self._padded if rows < job.piece else None
        if in_place and (self._copies or padded is not None):
            self._buffer[:rows] = block
            in_place = False
        if padded is not None:
            self._buffer[rows:] = reader.spec.filler
            rows, target = job.piece, address(padded)
        source = reader.place + start * reader.row_bytes if in_place else self._buffer_place
        self._chain.run(rows, source, target)
        if padded is not None:
            job.out[start:stop] = padded[: stop - start]
        return replaced

    def close(self) -> None:
        """Leave the bindings for the next call; those of a lane that failed are dropped instead."""
        self._chain.close()


class _Chain:
    """Graphs on the CPU, each reading what the one before wrote; on a CUDA device it is a `LaneChain`."""

    def __init__(self, graphs: Sequence[Graph], rows: int) -> None:
        self._graphs = graphs
        self._bindings = [graph.take_binding() for graph in graphs]
        self._between = [np.empty((rows, *graph.target_shape), np.float32) for graph in graphs[:-1]]
        self._between_places = [address(array) for array in self._between]

    def run(self, rows: int, source: int, target: int) -> None:
        """Run `rows` rows at the address `source`, and write the results to `target`."""
        for binding, between in zip(self._bindings, self._between_places, strict=False):
            binding.bind(rows, source, between)
            binding.run()
            source = between
        last = self._bindings[-1]
        last.bind(rows, source, target)
        last.run()

    def close(self) -> None:
        """Give the bindings back."""
        for graph, binding in zip(self._graphs, self._bindings, strict=True):
            graph.give_back(binding)
