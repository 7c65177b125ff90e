"""Signals of queueing: what each measures, that it sleeps while nothing is in flight, and that it breaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from hormesis.inbound.signals import Longest, LoopLag, RequestStart, ThreadLag, ThreadPoolWait
from hormesis.inbound.signals.lag import Lateness
from hormesis.inbound.signals.tickers import LoopTicker, ThreadTicker
from hormesis.testing import VirtualClock, run_virtual

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(main: Any, loop: Callable[[], asyncio.AbstractEventLoop]) -> Any:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def eventually(holds: Callable[[], object], within: float = 5.0) -> None:
    """Wait, in real time, for another thread."""
    until = time.monotonic() + within
    while not holds():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.001)


def into(samples: list[float]) -> Callable[[float, int], object]:
    """What takes a probe's samples: each as often as it counts."""
    return lambda lag, times: samples.extend([lag] * times)


# What is lag, and what is how timers are.


def test_natural_lateness_is_no_lag() -> None:
    """The least lateness of late is how timers are here; only what is beyond it counts."""
    lateness = Lateness()
    assert [round(lateness.lag(late), 6) for late in (0.001, 0.0015, 0.0008, 0.0508)] == [0.0, 0.0005, 0.0, 0.05]


def test_an_overload_does_not_become_natural() -> None:
    """In a service that is late for minutes, all but two milliseconds of it is lag."""
    lateness = Lateness()
    for _ in range(1000):
        lag = lateness.lag(0.1)
    assert lag == pytest.approx(0.098)


def test_what_is_natural_is_learned_anew() -> None:
    """After two spans of samples, a machine that was quicker once is forgotten."""
    lateness = Lateness()
    lateness.lag(0.0)
    for _ in range(201):
        lag = lateness.lag(0.001)
    assert lag == 0.0


def test_what_comes_early_is_not_late() -> None:
    """Clocks that are rounded may say so."""
    assert Lateness().lag(-0.001) == 0.0


# The loop's lag.


def test_the_lag_of_a_loop_that_is_on_time() -> None:
    """Is nought, a hundred times a second."""

    async def main() -> list[float]:
        samples: list[float] = []
        lag = LoopLag(into(samples), busy=lambda: True, clock=VirtualClock())
        lag.start()
        lag.wake()
        await asyncio.sleep(1.001)
        lag.stop()
        await asyncio.sleep(1)
        return samples

    samples = run_virtual(main())
    assert len(samples) in (100, 101)
    assert max(samples) < 1e-9


def test_the_lag_of_a_loop_that_is_blocked() -> None:
    """Is what was left of the block when the timer was due."""

    async def main() -> list[float]:
        samples: list[float] = []
        clock = VirtualClock()
        lag = LoopLag(into(samples), busy=lambda: True, clock=clock)
        lag.start()
        lag.wake()
        await asyncio.sleep(0.015)
        clock.sleep(0.205)
        await asyncio.sleep(0.001)
        lag.stop()
        return samples

    samples = run_virtual(main())
    assert max(samples) == pytest.approx(0.2)
    assert samples.count(max(samples)) == 21, "itself, and the twenty that were missed for it"


def test_a_lag_counts_for_no_more_than_a_second() -> None:
    """One that is longer is an outage, and no more so for being told a thousand times."""

    async def main() -> list[float]:
        samples: list[float] = []
        clock = VirtualClock()
        lag = LoopLag(into(samples), busy=lambda: True, clock=clock)
        lag.start()
        lag.wake()
        clock.sleep(3600)
        await asyncio.sleep(0.001)
        lag.stop()
        return samples

    assert len(run_virtual(main())) == 100


@pytest.mark.parametrize("in_flight", [10, 20, 40])
def test_the_mean_of_lags_is_what_work_waits(in_flight: int) -> None:
    """In a service whose requests wait for I/O and then compute, as long as they wait for the loop on average."""

    async def main() -> tuple[float, float]:
        chance, clock, loop = random.Random(1), VirtualClock(), asyncio.get_running_loop()
        samples: list[float] = []
        waited: list[float] = []
        lag = LoopLag(into(samples), busy=lambda: True, clock=clock)
        lag.start()
        lag.wake()

        async def requests() -> None:
            while loop.time() < 60:
                due = loop.time() + chance.uniform(0.05, 0.15)
                await asyncio.sleep(due - loop.time())
                waited.append(loop.time() - due)
                clock.sleep(chance.expovariate(1 / 0.01))

        await asyncio.gather(*(requests() for _ in range(in_flight)))
        lag.stop()
        return sum(samples) / len(samples), sum(waited) / len(waited)

    lag, waited = run_virtual(main())
    assert lag == pytest.approx(waited, rel=0.25)


