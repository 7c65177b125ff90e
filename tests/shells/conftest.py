"""One scenario, three colours: threads, asyncio and uvloop.

The test itself stands outside, in its own thread. A colour makes calls in the background and answers with futures, so
a scenario reads the same whether a call blocks a thread or suspends a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from hormesis import Policy
from hormesis.events import Event, EventBus

PATIENCE = 20.0
"""Seconds after which something that should happen won't."""


class Dependency:
    """What a policy protects. Each call takes the next step of a script, and the last step for ever.

    A step is an answer, a function to call for the answer, an exception class to raise, or a future: then the call
    stays inside until the test resolves it. `raised` holds the exceptions, and `cancelled` counts the calls that were.
    """

    def __init__(self, *steps: Any) -> None:
        self._steps = list(steps)
        self._entered = threading.Semaphore(0)
        self.calls = 0
        self.cancelled = 0
        self.raised: list[BaseException] = []

    def sync(self, *args: Any) -> Any:
        step = self._next()
        return self._play(step.result(PATIENCE) if isinstance(step, Future) else step)

    async def async_(self, *args: Any) -> Any:
        step = self._next()
        if not isinstance(step, Future):
            return self._play(step)
        try:
            return self._play(await _outcome(step))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def wait_until_inside(self, calls: int = 1) -> None:
        """Wait until so many more calls have come in."""
        for _ in range(calls):
            assert self._entered.acquire(timeout=PATIENCE), "nobody called"

    def _next(self) -> Any:
        step = self._steps[min(self.calls, len(self._steps) - 1)]
        self.calls += 1
        self._entered.release()
        return step

    def _play(self, step: Any) -> Any:
        outcome = step() if callable(step) else step
        if isinstance(outcome, BaseException):
            self.raised.append(outcome)
            raise outcome
        return outcome


async def _outcome(step: Future[Any]) -> Any:
    """Wait for a future that other calls may wait for as well: cancelling this call cancels none of the others."""
    loop = asyncio.get_running_loop()
    resolved = asyncio.Event()

    def wake(step: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(resolved.set)

    step.add_done_callback(wake)
    await resolved.wait()
    return step.result()


class Colour:
    """A way of making calls: threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(50)

    def start(self, policy: Policy, dependency: Dependency, *args: Any) -> Future[Any]:
        """Make a call in the background, in a copy of the test's context."""
        context = contextvars.copy_context()
        return self._pool.submit(lambda: context.run(policy.call, dependency.sync, *args))

    def call(self, policy: Policy, dependency: Dependency, *args: Any) -> Any:
        """Make a call and wait for what comes of it."""
        return self.start(policy, dependency, *args).result(PATIENCE)

    def paint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Turn a plain function into one of this colour."""
        return function

    def nest(self, policy: Policy, dependency: Dependency) -> Dependency:
        """Return a dependency that calls another under a policy of its own."""
        nested = Dependency()
        nested.sync = functools.partial(policy.call, dependency.sync)  # type: ignore[method-assign]
        return nested

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class AsyncColour(Colour):
    """A way of making calls: tasks on a loop that runs in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, daemon=True)
        self._thread.start()

    def start(self, policy: Policy, dependency: Dependency, *args: Any) -> Future[Any]:
        answer: Future[Any] = Future()

        async def call() -> None:
            # The future of the task itself would replace a TimeoutError by another one.
            try:
                answer.set_result(await policy.acall(dependency.async_, *args))
            except BaseException as error:
                answer.set_exception(error)

        asyncio.run_coroutine_threadsafe(call(), self._loop)
        return answer

    def paint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def painted(*args: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args)

        return painted

    def nest(self, policy: Policy, dependency: Dependency) -> Dependency:
        nested = Dependency()
        nested.async_ = functools.partial(policy.acall, dependency.async_)  # type: ignore[method-assign]
        return nested

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.fixture(params=["threads", "asyncio", "uvloop"])
def colour(request: pytest.FixtureRequest) -> Iterator[Colour]:
    """Make calls in one of the three colours."""
    made: Colour
    if request.param == "threads":
        made = Colour()
    elif request.param == "asyncio":
        made = AsyncColour(asyncio.new_event_loop())
    else:
        made = AsyncColour(pytest.importorskip("uvloop").new_event_loop())
    yield made
    made.stop()


@pytest.fixture
def is_async(colour: Colour) -> bool:
    """Whether this colour can be cancelled."""
    return isinstance(colour, AsyncColour)


@pytest.fixture
def dependency() -> type[Dependency]:
    """Return the class of scripted dependencies."""
    return Dependency


class Heard:
    """A bus, and what was published on it."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.listen(self.events.append)

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


@pytest.fixture
def heard() -> Heard:
    """Listen to a bus of the test's own."""
    return Heard()
