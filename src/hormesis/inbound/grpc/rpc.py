"""What both colours of a gRPC server's journey share: reading a call, and refusing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import unquote

from hormesis.context import current_call, current_deadline
from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.headers import DEADLINE, deadline_headers
from hormesis.inbound.answers import Answer
from hormesis.inbound.ground import Ground
from hormesis.inbound.identification import add_header
from hormesis.inbound.request import Request, current_request
from hormesis.patterns.injection import NO_RESULT, Injection, current_injections

try:
    import grpc
except ImportError as error:
    raise MissingExtraError("a gRPC interceptor", "grpc") from error

__all__ = [
    "HEALTH",
    "Handler",
    "Refusing",
    "arrive",
    "handler_like",
    "injected_status",
    "set_context",
    "status_of",
    "went_well",
]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_METHOD = "RPC"
"""What stands for a method of HTTP where rules of a service name one: all calls are alike in that."""

HEALTH = "/grpc.health.v1.Health/"
"""What balancers ask must be answered when nobody else is."""

_CODES = {
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_OURS = frozenset(
    code.value[0]
    for code in (
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    )
)
"""Statuses that say something of the server, as those from 500 do in HTTP."""

_TOLD = ("retry-after", "ratelimit-policy", "ratelimit", "x-request-id")


def arrive(ground: Ground, method: str, context: Any) -> Request:
    """Say what is known of a call.

    Args:
        ground: Where it comes in.
        method: Its full name.
        context: The servicer's, of either API.
    """
    names = ground.headers
    found: dict[str, str] = {}
    for name, value in context.invocation_metadata() or ():
        if name in names and isinstance(value, str):  # the bytes of names that end in -bin are none of ours
            add_header(found, name, value)
    left = context.time_remaining()
    if left is not None and left < math.inf:
        # gRPC keeps the deadline of a call to itself; no header of that name is seen here.
        add_header(found, DEADLINE, deadline_headers(left)[DEADLINE])
    return ground.arrive(_METHOD, method, _address(context.peer()), found, context)


def _address(peer: str) -> str:
    """Return the address in what gRPC calls a peer, such as `ipv4:127.0.0.1:5000`; empty for a Unix socket's."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.rpartition(":")[0].strip("[]")


class Refusing:
    """A refusal as gRPC has it.

    Args:
        answer: The same as HTTP has it.
        reason: Why, for the details of the status.
    """

    __slots__ = ("code", "details", "metadata")

    def __init__(self, answer: Answer, reason: str) -> None:
        told = dict(answer.headers)
        self.code = _CODES[answer.status]
        self.details = reason
        metadata = [(name, told[name]) for name in _TOLD if name in told]
        if "retry-after" in told:
            metadata.append(("grpc-retry-pushback-ms", str(1000 * int(told["retry-after"]))))
        self.metadata = tuple(metadata)


def set_context(ground: Ground, request: Request) -> None:
    """Let the application know of its request, in the context that is current now."""
    current_call.set(ground.facts(request))
    current_request.set(request)
    if request.faults:
        current_injections.set((*current_injections.get(), *request.faults))
    deadline = ground.deadline(request)
    if deadline is not None:
        current_deadline.set(deadline)


def injected_status(ground: Ground, injection: Injection) -> tuple[grpc.StatusCode, str]:
    """Return the status and its details that stand in the place of a behaviour's answer.

    Raises:
        ConfigurationError: It has a result, and which message that would be nobody knows.
        Exception: The one that the fault says.
    """
    from hormesis.policy.injecting import grpc_status_of  # noqa: PLC0415  whoever has a place for faults has it

    assert ground.chaos is not None  # noqa: S101  it has planned this
    if injection.result is not NO_RESULT:
        raise ConfigurationError.bad_value("result", injection.result, "nothing at a gRPC server: use status")
    if injection.error is not None and not isinstance(injection.error, str):
        raise ground.chaos.error(injection)
    name = grpc_status_of(ground.chaos.fault(injection))
    return getattr(grpc.StatusCode, name), f"injected by chaos: {injection}"


def status_of(context: Any) -> int | None:
    """Return the number of the status that the application has set, if it did."""
    if not hasattr(context, "code"):
        return None  # that of a synchronous behaviour in an asynchronous server does not tell
    code = context.code()
    number: int | None = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return number


def went_well(context: Any) -> bool:
    """Whether that status, if there is one, is none of a server's errors."""
    return status_of(context) not in _OURS


def handler_like(handler: Handler, behave: Callable[..., Any]) -> Handler:
    """Return a handler of the same kind whose behaviour is another."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(behave, handler.request_deserializer, handler.response_serializer)


def behaviour_of(handler: Handler) -> Callable[..., Any]:
    """Return the application's function in a handler."""
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert found is not None  # noqa: S101  a handler has one of the four
    return found
