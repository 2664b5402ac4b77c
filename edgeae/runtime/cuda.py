"""Graphs on a CUDA device: memory there and here, many rows in lanes, and a bound batch replayed as one CUDA graph.

Written from ONNX Runtime's documentation and sources; where it has not run on a device yet, benchmarks/README.md says
what to run first. What these say, and what is built on it:

- A replayed CUDA graph reads and writes the addresses it was recorded with, whatever is bound by then. So input and
  output of a recorded graph are arrays on the device that never move, and the copies to and from the host are ours.
- ONNX Runtime records in the first run, after warm-up runs of its own, one graph for each thread and session. While it
  records, no other thread of the process may allocate, copy or wait on the device (`Gate` sees to that for edgeae).
- Runs at the same time take a stream each, unless the session records graphs. So the lanes of a large input share one
  session, and one lane's copies overlap with another's work; a bound batch has sessions of its own.

Sources: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html (CUDA graphs, streams) and
https://docs.nvidia.com/cuda/cuda-runtime-api/ (cudaStreamBeginCapture, cudaHostRegister).
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from edgeae.errors import DeviceError
from edgeae.runtime import process
from edgeae.runtime.device import Device
from edgeae.runtime.gate import GATE
from edgeae.runtime.inputs import Array, address
from edgeae.runtime.ort import ERRORS, ort
from edgeae.runtime.session import Binding, Graph

__all__ = ["BoundChain", "DeviceArray", "LaneChain", "host_array"]

log = logging.getLogger("edgeae")

PORTABLE = 1  # cudaHostRegisterPortable: pinned for every device
# A replay gives what the ordinary run gave up to rounding; one that read an old row or wrote elsewhere is far from it.
NEAR = 1e-2


class DeviceArray:
    """An array on a CUDA device that never moves.

    Attributes:
        place: Its address there.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype[Any], device: Device) -> None:
        """Allocate it.

        Raises:
            DeviceError: if the device has no such memory.
        """
        self._where = device
        try:
            with GATE.shared():
                self._value = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, "cuda", device.index)
        except ERRORS as problem:
            raise DeviceError(
                f"{device}: no memory for {list(shape)} {dtype} there: {_first_line(problem)}"
            ) from problem
        self.place: int = self._value.data_ptr()

    def upload(self, array: Array) -> None:
        """Copy an array of the same size from the host, and wait until it is there."""
        with _explained(self._where):
            self._value.update_inplace(array)

    def download(self, array: Array) -> None:
        """Copy to an array of the same shape on the host."""
        with _explained(self._where):
            np.copyto(array, self._value.numpy())


