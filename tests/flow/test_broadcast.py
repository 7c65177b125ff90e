"""Broadcasts: each item to everybody, and nobody holds the others up."""

from __future__ import annotations

import asyncio
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.events import EventBus
from hormesis.flow import Broadcast, ItemTooLarge, QueueClosed, ReaderTooSlow, iterate
from hormesis.testing import hear, run_virtual
from hormesis.testing.reactive import Probe


def subscribed(broadcast: Broadcast[Any], probe: Probe) -> Probe:
    broadcast.subscribe(probe)
    return probe


def test_each_item_goes_to_all_who_are_subscribed() -> None:
    """Whoever comes later gets what is published from then on."""
    broadcast = Broadcast[int](10, slow="disconnect")
    early = subscribed(broadcast, Probe(at_first=99))
    broadcast.publish(1)
    late = subscribed(broadcast, Probe(at_first=99))
    broadcast.publish(2)
    assert (early.items, late.items, len(broadcast), bool(broadcast)) == ([1, 2], [2], 2, True)
    late.cancel()
    broadcast.publish(3)
    broadcast.complete()
    broadcast.complete()
    assert (early.items, late.items) == ([1, 2, 3], [2])
    assert (early.signals[-1], len(broadcast)) == ("on_complete", 0)
    with pytest.raises(QueueClosed):
        broadcast.publish(4)


def test_who_falls_behind_is_disconnected() -> None:
    """Only that one: it gets an error, without what it was behind, and the event tells of it."""
    bus = EventBus()
    broadcast = Broadcast[int](3, slow="disconnect", name="prices", events=bus)
    quick, slow = subscribed(broadcast, Probe(at_first=99)), subscribed(broadcast, Probe(at_first=1))
    with hear(bus) as heard:
        for item in range(6):
            broadcast.publish(item)
    assert quick.items == list(range(6))
    assert (slow.items, slow.signals[-1]) == ([0], "on_error")
    assert isinstance(slow.error, ReaderTooSlow)
    assert (slow.error.reader, slow.error.reason, slow.error.items) == ("prices", "items", 3)
    heard.assert_happened("reader_disconnected", times=1, part="broadcast", items=3, reason="items")
    assert broadcast.snapshot() == {"subscribers": 1, "behind": 0, "ended": False}


def test_who_falls_behind_in_bytes_is_disconnected() -> None:
    """Bytes are a bound of their own; an item that is too large for anybody is the publisher's mistake."""
    broadcast = Broadcast[bytes](100, slow="disconnect", max_bytes=10)
    slow = subscribed(broadcast, Probe())
    with pytest.raises(ItemTooLarge):
        broadcast.publish(b"x" * 11)
    for _ in range(3):
        broadcast.publish(b"x" * 4)
    assert isinstance(slow.error, ReaderTooSlow)
    assert (slow.error.reason, slow.error.size) == ("bytes", 8)


@pytest.mark.parametrize(
    ("slow", "kept", "dropped"), [("drop oldest", [3, 4], [1, 2]), ("drop newest", [1, 2], [3, 4])]
)
def test_who_falls_behind_may_lose_items_instead(slow: Any, kept: list[int], dropped: list[int]) -> None:
    """What is lost is told, and the stream goes on."""
    bus = EventBus()
    broadcast = Broadcast[int](2, slow=slow, events=bus)
    probe = subscribed(broadcast, Probe())
    with hear(bus) as heard:
        for item in (1, 2, 3, 4):
            broadcast.publish(item)
    heard.assert_happened("item_dropped", times=len(dropped), part="broadcast", reason=slow.split()[1])
    assert broadcast.snapshot()["behind"] == 2
    probe.request(9)
    assert probe.items == kept


def test_who_falls_behind_may_get_the_newest_of_each_key() -> None:
    """The newest item of a key takes the place of the one that waits; beyond that the oldest goes."""
    broadcast = Broadcast[str](2, slow="conflate", key=lambda item: item[0])
    probe = subscribed(broadcast, Probe())
    for item in ("a1", "b1", "a2", "c1"):
        broadcast.publish(item)
    probe.request(9)
    assert probe.items == ["b1", "c1"]


def test_an_end_comes_after_what_is_waiting() -> None:
    """Whoever is behind gets that first, then the end; whoever comes after the end gets it at once."""
    for error in (None, KeyError("gone")):
        broadcast = Broadcast[int](9, slow="disconnect")
        probe = subscribed(broadcast, Probe())
        broadcast.publish(1)
        if error is None:
            broadcast.complete()
        else:
            broadcast.fail(error)
        assert probe.signals == ["on_subscribe"]
        probe.request(1)
        last = "on_complete" if error is None else "on_error"
        assert (probe.items, probe.signals[-1], probe.error) == ([1], last, error)
        assert subscribed(broadcast, Probe()).signals == ["on_subscribe", last]


def test_a_bad_request_after_the_end() -> None:
    """Whoever was disconnected, or has broken a rule, gets no second end."""
    broadcast = Broadcast[int](1, slow="disconnect")
    probe = subscribed(broadcast, Probe())
    probe.request(0)
    probe.request(-1)
    broadcast.publish(1)
    broadcast.complete()
    assert probe.signals == ["on_subscribe", "on_error"]


