"""What only one of the HTTP clients has: its settings, its exceptions, its own ways to repeat and to wrap a body."""

from __future__ import annotations

import asyncio
import gzip
import io
import subprocess
import sys
import threading
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from aiohttp.client_reqrep import ConnectionKey

import hormesis as hm
from hormesis.outbound.aiohttp import policy_middleware
from hormesis.outbound.http import host_label
from hormesis.outbound.httpx import AsyncPolicyTransport, PolicyTransport
from hormesis.outbound.requests import PolicyAdapter
from hormesis.patterns.cache import StaleCache

from .conftest import Aiohttp, Httpx, Requests, Server, after, answer, reset, trickle

RETRY = hm.Retry(on="transient", delay=0)


# What is refused when it is made.


@pytest.mark.parametrize("make", [PolicyTransport, AsyncPolicyTransport, PolicyAdapter, policy_middleware])
def test_what_is_no_policy(make: Any) -> None:
    """Anything but a policy is refused, with what would do."""
    with pytest.raises(hm.ConfigurationError, match=r"policy is 'shop'; it takes a hormesis\.Policy"):
        make("shop")


@pytest.mark.parametrize("make", [PolicyTransport, PolicyAdapter])
def test_a_policy_that_cannot_protect_threads(make: Any) -> None:
    """A timeout that could not hold, and workers that can't have the connections, are refused."""
    with pytest.raises(hm.ConfigurationError, match="a thread can't be interrupted"):
        make(hm.Policy(hm.Timeout(1)))
    with pytest.raises(hm.ConfigurationError, match="'threads' around an HTTP client: connections stay"):
        make(hm.Policy(hm.Bulkhead(1, workers="processes")))


@pytest.mark.parametrize("make", [PolicyTransport, AsyncPolicyTransport, PolicyAdapter, policy_middleware])
@pytest.mark.parametrize(
    "part", [hm.Hedge("1s", threads=2), hm.Fallback(cache=StaleCache(fresh="1s", stale="2s"))], ids=["hedge", "cache"]
)
def test_parts_that_have_no_effect(make: Any, part: Any) -> None:
    """What an open call can't have is refused, with the place where it works."""
    with pytest.raises(hm.ConfigurationError, match=r"has no effect around an HTTP client.* around the function"):
        make(hm.Policy(part))


def test_what_is_no_transport() -> None:
    """A transport of the other colour is refused."""
    policy = hm.Policy(RETRY)
    with pytest.raises(hm.ConfigurationError, match=r"transport is .*; it takes an httpx\.BaseTransport"):
        PolicyTransport(policy, httpx.AsyncHTTPTransport())  # type: ignore[arg-type]
    with pytest.raises(hm.ConfigurationError, match=r"transport is .*; it takes an httpx\.AsyncBaseTransport"):
        AsyncPolicyTransport(policy, httpx.HTTPTransport())  # type: ignore[arg-type]


def test_options_that_the_policy_replaces() -> None:
    """Retries of urllib3, and a pool that blocks for as long as it likes, are refused; other options are handed on."""
    policy = hm.Policy(RETRY)
    with pytest.raises(hm.ConfigurationError, match="max_retries is 3; it takes nothing here: use a Retry"):
        PolicyAdapter(policy, max_retries=3)
    with pytest.raises(hm.ConfigurationError, match="pool_block is True; it takes nothing here: use a Bulkhead"):
        PolicyAdapter(policy, pool_block=True)
    PolicyAdapter(policy, pool_maxsize=3).close()


@pytest.mark.parametrize("library", ["httpx", "requests", "aiohttp"])
def test_a_library_that_is_missing(library: str) -> None:
    """Who lacks the library is told which extra brings it."""
    code = f"import sys; sys.modules[{library!r}] = None; import hormesis.outbound.{library}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"needs the extra '{library}': pip install 'hormesis[{library}]'" in ended.stderr


def test_nothing_is_imported_unasked() -> None:
    """Importing hormesis imports none of the libraries."""
    code = "import hormesis, sys; print({'httpx', 'requests', 'urllib3', 'aiohttp'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "set()"


# Kinds of failures.

_KEY = ConnectionKey("stock", 80, False, True, None, None, None)
_POOL: Any = urllib3.HTTPConnectionPool("stock")


