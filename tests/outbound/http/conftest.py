"""One real server for all HTTP clients, and one way to use each of them, so that a scenario is written once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import itertools
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from aiohttp import web

import hormesis as hm
from hormesis.outbound.aiohttp import policy_middleware
from hormesis.outbound.httpx import AsyncPolicyTransport, PolicyTransport
from hormesis.outbound.requests import PolicyAdapter

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]

PATIENCE = 10.0


@dataclasses.dataclass
class Seen:
    """One request as it came in."""

    method: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Gate:
    """Something that the server waits for, and a test opens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._opened = asyncio.Event()
        self.reached = threading.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self._opened.wait()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._opened.set)


class Server:
    """Answers each path by the script that a test has written for it; the last line of a script goes on for ever."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.script: dict[str, list[Behaviour]] = {}
        self.seen: dict[str, list[Seen]] = defaultdict(list)
        self._paths = itertools.count(1)
        self._gates: list[Gate] = []
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self.urls: list[str] = []
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def path(self, *script: Behaviour) -> str:
        """Make a path that behaves like this."""
        path = f"/{next(self._paths)}"
        self.script[path] = list(script)
        return path

    def gate(self) -> Gate:
        gate = Gate(self.loop)
        self._gates.append(gate)
        return gate

    def open_all(self) -> None:
        while self._gates:
            self._gates.pop().open()

    def connections(self, path: str) -> int:
        """How many connections brought the requests for a path."""
        return len({seen.connection for seen in self.seen[path]})

    def close(self) -> None:
        self.open_all()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        self.loop.close()

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        for _ in range(2):
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            server: Any = site._server
            self.urls.append(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen[request.path].append(Seen(request.method, headers, body, transport.get_extra_info("peername")[1]))
        script = self.script[request.path]
        return await (script.pop(0) if len(script) > 1 else script[0])(request)


def answer(status: int = 200, body: bytes = b"fine", **headers: str) -> Behaviour:
    """Answer at once."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}

    async def behave(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=sent)

    return behave


