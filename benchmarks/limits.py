"""What this machine can do at most: matrix multiplication and memory bandwidth, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.results import Limits
from edgeae.timing import Timing, measure

__all__ = ["measure_limits"]

SIDE = 1024
BLOCK_BYTES = 2**28


def measure_limits(cores: int, seconds: float, *, side: int = SIDE, block_bytes: int = BLOCK_BYTES) -> Limits:
    """Time SGEMM, copy and triad on one core and on `cores`.

    Args:
        cores: How many this process may use.
        seconds: For each.
        side: Of the matrices.
        block_bytes: Of each array that is copied; several times the caches.
    """
    one, all_of_them = (_run(threads, seconds, side, block_bytes) for threads in (1, cores))
    return Limits(
        one["gflops"], all_of_them["gflops"], one["copy"], all_of_them["copy"], one["triad"], all_of_them["triad"]
    )


def _run(threads: int, seconds: float, side: int, block_bytes: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    a, b = (rng.random((side, side), np.float32) for _ in range(2))
    product = np.empty_like(a)
    x, y, result = (torch.from_numpy(array) for array in (a, b, product))
    blocks = [torch.ones(block_bytes // 4) for _ in range(3)]
    candidates: dict[str, Callable[[], Any]] = {
        "torch": partial(torch.mm, x, y, out=result),
        "numpy": partial(np.matmul, a, b, out=product),
        "copy": partial(blocks[0].copy_, blocks[1]),
        "triad": partial(torch.add, blocks[1], blocks[2], alpha=3.0, out=blocks[0]),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            timings = measure(candidates, seconds=seconds, slice_seconds=seconds / 10, settle_seconds=0.01)
    finally:
        torch.set_num_threads(before)
    fastest: dict[str, float] = {name: _best(timing) for name, timing in timings.items()}
    return {
        "gflops": 2e-9 * side**3 / min(fastest["torch"], fastest["numpy"]),
        "copy": 2e-9 * block_bytes / fastest["copy"],
        "triad": 3e-9 * block_bytes / fastest["triad"],
    }


def _best(timing: Timing) -> float:
    return timing.p10
