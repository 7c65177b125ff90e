"""Ranks: who stands before whom, the ceiling, and journeys that are under way."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.ranks import _CALLS_MAX, _CALLS_TOLD, _JOURNEYS_MAX, Ranks
from hormesis.priority import Criticality

LAST = 1 - 2.0**-53
"""The last number below one."""


def begins(share: float) -> object:
    """Return where that share of a class stands whose journeys begin: behind those that are under way."""
    return pytest.approx(1 / 16 + share * 15 / 16, abs=1e-12)


def one_window(ranks: Ranks, *, came: int, went_in: float, criticality: int = Criticality.DEFAULT) -> None:
    """Let so many come whose cohorts are spread evenly, and that share of them go in."""
    for number in range(came):
        cohort = (number + 0.5) / came
        ranks.came(2 * criticality + cohort)
        if cohort < went_in:
            ranks.went_in(cohort)
    ranks.find_ceiling()


@given(
    cohort=st.floats(0, 1),
    other=st.floats(0, 1),
    keeps=st.floats(1e-6, 1),
    criticality=st.sampled_from(Criticality),
)
def test_a_class_stands_before_the_next(cohort: float, other: float, keeps: float, criticality: Criticality) -> None:
    """Whatever its cohort and its client's share, a request stands in its class, and each rank has a place to count."""
    ranks = Ranks()
    rank = ranks.rank(criticality, cohort, keeps)
    assert 2 * criticality <= rank < 2 * criticality + 2
    ranks.came(rank)
    ranks.find_ceiling()
    assert 0 <= ranks.better(rank) < math.inf
    if criticality < Criticality.BACKGROUND:
        assert rank < ranks.rank(criticality + 1, other, keeps)


@pytest.mark.parametrize("cohort", [0.0, LAST, 1.0])
@pytest.mark.parametrize("keeps", [0.0, 1e-6, 0.5, LAST, 1.0])
def test_the_ends_of_the_range(cohort: float, keeps: float) -> None:
    """The first cohort, the last one, and none and all of a client's share: each has a rank in its class."""
    ranks = Ranks()
    rank = ranks.rank(Criticality.BACKGROUND, cohort, keeps)
    assert 6 <= rank < 8
    ranks.came(rank)


def test_a_share_is_stretched() -> None:
    """What a client keeps is spread over the same range as what others keep, and the rest over the next."""
    ranks = Ranks()
    assert ranks.rank(Criticality.DEFAULT, 0.2, 0.4) - 2 == ranks.rank(Criticality.DEFAULT, 0.5, 1.0) - 2 == begins(0.5)
    assert ranks.rank(Criticality.DEFAULT, 0.7, 0.4) == pytest.approx(3.5)


def test_before_anything_is_known_there_is_no_ceiling() -> None:
    """In the first moments of an overload nobody is hopeless, and nobody's class is safe."""
    ranks = Ranks()
    assert ranks.ceiling == math.inf
    assert not ranks.safe(0.0)
    assert ranks.better(7.9) == 0.0


def test_the_ceiling_is_where_as_much_comes_as_goes_in() -> None:
    """Half of what comes goes in: the ceiling stands in the middle of the class."""
    ranks = Ranks()
    for _ in range(40):
        one_window(ranks, came=100, went_in=0.5)
    assert ranks.ceiling == pytest.approx(2.5, abs=0.02)
    assert ranks.better(2.0) == 0.0
    assert ranks.better(2.5) == pytest.approx(1.0, abs=0.01)
    assert ranks.better(2.25) == pytest.approx(0.5, abs=0.01)


def test_a_class_that_goes_in_as_a_whole_is_safe() -> None:
    """With the ceiling among default requests, all critical ones are safe, and no default one is."""
    ranks = Ranks()
    for _ in range(20):
        for number in range(50):
            ranks.came(ranks.rank(Criticality.CRITICAL, number / 50, 1.0))
            ranks.went_in(number / 50)
        one_window(ranks, came=100, went_in=0.3)
    assert 2 < ranks.ceiling < 3
    assert ranks.safe(0.0)
    assert ranks.safe(1.99)
    assert not ranks.safe(2.0)


def test_when_all_goes_in_there_is_no_ceiling() -> None:
    """As much goes in as comes: nobody stands beyond what the service gets to."""
    ranks = Ranks()
    for _ in range(20):
        one_window(ranks, came=40, went_in=1.0)
    assert ranks.ceiling == math.inf


def test_the_ceiling_follows_within_seconds() -> None:
    """When the service can do half of what it could, the ceiling is found anew in two seconds."""
    ranks = Ranks()
    for _ in range(40):
        one_window(ranks, came=100, went_in=0.6)
    for _ in range(20):
        one_window(ranks, came=100, went_in=0.3)
    assert 2.3 < ranks.ceiling < 2.4


def test_a_service_that_lets_nobody_in_for_hours() -> None:
    """However long nothing goes in, what is known fades to nothing, and never to what is no number."""
    ranks = Ranks()
    one_window(ranks, came=10, went_in=0.5)
    for _ in range(20_000):
        ranks.came(2.5)
        ranks._entering *= 0.5
        ranks.find_ceiling()
        if ranks._entering < 1e-300:
            break
    assert ranks._entering < 1e-300
    assert ranks.better(2.9) == 0.0


def test_a_journey_that_was_let_in_stands_at_the_top_of_its_class() -> None:
    """Its other calls go before most that begin, whatever its cohort and client; not before a better class."""
    ranks = Ranks()
    ranks.went_in(0.9)
    assert ranks.rank(Criticality.DEFAULT, 0.9, 0.3) < ranks.rank(Criticality.DEFAULT, 0.1, 1.0)
    assert ranks.rank(Criticality.DEFAULT, 0.9, 0.3) > ranks.rank(Criticality.CRITICAL, 0.99, 0.3)


