"""What `hormesis load` and `hormesis capacity` send: a URL and options, or the `[load]` table of a file.

The table has the words of a game day's, so a game day's file will do, with `--url` for the process that it names. On
top come those that a load by itself needs: where to, how long, and in which shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hormesis.errors import ConfigurationError
from hormesis.gameday.load import Bursts, Client, Load, RequestTable, RetryTable, streams
from hormesis.loadgen import ArrivalProcess, LoadSpec, Segment, Stream, Users
from hormesis.loadgen.origin import Origin
from hormesis.loadgen.run import authority
from hormesis.loadgen.traces import read_trace
from hormesis.tables import Settings, in_file, read, read_toml
from hormesis.units import Duration, Rate, seconds

__all__ = ["LoadTable", "StepTable", "bursts_of", "steps_of", "table_of"]

IN_FLIGHT_MAX = 20_000
"""Requests under way at most: a service that stops for two seconds at 10,000/s has so many callers waiting."""

GRACE_MAX = 10.0
"""Seconds that answers may still come in after the last request at most; less if nobody has such patience."""

_LENGTH = 30.0
"""Seconds that requests are sent, if nothing is said."""

_STEP = re.compile(r"\s*(?P<rate>[^.:]+(?:\.\d[^.:]*)?)(?:\.\.(?P<to>[^:]+))?:(?P<for>[^:]+)")
_PAUSES = re.compile(r"([^/]+)/([^/]+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTable(Settings):
    """`steps = [{ rate = "100/s", for = "10s" }, …]`: a stretch of the load.

    Attributes:
        rate: Arrivals a second; 0 is silence.
        to: The rate at its end, if it is a ramp.
        for_: How long it lasts.
    """

    rate: Rate
    for_: Duration
    to: Rate | None = None

    def __post_init__(self) -> None:
        self.segment()

    def segment(self) -> Segment:
        """Return it as the schedule has it."""
        return Segment(self.for_, self.rate, self.to)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadTable(Settings):
    """`[load]`: who sends what, how often, where to and how long.

    Attributes:
        url: Where the paths of the requests go on from.
        to: In a game day's file, a process of its system; a URL is one here as well.
        request, client, headers, retry, timeout, arrivals, degraded_header: As in a game day.
        for_: How long requests are sent (30 s).
        rate: Arrivals a second of the requests that are nobody's in particular.
        bursts: They come for a while, then none, and so on.
        steps: Stretches with a rate each, in place of `rate` and `for`.
        trace: A file with recorded arrivals, in place of a rate.
        speed: How many times as fast as it was recorded the trace is replayed.
        users: A closed loop of so many users, in place of a rate.
        think: The mean of their pauses.
        keep_alive: Whether a caller may use a connection that an earlier one left open.
        connections: Connections at most.
        verify: Whether an https server's certificate is checked; or the file of the authority that signed it.
        seed: Fixes every arrival and everything drawn for it; left out, each run has another.
        lag_max: The send lag (p99) up to which a run counts.
        assert_: What must hold.
    """

    request: Sequence[RequestTable]
    url: str | None = None
    to: str | None = None
    for_: Duration | None = None
    rate: Rate | None = None
    client: Mapping[str, Client] = dataclasses.field(default_factory=dict)
    arrivals: ArrivalProcess = "poisson"
    timeout: Duration = 10.0
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry: RetryTable | None = None
    bursts: Bursts | None = None
    steps: Sequence[StepTable] = ()
    trace: str | None = None
    speed: float = 1.0
    users: int | None = None
    think: Duration = 0.0
    degraded_header: str = "x-degraded"
    keep_alive: bool = True
    connections: int | None = None
    verify: bool | str = True
    seed: int | str | None = None
    lag_max: Duration = 0.05
    assert_: Sequence[str] = ()

    def __post_init__(self) -> None:
        seconds(self._length, "for")
        seconds(self.timeout, "timeout")
        seconds(self.lag_max, "lag_max")
        shapes = [name for name in ("rate", "steps", "trace", "users") if getattr(self, name) not in (None, (), [])]
        if len(shapes) > 1:
            raise ConfigurationError(f"{shapes[1]} beside {shapes[0]}: a load has one of them", shapes[1])
        if not shapes and not self.client:
            raise ConfigurationError("rate is missing, or steps, trace or users in its place", "rate")
        if self.client and shapes and shapes[0] in ("trace", "users"):
            raise ConfigurationError(f"client beside {shapes[0]}: its requests have a rate", "client")
        if seconds(self.think, "think", zero=True) and self.users is None:
            raise ConfigurationError.bad_value("think", self.think, "users, who think")
        if shapes and shapes[0] in ("steps", "trace") and self.for_ is not None:
            raise ConfigurationError(f"for beside {shapes[0]}, which say themselves how long they last", "for")
        if self.speed != 1 and self.trace is None:
            raise ConfigurationError.bad_value("speed", self.speed, "a trace, which is replayed faster or slower")
        if self.bursts is not None and self.rate is None:
            raise ConfigurationError("bursts takes a rate", "bursts")
        self.load()

    @property
    def _length(self) -> Duration:
        return _LENGTH if self.for_ is None else self.for_

    def load(self) -> Load:
        """Return the callers and their requests, as a game day has them."""
        rate = self.rate
        if rate is None and (self.steps or self.trace is not None or self.users is not None):
            rate = 1.0  # of no consequence: their own shape says when they come
        return Load(
            to="",
            request=self.request,
            rate=rate,
            client=self.client,
            arrivals=self.arrivals,
            timeout=self.timeout,
            headers=self.headers,
            retry=self.retry,
            bursts=self.bursts,
            degraded_header=self.degraded_header,
            keep_alive=self.keep_alive,
        )

    def spec(self, url: str | None = None, **changes: Any) -> LoadSpec:
        """Return what the load generator is told.

        Args:
            url: Where to, in place of the table's own.
            changes: To the result, before it is checked.

        Raises:
            ConfigurationError: It says nowhere where to, or something that can't be meant.
        """
        target = url or self.url or (self.to if "://" in (self.to or "") else None)
        if target is None:
            raise ConfigurationError("url is missing: where to, such as 'http://127.0.0.1:8000', here or as --url")
        load = self.load()
        callers = load.callers()
        patience = max(seconds(caller.timeout or self.timeout) for caller in callers.values())
        settings = {
            "base_url": target,
            "requests": [request.request_of(callers[request.client]) for request in self.request],
            "seed": secrets.token_hex(4) if self.seed is None else self.seed,
            "process": self.arrivals,
            "timeout": self.timeout,
            "grace": min(patience, GRACE_MAX),
            "in_flight_max": IN_FLIGHT_MAX,
            "degraded_header": self.degraded_header,
            "keep_alive": self.keep_alive,
            "connections": self.connections,
            "verify": self.verify,
            **self._shape(load),
        }
        return LoadSpec(**(settings | changes))

    def _shape(self, load: Load) -> dict[str, Any]:
        if self.trace is not None:
            return {"trace": read_trace(self.trace, speed=self.speed)}
        if self.users is not None:
            return {"users": Users(self.users, self._length, think=self.think)}
        if not self.steps:
            return {"streams": streams(load, (seconds(self._length),))}
        segments = [step.segment() for step in self.steps]
        anybodys = [request.name for request in self.request if request.client is None]
        own = streams(load, (sum(segment.length for segment in segments),))
        return {"streams": [Stream(segments, requests=anybodys, process=self.arrivals), *(s for s in own if s.name)]}


def table_of(options: argparse.Namespace, **own: Any) -> tuple[LoadTable, str | None]:
    """Return the load that options ask for, and the URL if they name one.

    Args:
        options: As `loadoptions` has them.
        own: What the command sets on top, where it is not None.
    """
    changes: dict[str, Any] = {
        "timeout": options.timeout,
        "arrivals": options.arrivals,
        "connections": options.connections,
        "keep_alive": False if options.new_connections else None,
        "verify": False if options.insecure else _authority(options.ca),
        "seed": options.seed,
        **own,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    headers = _headers(options.header)
    if "://" in options.target:
        if options.url is not None:
            raise ConfigurationError("--url: a file takes it; the target is a URL already", "--url")
        return _quick(options, changes, headers), None
    for name in ("method", "body_json", "body", "expect"):
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigurationError(f"{flag}: a URL takes it; in a file a request says it itself", flag)
    table = _from_file(options.target, changes)
    return dataclasses.replace(table, headers={**table.headers, **headers}), options.url


def _authority(file: str | None) -> str | None:
    """Return the file with an authority if it can be used."""
    if file is not None:
        authority(file, "--ca")
    return file


def _quick(options: argparse.Namespace, changes: Mapping[str, Any], headers: Mapping[str, str]) -> LoadTable:
    try:
        parts = urlsplit(options.target)
    except ValueError:
        raise ConfigurationError.bad_value("URL", options.target, "one such as 'http://127.0.0.1:8000/x'") from None
    base = f"{parts.scheme}://{parts.netloc}"
    Origin.of(base, "URL")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    body: Any = None
    if options.body_json is not None:
        try:
            body = json.loads(options.body_json)
        except ValueError as error:
            raise ConfigurationError.bad_value("--body-json", options.body_json, f"JSON ({error})") from None
    given = options.body_json is not None or options.body is not None
    method = options.method or ("POST" if given else "GET")
    request: dict[str, Any] = {"name": path, method.lower(): path, "json": body, "expect": options.expect}
    return LoadTable(request=[RequestTable(**request)], url=base, headers=headers, **changes)


def _from_file(path: str, changes: Mapping[str, Any]) -> LoadTable:
    try:
        data = read_toml(path)
    except ConfigurationError as error:
        hint = "" if path.endswith(".toml") else "; a URL begins with http:// or https://"
        raise ConfigurationError(error.message + hint) from None
    if not isinstance(data.get("load"), Mapping):
        raise ConfigurationError(f"{path}: load is missing: the table of what is sent", "load")
    table = dict(data["load"])
    if isinstance(table.get("trace"), str):
        table["trace"] = str(Path(path).parent / table["trace"])
    # What is said on the command line takes the place of all that the file could not say beside it.
    if {"rate", "steps", "trace", "users"} & set(changes):
        for name in ("rate", "steps", "trace", "users", "bursts", "think", "speed"):
            table.pop(name, None)
        if {"steps", "trace"} & set(changes):
            table.pop("for", None)
    try:
        return read(
            LoadTable, table | {name.rstrip("_"): _in_file_words(each) for name, each in changes.items()}, "load"
        )
    except ConfigurationError as error:
        raise in_file(path, error) from None


def _in_file_words(value: Any) -> Any:
    """Return a setting as a file would have it."""
    if isinstance(value, list):
        return [_in_file_words(each) for each in value]
    if not dataclasses.is_dataclass(value):
        return value
    return {field.name.rstrip("_"): getattr(value, field.name) for field in dataclasses.fields(value)}


def _headers(lines: Sequence[str]) -> dict[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError.bad_value("--header", line, "a name and a value, such as 'Accept: text/html'")
        headers[name.strip()] = value.strip()
    return headers


def steps_of(texts: Sequence[str]) -> list[StepTable] | None:
    """Read steps as the command line has them: `100/s:10s`, or `100/s..400/s:1m` for a ramp."""
    if not texts:
        return None
    steps = []
    for text in texts:
        parts = _STEP.fullmatch(text)
        if parts is None:
            accepted = "a rate and how long, such as '100/s:10s', or '100/s..400/s:1m' for a ramp"
            raise ConfigurationError.bad_value("--step", text, accepted)
        try:
            rates = [None if each is None else _rate(each.strip()) for each in (parts["rate"], parts["to"])]
            steps.append(StepTable(rate=rates[0] or 0, to=rates[1], for_=_number(parts["for"].strip())))
        except ConfigurationError as error:
            raise ConfigurationError(f"--step {text}: {error.message}", "--step") from None
    return steps


def _rate(text: str) -> Rate:
    number = _number(text.removesuffix("/s"))
    return text if isinstance(number, str) else number


def _number(text: str) -> float | str:
    return float(text) if text.replace(".", "", 1).isdecimal() else text


def bursts_of(text: str | None) -> Bursts | None:
    """Read bursts as the command line has them: `1s/4s` is one second of requests, and four without."""
    if text is None:
        return None
    parts = _PAUSES.fullmatch(text)
    if parts is None:
        raise ConfigurationError.bad_value("--bursts", text, "how long on and how long off, such as '1s/4s'")
    return Bursts(on=parts[1].strip(), off=parts[2].strip())
