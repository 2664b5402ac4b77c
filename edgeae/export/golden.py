"""Golden rows: made from the normalisation statistics, so that no row of the user's leaves with a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeae.bundle.arrays import MAX_ARRAY_BYTES, pack_arrays
from edgeae.bundle.manifest import Input, Normalisation, Tolerance
from edgeae.bundle.rows import random_rows
from edgeae.export.parity import run_graph, run_graphs

__all__ = ["golden_file", "random_rows"]

GOLDEN_ROWS = 8
_CANDIDATES = 64

Array = np.ndarray[Any, Any]

# relative to each value, and to the spread of a tensor's values
_TOLERANCE = {"fp32": (1e-3, 1e-4), "fp16": (2e-2, 2e-2), "int8": (2e-2, 2e-2)}


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
    room = MAX_ARRAY_BYTES // (3 * x[0].nbytes * (4 // x.itemsize))  # x, x_hat and much less
    stable = _most_stable(graphs["encoder"], x, precision, batch)[: max(1, min(GOLDEN_ROWS, room))]
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
