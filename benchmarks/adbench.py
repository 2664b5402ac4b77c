"""The labelled tables of ADBench (Han et al. 2022, https://arxiv.org/abs/2206.09426), divided as a protocol has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeae.errors import InputError

__all__ = ["Protocol", "Split", "load_split"]

Protocol = Literal["one-class", "unsupervised", "contaminated"]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Rows of one set, float32 [n, values].

    Attributes:
        training: Rows to fit on.
        normal: Normal rows to score.
        anomalies: Anomalies to score.
        contamination: Share of the training rows that are anomalies.
    """

    training: Array
    normal: Array
    anomalies: Array
    contamination: float = 0.0


def load_split(path: Path, seed: int, protocol: Protocol = "one-class", contamination: float = 0.0) -> Split:
    """Read a set and divide its rows.

    - "one-class" fits to a random half of the normal rows, and scores the other half and all anomalies.
    - "contaminated" fits to the same half and as many anomalies as `contamination` says, of a random half of them; it
      scores the other halves, so that the same rows are scored whatever the share.
    - "unsupervised" fits to all rows, and scores the same.

    Args:
        path: An .npz file with X and y.
        seed: Of the division of the rows.
        protocol: Above.
        contamination: For "contaminated": the share of the training rows that are to be anomalies, from 0 to less than
            1; less, where the set has too few.

    Raises:
        InputError: if the file has no X and y, or one of the two classes is missing.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y = np.asarray(file["X"], np.float32), np.asarray(file["y"]).astype(np.int64)
    except (KeyError, OSError, ValueError) as problem:
        raise InputError(f"{path}: is no .npz file with X and y of plain numbers: {problem}") from None
    normal, anomalies = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    if len(normal) < 4 or not len(anomalies):
        raise InputError(f"{path}: has {len(normal)} normal rows (y = 0) and {len(anomalies)} anomalies (y = 1)")
    if protocol == "unsupervised":
        return Split(x, x[normal], x[anomalies], len(anomalies) / len(x))
    generator = np.random.default_rng(seed)
    order = generator.permutation(normal)
    half = len(order) // 2
    if protocol == "one-class":
        return Split(x[order[:half]], x[order[half:]], x[anomalies])
    odd = generator.permutation(anomalies)
    mixed_in = min(round(contamination * half / (1 - contamination)), len(odd) // 2)
    training = np.concatenate([order[:half], odd[:mixed_in]])
    return Split(x[training], x[order[half:]], x[odd[len(odd) // 2 :]], mixed_in / len(training))
