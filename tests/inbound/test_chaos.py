"""Faults before an application, ASGI and WSGI alike: what clients get, what other stops see, and who may ask for it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

import hormesis as hm
from hormesis.chaos.inside import fault_header
from hormesis.core.signed import sign
from hormesis.inbound.injecting import InjectASGI, InjectWSGI
from hormesis.inbound.service import Service
from hormesis.patterns.injection import FAULT_HEADER
from hormesis.testing import hear, run_virtual

TOKEN = "a token of sixteen"
TRUSTED = "10.0.0.1"


@pytest.fixture
def switch() -> hm.ChaosSwitch:
    return hm.ChaosSwitch(TOKEN, events=hm.events.EventBus())


def tea() -> list[bytes]:
    return [b"tea"]


def service_of(switch: hm.ChaosSwitch, *injections: hm.Injection, parts: Any = (), **settings: Any) -> Service:
    chaos = hm.Chaos(*injections, switch=switch, envoy=settings.pop("envoy", False))
    return Service(chaos, *parts, name="shop", trusted=(TRUSTED,), **settings)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ({"status": 503}, 503),
        ({"status": 418}, 418),
        ({"status": "NOT_FOUND"}, 400),
        ({"error": "connect"}, 503),
        ({"error": "timeout"}, 504),
        ({"error": "throttled"}, 429),
        ({"error": "error"}, 500),
    ],
)
def test_an_answer_in_the_place_of_the_applications(
    door: Any, switch: hm.ChaosSwitch, fault: dict[str, Any], status: int
) -> None:
    """Statuses, and those that stand for failure kinds, as problems in JSON that say what they are."""
    shop = door(tea, service_of(switch, hm.Injection(**fault)))
    assert shop.ask().status == 200
    with switch.enabled("1m"):
        got = shop.ask()
        head = shop.ask(method="HEAD")
    assert (got.status, got.problem["status"], got.problem["title"]) == (status, status, "injected by chaos")
    assert "x-request-id" in got.headers
    assert (head.status, head.body) == (status, b"")


def test_retry_after_and_results(door: Any, switch: hm.ChaosSwitch) -> None:
    """A status may ask to come back later; a result is the body, as JSON."""
    sold_out = hm.Injection(result={"tea": 0}, where={"path": "/stock"})
    shop = door(tea, service_of(switch, sold_out, hm.Injection(status=503, retry_after="1.5s")))
    with switch.enabled("1m"):
        assert shop.ask("/").headers["retry-after"] == "2"
        got = shop.ask("/stock")
    assert (got.status, json.loads(got.body), got.headers["content-type"]) == (200, {"tea": 0}, "application/json")


def test_exceptions_are_the_applications_own(door: Any, switch: hm.ChaosSwitch) -> None:
    """They are raised where the application would have: ours are answered, others are the server's business."""
    policy = hm.Injection(error=lambda: hm.CircuitOpen("payments", "open"), calls="1")
    shop = door(tea, service_of(switch, policy, hm.Injection(error=KeyError, calls="2")))
    with switch.enabled("1m"):
        assert shop.ask().status == 503
        assert isinstance(shop.ask().error, KeyError)


def test_routes_clients_and_classes(door: Any, switch: hm.ChaosSwitch) -> None:
    """Which requests, by what is known of them once they are identified."""
    where = {"path": "/pay*", "method": "POST", "tenant": "acme", "criticality": "critical"}
    rule = hm.Rule("/payments", tenant="acme", criticality="critical")
    shop = door(tea, service_of(switch, hm.Injection(status=503, where=where), parts=(rule,)))
    with switch.enabled("1m"):
        assert [shop.ask("/payments", method=method).status for method in ("POST", "GET")] == [503, 200]
        assert shop.ask("/pay", method="POST").status == 200


