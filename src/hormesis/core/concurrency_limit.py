"""The concurrency limit's machine: a bulkhead whose number of places is found out while it runs.

Three objects with one job each: `BulkheadMachine` admits and queues, `Windowing` collects what is observed, and an
`Algorithm` makes a limit of it. Here they are put together. A permit ends as one of three things to the algorithm:

    success   its latency is observed, or that it was *dropped*, if it took longer than it may
    failure   it was dropped: the settings call those failures so that mean "too much"
    ignored   nothing, nor is a cancellation: an error that comes at once would look like a quick answer, and raise the
              limit of a dependency that is down

A limit may also be held down from outside, by a *factor* between 0 and 1 such as the health of the system: what the
algorithm has found stays as it is, and fewer are let in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

from hormesis.core.admission import Lock, Permit, Refusal, Transition, Waiter
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.limits import Algorithm, Window, Windowing
from hormesis.outcome import Ending

__all__ = ["BoundedAlgorithm", "ConcurrencyLimitMachine", "LimitTerms"]

_OUTBOX_MAX = 16
"""Changes that wait to be told at most; the oldest go first."""

_FACTOR_MIN = 0.01
"""Nothing from outside closes a limit altogether: whether the system is well again shows by what is let in."""

_LOOKS = 10
"""Looks in the length of a window: how soon one is found complete that lacked calls, and how often health is asked."""


class BoundedAlgorithm(Algorithm, Protocol):
    """Keeps a limit within bounds, which may be set anew at any time."""

    least: float
    most: float

    @property
    def probing(self) -> bool:
        """Whether the limit is another for a while, to learn something, and will be as it was."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class LimitTerms:
    """What a machine goes by.

    Args:
        algorithm: Makes what moves the limit, given the limit to begin with; None for a limit that stays.
        kind: What the algorithm is called; machines keep theirs while it is called the same.
        start: The limit to begin with.
        least, most: Its bounds.
        timeout: Seconds from which a success counts as dropped.
        window: Seconds of a window of observations.
        calls: Calls of a window at least.
        max_queued: Callers that may wait.
        max_wait: Seconds that a caller waits at most.
        health: Says how well the system is, from 0 to 1; asked ten times a window, with no lock held.
    """

    algorithm: Callable[[float], BoundedAlgorithm] | None
    kind: str
    start: float
    least: int
    most: int
    timeout: float
    window: float
    calls: int
    max_queued: int
    max_wait: float
    health: Callable[[], float] | None = None


