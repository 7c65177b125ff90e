"""What is measured, declared once for every backend.

`METRICS` is a table: each row names an event, which of its facts is the value, and which are the labels. A backend
hands `Measures` a function that records one value; what is a matter of state (circuits, zombies, queues) is read
when somebody collects it. Names follow OpenTelemetry's conventions, and a backend spells them its own way.

Labels are bounded. A part's key (a host, a tenant) is no label unless that is asked for. Of each label's values a
hundred are told apart, of keys a hundred for each part, and the rest are `"other"`: a name that comes from outside
must not fill the memory of a metrics server.

A listener that raises would be taken off its bus. So what a backend raises is caught here, counted, and logged the
first time: one hiccup of an exporter must not end the instrumentation, and none may break a call.
"""

from __future__ import annotations

import dataclasses
import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from hormesis.core.breaker import BreakerState
from hormesis.events import (
    AttemptFailed,
    CacheAnswered,
    CallEnded,
    CallRejected,
    ChaosInjected,
    ChaosSwitched,
    Event,
    FallbackAnswered,
    FallbackFailed,
    FlowPaused,
    FlowResumed,
    HedgeEnded,
    HedgeStarted,
    ItemDropped,
    LeftWorkEnded,
    LevelChanged,
    LimitChanged,
    ReaderDisconnected,
    Reconfigured,
    RefreshFailed,
    RetryScheduled,
    RetryStopped,
    StateChanged,
    TimeoutHit,
    Waited,
    WorkerReplaced,
    WorkLeftBehind,
)

__all__ = ["METRICS", "Labels", "Measures", "Metric", "Policies", "Snapshots"]

Labels: TypeAlias = tuple[str, ...]
"""The values of a metric's labels, in the order of `Measures.labels`."""

Buckets: TypeAlias = tuple[float, ...]

_SECONDS: Buckets = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ATTEMPTS: Buckets = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0)

_VALUES_MAX = 100
"""Values of a label that are told apart; keys for each part of each policy."""

_POLICIES_MAX = 1_000
"""Policies are named in code and files, and a service may well have some hundreds."""

_INSTANCES_MAX = 10_000
"""Instances of one part whose state is remembered from events; as many as a breaker keeps by default."""

_FOUND_MAX = 10_000
"""Combinations of facts whose series is remembered; others are found anew each time."""

_OTHER = "other"


Series: TypeAlias = "Callable[[Metric, Labels], Callable[[float], object]]"


class Snapshots(Protocol):
    """What tells its state when it is asked; every `Policy` does."""

    @property
    def name(self) -> str:
        """The policy's name."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Its state as plain data."""
        ...


Policies: TypeAlias = "Iterable[Snapshots] | Mapping[str, Snapshots]"
"""The policies whose state is read when metrics are collected; what `load` returns is one as it is."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a metric is itself: looked up for every value
class Metric:
    """One thing that is measured.

    Args:
        name: Dotted, without the prefix that all of them share.
        kind: `"counter"` and `"histogram"` are fed by an event; the others are read when they are collected.
        about: What it tells, in a sentence.
        unit: In the notation of UCUM.
        event: The event that feeds it.
        value: The fact of the event that is its value; None counts one.
        labels: Facts of the event that are its labels, besides the policy and whether it is only a shadow's.
        buckets: Upper bounds of a histogram's.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge", "total"]
    about: str
    unit: str
    event: type[Event] | None = None
    value: str | None = None
    labels: tuple[str, ...] = ()
    buckets: Buckets = ()


def _count(event: type[Event], name: str, about: str, *labels: str, unit: str, value: str | None = None) -> Metric:
    return Metric(name=name, kind="counter", about=about, unit=unit, event=event, value=value, labels=labels)


def _spread(
    event: type[Event], name: str, about: str, *labels: str, value: str, unit: str = "s", buckets: Buckets = _SECONDS
) -> Metric:
    return Metric(
        name=name, kind="histogram", about=about, unit=unit, event=event, value=value, labels=labels, buckets=buckets
    )


