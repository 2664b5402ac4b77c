"""Commands that make models: train, export, demo."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeae.bundle.manifest import Quality
from edgeae.cli.options import (
    BATCHES,
    NAMES,
    NUMBERS,
    SectionCommand,
    dataclass_options,
    force_option,
    section_option,
    target_options,
)
from edgeae.cli.output import number, print_json, print_table, size, status, table
from edgeae.training.config import TrainConfig

if TYPE_CHECKING:
    from edgeae.bundle import Bundle

__all__ = ["adopt_command", "demo_command", "export_command", "train_command"]

_log = logging.getLogger("edgeae")


@click.command("train", cls=SectionCommand)
@click.argument("data")
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Run directory to write.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with any of the options below.")
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted or shall train longer.")
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@dataclass_options(TrainConfig)
def train_command(
    data: str, out: Path, config: Path | None, resume: bool, force: bool, as_json: bool, **options: Any
) -> None:
    """Train an autoencoder on DATA and write a run directory.

    Everything has a default that follows the data: images in whole numbers are scaled to 0..1 and get a sigmoid
    output, other data is standardised and gets a linear one. Ctrl-C keeps the best weights so far.

    \b
    Example:
        edgeae train mnist-5k -o run --variant dense --latent-dim 64 --epochs 20
        edgeae train sensors.csv -o run --label-column fault --variant denoising
    """
    import edgeae

    base = TrainConfig.from_toml(config) if config is not None else TrainConfig()
    given = {name: value for name, value in options.items() if value is not None}
    run = edgeae.train(data, out, config=base, resume=resume, force=force, progress=True, **given)
    results = run.results
    if as_json:
        print_json(results)
        return
    shown = table("", "", ">")
    shown.add_row("model", run.config.describe())
    shown.add_row("best epoch", f"{results.best_epoch} of {results.epochs}")
    shown.add_row("training loss", number(results.train_loss, 4))
    shown.add_row("validation loss", number(results.validation_loss, 4))
    shown.add_row("validation MSE (normalised)", number(results.validation_mse, 4))
    if results.active_share is not None:
        shown.add_row("active latent units per row", f"{100 * results.active_share:.1f} %")
    if results.active_units is not None:
        shown.add_row("latent units in use", f"{results.active_units} of {run.config.latent_dim}")
    shown.add_row("run", str(out))
    print_table(shown)
    _log.info("next: edgeae export %s -o %s", shlex.quote(str(out)), shlex.quote(f"{out}-bundle"))


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Directory or .zip to write."
)
@click.option(
    "--score",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "mse", "mae", "bce", "zscore", "mahalanobis", "prototype", "elbo"]),
    help="The error that becomes the anomaly score. auto: prototype for vectors with rows enough, else mse.",
)
@click.option("--fpr", default=0.01, show_default=True, metavar="X", help="Share of normal rows above the threshold.")
@click.option("--threshold", type=float, metavar="X", help="A fixed threshold instead.")
@click.option("--precision", default="fp32", show_default=True, type=NAMES, help="Any of fp32,fp16,int8.")
@click.option(
    "--calibrate", metavar="DATA", help="Normal rows for threshold, spreads and int8 ranges, instead of the run's own."
)
@click.option("--label-column", metavar="NAME", help="Labels of the --calibrate rows; 1 is an anomaly.")
@click.option("--opset", default=18, show_default=True, metavar="N", help="ONNX operator set.")
@click.option("--batch", type=int, metavar="N", help="Fix the batch size; by default it stays free.")
@click.option(
    "--input-dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "uint8"]),
    help="uint8: graphs for images that take bytes.",
)
@click.option("--golden-from", metavar="DATA", help="Keep real rows as golden rows; they leave with the bundle.")
@click.option("--name", help="Name of the bundle; by default that of its directory.")
@target_options
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def export_command(run: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Export RUN as a bundle: encoder, decoder and a fused scorer as ONNX graphs.

    Nothing is written unless ONNX Runtime computes what PyTorch computes.

    \b
    Example:
        edgeae export run -o bundle --fpr 0.01 --precision fp32,int8
    """
    import edgeae

    with status("exporting"):
        bundle = edgeae.export_bundle(run, out, **options)
    if as_json:
        print_json(bundle.manifest)
        return
    shown = table("", "precision", ">scorer", ">threshold", ">AUROC", ">largest difference from PyTorch")
    for kind, entry in bundle.manifest.precisions.items():
        shown.add_row(
            kind,
            size(entry.scorer.size),
            number(entry.threshold.value, 4),
            number(entry.quality.auroc, 4),
            number(max(entry.quality.parity.values()), 2),
        )
    print_table(shown)
    _print_target(options["target"], bundle, out)
    _log.info("next: edgeae verify %s; edgeae score %s DATA -o scores.csv", *[shlex.quote(str(out))] * 2)


