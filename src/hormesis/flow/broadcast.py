"""A publisher of what happens anyway: each item goes to every subscriber, and none can hold it up.

Each subscriber has a bounded buffer of its own for what it has not asked for yet. When that is full, it is
disconnected, or loses items, as was chosen; the others notice nothing. Signals are given in the thread that publishes
or requests, one at a time for each subscriber: whoever comes while another gives leaves that to the other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, Literal, TypeVar

from hormesis.clock import MONOTONIC, Clock
from hormesis.core.buffer import BufferMachine, Entry, Overflow
from hormesis.core.demand import Demand
from hormesis.core.serial import Serial
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, ItemDropped, ReaderDisconnected, bus
from hormesis.flow.errors import ItemTooLarge, QueueClosed, ReaderTooSlow, RuleBroken
from hormesis.flow.reactive import Subscriber, no_signal, no_subscriber, refused_demand
from hormesis.flow.settings import ITEMS_MAX, Size, byte_size, measured, size_of
from hormesis.patterns.part import whole

__all__ = ["Broadcast", "Slow"]

T = TypeVar("T")

Slow = Literal["disconnect", "drop oldest", "drop newest", "conflate"]
"""What becomes of a subscriber whose buffer is full, or of its items."""

_SLOW: tuple[Slow, ...] = ("disconnect", "drop oldest", "drop newest", "conflate")


class Broadcast(Generic[T]):
    """Publishes items to all who are subscribed at the time.

    Args:
        max_items: Items that a subscriber may be behind.
        slow: What happens when one is further behind than that: `"disconnect"` (its stream ends with
            `ReaderTooSlow`), `"drop oldest"`, `"drop newest"`, or `"conflate"` (the newest item of a key takes the
            place of the one that waits; beyond that the oldest is dropped).
        key: With `"conflate"`, tells an item's key.
        max_bytes: Bytes that a subscriber may be behind, such as `"1MB"`; None when they don't count.
        size: Tells an item's bytes; by default its length.
        max_subscribers: Subscribers at a time; the next is refused.
        name: What events and errors call it.
        clock, events: Time and the event bus; for tests.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> prices = Broadcast(100, slow="drop oldest")
    >>> prices.publish(3)
    >>> prices.complete()
    """

    def __init__(
        self,
        max_items: int,
        *,
        slow: Slow,
        key: Callable[[T], Hashable] | None = None,
        max_bytes: Size | None = None,
        size: Callable[[T], int] | None = None,
        # Each is a buffer; more than that at one publisher want a broker.
        max_subscribers: int = 10_000,
        name: str = "broadcast",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        if slow not in _SLOW:
            raise ConfigurationError.bad_value("slow", slow, ", ".join(map(repr, _SLOW)))
        if (key is not None) != (slow == "conflate"):
            raise ConfigurationError.bad_value("key", key, "a function that tells an item's key, to conflate by it")
        if size is not None and max_bytes is None:
            raise ConfigurationError("size is set and max_bytes is not, which it is for", "size")
        self.name = name
        self.events = events
        self._clock = clock
        self._max_items = whole("max_items", max_items, 1, ITEMS_MAX)
        self._max_bytes = None if max_bytes is None else byte_size(max_bytes, "max_bytes")
        self._size: Callable[[Any], int] | None = None if max_bytes is None else size or size_of
        self._slow: Slow = slow
        self._key = key
        self._max_subscribers = whole("max_subscribers", max_subscribers, 1)
        self._lock = threading.Lock()
        self._branches: dict[_Branch, None] = {}
        self._ended = False
        self._error: BaseException | None = None

    def __len__(self) -> int:
        """Subscribers at present."""
        return len(self._branches)

    def __bool__(self) -> bool:
        """A broadcast is there even while nobody listens."""
        return True

    def snapshot(self) -> dict[str, Any]:
        """Return its state as plain data: how many subscribers there are, and how far behind the slowest is."""
        with self._lock:
            branches = list(self._branches)
        return {
            "subscribers": len(branches),
            "behind": max((len(branch) for branch in branches), default=0),
            "ended": self._ended,
        }

    def subscribe(self, subscriber: Subscriber[T], /) -> None:
        """Give a subscriber all that is published from now on."""
        no_subscriber(subscriber)
        branch = _Branch(subscriber, self._buffer(), self)
        with self._lock:
            full = len(self._branches) >= self._max_subscribers
            ended = self._ended
            if not full and not ended:
                self._branches[branch] = None
        branch.begin()
        if ended:
            branch.end(self._error)
        elif full:
            branch.fail(ConfigurationError(f"{self.name!r} has {self._max_subscribers:,} subscribers already"))

    def publish(self, item: T) -> None:
        """Give an item to every subscriber, from any thread, without waiting for any of them.

        Raises:
            TypeError: The item is None.
            ItemTooLarge: It alone has more bytes than a subscriber may be behind.
            QueueClosed: The broadcast has ended.
        """
        no_signal("2.13", "item", item)
        if self._ended:
            raise QueueClosed(self.name)
        size = 0 if self._size is None else measured(self._size, item)
        if self._max_bytes is not None and size > self._max_bytes:
            raise ItemTooLarge(self.name, size, self._max_bytes)
        key = None if self._key is None else self._key(item)
        with self._lock:
            branches = list(self._branches)
        for branch in branches:
            branch.offer(Entry(item, size, key=key))

    def complete(self) -> None:
        """End it: subscribers get what they are behind, as they ask for it, and are told then."""
        self._end(None)

    def fail(self, error: BaseException) -> None:
        """End it with an error, which subscribers get after what they are behind."""
        no_signal("2.13", "error", error)
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended, self._error = True, error
            branches = list(self._branches)
        for branch in branches:
            branch.end(error)

    def _buffer(self) -> BufferMachine[T]:
        overflow: Overflow = "fail" if self._slow == "disconnect" else self._slow
        return BufferMachine(
            max_items=self._max_items,
            max_bytes=self._max_bytes,
            overflow=overflow,
            otherwise="drop oldest" if overflow == "conflate" else None,
            lock=threading.Lock(),
        )

    def leave(self, branch: _Branch) -> None:
        """Forget a subscriber."""
        with self._lock:
            self._branches.pop(branch, None)

    def tell_dropped(self, items: int, reason: str) -> None:
        """Publish that a subscriber has lost items."""
        if self.events.listeners:
            self.events.publish(
                ItemDropped(at=self._clock.now(), policy=self.name, part="broadcast", items=items, reason=reason)
            )

    def tell_disconnected(self, error: ReaderTooSlow) -> None:
        """Publish that a subscriber was disconnected."""
        if self.events.listeners:
            self.events.publish(
                ReaderDisconnected(
                    at=self._clock.now(),
                    policy=self.name,
                    part="broadcast",
                    items=error.items,
                    size=error.size,
                    reason=error.reason,
                )
            )


class _Branch:
    """One subscriber of a broadcast, which is its subscription as well."""

    def __init__(self, subscriber: Subscriber[Any], buffer: BufferMachine[Any], broadcast: Broadcast[Any]) -> None:
        self._subscriber: Subscriber[Any] | None = subscriber
        self._buffer = buffer
        self._broadcast = broadcast
        self._demand = Demand(threading.Lock())
        self._serial = Serial(threading.Lock())
        self._ending = threading.Lock()
        self._begun = False
        self._over = False
        self._cancelled = False
        self._error: BaseException | None = None
        self._at_once = False
        """Whether the error does not wait for what is in the buffer."""

    def __len__(self) -> int:
        return len(self._buffer)

    def request(self, n: int, /) -> None:
        """Ask for `n` more; see `Subscription`."""
        if self._cancelled:
            return
        broken = refused_demand(n)
        if broken is not None:
            self.fail(broken)
            return
        self._demand.add(n)
        self._drain()

    def cancel(self) -> None:
        """Ask for nothing more; see `Subscription`."""
        self._cancelled = True
        self._drain()

    def begin(self) -> None:
        """Give the first signal; what comes meanwhile comes after it."""
        self._drain()

    def offer(self, entry: Entry[Any]) -> None:
        """Give an item, or keep it until it is asked for."""
        refused = self._buffer.put(entry, 0.0)
        if refused == "full":
            items, size = len(self._buffer), self._buffer.size
            bound = "items" if items >= self._buffer.max_items else "bytes"
            error = ReaderTooSlow(self._broadcast.name, bound, items, size)
            if self.fail(error):
                self._broadcast.tell_disconnected(error)
            return
        for notice in self._buffer.news():
            self._broadcast.tell_dropped(1, str(notice[1]))
        self._drain()

    def end(self, error: BaseException | None) -> None:
        """End it, after what is in the buffer."""
        with self._ending:
            if not self._at_once:
                self._error = error
                self._over = True
        self._drain()

    def fail(self, error: ReaderTooSlow | RuleBroken | ConfigurationError) -> bool:
        """End it at once; False when it has ended already."""
        with self._ending:
            if self._at_once or self._cancelled:
                return False
            self._error = error
            self._at_once = self._over = True
        self._drain()
        return True

    def _drain(self) -> None:
        """Give all signals that can be given now; whoever comes meanwhile leaves that to whoever is here."""
        if not self._serial.enter():
            return
        try:
            while True:
                self._give()
                if self._serial.leave():
                    return
        except BaseException:
            self._serial.abandon()
            raise

    def _give(self) -> None:
        if not self._begun:
            self._begun = True
            self._signal("on_subscribe", self)
        while not self._cancelled and not self._at_once and self._demand.left:
            entry = self._buffer.take(0.0)
            if entry is None:
                break
            self._demand.take()
            self._signal("on_next", entry.item)
        if not self._cancelled and self._over and (self._at_once or not len(self._buffer)):
            self._cancelled = True
            if self._error is None:
                self._signal("on_complete")
            else:
                self._signal("on_error", self._error)
        if self._cancelled:
            self._subscriber = None
            self._demand.clear()
            self._buffer.discard()
            self._broadcast.leave(self)

    def _signal(self, name: str, *args: object) -> None:
        """Give a signal. A subscriber that raises is one that cancels, and that is logged."""
        try:
            getattr(self._subscriber, name)(*args)
        except Exception:
            self._cancelled = True
            logging.getLogger("hormesis.flow").exception("a subscriber has raised (rule 2.13 of Reactive Streams)")
