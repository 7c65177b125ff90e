"""The load shedder's machine: who may come in while not everybody can, who waits, and who is turned away.

**How many.** A limit on what is in flight, kept by an algorithm of `hormesis.core.limits`. While it does not bind,
whoever comes goes in, and nothing else is asked.

**Who.** It binds: then every request has a rank (`hormesis.core.ranks`), which says, in this order,

    class    criticality: what is critical goes before all else, and background work is shed first
    share    whether its client has had its fair share of its class (`hormesis.core.shares`)
    journey  whether other calls of its journey have been let in before, or turned away
    cohort   drawn from the id of the request, so that all calls of a journey fare alike
    time     among equals, newest first: who has waited long is the least likely to be waited for

The rank decides three times. Beyond the *ceiling*, down to which what comes is as much as goes in, a request is turned
away at once, unless places are idle. Above it, the limit that counts for a request is *graded*: the better its rank the
higher, so that a burst of what matters finds room that others had to leave. It is highest for whole classes that are
safe and for journeys under way, and never above the most that there may be. Who finds no room waits in a queue, bounded
in length and time, from which the best goes in next, and in which a better newcomer takes the worst one's place.

A queue that has just begun is a moment's jam and no overload. Until it has lasted for a while each class is served in
the order in which it came.

**Who is turned away**: who is beyond the ceiling, finds the queue full of its betters, waits too long, or could not be
answered in its time anyway while places are scarce. When work goes on waiting inside for most of the objective, then
most of what is not critical, whatever is in flight. Shedding is capped itself: a share of what comes always goes in,
whatever the limit says.

**What is aimed at.** The objective leaves room for queueing: a third of it, or what an answer leaves when nothing
queues, if that is less. It is learned while nothing queues for certain. Less than half of the room is for the delay
inside, which the limit stays below, the less the more calls a journey makes, all of which have to be in time; a quarter
is for the wait outside. Both together are hardly ever used up: while work waits inside, only what is critical waits
outside as well, and the graded limit, which lets in at once, does the work.

Sources: Cho et al., "Overload Control for µs-scale RPCs with Breakwater" (OSDI 2020), for the limit; Zhou et al.,
"Overload Control for Scaling WeChat Microservices" (SoCC 2018), for one priority per journey; Nichols and Jacobson,
"Controlling Queue Delay" (2012), for overload as a queue that lasts. The constants were found by simulation over the
scenarios of docs/load.md, with one setting for all of them.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hormesis.core.admission import Lock, Permit, Refusal
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.limits import Algorithm, Move, QueueDelay, Window, Windowing
from hormesis.core.quantile import MovingQuantile
from hormesis.core.ranks import Ranks
from hormesis.core.shares import FairShares
from hormesis.priority import Criticality

__all__ = ["ShedPermit", "ShedWaiter", "ShedderMachine", "ShedderTerms"]

_WINDOW = 0.1
"""Seconds between looks at the ranks."""

_SECOND = 1.0
"""How often shares are weighed."""

_JOURNEYS_FOR = 5
"""Seconds for which a journey is remembered at least, and half of those at most."""

_OVERLOADED_AFTER = 0.1
"""Seconds for which a queue must have lasted."""

_OVERLOADED_WINDOWS = 3
"""Windows in a row in which the limit must have bound, where nobody may wait."""

_CALM_AFTER = 1.0
"""Seconds for which the limit must not have bound, for the overload to be over."""

_CALM_DELAY = 0.29
"""The share of the highest target below which a window's delay means that nothing queued in it."""

_LEARNED_FROM = (100, 3)
"""Latencies from which a quantile is known, and how many of them lie beyond it at least."""

_LEARNED_MAX = 256
"""Latencies of one window that are kept until it is known whether they mean anything."""

_ROOM = 0.35
"""The share of the objective that may go into queueing at most."""

_ROOM_LEAST = 0.1
"""The same at least: below that a loop's own jitter would look like overload."""

_INSIDE = 0.45
"""The share of the room that is for the delay inside."""

_LATENESS = 0.25
"""By which power of its calls a journey makes that less: it comes too late if one of them does."""

_OUTSIDE = 0.23
"""The share of the room that is for the wait outside; the rest is for the spread of both."""

_WORTH_WAITING = 0.5
"""The share of the longest wait that the delay inside may be, for waiting to make sense: who is let in after a wait has
to stand in line inside once more, and holds its place meanwhile."""

