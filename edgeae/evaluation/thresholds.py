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
    """Choose the smallest of the given scores that a fresh normal row exceeds with a probability of at most `fpr`.

    That is the score of rank ceil((n + 1) (1 - fpr)), the finite-sample quantile of split conformal prediction (Vovk et
    al. 2005; Angelopoulos and Bates 2021, https://arxiv.org/abs/2107.07511). Where the rows are too few to resolve the
    rate it is the largest score, and the threshold says what that can promise, 1 / (n + 1).

    Args:
        scores: [n] scores of normal rows that the model was not trained on.
        fpr: Wanted share of false alarms, above 0 and below 1.

    Raises:
        InputError: if `fpr` is out of range or there are no finite scores.

    Example:
        >>> quantile_threshold(np.arange(99, dtype=np.float32), 0.05).value
        94.0
    """
    if not 0 < fpr < 1:
        raise InputError(f"fpr: {fpr} is not between 0 and 1; 0.01 lets one normal row in a hundred raise an alarm")
    finite = np.sort(scores[np.isfinite(scores)])
    if not len(finite):
        raise InputError("threshold: there are no finite scores of normal rows to take a quantile of")
    promised = 1 / (len(finite) + 1)
    if promised > fpr:
        _log.warning(
            "threshold: %d normal rows cannot resolve a false-alarm rate of %g; the largest of their scores is used, "
            "which promises %.2g; give more with calibrate (--calibrate DATA)",
            *(len(finite), fpr, promised),
        )
    above = max(0, math.floor((len(finite) + 1) * fpr + 1e-9) - 1)
    value = float(np.float32(finite[len(finite) - 1 - above]))
    return Threshold(value=value, method="quantile", fpr=max(fpr, promised), rows=len(finite))
