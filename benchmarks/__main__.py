"""`python -m benchmarks`: edgeae against what people would use instead."""

from __future__ import annotations

import datetime
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import CASES, TINY, Case, make_case
from benchmarks.flatness import measure_flatness
from benchmarks.fresh import measure_fresh
from benchmarks.latency import measure_latency
from benchmarks.limits import measure_limits
from benchmarks.machine import describe_machine, load_average
from benchmarks.peers import PEERS, available
from benchmarks.plots import draw_plots
from benchmarks.quality import measure_accuracy, measure_sizes
from benchmarks.results import Epoch, Model, Report
from benchmarks.tables import print_report
from benchmarks.throughput import bulk_rows, measure_bulk, measure_curve
from benchmarks.training_epoch import compare
from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.options import NAMES
from edgeae.runtime.options import available_cores
from edgeae.timing import ratio

SECTIONS = ("limits", "latency", "throughput", "flatness", "cold-start", "memory", "size", "accuracy", "training")


@dataclass(frozen=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        models: Which, if nobody says.
        latency: Seconds for each way.
        curve: Seconds for each way and batch size.
        batches: Of the curve.
        bulk: About so many seconds for a pass over the large array, on a machine of 50 GFLOP/s.
        flat: Sizes of array.
        flat_operations: The most that one of these arrays may cost.
        starts: Fresh processes of each peer.
        limits: Seconds for each physical limit.
        epochs: Of training; None for what each model needs.
        trained: Epochs to time.
        tune: Seconds to tune each bundle; 0: not at all.
    """

    models: tuple[str, ...] = tuple(CASES)
    latency: float = 0.4
    curve: float = 0.1
    batches: tuple[int, ...] = (1, 8, 64, 512, 4096)
    bulk: float = 0.2
    flat: tuple[int, ...] = (1000, 10_000, 100_000, 1_000_000)
    flat_operations: float = 6e11
    starts: int = 5
    limits: float = 0.5
    epochs: int | None = None
    trained: int = 20
    tune: float = 5.0


USUAL = Effort()
QUICK = Effort(
    models=("dense", "mlperf-tiny-ad"),
    latency=0.1,
    curve=0.05,
    batches=(1, 64, 1024),
    bulk=0.05,
    flat=(1000, 10_000),
    starts=2,
    limits=0.2,
    epochs=3,
    trained=5,
    tune=0.0,
)
FULL = Effort(
    latency=2.0,
    curve=0.4,
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    bulk=0.5,
    flat=(1000, 10_000, 100_000, 1_000_000, 10_000_000),
    flat_operations=6e12,
    starts=15,
    limits=2.0,
    trained=60,
    tune=30.0,
)


@click.command()
@click.argument("models", nargs=-1, type=click.Choice([*CASES, TINY]))
@click.option("--quick", "thorough", flag_value="quick", help="Two models, short slices: under two minutes.")
@click.option("--full", "thorough", flag_value="full", help="Longer slices, and arrays of ten million rows.")
@click.option(
    "--rows", type=click.IntRange(1000), help="Rows of the largest array for flatness, a byte a value on the disk."
)
@click.option("--only", type=NAMES, help=f"Sections: {', '.join(SECTIONS)}.")
@click.option("--peers", type=NAMES, help=f"Libraries: {', '.join(PEERS)}.")
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda:0 for those that can use it.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write it all to a file.")
@click.option("--plot", "plot_folder", type=click.Path(path_type=Path, file_okay=False), help="Folder for pictures.")
def main(
    models: tuple[str, ...],
    thorough: str | None,
    rows: int | None,
    only: tuple[str, ...] | None,
    peers: tuple[str, ...] | None,
    device: str,
    json_file: Path | None,
    plot_folder: Path | None,
) -> None:
    """Compare edgeae on MODELS (all of them, if none is named) with what people would use instead.

    \b
    Example:
        python -m benchmarks --json results.json --plot results
        python -m benchmarks dense --only latency,throughput --peers edgeae,onnxruntime,openvino
        python -m benchmarks dense --only flatness --rows 10000000
    """
    effort = {"quick": QUICK, "full": FULL}.get(thorough or "", USUAL)
    if rows is not None:
        sizes = [10**power for power in range(3, len(str(rows))) if 10**power < rows]
        effort = replace(effort, flat=(*sizes, rows), flat_operations=float("inf"))
    report = run(
        models or effort.models,
        effort,
        _known("--only", only, SECTIONS),
        _known("--peers", peers, tuple(PEERS)),
        device,
        shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
    )
    print_report(report)
    if json_file is not None:
        write_file(json_file, to_json(report))
    if plot_folder is not None:
        for path in draw_plots(report, plot_folder):
            click.echo(f"wrote {path}")


def run(
    models: Sequence[str], effort: Effort, sections: Sequence[str], peers: Sequence[str], device: str, command: str
) -> Report:
    """Measure and return everything; what it does next is said on standard error.

    Raises:
        EdgeaeError: if a peer with the same weights gives other scores, or something cannot be exported or started.
    """
    started, load_before = time.perf_counter(), load_average()
    present, absent = available(peers, device=device)
    report = Report(
        command=command,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=0.0,
        machine=describe_machine(device, load_before),
        absent=tuple(absent),
        remarks=(),
        models=(),
    )
    cores = available_cores()
    if "limits" in sections:
        _say("limits")
        report = replace(report, limits=measure_limits(cores, effort.limits))
    if "training" in sections:
        _say("training")
        timings = compare(8192, 784, 256, effort.trained, 1)
        own = timings["edgeae"]
        lines = [
            Epoch(name, each.p10, each.p50, ratio(own, each).median, ratio(own, each).p10)
            for name, each in timings.items()
        ]
        report = replace(report, training=tuple(lines))
    with tempfile.TemporaryDirectory(prefix="edgeae-benchmarks-") as folder:
        for name in models:
            _say(f"{name}: training and export")
            case = make_case(name, Path(folder) / name, epochs=effort.epochs, tune_seconds=effort.tune, device=device)
            report = _measure_case(report, case, Path(folder) / name, effort, sections, present, device, cores)
    machine = replace(report.machine, load_after=load_average())
    return replace(report, machine=machine, seconds=time.perf_counter() - started)


def _measure_case(
    report: Report,
    case: Case,
    folder: Path,
    effort: Effort,
    sections: Sequence[str],
    peers: Sequence[str],
    device: str,
    cores: int,
) -> Report:
    remarks = [f"{case.name}: no {precision}: {reason}" for precision, reason in case.missing.items()]
    operations = _operations(case)
    parameters = sum(weight.numel() for weight in case.model.parameters())
    model = Model(case.name, case.description, parameters, operations, case.missing)
    found: dict[str, Sequence[Any]] = {"models": [model]}
    if "latency" in sections:
        _say(f"{case.name}: latency")
        found["latency"] = measure_latency(case, peers, seconds=effort.latency, remarks=remarks, device=device)
    if "throughput" in sections:
        _say(f"{case.name}: throughput")
        rows = bulk_rows(operations, effort.bulk)
        common: dict[str, Any] = {
            "threads": cores,
            "remarks": remarks,
            "device": device,
            "operations_per_row": operations,
        }
        found["bulk"] = measure_bulk(case, peers, folder, rows=rows, limits=report.limits, **common)
        found["curve"] = measure_curve(case, peers, effort.batches, seconds=effort.curve, **common)
    if "flatness" in sections and "edgeae" in peers and case.model.config.architecture == "dense":
        _say(f"{case.name}: flatness")
        found["flatness"] = measure_flatness(
            case, folder, [size for size in effort.flat if size * operations <= effort.flat_operations]
        )
    if {"cold-start", "memory"} & set(sections) and device == "cpu":
        _say(f"{case.name}: cold start and memory")
        found["fresh"] = measure_fresh(case, peers, folder, runs=effort.starts)
    if "size" in sections:
        found["sizes"] = measure_sizes(case, peers, folder)
    if "accuracy" in sections:
        _say(f"{case.name}: accuracy")
        timed = found.get("latency", ())
        found["accuracy"] = measure_accuracy(case, peers, timed, rows=512, device=device)
    added: dict[str, Any] = {name: (*getattr(report, name), *rows) for name, rows in found.items()}
    return replace(report, remarks=tuple(dict.fromkeys((*report.remarks, *remarks))), **added)


def _operations(case: Case) -> int:
    """Return the multiplications and additions that one row costs in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        case.model(torch.from_numpy(case.batch(1)))
    return int(counter.get_total_flops())


def _known(option: str, given: tuple[str, ...] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    for name in given or ():
        if name not in known:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)
    return given or known


def _say(step: str) -> None:
    click.echo(f"[{time.strftime('%H:%M:%S')}] {step}", err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
