"""Machines by key: one for each, bounded, and what has something to remember stays longest."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hormesis as hm
from hormesis.context import calling
from hormesis.core.admission import NullLock, Permit
from hormesis.core.breaker import BreakerMachine, BreakerState
from hormesis.core.keyed import Keyed
from hormesis.outcome import Ending
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.keys import key_of


class Machine:
    """Remembers something, or not."""

    def __init__(self) -> None:
        self.remembers = False

    def idle(self, now: float) -> bool:
        return not self.remembers


def keyed(most: int) -> Keyed[Machine]:
    return Keyed(Machine, most, lock=NullLock())


def zero() -> float:
    return 0.0


def never() -> float:
    raise AssertionError("the clock was read")


def keys(machines: Keyed[Machine]) -> set[str]:
    return {key for key, _ in machines.items()}


def test_each_key_has_a_machine_of_its_own() -> None:
    """The same key gets the same machine, another another; nobody reads the clock as long as there is room."""
    machines = keyed(10)
    first = machines.get("a", never)
    assert machines.get("a", never) is first
    assert machines.get("b", never) is not first
    assert dict(machines.items())["a"] is first
    assert machines.values()[0] in (first, machines.get("b", never))


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 12))
def test_there_are_never_more_than_there_may_be(asked: list[int], most: int) -> None:
    """Whatever keys come in whatever order, and the one that came last is always among those that are kept."""
    machines = keyed(most)
    for number in asked:
        key = str(number)
        machine = machines.get(key, zero)
        machine.remembers = number % 3 == 0
        assert len(machines) == len(keys(machines)) <= most
        assert dict(machines.items())[key] is machine


def test_a_full_set_stays_full() -> None:
    """Each new key costs one other, not more."""
    machines = keyed(100)
    for number in range(1000):
        machines.get(str(number), zero)
        assert len(machines) == min(number + 1, 100)


def test_what_was_not_used_for_long_goes_first() -> None:
    """Keys that stay in use survive any number of new ones."""
    machines = keyed(20)
    used = {key: machines.get(key, zero) for key in ("a", "b", "c")}
    for number in range(500):
        machines.get(str(number), zero)
        assert {key: machines.get(key, zero) for key in used} == used


def test_what_remembers_something_stays() -> None:
    """A machine that has something to remember stays while there are others to forget, used or not."""
    machines = keyed(20)
    remembering = {str(number): machines.get(str(number), zero) for number in range(5)}
    for machine in remembering.values():
        machine.remembers = True
    for number in range(100, 500):
        machines.get(str(number), zero)
    assert remembering.items() <= dict(machines.items()).items()


def test_when_all_remember_something_the_longest_unused_goes() -> None:
    """The bound holds all the same."""
    machines = keyed(4)
    for key in "abcdefgh":
        machines.get(key, zero).remembers = True
    assert len(machines) == 4
    assert "h" in keys(machines)
    assert "a" not in keys(machines)


def test_machines_are_made_anew_from_then_on() -> None:
    """Those that are there stay as they are; should they be too many, the next new key makes them fewer."""
    machines = keyed(10)
    kept = [machines.get(key, zero) for key in "abcdef"]

    class Other(Machine):
        pass

    machines.remake(Other, 3)
    assert [machines.get(key, zero) for key in "abcdef"] == kept
    assert isinstance(machines.get("new", zero), Other)
    assert len(machines) == 3


@pytest.mark.parametrize("by", ["", "two words", "host!", 7, int, b"host", ["host"]])
def test_what_is_no_by_is_refused(by: Any) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(hm.ConfigurationError, match=r"by is .*a label of calling.*or a function"):
        CircuitBreaker(by=by)


def test_an_asynchronous_by_is_refused() -> None:
    """A key must be known at once."""

    async def whose(tenant: str) -> str:
        return tenant

    with pytest.raises(hm.ConfigurationError, match="by is"):
        key_of(whose)


def test_the_key_of_a_call() -> None:
    """A label of the surroundings, or what a function makes of the arguments: a string of bounded length."""
    by_host = key_of("host")
    assert by_host is not None
    assert by_host((), {}) == ""
    with calling(host="eu-1"):
        assert by_host((), {}) == "eu-1"
    with calling(host="x" * 1000):
        assert by_host((), {}) == "x" * 200
    by_second = key_of(lambda first, *, second: second)
    assert by_second is not None
    assert by_second((1,), {"second": 42}) == "42"
    assert key_of(None) is None


def breakers(**settings: Any) -> Keyed[BreakerMachine]:
    chosen: dict[str, Any] = {"by": "host", "minimum_calls": 1} | settings
    machines = CircuitBreaker(**chosen).machine(threading.Lock())
    assert isinstance(machines, Keyed)
    return machines


def fail(machine: BreakerMachine) -> None:
    permit = machine.acquire(0.0)
    assert isinstance(permit, Permit)
    machine.end(permit, Ending.FAILURE, 0.0, 0.0)


def test_a_breaker_for_each_key() -> None:
    """One host's outage opens its own breaker and no other; all go by the same terms."""
    machines = breakers()
    bad, good = machines.get("bad", zero), machines.get("good", zero)
    fail(bad)
    assert (bad.state, good.state) == (BreakerState.OPEN, BreakerState.CLOSED)
    assert bad.terms is good.terms


def test_an_open_breaker_is_not_forgotten_for_new_hosts() -> None:
    """However many hosts come and are well, the one that is down stays known."""
    machines = breakers(max_keys=50)
    bad = machines.get("bad", zero)
    fail(bad)
    for number in range(1000):
        machines.get(f"host-{number}", zero)
    assert machines.get("bad", zero) is bad
    assert len(machines) == 50


def test_other_settings_are_taken_over_by_every_instance() -> None:
    """Instances keep their state, new ones go by the new terms, and the bound is the new one."""
    machines = breakers()
    bad = machines.get("bad", zero)
    fail(bad)
    assert CircuitBreaker(by="host", open_for="20s", max_keys=2).adopt(machines)
    assert bad.state is BreakerState.OPEN
    assert {machines.get(key, zero).terms.open_for for key in ("bad", "new", "newer", "newest")} == {20.0}
    assert len(machines) == 2


def test_other_keys_are_not_taken_over() -> None:
    """Instances by host say nothing of tenants, and one for all says nothing of either."""
    one = CircuitBreaker().machine(threading.Lock())
    assert not CircuitBreaker(by="tenant").adopt(breakers())
    assert not CircuitBreaker().adopt(breakers())
    assert not CircuitBreaker(by="host").adopt(one)
    assert CircuitBreaker(open_for=7).adopt(one)
    assert isinstance(one, BreakerMachine)
    assert one.terms.open_for == 7.0


def test_a_healthy_breaker_is_small() -> None:
    """Half a kilobyte with its key and its place: 100,000 of them fit into 60 MB."""
    count = 5000
    tracemalloc.start()
    try:
        machines = breakers(max_keys=count)
        for number in range(count):
            machine = machines.get(f"host-{number:06}.example", zero)
            for _ in range(3):
                permit = machine.passing
                assert permit is not None
                permit.tick()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / count < 600
