"""PyTorch, eager, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks.cases import Case
from benchmarks.peers import Array, Setup, Way


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """The module and the error; bare: the module."""
    model = case.on(setup.device)
    score = on_arrays(row_errors(model), setup)
    x = torch.from_numpy(case.batch(setup.batch)).to(setup.device)

    def bare() -> Tensor:
        with torch.inference_mode():
            return cast(Tensor, model(x))

    on_cpu = setup.device == "cpu"
    yield Way("PyTorch, eager", score, *((bare, lambda: score(case.batch(setup.batch))) if on_cpu else ()))


def row_errors(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the function from rows to their mean square errors."""

    def errors(x: Tensor) -> Tensor:
        difference: Tensor = model(x) - x
        return difference.square().flatten(1).mean(1)

    return errors


def on_arrays(function: Callable[[Tensor], Tensor], setup: Setup) -> Callable[[Array], Array]:
    """Return it for NumPy arrays, in inference mode."""
    torch.set_num_threads(setup.threads)
    torch.backends.cudnn.allow_tf32 = False  # on, which is the default, convolutions on a GPU are other numbers

    def score(rows: Array) -> Array:
        with torch.inference_mode():
            result: Array = function(torch.from_numpy(rows).to(setup.device)).cpu().numpy()
        return result

    return score
