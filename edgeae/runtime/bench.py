"""What `edgeae bench` measures: latency, throughput, cold start, memory and size of one bundle on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from edgeae.bundle.bundle import GRAPHS
from edgeae.bundle.strict import to_plain
from edgeae.errors import EdgeaeError, InputError
from edgeae.runtime.model import Autoencoder, load
from edgeae.runtime.options import Options, available_cores
from edgeae.runtime.ort import ort
from edgeae.timing import Timing, measure, summarise

__all__ = ["Benchmark", "ColdStart", "Latency", "Machine", "Throughput", "bench", "peak_memory"]

# Runs in a fresh interpreter: one line after the first score, another after many rows.
CHILD = """
import json, sys
import numpy as np
import edgeae
given = json.loads(sys.argv[1])
model = edgeae.load(given["path"], **given["load"])
rows = np.zeros((given["rows"], *model.input_shape), model.manifest.input.dtype)
model.score(rows[:1])
sys.stdout.write("scored\\n")
sys.stdout.flush()
from edgeae.runtime.bench import peak_memory
first = peak_memory()
model.score(rows)
sys.stdout.write(json.dumps([first, peak_memory()]))
"""
CHILD_SECONDS = 300
BULK_BYTES = 2**26


@dataclass(frozen=True)
class Machine:
    """Where it was measured."""

    processor: str
    architecture: str
    cores: int
    system: str
    python: str
    onnxruntime: str
    numpy: str


@dataclass(frozen=True)
class Latency:
    """How long one call takes for a batch of this size, in microseconds, bound beforehand (`Autoencoder.bind`)."""

    batch: int
    calls: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    rows_per_second: float


@dataclass(frozen=True)
class Throughput:
    """Rows per second of `score` on one large array: median and 90th percentile of the calls' durations."""

    rows: int
    calls: int
    rows_per_second: float
    rows_per_second_p90: float


@dataclass(frozen=True)
class ColdStart:
    """Seconds from starting a Python process to its first score, imports and self-test included."""

    runs: int
    median_seconds: float
    fastest_seconds: float
    slowest_seconds: float


@dataclass(frozen=True)
class Benchmark:
    """Everything that `bench` measures.

    Attributes:
        bundle: Its name.
        digest: SHA-256 of its manifest.
        precision: Of the graphs.
        device: Where they ran.
        profile: "throughput" or "latency".
        machine: Where it was measured.
        latency: One entry per batch size.
        throughput: For large inputs.
        cold_start: In fresh processes; None if it was not measured.
        memory_first_bytes: Peak resident memory of a fresh process after scoring one row; None where unknown.
        memory_bulk_bytes: The same after scoring `throughput.rows` rows of zeros, which take next to no memory.
        files: Size of each file of that precision, and of the manifest, in bytes.
    """

    bundle: str
    digest: str
    precision: str
    device: str
    profile: str
    machine: Machine
    latency: tuple[Latency, ...]
    throughput: Throughput
    cold_start: ColdStart | None
    memory_first_bytes: int | None
    memory_bulk_bytes: int | None
    files: dict[str, int]


