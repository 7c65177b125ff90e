"""When each request of an open-loop load is due, and which request of the mix it is: fixed before the first is sent.

An open loop never waits for answers, so its arrivals can be computed in advance, from a seed. Arrivals are laid out in
*operational time*, in which one arrival is expected per unit whatever the rate (the time change τ = ∫ rate dt; Çinlar,
*Introduction to Stochastic Processes*), and then mapped to seconds, segment by segment. So the arrivals up to a moment
depend on the seed and on the rates up to that moment alone: dosing a later segment with ten times the load leaves every
earlier arrival where it was.

Which request an arrival is comes from random numbers of its own, one draw per arrival: changing the mix moves no
arrival. A load may have several sources, each with a rate and a mix of its own (`Stream`): they are computed one by one
and then merged, so that a burst of one leaves the arrivals of the others where they were. Nor does it show where an
arrival came from: several Poisson streams together are one Poisson stream (superposition).
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import accumulate
from operator import le
from typing import Literal, TypeAlias, get_args

from hormesis.errors import ConfigurationError
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = [
    "ARRIVALS_MAX",
    "USERS_MAX",
    "ArrivalProcess",
    "Seed",
    "Segment",
    "Stream",
    "Trace",
    "Users",
    "arrivals",
    "check_segments",
    "check_size",
    "duration",
    "merged",
    "pick",
]

ArrivalProcess: TypeAlias = Literal["poisson", "constant"]
"""Independent callers (`poisson`, whose gaps are exponential), or evenly spaced arrivals (`constant`)."""

Seed: TypeAlias = int | str
"""A number and its decimal text are the same seed."""

ARRIVALS_MAX = 5_000_000
"""Arrivals expected of one schedule at most; its columns are held in memory."""

USERS_MAX = 10_000
"""Users of a closed loop at most, each of whom needs a connection."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of time with one rate of arrivals, or with one that changes evenly (a ramp); the rate 0 is silence.

    Args:
        seconds: How long it lasts.
        rate: The rate, at its beginning if there is another at its end.
        to: The rate at its end; None is the same.

    Raises:
        ConfigurationError: No time, or no rate.

    >>> Segment("1m", "100/s").expected, Segment("1m", 0, to="100/s").expected
    (6000.0, 3000.0)
    """

    seconds: Duration
    rate: Rate
    to: Rate | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", seconds(self.seconds, "segment.seconds"))
        object.__setattr__(self, "rate", _rate(self.rate, "segment.rate"))
        if self.to is not None:
            object.__setattr__(self, "to", _rate(self.to, "segment.to"))

    @property
    def length(self) -> float:
        """The seconds it lasts."""
        return seconds(self.seconds)

    @property
    def expected(self) -> float:
        """The arrivals it brings on average."""
        first, last = self.rates
        return self.length * (first + last) / 2

    @property
    def rates(self) -> tuple[float, float]:
        """The rates at its beginning and its end."""
        first = float(self.rate)
        return first, first if self.to is None else float(self.to)

    def after(self, tau: float) -> float:
        """Return the seconds after which `tau` arrivals are expected."""
        first, last = self.rates
        if first == last:
            return tau / first
        # The root of first*t + slope*t*t/2 = tau, in the form that loses no digits when the slope is small.
        slope = (last - first) / self.length
        return 2 * tau / (first + math.sqrt(max(0.0, first * first + 2 * slope * tau)))


def _rate(value: Rate, key: str) -> float:
    silent = isinstance(value, int | float) and not isinstance(value, bool) and value == 0
    return 0.0 if silent else per_second(value, key)


@dataclass(frozen=True, slots=True)
class Stream:
    """One source of arrivals: its rate over time, and which of a load's requests come from it.

    Args:
        segments: The rate over time.
        name: What its random numbers are drawn for; streams of one load have different names.
        requests: The names of its requests; none stands for all of the load's.
        process: How arrivals are spread within a segment.

    Raises:
        ConfigurationError: No segments, nothing but silence, too many arrivals, or an unknown process.

    >>> Stream([Segment("10s", "2/s")], name="reporting", requests=["report"]).expected
    20.0
    """

    segments: Sequence[Segment]
    _: KW_ONLY
    name: str = ""
    requests: Sequence[str] = ()
    process: ArrivalProcess = "poisson"

    def __post_init__(self) -> None:
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "requests", tuple(self.requests))
        check_segments(self.segments, self.process)

    @property
    def expected(self) -> float:
        """The arrivals it brings on average."""
        return math.fsum(segment.expected for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals as they were recorded.

    Args:
        offsets: When each was, in seconds from the start, in order.
        requests: The name of each one's request; none draws them by their weights.

    Raises:
        ConfigurationError: No arrivals or too many, not in order, or not as many names.

    >>> Trace([0.0, 0.5, 0.5]).length
    0.5
    """

    offsets: Sequence[float]
    requests: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "offsets", array("d", self.offsets))
        object.__setattr__(self, "requests", tuple(self.requests))
        if not self.offsets:
            raise ConfigurationError.bad_value("trace", [], "one arrival or more")
        check_size(len(self.offsets))
        if not all(map(math.isfinite, self.offsets)) or not all(map(le, (0.0, *self.offsets), self.offsets)):
            raise ConfigurationError("trace: arrivals are seconds from the start, in order", "trace")
        if self.requests and len(self.requests) != len(self.offsets):
            accepted = f"as many as there are arrivals ({len(self.offsets)}), or none"
            raise ConfigurationError.bad_value("trace.requests", len(self.requests), accepted)

    @property
    def length(self) -> float:
        """The seconds from the start to the last arrival."""
        return self.offsets[-1]

    def schedule(self, weights: Mapping[str, float], *, seed: Seed) -> tuple[array[float], array[int]]:
        """Return the offsets, and the index of each one's request among the weights."""
        offsets = array("d", self.offsets)
        if not self.requests:
            return offsets, pick(list(weights.values()), len(offsets), seed=seed)
        index = {name: i for i, name in enumerate(weights)}
        return offsets, array("H", (index[name] for name in self.requests))


