"""Synchronous calls with a timeout: what happens to a thread that nobody waits for any more."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.policy import threads

SHORT = "20ms"


def test_a_zombie_keeps_its_place(dependency: Any, held: Any, machine_of: Any, until: Any) -> None:
    """A thread that goes on after its timeout keeps its bulkhead permit until it really ends."""
    policy = hm.Policy(hm.Bulkhead(1), hm.Timeout(SHORT, threads=2))
    bulkhead, called = machine_of(policy, hm.Bulkhead), dependency(held, 3)
    with pytest.raises(hm.TimedOut):
        policy.call(called.sync)
    assert bulkhead.in_flight == 1
    with pytest.raises(hm.BulkheadFull):
        policy.call(called.sync)
    held.set_result(0)
    until(lambda: bulkhead.in_flight == 0)
    assert policy.with_parts(hm.Timeout("20s", threads=2)).call(called.sync) == 3


def test_a_zombie_is_judged_once(dependency: Any, held: Any, machine_of: Any, until: Any) -> None:
    """The breaker learns of a timeout when it happens, and nothing more when the thread ends."""
    parts = hm.CircuitBreaker(minimum_calls=2), hm.Bulkhead(1), hm.Timeout(SHORT, threads=1)
    policy = hm.Policy(*parts)
    breaker, bulkhead = machine_of(policy, hm.CircuitBreaker), machine_of(policy, hm.Bulkhead)
    with pytest.raises(hm.TimedOut):
        policy.call(dependency(held).sync)
    assert breaker.tally(0.0) == (1, 1, 0)
    held.set_exception(ZeroDivisionError())
    until(lambda: bulkhead.in_flight == 0)
    assert breaker.tally(0.0) == (1, 1, 0)
    assert breaker.state is BreakerState.CLOSED


def test_there_are_never_more_threads_than_asked_for(dependency: Any, held: Any, machine_of: Any) -> None:
    """When all threads are taken by zombies, further attempts time out without touching the function."""
    policy = hm.Policy(hm.Timeout(SHORT, threads=2), hm.Bulkhead(5), name="few")
    called = dependency(held)
    for _ in range(4):
        with pytest.raises(hm.TimedOut):
            policy.call(called.sync)
    assert called.calls == 2
    assert sum(thread.name.startswith("hormesis-few-") for thread in threading.enumerate()) <= 2
    # Those that never got a thread hold no place.
    assert machine_of(policy, hm.Bulkhead).in_flight == 2


def test_threads_are_used_again(dependency: Any) -> None:
    """One call after the other runs in one thread, which is not the caller's."""
    policy = hm.Policy(hm.Timeout("20s", threads=5), name="again")
    threads = {policy.call(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_zombie_that_ends_gives_its_thread_back(dependency: Any, held: Any, until: Any) -> None:
    """After the dependency has recovered, the pool has all its threads again."""
    policy = hm.Policy(hm.Timeout("50ms", threads=1))
    called = dependency(held)
    with pytest.raises(hm.TimedOut):
        policy.call(called.sync)
    held.set_result(3)

    def answers() -> bool:
        try:
            return bool(policy.call(called.sync) == 3)
        except hm.TimedOut:
            return False

    until(answers)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_the_function_raises_reaches_the_caller(error: type[BaseException], machine_of: Any) -> None:
    """An exception crosses from the thread to the caller as it is, even one that ends programs."""
    raised = error("here")

    def fail() -> None:
        raise raised

    policy = hm.Policy(hm.Timeout("20s", threads=1), hm.Bulkhead(1))
    with pytest.raises(error) as caught:
        policy.call(fail)
    assert caught.value is raised
    assert machine_of(policy, hm.Bulkhead).in_flight == 0


def test_waiting_for_a_busy_thread(dependency: Any, held: Any) -> None:
    """An attempt that finds all threads busy waits for one, within its time."""
    policy = hm.Policy(hm.Timeout("20s", threads=1))
    called = dependency(held, 3)
    answers: list[Any] = []
    first, second = (threading.Thread(target=lambda: answers.append(policy.call(called.sync))) for _ in range(2))
    first.start()
    called.wait_until_inside()
    second.start()
    held.set_result(2)
    first.join(20)
    second.join(20)
    assert sorted(answers) == [2, 3]


def test_cooperative_functions_run_in_the_callers_thread() -> None:
    """With `cooperative`, the function sees its time and is trusted to heed it; nobody cuts it off."""
    policy = hm.Policy(hm.Timeout("5s", cooperative=True))
    left, thread = policy.call(lambda: (hm.remaining(), threading.get_ident()))
    assert thread == threading.get_ident()
    assert left is not None
    assert 0 < left <= 5


def test_a_cooperative_function_that_heeds_its_time(machine_of: Any) -> None:
    """A function that finds its timeout over raises `TimedOut`, and the breaker counts that as a failure."""
    policy = hm.Policy(hm.Timeout("1ms", cooperative=True), hm.CircuitBreaker(), name="slow")

    def work() -> None:
        while True:
            hm.check_deadline()

    with pytest.raises(hm.TimedOut, match="'slow'"):
        policy.call(work)
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (1, 1, 0)


def test_zombies_do_not_keep_a_process_alive() -> None:
    """A program whose calls have timed out can exit."""
    script = """
import time, hormesis as hm
try:
    hm.Policy(hm.Timeout("10ms", threads=1)).call(time.sleep, 600)
except hm.TimedOut:
    print("gone")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "gone\n"


def test_an_attempt_that_got_no_thread_is_not_blamed_on_the_dependency(held: Any, machine_of: Any) -> None:
    """When all threads are busy the function is never touched, so the breaker has nothing to count."""
    policy = hm.Policy(hm.Timeout(SHORT, threads=1), hm.CircuitBreaker())
    for _ in range(2):
        with pytest.raises(hm.TimedOut):
            policy.call(held.result, 20)
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (1, 1, 0)
    held.set_result(0)


def test_threads_that_are_idle_end(monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    """A policy that is used no more leaves no thread behind, and one that is used again makes new ones."""
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.01)
    policy = hm.Policy(hm.Timeout("20s", threads=2), name="rare")

    def running() -> bool:
        return any(thread.name.startswith("hormesis-rare") for thread in threading.enumerate())

    for _ in range(2):
        assert policy.call(int) == 0
        until(lambda: not running())
