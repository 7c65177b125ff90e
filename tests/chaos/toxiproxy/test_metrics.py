"""What a scrape sees: Toxiproxy's counters with its labels, and ours."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families
from tests.chaos.toxiproxy.world import PATIENCE, Api, dial, exchange


def samples(api: Api) -> dict[tuple[str, str, str], float]:
    """Every sample, by its name, proxy and direction or toxic, as Prometheus's own parser reads it."""
    answer = api.ask("GET", "/metrics")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (
            sample.name,
            sample.labels["proxy"],
            sample.labels.get("direction", sample.labels.get("toxic", "")),
        ): sample.value
        for family in text_string_to_metric_families(answer.body)
        for sample in family.samples
    }


def test_bytes_and_connections(api: Api, echo: str) -> None:
    """Bytes are counted in both directions, received and sent apart: between the two is what a fault holds."""
    made = api.create("redis", echo)
    with dial(made["listen"]) as caller:
        exchange(caller, b"12345")
        api.ask("POST", "/proxies/redis/toxics", {"type": "black_hole", "stream": "downstream"})
        caller.sendall(b"678")
        give_up = time.monotonic() + PATIENCE
        while (found := samples(api))["toxiproxy_proxy_sent_bytes_total", "redis", "upstream"] < 8:
            assert time.monotonic() < give_up
        assert found["toxiproxy_proxy_received_bytes_total", "redis", "upstream"] == 8
        assert found["toxiproxy_proxy_sent_bytes_total", "redis", "downstream"] == 5
        assert found["hormesis_proxy_connections_total", "redis", ""] == 1
        assert found["hormesis_proxy_connections_open", "redis", ""] == 1
        assert found["hormesis_proxy_struck_total", "redis", "black_hole_downstream"] == 1
        assert found["hormesis_proxy_enabled", "redis", ""] == 1


def test_labels(api: Api, echo: str) -> None:
    """A proxy is told by its name, where it listens and what it stands before; any name comes through whole."""
    name = 'a"b\\c'
    made = api.create(name, echo)
    api.create("never", echo, enabled=False)
    families = list(text_string_to_metric_families(api.ask("GET", "/metrics").body))
    labels = [sample.labels for family in families for sample in family.samples]
    assert {"proxy": name, "listener": made["listen"], "upstream": echo, "direction": "upstream"} in labels
    assert {each["proxy"] for each in labels} == {name}


def test_without_proxies(api: Api) -> None:
    """Without proxies the metrics are declared, and have no samples."""
    assert samples(api) == {}
