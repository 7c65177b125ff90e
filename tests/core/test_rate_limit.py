"""How often: buckets and windows against naive models, several at once, reservations, and what is forgotten."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock, Refusal
from hormesis.core.rate_limit import STEPS, Algorithm, RateLimiter, Standing, TokenBucket, WindowCounter


def bucket(count: int, window: float = 1.0, capacity: int | None = None) -> TokenBucket:
    return TokenBucket(f"{count}/{window:g}s", count, window, count if capacity is None else capacity)


def sliding(count: int, window: float = 1.0) -> WindowCounter:
    return WindowCounter(f"{count} in {window:g}s", count, window, STEPS)


def fixed(count: int, window: float = 1.0) -> WindowCounter:
    return WindowCounter(f"{count} a {window:g}s", count, window, 0)


def limiter(*limits: Algorithm, max_keys: int = 1000) -> RateLimiter:
    return RateLimiter(limits, max_keys=max_keys, lock=NullLock())


KINDS = [bucket, sliding, fixed]


def grants(limited: RateLimiter, moments: list[float], key: str = "") -> list[float]:
    return [at for at in moments if limited.take(key, 1, at) is None]


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_lets_its_count_through(kind: Any) -> None:
    """So many at once, the next is told when to come back, and is let in when it does."""
    limited = limiter(kind(3))
    assert grants(limited, [10.0] * 5) == [10.0] * 3
    refused = limited.take("", 1, 10.0)
    assert isinstance(refused, Refusal)
    assert "used up" in refused.reason
    assert refused.retry_after is not None
    assert limited.take("", 1, 10.0 + refused.retry_after * 0.99) is not None
    assert limited.take("", 1, 10.0 + refused.retry_after) is None


@pytest.mark.parametrize("kind", KINDS)
@given(
    count=st.integers(1, 50),
    window=st.sampled_from([0.001, 0.3, 1.0, 60.0, 86400.0]),
    start=st.floats(0, 1e9),
    costs=st.lists(st.integers(1, 50), min_size=1, max_size=30),
)
def test_whoever_comes_back_when_it_was_told_to_is_let_in(
    kind: Any, count: int, window: float, start: float, costs: list[int]
) -> None:
    """Not a moment too early, for any limit and any time of day: `retry_after` is exact enough to go by."""
    limited, now = limiter(kind(count, window)), start
    for cost in costs:
        refused = limited.take("", cost, now)
        if refused is None:
            continue
        if cost > count:
            assert (refused.retry_after, "costs more" in refused.reason) == (None, True)
            continue
        assert refused.retry_after is not None
        # A clock that counts from long ago has gaps of its own between two of its readings.
        assert 0 < refused.retry_after <= 2.001 * window + 1e-6
        now += refused.retry_after
        if window > 0.1:
            assert limited.take("", cost, now) is None


@given(
    count=st.integers(1, 20),
    capacity=st.integers(1, 30),
    start=st.integers(0, 10**9),
    steps=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 5)), max_size=60),
)
def test_a_bucket_is_what_arithmetic_says(count: int, capacity: int, start: int, steps: list[tuple[int, int]]) -> None:
    """Against exact fractions: the same calls are granted, at milliseconds of years."""
    limited, now = limiter(bucket(count, 1.0, capacity)), Fraction(start)
    full_at = Fraction(0)
    for step, cost in steps:
        now += Fraction(step, 1000)
        after = max(full_at, now * count) + cost
        granted = after - now * count <= capacity
        assert (limited.take("", cost, float(now)) is None) == granted
        if granted:
            full_at = after


@pytest.mark.parametrize(("kind", "most"), [(bucket, 2), (sliding, 1), (fixed, 2)])
@given(st.integers(1, 8), st.lists(st.floats(0, 0.4), min_size=1, max_size=120))
def test_what_a_window_can_let_through(kind: Any, most: int, count: int, steps: list[float]) -> None:
    """Any stretch of one window: the count when it slides, and up to twice that for the other two."""
    limited, now, granted = limiter(kind(count)), 5.0, []
    for step in steps:
        now += step
        granted += grants(limited, [now])
    for first in granted:
        assert sum(first <= at < first + 1.0 for at in granted) <= most * count


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_always_asks_gets_the_limit(kind: Any) -> None:
    """At full tilt a bucket and a fixed window let their rate through, and a sliding one 95 % of it."""
    limited = limiter(kind(40))
    granted = grants(limited, [number / 1000 for number in range(20_000)])
    assert (0.95 if kind is sliding else 1.0) * 800 <= len(granted) <= 840


def test_a_bucket_does_not_drift() -> None:
    """After a year of uptime, a rate that no decimal can write is the rate still, call by call."""
    limited, year = limiter(bucket(3, 7.0, 1)), 365 * 86400.0
    now, began, calls = year, year, 20_000
    for _ in range(calls):
        now += wait_of(limited, now)
        assert limited.take("", 1, now) is None
    assert now - began == pytest.approx((calls - 1) * 7 / 3, abs=1e-4)


def wait_of(limited: RateLimiter, now: float, cost: int = 1) -> float:
    refusal = limited.refusal("", cost, now)
    return 0.0 if refusal is None else refusal.retry_after or 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_cost_above_the_limit_can_never_be_met(kind: Any) -> None:
    """It says so, knows no time to come back, and can't be waited for."""
    limited = limiter(kind(5))
    for refused in (limited.take("", 6, 0.0), limited.refusal("", 6, 0.0), limited.reserve("", 6, 0.0, 1e9)):
        assert isinstance(refused, Refusal)
        assert "costs more than" in refused.reason
        assert refused.retry_after is None
    assert limited.take("", 5, 0.0) is None


