"""When to try again: the back-off, and the budget that keeps retries from feeding an outage.

Back-off: after the n-th failure of a call, d is at most `delay_max` of

    exponential     delay * factor ** (n - 1)
    linear          delay * n
    constant        delay

and jitter is applied *after* that cap. Capping last would put most late delays exactly on the cap and march all clients
in step again.

    none            d
    full            U(0, d)               spreads best, and is the default
    equal           d/2 + U(0, d/2)       keeps a least delay

Two jitters grow by themselves, each delay from the one before. Their cap must not collect delays either: the one caps
the range that it draws from, the other draws anew below the cap.

    decorrelated    U(delay, min(delay_max, 3 * previous)), where previous begins as delay
    smooth          delay * (f(t) - f(previous t)) / 1.4 with t = n - 1 + U(0, 1), f(t) = 2 ** t * tanh(sqrt(4 * t))
                    and f(previous t) begins as 0; where that is above delay_max, U(delay_max / 2, delay_max)

The medians of smooth are 0.90, 1.14, 2.03, 4.01, 8.0 times `delay`, and its density has neither gaps nor peaks.

Retry-After: a server that says when to come back has said it to every client, and those that obey to the second come
back together. So the wait is what it asked for (at most `retry_after_max`) and the jittered back-off on top.

Budget: each call deposits `share` of a token into a stock of at most `stock`, each retry withdraws one. A quiet client
starts with a full stock and so may retry; under a full outage retries add at most `share` to the traffic. It is
refilled by traffic alone: a floor per second would keep an outage alive when there are many clients.

Sources: AWS Architecture Blog, "Exponential Backoff And Jitter" (2015); Polly's `DecorrelatedJitterBackoffV2`, by
George Polevoy; Finagle's `RetryBudget`, without its floor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from hormesis.clock import Random
from hormesis.core.admission import Lock
from hormesis.core.ticks import Ticks

__all__ = ["GROWTHS", "JITTERS", "SELF_GROWING", "Backoff", "Delays", "Growth", "Jitter", "RetryBudget"]

Growth: TypeAlias = Literal["exponential", "linear", "constant"]
Jitter: TypeAlias = Literal["full", "equal", "none", "decorrelated", "smooth"]

_DECORRELATED_FACTOR = 3.0
"""What AWS chose: a delay is at most three times the one before, and grows by half on average."""

_SMOOTH_SCALE = 1.4
"""Brings the median of the first delays of smooth jitter near `delay`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """What the delays of a call are computed from.

    Args:
        delay: Seconds after the first failure, before jitter.
        growth: How it grows from failure to failure; the jitters in `SELF_GROWING` grow by themselves.
        factor: What exponential growth multiplies it by.
        delay_max: The most seconds that it grows to.
        jitter: What makes the delays of many clients differ.

    >>> doubling = Backoff(delay=0.1, growth="exponential", factor=2, delay_max=0.5, jitter="full")
    >>> [doubling.longest(failures) for failures in range(1, 5)]
    [0.1, 0.2, 0.4, 0.5]
    """

    delay: float
    growth: Growth
    factor: float
    delay_max: float
    jitter: Jitter

    def capped(self, failures: int) -> float:
        """Return the seconds after so many failures (from 1), capped, and before jitter."""
        return self._at_most(GROWTHS[self.growth](self.factor, failures))

    def longest(self, failures: int) -> float:
        """Return the most seconds that can be drawn after so many failures (from 1)."""
        if self.jitter == "decorrelated":
            return self._at_most(_power(_DECORRELATED_FACTOR, failures))
        if self.jitter == "smooth":
            return self._at_most(_climb(_smooth(max(0, failures - 2)), _smooth(failures)))
        return self.capped(failures)

    def _at_most(self, multiple: float) -> float:
        # No delay stays none, also when the multiple is beyond a float.
        return min(self.delay_max, self.delay * multiple) if self.delay else 0.0


def _power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return math.inf


GROWTHS: dict[Growth, Callable[[float, int], float]] = {
    "exponential": lambda factor, failures: _power(factor, failures - 1),
    "linear": lambda factor, failures: failures,  # noqa: ARG005  every growth has the same shape
    "constant": lambda factor, failures: 1,  # noqa: ARG005
}
"""How delays grow, by name: from the factor and the number of failures to a multiple of the first delay."""


