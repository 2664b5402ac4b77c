"""The figure of a sweep: error over bytes a row, over the size of the model, and over latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeae.report.figures import new_figure, save_figure
from edgeae.sweeping.front import points_of
from edgeae.sweeping.record import Point, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

__all__ = ["draw_front"]

INK, QUIET, PICKED = "#22303c", "#b9c1c7", "#c1440e"
MARKS = {"fp32": "o", "fp16": "s", "int8": "^"}

Of = Callable[[Point], float]
PANELS: tuple[tuple[str, str, Of, bool], ...] = (
    ("max_row_bytes", "bytes a row", lambda point: point.row_bytes, False),
    ("max_bytes", "model in kB", lambda point: point.model_bytes / 1e3, True),
    ("max_latency_us", "latency of a row in µs", lambda point: point.latency_us, True),
)


def draw_front(path: Path, found: Sweep) -> None:
    """Draw all points of a sweep, those on the front in colour, what was picked with a ring, limits as lines.

    Colour is the number of latents, the mark the precision of the weights. A panel's steps join the points that are
    best in its two measures alone. Size and latency do not depend on how latents are stored: these panels show each
    model once, at its least error.

    Raises:
        InputError: if the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.lines import Line2D

    figure = new_figure(12.5, 4.6)
    axes = figure.subplots(1, 3, sharey=True)
    sizes = {trial.number: trial.latent_dim for trial in found.trials}
    shown = [sizes[point.trial] for point in found.front]
    most = max(max(shown), min(shown) + 1)
    norm = LogNorm(min(shown), most * (most / min(shown)) ** 0.12)  # without the palest colours
    for axis, (limit, label, of, once) in zip(axes, PANELS, strict=True):
        _panel(axis, found, of, once, sizes, norm)
        axis.set_xlabel(label, color=INK)
        bound = getattr(found.limits, limit)
        if bound is not None:
            axis.axvline(bound / (1e3 if limit == "max_bytes" else 1), color=PICKED, linewidth=1, linestyle="--")
    axes[0].set_ylabel("mean squared error, normalised", color=INK)
    colours = colormaps["viridis"]
    marks = [
        Line2D([], [], linestyle="", marker="o", color=colours(norm(size)), label=f"{size} latents")
        for size in _some(sorted(set(shown)))
    ]
    if len(found.weights) > 1:
        marks += [
            Line2D([], [], linestyle="", marker=MARKS[name], color=INK, label=f"{name} weights")
            for name in found.weights
        ]
    marks.append(Line2D([], [], linestyle="", marker="o", color=QUIET, label="not on the front"))
    for point, text in ((found.best, "picked"), (found.nearest, "nearest to the limits")):
        if point is not None:
            ring = Line2D([], [], linestyle="", marker="o", label=text, markersize=11, markeredgewidth=1.6)
            ring.set(markerfacecolor="none", markeredgecolor=PICKED)
            marks.append(ring)
    figure.legend(handles=marks, loc="outside right upper", frameon=False, fontsize=8)
    made = sum(not trial.problem for trial in found.trials)
    figure.suptitle(f"{found.data}: {made} models, held-out rows of {found.row_bytes} bytes", color=INK, fontsize=11)
    save_figure(figure, path)


def _panel(axis: Axes, found: Sweep, of: Of, once: bool, sizes: dict[int, int], norm: Normalize) -> None:
    every, front = points_of(found.trials, kept=False), list(found.front)
    if once:
        every, front = _least_error(every), _least_error(front)
    axis.scatter([of(point) for point in every], [point.mse for point in every], s=12, color=QUIET, zorder=1)
    best = _staircase(every, of)
    axis.step([of(point) for point in best], [point.mse for point in best], where="post", color=QUIET, linewidth=1)
    for weights in found.weights:
        own = [point for point in front if point.weights == weights]
        axis.scatter(
            [of(point) for point in own],
            [point.mse for point in own],
            c=[sizes[point.trial] for point in own],
            cmap="viridis",
            norm=norm,
            s=34,
            marker=MARKS[weights],
            zorder=3,
        )
    picked = found.best or found.nearest
    if picked is not None:
        if once:
            (picked,) = (point for point in front if (point.trial, point.weights) == (picked.trial, picked.weights))
        axis.scatter([of(picked)], [picked.mse], s=120, facecolors="none", edgecolors=PICKED, linewidths=1.6, zorder=4)
    if found.limits.max_mse is not None:
        axis.axhline(found.limits.max_mse, color=PICKED, linewidth=1, linestyle="--")
    for scale in (axis.set_xscale, axis.set_yscale):
        scale("log")
    for one, values in ((axis.xaxis, [of(point) for point in every]), (axis.yaxis, [point.mse for point in every])):
        _ticks(one, values)
    axis.grid(color=QUIET, alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _ticks(axis: object, values: Sequence[float]) -> None:
    """Write numbers as people do; within a decade more of them."""
    from matplotlib.axis import Axis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if isinstance(axis, Axis):
        span = max(values) / max(min(values), 1e-300)
        subs = (1, 1.5, 2, 3, 4, 5, 6, 8) if span < 5 else (1, 2, 3, 5, 7) if span < 50 else (1,)
        axis.set_major_locator(LogLocator(10, subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _least_error(points: Sequence[Point]) -> list[Point]:
    models: dict[tuple[int, str], Point] = {}
    for point in sorted(points, key=lambda each: -each.mse):
        models[point.trial, point.weights] = point
    return list(models.values())


def _staircase(points: Sequence[Point], of: Of) -> list[Point]:
    """Return the points that are best in error and one other measure, from left to right."""
    best: list[Point] = []
    for point in sorted(points, key=lambda each: (of(each), each.mse)):
        if not best or point.mse < best[-1].mse:
            best.append(point)
    return best


def _some(sizes: Sequence[int]) -> list[int]:
    """Return at most six of the sizes, the ends among them."""
    if len(sizes) <= 6:
        return list(sizes)
    return [sizes[index] for index in np.linspace(0, len(sizes) - 1, 6).round().astype(int)]
