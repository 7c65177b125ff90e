"""State has an address: who shares it, who doesn't, and what a fork does to it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock

LONG = "20s"


def refuses(policy: hm.Policy) -> bool:
    """Whether a policy with a bulkhead of one has its place taken."""
    try:
        policy.call(int)
    except hm.BulkheadFull:
        return True
    return False


def test_a_derived_policy_goes_on_with_the_state(machine_of: Any) -> None:
    """`with_parts` shares the state of the parts that stay, and name, clock and events as well."""
    policy = hm.Policy(hm.Bulkhead(1), name="stock", clock=ManualClock())
    derived = policy.with_parts(hm.Fallback(value=0, on="timeout"))
    machine_of(policy, hm.Bulkhead).acquire(0.0)
    assert refuses(policy)
    assert refuses(derived)
    assert derived.name == "stock"
    assert [type(part) for part in derived.parts] == [hm.Fallback, hm.Bulkhead]
    assert policy.part(hm.Fallback) is None


def test_a_part_that_is_replaced_has_state_of_its_own(machine_of: Any) -> None:
    """Other settings are another machine, and the first policy keeps its own."""
    policy = hm.Policy(hm.Bulkhead(1))
    machine_of(policy, hm.Bulkhead).acquire(0.0)
    assert not refuses(policy.with_parts(hm.Bulkhead(2)))
    assert refuses(policy)


def test_an_order_as_given_takes_no_further_parts() -> None:
    """`with_parts` can't know where to put a part in an order of one's own."""
    with pytest.raises(hm.ConfigurationError, match="order as given"):
        hm.Policy(hm.Bulkhead(1), order="as given").with_parts(hm.Timeout(1))


@pytest.mark.parametrize(
    ("same_registry", "same_name", "shares"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_state_is_shared_by_naming_it(machine_of: Any, same_registry: bool, same_name: bool, shares: bool) -> None:
    """Two policies share state when they have the same registry and the same name, and not otherwise."""
    registry = hm.Registry()
    one = hm.Policy(hm.Bulkhead(1), name="stock", registry=registry)
    other = hm.Policy(
        hm.Bulkhead(1),
        name="stock" if same_name else "orders",
        registry=registry if same_registry else None,
    )
    machine_of(one, hm.Bulkhead).acquire(0.0)
    assert refuses(other) == shares


def test_a_part_that_stands_twice_has_two_states(machine_of: Any) -> None:
    """In an order as given, the same settings in two places are two machines."""
    bulkhead, retry = hm.Bulkhead(1), hm.Retry(on="any")
    policy = hm.Policy(retry, bulkhead, retry, bulkhead, order="as given")
    assert policy.call(lambda: 3) == 3
    assert len(policy.layers) == 2


def test_threads_and_tasks_share_one_queue(colour: Any, dependency: Any, machine_of: Any, until: Any) -> None:
    """A place that a thread frees goes to a waiter of any colour, and the other way round."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=2, max_wait=LONG))
    bulkhead, held = machine_of(policy, hm.Bulkhead), Future[int]()
    first, second, third = dependency(held), dependency(2), dependency(3)
    answers: list[Any] = []

    def in_a_thread(called: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(policy.call(called.sync)))
        thread.start()
        return thread

    one = in_a_thread(first)
    first.wait_until_inside()
    two = colour.start(policy, second)
    until(lambda: bulkhead.queued == 1)
    three = in_a_thread(third)
    until(lambda: bulkhead.queued == 2)
    held.set_result(1)
    one.join(20)
    three.join(20)
    assert two.result(20) == 2
    assert sorted(answers) == [1, 3]
    assert bulkhead.in_flight == 0


def test_one_policy_in_several_loops() -> None:
    """Nothing binds to a loop when it is made or first used."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=5, max_wait=LONG), hm.Timeout(LONG), hm.Deadline(LONG))

    async def main() -> list[Any]:
        return await asyncio.gather(*(policy.acall(asyncio.sleep, 0.001, number) for number in range(3)))

    for _ in range(3):
        assert asyncio.run(main()) == [0, 1, 2]


def test_a_loop_that_is_closed_takes_its_waiters_with_it(machine_of: Any) -> None:
    """A place that reaches a waiter whose loop is gone is not lost."""
    policy = hm.Policy(hm.Bulkhead(1, max_queued=1, max_wait=LONG))
    bulkhead = machine_of(policy, hm.Bulkhead)
    permit = bulkhead.acquire(0.0)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # it complains of the task, rightly
    task = loop.create_task(policy.acall(asyncio.sleep, 0))
    loop.run_until_complete(asyncio.sleep(0))
    assert bulkhead.queued == 1
    loop.close()
    bulkhead.put_back(permit)
    del task
    gc.collect()
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


FORK = """
import os, sys, threading
import hormesis as hm
from hormesis.policy.registry import Address

registry = hm.Registry()
policy = hm.Policy(
    hm.CircuitBreaker(minimum_calls=1, open_for=600),
    hm.Bulkhead(1),
    hm.Timeout("10s", threads=1),
    name="shared",
    registry=registry,
)
other = hm.Policy(hm.Bulkhead(1), name="shared", registry=registry)

@policy
def work(answer):
    return answer

inside, leave = threading.Event(), threading.Event()
def hold():
    inside.set()
    leave.wait(10)
threading.Thread(target=policy.call, args=(hold,)).start()
inside.wait(10)

bulkhead = policy.part(hm.Bulkhead)
machine = registry.get(Address("shared", "bulkhead"), bulkhead, bulkhead.machine)
breaker = policy.part(hm.CircuitBreaker)
breaker = registry.get(Address("shared", "circuit_breaker"), breaker, breaker.machine)
assert machine.in_flight == 1
breaker._lock.acquire()      # another thread may hold any lock at the moment of the fork
registry._lock.acquire()

child = os.fork()
if child == 0:
    answers = work(3), policy.call(int), other.call(int)
    fresh = registry.get(Address("shared", "bulkhead"), bulkhead, bulkhead.machine)
    os._exit(0 if answers == (3, 0, 0) and fresh is not machine and fresh.in_flight == 0 else 1)
registry._lock.release()
breaker._lock.release()
_, status = os.waitpid(child, 0)
assert machine.in_flight == 1, "the parent keeps its state"
leave.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_starts_clean() -> None:
    """A child process has no permits, threads or locks of its parent's, and the parent keeps them."""
    script = [sys.executable, "-W", "ignore", "-c", FORK]
    done = subprocess.run(script, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
