"""The gate: an export fails unless ONNX Runtime computes what PyTorch computes.

Compared are the encoder, the decoder, the two in a row and the scorer, on random and on real rows, at batch sizes 1, 2,
7 and 256 (or the fixed one). PyTorch runs the original modules, not what was exported of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from edgeae.errors import ExportError
from edgeae.export.assemble import Plan
from edgeae.export.cores import Autoencoder
from edgeae.export.scores import reference_score

__all__ = ["Parity", "Results", "check_parity", "reference", "run_graph", "run_graphs"]

BATCHES = (1, 2, 7, 256)
MAX_NEAR_TIES = 1e-3
# A badly conditioned model amplifies rounding, PyTorch's as well: measured against float64, ONNX Runtime may be off by
# this many times as much as PyTorch is.
ROUNDING = 4.0
_ROWS = 256

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Results:
    """Latents [n, latent_dim], reconstructions [n, *row] in the user's units and scores [n], all float32."""

    z: Array
    x_hat: Array
    score: Array


@dataclass(frozen=True)
class Parity:
    """The largest difference per tensor over the spread of its values, and the rows set aside as near-ties."""

    largest: dict[str, float]
    rows: int
    near_ties: int


def run_graph(model: bytes, feed: Array, *, batch: int | None, chunk: int = 256) -> Array:
    """Run a one-input, one-output graph over all rows of `feed` on one CPU thread.

    Args:
        model: The bytes of an ONNX file.
        feed: [n, ...] of the input's dtype.
        batch: The graph's fixed batch, or None; the last fixed batch is filled up with its last row.
        chunk: Rows per call where the batch is free.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions have no common base but Exception
        raise ExportError(f"ONNX Runtime does not load the exported graph: {problem}") from problem
    name = session.get_inputs()[0].name
    parts = []
    step = batch or chunk
    for start in range(0, len(feed), step):
        rows = np.ascontiguousarray(feed[start : start + step])
        missing = step - len(rows) if batch else 0
        full = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing else rows
        parts.append(session.run(None, {name: full})[0][: len(rows)])
    return np.concatenate(parts) if parts else np.zeros((0,), np.float32)


def run_graphs(graphs: Mapping[str, bytes], x: Array, *, batch: int | None, chunk: int = 256) -> Results:
    """Run the three graphs of one precision over `x`: the reconstruction is of the encoder's own latents."""
    z = run_graph(graphs["encoder"], x, batch=batch, chunk=chunk)
    return Results(
        z=z,
        x_hat=run_graph(graphs["decoder"], z, batch=batch, chunk=chunk),
        score=run_graph(graphs["scorer"], x, batch=batch, chunk=chunk),
    )


