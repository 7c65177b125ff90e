"""The bulkhead: a bounded number in, a bounded number waiting, first come first served."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.admission import NullLock, Permit, Refusal, Waiter
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.outcome import Ending


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
        return self.machine.max_concurrent - len(self.running) - len(self.woken)

    def settle(self) -> None:
        """The model's hand-over: free permits go to the first in the queue."""
        while self.queue and self.free:
            self.woken.append(self.queue.pop(0))

    @rule()
    def ask(self) -> None:
        would_refuse = self.machine.refusal(0.0)
        answer = self.machine.acquire(0.0)
        assert isinstance(answer, Refusal) == (would_refuse is not None) == (not self.free or bool(self.queue))
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

    @invariant()
    def agrees(self) -> None:
        """As many are in and wait as the model says, and exactly those have been woken whose turn it was."""
        if not hasattr(self, "machine"):
            return
        assert self.machine.in_flight == len(self.running) + len(self.woken) <= self.machine.max_concurrent
        assert self.machine.queued == len(self.queue) <= self.machine.max_queued
        assert all(waiter.permit is not None for waiter in self.woken)
        assert all(waiter.permit is None for waiter in self.queue)


TestBulkheadModel = BulkheadModel.TestCase
TestBulkheadModel.__doc__ = "Whoever comes, waits, gives up and ends, the bulkhead does what the naive model does."
