"""Readers that don't keep up: what they have not taken is bounded, and who breaks the bound is disconnected.

A server that sends to many readers can't wait for the slowest, and can't keep for ever what that one does not take. So
each reader has a `Reader` between the server and its connection:

    async with Reader(websocket.send, max_items=1000, max_bytes="1MB", max_wait="10s") as reader:
        async for update in updates:
            reader.offer(update)

When the reader is too far behind, what runs inside the block is cancelled and the block raises `ReaderTooSlow`; what is
around it closes the connection. When the block ends by itself, what is unsent is sent first, within the same bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from hormesis.clock import MONOTONIC, Clock
from hormesis.core.unsent import Behind, Unsent, UnsentMachine
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.events import EventBus, ReaderDisconnected, bus
from hormesis.flow.errors import ItemTooLarge, ReaderTooSlow
from hormesis.flow.settings import ITEMS_MAX, Size, byte_size, measured, size_of
from hormesis.flow.tasks import end
from hormesis.flow.waiting import InTask
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["Reader"]

T = TypeVar("T")


class Reader(Generic[T]):
    """Sends items to one reader, in order, as long as it keeps up.

    It is used once, as an asynchronous context manager.

    Args:
        send: Sends one item, and returns when the connection has taken it.
        max_items: Items that may be unsent, the one on its way included.
        max_bytes: Bytes that may be unsent, such as `"1MB"`; None when they don't count.
        size: Tells an item's bytes; by default its length.
        max_wait: How long an item may be unsent.
        name: What events and errors call it.
        clock, events: Time and the event bus; for tests.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> sent = []
    >>> async def send(item: int) -> None:
    ...     sent.append(item)
    >>> async def main() -> None:
    ...     async with Reader(send, max_items=10) as reader:
    ...         for item in range(3):
    ...             reader.offer(item)
    >>> asyncio.run(main())
    >>> sent
    [0, 1, 2]
    """

    def __init__(
        self,
        send: Callable[[T], Awaitable[object]],
        *,
        max_items: int,
        max_bytes: Size | None = None,
        size: Callable[[T], int] | None = None,
        # Longer than any hiccup of a network that recovers, and shorter than what a proxy in between keeps alive.
        max_wait: Duration = 30.0,
        name: str = "reader",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        if size is not None and max_bytes is None:
            raise ConfigurationError("size is set and max_bytes is not, which it is for", "size")
        self.name = name
        self.events = events
        self._send = send
        self._clock = clock
        self._max_bytes = None if max_bytes is None else byte_size(max_bytes, "max_bytes")
        self._size: Callable[[Any], int] | None = None if max_bytes is None else size or size_of
        self._unsent: UnsentMachine[T] = UnsentMachine(
            max_items=whole("max_items", max_items, 1, ITEMS_MAX),
            max_bytes=self._max_bytes,
            max_wait=seconds(max_wait, "max_wait"),
            lock=threading.Lock(),
        )
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ending = False
        self._something: InTask | None = None
        self._waiting: set[InTask] = set()
        self._scope = asyncio.timeout(None)
        self._in_block = True
        self._sender: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<Reader {self.name!r}: {len(self._unsent)} unsent>"

    @property
    def unsent(self) -> list[T]:
        """What was offered and not sent, oldest first; the first of it may have been sent in part."""
        return self._unsent.rest()

    def snapshot(self) -> dict[str, Any]:
        """Return how far behind it is, as plain data."""
        return {"items": len(self._unsent), "bytes": self._unsent.size, "connected": self._error is None}

    def offer(self, item: T) -> None:
        """Hand an item over from any thread, without waiting.

        Raises:
            ReaderTooSlow: The reader is too far behind, and is disconnected by that.
            ItemTooLarge: The item alone has more bytes than may be unsent.
        """
        behind = self._unsent.add(item, self._bytes(item), self._clock.now())
        if behind is not None:
            self._disconnect(behind)
        self._wake_sender()

    async def asend(self, item: T) -> None:
        """Hand an item over, and wait for room if there is none: this slows the sender to what the reader takes.

        Raises:
            ReaderTooSlow: The reader took nothing for so long that it was disconnected.
            ItemTooLarge: The item alone has more bytes than may be unsent.
        """
        size = self._bytes(item)
        while (behind := self._unsent.add(item, size, self._clock.now())) is not None:
            if behind == "time":
                self._disconnect(behind)
            room = InTask()
            self._waiting.add(room)
            try:
                await room.wait()
            finally:
                self._waiting.discard(room)
            self._raise_error()
        self._wake_sender()

    async def __aenter__(self) -> Reader[T]:
        if self._sender is not None:
            raise ConfigurationError(f"reader {self.name!r} was used before; each connection has one of its own")
        self._loop = asyncio.get_running_loop()
        await self._scope.__aenter__()
        self._sender = asyncio.create_task(self._send_all(), name=f"reader {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._sender is not None  # noqa: S101
        cut = await self._close_scope(kind, error, traceback)
        try:
            if kind is None and self._error is None:
                self._ending = True
                self._wake_sender()
                await asyncio.wait([self._sender])
        finally:
            await end([self._sender])
        if cut or kind is None:
            self._raise_error()

    async def _close_scope(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Say whether it was the reader that cut the block short, and let nothing cut what comes after it."""
        self._in_block = False
        if not self._scope.expired():
            self._scope.reschedule(None)
        try:
            await self._scope.__aexit__(kind, error, traceback)
        except TimeoutError:
            return True
        return False

    def _bytes(self, item: T) -> int:
        self._raise_error()
        if self._size is None or self._max_bytes is None:
            return 0
        size = measured(self._size, item)
        if size > self._max_bytes:
            raise ItemTooLarge(self.name, size, self._max_bytes)
        return size

    def _wake_sender(self) -> None:
        something = self._something
        if something is not None:
            something.wake()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _send_all(self) -> None:
        try:
            while True:
                # In this order: what is added after the look wakes what was made before it.
                self._something = InTask()
                unsent = self._unsent.first()
                if unsent is not None:
                    await self._send_one(unsent)
                elif self._ending:
                    return
                else:
                    await self._something.wait()
        except ReaderTooSlow:
            pass  # it is told already
        except asyncio.CancelledError as cancelled:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # By something within the connection: what is unsent must not look as if it were sent.
            error = HormesisError(f"sending to reader {self.name!r} was cancelled from within")
            error.__cause__ = cancelled
            self._fail(error)
        except Exception as error:
            self._fail(error)

    async def _send_one(self, unsent: Unsent[T]) -> None:
        left = self._unsent.due - self._clock.now()
        scope = asyncio.timeout(left)
        try:
            async with scope:
                await self._send(unsent.item)
        except TimeoutError:
            if not scope.expired():
                raise
            self._disconnect("time")
        self._unsent.sent()
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        for room in self._waiting:
            room.wake()

    def _disconnect(self, behind: Behind) -> NoReturn:
        error = ReaderTooSlow(self.name, behind, len(self._unsent), self._unsent.size)
        if self._fail(error) and self.events.listeners:
            self.events.publish(
                ReaderDisconnected(
                    at=self._clock.now(),
                    policy=self.name,
                    part="reader",
                    items=error.items,
                    size=error.size,
                    reason=behind,
                )
            )
        raise self._error or error

    def _fail(self, error: Exception) -> bool:
        """Note why it ends, and end what runs inside the block; False if it has ended before."""
        with self._lock:
            if self._error is not None:
                return False
            self._error = error
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have gone, and what ran in it too
                self._loop.call_soon_threadsafe(self._cut)
        return True

    def _cut(self) -> None:
        assert self._sender is not None  # noqa: S101
        self._wake_waiting()
        self._sender.cancel()
        if self._in_block:
            self._scope.reschedule(asyncio.get_running_loop().time())
