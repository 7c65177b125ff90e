"""How often: rate limits and throttles around calls, in every colour; and a limiter that is asked by hand."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.rate_limit import RateLimiter
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.rate_limit import RateLimit, _start_clean_after_fork
from hormesis.patterns.throttle import Throttle
from hormesis.testing import ManualClock, VirtualClock, run_virtual


def test_calls_beyond_the_limit_are_refused(colour: Any, dependency: Any, heard: Any) -> None:
    """They don't touch the function, say which limit and when to come back, and are let in then."""
    clock, called = ManualClock(7.0), dependency(3)
    policy = hm.Policy(RateLimit("2/s", "100/min"), name="stock", clock=clock, events=heard.bus)
    assert [colour.call(policy, called) for _ in range(2)] == [3, 3]
    with pytest.raises(hm.RateLimited) as caught:
        colour.call(policy, called)
    assert (caught.value.policy, caught.value.reason, caught.value.retry_after) == ("stock", "2/s used up", 0.5)
    assert called.calls == 2
    assert [(event.name, event.part) for event in heard.events] == [("call_rejected", "rate_limit")]
    clock.advance(0.5)
    assert colour.call(policy, called) == 3


def test_calls_wait_for_their_turn(colour: Any, dependency: Any, heard: Any) -> None:
    """One after the other, as far apart as the rate says; whoever would wait longer than that is refused at once."""
    clock, called = ManualClock(), dependency(3)
    policy = hm.Policy(RateLimit("2/s", burst=1, max_wait="1s"), clock=clock, events=heard.bus)
    moments = []
    for _ in range(4):
        assert colour.call(policy, called) == 3
        moments.append(clock.now())
    assert moments == [0.0, 0.5, 1.0, 1.5]
    assert [(event.name, event.seconds) for event in heard.events] == [("waited", 0.5)] * 3
    impatient = hm.Policy(RateLimit("1/min", max_wait="1s"), clock=clock, events=heard.bus)
    assert colour.call(impatient, called) == 3
    with pytest.raises(hm.RateLimited) as caught:
        colour.call(impatient, called)
    assert caught.value.retry_after == 60.0


def test_a_deadline_cuts_the_wait_short(colour: Any, dependency: Any) -> None:
    """What can't be waited for within the deadline is refused at once, and spends nothing."""
    clock, called = ManualClock(), dependency(3)
    policy = hm.Policy(hm.Deadline("100ms"), RateLimit("1/s", max_wait="10s"), clock=clock)
    assert colour.call(policy, called) == 3
    for _ in range(3):
        with pytest.raises(hm.RateLimited):
            colour.call(policy, called)
    assert clock.now() == 0.0
    assert policy.snapshot()["parts"]["rate_limit"]["limits"][0]["reset"] == 1.0


def test_each_tenant_has_its_limit(colour: Any, dependency: Any, heard: Any) -> None:
    """By label or by argument, and a call that costs more spends more; what is told names the tenant."""
    called = dependency(3)
    policy = hm.Policy(
        RateLimit("10/h", by=lambda tenant, rows: tenant, cost=lambda tenant, rows: rows),
        clock=ManualClock(),
        events=heard.bus,
    )
    assert colour.call(policy, called, "acme", 8) == 3
    with pytest.raises(hm.RateLimited):
        colour.call(policy, called, "acme", 3)
    assert colour.call(policy, called, "zeta", 9) == 3
    assert colour.call(policy, called, "acme", 2) == 3
    with pytest.raises(hm.RateLimited, match="costs more than 10/h allows"):
        colour.call(policy, called, "new", 11)
    assert [event.key for event in heard.events] == ["acme", "new"]
    with pytest.raises(hm.ConfigurationError, match="cost is 0"):
        colour.call(policy, called, "acme", 0)
    labelled = hm.Policy(RateLimit("1/h", by="tenant"))
    for tenant in ("acme", "zeta"):
        with hm.calling(tenant=tenant):
            assert colour.call(labelled, called) == 3
            with pytest.raises(hm.RateLimited):
                colour.call(labelled, called)


def test_attempts_count(colour: Any, dependency: Any) -> None:
    """A retry spends as well; when nothing is left, the last real failure comes out."""
    called = dependency(TimeoutError)
    policy = hm.Policy(hm.Retry(on="timeout", attempts=10, delay=0), RateLimit("3/h"), clock=ManualClock())
    with pytest.raises(TimeoutError) as caught:
        colour.call(policy, called)
    assert called.calls == 3
    assert isinstance(caught.value.__cause__, hm.RateLimited)


