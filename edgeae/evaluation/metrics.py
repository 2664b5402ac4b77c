"""Figures of merit of anomaly scores; higher scores are more anomalous."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeae.errors import InputError

__all__ = ["auroc", "average_precision", "orderable", "rank_correlation"]

Array = np.ndarray[Any, Any]


def auroc(normal: Array, anomalous: Array) -> float:
    """Return the area under the ROC curve: the chance that an anomaly scores higher than a normal row.

    Args:
        normal: [n] scores of normal rows.
        anomalous: [m] scores of anomalies.

    Raises:
        InputError: if either is empty.

    Example:
        >>> auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
        1.0
    """
    from sklearn.metrics import roc_auc_score

    if not len(normal) or not len(anomalous):
        raise InputError("auroc: needs scores of at least one normal row and one anomaly")
    return float(roc_auc_score(*_labelled(normal, anomalous)))


def average_precision(normal: Array, anomalous: Array) -> float:
    """Return the average precision: the area under the precision-recall curve as a sum of steps.

    Args:
        normal: [n] scores of normal rows.
        anomalous: [m] scores of anomalies.

    Raises:
        InputError: if either is empty.

    Example:
        >>> average_precision(np.array([0.0, 1.0]), np.array([2.0, 3.0]))
        1.0
    """
    from sklearn.metrics import average_precision_score

    if not len(normal) or not len(anomalous):
        raise InputError("average_precision: needs scores of at least one normal row and one anomaly")
    return float(average_precision_score(*_labelled(normal, anomalous)))


def orderable(scores: Array) -> Array:
    """Return scores as float64 with the largest number for NaN, which is an anomaly in every language."""
    return np.nan_to_num(scores.astype(np.float64), nan=np.finfo(np.float64).max)


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation of two arrays [n] of scores; 1.0 where both are constant.

    Example:
        >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0]))
        1.0
    """
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float(np.ptp(one) == np.ptp(other))
    return float(spearmanr(one, other).statistic)


def _labelled(normal: Array, anomalous: Array) -> tuple[Array, Array]:
    """Return labels and scores as scikit-learn takes them."""
    labels = np.concatenate([np.zeros(len(normal)), np.ones(len(anomalous))])
    return labels, orderable(np.concatenate([normal, anomalous]))
