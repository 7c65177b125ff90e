"""The buffer: bounded by items and bytes, first come, first served, and nothing in the hands of who gives up."""

from __future__ import annotations

import pytest

from hormesis.core.admission import NullLock
from hormesis.core.buffer import BufferMachine, Crossed, Dropped, Entry, Overflow, Turn
from hormesis.core.hysteresis import Hysteresis


def buffer(
    max_items: int = 2,
    overflow: Overflow = "block",
    max_bytes: int | None = None,
    otherwise: Overflow | None = None,
    marks: Hysteresis | None = None,
) -> BufferMachine[str]:
    return BufferMachine(
        max_items=max_items,
        max_bytes=max_bytes,
        overflow=overflow,
        otherwise=otherwise,
        lock=NullLock(),
        marks=marks,
    )


def put(machine: BufferMachine[str], items: str) -> list[str | None]:
    return [machine.put(Entry(item, len(item)), 0.0) for item in items.split()]


def taken(machine: BufferMachine[str]) -> list[str]:
    """Take all that newcomers can have."""
    items = []
    while (entry := machine.take(0.0)) is not None:
        items.append(entry.item)
    return items


class Line:
    """Turns, and in which order they were called."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def turn(self, name: str, size: int | None = None, *, there: bool = True) -> Turn:
        def wake() -> bool:
            self.called.append(name)
            return there

        return Turn(wake, size)


def test_first_in_first_out() -> None:
    """Items come out in the order in which they went in."""
    machine = buffer(3)
    assert put(machine, "a b c") == [None] * 3
    assert taken(machine) == ["a", "b", "c"]


def test_full_by_items() -> None:
    """An item that finds no room is refused, and that waiting may help is for the shell to know."""
    machine = buffer(2)
    assert put(machine, "a b c") == [None, None, "full"]


def test_full_by_bytes() -> None:
    """Bytes bound it as items do, and what is taken gives its bytes back."""
    machine = buffer(10, max_bytes=5)
    assert put(machine, "aaa bb c") == [None, None, "full"]
    assert machine.size == 5
    machine.take(0.0)
    assert put(machine, "ccc d") == [None, "full"]
    assert machine.size == 5


def test_larger_than_everything() -> None:
    """An item that can never get in is refused as such, with every overflow, and drops nothing."""
    for overflow in ("block", "drop oldest", "drop newest", "fail"):
        machine = buffer(10, overflow, max_bytes=3)
        assert put(machine, "aa bbbb") == [None, "too large"]
        assert machine.outbox == []


def test_drop_oldest() -> None:
    """The oldest make room, as many as it takes."""
    machine = buffer(3, "drop oldest", max_bytes=4)
    assert put(machine, "a b c ddd") == [None] * 4
    assert machine.news() == [Dropped("a", "oldest"), Dropped("b", "oldest")]
    assert taken(machine) == ["c", "ddd"]


def test_drop_newest() -> None:
    """The item itself is dropped, and that is told."""
    machine = buffer(1, "drop newest")
    assert put(machine, "a b") == [None, "dropped"]
    assert machine.news() == [Dropped("b", "newest")]
    assert machine.news() == []
    assert machine.snapshot(0.0)["dropped"] == {"newest": 1}


def keyed(item: str) -> Entry[str]:
    """An item whose key is its first letter, and whose size is its length."""
    return Entry(item, len(item), key=item[0])


def test_conflate_in_place() -> None:
    """The newest of a key takes the place of the older one, also when the buffer is full."""
    machine = buffer(2, "conflate", otherwise="fail")
    assert [machine.put(keyed(item), 0.0) for item in ("a1", "b1", "a2", "c1")] == [None, None, None, "full"]
    assert machine.news() == [Dropped("a1", "conflated")]
    assert taken(machine) == ["a2", "b1"]
    assert machine.put(keyed("a3"), 0.0) is None
    assert taken(machine) == ["a3"]


def test_conflate_with_more_bytes_than_its_place_has() -> None:
    """An item that is larger than the one in its place goes by the other overflow, which spares that place."""
    machine = buffer(9, "conflate", max_bytes=6, otherwise="drop oldest")
    for item in ("a1", "b1", "c1", "a222"):
        assert machine.put(keyed(item), 0.0) is None
    assert machine.news() == [Dropped("b1", "oldest"), Dropped("a1", "conflated")]
    assert (taken(machine), machine.size) == (["a222", "c1"], 0)

    machine = buffer(9, "conflate", max_bytes=6, otherwise="drop newest")
    assert [machine.put(keyed(item), 0.0) for item in ("a1", "b1", "a22222")] == [None, None, "dropped"]
    assert taken(machine) == ["a1", "b1"]


def test_a_new_key_drops_the_oldest() -> None:
    """What becomes of a key that is not there is said apart."""
    machine = buffer(2, "conflate", otherwise="drop oldest")
    for item in ("a1", "b1", "c1", "b2"):
        assert machine.put(keyed(item), 0.0) is None
    assert machine.news() == [Dropped("a1", "oldest"), Dropped("b1", "conflated")]
    assert taken(machine) == ["b2", "c1"]


def test_expired_items_are_dropped_by_who_comes_to_take() -> None:
    """At its moment an item has expired; whoever takes gets the first that has not."""
    machine = buffer(5)
    for item, expires in (("a", 1.0), ("b", 2.0), ("c", None)):
        machine.put(Entry(item, expires=expires), 0.0)
    assert machine.take(0.9).item == "a"  # type: ignore[union-attr]
    assert machine.take(2.0).item == "c"  # type: ignore[union-attr]
    assert machine.news() == [Dropped("b", "expired")]
    assert machine.take(3.0) is None


def test_expired_items_make_room() -> None:
    """Before anything else is dropped or refused for want of room, what has expired goes."""
    machine = buffer(2, "drop oldest")
    machine.put(Entry("a", expires=1.0), 0.0)
    machine.put(Entry("b"), 0.0)
    machine.put(Entry("c"), 1.0)
    assert machine.news() == [Dropped("a", "expired")]
    assert taken(machine) == ["b", "c"]
    machine = buffer(1, "fail")
    machine.put(Entry("a", expires=1.0), 0.0)
    assert machine.put(Entry("b"), 0.9) == "full"
    assert machine.put(Entry("b"), 1.0) is None


def test_a_conflated_item_expires_by_its_own_time() -> None:
    """An item that takes another's place brings its own moment with it, and frees the key when it expires."""
    machine = buffer(2, "conflate", otherwise="fail")
    machine.put(Entry("a1", key="a", expires=1.0), 0.0)
    machine.put(Entry("a2", key="a", expires=5.0), 0.5)
    assert machine.take(1.0).item == "a2"  # type: ignore[union-attr]
    machine.put(Entry("a3", key="a", expires=6.0), 5.0)
    assert machine.take(6.0) is None
    machine.put(Entry("a4", key="a"), 6.0)
    assert machine.take(6.0).item == "a4"  # type: ignore[union-attr]


