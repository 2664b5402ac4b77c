"""The page behind `edgeae report`: one bundle on one data set, in one self-contained HTML file."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.etree.ElementTree import Element

import numpy as np

import edgeae
from edgeae.bundle.atomic import check_new, write_file
from edgeae.bundle.manifest import Manifest
from edgeae.data import load_rows
from edgeae.errors import InputError, MissingPackageError
from edgeae.evaluation.detection import compare_bundle
from edgeae.report.baselines import baselines_section
from edgeae.report.charts import Axis, Series, chart, histogram, number
from edgeae.report.facts import Curves, Facts, History, gather, principal_components, read_history
from edgeae.report.gallery import generated_section, restored_section
from edgeae.report.markup import definitions, document, element, figure, legend, section, short
from edgeae.report.rows import contribution_section, reconstruction_section

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = ["write_report"]

Array = np.ndarray[Any, Any]
MOST_CLASSES = 10
GROUPS = (("normal", "normal"), ("anomaly", "anomaly"))


def write_report(
    bundle: str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    run: str | os.PathLike[str] | None = None,
    rows: int = 100_000,
    label_column: str | None = None,
    columns: Sequence[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    on_invalid: str = "raise",
    trust: bool = False,
    force: bool = False,
) -> Facts:
    """Write one HTML page that shows how a bundle does on data; PyTorch is not needed.

    The page asks for nothing from outside and runs no script. It holds a few rows of the data, as pictures and charts:
    share it with those who may see them. The same bundle and data give the same page.

    Args:
        bundle: The bundle, a directory or a .zip file.
        data: Rows, with labels where there are any (0 normal, 1 anomaly; or classes): see `edgeae.data.load_data`.
        out: The .html file.
        run: The run directory that the bundle was exported from, for its training curves and the rows that baselines
            are fitted to; without it those are fitted to one half of the normal rows and compared on the other.
        rows: Look at no more rows than this, a random sample that is the same every time.
        label_column: Column of a table, or array of an .npz, with labels.
        columns: Columns of a table to use.
        data_dir: Folder with the files of a named data set.
        device: Where the bundle runs.
        precision: Which of its graphs.
        on_invalid: What to do with rows that hold missing or infinite values: "raise", or "flag" them as anomalies.
        trust: Run operators that need it, as in `edgeae.load`.
        force: Replace `out` if it exists.

    Returns:
        The numbers behind the page.

    Raises:
        InputError: if the data does not fit, `run` is another run, or `out` cannot be written.
        MissingPackageError: without Pillow for images, or scikit-learn for labels.
        BundleError, DeviceError: see `edgeae.load`.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp()) / "report.html"
        >>> facts = write_report("export/golden/table", np.zeros((5, 10), np.float32), out)
        >>> len(facts.scores), out.read_bytes()[:15]
        (5, b'<!DOCTYPE html>')
    """
    from edgeae.runtime import load

    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: a report's name must end in .html")
    check_new(out, force=force, what="the report")
    with load(bundle, device=device, precision=precision, on_invalid=on_invalid, trust=trust) as model:
        missing: Literal["keep", "refuse"] = "keep" if on_invalid == "flag" else "refuse"
        row = model.manifest.input
        dataset = load_rows(data, row, label_column=label_column, columns=columns, data_dir=data_dir, missing=missing)
        _require("PIL", "Pillow", "pictures of rows", needed=dataset.is_image)
        _require("sklearn", "scikit-learn", "ROC and precision-recall", needed=dataset.anomaly_labels)
        history = None if run is None else read_history(run, model.manifest.training)
        facts = gather(model, dataset, rows=rows)
        known = run if run is not None and (Path(run) / "reference.npz").exists() else None
        with contextlib.suppress(ImportError):  # a thin install has no scikit-learn
            facts = replace(facts, baselines=compare_bundle(model, dataset, rows=facts.rows, run=known))
        page = document(
            f"{short(model.manifest.name)} on {short(facts.source)}",
            _header(model, facts),
            _scores(model, facts),
            None if facts.curves is None else _separation(model, facts.curves),
            None if facts.baselines is None else baselines_section(facts.baselines),
            reconstruction_section(model, dataset, facts),
            contribution_section(model, dataset, facts),
            restored_section(model, dataset, facts),
            _map(facts),
            generated_section(model, dataset, facts),
            None if history is None else _training(history, model.manifest),
            _card(model),
            _footer(model),
        )
    write_file(out, page)
    return facts


def _require(module: str, package: str, purpose: str, *, needed: bool) -> None:
    if needed and importlib.util.find_spec(module) is None:
        raise MissingPackageError(f"report: {purpose} need {package}; install it with: pip install {package}")


def _header(model: Autoencoder, facts: Facts) -> Element:
    manifest, curves = model.manifest, facts.curves
    count = int(facts.anomalies.sum())
    share = 100 * count / len(facts.scores)
    looked_at = f"{len(facts.scores):,} rows"
    if len(facts.scores) < facts.total:
        looked_at = f"{looked_at}, drawn at random from {facts.total:,} (the same ones every time),"
    verdict = (
        f"Of {looked_at} of {short(facts.source)}, {count:,} ({share:.3g} %) score above the threshold "
        f"{number(model.threshold)}."
    )
    invalid = int((~np.isfinite(facts.scores)).sum())
    if invalid:
        verdict += f" {invalid:,} of them have no finite score, because of missing or extreme values."
    if curves is not None:
        verdict += (
            f" The threshold finds {100 * curves.found:.3g} % of the labelled anomalies and raises an alarm for "
            f"{100 * curves.false_alarms:.3g} % of the normal rows."
        )
    tiles = [("rows", f"{len(facts.scores):,}"), ("above the threshold", f"{share:.3g} %")]
    if curves is not None:
        tiles += [("AUROC", f"{curves.auroc:.3f}"), ("average precision", f"{curves.average_precision:.3f}")]
    tiles.append(("reconstruction MSE", number(facts.mse)))
    tiles.append(("values in a latent", f"{manifest.latent_dim:,} of {math.prod(manifest.input.shape):,}"))
    block = element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in tiles))
    block.set("class", "tiles")
    return element(
        "header",
        element("p", f"{manifest.variant} autoencoder, {model.precision}", class_="kind"),
        element("h1", short(manifest.name, 80)),
        element("p", verdict, class_="lead"),
        block,
    )


def _scores(model: Autoencoder, facts: Facts) -> Element:
    finite = np.isfinite(facts.scores)
    axis = Axis.around(
        facts.scores[finite],
        np.array([model.threshold]),
        label=f"score ({model.manifest.score.kind}), higher is more anomalous",
        margin=0.02,
    )
    groups, sentences = [], []
    labels = facts.labels if facts.labelled and facts.labels is not None else None
    if labels is not None:
        for value, (kind, name) in enumerate(GROUPS):
            chosen = labels == value
            if (chosen & finite).any():
                groups.append((kind, facts.scores[chosen & finite]))
                above, count = int(facts.anomalies[chosen].sum()), int(chosen.sum())
                middle = number(float(np.median(facts.scores[chosen & finite])))
                sentences.append(
                    f"{count:,} rows labelled {name}: median score {middle}, {100 * above / count:.3g} % above the "
                    "threshold"
                )
    else:
        groups.append(("normal", facts.scores[finite]))
        low, middle, high = (number(float(value)) for value in np.quantile(facts.scores[finite], (0, 0.5, 1)))
        share = f"{100 * float(facts.anomalies.mean()):.3g} %"
        sentences.append(f"Scores run from {low} to {high}, the median is {middle}; {share} are above the threshold")
    finding = f"{'; '.join(sentences)} ({number(model.threshold)})."
    panels = histogram(finding, groups, axis, model.threshold, "threshold")
    key = legend(GROUPS[: len(groups)]) if labels is not None and len(groups) == 2 else None
    return section("Scores", figure(finding, key, *panels))


def _separation(model: Autoencoder, curves: Curves) -> Element:
    share = Axis(0, 1, "false-alarm rate")
    found = Axis(0, 1, "share of anomalies found")
    right = Axis(0, 1, "share of alarms that are right")
    ends = np.array([0.0, 1.0])
    roc = (
        f"ROC curve: the chance that an anomaly scores higher than a normal row is {curves.auroc:.3f} (AUROC; 0.5 is "
        f"guessing). The threshold {number(model.threshold)} finds {100 * curves.found:.3g} % of the anomalies at "
        f"{100 * curves.false_alarms:.3g} % false alarms."
    )
    precision = (
        f"Precision over recall: average precision {curves.average_precision:.3f}; guessing would give "
        f"{curves.prevalence:.3f}, the share of anomalies. "
    ) + (
        "No row is above the threshold."
        if math.isnan(curves.right)
        else f"At the threshold {100 * curves.right:.3g} % of the alarms are right."
    )

    def draw(text: str, points: Array, guess: Array, at: tuple[float, float], x: Axis, y: Axis) -> Element:
        series = [
            Series("guide", ends, guess),
            Series("normal", points[:, 0], points[:, 1]),
            Series("anomaly large", np.array([at[0]]), np.array([at[1]]), points=True),
        ]
        return chart(text, series, x, y, size="square")

    base = np.full(2, curves.prevalence)
    recall = Axis(0, 1, found.label)
    return section(
        "Anomalies and normal rows",
        legend((("normal stroke", "all thresholds"), ("anomaly", "the bundle's threshold"))),
        element(
            "div",
            figure(roc, draw(roc, curves.roc, ends, (curves.false_alarms, curves.found), share, found), title="ROC"),
            figure(
                precision,
                draw(precision, curves.precision_recall, base, (curves.found, curves.right), recall, right),
                title="Precision and recall",
            ),
            class_="columns",
        ),
    )


def _map(facts: Facts) -> Element:
    points, carried = principal_components(facts.latents)
    groups = _map_groups(facts)
    scores = facts.scores[facts.map_rows]
    x, y = (
        Axis.around(points[:, 0], label="first component", logarithmic=False),
        Axis.around(points[:, 1], label="second component", logarithmic=False),
    )
    if facts.latents.shape[1] == 1:
        across, x, y = points[:, 0], Axis(x.low, x.high, "latent, minus its mean"), Axis.around(scores, label="score")
        points = np.stack([across, scores], axis=1)
        text = f"The latents of {len(points):,} rows, one value each, over their scores."
    else:
        text = (
            f"The latents of {len(points):,} rows on their first two principal components, which carry "
            f"{100 * carried[0]:.0f} % and {100 * carried[1]:.0f} % of the variance."
        )
    finding = f"{text} {_map_finding(points, groups)}".strip()
    series = [Series(kind, points[chosen, 0], points[chosen, 1], points=True) for kind, _, chosen in groups]
    key = legend([(kind, name) for kind, name, _ in groups])
    return section("Latent map", figure(finding, key, chart(finding, series, x, y, size="tall")))


def _map_groups(facts: Facts) -> list[tuple[str, str, Array]]:
    """Return (class of the marks, name, bool [m]) of the groups on the map, the rarest last, so that it is on top."""
    if facts.labels is not None:
        labels = facts.labels[facts.map_rows]
        values = np.unique(labels)
        if facts.labelled:
            return [(kind, name, labels == value) for value, (kind, name) in enumerate(GROUPS) if value in values]
        if len(values) <= MOST_CLASSES:
            return [(f"c{index}", str(value), labels == value) for index, value in enumerate(values)]
    above = facts.anomalies[facts.map_rows]
    groups = (("normal", "up to the threshold", ~above), ("anomaly", "above the threshold", above))
    return [group for group in groups if group[2].any()]


def _map_finding(points: Array, groups: list[tuple[str, str, Array]]) -> str:
    """Say how far the groups are apart: how often a point's nearest neighbour is of its own group."""
    if len(groups) < 2:
        return ""
    group = np.argmax(np.stack([chosen for _, _, chosen in groups]), axis=0)
    norms = np.square(points).sum(axis=1)
    distances = norms[:, None] + norms[None] - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    same = group[distances.argmin(axis=1)] == group
    if len(groups) == 2:
        _, name, chosen = groups[1]
        return (
            f"Of the {int(chosen.sum()):,} points of the group “{short(name)}”, {100 * float(same[chosen].mean()):.0f} "
            "% have one of their own as their nearest neighbour on this map; by chance it would be "
            f"{100 * float(chosen.mean()):.3g} %."
        )
    chance = float(np.square(np.bincount(group) / len(group)).sum())
    return (
        f"The nearest neighbour on this map is of the same group for {100 * float(same.mean()):.0f} % of the points; "
        f"by chance it would be for {100 * chance:.0f} %."
    )