def _response(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectTimeout(), "connect"),
        (requests.ReadTimeout(), "timeout"),
        (requests.Timeout(), "timeout"),
        (requests.ConnectionError(), "unavailable"),
        (requests.ConnectionError("odd"), "unavailable"),
        (requests.ConnectionError(urllib3.exceptions.ProtocolError("gone")), "unavailable"),
        (requests.ConnectionError(ConnectionResetError()), "unavailable"),
        (requests.ConnectionError(urllib3.exceptions.ReadTimeoutError(_POOL, "/", "late")), "timeout"),
        (
            requests.ConnectionError(
                urllib3.exceptions.MaxRetryError(_POOL, "/", urllib3.exceptions.NewConnectionError(_POOL, "refused"))
            ),
            "connect",
        ),
        (requests.ConnectionError(urllib3.exceptions.MaxRetryError(_POOL, "/")), "unavailable"),
        (requests.exceptions.ProxyError(), "unavailable"),
        (requests.exceptions.SSLError(), "connect"),
        (requests.exceptions.ChunkedEncodingError(), "unavailable"),
        (requests.exceptions.InvalidURL(), "invalid"),
        (requests.exceptions.MissingSchema(), "invalid"),
        (requests.TooManyRedirects(), "error"),
        (requests.HTTPError(response=_response(503)), "unavailable"),
        (requests.HTTPError(response=_response(404)), "invalid"),
        (requests.HTTPError(), "error"),
        (urllib3.exceptions.EmptyPoolError(_POOL, "full"), "rejected"),
        (urllib3.exceptions.IncompleteRead(1, 2), "unavailable"),
        (aiohttp.ClientConnectorError(_KEY, OSError(111, "refused")), "connect"),
        (aiohttp.ConnectionTimeoutError(), "connect"),
        (aiohttp.ServerTimeoutError(), "timeout"),
        (aiohttp.SocketTimeoutError(), "timeout"),
        (aiohttp.ServerDisconnectedError(), "unavailable"),
        (aiohttp.ClientOSError(104, "reset"), "unavailable"),
        (aiohttp.ClientPayloadError(), "unavailable"),
        (aiohttp.InvalidURL("x"), "invalid"),
        (aiohttp.NonHttpUrlClientError("x"), "invalid"),
        (aiohttp.ClientResponseError(None, (), status=429), "throttled"),  # type: ignore[arg-type]
        (aiohttp.ClientResponseError(None, (), status=404), "invalid"),  # type: ignore[arg-type]
        (aiohttp.ClientResponseError(None, (), status=0), "error"),  # type: ignore[arg-type]
    ],
    ids=repr,
)
def test_kinds_of_failure(error: Exception, kind: str) -> None:
    """The exceptions of the libraries are the failures that they stand for."""
    assert hm.classify(error) == kind


# httpx.


def test_closing_closes_what_sends() -> None:
    """Closing a client closes the transport that really sends, and entering enters it."""
    happened: list[str] = []

    class Inner(httpx.BaseTransport):
        def __enter__(self) -> Any:
            happened.append("entered")
            return self

        def close(self) -> None:
            happened.append("closed")

    with httpx.Client(transport=PolicyTransport(hm.Policy(RETRY), Inner())):
        assert happened == ["entered"]
    assert happened == ["entered", "closed"]


def test_a_redirect_is_a_call_of_its_own(server: Server) -> None:
    """After a redirect the time is told anew, and not what was left before it."""
    there = server.path(answer(200, b"there"))
    here = server.path(answer(302, location=there))
    client = Httpx(hm.Policy(hm.Deadline("2s"), hm.CircuitBreaker()))
    client.client.follow_redirects = True
    assert client.request("GET", server.urls[0] + here).body == b"there"
    with hm.deadline("1s"):
        client.request("GET", server.urls[0] + here)
    times = [float(server.seen[path][n].headers["hormesis-timeout-ms"]) for n in (0, 1) for path in (here, there)]
    assert times[0] > 1000 < times[1] <= 2000
    assert 0 < times[3] < times[2] <= 1000
    client.close()


@pytest.mark.parametrize(("seekable", "times"), [(True, 2), (False, 1)])
def test_a_form_with_a_file(server: Server, seekable: bool, times: int) -> None:
    """A form is sent again if all of its files can be read again."""

    class File(io.BytesIO):
        def seekable(self) -> bool:
            return seekable

    path = server.path(answer(503), answer(200))
    client = Httpx(hm.Policy(RETRY))
    client.client.put(server.urls[0] + path, data={"a": "b"}, files={"file": File(b"content")})
    bodies = [seen.body for seen in server.seen[path]]
    assert len(bodies) == times
    assert len(set(bodies)) == 1
    assert b"content" in bodies[0]
    client.close()


