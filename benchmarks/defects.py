"""Defects of shipped libraries, shown: what happens when each of them, and Hormesis, is put into the same situation.

Every demonstration takes less than two seconds, uses public interfaces, and prints what was observed. A library that is
not installed, or that can't be put into the situation, is named with the reason.

    python benchmarks/defects.py [--json FILE]
"""

# ruff: noqa: PLC0415  nothing is imported before it is asked for, so that a missing library costs the others nothing

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import datetime
import functools
import importlib
import json
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hormesis as hm

_OPEN_FOR = 0.05
"""Seconds that a breaker stays open in these demonstrations."""

_TASK = 0.05
"""Seconds that a call takes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What was observed, and whether it is right."""

    words: str
    right: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Defect:
    """A situation, what should happen, and the libraries to put into it."""

    title: str
    should: str
    who: dict[str, Callable[[], Seen]]


async def fail() -> None:
    """A dependency that is down."""
    raise ConnectionError


async def dispatch(dependency: Callable[[], Awaitable[None]]) -> None:
    """The one function that is protected: some libraries keep a breaker for each function."""
    await dependency()


# Breakers for asynchronous functions that open at the first failure, or after so many.


def _hormesis(failures: int = 1) -> Any:
    return hm.Policy(hm.CircuitBreaker(consecutive=failures, probes=1, open_for=_OPEN_FOR), name="demonstration")


def _circuitbreaker(failures: int = 1) -> Any:
    import circuitbreaker

    return circuitbreaker.CircuitBreaker(failure_threshold=failures, recovery_timeout=_OPEN_FOR)


def _aiobreaker(failures: int = 1) -> Any:
    import aiobreaker

    return aiobreaker.CircuitBreaker(fail_max=failures, timeout_duration=datetime.timedelta(seconds=_OPEN_FOR))


def _purgatory(failures: int = 1) -> Any:
    import purgatory

    return purgatory.AsyncCircuitBreakerFactory(default_threshold=failures, default_ttl=_OPEN_FOR)("demonstration")


def _hyx(failures: int = 1) -> Any:
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker(failure_threshold=failures, recovery_time_secs=_OPEN_FOR, recovery_threshold=1)


def _pyresilience(failures: int = 1) -> Any:
    from pyresilience import CircuitBreakerConfig, resilient

    return resilient(
        circuit_breaker=CircuitBreakerConfig(
            failure_threshold=failures, recovery_timeout=_OPEN_FOR, success_threshold=1
        )
    )


BREAKERS: dict[str, Callable[..., Any]] = {
    "hormesis": _hormesis,
    "circuitbreaker": _circuitbreaker,
    "aiobreaker": _aiobreaker,
    "purgatory": _purgatory,
    "hyx": _hyx,
    "pyresilience": _pyresilience,
}


def each_breaker(show: Callable[[Callable[..., Any]], Awaitable[Seen]]) -> dict[str, Callable[[], Seen]]:
    """Put each of the breakers into a situation, on a loop of its own."""
    return {name: functools.partial(_run, show, make) for name, make in BREAKERS.items()}


def _run(show: Callable[[Callable[..., Any]], Awaitable[Seen]], make: Callable[..., Any]) -> Seen:
    return asyncio.run(_shown(show, make))


async def _shown(show: Callable[[Callable[..., Any]], Awaitable[Seen]], make: Callable[..., Any]) -> Seen:
    return await show(make)


async def is_open(protected: Any) -> bool:
    """Whether a breaker refuses a call that would succeed."""
    reached = False

    async def reach() -> None:
        nonlocal reached
        reached = True

    with contextlib.suppress(Exception):
        await protected(reach)
    return not reached


async def open_it(protected: Any, failures: int = 1) -> None:
    """Let a breaker see so many failures, and make sure that it opens: else it was not in the situation."""
    for _ in range(failures):
        with contextlib.suppress(Exception):
            await protected(fail)
    if not await is_open(protected):
        raise RuntimeError("its breaker did not open")


