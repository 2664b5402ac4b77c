"""Which points are worth having, and which one meets what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeae.sweeping.record import Limits, Point, Trial

__all__ = ["beyond", "meets", "pareto_front", "pick", "points_of"]

NOISE = 1.1  # a model is not worth having for a latency that is better by less than this: measuring again may tell


def points_of(trials: Iterable[Trial], *, kept: bool = True) -> list[Point]:
    """Return the points of all trials, or of those whose models are still there."""
    return [point for trial in trials if trial.kept or not kept for point in trial.points]


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one dominates, by size of the model, bytes of a row and error.

    One dominates another if it is no worse in any of error, bytes of a row, size of the model and latency (by more than
    noise), and better in one. Of equal points the first stays.

    Example:
        >>> def at(mse, size):
        ...     return Point(0, "fp32", "int8", mse, mse, None, 8.0, size, size, 20.0, 1e5)
        >>> [point.mse for point in pareto_front([at(0.1, 10), at(0.2, 20), at(0.05, 30)])]
        [0.1, 0.05]
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (*_costs(each), each.latency_us)):  # what dominates comes before
        if not any(_dominates(other, point) for other in front):
            front.append(point)
    return sorted(front, key=_size)


def pick(front: Sequence[Point], limits: Limits) -> tuple[Point | None, Point | None]:
    """Return the smallest point that meets the limits and None, or, where none does, None and the nearest.

    Smallest is that with the smallest model, of these that with the fewest bytes a row; nearest is that whose worst
    miss, as a factor, is smallest, then its second worst. Without limits, and without points, both are None.
    """
    if limits == Limits() or not front:
        return None, None
    fitting = [point for point in front if meets(point, limits)]
    if fitting:
        return min(fitting, key=_size), None
    return None, min(front, key=lambda point: (sorted(beyond(point, limits).values(), reverse=True), _size(point)))


def meets(point: Point, limits: Limits) -> bool:
    """Say whether a point meets all limits."""
    return not beyond(point, limits)


def beyond(point: Point, limits: Limits) -> dict[str, float]:
    """Return the limits that a point misses: the limit's name to value over limit.

    Example:
        >>> beyond(Point(0, "fp32", "int8", 0.02, 0.02, None, 8.0, 500, 900, 20.0, 1e5), Limits(max_mse=0.01))
        {'max_mse': 2.0}
    """
    values = {
        "max_mse": (point.mse, limits.max_mse),
        "max_latency_us": (point.latency_us, limits.max_latency_us),
        "max_bytes": (point.model_bytes, limits.max_bytes),
        "max_row_bytes": (point.row_bytes, limits.max_row_bytes),
    }
    return {name: value / limit for name, (value, limit) in values.items() if limit is not None and value > limit}


def _costs(point: Point) -> tuple[float, ...]:
    return (point.mse, point.row_bytes, point.model_bytes)


def _dominates(one: Point, other: Point) -> bool:
    """Say whether one point, which does not come after the other, is as good or better in everything."""
    if _costs(one) == _costs(other):
        return one.latency_us <= other.latency_us
    no_worse = all(a <= b for a, b in zip(_costs(one), _costs(other), strict=True))
    return no_worse and one.latency_us <= NOISE * other.latency_us


def _size(point: Point) -> tuple[float, ...]:
    return (point.model_bytes, point.row_bytes, point.mse)