def test_the_other_stops_meet_it_as_real(door: Any, switch: hm.ChaosSwitch) -> None:
    """Permits are back, and whoever counts requests counts failures; what a stop refuses meets with nothing."""
    shedder, limit = hm.LoadShedder(limit=1), hm.RateLimit("2/d")
    service = service_of(switch, hm.Injection(status=500), parts=(shedder, limit))
    shop = door(tea, service)
    with switch.enabled("1m"), hear(hm.events.bus, calls=True) as heard:
        assert [shop.ask().status for _ in range(3)] == [500, 500, 429]
    assert service.snapshot()["in_flight"] == 0
    assert [event.ending for event in heard.of("call_ended", policy="shop")] == ["failure", "failure", "rejected"]  # type: ignore[attr-defined]
    heard.assert_happened("chaos_injected", times=2, policy="shop", part="chaos")
    assert service.snapshot()["parts"]["chaos"]["injected"] == {"status": 2}


def test_a_shadow_only_tells(door: Any, switch: hm.ChaosSwitch) -> None:
    """It says what a request would have met with."""
    shop = door(tea, service_of(switch, hm.Injection(status=500), shadow=True))
    with switch.enabled("1m"), hear(hm.events.bus) as heard:
        assert shop.ask().status == 200
    heard.assert_happened("chaos_injected", times=1, shadow=True)


def test_a_deadline_cuts_latency_short(door: Any, switch: hm.ChaosSwitch) -> None:
    """Nobody waits for an answer that is of no use any more."""
    shop = door(tea, service_of(switch, hm.Injection(latency="1m"), deadline="100ms"))
    began = time.monotonic()
    with switch.enabled("1m"):
        assert shop.ask().status == 504
    assert time.monotonic() - began < 5


# Headers.


def test_a_signed_header_brings_faults(door: Any, switch: hm.ChaosSwitch) -> None:
    """To its own request alone, while the switch is on; also to policies further in, where it is for them."""
    policy = hm.Policy(hm.Chaos(switch=switch), name="payments")

    def pay() -> list[bytes]:
        return [policy.call(lambda: b"paid")]

    shop = door(pay, service_of(switch))
    here = list(fault_header({"status": 503}, token=TOKEN, at="shop").items())
    there = list(fault_header({"error": "connect"}, token=TOKEN, at="payments").items())
    assert shop.ask(headers=here).status == 200
    with switch.enabled("1m"):
        assert shop.ask(headers=here).status == 503
        assert shop.ask().body == b"paid"
        assert isinstance(shop.ask(headers=there).error, ConnectionRefusedError)
        assert shop.ask().body == b"paid"


def test_what_is_not_heeded_is_counted(door: Any, switch: hm.ChaosSwitch) -> None:
    """Forged, stale, malformed and meaningless ones are as good as none, and counted by the reason."""
    service = service_of(switch)
    shop = door(tea, service)
    (good,) = fault_header({"status": 503}, token=TOKEN).values()
    stale = sign(TOKEN, FAULT_HEADER, {"faults": [{"status": 503}]}, expires=time.time() - 1, number="1")
    wrong = [
        sign(TOKEN, FAULT_HEADER, said, expires=time.time() + 60, number="1")
        for said in ({"faults": [{"stauts": 503}]}, {"faults": {}}, {"faults": []}, {}, {"faults": [{}] * 100})
    ]
    (other,) = fault_header({"status": 503}, token="another token of 16").values()
    with switch.enabled("1m"):
        for text in (good[:-2] + "xx", stale, other, "x" * 10_000, "", *wrong):
            assert shop.ask(headers=[(FAULT_HEADER, text)]).status == 200, text
        assert shop.ask(headers=[(FAULT_HEADER, good)]).status == 503
    ignored = service.snapshot()["parts"]["chaos"]["headers_ignored"]
    assert ignored == {"forged": 2, "stale": 1, "malformed": 7}


