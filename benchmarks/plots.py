"""The report as pictures: latency percentiles, rows per second over the batch size, accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import Accuracy, Curve, Latency, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_plots"]

INK, QUIET = "#22303c", "#9aa5ad"
# by the beginning of a way's name, so that a library looks the same in every picture
COLOURS = {
    "edgeae": "#c1440e",
    "ONNX Runtime": "#2a6f97",
    "PyTorch": "#7b2d8b",
    "OpenVINO": "#2e7d52",
    "LiteRT": "#b8860b",
    "PyOD": "#7a6a5a",
    "scikit-learn": QUIET,
}
# what tells ways of one library apart
STYLES = {"int8": "--", "bf16": ":", "encoder and decoder": ":", "torch.compile": "--", "NumPy error": "-."}
MARKERS = {"fp32": "o", "int8": "s", "bf16": "^"}


def draw_plots(report: Report, folder: Path) -> list[Path]:
    """Write latency.png, throughput.png and accuracy.png, as far as they were measured; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted: list[tuple[str, Sequence[Any], Callable[[Axes, Any], None], str]] = [
        ("latency.png", report.latency, _latency, "One row, from the row to its score: p10 - p50 - p90, tick at p99"),
        ("throughput.png", report.curve, _throughput, "Rows per second over the rows in a call, all cores"),
        ("accuracy.png", report.accuracy, _accuracy, "How well scores tell the odd rows, against the time for one row"),
    ]
    return [_draw(folder / name, rows, plot, title, report) for name, rows, plot, title in wanted if rows]


def _draw(path: Path, rows: Sequence[Any], plot: Callable[[Axes, Any], None], title: str, report: Report) -> Path:
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in rows))
    columns = min(2, len(models))
    lines = -(-len(models) // columns)
    figure: Figure = Figure(figsize=(8.5 * columns, 4.6 * lines + 0.8), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, model in zip(axes, models, strict=False):
        plot(axis, [row for row in rows if row.model == model])
        description = next((each.description for each in report.models if each.name == model), "")
        axis.set_title(f"{model}: {description}", loc="left", fontsize=10, color=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#e6eaed", linewidth=0.8)
        axis.set_axisbelow(True)
    for axis in axes[len(models) :]:
        axis.set_visible(False)
    machine = report.machine
    note = f"{machine.processor}, {machine.cores} cores, load {machine.load_before or 0:.1f}; {report.date[:10]}"
    figure.suptitle(f"{title}\n{note}", fontsize=12, color=INK, x=0.01, ha="left")
    figure.savefig(path)
    return path


def _latency(axis: Axes, rows: list[Latency]) -> None:
    full = sorted((row for row in rows if row.call == "full"), key=lambda row: -row.p50)
    bare = {row.way: row for row in rows if row.call == "bare"}
    for place, row in enumerate(full):
        colour = _colour(row.way)
        axis.plot([row.p10, row.p90], [place, place], color=colour, linewidth=4, alpha=0.45, solid_capstyle="round")
        axis.plot(row.p50, place, "o", color=colour, markersize=7)
        axis.plot(row.p99, place, "|", color=colour, markersize=9)
        axis.annotate(
            f"{row.p50:.1f}", (row.p50, place), (0, 6), textcoords="offset points", fontsize=7.5, ha="center", color=INK
        )
        if row.way in bare:
            axis.plot(bare[row.way].p50, place, "o", color="white", markeredgecolor=colour, markersize=5)
    axis.plot([], [], "o", color="white", markeredgecolor=INK, markersize=5, label="the network alone (bare call), p50")
    axis.legend(loc="upper right", fontsize=8, frameon=False)
    axis.set_yticks(range(len(full)), [row.way for row in full], fontsize=8)
    axis.set_ylim(-0.7, len(full) - 0.1)
    axis.set_xscale("log")
    _plain_ticks(axis, "x")
    axis.set_xlabel("µs")


def _throughput(axis: Axes, rows: list[Curve]) -> None:
    for way in dict.fromkeys(row.way for row in rows):
        curve = [row for row in rows if row.way == way]
        axis.plot(
            [row.batch for row in curve],
            [row.rows_per_second for row in curve],
            color=_colour(way),
            linestyle=next((style for word, style in STYLES.items() if word in way), "-"),
            linewidth=2.4 if way.startswith("edgeae") else 1.4,
            marker="o",
            markersize=3,
            label=way,
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    batches = sorted({row.batch for row in rows})
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.set_xlabel("rows in a call")
    axis.set_ylabel("rows/s")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _accuracy(axis: Axes, rows: list[Accuracy]) -> None:
    # models of their own, such as PCA, are in the table: their distance would hide what a precision costs
    timed = [row for row in rows if row.p50 is not None and row.correlation is not None]
    for row in timed:
        axis.plot(
            row.p50 or math.nan,
            row.auroc,
            color=_colour(row.way),
            marker=MARKERS.get(row.precision, "o"),
            markersize=8,
            linestyle="none",
            alpha=0.85,
            label=row.way,
        )
    axis.set_xscale("log")
    _plain_ticks(axis, "x")
    axis.set_xlabel("µs for one row (p50); further left is faster")
    axis.set_ylabel("AUROC; further up is better")
    low, high = axis.get_ylim()
    middle = (low + high) / 2
    axis.set_ylim(min(low, middle - 0.01), max(high, middle + 0.01))  # a thousandth must not look like a cliff
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _colour(way: str) -> str:
    return next((colour for name, colour in COLOURS.items() if way.startswith(name)), INK)


def _plain_ticks(axis: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    chosen = axis.xaxis if which == "x" else axis.yaxis
    chosen.set_major_locator(LogLocator(subs=(1, 2, 5)))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    chosen.set_minor_locator(LogLocator(subs=()))
