"""`Scripted`: a dependency that follows a script, in either colour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import Arguments, ManualClock, Scripted, ScriptError, VirtualClock, run_virtual
from hormesis.testing.scripted import _Held

Caller = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Caller:
    """Call a scripted dependency in one of the two colours."""
    if request.param == "sync":
        return lambda scripted, *args, **kwargs: scripted.call(*args, **kwargs)
    return lambda scripted, *args, **kwargs: run_virtual(scripted.acall(*args, **kwargs))


def test_each_call_takes_the_next_step_and_the_last_repeats(call: Caller) -> None:
    """Answers, None among them."""
    scripted = Scripted("tea", None, 3)
    assert [call(scripted) for _ in range(4)] == ["tea", None, 3, 3]
    assert scripted.calls == 4


@pytest.mark.parametrize("step", [KeyError("tea"), KeyError, StopIteration, KeyboardInterrupt, asyncio.CancelledError])
def test_exceptions_are_raised(call: Caller, step: Any) -> None:
    """Instances and classes of any kind; nobody is inside afterwards."""
    scripted = Scripted(step)
    kind = step if isinstance(step, type) else type(step)
    # A coroutine can't raise StopIteration: Python makes a RuntimeError of it.
    with pytest.raises((kind, RuntimeError)) as caught:
        call(scripted)
    if isinstance(step, KeyError):
        assert caught.value is step
    assert (scripted.inside, scripted.most_inside) == (0, 1)


def test_functions_are_called_and_may_return_steps(call: Caller) -> None:
    """With the arguments of the call."""
    scripted = Scripted(lambda a, b=0: a + b, lambda *_: KeyError, lambda *_: lambda *_: "tea")
    assert call(scripted, 1, b=2) == 3
    with pytest.raises(KeyError):
        call(scripted, 1)
    assert call(scripted, 1) == "tea"


def test_asynchronous_functions_are_awaited() -> None:
    """In asynchronous calls."""

    async def slow(sku: str) -> str:
        await asyncio.sleep(5)
        return sku

    assert run_virtual(Scripted(slow).acall("tea")) == "tea"


def test_a_step_that_leads_to_itself_is_told(call: Caller) -> None:
    """Instead of going on for ever."""

    def again(*args: Any) -> Any:
        return again

    with pytest.raises(ScriptError, match="still to no answer"):
        call(Scripted(again))


def test_what_it_was_called_with_is_written_down(call: Caller) -> None:
    """Positional and keyword arguments, in order."""
    scripted = Scripted(0)
    call(scripted, "tea", 2)
    call(scripted, sku="tea")
    assert list(scripted.arguments) == [Arguments(("tea", 2), {}), Arguments((), {"sku": "tea"})]


def test_a_delay_passes_on_the_clock(call: Caller) -> None:
    """At once for whoever waits, and before whatever comes of the step."""
    clock = ManualClock()
    scripted = Scripted(Scripted.after("2s", "tea"), Scripted.after(3, KeyError), clock=clock)
    began = time.monotonic()
    assert (call(scripted), clock.now()) == ("tea", 2)
    with pytest.raises(KeyError):
        call(scripted)
    assert clock.now() == 5
    assert time.monotonic() - began < 2


def test_a_delay_without_a_clock() -> None:
    """Passes on the loop, and can't pass in a synchronous call."""

    async def main() -> float:
        await Scripted(Scripted.after("1h", 0)).acall()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3600
    with pytest.raises(ScriptError, match="needs a clock="):
        Scripted(Scripted.after("1h", 0)).call()


@pytest.mark.parametrize("delay", [-1, "soon", None])
def test_a_delay_must_be_one(delay: Any) -> None:
    """Refused when the step is made."""
    with pytest.raises(hm.ConfigurationError, match="delay"):
        Scripted.after(delay, 0)


@pytest.mark.parametrize("settings", [{"strict": 1}, {"cooperative": None}, {"patience": 0}])
def test_settings_that_cant_be_meant(settings: Any) -> None:
    """Are refused when it is made, and so is a script of nothing."""
    with pytest.raises(hm.ConfigurationError, match=next(iter(settings))):
        Scripted(0, **settings)
    with pytest.raises(hm.ConfigurationError, match="at least one step"):
        Scripted()


def test_a_strict_script_ends(call: Caller) -> None:
    """And no fallback or retry hides that from the test."""
    scripted = Scripted(KeyError, strict=True)
    policy = hm.Policy(hm.Fallback(value=0), hm.Retry(on=KeyError, delay=0))

    class Through:
        def call(self) -> Any:
            return policy.call(scripted.call)

        async def acall(self) -> Any:
            return await policy.acall(scripted.acall)

    with pytest.raises(ScriptError, match="call 2 came, and the script ends after 1"):
        call(Through())
    assert (scripted.calls, scripted.inside) == (2, 0)


