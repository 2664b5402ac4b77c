"""Cost per row and memory from a thousand rows to millions: one memory-mapped array, of which ever more is scored.

The array is a file of bytes that lies on the disk; scores are written to another one as they come. Scoring runs in a
process of its own, `python -m benchmarks.flatness BUNDLE FOLDER ROWS,ROWS,...`, whose memory is edgeae's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import edgeae
from benchmarks.cases import Case
from benchmarks.results import Flatness
from edgeae.timing import measure

__all__ = ["measure_flatness"]

ROUNDS = 3
BLOCK = 2**15


def measure_flatness(case: Case, folder: Path, sizes: Sequence[int]) -> list[Flatness]:
    """Score arrays of so many rows in turns. The file takes as many bytes as the largest has values, until the end.

    Raises:
        subprocess.CalledProcessError: if the process failed.
    """
    path = folder / "rows.npy"
    _write_rows(path, case, max(sizes))
    command = [sys.executable, "-m", "benchmarks.flatness", str(case.bundle), str(folder), ",".join(map(str, sizes))]
    package = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    try:
        result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    finally:
        path.unlink()
    return [Flatness(case.name, *line) for line in json.loads(result.stdout)]


def _write_rows(path: Path, case: Case, count: int) -> None:
    """Write the rows of a case as noughts and ones (above 1/2 or not), again and again in another order."""
    values, generator = (case.batch(BLOCK) > 0.5).astype(np.uint8), np.random.default_rng(0)
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *values.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, BLOCK):
            file.write(generator.permutation(values)[: count - start].tobytes())


def main(bundle: str, folder: str, sizes: Sequence[int]) -> list[tuple[int, float, float, int | None]]:
    """Return (rows, median us per row, 10th percentile, own memory) for each size."""
    model = edgeae.load(bundle, device="cpu")
    x = np.load(Path(folder) / "rows.npy", mmap_mode="r")
    scores = np.lib.format.open_memmap(Path(folder) / "scores.npy", "w+", np.float32, (max(sizes),))
    lines, memory = [], {}
    for size in sorted(sizes):
        model.score(x[:size], out=scores[:size])
        memory[size] = _own_memory()
    calls = {str(size): partial(model.score, x[:size], out=scores[:size]) for size in sizes}
    for name, timing in measure(calls, seconds=ROUNDS * 0.2, slice_seconds=0.2, warm_up_seconds=0).items():
        size = int(name)
        lines.append((size, 1e6 * timing.p50 / size, 1e6 * timing.p10 / size, memory[size]))
    return lines


def _own_memory() -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], [int(each) for each in sys.argv[3].split(",")])))
