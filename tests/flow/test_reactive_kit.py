"""The kit that verifies the rules of Reactive Streams: what breaks a rule is found, and named by its number."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hormesis.core.demand import UNBOUNDED
from hormesis.errors import ConfigurationError
from hormesis.flow import Subscriber, Subscription, Through, iterate, publisher_of
from hormesis.testing import reactive, run_virtual
from hormesis.testing.reactive import (
    RULES,
    SubscriberUnderTest,
    verify_processor,
    verify_publisher,
    verify_subscriber,
)


class Plain:
    """A publisher that gives its items within `request`, and keeps every rule but one."""

    def __init__(self, items: int, flaw: str = "") -> None:
        self.items, self.flaw = items, flaw
        self.subscribed = 0
        self.kept: list[Any] = []

    def subscribe(self, subscriber: Subscriber[int]) -> None:
        self.subscribed += 1
        if self.flaw != "1.9 None" and not isinstance(subscriber, Subscriber):
            raise TypeError
        if self.flaw == "1.9 None" and subscriber is None:
            return
        if self.subscribed > 1 and self.flaw == "1.10":
            return
        if self.flaw == "3.13":
            self.kept.append(subscriber)
        subscription = Items(self.items, subscriber, self.flaw)
        if self.flaw == "1.9":
            subscriber.on_next(0)
        if self.subscribed > 1 and self.flaw == "1.11":
            subscription.over = True
            subscriber.on_subscribe(subscription)
            return
        subscriber.on_subscribe(subscription)
        if self.flaw == "2.12":
            subscriber.on_subscribe(subscription)


class Items:
    """The subscription of `Plain`."""

    def __init__(self, items: int, subscriber: Subscriber[int] | None, flaw: str) -> None:
        self.left, self.subscriber, self.flaw = items, subscriber, flaw
        self.demand = 0
        self.busy = self.over = self.gone = self.within = False
        self.lock = threading.RLock()

    def request(self, n: int) -> None:
        if self.flaw == "3.16" and n < 1:
            raise ValueError
        if self.gone and self.flaw == "3.6" and n < 1:
            assert self.subscriber is not None
            self.subscriber.on_error(ValueError())
        if self.over and self.flaw == "1.6" and self.subscriber is not None:
            self.subscriber.on_next(0)
        if self.over or self.gone:
            return
        if self.within and self.flaw == "3.2":
            return
        if n < 1:
            if self.flaw == "3.9":
                return
            assert self.subscriber is not None
            self.end("on_error", ValueError("no" if self.flaw == "3.9 unnamed" else "rule 3.9"))
            return
        if self.flaw == "1.3":
            threading.Thread(target=self.give).start()
        with self.lock:
            self.demand = n if self.flaw == "3.8" else self.demand + n
            if self.flaw == "3.17" and self.demand > UNBOUNDED:
                self.demand = 0
            if self.flaw == "1.1":
                self.demand += 1
        self.give()

    def give(self) -> None:
        with self.lock:
            if self.busy and self.flaw != "3.3":
                return
            self.busy = True
            while self.demand > 0 and self.left and not self.over and not self.gone:
                self.demand -= 1
                self.left -= 1
                assert self.subscriber is not None
                self.within = True
                self.subscriber.on_next(self.left)
                self.within = False
            self.busy = False
            if not self.left and not self.over and not self.gone:
                if self.flaw == "1.5" or (self.flaw == "1.2" and self.demand):
                    return
                if self.flaw == "1.4":
                    self.end("on_complete")
                    return
                self.end("on_complete")
                if self.flaw == "1.7":
                    assert self.subscriber is not None
                    self.subscriber.on_complete()

    def end(self, signal: str, *args: Any) -> None:
        if not self.over:
            self.over = True
            assert self.subscriber is not None
            getattr(self.subscriber, signal)(*args)

    def cancel(self) -> None:
        if self.flaw == "3.15":
            raise RuntimeError
        if self.flaw == "1.8" and self.within:
            return
        if self.flaw in ("3.12", "3.5") and not self.gone and not self.within:
            self.gone = True
            gives_more(self)
            return
        if self.gone and self.flaw == "3.7":
            assert self.subscriber is not None
            self.subscriber.on_error(RuntimeError())
        self.gone = True
        if self.flaw not in ("3.6", "3.7", "3.13"):
            self.subscriber = None


def gives_more(items: Items) -> None:
    """Give more, though it was cancelled."""
    assert items.subscriber is not None
    items.subscriber.on_next(0)


class Unsynchronised(Plain):
    """Gives items from several threads at once."""

    def subscribe(self, subscriber: Subscriber[int]) -> None:
        numbers = itertools.count()

        class Racing:
            def request(self, n: int) -> None:
                for _ in range(n):
                    if next(numbers) < 300:
                        subscriber.on_next(0)

            def cancel(self) -> None:
                pass

        subscriber.on_subscribe(Racing())


FLAWS = [
    "1.1", "1.2", "1.5", "1.6", "1.7", "1.8", "1.9", "1.9 None", "1.10", "1.11", "2.12", "3.2", "3.3", "3.5",
    "3.6", "3.7", "3.8", "3.9", "3.9 unnamed", "3.12", "3.13", "3.15", "3.16", "3.17",
]  # fmt: skip


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_publisher_that_breaks_a_rule_is_found(flaw: str) -> None:
    """The rule that is broken is named, with what happened."""
    rule = flaw.split(maxsplit=1)[0]
    with pytest.raises(AssertionError, match=rf"the publisher breaks rules of Reactive Streams:\n  rule {rule} \("):
        run_virtual(verify_publisher(lambda items: Plain(items, flaw), only=[rule]))


def test_a_publisher_that_breaks_none() -> None:
    """One that is right is found to be, also where it gives its items within `request`."""
    verified = run_virtual(verify_publisher(Plain))
    assert {"1.1", "1.9", "3.3", "3.17"} <= set(verified)
    assert "1.4" not in verified


def test_signals_at_once_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that gives signals from two threads at a time breaks rule 1.3."""
    slow = reactive.Probe.on_next

    def slower(self: Any, item: Any) -> None:
        with self._noted("slow"):
            reactive.time.sleep(0.0002)
        slow(self, item)

    monkeypatch.setattr(reactive.Probe, "on_next", slower)
    with pytest.raises(AssertionError, match=r"rule 1\.3 .* two signals were given at once"):
        run_virtual(verify_publisher(Unsynchronised, only=["1.3"]))


