"""Fair shares: the level, what each client keeps of what it asks for, and how that corrects itself."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.shares import _CLIENTS_MAX, FairShares, level_of


@given(demands=st.lists(st.floats(0, 1000), max_size=8), capacity=st.floats(0, 2000))
def test_the_level_is_max_min_fair(demands: list[float], capacity: float) -> None:
    """All of the capacity is used, nobody gets more than he asks for, and who gets less than that gets the level."""
    level = level_of(demands, capacity)
    got = [min(demand, level) for demand in demands]
    assert sum(got) == pytest.approx(min(sum(demands), capacity), abs=1e-6)
    if sum(demands) <= capacity:
        assert got == pytest.approx(demands)


def second(shares: FairShares, asked: dict[str, int], served: int, *, got: dict[str, int] | None = None) -> None:
    """Let one second go by."""
    for client, count in asked.items():
        for _ in range(count):
            shares.asked(client)
    for client, count in (got or {}).items():
        for _ in range(count):
            shares.got(client)
    shares.weigh(served=served, short=True)


def test_nobody_is_held_back_before_a_second_is_over() -> None:
    """What is not known yet is not held against anybody."""
    shares = FairShares()
    shares.asked("a")
    shares.got("a")
    assert shares.kept("a") == shares.kept("never seen") == 1.0


def test_who_asks_for_more_than_its_share_keeps_that_share() -> None:
    """Two small clients get all they ask for, and the large one what they leave."""
    shares = FairShares()
    second(shares, {"a": 10, "b": 20, "large": 170}, served=100)
    assert (shares.kept("a"), shares.kept("b")) == (1.0, 1.0)
    assert shares.kept("large") == pytest.approx(70 / 170)
    assert shares.over == 1


def test_a_class_that_is_not_short_has_no_shares() -> None:
    """When nobody was turned away, nobody asks for too much."""
    shares = FairShares()
    second(shares, {"a": 10, "large": 170}, served=100)
    for _ in range(90):
        shares.asked("large")
    shares.weigh(served=90, short=False)
    assert shares.over == 0


def test_one_client_alone_has_no_share() -> None:
    """Fairness is among several; a client alone takes all there is."""
    shares = FairShares()
    second(shares, {"only": 500}, served=100)
    assert shares.kept("only") == 1.0


def test_what_a_client_asks_for_is_smoothed() -> None:
    """One quiet second halves what is known of a client, and a client that is silent fades away."""
    shares = FairShares()
    second(shares, {"a": 10, "large": 160}, served=50)
    second(shares, {"a": 10}, served=50)
    assert shares.kept("large") < 1.0
    for _ in range(10):
        second(shares, {"a": 60, "b": 60}, served=50)
    assert "large" not in shares._demand


def test_what_a_client_really_gets_corrects_what_it_keeps() -> None:
    """Who gets more than its share keeps less, and who gets less keeps more, within bounds."""
    shares = FairShares()
    asked = {"small": 10, "large": 190}
    second(shares, asked, served=50)
    first = shares.kept("large")
    second(shares, asked, served=50, got={"large": 60})
    after_more = shares.kept("large")
    assert after_more < first
    for _ in range(6):
        second(shares, asked, served=50, got={"large": 20})
    assert shares.kept("large") > after_more
    for _ in range(40):
        second(shares, asked, served=50, got={"large": 80})
    assert shares.kept("large") == pytest.approx(first / 8)
    for _ in range(40):
        second(shares, asked, served=50)
    assert shares.kept("large") == pytest.approx(2 * first)


def test_the_correction_finds_the_share_of_who_is_served_by_chance() -> None:
    """Of a client that gets a third more than what is kept for it, less is kept until it gets its share."""
    shares, draws = FairShares(), random.Random(1)
    got = 0.0
    for number in range(60):
        expected = 160 * shares.kept("large") * 4 / 3
        latest = min(80, round(draws.gauss(expected, 3)))
        got += latest if number >= 30 else 0
        second(shares, {"small": 20, "large": 160}, served=60, got={"large": latest})
    assert got / 30 == pytest.approx(40, rel=0.1)


def test_a_class_that_gets_nothing_keeps_next_to_nothing() -> None:
    """With nothing to share the level is 0, and what is kept finds its way back from there."""
    shares = FairShares()
    second(shares, {"a": 10, "b": 10}, served=0)
    second(shares, {"a": 10, "b": 10}, served=0)
    assert shares.kept("a") == shares.kept("b") == 1e-6
    for _ in range(30):
        second(shares, {"a": 10, "b": 100}, served=20, got={"b": 1})
    assert shares.kept("a") == 1.0
    assert shares.kept("b") > 0.01


def test_who_has_had_far_more_than_its_share_keeps_nothing_for_a_second() -> None:
    """Cohorts can be chosen, so what a client got in this second counts as well."""
    shares = FairShares()
    second(shares, {"small": 10, "large": 190}, served=50)
    assert shares.kept("large") > 0
    for _ in range(2 * 40 + 4):
        assert shares.kept("large") > 0
        shares.got("large")
    assert shares.kept("large") == 0.0
    assert shares.kept("small") == 1.0
    second(shares, {"small": 10, "large": 190}, served=50)
    assert shares.kept("large") > 0


def test_the_clients_of_a_second_are_bounded() -> None:
    """With more clients than are counted, the first ones are, and the others count as small; memory stays bounded."""
    shares = FairShares()
    for round_ in range(4):
        for number in range(2 * _CLIENTS_MAX):
            shares.asked(f"{round_}/{number}")
            shares.got(f"{round_}/{number}")
        shares.weigh(served=100, short=True)
        assert len(shares._demand) <= 2 * _CLIENTS_MAX
        assert len(shares._keep) <= len(shares._demand)
        assert len(shares._got) == 0
        assert len(shares._got_lately) <= len(shares._keep)
        assert shares.kept(f"{round_}/{2 * _CLIENTS_MAX - 1}") == 1.0


def test_there_is_enough_for_all() -> None:
    """The level is infinite then."""
    assert level_of([], 5) == level_of([1, 2], 3) == math.inf
