"""What every consumer promises, against the real servers: Redis Streams, NATS JetStream and RabbitMQ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.events import Event, EventBus
from hormesis.outbound.brokers import Consumer, Message

pytestmark = pytest.mark.system

WithBroker = Callable[[Callable[[Any, str], Any]], None]

BODIES = [f"order-{number}".encode() for number in range(40)]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something holds that others bring about."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  there is no event for what a test makes up
            await asyncio.sleep(0.005)


class Works:
    """A handler that writes down what it has processed, and stops the consumer after so many."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.bodies: list[bytes] = []
        self.consumer: Consumer | None = None
        self._stop_after = stop_after

    async def __call__(self, message: Message) -> None:
        self.bodies.append(message.body)
        if len(set(self.bodies)) == self._stop_after:
            assert self.consumer is not None
            self.consumer.stop()


async def process_all(broker: Any, queue: str, expected: int, **settings: Any) -> list[bytes]:
    """Process what a queue has, until there were so many different ones."""
    works = Works(expected)
    works.consumer = Consumer(broker.transport(queue, missed_after=settings.pop("missed_after", 30.0)), **settings)
    await works.consumer.run(works)
    return works.bodies


def test_every_message_is_processed(with_broker: WithBroker) -> None:
    """What is in a queue is processed, once as nothing goes wrong, and is acknowledged."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES)
        seen: list[Message] = []
        consumer = Consumer(broker.transport(queue), room=8)

        async def handle(message: Message) -> None:
            seen.append(message)
            if len(seen) == len(BODIES):
                consumer.stop()

        await consumer.run(handle, concurrency=4)
        assert sorted(message.body for message in seen) == sorted(BODIES)
        assert {message.attempt for message in seen} == {1}
        assert {message.headers["kind"] for message in seen} == {"test"}
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_no_more_is_pulled_than_there_is_room_for(with_broker: WithBroker) -> None:
    """A consumer whose handlers stand still holds no more than it has room for, and pauses between two marks."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES)
        events: list[Event] = []
        bus = EventBus()
        bus.listen(events.append)
        gate, most, done = asyncio.Semaphore(0), 0, 0
        consumer = Consumer(broker.transport(queue), room=6, resume_at=2, events=bus)

        async def handle(message: Message) -> None:
            nonlocal most, done
            most = max(most, consumer.held)
            await gate.acquire()
            done += 1

        running = asyncio.ensure_future(consumer.run(handle, concurrency=2))
        await until(lambda: consumer.paused)
        await asyncio.sleep(0.2)
        assert consumer.held == 6
        for _ in range(3):
            gate.release()
        await until(lambda: done == 3)
        await asyncio.sleep(0.2)
        assert consumer.held == 3  # between the marks nothing is pulled
        gate.release()
        await until(lambda: consumer.held == 6)
        for _ in range(100):
            gate.release()
        await until(lambda: done == len(BODIES))
        consumer.stop()
        await running
        assert most <= 6
        assert [event.name for event in events[:3]] == ["flow_paused", "flow_resumed", "flow_paused"]
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_failure_is_tried_again_and_becomes_a_dead_letter(with_broker: WithBroker) -> None:
    """A message whose handler raises is tried as often as was said, after a while each time, and then buried."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, b"good", b"poison", b"flaky", b"better")
        tries: Counter[bytes] = Counter()
        attempts: list[int] = []
        consumer = Consumer(broker.transport(queue), attempts=3, delay="50ms", delay_max="100ms")

        async def handle(message: Message) -> None:
            tries[message.body] += 1
            if message.body == b"poison":
                attempts.append(message.attempt)
                raise ValueError("poison")
            if message.body == b"flaky" and tries[b"flaky"] == 1:
                raise RuntimeError("not now")

        running = asyncio.ensure_future(consumer.run(handle))
        await until(lambda: tries[b"poison"] == 3 and tries[b"flaky"] == 2)
        consumer.stop()
        await running
        assert tries == {b"good": 1, b"better": 1, b"flaky": 2, b"poison": 3}
        assert attempts == [1, 2, 3]
        assert await broker.dead(queue) == [b"poison"]
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_stop_ends_what_is_in_work_and_gives_back_the_rest(with_broker: WithBroker) -> None:
    """A consumer that stops finishes its work; what waited goes to another one, and nothing is done twice."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES)
        gate, begun, ended = asyncio.Event(), [], []
        consumer = Consumer(broker.transport(queue), room=10)

        async def handle(message: Message) -> None:
            begun.append(message.body)
            await gate.wait()
            ended.append(message.body)

        running = asyncio.ensure_future(consumer.run(handle, concurrency=3))
        await until(lambda: consumer.held == 10 and len(begun) == 3)
        consumer.stop()
        await asyncio.sleep(0.05)
        assert not running.done()
        gate.set()
        await running
        assert len(ended) == 3
        assert consumer.held == 0
        rest = await process_all(broker, queue, len(BODIES) - 3)
        assert sorted(ended + rest) == sorted(BODIES)
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_cancellation_loses_nothing(with_broker: WithBroker) -> None:
    """What was in work when a consumer is cancelled goes to another one, and so does what waited."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES)
        ended: list[bytes] = []

        async def handle(message: Message) -> None:
            if len(ended) == 5:
                await asyncio.sleep(3600)
            ended.append(message.body)

        running = asyncio.ensure_future(Consumer(broker.transport(queue), room=10).run(handle, concurrency=2))
        await until(lambda: len(ended) == 5)
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        rest = await process_all(broker, queue, len(BODIES) - 5)
        assert sorted(ended + rest) == sorted(BODIES)
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_killed_process_loses_nothing(with_broker: WithBroker, tmp_path: Path) -> None:
    """A process that is killed in the middle of its work has its messages processed by another one."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES)
        done = tmp_path / "done"
        victim = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).parent / "programs" / "victim.py"),
            broker.kind,
            broker.url,
            queue,
            str(done),
            cwd=Path(__file__).parents[3],
        )
        await until(lambda: done.exists() and done.read_text().count("\n") >= 10)
        os.kill(victim.pid, signal.SIGKILL)
        await victim.wait()
        first = [line.encode() for line in done.read_text().splitlines()]
        assert len(first) < len(BODIES)
        left = set(BODIES) - set(first)
        rest: list[bytes] = []
        consumer = Consumer(broker.transport(queue, missed_after=1.0))

        async def handle(message: Message) -> None:
            rest.append(message.body)
            if left <= set(rest):
                consumer.stop()

        await consumer.run(handle)
        assert set(first) | set(rest) == set(BODIES)
        assert len(first) + len(rest) <= len(BODIES) + 4  # no more than what was in work

    with_broker(scenario)


