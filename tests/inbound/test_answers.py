"""What a client is told that is turned away."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hormesis as hm
from hormesis.core.admission import Refusal
from hormesis.core.rate_limit import Standing
from hormesis.core.slots import Inbound
from hormesis.headers import retry_after_of
from hormesis.inbound.answers import Answer, Refused, answer_to, of_error, policy_header, standing_header

MINUTE, DAY = Standing("100/min", 100, 60.0, 0, 30.0), Standing("daily", 5000, 86400.0, 412, 3600.5)


def answered(refused: Refused, *standings: Standing, seed: int = 1) -> tuple[int, dict[str, str], dict[str, object]]:
    answer = answer_to(refused, "r-1", standings, Random(seed))
    headers = dict(answer.headers)
    assert headers["content-length"] == str(len(answer.body))
    assert headers["content-type"] == "application/problem+json"
    assert headers["cache-control"] == "no-store"
    problem = json.loads(answer.body)
    assert problem["status"] == answer.status
    assert problem["request-id"] == headers["x-request-id"] == "r-1"
    return answer.status, headers, problem


def test_a_limit_that_is_used_up() -> None:
    """429, when to come back, which limit it was, and how all of them stand."""
    refused = Refused(Inbound.RATE_LIMIT, Refusal("100/min used up", 12.3), violated=("100/min",))
    status, headers, problem = answered(refused, MINUTE, DAY)
    assert status == 429
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert problem["violated-policies"] == ["100/min"]
    again = int(headers["retry-after"])
    assert 13 <= again <= 17
    assert headers["ratelimit-policy"] == '"100/min";q=100;w=60, "daily";q=5000;w=86400'
    assert headers["ratelimit"] == f'"100/min";r=0;t={again}, "daily";r=412;t=3601'
    assert "connection" not in headers


def test_more_than_any_quota_holds() -> None:
    """Who asks for what can never be granted is not told to come back."""
    refused = Refused(Inbound.RATE_LIMIT, Refusal("costs more than 100/min allows"), violated=("100/min",))
    status, headers, problem = answered(refused, MINUTE)
    assert status == 429
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#abnormal-usage-detected"
    assert "retry-after" not in headers
    assert headers["ratelimit"] == '"100/min";r=0'


def test_no_room() -> None:
    """503, and when to come back, also where nobody knows it exactly."""
    status, headers, problem = answered(Refused(Inbound.LOAD_SHEDDER, Refusal("overloaded")))
    assert status == 503
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
    assert problem["detail"] == "overloaded"
    assert int(headers["retry-after"]) in (1, 2)


def test_a_process_that_leaves() -> None:
    """Its connections are of no use any more."""
    status, headers, _ = answered(Refused(Inbound.LOAD_SHEDDER, Refusal("leaving"), leaving=True))
    assert (status, headers["connection"]) == (503, "close")


def test_too_late() -> None:
    """504, without an invitation to come back: the time is over."""
    status, headers, problem = answered(Refused(Inbound.DEADLINE, Refusal("too late", 3.0)))
    assert status == 504
    assert problem["type"] == "about:blank"
    assert "violated-policies" not in problem
    assert "retry-after" not in headers


def test_clients_do_not_come_back_as_one() -> None:
    """Chance spreads them, over a second at least, and never before the time."""
    for after, least, most in ((0.2, 1, 2), (1.0, 1, 2), (40.0, 40, 50)):
        refused = Refused(Inbound.LOAD_SHEDDER, Refusal("overloaded", after))
        drawn = {int(answered(refused, seed=seed)[1]["retry-after"]) for seed in range(300)}
        assert drawn == set(range(least, most + 1))


def test_an_eternity_is_a_day() -> None:
    """No client has to count further than that."""
    _, headers, _ = answered(Refused(Inbound.LOAD_SHEDDER, Refusal("overloaded", 1e300)))
    assert 86_400 <= int(headers["retry-after"]) <= 108_000


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (hm.CircuitOpen("payments", "open", 7.0), 503, "a dependency"),
        (hm.BulkheadFull("payments", "full"), 503, "a dependency"),
        (hm.RateLimited("payments", "100/s used up", 0.5), 503, "a dependency"),
        (hm.RateLimited("shop", "100/s used up", 0.5), 429, "100/s used up"),
        (hm.DeadlineExceeded("payments", 2.0), 504, "deadline"),
        (hm.TimedOut("payments", 2.0), 504, "timeout"),
    ],
)
def test_exceptions_of_ours(error: Exception, status: int, detail: str) -> None:
    """A limit of the service's own is the client's business; whatever a dependency refuses is not."""
    answer = of_error(error, "shop", "r-1", Random(1))
    assert answer is not None
    assert (answer.status, json.loads(answer.body)["detail"]) == (status, detail)


def test_other_exceptions_are_not_ours_to_answer() -> None:
    """They go on to whoever answers errors."""
    assert of_error(ValueError(), "shop", "r-1", Random(1)) is None
    assert of_error(TimeoutError(), "shop", "r-1", Random(1)) is None


def test_headers_are_structured_fields() -> None:
    """Names are strings of printable ASCII, and numbers are whole and bounded (RFC 9651)."""
    odd = Standing('a"b\\c\u00e9', 10**20, 0.5, 3, 0.0)
    assert policy_header([odd]) == '"a\\"b\\\\c?";q=999999999999999;w=1'
    assert standing_header([odd]) == '"a\\"b\\\\c?";r=3;t=0'


@given(st.floats(allow_nan=False, min_value=0), st.text(max_size=50), st.integers(0, 1000))
def test_an_answer_can_be_read_back(after: float, reason: str, seed: int) -> None:
    """What we write, we can read, and it is never earlier than what was meant."""
    refused = Refused(Inbound.LOAD_SHEDDER, Refusal(reason, after))
    answer: Answer = answer_to(refused, "r-1", (), Random(seed))
    read = retry_after_of(answer.headers)
    assert read is not None
    assert read >= min(after, 86_400.0)
    assert json.loads(answer.body)["detail"] == reason
    assert all(f"{name}{value}".isascii() for name, value in answer.headers)
