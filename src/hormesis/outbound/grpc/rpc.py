"""What both APIs of gRPC share: what an interceptor was told, and what is known of one call.

The attempts of a call are made by a method of the interceptor, which is the same for every call: it is part of the key
under which a cache keeps answers. So what belongs to one call travels in a context variable, into threads and tasks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeAlias

from hormesis.clock import MONOTONIC
from hormesis.context import calling, criticality, current_call, current_deadline, deadline, left, remaining, request_id
from hormesis.errors import ConfigurationError, DeadlineExceeded, InjectedFault, MissingExtraError, Rejected
from hormesis.headers import request_id_headers
from hormesis.patterns.injection import FAULT_HEADER
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline
from hormesis.policy.injecting import grpc_status_of, handed_on
from hormesis.policy.policy import Policy
from hormesis.priority import priority_headers
from hormesis.units import seconds

try:
    import grpc
except ImportError as error:
    raise MissingExtraError("a gRPC interceptor", "grpc") from error

__all__ = [
    "Guard",
    "InjectedRpcError",
    "Repeatable",
    "Rpc",
    "RpcDeadlineExceeded",
    "Started",
    "current_rpc",
    "status_of",
]

Repeatable: TypeAlias = bool | Collection[str] | Callable[[str], bool] | None
"""Which methods may be sent twice: all or none, those of these full names (`"/shop.Stock/Get"`), those that a function
says, or, with None, those of which their `.proto` file says it."""

_REPEATABLE_ACCEPTED = (
    "True or False, full names of methods such as {'/shop.Stock/Get'}, a function of such a name, or None"
)

_TIMES_MAX = 1e8
"""Seconds; a longer `timeout=` is for ever, and some write infinity."""

_SLACK = 0.02
"""Seconds by which gRPC's clock, of whole milliseconds, and ours may disagree on whether a deadline has passed."""

_PUSHBACK = "grpc-retry-pushback-ms"
_MILLISECONDS = re.compile(r"0|[1-9][0-9]{0,9}")


