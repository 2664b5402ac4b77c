"""Originals and reconstructions on the page: images as images, windows as lines, vectors as a line per feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from edgeae.data import Dataset, normalise
from edgeae.report.charts import Axis, Series, bars, chart, dumbbells, heat_map, number
from edgeae.report.facts import Facts
from edgeae.report.markup import element, figure, legend, section, short
from edgeae.report.pictures import Pictures

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = ["channel_names", "contribution_section", "reconstruction_section"]

Array = np.ndarray[Any, Any]
PICTURES = 6  # of each kind
MOST_FEATURES = 32  # with a line each; more become one line over all
MOST_CHANNELS = 4
EXPLAINED = 6  # rows
MOST_LINES = 16  # of a map of channels over time
TOP = 6  # features of each
DOTS = (("original", "original"), ("reconstruction ring", "reconstruction"))
LINES = (("original stroke", "original"), ("reconstruction stroke dashed", "reconstruction"))


def reconstruction_section(model: Autoencoder, data: Dataset, facts: Facts) -> Element:
    """Show the rows with the lowest, the middle and the highest scores over their reconstructions."""
    count = PICTURES if data.is_image else 1
    groups = _groups(facts.ranking, count)
    shown = np.concatenate([places for _, places in groups])
    x = np.asarray(data.x[facts.rows[shown]])
    x_hat, errors = model.reconstruct(x), model.explain(x).values
    x = x.astype(np.float32)
    span = f"from {number(float(facts.scores[shown[0]]))} to {number(float(facts.scores[shown[-1]]))}"
    if data.is_image:
        pictures = Pictures(x, data.layout, errors)
        parts, start = [], 0
        for title, places in groups:
            cells = [
                _cell(pictures, facts, int(place), start + index, x, x_hat, errors)
                for index, place in enumerate(places)
            ]
            scores = [number(float(facts.scores[place])) for place in (places[0], places[-1])]
            finding = f"Scores {scores[0]} to {scores[1]}." if scores[0] != scores[1] else f"Scores around {scores[0]}."
            parts.append(figure(finding, element("ul", *cells, class_="pictures"), title=title))
            start += len(places)
        intro = (
            "Originals, below them what the model makes of them, and below that which pixels make the score: the "
            f"stronger the colour, the larger the error. Scores run {span}."
        )
        return section("Originals and reconstructions", element("p", intro), *parts)
    unit = ""
    if model.manifest.normalisation.kind != "none":
        unit = "normalised values"
        x, x_hat = (normalise(rows, model.manifest.normalisation, data.layout) for rows in (x, x_hat))
    draw = _windows if data.layout == "TC" else _vectors
    figures = [
        figure(
            _difference(x[index], x_hat[index], unit),
            *draw(model, x, x_hat, errors, index, unit),
            title=f"{title}: {_caption(facts, int(shown[index]))}",
        )
        for index, (title, _) in enumerate(groups)
    ]
    intro = f"The rows with the lowest, the median and the highest score, each on its own scale. Scores run {span}."
    wide = data.layout == "vector" and len(data.row_shape) == 1 and data.row_shape[0] > MOST_FEATURES
    holder = element("div", *figures, class_="" if wide else "columns")
    kinds = DOTS if not wide and data.layout == "vector" else LINES
    return section("Originals and reconstructions", element("p", intro), legend(kinds), holder)


def contribution_section(model: Autoencoder, data: Dataset, facts: Facts) -> Element | None:
    """Show which features make the scores of the worst rows; None for images, whose errors are shown as pictures."""
    if data.is_image:
        return None
    worst = facts.ranking[::-1][:EXPLAINED]
    explained = model.explain(np.asarray(data.x[facts.rows[worst]]))
    if data.layout == "TC":
        return _moments(model, facts, worst, explained.values.astype(np.float64))
    values = explained.values.reshape(len(worst), -1).astype(np.float64)
    figures, firsts = [], []
    for place, row, top in zip(worst, values, explained.top(TOP), strict=True):
        total = float(np.abs(row).sum())
        top = [(name if explained.names else f"value {name}", value) for name, value in top]
        firsts.append(top[0][0])
        figures.append(element("div", element("h3", _caption(facts, int(place))), bars(top, "contribution", total)))
    holder = element("div", *figures, class_="columns")
    return section("What makes the worst rows", element("p", _first(firsts)), holder)


def _moments(model: Autoencoder, facts: Facts, worst: Array, values: Array) -> Element:
    """Show which channels at which steps make the scores of the worst windows, [n, steps, channels]."""
    names = channel_names(model)
    parts = np.abs(values).sum(axis=1)  # of each channel, over all its time
    shown = np.sort(np.argsort(-parts.sum(axis=0), kind="stable")[:MOST_LINES])
    most = float(np.quantile(values[..., shown], 0.999))
    figures = []
    for place, row, of_channel in zip(worst, values, parts, strict=True):
        step, channel = np.unravel_index(row.argmax(), row.shape)
        total = float(of_channel.sum())
        leading = int(of_channel.argmax())
        share = 100 * float(of_channel[leading]) / total if total > 0 else 0.0
        finding = (
            f"Most at {short(names[channel])} @ {step} ({number(float(row[step, channel]))}); {share:.0f} % of it all "
            f"comes from {short(names[leading])}."
        )
        drawn = heat_map(finding, [names[each] for each in shown], row[:, shown], most, "time step")
        figures.append(figure(finding, drawn, title=_caption(facts, int(place))))
    text = _first([names[int(of_channel.argmax())] for of_channel in parts])
    if len(shown) < len(names):
        text += f" The {len(shown)} channels with most of it are shown."
    text += " The stronger the colour, the more a step of a channel adds to the score."
    holder = element("div", *figures, class_="columns")
    return section("What makes the worst rows", element("p", text), holder)


def _first(firsts: Sequence[str]) -> str:
    common = max(sorted(set(firsts)), key=firsts.count)
    return (
        f"Shares of the reconstruction error of the {len(firsts)} rows with the highest scores. {short(common)} comes "
        f"first in {firsts.count(common)} of them."
    )


def channel_names(model: Autoencoder) -> Sequence[str]:
    """Return a name for each channel of a window."""
    series = model.manifest.input.series
    if series is not None and series.channel_names is not None:
        return series.channel_names
    return [f"channel {index}" for index in range(model.input_shape[1])]


def _groups(ranking: Array, count: int) -> list[tuple[str, Array]]:
    """Return the best, the median and the worst places, each at most once."""
    count = max(1, min(count, len(ranking) // 3))
    middle = (len(ranking) - count) // 2
    if len(ranking) < 3:
        names = ("Lowest score", "Highest score")
        return [(name, ranking[place : place + 1]) for name, place in zip(names, range(len(ranking)), strict=False)]
    return [
        ("Lowest score" if count == 1 else "Lowest scores", ranking[:count]),
        ("Median score" if count == 1 else "Median scores", ranking[middle : middle + count]),
        ("Highest score" if count == 1 else "Highest scores", ranking[-count:]),
    ]


def _caption(facts: Facts, place: int) -> str:
    text = f"row {facts.rows[place]}, score {number(float(facts.scores[place]))}"
    if facts.labels is None:
        return text
    label = int(facts.labels[place])
    return f"{text}, {('normal', 'anomaly')[label]}" if facts.labelled else f"{text}, label {label}"


def _difference(x: Array, x_hat: Array, unit: str) -> str:
    largest = float(np.abs(x - x_hat).max())
    return f"The reconstruction is off by {number(largest)} at most{f' ({unit})' if unit else ''}."


def _vectors(model: Autoencoder, x: Array, x_hat: Array, errors: Array, index: int, unit: str) -> Sequence[Element]:
    names = model.feature_names or tuple(str(place) for place in range(x.shape[1]))
    axis = Axis.around(x[index], x_hat[index], label=unit or "value", logarithmic=False)
    worst = int(errors[index].argmax())
    text = (
        f"{len(names)} values and their reconstructions; the largest error is that of {short(names[worst])}: "
        f"{number(float(x[index, worst]))} is reconstructed as {number(float(x_hat[index, worst]))}."
    )
    if len(names) <= MOST_FEATURES:
        return [dumbbells(text, names, x[index], x_hat[index], axis)]
    places = Axis(0, len(names) - 1, f"feature, 0 to {len(names) - 1}")
    return [chart(text, _two_lines(x[index], x_hat[index]), places, axis)]


def _windows(model: Autoencoder, x: Array, x_hat: Array, errors: Array, index: int, unit: str) -> Sequence[Element]:
    length, channels = x.shape[1:]
    names = channel_names(model)
    by_channel = errors.sum(axis=(0, 1))
    chosen = np.sort(np.argsort(-by_channel, kind="stable")[:MOST_CHANNELS])
    panels = []
    for place in chosen:
        last = place == chosen[-1]
        time = Axis(0, max(1, length - 1), "time step" if last else "")
        named = names[place] + (f", of {channels} channels" if channels > MOST_CHANNELS else "")
        pair = x[index, :, place], x_hat[index, :, place]
        axis = Axis.around(*pair, label=f"{named}, {unit or 'value'}", logarithmic=False)
        moment = int(errors[index, :, place].argmax())
        text = f"{named}: the original and its reconstruction over {length} steps; the largest error is at {moment}."
        panels.append(chart(text, _two_lines(*pair), time, axis, size="low", x_ticks=bool(last)))
    return panels


def _two_lines(x: Array, x_hat: Array) -> list[Series]:
    places = np.arange(len(x))
    return [Series("original", places, x), Series("reconstruction", places, x_hat)]


def _cell(pictures: Pictures, facts: Facts, place: int, index: int, x: Array, x_hat: Array, errors: Array) -> Element:
    row = facts.rows[place]
    label = "" if facts.labels is None else _caption(facts, place).rpartition(",")[2].strip()
    return element(
        "li",
        pictures.image(x[index], f"row {row}, original"),
        pictures.image(x_hat[index], f"row {row}, reconstruction"),
        pictures.heat(errors[index], f"row {row}, where the error is"),
        element("span", number(float(facts.scores[place])), class_="value"),
        f"row {row}",
        element("br") if label else None,
        label or None,
    )
