"""Charts as SVG that stretches: positions are percentages, so that text and lines keep their size on every screen.

Colours are classes of style.css, which has them for light and for dark. Every chart carries a description of what it
shows (`role="img"` and `aria-label`, https://www.w3.org/TR/graphics-aria-1.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from edgeae.report.markup import element, short

__all__ = ["Axis", "Series", "bars", "chart", "dumbbells", "heat_map", "histogram", "number", "share_bar"]

Array = np.ndarray[Any, Any]
SIDE = 1000  # of the stretched coordinate system that the marks are drawn in
ROW = 22  # pixels per line of text in a chart with one line per feature
MOST_COLUMNS = 96  # of a heat map
SHADES = 12


def number(value: float | None) -> str:
    """Return a number for people.

    Example:
        >>> number(0.000123456), number(1234567.0), number(None)
        ('0.000123', '1,234,567', '-')
    """
    if value is None or not math.isfinite(value):
        return "-"
    if abs(value) >= 1e9 or 0 < abs(value) < 1e-4:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """A range of values, where they are placed, and the ticks."""

    low: float
    high: float
    label: str = ""
    logarithmic: bool = False

    @staticmethod
    def around(*arrays: Array, label: str = "", logarithmic: bool | None = None, margin: float = 0.04) -> Axis:
        """Return an axis for all finite values, logarithmic (unless told) where they span factors of 20.

        A logarithmic axis covers nine decades at most; what lies below stands at its low end.
        """
        values = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if logarithmic is None:
            logarithmic = low > 0 and high > 20 * low
        if logarithmic:
            low = max(low, high * 1e-9, 1e-300)
            extra = (high / low) ** margin if high > low else 2.0
            return Axis(low / extra, high * extra, label, True)
        # a range within rounding of its values has no ticks
        extra = max(margin * (high - low), 1e-9 * max(abs(low), abs(high))) if high > low else max(abs(high), 1.0) / 2
        return Axis(low - extra, high + extra, label)

    def place(self, values: Any) -> Array:
        """Return where values are, 0 at the low end and 1 at the high end."""
        values = np.asarray(values, np.float64)
        low, high = self.low, self.high
        if self.logarithmic:
            values, low, high = np.log(np.maximum(values, 1e-300)), math.log(low), math.log(high)
        shares: Array = np.clip((values - low) / (high - low), 0, 1)
        return shares

    def ticks(self, most: int = 5) -> list[float]:
        """Return a few round values in the range."""
        if self.logarithmic:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            for steps in ((1,), (1, 3), (1, 2, 5)):
                found = [step * 10.0**power for power in range(first - 1, last + 1) for step in steps]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) >= 3:
                    return found[:: -(-len(found) // most)]
        step = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(step))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Series:
    """Marks of one kind: a line, or points.

    Attributes:
        kind: The class that colours them.
        x: [n] places along the horizontal axis.
        y: [n]; a line has a gap where it is not finite.
        points: Draw points rather than a line.
    """

    kind: str
    x: Array
    y: Array
    points: bool = False


def chart(
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    size: str = "",
    verticals: Sequence[tuple[float, str, str]] = (),
    marks: Sequence[Element] = (),
    x_ticks: bool = True,
) -> Element:
    """Return a chart of lines and points.

    Args:
        description: What there is to be seen, for those who do not see it.
        series: Drawn in this order.
        x: The horizontal axis.
        y: The vertical axis.
        size: "low" or "square", as style.css has them.
        verticals: (value, class, text) of lines across the chart.
        marks: More elements in the stretched coordinate system (0 to 1000, downwards).
        x_ticks: Whether the horizontal axis has numbers.
    """
    lines = [element("path", class_=f"{s.kind} {'points' if s.points else 'line'}", d=_path(s, x, y)) for s in series]
    stretched = element(
        "svg",
        *marks,
        *lines,
        viewBox=f"0 0 {SIDE} {SIDE}",
        preserveAspectRatio="none",
        width="100%",
        height="100%",
    )
    few = 3 if size == "low" else 5
    behind = [*_horizontals(y, few), *(_tick(x, value) for value in (x.ticks() if x_ticks else ()))]
    before = [mark for value, kind, text in verticals for mark in _vertical(x, value, kind, text)]
    drawing = element("svg", *behind, stretched, *before, role="img", aria_label=description)
    return element(
        "div",
        element("p", y.label, class_="y-label") if y.label else None,
        drawing,
        element("p", x.label, class_="x-label") if x.label else None,
        class_=f"plot {size}".strip(),
    )


def histogram(
    description: str, groups: Sequence[tuple[str, Array]], x: Axis, threshold: float, name: str
) -> list[Element]:
    """Return a chart per group (class, scores [n]) over one axis: the share of the group in each of 60 bins.

    A single group takes the colour of anomalies above the threshold.
    """
    places, above = np.linspace(0, 1, 61), float(x.place(threshold))
    panels = []
    for index, (kind, scores) in enumerate(groups):
        last = index == len(groups) - 1
        counts = np.histogram(x.place(scores), places)[0] / max(1, len(scores))
        top = float(counts.max()) or 1.0
        boxes = [
            element(
                "rect",
                class_="anomaly bar" if len(groups) == 1 and places[bin_] >= above else f"{kind} bar",
                x=_short(SIDE * places[bin_] + 1),
                y=_short(SIDE * (1 - count / (1.08 * top))),
                width=_short(SIDE / 60 - 2),
                height=_short(SIDE * count / (1.08 * top)),
            )
            for bin_, count in enumerate(counts)
            if count
        ]
        y = Axis(0, 108 * top, "% of the rows" if index == 0 else "")
        axis = x if last else Axis(x.low, x.high, "", x.logarithmic)
        line = [(threshold, "threshold", name if index == 0 else "")]
        size = "" if len(groups) == 1 else "low"
        panels.append(chart(description, (), axis, y, verticals=line, marks=boxes, size=size, x_ticks=last))
    return panels


def dumbbells(description: str, names: Sequence[str], x: Array, x_hat: Array, axis: Axis) -> Element:
    """Return a chart with a line per feature: a dot where the value is, a ring where its reconstruction is."""
    height = ROW * len(names)
    marks = []
    for index, name in enumerate(names):
        y = ROW * index + ROW // 2
        one, other = _percent(axis.place(x[index])), _percent(axis.place(x_hat[index]))
        label = element("text", short(name, 14), element("title", short(name)), x="0", y=y, dx="-8", dy="0.32em")
        marks += [
            element("line", class_="grid", x1="0", x2="100%", y1=y, y2=y),
            label,
            element("line", class_="difference", x1=one, x2=other, y1=y, y2=y),
            element("circle", class_="reconstruction ring", cx=other, cy=y, r=4.5),
            element("circle", class_="original dot", cx=one, cy=y, r=3.5),
        ]
    ticks = [_tick(axis, value) for value in axis.ticks(4)]
    drawing = element("svg", *ticks, *marks, role="img", aria_label=description, height=height)
    return element("div", drawing, element("p", axis.label, class_="x-label"), class_="plot features")


def heat_map(description: str, names: Sequence[str], values: Array, most: float, label: str) -> Element:
    """Return a map with a line per channel: the stronger the colour, the larger the value.

    Args:
        description: What there is to be seen.
        names: One per channel.
        values: [steps, channels], not negative; so many steps that nobody could tell them apart are averaged.
        most: What has the full colour; the colour goes with the square root, so that small values are seen.
        label: Of the horizontal axis.
    """
    steps, height = len(values), ROW * len(names)
    together = -(-steps // MOST_COLUMNS)
    starts = np.arange(0, steps, together)
    widths = np.diff(np.append(starts, steps))
    columns = np.add.reduceat(values, starts, axis=0) / widths[:, None]
    shades = np.rint(SHADES * np.sqrt(np.clip(columns / (most or 1.0), 0, 1)))
    cells = []
    for shade in range(1, SHADES + 1):
        where = zip(*np.nonzero(shades == shade), strict=True)
        path = "".join(f"M{starts[step]} {channel}h{widths[step]}v1h-{widths[step]}z" for step, channel in where)
        if path:
            cells.append(element("path", class_="contribution bar", fill_opacity=_short(shade / SHADES), d=path))
    axis = Axis(0, max(1, steps), label)
    stretched = element(
        "svg",
        element("rect", class_="track", width=steps, height=len(names)),
        *cells,
        viewBox=f"0 0 {steps} {len(names)}",
        preserveAspectRatio="none",
        width="100%",
        height=height,
    )
    lines = [
        element(
            "text",
            short(name, 14),
            element("title", short(name)),
            x="0",
            y=ROW * index + ROW // 2,
            dx="-8",
            dy="0.32em",
        )
        for index, name in enumerate(names)
    ]
    ticks = [_tick(axis, value) for value in axis.ticks(4) if value == int(value)]
    drawing = element("svg", *ticks, stretched, *lines, role="img", aria_label=description, height=height)
    return element("div", drawing, element("p", label, class_="x-label"), class_="plot features")


def bars(rows: Sequence[tuple[str, float]], kind: str, total: float) -> Element:
    """Return a list of names with bars as long as their share of `total`."""
    items = []
    for name, value in rows:
        share = value / total if total > 0 and math.isfinite(total) else 0.0
        items.append(
            element(
                "li",
                element("bdi", short(name, 32)),
                share_bar(share, kind),
                element("span", f"{100 * share:.0f} %", class_="value"),
            )
        )
    return element("ul", *items, class_="bars")


def share_bar(share: float, kind: str) -> Element:
    """Return a bar of a share of its width; the number beside it says the same."""
    fill = element("rect", class_=f"{kind} bar", width=_percent(min(1.0, max(0.0, share))), height="100%")
    return element("svg", element("rect", class_="track", width="100%", height="100%"), fill, aria_hidden="true")


def _path(series: Series, x: Axis, y: Axis) -> str:
    across, down = SIDE * x.place(series.x), SIDE * (1 - y.place(series.y))
    kept = np.isfinite(series.x) & np.isfinite(series.y)
    if series.points:
        return "".join(f"M{_short(a)} {_short(b)}h0" for a, b in zip(across[kept], down[kept], strict=True))
    parts, pen = [], "M"
    for a, b, there in zip(across, down, kept, strict=True):
        if there:
            parts.append(f"{pen}{_short(a)} {_short(b)}")
        pen = "L" if there else "M"
    return "".join(parts) + ("h0" if len(parts) == 1 else "")


def _horizontals(y: Axis, most: int) -> list[Element]:
    marks = []
    for value in y.ticks(most):
        place = _percent(1 - y.place(value))
        marks.append(element("line", class_="grid", x1="0", x2="100%", y1=place, y2=place))
        marks.append(element("text", number(value), class_="y", x="0", y=place, dx="-8", dy="0.32em"))
    return marks


def _tick(x: Axis, value: float) -> Element:
    return element("text", number(value), class_="x", x=_percent(x.place(value)), y="100%", dy="1.4em")


def _vertical(x: Axis, value: float, kind: str, text: str) -> list[Element]:
    share = float(x.place(value))
    place = _percent(share)
    line = element("line", class_=f"{kind} vertical", x1=place, x2=place, y1="0", y2="100%")
    side = {"dx": "-6", "class_": "note end"} if share > 0.5 else {"dx": "6", "class_": "note"}
    return [line, element("text", text, x=place, y="0", dy="0.9em", **side)] if text else [line]


def _percent(share: Any) -> str:
    return f"{_short(100 * float(share))}%"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
