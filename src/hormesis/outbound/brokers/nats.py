"""NATS JetStream: a durable pull consumer, asked for no more messages than there is room for.

The server hands out what a pull asks for and counts what is not acknowledged, over all replicas of a consumer, up to
`max_ack_pending`; and it hands out again what was not acknowledged within `ack_wait`, which work that takes longer
extends (`in_progress`).

A message that is given back counts as delivered, since the server counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.outbound.brokers.consumer import Pulled
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

try:
    from nats import errors
    from nats.aio.client import Client
    from nats.js.api import AckPolicy, ConsumerConfig
    from nats.js.errors import NoStreamResponseError, ServiceUnavailableError
except ImportError as error:
    raise MissingExtraError("a consumer of NATS JetStream", "nats") from error

if TYPE_CHECKING:
    from nats.js.client import JetStreamContext

__all__ = ["JetStream"]

_WAIT = 0.25
"""Seconds that a pull waits for messages, and so the longest that a stop waits for a pull."""


class JetStream:
    """Messages of a subject, as a durable consumer of JetStream sees them.

    Args:
        client: A connected client of nats-py; it stays the caller's to close.
        subject: The subject; a stream must have it.
        durable: The consumer's name, which all replicas share; it is made if there is none.
        stream: The stream's name; by default that which has the subject.
        ack_wait: How long a message may go without a sign of life before it is handed out again.
        max_ack_pending: Messages that may be unacknowledged at a time, over all replicas.
        dead_letters: The subject of dead letters, which a stream must have; without one they are only given up.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        client: Client,
        subject: str,
        *,
        durable: str,
        stream: str | None = None,
        ack_wait: Duration = 30.0,
        # The server's own default: less than the room of all replicas together holds them up.
        max_ack_pending: int = 1000,
        dead_letters: str | None = None,
    ) -> None:
        if not isinstance(client, Client):
            raise ConfigurationError.bad_value("client", client, "a client of nats-py")
        self._client = client
        self.name = subject
        self._durable = durable
        self._stream = stream
        self._ack_wait = seconds(ack_wait, "ack_wait")
        self._max_ack_pending = whole("max_ack_pending", max_ack_pending, 1, 10_000_000)
        self._dead = dead_letters
        self.heartbeat: float | None = self._ack_wait / 3
        self.lost: tuple[type[Exception], ...] = (
            errors.ConnectionClosedError,
            errors.ConnectionReconnectingError,
            errors.NoRespondersError,
            errors.NoServersError,
            errors.OutboundBufferLimitError,
            errors.StaleConnectionError,
            NoStreamResponseError,
            ServiceUnavailableError,
            TimeoutError,
            OSError,
        )
        self._subscription: JetStreamContext.PullSubscription | None = None
        self._streaming = client.jetstream()

    async def open(self, room: int) -> None:
        """Make the durable consumer, or use the one that is there."""
        await self._unsubscribe()
        config = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT, ack_wait=self._ack_wait, max_ack_pending=self._max_ack_pending
        )
        self._subscription = await self._streaming.pull_subscribe(
            self.name, durable=self._durable, stream=self._stream, config=config
        )

    async def pull(self, most: int) -> Sequence[Pulled]:
        """Return what the server has, up to so many."""
        subscription = self._subscription
        if subscription is None:
            raise errors.ConnectionClosedError
        try:
            found = await subscription.fetch(most, timeout=_WAIT)
        except TimeoutError:
            if not self._client.is_connected:
                raise
            return []
        return [self._pulled(message) for message in found]

    async def pause(self) -> None:
        """Nothing: what is not asked for does not come."""

    async def resume(self, held: int) -> None:
        """Nothing."""

    async def acknowledge(self, message: Pulled) -> None:
        """Say that a message is processed, and wait until the server knows."""
        await message.token.ack_sync(timeout=5)

    async def again(self, message: Pulled, delay: float) -> None:
        """Have the server hand it out again after a while."""
        await message.token.nak(delay=delay)

    async def bury(self, message: Pulled, reason: str) -> None:
        """Publish it among the dead letters, and tell the server to give it up."""
        if self._dead is not None:
            headers = {**message.headers, "Hormesis-Reason": _one_line(reason), "Hormesis-Subject": self.name}
            headers["Hormesis-Attempts"] = str(message.attempt)
            # Buried twice is stored once.
            headers["Nats-Msg-Id"] = f"{self.name} {message.id}"
            await self._streaming.publish(self._dead, message.body, headers=headers, timeout=5)
        await message.token.term()

    async def give_back(self, messages: Sequence[Pulled]) -> None:
        """Have the server hand them out again at once."""
        for message in messages:
            await message.token.nak()
        await self._client.flush(5)

    async def extend(self, messages: Sequence[Pulled]) -> None:
        """Say that they are still being worked on."""
        for message in messages:
            await message.token.in_progress()

    async def close(self) -> None:
        """Ask for nothing any more."""
        await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._client.is_closed:
            await subscription.unsubscribe()
            await asyncio.sleep(0)

    def _pulled(self, message: Any) -> Pulled:
        metadata = message.metadata
        return Pulled(
            str(metadata.sequence.stream), message.data, dict(message.headers or {}), metadata.num_delivered, message
        )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
