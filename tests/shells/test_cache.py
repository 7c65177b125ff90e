"""The degraded cache in front of calls: threads, tasks, and both at once."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import random
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import hormesis as hm
from hormesis import outcome
from hormesis.clock import MONOTONIC
from hormesis.context import Answer
from hormesis.core.admission import Lock, NullLock
from hormesis.core.cache import CacheMachine, Lead
from hormesis.events import Event, EventBus, RefreshFailed
from hormesis.outcome import FailureKind, UnwantedResult, register_failures
from hormesis.patterns.cache import StaleCache
from hormesis.patterns.fallback import Fallback
from hormesis.policy import caching as shell
from hormesis.policy.caching import Caching
from hormesis.policy.telling import Teller
from hormesis.testing import ManualClock, VirtualClock, run_virtual


def _uvloop() -> asyncio.AbstractEventLoop:
    """Make a loop of uvloop's, where that is installed."""
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


PATIENCE = 20.0
"""Seconds after which something that should happen won't."""

Until = Callable[[Callable[[], object]], None]


class NoSuchProduct(Exception):
    """A failure of the kind `invalid`, with arguments that its class does not keep."""

    def __init__(self, *, sku: str, response: object = None) -> None:
        super().__init__(f"no product {sku}")
        self.sku = sku
        self.response = response


class Renamed(Exception):
    """Made from what it keeps, it would say something else."""

    def __init__(self, sku: str) -> None:
        super().__init__(f"no product {sku}")


class Slotted(Exception):
    __slots__ = ("sku",)


class Stubborn(Exception):
    """It can't be made from what it keeps, with or without `__init__`."""

    def __new__(cls, *args: object, key: object = None) -> Stubborn:
        if key is None:
            raise TypeError("no key")
        return super().__new__(cls, *args)

    def __init__(self, *args: object, key: object) -> None:
        super().__init__(*args)


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "_classifiers", dict(outcome._classifiers))
    monkeypatch.setattr(outcome, "_by_type", {})
    for kind in (NoSuchProduct, Renamed, Slotted, Stubborn):
        register_failures({f"{kind.__module__}.{kind.__qualname__}": FailureKind.INVALID})


class Shelf:
    """A cache with its clock, and what it told. Answers are fresh for 10 s and stale for 20 s more."""

    def __init__(
        self,
        clock: Any = None,
        *,
        on: Any = ("any", "rejected"),
        limit: float = 5.0,
        flight_max: float = 60.0,
        lock: Lock | None = None,
        **more: Any,
    ) -> None:
        usual: dict[str, Any] = {"fresh": 10, "stale": 20, "early": 0}
        settings = StaleCache(**(usual | more))
        self.clock = clock or ManualClock()
        self.machine = CacheMachine(
            dataclasses.replace(settings.terms(), flight_max=flight_max), lock or threading.Lock()
        )
        self.told: list[Event] = []
        self.bus = EventBus()
        self.bus.listen(self.told.append)
        self.caching = Caching(
            "stock",
            self.machine,
            Fallback(cache=settings, on=on),
            self.clock,
            random.Random(1),
            Teller("stock", self.clock, self.bus),
            limit=limit,
        )

    def call(self, ask: Callable[[], Any], *args: Any, **kwargs: Any) -> tuple[Any, str]:
        return self.caching.run(ask, args, kwargs)

    async def acall(self, ask: Callable[[], Awaitable[Any]], *args: Any, **kwargs: Any) -> tuple[Any, str]:
        return await self.caching.run_async(ask, args, kwargs)

    def fill(self, value: object = "tea", *args: Any) -> None:
        assert self.call(lambda: value, *args) == (value, "function")

    def state(self, key: str) -> int:
        return self.caching.snapshot(0.0)[key]

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way."""
        return self.state("in_flight") == 0 and not self.caching._threads and not self.caching._tasks


class Asked:
    """Calls that are counted; each gets the next outcome, the last for ever. A future is waited for."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = outcomes
        self.calls = 0

    def next(self) -> Any:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        return outcome

    def __call__(self) -> Any:
        outcome = self.next()
        if isinstance(outcome, Future):
            outcome = outcome.result(PATIENCE)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def later(self) -> Any:
        outcome = self.next()
        if isinstance(outcome, Future):
            outcome = await asyncio.shield(asyncio.wrap_future(outcome))
        else:
            await asyncio.sleep(1)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Return threads for callers."""
    with ThreadPoolExecutor(20) as pool:
        yield pool


@pytest.fixture(params=[asyncio.new_event_loop, _uvloop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    """Return a loop that runs in a thread of its own."""
    loop = request.param()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    loop.close()


# Where answers come from.


def test_from_the_function_then_from_the_cache() -> None:
    """The first caller asks, later ones get the same object while it is fresh, and others ask for themselves."""
    shelf, answer = Shelf(), ["tea"]
    ask = Asked(answer, "coffee")
    assert shelf.call(ask, 1) == (answer, "function")
    with hm.answers() as seen:
        found, source = shelf.call(ask, 1)
    assert found is answer
    assert source == "cache"
    assert seen.noted == [Answer("stock", "cache", 0.0)]
    assert shelf.call(ask, 2) == ("coffee", "function")
    assert [event.as_dict() for event in shelf.told] == [
        {"event": "cache_answered", "at": 0.0, "policy": "stock", "part": "cache", "source": "cache", "age": 0.0}
    ]


def test_functions_don_t_share_answers() -> None:
    """One policy may protect several functions, and the same arguments mean different things to them."""
    shelf = Shelf()
    assert shelf.caching.run(lambda: "stock", (1,), {}, len) == ("stock", "function")
    assert shelf.caching.run(lambda: "price", (1,), {}, abs) == ("price", "function")
    assert shelf.caching.run(lambda: "?", (1,), {}, len) == ("stock", "cache")


def test_calls_that_can_t_be_told_apart_are_made() -> None:
    """What can't be hashed is called every time, in both colours."""
    shelf, ask = Shelf(VirtualClock()), Asked(1, 2, 3, 4)
    assert shelf.call(ask, []) == (1, "function")
    assert shelf.call(ask, sku={}) == (2, "function")
    assert run_virtual(shelf.acall(ask.later, [])) == (3, "function")
    assert shelf.state("misses") == 0