@dataclass(frozen=True, slots=True)
class Users:
    """A closed loop: so many users, each of whom asks, waits for the answer, thinks, and asks again.

    Such a load is *coordinated*: when the service is slow its users ask less, and the slowest moments are asked about
    least. It answers how many users a service can take, not how long callers wait who don't wait for one another.

    Args:
        count: How many there are.
        seconds: How long they go on.
        think: The mean of the pauses between an answer and the next request; with the process `"poisson"` they are
            exponential, with `"constant"` all the same.

    Raises:
        ConfigurationError: A setting that can't be meant.

    >>> Users(10, "30s", think="1s").seconds
    30.0
    """

    count: int
    seconds: Duration
    _: KW_ONLY
    think: Duration = 0.0

    def __post_init__(self) -> None:
        if type(self.count) is not int or not 1 <= self.count <= USERS_MAX:
            raise ConfigurationError.bad_value("users", self.count, f"a whole number from 1 to {USERS_MAX:,}")
        object.__setattr__(self, "seconds", seconds(self.seconds, "users.seconds"))
        object.__setattr__(self, "think", seconds(self.think, "think", zero=True))


def duration(segments: Sequence[Segment]) -> float:
    """Return the seconds that the segments last, one after the other."""
    return math.fsum(segment.length for segment in segments)


def check_segments(segments: Sequence[Segment], process: str) -> None:
    """Refuse a load that is empty, larger than `ARRIVALS_MAX`, or of an unknown arrival process."""
    if process not in get_args(ArrivalProcess):
        raise ConfigurationError.unknown("arrival process", process, get_args(ArrivalProcess), "process")
    if not segments:
        raise ConfigurationError.bad_value("segments", list(segments), "one segment or more")
    expected = math.fsum(segment.expected for segment in segments)
    if not expected:
        raise ConfigurationError.bad_value("segments", list(segments), "at least one with a rate above zero")
    check_size(expected)


