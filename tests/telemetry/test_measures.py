"""What is measured of which event, and how the labels stay few."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis import events as ev
from hormesis.events import Event, EventBus
from hormesis.telemetry import measures
from hormesis.telemetry.measures import METRICS, Labels, Measures, Metric

STOCK: dict[str, Any] = {"at": 1.0, "policy": "stock"}
OF_A_PART: dict[str, Any] = {**STOCK, "part": "retry"}


class Seen(list[tuple[str, dict[str, str], float]]):
    """What a backend would have got, with the names of the labels."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.measures = Measures(self.series, **options)

    def series(self, metric: Metric, labels: Labels) -> Callable[[float], None]:
        return lambda value: self.append((metric.name, self.named(metric, labels), value))

    def named(self, metric: Metric, labels: Labels) -> dict[str, str]:
        return dict(zip(self.measures.labels[metric], labels, strict=True))

    def state(self, name: str) -> list[tuple[dict[str, str], float]]:
        """What is observed of one gauge, without those at zero."""
        found = self.measures.collect()
        return [(self.named(metric, labels), value) for metric, labels, value in found if metric.name == name and value]


class Told:
    """A policy as far as telemetry sees one."""

    def __init__(self, name: str, zombies: int = 0, shadow: bool = False, **parts: Any) -> None:
        self.name = name
        self.told = {"policy": name, "shadow": shadow, "zombies": zombies, "parts": parts}

    def snapshot(self) -> dict[str, Any]:
        return self.told


class Broken:
    """A policy that can't tell its state."""

    name = "broken"

    def snapshot(self) -> dict[str, Any]:
        raise RuntimeError("no state today")


