"""An ASGI application that takes items into a queue, and says when to come back while the queue is full.

    queue = Queue(1000, overflow="fail", pause_at=0.8, resume_at=0.5)
    app.mount("/events", IngestEndpoint(queue))

A request is accepted (202) when its item is in the queue. From the high mark on, requests are turned away with 503 and
a `Retry-After`, until the queue has fallen to the low mark: a client that heeds it is as good as one that was paused.
The time to come back is what the queue took for its last items, multiplied by how many have to go before the low mark
is reached; each client is told one of its own, up to half as long again, so that they don't all come back at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

from hormesis.clock import Random, system_random
from hormesis.errors import ConfigurationError
from hormesis.flow.errors import ItemTooLarge, QueueClosed, QueueFull
from hormesis.flow.queue import Queue
from hormesis.flow.settings import Size, byte_size
from hormesis.flow.wire.asgi import Receive, Scope, Send, answer
from hormesis.flow.wire.codecs import JSON, Codec
from hormesis.units import Duration, seconds

__all__ = ["IngestEndpoint"]

_log = logging.getLogger("hormesis.flow")


class IngestEndpoint:
    """Puts the body of each POST into a queue, or says when to come back.

    Args:
        queue: Where the items go; one with `pause_at`, and that does not block.
        codec: How a body becomes an item.
        max_body: The largest body.
        body_max: How long a client may take for sending its body.
        retry_after_max: The longest time that a client is told.
        random: Where the spread of these times comes from.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        queue: Queue[Any],
        *,
        codec: Codec[Any] = JSON,
        max_body: Size = 1_000_000,
        body_max: Duration = 10.0,
        retry_after_max: Duration = 30.0,
        random: Random | None = None,
    ) -> None:
        if not isinstance(queue, Queue):
            raise ConfigurationError.bad_value("queue", queue, "a Queue")
        self._queue = queue
        self._codec = codec
        self._max_body = byte_size(max_body, "max_body")
        self._body_max = seconds(body_max, "body_max")
        self._retry_after_max = seconds(retry_after_max, "retry_after_max")
        self._random = random or system_random()
        self._seen: tuple[float, int] | None = None
        self._taking = 0.0
        """Seconds that the queue's consumer took for an item, lately."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; ASGI servers and frameworks call this."""
        if scope["type"] != "http":
            return
        if scope["method"] != "POST":
            await answer(send, 405, "items are sent by POST", ("allow", "POST"))
            return
        self._observe()
        if self._queue.paused:
            await self._turn_away(send)
            return
        body = await self._body(receive)
        if isinstance(body, int):
            detail = {408: "the body did not come in time", 413: f"a body has {self._max_body} bytes at most"}
            if body != 499:
                await answer(send, body, detail[body])
            return
        try:
            item = self._codec.decode(body)
        except ValueError as error:
            await answer(send, 400, f"the body can't be read: {str(error)[:200]}")
            return
        try:
            taken = self._queue.put_nowait(item)
        except (QueueFull, QueueClosed):
            taken = False
        except ItemTooLarge as error:
            await answer(send, 413, str(error))
            return
        except Exception as error:
            # The queue's functions for keys and sizes can't make anything of what somebody sent, which may be no item.
            _log.warning("queue %r can't take an item that was sent: %r", self._queue.name, error)
            await answer(send, 400, "the body is no item that the queue can take")
            return
        if not taken:
            await self._turn_away(send)
        else:
            await send({"type": "http.response.start", "status": 202, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    def retry_after(self) -> float:
        """Seconds until the queue has fallen to its low mark, if it goes on as lately; 1 when nobody knows."""
        items = self._queue.snapshot()["items"]
        expected = self._taking * items or 1.0
        return min(self._retry_after_max, max(1.0, expected) * (1 + self._random.random() / 2))

    def _observe(self) -> None:
        now, taken = asyncio.get_running_loop().time(), int(self._queue.snapshot()["taken"])
        if self._seen is None:
            self._seen = (now, taken)
            return
        since, before = self._seen
        if now - since >= 0.5 and taken > before:
            self._taking = (now - since) / (taken - before)
            self._seen = (now, taken)

    async def _turn_away(self, send: Send) -> None:
        await answer(
            send, 503, "there is no room for more at the moment", ("retry-after", str(math.ceil(self.retry_after())))
        )

    async def _body(self, receive: Receive) -> bytes | int:
        """Return the body, or the status that says why there is none; 499 when the client is gone."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_max):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 499
                    body += message.get("body", b"")
                    if len(body) > self._max_body:
                        return 413
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            return 408
