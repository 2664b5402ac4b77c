"""A loaded bundle: encode, decode, reconstruct, score, predict, explain."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal

import numpy as np

from edgeae.bundle import Bundle, Golden, Manifest
from edgeae.errors import BundleError, EdgeaeError, InputError, OutOfMemoryError
from edgeae.runtime import native, process
from edgeae.runtime.bound import Bound, Path, Spares
from edgeae.runtime.bulk import run_rows
from edgeae.runtime.device import Device, choose_device
from edgeae.runtime.explain import Explanation, contributions, reasons
from edgeae.runtime.inputs import Array, RowReader, RowSpec, as_rows, result_array
from edgeae.runtime.options import Options, Profile, check_profile, chunk_rows, native_chunk_rows, second_level_cache
from edgeae.runtime.session import TENSORS, Graph
from edgeae.runtime.tuned import lookup

__all__ = ["Autoencoder", "load"]

FloatArray = np.ndarray[Any, np.dtype[np.float32]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]
Operation = Literal["encode", "decode", "reconstruct", "score", "predict"]

ROLES: dict[str, tuple[str, ...]] = {
    "encode": ("encoder",),
    "decode": ("decoder",),
    "reconstruct": ("encoder", "decoder"),
    "score": ("scorer",),
}


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    profile: str = "throughput",
    on_invalid: str = "raise",
    options: Options | Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Autoencoder:
    """Load a bundle for inference; PyTorch is not needed.

    The graphs are read, compared with the manifest and tested on the golden rows when they are first used.

    Args:
        path: The bundle, a directory or a .zip file.
        device: "cpu"; "cuda" or "cuda:1", which raise unless the device works; or "auto", which takes a working CUDA
            device, else the CPU, and logs (logger "edgeae") which and why.
        precision: "fp32", or "fp16" or "int8" where the bundle has them; or "auto", the one that `edgeae tune` measured
            to be the fastest on this machine, and fp32 where it was not run.
        profile: "throughput" spreads large inputs over all cores. "latency" keeps every call in the calling thread;
            where the weights exceed a core's second-level cache, the cores share each run, and wait busily in between.
        on_invalid: What to do with rows that hold NaN, infinity or values beyond float32: "raise", or "flag", which
            gives such rows NaN as their result (and so predicts an anomaly). One row never changes another.
        options: What the profile leaves to ONNX Runtime; see `Options`. A mapping with the same keys will do. If None,
            what `edgeae tune` found for this bundle on this machine, and the profile's defaults where it was not run.
        trust: Also run operators that no fuzzer has tried in ONNX Runtime (export/FORMAT.md lists them): only for
            bundles whose maker you know. The shapes of what they compute are bounded like all others.

    Raises:
        BundleError: if there is no bundle at `path` or it is not as export/FORMAT.md has it.
        DeviceError: if a CUDA device was asked for and does not work.
        InputError: if an argument is none of the above.

    Example:
        >>> model = load("export/golden/dense", device="cpu")
        >>> model.score(np.zeros((3, *model.input_shape), np.float32)).shape
        (3,)
    """
    if on_invalid not in ("raise", "flag"):
        raise InputError(f"on_invalid: {on_invalid!r} is not one of raise, flag")
    bundle, chosen = Bundle.read(path), choose_device(device)
    kind = check_profile(profile)
    tuning = lookup(bundle.digest, str(chosen)) if options is None or precision == "auto" else None
    if precision == "auto":
        precision = "fp32" if tuning is None else tuning.fastest[kind]
    bundle.entry(precision)
    settings = tuning.options(kind, precision) if tuning is not None and options is None else Options.of(options)
    weights = bundle.entry(precision).scorer.size
    if kind == "latency" and chosen.kind == "cpu" and not settings.session and weights > second_level_cache():
        settings = settings.sharing_cores()
    if settings.provider and chosen.kind == "cpu":
        raise InputError(f"options: provider: {', '.join(settings.provider)}: the CPU has none; use device='cuda'")
    if settings.native:
        if chosen.kind != "cpu":
            raise InputError(f"options: native: there are no native operators for {chosen}; use device='cpu'")
        native.require()
    return Autoencoder(
        bundle,
        device=chosen,
        precision=precision,
        profile=kind,
        flag=on_invalid == "flag",
        options=settings,
        trust=trust,
    )


class Autoencoder:
    """A bundle ready to run; made by `load`. Any number of threads may call one model.

    Rows are any array-like [n, *input_shape] of real numbers in the units of the training data, n from 0 to what
    fits on the disk: lists, arrays of any memory layout, byte order or number type, memory maps, data frames, tensors
    on the CPU. Large inputs are cut into chunks; nothing but the result has the size of the input.
    Results are float32 arrays of the caller's own. `out=` takes a C-contiguous float32 array for them, such as a memory
    map. Denormal numbers (below 1.2e-38) count as zero. Calls of few rows (up to 64, of 256 kB together) keep
    their buffers for the next call of as many, until `close`.

    Every method raises InputError for input of another shape or kind and, unless loaded with on_invalid="flag", for
    values that are not finite; BundleError at first use if a graph is not what the manifest promises or does not give
    the golden results; OutOfMemoryError for more rows at a time than there is memory for their results; EdgeaeError
    after `close` and in a forked child.

    Example:
        >>> with load("export/golden/dense", device="cpu") as model:
        ...     rows = np.zeros((2, *model.input_shape), np.float32)
        ...     model.reconstruct(rows).shape == rows.shape
        True
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device,
        precision: str,
        profile: Profile,
        flag: bool,
        options: Options,
        trust: bool = False,
    ) -> None:
        """Use `load`."""
        self.bundle = bundle
        self.precision = precision
        self._device = device
        self._flag = flag
        self._options = options
        self._trust = trust
        self._process = process.current
        self._lock = threading.Lock()
        self._graphs: dict[str, Graph] | None = {}
        self._spares: dict[str, Spares] = {}
        self._golden: Golden | None = None
        manifest = bundle.manifest
        row = manifest.input
        on_gpu = device.kind == "cuda"
        self.workers = options.worker_count(profile, on_gpu=on_gpu)
        self._chunk = options.chunk or chunk_rows(row.shape, on_gpu=on_gpu)
        shift, _ = manifest.normalisation.arrays(row.shape, row.layout)
        # A replaced row is zero in normalised space, so that it widens no quantised graph's range.
        centre = np.clip(np.rint(shift), 0, 255) if row.dtype == "uint8" else shift
        filler = np.broadcast_to(centre, row.shape).astype(row.dtype)
        self._x = RowSpec("x", row.shape, np.dtype(row.dtype), filler, row.layout, row.feature_names)
        latent = np.zeros(manifest.latent_dim, np.float32)
        self._z = RowSpec("z", (manifest.latent_dim,), np.dtype("float32"), latent)

    @property
    def manifest(self) -> Manifest:
        """What the bundle promises."""
        return self.bundle.manifest

    @property
    def threshold(self) -> float:
        """Scores above it are anomalies; each precision has its own."""
        return self.bundle.entry(self.precision).threshold.value

    @property
    def flags_invalid(self) -> bool:
        """Whether rows that are not finite get NaN instead of an error."""
        return self._flag

    @property
    def device(self) -> str:
        """Where the model runs: "cpu", "cuda:0", ..."""
        return str(self._device)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.manifest.input.shape

    @property
    def latent_dim(self) -> int:
        """How many values a latent has."""
        return self.manifest.latent_dim

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """One name per value of a row, where the bundle has names."""
        return self.manifest.input.feature_names

    def encode(self, x: object, *, out: Array | None = None, workers: int | None = None) -> FloatArray:
        """Return the latents [n, latent_dim] of rows [n, *input_shape].

        `workers` limits the threads of this call, for callers that bring threads of their own.
        """
        return self._run("encode", x, out, workers=workers)

    def decode(self, z: object, *, out: Array | None = None) -> FloatArray:
        """Return the rows [n, *input_shape], in the units of the training data, of latents [n, latent_dim]."""
        return self._run("decode", z, out)

    def reconstruct(self, x: object, *, out: Array | None = None) -> FloatArray:
        """Return `decode(encode(x))`, without holding all latents at once."""
        return self._run("reconstruct", x, out)

    def score(self, x: object, *, out: Array | None = None, calibrated: bool = False) -> FloatArray:
        """Return the anomaly scores [n] of rows [n, *input_shape]; higher is more anomalous.

        With `calibrated` they are 1 - p, where p is the conformal p-value among the normal rows that the threshold was
        taken from: about the share of normal rows that score lower. Compare them with 1 - (false-alarm rate), not with
        the threshold.

        Raises:
            InputError: with `calibrated`, if the bundle has no scores of normal rows.
        """
        scores = self._run("score", x, out)
        if calibrated:
            scores[...] = self.calibrate(scores)
        return scores

    def calibrate(self, scores: FloatArray) -> FloatArray:
        """Return what `score(..., calibrated=True)` makes of scores [n] that are there already."""
        from edgeae.runtime.calibrated import bundle_table, calibrated  # here, for a fast start

        return calibrated(bundle_table(self.bundle.statistics(), self.precision, str(self.bundle.path)), scores)

    def predict(self, x: object) -> BoolArray:
        """Return bool [n]: which rows are anomalies, `not (score <= threshold)`, so that NaN is one."""
        return self.is_anomaly(self.score(x))

    def is_anomaly(self, scores: FloatArray) -> BoolArray:
        """Apply the threshold to scores that are there already: bool [n]."""
        return ~(scores <= np.float32(self.threshold))

    def stream(self, operation: Operation, batches: Iterable[object]) -> Iterator[Array]:
        """Apply a method to one batch of rows after the other, lazily: the results of each, in the same order.

        Messages about invalid rows count rows over all batches.

        Args:
            operation: "encode", "decode", "reconstruct", "score" or "predict".
            batches: Batches of rows (of latents for "decode"), of any sizes.

        Raises:
            InputError: if there is no such operation; while iterating, what the method raises.

        Example:
            >>> model = load("export/golden/dense", device="cpu")
            >>> batches = (np.zeros((n, *model.input_shape), np.float32) for n in (2, 3))
            >>> [len(scores) for scores in model.stream("score", batches)]
            [2, 3]
        """
        if operation not in (*ROLES, "predict"):
            raise InputError(f"stream: {operation!r} is not one of {', '.join(ROLES)}, predict")
        return self._stream(operation, batches)

    def _stream(self, operation: Operation, batches: Iterable[object]) -> Iterator[Array]:
        first = 0
        for batch in batches:
            result = self._run("score" if operation == "predict" else operation, batch, None, first)
            first += len(result)
            yield self.is_anomaly(result) if operation == "predict" else result

    def explain(self, x: object) -> Explanation:
        """Return what each value of each row contributes to the row's score; `.top(3)` names the largest ones."""
        rows = as_rows(x, self._x)
        expected = self.reconstruct(rows)
        values = np.empty_like(expected)
        statistics = self.bundle.statistics()
        with np.errstate(all="ignore"):  # rows that on_invalid="flag" lets pass
            for start in range(0, len(rows), self._chunk):
                part = slice(start, start + self._chunk)
                source = np.asarray(rows[part], np.float32)
                values[part] = contributions(self.manifest, statistics, source, expected[part])
        series = self.manifest.input.series
        return Explanation(values, self.feature_names if series is None else series.channel_names, expected)

    def reasons(self, x: object, k: int = 3) -> dict[str, np.ndarray[Any, Any]]:
        """Return why each row has its score, as columns of a table: the k values of the row that contribute most.

        Returns:
            For i from 1 to k (at most the values of a row) the arrays [n] "feature_i" (names), "contribution_i"
            (float32, see `Explanation`), "value_i" and "expected_i" (float32: the row's value and its reconstruction,
            in the units of your rows).

        Raises:
            InputError: if k is not positive.

        Example:
            >>> list(load("export/golden/table", device="cpu").reasons(np.zeros((2, 10), np.float32), k=1))
            ['feature_1', 'contribution_1', 'value_1', 'expected_1']
        """
        return reasons(self, as_rows(x, self._x), k)

    def sample(self, n: int, seed: int = 0) -> FloatArray:
        """Generate n rows [n, *input_shape] by decoding standard normal latents.

        Raises:
            InputError: if the model is not a generative (variational) one.
        """
        if not self.manifest.generative:
            raise InputError(
                f"{self.bundle.path}: a {self.manifest.variant} model does not generate, its latents follow no known "
                "distribution; train one with --variant variational"
            )
        if n < 0:
            raise InputError(f"sample: expected a whole number of rows from 0, got {n!r}")
        return self.decode(np.random.default_rng(seed).standard_normal((n, self.latent_dim), np.float32))

    def bind(self, batch: int = 1) -> Bound:
        """Return an object with the same methods for exactly `batch` rows at the lowest latency; see `Bound`.

        The memory that a large `batch` took for activations stays with the model until the model is closed.

        Raises:
            InputError: if the bundle was exported with a smaller fixed batch size.
        """
        fixed = self.manifest.batch
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InputError(f"bind: batch must be a whole number from 1, got {batch!r}")
        if fixed is not None and batch > fixed:
            raise InputError(f"bind: batch {batch}, but the bundle was exported with a fixed batch of {fixed}")
        return Bound(batch, fixed or batch, self._path, self.threshold, self._flag)

    def prepare(self, *roles: str) -> None:
        """Load and test graphs now rather than at their first use, so that the first call is as fast as the others.

        Args:
            roles: "encoder", "decoder", "scorer"; all three if none is named.

        Raises:
            BundleError: if a graph is not what the manifest promises or does not give the golden results.
            InputError: if there is no such role.
        """
        for role in roles or TENSORS:
            if not isinstance(role, str) or role not in TENSORS:
                raise InputError(f"prepare: {role!r} is not one of {', '.join(TENSORS)}")
            self._graph(role)

    def close(self) -> None:
        """Free the sessions. Using the model afterwards raises; objects from `bind` keep what they have."""
        if self._process != process.current:  # a thread of the parent may have held the lock for good
            self._graphs, self._spares = None, {}
            return
        with self._lock:
            self._graphs, self._spares = None, {}

    def __enter__(self) -> Autoencoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Autoencoder({str(self.bundle.path)!r}, variant={self.manifest.variant!r}, device={self.device!r}, "
            f"precision={self.precision!r})"
        )

    def _path(self, name: str) -> Path:
        graphs = tuple(self._graph(role) for role in ROLES[name])
        spec = self._z if name == "decode" else self._x
        # A smaller network runs in the time that it takes to switch denormals off and on twice.
        return Path(graphs, spec, heavy=max(self.manifest.parameters, 64 * math.prod(spec.shape)) >= 4096)

    def _stock(self, name: str) -> Spares:
        stock = self._spares  # the one of now: `close` puts another there
        stock[name] = Spares(self._path(name), self._chunk, self.manifest.batch, flag=self._flag)
        return stock[name]

    def _run(
        self, name: str, value: object, out: Array | None, first: int = 0, workers: int | None = None
    ) -> FloatArray:
        if self._process != process.current:
            process.refuse_fork()
        spares = self._spares.get(name) or self._stock(name)
        path = spares.path
        try:
            rows = as_rows(value, path.spec)
            few = 0 < len(rows) <= spares.most
            if few and out is None:
                return spares.call(rows, first)
            result = result_array(out, (len(rows), *path.graphs[-1].target_shape), path.graphs[-1].target)
            if out is not None and np.may_share_memory(out, rows):
                raise InputError(f"out: lies in the memory of {path.spec.name}; pass an array of its own")
            if few:
                result[...] = spares.call(rows, first)
                return result
            reader = RowReader(rows, path.spec, flag=self._flag, first=first)
            chunk, workers = self._chunk_of(name, reader.row_bytes), workers or self.workers
            if self._options.chunk is None and path.native:
                chunk = native_chunk_rows(self._chunk, len(rows), workers)
            run_rows(path.graphs, reader, result, chunk=chunk, workers=workers, batch=self.manifest.batch)
        except MemoryError as problem:
            raise _out_of_memory(name, problem) from problem
        return result

    def _chunk_of(self, name: str, row_bytes: int) -> int:
        """Return how many rows ONNX Runtime's own operators get at a time."""
        if self._options.chunk is not None or name == "score":
            return self._chunk
        # nothing holds a row and its reconstruction: there is room for more
        return max(self._chunk, min(4 * self._chunk, 2**24 // row_bytes))

    def _graph(self, role: str) -> Graph:
        """Return the graph of `role`, loaded and tested when it is first needed."""
        if self._process != process.current:
            process.refuse_fork()
        graphs = self._graphs
        if graphs is None:
            raise EdgeaeError(f"{self.bundle.path}: this model was closed; load it again")
        if role in graphs:
            return graphs[role]
        with self._lock:
            if role not in graphs:
                graph = Graph(self.bundle, self.precision, role, self._device, self._options, trust=self._trust)
                self._self_test(graph)
                graph.shows_invalid = role == "scorer" and self._shows_invalid(graph)
                graphs[role] = graph
        return graphs[role]

    def _shows_invalid(self, graph: Graph) -> bool:
        """Put a value that is not finite here and there into a row: does the score always show it?

        The scorers that edgeae exports do; one that only sees quantised values does not.
        """
        spec, golden = self._x, self._golden
        if spec.dtype != np.float32 or golden is None:
            return False
        size = math.prod(spec.shape)
        places = sorted({round(place) for place in np.linspace(0, size - 1, 4)})
        rows = np.tile(golden.x[0].reshape(-1), (3 * len(places), 1))
        rows[np.arange(len(rows)), np.repeat(places, 3)] = np.tile([np.nan, np.inf, -np.inf], len(places))
        found = np.empty(len(rows), np.float32)
        graph.shows_invalid = True  # so that the rows get there
        reader = RowReader(rows.reshape(-1, *spec.shape), spec, flag=True)
        run_rows((graph,), reader, found, chunk=1, workers=1, batch=self.manifest.batch)
        return not np.isfinite(found).any()

    def _self_test(self, graph: Graph) -> None:
        """Run the golden rows: a graph that computes something else must not answer."""
        if self._golden is None:
            self._golden = self.bundle.golden(self.precision)
        source, target = TENSORS[graph.role]
        rows: Array = getattr(self._golden, source)
        wanted: Array = getattr(self._golden, target)
        self._compare(graph, rows, wanted)
        if graph.native:  # many rows go another way there than few
            times = 1 + 32 // len(rows)
            self._compare(graph, np.concatenate([rows] * times), np.concatenate([wanted] * times))

    def _compare(self, graph: Graph, rows: Array, wanted: Array) -> None:
        source, target = TENSORS[graph.role]
        found = np.empty_like(wanted)
        spec = self._x if source == "x" else self._z
        run_rows(
            (graph,), RowReader(rows, spec, flag=True), found, chunk=len(rows), workers=1, batch=self.manifest.batch
        )
        tolerance = self.bundle.entry(self.precision).tolerance[target]
        with np.errstate(all="ignore"):
            excess = np.abs(found - wanted) - (tolerance.atol + tolerance.rtol * np.abs(wanted))
        wrong = ~(excess <= 0)
        if wrong.any():
            place = tuple(int(index) for index in np.argwhere(wrong)[0])
            raise BundleError(
                f"{graph.where}: self-test failed on {self.device}: golden row {place[0]} must give {target} "
                f"{wanted[place]}, gives {found[place]}; check the bundle with: edgeae verify {self.bundle.path}"
            )


def _out_of_memory(what: str, problem: MemoryError) -> OutOfMemoryError:
    reason = str(problem).splitlines()[0].rstrip(".") if str(problem) else "no memory left"
    return OutOfMemoryError(
        f"{what}: {reason}; pass fewer rows at a time (model.stream), or out= a memory-mapped array for the results"
    )
