"""Worker processes, real ones: what fails in one stays there, what takes too long is killed, and nothing is left."""

from __future__ import annotations

import asyncio
import functools
import math
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.context import calling
from hormesis.errors import WorkerCrashed, WorkerError
from hormesis.outcome import FailureKind, classify
from hormesis.policy import processes
from hormesis.policy.processes import Processes, check_function
from hormesis.policy.threads import LeftBehind

FOREVER = 600.0
SOON = 20.0


@pytest.fixture(scope="module")
def lasting() -> Iterator[tuple[Processes, list[str]]]:
    """A pool of one worker for many tests, and why workers were replaced: starting one is what takes the time."""
    reasons: list[str] = []
    made = Processes("shared", 1, on_replaced=reasons.append)
    yield made, reasons
    for worker in list(made._alive):
        worker.end()


@pytest.fixture
def shared(lasting: tuple[Processes, list[str]]) -> Processes:
    """A pool of one worker that other tests use too."""
    return lasting[0]


@pytest.fixture
def warm(lasting: tuple[Processes, list[str]]) -> tuple[Processes, list[str]]:
    """The same, with its worker started and nothing replaced yet."""
    made, reasons = lasting
    made.run(int, (), {}, SOON)
    reasons.clear()
    return made, reasons


def call(pool: Processes, function: Callable[..., Any], *args: Any, limit: float = SOON, **kwargs: Any) -> Any:
    return pool.run(function, args, kwargs, limit)


# What a call is.


