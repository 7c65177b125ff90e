"""When a rival is due, and what it costs: the hedge's settings, machine and budget."""

from __future__ import annotations

import dataclasses
import math
import threading
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hormesis.core.admission import NullLock
from hormesis.core.hedge import HedgeBudget, HedgeMachine, HedgeTerms
from hormesis.core.quantile import RELATIVE_ERROR
from hormesis.core.retry import RetryBudget
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.part import Part

DURATION = "'300ms', '2s', '1m30s'"
WHOLE = "a whole number from"
BAD = [
    *(("delay", value, DURATION) for value in [0, -1, math.nan, math.inf, True, "soon", [1]]),
    *(("quantile", value, "a number from 0.5 to 0.999") for value in [0, 0.49, 1, 95, math.nan, True, "0.9", [1]]),
    *(("max_hedges", value, WHOLE) for value in [0, -1, 11, 1.5, "3", None, True]),
    *(("budget", value, "a share above 0 and at most 1") for value in [0, -0.1, 1.1, math.nan, True, "0.5"]),
    *(("delay_min", value, DURATION) for value in [-1, math.nan, None, True, "soon"]),
    *(("minimum_calls", value, WHOLE) for value in [0, -1, 2_000_000, 1.5, "3", None, True]),
    *(("threads", value, "a whole number from 2") for value in [0, 1, -1, 100_000, 1.5, "3", True]),
]


@pytest.mark.parametrize(("key", "value", "accepted"), BAD)
def test_bad_settings(key: str, value: object, accepted: str) -> None:
    """A setting that can't be meant is refused with its key, the value and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        Hedge(**{key: value})  # type: ignore[arg-type]
    assert caught.value.key == key
    assert accepted in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_hedge_begins_after_a_delay_or_a_quantile() -> None:
    """Both at once can't be meant, and the error shows both."""
    with pytest.raises(ConfigurationError, match=r"delay is '50ms' and quantile is 0\.9;"):
        Hedge("50ms", quantile=0.9)


def test_settings_are_values() -> None:
    """They are normalised, compare and hash by value, can be derived from one another, and stand in their slot."""
    assert isinstance(Hedge(), Part)
    assert Hedge.slot is Slot.HEDGE
    assert Hedge("50ms") == Hedge(0.05)
    assert hash(Hedge("50ms")) == hash(Hedge(delay="50ms"))
    assert (Hedge().quantile, Hedge("50ms").quantile) == (0.95, None)
    assert dataclasses.replace(Hedge(), max_hedges=2) == Hedge(max_hedges=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hedge().budget = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Hedge(), "another attempt when it takes longer than 0.95 of recent ones, budget 5% of traffic"),
        (Hedge("50ms", budget=None), "another attempt after 50ms, no budget"),
        (
            Hedge(1, max_hedges=2, threads=8, budget=0.005),
            "up to 2 more attempts after 1s, budget 0.5% of traffic, synchronous functions in 8 threads",
        ),
    ],
)
def test_settings_in_words(settings: Hedge, words: str) -> None:
    """A description says when, how many and at what cost."""
    assert settings.describe() == words


def machine(delay: float | None = None, **changes: Any) -> HedgeMachine:
    terms = HedgeTerms(delay=delay, quantile=0.95, delay_min=0.001, minimum_calls=20, budget=0.5)
    return HedgeMachine(dataclasses.replace(terms, **changes), NullLock())


def near(true: float) -> Any:
    return pytest.approx(true, rel=RELATIVE_ERROR)


def test_a_fixed_delay_is_always_known() -> None:
    """It needs no latencies, and records none."""
    fixed = machine(0.05)
    assert (fixed.delay, fixed.timed) == (0.05, False)


def test_a_quantile_needs_calls() -> None:
    """Nothing is hedged before enough calls have answered, and then from the quantile of their latencies on."""
    moving = machine()
    assert moving.timed
    for _ in range(19):
        moving.succeeded(0.040)
        assert moving.delay is None
    moving.succeeded(0.040)
    assert moving.delay == near(0.040)


@pytest.mark.parametrize(("quantile", "calls"), [(0.95, 20), (0.9, 20), (0.98, 50), (0.99, 100), (0.999, 1000)])
def test_a_high_quantile_needs_more_calls(quantile: float, calls: int) -> None:
    """With fewer than 1 / (1 - q) observations the quantile would be their maximum."""
    moving = machine(quantile=quantile, minimum_calls=20)
    for _ in range(calls - 1):
        moving.succeeded(0.040)
    assert moving.delay is None
    moving.succeeded(0.040)
    assert moving.delay == near(0.040)


def test_a_quantile_has_a_least_delay() -> None:
    """Where answers take microseconds there is nothing to be gained."""
    moving = machine()
    for _ in range(20):
        moving.succeeded(0.00002)
    assert moving.delay == 0.001


def test_fast_failures_stay_out_of_the_latencies() -> None:
    """A dependency that fails fast does not look like one that answers fast; one that fails slowly is slow."""
    moving = machine()
    for _ in range(40):
        moving.succeeded(0.100)
    for _ in range(500):
        moving.ended(0.001)
    assert moving.delay == near(0.100)
    for _ in range(64):
        moving.ended(2.0)
    assert moving.delay == near(2.0)


def test_failures_before_anything_is_known_stay_out() -> None:
    """An outage at the start teaches nothing about latency."""
    moving = machine()
    for _ in range(500):
        moving.ended(2.0)
    assert moving.delay is None


