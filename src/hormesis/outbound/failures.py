"""What kinds of failure the exceptions of well-known client libraries are.

Names only: nothing is imported, so this costs nothing to those who don't use the library. A status that a server sent
is classified by what it says of the server: 429 asks to slow down, 502 and 503 say that it can't serve now, 504 that it
waited in vain; other 5xx are errors; and with any 4xx the server works and the request was wrong.
"""

from __future__ import annotations

from typing import Any

# For what they register: these have rules of their own.
from hormesis.outbound import grpc_failures as _grpc  # noqa: F401
from hormesis.outbound import http_failures as _http  # noqa: F401
from hormesis.outbound import redis_failures as _redis  # noqa: F401
from hormesis.outbound import sql_failures as _sql  # noqa: F401
from hormesis.outbound.grpc_failures import kind_of_grpc_status
from hormesis.outcome import FailureKind, register_failures

__all__ = ["kind_of_status"]

_STATUSES = {
    408: FailureKind.TIMEOUT,
    429: FailureKind.THROTTLED,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.TIMEOUT,
}


def kind_of_status(status: int) -> FailureKind:
    """Return the kind of failure that an HTTP status is.

    >>> kind_of_status(503), kind_of_status(404)
    (<FailureKind.UNAVAILABLE: 'unavailable'>, <FailureKind.INVALID: 'invalid'>)
    """
    known = _STATUSES.get(status)
    if known is not None:
        return known
    return FailureKind.ERROR if status >= 500 else FailureKind.INVALID


def _injected(error: Any) -> FailureKind:
    status: object = error.status
    if status is None:
        return FailureKind(error.kind)
    return kind_of_status(status) if isinstance(status, int) else kind_of_grpc_status(str(status))


def _httpx_status(error: Any) -> FailureKind:
    return kind_of_status(error.response.status_code)


register_failures(
    {
        "hormesis.errors.InjectedFault": _injected,
        "httpx.HTTPStatusError": _httpx_status,
        "httpx.ConnectError": FailureKind.CONNECT,
        "httpx.ConnectTimeout": FailureKind.CONNECT,
        # No connection came free in our own pool. As a full bulkhead, that says nothing of the dependency: a breaker
        # that counted it would open on a server that is well, and a retry would stand in the same queue again.
        "httpx.PoolTimeout": FailureKind.REJECTED,
        "httpx.TimeoutException": FailureKind.TIMEOUT,
        "httpx.NetworkError": FailureKind.UNAVAILABLE,
        "httpx.RemoteProtocolError": FailureKind.UNAVAILABLE,
        "httpx.ProxyError": FailureKind.UNAVAILABLE,
        "httpx.UnsupportedProtocol": FailureKind.INVALID,
        "httpx.LocalProtocolError": FailureKind.INVALID,
        "httpx.InvalidURL": FailureKind.INVALID,
    }
)
