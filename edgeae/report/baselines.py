"""The section of a report that says whether something simpler would do."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from edgeae.evaluation.baselines import Comparison
from edgeae.report.charts import number
from edgeae.report.markup import definitions, element, section

__all__ = ["baselines_section"]


def baselines_section(found: Comparison) -> Element:
    """Say who is better on these rows, the model or something simpler."""
    listed = [
        (each.name, f"AUROC {each.auroc:.3f}, average precision {each.average_precision:.3f}")
        for each in found.detectors
    ]
    errors = found.reconstruction
    pairs = (("this model", errors.model), (f"PCA, {found.components} components", errors.pca), ("mean", errors.mean))
    listed += [(f"reconstruction MSE, {name}", number(value)) for name, value in pairs if value is not None]
    rows = f"Baselines are fitted to {found.fitted:,} rows; {found.rows:,} other rows are compared."
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in found.sentences())
    return section(
        "Beside simple baselines",
        element("p", text),
        element("div", definitions(listed), class_="card"),
        element("p", rows),
    )