WHAT_IS_TOLD: list[tuple[Event, list[tuple[str, dict[str, str], float]]]] = [
    (
        ev.CallEnded(**STOCK, part="policy", seconds=0.2, attempts=2, ending="success", source="function"),
        [
            ("calls", {"ending": "success", "source": "function"}, 1),
            ("call.duration", {"ending": "success"}, 0.2),
            ("call.attempts", {"ending": "success"}, 2),
        ],
    ),
    (
        ev.LimitChanged(**STOCK, part="load_shedder", before=20.0, after=30.0, reason="queueing delay 3ms"),
        [("limit.changes", {"part": "load_shedder"}, 1)],
    ),
    (
        ev.ChaosInjected(**STOCK, part="chaos", fault="latency 2s", kind="latency", source="dose", delay=2.0),
        [("chaos.injections", {"kind": "latency", "source": "dose"}, 1)],
    ),
    (
        ev.ChaosSwitched(**STOCK, part="chaos", before="off", after="on", reason="enabled for 1m"),
        [("chaos.switches", {"after": "on"}, 1)],
    ),
    (ev.ItemDropped(**STOCK, part="queue", items=3, reason="expired"), [("flow.drops", {"reason": "expired"}, 3)]),
    (ev.FlowPaused(**STOCK, part="queue", items=9, size=90), [("flow.pauses", {}, 1)]),
    (ev.FlowResumed(**STOCK, part="queue", items=2, size=20, seconds=1.5), [("flow.pause", {}, 1.5)]),
    (
        ev.ReaderDisconnected(**STOCK, part="reader", items=9, size=90, reason="time"),
        [("flow.disconnections", {"reason": "time"}, 1)],
    ),
    (
        ev.CallEnded(**STOCK, part="policy", seconds=1.0, attempts=1, ending="failure", source=""),
        [
            ("calls", {"ending": "failure", "source": "none"}, 1),
            ("call.duration", {"ending": "failure"}, 1.0),
            ("call.attempts", {"ending": "failure"}, 1),
        ],
    ),
    (
        ev.AttemptFailed(**STOCK, part="function", attempt=1, kind="timeout", error="TimedOut"),
        [("attempt.failures", {"kind": "timeout"}, 1)],
    ),
    (
        ev.CallRejected(**STOCK, part="bulkhead", reason="queue full", retry_after=None),
        [("rejections", {"part": "bulkhead", "reason": "queue full"}, 1)],
    ),
    (ev.Waited(**STOCK, part="bulkhead", seconds=0.3), [("queue.wait", {"part": "bulkhead"}, 0.3)]),
    (ev.TimeoutHit(**STOCK, part="deadline", limit=1.0), [("timeouts", {"part": "deadline"}, 1)]),
    (ev.RetryScheduled(**OF_A_PART, attempt=1, delay=0.1), [("retries", {}, 1)]),
    (ev.RetryStopped(**OF_A_PART, attempt=3, reason="no budget"), [("retry.stops", {"reason": "no budget"}, 1)]),
    (ev.RetrySucceeded(**OF_A_PART, attempt=2), []),
    (ev.HedgeStarted(**STOCK, part="hedge", attempt=2, delay=0.1), [("hedges", {}, 1)]),
    (
        ev.HedgeEnded(**STOCK, part="hedge", attempt=2, losers=3),
        [("hedge.wins", {"attempt": "2"}, 1), ("hedge.losers", {}, 3)],
    ),
    (
        ev.RefreshFailed(**STOCK, part="cache", kind="connect", error="ConnectionRefusedError"),
        [("cache.refresh_failures", {"kind": "connect"}, 1)],
    ),
    (ev.CacheAnswered(**STOCK, part="cache", source="stale", age=9.0), [("cache.answers", {"source": "stale"}, 1)]),
    (ev.FallbackAnswered(**STOCK, part="fallback", kind="connect"), [("fallback.answers", {"kind": "connect"}, 1)]),
    (
        ev.FallbackFailed(**STOCK, part="fallback", kind="error", error="KeyError"),
        [("fallback.failures", {"kind": "error"}, 1)],
    ),
    (
        ev.StateChanged(**STOCK, part="circuit_breaker", before="closed", after="open", reason="5 of 10 calls failed"),
        [("breaker.changes", {"part": "circuit_breaker", "before": "closed", "after": "open"}, 1)],
    ),
    (ev.WorkLeftBehind(**STOCK, part="timeout", zombies=2), [("work.left_behind", {"part": "timeout"}, 1)]),
    (ev.LeftWorkEnded(**STOCK, part="timeout", zombies=1), []),
    (
        ev.WorkerReplaced(**STOCK, part="bulkhead", reason="crashed"),
        [("workers.replaced", {"part": "bulkhead", "reason": "crashed"}, 1)],
    ),
    (
        ev.LevelChanged(**STOCK, part="degradation", before="full", after="essential", reason="by hand"),
        [("level.changes", {"before": "full", "after": "essential"}, 1)],
    ),
    (
        ev.Reconfigured(**STOCK, part="bulkhead", settings="5"),
        [("reconfigurations", {"part": "bulkhead"}, 1)],
    ),
]


@pytest.mark.parametrize(("event", "expected"), WHAT_IS_TOLD, ids=lambda each: getattr(each, "name", None))
def test_what_is_measured_of_an_event(event: Event, expected: list[tuple[str, dict[str, str], float]]) -> None:
    """Each event feeds its metrics, with the labels that they declare."""
    seen = Seen()
    seen.measures.take(event)
    always = {"policy": "stock", "shadow": "false"}
    assert seen == [(name, {**always, **labels}, value) for name, labels, value in expected]


def test_every_event_was_thought_of() -> None:
    """A kind of event that is added is measured, or is here on purpose."""
    classes = [each for each in vars(ev).values() if isinstance(each, type) and issubclass(each, Event)]
    kinds = {each.name for each in classes if each is not Event}
    assert {event.name for event, _ in WHAT_IS_TOLD} == kinds


def test_names_are_told_once() -> None:
    """No two metrics have one name."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_the_page_tells_of_every_metric() -> None:
    """Whoever builds a dashboard finds each name."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text()
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in page] == []


def test_what_a_shadow_would_have_done_is_kept_apart() -> None:
    """A refusal that nobody felt is not counted among those that somebody did."""
    seen = Seen()
    seen.measures.take(ev.CallRejected(**STOCK, part="bulkhead", reason="queue full", retry_after=None, shadow=True))
    assert seen[0][1]["shadow"] == "true"


def rejected(key: str, policy: str = "stock", reason: str = "open") -> Event:
    return ev.CallRejected(at=1.0, policy=policy, part="circuit_breaker", reason=reason, retry_after=1.0, key=key)


