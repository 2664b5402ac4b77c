"""Commands about how good a bundle is: evaluate, threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeae.cli.options import (
    BATCHES,
    NAMES,
    NUMBERS,
    SectionCommand,
    bundle_argument,
    data_argument,
    data_options,
    force_option,
    section_option,
    trust_option,
)
from edgeae.cli.output import number, print_json, print_table, status, table

if TYPE_CHECKING:
    from edgeae.bundle import Bundle
    from edgeae.bundle.manifest import Threshold
    from edgeae.evaluation.denoise import Denoising
    from edgeae.evaluation.detection import Detection, Evaluation, Measure
    from edgeae.evaluation.features import Features

__all__ = ["evaluate_command", "threshold_command"]

_device_option = click.option(
    "--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or cuda:N."
)


@click.command("evaluate", cls=SectionCommand)
@bundle_argument
@data_argument
@click.option(
    "--task",
    type=click.Choice(["detect", "features", "denoise"]),
    default="detect",
    show_default=True,
    help="What the bundle is for.",
)
@data_options
@click.option("--seed", default=0, show_default=True, metavar="N", help="The same seed gives the same figures.")
@_device_option
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@section_option("Of --task detect", "--at", type=BATCHES, metavar="K,K,...", help="Figures among the K highest scores.")
@section_option("Of --task detect", "--resamples", type=int, metavar="N", help="Of the bootstrap.  [default: 1000]")
@section_option(
    "Of --task detect",
    *("--run", "run"),
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Fit baselines to the rows of this run.",
)
@section_option(
    "Of --task features and denoise",
    *("--rows", "rows"),
    type=int,
    metavar="N",
    help="Use a random sample of so many rows.  [default: 5000, 2000 to denoise]",
)
@section_option(
    "Of --task denoise",
    *("--noise", "noise"),
    type=NAMES,
    help="Kinds of noise.  [default: gaussian,salt_and_pepper,masking]",
)
@section_option(
    "Of --task denoise",
    *("--levels", "levels"),
    type=NUMBERS,
    help="Standard deviation, as a share of the data's range, or share of the values.  [default: 0.1,0.25,0.5]",
)
def evaluate_command(bundle: Path, data: str, task: str, as_json: bool, **options: Any) -> None:
    """Measure what BUNDLE is worth on DATA, rows that it was not trained on, at every precision it has.

    detect: how well its scores tell anomalies, labelled 1, from normal rows, labelled 0; of a series with labelled
    steps also how many events it finds, unbroken runs of steps labelled 1; beside PCA, an isolation forest and 5
    nearest neighbours, fitted to the training rows of --run, or else to one half of the normal rows and compared on the
    other. features: how well classes, the labels, are
    told from its latents by a linear probe and by nearest neighbours, beside PCA and the rows themselves. denoise: how
    near to clean rows it brings noisy ones, beside filters and PCA.

    \b
    Example:
        edgeae evaluate bundle labelled.csv --label-column anomaly
        edgeae evaluate bundle digits --task features
    """
    given = {name: value for name, value in options.items() if value is not None}
    foreign = sorted({name for other in _OWN.values() for name in other} & set(given) - set(_OWN[task]))
    if foreign:
        raise click.UsageError(f"--{foreign[0]} is not for --task {task}")
    with status("evaluating") as tell:
        found = _evaluate(task, bundle, data, progress=tell, **given)
    if as_json:
        print_json(found)
    else:
        _PRINTERS[task](found)


def _evaluate(task: str, *arguments: Any, **options: Any) -> Any:
    from edgeae.evaluation.denoise import evaluate_denoising
    from edgeae.evaluation.detection import evaluate
    from edgeae.evaluation.features import evaluate_features

    tasks: dict[str, Callable[..., Any]]
    tasks = {"detect": evaluate, "features": evaluate_features, "denoise": evaluate_denoising}
    return tasks[task](*arguments, **options)


def _print_features(found: Features) -> None:
    click.echo(
        f"{found.bundle} on {found.data}: {found.classes} classes, classifiers fitted to {found.trained:,} rows and "
        f"tested on {found.tested:,} others"
    )
    shown = table("", "", ">values", ">linear probe", ">5 nearest neighbours")
    compared = {f"latents, {name}": each for name, each in found.precisions.items()}
    for name, each in {**compared, "PCA": found.pca, "the rows": found.rows}.items():
        shown.add_row(name, f"{each.size:,}", _measure(each.linear), _measure(each.neighbours))
    print_table(shown)
    click.echo(
        f"shares of the rows put into the right class, in brackets their 95 % confidence intervals; the largest class "
        f"is {100 * found.largest_class:.3g} %"
    )


def _print_denoising(found: Denoising) -> None:
    click.echo(
        f"{found.bundle} on {found.data}: {found.rows:,} rows made noisy and restored, PCA of {found.components} "
        f"components fitted to {found.fitted:,} others"
    )
    first = found.levels[0]
    figures = {"psnr": "PSNR in dB", "ssim": "SSIM"} if first.noisy.ssim is not None else {"psnr": "PSNR in dB"}
    for figure, title in figures.items():
        shown = table("", title, ">noisy", *(f">{name}" for name in (*first.precisions, *first.baselines)))
        for each in found.levels:
            cells = [each.noisy, *each.precisions.values(), *each.baselines.values()]
            label = "no noise" if each.noise == "none" else f"{each.noise} {each.level:g}"
            shown.add_row(label, *(number(getattr(cell, figure)) for cell in cells))
        print_table(shown)


def _print_evaluation(found: Evaluation) -> None:
    click.echo(f"{found.bundle} on {found.data}: {found.rows:,} rows, {found.anomalies:,} of them anomalies")
    shown = table("", "", *(f">{precision}" for precision in found.precisions))
    columns = [_figures(one) for one in found.precisions.values()]
    for name in columns[0]:
        shown.add_row(name, *(column[name] for column in columns))
    print_table(shown)
    for sentence in () if found.baselines is None else found.baselines.sentences():
        click.echo(sentence)
    click.echo(
        f"in brackets: 95 % confidence intervals ({found.resamples:,} resamples; exact for recall and false alarms)"
    )


def _figures(one: Detection) -> dict[str, str]:
    """Return what a column of the table says, by the name of the row."""
    rows = {
        "AUROC": _measure(one.auroc),
        "average precision": _measure(one.average_precision),
        "threshold": f"{one.threshold.value:.6g}",
        "  promised false alarms": _promise(one.threshold),
        "  false alarms": _measure(one.false_alarms, percent=True),
        "  recall": _measure(one.recall),
        "  precision": _measure(one.precision),
        "  F1": _measure(one.f1),
        "best F1": _measure(one.best_f1),
        "  its threshold": f"{one.best_threshold:.6g}",
    }
    if one.events is not None:
        events = one.events
        rows["events found"] = f"{events.found} of {events.events}"
        rows["  alarms, of them false"] = f"{events.alarms:,}, {events.false:,}"
        rows["  F1 of events and alarms"] = f"{events.f1:.3f}"
        rows["  mean delay in steps"] = number(events.delay)
        rows["  NAB score"] = f"{events.nab:.1f}"
    for each in one.at:
        rows[f"precision of the {each.k:,} highest"] = _measure(each.precision)
        rows[f"recall of the {each.k:,} highest"] = _measure(each.recall)
    return rows


def _measure(measure: Measure, *, percent: bool = False) -> str:
    if measure.value is None or measure.low is None or measure.high is None:
        return "-"
    if percent:
        return f"{100 * measure.value:.3g} % ({100 * measure.low:.3g} to {100 * measure.high:.3g})"
    return f"{measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})"


def _promise(threshold: Threshold) -> str:
    if threshold.fpr is None:
        return "-"
    text = f"{100 * threshold.fpr:.3g} %"
    if threshold.interval is not None:
        low, high = threshold.interval
        text += f" ({100 * low:.3g} to {100 * high:.3g})"
    return text


_OWN = {"detect": ("at", "resamples", "run"), "features": ("rows",), "denoise": ("rows", "noise", "levels")}
_PRINTERS: dict[str, Callable[[Any], None]] = {
    "detect": _print_evaluation,
    "features": _print_features,
    "denoise": _print_denoising,
}


@click.command("threshold")
@bundle_argument
@data_argument
@click.option(
    "--method",
    type=click.Choice(["quantile", "conformal", "evt", "sigma", "best-f1", "recall"]),
    default="quantile",
    show_default=True,
    help="How to choose; best-f1 and recall need labels.",
)
@click.option("--fpr", default=0.01, show_default=True, metavar="X", help="Share of normal rows that raise an alarm.")
@click.option(
    "--recall", default=0.95, show_default=True, metavar="X", help="For --method recall: share of anomalies found."
)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Write the bundle here, not in its place.")
@data_options
@_device_option
@trust_option
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print the thresholds as JSON.")
def threshold_command(bundle: Path, data: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Choose the thresholds of BUNDLE again, from the normal rows of DATA, which the model was not trained on.

    Each precision gets its own. Manifest, the copies in the graphs and the digests are written anew, to -o, or with
    --force in place; the graphs stay what they are. Rows labelled 1 are anomalies.

    \b
    Example:
        edgeae threshold bundle fresh.csv --fpr 0.001 --force
        edgeae threshold bundle labelled.csv --label-column anomaly --method best-f1 -o tuned
    """
    from edgeae.evaluation.rethreshold import rethreshold

    if out is None and not options["force"]:
        raise click.UsageError("give -o NEW, or --force to change BUNDLE in place")
    with status("scoring") as tell:
        made = rethreshold(bundle, data, out, progress=tell, **options)
    if as_json:
        print_json({"digest": made.digest, "thresholds": {k: v.threshold for k, v in made.manifest.precisions.items()}})
        return
    _print_thresholds(made)


def _print_thresholds(made: Bundle) -> None:
    shown = table("", "precision", ">threshold", "method", ">false alarms", ">normal rows", ">recall")
    for name, entry in made.manifest.precisions.items():
        threshold = entry.threshold
        shown.add_row(
            name,
            f"{threshold.value:.6g}",
            threshold.method,
            _promise(threshold),
            f"{threshold.rows:,}",
            number(threshold.recall),
        )
    print_table(shown)
    click.echo("in brackets: the 95 % confidence interval of the false-alarm rate")
    click.echo(f"digest sha256:{made.digest}")
