"""What protects the service, by name.

none                     nothing
fixed-N                  at most N in flight, the rest turned away at once
hormesis                 our middleware with a load shedder as it is when nobody sets anything but the objective
vegas, gradient2, aimd   the same middleware and admission, with a limit that goes by latencies
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from hormesis.inbound.asgi import Protect
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder

__all__ = ["App", "Limit", "Receive", "Scope", "Send", "answer", "protect"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Limit: TypeAlias = Callable[[], float]


def protect(app: App, arm: str, slo: float) -> tuple[App, Limit]:
    """Put an arm in front of an application; returns that, and what tells its limit."""
    if arm == "none":
        return app, lambda: math.inf
    if arm.startswith("fixed-"):
        limit = int(arm.removeprefix("fixed-"))
        return fixed(app, limit), lambda: float(limit)
    shedder = LoadShedder(objective=slo) if arm == "hormesis" else LoadShedder(objective=slo, limit=arm)  # type: ignore[arg-type]
    # The load comes from this machine, and is believed in what it says of tenants and priorities.
    service = Service(shedder, name=arm, trusted=("127.0.0.1",), tenant_header="x-tenant")
    machine = service.ground.machine
    assert machine is not None
    return Protect(app, service), lambda: machine.limit


def fixed(app: App, limit: int) -> App:
    """A semaphore and a 503: what people write themselves."""
    in_flight = 0

    async def protected(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal in_flight
        if in_flight >= limit:
            await answer(send, 503, b"busy")
            return
        in_flight += 1
        try:
            await app(scope, receive, send)
        finally:
            in_flight -= 1

    return protected


async def answer(send: Send, status: int, body: bytes) -> None:
    """Send a short answer."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
