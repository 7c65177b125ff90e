"""Client-side throttling: what a dependency would refuse anyway is not sent.

Refusing costs a dependency work as well, and one that is overloaded may spend most of what it has on saying no. So a
client that is refused often refuses a part of its calls itself, with the probability

    p = max(0, (requests - k * accepts) / (requests + 1))

over a rolling window. `requests` are the calls that were to be made, those among them that were refused here; `accepts`
are those that the dependency took. Below a share of 1 - 1/k refused calls nothing happens. Above it, the dependency
gets about k times as many as it takes: enough for it to show that it takes more again.

When it says for how long it wants to be left alone (`Retry-After`), nobody asks before that; the moment is jittered, so
that clients which were told the same don't come back in step.

However low the share, one call in so many seconds is let in: a dependency that nobody asks can't show that it is back.
With a k of 2, what is sent then doubles in about half a window, until it is all.

Source: Beyer et al., "Site Reliability Engineering" (2016), chapter 21, "Client-Side Throttling".
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hormesis.clock import Random
from hormesis.core.admission import Lock, Permit, Refusal
from hormesis.outcome import Ending

__all__ = ["ThrottleMachine", "ThrottleTerms"]

_BUCKETS = 10
"""Stretches of a window; it rolls on by one of them at a time."""
_JITTER = 0.1
"""The share of what a dependency asks for that is added at the most."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleTerms:
    """What a throttle goes by: one object for all of the same settings.

    Args:
        ratio: How many times as many calls the dependency gets as it takes, k.
        window: Seconds that are looked back on.
        minimum_calls: Calls that the window must hold before a share of them means something.
        retry_after_max: Seconds for which the dependency's own wish is heeded at most.
        probe_every: Seconds after which a call is let in whatever the share.
    """

    ratio: float
    window: float
    minimum_calls: int
    retry_after_max: float
    probe_every: float


class _LetIn(Permit):
    """Leave to call, and when the one before had it."""

    __slots__ = ("before",)

    def __init__(self, before: float) -> None:
        super().__init__(0)
        self.before = before


class ThrottleMachine:
    """Refuses a share of the calls to a dependency that refuses; see the module's docstring.

    Args:
        terms: What it goes by.
        lock: Guards the window.
        random: Draws who is refused, and jitters.

    >>> from hormesis.core.admission import NullLock
    >>> class Never:
    ...     def random(self): return 0.0
    >>> terms = ThrottleTerms(ratio=2.0, window=10.0, minimum_calls=4, retry_after_max=60.0, probe_every=1.0)
    >>> throttle = ThrottleMachine(terms, NullLock(), Never())
    >>> for _ in range(4):
    ...     throttle.end(throttle.acquire(0.0), Ending.FAILURE, 0.0, 0.0)
    >>> throttle.probability(0.0), throttle.acquire(0.5)
    (0.8, Refusal(reason='throttled', retry_after=0.5, waitable=False))
    """

    __slots__ = ("_accepts", "_index", "_let_in", "_lock", "_random", "_requests", "_until", "terms")

    timed = True
    holds_place = False
    outbox = None

    def __init__(self, terms: ThrottleTerms, lock: Lock, random: Random) -> None:
        self.terms = terms
        self._lock = lock
        self._random = random
        self._until = -math.inf
        """Until when the dependency wants to be left alone."""
        self._let_in = -math.inf
        """When a call was let in last."""
        self._forget()

    def _forget(self) -> None:
        self._index = 0
        # The stretch that is running comes last.
        self._requests = [0] * _BUCKETS
        self._accepts = [0] * _BUCKETS

    def acquire(self, now: float) -> Permit | Refusal:
        """Be let in, or be refused since the dependency would most likely refuse."""
        with self._lock:
            self._roll(now)
            if now < self._until:
                return Refusal("asked to wait", self._until - now)
            next_probe = self._let_in + self.terms.probe_every
            if now < next_probe:
                share = self._probability()
                if share and self._random.random() < share:
                    self._requests[-1] += 1
                    return Refusal("throttled", next_probe - now)
            permit = _LetIn(self._let_in)
            self._let_in = now
            return permit

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse for sure; what is left to chance is decided there."""
        until = self._until
        return Refusal("asked to wait", until - now) if now < until else None

    def put_back(self, permit: Permit) -> None:
        """Return a permit that was never used: then nobody was let in."""
        assert isinstance(permit, _LetIn)  # noqa: S101  what `acquire` gives
        with self._lock:
            self._let_in = permit.before

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit: the dependency took the call."""
        self.end(permit, Ending.SUCCESS, started, now)

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit; a failure is a call that the dependency refused, and what is neither is not counted."""
        if ending is not Ending.SUCCESS and ending is not Ending.FAILURE:
            return
        with self._lock:
            self._roll(now)
            self._requests[-1] += 1
            if ending is Ending.SUCCESS:
                self._accepts[-1] += 1
            elif retry_after is not None:
                asked = min(retry_after, self.terms.retry_after_max)
                jittered = min(asked * (1 + _JITTER * self._random.random()), self.terms.retry_after_max)
                self._until = max(self._until, now + jittered)

    def probability(self, now: float) -> float:
        """The share of calls that are refused now."""
        with self._lock:
            self._roll(now)
            return self._probability()

    def reconfigure(self, terms: ThrottleTerms) -> None:
        """Go on by other terms; a window of another length begins anew."""
        with self._lock:
            if terms.window != self.terms.window:
                self._forget()
            self.terms = terms

    def idle(self, now: float) -> bool:
        """Whether it would be no loss to forget it: nothing was refused lately."""
        with self._lock:
            self._roll(now)
            return now >= self._until and self._requests == self._accepts

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return what it holds as plain data.

        Returns:
            `requests` and `accepts` (what the window holds), `refused_share` (of the calls now), and `retry_after`
            (seconds that the dependency wants to be left alone; None when it does not).
        """
        with self._lock:
            self._roll(now)
            return {
                "requests": sum(self._requests),
                "accepts": sum(self._accepts),
                "refused_share": self._probability(),
                "retry_after": self._until - now if now < self._until else None,
            }

    # What follows wants the lock held.

    def _probability(self) -> float:
        requests = sum(self._requests)
        if requests < self.terms.minimum_calls:
            return 0.0
        return max(0.0, (requests - self.terms.ratio * sum(self._accepts)) / (requests + 1))

    def _roll(self, now: float) -> None:
        index = math.floor(now * _BUCKETS / self.terms.window)
        passed = min(index - self._index, _BUCKETS)
        if passed > 0:
            self._index = index
            self._requests[:] = self._requests[passed:] + [0] * passed
            self._accepts[:] = self._accepts[passed:] + [0] * passed
