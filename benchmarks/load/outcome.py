"""What a run on real processes came to, worked out from a row for each request and samples of the server."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TypeAlias

from client import GONE, TIMED_OUT
from measures import jain, max_min_shares, percentile, settled_after
from scenarios import CALM, Scenario

__all__ = ["WAITED_MAX", "Outcome", "Row", "Sample", "judged"]

Row: TypeAlias = Sequence[float]
"""Of a request: when it was due, how late it was sent, when it ended, its status, and the number of its stream."""
Sample: TypeAlias = Sequence[float]
"""Of a server: the time, its limit, requests in the application, processor time, time it waited for its core."""

_LAG_MAX = 0.010
"""Seconds that the 99th percentile of requests may be sent late."""
WAITED_MAX = 0.05
"""The share of its time for which the server may have waited for its core."""
_STRETCH = 1.0
"""Seconds in which clients are to succeed as before, to have recovered."""
_AS_BEFORE = 0.95


@dataclasses.dataclass(slots=True)
class Outcome:
    """What one run came to; seconds, shares, and multiples of the capacity.

    Args:
        scenario, arm, repetition: What was run.
        capacity: Requests a second that the service can do, measured before.
        goodput: Answers within the objective, over what could have been had; of journeys: those of which all calls
            were.
        throughput: Answers, over the capacity.
        p50, p99: Of how long answers took, from when their request was due.
        settled: From the step until goodput is what the phase ends with.
        shed: The share of requests that was turned away.
        unanswered: The share whose client gave up, or lost its connection.
        limit: The mean limit.
        in_app: The mean number of requests in the application.
        busy: The share of the time for which the server ran.
        lag: The 99th percentile of how late the generator was.
        waited: The share of the time for which the server waited for its core.
        fairness: Jain's index of what tenants got over their max-min shares.
        critical_asked, critical_answered, critical_good: Critical requests since the calm, those answered, and those
            answered within the objective.
        background: Good answers to background work over what the critical leave of the capacity.
        recovered: From the end of the trigger until clients succeed as before.
        good_at: When each good answer came.
        limits: The limit at times.
    """

    scenario: str
    arm: str
    repetition: int
    capacity: float
    goodput: float = math.nan
    throughput: float = math.nan
    p50: float = math.nan
    p99: float = math.nan
    settled: float = math.nan
    shed: float = math.nan
    unanswered: float = math.nan
    limit: float = math.nan
    in_app: float = math.nan
    busy: float = math.nan
    lag: float = math.nan
    waited: float = math.nan
    fairness: float | None = None
    critical_asked: int = 0
    critical_answered: int = 0
    critical_good: int = 0
    background: float | None = None
    recovered: float | None = None
    good_at: list[float] = dataclasses.field(default_factory=list)
    limits: list[tuple[float, float]] = dataclasses.field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether the generator kept up, and the server had its core."""
        return self.lag <= _LAG_MAX and self.waited <= WAITED_MAX


def judged(outcome: Outcome, scenario: Scenario, work: float, rows: list[Row], samples: list[Sample]) -> Outcome:
    """Fill in what a run came to.

    Args:
        outcome: To fill in.
        scenario: What was run.
        work: Seconds of processor time that a request takes in the application.
        rows: Of all requests.
        samples: Of the server that has the work, in the time of the rows.
    """
    begin, end = scenario.end - scenario.measured, scenario.end
    journeys = bool(scenario.streams[0].calls)

    def good(row: Row) -> bool:
        return row[3] == 200 and (journeys or row[2] - row[0] <= scenario.slo)

    outcome.good_at = sorted(row[2] for row in rows if good(row))
    arrived = [row for row in rows if begin <= row[0] < end]
    had = _capacity_at(outcome.capacity, scenario, work, end) * scenario.had
    seconds = range(round(begin), round(end))
    could = sum(min(had, sum(second <= row[0] < second + 1 for row in arrived)) for second in seconds)
    outcome.goodput = _between(outcome.good_at, begin, end) / could
    answered = [row for row in rows if row[3] == 200 and begin <= row[2] < end]
    outcome.throughput = len(answered) / scenario.measured / (outcome.capacity * scenario.had)
    latencies = sorted(row[2] - row[0] for row in answered)
    outcome.p50, outcome.p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    outcome.settled = settled_after(outcome.good_at, scenario.step, scenario.until or end)
    outcome.shed = sum(row[3] >= 500 for row in arrived) / len(arrived)
    outcome.unanswered = sum(row[3] in (TIMED_OUT, GONE) for row in arrived) / len(arrived)
    outcome.lag = percentile(sorted(row[1] for row in rows), 0.99)
    _of_server(outcome, samples, begin, end)
    if len(scenario.streams) > 1:
        _of_classes(outcome, scenario, [row for row in rows if CALM <= row[0] < end], arrived, good)
    if scenario.retries is not None:
        outcome.recovered = _recovery(scenario, rows, good)
    return outcome


def _capacity_at(capacity: float, scenario: Scenario, work: float, at: float) -> float:
    """What the service can do at a time: a change is one of the application, and not of the server around it."""
    around = max(0.0, 1 / capacity - work)
    factor = next((change.work for change in scenario.changes if change.begin < at <= change.end), 1.0)
    return 1 / (work * factor + around)


def _of_server(outcome: Outcome, samples: list[Sample], begin: float, end: float) -> None:
    outcome.limits = [(sample[0], sample[1]) for sample in samples if sample[0] >= 0]
    within = [sample for sample in samples if begin <= sample[0] <= end]
    if len(within) < 2:
        # So busy with what it let in that it did not get round to taking samples.
        within = [samples[-2], samples[-1]]
    outcome.limit = sum(sample[1] for sample in within) / len(within)
    outcome.in_app = sum(sample[2] for sample in within) / len(within)
    outcome.busy = (within[-1][3] - within[0][3]) / (within[-1][0] - within[0][0])
    outcome.waited = (samples[-1][4] - samples[0][4]) / (samples[-1][0] - samples[0][0])


def _of_classes(
    outcome: Outcome, scenario: Scenario, since_calm: list[Row], arrived: list[Row], good: Callable[[Row], bool]
) -> None:
    tenants = [number for number, stream in enumerate(scenario.streams) if stream.name == "background"]
    critical = [row for row in since_calm if row[4] not in tenants]
    outcome.critical_asked = len(critical)
    outcome.critical_answered = sum(row[3] == 200 for row in critical)
    outcome.critical_good = sum(map(good, critical))
    left = outcome.capacity * scenario.measured - sum(row[4] not in tenants for row in arrived)
    demands = [float(sum(row[4] == number for row in arrived)) for number in tenants]
    got = [sum(row[4] == number and good(row) for row in arrived) for number in tenants]
    outcome.background = sum(got) / left
    outcome.fairness = jain([each / share for each, share in zip(got, max_min_shares(demands, left), strict=True)])


def _recovery(scenario: Scenario, rows: list[Row], good: Callable[[Row], bool]) -> float:
    """Seconds from the end of the trigger until as many requests succeed as before."""

    def succeeded(begin: float, end: float) -> float:
        theirs = [row for row in rows if begin <= row[0] < end]
        return sum(map(good, theirs)) / max(1, len(theirs))

    before = succeeded(_STRETCH, scenario.changes[0].begin)
    for step in range(round((scenario.end - _STRETCH - scenario.step) * 10) + 1):
        at = scenario.step + step / 10
        if succeeded(at, at + _STRETCH) >= _AS_BEFORE * before:
            return step / 10
    return math.inf


def _between(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)
