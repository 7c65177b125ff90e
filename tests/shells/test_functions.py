"""What a policy can be put around, and what it refuses rather than protect it in appearance only."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.breaker import BreakerMachine

POLICY = hm.Policy(hm.Bulkhead(10), name="stock")


async def lookup(sku: str) -> str:
    return f"found {sku}"


def lookup_sync(sku: str) -> str:
    return f"found {sku}"


class Shop:
    @POLICY
    def stock(self, sku: str, *, reserved: int = 0) -> tuple[str, int]:
        """How many there are."""
        return sku, 3 - reserved

    @POLICY
    async def stock_async(self, sku: str) -> str:
        return await lookup(sku)


class Callable:
    def __call__(self, sku: str) -> str:
        return lookup_sync(sku)


class AsyncCallable:
    async def __call__(self, sku: str) -> str:
        return await lookup(sku)


def test_decorated_methods() -> None:
    """A decorated method takes `self`, positional and keyword arguments, in both colours."""
    assert Shop().stock("tea", reserved=1) == ("tea", 2)
    assert asyncio.run(Shop().stock_async("tea")) == "found tea"


def test_a_decorated_function_looks_like_itself() -> None:
    """Name, documentation, signature and colour are kept."""
    assert Shop.stock.__name__ == "stock"
    assert Shop.stock.__doc__ == "How many there are."
    assert list(inspect.signature(Shop.stock).parameters) == ["self", "sku", "reserved"]
    assert inspect.iscoroutinefunction(Shop.stock_async)
    assert not inspect.iscoroutinefunction(Shop.stock)


@pytest.mark.parametrize("function", [lookup_sync, Callable(), functools.partial(lookup_sync)])
def test_whatever_is_called_can_be_decorated(function: Any) -> None:
    """Functions, objects that are called, and partials are protected as synchronous."""
    assert POLICY(function)("tea") == "found tea"


@pytest.mark.parametrize(
    "function", [lookup, AsyncCallable(), functools.partial(lookup), functools.partial(AsyncCallable())]
)
def test_whatever_is_awaited_can_be_decorated(function: Any) -> None:
    """The same things that return something to await are protected as asynchronous."""
    assert asyncio.run(POLICY(function)("tea")) == "found tea"


def stream() -> Iterator[int]:
    yield 1


async def stream_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("function", [stream, stream_async, functools.partial(stream)])
def test_generators_are_refused(function: Any) -> None:
    """A stream has no one answer, so a policy does not pretend to protect it."""
    with pytest.raises(hm.ConfigurationError, match="generator"):
        POLICY(function)


@pytest.mark.parametrize("thing", [3, None, "stock"])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    """Decorating what can't be called is refused, with the thing that it was."""
    with pytest.raises(hm.ConfigurationError, match=re.escape(repr(thing))):
        POLICY(thing)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [hm.Fallback(value="old")],
        [hm.Retry(on=("any", Exception), attempts=3, delay=0)],
        [hm.Retry(on="any", attempts=2, delay=0), hm.Deadline("5s"), hm.Retry(on="any", attempts=2, delay=0)],
    ],
    ids=["bare", "with a fallback", "with a retry", "in layers"],
)
def test_an_asynchronous_function_is_no_synchronous_one(parts: Any) -> None:
    """`call` refuses what returns something to await, and neither repeats that mistake nor answers in its place."""
    calls = 0

    def hidden(sku: str) -> Any:
        nonlocal calls
        calls += 1
        return lookup(sku)

    policy = hm.Policy(*parts, order="as given" if len(parts) > 1 else "standard")
    with pytest.raises(hm.ConfigurationError, match=r"asynchronous.*acall"):
        policy.call(hidden, "tea")
    assert calls == 1


@pytest.mark.parametrize(
    "parts",
    [[], [hm.Fallback(value="old")], [hm.Retry(on=("any", Exception), attempts=3, delay=0)]],
    ids=["bare", "with a fallback", "with a retry"],
)
def test_a_synchronous_function_is_no_asynchronous_one(parts: Any) -> None:
    """`acall` refuses what can't be awaited, and neither repeats that mistake nor answers in its place."""
    calls = 0

    def plain(sku: str) -> str:
        nonlocal calls
        calls += 1
        return sku

    with pytest.raises(hm.ConfigurationError, match="synchronous"):
        asyncio.run(hm.Policy(*parts).acall(plain, "tea"))  # type: ignore[arg-type]
    assert calls <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda policy: policy.call(lookup, "tea"),
        lambda policy: asyncio.run(policy.acall(lookup_sync, "tea")),
    ],
    ids=["call", "acall"],
)
def test_the_wrong_colour_is_not_blamed_on_the_dependency(call: Any, machine_of: Any) -> None:
    """A mistake in the program is no failure of what it calls."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1))
    with pytest.raises((hm.ConfigurationError, TypeError)):
        call(policy)
    machine: BreakerMachine = machine_of(policy, hm.CircuitBreaker)
    assert machine.tally(0.0).failures == 0


@pytest.mark.parametrize(
    "part", [hm.Timeout("1s"), hm.Fallback(lookup)], ids=["a timeout without threads", "an asynchronous fallback"]
)
def test_what_cannot_protect_a_synchronous_function(part: Any) -> None:
    """A part that could not do its work on a synchronous function is refused, when decorating and when calling."""
    policy = hm.Policy(part)
    with pytest.raises(hm.ConfigurationError):
        policy(lookup_sync)
    with pytest.raises(hm.ConfigurationError):
        policy.call(lookup_sync, "tea")
    assert asyncio.run(policy(lookup)("tea")) == "found tea"


def test_a_timeout_says_what_a_synchronous_function_needs() -> None:
    """The refusal of a timeout names both ways out."""
    with pytest.raises(hm.ConfigurationError, match=r"lookup_sync .*threads=N.*cooperative=True"):
        hm.Policy(hm.Timeout("1s"))(lookup_sync)


def test_a_plain_fallback_answers_for_an_asynchronous_function() -> None:
    """A fallback function may be synchronous where the protected one is not."""

    async def fail() -> str:
        raise ZeroDivisionError

    assert asyncio.run(hm.Policy(hm.Fallback(lambda: "old")).acall(fail)) == "old"


def test_an_exception_that_is_raised_again_and_again_collects_few_notes() -> None:
    """A program may keep one exception object for ever; the notes on it are bounded."""
    error = ZeroDivisionError()

    def fail() -> None:
        raise error

    for number in range(100):
        with pytest.raises(ZeroDivisionError):
            hm.Policy(hm.Retry(on="any", attempts=2, delay=0), name=f"policy {number}").call(fail)
    assert len(error.__notes__) < 10


def test_an_exception_keeps_no_frame_alive() -> None:
    """After a failed call, nothing of the journey keeps the exception, or its arguments, in memory."""
    import gc
    import weakref

    class Cargo:
        pass

    cargo = Cargo()
    gone = weakref.ref(cargo)

    def fail(cargo: Cargo) -> None:
        raise ZeroDivisionError

    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            hm.Policy(hm.Retry(on="any", delay=0)).call(fail, cargo)
        del cargo
        assert gone() is None
    finally:
        gc.enable()
