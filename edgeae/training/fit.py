"""One training process: runs the loop, keeps the best weights, and knows when to stop."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from edgeae.bundle.atomic import write_file
from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.errors import TrainingError
from edgeae.models.autoencoder import Autoencoder
from edgeae.models.objective import Objective
from edgeae.training.config import TrainConfig, chosen
from edgeae.training.defaults import Plan
from edgeae.training.loop import Loop, epochs, setup_loop
from edgeae.training.progress import Epoch, Reporter, reporter
from edgeae.training.resume import State, fitting
from edgeae.training.rows import Rows, batches
from edgeae.training.run import Stopped

__all__ = ["Job", "Outcome", "fit", "fit_apart"]

log = logging.getLogger("edgeae")

SAVE_SECONDS = 10.0  # how much work a killed process may lose
MEASURED_ROWS = 4096
WHAT_TO_TRY = "try a lower lr, clip_norm 1, normalise 'standard' or 'robust', or precision 'fp32'"


@dataclass(frozen=True)
class Job:
    """All that a training process needs; it travels to other processes when there are several devices.

    Attributes:
        plan: Network, objective, options.
        model: With its initial weights.
        x_train: [n, *shape] in the user's units, float32 or uint8.
        x_validation: [m, *shape].
        normalisation: Fitted on x_train.
        layout: What the axes of a row mean.
        data_digest: SHA-256 over x_train.
        state_file: Where the state goes while training runs.
        state: What to resume from.
    """

    plan: Plan
    model: Autoencoder
    x_train: Tensor
    x_validation: Tensor
    normalisation: Normalisation
    layout: Layout
    data_digest: str
    state_file: Path
    state: State | None


@dataclass(frozen=True)
class Outcome:
    """Why training ended and what the best weights were measured to do.

    Attributes:
        stopped: Why.
        train_mse: Of clean training rows, in normalised space.
        validation_mse: The same of the rows held out.
        variance: Of the rows held out: the error of reconstructing each as their mean.
        active_share: See `edgeae.training.run.Results`.
        active_units: See there.
    """

    stopped: Stopped
    train_mse: float
    validation_mse: float
    variance: float
    active_share: float | None
    active_units: int | None


def fit(fabric: Fabric, job: Job, progress: bool | Callable[[Epoch], object]) -> tuple[State, Outcome]:
    """Train until the epochs are over, the validation loss stops falling, the loss is not finite, or Ctrl-C.

    Returns:
        The state after the last whole epoch, with the best weights in it, and what they do.

    Raises:
        TrainingError: if the loss is not finite in the very first epoch.
        KeyboardInterrupt: if it comes before the first epoch is over.
    """
    options, state = job.plan.options, job.state
    with _settings(fabric, options):
        model = copy.deepcopy(job.model)  # spawned processes would otherwise share their weights
        if state is not None:
            with fitting(job.state_file):
                model.load_state_dict(state.weights)
        training = Rows(job.x_train.numpy(), job.normalisation, job.layout, fabric.device)
        held_out = Rows(job.x_validation.numpy(), job.normalisation, job.layout, fabric.device)
        loop = setup_loop(fabric, Objective(model, job.plan.objective), training, held_out, options)
        if state is not None:
            with fitting(job.state_file):
                loop.optimizer.load_state_dict(state.optimizer)
                fabric.strategy.precision.load_state_dict(state.scaler)
        report = reporter(
            progress if fabric.is_global_zero else False,
            epochs=chosen(options.epochs),
            steps_per_epoch=len(batches(torch.arange(len(training)), chosen(options.batch_size))),
            done=0 if state is None else len(state.history),
        )
        try:
            state, stopped = _train(loop, job, report)
        finally:
            report.close()
        model.load_state_dict(state.best_weights)
        return state, _measured(stopped, model, training, held_out)


def fit_apart(fabric: Fabric, job: Job, progress: bool | Callable[[Epoch], object]) -> dict[str, Any]:
    """`fit` in a spawned process: the state goes through its file, since only little fits through Lightning's pipe."""
    state, outcome = fit(fabric, job, progress)
    if fabric.is_global_zero:
        write_file(job.state_file, state.to_bytes())
    return dataclasses.asdict(outcome)


