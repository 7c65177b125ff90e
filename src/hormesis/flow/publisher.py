"""Publishers of what can be iterated over.

A task on the loop of whoever subscribes takes items from the iterator and gives them to the subscriber; it is the only
one that gives signals, so they are serial, and a request from within a signal goes no deeper into the stack. It takes
an item when one was asked for, and one ahead once it has begun, since only that tells whether there is another one: a
subscriber that has asked for exactly as many as there are hears at once that these were all.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

from hormesis.core.demand import Demand
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.flow.errors import RuleBroken
from hormesis.flow.queue import Queue
from hormesis.flow.reactive import Publisher, Subscriber, no_subscriber, nothing, refused_demand
from hormesis.flow.stages import END, Source
from hormesis.flow.waiting import InTask

__all__ = ["Items", "publisher_of"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Items: TypeAlias = "AsyncIterable[T] | Iterable[T] | Callable[[], AsyncIterable[T] | Iterable[T]]"
"""What a publisher takes its items from: an iterable of either colour, or a function that makes one."""

_BREATH = 32
"""Items that are given in a row from a source that never waits, before others get the loop."""


def publisher_of(source: Items[T], *, undelivered: Callable[[T], object] | None = None) -> Publisher[T]:
    """Make a publisher of an iterable.

    Each subscriber has an iteration of its own; of an iterator there is only one, and a second subscriber is refused.
    Subscribers of a `Queue` share its items. `subscribe` is to be called where an event loop runs.

    Args:
        source: An iterable of either colour, or a function that makes one for each subscriber.
        undelivered: Takes the item that was taken ahead, when its subscriber cancels before it asks for it. That of a
            `Queue` is put back.

    Raises:
        ConfigurationError: The source can't be iterated over.

    >>> from hormesis.flow.bridge import iterate
    >>> async def main() -> list[int]:
    ...     return [number async for number in iterate(publisher_of(range(3)))]
    >>> asyncio.run(main())
    [0, 1, 2]
    """
    if not isinstance(source, AsyncIterable | Iterable) and not callable(source):
        raise ConfigurationError.bad_value("source", source, "something to iterate over, or a function that makes it")
    return _OfIterable(source, undelivered)


class _OfIterable(Generic[T_co]):
    """The publisher of an iterable."""

    def __init__(self, source: Any, undelivered: Callable[[Any], object] | None) -> None:
        self._source = source
        self._undelivered = undelivered
        self._once = isinstance(source, AsyncIterator | Iterator) and not isinstance(source, Queue)
        self._lock = threading.Lock()
        self._used = False
        if isinstance(source, Queue):
            self._undelivered = source.put_back

    def subscribe(self, subscriber: Subscriber[T_co], /) -> None:
        """Begin to give items to a subscriber; see `publisher_of`."""
        no_subscriber(subscriber)
        refusal = self._refusal()
        if refusal is not None:
            subscriber.on_subscribe(nothing)
            subscriber.on_error(refusal)
            return
        subscription = _Pumped(subscriber, self._source, self._undelivered)
        subscription.start()

    def _refusal(self) -> Exception | None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return ConfigurationError("no event loop runs here, where the publisher was subscribed to")
        with self._lock:
            again, self._used = self._used, True
        if self._once and again:
            return HormesisError(f"{type(self._source).__name__} can be iterated over only once, and somebody does")
        return None


class _Pumped:
    """The subscription to an iterable, and the task that gives its items."""

    _source: Any
    _subscriber: Subscriber[Any] | None

    def __init__(self, subscriber: Subscriber[Any], source: Any, undelivered: Callable[[Any], object] | None) -> None:
        self._subscriber = subscriber
        self._source = source
        self._undelivered = undelivered
        self._loop = asyncio.get_running_loop()
        self._demand = Demand(threading.Lock())
        self._cancelled = False
        self._broken: RuleBroken | None = None
        self._waiting: InTask | None = None
        self._pump: asyncio.Task[None] | None = None
        self._interruptible = False

    def start(self) -> None:
        """Tell the subscriber, and begin."""
        assert self._subscriber is not None  # noqa: S101
        self._signal(self._subscriber.on_subscribe, self)
        self._pump = self._loop.create_task(self._run(), name="publisher")
        _pumps.add(self._pump)
        self._pump.add_done_callback(self._ended)

    def request(self, n: int, /) -> None:
        """Ask for `n` more; see `Subscription`."""
        if self._cancelled:
            return
        broken = refused_demand(n)
        if broken is not None:
            self._broken = broken
            self._in_loop()
            return
        self._demand.add(n)
        waiting = self._waiting
        if waiting is not None:
            waiting.wake()

    def cancel(self) -> None:
        """Ask for nothing more; see `Subscription`."""
        if not self._cancelled:
            self._cancelled = True
            self._in_loop()

    def _in_loop(self) -> None:
        """Interrupt the task, from any thread."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._interrupt()
            return
        try:
            self._loop.call_soon_threadsafe(self._interrupt)
        except RuntimeError:
            self._subscriber = self._source = None  # its loop is closed, and the task has ended with it

    def _interrupt(self) -> None:
        if self._cancelled:
            self._subscriber = None
        # Elsewhere, it looks by itself before it goes on.
        if self._interruptible and self._pump is not None:
            self._pump.cancel()

    async def _run(self) -> None:
        source: Source | None = None
        try:
            # Made even if nobody is there any more: what was begun with it is ended by closing it.
            source = Source(_made(self._source))
            await self._give(source)
        except _GoneError:
            pass
        except asyncio.CancelledError:
            if self._broken is not None:
                self._end("on_error", self._broken)
            elif not self._cancelled:
                self._end("on_error", _cut())
                raise
        except Exception as error:
            self._end("on_error", error)
        finally:
            self._cancelled = True
            self._interruptible = False
            self._subscriber = self._source = None
            self._demand.clear()
            if source is not None:
                await self._close(source)

    def _ended(self, pump: asyncio.Task[None]) -> None:
        _pumps.discard(pump)
        # Only a loop that ends before its task has begun leaves something to be told.
        self._end("on_error", _cut())

    async def _close(self, source: Source) -> None:
        try:
            await source.close()
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "closing the source of a publisher has failed", "exception": error}
            )

    async def _give(self, source: Source) -> None:
        """Give items as they are asked for, until there are no more."""
        given = 0
        await self._until_wanted()
        while (item := await self._pull(source)) is not END:
            if item is None:
                raise RuleBroken("2.13", "the source has None, which is no item")
            try:
                await self._until_wanted()
            except BaseException:
                self._return(item)
                raise
            self._demand.take()
            assert self._subscriber is not None  # noqa: S101
            self._signal(self._subscriber.on_next, item)
            self._check()
            given += 1
            if given % _BREATH == 0:
                await asyncio.sleep(0)
        self._end("on_complete")

    async def _pull(self, source: Source) -> Any:
        self._interruptible = True
        try:
            return await source.pull()
        finally:
            self._interruptible = False

    async def _until_wanted(self) -> None:
        """Wait until an item is wanted; raises if none ever will be."""
        self._check()
        while self._idle():
            self._waiting = InTask()
            # In this order, since another thread may ask, or cancel, at any time.
            if self._idle():
                self._interruptible = True
                try:
                    await self._waiting.wait()
                finally:
                    self._interruptible = False
            self._check()

    def _idle(self) -> bool:
        return not self._demand.left and not self._cancelled and self._broken is None

    def _check(self) -> None:
        """Raise when nothing more is to be given."""
        if self._broken is not None and not self._cancelled:
            raise self._broken
        if self._cancelled:
            raise _GoneError

    def _signal(self, signal: Callable[..., object], *args: object) -> None:
        """Give a signal. A subscriber that raises is one that cancels, and is told of where its loop tells errors."""
        try:
            signal(*args)
        except Exception as error:
            self._cancelled = True
            self._loop.call_exception_handler(
                {"message": "a subscriber has raised (rule 2.13 of Reactive Streams)", "exception": error}
            )

    def _end(self, signal: str, *args: object) -> None:
        """Give the last signal."""
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None and not self._cancelled:
            self._cancelled = True
            self._signal(getattr(subscriber, signal), *args)

    def _return(self, item: Any) -> None:
        if self._undelivered is None:
            return
        try:
            self._undelivered(item)
        except Exception:
            logging.getLogger("hormesis.flow").exception("%r raised", self._undelivered)


def _cut() -> HormesisError:
    return HormesisError("the publisher was cancelled by its loop or its source")


def _made(source: Any) -> Any:
    return source if isinstance(source, AsyncIterable | Iterable) else source()


class _GoneError(Exception):
    """The subscriber has cancelled."""


_pumps: set[asyncio.Task[None]] = set()
"""The tasks of all publishers; a loop alone would forget them."""
