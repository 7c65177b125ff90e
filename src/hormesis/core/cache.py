"""The degraded cache's machine: which answer may be handed out, who asks for a new one, and who waits for that.

An answer is *fresh* for a while and is handed out without a call. Then it is *stale* for a while longer, and may stand
in: while one call refreshes it (stale-while-revalidate), or once the call has failed (stale-if-error; RFC 5861 has
both). After that it is gone. A failure that says the request was wrong may be remembered too, for a time of its own.

**Single flight.** Whoever finds nothing usable leads a *flight*: it makes the call, and lands with its answer or its
failure, which everybody gets who joined meanwhile. A leader that goes away without either abandons its flight, and the
first of its followers to look again leads the next. A flight that takes longer than `flight_max` is taken for lost: the
next to look leads another, so a call that hangs for ever does not take its key with it.

**Early refresh** (XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB
2015). A fresh answer is refreshed before its time when `age - took * early * ln(U) >= fresh`, where `took` is how long
the call took and U is uniform. The more callers there are, the surer one of them does so in time, and over many
processes they do it at different moments.

A refresh that has failed is not repeated for a tenth of the time for which an answer is fresh, or every stale answer
would knock at the door of a dependency that is down.

Keys are hashed and compared under the lock, as those of any guarded table; values and keys that are dropped die after
it is released.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias, final

from hormesis.core.admission import Lock

__all__ = ["CacheMachine", "CacheTerms", "Failed", "Flight", "Follower", "Found", "Join", "Kept", "Lead", "Remembered"]

_HOLD_OFF = 0.1
"""The share of the fresh time for which a refresh that has failed is not repeated."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheTerms:
    """What a `CacheMachine` goes by, in seconds.

    Args:
        fresh: For how long an answer is handed out without a call.
        stale: For how long after that it may stand in.
        negative: For how long a failure is remembered; None: not at all.
        max_entries: Answers and failures that are kept; the one that was used least recently makes room.
        early: XFetch's beta: 1 is the optimum for calls whose durations are exponential, more refreshes earlier, and 0
            switches it off.
        revalidate: Whether a stale answer is handed out before the call that refreshes it.
        flight_max: After how long a flight is taken for lost.
    """

    fresh: float
    stale: float
    negative: float | None
    max_entries: int
    early: float
    revalidate: bool
    flight_max: float


