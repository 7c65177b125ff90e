"""What only RabbitMQ has: a broker that blocks whoever publishes, connections that are ours, prefetch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aio_pika
import pytest

from hormesis.errors import ConfigurationError
from hormesis.outbound.brokers import Consumer, Message
from hormesis.outbound.brokers.rabbitmq import Publisher, RabbitQueue

pytestmark = pytest.mark.system


@pytest.fixture
def rabbitmq(broker_urls: Callable[[str], Any]) -> Any:
    """A RabbitMQ of our own."""
    return broker_urls("rabbitmq")


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds that others bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  there is no event for what a test makes up
            await asyncio.sleep(0.01)


class Way:
    """A way to the broker that can be cut."""

    def __init__(self, url: str) -> None:
        self._host, port = url.split("@")[1].rstrip("/").split(":")
        self._port = int(port)
        self._writers: list[asyncio.StreamWriter] = []
        self.url = ""

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.sleep(0.05)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, there_writer]

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
            target.transport.abort()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))


def test_a_cut_connection_loses_nothing(rabbitmq: str) -> None:
    """When the connection is cut, the consumer makes another, and what it held comes again."""

    async def main() -> None:
        bodies = [str(number).encode() for number in range(60)]
        done: list[bytes] = []
        async with Publisher(rabbitmq) as publisher, Way(rabbitmq) as way:
            queue = RabbitQueue(way.url, "cut")
            await queue.open(1)
            await queue.close()
            for body in bodies:
                await publisher.publish("cut", body)
            consumer = Consumer(RabbitQueue(way.url, "cut"), room=8)

            async def handle(message: Message) -> None:
                await asyncio.sleep(0.01)
                done.append(message.body)
                if len(done) in (10, 25):
                    way.cut()
                if len(set(done)) == len(bodies):
                    consumer.stop()

            async with asyncio.timeout(30):
                await consumer.run(handle, concurrency=2)
        assert set(done) == set(bodies)
        assert len(done) <= len(bodies) + 2 * 8

    asyncio.run(main())


def test_the_broker_sends_no_more_than_the_prefetch(rabbitmq: str) -> None:
    """However many messages there are, what the broker has sent and nobody has ended is never more than the room."""

    async def main() -> None:
        async with Publisher(rabbitmq) as publisher:
            transport = RabbitQueue(rabbitmq, "prefetch", declare="classic")
            await transport.open(5)
            await asyncio.gather(*(publisher.publish("prefetch", b"x") for _ in range(30)))
            await until(lambda: len(transport._arrived) == 5)
            await asyncio.sleep(0.2)
            assert len(transport._arrived) == 5
            pulled = await transport.pull(2)
            assert len(pulled) == 2
            # A consumer that resumes begins with what is free, until what it held has ended.
            await transport.pause()
            await transport.acknowledge(pulled[0])
            await asyncio.sleep(0.2)
            assert len(transport._arrived) == 3
            await transport.resume(4)
            await until(lambda: len(transport._arrived) == 4)
            await asyncio.sleep(0.2)
            assert len(transport._arrived) == 4
            await transport.acknowledge(pulled[1])
            while rest := await transport.pull(4):
                for message in rest:
                    await transport.acknowledge(message)
                if not transport._arrived:
                    break
            for message in await transport.pull(5):
                await transport.acknowledge(message)
            await until(lambda: transport._prefetch == 5 or not transport._arrived)
            await transport.close()

    asyncio.run(main())


def test_a_dead_letter_that_no_queue_takes_is_not_lost(rabbitmq: str) -> None:
    """A message whose copy the broker refuses goes back, and does not stay held by nobody."""

    async def main() -> None:
        async with Publisher(rabbitmq) as publisher:
            consumer = Consumer(RabbitQueue(rabbitmq, "refused"), room=1, attempts=1)
            buried: list[bytes] = []

            async def handle(message: Message) -> None:
                if message.body == b"good":
                    consumer.stop()
                    return
                buried.append(message.body)
                if len(buried) == 2:
                    # Somebody deletes the queue of dead letters, of which it is known that it was there.
                    async with await aio_pika.connect(rabbitmq) as other:
                        await (await other.channel()).queue_delete("refused.dead")
                if len(buried) == 3:
                    await publisher.publish("refused", b"good")
                raise KeyError

            async with asyncio.timeout(30):
                running = asyncio.ensure_future(consumer.run(handle, concurrency=1))
                await until(lambda: consumer.transport._queue is not None)  # type: ignore[attr-defined]
                for body in (b"first", b"second"):
                    await publisher.publish("refused", body)
                await running
            # The second was tried again, as its dead letter was refused, and then there was a queue for it.
            assert buried == [b"first", b"second", b"second"]
            async with await aio_pika.connect(rabbitmq) as other:
                dead = await (await other.channel()).get_queue("refused.dead")
                letter = await dead.get()
                assert letter is not None
                assert letter.body == b"second"

    asyncio.run(main())


def test_a_publisher_is_told_to_wait(rabbitmq: Any) -> None:
    """A broker that is short of memory blocks who publishes; its pace is held until the broker goes on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Publisher(rabbitmq, patience="300ms") as publisher:
            queue = RabbitQueue(rabbitmq, "blocked")
            await queue.open(1)
            await queue.close()
            await publisher.publish("blocked", b"before", headers={"a": "b"}, message_id="m")
            assert not publisher.pace.held
            await loop.run_in_executor(None, rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "1MB")
            publishing = asyncio.ensure_future(publisher.publish("blocked", b"while"))
            await until(lambda: publisher.pace.held)
            ready = asyncio.ensure_future(publisher.pace.ready())
            await asyncio.sleep(0.5)
            assert not publishing.done()
            assert not ready.done()
            await loop.run_in_executor(None, rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "1GB")
            async with asyncio.timeout(20):
                await publishing
                await ready
            assert not publisher.pace.held
            seen: list[bytes] = []
            async with Consumer(RabbitQueue(rabbitmq, "blocked")) as consumer:
                async for message in consumer:
                    seen.append(message.body)
                    if len(seen) == 2:
                        consumer.stop()
            assert seen == [b"before", b"while"]

    asyncio.run(main())


def test_a_message_that_no_queue_takes_is_an_error(rabbitmq: str) -> None:
    """A publisher hears of what would vanish."""

    async def main() -> None:
        async with Publisher(rabbitmq) as publisher:
            with pytest.raises(Exception, match="NO_ROUTE"):
                await publisher.publish("no such queue", b"x")

    asyncio.run(main())


def test_a_queue_that_must_be_there(rabbitmq: str) -> None:
    """A queue that is not to be made, and is not there, is an error at once."""

    async def main() -> None:
        async def handle(message: Message) -> None:
            """Do nothing."""

        with pytest.raises(Exception, match="NOT_FOUND"):
            await Consumer(RabbitQueue(rabbitmq, "no such queue", declare=None)).run(handle)

    asyncio.run(main())
    with pytest.raises(ConfigurationError, match="declare is"):
        RabbitQueue(rabbitmq, "x", declare="fast")  # type: ignore[arg-type]