def test_a_failure_that_is_not_told_is_found() -> None:
    """A publisher that should fail and ends well breaks rule 1.4."""
    with pytest.raises(AssertionError, match=r"rule 1\.4"):
        run_virtual(verify_publisher(Plain, failing=lambda: Plain(2), only=["1.4"]))


def test_a_request_that_takes_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules 3.4 and 3.5 are broken by who holds its caller up for a second."""
    readings = itertools.count(step=2)
    monkeypatch.setattr(reactive.time, "perf_counter", lambda: next(readings))
    with pytest.raises(AssertionError, match=r"(?s)rule 3\.4 .* longer than a second.*3\.5 .* longer than a second"):
        run_virtual(verify_publisher(Plain, only=["3.4", "3.5"]))


class Taking:
    """A subscriber that asks for one item at a time, and keeps every rule but one."""

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw
        self.subscription: Subscription | None = None
        self.over = False

    def on_subscribe(self, subscription: Subscription) -> None:
        self.refuse_none(subscription)
        if self.subscription is not None:
            if self.flaw != "2.5":
                subscription.cancel()
            return
        self.subscription = subscription
        if self.flaw == "2.1":
            return
        subscription.request(0 if self.flaw == "2.1 none" else 2)

    def on_next(self, item: int) -> None:
        self.refuse_none(item)
        if self.over and self.flaw == "2.8":
            raise RuntimeError
        if self.subscription is None or self.over:
            return
        if self.flaw == "2.1 once":
            return
        self.subscription.request(1)
        if self.flaw == "2.7":
            for _ in range(20):
                thread = threading.Thread(target=self.subscription.request, args=(1,))
                thread.start()
                self.subscription.request(1)
                thread.join()

    def on_error(self, error: BaseException) -> None:
        self.refuse_none(error)
        if self.flaw == "2.10":
            raise error
        self.on_complete()

    def on_complete(self) -> None:
        if self.flaw == "2.9":
            raise RuntimeError
        self.over = True
        assert self.subscription is not None
        if self.flaw == "2.3":
            self.subscription.cancel()
        if self.flaw == "2.4":
            asyncio.get_running_loop().call_soon(self.subscription.request, 1)

    def refuse_none(self, value: object) -> None:
        if value is None and self.flaw != "2.13":
            raise TypeError

    def stop(self) -> None:
        self.over = True
        if self.subscription is not None and self.flaw != "2.6":
            self.subscription.cancel()


def under_test(flaw: str = "") -> SubscriberUnderTest[int]:
    subscriber = Taking(flaw)
    return SubscriberUnderTest(subscriber, subscriber.stop)


@pytest.mark.parametrize(
    "flaw", ["2.1", "2.1 none", "2.1 once", "2.3", "2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.13"]
)
def test_a_subscriber_that_breaks_a_rule_is_found(flaw: str) -> None:
    """The rule that is broken is named, with what happened."""
    rule = flaw.split(maxsplit=1)[0]

    async def main() -> None:
        await verify_subscriber(lambda: under_test(flaw), only=[rule])

    with pytest.raises(AssertionError, match=rf"the subscriber breaks rules of Reactive Streams:\n  rule {rule} \("):
        run_virtual(main())


def test_a_subscriber_that_breaks_none() -> None:
    """One that is right is found to be; what can't be stopped is not held to have cancelled."""

    async def main() -> None:
        assert len(await verify_subscriber(under_test)) == 10
        await verify_subscriber(lambda: SubscriberUnderTest(Taking()), only=["2.6"])

    run_virtual(main())