BREAKER_STATE = Metric(
    name="breaker.state",
    kind="gauge",
    about="Circuit breakers in each state; for one that has no keys, 1 for the state that it is in.",
    unit="{breaker}",
    labels=("part", "key", "state"),
)
ZOMBIES = Metric(
    name="zombies",
    kind="gauge",
    about="Threads that were left behind by their callers and still go on.",
    unit="{thread}",
)
IN_FLIGHT = Metric(
    name="in_flight", kind="gauge", about="Permits that are taken.", unit="{call}", labels=("part", "key")
)
QUEUED = Metric(
    name="queued", kind="gauge", about="Calls that wait for a permit.", unit="{call}", labels=("part", "key")
)
LIMIT = Metric(name="limit", kind="gauge", about="Calls that may be in flight.", unit="{call}", labels=("part", "key"))
DELAY = Metric(
    name="queue.delay", kind="gauge", about="How long work stands waiting inside.", unit="s", labels=("part", "key")
)
SHED = Metric(
    name="shed.share", kind="gauge", about="Share of what came that was turned away.", unit="1", labels=("part", "key")
)
FAILURES = Metric(
    name="telemetry.failures", kind="total", about="Facts that could not be recorded, or not be read.", unit="{fact}"
)

_GAUGES = {"in_flight": IN_FLIGHT, "queued": QUEUED, "limit": LIMIT, "delay": DELAY, "shed": SHED}
"""What a part's snapshot calls that which a gauge shows; where keys are no label, it is added up over them."""

METRICS: tuple[Metric, ...] = (
    _count(CallEnded, "calls", "Calls that have ended.", "ending", "source", unit="{call}"),
    _spread(CallEnded, "call.duration", "How long calls took, waits and retries included.", "ending", value="seconds"),
    _spread(
        CallEnded,
        "call.attempts",
        "Attempts that calls took.",
        "ending",
        value="attempts",
        unit="{attempt}",
        buckets=_ATTEMPTS,
    ),
    _count(AttemptFailed, "attempt.failures", "Attempts that failed.", "kind", unit="{attempt}"),
    _count(CallRejected, "rejections", "Refusals before the function.", "part", "key", "reason", unit="{call}"),
    _spread(Waited, "queue.wait", "How long attempts stood in a queue.", "part", value="seconds"),
    _count(TimeoutHit, "timeouts", "Attempts that were cut off.", "part", unit="{attempt}"),
    _count(RetryScheduled, "retries", "Attempts that follow a failed one.", unit="{attempt}"),
    _count(RetryStopped, "retry.stops", "Failures worth a retry that got none.", "reason", unit="{call}"),
    _count(HedgeStarted, "hedges", "Attempts begun beside a slow one.", unit="{attempt}"),
    _count(HedgeEnded, "hedge.wins", "Races, by the number of the winner.", "attempt", unit="{race}"),
    _count(HedgeEnded, "hedge.losers", "Attempts cancelled or left behind.", unit="{attempt}", value="losers"),
    _count(CacheAnswered, "cache.answers", "Answers of the cache.", "source", unit="{call}"),
    _count(RefreshFailed, "cache.refresh_failures", "Refreshes of the cache that failed.", "kind", unit="{call}"),
    _count(FallbackAnswered, "fallback.answers", "Answers of the fallback.", "kind", unit="{call}"),
    _count(FallbackFailed, "fallback.failures", "Fallbacks that had no answer.", "kind", unit="{call}"),
    _count(
        StateChanged,
        "breaker.changes",
        "Changes of a breaker's state.",
        "part",
        "key",
        "before",
        "after",
        unit="{change}",
    ),
    _count(WorkLeftBehind, "work.left_behind", "Threads that callers stopped waiting for.", "part", unit="{thread}"),
    _count(WorkerReplaced, "workers.replaced", "Worker processes replaced.", "part", "reason", unit="{process}"),
    _count(LevelChanged, "level.changes", "Changes of a degradation level.", "before", "after", unit="{change}"),
    _count(Reconfigured, "reconfigurations", "Parts that got other settings.", "part", unit="{change}"),
    _count(LimitChanged, "limit.changes", "Moves of a limit that finds itself.", "part", unit="{change}"),
    _count(ItemDropped, "flow.drops", "Items that queues have dropped.", "reason", unit="{item}", value="items"),
    _count(FlowPaused, "flow.pauses", "Senders told to pause.", unit="{pause}"),
    _spread(FlowResumed, "flow.pause", "How long senders were told to pause.", value="seconds"),
    _count(ReaderDisconnected, "flow.disconnections", "Readers that did not keep up.", "reason", unit="{reader}"),
    _count(ChaosInjected, "chaos.injections", "Faults that were injected.", "kind", "source", unit="{fault}"),
    _count(ChaosSwitched, "chaos.switches", "Changes of whether faults can be injected.", "after", unit="{change}"),
    BREAKER_STATE,
    ZOMBIES,
    *_GAUGES.values(),
    FAILURES,
)

