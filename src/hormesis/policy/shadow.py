"""A policy that only watches: it decides and reports what it would do, and the function is called as it is.

The parts are the same, with the same machines and the same events, which say that they come from a shadow. A breaker
hears of the calls that it would have let in, a bulkhead holds permits for those, an attempt that took longer than its
timeout counts as timed out, and a failure asks the retry budget as it would. What a shadow can't know is what a second
attempt or a hedge would have brought: it reports that there would have been one. So its budgets and its breaker see the
first attempts alone.

Nothing is delayed, refused, repeated, cut off, cached or answered by a shadow, and no deadline travels from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hormesis.core.admission import Permit, Refusal
from hormesis.core.slots import Slot
from hormesis.errors import TimedOut
from hormesis.events import FallbackAnswered
from hormesis.outcome import OnResult, classify
from hormesis.patterns.part import is_async
from hormesis.policy.call import Call, Opened
from hormesis.policy.gate import Entry, Gate
from hormesis.policy.ground import unwanted
from hormesis.policy.journey import Layer
from hormesis.policy.threads import LeftBehind
from hormesis.units import seconds

__all__ = ["ShadowLayer"]


class _Watched:
    """What a shadow knows of one call: who would have admitted it, or that somebody would have refused."""

    __slots__ = ("gate", "permits", "refused", "started")

    def __init__(self, gate: Gate, permits: list[Permit], started: float, *, refused: bool) -> None:
        self.gate = gate
        self.refused = refused
        self.permits = permits
        self.started = started


class ShadowLayer(Layer):
    """Parts of a policy that watch; see the module's docstring."""

    __slots__ = ()

    shadow = True

    def travel(self, call: Call) -> Any:
        """Make the call, and watch it."""
        watched = self.watch(call)
        try:
            if self.inner is not None:
                result = self._further_in(self.inner, call)
            else:
                result = call.function(*call.args, **call.kwargs)
        except BaseException as raised:
            self._end_shadow(call, watched, self._instead_of(raised, watched))
            if self._is_result(raised, call):
                return raised.result
            raise
        return self._end_shadow_well(call, watched, result)

    async def travel_async(self, call: Call) -> Any:
        """Make the call, and watch it."""
        watched = self.watch(call)
        try:
            result = await self._go(call)
        except BaseException as raised:
            self._end_shadow(call, watched, self._instead_of(raised, watched))
            if self._is_result(raised, call):
                return raised.result
            raise
        return self._end_shadow_well(call, watched, result)

    async def _go(self, call: Call) -> Any:
        """Call the function as it is; one that would block the loop still runs in a worker."""
        if self.workers is None or self.inner is not None or is_async(call.function):
            return await self._start(call)
        try:
            return await self.workers.run_async(call.function, call.args, call.kwargs, math.inf)
        except LeftBehind as left:
            raise left.error or TimeoutError() from None

    def _opened(self, call: Call, value: Any) -> Opened[Any]:
        return Opened(value, lambda error: None if call.inner is None else call.inner.end(error))

    def watch(self, call: Call) -> _Watched:
        """Ask every part, and go in whatever they say."""
        self.deposit()
        if self.chaos is not None and self.chaos.on:
            self.chaos.plan()  # it tells what the call would have met with
        permits: list[Permit] = []
        admitted: list[Entry] = []
        for entry in call.gate.entries:
            permit = entry.machine.acquire(call.began)
            if not isinstance(permit, Refusal):
                permits.append(permit)
                admitted.append(entry)
            elif not permit.waitable:  # what would have become of a wait in a queue, a shadow can't tell
                # As in earnest: an attempt gets every permit or none.
                for other, taken in zip(admitted, permits, strict=True):
                    other.machine.put_back(taken)
                self.teller.tell_rejection(entry.part.slot.key, entry.key, permit)
                self._tell_fallback(entry.part.rejection(self.policy, permit.reason, permit.retry_after))
                return _Watched(Gate(()), [], call.began, refused=True)
        return _Watched(Gate(admitted), permits, call.began, refused=False)

    def watched_ended(self, call: Call, watched: Any, error: BaseException | None) -> None:
        """Let the parts hear how a block has ended."""
        if error is None:
            self._end_shadow_well(call, watched, None, judges=())
        else:
            self._end_shadow(call, watched, self._instead_of(error, watched))
            self.tell_end(call, error)

    def _end_shadow_well(
        self, call: Call, watched: _Watched, result: Any, judges: Sequence[OnResult] | None = None
    ) -> Any:
        late = None if watched.refused else self._late(watched)
        try:
            bad = any(judge(result) for judge in (self.judges if judges is None else judges))
        except BaseException as mistake:
            self._end_shadow(call, watched, mistake)
            raise
        if late is not None:
            self._end_shadow(call, watched, late)
        elif bad:
            self._end_shadow(call, watched, unwanted(result))
        else:
            watched.gate.succeed(watched.permits, watched.started, self.now())
            self.teller.tell_news(watched.gate)
        self.tell_end(call, None)
        return result

    def _late(self, watched: _Watched) -> TimedOut | None:
        """The error of a call that took longer than it would have been given."""
        took = self.now() - watched.started
        deadline = None if self.deadline is None else seconds(self.deadline.limit)
        if took >= self._limit and (deadline is None or self._limit <= deadline):
            return self.cut(self._limit, by_deadline=False)
        if deadline is not None and took >= deadline:
            return self.cut(deadline, by_deadline=True)
        return None

    def _instead_of(self, error: BaseException, watched: _Watched) -> BaseException:
        """What the caller would have had instead of this failure: a timeout, if it came too late."""
        return self._late(watched) or error if isinstance(error, Exception) and not watched.refused else error

    def _end_shadow(self, call: Call, watched: _Watched, error: BaseException) -> None:
        """Let the parts hear of a failure, and tell what would have come of it."""
        if watched.refused:
            return
        self._end_permits(watched.gate, watched.permits, error, watched.started)
        self._tell_failure(call, error)
        self.teller.tell_news(watched.gate)
        if isinstance(error, Exception) and self.delay_before_next(call, error) is None:
            self._tell_fallback(error)

    def _tell_fallback(self, error: Exception) -> None:
        if self.fallback is not None and self.fallback.answers(error):
            self.teller.tell(FallbackAnswered, Slot.FALLBACK.key, kind=classify(error).value)