def _training(history: History, manifest: Manifest) -> Element:
    losses = history.validation
    y = Axis.around(history.training, losses, label=f"loss ({manifest.training.loss})" if manifest.training else "loss")
    x = Axis(min(1.0, float(history.epochs.min())), max(2.0, float(history.epochs.max())), "epoch")
    finding = f"{len(losses)} epochs."
    if np.isfinite(losses).any():
        best = int(np.nanargmin(losses))
        finding = (
            f"The loss on rows held out went from {number(float(losses[0]))} to {number(float(losses[-1]))} in "
            f"{len(losses)} epochs; it was lowest, {number(float(losses[best]))}, after epoch "
            f"{int(history.epochs[best])}, where the loss on training rows was {number(float(history.training[best]))}."
        )
    series = [Series("training", history.epochs, history.training), Series("validation", history.epochs, losses)]
    key = legend((("training stroke", "training rows"), ("validation stroke dashed", "rows held out")))
    return section("Training", figure(finding, key, chart(finding, series, x, y)))


def _card(model: Autoencoder) -> Element:
    manifest = model.manifest
    row, training = manifest.input, manifest.training
    facts = [
        ("variant", manifest.variant),
        ("network", f"{manifest.description}; {manifest.parameters:,} weights"),
        ("input x", f"{row.dtype} [{', '.join(map(str, row.shape))}], {row.layout}"),
        ("latent z", f"float32 [{manifest.latent_dim}]"),
        ("normalisation", f"{manifest.normalisation.kind}, inside the graphs"),
        ("score", f"{manifest.score.kind}; higher is more anomalous"),
    ]
    if row.minimum is not None and row.maximum is not None:
        facts.insert(3, ("seen in training", f"values from {number(row.minimum)} to {number(row.maximum)}"))
    if training is not None:
        facts.append(("trained on", f"{short(training.data)}: {training.rows:,} rows, {training.epochs} epochs"))
    facts.append(("made", f"{manifest.created} by {', '.join(f'{k} {v}' for k, v in manifest.producer.items())}"))
    facts.append(("ONNX", f"opset {manifest.opset}, IR {manifest.ir_version}"))
    parts: list[Element] = [definitions(facts)]
    for name in manifest.precisions:
        parts += [element("h3", f"At {name}, as measured at export"), definitions(_precision(manifest, name))]
    return section("The model", element("div", *parts, class_="card"))


