"""Reactive Streams: a publisher sends no more than its subscriber has asked for.

    publisher.subscribe(subscriber)
        → subscriber.on_subscribe(subscription)
            subscription.request(n)
        → subscriber.on_next(item)      at most n times
        → subscriber.on_complete() or subscriber.on_error(error)

The rules are those of the specification for the JVM, and their numbers are used throughout; what differs is the
language. Signals are plain calls, one at a time, that return at once. `None` is no item, since it is no signal there.
Where the specification says `NullPointerException` it is a `TypeError` here, and for `IllegalArgumentException` a
`ValueError`, both of which name the rule. `request` and `cancel` may be called from any thread.

Source: Reactive Streams 1.0.4 (https://github.com/reactive-streams/reactive-streams-jvm).
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

from hormesis.flow.errors import RuleBroken

__all__ = [
    "Processor",
    "Publisher",
    "Subscriber",
    "Subscription",
    "no_signal",
    "no_subscriber",
    "nothing",
    "refused_demand",
]

T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class Subscription(Protocol):
    """What a subscriber controls its publisher by."""

    def request(self, n: int, /) -> None:
        """Ask for `n` more items, at least one; 2^63 - 1 is without a bound. After `cancel` it does nothing."""
        ...

    def cancel(self) -> None:
        """Ask for nothing more, ever. Items that were asked for before may still come."""
        ...


@runtime_checkable
class Subscriber(Protocol[T_contra]):
    """What takes items."""

    def on_subscribe(self, subscription: Subscription, /) -> None:
        """The first signal: here is how to ask for items."""
        ...

    def on_next(self, item: T_contra, /) -> None:
        """An item that was asked for."""
        ...

    def on_error(self, error: BaseException, /) -> None:
        """The last signal: the publisher has failed."""
        ...

    def on_complete(self) -> None:
        """The last signal: there are no more items."""
        ...


@runtime_checkable
class Publisher(Protocol[T_co]):
    """What gives items to subscribers, as many as each asks for."""

    def subscribe(self, subscriber: Subscriber[T_co], /) -> None:
        """Begin to give items to a subscriber."""
        ...


@runtime_checkable
class Processor(Subscriber[T_contra], Publisher[T_co], Protocol[T_contra, T_co]):
    """What takes items and gives others."""


class _Nothing:
    """A subscription by which nothing can be had: that of a subscriber that is refused."""

    def request(self, n: int, /) -> None:
        """Do nothing."""

    def cancel(self) -> None:
        """Do nothing."""


nothing: Subscription = _Nothing()
"""A subscription by which nothing can be had."""


def no_subscriber(subscriber: object) -> None:
    """Refuse what can't take signals.

    Raises:
        TypeError: It is no subscriber.
    """
    if not isinstance(subscriber, Subscriber):
        raise TypeError(f"{subscriber!r} is no subscriber (rule 1.9 of Reactive Streams)")


def no_signal(rule: str, what: str, value: Any) -> None:
    """Refuse `None` as what a signal brings.

    Raises:
        TypeError: It is None.
    """
    if value is None:
        raise TypeError(f"None is no {what} (rule {rule} of Reactive Streams)")


def refused_demand(n: object) -> RuleBroken | None:
    """The error that a demand of so much is answered with; None when it is one."""
    if isinstance(n, int) and not isinstance(n, bool) and n > 0:
        return None
    return RuleBroken("3.9", f"request({n!r}); a demand is a whole number from 1")