def test_a_key_is_no_label_unless_asked_for() -> None:
    """Hosts and tenants do not multiply the series by themselves."""
    seen = Seen()
    for number in range(5):
        seen.measures.take(rejected(f"host-{number}"))
    assert "key" not in seen[0][1]
    assert len({tuple(labels.items()) for _, labels, _ in seen}) == 1


def test_a_hundred_keys_are_told_apart() -> None:
    """From the hundred and first on they are one; each part of each policy has a hundred of its own."""
    seen = Seen(keys=True)
    for policy in ("stock", "prices"):
        for number in range(150):
            seen.measures.take(rejected(f"host-{number}", policy))
            seen.measures.take(rejected("host-0", policy))
    for policy in ("stock", "prices"):
        keys = [labels["key"] for _, labels, _ in seen if labels["policy"] == policy]
        assert len(set(keys)) == 101
        assert keys.count("other") == 50
    seen.measures.take(rejected("", "stock"))
    assert seen[-1][1]["key"] == ""


def test_reasons_and_policies_are_bounded_too() -> None:
    """A label that was meant to have few values has few, whatever comes."""
    seen = Seen()
    for number in range(1_100):
        seen.measures.take(rejected("", f"policy-{number}", f"reason-{number}"))
    assert len({labels["reason"] for _, labels, _ in seen}) == 101
    assert len({labels["policy"] for _, labels, _ in seen}) == 1_001


def changed(after: str, key: str = "", **facts: Any) -> Event:
    return ev.StateChanged(
        **STOCK, part="circuit_breaker", before="closed", after=after, reason="because", key=key, **facts
    )


def test_a_breakers_state_is_one_of_a_set() -> None:
    """The series of the state that it is in says 1, every other says 0, and a change moves the 1."""
    seen = Seen()
    seen.measures.take(changed("open"))
    found = [
        (seen.named(metric, labels)["state"], value)
        for metric, labels, value in seen.measures.collect()
        if metric.name == "breaker.state"
    ]
    assert dict(found) == {"closed": 0, "open": 1, "half-open": 0, "recovering": 0, "isolated": 0, "disabled": 0}
    seen.measures.take(changed("half-open"))
    assert [labels["state"] for labels, _ in seen.state("breaker.state")] == ["half-open"]


def test_breakers_with_keys_are_counted() -> None:
    """Without the key as a label a state's series says how many are in it."""
    seen = Seen()
    for key, state in (("a", "open"), ("b", "open"), ("c", "half-open")):
        seen.measures.take(changed(state, key))
    assert {labels["state"]: value for labels, value in seen.state("breaker.state")} == {"open": 2, "half-open": 1}
    with_keys = Seen(keys=True)
    with_keys.measures.take(changed("open", "a"))
    assert [labels["key"] for labels, _ in with_keys.state("breaker.state")] == ["a"]


def test_zombies_are_as_many_as_were_told_last() -> None:
    """The gauge follows both kinds of event."""
    seen = Seen()
    seen.measures.take(ev.WorkLeftBehind(**STOCK, part="timeout", zombies=3))
    assert [value for _, value in seen.state("zombies")] == [3]
    seen.measures.take(ev.LeftWorkEnded(**STOCK, part="timeout", zombies=2))
    assert [value for _, value in seen.state("zombies")] == [2]


def test_policies_are_asked_for_their_state() -> None:
    """What a policy says of itself counts, whatever events said; and it tells what events can't."""
    breaker = {"state": "closed", "calls": 3}
    bulkhead = {"max_concurrent": 5, "in_flight": 4, "queued": 2}
    seen = Seen(policies=[Told("stock", 7, circuit_breaker=breaker, bulkhead=bulkhead, retry={"budget": {}})])
    seen.measures.take(changed("open"))
    seen.measures.take(ev.WorkLeftBehind(**STOCK, part="timeout", zombies=3))
    assert [labels["state"] for labels, _ in seen.state("breaker.state")] == ["closed"]
    assert [value for _, value in seen.state("zombies")] == [7]
    labels = {"policy": "stock", "shadow": "false", "part": "bulkhead"}
    assert seen.state("in_flight") == [(labels, 4)]
    assert seen.state("queued") == [(labels, 2)]


