"""Metrics for Prometheus, by `prometheus_client`.

    import hormesis as hm

    stop = hm.telemetry.prometheus.instrument(policies=[inventory])

Everything is one collector of the registry: it is there as a whole, or, when one is there already, not at all.
`hormesis.telemetry.measures` declares what is measured; dots become underscores here, and names end in their unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hormesis.errors import MissingExtraError
from hormesis.events import EventBus, bus
from hormesis.telemetry.measures import METRICS, Labels, Measures, Metric, Policies

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Histogram
    from prometheus_client import Metric as Family

__all__ = ["instrument"]


def instrument(
    registry: CollectorRegistry | None = None,
    *,
    policies: Policies = (),
    keys: bool = False,
    calls: bool = True,
    events: EventBus = bus,
) -> Callable[[], None]:
    """Count and time what policies do; returns a function that stops it, and may be called twice.

    Args:
        registry: Where the metrics go; None: the default registry.
        policies: Policies whose state is read at each scrape; without them gauges know only what events told.
        keys: Whether the key of a part that has an instance for each (host, tenant) is a label; bounded to a hundred.
        calls: Whether every call is counted and timed, which makes each a little dearer, or only what is out of the
            ordinary.
        events: The bus to listen to.

    Raises:
        MissingExtraError: `prometheus_client` is not installed.
        ValueError: The registry has these metrics already.

    >>> from prometheus_client import CollectorRegistry
    >>> from hormesis import Policy
    >>> registry = CollectorRegistry()
    >>> stop = instrument(registry)
    >>> Policy(name="stock").call(len, "tea")
    3
    >>> labels = {"policy": "stock", "shadow": "false", "ending": "success", "source": "function"}
    >>> registry.get_sample_value("hormesis_calls_total", labels)
    1.0
    >>> stop()
    """
    try:
        import prometheus_client  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("hormesis.telemetry.prometheus", "prometheus") from error
    registry = prometheus_client.REGISTRY if registry is None else registry
    collector = _Collector(policies, keys=keys)
    registry.register(collector)
    stop_listening = events.listen(collector.measures.take, calls=calls)
    running = [collector]

    def stop() -> None:
        stop_listening()
        while running:
            registry.unregister(running.pop())

    return stop


class _Collector:
    """All metrics of one instrumentation, as `prometheus_client` collects them."""

    def __init__(self, policies: Policies, *, keys: bool) -> None:
        from prometheus_client import Counter, Histogram  # noqa: PLC0415  the caller has made sure of it

        self.measures = Measures(self._series, policies=policies, keys=keys)
        self._fed: dict[Metric, Counter | Histogram] = {}
        for metric in METRICS:
            name, labels = _name(metric), self.measures.labels[metric]
            if metric.kind == "counter":
                self._fed[metric] = Counter(name, metric.about, labels, registry=None)
            elif metric.kind == "histogram":
                self._fed[metric] = Histogram(name, metric.about, labels, registry=None, buckets=metric.buckets)

    def describe(self) -> Iterable[Family]:
        """Name the metrics, so that a second instrumentation of one registry is refused."""
        for counted in self._fed.values():
            yield from counted.describe()
        yield from self._families().values()

    def collect(self) -> Iterable[Family]:
        """Return all values."""
        for counted in self._fed.values():
            yield from counted.collect()
        families = self._families()
        for metric, labels, value in self.measures.collect():
            families[metric].add_metric(labels, value)
        yield from families.values()

    def _series(self, metric: Metric, labels: Labels) -> Callable[[float], None]:
        from prometheus_client import Counter  # noqa: PLC0415

        counted = self._fed[metric].labels(*labels)
        return counted.inc if isinstance(counted, Counter) else counted.observe

    def _families(self) -> dict[Metric, Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        return {
            metric: (CounterMetricFamily if metric.kind == "total" else GaugeMetricFamily)(
                _name(metric), metric.about, labels=self.measures.labels[metric]
            )
            for metric in METRICS
            if metric not in self._fed
        }


def _name(metric: Metric) -> str:
    unit = "_seconds" if metric.unit == "s" else ""
    return f"hormesis_{metric.name.replace('.', '_')}{unit}"
