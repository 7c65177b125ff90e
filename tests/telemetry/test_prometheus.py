"""Metrics as Prometheus scrapes them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import hormesis as hm
from hormesis.events import EventBus
from hormesis.telemetry import prometheus
from hormesis.testing import ManualClock


def fail() -> int:
    raise ConnectionRefusedError


def test_a_policy_is_counted_and_timed() -> None:
    """Calls, attempts, retries, rejections and the state of the breaker are there after a little outage."""
    here, registry, clock = EventBus(), CollectorRegistry(), ManualClock()
    policy = hm.Policy(
        hm.Retry(attempts=2, on="transient", delay="1s", jitter="none"),
        hm.CircuitBreaker(minimum_calls=2, window=2, quiet=None),
        hm.Bulkhead(3),
        name="stock",
        clock=clock,
        events=here,
    )
    stop = prometheus.instrument(registry, policies=[policy], events=here)
    assert policy.call(int, "3") == 3
    for _ in range(2):
        with pytest.raises((ConnectionRefusedError, hm.CircuitOpen)):
            policy.call(fail)
    of = {"policy": "stock", "shadow": "false"}

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {**of, **labels})

    assert value("hormesis_calls_total", ending="success", source="function") == 1
    assert value("hormesis_calls_total", ending="rejected", source="none") == 1
    assert value("hormesis_call_duration_seconds_count", ending="failure") == 1
    assert value("hormesis_attempt_failures_total", kind="connect") == value("hormesis_retries_total") == 1
    assert value("hormesis_rejections_total", part="circuit_breaker", reason="open") == 2
    assert value("hormesis_breaker_state", part="circuit_breaker", state="open") == 1
    assert value("hormesis_breaker_state", part="circuit_breaker", state="closed") == 0
    assert value("hormesis_in_flight", part="bulkhead") == 0
    stop()


def test_what_is_scraped_is_read_by_a_parser() -> None:
    """The text form is valid, in seconds, with help and a type for each family."""
    here, registry = EventBus(), CollectorRegistry()
    stop = prometheus.instrument(registry, events=here)
    hm.Policy(name="stock", events=here).call(int)
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert families["hormesis_calls"].type == "counter"
    assert families["hormesis_call_duration_seconds"].type == "histogram"
    assert families["hormesis_zombies"].type == "gauge"
    assert families["hormesis_telemetry_failures"].type == "counter"
    assert all(family.documentation for family in families.values())
    stop()


def test_it_stops_and_starts_again() -> None:
    """What stopped has left the registry and the bus; stopping twice does nothing; another may begin."""
    here, registry = EventBus(), CollectorRegistry()
    stop = prometheus.instrument(registry, events=here)
    stop()
    stop()
    assert generate_latest(registry) == b""
    assert here.listeners == here.callers == ()
    prometheus.instrument(registry, events=here)()


def test_a_registry_takes_it_once() -> None:
    """The second is refused as a whole, and what was there goes on."""
    here, registry = EventBus(), CollectorRegistry()
    stop = prometheus.instrument(registry, events=here)
    with pytest.raises(ValueError, match="hormesis_calls"):
        prometheus.instrument(registry, events=here)
    assert len(here.listeners) == 1
    stop()


def test_calls_can_be_left_out() -> None:
    """Without them plain successes tell nothing, and cost what they cost without telemetry."""
    here, registry = EventBus(), CollectorRegistry()
    stop = prometheus.instrument(registry, calls=False, events=here)
    assert here.callers == ()
    hm.Policy(name="stock", events=here).call(int)
    assert b'ending="success"' not in generate_latest(registry)
    stop()


def test_asynchronous_calls_count_too() -> None:
    """Both colours of a call end in the same series."""
    here, registry = EventBus(), CollectorRegistry()
    stop = prometheus.instrument(registry, events=here)
    policy = hm.Policy(hm.Fallback(value=0), name="stock", events=here)

    async def fail_async() -> int:
        raise ConnectionRefusedError

    assert asyncio.run(policy.acall(fail_async)) == policy.call(fail) == 0
    labels = {"policy": "stock", "shadow": "false", "ending": "success", "source": "fallback"}
    assert registry.get_sample_value("hormesis_calls_total", labels) == 2
    stop()


@pytest.mark.parametrize(
    ("backend", "library"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")]
)
def test_a_missing_library_is_named(backend: str, library: str) -> None:
    """Importing hormesis needs none of them; using a backend says which extra brings what it needs."""
    script = f"""
import sys
sys.modules[{library!r}] = None
import hormesis as hm
assert not [name for name in ("logging", "prometheus_client", "opentelemetry") if sys.modules.get(name)]
assert {backend!r} in dir(hm.telemetry)
try:
    hm.telemetry.{backend}.instrument()
except hm.MissingExtraError as error:
    assert "hormesis[{backend}]" in str(error), error
else:
    raise SystemExit("not refused")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


def test_what_is_no_backend_is_no_attribute() -> None:
    """A misspelt name is an ordinary mistake."""
    with pytest.raises(AttributeError, match="promethius"):
        hm.telemetry.promethius  # noqa: B018