def test_forever_is_until_cancelled() -> None:
    """In asynchronous calls, and cancellations are counted."""
    scripted = Scripted(Scripted.forever)
    policy = hm.Policy(hm.Timeout("10m"), clock=VirtualClock())
    with pytest.raises(hm.TimedOut):
        run_virtual(policy.acall(scripted.acall))
    assert (scripted.cancelled, scripted.inside) == (1, 0)


def test_forever_is_until_released() -> None:
    """All calls that are inside end with the step; later ones stay again."""
    scripted = Scripted(Scripted.forever)

    async def main() -> None:
        calls = [asyncio.create_task(scripted.acall()) for _ in range(3)]
        await asyncio.sleep(1)
        assert (scripted.inside, scripted.most_inside) == (3, 3)
        scripted.release("tea")
        assert await asyncio.gather(*calls) == ["tea"] * 3
        later = asyncio.create_task(scripted.acall())
        await asyncio.sleep(1)
        scripted.release(Scripted.after(5, KeyError))
        with pytest.raises(KeyError):
            await later
        assert asyncio.get_running_loop().time() == 7

    run_virtual(main())


def test_a_release_for_nobody_holds_for_nobody_later() -> None:
    """The next call stays inside all the same."""
    scripted = Scripted(Scripted.forever, patience="10ms")
    scripted.release()
    with pytest.raises(ScriptError, match=r"stayed inside for 0\.01 s"):
        scripted.call()


def test_threads_can_be_held_inside() -> None:
    """So a test fills a bulkhead, looks, and lets go, without sleeping."""
    scripted = Scripted(Scripted.forever)
    policy = hm.Policy(hm.Bulkhead(2))
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(policy.call, scripted.call, number) for number in range(2)]
        scripted.wait_until_inside(2)
        with pytest.raises(hm.BulkheadFull):
            policy.call(scripted.call)
        scripted.release("tea")
        assert [each.result(20) for each in calls] == ["tea"] * 2
    assert (scripted.calls, scripted.most_inside, scripted.inside) == (2, 2, 0)


def test_a_loop_can_be_released_from_a_thread() -> None:
    """Even when it is not the test's own, and a closed one is no trouble."""
    scripted = Scripted(Scripted.forever)

    async def hold() -> Any:
        return await scripted.acall()

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(asyncio.run, hold())
        scripted.wait_until_inside()
        released = threading.Event()
        while not released.is_set():
            scripted.release("tea")
            if call.done():
                released.set()
        assert call.result(20) == "tea"


def test_a_release_between_two_steps_of_a_call_is_not_missed() -> None:
    """A call that is about to stay inside when another thread lets go does not stay."""
    held = _Held()
    held.release("tea")
    asyncio.run(asyncio.wait_for(held.wait_async(), 20))
    assert held.step == "tea"


def test_waiting_for_nobody_is_told() -> None:
    """Instead of hanging."""
    with pytest.raises(ScriptError, match=r"0 calls are inside after 0\.01 s, not 1"):
        Scripted(0, patience="10ms").wait_until_inside()


@pytest.mark.parametrize("step", [Scripted.after("5s", 0), Scripted.forever], ids=["after", "forever"])
def test_a_cooperative_one_heeds_its_deadline(step: Any) -> None:
    """As a function under a cooperative timeout should; one that is not takes its time."""
    clock = ManualClock()
    policy = hm.Policy(hm.Timeout("2s", cooperative=True), clock=clock)
    with pytest.raises(hm.TimedOut):
        policy.call(Scripted(step, clock=clock, cooperative=True).call)
    assert clock.now() == 2


def test_a_cooperative_one_in_time() -> None:
    """Has nothing to heed."""
    clock = ManualClock()
    policy = hm.Policy(hm.Timeout("2s", cooperative=True), clock=clock)
    assert policy.call(Scripted(Scripted.after("1s", 3), clock=clock, cooperative=True).call) == 3
    assert Scripted(Scripted.after("1h", 3), clock=clock, cooperative=True).call() == 3
    assert clock.now() == 3601


def test_it_can_be_decorated() -> None:
    """Policies see which colour each of its two faces has."""
    scripted = Scripted(ConnectionRefusedError, 3)
    policy = hm.Policy(hm.Retry(on="transient", delay=0))
    assert policy(scripted.call)() == 3
    assert asyncio.run(policy(scripted.acall)()) == 3
