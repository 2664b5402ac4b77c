"""What a training run reports while it runs: a record per epoch, and a progress bar on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Epoch", "Reporter", "reporter"]


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv.

    Attributes:
        epoch: From 1.
        train_loss: Mean of the objective over the epoch, while the weights moved.
        train_reconstruction: The reconstruction loss in it.
        validation_loss: The objective on the rows held out, with the weights the epoch ended with and the full beta.
        validation_reconstruction: The reconstruction loss in it.
        learning_rate: At the end of the epoch.
        seconds: For the training steps and the validation.
    """

    epoch: int
    train_loss: float
    train_reconstruction: float
    validation_loss: float
    validation_reconstruction: float
    learning_rate: float
    seconds: float


class Reporter(Protocol):
    """Hears of every step and every epoch."""

    def step(self) -> None:
        """One optimiser step is done."""

    def epoch(self, record: Epoch) -> None:
        """One epoch is done."""

    def close(self) -> None:
        """Training has ended."""


class Callback:
    """Passes the epochs on to a function, or to nobody."""

    def __init__(self, function: Callable[[Epoch], object] | None) -> None:
        self._function = function

    def step(self) -> None:
        pass

    def epoch(self, record: Epoch) -> None:
        if self._function is not None:
            self._function(record)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar on standard error."""

    def __init__(self, epochs: int, steps_per_epoch: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._steps_per_epoch = steps_per_epoch
        self._steps = done * steps_per_epoch
        self._drawn = time.monotonic()
        self._progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("training", total=epochs, completed=done, losses="")
        self._progress.start()

    def step(self) -> None:
        self._steps += 1
        now = time.monotonic()
        if now - self._drawn > 0.1:  # drawing every step would cost more than a small step itself
            self._drawn = now
            self._progress.update(self._task, completed=self._steps / self._steps_per_epoch)

    def epoch(self, record: Epoch) -> None:
        losses = f"loss {record.train_loss:.5f}, validation {record.validation_loss:.5f}"
        self._progress.update(self._task, completed=record.epoch, losses=losses)

    def close(self) -> None:
        self._progress.stop()


def reporter(
    progress: bool | Callable[[Epoch], object], *, epochs: int, steps_per_epoch: int, done: int = 0
) -> Reporter:
    """Return what `progress` asks for; a bar appears only where standard error is a terminal."""
    if callable(progress):
        return Callback(progress)
    if progress and sys.stderr.isatty():
        return Bar(epochs, steps_per_epoch, done)
    return Callback(None)
