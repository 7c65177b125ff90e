"""What the tests of this room share: cancelling a task at each of its suspensions in turn."""

from __future__ import annotations

import asyncio
import gc
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

import pytest

from hormesis.testing import run_virtual

Journey = Callable[[Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]], Coroutine[Any, Any, None]]


@types.coroutine
def _cancelled_at(place: int, waking: bool, reached: list[int], coroutine: Any) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel its task at the n-th suspension: while it waits, or when what it waits for came."""
    task, passed = asyncio.current_task(), 0
    assert task is not None
    resume: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731  replaced after each suspension
    while True:
        try:
            awaited = resume()
        except StopIteration as stop:
            return stop.value
        passed += 1
        if passed == place:
            reached.append(place)
            if waking and awaited is not None:
                awaited.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        try:
            yield awaited
        except BaseException as error:
            resume = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            resume = lambda: coroutine.send(None)  # noqa: E731


@pytest.fixture(params=[False, True], ids=["while it waits", "while it wakes"])
def sweep(request: pytest.FixtureRequest) -> Callable[[Journey], int]:
    """Return the function that runs a journey once for each place at which one of its tasks can be cancelled.

    A journey is a coroutine function that is handed the function which starts that task. It returns how many places
    there were.
    """

    def run(journey: Journey) -> int:
        place = 1
        while True:
            reached: list[int] = []

            async def cancelled(coroutine: Any, place: int = place, reached: Any = reached) -> Any:
                return await _cancelled_at(place, request.param, reached, coroutine)

            def start(coroutine: Any, cancelled: Any = cancelled) -> asyncio.Task[Any]:
                return asyncio.create_task(cancelled(coroutine))

            run_virtual(journey(start))
            if not reached:
                return place - 1
            place += 1

    return run


@pytest.fixture
def nothing_left() -> Iterator[Callable[[], None]]:
    """Return the function that asserts that no other task is about."""

    def check() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, others

    yield check
    gc.collect()
