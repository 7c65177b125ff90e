"""What travels in the headers of a request and its answer: deadlines, request ids, Retry-After.

A deadline is sent as the time that is left, never as a moment: two machines' clocks can't be compared. What is sent is
rounded down and so is never longer than what is left; each hop loses the time on the wire, which nobody can measure.

    grpc-timeout                     at most 8 digits and a unit (H M S m u n)
    x-envoy-expected-rq-timeout-ms   whole milliseconds
    hormesis-timeout-ms              milliseconds with three decimals, for what speaks neither of the others

All three are sent, so that whoever serves the request finds one that it knows; of those that come in the smallest
counts, since a proxy on the way may have shortened one of them.

Headers are read as whatever library has them: any mapping, also one that is particular about case, or pairs of names
and values, as gRPC and ASGI have them. What comes from outside is read in bounded time, and never raises: what can't be
read says nothing. Names are written in lower case, the only one that HTTP/2 and gRPC let pass.

Sources: RFC 9110, sections 5.6.7 and 10.2.3; "gRPC over HTTP2"; Envoy's HTTP router filter; W3C Trace Context.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

__all__ = [
    "DEADLINE",
    "REQUEST_ID",
    "Headers",
    "deadline_headers",
    "remaining_of",
    "request_id_headers",
    "request_id_of",
    "retry_after_of",
]

Headers: TypeAlias = Mapping[str, Any] | Iterable[tuple[Any, Any]]
"""Headers of any library: a mapping, or pairs of a name and a value, each text or bytes."""

DEADLINE = "hormesis-timeout-ms"
"""The milliseconds that a request has left, with decimals."""
_GRPC = "grpc-timeout"
_ENVOY = "x-envoy-expected-rq-timeout-ms"

REQUEST_ID = "x-request-id"
"""The id of a request, the same over all hops."""
_TRACE = "traceparent"

_LONGEST = 64
"""Characters that a number or a date takes at most; longer values are not read."""

_SECONDS = re.compile(r"([0-9]{1,9})(?:\.[0-9]{1,9})?")
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_MILLISECONDS = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,6}))?")
_MILLISECONDS_MAX = 9_999_999_999
"""Ten digits: 115 days, which is for ever as far as requests go."""
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Version ff is none, the zeros are none, and only a later version than 00 may be longer.
_TRACE_PARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)

# Unit, how many make a second, and how many seconds it is: one of the two is 1. The finest first.
_GRPC_UNITS = (
    ("n", 1_000_000_000, 1),
    ("u", 1_000_000, 1),
    ("m", 1_000, 1),
    ("S", 1, 1),
    ("M", 1, 60),
    ("H", 1, 3600),
)
_GRPC_UNIT = {unit: (a_second, its_seconds) for unit, a_second, its_seconds in _GRPC_UNITS}
_GRPC_DIGITS = 10**8


def retry_after_of(headers: Headers, *, now: Callable[[], float] | None = None) -> float | None:
    """Return the seconds that an answer's `Retry-After` asks for; None when it has none that can be read.

    A date is counted from the answer's own `Date`, so that it does not matter what our clock says; without one it is
    counted from the wall clock. A date that has passed asks for no wait.

    Args:
        headers: Of the answer.
        now: The wall clock, as seconds since 1970.

    >>> retry_after_of({"retry-after": "120"})
    120.0
    >>> retry_after_of({"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 1994 08:50:07 GMT"})
    30.0
    """
    found = _found(headers, "retry-after", "date")
    asked = found.get("retry-after", [""])[0]
    if _SECONDS.fullmatch(asked):
        return float(asked)
    until = _moment(asked)
    if until is None:
        return None
    sent = _moment(found.get("date", [""])[0])
    return max(0.0, until - ((now or time.time)() if sent is None else sent))


def _moment(text: str) -> float | None:
    """Read an HTTP date, in any of its three forms, as seconds since 1970."""
    if not text[:1].isalpha() or len(text) > _LONGEST:
        return None
    from datetime import UTC  # noqa: PLC0415  few servers send dates
    from email.utils import parsedate_to_datetime  # noqa: PLC0415

    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # The form of C's asctime names no zone; dates of HTTP are in UTC always.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def deadline_headers(remaining: float) -> dict[str, str]:
    """Return the headers that tell whoever serves a request how much time it has left.

    Args:
        remaining: Seconds; without end, there are no headers.

    >>> deadline_headers(1.5)
    {'hormesis-timeout-ms': '1500.000', 'grpc-timeout': '1500000u', 'x-envoy-expected-rq-timeout-ms': '1500'}
    """
    if not remaining < math.inf:
        return {}
    # Exact, as a float's product may be rounded up.
    seconds, parts = max(0.0, remaining).as_integer_ratio()
    micros = min(seconds * 1_000_000 // parts, _MILLISECONDS_MAX * 1000)
    millis, rest = divmod(micros, 1000)
    headers = {DEADLINE: f"{millis}.{rest:03d}", _GRPC: _grpc_timeout(seconds, parts)}
    if millis:  # to Envoy, zero means that there is no limit
        headers[_ENVOY] = str(millis)
    return headers


def _grpc_timeout(seconds: int, parts: int) -> str:
    for unit, a_second, its_seconds in _GRPC_UNITS:
        value = seconds * a_second // (parts * its_seconds)
        if value < _GRPC_DIGITS:
            return f"{value}{unit}"
    return f"{_GRPC_DIGITS - 1}H"


def remaining_of(headers: Headers) -> float | None:
    """Return the seconds that a request has left, by the smallest of its deadline headers; None when none can be read.

    >>> remaining_of({"Grpc-Timeout": "250m", "X-Envoy-Expected-Rq-Timeout-Ms": "200"})
    0.2
    """
    found = _found(headers, DEADLINE, _GRPC, _ENVOY)
    times = [
        *map(_read_milliseconds, found.get(DEADLINE, ())),
        *map(_read_grpc_timeout, found.get(_GRPC, ())),
        # A zero there is no deadline that has passed, but none at all.
        *(_read_milliseconds(value) or None for value in found.get(_ENVOY, ())),
    ]
    return min((time for time in times if time is not None), default=None)


def _read_milliseconds(text: str) -> float | None:
    match = _MILLISECONDS.fullmatch(text)
    # A quotient of whole numbers is rounded once, and so never beyond the number that was sent.
    return int(match[1] + (match[2] or "").ljust(6, "0")) / 10**9 if match else None


def _read_grpc_timeout(text: str) -> float | None:
    match = _GRPC_TIMEOUT.fullmatch(text)
    if match is None:
        return None
    a_second, its_seconds = _GRPC_UNIT[match[2]]
    return int(match[1]) * its_seconds / a_second


def request_id_of(headers: Headers) -> str | None:
    """Return the id of a request: its `X-Request-ID`, else the trace id of its `traceparent`; None when it has neither.

    An id goes into logs and into further requests, so it is at most 128 visible ASCII characters, or it is none.

    >>> request_id_of({"X-Request-ID": "r-1"})
    'r-1'
    >>> request_id_of({"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
    '4bf92f3577b34da6a3ce929d0e0e4736'
    """
    found = _found(headers, REQUEST_ID, _TRACE)
    for value in found.get(REQUEST_ID, ()):
        if _REQUEST_ID.fullmatch(value):
            return value
    parents = found.get(_TRACE, ())
    match = _TRACE_PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    return match[1] if match else None


def is_request_id(value: str) -> bool:
    """Whether a text may be the id of a request.

    >>> is_request_id("r-1"), is_request_id("not one word")
    (True, False)
    """
    return _REQUEST_ID.fullmatch(value) is not None


def request_id_headers(request_id: str | None) -> dict[str, str]:
    """Return the headers that hand on the id of a request: none when there is no id, or one that can't be sent.

    >>> request_id_headers("r-1"), request_id_headers("not one word"), request_id_headers(None)
    ({'x-request-id': 'r-1'}, {}, {})
    """
    return {REQUEST_ID: request_id} if request_id is not None and is_request_id(request_id) else {}


def _found(headers: Headers, *names: str) -> dict[str, list[str]]:
    """Return the values of those headers that are there, by name in lower case, in their order."""
    found: dict[str, list[str]] = {}
    try:
        # urllib's headers are no mapping, and iterate over names.
        named = isinstance(headers, Mapping) or hasattr(headers, "get_all")
        pairs = cast("Mapping[Any, Any]", headers).items() if named else cast("Iterable[tuple[Any, Any]]", headers)
        for name, value in pairs:
            key = _text(name).lower()
            if key in names:
                found.setdefault(key, []).append(_text(value).strip(" \t"))
    except Exception:
        # Somebody else's object, and it is not what it says. That must not cost the call.
        return found
    return found


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
