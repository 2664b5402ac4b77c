"""Commands that look at a bundle: inspect, verify."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeae.bundle import Bundle
from edgeae.bundle.strict import to_plain
from edgeae.cli.options import bundle_argument
from edgeae.cli.output import number, print_json, print_table, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from edgeae.bundle.manifest import Manifest

__all__ = ["inspect_command", "verify_command"]


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
        shown = ", ".join(row.feature_names[:8])
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
        ">aimed false alarms",
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
            "fixed" if threshold.fpr is None else f"{100 * threshold.fpr:.3g} % ({threshold.rows} rows)",
            number(quality.reconstruction_mse),
            "-" if share is None else f"{100 * share:.1f} %",
            number(quality.auroc),
        )
    return rows


def _shape(manifest: Manifest) -> str:
    return ", ".join(map(str, manifest.input.shape))


def _threshold(manifest: Manifest) -> str:
    return f"{manifest.precisions['fp32'].threshold.value:.6g}"


@click.command("verify")
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
@click.pass_context
def verify_command(ctx: click.Context, bundle: Path, as_json: bool) -> None:
    """Check BUNDLE: manifest, sizes and digests, graphs, thresholds, and that the golden rows come out.

    Exits with 1 if any check fails.

    \b
    Example:
        edgeae verify bundle
    """
    from edgeae.runtime.verify import verify_bundle

    checks = verify_bundle(bundle)
    if as_json:
        print_json(checks)
    else:
        shown = table(str(bundle), "check", "", "")
        for check in checks:
            shown.add_row(check.name, "ok" if check.passed else "[bold red]FAILED[/]", check.detail)
        print_table(shown)
    if not all(check.passed for check in checks):
        ctx.exit(1)
