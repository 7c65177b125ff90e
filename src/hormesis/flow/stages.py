"""The stages of a pipeline while it runs: each pulls from the one before it, and only what is wanted of itself.

`pull` is all that a stage is asked. Some stages work in whoever pulls. The others, *crossings*, pull in a task of their
own: so several items can be worked on at a time, a batch can be given out when its time is over, and whoever waits for
the next item may be cancelled without any harm to it, since what it waits for goes on in that task.

What a stage has taken and not passed on, it can show (`held`): that is what is undelivered when it is closed.
"""

from __future__ import annotations

import abc
import asyncio
import enum
import inspect
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterable, Iterator
from types import CoroutineType
from typing import Any, ClassVar, Final, Literal

from hormesis.errors import HormesisError
from hormesis.flow.queue import Queue
from hormesis.flow.settings import measured
from hormesis.flow.tasks import end

__all__ = [
    "END",
    "Batch",
    "Buffer",
    "Concurrent",
    "Crossing",
    "Failed",
    "Filter",
    "Flatten",
    "Handover",
    "Map",
    "Source",
    "Stage",
    "TimedBatch",
]


class _End(enum.Enum):
    END = "end"


END: Final = _End.END
"""What a stage returns when nothing comes any more."""

Failed = Callable[[Any, Exception], object]
"""Takes an item whose function has failed, and the error; of either colour."""

_BREATH = 32
"""Items that are taken in a row from a source that never waits, before others get the loop."""


class Stage(abc.ABC):
    """One stage. `pull` returns the next item, or `END`, then and from then on."""

    name: ClassVar[str]

    @abc.abstractmethod
    async def pull(self) -> Any:
        """Return the next item, or `END`."""
        ...

    async def close(self) -> None:  # noqa: B027  most stages have nothing to end
        """End what goes on here; nobody pulls any more."""

    def held(self) -> list[Any]:
        """What was taken from the stage before and not passed on, oldest first."""
        return []

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is one of this stage."""
        return False


class Source(Stage):
    """The first stage: any iterable, of either colour."""

    name = "source"

    def __init__(self, source: AsyncIterable[Any] | Iterable[Any]) -> None:
        self._given = source
        self._items: AsyncIterator[Any] | None = None
        self._plain: Iterator[Any] | None = None
        self._over = False
        if isinstance(source, AsyncIterable):
            self._items = aiter(source)
        else:
            self._plain = iter(source)

    async def pull(self) -> Any:
        """Return the source's next item."""
        if self._over:
            return END
        if self._items is None:
            assert self._plain is not None  # noqa: S101
            item = next(self._plain, END)
        else:
            item = await anext(self._items, END)
        if item is END:
            self._over = True
        return item

    async def close(self) -> None:
        """Close an iterator that can be closed, such as a generator's."""
        self._over = True
        aclose = getattr(self._items, "aclose", None)
        if aclose is not None:
            await aclose()
        elif inspect.isgenerator(self._plain):
            self._plain.close()

    def held(self) -> list[Any]:
        """What the source itself has not passed on, where it is a stream that knows."""
        undelivered = getattr(self._items, "undelivered", ())
        return [getattr(each, "item", each) for each in undelivered]


async def _result(result: Any) -> Any:
    """What a function of either colour has returned."""
    if result.__class__ is CoroutineType or inspect.isawaitable(result):
        return await result
    return result


class Map(Stage):
    """Applies a function to one item at a time."""

    name = "map"

    def __init__(self, before: Stage, function: Callable[[Any], Any], failed: Failed | None) -> None:
        self._before = before
        self._function = function
        self._failed = failed
        self._held: list[Any] = []

    async def pull(self) -> Any:
        """Return what the function makes of the next item."""
        while True:
            item = await self._before.pull()
            if item is END:
                return END
            self._held.append(item)
            try:
                result = await _result(self._function(item))
            except Exception as error:
                if self._failed is None:
                    self._held.clear()
                    raise
                await self._hand_over(item, error, self._failed)
            else:
                self._held.clear()
                return result

    async def _hand_over(self, item: Any, error: Exception, failed: Failed) -> None:
        try:
            await _result(failed(item, error))
        except Exception:
            self._held.clear()
            raise
        self._held.clear()

    def held(self) -> list[Any]:
        """The item that is worked on."""
        return list(self._held)


