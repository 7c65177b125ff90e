"""Shards in cells: one hand at a time, whatever cuts in; and there is room for no more keys than were allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core import rate_limit, rate_states
from hormesis.core.admission import NullLock
from hormesis.core.rate_limit import Algorithm, RateLimiter, TokenBucket, WindowCounter
from hormesis.core.rate_states import States


def bucket(count: int, window: float = 1.0) -> TokenBucket:
    return TokenBucket(f"{count}/{window:g}s", count, window, count)


def states(limits: list[Any], most: int) -> States:
    return States(limits, most, pause=lambda: None)


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 2)), max_size=300), st.integers(1, 40))
def test_there_is_never_more_than_there_is_room_for(calls: list[tuple[int, float]], most: int) -> None:
    """Whatever keys come, at whatever times, in one limit or in two; and the one that came last is known."""
    limited = RateLimiter([bucket(3), bucket(9, 10.0)], max_keys=most, lock=NullLock())
    now = 0.0
    for number, step in calls:
        now += step
        if limited.take(f"key-{number}", 2, now) is None:
            assert limited.standings(f"key-{number}", now)[1].remaining <= 7
        assert len(limited) <= most


def test_room_is_given_to_the_last_key() -> None:
    """As many keys as are allowed are remembered, all of them, over all shards; the next makes room for itself."""
    limited = RateLimiter([bucket(1, 3600.0)], max_keys=10_000, lock=NullLock())
    for number in range(10_000):
        assert limited.take(f"key-{number}", 1, 1.0) is None
    assert len(limited) == 10_000
    assert all(limited.take(f"key-{number}", 1, 1.0) is not None for number in range(10_000))
    for number in range(3000):
        assert limited.take(f"new-{number}", 1, 1.0) is None
        assert len(limited) <= 10_000


def test_room_comes_back_when_keys_are_forgotten() -> None:
    """After a crowd has left, others find room, and the crowd is forgotten little by little."""
    limited = RateLimiter([bucket(1)], max_keys=10_000, lock=NullLock())
    for number in range(10_000):
        assert limited.take(f"key-{number}", 1, 1.0) is None
    for number in range(10_000):
        assert limited.take(f"new-{number}", 1, 10.0 + number / 1000) is None
    assert len(limited) < 4000


def test_a_small_shard_takes_room_from_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that fall into one shard don't keep the others from having any room."""
    monkeypatch.setattr(rate_states, "_SHARD_KEYS", 16)
    table = states([bucket(1, 3600.0)], 64)
    crowded, lonely = table.take_out(0), table.take_out(1)
    for number in range(64):
        table.put(0, crowded, f"crowd-{number}", [5000.0 + number], 0.0)
    assert len(crowded[1]) == 64
    table.lay_back(0, crowded)
    table.put(1, lonely, "lonely", [1.0], 0.0)
    table.lay_back(1, lonely)
    assert len(lonely[1]) == 1
    assert set(crowded[1]) == {f"crowd-{number}" for number in range(8, 64)}
    assert len(table) == 57


def lost(limited: RateLimiter, key: str) -> None:
    """Take out a shard and never lay it back, as a thread does that is interrupted with it in its hand."""
    table = limited._states
    table.cells[table.at(key)].pop()


@pytest.mark.parametrize("limits", [[bucket(2)], [bucket(2), bucket(2, 60.0)]], ids=["bucket", "two"])
@pytest.mark.parametrize("max_keys", [None, 100])
def test_a_shard_that_is_lost_begins_anew(limits: list[Algorithm], max_keys: int | None) -> None:
    """Whoever waits for it stops waiting; what was known is forgotten, and all goes on."""
    paused = []
    limited = RateLimiter(limits, max_keys=max_keys, lock=NullLock(), pause=lambda: paused.append(1))
    assert limited.take("", 2, 0.0) is None
    lost(limited, "")
    assert limited.take("", 1, 0.0) is None
    assert len(paused) == rate_states._PAUSES
    assert limited.take("", 2, 0.0) is not None
    assert limited.take("", 1, 0.0) is None


def test_a_shard_that_was_given_up_and_comes_back() -> None:
    """There is one in each cell at the most."""
    limited = RateLimiter([bucket(2)], max_keys=None, lock=NullLock())
    table = limited._states
    shard = table.take_out(0)
    assert limited.take("", 1, 0.0) is None
    table.cells[0].append(shard)
    assert limited.take("", 1, 0.0) is None
    assert limited.standings("", 0.0)
    assert len(table.cells[0]) == 1


LIMITS: list[list[Algorithm]] = [[bucket(3)], [bucket(3), bucket(3, 60.0)], [WindowCounter("3", 3, 1.0, 20)]]


@pytest.mark.parametrize("limits", LIMITS, ids=["bucket", "two", "window"])
@pytest.mark.parametrize("max_keys", [None, 100])
def test_two_threads_take_what_there_is(
    limits: list[Algorithm], max_keys: int | None, race: Any, sweep_interleavings: Any
) -> None:
    """Wherever a second caller cuts in, both are let in, and the next, for whom nothing is left, is not."""

    def make() -> Any:
        lock = threading.Lock()
        limited = RateLimiter(limits, max_keys=max_keys, lock=lock)
        assert limited.take("a", 1, 0.0) is None
        cell = limited._states.cells[limited._states.at("a" if max_keys else "")]
        got = []

        class Busy:
            """Whether the second would have to wait: for the lock, or for the shard that the first has in hand."""

            def locked(self) -> bool:
                return lock.locked() or not cell

        def take() -> None:
            got.append(limited.take("a", 1, 0.0))

        def check() -> None:
            assert got == [None, None]
            assert limited.take("a", 1, 0.0) is not None
            assert len(cell) == 1

        return race(first=take, second=take, check=check, lock=Busy())

    inside = [RateLimiter(limits, max_keys=max_keys, lock=NullLock()).take, RateLimiter._take]
    assert sweep_interleavings(make, inside) > 10


def test_threads_share_a_limit_exactly() -> None:
    """Eight threads ask as fast as they can: what is let in is what the limit allows, to the last token."""
    for max_keys in (None, 1000):
        limited = RateLimiter([bucket(2000)], max_keys=max_keys, lock=threading.Lock())
        with ThreadPoolExecutor(8) as threads:
            granted = threads.map(asker(limited, threading.Barrier(8)), range(8))
        assert sum(granted) == 2000


def asker(limited: RateLimiter, begin: threading.Barrier) -> Callable[[int], int]:
    def ask(number: int) -> int:
        begin.wait()
        return sum(limited.take("a", 1, 50.0) is None for _ in range(1000))

    return ask


def test_a_step_that_was_given_up_is_seen_as_it_was() -> None:
    """What went out of view while somebody waited is taken for as much as the limit allows."""
    minute = WindowCounter("2", 2, 60.0, 0)
    state = minute.spend(None, 1, 0.0)
    state = minute.spend_at(state, 2, 60.0)
    assert minute.is_ahead(state, 0.0)
    back = minute.give(state, 2, 60.0, 0.0)
    assert (minute.spend(back, 1, 0.0), minute.wait(back, 1, 0.0)) == (None, 60.0)
    assert minute.give(state, 2, 0.0, 0.0) == state
    assert minute.give(None, 1, 0.0, 0.0) is None
    assert rate_limit.STEPS == 20
