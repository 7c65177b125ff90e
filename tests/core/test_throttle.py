"""Client-side throttling: the share that is refused, Retry-After, and that somebody always asks."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.admission import NullLock, Permit, Refusal
from hormesis.core.keyed import Keyed
from hormesis.core.throttle import ThrottleMachine
from hormesis.outcome import Ending
from hormesis.patterns.throttle import Throttle


class Dice:
    """Shows what it is told to."""

    def __init__(self, shows: float = 0.999) -> None:
        self.shows = shows

    def random(self) -> float:
        return self.shows


def machine(dice: Any = None, **settings: Any) -> ThrottleMachine:
    return ThrottleMachine(Throttle(**settings).terms(), NullLock(), dice or Dice())


def call(throttle: ThrottleMachine, ending: Ending, now: float, retry_after: float | None = None) -> None:
    throttle.end(Permit(0), ending, now, now, retry_after)


def test_the_share_is_the_books() -> None:
    """(requests - k accepts) / (requests + 1), and nothing below the minimum of calls or the share that is borne."""
    throttle = machine(minimum_calls=10)
    for _ in range(9):
        call(throttle, Ending.FAILURE, 0.0)
    assert throttle.probability(0.0) == 0.0
    call(throttle, Ending.SUCCESS, 0.0)
    assert throttle.probability(0.0) == (10 - 2 * 1) / 11
    for _ in range(8):
        call(throttle, Ending.SUCCESS, 0.0)
    assert throttle.probability(0.0) == 0.0


def test_what_is_refused_here_counts_as_asked() -> None:
    """So the share grows while nothing is taken, and a call that is neither taken nor refused counts for nothing."""
    throttle = machine(Dice(0.0), minimum_calls=2)
    call(throttle, Ending.FAILURE, 0.0)
    call(throttle, Ending.FAILURE, 0.0)
    call(throttle, Ending.IGNORED, 0.0)
    call(throttle, Ending.CANCELLED, 0.0)
    assert isinstance(throttle.acquire(0.0), Permit)
    assert [throttle.acquire(0.25), throttle.acquire(0.5)] == [Refusal("throttled", 0.75), Refusal("throttled", 0.5)]
    assert throttle.probability(0.5) == 4 / 5
    assert throttle.snapshot(0.5) == {"requests": 4, "accepts": 0, "refused_share": 0.8, "retry_after": None}


def test_somebody_always_asks() -> None:
    """One call a second is let in, however hopeless it looks; one that was put back was none."""
    throttle = machine(Dice(0.0), minimum_calls=1, window="1h")
    for _ in range(1000):
        call(throttle, Ending.FAILURE, 0.0)
    let_in = []
    for tick in range(100):
        permit = throttle.acquire(tick / 10)
        if isinstance(permit, Permit):
            let_in.append(tick / 10)
            if tick == 50:
                throttle.put_back(permit)
    assert let_in == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.1, 6.1, 7.1, 8.1, 9.1]


def test_a_wish_to_be_left_alone_is_heeded() -> None:
    """Nobody asks before that, and a tenth longer at the most; one that asks for too much gets what is allowed."""
    throttle = machine(Dice(0.5), retry_after_max="10s")
    call(throttle, Ending.FAILURE, 0.0, retry_after=4.0)
    assert (throttle.acquire(1.0), throttle.refusal(1.0)) == (Refusal("asked to wait", 3.2),) * 2
    assert throttle.snapshot(1.0)["retry_after"] == pytest.approx(3.2)
    assert not throttle.idle(1.0)
    call(throttle, Ending.FAILURE, 1.0, retry_after=1.0)
    assert throttle.refusal(4.1) is not None
    assert isinstance(throttle.acquire(4.2), Permit)
    assert throttle.refusal(4.2) is None
    call(throttle, Ending.FAILURE, 5.0, retry_after=3600.0)
    assert throttle.refusal(5.0) == Refusal("asked to wait", 10.0)
    call(throttle, Ending.SUCCESS, 16.0, retry_after=3600.0)
    assert throttle.refusal(16.0) is None


def test_the_window_rolls_on() -> None:
    """What is older than the window is forgotten, bit by bit, and then the machine is as good as new."""
    throttle = machine(minimum_calls=1)
    for second in range(10):
        call(throttle, Ending.FAILURE, float(second))
    assert throttle.snapshot(9.0)["requests"] == 10
    assert throttle.snapshot(14.0)["requests"] == 5
    assert not throttle.idle(18.0)
    assert throttle.idle(19.0)
    throttle.succeed(Permit(0), 19.0, 19.0)
    assert throttle.idle(19.0)
    assert throttle.snapshot(1000.0)["requests"] == 0


def test_the_dependency_gets_twice_what_it_takes() -> None:
    """100 calls a second, of which it takes 20: about 40 are sent, and all of them once it takes them all."""
    throttle = machine(random.Random(1))
    sent, taken, now = 0, 0, 0.0
    for tick in range(6000):
        now = tick / 100
        capacity = 20 if tick < 4000 else 1000
        if tick % 100 == 0:
            taken = 0
        permit = throttle.acquire(now)
        if not isinstance(permit, Permit):
            continue
        sent += 2000 <= tick < 4000
        ok = taken < capacity
        taken += ok
        throttle.end(permit, Ending.SUCCESS if ok else Ending.FAILURE, now, now)
    assert 36 <= sent / 20 <= 48
    assert throttle.probability(now) == 0.0


def test_it_comes_back_by_itself() -> None:
    """After a minute of nothing, a call a second finds out, and within four windows all calls are sent again."""
    throttle = machine(random.Random(2))
    refused, last = [0, 0], 0.0
    for tick in range(12_000):
        now = tick / 100
        permit = throttle.acquire(now)
        if isinstance(permit, Permit):
            throttle.end(permit, Ending.SUCCESS if now >= 60 else Ending.FAILURE, now, now)
        else:
            refused[now >= 60] += 1
            last = now
    assert refused[0] > 0.8 * 6000
    assert 60 < last < 100


def test_other_terms_while_it_is_in_use() -> None:
    """What was counted stays, unless the window is another."""
    throttle = machine(minimum_calls=1)
    call(throttle, Ending.FAILURE, 0.0)
    throttle.reconfigure(Throttle(minimum_calls=5).terms())
    assert (throttle.snapshot(0.0)["requests"], throttle.probability(0.0)) == (1, 0.0)
    throttle.reconfigure(Throttle(minimum_calls=5, window="5s").terms())
    assert throttle.snapshot(0.0)["requests"] == 0


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (hm.UnwantedResult(429, hm.FailureKind.THROTTLED), Ending.FAILURE),
        (ConnectionResetError(), Ending.FAILURE),
        (ValueError(), Ending.SUCCESS),
        (hm.UnwantedResult(404, hm.FailureKind.INVALID), Ending.SUCCESS),
        (ConnectionRefusedError(), Ending.IGNORED),
        (TimeoutError(), Ending.IGNORED),
        (hm.CircuitOpen("p", "open"), Ending.IGNORED),
        (KeyboardInterrupt(), Ending.CANCELLED),
    ],
)
def test_what_an_exception_says_of_the_dependency(error: BaseException, ending: Ending) -> None:
    """429 and 503 were not taken, an error of its own was; when it was not reached, or did not answer, nobody knows."""
    assert Throttle().ending(error) is ending


def test_which_failures_count_is_settable() -> None:
    """By kind, type or function, as everywhere; a rejection of ours never does."""
    assert Throttle(on=("timeout", KeyError)).ending(TimeoutError()) is Ending.FAILURE
    assert Throttle(on=("timeout", KeyError)).ending(ConnectionResetError()) is Ending.SUCCESS
    assert Throttle(on=lambda error: True).ending(hm.BulkheadFull("p", "full")) is Ending.IGNORED


def test_one_for_each_key() -> None:
    """Instances are handed on to settings that agree on the keys, and to no others."""
    machines = Throttle(by="host", minimum_calls=1).machine(threading.Lock(), Dice(0.0))
    assert isinstance(machines, Keyed)
    bad = machines.get("bad", lambda: 0.0)
    call(bad, Ending.FAILURE, 0.0)
    assert machines.get("good", lambda: 0.0).probability(0.0) == 0.0
    assert Throttle(by="host", minimum_calls=7).adopt(machines)
    assert {machines.get(key, lambda: 0.0).terms.minimum_calls for key in ("bad", "new")} == {7}
    assert not Throttle(by="tenant").adopt(machines)
    assert not Throttle().adopt(machines)
    one = Throttle().machine(threading.Lock())
    assert isinstance(one, ThrottleMachine)
    assert Throttle(ratio=1.5).adopt(one)
    assert one.terms.ratio == 1.5
    assert not Throttle(by="host").adopt(one)


def test_in_words() -> None:
    """The settings are told as people say them."""
    assert Throttle(by="host", retry_after_max=0).describe() == (
        "sends 2 times what it takes (throttled, unavailable are not taken), over 10s and from 20 calls on, and at "
        "least one in 1s; one for each host, 10,000 at most"
    )
    assert "none before that (at most 1m)" in Throttle().describe()
