"""Demand, replenishing it, marks, and work that one does for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock
from hormesis.core.demand import UNBOUNDED, Demand, Replenishment
from hormesis.core.hysteresis import Hysteresis
from hormesis.core.serial import Serial


def test_demand_adds_up_and_is_used_up() -> None:
    """What is asked for is what may be sent, and no more."""
    demand = Demand(NullLock())
    assert demand.take() == 0
    demand.add(2)
    demand.add(1)
    assert [demand.take(), demand.take(5), demand.take()] == [1, 2, 0]


def test_demand_without_a_bound() -> None:
    """Demand stops adding up at 2^63 - 1, and from there on is not used up."""
    demand = Demand(NullLock())
    demand.add(UNBOUNDED - 1)
    assert demand.add(5) == UNBOUNDED
    assert demand.take(1000) == 1000
    assert demand.left == UNBOUNDED


def test_demand_of_who_has_gone() -> None:
    """Who has gone asks for nothing."""
    demand = Demand(NullLock())
    demand.add(3)
    demand.clear()
    assert demand.take() == 0


@given(prefetch=st.integers(1, 50), low=st.none() | st.integers(0, 60), uses=st.lists(st.integers(1, 5), max_size=60))
def test_a_receiver_never_runs_dry_nor_over(prefetch: int, low: int | None, uses: list[int]) -> None:
    """What is outstanding never goes beyond the prefetch, and asking again comes before it is none."""
    asks = Replenishment(prefetch, low)
    outstanding = asks.first
    for wanted in uses:
        use = min(wanted, outstanding)
        outstanding -= use
        outstanding += asks.consumed(use)
        assert 0 < outstanding <= prefetch
        if low is not None and low < prefetch:
            assert outstanding > low


def test_a_receiver_that_takes_all_asks_once() -> None:
    """Without a bound there is nothing to ask for again."""
    asks = Replenishment(UNBOUNDED)
    assert [asks.first, asks.consumed(1000)] == [UNBOUNDED, 0]


def test_marks_by_bytes() -> None:
    """Either level pauses, and both have to be low again."""
    marks = Hysteresis(high=4, low=2, high_bytes=100, low_bytes=50)
    levels = [(1, 99), (1, 100), (1, 51), (3, 50), (2, 50), (4, 0), (2, 51), (2, 50)]
    assert [marks.update(*level) for level in levels] == [None, "pause", None, None, "resume", "pause", None, "resume"]


@given(levels=st.lists(st.integers(0, 12)))
def test_pauses_and_resumes_take_turns(levels: list[int]) -> None:
    """However the level moves, a pause is followed by a resume, and between them the level has crossed both marks."""
    marks = Hysteresis(high=8, low=3)
    paused = False
    for level in levels:
        turned = marks.update(level)
        assert turned == ("resume" if paused and level <= 3 else "pause" if not paused and level >= 8 else None)
        paused = marks.paused
        assert paused != (turned == "resume") or turned is None


def test_one_works_for_all() -> None:
    """Who finds somebody at work leaves word, and whoever is at it goes on."""
    serial = Serial(NullLock())
    assert serial.enter()
    assert not serial.enter()
    assert not serial.enter()
    assert not serial.leave()
    assert serial.leave()
    assert serial.enter()
    assert serial.leave()


def test_work_that_has_failed_is_open_to_others() -> None:
    """After a failure somebody else gets in."""
    serial = Serial(NullLock())
    serial.enter()
    serial.enter()
    serial.abandon()
    assert serial.enter()
    assert serial.leave()


@pytest.mark.parametrize("n", [1, 7])
def test_prefetch_of_few(n: int) -> None:
    """The smallest prefetch asks for each item by itself."""
    asks = Replenishment(1)
    assert [asks.consumed() for _ in range(n)] == [1] * n
