"""Training rows in memory, taken out as whole batches by index."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from edgeae.bundle.manifest import Layout, Normalisation
from edgeae.data import normalise
from edgeae.data.dataset import Array

__all__ = ["Rows", "batches"]

# uint8 rows that would take more than this as float32 stay uint8 and are normalised batch by batch
FLOAT_BYTES = 2**30


class Rows:
    """Rows held in memory, normalised once where that fits, on the device where that fits.

    A batch is one indexing operation; a loader that stacks row by row costs several times as much as a training step
    of a small network.
    """

    def __init__(self, x: Array, normalisation: Normalisation, layout: Layout, device: torch.device) -> None:
        self.device = device
        self._shift: Tensor | None = None
        self._scale: Tensor | None = None
        if x.dtype == np.uint8 and x.size * 4 > FLOAT_BYTES:
            shift, scale = normalisation.arrays(tuple(x.shape[1:]), layout)
            self._shift, self._scale = torch.from_numpy(shift).to(device), torch.from_numpy(scale).to(device)
            held = torch.from_numpy(np.ascontiguousarray(x))
        else:
            held = torch.from_numpy(normalise(x, normalisation, layout))
        self._held = held.to(device) if _fits(held, device) else held

    def __len__(self) -> int:
        return len(self._held)

    def take(self, index: Tensor) -> Tensor:
        """Return normalised rows as float32 [len(index), *shape] on the device."""
        x = self._held[index.to(self._held.device)].to(self.device)
        if self._shift is None or self._scale is None:
            return x
        return (x.float() - self._shift) / self._scale


def _fits(rows: Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return rows.numel() * rows.element_size() < free // 2


def batches(order: Tensor, size: int, *, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Cut an order of rows into batches of `size` and return this process's even share of each.

    Every process gets the same number of rows: where they do not divide, the first of the order are used again. A last
    batch with a single row is joined to the one before, because batch normalisation cannot train on it.

    Example:
        >>> [batch.tolist() for batch in batches(torch.arange(5), 2)]
        [[0, 1], [2, 3, 4]]
    """
    missing = -len(order) % world
    if missing:
        order = torch.cat([order, order.repeat(math.ceil(missing / len(order)))[:missing]])
    mine = order[rank::world]
    parts = list(torch.split(mine, max(1, size // world)))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
