"""Rows, their labels and what their axes mean: the one form in which data travels through edgeae."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from edgeae.bundle.manifest import LAYOUTS, Layout, Series
from edgeae.errors import InputError

__all__ = [
    "RANKS",
    "Array",
    "Dataset",
    "describe_constants",
    "describe_dataset",
    "digest_rows",
    "row_blocks",
    "split_rows",
]

Array = np.ndarray[Any, Any]

RANKS: dict[Layout, int] = {"vector": 1, "HW": 2, "TC": 2, "CHW": 3, "HWC": 3}
BLOCK_VALUES = 2**20  # small enough to stay in cache and to stream a memory map of any size


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of data.

    Attributes:
        x: float32 or uint8 [n, *shape] with n >= 1; may be a read-only memory map of a file.
        y: Whole-number labels [n] (classes, or 0 normal and 1 anomaly), or None.
        layout: What the axes of one row mean.
        feature_names: For a vector, one name per value, or None.
        source: The file or data set it came from, without its folder, for people.
        series: For windows that were cut from series: how.
        steps: For these, int64 [n]: the number of each window's last step, counted from 0.
        step_labels: For these, where there are labels, int64 [n]: that of each window's last step.

    Raises:
        InputError: if the fields do not fit each other.

    Example:
        >>> data = Dataset(np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 0]), "HW")
        >>> data.row_shape, data.is_image, data.whole_numbers, data.anomaly_labels
        ((28, 28), True, True, True)
    """

    x: Array
    y: Array | None = None
    layout: Layout = "vector"
    feature_names: tuple[str, ...] | None = None
    source: str = "array"
    series: Series | None = None
    steps: Array | None = None
    step_labels: Array | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"layout {self.layout!r} is not one of {', '.join(LAYOUTS)}")
        if self.x.dtype not in (np.dtype(np.float32), np.dtype(np.uint8)):
            raise InputError(f"{self.source}: rows must be float32 or uint8, not {self.x.dtype}; use load_data")
        if self.x.ndim != RANKS[self.layout] + 1:
            raise InputError(
                f"{self.source}: the layout {self.layout} needs {RANKS[self.layout] + 1} dimensions with the rows "
                f"first, the data has shape {self.x.shape}; choose another layout or reshape it"
            )
        if self.x.size == 0:
            raise InputError(f"{self.source}: holds no values, its shape is {self.x.shape}")
        if self.y is not None and (self.y.shape != self.x.shape[:1] or self.y.dtype.kind not in "iu"):
            raise InputError(
                f"{self.source}: labels must be {len(self.x)} whole numbers, one per row, "
                f"not {self.y.dtype} of shape {self.y.shape}"
            )
        names = self.feature_names
        if names is not None and (self.layout != "vector" or len(names) != self.x.shape[1]):
            raise InputError(f"{self.source}: {len(names)} feature names for rows of shape {self.row_shape}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row, without the number of rows."""
        return tuple(self.x.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether a row is an image (HW, CHW or HWC)."""
        return self.layout in ("HW", "CHW", "HWC")

    @cached_property
    def whole_numbers(self) -> bool:
        """Whether all values are whole numbers in 0..255, whatever their dtype."""
        return are_whole_numbers(self.x)

    @cached_property
    def anomaly_labels(self) -> bool:
        """Whether there are labels and all are 0 (normal) or 1 (anomaly)."""
        return self.y is not None and bool(np.isin(self.y, (0, 1)).all())


def row_blocks(x: Array) -> Iterator[tuple[int, Array]]:
    """Yield (number of the first row, rows) over `x` in pieces of about a million values."""
    rows = max(1, BLOCK_VALUES // max(1, x[:1].size))
    for start in range(0, len(x), rows):
        yield start, x[start : start + rows]


def are_whole_numbers(x: Array) -> bool:
    """Tell whether all values of `x` are whole numbers in 0..255."""
    if x.dtype == np.uint8:
        return True
    return all(
        bool((block >= 0).all() and (block <= 255).all() and (block == np.rint(block)).all())
        for _, block in row_blocks(x)
    )


def describe_dataset(dataset: Dataset) -> str:
    """Describe a data set in one line.

    Example:
        >>> describe_dataset(Dataset(np.zeros((3, 28, 28), np.uint8), np.array([0, 9, 4]), "HW"))
        '3 rows of 28x28 uint8 (HW), labels 0..9'
        >>> describe_dataset(Dataset(np.zeros((2, 5), np.float32), np.array([0, 1])))
        '2 rows of 5 float32 (vector), 1 labelled as an anomaly'
    """
    count = f"{len(dataset)} row{'s' if len(dataset) != 1 else ''}"
    shape = "x".join(map(str, dataset.row_shape))
    text = f"{count} of {shape} {dataset.x.dtype} ({dataset.layout})"
    if dataset.y is None:
        return text
    if dataset.anomaly_labels:
        anomalies = int(np.count_nonzero(dataset.y))
        return f"{text}, {anomalies} labelled as {'an anomaly' if anomalies == 1 else 'anomalies'}"
    return f"{text}, labels {int(dataset.y.min())}..{int(dataset.y.max())}"


def describe_constants(x: Array, names: tuple[str, ...] | None = None) -> str | None:
    """Name the columns of vectors [n, d] that hold one value in every row; None where there is no such column.

    Example:
        >>> describe_constants(np.array([[1, 5, 2], [3, 5, 2]], np.float32), ("a", "b", "c"))
        "columns 'b', 'c' are constant"
    """
    first = x[:1]
    same = np.ones(x.shape[1], bool)
    for _, block in row_blocks(x):
        same &= (block == first).all(axis=0)
    constant = [repr(names[column]) if names else str(column) for column in np.flatnonzero(same)]
    if not constant:
        return None
    listed = ", ".join(constant[:5]) + (f", ... ({len(constant)} of {x.shape[1]})" if len(constant) > 5 else "")
    return f"column {listed} is constant" if len(constant) == 1 else f"columns {listed} are constant"


def split_rows(n: int, validation: float, seed: int) -> tuple[Array, Array]:
    """Split row numbers at random into training and validation rows.

    Args:
        n: Number of rows, at least 2.
        validation: Share of the rows to hold out, between 0 and 1; at least one row is held out and one is left.
        seed: The same seed gives the same split (NumPy's PCG64).

    Returns:
        Two int64 arrays, disjoint and together 0..n-1, shuffled: training rows, validation rows.

    Raises:
        InputError: if there are fewer than two rows or the share is not between 0 and 1.

    Example:
        >>> train, held_out = split_rows(10, 0.2, seed=0)
        >>> len(train), len(held_out), sorted([*train, *held_out]) == list(range(10))
        (8, 2, True)
    """
    if n < 2:
        raise InputError(f"{n} row{'s' if n != 1 else ''} cannot be split for training and validation; give at least 2")
    if not 0 < validation < 1:
        raise InputError(f"validation must be a share of the rows between 0 and 1, for instance 0.1, not {validation}")
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}")
    order = np.random.default_rng(seed).permutation(n).astype(np.int64, copy=False)
    held_out = min(n - 1, max(1, round(n * validation)))
    return order[held_out:], order[:held_out]


def digest_rows(x: Array) -> str:
    """Return the SHA-256 (hexadecimal) over dtype, shape and little-endian bytes of `x`, read piece by piece.

    Equal rows give equal digests, wherever they are kept (memory, memory map) and however they lie in memory.

    Example:
        >>> digest_rows(np.zeros((2, 3), np.float32)) == digest_rows(np.zeros((3, 2), np.float32).T)
        True
    """
    digest = hashlib.sha256(f"{x.dtype.name} {x.shape}\n".encode())
    for _, block in row_blocks(x):
        digest.update(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data.cast("B"))
    return digest.hexdigest()
