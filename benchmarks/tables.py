"""The report as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import click

from benchmarks.results import Report
from edgeae.cli.output import print_table, size, table

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_report"]


def print_report(report: Report) -> None:
    """Print every section that was measured, one table for each."""
    machine = report.machine
    click.echo(f"{machine.processor}, {machine.cores} cores, {machine.system}, {machine.device}")
    click.echo(f"load {_ratio(machine.load_before)} before, {_ratio(machine.load_after)} after; {report.seconds:.0f} s")
    click.echo(", ".join(f"{name} {version}" for name, version in machine.packages.items()))
    for model in report.models:
        click.echo(f"{model.name}: {model.description}; {1e-6 * model.operations_per_row:.2f} MFLOP per row")
    for absent in report.absent:
        click.echo(f"absent: {absent.peer}: {absent.reason}")
    for remark in report.remarks:
        click.echo(f"note: {remark}")
    click.echo()
    for made in _tables(report):
        print_table(made)


def _tables(report: Report) -> Iterable[Table]:
    yield from _limits(report)
    yield from _latency(report)
    yield from _bulk(report)
    yield from _curve(report)
    yield from _flatness(report)
    yield from _fresh(report)
    yield from _sizes(report)
    yield from _accuracy(report)
    yield from _training(report)


def _limits(report: Report) -> Iterable[Table]:
    found = report.limits
    if found is None:
        return
    made = table("Limits of this machine", "", ">one core", ">all cores")
    made.add_row("SGEMM, GFLOP/s", f"{found.gflops_one:.0f}", f"{found.gflops_all:.0f}")
    made.add_row("copy, GB/s", f"{found.copy_one:.1f}", f"{found.copy_all:.1f}")
    made.add_row("triad, GB/s", f"{found.triad_one:.1f}", f"{found.triad_all:.1f}")
    yield made


def _latency(report: Report) -> Iterable[Table]:
    title = "One row, µs (ratio: to the default session's full call, by medians and by 10th percentiles)"
    columns = ("", "call", ">p10", ">p50", ">p90", ">p99", ">ratio", ">p10", ">deviation")
    for model, rows in groupby(report.latency, key=lambda row: row.model):
        made = table(f"{title}: {model}", *columns)
        for row in rows:
            times = (f"{value:.1f}" for value in (row.p10, row.p50, row.p90, row.p99))
            made.add_row(row.way, row.call, *times, _ratio(row.ratio), _ratio(row.ratio_p10), _tiny(row.deviation))
        yield made


def _bulk(report: Report) -> Iterable[Table]:
    title = "Many rows, memory-mapped, all cores (ratio: to the default session; peak: SGEMM)"
    columns = ("", ">chunk", ">rows/s", ">p10", ">CPU µs/row", ">ratio", ">p10", ">of peak", ">deviation")
    for model, rows in groupby(report.bulk, key=lambda row: row.model):
        made = table(f"{title}: {model}", *columns)
        for row in rows:
            made.add_row(
                row.way,
                "own" if row.chunk is None else str(row.chunk),
                f"{row.rows_per_second:,.0f}",
                f"{row.rows_per_second_p10:,.0f}",
                f"{row.cpu_us_per_row:.2f}",
                _ratio(row.ratio),
                _ratio(row.ratio_p10),
                "-" if row.peak_share is None else f"{100 * row.peak_share:.0f} %",
                _tiny(row.deviation),
            )
        yield made


def _curve(report: Report) -> Iterable[Table]:
    for model, group in groupby(report.curve, key=lambda row: row.model):
        rows = list(group)
        batches = sorted({row.batch for row in rows})
        made = table(f"Rows/s over the batch size, all cores: {model}", "", *(f">{batch}" for batch in batches))
        for way in dict.fromkeys(row.way for row in rows):
            speeds = {row.batch: row.rows_per_second for row in rows if row.way == way}
            made.add_row(way, *(f"{speeds[batch]:,.0f}" if batch in speeds else "-" for batch in batches))
        yield made


def _flatness(report: Report) -> Iterable[Table]:
    if not report.flatness:
        return
    made = table("edgeae over memory-mapped rows of bytes", "", ">rows", ">µs per row", ">best tenth", ">own memory")
    for row in report.flatness:
        memory = "-" if row.memory is None else size(row.memory)
        made.add_row(row.model, f"{row.rows:,}", f"{row.us_per_row:.2f}", f"{row.us_per_row_p10:.2f}", memory)
    yield made


def _fresh(report: Report) -> Iterable[Table]:
    columns = ("", ">ms", ">fastest", ">ratio", ">peak memory, one row", ">16,384 rows")
    for model, rows in groupby(report.fresh, key=lambda row: row.model):
        made = table(f"Fresh processes, from start to first score: {model}", *columns)
        for row in rows:
            memory = ("-" if count is None else size(count) for count in (row.memory_first, row.memory_bulk))
            made.add_row(row.way, f"{1e3 * row.seconds:.0f}", f"{1e3 * row.fastest:.0f}", _ratio(row.ratio), *memory)
        yield made


def _sizes(report: Report) -> Iterable[Table]:
    if not report.sizes:
        return
    names = list(dict.fromkeys(row.model for row in report.sizes))
    made = table("Size on disk", "", *(f">{name}" for name in names))
    for what in dict.fromkeys(row.what for row in report.sizes):
        found = {row.model: size(row.bytes) for row in report.sizes if row.what == what}
        made.add_row(what, *(found.get(name, "-") for name in names))
    yield made


def _accuracy(report: Report) -> Iterable[Table]:
    for model, rows in groupby(report.accuracy, key=lambda row: row.model):
        made = table(f"Scores: {model}", "", ">AUROC", ">rank correlation with float64", ">p50 of one row, µs")
        for row in rows:
            correlation = "-" if row.correlation is None else f"{row.correlation:.5f}"
            made.add_row(row.way, f"{row.auroc:.4f}", correlation, "-" if row.p50 is None else f"{row.p50:.1f}")
        yield made


def _training(report: Report) -> Iterable[Table]:
    if not report.training:
        return
    made = table("An epoch of training, 784-64-784, one thread", "", ">p50, ms", ">best tenth", ">edgeae takes", ">p10")
    for row in report.training:
        made.add_row(row.way, f"{1e3 * row.p50:.1f}", f"{1e3 * row.p10:.1f}", _ratio(row.ratio), _ratio(row.ratio_p10))
    yield made


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _tiny(value: float | None) -> str:
    return "-" if value is None else f"{value:.0e}"