class Follower:
    """One caller that waits for a flight. The machine sets `outcome`, then calls `wake` with no lock held."""

    __slots__ = ("outcome", "wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.outcome: Kept | Failed | None = None
        """What the flight landed with; None when it was abandoned, or has not landed."""


@final
class Flight:
    """One call that is under way for a key.

    `allowed` is for whoever leads it: the seconds that its call had when it began. The outcome is handed to the
    followers and not kept here, since a failure refers to its leader's frames, and those to the flight.
    """

    __slots__ = ("allowed", "began", "followers", "key", "landed")

    def __init__(self, key: Hashable, began: float) -> None:
        self.key = key
        self.began = began
        self.allowed = math.inf
        self.landed = False
        self.followers: dict[Follower, None] = {}


class Kept(NamedTuple):
    """An answer that is known, how many seconds ago it was given, and the flight of a refresh that is due."""

    value: Any
    age: float
    fresh: bool
    flight: Flight | None = None


class Remembered(NamedTuple):
    """A failure that is known, and how many seconds ago it happened."""

    error: Exception
    age: float


class Failed(NamedTuple):
    """The failure with which a flight has just landed."""

    error: Exception


class Lead(NamedTuple):
    """Nothing usable is known, and this caller makes the call."""

    flight: Flight


class Join(NamedTuple):
    """Nothing usable is known, and somebody makes the call."""

    flight: Flight


Found: TypeAlias = Kept | Remembered | Lead | Join
"""What a look into the cache can find."""


class _Entry:
    """An answer or a failure in the cache."""

    __slots__ = ("at", "error", "held_until", "took", "value")

    def __init__(self, at: float, took: float, value: Any, error: Exception | None) -> None:
        self.at = at
        self.took = took
        self.value = value
        self.error = error
        self.held_until = -math.inf


class CacheMachine:
    """Keeps answers by key, and lets one caller at a time ask for a new one.

    Args:
        terms: What it goes by.
        lock: Guards entries, flights and counts.

    >>> from hormesis.core.admission import NullLock
    >>> terms = CacheTerms(fresh=30, stale=60, negative=None, max_entries=9, early=0, revalidate=True, flight_max=60)
    >>> machine = CacheMachine(terms, NullLock())
    >>> found = machine.look("sku", 0.0, lambda: 0.5)
    >>> machine.store(found.flight, "tea", 1.0)
    >>> machine.look("sku", 11.0, lambda: 0.5)
    Kept(value='tea', age=10.0, fresh=True, flight=None)
    """

    __slots__ = (
        "_entries",
        "_flights",
        "_hits",
        "_lock",
        "_misses",
        "_refreshes",
        "_shared",
        "_stale_answers",
        "terms",
    )

    def __init__(self, terms: CacheTerms, lock: Lock) -> None:
        self.terms = terms
        self._lock = lock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._flights: dict[Hashable, Flight] = {}
        self._hits = 0
        self._stale_answers = 0
        self._misses = 0
        self._shared = 0
        self._refreshes = 0

    def look(self, key: Hashable, now: float, draw: Callable[[], float]) -> Found:
        """Find an answer, or who asks for it.

        Args:
            key: What is asked for.
            now: The time.
            draw: Gives uniform numbers in [0, 1), for the early refresh.
        """
        terms = self.terms
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                age = now - entry.at
                if age >= self._lifetime(entry):
                    del self._entries[key]  # the variable keeps it until the lock is released
                else:
                    self._entries.move_to_end(key)
                    found = self._use(key, entry, age, now, draw)
                    if found is not None:
                        return found
            flight = self._flights.get(key)
            if flight is not None and now - flight.began < terms.flight_max:
                return Join(flight)
            self._misses += 1
            return Lead(self._begin(key, now))

    def store(self, flight: Flight, value: Any, now: float) -> None:
        """Land with an answer, and keep it."""
        evicted: list[object] = []
        with self._lock:
            if self.terms.fresh + self.terms.stale > 0:
                self._keep(flight, _Entry(now, now - flight.began, value, None), evicted)
            followers = self._land(flight)
        self._wake(followers, Kept(value, 0.0, fresh=True))

    def store_failure(self, flight: Flight, error: Exception | None, now: float) -> None:
        """Drop the answer to a request that is wrong now, and remember the failure if that is wanted.

        Args:
            flight: Whose failure it is; it goes on, and `fail` lands it.
            error: What is raised for the key from now on; None where it can't be kept.
            now: The time.
        """
        dropped: list[object] = []
        with self._lock:
            if error is not None and self.terms.negative is not None:
                self._keep(flight, _Entry(now, 0.0, None, error), dropped)
            elif self._is_newer(flight):
                dropped.append(self._entries.pop(flight.key, None))

    def fail(self, flight: Flight, outcome: Kept | Failed | None, now: float) -> None:
        """Land with a failure, with what stands in for it, or with nothing that others could use."""
        with self._lock:
            entry = self._entries.get(flight.key)
            if entry is not None:
                entry.held_until = now + _HOLD_OFF * self.terms.fresh
            followers = self._land(flight)
        self._wake(followers, outcome)

    def abandon(self, flight: Flight) -> None:
        """End a flight with neither answer nor failure, so that another leads; one that has landed stays landed."""
        if flight.landed:
            return
        with self._lock:
            followers = self._land(flight)
        self._wake(followers, None)

    def stand_in(self, key: Hashable, now: float) -> Kept | None:
        """Find the answer that may stand in for a failure."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.error is not None or now - entry.at >= self._lifetime(entry):
                return None
            self._entries.move_to_end(key)
            age = now - entry.at
            fresh = age < self.terms.fresh
            self._count(fresh=fresh)
            return Kept(entry.value, age, fresh)

    def follow(self, flight: Flight, follower: Follower) -> bool:
        """Wait for a flight; False when it has landed meanwhile, and another look tells more."""
        with self._lock:
            if flight.landed:
                return False
            flight.followers[follower] = None
            self._shared += 1
            return True

    def leave(self, flight: Flight, follower: Follower) -> None:
        """Give up waiting, or be done with it."""
        with self._lock:
            flight.followers.pop(follower, None)

    def snapshot(self) -> dict[str, int]:
        """The state as plain data: what is kept, and how often which answer was given since the machine was made."""
        return {
            "entries": len(self._entries),
            "in_flight": len(self._flights),
            "hits": self._hits,
            "stale_answers": self._stale_answers,
            "misses": self._misses,
            "shared": self._shared,
            "refreshes": self._refreshes,
        }

    def _lifetime(self, entry: _Entry) -> float:
        terms = self.terms
        return terms.fresh + terms.stale if entry.error is None else terms.negative or 0.0

    def _use(self, key: Hashable, entry: _Entry, age: float, now: float, draw: Callable[[], float]) -> Found | None:
        """Make of an entry that is alive what is handed out; None when the call is to be made first."""
        terms = self.terms
        if entry.error is not None:
            self._count(fresh=True)
            return Remembered(entry.error, age)
        fresh = age < terms.fresh
        if not fresh and not terms.revalidate:
            return None
        flight = self._refresh(key, entry, now) if not fresh or self._is_early(entry, age, draw) else None
        if flight is not None and not terms.revalidate:
            return Lead(flight)
        self._count(fresh=fresh)
        return Kept(entry.value, age, fresh, flight)

    def _count(self, *, fresh: bool) -> None:
        if fresh:
            self._hits += 1
        else:
            self._stale_answers += 1

    def _is_early(self, entry: _Entry, age: float, draw: Callable[[], float]) -> bool:
        ahead = entry.took * self.terms.early
        # 1 - U, since U may be 0 and has no logarithm then.
        return ahead > 0 and age - ahead * math.log(1.0 - draw()) >= self.terms.fresh

    def _refresh(self, key: Hashable, entry: _Entry, now: float) -> Flight | None:
        """Begin a refresh, unless one is under way or has just failed."""
        under_way = self._flights.get(key)
        if now < entry.held_until or (under_way is not None and now - under_way.began < self.terms.flight_max):
            return None
        self._refreshes += 1
        return self._begin(key, now)

    def _begin(self, key: Hashable, now: float) -> Flight:
        flight = self._flights[key] = Flight(key, now)
        return flight

    def _is_newer(self, flight: Flight) -> bool:
        """Whether a flight began after what is known was given; one that was taken for lost may land much later."""
        entry = self._entries.get(flight.key)
        return entry is None or entry.at <= flight.began

    def _keep(self, flight: Flight, entry: _Entry, dropped: list[object]) -> None:
        if not self._is_newer(flight):
            return
        entries = self._entries
        dropped.append(entries.pop(flight.key, None))
        entries[flight.key] = entry
        while len(entries) > self.terms.max_entries:
            dropped.append(entries.popitem(last=False))

    def _land(self, flight: Flight) -> dict[Follower, None]:
        flight.landed = True
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        followers, flight.followers = flight.followers, {}
        return followers

    @staticmethod
    def _wake(followers: dict[Follower, None], outcome: Kept | Failed | None) -> None:
        for follower in followers:
            follower.outcome = outcome
            follower.wake()
