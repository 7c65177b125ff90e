"""The inbound journey as ASGI middleware: for Starlette, FastAPI, Django, Litestar, Quart, or a plain application.

    app = Protect(app, service)
    app.add_middleware(Protect, service=service)          # Starlette, FastAPI

**How long a request is in.** Its permit is held until the last part of its answer was taken by the server, or the
application has ended; a WebSocket's until it is closed. What goes on after the answer (background tasks of Starlette)
holds none: nobody waits for it, and it would keep places from those who do. It still counts as long as it computes,
since the loop is late then.

**A client that does not read.** A server stops taking parts of an answer when its client does not take them. When one
part has stood there for `send_timeout`, the application is cancelled and the answer stays incomplete, upon which
servers close the connection.

**A deadline that passes** cancels the application only where `cancel_late` says so: 504 if the answer has not begun,
else it stays incomplete.

Source: the ASGI specification 3.0, with the extension "WebSocket Denial Response".
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from hormesis.context import current_call, current_deadline
from hormesis.inbound.answers import Answer
from hormesis.inbound.ground import Ground
from hormesis.inbound.identification import add_header
from hormesis.inbound.passes import Counted
from hormesis.inbound.pulse import LoopPulse
from hormesis.inbound.request import Request, current_request
from hormesis.inbound.service import Given, Service, service_of
from hormesis.inbound.standing import stand_async
from hormesis.patterns.injection import current_injections

__all__ = ["Protect", "answer"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "hormesis"
"""Where a scope, and its state, hold the request."""

_TRY_AGAIN_LATER = 1013
"""The code of a WebSocket's close (RFC 6455 and its registry)."""
_DENIAL = "websocket.http.response"


class Protect:
    """Middleware around an ASGI application.

    Args:
        app: The application.
        service: A `Service`, or the path of a policy file that has one.
        name: Which, where the file has several.

    Raises:
        ConfigurationError: The service can't be meant.

    >>> async def app(scope, receive, send): ...
    >>> Protect(app, Service(name="shop")).service
    <Service 'shop': no parts>
    """

    __slots__ = ("_names", "_names_of", "_pulse", "app", "service")

    def __init__(self, app: App, service: Given, *, name: str | None = None) -> None:
        self.app = app
        self.service: Service = service_of(service, name)
        self._names: dict[bytes, str] = {}
        self._names_of: frozenset[str] | None = None
        self._pulse: LoopPulse | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what a server hands over: a request, a WebSocket, or its own lifespan."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        service = self.service
        if not service.watches_signals:
            service.watch_signals()
        ground = service.ground
        if scope["path"] == ground.ready_path and kind == "http":
            await _send_answer(scope, receive, send, ground.readiness())
            return
        request = self._arrive(ground, scope)
        refused = ground.examine(request) or ground.admit(request)
        if refused is not None and refused.refusal.waitable:
            refused = await stand_async(ground, request, self.pulse(ground).wake)
        if refused is not None:
            refuse = _send_answer if kind == "http" else _deny
            await refuse(scope, receive, send, ground.answer(request, refused))
            return
        pulse = self._pulse
        if pulse is None or pulse.ground is not ground or pulse.loop is not asyncio.get_running_loop():
            pulse = self.pulse(ground)
        await _Flight(self.app, ground, request, scope, send, pulse).serve(receive)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self.service
        if service.leaving.gone:
            # The server that left was another: in tests, several come and go in one process.
            service.leaving.stay()
        # The server has its handlers of signals by now, so ours can take their place.
        service.watch_signals()

        async def hear() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                service.leaving.begin(grace=0.0)
                service.leaving.gone = True
            return message

        try:
            await self.app(scope, hear, send)
        finally:
            # An application without a lifespan raises at once, and is served all the same.
            if not service.ready:
                service.stop_watching_signals()

    def _arrive(self, ground: Ground, scope: Scope) -> Request:
        if ground.headers is not self._names_of:
            self._names = {name.encode("latin-1"): name for name in ground.headers}
            self._names_of = ground.headers
        names, headers = self._names, list(scope["headers"])
        found: dict[str, str] = {}
        by_name = dict(headers)
        wanted = names.keys() & by_name.keys()
        if len(by_name) == len(headers):
            for name in wanted:
                found[names[name]] = by_name[name].decode("latin-1")
        elif wanted:
            # Some come more than once.
            for name, value in headers:
                if name in wanted:
                    add_header(found, names[name], value.decode("latin-1"))
        client = scope.get("client")
        # A WebSocket's handshake has no method in its scope, since it has only one.
        return ground.arrive(scope.get("method", "GET"), scope["path"], client[0] if client else "", found, scope)

    def pulse(self, ground: Ground) -> LoopPulse:
        """Return what beats on the running loop while requests are in flight there."""
        pulse = self._pulse
        if pulse is None or pulse.ground is not ground or pulse.loop is not asyncio.get_running_loop():
            if pulse is not None and pulse.loop is asyncio.get_running_loop():
                pulse.retire()
            pulse = self._pulse = LoopPulse(self.service, ground)
        return pulse