def _print_target(target: str, bundle: Bundle, out: Path) -> None:
    if target == "mobile":
        _print_placements(bundle)
        _print_reduced_build(out)
    if target == "web":
        from edgeae.export.target import beside

        _log.info("page: %s", beside(out, "web"))


def _print_placements(bundle: Bundle) -> None:
    from edgeae.export.mobile import place_operators, placement_rows

    header, *rows = placement_rows(place_operators(bundle.graph("fp32", "scorer")))
    shown = table("What takes the scorer's operators on a phone", *header)
    for row in rows:
        shown.add_row(*row)
    print_table(shown)


def _print_reduced_build(out: Path) -> None:
    from edgeae.export.mobile import read_operators
    from edgeae.export.mobile_sizes import estimate_size
    from edgeae.export.target import beside

    folder = beside(out, "mobile")
    held = estimate_size(read_operators((folder / "required_operators.config").read_text("utf-8")))
    _log.info("for phones: %s; an ONNX Runtime reduced to its operators: %.1f MB, estimated", folder, held.total / 1e6)


@click.command("adopt", cls=SectionCommand)
@click.argument("model")
@click.argument("decoder", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Directory or .zip to write."
)
@section_option("The model", "--latent", metavar="NAME", help="Cut here, instead of at the narrowest value.")
@section_option(
    "The model",
    "--reconstruction",
    metavar="NAME",
    help="Which output it is, where there are several.",
)
@section_option("The model", "--shape", type=BATCHES, help="Shape of one row, where the model leaves it open.")
@section_option(
    "The model", "--weights", type=click.Path(path_type=Path), help="For MODULE:FACTORY: .safetensors or a state dict."
)
@section_option(
    "The model", "--trust", is_flag=True, help="Allow operators that no fuzzer has tried; loading asks for trust, too."
)
@section_option("The rows", "--calibrate", metavar="DATA", help="Normal rows: threshold, spreads, int8 ranges.")
@section_option("The rows", "--label-column", metavar="NAME", help="Labels of the --calibrate rows; 1 is an anomaly.")
@section_option(
    "The rows",
    "--normalise",
    "normalisation",
    default="none",
    show_default=True,
    type=click.Choice(["none", "minmax", "standard", "robust"]),
    help="What the model expects to be done to rows, fitted on --calibrate.",
)
@section_option("The rows", "--shift", type=NUMBERS, help="The model expects (x - shift) / scale with these numbers,")
@section_option("The rows", "--scale", type=NUMBERS, help="one for all values or one for each feature or channel.")
@section_option(
    "The rows",
    "--layout",
    type=click.Choice(["vector", "HW", "CHW", "HWC", "TC"]),
    help="What the axes of a row mean, where it is not plain.",
)
@section_option(
    "The score",
    "--score",
    default="mse",
    show_default=True,
    type=click.Choice(["mse", "mae", "bce", "zscore"]),
    help="The error that becomes the anomaly score.",
)
@section_option(
    "The score", "--fpr", default=0.01, show_default=True, metavar="X", help="Share of normal rows above the threshold."
)
@section_option("The score", "--threshold", type=float, metavar="X", help="A fixed threshold instead.")
@section_option("The bundle", "--precision", default="fp32", show_default=True, type=NAMES, help="fp32 or fp32,int8.")
@section_option("The bundle", "--golden-from", metavar="DATA", help="Keep real rows as golden rows.")
@section_option("The bundle", "--name", help="Name of the bundle; by default that of its directory.")
@target_options
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def adopt_command(
    model: str,
    out: Path,
    as_json: bool,
    shift: tuple[float, ...] | None,
    scale: tuple[float, ...] | None,
    normalisation: Any,
    **options: Any,
) -> None:
    """Turn MODEL, which edgeae did not train, into a bundle.

    MODEL is an ONNX autoencoder; or, with DECODER, an ONNX encoder; or package.module:factory, a function that returns
    a torch.nn.Module or a pair (encoder, decoder). Whatever the model's batch, layout of axes and number types, the
    bundle takes rows as its users have them. What was changed is said; nothing is written unless the bundle's graphs
    compute what the model computes.

    \b
    Example:
        edgeae adopt autoencoder.onnx -o bundle --calibrate normal.csv
        edgeae adopt encoder.onnx decoder.onnx -o bundle --calibrate images/ --scale 255
        edgeae adopt mypackage.models:autoencoder --weights model.safetensors -o bundle --calibrate normal.npy
    """
    import edgeae
    from edgeae.export.adopt import constants

    with status("adopting"):
        own = constants(shift, scale)
        bundle = edgeae.adopt(model, out, normalisation=normalisation if own is None else own, **options)
    if as_json:
        print_json(bundle.manifest)
        return
    manifest = bundle.manifest
    entry = manifest.precisions["fp32"]
    shown = table("", "", ">")
    shown.add_row("model", manifest.description)
    shown.add_row("rows", f"{list(manifest.input.shape)} {manifest.input.dtype}, {manifest.input.layout}")
    shown.add_row("latent", f"{manifest.latent_dim} values")
    shown.add_row("batch", "free" if manifest.batch is None else f"{manifest.batch}, the runtime loops")
    shown.add_row("threshold", number(entry.threshold.value, 4))
    shown.add_row("reconstruction error, that of the mean", " / ".join(_errors(entry.quality)))
    shown.add_row("largest difference from the model", number(max(entry.quality.parity.values()), 2))
    print_table(shown)
    _print_target(options["target"], bundle, out)
    _log.info("next: edgeae verify %s; edgeae score %s DATA -o scores.csv", *[shlex.quote(str(out))] * 2)


