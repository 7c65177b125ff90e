"""The bulkhead: a bounded number in, a bounded number waiting, first come first served."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.admission import NullLock, Permit, Refusal, Waiter
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.keyed import Keyed
from hormesis.errors import ConfigurationError
from hormesis.outcome import Ending
from hormesis.patterns.bulkhead import Bulkhead


def bulkhead(max_concurrent: int, max_queued: int = 0) -> BulkheadMachine:
    return BulkheadMachine(max_concurrent=max_concurrent, max_queued=max_queued, max_wait=1.0, lock=NullLock())


def admitted(machine: BulkheadMachine) -> Permit:
    permit = machine.acquire(0.0)
    assert isinstance(permit, Permit)
    return permit


def waiting(machine: BulkheadMachine) -> Waiter:
    """Stand in the queue."""
    waiter = Waiter(lambda: None)
    assert machine.enqueue(waiter) is None
    return waiter


def test_full_without_a_queue() -> None:
    """When all permits are taken and none may wait, it refuses, and no wait would help."""
    machine = bulkhead(2)
    admitted(machine)
    admitted(machine)
    assert machine.acquire(0.0) == machine.refusal(0.0) == Refusal("full", None, waitable=False)


def test_full_with_a_queue() -> None:
    """While the queue has room, a refusal says that waiting may help; when it has none, that it won't."""
    machine = bulkhead(1, max_queued=1)
    admitted(machine)
    assert machine.acquire(0.0) == Refusal("queue full", None, waitable=True)
    waiting(machine)
    assert machine.acquire(0.0) == machine.refusal(0.0) == Refusal("queue full", None, waitable=False)
    assert machine.enqueue(Waiter(lambda: None)) == Refusal("queue full", None, waitable=False)


def test_every_ending_frees_the_place() -> None:
    """However an attempt went, its place is free again."""
    machine = bulkhead(1)
    for ending in Ending:
        machine.end(admitted(machine), ending, 0.0, 1.0)
    machine.succeed(admitted(machine), 0.0, 1.0)
    machine.put_back(admitted(machine))
    assert machine.in_flight == 0


def test_a_permit_goes_to_the_first_in_the_queue() -> None:
    """Permits that come back wake the waiters in the order in which they came."""
    machine = bulkhead(1, max_queued=3)
    permit = admitted(machine)
    order: list[str] = []
    for name in "abc":
        machine.enqueue(Waiter(lambda name=name: order.append(name)))  # type: ignore[misc]
    for _ in "abc":
        machine.succeed(permit, 0.0, 1.0)
    assert order == ["a", "b", "c"]


def test_newcomers_do_not_overtake_the_queue() -> None:
    """While somebody waits, nobody else gets in first."""
    machine = bulkhead(1, max_queued=2)
    permit = admitted(machine)
    waiter = waiting(machine)
    assert isinstance(machine.acquire(0.0), Refusal)
    machine.put_back(permit)
    assert waiter.permit is not None
    assert isinstance(machine.acquire(0.0), Refusal)


def test_a_permit_that_came_back_just_before_the_queue() -> None:
    """Who enters the queue while a permit is free has it at once."""
    machine = bulkhead(1, max_queued=1)
    permit = admitted(machine)
    machine.acquire(0.0)
    machine.put_back(permit)
    assert waiting(machine).permit is not None
    assert (machine.in_flight, machine.queued) == (1, 0)


def test_who_gives_up_leaves_no_hole() -> None:
    """A waiter that leaves is skipped, and leaving twice does no harm."""
    machine = bulkhead(1, max_queued=2)
    permit = admitted(machine)
    first, second = waiting(machine), waiting(machine)
    machine.leave(first)
    machine.leave(first)
    machine.put_back(permit)
    assert first.permit is None
    assert second.permit is not None


def test_a_permit_that_reaches_somebody_who_gives_up_goes_to_the_next() -> None:
    """A waiter that was woken while it gave up passes its permit on."""
    machine = bulkhead(1, max_queued=2)
    permit = admitted(machine)
    first, second = waiting(machine), waiting(machine)
    machine.put_back(permit)
    assert first.permit is not None
    machine.leave(first)
    assert second.permit is not None
    machine.leave(second)
    assert (machine.in_flight, machine.queued) == (0, 0)