def test_a_function_runs_in_another_process_and_the_next_one_too(shared: Processes) -> None:
    """A worker is used again, and it is not this process."""
    pids = {call(shared, os.getpid) for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids


def test_nothing_is_started_before_the_first_call(pool: Any) -> None:
    """A pool that nobody uses costs no process and no thread."""
    before = threading.active_count()
    made, _ = pool(4)
    assert not made._alive
    assert threading.active_count() == before


def test_arguments_and_results_of_any_size(shared: Processes) -> None:
    """What is larger than any buffer goes in and comes out whole, by position and by name."""
    large = os.urandom(3_000_000)
    assert call(shared, bytes.replace, large, b"", b"", 0) == large
    assert call(shared, int, "ff", base=16) == 255
    assert call(shared, print) is None


def test_many_calls_at_once_share_the_workers(pool: Any, far_away: Any) -> None:
    """Twenty callers are all answered, and there are never more workers than asked for."""
    made, reasons = pool(3)
    with ThreadPoolExecutor(20) as callers:
        pids = list(callers.map(lambda _: call(made, far_away.pid_after, 0.01), range(20)))
    assert len(pids) == 20
    assert 1 <= len(set(pids)) <= 3
    assert made._places.taken == 0
    assert reasons == []


def test_what_else_can_be_called(shared: Processes, far_away: Any) -> None:
    """Bound methods, partial functions, classes and callable objects run there as well, if they pickle."""
    shop = far_away.Shop("tea")
    name, pid = call(shared, shop.pid)
    assert (name, pid) == ("tea", call(shared, os.getpid))
    assert call(shared, shop)[1] == call(shared, functools.partial(far_away.pid_after, 0)) == pid
    assert call(shared, dict, a=1) == {"a": 1}


def test_decorated_functions(far_away: Any) -> None:
    """A policy that stands in its function's place sends what is inside of it, and what lies around stays here."""
    word, pid = far_away.where()
    assert word == "logged"
    assert pid != os.getpid()
    assert far_away.Shop("tea").protected_pid() == ("tea", pid)


# What travels with it.


def test_the_deadline_travels(shared: Processes, far_away: Any) -> None:
    """In the worker, `remaining()` tells what the call has left, and passing it raises what it would raise here."""
    with hm.deadline("10s"):
        left, _, _ = call(shared, far_away.surroundings)
    assert 5 < left <= 10
    with hm.deadline("10ms", policy="near"), pytest.raises(hm.DeadlineExceeded, match="'near'"):
        call(shared, far_away.check_deadline)
    assert call(shared, hm.remaining) is None


def test_labels_and_the_request_id_travel(shared: Processes, far_away: Any) -> None:
    """What is known of the call is known in the worker."""
    with calling(request_id="r-1", tenant="acme"):
        _, request_id, labels = call(shared, far_away.surroundings)
    assert (request_id, labels) == ("r-1", {"tenant": "acme"})


def test_context_variables_do_not_travel_between_calls(shared: Processes, far_away: Any) -> None:
    """What one call sets, the next one in the same worker does not see."""
    assert call(shared, far_away.remember, "something") == "nothing"
    assert call(shared, far_away.remember, "something") == "nothing"


# What a call comes to, other than a result.


def test_exceptions_travel(shared: Processes) -> None:
    """The caller gets the exception, with a note of where in the worker it was raised."""
    with pytest.raises(ValueError, match="invalid literal") as caught:
        call(shared, int, "three")
    assert "raised in a worker process:\nTraceback" in caught.value.__notes__[0]


def test_exceptions_with_an_init_of_their_own_travel(shared: Processes, far_away: Any) -> None:
    """An exception that pickle could not make again has its class, its attributes and its message all the same."""
    with pytest.raises(far_away.Shortage, match="3 of tea are missing") as caught:
        call(shared, far_away.fail, far_away.Shortage, "tea", missing=3)
    assert (caught.value.sku, caught.value.missing) == ("tea", 3)
    assert "far_away.py" in caught.value.__notes__[0]
    assert "worker.py" not in caught.value.__notes__[0]


def test_exceptions_that_can_not_travel(shared: Processes, far_away: Any) -> None:
    """The caller gets a clear error with what was raised and where, and the worker lives on."""
    before = call(shared, os.getpid)
    with pytest.raises(WorkerError, match=r"(?s)far_away\.Locked: locked.*far_away\.py") as caught:
        call(shared, far_away.fail, far_away.Locked)
    assert classify(caught.value) is FailureKind.ERROR
    assert call(shared, os.getpid) == before


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exceptions_that_end_programs_travel_too(shared: Processes, far_away: Any, kind: type[BaseException]) -> None:
    """What would end the program in its own process ends it here, and not the worker."""
    before = call(shared, os.getpid)
    with pytest.raises(kind):
        call(shared, far_away.fail, kind)
    assert call(shared, os.getpid) == before


@pytest.mark.parametrize(
    ("make", "says"), [("generator", "generator"), ("lock", "lock"), ("home", "can't be loaded here.*far from home")]
)
def test_results_that_can_not_travel(shared: Processes, far_away: Any, make: str, says: str) -> None:
    """A result that can't be sent is refused by name, and nothing hangs."""
    with pytest.raises(hm.ConfigurationError, match=f"result_of can't run in a worker process: its result.*{says}"):
        call(shared, far_away.result_of, make)


def test_arguments_that_can_not_travel(shared: Processes) -> None:
    """An argument that can't be sent is refused by name, before anything is run, and is no failure of anybody's."""
    with pytest.raises(hm.ConfigurationError, match=r"len can't run .* an argument can't be sent there") as caught:
        call(shared, len, threading.Lock())
    assert classify(caught.value) is FailureKind.REJECTED


def test_arguments_that_can_not_be_loaded(shared: Processes, far_away: Any) -> None:
    """What pickles here and can't be made there is refused, with the reason."""
    with pytest.raises(hm.ConfigurationError, match=r"id can't run in a worker process: it can't be .*from home"):
        call(shared, id, far_away.HomeOnly())


def test_functions_that_no_worker_finds(shared: Processes, far_away: Any) -> None:
    """What is no module's, or stands under another name, is refused with what would do."""

    def local() -> None: ...

    for function in (lambda: 0, local, functools.partial(local), far_away.hidden.__closure__[0].cell_contents):
        with pytest.raises(hm.ConfigurationError, match="define it at module level"):
            call(shared, function)


def test_modules_that_only_this_process_has(shared: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of a module that can't be imported there is refused, with the reason."""
    module = types.ModuleType("made_here")
    exec("def function(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_here", module)
    with pytest.raises(hm.ConfigurationError, match="No module named 'made_here'"):
        call(shared, module.function)


def test_asynchronous_functions_are_refused(shared: Processes, far_away: Any) -> None:
    """A coroutine runs in no worker, whether its function says so or not."""
    with pytest.raises(hm.ConfigurationError, match="asynchronous is asynchronous"):
        call(shared, far_away.asynchronous)
    with pytest.raises(hm.ConfigurationError, match="coroutine"):
        call(shared, far_away.sync_in_name_only)


@pytest.mark.parametrize(
    "function",
    [lambda: 0, functools.partial(lambda: 0), threading.Lock().acquire],
    ids=["lambda", "partial", "method"],
)
def test_what_can_not_be_found_is_refused_when_it_is_decorated(function: Any) -> None:
    """The author hears of it when the program starts, not when the first call comes."""
    with pytest.raises(hm.ConfigurationError, match="define it at module level"):
        check_function(function)
    with pytest.raises(hm.ConfigurationError, match="define it at module level"):
        hm.Policy(hm.Bulkhead(1, workers="processes"))(function)


def test_what_can_be_found_is_not_refused(far_away: Any) -> None:
    """Functions, methods, builtins and partial functions of modules may be decorated."""
    for function in (math.sqrt, far_away.say, far_away.Shop.pid, functools.partial(far_away.say, "x")):
        check_function(function)


# Crashes.


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        (os._exit, 3, "exited with status 3"),
        (signal.raise_signal, signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.raise_signal, signal.SIGKILL, "killed by SIGKILL"),
        (signal.raise_signal, signal.SIGINT, "killed by SIGINT"),
        (signal.raise_signal, signal.SIGRTMIN + 1, f"killed by signal {signal.SIGRTMIN + 1}"),
    ],
    ids=["exit", "segfault", "kill", "interrupt", "nameless"],
)
def test_a_crash_fails_its_own_call(warm: Any, function: Any, argument: int, reason: str) -> None:
    """The call of a worker that crashes raises, says how, and counts as unavailable; the next call has another."""
    made, reasons = warm
    with pytest.raises(WorkerCrashed) as caught:
        call(made, function, argument)
    assert caught.value.reason == reason
    assert classify(caught.value) is FailureKind.UNAVAILABLE
    assert reasons == ["crash"]


