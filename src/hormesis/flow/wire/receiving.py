"""The receiving side of a stream: an async iterator that has asked for no more than its window.

An `Inlet` outlives its connections, as the outlet at the other end does: it knows what has come already and what is
processed, so that over any number of connections each item is handed out once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from hormesis.core.credit import Receiver, State
from hormesis.core.credit_boxes import Inbox, Patience, Window
from hormesis.core.credit_frames import (
    Code,
    Failed,
    Finished,
    Opened,
    Received,
    StreamError,
)
from hormesis.flow.wire.channel import channel_of
from hormesis.flow.wire.codecs import JSON, Codec
from hormesis.flow.wire.conversation import Conversation
from hormesis.units import Duration, seconds

__all__ = ["FOR_GOOD", "Delivery", "Inlet", "Receiving", "receive_stream"]

T = TypeVar("T")

FOR_GOOD = (Code.PROTOCOL, Code.FAILED, Code.LOST, Code.REPLACED, Code.TOO_LARGE)
"""Why a stream breaks that no other connection can mend."""


class Delivery(Generic[T]):
    """An item that was handed out, and is to be called done.

    Attributes:
        item: The item.
        seq: Its number in the stream.
    """

    __slots__ = ("_inlet", "item", "seq")

    def __init__(self, inlet: Inlet[T], item: T, seq: int) -> None:
        self._inlet = inlet
        self.item = item
        self.seq = seq

    def done(self) -> None:
        """Say that the item is processed: the sender may forget it, and send another; twice is once."""
        self._inlet._done(self.seq)


class Inlet(Generic[T]):
    """A stream as it comes, from one sender at a time, over as many connections as it takes.

    Iterating over it gives the items; each counts as processed when the next one is asked for. `deliveries` leaves it
    to whoever processes them, in whatever order, to say that they are.

    Args:
        codec: How bytes become an item.
        window: How much it takes before any of it is processed.
        patience: How long it waits for the sender.
        write_max: How long the sender may leave a message unread.
        stream, after: Where to go on in a stream, as an earlier inlet's `position` has said.
        name: What errors call it.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        *,
        codec: Codec[T] = JSON,
        window: Window = Window(),  # noqa: B008  frozen
        patience: Patience = Patience(),  # noqa: B008  frozen
        write_max: Duration = 10.0,
        stream: str = "",
        after: int = 0,
        name: str = "stream",
    ) -> None:
        self.name = name
        self.window = window
        self.patience = patience
        self._codec = codec
        self._write_max = seconds(write_max, "write_max")
        self._inbox = Inbox()
        if stream:
            self._inbox.begin(stream, after + 1)
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._talk: Conversation | None = None
        self._side: Receiver | None = None
        self._news = asyncio.Event()
        self._changed = asyncio.Event()
        self._paused = False
        self._cancelled = False
        self._complete = False
        self._failure: BaseException | None = None
        self.connections = 0
        """Connections over which a sender has accepted."""

    @property
    def position(self) -> tuple[str, int]:
        """The stream's name, and the number of the item up to which all are processed."""
        return self._inbox.stream, self._inbox.processed

    @property
    def held(self) -> int:
        """Items that have come and are not processed."""
        return self._inbox.held_items

    @property
    def received(self) -> int:
        """The number of the last item that has come."""
        return self._inbox.received

    @property
    def over(self) -> bool:
        """Whether no further connection is needed: the stream is processed whole, was cancelled, or has failed."""
        settled = self._complete and self._side is not None and self._side.state is State.DONE
        return settled or self._cancelled or self._failure is not None

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the items any more."""
        return self._cancelled

    @property
    def due(self) -> bool:
        """Over requests for so many items each: whether it is time for the next."""
        inbox = self._inbox
        if self._complete:
            return not inbox.held_items
        window = self.window
        # Nothing is granted between requests, so both marks are of what is held.
        low = inbox.held_items <= window.items_low and inbox.held_bytes <= window.bytes_low
        return low and not self._paused

    def pause(self) -> None:
        """Ask for no more; what was asked for may still come."""
        self._paused = True
        if self._side is not None:
            self._side.pause()

    def resume(self) -> None:
        """Ask for more again."""
        self._paused = False
        if self._side is not None:
            self._side.resume()
        self._wake()

    def cancel(self) -> None:
        """Want no more, ever; the sender is told, and closes its source."""
        self._cancelled = True
        if self._side is not None:
            self._side.cancel()
        self._wake()
        self._news.set()

    def fail(self, error: BaseException) -> None:
        """Hand an error to whoever iterates, after what has come."""
        if self._failure is None and not self._complete:
            self._failure = error
        self._news.set()

    async def run(self, connection: Any) -> None:
        """Receive over a connection until the stream is processed whole, or cancelled.

        Args:
            connection: A WebSocket of Starlette, FastAPI or websockets that is open, or a `Channel`.

        Raises:
            Disconnected: It ended before; call this again with the next one.
            StreamError: The stream broke.
        """
        side = self.begin()
        talk = Conversation(
            side,
            channel_of(connection),
            name=self.name,
            item_bytes_max=self.window.item_bytes_max,
            write_max=self._write_max,
            heard=self.hear,
        )
        self._talk = talk
        try:
            await talk.run()
        except StreamError as error:
            if error.code in FOR_GOOD and error.code is not Code.LOST:
                self.fail(error)
            raise
        finally:
            if self._talk is talk:
                self._talk = None

    def begin(self) -> Receiver:
        """Begin another connection; the machine that is returned is its own."""
        side = Receiver(self._inbox, self.window, self.patience, asyncio.get_running_loop().time())
        if self._paused:
            side.pause()
        if self._cancelled:
            side.cancel()
        self._side = side
        return side

    def hear(self, heard: Opened | Received | Finished | Failed) -> None:
        """Take what the machine of the connection makes of a frame."""
        match heard:
            case Received():
                self._backlog.append((heard.seq, heard.payload))
            case Opened():
                self.connections += 1
            case Finished():
                self._complete = True
            case Failed() if heard.code is Code.FAILED:
                self.fail(StreamError(heard.code, heard.message))
                self._complete = True
            case _:
                pass
        self._news.set()

    async def restart(self) -> None:
        """Begin another stream, once what has come of this one is processed."""
        while self._inbox.held_items and not self._cancelled:
            await self.changed()
        self._inbox = Inbox()

    async def given_up(self) -> None:
        """Wait until nobody wants the items any more."""
        while not self._cancelled and self._failure is None:
            await self.changed()

    async def changed(self) -> None:
        """Wait until something is processed, or asked for, or given up."""
        changed = self._changed
        await changed.wait()

    async def get(self) -> Delivery[T]:
        """Return the next item.

        Raises:
            StopAsyncIteration: There is none, and none will come.
            StreamError: The stream broke, or its source has failed.
            Disconnected: There is no connection, and none could be made.
        """
        while not self._backlog:
            if self._failure is not None:
                raise self._failure
            if self._complete or self._cancelled:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        seq, payload = self._backlog.popleft()
        try:
            item = self._codec.decode(payload)
        except ValueError as error:
            message = f"item {seq} can't be read: {error}"
            broken = StreamError(Code.PROTOCOL, message)
            self._backlog.clear()
            self.fail(broken)
            if self._side is not None:
                self._side.abort(Code.PROTOCOL, message)
            self._wake()
            raise broken from error
        return Delivery(self, item, seq)

    def deliveries(self) -> AsyncIterator[Delivery[T]]:
        """Iterate over the items; each is to be called done, in whatever order, by any task."""
        return _Deliveries(self)

    def __aiter__(self) -> AsyncIterator[T]:
        return _Items(self)

    def _done(self, seq: int) -> None:
        self._inbox.done(seq)
        self._wake()

    def _wake(self) -> None:
        # Whoever waits now is woken; who comes later waits for the next.
        self._changed.set()
        self._changed = asyncio.Event()
        if self._talk is not None:
            self._talk.woken.set()


class _Deliveries(AsyncIterator[Delivery[T]]):
    """Gives items that are to be called done."""

    def __init__(self, inlet: Inlet[T]) -> None:
        self._inlet = inlet

    async def __anext__(self) -> Delivery[T]:
        return await self._inlet.get()


class _Items(AsyncIterator[T]):
    """Gives items, each of which is done when the next one is asked for."""

    def __init__(self, inlet: Inlet[T]) -> None:
        self._inlet = inlet
        self._last: Delivery[T] | None = None

    async def __anext__(self) -> T:
        if self._last is not None:
            self._last.done()
            self._last = None
        self._last = await self._inlet.get()
        return self._last.item


class Receiving(AsyncIterator[T]):
    """An inlet, and the task that keeps it connected; iterate over it, best inside of its own `async with` block.

    Leaving the block, or forgetting the iterator, cancels the stream: the sender is told, and closes its source. What
    was handed out and not processed by then is not acknowledged.

    Attributes:
        inlet: The inlet, to pause and resume it, and to ask where it is.
    """

    def __init__(self, inlet: Inlet[T], keep_connected: Any) -> None:
        self.inlet = inlet
        self._keep_connected = keep_connected
        self._task: asyncio.Task[None] | None = None
        self._items = _Items(inlet)

    async def __aenter__(self) -> Receiving[T]:
        self._start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def __anext__(self) -> T:
        self._start()
        try:
            return await self._items.__anext__()
        except StopAsyncIteration:
            await self._settle()
            raise

    def deliveries(self) -> AsyncIterator[Delivery[T]]:
        """Iterate over the items; each is to be called done, in whatever order, by any task."""
        self._start()
        return self.inlet.deliveries()

    def pause(self) -> None:
        """Ask for no more; what was asked for may still come."""
        self.inlet.pause()

    def resume(self) -> None:
        """Ask for more again."""
        self.inlet.resume()

    async def aclose(self) -> None:
        """Want no more; the sender is told, if there is a connection."""
        self.inlet.cancel()
        await self._settle()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(_kept(self.inlet, self._keep_connected))

    async def _settle(self) -> None:
        """Let the last words be said, within a bound."""
        task = self._task
        if task is None or task.done():
            return
        try:
            await asyncio.wait([task], timeout=2.0)
        finally:
            task.cancel()
        await asyncio.wait([task])

    def __del__(self) -> None:
        task = self._task
        if task is not None and not task.done():
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(self.inlet.cancel)


async def _kept(inlet: Inlet[Any], keep_connected: Any) -> None:
    """Keep an inlet connected; whoever iterates over it hears of what can't be mended."""
    try:
        await keep_connected(inlet)
    except Exception as error:
        inlet.fail(error)


def receive_stream(connection: Any, **settings: Any) -> Receiving[Any]:
    """Receive what comes over one connection, and no faster than it is processed.

    Args:
        connection: A WebSocket of Starlette, FastAPI or websockets that is open, or a `Channel`.
        **settings: Those of `Inlet`.
    """

    async def keep_connected(inlet: Inlet[Any]) -> None:
        await inlet.run(connection)

    return Receiving(Inlet(**settings), keep_connected)
