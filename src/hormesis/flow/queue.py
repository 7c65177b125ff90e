"""A queue with bounds, which says what becomes of an item that finds no room.

The rules, and why no item is ever lost, are in `hormesis.core.buffer`. Here is the waiting: threads block, tasks are
suspended, and both may use one queue, in any number of loops. Each verb that may wait has two forms, `get` for threads
and `aget` for tasks; `_nowait` never waits, and serves both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, NoReturn, TypeVar

from hormesis.clock import MONOTONIC, Clock
from hormesis.core.buffer import OVERFLOWS, BufferMachine, Crossed, Dropped, DropReason, Entry, Overflow, Refused, Turn
from hormesis.core.serial import Serial
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, FlowPaused, FlowResumed, ItemDropped, bus
from hormesis.flow.errors import ItemTooLarge, QueueClosed, QueueEmpty, QueueFull
from hormesis.flow.settings import ITEMS_MAX, Size, byte_size, marks, measured, size_of
from hormesis.flow.waiting import InTask, InThread, Patience, refuse_to_block_a_loop
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["Queue"]

T = TypeVar("T")


class Queue(Generic[T]):
    """A first-in, first-out queue that is bounded by items, and by bytes if that is asked for.

    Iterating over it, in either colour, takes items until it is closed and empty.

    Args:
        max_items: Items that may be waiting.
        overflow: What becomes of an item that finds no room: `"block"` (its putter waits, first come, first served),
            `"drop oldest"`, `"drop newest"`, `"fail"` (`QueueFull`), or `"conflate"` (it takes the place of the item
            with the same key). There is no default, as none is harmless.
        key: With `"conflate"`, tells an item's key.
        otherwise: With `"conflate"`, what becomes of an item that finds no room in the place of its key: one of the
            other four.
        max_bytes: Bytes that may be waiting, such as `"1MB"`. An item that is larger than that is refused.
        size: Tells an item's bytes; by default its length.
        max_age: How long an item may wait. One that has waited longer is dropped when it would be taken.
        pause_at: The share of a bound at which whoever feeds the queue should pause.
        resume_at: The share to which both bounds' levels must have fallen for it to go on; by default half of
            `pause_at`.
        on_flow: Called with True when it should pause, and False when it should go on.
        on_drop: Called with each item that is dropped and the reason: `"expired"`, `"oldest"`, `"newest"`,
            `"conflated"`.
        name: What events and errors call it.
        clock, events: Time and the event bus; for tests and simulations.

    What is called is called in the thread or task whose call brought it about, in order, with no lock held. What it
    raises is logged: the item of that call must not suffer for it.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> prices = Queue(100, overflow="drop oldest", name="prices")
    >>> prices.put_nowait(3), prices.get_nowait()
    (True, 3)
    """

    def __init__(
        self,
        max_items: int,
        *,
        overflow: Overflow,
        key: Callable[[T], Hashable] | None = None,
        otherwise: Overflow | None = None,
        max_bytes: Size | None = None,
        size: Callable[[T], int] | None = None,
        max_age: Duration | None = None,
        # None: telling a source to pause takes a source that can.
        pause_at: float | None = None,
        resume_at: float | None = None,
        on_flow: Callable[[bool], object] | None = None,
        on_drop: Callable[[T, DropReason], object] | None = None,
        name: str = "queue",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        whole("max_items", max_items, 1, ITEMS_MAX)
        _check_overflow(overflow, otherwise, key)
        bytes_bound = None if max_bytes is None else byte_size(max_bytes, "max_bytes")
        if size is not None and bytes_bound is None:
            raise ConfigurationError("size is set and max_bytes is not, which it is for", "size")
        level = marks(pause_at, resume_at, max_items, bytes_bound)
        if on_flow is not None and level is None:
            raise ConfigurationError("on_flow is set and pause_at is not, so it would never be called", "pause_at")
        self.name = name
        self.events = events
        self._clock = clock
        self._blocks = "block" in (overflow, otherwise)
        self._key = key
        self._size: Callable[[Any], int] | None = None if bytes_bound is None else size or size_of
        self._max_age = None if max_age is None else seconds(max_age, "max_age")
        self._timed = max_age is not None
        self._plain = key is None and bytes_bound is None and max_age is None
        self._on_flow = on_flow
        self._on_drop = on_drop
        self._paused_since = 0.0
        self._telling = Serial(threading.Lock())
        self._machine: BufferMachine[T] = BufferMachine(
            max_items=max_items,
            max_bytes=bytes_bound,
            overflow=overflow,
            otherwise=otherwise,
            lock=threading.Lock(),
            marks=level,
        )

    def __len__(self) -> int:
        """Items that are waiting."""
        return len(self._machine)

    def __bool__(self) -> bool:
        """A queue is there even while it is empty."""
        return True

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}: {len(self)} of {self._machine.max_items} items{', closed' * self.closed}>"

    @property
    def size(self) -> int:
        """The bytes of what is waiting; 0 where bytes don't count."""
        return self._machine.size

    @property
    def closed(self) -> bool:
        """Whether nothing can be put any more."""
        return self._machine.closed

    @property
    def paused(self) -> bool:
        """Whether whoever feeds it should pause."""
        return self._machine.paused

    def snapshot(self) -> dict[str, Any]:
        """Return its state as plain data: how full it is, who waits, and what was put, taken and dropped.

        >>> Queue(9, overflow="fail").snapshot()["items"]
        0
        """
        return self._machine.snapshot(self._now())

    # Putting, ...

    def put_nowait(self, item: T, *, expires_in: float | str | None = None) -> bool:
        """Put an item, without waiting; returns whether it is in, which an item that was dropped at once is not.

        Args:
            item: The item.
            expires_in: How long it may wait, such as `hormesis.remaining()`; one that has waited longer is dropped.

        Raises:
            QueueFull: There is no room, also where the overflow is to block.
            QueueClosed: It is closed.
            ItemTooLarge: The item alone has more bytes than may be waiting.
        """
        entry = Entry(item) if self._plain and expires_in is None else self._entry(item, expires_in)
        refused = self._machine.put(entry, self._clock.now() if self._timed else 0.0)
        if self._machine.outbox:
            self._tell()
        return refused is None or self._refused(refused, entry)

    def put(self, item: T, *, expires_in: float | str | None = None, timeout: Duration | None = None) -> bool:
        """Put an item from a thread, which waits for room where the overflow is to block.

        Args:
            item: The item.
            expires_in: How long it may be in the queue, the wait for room included.
            timeout: How long to wait for room; the deadline of the current call bounds that too.

        Raises:
            TimedOut: There was no room in that time.
            QueueFull, QueueClosed, ItemTooLarge: As `put_nowait`, where it does not wait.
        """
        entry = Entry(item) if self._plain and expires_in is None else self._entry(item, expires_in)
        refused = self._machine.put(entry, self._clock.now() if self._timed else 0.0)
        if refused == "full" and self._blocks:
            refused = self._wait_for_room(entry, timeout)
        if self._machine.outbox:
            self._tell()
        return refused is None or self._refused(refused, entry)

    async def aput(self, item: T, *, expires_in: float | str | None = None, timeout: Duration | None = None) -> bool:
        """Put an item from a task, as `put` does. One that is cancelled has put nothing."""
        entry = Entry(item) if self._plain and expires_in is None else self._entry(item, expires_in)
        refused = self._machine.put(entry, self._clock.now() if self._timed else 0.0)
        if refused == "full" and self._blocks:
            refused = await self._wait_for_room_async(entry, timeout)
        if self._machine.outbox:
            self._tell()
        return refused is None or self._refused(refused, entry)

    def put_back(self, item: T) -> None:
        """Put an item that was taken and came to nothing in front again, even if that is beyond the bounds.

        With `"conflate"`, it is dropped if there is a newer one of its key.
        """
        self._machine.put_back(self._entry(item, None))
        if self._machine.outbox:
            self._tell()

    # ... taking, ...

    def get_nowait(self) -> T:
        """Take an item, without waiting.

        Raises:
            QueueEmpty: There is none, or none that is not kept for somebody who has waited for it.
            QueueClosed: There is none, and none will come.
        """
        entry = self._machine.take(self._clock.now() if self._timed else 0.0)
        if self._machine.outbox:
            self._tell()
        if entry is None:
            raise QueueClosed(self.name) if self._machine.exhausted else QueueEmpty(self.name)
        return entry.item

    def get(self, *, timeout: Duration | None = None) -> T:
        """Take an item in a thread, which waits for one.

        Args:
            timeout: How long to wait; the deadline of the current call bounds that too.

        Raises:
            TimedOut: There was none in that time.
            QueueClosed: There is none, and none will come.
        """
        entry = self._machine.take(self._clock.now() if self._timed else 0.0)
        if self._machine.outbox:
            self._tell()
        return (self._wait_for_item(timeout) if entry is None else entry).item

    async def aget(self, *, timeout: Duration | None = None) -> T:
        """Take an item in a task, as `get` does. One that is cancelled has taken nothing."""
        entry = self._machine.take(self._clock.now() if self._timed else 0.0)
        if self._machine.outbox:
            self._tell()
        return (await self._wait_for_item_async(timeout) if entry is None else entry).item

    def __iter__(self) -> Queue[T]:
        return self

    def __next__(self) -> T:
        try:
            return self.get()
        except QueueClosed:
            raise StopIteration from None

    def __aiter__(self) -> Queue[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.aget()
        except QueueClosed:
            raise StopAsyncIteration from None

    # ... and coming to an end.

    def close(self) -> None:
        """Let nothing in any more. What is waiting can still be taken; who waits to put gets `QueueClosed`."""
        self._machine.close()

    def drain(self, *, timeout: Duration | None = None) -> None:
        """Wait in a thread until all that is in it was taken, or has expired.

        Raises:
            TimedOut: It was not, in that time.
        """
        patience = Patience(self.name, timeout, self._clock)
        while True:
            waiting = InThread()
            turn = Turn(waiting.wake)
            if not self._machine.await_drained(turn):
                return
            try:
                refuse_to_block_a_loop("drain")
                if not waiting.wait(patience.left()):
                    raise patience.error()
            finally:
                self._machine.leave(turn)

    async def adrain(self, *, timeout: Duration | None = None) -> None:
        """Wait in a task, as `drain` does."""
        patience = Patience(self.name, timeout, self._clock)
        while True:
            waiting = InTask()
            turn = Turn(waiting.wake)
            if not self._machine.await_drained(turn):
                return
            try:
                if not await waiting.wait(patience.left()):
                    raise patience.error()
            finally:
                self._machine.leave(turn)

    def discard(self) -> list[T]:
        """Take all that is waiting at once, expired or not, such as when the time to drain it is over."""
        items = self._machine.discard()
        if self._machine.outbox:
            self._tell()
        return items

    # What is behind it.

    def _now(self) -> float:
        return self._clock.now() if self._timed else 0.0

    def _entry(self, item: T, expires_in: float | str | None) -> Entry[T]:
        size = 0 if self._size is None else measured(self._size, item)
        return Entry(item, size, self._expires(expires_in), None if self._key is None else self._key(item))

    def _expires(self, expires_in: float | str | None) -> float | None:
        if expires_in is None:
            return None if self._max_age is None else self._clock.now() + self._max_age
        # What a caller has left may be less than nothing; then the item has expired before it is in.
        late = not isinstance(expires_in, str) and expires_in <= 0
        lasts = 0.0 if late else seconds(expires_in, "expires_in", zero=True)
        self._timed = True
        return self._clock.now() + (lasts if self._max_age is None else min(lasts, self._max_age))

    def _refused(self, refused: Refused, entry: Entry[T]) -> bool:
        """What is behind a refusal: an error, or False for an item that was dropped."""
        if refused == "dropped":
            return False
        if refused == "closed":
            raise QueueClosed(self.name)
        if refused == "too large":
            raise ItemTooLarge(self.name, entry.size, self._machine.max_bytes or 0)
        raise QueueFull(self.name, "queue full")

    def _wait_for_room(self, entry: Entry[T], timeout: Duration | None) -> Refused | None:
        refuse_to_block_a_loop("put")
        patience = Patience(self.name, timeout, self._clock)
        waiting = InThread()
        turn = Turn(waiting.wake, entry.size)
        try:
            self._machine.await_room(turn)
            waiting.wait(patience.left())
            refused = self._machine.put(entry, self._now(), turn)
        finally:
            self._machine.leave(turn)
        if refused == "full":
            self._timed_out(patience)
        return refused

    async def _wait_for_room_async(self, entry: Entry[T], timeout: Duration | None) -> Refused | None:
        patience = Patience(self.name, timeout, self._clock)
        waiting = InTask()
        turn = Turn(waiting.wake, entry.size)
        try:
            self._machine.await_room(turn)
            await waiting.wait(patience.left())
            refused = self._machine.put(entry, self._now(), turn)
        finally:
            self._machine.leave(turn)
        if refused == "full":
            self._timed_out(patience)
        return refused

    def _wait_for_item(self, timeout: Duration | None) -> Entry[T]:
        patience = Patience(self.name, timeout, self._clock)
        again = False
        while True:
            if self._machine.exhausted:
                raise QueueClosed(self.name)
            refuse_to_block_a_loop("get")
            waiting = InThread()
            turn = Turn(waiting.wake)
            try:
                self._machine.await_item(turn, again=again)
                woken = waiting.wait(patience.left())
                entry = self._machine.take(self._now(), turn)
            finally:
                self._machine.leave(turn)
            if self._machine.outbox:
                self._tell()
            if entry is not None:
                return entry
            if not woken:
                raise patience.error()
            again = True  # what it was called for has expired

    async def _wait_for_item_async(self, timeout: Duration | None) -> Entry[T]:
        patience = Patience(self.name, timeout, self._clock)
        again = False
        while True:
            if self._machine.exhausted:
                raise QueueClosed(self.name)
            waiting = InTask()
            turn = Turn(waiting.wake)
            try:
                self._machine.await_item(turn, again=again)
                woken = await waiting.wait(patience.left())
                entry = self._machine.take(self._now(), turn)
            finally:
                self._machine.leave(turn)
            if self._machine.outbox:
                self._tell()
            if entry is not None:
                return entry
            if not woken:
                raise patience.error()
            again = True

    def _timed_out(self, patience: Patience) -> NoReturn:
        if self._machine.outbox:
            self._tell()
        raise patience.error()

    def _tell(self) -> None:
        """Tell what is in the outbox, in order, whoever it was that brought it about."""
        if not self._telling.enter():
            return
        try:
            while True:
                for notice in self._machine.news():
                    if isinstance(notice, Dropped):
                        self._tell_dropped(notice)
                    else:
                        self._tell_crossed(notice)
                if self._telling.leave():
                    return
        except BaseException:
            self._telling.abandon()
            raise

    def _tell_dropped(self, notice: Dropped) -> None:
        if self.events.listeners:
            self.events.publish(
                ItemDropped(at=self._clock.now(), policy=self.name, part="queue", items=1, reason=notice.reason)
            )
        if self._on_drop is not None:
            self._heed(self._on_drop, notice.item, notice.reason)

    def _tell_crossed(self, notice: Crossed) -> None:
        now = self._clock.now()
        if notice.paused:
            self._paused_since = now
            if self.events.listeners:
                self.events.publish(
                    FlowPaused(at=now, policy=self.name, part="queue", items=notice.items, size=notice.size)
                )
        elif self.events.listeners:
            paused = now - self._paused_since
            self.events.publish(
                FlowResumed(
                    at=now, policy=self.name, part="queue", items=notice.items, size=notice.size, seconds=paused
                )
            )
        if self._on_flow is not None:
            self._heed(self._on_flow, notice.paused)

    def _heed(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except Exception:
            import logging  # noqa: PLC0415  only a broken function needs it

            logging.getLogger("hormesis.flow").exception("queue %r: %r raised", self.name, function)


def _check_overflow(overflow: object, otherwise: object, key: object) -> None:
    if overflow not in OVERFLOWS:
        raise ConfigurationError.bad_value("overflow", overflow, ", ".join(map(repr, OVERFLOWS)))
    if overflow == "conflate":
        if not callable(key):
            raise ConfigurationError.bad_value("key", key, "a function that tells an item's key, to conflate by")
        if otherwise not in OVERFLOWS or otherwise == "conflate":
            others = ", ".join(repr(each) for each in OVERFLOWS if each != "conflate")
            raise ConfigurationError.bad_value("otherwise", otherwise, f"{others}: what becomes of a new key")
        return
    for name, value in (("key", key), ("otherwise", otherwise)):
        if value is not None:
            raise ConfigurationError(f"{name} is {value!r}; it takes overflow='conflate', which it is for", name)