def bench(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    precision: str = "fp32",
    profile: str = "throughput",
    options: Options | Mapping[str, Any] | None = None,
    batches: Sequence[int] = (1, 8, 64, 512),
    seconds: float = 1.0,
    cold_starts: int = 5,
    progress: Callable[[str], None] | None = None,
) -> Benchmark:
    """Measure a bundle on this machine. The batch sizes take turns, so that noise meets all of them.

    Args:
        path: The bundle.
        device: As in `load`.
        precision: As in `load`.
        profile: As in `load`.
        options: As in `load`.
        batches: Batch sizes to time.
        seconds: How long to time each batch size, and the large input.
        cold_starts: How many fresh processes to start; 0 leaves cold start and memory out.
        progress: Is told, in a word or two, what is measured next.

    Raises:
        EdgeaeError: what `load` and `score` raise.
        InputError: if a batch size or a number is not positive.

    Example:
        >>> result = bench("export/golden/dense", device="cpu", batches=(1,), seconds=0.01, cold_starts=0)
        >>> result.latency[0].p50_us <= result.latency[0].p999_us
        True
    """
    if not batches or any(isinstance(batch, bool) or not isinstance(batch, int) or batch < 1 for batch in batches):
        raise InputError(f"bench: batches must be whole numbers from 1, got {list(batches)!r}")
    if not seconds > 0 or cold_starts < 0:
        raise InputError("bench: seconds must be positive and cold_starts not negative")
    tell = progress or (lambda step: None)
    settings = Options.of(options)
    with load(path, device=device, precision=precision, profile=profile, options=settings) as model:
        rows = min(65536, max(512, BULK_BYTES // (4 * int(np.prod(model.input_shape)))))
        x = np.resize(model.bundle.golden(model.precision).x, (rows, *model.input_shape))
        tell("latency")
        timings = measure({str(batch): _call(model, x, batch) for batch in batches}, seconds=seconds)
        tell("throughput")
        out = np.empty(rows, np.float32)
        (bulk,) = measure({"bulk": partial(model.score, x, out=out)}, seconds=seconds).values()
        tell("cold start and memory")
        arguments = {"device": model.device, "precision": model.precision, "profile": profile}
        starts, memory = _cold_starts(model, arguments | {"options": to_plain(settings)}, rows, cold_starts)
        return Benchmark(
            bundle=model.manifest.name,
            digest=model.bundle.digest,
            precision=model.precision,
            device=model.device,
            profile=profile,
            machine=_machine(),
            latency=tuple(_latency(batch, timings[str(batch)]) for batch in batches),
            throughput=Throughput(rows, bulk.calls, rows / bulk.p50, rows / bulk.p90),
            cold_start=starts,
            memory_first_bytes=memory[0],
            memory_bulk_bytes=memory[1],
            files=_sizes(model),
        )


def peak_memory() -> int | None:
    """Return the peak resident memory of this process in bytes, or None where the system does not tell.

    On Linux from /proc: `getrusage` also counts the process that started this one.
    """
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _call(model: Autoencoder, x: np.ndarray[Any, Any], batch: int) -> Callable[[], object]:
    rows = np.resize(x, (batch, *model.input_shape))
    fixed = model.manifest.batch
    if fixed is not None and batch > fixed:
        return partial(model.score, rows)
    return partial(model.bind(batch).score, rows[0] if batch == 1 else rows)


def _latency(batch: int, timing: Timing) -> Latency:
    p50, p90, p99, p999 = (1e6 * value for value in (timing.p50, timing.p90, timing.p99, timing.p999))
    return Latency(batch, timing.calls, p50, p90, p99, p999, batch / timing.p50)


def _cold_starts(
    model: Autoencoder, arguments: dict[str, Any], rows: int, runs: int
) -> tuple[ColdStart | None, tuple[int | None, int | None]]:
    if runs == 0:
        return None, (None, None)
    given = {"path": str(model.bundle.path.absolute()), "load": arguments, "rows": rows}
    text = json.dumps(given, default=lambda value: value.name)  # ONNX Runtime's enumerations, which load takes by name
    package = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    durations = []
    for _ in range(runs):
        duration, memory = _cold_start([sys.executable, "-c", CHILD, text], environment)
        durations.append(duration)
    timing = summarise(durations)
    return ColdStart(runs, timing.p50, min(durations), timing.maximum), memory


def _cold_start(command: list[str], environment: dict[str, str]) -> tuple[float, tuple[int | None, int | None]]:
    before = time.perf_counter()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as child:
        watchdog = threading.Timer(CHILD_SECONDS, child.kill)
        watchdog.start()
        try:
            line = cast(IO[str], child.stdout).readline()
            duration = time.perf_counter() - before
            rest, problem = child.communicate()
        finally:
            watchdog.cancel()
            child.kill()
    if line != "scored\n" or child.returncode != 0:
        reason = problem.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise EdgeaeError(f"bench: the process that measures the cold start failed: {reason[0]}")
    first, bulk = json.loads(rest)
    return duration, (first, bulk)


def _sizes(model: Autoencoder) -> dict[str, int]:
    entry = model.bundle.entry(model.precision)
    files = [getattr(entry, name) for name in (*GRAPHS, "golden")]
    return {"manifest.json": len(model.manifest.to_json())} | {file.path: file.size for file in files}


def _machine() -> Machine:
    processor = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return Machine(
        processor=processor or "unknown",
        architecture=platform.machine(),
        cores=available_cores(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        onnxruntime=str(ort.__version__),
        numpy=np.__version__,
    )
