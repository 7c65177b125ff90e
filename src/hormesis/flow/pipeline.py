"""Pipelines: items that go through stages, pulled by whoever takes them from the last one.

    orders = Pipeline(source).map(price, concurrency=8).batch(100, within="50ms").map(store)
    async for stored in orders:
        ...

**Nothing runs ahead.** A stage pulls only what is wanted of it, and as much ahead as it was told to: `concurrency` and
`prefetch` of a `map`, the size of a `batch`, the length of a `prefetch`. So a slow stage slows down all that come
before it, down to the source, and memory is bounded by what is written in the pipeline.

**Nothing is lost.** Each item that was taken from the source has come out as (a part of) a result, was filtered out,
has failed with an error that was raised or handed over, was dropped by a `buffer` that says so, or is in `undelivered`
of the stream when that is closed: as it came, where a stage has not finished with it, and as a result where it has. A
task that is cancelled while it waits for the next item may come again: what it waited for is kept.

**Nothing is left behind.** The first error is raised once, after the results that are before it, and ends all the rest.
Whether a stream ends by an error, by `aclose` or by itself, all its tasks have ended and its source was closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Hashable, Iterable
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast, overload

from hormesis.clock import MONOTONIC, Clock
from hormesis.core.buffer import DropReason, Overflow
from hormesis.errors import ConfigurationError
from hormesis.events import EventBus, bus
from hormesis.flow.queue import Queue
from hormesis.flow.settings import ITEMS_MAX, Size, byte_size, size_of
from hormesis.flow.stages import (
    END,
    Batch,
    Buffer,
    Concurrent,
    Crossing,
    Filter,
    Flatten,
    Handover,
    Map,
    Source,
    Stage,
    TimedBatch,
)
from hormesis.patterns.part import flag, whole
from hormesis.units import Duration, seconds

__all__ = ["Calls", "Pipeline", "Stream", "Undelivered"]

T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")
Of = TypeVar("Of")

_Make = Callable[[Stage], Stage]

_CONCURRENCY_MAX = 10_000


class Calls(Protocol):
    """What protects the calls of a stage's function; every `Policy` does."""

    def acall(self, fn: Callable[..., Awaitable[R]], /, *args: Any, **kwargs: Any) -> Awaitable[R]:
        """Call an asynchronous function."""
        ...


class Undelivered(NamedTuple):
    """An item that was in a pipeline when it was closed.

    Args:
        stage: The stage that had it, such as `"map"`.
        item: What it had: the item as it came, or its result if the stage had finished with it.
    """

    stage: str
    item: Any