def test_a_key_function_that_fails_is_heard() -> None:
    """A mistake in a key function is the author's, and is raised as it is."""
    shelf = Shelf(key=lambda sku: sku.lower())
    with pytest.raises(AttributeError):
        shelf.call(lambda: 1, 3)


def test_a_cache_needs_a_fallback_that_has_one() -> None:
    """A shell around nothing is refused."""
    shelf = Shelf()
    with pytest.raises(hm.ConfigurationError, match="no cache"):
        Caching("stock", shelf.machine, Fallback(value=1), shelf.clock, random.Random(), shelf.caching._teller)


# Stale while revalidated.


def test_a_stale_answer_is_refreshed_once(until: Until) -> None:
    """A stale answer is handed out at once, and one thread refreshes it, however many callers there are."""
    shelf, gate = Shelf(), Future[str]()
    shelf.fill("old")
    shelf.clock.advance(15)
    ask = Asked(gate)
    with hm.answers() as seen:
        assert [shelf.call(ask) for _ in range(10)] == [("old", "stale")] * 10
    assert seen.noted[0] == Answer("stock", "stale", 15.0)
    gate.set_result("new")
    until(lambda: shelf.at_rest)
    assert ask.calls == 1
    assert shelf.call(ask) == ("new", "cache")
    assert shelf.state("refreshes") == 1


def test_a_stale_answer_is_refreshed_by_one_task() -> None:
    """So it is on a loop, and the caller does not wait."""
    shelf, ask = Shelf(VirtualClock()), Asked("old", "new")

    async def main() -> None:
        assert await shelf.acall(ask.later) == ("old", "function")
        await asyncio.sleep(15)
        before = asyncio.get_running_loop().time()
        assert await asyncio.gather(*(shelf.acall(ask.later) for _ in range(10))) == [("old", "stale")] * 10
        assert asyncio.get_running_loop().time() == before
        await asyncio.sleep(2)
        assert await shelf.acall(ask.later) == ("new", "cache")
        assert shelf.at_rest

    run_virtual(main())
    assert ask.calls == 2


def test_a_refresh_is_not_the_caller_s(until: Until) -> None:
    """It has the policy's whole time and not what the caller has left, sees its context, and tells it nothing."""
    shelf = Shelf(MONOTONIC, fresh=0, limit=50.0)
    shelf.fill()
    found: list[tuple[float, str | None]] = []

    def ask() -> str:
        left = hm.remaining()
        assert left is not None
        inner.call(lambda: 1)
        found.append((left, hm.request_id()))
        return "new"

    inner = Shelf()
    inner.fill(0)
    with hm.answers() as seen, hm.calling(request_id="r-1"), hm.deadline("1s"):
        shelf.call(ask)
    until(lambda: found and shelf.at_rest)
    ((left, request),) = found
    assert 40 < left <= 50
    assert request == "r-1"
    assert [answer.source for answer in seen.noted] == ["stale"]


