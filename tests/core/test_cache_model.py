"""The cache against a naive one, which keeps a list and looks through it."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.admission import NullLock
from hormesis.core.cache import CacheMachine, CacheTerms, Failed, Flight, Follower, Join, Kept, Lead, Remembered

KEYS = st.sampled_from("abcd")
FLIGHT_MAX = 30.0


@dataclasses.dataclass
class Known:
    """An answer or a failure, and when it came."""

    key: str
    at: float
    value: Any
    error: Exception | None = None
    held_until: float = -1.0


@dataclasses.dataclass
class UnderWay:
    """A flight, and who waits for it."""

    key: str
    began: float
    flight: Flight
    followers: list[Follower] = dataclasses.field(default_factory=list)


class CacheModel(RuleBasedStateMachine):
    """Looks, landings of every kind and the passing of time, in any order."""

    @initialize(
        fresh=st.sampled_from([0.0, 10.0]),
        stale=st.sampled_from([0.0, 20.0]),
        negative=st.sampled_from([None, 5.0]),
        revalidate=st.booleans(),
    )
    def make(self, fresh: float, stale: float, negative: float | None, revalidate: bool) -> None:
        self.terms = CacheTerms(
            fresh=fresh,
            stale=stale,
            negative=negative,
            max_entries=2,
            early=0.0,
            revalidate=revalidate,
            flight_max=FLIGHT_MAX,
        )
        self.machine = CacheMachine(self.terms, NullLock())
        self.now = 0.0
        self.known: list[Known] = []  # the least recently used first
        self.flights: list[UnderWay] = []  # all that have not landed
        self.current: dict[str, UnderWay] = {}  # those of them that have not been taken for lost
        self.woken: list[Follower] = []
        self.answers = 0

    def alive(self, known: Known) -> bool:
        lifetime = self.terms.negative if known.error else self.terms.fresh + self.terms.stale
        return lifetime is not None and self.now - known.at < lifetime

    def find(self, key: str) -> Known | None:
        return next((known for known in self.known if known.key == key), None)

    def joinable(self, key: str) -> UnderWay | None:
        under_way = self.current.get(key)
        return under_way if under_way is not None and self.now - under_way.began < FLIGHT_MAX else None

    def expected(self, key: str) -> tuple[str, Any]:
        """What a look should find: a word for it, and the value."""
        known = self.find(key)
        under_way = self.joinable(key)
        if known is not None and self.alive(known):
            if known.error:
                return "remembered", known.error
            if self.now - known.at < self.terms.fresh:
                return "fresh", known.value
            if self.terms.revalidate:
                due = under_way is None and self.now >= known.held_until
                return ("stale, due" if due else "stale"), known.value
        return ("join", under_way.flight) if under_way else ("lead", None)

    @rule(key=KEYS)
    def look(self, key: str) -> None:
        word, value = self.expected(key)
        found = self.machine.look(key, self.now, lambda: 0.5)
        if isinstance(found, Lead):
            assert word == "lead"
        elif isinstance(found, Join):
            assert (word, value) == ("join", found.flight)
        elif isinstance(found, Remembered):
            assert (word, value) == ("remembered", found.error)
        else:
            due = ", due" if found.flight else ""
            assert (word, value) == (("fresh" if found.fresh else "stale") + due, found.value)
        if isinstance(found, Lead | Kept) and found.flight is not None:
            self.current[key] = UnderWay(key, self.now, found.flight)
            self.flights.append(self.current[key])
        known = self.find(key)
        if known is not None:
            self.known.remove(known)
            if self.alive(known):
                self.known.append(known)

    @rule(key=KEYS)
    def follow(self, key: str) -> None:
        under_way = self.joinable(key)
        if under_way is None:
            return
        follower = Follower(lambda: None)
        follower.wake = lambda: self.woken.append(follower)
        assert self.machine.follow(under_way.flight, follower)
        under_way.followers.append(follower)

    @precondition(lambda self: any(each.followers for each in self.flights))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        under_way = data.draw(st.sampled_from([each for each in self.flights if each.followers]))
        self.machine.leave(under_way.flight, under_way.followers.pop())

    def keep(self, entry: Known, began: float) -> None:
        known = self.find(entry.key)
        if known is not None:
            if known.at > began:
                return
            self.known.remove(known)
        self.known.append(entry)
        del self.known[:-2]

    def landed(self, under_way: UnderWay, outcome: object) -> None:
        self.flights.remove(under_way)
        if self.current.get(under_way.key) is under_way:
            del self.current[under_way.key]
        assert self.woken == under_way.followers
        assert all(follower.outcome == outcome for follower in under_way.followers)
        assert not self.machine.follow(under_way.flight, Follower(lambda: None))
        self.woken = []

    @precondition(lambda self: self.flights)
    @rule(data=st.data(), ending=st.sampled_from(["store", "fail", "gone", "abandon"]))
    def land(self, data: st.DataObject, ending: str) -> None:
        under_way = data.draw(st.sampled_from(self.flights))
        key, began, flight = under_way.key, under_way.began, under_way.flight
        if ending == "abandon":
            self.machine.abandon(flight)
            self.landed(under_way, None)
            return
        if ending == "store":
            self.answers += 1
            self.machine.store(flight, self.answers, self.now)
            if self.terms.fresh + self.terms.stale:
                self.keep(Known(key, self.now, self.answers), began)
            self.landed(under_way, Kept(self.answers, 0.0, True))
            return
        error = LookupError(key)
        if ending == "gone":
            self.machine.store_failure(flight, error, self.now)
            known = self.find(key)
            if self.terms.negative is not None:
                self.keep(Known(key, self.now, None, error), began)
            elif known is not None and known.at <= began:
                self.known.remove(known)
        self.machine.fail(flight, Failed(error), self.now)
        known = self.find(key)
        if known is not None:
            known.held_until = self.now + self.terms.fresh / 10
        self.landed(under_way, Failed(error))

    @rule(key=KEYS)
    def stand_in(self, key: str) -> None:
        known = self.find(key)
        found = self.machine.stand_in(key, self.now)
        if known is None or known.error or not self.alive(known):
            assert found is None
            return
        age = self.now - known.at
        assert found == Kept(known.value, age, age < self.terms.fresh)
        self.known.remove(known)
        self.known.append(known)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.5, 5.0, 10.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def bounded(self) -> None:
        state = self.machine.snapshot()
        assert state["entries"] == len(self.known) <= 2
        assert state["in_flight"] == len(self.current)


TestCache = CacheModel.TestCase