def test_a_crash_leaves_the_other_calls_alone(pool: Any, far_away: Any) -> None:
    """While one worker crashes, the others go on."""
    made, _ = pool(3)
    with ThreadPoolExecutor(3) as callers:
        others = [callers.submit(call, made, far_away.pid_after, 0.3) for _ in range(2)]
        crashed = callers.submit(call, made, os._exit, 1)
        assert isinstance(crashed.exception(SOON), WorkerCrashed)
        assert len({other.result(SOON) for other in others}) == 2


def test_a_crash_is_seen_though_a_child_holds_the_channel(
    warm: Any, far_away: Any, notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that was forked from a worker, and outlives it, keeps nobody waiting."""
    monkeypatch.setattr(processes, "_LOOK_SECONDS", 0.05)
    made, _ = warm
    try:
        with pytest.raises(WorkerCrashed, match="exited with status 3"):
            call(made, far_away.leave_a_child_with_the_channel, notes.path("child"))
    finally:
        os.kill(notes.pid("child"), signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_waits(warm: Any, until: Any) -> None:
    """Nobody's call fails by that: it is replaced before it is asked."""
    made, reasons = warm
    pid = call(made, os.getpid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not made._idle[0].lives)
    assert call(made, os.getpid) != pid
    assert reasons == ["crash"]


# Time.


def test_what_takes_too_long_is_killed(warm: Any, far_away: Any, notes: Any, is_gone: Any) -> None:
    """When time is over the work is really ended, before the caller goes on."""
    made, reasons = warm
    with pytest.raises(LeftBehind) as caught:
        call(made, far_away.tell_pid_and_sleep, notes.path("worker"), FOREVER, limit=0.2)
    assert is_gone(notes.pid("worker"))
    assert caught.value.begun
    ended: list[int] = []
    caught.value.when_ended(lambda: ended.append(1))
    assert ended == [1]
    assert reasons == ["timeout"]
    assert made.zombies == made._places.taken == 0


def test_what_it_has_started_is_killed_too(warm: Any, far_away: Any, notes: Any, until: Any, is_gone: Any) -> None:
    """The children of a worker that is killed go with it."""
    made, _ = warm
    with pytest.raises(LeftBehind):
        call(made, far_away.start_a_child_and_sleep, notes.path("child"), FOREVER, limit=0.5)
    child = notes.pid("child")
    until(lambda: is_gone(child))


def test_a_worker_that_starts_slowly_is_left_to_the_next_call(pool: Any) -> None:
    """A timeout shorter than the start kills nothing: in the end there is a warm worker, and the call never began."""
    import takes_its_time

    made, reasons = pool(1)
    with pytest.raises(LeftBehind) as caught:
        call(made, takes_its_time.function, limit=0.1)
    assert not caught.value.begun
    assert call(made, takes_its_time.function) == 3
    assert reasons == []
    assert len(made._alive) == 1


def test_a_worker_that_never_starts(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting is bounded in time."""
    monkeypatch.setattr(processes, "_START_SECONDS", 0.01)
    made, reasons = pool(1)
    with pytest.raises(WorkerCrashed, match=r"was not ready within 0\.01 s"):
        call(made, int)
    assert reasons == ["start"]
    assert made._places.taken == 0


def test_a_worker_that_dies_while_it_starts(pool: Any) -> None:
    """A module that ends whoever imports it fails the call, and is not tried for ever."""
    import falls_over

    made, reasons = pool(1)
    with pytest.raises(WorkerCrashed, match="exited with status 7 before it was ready"):
        call(made, falls_over.function)
    assert reasons == ["start"]


def test_no_place_in_time(warm: Any, far_away: Any, notes: Any) -> None:
    """Who finds all workers busy waits within its time, and its work never begins."""
    made, _ = warm
    with ThreadPoolExecutor(1) as callers:
        busy = callers.submit(call, made, far_away.tell_pid_and_sleep, notes.path("worker"), 0.5)
        notes.pid("worker")
        with pytest.raises(LeftBehind) as caught:
            call(made, int, limit=0.02)
        assert not caught.value.begun
        assert call(made, int) == 0
        assert busy.result(SOON) is None


# Memory, calls, and idleness.


def test_a_call_that_wants_too_much_memory(pool: Any) -> None:
    """It gets a MemoryError, nothing else suffers, and the next call has a fresh worker."""
    made, reasons = pool(1, memory_max=128_000_000)
    pid = call(made, os.getpid)
    with pytest.raises(MemoryError) as caught:
        call(made, bytearray, 500_000_000)
    assert "worker process" in caught.value.__notes__[0]
    assert reasons == ["memory"]
    assert call(made, os.getpid) != pid


def test_arguments_that_are_too_much_for_a_worker(pool: Any) -> None:
    """What does not even fit in as an argument is a MemoryError too."""
    made, reasons = pool(1, memory_max=96_000_000)
    with pytest.raises(MemoryError):
        call(made, len, bytes(120_000_000))
    assert reasons == ["memory"]
    assert call(made, len, b"abc") == 3


def test_a_worker_that_grows_is_replaced(pool: Any, far_away: Any) -> None:
    """What a worker keeps from call to call is measured; it is replaced before a call gets too little."""
    made, reasons = pool(1, memory_max=128_000_000)
    assert [call(made, far_away.keep, 20_000_000) for _ in range(6)][:3] == [1, 2, 3]
    assert set(reasons) == {"memory"}
    # An answer is no part of what is kept.
    before = reasons.copy()
    assert len(call(made, bytes, 15_000_000)) == 15_000_000
    assert reasons == before


def test_calls_max(pool: Any) -> None:
    """A worker makes so many calls and no more."""
    made, reasons = pool(1, calls_max=2)
    pids = [call(made, os.getpid) for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert reasons == ["calls", "calls"]


def test_idle_workers_end(pool: Any, until: Any, is_gone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that have nothing to do are ended, and so is the thread that looks after them."""
    monkeypatch.setattr(processes, "_IDLE_SECONDS", 0.02)
    made, reasons = pool(1)
    for _ in range(2):
        pid = call(made, os.getpid)
        until(lambda pid=pid: is_gone(pid))
        until(lambda: not any(thread.name == f"hormesis-{made._name}-keeper" for thread in threading.enumerate()))
    assert not made._alive
    assert reasons == []


def test_no_descriptor_is_left(pool: Any) -> None:
    """Workers that come and go leave no open file behind."""
    made, _ = pool(1, calls_max=1)
    call(made, int)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        call(made, int)
    with pytest.raises(WorkerCrashed):
        call(made, os._exit, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_process_that_can_not_be_started(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system starts no process, the caller hears so, and nothing is left."""
    made, _ = pool(1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        call(made, int)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert made._places.taken == 0


def test_no_thread_for_the_keeper(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no thread, calls work, and a later one finds somebody to end idle workers."""

    class Nothing(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    made, _ = pool(1)
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Thread", Nothing)
        assert call(made, math.sqrt, 9) == 3
    assert not made._keeper
    assert call(made, math.sqrt, 9) == 3
    assert made._keeper


# Interrupts.


def interrupt_when(ready: Callable[[], object]) -> None:
    """Press Ctrl-C, for real, once something has come about."""

    def press() -> None:
        ready()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=press).start()


def test_an_interrupt_kills_the_work(warm: Any, far_away: Any, notes: Any, is_gone: Any) -> None:
    """Ctrl-C in the caller's thread ends the worker before it reaches the caller."""
    made, reasons = warm
    interrupt_when(lambda: notes.pid("worker"))
    with pytest.raises(LeftBehind) as caught:
        call(made, far_away.tell_pid_and_sleep, notes.path("worker"), FOREVER, limit=math.inf)
    assert isinstance(caught.value.error, KeyboardInterrupt)
    assert is_gone(notes.pid("worker"))
    assert reasons == ["interrupted"]


def test_an_interrupt_while_a_worker_starts(pool: Any, until: Any) -> None:
    """The worker is left to the next call."""
    import takes_its_time

    made, reasons = pool(1)
    interrupt_when(lambda: until(lambda: made._alive))
    with pytest.raises(LeftBehind) as caught:
        call(made, takes_its_time.function)
    assert isinstance(caught.value.error, KeyboardInterrupt)
    assert not caught.value.begun
    assert call(made, takes_its_time.function) == 3
    assert reasons == []


# The program's own script.


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (None, "an interactive session"),
        ("<stdin>", "an interactive session"),
        ("def f(): pass\nf()\n", "all of which a worker would have to run again"),
        ("no python", "all of which a worker would have to run again"),
        ("def f(): pass\nif __name__ == '__main__':\n    f()\n", None),
    ],
    ids=["nothing", "stdin", "no guard", "no python", "guard"],
)
def test_functions_of_the_script(
    shared: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, problem: str | None
) -> None:
    """Those of a guarded one may run in workers; others are refused when decorated and when called."""
    main = types.ModuleType("__main__")
    exec("def f(): return 3", main.__dict__)
    if script is not None:
        path = tmp_path / "shop.py"
        if script != "<stdin>":
            path.write_text(script)
        main.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "__main__", main)
    if problem is None:
        check_function(main.f)
        assert processes._reference(main.f) == ("__main__", "f", 0)
        return
    for refuses in (check_function, lambda function: call(shared, function)):
        with pytest.raises(hm.ConfigurationError, match=f"f can't run in a worker process.*{problem}"):
            refuses(main.f)


# From asyncio.


def test_the_loop_goes_on_meanwhile(pool: Any, far_away: Any) -> None:
    """Calls from tasks run at the same time, and the loop runs too."""

    async def main() -> int:
        made, _ = pool(3)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.005)
                ticks += 1

        ticking = asyncio.create_task(tick())
        calls = (made.run_async(far_away.pid_after, (0.2,), {}, SOON) for _ in range(3))
        assert len(set(await asyncio.gather(*calls))) == 3
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) > 5


