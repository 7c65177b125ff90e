"""Back-off, Retry-After and retry budget."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
import threading
from collections import Counter
from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hormesis import ConfigurationError, FailureKind, Rejected, Retry, UnwantedResult
from hormesis.core.admission import NullLock
from hormesis.core.retry import GROWTHS, JITTERS, SELF_GROWING, Backoff, Delays, Growth, Jitter, RetryBudget
from hormesis.core.ticks import Ticks

DELAYS = st.floats(0, 100)
FACTORS = st.floats(1, 100)
JITTERED: list[Jitter] = [jitter for jitter in JITTERS if jitter != "none"]


def terms(
    jitter: Jitter = "none",
    growth: Growth = "exponential",
    *,
    delay: float = 0.1,
    factor: float = 2.0,
    delay_max: float = 1.0,
) -> Backoff:
    return Backoff(delay=delay, growth=growth, factor=factor, delay_max=delay_max, jitter=jitter)


def of_one_call(backoff: Backoff, failures: int, seed: int = 1, retry_after: float | None = None) -> list[float]:
    delays = Delays(backoff, retry_after_max=60.0, random=random.Random(seed))
    return [delays.next(failure, retry_after) for failure in range(1, failures + 1)]


BACKOFFS = st.builds(
    Backoff,
    delay=DELAYS,
    growth=st.sampled_from(list(GROWTHS)),
    factor=FACTORS,
    delay_max=DELAYS,
    jitter=st.sampled_from(list(JITTERS)),
)


# How delays grow.


@pytest.mark.parametrize(
    ("growth", "delays"),
    [
        ("exponential", [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        ("linear", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ("constant", [0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_delays_grow_up_to_their_cap(growth: Growth, delays: list[float]) -> None:
    """Without jitter they are multiplied, added to, or left as they are; the cap holds for each."""
    assert of_one_call(terms(growth=growth), 6) == pytest.approx(delays)
    assert of_one_call(terms(growth=growth, delay_max=0.05), 6) == [0.05] * 6


@given(BACKOFFS, st.integers(0, 1000))
def test_delays_stay_in_their_bounds(backoff: Backoff, seed: int) -> None:
    """Whatever the settings, no delay is negative, beyond the cap, or beyond the longest that is told of it."""
    for failure, delay in enumerate(of_one_call(backoff, 30, seed), 1):
        assert 0 <= delay <= backoff.longest(failure) * (1 + 1e-9) <= backoff.delay_max * (1 + 1e-9)


@given(BACKOFFS)
def test_no_failure_is_one_too_many(backoff: Backoff) -> None:
    """Far beyond what a float can hold, delays are as they are at the cap; no delay stays none."""
    for delay in of_one_call(dataclasses.replace(backoff, factor=100.0), 1100)[1000:]:
        assert 0 <= delay <= backoff.delay_max
        assert not (delay and backoff.delay == 0)
    assert math.isfinite(backoff.longest(10_000))


@given(st.integers(1, 2000), BACKOFFS)
def test_the_longest_never_shrinks(failures: int, backoff: Backoff) -> None:
    """What a delay may be at the most is never less after another failure."""
    assert backoff.longest(failures) <= backoff.longest(failures + 1) * (1 + 1e-9)


class Drawn:
    """Numbers that are drawn in this order."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


LUCKY, UNLUCKY = 0.0, math.nextafter(1.0, 0.0)


@pytest.mark.parametrize("failures", range(1, 6))
@pytest.mark.parametrize(
    ("jitter", "growth", "before"),
    [
        ("full", "exponential", UNLUCKY),
        ("full", "linear", UNLUCKY),
        ("equal", "constant", UNLUCKY),
        ("decorrelated", "exponential", UNLUCKY),  # a long delay after long ones
        ("smooth", "exponential", LUCKY),  # a long step after a short one
    ],
)
def test_the_longest_is_reached(jitter: Jitter, growth: Growth, before: float, failures: int) -> None:
    """The longest delay that is told is one that can happen, with the unluckiest numbers."""
    backoff = terms(jitter, growth, delay_max=1e9)
    delays = Delays(backoff, retry_after_max=60.0, random=Drawn(*[before] * (failures - 1), UNLUCKY))
    drawn = [delays.next(failure) for failure in range(1, failures + 1)]
    assert drawn[-1] == pytest.approx(backoff.longest(failures))


# How jitter spreads them.


