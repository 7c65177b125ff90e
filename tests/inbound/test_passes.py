"""How often a request waits for its loop: counted without being in the way."""

from __future__ import annotations

import asyncio

import pytest

from hormesis.inbound.passes import Counted, Passes


def test_each_suspension_is_counted() -> None:
    """Every time that it hands the loop over, and the result is handed on."""

    async def app() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        return "tea"

    async def main() -> tuple[str, int]:
        counted = Counted(app())
        return await counted.result(), counted.suspensions

    assert asyncio.run(main()) == ("tea", 3)


def test_what_never_waits_is_not_suspended() -> None:
    """An answer from memory costs no pass but the first."""

    async def app() -> None:
        """Answer at once."""

    async def main() -> int:
        counted = Counted(app())
        await counted
        return counted.suspensions

    assert asyncio.run(main()) == 0


def test_what_it_raises_is_raised() -> None:
    """An exception passes as it is."""

    async def app() -> None:
        await asyncio.sleep(0)
        raise KeyError("tea")

    async def main() -> None:
        await Counted(app())

    with pytest.raises(KeyError, match="tea"):
        asyncio.run(main())


def test_a_cancellation_arrives_where_it_waits() -> None:
    """It can be handled there, and ends the task if it is not."""
    seen: list[str] = []

    async def app() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            raise
        return "never"

    async def main() -> None:
        task = asyncio.ensure_future(Counted(app()).result())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["cancelled"]


def test_a_swallowed_cancellation_stays_swallowed() -> None:
    """The count goes on behind it."""

    async def app() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "tea"

    async def main() -> tuple[str, int]:
        counted = Counted(app())
        task = asyncio.ensure_future(counted.result())
        await asyncio.sleep(0)
        task.cancel()
        return await task, counted.suspensions

    assert asyncio.run(main()) == ("tea", 2)


def test_closing_it_closes_what_it_awaits() -> None:
    """What is given up in the middle can still clean up."""
    seen: list[str] = []

    async def app() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("closed")

    steps = Counted(app()).result()
    steps.send(None)
    steps.close()
    assert seen == ["closed"]


def test_any_awaitable_will_do() -> None:
    """An application may return a future instead of a coroutine."""

    async def main() -> tuple[int, int]:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        counted = Counted(future)
        return await counted.result(), counted.suspensions

    assert asyncio.run(main()) == (7, 1)


def test_all_of_the_first_are_wanted_and_then_some() -> None:
    """Counting costs next to nothing in the long run."""
    passes = Passes()
    wanted = [passes.wanted() for _ in range(850)]
    assert all(wanted[:50])
    assert sum(wanted[50:]) == 100


def test_one_that_never_ends_does_not_count_for_all() -> None:
    """A request that was suspended a million times moves the mean by a bounded step."""
    passes = Passes()
    for _ in range(100):
        passes.counted(1)
    passes.counted(1_000_000)
    assert passes.mean < 8
