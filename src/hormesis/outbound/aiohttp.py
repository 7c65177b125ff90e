"""aiohttp: a policy as a client middleware.

`aiohttp.ClientSession(middlewares=[policy_middleware(policy)])`, and each request of the session, redirects included,
is a call of the policy.

aiohttp gives a connection back as soon as the last byte of an answer has come, read or not; and so ends the call: what
is then in the buffer asks nothing more of the server.

aiohttp repeats a request once by itself when a connection broke off whose method is idempotent. Where the policy
retries, that second time ends at once with the failure that it came to, or each of the policy's attempts would count
double.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import sys
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from hormesis.context import CallFacts
from hormesis.errors import InjectedFault, MissingExtraError
from hormesis.outbound.http import Guard, Patience, Reading, Trip, host_label
from hormesis.outcome import FailureKind
from hormesis.patterns.retry import Retry
from hormesis.policy.injecting import forged, http_status_of, retry_after_headers

try:
    import aiohttp
    from aiohttp import ClientHandlerType, ClientMiddlewareType, ClientRequest, ClientResponse
    from aiohttp.payload import BytesPayload, IOBasePayload
    from multidict import CIMultiDict
except ImportError as error:  # or a version before 3.12, which has no middlewares
    raise MissingExtraError("a middleware of aiohttp", "aiohttp") from error

if TYPE_CHECKING:
    from hormesis.policy.policy import Policy

__all__ = ["policy_middleware"]

_REPEATS = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
"""Failures after which aiohttp may send a request once more."""

_SOON = 1.0
"""Seconds within which it does so."""

_gave_up: ContextVar[list[tuple[object, Exception]] | None] = ContextVar("hormesis_aiohttp_gave_up", default=None)
"""The request that the policy has given up in this task last, and why."""


def policy_middleware(policy: Policy) -> ClientMiddlewareType:
    """Return a middleware whose requests go through a policy.

    A fallback function of the policy is called with the `aiohttp.ClientRequest`, and so is a `by=` function.

    Args:
        policy: Around each request.

    Raises:
        ConfigurationError: This is no policy.

    >>> from hormesis import Bulkhead, Policy, Retry
    >>> middleware = policy_middleware(Policy(Retry(on="transient"), Bulkhead(20), name="stock"))
    >>> async def main() -> None:
    ...     async with aiohttp.ClientSession(middlewares=[middleware]) as session: ...
    """
    guard = Guard(policy, ClientResponse, synchronous=False)

    async def middleware(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        _refuse_to_repeat(request)
        trip = guard.trip()

        async def attempt(request: ClientRequest) -> ClientResponse:
            sent = trip.headers(own)
            for name in added - sent.keys():
                del request.headers[name]
            added.clear()
            added.update(sent)
            request.headers.update(sent)
            if trip.again:
                # What still writes the body of the attempt before must not meet the next.
                await request.close()
            response = await handler(request)
            trip.came(response, response.status, response.headers, lambda: _let_go(response))
            return response

        forged(attempt, _injected)
        own = {name.lower() for name in request.headers}
        added: set[str] = set()
        try:
            with _facts(guard, request, own):
                opened = await policy.aopen(attempt, request)
            handed_out = trip.arrived(opened)
        except BaseException as error:
            for response in trip.over():
                response.close()
            if isinstance(error, _REPEATS) and policy.part(Retry) is not None:
                _remember(request, error)
            raise
        finally:
            for name in added:
                request.headers.popall(name, None)
        for response in trip.over(handed_out):
            response.close()
        # Or the permits, which know the request, would keep the answer, and it would never be garbage.
        request.response = None
        _watch(handed_out, trip, opened)
        return handed_out

    return middleware


def _injected(fault: InjectedFault, args: Sequence[Any]) -> ClientResponse:
    """Raise of an injected fault what aiohttp would have; a status as `raise_for_status` tells it."""
    (request,) = args
    if fault.status is None:
        if fault.kind == FailureKind.CONNECT:
            refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            raise aiohttp.ClientConnectorError(request.connection_key, refused)
        if fault.kind == FailureKind.TIMEOUT:
            raise aiohttp.SocketTimeoutError("Timeout on reading data from socket")
        if fault.kind == FailureKind.UNAVAILABLE:
            raise aiohttp.ServerDisconnectedError
    headers = CIMultiDict(retry_after_headers(fault.retry_after))
    raise aiohttp.ClientResponseError(
        request.request_info, (), status=http_status_of(fault), message="injected by chaos", headers=headers
    )


def _facts(
    guard: Guard[ClientResponse], request: ClientRequest, names: set[str]
) -> contextlib.AbstractContextManager[CallFacts, None]:
    url = request.url
    host = host_label(url.scheme, url.host or "", url.port)
    return guard.calling(request.method, host, names, replayable=_is_replayable(request.body))


def _is_replayable(body: Any) -> bool:
    """Whether a body can be sent again: bytes, files that aiohttp can rewind, and forms of these."""
    if not body or isinstance(body, BytesPayload):
        return True
    if isinstance(body, aiohttp.MultipartWriter):
        return all(_is_replayable(part[0]) for part in body)
    if not isinstance(body, IOBasePayload):
        return False
    try:
        return bool(body._value.seekable())
    except Exception:  # somebody else's file, which does not say; it is sent once
        return False


def _watch(response: ClientResponse, trip: Trip[ClientResponse], opened: Any) -> None:
    """Keep the permits until the connection is given back."""
    connection = response.connection
    if connection is None:
        opened.end()
        return
    reading = trip.reading(connection, opened)
    left = trip.left()
    timer: asyncio.TimerHandle | None = None
    if left < math.inf and response.status != 101:  # what was upgraded is a connection, and no answer any more
        timer = asyncio.get_running_loop().call_later(left, _cut_off, weakref.ref(response), trip)
    connection.add_callback(_when_released(weakref.ref(response), reading, timer))


def _when_released(
    whose: weakref.ref[ClientResponse], reading: Reading, timer: asyncio.TimerHandle | None
) -> Callable[[], None]:
    def released() -> None:
        if timer is not None:
            timer.cancel()
        response = whose()
        if response is None or not response.closed:
            reading.forget()  # it is the collector that releases
        else:
            reading.end(_how_it_ended(response))

    return released


def _how_it_ended(response: ClientResponse) -> BaseException | None:
    """What broke the body off, or None: it came to its end, or nobody wants the rest."""
    raised = sys.exception()
    if raised is not None and not isinstance(raised, Exception):
        return raised  # whoever read was cancelled, and the response is closed on the way out
    # The answer's own failure; the bare class is what closing it leaves there.
    broke = response.content.exception()
    if broke is not None and type(broke) is not aiohttp.ClientConnectionError:
        return broke
    return raised if isinstance(raised, TimeoutError) else None


def _cut_off(whose: weakref.ref[ClientResponse], trip: Trip[ClientResponse]) -> None:
    """End a body whose deadline has passed."""
    response = whose()
    if response is not None and not response.closed:
        response.content.set_exception(trip.late())
        response.close()


async def _let_go(response: ClientResponse) -> None:
    """Wait a moment for the end of a body, which stays readable; its buffer is bounded. Else close the connection."""
    try:
        async with asyncio.timeout(Patience().left()):
            await response.content.wait_eof()
    except Exception:
        # It broke off, or is too long. What it was a failure of is known already.
        response.close()
    except BaseException:
        response.close()
        raise


def _remember(request: ClientRequest, error: Exception) -> None:
    """Keep for a moment what the policy has given up, so that the same request can be known when it comes again.

    aiohttp makes a new request object for it; the timer is the one thing that stays the same.
    """
    noted: list[tuple[object, Exception]] = [(getattr(request, "_timer", None), error)]
    _gave_up.set(noted)
    asyncio.get_running_loop().call_later(_SOON, noted.clear)


def _refuse_to_repeat(request: ClientRequest) -> None:
    noted = _gave_up.get()
    if not noted:
        return
    _gave_up.set(None)
    timer, error = noted.pop()
    if timer is not None and timer is getattr(request, "_timer", None):
        raise error
