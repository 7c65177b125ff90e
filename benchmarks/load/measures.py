"""What is measured of a run, whether it was simulated or real.

*Goodput* is answers within the objective over what could have been had: the smaller of what was offered and what the
service can do. It has *settled* when from then on no two seconds have less than 85 % of what the phase ends with.
Fairness is Jain's index of what clients got relative to their max-min shares (Jain et al., 1984; Bertsekas and
Gallager, 1992).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

__all__ = ["jain", "max_min_shares", "median", "percentile", "settled_after", "spread"]

_STRETCH = 2.0
"""Seconds of goodput that are looked at together."""
_SETTLED = 0.85
"""Of 400 answers chance alone takes 5 %, which is three times less."""


def percentile(values: Sequence[float], q: float) -> float:
    """Return the q-th quantile (0 to 1) of sorted values; NaN of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not values:
        return math.nan
    return values[min(len(values) - 1, max(0, math.ceil(q * len(values)) - 1))]


def median(values: Sequence[float]) -> float:
    """Return the middle of the values, the mean of the two in the middle; NaN of none.

    >>> median([3.0, 1.0, 2.0]), median([1.0, 2.0])
    (2.0, 1.5)
    """
    ordered = sorted(values)
    if not ordered:
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def spread(values: Sequence[float]) -> float:
    """Return how far apart the largest and the smallest are."""
    return max(values) - min(values) if values else math.nan


def jain(values: Sequence[float]) -> float:
    """Return Jain's index: 1 when all got the same, 1/n when one got everything.

    >>> jain([1, 1, 1, 1]), jain([1, 0, 0, 0])
    (1.0, 0.25)
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else math.nan


def max_min_shares(demands: Sequence[float], capacity: float) -> list[float]:
    """Return what each gets when nobody can get more without someone getting less who has no more: min(demand, θ).

    >>> max_min_shares([10.0, 2.0, 1.0], 7.0)
    [4.0, 2.0, 1.0]
    """
    shares = [0.0] * len(demands)
    left = capacity
    order = sorted(range(len(demands)), key=demands.__getitem__)
    for place, index in enumerate(order):
        shares[index] = min(demands[index], left / (len(order) - place))
        left -= shares[index]
    return shares


def settled_after(good: Sequence[float], begin: float, end: float, within: float = math.inf) -> float:
    """Return the seconds from the beginning of a phase from which on its goodput is what it ends with.

    Args:
        good: When each answer within the objective came, in order.
        begin: Of the phase.
        end: Of the phase; it ends with the goodput of its last half. Infinity when that is none.
        within: Seconds that are looked at: over minutes chance has its bad moments too.

    >>> settled_after([t / 10 for t in range(0, 10)] + [4 + t / 10 for t in range(0, 160)], 0.0, 20.0)
    3.7
    """
    half = (begin + end) / 2
    enough = _SETTLED * _between(good, half, end) / (end - half) * _STRETCH
    if not enough:
        return math.inf
    for step in range(round((min(end - begin, within) - _STRETCH) * 10), -1, -1):
        at = begin + step / 10
        if _between(good, at, at + _STRETCH) < enough:
            return (step + 1) / 10
    return 0.0


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)