_SAFE = 2.0
"""The graded limit of classes that are safe as a whole, and of journeys under way, as a multiple of the limit. What
these get in beyond it others wait for, and a journey whose last call is turned away has had the others for nothing."""

_GRADE = (1.3, 0.3)
"""The same for others: so much for the best rank, less so much for each time over that what is better could go in."""

_IDLE = 0.95
"""The share of the limit below which places are idle, and given to anybody."""

_IDLE_BEYOND = 0.7
"""The same, for a client that is beyond its share: others would have used what it took in a moment."""

_IDLE_LAST = 0.5
"""The same, for a client that has had far more than its share, and for a journey that has failed already."""

_DROP_AT = 0.8
"""The delay inside, as a share of the objective, beyond which most of all is turned away."""

_DROP_AFTER = 3
"""Windows in a row in which it was: one piece of work that blocks an event loop makes everything late for a moment, and
is no overload."""

_SILENT_FOR = 1.0
"""Seconds after which a delay of which nothing more was heard is over, or twice the delay, if that is longer."""

_DROPS_EACH = 4
"""One in so many goes in then, besides what is critical."""

_TOLD_FROM = 0.1
"""The share by which the limit must have moved to be told of."""

_CAP_FROM = 20
"""Arrivals in a second before their shed share means anything."""

_OUTBOX_MAX = 64

_CLASSES = len(Criticality)

