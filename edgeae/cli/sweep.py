"""The command that searches: sweep."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeae.cli.options import NAMES, SectionCommand, dataclass_options, force_option, section_option
from edgeae.cli.output import number, print_json, print_table, status, table
from edgeae.errors import InputError
from edgeae.training.config import TrainConfig

if TYPE_CHECKING:
    from edgeae.sweeping import Point, Sweep, Trial

__all__ = ["sweep_command"]

_log = logging.getLogger("edgeae")


@click.command("sweep", cls=SectionCommand)
@click.argument("data")
@click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=VALUES",
    help="What to try: latent_dim=8,16,32 or lr=1e-4..1e-2; any option of network, objective or loop, and width and "
    "depth, those of the hidden layers. Repeat it for more. [default: latent_dim, width, depth]",
)
@click.option("--latents", type=NAMES, help="Types of stored latents to measure. [default: int8,int6,int4,int3]")
@click.option("--weights", type=NAMES, help="Precisions to export: fp32,fp16,int8. [default: fp32]")
@click.option("--trials", default=20, show_default=True, metavar="N", help="Models to train, in all.")
@click.option("--minutes", type=float, metavar="X", help="Begin no new one after so long.")
@click.option(
    "--keep",
    type=click.Choice(["front", "all"]),
    default="front",
    show_default=True,
    help="Whose runs and bundles stay in OUTPUT/trials.",
)
@click.option("--seconds", default=0.5, show_default=True, metavar="X", help="How long to time each model.")
@section_option("What the model has to meet", "--max-mse", type=float, metavar="X", help="Error, normalised.")
@section_option("What the model has to meet", "--max-latency-us", type=float, metavar="X", help="Time to score a row.")
@section_option("What the model has to meet", "--max-bytes", type=int, metavar="N", help="Size of the scorer.")
@section_option("What the model has to meet", "--max-row-bytes", type=float, metavar="X", help="Of a compressed row.")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file with any of the training options below.")
@click.option("--resume", is_flag=True, help="Go on with a sweep that was interrupted, or pick with other limits.")
@force_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@dataclass_options(TrainConfig)
def sweep_command(
    data: str,
    out: Path,
    vary: tuple[str, ...],
    max_mse: float | None,
    max_latency_us: float | None,
    max_bytes: int | None,
    max_row_bytes: float | None,
    config: Path | None,
    as_json: bool,
    latents: tuple[str, ...] | None,
    weights: tuple[str, ...] | None,
    trials: int,
    minutes: float | None,
    keep: Any,
    seconds: float,
    resume: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train and measure many models on DATA, show what size, speed and error cost, and pick the smallest.

    Each model is trained, exported and timed, and held-out rows are compressed with it at several bit depths. The
    smallest that meets the limits is written to OUTPUT/best; exits with 1 if none does. front.png shows all. Settings
    that are no more than --trials are all tried; else Optuna chooses among them. Ctrl-C keeps what is done.

    \b
    Example:
        edgeae sweep mnist-5k -o sweep --max-mse 0.01
        edgeae sweep sensors.csv -o sweep --vary latent_dim=2..16 --vary width=16,64 --vary lr=1e-3..1e-2 --epochs 30
    """
    import edgeae

    wanted = _split(vary)
    search = edgeae.sweep  # a missing package is said before it is looked for below
    from edgeae.sweeping import Limits

    base = TrainConfig.from_toml(config) if config is not None else None
    given = {name: value for name, value in options.items() if value is not None}
    with status("sweeping") as tell:

        def progress(trial: Trial) -> None:
            tell(f"{trial.number} trials done, {trials} at most")

        found = search(
            data,
            out,
            vary=wanted or None,
            latents=latents,
            weights=weights,
            trials=trials,
            minutes=minutes,
            limits=Limits(max_mse, max_latency_us, max_bytes, max_row_bytes),
            keep=keep,
            seconds=seconds,
            config=base,
            resume=resume,
            force=force,
            progress=progress,
            **given,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)
    _say_picked(found, out)
    if found.nearest is not None:
        click.get_current_context().exit(1)


def _split(vary: Sequence[str]) -> dict[str, str]:
    """Return name to values of NAME=VALUES."""
    pairs: dict[str, str] = {}
    for text in vary:
        name, equals, values = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals:
            raise InputError(f"--vary {text}: expected NAME=VALUES, for instance latent_dim=8,16,32")
        if name in pairs:
            raise InputError(f"--vary {text}: {name} stands there twice; list all its values at once")
        pairs[name] = values
    return pairs


def _print(found: Sweep) -> None:
    """Print the front, a line for each model and under the types of its latents error and bytes a row."""
    models: dict[tuple[int, str], dict[str, Point]] = {}
    for point in found.front:
        models.setdefault((point.trial, point.weights), {})[point.dtype] = point
    title = f"The front; under each type of latents the MSE (normalised) and the bytes of a row of {found.row_bytes}"
    varied = [parameter.name for parameter in found.parameters]
    columns = (">trial", *(f">{name}" for name in varied), "weights", ">kB", ">µs")
    shown = table(title, *columns, *(f">{name}" for name in found.latents))
    for (number_of, weights), own in models.items():
        trial, one = found.trials[number_of - 1], next(iter(own.values()))
        shown.add_row(
            str(trial.number),
            *(trial.setting.get(name, "") for name in varied),
            *(weights, f"{one.model_bytes / 1e3:.1f}", f"{one.latency_us:.1f}"),
            *(_cell(own.get(name)) for name in found.latents),
        )
    print_table(shown)


def _cell(point: Point | None) -> str:
    return "" if point is None else f"{number(point.mse)}\n{point.row_bytes:.1f} B"


def _say_picked(found: Sweep, out: Path) -> None:
    folder = shlex.quote(str(out))
    if found.best is not None:
        click.echo(f"picked: {_described(found, found.best)}", err=True)
        precision = "" if found.best.weights == "fp32" else f" --precision {found.best.weights}"
        _log.info("next: edgeae compress %s/best DATA -o FILE.eae --dtype %s%s", folder, found.best.dtype, precision)
    elif found.nearest is not None:
        from edgeae.sweeping.front import beyond

        misses = ", ".join(
            f"--{name.replace('_', '-')} by a factor of {factor:.2f}"
            for name, factor in beyond(found.nearest, found.limits).items()
        )
        _log.warning("no model meets the limits; the nearest misses %s: %s", misses, _described(found, found.nearest))
    else:
        _log.info("to have one picked, say what it has to meet: edgeae sweep DATA -o %s --resume --max-mse X", folder)


def _described(found: Sweep, point: Point) -> str:
    trial = found.trials[point.trial - 1]
    return (
        f"trial {point.trial}, {trial.model}, {point.weights}, {point.dtype} latents: MSE {number(point.mse)}, "
        f"{point.row_bytes:.1f} bytes a row, {point.model_bytes / 1e3:.1f} kB, {point.latency_us:.1f} µs"
    )
