"""Promises of single parts that only break when parts meet: what a policy shares, keeps, frees and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hormesis as hm
from hormesis.events import EventBus
from hormesis.policy.explain import worst_case
from hormesis.testing import ManualClock, Scripted, VirtualClock, hear, run_virtual


def refuses(error: BaseException) -> bool:
    """A predicate with a mistake in it."""
    raise LookupError("a mistake")


class Lazy(Exception):
    """An exception of a library that raises where one looks, as those of HTTP clients do."""

    @property
    def response(self) -> object:
        raise RuntimeError("the response has not been set")


class Unclassified(Exception):
    """An exception whose kind can't be told, since the function that should tell it fails."""


hm.register_failures({f"{Unclassified.__module__}.{Unclassified.__qualname__}": lambda error: error.missing})


def test_functions_under_one_policy_do_not_share_answers(caller: Any) -> None:
    """A cache keeps what a function answered for that function, also when another has equal arguments."""
    policy = hm.Policy(hm.Fallback(cache=hm.StaleCache()))
    prices, stock = Scripted("a price"), Scripted("a number")
    for _ in range(2):
        assert caller.call(policy, prices, "tea") == "a price"
        assert caller.call(policy, stock, "tea") == "a number"
    assert (prices.calls, stock.calls) == (1, 1)


@pytest.mark.parametrize(
    ("parts", "raised"),
    [
        ((hm.CircuitBreaker(on=refuses),), ConnectionResetError),
        ((hm.CircuitBreaker(ignore=refuses),), ConnectionResetError),
        ((), Lazy),
        ((hm.CircuitBreaker(),), Unclassified),
        ((hm.Retry(on=refuses),), ConnectionResetError),
        ((hm.Fallback(value=0, on=refuses),), ConnectionResetError),
    ],
    ids=["on", "ignore", "response", "kind", "retry", "fallback"],
)
def test_a_mistake_in_a_predicate_costs_no_place(caller: Any, parts: tuple[Any, ...], raised: Any) -> None:
    """Whatever an author's function raises, the place of the attempt is free again."""
    policy = hm.Policy(*parts, hm.Bulkhead(1))
    with contextlib.suppress(Exception):
        caller.call(policy, Scripted(raised))
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


@pytest.mark.parametrize(
    "part", [hm.CircuitBreaker(on=refuses), hm.CircuitBreaker(on_result=refuses)], ids=["on", "result"]
)
def test_a_mistake_in_a_predicate_costs_a_shadow_no_place(caller: Any, part: Any) -> None:
    """Also a policy that only watches gives its permits back, whatever an author's function raises."""
    policy = hm.Policy(part, hm.Bulkhead(1), shadow=True)
    for step in (ConnectionResetError, 3):
        with contextlib.suppress(Exception):
            caller.call(policy, Scripted(step))
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


def test_a_mistake_further_in_costs_no_place() -> None:
    """In layers, the outer permits of an open call end also where a part of the inner layer raises."""
    policy = hm.Policy(
        hm.CircuitBreaker(), hm.Bulkhead(1), hm.CircuitBreaker(on=refuses), hm.Bulkhead(1), order="as given"
    )
    with pytest.raises(LookupError), policy.open(iter, []):
        raise ConnectionResetError
    states = policy.snapshot()["parts"]
    assert [state["in_flight"] for key, state in states.items() if "bulkhead" in key] == [0, 0]


