"""What passes through the proxies, as Prometheus reads it.

`toxiproxy_proxy_received_bytes_total` and `toxiproxy_proxy_sent_bytes_total` are Toxiproxy's own, with its labels:
dashboards that exist go on. Between the two lies what a fault holds back, or has dropped. What begins with `hormesis_`
is ours.

It is the text format itself, some lines of it, and so needs no library: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from hormesis.chaos.toxiproxy.proxy import ToxicProxy
from hormesis.chaos.wire import FaultProxy

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format."""


_Samples = Iterable[tuple[dict[str, str], int]]
"""Labels besides those of the proxy, and a value for each."""


class _Family(NamedTuple):
    """A metric: its name, its type, what it says, and its samples for a proxy."""

    name: str
    kind: str
    about: str
    samples: Callable[[FaultProxy, ToxicProxy], _Samples]


def _by_direction(upstream: int, downstream: int) -> _Samples:
    return ({"direction": "upstream"}, upstream), ({"direction": "downstream"}, downstream)


def _struck(wire: FaultProxy, proxy: ToxicProxy) -> _Samples:
    for name, toxic in proxy.toxics.items():
        yield {"toxic": name, "type": toxic.type}, wire.affected_by(name)


_FAMILIES = (
    _Family(
        "toxiproxy_proxy_received_bytes_total",
        "counter",
        "Bytes taken from the side that sends.",
        lambda wire, _: _by_direction(wire.received_up, wire.received_down),
    ),
    _Family(
        "toxiproxy_proxy_sent_bytes_total",
        "counter",
        "Bytes passed on to the side that receives.",
        lambda wire, _: _by_direction(wire.sent_up, wire.sent_down),
    ),
    _Family(
        "hormesis_proxy_connections_total",
        "counter",
        "Connections accepted.",
        lambda wire, _: [({}, wire.connections)],
    ),
    _Family(
        "hormesis_proxy_connections_open", "gauge", "Connections that are open.", lambda wire, _: [({}, wire.active)]
    ),
    _Family(
        "hormesis_proxy_struck_total",
        "counter",
        "Connections that a toxic has struck since it was added; requests, where it picks requests.",
        _struck,
    ),
    _Family("hormesis_proxy_enabled", "gauge", "Whether it is up.", lambda _, proxy: [({}, proxy.settings.enabled)]),
)


def exposition(proxies: Iterable[ToxicProxy]) -> str:
    """Return what there is to tell of some proxies; one that was never enabled has nothing to tell."""
    told = [(proxy, proxy.wire) for proxy in proxies if proxy.wire is not None]
    lines = []
    for family in _FAMILIES:
        lines += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} {family.kind}"]
        for proxy, wire in told:
            its = proxy.settings
            shared = {"listener": its.listen, "proxy": its.name, "upstream": its.upstream}
            for labels, value in family.samples(wire, proxy):
                text = ",".join(f'{name}="{_escaped(label)}"' for name, label in {**labels, **shared}.items())
                lines.append(f"{family.name}{{{text}}} {value:d}")
    return "\n".join([*lines, ""])


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