def test_an_open_circuit_spends_nothing(colour: Any, dependency: Any) -> None:
    """All permits or none: what another part refuses is not counted, before the limit or behind it."""
    clock, held = ManualClock(), Future[int]()
    called = dependency(ConnectionResetError, held, 3)
    policy = hm.Policy(
        hm.CircuitBreaker(minimum_calls=1, open_for="10s", probes=1), RateLimit("3/h"), hm.Bulkhead(1), clock=clock
    )
    with pytest.raises(ConnectionResetError):
        colour.call(policy, called)
    for _ in range(5):
        with pytest.raises(hm.CircuitOpen):
            colour.call(policy, called)
    policy.breaker().close()
    running = colour.start(policy, called)
    called.wait_until_inside(2)
    for _ in range(5):
        with pytest.raises(hm.BulkheadFull):
            colour.call(policy, called)
    assert policy.snapshot()["parts"]["rate_limit"]["limits"][0]["remaining"] == 1
    held.set_result(3)
    assert running.result(20) == 3
    assert colour.call(policy, called) == 3
    with pytest.raises(hm.RateLimited):
        colour.call(policy, called)


def test_a_wait_that_another_part_makes_vain_is_given_back(colour: Any, dependency: Any) -> None:
    """The circuit opens while somebody waits for a token: the token is there for others."""

    class Tripping(ManualClock):
        """Somebody else opens the circuit whenever somebody sleeps."""

        __slots__ = ()

        def advance(self, duration: Any) -> None:
            policy.breaker().isolate()
            super().advance(duration)

    clock, called = Tripping(), dependency(3)
    policy = hm.Policy(hm.CircuitBreaker(), RateLimit("1/s", max_wait="5s"), clock=clock)
    assert colour.call(policy, called) == 3
    with pytest.raises(hm.CircuitOpen):
        colour.call(policy, called)
    assert clock.now() == 1.0
    policy.breaker().close()
    assert policy.snapshot()["parts"]["rate_limit"]["limits"][0]["remaining"] == 1


def test_waiters_go_in_their_order() -> None:
    """Tasks that wait side by side go one at a time, first come, first served, each by its own reservation."""
    policy = hm.Policy(RateLimit("10/s", burst=1, max_wait="10s"), clock=VirtualClock())
    went: list[tuple[int, float]] = []

    async def go(number: int) -> None:
        went.append((number, round(asyncio.get_running_loop().time(), 6)))

    async def main() -> None:
        await asyncio.gather(*(policy.acall(go, number) for number in range(20)))

    run_virtual(main())
    assert went == [(number, round(number / 10, 6)) for number in range(20)]


def test_whoever_goes_away_leaves_its_moment_to_the_next() -> None:
    """A task that is cancelled while it waits costs nobody anything."""
    policy = hm.Policy(RateLimit("1/s", max_wait="1min"), clock=VirtualClock())
    went: list[float] = []

    async def go() -> None:
        went.append(asyncio.get_running_loop().time())

    async def main() -> None:
        await policy.acall(go)
        waiting = [asyncio.ensure_future(policy.acall(go)) for _ in range(4)]
        await asyncio.sleep(0.5)
        waiting[1].cancel()
        await asyncio.sleep(0)
        late = asyncio.ensure_future(policy.acall(go))
        await asyncio.gather(*waiting, late, return_exceptions=True)

    run_virtual(main())
    assert went == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_limit_and_a_queue(colour: Any, dependency: Any) -> None:
    """Who has waited for a token may have to wait for a place as well, and gets both."""
    held = Future[int]()
    called = dependency(held, 3)
    policy = hm.Policy(RateLimit("50/s", burst=1, max_wait="5s"), hm.Bulkhead(1, max_queued=5, max_wait="15s"))
    first = colour.start(policy, called)
    called.wait_until_inside()
    second = colour.start(policy, called)
    held.set_result(1)
    assert (first.result(20), second.result(20)) == (1, 3)


def test_nobody_waits_for_a_place_without_a_token(colour: Any, dependency: Any, until: Any) -> None:
    """A call that stands in the bulkhead's queue has asked the limit first, and has its token when it goes in."""
    held = Future[int]()
    called = dependency(held, 3)
    policy = hm.Policy(RateLimit("2/h"), hm.Bulkhead(1, max_queued=5, max_wait="15s"))
    first = colour.start(policy, called)
    called.wait_until_inside()
    second = colour.start(policy, called)
    until(lambda: policy.snapshot()["parts"]["bulkhead"]["queued"] == 1)
    assert policy.snapshot()["parts"]["rate_limit"]["limits"][0]["remaining"] == 1
    held.set_result(1)
    assert (first.result(20), second.result(20)) == (1, 3)
    with pytest.raises(hm.RateLimited):
        colour.call(policy, called)


