"""Bad input: every field of every public settings class refuses what can't be meant, and says what would do.

The table has a row for each field, and a test sees that none is missing: what is added must say what it refuses.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

import hormesis as hm
from hormesis.tables import Settings


async def asynchronous(*args: object) -> bool:
    """What no setting can call."""
    return True


LEAST: dict[type[Any], dict[str, Any]] = {
    hm.Deadline: {"limit": 1},
    hm.Fallback: {"value": 0},
    hm.StaleCache: {},
    hm.Retry: {"on": "any"},
    hm.Hedge: {},
    hm.CircuitBreaker: {},
    hm.RateLimit: {"limits": "100/s"},
    hm.Throttle: {},
    hm.Bulkhead: {"max_concurrent": 1},
    hm.Timeout: {"limit": 1},
    hm.Chaos: {},
    hm.Injection: {"latency": 1},
    hm.Expected: {"rate": 1, "latency": 1},
    hm.ConnectionPools: {"classes": {"critical": 2}},
    hm.DegradationSettings: {"features": {}},
    hm.ConcurrencyLimit: {},
    hm.LoadShedder: {},
    hm.SystemHealth: {},
    hm.Rule: {"criticality": "critical"},
    hm.Drain: {},
    hm.ServiceSettings: {},
}
"""Every public settings class, with the least that it needs."""

NO_NUMBERS = [-1, math.nan, math.inf, -math.inf, True, "", "much", [1], {}, b"1"]
NO_DURATIONS = [*NO_NUMBERS, "-1s", "1", "1 fortnight", "1s" * 30]
NO_WHOLES = [*NO_NUMBERS, 1.5, "3", 10**30, 10**400]
NO_SHARES = [*NO_NUMBERS, 0, 1.1, "0.5", 10**400]
NO_FLAGS = [0, 1, "", "no", None, math.nan, []]
NO_CHOICES = ["", "some", 3, True, math.nan, [1], {}]
NO_ONS = ["", "some", 3, True, math.nan, (), [], {}, KeyboardInterrupt, KeyError("an instance"), ("any", 3)]
NO_FUNCTIONS = ["", "f", 3, True, math.nan, [], {}]
NO_BYS = ["", "two words", 3, True, math.nan, [], int, asynchronous]

BAD: dict[type[Any], dict[str, list[Any]]] = {
    hm.Deadline: {"limit": [*NO_DURATIONS, 0, None], "reserve": [*NO_DURATIONS, 1, "1s", 5]},
    hm.Fallback: {
        "function": NO_FUNCTIONS,
        "value": [],
        "cache": ["", 3, True, {}, hm.StaleCache],
        "on": [*NO_ONS, None],
        "on_result": [*NO_FUNCTIONS, int],
        "max_concurrent": [*NO_WHOLES, 0, None],
    },
    hm.StaleCache: {
        "fresh": [*NO_DURATIONS, None],
        "stale": [*NO_DURATIONS, None],
        "negative": [*NO_DURATIONS, 0],
        "max_entries": [*NO_WHOLES, 0, None],
        "key": NO_FUNCTIONS,
        "revalidate": NO_FLAGS,
        "early": [*NO_NUMBERS, 101, 10**400, None],
    },
    hm.Retry: {
        "on": [*NO_ONS, None],
        "attempts": [*NO_WHOLES, 0, 1001, None],
        "delay": [*NO_DURATIONS, None],
        "backoff": [*NO_CHOICES, None],
        "factor": [*NO_NUMBERS, 0.9, 101, 10**400, None],
        "delay_max": [*NO_DURATIONS, None],
        "jitter": [*NO_CHOICES, None],
        "budget": NO_SHARES,
        "retry_after_max": [*NO_DURATIONS, None],
        "on_result": [*NO_FUNCTIONS, int],
        "unsafe_methods": NO_FLAGS,
    },
    hm.Hedge: {
        "delay": [*NO_DURATIONS, 0],
        "quantile": [*NO_NUMBERS, 0, 0.4, 1, 10**400],
        "max_hedges": [*NO_WHOLES, 0, 11, None],
        "budget": NO_SHARES,
        "delay_min": [*NO_DURATIONS, None],
        "minimum_calls": [*NO_WHOLES, 0, None],
        "threads": [*NO_WHOLES, 0, 1, 10_001],
    },
    hm.CircuitBreaker: {
        "failure_rate": [*NO_SHARES, None],
        "consecutive": [*NO_WHOLES, 0],
        "quiet": [*NO_WHOLES, 0],
        "slow_after": [*NO_DURATIONS, 0],
        "slow_rate": [*NO_SHARES, None],
        "window": [-1, 0, 1.5, math.nan, math.inf, True, None, "", "soon", "0s", "-1s", [1], {}, 10**30],
        "minimum_calls": [*NO_WHOLES, 0, 101, None],
        "open_for": [*NO_DURATIONS, 0, None],
        "open_for_max": [*NO_DURATIONS, 0, 1],
        "retry_after_max": [*NO_DURATIONS, 0, None],
        "probes": [*NO_WHOLES, 0, 10_001, None],
        "probe_expires": [*NO_DURATIONS, 0, None],
        "recover_over": [*NO_DURATIONS, 0],
        "on": [*NO_ONS, None],
        "on_result": [*NO_FUNCTIONS, int],
        "ignore": NO_ONS,
        "by": NO_BYS,
        "max_keys": [*NO_WHOLES, 0, None],
    },
    hm.RateLimit: {
        "limits": [
            *(-1, math.nan, math.inf, True, None, "", "much", [], {}, b"1", 10**400, "0/s", "1/0s", "3000000/s"),
            *(("1/s", True), ("1/s", "60/60s", "1/min"), ("1/s",) * 2),
        ],
        "burst": [*NO_WHOLES, 0],
        "by": NO_BYS,
        "cost": [*NO_WHOLES, 0, 101, None, int, asynchronous],
        "algorithm": [*NO_CHOICES, None],
        "max_wait": NO_DURATIONS,
        "max_keys": [*NO_WHOLES, 0, None],
        "name": ["", 3, True, []],
    },
    hm.Throttle: {
        "ratio": [*NO_NUMBERS, 0.9, 101, 10**400, None],
        "on": [*NO_ONS, None],
        "window": [*NO_DURATIONS, 0, None],
        "minimum_calls": [*NO_WHOLES, 0, None],
        "retry_after_max": [*NO_DURATIONS, None],
        "probe_every": [*NO_DURATIONS, 0, None],
        "by": NO_BYS,
        "max_keys": [*NO_WHOLES, 0, None],
    },
    hm.Bulkhead: {
        "max_concurrent": [*NO_WHOLES, 0, None],
        "max_queued": [*NO_WHOLES, None],
        "max_wait": [*NO_DURATIONS, 0, None],
        "workers": NO_CHOICES,
        "memory_max": [*NO_NUMBERS, 0, 1, "1MB", "512", "1 TB", 2**63],
        "calls_max": [*NO_WHOLES, 0],
        "by": NO_BYS,
        "max_keys": [*NO_WHOLES, 0, None],
    },
    hm.Timeout: {
        "limit": [*NO_DURATIONS, 0, None],
        "threads": [*NO_WHOLES, 0, 10_001],
        "cooperative": NO_FLAGS,
    },
    hm.Chaos: {
        "injections": ["latency", 3, True, None, {}, [3], [hm.Chaos], [None]],
        "share_max": [*NO_SHARES, None],
        "seed": [*NO_WHOLES, None],
        "per": [*NO_CHOICES, None],
        "envoy": NO_FLAGS,
        "switch": ["", 3, True, [], {}, hm.ChaosSwitch],
    },
    hm.Injection: {
        "latency": [*NO_DURATIONS, 0],
        "jitter": [*NO_DURATIONS, None],
        "error": ["", "rejected", "any", 3, True, [], KeyboardInterrupt, KeyError("an instance"), asynchronous],
        "status": ["", "OK", "unavailable", 99, 600, 503.0, True, [], {}],
        "retry_after": NO_DURATIONS,
        "result": [],
        "behaviour": [*NO_FUNCTIONS, int],
        "share": [*NO_SHARES, None],
        "calls": ["", "0", 0, -1, 1.5, "2-1", "first", "1,", "1-2-3", True, [], {}, "1," * 200],
        "every": [*NO_WHOLES, 0],
        "after": [*NO_DURATIONS, None],
        "until": [*NO_DURATIONS, 0],
        "where": ["host", 3, True, None, [], {"host": 3}, {"": "eu"}, {"host": ""}, {3: "eu"}],
    },
    hm.Expected: {
        "rate": [*NO_NUMBERS, 0, None, "1", "0/s", "1/fortnight"],
        "latency": [*NO_DURATIONS, 0, None],
    },
    hm.ConnectionPools: {
        "classes": ["", 3, True, None, [], {}, {"critical": 0}, {"critical": "2"}, {"critical": True}, {"": 1}, {3: 1}],
        "wait": [*NO_DURATIONS, None],
        "default": ["reporting", 3, None, True, math.nan],
        "total_max": [*NO_WHOLES, 0, 1],
    },
    hm.DegradationSettings: {
        "features": ["", 3, True, None, [], {"": "reduced"}, {3: "reduced"}, {"reviews": "full"}, {"reviews": 3}],
        "levels": ["", 3, True, None, {}, (), ("full",), ("full", "full"), ("full", ""), ("full", 3)],
        "thresholds": ["", 3, True, [], {"reduced": 2}, {"reduced": "0.5"}, {"reduced": math.nan}, {"none": 0.5}],
        "name": ["", 3, None, True, []],
        "worsen_after": [*NO_DURATIONS, None],
        "recover_after": [*NO_DURATIONS, None],
        "forget_after": [*NO_DURATIONS, 0, None],
    },
    hm.ConcurrencyLimit: {
        "limit": [*NO_WHOLES, 0],
        "adapt": NO_CHOICES,
        "start": [*NO_WHOLES, 0, None],
        "limit_min": [*NO_WHOLES, 0, None],
        "limit_max": [*NO_WHOLES, 0, None],
        "timeout": [*NO_DURATIONS, 0],
        "on": [*NO_ONS, None],
        "window": [*NO_DURATIONS, 0, None],
        "max_queued": [*NO_WHOLES, None],
        "max_wait": [*NO_DURATIONS, 0, None],
        "health": NO_FUNCTIONS,
        "by": NO_BYS,
        "max_keys": [*NO_WHOLES, 0, None],
    },
    hm.LoadShedder: {
        "objective": [*NO_DURATIONS, 0, None],
        "quantile": [*NO_NUMBERS, 0, 0.4, 1, None],
        "limit": [0, -1, True, 1.5, math.nan, None, "", "lag", [1], {}],
        "start": [*NO_WHOLES, 0, None],
        "limit_min": [*NO_WHOLES, 0, None],
        "limit_max": [*NO_WHOLES, 0, None],
        "max_queued": [*NO_WHOLES, None],
        "max_wait": [*NO_DURATIONS, 0],
        "shed_max": [*NO_SHARES, None],
    },
    hm.SystemHealth: {
        "cpu": NO_SHARES,
        "process_cpu": [*NO_NUMBERS, 0],
        "cpu_pressure": NO_SHARES,
        "memory": NO_SHARES,
        "loop_lag": [*NO_DURATIONS, 0],
        "function": NO_FUNCTIONS,
        "every": [*NO_DURATIONS, 0, None],
        "recover_over": [*NO_DURATIONS, 0, None],
        "forget_after": [*NO_DURATIONS, 0, None],
        "factor_min": [*NO_SHARES, None],
    },
    hm.Rule: {
        "paths": ["orders", 3, True, ["orders"], [3]],
        "methods": [3, True, [3]],
        "headers": [3, True, "x", ["x"]],
        "api_keys": [3, [3]],
        "tenants": [3, True, [3]],
        "networks": ["nowhere", 3, ["10.0.0.0/99"]],
        "criticality": ["", "urgent", 3, True],
        "tenant": ["", 3, True],
        "client": ["", 3, True],
        "cost": [-1, 1.5, True, "1", math.nan],
        "goes_on": NO_FLAGS,
    },
    hm.Drain: {
        "ready": ["readyz", 3, True],
        "grace": [*NO_DURATIONS, None],
        "limit": [*NO_DURATIONS, None],
        "signals": ["SIGTERM", ["TERM"], [3], 3],
    },
    hm.ServiceSettings: {
        "name": ["", None, 3, True],
        "rules": [3, "x", [3]],
        "trusted": ["10.0.0.0/8", 3, ["nowhere"]],
        "proxies": ["10.0.0.0/8", 3, ["nowhere"]],
        "addresses": ["x-real-ip", 3, None],
        "api_key_header": ["", "two words", 3],
        "tenant_header": ["", "two words", 3],
        "strangers": [("default",), ("background", "default"), ("urgent", "default")],
        "foreign_ids": NO_FLAGS,
        "deadline": [*NO_DURATIONS, 0],
        "deadline_max": [*NO_DURATIONS, 0, None],
        "cancel_late": NO_FLAGS,
        "rate_limits": [3, "100/s", [3]],
        "rate_limit_headers": NO_FLAGS,
        "load_shedder": [3, "yes", {}],
        "health": [3, "yes", {}],
        "drain": [3, "yes", {}],
        "chaos": [3, "yes", {}],
        "answer_errors": NO_FLAGS,
        "send_timeout": [*NO_DURATIONS, 0],
        "processes": [*NO_WHOLES, 0, None],
        "shadow": NO_FLAGS,
    },
}
"""What each field refuses."""

BESIDE: dict[tuple[type[Any], str], dict[str, Any]] = {
    (hm.Bulkhead, "memory_max"): {"workers": "processes"},
    (hm.Bulkhead, "calls_max"): {"workers": "processes"},
    (hm.Injection, "retry_after"): {"status": 503},
}
"""What must be set beside a field, to be refused for the field's own sake."""