def test_nothing_ticks_while_nothing_is_in_flight() -> None:
    """It goes to sleep with the last request, and wakes with the next."""

    async def main() -> tuple[int, int, int]:
        samples: list[float] = []
        requests = 1
        lag = LoopLag(into(samples), busy=lambda: requests, clock=VirtualClock())
        lag.start()
        await asyncio.sleep(1)
        before = len(samples)
        lag.wake()
        await asyncio.sleep(0.105)
        requests = 0
        await asyncio.sleep(10)
        idle = len(samples)
        lag.wake()
        requests = 1
        await asyncio.sleep(0.105)
        lag.stop()
        return before, idle, len(samples)

    before, idle, after = run_virtual(main())
    assert before == 0
    assert idle in (10, 11, 12)
    assert idle + 9 <= after <= idle + 12


def test_waking_what_is_awake_begins_nothing_twice() -> None:
    """Nor does waking what was not started, or was stopped; starting again begins anew."""

    async def main() -> int:
        ticks: list[float] = []
        ticker = LoopTicker(ticks.append, every=0.01, busy=lambda: True, clock=VirtualClock(), name="a tick")
        ticker.wake()
        ticker.start()
        for _ in range(5):
            ticker.wake()
        await asyncio.sleep(0.055)
        ticker.stop()
        ticker.stop()
        ticker.wake()
        await asyncio.sleep(1)
        ticker.start()
        ticker.start()
        ticker.wake()
        await asyncio.sleep(0.055)
        ticker.stop()
        return len(ticks)

    assert run_virtual(main()) == 10


def test_a_tick_may_stop_its_ticker() -> None:
    """And then it does not go to sleep, but is over."""

    async def main() -> bool:
        ticker = LoopTicker(lambda late: ticker.stop(), every=0.01, busy=lambda: False, clock=VirtualClock(), name="a")
        ticker.start()
        ticker.wake()
        await asyncio.sleep(0.1)
        return ticker.asleep

    assert run_virtual(main()) is False


def test_a_tick_that_stops_a_busy_ticker() -> None:
    """Is the last, even while there is work."""

    async def main() -> int:
        ticks: list[float] = []

        def tick(late: float) -> None:
            ticks.append(late)
            ticker.stop()

        ticker = LoopTicker(tick, every=0.01, busy=lambda: True, clock=VirtualClock(), name="a")
        ticker.start()
        ticker.wake()
        await asyncio.sleep(0.1)
        return len(ticks)

    assert run_virtual(main()) == 1


def broken(seconds: float, times: int = 1) -> None:
    raise ValueError("a broken observer")


