"""Synchronous calls with a timeout: what happens to a thread that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextvars
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, ClassVar

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerState
from hormesis.policy import places, threads
from hormesis.policy.threads import LeftBehind, Threads

SHORT = "20ms"


def test_a_zombie_keeps_its_place(dependency: Any, held: Any, machine_of: Any, until: Any) -> None:
    """A thread that goes on after its timeout keeps its bulkhead permit until it really ends."""
    policy = hm.Policy(hm.Bulkhead(1), hm.Timeout(SHORT, threads=2))
    bulkhead, called = machine_of(policy, hm.Bulkhead), dependency(held, 3)
    with pytest.raises(hm.TimedOut):
        policy.call(called.sync)
    assert bulkhead.in_flight == 1
    with pytest.raises(hm.BulkheadFull):
        policy.call(called.sync)
    held.set_result(0)
    until(lambda: bulkhead.in_flight == 0)
    assert policy.with_parts(hm.Timeout("20s", threads=2)).call(called.sync) == 3


def test_a_zombie_is_judged_once(dependency: Any, held: Any, machine_of: Any, until: Any) -> None:
    """The breaker learns of a timeout when it happens, and nothing more when the thread ends."""
    parts = hm.CircuitBreaker(minimum_calls=2), hm.Bulkhead(1), hm.Timeout(SHORT, threads=1)
    policy = hm.Policy(*parts)
    breaker, bulkhead = machine_of(policy, hm.CircuitBreaker), machine_of(policy, hm.Bulkhead)
    with pytest.raises(hm.TimedOut):
        policy.call(dependency(held).sync)
    assert breaker.tally(0.0) == (1, 1, 0)
    held.set_exception(ZeroDivisionError())
    until(lambda: bulkhead.in_flight == 0)
    assert breaker.tally(0.0) == (1, 1, 0)
    assert breaker.state is BreakerState.CLOSED


def test_there_are_never_more_threads_than_asked_for(dependency: Any, held: Any, machine_of: Any) -> None:
    """When all threads are taken by zombies, further attempts time out without touching the function."""
    policy = hm.Policy(hm.Timeout(SHORT, threads=2), hm.Bulkhead(5), name="few")
    called = dependency(held)
    for _ in range(4):
        with pytest.raises(hm.TimedOut):
            policy.call(called.sync)
    assert called.calls == 2
    assert sum(thread.name.startswith("hormesis-few-") for thread in threading.enumerate()) <= 2
    # Those that never got a thread hold no place.
    assert machine_of(policy, hm.Bulkhead).in_flight == 2


def test_threads_are_used_again(dependency: Any) -> None:
    """One call after the other runs in one thread, which is not the caller's."""
    policy = hm.Policy(hm.Timeout("20s", threads=5), name="again")
    threads = {policy.call(threading.get_ident) for _ in range(20)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_zombie_that_ends_gives_its_thread_back(dependency: Any, held: Any, until: Any) -> None:
    """After the dependency has recovered, the pool has all its threads again."""
    policy = hm.Policy(hm.Timeout("50ms", threads=1))
    called = dependency(held)
    with pytest.raises(hm.TimedOut):
        policy.call(called.sync)
    held.set_result(3)

    def answers() -> bool:
        try:
            return bool(policy.call(called.sync) == 3)
        except hm.TimedOut:
            return False

    until(answers)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_the_function_raises_reaches_the_caller(error: type[BaseException], machine_of: Any) -> None:
    """An exception crosses from the thread to the caller as it is, even one that ends programs."""
    raised = error("here")

    def fail() -> None:
        raise raised

    policy = hm.Policy(hm.Timeout("20s", threads=1), hm.Bulkhead(1))
    with pytest.raises(error) as caught:
        policy.call(fail)
    assert caught.value is raised
    assert machine_of(policy, hm.Bulkhead).in_flight == 0


def test_waiting_for_a_busy_thread(dependency: Any, held: Any) -> None:
    """An attempt that finds all threads busy waits for one, within its time."""
    policy = hm.Policy(hm.Timeout("20s", threads=1))
    called = dependency(held, 3)
    answers: list[Any] = []
    first, second = (threading.Thread(target=lambda: answers.append(policy.call(called.sync))) for _ in range(2))
    first.start()
    called.wait_until_inside()
    second.start()
    held.set_result(2)
    first.join(20)
    second.join(20)
    assert sorted(answers) == [2, 3]


def test_cooperative_functions_run_in_the_callers_thread() -> None:
    """With `cooperative`, the function sees its time and is trusted to heed it; nobody cuts it off."""
    policy = hm.Policy(hm.Timeout("5s", cooperative=True))
    left, thread = policy.call(lambda: (hm.remaining(), threading.get_ident()))
    assert thread == threading.get_ident()
    assert left is not None
    assert 0 < left <= 5


def test_a_cooperative_function_that_heeds_its_time(machine_of: Any) -> None:
    """A function that finds its timeout over raises `TimedOut`, and the breaker counts that as a failure."""
    policy = hm.Policy(hm.Timeout("1ms", cooperative=True), hm.CircuitBreaker(), name="slow")

    def work() -> None:
        while True:
            hm.check_deadline()

    with pytest.raises(hm.TimedOut, match="'slow'"):
        policy.call(work)
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (1, 1, 0)


def test_zombies_do_not_keep_a_process_alive() -> None:
    """A program whose calls have timed out can exit."""
    script = """
import time, hormesis as hm
try:
    hm.Policy(hm.Timeout("10ms", threads=1)).call(time.sleep, 600)
except hm.TimedOut:
    print("gone")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "gone\n"


def test_an_attempt_that_got_no_thread_is_not_blamed_on_the_dependency(held: Any, machine_of: Any) -> None:
    """When all threads are busy the function is never touched, so the breaker has nothing to count."""
    policy = hm.Policy(hm.Timeout(SHORT, threads=1), hm.CircuitBreaker())
    for _ in range(2):
        with pytest.raises(hm.TimedOut):
            policy.call(held.result, 20)
    assert machine_of(policy, hm.CircuitBreaker).tally(0.0) == (1, 1, 0)
    held.set_result(0)


def test_threads_that_are_idle_end(monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    """A policy that is used no more leaves no thread behind, and one that is used again makes new ones."""
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.01)
    policy = hm.Policy(hm.Timeout("20s", threads=2), name="rare")

    def running() -> bool:
        return any(thread.name.startswith("hormesis-rare") for thread in threading.enumerate())

    for _ in range(2):
        assert policy.call(int) == 0
        until(lambda: not running())


SOON = 20.0
word: contextvars.ContextVar[str] = contextvars.ContextVar("word", default="")


class Counted:
    """A pool of threads, and what it told of its zombies."""

    def __init__(self, most: int = 1) -> None:
        self.told: list[tuple[int, bool]] = []
        self.threads = Threads("counted", most, lambda zombies, more: self.told.append((zombies, more)))


@pytest.fixture
def counted() -> type[Counted]:
    """Return the class of pools that remember what they told."""
    return Counted


def test_zombies_are_counted(counted: Any, held: Future[int], until: Any) -> None:
    """Work that is left behind counts until it has really ended, and both moments are told."""
    pool = counted(2)
    lefts = []
    for _ in range(2):
        with pytest.raises(LeftBehind) as caught:
            pool.threads.run(held.result, (SOON,), {}, 0.01)
        lefts.append(caught.value)
    assert pool.threads.zombies == 2
    assert pool.told == [(1, True), (2, True)]
    ended: list[int] = []
    for left in lefts:
        left.when_ended(lambda: ended.append(1))
    assert ended == []
    held.set_result(3)
    until(lambda: len(ended) == 2)
    assert pool.threads.zombies == 0
    assert len(pool.told) == 4
    assert sorted(pool.told[2:]) in ([(0, False), (1, False)], [(0, False), (0, False)])


def test_work_that_found_no_thread_is_no_zombie(counted: Any, held: Future[int]) -> None:
    """What never began is not counted, and what waits for its end need not wait."""
    pool = counted(1)
    for begun in (True, False):
        with pytest.raises(LeftBehind) as caught:
            pool.threads.run(held.result, (SOON,), {}, 0.01)
        assert caught.value.begun is begun
    ended: list[int] = []
    caught.value.when_ended(lambda: ended.append(1))
    assert ended == [1]
    assert pool.threads.zombies == 1


def test_without_a_limit_it_waits_for_the_end(counted: Any, held: Future[int]) -> None:
    """An infinite limit is none."""
    threading.Timer(0.02, held.set_result, (3,)).start()
    assert counted().threads.run(held.result, (), {}, math.inf) == 3
    assert asyncio.run(counted().threads.run_async(held.result, (), {}, math.inf)) == 3


def test_an_answer_at_the_last_moment(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that ends between the end of the wait and the look at it has answered."""
    pool = counted()
    pool.threads.run(int, (), {}, SOON)

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            super().wait(SOON)
            return False

    monkeypatch.setattr(threading, "Event", Late)
    assert pool.threads.run(int, ("3",), {}, SOON) == 3
    with pytest.raises(ValueError, match="invalid"):
        pool.threads.run(int, ("three",), {}, SOON)
    assert pool.told == []


def test_no_thread_is_to_be_had(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, the attempt was never made, and its place is free again."""

    class Nothing(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    pool = counted()
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Nothing)
        for _ in range(2):
            with pytest.raises(LeftBehind) as caught:
                pool.threads.run(int, (), {}, 0.01)
            assert isinstance(caught.value.error, RuntimeError)
            assert not caught.value.begun
    assert pool.threads.run(int, (), {}, SOON) == 0


def test_an_interrupt_while_a_thread_is_started(counted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that comes when the thread is there already costs neither the thread nor the place."""

    class Interrupted(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    pool = counted()
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Interrupted)
        with pytest.raises(LeftBehind) as caught:
            pool.threads.run(int, (), {}, SOON)
    assert isinstance(caught.value.error, KeyboardInterrupt)
    assert pool.threads.run(int, (), {}, SOON) == 0


class Slow(threading.Thread):
    """A thread that begins when the test says so."""

    made: ClassVar[list[Slow]] = []
    interrupted: ClassVar[bool] = False

    def start(self) -> None:
        self.made.append(self)
        if self.interrupted:
            raise KeyboardInterrupt

    def begin(self) -> None:
        super().start()


@pytest.fixture
def slow() -> Iterator[type[Slow]]:
    """Return the class of threads that begin late."""
    yield Slow
    Slow.made.clear()
    Slow.interrupted = False


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_thread_that_begins_too_late(
    counted: Any, slow: Any, monkeypatch: pytest.MonkeyPatch, until: Any, interrupted: bool
) -> None:
    """Work whose caller has gone before it began never begins, and its thread and place are free again."""
    pool, calls = counted(), list[int]()
    slow.interrupted = interrupted
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", slow)
        with pytest.raises(LeftBehind) as caught:
            pool.threads.run(calls.append, (1,), {}, 0.01)
    assert isinstance(caught.value.error, KeyboardInterrupt) == interrupted
    assert not caught.value.begun
    slow.made[0].begin()
    until(lambda: pool.threads._places.taken == 0)
    assert pool.threads.run(int, (), {}, SOON) == 0
    assert calls == []
    assert pool.told == []


def test_nothing_is_started_before_the_first_call(counted: Any) -> None:
    """A pool that nobody uses costs no thread."""
    before = threading.active_count()
    counted(100)
    assert threading.active_count() == before


# From asyncio.


def test_a_task_waits_for_a_thread_while_the_loop_goes_on(counted: Any, held: Future[int]) -> None:
    """The function runs in a copy of the task's context, in another thread, and other tasks run meanwhile."""

    async def main() -> None:
        word.set("mine")
        call = asyncio.create_task(counted().threads.run_async(look, (held,), {}, SOON))
        await asyncio.sleep(0.01)
        held.set_result(3)
        seen, thread = await call
        assert seen == "mine"
        assert thread != threading.get_ident()
        assert word.get() == "mine"

    asyncio.run(main())


def look(held: Future[int]) -> tuple[str, int]:
    held.result(SOON)
    seen = word.get()
    word.set("theirs")
    return seen, threading.get_ident()


def test_a_task_whose_time_is_over(counted: Any, held: Future[int], until: Any) -> None:
    """It goes on, and the work is left behind."""
    pool = counted()
    with pytest.raises(LeftBehind) as caught:
        asyncio.run(pool.threads.run_async(held.result, (SOON,), {}, 0.01))
    assert caught.value.error is None
    assert caught.value.begun
    assert pool.told == [(1, True)]
    held.set_result(0)
    until(lambda: pool.told == [(1, True), (0, False)])


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, TimeoutError])
def test_what_the_function_raises_reaches_the_task(counted: Any, error: type[BaseException]) -> None:
    """An exception crosses to the task as it is, also one that looks like the end of its time."""
    raised = error("here")

    def fail() -> None:
        raise raised

    async def main() -> None:
        with pytest.raises(error) as caught:
            await counted().threads.run_async(fail, (), {}, SOON)
        assert caught.value is raised

    asyncio.run(main())


