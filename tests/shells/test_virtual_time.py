"""`hormesis.testing`: time that passes at once."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import pytest

import hormesis as hm
from hormesis.clock import MONOTONIC, Clock
from hormesis.testing import DeadlockError, ManualClock, VirtualClock, run_virtual


@pytest.mark.parametrize("clock", [ManualClock(), VirtualClock(), MONOTONIC], ids=lambda clock: type(clock).__name__)
def test_clocks_are_clocks(clock: Clock) -> None:
    """Every clock can be handed to a policy."""
    assert run_virtual(hm.Policy(hm.Deadline("5s"), clock=clock).acall(asyncio.sleep, 0, 3)) == 3


def test_a_manual_clock_moves_when_told_and_when_slept_on() -> None:
    """`advance` and both sleeps move it by as much, and nobody waits."""
    clock, began = ManualClock(start=5), time.monotonic()
    clock.advance("1h")
    clock.sleep(60)
    asyncio.run(clock.sleep_async(0.5))
    assert clock.now() == 5 + 3600 + 60 + 0.5
    assert time.monotonic() - began < 30


def test_a_manual_clock_does_not_go_back() -> None:
    """A monotonic clock refuses a negative step."""
    with pytest.raises(hm.ConfigurationError):
        ManualClock().advance(-1)


def test_threads_move_a_manual_clock_together() -> None:
    """No step is lost when several threads sleep on one clock."""
    clock = ManualClock()

    def sleep_often() -> None:
        for _ in range(1000):
            clock.sleep(1)

    threads = [threading.Thread(target=sleep_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now() == 4000


def test_tasks_sleep_side_by_side() -> None:
    """Timers run in their order and at their time, however long they are."""
    order: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await asyncio.sleep(nap)
            order.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(sleeper("a", 10, 10), sleeper("b", 15), sleeper("c", 86400 * 365))

    run_virtual(main())
    assert [name for name, _ in order] == ["a", "b", "a", "c"]
    assert [at for _, at in order] == pytest.approx([10, 15, 20, 86400 * 365])
    assert order[:3] == [("a", 10.0), ("b", 15.0), ("a", 20.0)]


def test_timeouts_are_exact() -> None:
    """A timeout that comes with the end of what it guards loses to what was there first."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3.0):
                await asyncio.sleep(3.5)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3.0


def test_the_result_and_the_error_come_out() -> None:
    """`run_virtual` returns and raises what the coroutine does."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_virtual(fail())
    assert run_virtual(asyncio.sleep(1, "done")) == "done"


def test_a_deadlock_is_told() -> None:
    """When nothing would ever happen again, the error names the tasks and where they wait."""

    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(forgotten(), name="the-one")

    with pytest.raises(DeadlockError, match=r"the-one: .*forgotten waits in Event\.wait") as caught:
        run_virtual(main(), patience="10ms")
    assert "main waits in" in str(caught.value)


def test_a_deadlock_of_very_many_tasks_is_told_in_few_lines() -> None:
    """The message is bounded."""

    async def main() -> None:
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(1000)))

    with pytest.raises(DeadlockError, match="and 991 more") as caught:
        run_virtual(main(), patience="10ms")
    assert str(caught.value).count("\n") < 20


def test_real_sockets_work() -> None:
    """What comes over a socket comes before a timer that is further away than it takes."""

    async def main() -> bytes:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"tea\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    assert run_virtual(main(), patience="20s") == b"tea\n"


def test_timers_go_on_beside_an_idle_socket() -> None:
    """A socket on which nothing comes holds time up for no more than the patience."""

    async def main() -> float:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3600):
                    await asyncio.get_running_loop().sock_recv(ours, 1)
        return asyncio.get_running_loop().time()

    assert run_virtual(main(), patience="10ms") == 3600


@pytest.mark.parametrize("timer", [None, 3600])
def test_executor_threads_are_waited_for(timer: float | None) -> None:
    """Work in a thread is done before time goes on, and takes no virtual time."""

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(timer):
            answer = await asyncio.to_thread(work)
        return answer, asyncio.get_running_loop().time()

    def work() -> str:
        time.sleep(0.02)
        return "done"

    assert run_virtual(main(), patience="20s") == ("done", 0.0)


def test_other_threads_are_waited_for_when_nothing_else_is_scheduled() -> None:
    """A thread that the loop does not know of may still wake it."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        timer = threading.Timer(0.02, lambda: loop.call_soon_threadsafe(answer.set_result, "woken"))
        timer.start()
        return await answer

    assert run_virtual(main(), patience="20s") == "woken"


def test_a_blocking_sleep_takes_everybodys_time() -> None:
    """A synchronous call inside the loop that sleeps on the virtual clock holds all tasks up."""
    clock = VirtualClock()

    async def main() -> float:
        other = asyncio.create_task(asyncio.sleep(1))
        await asyncio.sleep(0)
        clock.sleep(5)
        await other
        return clock.now()

    assert run_virtual(main()) == 5.0


@pytest.mark.parametrize("use", [VirtualClock().now, lambda: VirtualClock().sleep(1)], ids=["now", "sleep"])
def test_a_virtual_clock_outside_of_its_loop(use: Any) -> None:
    """It tells the time only inside `run_virtual`; anywhere else it says so."""

    async def main() -> None:
        use()

    with pytest.raises(RuntimeError, match="run_virtual"):
        asyncio.run(main())
    with pytest.raises(RuntimeError, match="no running event loop"):
        use()
