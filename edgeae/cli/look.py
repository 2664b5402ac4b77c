"""Commands that look: at a bundle, at how it does on data, at this machine."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeae.bundle import Bundle
from edgeae.bundle.strict import to_plain
from edgeae.cli.options import (
    bundle_argument,
    data_argument,
    data_options,
    force_option,
    model_options,
    trust_option,
)
from edgeae.cli.output import number, print_json, print_table, size, status, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgeae.bundle.manifest import Manifest, Threshold
    from edgeae.doctor import Finding

__all__ = ["doctor_command", "inspect_command", "report_command", "verify_command"]


@click.command("inspect")
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print the manifest and the bundle's digest as JSON.")
def inspect_command(bundle: Path, as_json: bool) -> None:
    """Print what is in BUNDLE: what it takes and gives, how it was made, how good it is, how to use it.

    Opens no graph. The digest stands for every byte of the bundle: sign it if you must know who made it.

    \b
    Example:
        edgeae inspect bundle
    """
    found = Bundle.read(bundle)
    if as_json:
        print_json({"digest": found.digest, "manifest": to_plain(found.manifest)})
        return
    manifest = found.manifest
    print_table(_card(manifest, found.digest))
    print_table(_precisions(manifest))
    click.echo("Use it:")
    click.echo(f'  model = edgeae.load("{bundle}")')
    click.echo(f"  scores = model.score(x)          # x: {manifest.input.dtype} [n, {_shape(manifest)}]")
    click.echo(f"  anomalies = model.predict(x)     # not (score <= {_threshold(manifest)})")


def _card(manifest: Manifest, digest: str) -> Table:
    row = manifest.input
    card = table(manifest.name, "", "")
    card.add_row("variant", manifest.variant)
    card.add_row("network", f"{manifest.description}; {manifest.parameters:,} weights")
    values = f", {math.prod(row.shape):,} values" if len(row.shape) > 1 else ""
    card.add_row("input x", f"{row.dtype} [{_shape(manifest)}], {row.layout}{values}")
    if row.minimum is not None and row.maximum is not None:
        card.add_row("  seen in training", f"{row.minimum:g} to {row.maximum:g}")
    if row.feature_names is not None:
        shown = ", ".join(" ".join(name.split()) for name in row.feature_names[:8])
        more = len(row.feature_names) - 8
        card.add_row("  features", shown + (f" and {more} more" if more > 0 else ""))
    ratio = math.prod(row.shape) / manifest.latent_dim
    smaller = f"{ratio:.1f} times fewer values" if ratio > 1 else "overcomplete"
    card.add_row("latent z", f"float32 [{manifest.latent_dim}], {smaller}")
    card.add_row("normalisation", f"{manifest.normalisation.kind}, inside the graphs")
    card.add_row("score", f"{manifest.score.kind}; higher is more anomalous")
    card.add_row("batch", "any" if manifest.batch is None else str(manifest.batch))
    card.add_row("generates rows", "yes: edgeae sample" if manifest.generative else "no")
    training = manifest.training
    if training is not None:
        card.add_row(
            "trained on",
            f"{training.data}, {training.rows:,} rows, {training.epochs} epochs, loss {training.loss or '-'}, "
            f"seed {training.seed}",
        )
    card.add_row("made", f"{manifest.created} by {', '.join(f'{k} {v}' for k, v in manifest.producer.items())}")
    card.add_row("ONNX", f"opset {manifest.opset}, IR {manifest.ir_version}; format version {manifest.format_version}")
    card.add_row("digest", f"sha256:{digest}")
    return card


def _precisions(manifest: Manifest) -> Table:
    rows = table(
        "",
        "precision",
        ">encoder",
        ">decoder",
        ">scorer",
        ">threshold",
        ">false alarms",
        ">MSE",
        ">of the mean's",
        ">AUROC",
    )
    for name, entry in manifest.precisions.items():
        quality, threshold = entry.quality, entry.threshold
        share = None
        if quality.reconstruction_mse is not None and quality.mean_mse:
            share = quality.reconstruction_mse / quality.mean_mse
        rows.add_row(
            name,
            size(entry.encoder.size),
            size(entry.decoder.size),
            size(entry.scorer.size),
            number(threshold.value, 4),
            _promise(threshold),
            number(quality.reconstruction_mse),
            "-" if share is None else f"{100 * share:.1f} %",
            number(quality.auroc),
        )
    return rows


def _promise(threshold: Threshold) -> str:
    if threshold.fpr is None:
        return threshold.method
    return f"{100 * threshold.fpr:.3g} % ({threshold.method}, {threshold.rows} rows)"


def _shape(manifest: Manifest) -> str:
    return ", ".join(map(str, manifest.input.shape))


def _threshold(manifest: Manifest) -> str:
    return f"{manifest.precisions['fp32'].threshold.value:.6g}"


@click.command("verify")
@bundle_argument
@click.option("--deep", is_flag=True, help="Also run fresh random rows: encoder then decoder against the scorer.")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
@click.option("--seconds", type=float, default=60.0, show_default=True, help="How long one check may take.")
@click.option("--memory", type=int, metavar="MIB", help="Memory for the checks.  [default: 4096 and 6 times BUNDLE]")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def verify_command(
    ctx: click.Context,
    bundle: Path,
    deep: bool,
    device: str,
    seconds: float,
    memory: int | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Check BUNDLE: manifest, sizes and digests, graphs, thresholds, and that the golden rows come out.

    All precisions are checked, in a child process with limits on memory and time: a bundle that crashes or hangs it has
    failed, and nothing else happens. Exits with 1 if any check fails.

    \b
    Example:
        edgeae verify bundle
        edgeae verify bundle --deep
    """
    from rich.text import Text

    from edgeae.runtime.verify import verify_bundle

    with status(f"checking {bundle}"):
        limit = None if memory is None else memory * 2**20
        checks = verify_bundle(bundle, device=device, deep=deep, seconds=seconds, memory=limit, trust=trust)
    if as_json:
        print_json(checks)
    else:
        shown = table(str(bundle), "check", "", "")
        for check in checks:
            shown.add_row(check.name, "ok" if check.passed else Text("FAILED", "bold red"), check.detail)
        print_table(shown)
    if not all(check.passed for check in checks):
        ctx.exit(1)


