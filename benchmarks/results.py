"""What a run of the benchmarks gives: plain dataclasses, one for each line of a table, all of them in the JSON file."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers import Absent

__all__ = [
    "Accuracy",
    "Bulk",
    "Curve",
    "Epoch",
    "Flatness",
    "Fresh",
    "Latency",
    "Limits",
    "Machine",
    "Model",
    "Report",
    "Size",
]


@dataclass(frozen=True)
class Machine:
    """Where it was measured; load averages over one minute, before and after, where known."""

    processor: str
    cores: int
    flags: tuple[str, ...]
    system: str
    python: str
    packages: dict[str, str]
    device: str
    load_before: float | None
    load_after: float | None


@dataclass(frozen=True)
class Model:
    """What was compared; multiplications and additions count as one operation each."""

    name: str
    description: str
    parameters: int
    operations_per_row: int
    missing: dict[str, str]


@dataclass(frozen=True)
class Latency:
    """One row at a time, in microseconds.

    Attributes:
        call: "full" is what a program does for each row, from the row to its score; "bare" the network alone, bound
            beforehand.
        ratio: Median over that of the full call of ONNX Runtime's default session.
        ratio_p10: The same of the 10th percentiles: far from `ratio`, the machine was busy.
        deviation: Largest relative difference of the score from float64 PyTorch's; None with other weights.
    """

    model: str
    way: str
    call: str
    precision: str
    calls: int
    p10: float
    p50: float
    p90: float
    p99: float
    ratio: float | None
    ratio_p10: float | None
    deviation: float | None


@dataclass(frozen=True)
class Curve:
    """Rows per second of single calls with `batch` rows: by the median, and by the 10th percentile of the durations."""

    model: str
    way: str
    precision: str
    batch: int
    rows_per_second: float
    rows_per_second_p10: float


@dataclass(frozen=True)
class Bulk:
    """Rows per second over a large memory-mapped array.

    Attributes:
        chunk: Rows in a call, the best of those that were tried; None where edgeae decides.
        cpu_us_per_row: Processor time of all threads, median: what a busy machine leaves nearly as it is.
        ratio: Rows per second over those of the loop around ONNX Runtime's default session, by the medians.
        ratio_p10: The same by the 10th percentiles of the durations.
        peak_share: Of the matrix multiplications that this machine can do on all cores (SGEMM, measured); fp32 only.
        deviation: Median relative difference of the scores from float64 PyTorch's; None with other weights.
    """

    model: str
    way: str
    precision: str
    rows: int
    chunk: int | None
    rows_per_second: float
    rows_per_second_p10: float
    cpu_us_per_row: float
    ratio: float | None
    ratio_p10: float | None
    peak_share: float | None
    deviation: float | None


@dataclass(frozen=True)
class Flatness:
    """Microseconds per row of edgeae's `score` over a memory-mapped array of `rows`, and the process's memory.

    Attributes:
        memory: Resident bytes that belong to the process alone (without the mapped file), after it.
    """

    model: str
    rows: int
    us_per_row: float
    us_per_row_p10: float
    memory: int | None


@dataclass(frozen=True)
class Fresh:
    """Fresh processes.

    Attributes:
        seconds: From starting the process to its first score, median.
        fastest: The least of them.
        ratio: Median over rounds of these seconds over ONNX Runtime's in the same round.
        memory_first: Peak resident bytes after the first score.
        memory_bulk: The same after 16,384 rows.
    """

    model: str
    way: str
    runs: int
    seconds: float
    fastest: float
    ratio: float | None
    memory_first: int | None
    memory_bulk: int | None


@dataclass(frozen=True)
class Size:
    """Bytes on disk of what scores rows."""

    model: str
    what: str
    bytes: int


@dataclass(frozen=True)
class Accuracy:
    """How well the scores tell the odd rows, and how far they are from fp32's.

    Attributes:
        auroc: Area under the ROC curve.
        correlation: Spearman's, with the scores of float64 PyTorch.
        p50: Median microseconds for one row, where the latency was measured.
    """

    model: str
    way: str
    precision: str
    auroc: float
    correlation: float | None
    p50: float | None


@dataclass(frozen=True)
class Epoch:
    """An epoch of training, in seconds; `ratio`: edgeae's over this one."""

    way: str
    p10: float
    p50: float
    ratio: float
    ratio_p10: float


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most, as measured: the best tenth, on one core and on all.

    Attributes:
        gflops: Float32 matrix multiplication of 1024 x 1024 matrices by PyTorch or NumPy, whichever is faster.
        copy: Gigabytes per second read and written by copying 256 MiB.
        triad: The same for a = b + c * s.
    """

    gflops_one: float
    gflops_all: float
    copy_one: float
    copy_all: float
    triad_one: float
    triad_all: float


@dataclass(frozen=True)
class Report:
    """Everything."""

    command: str
    date: str
    seconds: float
    machine: Machine
    absent: tuple[Absent, ...]
    remarks: tuple[str, ...]
    models: tuple[Model, ...]
    limits: Limits | None = None
    latency: tuple[Latency, ...] = ()
    curve: tuple[Curve, ...] = ()
    bulk: tuple[Bulk, ...] = ()
    flatness: tuple[Flatness, ...] = ()
    fresh: tuple[Fresh, ...] = ()
    sizes: tuple[Size, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    training: tuple[Epoch, ...] = ()