def test_keys_of_policies_are_added_up_or_told_apart() -> None:
    """A bulkhead for each host fills one series, or one for each."""
    told = Told("stock", bulkhead={"keys": {"a": {"in_flight": 1, "queued": 0}, "b": {"in_flight": 2, "queued": 5}}})
    together, apart = Seen(policies=[told]), Seen(policies=[told], keys=True)
    assert [value for _, value in together.state("in_flight")] == [3]
    assert [(labels["key"], value) for labels, value in apart.state("in_flight")] == [("a", 1), ("b", 2)]


def test_a_mapping_of_policies_is_asked_again() -> None:
    """Policies that a reload adds are seen at the next collection."""
    policies: dict[str, Told] = {}
    seen = Seen(policies=policies)
    assert seen.state("zombies") == []
    policies["stock"] = Told("stock", 1)
    assert [value for _, value in seen.state("zombies")] == [1]


def test_two_policies_of_one_name_are_one_series() -> None:
    """Their numbers add up, since a series that is there twice would be refused."""
    parts: dict[str, Any] = {"bulkhead": {"in_flight": 1, "queued": 0}, "circuit_breaker": {"state": "open"}}
    seen = Seen(policies=(Told("stock", 1, **parts) for _ in range(2)))
    for _ in range(2):
        assert [value for _, value in seen.state("zombies")] == [2]
        assert [value for _, value in seen.state("in_flight")] == [2]
        assert [value for _, value in seen.state("breaker.state")] == [2]


def test_a_policy_that_cannot_tell_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged once; the others are collected."""
    seen = Seen(policies=[Broken(), Told("stock", 1)])
    with caplog.at_level(logging.WARNING, "hormesis.telemetry"):
        assert [value for _, value in seen.state("zombies")] == [1]
        assert seen.state("telemetry.failures") == [({}, 2)]
    assert len(caplog.records) == 1


def test_a_backend_that_raises_stays_on_the_bus(caplog: pytest.LogCaptureFixture) -> None:
    """A hiccup costs one fact: it is counted, logged once, and the next fact is recorded."""
    recorded: list[float] = []

    def record(value: float) -> None:
        if len(recorded) < 3:
            recorded.append(value)
            raise OSError("the exporter is away")
        recorded.append(value)

    here, broken = EventBus(), Measures(lambda metric, labels: record)
    here.listen(broken.take)
    with caplog.at_level(logging.WARNING, "hormesis.telemetry"):
        for _ in range(5):
            here.publish(rejected(""))
    assert len(recorded) == 5
    assert [value for metric, _, value in broken.collect() if metric.name == "telemetry.failures"] == [3]
    assert len(caplog.records) == 1


def test_memory_of_events_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and policies that come and go do not fill the memory."""
    monkeypatch.setattr(measures, "_FOUND_MAX", 3)
    monkeypatch.setattr(measures, "_INSTANCES_MAX", 3)
    monkeypatch.setattr(measures, "_POLICIES_MAX", 2)
    seen = Seen()
    for number in range(9):
        seen.measures.take(changed("open", f"host-{number}"))
    assert [value for _, value in seen.state("breaker.state")] == [3]
    for number in range(9):
        other: dict[str, Any] = {"at": 1.0, "policy": f"policy-{number}", "part": "timeout"}
        seen.measures.take(ev.WorkLeftBehind(**other, zombies=1))
        seen.measures.take(ev.StateChanged(**other, before="closed", after="open", reason="because"))
    assert len(seen.state("zombies")) == 2
    assert len(seen.state("breaker.state")) == 2
    assert len(seen) == 27


def test_what_limits_and_shedders_hold_is_a_gauge() -> None:
    """A limit, the delay inside and the share that is shed are read like what is in flight."""
    held: dict[str, Any] = {"limit": 27.5, "in_flight": 20, "queued": 3, "delay": 0.04, "shed": 0.5}
    seen = Seen(policies=[Told("shop", load_shedder=held)])
    labels = {"policy": "shop", "shadow": "false", "part": "load_shedder"}
    for name, value in (("limit", 27.5), ("queue.delay", 0.04), ("shed.share", 0.5), ("queued", 3)):
        assert seen.state(name) == [(labels, value)]