class _Flight:
    """A request on its way through the application, or a WebSocket for as long as it is open."""

    __slots__ = (
        "_app",
        "_begun",
        "_cancelling",
        "_good",
        "_ground",
        "_pulse",
        "_request",
        "_scope",
        "_send",
        "_task",
        "_why",
        "sending_since",
    )

    def __init__(self, app: App, ground: Ground, request: Request, scope: Scope, send: Send, pulse: LoopPulse) -> None:
        self._app = app
        self._ground = ground
        self._request = request
        self._scope = scope
        self._send = send
        self._pulse = pulse
        self._begun = False
        """Whether the answer has begun, or the WebSocket was accepted."""
        self._good: bool | None = False
        """Whether what came of it is good; None where how long it took means nothing."""
        self._why = ""
        """Why it was cut off, if it was."""
        self.sending_since = math.inf

    async def serve(self, receive: Receive) -> None:
        """Let the application serve it."""
        ground, request, scope, pulse = self._ground, self._request, self._scope, self._pulse
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  a coroutine that runs on a loop is a task's
        self._task = task
        self._cancelling = task.cancelling()
        pulse.flights.add(self)
        if pulse.asleep:
            pulse.wake()
        scope[KEY] = request
        scope.setdefault("state", {})[KEY] = request
        facts = current_call.set(ground.facts(request))
        here = current_request.set(request)
        until, timer = None, None
        if request.expires != math.inf:
            if scope["type"] == "http":
                deadline = ground.deadline(request)
                until = None if deadline is None else current_deadline.set(deadline)
                if ground.cancels_late:
                    timer = pulse.loop.call_later(request.expires - ground.now(), self.cut, "late")
            else:
                # How long a client waits was said of the handshake; how long it talks nobody knows.
                request.expires = math.inf
        ending = ""
        brought = current_injections.set((*current_injections.get(), *request.faults)) if request.faults else None
        try:
            app = self._app if ground.chaos is None else self._with_faults(ground)
            if pulse.passes.wanted() and ground.machine is not None:
                counted, began = Counted(app(scope, receive, self._send_on)), ground.now()
                await counted
                if self._good is not None:
                    pulse.passes.counted(counted.suspensions, ground.now() - began)
            else:
                await app(scope, receive, self._send_on)
        except asyncio.CancelledError:
            if not self._why or task.uncancel() > self._cancelling:
                ending = "cancelled"
                raise
            await self._answer_cut(receive)
        except Exception as error:
            self._good = False
            answer = None if self._begun or scope["type"] != "http" else ground.answer_error(request, error)
            if answer is None:
                raise
            await _send_answer(scope, receive, self._send, answer)
        else:
            if self._why:
                task.uncancel()  # the application has swallowed it
        finally:
            if timer is not None:
                timer.cancel()
            self._end(ending)
            current_call.reset(facts)
            current_request.reset(here)
            if brought is not None:
                current_injections.reset(brought)
            if until is not None:
                current_deadline.reset(until)

    def _with_faults(self, ground: Ground) -> App:
        """Return the application, or what a request meets with on its way into it."""
        plan = ground.plan(self._request)
        if plan is None or ground.chaos is None:
            return self._app
        from hormesis.inbound.injecting import meet_asgi  # noqa: PLC0415  whoever has a place for faults has it

        return functools.partial(meet_asgi, ground.chaos, plan, self._app)

    def cut(self, why: str) -> None:
        """End it from outside: the application is cancelled."""
        if not self._why:
            self._why = why
            self._task.cancel()

    async def _send_on(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            message = self._began(message)
        self.sending_since = self._ground.now()
        await self._send(message)
        self.sending_since = math.inf
        if kind == "http.response.body":
            if not message.get("more_body"):
                self._end("")
        elif kind == "websocket.accept":
            self._begun, self._good = True, None

    def _began(self, message: Message) -> Message:
        """Take note of the head of the answer, and add what we tell."""
        ground, request = self._ground, self._request
        self._begun = True
        self._good = message["status"] < 500
        headers = [*message.get("headers", ())]
        by_name = dict(headers)
        if b"x-request-id" not in by_name:
            headers.append((b"x-request-id", request.request_id.encode()))
        if b"event-stream" in by_name.get(b"content-type", b""):
            self._good = None
        if ground.tells_limits and b"ratelimit" not in by_name:
            standing = ground.standing(request)
            if standing is not None:
                headers.append((b"ratelimit-policy", standing[0].encode()))
                headers.append((b"ratelimit", standing[1].encode()))
        return {**message, "headers": headers}

    def _end(self, ending: str) -> None:
        """End it, once: its permit, and its being in flight."""
        if self in self._pulse.flights:
            self._pulse.flights.discard(self)
            self._ground.ended(self._request, good=self._good, ending=ending)

    async def _answer_cut(self, receive: Receive) -> None:
        """Answer for an application that was cut off; what has begun stays incomplete, and the server closes it."""
        self._good = False
        if not self._begun and self._scope["type"] == "http":
            answer = self._ground.answer_cut(self._request, self._why)
            await _send_answer(self._scope, receive, self._send, answer)


async def answer(request: object, error: Exception) -> App:  # noqa: ARG001  frameworks hand it over
    """Answer an exception of ours; for a framework's own table of exceptions, where they do not get past it.

        app.add_exception_handler(hm.Rejected, hm.asgi.answer)         # Starlette, FastAPI
        app.add_exception_handler(hm.TimedOut, hm.asgi.answer)

    Args:
        request: The framework's.
        error: The exception.
    """

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        served = scope.get(KEY)
        if not isinstance(served, Request) or not isinstance(served.service, Ground):
            raise error
        made = served.service.answer_error(served, error)
        if made is None:
            raise error
        await _send_answer(scope, receive, send, made)

    return respond


async def _send_answer(scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:  # noqa: ARG001  as `_deny`
    """Send an answer of ours."""
    told = answer.headers
    if not scope.get("http_version", "1.1").startswith("1"):
        told = [header for header in told if header[0] != "connection"]  # later versions have no such header
    headers = [(name.encode(), value.encode()) for name, value in told]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body})


async def _deny(scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    """Refuse a WebSocket before it is accepted."""
    message = await receive()
    if message["type"] != "websocket.connect":
        return
    if _DENIAL not in (scope.get("extensions") or {}):
        # Servers answer a close that comes before the handshake with 403; those that can't, close with the code.
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "try again later"})
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": f"{_DENIAL}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{_DENIAL}.body", "body": answer.body})
