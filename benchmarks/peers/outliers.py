"""PyOD's AutoEncoder: `decision_function` of a network of the same layers, fitted for one epoch.

It has weights of its own (and no sigmoid, top-k or convolution), so its scores are another model's.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.peers import Setup, Way

__all__ = ["ways"]


def ways(case: Case, setup: Setup) -> Iterator[Way]:
    """`decision_function`."""
    if case.model.config.architecture != "dense":
        raise NotImplementedError("PyOD's AutoEncoder has dense layers only")
    torch.set_num_threads(setup.threads)
    yield Way("PyOD AutoEncoder", _fitted(case).decision_function, same=False)


@cache
def _fitted(case: Case) -> Any:
    from pyod.models.auto_encoder import AutoEncoder

    config = case.model.config
    detector = AutoEncoder(
        preprocessing=False,
        hidden_neuron_list=[*config.hidden, config.latent_dim],
        batch_norm=False,
        dropout_rate=0.0,
        epoch_num=1,
        batch_size=256,
        device="cpu",
        verbose=0,
    )
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return detector.fit(case.training)
