"""The lowest latency: everything allocated and bound beforehand, so that a call is one copy, one check and one run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from edgeae.bundle.record import record
from edgeae.errors import EdgeaeError, InputError, OutOfMemoryError
from edgeae.runtime import process
from edgeae.runtime.denormals import AVAILABLE, DenormalsAsZero
from edgeae.runtime.inputs import PIECE, Array, RowReader, RowSpec, all_finite, as_rows
from edgeae.runtime.ort import ERRORS
from edgeae.runtime.session import Binding, Graph

__all__ = ["Bound", "Path", "Spares", "bind_arrays"]

# Where more than a tenth of the calls take this many times as long as usual, denormals are at work, and are switched
# off for so many calls; a busy machine makes two or three in a row slow, whose caches it emptied.
SLOW, FLUSHED_CALLS = 3.0, 1000
TENTH, SUSPECT = 10, 45

# Up to so many rows, of so many bytes together, copying them to memory that stays bound beats binding theirs.
FEW_ROWS, FEW_BYTES = 64, 2**18

FloatArray = np.ndarray[Any, np.dtype[np.float32]]


@record(frozen=True)
class Path:
    """The graphs of one operation, each reading what the one before wrote, and what the first one's rows must be."""

    graphs: tuple[Graph, ...]
    spec: RowSpec
    heavy: bool  # whether the graphs work long enough for denormals to matter more than switching them off

    @property
    def native(self) -> bool:
        """Whether operators of the library do all the work; they switch denormals off themselves."""
        return all(graph.native for graph in self.graphs)


class Bound:
    """A model whose buffers are allocated and bound for a fixed number of rows; made by `Autoencoder.bind`.

    With `batch=1` each method takes a row [*shape] and returns that row's result, or rows [1, *shape] and returns an
    array of one; with a larger batch it takes exactly [batch, *shape]. The score of a single row is a Python float,
    all else are fresh float32 arrays. The first call of a method loads and tests its graph.

    Denormal numbers count as zero in all but the smallest networks, where switching them off takes longer than they do.

    One thread at a time: a call while another thread is in a call raises. Make one `Bound` for each thread.

    Example:
        >>> import edgeae
        >>> model = edgeae.load("export/golden/dense", device="cpu")
        >>> one = model.bind()
        >>> type(one.score(np.zeros(model.input_shape, np.float32)))
        <class 'float'>
    """

    def __init__(self, batch: int, capacity: int, paths: Callable[[str], Path], threshold: float, flag: bool) -> None:
        """Use `Autoencoder.bind`.

        Args:
            batch: Rows in a call.
            capacity: Rows in the graphs' buffers: `batch`, or the bundle's fixed batch size.
            paths: Gives the graphs of "encode", "decode", "reconstruct" and "score".
            threshold: For `predict`.
            flag: Whether rows with non-finite values get NaN instead of raising.
        """
        self.batch = batch
        self._capacity = capacity
        self._paths = paths
        self._threshold = threshold
        self._flag = flag
        self._lock = threading.Lock()
        self._methods: dict[str, Callable[..., Any]] = {}
        self._score: Callable[..., Any] = self._load_score

    def score(self, x: object) -> float | FloatArray:
        """Return the anomaly score of a row [*shape] as a float, or of rows [batch, *shape] as float32 [batch].

        Higher is more anomalous.

        Raises:
            InputError: if `x` is not as expected, or not finite (unless the model was loaded with on_invalid="flag").
            EdgeaeError: if another thread is in a call, or in a forked child.
        """
        score: float | FloatArray = self._score(x)
        return score

    def predict(self, x: object) -> bool | np.ndarray[Any, np.dtype[np.bool_]]:
        """Return whether a row is an anomaly, `not (score <= threshold)`, or bool [batch] for rows; see `score`."""
        score = self.score(x)
        if isinstance(score, float):
            return not (score <= self._threshold)
        return ~(score <= np.float32(self._threshold))

    def encode(self, x: object) -> FloatArray:
        """Return the latent [latent_dim] of a row, or [batch, latent_dim] of rows; raises as `score` does."""
        return self._call("encode", x)

    def decode(self, z: object) -> FloatArray:
        """Return the reconstruction [*shape] of a latent [latent_dim], or [batch, *shape]; raises as `score` does."""
        return self._call("decode", z)

    def reconstruct(self, x: object) -> FloatArray:
        """Return the reconstruction of a row [*shape] or of rows [batch, *shape]; raises as `score` does."""
        return self._call("reconstruct", x)

    def __repr__(self) -> str:
        return f"Bound(batch={self.batch})"

    def _load_score(self, x: object) -> Any:
        self._score = self._load("score")
        return self._score(x)

    def _call(self, name: str, value: object) -> FloatArray:
        if name not in self._methods:
            self._methods[name] = self._load(name)
        result: FloatArray = self._methods[name](value)
        return result

    def _load(self, name: str) -> Callable[..., Any]:
        path = self._paths(name)
        try:
            return _prepare(path, self.batch, self._capacity, self._lock, flag=self._flag)
        except MemoryError as problem:
            raise OutOfMemoryError(f"bind: no memory for the buffers of {self._capacity} rows; bind fewer") from problem


