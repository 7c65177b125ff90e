"""The interceptor of gRPC's synchronous API.

gRPC calls the same method of an interceptor for `method(…)`, which waits, and for `method.future(…)`, which must not.
They differ in the continuation that is handed in, and in nothing that is documented; so its name decides. Should that
name change some day, a future is waited for, and comes back complete.

A call that goes on tells its end in two ways, and the first counts: whoever reads it learns of it here, before their
next line runs; and gRPC's own thread tells of what nobody reads. What it is told by refers to the call weakly: gRPC
cancels a call that nobody refers to, and that must stay so.
"""

from __future__ import annotations

import functools
import threading
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hormesis.context import left, remaining
from hormesis.errors import ConfigurationError, InjectedFault, MissingExtraError
from hormesis.outbound.grpc.rpc import Guard, InjectedRpcError, Repeatable, Rpc, Started, current_rpc
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.policy.call import Opened
from hormesis.policy.injecting import forged
from hormesis.policy.policy import Policy

try:
    import grpc
except ImportError as error:
    raise MissingExtraError("a gRPC interceptor", "grpc") from error

__all__ = ["PolicyInterceptor"]


def _injected(fault: InjectedFault, args: Sequence[Any]) -> Any:  # noqa: ARG001  as a `Forge`
    raise InjectedRpcError(fault)


_forged = functools.partial(forged, forge=_injected)


class PolicyInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts all calls of a synchronous channel under a policy; see `hormesis.outbound.grpc` for what applies to which.

    Fallback functions, keys of caches and `by=` functions get the full name of the method, and the request.

    Args:
        policy: Around each call. gRPC heeds the time that is left, so its `Timeout` is `cooperative=True`.
        host: The channel's target, for parts with `by="host"`: an interceptor is not told it.
        repeatable: Which methods may be sent twice. None: those whose `.proto` file says so.

    Raises:
        ConfigurationError: One of them can't be meant, or the policy can't protect what is synchronous.

    >>> from hormesis import CircuitBreaker, Policy
    >>> stock = Policy(CircuitBreaker(), name="stock")
    >>> channel = grpc.intercept_channel(grpc.insecure_channel("127.0.0.1:50051"), PolicyInterceptor(stock))
    >>> channel.close()
    """

    def __init__(self, policy: Policy, *, host: str | None = None, repeatable: Repeatable = None) -> None:
        self._guard = Guard(policy, host, repeatable)
        if any(isinstance(part, Bulkhead) and part.workers == "processes" for part in policy.parts):
            raise ConfigurationError.bad_value(
                "workers", "processes", "'threads' or None around a gRPC channel, which can't go to another process"
            )
        policy(self._wait)  # refuses a policy that can't protect what is synchronous
        self._policy = policy

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make a call with one request and one answer."""
        if _is_of_future(continuation):
            return self._goes_on(self._begin, continuation, client_call_details, request, replays=True)
        with self._guard.rpc(continuation, client_call_details) as rpc:
            response = self._policy.call(self._wait, rpc.method, request)
        return rpc.call_of(response) or _Answered(response)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Make a call with a stream of requests and one answer."""
        if _is_of_future(continuation):
            return self._goes_on(self._begin, continuation, client_call_details, request_iterator)
        with self._guard.rpc(continuation, client_call_details, replays=False) as rpc:
            response = self._policy.call(self._wait, rpc.method, _Requests(request_iterator))
        return rpc.call_of(response) or _Answered(response)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Make a call with one request and a stream of answers."""
        return self._goes_on(self._read_first, continuation, client_call_details, request, streams=True, replays=True)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Make a call with streams in both directions."""
        return self._goes_on(self._begin_stream, continuation, client_call_details, request_iterator, streams=True)

    def _goes_on(
        self,
        function: Callable[[str, Any], Started],
        continuation: Any,
        details: Any,
        request: Any,
        *,
        streams: bool = False,
        replays: bool = False,
    ) -> Any:
        with self._guard.rpc(continuation, details, streams=streams, replays=replays) as rpc:
            opened: Opened[Any] = self._policy.open(function, rpc.method, request)
        value = opened.value
        opened.value = None  # or what tells of the call's end would keep it alive
        if isinstance(value, Started):
            return _GoingOn(value, opened)
        return _AnsweredStream(value) if streams else _Answered(value)

    @_forged
    def _wait(self, method: str, request: Any) -> Any:
        """An attempt that waits for its one answer."""
        rpc = current_rpc.get()
        try:
            call = _start(rpc, request)
            response = call.result()
        except grpc.RpcError as error:
            rpc.fails(error)
            raise
        return rpc.answers(response, call)

    @_forged
    def _begin(self, method: str, request: Any) -> Started:
        """Begin a call whose answer somebody waits for later."""
        return Started(_start(current_rpc.get(), request))

    @_forged
    def _begin_stream(self, method: str, requests: Any) -> Started:
        return Started(_start(current_rpc.get(), requests, streams=True))

    @_forged
    def _read_first(self, method: str, request: Any) -> Started:
        """An attempt that waits for the first message of a stream."""
        rpc = current_rpc.get()
        call = _start(rpc, request, streams=True)
        timer = _timer(rpc, call)
        try:
            first: tuple[Any, ...] = (next(call),)
        except StopIteration:
            first = ()
        except grpc.RpcError as error:
            rpc.fails(error, cut=_has_cut(timer, call))
            raise
        except BaseException:
            call.cancel()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if _has_cut(timer, call):
            # At the last moment: the message is here, and the stream that it belongs to is not.
            rpc.fails(call, cut=True)
        return Started(call, first)


def _is_of_future(continuation: Any) -> bool:
    return ".future." in getattr(continuation, "__qualname__", "")


def _start(rpc: Rpc, request: Any, *, streams: bool = False) -> Any:
    return rpc.continuation(_Details(rpc.details, rpc.begins(streams=streams)), request)


def _timer(rpc: Rpc, call: Any) -> threading.Timer | None:
    """Cancel the call when its first message does not come in the time of an attempt: nothing else would."""
    time = remaining()
    if time is None or (rpc.whole is not None and left(rpc.whole) <= time):
        return None
    timer = threading.Timer(max(0.0, time), call.cancel)
    timer.daemon = True
    timer.start()
    return timer


def _has_cut(timer: threading.Timer | None, call: Any) -> bool:
    if timer is None:
        return False
    timer.cancel()
    timer.join()
    return bool(call.cancelled())


class _Details(grpc.ClientCallDetails):
    """The details of an attempt: those of the call, with what is different."""

    def __init__(self, details: Any, changed: dict[str, Any]) -> None:
        for name in ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"):
            # gRPC takes the call's own for what is missing, and another interceptor may have left out some.
            if name in changed or hasattr(details, name):
                setattr(self, name, changed[name] if name in changed else getattr(details, name))


class _Requests:
    """A stream of requests as an argument: like nothing else, so that a cache never takes it for another."""

    __slots__ = ("_requests",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests

    def __next__(self) -> Any:
        return next(self._requests)

    def __iter__(self) -> Iterator[Any]:
        return self


class _Ending:
    """Ends a call that stays open, once, whichever thread comes first."""

    __slots__ = ("_opened",)

    def __init__(self, opened: Opened[Any]) -> None:
        self._opened = [opened]

    def end(self, error: BaseException | None) -> None:
        try:
            opened = self._opened.pop()
        except IndexError:
            return
        opened.end(error)


class _GoingOn:
    """A call that goes on: gRPC's own, of which the policy hears how it ends."""

    def __init__(self, started: Started, opened: Opened[Any]) -> None:
        self._call = started.call
        self._first = list(started.first)
        self._ending = _Ending(opened)
        tell = _teller(self._ending, self._call)
        if not self._call.add_callback(tell):
            tell()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._first:
            return self._first.pop()
        try:
            return next(self._call)
        except StopIteration:
            self._ending.end(None)
            raise
        except grpc.RpcError:
            self._ending.end(_error_of(self._call))
            raise

    def next(self) -> Any:
        return next(self)

    def cancel(self) -> bool:
        cancelled = bool(self._call.cancel())
        if cancelled:
            self._ending.end(CancelledError())
        return cancelled

    def result(self, timeout: float | None = None) -> Any:
        return self._once_done(self._call.result, timeout)

    def exception(self, timeout: float | None = None) -> Any:
        return self._once_done(self._call.exception, timeout)

    def traceback(self, timeout: float | None = None) -> Any:
        return self._once_done(self._call.traceback, timeout)

    def _once_done(self, ask: Callable[[float | None], Any], timeout: float | None) -> Any:
        try:
            return ask(timeout)
        finally:
            if self._call.done():
                self._ending.end(_error_of(self._call))

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        def done(call: Any) -> None:
            self._ending.end(_error_of(call))
            fn(self)

        self._call.add_done_callback(done)