def cancelled(task: Callable[[], Any], when: Callable[[], None]) -> LeftBehind:
    """Start a task, cancel it at some moment, and return what it raised."""

    async def main() -> LeftBehind:
        started = asyncio.create_task(task())
        await asyncio.sleep(0)
        await asyncio.to_thread(when)
        started.cancel()
        with pytest.raises(LeftBehind) as caught:
            await started
        assert isinstance(caught.value.error, asyncio.CancelledError)
        return caught.value

    return asyncio.run(main())


def test_a_task_that_is_cancelled_leaves_its_work_behind(counted: Any, held: Future[int], until: Any) -> None:
    """A thread can't be interrupted: it goes on, and is counted."""
    pool, inside = counted(), threading.Event()

    def work() -> None:
        inside.set()
        held.result(SOON)

    left = cancelled(lambda: pool.threads.run_async(work, (), {}, SOON), lambda: until(inside.is_set))
    assert left.begun
    ended = threading.Event()
    left.when_ended(ended.set)
    assert not ended.is_set()
    assert pool.threads.zombies == 1
    held.set_result(0)
    assert ended.wait(SOON)


def test_a_task_that_is_cancelled_while_it_waits_for_a_thread(counted: Any, held: Future[int], until: Any) -> None:
    """Its work never begins, and the thread that comes free goes to the next."""
    pool = counted()
    with pytest.raises(LeftBehind):
        pool.threads.run(held.result, (SOON,), {}, 0.01)
    calls: list[int] = []
    left = cancelled(
        lambda: pool.threads.run_async(calls.append, (1,), {}, SOON),
        lambda: until(lambda: pool.threads._places._machine.queued == 1),
    )
    assert not left.begun
    held.set_result(0)
    assert pool.threads.run(int, (), {}, SOON) == 0
    assert calls == []
    assert pool.threads.zombies == 0


