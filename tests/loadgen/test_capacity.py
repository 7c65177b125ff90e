"""The search for a service's capacity, on simulated services whose capacity is known, on virtual time."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Answer, Sample, Samples, Segment, arrivals
from hormesis.loadgen.capacity import Capacity, Measurement, Probe, Search, scalability

PATIENCE = 2.0


@dataclass
class Simulated:
    """So many servers with one queue; callers leave after two seconds, and are served all the same.

    `slowed` is what a request costs by the number of those in the system, as a factor.
    """

    servers: int
    mean: float
    slowed: Callable[[int], float] = lambda in_system: 1.0
    even: bool = False
    failing_above: float = math.inf

    def answer(self, probe: Probe, seed: int) -> Samples:
        rng = random.Random(f"{seed}/{probe.number}")
        due = arrivals([Segment(probe.seconds, probe.rate)], seed=f"{seed}/{probe.number}")
        free = [0.0] * self.servers
        ends: list[float] = []
        samples = Samples()
        for at in due:
            while ends and ends[0] <= at:
                heapq.heappop(ends)
            work = self.mean if self.even else rng.expovariate(1 / self.mean)
            begin = max(at, heapq.heappop(free))
            end = begin + work * self.slowed(len(ends) + 1)
            heapq.heappush(free, end)
            heapq.heappush(ends, end)
            patient = end - at <= PATIENCE and probe.rate <= self.failing_above
            samples.append(
                Sample(at, at, end, 0, Answer.FULL)
                if patient
                else Sample(at, at, at + PATIENCE, 0, Answer.FAILED, "timeout")
            )
        return samples


def found(
    service: Simulated,
    seed: int = 1,
    *,
    generator: float = math.inf,
    late: Callable[[Probe], bool] = lambda probe: False,
    stop_after: int | None = None,
    **settings: Any,
) -> Capacity:
    """Search on virtual time: a probe takes its length and a second more."""
    search = Search(**({"first": 50, "step": "2s", "within": "10m"} | settings))
    probes, now = search.probes(), 0.0
    answer: Measurement | None = None
    for count in itertools.count():
        try:
            probe = probes.send(answer) if answer is not None else next(probes)
        except StopIteration:
            return search.result()
        if count == stop_after:
            return search.result("stopped")
        now += probe.seconds + 1
        valid = probe.rate <= generator and not late(probe)
        answer = Measurement.of(probe, service.answer(probe, seed), 0.0, lag=0.0, valid=valid, ended_at=now)
    raise AssertionError


def mm1_knee(servers: float, mean: float, p99: float) -> float:
    """The rate at which the p99 of a single exponential queue is the bound: it is ln(100) over what is left."""
    return servers / mean - math.log(100) / p99


@pytest.mark.parametrize("seed", range(3))
def test_the_knee_of_a_single_queue_is_found(seed: int) -> None:
    """For M/M/1 theory says at which rate the p99 meets its bound; the interval is near it, and not wide."""
    truth = mm1_knee(1, 1 / 1000, 0.1)
    capacity = found(Simulated(1, 1 / 1000), seed, p99="100ms")
    assert capacity.knee == pytest.approx(truth, rel=0.08)
    assert capacity.low <= capacity.knee <= capacity.high < 1.25 * capacity.low
    assert capacity.confidence == pytest.approx(1 - 2**-5)
    assert not capacity.at_least
    assert capacity.beyond == "saturates"
    assert capacity.breaking is not None
    assert 0.9 * truth < capacity.breaking[0] < capacity.breaking[1] < 1.35 * truth
    assert capacity.peak == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(("mean", "step"), [(0.6, "1s"), (1.9, "3s")])
def test_a_slow_service_that_keeps_up_is_not_broken(mean: float, step: str) -> None:
    """Its answers come late, so a step has none in its first seconds; that is no rate that it does not hold."""
    capacity = found(Simulated(1000, mean, even=True), p99="1.95s", first=20, last=80, step=step, within="1m")
    assert (capacity.knee, capacity.at_least, capacity.breaking) == (80, True, None)
    assert capacity.ended == "the highest rate holds"
    assert not any(each.breaks for each in capacity.measured)


def test_a_slow_service_that_does_not_keep_up_is_broken() -> None:
    """Where a queue grows it shows, however long an answer takes."""
    capacity = found(Simulated(50, 1.0, even=True), p99="1.9s", first=20, last=400, step="4s", within="4m")
    assert capacity.knee == pytest.approx(50, rel=0.15)
    assert capacity.breaking is not None
    assert 40 < capacity.breaking[0] < capacity.breaking[1] < 110


def test_a_generator_that_can_not_send_the_first_rate() -> None:
    """Nothing is known of the service then, neither that it holds nor that it does not."""
    capacity = found(Simulated(1, 1 / 1000), generator=10, p99="100ms")
    assert (capacity.knee, capacity.at_least, capacity.breaking) == (None, False, None)
    assert capacity.ended == "the generator does not keep up with the first rate"


def test_a_generator_that_was_late_once() -> None:
    """A host that is busy for a moment ends no search: the rate is asked for again."""
    late = iter([True])
    capacity = found(Simulated(1, 1 / 1000), p99="100ms", late=lambda probe: probe.rate == 400 and next(late, False))
    assert [each.valid for each in capacity.measured if each.rate == 400] == [False, True]
    assert capacity.confidence > 0.9
    assert not capacity.at_least


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of many searches, the median of what they find lies in nearly all of their intervals."""
    capacities = [found(Simulated(1, 1 / 200), seed, p99="100ms", resolution=0.1, step="1s") for seed in range(12)]
    centre = statistics.median(capacity.knee or 0 for capacity in capacities)
    covered = sum(capacity.low <= centre <= capacity.high for capacity in capacities)
    assert covered >= 10


