"""A buffer between those who put and those who take: bounded by items and by bytes, first in, first out.

**Turns instead of hand-overs.** Who finds nothing to take, or no room to put, stands in line with a `Turn`. When there
is something for it, its turn is *called*: an item, or so much room, is kept for it, and newcomers don't get that. The
item stays in the buffer until its taker comes for it, and the putter's item stays with the putter until it comes to put
it. So whoever is cancelled while waiting, even in the moment between being called and knowing it, has nothing in hand
that could be lost: it leaves, what was kept goes to the next in line, and a put that was cancelled has put nothing.

**Overflow** is what becomes of an item that finds no room:

    block         it waits in line, first come, first served
    drop oldest   the oldest items make room
    drop newest   it is dropped itself
    fail          it is refused
    conflate      the newest item of a key takes the place of the one that is there; what becomes of an item with
                  another key, or of one that is larger than its place, is one of the four above

An item that has a moment by which it must be taken is dropped when that has passed, by whoever comes to take it, or
comes with an item that finds no room. What is dropped, and that the level has crossed a mark, goes to the outbox.

Every verb takes the lock by itself and wakes others after it has released it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from hormesis.core.admission import Lock
from hormesis.core.hysteresis import Hysteresis

__all__ = [
    "OVERFLOWS",
    "BufferMachine",
    "Crossed",
    "DropReason",
    "Dropped",
    "Entry",
    "Notice",
    "Overflow",
    "Refused",
    "Turn",
]

T = TypeVar("T")

Overflow = Literal["block", "drop oldest", "drop newest", "fail", "conflate"]
"""What becomes of an item that finds no room."""

OVERFLOWS: tuple[Overflow, ...] = ("block", "drop oldest", "drop newest", "fail", "conflate")

Refused = Literal["closed", "too large", "full", "dropped"]
"""Why an item did not get in; `"full"` says that waiting for room may help, where the overflow is to block."""

DropReason = Literal["expired", "oldest", "newest", "conflated"]
"""Why an item was dropped."""


class Entry(Generic[T]):
    """An item in the buffer.

    Args:
        item: What was put.
        size: Its bytes; 0 where they don't count.
        expires: The moment by which it must be taken.
        key: Whose place it takes, where items are conflated.
    """

    __slots__ = ("expires", "item", "key", "size")

    def __init__(self, item: T, size: int = 0, expires: float | None = None, key: Hashable = None) -> None:
        self.item = item
        self.size = size
        self.expires = expires
        self.key = key


class Turn:
    """One who waits.

    Args:
        wake: Tells it that its turn was called, from any thread; returns False when nobody is there any more.
        size: The bytes that it wants room for; None when it waits for something else than room.
    """

    __slots__ = ("called", "size", "wake")

    def __init__(self, wake: Callable[[], object], size: int | None = None) -> None:
        self.wake = wake
        self.size = size
        self.called = False


class Dropped(NamedTuple):
    """An item was dropped."""

    item: Any
    reason: DropReason


class Crossed(NamedTuple):
    """The level has crossed a mark: whoever sends should pause, or go on."""

    paused: bool
    items: int
    size: int


Notice: TypeAlias = Dropped | Crossed


class BufferMachine(Generic[T]):
    """Holds items for those who take them.

    Args:
        max_items: Items that it holds at most.
        max_bytes: Bytes that its items have at most; None when they don't count.
        overflow: What becomes of an item that finds no room.
        otherwise: With `"conflate"`, what becomes of one that finds no room in the place of its key either.
        lock: Guards it.
        marks: Where the level is a reason to pause.

    Attributes:
        closed: Whether nothing is put any more.
        outbox: What happened that nobody has been told of; empty in the common case. `news` takes it.

    >>> from hormesis.core.admission import NullLock
    >>> machine = BufferMachine(max_items=2, overflow="drop oldest", lock=NullLock())
    >>> [machine.put(Entry(item), now=0.0) for item in "abc"]
    [None, None, None]
    >>> machine.take(now=0.0).item, machine.news()
    ('b', [Dropped(item='a', reason='oldest')])
    """

    __slots__ = (
        "_bytes",
        "_called_takers",
        "_counts_only",
        "_drainers",
        "_dropped",
        "_expiring",
        "_full",
        "_items",
        "_lock",
        "_marks",
        "_places",
        "_put_count",
        "_putters",
        "_reserved_bytes",
        "_reserved_items",
        "_taken_count",
        "_takers",
        "closed",
        "max_bytes",
        "max_items",
        "outbox",
    )

    def __init__(
        self,
        *,
        max_items: int,
        max_bytes: int | None = None,
        overflow: Overflow,
        otherwise: Overflow | None = None,
        lock: Lock,
        marks: Hysteresis | None = None,
    ) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self._full = otherwise if otherwise is not None else overflow
        self._places: dict[Hashable, Entry[T]] | None = {} if overflow == "conflate" else None
        self._lock = lock
        self._marks = marks
        self._counts_only = max_bytes is None and self._places is None and marks is None
        self._items: deque[Entry[T]] = deque()
        self._bytes = 0
        self._expiring = False
        self._takers: OrderedDict[Turn, None] = OrderedDict()
        self._putters: OrderedDict[Turn, None] = OrderedDict()
        self._drainers: list[Turn] = []
        self._called_takers = 0
        self._reserved_items = 0
        self._reserved_bytes = 0
        self._put_count = 0
        self._taken_count = 0
        self._dropped: Counter[DropReason] = Counter()
        self.closed = False
        self.outbox: list[Notice] = []

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """The bytes of what it holds."""
        return self._bytes

    @property
    def paused(self) -> bool:
        """Whether whoever sends should pause."""
        return self._marks is not None and self._marks.paused

    @property
    def exhausted(self) -> bool:
        """Whether it is closed, and nothing is left to take."""
        return self.closed and not self._items

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state as plain data."""
        with self._lock:
            return {
                "items": len(self._items),
                "max_items": self.max_items,
                "bytes": self._bytes,
                "max_bytes": self.max_bytes,
                "waiting_to_put": len(self._putters) + self._reserved_items,
                "waiting_to_take": len(self._takers) + self._called_takers,
                "put": self._put_count,
                "taken": self._taken_count,
                "dropped": dict(self._dropped),
                "paused": self.paused,
                "closed": self.closed,
            }

    def news(self) -> list[Notice]:
        """Take what nobody has been told of, oldest first."""
        with self._lock:
            news, self.outbox = self.outbox, []
        return news

    def put(self, entry: Entry[T], now: float, turn: Turn | None = None) -> Refused | None:
        """Put an item in, or say why not.

        Args:
            entry: The item.
            now: The time.
            turn: The putter's turn, if it stood in line; with it, it stands there no more.
        """
        with self._lock:
            refused = self._put(entry, now, turn)
            woken = self._call() if self._takers or self._putters else None
        if woken:
            self._wake(woken)
        return refused

    def take(self, now: float, turn: Turn | None = None) -> Entry[T] | None:
        """Take the item that has been there for the longest; None when there is none for the caller.

        Args:
            now: The time.
            turn: The taker's turn, if it stood in line; with it, it stands there no more.
        """
        with self._lock:
            entry = self._take(now, turn)
            woken = self._call() if self._takers or self._putters or self._drainers else None
        if woken:
            self._wake(woken)
        return entry

    def put_back(self, entry: Entry[T]) -> None:
        """Put an item that was taken, and came to nothing, where it was: in front, if need be beyond the bounds."""
        with self._lock:
            self._taken_count -= 1
            if self._places is not None and entry.key in self._places:
                self._drop(entry.item, "conflated")
            else:
                self._items.appendleft(entry)
                self._bytes += entry.size
                self._expiring = self._expiring or entry.expires is not None
                if self._places is not None:
                    self._places[entry.key] = entry
                self._level_changed()
            woken = self._call()
        self._wake(woken)

    def await_item(self, turn: Turn, *, again: bool = False) -> None:
        """Stand in line for an item, or in front of the line `again`, when the turn was called in vain."""
        self._stand(self._takers, turn, again=again)

    def await_room(self, turn: Turn) -> None:
        """Stand in line for room."""
        self._stand(self._putters, turn, again=False)

    def await_drained(self, turn: Turn) -> bool:
        """Be called once when nothing is left to take; False when that is so already."""
        with self._lock:
            if not self._items:
                return False
            self._drainers.append(turn)
            return True

    def leave(self, turn: Turn) -> None:
        """Give up waiting; what was kept for the turn goes to the next. Leaving twice does no harm."""
        with self._lock:
            self._arrive(turn)
            if turn in self._drainers:
                self._drainers.remove(turn)
            woken = self._call()
        self._wake(woken)

    def close(self) -> None:
        """Let nothing in any more; what is there can still be taken. Those who wait for room are called in vain."""
        with self._lock:
            self.closed = True
            woken = self._call()
        self._wake(woken)

    def discard(self) -> list[T]:
        """Take all that is there at once."""
        with self._lock:
            items = [entry.item for entry in self._items]
            self._items.clear()
            self._bytes = 0
            if self._places is not None:
                self._places.clear()
            self._taken_count += len(items)
            self._level_changed()
            woken = self._call()
        self._wake(woken)
        return items

    def _stand(self, line: OrderedDict[Turn, None], turn: Turn, *, again: bool) -> None:
        with self._lock:
            line[turn] = None
            if again:
                line.move_to_end(turn, last=False)
            # What has become free between the refusal and the line would otherwise be overlooked.
            woken = self._call()
        self._wake(woken)

    def _put(self, entry: Entry[T], now: float, turn: Turn | None) -> Refused | None:
        promised = turn is not None and self._arrive(turn)
        if self.closed:
            return "closed"
        if self._counts_only and not self._putters and len(self._items) + self._reserved_items < self.max_items:
            # What most items go by: there is room, and nothing but their number counts.
            self._items.append(entry)
            self._bytes += entry.size
            self._put_count += 1
            self._expiring = self._expiring or entry.expires is not None
            return None
        if self.max_bytes is not None and entry.size > self.max_bytes:
            return "too large"
        if not promised and not self._fits(entry):
            if self._expiring:
                self._expire(now)
            if self._full == "drop oldest":
                self._make_room(entry)
            elif not self._fits(entry):
                if self._full != "drop newest":
                    return "full"
                self._drop(entry.item, "newest")
                return "dropped"
        self._put_count += 1
        self._expiring = self._expiring or entry.expires is not None
        if self._places is not None:
            place = self._places.get(entry.key)
            if place is not None:
                self._replace(place, entry)
                return None
            self._places[entry.key] = entry
        self._items.append(entry)
        self._bytes += entry.size
        if self._marks is not None:
            self._level_changed()
        return None

    def _fits(self, entry: Entry[T]) -> bool:
        """Whether there is room for a newcomer's item, and nobody stands in line before it."""
        if self._putters:
            return False
        items, size = 1, entry.size
        if self._places is not None and (place := self._places.get(entry.key)) is not None:
            items, size = 0, size - place.size
        return self._has_room(items, size)

    def _has_room(self, items: int, size: int) -> bool:
        return len(self._items) + self._reserved_items + items <= self.max_items and (
            self.max_bytes is None or self._bytes + self._reserved_bytes + size <= self.max_bytes
        )

    def _make_room(self, entry: Entry[T]) -> None:
        """Drop the oldest until an item fits; the one in whose place it goes is spared."""
        place = None if self._places is None else self._places.get(entry.key)
        while not self._fits(entry):
            if self._items[0] is place:
                self._items.rotate(-1)
                victim = self._pop()
                self._items.rotate(1)
            else:
                victim = self._pop()
            self._drop(victim.item, "oldest")

    def _replace(self, place: Entry[T], entry: Entry[T]) -> None:
        self._drop(place.item, "conflated")
        self._bytes += entry.size - place.size
        place.item, place.size, place.expires = entry.item, entry.size, entry.expires
        self._level_changed()

    def _take(self, now: float, turn: Turn | None) -> Entry[T] | None:
        promised = turn is not None and self._arrive(turn)
        if self._expiring:
            self._expire(now)
        # All that is kept for those who were called is not for others.
        if len(self._items) <= (0 if promised else self._called_takers):
            return None
        entry = self._pop()
        self._taken_count += 1
        if self._marks is not None:
            self._level_changed()
        return entry

    def _pop(self) -> Entry[T]:
        entry = self._items.popleft()
        self._bytes -= entry.size
        if self._places is not None:
            del self._places[entry.key]
        return entry

    def _expire(self, now: float) -> None:
        """Drop what should have been taken by now, from the front."""
        dropped = False
        while self._items and (expires := self._items[0].expires) is not None and expires <= now:
            self._drop(self._pop().item, "expired")
            dropped = True
        if not self._items:
            self._expiring = False
        if dropped:
            self._level_changed()

    def _drop(self, item: T, reason: DropReason) -> None:
        self._dropped[reason] += 1
        self.outbox.append(Dropped(item, reason))

    def _level_changed(self) -> None:
        if self._marks is None:
            return
        turned = self._marks.update(len(self._items), self._bytes)
        if turned is not None:
            self.outbox.append(Crossed(turned == "pause", len(self._items), self._bytes))

    def _arrive(self, turn: Turn) -> bool:
        """Take a turn out of its line, and say whether something was kept for it, which it now has."""
        if not turn.called:
            self._takers.pop(turn, None)
            self._putters.pop(turn, None)
            return False
        turn.called = False
        if turn.size is None:
            self._called_takers -= 1
        else:
            self._reserved_items -= 1
            self._reserved_bytes -= turn.size
        return True

    def _call(self) -> list[Turn]:
        """Call the turns of all for whom there is something, or never will be."""
        called: list[Turn] = []
        while self._takers and (len(self._items) > self._called_takers or self.exhausted):
            turn, _ = self._takers.popitem(last=False)
            turn.called = True
            self._called_takers += 1
            called.append(turn)
        while self._putters:
            turn = next(iter(self._putters))
            size = turn.size or 0
            if not self.closed and not self._has_room(1, size):
                break
            del self._putters[turn]
            turn.called = True
            self._reserved_items += 1
            self._reserved_bytes += size
            called.append(turn)
        if self._drainers and not self._items:
            called += self._drainers
            self._drainers.clear()
        return called

    def _wake(self, called: Iterable[Turn]) -> None:
        for turn in called:
            if turn.wake() is False:
                self.leave(turn)