def test_a_refresh_without_a_deadline_ends_all_the_same() -> None:
    """A refresh has no more time than after which it counts as lost."""
    shelf = Shelf(VirtualClock(), fresh=0, stale=1000, limit=float("inf"))
    policy = hm.Policy(hm.Timeout("2h"), clock=VirtualClock())

    async def main() -> None:
        await shelf.acall(Asked("old").later)
        hang = lambda: policy.acall(asyncio.sleep, 3600)  # noqa: E731
        assert await shelf.acall(hang) == ("old", "stale")
        await asyncio.sleep(59)
        assert not shelf.at_rest
        await asyncio.sleep(2)
        assert shelf.at_rest

    run_virtual(main())
    assert shelf.told[-1].as_dict()["kind"] == "timeout"


def test_a_refresh_that_fails(until: Until) -> None:
    """It is told, raised to nobody, and not repeated at once; the old answer goes on standing in."""
    shelf, ask = Shelf(), Asked(ConnectionRefusedError(), "new")
    shelf.fill("old")
    shelf.clock.advance(15)
    assert shelf.call(ask) == ("old", "stale")
    until(lambda: shelf.at_rest)
    (failed,) = [event for event in shelf.told if isinstance(event, RefreshFailed)]
    assert (failed.name, failed.kind, failed.error) == ("refresh_failed", "connect", "ConnectionRefusedError")
    assert shelf.call(ask) == ("old", "stale")
    assert ask.calls == 1
    shelf.clock.advance(1)
    assert shelf.call(ask) == ("old", "stale")
    until(lambda: shelf.at_rest)
    assert shelf.call(ask) == ("new", "cache")


def test_a_refresh_that_fails_on_a_loop() -> None:
    """So it is on a loop, and nothing complains of an exception that nobody took."""
    shelf, ask = Shelf(VirtualClock()), Asked("old", ConnectionRefusedError())

    async def main() -> None:
        await shelf.acall(ask.later)
        await asyncio.sleep(15)
        assert await shelf.acall(ask.later) == ("old", "stale")
        await asyncio.sleep(2)
        assert shelf.at_rest

    run_virtual(main())
    gc.collect()
    assert [event.name for event in shelf.told] == ["cache_answered", "refresh_failed"]


def test_a_refresh_that_finds_nothing_any_more(until: Until) -> None:
    """When the dependency says that there is no such thing, the old answer is wrong and goes."""
    shelf = Shelf()
    shelf.fill("old")
    shelf.clock.advance(15)
    missing = Asked(NoSuchProduct(sku="tea"))
    shelf.call(missing)
    until(lambda: shelf.at_rest)
    with pytest.raises(NoSuchProduct):
        shelf.call(missing)


def test_a_refresh_that_finds_nothing_where_that_is_covered(until: Until) -> None:
    """Where `on` says that an old answer stands in for that too, it does."""
    shelf = Shelf(on=("any", "invalid"))
    shelf.fill("old")
    shelf.clock.advance(15)
    for _ in range(2):
        assert shelf.call(Asked(NoSuchProduct(sku="tea"))) == ("old", "stale")
        until(lambda: shelf.at_rest)


def test_what_a_refresh_has_freed_is_shared_with_nobody(pool: ThreadPoolExecutor, until: Until) -> None:
    """Who joins a refresh because the answer is gone by now, and would get an unwanted result, asks for itself."""
    shelf, gate = Shelf(), Future[Exception]()
    shelf.fill("old")
    shelf.clock.advance(29)
    shelf.call(Asked(gate))
    shelf.clock.advance(2)
    follower = pool.submit(shelf.call, Asked("new"))
    until(lambda: shelf.state("shared"))
    gate.set_result(UnwantedResult("closed"))
    assert follower.result(PATIENCE) == ("new", "function")


def test_a_refresh_frees_what_it_can_t_use(until: Until) -> None:
    """An unwanted result of a refresh is nobody's, so what it holds is freed."""
    shelf, freed = Shelf(), []
    shelf.fill("old")
    shelf.clock.advance(15)
    shelf.call(Asked(UnwantedResult("response", dispose=lambda: freed.append("response"))))
    until(lambda: shelf.at_rest)
    assert freed == ["response"]


def test_a_predicate_that_fails_in_the_background(until: Until) -> None:
    """A mistake of the author surfaces in a call and not in a thread; the flight ends all the same."""
    shelf = Shelf(on=lambda error: error.args[7])
    shelf.fill("old")
    shelf.clock.advance(15)
    assert shelf.call(Asked(NoSuchProduct(sku="tea"))) == ("old", "stale")
    until(lambda: shelf.at_rest)
    with pytest.raises(IndexError):
        Shelf(on=lambda error: error.args[7]).call(Asked(ValueError()))


