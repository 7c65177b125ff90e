"""The interceptors of gRPC's asynchronous API, which wants one for each kind of call.

A stream of requests may be one that the caller writes to only when the interceptor has returned, and no interceptor can
tell. So calls with such a stream are begun, and never waited for.
"""

from __future__ import annotations

import functools
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any

from hormesis.errors import InjectedFault, MissingExtraError
from hormesis.outbound.grpc.rpc import Guard, Repeatable, Rpc, Started, current_rpc, status_of
from hormesis.policy.call import Opened
from hormesis.policy.injecting import forged
from hormesis.policy.policy import Policy

try:
    import grpc
    import grpc.aio
except ImportError as error:
    raise MissingExtraError("a gRPC interceptor", "grpc") from error

__all__ = ["policy_interceptors"]


def policy_interceptors(
    policy: Policy, *, host: str | None = None, repeatable: Repeatable = None
) -> list[grpc.aio.ClientInterceptor]:
    """Return what puts all calls of an asynchronous channel under a policy, for its `interceptors`.

    Fallback functions, keys of caches and `by=` functions get the full name of the method, and the request.

    Args:
        policy: Around each call.
        host: The channel's target, for parts with `by="host"`: an interceptor is not told it.
        repeatable: Which methods may be sent twice. None: those whose `.proto` file says so.

    Raises:
        ConfigurationError: One of them can't be meant.

    >>> from hormesis import CircuitBreaker, Policy
    >>> len(policy_interceptors(Policy(CircuitBreaker(), name="stock")))
    4
    """
    guard = Guard(policy, host, repeatable)
    return [_UnaryUnary(guard), _UnaryStream(guard), _StreamUnary(guard), _StreamStream(guard)]


def _injected(fault: InjectedFault, args: Sequence[Any]) -> Any:  # noqa: ARG001  as a `Forge`
    nothing = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(status_of(fault), nothing, nothing, details=str(fault))
    if fault.retry_after is not None:
        error.retry_after = fault.retry_after  # type: ignore[attr-defined]  # as of what the server says
    raise error


_forged = functools.partial(forged, forge=_injected)


class _Guarded:
    """What the four have in common."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    @_forged
    async def _begin(self, method: str, requests: Any) -> Started:
        """Begin a call that is not waited for."""
        return Started(await _start(current_rpc.get(), requests))

    @_forged
    async def _begin_stream(self, method: str, requests: Any) -> Started:
        return Started(await _start(current_rpc.get(), requests, streams=True))


class _UnaryUnary(_Guarded, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        with self._guard.rpc(continuation, client_call_details) as rpc:
            response = await self._guard.policy.acall(self._wait, rpc.method, request)
        return rpc.call_of(response) or _Answered(response)

    @_forged
    async def _wait(self, method: str, request: Any) -> Any:
        """An attempt that waits for its one answer."""
        rpc = current_rpc.get()
        call = await _start(rpc, request)
        try:
            response = await call
        except grpc.RpcError as error:
            rpc.fails(error)
            raise
        except BaseException:
            call.cancel()
            raise
        return rpc.answers(response, call)


class _UnaryStream(_Guarded, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        with self._guard.rpc(continuation, client_call_details, streams=True) as rpc:
            opened = await self._guard.policy.aopen(self._read_first, rpc.method, request)
        value: object = opened.value
        if not isinstance(value, Started):
            return _Answered(value)
        _end_with(value.call, opened)
        return _messages(value)

    @_forged
    async def _read_first(self, method: str, request: Any) -> Started:
        """An attempt that waits for the first message of a stream."""
        rpc = current_rpc.get()
        call = await _start(rpc, request, streams=True)
        try:
            first: tuple[Any, ...] = (await anext(aiter(call)),)
        except StopAsyncIteration:
            first = ()
        except grpc.RpcError as error:
            rpc.fails(error)
            raise
        except BaseException:
            call.cancel()
            raise
        return Started(call, first)


class _StreamUnary(_Guarded, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        with self._guard.rpc(continuation, client_call_details, replays=False) as rpc:
            opened = await self._guard.policy.aopen(self._begin, rpc.method, request_iterator)
        return _begun(opened)


class _StreamStream(_Guarded, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        with self._guard.rpc(continuation, client_call_details, streams=True, replays=False) as rpc:
            opened = await self._guard.policy.aopen(self._begin_stream, rpc.method, request_iterator)
        return _begun(opened)


async def _start(rpc: Rpc, request: Any, *, streams: bool = False) -> Any:
    given, changed = rpc.details, rpc.begins(streams=streams)
    if "metadata" in changed:
        changed["metadata"] = grpc.aio.Metadata(*changed["metadata"])
    details = grpc.aio.ClientCallDetails(
        method=given.method,
        timeout=changed.get("timeout", given.timeout),
        metadata=changed.get("metadata", given.metadata),
        credentials=given.credentials,
        wait_for_ready=given.wait_for_ready,
    )
    return await rpc.continuation(details, request)


def _begun(opened: Opened[Any]) -> Any:
    """Hand out a call that nobody has waited for."""
    value: object = opened.value
    if not isinstance(value, Started):
        return _Answered(value)
    _end_with(value.call, opened)
    return value.call


def _end_with(call: Any, opened: Opened[Any]) -> None:
    call.add_done_callback(lambda ended: opened.end(_error_of(ended)))


def _error_of(call: Any) -> BaseException | None:
    """How a call ended that has ended."""
    # A server that cancels can't be told from ourselves here, and cancelled is not failed.
    if call.cancelled():
        return CancelledError()
    code = _at_once(call.code())
    if code is grpc.StatusCode.OK:
        return None
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), _at_once(call.trailing_metadata()), details=_at_once(call.details())
    )


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that has nothing to wait for: the status of a call that has ended."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    raise AssertionError("a call that has ended knows its status")


async def _messages(started: Started) -> AsyncIterator[Any]:
    """The messages of a stream, the first of which is here already."""
    try:
        for message in started.first:
            yield message
        if started.first:
            async for message in started.call:
                yield message
    finally:
        # Whoever stops reading has no use for the rest.
        started.call.cancel()


class _Answered(
    grpc.aio.UnaryUnaryCall[Any, Any],
    grpc.aio.UnaryStreamCall[Any, Any],
    grpc.aio.StreamUnaryCall[Any, Any],
    grpc.aio.StreamStreamCall[Any, Any],
):
    """Stands for a call whose answer did not come from the server, but from a cache or a fallback."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self._left: AsyncIterator[Any] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self._answer

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._left is None:
            self._left = _replayed(self._answer)
        return self._left

    async def read(self) -> Any:
        return await anext(aiter(self), grpc.aio.EOF)

    async def write(self, request: Any) -> None:
        """Nobody reads it."""

    async def done_writing(self) -> None:
        """Nobody reads it."""

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        """There is none."""

    def cancelled(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def time_remaining(self) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)


async def _replayed(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
