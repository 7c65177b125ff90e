"""What is read from headers, and what is written into them."""

from __future__ import annotations

import datetime
import email.message
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hormesis.headers import (
    DEADLINE,
    REQUEST_ID,
    deadline_headers,
    remaining_of,
    request_id_headers,
    request_id_of,
    retry_after_of,
)

GRPC, ENVOY = "grpc-timeout", "x-envoy-expected-rq-timeout-ms"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

NOON = datetime.datetime(1994, 11, 6, 12, tzinfo=datetime.UTC).timestamp()
FORMS = ["Sun, 06 Nov 1994 12:00:30 GMT", "Sunday, 06-Nov-94 12:00:30 GMT", "Sun Nov  6 12:00:30 1994"]


def at_noon() -> float:
    return NOON


# How people and libraries have headers: names in any case, text or bytes, mappings or pairs.


def _message(name: str, value: str) -> email.message.Message:
    message = email.message.Message()
    message[name] = value
    return message


def _of_httpx(name: str, value: str) -> Any:
    return pytest.importorskip("httpx").Headers({name: value})


def _of_aiohttp(name: str, value: str) -> Any:
    multidict = pytest.importorskip("multidict")
    return multidict.CIMultiDictProxy(multidict.CIMultiDict({name: value}))


SHAPES = {
    "dict": lambda name, value: {"Server": "x", name: value},
    "upper case": lambda name, value: {name.upper(): value},
    "pairs": lambda name, value: [("server", "x"), (name.lower(), value)],
    "pairs of bytes": lambda name, value: [(name.encode(), value.encode())],
    "metadata with bytes": lambda name, value: (("trace-bin", b"\xff\x00"), (name.lower(), value)),
    "urllib": _message,
    "httpx": _of_httpx,
    "aiohttp": _of_aiohttp,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_headers_of_any_library(shape: str) -> None:
    """Headers are found in whatever a library keeps them in, however their names are written."""
    make = SHAPES[shape]
    assert retry_after_of(make("Retry-After", "7")) == 7.0
    assert remaining_of(make("Hormesis-Timeout-Ms", "1500.5")) == 1.5005
    assert request_id_of(make("X-Request-ID", " r-1 ")) == "r-1"


class Broken(dict[str, str]):
    """A mapping that does not do what mappings do."""

    def items(self) -> Any:
        raise RuntimeError("not today")


@pytest.mark.parametrize("headers", [None, 3, "retry-after", [1, 2], [("one",)], [(3, 4)], Broken(), {3: 4}, object()])
def test_what_is_no_headers_says_nothing(headers: Any) -> None:
    """An object that is not what it says costs nobody a call."""
    assert retry_after_of(headers) is None
    assert remaining_of(headers) is None
    assert request_id_of(headers) is None


# Retry-After.


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0.0), ("120", 120.0), (" 5 ", 5.0), ("1.5", 1.5), ("999999999", 999_999_999.0)]
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    """Seconds are what they say, also with the decimals that some servers send."""
    assert retry_after_of({"Retry-After": value}) == seconds


@pytest.mark.parametrize("date", FORMS)
def test_retry_after_as_a_date(date: str) -> None:
    """All three forms of a date are read, relative to the wall clock where the answer has no date."""
    assert retry_after_of({"Retry-After": date}, now=at_noon) == 30.0


@pytest.mark.parametrize("date", FORMS)
@pytest.mark.parametrize("retry_after", FORMS)
def test_a_date_counts_from_the_answer_s_own(date: str, retry_after: str) -> None:
    """Where the answer says when it was sent, our own clock does not matter."""
    later = retry_after.replace("12:00:30", "12:01:00")
    assert retry_after_of({"Retry-After": later, "Date": date}, now=lambda: 0.0) == 30.0


def test_an_answer_s_date_that_can_t_be_read() -> None:
    """A broken date of the answer leaves the wall clock."""
    assert retry_after_of({"Retry-After": FORMS[0], "Date": "today"}, now=at_noon) == 30.0