def test_a_fallback_answers_for_what_is_refused(colour: Any, dependency: Any) -> None:
    """A rejection by the limit is one like any other."""
    policy = hm.Policy(hm.Fallback(value=0), RateLimit("1/h"))
    called = dependency(3)
    assert [colour.call(policy, called) for _ in range(3)] == [3, 0, 0]


def test_a_shadow_only_tells(colour: Any, dependency: Any, heard: Any) -> None:
    """Every call is made, and what would have been refused is told."""
    policy = hm.Policy(RateLimit("1/h"), Throttle(), shadow=True, events=heard.bus)
    called = dependency(3)
    assert [colour.call(policy, called) for _ in range(3)] == [3, 3, 3]
    assert [(event.name, event.shadow) for event in heard.events] == [("call_rejected", True)] * 2


def test_a_throttle_heeds_the_dependency(colour: Any, dependency: Any) -> None:
    """A 429 that says when to come back keeps everybody from asking before; other hosts are asked on."""
    clock = ManualClock()
    busy = hm.UnwantedResult("busy", hm.FailureKind.THROTTLED, retry_after=10.0)
    called = dependency(busy, 3)
    policy = hm.Policy(Throttle(by="host"), name="stock", clock=clock)
    with hm.calling(host="eu-1"):
        assert colour.call(policy, called) == "busy"
        with pytest.raises(hm.Throttled) as caught:
            colour.call(policy, called)
    assert caught.value.reason == "asked to wait"
    assert 10.0 <= (caught.value.retry_after or 0) <= 11.0
    with hm.calling(host="eu-2"):
        assert colour.call(policy, called) == 3
    clock.advance(11)
    with hm.calling(host="eu-1"):
        assert colour.call(policy, called) == 3


def test_a_throttle_refuses_what_would_be_refused(colour: Any, dependency: Any) -> None:
    """When the dependency takes nothing, most calls are not even sent; and once a second one is."""
    clock, called = ManualClock(), dependency(ConnectionResetError)
    policy = hm.Policy(Throttle(minimum_calls=5), clock=clock)
    sent = refused = 0
    for _ in range(100):
        try:
            colour.call(policy, called)
        except hm.Throttled:
            refused += 1
        except ConnectionResetError:
            sent += 1
        clock.advance(0.05)
    assert sent + refused == 100
    assert sent < 45
    assert policy.snapshot()["parts"]["throttle"]["refused_share"] > 0.9


def test_a_concurrency_limit_in_a_policy(colour: Any, dependency: Any, heard: Any) -> None:
    """It admits and refuses like any part, and tells when it has moved."""
    clock, called = ManualClock(), dependency(TimeoutError)
    limit = ConcurrencyLimit(adapt="aimd", start=20, timeout="1s")
    policy = hm.Policy(limit, RateLimit("1000/s"), hm.Bulkhead(50), clock=clock, events=heard.bus)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            colour.call(policy, called)
        clock.advance(0.1)
    moved = [event for event in heard.events if event.name == "limit_changed"]
    assert moved
    assert moved[0].part == "concurrency_limit"
    assert moved[0].before == 20.0
    assert moved[0].after < 19.0
    assert policy.snapshot()["parts"]["concurrency_limit"]["limit"] < 20


def test_a_block_and_a_stream(colour: Any) -> None:
    """Attempts at a block spend like calls, and a call that stays open has spent when it was opened."""
    policy = hm.Policy(RateLimit("2/h"))
    for attempt in policy.attempts():
        with attempt:
            pass
    with policy.open(int):
        pass
    with pytest.raises(hm.RateLimited):
        policy.call(int)


def test_listeners_to_every_call_hear_of_it(dependency: Any, heard: Any) -> None:
    """Off the express lane it is the same, for a refusal and for an answer."""
    ended: list[Any] = []
    heard.bus.listen(ended.append, calls=True)
    policy = hm.Policy(RateLimit("1/h", by=lambda key: key), events=heard.bus)
    assert policy.call(len, "a") == 1
    with pytest.raises(hm.RateLimited):
        policy.call(len, "a")
    assert [event.ending for event in ended if event.name == "call_ended"] == ["success", "rejected"]


# Asked by hand.


def test_a_limiter_by_hand() -> None:
    """For all who name no key, and for each key; it says how it stands."""
    clock = ManualClock()
    limit = RateLimit("2/s", "3/min").limiter(clock=clock)
    assert [limit.try_acquire() for _ in range(3)] == [True, True, False]
    assert [limit.try_acquire("acme", cost=cost) for cost in (2, 1)] == [True, False]
    clock.advance(1)
    assert limit.try_acquire(cost=1)
    assert not limit.try_acquire()
    assert [standing.remaining for standing in limit.standings()] == [1, 0]
    assert [standing.remaining for standing in limit.standings("acme")] == [2, 1]
    for cost in (0, -1, 1.5):
        with pytest.raises(hm.ConfigurationError, match="cost is"):
            limit.try_acquire(cost=cost)  # type: ignore[arg-type]