@given(st.integers(1, 50), DELAYS, FACTORS, DELAYS, st.integers(0, 1000))
def test_jitter_stays_in_its_range(failures: int, delay: float, factor: float, delay_max: float, seed: int) -> None:
    """Full jitter stays in [0, d], equal jitter in [d/2, d], decorrelated in [delay, 3 x the one before], capped."""
    settings: dict[str, Any] = {"delay": delay, "factor": factor, "delay_max": delay_max}
    whole = of_one_call(terms("none", **settings), failures)[-1]
    assert 0 <= of_one_call(terms("full", **settings), failures, seed)[-1] <= whole
    assert whole / 2 <= of_one_call(terms("equal", **settings), failures, seed)[-1] <= whole
    least = min(delay, delay_max)
    before = least
    for each in of_one_call(terms("decorrelated", **settings), failures, seed):
        assert least <= each <= max(least, min(delay_max, 3 * before)) * (1 + 1e-9)
        before = each


@pytest.mark.parametrize("jitter", JITTERED)
def test_the_cap_comes_before_the_jitter(jitter: Jitter) -> None:
    """Late delays are spread below the cap: hardly any is exactly on it, or all clients would march in step again."""
    calls = [of_one_call(terms(jitter), 12, seed) for seed in range(1000)]
    for late in range(5, 12):
        delays = [call[late] for call in calls]
        assert max(delays) <= 1.0
        assert Counter(delays).most_common(1)[0][1] <= 2
        assert sum(delay > 0.99 for delay in delays) < 80
        assert max(delays) - min(delays) > 0.45


@pytest.mark.parametrize(("jitter", "least"), [("full", 0.0), ("equal", 0.5)])
def test_full_and_equal_jitter_are_uniform(jitter: Jitter, least: float) -> None:
    """At the cap, full jitter is spread evenly from zero, and equal jitter from the half."""
    late = [of_one_call(terms(jitter), 6, seed)[-1] for seed in range(2000)]
    assert statistics.mean(late) == pytest.approx((least + 1.0) / 2, abs=0.03)
    assert min(late) == pytest.approx(least, abs=0.02)


def test_smooth_jitter_has_the_medians_that_it_should() -> None:
    """The medians of the first five are 0.90, 1.14, 2.03, 4.01 and 8.0 times the delay."""
    calls = [of_one_call(terms("smooth", delay=1.0, delay_max=1e6), 5, seed) for seed in range(6000)]
    medians = [statistics.median(delays) for delays in zip(*calls, strict=True)]
    assert medians == pytest.approx([0.90, 1.14, 2.03, 4.01, 8.0], rel=0.05)


def test_smooth_jitter_leaves_no_gaps() -> None:
    """Over all clients, every tenth of a second gets its share of the first attempts: no gap, and no peak."""
    calls = [of_one_call(terms("smooth", delay=1.0, delay_max=1e6), 3, seed) for seed in range(6000)]
    comes = Counter(int(sum(call[:n]) * 10) for call in calls for n in (1, 2, 3))
    shares = [comes[tenth] / len(calls) for tenth in range(2, 40)]
    assert min(shares) > 0.02
    assert max(shares) < 0.15


def test_decorrelated_jitter_goes_by_the_delay_before() -> None:
    """After a long delay comes a longer one: the range grows with what was drawn."""
    calls = [of_one_call(terms("decorrelated", delay_max=1e6), 2, seed) for seed in range(4000)]
    short = [second for first, second in calls if first < 0.15]
    long = [second for first, second in calls if first > 0.25]
    assert statistics.mean(long) > 1.5 * statistics.mean(short)
    assert min(long) < 0.15


@pytest.mark.parametrize("jitter", JITTERED)
def test_calls_share_nothing_but_the_source_of_randomness(jitter: Jitter) -> None:
    """Two calls in turns draw as each would alone."""
    one, other = (Delays(terms(jitter), retry_after_max=60.0, random=random.Random(seed)) for seed in (1, 2))
    mixed = [(one.next(failure), other.next(failure)) for failure in range(1, 8)]
    assert [list(each) for each in zip(*mixed, strict=True)] == [of_one_call(terms(jitter), 7, seed) for seed in (1, 2)]


# Retry-After.


@given(BACKOFFS, st.one_of(st.floats(0, 1e6), st.just(math.inf)), st.floats(0, 1000), st.integers(0, 1000))
def test_retry_after_is_heeded(backoff: Backoff, asked: float, most: float, seed: int) -> None:
    """No delay is below what the server asked for, itself capped, and none is above both caps together."""
    delays = Delays(backoff, retry_after_max=most, random=random.Random(seed))
    for failure in range(1, 20):
        assert min(asked, most) <= delays.next(failure, asked) <= (most + backoff.delay_max) * (1 + 1e-9)