def _train(loop: Loop, job: Job, report: Reporter) -> tuple[State, Stopped]:
    state, patience = job.state, loop.options.patience
    saved = time.monotonic()
    try:
        for record in epochs(loop, 0 if state is None else len(state.history), report.step):
            if not (math.isfinite(record.train_loss) and math.isfinite(record.validation_loss)):
                if state is None:
                    raise TrainingError(f"the loss is not finite in the first epoch; {WHAT_TO_TRY}")
                kept = f"the loss is not finite in epoch {record.epoch}; kept the weights of epoch {state.best_epoch}"
                log.warning("%s; %s", kept, WHAT_TO_TRY)
                return state, "nan"
            state = _after(record, state, loop, job)
            report.epoch(record)
            if loop.fabric.is_global_zero and time.monotonic() - saved > SAVE_SECONDS:
                write_file(job.state_file, state.to_bytes())
                saved = time.monotonic()
            if patience and record.epoch - state.best_epoch >= patience:
                return state, "early"
    except KeyboardInterrupt:
        if state is None:
            raise
        log.warning("interrupted after epoch %d; kept the weights of epoch %d", len(state.history), state.best_epoch)
        return state, "interrupted"
    return chosen(state), "finished"


def _after(record: Epoch, state: State | None, loop: Loop, job: Job) -> State:
    """Return the state after an epoch, with the best weights so far."""
    weights = _copy(loop.objective.model.state_dict())
    history = () if state is None else state.history
    better = state is None or record.validation_loss < history[state.best_epoch - 1].validation_loss
    return State(
        options=loop.options,
        data_digest=job.data_digest,
        history=(*history, record),
        weights=weights,
        optimizer=_copy(loop.optimizer.state_dict()),
        scaler=_copy(loop.fabric.strategy.precision.state_dict()),
        best_epoch=record.epoch if better or state is None else state.best_epoch,
        best_weights=weights if better or state is None else state.best_weights,
    )


@torch.no_grad()
def _measured(stopped: Stopped, model: Autoencoder, training: Rows, held_out: Rows) -> Outcome:
    model.eval()
    train_mse, _, _ = _reconstructed(model, training)
    validation_mse, variance, z = _reconstructed(model, held_out)
    share, units = None, None
    if model.config.bottleneck == "sparse":
        active = z.mean() if model.config.sparsity == "kl" else (z != 0).float().mean()
        share = float(active)
    elif model.config.bottleneck == "variational":
        units = int((z.var(dim=0, correction=0) > 0.01).sum())
    return Outcome(stopped, train_mse, validation_mse, variance, share, units)


def _reconstructed(model: Autoencoder, rows: Rows) -> tuple[float, float, Tensor]:
    """Return (mean squared error, variance of the values over rows, latents) of up to 4096 rows, clean, in fp32."""
    latents, squares, xs = [], torch.zeros((), device=rows.device), []
    count = min(len(rows), MEASURED_ROWS)
    for part in torch.split(torch.arange(count), 256):
        x = rows.take(part)
        z = model.encode(x)
        squares += (model.activate(model.decoder(z)) - x).square().mean() * len(part)
        latents.append(z)
        xs.append(x)
    x = torch.cat(xs)
    return float(squares) / count, float((x - x.mean(dim=0)).square().mean()), torch.cat(latents)


def _copy(value: Any) -> Any:
    """Copy a state dict to the CPU, whatever is nested in it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


@contextmanager
def _settings(fabric: Fabric, options: TrainConfig) -> Iterator[None]:
    """Set PyTorch's process-wide switches for training, and put back what was there."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    flushing = bool((torch.tensor([1e-38]) * 1e-3).item() == 0)
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(options.threads or 1)
            # the moments of units that are never active decay to denormals, which are slow
            torch.set_flush_denormal(True)
            cudnn.deterministic, cudnn.benchmark = True, False
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_flush_denormal(flushing)
            cudnn.deterministic, cudnn.benchmark = before[1:]