# requests.


@pytest.mark.parametrize("timeout", [5, (5, 5), urllib3.Timeout(connect=5, read=5), urllib3.Timeout(total=5), None])
def test_every_form_of_timeout_is_cut(server: Server, timeout: Any) -> None:
    """However a timeout is given, the policy's holds."""
    client = Requests(hm.Policy(hm.Timeout("100ms", cooperative=True)))
    with pytest.raises(hm.TimedOut):
        client.request("GET", server.urls[0] + server.path(after(server.gate(), answer())), timeout=timeout)
    got = client.request("GET", server.urls[0] + server.path(trickle(b"x", 0.12, 2)), timeout=timeout)
    assert got.body == b"xx"
    client.close()


def test_the_raw_stream_is_urllib3s(server: Server) -> None:
    """Who reads the raw stream by hand finds what urllib3 gives, and the permit ends with it."""
    policy = hm.Policy(hm.Bulkhead(1))
    client = Requests(policy)
    for read in (
        lambda raw: raw.read(),
        lambda raw: b"".join(iter(lambda: raw.read(2), b"")),
        lambda raw: b"".join(iter(lambda: raw.read1(2), b"")),
        lambda raw: b"".join(raw.stream(2)),
        b"".join,
    ):
        response = client.session.get(server.urls[0] + server.path(answer(body=b"a\nbc\n")), stream=True)
        assert isinstance(response.raw, urllib3.HTTPResponse)
        assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 1
        assert read(response.raw) == b"a\nbc\n"
        assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0
    client.close()


