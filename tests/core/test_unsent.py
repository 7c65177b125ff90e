"""What is not sent yet: bounded by items, bytes and time."""

from __future__ import annotations

import math

from hormesis.core.admission import NullLock
from hormesis.core.unsent import UnsentMachine


def unsent(max_items: int = 9, max_bytes: int | None = None) -> UnsentMachine[str]:
    return UnsentMachine(max_items=max_items, max_bytes=max_bytes, max_wait=10.0, lock=NullLock())


def test_items() -> None:
    """What was sent makes room for others."""
    machine = unsent(max_items=2)
    assert [machine.add(item, 0, 0.0) for item in "abc"] == [None, None, "items"]
    machine.sent()
    assert machine.add("c", 0, 0.0) is None
    assert machine.rest() == ["b", "c"]


def test_bytes() -> None:
    """Bytes count until they are sent."""
    machine = unsent(max_bytes=5)
    assert [machine.add("a", 3, 0.0), machine.add("b", 3, 0.0), machine.add("c", 2, 0.0)] == [None, "bytes", None]
    assert (machine.size, len(machine)) == (5, 2)
    machine.sent()
    assert machine.size == 2


def test_time() -> None:
    """The oldest says when the reader is late; a late one is given nothing more."""
    machine = unsent()
    assert (machine.due, machine.late(99.0), machine.first()) == (math.inf, False, None)
    machine.add("a", 1, 0.0)
    machine.add("b", 1, 5.0)
    assert (machine.due, machine.late(9.9), machine.late(10.0)) == (10.0, False, True)
    assert machine.add("c", 1, 10.0) == "time"
    machine.sent()
    assert (machine.due, machine.late(10.0)) == (15.0, False)
    first = machine.first()
    assert first is not None
    assert (first.item, first.size, first.since) == ("b", 1, 5.0)