def resize(machine: BulkheadMachine, max_concurrent: int, max_queued: int = 0) -> None:
    machine.reconfigure(max_concurrent=max_concurrent, max_queued=max_queued, max_wait=1.0)


def test_growing_lets_those_in_who_wait() -> None:
    """New permits go to the queue at once, and what is left of them is free."""
    machine = bulkhead(1, max_queued=2)
    admitted(machine)
    first, second = waiting(machine), waiting(machine)
    resize(machine, 4, max_queued=2)
    assert (first.permit is not None, second.permit is not None) == (True, True)
    assert machine.snapshot(0.0) == {"max_concurrent": 4, "in_flight": 3, "queued": 0}


def test_shrinking_throws_nobody_out() -> None:
    """Who is in stays in; nobody gets in before there are fewer than the new bound."""
    machine = bulkhead(3)
    permits = [admitted(machine) for _ in range(3)]
    resize(machine, 1)
    assert machine.snapshot(0.0) == {"max_concurrent": 1, "in_flight": 3, "queued": 0}
    for left in (2, 1):
        machine.succeed(permits.pop(), 0.0, 0.0)
        assert machine.in_flight == left
        assert machine.acquire(0.0) == machine.refusal(0.0) == Refusal("full", None, waitable=False)
    machine.put_back(permits.pop())
    assert machine.in_flight == 0
    admitted(machine)
    assert isinstance(machine.acquire(0.0), Refusal)


def test_shrinking_takes_free_permits_first() -> None:
    """While permits are free, nothing is owed."""
    machine = bulkhead(3)
    admitted(machine)
    resize(machine, 2)
    assert not machine.queue
    admitted(machine)
    assert isinstance(machine.acquire(0.0), Refusal)


def test_who_waits_goes_on_waiting_while_permits_are_owed() -> None:
    """A shrunken bulkhead lets waiters in once it is below its bound, though the debt stands before them."""
    machine = bulkhead(2, max_queued=1)
    permits = [admitted(machine), admitted(machine)]
    waiter = waiting(machine)
    resize(machine, 1, max_queued=1)
    assert machine.queued == 1
    machine.put_back(permits.pop())
    assert waiter.permit is None
    machine.put_back(permits.pop())
    assert waiter.permit is not None
    assert (machine.in_flight, machine.queued) == (1, 0)


def test_growing_again_forgives_what_is_owed() -> None:
    """A bulkhead that shrinks and grows again while all are in owes nothing."""
    machine = bulkhead(3)
    permits = [admitted(machine) for _ in range(3)]
    resize(machine, 1)
    resize(machine, 2)
    assert machine.in_flight == 3
    resize(machine, 4)
    assert not machine.queue
    permits.append(admitted(machine))
    for permit in permits:
        machine.put_back(permit)
    assert [isinstance(machine.acquire(0.0), Permit) for _ in range(5)] == [True] * 4 + [False]


def test_a_shorter_queue_keeps_those_who_stand_in_it() -> None:
    """When fewer may wait, nobody is sent away who waits already."""
    machine = bulkhead(1, max_queued=2)
    permit = admitted(machine)
    waiter, _ = waiting(machine), waiting(machine)
    resize(machine, 1, max_queued=0)
    assert machine.queued == 2
    assert machine.enqueue(Waiter(lambda: None)) == Refusal("full", None, waitable=False)
    machine.put_back(permit)
    assert waiter.permit is not None


def test_idle_means_that_nothing_would_be_lost() -> None:
    """A bulkhead is idle when nobody is in, nobody waits, and nothing is owed."""
    machine = bulkhead(2, max_queued=1)
    assert machine.idle(0.0)
    permits = [admitted(machine), admitted(machine)]
    assert not machine.idle(0.0)
    resize(machine, 1, max_queued=1)
    machine.put_back(permits.pop())
    assert not machine.idle(0.0)
    machine.put_back(permits.pop())
    assert machine.idle(0.0)


def test_the_express_lane() -> None:
    """Taking and giving by hand, and looking at the queue, is all that the plain case takes; also while it shrinks."""
    machine = bulkhead(2, max_queued=1)
    take, give, queue = machine.take, machine.give, machine.queue
    assert not queue
    permits = [take(), take()]
    with pytest.raises(IndexError):
        take()
    resize(machine, 1, max_queued=1)
    assert queue
    give(permits.pop())
    machine.hand_over()
    assert not queue
    with pytest.raises(IndexError):
        take()
    waiter = waiting(machine)
    give(permits.pop())
    assert queue
    machine.hand_over()
    assert waiter.permit is not None


