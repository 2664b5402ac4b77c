"""What `edgeae bench` measures on this machine: one bundle from all sides, or several in turns."""

from __future__ import annotations

import contextlib
import json
import math
import os
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
from edgeae.runtime.machine import Machine, machine
from edgeae.runtime.model import Autoencoder, load
from edgeae.runtime.options import Options
from edgeae.timing import Ratio, Timing, measure, ratio, summarise

__all__ = [
    "Benchmark",
    "ColdStart",
    "Comparison",
    "Contender",
    "Latency",
    "Throughput",
    "bench",
    "compare",
    "peak_memory",
    "start_process",
]

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


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        bundle: Its name.
        path: Where it is.
        digest: SHA-256 of its manifest.
        precision: Of the graphs.
        device: Where they ran.
        latency: One entry per batch size.
        latency_ratios: For each batch size the time of a call over that of the first contender.
        throughput: For a large input.
        throughput_ratio: The same ratio for the large input.
        scorer_bytes: Size of the scorer's file.
    """

    bundle: str
    path: str
    digest: str
    precision: str
    device: str
    latency: tuple[Latency, ...]
    latency_ratios: tuple[Ratio, ...]
    throughput: Throughput
    throughput_ratio: Ratio
    scorer_bytes: int


@dataclass(frozen=True)
class Comparison:
    """What `compare` measures; ratios are to the first contender."""

    profile: str
    machine: Machine
    contenders: tuple[Contender, ...]


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
    trust: bool = False,
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
        trust: As in `load`.
        progress: Is told, in a word or two, what is measured next.

    Raises:
        EdgeaeError: what `load` and `score` raise.
        InputError: if a batch size or a number is not positive.

    Example:
        >>> result = bench("export/golden/dense", device="cpu", batches=(1,), seconds=0.01, cold_starts=0)
        >>> result.latency[0].p50_us <= result.latency[0].p999_us
        True
    """
    _check(batches, seconds)
    if cold_starts < 0:
        raise InputError("bench: cold_starts must not be negative")
    tell = progress or (lambda step: None)
    settings = Options.of(options)
    with load(path, device=device, precision=precision, profile=profile, options=settings, trust=trust) as model:
        x = _many_rows(model)
        rows = len(x)
        tell("latency")
        timings = measure({str(batch): _call(model, x, batch) for batch in batches}, seconds=seconds)
        tell("throughput")
        out = np.empty(rows, np.float32)
        (bulk,) = measure({"bulk": partial(model.score, x, out=out)}, seconds=seconds).values()
        tell("cold start and memory")
        arguments = {"device": model.device, "precision": model.precision, "profile": profile, "trust": trust}
        starts, memory = _cold_starts(model, arguments | {"options": to_plain(settings)}, rows, cold_starts)
        return Benchmark(
            bundle=model.manifest.name,
            digest=model.bundle.digest,
            precision=model.precision,
            device=model.device,
            profile=profile,
            machine=machine(),
            latency=tuple(_latency(batch, timings[str(batch)]) for batch in batches),
            throughput=Throughput(rows, bulk.calls, rows / bulk.p50, rows / bulk.p90),
            cold_start=starts,
            memory_first_bytes=memory[0],
            memory_bulk_bytes=memory[1],
            files=_sizes(model),
        )