def test_a_task_that_is_cancelled_ends_the_work(warm: Any, far_away: Any, notes: Any, until: Any, is_gone: Any) -> None:
    """The worker is killed, and what waits for the end of the work hears of it."""
    made, reasons = warm

    async def main() -> LeftBehind:
        sleep = (notes.path("worker"), FOREVER)
        task = asyncio.create_task(made.run_async(far_away.tell_pid_and_sleep, sleep, {}, math.inf))
        await asyncio.to_thread(notes.pid, "worker")
        task.cancel()
        with pytest.raises(LeftBehind) as caught:
            await task
        return caught.value

    left = asyncio.run(main())
    assert isinstance(left.error, asyncio.CancelledError)
    ended = threading.Event()
    left.when_ended(ended.set)
    assert ended.wait(SOON)
    assert is_gone(notes.pid("worker"))
    assert reasons == ["cancelled"]
    until(lambda: made._places.taken == 0)
    assert call(made, math.sqrt, 9) == 3


def test_a_task_that_is_cancelled_while_its_worker_starts(pool: Any, until: Any) -> None:
    """The worker is left to the next call, and the function is never called."""
    import takes_its_time

    made, reasons = pool(1)

    async def main() -> None:
        task = asyncio.create_task(made.run_async(takes_its_time.function, (), {}, math.inf))
        await asyncio.to_thread(until, lambda: made._alive)
        task.cancel()
        with pytest.raises(LeftBehind):
            await task

    asyncio.run(main())
    assert call(made, takes_its_time.function) == 3
    assert reasons == []
    assert len(made._alive) == 1