_FED_BY: dict[type[Event], list[Metric]] = {}
for _metric in METRICS:
    if _metric.event is not None:
        _FED_BY.setdefault(_metric.event, []).append(_metric)


class Measures:
    """Turns events into values with labels, and the state of policies into gauges.

    Args:
        series: Makes, of a metric that an event feeds and its labels' values, what takes the values of that series.
        policies: Policies whose state is read when it is collected.
        keys: Whether a part's key is a label.
        also: Takes each event that is out of the ordinary, under the same protection.

    >>> seen = []
    >>> measures = Measures(lambda metric, labels: lambda value: seen.append((metric.name, labels, value)))
    >>> measures.take(RetryScheduled(at=0.0, policy="stock", part="retry", attempt=1, delay=0.1))
    >>> seen
    [('retries', ('stock', 'false'), 1)]
    """

    def __init__(
        self,
        series: Series,
        *,
        policies: Policies = (),
        keys: bool = False,
        also: Callable[[Event], object] | None = None,
    ) -> None:
        self.labels = {metric: _label_names(metric, keys=keys) for metric in METRICS}
        self._facts = {metric: operator.attrgetter(*names) for metric, names in self.labels.items() if len(names) > 1}
        self._series = series
        # Bounding labels and finding a series costs far more than to record a value, and it is the same each time.
        self._found: dict[tuple[Metric, tuple[Any, ...]], Callable[[float], object]] = {}
        self._also = also
        # A generator would be used up by the first who collects; a mapping is asked again, since a reload changes it.
        self._policies: Policies = policies if isinstance(policies, Mapping) else tuple(policies)
        self._known: dict[Labels, set[str]] = {}
        self._states: dict[tuple[str, str, str], dict[str, str]] = {}
        self._zombies: dict[tuple[str, str], int] = {}
        self._failures = 0
        self._lock = threading.Lock()

    def take(self, event: Event) -> None:
        """Record what an event tells; never raises."""
        try:
            if isinstance(event, StateChanged | WorkLeftBehind | LeftWorkEnded):
                self._remember(event)
            for metric in _FED_BY.get(type(event), ()):
                record = self._found.get((metric, self._facts[metric](event))) or self._find(metric, event)
                record(1 if metric.value is None else getattr(event, metric.value))
            if self._also is not None and not isinstance(event, CallEnded):
                self._also(event)
        except Exception:
            self._fail()

    def collect(self) -> Iterator[tuple[Metric, Labels, float]]:
        """Read what is a matter of state at this moment."""
        with self._lock:
            states = {part: list(instances.items()) for part, instances in self._states.items()}
            zombies: dict[tuple[str, str], float] = dict(self._zombies)
        told = _Told()
        policies = self._policies.values() if isinstance(self._policies, Mapping) else self._policies
        for policy in list(policies):
            try:
                told.add(policy.name, policy.snapshot())
            except Exception:
                self._fail()
        for (policy_name, part, shadow), instances in (states | told.states).items():
            yield from self._states_of(policy_name, part, shadow, instances)
        for (policy_name, shadow), number in (zombies | told.zombies).items():
            yield ZOMBIES, (self._policy(policy_name), shadow), number
        for name, numbers in told.numbers.items():
            metric = _GAUGES[name]
            added: dict[Labels, float] = {}
            for (policy_name, part, key, shadow), number in numbers.items():
                labels = self._instance(metric, policy_name, part, key, shadow)
                added[labels] = added.get(labels, 0) + number
            for labels, number in added.items():
                yield metric, labels, number
        yield FAILURES, (), self._failures

    def _states_of(
        self, policy: str, part: str, shadow: str, instances: list[tuple[str, str]]
    ) -> Iterator[tuple[Metric, Labels, float]]:
        counted = Counter((self._instance(BREAKER_STATE, policy, part, key, shadow), state) for key, state in instances)
        for labels in dict.fromkeys(labels for labels, _ in counted):
            for state in BreakerState:
                yield BREAKER_STATE, (*labels, state.value), counted[labels, state.value]

    def _remember(self, event: StateChanged | WorkLeftBehind | LeftWorkEnded) -> None:
        shadow = _in_words(event.shadow)
        with self._lock:
            if isinstance(event, StateChanged):
                instances = self._states.setdefault((event.policy, event.part, shadow), {})
                instances.pop(event.key, None)
                while len(instances) >= _INSTANCES_MAX:
                    del instances[next(iter(instances))]
                instances[event.key] = event.after
            else:
                self._zombies[event.policy, shadow] = event.zombies
            while len(self._states) > _POLICIES_MAX:
                del self._states[next(iter(self._states))]
            while len(self._zombies) > _POLICIES_MAX:
                del self._zombies[next(iter(self._zombies))]

    def _find(self, metric: Metric, event: Event) -> Callable[[float], object]:
        record = self._series(metric, self._labels(metric, event))
        if len(self._found) < _FOUND_MAX:
            self._found[metric, self._facts[metric](event)] = record
        return record

    def _labels(self, metric: Metric, event: Event) -> Labels:
        values = []
        for name in self.labels[metric]:
            if name == "policy":
                values.append(self._policy(event.policy))
            elif name == "shadow":
                values.append(_in_words(event.shadow))
            elif name == "key":
                values.append(self._key(event.policy, event.part, event.key))
            else:
                values.append(self._bounded((name,), str(getattr(event, name)) or "none", _VALUES_MAX))
        return tuple(values)

    def _instance(self, metric: Metric, policy: str, part: str, key: str, shadow: str) -> Labels:
        """The labels of one instance of a part, but for its state."""
        policy_label, part_label = self._policy(policy), self._bounded(("part",), part, _VALUES_MAX)
        if "key" not in self.labels[metric]:
            return policy_label, shadow, part_label
        return policy_label, shadow, part_label, self._key(policy, part, key)

    def _policy(self, name: str) -> str:
        return self._bounded(("policy",), name, _POLICIES_MAX)

    def _key(self, policy: str, part: str, key: str) -> str:
        # A part without keys has the key "", which is no value.
        return key and self._bounded(("key", self._policy(policy), part), key, _VALUES_MAX)

    def _bounded(self, scope: Labels, value: str, most: int) -> str:
        known = self._known.get(scope)
        if known is not None and value in known:
            return value
        with self._lock:
            known = self._known.setdefault(scope, set())
            if value not in known and len(known) >= most:
                return _OTHER
            known.add(value)
            return value

    def _fail(self) -> None:
        with self._lock:
            self._failures += 1
            first = self._failures == 1
        if first:
            import logging  # noqa: PLC0415  only a broken exporter needs it

            log = logging.getLogger("hormesis.telemetry")
            log.warning("an instrument could not record a fact; further ones are counted only", exc_info=True)


class _Told:
    """What policies tell of their state, added up where several have one name."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str, str], list[tuple[str, str]]] = {}
        self.zombies: Counter[tuple[str, str]] = Counter()
        self.numbers: dict[str, dict[tuple[str, str, str, str], float]] = {name: {} for name in _GAUGES}

    def add(self, policy: str, snapshot: Mapping[str, Any]) -> None:
        shadow = _in_words(bool(snapshot.get("shadow", False)))
        self.zombies[policy, shadow] += snapshot.get("zombies", 0)
        for part, holds in snapshot["parts"].items():
            for key, held in holds["keys"].items() if "keys" in holds else [("", holds)]:
                if "state" in held:
                    self.states.setdefault((policy, part, shadow), []).append((key, held["state"]))
                for name, numbers in self.numbers.items():
                    if name in held:
                        instance = policy, part, key, shadow
                        numbers[instance] = numbers.get(instance, 0) + held[name]


def _label_names(metric: Metric, *, keys: bool) -> Labels:
    if metric is FAILURES:
        return ()
    return ("policy", "shadow", *(name for name in metric.labels if keys or name != "key"))


def _in_words(flag: bool) -> str:
    return "true" if flag else "false"
