"""The degraded cache: two lives of an answer, one flight at a time, and failures that are remembered."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hormesis as hm
from hormesis.core.admission import NullLock
from hormesis.core.cache import (
    CacheMachine,
    CacheTerms,
    Failed,
    Flight,
    Follower,
    Found,
    Join,
    Kept,
    Lead,
    Remembered,
)
from hormesis.outcome import FailureKind, UnwantedResult
from hormesis.patterns.cache import StaleCache
from hormesis.patterns.fallback import Fallback

GONE = LookupError("no such product")


def cache(**terms: Any) -> CacheMachine:
    """A cache whose answers are fresh for 10 s and stale for 20 s more."""
    usual: dict[str, Any] = {
        "fresh": 10.0,
        "stale": 20.0,
        "negative": None,
        "max_entries": 100,
        "early": 0.0,
        "revalidate": True,
        "flight_max": 60.0,
    }
    return CacheMachine(CacheTerms(**(usual | terms)), NullLock())


def look(machine: CacheMachine, now: float, key: Hashable = "sku", draw: Callable[[], float] = lambda: 0.5) -> Found:
    return machine.look(key, now, draw)


def lead(machine: CacheMachine, now: float = 0.0, key: Hashable = "sku") -> Flight:
    found = look(machine, now, key)
    assert isinstance(found, Lead)
    return found.flight


def fill(machine: CacheMachine, now: float = 0.0, key: Hashable = "sku", value: object = "tea") -> None:
    """Ask and answer in the same moment."""
    machine.store(lead(machine, now, key), value, now)


def refreshed(machine: CacheMachine, now: float, key: Hashable = "sku") -> Flight:
    """Look at a stale answer whose refresh is due."""
    found = look(machine, now, key)
    assert isinstance(found, Kept)
    assert found.flight is not None
    return found.flight


def test_the_lives_of_an_answer() -> None:
    """An answer is fresh, then stale with one refresh that is due, and then gone."""
    machine = cache()
    fill(machine)
    assert look(machine, 0.0) == Kept("tea", 0.0, True)
    assert look(machine, 9.9) == Kept("tea", 9.9, True)
    found = look(machine, 10.0)
    assert isinstance(found, Kept)
    assert found[:3] == ("tea", 10.0, False)
    assert found.flight is not None
    assert look(machine, 29.9) == Kept("tea", 29.9, False)
    assert look(machine, 30.0) == Join(found.flight)
    assert machine.snapshot()["entries"] == 0


def test_without_revalidation_a_stale_answer_only_stands_in() -> None:
    """When the call comes first, a stale answer is found by whoever failed, and by nobody else."""
    machine = cache(revalidate=False)
    fill(machine)
    flight = lead(machine, 15.0)
    assert look(machine, 15.0) == Join(flight)
    assert machine.stand_in("sku", 16.0) == Kept("tea", 16.0, False)
    assert machine.stand_in("sku", 30.0) is None
    assert machine.stand_in("other", 0.0) is None


def test_one_flight_at_a_time() -> None:
    """While one caller asks, others join; what it lands with is theirs, and they are woken once."""
    machine = cache()
    flight = lead(machine)
    followers, woken = [], []
    for number in range(3):
        follower = Follower(lambda number=number: woken.append(number))  # type: ignore[misc]
        assert look(machine, 1.0) == Join(flight)
        assert machine.follow(flight, follower)
        followers.append(follower)
    machine.leave(flight, followers[1])
    machine.store(flight, "tea", 2.0)
    assert [follower.outcome for follower in followers] == [Kept("tea", 0.0, True), None, Kept("tea", 0.0, True)]
    assert woken == [0, 2]
    assert not machine.follow(flight, followers[1])
    assert look(machine, 2.0) == Kept("tea", 0.0, True)


def test_a_failure_is_shared_and_not_kept() -> None:
    """Followers get the failure of their flight; the next to look asks again."""
    machine = cache()
    flight = lead(machine)
    follower = Follower(lambda: None)
    machine.follow(flight, follower)
    machine.fail(flight, Failed(GONE), 1.0)
    assert follower.outcome == Failed(GONE)
    lead(machine, 1.0)


def test_an_abandoned_flight_is_taken_over() -> None:
    """When a leader goes away its followers are woken without an outcome, and the first to look leads."""
    machine = cache()
    flight = lead(machine)
    woken: list[int] = []
    follower = Follower(lambda: woken.append(1))
    machine.follow(flight, follower)
    machine.abandon(flight)
    assert woken == [1]
    assert follower.outcome is None
    assert lead(machine) is not flight


def test_abandoning_what_has_landed_changes_nothing() -> None:
    """A flight lands once."""
    machine = cache()
    flight = lead(machine)
    machine.store(flight, "tea", 0.0)
    machine.abandon(flight)
    assert look(machine, 0.0) == Kept("tea", 0.0, True)


def test_a_flight_that_never_lands_is_lost() -> None:
    """A call that hangs does not take its key with it, and what it says much later does not replace a newer answer."""
    machine = cache()
    lost = lead(machine, 0.0)
    assert look(machine, 59.9) == Join(lost)
    machine.store(lead(machine, 60.0), "new", 61.0)
    machine.store(lost, "old", 62.0)
    assert look(machine, 62.0) == Kept("new", 1.0, True)
    machine.store_failure(lost, GONE, 63.0)
    assert look(machine, 63.0) == Kept("new", 2.0, True)


def test_a_lost_refresh_is_replaced() -> None:
    """A refresh that hangs does not keep an answer stale until it is gone."""
    machine = cache(stale=1000.0)
    fill(machine)
    refreshed(machine, 20.0)
    assert look(machine, 79.0) == Kept("tea", 79.0, False)
    refreshed(machine, 80.0)


def test_a_lost_flight_does_not_end_its_successor() -> None:
    """Landing a lost flight leaves the one that took its place under way."""
    machine = cache()
    lost = lead(machine, 0.0)
    flight = lead(machine, 60.0)
    machine.fail(lost, Failed(GONE), 61.0)
    assert look(machine, 61.0) == Join(flight)


def test_a_refresh_that_failed_is_held_off() -> None:
    """After a failed refresh the next is due a tenth of the fresh time later; after one that worked, when stale."""
    machine = cache()
    fill(machine)
    machine.fail(refreshed(machine, 12.0), Failed(GONE), 12.0)
    assert look(machine, 12.9) == Kept("tea", 12.9, False)
    machine.store(refreshed(machine, 13.0), "coffee", 13.0)
    assert look(machine, 22.5) == Kept("coffee", 9.5, True)
    refreshed(machine, 23.0)


def test_failures_are_remembered() -> None:
    """With a negative lifetime the failure replaces the answer, and is found until that is over."""
    machine = cache(negative=5.0)
    fill(machine)
    machine.store_failure(refreshed(machine, 12.0), GONE, 12.0)
    assert look(machine, 12.0) == Remembered(GONE, 0.0)
    assert look(machine, 16.5) == Remembered(GONE, 4.5)
    assert machine.stand_in("sku", 12.0) is None


def test_a_remembered_failure_is_forgotten() -> None:
    """After its lifetime the next caller asks, and an answer takes its place."""
    machine = cache(negative=5.0)
    flight = lead(machine)
    machine.store_failure(flight, GONE, 0.0)
    machine.fail(flight, Failed(GONE), 0.0)
    fill(machine, 5.0)
    assert look(machine, 5.0) == Kept("tea", 0.0, True)


@pytest.mark.parametrize(("negative", "error"), [(None, GONE), (5.0, None)])
def test_failures_that_are_not_remembered(negative: float | None, error: Exception | None) -> None:
    """Where failures are not remembered, or this one can't be, it still says that the old answer is wrong now."""
    machine = cache(negative=negative)
    fill(machine)
    flight = refreshed(machine, 12.0)
    machine.store_failure(flight, error, 12.0)
    machine.fail(flight, Failed(GONE), 12.0)
    lead(machine, 12.0)


