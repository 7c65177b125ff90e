"""Three brokers of our own, each a real server that starts once, behind one face."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
_numbers = itertools.count()


class Broker(Protocol):
    """What the tests do with a broker besides consuming."""

    kind: str
    url: str

    async def make(self, queue: str) -> None:
        """Make a queue."""
        ...

    async def publish(self, queue: str, *bodies: bytes) -> None:
        """Put messages into a queue."""
        ...

    def transport(self, queue: str, *, missed_after: float = 30.0) -> Any:
        """The queue as a consumer sees it; a message that nobody works on is missed after so many seconds."""
        ...

    async def left(self, queue: str) -> int:
        """Messages of a queue that are not acknowledged."""
        ...

    async def dead(self, queue: str) -> list[bytes]:
        """The dead letters of a queue."""
        ...


class Redis:
    kind = "redis"

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis as Client

        self.url = url
        self.client = Client.from_url(url)

    async def make(self, queue: str) -> None:
        await self.client.xgroup_create(queue, "group", id="0", mkstream=True)

    async def publish(self, queue: str, *bodies: bytes) -> None:
        for body in bodies:
            await self.client.xadd(queue, {"body": body, "kind": "test"})

    def transport(self, queue: str, *, missed_after: float = 30.0) -> Any:
        from hormesis.outbound.brokers.redis_streams import RedisStream

        return RedisStream(self.client, queue, group="group", claim_after=missed_after)

    async def left(self, queue: str) -> int:
        pending = await self.client.xpending(queue, "group")
        (group,) = await self.client.xinfo_groups(queue)
        new = await self.client.xrange(queue, b"(" + group["last-delivered-id"], "+")
        return int(pending["pending"]) + len(new)

    async def dead(self, queue: str) -> list[bytes]:
        return [fields[b"body"] for _, fields in await self.client.xrange(f"{queue}:dead")]

    async def close(self) -> None:
        await self.client.aclose()


class Nats:
    kind = "nats"

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        import nats

        self.client = await nats.connect(self.url)
        self.streaming = self.client.jetstream()

    async def make(self, queue: str) -> None:
        await self.streaming.add_stream(name=queue, subjects=[queue, f"{queue}.dead"])

    async def publish(self, queue: str, *bodies: bytes) -> None:
        for body in bodies:
            await self.streaming.publish(queue, body, headers={"kind": "test"})

    def transport(self, queue: str, *, missed_after: float = 30.0) -> Any:
        from hormesis.outbound.brokers.nats import JetStream

        return JetStream(self.client, queue, durable="group", ack_wait=missed_after, dead_letters=f"{queue}.dead")

    async def left(self, queue: str) -> int:
        info = await self.streaming.consumer_info(queue, "group")
        return (info.num_ack_pending or 0) + (info.num_pending or 0)

    async def dead(self, queue: str) -> list[bytes]:
        subscription = await self.streaming.pull_subscribe(f"{queue}.dead", stream=queue)
        found = []
        with contextlib.suppress(TimeoutError):
            found = await subscription.fetch(100, timeout=0.3)
        await subscription.unsubscribe()
        return [message.data for message in found]

    async def close(self) -> None:
        await self.client.close()


class Rabbit:
    kind = "rabbitmq"

    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self) -> None:
        import aio_pika

        self.connection = await aio_pika.connect(self.url)
        self.channel = await self.connection.channel()

    async def make(self, queue: str) -> None:
        await self.channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})

    async def publish(self, queue: str, *bodies: bytes) -> None:
        import aio_pika

        for body in bodies:
            await self.channel.default_exchange.publish(aio_pika.Message(body, headers={"kind": "test"}), queue)

    def transport(self, queue: str, *, missed_after: float = 30.0) -> Any:
        from hormesis.outbound.brokers.rabbitmq import RabbitQueue

        return RabbitQueue(self.url, queue)

    async def left(self, queue: str) -> int:
        # Nobody consumes any more, so what was not acknowledged is ready again.
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def dead(self, queue: str) -> list[bytes]:
        channel = await self.connection.channel()
        found = []
        try:
            dead = await channel.get_queue(f"{queue}.dead")
            while (message := await dead.get(fail=False)) is not None:
                found.append(message.body)
                await message.ack()
        finally:
            await channel.close()
        return found

    async def close(self) -> None:
        await self.connection.close()


KINDS: dict[str, Callable[[str], Any]] = {"redis": Redis, "nats": Nats, "rabbitmq": Rabbit}


def servers() -> ModuleType:
    """Load what starts servers; the benchmarks are no package."""
    name = "hormesis_benchmarks_servers"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / "servers.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@contextlib.contextmanager
def started(kind: str, **settings: str) -> Iterator[str]:
    """Start a server; where it is missing, CI fails and anybody else is told what brings it."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(getattr(servers(), kind)(**settings))
        except FileNotFoundError as missing:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(missing))
        yield url


@pytest.fixture(scope="session")
def broker_urls() -> Iterator[Callable[[str], str]]:
    """Return the function that gives the URL of a broker of a kind, which starts when it is first asked for."""
    with contextlib.ExitStack() as stack:
        urls: dict[str, str] = {}

        def url(kind: str) -> str:
            if kind not in urls:
                urls[kind] = stack.enter_context(started(kind))
            return urls[kind]

        yield url


@contextlib.asynccontextmanager
async def connected(kind: str, url: str) -> AsyncIterator[Any]:
    broker = KINDS[kind](url)
    if hasattr(broker, "open"):
        await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


Scenario = Callable[[Any, str], Any]


@pytest.fixture(params=KINDS)
def with_broker(request: pytest.FixtureRequest, broker_urls: Callable[[str], str]) -> Callable[[Scenario], None]:
    """Return the function that runs a scenario with a broker, and with a queue of its own."""
    kind = request.param
    url = broker_urls(kind)

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with connected(kind, url) as broker, asyncio.timeout(30):
                queue = f"orders{next(_numbers)}"
                await broker.make(queue)
                await scenario(broker, queue)

        asyncio.run(main())

    return run
