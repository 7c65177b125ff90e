"""The load shedder's machine: who may come in while not everybody can, who waits, and who is turned away.

**How many.** A limit on what is in flight, kept by an algorithm of `hormesis.core.limits`. What comes while there is
room goes in, whoever it is of.

**Who waits.** Otherwise it stands in a queue that is bounded in length and in time. While the service is overloaded
(the queue has not been empty for a while) the queue is kept by *rank*: the best goes in next, the worst is what a
better newcomer takes the place of. So the queue itself is the threshold between those who get in and those who don't.
It needs no controller that has to find it, and follows a change of load at once. A rank is, in this order:

    class    criticality: what is critical goes before all else, and background work is shed first
    share    whether its client has had its fair share of its class; what is beyond that comes after the others'
    cohort   drawn from the id of the request, so that all calls of a journey fare alike
    time     among equals, newest first: who has waited long is the least likely to be waited for

While it is not overloaded a queue is a moment's jam, and each class is served in the order in which it came.

**Fair shares.** Once a second the demand of each client is weighed against what its class got. Max-min: everybody gets
what he asks for, up to a level; the level is such that all of it is used. A client that asks for three times the level
keeps the third of its journeys with the lowest cohorts. The others are not refused: they go behind everybody else's.
Clients are counted in a bounded space. Who asks for much is seen early in each second, and who is not seen has asked
for little.

**Who is turned away**: who finds the queue full of its betters, waits too long, or could not be answered in its time
anyway. Shedding is capped itself: a share of what comes always goes in, whatever the limit says.

Sources: Cho et al., "Overload Control for µs-scale RPCs with Breakwater" (OSDI 2020), for the limit; Zhou et al.,
"Overload Control for Scaling WeChat Microservices" (SoCC 2018), for one priority per journey; Nichols and Jacobson,
"Controlling Queue Delay" (2012), for overload as a queue that does not become empty.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hormesis.core.admission import Lock, Permit, Refusal
from hormesis.core.limits import Algorithm, Move, QueueDelay, Windowing
from hormesis.core.quantile import MovingQuantile
from hormesis.priority import Criticality

__all__ = ["ShedPermit", "ShedWaiter", "ShedderMachine", "ShedderTerms"]

_WINDOW = 0.1
"""Seconds between moves of the limit: a round trip or two of most services, and ten times faster than the shares."""

_WINDOW_CALLS = 1
"""Delays are sampled by the clock, not by calls, so a window means something when a single call has ended in it."""

_SHARES_EVERY = 1.0
"""Seconds over which demand is weighed."""

_SMOOTHING = 0.5
"""The weight of the latest second in a client's demand."""

_CLIENTS_MAX = 4096
"""Clients that are counted in a second."""

_OVERLOADED_AFTER = 0.1
"""Seconds for which a queue must not have been empty."""

_CALM = 0.25
"""The share of the target below which a window's delay means that there was no overload in it."""

_LEARNED_MAX = 256
"""Latencies of one window that are kept until it is known whether they mean anything."""

_TARGET_LEAST = 0.05
"""The smallest target, as a share of the objective: below that a loop's own jitter would look like overload."""

_TOLD_FROM = 0.1
"""The share by which the limit must have moved to be told of."""

_CAP_FROM = 20
"""Arrivals in a second before their shed share means anything."""

_OUTBOX_MAX = 64

_CLASSES = len(Criticality)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShedderTerms:
    """What a machine goes by.

    Args:
        objective: Seconds in which an answer counts.
        quantile: The quantile of all answers that is to be within the objective.
        max_queued: How many may wait.
        max_wait: Seconds that one waits at most; None: as long as work may wait inside (see `ShedderMachine.max_wait`).
        shed_max: The largest share of what comes in a second that is turned away.
    """

    objective: float
    quantile: float
    max_queued: int
    max_wait: float | None
    shed_max: float


class ShedPermit(Permit):
    """Leave to serve one request."""

    __slots__ = ("began",)

    def __init__(self, began: float) -> None:
        self.began = began
        self.era = 0


