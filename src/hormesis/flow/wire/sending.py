"""The sending side of a stream: a source that is asked for an item only when somebody has asked for it.

An `Outlet` outlives its connections: it keeps what was sent and not acknowledged, and the item that the source was
about to give when a connection broke. So it is the source itself that is told to slow down: it is an async iterator
that is not asked, and whatever feeds it waits in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Generic, TypeVar, cast

from hormesis.core.credit import Sender, State
from hormesis.core.credit_boxes import Outbox, Patience
from hormesis.core.credit_frames import Code, StreamError
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, FlowPaused, FlowResumed, ReaderDisconnected, bus
from hormesis.flow.errors import ReaderTooSlow
from hormesis.flow.settings import ITEMS_MAX, Size, byte_size
from hormesis.flow.wire.channel import Channel, channel_of
from hormesis.flow.wire.codecs import JSON, Codec
from hormesis.flow.wire.conversation import Conversation
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["Outlet", "send_stream"]

T = TypeVar("T")


class Outlet(Generic[T]):
    """A stream of what a source gives, to one receiver at a time, over as many connections as it takes.

    Args:
        source: What gives the items. It is asked for the next one only while the receiver has credit for it.
        codec: How an item becomes bytes.
        stream: The stream's name, by which a receiver goes on with it; by default one that can't be guessed.
        after: The number of the item before the first, for a source that goes on from a place in a log. With a
            `stream` of its own name, such a stream outlives its process.
        max_items, max_bytes: What it keeps until it is acknowledged; the source is not asked beyond that.
        max_item_bytes: The largest item.
        patience: How long it waits for the receiver.
        write_max: How long the receiver may leave a message unread; then it counts as too slow.
        name: What events and errors call it.
        events: The event bus.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        source: AsyncIterable[T],
        *,
        codec: Codec[T] = JSON,
        stream: str | None = None,
        after: int = 0,
        # Some windows of the default receiver, for several that come and go.
        max_items: int = 1024,
        max_bytes: Size = 8_388_608,
        max_item_bytes: Size = 262_144,
        patience: Patience = Patience(),  # noqa: B008  frozen
        # A peer that reads at all reads a message sooner than that.
        write_max: Duration = 10.0,
        name: str = "stream",
        events: EventBus = bus,
    ) -> None:
        if not hasattr(source, "__aiter__"):
            raise ConfigurationError.bad_value("source", source, "an async iterable, such as an async generator")
        self.name = name
        self._source = source
        self._items: AsyncIterator[T] | None = None
        self._codec = codec
        self._patience = patience
        self._write_max = seconds(write_max, "write_max")
        self._events = events
        self._box = Outbox(
            secrets.token_urlsafe(16) if stream is None else stream,
            items_max=whole("max_items", max_items, 1, ITEMS_MAX),
            bytes_max=byte_size(max_bytes, "max_bytes"),
            item_bytes_max=byte_size(max_item_bytes, "max_item_bytes"),
            after=after,
        )
        self._pulling: asyncio.Future[T] | None = None
        self._failure: Exception | None = None
        self._talk: Conversation | None = None
        self._talking: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        self._paused_since: float | None = None
        self.cancelled = False
        """Whether the receiver wants no more, ever."""

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self._box.stream

    @property
    def last(self) -> int:
        """The number of the last item that the source gave."""
        return self._box.last

    @property
    def acknowledged(self) -> int:
        """The number of the item up to which all are processed."""
        return self._box.acked

    @property
    def finished(self) -> bool:
        """Whether the source has ended, and everything is processed."""
        return self._box.finished

    @property
    def paused(self) -> bool:
        """Whether the receiver holds the stream up: it gives no credit, or does not acknowledge, or is not there."""
        return self._talk is None or self._paused_since is not None

    def unacknowledged(self) -> list[T]:
        """Return the items that were taken from the source, and that nobody has said are processed."""
        return [self._codec.decode(self._box[seq]) for seq in range(self._box.first, self._box.last + 1)]

    async def serve(self, connection: Any) -> None:
        """Send over a connection until the stream is finished, or cancelled by the receiver.

        A connection that serves already is broken off: that receiver may be long dead, and this one is here.

        Args:
            connection: A WebSocket of Starlette, FastAPI or websockets that is open, or a `Channel`.

        Raises:
            Disconnected: It ended before; call this again with the receiver's next connection.
            ReaderTooSlow: The receiver was cut off.
            StreamError: The stream broke.
            Exception: What the source raised, once the receiver knows that it failed.
        """
        await self._serve(channel_of(connection), None)

    async def serve_poll(self, channel: Channel, wait: float) -> None:
        """Answer one request for items: until its credit is used up, or so many seconds are over."""
        await self._serve(channel, asyncio.get_running_loop().time() + wait)

    async def aclose(self) -> None:
        """End the connection and the source; what is not acknowledged stays in `unacknowledged`."""
        await self._break_off(Code.LOST, "the stream was closed")
        pulling, self._pulling = self._pulling, None
        if pulling is not None:
            pulling.cancel()
            await asyncio.wait([pulling])
            if not pulling.cancelled() and pulling.exception() is None and not self._box.terminal:
                self._keep(pulling.result())
        close = getattr(self._items or self._source, "aclose", None)
        if close is not None:
            await close()
        self._box.end()

    async def _serve(self, channel: Channel, until: float | None) -> None:
        # One after the other: of several that take over at once, each ends the one before it.
        async with self._turn:
            await self._break_off(Code.REPLACED, "another connection goes on with the stream")
            sender = Sender(self._box, self._patience, asyncio.get_running_loop().time())
            talk = Conversation(
                sender,
                channel,
                name=self.name,
                item_bytes_max=0,
                write_max=self._write_max,
                heard=lambda _: None,
                prepare=lambda: self._prepare(sender, polled=until is not None),
                leave=_never if until is None else lambda: self._may_leave(sender, until),
            )
            self._talk = talk
            self._talking = talking = asyncio.ensure_future(self._run(talk, until))
        try:
            await asyncio.shield(talking)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise StreamError(Code.REPLACED, "another connection goes on with the stream") from None
            talking.cancel()
            await asyncio.wait([talking])
            raise
        finally:
            if talking.done() and not talking.cancelled():
                talking.exception()
            if self._talk is talk:
                self._talk = self._talking = None
        if sender.state is State.CANCELLED:
            self.cancelled = True
            await self.aclose()
        elif self._failure is not None:
            raise self._failure

    async def _run(self, talk: Conversation, until: float | None) -> None:
        loop = asyncio.get_running_loop()
        timer = None if until is None else loop.call_at(until, talk.woken.set)
        try:
            await talk.run()
        except ReaderTooSlow as slow:
            if self._events.listeners:
                self._events.publish(
                    ReaderDisconnected(
                        at=loop.time(),
                        policy=self.name,
                        part="wire",
                        items=slow.items,
                        size=slow.size,
                        reason=slow.reason,
                    )
                )
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def _break_off(self, code: Code, why: str) -> None:
        """End the connection that serves now, if there is one; the peer has a moment to read why."""
        talk, talking = self._talk, self._talking
        if talk is None or talking is None:
            return
        self._talk = self._talking = None
        talk.side.abort(code, why)
        talk.woken.set()
        await asyncio.wait([talking], timeout=1.0)
        if not talking.done():
            talking.cancel()
            await asyncio.wait([talking])
        if not talking.cancelled():
            talking.exception()

    def _may_leave(self, sender: Sender, until: float) -> bool:
        now = asyncio.get_running_loop().time()
        return sender.state is not State.OPENING and (now >= until or not sender.wants(now))

    def _prepare(self, sender: Sender, *, polled: bool) -> None:
        """Take what the source has given, and ask it for more if somebody wants it."""
        now = asyncio.get_running_loop().time()
        if self._pulling is not None and self._pulling.done() and not self._box.full and not self._box.terminal:
            pulled, self._pulling = self._pulling, None
            self._take(pulled)
        if sender.wants(now) and self._pulling is None:
            if self._items is None:
                self._items = aiter(self._source)
            pulling: asyncio.Future[T] = asyncio.ensure_future(cast("Any", anext(self._items)))
            pulling.add_done_callback(self._pulled)
            self._pulling = pulling
        # A request that gets all that it asked for is no pause.
        if sender.state is State.OPEN and not polled:
            self._tell(sender.held_up, now)

    def _pulled(self, pulling: asyncio.Future[T]) -> None:
        if self._talk is not None:
            self._talk.woken.set()

    def _take(self, pulled: asyncio.Future[T]) -> None:
        if pulled.cancelled():
            self._box.fail("the source was cancelled")
            return
        error = pulled.exception()
        if error is None:
            self._keep(pulled.result())
        elif isinstance(error, StopAsyncIteration):
            self._box.end()
        else:
            self._fail(error)

    def _keep(self, item: T) -> None:
        try:
            self._box.append(self._codec.encode(item))
        except Exception as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        # What is in a message of ours may be nobody else's business.
        self._box.fail(f"the source of the stream failed: {type(error).__name__}")

    def _tell(self, held_up: bool, now: float) -> None:
        """Tell the listeners when the receiver holds the stream up, and when it goes on."""
        if held_up and self._paused_since is None:
            self._paused_since = now
            if self._events.listeners:
                self._events.publish(
                    FlowPaused(at=now, policy=self.name, part="wire", items=self._box.items, size=self._box.bytes)
                )
        elif not held_up and self._paused_since is not None:
            since, self._paused_since = self._paused_since, None
            if self._events.listeners:
                self._events.publish(
                    FlowResumed(
                        at=now,
                        policy=self.name,
                        part="wire",
                        items=self._box.items,
                        size=self._box.bytes,
                        seconds=now - since,
                    )
                )


def _never() -> bool:
    return False


async def send_stream(connection: Any, source: AsyncIterable[T], **settings: Any) -> None:
    """Send what a source gives over one connection, as fast as the receiver asks for it, and no faster.

    It returns when the receiver has processed everything, or wants no more. The source is closed in the end.

    Args:
        connection: A WebSocket of Starlette, FastAPI or websockets that is open, or a `Channel`.
        source: What gives the items.
        **settings: Those of `Outlet`. One that is to go on over another connection is made by hand.

    Raises:
        Disconnected: The connection ended before.
        ReaderTooSlow: The receiver was cut off.
        StreamError: The stream broke.
        Exception: What the source raised.
    """
    outlet = Outlet(source, **settings)
    try:
        await outlet.serve(connection)
    finally:
        with contextlib.suppress(StreamError):
            await outlet.aclose()