def _teller(ending: _Ending, call: Any) -> Callable[[], None]:
    """Make what gRPC calls when the call has ended; it must keep nobody from forgetting the call."""
    whose = weakref.ref(call)

    def tell() -> None:
        known = whose()
        ending.end(CancelledError() if known is None else _error_of(known))

    return tell


def _error_of(call: Any) -> BaseException | None:
    """How a call ended that has ended."""
    if call.cancelled():
        return CancelledError()
    error: BaseException | None = call.exception()
    return error


class _Answered:
    """Stands for a call whose answer did not come from the server, but from a cache or a fallback."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def result(self, timeout: float | None = None) -> Any:
        return self._response

    def exception(self, timeout: float | None = None) -> None:
        return None

    def traceback(self, timeout: float | None = None) -> None:
        return None

    def initial_metadata(self) -> tuple[()]:
        return ()

    def trailing_metadata(self) -> tuple[()]:
        return ()

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def time_remaining(self) -> None:
        return None

    def is_active(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def running(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Callable[[], Any]) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], Any]) -> None:
        fn(self)


class _AnsweredStream(_Answered):
    """The same for a stream of answers."""

    def __init__(self, responses: Iterable[Any]) -> None:
        super().__init__(None)
        self._responses = iter(responses)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._responses)

    def next(self) -> Any:
        return next(self)


# Others ask what they are; as gRPC's own calls, they are both.
for _kind in (_GoingOn, _Answered):
    grpc.Call.register(_kind)
    grpc.Future.register(_kind)
