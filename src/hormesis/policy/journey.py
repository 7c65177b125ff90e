"""The journey of a call, once for each colour.

    deadline → answer (cache, fallback) → retry → hedge
        → each attempt: admission (breaker, bulkhead) → timeout → injected faults → function

`_answer`, `_attempts` and `_attempt` are that line in code, and so are their asynchronous twins; both lean on the same
machines and on the same helpers, and what differs is how one waits.

Most calls need none of it and take the express lane (`hormesis.policy.express`). What is not plain comes here: from the
start, or after a first attempt that has failed.

A policy in the standard order is one layer. A policy in an order of its own is a chain of layers, each of them in the
standard order, and `inner` is the next.

Endings: an attempt that returns is a success for every part, unless a part's `on_result` calls the result a failure.
One that raises is what each part makes of the exception. One that is cancelled (any `BaseException` that is no
`Exception`) is cancelled for all: cancelled is not failed. Between an attempt's permits and their ending nothing can be
lost, since nothing there awaits. An attempt for which no thread came free in time was never made, and is ignored.

An attempt that the *deadline* cuts short, before its own timeout was over, had less time than it was promised: that
speaks of the caller's patience, not of the dependency, and the breaker ignores it. Where no timeout is set, the
deadline is the timeout, and counts.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import types
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from hormesis.errors import ConfigurationError, TimedOut
from hormesis.outcome import UnwantedResult
from hormesis.patterns.part import is_async
from hormesis.policy.call import Call, Opened
from hormesis.policy.gate import Obstacle
from hormesis.policy.ground import Ground
from hormesis.policy.scope import DeadlineScope, time_left
from hormesis.policy.threads import LeftBehind

if TYPE_CHECKING:
    from hormesis.patterns.fallback import Fallback
    from hormesis.policy.injecting import Plan, Point
    from hormesis.policy.processes import Processes
    from hormesis.policy.threads import Threads

__all__ = ["Layer"]


class Layer(Ground):
    """Parts of a policy that stand in the standard order, ready to run."""

    __slots__ = ()

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a synchronous function, in the calling thread unless the policy has workers."""
        return self.travel(Call(function, args, kwargs, self.doors.gate(args, kwargs), self.now()))

    async def run_async(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Call an asynchronous function."""
        return await self.travel_async(Call(function, args, kwargs, self.doors.gate(args, kwargs), self.now()))

    def open(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Opened[Any]:
        """Call a synchronous function, and keep its permits until the caller says that it has ended."""
        call = Call(function, args, kwargs, self.doors.gate(args, kwargs), self.now(), opens=True)
        return self._opened(call, self.travel(call))

    async def open_async(
        self, function: Callable[..., Awaitable[Any]], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Opened[Any]:
        """Call an asynchronous function, and keep its permits until the caller says that it has ended."""
        call = Call(function, args, kwargs, self.doors.gate(args, kwargs), self.now(), opens=True)
        return self._opened(call, await self.travel_async(call))

    # The edge of the journey, ...

    def travel(self, call: Call) -> Any:
        """Make the whole journey, or go on with one whose first attempt has failed."""
        try:
            result = self._answer(call)
        except BaseException as raised:
            if self._is_result(raised, call):
                return raised.result
            raise
        self.tell_end(call, None)
        return result

    async def travel_async(self, call: Call) -> Any:
        """Make the whole journey, or go on with one whose first attempt has failed."""
        try:
            result = await self._answer_async(call)
        except BaseException as raised:
            if self._is_result(raised, call):
                return raised.result
            raise
        self.tell_end(call, None)
        return result

    def _is_result(self, error: BaseException, call: Call) -> TypeGuard[UnwantedResult]:
        """Whether what ended the journey is a result that nobody wanted and nobody replaced: it is what there is."""
        self.tell_end(call, error)
        return self.outermost and isinstance(error, UnwantedResult)

    # ... what the caller gets, ...

    def _answer(self, call: Call) -> Any:
        scope = None if self.deadline is None else self.open_deadline(self.deadline, call)
        try:
            if self.caching is None or call.opens:
                return self._attempts(call)
            ask = functools.partial(self._attempts, call)
            result, call.source = self.caching.run(ask, call.args, call.kwargs, call.function)
            return result  # noqa: TRY300  what follows is for failures
        except Exception as failed:
            if self.fallback is None or not self.fallback.answers(failed):
                raise
            if scope is not None:
                scope.use_reserve()
            return self._answer_instead(self.fallback, call, failed)
        finally:
            if scope is not None:
                scope.close()

    async def _answer_async(self, call: Call) -> Any:
        scope = None if self.deadline is None else self.open_deadline(self.deadline, call)
        try:
            if self.caching is None or call.opens:
                return await self._attempts_async(call)
            ask = functools.partial(self._attempts_async, call)
            result, call.source = await self.caching.run_async(ask, call.args, call.kwargs, call.function)
            return result  # noqa: TRY300
        except Exception as failed:
            if self.fallback is None or not self.fallback.answers(failed):
                raise
            if scope is not None:
                scope.use_reserve()
            return await self._answer_instead_async(self.fallback, call, failed)
        finally:
            if scope is not None:
                scope.close()

    def _answer_instead(self, fallback: Fallback, call: Call, error: Exception) -> Any:
        if not fallback.has_answer:
            raise error
        if fallback.function is None:
            _dispose(error)
            return self._answered(call, error, fallback.value)
        place = self._fallback_place(error)
        try:
            answer = fallback.function(*call.args, **call.kwargs)
        except Exception as second:
            self._tell_no_answer(error, second)
            raise error from error.__cause__
        finally:
            self._free_fallback_place(place)
        _dispose(error)
        return self._answered(call, error, answer)

    async def _answer_instead_async(self, fallback: Fallback, call: Call, error: Exception) -> Any:
        if not fallback.has_answer:
            raise error
        if fallback.function is None:
            await _dispose_async(error)
            return self._answered(call, error, fallback.value)
        import asyncio  # noqa: PLC0415

        place = self._fallback_place(error)
        try:
            answer = fallback.function(*call.args, **call.kwargs)
            if inspect.isawaitable(answer):
                left = time_left()
                async with asyncio.timeout(None if left == math.inf else left):
                    answer = await answer
        except Exception as second:
            self._tell_no_answer(error, second)
            raise error from error.__cause__
        finally:
            self._free_fallback_place(place)
        await _dispose_async(error)
        return self._answered(call, error, answer)

    # ... how often, ...

    def _attempts(self, call: Call) -> Any:
        """Make attempts until one succeeds, or no other is to follow."""
        error, call.failed = call.failed, None
        if error is None:
            self.deposit()
        try:
            while True:
                if error is None:
                    try:
                        result = self._race(call)
                    except Exception as failed:
                        error = failed
                    else:
                        self.tell_success(call)
                        return result
                delay = self.delay_before_next(call, error)
                if delay is None:
                    raise self.last_error(call, error)  # noqa: TRY301  what follows is for callers who have gone
                call.failed, error = error, None
                self.clock.sleep(delay)
                call.attempt += 1
        except BaseException as gone:
            if call.failed is not None and not isinstance(gone, Exception):
                _dispose(call.failed)  # the caller has gone, and nobody gets it
            raise
        finally:
            error = call.failed = None  # or they would keep their own tracebacks alive, and this frame with them

    async def _attempts_async(self, call: Call) -> Any:
        error, call.failed = call.failed, None
        if error is None:
            self.deposit()
        try:
            while True:
                if error is None:
                    try:
                        result = await self._race_async(call)
                    except Exception as failed:
                        error = failed
                    else:
                        self.tell_success(call)
                        return result
                delay = self.delay_before_next(call, error)
                if delay is None:
                    raise self.last_error(call, error)  # noqa: TRY301  what follows is for callers who have gone
                call.failed, error = error, None
                await self.clock.sleep_async(delay)
                call.attempt += 1
        except BaseException as gone:
            if call.failed is not None and not isinstance(gone, Exception):
                await _dispose_async(call.failed)
            raise
        finally:
            error = call.failed = None

    def _race(self, call: Call) -> Any:
        if self.hedging is None or call.opens:
            return self._attempt(call)
        return self.hedging.race(functools.partial(self._attempt, call))

    async def _race_async(self, call: Call) -> Any:
        if self.hedging is None or call.opens:
            return await self._attempt_async(call)
        return await self.hedging.race_async(functools.partial(self._attempt_async, call))

    # ... and one attempt: admission, and the function within its time.

    def _attempt(self, call: Call) -> Any:
        started = self.now()
        permits = call.gate.enter(started)
        if isinstance(permits, Obstacle):
            permits = self.entrance.wait(call.gate, permits)
            started = self.now()
        try:
            if call.failed is not None:
                _dispose(call.failed)  # only now is it sure that another attempt takes its place
            result = self._perform(call)
            if result.__class__ is CoroutineType:
                refuse_coroutine(result)
            if self.judges:
                self.judge(result)
        except LeftBehind as left:
            raise self._end_left_behind(call, permits, left, started) from None
        except BaseException as error:
            self.end_badly(call, permits, error, started)
            raise
        self.end_well(call, permits, started)
        return result

    async def _attempt_async(self, call: Call) -> Any:
        started = self.now()
        permits = call.gate.enter(started)
        if isinstance(permits, Obstacle):
            permits = await self.entrance.wait_async(call.gate, permits)
            started = self.now()
        try:
            if call.failed is not None:
                await _dispose_async(call.failed)
            result = await self._perform_async(call)
            if self.judges:
                self.judge(result)
        except LeftBehind as left:
            raise self._end_left_behind(call, permits, left, started) from None
        except BaseException as error:
            self.end_badly(call, permits, error, started)
            raise
        self.end_well(call, permits, started)
        return result

    def _perform(self, call: Call) -> Any:
        """Call the function, or the layer further in, within the time of an attempt."""
        limit, by_deadline = self.limit_now()
        scope = None
        if not by_deadline and limit < math.inf:
            scope = DeadlineScope(self.policy, self.clock, self.now() + limit, limit, error=TimedOut)
        try:
            if self.inner is not None:
                return self._further_in(self.inner, call)
            function = call.function if self.chaos is None else self._with_faults(self.chaos, call.function)
            if self.workers is not None:
                return self.workers.run(function, call.args, call.kwargs, limit)
            return function(*call.args, **call.kwargs)
        except LeftBehind as left:
            if left.error is None:
                left.error = self.cut(limit, by_deadline=by_deadline)
            raise
        finally:
            if scope is not None:
                scope.close()

    async def _perform_async(self, call: Call) -> Any:
        limit, by_deadline = self.limit_now()
        if self.workers is not None and self.inner is None and not is_async(call.function):
            return await self._work_async(self.workers, call, limit, by_deadline=by_deadline)
        if limit == math.inf:
            return await self._start(call)
        if by_deadline:
            return await self._by_deadline(call, limit)
        began = self.now()
        scope = DeadlineScope(self.policy, self.clock, began + limit, limit, error=TimedOut)
        try:
            return await self._within(steps_of(self._start(call), call.function), began)
        finally:
            scope.close()

    @types.coroutine
    def _within(self, steps: Any, began: float) -> Generator[Any, Any, Any]:
        """Run an attempt within its timeout; nothing is armed before it suspends."""
        try:
            waits_for = steps.send(None)
        except StopIteration as done:
            return done.value
        return (yield from self.watchdog(self._limit, TimedOut).watched(steps, waits_for, began))

    async def _by_deadline(self, call: Call, limit: float) -> Any:
        """Run an attempt for what the deadline leaves of its time, which is different for each."""
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        timer = asyncio.timeout(limit)
        try:
            async with timer:
                return await self._start(call)
        except TimeoutError:
            if not timer.expired():
                raise  # the function's own
            raise self.cut(limit, by_deadline=True) from None

    async def _work_async(self, workers: Threads | Processes, call: Call, limit: float, *, by_deadline: bool) -> Any:
        function = call.function if self.chaos is None else self._with_faults(self.chaos, call.function)
        try:
            return await workers.run_async(function, call.args, call.kwargs, limit)
        except LeftBehind as left:
            if left.error is None:
                left.error = self.cut(limit, by_deadline=by_deadline)
            raise

    def _start(self, call: Call) -> Awaitable[Any]:
        """Begin an attempt of an asynchronous call."""
        if self.inner is not None:
            return self._further_in_async(self.inner, call)
        if self.chaos is not None and self.chaos.on and not self.shadow:
            plan = self.chaos.plan()
            if plan is not None:
                return self._meet_faults(self.chaos, plan, call)
        return _awaitable(call.function(*call.args, **call.kwargs), call.function)

    def _with_faults(self, chaos: Point, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a synchronous attempt calls: the function, or the faults that it meets with."""
        plan = chaos.plan() if chaos.on else None
        return function if plan is None else functools.partial(chaos.perform, plan, function)

    async def _meet_faults(self, chaos: Point, plan: Plan, call: Call) -> Any:
        await chaos.before_async(plan)
        if plan.answer is not None:
            return chaos.answer(plan.answer, call.function, call.args)
        return await _awaitable(call.function(*call.args, **call.kwargs), call.function)

    def _further_in(self, inner: Layer, call: Call) -> Any:
        if not call.opens:
            return inner.run(call.function, call.args, call.kwargs)
        call.inner = inner.open(call.function, call.args, call.kwargs)
        return call.inner.value

    async def _further_in_async(self, inner: Layer, call: Call) -> Any:
        if not call.opens:
            return await inner.run_async(call.function, call.args, call.kwargs)
        call.inner = await inner.open_async(call.function, call.args, call.kwargs)
        return call.inner.value


def _dispose(error: Exception) -> None:
    """Free what an unwanted result holds; when that fails, the call goes on all the same."""
    if isinstance(error, UnwantedResult):
        with contextlib.suppress(Exception):
            error.free()


async def _dispose_async(error: Exception) -> None:
    if isinstance(error, UnwantedResult):
        with contextlib.suppress(Exception):
            freed = error.free()
            if inspect.isawaitable(freed):
                await freed


def _awaitable(answer: Any, function: Callable[..., Any]) -> Awaitable[Any]:
    if answer.__class__ is CoroutineType or inspect.isawaitable(answer):
        awaitable: Awaitable[Any] = answer
        return awaitable
    name = getattr(function, "__qualname__", function)
    if inspect.isasyncgen(answer) or inspect.isgenerator(answer):
        raise ConfigurationError(
            f"{name} is a generator; a policy protects calls with one answer, streams with aopen()"
        )
    raise ConfigurationError(f"{name} is synchronous, and was called as an asynchronous function: use call()")


def steps_of(answer: Any, function: Callable[..., Any]) -> Any:
    """What runs an awaitable that is no coroutine, step by step."""
    from hormesis.policy.watchdog import steps_of  # noqa: PLC0415  it needs asyncio

    return steps_of(_awaitable(answer, function))


def refuse_coroutine(result: CoroutineType[Any, Any, Any]) -> NoReturn:
    result.close()
    raise ConfigurationError(
        f"{result.__qualname__} is asynchronous, and was called as a synchronous function: use acall(), or decorate it"
    )