def test_a_task_that_gets_no_thread_in_time(counted: Any, held: Future[int]) -> None:
    """It stops waiting, and its work never begins."""
    pool = counted()

    async def main() -> None:
        with pytest.raises(LeftBehind):
            await pool.threads.run_async(held.result, (SOON,), {}, 0.01)
        with pytest.raises(LeftBehind) as caught:
            await pool.threads.run_async(held.result, (SOON,), {}, 0.01)
        assert not caught.value.begun
        assert caught.value.error is None

    asyncio.run(main())
    held.set_result(0)


def test_tasks_and_threads_share_a_pool(counted: Any, until: Any) -> None:
    """Many callers of both kinds are all answered, by no more threads than asked for."""
    pool = counted(2)
    answers: list[int] = []
    callers = [
        threading.Thread(target=lambda: answers.append(pool.threads.run(threading.get_ident, (), {}, SOON)))
        for _ in range(20)
    ]
    for caller in callers:
        caller.start()

    async def main() -> list[int]:
        return await asyncio.gather(*(pool.threads.run_async(threading.get_ident, (), {}, SOON) for _ in range(50)))

    answers += asyncio.run(main())
    for caller in callers:
        caller.join(SOON)
    assert len(answers) == 70
    assert len(set(answers)) <= 2
    until(lambda: pool.threads._places.taken == 0)