def _precision(manifest: Manifest, name: str) -> list[tuple[str, str]]:
    entry = manifest.precisions[name]
    quality, threshold = entry.quality, entry.threshold
    chosen = "set by hand"
    if threshold.fpr is not None:
        chosen = (
            f"chosen by the method {threshold.method} from {threshold.rows:,} normal rows, so that a fresh one exceeds "
            f"it with a chance of {100 * threshold.fpr:.3g} %"
        )
    parity = max(quality.parity.values(), default=0.0)
    rows = [
        ("threshold", f"{number(threshold.value)}, {chosen}"),
        (
            "graphs",
            f"encoder {_size(entry.encoder.size)}, decoder {_size(entry.decoder.size)}, "
            f"scorer {_size(entry.scorer.size)}",
        ),
        (
            "agreement with PyTorch",
            f"largest difference {number(parity)} of the spread of the values, over {quality.parity_rows:,} rows",
        ),
    ]
    if quality.reconstruction_mse is not None:
        text = f"MSE {number(quality.reconstruction_mse)} on validation rows"
        if quality.mean_mse:
            text += f", {100 * quality.reconstruction_mse / quality.mean_mse:.3g} % of what the mean row would give"
        rows.append(("reconstruction", text))
    if quality.auroc is not None:
        rows.append(("AUROC", f"{quality.auroc:.3f}"))
    if quality.label_flips is not None and quality.rank_correlation is not None:
        rows.append(
            (
                "against fp32",
                f"{100 * quality.label_flips:.3g} % of the rows judged differently, rank correlation of "
                f"the scores {quality.rank_correlation:.4f}",
            )
        )
    return rows


def _footer(model: Autoencoder) -> Element:
    return element(
        "footer",
        element("p", f"Bundle sha256:{model.bundle.digest}. Written by edgeae {edgeae.__version__}."),
    )


def _size(count: int) -> str:
    return f"{count / 1024:.1f} KiB" if count < 2**20 else f"{count / 2**20:.1f} MiB"
