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
    passes = Passes(every=0.01)
    wanted = [passes.wanted() for _ in range(850)]
    assert all(wanted[:50])
    assert sum(wanted[50:]) == 100


def test_one_that_never_ends_does_not_count_for_all() -> None:
    """A request that was suspended a million times moves the mean by a bounded step."""
    passes = Passes(every=0.01)
    for _ in range(100):
        passes.counted(1, 0.01)
    passes.counted(1_000_000, 0.01)
    assert passes.mean < 8


def five_waits(life: float) -> Passes:
    """Return the waits of requests that wait five times, and so long in all for what is not the loop."""
    passes = Passes(every=0.01)
    for _ in range(1000):
        passes.counted(4, life)
    assert passes.mean == pytest.approx(4.8)
    return passes


def test_one_long_piece_of_work_is_met_once() -> None:
    """However often a request waits, what blocked the loop for a moment is over when it waits again."""
    slow, quick = five_waits(0.048), five_waits(0.0048)
    lags = (0.0, 0.06, 0.0, 0.0, 0.0, 0.0, 0.0)
    # A wait each 10 ms, as the samples are: the block is among the last five of them.
    assert [slow.delay(lag) for lag in lags] == pytest.approx([0, 0.06, 0.06, 0.06, 0.06, 0.06 * 0.8, 0])
    # A wait each millisecond: what came within 10 ms after the block has not met it, but for a short piece.
    assert [quick.delay(lag) for lag in lags] == pytest.approx([0, 0.06 * 70 / 61, 0, 0, 0, 0, 0])


def test_who_comes_while_it_blocks_waits_for_half_of_it() -> None:
    """A sample may stand for others, which would have come meanwhile. In a queue those would have waited as long."""
    passes = five_waits(0.048)
    passes.delay(0.0)
    assert passes.delay(0.06, 7) == pytest.approx((0.06 + 6 * 0.03) / 7)
    for _ in range(5):
        delay = passes.delay(0.06, 7)
    assert delay == pytest.approx(4.8 * 0.06)


@pytest.mark.parametrize("life", [0.005, 0.05, 0.5])
@pytest.mark.parametrize("lag", [0.002, 0.02, 0.2])
def test_a_queue_is_met_at_each_wait(life: float, lag: float) -> None:
    """While the lag stays, a request waits for it as often as it waits, however long it takes otherwise."""
    passes = five_waits(life)
    delays = [passes.delay(lag) for _ in range(8)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(4.8 * lag)


def test_lags_are_kept_for_as_many_waits_as_count() -> None:
    """A request counts for a hundred waits at most, and so many lags are known."""
    passes = Passes(every=0.01)
    for _ in range(10_000):
        passes.counted(1_000_000, 1.0)
    assert max(passes.delay(0.01) for _ in range(500)) == pytest.approx(0.01 * passes.mean)