def test_takers_are_called_in_their_order() -> None:
    """An item is kept for the first in line; a newcomer does not get it."""
    machine, line = buffer(), Line()
    first, second = line.turn("first"), line.turn("second")
    machine.await_item(first)
    machine.await_item(second)
    put(machine, "a")
    assert line.called == ["first"]
    assert machine.take(0.0) is None
    put(machine, "b")
    assert line.called == ["first", "second"]
    assert machine.take(0.0, second).item == "a"  # type: ignore[union-attr]  the item is not tied to a turn
    assert machine.take(0.0, first).item == "b"  # type: ignore[union-attr]


def test_an_item_that_is_there_before_the_line() -> None:
    """Who stands in line while there is an item is called at once."""
    machine, line = buffer(), Line()
    put(machine, "a")
    machine.await_item(line.turn("late"))
    assert line.called == ["late"]


def test_who_gives_up_leaves_the_item_to_the_next() -> None:
    """A taker that was called and leaves passes the item on, and it keeps its place before younger ones."""
    machine, line = buffer(), Line()
    first, second = line.turn("first"), line.turn("second")
    machine.await_item(first)
    machine.await_item(second)
    put(machine, "a")
    machine.leave(first)
    machine.leave(first)
    assert line.called == ["first", "second"]
    assert machine.take(0.0, second).item == "a"  # type: ignore[union-attr]
    put(machine, "b")
    assert taken(machine) == ["b"]


