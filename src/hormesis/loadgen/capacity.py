"""How much a service can take: a search for the knee and the breaking point, and how sure it is of them.

A rate *holds* when enough of its answers are full, their p99 is within a bound, and they come as fast as the requests
do. The *knee* is the highest rate that holds: what one can plan with. A service *breaks* at the rate from which on it
answers fewer than nine tenths of what it is asked in the same time; beyond, it either saturates (what it answers stays)
or collapses (the more it is asked, the less it answers).

The search doubles the rate until one breaks the service, or doesn't hold twice in a row, and halves the interval
between the last that held and the first that did not, on a logarithmic scale. One pass of that is an anecdote: near the
knee a rate holds by luck. So with the time that is left it is done again and again, around where the knee was found,
each time with fresh arrivals and without looking at what was measured before. Those estimates are independent, and
about their median order statistics say something that needs no model: it lies between the lowest and the highest of n
of them with probability 1 - 2^(1-n), six being enough for 95 %.

Next to it stands what a model makes of all rates that held: the Universal Scalability Law (Gunther, *Guerrilla Capacity
Planning*, 2007) for throughput X by requests in flight N, X = γN / (1 + α(N-1) + βN(N-1)), where N is measured by
Little's law. A single queue follows it exactly, with X tending to its service rate.

Nothing here sends, waits or reads a clock: `Search.probes` says what to measure next, and is sent what was found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hormesis.errors import ConfigurationError
from hormesis.loadgen.samples import Answer, Samples
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = ["Capacity", "Measurement", "Probe", "Scalability", "Search", "scalability"]

KEEPS_UP = 0.9
"""Least answers a second, as a share of what is asked, of a service that isn't broken."""

SATURATES = 0.8
"""Least share of its peak that a service still answers when it is asked for twice its knee, if it doesn't collapse."""

_SETTLING = 0.25
"""The part of a probe, from its beginning, that isn't counted: queues need a while to get as long as they will be."""

_GROWTH = 2.0
_AROUND = 1.25
"""Repeated searches begin so far below and above where the knee was found."""

_ESTIMATES_MAX = 6
_OVERLOAD = 2.0
_CALM_FACTOR = 10.0
_CALM_LEAST = 0.05
"""Seconds that the p99 may always take if nobody said how long: below, it is the noise of machines that is measured."""

_STEP_LEAST = 20.0
"""Times the bound of the p99 that a step must last: a rate that is too high looks as if it held until the queue has
grown to the bound, in a step of twenty bounds up to a rate of 5 % too much."""

_STEPS_LEAST = 12
"""Steps for which there must be time, however long they would have to be."""

_BROKEN_WITHIN = 1.1
"""How close to each other the rates are told apart between which a service breaks."""

_BROKEN_STEPS = 3
_BROKEN_GROWTH = 1.5

_RATIOS_MIN = 4
"""Different rates that a model needs at least."""

_LATER_MAX = 0.75
"""How much of a step may pass before answers are counted."""