def test_a_date_that_has_passed() -> None:
    """It asks for no wait, and never for less than none; by the real clock, 1994 has passed."""
    assert retry_after_of({"Retry-After": FORMS[0]}) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1e3",
        "0x10",
        "soon",
        "1,2",
        "5, 6",
        "9999999999",
        "9" * 10_000,
        "٣",
        "nan",
        "inf",
        "Sun, 32 Nov 1994 12:00:30 GMT",
        "Sun, 06 Nov 99999 12:00:30 GMT",
        "Sun, 06 Nov 1994 12:00:30 GMT" + " " * 100 + "x",
        "Sun",
    ],
)
def test_a_retry_after_that_can_t_be_read(value: str) -> None:
    """Nonsense is no request to wait, and is read in bounded time."""
    assert retry_after_of({"Retry-After": value}) is None


ALMOST = st.one_of(
    st.text(max_size=80),
    st.text("0123456789.,-: nHMSmuGTdaysunov", max_size=40),
    st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,12} [A-Z+0-9]{1,6}"),
)


@given(ALMOST, ALMOST)
@example("Sun, 06 Nov 1994 12:00:30 GMT", "Mon,")
def test_no_text_breaks_retry_after(value: str, date: str) -> None:
    """Whatever a server sends, the result is None or a finite number of seconds from zero."""
    seconds = retry_after_of({"Retry-After": value, "Date": date}, now=at_noon)
    assert seconds is None or 0 <= seconds < math.inf


# Deadlines.

REQUESTS = st.floats(0, 86_400)


@given(REQUESTS)
@example(0.001)
@example(0.0019999999999999998)
@example(99.99999999999999)
@example(100.0)
def test_a_deadline_survives_the_wire(remaining: float) -> None:
    """What arrives is never more than what was left, and less by a millisecond at most."""
    arrived = remaining_of(deadline_headers(remaining))
    assert arrived is not None
    assert remaining - 0.001 <= arrived <= remaining


@given(REQUESTS)
def test_each_deadline_header_by_itself(remaining: float) -> None:
    """Each of the three, where a server knows but one, is as near as its unit allows, and never more."""
    headers = deadline_headers(remaining)
    for name, unit in ((DEADLINE, 1e-6), (GRPC, max(1e-9, remaining * 1e-5)), (ENVOY, 1e-3)):
        if name in headers:
            arrived = remaining_of({name: headers[name]})
            assert arrived is not None
            assert remaining - 1.01 * unit <= arrived <= remaining


@given(st.floats(0, allow_nan=False, allow_infinity=False))
@example(1e9)
@example(1e300)
def test_a_deadline_of_any_length_can_be_read(remaining: float) -> None:
    """However long, headers keep to their formats, and never say more than is left."""
    headers = deadline_headers(remaining)
    assert len(headers[GRPC]) <= 9
    arrived = remaining_of(headers)
    assert arrived is not None
    assert arrived <= remaining


@pytest.mark.parametrize("remaining", [0, 0.0, -0.0, -3.5, 5e-324, 0.0009])
def test_a_deadline_of_nothing(remaining: float) -> None:
    """No time left is said, except to Envoy, for which zero is no limit at all."""
    headers = deadline_headers(remaining)
    assert ENVOY not in headers
    assert remaining_of(headers) == pytest.approx(0.0, abs=0.001)


@pytest.mark.parametrize("remaining", [math.inf, math.nan])
def test_no_deadline_no_headers(remaining: float) -> None:
    """A call without end says nothing of its end."""
    assert deadline_headers(remaining) == {}


@pytest.mark.parametrize(
    ("remaining", "value"),
    [
        (0.05, "50000000n"),
        (0.1, "100000u"),
        (99.5, "99500000u"),
        (100, "100000m"),
        (86_400, "86400000m"),
        (100_000, "100000S"),
        (6e8, "10000000M"),
        (3.6e11, "99999999H"),
    ],
)
def test_grpc_timeouts_have_eight_digits(remaining: float, value: str) -> None:
    """The finest unit is taken that needs no more than eight digits."""
    assert deadline_headers(remaining)[GRPC] == value


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9), ("0n", 0.0)],
)
def test_the_units_of_grpc(value: str, seconds: float) -> None:
    """A gRPC timeout is read in each of its units."""
    assert remaining_of({GRPC: value}) == seconds