CASES = [(kind, key, value) for kind, fields in BAD.items() for key, values in fields.items() for value in values]


def refused(kind: type[Any], key: str, value: object) -> hm.ConfigurationError:
    """Make settings with one value that can't be meant, and return what says so."""
    settings = {**LEAST[kind], **BESIDE.get((kind, key), {}), key: value}
    if (kind, key) == (hm.Fallback, "function"):
        del settings["value"]
    with pytest.raises(hm.ConfigurationError) as caught:
        kind(**settings)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "key", "value"), CASES, ids=[f"{kind.__name__}-{key}-{str(value)[:30]!r}" for kind, key, value in CASES]
)
def test_what_can_not_be_meant_is_refused(kind: type[Any], key: str, value: Any) -> None:
    """The error carries the field, and its message shows it, or what it is a choice of, and the value."""
    error = refused(kind, key, value)
    assert error.key.split(".")[0] == key
    message = str(error)
    assert any(name in message for name in (key, "unknown"))
    # Of a collection, whatever is wrong in it is shown.
    shown: list[Any] = [value]
    if isinstance(value, dict):
        shown += [*value, *value.values()]
    elif isinstance(value, tuple | list):
        shown += [list(value), *value]
    assert any(repr(each) in message for each in shown), message


@pytest.mark.parametrize("kind", BAD, ids=lambda kind: kind.__name__)
def test_no_field_is_missing(kind: type[Any]) -> None:
    """Every field that can be set has a row in the table."""
    assert set(BAD[kind]) == {field.name for field in dataclasses.fields(kind) if field.init}
    assert isinstance(kind(**LEAST[kind]), kind)