def host_array(shape: Sequence[int], dtype: np.dtype[Any], device: Device) -> Array:
    """Return a new array whose memory is pinned, so that the device fetches it by itself; else an ordinary one.

    ONNX Runtime offers Python pinned memory only for providers that are plug-ins, so CUDA's runtime library, which it
    has loaded, is asked.

    Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html (cudaHostRegister)
    """
    size = math.prod(shape) * dtype.itemsize
    pinned = -(-max(1, size) // mmap.PAGESIZE) * mmap.PAGESIZE  # whole pages, which nothing else pins or unpins
    memory = np.empty(pinned + mmap.PAGESIZE, np.uint8)
    start = -address(memory) % mmap.PAGESIZE
    library = _cudart()
    if library is not None:
        place = address(memory) + start
        with GATE.shared():
            refused = library.cudaSetDevice(device.index) or library.cudaHostRegister(place, pinned, PORTABLE)
        if refused:
            log.debug("%s: host memory is not pinned, CUDA error %d", device, refused)
        else:
            weakref.finalize(memory, _unpin, library, place, process.current).atexit = False
    return memory[start : start + size].view(dtype).reshape(shape)


class LaneChain:
    """What one lane of a large input owns on a CUDA device: bindings, the input and what lies between two graphs.

    The last graph's output goes to host memory, which ONNX Runtime copies it to within the run.

    Attributes:
        staging: [rows, *shape] on the host; `run` reads its input from there.
    """

    def __init__(self, graphs: Sequence[Graph], staging: Array) -> None:
        """Allocate for `len(staging)` rows.

        Raises:
            DeviceError: if the device has too little memory.
        """
        self.staging = staging
        self._graphs = graphs
        self._bindings = [graph.take_binding() for graph in graphs]
        self._arrays = _device_arrays(graphs[:-1], staging, graphs[0].device)

    def run(self, rows: int, source: int, target: int) -> None:
        """Run the first `rows` rows of `staging`; `source` is its address, `target` where the results go."""
        with GATE.shared():
            self._arrays[0].upload(self.staging)
            places = [*(array.place for array in self._arrays), target]
            last = len(self._bindings) - 1
            for index, (binding, (before, after)) in enumerate(zip(self._bindings, pairwise(places), strict=True)):
                binding.bind(rows, before, after, source_there=True, target_there=index < last)
                binding.run()

    def close(self) -> None:
        """Leave the bindings for the next call."""
        for graph, binding in zip(self._graphs, self._bindings, strict=True):
            graph.give_back(binding)


class BoundChain:
    """Graphs bound for good to an array of the host on either side, each replayed as a recorded CUDA graph.

    Where a graph cannot be recorded, or its replay gives something else, all run the ordinary way, and the log says so.
    """

    def __init__(self, graphs: Sequence[Graph], source: Array, target: Array) -> None:
        """Allocate and bind.

        Args:
            graphs: Each reading what the one before wrote.
            source: [rows, *shape] that `run` reads.
            target: float32 [rows, *shape] that it writes.

        Raises:
            DeviceError: if the device has too little memory.
        """
        self._graphs, self._source, self._target = graphs, source, target
        self._ordinary = LaneChain(graphs, source)
        self._arrays: list[DeviceArray] = []
        self._bindings: list[Binding] = []
        self._recorded = threading.local()
        makers = [graph.recording_session for graph in graphs if graph.recording_session is not None]
        if makers:
            try:
                self._bind([make() for make in makers])
            except DeviceError as problem:
                self._give_up(problem)

    def _bind(self, sessions: Sequence[Any]) -> None:
        arrays = _device_arrays(self._graphs, self._source, self._graphs[0].device)
        bindings = [Binding(graph, session) for graph, session in zip(self._graphs, sessions, strict=True)]
        for binding, (before, after) in zip(bindings, pairwise(arrays), strict=True):
            binding.bind(len(self._source), before.place, after.place, source_there=True, target_there=True)
        self._arrays, self._bindings = arrays, bindings

    def _give_up(self, problem: Exception) -> None:
        self._arrays, self._bindings = [], []
        _tell_once(self._graphs[-1].where, _first_line(problem.__cause__ or problem))

    def run(self) -> None:
        """Run the graphs on what `source` holds now.

        Raises:
            DeviceError: if ONNX Runtime fails.
        """
        if self._bindings and not getattr(self._recorded, "here", False):
            self._record()
        elif self._bindings:
            with GATE.shared():
                self._replay(self._source)
        else:
            self._run_ordinary()

    def _run_ordinary(self) -> None:
        self._ordinary.run(len(self._source), address(self._source), address(self._target))

    def _record(self) -> None:
        """Record, in this thread, with other rows than the replay gets: one that reads an old row is found out."""
        self._run_ordinary()
        wanted = self._target.copy()
        try:
            with GATE.alone():
                self._replay(_unlike(self._source))
                self._replay(self._source)
            if not np.allclose(self._target, wanted, rtol=NEAR, atol=NEAR * _largest(wanted), equal_nan=True):
                raise DeviceError("its replay gives something else than an ordinary run")
            self._recorded.here = True
        except DeviceError as problem:
            self._give_up(problem)
            self._target[...] = wanted

    def _replay(self, source: Array) -> None:
        self._arrays[0].upload(source)
        for binding in self._bindings:
            binding.run()
        self._arrays[-1].download(self._target)


def _device_arrays(graphs: Sequence[Graph], source: Array, device: Device) -> list[DeviceArray]:
    """Return the first graph's input, and the output of each of `graphs`."""
    rows = max(1, len(source))
    between = [DeviceArray((rows, *graph.target_shape), np.dtype(np.float32), device) for graph in graphs]
    return [DeviceArray((rows, *source.shape[1:]), source.dtype, device), *between]


def _unlike(source: Array) -> Array:
    """Return rows whose results are far from those of `source`."""
    return np.invert(source) if source.dtype == np.uint8 else np.full_like(source, np.nan)


def _largest(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


@contextmanager
def _explained(device: Device) -> Iterator[None]:
    try:
        yield
    except ERRORS as problem:
        raise DeviceError(f"{device}: copying failed: {_first_line(problem)}") from problem


def _first_line(problem: BaseException) -> str:
    return str(problem).splitlines()[0] if str(problem) else type(problem).__name__


@cache
def _tell_once(where: str, reason: str) -> None:
    log.warning(
        "%s: bound batches run without a CUDA graph, because %s; options={'provider': {'enable_cuda_graph': '0'}} "
        "does not try",
        where,
        reason,
    )


@cache
def _cudart() -> Any:
    """Return CUDA's runtime library, or None."""
    pattern = "cudart64_{}.dll" if sys.platform == "win32" else "libcudart.so.{}"
    for major in (13, 12, 11):
        try:
            library = ctypes.CDLL(pattern.format(major if sys.platform != "win32" or major > 11 else 110))
            library.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
            library.cudaHostUnregister.argtypes = (ctypes.c_void_p,)
            library.cudaSetDevice.argtypes = (ctypes.c_int,)
        except (OSError, AttributeError):
            continue
        return library
    return None


def _unpin(library: Any, place: int, owner: int) -> None:
    if owner == process.current:  # in a forked child CUDA does not work, and the pages are not pinned
        library.cudaHostUnregister(place)
