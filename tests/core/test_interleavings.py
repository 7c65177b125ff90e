"""Two threads, one cutting in between any two instructions of the other.

Real threads meet in a race once in a million; here every meeting is made, one after the other. That is stricter than
an interpreter with one lock for all would be, and just right for one without.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from hormesis.core.admission import Permit, Waiter
from hormesis.core.breaker import BreakerMachine, BreakerState
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.retry import RetryBudget
from hormesis.core.ticks import Ticks
from hormesis.core.window import CountWindow, Tally, TimeWindow
from hormesis.outcome import Ending

INSIDE_BULKHEAD = [
    BulkheadMachine.acquire,
    BulkheadMachine.put_back,
    BulkheadMachine.succeed,
    BulkheadMachine.enqueue,
    BulkheadMachine.leave,
    BulkheadMachine._hand_over,
]


class World:
    """A bulkhead with one permit, and waiters that remember that they were woken."""

    def __init__(self, *, taken: bool) -> None:
        self.lock = threading.Lock()
        self.machine = BulkheadMachine(max_concurrent=1, max_queued=5, max_wait=1.0, lock=self.lock)
        self.woken: list[Waiter] = []
        self.permit: Any = self.machine.acquire(0.0) if taken else None

    def waiter(self) -> Waiter:
        waiter = Waiter(lambda: self.woken.append(waiter))
        return waiter

    def queued(self) -> Waiter:
        waiter = self.waiter()
        self.machine.enqueue(waiter)
        return waiter


def test_a_permit_comes_back_while_somebody_enters_the_queue(race: Any, sweep_interleavings: Any) -> None:
    """Whichever comes second sees the other: no wake-up is lost."""

    def make() -> Any:
        world = World(taken=True)
        waiter = world.waiter()

        def check() -> None:
            assert world.woken == [waiter]
            assert waiter.permit is not None
            assert (world.machine.in_flight, world.machine.queued) == (1, 0)

        return race(
            first=lambda: world.machine.enqueue(waiter),
            second=lambda: world.machine.put_back(world.permit),
            check=check,
            lock=world.lock,
        )

    assert sweep_interleavings(make, INSIDE_BULKHEAD) > 10


def test_somebody_enters_the_queue_while_a_permit_comes_back(race: Any, sweep_interleavings: Any) -> None:
    """The same race, with the other thread interrupted."""

    def make() -> Any:
        world = World(taken=True)
        waiter = world.waiter()

        def check() -> None:
            assert world.woken == [waiter]
            assert (world.machine.in_flight, world.machine.queued) == (1, 0)

        return race(
            first=lambda: world.machine.succeed(world.permit, 0.0, 0.0),
            second=lambda: world.machine.enqueue(waiter),
            check=check,
            lock=world.lock,
        )

    assert sweep_interleavings(make, INSIDE_BULKHEAD) > 5


def test_a_permit_comes_back_while_its_waiter_leaves(race: Any, sweep_interleavings: Any) -> None:
    """A waiter that is woken while it gives up passes its permit on: to the next, or back."""

    def make() -> Any:
        world = World(taken=True)
        leaving, next_one = world.queued(), world.queued()

        def check() -> None:
            assert leaving.permit is None
            assert next_one.permit is not None
            assert world.woken[-1] is next_one
            assert (world.machine.in_flight, world.machine.queued) == (1, 0)

        return race(
            first=lambda: world.machine.leave(leaving),
            second=lambda: world.machine.put_back(world.permit),
            check=check,
            lock=world.lock,
        )

    assert sweep_interleavings(make, INSIDE_BULKHEAD) > 10


def test_two_threads_take_the_last_permit(race: Any, sweep_interleavings: Any) -> None:
    """One gets it, the other is refused; nobody crashes."""

    def make() -> Any:
        world = World(taken=False)
        answers: list[object] = []

        def take() -> None:
            answers.append(world.machine.acquire(0.0))

        def check() -> None:
            assert sum(isinstance(answer, Permit) for answer in answers) == 1
            assert world.machine.in_flight == 1

        return race(first=take, second=take, check=check, lock=world.lock)

    assert sweep_interleavings(make, INSIDE_BULKHEAD) > 5


@pytest.mark.parametrize("kind", ["count", "time"])
def test_a_success_is_counted_while_a_window_is_read(race: Any, sweep_interleavings: Any, kind: str) -> None:
    """Wherever an unlocked success falls into a locked reading, the next reading has it, once."""

    def make() -> Any:
        window = CountWindow(100) if kind == "count" else TimeWindow(10.0)
        window.record(5.0, failed=True, slow=False)

        def check() -> None:
            assert window.tally(5.0) == Tally(3, 2, 0)

        def read() -> Tally:
            return window.record(5.0, failed=True, slow=False)

        return race(first=read, second=window.tick, check=check)

    inside = [
        Ticks.read, Ticks.advance,
        CountWindow.record, CountWindow._tally,
        TimeWindow.record, TimeWindow._sum, TimeWindow._turn,
    ]  # fmt: skip
    assert sweep_interleavings(make, inside) > 10


def test_a_success_is_counted_while_a_bucket_turns(race: Any, sweep_interleavings: Any) -> None:
    """A success that falls into the turn of a bucket is in the window afterwards, in one bucket or the other."""

    def make() -> Any:
        window = TimeWindow(10.0)
        window.record(0.5, failed=False, slow=False)

        def check() -> None:
            assert window.tally(1.5) == Tally(3, 1, 0)

        return race(
            first=lambda: window.record(1.5, failed=True, slow=False),
            second=window.tick,  # by a call that read the clock just before the turn
            check=check,
        )

    assert sweep_interleavings(make, [TimeWindow._turn]) > 10


def test_a_deposit_during_a_withdrawal(race: Any, sweep_interleavings: Any) -> None:
    """A deposit that falls into a withdrawal is neither lost nor counted twice."""

    def make() -> Any:
        budget = RetryBudget(share=1.0, stock=2, lock=threading.Lock())
        budget.withdraw()

        def check() -> None:
            assert [budget.withdraw() for _ in range(2)] == [True, False]

        return race(first=budget.withdraw, second=budget.deposit, check=check)

    assert sweep_interleavings(make, [RetryBudget.withdraw, Ticks.read]) > 10


def half_open(lock: threading.Lock) -> tuple[BreakerMachine, Permit]:
    """Make a breaker that is half-open, with its one probe out."""
    machine = BreakerMachine(
        window=CountWindow(10),
        failure_rate=0.5,
        consecutive=None,
        slow_after=None,
        slow_rate=0.5,
        minimum_calls=1,
        open_for=1.0,
        probes=1,
        probe_expires=100.0,
        lock=lock,
    )
    machine.end(admitted(machine, 0.0), Ending.FAILURE, 0.0, 0.0)
    return machine, admitted(machine, 1.0)


def admitted(machine: BreakerMachine, now: float) -> Permit:
    permit = machine.acquire(now)
    assert isinstance(permit, Permit)
    return permit


@pytest.mark.parametrize("ending", [Ending.SUCCESS, Ending.FAILURE, Ending.CANCELLED])
@pytest.mark.parametrize("ask", ["acquire", "refusal"])
def test_a_probe_ends_while_somebody_asks(race: Any, sweep_interleavings: Any, ask: str, ending: Ending) -> None:
    """Whoever asks at that moment gets an answer of the state before or after, and a circuit that closed stays so."""

    def make() -> Any:
        lock = threading.Lock()
        machine, probe = half_open(lock)
        answers: list[object] = []

        def check() -> None:
            (answer,) = answers
            if isinstance(answer, Permit):
                machine.succeed(answer, 2.0, 2.0)
                assert machine.state is BreakerState.CLOSED
            if ending is Ending.FAILURE:
                assert machine.state is BreakerState.OPEN
            else:
                assert machine.refusal(2.0) is None

        return race(
            first=lambda: answers.append(getattr(machine, ask)(2.0)),
            second=lambda: machine.end(probe, ending, 1.0, 2.0),
            check=check,
            lock=lock,
        )

    assert sweep_interleavings(make, [BreakerMachine.acquire, BreakerMachine.refusal, BreakerMachine._refusal]) > 5


def test_two_threads_find_the_open_time_over(race: Any, sweep_interleavings: Any) -> None:
    """Between them they get the one probe, however they meet."""

    def make() -> Any:
        lock = threading.Lock()
        machine, probe = half_open(lock)
        machine.end(probe, Ending.FAILURE, 1.0, 1.0)
        machine.outbox.clear()
        answers: list[object] = []

        def check() -> None:
            assert sum(isinstance(answer, Permit) for answer in answers) == 1
            assert [change.after for change in machine.outbox] == ["half-open"]

        def ask() -> None:
            answers.append(machine.acquire(2.0))

        return race(first=ask, second=ask, check=check, lock=lock)

    assert sweep_interleavings(make, [BreakerMachine.acquire, BreakerMachine._refusal, BreakerMachine._enter]) > 5
