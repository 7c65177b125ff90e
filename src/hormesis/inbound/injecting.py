"""Faults between the stops of a request and its application, as if they were the application's.

`Protect` has a place for them when its service has a `Chaos`. `InjectASGI` and `InjectWSGI` are the same place by
itself, for applications that nothing else stands before:

    app = InjectASGI(app, Chaos(share_max=0.1), name="shop")
    app.add_middleware(InjectASGI, chaos=Chaos(share_max=0.1), name="shop")     # Starlette, FastAPI

**Headers.** While the switch is on, a request may bring faults of its own in `hormesis-fault`, signed with the token.
They hold for whatever is called on its behalf: at this place, at policies further in, and at the services that those
call, since policies with a `Chaos` part hand the header on. One that is forged, stale or malformed is ignored and
counted. Envoy's `x-envoy-fault-…` headers, which nobody signs, are heeded where `envoy` is set.

**Answers.** A status is answered with a problem in JSON; a failure kind by the status that stands for it; an exception
is raised where the application would have raised it; a result is the body, as JSON.

Sources: Envoy's HTTP fault filter (headers and their percentages); RFC 9457.
"""

from __future__ import annotations

import glob
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any, TypeAlias

from hormesis.clock import MONOTONIC, Clock
from hormesis.context import request_id
from hormesis.core.signed import read_signed
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, bus
from hormesis.headers import REQUEST_ID
from hormesis.inbound.answers import Answer
from hormesis.patterns.chaos import Chaos
from hormesis.patterns.injection import (
    FAULT_HEADER,
    GRPC_STATUSES,
    NO_RESULT,
    Injection,
    Scoped,
    check_injections,
    current_injections,
    in_force,
)
from hormesis.policy.injecting import Plan, Point, http_status_of, retry_after_headers
from hormesis.policy.telling import Teller

__all__ = ["HEADERS", "InjectASGI", "InjectWSGI", "ServicePoint", "answer_of", "meet_asgi", "meet_wsgi"]

_DELAY, _DELAY_SHARE = "x-envoy-fault-delay-request", "x-envoy-fault-delay-request-percentage"
_ABORT, _ABORT_SHARE = "x-envoy-fault-abort-request", "x-envoy-fault-abort-request-percentage"
_ABORT_GRPC = "x-envoy-fault-abort-grpc-request"

HEADERS = frozenset({FAULT_HEADER, _DELAY, _DELAY_SHARE, _ABORT, _ABORT_SHARE, _ABORT_GRPC})
"""The headers that a place wants to see, in lower case."""

_NUMBER = re.compile(r"\d{1,9}")
_TRY_AGAIN_LATER = 1013

Scope: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[..., Awaitable[None]]
Environ: TypeAlias = MutableMapping[str, Any]


class ServicePoint(Point):
    """The place of a service, which reads headers as well.

    Args:
        settings: The part.
        name: The service's name.
        clock, events: Time and the event bus.
        shadow: Whether what is planned is told, and not done.
    """

    __slots__ = ("ignored",)

    headers = HEADERS

    def __init__(self, settings: Chaos, name: str, clock: Clock, events: EventBus, *, shadow: bool = False) -> None:
        super().__init__(name, settings, clock, Teller(name, clock, events, shadow=shadow))
        self.ignored: Counter[str] = Counter()
        """Headers that were not heeded, by the reason."""
        self.watch()

    def brought(self, found: Mapping[str, str], request_id: str, *, believed: bool) -> tuple[Scoped, ...]:
        """Return the faults that the headers of a request bring, as far as they are heeded.

        Args:
            found: Its headers, as far as they are wanted, by name in lower case.
            request_id: Its id, on which what befalls it depends.
            believed: Whether what it says of itself is believed.
        """
        signed = found.get(FAULT_HEADER)
        faults = () if signed is None else self._signed(signed, request_id)
        if believed and self.settings.envoy:
            faults += self._of_envoy(found, request_id)
        return faults

    def snapshot(self) -> dict[str, Any]:
        """Return its state as plain data."""
        return {**super().snapshot(), "headers_ignored": dict(self.ignored)}

    def _signed(self, text: str, request_id: str) -> tuple[Scoped, ...]:
        token = self.token
        said = "forged" if token is None else read_signed(token, FAULT_HEADER, text, time.time())
        if isinstance(said, str):
            self.ignored[said] += 1
            return ()
        try:
            tables, at = said.get("faults"), said.get("at", "*")
            if not isinstance(tables, list) or not isinstance(at, str):
                raise ConfigurationError.bad_value("faults", tables, "a list of faults")
            faults = check_injections([Injection.of(table) for table in tables], least=1)
        except ConfigurationError:
            self.ignored["malformed"] += 1
            return ()
        return in_force(faults, at=at, source="header", now=MONOTONIC.now(), stream=request_id, passed_on=text)

    def _of_envoy(self, found: Mapping[str, str], request_id: str) -> tuple[Scoped, ...]:
        faults: list[Injection] = []
        try:
            delay, share = _number(found, _DELAY), _share(found, _DELAY_SHARE)
            if delay and share:
                faults.append(Injection(latency=delay / 1000, share=share))
            code, share = _number(found, _ABORT_GRPC), _share(found, _ABORT_SHARE)
            named = GRPC_STATUSES[code - 1] if code and code <= len(GRPC_STATUSES) else None
            status = _number(found, _ABORT) or named
            if status and share:
                faults.append(Injection(status=status, share=share))
        except ConfigurationError:
            self.ignored["malformed"] += 1
            return ()
        here = glob.escape(self.name)
        return in_force(tuple(faults), at=here, source="header", now=MONOTONIC.now(), stream=request_id)