@given(cohort=st.floats(0, 1), keeps=st.floats(1e-6, 1), criticality=st.sampled_from(Criticality))
def test_nobody_else_stands_where_journeys_under_way_do(cohort: float, keeps: float, criticality: Criticality) -> None:
    """What begins is never taken for what has been let in before, whatever its cohort."""
    ranks = Ranks()
    assert not ranks.under_way(ranks.rank(criticality, cohort, keeps))
    ranks.turned_away(cohort)
    assert not ranks.under_way(ranks.rank(criticality, cohort, keeps))
    ranks.went_in(cohort)
    assert ranks.under_way(ranks.rank(criticality, cohort, keeps))


def windows(ranks: Ranks, number: int, journeys: int, calls: int) -> None:
    """Let so many journeys with so many calls each go in in each window."""
    draws = random.Random(1)
    for _ in range(number):
        for cohort in [draws.random() for _ in range(journeys)] * calls:
            ranks.went_in(cohort)
        ranks.find_ceiling()


def test_the_calls_of_a_journey_are_counted() -> None:
    """The mean of lately: one where all ids differ, never less, and bounded where one id never ends."""
    ranks = Ranks()
    assert ranks.calls == 1.0
    windows(ranks, 5, journeys=10, calls=1)
    assert ranks.calls == 1.0
    windows(ranks, 60, journeys=7, calls=4)
    assert ranks.calls == pytest.approx(4, rel=0.02)
    windows(ranks, 60, journeys=1, calls=100)
    assert ranks.calls == _CALLS_TOLD
    ranks.begin()
    assert ranks.calls == 1.0


def test_a_journey_is_remembered_for_two_generations() -> None:
    """It is remembered for one more generation, and then forgotten."""
    ranks = Ranks()
    ranks.went_in(0.9)
    ranks.forget_journeys()
    assert ranks.rank(Criticality.DEFAULT, 0.9, 1.0) < 2.1
    ranks.forget_journeys()
    assert ranks.rank(Criticality.DEFAULT, 0.9, 1.0) - 2 == begins(0.9)


def test_a_journey_that_was_turned_away_stands_at_the_end_of_its_class() -> None:
    """Its other calls go behind all that begin, but not behind what is beyond fair shares, and only for a while."""
    ranks = Ranks()
    ranks.turned_away(0.1)
    assert ranks.has_failed(0.1)
    assert not ranks.has_failed(0.2)
    assert ranks.rank(Criticality.DEFAULT, 0.8, 1.0) < ranks.rank(Criticality.DEFAULT, 0.1, 1.0) < 3
    assert ranks.rank(Criticality.DEFAULT, 0.1, 1.0) < ranks.rank(Criticality.DEFAULT, 0.1, 0.05)
    ranks.forget_journeys()
    assert ranks.has_failed(0.1)
    ranks.forget_journeys()
    assert ranks.rank(Criticality.DEFAULT, 0.1, 1.0) - 2 == begins(0.1)


def test_a_journey_under_way_does_not_fail_by_one_call() -> None:
    """A call of it that was turned away may be made again; and one that got in after all is under way."""
    ranks = Ranks()
    ranks.went_in(0.9)
    ranks.turned_away(0.9)
    assert not ranks.has_failed(0.9)
    ranks.turned_away(0.5)
    ranks.went_in(0.5)
    assert ranks.rank(Criticality.DEFAULT, 0.5, 1.0) < 2.1


def test_the_failed_journeys_are_bounded() -> None:
    """Beyond so many, further ones are not remembered."""
    ranks = Ranks()
    draws = random.Random(1)
    for _ in range(_JOURNEYS_MAX + 100):
        ranks.turned_away(draws.random())
    assert len(ranks._failed) == _JOURNEYS_MAX


def test_an_overload_that_begins_knows_the_journeys_under_way() -> None:
    """The histogram begins anew; journeys of a moment ago go on."""
    ranks = Ranks()
    one_window(ranks, came=10, went_in=0.5)
    ranks.begin()
    assert ranks.ceiling == math.inf
    assert ranks.rank(Criticality.DEFAULT, 0.05, 1.0) < 2.05


def test_one_id_is_no_ticket() -> None:
    """After as many calls as journeys have, all that comes under one id stands where its cohort says."""
    ranks = Ranks()
    for _ in range(_CALLS_MAX):
        assert ranks.rank(Criticality.DEFAULT, 0.9, 1.0) - 2 in (begins(0.9), pytest.approx(0.9 / 16))
        ranks.went_in(0.9)
    assert ranks.rank(Criticality.DEFAULT, 0.9, 1.0) - 2 == begins(0.9)
    ranks.forget_journeys()
    ranks.went_in(0.9)
    assert ranks.rank(Criticality.DEFAULT, 0.9, 1.0) - 2 == begins(0.9)


def test_a_client_that_has_had_too_much_has_no_journeys_under_way() -> None:
    """Who keeps nothing stands behind its class, also with an id that has got in."""
    ranks = Ranks()
    ranks.went_in(0.1)
    assert ranks.rank(Criticality.DEFAULT, 0.1, 0.0) == 3.1


def test_the_journeys_are_bounded() -> None:
    """Beyond so many, further ones are not remembered; those that are, still count their calls."""
    ranks = Ranks()
    draws = random.Random(1)
    first = draws.random()
    ranks.went_in(first)
    for _ in range(_JOURNEYS_MAX + 100):
        ranks.went_in(draws.random())
    assert len(ranks._journeys) == _JOURNEYS_MAX
    for _ in range(_CALLS_MAX):
        ranks.went_in(first)
    assert ranks.rank(Criticality.DEFAULT, first, 1.0) - 2 == begins(first)
