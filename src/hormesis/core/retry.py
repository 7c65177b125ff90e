"""When to try again: the back-off, and the budget that keeps retries from feeding an outage.

Back-off: the n-th failure is followed by `min(delay_max, delay * factor ** (n - 1))` seconds, and jitter is applied
*after* that cap. Capping last would put most late delays exactly on the cap and march all clients in step again.

    none    d
    full    U(0, d)               spreads best, and is the default
    equal   d/2 + U(0, d/2)       keeps a least delay

Budget: each call deposits `share` of a token into a stock of at most `stock`, each retry withdraws one. A quiet client
starts with a full stock and so may retry; under a full outage retries add at most `share` to the traffic. It is
refilled by traffic alone: a floor per second would keep an outage alive when there are many clients.

Sources: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015); Finagle's `RetryBudget`, without its floor.
"""

from __future__ import annotations

from collections.abc import Callable

from hormesis.clock import Random
from hormesis.core.admission import Lock
from hormesis.core.ticks import Ticks

__all__ = ["JITTERS", "RetryBudget", "backoff"]


def _none(delay: float, random: Random) -> float:  # noqa: ARG001  every jitter has the same shape
    return delay


def _full(delay: float, random: Random) -> float:
    return delay * random.random()


def _equal(delay: float, random: Random) -> float:
    return delay / 2 + delay / 2 * random.random()


JITTERS: dict[str, Callable[[float, Random], float]] = {"full": _full, "equal": _equal, "none": _none}
"""Jitters by name: functions of a capped delay and a source of randomness."""

_DOUBLINGS_MAX = 1000
"""`factor ** n` overflows a float soon after; the cap has long been reached by then."""


def backoff(
    failures: int,
    *,
    delay: float,
    factor: float,
    delay_max: float,
    jitter: Callable[[float, Random], float],
    random: Random,
) -> float:
    """Return the seconds to wait after so many failures (from 1).

    >>> from random import Random
    >>> none, random = JITTERS["none"], Random(1)
    >>> [backoff(n, delay=0.1, factor=2, delay_max=0.5, jitter=none, random=random) for n in range(1, 5)]
    [0.1, 0.2, 0.4, 0.5]
    """
    try:
        uncapped = delay * factor ** min(failures - 1, _DOUBLINGS_MAX)
    except OverflowError:
        uncapped = delay_max
    return jitter(min(delay_max, uncapped), random)


class RetryBudget:
    """A stock of retries that traffic refills.

    Args:
        share: Retries earned by a call, such as 0.2.
        stock: The most that is kept, and what a new budget begins with.
        lock: Guards withdrawals; deposits take none.

    >>> from hormesis.core.admission import NullLock
    >>> budget = RetryBudget(share=0.5, stock=1, lock=NullLock())
    >>> budget.withdraw(), budget.withdraw()
    (True, False)
    >>> _ = budget.deposit(), budget.deposit()
    >>> budget.withdraw()
    True
    """

    __slots__ = ("_calls", "_lock", "_seen", "_tokens", "deposit", "share", "stock")

    def __init__(self, *, share: float, stock: float, lock: Lock) -> None:
        self.share = share
        self.stock = stock
        self._lock = lock
        self._tokens = stock
        self._calls = Ticks()
        self.deposit = self._calls.draw
        self._seen = 0

    def withdraw(self) -> bool:
        """Take one retry out of the stock; False when there is none."""
        with self._lock:
            calls = self._calls.read()
            self._tokens = min(self.stock, self._tokens + self.share * (calls - self._seen))
            self._seen = calls
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
