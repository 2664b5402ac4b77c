"""Commands that measure: bench, tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeae.bundle.atomic import write_file
from edgeae.bundle.strict import to_json
from edgeae.cli.options import BATCHES, NAMES, bundle_argument, force_option, trust_option
from edgeae.cli.output import print_json, print_table, size, status, table

if TYPE_CHECKING:
    from edgeae.runtime.bench import Benchmark, Comparison

__all__ = ["bench_command", "tune_command"]


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
@click.option("--precision", type=NAMES, default="fp32", show_default=True, help="Which graphs; several are compared.")
@click.option(
    "--device",
    "--provider",
    "devices",
    type=NAMES,
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:N; several are compared.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    help="Compare with this bundle too.",
)
@trust_option
@force_option
def bench_command(
    bundle: Path,
    batches: tuple[int, ...],
    seconds: float,
    cold_starts: int,
    profile: str,
    json_file: Path | None,
    precision: tuple[str, ...],
    devices: tuple[str, ...],
    against: tuple[Path, ...],
    trust: bool,
    force: bool,
) -> None:
    """Measure BUNDLE on this machine: latency, throughput, cold start, memory, sizes.

    Latency is that of a bound model (`model.bind`), input check included. Batch sizes take turns in short slices, so
    that a busy machine is busy for all of them. Several precisions, devices or bundles take turns as well and are
    compared with the first one, without cold start and memory.

    \b
    Example:
        edgeae bench bundle --json bench.json
        edgeae bench bundle --precision fp32,int8 --against other-bundle
    """
    from edgeae.data.writers import check_output
    from edgeae.runtime.bench import bench, compare

    if json_file is not None:
        check_output(json_file, (".json",), force=force)
    if len(precision) == len(devices) == 1 and not against:
        with status("measuring"):
            result = bench(
                bundle,
                device=devices[0],
                precision=precision[0],
                profile=profile,
                batches=batches,
                seconds=seconds,
                cold_starts=cold_starts,
                trust=trust,
            )
        if json_file is not None:
            write_file(json_file, to_json(result))
        _print(result)
        return
    with status("measuring"):
        found = compare(
            [bundle, *against],
            devices=devices,
            precisions=precision,
            profile=profile,
            batches=batches,
            seconds=seconds,
            trust=trust,
        )
    if json_file is not None:
        write_file(json_file, to_json(found))
    _print_comparison(found)


def _print_comparison(found: Comparison) -> None:
    machine = found.machine
    click.echo(f"{machine.processor}, {machine.cores} cores, ONNX Runtime {machine.onnxruntime}, {found.profile}")
    shown = table("", "bundle", "", ">batch", ">p50 µs", ">p99 µs", ">rows/s", ">takes", ">p10")
    for number, one in enumerate(found.contenders, 1):
        for row, ratio in zip(one.latency, one.latency_ratios, strict=True):
            shown.add_row(
                f"{number} {one.bundle}",
                f"{one.precision} {one.device}",
                str(row.batch),
                f"{row.p50_us:.1f}",
                f"{row.p99_us:.1f}",
                f"{row.rows_per_second:,.0f}",
                f"{ratio.median:.2f}x",
                f"{ratio.p10:.2f}x",
            )
        bulk = one.throughput
        shown.add_row(
            f"{number} {one.bundle}",
            f"{one.precision} {one.device}",
            f"{bulk.rows:,}",
            "",
            "",
            f"{bulk.rows_per_second:,.0f}",
            f"{one.throughput_ratio.median:.2f}x",
            f"{one.throughput_ratio.p10:.2f}x",
            end_section=True,
        )
    print_table(shown)
    click.echo("takes: time over that of the first one, by the medians; p10: by the 10th percentiles")
    for number, one in enumerate(found.contenders, 1):
        click.echo(f"{number} {one.path}, scorer {size(one.scorer_bytes)}")


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


@click.command("tune")
@bundle_argument
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
@click.option("--precision", type=NAMES, help="Which precisions to try; all that the bundle has if not given.")
@click.option("--seconds", default=30.0, show_default=True, metavar="X", help="About how long to measure.")
@click.option("--dry-run", is_flag=True, help="Measure and print, but keep nothing.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def tune_command(
    bundle: Path,
    device: str,
    precision: tuple[str, ...] | None,
    seconds: float,
    dry_run: bool,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure how BUNDLE runs best on this machine, and keep the choice for later runs.

    Rows per call, workers, threads, packing of weights, the operator library where it was built, and precisions take
    turns; what was clearly faster is kept in the user's cache and used by every command and by `edgeae.load` from then
    on. Scores stay what they are: another precision is used only where --precision asks for it, or for "auto".

    \b
    Example:
        edgeae tune bundle --seconds 10
    """
    from edgeae.runtime.tune import tune
    from edgeae.runtime.tuned import store

    with status("measuring") as tell:
        tuning = tune(bundle, device=device, precisions=precision, seconds=seconds, trust=trust, progress=tell)
    place = None if dry_run else store(tuning)
    if as_json:
        print_json(tuning)
        return
    for profile, chosen in (("latency", tuning.latency), ("throughput", tuning.throughput)):
        rows = table("", profile, "settings", ">µs a row", ">p10", "")
        for trial in tuning.trials:
            if trial.profile == profile:
                best = chosen[trial.precision] == trial.choice
                fastest = best and tuning.fastest[profile] == trial.precision
                note = "auto" if fastest and len(chosen) > 1 else "chosen" if best else ""
                rows.add_row(
                    trial.precision, str(trial.choice), f"{1e6 * trial.p50:.2f}", f"{1e6 * trial.p10:.2f}", note
                )
        print_table(rows)
    if place is not None:
        click.echo(f"kept in {place}")
