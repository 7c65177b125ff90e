"""The concurrency limit's machine: a bulkhead whose number of places is found out while it runs.

What admits and queues is the bulkhead's. Here it is observed how attempts end, and a window of observations is handed
to an *algorithm*, which keeps a limit. A permit ends as one of three things to it:

    success   its latency is observed, or that it was *dropped*, if it took longer than it may
    failure   it was dropped: the settings call those failures so that mean "too much"
    ignored   nothing, nor is a cancellation: an error that comes at once would look like a quick answer, and raise the
              limit of a dependency that is down

An observation is one atomic append; windows are made of them under the lock, by whoever comes when one is due.

A limit may also be held down from outside, by a *factor* between 0 and 1 such as the health of the system: what the
algorithm has found stays as it is, and fewer are let in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

from hormesis.core.admission import Lock, Permit, Refusal, Transition
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.limits import Algorithm, Window
from hormesis.outcome import Ending

__all__ = ["BoundedAlgorithm", "ConcurrencyLimitMachine", "LimitTerms"]

_OUTBOX_MAX = 16
"""Changes that wait to be told at most; the oldest go first."""

_FACTOR_MIN = 0.01
"""Nothing from outside closes a limit altogether: whether the system is well again shows by what is let in."""

_LOOKS = 10
"""Looks in the length of a window: how soon one is found complete that lacked calls, and how often health is asked."""

_LOOK_EVERY_MAX = 1.0
"""Seconds between looks at most, however long a window is."""

_SEEN_MAX = 10_000
"""Observations of a window that are kept, the first. In a second, no process of Python makes more."""

_DROPPED = math.inf
"""What stands for the latency of a call that was dropped."""


class BoundedAlgorithm(Algorithm, Protocol):
    """Keeps a limit within bounds, which may be set anew at any time."""

    least: float
    most: float

    @property
    def probing(self) -> bool:
        """Whether the limit is another for a while, to learn something, and will be as it was."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
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
        health: Says how well the system is, from 0 to 1; asked ten times a window, and once a second
            at least, with no lock held.
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


