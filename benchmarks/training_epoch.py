"""What an epoch of edgeae's training loop costs beside a plain PyTorch loop over the same tensors.

The contestants take turns, one short epoch each, so that whatever else the machine does hits them alike; medians and
10th percentiles of their times are compared. edgeae's epoch includes what the plain one has not: the learning-rate
schedule, Fabric, the history, and the loss on a tenth of the rows held out.

Example:
    python -m benchmarks.training_epoch --epochs 60
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from edgeae.bundle.manifest import Normalisation
from edgeae.models import Autoencoder, Objective
from edgeae.timing import Timing, ratio, summarise
from edgeae.training import TrainConfig
from edgeae.training.defaults import Facts, resolve
from edgeae.training.loop import epochs, setup_loop
from edgeae.training.rows import Rows


def plain_epoch(x: Tensor, batch_size: int, *, fused: bool) -> Callable[[], None]:
    """Return the loop that a user would write, as a function that trains one epoch over x [n, values]."""
    values = x.shape[1]
    model = nn.Sequential(nn.Linear(values, 64), nn.ReLU(), nn.Linear(64, values), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=fused)

    def train() -> None:
        total = 0.0
        for rows in torch.split(torch.randperm(len(x)), batch_size):
            batch = x[rows]
            loss = functional.mse_loss(model(batch), batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(rows)

    return train


def edgeae_epoch(x: np.ndarray, batch_size: int) -> Callable[[], None]:
    """Return the same for edgeae's loop."""
    held_out = len(x) // 10
    facts = Facts(len(x), x.shape[1:], "vector", whole_numbers=False, minimum=0.0, maximum=1.0)
    wanted = TrainConfig(
        hidden=(),
        latent_dim=64,
        normalise="none",
        output_activation="sigmoid",
        batch_size=batch_size,
        epochs=1_000_000,
        threads=torch.get_num_threads(),
    )
    plan = resolve(wanted, facts)
    fabric = Fabric(accelerator="cpu", devices=1)
    as_it_is = Normalisation("none", (0.0,), (1.0,))
    training = Rows(x, as_it_is, "vector", fabric.device)
    validation = Rows(x[:held_out], as_it_is, "vector", fabric.device)
    objective = Objective(Autoencoder(plan.model), plan.objective)
    iterator = epochs(setup_loop(fabric, objective, training, validation, plan.options))

    def train() -> None:
        next(iterator)

    return train


def compare(rows: int, values: int, batch_size: int, count: int, threads: int) -> dict[str, Timing]:
    """Train `count` epochs with each contestant in turns, after two that warm up caches and allocators.

    Returns:
        Name to the distribution of an epoch's seconds.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    x = np.random.default_rng(0).random((rows, values), np.float32)
    contestants = {
        "plain loop": plain_epoch(torch.from_numpy(x), batch_size, fused=False),
        "plain loop, fused Adam": plain_epoch(torch.from_numpy(x), batch_size, fused=True),
        "edgeae": edgeae_epoch(x, batch_size),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(count + 2):
        for name, train in contestants.items():
            started = time.perf_counter()
            train()
            if turn >= 2:
                times[name].append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return {name: summarise(durations) for name, durations in times.items()}


@click.command()
@click.option("--rows", default=8192, show_default=True, help="Rows in an epoch.")
@click.option("--values", default=784, show_default=True, help="Values in a row.")
@click.option("--batch-size", default=256, show_default=True, help="Rows in a step.")
@click.option("--epochs", "count", default=40, show_default=True, help="Epochs of each contestant.")
@click.option("--threads", default=1, show_default=True, help="CPU threads of each contestant.")
def main(rows: int, values: int, batch_size: int, count: int, threads: int) -> None:
    """Time edgeae's epoch and a plain loop's in turns.

    Example: python -m benchmarks.training_epoch --epochs 60
    """
    timings = compare(rows, values, batch_size, count, threads)
    click.echo(f"{rows} x {values} rows, batch {batch_size}, 64 latent, {threads} thread(s), {count} epochs each\n")
    click.echo(f"{'':24}{'median':>10}{'p10':>10}    edgeae takes (median, p10)")
    for name, timing in timings.items():
        compared = ratio(timings["edgeae"], timing)
        note = "" if name == "edgeae" else f"    {compared.median:.2f}x, {compared.p10:.2f}x"
        click.echo(f"{name:24}{timing.p50 * 1e3:>8.1f}ms{timing.p10 * 1e3:>8.1f}ms{note}")


if __name__ == "__main__":
    main()