def test_the_least_recently_used_makes_room() -> None:
    """Answers are bounded: whichever was not looked at for longest goes first."""
    machine = cache(max_entries=2)
    fill(machine, 0.0, "a")
    fill(machine, 0.0, "b")
    look(machine, 1.0, "a")
    fill(machine, 1.0, "c")
    assert machine.snapshot()["entries"] == 2
    assert isinstance(look(machine, 1.0, "a"), Kept)
    assert isinstance(look(machine, 1.0, "b"), Lead)


def test_what_is_dropped_dies_outside_the_lock() -> None:
    """The last words of an answer may use the cache that drops it."""
    locked: list[bool] = []

    class Watched(NullLock):
        __slots__ = ("held",)

        def __init__(self) -> None:
            self.held = False

        def __enter__(self) -> bool:
            self.held = True
            return True

        def __exit__(self, *error: object) -> None:
            self.held = False

    lock = Watched()

    class Answer:
        def __del__(self) -> None:
            locked.append(lock.held)

    machine = CacheMachine(cache(max_entries=1).terms, lock)
    fill(machine, 0.0, "a", Answer())
    fill(machine, 0.0, "b", Answer())  # evicts
    machine.store(refreshed(machine, 12.0, "b"), Answer(), 12.0)  # replaces
    machine.store_failure(refreshed(machine, 24.0, "b"), None, 24.0)  # drops
    fill(machine, 24.0, "c", Answer())
    look(machine, 100.0, "c")  # finds it dead
    assert locked == [False] * 4