def test_refreshes_in_threads_are_bounded(until: Until) -> None:
    """Beyond the bound an answer stays stale, and its flight is free for the next."""
    shelf, gate = Shelf(), Future[str]()
    for sku in range(12):
        shelf.fill("old", sku)
    shelf.clock.advance(15)
    ask = Asked(gate)
    for sku in range(12):
        assert shelf.call(ask, sku) == ("old", "stale")
    until(lambda: ask.calls == shell._THREADS_MAX)
    assert shelf.state("in_flight") == shell._THREADS_MAX
    gate.set_result("new")
    until(lambda: shelf.at_rest)
    assert [source for _, source in (shelf.call(ask, sku) for sku in range(12))].count("cache") == shell._THREADS_MAX
    until(lambda: shelf.at_rest)


def test_refreshes_in_tasks_are_bounded() -> None:
    """So they are on a loop."""
    shelf = Shelf(VirtualClock())
    ask = Asked("old")

    async def main() -> None:
        await asyncio.gather(*(shelf.acall(ask.later, sku) for sku in range(150)))
        await asyncio.sleep(15)
        await asyncio.gather(*(shelf.acall(ask.later, sku) for sku in range(150)))
        assert shelf.state("in_flight") == shell._TASKS_MAX
        await asyncio.sleep(2)
        assert shelf.at_rest

    run_virtual(main())


def test_no_thread_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system has no more threads, the answer stays stale and nothing is lost."""
    shelf = Shelf()
    shelf.fill("old")
    shelf.clock.advance(15)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert shelf.call(Asked("new")) == ("old", "stale")
    assert shelf.at_rest


def test_a_refresh_ends_with_its_loop() -> None:
    """A loop that ends cancels a refresh quietly, also one that has not begun, and leaves no flight."""
    shelf = Shelf()
    shelf.fill("old")
    shelf.clock.advance(15)

    async def main(pause: bool) -> None:
        assert await shelf.acall(Asked(Future[str]()).later) == ("old", "stale")
        if pause:
            await asyncio.sleep(0)

    for pause in (False, True):
        asyncio.run(main(pause))
        assert shelf.at_rest
        assert not shell._kept


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_loop_that_was_just_closed(caplog: pytest.LogCaptureFixture) -> None:
    """A refresh on a loop that was closed under it does not count any more once the next one begins."""
    shelf = Shelf(stale=1000)
    shelf.fill("old")
    shelf.clock.advance(15)
    gone = asyncio.new_event_loop()
    assert gone.run_until_complete(shelf.acall(Asked(Future[str]()).later)) == ("old", "stale")
    gone.close()
    assert len(shelf.caching._tasks) == 1
    shelf.clock.advance(60)

    async def main() -> None:
        assert await shelf.acall(Asked(Future[str]()).later) == ("old", "stale")
        assert len(shelf.caching._tasks) == 1

    asyncio.run(main())
    gc.collect()
    assert shelf.at_rest


# Stale if error.


def test_a_stale_answer_stands_in_for_a_failure() -> None:
    """Where the call comes first, an old answer is for those whose call failed."""
    freed: list[int] = []
    unwanted = UnwantedResult("503", FailureKind.UNAVAILABLE, dispose=lambda: freed.append(1))
    shelf, ask = Shelf(revalidate=False), Asked("old", ConnectionResetError(), unwanted, "new")
    shelf.call(ask)
    shelf.clock.advance(15)
    with hm.answers() as seen:
        assert [shelf.call(ask), shelf.call(ask)] == [("old", "stale")] * 2
    assert seen.noted == [Answer("stock", "stale", 15.0)] * 2
    assert freed == [1]
    assert shelf.call(ask) == ("new", "function")


def test_a_stale_answer_stands_in_on_a_loop() -> None:
    """So it does on a loop, for the followers too, and what a result held is freed."""
    freed: list[int] = []

    async def free() -> None:
        freed.append(1)

    shelf = Shelf(VirtualClock(), revalidate=False)
    ask = Asked("old", UnwantedResult("503", FailureKind.UNAVAILABLE, dispose=free))

    async def main() -> None:
        await shelf.acall(ask.later)
        await asyncio.sleep(15)
        assert await asyncio.gather(*(shelf.acall(ask.later) for _ in range(3))) == [("old", "stale")] * 3

    run_virtual(main())
    assert (ask.calls, freed) == (2, [1])


def test_an_answer_that_is_too_old_stands_in_for_nothing() -> None:
    """After the hard lifetime the caller gets the failure."""
    shelf, error = Shelf(revalidate=False), ConnectionResetError()
    ask = Asked("old", error)
    shelf.call(ask)
    shelf.clock.advance(30)
    with pytest.raises(ConnectionResetError) as caught:
        shelf.call(ask)
    assert caught.value is error


def test_failures_that_the_fallback_does_not_cover() -> None:
    """A stale answer stands in for what `on` says, and for nothing else."""
    shelf = Shelf(revalidate=False, on="timeout")
    ask = Asked("old", KeyError("no"), TimeoutError())
    shelf.call(ask)
    shelf.clock.advance(15)
    with pytest.raises(KeyError):
        shelf.call(ask)
    assert shelf.call(ask) == ("old", "stale")


# Negative.


def raised(shelf: Shelf, ask: Callable[[], Any]) -> BaseException:
    """What a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        shelf.call(ask)
    return caught.value


