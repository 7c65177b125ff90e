"""Faults that are injected into the requests of HTTP clients look as the library's own."""

from __future__ import annotations

from typing import Any

import aiohttp
import httpx
import pytest
import requests

import hormesis as hm
from hormesis.chaos.inside import fault_header
from hormesis.patterns.injection import FAULT_HEADER, current_injections, in_force

from .conftest import answer

TOKEN = "a token of sixteen"

RAISES: dict[str, dict[str, Any]] = {
    "connect": {
        "httpx": httpx.ConnectError,
        "requests": requests.ConnectionError,
        "aiohttp": aiohttp.ClientConnectorError,
    },
    "timeout": {"httpx": httpx.ReadTimeout, "requests": requests.ReadTimeout, "aiohttp": aiohttp.ServerTimeoutError},
    "unavailable": {
        "httpx": httpx.ReadError,
        "requests": requests.ConnectionError,
        "aiohttp": aiohttp.ServerDisconnectedError,
    },
}


@pytest.fixture
def switch() -> hm.ChaosSwitch:
    return hm.ChaosSwitch(TOKEN, events=hm.events.EventBus())


def name_of(client: Any) -> str:
    return str(client.name).partition("-")[0]


@pytest.mark.parametrize("kind", RAISES)
def test_a_failure_is_what_the_library_raises(client_of: Any, switch: hm.ChaosSwitch, kind: str) -> None:
    """By its own class, of the kind that was injected; nothing is sent, and permits are back."""
    policy = hm.Policy(hm.Bulkhead(1), hm.Chaos(error=kind, switch=switch), name="stock")
    client = client_of(policy)
    with switch.enabled("1m"):
        for _ in range(2):
            with pytest.raises(RAISES[kind][name_of(client)]) as caught:
                client.request("GET", "http://127.0.0.1:9/")
            assert hm.classify(caught.value) == kind
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


@pytest.mark.parametrize(
    ("fault", "status"), [({"status": 503, "retry_after": "1500ms"}, 503), ({"error": "throttled"}, 429)]
)
def test_a_status_is_an_answer(client_of: Any, switch: hm.ChaosSwitch, fault: dict[str, Any], status: int) -> None:
    """The caller gets it as the library hands out answers; aiohttp, whose answers come from servers only, raises it."""
    client = client_of(hm.Policy(hm.Chaos(switch=switch, **fault), name="stock"))
    with switch.enabled("1m"):
        if name_of(client) == "aiohttp":
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                client.request("GET", "http://127.0.0.1:9/")
            assert caught.value.status == status
            return
        got = client.request("GET", "http://127.0.0.1:9/")
    headers = {name.lower(): value for name, value in got.headers.items()}
    assert (got.status, got.body) == (status, b"")
    assert headers.get("retry-after") == ("2" if "retry_after" in fault else None)


def test_a_retry_gets_over_it(client_of: Any, server: Any, switch: hm.ChaosSwitch) -> None:
    """The first two attempts fail, and the third reaches the server; labels choose whom it befalls."""
    faults = [hm.Injection(status=503, calls="1"), hm.Injection(error="connect", calls="2", where={"host": "127.*"})]
    retry = hm.Retry(on="transient", delay=0, attempts=4)
    client = client_of(hm.Policy(retry, hm.Chaos(*faults, switch=switch), name="stock"))
    path = server.path(answer())
    with switch.enabled("1m"):
        assert client.request("GET", server.urls[0] + path).body == b"fine"
    assert len(server.seen[path]) == 1


def test_the_signed_header_is_handed_on(client_of: Any, server: Any, switch: hm.ChaosSwitch) -> None:
    """To whom a policy calls that is a place for faults, while the switch is on, and to nobody else."""
    (text,) = fault_header({"status": 503}, token=TOKEN, at="elsewhere").values()
    faults = in_force((hm.Injection(status=503),), at="elsewhere", source="header", now=0.0, passed_on=text)
    place, other = client_of(hm.Policy(hm.Chaos(switch=switch), name="stock")), client_of(hm.Policy(name="stock"))
    path = server.path(answer())
    reset = current_injections.set(faults)
    try:
        place.request("GET", server.urls[0] + path)
        with switch.enabled("1m"):
            place.request("GET", server.urls[0] + path)
            other.request("GET", server.urls[0] + path)
    finally:
        current_injections.reset(reset)
    assert [seen.headers.get(FAULT_HEADER) for seen in server.seen[path]] == [None, text, None]
