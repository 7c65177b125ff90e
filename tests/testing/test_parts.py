"""`assert_parts`, `assert_has` and `no_waiting`."""

from __future__ import annotations

import time
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, Scripted, assert_has, assert_parts, hear, no_waiting


@pytest.fixture
def stock() -> hm.Policy:
    """A policy of three parts."""
    return hm.Policy(hm.Retry(on="transient"), hm.Bulkhead(20), hm.Timeout("500ms"), name="stock")


def test_the_same_parts_in_any_order(stock: hm.Policy) -> None:
    """A policy sorts them itself, and a value may be written in any unit."""
    assert_parts(stock, hm.Timeout(0.5), hm.Bulkhead(20), hm.Retry(on="transient"))


def test_each_difference_is_named(stock: hm.Policy) -> None:
    """Other settings, what is missing, what is too many."""
    with pytest.raises(AssertionError) as caught:
        assert_parts(
            stock, hm.Retry(on="transient", attempts=5, jitter="none"), hm.Timeout("500ms"), hm.Fallback(value=0)
        )
    first, *lines = str(caught.value).splitlines()
    assert first == "policy 'stock':"
    assert lines[0].startswith("  fallback is missing: Fallback(")
    assert lines[1:3] == ["  retry.attempts is 3, not 5", "  retry.jitter is 'full', not 'none'"]
    assert lines[3].startswith("  bulkhead should not be there: Bulkhead(max_concurrent=20")
    assert len(lines) == 4


def test_an_order_as_given_is_part_of_what_it_is() -> None:
    """There the order matters, and a part may be there more than once."""
    outer, inner, retry = hm.Timeout("5s"), hm.Timeout("1s"), hm.Retry(on="transient")
    policy = hm.Policy(outer, retry, inner, order="as given")
    assert_parts(policy, outer, retry, inner)
    with pytest.raises(AssertionError, match="the order is timeout, retry, timeout, not retry, timeout, timeout"):
        assert_parts(policy, retry, outer, inner)
    with pytest.raises(AssertionError, match="timeout should not be there"):
        assert_parts(policy, outer, retry)
    with pytest.raises(AssertionError) as caught:
        assert_parts(policy, outer, retry, hm.Timeout("2s"))
    assert str(caught.value).splitlines()[1:] == ["  timeout.limit is 1.0, not 2.0"]


def test_a_policy_has_a_part_with_settings(stock: hm.Policy) -> None:
    """What is not named may be as it likes; the part is returned."""
    assert assert_has(stock, hm.Retry, attempts=3) is stock.part(hm.Retry)
    assert_has(stock, hm.Timeout, limit="500ms")
    assert_has(stock, hm.Bulkhead)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        (hm.Fallback, {}, "has no Fallback; it has Retry, Bulkhead, Timeout"),
        (hm.Retry, {"attempts": 5, "delay": "1s"}, "retry.attempts is 3, not 5\n  retry.delay is 0.1, not 1.0"),
    ],
)
def test_what_a_policy_has_not(stock: hm.Policy, kind: Any, settings: Any, says: str) -> None:
    """The message shows the difference."""
    with pytest.raises(AssertionError) as caught:
        assert_has(stock, kind, **settings)
    assert str(caught.value) == f"policy 'stock':\n  {says}"


def test_of_several_parts_one_must_do() -> None:
    """And the nearest one is shown."""
    policy = hm.Policy(hm.Timeout("5s"), hm.Retry(on="any"), hm.Timeout("1s", threads=2), order="as given")
    assert assert_has(policy, hm.Timeout, limit=1).threads == 2
    with pytest.raises(AssertionError, match=r"timeout\.threads is 2, not 3$"):
        assert_has(policy, hm.Timeout, limit=1, threads=3)
    with pytest.raises(AssertionError, match="it has no parts"):
        assert_has(hm.Policy(), hm.Timeout)


def test_settings_that_cant_be_meant_are_refused(stock: hm.Policy) -> None:
    """A misspelt assertion must not pass."""
    with pytest.raises(hm.ConfigurationError, match="unknown setting of Retry 'attemps'"):
        assert_has(stock, hm.Retry, attemps=3)
    with pytest.raises(hm.ConfigurationError, match="attempts is 0"):
        assert_has(stock, hm.Retry, attempts=0)


@pytest.mark.parametrize("order", ["standard", "as given"])
def test_retries_follow_at_once(order: Any) -> None:
    """Also of functions that were decorated before, in either order; afterwards they wait as they did."""
    clock = ManualClock()
    policy = hm.Policy(hm.Retry(on="transient", delay="1h", delay_max="2h", jitter="none"), order=order, clock=clock)
    ask = policy(Scripted(ConnectionRefusedError, 3, ConnectionRefusedError, 4).call)
    parts = policy.parts
    with no_waiting(policy):
        assert ask() == 3
        assert clock.now() == 0
        assert_has(policy, hm.Retry, attempts=3)
    assert policy.parts == parts
    assert ask() == 4
    assert clock.now() == 3600


def test_what_a_server_asks_for_is_not_waited_for_either() -> None:
    """`Retry-After` is a wait like another."""
    policy = hm.Policy(hm.Retry(on="transient"))
    refusal = hm.UnwantedResult(503, hm.FailureKind.UNAVAILABLE, retry_after=30)
    began = time.monotonic()
    with no_waiting(policy):
        assert policy.call(Scripted(refusal, 3).call) == 3
    assert time.monotonic() - began < 10


def test_attempts_may_be_others_meanwhile() -> None:
    """One switches retries off."""
    policies = [hm.Policy(hm.Retry(on="transient", attempts=5), name=name) for name in "ab"]
    with no_waiting(*policies, attempts=1):
        for policy in policies:
            failing = Scripted(ConnectionRefusedError)
            with pytest.raises(ConnectionRefusedError):
                policy.call(failing.call)
            assert failing.calls == 1
    for policy in policies:
        assert_has(policy, hm.Retry, attempts=5)


def test_attempts_that_cant_be_meant_change_nothing() -> None:
    """Policies that were prepared already are put back."""
    policies = [hm.Policy(hm.Timeout("1s")), hm.Policy(hm.Retry(on="transient", delay="1h"))]
    with pytest.raises(hm.ConfigurationError, match="attempts"), no_waiting(*policies, attempts=0):
        raise AssertionError
    assert_has(policies[1], hm.Retry, delay="1h")


def test_a_failing_block_ends_it_too() -> None:
    """The policies are as they were."""
    policy = hm.Policy(hm.Retry(on="transient", delay="1h"), hm.CircuitBreaker(minimum_calls=1, failure_rate=1))
    with hear(policy) as heard, pytest.raises(ZeroDivisionError), no_waiting(policy):
        policy.call(Scripted(ZeroDivisionError).call)
    assert_has(policy, hm.Retry, delay="1h")
    assert heard.states == ["open"]
    with pytest.raises(hm.CircuitOpen):  # state is kept
        policy.call(int)
