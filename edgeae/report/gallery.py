"""What a bundle makes: rows generated and between others, where it is variational, and restored, where it denoises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

import numpy as np

from edgeae.data import Dataset, normalise
from edgeae.evaluation.denoise import NOISES, Span
from edgeae.evaluation.pictures import psnr
from edgeae.report.charts import Axis, Series, chart, number
from edgeae.report.facts import Facts, principal_components
from edgeae.report.markup import element, figure, legend, section
from edgeae.report.pictures import Pictures
from edgeae.report.rows import channel_names

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = ["generated_section", "restored_section"]

GENERATED = 12  # pictures
PICTURES = 6  # side by side
LINES = 4  # rows of a kind in one chart
LEVEL = 0.25  # of the noise
SEED = 0
OUTER = 0.02  # of the rows that lie beyond those between which is interpolated
MOST_CHANNELS = 4
NOISE_NAMES = {"gaussian": "Gaussian noise", "salt_and_pepper": "Salt and pepper", "masking": "Masking"}

Array = np.ndarray[Any, Any]
Group = tuple[str, str, Array]  # class of the marks, what they are, rows [n, *shape]


def generated_section(model: Autoencoder, data: Dataset, facts: Facts) -> Element | None:
    """Show rows made from latents drawn at random, and rows between others; None unless the model is generative."""
    if not model.manifest.generative:
        return None
    made = model.sample(GENERATED if data.is_image else LINES, seed=SEED)
    places = facts.ranking[np.linspace(0, len(facts.ranking) - 1, LINES).round().astype(int)]
    known = np.asarray(data.x[facts.rows[places]], np.float32)
    text = "Decoded from latents drawn from a standard normal distribution; no row of the data went in."
    if data.is_image:
        pictures = Pictures(np.concatenate([known, made]), data.layout)
        cells = [element("li", pictures.image(row, f"generated {index}")) for index, row in enumerate(made)]
        drawn = figure(text, element("ul", *cells, class_="pictures"), title="Drawn at random")
    else:
        groups = [("original", "rows of the data", known), ("reconstruction", "generated", made)]
        drawn = figure(text, _key(groups), *_panels(model, data, groups), title="Drawn at random")
    return section("What the model generates", drawn, *_between(model, data, facts))


def restored_section(model: Autoencoder, data: Dataset, facts: Facts) -> Element | None:
    """Show what the model makes of rows with noise; None unless it was trained to take noise away."""
    if model.manifest.variant != "denoising":
        return None
    count = min(PICTURES if data.is_image else 1, len(facts.ranking))
    first = (len(facts.ranking) - count) // 2  # rows of median scores, which are no anomalies
    places = facts.rows[np.sort(facts.ranking[first : first + count])]
    clean = np.asarray(data.x[places])
    span = Span.of(np.asarray(data.x[facts.rows[facts.map_rows]]), model.manifest)
    figures = []
    for kind in NOISES:
        noisy = span.noisy(clean, kind, LEVEL, SEED)
        restored = model.reconstruct(noisy)
        before, after = (number(psnr(span.units(rows), span.units(clean))) for rows in (noisy, restored))
        text = f"PSNR against the clean rows: {before} dB with the noise, {after} dB restored."
        rows = [each.astype(np.float32) for each in (noisy, restored, clean)]
        if data.is_image:
            pictures = Pictures(rows[2], data.layout)
            cells = [
                element(
                    "li",
                    *(
                        pictures.image(each[index], f"row {place}, {name}")
                        for each, name in zip(rows, ("noisy", "restored", "clean"), strict=True)
                    ),
                    f"row {place}",
                )
                for index, place in enumerate(places)
            ]
            drawn: Sequence[Element] = [element("ul", *cells, class_="pictures")]
        else:
            groups = [("c7", "noisy", rows[0]), ("original", "clean", rows[2]), ("reconstruction", "restored", rows[1])]
            drawn = [_key(groups), *_panels(model, data, groups)]
        figures.append(figure(text, *drawn, title=f"{NOISE_NAMES[kind]}, {LEVEL:g}"))
    of_values = "of the data's range as its standard deviation for Gaussian noise, of the values otherwise"
    if data.is_image:
        intro = f"Noise was added to clean images ({LEVEL:g} {of_values}): noisy, below it restored, below that clean."
        return section("Restored images", element("p", intro), *figures)
    intro = f"Noise was added to the row with the median score, number {places[0]} ({LEVEL:g} {of_values})."
    return section("Restored rows", element("p", intro), *figures)


def _between(model: Autoencoder, data: Dataset, facts: Facts) -> list[Element]:
    """Return a figure for each axis of the latent map: decoded latents on the line between rows at its two ends."""
    points, carried = principal_components(facts.latents)
    ordinary = np.flatnonzero(~facts.anomalies[facts.map_rows])
    if len(ordinary) < 2:
        return []
    figures = []
    for axis, name in enumerate(("first", "second")):
        if not carried[axis]:
            continue
        ranked = ordinary[np.argsort(points[ordinary, axis], kind="stable")]
        outer = int(OUTER * len(ranked))
        ends = ranked[[outer, len(ranked) - 1 - outer]]
        shares = np.linspace(0, 1, PICTURES)[1:-1, None].astype(np.float32)
        decoded = model.decode((1 - shares) * facts.latents[ends[0]] + shares * facts.latents[ends[1]])
        places = facts.rows[facts.map_rows[ends]]
        x = np.stack([np.asarray(data.x[place], np.float32) for place in places])
        title = f"From one end of the {name} component to the other"
        text = (
            f"Rows {places[0]} and {places[1]}, and between them the decoded latents at equal steps on the straight "
            "line between theirs."
        )
        if data.is_image:
            pictures = Pictures(x, data.layout)
            named = [
                (x[0], f"row {places[0]}"),
                *((row, f"{100 * share:.0f} % of the way") for row, share in zip(decoded, shares[:, 0], strict=True)),
                (x[1], f"row {places[1]}"),
            ]
            cells = [element("li", pictures.image(row, name), name) for row, name in named]
            figures.append(figure(text, element("ul", *cells, class_="pictures"), title=title))
        else:
            groups = [("original", "rows of the data", x), ("reconstruction", "between them", decoded)]
            figures.append(figure(text, _key(groups), *_panels(model, data, groups), title=title))
    return figures


def _panels(model: Autoencoder, data: Dataset, groups: Sequence[Group]) -> list[Element]:
    """Return charts of rows as lines over their features, or over time, one for each of the first channels."""
    manifest = model.manifest
    unit = "value" if manifest.normalisation.kind == "none" else "normalised value"
    shown = [(kind, name, normalise(rows, manifest.normalisation, data.layout)) for kind, name, rows in groups]
    if data.layout != "TC":
        count = shown[0][2].shape[1]
        return [_chart(shown, Axis(0, max(1, count - 1), f"feature, 0 to {count - 1}"), unit)]
    length, channels = data.row_shape
    names = channel_names(model)
    panels = []
    for channel in range(min(channels, MOST_CHANNELS)):
        last = channel == min(channels, MOST_CHANNELS) - 1
        time = Axis(0, max(1, length - 1), "time step" if last else "")
        of_channel = [(kind, what, rows[:, :, channel]) for kind, what, rows in shown]
        panels.append(_chart(of_channel, time, f"{names[channel]}, {unit}", low=True, x_ticks=last))
    return panels


def _key(groups: Sequence[Group]) -> Element:
    dashes = {"reconstruction": "reconstruction stroke dashed", "original": "original stroke"}
    return legend([(dashes.get(kind, kind), name) for kind, name, _ in groups])


def _chart(groups: Sequence[Group], x: Axis, label: str, *, low: bool = False, x_ticks: bool = True) -> Element:
    y = Axis.around(*(rows for *_, rows in groups), label=label, logarithmic=False)
    places = np.arange(groups[0][2].shape[1])
    lines = [Series(kind, places, row, points=kind == "c7") for kind, _, rows in groups for row in rows]
    counts = ", ".join(f"{name}: {len(rows)}" for _, name, rows in groups)
    return chart(f"Lines over each other, {label} ({counts}).", lines, x, y, size="low" if low else "", x_ticks=x_ticks)
