"""A protected application in either colour, behind one door: the same request gets the same answer.

An application here is a function that is called inside, and returns the parts of its answer, one after the other. Where
it returns `HOLD` between them, the answer stands still until somebody lets it go on, or gives it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import pytest

from hormesis.inbound import asgi, wsgi
from hormesis.inbound.service import Service

HOLD = b"<hold>"
"""A part that is not sent: here the answer stands still."""

STRANGER = "203.0.113.9"

Behaviour = Callable[[], "Iterable[bytes] | Iterator[bytes]"]


@dataclasses.dataclass
class Got:
    """An answer, as far as it came."""

    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    error: BaseException | None = None

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        return found


class Pending(Protocol):
    """An answer that stands still."""

    got: Got

    def finish(self) -> Got:
        """Let it go on to its end."""
        ...

    def abandon(self) -> None:
        """The client goes away."""
        ...


class Door(Protocol):
    """A protected application."""

    colour: str

    def ask(
        self, path: str = "/", *, method: str = "GET", peer: str = STRANGER, headers: Iterable[tuple[str, str]] = ()
    ) -> Got:
        """Ask, and wait for the whole answer."""
        ...

    def begin(self, path: str = "/", **headers: str) -> Pending:
        """Ask, and wait until the answer stands still."""
        ...


MakeDoor = Callable[..., Door]


class AsgiDoor:
    """An ASGI application, and the server's part on a loop of its own."""

    colour = "asgi"

    def __init__(
        self, behaviour: Behaviour, service: Service, status: int = 200, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self._behaviour = behaviour
        self._status = status
        self._headers = [(name.encode(), value.encode()) for name, value in headers]
        self._still: asyncio.Event
        self._go_on: asyncio.Event
        self.app = asgi.Protect(self._serve, service)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        parts = self._behaviour()
        begun = False
        for part in parts:
            if not begun:
                await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
                begun = True
            if part == HOLD:
                self._still.set()
                await self._go_on.wait()
            else:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        if not begun:
            await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": b""})

    async def _call(self, got: Got, path: str, method: str, peer: str, headers: Iterable[tuple[str, str]]) -> None:
        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                got.status = message["status"]
                got.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            else:
                got.body += message.get("body", b"")

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "client": (peer, 4711) if peer else None,
        }
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            got.error = error

    def ask(
        self, path: str = "/", *, method: str = "GET", peer: str = STRANGER, headers: Iterable[tuple[str, str]] = ()
    ) -> Got:
        got = Got()
        self.loop.run_until_complete(self._call(got, path, method, peer, headers))
        return got

    def begin(self, path: str = "/", **headers: str) -> Pending:
        named = [(name.replace("_", "-"), value) for name, value in headers.items()]
        got = Got()

        async def begin() -> asyncio.Task[None]:
            self._still, self._go_on = asyncio.Event(), asyncio.Event()
            task = asyncio.ensure_future(self._call(got, path, "GET", STRANGER, named))
            still = asyncio.ensure_future(self._still.wait())
            await asyncio.wait([task, still], return_when=asyncio.FIRST_COMPLETED)
            still.cancel()
            return task

        task = self.loop.run_until_complete(begin())
        return AsgiPending(self.loop, task, self._go_on, got)


@dataclasses.dataclass
class AsgiPending:
    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[None]
    go_on: asyncio.Event
    got: Got

    def finish(self) -> Got:
        self.go_on.set()
        self.loop.run_until_complete(self.task)
        return self.got

    def abandon(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self.task)


class WsgiDoor:
    """A WSGI application, and the server's part in the calling thread."""

    colour = "wsgi"

    def __init__(
        self, behaviour: Behaviour, service: Service, status: int = 200, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        self._behaviour = behaviour
        self._status = status
        self._headers = list(headers)
        self.app = wsgi.Protect(self._serve, service)

    def _serve(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        parts = self._behaviour()
        if isinstance(parts, list):
            start_response(f"{self._status} Said", self._headers)
            return parts

        def generate() -> Iterator[bytes]:
            begun = False
            for part in parts:
                if not begun:
                    start_response(f"{self._status} Said", self._headers)
                    begun = True
                yield part
            if not begun:
                start_response(f"{self._status} Said", self._headers)

        return generate()

    def _call(self, got: Got, path: str, method: str, peer: str, headers: Iterable[tuple[str, str]]) -> Any:
        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            assert got.status == 0 or exc_info is not None
            got.status = int(status[:3])
            got.headers = {name.lower(): value for name, value in headers}
            return lambda data: None

        environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "REMOTE_ADDR": peer}
        for name, value in headers:
            key = f"HTTP_{name.upper().replace('-', '_')}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return self.app(environ, start_response)

    def ask(
        self, path: str = "/", *, method: str = "GET", peer: str = STRANGER, headers: Iterable[tuple[str, str]] = ()
    ) -> Got:
        got = Got()
        try:
            answer = self._call(got, path, method, peer, headers)
            try:
                for part in answer:
                    got.body += part
            finally:
                if hasattr(answer, "close"):
                    answer.close()
        except Exception as error:
            got.error = error
        return got

    def begin(self, path: str = "/", **headers: str) -> Pending:
        got = Got()
        answer = self._call(got, path, "GET", STRANGER, [(n.replace("_", "-"), v) for n, v in headers.items()])
        pending = WsgiPending(answer, iter(answer), got)
        pending.go_on()
        return pending


@dataclasses.dataclass
class WsgiPending:
    answer: Any
    parts: Iterator[bytes]
    got: Got

    def go_on(self) -> None:
        for part in self.parts:
            if part == HOLD:
                return
            self.got.body += part

    def finish(self) -> Got:
        self.go_on()
        self.abandon()
        return self.got

    def abandon(self) -> None:
        if hasattr(self.answer, "close"):
            self.answer.close()


@pytest.fixture(params=["asgi", "wsgi"])
def door(request: pytest.FixtureRequest) -> Iterator[MakeDoor]:
    """Return the function that protects a behaviour by a service, in each colour."""
    loops: list[asyncio.AbstractEventLoop] = []

    def make(behaviour: Behaviour, service: Service, **answer: Any) -> Door:
        if request.param == "wsgi":
            return WsgiDoor(behaviour, service, **answer)
        made = AsgiDoor(behaviour, service, **answer)
        loops.append(made.loop)
        return made

    yield make
    for loop in loops:
        # A loop stands still between two questions, perhaps before a task has begun that a pulse has made.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left) if left else asyncio.sleep(0))
        loop.close()


@pytest.fixture
def hold() -> bytes:
    """Return the part at which an answer stands still."""
    return HOLD