def test_a_processor_that_swallows_errors_is_found() -> None:
    """One that ends well when its publisher has failed breaks rules, unless it is said to recover."""

    async def swallowing(items: AsyncIterator[int]) -> AsyncIterator[int]:
        try:
            async for item in items:
                yield item
        except KeyError:
            pass

    async def failing() -> AsyncIterator[int]:
        yield 1
        raise KeyError

    async def main() -> None:
        await verify_processor(
            lambda: Through(swallowing),
            lambda items: publisher_of(range(items)),
            failing=lambda: publisher_of(failing()),
        )

    with pytest.raises(AssertionError, match=r"rule 1\.4"):
        run_virtual(main())


@pytest.mark.parametrize(
    ("rule", "message"),
    [("3.10", "rule 3.10 can't be verified: it gives leave"), ("9.9", "unknown rule of a publisher '9.9'")],
)
def test_rules_that_cannot_be_verified(rule: str, message: str) -> None:
    """Asking for a rule of which nothing is seen, or that is none, is the author's mistake."""
    with pytest.raises(ConfigurationError) as caught:
        run_virtual(verify_publisher(lambda items: publisher_of(range(items)), only=[rule]))
    assert message in str(caught.value)


def test_what_a_check_runs_into_is_told_too() -> None:
    """A subject that raises where it should not breaks the rule that was being verified."""

    class Raising:
        def subscribe(self, subscriber: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(AssertionError, match=r"rule 1\.1 .*ZeroDivisionError"):
        run_virtual(verify_publisher(lambda items: Raising(), only=["1.1"]))


def test_every_rule_is_verified_or_has_a_reason() -> None:
    """The table, and what is verified, are one."""
    checks = {*reactive._of_publishers, *reactive._of_failing, *reactive._of_subscribers, "4.1", "4.2"}
    assert checks == {rule for rule, about in RULES.items() if not about.unseen}


def test_in_real_time() -> None:
    """The kit works on any loop, within its patience."""

    async def main() -> None:
        await verify_publisher(lambda items: publisher_of(range(items)), only=["1.1", "3.12"], patience="1ms")
        received = iterate(publisher_of("abc"))
        assert [letter async for letter in received] == ["a", "b", "c"]

    asyncio.run(main())
