"""One graph of a bundle as a verified ONNX Runtime session, and the bindings that run it."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from edgeae.bundle import Bundle
from edgeae.bundle.guard import check_graph
from edgeae.errors import BundleError, DeviceError, EdgeaeError
from edgeae.runtime.device import Device, create_session
from edgeae.runtime.inputs import Array, address
from edgeae.runtime.native import rewrite
from edgeae.runtime.options import Options
from edgeae.runtime.ort import ERRORS, ort

__all__ = ["TENSORS", "Binding", "Graph"]

# role: (what it reads, what it gives)
TENSORS = {"encoder": ("x", "z"), "decoder": ("z", "x_hat"), "scorer": ("x", "score")}


KEPT_BYTES = 2**23  # of a file


class Graph:
    """A session whose graph passed the guard and whose device and metadata are what the manifest says.

    Any number of threads may run it at once, each through bindings of its own.

    Attributes:
        role: "encoder", "decoder" or "scorer".
        source: Name of its input; [batch, *source_shape] of `source_dtype`.
        target: Name of its output; float32 [batch, *target_shape].
        shows_invalid: Whether any value of a row that is not finite makes the row's result not finite; the model finds
            out when it tests a scorer, and sets it.
        native: Whether it runs as one node of the native operator library.
        work: Multiply-adds for one row.
        small: Whether its file is kept in memory.
        pieces_run: How many pieces of rows it has run that could have been run in a loop.
        recording_session: Makes another session, which records its first run as a CUDA graph; None on the CPU and where
            the options switch that off.
    """

    shows_invalid = False

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        role: str,
        device: Device,
        options: Options,
        *,
        trust: bool = False,
    ) -> None:
        """Read, check and load one graph.

        Args:
            bundle: Where it is.
            precision: Which of the bundle's.
            role: Which graph.
            device: Where to run it.
            options: Of the session; with `native` it is rewritten for the operator library, if it is a dense chain.
            trust: Allow operators that are run on request only.

        Raises:
            BundleError: if it is not the graph that the manifest promises, or ONNX Runtime refuses it.
            DeviceError: if the device does not take it.
        """
        manifest = bundle.manifest
        entry = bundle.entry(precision)
        self.role = role
        self.where = f"{bundle.path}/{getattr(entry, role).path}"
        self.source, self.target = TENSORS[role]
        shapes = {"x": manifest.input.shape, "z": (manifest.latent_dim,), "x_hat": manifest.input.shape, "score": ()}
        self.source_shape: tuple[int, ...] = shapes[self.source]
        self.target_shape: tuple[int, ...] = shapes[self.target]
        self.source_dtype = np.dtype(manifest.input.dtype if self.source == "x" else "float32")
        self.device, self._options = device, options

        data = bundle.graph(precision, role)
        info = check_graph(
            data,
            where=self.where,
            source=(self.source, self.source_dtype.name, self.source_shape),
            target=(self.target, "float32", self.target_shape),
            batch=manifest.batch,
            trust=trust,
        )
        self._check_metadata(info.metadata, bundle, precision)
        self.work = info.work // (manifest.batch or 1)
        rewritten = rewrite(data) if options.native else None
        self.native = rewritten is not None
        self.recording_session: Callable[[], Any] | None = None
        if device.kind == "cuda" and str(options.provider.get("enable_cuda_graph", "1")).lower() not in ("0", "false"):
            self.recording_session = partial(create_session, data, device, options, record=True)
        try:
            self.session = create_session(rewritten or data, device, options, operators=self.native)
        except EdgeaeError:
            raise
        except ERRORS as problem:
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise BundleError(f"{self.where}: ONNX Runtime {ort.__version__} cannot load it: {reason}") from problem
        self.run_options = options.run_options()
        self._idle: list[Binding] = []
        # a small graph is kept, since its file may be gone when a loop is made; a large one is read again
        self.small = len(data) <= KEPT_BYTES
        self._read = partial(bytes, data) if self.small else partial(bundle.graph, precision, role)
        self._beside: dict[str, Any] = {}
        self._loops: dict[str, Graph] = {}
        self.pieces_run = 0

    def _check_metadata(self, found: Mapping[str, str], bundle: Bundle, precision: str) -> None:
        manifest = bundle.manifest
        row = manifest.input
        wanted = {
            "format_version": str(manifest.format_version),
            "role": self.role,
            "variant": manifest.variant,
            "precision": precision,
            "input_shape": ",".join(map(str, row.shape)),
            "input_dtype": row.dtype,
            "layout": row.layout,
            "latent_dim": str(manifest.latent_dim),
            "score": manifest.score.kind,
        }
        for name, value in wanted.items():
            self._require_equal(f"edgeae.{name}", found.get(f"edgeae.{name}"), value)
        threshold = bundle.entry(precision).threshold.value
        copy = found.get("edgeae.threshold")
        self._require_equal("edgeae.threshold", _number(copy), threshold)
        names = found.get("edgeae.feature_names")
        self._require_equal("edgeae.feature_names", _names(names), row.feature_names)

    def _require_equal(self, key: str, found: object, wanted: object) -> None:
        if found != wanted:
            raise BundleError(
                f"{self.where}: its metadata says {key} = {found!r}, the manifest says {wanted!r}; "
                "export the bundle again"
            )

    def session_beside(self, name: str, edit: Callable[[bytes], bytes]) -> Any:
        """Return a session that is kept with this graph, of its file after an edit of ours: not checked again."""
        if name not in self._beside:
            self._beside[name] = create_session(edit(self._read()), self.device, self._options)
        return self._beside[name]

    def looped(self, rows: int, dtype: np.dtype[Any]) -> Graph:
        """Return this graph in a loop over pieces of so many rows of a dtype: what were rows to it are pieces."""
        key = f"loop over {rows} rows of {dtype}"
        if key not in self._loops:
            from edgeae.runtime.looped import looped  # here, for a fast start

            session = self.session_beside(f"loop over {dtype}", lambda data: looped(data, dtype))
            found = copy.copy(self)
            (source,), (target,) = session.get_inputs(), session.get_outputs()
            found.session, found.source, found.target, found.source_dtype = session, source.name, target.name, dtype
            found.source_shape, found.target_shape = (rows, *self.source_shape), (rows, *self.target_shape)
            found._idle, found._beside, found._loops = [], {}, {}  # a cycle would keep sessions in memory
            self._loops[key] = found
        return self._loops[key]

    def take_binding(self) -> Binding:
        """Return a binding that belongs to the caller until `give_back`."""
        try:
            return self._idle.pop()
        except IndexError:
            return Binding(self)

    def give_back(self, binding: Binding) -> None:
        """Keep a binding for the next caller; making one costs as much as a small run."""
        self._idle.append(binding)


class Binding:
    """Memory bound to the input and output of a graph. It belongs to one thread at a time: sharing one between
    threads gives wrong answers without a word.

    The only place that reaches behind ONNX Runtime's Python classes: their `bind_input` and `bind_output` cost 30 us,
    the compiled ones 1 us, and `run_with_iobinding` another 0.5 us.
    """

    def __init__(self, graph: Graph, session: Any = None) -> None:
        """Make one for the graph's session, or for another one of the same graph."""
        # Plain fields and no reference to the graph, which keeps idle bindings: a cycle would keep sessions in memory.
        self._where = f"{graph.where}: failed on {graph.device}"
        self._source, self._source_shape, self._source_dtype = graph.source, graph.source_shape, graph.source_dtype
        self._target, self._target_shape = graph.target, graph.target_shape
        session = session or graph.session
        self._raw = session.io_binding()._iobinding
        here = ort.OrtDevice.make("cpu", 0)
        there = here if graph.device.kind == "cpu" else ort.OrtDevice.make("cuda", graph.device.index)
        self._places = here._get_c_device(), there._get_c_device()
        self._run = session._sess.run_with_iobinding
        self._options = graph.run_options
        self._kept: tuple[Array, Array] | None = None

    def bind(
        self, rows: int, source: int, target: int, *, source_there: bool = False, target_there: bool = False
    ) -> None:
        """Bind `rows` rows at the addresses `source` and `target`, which must stay valid until the run has ended.

        Args:
            rows: How many.
            source: Of the input.
            target: Of the output.
            source_there: Whether `source` is an address on the graph's CUDA device.
            target_there: Whether `target` is.
        """
        before, after = self._places[source_there], self._places[target_there]
        self._raw.bind_input(self._source, before, self._source_dtype, (rows, *self._source_shape), source)
        self._raw.bind_output(self._target, after, np.float32, (rows, *self._target_shape), target)

    def bind_for_good(self, source: Array, target: Array) -> None:
        """Bind two arrays that are written and read again and again, on the CPU; for a GPU see cuda.py."""
        self._kept = source, target  # ONNX Runtime has their addresses only: they must live as long as the binding
        self.bind(len(source), address(source), address(target))

    @property
    def bare(self) -> Callable[[], object]:
        """Return `run` without its explanation of errors, as one compiled call."""
        return partial(self._run, self._raw, self._options)

    def run(self) -> None:
        """Run the graph on what is bound.

        Raises:
            DeviceError: if ONNX Runtime fails, for instance for want of memory.
        """
        try:
            self._run(self._raw, self._options)
        except ERRORS as problem:
            reason = str(problem).splitlines()[0]
            raise DeviceError(f"{self._where}: {reason}; if memory is short, set options={{'chunk': ...}}") from problem


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return math.nan


def _names(text: str | None) -> object:
    try:
        return None if text is None else tuple(json.loads(text))
    except (ValueError, TypeError):
        return text