def test_a_shadow_with_workers_blocks_no_loop() -> None:
    """A synchronous function runs in a worker all the same, since its caller's loop must go on."""
    policy = hm.Policy(hm.Bulkhead(1, workers="threads"), shadow=True)
    assert asyncio.run(policy.acall_in_worker(threading.get_ident)) != threading.get_ident()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_block_under_a_shadow_is_left_alone(*, asynchronous: bool) -> None:
    """A shadow refuses, repeats and cuts off no block, as it does no function."""
    policy = hm.Policy(hm.CircuitBreaker(), hm.Retry(on="any", delay=0), shadow=True, events=EventBus())
    policy.breaker().isolate()
    runs: list[int] = []

    async def blocks() -> None:
        async for attempt in policy.attempts():
            async with attempt:
                runs.append(attempt.number)
                raise ConnectionResetError

    def blocks_of_a_thread() -> None:
        for attempt in policy.attempts():
            with attempt:
                runs.append(attempt.number)
                raise ConnectionResetError

    with hear(policy) as heard, pytest.raises(ConnectionResetError):
        asyncio.run(blocks()) if asynchronous else blocks_of_a_thread()
    assert runs == [1]
    heard.assert_happened("call_rejected", shadow=True)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_call_that_is_opened_anew_closes_what_was_opened_before(*, asynchronous: bool) -> None:
    """In layers: when an outer retry does not want what was opened, the inner layer's places are free again."""
    policy = hm.Policy(
        hm.Retry(on="any", on_result=lambda result: result is None, delay=0),
        hm.Timeout("1m", cooperative=True),
        hm.Bulkhead(2),
        order="as given",
    )
    script = Scripted(None, 3)

    async def opened() -> Any:
        async with await policy.aopen(script.acall) as stream:
            return stream.value

    if asynchronous:
        assert asyncio.run(opened()) == 3
    else:
        with policy.open(script.call) as stream:
            assert stream.value == 3
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
@pytest.mark.parametrize("part", [hm.Retry(on="any"), hm.CircuitBreaker(), hm.Bulkhead(1)], ids=lambda p: p.slot.key)
def test_the_callers_deadline_is_heeded(part: Any, *, watched: bool) -> None:
    """It bounds a call under a policy that sets no time itself, whoever listens."""
    clock = VirtualClock()
    policy = hm.Policy(part, clock=clock, events=EventBus())
    if watched:
        policy.events.listen(lambda event: None, calls=True)
    passed = Scripted(3)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        with hm.deadline(1, clock=clock), pytest.raises(hm.DeadlineExceeded):
            await policy.acall(asyncio.sleep, 60)
        took = loop.time()
        with hm.deadline(0, clock=clock):
            with pytest.raises(hm.DeadlineExceeded):
                await policy.acall(passed.acall)
            with pytest.raises(hm.DeadlineExceeded):
                policy.call(passed.call)
        return took

    assert run_virtual(main()) == 1.0
    assert passed.calls == 0


@pytest.fixture
def hung() -> Iterator[Scripted]:
    """A function that stays inside until the end of the test."""
    script = Scripted(Scripted.forever)
    yield script
    script.release()


@pytest.mark.parametrize(
    "parts",
    [(hm.Timeout("10ms", threads=1),), (hm.Timeout("10ms"), hm.Bulkhead(1, workers="threads"))],
    ids=["timeout", "bulkhead"],
)
def test_other_settings_forget_no_thread(parts: tuple[Any, ...], hung: Scripted) -> None:
    """A reload of whatever part keeps the threads: those that are left behind are counted, and bounded, as before."""
    policy = hm.Policy(*parts)
    with pytest.raises(hm.TimedOut):
        policy.call(hung.call)
    for _ in range(3):
        policy.reconfigure(hm.Retry(on="any", attempts=2))
        with pytest.raises((hm.TimedOut, hm.BulkheadFull)):
            policy.call(hung.call)
    assert policy.snapshot()["zombies"] == hung.inside == 1


def test_other_settings_forget_no_answer(caller: Any) -> None:
    """A cache that gets other settings keeps its answers, as far as these let it."""
    clock = ManualClock()
    policy, script = hm.Policy(hm.Fallback(cache=hm.StaleCache(fresh=30)), clock=clock), Scripted("old", "new")
    assert caller.call(policy, script) == "old"
    policy.reconfigure(hm.Fallback(cache=hm.StaleCache(fresh=60)))
    clock.advance(45)
    assert caller.call(policy, script) == "old"