_FOUND = (QueueDelay, Vegas, Gradient2, AIMD)
"""Algorithms whose limit is found, within bounds."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShedderTerms:
    """What a machine goes by.

    Args:
        objective: Seconds in which an answer counts.
        quantile: The quantile of all answers that is to be within the objective.
        max_queued: How many may wait.
        max_wait: Seconds that one waits at most; None for what the objective leaves room for.
        shed_max: The largest share of what comes in a second that is turned away.
        window: Seconds that are observed before the limit moves.
        window_calls: How many requests end in a window at least.
        most: How many are in flight at most, however much they matter.
    """

    objective: float
    quantile: float
    max_queued: int
    max_wait: float | None
    shed_max: float
    window: float = _WINDOW
    window_calls: int = 1
    most: float = math.inf


class ShedPermit(Permit):
    """Leave to serve one request."""

    __slots__ = ("began", "over")

    def __init__(self, began: float) -> None:
        self.began = began
        self.over = False
        self.era = 0


class _Place(NamedTuple):
    """Where a waiter stands; the largest goes in next."""

    order: float
    time: int
    waiter: ShedWaiter


class ShedWaiter:
    """One request in the queue. The machine sets `permit` or `refusal`, then calls `wake` with no lock held.

    Who takes the permit puts None in its place: what `leave` finds there goes to the next. A waiter that is out of the
    queue (`place` is None) has its permit or refusal already.

    Args:
        criticality: A `Criticality`, or the number of one.
        cohort: The place of its journey in its class, from 0 to 1.
        client: Whose share it counts against.
        wake: Called once when the wait is over.
        now: When it came.
        patience: Seconds after which starting it makes no sense any more.
    """

    __slots__ = ("arrived", "client", "cohort", "criticality", "expires", "permit", "place", "rank", "refusal", "wake")

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
        self.rank = 0.0
        self.permit: ShedPermit | None = None
        self.refusal: Refusal | None = None
        self.place: _Place | None = None
        """Where it stands in the queue; None when it is not in it."""


class ShedderMachine:
    """Admits requests; see the module's docstring.

    Args:
        terms: What it goes by.
        algorithm: Keeps the limit; one that has a target gets it from the objective.
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
        "_bound_at",
        "_bound_windows",
        "_dropping",
        "_late_windows",
        "_latencies",
        "_lock",
        "_look_at",
        "_new_lock",
        "_no_load",
        "_queue",
        "_queue_since",
        "_ranks",
        "_second_ends",
        "_seconds",
        "_sequence",
        "_served",
        "_shares",
        "_shed",
        "_shed_share",
        "_silent",
        "_silent_windows",
        "_told",
        "_turned_away",
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
        self._new_lock = lock
        self._lock = lock()
        self._windowing = Windowing(seconds=terms.window, calls=terms.window_calls, now=now, lock=lock())
        self._no_load = MovingQuantile(quantile=terms.quantile, minimum=_learned_from(terms.quantile), lock=lock())
        self._typical = MovingQuantile(quantile=0.5, minimum=20, lock=lock())
        self._latencies: list[float] = []
        self._window_delay = 0.0
        self._queue: list[_Place] = []
        self._queue_since = math.inf
        self._bound_at = -math.inf
        self._bound_windows = 0
        self._dropping = 0
        self._late_windows = 0
        # Windows since one in which anything was heard of the delay, and their seconds.
        self._silent_windows = 0
        self._silent = 0.0
        self._look_at = now
        self._ranks = Ranks()
        self._shares = [FairShares() for _ in range(_CLASSES)]
        self._sequence = 0
        self._seconds = 0
        self._shed_share = 0.0
        self._begin_second(now)
        self.overloaded = False
        """Whether requests are told apart by rank."""
        self.in_flight = 0
        self.factor = 1.0
        """What the health of the system leaves of the limit, above 0 and up to 1; set from outside."""
        self.outbox: list[Move] = []
        """Moves of the limit that nobody has published yet."""
        self._aim()
        self.limit = algorithm.limit
        """How many may be in flight now."""
        self._told = self.limit
        self.due = now + _WINDOW
        """When `tick` has something to do."""

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
            self._shares[criticality].asked(client)
            typical = self._typical.value
            idle = self.in_flight <= _IDLE * self.limit
            # Idle places are given to anybody: if nobody came in whose time seems too short, nobody would ever find out
            # that answers have become quicker.
            if typical is not None and left < typical and not idle:
                return self._refused(criticality, cohort, "can't meet its deadline")
            rank = 0.0
            if self.overloaded:
                keeps = self._shares[criticality].kept(client)
                rank = self._ranks.rank(criticality, cohort, keeps)
                self._ranks.came(rank)
                idle = idle and self.in_flight <= self._idle_for(cohort, keeps)
            hopeless = (rank > self._ranks.ceiling and not idle) or self._drops(criticality)
            if not hopeless and self._is_next(criticality, rank) and self.in_flight < self._limit_of(criticality, rank):
                return self._enter(criticality, cohort, client, now)
            self._windowing.limited(self.in_flight)
            self._bound_at = now
            if not hopeless and self._finds_place(criticality, rank):
                return Refusal("busy", None, True)
            if self._capped():
                return self._enter(criticality, cohort, client, now)
            self._turned_away += 1
            return self._refused(criticality, cohort, "overloaded")

    def enqueue(self, waiter: ShedWaiter, now: float) -> Refusal | None:
        """Stand in the queue; None means that the waiter is in it, or has its permit already."""
        displaced = None
        with self._lock:
            if self.overloaded:
                kept = self._shares[waiter.criticality].kept(waiter.client)
                waiter.rank = self._ranks.rank(waiter.criticality, waiter.cohort, kept)
            if not self._finds_place(waiter.criticality, waiter.rank):
                return self._refused(waiter.criticality, waiter.cohort, "overloaded")
            if len(self._queue) >= self.terms.max_queued:
                displaced = self._queue[0].waiter
                displaced.refusal = self._refused(displaced.criticality, displaced.cohort, "displaced")
                self._gone(displaced)
                self._remove(displaced)
            if not self._queue:
                self._queue_since = now
                self.due = min(self.due, now + _OVERLOADED_AFTER)
            self._insert(waiter)
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
                self._shed[waiter.criticality] += 1
                self._gone(waiter)
            permit, waiter.permit = waiter.permit, None
            if permit is not None:
                self._give_back(permit)
            woken = self._hand_over(now)
        _wake(woken)

    def end(self, permit: ShedPermit, now: float, *, good: bool | None) -> None:
        """End a permit: its request has been answered, or given up. A permit ends once; ending it again does nothing.

        Args:
            permit: What `admit` or a waiter got.
            now: The time.
            good: Whether it was answered, and neither by an error nor cut off. None: how it went, and how long it took,
                says nothing.
        """
        if permit.over:
            return
        if good:
            latency = now - permit.began
            self._typical.record(latency)
            if latency <= self.terms.objective:
                self._windowing.ended(latency, self.in_flight)
                if len(self._latencies) < _LEARNED_MAX:
                    self._latencies.append(latency)
            else:
                self._windowing.dropped(self.in_flight)
        elif good is not None:
            self._windowing.dropped(self.in_flight)
        with self._lock:
            self._give_back(permit)
            woken = self._hand_over(now) if self._queue else ()
        _wake(woken)
        if now >= self.due:
            self.tick(now)

    @property
    def room(self) -> float:
        """The seconds of queueing that the objective leaves room for."""
        objective, no_load = self.terms.objective, self._no_load.value
        room = _ROOM * objective if no_load is None else min(_ROOM * objective, objective - no_load)
        return max(room, _ROOM_LEAST * objective)

    @property
    def target(self) -> float:
        """The queueing delay, in seconds, that the limit aims at."""
        return _INSIDE * self.room * math.pow(self._ranks.calls, -_LATENESS)

    @property
    def max_wait(self) -> float:
        """Seconds that a request waits at most."""
        return _OUTSIDE * self.room if self.terms.max_wait is None else self.terms.max_wait

    def patience(self, criticality: int) -> float:
        """Seconds that a request of this class waits at most.

        What is critical may use all of the room; and so may all in a moment's jam, which will pass.
        """
        if self.terms.max_wait is None and (criticality == Criticality.CRITICAL or not self.overloaded):
            return self.room
        return self.max_wait

    # What is observed, and what time brings.

    def observe(self, delay: float, times: int = 1) -> None:
        """Take a sample of the queueing delay, in seconds, and for how many it stands."""
        self._windowing.delayed(delay, times)

    def tick(self, now: float) -> None:
        """Do what is due: move the limit, find the ceiling, weigh the shares, see whether there is an overload."""
        window = self._windowing.take(now)
        with self._lock:
            if window is not None:
                self._certify(window.delay, limited=window.limited)
                self._aim()
                # A limit that the system's health holds down has not been tried, and must not grow meanwhile.
                tried = window if self.factor == 1.0 else dataclasses.replace(window, limited=False)
                self._algorithm.update(tried)
                self._hear(window)
                self._bound_windows = self._bound_windows + 1 if window.limited else 0
            self._move_limit()
            if self.overloaded and now >= self._look_at:
                self._look_at = now + _WINDOW
                self._ranks.find_ceiling()
            if now >= self._second_ends:
                self._weigh(now)
            self._look(now)
            # A window that is overdue waits for a call; looking ten times a window is often enough.
            look = self._look_at if self.overloaded else self._queue_since + _OVERLOADED_AFTER
            self.due = min(max(self._windowing.due, now + _WINDOW / 10), self._second_ends, look)
            woken = self._hand_over(now)
        _wake(woken)

    @property
    def pressure(self) -> float:
        """How near the service is to what it can do, from 0 to 1: the queueing delay, or the share that is shed.

        Half of it is the delay that the limit aims at: from there on, requests wait or are turned away.
        """
        return min(1.0, max(self._window_delay / (2 * self.target), self._shed_share))

    def snapshot(self, now: float) -> dict[str, object]:
        """Return the state as plain data, as it is at this time.

        Returns:
            `limit`, `in_flight`, `queued`, `overloaded`, `target` and `delay` (seconds), `shed` (the share of what came
            in the last second that was turned away), and `clients_over` (clients that ask for more than their share).
        """
        if now >= self.due:
            self.tick(now)
        with self._lock:
            return {
                "limit": self.limit,
                "in_flight": self.in_flight,
                "queued": len(self._queue),
                "overloaded": self.overloaded,
                "target": self.target,
                "delay": self._window_delay,
                "shed": self._shed_share,
                "clients_over": sum(shares.over for shares in self._shares),
            }

    def reconfigure(self, terms: ShedderTerms, algorithm: Algorithm) -> None:
        """Go on with other terms; who is in stays in, who waits goes on waiting.

        Args:
            terms: The new ones.
            algorithm: What keeps the limit from now on. If the one before is of the same kind, it goes on, with the
                bounds of this one.
        """
        with self._lock:
            before, self.terms = self.terms, terms
            self._no_load.reconfigure(quantile=terms.quantile, minimum=_learned_from(terms.quantile))
            if (terms.window, terms.window_calls) != (before.window, before.window_calls):
                self._windowing = Windowing(
                    seconds=terms.window,
                    calls=terms.window_calls,
                    now=self._windowing.due - before.window,
                    lock=self._new_lock(),
                )
            kept = self._algorithm
            if isinstance(kept, _FOUND) and isinstance(algorithm, _FOUND) and type(kept) is type(algorithm):
                # What it has learned it could not learn again under load.
                kept.least, kept.most = algorithm.least, algorithm.most
                kept.limit = min(kept.most, max(kept.least, kept.limit))
            else:
                self._algorithm = algorithm
            self._aim()
            self._move_limit()
            self.due = -math.inf  # there may be room now for who waits

    # All that follows is called with the lock held.

    def _hear(self, window: Window) -> None:
        """Take in a window's delay.

        One in which calls ended and nothing was heard of the delay says nothing. Behind an event loop that is a turn in
        which so much is to be done that the probe waits for longer than a window; what it says then holds for all that.
        """
        if window.delay is None:
            self._silent_windows += 1
            self._silent += window.seconds
            if self._silent > max(_SILENT_FOR, 2 * self._window_delay):
                self._window_delay, self._late_windows, self._silent_windows = 0.0, 0, 0
            return
        late = window.delay > _DROP_AT * self.terms.objective
        self._late_windows = self._late_windows + self._silent_windows + 1 if late else 0
        self._window_delay, self._silent_windows, self._silent = window.delay, 0, 0.0

    def _drops(self, criticality: int) -> bool:
        """Whether work waits so long inside that most of what comes is turned away, whatever is in flight.

        What never waits for anything is never in flight together, and so no limit on that can hold it.
        """
        if self._late_windows < _DROP_AFTER:
            return False
        self._dropping += 1
        # Some go in all the same, or nobody would find out that it is over.
        return criticality != Criticality.CRITICAL and self._dropping % _DROPS_EACH != 0

    def _is_next(self, criticality: int, rank: float) -> bool:
        """Whether nobody waits who goes in before."""
        return not self._queue or self._order(criticality, rank) > self._queue[-1].order

    def _limit_of(self, criticality: int, rank: float) -> float:
        """The limit that counts for a class and a rank."""
        safe = min(self.limit * _SAFE, self.terms.most)
        if not self.overloaded:
            # When an overload begins nobody has been ranked yet; what is critical must not find its places taken then.
            return max(self.limit, safe) if criticality == Criticality.CRITICAL else self.limit
        if self._ranks.safe(rank) or self._ranks.under_way(rank):
            return safe
        best, less = _GRADE
        return min(self.limit * (best - less * min(self._ranks.better(rank), 1.0)), self.terms.most)

    def _idle_for(self, cohort: float, keeps: float) -> float:
        """How many may be in flight for places to count as idle, for a journey of a client that keeps such a share."""
        if not keeps or self._ranks.has_failed(cohort):
            return _IDLE_LAST * self.limit
        return (_IDLE if cohort < keeps else _IDLE_BEYOND) * self.limit

    def _enter(self, criticality: int, cohort: float, client: str, now: float) -> ShedPermit:
        self.in_flight += 1
        self._served[criticality] += 1
        if self.overloaded:
            self._shares[criticality].got(client)
            self._ranks.went_in(cohort)
        return ShedPermit(now)

    def _give_back(self, permit: ShedPermit) -> None:
        # Two threads may end it at the same time.
        self.in_flight -= not permit.over
        permit.over = True

    def _gone(self, waiter: ShedWaiter) -> None:
        """Count somebody in the queue as turned away; who came in an earlier second is none of this one's arrivals."""
        if waiter.arrived >= self._second_ends - _SECOND:
            self._turned_away += 1

    def _refused(self, criticality: int, cohort: float, reason: str) -> Refusal:
        self._shed[criticality] += 1
        if self.overloaded:
            self._ranks.turned_away(cohort)
        # Who is turned away by an overload twice as large should come back half as often.
        return Refusal(reason, 1 / max(0.1, 1 - self._shed_share))

    def _capped(self) -> bool:
        """Whether turning away one more would be more than may be."""
        arrived = sum(self._arrived)
        return arrived >= _CAP_FROM and self._turned_away + 1 > self.terms.shed_max * arrived

    def _finds_place(self, criticality: int, rank: float) -> bool:
        """Whether there is a place in the queue, or somebody in it who has to make one."""
        hurries = self.overloaded and criticality != Criticality.CRITICAL
        if hurries and self._window_delay > _WORTH_WAITING * self.patience(criticality):
            return False
        if len(self._queue) < self.terms.max_queued:
            return True
        return bool(self._queue) and self._order(criticality, rank) > self._queue[0].order

    def _order(self, criticality: int, rank: float) -> float:
        """How soon a request goes in; larger is sooner."""
        return -rank if self.overloaded else -float(criticality)

    def _insert(self, waiter: ShedWaiter) -> None:
        self._sequence += 1
        time = self._sequence if self.overloaded else -self._sequence
        waiter.place = _Place(self._order(waiter.criticality, waiter.rank), time, waiter)
        bisect.insort(self._queue, waiter.place)

    def _remove(self, waiter: ShedWaiter) -> None:
        place, waiter.place = waiter.place, None
        assert place is not None  # noqa: S101  it stands in the queue
        del self._queue[bisect.bisect_left(self._queue, place)]
        if not self._queue:
            self._queue_since = math.inf

    def _hand_over(self, now: float) -> list[ShedWaiter]:
        """Let in who waits, as long as there is room; returns whom to wake."""
        woken = []
        while self._queue:
            waiter = self._queue[-1].waiter
            if self.in_flight >= self._limit_of(waiter.criticality, waiter.rank):
                break
            if now > waiter.expires:
                waiter.refusal = self._refused(waiter.criticality, waiter.cohort, "waited too long")
                self._gone(waiter)
            else:
                waiter.permit = self._enter(waiter.criticality, waiter.cohort, waiter.client, now)
            self._remove(waiter)
            woken.append(waiter)
        return woken

    def _look(self, now: float) -> None:
        """See whether there is an overload now; if that has changed, the queue is kept by another order."""
        if self.overloaded:
            overloaded = bool(self._queue) or now - self._bound_at < _CALM_AFTER
        else:
            overloaded = now - self._queue_since >= _OVERLOADED_AFTER or self._bound_windows >= _OVERLOADED_WINDOWS
        if overloaded is not self.overloaded:
            self.overloaded = overloaded
            self._look_at = now + _WINDOW
            self._ranks.begin()
            self._rank_anew()

    def _rank_anew(self) -> None:
        """Rank who waits by what is known now."""
        waiters = sorted((place.waiter for place in self._queue), key=lambda waiter: waiter.arrived)
        self._queue.clear()
        for waiter in waiters:
            kept = self._shares[waiter.criticality].kept(waiter.client)
            waiter.rank = self._ranks.rank(waiter.criticality, waiter.cohort, kept) if self.overloaded else 0.0
            self._insert(waiter)

    def _certify(self, delay: float | None, *, limited: bool) -> None:
        """Learn how long answers take when nothing queues, from windows of which that is certain.

        What is certain does not depend on what was learned: when a dependency was slow for a while, the room is small,
        and has to become large again. Answers that are late by themselves teach nothing: less room would not help them.
        """
        calm = _CALM_DELAY * _INSIDE * _ROOM * self.terms.objective
        if delay is not None and delay < calm and not limited and not self._queue:
            for latency in self._latencies:
                self._no_load.record(latency)
        self._latencies.clear()

    def _aim(self) -> None:
        if isinstance(self._algorithm, QueueDelay):
            self._algorithm.target = self.target

    def _move_limit(self) -> None:
        self.limit = max(1.0, self._algorithm.limit * self.factor)
        if abs(self.limit - self._told) >= _TOLD_FROM * self._told and len(self.outbox) < _OUTBOX_MAX:
            why = f"queueing delay {self._window_delay * 1000:.3g}ms"
            self.outbox.append(
                Move(self._told, self.limit, why if self.factor == 1.0 else f"{why}, health {self.factor:.3g}")
            )
            self._told = self.limit

    def _begin_second(self, now: float) -> None:
        self._second_ends = now + _SECOND
        self._arrived = [0] * _CLASSES
        self._served = [0] * _CLASSES
        self._shed = [0] * _CLASSES
        self._turned_away = 0

    def _weigh(self, now: float) -> None:
        """A second is over: weigh the shares of each class."""
        arrived = sum(self._arrived)
        # Waits may end in a later second than they began in; and after a whole second of silence nothing is shed.
        silent = not arrived or now >= self._second_ends + _SECOND
        self._shed_share = 0.0 if silent else min(1.0, sum(self._shed) / arrived)
        for shares, served, shed in zip(self._shares, self._served, self._shed, strict=True):
            shares.weigh(served=served, short=shed > 0)
        self._begin_second(now)
        self._seconds += 1
        if self._seconds % _JOURNEYS_FOR == 0:
            self._ranks.forget_journeys()
        if self.overloaded:
            self._rank_anew()


def _learned_from(quantile: float) -> int:
    least, beyond = _LEARNED_FROM
    return max(least, math.ceil(beyond / (1 - quantile)))


def _wake(waiters: Iterable[ShedWaiter]) -> None:
    for waiter in waiters:
        waiter.wake()
