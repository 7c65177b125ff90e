"""Whether publishers, subscribers and processors keep the rules of Reactive Streams.

    await verify_publisher(lambda items: my_publisher(range(items)))

Each rule that can be seen from outside is tried on a new object, and what is broken is told by its number. `RULES` has
all of them in a few words, and why nothing can be seen of some.

What should happen is waited for, and what should not happen is given `patience` to happen. On virtual time
(`run_virtual`) that takes no time at all.

Source: Reactive Streams 1.0.4, and its Technology Compatibility Kit
(https://github.com/reactive-streams/reactive-streams-jvm).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import inspect
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeAlias, TypeVar

from hormesis.core.demand import UNBOUNDED
from hormesis.errors import ConfigurationError
from hormesis.flow.reactive import Processor, Publisher, Subscriber, Subscription
from hormesis.units import Duration, seconds

__all__ = [
    "RULES",
    "Probe",
    "Rule",
    "SubscriberUnderTest",
    "Tap",
    "verify_processor",
    "verify_publisher",
    "verify_subscriber",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the specification.

    Args:
        text: What it says, in short.
        unseen: Why nothing can be seen of it from outside; empty for a rule that is verified.
    """

    text: str
    unseen: str = ""


_LEAVE = "it gives leave, and nothing would break it"
_INSIDE = "it is about what goes on inside, of which nothing is seen"

RULES: Mapping[str, Rule] = {
    "1.1": Rule("never more items than were requested"),
    "1.2": Rule("fewer items than were requested, if it then ends"),
    "1.3": Rule("signals one at a time"),
    "1.4": Rule("a failure is told by on_error"),
    "1.5": Rule("a good end is told by on_complete"),
    "1.6": Rule("whoever got the last signal counts as cancelled"),
    "1.7": Rule("nothing after the last signal"),
    "1.8": Rule("whoever has cancelled gets nothing in the end"),
    "1.9": Rule("on_subscribe is the first signal; subscribe returns, but for None"),
    "1.10": Rule("subscribe may be called again, by another subscriber"),
    "1.11": Rule("several subscribers are served or refused, each by its own signals"),
    "2.1": Rule("items are asked for by request"),
    "2.2": Rule("a subscriber that takes its time dispatches signals", _INSIDE),
    "2.3": Rule("on_complete and on_error call nothing of the subscription"),
    "2.4": Rule("after the last signal, the subscription counts as cancelled"),
    "2.5": Rule("a second subscription is cancelled"),
    "2.6": Rule("a subscription that is not needed any more is cancelled"),
    "2.7": Rule("request and cancel are called one at a time"),
    "2.8": Rule("items may come after cancel"),
    "2.9": Rule("on_complete may come without any request"),
    "2.10": Rule("on_error may come without any request"),
    "2.11": Rule("signals happen before they are processed", _INSIDE),
    "2.12": Rule("on_subscribe at most once"),
    "2.13": Rule("signals return, but for None"),
    "3.1": Rule("request and cancel are called by the subscriber", "who calls a method can't be seen by it"),
    "3.2": Rule("request may be called within on_subscribe and on_next"),
    "3.3": Rule("bounded recursion between request and on_next"),
    "3.4": Rule("request returns soon"),
    "3.5": Rule("cancel returns soon, twice, and from any thread"),
    "3.6": Rule("after cancel, request does nothing"),
    "3.7": Rule("after cancel, cancel does nothing"),
    "3.8": Rule("requests add up"),
    "3.9": Rule("a request of none or fewer is answered by on_error"),
    "3.10": Rule("request may call on_next itself", _LEAVE),
    "3.11": Rule("request may call on_complete or on_error itself", _LEAVE),
    "3.12": Rule("after cancel, signals stop in the end"),
    "3.13": Rule("after cancel, the subscriber is forgotten"),
    "3.14": Rule("cancel may shut the publisher down", _LEAVE),
    "3.15": Rule("cancel returns"),
    "3.16": Rule("request returns"),
    "3.17": Rule("demand up to 2^63 - 1"),
    "4.1": Rule("a processor keeps the rules of both sides"),
    "4.2": Rule("a processor passes an error on, unless it recovers"),
}
"""The rules, by their numbers."""

PublisherOf: TypeAlias = "Callable[[int], Publisher[Any]]"
"""Makes a publisher of so many items."""

_MANY = 300
"""Items of a stream that is long; more than any prefetch, and few enough to be quick."""

