"""The anomaly scores: each as PyTorch arithmetic (the reference) and as ONNX nodes (the scorer graph).

All are computed in normalised space and all are higher for more anomalous rows:

- `mse`, `mae`: mean over a row's values of the squared or absolute error.
- `bce`: mean binary cross-entropy, from the logits. Values outside 0..1 count as the nearer end plus their squared
  excess, since cross-entropy alone would fall without bound there and call such rows normal.
- `zscore`: mean of (error / spread)², the spread being each value's root mean squared error on normal rows.
- `mahalanobis`: squared Mahalanobis distance of the error from its mean on normal rows, over the number of values: the
  mean of the squares of the whitened errors. Errors that never occur together count for more than each on its own.
- `prototype`: `mahalanobis` plus the mean of ((value - nearest prototype's) / spread)². Prototypes are k-means
  centres of training rows: rows far from all of them are odd even where the network reconstructs them well.
- `elbo`: negative evidence lower bound in nats (Kingma & Welling 2013, https://arxiv.org/abs/1312.6114) with the
  analytic KL divergence and the mean as the latent; Bernoulli decoder for models trained with BCE, else Gaussian with
  the mean squared residual of normal rows as its variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgeae.bundle.manifest import ScoreKind
from edgeae.export.graph import GraphBuilder

__all__ = ["SPREAD_FLOOR", "ScoreSpec", "add_score", "reference_score"]

Array = np.ndarray[Any, Any]

# A value that normal rows always reconstruct exactly would make any error there infinite.
SPREAD_FLOOR = 0.01


@dataclass(frozen=True)
class ScoreSpec:
    """A score and the statistics it needs.

    Attributes:
        kind: Its name.
        spread: For zscore, root mean squared error per value on normal rows, float32 [*row], floored; for prototype,
            the usual distance of a value from the nearest prototype's.
        decoder_variance: For elbo with a Gaussian decoder.
        centre: For mahalanobis and prototype, the mean error per value on normal rows, float32 [*row].
        whitening: For mahalanobis and prototype, the symmetric square root of the errors' inverse covariance, float32
            [values, values].
        prototypes: For prototype, typical rows in normalised space, float32 [k, values].
    """

    kind: ScoreKind
    spread: np.ndarray[Any, np.dtype[np.float32]] | None = None
    decoder_variance: float | None = None
    centre: np.ndarray[Any, np.dtype[np.float32]] | None = None
    whitening: np.ndarray[Any, np.dtype[np.float32]] | None = None
    prototypes: np.ndarray[Any, np.dtype[np.float32]] | None = None

    @property
    def statistics(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """The arrays that a reader needs to compute the score from rows and reconstructions."""
        arrays = {
            "spread": self.spread,
            "centre": self.centre,
            "whitening": self.whitening,
            "prototypes": self.prototypes,
        }
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def of_difference(self) -> bool:
        """Whether the score needs only target minus reconstruction, so that a common shift cancels."""
        return not self.of_logits and self.prototypes is None

    @property
    def of_logits(self) -> bool:
        """Whether the score is a cross-entropy, computed before the sigmoid."""
        return self.kind == "bce" or (self.kind == "elbo" and self.decoder_variance is None)


def reference_score(
    spec: ScoreSpec, x: Tensor, out: Tensor, *, sigmoid: bool, z: Tensor, log_var: Tensor | None
) -> Tensor:
    """Compute the score in PyTorch.

    Args:
        spec: Which score.
        x: Normalised rows [batch, *row].
        out: The decoder's output before its activation [batch, *row].
        sigmoid: Whether a sigmoid follows.
        z: Latents (means) [batch, latent_dim].
        log_var: Log variances [batch, latent_dim], for elbo.

    Returns:
        [batch], higher is more anomalous.
    """
    axes = tuple(range(1, x.ndim))
    values = math.prod(x.shape[1:])
    if spec.of_logits:
        inside = x.clamp(0.0, 1.0)
        entropy = functional.softplus(out) - inside * out
        error = (entropy.sum(axes) + (x - inside).square().sum(axes)) / values
    else:
        difference = x - (torch.sigmoid(out) if sigmoid else out)
        if spec.whitening is not None and spec.centre is not None:
            centre, whitening = (torch.from_numpy(array).to(x.dtype) for array in (spec.centre, spec.whitening))
            return ((difference - centre).flatten(1) @ whitening).square().mean(1) + _reference_distance(spec, x)
        if spec.spread is not None:
            difference = difference / torch.from_numpy(spec.spread).to(difference.dtype)
        error = (difference.abs() if spec.kind == "mae" else difference.square()).mean(axes)
    if spec.kind != "elbo" or log_var is None:
        return error
    divergence = 0.5 * (z.square() + log_var.exp() - log_var - 1).sum(1)
    if spec.decoder_variance is None:
        return error * values + divergence
    variance = spec.decoder_variance
    return values * (error / (2 * variance) + 0.5 * math.log(2 * math.pi * variance)) + divergence


def add_score(
    graph: GraphBuilder,
    spec: ScoreSpec,
    *,
    x: str,
    out: str,
    z: str,
    log_var: str | None,
    row: Sequence[int],
    latent_dim: int,
    sigmoid: bool,
    clip: bool,
) -> str:
    """Add the nodes of the score to `graph` and return its name; the arguments are those of `reference_score`.

    Args:
        clip: Whether x can lie outside 0..1 (uint8 images cannot), for bce.
    """
    axes = tuple(range(1, len(row) + 1))
    values = math.prod(row)

    def times(name: str, factor: float) -> str:
        return name if factor == 1.0 else graph.add("Mul", [name, graph.constant(np.float32(factor))])

    def square(name: str) -> str:
        return graph.add("Mul", [name, name])

    # The mean of products is up to 15 % faster than ReduceSumSquare, which ONNX Runtime does not vectorise as well.
    variance = spec.decoder_variance
    if spec.of_logits:
        inside = x
        if clip:
            inside = graph.add("Clip", [x, graph.constant(np.float32(0.0)), graph.constant(np.float32(1.0))])
        errors = graph.add("Sub", [graph.add("Softplus", [out]), graph.add("Mul", [inside, out])])
        if clip:
            errors = graph.add("Add", [errors, square(graph.add("Sub", [x, inside]))])
    else:
        difference = graph.add("Sub", [x, graph.add("Sigmoid", [out]) if sigmoid else out])
        if spec.whitening is not None and spec.centre is not None:
            if len(row) > 1:
                flat = graph.constant(np.array([-1, values], np.int64), "flat")
                difference, x = (graph.add("Reshape", [each, flat]) for each in (difference, x))
            whitened = _affine(graph, difference, spec.whitening, -spec.centre.reshape(-1) @ spec.whitening)
            error = graph.reduce("ReduceMean", square(whitened), (1,))
            if spec.prototypes is None or spec.spread is None:
                return error
            return graph.add("Add", [error, _distance(graph, spec.prototypes, spec.spread, x)])
        if spec.spread is not None:
            difference = graph.add("Mul", [difference, graph.constant((1 / spec.spread).astype(np.float32), "spread")])
        errors = graph.add("Abs", [difference]) if spec.kind == "mae" else square(difference)
    error = graph.reduce("ReduceMean", errors, axes)
    if spec.kind == "elbo":
        error = times(error, values if variance is None else values / (2 * variance))
    if spec.kind != "elbo" or log_var is None:
        return error
    squares = graph.reduce("ReduceSum", square(z), (1,))
    spreads = graph.reduce("ReduceSum", graph.add("Sub", [graph.add("Exp", [log_var]), log_var]), (1,))
    divergence = times(graph.add("Add", [squares, spreads]), 0.5)
    gaussian = 0.0 if variance is None else 0.5 * values * math.log(2 * math.pi * variance)
    constant = graph.constant(np.float32(gaussian - 0.5 * latent_dim))
    return graph.add("Add", [graph.add("Add", [error, divergence]), constant])


def _reference_distance(spec: ScoreSpec, x: Tensor) -> Tensor | float:
    """Mean squared distance [batch] from the nearest prototype, in units of the spread."""
    if spec.prototypes is None or spec.spread is None:
        return 0.0
    prototypes, spread = (torch.from_numpy(array).to(x.dtype) for array in (spec.prototypes, spec.spread.reshape(-1)))
    rows = x.flatten(1)
    distances = [((rows - prototype) / spread).square().mean(1) for prototype in prototypes]
    return torch.stack(distances).amin(0)


def _distance(graph: GraphBuilder, prototypes: Array, spread: Array, x: str) -> str:
    """Add the nodes of `_reference_distance`: |u - p|² = |u|² + (|p|² - 2 u.p), around the middle of the prototypes.

    Args:
        graph: Where to.
        prototypes: [k, values].
        spread: [*row].
        x: Normalised rows [batch, values].
    """
    spread = spread.reshape(-1).astype(np.float64)
    middle = prototypes.mean(axis=0)
    scaled = (prototypes - middle) / spread
    moved = graph.add("Sub", [x, graph.constant(middle, "middle")])
    rows = graph.add("Mul", [moved, graph.constant((1 / spread).astype(np.float32), "spread")])
    own = graph.reduce("ReduceMean", graph.add("Mul", [rows, rows]), (1,))
    values = scaled.shape[1]
    others = _affine(graph, rows, -2 / values * scaled.T, np.square(scaled).mean(axis=1))
    return graph.add("Add", [own, graph.reduce("ReduceMin", others, (1,))])


def _affine(graph: GraphBuilder, rows: str, weight: Array, offset: Array) -> str:
    """Add rows @ weight + offset: [batch, n] @ [n, m] + [m]."""
    constants = [graph.constant(array.astype(np.float32)) for array in (weight, offset)]
    return graph.add("Gemm", [rows, *constants])