Purpose: TypeAlias = Literal["calm", "growth", "search", "breaking", "repeat", "overload"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A rate to be held.

    Attributes:
        rate: Arrivals a second.
        seconds: How long.
        purpose: What for.
        number: The how-manieth it is, so that each has arrivals of its own.
    """

    rate: float
    seconds: float
    purpose: Purpose
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a probe came to, its beginning left out.

    Attributes:
        rate: The rate that was asked for.
        offered: Arrivals a second.
        served: Full answers a second that came in as long a time, which begins later by what an answer usually takes.
        success: The share of arrivals with a full answer.
        mean, p50, p99: Latencies in seconds, from when requests were due.
        lag: The send lag (p99).
        valid: Whether the generator kept up; if not, nothing is known of the rate.
        ended_at: When it ended, in seconds since the search began.
    """

    rate: float
    offered: float
    served: float
    success: float
    mean: float
    p50: float
    p99: float
    lag: float = 0.0
    valid: bool = True
    ended_at: float = 0.0

    @property
    def breaks(self) -> bool:
        """Whether the service did not keep up."""
        return self.served < KEEPS_UP * self.offered

    @classmethod
    def of(
        cls, probe: Probe, samples: Samples, start_at: float, *, lag: float, valid: bool, ended_at: float
    ) -> Measurement:
        """Return what a probe's rows come to."""
        since, until = start_at + _SETTLING * probe.seconds, start_at + probe.seconds
        length = until - since
        # A slow service that keeps up answers as much as it is asked, only later. In the same time it would seem to
        # answer less, since in its first seconds a step has no answers yet.
        later = min(_usual(samples, since), _LATER_MAX * length)
        latencies, full, offered, served = [], 0, 0, 0
        for due, done, answer in zip(samples.intended, samples.done, samples.answer, strict=True):
            is_full = answer == Answer.FULL
            if since <= due < until:
                latencies.append(done - due)
                full += is_full
                offered += due < until - later
            served += is_full and since + later <= done < until
        latencies.sort()
        count = len(latencies)
        return cls(
            rate=probe.rate,
            offered=offered / (length - later),
            served=served / (length - later),
            success=full / count if count else math.nan,
            mean=math.fsum(latencies) / count if count else math.nan,
            p50=_quantile(latencies, 0.5),
            p99=_quantile(latencies, 0.99),
            lag=lag,
            valid=valid,
            ended_at=ended_at,
        )


def _usual(samples: Samples, before: float) -> float:
    """Return how long full answers took that were due before a moment, when no queue has grown yet: their median."""
    latencies = sorted(
        done - due
        for due, done, answer in zip(samples.intended, samples.done, samples.answer, strict=True)
        if answer == Answer.FULL and due < before
    )
    return latencies[len(latencies) // 2] if latencies else 0.0


@dataclass(frozen=True, slots=True)
class Scalability:
    """The Universal Scalability Law, fitted.

    Attributes:
        gamma: Throughput of one request at a time, a second.
        alpha: Contention: what has to wait for its turn.
        beta: Coherence: what each has to agree on with each other.
        peak: The highest throughput that it allows, a second.
    """

    gamma: float
    alpha: float
    beta: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a search has found.

    Attributes:
        knee: The highest rate that holds, a second; None if not even the first did.
        low, high: Between which the knee is.
        confidence: How probably, from 0 to 1; 0 if the search was made only once, and the bounds are its last interval.
        at_least: Whether no rate was found that does not hold, since the generator or the search ended before.
        breaking: Between which rates the service stops keeping up; None if it always did.
        peak: The most full answers a second at any rate.
        beyond: What it does when asked for twice its knee; None if that was not tried.
        model: What the Universal Scalability Law makes of it; None if too few rates held.
        p99: The bound of the p99 that was asked for, in seconds.
        success: The share of full answers that was asked for.
        ended: Why the search ended.
        measured: Everything that was measured, in order.
    """

    knee: float | None
    low: float
    high: float
    confidence: float
    at_least: bool
    breaking: tuple[float, float] | None
    peak: float
    beyond: Literal["saturates", "collapses"] | None
    model: Scalability | None
    p99: float
    success: float
    ended: str
    measured: Sequence[Measurement] = field(repr=False)


class Search:
    """The search: `probes` yields what to measure and is sent the measurement; `result` may be asked for at any time.

    Args:
        first: The first rate.
        last: The highest that is tried.
        success: The share of full answers that must hold.
        p99: The bound of the p99; None is ten times that of the first rate, at least 50 ms.
        resolution: How close to each other two rates are told apart, as a share.
        within: How long the whole search may take.
        step: How long one rate is held.

    Raises:
        ConfigurationError: A setting that can't be meant.

    >>> search = Search(first=100, last=1000, p99="100ms", within="1m", step="2s")
    >>> probes = search.probes()
    >>> next(probes)
    Probe(rate=100.0, seconds=2.0, purpose='calm', number=0)
    """

    def __init__(
        self,
        *,
        first: Rate = 50.0,
        last: Rate = 100_000.0,
        success: float = 0.99,
        p99: Duration | None = None,
        resolution: float = 0.05,
        within: Duration = 120.0,
        step: Duration = 3.0,
    ) -> None:
        self._first, self._last = per_second(first, "from"), per_second(last, "to")
        if self._last < self._first:
            raise ConfigurationError.bad_value("to", last, f"a rate from the first one, {self._first:g}/s, on")
        if isinstance(success, bool) or not 0 < success <= 1:
            raise ConfigurationError.bad_value("success", success, "a share above 0, up to 1")
        if isinstance(resolution, bool) or not 0.005 <= resolution <= 0.5:
            raise ConfigurationError.bad_value("resolution", resolution, "a share from 0.005 to 0.5")
        self._success = float(success)
        self._p99 = None if p99 is None else seconds(p99, "p99")
        self._resolution = float(resolution)
        self._step = seconds(step, "step")
        self._within = seconds(within, "within")
        if self._within < 4 * self._step:
            raise ConfigurationError.bad_value("within", within, f"four steps at least, {4 * self._step:g} s")
        self._measured: list[Measurement] = []
        self._estimates: list[float] = []
        self._bounds: tuple[float, float] = (0.0, math.inf)  # the highest that held, the lowest that did not
        self._ceiling = math.inf  # from here on the generator doesn't keep up
        self._beyond: Measurement | None = None
        self._number = 0
        self._pass_began = 0
        self._ended = ""

    @property
    def first(self) -> float:
        """The first rate, a second."""
        return self._first

    @property
    def p99(self) -> float:
        """The bound of the p99, in seconds; not a number while it is not known."""
        return math.nan if self._p99 is None else self._p99

    def holds(self, found: Measurement) -> bool:
        """Return whether a rate holds."""
        return found.success >= self._success and found.p99 <= self.p99 and not found.breaks

    def probes(self) -> Generator[Probe, Measurement, None]:
        """Yield what to measure next, and take what was found; ends when there is nothing more to find out, or no time.

        A search that its caller ends early has a result all the same.
        """
        calm = yield from self._ask(self._first, "calm")
        if self._p99 is None:
            self._p99 = max(_CALM_FACTOR * calm.p99, _CALM_LEAST) if calm.success else _CALM_LEAST
        self._step = max(self._step, min(_STEP_LEAST * self._p99, self._within / _STEPS_LEAST))
        if not calm.valid:
            self._ended = "the generator does not keep up with the first rate"
            return
        if not self.holds(calm) and not self.holds((yield from self._ask(self._first, "calm"))):
            self._bounds = (0.0, self._first)
            self._ended = "not even the first rate holds"
            return
        yield from self._grow()
        if self._bounds[1] == math.inf:
            return
        first = yield from self._halve(*self._bounds, "search")
        if first is None:
            return
        self._estimates = [self._estimate(first)]
        missed, self._bounds = self._bounds[1], first
        yield from self._break(first[1], missed)
        while len(self._estimates) < _ESTIMATES_MAX:
            centre = statistics.median(self._estimates)
            self._pass_began = len(self._measured)
            found = yield from self._halve(centre / _AROUND, min(centre * _AROUND, self._ceiling), "repeat")
            if found is None:
                break
            self._estimates.append(self._estimate(found))
        else:
            self._ended = "found"
        overload = _OVERLOAD * statistics.median(self._estimates)
        if overload < min(self._ceiling, self._last):
            # Last, since it may take the service a while to get over it.
            self._beyond = yield from self._ask(overload, "overload")

    def _estimate(self, bounds: tuple[float, float]) -> float:
        """Return where one pass of the search puts the knee: never above what the service answered near it.

        In a step that is short for its queue a rate holds that is too high; but then fewer answers come than requests.
        What it answered when it was too slow is what it can, unless it collapses, and then what it answered before.
        """
        found = self._measured[self._pass_began :]
        held = [each for each in found if self.holds(each)]
        slow = [each.served for each in found if each.valid and not self.holds(each) and each.success >= self._success]
        most = max(held, key=lambda each: each.rate).served if held else 0.0
        return min(math.sqrt(bounds[0] * bounds[1]), max(most, statistics.fmean(slow) if slow else math.inf))

    def _break(self, low: float, high: float) -> Generator[Probe, Measurement, None]:
        """Find out between which rates the service stops keeping up: from one that doesn't hold upwards."""
        for _ in range(_BROKEN_STEPS):
            if any(found.rate == high and found.breaks for found in self._measured):
                break
            if high * _BROKEN_GROWTH >= min(self._ceiling, self._last) or not self._has_time():
                return
            low, high = high, high * _BROKEN_GROWTH
            yield from self._ask(high, "breaking")
        else:
            return
        while high / low > _BROKEN_WITHIN and self._has_time():
            rate = math.sqrt(low * high)
            found = yield from self._ask(rate, "breaking")
            low, high = (low, rate) if found.breaks or not found.valid else (rate, high)

    def _grow(self) -> Generator[Probe, Measurement, None]:
        """Double the rate until one breaks the service, or doesn't hold twice in a row, whosever fault that is."""
        held, rate = self._first, self._first
        while rate < self._last:
            if not self._has_time():
                break
            rate = min(rate * _GROWTH, self._last)
            found = yield from self._ask(rate, "growth")
            if not found.valid or (not self.holds(found) and not found.breaks):
                found = yield from self._ask(rate, "growth")
            if not found.valid:
                self._bounds = (held, math.inf)
                self._ended = f"the generator does not keep up with {rate:,.0f}/s"
                return
            if not self.holds(found):
                self._bounds = (held, rate)
                return
            held = rate
        self._bounds = (held, math.inf)
        self._ended = self._ended or "the highest rate holds"

    def _halve(
        self, low: float, high: float, purpose: Purpose
    ) -> Generator[Probe, Measurement, tuple[float, float] | None]:
        """Halve an interval until it is as small as the resolution; None if the time is over before."""
        while high / low > 1 + self._resolution:
            if not self._has_time():
                if purpose == "search":
                    self._bounds = (low, high)
                return None
            rate = math.sqrt(low * high)
            found = yield from self._ask(rate, purpose)
            if found.valid and self.holds(found):
                low = rate
            else:
                high = rate
        return low, high

    def _ask(self, rate: float, purpose: Purpose) -> Generator[Probe, Measurement, Measurement]:
        found = yield Probe(rate, self._step, purpose, self._number)
        self._number += 1
        self._measured.append(found)
        if not found.valid:
            self._ceiling = min(self._ceiling, rate)
        elif rate >= self._ceiling:  # it was late by chance
            self._ceiling = math.inf
        return found

    def _has_time(self) -> bool:
        """Whether another step fits, and the one of overload after it."""
        if not self._measured:
            return True
        each = self._measured[-1].ended_at / len(self._measured)  # with what lies between two steps
        enough = self._measured[-1].ended_at + 2 * each <= self._within
        if not enough:
            self._ended = "the time is over"
        return enough

    def result(self, ended: str = "") -> Capacity:
        """Return what has been found so far.

        Args:
            ended: Why the search ends here, if not by itself.
        """
        low, high = self._bounds
        knee: float | None = None
        confidence, at_least = 0.0, False
        valid = [found for found in self._measured if found.valid]
        if self._estimates:
            knee = statistics.median(self._estimates)
            if len(self._estimates) > 1:
                low, high = min(self._estimates), max(self._estimates)
                confidence = 1 - 2.0 ** (1 - len(self._estimates))
            else:
                low = self._answered_at(low, knee)
        elif low:
            at_least = high == math.inf
            knee = low
            if not at_least:
                knee = self._estimate((low, high))
                low = self._answered_at(low, knee)
        elif high == math.inf and (held := [found.rate for found in valid if self.holds(found)]):
            knee = low = max(held)
            at_least = True
        return Capacity(
            knee=knee,
            low=low,
            high=high,
            confidence=confidence,
            at_least=at_least,
            breaking=_breaking(valid),
            peak=max((found.served for found in valid), default=0.0),
            beyond=self._beyond_knee(valid),
            model=scalability(found for found in valid if self.holds(found)),
            p99=self.p99,
            success=self._success,
            ended=ended or self._ended or "found",
            measured=tuple(self._measured),
        )

    def _answered_at(self, rate: float, knee: float) -> float:
        """Return what was answered at a rate that held: in a short step fewer requests may come than asked for."""
        return min(rate, knee, *(found.served for found in self._measured if found.rate == rate and found.valid))

    def _beyond_knee(self, valid: Sequence[Measurement]) -> Literal["saturates", "collapses"] | None:
        if self._beyond is None or not self._beyond.valid:
            return None
        peak = max(found.served for found in valid)
        return "saturates" if self._beyond.served >= SATURATES * peak else "collapses"


def _breaking(measured: Sequence[Measurement]) -> tuple[float, float] | None:
    """Return the highest rate that was kept up with, and the lowest that most often was not; None if all were."""
    by_rate: dict[float, list[bool]] = {}
    for found in measured:
        by_rate.setdefault(found.rate, []).append(found.breaks)
    verdicts = sorted((rate, sum(broke) * 2 > len(broke)) for rate, broke in by_rate.items())
    # The cut at which the fewest rates are on the wrong side: near it some break by luck.
    best = min(
        range(len(verdicts) + 1),
        key=lambda cut: (
            sum(broke for _, broke in verdicts[:cut]) + sum(not broke for _, broke in verdicts[cut:]),
            -cut,
        ),
    )
    if best == len(verdicts):
        return None
    return (verdicts[best - 1][0] if best else 0.0), verdicts[best][0]


def scalability(measured: Iterable[Measurement]) -> Scalability | None:
    """Fit the Universal Scalability Law to rates that held.

    N / X is a polynomial of N with the coefficients (1-α)/γ, (α-β)/γ and β/γ, so that the fit is linear least squares;
    each rate counts relative to what it came to. Where β comes out negative, which means nothing, it is left out.

    Returns:
        The law; None if there are too few different rates, or if they show no contention yet.
    """
    points = [(found.served * found.mean, found.served) for found in measured if found.served * found.mean > 0]
    if len({round(throughput) for _, throughput in points}) < _RATIOS_MIN:
        return None
    for degree in (2, 1):
        solved = _least_squares(points, degree)
        if solved is None:
            continue
        constant, linear, square = (*solved, 0.0)[:3]
        if square < 0 or constant + linear + square <= 0 or linear + square <= 0:
            continue
        gamma = 1 / (constant + linear + square)
        alpha, beta = (linear + square) * gamma, square * gamma
        at = math.sqrt(constant / square) if square > 0 and constant > 0 else math.inf
        peak = 1 / linear if at == math.inf else 1 / (constant / at + linear + square * at)
        return Scalability(gamma, alpha, beta, peak) if peak > 0 else None
    return None


def _least_squares(points: Sequence[tuple[float, float]], degree: int) -> list[float] | None:
    """Solve the normal equations of N/X by powers of N, by elimination."""
    size = degree + 1
    rows = [[0.0] * (size + 1) for _ in range(size)]
    for n, throughput in points:
        ratio = n / throughput
        weight = 1 / (ratio * ratio)
        for i in range(size):
            for j in range(size):
                rows[i][j] += weight * n ** (i + j)
            rows[i][size] += weight * ratio * n**i
    for i in range(size):
        pivot = max(range(i, size), key=lambda row: abs(rows[row][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) < 1e-12:
            return None
        for other in range(size):
            if other != i:
                factor = rows[other][i] / rows[i][i]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[i], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def _quantile(values: Sequence[float], q: float) -> float:
    return values[max(0, math.ceil(q * len(values)) - 1)] if values else math.nan
