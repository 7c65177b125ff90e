"""Metrics and span events, with the real SDK and its readers in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

import hormesis as hm
from hormesis.events import CallRejected, EventBus, StateChanged
from hormesis.telemetry import opentelemetry
from hormesis.testing import ManualClock


class Meters:
    """A provider, and what its reader has collected."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def collect(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[frozenset[tuple[str, object]], Any]:
        found = self.collect().get(name)
        return {frozenset(point.attributes.items()): point for point in found.data.data_points} if found else {}


@pytest.fixture
def meters() -> Iterator[Meters]:
    meters = Meters()
    yield meters
    meters.provider.shutdown()


def of(**labels: str) -> frozenset[tuple[str, object]]:
    return frozenset({f"hormesis.{name}": value for name, value in {"shadow": "false", **labels}.items()}.items())


def fail() -> int:
    raise ConnectionRefusedError


def test_a_policy_is_counted_and_timed(meters: Meters) -> None:
    """Counters, histograms with their own buckets, and gauges of a policy's state arrive at the reader."""
    here = EventBus()
    policy = hm.Policy(
        hm.Retry(attempts=3, on="transient", delay="1s", jitter="none"),
        hm.CircuitBreaker(),
        hm.Bulkhead(3),
        name="stock",
        clock=ManualClock(),
        events=here,
    )
    stop = opentelemetry.instrument(meters.provider, policies=[policy], events=here)
    policy.call(int)
    with pytest.raises(ConnectionRefusedError):
        policy.call(fail)
    found = meters.collect()
    calls = {frozenset(point.attributes.items()): point.value for point in found["hormesis.calls"].data.data_points}
    assert calls[of(policy="stock", ending="success", source="function")] == 1
    assert calls[of(policy="stock", ending="failure", source="none")] == 1
    assert found["hormesis.calls"].unit == "{call}"
    durations = found["hormesis.call.duration"]
    assert durations.unit == "s"
    assert {point.explicit_bounds[0] for point in durations.data.data_points} == {0.001}
    assert max(point.sum for point in durations.data.data_points) == pytest.approx(3.0)
    states = {
        point.attributes["hormesis.state"]: point.value for point in found["hormesis.breaker.state"].data.data_points
    }
    assert states["closed"] == 1
    assert states["open"] == 0
    assert [point.value for point in found["hormesis.in_flight"].data.data_points] == [0]
    assert [point.value for point in found["hormesis.zombies"].data.data_points] == [0]
    assert [point.value for point in found["hormesis.telemetry.failures"].data.data_points] == [0]
    stop()


def test_state_is_read_anew_for_each_collection(meters: Meters) -> None:
    """A gauge shows what is, not what was when somebody asked first."""
    here = EventBus()
    policy = hm.Policy(hm.CircuitBreaker(), name="stock", events=here)
    stop = opentelemetry.instrument(meters.provider, policies=[policy], events=here)
    for state, act in (("closed", policy.breaker().close), ("isolated", policy.breaker().isolate)):
        act()
        points = meters.points("hormesis.breaker.state")
        assert points[of(policy="stock", part="circuit_breaker", state=state)].value == 1
    stop()


def test_it_stops_and_starts_again(meters: Meters) -> None:
    """Stopped, nothing is recorded or observed; started again on the same provider, everything is."""
    here = EventBus()
    policy = hm.Policy(hm.CircuitBreaker(), name="stock", events=here)
    calls = of(policy="stock", ending="success", source="function")
    for number in (1, 2):
        stop = opentelemetry.instrument(meters.provider, policies=[policy], events=here)
        policy.call(int)
        assert meters.points("hormesis.calls")[calls].value == number
        assert meters.points("hormesis.breaker.state")
        stop()
        stop()
        policy.call(int)
        assert meters.points("hormesis.calls")[calls].value == number
        assert not meters.points("hormesis.breaker.state")
    assert here.listeners == here.callers == ()


def traced(act: Any) -> ReadableSpan:
    """Do something within a span, and return the span."""
    with TracerProvider().get_tracer("tests").start_as_current_span("request") as span:
        act()
    assert isinstance(span, ReadableSpan)
    return span


def test_events_are_added_to_the_current_span(meters: Meters) -> None:
    """A trace shows what a policy did; plain successes add nothing to it."""
    here = EventBus()
    policy = hm.Policy(
        hm.Retry(attempts=2, on="transient", delay="1s", jitter="none"), name="stock", clock=ManualClock(), events=here
    )
    stop = opentelemetry.instrument(meters.provider, events=here)

    def act() -> None:
        policy.call(int)
        with pytest.raises(ConnectionRefusedError):
            policy.call(fail)

    names = [event.name for event in traced(act).events]
    told = ("attempt_failed", "retry_scheduled", "attempt_failed", "retry_stopped")
    assert names == [f"hormesis.{name}" for name in told]
    stop()


def test_a_span_event_carries_the_facts(meters: Meters) -> None:
    """Its attributes are the event's facts; what is unknown stays out, and a key is always told."""
    here = EventBus()
    stop = opentelemetry.instrument(meters.provider, events=here)
    event = CallRejected(at=5.0, policy="stock", part="bulkhead", reason="queue full", retry_after=None, key="eu-1")
    (told,) = traced(lambda: here.publish(event)).events
    assert told.name == "hormesis.call_rejected"
    assert dict(told.attributes or {}) == {
        "hormesis.policy": "stock",
        "hormesis.part": "bulkhead",
        "hormesis.key": "eu-1",
        "hormesis.reason": "queue full",
    }
    stop()


def test_spans_can_be_left_alone(meters: Meters) -> None:
    """With `spans=False` only metrics are made; without a recording span nothing is added either."""
    here = EventBus()
    event = StateChanged(
        at=5.0, policy="stock", part="circuit_breaker", before="closed", after="open", reason="because"
    )
    stop = opentelemetry.instrument(meters.provider, spans=False, events=here)
    assert not traced(lambda: here.publish(event)).events
    stop()
    stop = opentelemetry.instrument(meters.provider, events=here)
    with trace.use_span(trace.INVALID_SPAN):
        here.publish(event)
    assert not meters.points("hormesis.telemetry.failures")[frozenset()].value
    stop()


def test_without_a_provider_the_global_one_is_used() -> None:
    """Where no SDK is set up, nothing is exported and nothing breaks."""
    here = EventBus()
    stop = opentelemetry.instrument(events=here)
    assert hm.Policy(name="stock", events=here).call(int) == 0
    stop()
