"""Metrics and thresholds for anomaly scores (numpy; scikit-learn where a metric needs it)."""

from edgeae.evaluation.metrics import auroc, rank_correlation
from edgeae.evaluation.thresholds import quantile_threshold

__all__ = ["auroc", "quantile_threshold", "rank_correlation"]