@pytest.mark.parametrize("servers", [4, 16])
def test_the_knee_of_many_servers_is_found(servers: int) -> None:
    """M/M/c has its knee near what all servers do together, and saturates there."""
    rate = servers * 50
    capacity = found(Simulated(servers, 1 / 50), p99="200ms")
    assert capacity.knee is not None
    assert 0.85 * rate < capacity.knee < 1.08 * rate
    assert capacity.beyond == "saturates"


def test_a_service_that_collapses_is_told_from_one_that_saturates() -> None:
    """A pool whose threads get into one another's way answers less the more it is asked."""
    pool = Simulated(8, 1 / 50, slowed=lambda in_system: 1 + max(0, in_system - 16) / 20)
    capacity = found(pool, p99="200ms")
    assert capacity.knee is not None
    assert 250 < capacity.knee < 450
    assert capacity.beyond == "collapses"
    assert capacity.breaking is not None


def test_wrong_answers_end_it_as_well_as_slow_ones() -> None:
    """A service that is quick and wrong above a rate has its knee there."""
    capacity = found(Simulated(1, 1e-4, even=True, failing_above=777), p99="100ms")
    assert capacity.knee == pytest.approx(777, rel=0.05)


def test_a_generator_that_does_not_keep_up_is_no_limit_of_the_service() -> None:
    """Where the generator ends before the service, what is known is at least so much."""
    capacity = found(Simulated(1, 1e-5), generator=1000, p99="1s")
    assert capacity.at_least
    assert capacity.knee == 800
    assert capacity.high == math.inf
    assert "generator" in capacity.ended
    assert capacity.breaking is None


def test_the_highest_rate_may_hold() -> None:
    """A search that is told where to end, and finds nothing, says at least."""
    capacity = found(Simulated(1, 1e-5), last=300, p99="1s")
    assert (capacity.at_least, capacity.knee, capacity.ended) == (True, 300, "the highest rate holds")


def test_not_even_the_first_rate_may_hold() -> None:
    """A service that can't take the first rate has no knee, and is asked no more."""
    capacity = found(Simulated(1, 1 / 10), p99="100ms")
    assert capacity.knee is None
    assert len(capacity.measured) == 2
    assert capacity.ended == "not even the first rate holds"


def test_the_bound_follows_from_a_calm_service() -> None:
    """Without a bound the p99 may be ten times that of a service with little to do, and is never below 50 ms."""
    assert found(Simulated(100, 0.02, even=True), last=100).p99 == pytest.approx(0.2)
    assert found(Simulated(1, 1e-4, even=True), last=100).p99 == 0.05


@pytest.mark.parametrize("within", ["20s", "45s", "90s"])
def test_the_time_is_kept(within: str) -> None:
    """Whatever the time, the search is over in it, and says how sure it can be by then."""
    capacity = found(Simulated(1, 1 / 1000), p99="100ms", within=within)
    assert capacity.measured[-1].ended_at <= float(within[:-1])
    assert capacity.confidence < 0.96
    assert capacity.knee is not None
    assert capacity.low <= capacity.knee <= capacity.high


def test_a_search_that_had_time_for_one_look_does_not_claim_too_much() -> None:
    """What four servers of 20 ms can do, 200/s, lies in the last interval; a lucky step does not hide it."""
    for seed in range(20):
        capacity = found(Simulated(4, 0.02, even=True), seed, p99="200ms", step="3s", within="24s")
        assert capacity.confidence == 0
        assert capacity.knee is not None
        assert capacity.low <= 200 <= capacity.high, seed
        assert capacity.low <= capacity.knee <= min(capacity.high, 212), seed


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 9, 20])
def test_a_search_may_be_ended_at_any_time(steps: int) -> None:
    """What was found by then is the result, with the reason."""
    capacity = found(Simulated(1, 1 / 1000), p99="100ms", stop_after=steps)
    assert capacity.ended == "stopped"
    assert len(capacity.measured) == steps
    assert (capacity.knee is None) == (steps == 0)


def measurement(throughput: float, mean: float) -> Measurement:
    return Measurement(rate=throughput, offered=throughput, served=throughput, success=1, mean=mean, p50=mean, p99=mean)


def test_the_law_of_scalability_is_recovered() -> None:
    """Points on the law give its coefficients and its peak back; a single queue tends to its service rate."""
    gamma, alpha, beta = 100.0, 0.05, 0.001
    points = [(n, gamma * n / (1 + alpha * (n - 1) + beta * n * (n - 1))) for n in (1, 2, 4, 8, 12, 20)]
    law = scalability(measurement(x, n / x) for n, x in points)
    assert law is not None
    assert (law.gamma, law.alpha, law.beta) == pytest.approx((gamma, alpha, beta), rel=1e-6)
    best = math.sqrt((1 - alpha) / beta)
    assert law.peak == pytest.approx(gamma * best / (1 + alpha * (best - 1) + beta * best * (best - 1)))
    queue = scalability(measurement(x, 1 / (200 - x)) for x in (50, 100, 150, 180))
    assert queue is not None
    assert queue.peak == pytest.approx(200)
    assert scalability(measurement(x, 1 / (200 - x)) for x in (50, 100, 150)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": 100, "last": 50}, "to is 50"),
        ({"success": 0}, "success is 0"),
        ({"success": 1.5}, "success is 1.5"),
        ({"resolution": 0}, "resolution is 0"),
        ({"p99": 0}, "p99 is 0"),
        ({"within": "5s", "step": "2s"}, r"within is '5s'; it takes four steps at least, 8 s"),
        ({"first": "many"}, "from is 'many'"),
    ],
)
def test_a_search_that_can_not_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    """The error names the setting and the value."""
    with pytest.raises(ConfigurationError, match=message):
        Search(**settings)
