"""RabbitMQ: a prefetch of as many messages as there is room for, and a producer that is told when to wait.

A broker of AMQP sends unasked, up to the *prefetch*: messages that are not acknowledged. Without one it sends the whole
queue. Here the prefetch is the room of the consumer, so the broker itself counts what is free, and what is held and
what is on its way are never more. A short pause, between the marks, is left to that. A longer one, by hand, cancels the
consumer at the broker: not the short ones too, since a quorum queue takes back what is on its way then, and counts that
as a delivery. A prefetch is of each consumer by itself, so one that resumes begins with what is free (`basic.qos`).

AMQP can't hand out a message again after a while, nor count how often it was. So one that failed is published anew, to
a queue that keeps it for its delay and then passes it back (dead-lettering by age), with the number of its attempt as a
header, and is acknowledged once the broker has confirmed that. Between the two, a crash leaves it in both: that is a
second time, and no loss. Queues for delays are made as they are needed, for delays rounded up to powers of two
milliseconds, and vanish when they are not used.

**The other way**, a broker that is short of memory or disk stops reading from whoever publishes (`connection.blocked`).
A `Publisher` waits for the confirmation of each message, and while it is blocked its pace is held, so that whoever
feeds it can wait before it makes the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.flow.wire.pace import Pace
from hormesis.outbound.brokers.consumer import Pulled
from hormesis.units import Duration, seconds

try:
    import aio_pika
    import aiormq
    from aio_pika.exceptions import AMQPError, DeliveryError
except ImportError as error:
    raise MissingExtraError("a consumer of RabbitMQ", "rabbitmq") from error

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

__all__ = ["Publisher", "RabbitQueue"]

_WAIT = 0.25
"""Seconds that a pull waits for messages, and so the longest that a stop waits for a pull."""

_REFUSED = 1.0
"""Seconds after which a message goes back whose copy the broker did not take: it comes again at once."""

_ATTEMPT = "hormesis-attempt"
_DELIVERIES = "x-delivery-count"
_DELAY_MAX = 2**36
"""Milliseconds, two years: the longest delay that there is a queue for."""

_LOST: tuple[type[Exception], ...] = (
    AMQPError,
    aiormq.exceptions.AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    DeliveryError,
    OSError,
    TimeoutError,
)


class RabbitQueue:
    """A queue of RabbitMQ.

    Args:
        url: Where the broker is, `amqp:` or `amqps:`; the connection is this queue's own, and is made anew when lost.
        queue: The queue's name.
        declare: What to make it as if it is not there: `"quorum"` (replicated, and it counts deliveries), `"classic"`,
            or None for one that must be there.
        dead_letters: The name of the queue of dead letters; by default the queue's with `.dead` after it.
        patience: How long the broker has for its answers.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        declare: Literal["quorum", "classic"] | None = "quorum",
        dead_letters: str | None = None,
        patience: Duration = 10.0,
    ) -> None:
        if declare not in ("quorum", "classic", None):
            raise ConfigurationError.bad_value("declare", declare, "'quorum', 'classic' or None")
        self._url = url
        self.name = queue
        self._declare = declare
        self._dead = dead_letters or f"{queue}.dead"
        self._patience = seconds(patience, "patience")
        # What is unacknowledged stays ours as long as the connection; its own heartbeats are of the client library.
        self.heartbeat: float | None = None
        self.lost = _LOST
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._queue: AbstractQueue | None = None
        self._tag: str | None = None
        self._room = self._prefetch = 1
        self._arrived: deque[AbstractIncomingMessage] = deque()
        self._news = asyncio.Event()
        self._declared: set[str] = set()

    async def open(self, room: int) -> None:
        """Connect, and let the broker send up to so many messages."""
        await self._disconnect()
        self._connection = await aio_pika.connect(self._url, timeout=self._patience)
        self._channel = channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        if self._declare is None:
            self._queue = await channel.get_queue(self.name, ensure=True)
        else:
            arguments: dict[str, Any] = {"x-queue-type": self._declare}
            self._queue = await channel.declare_queue(self.name, durable=True, arguments=arguments)
        self._declared.clear()
        self._tag = None
        self._room = room
        await self._consume(room)

    async def pull(self, most: int) -> Sequence[Pulled]:
        """Return what the broker has sent, up to so many."""
        if self._channel is None or self._channel.is_closed:
            raise aiormq.exceptions.ChannelInvalidStateError("the channel is closed")
        if most == self._room > self._prefetch and not self._arrived and self._tag is not None:
            # What was held when it resumed has ended, and there is room for all again.
            await self.pause()
            await self._consume(self._room)
        if not self._arrived:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT):
                    await self._news.wait()
        return [_pulled(self._arrived.popleft()) for _ in range(min(most, len(self._arrived)))]

    async def pause(self) -> None:
        """Have the broker send nothing."""
        tag, self._tag = self._tag, None
        if tag is not None and self._queue is not None:
            await self._queue.cancel(tag, timeout=self._patience)

    async def resume(self, held: int) -> None:
        """Have it send again, as many as are free."""
        await self._consume(max(1, self._room - held - len(self._arrived)))

    async def _consume(self, prefetch: int) -> None:
        if self._channel is None or self._queue is None:
            raise aiormq.exceptions.ChannelInvalidStateError("the channel is closed")
        if self._tag is None:
            self._prefetch = prefetch
            await self._channel.set_qos(prefetch_count=prefetch, timeout=self._patience)
            self._tag = await self._queue.consume(self._arrive, timeout=self._patience)

    async def acknowledge(self, message: Pulled) -> None:
        """Say that a message is processed."""
        await message.token.ack()

    async def again(self, message: Pulled, delay: float) -> None:
        """Publish it anew to where it waits for its delay, and acknowledge it."""
        attempt = {_ATTEMPT: message.attempt + 1}
        await self._replace(message, await self._delay_queue(delay), attempt)

    async def bury(self, message: Pulled, reason: str) -> None:
        """Publish it to the queue of dead letters, and acknowledge it."""
        await self._declare_once(self._dead, {"x-queue-type": self._declare or "classic"})
        facts = {"hormesis-reason": reason[:500], "hormesis-queue": self.name, "hormesis-attempts": message.attempt}
        await self._replace(message, self._dead, facts)

    async def give_back(self, messages: Sequence[Pulled]) -> None:
        """Have the broker hand them out again at once."""
        for message in messages:
            await message.token.reject(requeue=True)

    async def extend(self, messages: Sequence[Pulled]) -> None:
        """Nothing: they are ours while the connection lasts."""

    async def close(self) -> None:
        """Disconnect; what the broker has sent and nobody has taken is the broker's again."""
        await self._disconnect()

    async def _arrive(self, message: AbstractIncomingMessage) -> None:
        self._arrived.append(message)
        self._news.set()

    async def _replace(self, message: Pulled, queue: str, headers: Mapping[str, Any]) -> None:
        """Publish it to another queue, and acknowledge the original; where nobody confirms the copy, give that back.

        As long as the connection lives the broker would take it for held, and would not hand it out again.
        """
        try:
            await self._publish(message, queue, headers)
        except (DeliveryError, TimeoutError):
            # Somebody may have deleted the queue.
            self._declared.discard(queue)
            await asyncio.sleep(_REFUSED)
            await message.token.reject(requeue=True)
            raise
        await message.token.ack()

    async def _publish(self, message: Pulled, queue: str, headers: Mapping[str, Any]) -> None:
        if self._channel is None:
            raise aiormq.exceptions.ChannelInvalidStateError("the channel is closed")
        original = message.token
        copy = aio_pika.Message(
            message.body,
            headers={**original.headers, **headers},
            content_type=original.content_type,
            content_encoding=original.content_encoding,
            correlation_id=original.correlation_id,
            message_id=original.message_id,
            type=original.type,
            priority=original.priority,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        copy.headers.pop(_DELIVERIES, None)
        copy.headers.pop("x-death", None)
        await self._channel.default_exchange.publish(copy, queue, mandatory=True, timeout=self._patience)

    async def _delay_queue(self, delay: float) -> str:
        milliseconds = round(delay * 1000)
        if milliseconds < 1:
            return self.name
        age = min(_DELAY_MAX, 2 ** math.ceil(math.log2(milliseconds)))
        name = f"{self.name}.wait.{age}"
        arguments = {
            "x-message-ttl": age,
            "x-expires": age + 60_000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self.name,
        }
        # Declared each time, since it vanishes when it was not used for a while.
        await self._declare_once(name, arguments, again=True)
        return name

    async def _declare_once(self, name: str, arguments: Mapping[str, Any], *, again: bool = False) -> None:
        if self._channel is None:
            raise aiormq.exceptions.ChannelInvalidStateError("the channel is closed")
        if again or name not in self._declared:
            await self._channel.declare_queue(name, durable=True, arguments=dict(arguments), timeout=self._patience)
            self._declared.add(name)

    async def _disconnect(self) -> None:
        connection, self._connection, self._channel, self._queue = self._connection, None, None, None
        self._arrived.clear()
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(*_LOST):
                await connection.close()


def _pulled(message: AbstractIncomingMessage) -> Pulled:
    headers = {str(name): _text(value) for name, value in message.headers.items()}
    attempt = _count(message.headers.get(_ATTEMPT), 1)
    deliveries = _count(message.headers.get(_DELIVERIES), int(bool(message.redelivered)))
    return Pulled(message.message_id or str(message.delivery_tag), message.body, headers, attempt + deliveries, message)


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else default


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class Publisher:
    """Publishes to RabbitMQ, each message confirmed, and is held up while the broker asks for that.

        async with Publisher(url) as publisher:
            async for order in orders:
                await publisher.pace.ready()
                await publisher.publish("orders", order)

    Args:
        url: Where the broker is.
        exchange: The exchange; by default the one whose routing keys are queues.
        patience: How long the broker has for its answers, while it has not said that it is blocked.

    Attributes:
        pace: Held while the broker is blocked.
    """

    def __init__(self, url: str, *, exchange: str = "", patience: Duration = 10.0) -> None:
        self._url = url
        self._exchange_name = exchange
        self._patience = seconds(patience, "patience")
        self.pace = Pace()
        self._connection: AbstractConnection | None = None
        self._exchange: Any = None
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Publisher:
        self._connection = await aio_pika.connect(self._url, timeout=self._patience)
        channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        name = self._exchange_name
        self._exchange = await channel.get_exchange(name) if name else channel.default_exchange
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._connection is not None:
            with contextlib.suppress(*_LOST):
                await self._connection.close()

    async def publish(
        self, routing_key: str, body: bytes, *, headers: Mapping[str, Any] | None = None, message_id: str | None = None
    ) -> None:
        """Publish a message, and return when the broker has it safe; that waits while the broker is blocked.

        Raises:
            Exception: What aio-pika raises: no queue takes it, the broker refused it, the connection was lost.
        """
        message = aio_pika.Message(
            body,
            headers=dict(headers or {}),
            message_id=message_id,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._watch()
        publishing = asyncio.ensure_future(self._exchange.publish(message, routing_key, mandatory=True))
        try:
            while True:
                done, _ = await asyncio.wait([publishing], timeout=self._patience)
                if done:
                    break
                # The broker says that it is blocked when something is published, and not before.
                if not await self._watch():
                    raise TimeoutError(f"the broker has not confirmed a message within {self._patience:g} s")
                await self.pace.ready()
            publishing.result()
        finally:
            publishing.cancel()

    async def _watch(self) -> bool:
        """Hold the pace while the broker is blocked; returns whether it is."""
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._unblocked())
            # One turn of the loop is what it takes to know.
            await asyncio.sleep(0)
        if self._watching.done():
            return False
        self.pace.hold("blocked")
        return True

    async def _unblocked(self) -> None:
        transport = None if self._connection is None else self._connection.transport
        if transport is not None:
            await transport.connection.ready()
        self.pace.release("blocked")
