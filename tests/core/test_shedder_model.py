"""The load shedder against a naive model: who is in, who waits, and who was told what, in plain lists."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.admission import NullLock, Refusal
from hormesis.core.latency_limits import AIMD
from hormesis.core.limits import Algorithm, Fixed, QueueDelay
from hormesis.core.shedder import ShedderMachine, ShedderTerms, ShedPermit, ShedWaiter
from hormesis.priority import Criticality

COHORTS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1 - 2.0**-32])
ALGORITHMS = st.sampled_from(["fixed", "queue delay", "aimd"])
LIMITS = st.integers(1, 6)

GRADES = (1.0, 2.0)
"""What the limit is multiplied by in an overload, for the worst rank and for classes that are safe."""


def algorithm_of(kind: str, limit: int) -> Algorithm:
    if kind == "fixed":
        return Fixed(limit)
    if kind == "aimd":
        return AIMD(start=limit, least=1, most=8)
    return QueueDelay(start=limit, least=1, most=8, target=1.0)


class Shedders(RuleBasedStateMachine):
    """Requests come, wait, give up and end, while time, the system's health and the settings go on."""

    @initialize(
        kind=ALGORITHMS,
        limit=LIMITS,
        max_queued=st.integers(0, 4),
        shed_max=st.sampled_from([0.5, 0.98, 1.0]),
        most=st.sampled_from([4, math.inf]),
    )
    def make(self, kind: str, limit: int, max_queued: int, shed_max: float, most: float) -> None:
        self.terms = ShedderTerms(
            objective=0.25, quantile=0.99, max_queued=max_queued, max_wait=None, shed_max=shed_max, most=most
        )
        self.machine = ShedderMachine(self.terms, algorithm_of(kind, limit), now=0.0, lock=NullLock)
        self.now = 0.0
        self.inside: list[ShedPermit] = []
        self.waiting: list[ShedWaiter] = []
        self.handed: list[ShedWaiter] = []  # woken with a permit that they have not taken yet
        self.queue_max = max_queued
        self.came = 0

    def wake_of(self, waiter: ShedWaiter) -> None:
        """Somebody is woken: once, with a permit or a refusal, and nobody stays behind who is better."""
        assert waiter in self.waiting
        assert waiter.place is None
        assert (waiter.permit is None) is not (waiter.refusal is None)
        self.waiting.remove(waiter)
        stay = [each for each in self.waiting if each.place is not None]
        if waiter.permit is not None:
            self.handed.append(waiter)
            assert all(self.at_least_as_good(waiter, each) for each in stay)
        elif waiter.refusal is not None and waiter.refusal.reason == "displaced":
            assert all(self.at_least_as_good(each, waiter) for each in stay)

    def at_least_as_good(self, one: ShedWaiter, other: ShedWaiter) -> bool:
        if self.machine.overloaded:
            return one.rank <= other.rank
        return one.criticality <= other.criticality

    def limit_of(self, grade: float) -> float:
        if not self.machine.overloaded:
            return self.machine.limit
        return min(grade * self.machine.limit, self.terms.most)

    @rule(
        criticality=st.sampled_from(Criticality),
        cohort=COHORTS,
        client=st.sampled_from("abc"),
        left=st.sampled_from([math.inf, 0.05, 1.0]),
        patience=st.sampled_from([0.05, 0.5]),
        times=st.integers(1, 30),
    )
    def come(
        self, criticality: Criticality, cohort: float, client: str, left: float, patience: float, times: int
    ) -> None:
        for _ in range(times):
            before = len(self.inside) + len(self.handed)
            self.came += 1
            said = self.machine.admit(criticality, cohort, client, self.now, left)
            if isinstance(said, ShedPermit):
                self.inside.append(said)
                # What is critical has the most room, whether there is an overload already or not.
                most = max(self.limit_of(GRADES[1]), min(GRADES[1] * self.machine.limit, self.terms.most))
                assert before < most or self.came >= 20
            elif said.waitable:
                self.stand(criticality, cohort, client, patience)
            else:
                assert before > 0 or self.machine._window_delay > 2 * self.machine.room
                assert said.retry_after is not None
                assert 1 <= said.retry_after <= 10

    def stand(self, criticality: Criticality, cohort: float, client: str, patience: float) -> None:
        waiter = ShedWaiter(criticality, cohort, client, lambda: self.wake_of(waiter), now=self.now, patience=patience)
        self.waiting.append(waiter)
        refusal = self.machine.enqueue(waiter, self.now)
        assert refusal is None

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.handed))
        self.handed.remove(waiter)
        assert waiter.permit is not None
        self.inside.append(waiter.permit)
        waiter.permit = None

    @precondition(lambda self: self.handed or self.waiting)
    @rule(data=st.data(), again=st.booleans())
    def leave(self, data: st.DataObject, *, again: bool) -> None:
        waiter = data.draw(st.sampled_from(self.handed + self.waiting))
        (self.handed if waiter in self.handed else self.waiting).remove(waiter)
        self.machine.leave(waiter, self.now)
        assert waiter.permit is None
        if again:
            self.machine.leave(waiter, self.now)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), good=st.booleans(), again=st.booleans())
    def end(self, data: st.DataObject, *, good: bool, again: bool) -> None:
        permit = data.draw(st.sampled_from(self.inside))
        self.inside.remove(permit)
        self.machine.end(permit, self.now, good=good)
        if again:
            self.machine.end(permit, self.now, good=good)

    @rule(
        seconds=st.sampled_from([0.02, 0.11, 0.3, 1.1, 7.0, 3600.0]),
        delay=st.sampled_from([None, 0.0, 0.03, 0.3]),
        ticks=st.integers(1, 4),
    )
    def time_goes_on(self, seconds: float, delay: float | None, ticks: int) -> None:
        for _ in range(ticks):
            self.now += seconds / ticks
            if delay is not None:
                self.machine.observe(delay)
            self.machine.tick(self.now)
        if seconds > 1:
            self.came = 0

    @rule(factor=st.sampled_from([1.0, 0.5, 0.01]))
    def health(self, factor: float) -> None:
        self.machine.factor = factor
        self.machine.tick(self.now)

    @rule(kind=ALGORITHMS, limit=LIMITS, max_queued=st.integers(0, 4), window=st.sampled_from([0.1, 1.0]))
    def reconfigure(self, kind: str, limit: int, max_queued: int, window: float) -> None:
        self.terms = dataclasses.replace(self.terms, max_queued=max_queued, window=window)
        self.machine.reconfigure(self.terms, algorithm_of(kind, limit))
        self.machine.tick(self.now)

    @invariant()
    def permits_are_conserved(self) -> None:
        assert self.machine.in_flight == len(self.inside) + len(self.handed)

    @invariant()
    def the_queue_is_those_who_wait(self) -> None:
        assert self.machine.snapshot(self.now)["queued"] == len(self.waiting)
        # A queue that became shorter than it was only drains.
        self.queue_max = max(self.terms.max_queued, min(self.queue_max, len(self.waiting)))
        assert len(self.waiting) <= self.queue_max

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        if self.waiting:
            assert self.machine.in_flight >= self.limit_of(GRADES[0])

    @invariant()
    def numbers_mean_what_they_say(self) -> None:
        machine = self.machine
        assert 1 <= machine.limit <= 8
        assert 0 <= machine.pressure <= 1
        assert 0 <= machine.snapshot(self.now)["shed"] <= 1  # type: ignore[operator]
        assert 0.025 <= machine.room <= 0.1 + 1e-9
        assert len(machine.outbox) <= 64
        assert len(machine._latencies) <= 256

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        for waiter in [*self.waiting, *self.handed]:
            self.machine.leave(waiter, self.now)
        self.waiting, handed = [], self.handed
        for permit in [*self.inside, *(each.permit for each in handed if each.permit)]:
            self.machine.end(permit, self.now, good=True)
        assert self.machine.in_flight == 0
        assert self.machine.snapshot(self.now)["queued"] == 0
        for _ in range(2):
            self.now += 11.0  # the longest window without a call
            self.machine.tick(self.now)
        assert not self.machine.overloaded
        assert self.machine.pressure == 0.0
        assert not isinstance(self.machine.admit(Criticality.BACKGROUND, 0.9, "d", self.now), Refusal)


TestShedders = Shedders.TestCase