class Spares:
    """What calls of few rows run without `bind`: each takes a bound function that nobody uses, and puts it back.

    So no two threads share one, and of each number of rows there are as many as threads were in such a call at once.

    Attributes:
        path: The operation.
        most: For how many rows it is worth it; 0 on a GPU.
    """

    def __init__(self, path: Path, chunk: int, capacity: int | None, *, flag: bool) -> None:
        """Make none yet.

        Args:
            path: The operation.
            chunk: Most rows in one call of ONNX Runtime.
            capacity: The bundle's fixed batch size, or None.
            flag: Whether rows with non-finite values get NaN instead of raising.
        """
        widest = 4 * max(
            math.prod(shape) for graph in path.graphs for shape in (graph.source_shape, graph.target_shape)
        )
        fitting = FEW_BYTES // widest
        if capacity is not None:
            fitting = capacity if capacity <= fitting else 0
        self.path = path
        self.most = min(FEW_ROWS, chunk, fitting) if path.graphs[0].device.kind == "cpu" else 0
        self._capacity, self._flag = capacity, flag
        self._idle: list[list[Callable[..., FloatArray]]] = [[] for _ in range(self.most + 1)]

    def call(self, rows: Array, first: int) -> FloatArray:
        """Return the results of 1 to `most` rows from `as_rows`, the first of which messages number `first`."""
        count = len(rows)
        idle = self._idle[count]
        try:
            call = idle.pop()
        except IndexError:
            call = _prepare(self.path, count, self._capacity or count, threading.Lock(), flag=self._flag, spare=True)
        result = call(rows, first)
        idle.append(call)  # one that failed is dropped
        return result


