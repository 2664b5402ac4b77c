"""Commands that measure: bench."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.options import BATCHES, bundle_argument, force_option, model_options
from edgeae.cli.output import print_table, size, status, table

if TYPE_CHECKING:
    from edgeae.runtime.bench import Benchmark

__all__ = ["bench_command"]


@click.command("bench")
@bundle_argument
@click.option(
    "--batches", type=BATCHES, default="1,8,64,512", show_default=True, metavar="N,N,...", help="Batch sizes to time."
)
@click.option("--seconds", default=1.0, show_default=True, metavar="X", help="How long to time each batch size.")
@click.option(
    "--cold-starts", default=5, show_default=True, metavar="N", help="Fresh processes to start; 0: no cold start."
)
@click.option(
    "--profile",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="Of the runtime.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything to this file as well.")
@model_options
@force_option
def bench_command(
    bundle: Path,
    batches: tuple[int, ...],
    seconds: float,
    cold_starts: int,
    profile: str,
    json_file: Path | None,
    device: str,
    precision: str,
    force: bool,
) -> None:
    """Measure BUNDLE on this machine: latency, throughput, cold start, memory, sizes.

    Latency is that of a bound model (`model.bind`), input check included. Batch sizes take turns in short slices, so
    that a busy machine is busy for all of them.

    \b
    Example:
        edgeae bench bundle --json bench.json
    """
    from edgeae.data.writers import check_output
    from edgeae.runtime.bench import bench

    if json_file is not None:
        check_output(json_file, (".json",), force=force)
    with status("measuring"):
        result = bench(
            bundle,
            device=device,
            precision=precision,
            profile=profile,
            batches=batches,
            seconds=seconds,
            cold_starts=cold_starts,
        )
    if json_file is not None:
        write_file(json_file, to_json(result))
    _print(result)


def _print(result: Benchmark) -> None:
    machine = result.machine
    click.echo(f"{result.bundle} at {result.precision} on {result.device}, profile {result.profile}")
    click.echo(f"{machine.processor}, {machine.cores} cores, ONNX Runtime {machine.onnxruntime}")
    latency = table("", ">batch", ">p50 µs", ">p90 µs", ">p99 µs", ">p99.9 µs", ">rows/s")
    for row in result.latency:
        times = (row.p50_us, row.p90_us, row.p99_us, row.p999_us)
        latency.add_row(str(row.batch), *(f"{value:.1f}" for value in times), f"{row.rows_per_second:,.0f}")
    print_table(latency)
    rest = table("", "", "")
    bulk = result.throughput
    rest.add_row("in bulk", f"{bulk.rows_per_second:,.0f} rows/s (arrays of {bulk.rows:,} rows)")
    if result.cold_start is not None:
        cold = result.cold_start
        rest.add_row(
            "cold start",
            f"{1e3 * cold.median_seconds:.0f} ms from process start to first score "
            f"({1e3 * cold.fastest_seconds:.0f} to {1e3 * cold.slowest_seconds:.0f}, {cold.runs} runs)",
        )
    if result.memory_first_bytes is not None and result.memory_bulk_bytes is not None:
        rest.add_row(
            "peak memory", f"{size(result.memory_first_bytes)} after one row, {size(result.memory_bulk_bytes)} in bulk"
        )
    rest.add_row("files", ", ".join(f"{name} {size(count)}" for name, count in result.files.items()))
    print_table(rest)