def compare(
    paths: Sequence[str | os.PathLike[str]],
    *,
    devices: Sequence[str] = ("auto",),
    precisions: Sequence[str] = ("fp32",),
    profile: str = "throughput",
    batches: Sequence[int] = (1, 8, 64, 512),
    seconds: float = 1.0,
    trust: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Measure every bundle at every precision on every device in turns, so that a busy machine is busy for all of them.

    Args:
        paths: The bundles.
        devices: As in `load`.
        precisions: As in `load`.
        profile: As in `load`.
        batches: Batch sizes to time.
        seconds: How long to time each contender at each batch size, and with a large input.
        trust: As in `load`.
        progress: Is told, in a word or two, what is measured next.

    Raises:
        EdgeaeError: what `load` and `score` raise.
        InputError: if there are no two contenders, or a batch size or a number is not positive.

    Example:
        >>> found = compare(["export/golden/dense", "export/golden/sparse"], batches=(1,), seconds=0.01)
        >>> found.contenders[0].throughput_ratio
        Ratio(median=1.0, p10=1.0)
    """
    _check(batches, seconds)
    wanted = [(path, precision, device) for path in paths for precision in precisions for device in devices]
    if len(wanted) < 2:
        raise InputError("bench: a comparison needs two bundles, precisions or devices")
    tell = progress or (lambda step: None)
    with contextlib.ExitStack() as stack:
        models = [
            stack.enter_context(load(path, device=device, precision=precision, profile=profile, trust=trust))
            for path, precision, device in wanted
        ]
        inputs = [_many_rows(model) for model in models]
        tell("latency")
        pairs = [(index, batch) for index in range(len(models)) for batch in batches]
        calls = {f"{index}/{batch}": _call(models[index], inputs[index], batch) for index, batch in pairs}
        timings = measure(calls, seconds=seconds)
        tell("throughput")
        bulk_calls = {
            str(index): partial(model.score, x, out=np.empty(len(x), np.float32))
            for index, (model, x) in enumerate(zip(models, inputs, strict=True))
        }
        bulks = list(measure(bulk_calls, seconds=seconds).values())
        contenders = []
        for index, (model, x, bulk) in enumerate(zip(models, inputs, bulks, strict=True)):
            own = [timings[f"{index}/{batch}"] for batch in batches]
            first = [timings[f"0/{batch}"] for batch in batches]
            per_row = len(inputs[0]) / len(x)  # rows of two bundles may differ in size, and so the inputs in length
            ratio_in_bulk = ratio(bulk, bulks[0])
            contenders.append(
                Contender(
                    bundle=model.manifest.name,
                    path=str(model.bundle.path),
                    digest=model.bundle.digest,
                    precision=model.precision,
                    device=model.device,
                    latency=tuple(_latency(batch, timing) for batch, timing in zip(batches, own, strict=True)),
                    latency_ratios=tuple(ratio(mine, other) for mine, other in zip(own, first, strict=True)),
                    throughput=Throughput(len(x), bulk.calls, len(x) / bulk.p50, len(x) / bulk.p90),
                    throughput_ratio=Ratio(ratio_in_bulk.median * per_row, ratio_in_bulk.p10 * per_row),
                    scorer_bytes=model.bundle.entry(model.precision).scorer.size,
                )
            )
        return Comparison(profile, machine(), tuple(contenders))


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


def _check(batches: Sequence[int], seconds: float) -> None:
    if not batches or any(isinstance(batch, bool) or not isinstance(batch, int) or batch < 1 for batch in batches):
        raise InputError(f"bench: batches must be whole numbers from 1, got {list(batches)!r}")
    if not seconds > 0:
        raise InputError("bench: seconds must be positive")


def _many_rows(model: Autoencoder) -> np.ndarray[Any, Any]:
    rows = min(65536, max(512, BULK_BYTES // (4 * math.prod(model.input_shape))))
    return np.resize(model.bundle.golden(model.precision).x, (rows, *model.input_shape))


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
        duration, rest = start_process([sys.executable, "-P", "-c", CHILD, text], environment)
        durations.append(duration)
    timing = summarise(durations)
    first, bulk = json.loads(rest)
    return ColdStart(runs, timing.p50, min(durations), timing.maximum), (first, bulk)


def start_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Start a process that writes the line "scored" and then something else.

    Args:
        command: Program and arguments.
        environment: Its environment variables; None for those of this process.

    Returns:
        Seconds from the start to that line, and what followed it.

    Raises:
        EdgeaeError: if the process fails or takes more than five minutes, with the last line of what it complained of.
    """
    pipe = subprocess.PIPE
    before = time.perf_counter()
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
    return duration, rest


def _sizes(model: Autoencoder) -> dict[str, int]:
    entry = model.bundle.entry(model.precision)
    files = [getattr(entry, name) for name in (*GRAPHS, "golden")]
    return {"manifest.json": len(model.manifest.to_json())} | {file.path: file.size for file in files}
