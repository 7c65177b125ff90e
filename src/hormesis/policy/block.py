"""Attempts for a block of code: `for attempt in policy.attempts(): with attempt: ...`.

The same machines and the same decisions as around a function; what differs is who loops. An attempt takes its permits
when the block is entered and ends them when it is left. A failure that is worth another attempt is kept back, and the
loop comes round again after the back-off; any other leaves the block as it is.

In an `async for` the block is cut off when its timeout is over; in a plain one the timeout is what `remaining()` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hormesis.core.admission import Permit
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, Rejected, TimedOut
from hormesis.patterns.part import Part
from hormesis.policy.call import Call
from hormesis.policy.gate import Obstacle
from hormesis.policy.scope import DeadlineScope

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from hormesis.policy.journey import Layer

__all__ = ["Attempt", "Attempts"]

_NOT_IN_A_BLOCK = {
    Slot.FALLBACK: "a block has no place for the answer of a fallback",
    Slot.HEDGE: "a block can't run twice at the same time, as a hedge would need",
    Slot.CHAOS: "a block can't be kept from running, as an injected failure would need",
}


class Attempts:
    """The attempts of one call, as a `for` or an `async for` takes them; see `Policy.attempts`."""

    __slots__ = ("_call", "_delay", "_layer", "_next", "_sync_problem")

    def __init__(self, policy: str, layers: Sequence[Sequence[Part]], layer: Layer, sync_problem: str | None) -> None:
        for part in (part for parts in layers for part in parts):
            if part.slot in _NOT_IN_A_BLOCK:
                raise ConfigurationError(f"policy {policy!r}: {_NOT_IN_A_BLOCK[part.slot]}; use call()")
        if layer.inner is not None or layer.workers is not None:
            why = "an order as given in several layers" if layer.inner is not None else "workers"
            raise ConfigurationError(f"policy {policy!r} has {why}, which a block can't go through; use call()")
        self._layer = layer
        self._sync_problem = sync_problem
        self._call = Call(_block, (), {}, layer.doors.gate((), {}), layer.clock.now())
        self._delay = 0.0
        self._next: Attempt | None = Attempt(self, layer, self._call)
        layer.deposit()

    def __iter__(self) -> Attempts:
        if self._sync_problem is not None:
            raise ConfigurationError(self._sync_problem)
        return self

    def __next__(self) -> Attempt:
        if self._next is None:
            raise StopIteration
        if self._call.attempt > 1:
            self._layer.clock.sleep(self._delay)
        return self._take()

    def __aiter__(self) -> Attempts:
        return self

    async def __anext__(self) -> Attempt:
        if self._next is None:
            raise StopAsyncIteration
        if self._call.attempt > 1:
            await self._layer.clock.sleep_async(self._delay)
        return self._take()

    def _take(self) -> Attempt:
        attempt = self._next
        self._next = None  # unless the attempt ends with another to follow, it was the last
        assert attempt is not None  # noqa: S101  both callers have looked
        return attempt

    def again(self, failed: Exception, delay: float) -> None:
        """Let another attempt follow, after so many seconds."""
        self._call.failed = failed
        self._call.attempt += 1
        self._delay = delay
        self._next = Attempt(self, self._layer, self._call)


class Attempt:
    """One attempt at a block; `number` counts from 1."""

    __slots__ = (
        "_attempts",
        "_call",
        "_deadline",
        "_layer",
        "_permits",
        "_started",
        "_timeout",
        "_timer",
        "_watched",
        "number",
    )

    def __init__(self, attempts: Attempts, layer: Layer, call: Call) -> None:
        self._attempts = attempts
        self._layer = layer
        self._call = call
        self._permits: Sequence[Permit] = ()
        self._started = 0.0
        self._deadline: DeadlineScope | None = None
        self._timeout: DeadlineScope | None = None
        self._timer: tuple[asyncio.Timeout, float, bool] | None = None
        self._watched: Any = None
        """What a shadow knows of the attempt, which it only watches."""
        self.number = call.attempt

    def __enter__(self) -> Attempt:
        if self._layer.shadow:
            self._watched = self._layer.watch(self._call)
            return self
        self._open_deadline()
        try:
            permits = self._enter()
            if isinstance(permits, Obstacle):
                permits = self._layer.entrance.wait(self._call.gate, permits)
            self._begin(permits)
        except Rejected as rejection:
            self._refused(rejection)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        return self._leave(error)

    async def __aenter__(self) -> Attempt:
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        if self._layer.shadow:
            return self.__enter__()
        self._open_deadline()
        try:
            permits = self._enter()
            if isinstance(permits, Obstacle):
                permits = await self._layer.entrance.wait_async(self._call.gate, permits)
            limit, by_deadline = self._begin(permits)
            if limit < math.inf:
                timer = asyncio.timeout(limit)
                await timer.__aenter__()
                self._timer = (timer, limit, by_deadline)
        except Rejected as rejection:
            self._refused(rejection)
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            timer, limit, by_deadline = self._timer
            try:
                await timer.__aexit__(kind, error, traceback)
            except TimeoutError:
                cut = self._layer.cut(limit, by_deadline=by_deadline)
                if not self._leave(cut):
                    raise cut from None
                return True
        return self._leave(error)

    def _open_deadline(self) -> None:
        layer = self._layer
        if layer.deadline is not None:
            self._deadline = layer.open_deadline(layer.deadline, self._call)

    def _enter(self) -> list[Permit] | Obstacle:
        return self._call.gate.enter(self._layer.clock.now())

    def _begin(self, permits: Sequence[Permit]) -> tuple[float, bool]:
        """Begin the attempt, with all permits in hand; returns how long it may take, and whether by the deadline."""
        layer, self._permits = self._layer, permits
        self._started = layer.clock.now()
        try:
            limit, by_deadline = layer.limit_now()
        except TimedOut as error:
            layer.end_badly(self._call, permits, error, self._started)
            raise
        if not by_deadline and limit < math.inf:
            self._timeout = DeadlineScope(layer.policy, layer.clock, self._started + limit, limit, error=TimedOut)
        return limit, by_deadline

    def _refused(self, rejection: Rejected) -> NoReturn:
        """A refused attempt ends the loop; after a failure, that is what the caller hears of."""
        self._close()
        error = self._layer.last_error(self._call, rejection)
        self._layer.tell_end(self._call, error)
        raise error

    def _leave(self, error: BaseException | None) -> bool:
        """End the attempt; whether its failure is kept back since another follows."""
        layer, call = self._layer, self._call
        if self._watched is not None:
            layer.watched_ended(call, self._watched, error)
            return False
        if self._timeout is not None:
            self._timeout.close()
        try:
            if error is None:
                layer.end_well(call, self._permits, self._started)
                layer.tell_success(call)
                layer.tell_end(call, None)
                return False
            layer.end_badly(call, self._permits, error, self._started)
            delay = layer.delay_before_next(call, error) if isinstance(error, Exception) else None
            if delay is None or not isinstance(error, Exception):
                layer.tell_end(call, error)
                return False
            self._attempts.again(error, delay)
            return True
        finally:
            self._close()

    def _close(self) -> None:
        if self._deadline is not None:
            self._deadline.close()
            self._deadline = None


def _block() -> None:
    """Stands for the block, which nobody calls."""