def test_falling_behind_within_a_signal() -> None:
    """A subscriber that is given its items, and falls behind just then, is told once."""
    broadcast = Broadcast[int](1, slow="disconnect")

    class Publishing(Probe):
        def on_next(self, item: Any) -> None:
            super().on_next(item)
            for more in range(3):
                broadcast.publish(more)
            broadcast.complete()

    probe = subscribed(broadcast, Publishing(at_first=1))
    broadcast.publish(9)
    assert probe.signals == ["on_subscribe", "on_next", "on_error"]


def test_subscribers_are_bounded() -> None:
    """One too many is refused by signals, and one that has gone makes room."""
    broadcast = Broadcast[int](1, slow="disconnect", max_subscribers=1)
    first, second = subscribed(broadcast, Probe()), subscribed(broadcast, Probe())
    assert second.signals == ["on_subscribe", "on_error"]
    assert isinstance(second.error, ConfigurationError)
    first.cancel()
    assert subscribed(broadcast, Probe()).signals == ["on_subscribe"]


def test_a_subscriber_that_raises_has_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged (rule 2.13), and the others get their items."""

    class Raising(Probe):
        def on_next(self, item: Any) -> None:
            raise ZeroDivisionError

    broadcast = Broadcast[int](9, slow="disconnect")
    subscribed(broadcast, Raising(at_first=9))
    other = subscribed(broadcast, Probe(at_first=9))
    with caplog.at_level(logging.ERROR, "hormesis.flow"):
        broadcast.publish(1)
    assert (len(broadcast), other.items) == (1, [1])
    assert "rule 2.13" in caplog.text


def test_an_interrupt_in_a_subscriber_comes_out() -> None:
    """Ctrl-C in a signal ends what is being done, and the stream can still be used."""

    class Interrupted(Probe):
        def on_next(self, item: Any) -> None:
            super().on_next(item)
            if item == 1:
                raise KeyboardInterrupt

    broadcast = Broadcast[int](9, slow="disconnect")
    probe = subscribed(broadcast, Interrupted(at_first=9))
    with pytest.raises(KeyboardInterrupt):
        broadcast.publish(1)
    broadcast.publish(2)
    assert probe.items == [1, 2]


def test_publishing_within_a_signal() -> None:
    """It is done after that signal, not within it."""
    broadcast = Broadcast[int](9, slow="disconnect")

    class Answering(Probe):
        def on_next(self, item: Any) -> None:
            super().on_next(item)
            if item < 3:
                broadcast.publish(item + 1)

    probe = subscribed(broadcast, Answering(at_first=9))
    broadcast.publish(1)
    assert (probe.items, probe.depth) == ([1, 2, 3], 1)


def test_threads_publish_and_request() -> None:
    """However threads race, each subscriber gets every item once, those of one thread in order, one at a time."""
    broadcast = Broadcast[tuple[int, int]](10_000, slow="disconnect")
    probes = [subscribed(broadcast, Probe()) for _ in range(2)]

    def publish(thread: int) -> None:
        for number in range(200):
            broadcast.publish((thread, number))

    def request(probe: Probe) -> None:
        for _ in range(800):
            probe.request(1)

    with ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(publish, thread) for thread in range(3)] + [pool.submit(request, probe) for probe in probes]
        for job in jobs:
            job.result(20)
    for probe in probes:
        assert not probe.overlapped
        assert sorted(probe.items) == list(itertools.product(range(3), range(200)))
        for thread in range(3):
            assert [number for of, number in probe.items if of == thread] == list(range(200))


def test_iterating_over_a_broadcast() -> None:
    """A thread publishes, and a loop iterates."""
    broadcast = Broadcast[int](1000, slow="disconnect")

    async def collect() -> list[int]:
        return [item async for item in iterate(broadcast, prefetch=4)]

    async def main() -> list[int]:
        collecting = asyncio.create_task(collect())
        await asyncio.sleep(0)  # until it has subscribed
        await asyncio.to_thread(publish)
        return await collecting

    def publish() -> None:
        for item in range(100):
            broadcast.publish(item)
        broadcast.complete()

    assert run_virtual(main()) == list(range(100))


@pytest.mark.parametrize("wrong", ["publish", "fail"])
def test_none_is_no_item_and_no_error(wrong: str) -> None:
    """It raises a TypeError that names the rule."""
    with pytest.raises(TypeError, match=r"rule 2\.13"):
        getattr(Broadcast[Any](1, slow="disconnect"), wrong)(None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_items": 0}, "max_items is 0"),
        ({"slow": "wait"}, "slow is 'wait'; it takes 'disconnect', 'drop oldest', 'drop newest', 'conflate'"),
        ({"slow": "conflate"}, "key is None; it takes a function"),
        ({"key": str}, "key is <class 'str'>"),
        ({"max_bytes": 0}, "max_bytes is 0"),
        ({"size": len}, "size is set and max_bytes is not"),
        ({"max_subscribers": 0}, "max_subscribers is 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], message: str) -> None:
    """The error shows the value and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        Broadcast(**{"max_items": 1, "slow": "disconnect", **settings})
