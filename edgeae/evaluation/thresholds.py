"""Thresholds from the scores of normal rows."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np

from edgeae.bundle.manifest import Threshold
from edgeae.errors import InputError

__all__ = ["quantile_threshold"]

_log = logging.getLogger("edgeae")


def quantile_threshold(scores: np.ndarray[Any, Any], fpr: float) -> Threshold:
    """Choose the smallest score that at most a share `fpr` of the given normal rows exceed.

    Args:
        scores: [n] scores of normal rows that the model was not trained on.
        fpr: Wanted share of false alarms, above 0 and below 1.

    Raises:
        InputError: if `fpr` is out of range or there are no finite scores.

    Example:
        >>> quantile_threshold(np.arange(100, dtype=np.float32), 0.05).value
        94.0
    """
    if not 0 < fpr < 1:
        raise InputError(f"fpr: {fpr} is not between 0 and 1; 0.01 lets one normal row in a hundred raise an alarm")
    finite = np.sort(scores[np.isfinite(scores)])
    if not len(finite):
        raise InputError("threshold: there are no finite scores of normal rows to take a quantile of")
    if len(finite) * fpr < 1:
        _log.warning(
            "threshold: %d normal rows cannot resolve a false-alarm rate of %g; the largest of their scores is used",
            len(finite),
            fpr,
        )
    allowed = math.floor(len(finite) * fpr + 1e-9)
    value = float(np.float32(finite[len(finite) - 1 - allowed]))
    return Threshold(value=value, method="quantile", fpr=fpr, rows=len(finite))