def reset() -> Behaviour:
    """Cut the connection before any answer."""

    async def behave(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return behave


def parts(*chunks: bytes | Gate, status: int = 200, then_reset: bool = False, length: int | None = None) -> Behaviour:
    """Answer in parts, waiting at gates."""

    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        if length is not None:
            response.content_length = length
        await response.prepare(request)
        for chunk in chunks:
            if isinstance(chunk, Gate):
                await chunk.wait()
            else:
                await response.write(chunk)
        if then_reset:
            assert request.transport is not None
            request.transport.close()
        return response

    return behave


def after(gate: Gate, behaviour: Behaviour) -> Behaviour:
    """Wait before the answer."""

    async def behave(request: web.Request) -> web.StreamResponse:
        await gate.wait()
        return await behaviour(request)

    return behave


def trickle(chunk: bytes, every: float, times: int, *, length: bool = False) -> Behaviour:
    """Answer, and be slow about the body."""

    async def behave(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if length:
            response.content_length = len(chunk) * times
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(times):
                await response.write(chunk)
                await asyncio.sleep(every)
        return response

    return behave


@dataclasses.dataclass
class Answer:
    """What a client has got."""

    status: int
    body: bytes
    headers: dict[str, str]


@dataclasses.dataclass
class Flow:
    """An answer whose body is still to come."""

    status: int
    read: Callable[[], bytes]
    """The next piece of the body; empty at its end."""
    close: Callable[[], None]


class Client:
    """One HTTP library under a policy, used in the same way as the others."""

    name: str
    asynchronous: bool

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request and read the answer; `headers`, `content` (bytes, a file, or pieces) and `timeout`."""
        raise NotImplementedError

    def flow(self, method: str, url: str, **options: Any) -> Flow:
        """Send a request, and leave the body."""
        raise NotImplementedError

    def at_once(self, urls: list[str]) -> list[Answer]:
        """Get them all at the same time."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Httpx(Client):
    name = "httpx"
    asynchronous = False

    def __init__(self, policy: hm.Policy) -> None:
        self.client = httpx.Client(transport=PolicyTransport(policy), timeout=5)

    def request(self, method: str, url: str, **options: Any) -> Answer:
        response = self.client.request(method, url, **options)
        return Answer(response.status_code, response.content, dict(response.headers))

    def flow(self, method: str, url: str, **options: Any) -> Flow:
        response = self.client.send(self.client.build_request(method, url, **options), stream=True)
        pieces = response.iter_raw()
        return Flow(response.status_code, lambda: next(pieces, b""), response.close)

    def at_once(self, urls: list[str]) -> list[Answer]:
        with ThreadPoolExecutor(len(urls)) as pool:
            return list(pool.map(lambda url: self.request("GET", url), urls))

    def close(self) -> None:
        self.client.close()


class Requests(Client):
    name = "requests"
    asynchronous = False

    def __init__(self, policy: hm.Policy) -> None:
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", PolicyAdapter(policy))

    def request(self, method: str, url: str, **options: Any) -> Answer:
        response = self._send(method, url, **options)
        return Answer(response.status_code, response.content, dict(response.headers))

    def _send(self, method: str, url: str, content: Any = None, timeout: float | None = 5, **options: Any) -> Any:
        return self.session.request(method, url, data=content, timeout=timeout, **options)

    def flow(self, method: str, url: str, **options: Any) -> Flow:
        response = self._send(method, url, stream=True, **options)
        pieces = response.raw.stream(1, decode_content=False) if "Content-Length" in response.headers else None
        pieces = pieces or response.iter_content(None)
        return Flow(response.status_code, lambda: next(pieces, b""), response.close)

    def at_once(self, urls: list[str]) -> list[Answer]:
        with ThreadPoolExecutor(len(urls)) as pool:
            return list(pool.map(lambda url: self.request("GET", url), urls))

    def close(self) -> None:
        self.session.close()


class Asynchronous(Client):
    """A client on a loop of its own."""

    asynchronous = True

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        async def main() -> Any:
            return await awaitable

        return self.runner.run(main(), context=contextvars.copy_context())

    async def get(self, url: str) -> Answer:
        """Get an answer; for tests that cancel."""
        return await self.arequest("GET", url)

    async def arequest(self, method: str, url: str, **options: Any) -> Answer:
        raise NotImplementedError

    def request(self, method: str, url: str, **options: Any) -> Answer:
        answer: Answer = self.run(self.arequest(method, url, **options))
        return answer

    def at_once(self, urls: list[str]) -> list[Answer]:
        async def gather() -> list[Answer]:
            return await asyncio.gather(*(self.arequest("GET", url) for url in urls))

        answers: list[Answer] = self.run(gather())
        return answers


async def _pieces(content: Iterator[bytes]) -> Any:
    for piece in content:
        yield piece


def _for_async(options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(options.get("content"), Iterator) and not hasattr(options["content"], "read"):
        options["content"] = _pieces(options["content"])
    return options


class AsyncHttpx(Asynchronous):
    name = "httpx-async"

    def __init__(self, policy: hm.Policy) -> None:
        super().__init__()
        self.client = httpx.AsyncClient(transport=AsyncPolicyTransport(policy), timeout=5)

    async def arequest(self, method: str, url: str, **options: Any) -> Answer:
        response = await self.client.request(method, url, **_for_async(options))
        return Answer(response.status_code, response.content, dict(response.headers))

    def flow(self, method: str, url: str, **options: Any) -> Flow:
        response = self.run(self.client.send(self.client.build_request(method, url, **options), stream=True))
        pieces = response.aiter_raw()
        return Flow(response.status_code, lambda: self.run(anext(pieces, b"")), lambda: self.run(response.aclose()))

    def close(self) -> None:
        self.run(self.client.aclose())
        self.runner.close()


class Aiohttp(Asynchronous):
    name = "aiohttp"

    def __init__(self, policy: hm.Policy) -> None:
        super().__init__()

        async def make() -> aiohttp.ClientSession:
            return aiohttp.ClientSession(
                middlewares=[policy_middleware(policy)], timeout=aiohttp.ClientTimeout(total=None, sock_read=5)
            )

        self.session: aiohttp.ClientSession = self.run(make())

    async def arequest(self, method: str, url: str, **options: Any) -> Answer:
        async with self.session.request(method, url, **self._options(options)) as response:
            return Answer(response.status, await response.read(), dict(response.headers))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        options = _for_async(options)
        if "content" in options:
            options["data"] = options.pop("content")
        if "timeout" in options:
            options["timeout"] = aiohttp.ClientTimeout(sock_read=options["timeout"])
        return options

    def flow(self, method: str, url: str, **options: Any) -> Flow:
        async def begin() -> aiohttp.ClientResponse:
            return await self.session.request(method, url, **self._options(options))

        response = self.run(begin())

        async def close() -> None:
            response.release()  # it asks for a running loop

        async def piece() -> bytes:
            read: bytes = await response.content.readany()
            return read

        return Flow(response.status, lambda: self.run(piece()), lambda: self.run(close()))

    def close(self) -> None:
        self.run(self.session.close())
        self.runner.close()


def made_instead(request: Any, url: str) -> Any:
    """Answer a request of any library in place of the server; aiohttp's answers come from servers only: from `url`."""
    if isinstance(request, httpx.Request):
        return httpx.Response(200, content=b"instead")
    if isinstance(request, aiohttp.ClientRequest):
        return request.session.get(url, middlewares=())
    response = requests.Response()
    response.status_code = 200
    response._content = b"instead"
    return response


FAILURES = (httpx.HTTPError, requests.RequestException, urllib3.exceptions.HTTPError, aiohttp.ClientError, OSError)
"""What the libraries raise."""

CLIENTS: tuple[type[Any], ...] = (Httpx, AsyncHttpx, Requests, Aiohttp)

MakeClient = Callable[[hm.Policy], Any]


@pytest.fixture(scope="session")
def server_process() -> Iterator[Server]:
    """The server of all tests."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(server_process: Server) -> Iterator[Server]:
    """The server; what a test left waiting goes on when it ends."""
    yield server_process
    server_process.open_all()


def _makes(kinds: type[Any] | Any) -> Iterator[MakeClient]:
    made: list[Client] = []

    def make(policy: hm.Policy) -> Any:
        made.append(kinds(policy))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(params=CLIENTS, ids=lambda kind: kind.name)
def client_of(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client of each library under a policy."""
    yield from _makes(request.param)


@pytest.fixture(params=[kind for kind in CLIENTS if kind.asynchronous], ids=lambda kind: kind.name)
def async_client_of(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client of each asynchronous library under a policy."""
    yield from _makes(request.param)
