"""The settings of a rate limit: what can be meant, in code and in files, and what becomes of other settings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.rate_gate import RateGates
from hormesis.core.rate_limit import TokenBucket, WindowCounter
from hormesis.outcome import Ending
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.throttle import Throttle
from hormesis.policy.explain import worst_case
from hormesis.testing import ManualClock


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"limits": ()}, "limits"),
        ({"limits": "many"}, "limits"),
        ({"limits": ("100/s", "100/s")}, "limits"),
        ({"limits": ("100/s", "6000/60s", "6000/min")}, "limits"),
        ({"limits": ("2000000/s",)}, "limits"),
        ({"limits": ("2000000000/d",)}, "limits"),
        ({"limits": tuple(f"{number}/{number}s" for number in range(1, 10))}, "limits"),
        ({"limits": "2.5/s", "algorithm": "sliding window"}, "limits"),
        ({"limits": "100/us", "algorithm": "fixed window"}, "limits"),
        ({"limits": "100/s", "burst": 0}, "burst"),
        ({"limits": "100/s", "burst": 5, "algorithm": "fixed window"}, "burst"),
        ({"limits": "100/s", "algorithm": "leaky bucket"}, "algorithm"),
        ({"limits": "100/s", "cost": 0}, "cost"),
        ({"limits": "100/s", "cost": 101}, "cost"),
        ({"limits": "100/s", "cost": int}, "cost"),
        ({"limits": "100/s", "max_wait": "-1s"}, "max_wait"),
        ({"limits": "100/s", "max_keys": 0}, "max_keys"),
        ({"limits": "100/s", "name": ""}, "name"),
        ({"limits": "100/s", "by": "two words"}, "by"),
    ],
)
def test_what_can_not_be_meant(settings: dict[str, Any], key: str) -> None:
    """The error names the setting, the value and what would do."""
    with pytest.raises(hm.ConfigurationError) as caught:
        RateLimit(**settings)
    assert caught.value.key == key
    assert "take" in str(caught.value) or "known are" in str(caught.value)


def test_limits_may_not_be_left_out() -> None:
    """There is no rate that fits everybody."""
    with pytest.raises(hm.ConfigurationError, match="limits is missing; it takes rates such as '100/s'"):
        RateLimit()


def test_limits_are_values() -> None:
    """However they are written, they are the same."""
    assert RateLimit(100) == RateLimit("100/s") == RateLimit(["100 / s"])  # type: ignore[arg-type]
    assert RateLimit("100/s", "10000/d") == RateLimit(*("100/s", "10000/d"))
    assert RateLimit("100/s") != RateLimit("100/s", burst=5)
    assert RateLimit("2.5/s").rate == 2.5


def test_how_rates_become_limits() -> None:
    """A burst is that of the shortest window; a name stands before the rates, where there are several."""
    second, day = RateLimit("10000/d", "100/s", burst=20, name="api").algorithms()[::-1]
    assert isinstance(second, TokenBucket)
    assert (second.name, second.capacity, day.name, day.capacity) == ("api 100/s", 20, "api 10000/d", 10_000)
    (half,) = RateLimit("0.5/s", name="slow").algorithms()
    assert isinstance(half, TokenBucket)
    assert (half.name, half.count, half.window, half.capacity) == ("slow", 1, 2.0, 1)
    (window,) = RateLimit("5/min", algorithm="sliding window").algorithms()
    assert isinstance(window, WindowCounter)
    assert (window.name, window.capacity, window.window) == ("5/min", 5, 60.0)


def test_in_words() -> None:
    """The settings are told as people say them."""
    assert RateLimit("100/s").describe() == "100/s, up to 100 at once, refused beyond that"
    assert RateLimit("5/s", "9/min", burst=2, max_wait="1s", cost=2, by="tenant").describe() == (
        "5/s and 9/min, up to 2 at once, 2 spent by each call, beyond that they wait up to 1s; one for each tenant, "
        "1,000,000 at most"
    )
    assert RateLimit("5/s", algorithm="sliding window", cost=len, by=len).describe() == (
        "5/s in any window, calls spend what they cost, refused beyond that; one for each key, 1,000,000 at most"
    )
    assert "in each window" in RateLimit("5/s", algorithm="fixed window").describe()


def test_what_a_rate_limit_makes_of_an_exception() -> None:
    """What is spent is spent, however it went."""
    assert RateLimit("1/s").ending(ValueError()) is Ending.FAILURE
    assert RateLimit("1/s").ending(KeyboardInterrupt()) is Ending.CANCELLED


def test_from_a_file(tmp_path: Path) -> None:
    """A rate, a list of them, or a table with everything that a file can say."""
    path = tmp_path / "policies.toml"
    path.write_text(
        """
        [policy.one]
        rate_limit = "100/s"
        throttle = { by = "host", on = ["throttled", "timeout"], window = "30s" }
        concurrency_limit = 20

        [policy.several]
        rate_limit = ["100/s", "10000/d"]
        concurrency_limit = { limit_max = 50 }

        [policy.all]
        rate_limit = { limits = ["100/s"], burst = 5, by = "tenant", max_wait = "1s", max_keys = 10, cost = 2 }
        """
    )
    policies = hm.load(path)
    assert policies["one"].parts == (
        Throttle(by="host", on=("throttled", "timeout"), window=30),
        RateLimit("100/s"),
        ConcurrencyLimit(20),
    )
    assert policies["several"].parts == (RateLimit("100/s", "10000/d"), ConcurrencyLimit(limit_max=50))
    expected = RateLimit("100/s", burst=5, by="tenant", max_wait=1, max_keys=10, cost=2)
    assert policies["all"].parts == (expected,)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('"many"', "rate_limit.limits is 'many'; it takes a rate above zero"),
        ("true", "rate_limit.limits is True; it takes rates such as"),
        ("{ burst = 5 }", "rate_limit.limits is missing"),
        ('{ limits = "5/s", brust = 5 }', "unknown key 'brust' (did you mean 'burst'?)"),
    ],
)
def test_a_mistake_in_a_file(tmp_path: Path, written: str, words: str) -> None:
    """The error names file, key and value."""
    path = tmp_path / "policies.toml"
    path.write_text(f"[policy.stock]\nrate_limit = {written}\n")
    with pytest.raises(hm.ConfigurationError) as caught:
        hm.load(path)
    assert words in str(caught.value)
    assert "policy.stock" in str(caught.value)


def test_other_settings_while_it_is_in_use() -> None:
    """What was spent stays spent; limits for other keys begin anew."""
    clock = ManualClock()
    policy = hm.Policy(RateLimit("2/h"), clock=clock)
    policy.call(int)
    policy.call(int)
    policy.reconfigure(RateLimit("4/h", max_wait="1s"))
    with pytest.raises(hm.RateLimited):
        policy.call(int)
    policy.reconfigure(RateLimit("4/h", by=lambda key: key))
    assert policy.call(len, "acme") == 4
    policy.reconfigure(RateLimit("1/h", by=lambda key: key))
    assert policy.call(len, "acme") == 4
    machine = RateLimit("1/s").machine(threading.Lock())
    assert isinstance(machine, RateGates)
    assert not RateLimit("1/s", by="tenant").adopt(machine)
    assert not machine.limiter.reconfigure(RateLimit("1/s").algorithms(), 10)
    assert not RateLimit("1/s").adopt(None)
    assert RateLimit("5/s").adopt(machine)


def test_policies_share_a_limit_by_naming_it() -> None:
    """As with every part: the same registry, the same name, the same settings."""
    registry = hm.Registry()
    first, second = (hm.Policy(RateLimit("1/h"), name="api", registry=registry) for _ in range(2))
    assert first.call(int) == 0
    with pytest.raises(hm.RateLimited):
        second.call(int)


def test_the_state_of_a_limit() -> None:
    """As plain data: how it stands, or how many keys are known, but never all of those."""
    policy = hm.Policy(RateLimit("2/s"), clock=ManualClock())
    policy.call(int)
    assert policy.snapshot()["parts"]["rate_limit"] == {
        "limits": [{"name": "2/s", "quota": 2, "window": 1.0, "remaining": 1, "reset": 0.5}]
    }
    keyed = hm.Policy(RateLimit("2/s", by=lambda key: key), clock=ManualClock())
    for key in "abc":
        keyed.call(len, key)
    assert keyed.snapshot()["parts"]["rate_limit"] == {
        "limits": [{"name": "2/s", "quota": 2, "window": 1.0}],
        "known": 3,
        "max_keys": 1_000_000,
    }


def test_waits_count_in_the_worst_case() -> None:
    """For a token, and for a place under a concurrency limit, at each attempt."""
    timeout = hm.Timeout("1s")
    assert worst_case([[RateLimit("1/s", max_wait="2s"), timeout]]).seconds == 3.0
    assert worst_case([[ConcurrencyLimit(5, max_queued=1, max_wait="4s"), timeout]]).seconds == 5.0
    assert worst_case([[RateLimit("1/s"), ConcurrencyLimit(5), timeout]]).seconds == 1.0
    explained = hm.Policy(RateLimit("100/s"), Throttle(), name="stock").explain()
    assert "rate limit: 100/s, up to 100 at once" in explained
    assert "throttle: sends 2 times what it takes" in explained
