"""What a sweep found out, which is also what it goes on from: the dataclasses of sweep.json."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import from_plain, parse_json, to_json
from edgeae.errors import InputError
from edgeae.training.config import TrainConfig

__all__ = ["NAME", "Limits", "Parameter", "Point", "Sweep", "Trial", "read_sweep", "write_sweep"]

NAME = "sweep.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Limits:
    """What a model has to meet; None: anything will do.

    Attributes:
        max_mse: Largest mean squared error of held-out rows in normalised space, out of a latent file.
        max_latency_us: Longest time to score one row, the median, in microseconds.
        max_bytes: Largest scorer, the graph that holds the weights of encoder and decoder, in bytes.
        max_row_bytes: Most bytes that a row may take in a latent file.

    Raises:
        InputError: for a limit that is not positive.
    """

    max_mse: float | None = None
    max_latency_us: float | None = None
    max_bytes: int | None = None
    max_row_bytes: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            if limit is not None and not limit > 0:
                raise InputError(f"{field.name} must be more than 0, not {limit}")


@dataclass(frozen=True)
class Parameter:
    """What is tried: the values listed, or a range.

    Attributes:
        name: A training option, or "width" or "depth".
        values: As they are written on the command line; empty for a range.
        low: Low end of a range.
        high: High end.
    """

    name: str
    values: tuple[str, ...]
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Point:
    """A model at one precision of its weights, and its latents stored in one type.

    Attributes:
        trial: Number of the trial.
        weights: Precision of the graphs.
        dtype: Of the latents in a latent file: "float32", "float16", "int8" to "int2".
        mse: Mean squared error of held-out rows that were compressed and decompressed, in normalised space.
        mse_in_units: The same in the units of the rows.
        psnr: Peak signal-to-noise ratio in decibels; None where there is no error at all.
        row_bytes: A row's share of the latent file, header and index included.
        model_bytes: Size of the scorer.
        bundle_bytes: Size of all files of that precision.
        latency_us: Median time to score one row, bound, in microseconds.
        rows_per_second: Of `score` in bulk, by the median.
    """

    trial: int
    weights: str
    dtype: str
    mse: float
    mse_in_units: float
    psnr: float | None
    row_bytes: float
    model_bytes: int
    bundle_bytes: int
    latency_us: float
    rows_per_second: float


@dataclass(frozen=True)
class Trial:
    """One setting, trained, exported and measured.

    Attributes:
        number: From 1.
        setting: Parameter to value, as written on the command line.
        seconds: How long it took.
        model: The network in a line; empty where there is none.
        latent_dim: Size of the latent vector; 0 where there is none.
        operations: Floating-point operations of one row through encoder and decoder.
        points: One for each precision of the weights and type of the latents.
        kept: Whether its run and its bundle are in the trial's folder.
        problem: Why it has no points.
    """

    number: int
    setting: dict[str, str]
    seconds: float
    model: str = ""
    latent_dim: int = 0
    operations: int = 0
    points: tuple[Point, ...] = ()
    kept: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep: what was asked for, what was tried, what came out.

    Attributes:
        data: Where the rows come from.
        data_digest: SHA-256 over them.
        row_bytes: Of a row as it came.
        held_out: Rows that error and bytes were measured on.
        config: Training options of all trials, where the setting of one says nothing else.
        parameters: What was tried.
        latents: Types of stored latents that each model was measured with.
        weights: Precisions that each model was exported at.
        trials: In the order in which they were made.
        limits: What the best had to meet.
        front: Points than which none is better in error, bytes of a row, size and latency at once, by size; their
            latencies were measured in turns.
        best: Of those that meet the limits the one with the smallest model; None without limits, or if there is none.
        nearest: Where none meets the limits, the one that misses them by the smallest factor.
        stopped: Why it ended: all trials were made, or all settings tried; the time was up; Ctrl-C; or not yet.
    """

    format: Literal["edgeae-sweep"]
    format_version: int
    data: str
    data_digest: str
    row_bytes: int
    held_out: int
    config: TrainConfig
    parameters: tuple[Parameter, ...]
    latents: tuple[str, ...]
    weights: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    limits: Limits = Limits()
    front: tuple[Point, ...] = ()
    best: Point | None = None
    nearest: Point | None = None
    stopped: Literal["finished", "exhausted", "time", "interrupted", "not yet"] = "not yet"


def read_sweep(folder: Path) -> Sweep:
    """Read the sweep in a folder.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    file = folder / NAME
    try:
        data = file.read_bytes()
    except OSError as problem:
        why = "there is no such sweep" if not file.exists() else str(problem.strerror or problem)
        raise InputError(f"{file}: cannot be read: {why}; start one with: edgeae sweep DATA -o {folder}") from None
    plain = parse_json(data, where=str(file), error=InputError)
    version = plain.get("format_version") if isinstance(plain, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"{file}: written by a newer edgeae; upgrade with: pip install -U edgeae")
    return from_plain(Sweep, plain, where=str(file), error=InputError)


def write_sweep(folder: Path, found: Sweep) -> None:
    """Write the sweep into its folder, whole or not at all."""
    write_file(folder / NAME, to_json(found))
