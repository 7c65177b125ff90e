"""Back-off and retry budget."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock
from hormesis.core.retry import JITTERS, RetryBudget, backoff

DELAYS = st.floats(0, 100)
FACTORS = st.floats(1, 100)


def delay_after(
    failures: int, jitter: str, *, delay: float = 0.1, factor: float = 2.0, delay_max: float = 1.0
) -> float:
    return backoff(
        failures,
        delay=delay,
        factor=factor,
        delay_max=delay_max,
        jitter=JITTERS[jitter],
        random=random.Random(failures),
    )


def test_backoff_doubles_up_to_its_cap() -> None:
    """Without jitter the n-th delay is delay times factor to the n-1, capped."""
    assert [delay_after(n, "none") for n in range(1, 7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


@given(st.integers(1, 10_000), DELAYS, FACTORS, DELAYS)
def test_jitter_stays_in_its_range(failures: int, delay: float, factor: float, delay_max: float) -> None:
    """Whatever the settings, full jitter stays in [0, d], equal jitter in [d/2, d], and nothing overflows."""
    settings = {"delay": delay, "factor": factor, "delay_max": delay_max}
    whole = delay_after(failures, "none", **settings)
    assert 0 <= whole <= delay_max
    assert math.isfinite(whole)
    assert 0 <= delay_after(failures, "full", **settings) <= whole
    assert whole / 2 <= delay_after(failures, "equal", **settings) <= whole


@given(st.integers(1, 2000), DELAYS, FACTORS, DELAYS)
def test_backoff_never_shrinks(failures: int, delay: float, factor: float, delay_max: float) -> None:
    """A later delay is never shorter than an earlier one, before jitter."""
    settings = {"delay": delay, "factor": factor, "delay_max": delay_max}
    assert delay_after(failures, "none", **settings) <= delay_after(failures + 1, "none", **settings)


@pytest.mark.parametrize("jitter", ["full", "equal"])
def test_the_cap_comes_before_the_jitter(jitter: str) -> None:
    """Late delays are spread below the cap: hardly any is exactly on it, or all clients would march in step again."""
    numbers = random.Random(1)
    late = [backoff(6, delay=0.1, factor=2, delay_max=1.0, jitter=JITTERS[jitter], random=numbers) for _ in range(1000)]
    assert max(late) <= 1.0
    assert len(set(late)) > 990
    least = 0.0 if jitter == "full" else 0.5
    assert sum(late) / len(late) == pytest.approx((least + 1.0) / 2, abs=0.05)


def budget(share: float = 0.2, stock: float = 10.0) -> RetryBudget:
    return RetryBudget(share=share, stock=stock, lock=NullLock())


def test_a_new_budget_is_full() -> None:
    """A quiet client may retry as often as its stock says, and then no more."""
    new = budget(stock=3)
    assert [new.withdraw() for _ in range(5)] == [True, True, True, False, False]


def test_traffic_earns_retries() -> None:
    """After the stock is used up, five calls at a fifth of a token each earn one retry."""
    empty = budget(share=0.25, stock=1)
    assert empty.withdraw()
    for _ in range(3):
        empty.deposit()
        assert not empty.withdraw()
    empty.deposit()
    assert empty.withdraw()


def test_the_stock_is_bounded() -> None:
    """A million calls earn no more than the stock holds."""
    rich = budget(share=1.0, stock=4)
    for _ in range(1000):
        rich.deposit()
    assert sum(rich.withdraw() for _ in range(100)) == 4


def test_an_outage_is_answered_with_little_more_than_the_traffic() -> None:
    """When every call fails and wants two retries, retries add a fifth to the traffic, after the stock of ten."""
    small = budget()
    retries = 0
    for _ in range(1000):
        small.deposit()
        retries += small.withdraw() + small.withdraw()
    assert 200 <= retries <= 200 + 10


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 8), st.integers(1, 8))
def test_budget_against_a_naive_model(withdrawals: list[bool], eighths: int, stock: int) -> None:
    """Deposits and withdrawals in any order do what a number of tokens does that is capped when it is looked at."""
    real, tokens = budget(eighths / 8, stock), Fraction(stock)
    for withdraw in withdrawals:
        if withdraw:
            tokens = min(Fraction(stock), tokens)
            assert real.withdraw() == (tokens >= 1)
            tokens -= tokens >= 1
        else:
            real.deposit()
            tokens += Fraction(eighths, 8)