@pytest.mark.parametrize("jitter", JITTERED)
@pytest.mark.parametrize("asked", [2.0, 3600.0])
def test_those_who_were_told_the_same_don_t_come_back_together(jitter: Jitter, asked: float) -> None:
    """The back-off comes on top of Retry-After with its jitter, also where the cap cuts it short."""
    delays = [of_one_call(terms(jitter), 1, seed, asked)[0] for seed in range(500)]
    assert Counter(delays).most_common(1)[0][1] <= 2
    assert min(delays) >= min(asked, 60.0)


def test_retry_after_leaves_the_back_off_as_it_is() -> None:
    """What a server asked for once is no part of later delays, also where these go by the ones before."""
    with_it = Delays(terms("decorrelated"), retry_after_max=60.0, random=random.Random(1))
    without = of_one_call(terms("decorrelated"), 3)
    assert with_it.next(1, 30.0) == 30.0 + without[0]
    assert [with_it.next(2), with_it.next(3)] == without[1:]


# The settings.


def test_names_are_told_once() -> None:
    """The names that the types allow are those that there are."""
    assert set(get_args(Growth)) == set(GROWTHS)
    assert set(get_args(Jitter)) == set(JITTERS)
    assert set(JITTERS) >= SELF_GROWING


@pytest.mark.parametrize(
    ("settings", "key", "accepted"),
    [
        ({"backoff": "quadratic"}, "backoff", "exponential, linear, constant"),
        ({"backoff": None}, "backoff", "exponential, linear, constant"),
        ({"backoff": ["linear"]}, "backoff", "exponential, linear, constant"),
        ({"jitter": "smoth"}, "jitter", "did you mean 'smooth'?"),
        ({"jitter": "smooth", "backoff": "linear"}, "backoff", "'exponential' with jitter='smooth'"),
        ({"jitter": "decorrelated", "backoff": "constant"}, "backoff", "'exponential' with jitter='decorrelated'"),
        ({"jitter": "smooth", "factor": 3}, "factor", "its default of 2 with jitter='smooth'"),
        ({"jitter": "decorrelated", "factor": 1.5}, "factor", "its default of 2 with jitter='decorrelated'"),
        ({"backoff": "linear", "factor": 3}, "factor", "its default of 2 with backoff='linear'"),
        ({"backoff": "constant", "factor": 3}, "factor", "its default of 2 with backoff='constant'"),
        ({"jitter": "decorrelated", "delay": 5}, "delay", "less than the delay_max of 5s"),
        ({"jitter": "decorrelated", "delay": "1m"}, "delay", "less than the delay_max of 5s"),
        *(({"retry_after_max": value}, "retry_after_max", "'300ms'") for value in (-1, math.inf, "soon", None, True)),
        *(({"on_result": value}, "on_result", "a function that takes a result") for value in (503, "503", list, [1])),
        *(({"unsafe_methods": value}, "unsafe_methods", "True or False") for value in (1, "yes", None)),
    ],
)
def test_settings_that_can_t_be_meant(settings: dict[str, Any], key: str, accepted: str) -> None:
    """A setting out of range, or without effect beside another, is refused with its value and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        Retry(on="any", **settings)
    assert caught.value.key == key
    assert accepted in str(caught.value)
    assert repr(settings[key]) in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"backoff": "linear", "jitter": "equal"},
        {"backoff": "constant", "jitter": "none", "factor": 2},
        {"jitter": "smooth", "factor": 2.0},
        {"jitter": "decorrelated"},
        {"jitter": "decorrelated", "delay": 0, "delay_max": 0},
        {"retry_after_max": 0, "on_result": lambda _: True, "unsafe_methods": True},
    ],
)
def test_settings_that_go_together(settings: dict[str, Any]) -> None:
    """What goes together is taken, told in words, and makes delays."""
    retry = Retry(on="any", attempts=5, **settings)
    assert retry.describe()
    assert dataclasses.replace(retry) == retry
    delays = retry.delays(random.Random(1))
    assert sum(delays.next(failure) for failure in range(1, 5)) <= retry.longest_delays() * (1 + 1e-9)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "back-off 100ms x2 up to 5s, full jitter, budget 20% of traffic"),
        ({"budget": 0.001, "unsafe_methods": True}, "budget 0.1% of traffic, unsafe methods too"),
        ({"on_result": lambda _: True, "budget": None}, "on any and unwanted results, back-off"),
        ({"backoff": "linear", "jitter": "none"}, "back-off 100ms +100ms up to 5s, no jitter"),
        ({"backoff": "constant", "delay": "10s"}, "back-off 5s, full jitter"),
        ({"jitter": "smooth"}, "back-off from 100ms up to 5s, smooth jitter"),
    ],
)
def test_settings_in_words(settings: dict[str, Any], words: str) -> None:
    """The settings are told as what they do."""
    assert words in Retry(on="any", **settings).describe()


def test_settings_tell_the_longest_that_they_can_wait() -> None:
    """All back-offs together, at the most: the caps of the jitter in question added up."""
    assert Retry(on="any", attempts=1).longest_delays() == 0
    assert Retry(on="any", attempts=4).longest_delays() == pytest.approx(0.7)
    assert Retry(on="any", attempts=4, backoff="linear").longest_delays() == pytest.approx(0.6)
    assert Retry(on="any", attempts=4, backoff="constant").longest_delays() == pytest.approx(0.3)
    assert Retry(on="any", attempts=4, jitter="decorrelated").longest_delays() == pytest.approx(0.3 + 0.9 + 2.7)
    assert Retry(on="any", attempts=2, jitter="smooth").longest_delays() == pytest.approx(0.2 * math.tanh(2) / 1.4)
    assert Retry(on="any", attempts=1000, jitter="smooth").longest_delays() < 999 * 5.0


def test_delays_are_made_from_the_settings() -> None:
    """A retry's delays are those of its settings, Retry-After included."""
    retry = Retry(on="any", delay="1s", backoff="linear", jitter="none", retry_after_max="5s")
    delays = retry.delays(random.Random(1))
    assert [delays.next(1), delays.next(2, 3.0), delays.next(3, 3600.0)] == [1.0, 5.0, 8.0]
    deaf = Retry(on="any", delay="1s", jitter="none", retry_after_max=0)
    assert deaf.delays(random.Random(1)).next(1, 3600.0) == 1.0