def test_other_terms_are_taken_on() -> None:
    """New settings hold for what is kept already, and a smaller cache shrinks with the next answer."""
    machine = cache(stale=0.0)
    for key in "abc":
        fill(machine, 0.0, key)
    assert StaleCache(fresh=100, max_entries=2, early=0).adopt(machine)
    assert look(machine, 50.0, "a") == Kept("tea", 50.0, True)
    fill(machine, 50.0, "d")
    assert machine.snapshot()["entries"] == 2


def test_nothing_is_kept_that_could_not_be_used() -> None:
    """A cache for failures alone holds no answers."""
    machine = cache(fresh=0.0, stale=0.0, negative=5.0)
    fill(machine)
    assert machine.snapshot()["entries"] == 0


def test_counts() -> None:
    """The snapshot counts answers by their source."""
    machine = cache()
    fill(machine)
    look(machine, 1.0)
    flight = refreshed(machine, 12.0)
    look(machine, 40.0)
    machine.follow(flight, Follower(lambda: None))
    assert machine.snapshot() == {
        "entries": 0,
        "in_flight": 1,
        "hits": 1,
        "stale_answers": 1,
        "misses": 1,
        "shared": 1,
        "refreshes": 1,
    }


# Early refresh.


def first_refresh(took: float, early: float, rate: float, source: random.Random) -> float:
    """How long before its time an answer was refreshed, of which so many callers a second asked; 0 for in time."""
    machine = cache(early=early)
    machine.store(lead(machine, -took), "tea", 0.0)
    now = 0.0
    while True:
        now += 1 / rate
        found = look(machine, now, draw=source.random)
        assert isinstance(found, Kept)
        if found.flight is not None:
            return max(0.0, 10.0 - now)


def test_early_refreshes_follow_xfetch() -> None:
    """One look at an age refreshes with the probability exp(-(fresh - age) / (took x early))."""
    source = random.Random(7)
    for age, took, early in [(9.0, 1.0, 1.0), (9.0, 0.5, 1.0), (8.0, 1.0, 2.0)]:
        refreshes = 0
        for _ in range(4000):
            machine = cache(early=early)
            machine.store(lead(machine, -took), "tea", 0.0)
            found = look(machine, age, draw=source.random)
            refreshes += isinstance(found, Kept) and found.flight is not None
        expected = math.exp(-(10.0 - age) / (took * early))
        assert abs(refreshes / 4000 - expected) < 0.03