def test_other_settings_forget_no_latency() -> None:
    """A hedge that gets other settings knows the latencies and the budget that it knew."""
    policy = hm.Policy(hm.Hedge())
    for _ in range(30):
        asyncio.run(policy.acall(asyncio.sleep, 0))
    before = policy.snapshot()["parts"]["hedge"]
    policy.reconfigure(hm.Hedge(max_hedges=2))
    assert policy.snapshot()["parts"]["hedge"] == before


def throttled() -> Any:
    """A result of a server that wants to be asked again in a minute."""
    raise hm.UnwantedResult(429, hm.FailureKind.THROTTLED, retry_after=60)


async def instead(*_: object) -> int:
    """A fallback that takes its time."""
    await asyncio.sleep(100)
    return 0


@pytest.mark.parametrize(
    "parts",
    [(hm.Timeout(1), hm.Retry(on="transient")), (hm.Timeout(1), hm.Fallback(instead))],
    ids=["retry-after", "fallback"],
)
def test_the_worst_case_is_the_worst(parts: tuple[Any, ...]) -> None:
    """What `explain()` says a call costs at the most holds, whatever a server asks for and a fallback takes."""
    policy = hm.Policy(*parts, clock=VirtualClock())
    script = Scripted(throttled)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        await policy.acall(script.acall)
        return loop.time()

    cost = worst_case(policy.layers)
    assert run_virtual(main()) <= cost.seconds + cost.asked


async def _asynchronous(*_: object) -> bool:
    return False


asynchronous: Any = _asynchronous
"""What no part can ask."""


PREDICATES: list[Any] = [
    lambda: hm.Retry(on=asynchronous),
    lambda: hm.Retry(on="any", on_result=asynchronous),
    lambda: hm.CircuitBreaker(on=asynchronous),
    lambda: hm.CircuitBreaker(ignore=asynchronous),
    lambda: hm.CircuitBreaker(on_result=asynchronous),
    lambda: hm.Fallback(value=0, on=asynchronous),
    lambda: hm.Fallback(value=0, on_result=asynchronous),
    lambda: hm.StaleCache(key=asynchronous),
]


@pytest.mark.parametrize("make", PREDICATES)
def test_an_asynchronous_predicate_is_refused(make: Callable[[], Any]) -> None:
    """A coroutine is true, whatever it would have said: what can't be asked is refused when it is made."""
    with pytest.raises(hm.ConfigurationError):
        make()


HUGE = 10**400
HUGE_SETTINGS: dict[str, Callable[[], Any]] = {
    "Timeout": lambda: hm.Timeout(HUGE),
    "Deadline": lambda: hm.Deadline(HUGE),
    "Retry": lambda: hm.Retry(on="any", delay=HUGE),
    "Expected": lambda: hm.Expected(rate=HUGE, latency=1),
    "memory_max": lambda: hm.Bulkhead(1, workers="processes", memory_max=HUGE),
    "years": lambda: hm.Bulkhead(1, max_queued=1, max_wait="99999999d"),
    "back-off of years": lambda: hm.Retry(on="any", delay="99999999d", delay_max="99999999d"),
    "hedge after years": lambda: hm.Hedge("99999999d", threads=2),
}


@pytest.mark.parametrize("make", HUGE_SETTINGS.values(), ids=HUGE_SETTINGS)
def test_a_number_beyond_all_bounds_is_refused(make: Callable[[], Any]) -> None:
    """A duration that no clock of the system can wait for is a mistake, and is told when it is made."""
    with pytest.raises(hm.ConfigurationError):
        make()


