"""`edgeae score --stream`: its options and what it does with them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from edgeae.cli.options import BATCHES, SectionOption

if TYPE_CHECKING:
    from edgeae.runtime import Autoencoder

__all__ = ["score_stream", "stream_options"]

F = TypeVar("F", bound=Callable[..., Any])
_SECTION = "With --stream"


def stream_options(function: F) -> F:
    """Add the options of `--stream`."""
    for option in reversed(
        [
            click.option("--stream", is_flag=True, help="DATA is a series: answer each line as it comes."),
            _option("--alarm", type=BATCHES, metavar="M,N", help="Alarm: M of the last N are anomalies."),
            _option("--clear", type=int, metavar="N", help="The alarm ends when at most N of them are."),
            _option("--cooldown", type=int, metavar="N", help="No other alarm for N steps after one."),
            _option(
                "--adaptive", type=float, metavar="X", help="Move the threshold so that X of normal scores exceed it."
            ),
            _option("--drift", type=int, metavar="N", help="Compare every N steps with the normal rows at export."),
            _option("--time", metavar="NAME", help="Column with timestamps, to see gaps by, where it is not plain."),
            _option("--state", type=click.Path(path_type=Path), help="Go on from this file, and write it at the end."),
        ]
    ):
        function = option(function)
    return function


def _option(name: str, **settings: Any) -> Callable[[F], F]:
    return click.option(name, cls=SectionOption, section=_SECTION, **settings)


def score_stream(
    model: Autoencoder,
    data: str,
    *,
    alarm: tuple[int, ...] | None,
    clear: int | None,
    cooldown: int | None,
    adaptive: float | None,
    drift: int | None,
    time: str | None,
    state: Path | None,
) -> None:
    """Answer the lines of a file, or of standard input, one by one."""
    from edgeae.data.lines import HEADER, score_samples
    from edgeae.runtime import Stream, StreamOptions

    needed, among = alarm if alarm is not None and len(alarm) == 2 else (1, 1)
    if alarm is not None and len(alarm) != 2:
        raise click.BadParameter("expected two numbers, such as 3,5", param_hint="--alarm")
    options = StreamOptions(needed, among, clear or 0, cooldown or 0, adaptive, drift or 0)
    stream = Stream(model, options)
    if state is not None and state.exists():
        stream.load(state)
    stream.prepare()
    anomalies = 0
    try:
        click.echo(HEADER, nl=False)
        for answer in score_samples(stream, _lines(data), time=time):
            anomalies += answer.endswith((",1,0\n", ",1,1\n"))
            click.echo(answer, nl=False)  # and flush
    finally:
        if state is not None:
            stream.save(state)
    message = "%d anomalies and %d alarms up to step %d (threshold %.6g)"
    logging.getLogger("edgeae").info(message, anomalies, stream.alarms, stream.row - 1, stream.threshold)


def _lines(data: str) -> Iterator[bytes]:
    from edgeae.data.lines import MAX_LINE
    from edgeae.errors import InputError

    def read(file: BinaryIO) -> Iterator[bytes]:
        return iter(lambda: file.readline(MAX_LINE), b"")

    if data == "-":
        yield from read(sys.stdin.buffer)
        return
    try:
        with open(data, "rb") as file:
            yield from read(file)
    except OSError as problem:
        raise InputError(f"{data}: cannot be read: {problem.strerror or problem}") from None