@torch.no_grad()
def reference(
    network: Autoencoder, plan: Plan, x: Array, *, chunk: int = 512, dtype: torch.dtype = torch.float32
) -> Results:
    """Compute in PyTorch, from rows in the user's units, what the three graphs must give."""
    network = network if dtype == torch.float32 else network.to(dtype)
    shift, scale = (
        torch.from_numpy(a).to(dtype) for a in plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    )
    parts: list[tuple[Array, Array, Array]] = []
    for start in range(0, len(x), chunk):
        rows = (torch.from_numpy(np.asarray(x[start : start + chunk], np.float32)).to(dtype) - shift) / scale
        z, log_var = network.encode(rows)
        out = network.decode(z)
        normalised = torch.sigmoid(out) if network.sigmoid else out
        score = reference_score(plan.score, rows, out, sigmoid=network.sigmoid, z=z, log_var=log_var)
        parts.append((z.numpy(), (normalised * scale + shift).numpy(), score.numpy()))
    return Results(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def check_parity(
    network: Autoencoder,
    plan: Plan,
    graphs: Mapping[str, bytes],
    random: Array,
    real: Array,
    *,
    strict: bool,
    tolerance: float,
) -> Parity:
    """Compare the graphs with PyTorch.

    Args:
        network: The original modules.
        plan: How the graphs were put together.
        graphs: Bytes by role.
        random: Rows of the data's range, in its dtype.
        real: Rows of the user's; may be empty.
        strict: Whether a difference beyond `tolerance` is an error (fp32) or only measured (lower precisions, which
            are judged by their scores).
        tolerance: Allowed difference: of the spread of a tensor's values, plus ten times as much of each value.

    Raises:
        ExportError: naming the graph and the size of the difference.
    """
    samples = [_fill(random, _ROWS)] + ([_fill(real, _ROWS)] if len(real) else [])
    batches = BATCHES if plan.batch is None else (plan.batch,)
    largest = {"z": 0.0, "x_hat": 0.0, "score": 0.0}
    rows = near_ties = 0
    for x in samples:
        expected, exact = reference(network, plan, x), None
        if (
            not all(np.isfinite(values).all() for values in vars(expected).values())
            or np.abs(expected.score).max() > 1e30
        ):
            raise ExportError(
                "parity: the model's results overflow float32 on rows of the data's range; did it diverge?"
            )
        for batch in batches:
            part = x[: max(batch, 1)] if plan.batch is None else x
            wanted = Results(expected.z[: len(part)], expected.x_hat[: len(part)], expected.score[: len(part)])
            actual = run_graphs(graphs, part, batch=plan.batch, chunk=batch)
            tied = _near_ties(actual.z, wanted.z, tolerance)
            decoded = run_graph(graphs["decoder"], wanted.z, batch=plan.batch, chunk=batch)
            rows, near_ties = rows + len(part), near_ties + int(tied.sum())
            comparisons = [
                ("encoder", "z", actual.z, wanted.z, expected.z),
                ("decoder", "x_hat", decoded, wanted.x_hat, expected.x_hat),
                ("encoder and decoder in a row", "x_hat", actual.x_hat, wanted.x_hat, expected.x_hat),
                ("scorer", "score", actual.score, wanted.score, expected.score),
            ]
            for graph, tensor, got, want, everything in comparisons:
                spread = _spread(everything, plan if tensor == "x_hat" else None)
                difference = np.abs(got[~tied].astype(np.float64) - want[~tied])
                relative = difference / spread
                if not np.all(np.isfinite(relative)):
                    raise ExportError(
                        f"parity: the {graph} graph gives values that are not finite where {network.origin}'s are"
                    )
                allowed = tolerance * (1 + 10 * np.abs(want[~tied]) / spread)
                worst = float(relative.max(initial=0.0))
                largest[tensor] = max(largest[tensor], worst)
                if not strict or np.all(relative <= allowed):
                    continue
                exact = exact or reference(network, plan, x, dtype=torch.float64)
                rounding = np.abs(everything - getattr(exact, tensor)).max() / spread
                if np.any(relative > allowed + ROUNDING * rounding):
                    raise ExportError(
                        f"parity: the {graph} graph differs from {network.origin} by {worst:.2g} of the spread of "
                        f"{tensor} at batch {batch}; allowed is {tolerance:.2g}"
                    )
    if strict and near_ties > max(1, MAX_NEAR_TIES * rows):
        raise ExportError(f"parity: {near_ties} of {rows} rows have other active latent units in ONNX than in PyTorch")
    return Parity(largest, rows, near_ties)


def _fill(rows: Array, count: int) -> Array:
    return rows[np.resize(np.arange(len(rows)), count)]


def _spread(values: Array, plan: Plan | None) -> Array:
    """Root mean square of a tensor's values; per feature or channel in the units of x_hat, above float32's own ulp."""
    if plan is None:
        return np.asarray(max(float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))), 1e-6))
    shift, scale = plan.normalisation.arrays(plan.input.shape, plan.input.layout)
    normalised = (values - shift.astype(np.float64)) / scale
    rms = max(float(np.sqrt(np.mean(np.square(normalised)))), 1e-6)
    resolution = np.abs(shift) * np.finfo(np.float32).eps * 1e4
    return np.asarray(scale * rms + resolution, np.float64)


def _near_ties(actual: Array, wanted: Array, tolerance: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Rows of k-sparse latents whose k-th largest unit swapped with a neighbour of the same size within rounding.

    Where two units differ in being active, one side has zero and the other the unit's value; a near-tie is when all
    such values of a row are within the tolerance of each other and all other units agree.
    """
    slack = tolerance * (_spread(wanted, None) + 10 * np.abs(wanted))
    swapped = (actual == 0) != (wanted == 0)
    others_agree = np.all((np.abs(actual - wanted) <= slack) | swapped, axis=1)
    values = np.where(swapped, actual + wanted, np.nan)
    tied = np.zeros(len(actual), bool)
    for row in np.flatnonzero(swapped.any(axis=1) & others_agree):
        tied[row] = np.nanmax(values[row]) - np.nanmin(values[row]) <= 2 * slack[row].max()
        # a unit that is all but zero on both sides is no swap, only rounding
        tied[row] &= np.nanmax(np.abs(values[row])) > slack[row].max()
    return tied
