"""The process that sends a scenario's load: an open loop, in which a latency counts from when the request was due.

It reads what to send from a line of JSON, and writes a row for each request to a file: when it was due, how late it was
sent, when it ended, its status, and its stream. How late it was says whether the run means anything: a generator that
lags measures itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import uvloop
from client import GONE, TIMED_OUT, Client
from place import die_with_parent, take

import hormesis as hm
from hormesis.headers import deadline_headers
from hormesis.loadgen.schedule import Segment, arrivals
from hormesis.priority import Criticality, priority_headers

_LEAD = 0.2
"""Seconds from the last preparation until the first request is due."""

Ask: TypeAlias = Callable[[int, str, dict[str, str]], Awaitable[int]]
"""Sends a request of a client (by number) to a path, with headers; returns its status."""


class Unanswered(Exception):
    """An attempt was refused, or its time was over."""


class Schedule:
    """When each request is due, and of which stream it is."""

    def __init__(self, spec: dict[str, Any]) -> None:
        due: list[tuple[float, int]] = []
        for number, stream in enumerate(spec["streams"]):
            segments = [Segment(seconds, rate) for seconds, rate in stream["segments"]]
            due += [(at, number) for at in arrivals(segments, seed=f"{spec['seed']}/{number}")]
        self.due = sorted(due)


def once(client: Client, spec: dict[str, Any]) -> Ask:
    """Clients that ask once."""

    def ask(number: int, path: str, headers: dict[str, str]) -> Awaitable[int]:  # noqa: ARG001  all are alike
        return client.get(path, headers, spec["timeout"])

    return ask


def retrying(client: Client, spec: dict[str, Any], *, budget: bool) -> Ask:
    """Clients that ask again when they are not answered: with a budget and a deadline that travels, or without both."""
    retries = spec["retries"]
    patience = retries["timeout"]
    again: dict[str, Any] = {"attempts": retries["attempts"], "on": Unanswered, "delay": "100ms"}
    if not budget:
        again["budget"] = None
    policies = [hm.Policy(hm.Retry(**again), name=f"client-{number}") for number in range(retries["clients"])]

    async def attempt(path: str, headers: dict[str, str]) -> int:
        if budget:
            headers = {**headers, **deadline_headers(patience)}
        status = await client.get(path, headers, patience)
        if status != 200:
            raise Unanswered(status)
        return status

    async def ask(number: int, path: str, headers: dict[str, str]) -> int:
        try:
            return await policies[number % len(policies)].acall(attempt, path, headers)
        except Unanswered as last:
            return int(last.args[0])

    return ask


async def send(spec: dict[str, Any]) -> list[list[float]]:
    """Send it all; returns a row for each request."""
    schedule = Schedule(spec)
    client = Client(spec["port"])
    await client.warm(spec["warm"])
    kind = spec["clients"]
    ask = once(client, spec) if kind == "once" else retrying(client, spec, budget=kind == "budget")
    paths = [stream["path"] for stream in spec["streams"]]
    constant = [
        {**priority_headers(Criticality(stream["criticality"])), **({"x-tenant": tenant} if tenant else {})}
        for stream in spec["streams"]
        for tenant in [stream["tenant"]]
    ]
    late, ended, status = array("d"), array("d"), array("i")
    late.frombytes(bytes(8 * len(schedule.due)))
    ended.frombytes(bytes(8 * len(schedule.due)))
    status.extend([GONE] * len(schedule.due))
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()

    async def one(index: int, due: float, stream: int) -> None:
        late[index] = monotonic() - begin - due
        headers = {"x-request-id": f"{spec['seed']}-{index}", **constant[stream]}
        status[index] = await ask(index, paths[stream], headers)
        ended[index] = monotonic() - begin

    begin = monotonic() + _LEAD
    print(json.dumps({"begin": begin}), flush=True)
    for index, (due, stream) in enumerate(schedule.due):
        if (wait := begin + due - monotonic()) > 0:
            await asyncio.sleep(wait)
        task = loop.create_task(one(index, due, stream))
        running.add(task)
        task.add_done_callback(running.discard)
    # What is due near the end is waited for, and no longer than its clients would.
    if running:
        await asyncio.wait(running, timeout=spec["grace"])
    return [
        [due, late[index], ended[index], status[index] if ended[index] else TIMED_OUT, stream]
        for index, (due, stream) in enumerate(schedule.due)
    ]


async def saturate(spec: dict[str, Any]) -> None:
    """Have so many requests waiting always, and print how many are answered in a second."""
    client = Client(spec["port"])
    count_from = monotonic() + 1.0
    end = count_from + spec["seconds"]
    counted = 0

    async def one() -> None:
        nonlocal counted
        while monotonic() < end:
            if await client.get("/work", {}, 10 * spec["seconds"]) != 200:
                raise RuntimeError("a request was not answered while the capacity was measured")
            counted += count_from <= monotonic() < end

    await asyncio.gather(*(one() for _ in range(spec["saturate"])))
    print(json.dumps({"capacity": counted / spec["seconds"]}), flush=True)


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    take(told["core"])
    die_with_parent()
    if "saturate" in told:
        uvloop.run(saturate(told))
    else:
        Path(told["record"]).write_text(json.dumps(uvloop.run(send(told))))