def test_losers_keep_the_quantile_honest() -> None:
    """One call in fifty hangs and is cancelled after the delay; the 99th percentile does not sink below that delay."""
    moving = machine(quantile=0.99, budget=None)
    for _ in range(20):
        for call in range(50):
            delay = moving.delay
            if call == 0 and delay is not None:
                moving.ended(delay * 1.1)
            else:
                moving.succeeded(0.400 if call == 0 else 0.010)
    assert moving.delay is not None
    assert moving.delay > 0.3


def test_the_budget_begins_with_nothing_and_is_filled_by_traffic() -> None:
    """A twentieth of a hedge for each race: the first after twenty races, and one for every twenty more."""
    fixed = machine(0.05, budget=0.05)
    allowed = []
    for race in range(1, 101):
        fixed.deposit()
        if fixed.begin(None):
            allowed.append(race)
    assert allowed == pytest.approx([20, 40, 60, 80, 100], abs=1)
    assert (fixed.begun, fixed.unaffordable) == (len(allowed), 100 - len(allowed))


def test_hardly_anything_can_be_saved_up() -> None:
    """However much traffic there was, ten hedges are all that a bad moment begins with."""
    fixed = machine(0.05, budget=0.05)
    for _ in range(100_000):
        fixed.deposit()
    assert sum(fixed.begin(None) for _ in range(100)) == 10


def test_hedges_draw_on_the_retry_budget_as_well() -> None:
    """Either budget can refuse, and what the other refuses costs this one nothing."""
    retries = RetryBudget(share=0.1, stock=1, lock=NullLock())
    fixed = machine(0.05)
    assert not fixed.begin(retries)
    for _ in range(6):
        fixed.deposit()
    assert fixed.begin(retries)
    assert not fixed.begin(retries)
    assert fixed.snapshot()["budget"] == 2
    assert not retries.withdraw()


def test_without_a_budget_of_its_own_it_draws_on_that_of_the_retries() -> None:
    """A budget of None bounds nothing by itself, and the retry budget still holds."""
    unbounded = machine(0.05, budget=None)
    assert all(unbounded.begin(None) for _ in range(100))
    retries = RetryBudget(share=0.1, stock=3, lock=NullLock())
    assert sum(unbounded.begin(retries) for _ in range(100)) == 3
    assert unbounded.snapshot()["budget"] is None
    unbounded.was_rejected()
    assert unbounded.rejected == 1


def test_a_rejected_rival_costs_no_budget() -> None:
    """What was not let in put no load on anybody."""
    fixed = machine(0.05)
    for _ in range(2):
        fixed.deposit()
    assert fixed.begin(None)
    fixed.was_rejected()
    assert fixed.begin(None)
    assert not fixed.begin(None)


def test_other_terms_keep_what_is_known() -> None:
    """A reload changes the rules; latencies, stock and counts stay."""
    kept = machine(budget=1.0)
    for _ in range(40):
        kept.deposit()
        kept.succeeded(0.100)
    assert kept.begin(None)
    terms = Hedge(quantile=0.9, budget=0.5, delay_min="1s", minimum_calls=30).terms()
    kept.reconfigure(terms)
    assert kept.delay == 1.0
    assert (kept.snapshot()["budget"], kept.snapshot()["begun"]) == (9, 1)
    kept.deposit()
    assert kept.snapshot()["budget"] == 9.5
    kept.reconfigure(Hedge("20ms").terms())
    assert (kept.delay, kept.timed) == (0.02, False)


def test_a_snapshot_is_plain_data() -> None:
    """It shows the delay, the counts and the stock."""
    fixed = Hedge("50ms", budget=0.5).machine(NullLock())
    for _ in range(4):
        fixed.deposit()
    assert fixed.begin(None)
    fixed.was_won()
    assert fixed.snapshot() == {
        "delay": 0.05,
        "races": 4,
        "begun": 1,
        "won": 1,
        "rejected": 0,
        "unaffordable": 0,
        "budget": 1.0,
    }


def test_threads_can_not_overdraw() -> None:
    """Deposits take no lock, and yet every one counts once."""
    budget = HedgeBudget(share=0.05, lock=threading.Lock())
    taken = []

    def call() -> None:
        for _ in range(1000):
            budget.deposit()
            if budget.withdraw():
                taken.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.races == 4000
    assert len(taken) + budget.snapshot()["tokens"] == pytest.approx(200)


class BudgetModel(RuleBasedStateMachine):
    """The budget against plain arithmetic, in which hedges never exceed their share of the races."""

    @initialize(share=st.sampled_from([Fraction(1, 64), Fraction(1, 16), Fraction(1, 4), Fraction(1)]))
    def begin(self, share: Fraction) -> None:
        self.share, self.budget = share, HedgeBudget(share=float(share), lock=NullLock())
        self.stock, self.races, self.hedges = Fraction(0), 0, 0
        self.earned = Fraction(0)

    @rule(races=st.integers(1, 300))
    def race(self, races: int) -> None:
        for _ in range(races):
            self.budget.deposit()
        self.races += races
        self.earned += races * self.share
        self.stock = min(Fraction(10), self.stock + races * self.share)

    @rule()
    def hedge(self) -> None:
        affordable = self.stock >= 1
        assert self.budget.withdraw() is affordable
        self.stock -= affordable
        self.hedges += affordable

    @rule()
    def come_to_nothing(self) -> None:
        if self.hedges:
            self.hedges -= 1
            self.stock = min(Fraction(10), self.stock + 1)
            self.budget.put_back()

    @rule(share=st.sampled_from([Fraction(1, 32), Fraction(1, 2)]))
    def change(self, share: Fraction) -> None:
        self.share = share
        self.budget.reconfigure(share=float(share), stock=10)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "budget"):
            assert self.budget.snapshot()["tokens"] == self.stock
            assert self.budget.races == self.races
            assert self.hedges <= self.earned


TestBudgetModel = BudgetModel.TestCase