_DEPTH_MAX = 10
"""Calls of on_next within one another; what recurses without a bound gets to `_MANY`."""


class Probe:
    """A subscriber that asks for what it is told to, and notes what it gets.

    Args:
        at_first: What it requests within `on_subscribe`.
        each_time: What it requests within each `on_next`.
        cancel_at: It cancels within the `on_next` of the item of this number, from 1.
    """

    def __init__(self, *, at_first: int = 0, each_time: int = 0, cancel_at: int = 0) -> None:
        self.signals: list[str] = []
        self.items: list[Any] = []
        self.error: BaseException | None = None
        self.overlapped = False
        self.depth = 0
        self.subscription: Subscription | None = None
        self._at_first = at_first
        self._each_time = each_time
        self._cancel_at = cancel_at
        self._lock = threading.Lock()
        self._within: dict[int, int] = {}

    def has(self, items: int) -> bool:
        """Whether it got so many items."""
        return len(self.items) >= items

    def has_ended(self) -> bool:
        """Whether it got a last signal."""
        return "on_complete" in self.signals or "on_error" in self.signals

    def is_subscribed(self) -> bool:
        """Whether it has a subscription."""
        return self.subscription is not None

    def on_subscribe(self, subscription: Subscription, /) -> None:
        """Note it, and request."""
        with self._noted("on_subscribe"):
            self.subscription = subscription
            if self._at_first:
                subscription.request(self._at_first)

    def on_next(self, item: Any, /) -> None:
        """Note it, and request or cancel."""
        with self._noted("on_next"):
            self.items.append(item)
            if self.subscription is not None:
                if self._each_time:
                    self.subscription.request(self._each_time)
                if len(self.items) == self._cancel_at:
                    self.subscription.cancel()

    def on_error(self, error: BaseException, /) -> None:
        """Note it."""
        with self._noted("on_error"):
            self.error = error

    def on_complete(self) -> None:
        """Note it."""
        with self._noted("on_complete"):
            pass

    def request(self, n: int) -> None:
        """Request by the subscription that it got."""
        assert self.subscription is not None, "no on_subscribe came"  # noqa: S101
        self.subscription.request(n)

    def cancel(self) -> None:
        """Cancel the subscription that it got."""
        assert self.subscription is not None, "no on_subscribe came"  # noqa: S101
        self.subscription.cancel()

    @contextlib.contextmanager
    def _noted(self, signal: str) -> Iterator[None]:
        thread = threading.get_ident()
        with self._lock:
            self.signals.append(signal)
            self.overlapped = self.overlapped or any(other != thread for other in self._within)
            self._within[thread] = self._within.get(thread, 0) + 1
            self.depth = max(self.depth, self._within[thread])
        try:
            yield
        finally:
            with self._lock:
                self._within[thread] -= 1
                if not self._within[thread]:
                    del self._within[thread]


class _RequestsTwoMore(Probe):
    """A probe that requests two more within the on_next of its first item."""

    def on_next(self, item: Any, /) -> None:
        super().on_next(item)
        if len(self.items) == 1:
            self.request(2)


class Tap:
    """A subscription that notes what is asked of it, for subscribers under test."""

    def __init__(self) -> None:
        self.requested: list[Any] = []
        self.cancelled = 0
        self.overlapped = False
        self._inside = threading.Lock()

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.requested) + self.cancelled

    def was_asked(self, items: int) -> bool:
        """Whether so many items were requested."""
        return bool(sum(self.requested) >= items)

    def was_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.cancelled > 0

    def request(self, n: int, /) -> None:
        """Note it."""
        with self._alone():
            self.requested.append(n)

    def cancel(self) -> None:
        """Note it."""
        with self._alone():
            self.cancelled += 1

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._inside.acquire(blocking=False):
            self.overlapped = True
            yield
            return
        try:
            time.sleep(0)  # lets other threads come in, if there are any
            yield
        finally:
            self._inside.release()


@dataclasses.dataclass(slots=True)
class SubscriberUnderTest(Generic[T]):
    """A subscriber, with what goes on around it.

    Args:
        subscriber: It; it should want at least ten items.
        stop: Lets it need no more items; None when it can't be told to.
        item: Makes an item for it of a number.
    """

    subscriber: Subscriber[T]
    stop: Callable[[], Awaitable[object] | object] | None = None
    item: Callable[[int], Any] = dataclasses.field(default=lambda number: number + 1)