def _number(found: Mapping[str, str], name: str) -> int | None:
    text = found.get(name)
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def _share(found: Mapping[str, str], name: str) -> float:
    # Without one, all of them.
    text = found.get(name)
    return 1.0 if text is None else min(_number(found, name) or 0, 100) / 100


def answer_of(point: Point, injection: Injection) -> Answer:
    """Return what stands in the place of an application's answer.

    Raises:
        Exception: The one that a fault says.
    """
    headers = [("cache-control", "no-store")]
    if injection.result is not NO_RESULT:
        status, body = 200, json.dumps(injection.result, default=str).encode()
        headers.append(("content-type", "application/json"))
    elif injection.error is not None and not isinstance(injection.error, str):
        raise point.error(injection)
    else:
        fault = point.fault(injection)
        status = http_status_of(fault)
        body = json.dumps({"title": "injected by chaos", "status": status, "detail": str(injection)}).encode()
        headers.append(("content-type", "application/problem+json"))
        headers += retry_after_headers(fault.retry_after).items()
    return Answer(status, [*headers, ("content-length", str(len(body)))], body)


async def meet_asgi(point: Point, plan: Plan, app: App, scope: Scope, receive: Any, send: Any) -> None:
    """Let a request or a WebSocket meet with what is planned, on its way into an ASGI application."""
    await point.before_async(plan, heeds_deadline=True)
    if plan.answer is None:
        await app(scope, receive, send)
        return
    answer = answer_of(point, plan.answer)
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "injected by chaos"})
        return
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})


def meet_wsgi(
    point: Point, plan: Plan, app: Callable[..., Iterable[bytes]], environ: Environ, start_response: Any
) -> Iterable[bytes]:
    """Let a request meet with what is planned, on its way into a WSGI application."""
    point.before(plan)
    if plan.answer is None:
        return app(environ, start_response)
    answer = answer_of(point, plan.answer)
    start_response(f"{answer.status} {_reason(answer.status)}", answer.headers)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Injected"


class InjectASGI:
    """Middleware around an ASGI application: a place where faults can be injected, and nothing else.

    Args:
        app: The application.
        chaos: The settings; `Chaos()` for one that has no faults of its own.
        name: What the place is called, by doses and in events.
        clock, events: Time and the event bus; for tests.

    Raises:
        ConfigurationError: The settings are none.

    >>> async def app(scope, receive, send): ...
    >>> InjectASGI(app, Chaos(), name="shop").point.on
    False
    """

    __slots__ = ("app", "point")

    def __init__(
        self, app: App, chaos: Chaos, *, name: str = "app", clock: Clock = MONOTONIC, events: EventBus = bus
    ) -> None:
        self.app = app
        self.point = ServicePoint(_settings(chaos), name, clock, events)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve what a server hands over."""
        point = self.point
        if not point.on or scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        faults = _brought_alone(point, headers)
        token = current_injections.set((*current_injections.get(), *faults))
        try:
            plan = point.plan({"method": scope.get("method", "GET"), "path": scope["path"]})
            if plan is None:
                await self.app(scope, receive, send)
            else:
                await meet_asgi(point, plan, self.app, scope, receive, send)
        finally:
            current_injections.reset(token)


class InjectWSGI:
    """Middleware around a WSGI application; otherwise as `InjectASGI`.

    >>> def app(environ, start_response):
    ...     start_response("200 OK", [])
    ...     return [b"tea"]
    >>> InjectWSGI(app, Chaos(), name="shop").point.on
    False
    """

    __slots__ = ("app", "point")

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        chaos: Chaos,
        *,
        name: str = "app",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        self.app = app
        self.point = ServicePoint(_settings(chaos), name, clock, events)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Serve a request."""
        point = self.point
        if not point.on:
            return self.app(environ, start_response)
        headers = {name: environ[key] for name in (*HEADERS, REQUEST_ID) if (key := _key(name)) in environ}
        faults = _brought_alone(point, headers)
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        # What the answer does while it is iterated is none of these calls, unless the application says so itself.
        token = current_injections.set((*current_injections.get(), *faults))
        try:
            plan = point.plan({"method": environ["REQUEST_METHOD"], "path": path})
            if plan is None:
                return self.app(environ, start_response)
            return meet_wsgi(point, plan, self.app, environ, start_response)
        finally:
            current_injections.reset(token)


def _brought_alone(point: ServicePoint, headers: Mapping[str, str]) -> tuple[Scoped, ...]:
    whose = headers.get(REQUEST_ID) or request_id() or ""
    return point.brought(headers, whose, believed=True)


def _key(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"


def _settings(chaos: object) -> Chaos:
    if not isinstance(chaos, Chaos):
        raise ConfigurationError.bad_value("chaos", chaos, "a Chaos(...)")
    return chaos
