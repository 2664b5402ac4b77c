"""Windows [T, channels] of series: views of the steps they share, and a split that keeps what overlaps apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgeae.data.dataset import Array
from edgeae.errors import InputError

__all__ = ["map_steps", "split_windows", "take_rows", "window_labels", "windows_of"]


def windows_of(steps: Array, length: int, stride: int = 1) -> Array:
    """Return all windows [n, length, channels] of steps [m, channels], as a view: nothing is copied.

    Example:
        >>> windows_of(np.arange(5, dtype=np.float32)[:, None], 3, 2)[:, :, 0]
        array([[0., 1., 2.],
               [2., 3., 4.]], dtype=float32)
    """
    count = max(0, (len(steps) - length) // stride + 1)
    down, across = steps.strides
    shape = (count, length, steps.shape[1])
    return as_strided(steps, shape, (stride * down, down, across), writeable=steps.flags.writeable)


def map_steps(x: Array, function: Callable[[Array], Array]) -> Array:
    """Apply a function of single values or channels to windows, once to each step where windows share their steps.

    Args:
        x: [n, *shape]; windows that are views of one series, or any other rows.
        function: Of an array [..., channels] of as many axes as `x` or less; returns a new one of the same shape.

    Returns:
        What `function(x)` gives; overlapping windows give overlapping ones, of a copy of their steps.

    Example:
        >>> windows = windows_of(np.ones((1000, 2), np.float32), 100)
        >>> doubled = map_steps(windows, lambda steps: 2 * steps)
        >>> doubled.shape, doubled.strides  # a window begins where the second step of the one before it lies
        ((901, 100, 2), (8, 8, 4))
    """
    if x.ndim != 3 or len(x) < 2 or not 0 < x.strides[0] < x.shape[1] * x.strides[1] or x.strides[0] % x.strides[1]:
        return function(x)
    stride = x.strides[0] // x.strides[1]
    steps = as_strided(x, ((len(x) - 1) * stride + x.shape[1], x.shape[2]), x.strides[1:], writeable=False)
    return windows_of(function(steps), x.shape[1], stride)


def take_rows(x: Array, index: Array) -> Array:
    """Return x[index]; a view where the numbers follow on each other."""
    if len(index) and int(index[-1]) - int(index[0]) == len(index) - 1 and bool((np.diff(index) == 1).all()):
        return x[int(index[0]) : int(index[-1]) + 1]
    return x[index]


def window_labels(y: Array, length: int, stride: int, rule: str) -> Array:
    """Return the label of each window of steps labelled y [m]: that of its last step, or 1 if `any` step has 1.

    Labels other than 0 and 1 are classes, of which a window has that of its last step.

    Example:
        >>> window_labels(np.array([0, 1, 0, 0]), 2, 1, "any"), window_labels(np.array([0, 1, 0, 0]), 2, 1, "last")
        (array([1, 1, 0]), array([1, 0, 0]))
    """
    if rule == "last" or not np.isin(y, (0, 1)).all():
        return y[length - 1 :: stride]
    before = np.concatenate([[0], np.cumsum(y)])
    return (before[length:] > before[:-length]).astype(np.int64)[::stride]


def split_windows(steps: Array, length: int, stride: int, validation: float) -> tuple[Array, Array]:
    """Split windows into training and validation ones that share no step.

    Drawn at random, nearly every window held out would overlap ones that were trained on. So the last windows of every
    unbroken stretch are held out, and those between that share steps with both are left out.

    Args:
        steps: int64 [n], ascending: the number of each window's last step.
        length: Steps in a window.
        stride: Steps from one window to the next within a stretch.
        validation: Share of the windows to hold out, between 0 and 1.

    Returns:
        Two int64 arrays of row numbers, ascending: training rows, validation rows.

    Raises:
        InputError: if no stretch is long enough.

    Example:
        >>> training, held_out = split_windows(np.arange(4, 24), length=5, stride=1, validation=0.2)
        >>> training.tolist(), held_out.tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [16, 17, 18, 19])
    """
    if not 0 < validation < 1:
        raise InputError(f"validation must be a share of the rows between 0 and 1, for instance 0.1, not {validation}")
    between = math.ceil(length / stride) - 1
    training, held_out = [], []
    for run in np.split(np.arange(len(steps)), np.flatnonzero(np.diff(steps) != stride) + 1):
        held = max(1, round(len(run) * validation))
        if len(run) > held + between:
            training.append(run[: len(run) - held - between])
            held_out.append(run[-held:])
        else:
            training.append(run)
    if not held_out:
        raise InputError(
            f"{len(steps)} windows of {length} steps in {len(training)} stretch(es): none is long enough to hold "
            "windows out that share no step with the others; use a shorter window, or give longer series"
        )
    return np.concatenate(training), np.concatenate(held_out)
