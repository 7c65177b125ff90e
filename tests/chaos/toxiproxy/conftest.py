"""The API over real proxies, in a loop of its own, with a service behind it that echoes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.chaos.toxiproxy.world import PATIENCE, Api, Echo

from hormesis.chaos.toxiproxy import Proxies
from hormesis.chaos.toxiproxy.app import serving


@pytest.fixture(scope="module")
def server() -> Iterator[Api]:
    """A server of the API, for all tests of a module."""
    loop = asyncio.new_event_loop()
    ready: list[Api] = []
    started, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        proxies = Proxies(seed=7)
        try:
            async with serving(proxies, "127.0.0.1", 0) as (url,):
                ready.append(Api(url, proxies, loop))
                started.set()
                await stop.wait()
        finally:
            started.set()
            await proxies.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(PATIENCE)
    yield ready[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)
    loop.close()


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """The server, without proxies."""
    yield server
    server.run(server.proxies.stop())


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a service that echoes."""
    with ExitStack() as stack:
        yield Echo(stack).address
