"""Which training rows to leave out before training, where nobody knows which of them are anomalies (no PyTorch)."""

from __future__ import annotations

import math

import numpy as np

from edgeae.data.dataset import BLOCK_VALUES, Array

__all__ = ["REFERENCE_ROWS", "typical_part"]

REFERENCE_ROWS = 2000  # distances are to so many rows at most
REFERENCE_VALUES = 1024  # of so many values of a row at most
CLIP = 2.0  # standard deviations


def typical_part(x: Array, index: Array, share: float, seed: int) -> Array:
    """Return the row numbers in `index` without the share of them that lie farthest from their kind.

    A network trained on all rows learns anomalies that form a cluster as readily as anything else, and among each other
    they have near neighbours: neither a small error nor a near neighbour says that a row is normal. But if at most a
    share t of the rows are anomalies, an anomaly has no more of them around it than that. So the distance to the k-th
    nearest row of all (Ramaswamy, Rastogi and Shim 2000, https://doi.org/10.1145/342009.335437), with k the share t of
    the rows instead of the usual handful, is that to a normal row at least, however tight the cluster.

    Neighbours are looked for among rows and values drawn with the seed, so that the cost is that of one product of
    the rows with 2,000 others of at most 1,024 values, and memory does not grow with the rows. Values are
    standardised with the statistics of those rows and end at two standard deviations, so that no single value, such
    as a rarely used pixel, decides.

    Args:
        x: float32 or uint8 [n, *shape] in the user's units, finite.
        index: int64 [m], m >= 2.
        share: t, from 0 to less than 0.5; at least one row is left out of it unless it is 0, and one is kept.
        seed: The same seed gives the same rows.

    Returns:
        int64, the rest of `index` in its order.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> rows = generator.normal(size=(500, 8)).astype(np.float32)
        >>> rows[:20] = 4 + 0.01 * generator.normal(size=(20, 8))  # closer together than any others
        >>> kept = typical_part(rows, np.arange(500), 0.05, seed=0)
        >>> len(kept), int(kept.min())
        (475, 20)
    """
    from threadpoolctl import threadpool_limits

    left_out = min(math.ceil(share * len(index)), len(index) - 1)
    if left_out < 1:
        return index
    generator = np.random.default_rng((seed, len(index)))
    drawn = np.sort(generator.choice(len(index), min(REFERENCE_ROWS, len(index)), replace=False))
    values = x[:1].size
    columns = np.sort(generator.choice(values, min(REFERENCE_VALUES, values), replace=False))

    def chosen_values(rows: Array) -> Array:
        return x[rows].reshape(len(rows), -1)[:, columns].astype(np.float32)

    reference = chosen_values(index[drawn])
    mean, deviation = reference.mean(axis=0, dtype=np.float64), reference.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)

    def standardised(rows: Array) -> Array:
        result: Array = np.clip((chosen_values(rows) - mean) / scale, -CLIP, CLIP).astype(np.float32)
        return result

    reference = standardised(index[drawn])
    lengths = np.square(reference).sum(axis=1)
    # of a sample, the share may by chance be larger: by two standard deviations of a draw without replacement
    chance = 2 * math.sqrt(share * (1 - share) * len(drawn) * (1 - len(drawn) / len(index)))
    nearest = min(math.ceil(share * len(drawn) + chance), len(drawn) - 1)
    distances = np.empty(len(index), np.float32)
    step = max(1, BLOCK_VALUES // max(len(drawn), values))
    with threadpool_limits(1):  # sums in another order could leave out other rows
        for start in range(0, len(index), step):
            rows = standardised(index[start : start + step])
            squared = lengths - 2 * rows @ reference.T + np.square(rows).sum(axis=1, keepdims=True)
            distances[start : start + step] = np.partition(squared, nearest, axis=1)[:, nearest]
    kept = np.argsort(distances, kind="stable")[: len(index) - left_out]
    return np.asarray(index[np.sort(kept)])