class Delays:
    """The delays of one call, from failure to failure.

    Args:
        backoff: What they are computed from.
        retry_after_max: The most seconds of a Retry-After that are heeded.
        random: Where jitter comes from.

    >>> from random import Random
    >>> backoff = Backoff(delay=0.5, growth="linear", factor=2, delay_max=5, jitter="none")
    >>> delays = Delays(backoff, retry_after_max=60, random=Random(1))
    >>> delays.next(1), delays.next(2), delays.next(3, retry_after=2), delays.next(4, retry_after=3600)
    (0.5, 1.0, 3.5, 62.0)
    """

    __slots__ = ("_backoff", "_carry", "_draw", "_random", "_retry_after_max")

    def __init__(self, backoff: Backoff, *, retry_after_max: float, random: Random) -> None:
        self._backoff = backoff
        self._draw = JITTERS[backoff.jitter]
        self._carry = 0.0
        self._retry_after_max = retry_after_max
        self._random = random

    def next(self, failures: int, retry_after: float | None = None) -> float:
        """Return the seconds to wait after a failure.

        Args:
            failures: How many the call has had, this one included; one more each time.
            retry_after: The seconds that the server asked for; None when it said nothing.
        """
        delay, self._carry = self._draw(self._backoff, failures, self._carry, self._random)
        return delay if retry_after is None else min(retry_after, self._retry_after_max) + delay


Draw: TypeAlias = Callable[[Backoff, int, float, Random], tuple[float, float]]
"""From the failures of a call and what the draw before handed on (0 at first): a delay, and what is handed on."""


def _none(
    backoff: Backoff,
    failures: int,
    carry: float,
    random: Random,  # noqa: ARG001  every jitter has the same shape
) -> tuple[float, float]:
    return backoff.capped(failures), carry


def _full(backoff: Backoff, failures: int, carry: float, random: Random) -> tuple[float, float]:
    return _between(0.0, backoff.capped(failures), random), carry


def _equal(backoff: Backoff, failures: int, carry: float, random: Random) -> tuple[float, float]:
    whole = backoff.capped(failures)
    return _between(whole / 2, whole, random), carry


def _decorrelated(
    backoff: Backoff,
    failures: int,  # noqa: ARG001
    previous: float,
    random: Random,
) -> tuple[float, float]:
    least = min(backoff.delay, backoff.delay_max)
    most = min(backoff.delay_max, _DECORRELATED_FACTOR * max(previous, least))
    delay = _between(least, most, random)
    return delay, delay


def _smoothly(backoff: Backoff, failures: int, carry: float, random: Random) -> tuple[float, float]:
    reached = _smooth(failures - 1 + random.random())
    delay = backoff.delay * _climb(carry, reached) if backoff.delay else 0.0
    if delay > backoff.delay_max:
        delay = _between(backoff.delay_max / 2, backoff.delay_max, random)
    return delay, reached


def _between(least: float, most: float, random: Random) -> float:
    return least + (most - least) * random.random()


def _smooth(t: float) -> float:
    return _power(2.0, t) * math.tanh(math.sqrt(4.0 * t))


def _climb(low: float, high: float) -> float:
    """The multiple of the first delay that lies between two values of `_smooth`; beyond a float they are one."""
    return math.inf if low == math.inf else (high - low) / _SMOOTH_SCALE


JITTERS: dict[Jitter, Draw] = {
    "full": _full,
    "equal": _equal,
    "none": _none,
    "decorrelated": _decorrelated,
    "smooth": _smoothly,
}
"""Jitters by name."""

SELF_GROWING: frozenset[Jitter] = frozenset({"decorrelated", "smooth"})
"""Those whose delays grow from one another, at a pace of their own."""


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

    __slots__ = ("_calls", "_lock", "_seen", "_share", "_stock", "_tokens", "deposit")

    def __init__(self, *, share: float, stock: float, lock: Lock) -> None:
        self._share = share
        self._stock = stock
        self._lock = lock
        self._tokens = stock
        self._calls = Ticks()
        self.deposit = self._calls.draw
        """Count a call; any thread, and no lock."""
        self._seen = 0

    def withdraw(self) -> bool:
        """Take one retry out of the stock; False when there is none."""
        with self._lock:
            if self._refill() < 1:
                return False
            self._tokens -= 1
            return True

    def reconfigure(self, *, share: float, stock: float) -> None:
        """Go by other terms from now on: what was earned is kept, as far as the new stock holds it."""
        with self._lock:
            tokens = self._refill()
            self._share = share
            self._stock = stock
            self._tokens = min(stock, tokens)

    def snapshot(self) -> dict[str, float]:
        """The state as plain data."""
        with self._lock:
            return {"tokens": self._refill(), "share": self._share, "stock": self._stock}

    def _refill(self) -> float:
        calls = self._calls.read()
        self._tokens = min(self._stock, self._tokens + self._share * (calls - self._seen))
        self._seen = calls
        return self._tokens