class BulkheadModel(RuleBasedStateMachine):
    """The machine against two numbers and a list."""

    @initialize(max_concurrent=st.integers(1, 4), max_queued=st.integers(0, 4))
    def begin(self, max_concurrent: int, max_queued: int) -> None:
        self.machine = bulkhead(max_concurrent, max_queued)
        self.running: list[Permit] = []
        self.queue: list[Waiter] = []
        self.woken: list[Waiter] = []

    @property
    def free(self) -> int:
        """Negative for a while when it has shrunk."""
        return self.machine.max_concurrent - len(self.running) - len(self.woken)

    def settle(self) -> None:
        """The model's hand-over: free permits go to the first in the queue."""
        while self.queue and self.free > 0:
            self.woken.append(self.queue.pop(0))

    @rule()
    def ask(self) -> None:
        would_refuse = self.machine.refusal(0.0)
        answer = self.machine.acquire(0.0)
        assert isinstance(answer, Refusal) == (would_refuse is not None) == (self.free <= 0 or bool(self.queue))
        if isinstance(answer, Permit):
            self.running.append(answer)

    @rule()
    def wait(self) -> None:
        waiter = Waiter(lambda: None)
        refusal = self.machine.enqueue(waiter)
        assert (refusal is None) == (len(self.queue) < self.machine.max_queued)
        if refusal is None:
            self.queue.append(waiter)
            self.settle()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ending=st.sampled_from(Ending))
    def end(self, data: st.DataObject, ending: Ending) -> None:
        permit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.machine.end(permit, ending, 0.0, 1.0)
        self.settle()

    @precondition(lambda self: self.woken)
    @rule()
    def go_in(self) -> None:
        waiter = self.woken.pop(0)
        permit, waiter.permit = waiter.permit, None
        assert permit is not None
        self.running.append(permit)
        self.machine.leave(waiter)

    @precondition(lambda self: self.queue or self.woken)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        everybody = self.woken + self.queue
        waiter = everybody[data.draw(st.integers(0, len(everybody) - 1))]
        (self.woken if waiter in self.woken else self.queue).remove(waiter)
        self.machine.leave(waiter)
        self.settle()

    @rule(max_concurrent=st.integers(1, 4), max_queued=st.integers(0, 4))
    def reconfigure(self, max_concurrent: int, max_queued: int) -> None:
        resize(self.machine, max_concurrent, max_queued)
        self.settle()

    @rule()
    def take_the_express_lane(self) -> None:
        try:
            permit = None if self.machine.queue else self.machine.take()
        except IndexError:
            permit = None
        assert (permit is not None) == (self.free > 0 and not self.queue)
        if permit is not None:
            self.running.append(permit)

    @precondition(lambda self: self.running)
    @rule()
    def leave_by_the_express_lane(self) -> None:
        self.machine.give(self.running.pop())
        if self.machine.queue:
            self.machine.hand_over()
        self.settle()

    @invariant()
    def agrees(self) -> None:
        """As many are in and wait as the model says, and exactly those have been woken whose turn it was."""
        if not hasattr(self, "machine"):
            return
        assert self.machine.in_flight == len(self.running) + len(self.woken)
        assert self.machine.queued == len(self.queue)
        assert self.machine.idle(0.0) == (not self.running and not self.woken and not self.queue)
        assert all(waiter.permit is not None for waiter in self.woken)
        assert all(waiter.permit is None for waiter in self.queue)


TestBulkheadModel = BulkheadModel.TestCase
TestBulkheadModel.__doc__ = "Whoever comes, waits, gives up and ends, the bulkhead does what the naive model does."


def test_an_instance_for_each_key() -> None:
    """With `by`, each key has places of its own."""
    machines = Bulkhead(1, by="host").machine(threading.Lock())
    assert isinstance(machines, Keyed)
    admitted(machines.get("a", lambda: 0.0))
    assert isinstance(machines.get("a", lambda: 0.0).acquire(0.0), Refusal)
    admitted(machines.get("b", lambda: 0.0))


def test_other_settings_are_adopted() -> None:
    """A machine goes on with other settings, keeping who is in."""
    machine: Any = Bulkhead(1).machine(threading.Lock())
    admitted(machine)
    assert Bulkhead(3, max_queued=2, max_wait="5s").adopt(machine)
    assert machine.snapshot(0.0) == {"max_concurrent": 3, "in_flight": 1, "queued": 0}
    assert (machine.max_queued, machine.max_wait) == (2, 5.0)


