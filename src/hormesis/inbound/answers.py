"""What a client is told that is turned away, and what all others are told of their limits.

    429   a rate limit is used up                    quota-exceeded
    429   it asks for more than any quota holds      abnormal-usage-detected
    503   the service has no room, or is leaving     temporary-reduced-capacity
    504   nobody waits for the answer any more

Each says when to come back: `Retry-After`, in whole seconds rounded up, with some seconds of chance added, since
clients that were turned away together would else come back together. The body is a problem in JSON, of the types that
the draft of the RateLimit headers declares. Those tell every client how its limits stand, before it runs into them.

Sources: RFC 9110 (Retry-After), RFC 9457 (problems), draft-ietf-httpapi-ratelimit-headers-11.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hormesis.clock import Random
from hormesis.core.admission import Refusal
from hormesis.core.rate_limit import Standing
from hormesis.core.slots import Inbound
from hormesis.errors import DeadlineExceeded, RateLimited, Rejected, TimedOut

__all__ = ["Answer", "Headers", "Refused", "answer_to", "of_error", "policy_header", "standing_header"]

Headers = list[tuple[str, str]]
"""Names in lower case, and values; all of them ASCII."""

_TYPES = "https://iana.org/assignments/http-problem-types#"
_QUOTA = ("quota-exceeded", "Request cannot be satisfied as assigned quota has been exceeded")
_CAPACITY = ("temporary-reduced-capacity", "Request cannot be satisfied due to temporary server capacity constraints")
_ABNORMAL = ("abnormal-usage-detected", "Request not satisfied due to detection of abnormal request pattern")
_LATE = ("", "The time in which an answer was of use is over")

_AFTER_UNKNOWN = 1.0
"""Seconds after which to come back when nobody knows better: overloads pass in seconds, or stay."""
_AFTER_MAX = 86_400.0
"""A day: longer is as good as never, and some clients would count it in a 32-bit number of milliseconds."""
_JITTER = 0.25
"""What chance adds at most, as a share; and a second, where that is more."""
_INTEGER_MAX = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651)."""


class Refused(NamedTuple):
    """A stop turned a request away.

    Args:
        stop: Which.
        refusal: Why, and when to come back.
        violated: Names of the limits that are used up.
        leaving: Whether the whole process goes away, so that the connection is of no use any more.
    """

    stop: Inbound
    refusal: Refusal
    violated: tuple[str, ...] = ()
    leaving: bool = False

    @property
    def status(self) -> int:
        """The status that stands for it in HTTP."""
        if self.stop is Inbound.DEADLINE:
            return 504
        return 429 if self.stop is Inbound.RATE_LIMIT else 503


class Answer(NamedTuple):
    """An answer of ours, whole."""

    status: int
    headers: Headers
    body: bytes


def answer_to(refused: Refused, request_id: str, standings: Sequence[Standing], random: Random) -> Answer:
    """Make the answer to a request that was turned away.

    Args:
        refused: Why.
        request_id: Its id.
        standings: How its rate limits stand.
        random: Draws when it is to come back.

    >>> from random import Random
    >>> refused = Refused(Inbound.LOAD_SHEDDER, Refusal("overloaded", 2.4))
    >>> answer = answer_to(refused, "r-1", (), Random(1))
    >>> answer.status, dict(answer.headers)["retry-after"]
    (503, '3')
    """
    status, after = refused.status, refused.refusal.retry_after
    kind, title = _CAPACITY
    if status == 504:
        (kind, title), after = _LATE, None
    elif status == 429:
        # A refusal that no time would change: it costs more than the limit holds when nothing is spent.
        kind, title = _QUOTA if after is not None else _ABNORMAL
    elif after is None:
        after = _AFTER_UNKNOWN
    again = None if after is None else _seconds_to_wait(after, random)
    headers = _problem_headers(request_id)
    if again is not None:
        headers.append(("retry-after", str(again)))
    if standings:
        headers.append(("ratelimit-policy", policy_header(standings)))
        headers.append(("ratelimit", standing_header(standings, dict.fromkeys(refused.violated, again))))
    if refused.leaving:
        headers.append(("connection", "close"))
    body = _body(kind, title, status, refused.refusal.reason, request_id, refused.violated)
    headers.append(("content-length", str(len(body))))
    return Answer(status, headers, body)