def test_long_work_is_not_done_twice(with_broker: WithBroker) -> None:
    """A message that takes longer than others are patient is not handed out again while somebody works on it."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, b"long")
        begun: list[bytes] = []

        async def handle(message: Message) -> None:
            begun.append(message.body)
            await asyncio.sleep(0.8)

        consumers = [Consumer(broker.transport(queue, missed_after=0.3)) for _ in range(2)]
        running = [asyncio.ensure_future(consumer.run(handle)) for consumer in consumers]
        await asyncio.sleep(1.0)
        for consumer in consumers:
            consumer.stop()
        await asyncio.gather(*running)
        assert begun == [b"long"]
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_messages_one_after_the_other(with_broker: WithBroker) -> None:
    """In a loop each message is acknowledged when the next is asked for; one that raises is tried again."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, *BODIES[:5])
        seen = []
        with contextlib.suppress(ValueError):
            async with Consumer(broker.transport(queue), delay="10ms", delay_max="10ms") as consumer:
                async for message in consumer:
                    seen.append(message.body)
                    if len(seen) == 3:
                        raise ValueError("the third")
        assert await broker.left(queue) <= 3
        again = []
        async with Consumer(broker.transport(queue)) as consumer:
            async for message in consumer:
                again.append(message.body)
                if message.body == seen[2]:
                    assert message.attempt >= 2
                if len(again) == 3:
                    consumer.stop()
        assert sorted(seen[:2] + again) == sorted(BODIES[:5])
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_pause_by_hand(with_broker: WithBroker) -> None:
    """A consumer that was told to pause gets nothing until it is told to go on."""

    async def scenario(broker: Any, queue: str) -> None:
        works = Works()
        consumer = Consumer(broker.transport(queue))
        running = asyncio.ensure_future(consumer.run(works))
        await broker.publish(queue, b"before")
        await until(lambda: works.bodies == [b"before"])
        consumer.pause()
        await until(lambda: consumer.paused)
        await broker.publish(queue, b"after")
        await asyncio.sleep(0.5)
        assert works.bodies == [b"before"]
        consumer.resume()
        await until(lambda: works.bodies == [b"before", b"after"])
        consumer.stop()
        await running

    with_broker(scenario)


def test_a_message_says_itself_what_becomes_of_it(with_broker: WithBroker) -> None:
    """A handler may bury, give back, retry or acknowledge a message by itself; the first word counts."""

    async def scenario(broker: Any, queue: str) -> None:
        await broker.publish(queue, b"bury", b"back", b"retry", b"ack")
        seen: Counter[bytes] = Counter()
        consumer = Consumer(broker.transport(queue))

        async def handle(message: Message) -> None:
            seen[message.body] += 1
            match message.body:
                case b"bury":
                    await message.bury("nobody wants it\nat all")
                case b"back" if seen[b"back"] == 1:
                    await message.give_back()
                case b"retry" if seen[b"retry"] == 1:
                    await message.retry("10ms")
                    await message.ack()
                case b"ack":
                    await message.ack()
                    raise ValueError("too late")
                case _:
                    pass

        running = asyncio.ensure_future(consumer.run(handle))
        # What failed in Redis waits as long as what was left behind, at the most.
        await until(lambda: seen == {b"bury": 1, b"back": 2, b"retry": 2, b"ack": 1})
        consumer.stop()
        await running
        assert await broker.dead(queue) == [b"bury"]
        assert await broker.left(queue) == 0

    with_broker(scenario)


def test_a_consumer_is_used_once_at_a_time(with_broker: WithBroker) -> None:
    """Two loops over one consumer would each count the other's messages."""

    async def scenario(broker: Any, queue: str) -> None:
        async with Consumer(broker.transport(queue)) as consumer:
            with pytest.raises(ConfigurationError, match="in use"):
                await consumer.run(Works())

    with_broker(scenario)
