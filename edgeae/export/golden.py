"""Golden rows: made from the normalisation statistics, so that no row of the user's leaves with a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeae.bundle.bundle import pack_arrays
from edgeae.bundle.manifest import Input, Normalisation, Tolerance
from edgeae.export.parity import run_graph, run_graphs

__all__ = ["golden_file", "random_rows"]

GOLDEN_ROWS = 8
_CANDIDATES = 64

Array = np.ndarray[Any, Any]

# relative to each value, and to the spread of a tensor's values
_TOLERANCE = {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 2e-2), "int8": (2e-2, 2e-2)}


def random_rows(row: Input, normalisation: Normalisation, count: int, *, seed: int) -> Array:
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


def golden_file(
    graphs: Mapping[str, bytes],
    row: Input,
    normalisation: Normalisation,
    *,
    precision: str,
    batch: int | None,
    rows: Array | None = None,
) -> tuple[bytes, dict[str, Tolerance]]:
    """Choose golden rows, run the graphs over them and return (bytes of golden.npz, tolerances).

    Args:
        graphs: Bytes by role.
        row: The bundle's input.
        normalisation: Its normalisation.
        precision: Decides the tolerances.
        batch: The graphs' fixed batch, or None.
        rows: Rows to use instead of made ones.
    """
    x = rows if rows is not None else random_rows(row, normalisation, _CANDIDATES, seed=0)
    stable = _most_stable(graphs["encoder"], x, precision, batch)[:GOLDEN_ROWS]
    x = np.ascontiguousarray(x[np.sort(stable)])
    results = run_graphs(graphs, x, batch=batch)
    tensors = {"z": results.z, "x_hat": results.x_hat, "score": results.score}
    rtol, share = _TOLERANCE[precision]
    tolerance = {
        name: Tolerance(rtol=rtol, atol=share * max(float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))), 1e-6))
        for name, values in tensors.items()
    }
    return pack_arrays(x=x, **tensors), tolerance


def _most_stable(encoder: bytes, x: Array, precision: str, batch: int | None) -> Array:
    """Order rows so that those come last whose latents jump when rounding differs: near-ties of k-sparse units."""
    if x.dtype == np.uint8:
        return np.arange(len(x))
    z = run_graph(encoder, x, batch=batch)
    nudge = np.float32(1e-5 if precision == "fp32" else 1e-3)
    jumps = np.zeros(len(x), np.int64)
    for factor in (1 + nudge, 1 - nudge):
        moved = run_graph(encoder, (x * factor).astype(np.float32), batch=batch)
        jumps += ((moved == 0) != (z == 0)).sum(axis=1)
    return np.argsort(jumps, kind="stable")
