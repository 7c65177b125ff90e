"""The load of an experiment: who sends what, how often, and how they take it when it fails.

Callers are many and nameless (`[load]`), or clients with a rate and habits of their own (`[load.client.NAME]`): one who
sends in bursts, one who reports once in a while, one who repeats what failed. Each is a stream of arrivals of its own,
so that whatever one of them does moves no arrival of the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from hormesis.chaos import Fault, Spike
from hormesis.errors import ConfigurationError
from hormesis.loadgen import ArrivalProcess, Expect, Request, Retries, Segment, Stream
from hormesis.tables import Settings
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = ["Bursts", "Client", "Load", "LoadChanges", "RequestTable", "RetryTable", "expected", "known", "streams"]

_BURSTS_MAX = 10_000
"""Bursts of one client in a stress at most."""

_SPAN_MIN = 1e-6
"""Seconds below which a stretch of time is a rounding error."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RequestTable(Settings):
    """`[[load.request]]`: one kind of request in the mix.

    Attributes:
        name: What objectives and tables call it.
        get, post, put, patch, delete: The path, under the key of its method; exactly one.
        weight: Its share of the arrivals, relative to the others.
        client: Whose request it is, of `[load.client.NAME]`; left out: anybody's, at the load's own rate.
        headers, json: Sent with it, with placeholders.
        values: What each placeholder is drawn from: a list, or `{ from = 1, to = 50 }`; `{n}` and `{uuid}` need none.
        priority: How much it matters: `"critical"`, `"default"`, `"sheddable"` or `"background"`; sent with it.
        expect: The status, or statuses, of a full answer (left out: 200 to 299), or a table of what must be in it:
            `{ status = 200, json = { "items.0.sku" = "{sku}" }, contains = "…", matches = "…", header = { … } }`. A
            wrong answer has failed.
    """

    name: str
    get: str | None = None
    post: str | None = None
    put: str | None = None
    patch: str | None = None
    delete: str | None = None
    weight: float = 1.0
    client: str | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    json: Any = None
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    priority: str | None = None
    expect: int | Sequence[int] | Expect | None = None

    _METHODS: ClassVar[tuple[str, ...]] = ("get", "post", "put", "patch", "delete")

    def __post_init__(self) -> None:
        self.request()

    def request(self) -> Request:
        """Return the request that the load generator sends."""
        named = [method for method in self._METHODS if getattr(self, method) is not None]
        if len(named) != 1:
            given = ", ".join(named) or "none"
            raise ConfigurationError(f"request {self.name!r} takes one of {', '.join(self._METHODS)}; it has {given}")
        try:
            return Request(
                self.name,
                method=named[0].upper(),
                path=getattr(self, named[0]),
                weight=self.weight,
                headers=self.headers,
                json=self.json,
                values=self.values,
                expect=self.expect,
                priority=self.priority,
            )
        except ConfigurationError as error:
            prefix = f"request.{self.name}."
            message, key = error.message.replace(prefix, ""), error.key.removeprefix(prefix)
            if key == "path":  # which the file has under the method's name
                message, key = message.replace("path", named[0], 1), named[0]
            raise ConfigurationError(message, key) from None

    def request_of(self, caller: Client) -> Request:
        """Return the request as this caller sends it."""
        return dataclasses.replace(
            self.request(),
            headers=_over(caller.headers, self.headers),
            timeout=caller.timeout,
            retry=None if caller.retry is None else caller.retry.retries(),
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetryTable(Settings):
    """`retry = { … }`: callers who repeat what failed at once or after a pause, whatever the answer said.

    A timeout, a broken connection and the statuses 429 and 500 to 599 are repeated, without back-off, jitter, budget or
    heed of `Retry-After`. One request is one request however often it is attempted: it succeeds when one attempt does.

    Attributes:
        attempts: How many there are at most, the first one included.
        timeout: The patience for one attempt; left out: the caller's patience, which all attempts share.
        delay: The pause before each further attempt.
    """

    attempts: int
    timeout: Duration | None = None
    delay: Duration = 0.0

    def __post_init__(self) -> None:
        self.retries()

    def retries(self) -> Retries:
        """Return what the load generator is told."""
        return Retries(self.attempts, timeout=self.timeout, delay=self.delay)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bursts(Settings):
    """`bursts = { on = "1s", off = "4s" }`: a client that sends at its rate for a while, then nothing, and so on.

    Attributes:
        on, off: How long each lasts; the load begins with a burst.
    """

    on: Duration
    off: Duration

    def __post_init__(self) -> None:
        for name in ("on", "off"):
            seconds(getattr(self, name), name)

    @property
    def share(self) -> float:
        """The part of the time in which it sends."""
        on, off = seconds(self.on), seconds(self.off)
        return on / (on + off)

    def cut(self, spans: Sequence[tuple[float, float]]) -> list[Segment]:
        """Return stretches of time, each with its rate, with silence between the bursts."""
        on, period = seconds(self.on), seconds(self.on) + seconds(self.off)
        moments = [0.0]
        for length, _ in spans:
            moments.append(moments[-1] + length)
        if moments[-1] / period > _BURSTS_MAX:
            accepted = f"longer ones: at most {_BURSTS_MAX:,} in a stress"
            raise ConfigurationError.bad_value("bursts", dataclasses.asdict(self), accepted)
        turns = (n * period + turn for n in range(math.ceil(moments[-1] / period)) for turn in (0.0, on))
        cuts = sorted({*moments, *(turn for turn in turns if turn < moments[-1])})
        segments = []
        for start, end in itertools.pairwise(cuts):
            middle = (start + end) / 2
            rate = next(rate for until, (_, rate) in zip(moments[1:], spans, strict=True) if middle < until)
            if end - start > _SPAN_MIN:
                segments.append(Segment(end - start, rate if middle % period < on else 0.0))
        return segments


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Client(Settings):
    """`[load.client.NAME]`: a client with a rate and habits of its own; its requests name it.

    What it leaves out is as `[load]` has it, but for the bursts.

    Attributes:
        rate: Arrivals a second, as a number or like `"2/s"`; of a bursty client, while it sends.
        arrivals: `"poisson"` or `"constant"`.
        timeout: Its patience, for all attempts of a request.
        headers: Sent with each of its requests: who it is, how much its requests matter.
        retry: How it repeats what failed.
        bursts: Sends for a while, then nothing, and so on.
    """

    rate: Rate
    arrivals: ArrivalProcess | None = None
    timeout: Duration | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry: RetryTable | None = None
    bursts: Bursts | None = None

    def __post_init__(self) -> None:
        per_second(self.rate, "rate")
        if self.timeout is not None:
            seconds(self.timeout, "timeout")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Load(Settings):
    """`[load]`: an open loop; requests arrive by schedule, whatever becomes of them.

    Attributes:
        to: The process that gets it, or the URL of something that runs already.
        rate: Arrivals a second of the requests that are nobody's in particular, as a number or like `"60/s"`; of bursty
            ones, while they come.
        request: The mix.
        client: Clients with a rate of their own.
        arrivals: `"poisson"`, as independent callers do, or `"constant"`.
        timeout: A caller's patience, for all attempts of a request.
        headers: Sent with every request; what a client or a request sets for itself stands in its place.
        retry: How callers repeat what failed; left out: not at all.
        bursts: Requests come for a while, then none, and so on.
        degraded_header: The header by which a service marks an answer that is worth less than what was asked for.
        keep_alive: Whether a caller may use a connection that an earlier one left open.
    """

    to: str
    request: Sequence[RequestTable]
    rate: Rate | None = None
    client: Mapping[str, Client] = dataclasses.field(default_factory=dict)
    arrivals: ArrivalProcess = "poisson"
    timeout: Duration = 10.0
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retry: RetryTable | None = None
    bursts: Bursts | None = None
    degraded_header: str = "x-degraded"
    keep_alive: bool = False

    def __post_init__(self) -> None:
        seconds(self.timeout, "timeout")
        if not self.request:
            raise ConfigurationError.bad_value("request", list(self.request), "at least one [[load.request]]")
        for name in {request.client for request in self.request} - {None}:
            known("client", "client", str(name), self.client)
        for name in self.client:
            if not any(request.client == name for request in self.request):
                key = f"client.{name}"
                raise ConfigurationError(f"{key} sends nothing: a request takes client = {name!r}", key)
        anybodys = any(request.client is None for request in self.request)
        if self.rate is not None:
            per_second(self.rate, "rate")
            if not anybodys:
                raise ConfigurationError.bad_value(
                    "rate", self.rate, "a request without a client, to come at that rate"
                )
        elif anybodys:
            raise ConfigurationError("rate is missing", "rate")

    @property
    def url(self) -> str | None:
        """Where it goes, of a load to something that runs already."""
        return self.to if "://" in self.to else None

    @property
    def mean_rate(self) -> float:
        """Arrivals a second in calm times, all clients together."""
        return sum(
            per_second(caller.rate) * (1 if caller.bursts is None else caller.bursts.share)
            for caller in self.callers().values()
        )

    def callers(self) -> dict[str | None, Client]:
        """Return who sends, with nothing left out: the clients, and under None the callers without a name."""
        own = [] if self.rate is None else [(None, Client(rate=self.rate, bursts=self.bursts))]
        return {
            name: Client(
                rate=client.rate,
                arrivals=client.arrivals or self.arrivals,
                timeout=self.timeout if client.timeout is None else client.timeout,
                headers=_over(self.headers, client.headers),
                retry=client.retry or self.retry,
                bursts=client.bursts,
            )
            for name, client in [*own, *self.client.items()]
        }


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadChanges(Settings):
    """`load = { … }` of a stress: what is otherwise about the load from its calm to its end.

    Attributes:
        rate, timeout, retry: As in `[load]`, in place of what stands there.
    """

    rate: Rate | None = None
    timeout: Duration | None = None
    retry: RetryTable | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            per_second(self.rate, "rate")
        if self.timeout is not None:
            seconds(self.timeout, "timeout")

    def on(self, load: Load) -> Load:
        """Return the load with these changes."""
        changes = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(load, **{name: value for name, value in changes.items() if value is not None})


def streams(load: Load, lengths: Sequence[float], faults: Sequence[Fault] = ()) -> list[Stream]:
    """Return the sources of a load over the time of a stress.

    Each caller is one. Where a single request comes more often, what comes on top is one more, so that everything else
    arrives as if nothing were.

    Args:
        load: The load, with the stress's changes to it.
        lengths: The seconds of each part; the dose is the second one.
        faults: What is dosed; those that are none of the load change nothing here.
    """
    return [
        Stream(segments, name=name, requests=requests, process=process)
        for name, requests, process, segments in _sources(load, lengths, faults)
    ]


def expected(load: Load, lengths: Sequence[float], faults: Sequence[Fault] = ()) -> float:
    """Return how many arrivals that makes on average."""
    return math.fsum(segment.expected for *_, segments in _sources(load, lengths, faults) for segment in segments)


def _sources(
    load: Load, lengths: Sequence[float], faults: Sequence[Fault]
) -> Iterator[tuple[str, list[str], ArrivalProcess, list[Segment]]]:
    spikes = [fault for fault in faults if isinstance(fault, Spike)]
    extra = (f"spike {number}" if number > 1 else "spike" for number in itertools.count(1))
    for name, caller in load.callers().items():
        mix = {request.name: request.weight for request in load.request if request.client == name}
        rate, process = per_second(caller.rate), caller.arrivals or load.arrivals
        dosed = rate * math.prod(
            spike.spike for spike in spikes if spike.request is None and spike.client in (None, name)
        )
        own = "" if name is None else f"client {name}"
        yield own, [*mix], process, _cut(caller.bursts, lengths, rate, dosed)
        for spike in spikes:
            if spike.request in mix:
                on_top = dosed * mix[spike.request] / math.fsum(mix.values()) * (spike.spike - 1)
                yield next(extra), [spike.request], process, _cut(caller.bursts, lengths, 0.0, on_top)


def _cut(bursts: Bursts | None, lengths: Sequence[float], rate: float, dosed: float) -> list[Segment]:
    spans = [(length, dosed if number == 1 else rate) for number, length in enumerate(lengths)]
    return [Segment(*span) for span in spans] if bursts is None else bursts.cut(spans)


def _over(general: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return both sets of headers; where both name the same, whatever the case, the own one."""
    taken = {name.lower() for name in own}
    return {**{name: value for name, value in general.items() if name.lower() not in taken}, **own}


def known(key: str, what: str, name: str, known: Iterable[str]) -> None:
    """Refuse a name that is not among those that are known, naming the nearest."""
    if name not in known:
        error = ConfigurationError.unknown(what, name, known)
        raise ConfigurationError(f"{key}: {error.message}", key)