def of_error(
    error: BaseException,
    service: str,
    request_id: str,
    random: Random,
    standings: Sequence[Standing] = (),
    violated: tuple[str, ...] = (),
) -> Answer | None:
    """Make the answer to a request that ended by an exception of ours; None for any other exception.

    A limit of the service's own is the client's business. That one of its dependencies refuses, or does not answer, is
    not: whatever the reason, the service can't serve this now.

    Args:
        error: What left the application.
        service: The name of the service, which its own refusals bear.
        request_id: The id of the request.
        random: Draws when the client is to come back.
        standings: How the service's own rate limits stand, if one of them refused.
        violated: Which did.

    >>> from random import Random
    >>> from hormesis.errors import CircuitOpen
    >>> of_error(CircuitOpen("payments", "open", 7.0), "shop", "r-1", Random(1)).status
    503
    """
    if isinstance(error, TimedOut):
        stop, refusal = Inbound.DEADLINE, Refusal("deadline" if isinstance(error, DeadlineExceeded) else "timeout")
    elif isinstance(error, Rejected):
        own = isinstance(error, RateLimited) and error.policy == service
        stop, reason = Inbound.RATE_LIMIT if own else Inbound.LOAD_SHEDDER, error.reason if own else "a dependency"
        refusal = Refusal(reason, error.retry_after)
    else:
        return None
    return answer_to(Refused(stop, refusal, violated), request_id, standings, random)


def policy_header(standings: Iterable[Standing]) -> str:
    """Return what `RateLimit-Policy` says: the limits that there are.

    >>> policy_header([Standing("100/s", 100, 1.0, 40, 0.6)])
    '"100/s";q=100;w=1'
    """
    return ", ".join(
        f"{_text(each.name)};q={min(each.quota, _INTEGER_MAX)};w={max(1, math.ceil(each.window))}" for each in standings
    )


def standing_header(standings: Iterable[Standing], used_up: dict[str, int | None] | None = None) -> str:
    """Return what `RateLimit` says: how they stand.

    Args:
        standings: The limits of a client.
        used_up: Those that turned it away, and the seconds after which it is to come back.

    >>> standing_header([Standing("100/s", 100, 1.0, 40, 0.6)])
    '"100/s";r=40;t=1'
    """
    if used_up:
        # Not later than Retry-After, and with the same share of chance in it.
        return ", ".join(
            f"{_text(name)};r=0{'' if used_up[name] is None else f';t={used_up[name]}'}"
            if name in used_up
            else f"{_text(name)};r={max(0, remaining)};t={math.ceil(reset)}"
            for name, _, _, remaining, reset in standings
        )
    return ", ".join(
        [f"{_text(name)};r={remaining};t={math.ceil(reset)}" for name, _, _, remaining, reset in standings]
    )


def _seconds_to_wait(after: float, random: Random) -> int:
    after = min(after, _AFTER_MAX)
    return max(1, math.ceil(after)) + int(random.random() * (1 + max(1.0, _JITTER * after)))


def _problem_headers(request_id: str) -> Headers:
    return [
        ("content-type", "application/problem+json"),
        # How things stand now is of no use to anybody else, or later.
        ("cache-control", "no-store"),
        ("x-request-id", request_id),
    ]


def _body(kind: str, title: str, status: int, reason: str, request_id: str, violated: tuple[str, ...]) -> bytes:
    before, after = _around_the_id(kind, title, status, reason, violated)
    return f"{before}{json.dumps(request_id)}{after}".encode()


@functools.lru_cache(maxsize=256)
def _around_the_id(kind: str, title: str, status: int, reason: str, violated: tuple[str, ...]) -> tuple[str, str]:
    """Write a problem but for the id of the request: in an overload, the rest is the same a thousand times a second."""
    problem: dict[str, object] = {
        "type": f"{_TYPES}{kind}" if kind else "about:blank",
        "title": title,
        "status": status,
        "detail": reason,
    }
    if kind:
        problem["violated-policies"] = violated
    return f'{json.dumps(problem)[:-1]}, "request-id": ', "}"


@functools.lru_cache(maxsize=256)
def _text(name: str) -> str:
    """Write a string of a structured field, which is printable ASCII."""
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in name)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'