class ConcurrencyLimitMachine:
    """Lets in as many attempts at a time as its algorithm finds right; see the module's docstring.

    Args:
        terms: What it goes by.
        lock: Guards the queue, the window and the limit.

    >>> from hormesis.core.admission import NullLock
    >>> from hormesis.core.latency_limits import AIMD
    >>> terms = LimitTerms(lambda start: AIMD(start=start, least=1, most=100), "aimd", 2, 1, 100, 0.5, 1.0, 1, 0, 1.0)
    >>> machine = ConcurrencyLimitMachine(terms, NullLock())
    >>> machine.succeed(machine.acquire(0.0), 0.0, 0.1)
    >>> machine.succeed(machine.acquire(1.0), 1.0, 1.1)
    >>> machine.snapshot(1.1)
    {'limit': 3, 'factor': 1.0, 'in_flight': 0, 'queued': 0}
    >>> machine.outbox
    [Transition(before='2', after='3', reason='room for more')]
    """

    __slots__ = (
        "_algorithm",
        "_due",
        "_factor",
        "_lock",
        "_places",
        "_terms",
        "_told",
        "_windowing",
        "outbox",
    )

    holds_place = True

    def __init__(self, terms: LimitTerms, lock: Lock) -> None:
        self._lock = lock
        self._terms = terms
        self._algorithm = None if terms.algorithm is None else terms.algorithm(terms.start)
        self._windowing: Windowing | None = None
        """Made when the first attempt comes, since only then the time is known."""
        self._due = -math.inf if self._moves else math.inf
        """When `_turn` has something to do."""
        self._factor = 1.0
        self._told = _whole(terms.start)
        self.outbox: list[Transition] = []
        self._places = BulkheadMachine(
            max_concurrent=self._told, max_queued=terms.max_queued, max_wait=terms.max_wait, lock=lock
        )

    @property
    def _moves(self) -> bool:
        return self._algorithm is not None or self._terms.health is not None

    @property
    def timed(self) -> bool:
        """Whether ending a success needs the time; a limit that stays has no use for it."""
        return self._moves

    @property
    def limit(self) -> int:
        """How many may be in at a time."""
        return self._places.max_concurrent

    @property
    def max_wait(self) -> float:
        """Seconds that a caller waits at most."""
        return self._places.max_wait

    @property
    def factor(self) -> float:
        """What the limit is multiplied by, from outside."""
        return self._factor

    @property
    def in_flight(self) -> int:
        """Permits that are taken."""
        return self._places.in_flight

    def idle(self, now: float) -> bool:
        """Whether nobody is in and nothing was learned: a new machine would act the same."""
        return self._places.idle(now) and (self._algorithm is None or self._algorithm.limit == self._terms.start)

    def snapshot(self, now: float) -> dict[str, float]:
        """Return the state as plain data: `limit`, the `factor` in it, `in_flight` and `queued`."""
        places = self._places.snapshot(now)
        return {
            "limit": places["max_concurrent"],
            "factor": self._factor,
            "in_flight": places["in_flight"],
            "queued": places["queued"],
        }

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because the limit is reached, or because others wait already."""
        if now >= self._due:
            self._turn(now)
        permit, windowing = self._places.acquire(now), self._windowing
        if isinstance(permit, Refusal) and windowing is not None:
            windowing.limited(self._places.in_flight)
        return permit

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        return self._places.refusal(now)

    def put_back(self, permit: Permit) -> None:
        """Return a permit that was never used."""
        self._places.put_back(permit)

    def enqueue(self, waiter: Waiter) -> Refusal | None:
        """Stand in the queue, unless it is full."""
        return self._places.enqueue(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Give up waiting; a permit that was handed over meanwhile goes to the next."""
        self._places.leave(waiter)

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success: its latency is observed."""
        windowing = self._windowing
        if windowing is not None:
            if now - started < self._terms.timeout:
                windowing.ended(max(0.0, now - started), self._places.in_flight)
            else:
                windowing.dropped(self._places.in_flight)
        self._end(permit, now)

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit in any way; only successes and failures are observed."""
        if ending is Ending.SUCCESS:
            self.succeed(permit, started, now)
            return
        windowing = self._windowing
        if ending is Ending.FAILURE and windowing is not None:
            windowing.dropped(self._places.in_flight)
        self._end(permit, now)

    def scale(self, factor: float) -> None:
        """Let in only this share of the limit, which goes on being found as before.

        Args:
            factor: Above 0, at most 1; less than a hundredth counts as that.
        """
        self._factor = min(1.0, max(_FACTOR_MIN, factor))
        self._resize("health")

    def reconfigure(self, terms: LimitTerms) -> None:
        """Go on by other terms; who is in stays in, and a limit that finds itself goes on from where it is."""
        with self._lock:
            before, self._terms = self._terms, terms
            found = None if self._algorithm is None else self._algorithm.limit
            if terms.algorithm is None:
                self._algorithm = None
            elif self._algorithm is None or terms.kind != before.kind:
                self._algorithm = terms.algorithm(terms.start if found is None else found)
            if self._algorithm is not None:
                # The same algorithm keeps what it has learned: under load, it could not learn that again.
                self._algorithm.least, self._algorithm.most = terms.least, terms.most
                self._algorithm.limit = min(terms.most, max(terms.least, self._algorithm.limit))
            if terms.health is None and before.health is not None:
                self._factor = 1.0
            self._windowing = None
            self._due = -math.inf if self._moves else math.inf
        self._resize("reconfigured")

    def _end(self, permit: Permit, now: float) -> None:
        self._places.put_back(permit)
        if now >= self._due:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """Do what is due: move the limit when a window is complete, and ask how well the system is."""
        with self._lock:
            if now < self._due:
                return  # another thread does it
            terms, windowing, algorithm = self._terms, self._windowing, self._algorithm
            self._due = now + terms.window / _LOOKS
            if windowing is None and algorithm is not None:
                self._windowing = Windowing(seconds=terms.window, calls=terms.calls, now=now, lock=self._lock)
        window = None if windowing is None else windowing.take(now)
        if window is not None and algorithm is not None:
            with self._lock:
                before = algorithm.limit
                algorithm.update(window)
                reason = _reason(algorithm, before, window)
            self._resize(reason)
        if terms.health is not None:
            self.scale(terms.health())

    def _resize(self, reason: str) -> None:
        """Have as many places as the limit and the factor say, and note when that is another tenth."""
        with self._lock:
            terms = self._terms
            found = terms.start if self._algorithm is None else self._algorithm.limit
            limit = _whole(found * self._factor)
            if abs(limit - self._told) >= 0.1 * self._told:
                del self.outbox[: max(0, len(self.outbox) + 1 - _OUTBOX_MAX)]
                self.outbox.append(Transition(str(self._told), str(limit), reason))
                self._told = limit
            places = self._places
            as_it_is = (places.max_concurrent, places.max_queued, places.max_wait)
        if as_it_is != (limit, terms.max_queued, terms.max_wait):
            places.reconfigure(max_concurrent=limit, max_queued=terms.max_queued, max_wait=terms.max_wait)


def _whole(limit: float) -> int:
    return max(1, math.floor(limit))


def _reason(algorithm: BoundedAlgorithm, before: float, window: Window) -> str:
    """Why a window has moved the limit, in words that are few enough for a metric's label."""
    if algorithm.probing:
        return "probe"
    if algorithm.limit > before:
        return "room for more"
    return "drops" if window.dropped else "latency"