def test_no_class_is_missing() -> None:
    """Every public dataclass of settings is in the table."""
    public = [getattr(hm, name) for name in hm.__all__]
    settings = {each for each in public if isinstance(each, type) and issubclass(each, Settings)}
    assert settings == set(BAD)


@pytest.mark.parametrize("value", [*NO_DURATIONS, None])
def test_the_deadline_of_a_block(value: Any) -> None:
    """It is a duration like any other."""
    with pytest.raises(hm.ConfigurationError) as caught, hm.deadline(value):
        pass
    assert repr(value)[:200] in str(caught.value)


@pytest.mark.parametrize("name", ["", None, 3, True, ["stock"], math.nan])
def test_the_name_of_a_policy(name: Any) -> None:
    """It labels events and metrics, so there is one."""
    with pytest.raises(hm.ConfigurationError, match="name is"):
        hm.Policy(name=name)


@pytest.mark.parametrize("part", [3, None, "retry", hm.Retry, int, {"attempts": 3}, hm.StaleCache(), [hm.Timeout(1)]])
def test_the_parts_of_a_policy(part: Any) -> None:
    """Only settings of patterns are parts, whatever way they come."""
    with pytest.raises(hm.ConfigurationError, match="is no part"):
        hm.Policy(part)
    policy = hm.Policy(hm.Bulkhead(1))
    with pytest.raises(hm.ConfigurationError, match="is no part"):
        policy.reconfigure(part)
    assert policy.parts == (hm.Bulkhead(1),)