def test_the_nearest_deadline_counts() -> None:
    """Where there are several, and even several of one, the smallest that can be read is it."""
    assert remaining_of({DEADLINE: "900", GRPC: "800m", ENVOY: "700"}) == 0.7
    assert remaining_of({DEADLINE: "900", GRPC: "800m", ENVOY: "7e2"}) == 0.8
    assert remaining_of([(ENVOY, "900"), (ENVOY, "300")]) == 0.3


def test_zeros() -> None:
    """A zero is a deadline that has come, and from Envoy none at all."""
    assert remaining_of({DEADLINE: "0"}) == 0.0
    assert remaining_of({GRPC: "0m"}) == 0.0
    assert remaining_of({ENVOY: "0"}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {DEADLINE: ""},
        {DEADLINE: "-1"},
        {DEADLINE: "1e3"},
        {DEADLINE: "12345678901"},
        {DEADLINE: "1.1234567"},
        {DEADLINE: "1."},
        {DEADLINE: "nan"},
        {DEADLINE: "٣"},
        {GRPC: "5"},
        {GRPC: "m"},
        {GRPC: "-5m"},
        {GRPC: "5s"},
        {GRPC: "5 m"},
        {GRPC: "123456789m"},
        {GRPC: "٣m"},
        {ENVOY: "5ms"},
        {ENVOY: "9" * 100_000},
    ],
)
def test_a_deadline_that_can_t_be_read(headers: dict[str, str]) -> None:
    """What is malformed, negative or absurdly long is no deadline."""
    assert remaining_of(headers) is None


@given(ALMOST, ALMOST, ALMOST)
def test_no_text_breaks_a_deadline(ours: str, grpc: str, envoy: str) -> None:
    """Whatever a client sends, the result is None or a finite number of seconds from zero."""
    seconds = remaining_of({DEADLINE: ours, GRPC: grpc, ENVOY: envoy})
    assert seconds is None or 0 <= seconds < math.inf


# Request ids.


@pytest.mark.parametrize("request_id", ["r-1", "x" * 128, "!~", "9f:8/a=b"])
def test_a_request_id_survives_the_wire(request_id: str) -> None:
    """An id of visible ASCII is handed on as it is."""
    assert request_id_of(request_id_headers(request_id)) == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "two words", "line\r\nbreak", "nul\0", "naïve", "tab\t"])
def test_what_is_no_request_id(request_id: str) -> None:
    """What would not be safe in a header or a log is neither written nor read."""
    assert request_id_headers(request_id) == {}
    if request_id != "tab\t":  # white space around a value is no part of it
        assert request_id_of({REQUEST_ID: request_id}) is None


def test_no_request_id() -> None:
    """A request without an id hands on none."""
    assert request_id_headers(None) == {}
    assert request_id_of({}) is None


def test_the_trace_stands_in() -> None:
    """A request without an id that can be used goes by its trace; one that has both, by its id."""
    assert request_id_of({"Traceparent": TRACE_PARENT}) == TRACE_ID
    assert request_id_of({"traceparent": TRACE_PARENT, REQUEST_ID: "two words"}) == TRACE_ID
    assert request_id_of({"traceparent": TRACE_PARENT, REQUEST_ID: "r-1"}) == "r-1"
    assert request_id_of({"traceparent": "01" + TRACE_PARENT[2:] + "-later"}) == TRACE_ID


@pytest.mark.parametrize(
    "parents",
    [
        ["ff" + TRACE_PARENT[2:]],
        [TRACE_PARENT + "-more"],
        [TRACE_PARENT.upper()],
        [TRACE_PARENT.replace(TRACE_ID, "0" * 32)],
        [TRACE_PARENT.replace("00f067aa0ba902b7", "0" * 16)],
        [TRACE_PARENT[:-1]],
        [TRACE_PARENT, TRACE_PARENT],
    ],
)
def test_a_trace_that_is_none(parents: list[str]) -> None:
    """A trace parent that breaks its own rules, or is there twice, stands in for nothing."""
    assert request_id_of([("traceparent", parent) for parent in parents]) is None


@given(ALMOST, ALMOST)
def test_no_text_breaks_a_request_id(value: str, parent: str) -> None:
    """Whatever a client sends, the result is None or can be handed on."""
    found = request_id_of({REQUEST_ID: value, "traceparent": parent})
    assert found is None or request_id_headers(found) == {REQUEST_ID: found}