@pytest.mark.parametrize("kind", KINDS)
def test_all_limits_or_none(kind: Any) -> None:
    """What one limit refuses costs the others nothing, and the longest wait is told."""
    limited = limiter(kind(2, 1.0), kind(3, 100.0))
    assert grants(limited, [0.0, 0.0, 0.0, 1.2, 2.4]) == [0.0, 0.0, 1.2]
    short, long = limited.standings("", 2.4)
    assert (short.remaining, long.remaining) == (2, 0)
    refused = limited.take("", 1, 2.4)
    assert refused is not None
    assert "100s" in refused.reason


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_put_back_leaves_no_trace(kind: Any) -> None:
    """As if nobody had come: for a key that was new, and for one that was not."""
    limited = limiter(kind(3), kind(9, 60.0))
    fresh = limited.standings("acme", 7.0)
    assert limited.take("acme", 2, 7.0) is None
    limited.put_back("acme", 2, 7.0)
    assert (limited.standings("acme", 7.0), len(limited)) == (fresh, 0)
    assert limited.take("acme", 1, 7.0) is None
    before = limited.standings("acme", 7.0)
    assert limited.take("acme", 2, 7.0) is None
    limited.put_back("acme", 2, 7.0)
    assert limited.standings("acme", 7.0) == before
    limited.put_back("nobody", 1, 7.0)
    assert len(limited) == 1


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(1, 6), st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 6)), min_size=1, max_size=40))
def test_reservations_keep_the_limit_and_the_order(kind: Any, count: int, steps: list[tuple[float, int]]) -> None:
    """Whoever reserved goes at its moment, in the order of coming, and each moment would have been granted then."""
    limited, plain, now, due = limiter(kind(count)), limiter(kind(count)), 3.0, 0.0
    assert plain.take("other", 1, 3.0) is None
    assert limited.take("other", 1, 3.0) is None
    for step, cost in steps:
        now += step
        wait = limited.reserve("", min(cost, count), now, 1e9)
        assert isinstance(wait, float)
        assert now + wait >= due - 1e-9
        due = max(due, now + wait)
        # A hair later, since what the moments are added up from is rounded.
        assert plain.take("", min(cost, count), due + 1e-9 * len(steps)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_reserves_what_is_too_far_away(kind: Any) -> None:
    """Then nothing is spent, and the refusal tells the wait."""
    limited = limiter(kind(2))
    assert limited.reserve("", 2, 0.0, 0.0) == 0.0
    refused = limited.reserve("", 2, 0.0, 0.5)
    assert isinstance(refused, Refusal)
    assert refused.retry_after is not None
    assert limited.reserve("", 2, 0.0, 2.0) == pytest.approx(refused.retry_after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reservation_keeps_others_behind_it(kind: Any) -> None:
    """Whoever comes later without waiting does not overtake those who wait, cheap as it may be."""
    limited = limiter(kind(4))
    assert limited.take("", 3, 0.0) is None
    assert isinstance(limited.reserve("", 4, 0.0, 10.0), float)
    assert limited.take("", 1, 0.0) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_reservation_is_undone(kind: Any) -> None:
    """The next to come gets the moment of the one that gave up."""
    limited = limiter(kind(1))
    assert limited.take("", 1, 0.0) is None
    wait = limited.reserve("", 1, 0.0, 10.0)
    assert isinstance(wait, float)
    limited.cancel("", 1, 0.0, wait)
    assert limited.take("", 1, 0.0) is not None
    assert limited.reserve("", 1, 0.0, 10.0) == pytest.approx(wait)


def test_a_moment_in_the_middle_goes_to_the_next_that_comes() -> None:
    """Those behind it keep theirs, and the limit is kept: at no moment do two go."""
    limited = limiter(bucket(1))
    assert limited.take("", 1, 0.0) is None
    assert [limited.reserve("", 1, 0.0, 10.0) for _ in range(3)] == [1.0, 2.0, 3.0]
    limited.cancel("", 1, 0.5, 0.5)
    assert limited.refusal("", 1, 0.5) is not None
    assert limited.reserve("", 1, 0.5, 0.1) is not None
    assert limited.reserve("", 1, 0.5, 10.0) == 0.5
    assert limited.reserve("", 1, 0.5, 10.0) == 3.5
    limited.cancel("", 1, 1.5, 0.5)
    assert limited.take("", 1, 2.0) is None
    assert limited.take("", 1, 2.0) is not None


def test_a_moment_that_nobody_took_passes() -> None:
    """It is not saved up: the bucket is as full as it may be."""
    limited = limiter(bucket(1))
    assert limited.take("", 1, 0.0) is None
    assert [limited.reserve("", 1, 0.0, 10.0) for _ in range(2)] == [1.0, 2.0]
    limited.cancel("", 1, 0.5, 0.5)
    assert limited.take("", 1, 1.1) is not None
    assert limited.take("", 1, 2.5) is not None
    assert grants(limited, [3.0, 3.0]) == [3.0]


@pytest.mark.parametrize("kind", KINDS)
def test_when_all_give_up_nothing_is_left(kind: Any) -> None:
    """Whatever the order in which they do."""
    for order in (range(20), range(19, -1, -1), [7, 3, 19, 0, *(n for n in range(20) if n not in (7, 3, 19, 0))]):
        limited = limiter(kind(1))
        assert limited.take("", 1, 0.0) is None
        waits = [limited.reserve("", 1, 0.0, 1e9) for _ in range(20)]
        for number in order:
            wait = waits[number]
            assert isinstance(wait, float)
            limited.cancel("", 1, 0.1, wait - 0.1)
        assert not len(limited._given_back)
        assert limited.reserve("", 1, 0.1, 1e9) == pytest.approx(float(waits[0]) - 0.1)  # type: ignore[arg-type]


def test_part_of_a_moment_may_be_used() -> None:
    """A call that costs less leaves the rest to others; one that costs more does not fit."""
    limited = limiter(bucket(10))
    assert limited.take("", 10, 0.0) is None
    waits = [limited.reserve("", 4, 0.0, 10.0) for _ in range(2)]
    limited.cancel("", 4, 0.0, 0.4)
    assert waits == [pytest.approx(0.4), pytest.approx(0.8)]
    assert limited.reserve("", 5, 0.0, 10.0) == pytest.approx(1.3)
    assert limited.reserve("", 3, 0.0, 10.0) == pytest.approx(0.4)
    assert limited.reserve("", 1, 0.0, 10.0) == pytest.approx(0.4)
    assert limited.reserve("", 1, 0.0, 10.0) == pytest.approx(1.4)


def test_how_a_limit_stands() -> None:
    """What the headers tell: quota and window as they are set, what is left, and when it is as good as new."""
    limited = limiter(bucket(10, 5.0, 20), sliding(8, 60.0), fixed(6, 30.0))
    assert limited.standings("", 100.0) == (
        Standing("10/5s", 10, 5.0, 20, 0.0),
        Standing("8 in 60s", 8, 60.0, 8, 0.0),
        Standing("6 a 30s", 6, 30.0, 6, 0.0),
    )
    assert limited.take("", 4, 100.0) is None
    after = limited.standings("", 101.0)
    assert [each.remaining for each in after] == [18, 4, 2]
    assert [each.reset for each in after] == pytest.approx([1.0, 62.0, 29.0])
    assert [each.remaining for each in limited.standings("", 164.0)] == [20, 8, 6]
    assert isinstance(limited.reserve("", 3, 101.0, 1e9), float)
    assert [each.remaining for each in limited.standings("", 101.0)][2] == 0


def test_keys_have_limits_of_their_own() -> None:
    """What one spends, another does not miss."""
    limited = limiter(bucket(1))
    assert limited.take("acme", 1, 0.0) is None
    assert limited.take("acme", 1, 0.0) is not None
    assert limited.take("zeta", 1, 0.0) is None
    assert len(limited) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_keys_are_forgotten_that_are_as_good_as_new(kind: Any) -> None:
    """A stream of keys that never come back takes the room of those of the last window, and a few in each shard."""
    limited = limiter(kind(5), max_keys=1_000_000)
    for number in range(50_000):
        assert limited.take(f"client-{number}", 1, number / 1000) is None
    assert len(limited) < 1000 + 12 * 512
    few = limiter(kind(5), max_keys=100)
    for number in range(10_000):
        assert few.take(f"client-{number}", 1, number / 1000) is None
    assert len(few) <= 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_keys", [2, 10, 600, 3000])
def test_a_flood_of_new_keys_does_not_reset_a_heavy_one(kind: Any, max_keys: int) -> None:
    """Room is made at the expense of those that have spent the least; a limit that is used up stays used up."""
    limited = limiter(kind(5, 3600.0), max_keys=max_keys)
    heavy = [f"heavy-{number}" for number in range(max(1, max_keys // 50))]
    for key in heavy:
        assert grants(limited, [0.0] * 6, key) == [0.0] * 5
    for number in range(3 * max_keys + 500):
        assert limited.take(f"new-{number}", 1, 1.0) is None
        assert len(limited) <= max_keys
    assert [limited.take(key, 1, 1.0) is None for key in heavy] == [False] * len(heavy)


def test_a_million_keys_are_small() -> None:
    """At most 200 bytes each, their names included; the benchmark counts a whole million."""
    count = 10_000
    for limits in ([bucket(100)], [bucket(100), bucket(10_000, 86400.0)], [sliding(100)], [fixed(100)]):
        tracemalloc.start()
        try:
            limited = limiter(*limits, max_keys=count)
            for number in range(count):
                assert limited.take(f"client-{number:08}", 1, 1000.0) is None
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(limited) == count
        assert size / count < 200


@pytest.mark.parametrize("kind", KINDS)
def test_other_settings_go_on_with_what_was_spent(kind: Any) -> None:
    """A limit that was used up is used up under a larger one until the same time, and new limits begin anew."""
    limited = limiter(kind(10))
    assert limited.take("a", 10, 0.0) is None
    limited.reconfigure([kind(5)], 100)
    assert limited.take("a", 1, 0.0) is not None
    limited.reconfigure([kind(20)], 100)
    assert (limited.take("a", 16, 0.0) is None, limited.take("b", 20, 0.0)) == (False, None)
    limited.reconfigure([kind(20), kind(50, 60.0)], 100)
    assert [each.remaining for each in limited.standings("b", 0.0)] == [0, 50]
    assert [limit.name for limit in limited.limits] == [kind(20).name, kind(50, 60.0).name]
    limited.reconfigure([(sliding if kind is bucket else bucket)(3)], 100)
    assert limited.take("b", 3, 0.0) is None


def test_a_bucket_of_another_window_takes_the_place_of_the_only_one() -> None:
    """100 a second become 6,000 a minute: who had spent all has spent all."""
    limited = limiter(bucket(100))
    assert limited.take("", 100, 50.0) is None
    limited.reconfigure([bucket(6000, 60.0, 100)], 100)
    assert limited.take("", 1, 50.0) is not None
    assert limited.take("", 100, 51.0) is None


def test_fewer_keys_after_a_change() -> None:
    """Newcomers make room little by little: no call pays for all."""
    limited = limiter(bucket(1, 3600.0), max_keys=5000)
    for number in range(5000):
        assert limited.take(f"k{number}", 1, 0.0) is None
    limited.reconfigure([bucket(1, 3600.0)], 2000)
    assert len(limited) == 5000
    for number in range(5000, 6000):
        assert limited.take(f"k{number}", 1, 0.0) is None
    assert len(limited) <= 2000
