"""A process that consumes a queue slowly, and writes down what it has processed; it is there to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hormesis.outbound.brokers import Consumer, Message

kind, url, queue, path = sys.argv[1:] if len(sys.argv) == 5 else ("", "", "", "")


def write(body: bytes) -> None:
    with Path(path).open("a") as file:
        file.write(body.decode() + "\n")


async def transport() -> object:
    match kind:
        case "redis":
            from redis.asyncio import Redis

            from hormesis.outbound.brokers.redis_streams import RedisStream

            return RedisStream(Redis.from_url(url), queue, group="group", claim_after=1.0)
        case "nats":
            import nats

            from hormesis.outbound.brokers.nats import JetStream

            return JetStream(await nats.connect(url), queue, durable="group", ack_wait=1.0)
        case _:
            from hormesis.outbound.brokers.rabbitmq import RabbitQueue

            return RabbitQueue(url, queue)


async def main() -> None:
    async def handle(message: Message) -> None:
        await asyncio.sleep(0.02)
        write(message.body)

    await Consumer(await transport(), room=12).run(handle, concurrency=2)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main())