def test_waiting_by_hand() -> None:
    """A thread sleeps until its moment, within its patience and its deadline; what it can't wait for is refused."""
    clock = ManualClock()
    limit = RateLimit("1/s", name="reports").limiter(clock=clock)
    moments = []
    for _ in range(3):
        limit.acquire()
        moments.append(clock.now())
    assert moments == [0.0, 1.0, 2.0]
    with hm.deadline("500ms", clock=clock), pytest.raises(hm.RateLimited) as caught:
        limit.acquire()
    assert (caught.value.policy, caught.value.reason, caught.value.retry_after) == ("reports", "reports used up", 1.0)
    impatient = RateLimit("1/s", max_wait="200ms").limiter(clock=clock)
    impatient.acquire("acme")
    with pytest.raises(hm.RateLimited):
        impatient.acquire("acme")


def test_tasks_that_wait_by_hand() -> None:
    """They go in their order, and one that is cancelled gives its moment back."""
    limit = RateLimit("1/s").limiter(clock=VirtualClock())
    went: list[float] = []

    async def go() -> None:
        await limit.aacquire("acme")
        went.append(asyncio.get_running_loop().time())

    async def main() -> None:
        tasks = [asyncio.ensure_future(go()) for _ in range(4)]
        await asyncio.sleep(0.5)
        tasks[3].cancel()
        await asyncio.gather(*tasks, go(), return_exceptions=True)

    run_virtual(main())
    assert went == [0.0, 1.0, 2.0, 3.0]


def test_an_interrupt_while_a_thread_waits_by_hand() -> None:
    """Ctrl-C comes out, and the moment is there for others."""

    class Interrupted(ManualClock):
        __slots__ = ()

        def sleep(self, seconds: float) -> None:
            if seconds:
                raise KeyboardInterrupt

    clock = Interrupted()
    limit = RateLimit("1/s").limiter(clock=clock)
    limit.acquire()
    with pytest.raises(KeyboardInterrupt):
        limit.acquire()
    clock.advance(1)
    assert limit.try_acquire()
    policy = hm.Policy(RateLimit("1/s", max_wait="5s"), clock=clock)
    assert policy.call(int) == 0
    with pytest.raises(KeyboardInterrupt):
        policy.call(int)
    assert policy.snapshot()["parts"]["rate_limit"]["limits"][0]["reset"] == 1.0


def test_threads_that_wait_share_the_limit() -> None:
    """In real time: ten threads at a hundred a second take a tenth of one, one after the other."""
    limit = RateLimit("100/s", burst=1).limiter()
    limit.acquire("warm")
    clock = limit._clock
    began, ended = clock.now(), []

    def go() -> None:
        limit.acquire("acme")
        ended.append(clock.now() - began)

    threads = [threading.Thread(target=go) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 10
    assert max(ended) >= 0.09


def test_keys_that_come_at_once_by_hand() -> None:
    """Two threads that name the first key at the same moment get the same limit."""
    limit = RateLimit("1/h").limiter()

    class Late:
        """Another thread was quicker, and the limits are there when the lock is free."""

        def __enter__(self) -> None:
            limit._by_key = quicker

        def __exit__(self, *error: object) -> None:
            return None

    quicker = limit._settings.core(threading.Lock())
    limit._lock = Late()  # type: ignore[assignment]
    assert limit.try_acquire("acme")
    assert not limit.try_acquire("acme")
    assert quicker.take("acme", 1, limit._now()) is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_starts_clean() -> None:
    """A limiter that another thread was asking when the process was forked works in the child."""
    limit = RateLimit("1/h").limiter()
    assert limit.try_acquire()
    cell = limit._one._states.cells[0]
    with limit._one._lock:
        in_hand = cell.pop()
        child = os.fork()
        if child == 0:
            os._exit(0 if limit.try_acquire() else 1)
        cell.append(in_hand)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not limit.try_acquire()
    _start_clean_after_fork()  # what the child has done
    assert limit.try_acquire()


def test_the_machine_behind_it() -> None:
    """For those who have clocks and locks of their own."""
    core = RateLimit("1/s").core(threading.Lock())
    assert isinstance(core, RateLimiter)
    assert [core.take(key, 1, 0.0) is None for key in "aab"] == [True, False, True]
