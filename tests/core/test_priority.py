"""Criticality and cohorts: what travels, and what is read of what strangers send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis import ConfigurationError, calling, criticality
from hormesis.priority import Criticality, cohort_of, priority_headers, urgency_in


@pytest.mark.parametrize("each", Criticality)
def test_a_criticality_survives_the_wire(each: Criticality) -> None:
    """What is sent is read as the same class."""
    urgency = urgency_in(priority_headers(each)["priority"])
    assert urgency is not None
    assert Criticality.of_urgency(urgency) is each


@pytest.mark.parametrize(
    ("value", "urgency"),
    [
        ("u=0", 0),
        ("i, u=5", 5),
        ("u=1;x, i", 1),
        ("u=1, u=6", 6),
        (" u = 2 ", 2),
        ("u=8", None),
        ("u=-1", None),
        ("u=1.5", None),
        ("xu=1", None),
        ("u=11", None),
        ("", None),
        ("u=1" + " " * 80, None),
    ],
)
def test_urgency_is_read_as_the_standard_has_it(value: str, urgency: int | None) -> None:
    """Members that are not ours are passed over, and what is malformed says nothing."""
    assert urgency_in(value) == urgency


@given(st.text(max_size=200))
def test_any_text_is_read_or_says_nothing(value: str) -> None:
    """No header of a stranger raises."""
    assert urgency_in(value) in {None, *range(8)}


def test_cohorts_are_spread_evenly() -> None:
    """Ids that are counted up, as many are, fill every tenth of a class alike."""
    counts = [0] * 10
    for number in range(10_000):
        counts[int(cohort_of(f"request-{number}") * 10)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


def test_a_criticality_holds_for_the_block_and_can_be_told_by_name() -> None:
    """An inner block that says nothing leaves it as it is."""
    with calling(criticality="critical"), calling(tenant="acme"):
        assert criticality() is Criticality.CRITICAL
    assert criticality() is None


@pytest.mark.parametrize("bad", ["urgent", 7, "CRITICAL"])
def test_an_unknown_criticality_is_refused(bad: object) -> None:
    """The message shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=r"it takes 'critical' or 'default' or 'sheddable' or 'background'"):
        Criticality.of(bad)
