"""What protects the service, by name.

none                     nothing
fixed-N                  at most N in flight, the rest turned away at once
hormesis                 our shedder as it is when nobody sets anything but the objective
vegas, gradient2, aimd   the same admission, with a limit that goes by latencies
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any, TypeAlias

from hormesis.core.admission import NullLock
from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.shedder import ShedderMachine, ShedPermit, ShedWaiter
from hormesis.headers import REQUEST_ID, remaining_of
from hormesis.inbound.signals.lag import LoopLag
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.priority import Criticality, cohort_of, urgency_in

__all__ = ["Limit", "protect"]

Scope: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Scope, Any, Any], Awaitable[None]]
Limit: TypeAlias = Callable[[], float]


def protect(app: App, arm: str, slo: float) -> tuple[App, Limit]:
    """Put an arm in front of an application; returns that, and what tells its limit."""
    if arm == "none":
        return app, lambda: math.inf
    if arm.startswith("fixed-"):
        limit = int(arm.removeprefix("fixed-"))
        return fixed(app, limit), lambda: float(limit)
    return shed(app, arm, slo)


def fixed(app: App, limit: int) -> App:
    """A semaphore and a 503: what people write themselves."""
    in_flight = 0

    async def protected(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal in_flight
        if in_flight >= limit:
            await refuse(send)
            return
        in_flight += 1
        try:
            await app(scope, receive, send)
        finally:
            in_flight -= 1

    return protected


async def refuse(send: Any) -> None:
    """Answer that there is too much to do."""
    await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


_ALGORITHMS = {"vegas": Vegas, "gradient2": Gradient2, "aimd": AIMD}


def shed(app: App, arm: str, slo: float) -> tuple[App, Limit]:
    """Our shedder."""
    settings = LoadShedder(objective=slo)
    make = _ALGORITHMS.get(arm)
    algorithm = make(start=20, least=4, most=10_000) if make else settings.algorithm()
    machine = ShedderMachine(settings._terms(), algorithm, now=monotonic(), lock=NullLock)
    lag: LoopLag | None = None

    async def protected(scope: Scope, receive: Any, send: Any) -> None:
        nonlocal lag
        if lag is None:
            lag = LoopLag(machine.observe, busy=lambda: machine.in_flight)
            lag.start()
        lag.wake()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        urgency = urgency_in(headers.get("priority", ""))
        criticality = Criticality.DEFAULT if urgency is None else Criticality.of_urgency(urgency)
        cohort = cohort_of(headers.get(REQUEST_ID, ""))
        client = headers.get("x-tenant", "")
        left = remaining_of(headers)
        left = math.inf if left is None else left
        now = monotonic()
        said = machine.admit(criticality, cohort, client, now, left)
        if not isinstance(said, ShedPermit):
            permit = None
            if said.waitable:
                woken = asyncio.get_running_loop().create_future()
                patience = min(machine.max_wait, left)
                waiter = ShedWaiter(
                    criticality,
                    cohort,
                    client,
                    lambda: None if woken.done() else woken.set_result(None),
                    now=now,
                    patience=patience,
                )
                if machine.enqueue(waiter, now) is None:
                    try:
                        async with asyncio.timeout(patience):
                            await woken
                    except TimeoutError:
                        pass
                    permit = waiter.permit
                    if permit is None:
                        machine.leave(waiter, monotonic())
            if permit is None:
                await refuse(send)
                return
            said = permit
        try:
            await app(scope, receive, send)
        finally:
            ended = monotonic()
            machine.end(said, ended, good=ended - now <= slo)

    return protected, lambda: machine.limit