@pytest.mark.parametrize("coded", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("chunk", [1, 7, 10_000, None])
def test_a_body_in_pieces(server: Server, coded: bool, chunk: int | None) -> None:
    """With a deadline a body is what it is without, whatever its coding and the size of the pieces."""
    body = bytes(range(256)) * 40
    path = server.path(answer(200, gzip.compress(body), content_encoding="gzip") if coded else answer(200, body))
    client = Requests(hm.Policy(hm.Deadline("5s"), hm.Bulkhead(1)))
    for _ in range(2):
        response = client.session.get(server.urls[0] + path, stream=True)
        assert b"".join(response.iter_content(chunk)) == body
    assert client.session.get(server.urls[0] + path).content == body
    assert server.connections(path) == 1
    client.close()


def test_cookies_and_redirects(server: Server) -> None:
    """What a session does with answers it goes on doing."""
    there = server.path(answer(200, b"there"))
    here = server.path(answer(302, location=there, set_cookie="a=1"))
    client = Requests(hm.Policy(RETRY))
    assert client.request("GET", server.urls[0] + here).body == b"there"
    assert server.seen[there][0].headers["cookie"] == "a=1"
    client.close()


# aiohttp.


def test_aiohttp_does_not_repeat_what_the_policy_gave_up(server: Server) -> None:
    """The second try of aiohttp itself does not double the attempts of a policy that retries."""
    path, plain = server.path(reset()), server.path(reset())
    client = Aiohttp(hm.Policy(hm.Retry(on="transient", delay=0, attempts=3)))
    for calls in (1, 2):
        with pytest.raises(aiohttp.ClientError):
            client.request("GET", server.urls[0] + path)
        assert len(server.seen[path]) == 3 * calls
    client.close()
    client = Aiohttp(hm.Policy(hm.CircuitBreaker()))
    with pytest.raises(aiohttp.ClientError):
        client.request("GET", server.urls[0] + plain)
    assert len(server.seen[plain]) == 2
    client.close()


def test_two_requests_of_one_task(server: Server) -> None:
    """A request that follows one which was given up is made, also in the same task."""
    path = server.path(reset(), answer(200))
    client = Aiohttp(hm.Policy(hm.Retry(on="transient", delay=0, attempts=1)))

    async def both() -> int:
        with pytest.raises(aiohttp.ClientError):
            await client.arequest("GET", server.urls[0] + path)
        return (await client.arequest("GET", server.urls[0] + path)).status

    assert client.run(both()) == 200
    client.close()


def test_a_form_of_aiohttp(server: Server) -> None:
    """A form with a file is sent again whole."""
    path = server.path(answer(503), answer(200))
    client = Aiohttp(hm.Policy(RETRY))
    form = aiohttp.FormData({"a": "b"})
    form.add_field("file", io.BytesIO(b"content"))
    assert client.request("PUT", server.urls[0] + path, content=form).status == 200
    bodies = [seen.body for seen in server.seen[path]]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    assert b"content" in bodies[0]
    client.close()


def test_a_middleware_leaves_the_request_as_it_was(server: Server) -> None:
    """What an attempt adds to the headers is gone when the middleware has ended."""
    seen: list[dict[str, str]] = []

    async def outer(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await handler(request)
        seen.append(dict(request.headers))
        return response

    async def main() -> None:
        inner = policy_middleware(hm.Policy(hm.Deadline("2s"), RETRY))
        async with (
            aiohttp.ClientSession(middlewares=[outer, inner]) as session,
            session.get(server.urls[0] + server.path(answer(503), answer())) as response,
        ):
            assert response.status == 200

    asyncio.run(main())
    assert not {"hormesis-timeout-ms", "grpc-timeout"} & {name.lower() for name in seen[0]}


def test_a_websocket_keeps_its_permit() -> None:
    """A websocket holds its place until it is closed, and outlives the deadline of the handshake."""
    policy = hm.Policy(hm.Deadline("100ms"), hm.Bulkhead(1))

    async def echo(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def main() -> None:
        app = aiohttp.web.Application()
        app.router.add_get("/", echo)
        runner = aiohttp.web.AppRunner(app)
        await runner.setup()
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server
        async with aiohttp.ClientSession(middlewares=[policy_middleware(policy)]) as session:
            async with session.ws_connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as ws:
                await asyncio.sleep(0.15)
                await ws.send_str("tea")
                assert await ws.receive_str() == "tea"
                assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 1
            assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0
        await runner.cleanup()

    asyncio.run(main())


# What they share.


def test_hosts() -> None:
    """A host is called by its name, and by its port where that is not the scheme's."""
    assert host_label("http", "a.example", None) == "a.example"
    assert host_label("http", "a.example", 80) == "a.example"
    assert host_label("http", "a.example", 443) == "a.example:443"
    assert host_label("https", "::1", 8443) == "[::1]:8443"


def test_what_an_outer_block_says_holds(server: Server) -> None:
    """A call that its surroundings call unrepeatable is not repeated, whatever its method."""
    path = server.path(answer(503), answer(200))
    client = Httpx(hm.Policy(RETRY))
    with hm.calling(repeatable=False):
        assert client.request("GET", server.urls[0] + path).status == 503
    client.close()


def test_a_key_of_the_request(server: Server) -> None:
    """A `by=` function sees the library's own request."""
    policy = hm.Policy(hm.Bulkhead(1, by=lambda request: request.headers["x-tenant"]))
    client = Httpx(policy)
    client.request("GET", server.urls[0] + server.path(answer()), headers={"x-tenant": "acme"})
    assert list(policy.snapshot()["parts"]["bulkhead"]["keys"]) == ["acme"]
    client.close()


def test_an_answer_that_comes_too_late_is_closed(server: Server) -> None:
    """What a thread that was left behind still gets is closed, so that its connection is not lost."""
    closed = threading.Event()
    gate = threading.Event()

    class Stream(httpx.SyncByteStream):
        def close(self) -> None:
            closed.set()

    class Inner(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            gate.wait(5)
            return httpx.Response(200, stream=Stream())

    client = httpx.Client(transport=PolicyTransport(hm.Policy(hm.Timeout("50ms", threads=1)), Inner()))
    with pytest.raises(hm.TimedOut):
        client.get("http://stock/")
    gate.set()
    assert closed.wait(5)
    client.close()


def test_an_answer_that_has_its_body_already() -> None:
    """Of a transport that does not stream, the permit ends with the call."""
    policy = hm.Policy(hm.Bulkhead(1))
    transport = PolicyTransport(policy, httpx.MockTransport(lambda request: httpx.Response(200, content=b"tea")))
    with httpx.Client(transport=transport) as client:
        response = client.send(client.build_request("GET", "http://stock/"), stream=True)
        assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0
        assert response.read() == b"tea"
