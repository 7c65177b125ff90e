"""The load shedder with two threads, one cutting in between any two instructions of the other."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest

from hormesis.core.limits import Fixed, QueueDelay, Windowing
from hormesis.core.shedder import ShedderMachine, ShedderTerms, ShedPermit, ShedWaiter
from hormesis.priority import Criticality

TERMS = ShedderTerms(objective=0.25, quantile=0.99, max_queued=2, max_wait=None, shed_max=0.98, most=1)

INSIDE = [
    ShedderMachine.admit,
    ShedderMachine.enqueue,
    ShedderMachine.leave,
    ShedderMachine.end,
    ShedderMachine.tick,
    ShedderMachine.reconfigure,
    ShedderMachine._hand_over,
    ShedderMachine._enter,
    ShedderMachine._remove,
    ShedderMachine._insert,
    ShedderMachine._give_back,
    ShedderMachine._certify,
]


class Locks:
    """Makes locks, and knows whether any of them is held: the other thread would have to wait for it."""

    def __init__(self) -> None:
        self.made: list[threading.Lock] = []

    def __call__(self) -> threading.Lock:
        lock = threading.Lock()
        self.made.append(lock)
        return lock

    def locked(self) -> bool:
        return any(lock.locked() for lock in self.made)


class World:
    """A machine with one place, which is taken, and waiters that remember that they were woken."""

    def __init__(self, *, waiting: int = 0, **terms: Any) -> None:
        self.lock = Locks()
        self.machine = ShedderMachine(dataclasses.replace(TERMS, **terms), Fixed(1), now=0.0, lock=self.lock)
        self.woken: list[ShedWaiter] = []
        permit = self.machine.admit(Criticality.DEFAULT, 0.5, "", 0.0)
        assert isinstance(permit, ShedPermit)
        self.permit = permit
        self.waiting = [self.waiter() for _ in range(waiting)]
        for waiter in self.waiting:
            self.stand(waiter)

    def waiter(self, criticality: Criticality = Criticality.DEFAULT) -> ShedWaiter:
        def wake() -> None:
            assert not self.lock.locked()
            self.woken.append(waiter)

        waiter = ShedWaiter(criticality, 0.5, "", wake, now=0.0)
        return waiter

    def stand(self, waiter: ShedWaiter) -> None:
        assert self.machine.enqueue(waiter, 0.0) is None

    def end(self) -> None:
        self.machine.end(self.permit, 0.1, good=True)

    def holds(self, *, in_flight: int, queued: int) -> None:
        snapshot = self.machine.snapshot(0.0)
        assert (snapshot["in_flight"], snapshot["queued"]) == (in_flight, queued)


@pytest.mark.parametrize("order", ["it ends first", "it waits first"])
def test_somebody_enters_the_queue_while_a_permit_ends(race: Any, sweep_interleavings: Any, order: str) -> None:
    """Whichever comes second sees the other: nobody waits for a place that is free."""

    def make() -> Any:
        world = World()
        waiter = world.waiter()

        def check() -> None:
            assert world.woken == [waiter]
            assert waiter.permit is not None
            world.holds(in_flight=1, queued=0)

        verbs = [world.end, lambda: world.stand(waiter)]
        first, second = verbs if order == "it ends first" else reversed(verbs)
        return race(first=first, second=second, check=check, lock=world.lock)

    assert sweep_interleavings(make, INSIDE) > 10


@pytest.mark.parametrize("order", ["it ends first", "it leaves first"])
def test_a_permit_ends_while_its_waiter_leaves(race: Any, sweep_interleavings: Any, order: str) -> None:
    """A permit that was handed to somebody who is just leaving goes to the next."""

    def make() -> Any:
        world = World(waiting=2)
        leaving, following = world.waiting

        def check() -> None:
            assert leaving.permit is None
            assert following.permit is not None
            assert world.woken.count(following) == 1
            world.holds(in_flight=1, queued=0)

        verbs = [world.end, lambda: world.machine.leave(leaving, 0.1)]
        first, second = verbs if order == "it ends first" else reversed(verbs)
        return race(first=first, second=second, check=check, lock=world.lock)

    assert sweep_interleavings(make, INSIDE) > 10


def test_a_waiter_looks_whether_it_has_to_leave_while_it_is_served(race: Any, sweep_interleavings: Any) -> None:
    """Without a lock: who is out of the queue has its permit by then, so none is left behind."""

    def make() -> Any:
        world = World(waiting=1)
        (waiter,) = world.waiting
        looked: list[bool] = []

        def look() -> None:
            looked.append(waiter.place is not None or waiter.permit is not None)

        def check() -> None:
            assert looked == [True]

        return race(first=world.end, second=look, check=check)

    assert sweep_interleavings(make, INSIDE) > 10


@pytest.mark.parametrize("order", ["it is displaced first", "it leaves first"])
def test_a_waiter_leaves_while_it_is_displaced(race: Any, sweep_interleavings: Any, order: str) -> None:
    """It is out of the queue once, and the better one is in it."""

    def make() -> Any:
        world = World(waiting=2)
        leaving = world.waiting[1]
        better = world.waiter(Criticality.CRITICAL)

        def check() -> None:
            assert leaving.place is None
            assert better.place is not None
            world.holds(in_flight=1, queued=2)

        verbs = [lambda: world.stand(better), lambda: world.machine.leave(leaving, 0.0)]
        first, second = verbs if order == "it is displaced first" else reversed(verbs)
        return race(first=first, second=second, check=check, lock=world.lock)

    # Leaving first makes place, so that nobody has to be displaced: then there are two as well.
    assert sweep_interleavings(make, INSIDE) > 10


def test_a_permit_is_ended_twice_at_once(race: Any, sweep_interleavings: Any) -> None:
    """Its place comes back once."""

    def make() -> Any:
        world = World()
        return race(
            first=world.end, second=world.end, check=lambda: world.holds(in_flight=0, queued=0), lock=world.lock
        )

    assert sweep_interleavings(make, INSIDE) > 10


def test_two_come_for_the_last_place(race: Any, sweep_interleavings: Any) -> None:
    """One goes in, the other is told to wait."""

    def make() -> Any:
        world = World()
        world.end()
        said: list[Any] = []

        def come() -> None:
            said.append(world.machine.admit(Criticality.DEFAULT, 0.5, "", 0.1))

        def check() -> None:
            assert sum(isinstance(each, ShedPermit) for each in said) == 1
            world.holds(in_flight=1, queued=0)

        return race(first=come, second=come, check=check, lock=world.lock)

    assert sweep_interleavings(make, INSIDE) > 10


@pytest.mark.parametrize("verb", ["tick", "end", "admit", "observe", "reconfigure"])
def test_time_goes_on_while_the_machine_is_used(race: Any, sweep_interleavings: Any, verb: str) -> None:
    """A look at a window that is over meets whatever else happens, and the window is counted once."""

    def make() -> Any:
        world = World(waiting=1, most=9)
        machine = world.machine
        algorithm = QueueDelay(start=1, least=1, most=9, target=1.0)
        machine.reconfigure(machine.terms, algorithm)
        machine.tick(0.05)
        machine.observe(0.001)
        machine._windowing.ended(0.1, 1)
        other = {
            "tick": lambda: machine.tick(0.2),
            "end": lambda: machine.end(world.permit, 0.2, good=True),
            "admit": lambda: machine.admit(Criticality.DEFAULT, 0.5, "", 0.2),
            "observe": lambda: machine.observe(0.001),
            "reconfigure": lambda: machine.reconfigure(machine.terms, Fixed(3)),
        }[verb]

        def check() -> None:
            machine.tick(0.21)
            assert algorithm.limit <= 3.0
            assert machine.limit == (3.0 if verb == "reconfigure" else algorithm.limit)
            assert world.woken == world.waiting

        return race(first=lambda: machine.tick(0.2), second=other, check=check, lock=world.lock)

    assert sweep_interleavings(make, [*INSIDE, Windowing.take]) > 20


def test_the_last_one_leaves_while_other_terms_come(race: Any, sweep_interleavings: Any) -> None:
    """Who waits is let in by one or the other, or by the look that is due then."""

    def make() -> Any:
        world = World(waiting=2)

        def check() -> None:
            world.machine.tick(0.1)
            assert len(world.woken) == 2
            world.holds(in_flight=2, queued=0)

        more = dataclasses.replace(TERMS, most=2, window=1.0)
        return race(
            first=lambda: world.machine.reconfigure(more, Fixed(2)), second=world.end, check=check, lock=world.lock
        )

    assert sweep_interleavings(make, INSIDE) > 10


def test_many_threads() -> None:
    """Real threads come, wait, give up and end as fast as they can; nobody is lost, and nothing is left."""
    machine = ShedderMachine(dataclasses.replace(TERMS, max_queued=4, most=3), Fixed(3), now=0.0, lock=threading.Lock)
    clock = iter(range(10**9))
    most, failed = 0, []

    def use(number: int) -> None:
        nonlocal most
        try:
            for step in range(400):
                now = next(clock) * 1e-4
                said = machine.admit(Criticality((number + step) % 4), step * 0.618 % 1, str(number), now)
                permit = said if isinstance(said, ShedPermit) else None
                if not isinstance(said, ShedPermit) and said.waitable:
                    woken = threading.Event()
                    waiter = ShedWaiter(number % 4, 0.5, str(number), woken.set, now=now)
                    if machine.enqueue(waiter, now) is None:
                        woken.wait(0.001 if step % 3 else 0.0)
                        permit = waiter.permit
                        if permit is not None:
                            waiter.permit = None
                        machine.leave(waiter, now)
                if permit is not None:
                    most = max(most, machine.in_flight)
                    machine.end(permit, now + 1e-4, good=bool(step % 2))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert (machine.in_flight, machine.snapshot(0.0)["queued"]) == (0, 0)
    assert most >= 1
