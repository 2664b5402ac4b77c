"""The `edgeae` group: what commands there are, in which section of the help, and how errors end."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from importlib import import_module
from typing import Any

import click

import edgeae
from edgeae.errors import EdgeaeError

__all__ = ["SECTIONS", "main"]

# section -> command -> (module that holds it, one line of help); modules are imported when their command is asked for
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Make": {
        "train": ("make", "Train an autoencoder on DATA and write a run directory."),
        "export": ("make", "Export a run as a bundle of ONNX graphs, checked against PyTorch."),
        "adopt": ("make", "Turn an ONNX or PyTorch model that edgeae did not train into a bundle."),
        "threshold": ("evaluate", "Choose a bundle's thresholds again from fresh rows; needs no PyTorch."),
        "demo": ("make", "Train, export, verify and score real digits, offline, in a minute."),
    },
    "Inspect": {
        "inspect": ("look", "Print what is in a bundle, like a model card."),
        "verify": ("look", "Check a bundle's files, graphs and golden rows."),
        "report": ("look", "Write one HTML page: scores, reconstructions, ROC, latent map, training."),
        "doctor": ("look", "Examine this machine: ONNX Runtime, providers, CUDA, folders, packages."),
    },
    "Run": {
        "encode": ("run", "Compress rows to latents."),
        "decode": ("run", "Turn latents back into rows."),
        "reconstruct": ("run", "Encode and decode rows; draw originals over reconstructions."),
        "score": ("run", "Score rows; higher is more anomalous."),
        "sample": ("run", "Generate rows from a variational model's prior."),
        "compress": ("compress", "Compress rows into a latent file, on request with a bound on the error."),
        "decompress": ("compress", "Turn a latent file back into rows."),
    },
    "Measure": {
        "evaluate": ("evaluate", "Measure how well labelled anomalies stand out: AUROC, precision, recall."),
        "bench": ("measure", "Measure latency, throughput, cold start and memory on this machine."),
        "sweep": ("sweep", "Train and measure many models, and pick the smallest that is good enough."),
        "tune": ("measure", "Measure how a bundle runs best on this machine, and keep it."),
    },
}


class _Group(click.Group):
    """A group that lists its commands in sections and imports each when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in SECTIONS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for commands in SECTIONS.values():
            if cmd_name in commands:
                module = import_module(f"edgeae.cli.{commands[cmd_name][0]}")
                command = getattr(module, f"{cmd_name}_command")
                return command if isinstance(command, click.Command) else None
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, help_line) for name, (_, help_line) in commands.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeaeError as problem:
            if ctx.params.get("debug"):
                raise
            click.echo(f"edgeae: {problem}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                raise
            click.echo("edgeae: interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            _write_no_more()  # the reader of our output went away
            ctx.exit(1)
        except OSError as problem:
            if ctx.params.get("debug"):
                raise
            where, what = problem.filename or "standard output", problem.strerror or problem
            click.echo(f"edgeae: {where}: {what}; check the disk and the folder", err=True)
            _write_no_more()
            ctx.exit(1)
        except MemoryError:
            if ctx.params.get("debug"):
                raise
            click.echo("edgeae: out of memory; use fewer rows at a time or a memory-mapped .npy file", err=True)
            ctx.exit(1)


def _write_no_more() -> None:
    """Keep the interpreter from complaining when it flushes standard output at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Handler(logging.Handler):
    """Writes the library's notes to standard error, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        click.echo(f"edgeae: {prefix}{record.getMessage()}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(edgeae.__version__, "-V", "--version", prog_name="edgeae")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
@click.pass_context
def main(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """Train an autoencoder, export it as ONNX, run it anywhere ONNX Runtime runs.

    DATA is a file (.npy, .npz, .csv, .parquet, IDX, an image), a folder of images, "-" for CSV on standard input, or
    a name: mnist, fashion-mnist, mnist-5k, digits (mnist:test for the test rows).

    \b
    Example:
        edgeae train mnist-5k -o run && edgeae export run -o bundle && edgeae score bundle mnist-5k -o scores.csv
    """
    logger = logging.getLogger("edgeae")
    handler, before = _Handler(), (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)

    def restore() -> None:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before

    ctx.call_on_close(restore)