class Pipeline(Generic[T_co]):
    """A source and the stages that its items go through.

    It is a description, and each stage that is added makes another one. Iterating over it opens a `Stream`, which is
    closed when the loop over it is left; `open()` gives one whose end can be waited for.

    Args:
        source: An iterable of either colour, such as an asynchronous generator or a `Queue`. A pipeline may be opened
            as often as its source can be iterated over. An iterator with an `aclose` is closed with the stream.
        name: What events and errors call it.
        clock, events: Time and the event bus; for tests.

    Raises:
        ConfigurationError: The source can't be iterated over, or a setting can't be meant.

    >>> async def main() -> list[int]:
    ...     pipeline = Pipeline(range(5)).filter(lambda number: number % 2 == 0).map(lambda number: number * 10)
    ...     return [number async for number in pipeline]
    >>> asyncio.run(main())
    [0, 20, 40]
    """

    def __init__(
        self,
        source: AsyncIterable[T_co] | Iterable[T_co],
        *,
        name: str = "pipeline",
        clock: Clock = MONOTONIC,
        events: EventBus = bus,
    ) -> None:
        if not isinstance(source, AsyncIterable | Iterable):
            raise ConfigurationError.bad_value("source", source, "something to iterate over, in either colour")
        self.name = name
        self.events = events
        self._clock = clock
        self._source: Any = source
        self._stages: tuple[_Make, ...] = ()

    @overload
    def map(
        self,
        function: Callable[[T_co], Awaitable[R]],
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        prefetch: int = ...,
        policy: Calls | None = ...,
        failed: Callable[[T_co, Exception], object] | None = ...,
    ) -> Pipeline[R]: ...

    @overload
    def map(
        self,
        function: Callable[[T_co], R],
        *,
        concurrency: int = ...,
        ordered: bool = ...,
        prefetch: int = ...,
        policy: None = ...,
        failed: Callable[[T_co, Exception], object] | None = ...,
    ) -> Pipeline[R]: ...

    def map(
        self,
        function: Callable[[T_co], Any],
        *,
        concurrency: int = 1,
        # Whoever reads the results most often expects them in the order of the items.
        ordered: bool = True,
        prefetch: int = 0,
        policy: Calls | None = None,
        failed: Callable[[T_co, Exception], object] | None = None,
    ) -> Pipeline[Any]:
        """Apply a function of either colour to each item.

        Args:
            function: What makes a result of an item.
            concurrency: How many items are worked on at a time.
            ordered: Whether results come out in the order of their items, or as they are finished.
            prefetch: How many results may wait to be wanted, beyond `concurrency`.
            policy: What protects each call of an asynchronous function, such as a `Policy` with retries.
            failed: A function of either colour that takes an item whose function has failed, and the error; the
                pipeline then goes on. Without it the error ends the pipeline.
        """
        whole("concurrency", concurrency, 1, _CONCURRENCY_MAX)
        whole("prefetch", prefetch, 0, ITEMS_MAX)
        flag("ordered", ordered)
        called: Callable[[Any], Any] = function if policy is None else functools.partial(policy.acall, function)
        if concurrency == 1 and prefetch == 0:
            return self._with(functools.partial(Map, function=called, failed=failed))
        return self._with(
            functools.partial(
                Concurrent, function=called, failed=failed, concurrency=concurrency, ahead=prefetch, ordered=ordered
            )
        )

    def filter(self, wanted: Callable[[T_co], Awaitable[bool] | bool]) -> Pipeline[T_co]:
        """Let those items through for which a function of either colour says so."""
        return self._with(functools.partial(Filter, wanted=wanted))

    def batch(self, size: int, *, within: Duration | None = None) -> Pipeline[list[T_co]]:
        """Collect items into lists.

        Args:
            size: Items of a list.
            within: How long after its first item a list is given out, however short it is. None: it waits for all of
                them, or for the end.
        """
        whole("size", size, 1, ITEMS_MAX)
        if within is None:
            return self._with(functools.partial(Batch, size=size))
        return self._with(functools.partial(TimedBatch, size=size, within=seconds(within, "within")))

    def flatten(self: Pipeline[Iterable[Of]] | Pipeline[AsyncIterable[Of]]) -> Pipeline[Of]:
        """Pass on the items of what comes, one by one."""
        return cast("Pipeline[Of]", self._with(Flatten))

    def prefetch(
        self, items: int, *, max_bytes: Size | None = None, size: Callable[[T_co], int] | None = None
    ) -> Pipeline[T_co]:
        """Pull so many items before they are wanted, while later stages are at work.

        Args:
            items: How many.
            max_bytes: Nothing more is pulled while those that wait have so many bytes; the last may go beyond that.
            size: Tells an item's bytes; by default its length.
        """
        whole("items", items, 1, ITEMS_MAX)
        if max_bytes is None:
            if size is not None:
                raise ConfigurationError("size is set and max_bytes is not, which it is for", "size")
            return self._with(functools.partial(Handover, ahead=items))
        return self._with(
            functools.partial(
                Handover, ahead=items, max_bytes=byte_size(max_bytes, "max_bytes"), size=size or cast("Any", size_of)
            )
        )

    def buffer(
        self,
        max_items: int,
        *,
        overflow: Overflow,
        key: Callable[[T_co], Hashable] | None = None,
        otherwise: Overflow | None = None,
        max_bytes: Size | None = None,
        size: Callable[[T_co], int] | None = None,
        on_drop: Callable[[T_co, DropReason], object] | None = None,
    ) -> Pipeline[T_co]:
        """Keep items that are not wanted yet, and say what becomes of those that find no room; see `Queue`.

        With an overflow other than `"block"` the source is not slowed down: items are dropped, or `QueueFull` ends the
        pipeline. `"block"` is `prefetch`.
        """
        if overflow == "block":
            return self.prefetch(max_items, max_bytes=max_bytes, size=size)
        if otherwise == "block":
            raise ConfigurationError.bad_value("otherwise", otherwise, "'drop oldest', 'drop newest' or 'fail' here")
        make = functools.partial(
            Queue,
            max_items,
            overflow=overflow,
            key=key,
            otherwise=otherwise,
            max_bytes=max_bytes,
            size=size,
            on_drop=on_drop,
            name=self.name,
            clock=self._clock,
            events=self.events,
        )
        make()  # what can't be meant is told here, and not when the pipeline runs
        return self._with(lambda before: Buffer(before, make()))

    def open(self) -> Stream[T_co]:
        """Open it: a stream, to be used as an asynchronous context manager or closed with `aclose`."""
        return Stream(self._source, self._stages)

    def __aiter__(self) -> Stream[T_co]:
        return self.open()

    async def run(self) -> int:
        """Take all that comes, and return how many that were: for a pipeline whose last stage is what it is for."""
        results = 0
        async with self.open() as stream:
            async for _ in stream:
                results += 1
        return results

    def _with(self, make: Callable[..., Stage]) -> Pipeline[Any]:
        longer: Pipeline[Any] = Pipeline(self._source, name=self.name, clock=self._clock, events=self.events)
        longer._stages = (*self._stages, make)
        return longer