def _errors(quality: Quality) -> list[str]:
    return [number(value, 3) for value in (quality.reconstruction_mse, quality.mean_mse)]


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "out",
    default="edgeae-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write run, bundle and figures to.",
)
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print the figures of merit as JSON.")
def demo_command(out: Path, force: bool, as_json: bool) -> None:
    """Train on 5,000 real digits, export, verify, and score digits against corrupted and foreign images. Offline.

    \b
    Example:
        edgeae demo -o demo
    """
    from edgeae.demo import run_demo

    result = run_demo(out, force=force, progress=True)
    if as_json:
        print_json(result)
        return
    shown = table("Digits that the model has not seen, against images that are none", "", ">")
    shown.add_row("model", result.model)
    shown.add_row("reconstruction MSE (0..1)", f"{result.reconstruction_mse:.4f}")
    for name, area in result.auroc.items():
        shown.add_row(f"AUROC, {name}", f"{area:.3f}")
    shown.add_row("threshold (aimed at 1 % false alarms)", f"{result.threshold:.4f}")
    shown.add_row("false alarms on unseen digits", f"{100 * result.false_alarms:.1f} %")
    shown.add_row("latency at batch 1, median", f"{result.latency_us:.0f} µs")
    shown.add_row("throughput", f"{result.rows_per_second:,.0f} rows/s")
    print_table(shown)
    for path in result.files:
        click.echo(str(path))
