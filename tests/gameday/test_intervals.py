"""How sure a measurement is: intervals that hold the truth as often as they say."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.gameday.intervals import design_effect, of_count, of_quantile, of_share

counts = st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.floats(0.5, 0.999), st.floats(1, 50))
def test_a_share_is_inside_its_interval(count: tuple[int, int], confidence: float, effect: float) -> None:
    """The interval holds the measured share, stays within 0 to 1, and is wider where requests depend on each other."""
    hits, requests = count
    low, high = of_share(hits, requests, confidence)
    wide_low, wide_high = of_share(hits, requests, confidence, effect)
    assert 0 <= wide_low <= low + 1e-9 <= hits / requests + 2e-9
    assert hits / requests <= high + 1e-9 <= wide_high + 2e-9 <= 1 + 2e-9


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 0.0370), (50, 0.4038, 0.5962), (100, 0.9630, 1.0)])
def test_wilson(hits: int, low: float, high: float) -> None:
    """The figures are those of the textbook."""
    assert of_share(hits, 100, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_how_often_a_share_is_held(share: float) -> None:
    """An interval of 95 % holds the true share about nineteen times of twenty."""
    rng = random.Random(3)
    held = 0
    for _ in range(400):
        low, high = of_share(sum(rng.random() < share for _ in range(120)), 120, 0.95)
        held += low <= share <= high
    assert held >= 360


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_how_often_a_quantile_is_held(q: float) -> None:
    """So does one of a quantile, whatever the distribution."""
    rng = random.Random(4)
    truth = -math.log(1 - q)
    held = 0
    for _ in range(300):
        low, high = of_quantile(sorted(rng.expovariate(1) for _ in range(600)), q, 0.95)
        held += low <= truth <= high
    assert held >= 275


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.99]), st.floats(1, 30))
def test_a_quantile_is_inside_its_interval(values: list[float], q: float, effect: float) -> None:
    """The interval holds the measured quantile; few values leave it open above."""
    ordered = sorted(values)
    measured = ordered[max(0, math.ceil(q * len(ordered)) - 1)]
    for each in (1.0, effect):
        low, high = of_quantile(ordered, q, 0.95, each)
        assert low <= measured <= high


def test_few_values_bound_no_p99() -> None:
    """From sixty values nobody can say how long the worst of a hundred takes."""
    assert of_quantile(list(range(60)), 0.99, 0.95)[1] == math.inf
    assert of_quantile(list(range(1000)), 0.99, 0.95)[1] < math.inf


def test_requests_that_fail_together_say_less() -> None:
    """What hits whole slices of time is worth fewer requests; too few slices, or all alike, say nothing of it."""
    together = [(20, 20), (20, 0)] * 5
    apart = [(20, 10)] * 10
    assert design_effect(apart) == 1
    assert design_effect(together) > 15
    assert design_effect(together[:3]) == 1
    assert design_effect([(20, 20)] * 10) == design_effect([(20, 0)] * 10) == design_effect([]) == 1
    assert of_share(100, 200, 0.95, design_effect(together))[0] < 0.35 < of_share(100, 200, 0.95)[0]


def test_counts() -> None:
    """A count has an interval too, from nothing on."""
    low, high = of_count(0, 0.95)
    assert (low, round(high, 2)) == (0.0, 0.96)
    assert of_count(400, 0.95) == pytest.approx((361.8, 440.2), abs=0.5)
