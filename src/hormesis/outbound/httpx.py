"""httpx: a policy as a transport.

Each request that a client sends, redirects and authentication included, is a call of the policy. The transport stands
around the one that really sends, so limits, TLS and proxies are settings of that one.

An attempt sends a copy of the request: what it adds to the headers does not stay in the user's request, which httpx
itself sends again after a redirect or a challenge.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hormesis.context import CallFacts, remaining
from hormesis.errors import ConfigurationError, InjectedFault, MissingExtraError
from hormesis.outbound.http import SMALL, Guard, Patience, Reading, Timeouts, Trip, host_label
from hormesis.outcome import FailureKind
from hormesis.policy.injecting import forged, http_status_of, retry_after_headers

try:
    import httpx
except ImportError as error:
    raise MissingExtraError("a transport of httpx", "httpx") from error

if TYPE_CHECKING:
    from hormesis.policy.policy import Policy

__all__ = ["AsyncPolicyTransport", "PolicyTransport"]

_LET_GO = "this answer was let go when another attempt began, which then was refused"


class PolicyTransport(httpx.BaseTransport):
    """A transport whose requests go through a policy.

    A fallback function of the policy is called with the `httpx.Request`, and so is a `by=` function.

    Args:
        policy: Around each request.
        transport: What sends; by default an `httpx.HTTPTransport` with httpx's own defaults. It is closed with this.

    Raises:
        ConfigurationError: The policy can't protect what is synchronous, or this is no transport.

    >>> from hormesis import Policy, Retry
    >>> policy = Policy(Retry(on="transient", delay=0), name="stock")
    >>> answers = iter([httpx.Response(503), httpx.Response(200, text="3")])
    >>> server = httpx.MockTransport(lambda request: next(answers))
    >>> with httpx.Client(transport=PolicyTransport(policy, server)) as client:
    ...     client.get("http://stock/tea").text
    '3'
    """

    def __init__(self, policy: Policy, transport: httpx.BaseTransport | None = None) -> None:
        self._guard = Guard(policy, httpx.Response, synchronous=True)
        if transport is not None and not isinstance(transport, httpx.BaseTransport):
            raise ConfigurationError.bad_value("transport", transport, "an httpx.BaseTransport")
        self._inner = httpx.HTTPTransport() if transport is None else transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; httpx calls this."""
        guard, trip, names = self._guard, self._guard.trip(), _names(request)

        def attempt(request: httpx.Request) -> httpx.Response:
            times = Timeouts(request.extensions.get("timeout", {}), remaining)
            try:
                response = self._inner.handle_request(_copy(request, trip, names, timeout=times))
            except Exception as error:
                trip.cut_short(error)
                raise
            times.left = trip.left
            try:
                trip.came(
                    response, response.status_code, response.headers.multi_items(), lambda: _let_go(response, times)
                )
            finally:
                if trip.abandoned:
                    response.close()
            return response

        forged(attempt, functools.partial(_injected, trip))
        try:
            with _facts(guard, request, names):
                opened = guard.policy.open(attempt, request)
            handed_out = trip.arrived(opened)
        except BaseException:
            _close(trip.over())
            raise
        body = handed_out.stream
        if not handed_out.is_closed and isinstance(body, httpx.SyncByteStream):
            handed_out.stream = _Body(body, trip, opened)
        else:
            opened.end()
        _close(trip.over(handed_out))
        return handed_out

    def close(self) -> None:
        """Close the transport that sends."""
        self._inner.close()

    def __enter__(self) -> PolicyTransport:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncPolicyTransport(httpx.AsyncBaseTransport):
    """The same for `httpx.AsyncClient`, on asyncio.

    Args:
        policy: Around each request.
        transport: What sends; by default an `httpx.AsyncHTTPTransport` with httpx's own defaults. It is closed with
            this.

    Raises:
        ConfigurationError: This is no policy, or no transport.
    """

    def __init__(self, policy: Policy, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._guard = Guard(policy, httpx.Response, synchronous=False)
        if transport is not None and not isinstance(transport, httpx.AsyncBaseTransport):
            raise ConfigurationError.bad_value("transport", transport, "an httpx.AsyncBaseTransport")
        self._inner = httpx.AsyncHTTPTransport() if transport is None else transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; httpx calls this."""
        guard, trip, names = self._guard, self._guard.trip(), _names(request)

        async def attempt(request: httpx.Request) -> httpx.Response:
            response = await self._inner.handle_async_request(_copy(request, trip, names))
            trip.came(response, response.status_code, response.headers.multi_items(), lambda: _let_go_async(response))
            return response

        forged(attempt, functools.partial(_injected, trip))
        try:
            with _facts(guard, request, names):
                opened = await guard.policy.aopen(attempt, request)
            handed_out = trip.arrived(opened)
        except BaseException:
            await _close_async(trip.over())
            raise
        body = handed_out.stream
        if not handed_out.is_closed and isinstance(body, httpx.AsyncByteStream):
            handed_out.stream = _AsyncBody(body, trip, opened)
        else:
            opened.end()
        await _close_async(trip.over(handed_out))
        return handed_out

    async def aclose(self) -> None:
        """Close the transport that sends."""
        await self._inner.aclose()

    async def __aenter__(self) -> AsyncPolicyTransport:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._inner.__aexit__(exc_type, exc_value, traceback)


def _injected(trip: Trip[httpx.Response], fault: InjectedFault, args: Sequence[Any]) -> httpx.Response:
    """Make of an injected fault what httpx would have come to."""
    (request,) = args
    if fault.status is None:
        if fault.kind == FailureKind.CONNECT:
            raise httpx.ConnectError("[Errno 111] Connection refused", request=request)
        if fault.kind == FailureKind.TIMEOUT:
            raise httpx.ReadTimeout("The read operation timed out", request=request)
        if fault.kind == FailureKind.UNAVAILABLE:
            raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
    status, headers = http_status_of(fault), retry_after_headers(fault.retry_after)
    response = httpx.Response(status, headers=headers, request=request)
    trip.came(response, status, response.headers, lambda: None)
    return response


def _names(request: httpx.Request) -> frozenset[str]:
    """The names of a request's headers; made once, since each look into httpx's own goes through all of them."""
    return frozenset(name.decode("latin-1").lower() for name, _ in request.headers.raw)


def _facts(
    guard: Guard[httpx.Response], request: httpx.Request, names: frozenset[str]
) -> contextlib.AbstractContextManager[CallFacts, None]:
    url = request.url
    host = host_label(url.scheme, url.host, url.port)
    return guard.calling(request.method, host, names, replayable=_is_replayable(request.stream))


def _copy(
    request: httpx.Request, trip: Trip[httpx.Response], names: frozenset[str], **extensions: Any
) -> httpx.Request:
    """Make what one attempt sends."""
    added = [(name.encode(), value.encode()) for name, value in trip.headers(names).items()]
    return httpx.Request(
        request.method,
        request.url,
        headers=[*request.headers.raw, *added],
        stream=request.stream,
        extensions={**request.extensions, **extensions},
    )


def _is_replayable(stream: object) -> bool:
    """Whether a body can be sent again: bytes, and forms whose files httpx can rewind."""
    if isinstance(stream, httpx.ByteStream):
        return True
    fields = getattr(stream, "fields", None)
    return isinstance(fields, list) and all(map(_is_replayable_field, fields))


def _is_replayable_field(field: object) -> bool:
    file = getattr(field, "file", b"")  # a field without a file is a plain value
    return isinstance(file, str | bytes) or _is_seekable(file)


def _is_seekable(file: Any) -> bool:
    try:
        return bool(file.seekable())
    except Exception:  # somebody else's file, which does not say; it is sent once
        return False


class _Body(httpx.SyncByteStream):
    """A body that keeps its call's permits until it was read or closed."""

    def __init__(self, inner: httpx.SyncByteStream, trip: Trip[httpx.Response], opened: Any) -> None:
        self._inner = inner
        self._trip = trip
        self._reading: Reading = trip.reading(self, opened)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                self._trip.check()
                yield chunk
            # Closed before its permit ends, so that whoever comes next finds the connection free.
            self._inner.close()
        except GeneratorExit:
            raise  # whoever reads has stopped, and will close it
        except BaseException as error:
            with contextlib.suppress(Exception):
                self._inner.close()
            self._trip.failed(self._reading, error)
        self._reading.end()

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._reading.end()


class _AsyncBody(httpx.AsyncByteStream):
    """The same, asynchronous."""

    def __init__(self, inner: httpx.AsyncByteStream, trip: Trip[httpx.Response], opened: Any) -> None:
        self._inner = inner
        self._trip = trip
        self._reading: Reading = trip.reading(self, opened)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._inner.__aiter__()
        try:
            while True:
                left = self._trip.left()
                try:
                    if left == math.inf:
                        chunk = await anext(chunks)
                    else:
                        async with asyncio.timeout(left):
                            chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                yield chunk
            await self._inner.aclose()
        except GeneratorExit:
            raise
        except BaseException as error:
            try:
                with contextlib.suppress(Exception):
                    await self._inner.aclose()
            finally:
                self._trip.failed(self._reading, error)
        self._reading.end()

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._reading.end()


class _LetGo(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of an answer whose place another attempt took, and which was too long to keep."""

    def __iter__(self) -> Iterator[bytes]:
        raise httpx.ReadError(_LET_GO)

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise httpx.ReadError(_LET_GO)


def _let_go(response: httpx.Response, times: Timeouts) -> None:
    """Read what is small and comes at once, so that the connection can be used again; else close it."""
    body = response.stream
    if response.is_closed or not isinstance(body, httpx.SyncByteStream):
        return
    patience = Patience()
    times.left = patience.left
    response.stream = _LetGo()
    kept = bytearray()
    try:
        for chunk in body:
            kept += chunk
            if len(kept) > SMALL or patience.left() <= 0:
                return
        response.stream = httpx.ByteStream(bytes(kept))
    except Exception:
        # It broke off. What it was a failure of is known already.
        return
    finally:
        with contextlib.suppress(Exception):
            body.close()


async def _let_go_async(response: httpx.Response) -> None:
    body = response.stream
    if response.is_closed or not isinstance(body, httpx.AsyncByteStream):
        return
    patience = Patience()
    response.stream = _LetGo()
    kept = bytearray()
    try:
        async with asyncio.timeout(patience.left()):
            async for chunk in body:
                kept += chunk
                if len(kept) > SMALL:
                    return
        response.stream = httpx.ByteStream(bytes(kept))
    except Exception:
        return
    finally:
        with contextlib.suppress(Exception):
            await body.aclose()


def _close(responses: Iterable[httpx.Response]) -> None:
    """Close what nobody will read."""
    for response in responses:
        with contextlib.suppress(Exception):
            response.close()


async def _close_async(responses: Iterable[httpx.Response]) -> None:
    for response in responses:
        with contextlib.suppress(Exception):
            await response.aclose()