# 3. A stampede while half-open.


async def stampede(make: Callable[..., Any]) -> Seen:
    """Ten callers at once meet a breaker whose open time is over."""
    protected, inside, most = make()(dispatch), 0, 0

    async def slow() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(_TASK)
        inside -= 1

    await open_it(protected)
    await asyncio.sleep(_OPEN_FOR * 2)
    await asyncio.gather(*(protected(slow) for _ in range(10)), return_exceptions=True)
    return Seen(f"{most} of 10 callers reached the dependency", most == 1)


# 4. A lock across the user's call.


def _serialised(protect: Callable[[Callable[[], None]], Callable[[], None]]) -> Seen:
    call = protect(lambda: time.sleep(_TASK))
    threads = [threading.Thread(target=call) for _ in range(10)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    return Seen(f"10 threads, {_TASK * 1e3:.0f} ms each: {took * 1e3:.0f} ms", took < 5 * _TASK)


def _serialised_pybreaker() -> Seen:
    import pybreaker

    return _serialised(pybreaker.CircuitBreaker())


# 8. Zombie work.


def _zombies(protect: Callable[[Callable[[], None]], Any]) -> Seen:
    running = most = 0
    lock, done = threading.Lock(), threading.Event()

    def slow() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        done.wait(1)
        with lock:
            running -= 1

    call = protect(slow)
    for _ in range(5):
        with contextlib.suppress(Exception):
            call()
    done.set()
    return Seen(f"{most} at once behind a bulkhead of 2, after 5 expired calls", most <= 2)


def _zombies_hormesis() -> Seen:
    return _zombies(hm.Policy(hm.Bulkhead(2, max_queued=0), hm.Timeout("20ms", threads=8), name="demonstration"))


def _zombies_pyresilience() -> Seen:
    from pyresilience import BulkheadConfig, TimeoutConfig, resilient

    return _zombies(
        resilient(bulkhead=BulkheadConfig(max_concurrent=2), timeout=TimeoutConfig(seconds=0.02, pool_size=8))
    )


# 9. Cancellation counted as failure, and a clock that people can set.


async def cancelled(make: Callable[..., Any]) -> Seen:
    """Five callers go away; the dependency has failed nobody."""
    protected = make(3)(dispatch)

    async def slow() -> None:
        await asyncio.sleep(1)

    for _ in range(5):
        task = asyncio.ensure_future(protected(slow))
        await asyncio.sleep(0.001)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
    refuses = await is_open(protected)
    if not refuses:
        await open_it(protected, 3)
    return Seen("opened, though nothing failed" if refuses else "stayed closed", not refuses)


async def wall_clock(make: Callable[..., Any]) -> Seen:
    """While the breaker is open somebody sets the clock of the machine back by an hour."""
    protected = make()(dispatch)
    await open_it(protected)
    with clock_set_back():
        await asyncio.sleep(_OPEN_FOR * 2)
        stuck = await is_open(protected)
    return Seen("stays open for an hour" if stuck else "is tried again in time", not stuck)


def _wall_clock_pybreaker() -> Seen:
    import pybreaker

    breaker = pybreaker.CircuitBreaker(fail_max=1, reset_timeout=_OPEN_FOR)
    with contextlib.suppress(Exception):
        breaker.call(lambda: 1 // 0)
    with clock_set_back():
        time.sleep(_OPEN_FOR * 2)
        try:
            breaker.call(int)
        except pybreaker.CircuitBreakerError:
            return Seen("stays open for an hour", False)
    return Seen("is tried again in time", True)


@contextlib.contextmanager
def clock_set_back() -> Iterator[None]:
    """Let `time.time` and `datetime.datetime` show an hour earlier, wherever a library looks at them."""
    hour = datetime.timedelta(hours=1)

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) - hour

        @classmethod
        def utcnow(cls) -> Any:
            return datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - hour

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("time.time", return_value=time.time() - hour.total_seconds()))
        for name in ("aiobreaker.state", "hyx.circuitbreaker.states", "pybreaker"):
            with contextlib.suppress(ImportError):
                stack.enter_context(mock.patch.object(importlib.import_module(name), "datetime", Earlier))
        yield