class _World:
    """What the checks need: time to wait, and things to check."""

    def __init__(self, patience: float) -> None:
        self.patience = patience

    async def settle(self) -> None:
        """Give what should not happen time to happen."""
        await asyncio.sleep(self.patience)

    async def until(self, condition: Callable[..., object], *args: object) -> bool:
        """Wait for what should happen, ten times as long as for what should not; returns whether it did."""
        for _ in range(1000):
            if condition(*args):
                return True
            await asyncio.sleep(self.patience / 100)
        return bool(condition(*args))


def _must(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


_PublisherCheck: TypeAlias = "Callable[[_World, PublisherOf], Awaitable[None]]"
_Made: TypeAlias = "Callable[[], Awaitable[SubscriberUnderTest[Any]]]"
_SubscriberCheck: TypeAlias = "Callable[[_World, _Made], Awaitable[None]]"

_of_publishers: dict[str, _PublisherCheck] = {}
_of_failing: dict[str, _PublisherCheck] = {}
_of_subscribers: dict[str, _SubscriberCheck] = {}

Check = TypeVar("Check", bound=Callable[..., Awaitable[None]])


def _verifies(rule: str, among: dict[str, Any]) -> Callable[[Check], Check]:
    def note(check: Check) -> Check:
        among[rule] = check
        return check

    return note


def _all_ended(probes: Iterable[Probe]) -> bool:
    return all(probe.has_ended() for probe in probes)


def _subscribed(publisher: Publisher[Any], probe: Probe) -> Probe:
    publisher.subscribe(probe)
    return probe


@_verifies("1.1", _of_publishers)
async def _no_more_than_requested(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(10), Probe())
    await world.settle()
    _must(not probe.items, f"{len(probe.items)} items came before any was requested")
    for total, n in ((1, 1), (3, 2)):
        probe.request(n)
        await world.until(probe.has, total)
        await world.settle()
        _must(len(probe.items) == total, f"{total} items were requested, and {len(probe.items)} came")


@_verifies("1.2", _of_publishers)
async def _fewer_and_an_end(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(3), Probe(at_first=10))
    await world.until(probe.has_ended)
    _must(probe.signals == ["on_subscribe", *["on_next"] * 3, "on_complete"], f"of 3 items came {probe.signals}")


@_verifies("1.3", _of_publishers)
async def _serial_signals(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe(at_first=1))

    def request() -> None:
        for _ in range(_MANY // 4):
            probe.request(1)
            time.sleep(0)

    await world.until(probe.is_subscribed)
    await asyncio.gather(*(asyncio.to_thread(request) for _ in range(4)))
    await world.until(probe.has, _MANY)
    _must(not probe.overlapped, "two signals were given at once")
    _must(len(probe.items) == _MANY, f"{_MANY + 1} items were requested by four threads, and {len(probe.items)} came")


@_verifies("1.4", _of_failing)
async def _failure(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(3), Probe(at_first=10))
    await world.until(probe.has_ended)
    await world.settle()
    _must(probe.signals.count("on_error") == 1, f"of a failure came {probe.signals}")
    _must(isinstance(probe.error, BaseException), f"the error is {probe.error!r}")


@_verifies("1.5", _of_publishers)
async def _good_end(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(3), Probe(at_first=3))
    await world.until(probe.has_ended)
    _must(probe.signals[-1:] == ["on_complete"], f"all 3 of 3 items were requested, and there came {probe.signals}")
    empty = _subscribed(make(0), Probe(at_first=1))
    await world.until(empty.has_ended)
    _must(empty.signals == ["on_subscribe", "on_complete"], f"of no items came {empty.signals}")


@_verifies("1.6", _of_publishers)
async def _cancelled_by_the_end(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(2), Probe(at_first=5))
    await world.until(probe.has_ended)
    probe.request(5)
    probe.request(-1)
    probe.cancel()
    await world.settle()
    _must(probe.signals[-1] == "on_complete", f"after the end came {probe.signals}")


@_verifies("1.7", _of_publishers)
async def _nothing_after_the_end(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(2), Probe(at_first=UNBOUNDED, each_time=5))
    await world.until(probe.has_ended)
    await world.settle()
    ends = [signal for signal in probe.signals if signal in ("on_complete", "on_error")]
    _must(len(ends) == 1 and probe.signals[-1] == ends[0], f"there came {probe.signals}")


@_verifies("1.8", _of_publishers)
async def _stops_when_cancelled_within(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe(at_first=_MANY, cancel_at=3))
    await world.until(probe.has, 3)
    await world.settle()
    _must(len(probe.items) < _MANY, "all items came, though it had cancelled after 3")
    _must(not probe.has_ended(), f"it had cancelled, and got {probe.signals[-1]}")
    await _stays(world, probe)


async def _stays(world: _World, probe: Probe) -> None:
    before = len(probe.signals)
    await world.settle()
    _must(len(probe.signals) == before, "signals go on coming, long after it has cancelled")


@_verifies("1.9", _of_publishers)
async def _first_signal(world: _World, make: PublisherOf) -> None:
    nobody: Any = None
    try:
        make(1).subscribe(nobody)
    except TypeError:
        pass
    else:
        raise AssertionError("subscribe(None) has to raise a TypeError")
    probe = _subscribed(make(1), Probe(at_first=1))
    await world.until(probe.has_ended)
    _must(probe.signals[:1] == ["on_subscribe"], f"there came {probe.signals}")


@_verifies("1.10", _of_publishers)
async def _subscribed_again(world: _World, make: PublisherOf) -> None:
    publisher = make(3)
    probes = [_subscribed(publisher, Probe(at_first=3)), _subscribed(publisher, Probe(at_first=3))]
    await world.until(_all_ended, probes)
    for probe in probes:
        _must(probe.signals[:1] == ["on_subscribe"], f"one of two subscribers got {probe.signals}")


@_verifies("1.11", _of_publishers)
async def _several_subscribers(world: _World, make: PublisherOf) -> None:
    publisher = make(3)
    probes = [_subscribed(publisher, Probe(at_first=3)) for _ in range(3)]
    await world.until(_all_ended, probes)
    for probe in probes:
        ends = [signal for signal in probe.signals if signal in ("on_complete", "on_error")]
        _must(len(ends) == 1, f"one of three subscribers got {probe.signals}, and has to be served or refused")


@_verifies("2.12", _of_publishers)
async def _subscribed_once(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(3), Probe(at_first=1, each_time=1))
    await world.until(probe.has_ended)
    _must(probe.signals.count("on_subscribe") == 1, f"there came {probe.signals}")


@_verifies("3.2", _of_publishers)
async def _requests_within_signals(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(10), Probe(at_first=1, each_time=1))
    await world.until(probe.has_ended)
    _must(len(probe.items) == 10, f"it requested one at a time within signals, and got {len(probe.items)} of 10 items")


@_verifies("3.3", _of_publishers)
async def _bounded_recursion(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe(at_first=1, each_time=1))
    await world.until(probe.has_ended)
    _must(probe.depth <= _DEPTH_MAX, f"on_next was called within itself, {probe.depth} deep")


@_verifies("3.4", _of_publishers)
async def _request_returns_soon(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe())
    await world.until(probe.is_subscribed)
    began = time.perf_counter()
    probe.request(1)
    _must(time.perf_counter() - began < 1, "request took longer than a second")
    probe.cancel()


@_verifies("3.5", _of_publishers)
async def _cancel_from_anywhere(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe(at_first=2))
    await world.until(probe.has, 2)
    began = time.perf_counter()
    await asyncio.gather(*(asyncio.to_thread(probe.cancel) for _ in range(4)))
    _must(time.perf_counter() - began < 1, "cancel took longer than a second")
    await world.settle()
    _must(len(probe.items) == 2 and not probe.has_ended(), f"it cancelled from four threads, and got {probe.signals}")


@_verifies("3.6", _of_publishers)
async def _request_after_cancel(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(10), Probe())
    await world.until(probe.is_subscribed)
    probe.cancel()
    for n in (5, 0, -1):
        probe.request(n)
    await world.settle()
    _must(probe.signals == ["on_subscribe"], f"it had cancelled before any request, and got {probe.signals}")


@_verifies("3.7", _of_publishers)
async def _cancel_after_cancel(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(10), Probe(at_first=2))
    await world.until(probe.has, 2)
    for _ in range(3):
        probe.cancel()
    await world.settle()
    _must(not probe.has_ended(), f"it had cancelled three times, and got {probe.signals[-1]}")


@_verifies("3.8", _of_publishers)
async def _requests_add_up(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(10), Probe(at_first=1))
    await world.until(probe.is_subscribed)
    for n in (2, 3):
        probe.request(n)
    await world.until(probe.has, 6)
    await world.settle()
    _must(len(probe.items) == 6, f"1, 2 and 3 items were requested, and {len(probe.items)} came")
    within = _subscribed(make(10), _RequestsTwoMore(at_first=3))
    await world.until(within.has, 5)
    await world.settle()
    _must(len(within.items) == 5, f"3 items were requested, 2 more at the first, and {len(within.items)} came")


@_verifies("3.9", _of_publishers)
async def _bad_requests(world: _World, make: PublisherOf) -> None:
    for n in (0, -1, -(2**63)):
        probe = _subscribed(make(10), Probe(at_first=1))
        await world.until(probe.has, 1)
        probe.request(n)
        await world.until(probe.has_ended)
        _must(isinstance(probe.error, ValueError), f"request({n}) brought {probe.error!r}, and not a ValueError")
        _must("3.9" in str(probe.error), f"request({n}) brought {probe.error!r}, which does not name the rule")
    within = _subscribed(make(10), Probe(at_first=-1))
    await world.until(within.has_ended)
    _must(within.signals == ["on_subscribe", "on_error"], f"request(-1) within on_subscribe brought {within.signals}")


@_verifies("3.12", _of_publishers)
async def _stops_when_cancelled_outside(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(_MANY), Probe(at_first=5))
    await world.until(probe.has, 5)
    probe.cancel()
    await world.settle()
    _must(len(probe.items) == 5, f"5 items were requested before it cancelled, and {len(probe.items)} came")
    await _stays(world, probe)


@_verifies("3.13", _of_publishers)
async def _forgets(world: _World, make: PublisherOf) -> None:
    publisher = make(_MANY)
    probe = _subscribed(publisher, Probe(at_first=2))
    await world.until(probe.has, 2)
    probe.cancel()
    forgotten = weakref.ref(probe)
    del probe

    def is_gone() -> bool:
        gc.collect()
        return forgotten() is None

    for _ in range(20):
        await world.settle()
        if is_gone():
            break
    _must(is_gone(), "the publisher, or what runs for it, still refers to a subscriber that has cancelled")
    del publisher


@_verifies("3.15", _of_publishers)
async def _cancel_returns(world: _World, make: PublisherOf) -> None:
    for items in (0, 3):
        probe = _subscribed(make(items), Probe(at_first=1))
        await world.settle()
        _must(_returns(probe.cancel), "cancel has raised")


@_verifies("3.16", _of_publishers)
async def _request_returns(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(3), Probe())
    await world.until(probe.is_subscribed)
    for n in (1, UNBOUNDED, 0, 5):
        _must(_returns(probe.request, n), f"request({n}) has raised")


@_verifies("3.17", _of_publishers)
async def _boundless_demand(world: _World, make: PublisherOf) -> None:
    probe = _subscribed(make(20), Probe(at_first=UNBOUNDED, each_time=UNBOUNDED))
    await world.until(probe.has_ended)
    _must(probe.signals[-1:] == ["on_complete"], f"2^63 - 1 was requested again and again, and brought {probe.error!r}")
    _must(len(probe.items) == 20, f"2^63 - 1 was requested, and {len(probe.items)} of 20 items came")


def _returns(call: Callable[..., object], *args: object) -> bool:
    try:
        call(*args)
    except Exception:
        return False
    return True


async def _stop(subject: SubscriberUnderTest[Any]) -> bool:
    if subject.stop is None:
        return False
    stopped = subject.stop()
    if inspect.isawaitable(stopped):
        await stopped
    return True


def _tapped(subject: SubscriberUnderTest[Any]) -> Tap:
    tap = Tap()
    subject.subscriber.on_subscribe(tap)
    return tap


@_verifies("2.1", _of_subscribers)
async def _asks(world: _World, make: _Made) -> None:
    subject = await make()
    tap = _tapped(subject)
    _must(await world.until(tap.was_asked, 1), "nothing was requested")
    for number in range(10):
        _must(await world.until(tap.was_asked, number + 1), f"only {number} items were requested")
        subject.subscriber.on_next(subject.item(number))
    bad = [n for n in tap.requested if not isinstance(n, int) or n < 1]
    _must(not bad, f"requested were {bad}")
    await _stop(subject)


@_verifies("2.3", _of_subscribers)
async def _calls_nothing_at_the_end(world: _World, make: _Made) -> None:
    for end in ("on_complete", "on_error"):
        subject = await make()
        tap = _tapped(subject)
        await world.until(tap.was_asked, 1)
        before = tap.calls
        _finish(subject.subscriber, end)
        _must(tap.calls == before, f"{end} has called the subscription")
        await _stop(subject)


@_verifies("2.4", _of_subscribers)
async def _is_cancelled_by_the_end(world: _World, make: _Made) -> None:
    for end in ("on_complete", "on_error"):
        subject = await make()
        tap = _tapped(subject)
        await world.until(tap.was_asked, 1)
        subject.subscriber.on_next(subject.item(0))
        await world.settle()
        before = len(tap.requested)
        _finish(subject.subscriber, end)
        await world.settle()
        _must(len(tap.requested) == before, f"after {end}, more was requested")
        await _stop(subject)


def _finish(subscriber: Subscriber[Any], end: str) -> None:
    if end == "on_error":
        subscriber.on_error(RuntimeError("the publisher has failed"))
    else:
        subscriber.on_complete()


@_verifies("2.5", _of_subscribers)
async def _cancels_a_second_subscription(world: _World, make: _Made) -> None:
    subject = await make()
    first = _tapped(subject)
    await world.until(first.was_asked, 1)
    second = _tapped(subject)
    _must(await world.until(second.was_cancelled), "a second subscription was not cancelled")
    _must(not second.requested and not first.cancelled, "a second subscription was taken for the first")
    await _stop(subject)


@_verifies("2.6", _of_subscribers)
async def _cancels_what_it_does_not_need(world: _World, make: _Made) -> None:
    subject = await make()
    tap = _tapped(subject)
    await world.until(tap.was_asked, 1)
    if await _stop(subject):
        _must(await world.until(tap.was_cancelled), "it was stopped, and has not cancelled")


@_verifies("2.7", _of_subscribers)
async def _calls_one_at_a_time(world: _World, make: _Made) -> None:
    subject = await make()
    tap = _tapped(subject)

    def give() -> None:
        give_up = time.monotonic() + 5
        for number in range(10):
            while sum(tap.requested) <= number and time.monotonic() < give_up:
                time.sleep(0.0001)
            subject.subscriber.on_next(subject.item(number))

    await asyncio.to_thread(give)
    await _stop(subject)
    await world.settle()
    _must(not tap.overlapped, "request and cancel were called at once")


@_verifies("2.8", _of_subscribers)
async def _bears_items_after_cancel(world: _World, make: _Made) -> None:
    subject = await make()
    tap = _tapped(subject)
    await world.until(tap.was_asked, 1)
    await _stop(subject)
    _must(_returns(subject.subscriber.on_next, subject.item(0)), "on_next has raised after cancel")
    await world.settle()


@_verifies("2.9", _of_subscribers)
async def _bears_completion_at_any_time(world: _World, make: _Made) -> None:
    await _bears(world, make, "on_complete")


@_verifies("2.10", _of_subscribers)
async def _bears_failure_at_any_time(world: _World, make: _Made) -> None:
    await _bears(world, make, "on_error")


async def _bears(world: _World, make: _Made, end: str) -> None:
    for requested in (False, True):
        subject = await make()
        tap = _tapped(subject)
        if requested:
            await world.until(tap.was_asked, 1)
        _must(_returns(_finish, subject.subscriber, end), f"{end} has raised")
        await world.settle()
        await _stop(subject)


@_verifies("2.13", _of_subscribers)
async def _returns_but_for_none(world: _World, make: _Made) -> None:
    none: Any = None
    for signal in ("on_subscribe", "on_next", "on_error"):
        subject = await make()
        if signal != "on_subscribe":
            tap = _tapped(subject)
            await world.until(tap.was_asked, 1)
        try:
            getattr(subject.subscriber, signal)(none)
        except TypeError:
            pass
        else:
            raise AssertionError(f"{signal}(None) has to raise a TypeError")
        await _stop(subject)


async def verify_publisher(
    make: PublisherOf,
    *,
    failing: Callable[[], Publisher[Any]] | None = None,
    only: Iterable[str] = (),
    patience: Duration = "20ms",
) -> list[str]:
    """Check a publisher by the rules of sections 1 and 3; returns the numbers of those that were verified.

    Args:
        make: Makes a publisher of so many items that are no None, from 0 to some hundreds.
        failing: Makes a publisher that fails once it is asked for items; without one rule 1.4 is left out.
        only: The numbers of the rules to verify; none for all.
        patience: How long to wait for what should not happen.

    Raises:
        AssertionError: Rules were broken; the message tells which, and by what.
        ConfigurationError: There is no such rule, or nothing can be seen of it.

    >>> from hormesis.flow import publisher_of
    >>> from hormesis.testing import run_virtual
    >>> run_virtual(verify_publisher(lambda items: publisher_of(range(items)), only=["1.1", "3.3"]))
    ['1.1', '3.3']
    """
    world = _World(seconds(patience, "patience"))
    checks: dict[str, Callable[[], Awaitable[None]]] = {
        rule: functools.partial(check, world, make) for rule, check in _of_publishers.items()
    }
    if failing is not None:
        fails = failing
        checks |= {rule: functools.partial(check, world, lambda _: fails()) for rule, check in _of_failing.items()}
    return await _verify("publisher", checks, only)


async def verify_subscriber(
    make: Callable[[], SubscriberUnderTest[Any] | Awaitable[SubscriberUnderTest[Any]]],
    *,
    only: Iterable[str] = (),
    patience: Duration = "20ms",
) -> list[str]:
    """Check a subscriber by the rules of section 2; returns the numbers of those that were verified.

    Args:
        make: Makes a subscriber, with what is around it; may be asynchronous.
        only: The numbers of the rules to verify; none for all.
        patience: How long to wait for what should not happen.

    Raises:
        AssertionError: Rules were broken; the message tells which, and by what.
        ConfigurationError: There is no such rule, or nothing can be seen of it.
    """

    async def made() -> SubscriberUnderTest[Any]:
        subject = make()
        return await subject if inspect.isawaitable(subject) else subject

    world = _World(seconds(patience, "patience"))
    checks: dict[str, Callable[[], Awaitable[None]]] = {
        rule: functools.partial(check, world, made) for rule, check in _of_subscribers.items()
    }
    return await _verify("subscriber", checks, only)


async def verify_processor(
    make: Callable[[], Processor[int, Any]],
    source: Callable[[int], Publisher[int]],
    *,
    failing: Callable[[], Publisher[int]],
    recovers: bool = False,
    patience: Duration = "20ms",
) -> list[str]:
    """Check a processor by the rules of all sections; returns the numbers of those that were verified.

    Args:
        make: Makes a processor that gives one item for each.
        source: Makes a publisher of so many whole numbers, for the processor to subscribe to.
        failing: Makes a publisher that fails.
        recovers: Whether the processor ends well when its publisher fails (rule 4.2).
        patience: How long to wait for what should not happen.

    Raises:
        AssertionError: Rules were broken; the message tells which, and by what.
    """

    def fed(publisher: Publisher[int]) -> Publisher[Any]:
        processor = make()
        publisher.subscribe(processor)
        return processor

    def subscriber() -> SubscriberUnderTest[int]:
        processor = make()
        probe = Probe(at_first=UNBOUNDED)
        processor.subscribe(probe)
        return SubscriberUnderTest(processor, probe.cancel)

    async def passes_on() -> None:
        world = _World(seconds(patience, "patience"))
        probe = _subscribed(fed(failing()), Probe(at_first=10))
        await world.until(probe.has_ended)
        expected = "on_complete" if recovers else "on_error"
        _must(probe.signals[-1] == expected, f"its publisher has failed, and its subscriber got {probe.signals}")

    verified = await verify_publisher(
        lambda items: fed(source(items)), failing=None if recovers else lambda: fed(failing()), patience=patience
    )
    verified += await verify_subscriber(subscriber, patience=patience)
    return [*verified, "4.1", *await _verify("processor", {"4.2": passes_on}, ())]


async def _verify(what: str, checks: Mapping[str, Callable[[], Awaitable[None]]], only: Iterable[str]) -> list[str]:
    chosen = list(only) or list(checks)
    broken = []
    for rule in chosen:
        if rule not in checks:
            unseen = RULES[rule].unseen if rule in RULES else ""
            if unseen:
                raise ConfigurationError(f"rule {rule} can't be verified: {unseen}")
            raise ConfigurationError.unknown(f"rule of a {what}", rule, checks)
        try:
            await checks[rule]()
        except Exception as error:
            why = str(error) if isinstance(error, AssertionError) else repr(error)
            broken.append(f"  rule {rule} ({RULES[rule].text}): {why}")
    if broken:
        raise AssertionError(f"the {what} breaks rules of Reactive Streams:\n" + "\n".join(broken))
    return chosen
