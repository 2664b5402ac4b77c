"""How good the graphs of one precision are, and whether they are good enough to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeae.bundle.manifest import Quality
from edgeae.data import normalise
from edgeae.evaluation import auroc, rank_correlation
from edgeae.evaluation.baselines import Comparison, compare_with_baselines, divide
from edgeae.export.assemble import Plan
from edgeae.export.parity import Parity, run_graph
from edgeae.export.source import Source

__all__ = ["MAX_AUROC_LOSS", "MAX_FLIPS", "MIN_CORRELATION", "Wanted", "compare_graphs", "measure_quality", "why_not"]

MAX_AUROC_LOSS = 0.005
MIN_CORRELATION = 0.995
MAX_FLIPS = 0.005

Array = np.ndarray[Any, Any]


def measure_quality(
    source: Source,
    plan: Plan,
    graphs: Mapping[str, bytes],
    parity: Parity,
    scores: Array,
    threshold: float,
    fp32: tuple[Array, float] | None,
) -> Quality:
    """Measure the graphs of one precision on the source's normal rows and labelled anomalies.

    Args:
        source: Where the rows are from.
        plan: How the graphs were put together.
        graphs: Bytes by role.
        parity: What was found in the comparison with PyTorch.
        scores: [n] of the normal rows.
        threshold: Of this precision.
        fp32: The float32 scores [n] and their threshold, to compare with.
    """
    reconstruction = mean = area = correlation = flips = None
    if len(scores):
        z = run_graph(graphs["encoder"], source.normal.astype(plan.input.dtype), batch=plan.batch)
        x_hat = run_graph(graphs["decoder"], z, batch=plan.batch)
        x = normalise(source.normal, source.normalisation, source.layout)
        reconstruction = float(np.mean(np.square(x - normalise(x_hat, source.normalisation, source.layout))))
        mean = float(np.mean(np.square(x - x.mean(axis=0))))
        if fp32 is not None:
            correlation = rank_correlation(scores, fp32[0])
            flips = float(np.mean((scores <= threshold) != (fp32[0] <= fp32[1])))
        if source.anomalies is not None:
            anomalous = run_graph(graphs["scorer"], source.anomalies.astype(plan.input.dtype), batch=plan.batch)
            area = auroc(scores, anomalous)
    return Quality(
        parity=parity.largest,
        parity_rows=parity.rows,
        near_ties=parity.near_ties,
        reconstruction_mse=reconstruction,
        mean_mse=mean,
        auroc=area,
        rank_correlation=correlation,
        label_flips=flips,
    )


def compare_graphs(source: Source, plan: Plan, graphs: Mapping[str, bytes]) -> Comparison | None:
    """Hold the graphs of one precision against simple baselines; see `compare_with_baselines`.

    Args:
        source: Where the rows are from: training rows, or else half of those that were given, are what baselines know.
        plan: How the graphs were put together.
        graphs: Bytes by role.
    """
    training, normal = source.training, source.normal
    if training is None:
        places = divide(np.arange(len(normal)), ordered=source.series is not None)
        training, normal = (normal[part] for part in places)

    def run(role: str, rows: Array) -> Array:
        return run_graph(graphs[role], rows.astype(plan.input.dtype), batch=plan.batch)

    return compare_with_baselines(
        training,
        normal,
        source.anomalies,
        score=lambda rows: run("scorer", rows),
        reconstruct=lambda rows: run_graph(graphs["decoder"], run("encoder", rows), batch=plan.batch),
        normalisation=source.normalisation,
        layout=source.layout,
        components=plan.latent_dim,
        name=f"the score {plan.score.kind}",
    )


def why_not(quality: Quality, fp32: Quality) -> str | None:
    """Say why graphs of a lower precision are not worth keeping, or return None where they are.

    With labelled anomalies the AUROC decides (it may rise), else the order of the normal rows' scores and their labels.
    """
    if quality.auroc is not None and fp32.auroc is not None:
        if fp32.auroc - quality.auroc <= MAX_AUROC_LOSS:
            return None
        return f"its AUROC is {quality.auroc:.4f} where fp32's is {fp32.auroc:.4f} (allowed loss {MAX_AUROC_LOSS})"
    correlation, flips = quality.rank_correlation, quality.label_flips
    if correlation is None or flips is None or (correlation >= MIN_CORRELATION and flips <= MAX_FLIPS):
        return None
    return (
        f"the rank correlation of its scores with fp32's is {correlation:.4f} (needed {MIN_CORRELATION}), labels "
        f"differ on {100 * flips:.2f} % of the rows (allowed {100 * MAX_FLIPS:.1f} %)"
    )


@dataclass(frozen=True)
class Wanted:
    """Float32 scores that those of a lower precision are held against.

    Attributes:
        normal: [n] of normal rows.
        anomalous: [m] of labelled anomalies, or None.
        threshold: Their threshold.
        fixed: Whether it holds for the other scores too; else they let as many normal rows pass.
    """

    normal: Array
    anomalous: Array | None
    threshold: float
    fixed: bool

    def drift(self, normal: Array, anomalous: Array | None) -> float:
        """Return how far scores of the same rows are from these: 1 is what is just allowed, of order, labels or AUROC.

        Args:
            normal: [n].
            anomalous: [m], where there are such.
        """
        return max(self._shares(normal, anomalous))

    def gate(self, normal: Array, anomalous: Array | None) -> float:
        """Return how far scores of the same rows are from not being kept, see `why_not`: 1 is what is just allowed.

        Args:
            normal: [n].
            anomalous: [m], where there are such.
        """
        order, flips, *loss = self._shares(normal, anomalous)
        return max(loss or (order, flips))

    def _shares(self, normal: Array, anomalous: Array | None) -> list[float]:
        """Return what is lost of order, labels and, with labelled anomalies, AUROC, as shares of what may be."""
        if not np.isfinite(normal).all():
            return [float("inf")] * 2
        labels = self.normal > self.threshold
        own = np.sort(normal)[max(0, len(normal) - 1 - int(labels.sum()))]
        flips = float(np.mean((normal > (self.threshold if self.fixed else own)) != labels))
        shares = [(1 - rank_correlation(normal, self.normal)) / (1 - MIN_CORRELATION), flips / MAX_FLIPS]
        if self.anomalous is not None and anomalous is not None:
            loss = auroc(self.normal, self.anomalous) - auroc(normal, anomalous)
            shares.append(loss / MAX_AUROC_LOSS)
        return shares