@pytest.mark.parametrize(
    "settings", [{"calls": 3}, {"calls": ["inner"]}, {"expects": 3}], ids=["no list", "no policy", "no traffic"]
)
def test_what_a_policy_is_told_beside_its_parts_is_checked(settings: dict[str, Any]) -> None:
    """What can't be meant is refused when it is made, and not when somebody asks to explain it."""
    with pytest.raises(hm.ConfigurationError):
        hm.Policy(hm.Retry(on="any"), **settings)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_clock_that_can_not_be_read_in_a_thread_costs_no_place() -> None:
    """Work that was left behind gives its place back when it ends, also where that can't be told."""
    policy = hm.Policy(hm.Bulkhead(1, workers="threads"), hm.Timeout(1), clock=VirtualClock(), events=EventBus())
    policy.events.listen(lambda event: None)
    script = Scripted(Scripted.forever)

    def places() -> int:
        taken: int = policy.snapshot()["parts"]["bulkhead"]["in_flight"]
        return taken

    async def main() -> int:
        with pytest.raises(hm.TimedOut):
            await policy.acall(script.call)
        script.release()
        for _ in range(100):
            if places():
                await asyncio.to_thread(threading.Event().wait, 0.01)
        return places()

    assert run_virtual(main()) == 0


def test_policies_of_one_name_are_not_one_policy() -> None:
    """A deadline of a policy further in is a timeout of the dependency, also when both have no name of their own."""
    inner, outer = hm.Policy(hm.Deadline("5ms")), hm.Policy(hm.CircuitBreaker(minimum_calls=1), hm.Timeout("20s"))

    async def ask() -> None:
        await inner.acall(asyncio.sleep, 20)

    with pytest.raises(hm.DeadlineExceeded):
        asyncio.run(outer.acall(ask))
    assert outer.breaker().state == "open"


class Response:
    """An answer that holds a connection until it is closed."""

    def __init__(self) -> None:
        self.closed = False

    def unwanted(self) -> hm.UnwantedResult:
        return hm.UnwantedResult(self, hm.FailureKind.UNAVAILABLE, dispose=self.close)

    def close(self) -> None:
        self.closed = True


def test_what_the_caller_gets_is_not_closed(caller: Any) -> None:
    """When the attempt that should have replaced a response is refused, the caller gets the response as it was."""
    response = Response()
    policy = hm.Policy(hm.Retry(on="any", delay=0), hm.CircuitBreaker(minimum_calls=1))
    result = caller.call(policy, Scripted(response.unwanted()))
    assert result is response
    assert not response.closed


def test_what_fails_to_close_breaks_no_call(caller: Any) -> None:
    """A response that can't be freed is no reason to make no other attempt."""

    def broken() -> None:
        raise OSError

    policy = hm.Policy(hm.Retry(on="any", delay=0))
    unwanted = hm.UnwantedResult(503, hm.FailureKind.UNAVAILABLE, dispose=broken)
    assert caller.call(policy, Scripted(unwanted, 3)) == 3


def test_a_generator_is_refused_when_it_is_called() -> None:
    """What a generator does comes after the call, where no part would see it; streams are opened."""

    def lines() -> Iterator[int]:
        yield 3

    async def messages() -> Any:
        yield 3

    policy = hm.Policy(hm.Retry(on="any"))
    functions: list[Any] = [lines, messages]
    for function in functions:
        with pytest.raises(hm.ConfigurationError, match="generator"):
            policy.call(function)
        with pytest.raises(hm.ConfigurationError, match="generator"):
            asyncio.run(policy.acall(function))
    with policy.open(lines) as stream:
        assert list(stream.value) == [3]


def test_a_race_in_threads_ends_at_the_deadline(hung: Scripted) -> None:
    """Attempts that run in threads of a hedge can be left behind, so the deadline is the end for the caller."""
    policy = hm.Policy(hm.Deadline("50ms"), hm.Hedge("1ms", threads=2, budget=None))
    ended = threading.Event()

    def call() -> None:
        with contextlib.suppress(hm.DeadlineExceeded):
            policy.call(hung.call)
        ended.set()

    threading.Thread(target=call, daemon=True).start()
    began = time.monotonic()
    assert ended.wait(1), f"still waiting after {time.monotonic() - began:.1f} s"
