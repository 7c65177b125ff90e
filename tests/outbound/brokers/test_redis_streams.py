"""What only Redis Streams have: clients that decode, entries that are gone, deliveries that don't count."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from hormesis.errors import ConfigurationError
from hormesis.outbound.brokers import Consumer, Message
from hormesis.outbound.brokers.redis_streams import RedisStream

pytestmark = pytest.mark.system


def run(broker_urls: Callable[[str], str], scenario: Callable[[Any], Any], **options: Any) -> None:
    async def main() -> None:
        async with Redis.from_url(broker_urls("redis"), **options) as client, asyncio.timeout(20):
            await client.flushall()
            await scenario(client)

    asyncio.run(main())


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "text"])
def test_clients_of_every_kind(broker_urls: Callable[[str], str], protocol: int, decode: bool) -> None:
    """Whatever a client makes of answers, messages are the same, and so are the dead letters."""

    async def scenario(client: Any) -> None:
        await client.xadd("orders", {"data": "tea", "shop": "eu"})
        seen: list[Message] = []
        consumer = Consumer(
            RedisStream(client, "orders", group="g", claim_after="100ms", field="data"), attempts=2, delay="10ms"
        )

        async def handle(message: Message) -> None:
            seen.append(message)
            if len(seen) == 2:
                consumer.stop()
            raise ValueError("poison")

        await consumer.run(handle)
        assert [(each.body, dict(each.headers), each.attempt) for each in seen] == [
            (b"tea", {"shop": "eu"}, 1),
            (b"tea", {"shop": "eu"}, 2),
        ]
        ((_, fields),) = await client.xrange("orders:dead")
        dead = {(k if decode else k.decode()): (v if decode else v.decode()) for k, v in fields.items()}
        assert dead == {
            "data": "tea",
            "shop": "eu",
            "reason": "ValueError: poison",
            "id": seen[0].id,
            "attempts": "2",
        }
        # Who leaves with nothing pending leaves nothing behind.
        assert await client.xinfo_consumers("orders", "g") == []

    run(broker_urls, scenario, protocol=protocol, decode_responses=decode)


def test_an_entry_that_was_deleted_holds_nothing_up(broker_urls: Callable[[str], str]) -> None:
    """A pending entry whose message is gone from the stream is passed over, and those behind it are processed."""

    async def scenario(client: Any) -> None:
        await client.xgroup_create("orders", "g", id="0", mkstream=True)
        gone, *_ = [await client.xadd("orders", {"body": body}) for body in ("gone", "left", "too")]
        await client.xreadgroup("g", "dead consumer", {"orders": ">"})
        await client.xdel("orders", gone)
        seen: list[bytes] = []
        consumer = Consumer(RedisStream(client, "orders", group="g", claim_after="50ms"))

        async def handle(message: Message) -> None:
            seen.append(message.body)
            if len(seen) == 2:
                consumer.stop()

        await consumer.run(handle)
        assert seen == [b"left", b"too"]

    run(broker_urls, scenario)


@pytest.mark.parametrize("doing", ["waits", "works"])
def test_a_group_that_is_gone_is_made_again(broker_urls: Callable[[str], str], doing: str) -> None:
    """A Redis that has lost its data holds a consumer up, and does not end it."""

    async def scenario(client: Any) -> None:
        queue = RedisStream(client, "orders", group="g", claim_after="300ms")
        consumer = Consumer(queue, delay="10ms")
        seen: list[bytes] = []
        begun = asyncio.Event()

        async def handle(message: Message) -> None:
            begun.set()
            if message.body == b"lost":
                await asyncio.sleep(0.4 if doing == "works" else 0)
                raise KeyError
            seen.append(message.body)
            consumer.stop()

        async def loses() -> None:
            await begun.wait()
            await client.flushall()
            await asyncio.sleep(0.5)
            await client.xadd("orders", {"body": "tea"})

        await client.xadd("orders", {"body": "lost"})
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(consumer.run(handle))
            group.create_task(loses())
        assert seen == [b"tea"]

    run(broker_urls, scenario)


def test_a_stop_after_everything_was_lost(broker_urls: Callable[[str], str]) -> None:
    """Where nothing is left to be given back, a stop is a stop."""

    async def scenario(client: Any) -> None:
        await client.xadd("orders", {"body": "tea"})
        async with Consumer(RedisStream(client, "orders", group="g")) as consumer:
            assert await consumer.next() is not None
            consumer.stop()
            await client.flushall()

    run(broker_urls, scenario)


def test_what_is_given_back_was_no_attempt(broker_urls: Callable[[str], str]) -> None:
    """A message that goes back unprocessed comes to the next consumer at once, as the first time."""

    async def scenario(client: Any) -> None:
        await client.xadd("orders", {"body": "tea"})
        for _ in range(3):
            async with Consumer(RedisStream(client, "orders", group="g")) as consumer:
                message = await consumer.next()
                assert message is not None
                assert message.attempt == 1

    run(broker_urls, scenario)


def test_a_client_is_one(broker_urls: Callable[[str], str]) -> None:
    """A synchronous client, or none, is refused."""
    with pytest.raises(ConfigurationError, match="client is"):
        RedisStream("redis://", "orders", group="g")  # type: ignore[arg-type]
