"""Failure kinds of well-known client libraries, which policies know without being told."""

from __future__ import annotations

import httpx
import pytest

from hormesis.outcome import FailureKind, classify


def status(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://stock")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError(""), FailureKind.CONNECT),
        (httpx.ConnectTimeout(""), FailureKind.CONNECT),
        (httpx.PoolTimeout(""), FailureKind.REJECTED),
        (httpx.ReadTimeout(""), FailureKind.TIMEOUT),
        (httpx.ReadError(""), FailureKind.UNAVAILABLE),
        (httpx.RemoteProtocolError(""), FailureKind.UNAVAILABLE),
        (httpx.UnsupportedProtocol(""), FailureKind.INVALID),
        (status(404), FailureKind.INVALID),
        (status(408), FailureKind.TIMEOUT),
        (status(429), FailureKind.THROTTLED),
        (status(500), FailureKind.ERROR),
        (status(503), FailureKind.UNAVAILABLE),
        (status(504), FailureKind.TIMEOUT),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(getattr(value, 'response', None), 'status_code', '')}",
)
def test_kinds_of_httpxs_exceptions(error: Exception, kind: FailureKind) -> None:
    """An httpx exception is the kind of failure that it means, with no registration by the user."""
    assert classify(error) is kind
