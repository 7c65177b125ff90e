"""Real threads hammering the machines: totals stay exact, bounds hold, and nobody sleeps for ever."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hormesis.core.admission import Permit, Refusal, Waiter
from hormesis.core.breaker import BreakerMachine, BreakerState, BreakerTerms
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.keyed import Keyed
from hormesis.core.retry import RetryBudget
from hormesis.core.window import CountWindow, Tally, TimeWindow, Window
from hormesis.outcome import Ending

THREADS = 8
PATIENCE = 30.0
"""Seconds after which a thread counts as asleep for ever."""


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Let threads take turns a thousand times more often than usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def hammer(work: Callable[[int], None]) -> None:
    """Run `work(number)` in several threads that start together, and wait until all have ended."""
    start = threading.Barrier(THREADS)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait(PATIENCE)
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("window", [CountWindow(1_000_000), TimeWindow(10.0)], ids=["count", "time"])
def test_windows_count_every_call(window: Window) -> None:
    """Successes without a lock and failures under one add up exactly, while others read."""
    lock, rounds = threading.Lock(), 1000
    window.record(5.0, failed=False, slow=False)  # from here on ticks count

    def calls(number: int) -> None:
        for turn in range(rounds):
            window.tick()
            if turn % 10 == number:
                with lock:
                    window.record(5.0, failed=True, slow=turn % 20 == number)
                    window.tally(5.0)

    hammer(calls)
    failures = THREADS * rounds // 10
    assert window.tally(5.0) == Tally(1 + THREADS * rounds + failures, failures, failures // 2)


def test_a_budget_gives_no_more_than_it_earned() -> None:
    """Deposits without a lock and withdrawals under one never lose or invent a token."""
    budget = RetryBudget(share=0.5, stock=10_000, lock=threading.Lock())
    rounds, taken = 1000, [0] * THREADS

    def calls(number: int) -> None:
        for _ in range(rounds):
            budget.deposit()
            taken[number] += budget.withdraw()

    used_up = 0
    while budget.withdraw():  # what it began with
        used_up += 1
    assert used_up == 10_000
    hammer(calls)
    left = 0
    while budget.withdraw():
        left += 1
    assert sum(taken) + left == THREADS * rounds * 0.5


def test_a_bulkhead_holds_under_many_threads() -> None:
    """Never more in than allowed, every wait ends by a permit or by giving up, and all permits are back at the end."""
    most, rounds = 3, 300
    machine = BulkheadMachine(max_concurrent=most, max_queued=THREADS, max_wait=1.0, lock=threading.Lock())
    inside, most_seen, counting = 0, 0, threading.Lock()

    def use(permit: Permit) -> None:
        nonlocal inside, most_seen
        with counting:
            inside += 1
            most_seen = max(most_seen, inside)
        with counting:
            inside -= 1
        machine.succeed(permit, 0.0, 0.0)

    def wait(patience: float) -> Permit | None:
        woken = threading.Event()
        waiter = Waiter(woken.set)
        assert machine.enqueue(waiter) is None
        if woken.wait(patience):
            permit, waiter.permit = waiter.permit, None
            return permit
        assert patience < PATIENCE, "nobody woke a waiter"
        machine.leave(waiter)
        return None

    def calls(number: int) -> None:
        chance = random.Random(number)
        for _ in range(rounds):
            answer = machine.acquire(0.0)
            permit = wait(chance.choice([0.0, PATIENCE])) if isinstance(answer, Refusal) else answer
            if permit is not None:
                use(permit)

    hammer(calls)
    assert most_seen <= most
    assert (machine.in_flight, machine.queued) == (0, 0)
    assert [isinstance(machine.acquire(0.0), Permit) for _ in range(most + 1)] == [True] * most + [False]


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
    probes=3,
    probe_expires=100.0,
    recover_over=None,
)


def breaker(**terms: Any) -> BreakerMachine:
    return BreakerMachine(dataclasses.replace(TERMS, **terms), threading.Lock(), random.Random(1))


def test_half_open_admits_its_probes_and_no_more_under_many_threads() -> None:
    """When all callers find the open time over at the same moment, only the probes get in."""
    machine = breaker()
    permit = machine.acquire(0.0)
    assert isinstance(permit, Permit)
    machine.end(permit, Ending.FAILURE, 0.0, 0.0)
    probes: list[Permit] = []

    def ask(number: int) -> None:
        answer = machine.acquire(1000.0)
        if isinstance(answer, Permit):
            probes.append(answer)

    hammer(ask)
    assert len(probes) == 3
    for probe in probes[:2]:
        machine.succeed(probe, 1000.0, 1000.0)
    assert machine.state is BreakerState.CLOSED


def test_a_closed_breaker_counts_every_call_of_many_threads() -> None:
    """Through the breaker, too, successes and failures add up exactly."""
    rounds = 1000
    machine = breaker(window_calls=1_000_000, failure_rate=1.0, minimum_calls=1_000_000)

    def calls(number: int) -> None:
        for turn in range(rounds):
            permit = machine.acquire(0.0)
            assert isinstance(permit, Permit)
            if turn % 4:
                machine.succeed(permit, 0.0, 0.0)
            else:
                machine.end(permit, Ending.FAILURE, 0.0, 0.0)

    hammer(calls)
    assert machine.tally(0.0) == Tally(THREADS * rounds, THREADS * rounds // 4, 0)


def test_eras_hold_under_many_threads() -> None:
    """While a circuit opens, recovers, closes and is switched by hand, what comes too late is counted nowhere."""
    machine = breaker(window_calls=100, failure_rate=0.9, recover_over=0.5, quiet=None)
    rounds, clock = 2000, iter(range(10_000_000))
    switches = [machine.isolate, machine.disable, machine.close, machine.close]

    def calls(number: int) -> None:
        chance = random.Random(number)
        held: list[Permit] = []
        for turn in range(rounds):
            now = next(clock) / 100
            if number == 0 and turn % 50 == 0:
                chance.choice(switches)(now)
            answer = machine.acquire(now)
            if isinstance(answer, Permit):
                held.append(answer)
            if len(held) > 5:
                permit = held.pop(chance.randrange(len(held)))
                if chance.random() < 0.3:
                    machine.end(permit, chance.choice(list(Ending)), now, now, chance.choice([None, 0.1]))
                else:
                    machine.succeed(permit, now, now)
            tally = machine.tally(now)
            assert 0 <= tally.failures <= tally.calls <= 100
        late.extend(held)

    late: list[Permit] = []
    hammer(calls)
    machine.close(1e6)
    for permit in late:
        machine.end(permit, Ending.FAILURE, 1e6, 1e6)
    assert machine.state is BreakerState.CLOSED
    assert machine.tally(1e6) == Tally(0, 0, 0)
    passing = machine.passing
    assert passing is not None
    passing.tick()
    assert machine.tally(1e6) == Tally(1, 0, 0)


def test_keyed_machines_are_bounded_under_many_threads() -> None:
    """Never more than there may be, two threads never hold different machines of one key that stays in use."""
    most, rounds = 50, 1000
    machines = Keyed(breaker, most, lock=threading.Lock())
    busy = machines.get("busy", lambda: 0.0)
    busy.isolate(0.0)
    too_many: list[int] = []

    def calls(number: int) -> None:
        chance = random.Random(number)
        for turn in range(rounds):
            machine = machines.get(f"host-{chance.randrange(200)}", lambda: 0.0)
            permit = machine.acquire(0.0)
            if isinstance(permit, Permit):
                machine.succeed(permit, 0.0, 0.0)
            assert machines.get("busy", lambda: 0.0) is busy
            if turn % 100 == 0:
                too_many.extend(size for size in (len(machines.items()), len(machines)) if size > most)

    hammer(calls)
    assert not too_many
    assert len({key for key, _ in machines.items()}) == len(machines) == most
