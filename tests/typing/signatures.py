"""Only type-checked, never run: what users' type checkers must see.

`make types` checks it with mypy (strict) and basedpyright. A `type: ignore` here is a promise too: both report one that
is not needed, so each of those lines must be an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

import hormesis as hm
from hormesis.clock import Clock, Random
from hormesis.core.admission import Admission, Lock, NullLock, Queueing
from hormesis.core.breaker import BreakerMachine
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.window import CountWindow, TimeWindow, Window
from hormesis.patterns.part import AdmissionPart, Part
from hormesis.testing import ManualClock, VirtualClock, run_virtual

policy = hm.Policy(
    hm.Fallback(value=0),
    hm.Deadline("2s"),
    hm.Retry(attempts=3, on="transient"),
    hm.CircuitBreaker(failure_rate=0.5, slow_after="300ms", slow_rate=0.8),
    hm.Bulkhead(20, max_queued=40),
    hm.Timeout("500ms", threads=4),
    name="inventory",
)


@policy
def stock(sku: str, *, reserved: int = 0) -> int:
    """Keep its signature."""
    return len(sku) - reserved


@policy
async def stock_async(sku: str, *, reserved: int = 0) -> int:
    """Keep its signature and its colour."""
    return len(sku) - reserved


class Shop:
    """Methods keep theirs."""

    @policy
    def stock(self, sku: str) -> int:
        """Take self."""
        return len(sku)

    @policy
    async def stock_async(self, sku: str) -> int:
        """Take self, too."""
        return len(sku)


def calls() -> None:
    """Decorated functions, and explicit calls, in the synchronous colour."""
    assert_type(stock("tea", reserved=1), int)
    assert_type(Shop().stock("tea"), int)
    assert_type(policy.call(stock, "tea", reserved=1), int)
    assert_type(policy.call(len, "tea"), int)
    plain: Callable[[str], int] = Shop().stock
    plain("tea")
    stock(3)  # type: ignore[arg-type]
    stock("tea", taken=1)  # type: ignore[call-arg]
    policy.call(stock, 3)  # type: ignore[arg-type]
    policy.call(stock)  # type: ignore[call-arg]
    policy(3)  # type: ignore[type-var]


async def calls_async() -> None:
    """The same in the asynchronous colour."""
    assert_type(await stock_async("tea", reserved=1), int)
    assert_type(await Shop().stock_async("tea"), int)
    assert_type(await policy.acall(stock_async, "tea", reserved=1), int)
    waiting: Awaitable[int] = stock_async("tea")
    await waiting
    await policy.acall(stock, "tea")  # type: ignore[arg-type]
    await policy.acall(stock_async, 3)  # type: ignore[arg-type]


def parts() -> None:
    """Settings are parts, parts are found by class, and what is no part is no argument."""
    assert_type(policy.part(hm.Retry), hm.Retry | None)
    assert_type(policy.parts, tuple[Part, ...])
    assert_type(policy.with_parts(hm.Timeout(1)), hm.Policy)
    assert_type(policy.explain(), str)
    hm.Policy(3)  # type: ignore[arg-type]
    hm.Policy(order="mine")  # type: ignore[arg-type]
    hm.Retry()  # type: ignore[call-arg]
    hm.Retry(on="any", jitter="some")  # type: ignore[arg-type]
    hm.Retry(on=("transient", KeyError))
    hm.Retry(on=lambda error: "busy" in str(error))


def heard(event: hm.Event) -> None:
    """Take an event."""
    assert_type(event.as_dict(), dict[str, object])


def surroundings(path: str) -> None:
    """Files, contexts, events and failures."""
    policies = hm.load(path)
    assert_type(policies["inventory"], hm.Policy)
    assert_type(hm.remaining(), float | None)
    with hm.deadline("2s"), hm.serving({"grpc-timeout": "1S"}), hm.calling(host="eu", repeatable=False) as facts:
        assert_type(facts.repeatable, bool)
    with hm.answers() as seen:
        assert_type(seen.degraded, bool)
    stop = hm.listen(heard)
    assert_type(stop(), None)
    assert_type(hm.classify(TimeoutError()), hm.FailureKind)
    hm.register_failures({"psycopg.OperationalError": hm.FailureKind.UNAVAILABLE})


async def open_calls(policy: hm.Policy) -> None:
    """Calls that stay open, and blocks."""
    assert_type(policy.open(int, "3"), hm.Opened[int])
    async with await policy.aopen(stock_async, "tea") as opened:
        assert_type(opened.value, int)
    for attempt in policy.attempts():
        with attempt as entered:
            assert_type(entered.number, int)
    async for attempt in policy.attempts():
        async with attempt:
            pass
    assert_type(policy.snapshot(), dict[str, Any])
    assert_type(policy.breaker().state, str)


def virtual_time() -> None:
    """What users' own tests are made of."""
    assert_type(run_virtual(stock_async("tea")), int)
    clocks: list[Clock] = [ManualClock(), VirtualClock()]
    hm.Policy(clock=clocks[0])


def protocols(random: Random, lock: Lock, machine: BreakerMachine, bulkhead: BulkheadMachine) -> tuple[object, ...]:
    """The machines and settings are what the protocols ask for."""
    hm.Policy(random=random)
    admissions: list[Admission] = [machine, bulkhead]
    queueing: Queueing = bulkhead
    windows: list[Window] = [CountWindow(10), TimeWindow(10.0)]
    locks: list[Lock] = [NullLock(), lock]
    admission_parts: list[AdmissionPart] = [hm.CircuitBreaker(), hm.Bulkhead(1)]
    return admissions, queueing, windows, locks, admission_parts