def refused() -> Rejected:
    return Rejected("policy", "open")


@pytest.mark.parametrize(
    ("on", "error", "wanted"),
    [
        ("transient", ConnectionRefusedError(), True),
        ("transient", KeyError(), False),
        (KeyError, KeyError(), True),
        (("any", "rejected", Rejected), refused(), False),
        (lambda error: True, refused(), False),
        ("any", ConfigurationError("no"), False),
        ("transient", UnwantedResult(503, FailureKind.UNAVAILABLE), True),
        ("transient", UnwantedResult(500, FailureKind.ERROR), False),
        ("any", UnwantedResult(0, FailureKind.INVALID), False),
        (KeyError, UnwantedResult(503, FailureKind.UNAVAILABLE), False),
    ],
)
def test_what_is_repeated(on: Any, error: Exception, wanted: bool) -> None:
    """Failures that `on` covers are, results of such a kind are, and rejections never are."""
    assert Retry(on=on).wants(error) is wanted


def test_results_are_repeated() -> None:
    """A result that `on_result` does not want is repeated, whatever kind it was given; others go by their kind."""
    retry = Retry(on="transient", on_result=lambda result: result == "busy")
    assert retry.wants(UnwantedResult("busy", FailureKind.INVALID))
    assert retry.wants(UnwantedResult("down", FailureKind.UNAVAILABLE))
    assert not retry.wants(UnwantedResult("odd", FailureKind.INVALID))
    assert not retry.wants(KeyError("busy"))


def test_results_without_a_kind_are_repeated_by_what_the_function_says() -> None:
    """Whatever true value `on_result` returns, the answer is yes."""
    truthy: Any = lambda result: [result]  # noqa: E731
    retry = Retry(on=KeyError, on_result=truthy)
    assert retry.wants(UnwantedResult(0, FailureKind.ERROR)) is True


# The budget.


def budget(share: float = 0.2, stock: float = 10.0) -> RetryBudget:
    return RetryBudget(share=share, stock=stock, lock=NullLock())


def test_a_new_budget_is_full() -> None:
    """A quiet client may retry as often as its stock says, and then no more."""
    new = budget(stock=3)
    assert [new.withdraw() for _ in range(5)] == [True, True, True, False, False]


def test_traffic_earns_retries() -> None:
    """After the stock is used up, four calls at a quarter of a token each earn one retry."""
    empty = budget(share=0.25, stock=1)
    assert empty.withdraw()
    for _ in range(3):
        empty.deposit()
        assert not empty.withdraw()
    empty.deposit()
    assert empty.withdraw()


def test_the_stock_is_bounded() -> None:
    """A thousand calls earn no more than the stock holds."""
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