def test_busy_keys_are_refreshed_in_time() -> None:
    """With many callers an answer hardly ever gets stale, and different processes refresh at different moments."""
    source = random.Random(11)
    ahead = [first_refresh(took=0.1, early=1.0, rate=200.0, source=source) for _ in range(200)]
    assert sum(lead_time == 0 for lead_time in ahead) <= 4
    assert 0.1 < statistics.mean(ahead) < 0.6
    assert statistics.stdev(ahead) > 0.05


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 9.99))
def test_early_refresh_can_be_switched_off(number: float, age: float) -> None:
    """Whatever is drawn, without `early`, or where the call takes no time, nothing is refreshed before its time."""
    for early, took in [(0.0, 5.0), (1.0, 0.0)]:
        machine = cache(early=early)
        machine.store(lead(machine, -took), "tea", 0.0)
        assert look(machine, age, draw=lambda: number) == Kept("tea", age, True)


def test_an_early_refresh_in_the_foreground() -> None:
    """Without revalidation whoever draws the early refresh makes the call, and others get the answer meanwhile."""
    machine = cache(early=1.0, revalidate=False)
    machine.store(lead(machine, -1.0), "tea", 0.0)
    found = look(machine, 9.9, draw=lambda: 0.999)
    assert isinstance(found, Lead)
    assert look(machine, 9.9, draw=lambda: 0.999) == Kept("tea", 9.9, True)
    assert machine.stand_in("sku", 9.9) == Kept("tea", 9.9, True)


# Settings.

DURATION = "'300ms', '2s', '1m30s'"
NO_DURATIONS = [-1, math.nan, math.inf, True, "soon", [1]]

BAD = [
    *(("fresh", value, DURATION) for value in [*NO_DURATIONS, None]),
    *(("stale", value, DURATION) for value in [*NO_DURATIONS, None]),
    *(("negative", value, DURATION) for value in [*NO_DURATIONS, 0]),
    *(("max_entries", value, "a whole number from 1") for value in [0, -1, 1.5, "3", None, True]),
    *(("early", value, "a number from 0 to 100") for value in [-0.1, 101, math.nan, "1", None, True]),
    *(("revalidate", value, "True or False") for value in ["no", 1, None]),
    *(("key", value, "a function of the call's arguments") for value in ["sku", 3]),
]


@pytest.mark.parametrize(("key", "value", "accepted"), BAD, ids=[f"{key}-{value!r}" for key, value, _ in BAD])
def test_bad_settings(key: str, value: object, accepted: str) -> None:
    """A setting that can't be meant is refused with its key, the value and what would do."""
    with pytest.raises(hm.ConfigurationError) as caught:
        StaleCache(**{key: value})  # type: ignore[arg-type]
    assert caught.value.key == key
    assert accepted in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_cache_keeps_something() -> None:
    """Lifetimes that leave nothing to keep are refused."""
    with pytest.raises(hm.ConfigurationError, match="nothing would ever be kept"):
        StaleCache(fresh=0, stale=0)
    assert StaleCache(fresh=0, stale=0, negative="1m").negative == 60.0


def test_settings_in_words() -> None:
    """The settings say in words what they mean."""
    assert (
        StaleCache(fresh="10s", stale="1m", negative="5s", revalidate=False).describe()
        == "fresh for 10s, then up to 1m stale where the call fails, what does not exist is remembered for 5s"
    )


def test_keys() -> None:
    """Calls are told apart by function and arguments; what can't be hashed has no key."""
    settings = StaleCache()
    keys = {
        settings.key_of(len, (1,), {}),
        settings.key_of(abs, (1,), {}),
        settings.key_of(len, (1, 2), {}),
        settings.key_of(len, (1,), {"a": 1}),
        settings.key_of(len, (1,), {"a": 2}),
    }
    assert len(keys) == 5
    assert settings.key_of(len, (1,), {"a": 1, "b": 2}) == settings.key_of(len, (1,), {"b": 2, "a": 1})
    assert settings.key_of(len, ([],), {}) is None
    assert settings.key_of(len, (), {"a": {}}) is None