@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_the_shadow_of_a_policy(value: Any) -> None:
    """It is on or off."""
    with pytest.raises(hm.ConfigurationError, match="shadow"):
        hm.Policy(shadow=value)


@pytest.mark.parametrize("order", ["", "any", None, 3, ["standard"]])
def test_the_order_of_a_policy(order: Any) -> None:
    """There are two."""
    with pytest.raises(hm.ConfigurationError, match="standard, as given"):
        hm.Policy(order=order)


@pytest.mark.parametrize("make", [hm.Retry, functools.partial(hm.Retry, attempts=5)])
def test_what_a_retry_repeats_must_be_said(make: Callable[..., Any]) -> None:
    """There is no default for it, and the message names it and what would do."""
    with pytest.raises(hm.ConfigurationError, match="on is missing; it takes"):
        make()


@pytest.mark.parametrize("function", [3, None, "stock", [], object()])
def test_only_functions_are_decorated(function: Any) -> None:
    """Whatever else is refused with its value."""
    with pytest.raises(hm.ConfigurationError) as caught:
        hm.Policy(hm.Retry(on="any"))(function)
    assert repr(function) in str(caught.value)


def test_a_fallback_that_is_asynchronous_for_a_function_that_is_not() -> None:
    """It is refused when the function is decorated or called, by name."""
    policy = hm.Policy(hm.Fallback(asynchronous))
    for use in (policy, policy.call, policy.open):
        with pytest.raises(hm.ConfigurationError, match="asynchronous"):
            use(int)
    assert asyncio.run(policy(asynchronous)()) is True


@pytest.mark.parametrize("function", [lambda: 3, functools.partial(lambda: 3)], ids=["lambda", "partial of a lambda"])
def test_a_function_that_no_worker_process_finds(function: Any) -> None:
    """It is refused when it is decorated, and when it is called, before any process is started."""
    policy = hm.Policy(hm.Bulkhead(1, workers="processes"))
    with pytest.raises(hm.ConfigurationError, match="lambda"):
        policy(function)
    with pytest.raises(hm.ConfigurationError, match="lambda"):
        policy.call(function)
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


def test_a_local_function_that_no_worker_process_finds() -> None:
    """So is one that stands in another function."""

    def local() -> int:
        return 3

    policy = hm.Policy(hm.Bulkhead(1, workers="processes"), hm.CircuitBreaker(minimum_calls=1), hm.Retry(on="any"))
    with pytest.raises(hm.ConfigurationError, match="local"):
        policy(local)
    with pytest.raises(hm.ConfigurationError, match="local"):
        asyncio.run(policy.acall(local))  # type: ignore[arg-type]
    assert policy.breaker().state == "closed"
