"""Rows made from a bundle's normalisation statistics, to try graphs on without anybody's data."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeae.bundle.manifest import Input, Normalisation

__all__ = ["random_rows"]


def random_rows(row: Input, normalisation: Normalisation, count: int, *, seed: int) -> np.ndarray[Any, Any]:
    """Draw rows of the data's range and dtype from the normalisation statistics.

    The first four are edges: all at the smallest value, all at the largest, all at the shift, alternating.

    Returns:
        [count, *shape] of the input dtype, in the user's units.
    """
    generator = np.random.default_rng(seed)
    shift, scale = normalisation.arrays(row.shape, row.layout)
    if normalisation.kind in ("standard", "robust"):
        rows = shift + scale * generator.standard_normal((count, *row.shape))
    elif normalisation.kind == "minmax":
        rows = shift + scale * generator.random((count, *row.shape))
    else:
        low, high = row.minimum or 0.0, row.maximum if row.maximum is not None else 1.0
        rows = low + (high - low) * generator.random((count, *row.shape))
    low = row.minimum if row.minimum is not None else float(rows.min())
    high = row.maximum if row.maximum is not None else float(rows.max())
    rows = np.clip(rows, low, high)
    spread = shift + scale * (1 if normalisation.kind == "minmax" else 2)
    edges = [shift, np.clip(spread, low, high), np.clip(2 * shift - spread, low, high)]
    for index, edge in enumerate(edges[: count - 1]):
        rows[index] = edge
    if count > len(edges):
        rows[3].reshape(-1)[::2] = np.broadcast_to(edges[1], row.shape).reshape(-1)[::2]
    if row.dtype == "uint8":
        return np.clip(np.rint(rows), 0, 255).astype(np.uint8)
    return rows.astype(np.float32)
