"""What commands print: JSON for programs on standard output, tables and progress for people."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from edgeae.bundle.strict import to_plain

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["number", "print_json", "print_table", "size", "status", "table"]


def print_json(value: object) -> None:
    """Print a dataclass or plain value as JSON on standard output."""
    click.echo(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def table(title: str = "", *columns: str) -> Table:
    """Return an empty table; columns whose name starts with ">" are right-aligned."""
    from rich import box
    from rich.table import Table

    named = any(column.lstrip(">") for column in columns)
    made = Table(
        title=title or None,
        box=box.SIMPLE_HEAD if named else None,
        show_header=named,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def print_table(made: Table) -> None:
    """Print a table on standard output, as wide as the terminal, or 110 columns into a file; cells are plain text."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 110, highlight=False, markup=False).print(made)


@contextlib.contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
    """Show a spinner with `message` on standard error while the block runs, on a terminal only.

    Yields a function that changes what is said after the message.
    """
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console

    with Console(stderr=True).status(message) as spinner:
        yield lambda step: spinner.update(f"{message}: {step}")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    value: float = count
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people, "-" where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"
