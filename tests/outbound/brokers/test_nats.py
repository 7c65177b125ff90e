"""What only JetStream has: a bound over all replicas, subjects of dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import nats
import pytest

from hormesis.errors import ConfigurationError
from hormesis.outbound.brokers import Consumer, Message
from hormesis.outbound.brokers.nats import JetStream

pytestmark = pytest.mark.system


def run(broker_urls: Callable[[str], str], scenario: Callable[[Any, Any], Any]) -> None:
    async def main() -> None:
        client = await nats.connect(broker_urls("nats"))
        try:
            async with asyncio.timeout(20):
                await scenario(client, client.jetstream())
        finally:
            await client.close()

    asyncio.run(main())


def test_a_bound_over_all_replicas(broker_urls: Callable[[str], str]) -> None:
    """However much room the replicas have, no more is out at a time than the consumer's bound."""

    async def scenario(client: Any, streaming: Any) -> None:
        await streaming.add_stream(name="bounded", subjects=["bounded"])
        for number in range(30):
            await streaming.publish("bounded", str(number).encode())
        consumers = [Consumer(JetStream(client, "bounded", durable="g", max_ack_pending=7), room=10) for _ in range(2)]
        done: list[bytes] = []
        most = 0

        async def handle(message: Message) -> None:
            nonlocal most
            most = max(most, sum(consumer.held for consumer in consumers))
            await asyncio.sleep(0.01)
            done.append(message.body)
            if len(done) == 30:
                for consumer in consumers:
                    consumer.stop()

        await asyncio.gather(*(consumer.run(handle) for consumer in consumers))
        assert sorted(done, key=int) == [str(number).encode() for number in range(30)]
        assert most <= 7

    run(broker_urls, scenario)


def test_dead_letters(broker_urls: Callable[[str], str]) -> None:
    """A dead letter keeps its headers and says why; without a subject for them a message is given up."""

    async def scenario(client: Any, streaming: Any) -> None:
        await streaming.add_stream(name="letters", subjects=["letters", "letters.dead"])
        await streaming.publish("letters", b"tea", headers={"shop": "eu"})
        for dead in ("letters.dead", None):
            if dead is None:
                await streaming.publish("letters", b"rum")
            queue = JetStream(client, "letters", durable="g", dead_letters=dead)
            async with Consumer(queue, attempts=1) as consumer:
                message = await consumer.next()
                assert message is not None
                await message.retry()
            assert (await streaming.consumer_info("letters", "g")).num_ack_pending == 0
        subscription = await streaming.pull_subscribe("letters.dead", stream="letters")
        (letter,) = await subscription.fetch(5, timeout=0.5)
        assert letter.data == b"tea"
        assert letter.headers["shop"] == "eu"
        assert letter.headers["Hormesis-Reason"] == "retry"

    run(broker_urls, scenario)


def test_a_client_is_one() -> None:
    """What is no client of nats-py is refused."""
    with pytest.raises(ConfigurationError, match="client is"):
        JetStream("nats://", "x", durable="g")  # type: ignore[arg-type]