def test_other_settings_are_adopted_for_every_key() -> None:
    """Instances that there are go on with other settings, and later ones are made by them."""
    machines: Any = Bulkhead(1, by="host").machine(threading.Lock())
    before = machines.get("a", lambda: 0.0)
    assert Bulkhead(2, by="host").adopt(machines)
    assert machines.get("a", lambda: 0.0) is before
    assert [machines.get(key, lambda: 0.0).max_concurrent for key in "ab"] == [2, 2]


@pytest.mark.parametrize("after", [Bulkhead(1), Bulkhead(1, by="tenant")], ids=["no key", "another key"])
def test_other_keys_are_not_adopted(after: Bulkhead) -> None:
    """What belongs to a host can't go on as what belongs to a tenant, or to all."""
    assert not after.adopt(Bulkhead(1, by="host").machine(threading.Lock()))


def test_keys_are_not_adopted_by_one_for_all() -> None:
    """What belongs to all can't go on as what belongs to a host."""
    assert not Bulkhead(1, by="host").adopt(Bulkhead(1).machine(threading.Lock()))


@pytest.mark.parametrize(
    ("settings", "key", "accepted"),
    [
        ({"workers": "process"}, "workers", "'threads', 'processes'"),
        ({"workers": ["threads"]}, "workers", "'threads', 'processes'"),
        ({"workers": "threads", "max_concurrent": 10_001}, "max_concurrent", "from 1 to 10,000"),
        ({"workers": "processes", "max_concurrent": 1_001}, "max_concurrent", "from 1 to 1,000"),
        ({"max_keys": 0}, "max_keys", "from 1"),
        ({"by": 3}, "by", "a label of calling"),
        ({"by": "host", "workers": "threads"}, "by", "workers, or an instance for each key"),
        ({"memory_max": "512MB"}, "memory_max", "workers='processes'"),
        ({"memory_max": "512MB", "workers": "threads"}, "memory_max", "workers='processes'"),
        ({"calls_max": 5}, "calls_max", "workers='processes'"),
        *(
            ({"memory_max": value, "workers": "processes"}, "memory_max", "at least 64 MB")
            for value in ["512", "512 MiB", "-1GB", "10MB", 1, 0, -1, True, 1e9, "1e9GB", "999999999999GB", [1]]
        ),
        *(
            ({"calls_max": value, "workers": "processes"}, "calls_max", "a whole number from 1")
            for value in [0, -1, True, 1.5, "3"]
        ),
    ],
    ids=repr,
)
def test_bad_settings(settings: dict[str, Any], key: str, accepted: str) -> None:
    """What can't be meant is refused with its key, and with what would do."""
    with pytest.raises(ConfigurationError) as caught:
        Bulkhead(**({"max_concurrent": 2} | settings))
    assert caught.value.key == key
    assert accepted in str(caught.value)


@pytest.mark.parametrize(
    ("memory_max", "size"), [("512MB", 512e6), (" 1.5 GB", 1.5e9), ("64000KB", 64e6), (64_000_000, 64e6), (None, None)]
)
def test_sizes(memory_max: str | int | None, size: float | None) -> None:
    """A size is read with its unit, and reading it twice changes nothing."""
    part = Bulkhead(1, workers="processes", memory_max=memory_max)
    again = Bulkhead(1, workers="processes", memory_max=part.memory_max)
    assert part.memory_bytes == again.memory_bytes == size


def test_in_words() -> None:
    """What it is made of can be read."""
    assert Bulkhead(2).describe() == "at most 2 at a time, none wait"
    assert Bulkhead(2, by="host").describe().endswith("none wait; one for each host, 10,000 at most")
    assert Bulkhead(2, by=lambda order: order.tenant).describe().endswith("one for each key, 10,000 at most")
    assert Bulkhead(2, workers="threads").describe().endswith("; synchronous functions in threads of its own")
    described = Bulkhead(2, max_queued=1, workers="processes", memory_max="512MB", calls_max=1000).describe()
    assert described == (
        "at most 2 at a time, 1 more wait up to 1s; "
        "synchronous functions in processes of its own (512 MB each, replaced after 1,000 calls)"
    )
