"""The machine of degradation levels: an example for each rule."""

from __future__ import annotations

import math

import pytest

from hormesis.core.admission import NullLock, Transition
from hormesis.core.degradation import DegradationMachine, DegradationTerms

LEVELS = ("full", "reduced", "minimal")
FEATURES = {"reviews": "reduced", "search": "minimal"}


def machine(
    *, worsen_after: float = 0, recover_after: float = 30, forget_after: float = math.inf
) -> DegradationMachine:
    terms = DegradationTerms(LEVELS, (0.9, 0.5), FEATURES, worsen_after, recover_after, forget_after)
    return DegradationMachine(terms, NullLock())


def test_everything_is_on_at_first() -> None:
    """Nobody has said anything, so nothing is due and every feature is on."""
    it = machine()
    assert (it.level, it.automatic, it.by_hand, it.due) == ("full", "full", False, math.inf)
    assert it.switched == {"reviews": True, "search": True}


@pytest.mark.parametrize(
    ("health", "level"),
    [(1.0, "full"), (0.9, "full"), (0.89, "reduced"), (0.5, "reduced"), (0.49, "minimal"), (0, "minimal")],
)
def test_health_below_a_threshold_asks_for_its_level(health: float, level: str) -> None:
    """A threshold itself is still good enough; going down may skip levels."""
    it = machine()
    it.report({"database": health}, 0)
    assert it.level == level


def test_a_source_may_ask_for_a_level() -> None:
    """A reading is a health, or the name of a level."""
    it = machine()
    assert it.report({"operator": "minimal"}, 0) == Transition("full", "minimal", "operator asks for minimal")
    assert it.switched == {"reviews": False, "search": False}


def test_the_worst_source_counts() -> None:
    """One that is well doesn't make up for one that is not, and the reason names the one that is not."""
    it = machine()
    change = it.report({"cache": 1.0, "database": 0.6, "search": 0.8}, 0)
    assert change == Transition("full", "reduced", "health 0.6 of database")
    assert it.report({"database": 1.0}, 1) is None
    assert it.due == math.inf  # since the search still asks for it


def test_it_worsens_only_after_a_while() -> None:
    """With `worsen_after`, a dip that is over in time changes nothing."""
    it = machine(worsen_after=5)
    it.report({"database": 0.7}, 0)
    assert (it.level, it.due) == ("full", 5)
    it.report({"database": 1.0}, 4)
    it.report({"database": 0.7}, 6)
    assert it.settle(10) is None
    assert it.settle(11) == Transition("full", "reduced", "health 0.7 of database")


def test_each_level_has_its_own_while() -> None:
    """What was worse than a threshold for long enough is worse than that one only, however bad it is by now."""
    it = machine(worsen_after=5)
    it.report({"database": 0.7}, 0)
    it.report({"database": 0.1}, 3)
    it.settle(5)
    assert (it.level, it.due) == ("reduced", 8)
    it.settle(8)
    assert it.level == "minimal"


def test_it_recovers_one_level_at_a_time() -> None:
    """Each step up takes `recover_after` of better health, from the step before."""
    it = machine()
    it.report({"database": 0.0}, 0)
    it.report({"database": 1.0}, 10)
    assert (it.level, it.due) == ("minimal", 40)
    assert it.settle(40) == Transition("minimal", "reduced", "better health")
    assert it.due == 70
    assert it.settle(69) is None
    it.settle(70)
    assert (it.level, it.due) == ("full", math.inf)


def test_a_relapse_begins_the_wait_anew() -> None:
    """Better health must be continuous."""
    it = machine()
    it.report({"database": 0.0}, 0)
    it.report({"database": 1.0}, 10)
    it.report({"database": 0.0}, 35)
    it.report({"database": 1.0}, 36)
    assert it.settle(65) is None
    it.settle(66)
    assert it.level == "reduced"


def test_it_recovers_no_further_than_health_allows() -> None:
    """It stays at the level that is asked for."""
    it = machine()
    it.report({"database": 0.0}, 0)
    it.report({"database": 0.7}, 1)
    it.settle(31)
    assert (it.level, it.due) == ("reduced", math.inf)


def test_silence_is_unknown() -> None:
    """A source that was not heard of for `forget_after` does not count, so no level can hold itself."""
    it = machine(forget_after=60)
    it.report({"database": 0.0}, 0)
    assert (it.readings(59), it.readings(60), it.due) == ({"database": 0.0}, {}, 60)
    it.settle(60)
    assert (it.level, it.due) == ("minimal", 90)
    it.settle(90)
    assert it.level == "reduced"


def test_a_reading_may_last_as_long_as_its_own() -> None:
    """Until further notice is possible too."""
    it = machine(forget_after=60)
    it.report({"database": 0.0}, 0, lasts=math.inf)
    assert (it.readings(1e9), it.due) == ({"database": 0.0}, math.inf)


def test_unknown_is_no_reading() -> None:
    """A source that says None is as if it had never said anything; so is a source that never did."""
    it = machine()
    it.report({"database": 0.0}, 0)
    it.report({"database": None, "cache": None}, 1)
    assert (it.readings(1), it.due) == ({}, 31)


def test_sources_are_bounded() -> None:
    """Of more than a thousand, the one that would be forgotten first is."""
    it = machine(forget_after=60)
    it.report({"oldest": 1.0}, 0)
    it.report({f"source {number}": 1.0 for number in range(1000)}, 1)
    assert len(it.readings(2)) == 1000
    assert "oldest" not in it.readings(2)


def test_by_hand_wins() -> None:
    """What was set by hand holds whatever health says, and the automatic level goes on underneath."""
    it = machine()
    assert it.set("reduced") == Transition("full", "reduced", "set by hand")
    assert it.report({"database": 0.0}, 0) is None
    assert (it.level, it.automatic, it.by_hand) == ("reduced", "minimal", True)
    assert it.set("full") == Transition("reduced", "full", "set by hand")
    assert it.switched == {"reviews": True, "search": True}
    assert it.release(1) == Transition("full", "minimal", "released by hand")
    assert (it.by_hand, it.switched) == (False, {"reviews": False, "search": False})


def test_nothing_is_told_when_nothing_changes() -> None:
    """Setting the level that holds is no change of level."""
    it = machine()
    assert it.set("full") is None
    assert it.release(0) is None


def test_other_terms_keep_what_is_known() -> None:
    """Levels are kept by name, readings are judged anew, and features are switched at once."""
    it = machine()
    it.report({"database": 0.7, "operator": "reduced"}, 0)
    change = it.become(DegradationTerms(("full", "slim", "reduced"), (0.8, 0.75), {"maps": "slim"}, 0, 30, 60), 1)
    assert change is None
    assert (it.level, it.switched, it.due) == ("reduced", {"maps": False}, math.inf)


def test_a_level_that_is_gone_becomes_the_nearest_in_place() -> None:
    """By hand and automatically; and a wish for a level that nobody knows any more is none."""
    it = machine()
    it.report({"operator": "minimal"}, 0)
    it.set("minimal")
    change = it.become(DegradationTerms(("good", "bad"), (0.5,), {"reviews": "bad"}, 0, 30, 60), 1)
    assert change == Transition("minimal", "bad", "reconfigured")
    assert (it.by_hand, it.automatic, it.switched) == (True, "bad", {"reviews": False})
    it.release(1)
    it.settle(31)
    assert it.level == "good"