def test_a_deposit_takes_no_lock() -> None:
    """Counting a call is one step in C, also while somebody holds the lock."""
    lock = threading.Lock()
    one = RetryBudget(share=1.0, stock=1, lock=lock)
    with lock:
        one.deposit()
    assert type(one.deposit).__name__ == "method-wrapper"


def test_a_budget_tells_what_it_holds() -> None:
    """A look at the state changes nothing."""
    one = budget(share=0.5, stock=3)
    one.withdraw()
    one.deposit()
    assert one.snapshot() == one.snapshot() == {"tokens": 2.5, "share": 0.5, "stock": 3}


def test_other_terms_keep_what_was_earned() -> None:
    """What is in stock stays there, as far as the new stock holds it, and was earned at the old share."""
    one = budget(share=0.5, stock=4)
    for _ in range(4):
        assert one.withdraw()
    for _ in range(4):
        one.deposit()
    one.reconfigure(share=0.1, stock=10)
    assert one.snapshot() == {"tokens": 2.0, "share": 0.1, "stock": 10}
    one.reconfigure(share=0.1, stock=1)
    assert [one.withdraw(), one.withdraw()] == [True, False]


def test_settings_adopt_a_budget() -> None:
    """Other settings go on with the same budget, unless one of the two has none."""
    settings = Retry(on="any", budget=0.5)
    one = settings.retry_budget(NullLock())
    assert one is not None
    while one.withdraw():
        pass
    assert Retry(on="any", budget=0.1).adopt(one)
    assert one.snapshot() == {"tokens": 0.0, "share": 0.1, "stock": 10}
    unbounded = Retry(on="any", budget=None)
    assert unbounded.retry_budget(NullLock()) is None
    assert not unbounded.adopt(one)
    assert not settings.adopt(None)
    assert unbounded.adopt(None)


class BudgetModel(RuleBasedStateMachine):
    """The budget, against a number of tokens in exact arithmetic."""

    @initialize(eighths=st.integers(1, 8), stock=st.integers(0, 8))
    def make(self, eighths: int, stock: int) -> None:
        self.real = budget(eighths / 8, stock)
        self.share, self.stock, self.tokens = Fraction(eighths, 8), stock, Fraction(stock)
        self.retries, self.earned = 0, Fraction(stock)

    @rule(calls=st.integers(1, 20))
    def deposit(self, calls: int) -> None:
        for _ in range(calls):
            self.real.deposit()
        self.tokens = min(Fraction(self.stock), self.tokens + self.share * calls)
        self.earned += self.share * calls

    @rule()
    def withdraw(self) -> None:
        affordable = self.tokens >= 1
        assert self.real.withdraw() is affordable
        self.tokens -= affordable
        self.retries += affordable

    @rule(eighths=st.integers(1, 8), stock=st.integers(0, 8))
    def reconfigure(self, eighths: int, stock: int) -> None:
        self.real.reconfigure(share=eighths / 8, stock=stock)
        self.share, self.stock = Fraction(eighths, 8), stock
        self.tokens = min(self.tokens, Fraction(stock))

    @rule()
    def look(self) -> None:
        assert self.real.snapshot() == {"tokens": self.tokens, "share": self.share, "stock": self.stock}

    @invariant()
    def never_more_than_was_earned(self) -> None:
        if hasattr(self, "real"):
            assert self.retries <= self.earned


TestBudgetModel = BudgetModel.TestCase


def test_threads_get_no_more_than_was_earned() -> None:
    """However many threads call and retry at once, retries are the share of the calls once the stock is used up."""
    one = RetryBudget(share=0.25, stock=10, lock=threading.Lock())
    while one.withdraw():
        pass
    threads, calls = 4, 500
    taken = [0] * threads
    together = threading.Barrier(threads)

    def call(number: int) -> None:
        together.wait()
        for turn in range(calls):
            one.deposit()
            taken[number] += one.withdraw() + one.withdraw()
            if turn % 50 == number:
                one.reconfigure(share=0.25, stock=10)
                one.snapshot()

    callers = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    while one.withdraw():
        taken[0] += 1
    assert sum(taken) == threads * calls * 0.25


def test_deposits_during_a_look(race: Any, sweep_interleavings: Any) -> None:
    """A deposit that falls anywhere into counting what was earned is neither lost nor counted twice."""

    def make() -> Any:
        one = RetryBudget(share=1.0, stock=3, lock=threading.Lock())
        while one.withdraw():
            pass

        def check() -> None:
            assert [one.withdraw() for _ in range(2)] == [True, False]

        return race(first=one.snapshot, second=one.deposit, check=check)

    assert sweep_interleavings(make, [RetryBudget.snapshot, RetryBudget._refill, Ticks.read]) > 20