class Stream(AsyncIterator[T_co]):
    """A pipeline that runs; `Pipeline.open` makes one.

    Several tasks may take from one stream; each result goes to the one that has waited for the longest.

    Attributes:
        undelivered: When it is closed, what it had taken from the source and not passed on, the oldest first.
    """

    def __init__(self, source: Any, makers: tuple[_Make, ...]) -> None:
        self.undelivered: list[Undelivered] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()  # first come, first served, among tasks that take from it
        self._stages: list[Stage] = [Source(source)]
        for make in makers:
            self._stages.append(make(self._stages[-1]))
        if not isinstance(self._stages[-1], Crossing):
            # So that whoever is cancelled while it waits leaves no stage in the middle of its work.
            self._stages.append(Handover(self._stages[-1]))

    def __aiter__(self) -> Stream[T_co]:
        return self

    async def __anext__(self) -> T_co:
        self._loop = asyncio.get_running_loop()
        async with self._turn:
            if self._closing is not None:
                raise StopAsyncIteration
            try:
                item = await self._stages[-1].pull()
            except asyncio.CancelledError:
                raise
            except StopAsyncIteration as error:
                # As in a generator: an error of one item must not look like the end of all.
                await self.aclose()
                raise RuntimeError("a function of a pipeline has raised StopAsyncIteration") from error
            except BaseException:
                await self.aclose()
                raise
            if item is END:
                await self.aclose()
                raise StopAsyncIteration
            result: T_co = item
            return result

    async def aclose(self) -> None:
        """End all that goes on in it, and close the source. Whoever is cancelled here waits for that all the same.

        Raises:
            ConfigurationError: A function of one of its own stages calls it, which would wait for itself.
        """
        current = asyncio.current_task()
        if any(stage.runs(current) for stage in self._stages):
            raise ConfigurationError("a function of a pipeline can't close the stream that it is in; let it raise")
        if self._closing is None:
            self._loop = asyncio.get_running_loop()
            self._closing = asyncio.create_task(_close(self._stages, self.undelivered), name="pipeline close")
        cancelled: asyncio.CancelledError | None = None
        while not self._closing.done():
            try:
                await asyncio.wait([self._closing])
            except asyncio.CancelledError as error:
                cancelled = error
        self._closing.result()
        if cancelled is not None:
            raise cancelled

    async def __aenter__(self) -> Stream[T_co]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop over it was left, as with an asynchronous generator, which its loop closes too.
        if self._closing is None and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(_close_later, self._loop, self._stages)


def _close_later(loop: asyncio.AbstractEventLoop, stages: list[Stage]) -> None:
    task = loop.create_task(_close(stages, []), name="pipeline close")
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()
"""Tasks that close what was left behind; a loop alone would forget them."""


async def _close(stages: list[Stage], undelivered: list[Undelivered]) -> None:
    """Close all stages, from the last to the first, whatever one of them raises, and list what they held."""
    try:
        async with contextlib.AsyncExitStack() as stack:
            for stage in stages:
                stack.push_async_callback(stage.close)
    finally:
        undelivered += [Undelivered(stage.name, item) for stage in reversed(stages) for item in stage.held()]