def test_who_is_not_there_any_more_is_passed_over() -> None:
    """A turn whose owner is gone, as its loop is closed, holds nothing up."""
    machine, line = buffer(), Line()
    machine.await_item(line.turn("gone", there=False))
    machine.await_item(line.turn("there"))
    put(machine, "a")
    assert line.called == ["gone", "there"]


def test_putters_are_called_in_their_order_when_there_is_room() -> None:
    """Room is kept for the first in line; a newcomer's item does not overtake it."""
    machine, line = buffer(1), Line()
    put(machine, "a")
    first, second = line.turn("first", 0), line.turn("second", 0)
    machine.await_room(first)
    machine.await_room(second)
    assert machine.take(0.0).item == "a"  # type: ignore[union-attr]
    assert line.called == ["first"]
    assert put(machine, "x") == ["full"]
    assert machine.put(Entry("b"), 0.0, first) is None
    assert taken(machine) == ["b"]
    assert line.called == ["first", "second"]
    machine.leave(second)
    assert put(machine, "c") == [None]


def test_a_large_item_in_line_is_not_overtaken_by_small_ones() -> None:
    """Who wants much room waits no longer than its turn; those behind it wait as well."""
    machine, line = buffer(9, max_bytes=4), Line()
    put(machine, "aa bb")
    large, small = line.turn("large", 3), line.turn("small", 1)
    machine.await_room(large)
    machine.await_room(small)
    machine.take(0.0)
    assert line.called == []
    assert put(machine, "c") == ["full"]
    machine.leave(large)
    assert line.called == ["small"]


def test_who_waits_in_vain_and_comes_all_the_same() -> None:
    """A turn that was not called is out of its line when it comes, and what it gets is a newcomer's."""
    machine, line = buffer(1), Line()
    put(machine, "a")
    turn = line.turn("impatient", 0)
    machine.await_room(turn)
    assert machine.put(Entry("b"), 0.0, turn) == "full"
    assert machine.snapshot(0.0)["waiting_to_put"] == 0
    machine.take(0.0)
    assert line.called == []


def test_called_for_what_has_expired() -> None:
    """A taker whose item has expired goes on waiting in front of the line."""
    machine, line = buffer(), Line()
    first, second = line.turn("first"), line.turn("second")
    machine.await_item(first)
    machine.put(Entry("a", expires=1.0), 0.0)
    machine.await_item(second)
    assert machine.take(2.0, first) is None
    machine.await_item(first, again=True)
    put(machine, "b")
    assert line.called == ["first", "first"]


def test_closing() -> None:
    """Nothing gets in any more; what is there is taken, and then all who wait are called in vain."""
    machine, line = buffer(1), Line()
    put(machine, "a")
    putter = line.turn("putter", 0)
    machine.await_room(putter)
    machine.close()
    assert line.called == ["putter"]
    assert machine.put(Entry("b"), 0.0, putter) == "closed"
    assert put(machine, "c") == ["closed"]
    assert not machine.exhausted
    first, second = line.turn("first"), line.turn("second")
    machine.await_item(first)
    machine.await_item(second)
    assert machine.take(0.0, first).item == "a"  # type: ignore[union-attr]
    assert line.called == ["putter", "first", "second"]
    assert machine.take(0.0, second) is None
    assert machine.exhausted


def test_room_that_was_kept_is_void_when_it_is_closed() -> None:
    """Who was called for room, and comes after the closing, is refused: those who take may have gone."""
    machine, line = buffer(1), Line()
    put(machine, "a")
    putter = line.turn("putter", 0)
    machine.await_room(putter)
    machine.take(0.0)
    machine.close()
    assert machine.put(Entry("b"), 0.0, putter) == "closed"
    assert machine.snapshot(0.0)["waiting_to_put"] == 0


