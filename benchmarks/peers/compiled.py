"""`torch.compile`: network and error compiled together by Inductor (C++ on the CPU)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.peers import Setup, Way
from benchmarks.peers.pytorch import on_arrays, row_errors


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """For one row compiled for exactly that; for more with a symbolic batch, compiled once."""
    score = on_arrays(_compiled(case, setup.batch == 1, setup.device, setup.threads), setup)
    score(case.batch(setup.batch))  # compiles now rather than under the clock
    yield Way("PyTorch, torch.compile", score)


@cache
def _compiled(case: Case, single: bool, device: str, threads: int) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()  # the guards of the cases before would be asked at every call
    torch.set_num_threads(threads)
    return torch.compile(row_errors(case.on(device)), dynamic=not single)
