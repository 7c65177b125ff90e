"""What queues, pipelines and streams cost for each item, against what the standard library has, in one run.

Each case is timed in short rounds, interleaved with all others, and the fastest round counts: on a shared machine the
minimum is what the code costs. Ratios to the case named are the result; microseconds are for orientation. Every round
checks that each item has arrived.

    python benchmarks/flow.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import json
import queue
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from hormesis.flow import Pipeline, Queue, iterate, publisher_of

_ITEMS = 2_000
"""Items of a round: some milliseconds."""

Round = Callable[[], Awaitable[int]]


@dataclasses.dataclass(slots=True)
class Case:
    """Something to time.

    Args:
        name: What it is.
        run: Sends `_ITEMS` items and returns how many have arrived.
        against: The case that it is compared with; empty for one that others are compared with.
    """

    name: str
    run: Round
    against: str = ""
    best: float = float("inf")


async def numbers() -> AsyncIterator[int]:
    """The source of all streams."""
    for number in range(_ITEMS):
        yield number


async def work(number: int) -> int:
    """A function that waits once, as whatever does I/O."""
    await asyncio.sleep(0)
    return number


def pairs(put: Callable[[int], Awaitable[Any]], get: Callable[[], Awaitable[int]]) -> Round:
    """Put an item and take it, over and over; nobody waits."""

    async def run() -> int:
        arrived = 0
        for number in range(_ITEMS):
            await put(number)
            arrived += await get() == number
        return arrived

    return run


def two_tasks(make: Callable[[], tuple[Callable[[int], Awaitable[Any]], Callable[[], Awaitable[int]]]]) -> Round:
    """One task puts and another takes, through a queue of ten."""

    async def run() -> int:
        put, get = make()

        async def feed() -> None:
            for number in range(_ITEMS):
                await put(number)

        async def take() -> int:
            return sum([await get() == number for number in range(_ITEMS)])

        _, arrived = await asyncio.gather(feed(), take())
        return arrived

    return run


def synchronous(put: Callable[[int], Any], get: Callable[[], int]) -> Round:
    """Put an item and take it, without a loop's help."""

    async def run() -> int:
        arrived = 0
        for number in range(_ITEMS):
            put(number)
            arrived += get() == number
        return arrived

    return run


def counted(stream: Callable[[], AsyncIterator[Any]]) -> Round:
    """Iterate over a stream."""

    async def run() -> int:
        arrived = 0
        async for _ in stream():
            arrived += 1
        return arrived

    return run


async def calls_at_once() -> int:
    """The same work by hand: sixteen at a time, with a semaphore and a task for each."""
    places, arrived = asyncio.Semaphore(16), 0

    async def one(number: int) -> int:
        try:
            return await work(number)
        finally:
            places.release()

    tasks = []
    async for number in numbers():
        await places.acquire()
        tasks.append(asyncio.create_task(one(number)))
    for task in tasks:
        await task
        arrived += 1
    return arrived


async def calls_in_turn() -> int:
    """The same work by hand, one at a time."""
    arrived = 0
    async for number in numbers():
        await work(number)
        arrived += 1
    return arrived


def cases() -> list[Case]:
    """All that is timed."""
    theirs: asyncio.Queue[int] = asyncio.Queue(10)
    threads: queue.Queue[int] = queue.Queue(10)
    plain = Queue[int](10, overflow="block")
    sized = Queue[int](10, overflow="block", max_bytes=1000, size=int.bit_length)
    aged = Queue[int](10, overflow="block", max_age="10s")
    keyed = Queue[int](10, overflow="conflate", key=lambda number: number, otherwise="block")

    def tasks_of_theirs() -> Any:
        made: asyncio.Queue[int] = asyncio.Queue(10)
        return made.put, made.get

    def tasks_of_ours() -> Any:
        made = Queue[int](10, overflow="block")
        return made.aput, made.aget

    return [
        Case("asyncio.Queue", pairs(theirs.put, theirs.get)),
        Case("Queue", pairs(plain.aput, plain.aget), "asyncio.Queue"),
        Case("Queue, bytes", pairs(sized.aput, sized.aget), "asyncio.Queue"),
        Case("Queue, max_age", pairs(aged.aput, aged.aget), "asyncio.Queue"),
        Case("Queue, conflate", pairs(keyed.aput, keyed.aget), "asyncio.Queue"),
        Case("asyncio.Queue, two tasks", two_tasks(tasks_of_theirs)),
        Case("Queue, two tasks", two_tasks(tasks_of_ours), "asyncio.Queue, two tasks"),
        Case("queue.Queue", synchronous(threads.put, threads.get)),
        Case("Queue in threads", synchronous(plain.put, plain.get), "queue.Queue"),
        Case("async for", counted(numbers)),
        Case("Pipeline", counted(lambda: Pipeline(numbers()).open()), "async for"),
        Case("Pipeline, prefetch 32", counted(lambda: Pipeline(numbers()).prefetch(32).open()), "async for"),
        Case("iterate(publisher_of)", counted(lambda: iterate(publisher_of(numbers()))), "async for"),
        Case("calls in turn", calls_in_turn),
        Case("Pipeline.map", counted(lambda: Pipeline(numbers()).map(work).open()), "calls in turn"),
        Case("calls at once", calls_at_once),
        Case(
            "Pipeline.map, 16 at once",
            counted(lambda: Pipeline(numbers()).map(work, concurrency=16).open()),
            "calls at once",
        ),
    ]


async def measure(rounds: int) -> list[Case]:
    """Time all cases, round after round."""
    measured = cases()
    for _ in range(rounds):
        for case in measured:
            began = time.perf_counter()
            arrived = await case.run()
            took = time.perf_counter() - began
            if arrived != _ITEMS:
                raise SystemExit(f"{case.name}: {arrived} of {_ITEMS} items have arrived")
            case.best = min(case.best, took / _ITEMS)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    gc.disable()
    measured = asyncio.run(measure(arguments.rounds))
    by_name = {case.name: case for case in measured}
    results = {}
    for case in measured:
        ratio = case.best / by_name[case.against].best if case.against else None
        results[case.name] = {"seconds": case.best, "against": case.against, "ratio": ratio}
        compared = f"{ratio:6.1f} x {case.against}" if ratio is not None else ""
        print(f"{case.name:28} {case.best * 1e6:8.2f} µs {compared}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
