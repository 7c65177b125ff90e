"""The journey of a call, once for each colour.

    deadline → fallback → retry → each attempt: admission (breaker, bulkhead) → timeout → the function

`Layer.run` and `Layer.run_async` are that line in code; read either from top to bottom. Both lean on the same machines
and on the same helpers; what differs is how one waits. What is not in a policy costs one test for None.

A policy in the standard order is one layer. A policy in an order of its own is a chain of layers, each of them in the
standard order, and `inner` is the next.

Endings: an attempt that returns is a success for every part. One that raises is what each part makes of the
exception. One that is cancelled (any `BaseException` that is no `Exception`) is cancelled for all: cancelled is not
failed. Between an attempt's permits and their ending nothing can be lost, since nothing there awaits. An attempt for
which no thread came free in time was never made, and is ignored.

An attempt that the *deadline* cuts short, before its own timeout was over, had less time than it was promised: that
speaks of the caller's patience, not of the dependency, and the breaker ignores it. Where no timeout is set, the
deadline is the timeout, and counts.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn

from hormesis.clock import Clock, Random
from hormesis.context import current_deadline
from hormesis.core.admission import Permit, Refusal
from hormesis.core.retry import RetryBudget
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, DeadlineExceeded, Rejected, TimedOut
from hormesis.events import (
    AttemptFailed,
    EventBus,
    FallbackAnswered,
    FallbackFailed,
    RetryScheduled,
    RetryStopped,
    RetrySucceeded,
    TimeoutHit,
)
from hormesis.outcome import Ending, classify
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.entrance import Entrance
from hormesis.policy.gate import Gate
from hormesis.policy.scope import DeadlineScope, time_left
from hormesis.policy.telling import Teller
from hormesis.policy.threads import LeftBehind, Threads
from hormesis.units import seconds

if TYPE_CHECKING:
    import asyncio

    from hormesis.policy.watchdog import Watchdog

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
        "_watchdogs",
        "budget",
        "clock",
        "deadline",
        "entrance",
        "fallback",
        "gate",
        "inner",
        "policy",
        "random",
        "reserve",
        "retry",
        "teller",
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
        self.threads = Threads(policy, timeout.threads) if timeout is not None and timeout.threads else None
        self.inner = inner
        self.clock = clock
        self.random = random
        self.teller = Teller(policy, clock, bus)
        self.entrance = Entrance(policy, gate, clock, self.teller)
        # What every call looks up, one step nearer.
        self._limit = math.inf if timeout is None else seconds(timeout.limit)
        self._now = clock.now
        self._acquire = gate.acquire
        self._succeed = gate.succeed
        self._timed = gate.timed
        self._outboxes = gate.outboxes
        self._watchdogs: dict[asyncio.AbstractEventLoop, Watchdog] = {}

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
                        if type(permit) is Refusal:
                            permits = self.entrance.wait(self.gate.back_out(permits, permit))
                            started = self._now()
                            break
                        permits.append(permit)
                    try:
                        if self.timeout is None and scope is None:
                            result = target(*target_args, **target_kwargs) if target_kwargs else target(*target_args)
                        else:
                            result = self._call_timed(target, target_args, target_kwargs)
                        if result.__class__ is CoroutineType:
                            _refuse_coroutine(result)
                    except LeftBehind as left:
                        raise self._end_left_behind(permits, left, started, attempt) from None
                    except BaseException as error:
                        self._end_badly(permits, error, started, attempt)
                        raise
                    ended = self._now() if self._timed else started
                    for succeed in self._succeed:
                        succeed(permits.pop(), started, ended)
                    for _, outbox in self._outboxes:
                        if outbox:
                            self.teller.tell_news(self.gate)
                except Exception as error:
                    delay = self._delay_before_next(error, attempt)
                    if delay is None:
                        if failed is not None and isinstance(error, Rejected):
                            raise self._refused_again(failed, error, attempt) from error
                        raise
                    failed = error
                else:
                    if attempt > 1:
                        self.teller.tell(RetrySucceeded, Slot.RETRY.key, attempt=attempt)
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
                        if type(permit) is Refusal:
                            permits = await self.entrance.wait_async(self.gate.back_out(permits, permit))
                            started = self._now()
                            break
                        permits.append(permit)
                    try:
                        if self.timeout is None and scope is None:
                            result = await _awaitable(target(*target_args, **target_kwargs), target)
                        else:
                            result = await self._call_timed_async(target, target_args, target_kwargs)
                    except BaseException as error:
                        self._end_badly(permits, error, started, attempt)
                        raise
                    ended = self._now() if self._timed else started
                    for succeed in self._succeed:
                        succeed(permits.pop(), started, ended)
                    for _, outbox in self._outboxes:
                        if outbox:
                            self.teller.tell_news(self.gate)
                except Exception as error:
                    delay = self._delay_before_next(error, attempt)
                    if delay is None:
                        if failed is not None and isinstance(error, Rejected):
                            raise self._refused_again(failed, error, attempt) from error
                        raise
                    failed = error
                else:
                    if attempt > 1:
                        self.teller.tell(RetrySucceeded, Slot.RETRY.key, attempt=attempt)
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

    def _open_deadline(self, deadline: Deadline) -> DeadlineScope:
        """Set the deadline that attempts see: ours or the one that travels already, less what the answer needs."""
        limit = seconds(deadline.limit)
        outer = current_deadline.get()
        if outer is not None:
            limit = min(limit, outer.remaining())
        if limit <= 0:
            raise self._cut(0.0, by_deadline=True)
        return DeadlineScope(self.policy, self.clock, limit, reserve=min(self.reserve, limit / 2))

    def _limit_now(self) -> tuple[float, bool]:
        """The seconds that an attempt has, and whether it is the deadline that bounds them."""
        left = time_left()
        if left <= 0:
            raise self._cut(0.0, by_deadline=True)
        return (left, True) if left < self._limit else (self._limit, False)

    def _cut(self, limit: float, *, by_deadline: bool) -> TimedOut:
        """Make the error of an attempt that was cut off after `limit` seconds, and tell of it."""
        part = Slot.DEADLINE if by_deadline else Slot.TIMEOUT
        self.teller.tell(TimeoutHit, part.key, limit=limit)
        return DeadlineExceeded(self.policy, limit) if by_deadline else TimedOut(self.policy, limit)

    def _call_timed(self, target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        limit, by_deadline = self._limit_now()
        scope = None if by_deadline else DeadlineScope(self.policy, self.clock, limit, error=TimedOut)
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

        limit, by_deadline = self._limit_now()
        if not by_deadline:
            return await self._call_watched(target, args, kwargs)
        timer = asyncio.timeout(limit)
        try:
            async with timer:
                return await _awaitable(target(*args, **kwargs), target)
        except TimeoutError:
            if not timer.expired():
                raise  # the function's own
            raise self._cut(limit, by_deadline=True) from None

    async def _call_watched(
        self, target: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call under the timeout, which is the same for every attempt."""
        from asyncio import CancelledError, get_running_loop  # noqa: PLC0415

        loop = get_running_loop()
        watchdog = self._watchdogs.get(loop) or self._new_watchdog(loop)
        attempt = watchdog.begin()
        token = current_deadline.set(attempt)
        ours = False
        try:
            return await _awaitable(target(*args, **kwargs), target)
        except CancelledError:
            ours = attempt.expired
            if ours and attempt.took_back():
                raise self._cut(self._limit, by_deadline=False) from None
            raise
        finally:
            current_deadline.reset(token)
            watchdog.end(attempt)
            if attempt.expired and not ours:
                attempt.took_back()  # it ended by itself in the moment in which its time was over

    def _new_watchdog(self, loop: asyncio.AbstractEventLoop) -> Watchdog:
        from hormesis.policy.watchdog import Watchdog  # noqa: PLC0415  it needs asyncio

        for old in [old for old in self._watchdogs if old.is_closed()]:
            del self._watchdogs[old]
        return self._watchdogs.setdefault(loop, Watchdog(self.policy, self.clock, self._limit, loop))

    def _end_badly(self, permits: Sequence[Permit], error: BaseException, started: float, attempt: int) -> None:
        self.gate.end(permits, self._endings(error), started, self._now())
        self._tell_failure(error, attempt)
        self.teller.tell_news(self.gate)

    def _end_left_behind(
        self, permits: Sequence[Permit], left: LeftBehind, started: float, attempt: int
    ) -> BaseException:
        """End what can be ended of an attempt whose thread goes on; returns the error for the caller."""
        error = left.error or TimeoutError()
        endings = self._endings(error) if left.begun else [Ending.IGNORED] * len(permits)
        later = self.gate.end_left_behind(permits, endings, started, self._now())
        left.when_ended(functools.partial(_all, later))
        self._tell_failure(error, attempt)
        self.teller.tell_news(self.gate)
        return error

    def _endings(self, error: BaseException) -> list[Ending]:
        """What each part makes of an exception."""
        if (
            isinstance(error, DeadlineExceeded)
            and error.policy == self.policy
            and (self.timeout is not None or error.limit <= 0)
        ):
            return [Ending.IGNORED] * len(self.gate.parts)
        return [part.ending(error) for part in self.gate.parts]

    def _tell_failure(self, error: BaseException, attempt: int) -> None:
        if self.teller.listening and isinstance(error, Exception) and not isinstance(error, Rejected):
            kind, name = classify(error).value, type(error).__name__
            self.teller.tell(AttemptFailed, "function", attempt=attempt, kind=kind, error=name)

    def _delay_before_next(self, error: Exception, attempt: int) -> float | None:
        """Return the back-off before another attempt, or None when there is to be none."""
        retry = self.retry
        if retry is None or not retry.wants(error):
            return None
        delay = retry.delay_after(attempt, self.random)
        if attempt >= retry.attempts:
            reason = "no attempts left"
        elif delay >= time_left():
            reason = "no time left"
        elif self.budget is not None and not self.budget.withdraw():
            reason = "no budget left"
        else:
            self.teller.tell(RetryScheduled, Slot.RETRY.key, attempt=attempt, delay=delay)
            return delay
        if retry.attempts > 1:
            self._give_up(error, attempt, reason)
        return None

    def _refused_again(self, failed: Exception, rejection: Rejected, attempt: int) -> Exception:
        """A retry that is refused ends the retries; the caller gets what the dependency said last."""
        self._give_up(failed, attempt - 1, f"the next was refused ({rejection.reason})")
        return failed

    def _give_up(self, error: Exception, attempt: int, reason: str) -> None:
        _note(error, f"hormesis: policy {self.policy!r} gave up after attempt {attempt}: {reason}")
        self.teller.tell(RetryStopped, Slot.RETRY.key, attempt=attempt, reason=reason)

    def _answer_instead(
        self, fallback: Fallback, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if fallback.function is None:
            return self._answered(error, fallback.value)
        try:
            answer = fallback.function(*args, **kwargs)
        except Exception as second:
            self._tell_no_answer(error, second)
            raise error from error.__cause__
        return self._answered(error, answer)

    async def _answer_instead_async(
        self, fallback: Fallback, error: Exception, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if fallback.function is None:
            return self._answered(error, fallback.value)
        import asyncio  # noqa: PLC0415

        try:
            answer = fallback.function(*args, **kwargs)
            if inspect.isawaitable(answer):
                left = time_left()
                async with asyncio.timeout(None if left == math.inf else left):
                    answer = await answer
        except Exception as second:
            self._tell_no_answer(error, second)
            raise error from error.__cause__
        return self._answered(error, answer)

    def _answered(self, error: Exception, answer: Any) -> Any:
        if self.teller.listening:
            self.teller.tell(FallbackAnswered, Slot.FALLBACK.key, kind=classify(error).value)
        return answer

    def _tell_no_answer(self, error: Exception, second: Exception) -> None:
        _note(error, f"hormesis: the fallback of policy {self.policy!r} had no answer either: {second!r}")
        if self.teller.listening:
            kind, name = classify(error).value, type(second).__name__
            self.teller.tell(FallbackFailed, Slot.FALLBACK.key, kind=kind, error=name)


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