# 10. State of one use, kept on an object that is shared.


async def _shared(within: Callable[[], Awaitable[object]]) -> Seen:
    ended = await asyncio.gather(*(asyncio.wait_for(within(), 1) for _ in range(3)), return_exceptions=True)
    cut = sum(isinstance(each, Exception) for each in ended)
    return Seen(f"{cut} of 3 tasks were timed out", cut == 3)


async def _shared_hormesis() -> Seen:
    policy = hm.Policy(hm.Timeout("30ms"), name="demonstration")
    return await _shared(lambda: policy.acall(asyncio.sleep, 0.2))


async def _shared_hyx() -> Seen:
    from hyx.timeout import timeout

    shared = timeout(0.03)

    async def within() -> None:
        async with shared:
            await asyncio.sleep(0.2)

    return await _shared(within)


# 11. A decorator that accepts what it can't protect.


async def accepts_async(make: Callable[..., Any]) -> Seen:
    """A decorator meets an `async def` that fails five times."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of coroutines that nobody awaited
        try:
            protected = make()(fail)
        except Exception as error:
            return Seen(f"refused: {type(error).__name__}", True)
        reached = 0
        for _ in range(5):
            try:
                await protected()
            except ConnectionError:
                reached += 1
            except Exception:
                break
    return Seen(f"let {reached} of 5 failures through with 1 allowed", reached == 1)


def _pybreaker() -> Any:
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=1, throw_new_error_on_trip=False)


def _purgatory_sync() -> Any:
    import purgatory

    return purgatory.SyncCircuitBreakerFactory(default_threshold=1)("demonstration")


DEFECTS = [
    Defect("3 half-open stampede", "1 probe is let through", each_breaker(stampede)),
    Defect(
        "4 a lock across the user's call",
        "about as long as one call",
        {
            "hormesis": lambda: _serialised(hm.Policy(hm.CircuitBreaker(), name="demonstration")),
            "pybreaker": _serialised_pybreaker,
        },
    ),
    Defect(
        "8 zombies don't count",
        "a permit is taken until the work has really ended",
        {"hormesis": _zombies_hormesis, "pyresilience": _zombies_pyresilience},
    ),
    Defect("9 cancelled counts as failed", "stays closed", each_breaker(cancelled)),
    Defect(
        "9 the wall clock",
        "is tried again in time",
        each_breaker(wall_clock) | {"pybreaker": _wall_clock_pybreaker},
    ),
    Defect(
        "10 state of one use on a shared object",
        "3 of 3 tasks are timed out",
        {"hormesis": lambda: asyncio.run(_shared_hormesis()), "hyx": lambda: asyncio.run(_shared_hyx())},
    ),
    Defect(
        "11 accepts an async def that it can't protect",
        "opens after 1 failure, or refuses to decorate",
        {
            "hormesis": functools.partial(_run, accepts_async, _hormesis),
            "pybreaker": functools.partial(_run, accepts_async, _pybreaker),
            "purgatory (sync factory)": functools.partial(_run, accepts_async, _purgatory_sync),
        },
    ),
]


def main() -> None:
    """Show them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was seen there as well")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    for defect in DEFECTS:
        print(f"\n{defect.title} (should be: {defect.should})")
        for who, show in defect.who.items():
            try:
                seen = show()
            except Exception as error:
                print(f"    {who:<26}not shown: {type(error).__name__}: {error}")
                found.append({"defect": defect.title, "who": who, "not shown": repr(error)})
            else:
                print(f"    {who:<26}{'' if seen.right else '✗ ':<3}{seen.words}")
                found.append({"defect": defect.title, "who": who, "seen": seen.words, "right": seen.right})
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