def test_time_is_over_for_a_task(warm: Any, far_away: Any, notes: Any, is_gone: Any) -> None:
    """From a task, too, what takes too long is killed."""
    made, reasons = warm
    with pytest.raises(LeftBehind) as caught:
        asyncio.run(made.run_async(far_away.tell_pid_and_sleep, (notes.path("worker"), FOREVER), {}, 0.2))
    assert caught.value.error is None
    assert is_gone(notes.pid("worker"))
    assert reasons == ["timeout"]


def test_what_a_function_raises_reaches_a_task(shared: Processes) -> None:
    """An exception reaches the task that asked."""
    with pytest.raises(ValueError, match="invalid literal"):
        asyncio.run(shared.run_async(int, ("three",), {}, SOON))


# Under a policy.


def test_a_policy_with_processes(far_away: Any, notes: Any, is_gone: Any) -> None:
    """Timeouts, crashes and answers are what they are in threads, and places are free again at once."""
    policy = hm.Policy(
        hm.Bulkhead(1, workers="processes"),
        hm.Timeout("400ms"),
        hm.CircuitBreaker(minimum_calls=100),
        name="policy",
    )
    while True:
        try:
            assert policy.call(math.sqrt, 9) == 3
            break
        except hm.TimedOut:  # the worker starts
            assert policy.snapshot()["parts"]["circuit_breaker"]["failures"] == 0
    with pytest.raises(hm.TimedOut):
        policy.call(far_away.tell_pid_and_sleep, notes.path("worker"), FOREVER)
    assert is_gone(notes.pid("worker"))
    parts = policy.snapshot()["parts"]
    assert parts["circuit_breaker"]["failures"] == 1
    assert parts["bulkhead"]["in_flight"] == 0


def test_a_crash_is_repeated_where_that_is_asked_for() -> None:
    """A crash is transient: a retry has another worker."""
    policy = hm.Policy(hm.Bulkhead(1, workers="processes"), hm.Retry(on="transient", delay=0, attempts=2))
    with pytest.raises(WorkerCrashed) as caught:
        policy.call(os._exit, 3)
    assert "gave up after attempt 2" in caught.value.__notes__[-1]


def test_a_synchronous_function_from_a_task() -> None:
    """A task calls a synchronous function in a worker; without workers it would block the loop, and is refused."""

    async def main() -> float:
        return await hm.Policy(hm.Bulkhead(1, workers="threads")).acall_in_worker(math.sqrt, 9.0)

    assert asyncio.run(main()) == 3.0
    with pytest.raises(hm.ConfigurationError, match="would block the event loop"):
        asyncio.run(hm.Policy(name="plain").acall_in_worker(math.sqrt, 9.0))
    with pytest.raises(hm.ConfigurationError, match="needs no worker"):
        asyncio.run(hm.Policy(hm.Bulkhead(1, workers="threads")).acall_in_worker(main))