def _prepare(
    path: Path, batch: int, capacity: int, lock: threading.Lock, *, flag: bool, spare: bool = False
) -> Callable[..., Any]:
    """Allocate and bind, and return the function that a method of `Bound` is, or the one of `Spares`.

    It is a closure, with every function looked up beforehand: around a run of 7 us, tenths of a microsecond show.
    """
    spec = path.spec
    source, target, (first, *later), bare = bind_arrays(path.graphs, capacity)
    source[:] = spec.filler
    rows, row, results, result = source[:batch], source[0], target[:batch], target[0]
    # A scorer that adds up each value's own error shows in the score that a value is not finite: looking there costs a
    # tenth of looking at the row. An encoder may hide it: max(NaN, 0) may be 0.
    scoring, shows = path.graphs[-1].target == "score", path.graphs[-1].shows_invalid
    checked = spec.dtype == np.float32 and not shows
    heavy = (path.heavy or spare) and not path.native and AVAILABLE and path.graphs[0].device.kind == "cpu"
    denormals = DenormalsAsZero()
    flush, restore = denormals.__enter__, partial(denormals.__exit__, None, None, None)
    item, flat, flat_results = results.item, rows.reshape(-1), results.reshape(-1)
    sample = item if batch == 1 and scoring else partial(np.vdot, flat_results, flat_results)
    acquire, release, vdot, isfinite, ndarray = lock.acquire, lock.release, np.vdot, math.isfinite, np.ndarray
    short, row_shape = flat.size <= PIECE, spec.shape if batch == 1 else None
    shapes, dtype, owner = (rows.shape, row_shape), source.dtype, process.current

    def convert(value: object, start: int) -> tuple[bool, Array | None]:
        found = as_rows(value, spec, single=batch == 1)
        single = found.ndim == len(spec.shape)
        found = found[None] if single else found
        if len(found) != batch:
            raise InputError(
                f"{spec.name}: {len(found)} rows for a model bound to {batch}; pass exactly as many, or call the model"
            )
        return single, examine(found, start)

    def examine(found: Array, start: int) -> Array | None:
        block, replaced = RowReader(found, spec, flag=flag, first=start).read(0, batch, rows)
        if block is not rows:
            np.copyto(rows, block)
        return replaced

    def call(value: object, start: int = 0) -> Any:
        if owner != process.current:
            process.refuse_fork()
        if not acquire(False):
            raise EdgeaeError("a bound model was called while another thread is in a call; make one per thread")
        try:
            if heavy:
                flush()
            replaced = None
            if type(value) is ndarray and value.dtype == dtype and value.shape in shapes:
                single = value.shape == row_shape
                rows[...] = value
                if checked and not (isfinite(vdot(flat, flat)) if short else all_finite(rows)):
                    replaced = examine(rows, start)
            else:
                single, replaced = convert(value, start)
            first()
            for run in later:
                run()
            if shows and not isfinite(sample()):
                found = examine(rows, start)
                if found is not None:
                    replaced = found
                    first()
            if replaced is not None:
                results[replaced] = np.nan
            if not single:
                return results.copy()
            return item() if scoring else result.copy()
        finally:
            if heavy:
                restore()
            release()

    if spare or not (batch == 1 and shows):
        return call
    clock, flushing, suspicion = time.perf_counter, 0, 0
    limit = SLOW * min(_duration(bare) for _ in range(5)) if heavy else math.inf

    def score_row(value: object) -> Any:
        """Score a plain float32 row with nothing around the run that it does not need; `call` does all else.

        Switching denormals off costs a tenth of a small run, so it is done only while they show: by a slow run.
        """
        nonlocal flushing, suspicion
        if (
            flushing == 0
            and type(value) is ndarray
            and value.shape == row_shape
            and value.dtype is dtype
            and owner == process.current
            and acquire(False)
        ):
            score = math.nan
            try:
                row[...] = value
                before = clock()
                bare()
                if clock() - before > limit:
                    suspicion += TENTH
                    if suspicion > SUSPECT:
                        flushing, suspicion = FLUSHED_CALLS, 0
                elif suspicion:
                    suspicion -= 1
                score = item()
            except ERRORS:
                pass  # which `call` meets again and explains
            finally:
                release()
            if isfinite(score):
                return score
        flushing = max(0, flushing - 1)
        return call(value)

    return score_row


def bind_arrays(
    graphs: Sequence[Graph], rows: int
) -> tuple[Array, FloatArray, list[Callable[[], object]], Callable[[], object]]:
    """Allocate arrays for `rows` rows and bind the graphs to them, each reading what the one before wrote.

    Returns:
        The array to write rows to, the one that holds the results, what to call in turn for them, and what to call
        instead, if there is one graph, where errors need no explanation.
    """
    first = graphs[0]
    shape = (rows, *first.source_shape)
    arrays = [np.empty((rows, *graph.target_shape), np.float32) for graph in graphs]
    if first.device.kind == "cuda":
        from edgeae.runtime.cuda import BoundChain, host_array  # here, for a fast start

        source = host_array(shape, first.source_dtype, first.device)
        chain = BoundChain(graphs, source, arrays[-1])
        return source, arrays[-1], [chain.run], chain.run
    source = np.empty(shape, first.source_dtype)
    bindings = [Binding(graph) for graph in graphs]
    for binding, (before, after) in zip(bindings, pairwise([source, *arrays]), strict=True):
        binding.bind_for_good(before, after)
    return source, arrays[-1], [binding.run for binding in bindings], bindings[0].bare


def _duration(function: Callable[[], object]) -> float:
    before = time.perf_counter()
    function()
    return time.perf_counter() - before
