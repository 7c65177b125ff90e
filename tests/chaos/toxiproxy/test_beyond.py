"""What the API has beyond Toxiproxy's: faults that read HTTP, TLS that ends at the proxy, whom and when."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chaos.toxiproxy.world import PATIENCE, Api, Site, dial, exchange, hangs_up, round_trip

from hormesis.chaos.toxiproxy import Proxies


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a web service."""
    with Site() as site:
        yield site.address


def get(listen: str, path: str, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    host, _, port = listen.rpartition(":")
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
    else:
        connection = http.client.HTTPSConnection("localhost", int(port), timeout=PATIENCE, context=context)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_an_answer_by_route(api: Api, site: str) -> None:
    """Requests of one route are answered by the proxy, so many of them, and all others pass."""
    listen = api.create("shop", site)["listen"]
    attributes = {"status": 503, "body": "not now", "route": "GET /orders/{id}", "requests": "1-2"}
    assert api.ask("POST", "/proxies/shop/toxics", {"type": "status", "attributes": attributes}).status == 200
    assert get(listen, "/") == (200, b"fine")
    assert [get(listen, "/orders/7") for _ in range(3)] == [(503, b"not now"), (503, b"not now"), (200, b"fine")]


def test_tls_that_ends_here(api: Api, site: str, tmp_path: Path) -> None:
    """With TLS ended at the proxy, faults read what is inside; clients trust the CA that the API shows."""
    made = api.create("shop", site, tls={"upstream": "plain"})
    assert made["tls"] == {"upstream": "plain"}
    context = ssl.create_default_context(cadata=api.ask("GET", "/ca.pem").body)
    assert get(made["listen"], "/", context) == (200, b"fine")
    body = {"type": "status", "attributes": {"status": 500, "route": "/orders"}}
    api.ask("POST", "/proxies/shop/toxics", body)
    assert get(made["listen"], "/orders", context)[0] == 500
    assert get(made["listen"], "/", context) == (200, b"fine")


def test_tls_on_and_off(api: Api, site: str) -> None:
    """TLS is one of the things that an update changes, and leaves alone where it does not give it."""
    made = api.create("shop", site, tls={"upstream": "plain"})
    assert api.ask("PATCH", "/proxies/shop", {"enabled": True}).body == made
    off = api.ask("PATCH", "/proxies/shop", {"tls": False}).body
    assert "tls" not in off
    assert get(off["listen"], "/") == (200, b"fine")
    assert api.ask("PATCH", "/proxies/shop", {"tls": True}).body["tls"] == {}


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (3, "tls is 3; it takes an object"),
        ({"nmae": "x"}, "unknown key of tls 'nmae' (did you mean 'name'?)"),
        ({"name": 3}, "name is 3; it takes a text"),
        ({"upstream": "maybe"}, "tls: upstream is 'maybe'; it takes one of 'verify', 'unverified', 'plain'"),
        ({"upstream_ca": "/no/such.pem"}, "tls: upstream_ca is '/no/such.pem'; it takes a file of certificates"),
    ],
    ids=str,
)
def test_tls_that_cannot_be_meant(api: Api, site: str, tls: object, message: str) -> None:
    """What can't be meant of TLS makes no proxy."""
    answer = api.ask("POST", "/proxies", {"name": "shop", "upstream": site, "tls": tls})
    assert answer.status == 400
    assert answer.body["error"].startswith(f"bad request body: {message}")
    assert api.ask("GET", "/proxies").body == {}


def test_a_ca_that_is_kept(tmp_path: Path) -> None:
    """A CA in a folder is the same for the next server, so clients need to be told once."""
    first, second = (Proxies(ca=tmp_path / "ca").authority.pem() for _ in range(2))
    assert first == second
    assert Proxies().authority.pem() != first


def test_one_client_alone(api: Api, echo: str) -> None:
    """A toxic may be for one client: others feel nothing."""
    listen = api.create("redis", echo)["listen"]
    with dial(listen) as ours, dial(listen) as other:
        host, port = ours.getsockname()
        body = {"type": "latency", "attributes": {"latency": 80, "client": f"{host}:{port}"}}
        api.ask("POST", "/proxies/redis/toxics", body)
        assert exchange(other) < 0.08 <= exchange(ours)


def test_a_window(api: Api, echo: str) -> None:
    """A toxic may begin and end by itself."""
    listen = api.create("redis", echo)["listen"]
    body = {"type": "black_hole", "attributes": {"after": 0.1, "until": "250ms"}}
    began = time.monotonic()
    api.ask("POST", "/proxies/redis/toxics", body)
    with dial(listen) as caller:
        exchange(caller)
        time.sleep(max(0, began + 0.13 - time.monotonic()))
        exchange(caller)
        assert 0.24 <= time.monotonic() - began < 1


def test_a_rising_toxicity_keeps_whom_it_struck(api: Api, echo: str) -> None:
    """With a higher toxicity live connections that were struck still are; nobody's luck is drawn again."""
    listen = api.create("redis", echo)["listen"]
    callers = [dial(listen) for _ in range(16)]
    try:
        body = {"type": "latency", "toxicity": 0.4, "attributes": {"latency": 30}}
        api.ask("POST", "/proxies/redis/toxics", body)

        def struck() -> set[int]:
            # Asked twice, because on a busy host an exchange is late by itself now and then.
            return {number for number, caller in enumerate(callers) if exchange(caller) >= 0.03 <= exchange(caller)}

        few = struck()
        assert 0 < len(few) < 16
        api.ask("POST", "/proxies/redis/toxics/latency_downstream", {"toxicity": 0.8})
        more = struck()
        assert few < more
        api.ask("POST", "/proxies/redis/toxics/latency_downstream", {"toxicity": 0.4})
        assert struck() == few
    finally:
        for caller in callers:
            caller.close()


def test_an_upstream_that_is_a_socket_file(api: Api, tmp_path: Path) -> None:
    """An upstream may be a Unix socket."""
    path = str(tmp_path / "service.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        made = api.create("redis", path)
        with dial(made["listen"]) as caller, listener.accept()[0] as service:
            service.sendall(b"hello")
            assert caller.recv(10) == b"hello"


def test_an_upstream_that_is_not_there_yet(api: Api, echo: str) -> None:
    """A proxy may stand before a name that nobody knows yet: connections end, until it has an address."""
    listen = api.create("redis", "not-yet.invalid:6379")["listen"]
    assert hangs_up(listen)
    api.ask("PATCH", "/proxies/redis", {"upstream": echo})
    round_trip(listen)
