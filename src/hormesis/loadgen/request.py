"""What a load is made of: the kinds of requests, and everything that one run of the generator needs to know.

Both are settings: frozen, validated when made, and sent through the pipe to the generator as they are.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field, fields
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.headers import retry_after_of
from hormesis.loadgen.expect import Expect
from hormesis.loadgen.origin import Origin
from hormesis.loadgen.samples import Answer
from hormesis.loadgen.schedule import (
    ArrivalProcess,
    Seed,
    Segment,
    Stream,
    Trace,
    Users,
    check_size,
    duration,
    merged,
)
from hormesis.loadgen.template import BUILT_IN, Values, choices, names_in, strings_in
from hormesis.priority import Criticality
from hormesis.units import Duration, seconds

__all__ = ["LoadSpec", "Request", "Retries"]

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_NAME = re.compile(r".+")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[^\r\n\0]*")
_BODY = re.compile(r".*", re.DOTALL)
_PATH = re.compile(r"/[!-~]*")
_NOT_DEGRADED = ("", "0", "false")
_REQUESTS_MAX = 1000
_ATTEMPTS_MAX = 20
_ANY = Expect()
_TOO_MANY_REQUESTS, _UNAVAILABLE, _SERVERS_FAULT = 429, 503, 500


@dataclass(frozen=True, slots=True)
class Retries:
    """How a caller repeats what failed: at once or after a pause, whatever the answer said; as too many callers do.

    A timeout, a broken connection and the statuses 429 and 500 to 599 are repeated. No back-off, no jitter, no budget,
    no heed of `Retry-After`: this is what turns a short trouble into a long one (a retry storm).

    Args:
        attempts: How many there are at most, the first one included.
        timeout: The patience for one attempt; None is the request's own, which all attempts share.
        delay: The pause before each further attempt.

    Raises:
        ConfigurationError: A setting that can't be meant.

    >>> Retries(3, timeout="1s").attempts
    3
    """

    attempts: int
    _: KW_ONLY
    timeout: Duration | None = None
    delay: Duration = 0.0

    def __post_init__(self) -> None:
        if type(self.attempts) is not int or not 2 <= self.attempts <= _ATTEMPTS_MAX:
            accepted = f"a whole number from 2 to {_ATTEMPTS_MAX}, the first attempt included"
            raise ConfigurationError.bad_value("attempts", self.attempts, accepted)
        if self.timeout is not None:
            object.__setattr__(self, "timeout", seconds(self.timeout, "timeout"))
        object.__setattr__(self, "delay", seconds(self.delay, "delay", zero=True))


@dataclass(frozen=True, slots=True)
class Request:
    """One kind of request in the mix.

    Args:
        name: What tables call it.
        path: From the slash on, with `{placeholders}`; what is drawn for them is quoted.
        method: The HTTP method.
        weight: Its share of the arrivals, relative to the other requests of the mix.
        headers: Headers, whose values may hold placeholders.
        json: The body as JSON, in whose texts placeholders are replaced by text; None sends no body.
        body: The body as text, sent as it is, in place of `json`.
        values: What each placeholder is drawn from, evenly: a list, a `range`, or `{"from": 1, "to": 50}`. `{n}` (the
            arrival's number) and `{uuid}` (an id of its own for each arrival) need no values.
        expect: What a full answer must look like: a status, several, or an `Expect`; None takes 200 to 299.
        priority: How much it matters: `"critical"`, `"default"`, `"sheddable"` or `"background"`, which is sent as the
            header `Priority` of RFC 9218; None says nothing.
        timeout: The patience of its callers; None is the load's.
        retry: How its callers repeat it; None is not at all.

    Raises:
        ConfigurationError: A setting that can't be meant; the error names it.

    >>> buy = Request("buy", method="POST", path="/orders", json={"sku": "{sku}"}, values={"sku": range(1, 51)})
    >>> buy.judge(201), buy.judge(503)
    ((<Answer.FULL: 0>, ''), (<Answer.FAILED: 2>, 'status 503'))
    >>> buy.judge(503, retry_after="2")
    (<Answer.DECLINED: 3>, 'declined 503')
    """

    name: str
    _: KW_ONLY
    path: str
    method: str = "GET"
    weight: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    body: str | None = None
    values: Mapping[str, Values] = field(default_factory=dict)
    expect: int | Sequence[int] | Mapping[str, Any] | Expect | None = None
    priority: str | None = None
    timeout: Duration | None = None
    retry: Retries | None = None

    def __post_init__(self) -> None:
        if not _is_text(self.name, _NAME):
            raise ConfigurationError.bad_value("request.name", self.name, "a name")
        if self.method not in _METHODS:
            raise ConfigurationError.unknown("method", self.method, _METHODS, self._key("method"))
        if not _is_weight(self.weight):
            raise ConfigurationError.bad_value(self._key("weight"), self.weight, "a number above 0")
        if not _is_text(self.path, _PATH):
            raise ConfigurationError.bad_value(self._key("path"), self.path, "a path from '/' on, without spaces")
        object.__setattr__(self, "headers", self._checked_headers())
        object.__setattr__(self, "json", self._plain_json())
        if self.body is not None and not (_is_text(self.body, _BODY) and self.json is None):
            raise ConfigurationError.bad_value(self._key("body"), self.body, "a text, and none beside json")
        object.__setattr__(self, "values", self._checked_values())
        object.__setattr__(self, "expect", self._expectation())
        if self.priority is not None:
            object.__setattr__(self, "priority", Criticality.of(self.priority, self._key("priority")).word)
        if self.timeout is not None:
            object.__setattr__(self, "timeout", seconds(self.timeout, self._key("timeout")))
        self.placeholders()

    def placeholders(self) -> set[str]:
        """Return the names of all placeholders that it uses, each of which has something to be drawn from."""
        texts = [("path", self.path)]
        texts += [(f"headers.{name}", value) for name, value in self.headers.items()]
        texts += [("json", text) for text in strings_in(self.json)]
        texts += [(f"expect.{setting}", text) for setting, text in self.expected.texts()]
        known = [*self.values, *BUILT_IN]
        used = set()
        for setting, text in texts:
            for name in names_in(text, self._key(setting)):
                if name not in known:
                    key = self._key(setting)
                    raise ConfigurationError.unknown(f"placeholder in {key}", name, known, key)
                used.add(name)
        return used

    @property
    def expected(self) -> Expect:
        """What a full answer must look like."""
        return self.expect if isinstance(self.expect, Expect) else _ANY

    def judge(self, status: int, degraded: str | None = None, retry_after: str | None = None) -> tuple[Answer, str]:
        """Return what a complete answer is worth, and the kind of error if it failed.

        Args:
            status: Its HTTP status.
            degraded: The value of the header that marks a degraded answer; None if it is not there.
            retry_after: The value of `Retry-After`; None if it is not there. One that can't be read tells nobody when
                to come back.
        """
        if not self.expected.takes(status):
            if (
                status in (_TOO_MANY_REQUESTS, _UNAVAILABLE)
                and retry_after_of({"retry-after": retry_after or ""}) is not None
            ):
                return Answer.DECLINED, f"declined {status}"
            return Answer.FAILED, f"status {status}"
        if degraded is not None and degraded.strip().lower() not in _NOT_DEGRADED:
            return Answer.DEGRADED, ""
        return Answer.FULL, ""

    def repeats(self, answer: Answer, status: int) -> bool:
        """Return whether its callers would repeat it after such an end; the status 0 is that of no answer."""
        if self.retry is None or answer.served:
            return False
        return not status or status == _TOO_MANY_REQUESTS or status >= _SERVERS_FAULT

    def _key(self, setting: str) -> str:
        return f"request.{self.name}.{setting}"

    def _checked_headers(self) -> dict[str, str]:
        for name, value in self.headers.items():
            if not _is_text(name, _HEADER_NAME):
                raise ConfigurationError.bad_value(self._key("headers"), name, "names of HTTP headers")
            if not _is_text(value, _HEADER_VALUE):
                raise ConfigurationError.bad_value(self._key(f"headers.{name}"), value, "text without line breaks")
        return dict(self.headers)

    def _plain_json(self) -> object:
        try:
            return json.loads(json.dumps(self.json, allow_nan=False))
        except (TypeError, ValueError):
            raise ConfigurationError.bad_value(self._key("json"), self.json, "what JSON can carry") from None

    def _checked_values(self) -> dict[str, Values]:
        for name in BUILT_IN:
            if name in self.values:
                raise ConfigurationError.bad_value(self._key("values"), name, f"names other than {', '.join(BUILT_IN)}")
        return {name: choices(values, self._key(f"values.{name}")) for name, values in self.values.items()}

    def _expectation(self) -> Expect | None:
        if self.expect is None or isinstance(self.expect, Expect):
            return self.expect
        key = self._key("expect")
        if not isinstance(self.expect, Mapping):
            try:
                return Expect(status=self.expect)
            except ConfigurationError as error:
                raise ConfigurationError(error.message.replace("status", key, 1), key) from None
        known = [each.name for each in fields(Expect)]
        for name in self.expect:
            if name not in known:
                raise ConfigurationError.unknown(f"key in {key}", name, known, key)
        try:
            return Expect(**self.expect)
        except ConfigurationError as error:
            raise ConfigurationError(f"{key}.{error.message}", f"{key}.{error.key}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """One run of the load generator.

    Args:
        base_url: Where the paths of the requests begin: `"http://127.0.0.1:8000"`.
        segments: The rate over time of a load with one source, from which all requests come.
        streams: The sources of a load with several, in place of the segments.
        trace: Recorded arrivals, in place of the segments.
        users: A closed loop, in place of the segments.
        requests: The mix.
        seed: Fixes every arrival and everything drawn for it. The same seed repeats the same `{uuid}`s, so two runs
            against one system want two seeds.
        process: How arrivals are spread within a segment, and the pauses of users; streams have their own.
        timeout: A caller's patience, counted from when it meant to call, for all of its attempts.
        grace: How long after the last segment answers may still come in.
        in_flight_max: Requests under way at most; arrivals beyond it fail, and the run counts as saturated.
        degraded_header: The header by which a service marks a degraded answer (any value but empty, 0 or false).
        keep_alive: Whether an arrival may use a connection that an earlier one left open.
        connections: Connections at most; what finds none waits for one. None is no limit but `in_flight_max`.
        verify: Whether the server of an https URL must have a certificate that this machine trusts, or that the
            authority in the file of this name has signed.
        share: This generator's part of the load, when several send it: the second of three is `(1, 3)`.

    Raises:
        ConfigurationError: A setting that can't be meant; the error names it.
    """

    base_url: str
    segments: Sequence[Segment] = ()
    streams: Sequence[Stream] = ()
    trace: Trace | None = None
    users: Users | None = None
    requests: Sequence[Request]
    seed: Seed
    process: ArrivalProcess = "poisson"
    timeout: Duration = 10.0
    # As long as the patience, so that by default the last caller waits as long as the first.
    grace: Duration = 10.0
    in_flight_max: int = 2000
    degraded_header: str = "x-degraded"
    # Arrivals are callers of their own. One that takes over another's connection may find that the service has just
    # closed it, and then a client's habit is counted as the service's failure.
    keep_alive: bool = False
    connections: int | None = None
    verify: bool | str = True
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        Origin.of(self.base_url)
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "streams", tuple(self.streams))
        object.__setattr__(self, "requests", tuple(self.requests))
        object.__setattr__(self, "timeout", seconds(self.timeout, "timeout"))
        object.__setattr__(self, "grace", seconds(self.grace, "grace", zero=True))
        names = [request.name for request in self.requests]
        if not 0 < len(names) <= _REQUESTS_MAX or len(set(names)) < len(names):
            accepted = f"1 to {_REQUESTS_MAX} requests, each with a name of its own"
            raise ConfigurationError.bad_value("requests", names, accepted)
        self._check_sources(names)
        for key, number in (("in_flight_max", self.in_flight_max), ("connections", self.connections)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError.bad_value(key, number, "a whole number from 1")
        object.__setattr__(self, "share", tuple(self.share))
        if not _is_text(self.degraded_header, _HEADER_NAME):
            raise ConfigurationError.bad_value("degraded_header", self.degraded_header, "the name of an HTTP header")

    @property
    def origin(self) -> Origin:
        """Where the requests go."""
        return Origin.of(self.base_url)

    @property
    def duration(self) -> float:
        """The seconds in which requests are sent."""
        if self.users is not None:
            return seconds(self.users.seconds)
        if self.trace is not None:
            return self.trace.length
        return max(duration(stream.segments) for stream in self.sources())

    @property
    def expected(self) -> float:
        """The arrivals it brings on average; not a number for a closed loop, where that depends on the service."""
        if self.users is not None:
            return math.nan
        if self.trace is not None:
            return len(self.trace.offsets)
        return math.fsum(stream.expected for stream in self.sources())

    def sources(self) -> Sequence[Stream]:
        """Return the streams; a load with one source is one stream."""
        return self.streams or (Stream(self.segments, process=self.process),)

    def schedule(self) -> tuple[array[float], array[int]]:
        """Return when each arrival of an open loop is due, in seconds from the start, and the index of its request."""
        weights = {request.name: request.weight for request in self.requests}
        if self.trace is not None:
            return self.trace.schedule(weights, seed=self.seed)
        return merged(self.sources(), weights, seed=self.seed)

    def _check_sources(self, names: Sequence[str]) -> None:
        given = [key for key in ("segments", "streams", "trace", "users") if getattr(self, key)]
        if len(given) > 1:
            key = given[-1]
            raise ConfigurationError.bad_value(key, getattr(self, key), f"none beside {given[0]}: one or the other")
        if self.trace is not None:
            for name in set(self.trace.requests):
                if name not in names:
                    raise ConfigurationError.unknown("request of the trace", name, names, "trace")
        if self.trace is not None or self.users is not None:
            return
        own = [stream.name for stream in self.sources()]
        if len(set(own)) < len(own):
            raise ConfigurationError.bad_value("streams", own, "streams, each with a name of its own")
        for stream in self.streams:
            for name in stream.requests:
                if name not in names:
                    raise ConfigurationError.unknown(f"request of the stream {stream.name!r}", name, names, "streams")
        check_size(self.expected)

    def to_table(self) -> dict[str, object]:
        """Return the settings as JSON can carry them."""
        table: dict[str, object] = json.loads(json.dumps(asdict(self), default=_plain))
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> LoadSpec:
        """Return the settings that `to_table` wrote."""
        return cls(
            **{
                **table,
                "segments": _segments(table),
                "trace": table["trace"] and Trace(**table["trace"]),
                "users": table["users"] and Users(**table["users"]),
                "streams": [Stream(**{**stream, "segments": _segments(stream)}) for stream in table["streams"]],
                "requests": [
                    Request(**{**request, "retry": request["retry"] and Retries(**request["retry"])})
                    for request in table["requests"]
                ],
            }
        )


def _segments(table: Mapping[str, Any]) -> list[Segment]:
    return [Segment(**segment) for segment in table["segments"]]


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _plain(values: object) -> object:
    """Write what JSON doesn't know: a range as a file would, recorded times as a list."""
    if isinstance(values, range):
        return {"from": values.start, "to": values.stop - 1}
    assert isinstance(values, array)  # noqa: S101
    return values.tolist()
