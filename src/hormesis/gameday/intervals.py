"""How sure a measurement is: confidence intervals of shares and quantiles, from requests that depend on each other.

*Shares* get Wilson's interval (E. B. Wilson, 1927), which stays inside 0 to 1 and does not collapse at either end.
*Quantiles* get one between two order statistics: of n values, how many lie below the quantile q is binomial (n, q), so
the ranks of that binomial's own quantiles bound it, whatever the distribution.

Both take requests for independent, and they are not: what hits one hits its neighbours in time. So time is cut into
slices, and how much more the slices differ than independent requests would (the *design effect*; L. Kish, *Survey
Sampling*, 1965) says how many independent requests they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

__all__ = ["design_effect", "of_count", "of_quantile", "of_share"]

_SLICES_MIN = 4
"""Fewer slices say nothing of how they differ."""


def design_effect(slices: Iterable[tuple[int, int]]) -> float:
    """Return by how much the variance of a share is larger than with independent requests; at least 1.

    Args:
        slices: For each slice of time, its requests and how many of them count.

    >>> design_effect([(10, 5)] * 8), design_effect([(10, 0), (10, 10)] * 4)
    (1.0, 11.428571428571429)
    """
    used = [(requests, hits) for requests, hits in slices if requests]
    total, counting = sum(requests for requests, _ in used), sum(hits for _, hits in used)
    if len(used) < _SLICES_MIN or not 0 < counting < total:
        return 1.0
    share = counting / total
    between = math.fsum((hits - requests * share) ** 2 for requests, hits in used) * len(used) / (len(used) - 1)
    return min(max(1.0, between / (total * share * (1 - share))), float(total))


def of_share(hits: int, requests: int, confidence: float, effect: float = 1.0) -> tuple[float, float]:
    """Return Wilson's interval of a share.

    Args:
        hits: The requests that count.
        requests: All of them; at least one.
        confidence: How sure it is to hold the true share.
        effect: The design effect.

    >>> [round(end, 3) for end in of_share(19, 20, 0.95)], [round(end, 3) for end in of_share(0, 20, 0.95)]
    ([0.764, 0.991], [0.0, 0.161])
    """
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    n = requests / effect
    share = hits / requests
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return (0.0 if hits == 0 else max(0.0, middle - half)), (1.0 if hits == requests else min(1.0, middle + half))


def of_count(count: int, confidence: float) -> tuple[float, float]:
    """Return an interval of the mean of a Poisson count, from its square root, whose variance is a quarter throughout.

    >>> [round(end, 1) for end in of_count(100, 0.95)]
    [81.4, 120.6]
    """
    half = NormalDist().inv_cdf((1 + confidence) / 2) / 2
    root = math.sqrt(count)
    return max(0.0, root - half) ** 2, (root + half) ** 2


def of_quantile(ordered: Sequence[float], q: float, confidence: float, effect: float = 1.0) -> tuple[float, float]:
    """Return an interval of a quantile, between two of the values themselves.

    Where the values are too few to bound it, the interval is open: from 0, or to infinity.

    Args:
        ordered: The values, ascending; at least one.
        q: Which quantile.
        confidence: How sure it is to hold the true quantile.
        effect: The design effect of the share of values beyond it.

    >>> of_quantile(range(1, 101), 0.5, 0.95), of_quantile(range(1, 101), 0.99, 0.95)
    ((40, 61), (97, inf))
    """
    count = len(ordered)
    n = max(1, round(count / effect))
    tail = (1 - confidence) / 2
    below, above = _binomial_quantile(n, q, tail), _binomial_quantile(n, q, 1 - tail) + 1
    low = ordered[min(count, math.ceil(below * count / n)) - 1] if below >= 1 else 0.0
    high = ordered[math.ceil(above * count / n) - 1] if above <= n else math.inf
    return low, high


def _binomial_quantile(n: int, p: float, level: float) -> int:
    """Return the least k for which at most k hits of n have at least this probability."""
    log_p, log_q = math.log(p), math.log1p(-p)
    # From three dozen standard deviations below the mean on, there is nothing to add up.
    spread = math.sqrt(n * p * (1 - p))
    k = max(0, math.floor(n * p - 36 * spread) - 1)
    total = 0.0
    while k < n:
        log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * log_p + (n - k) * log_q
        total += math.exp(log)
        if total >= level:
            return k
        k += 1
    return n
