"""What kinds of failure the exceptions of requests, urllib3 and aiohttp are.

requests has one class for most that can befall a connection, and what really happened is in what it wraps: urllib3's
account of its tries, and the reason of the last of them. urllib3's own exceptions appear where a body is read in its
raw form.

Names only: nothing is imported.
"""

from __future__ import annotations

from typing import Any

from hormesis.outcome import FailureKind, classify, register_failures

__all__: list[str] = []


def _kind_of_status(status: object) -> FailureKind:
    """Of an exception about an answer; without a status that says so, it was one that could not be read."""
    from hormesis.outbound.failures import kind_of_status  # noqa: PLC0415  that module imports this one

    return kind_of_status(status) if isinstance(status, int) and status >= 400 else FailureKind.ERROR


def _http_error(error: Any) -> FailureKind:
    return _kind_of_status(getattr(error.response, "status_code", None))


def _connection(error: BaseException) -> FailureKind:
    """Of requests' `ConnectionError`: a connection that was never made, an answer that did not come, or one lost."""
    inner = error.args[0] if error.args else None
    if type(inner).__module__ != "urllib3.exceptions" or not isinstance(inner, Exception):
        return FailureKind.UNAVAILABLE
    return classify(inner)


def _last_try(error: Any) -> FailureKind:
    return classify(error.reason) if isinstance(error.reason, Exception) else FailureKind.UNAVAILABLE


register_failures(
    {
        "requests.exceptions.HTTPError": _http_error,
        "requests.exceptions.ConnectionError": _connection,
        "requests.exceptions.ConnectTimeout": FailureKind.CONNECT,
        "requests.exceptions.Timeout": FailureKind.TIMEOUT,
        "requests.exceptions.ProxyError": FailureKind.UNAVAILABLE,
        # No handshake, so nothing was sent.
        "requests.exceptions.SSLError": FailureKind.CONNECT,
        "requests.exceptions.ChunkedEncodingError": FailureKind.UNAVAILABLE,
        "requests.exceptions.InvalidURL": FailureKind.INVALID,
        "requests.exceptions.MissingSchema": FailureKind.INVALID,
        "requests.exceptions.InvalidSchema": FailureKind.INVALID,
        "requests.exceptions.InvalidHeader": FailureKind.INVALID,
        "urllib3.exceptions.MaxRetryError": _last_try,
        "urllib3.exceptions.ConnectTimeoutError": FailureKind.CONNECT,
        "urllib3.exceptions.SSLError": FailureKind.CONNECT,
        "urllib3.exceptions.TimeoutError": FailureKind.TIMEOUT,
        "urllib3.exceptions.ProtocolError": FailureKind.UNAVAILABLE,
        "urllib3.exceptions.IncompleteRead": FailureKind.UNAVAILABLE,
        "urllib3.exceptions.ProxyError": FailureKind.UNAVAILABLE,
        # No connection came free in our own pool, which says nothing of the server.
        "urllib3.exceptions.EmptyPoolError": FailureKind.REJECTED,
        "aiohttp.client_exceptions.ClientResponseError": lambda error: _kind_of_status(error.status),
        "aiohttp.client_exceptions.ClientConnectorError": FailureKind.CONNECT,
        "aiohttp.client_exceptions.ConnectionTimeoutError": FailureKind.CONNECT,
        "aiohttp.client_exceptions.ServerTimeoutError": FailureKind.TIMEOUT,
        "aiohttp.client_exceptions.ClientConnectionError": FailureKind.UNAVAILABLE,
        "aiohttp.client_exceptions.ClientPayloadError": FailureKind.UNAVAILABLE,
        "aiohttp.client_exceptions.InvalidURL": FailureKind.INVALID,
        "aiohttp.client_exceptions.NonHttpUrlClientError": FailureKind.INVALID,
    }
)