def check_size(expected: float) -> None:
    """Refuse a load of more than `ARRIVALS_MAX` arrivals."""
    if expected > ARRIVALS_MAX:
        raise ConfigurationError(
            f"segments expect {expected:,.0f} arrivals; one run takes up to {ARRIVALS_MAX:,}", "segments"
        )


def arrivals(segments: Sequence[Segment], *, seed: Seed, process: ArrivalProcess = "poisson") -> array[float]:
    """Return when each arrival is due, in seconds from the start, in order.

    Raises:
        ConfigurationError: No segments, more than `ARRIVALS_MAX` arrivals expected, or an unknown process.

    >>> list(arrivals([Segment(1, 2), Segment(1, 4)], seed=1, process="constant"))
    [0.25, 0.75, 1.125, 1.375, 1.625, 1.875]
    """
    check_segments(segments, process)
    due = _evenly() if process == "constant" else _unit_poisson(random.Random(f"{seed}/arrivals"))
    offsets = array("d")
    tau = next(due)
    tau_before, started = 0.0, 0.0
    for segment in segments:
        tau_end = tau_before + segment.expected
        while tau < tau_end:
            offsets.append(started + segment.after(tau - tau_before))
            tau = next(due)
        tau_before, started = tau_end, started + segment.length
    return offsets


def _unit_poisson(rng: random.Random) -> Iterator[float]:
    tau = 0.0
    while True:
        tau += rng.expovariate(1.0)
        yield tau


def _evenly() -> Iterator[float]:
    """Yield the middle of each unit, so that rounding at a segment's end neither adds an arrival nor loses one."""
    tau = 0.5
    while True:
        yield tau
        tau += 1.0


def pick(weights: Sequence[float], count: int, *, seed: Seed) -> array[int]:
    """Return, for each of `count` arrivals, the index of its request, drawn in proportion to the weights.

    >>> list(pick([9, 1], 5, seed=7)) == list(pick([9, 1], 9, seed=7))[:5]
    True
    """
    rng = random.Random(f"{seed}/mix")
    cumulative = list(accumulate(weights))
    total, last = cumulative[-1], len(cumulative) - 1
    return array("H", (bisect(cumulative, rng.random() * total, hi=last) for _ in range(count)))


def merged(streams: Sequence[Stream], weights: Mapping[str, float], *, seed: Seed) -> tuple[array[float], array[int]]:
    """Return when each arrival of all streams is due, in order, and the index of its request among the weights.

    Args:
        streams: The sources.
        weights: Every request of the load by its name, with its share of the arrivals of its stream.
        seed: Each stream draws from numbers of its own, made of the seed and its name.

    >>> asked = [Stream([Segment(1, 2)], name="a", requests=["read"], process="constant"),
    ...          Stream([Segment(1, 1)], name="b", requests=["report"], process="constant")]
    >>> [list(column) for column in merged(asked, {"read": 1, "report": 1}, seed=1)]
    [[0.25, 0.5, 0.75], [0, 1, 0]]
    """
    index = {name: i for i, name in enumerate(weights)}
    parts = [_one(stream, weights, index, f"{seed}/{stream.name}" if stream.name else seed) for stream in streams]
    if len(parts) == 1:
        return parts[0]
    rows = sorted((offset, request) for part in parts for offset, request in zip(*part, strict=True))
    return array("d", (offset for offset, _ in rows)), array("H", (request for _, request in rows))


def _one(
    stream: Stream, weights: Mapping[str, float], index: Mapping[str, int], seed: Seed
) -> tuple[array[float], array[int]]:
    names = stream.requests or tuple(weights)
    offsets = arrivals(stream.segments, seed=seed, process=stream.process)
    picked = pick([weights[name] for name in names], len(offsets), seed=seed)
    return offsets, array("H", (index[names[i]] for i in picked))
