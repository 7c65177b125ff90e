"""The load shedder's machine: who goes in, who waits, who is turned away, and what it learns meanwhile."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest

from hormesis.core.admission import NullLock, Refusal
from hormesis.core.latency_limits import AIMD, Vegas
from hormesis.core.limits import Algorithm, Fixed, Move, QueueDelay
from hormesis.core.shedder import (
    _INSIDE,
    _LATENESS,
    _OUTSIDE,
    _ROOM,
    ShedderMachine,
    ShedderTerms,
    ShedPermit,
    ShedWaiter,
)
from hormesis.priority import Criticality

CRITICAL, DEFAULT, SHEDDABLE, BACKGROUND = Criticality

TERMS = ShedderTerms(objective=0.25, quantile=0.99, max_queued=2, max_wait=None, shed_max=0.98)


class World:
    """A machine, the time, and everybody who was let in, waits or was turned away."""

    def __init__(self, algorithm: Algorithm | int = 2, **terms: Any) -> None:
        if isinstance(algorithm, int):
            terms.setdefault("most", algorithm)
            algorithm = Fixed(algorithm)
        self.terms = dataclasses.replace(TERMS, **terms)
        self.algorithm = algorithm
        self.machine = ShedderMachine(self.terms, self.algorithm, now=0.0, lock=NullLock)
        self.now = 0.0
        self.draws = random.Random(1)
        self.inside: list[ShedPermit] = []
        self.woken: list[ShedWaiter] = []

    def asks(
        self, criticality: int = DEFAULT, cohort: float = 0.5, client: str = "", left: float = math.inf
    ) -> ShedPermit | Refusal:
        said = self.machine.admit(criticality, cohort, client, self.now, left)
        if isinstance(said, ShedPermit):
            self.inside.append(said)
        return said

    def goes_in(self, *args: Any, **kwargs: Any) -> ShedPermit:
        said = self.asks(*args, **kwargs)
        assert isinstance(said, ShedPermit)
        return said

    def refused(self, *args: Any, **kwargs: Any) -> str:
        said = self.asks(*args, **kwargs)
        assert isinstance(said, Refusal)
        return "busy" if said.waitable else said.reason

    def waiter(
        self, criticality: int = DEFAULT, cohort: float = 0.5, client: str = "", **patience: float
    ) -> ShedWaiter:
        def wake() -> None:
            self.woken.append(waiter)

        waiter = ShedWaiter(criticality, cohort, client, wake, now=self.now, **patience)
        return waiter

    def waits(self, *args: Any, **kwargs: Any) -> ShedWaiter:
        """Be told that there is no room now, and stand in the queue."""
        waiter = self.waiter(*args, **kwargs)
        assert self.refused(waiter.criticality, waiter.cohort, waiter.client) == "busy"
        assert self.machine.enqueue(waiter, self.now) is None
        return waiter

    def ends(self, permit: ShedPermit | None = None, *, good: bool = True) -> None:
        permit = permit or self.inside[0]
        if permit in self.inside:
            self.inside.remove(permit)
        self.machine.end(permit, self.now, good=good)

    def passes(self, seconds: float, *, delay: float | None = None) -> None:
        """Let time go by, with a tick every fiftieth of a second, and a delay that is measured as often."""
        until = self.now + seconds
        while self.now < until - 1e-9:
            self.now = min(until, self.now + 0.02)
            if delay is not None:
                self.machine.observe(delay)
            if self.now >= self.machine.due:
                self.machine.tick(self.now)

    def is_overloaded(self) -> None:
        """Fill it, and let some wait until it is an overload; then all of them leave."""
        while isinstance(self.asks(), ShedPermit):
            pass
        waiters = [self.waits() for _ in range(self.terms.max_queued)]
        self.passes(0.14)
        assert self.machine.overloaded
        for waiter in waiters:
            self.machine.leave(waiter, self.now)
        while self.inside:
            self.ends()
        assert self.machine.in_flight == 0


# In and out.


def test_while_there_is_room_all_go_in() -> None:
    """Below the limit nobody is asked who he is."""
    world = World(3)
    for criticality in (BACKGROUND, CRITICAL, 1):
        world.goes_in(criticality, 0.99, "anybody")
    assert world.machine.in_flight == 3
    assert world.refused() == "busy"


@pytest.mark.parametrize("good", [True, False])
def test_whatever_ends_makes_room(good: bool) -> None:
    """An answer, an error and a cancellation each give their place back."""
    world = World(1)
    world.goes_in()
    world.ends(good=good)
    assert world.machine.in_flight == 0
    world.goes_in()


def test_a_permit_ends_once() -> None:
    """Ending a permit again does nothing, whoever does it."""
    world = World(1)
    permit = world.goes_in()
    world.ends(permit)
    world.ends(permit)
    waiter = world.waiter()
    waiter.permit = permit
    world.machine.leave(waiter, 0.0)
    assert world.machine.in_flight == 0


def test_with_no_queue_the_next_is_turned_away() -> None:
    """Where nobody may wait, a full service says so at once, and when to come back."""
    world = World(1, max_queued=0)
    world.goes_in()
    assert world.asks() == Refusal("overloaded", 1.0, waitable=False)
    assert world.machine.enqueue(world.waiter(), 0.0) == Refusal("overloaded", 1.0, waitable=False)


def test_who_waits_goes_in_when_somebody_leaves() -> None:
    """The waiter is woken once, with its permit."""
    world = World(1)
    world.goes_in()
    waiter = world.waits()
    world.now = 0.05
    world.ends()
    assert world.woken == [waiter]
    assert waiter.permit is not None
    assert waiter.permit.began == 0.05
    assert waiter.place is None
    assert world.machine.in_flight == 1


def test_who_finds_room_on_the_way_to_the_queue_does_not_wait() -> None:
    """A place that became free after the refusal is taken, and nobody is woken by chance."""
    world = World(1)
    world.goes_in()
    assert world.refused() == "busy"
    world.ends()
    waiter = world.waiter()
    assert world.machine.enqueue(waiter, 0.0) is None
    assert world.woken == [waiter]
    assert waiter.permit is not None


def test_newcomers_do_not_overtake_the_queue() -> None:
    """While somebody waits, who comes later waits as well, even if a place is free."""
    world = World(1)
    world.goes_in()
    first = world.waits()
    world.machine.in_flight -= 1  # as if another thread were just about to hand the place over
    assert world.refused() == "busy"
    world.machine.in_flight += 1
    world.ends()
    assert world.woken == [first]


def test_a_moments_jam_is_served_in_order() -> None:
    """Before it is an overload, the queue is first come, first served within a class, and critical before the rest."""
    world = World(1, max_queued=4)
    world.goes_in()
    first, second, background, critical = (world.waits(each) for each in (DEFAULT, DEFAULT, BACKGROUND, CRITICAL))
    for _ in range(4):
        world.ends(world.woken[-1].permit if world.woken else None)
    assert world.woken == [critical, first, second, background]


def test_in_a_jam_all_may_wait_however_late_the_window_before_was() -> None:
    """One piece of work that blocked the loop makes nobody unwelcome; in an overload the line inside is long enough."""
    world = World(2)
    permit = world.goes_in()
    world.machine.observe(0.6 * world.machine.room)
    world.machine.end(permit, 0.1, good=True)
    world.now = 0.1
    world.machine.tick(world.now)
    for _ in range(2):
        world.goes_in()
    assert world.refused(DEFAULT) == "busy"
    world.waits(DEFAULT)
    world.passes(0.14)
    assert world.machine.overloaded
    world.machine.observe(0.6 * world.machine.room)
    world.passes(0.1)
    assert world.refused(DEFAULT) == "overloaded"


def test_in_a_full_queue_the_better_takes_the_place_of_the_worst() -> None:
    """The latest of the worst class makes place for a better one, and none for its equals."""
    world = World(1)
    world.goes_in()
    first, second = world.waits(), world.waits()
    assert world.refused(DEFAULT) == world.refused(BACKGROUND) == "overloaded"
    assert world.refused(CRITICAL) == "busy"
    critical = world.waits(CRITICAL)
    assert world.woken == [second]
    assert second.refusal == Refusal("displaced", 1.0, waitable=False)
    assert second.place is None
    assert world.machine.enqueue(world.waiter(BACKGROUND), 0.0) == Refusal("overloaded", 1.0, waitable=False)
    assert (first.place is not None, critical.place is not None) == (True, True)


def test_leaving_after_a_refusal_changes_nothing() -> None:
    """A waiter that was displaced while its time ran out may leave as well, also twice."""
    world = World(1, max_queued=1)
    world.goes_in()
    displaced = world.waits(DEFAULT)
    world.waits(CRITICAL)
    for _ in range(2):
        world.machine.leave(displaced, 0.0)
    snapshot = world.machine.snapshot(0.0)
    assert (snapshot["in_flight"], snapshot["queued"]) == (1, 1)


def test_who_leaves_makes_place_in_the_queue() -> None:
    """Giving up waiting leaves the others where they are."""
    world = World(1)
    world.goes_in()
    first, second = world.waits(), world.waits()
    world.machine.leave(first, 0.0)
    assert world.refused() == "busy"
    world.ends()
    assert world.woken == [second]


def test_a_permit_that_comes_too_late_goes_to_the_next() -> None:
    """Who leaves with a permit that it has not taken hands it on."""
    world = World(1)
    world.goes_in()
    leaving, following = world.waits(), world.waits()
    world.ends()
    assert leaving.permit is not None
    world.machine.leave(leaving, 0.0)
    assert leaving.permit is None
    assert world.woken == [leaving, following]
    assert world.machine.in_flight == 1


def test_who_has_waited_too_long_is_not_begun_with() -> None:
    """A place goes to who can still use it; the others are told."""
    world = World(1)
    world.goes_in()
    late, in_time = world.waits(patience=0.01), world.waits(patience=0.2)
    world.now = 0.05
    world.ends()
    assert world.woken == [late, in_time]
    assert late.refusal == Refusal("waited too long", 1.0, waitable=False)
    assert late.permit is None
    assert in_time.permit is not None


def test_wake_is_called_with_no_lock_held() -> None:
    """Whoever is woken may use the machine at once."""
    world = World(1)
    world.goes_in()

    def wake() -> None:
        assert waiter.permit is not None
        permit, waiter.permit = waiter.permit, None
        world.machine.end(permit, 0.0, good=True)
        world.goes_in()

    waiter = ShedWaiter(DEFAULT, 0.5, "", wake, now=0.0)
    world.machine.enqueue(waiter, 0.0)
    world.ends()
    assert world.machine.in_flight == 1


# Deadlines.


def answered(world: World, latency: float, times: int = 100) -> None:
    """Let it be known how long answers take."""
    for _ in range(times):
        permit = world.goes_in()
        world.now += latency
        world.ends(permit)


def test_who_could_not_be_answered_in_time_is_turned_away() -> None:
    """With less time left than an answer usually takes, a place would be wasted."""
    world = World(2)
    answered(world, 0.1)
    world.goes_in(left=0.05)
    world.goes_in()
    assert world.refused(left=0.05) == world.refused(left=-math.inf) == "can't meet its deadline"
    assert world.refused(left=0.2) == world.refused(left=math.nan) == "busy"


def test_answers_that_were_slow_do_not_shut_the_service() -> None:
    """When nobody has as much time as answers took in bad times, idle places still find out that these are over."""
    world = World(4)
    answered(world, 3.0, times=200)
    for _ in range(2000):
        permit = world.goes_in(left=1.0)
        world.now += 0.1
        world.ends(permit)
    fillers = [world.goes_in() for _ in range(4)]
    assert world.refused(left=0.05) == "can't meet its deadline"
    assert world.refused(left=1.0) == "busy"
    assert len(fillers) == 4


# Overload.


def test_a_queue_that_lasts_is_an_overload() -> None:
    """After a tenth of a second with somebody waiting, requests are told apart by rank."""
    world = World(1)
    world.goes_in()
    world.waits()
    world.passes(0.08)
    assert not world.machine.overloaded
    world.passes(0.04)
    assert world.machine.overloaded


def test_a_queue_that_comes_and_goes_is_none() -> None:
    """Jams that dissolve are no overload, however many there are."""
    world = World(1)
    for _ in range(6):
        world.goes_in()
        waiter = world.waits()
        world.passes(0.08)
        world.ends()
        world.ends(waiter.permit)
        assert world.machine.in_flight == 0
        world.passes(1.2)
    assert not world.machine.overloaded


def test_without_a_queue_windows_that_bind_are_an_overload() -> None:
    """Where nobody may wait, three windows in a row in which somebody found no room are one."""
    world = World(1, max_queued=0)
    world.goes_in()
    for _ in range(4):
        world.refused()
        world.passes(0.11, delay=0.01)
        world.ends()
        world.goes_in()
    assert world.machine.overloaded


def test_an_overload_ends_after_a_second_of_calm() -> None:
    """When the limit has not bound for a second, everybody goes in again as he comes."""
    world = World(4)
    world.is_overloaded()
    world.passes(0.8)
    assert world.machine.overloaded
    world.passes(0.4)
    assert not world.machine.overloaded


def test_an_hour_of_silence_ends_an_overload_at_once() -> None:
    """The first request after a long time finds a service that knows that it is over."""
    world = World(4)
    world.is_overloaded()
    world.now += 3600
    world.goes_in()
    assert not world.machine.overloaded
    assert world.machine.pressure == 0.0
    assert world.machine.snapshot(world.now)["shed"] == 0.0


def test_in_an_overload_the_best_goes_in_first() -> None:
    """By class, then by cohort, and among equals the latest."""
    world = World(1, max_queued=5)
    world.goes_in()
    keeps_it = world.waits(BACKGROUND, 0.1)
    world.passes(0.14)
    waiting = [world.waits(*each) for each in [(DEFAULT, 0.7), (DEFAULT, 0.2), (CRITICAL, 0.9), (DEFAULT, 0.2)]]
    for _ in range(5):
        world.ends(world.woken[-1].permit if world.woken else None)
    assert world.woken == [waiting[2], waiting[3], waiting[1], waiting[0], keeps_it]


def test_who_waits_is_ranked_anew_when_an_overload_begins() -> None:
    """From then on the latest of equals goes first."""
    world = World(1, max_queued=5)
    world.goes_in()
    first = world.waits()
    world.passes(0.02)
    second = world.waits()
    world.passes(0.12)
    world.ends()
    assert world.woken == [second]
    world.ends(second.permit)
    assert world.woken == [second, first]


def overloaded_for(world: World, seconds: float, ask: Any, *, every: float = 0.01, answer: float = 0.1) -> None:
    """Let `ask(number)` be asked by requests that are answered after so long, and give up when they have to wait."""
    ends: list[tuple[float, ShedPermit]] = []
    asked = 0
    until = world.now + seconds
    while world.now < until:
        world.now += every
        while ends and ends[0][0] <= world.now:
            world.ends(ends.pop(0)[1])
        said = world.asks(*ask(asked))
        asked += 1
        if isinstance(said, ShedPermit):
            ends.append((world.now + answer, said))
    for at, permit in ends:
        world.now = max(world.now, at)
        world.ends(permit)


def spread(number: int) -> float:
    """Cohorts that are spread evenly."""
    return number * 0.6180339887 % 1


def test_beyond_the_ceiling_a_request_is_turned_away_at_once() -> None:
    """In an overload that lasts, who has no hope is told so, though the queue has room; who has some may wait."""
    world = World(4, max_queued=10)
    world.is_overloaded()
    overloaded_for(world, 3.0, lambda number: (DEFAULT, spread(number)))
    assert world.machine.overloaded
    assert 2.3 < world.machine._ranks.ceiling < 2.8
    while world.machine.in_flight < 4:
        world.goes_in(DEFAULT, 0.001)
    assert world.refused(DEFAULT, 0.99) == "overloaded"
    assert world.refused(BACKGROUND, 0.0) == "overloaded"
    assert world.refused(DEFAULT, 0.3) in ("busy",)


def test_idle_places_are_given_to_anybody() -> None:
    """Far below the limit nobody is hopeless."""
    world = World(10, max_queued=10)
    world.is_overloaded()
    overloaded_for(world, 2.0, lambda number: (DEFAULT, spread(number)), every=0.005)
    assert world.machine._ranks.ceiling < 4
    world.goes_in(BACKGROUND, 0.99)


def test_what_matters_finds_room_beyond_the_limit_but_not_beyond_the_most() -> None:
    """In an overload a class that is safe has more room than the limit; a hard bound holds for it too."""
    for most in (math.inf, 12):
        world = World(10, max_queued=10, most=most)
        world.is_overloaded()
        overloaded_for(world, 2.0, lambda n: (CRITICAL if n % 5 == 0 else DEFAULT, spread(n)), every=0.005)
        assert world.machine._ranks.safe(CRITICAL)
        while isinstance(world.asks(CRITICAL, 0.5), ShedPermit):
            pass
        assert world.machine.in_flight == min(20, most)


def test_a_client_that_asks_for_too_much_goes_behind_the_others() -> None:
    """In an overload that lasts, its share of what comes is held against nobody else."""
    world = World(4)

    def ask(number: int) -> tuple[int, float, str]:
        return DEFAULT, spread(number), "small" if number % 10 == 0 else "large"

    world.is_overloaded()
    overloaded_for(world, 6.0, ask)
    assert world.machine.snapshot(world.now)["clients_over"] == 1
    shares = world.machine._shares[DEFAULT]
    assert shares.kept("small") == 1.0
    assert shares.kept("large") < 0.6


def test_one_journey_goes_on() -> None:
    """In an overload, the second call of a journey that was let in stands before all that begin."""
    world = World(4, max_queued=10)
    world.is_overloaded()
    overloaded_for(world, 2.0, lambda number: (DEFAULT, spread(number)))
    world.goes_in(DEFAULT, 0.987)
    while world.machine.in_flight < 4:
        world.goes_in(DEFAULT, 0.001)
    assert world.refused(DEFAULT, 0.986) == "overloaded"
    journey = world.waits(DEFAULT, 0.987)
    begins = world.waits(DEFAULT, 0.3)
    world.ends()
    world.ends()
    assert world.woken == [journey, begins]


def test_a_journey_under_way_is_not_stopped_by_the_limit() -> None:
    """Its other calls go in where the best of those that begin find no room, up to twice the limit."""
    world = World(Fixed(10), max_queued=0)
    overloaded_for(world, 2.0, lambda number: (DEFAULT, spread(number)), every=0.004)
    assert world.machine.overloaded
    begin = 0
    while isinstance(world.asks(DEFAULT, 0.001 * begin), ShedPermit):
        begin += 1
    assert 10 <= begin <= 13
    for _ in range(20 - begin):
        world.goes_in(DEFAULT, 0.0)
    assert world.refused(DEFAULT, 0.0) == "overloaded"


def test_journeys_of_several_calls_leave_less_room() -> None:
    """All of a journey's calls have to be in time: the more it makes, the less may queue."""
    world = World(queue_delay())
    target = world.machine.target
    for calls in (1, 4):
        overloaded_for(world, 6.0, lambda number, calls=calls: (DEFAULT, spread(number // calls)), every=0.002)
        assert world.machine.overloaded
        assert world.machine.target == pytest.approx(target * calls**-_LATENESS, rel=0.03)


def test_a_journey_that_failed_gets_no_idle_place() -> None:
    """Below the limit others are let in, whatever their rank; its calls are, once half of the places are idle."""
    world = World(10, max_queued=10)
    world.is_overloaded()
    overloaded_for(world, 2.0, lambda number: (CRITICAL, spread(number)), every=0.005)
    while world.machine.in_flight < 6:
        world.goes_in(CRITICAL, 0.5)
    world.machine._ranks.turned_away(0.25)
    assert world.refused(DEFAULT, 0.25) == "overloaded"
    world.goes_in(DEFAULT, 0.26)
    while world.machine.in_flight > 4:
        world.ends()
    world.goes_in(DEFAULT, 0.25)


def test_who_is_beyond_its_share_gets_fewer_idle_places() -> None:
    """A client that asks for most comes most, so most of the idle places would be its own."""
    world = World(10)

    def ask(number: int) -> tuple[int, float, str]:
        return DEFAULT, spread(number), "small" if number % 10 == 0 else "large"

    world.is_overloaded()
    overloaded_for(world, 6.0, ask, every=0.004)
    assert world.machine._shares[DEFAULT].kept("large") < 0.9
    while world.machine.in_flight < 8:
        world.goes_in(DEFAULT, 0.0)
    assert world.refused(DEFAULT, 0.99, "large") == "overloaded"
    world.goes_in(DEFAULT, 0.97, "small")
    while world.machine.in_flight > 6:
        world.ends()
    world.goes_in(DEFAULT, 0.98, "large")


# How much is shed.


def test_shedding_is_capped() -> None:
    """Whatever the limit says, a share of what comes in a second goes in."""
    world = World(1, max_queued=0, shed_max=0.75)
    world.goes_in()
    said = [world.asks() for _ in range(100)]
    assert sum(isinstance(each, ShedPermit) for each in said) >= 24
    assert all(isinstance(each, Refusal) for each in said[:18])  # of a few nothing can be said


def test_waits_that_end_in_a_later_second_do_not_lift_the_cap() -> None:
    """A crowd that gave up waiting is no reason to let in those who come after it."""
    world = World(1, max_queued=200)
    world.goes_in()
    world.now = 0.95
    waiters = [world.waits() for _ in range(200)]
    world.passes(0.1)
    for waiter in waiters:
        world.machine.leave(waiter, world.now)
    world.machine.reconfigure(dataclasses.replace(world.terms, max_queued=0), world.algorithm)
    assert sum(isinstance(world.asks(), ShedPermit) for _ in range(100)) <= 3


def test_the_share_that_is_shed() -> None:
    """It is told for the last second, never more than all, and tells who is turned away when to come back."""
    world = World(1, max_queued=0)
    world.goes_in()
    for _ in range(9):
        world.refused()
    world.passes(1.02)
    assert world.machine.snapshot(world.now)["shed"] == 0.9
    said = world.asks()
    assert isinstance(said, Refusal)
    assert said.retry_after == pytest.approx(10)
    world.passes(2.0)
    assert world.machine.snapshot(world.now)["shed"] == 0.0


def test_a_share_is_never_more_than_all() -> None:
    """When more gave up waiting in a second than came in it, all is what was shed."""
    world = World(1, max_queued=50)
    world.goes_in()
    waiters = [world.waits() for _ in range(50)]
    world.passes(1.02)
    world.asks()
    for waiter in waiters:
        world.machine.leave(waiter, world.now)
    world.passes(1.02)
    assert world.machine.snapshot(world.now)["shed"] == 1.0


# The limit.


def queue_delay(start: int = 20, most: int = 1000) -> QueueDelay:
    return QueueDelay(start=start, least=2, most=most, target=99.0)


def busy_window(world: World, delay: float, asking: int = 30, latency: float = 0.1) -> None:
    """Let many ask at once, those who are let in be answered, and a delay be measured."""
    for _ in range(asking):
        world.asks(cohort=world.draws.random())
    world.machine.observe(delay)
    world.now += latency
    while world.inside:
        world.ends()
    if world.now >= world.machine.due:
        world.machine.tick(world.now)


def test_the_limit_grows_while_little_queues_and_falls_while_much_does() -> None:
    """The delay of a window is held against the target that the objective leaves room for."""
    world = World(queue_delay())
    assert world.algorithm.target == world.machine.target == pytest.approx(0.25 * _ROOM * _INSIDE)  # type: ignore[attr-defined]
    for _ in range(10):
        busy_window(world, 0.001)
    assert world.machine.limit > 25
    for _ in range(10):
        busy_window(world, 0.2, asking=60)
    assert world.machine.limit < 22


def test_moves_of_a_tenth_are_told() -> None:
    """Small steps are summed up; the outbox is bounded when nobody fetches them."""
    world = World(queue_delay())
    while not world.machine.outbox:
        busy_window(world, 0.001)
    (move,) = world.machine.outbox
    assert isinstance(move, Move)
    assert (move.before, move.reason) == (20.0, "queueing delay 1ms")
    assert move.after >= 22
    for number in range(200):
        world.machine.reconfigure(world.terms, Fixed(1 + number % 2 * 9))
    assert len(world.machine.outbox) == 64


def test_the_health_of_the_system_lowers_the_limit() -> None:
    """Its factor counts from the next look on, at least one goes in, and the reason says so."""
    world = World(10)
    world.machine.factor = 0.5
    world.passes(0.2)
    assert world.machine.limit == 5.0
    assert world.machine.outbox[-1].reason == "queueing delay 0ms, health 0.5"
    world.machine.factor = 0.001
    world.passes(0.2)
    assert world.machine.limit == 1.0
    world.goes_in()


def test_a_limit_that_is_held_down_does_not_grow() -> None:
    """What the system's health forbids was not tried; when it is well again there is no flood."""
    world = World(queue_delay())
    world.machine.factor = 0.2
    for _ in range(100):
        busy_window(world, 0.001, asking=100)
    world.machine.factor = 1.0
    world.passes(0.2)
    assert 20.0 <= world.machine.limit < 25.0


@pytest.mark.parametrize("quantile", [0.5, 0.99])
def test_the_target_is_what_the_objective_leaves(quantile: float) -> None:
    """How long answers take when nothing queues is learned, and the room for queueing is what is left."""
    world = World(queue_delay(), quantile=quantile)
    assert world.machine.room == pytest.approx(0.25 * _ROOM)
    for number in range(300):
        permit = world.goes_in()
        world.machine.observe(0.0001)
        world.now += 0.1 if number % 10 else 0.2
        world.ends(permit)
    expected = 0.25 * _ROOM if quantile == 0.5 else 0.05
    assert world.machine.room == pytest.approx(expected, rel=0.1)
    assert world.machine.target == _INSIDE * world.machine.room
    assert world.machine.max_wait == pytest.approx(_OUTSIDE * world.machine.room)


def answers(world: World, seconds: float, times: int) -> None:
    """Have so many calls answered after so long, while nothing queues."""
    for _ in range(times):
        permit = world.goes_in()
        world.machine.observe(0.0001)
        world.now += seconds
        world.ends(permit)


def test_answers_as_slow_as_the_objective_leave_little_room() -> None:
    """The room is at least a tenth of the objective, however slow the service is by itself."""
    world = World(queue_delay())
    answers(world, 0.249, 400)
    assert world.machine.room == 0.025


def test_answers_slower_than_the_objective_teach_nothing() -> None:
    """With less room they would be no quicker, and the others would be turned away for them."""
    world = World(queue_delay())
    answers(world, 0.5, 400)
    assert world.machine.room == 0.25 * _ROOM


def test_a_few_answers_say_nothing_of_a_high_quantile() -> None:
    """Three have to lie beyond it, so a 99th percentile takes 300 answers; until then all of the room counts."""
    world = World(queue_delay())
    answers(world, 0.2, 250)
    assert world.machine.room == 0.25 * _ROOM
    answers(world, 0.2, 100)
    assert world.machine.room == pytest.approx(0.05, rel=0.1)
    rough = World(queue_delay(), quantile=0.5)
    answers(rough, 0.2, 150)
    assert rough.machine.room == pytest.approx(0.05, rel=0.1)


def test_little_room_becomes_large_again() -> None:
    """What a slow dependency has taught is forgotten in calm, also where some delay is always about."""
    world = World(queue_delay(), quantile=0.9)
    answers(world, 0.249, 200)
    assert world.machine.room == 0.025
    for _ in range(4000):
        permit = world.goes_in()
        world.machine.observe(0.01)  # most of the little target
        world.now += 0.05
        world.ends(permit)
    assert world.machine.room == 0.25 * _ROOM


def test_nothing_is_learned_while_something_queues() -> None:
    """Windows with a delay, or without a measurement, or in which the limit bound, say nothing of calm."""
    for delay, asking in [(0.05, 1), (None, 1), (0.0001, 9)]:
        world = World(4)
        for _ in range(400):
            for _ in range(asking):
                world.asks()
            if delay is not None:
                world.machine.observe(delay)
            world.now += 0.2
            while world.inside:
                world.ends()
        assert world.machine.room == pytest.approx(0.25 * _ROOM)


def test_what_is_learned_in_one_window_is_bounded() -> None:
    """Of thousands of answers in a window some hundreds are enough."""
    world = World(10)
    for _ in range(5000):
        world.goes_in()
        world.ends()
    assert len(world.machine._latencies) == 256


def test_errors_say_nothing_of_latency() -> None:
    """A fast error is no fast answer, and what was cut off did not take as long as it was allowed to."""
    world = World(4)
    answered(world, 0.1)
    for _ in range(500):
        world.goes_in()
        world.ends(good=False)
    typical = world.machine._typical.value
    assert typical == pytest.approx(0.1, rel=0.05)


def test_answers_beyond_the_objective_count_as_dropped() -> None:
    """For a limit that goes by drops, what comes too late is one."""
    world = World(AIMD(start=20, least=1, most=100), window=1.0, window_calls=10)
    for _ in range(20):
        world.goes_in()
    world.now = 0.3
    while world.inside:
        world.ends()
    world.passes(1.0)
    assert world.machine.limit == 18.0


# What can be asked.


def test_pressure() -> None:
    """Half is the delay that the limit aims at; shedding counts as well, and all of it is 1."""
    world = World(10)
    assert world.machine.pressure == 0.0
    world.passes(1.2, delay=world.machine.target)
    assert world.machine.pressure == pytest.approx(0.5)
    world.passes(1.2, delay=0.4)
    assert world.machine.pressure == 1.0
    world.passes(3.0)
    assert world.machine.pressure == 0.0
    world = World(1, max_queued=0)
    for _ in range(4):
        world.asks()
    world.passes(1.02)
    assert world.machine.pressure == 0.75


def test_snapshot() -> None:
    """It has what a dashboard needs, as plain data, and is as recent as the time that it is given."""
    world = World(1)
    world.goes_in()
    world.waits()
    assert world.machine.snapshot(0.0) == {
        "limit": 1.0,
        "in_flight": 1,
        "queued": 1,
        "overloaded": False,
        "target": pytest.approx(0.25 * _ROOM * _INSIDE),
        "delay": 0.0,
        "shed": 0.0,
        "clients_over": 0,
    }
    assert world.machine.snapshot(5.0)["overloaded"] is True


def test_ticks_are_due_again_after_each() -> None:
    """Whatever state it is in, the next look lies ahead, and not far."""
    world = World(1, max_queued=3)
    for step in range(400):
        if step == 50:
            world.goes_in()
        if step in (60, 61, 200):
            world.waits()
        if step == 300:
            world.ends()
        world.now += 0.01
        world.machine.tick(world.now)
        assert world.now < world.machine.due <= world.now + 0.2


# Other terms while it is in use.


def test_a_larger_limit_lets_in_who_waits() -> None:
    """With the next look, whoever comes by; a larger one is due at once."""
    world = World(1)
    world.goes_in()
    waiter = world.waits()
    world.machine.reconfigure(world.terms, Fixed(2))
    assert world.now >= world.machine.due
    world.machine.tick(world.now)
    assert world.woken == [waiter]


def test_a_smaller_limit_throws_nobody_out() -> None:
    """Those who are in stay in; the next goes in when there are few enough."""
    world = World(3)
    for _ in range(3):
        world.goes_in()
    world.machine.reconfigure(world.terms, Fixed(1))
    waiter = world.waits()
    world.ends()
    world.ends()
    assert not world.woken
    world.ends()
    assert world.woken == [waiter]


def test_a_shorter_queue_keeps_who_waits() -> None:
    """Nobody new joins a queue that is longer than it may be; a better one takes a place in it, and it drains."""
    world = World(1, max_queued=4)
    world.goes_in()
    waiters = [world.waits() for _ in range(4)]
    world.machine.reconfigure(dataclasses.replace(world.terms, max_queued=1), Fixed(1))
    assert world.refused() == "overloaded"
    critical = world.waits(CRITICAL)
    assert world.machine.snapshot(0.0)["queued"] == 4
    assert world.woken == [waiters[3]]
    world.ends()
    assert world.woken[-1] is critical
    assert world.machine.snapshot(0.0)["queued"] == 3


def test_a_limit_of_the_same_kind_goes_on() -> None:
    """With what it has found, within the new bounds, and with what it has learned."""
    found = queue_delay()
    world = World(found)
    for _ in range(20):
        busy_window(world, 0.001, asking=60)
    before = world.machine.limit
    assert before > 30
    world.machine.reconfigure(dataclasses.replace(world.terms, objective=0.5), queue_delay())
    assert world.machine.limit == before
    assert found.target == pytest.approx(0.5 * _ROOM * _INSIDE)
    world.machine.reconfigure(world.terms, queue_delay(most=25))
    assert world.machine.limit == found.limit == 25.0


def test_a_limit_of_another_kind_begins_anew() -> None:
    """A limit found by one rule says nothing to another, nor to a number that stays."""
    world = World(queue_delay())
    world.machine.reconfigure(world.terms, Fixed(7))
    assert world.machine.limit == 7.0
    world.machine.reconfigure(world.terms, Fixed(9))
    assert world.machine.limit == 9.0
    world.machine.reconfigure(world.terms, Vegas(start=12, least=1, most=50))
    assert world.machine.limit == 12.0


def test_windows_are_as_long_as_the_new_terms_say() -> None:
    """An algorithm gets the windows that it needs, from the present one on."""
    world = World(queue_delay())
    slow = AIMD(start=10, least=1, most=50)
    world.machine.reconfigure(dataclasses.replace(world.terms, window=1.0, window_calls=3), slow)
    for _ in range(9):
        for _ in range(10):
            world.asks()
        world.now += 0.1
        while world.inside:
            world.ends()
    assert slow.limit == 10.0
    world.passes(0.2)
    assert slow.limit == 11.0


def test_a_permit_may_end_without_a_word_on_how_it_went() -> None:
    """Its place is free, and nothing is learned from it."""
    world = World(1, max_queued=0)
    permit = world.goes_in()
    world.machine.end(permit, 60.0, good=None)
    assert world.machine.in_flight == 0
    assert world.machine._typical.value is None
    assert not world.machine._latencies


def test_what_is_critical_has_more_patience() -> None:
    """It may use all of the room that the objective leaves, as all may in a jam; unless the longest wait was set."""
    world = World(1, max_queued=2)
    assert world.machine.patience(CRITICAL) == pytest.approx(world.machine.room)
    assert world.machine.patience(DEFAULT) == pytest.approx(world.machine.room)
    world.is_overloaded()
    assert world.machine.patience(CRITICAL) == pytest.approx(world.machine.room)
    assert world.machine.patience(DEFAULT) == pytest.approx(world.machine.max_wait)
    assert World(1, max_wait=0.5).machine.patience(CRITICAL) == 0.5


def goes_by(world: World, delay: float | None) -> None:
    """Let a window go by in which a call ended, and this was heard of the delay, or nothing."""
    permit = world.machine.admit(CRITICAL, 0.5, "", world.now)
    assert isinstance(permit, ShedPermit)
    if delay is not None:
        world.machine.observe(delay)
    world.machine.end(permit, world.now, good=True)
    world.now += 0.1
    world.machine.tick(world.now)


def drops(world: World) -> bool:
    """Whether most of what comes is turned away."""
    said = [world.machine.admit(DEFAULT, 0.5, "", world.now) for _ in range(4)]
    for each in said:
        if isinstance(each, ShedPermit):
            world.machine.end(each, world.now, good=True)
    return sum(isinstance(each, ShedPermit) for each in said) == 1


def test_a_window_in_which_nothing_is_heard_says_nothing() -> None:
    """In the long turns of an overloaded loop calls end while the probe waits; what it says then is for all of them."""
    world = World(10)
    for _ in range(4):
        goes_by(world, None)
        assert not drops(world)
    goes_by(world, 3 * world.machine.room)
    assert drops(world)
    goes_by(world, None)
    assert world.machine.snapshot(world.now)["delay"] == pytest.approx(3 * world.machine.room)
    assert drops(world)
    goes_by(world, 0.0)
    assert not drops(world)


def test_silence_ends_a_delay() -> None:
    """When nobody measures any more, nobody is turned away for what was measured long ago."""
    world = World(10)
    for _ in range(3):
        goes_by(world, 3 * world.machine.room)
    for _ in range(10):
        assert drops(world)
        goes_by(world, None)
    goes_by(world, None)
    assert not drops(world)
    assert world.machine.snapshot(world.now)["delay"] == 0.0


def test_a_delay_far_beyond_the_room_turns_most_away_whatever_is_in_flight() -> None:
    """Work that never waits is never in flight together; three of four go, nobody critical, until it is over.

    One moment of it is no reason: a single piece of work may block an event loop for so long.
    """
    world = World(10, max_queued=10)
    for window in (1, 2, 3):
        permit = world.goes_in()
        world.machine.observe(3 * world.machine.room)
        world.machine.end(permit, 0.1, good=True)
        world.now = 0.1 * window
        world.machine.tick(world.now)
    said = [world.machine.admit(DEFAULT, 0.5, "", world.now) for _ in range(8)]
    assert [isinstance(each, ShedPermit) for each in said] == [False, False, False, True] * 2
    assert all(isinstance(world.machine.admit(CRITICAL, 0.5, "", world.now), ShedPermit) for _ in range(4))
    for each in said:
        if isinstance(each, ShedPermit):
            world.machine.end(each, 0.2, good=True)
    world.now = 0.5
    world.machine.observe(0.0)
    world.machine.tick(world.now)
    assert isinstance(world.machine.admit(DEFAULT, 0.5, "", world.now), ShedPermit)
