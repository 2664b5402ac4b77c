"""Confidence intervals of rates that were counted, exact at any number of rows, with the standard library only."""

from __future__ import annotations

import math
from typing import Final

from edgeae.errors import InputError

__all__ = ["CONFIDENCE", "beta_cdf", "beta_quantile", "clopper_pearson"]

CONFIDENCE: Final = 0.95


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b): the chance that a Beta(a, b) variable is at most x.

    For whole numbers it is also a binomial tail: I_x(k, n - k + 1) = P(Bin(n, x) >= k). Computed from the continued
    fraction DLMF 8.17.22 (https://dlmf.nist.gov/8.17.E22) by Lentz's method, on the side where it converges fast.

    Args:
        x: Anywhere; below 0 and above 1 the answer is 0 and 1.
        a: Above 0, like b; up to about 1e8.

    Example:
        >>> round(beta_cdf(0.25, 1, 3), 6)
        0.578125
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return min(1.0, math.exp(front) / a * _continued_fraction(x, a, b))


def _continued_fraction(x: float, a: float, b: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1), tiny)
    value = d
    # it takes O(sqrt(max(a, b))) steps
    for m in range(1, 200 + 20 * math.isqrt(math.ceil(max(a, b)))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1 / _away_from_zero(1 + step * d, tiny)
            c = _away_from_zero(1 + step / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return value


def _away_from_zero(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Return the x below which a Beta(a, b) variable lies with the given probability, to 1e-12 of itself.

    Example:
        >>> round(beta_quantile(0.5, 1, 1), 9)
        0.5
    """
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
        if high - low <= 1e-12 * high:
            break
    return (low + high) / 2


def clopper_pearson(count: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact confidence interval of a rate of which `count` cases among `total` were seen.

    Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (Biometrika
    1934): it covers the rate at least as often as it says, whatever the rate.

    Raises:
        InputError: if there are no cases, or more counted than there are.

    Example:
        >>> [round(end, 4) for end in clopper_pearson(0, 100)]
        [0.0, 0.0362]
    """
    if not 0 <= count <= total or total < 1:
        raise InputError(f"clopper_pearson: {count} of {total} is no share")
    outside = (1 - confidence) / 2
    low = beta_quantile(outside, count, total - count + 1) if count else 0.0
    high = beta_quantile(1 - outside, count + 1, total - count) if count < total else 1.0
    return low, high
