"""Two threads, one cutting in between any two instructions of the other.

Real threads meet in a race once in a million; here every meeting is made, one after the other. That is stricter than
an interpreter with one lock for all would be, and just right for one without.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import threading
from typing import Any

import pytest

from hormesis.core.admission import Permit, Refusal, Waiter
from hormesis.core.breaker import BreakerMachine, BreakerState, BreakerTerms, _Ramp
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.keyed import Keyed
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
    BulkheadMachine.hand_over,
    BulkheadMachine.reconfigure,
    BulkheadMachine._grow,
    BulkheadMachine._shrink,
    BulkheadMachine._owe,
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


class Lane:
    """A bulkhead of two places that is used by the express lane, while it gets other settings."""

    def __init__(self, *, inside: int, after: int) -> None:
        self.lock = threading.Lock()
        self.machine = BulkheadMachine(max_concurrent=2, max_queued=5, max_wait=1.0, lock=self.lock)
        self.held = [self.machine.take() for _ in range(inside)]
        self.after = after
        self.has_to_hand_over = False

    def enter(self) -> None:
        machine = self.machine
        if not machine.queue:
            try:
                permit = machine.take()
            except IndexError:
                return
            self.held.append(permit)

    def give(self) -> None:
        """Leave, up to where the lock may have to be waited for."""
        machine = self.machine
        machine.give(self.held.pop())
        if machine.queue:
            self.has_to_hand_over = True

    def leave(self) -> None:
        self.give()
        self.hand_over()

    def hand_over(self) -> None:
        if self.has_to_hand_over:
            self.machine.hand_over()

    def reconfigure(self) -> None:
        self.machine.reconfigure(max_concurrent=self.after, max_queued=5, max_wait=1.0)

    def check(self) -> None:
        """Nobody is lost or counted twice, and in the end there are as many places as were asked for."""
        machine = self.machine
        self.hand_over()
        assert machine.in_flight == len(self.held)
        while self.held:
            self.leave()
        assert machine.idle(0.0)
        assert machine.in_flight == 0
        for _ in range(self.after):
            machine.take()
        with pytest.raises(IndexError):
            machine.take()


INSIDE_LANE = [*INSIDE_BULKHEAD, Lane.enter, Lane.give]


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_the_express_lane_is_entered_while_a_bulkhead_changes(
    race: Any, sweep_interleavings: Any, inside: int, after: int
) -> None:
    """Who takes a permit without a lock, in the middle of the locked change, has one or none, and none is lost."""

    def make() -> Any:
        lane = Lane(inside=inside, after=after)
        return race(first=lane.reconfigure, second=lane.enter, check=lane.check)

    assert sweep_interleavings(make, INSIDE_LANE) > 20


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("inside", [1, 2])
def test_the_express_lane_is_left_while_a_bulkhead_changes(
    race: Any, sweep_interleavings: Any, inside: int, after: int
) -> None:
    """A permit that comes back in the middle of the change is used, or settles what is owed."""

    def make() -> Any:
        lane = Lane(inside=inside, after=after)
        return race(first=lane.reconfigure, second=lane.give, check=lane.check)

    assert sweep_interleavings(make, INSIDE_LANE) > 20


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize("inside", [1, 2])
@pytest.mark.parametrize("verb", [Lane.enter, Lane.leave])
def test_a_bulkhead_changes_while_the_express_lane_is_used(
    race: Any, sweep_interleavings: Any, verb: Any, inside: int, after: int
) -> None:
    """The same races, with the caller interrupted."""

    def make() -> Any:
        lane = Lane(inside=inside, after=after)
        return race(first=lambda: verb(lane), second=lane.reconfigure, check=lane.check, lock=lane.lock)

    assert sweep_interleavings(make, INSIDE_LANE) > 5


@pytest.mark.parametrize("inside", [1, 2])
def test_the_express_lane_is_entered_while_a_debt_is_settled(race: Any, sweep_interleavings: Any, inside: int) -> None:
    """Who saw no queue just before a bulkhead shrank may still get in; what is owed is settled all the same."""

    def make() -> Any:
        lane = Lane(inside=2, after=1)
        lane.reconfigure()
        if inside == 1:
            lane.leave()

        def take_late() -> None:
            with contextlib.suppress(IndexError):
                lane.held.append(lane.machine.take())

        return race(first=lane.leave, second=take_late, check=lane.check)

    assert sweep_interleavings(make, INSIDE_LANE) > 5


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


TERMS = BreakerTerms(
    window_calls=10,
    window_seconds=None,
    failure_rate=0.5,
    consecutive=None,
    quiet=None,
    slow_after=math.inf,
    slow_rate=0.5,
    minimum_calls=1,
    open_for=1.0,
    open_for_max=1.0,
    retry_after_max=60.0,
    probes=1,
    probe_expires=100.0,
    recover_over=None,
)


def breaker(lock: threading.Lock, **terms: Any) -> BreakerMachine:
    """Make a breaker that opens with one failure, for a second."""
    return BreakerMachine(dataclasses.replace(TERMS, **terms), lock, random.Random(1))


def half_open(lock: threading.Lock, **terms: Any) -> tuple[BreakerMachine, Permit]:
    """Make a breaker that is half-open, with its one probe out."""
    machine = breaker(lock, **terms)
    for _ in range(machine.terms.minimum_calls):
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
        machine.outbox = None
        answers: list[object] = []

        def check() -> None:
            assert sum(isinstance(answer, Permit) for answer in answers) == 1
            assert [change.after for change in machine.outbox or ()] == ["half-open"]

        def ask() -> None:
            answers.append(machine.acquire(2.0))

        return race(first=ask, second=ask, check=check, lock=lock)

    assert sweep_interleavings(make, [BreakerMachine.acquire, BreakerMachine._refusal, BreakerMachine._enter]) > 5


INSIDE_BREAKER = [
    BreakerMachine.acquire,
    BreakerMachine.refusal,
    BreakerMachine.succeed,
    BreakerMachine.end,
    BreakerMachine.put_back,
    BreakerMachine.reconfigure,
    BreakerMachine.close,
    BreakerMachine._switch,
    BreakerMachine._enter,
    BreakerMachine._open,
    BreakerMachine._count,
    BreakerMachine._refusal,
    BreakerMachine._ask_for_share,
]


@pytest.mark.parametrize("terms", [{}, {"window_calls": None, "window_seconds": 10.0}], ids=["count", "time"])
def test_a_success_ends_while_the_circuit_opens(race: Any, sweep_interleavings: Any, terms: dict[str, Any]) -> None:
    """Wherever it falls, it neither keeps the circuit from opening nor counts in a later era."""

    def make() -> Any:
        lock = threading.Lock()
        machine = breaker(lock, **terms)
        permit = admitted(machine, 0.0)

        def check() -> None:
            assert machine.open_until == 1.0
            machine.succeed(admitted(machine, 1.0), 1.0, 1.0)
            assert machine.state is BreakerState.CLOSED
            machine.succeed(permit, 0.0, 1.0)
            assert machine.tally(1.0) == Tally(0, 0, 0)

        return race(
            first=lambda: machine.end(permit, Ending.FAILURE, 0.0, 0.0),
            second=lambda: machine.succeed(permit, 0.0, 0.0),
            check=check,
            lock=lock,
        )

    assert sweep_interleavings(make, [BreakerMachine.end]) > 5


@pytest.mark.parametrize("terms", [{}, {"window_calls": None, "window_seconds": 10.0}], ids=["count", "time"])
def test_the_circuit_opens_while_a_success_ends(race: Any, sweep_interleavings: Any, terms: dict[str, Any]) -> None:
    """The same race, with the success interrupted: a tick that comes too late is counted where nobody reads."""

    def make() -> Any:
        lock = threading.Lock()
        machine = breaker(lock, **terms)
        permit = admitted(machine, 0.0)

        def outage() -> None:
            machine.end(permit, Ending.FAILURE, 0.0, 0.0)
            machine.succeed(admitted(machine, 1.0), 1.0, 1.0)

        def check() -> None:
            assert machine.state is BreakerState.CLOSED
            assert machine.tally(1.0) == Tally(0, 0, 0)

        return race(first=lambda: machine.succeed(permit, 0.0, 0.0), second=outage, check=check, lock=lock)

    assert sweep_interleavings(make, [BreakerMachine.succeed]) > 5


@pytest.mark.parametrize("verb", ["isolate", "close", "disable"])
@pytest.mark.parametrize("ask", ["acquire", "refusal"])
def test_somebody_asks_while_it_is_switched_by_hand(race: Any, sweep_interleavings: Any, verb: str, ask: str) -> None:
    """Whoever asks gets an answer of the state before or after, never a time that is no time."""

    def make() -> Any:
        lock = threading.Lock()
        machine = breaker(lock)
        machine.end(admitted(machine, 0.0), Ending.FAILURE, 0.0, 0.0)
        answers: list[Any] = []

        def check() -> None:
            (answer,) = answers
            refusals = [Refusal("open", 0.5), *([Refusal("isolated", None)] if verb == "isolate" else [])]
            passes = verb != "isolate" and (answer is None or answer is machine.passing)
            assert passes or answer in refusals

        return race(
            first=lambda: answers.append(getattr(machine, ask)(0.5)),
            second=lambda: getattr(machine, verb)(0.5),
            check=check,
            lock=lock,
        )

    assert sweep_interleavings(make, INSIDE_BREAKER) > 5


@pytest.mark.parametrize("verb", ["isolate", "close", "disable"])
def test_it_is_switched_by_hand_while_somebody_passes(race: Any, sweep_interleavings: Any, verb: str) -> None:
    """A call that takes the lane of the closed state at that moment counts in its own era or nowhere."""

    def make() -> Any:
        lock = threading.Lock()
        machine = breaker(lock)

        def call() -> None:
            permit = machine.passing
            if permit is not None:
                permit.tick()

        def check() -> None:
            assert machine.state.value == {"isolate": "isolated", "close": "closed", "disable": "disabled"}[verb]
            assert machine.tally(0.0).calls <= 1

        return race(first=lambda: getattr(machine, verb)(0.0), second=call, check=check)

    # Whether or not the lock is held, since such a call takes none.
    assert sweep_interleavings(make, [BreakerMachine.close, BreakerMachine._switch, BreakerMachine._enter]) > 5


@pytest.mark.parametrize(
    "after",
    [{"window_calls": 20}, {"window_calls": None, "window_seconds": 10.0}, {"slow_after": 1.0}],
    ids=["larger", "time", "slow"],
)
def test_a_success_ends_while_the_terms_change(race: Any, sweep_interleavings: Any, after: dict[str, Any]) -> None:
    """It is in the window afterwards, unless that began anew, and then it may be in neither; nothing breaks."""

    def make() -> Any:
        lock = threading.Lock()
        machine = breaker(lock, minimum_calls=10)
        passing = machine.passing
        assert passing is not None
        passing.tick()

        def check() -> None:
            calls = machine.tally(0.0).calls
            assert calls in ({0, 1} if "window_seconds" in after else {2})
            machine.end(passing, Ending.FAILURE, 0.0, 0.0)
            assert machine.tally(0.0).failures == 1

        return race(
            first=lambda: machine.reconfigure(dataclasses.replace(TERMS, minimum_calls=10, **after)),
            second=passing.tick,
            check=check,
        )

    assert sweep_interleavings(make, [BreakerMachine.reconfigure]) > 5


@pytest.mark.parametrize("what", ["failure", "put_back", "ask"])
def test_a_recovering_circuit_is_asked_while_a_share_ends(race: Any, sweep_interleavings: Any, what: str) -> None:
    """Never more go in than the share allows, whatever else happens at that moment."""

    def make() -> Any:
        lock = threading.Lock()
        machine, probe = half_open(lock, recover_over=90.0, minimum_calls=3)
        machine.succeed(probe, 1.0, 1.0)
        permit = admitted(machine, 1.0)
        answers: list[Any] = []

        def ask() -> None:
            answers.extend(machine.acquire(1.0) for _ in range(9))

        def check() -> None:
            while len(answers) < 29:
                answers.append(machine.acquire(1.0))
            assert machine.state is BreakerState.RECOVERING
            went_in = sum(isinstance(answer, Permit) for answer in answers)
            assert went_in in ({2, 3} if what == "put_back" else {2})

        other = {
            "failure": lambda: machine.end(permit, Ending.FAILURE, 1.0, 1.0),
            "put_back": lambda: machine.put_back(permit),
            "ask": ask,
        }[what]
        return race(first=ask, second=other, check=check, lock=lock)

    assert sweep_interleavings(make, [*INSIDE_BREAKER, _Ramp.share]) > 10


class Instance:
    """A machine in a keyed set."""

    def idle(self, now: float) -> bool:
        return True


INSIDE_KEYED = [Keyed.get, Keyed._fetch, Keyed._evict, Keyed._turn]


@pytest.mark.parametrize("known", [[], ["a"], ["a", "b"], ["b", "c", "a"], ["b", "c", "d"], ["b", "c", "d", "e", "f"]])
def test_two_threads_get_the_machine_of_a_key(race: Any, sweep_interleavings: Any, known: list[str]) -> None:
    """Both get the same one, wherever it was, and there are never more than there may be."""

    def make() -> Any:
        lock = threading.Lock()
        machines: Keyed[Instance] = Keyed(Instance, 4, lock=lock)
        for key in known:
            machines.get(key, lambda: 0.0)
        found: list[Instance] = []

        def get() -> None:
            found.append(machines.get("a", lambda: 0.0))

        def check() -> None:
            first, second = found
            assert first is second is machines.get("a", lambda: 0.0)
            assert len(machines) <= 4
            assert sorted(dict(machines.items())) == sorted({key for key, _ in machines.items()})

        return race(first=get, second=get, check=check, lock=lock)

    assert sweep_interleavings(make, INSIDE_KEYED) > 3