class Filter(Stage):
    """Lets those items through for which a function says so."""

    name = "filter"

    def __init__(self, before: Stage, wanted: Callable[[Any], Any]) -> None:
        self._before = before
        self._wanted = wanted
        self._held: list[Any] = []

    async def pull(self) -> Any:
        """Return the next item that is wanted."""
        while (item := await self._before.pull()) is not END:
            self._held.append(item)
            try:
                wanted = await _result(self._wanted(item))
            except Exception:
                self._held.clear()
                raise
            self._held.clear()
            if wanted:
                return item
        return END

    def held(self) -> list[Any]:
        """The item that is looked at."""
        return list(self._held)


class Flatten(Stage):
    """Passes on the items of what comes, one by one."""

    name = "flatten"

    def __init__(self, before: Stage) -> None:
        self._before = before
        self._inner: Source | None = None
        self._rest: Iterable[Any] = ()

    async def pull(self) -> Any:
        """Return the next item of what came last, or the first of what comes next."""
        while True:
            if self._inner is None:
                outer = await self._before.pull()
                if outer is END:
                    return END
                if isinstance(outer, Collection):
                    self._rest = outer = iter(outer)
                self._inner = Source(outer)
            item = await self._inner.pull()
            if item is not END:
                return item
            inner, self._inner, self._rest = self._inner, None, ()
            await inner.close()

    async def close(self) -> None:
        """Close what is being flattened."""
        if self._inner is not None:
            await self._inner.close()

    def held(self) -> list[Any]:
        """The rest of what is being flattened: of a collection, or of a stream that knows what it has not passed on.

        What else makes its items one by one has not made them.
        """
        return [*(self._inner.held() if self._inner is not None else ()), *self._rest]


class Batch(Stage):
    """Collects items into lists; the last may be shorter."""

    name = "batch"

    def __init__(self, before: Stage, size: int) -> None:
        self._before = before
        self._size = size
        self._held: list[Any] = []

    async def pull(self) -> Any:
        """Return the next batch."""
        while len(self._held) < self._size:
            item = await self._before.pull()
            if item is END:
                break
            self._held.append(item)
        batch, self._held = self._held, []
        return batch or END

    def held(self) -> list[Any]:
        """The items of a batch that is not complete."""
        return list(self._held)