class RpcDeadlineExceeded(DeadlineExceeded, grpc.RpcError):
    """The `timeout=` that the caller gave a call is over: an error of gRPC's as it always was, and one of ours."""

    def code(self) -> grpc.StatusCode:
        """The status, as an error of gRPC has it."""
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        """What happened, in words."""
        return str(self)

    def initial_metadata(self) -> tuple[()]:
        """Nothing, as no answer came."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """Nothing, as no answer came."""
        return ()


class InjectedRpcError(grpc.RpcError):
    """A failure that was injected, as an error of gRPC's.

    Args:
        fault: What it stands for.
    """

    def __init__(self, fault: InjectedFault) -> None:
        super().__init__(str(fault))
        self._fault = fault
        self.retry_after = fault.retry_after

    def code(self) -> grpc.StatusCode:
        """The status, as an error of gRPC has it."""
        return status_of(self._fault)

    def details(self) -> str:
        """What happened, in words."""
        return str(self._fault)

    def initial_metadata(self) -> tuple[()]:
        """Nothing, as no answer came."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """Nothing, as no answer came."""
        return ()


def status_of(fault: InjectedFault) -> grpc.StatusCode:
    """Return the status that an injected fault stands for."""
    found: grpc.StatusCode = getattr(grpc.StatusCode, grpc_status_of(fault))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Started:
    """A call that goes on, and the first message of it where one was waited for: none, or exactly one."""

    call: Any
    first: tuple[Any, ...] = ()


class Rpc:
    """One call on its way through a policy, over all of its attempts.

    Args:
        policy: The policy's name.
        continuation, details: As gRPC hands them to the interceptor.
        method: The full name of the method.
        gives_up: When the caller's own `timeout=` is over; None if none was given.
        faults: The signed header of faults that it goes on with; empty for none.
    """

    __slots__ = ("_answered", "_refused", "continuation", "details", "faults", "gives_up", "method", "policy", "whole")

    def __init__(
        self, policy: str, continuation: Any, details: Any, method: str, gives_up: float | None, faults: str = ""
    ) -> None:
        self.policy = policy
        self.continuation = continuation
        self.details = details
        self.method = method
        self.gives_up = gives_up
        self.faults = faults
        self.whole = current_deadline.get()
        """The deadline of the call with all that belongs to it: what bounds a stream."""
        self._answered: list[tuple[Any, Any]] = []
        self._refused = False

    def begins(self, *, streams: bool) -> dict[str, Any]:
        """What to change of the call's details for an attempt that begins now.

        Raises:
            Rejected: The server has asked for no other attempt.
        """
        if self._refused:
            raise Rejected(self.policy, "the server asked for no retry")
        changed: dict[str, Any] = {}
        time = remaining() if not streams else None if self.whole is None else left(self.whole)
        if time is not None:
            changed["timeout"] = max(0.0, time)
        metadata: list[tuple[str, Any]] = list(getattr(self.details, "metadata", None) or [])
        said = {name for name, _ in metadata}
        told = {**request_id_headers(request_id()), **priority_headers(criticality())}
        if self.faults:
            told[FAULT_HEADER] = self.faults
        more = [pair for pair in told.items() if pair[0] not in said]
        if more:
            changed["metadata"] = tuple(metadata + more)
        return changed

    def answers(self, response: Any, call: Any) -> Any:
        """Take note of the call that brought an answer; returns the answer."""
        self._answered.append((response, call))
        return response

    def call_of(self, response: Any) -> Any:
        """Return the call that brought the answer; None when it came from elsewhere."""
        return next((call for known, call in self._answered if known is response), None)

    def fails(self, error: Any, *, cut: bool = False) -> None:
        """Heed what a failed attempt says: whether its time was over, and when to come back.

        Args:
            error: The `grpc.RpcError`.
            cut: Whether we cancelled it because its time was over.

        Raises:
            TimedOut: The time that the policy, or the caller, has left to it was over.
        """
        current = current_deadline.get()
        if current is not None and (
            cut or (error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and left(current) <= _SLACK)
        ):
            _, _, limit, policy, kind = current
            raise kind(policy, limit) from error
        pushback = _pushback_of(error.trailing_metadata())
        if pushback is None:
            return
        if pushback >= 0:
            error.retry_after = pushback
            return
        self._refused = True
        # Where the attempt runs in the caller's context, this keeps a retry from even being planned.
        current_call.set(dataclasses.replace(current_call.get(), repeatable=False))


current_rpc: ContextVar[Rpc] = ContextVar("hormesis_rpc")


class Guard:
    """What an interceptor was told, ready to set what a call travels with.

    Args:
        policy: Around each call.
        host: What parts with `by="host"` take for the host of all calls of the channel.
        repeatable: Which methods may be sent twice.

    Raises:
        ConfigurationError: One of them can't be meant.
    """

    __slots__ = ("_labels", "_repeatable", "policy")

    def __init__(self, policy: Policy, host: str | None, repeatable: Repeatable) -> None:
        given: object = policy
        if not isinstance(given, Policy):
            raise ConfigurationError.bad_value("policy", policy, "a Policy(...)")
        target: object = host
        if target is not None and (not isinstance(target, str) or not target):
            raise ConfigurationError.bad_value("host", host, "the name of the channel's target, or None")
        self.policy = policy
        self._labels = {} if host is None else {"host": host}
        self._repeatable = _test_of(repeatable)

    @contextlib.contextmanager
    def rpc(self, continuation: Any, details: Any, *, streams: bool = False, replays: bool = True) -> Iterator[Rpc]:
        """Set what the attempts of a call travel with.

        Args:
            continuation: What goes on with the call, as gRPC hands it to the interceptor.
            details: What gRPC tells of the call.
            streams: Whether answers come as a stream, which a `Deadline` bounds to its end.
            replays: Whether its request can be sent once more.

        Raises:
            RpcDeadlineExceeded: The caller's own timeout is over.
        """
        method = details.method.decode() if isinstance(details.method, bytes) else details.method
        limits = [] if details.timeout is None else [min(max(0.0, details.timeout), _TIMES_MAX)]
        gives_up = MONOTONIC.now() + limits[0] if limits else None
        if streams and not self.policy.shadow and (part := self.policy.part(Deadline)) is not None:
            limits.append(seconds(part.limit))
        bounds = deadline(min(limits), policy=self.policy.name) if limits else contextlib.nullcontext()
        repeatable = None if replays and self._may_repeat(method) else False
        with calling(repeatable=repeatable, method=method, **self._labels), bounds:
            rpc = Rpc(self.policy.name, continuation, details, method, gives_up, handed_on(self.policy.top))
            token = current_rpc.set(rpc)
            try:
                yield rpc
            except DeadlineExceeded as error:
                if gives_up is None or gives_up - MONOTONIC.now() > _SLACK:
                    raise
                raise RpcDeadlineExceeded(error.policy, error.limit) from error
            finally:
                current_rpc.reset(token)

    def _may_repeat(self, method: str) -> bool:
        retry = self.policy.part(Retry)
        return (retry is not None and retry.unsafe_methods) or self._repeatable(method)


def _test_of(repeatable: Repeatable) -> Callable[[str], bool]:
    if repeatable is None:
        return _is_marked
    if isinstance(repeatable, bool):
        every = repeatable
        return lambda _: every
    if callable(repeatable):
        return repeatable
    given: object = repeatable
    names = list(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else [given]
    if isinstance(given, str) or not all(
        isinstance(name, str) and re.fullmatch("/[^/]+/[^/]+", name) for name in names
    ):
        raise ConfigurationError.bad_value("repeatable", repeatable, _REPEATABLE_ACCEPTED)
    return frozenset(names).__contains__


def _is_marked(method: str) -> bool:
    """Whether the `.proto` file of a method says that it may be sent twice: `option idempotency_level = …`."""
    # Whoever has such a file has its generated module, and with it the library that knows its options.
    pools = sys.modules.get("google.protobuf.descriptor_pool")
    if pools is None:
        return False
    try:
        options = pools.Default().FindMethodByName(method.strip("/").replace("/", ".")).GetOptions()
    except KeyError:
        return False
    return bool(options.idempotency_level)


def _pushback_of(metadata: Any) -> float | None:
    """Return the seconds after which the server wants to be asked again: negative for not at all, None if unsaid."""
    said = [value for name, value in metadata or () if name == _PUSHBACK]
    if not said:
        return None
    # What can't be read asks for no retry as well, says A6.
    return int(said[-1]) / 1000 if isinstance(said[-1], str) and _MILLISECONDS.fullmatch(said[-1]) else -1.0
