"""Moments that were given back: found by key, bounded, and gone when they have passed."""

from __future__ import annotations

from hormesis.core import rate_moments
from hormesis.core.rate_moments import Moment, Moments


def test_the_first_moment_that_fits_is_taken() -> None:
    """Whatever the order in which they came back."""
    moments = Moments()
    for due in (3.0, 1.0, 2.0):
        moments.add("a", Moment(due, due + 1, int(due)))
    assert moments.last("a") == Moment(3.0, 4.0, 3)
    assert moments.take("b", 1, 0.0, 9.0) is None
    assert moments.take("a", 1, 0.0, 0.5) is None
    assert [moments.take("a", cost, 0.0, 9.0) for cost in (2, 1, 3, 1)] == [2.0, 1.0, 3.0, None]
    assert (len(moments), moments.last("a")) == (0, None)


def test_what_has_passed_is_dropped() -> None:
    """When its key is asked for next, and by then nobody gets it."""
    moments = Moments()
    moments.add("a", Moment(1.0, 2.0, 1))
    moments.add("a", Moment(1.5, 1.7, 1))
    assert moments.find("a", 1, 1.8, 9.0) == Moment(1.0, 2.0, 1)
    assert moments.find("a", 1, 2.5, 9.0) is None
    assert len(moments) == 0


def test_there_is_a_bound() -> None:
    """Above it, those of the key that has had some for the longest go."""
    moments = Moments()
    for number in range(rate_moments._MOST + 5):
        moments.add(f"key-{number}", Moment(1.0, 2.0, 1))
    assert len(moments) == rate_moments._MOST
    assert (moments.last("key-4"), moments.last("key-5")) == (None, Moment(1.0, 2.0, 1))
    moments.clear()
    assert (len(moments), moments.last("key-5")) == (0, None)
