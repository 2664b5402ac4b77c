"""The labelled tables of ADBench (Han et al. 2022, https://arxiv.org/abs/2206.09426), divided as a protocol has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgeae.errors import InputError

__all__ = ["Protocol", "Split", "load_split"]

Protocol = Literal["one-class", "unsupervised"]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """Rows of one set, float32 [n, values]: those to fit on, normal ones and anomalies to score."""

    training: Array
    normal: Array
    anomalies: Array


def load_split(path: Path, seed: int, protocol: Protocol = "one-class") -> Split:
    """Read a set and divide its rows.

    Args:
        path: An .npz file with X and y.
        seed: Of the division of the normal rows.
        protocol: "unsupervised" fits to all rows.

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
        return Split(x, x[normal], x[anomalies])
    order = np.random.default_rng(seed).permutation(normal)
    half = len(order) // 2
    return Split(x[order[:half]], x[order[half:]], x[anomalies])