class _Signal:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        finally:
            del self._waiting[future]

    def set(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class Crossing(Stage):
    """A stage that pulls in a task of its own, from the first time that something is wanted of it."""

    def __init__(self, before: Stage) -> None:
        self._before = before
        self._changed = _Signal()
        self._wanted = 0
        self._over = False
        self._closed = False
        self._error: BaseException | None = None
        self._feeder: asyncio.Task[None] | None = None

    async def pull(self) -> Any:
        """Return the next item as soon as there is one. Whoever is cancelled here loses nothing."""
        if self._feeder is None and not self._closed:
            self._feeder = asyncio.create_task(self._run(), name=f"pipeline {self.name}")
        self._wanted += 1
        self._changed.set()
        try:
            while self._closed or not self._has_next():
                if self._closed or self._finished():
                    self._raise_error()
                    return END
                await self._changed.wait()
        finally:
            self._wanted -= 1
        try:
            return self._next()
        finally:
            if self._has_room():
                self._changed.set()

    async def close(self) -> None:
        """End the task."""
        self._closed = self._over = True
        self._changed.set()
        if self._feeder is not None:
            await end([self._feeder])

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is the task that pulls."""
        return task is not None and task is self._feeder

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _run(self) -> None:
        try:
            await self._feed()
        except asyncio.CancelledError as cancelled:
            if not self._over:  # by something within: whoever waits must not take it for its own cancellation
                self._error = HormesisError(f"the source of a pipeline's stage {self.name!r} was cancelled from within")
                self._error.__cause__ = cancelled
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._over = True
            self._changed.set()

    @abc.abstractmethod
    async def _feed(self) -> None:
        """Pull while there is room; returns at the end."""
        ...

    def _finished(self) -> bool:
        """Whether nothing comes any more."""
        return self._over

    def _has_room(self) -> bool:
        """Whether the task may have something to do, now that an item has gone."""
        return True

    @abc.abstractmethod
    def _has_next(self) -> bool: ...

    @abc.abstractmethod
    def _next(self) -> Any: ...


class Handover(Crossing):
    """Passes items on as they are, and so many of them are pulled before they are wanted."""

    name = "prefetch"

    def __init__(
        self,
        before: Stage,
        ahead: int = 0,
        max_bytes: int | None = None,
        size: Callable[[Any], int] | None = None,
    ) -> None:
        super().__init__(before)
        self._ahead = ahead
        self._max_bytes = max_bytes
        self._size = size
        self._bytes = 0
        self._ready: deque[tuple[Any, int]] = deque()

    def held(self) -> list[Any]:
        """What was pulled and not wanted yet."""
        return [item for item, _ in self._ready]

    async def _feed(self) -> None:
        taken = 0
        while True:
            while not self._has_room():
                await self._changed.wait()
            item = await self._before.pull()
            if item is END:
                return
            size = 0
            try:
                if self._size is not None:
                    size = measured(self._size, item)
            finally:
                # Whatever its size, it was taken, and comes out before the error does.
                self._ready.append((item, size))
                self._bytes += size
            self._changed.set()
            taken += 1
            if taken % _BREATH == 0:
                await asyncio.sleep(0)

    def _has_room(self) -> bool:
        if len(self._ready) < self._wanted:
            return True
        return len(self._ready) < self._wanted + self._ahead and (
            self._max_bytes is None or self._bytes < self._max_bytes
        )

    def _has_next(self) -> bool:
        return bool(self._ready)

    def _next(self) -> Any:
        item, size = self._ready.popleft()
        self._bytes -= size
        return item


class TimedBatch(Crossing):
    """Collects items into lists, which are complete when they are long enough, or their first item is old enough."""

    name = "batch"

    def __init__(self, before: Stage, size: int, within: float) -> None:
        super().__init__(before)
        self._size = size
        self._within = within
        self._items: list[Any] = []
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        """End the task and the timer."""
        self._stop_timer()
        await super().close()
        self._stop_timer()

    def held(self) -> list[Any]:
        """The items of a batch that nobody has had."""
        return list(self._items)

    async def _feed(self) -> None:
        while True:
            while len(self._items) >= self._size:
                await self._changed.wait()
            item = await self._before.pull()
            if item is END:
                return
            self._items.append(item)
            if len(self._items) == 1:
                self._timer = asyncio.get_running_loop().call_later(self._within, self._time_is_over)
            if len(self._items) >= self._size:
                self._changed.set()

    def _time_is_over(self) -> None:
        self._due = True
        self._changed.set()

    def _has_next(self) -> bool:
        return len(self._items) >= self._size or (bool(self._items) and (self._due or self._over))

    def _next(self) -> Any:
        batch, self._items = self._items, []
        self._stop_timer()
        return batch

    def _stop_timer(self) -> None:
        self._due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Buffer(Crossing):
    """Goes on pulling whatever becomes of the items: a queue with an overflow of its own is between."""

    name = "buffer"

    def __init__(self, before: Stage, queue: Queue[Any]) -> None:
        super().__init__(before)
        self._queue = queue
        self._refused: list[Any] = []

    def held(self) -> list[Any]:
        """What is in the queue, and what it has refused."""
        return self._queue.discard() + self._refused

    async def _feed(self) -> None:
        taken = 0
        while True:
            item = await self._before.pull()
            if item is END:
                return
            self._refused.append(item)
            self._queue.put_nowait(item)
            self._refused.clear()
            self._changed.set()
            taken += 1
            if taken % _BREATH == 0:
                await asyncio.sleep(0)

    def _has_next(self) -> bool:
        return len(self._queue) > 0

    def _next(self) -> Any:
        return self._queue.get_nowait()


class _Slot:
    """One item in a concurrent stage, and what has become of it."""

    __slots__ = ("error", "item", "result", "state", "task")

    def __init__(self, item: Any) -> None:
        self.item = item
        self.result: Any = None
        self.error: BaseException | None = None
        self.state: Literal["works", "done", "failed", "skipped"] = "works"
        self.task: asyncio.Task[None] | None = None


class Concurrent(Crossing):
    """Applies a function to several items at a time."""

    name = "map"

    def __init__(
        self,
        before: Stage,
        function: Callable[[Any], Any],
        failed: Failed | None,
        *,
        concurrency: int,
        ahead: int,
        ordered: bool,
    ) -> None:
        super().__init__(before)
        self._function = function
        self._failed = failed
        self._concurrency = concurrency
        self._most = concurrency + ahead
        self._ordered = ordered
        self._slots: dict[_Slot, None] = {}
        self._ended: deque[_Slot] = deque()
        self._working = 0
        self._broken = False

    async def close(self) -> None:
        """End the task that pulls, and those that work."""
        try:
            await super().close()
        finally:
            await end(slot.task for slot in self._slots if slot.task is not None)

    def held(self) -> list[Any]:
        """Items that are worked on, as they came, and results that nobody has had."""
        return [
            slot.result if slot.state == "done" else slot.item
            for slot in self._slots
            if slot.state in ("works", "done")
        ]

    def runs(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is the task that pulls, or one that works."""
        return super().runs(task) or any(slot.task is task for slot in self._slots)

    async def _feed(self) -> None:
        while not self._broken:
            while self._working >= self._concurrency or len(self._slots) >= self._most:
                await self._changed.wait()
            item = await self._before.pull()
            if item is END:
                break
            slot = _Slot(item)
            self._slots[slot] = None
            self._working += 1
            slot.task = asyncio.create_task(self._work(slot), name="pipeline map")
        while self._working:
            await self._changed.wait()

    async def _work(self, slot: _Slot) -> None:
        try:
            await self._apply(slot)
        except asyncio.CancelledError as cancelled:
            if self._over or self._broken:
                raise  # the item is undelivered
            error = HormesisError("a function of a pipeline was cancelled from within")
            error.__cause__ = cancelled
            self._break(slot, error)
        except Exception as error:
            self._break(slot, error)
        except BaseException as error:
            self._break(slot, error)
            raise
        finally:
            self._working -= 1
            if slot.state == "skipped":
                del self._slots[slot]
            elif slot.state != "works" and not self._ordered:
                self._ended.append(slot)
            self._changed.set()

    async def _apply(self, slot: _Slot) -> None:
        try:
            slot.result = await _result(self._function(slot.item))
        except Exception as error:
            if self._failed is None:
                raise
            await _result(self._failed(slot.item, error))
            slot.state = "skipped"
        else:
            slot.state = "done"

    def _break(self, slot: _Slot, error: BaseException) -> None:
        """An item has failed: nothing more is begun, and what comes after it is given up."""
        slot.state, slot.error = "failed", error
        self._broken = True
        if self._feeder is not None:  # a loop that begins tasks at once may be here before it is known
            self._feeder.cancel()
        slots = list(self._slots)
        for other in slots[slots.index(slot) + 1 :] if self._ordered else slots:
            if other is not slot and other.task is not None:
                other.task.cancel()

    async def _run(self) -> None:
        try:
            await super()._run()
        finally:
            if self._broken:
                self._error = None  # what the failed item has raised says why

    def _finished(self) -> bool:
        return self._over and not self._slots

    def _has_next(self) -> bool:
        if not self._ordered:
            return bool(self._ended)
        first = next(iter(self._slots), None)
        return first is not None and first.state != "works"

    def _next(self) -> Any:
        slot = next(iter(self._slots)) if self._ordered else self._ended.popleft()
        del self._slots[slot]
        if slot.error is not None:
            raise slot.error
        return slot.result