def test_keys_of_ones_own() -> None:
    """A key function picks what matters, of calls of one function."""
    settings = StaleCache(key=lambda sku, *, trace: sku.lower())
    one = settings.key_of(len, ("TEA",), {"trace": 1})
    assert one is not None
    assert one == settings.key_of(len, ("tea",), {"trace": 2})
    assert one != settings.key_of(abs, ("tea",), {"trace": 2})
    assert one != StaleCache(key=lambda sku, *, trace: sku.lower()).key_of(len, ("tea",), {"trace": 2})
    assert StaleCache(key=lambda *skus: skus[0]).key_of(len, (["tea"],), {}) is None


# The fallback that has the cache.


@pytest.mark.parametrize(
    ("settings", "key", "accepted"),
    [
        ({"cache": {"fresh": 1}}, "cache", "a StaleCache(...)"),
        ({"value": 1, "on_result": "bad"}, "on_result", "a function that takes a result"),
        ({"value": 1, "on_result": int}, "on_result", "a function that takes a result"),
        *(
            ({"function": len, "max_concurrent": bad}, "max_concurrent", "a whole number from 1")
            for bad in [0, "1", None]
        ),
    ],
)
def test_bad_settings_of_a_fallback(settings: dict[str, Any], key: str, accepted: str) -> None:
    """What a fallback can't use is refused with its key and what would do."""
    with pytest.raises(hm.ConfigurationError) as caught:
        Fallback(**settings)
    assert caught.value.key == key
    assert accepted in str(caught.value)


def test_answers_of_a_fallback() -> None:
    """A cache stands alone, or before a function or a value; only those answer where it has nothing."""
    assert not Fallback(cache=StaleCache()).has_answer
    assert Fallback(cache=StaleCache(), value=None).has_answer
    assert Fallback(len, cache=StaleCache()).has_answer
    with pytest.raises(hm.ConfigurationError, match=r"one of the two.*a function and a value"):
        Fallback(len, value=1, cache=StaleCache())
    with pytest.raises(hm.ConfigurationError, match=r"one of the two.*none of them"):
        Fallback()


def test_a_fallback_in_words() -> None:
    """The words name the cache first, as it is asked first."""
    settings = StaleCache()
    words = f"answers from a cache ({settings.describe()})"
    assert Fallback(cache=settings).describe() == f"{words} on any, rejected"
    assert Fallback(len, cache=settings, on="timeout").describe() == f"{words}, else by len() on timeout"
    judged = Fallback(value=0, on_result=lambda result: not result)
    assert judged.describe() == "answers 0 on any, rejected and unwanted results"


def test_which_failures_are_answered() -> None:
    """Unwanted results are answered by kind, or where `on_result` says so; mistakes of the author never are."""
    fallback = Fallback(value=0, on_result=lambda result: result == "bad")
    assert fallback.answers(UnwantedResult("bad", FailureKind.INVALID))
    assert not fallback.answers(UnwantedResult("good", FailureKind.INVALID))
    assert fallback.answers(UnwantedResult("good", FailureKind.UNAVAILABLE))
    assert not Fallback(value=0).answers(UnwantedResult("bad", FailureKind.INVALID))
    assert fallback.answers(TimeoutError())
    assert not Fallback(value=0, on=Exception).answers(hm.ConfigurationError("no"))


def test_what_was_not_given_says_so() -> None:
    """A fallback that has no value shows that it has none, since None would be one."""
    assert "value=no value" in repr(Fallback(len))
    with pytest.raises(hm.ConfigurationError, match="a static answer is value="):
        Fallback("stock")  # type: ignore[arg-type]
