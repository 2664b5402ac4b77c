"""Cost per row and memory from a thousand rows to millions: one memory-mapped array, of which ever more is scored.

Runs in a process of its own, `python -m benchmarks.flatness BUNDLE FOLDER ROWS,ROWS,...`, whose memory is edgeae's.
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


def measure_flatness(case: Case, folder: Path, sizes: Sequence[int]) -> list[Flatness]:
    """Score arrays of so many rows in turns; the file is sparse, so that it takes no space on the disk.

    Raises:
        subprocess.CalledProcessError: if the process failed.
    """
    command = [sys.executable, "-m", "benchmarks.flatness", str(case.bundle), str(folder), ",".join(map(str, sizes))]
    package = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [Flatness(case.name, *line) for line in json.loads(result.stdout)]


def main(bundle: str, folder: str, sizes: Sequence[int]) -> list[tuple[int, float, float, int | None]]:
    """Return (rows, median us per row, 10th percentile, own memory) for each size."""
    model = edgeae.load(bundle, device="cpu")
    path, largest = Path(folder) / "zeros.npy", max(sizes)
    with open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (largest, *model.input_shape)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * largest * int(np.prod(model.input_shape)))
    x = np.load(path, mmap_mode="r")
    scores = np.lib.format.open_memmap(Path(folder) / "scores.npy", "w+", np.float32, (largest,))
    lines, memory = [], {}
    for size in sorted(sizes):
        model.score(x[:size], out=scores[:size])
        memory[size] = _own_memory()
    calls = {str(size): partial(model.score, x[:size], out=scores[:size]) for size in sizes}
    for name, timing in measure(calls, seconds=ROUNDS * 0.2, slice_seconds=0.2, warm_up_seconds=0).items():
        size = int(name)
        lines.append((size, 1e6 * timing.p50 / size, 1e6 * timing.p10 / size, memory[size]))
    path.unlink()
    return lines


def _own_memory() -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], [int(each) for each in sys.argv[3].split(",")])))