class _Place(NamedTuple):
    """Where a waiter stands; the largest goes in next."""

    order: float
    time: int
    waiter: ShedWaiter


class ShedWaiter:
    """One request in the queue. The machine sets `permit` or `refusal`, then calls `wake` with no lock held.

    Args:
        criticality: A `Criticality`, or the number of one.
        cohort: The place of its journey in its class, from 0 to 1.
        client: Whose share it counts against.
        wake: Called once when the wait is over.
        now: When it came.
        patience: Seconds after which starting it makes no sense any more.
    """

    __slots__ = ("arrived", "client", "cohort", "criticality", "expires", "permit", "place", "refusal", "wake")

    def __init__(
        self,
        criticality: int,
        cohort: float,
        client: str,
        wake: Callable[[], None],
        *,
        now: float,
        patience: float = math.inf,
    ) -> None:
        self.criticality = criticality
        self.cohort = cohort
        self.client = client
        self.wake = wake
        self.arrived = now
        self.expires = now + patience
        self.permit: ShedPermit | None = None
        self.refusal: Refusal | None = None
        self.place: _Place | None = None
        """Where it stands in the queue; None when it is not in it."""


class ShedderMachine:
    """Admits requests; see the module's docstring.

    Args:
        terms: What it goes by.
        algorithm: Keeps the limit. One that has a target gets it from the objective: queueing may take four tenths of
            it, or what the service leaves of it when nothing queues, if that is less.
        now: The time.
        lock: Makes a lock for each of the machine's parts.

    >>> from hormesis.core.admission import NullLock
    >>> from hormesis.core.limits import Fixed
    >>> terms = ShedderTerms(objective=0.25, quantile=0.99, max_queued=1, max_wait=None, shed_max=0.98)
    >>> machine = ShedderMachine(terms, Fixed(1), now=0.0, lock=NullLock)
    >>> permit = machine.admit(Criticality.DEFAULT, 0.5, "acme", 0.0)
    >>> machine.admit(Criticality.DEFAULT, 0.5, "acme", 0.0)
    Refusal(reason='busy', retry_after=None, waitable=True)
    >>> waiter = ShedWaiter(Criticality.DEFAULT, 0.5, "acme", lambda: None, now=0.0)
    >>> machine.enqueue(waiter, 0.0)
    >>> machine.end(permit, 0.1, good=True)
    >>> waiter.permit is not None
    True
    """

    __slots__ = (
        "_algorithm",
        "_arrived",
        "_keep",
        "_latencies",
        "_lock",
        "_no_load",
        "_offered",
        "_queue",
        "_queue_since",
        "_second_ends",
        "_sequence",
        "_served",
        "_shed",
        "_shed_share",
        "_smoothed",
        "_told",
        "_typical",
        "_window_delay",
        "_windowing",
        "due",
        "factor",
        "in_flight",
        "limit",
        "outbox",
        "overloaded",
        "terms",
    )

    def __init__(self, terms: ShedderTerms, algorithm: Algorithm, *, now: float, lock: Callable[[], Lock]) -> None:
        self.terms = terms
        self._algorithm = algorithm
        self._lock = lock()
        self._windowing = Windowing(seconds=_WINDOW, calls=_WINDOW_CALLS, now=now, lock=lock())
        self._no_load = MovingQuantile(quantile=terms.quantile, minimum=100, lock=lock())
        self._typical = MovingQuantile(quantile=0.5, minimum=20, lock=lock())
        self._latencies: list[float] = []
        self._window_delay = 0.0
        self._queue: list[_Place] = []
        self._queue_since = math.inf
        self._sequence = 0
        self._begin_second(now)
        self.due = now + _WINDOW
        self._smoothed: list[dict[str, float]] = [{} for _ in range(_CLASSES)]
        self._keep: list[dict[str, float]] = [{} for _ in range(_CLASSES)]
        """By class: the share of a client's journeys that is within its fair share; of all others, all are."""
        self._shed_share = 0.0
        self.overloaded = False
        """Whether the queue is kept by rank, since it has not been empty for a while."""
        self.in_flight = 0
        self.factor = 1.0
        """What the health of the system leaves of the limit, from 0 to 1; set from outside."""
        self.outbox: list[Move] = []
        """Moves of the limit that nobody has published yet."""
        self._set_target()
        self.limit = algorithm.limit
        """How many may be in flight now."""
        self._told = self.limit

    # Coming in.

    def admit(
        self, criticality: int, cohort: float, client: str, now: float, left: float = math.inf
    ) -> ShedPermit | Refusal:
        """Let a request in, or say why not; if the refusal is waitable, `enqueue` may do.

        Args:
            criticality: A `Criticality`, or the number of one.
            cohort: The place of its journey in its class, from 0 to 1.
            client: Whose share it counts against.
            now: The time.
            left: Seconds until nobody waits for the answer any more.
        """
        if now >= self.due:
            self.tick(now)
        with self._lock:
            self._arrived[criticality] += 1
            offered = self._offered[criticality]
            if client in offered:
                offered[client] += 1
            elif len(offered) < _CLIENTS_MAX:
                offered[client] = 1
            typical = self._typical.value
            if typical is not None and left < typical:
                return self._refused(criticality, "can't meet its deadline")
            if self.in_flight < self.limit and not self._queue:
                return self._enter(criticality, now)
            self._windowing.limited(self.in_flight)
            if len(self._queue) < self.terms.max_queued or (
                self._queue and self._order(criticality, cohort, client) > self._queue[0].order
            ):
                return Refusal("busy", None, True)
            if self._capped():
                return self._enter(criticality, now)
            return self._refused(criticality, "overloaded")

    def enqueue(self, waiter: ShedWaiter, now: float) -> Refusal | None:
        """Stand in the queue; None means that the waiter is in it, or has its permit already."""
        with self._lock:
            order = self._order(waiter.criticality, waiter.cohort, waiter.client)
            displaced = None
            if len(self._queue) >= self.terms.max_queued:
                if not self._queue or self._queue[0].order >= order:
                    return self._refused(waiter.criticality, "overloaded")
                displaced = self._remove(self._queue[0].waiter)
                displaced.refusal = self._refused(displaced.criticality, "displaced")
            if not self._queue:
                self._queue_since = now
            self._insert(waiter, order)
            woken = self._hand_over(now)
        if displaced is not None:
            displaced.wake()
        _wake(woken)
        return None

    def leave(self, waiter: ShedWaiter, now: float) -> None:
        """Give up waiting; a permit that was handed over meanwhile goes to the next."""
        with self._lock:
            if waiter.place is not None:
                self._remove(waiter)
                self._refused(waiter.criticality, "")
            permit, waiter.permit = waiter.permit, None
            if permit is not None:
                self.in_flight -= 1
                self._served[waiter.criticality] -= 1
            woken = self._hand_over(now)
        _wake(woken)

    def end(self, permit: ShedPermit, now: float, *, good: bool) -> None:
        """End a permit: its request has been answered, or given up.

        Args:
            permit: What `admit` or a waiter got.
            now: The time.
            good: Whether its latency means anything: it was answered, and not too late or by an error.
        """
        latency = now - permit.began
        if good:
            self._windowing.ended(latency, self.in_flight)
            self._typical.record(latency)
            if len(self._latencies) < _LEARNED_MAX:
                self._latencies.append(latency)
        else:
            self._windowing.dropped(self.in_flight)
        with self._lock:
            self.in_flight -= 1
            woken = self._hand_over(now) if self._queue else ()
        _wake(woken)
        if now >= self.due:
            self.tick(now)

    @property
    def max_wait(self) -> float:
        """Seconds that a request waits at most: twice the delay that the limit aims at, unless it is set."""
        if self.terms.max_wait is not None:
            return self.terms.max_wait
        return 2 * self.target

    @property
    def target(self) -> float:
        """The queueing delay, in seconds, that the objective leaves room for."""
        objective = self.terms.objective
        no_load = self._no_load.value
        room = 0.4 * objective if no_load is None else min(0.4 * objective, objective - no_load)
        return max(room, _TARGET_LEAST * objective)

    # What is observed, and what time brings.

    def observe(self, delay: float) -> None:
        """Take a sample of the queueing delay, in seconds."""
        self._windowing.delayed(delay)

    def tick(self, now: float) -> None:
        """Do what is due: move the limit, weigh the shares, find out whether there is an overload."""
        window = self._windowing.take(now)
        with self._lock:
            if window is not None:
                self._certify(window.delay, limited=window.limited)
                self._set_target()
                self._algorithm.update(window)
                self._window_delay = window.delay or 0.0
            self._move_limit()
            if now >= self._second_ends:
                self._weigh(now)
            overloaded = now - self._queue_since >= _OVERLOADED_AFTER
            if overloaded is not self.overloaded:
                self.overloaded = overloaded
                self._sort_anew()
            self._plan(now)
            woken = self._hand_over(now)
        _wake(woken)

    def pressure(self) -> float:
        """How near the service is to what it can do, from 0 to 1: the queueing delay, or the share that is shed.

        Half of it is the delay that the limit aims at: from there on, requests wait or are turned away.
        """
        return min(1.0, max(self._window_delay / (2 * self.target), self._shed_share))

    def snapshot(self, now: float) -> dict[str, object]:
        """Return the state as plain data.

        Returns:
            `limit`, `in_flight`, `queued`, `overloaded`, `target` and `delay` (seconds), `shed` (the share of what came
            in the last second that was turned away), and `clients_over` (clients that ask for more than their share).
        """
        with self._lock:
            return {
                "limit": self.limit,
                "in_flight": self.in_flight,
                "queued": len(self._queue),
                "overloaded": self.overloaded,
                "target": self.target,
                "delay": self._window_delay,
                "shed": self._shed_share,
                "clients_over": sum(map(len, self._keep)),
            }

    def reconfigure(self, terms: ShedderTerms, algorithm: Algorithm | None) -> None:
        """Go on with other terms; who is in stays in, who waits goes on waiting.

        Args:
            terms: The new ones.
            algorithm: What keeps the limit from now on; None leaves that to the one that there is.
        """
        with self._lock:
            self.terms = terms
            self._no_load.reconfigure(quantile=terms.quantile, minimum=100)
            if algorithm is not None:
                self._algorithm = algorithm
            self._set_target()

    # All that follows is called with the lock held.

    def _enter(self, criticality: int, now: float) -> ShedPermit:
        self.in_flight += 1
        self._served[criticality] += 1
        return ShedPermit(now)

    def _refused(self, criticality: int, reason: str) -> Refusal:
        self._shed[criticality] += 1
        # Who is turned away by an overload twice as large should come back half as often.
        return Refusal(reason, min(10.0, 1 / max(0.1, 1 - self._shed_share)))

    def _capped(self) -> bool:
        """Whether turning away one more would be more than may be."""
        arrived = sum(self._arrived)
        return arrived >= _CAP_FROM and sum(self._shed) + 1 > self.terms.shed_max * arrived

    def _order(self, criticality: int, cohort: float, client: str) -> float:
        """How soon a request goes in; larger is sooner."""
        if not self.overloaded:
            return -float(criticality)
        keep = self._keep[criticality].get(client, 1.0)
        # Stretched, so that the third that one client keeps is spread over the class like the whole of another's.
        share = cohort / keep if cohort < keep else 1 + (cohort - keep) / (1 - keep)
        return -(2 * criticality + share)

    def _insert(self, waiter: ShedWaiter, order: float) -> None:
        self._sequence += 1
        time = self._sequence if self.overloaded else -self._sequence
        waiter.place = _Place(order, time, waiter)
        bisect.insort(self._queue, waiter.place)

    def _remove(self, waiter: ShedWaiter) -> ShedWaiter:
        place, waiter.place = waiter.place, None
        assert place is not None  # noqa: S101  it stands in the queue
        del self._queue[bisect.bisect_left(self._queue, place)]
        if not self._queue:
            self._queue_since = math.inf
        return waiter

    def _sort_anew(self) -> None:
        """Keep the queue by the other order from now on."""
        waiters = sorted((place.waiter for place in self._queue), key=lambda waiter: waiter.arrived)
        self._queue.clear()
        for waiter in waiters:
            self._insert(waiter, self._order(waiter.criticality, waiter.cohort, waiter.client))

    def _hand_over(self, now: float) -> list[ShedWaiter]:
        """Let in who waits, as long as there is room; returns whom to wake."""
        woken = []
        while self._queue and self.in_flight < self.limit:
            waiter = self._remove(self._queue[-1].waiter)
            if now > waiter.expires:
                waiter.refusal = self._refused(waiter.criticality, "waited too long")
            else:
                waiter.permit = self._enter(waiter.criticality, now)
            woken.append(waiter)
        return woken

    def _certify(self, delay: float | None, *, limited: bool) -> None:
        """Learn how long answers take when nothing queues, from windows of which that is certain."""
        if delay is not None and delay < _CALM * self.target and not limited and not self._queue:
            for latency in self._latencies:
                self._no_load.record(latency)
        self._latencies.clear()

    def _set_target(self) -> None:
        if isinstance(self._algorithm, QueueDelay):
            self._algorithm.target = self.target

    def _move_limit(self) -> None:
        self.limit = max(1.0, self._algorithm.limit * self.factor)
        if abs(self.limit - self._told) >= _TOLD_FROM * self._told and len(self.outbox) < _OUTBOX_MAX:
            why = f"queueing delay {self._window_delay * 1000:.3g}ms"
            reason = why if self.factor == 1.0 else f"{why}, health {self.factor:.3g}"
            self.outbox.append(Move(self._told, self.limit, reason))
            self._told = self.limit

    def _begin_second(self, now: float) -> None:
        self._second_ends = now + _SHARES_EVERY
        self._arrived = [0] * _CLASSES
        self._served = [0] * _CLASSES
        self._shed = [0] * _CLASSES
        self._offered: list[dict[str, int]] = [{} for _ in range(_CLASSES)]

    def _weigh(self, now: float) -> None:
        """Find each client's share of its class from what the last second brought."""
        arrived = sum(self._arrived)
        self._shed_share = sum(self._shed) / arrived if arrived else 0.0
        for criticality in range(_CLASSES):
            offered, before = self._offered[criticality], self._smoothed[criticality]
            demand = {client: _SMOOTHING * was for client, was in before.items() if client not in offered and was >= 1}
            for client, count in offered.items():
                demand[client] = count + _SMOOTHING * (before.get(client, count) - count)
            self._smoothed[criticality] = demand
            served = self._served[criticality]
            keep = {}
            if self._shed[criticality] and len(demand) > 1:
                level = _level(demand.values(), served)
                keep = {client: max(level / asked, 1e-6) for client, asked in demand.items() if asked > level}
            self._keep[criticality] = keep
        self._begin_second(now)
        if self.overloaded:
            self._sort_anew()

    def _plan(self, now: float) -> None:
        # A window that is overdue waits for a call; looking ten times a window is often enough.
        self.due = min(max(self._windowing.due, now + _WINDOW / 10), self._second_ends)
        if not self.overloaded:
            self.due = min(self.due, self._queue_since + _OVERLOADED_AFTER)


def _level(demands: Iterable[float], capacity: float) -> float:
    """The max-min level: everybody gets what he asks for up to it, and together that is the capacity."""
    ascending = sorted(demands)
    left = float(capacity)
    for index, demand in enumerate(ascending):
        even = left / (len(ascending) - index)
        if demand > even:
            return even
        left -= demand
    return math.inf


def _wake(waiters: Iterable[ShedWaiter]) -> None:
    for waiter in waiters:
        waiter.wake()