def test_put_back() -> None:
    """An item that came to nothing is the first again, even beyond the bound, which then holds for others."""
    machine = buffer(2)
    put(machine, "a b")
    entry = machine.take(0.0)
    assert entry is not None
    put(machine, "c")
    machine.put_back(entry)
    assert put(machine, "d") == ["full"]
    assert taken(machine) == ["a", "b", "c"]
    snapshot = machine.snapshot(0.0)
    assert (snapshot["put"], snapshot["taken"]) == (3, 3)


def test_put_back_where_a_newer_one_has_come() -> None:
    """With keys, an item is not put back in front of a newer one of its key."""
    machine = buffer(2, "conflate", otherwise="fail")
    machine.put(keyed("a1"), 0.0)
    entry = machine.take(0.0)
    assert entry is not None
    machine.put_back(entry)
    assert machine.take(0.0) is entry
    machine.put(keyed("a2"), 0.0)
    machine.put_back(entry)
    assert machine.news() == [Dropped("a1", "conflated")]
    assert taken(machine) == ["a2"]


def test_drained() -> None:
    """Who waits for the end of it all is called once when nothing is left; nobody waits when nothing is there."""
    machine, line = buffer(), Line()
    assert not machine.await_drained(line.turn("early"))
    put(machine, "a b")
    waits, leaves = line.turn("waits"), line.turn("leaves")
    assert machine.await_drained(waits)
    assert machine.await_drained(leaves)
    machine.leave(leaves)
    machine.take(0.0)
    assert line.called == []
    machine.take(0.0)
    assert line.called == ["waits"]


def test_discarding() -> None:
    """All that is there goes at once, and makes room."""
    for machine in (buffer(2, max_bytes=9), buffer(2, "conflate", otherwise="block")):
        line = Line()
        for item in ("a", "b"):
            machine.put(keyed(item), 0.0)
        machine.await_room(line.turn("putter", 1))
        assert machine.discard() == ["a", "b"]
        assert line.called == ["putter"]
        assert machine.size == len(machine) == 0
        assert machine.put(keyed("a"), 0.0) is None


def test_marks() -> None:
    """Crossing a mark, in either way and by whatever verb, goes to the outbox."""
    machine = buffer(9, marks=Hysteresis(high=2, low=0))
    assert not machine.paused
    put(machine, "a b c")
    assert machine.news() == [Crossed(paused=True, items=2, size=2)]
    assert machine.paused
    taken(machine)
    assert machine.news() == [Crossed(paused=False, items=0, size=0)]
    machine.put(Entry("a", expires=1.0), 0.0)
    machine.put(Entry("b", expires=1.0), 0.0)
    assert machine.take(2.0) is None
    expired = [Dropped("a", "expired"), Dropped("b", "expired")]
    assert machine.news() == [Crossed(paused=True, items=2, size=0), *expired, Crossed(paused=False, items=0, size=0)]
    put(machine, "a b")
    machine.discard()
    assert [type(notice) for notice in machine.news()] == [Crossed, Crossed]


def test_the_state_as_plain_data() -> None:
    """A snapshot tells how full it is, who waits, and what has gone through."""
    machine, line = buffer(2, max_bytes=9), Line()
    put(machine, "aa b")
    machine.await_room(line.turn("putter", 1))
    assert machine.snapshot(0.0) == {
        "items": 2,
        "max_items": 2,
        "bytes": 3,
        "max_bytes": 9,
        "waiting_to_put": 1,
        "waiting_to_take": 0,
        "put": 2,
        "taken": 0,
        "dropped": {},
        "paused": False,
        "closed": False,
    }


@pytest.mark.parametrize("overflow", ["block", "drop oldest", "drop newest", "fail"])
def test_a_bound_of_one(overflow: Overflow) -> None:
    """The smallest buffer works with every overflow."""
    machine = buffer(1, overflow, max_bytes=1)
    put(machine, "a b")
    assert taken(machine) == (["b"] if overflow == "drop oldest" else ["a"])