def depth(error: BaseException) -> int:
    """How many frames an exception's traceback has."""
    traceback, found = error.__traceback__, 0
    while traceback is not None:
        traceback, found = traceback.tb_next, found + 1
    return found


@pytest.mark.parametrize(
    "error",
    [NoSuchProduct(sku="tea", response=object()), Renamed("tea"), hm.Rejected("stock", "gone")],
    ids=["made without __init__", "made otherwise by __init__", "made by its class"],
)
def test_failures_are_remembered_as_copies(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each caller gets a copy of its own that looks the same, and collects no frames, notes or contexts of others."""
    register_failures({"hormesis.errors.Rejected": FailureKind.INVALID})
    error.add_note("as it was")
    shelf = Shelf(negative=5)
    ask = Asked(error)
    assert raised(shelf, ask) is error
    shelf.clock.advance(2)
    depths = []
    for _ in range(3):
        try:
            raise ValueError("of this caller")
        except ValueError:
            again = raised(shelf, ask)
        assert again is not error
        assert (type(again), str(again)) == (type(error), str(error))
        assert {name: value for name, value in vars(again).items() if name != "__notes__"} == {
            name: value for name, value in vars(error).items() if name != "__notes__"
        }
        assert again.__notes__ == ["as it was", "hormesis: policy 'stock' remembers this from 2s ago"]
        again.add_note("of this caller")
        assert isinstance(again.__context__, ValueError)
        depths.append(depth(again))
    assert len(set(depths)) == 1
    assert ask.calls == 1
    assert {event.as_dict()["source"] for event in shelf.told} == {"cache"}
    shelf.clock.advance(3)
    raised(shelf, ask)
    assert ask.calls == 2


@pytest.mark.parametrize("error", [Slotted("tea"), Stubborn("tea", key=1), UnwantedResult(404, FailureKind.INVALID)])
def test_failures_that_are_not_remembered(error: Exception) -> None:
    """What can't be copied, or holds a result, is asked for again."""
    shelf, ask = Shelf(negative=5), Asked(error)
    assert raised(shelf, ask) is error
    assert raised(shelf, ask) is error
    assert ask.calls == 2


def test_only_invalid_failures_are_remembered() -> None:
    """An outage is not remembered: the next caller may have more luck."""
    shelf, ask = Shelf(negative=5), Asked(ConnectionResetError(), "tea")
    raised(shelf, ask)
    assert shelf.call(ask) == ("tea", "function")


def test_remembered_on_a_loop() -> None:
    """So it is on a loop."""
    shelf, ask = Shelf(VirtualClock(), negative=5), Asked(NoSuchProduct(sku="tea"))

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(NoSuchProduct):
                await shelf.acall(ask.later)

    run_virtual(main())
    assert ask.calls == 1


# Single flight.


def test_threads_share_a_call(pool: ThreadPoolExecutor, until: Until) -> None:
    """Callers that miss at the same time make one call and share its answer."""
    shelf, gate = Shelf(), Future[str]()
    ask = Asked(gate)
    calls = [pool.submit(shelf.call, ask) for _ in range(20)]
    until(lambda: shelf.state("shared") == 19)
    gate.set_result("tea")
    assert sorted(call.result(PATIENCE) for call in calls) == [("tea", "cache")] * 19 + [("tea", "function")]
    assert ask.calls == 1
    assert shelf.at_rest


def test_threads_share_a_failure(pool: ThreadPoolExecutor, until: Until) -> None:
    """They share a failure as well, each with a copy that tells where it came from; what can't be copied, as it is."""
    for error in (ConnectionResetError("reset"), Slotted("tea")):
        shelf, gate = Shelf(), Future[Exception]()
        error.__cause__ = cause = ValueError("why")
        calls = [pool.submit(shelf.call, Asked(gate)) for _ in range(10)]
        until(lambda: shelf.state("shared") == 9)  # noqa: B023
        gate.set_result(error)
        errors = [call.exception(PATIENCE) for call in calls]
        assert all(type(other) is type(error) and str(other) == str(error) for other in errors)
        assert all(other is not None and other.__cause__ is cause for other in errors)
        assert len({id(other) for other in errors}) == (1 if isinstance(error, Slotted) else 10)


def test_tasks_share_a_call() -> None:
    """So do tasks, an answer and a failure."""
    shelf, ask = Shelf(VirtualClock()), Asked("tea", ConnectionResetError())

    async def main() -> None:
        answers = await asyncio.gather(*(shelf.acall(ask.later) for _ in range(20)))
        assert answers == [("tea", "function")] + [("tea", "cache")] * 19
        await asyncio.sleep(30)
        failures = await asyncio.gather(*(shelf.acall(ask.later) for _ in range(20)), return_exceptions=True)
        assert {type(failure) for failure in failures} == {ConnectionResetError}

    run_virtual(main())
    assert ask.calls == 2
    assert shelf.at_rest


@pytest.mark.parametrize("leader", ["thread", "task"])
def test_threads_and_tasks_share_a_call(
    leader: str, pool: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop, until: Until
) -> None:
    """Threads and the tasks of any loop make one call together."""
    shelf, gate = Shelf(), Future[str]()
    ask = Asked(gate)

    def in_thread() -> Future[Any]:
        return pool.submit(shelf.call, ask)

    def in_task() -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(shelf.acall(ask.later), loop)

    calls = [in_thread() if leader == "thread" else in_task()]
    until(lambda: ask.calls == 1)
    calls += [start() for _ in range(5) for start in (in_thread, in_task)]
    until(lambda: shelf.state("shared") == 10)
    gate.set_result("tea")
    assert {call.result(PATIENCE)[0] for call in calls} == {"tea"}
    assert ask.calls == 1


def test_many_threads_and_keys_at_once(pool: ThreadPoolExecutor) -> None:
    """Under load nobody gets an answer to another question, nothing is lost, and the bounds hold."""
    shelf = Shelf(MONOTONIC, fresh="1ms", stale="2ms", max_entries=5, early=1)

    def work(seed: int) -> None:
        source = random.Random(seed)
        for _ in range(300):
            sku = source.randrange(8)
            if source.random() < 0.2:
                with contextlib.suppress(ConnectionResetError):
                    assert shelf.call(Asked(ConnectionResetError()), sku)[0] == sku
            else:
                with contextlib.suppress(ConnectionResetError):
                    assert shelf.call(lambda sku=sku: sku, sku)[0] == sku  # type: ignore[misc]
            assert shelf.state("entries") <= 5

    for future in [pool.submit(work, seed) for seed in range(8)]:
        future.result(PATIENCE)


def test_a_follower_takes_over_from_a_cancelled_leader() -> None:
    """Cancelled is not failed: when the leader is cancelled, one follower makes the call for all."""
    shelf, ask = Shelf(VirtualClock()), Asked("first", "second")

    async def main() -> None:
        leader = asyncio.create_task(shelf.acall(ask.later))
        await asyncio.sleep(0)
        followers = [asyncio.create_task(shelf.acall(ask.later)) for _ in range(5)]
        await asyncio.sleep(0.5)
        leader.cancel()
        answers = await asyncio.gather(*followers)
        assert [answer for answer, _ in answers] == ["second"] * 5
        assert [source for _, source in answers].count("function") == 1
        assert leader.cancelled()

    run_virtual(main())
    assert ask.calls == 2


def test_a_follower_takes_over_from_an_interrupted_leader(pool: ThreadPoolExecutor, until: Until) -> None:
    """So it is with threads when the leader is interrupted."""
    shelf, gate = Shelf(), Future[BaseException]()
    ask = Asked(gate, "tea")
    leader = pool.submit(shelf.call, ask)
    until(lambda: ask.calls == 1)
    followers = [pool.submit(shelf.call, ask) for _ in range(5)]
    until(lambda: shelf.state("shared") == 5)
    gate.set_result(KeyboardInterrupt())
    assert isinstance(leader.exception(PATIENCE), KeyboardInterrupt)
    assert {call.result(PATIENCE)[0] for call in followers} == {"tea"}
    assert ask.calls == 2


@types.coroutine
def cancelled_at(place: int, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel its task at the n-th suspension."""
    task, passed = asyncio.current_task(), 0
    assert task is not None
    outcome: BaseException | None = None
    while True:
        try:
            awaited = coroutine.send(None) if outcome is None else coroutine.throw(outcome)
        except StopIteration as stop:
            return stop.value
        passed += 1
        if passed == place:
            task.cancel()
        try:
            outcome = None
            yield awaited
        except BaseException as error:
            outcome = error


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_call_that_is_cancelled_anywhere_leaves_nothing(role: str) -> None:
    """Whoever is cancelled at its n-th suspension, nothing stays under way, and others get their answer."""

    async def depend() -> str:
        await asyncio.sleep(0.1)
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        return "tea"

    async def main(place: int) -> bool:
        shelf = Shelf(VirtualClock())
        mine = cancelled_at(place, shelf.acall(depend))
        other = shelf.acall(depend)
        first, second = (mine, other) if role == "leader" else (other, mine)
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(1)
        assert shelf.at_rest
        cancelled, fine = outcomes if role == "leader" else outcomes[::-1]
        assert not isinstance(fine, BaseException)
        assert fine[0] == "tea"
        return isinstance(cancelled, asyncio.CancelledError)

    place = 1
    while run_virtual(main(place)):
        place += 1
    assert place > (3 if role == "leader" else 1)


def test_a_call_within_itself_does_not_wait_for_itself() -> None:
    """A function that makes its own call again would wait for ever; it calls through."""
    shelf = Shelf(VirtualClock())

    async def outer() -> str:
        inner, source = await shelf.acall(Asked("inner").later)
        return f"outer {inner} from {source}"

    assert run_virtual(shelf.acall(outer)) == ("outer inner from function", "function")
    shelf = Shelf()
    assert shelf.call(lambda: shelf.call(lambda: "inner")[0] + " again") == ("inner again", "function")


def test_nobody_blocks_an_event_loop() -> None:
    """A synchronous call on a loop's thread does not wait for a task, which may need that loop to go on."""
    shelf, ask = Shelf(), Asked("task")

    async def main() -> None:
        leader = asyncio.create_task(shelf.acall(ask.later))
        await asyncio.sleep(0)
        assert shelf.call(lambda: "sync") == ("sync", "function")
        leader.cancel()

    asyncio.run(main())


def test_a_flight_that_hangs_is_not_waited_for_for_ever(pool: ThreadPoolExecutor, until: Until) -> None:
    """When a leader hangs, followers without a deadline make the call again after a while."""
    shelf, gate = Shelf(MONOTONIC, flight_max=0.05), Future[str]()
    leader = pool.submit(shelf.call, Asked(gate))
    until(lambda: shelf.state("in_flight"))
    assert shelf.call(Asked("tea")) == ("tea", "function")
    gate.set_result("late")
    assert leader.result(PATIENCE) == ("late", "function")
    assert shelf.call(Asked("?")) == ("tea", "cache")


class Interrupting(NullLock):
    """A lock that lets something happen after it was released for the first time from now on."""

    __slots__ = ("then",)

    def __init__(self) -> None:
        self.then: Callable[[], None] | None = None

    def __exit__(self, *error: object) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()


def test_a_flight_that_lands_before_it_is_joined() -> None:
    """Who is about to join a flight that has just landed looks again, and finds its answer."""
    lock = Interrupting()
    shelf = Shelf(lock=lock)

    def lead(sku: int) -> None:
        found = shelf.machine.look(shelf.caching._key_of(None, (sku,), {}), 0.0, random.random)
        assert isinstance(found, Lead)
        lock.then = lambda: shelf.machine.store(found.flight, "tea", 0.0)

    lead(1)
    assert shelf.call(Asked("?"), 1) == ("tea", "cache")
    lead(2)
    assert asyncio.run(shelf.acall(Asked("?").later, 2)) == ("tea", "cache")


# Deadlines of followers.


def test_a_follower_waits_no_longer_than_its_deadline(pool: ThreadPoolExecutor, until: Until) -> None:
    """A follower that runs out of time says so, and the leader goes on."""
    shelf, gate = Shelf(MONOTONIC), Future[str]()
    leader = pool.submit(shelf.call, Asked(gate))
    until(lambda: shelf.state("in_flight"))
    with hm.deadline("20ms"), pytest.raises(hm.DeadlineExceeded):
        shelf.call(Asked("?"))
    assert shelf.told[-1].name == "timeout_hit"
    (flight,) = shelf.machine._flights.values()
    assert not flight.followers
    gate.set_result("tea")
    assert leader.result(PATIENCE) == ("tea", "function")


def test_a_follower_s_deadline_on_a_loop() -> None:
    """So it is on a loop, to the moment; and where an old answer may stand in, it does."""
    ask = Asked("old", "new")
    shelf = Shelf(VirtualClock(), revalidate=False)

    async def main() -> None:
        await shelf.acall(ask.later)
        await asyncio.sleep(15)
        leader = asyncio.create_task(shelf.acall(ask.later))
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        with hm.deadline(0.25, clock=VirtualClock()):
            assert await shelf.acall(ask.later) == ("old", "stale")
        assert asyncio.get_running_loop().time() == before + 0.25
        (flight,) = shelf.machine._flights.values()
        assert not flight.followers
        assert await leader == ("new", "function")

    run_virtual(main())


def test_no_time_left_to_follow() -> None:
    """A follower whose time is over already does not wait."""
    shelf = Shelf(VirtualClock())

    async def main() -> None:
        leader = asyncio.create_task(shelf.acall(Asked("tea").later))
        await asyncio.sleep(0)
        with hm.deadline(0, clock=VirtualClock()), pytest.raises(hm.DeadlineExceeded):
            await shelf.acall(Asked("?").later)
        assert (await leader)[0] == "tea"

    run_virtual(main())


@pytest.mark.parametrize(("followers_time", "calls"), [(None, 2), (10.0, 2), (1.0, 1)])
def test_an_impatient_leader_does_not_speak_for_the_patient(followers_time: float | None, calls: int) -> None:
    """Who has more time left than its leader had in all makes the call; who has not shares the failure."""
    policy = hm.Policy(hm.Timeout("2h"), name="stock", clock=VirtualClock())
    shelf, begun = Shelf(VirtualClock()), []

    async def slow() -> str:
        begun.append(1)
        await asyncio.sleep(3)
        return "tea"

    async def caller(limit: float | None) -> Any:
        with contextlib.nullcontext() if limit is None else hm.deadline(limit, clock=VirtualClock()):
            return await shelf.acall(lambda: policy.acall(slow))

    async def main() -> None:
        leader = asyncio.create_task(caller(1.0))
        await asyncio.sleep(0.5)
        follower = asyncio.create_task(caller(followers_time))
        with pytest.raises(hm.DeadlineExceeded):
            await leader
        if calls == 1:
            with pytest.raises(hm.DeadlineExceeded):
                await follower
        else:
            assert await follower == ("tea", "function")

    run_virtual(main())
    assert len(begun) == calls


# What is left behind.


class Marker:
    """Something in a frame."""


@pytest.mark.parametrize("error", [ConnectionResetError, Slotted, Renamed])
def test_failures_keep_no_frames_alive(error: type[Exception], pool: ThreadPoolExecutor, until: Until) -> None:
    """When callers have dealt with a failure, its frames are gone without the garbage collector."""
    shelf, gate = Shelf(negative=100), Future[Exception]()
    markers: list[weakref.ref[Marker]] = []

    def caller() -> None:
        marker = Marker()
        markers.append(weakref.ref(marker))
        with contextlib.suppress(error):
            shelf.call(ask)

    def ask() -> Any:
        marker = Marker()
        markers.append(weakref.ref(marker))
        gate.result(PATIENCE)
        raise error("reset")

    gc.collect()
    gc.disable()
    try:
        calls = [pool.submit(caller) for _ in range(3)]
        until(lambda: shelf.state("shared") == 2)
        gate.set_result(error("reset"))
        while calls:
            calls.pop().result(PATIENCE)
        until(lambda: all(marker() is None for marker in markers))
    finally:
        gc.enable()


# Within a policy.


def test_in_a_policy() -> None:
    """A policy asks the cache first, then its function or value, and says where answers came from."""
    clock, ask = ManualClock(), Asked("old", ConnectionResetError())
    cache = StaleCache(fresh="10s", stale="20s", revalidate=False)
    policy = hm.Policy(hm.Fallback(cache=cache, value="static"), name="stock", clock=clock)
    with hm.answers() as seen:
        assert [policy.call(ask), policy.call(ask)] == ["old", "old"]
        clock.advance(15)
        assert policy.call(ask) == "old"
        clock.advance(20)
        assert policy.call(ask) == "static"
    assert [(answer.source, answer.age) for answer in seen.noted] == [
        ("cache", 0.0),
        ("stale", 15.0),
        ("fallback", None),
    ]
    assert policy.snapshot()["parts"]["cache"]["stale_answers"] == 1


def test_in_an_asynchronous_policy() -> None:
    """So does it for asynchronous functions; a cache alone leaves the caller with the failure."""
    ask = Asked("old", ConnectionResetError())
    cache = StaleCache(fresh="10s", stale="20s")
    policy = hm.Policy(hm.Fallback(cache=cache), hm.Deadline("5s"), name="stock", clock=VirtualClock())

    async def main() -> None:
        assert await policy.acall(ask.later) == "old"
        await asyncio.sleep(15)
        with hm.answers() as seen:
            assert await policy.acall(ask.later) == "old"
        assert seen.degraded
        await asyncio.sleep(30)
        with pytest.raises(ConnectionResetError):
            await policy.acall(ask.later)

    run_virtual(main())


def test_from_a_file(tmp_path: Any) -> None:
    """A file says what the same cache in code would, and is told what it can't mean."""
    path = tmp_path / "policies.toml"
    path.write_text('[policy.stock]\nfallback = { cache = { fresh = "30s", stale = "1h" }, value = [] }')
    (part,) = hm.load(path)["stock"].parts
    assert part == Fallback(cache=StaleCache(fresh=30, stale=3600), value=[])
    path.write_text('[policy.stock]\nfallback = { cache = { key = "sku" } }')
    with pytest.raises(hm.ConfigurationError, match=r"fallback\.cache\.key is 'sku'; it takes a function"):
        hm.load(path)
