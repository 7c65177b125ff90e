"""The service of the scenarios: waits as for others, then needs the processor, behind what the arm's name says.

It runs under uvicorn, as one process on a core of its own, and is told everything by one line of JSON. What it did
(limit, in flight, processor time) it writes to a file when it gets SIGUSR1, and then it is gone: a server that works on
a backlog of minutes could not be asked otherwise.

A request waits in `asyncio.sleep`, lognormal. Then it burns processor time in the event loop, exponential: counted by
the thread's own clock, so that what a neighbour takes of the core makes the server slower, and a request not cheaper.
Both times are drawn from shuffled decks of their distributions' percentiles, so that a stretch of a few hundred
requests needs what it would on average, and short runs can be compared.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import NormalDist
from time import monotonic, process_time, thread_time
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from arms import App, Limit, Receive, Scope, Send, answer, protect
from client import Client
from place import die_with_parent, take

from hormesis.headers import request_id_headers, request_id_of

_DECK = 200
_SAMPLE_EVERY = 0.1
"""Seconds between two samples of what the server does."""


def deck(quantile: Callable[[float], float], draws: random.Random) -> Iterator[float]:
    """Yield a distribution's percentiles for ever, each once before any comes again, scaled to a mean of 1."""
    values = [quantile((number + 0.5) / _DECK) for number in range(_DECK)]
    mean = sum(values) / _DECK
    while True:
        draws.shuffle(values)
        yield from (value / mean for value in values)


class Service:
    """What the application does, and how that changes while it runs."""

    def __init__(self, spec: dict[str, Any]) -> None:
        sigma = math.sqrt(math.log(1 + spec["io_cv"] ** 2))
        normal = NormalDist()
        self._io = deck(lambda q: math.exp(sigma * normal.inv_cdf(q)), random.Random(f"{spec['seed']}/io"))
        self._work = deck(lambda q: -math.log(1 - q), random.Random(f"{spec['seed']}/work"))
        self._spec = spec
        self.changes: list[dict[str, float]] = []
        """Each from a time until another: processor time by a factor, I/O by seconds."""
        self.in_flight = 0

    def _changed(self) -> tuple[float, float]:
        now = monotonic()
        for change in self.changes:
            if change["begin"] <= now < change["end"]:
                return change["work"], change["io"]
        return 1.0, 0.0

    async def work(self) -> None:
        """Do what one request takes."""
        spec = self._spec
        self.in_flight += 1
        try:
            await asyncio.sleep(next(self._io) * spec["io"] + self._changed()[1])
            slowed = 1 + spec["slowing"] * max(0, self.in_flight - 20)
            until = thread_time() + next(self._work) * spec["work"] * self._changed()[0] * slowed
            while thread_time() < until:
                pass
        finally:
            self.in_flight -= 1


def working(service: Service) -> App:
    """The service that has the work."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  as ASGI has it
        await service.work()
        await answer(send, 200, b"ok")

    return app


def calling(spec: dict[str, Any]) -> App:
    """The service in front of it: calls it `?calls=` times in a row, handing on the id of the request."""
    clients: list[Client] = []
    draws = random.Random(f"{spec['seed']}/calling")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  as ASGI has it
        if not clients:
            clients.append(Client(spec["upstream"]))
        headers = request_id_headers(request_id_of(scope["headers"]))
        good = True
        for number in range(int(scope["query_string"].removeprefix(b"calls="))):
            if number:
                await asyncio.sleep(draws.expovariate(1 / 0.010))
            began = monotonic()
            status = await clients[0].get("/work", headers, spec["timeout"])
            good = good and status == 200 and monotonic() - began <= spec["slo"]
        await answer(send, 200 if good else 502, b"ok" if good else b"no")

    return app


def controlled(app: App, service: Service | None) -> App:
    """In front of all: `/control?…`, which says what changes and when; uvicorn's lifespan needs no answer."""

    async def control(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/control":
            if service is not None:
                service.changes = json.loads(scope["query_string"].decode().replace("%22", '"').replace("%20", " "))
            await answer(send, 200, b"ok")
            return
        await app(scope, receive, send)

    return control


class Recorder:
    """Samples what the server does."""

    def __init__(self, path: Path, limit: Limit, service: Service | None) -> None:
        self._path = path
        self._limit = limit
        self._service = service
        self._samples: list[tuple[float, float, int, float, float]] = []
        signal.signal(signal.SIGUSR1, self._write)

    async def run(self) -> None:
        """Take samples for ever."""
        while True:
            self._sample()
            await asyncio.sleep(_SAMPLE_EVERY)

    def _sample(self) -> None:
        limit = self._limit()
        in_flight = self._service.in_flight if self._service is not None else 0
        self._samples.append((monotonic(), limit, in_flight, process_time(), waited_for_the_core()))

    def _write(self, number: int, frame: FrameType | None) -> None:
        self._sample()
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._samples))
        part.rename(self._path)
        os._exit(0)


def waited_for_the_core() -> float:
    """Seconds in which this process could have run and did not, because others did; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


async def serve(spec: dict[str, Any]) -> None:
    """Serve until a signal comes."""
    if "upstream" in spec:
        service, app, limit = None, calling(spec), lambda: math.inf
    else:
        service = Service(spec)
        app, limit = protect(working(service), spec["arm"], spec["slo"])
    recorder = asyncio.ensure_future(Recorder(Path(spec["record"]), limit, service).run())
    config = uvicorn.Config(
        controlled(app, service),
        port=spec["port"],
        log_level="error",
        access_log=False,
        # Longer than a run: a connection that is closed while it is used again is no part of any scenario.
        timeout_keep_alive=120,
        backlog=8192,
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        recorder.cancel()


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    take(told["core"])
    die_with_parent()

    uvloop.run(serve(told))
