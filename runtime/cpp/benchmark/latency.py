"""Batch 1, C++ beside Python, in turns of 10 ms:  python latency.py BUILD/benchmark/edgeae-latency BUNDLE [SECONDS]"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import edgeae

SLICE = 0.01


def main() -> None:
    """Print one line for each runtime and the ratio of their medians."""
    program, path, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 2.0
    model = edgeae.load(path, device="cpu")
    row, score = np.zeros(model.input_shape, model.manifest.input.dtype), model.bind().score
    durations: dict[str, list[float]] = {"C++": [], "Python": []}
    pipe = subprocess.PIPE
    with subprocess.Popen([str(Path(program).resolve()), path, "-"], stdin=pipe, stdout=pipe, text=True) as child:
        if child.stdin is None or child.stdout is None:
            raise SystemExit(f"{program}: no pipes")
        score(row)
        for turn in range(max(1, round(seconds / SLICE))):
            child.stdin.write("\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            if not answer:
                raise SystemExit(f"{program}: stopped early")
            found: list[float] = []
            end = time.perf_counter() + SLICE
            while (before := time.perf_counter()) < end:
                score(row)
                found.append(1e6 * (time.perf_counter() - before))
            if turn:  # the first one warms up
                durations["C++"] += map(float, answer.split())
                durations["Python"] += found
    for name, values in durations.items():
        p10, p50, p90, p99 = np.percentile(values, [10, 50, 90, 99])
        sys.stdout.write(
            f"{name:6} batch 1: p10 {p10:.2f}  p50 {p50:.2f}  p90 {p90:.2f}  p99 {p99:.2f} us  ({len(values)} calls)\n"
        )
    ratios = {f"p{at}": np.percentile(durations["C++"], at) / np.percentile(durations["Python"], at) for at in (10, 50)}
    sys.stdout.write("C++ / Python: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()) + "\n")


if __name__ == "__main__":
    main()