def test_envoys_headers(door: Any, switch: hm.ChaosSwitch) -> None:
    """Of hops that are trusted, where that is set; a percentage makes it some of the requests."""
    shop = door(tea, service_of(switch, envoy=True))
    deaf = door(tea, service_of(switch))
    abort = [("x-envoy-fault-abort-request", "504")]
    with switch.enabled("1m"):
        assert shop.ask(headers=abort, peer=TRUSTED).status == 504
        assert shop.ask(headers=abort).status == 200
        assert deaf.ask(headers=abort, peer=TRUSTED).status == 200
        assert shop.ask(headers=[("x-envoy-fault-abort-grpc-request", "14")], peer=TRUSTED).status == 503
        half = [*abort, ("x-envoy-fault-abort-request-percentage", "50")]
        some = [shop.ask(headers=half, peer=TRUSTED).status for _ in range(200)]
        assert 70 < some.count(504) < 130
        for none in ("x", "-1", "999", ""):
            assert shop.ask(headers=[("x-envoy-fault-abort-request", none)], peer=TRUSTED).status == 200
        began = time.monotonic()
        assert shop.ask(headers=[("x-envoy-fault-delay-request", "60")], peer=TRUSTED).status == 200
        assert time.monotonic() - began >= 0.06


# By itself.


@pytest.fixture(params=["asgi", "wsgi"])
def alone(request: pytest.FixtureRequest, switch: hm.ChaosSwitch) -> Any:
    """Ask an application that has nothing but a place for faults before it."""
    chaos = hm.Chaos(hm.Injection(status=503, where={"path": "/pay*"}), switch=switch)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"tea"})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"tea"]

    asgi, wsgi = InjectASGI(app, chaos, name="alone"), InjectWSGI(wsgi_app, chaos, name="alone")

    async def ask_asgi(path: str, headers: dict[str, str]) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://shop") as client:
            return await client.get(path, headers=headers)

    def ask(path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        if request.param == "asgi":
            return asyncio.run(ask_asgi(path, headers or {}))
        with httpx.Client(transport=httpx.WSGITransport(wsgi), base_url="http://shop") as client:
            return client.get(path, headers=headers)

    return ask


def test_a_place_by_itself(alone: Any, switch: hm.ChaosSwitch) -> None:
    """It does the same without a service."""
    header = fault_header({"status": 418}, token=TOKEN, at="alone")
    assert [alone(path).status_code for path in ("/", "/pay")] == [200, 200]
    with switch.enabled("1m"):
        assert [alone(path).status_code for path in ("/", "/pay")] == [200, 503]
        assert alone("/", header).status_code == 418
        switch.dose(hm.Injection(result=3), at="alone", for_="1m")
        assert alone("/").json() == 3


def test_a_websocket_is_closed() -> None:
    """What would be a status is a close before the handshake."""
    switch = hm.ChaosSwitch(TOKEN)
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called")

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    place = InjectASGI(app, hm.Chaos(status=503, switch=switch), name="shop")
    with switch.enabled("1m"):
        run_virtual(place({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1013)]


# Settings.


def test_in_a_file(tmp_path: Any) -> None:
    """`[service]` has the same table, explain tells where it stands, and other settings keep the rest."""
    path = tmp_path / "policies.toml"
    path.write_text(
        '[service]\nname = "shop"\nchaos = { injections = [{ status = 503, share = 0.1 }], share_max = 0.1 }\n'
    )
    service = Service.of_file(hm.load(path))
    assert repr(service) == "<Service 'shop': chaos>"
    text = service.explain()
    assert "chaos: off; nothing is injected until it is switched on (status 503 on 10 % of calls" in text
    assert text.index("chaos") > text.index("identify")
    service.reconfigure(hm.Chaos(share_max=0.5))
    assert service.settings.chaos == hm.Chaos(share_max=0.5)
    assert "shop" in hm.chaos_switch.places()


@pytest.mark.parametrize("chaos", [None, {}, "chaos", hm.Chaos])
def test_what_is_no_chaos(chaos: Any) -> None:
    """It is refused by name."""
    with pytest.raises(hm.ConfigurationError, match=r"it takes a Chaos\(\.\.\.\)"):
        InjectASGI(lambda: None, chaos)  # type: ignore[arg-type, return-value]
