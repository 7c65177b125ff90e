"""The buffer against a naive model: a list, and those who wait in lists of their own."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hormesis.core.admission import NullLock
from hormesis.core.buffer import BufferMachine, Dropped, Entry, Turn

PLAIN = ["block", "drop oldest", "drop newest", "fail"]


class Buffers(RuleBasedStateMachine):
    """Puts, takes and waits, with time going on; every item that was let in comes out once, or is told as dropped."""

    @initialize(
        items=st.integers(1, 4),
        size=st.none() | st.integers(3, 8),
        overflow=st.sampled_from(PLAIN),
        conflates=st.booleans(),
    )
    def make(self, items: int, size: int | None, overflow: Any, *, conflates: bool) -> None:
        self.machine: BufferMachine[tuple[int, str]] = BufferMachine(
            max_items=items,
            max_bytes=size,
            overflow="conflate" if conflates else overflow,
            otherwise=overflow if conflates else None,
            lock=NullLock(),
        )
        self.max_items, self.max_bytes, self.overflow, self.conflates = items, size, overflow, conflates
        self.now = 0.0
        self.number = 0
        self.inside: list[list[Any]] = []  # [item, size, expires, key], oldest first
        self.takers: list[Turn] = []
        self.putters: list[tuple[Turn, Entry[Any]]] = []
        self.over = 0  # put back beyond the bound
        self.closed = False

    def entry(self, size: int, lasts: float | None, key: str) -> Entry[Any]:
        self.number += 1
        return Entry((self.number, key), size, None if lasts is None else self.now + lasts, key)

    def expect_news(self, expected: list[Dropped]) -> None:
        assert self.machine.news() == expected

    def expire(self) -> list[Dropped]:
        dropped = []
        while self.inside and self.inside[0][2] is not None and self.inside[0][2] <= self.now:
            dropped.append(Dropped(self.inside.pop(0)[0], "expired"))
        return dropped

    def place(self, entry: Entry[Any]) -> list[Any] | None:
        return next((each for each in self.inside if self.conflates and each[3] == entry.key), None)

    def fits(self, entry: Entry[Any]) -> bool:
        if self.putters and any(not turn.called for turn, _ in self.putters):
            return False
        place = self.place(entry)
        kept = [other for turn, other in self.putters if turn.called]
        items = len(self.inside) + len(kept) + (place is None)
        size = sum(each[1] for each in self.inside) + sum(each.size for each in kept) + entry.size
        size -= place[1] if place else 0
        return items <= self.max_items and (self.max_bytes is None or size <= self.max_bytes)

    def goes_in(self, entry: Entry[Any]) -> list[Dropped]:
        place = self.place(entry)
        if place is None:
            self.inside.append([entry.item, entry.size, entry.expires, entry.key])
            return []
        dropped = [Dropped(place[0], "conflated")]
        place[:3] = [entry.item, entry.size, entry.expires]
        return dropped

    @rule(size=st.integers(0, 9), lasts=st.none() | st.sampled_from([1.0, 3.0]), key=st.sampled_from("abc"))
    def put(self, size: int, lasts: float | None, key: str) -> None:
        entry = self.entry(size, lasts, key)
        result = self.machine.put(entry, self.now)
        if self.closed:
            assert result == "closed"
            return
        if self.max_bytes is not None and size > self.max_bytes:
            assert result == "too large"
            return
        news: list[Dropped] = []
        if not self.fits(entry):
            news += self.expire()
        if not self.fits(entry):
            if self.overflow in ("block", "fail"):
                assert result == "full"
                self.expect_news(news)
                return
            if self.overflow == "drop newest":
                assert result == "dropped"
                self.expect_news([*news, Dropped(entry.item, "newest")])
                return
            while not self.fits(entry):
                spared = self.place(entry)
                victim = next(each for each in self.inside if each is not spared)
                self.inside.remove(victim)
                news.append(Dropped(victim[0], "oldest"))
        assert result is None
        self.expect_news(news + self.goes_in(entry))

    @rule()
    def take(self) -> None:
        called = sum(turn.called for turn in self.takers)
        entry = self.machine.take(self.now)
        self.expect_news(self.expire())
        if len(self.inside) <= called:
            assert entry is None
        else:
            assert entry is not None
            assert entry.item == self.inside.pop(0)[0]

    @rule()
    def stand_for_item(self) -> None:
        turn = Turn(lambda: True)
        self.takers.append(turn)
        self.machine.await_item(turn)

    @precondition(lambda self: self.overflow == "block")
    @rule(size=st.integers(0, 3), key=st.sampled_from("abc"))
    def stand_for_room(self, size: int, key: str) -> None:
        entry = self.entry(size, None, key)
        turn = Turn(lambda: True, size)
        self.putters.append((turn, entry))
        self.machine.await_room(turn)

    @precondition(lambda self: self.takers)
    @rule(data=st.data(), leaves=st.booleans())
    def taker_goes_on(self, data: st.DataObject, *, leaves: bool) -> None:
        turn = data.draw(st.sampled_from(self.takers))
        was_called = turn.called
        self.takers.remove(turn)
        if leaves:
            self.machine.leave(turn)
            return
        others = sum(other.called for other in self.takers)
        entry = self.machine.take(self.now, turn)
        self.expect_news(self.expire())
        if len(self.inside) <= (0 if was_called else others):
            assert entry is None
        else:
            assert entry is not None
            assert entry.item == self.inside.pop(0)[0]

    @precondition(lambda self: any(turn.called for turn, _ in self.putters))
    @rule(data=st.data(), leaves=st.booleans())
    def putter_goes_on(self, data: st.DataObject, *, leaves: bool) -> None:
        turn, entry = data.draw(st.sampled_from([pair for pair in self.putters if pair[0].called]))
        self.putters.remove((turn, entry))
        if leaves:
            self.machine.leave(turn)
            return
        result = self.machine.put(entry, self.now, turn)
        if self.closed:
            assert result == "closed"
        else:
            assert result is None
            self.expect_news(self.goes_in(entry))

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def discard(self) -> None:
        assert self.machine.discard() == [each[0] for each in self.inside]
        self.inside.clear()

    @precondition(lambda self: self.number > 20)
    @rule()
    def close(self) -> None:
        self.machine.close()
        self.closed = True

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "machine"):
            return
        snapshot = self.machine.snapshot(self.now)
        assert snapshot["items"] == len(self.machine) == len(self.inside) <= self.max_items
        assert snapshot["bytes"] == sum(each[1] for each in self.inside)
        assert self.max_bytes is None or snapshot["bytes"] <= self.max_bytes
        assert snapshot["waiting_to_take"] == len(self.takers)
        assert snapshot["waiting_to_put"] == len(self.putters)

    @invariant()
    def nobody_waits_for_what_is_there(self) -> None:
        if not hasattr(self, "machine"):
            return
        called = sum(turn.called for turn in self.takers)
        if called < len(self.takers):
            assert len(self.inside) <= called
        waiting = [entry for turn, entry in self.putters if not turn.called]
        if waiting:
            kept = [entry for turn, entry in self.putters if turn.called]
            items = len(self.inside) + len(kept) + 1
            size = sum(each[1] for each in self.inside) + sum(each.size for each in kept) + waiting[0].size
            assert items > self.max_items or (self.max_bytes is not None and size > self.max_bytes)

    @invariant()
    def those_who_come_first_are_called_first(self) -> None:
        if not hasattr(self, "machine"):
            return
        for line in (list(self.takers), [turn for turn, _ in self.putters]):
            calls = [turn.called for turn in line]
            assert calls == sorted(calls, reverse=True)


TestBuffers = Buffers.TestCase
