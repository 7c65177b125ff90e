"""Metrics and span events for OpenTelemetry, by its API alone: which SDK exports them is the application's business.

    import hormesis as hm

    stop = hm.telemetry.opentelemetry.instrument(policies=[inventory])

An event becomes a span event of the span that is current where it happens, so a trace shows why a call took as long
as it did. Attributes and metrics are named `hormesis.…`. OpenTelemetry keeps an instrument for as long as its
provider, so what is observed asks each time who listens now; that makes stopping, and starting again, work.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hormesis.errors import MissingExtraError
from hormesis.events import Event, EventBus, bus
from hormesis.telemetry.measures import METRICS, Labels, Measures, Metric, Policies
from hormesis.version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["instrument"]


def instrument(
    meter_provider: MeterProvider | None = None,
    *,
    policies: Policies = (),
    spans: bool = True,
    keys: bool = False,
    calls: bool = True,
    events: EventBus = bus,
) -> Callable[[], None]:
    """Measure what policies do, and add it to the current span; returns a function that stops it, callable twice.

    Args:
        meter_provider: Where the metrics go; None: the global provider.
        policies: Policies whose state is read at each collection; without them gauges know only what events told.
        spans: Whether events are added to the current span while it records.
        keys: Whether the key of a part that has an instance for each (host, tenant) is an attribute of metrics; bounded
            to a hundred. Span events always have it.
        calls: Whether every call is counted and timed, which makes each a little dearer, or only what is out of the
            ordinary.
        events: The bus to listen to.

    Raises:
        MissingExtraError: `opentelemetry-api` is not installed.

    >>> stop = instrument()
    >>> stop()
    """
    try:
        from opentelemetry import metrics, trace  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("hormesis.telemetry.opentelemetry", "opentelemetry") from error
    provider = metrics.get_meter_provider() if meter_provider is None else meter_provider
    instruments = _by_provider.get(provider)
    if instruments is None:
        instruments = _by_provider.setdefault(provider, _Instruments(provider))

    def series(metric: Metric, labels: Labels) -> Callable[[float], None]:
        return functools.partial(instruments.fed[metric], attributes=_attributes(measures.labels[metric], labels))

    def add_to_span(event: Event) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(f"hormesis.{event.name}", _facts(event))

    measures = Measures(series, policies=policies, keys=keys, also=add_to_span if spans else None)
    instruments.observed = (*instruments.observed, _Observed(measures))
    stop_listening = events.listen(measures.take, calls=calls)

    def stop() -> None:
        stop_listening()
        instruments.observed = tuple(each for each in instruments.observed if each.measures is not measures)

    return stop


class _Observed:
    """The state that one instrumentation observes, read once for all metrics that a collection asks for."""

    def __init__(self, measures: Measures) -> None:
        self.measures = measures
        self._values: list[tuple[Metric, Labels, float]] = []
        self._asked: set[Metric] | None = None

    def values(self, metric: Metric) -> Iterator[tuple[float, dict[str, str]]]:
        """The values of one metric; whoever asks for it a second time begins another collection."""
        if self._asked is None or metric in self._asked:
            self._asked, self._values = set(), list(self.measures.collect())
        self._asked.add(metric)
        names = self.measures.labels[metric]
        return ((value, _attributes(names, labels)) for of, labels, value in self._values if of is metric)


class _Instruments:
    """The instruments of one provider, and whose state they observe."""

    def __init__(self, provider: MeterProvider) -> None:
        self.observed: tuple[_Observed, ...] = ()
        meter = provider.get_meter("hormesis", __version__)
        self.fed: dict[Metric, Callable[..., None]] = {}
        for metric in METRICS:
            name, unit, about = f"hormesis.{metric.name}", metric.unit, metric.about
            if metric.kind == "counter":
                self.fed[metric] = meter.create_counter(name, unit, about).add
            elif metric.kind == "histogram":
                buckets = list(metric.buckets)
                histogram = meter.create_histogram(name, unit, about, explicit_bucket_boundaries_advisory=buckets)
                self.fed[metric] = histogram.record
            else:
                create = meter.create_observable_counter if metric.kind == "total" else meter.create_observable_gauge
                create(name, [functools.partial(self._observe, metric)], unit, about)

    def _observe(self, metric: Metric, _: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415

        return [Observation(value, labels) for each in self.observed for value, labels in each.values(metric)]


_by_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def _attributes(names: Labels, values: Labels) -> dict[str, str]:
    return {f"hormesis.{name}": value for name, value in zip(names, values, strict=True)}


def _facts(event: Event) -> dict[str, Any]:
    facts = event.as_dict()
    del facts["event"], facts["at"]  # the span event has a name and a time
    return {f"hormesis.{name}": fact for name, fact in facts.items() if fact is not None}
