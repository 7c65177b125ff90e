"""From publishers to iterators, to queues, and through functions of iterators to publishers again.

What an iterator gets from a publisher waits in a buffer that holds the prefetch; more is asked for, several at a time,
when three quarters of that were taken. So a publisher is never asked for more than whoever iterates can hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

from hormesis.core.demand import Demand, Replenishment
from hormesis.errors import ConfigurationError
from hormesis.flow.errors import QueueClosed, RuleBroken
from hormesis.flow.publisher import publisher_of
from hormesis.flow.queue import Queue
from hormesis.flow.reactive import Publisher, Subscriber, Subscription, no_signal
from hormesis.flow.settings import ITEMS_MAX
from hormesis.patterns.part import whole

__all__ = ["Received", "Through", "feed", "iterate"]

T = TypeVar("T")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)


def iterate(publisher: Publisher[T], *, prefetch: int = 16, low: int | None = None) -> Received[T]:
    """Iterate over what a publisher gives.

    Args:
        publisher: The publisher; it is subscribed to when the first item is wanted.
        prefetch: How many items are asked for ahead, and so may wait here.
        low: More are asked for when no more than so many are still to come; by default a quarter of the prefetch.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> async def main() -> list[str]:
    ...     return [letter async for letter in iterate(publisher_of("abc"), prefetch=2)]
    >>> asyncio.run(main())
    ['a', 'b', 'c']
    """
    if not isinstance(publisher, Publisher):
        raise ConfigurationError.bad_value("publisher", publisher, "something to subscribe to")
    return Received(_Inlet(prefetch, low), publisher)


class _Inlet(Generic[T]):
    """The subscriber behind an iterator. It does not refer to the iterator, which may so be forgotten."""

    def __init__(self, prefetch: int, low: int | None) -> None:
        whole("prefetch", prefetch, 1, ITEMS_MAX)
        if low is not None:
            whole("low", low, 0, prefetch - 1)
        self.queue: Queue[T] = Queue(prefetch, overflow="fail")
        self._replenishment = Replenishment(prefetch, low)
        self._outstanding = Demand(threading.Lock())
        self._lock = threading.Lock()
        self._subscription: Subscription | None = None
        self._wanted = False
        self.over = False
        self._error: BaseException | None = None

    def on_subscribe(self, subscription: Subscription, /) -> None:
        """Keep the subscription, unless there is one, or nobody wants any more."""
        no_signal("2.13", "subscription", subscription)
        with self._lock:
            unwanted = self.over or self._subscription is not None
            if not unwanted:
                self._subscription = subscription
            begins = self._wanted and not unwanted
        if unwanted:
            subscription.cancel()
        elif begins:
            self._begin(subscription)

    def on_next(self, item: T, /) -> None:
        """Keep the item."""
        no_signal("2.13", "item", item)
        if self.over:
            return
        if not self._outstanding.take():
            self._break(RuleBroken("1.1", "an item came that nobody has asked for"))
            return
        with contextlib.suppress(QueueClosed):  # whoever iterates has just gone
            self.queue.put_nowait(item)

    def on_error(self, error: BaseException, /) -> None:
        """End with an error, after what is kept."""
        no_signal("2.13", "error", error)
        self._end(error)

    def on_complete(self) -> None:
        """End after what is kept."""
        self._end(None)

    def want(self) -> None:
        """Ask for the first items, now or as soon as there is a subscription."""
        with self._lock:
            if self._wanted:
                return
            self._wanted = True
            subscription = self._subscription
        if subscription is not None:
            self._begin(subscription)

    def took(self) -> None:
        """An item was taken: ask for more when it is time."""
        more = self._replenishment.consumed()
        subscription = self._subscription
        if more and subscription is not None:
            self._outstanding.add(more)
            subscription.request(more)

    def cancel(self) -> None:
        """Nobody wants any more."""
        with self._lock:
            subscription, self._subscription = self._subscription, None
            over, self.over = self.over, True
        self.queue.close()
        if subscription is not None and not over:
            subscription.cancel()

    def error(self) -> BaseException | None:
        """What it has ended with, once."""
        error, self._error = self._error, None
        return error

    def _begin(self, subscription: Subscription) -> None:
        self._outstanding.add(self._replenishment.first)
        subscription.request(self._replenishment.first)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self.over:
                return
            self.over = True
            self._subscription = None
            self._error = error
        self.queue.close()

    def _break(self, error: RuleBroken) -> None:
        subscription = self._subscription
        self._end(error)
        if subscription is not None:
            subscription.cancel()


class Received(AsyncIterator[T]):
    """What comes from a publisher; `iterate` makes one.

    A task that is cancelled while it waits may come again, and has lost nothing. When a loop over it is left, or it is
    closed, its subscription is cancelled.

    Attributes:
        undelivered: When it is closed, the items that were here already.
    """

    def __init__(self, inlet: _Inlet[T], publisher: Publisher[T] | None = None) -> None:
        self._inlet = inlet
        self._publisher = publisher
        self._loop: asyncio.AbstractEventLoop | None = None
        self.undelivered: list[T] = []

    def __aiter__(self) -> Received[T]:
        return self

    async def __anext__(self) -> T:
        publisher, self._publisher = self._publisher, None
        self._loop = asyncio.get_running_loop()
        self._inlet.want()
        if publisher is not None:
            publisher.subscribe(self._inlet)
        try:
            item = await self._inlet.queue.aget()
        except QueueClosed:
            error = self._inlet.error()
            if isinstance(error, StopAsyncIteration):  # it must not look like the end
                raise RuntimeError("the publisher has failed with StopAsyncIteration") from error  # noqa: TRY004
            if error is not None:
                raise error from None
            raise StopAsyncIteration from None
        self._inlet.took()
        return item

    async def aclose(self) -> None:
        """Cancel the subscription."""
        self._publisher = None
        self._inlet.cancel()
        self.undelivered += self._inlet.queue.discard()

    async def __aenter__(self) -> Received[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._inlet.over:
            return
        # The garbage collector comes at any time, also while this thread holds a lock that cancelling takes.
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._inlet.cancel)
                return
        except RuntimeError:
            pass  # the loop is closed, and nobody is at it any more
        self._inlet.cancel()


async def feed(
    publisher: Publisher[T],
    queue: Queue[T],
    *,
    prefetch: int = 16,
    close: bool = True,
    undelivered: Callable[[T], object] | None = None,
) -> None:
    """Put all that a publisher gives into a queue; where the queue blocks, the publisher is slowed down.

    The other way round, `publisher_of(queue)` is the publisher of a queue.

    Args:
        publisher: The publisher.
        queue: Where its items go.
        prefetch: How many items may be on their way, besides those in the queue.
        close: Whether to close the queue when there are no more.
        undelivered: Takes the items that are on their way when this is cancelled or fails, the oldest first.

    Raises:
        Exception: What the publisher has failed with; the queue is closed all the same.
    """
    received = iterate(publisher, prefetch=prefetch)
    in_hand: list[T] = []
    try:
        async for item in received:
            in_hand.append(item)
            await queue.aput(item)
            in_hand.clear()
    finally:
        await received.aclose()
        if undelivered is not None:
            for item in in_hand + received.undelivered:
                undelivered(item)
        if close:
            queue.close()


class Through(Generic[T, R]):
    """A processor: a function of an iterator, between a publisher and a subscriber.

    Items are asked for when the subscriber asks, and the prefetch ahead. An error of the publisher is raised in the
    function's iteration: what the function does not catch goes on to the subscriber. A subscriber that cancels cancels
    the subscription to the publisher.

    Args:
        function: Makes an iterable of results of an iterator of items, such as a generator function, or
            `lambda items: Pipeline(items).map(…)`.
        prefetch: How many items are asked for ahead.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> async def doubled(numbers):
    ...     async for number in numbers:
    ...         yield 2 * number
    >>> async def main() -> list[int]:
    ...     processor = Through(doubled)
    ...     publisher_of(range(3)).subscribe(processor)
    ...     return [number async for number in iterate(processor)]
    >>> asyncio.run(main())
    [0, 2, 4]
    """

    def __init__(self, function: Callable[[AsyncIterator[T]], AsyncIterable[R]], *, prefetch: int = 16) -> None:
        self._inlet: _Inlet[T] = _Inlet(prefetch, None)
        self._outlet: Publisher[R] = publisher_of(_Results(Received(self._inlet), function))

    def on_subscribe(self, subscription: Subscription, /) -> None:
        """The publisher's first signal."""
        self._inlet.on_subscribe(subscription)

    def on_next(self, item: T, /) -> None:
        """An item of the publisher."""
        self._inlet.on_next(item)

    def on_error(self, error: BaseException, /) -> None:
        """The publisher has failed."""
        self._inlet.on_error(error)

    def on_complete(self) -> None:
        """The publisher has no more."""
        self._inlet.on_complete()

    def subscribe(self, subscriber: Subscriber[R], /) -> None:
        """Begin to give results to the subscriber; there can be one."""
        self._outlet.subscribe(subscriber)


class _Results(AsyncIterator[R]):
    """What a processor's function makes of what is received. Closing it ends both, also when nothing has begun."""

    def __init__(self, received: Received[Any], function: Callable[[AsyncIterator[Any]], AsyncIterable[R]]) -> None:
        self._received = received
        self._function = function
        self._results: AsyncIterator[R] | None = None

    async def __anext__(self) -> R:
        if self._results is None:
            self._results = aiter(self._function(self._received))
        return await anext(self._results)

    async def aclose(self) -> None:
        """End the function's iteration, and cancel the subscription."""
        try:
            aclose = getattr(self._results, "aclose", None)
            if aclose is not None:
                await aclose()
        finally:
            await self._received.aclose()