def test_a_probe_of_the_loop_that_raises_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and the loop goes on."""

    async def main() -> str:
        lag = LoopLag(broken, busy=lambda: True, clock=VirtualClock())
        lag.start()
        lag.wake()
        await asyncio.sleep(1)
        lag.wake()
        await asyncio.sleep(1)
        return "well"

    with caplog.at_level(logging.ERROR, "hormesis.signals"):
        assert run_virtual(main()) == "well"
    assert [record.message for record in caplog.records] == ["the lag of the event loop raised, and is off"]


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_real_loops(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A block of a tenth of a second is seen on a real loop; one that only waits has next to no lag."""

    async def main() -> tuple[list[float], list[float]]:
        calm: list[float] = []
        blocked: list[float] = []
        samples = calm

        def observe(seconds: float, times: int) -> None:
            samples.extend([seconds] * times)

        lag = LoopLag(observe, busy=lambda: True)
        lag.start()
        lag.wake()
        await asyncio.sleep(0.2)
        samples = blocked
        time.sleep(0.1)  # noqa: ASYNC251  that is the point
        await asyncio.sleep(0.02)
        lag.stop()
        return calm, blocked

    calm, blocked = run(main(), loop)
    assert sorted(calm)[len(calm) // 2] < 0.02
    assert max(blocked) > 0.08


# The lag of threads.


class Steps:
    """A sleep that takes as long as it is told to, each time that it is let go."""

    def __init__(self) -> None:
        self.now = 0.0
        self.over = 0.0
        self._go = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        assert self._go.acquire(timeout=5)
        self.now += seconds + self.over

    def step(self, over: float) -> None:
        self.over = over
        self._go.release()


def test_the_lag_of_threads_is_what_a_sleep_takes_too_long() -> None:
    """That is how long a thread has waited for the interpreter or a processor."""
    steps, samples = Steps(), []
    lag = ThreadLag(into(samples), busy=lambda: True, sleep=steps.sleep, now=lambda: steps.now)
    lag.start()
    lag.wake()
    for late, reports in ((0.0, 1), (0.03, 5), (0.2, 26)):
        steps.step(late)
        eventually(lambda reports=reports: len(samples) == reports)
    steps.step(0.0)
    lag.stop()
    assert samples[:26] == [0.0, *[pytest.approx(0.03)] * 4, *[pytest.approx(0.2)] * 21]


def test_a_thread_sleeps_while_nothing_is_in_flight() -> None:
    """It begins with the first request, waits while there is none, and wakes with the next."""
    samples: list[float] = []
    requests: list[int] = []
    threads = threading.active_count()
    ticker = ThreadTicker(samples.append, every=0.001, busy=lambda: requests, name="a test")
    ticker.start()
    ticker.start()
    assert threading.active_count() == threads
    requests.append(1)
    ticker.wake()
    eventually(lambda: len(samples) > 3)
    assert threading.active_count() == threads + 1
    requests.clear()
    eventually(lambda: ticker.asleep)
    seen = len(samples)
    time.sleep(0.02)
    assert len(samples) == seen
    requests.append(1)
    ticker.wake()
    eventually(lambda: len(samples) > seen)
    ticker.stop()
    assert threading.active_count() == threads
    ticker.wake()
    assert threading.active_count() == threads


def test_a_thread_that_is_asleep_can_be_stopped() -> None:
    """Stopping wakes it, so that it ends."""
    threads = threading.active_count()
    ticker = ThreadTicker(lambda late: None, every=0.001, busy=lambda: False, name="a test")
    ticker.start()
    ticker.wake()
    eventually(lambda: ticker.asleep)
    ticker.stop()
    eventually(lambda: threading.active_count() == threads)


def test_a_thread_that_was_stopped_may_begin_again() -> None:
    """With a thread of its own."""
    samples: list[float] = []
    ticker = ThreadTicker(samples.append, every=0.001, busy=lambda: True, name="a test")
    for _ in range(3):
        samples.clear()
        ticker.start()
        ticker.wake()
        eventually(lambda: samples)
        ticker.stop()


def test_work_that_comes_while_a_thread_goes_to_sleep() -> None:
    """Is seen, whichever was first."""
    answers = iter([False, True])
    ticks: list[float] = []
    ticker = ThreadTicker(ticks.append, every=0.001, busy=lambda: next(answers, True), name="a test")
    ticker.start()
    ticker.wake()
    eventually(lambda: ticks)
    assert not ticker.asleep
    ticker.stop()


def test_a_tick_may_stop_its_own_thread() -> None:
    """Nobody waits for himself."""
    ticker = ThreadTicker(lambda late: ticker.stop(), every=0.001, busy=lambda: True, name="a test")
    threads = threading.active_count()
    ticker.start()
    ticker.wake()
    eventually(lambda: threading.active_count() == threads)
    assert not ticker.asleep


def test_stopping_while_a_thread_goes_to_sleep() -> None:
    """What is stopped between two looks ends, and does not wait for ever."""
    threads = threading.active_count()

    def busy() -> bool:
        ticker.stop()
        return False

    ticker = ThreadTicker(lambda late: None, every=0.001, busy=busy, name="a test")
    ticker.start()
    ticker.wake()
    eventually(lambda: threading.active_count() == threads)
    assert not ticker.asleep


def test_a_probe_of_threads_that_raises_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and its thread ends."""
    threads = threading.active_count()
    lag = ThreadLag(broken, busy=lambda: True, every=0.001)
    with caplog.at_level(logging.ERROR, "hormesis.signals"):
        lag.start()
        lag.wake()
        eventually(lambda: caplog.records)
        eventually(lambda: threading.active_count() == threads)
        lag.wake()
    assert threading.active_count() == threads
    assert [record.message for record in caplog.records] == ["the lag of threads raised, and is off"]
    lag.stop()


def test_waking_races_with_stopping() -> None:
    """Who finds it asleep, and comes when it has been stopped, begins nothing."""
    threads = threading.active_count()
    ticker = ThreadTicker(lambda late: None, every=0.001, busy=lambda: True, name="a test")
    ticker._wake()
    assert threading.active_count() == threads


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_a_thread_of_its_own() -> None:
    """A worker that was forked from a process whose probe was awake measures, with its next request."""
    samples: list[float] = []
    lag = ThreadLag(into(samples), busy=lambda: True, every=0.001)
    off = ThreadTicker(samples.append, every=0.001, busy=lambda: True, name="never started")
    lag.start()
    lag.wake()
    eventually(lambda: samples)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            off.start_clean()
            samples.clear()
            time.sleep(0.02)
            assert not samples
            off.wake()
            lag.wake()
            eventually(lambda: samples)
            status = 0
        os._exit(status)
    lag.stop()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_computing_threads_are_seen() -> None:
    """Threads that compute in Python make each other wait for the interpreter."""
    samples: list[float] = []
    over = threading.Event()

    def compute() -> None:
        while not over.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    lag = ThreadLag(into(samples), busy=lambda: True)
    lag.start()
    for thread in threads:
        thread.start()
    lag.wake()
    try:
        eventually(lambda: len(samples) >= 10)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        lag.stop()
    assert max(samples) > 0.003


# Several sources.


def test_the_longest_counts() -> None:
    """A loop that is on time does not hide a pool that is full; what was said long ago does not count."""
    now, heard = 0.0, []
    longest = Longest(into(heard), now=lambda: now)
    loop, pool = longest.source(), longest.source()
    loop(0.0)
    pool(0.2)
    for _ in range(5):
        loop(0.001)
    now = 0.3
    loop(0.001, 2)
    assert heard == [0.0, *[0.2] * 6, 0.001, 0.001]


# The wait for a thread of a pool.


@contextlib.contextmanager
def occupied(pool: Executor, threads: int) -> Iterator[Callable[[], None]]:
    """Keep all threads of a pool busy until they are let go."""
    go = threading.Event()
    started = threading.Semaphore(0)

    def occupy() -> None:
        started.release()
        go.wait(10)

    held = [pool.submit(occupy) for _ in range(threads)]
    try:
        for _ in held:
            assert started.acquire(timeout=5)
        yield go.set
    finally:
        go.set()


def test_the_wait_of_a_pool_in_a_program_of_threads() -> None:
    """While somebody waits, a probe does, and tells its age; when nobody does, the wait is nought."""
    samples: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        wait = ThreadPoolWait(samples.append, executor=pool, busy=lambda: True, every=0.005)
        wait.start()
        wait.wake()
        eventually(lambda: samples)
        assert samples[0] == 0.0
        with occupied(pool, 1) as let_go:
            pool.submit(int)
            eventually(lambda: max(samples) > 0.03)
            assert pool._work_queue.qsize() == 2, "one who waits, and one probe"
            let_go()
            eventually(lambda: samples[-1] == 0.0)
        wait.stop()
        wait.stop()


def test_the_wait_of_a_pool_on_a_loop() -> None:
    """The same on the timers of a loop."""
    samples: list[float] = []

    async def main(pool: ThreadPoolExecutor) -> None:
        wait = ThreadPoolWait(samples.append, executor=pool, busy=lambda: True, every=0.005)
        wait.start()
        wait.wake()
        with occupied(pool, 1) as let_go:
            done = asyncio.get_running_loop().run_in_executor(pool, int)
            await asyncio.sleep(0.05)
            let_go()
            await done
        await asyncio.sleep(0.03)
        wait.stop()

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main(pool))
    assert max(samples) > 0.02
    assert samples[-1] < 0.02


def test_a_pool_that_does_not_show_its_queue() -> None:
    """Is asked by standing in it."""

    class Own(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            asked.append(fn)
            fn()
            return Future()

    asked: list[Any] = []
    samples: list[float] = []
    wait = ThreadPoolWait(samples.append, executor=Own(), busy=lambda: True, every=0.001)
    wait.start()
    wait.wake()
    eventually(lambda: len(samples) > 3)
    wait.stop()
    assert len(asked) >= len(samples) > 3


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_the_wait_for_a_thread_of_anyio(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The pool of Starlette's synchronous endpoints: full, it makes the next one wait, on a loop that is on time."""
    samples: list[float] = []

    async def main() -> None:
        wait = ThreadPoolWait(samples.append, busy=lambda: True, every=0.005)
        wait.start()
        wait.wake()
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        await asyncio.sleep(0.02)
        assert set(samples) == {0.0}
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(anyio.to_thread.run_sync, time.sleep, 0.08)
            await asyncio.sleep(0.04)
            assert anyio.to_thread.current_default_thread_limiter().statistics().tasks_waiting == 3, "and one probe"
        await asyncio.sleep(0.02)
        wait.stop()

    run(main(), loop)
    assert max(samples) > 0.05
    assert samples[-1] < 0.02


def test_without_anyio_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not use it is not made to load it."""
    monkeypatch.delitem(__import__("sys").modules, "anyio.to_thread")
    samples: list[float] = []

    async def main() -> None:
        wait = ThreadPoolWait(samples.append, busy=lambda: True, clock=VirtualClock())
        wait.start()
        wait.wake()
        await asyncio.sleep(0.11)
        wait.stop()

    run_virtual(main())
    assert samples == [0.0] * 4


def test_an_anyio_that_knows_its_loop_in_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of its versions ask for the current task; so it is asked in one, and asked once."""
    real, asked = anyio.to_thread.current_default_thread_limiter, []

    def in_a_task() -> Any:
        asked.append(asyncio.current_task())
        assert asked[-1] is not None
        return real()

    monkeypatch.setattr(anyio.to_thread, "current_default_thread_limiter", in_a_task)
    samples: list[float] = []

    async def main() -> None:
        wait = ThreadPoolWait(samples.append, busy=lambda: True, clock=VirtualClock())
        wait.start()
        wait.wake()
        await asyncio.sleep(0.11)
        wait.stop()

    run_virtual(main())
    assert samples == [0.0] * 4
    assert len(asked) == 1


def test_an_anyio_that_raises_is_not_watched(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, and the loop goes on."""
    monkeypatch.setattr(anyio.to_thread, "current_default_thread_limiter", broken)

    async def main() -> None:
        wait = ThreadPoolWait(lambda seconds: None, busy=lambda: True, clock=VirtualClock())
        wait.start()
        wait.wake()
        await asyncio.sleep(1)
        wait.stop()

    with caplog.at_level(logging.ERROR, "hormesis.signals"):
        run_virtual(main())
    assert [record.message for record in caplog.records] == ["the wait for anyio's threads raised, and is off"]


def test_a_probe_leaves_the_queue_when_it_is_stopped() -> None:
    """It takes no thread from those who go on."""

    async def main() -> int:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = 1
        await limiter.acquire_on_behalf_of("somebody")
        other = asyncio.ensure_future(limiter.acquire_on_behalf_of("another"))
        wait = ThreadPoolWait(lambda seconds: None, busy=lambda: True, every=0.001)
        wait.start()
        wait.wake()
        while limiter.statistics().tasks_waiting < 2:  # noqa: ASYNC110  nobody would set an event
            await asyncio.sleep(0.001)
        wait.stop()
        await asyncio.sleep(0.001)
        waiting = limiter.statistics().tasks_waiting
        limiter.release_on_behalf_of("somebody")
        await other
        return waiting

    assert asyncio.run(main()) == 1


def test_anyio_is_watched_on_a_loop_alone() -> None:
    """Where there is none, there is nothing to watch."""
    with pytest.raises(RuntimeError, match="no running event loop"):
        ThreadPoolWait(lambda seconds: None, busy=lambda: True).start()


def test_what_was_not_started_wakes_nothing() -> None:
    """And can be stopped."""
    wait = ThreadPoolWait(lambda seconds: None, busy=lambda: True)
    wait.wake()
    wait.stop()


def test_an_observer_that_raises_in_the_pool_is_off(caplog: pytest.LogCaptureFixture) -> None:
    """What is raised in the middle of the pool's work is logged all the same."""
    seen: list[float] = []

    def breaks_when_it_waited(seconds: float) -> None:
        seen.append(seconds)
        if threading.current_thread().name.startswith("ThreadPool"):
            raise ValueError("a broken observer")

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.ERROR, "hormesis.signals"):
        wait = ThreadPoolWait(breaks_when_it_waited, executor=pool, busy=lambda: True, every=0.002)
        wait.start()
        wait.wake()
        with occupied(pool, 1) as let_go:
            pool.submit(int)
            eventually(lambda: max(seen, default=0) > 0)
            let_go()
            eventually(lambda: caplog.records)
        wait.stop()
    assert [record.message for record in caplog.records] == ["the wait for a thread pool raised, and is off"]


# What a proxy says.

NOW = 1_700_000_000.5


def start(**more: Any) -> RequestStart:
    return RequestStart(None, wall=lambda: NOW, **more)


@pytest.mark.parametrize(
    ("header", "waited"),
    [
        ("t=1700000000.123", 0.377),
        ("1700000000.123", 0.377),
        ("t=1700000000123", 0.377),
        ("1700000000123", 0.377),
        ("t=1700000000123456", 0.376544),
        (b"t=1700000000.123", 0.377),
        ("  t = 1700000000.5  ", 0.0),
        ("1699999990", 10.5),
    ],
)
def test_the_moments_that_proxies_write(header: str | bytes, waited: float) -> None:
    """Seconds, milliseconds or microseconds, with or without `t=`."""
    assert start().heard(header) == pytest.approx(waited)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=",
        "t=yesterday",
        "t=-1700000000",
        "t=nan",
        "t=inf",
        "t=1e9",
        "t=1700000001",
        "t=1600000000",
        "t=0",
        "t=12345",
        "1700000000123456789",
        "t=1700000000.123, t=1700000000.200",
        "t=１７０００００００",
        "t=1" + "0" * 100_000,
        b"\xff\xfe",
    ],
)
def test_absurd_moments_say_nothing(header: str | bytes) -> None:
    """What is malformed, in the future or long ago tells of mistakes, and not of queues."""
    assert start().heard(header) is None


