"""The journey of a call, once for each colour.

    deadline → fallback → retry → each attempt: admission (breaker, bulkhead) → timeout → the function

`Layer.run` and `Layer.run_async` are that line in code; read either from top to bottom. Both lean on the same machines
and on the same helpers; what differs is how one waits. What is not in a policy costs one test for None.

A policy in the standard order is one layer. A policy in an order of its own is a chain of layers, each of them in the
standard order, and `inner` is the next.

Endings: an attempt that returns is a success for every part. One that raises is what each part makes of the
exception. One that is cancelled (any `BaseException` that is no `Exception`) is cancelled for all: cancelled is not
failed. Between an attempt's permits and their ending nothing can be lost, since nothing there awaits.

An attempt that the *deadline* cuts short, before its own timeout was over, had less time than it was promised: that
speaks of the caller's patience, not of the dependency, and the breaker ignores it. Where no timeout is set, the
deadline is the timeout, and counts.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from hormesis.clock import Clock, Random
from hormesis.context import TravellingDeadline, current_deadline
from hormesis.core.admission import Permit, Refusal, Waiter
from hormesis.core.retry import RetryBudget
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, DeadlineExceeded, Rejected, TimedOut
from hormesis.events import (
    AttemptFailed,
    CallRejected,
    Event,
    EventBus,
    FallbackAnswered,
    FallbackFailed,
    RetryScheduled,
    RetryStopped,
    RetrySucceeded,
    StateChanged,
    TimeoutHit,
    Waited,
)
from hormesis.outcome import Ending, classify
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.gate import Gate, Obstacle
from hormesis.policy.threads import LeftBehind, Threads
from hormesis.units import seconds

if TYPE_CHECKING:
    import asyncio

__all__ = ["Layer"]


class Layer:
    """Parts of a policy that stand in the standard order, ready to run.

    Args:
        policy: The policy's name.
        deadline, fallback, retry, timeout: Settings, or None.
        budget: The retry budget, or None.
        gate: The admission parts; it may hold none.
        inner: The layer that is called in place of the function, or None.
        clock, random, bus: What the world hands in.
    """

    __slots__ = (
        "_acquire",
        "_limit",
        "_now",
        "_outboxes",
        "_succeed",
        "_timed",
        "budget",
        "bus",
        "clock",
        "deadline",
        "fallback",
        "gate",
        "inner",
        "policy",
        "random",
        "reserve",
        "retry",
        "threads",
        "timeout",
    )

    def __init__(
        self,
        policy: str,
        *,
        deadline: Deadline | None,
        fallback: Fallback | None,
        retry: Retry | None,
        budget: RetryBudget | None,
        gate: Gate,
        timeout: Timeout | None,
        inner: Layer | None,
        clock: Clock,
        random: Random,
        bus: EventBus,
    ) -> None:
        self.policy = policy
        self.deadline = deadline
        self.reserve = _reserve(deadline, fallback)
        self.fallback = fallback
        self.retry = retry
        self.budget = budget
        self.gate = gate
        self.timeout = timeout
        self._limit = math.inf if timeout is None else seconds(timeout.limit)
        self.threads = Threads(policy, timeout.threads) if timeout is not None and timeout.threads else None
        self.inner = inner
        self.clock = clock
        self.random = random
        self.bus = bus
        self._now = clock.now
        self._acquire = gate.acquire
        self._succeed = gate.succeed
        self._timed = gate.timed
        self._outboxes = gate.outboxes

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a synchronous function, in the calling thread unless the timeout has threads."""
        target: Callable[..., Any] = function
        target_args, target_kwargs = args, kwargs
        if self.inner is not None:
            target, target_args, target_kwargs = self.inner.run, (function, args, kwargs), _NOTHING
        scope = None if self.deadline is None else self._open_deadline(self.deadline)
        failed: Exception | None = None
        attempt = 1
        try:
            if self.budget is not None:
                self.budget.deposit()
            while True:
                try:
                    started = self._now()
                    permits: list[Permit] = []
                    for acquire in self._acquire:
                        permit = acquire(started)
                        if isinstance(permit, Refusal):
                            permits = self._queue(self.gate.back_out(permits, permit))
                            started = self._now()
                            break
                        permits.append(permit)
                    try:
                        if self.timeout is None and scope is None:
                            result = target(*target_args, **target_kwargs)
                        else:
                            result = self._call_timed(target, target_args, target_kwargs)
                        if result.__class__ is CoroutineType:
                            _refuse_coroutine(result)
                    except LeftBehind as left:
                        raise self._end_left_behind(permits, left, started) from None
                    except BaseException as error:
                        self._end_badly(permits, error, started)
                        raise
                    ended = self._now() if self._timed else started
                    for succeed in self._succeed:
                        succeed(permits.pop(), started, ended)
                    for _, outbox in self._outboxes:
                        if outbox:
                            self._tell_news()
                except Exception as error:
                    delay = self._delay_before_next(error, attempt)
                    if delay is None:
                        if failed is not None and isinstance(error, Rejected):
                            raise failed from error
                        raise
                    failed = error
                else:
                    if attempt > 1:
                        self._tell_retry_succeeded(attempt)
                    return result
                self.clock.sleep(delay)
                attempt += 1
        except Exception as error:
            if self.fallback is None or not self.fallback.answers(error):
                raise
            if scope is not None:
                scope.use_reserve()
            return self._answer_instead(self.fallback, error, args, kwargs)
        finally:
            failed = None  # or it would keep its own traceback alive, and this frame with it
            if scope is not None:
                scope.close()

    async def run_async(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call an asynchronous function; the same journey, line by line."""
        target: Callable[..., Any] = function
        target_args, target_kwargs = args, kwargs
        if self.inner is not None:
            target, target_args, target_kwargs = self.inner.run_async, (function, args, kwargs), _NOTHING
        scope = None if self.deadline is None else self._open_deadline(self.deadline)
        failed: Exception | None = None
        attempt = 1
        try:
            if self.budget is not None:
                self.budget.deposit()
            while True:
                try:
                    started = self._now()
                    permits: list[Permit] = []
                    for acquire in self._acquire:
                        permit = acquire(started)
                        if isinstance(permit, Refusal):
                            permits = await self._queue_async(self.gate.back_out(permits, permit))
                            started = self._now()
                            break
                        permits.append(permit)
                    try:
                        if self.timeout is None and scope is None:
                            result = await _awaitable(target(*target_args, **target_kwargs), target)
                        else:
                            result = await self._call_timed_async(target, target_args, target_kwargs)
                    except BaseException as error:
                        self._end_badly(permits, error, started)
                        raise
                    ended = self._now() if self._timed else started
                    for succeed in self._succeed:
                        succeed(permits.pop(), started, ended)
                    for _, outbox in self._outboxes:
                        if outbox:
                            self._tell_news()
                except Exception as error:
                    delay = self._delay_before_next(error, attempt)
                    if delay is None:
                        if failed is not None and isinstance(error, Rejected):
                            raise failed from error
                        raise
                    failed = error
                else:
                    if attempt > 1:
                        self._tell_retry_succeeded(attempt)
                    return result
                await self.clock.sleep_async(delay)
                attempt += 1
        except Exception as error:
            if self.fallback is None or not self.fallback.answers(error):
                raise
            if scope is not None:
                scope.use_reserve()
            return await self._answer_instead_async(self.fallback, error, args, kwargs)
        finally:
            failed = None
            if scope is not None:
                scope.close()

    def _open_deadline(self, deadline: Deadline) -> _DeadlineScope:
        """Set the deadline that attempts see: ours or the one that travels already, less what the answer needs."""
        limit = seconds(deadline.limit)
        outer = current_deadline.get()
        if outer is not None:
            limit = min(limit, outer.remaining())
        if limit <= 0:
            raise self._cut(0.0, by_deadline=True)
        return _DeadlineScope(self.policy, self.clock, limit, min(self.reserve, limit / 2))

    def _time_left(self) -> tuple[float, bool]:
        """The seconds that an attempt has, and whether it is the deadline that bounds them."""
        left = self._remaining()
        if left <= 0:
            raise self._cut(0.0, by_deadline=True)
        return (left, True) if left < self._limit else (self._limit, False)

    def _remaining(self) -> float:
        current = current_deadline.get()
        return math.inf if current is None else current.remaining()

    def _cut(self, limit: float, *, by_deadline: bool) -> TimedOut:
        """Make the error of an attempt that was cut off after `limit` seconds, and tell of it."""
        part = Slot.DEADLINE if by_deadline else Slot.TIMEOUT
        if self.bus.listeners:
            self._tell(TimeoutHit, part.key, limit=limit)
        return DeadlineExceeded(self.policy, limit) if by_deadline else TimedOut(self.policy, limit)

    def _call_timed(self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        limit, by_deadline = self._time_left()
        scope = None if by_deadline else _DeadlineScope(self.policy, self.clock, limit, error=TimedOut)
        try:
            if self.threads is None:
                return target(*args, **kwargs)
            return self.threads.run(target, args, kwargs, limit)
        except LeftBehind as left:
            if left.error is None:
                left.error = self._cut(limit, by_deadline=by_deadline)
            raise
        finally:
            if scope is not None:
                scope.close()

    async def _call_timed_async(
        self, target: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        limit, by_deadline = self._time_left()
        scope = None if by_deadline else _DeadlineScope(self.policy, self.clock, limit, error=TimedOut)
        timer = asyncio.timeout(limit)
        try:
            async with timer:
                return await _awaitable(target(*args, **kwargs), target)
        except TimeoutError:
            if not timer.expired():
                raise  # the function's own
            raise self._cut(limit, by_deadline=by_deadline) from None
        finally:
            if scope is not None:
                scope.close()

    def _end_badly(self, permits: Sequence[Permit], error: BaseException, started: float) -> None:
        self.gate.end(permits, self._endings(error), started, self._now())
        self._tell_news()

    def _end_left_behind(self, permits: Sequence[Permit], left: LeftBehind, started: float) -> BaseException:
        """End what can be ended of an attempt whose thread goes on; returns the error for the caller."""
        error = left.error or TimeoutError()
        later = self.gate.end_left_behind(permits, self._endings(error), started, self._now())
        left.when_ended(functools.partial(_all, later))
        self._tell_news()
        return error

    def _endings(self, error: BaseException) -> list[Ending]:
        if (
            isinstance(error, DeadlineExceeded)
            and error.policy == self.policy
            and (self.timeout is not None or error.limit <= 0)
        ):
            return [Ending.IGNORED] * len(self.gate.parts)
        return [part.ending(error) for part in self.gate.parts]

    def _delay_before_next(self, error: Exception, attempt: int) -> float | None:
        """Return the back-off before another attempt, or None when there is to be none."""
        listening = bool(self.bus.listeners)
        if listening and not isinstance(error, Rejected):
            kind, name = classify(error), type(error).__name__
            self._tell(AttemptFailed, "function", attempt=attempt, kind=kind.value, error=name)
        retry = self.retry
        if retry is None or not retry.wants(error):
            return None
        delay = retry.delay_after(attempt, self.random)
        if attempt >= retry.attempts:
            reason = "no attempts left"
        elif delay >= self._remaining():
            reason = "no time left"
        elif self.budget is not None and not self.budget.withdraw():
            reason = "no budget left"
        else:
            if listening:
                self._tell(RetryScheduled, Slot.RETRY.key, attempt=attempt, delay=delay)
            return delay
        if retry.attempts > 1:
            _note(error, f"hormesis: policy {self.policy!r} gave up after attempt {attempt}: {reason}")
            if listening:
                self._tell(RetryStopped, Slot.RETRY.key, attempt=attempt, reason=reason)
        return None

    def _queue(self, obstacle: Obstacle) -> list[Permit]:
        """Stand in a part's queue in the calling thread; returns all permits, or raises the rejection."""
        if not obstacle.refusal.waitable:
            raise self._rejection(obstacle)
        since = self._now()
        while True:
            patience = self._patience(obstacle, since)
            woken = threading.Event()
            waiter = self._enqueue(obstacle, woken.set)
            try:
                woken.wait(patience)
                permit = waiter.taken()
            finally:
                self.gate.queue(obstacle.index).leave(waiter)
            permits = self._after_wait(obstacle, permit, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    async def _queue_async(self, obstacle: Obstacle) -> list[Permit]:
        """Stand in a part's queue without blocking the loop."""
        if not obstacle.refusal.waitable:
            raise self._rejection(obstacle)
        import asyncio  # noqa: PLC0415

        since = self._now()
        loop = asyncio.get_running_loop()
        while True:
            patience = self._patience(obstacle, since)
            woken = asyncio.Event()
            waiter = self._enqueue(obstacle, functools.partial(_wake, loop, woken))
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await woken.wait()
                permit = waiter.taken()
            finally:
                self.gate.queue(obstacle.index).leave(waiter)
            permits = self._after_wait(obstacle, permit, since)
            if not isinstance(permits, Obstacle):
                return permits
            obstacle = permits

    def _patience(self, obstacle: Obstacle, since: float) -> float:
        """How long waiting makes sense; raises the rejection where it makes none."""
        now = self._now()
        outright = self.gate.refused_outright(obstacle, now)
        if outright is not None:
            raise self._rejection(outright)
        left = self._remaining()
        if left <= 0:
            raise self._rejection(Obstacle(obstacle.index, Refusal("no time left to wait")))
        waited = now - since
        patience = min(self.gate.queue(obstacle.index).max_wait - waited, left)
        if patience <= 0:
            raise self._rejection(Obstacle(obstacle.index, Refusal("waited too long")))
        return patience

    def _enqueue(self, obstacle: Obstacle, wake: Callable[[], None]) -> Waiter:
        waiter = Waiter(wake)
        refusal = self.gate.queue(obstacle.index).enqueue(waiter)
        if refusal is not None:
            raise self._rejection(Obstacle(obstacle.index, refusal))
        return waiter

    def _after_wait(self, obstacle: Obstacle, permit: Permit | None, since: float) -> list[Permit] | Obstacle:
        """With the permit that was waited for, take all the others on a fresh reading of the clock, or none."""
        now = self._now()
        if permit is None:
            raise self._rejection(Obstacle(obstacle.index, Refusal("waited too long")))
        permits = self.gate.take_around(obstacle.index, permit, now)
        if not isinstance(permits, Obstacle) and self.bus.listeners:
            self._tell(Waited, self.gate.parts[obstacle.index].slot.key, seconds=now - since)
        return permits

    def _rejection(self, obstacle: Obstacle) -> Rejected:
        part, refusal = self.gate.parts[obstacle.index], obstacle.refusal
        if self.bus.listeners:
            self._tell(CallRejected, part.slot.key, reason=refusal.reason, retry_after=refusal.retry_after)
        self._tell_news()
        return part.rejection(self.policy, refusal.reason, refusal.retry_after)

    def _answer_instead(
        self, fallback: Fallback, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if fallback.function is None:
            return self._answered(error, fallback.value)
        try:
            return self._answered(error, fallback.function(*args, **kwargs))
        except Exception as second:
            self._tell_fallback_failed(error, second)
            raise error from error.__cause__

    async def _answer_instead_async(
        self, fallback: Fallback, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if fallback.function is None:
            return self._answered(error, fallback.value)
        import asyncio  # noqa: PLC0415

        try:
            answer = fallback.function(*args, **kwargs)
            if inspect.isawaitable(answer):
                left = self._remaining()
                async with asyncio.timeout(None if left is math.inf else left):
                    answer = await answer
            return self._answered(error, answer)
        except Exception as second:
            self._tell_fallback_failed(error, second)
            raise error from error.__cause__

    def _answered(self, error: Exception, answer: Any) -> Any:
        if self.bus.listeners:
            self._tell(FallbackAnswered, Slot.FALLBACK.key, kind=classify(error).value)
        return answer

    def _tell_fallback_failed(self, error: Exception, second: Exception) -> None:
        _note(error, f"hormesis: the fallback of policy {self.policy!r} had no answer either: {second!r}")
        if self.bus.listeners:
            kind, name = classify(error).value, type(second).__name__
            self._tell(FallbackFailed, Slot.FALLBACK.key, kind=kind, error=name)

    def _tell_retry_succeeded(self, attempt: int) -> None:
        if self.bus.listeners:
            self._tell(RetrySucceeded, Slot.RETRY.key, attempt=attempt)

    def _tell_news(self) -> None:
        for part, change in self.gate.news():
            if self.bus.listeners:
                self._tell(StateChanged, part, before=change.before, after=change.after, reason=change.reason)

    def _tell(self, event: Callable[..., Event], part: str, /, **facts: object) -> None:
        self.bus.publish(event(at=self._now(), policy=self.policy, part=part, **facts))


class _DeadlineScope:
    """The deadline that travels with everything called until `close`."""

    __slots__ = ("_clock", "_ends", "_limit", "_policy", "_token")

    def __init__(
        self,
        policy: str,
        clock: Clock,
        limit: float,
        reserve: float = 0.0,
        error: type[TimedOut] = DeadlineExceeded,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._limit = limit
        self._ends = clock.now() + limit
        self._token = current_deadline.set(TravellingDeadline(self._ends - reserve, clock, limit, policy, error))

    def use_reserve(self) -> None:
        """From here on the answer is made, in the time that was kept for it."""
        current_deadline.set(TravellingDeadline(self._ends, self._clock, self._limit, self._policy))

    def close(self) -> None:
        """Go back to the deadline that was set before."""
        current_deadline.reset(self._token)


_NOTHING: Mapping[str, Any] = {}
_NOTES_MAX = 8
"""An exception object that is raised again and again must not collect notes for ever."""


def _reserve(deadline: Deadline | None, fallback: Fallback | None) -> float:
    if deadline is None:
        return 0.0
    if deadline.reserve is not None:
        return seconds(deadline.reserve, zero=True)
    return seconds(deadline.limit) / 10 if fallback is not None and fallback.function is not None else 0.0


def _note(error: Exception, text: str) -> None:
    notes = getattr(error, "__notes__", ())
    if len(notes) < _NOTES_MAX and text not in notes:
        error.add_note(text)


def _all(steps: Sequence[Callable[[], None]]) -> None:
    for step in steps:
        step()


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    # A loop that was closed while a call waited takes that call with it; its `leave` passes the permit on.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(woken.set)


def _awaitable(answer: Any, function: Callable[..., Any]) -> Awaitable[Any]:
    if answer.__class__ is CoroutineType or inspect.isawaitable(answer):
        awaitable: Awaitable[Any] = answer
        return awaitable
    name = getattr(function, "__qualname__", function)
    raise ConfigurationError(f"{name} is synchronous, and was called as an asynchronous function: use call()")


def _refuse_coroutine(result: CoroutineType[Any, Any, Any]) -> NoReturn:
    result.close()
    raise ConfigurationError(
        f"{result.__qualname__} is asynchronous, and was called as a synchronous function: use acall(), or decorate it"
    )