@click.command("report")
@bundle_argument
@data_argument
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="The .html file.")
@click.option("--run", type=click.Path(path_type=Path), help="Run directory of the bundle, for its training curves.")
@click.option(
    "--rows",
    default=100_000,
    show_default=True,
    metavar="N",
    help="Look at no more rows than this, drawn at random, the same ones every time.",
)
@click.option(
    "--on-invalid",
    type=click.Choice(["raise", "flag"]),
    default="raise",
    show_default=True,
    help="Rows with missing or infinite values: stop, or call them anomalies.",
)
@data_options
@model_options
@trust_option
@force_option
def report_command(
    bundle: Path,
    data: str,
    out: Path,
    run: Path | None,
    rows: int,
    on_invalid: str,
    label_column: str | None,
    columns: tuple[str, ...] | None,
    data_dir: str | None,
    device: str,
    precision: str,
    trust: bool,
    force: bool,
) -> None:
    """Write one HTML page that shows how BUNDLE does on DATA.

    Score histogram, best, median and worst rows over their reconstructions, what makes the worst scores, a map of the
    latents, and the model's card; with labels ROC and precision-recall; with --run the training curves. The page asks
    for nothing from outside. It holds a few rows of DATA: share it with those who may see them.

    \b
    Example:
        edgeae report bundle sensors.csv -o report.html --label-column broken
    """
    from edgeae.report import write_report

    with status("writing the report"):
        facts = write_report(
            bundle,
            data,
            out,
            run=run,
            rows=rows,
            label_column=label_column,
            columns=columns,
            data_dir=data_dir,
            device=device,
            precision=precision,
            on_invalid=on_invalid,
            trust=trust,
            force=force,
        )
    message = "%s: %d rows, %d above the threshold"
    logging.getLogger("edgeae").info(message, out, len(facts.scores), int(facts.anomalies.sum()))


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Examine this machine: Python, processor, ONNX Runtime and its providers, CUDA, folders, packages.

    Tells what does not work and the command that mends it. Exits with 1 if anything fails.

    \b
    Example:
        edgeae doctor
        edgeae doctor --json
    """
    from edgeae.doctor import examine

    with status("examining"):
        findings = examine()
    if as_json:
        print_json(findings)
    else:
        _print_findings(findings)
    if any(finding.status == "fail" for finding in findings):
        ctx.exit(1)


def _print_findings(findings: Sequence[Finding]) -> None:
    from rich.text import Text

    marks = {"ok": Text("ok"), "warn": Text("warn", "bold yellow"), "fail": Text("FAIL", "bold red")}
    for topic in dict.fromkeys(finding.topic for finding in findings):
        shown = table(topic, "", "", "")
        for finding in findings:
            if finding.topic == topic:
                remedy = (f"\n-> {finding.remedy}", "bold") if finding.remedy else ""
                shown.add_row(marks[finding.status], finding.name, Text.assemble(finding.detail, remedy))
        print_table(shown)
    failed, warned = (sum(finding.status == kind for finding in findings) for kind in ("fail", "warn"))
    click.echo(f"{failed} failed, {warned} with a warning" if failed or warned else "all is well")