class ConcurrencyLimitMachine(BulkheadMachine):
    """Lets in as many attempts at a time as its algorithm finds right; see the module's docstring.

    Args:
        terms: What it goes by.
        lock: Guards the queue, the windows and the limit.

    Attributes:
        timed: Whether it must be told the time; a limit that stays has no use for it, and is a bulkhead and no more.
        factor: What the limit is multiplied by, from outside.
        outbox: Changes of the limit by a tenth or more that nobody has published yet.

    >>> from hormesis.core.admission import NullLock
    >>> from hormesis.core.latency_limits import AIMD
    >>> terms = LimitTerms(
    ...     algorithm=lambda start: AIMD(start=start, least=1, most=100), kind="aimd", start=2, least=1, most=100,
    ...     timeout=0.5, window=1.0, calls=1, max_queued=0, max_wait=1.0,
    ... )
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
        "_began",
        "_due",
        "_inside_most",
        "_limited",
        "_observes",
        "_seen",
        "_terms",
        "_told",
        "factor",
        "outbox",
        "timed",
    )

    outbox: list[Transition]  # type: ignore[assignment]  # a bulkhead has no news
    timed: bool

    def __init__(self, terms: LimitTerms, lock: Lock) -> None:
        limit = _whole(terms.start)
        super().__init__(max_concurrent=limit, max_queued=terms.max_queued, max_wait=terms.max_wait, lock=lock)
        self._terms = terms
        self._algorithm = None if terms.algorithm is None else terms.algorithm(terms.start)
        self._told = limit
        self._seen: list[float] = []
        """The latencies of what ended in this window."""
        self.factor = 1.0
        self.outbox = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Observe from now on; when that is, whoever comes first will say."""
        self._observes = self._algorithm is not None
        self.timed = self._observes or self._terms.health is not None
        self._began = math.inf
        self._due = -math.inf if self.timed else math.inf
        """When `_turn` has something to do."""
        self._seen.clear()
        self._inside_most = 0
        """The most attempts that were in when one of them ended."""
        self._limited = False

    @property
    def limit(self) -> int:
        """How many may be in at a time."""
        return self.max_concurrent

    def idle(self, now: float) -> bool:
        """Whether nobody is in and nothing was learned: a new machine would act the same."""
        return super().idle(now) and (self._algorithm is None or self._algorithm.limit == self._terms.start)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state as plain data: `limit`, the `factor` in it, `in_flight` and `queued`."""
        places = super().snapshot(now)
        return {
            "limit": places["max_concurrent"],
            "factor": self.factor,
            "in_flight": places["in_flight"],
            "queued": places["queued"],
        }

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because the limit is reached, or because others wait already."""
        if now >= self._due:
            self._turn(now)
        if not self.queue:
            try:
                return self.take()
            except IndexError:
                pass
        self._limited = True
        return self._full()

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success: its latency is observed."""
        if self._observes and len(self._seen) < _SEEN_MAX:
            took = now - started
            self._seen.append(took if took < self._terms.timeout else _DROPPED)
        self._end(permit, now)

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit in any way; only successes and failures are observed."""
        if ending is Ending.SUCCESS:
            self.succeed(permit, started, now)
            return
        if ending is Ending.FAILURE and self._observes and len(self._seen) < _SEEN_MAX:
            self._seen.append(_DROPPED)
        self._end(permit, now)

    def scale(self, factor: float) -> None:
        """Let in only this share of the limit, which goes on being found as before.

        Args:
            factor: Above 0, at most 1; less than a hundredth counts as that.
        """
        self.factor = min(1.0, max(_FACTOR_MIN, factor))
        self._resize("health")

    def become(self, terms: LimitTerms) -> None:
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
                self.factor = 1.0
            self._begin_anew()
        self._resize("reconfigured")

    def _end(self, permit: Permit, now: float) -> None:
        inside = self._in_flight()
        if inside > self._inside_most:  # noqa: PLR1730  `max` would be a call in each call
            self._inside_most = inside
        self.give(permit)
        if self.queue:
            self.hand_over()
        if now >= self._due:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """Do what is due: move the limit when a window is complete, and ask how well the system is."""
        reason = ""
        with self._lock:
            if now < self._due:
                return  # another thread does it
            terms, algorithm = self._terms, self._algorithm
            self._due = now + min(terms.window / _LOOKS, _LOOK_EVERY_MAX)
            window = None if algorithm is None else self._take(now)
            if window is not None and algorithm is not None:
                before = algorithm.limit
                algorithm.update(window)
                reason = _reason(algorithm, before, window)
        if window is not None:
            self._resize(reason)
        if terms.health is not None:
            self.scale(terms.health())

    def _take(self, now: float) -> Window | None:
        """Return the window, if it is complete as `hormesis.core.limits.Windowing` has it; under the lock."""
        terms, seen = self._terms, self._seen
        if self._began == math.inf:
            self._began = now
        passed = now - self._began
        if passed < terms.window or (len(seen) < terms.calls and passed < 10 * terms.window):
            return None
        taken = seen[:]
        del seen[: len(taken)]  # others may have appended meanwhile
        latencies = [max(0.0, latency) for latency in taken if latency != _DROPPED]
        window = Window(
            seconds=passed,
            ended=len(latencies),
            latency_min=min(latencies, default=math.inf),
            latency_mean=math.fsum(latencies) / len(latencies) if latencies else 0.0,
            in_flight_max=self._inside_most,
            limited=self._limited,
            dropped=len(taken) - len(latencies),
        )
        self._began, self._inside_most, self._limited = now, 0, False
        return window

    def _resize(self, reason: str) -> None:
        """Have as many places as the limit and the factor say, and note when that is another tenth."""
        with self._lock:
            terms = self._terms
            found = terms.start if self._algorithm is None else self._algorithm.limit
            limit = _whole(found * self.factor)
            if abs(limit - self._told) >= 0.1 * self._told:
                del self.outbox[: max(0, len(self.outbox) + 1 - _OUTBOX_MAX)]
                self.outbox.append(Transition(str(self._told), str(limit), reason))
                self._told = limit
            as_it_is = (self.max_concurrent, self.max_queued, self.max_wait)
        if as_it_is != (limit, terms.max_queued, terms.max_wait):
            self.reconfigure(max_concurrent=limit, max_queued=terms.max_queued, max_wait=terms.max_wait)


def _whole(limit: float) -> int:
    return max(1, math.floor(limit))


def _reason(algorithm: BoundedAlgorithm, before: float, window: Window) -> str:
    """Why a window has moved the limit, in words that are few enough for a metric's label."""
    if algorithm.probing:
        return "probe"
    if algorithm.limit > before:
        return "room for more"
    return "drops" if window.dropped else "latency"
