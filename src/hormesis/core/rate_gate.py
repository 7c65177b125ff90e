"""Rate limits as what admits attempts: one limiter behind the interface of every admission machine.

A limiter keeps the states of all keys in one place, so there is no machine for each. What stands at the door of a call
is a `RateGate`: the limiter, with the call's key and cost. A permit is what was spent; it is spent however the attempt
ends, and comes back only when the attempt was never made.

Waiting is a reservation. The caller is told how long to wait, and may come in then without asking again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hormesis.core.admission import Permit, Refusal
from hormesis.core.rate_limit import Algorithm, RateLimiter
from hormesis.outcome import Ending

__all__ = ["RateGate", "RateGates", "RateTerms", "Spent"]


class Spent(Permit):
    """What an attempt has spent, for a moment on the clock."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        super().__init__(0)
        self.at = at


class RateGate:
    """Admits the attempts of one key and cost.

    Args:
        limiter: What decides.
        key: Whose limits.
        cost: What an attempt spends.
        max_wait: Seconds that a caller waits at most; 0 refuses at once.

    >>> from hormesis.core.admission import NullLock
    >>> from hormesis.core.rate_limit import TokenBucket
    >>> limiter = RateLimiter([TokenBucket("1/s", 1, 1.0, 1)], max_keys=None, lock=NullLock())
    >>> gate = RateGate(limiter, "", 1, max_wait=0.0)
    >>> permit = gate.acquire(10.0)
    >>> gate.acquire(10.0)
    Refusal(reason='1/s used up', retry_after=1.0, waitable=False)
    >>> gate.put_back(permit); gate.refusal(10.0) is None
    True
    """

    __slots__ = ("cost", "key", "limiter", "max_wait")

    timed = False
    holds_place = False
    outbox = None

    def __init__(self, limiter: RateLimiter, key: str, cost: int, *, max_wait: float) -> None:
        self.limiter = limiter
        self.key = key
        self.cost = cost
        self.max_wait = max_wait

    def acquire(self, now: float) -> Permit | Refusal:
        """Spend what an attempt costs, or be refused because too much was spent lately."""
        refusal = self.limiter.take(self.key, self.cost, now)
        return Spent(now) if refusal is None else self._marked(refusal)

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        refusal = self.limiter.refusal(self.key, self.cost, now)
        return None if refusal is None else self._marked(refusal)

    def _marked(self, refusal: Refusal) -> Refusal:
        """Say whether waiting helps."""
        refusal.waitable = refusal.retry_after is not None and refusal.retry_after <= self.max_wait
        return refusal

    def put_back(self, permit: Permit) -> None:
        """Return what was spent on an attempt that was not made."""
        assert isinstance(permit, Spent)  # noqa: S101  what `acquire` and `reserve` give
        self.limiter.put_back(self.key, self.cost, permit.at)

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit: what is spent is spent."""

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit: what is spent is spent."""

    def reserve(self, now: float, max_wait: float) -> Spent | Refusal:
        """Spend it for a moment that is at most so many seconds away."""
        wait = self.limiter.reserve(self.key, self.cost, now, max_wait)
        return wait if isinstance(wait, Refusal) else Spent(now + wait)

    def cancel(self, permit: Spent, now: float) -> None:
        """Give back what was spent for a moment that is yet to come."""
        self.limiter.cancel(self.key, self.cost, now, permit.at - now)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RateTerms:
    """What the calls of a part ask a limiter for.

    Args:
        max_wait: Seconds that a caller waits at most.
        cost: What a call spends.
        cost_of: Tells that from its arguments instead.
        by: What the keys are of; None where there are none. Limits can be handed on only between settings that agree.
        key_of: Tells the key of a call from its arguments.
        max_keys: Keys that are remembered at most; None where there are none.
    """

    max_wait: float
    cost: int
    cost_of: Callable[[Sequence[Any], Mapping[str, Any]], int] | None
    by: object
    key_of: Callable[[Sequence[Any], Mapping[str, Any]], str] | None
    max_keys: int | None


class RateGates:
    """A limiter, and what makes the gate of a call: the machine of a policy's part.

    Args:
        limiter: What decides.
        terms: What calls ask it for.

    Attributes:
        fixed: The gate of every call, where all are the same.
        key_of, cost, cost_of: As in the terms.
    """

    __slots__ = ("_terms", "cost", "cost_of", "fixed", "key_of", "limiter", "max_wait")

    def __init__(self, limiter: RateLimiter, terms: RateTerms) -> None:
        self.limiter = limiter
        self._go_by(terms)

    def _go_by(self, terms: RateTerms) -> None:
        self._terms = terms
        self.max_wait = terms.max_wait
        self.key_of = terms.key_of
        self.cost = terms.cost
        self.cost_of = terms.cost_of
        fixed = terms.key_of is None and terms.cost_of is None
        self.fixed = RateGate(self.limiter, "", terms.cost, max_wait=terms.max_wait) if fixed else None

    def gate(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> RateGate:
        """Return what admits a call with these arguments."""
        if self.fixed is not None:
            return self.fixed
        key = "" if self.key_of is None else self.key_of(args, kwargs)
        cost = self.cost if self.cost_of is None else self.cost_of(args, kwargs)
        return RateGate(self.limiter, key, cost, max_wait=self.max_wait)

    def reconfigure(self, limits: Sequence[Algorithm], terms: RateTerms) -> bool:
        """Go on with other settings, and with what was spent; False when the keys are others."""
        if terms.by != self._terms.by or not self.limiter.reconfigure(limits, terms.max_keys):
            return False
        self._go_by(terms)
        return True

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state as plain data.

        Returns:
            `limits`, each with `name`, `quota` and `window`, and how it stands where it is the same for all:
            `remaining` and `reset`. Where there are keys, `known` is how many are remembered, of `max_keys`.
        """
        standings = [standing._asdict() for standing in self.limiter.standings("", now)]
        if self._terms.by is None:
            return {"limits": standings}
        limits = [{name: each[name] for name in ("name", "quota", "window")} for each in standings]
        return {"limits": limits, "known": len(self.limiter), "max_keys": self._terms.max_keys}
