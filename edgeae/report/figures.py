"""Figures as files: originals over reconstructions, score distributions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeae.bundle.atomic import open_atomic
from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.data import normalise
from edgeae.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FORMATS",
    "check_figure_path",
    "draw_reconstructions",
    "draw_rows",
    "draw_scores",
    "new_figure",
    "save_figure",
]

FORMATS = (".png", ".svg", ".pdf")
Array = np.ndarray[Any, Any]

_IMAGES = ("HW", "CHW", "HWC")
_LABELS = ("original", "reconstruction")
_INK = "#22303c"
_COLOURS = ("#2a6f97", "#c1440e", "#e09f3e", "#5f7470", "#7b2d8b")


def check_figure_path(path: str | os.PathLike[str]) -> Path:
    """Return `path`, refusing before any work is done what no figure can be written to.

    Raises:
        InputError: if the ending is not .png, .svg or .pdf.
        MissingPackageError: without matplotlib.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a figure's name must end in one of {', '.join(FORMATS)}")
    try:
        import matplotlib  # noqa: F401 - only to learn whether it is there
    except ImportError:
        raise MissingPackageError("figures need matplotlib; install it with: pip install 'edgeae[train]'") from None
    return path


def draw_reconstructions(
    path: str | os.PathLike[str],
    x: Array,
    x_hat: Array,
    *,
    layout: Layout,
    normalisation: Normalisation | None = None,
    scores: Array | None = None,
    feature_names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draw rows over their reconstructions: images as images, vectors and windows as lines.

    Args:
        path: A .png, .svg or .pdf file.
        x: [n, *row] in the user's units; all n are drawn, so give 5 to 20.
        x_hat: [n, *row] in the same units.
        layout: What the axes of a row mean.
        normalisation: Draw vectors and windows in normalised space, so that features of different units share an axis.
        scores: [n] to write under the pictures.
        feature_names: For vectors, the names along the axis where they fit.
        title: A line above everything.

    Raises:
        InputError: if there are no rows, or the file cannot be written.
    """
    path = check_figure_path(path)
    if not len(x) or x.shape != x_hat.shape:
        raise InputError(
            f"figure: expected as many rows as reconstructions, at least one; got {x.shape}, {x_hat.shape}"
        )
    x, x_hat = x.astype(np.float32), x_hat.astype(np.float32)
    if normalisation is not None and layout not in _IMAGES:
        x, x_hat = (normalise(rows, normalisation, layout) for rows in (x, x_hat))
    if layout in _IMAGES:
        figure = _images([x, x_hat], layout, scores)
    else:
        label = None if normalisation is None else "normalised"
        figure = _lines([x, x_hat], scores, feature_names, label)
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    save_figure(figure, path)


def draw_rows(
    path: str | os.PathLike[str], rows: Array, *, layout: Layout, feature_names: Sequence[str] | None = None
) -> None:
    """Draw rows [n, *row] alone, for instance generated ones; the arguments are those of `draw_reconstructions`.

    Raises:
        InputError: if there are no rows, or the file cannot be written.
    """
    path = check_figure_path(path)
    if not len(rows):
        raise InputError("figure: there are no rows to draw")
    rows = rows.astype(np.float32)
    figure = _images([rows], layout, None) if layout in _IMAGES else _lines([rows], None, feature_names)
    save_figure(figure, path)


def draw_scores(
    path: str | os.PathLike[str], scores: Mapping[str, Array], threshold: float, *, kind: str, title: str = ""
) -> None:
    """Draw the distributions of several groups of scores on one logarithmic axis, with the threshold.

    Args:
        path: A .png, .svg or .pdf file.
        scores: Name of a group to its scores [n]; the first group is the normal one.
        threshold: Drawn as a line.
        kind: The score's name, for the axis.
        title: A line above everything.

    Raises:
        InputError: if a group is empty, or the file cannot be written.
    """
    path = check_figure_path(path)
    finite = {name: values[np.isfinite(values)] for name, values in scores.items()}
    for name, values in finite.items():
        if not len(values):
            raise InputError(f"figure: the group {name!r} has no finite scores")
    figure = new_figure(7.2, 1.2 + 0.75 * len(scores))
    axes = figure.subplots(len(scores), 1, sharex=True, squeeze=False)[:, 0]
    lowest = min(float(values.min()) for values in finite.values())
    highest = max(float(values.max()) for values in finite.values())
    logarithmic = lowest > 0
    edges = (
        np.geomspace(lowest * 0.9, highest * 1.1, 80) if logarithmic else np.linspace(lowest - 1e-9, highest + 1e-9, 80)
    )
    for index, (axis, (name, values)) in enumerate(zip(axes, finite.items(), strict=True)):
        axis.hist(values, bins=edges, color=_COLOURS[index % len(_COLOURS)])
        axis.axvline(threshold, color=_INK, linewidth=1.2, linestyle="--")
        beyond = 100 * float(np.mean(~(scores[name] <= threshold)))
        axis.set_title(f"{name}: {beyond:.1f} % above the threshold", loc="left", fontsize=9, color=_INK)
        axis.set_yticks([])
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
        if logarithmic:
            axis.set_xscale("log")
    axes[-1].set_xlabel(f"score ({kind}), higher is more anomalous; dashed: threshold {threshold:.4g}", color=_INK)
    if title:
        figure.suptitle(title, color=_INK, fontsize=11)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches."""
    # no pyplot: no global state, no window system, safe in threads
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _images(kinds: Sequence[Array], layout: Layout, scores: Array | None) -> Figure:
    """Draw [originals] or [originals, reconstructions] in bands of up to ten columns."""
    count, height = len(kinds[0]), len(kinds)
    columns = min(count, 10)
    bands = -(-count // columns)
    figure = new_figure(0.95 * columns + 0.9, (1.07 * height) * bands + 0.2)
    axes = figure.subplots(height * bands, columns, squeeze=False)
    low, high = float(np.nanmin(kinds[0])), float(np.nanmax(kinds[0]))
    for axis in axes.ravel():
        axis.set_axis_off()
    for index in range(count):
        band, column = divmod(index, columns)
        for offset, rows in enumerate(kinds):
            axis = axes[height * band + offset, column]
            _show(axis, rows[index], layout, low, high)
            if column == 0 and height > 1:
                axis.text(
                    -0.12,
                    0.5,
                    _LABELS[offset],
                    transform=axis.transAxes,
                    rotation=90,
                    ha="right",
                    va="center",
                    fontsize=7,
                    color=_INK,
                )
        if scores is not None:
            axes[height * band + height - 1, column].set_title(
                f"score {scores[index]:.3g}", fontsize=6, color=_INK, y=-0.3
            )
    return figure


def _show(axis: Axes, row: Array, layout: Layout, low: float, high: float) -> None:
    image = np.moveaxis(row, 0, -1) if layout == "CHW" else row
    image = np.clip((image - low) / ((high - low) or 1.0), 0, 1)
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        image = image.mean(axis=2)
    axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _lines(
    kinds: Sequence[Array], scores: Array | None, names: Sequence[str] | None, label: str | None = None
) -> Figure:
    shown = len(kinds[0])
    figure = new_figure(8.0, 1.1 * shown + 0.7)
    axes = figure.subplots(shown, 1, squeeze=False, sharex=True)[:, 0]
    for index, axis in enumerate(axes):
        for rows, kind, colour, style in zip(kinds, _LABELS, _COLOURS, ("-", "--"), strict=False):
            axis.plot(rows[index], color=colour, linewidth=1.2, linestyle=style, marker=".", label=kind)
        axis.tick_params(labelsize=7)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        if scores is not None:
            axis.set_title(f"row {index}, score {scores[index]:.4g}", loc="right", fontsize=7, color=_INK)
        if label is not None:
            axis.set_ylabel(label, fontsize=7, color=_INK)
    if len(kinds) > 1:
        handles, labels = axes[0].get_legend_handles_labels()
        # a window has one line per channel: one entry for each kind of line is enough
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(unique.values(), unique.keys(), fontsize=7, frameon=False, ncols=2, loc="outside upper left")
    if names is not None and len(names) <= 40:
        axes[-1].set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to a .png, .svg or .pdf file, whole or not at all."""
    # metadata without dates, so that the same picture is the same file
    metadata: dict[str, Any] = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with open_atomic(path) as file:
        figure.savefig(
            file, format=path.suffix[1:].lower(), dpi=150, metadata=metadata[path.suffix.lower()], facecolor="white"
        )
