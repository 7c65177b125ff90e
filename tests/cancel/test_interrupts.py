"""Synchronous calls that are interrupted: by Ctrl-C, or by a permit that comes while its caller gives up."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.admission import Refusal, Waiter
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.policy import entrance, threads
from hormesis.policy.entrance import Entrance


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, module: ModuleType, when: Callable[[], object]) -> None:
    """Let the waiting of a module be interrupted, once something has come about.

    A real signal that comes just before the wait begins is seen only when it ends, so no test can depend on one.
    """

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            when()
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "threading", SimpleNamespace(**vars(threading) | {"Event": Interrupted}))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_function_that_is_interrupted(error: type[BaseException], machine_of: Any) -> None:
    """An interrupt comes out at once: it is neither retried, nor answered, nor counted, and all permits are back."""
    policy = hm.Policy(
        hm.Fallback(value=0),
        hm.Deadline("20s"),
        hm.Retry(on="any", delay=0),
        hm.CircuitBreaker(minimum_calls=1),
        hm.Bulkhead(1),
    )
    calls = 0

    def interrupted() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(error):
        policy.call(interrupted)
    assert calls == 1
    assert hm.remaining() is None
    assert machine_of(policy, hm.Bulkhead).in_flight == 0
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (0, 0, 0)


def test_an_interrupt_while_waiting_in_the_queue(machine_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted in the queue leaves it, and a permit that comes later goes to somebody else."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait="20s"))
    bulkhead = machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    queued: list[int] = []
    press_ctrl_c(monkeypatch, entrance, lambda: queued.append(bulkhead.queued))
    with pytest.raises(KeyboardInterrupt):
        policy.call(int)
    assert queued == [1]
    assert bulkhead.queued == 0
    bulkhead.put_back(permit)
    assert policy.call(int) == 0


def test_an_interrupt_while_a_thread_works(
    held: Future[int], machine_of: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that is left behind by Ctrl-C keeps its place until it really ends, like any that is left behind."""
    policy = hm.Policy(hm.Bulkhead(1), hm.Timeout("20s", threads=1), hm.CircuitBreaker(minimum_calls=1))
    bulkhead, inside = machine_of(policy, hm.Bulkhead), threading.Event()

    def work() -> None:
        inside.set()
        held.result(20)

    press_ctrl_c(monkeypatch, threads, lambda: inside.wait(20))
    with pytest.raises(KeyboardInterrupt):
        policy.call(work)
    assert bulkhead.in_flight == 1
    held.set_result(0)
    until(lambda: bulkhead.in_flight == 0)
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (0, 0, 0)


def test_a_caller_gives_up_while_its_work_begins_or_ends(race: Any, sweep_interleavings: Any) -> None:
    """What is to happen when the work has ended happens once, and after it; work that has not begun never does."""

    def make() -> Any:
        log: list[str] = []
        work = threads._Work(lambda: log.append("worked"))

        def check() -> None:
            assert log in (["ended"], ["worked", "ended"])

        return race(
            first=work.run, second=lambda: work.when_ended(lambda: log.append("ended")), check=check, lock=work._lock
        )

    assert sweep_interleavings(make, [threads._Work.run]) > 10


def test_a_queue_that_fills_while_somebody_enters(race: Any, sweep_interleavings: Any, machine_of: Any) -> None:
    """The last place of a queue goes to one of two callers that see it free."""

    def make() -> Any:
        policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait="10ms"))
        bulkhead = machine_of(policy, hm.Bulkhead)
        bulkhead.acquire(0.0)
        reasons: list[str] = []
        refusals: list[Refusal | None] = []

        def call() -> None:
            with pytest.raises(hm.BulkheadFull) as caught:
                policy.call(int)
            reasons.append(caught.value.reason)

        def enter() -> None:
            refusals.append(bulkhead.enqueue(Waiter(lambda: None)))

        def check() -> None:
            (reason,), (refusal,) = reasons, refusals
            assert bulkhead.queued == (refusal is None)
            assert reason == "waited too long" or (reason == "queue full" and refusal is None)

        return race(first=call, second=enter, check=check, lock=bulkhead._lock)

    assert sweep_interleavings(make, [Entrance.wait, Entrance._enqueue, BulkheadMachine.enqueue]) > 20


def test_a_permit_that_comes_while_its_caller_gives_up(race: Any, sweep_interleavings: Any, machine_of: Any) -> None:
    """Between any two instructions of a caller that waits and gives up, a permit may come: it is used or passed on."""

    def make() -> Any:
        policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait="10ms"))
        bulkhead = machine_of(policy, hm.Bulkhead)
        permit = bulkhead.acquire(0.0)

        def call() -> None:
            with contextlib.suppress(hm.BulkheadFull):
                policy.call(int)

        def check() -> None:
            assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)

        return race(first=call, second=lambda: bulkhead.put_back(permit), check=check, lock=bulkhead._lock)

    waiting = [Entrance.wait, Entrance._enqueue, Entrance._enter_with, Waiter.taken]
    assert sweep_interleavings(make, [*waiting, BulkheadMachine.enqueue, BulkheadMachine.leave]) > 50
