"""The training loop: flat, on Lightning Fabric, fed whole batches by index from memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric

from edgeae.models.objective import Objective
from edgeae.training.config import TrainConfig, chosen
from edgeae.training.progress import Epoch
from edgeae.training.rows import Rows, batches

# its greetings are not ours to print; at import, so that it holds in spawned processes before they run anything else
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

__all__ = ["Loop", "epochs", "learning_rate", "mixed_seed", "setup_loop"]


@dataclass(frozen=True)
class Loop:
    """What an epoch works with.

    Attributes:
        fabric: The device and its arithmetic.
        objective: The model and its loss.
        module: `objective` as `fabric.setup` wrapped it: synchronised over devices, in mixed precision.
        optimizer: As `fabric.setup` wrapped it.
        training: Rows to train on.
        held_out: Rows for the validation loss.
        options: With the defaults filled in.
    """

    fabric: Fabric
    objective: Objective
    module: Any
    optimizer: Any
    training: Rows
    held_out: Rows
    options: TrainConfig


def setup_loop(fabric: Fabric, objective: Objective, training: Rows, held_out: Rows, options: TrainConfig) -> Loop:
    """Make the optimiser and put the model on the device."""
    module, optimizer = fabric.setup(objective, _optimizer(objective, options))
    return Loop(fabric, objective, module, optimizer, training, held_out, options)


def epochs(loop: Loop, first: int = 0, on_step: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
    """Train one epoch per item, from epoch `first` (counted from 0) to the last; this is the loop.

    Losses are added up on the device and fetched once per epoch. Nothing here judges them: they may not be finite.
    """
    fabric, optimizer, options = loop.fabric, loop.optimizer, loop.options
    total = chosen(options.epochs)
    for epoch in range(first, total):
        started = time.perf_counter()
        # all randomness of an epoch follows from here, which is why a resumed run equals an uninterrupted one
        shuffle = torch.Generator().manual_seed(mixed_seed(options.seed, epoch))
        order = torch.randperm(len(loop.training), generator=shuffle)
        torch.manual_seed(mixed_seed(options.seed, epoch, fabric.global_rank))
        parts = batches(order, chosen(options.batch_size), rank=fabric.global_rank, world=fabric.world_size)
        totals = torch.zeros(2, device=fabric.device)  # (loss, reconstruction loss), summed over rows
        rate = 0.0
        loop.module.train()
        for step, part in enumerate(parts):
            done = (epoch + step / len(parts)) / total
            rate = learning_rate(chosen(options.lr), chosen(options.schedule), done)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, reconstruction = loop.module(loop.training.take(part), done)
            optimizer.zero_grad()
            fabric.backward(loss)
            if options.clip_norm:
                fabric.clip_gradients(loop.module, optimizer, max_norm=options.clip_norm, error_if_nonfinite=False)
            optimizer.step()
            totals += torch.stack((loss.detach(), reconstruction)) * len(part)
            on_step()
        means: Any = fabric.all_reduce(totals / sum(map(len, parts)))
        train_loss, train_reconstruction = means.tolist()
        # every process evaluates all rows, and the first one's word counts, so that all of them stop together
        validation_loss, validation_reconstruction = fabric.broadcast(_evaluate(loop))
        yield Epoch(
            epoch=epoch + 1,
            train_loss=train_loss,
            train_reconstruction=train_reconstruction,
            validation_loss=validation_loss,
            validation_reconstruction=validation_reconstruction,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
        )


@torch.no_grad()
def _evaluate(loop: Loop) -> tuple[float, float]:
    """Return (loss, reconstruction loss) over the rows held out, with the same noise each time."""
    torch.manual_seed(mixed_seed(loop.options.seed, 2**32))
    loop.objective.eval()
    totals = torch.zeros(2, device=loop.fabric.device)
    for part in torch.split(torch.arange(len(loop.held_out)), chosen(loop.options.batch_size)):
        with loop.fabric.autocast():
            loss, reconstruction = loop.objective(loop.held_out.take(part))
        totals += torch.stack((loss, reconstruction)) * len(part)
    loss, reconstruction = (totals / len(loop.held_out)).tolist()
    return loss, reconstruction


def learning_rate(peak: float, schedule: Literal["constant", "cosine", "onecycle"], done: float) -> float:
    """Return the learning rate after a share `done` (0..1) of the training.

    `cosine` falls from the peak to zero; `onecycle` first rises to it from a 25th over 30 % of the training (Smith and
    Topin, Super-convergence, 2018, https://arxiv.org/abs/1708.07120, in the cosine form of PyTorch's OneCycleLR).

    Example:
        >>> [round(learning_rate(0.01, "onecycle", done), 4) for done in (0, 0.3, 1)]
        [0.0004, 0.01, 0.0]
    """
    if schedule == "constant":
        return peak
    rise = 0.3 if schedule == "onecycle" else 0.0
    if done < rise:
        return peak * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * done / rise)))
    return peak * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def mixed_seed(*parts: int) -> int:
    """Mix whole numbers into one seed, so that neighbouring seeds and epochs share nothing."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def _optimizer(objective: Objective, options: TrainConfig) -> torch.optim.Optimizer:
    rate = chosen(options.lr)
    parameters = list(objective.parameters())
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True)
    # one kernel per step instead of a dozen; Fabric cannot clip what a fused step unscales itself
    fused = options.precision != "fp16-mixed"
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, fused=fused)