def test_a_loop_that_is_closed_meanwhile(until: Any) -> None:
    """A thread that ends later tells nobody, and does not mind."""
    loop = asyncio.new_event_loop()
    event = asyncio.Event()
    loop.close()
    places.set_from_thread(loop, event)
    assert not event.is_set()


# Under a policy.


def test_a_bulkhead_with_threads_of_its_own(held: Future[int], heard: Any, until: Any) -> None:
    """Functions run in its threads, a timeout leaves them behind, and what is left is told and counted."""
    policy = hm.Policy(hm.Bulkhead(1, workers="threads"), hm.Timeout(SHORT), name="own", events=heard.bus)
    assert policy.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(hm.TimedOut):
        policy.call(held.result, SOON)
    with pytest.raises(hm.BulkheadFull):
        policy.call(int)
    assert policy.snapshot()["zombies"] == 1
    held.set_result(0)
    until(lambda: policy.snapshot()["zombies"] == 0)
    until(lambda: policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0)
    assert [event.zombies for event in heard.events if event.name in ("work_left_behind", "left_work_ended")] == [1, 0]


def test_a_task_calls_a_synchronous_function(held: Future[int], until: Any) -> None:
    """A bulkhead with threads protects synchronous functions for tasks too; the work outlives a cancellation."""
    inside = threading.Event()

    def work() -> None:
        inside.set()
        held.result(SOON)

    policy = hm.Policy(hm.Bulkhead(1, workers="threads"), name="tasks")

    async def main() -> None:
        assert await policy.acall(threading.get_ident) != threading.get_ident()  # type: ignore[arg-type]
        task = asyncio.create_task(policy.acall(work))  # type: ignore[arg-type]
        await asyncio.to_thread(inside.wait, SOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 1
    held.set_result(0)
    until(lambda: policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0)
