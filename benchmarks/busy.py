"""What a thread that computes in Python costs the scores of many rows beside it, which need Python's lock now and then.

"default session" runs the same graph with ONNX Runtime alone, 256 rows at a time, as a loop over batches does.

Example:
    python -m benchmarks.busy BUNDLE...
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime

import edgeae
from edgeae.cli.output import print_table, table

BATCH = 256

Array = np.ndarray[Any, Any]


@click.command()
@click.argument("bundles", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--rows", default=60_000, show_default=True, help="How many rows a call scores.")
@click.option("--repeats", default=5, show_default=True, help="How often each is timed, in turns.")
def main(bundles: tuple[str, ...], rows: int, repeats: int) -> None:
    """Print the median of a call's milliseconds, with nothing beside it and with a thread that counts."""
    shown = table("", "bundle", "", ">alone ms", ">beside a thread ms")
    for path in map(Path, bundles):
        with edgeae.load(path, device="cpu") as model:
            x = np.resize(model.bundle.golden().x, (rows, *model.input_shape))
            bare = onnxruntime.InferenceSession(path / "scorer.onnx", providers=["CPUExecutionProvider"])
            ways: dict[str, Callable[[], object]] = {
                "edgeae": partial(model.score, x),
                "default session": partial(_batches, bare, x),
            }
            alone = _times(ways, repeats)
            with _counting():
                beside = _times(ways, repeats)
            for name in ways:
                shown.add_row(path.name, name, *(f"{1e3 * np.median(each[name]):.1f}" for each in (alone, beside)))
    print_table(shown)


def _times(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, function in ways.items():
            begun = time.perf_counter()
            function()
            found[name].append(time.perf_counter() - begun)
    return found


def _batches(session: Any, x: Array) -> Array:
    return np.concatenate([session.run(None, {"x": x[at : at + BATCH]})[0] for at in range(0, len(x), BATCH)])


@contextmanager
def _counting() -> Iterator[None]:
    over = threading.Event()

    def count() -> None:
        while not over.is_set():
            pass

    thread = threading.Thread(target=count, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
