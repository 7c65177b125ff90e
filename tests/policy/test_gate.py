"""All admission parts as one: every permit or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.admission import Permit, Refusal
from hormesis.core.breaker import BreakerMachine, BreakerState
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.outcome import Ending
from hormesis.policy.gate import Entry, Gate, News, Obstacle


class Three:
    """A gate of a breaker and two bulkheads, of two places and one, the last with a queue of one."""

    def __init__(self) -> None:
        parts = hm.CircuitBreaker(minimum_calls=1, open_for=1, probes=1), hm.Bulkhead(2), hm.Bulkhead(1, max_queued=1)
        self.breaker: BreakerMachine = parts[0].machine(threading.Lock())
        self.wide: BulkheadMachine = parts[1].machine(threading.Lock())
        self.narrow: BulkheadMachine = parts[2].machine(threading.Lock())
        machines = self.breaker, self.wide, self.narrow
        self.gate = Gate([Entry(part, machine) for part, machine in zip(parts, machines, strict=True)])

    def take(self) -> list[Permit] | Obstacle:
        """Take every permit or none."""
        return self.gate.enter(0.0)

    @property
    def in_flight(self) -> tuple[int, int]:
        return self.wide.in_flight, self.narrow.in_flight

    def trip(self) -> None:
        self.breaker.end(self.breaker.acquire(0.0), Ending.FAILURE, 0.0, 0.0)  # type: ignore[arg-type]


def test_every_permit_is_taken_and_ended() -> None:
    """A call takes one permit of each part, and ends them all."""
    three = Three()
    permits = three.take()
    assert isinstance(permits, list)
    assert three.in_flight == (1, 1)
    three.gate.succeed(permits, 0.0, 1.0)
    assert three.in_flight == (0, 0)


def test_none_is_taken_when_one_refuses() -> None:
    """What was taken on the way to a refusal is put back, and leaves no trace."""
    three = Three()
    three.narrow.acquire(0.0)
    assert three.take() == Obstacle(2, Refusal("queue full", None, waitable=True))
    assert three.in_flight == (0, 1)
    assert three.breaker.tally(0.0).calls == 0


@pytest.mark.parametrize("refusing", ["breaker", "wide"])
def test_a_permit_that_was_waited_for_is_put_back_when_another_part_refuses(refusing: str) -> None:
    """After a wait it is all or none again: the permit in hand goes back as well."""
    three = Three()
    held = three.narrow.acquire(0.0)
    if refusing == "breaker":
        three.trip()
    else:
        three.wide.acquire(0.0)
        three.wide.acquire(0.0)
    taken = three.wide.in_flight
    assert isinstance(three.gate.enter_with(2, held, 0.5), Obstacle)  # type: ignore[arg-type]
    assert three.in_flight == (taken, 0)


def test_a_part_that_is_asked_after_the_one_that_was_waited_for() -> None:
    """All or none holds for the parts on either side of the queue."""
    three = Three()
    held = three.wide.acquire(0.0)
    three.narrow.acquire(0.0)
    assert three.gate.enter_with(1, held, 0.5) == Obstacle(2, Refusal("queue full", None, waitable=True))  # type: ignore[arg-type]
    assert three.in_flight == (0, 1)


def test_a_permit_that_was_waited_for_is_used() -> None:
    """With one permit in hand, only the others are taken."""
    three = Three()
    held = three.narrow.acquire(0.0)
    permits = three.gate.enter_with(2, held, 0.5)  # type: ignore[arg-type]
    assert isinstance(permits, list)
    assert permits[2] is held
    assert three.in_flight == (1, 1)


def test_what_no_wait_would_help_with() -> None:
    """Waiting is no use when any part would refuse whatever becomes of the queue."""
    three = Three()
    three.narrow.acquire(0.0)
    obstacle = three.take()
    assert isinstance(obstacle, Obstacle)
    assert three.gate.refused_outright(obstacle, 0.0) is None
    three.trip()
    outright = three.gate.refused_outright(obstacle, 0.0)
    assert outright == Obstacle(0, Refusal("open", 1.0))
    assert three.gate.refused_outright(outright, 0.0) == outright


def test_work_that_is_left_behind_keeps_its_places() -> None:
    """Of a call whose caller has gone, the breaker learns at once; the places are free when the work has ended."""
    three = Three()
    permits = three.take()
    assert isinstance(permits, list)
    later = three.gate.end_left_behind(permits, [Ending.FAILURE] * 3, 0.0, 1.0)
    assert three.breaker.state is BreakerState.OPEN
    assert three.in_flight == (1, 1)
    for end in later:
        end()
    assert three.in_flight == (0, 0)


def test_news_are_told_by_one_of_two_callers(race: Any, sweep_interleavings: Any) -> None:
    """When two callers publish at the same time, each change of state is told once, and nobody stumbles."""

    def make() -> Any:
        three = Three()
        three.trip()
        three.breaker.acquire(2.0)
        told: list[News] = []
        tell: Callable[[], None] = lambda: told.extend(three.gate.news())  # noqa: E731

        def check() -> None:
            assert sorted(news.change.after for news in told) == ["half-open", "open"]
            assert {news.part for news in told} == {"circuit_breaker"}

        return race(first=tell, second=tell, check=check)

    assert sweep_interleavings(make, [Gate.news]) > 10
