"""Metrics and thresholds for anomaly scores (numpy; scikit-learn where a metric needs it)."""

from edgeae.evaluation.events import Events, measure_events
from edgeae.evaluation.metrics import auroc, average_precision, rank_correlation
from edgeae.evaluation.thresholds import choose_threshold, quantile_threshold

__all__ = [
    "Events",
    "auroc",
    "average_precision",
    "choose_threshold",
    "measure_events",
    "quantile_threshold",
    "rank_correlation",
]