def test_the_bound_of_a_wait_is_a_setting() -> None:
    """What is longer is taken for a mistake."""
    assert start(longest="10s").heard("1699999990") is None
    assert start(longest="11s").heard("1699999990") == 10.5


def test_what_was_heard_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """To an observer, beyond how far apart clocks and machines are; and he is off when he raises."""
    heard: list[float] = []
    reads = RequestStart(heard.append, wall=lambda: NOW)
    assert [reads.heard(f"t={moment}") for moment in (1700000000.48, 1700000000.49, 1700000000)] == [0.02, 0.01, 0.5]
    assert heard == [0.0, 0.0, pytest.approx(0.49)]
    with caplog.at_level(logging.ERROR, "hormesis.signals"):
        reads = RequestStart(broken, wall=lambda: NOW)
        assert reads.heard("t=1700000000.4") == 0.1
        assert reads.heard("t=1700000000.4") == 0.1
    assert len(caplog.records) == 1


def test_a_wait_in_front_does_not_become_how_far_machines_are_apart() -> None:
    """However long every request has stood there, only fifty milliseconds may be of clocks."""
    heard: list[float] = []
    reads = RequestStart(heard.append, wall=lambda: NOW)
    for _ in range(30_000):
        reads.heard("t=1700000000")
    assert min(heard) == pytest.approx(0.45)


@given(st.text() | st.binary())
def test_any_header_is_read(header: str | bytes) -> None:
    """Whatever a client sends, the answer is a wait within bounds, or none."""
    waited = start().heard(header)
    assert waited is None or 0 <= waited <= 60
