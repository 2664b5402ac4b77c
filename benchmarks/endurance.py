"""Does a process that runs for months stay as it is? A million scores, a thousand loads, then 16 threads for a minute.

Every result is compared, bit by bit, with what one thread got first; a table shows memory, threads and open files as
time goes on. Ends with status 1 if a single number was wrong. Linux only: the figures are read from /proc.

Example:
    nice python -m benchmarks.endurance
    python -m benchmarks.endurance BUNDLE --scores 10000 --loads 10 --seconds 5
"""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

import edgeae
from edgeae.cli.output import print_table, table
from edgeae.runtime import Autoencoder

BUNDLE = Path(__file__).parents[1] / "export" / "golden" / "dense"
OPERATIONS = ("score", "encode", "reconstruct", "predict")
SIZES = (1, 2, 7, 33, 64, 200)
SAMPLES = 8  # lines of the table for each part


@dataclass
class Expected:
    """What each call must give, found out by one thread."""

    rows: np.ndarray[Any, Any]
    results: dict[tuple[str, int], bytes]
    singles: list[float]
    wrong: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(model: Autoencoder) -> Expected:
        """Run each operation on each number of rows."""
        golden = model.bundle.golden(model.precision).x
        rows = np.resize(golden, (max(SIZES), *model.input_shape))
        results = {(name, size): getattr(model, name)(rows[:size]).tobytes() for name in OPERATIONS for size in SIZES}
        one = model.bind()
        return Expected(rows, results, [float(one.score(row)) for row in rows])

    def check(self, model: Autoencoder, name: str, size: int) -> None:
        """Call the model and count a wrong answer."""
        if getattr(model, name)(self.rows[:size]).tobytes() != self.results[name, size]:
            self.count()

    def count(self) -> None:
        """Count a wrong answer."""
        with self.lock:
            self.wrong += 1


def scores(model: Autoencoder, expected: Expected, total: int) -> Iterator[int]:
    """Make `total` calls, half of them bound, and yield how many were made after every thousand."""
    one, rng = model.bind(), np.random.default_rng(0)
    kinds = list(itertools.product(OPERATIONS, SIZES))
    for done in range(0, total, 1000):
        for index in rng.integers(len(expected.rows), size=500):
            if one.score(expected.rows[index]) != expected.singles[index]:
                expected.count()
        for index in rng.integers(len(kinds), size=500):
            expected.check(model, *kinds[index])
        yield done + 1000


def loads(path: str, expected: Expected, total: int) -> Iterator[int]:
    """Load, use and close the bundle `total` times, one time in two without closing it."""
    for done in range(total):
        model = edgeae.load(path, device="cpu")
        for name in OPERATIONS:
            expected.check(model, name, 7)
        if model.bind().score(expected.rows[0]) != expected.singles[0]:
            expected.count()
        if done % 2:
            model.close()
        yield done + 1


def calls(model: Autoencoder, expected: Expected, count: int, seconds: float) -> Iterator[int]:
    """Let `count` threads call one model for so many seconds, and yield every now and then how many calls they made."""
    stop, made = threading.Event(), [0] * count
    kinds = list(itertools.product(OPERATIONS, SIZES))

    def work(number: int) -> None:
        one, rng = model.bind(), np.random.default_rng(number)
        while not stop.is_set():
            expected.check(model, *kinds[rng.integers(len(kinds))])
            index = int(rng.integers(len(expected.rows)))
            if one.score(expected.rows[index]) != expected.singles[index]:
                expected.count()
            made[number] += 2

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException:
            expected.count()
            raise

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(SAMPLES):
            time.sleep(seconds / SAMPLES)
            yield sum(made)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def state() -> tuple[float, int, int]:
    """Return resident memory in MiB, the number of threads and the number of open files of this process."""
    with open("/proc/self/status") as lines:
        found = dict(line.split(":", 1) for line in lines)
    memory, threads = (int(found[name].split()[0]) for name in ("VmRSS", "Threads"))
    return memory / 1024, threads, sum(1 for _ in Path("/proc/self/fd").iterdir())


@click.command()
@click.argument("bundle", type=click.Path(exists=True), default=str(BUNDLE))
@click.option("--scores", "score_count", default=1_000_000, show_default=True, help="Calls in the first part.")
@click.option("--loads", "load_count", default=1000, show_default=True, help="Loads in the second part.")
@click.option("--threads", default=16, show_default=True, help="Threads in the third part.")
@click.option("--seconds", default=60.0, show_default=True, help="How long the third part takes.")
def main(bundle: str, score_count: int, load_count: int, threads: int, seconds: float) -> None:
    """Run BUNDLE for a long time and print memory, threads, open files and wrong numbers."""
    model = edgeae.load(bundle, device="cpu", options={"chunk": 64, "workers": 2})
    expected = Expected.of(model)
    parts: dict[str, tuple[int, Callable[[], Iterator[int]]]] = {
        "scores": (score_count, lambda: scores(model, expected, score_count)),
        "loads": (load_count, lambda: loads(bundle, expected, load_count)),
        f"calls of {threads} threads": (SAMPLES, lambda: calls(model, expected, threads, seconds)),
    }
    shown = table("", "part", ">done", ">seconds", ">memory MiB", ">threads", ">files", ">wrong")
    for name, (total, part) in parts.items():
        gc.collect()
        started = time.perf_counter()
        timed = total == SAMPLES and name.startswith("calls")
        due = 0.0

        def note(done: int, *, name: str = name, started: float = started) -> None:
            memory, running, files = state()
            took = time.perf_counter() - started
            row = (f"{done:,}", f"{took:.1f}", f"{memory:.1f}", str(running), str(files), str(expected.wrong))
            shown.add_row(name, *row)

        note(0)
        for done in part():
            if timed or done >= due + total / SAMPLES or done >= total:
                due += total / SAMPLES
                note(done)
    gc.collect()
    memory, running, files = state()
    shown.add_row("at the end", "", "", f"{memory:.1f}", str(running), str(files), str(expected.wrong))
    print_table(shown)
    raise SystemExit(1 if expected.wrong else 0)


if __name__ == "__main__":
    main()
