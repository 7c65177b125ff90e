"""Other settings for a policy in use, in code and from a file: its state is kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.events import EventBus
from hormesis.testing import ManualClock


def fail() -> None:
    raise ConnectionResetError


def trip(policy: hm.Policy) -> None:
    with pytest.raises(ConnectionResetError):
        policy.call(fail)


def test_a_breaker_stays_open(machine_of: Any) -> None:
    """A breaker that gets other settings while it is open stays open, and goes by the new ones from then on."""
    clock = ManualClock()
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, open_for=10), clock=clock)
    trip(policy)
    policy.reconfigure(hm.CircuitBreaker(minimum_calls=1, open_for=1, probes=1))
    with pytest.raises(hm.CircuitOpen):
        policy.call(int)
    clock.advance(10)
    assert policy.call(int) == 0
    assert machine_of(policy, hm.CircuitBreaker).state is BreakerState.CLOSED


def test_a_bulkhead_knows_who_is_inside(machine_of: Any) -> None:
    """Places that are taken stay taken; a larger bulkhead has so many more, a smaller one so many fewer."""
    policy = hm.Policy(hm.Bulkhead(2))
    with policy.open(int), policy.open(int):
        policy.reconfigure(hm.Bulkhead(3))
        bulkhead = machine_of(policy, hm.Bulkhead)
        assert (bulkhead.in_flight, bulkhead.max_concurrent) == (2, 3)
        assert policy.call(int) == 0
        policy.reconfigure(hm.Bulkhead(1))
        with pytest.raises(hm.BulkheadFull):
            policy.call(int)
    assert policy.call(int) == 0
    with policy.open(int), pytest.raises(hm.BulkheadFull):
        policy.call(int)


def test_a_budget_keeps_its_stock() -> None:
    """A retry that gets other settings has spent what it has spent."""
    policy = hm.Policy(hm.Retry(on="any", attempts=20, delay=0))
    trip(policy)
    spent = policy.snapshot()["parts"]["retry"]["budget"]["tokens"]
    policy.reconfigure(hm.Retry(on="any", attempts=3, delay=0))
    assert policy.snapshot()["parts"]["retry"]["budget"]["tokens"] == spent < 1


def test_functions_go_on_with_the_new_settings() -> None:
    """A function that the policy decorates already, and a call that is under way, need not be told."""
    policy = hm.Policy(hm.Fallback(value=1))

    @policy
    def down() -> int:
        raise ConnectionResetError

    assert down() == 1
    policy.reconfigure(hm.Fallback(value=2), hm.Retry(on="any", attempts=2, delay=0))
    assert down() == 2
    assert [part.slot.key for part in policy.parts] == ["fallback", "retry"]


def test_settings_that_can_not_work_change_nothing() -> None:
    """A part that stands twice, or is none, is refused before anything is touched."""
    policy = hm.Policy(hm.Bulkhead(1))
    for wrong in ([hm.Bulkhead(2), hm.Bulkhead(3)], [hm.Bulkhead]):
        with pytest.raises(hm.ConfigurationError):
            policy.reconfigure(*wrong)  # type: ignore[arg-type]
    assert policy.parts == (hm.Bulkhead(1),)
    with pytest.raises(hm.ConfigurationError, match="order as given"):
        hm.Policy(hm.Bulkhead(1), order="as given").reconfigure(hm.Bulkhead(2))


def test_it_is_told() -> None:
    """Each part that changes is an event."""
    bus = EventBus()
    events: list[Any] = []
    bus.listen(events.append)
    policy = hm.Policy(hm.Bulkhead(1), hm.Timeout(1), events=bus, name="stock")
    policy.reconfigure(hm.Bulkhead(2), hm.Timeout(1))
    assert [(event.name, event.policy, event.part) for event in events] == [("reconfigured", "stock", "bulkhead")]
    assert "at most 2" in events[0].settings


FILE = """
[policy.stock]
circuit_breaker = {{ minimum_calls = 1, open_for = "1h" }}
bulkhead = {places}

[policy.front]
timeout = "5s"
calls = ["stock"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Return the function that writes the file."""

    def write(text: str = FILE, places: int = 5) -> Path:
        path = tmp_path / "policies.toml"
        path.write_text(text.format(places=places))
        return path

    return write


def test_reading_a_file_again(file: Callable[..., Path]) -> None:
    """Policies are matched by name, keep their state, and are the same objects; what changed is returned."""
    policies = hm.load(file())
    stock = policies["stock"]
    trip(stock)
    file(places=7)
    assert policies.reload() == ["stock"]
    assert policies["stock"] is stock
    assert stock.part(hm.Bulkhead) == hm.Bulkhead(7)
    with pytest.raises(hm.CircuitOpen):
        stock.call(int)
    assert policies.reload() == []


def test_policies_come_and_go(file: Callable[..., Path]) -> None:
    """A new policy appears; one that the file no longer has works for those who hold it."""
    policies = hm.load(file())
    front = policies["front"]
    file(text="[policy.stock]\nbulkhead = 5\n[policy.new]\ntimeout = 1\nshadow = true\n")
    assert policies.reload() == ["stock", "new"]
    assert list(policies) == ["stock", "new"]
    assert policies["new"].shadow is True
    assert front.parts == (hm.Timeout(5),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[policy.stock]\nbulkhead = 0\n", "max_concurrent is 0"),
        ("[policy.stock]\nbulkhead = 5\ncalls = ['nobody']\n", "policy.stock.calls: unknown policy 'nobody'"),
        ("[policy.stock]\ncalls = ['stock']\n", "in a circle: stock > stock"),
        ("[policy.stock]\nshadow = 'yes'\n", "policy.stock.shadow is 'yes'; it takes True or False"),
        ("[policy.stock]\ncalls = 'front'\n", "policy.stock.calls is 'front'; it takes a list of names"),
        ("[policy.stock]\nexpects = {{ rate = 5 }}\n", "policy.stock.expects.latency is missing"),
        ("[policy.stock]\norder = 'as given'\ntimeout = 1\nretry = {{on = 'any'}}\nfallback = {{value = 0}}\n",
         "a fallback inside of retry"),
    ],
)  # fmt: skip
def test_a_file_that_can_not_be_meant_changes_nothing(file: Callable[..., Path], text: str, message: str) -> None:
    """Whatever is wrong in the new file, the policies go on as they are."""
    policies = hm.load(file())
    before = {name: policy.parts for name, policy in policies.items()}
    file(text=text)
    with pytest.raises(hm.ConfigurationError) as raised:
        policies.reload()
    assert message in str(raised.value)
    assert {name: policy.parts for name, policy in policies.items()} == before


def test_what_a_file_says_beside_the_parts(file: Callable[..., Path]) -> None:
    """Shadow, what is called, and the traffic that is expected come from the file as they do from code."""
    policies = hm.load(
        file(text="[policy.a]\ncalls = ['b']\n[policy.b]\nshadow = true\nexpects = {{rate = '9/s', latency = 1}}\n")
    )
    assert policies["a"].calls == (policies["b"],)
    assert policies["b"].shadow
    assert policies["b"].expects == hm.Expected(rate=9, latency=1)
    assert list(policies) == ["a", "b"]


def test_a_file_that_is_watched(file: Callable[..., Path], until: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A file that changes is read again by itself; one that can't be meant is logged, and the next good one counts."""
    policies = hm.load(file())
    stop = policies.reload_on_change(every="10ms")
    try:
        file(places=70)
        until(lambda: policies["stock"].part(hm.Bulkhead) == hm.Bulkhead(70))
        with caplog.at_level(logging.ERROR, "hormesis.policy"):
            file(text="[policy.stock]\nbulkhead = 0\n")
            until(lambda: caplog.records)
        assert "max_concurrent is 0" in caplog.text
        file().unlink()
        file(places=8)
        until(lambda: policies["stock"].part(hm.Bulkhead) == hm.Bulkhead(8))
    finally:
        stop()
        stop()
    time.sleep(0.03)
    file(places=900)
    time.sleep(0.03)
    assert policies["stock"].part(hm.Bulkhead) == hm.Bulkhead(8)


def test_the_switches_of_a_breaker() -> None:
    """People can isolate, close and disable; what can't be meant is refused."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, open_for="1h"), name="stock")
    switches = policy.breaker()
    switches.isolate()
    with pytest.raises(hm.CircuitOpen) as raised:
        policy.call(int)
    assert (raised.value.reason, raised.value.retry_after) == ("isolated", None)
    switches.disable()
    for _ in range(3):
        trip(policy)
    assert switches.state == "disabled"
    switches.close()
    assert (switches.state, policy.call(int)) == ("closed", 0)
    with pytest.raises(hm.ConfigurationError, match="has no keys"):
        policy.breaker("eu")
    with pytest.raises(hm.ConfigurationError, match="has no circuit breaker"):
        hm.Policy(name="stock").breaker()


def test_the_switches_of_one_key() -> None:
    """Where there is a breaker for each key, the switches are for one."""
    policy = hm.Policy(hm.CircuitBreaker(by="host"), name="stock")
    policy.breaker("eu").isolate()
    with hm.calling(host="us"):
        assert policy.call(int) == 0
    with hm.calling(host="eu"), pytest.raises(hm.CircuitOpen):
        policy.call(int)
    states = policy.snapshot()["parts"]["circuit_breaker"]["keys"]
    assert {key: state["state"] for key, state in states.items()} == {"us": "closed", "eu": "isolated"}
    with pytest.raises(hm.ConfigurationError, match="name one"):
        policy.breaker()
