"""The degraded cache in front of the rest of a journey.

`run` and `run_async` ask `hormesis.core.cache` what to do, and do it: hand out an answer, make the call and land its
flight, or wait for the flight of somebody else. Waiting is bounded by the caller's own deadline.

**What is shared.** A follower gets the answer of its leader, or a copy of its failure, so that one exception is not
raised in several threads at once. It looks for itself again when its leader went away without an outcome (cancelled is
not failed), or ran out of a deadline that was shorter than what the follower has left even now. And it does not wait
where that might never end: inside of the very call that it would wait for, or where it would block an event loop.

**What is remembered.** A remembered failure is kept as a copy without traceback and causes, which would keep the frames
of the first caller alive, and each caller gets a copy of its own, which can't collect the notes and contexts of others.

**Refreshing in the background** happens in a daemon thread for a synchronous call and in a task for an asynchronous
one, in a copy of the caller's context, with a deadline of its own. There are bounds on both; beyond them the answer
just stays stale a little longer. Failures are told, and raised to nobody.
"""

from __future__ import annotations

import contextlib
import contextvars
import copy
import functools
import inspect
import math
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hormesis.clock import Clock, Random
from hormesis.context import Answer, answers, note_answer
from hormesis.core.cache import CacheMachine, Failed, Flight, Follower, Join, Kept, Lead, Remembered
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, DeadlineExceeded
from hormesis.events import CacheAnswered, RefreshFailed, TimeoutHit
from hormesis.outcome import FailureKind, UnwantedResult, classify
from hormesis.patterns.fallback import Fallback
from hormesis.policy.scope import DeadlineScope, time_left
from hormesis.policy.telling import Teller
from hormesis.units import format_seconds

if TYPE_CHECKING:
    import asyncio

__all__ = ["Caching"]

_PART = "cache"
"""What events say for `part`."""

_THREADS_MAX = 8
"""Refreshes of one policy in threads. One that hangs can't be stopped, and many such are worse than old answers."""

_TASKS_MAX = 100
"""Refreshes of one policy in tasks: they are cheap, but each is a call on a dependency."""

_kept: set[asyncio.Task[Any]] = set()
"""Tasks that refresh: a loop refers to its tasks weakly, and would let them vanish in the middle."""

_led: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("hormesis_flights", default=())
"""The flights inside of which this context runs."""


class Caching:
    """The cache of one layer of a policy, ready to ask.

    Args:
        policy: The policy's name.
        machine: The cache's.
        settings: The fallback that has the cache, which says which failures a stale answer stands in for.
        clock, random: The policy's.
        teller: Publishes what happens.
        limit: The seconds that a refresh in the background has: the policy's whole deadline, since it is not the
            caller's. After the time in which a flight counts as lost it ends in any case.

    Raises:
        ConfigurationError: The fallback has no cache.
    """

    __slots__ = (
        "_clock",
        "_draw",
        "_fallback",
        "_key_of",
        "_limit",
        "_lock",
        "_machine",
        "_now",
        "_policy",
        "_tasks",
        "_teller",
        "_threads",
    )

    def __init__(
        self,
        policy: str,
        machine: CacheMachine,
        settings: Fallback,
        clock: Clock,
        random: Random,
        teller: Teller,
        *,
        limit: float = math.inf,
    ) -> None:
        if settings.cache is None:
            raise ConfigurationError("the fallback has no cache to ask")
        self._policy = policy
        self._machine = machine
        self._fallback = settings
        self._key_of = settings.cache.key_of
        self._clock = clock
        self._now = clock.now
        self._draw = random.random
        self._teller = teller
        self._limit = limit
        self._lock = threading.Lock()
        self._threads = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(
        self, ask: Callable[[], Any], args: Sequence[Any], kwargs: Mapping[str, Any], function: object = None
    ) -> tuple[Any, str]:
        """Answer a synchronous call.

        Args:
            ask: Makes the call: the rest of the journey.
            args: What tells it from others, with the keywords and the function.
            kwargs: The keywords.
            function: What is called in the end.

        Returns:
            The answer, and where it came from: `"function"`, `"cache"` or `"stale"`.

        Raises:
            BaseException: What the call raised, or a failure that is remembered or shared; what the key function did.
        """
        key = self._key_of(function, args, kwargs)
        if key is None:
            return ask(), "function"
        while True:
            found = self._machine.look(key, self._now(), self._draw)
            if isinstance(found, Lead):
                return self._lead(found.flight, ask)
            if isinstance(found, Join):
                if found.flight in _led.get() or _on_a_loop():
                    return ask(), "function"
                shared = self._follow(found.flight)
                if shared is None:
                    continue
                return shared
            if isinstance(found, Remembered):
                raise self._remembered(found)
            if found.flight is not None:
                self._refresh(found.flight, ask)
            return self._hand_out(found)

    async def run_async(
        self,
        ask: Callable[[], Awaitable[Any]],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        function: object = None,
    ) -> tuple[Any, str]:
        """Answer an asynchronous call; otherwise as `run`."""
        key = self._key_of(function, args, kwargs)
        if key is None:
            return await ask(), "function"
        while True:
            found = self._machine.look(key, self._now(), self._draw)
            if isinstance(found, Lead):
                return await self._lead_async(found.flight, ask)
            if isinstance(found, Join):
                if found.flight in _led.get():
                    return await ask(), "function"
                shared = await self._follow_async(found.flight)
                if shared is None:
                    continue
                return shared
            if isinstance(found, Remembered):
                raise self._remembered(found)
            if found.flight is not None:
                self._refresh_async(found.flight, ask)
            return self._hand_out(found)

    def snapshot(self, now: float) -> dict[str, int]:
        """The state as plain data."""
        return self._machine.snapshot()

    # Whoever leads makes the call, ...

    def _lead(self, flight: Flight, ask: Callable[[], Any]) -> tuple[Any, str]:
        token = self._take_off(flight)
        try:
            try:
                value = ask()
            except Exception as error:
                kept = self._failed(flight, error)
                if kept is None:
                    raise
                _free(error)
                return self._hand_out(kept)
            self._machine.store(flight, value, self._now())
            return value, "function"
        finally:
            self._machine.abandon(flight)
            _led.reset(token)

    async def _lead_async(self, flight: Flight, ask: Callable[[], Awaitable[Any]]) -> tuple[Any, str]:
        token = self._take_off(flight)
        try:
            try:
                value = await ask()
            except Exception as error:
                kept = self._failed(flight, error)
                if kept is None:
                    raise
                await _free_async(error)
                return self._hand_out(kept)
            self._machine.store(flight, value, self._now())
            return value, "function"
        finally:
            self._machine.abandon(flight)
            _led.reset(token)

    @staticmethod
    def _take_off(flight: Flight) -> contextvars.Token[tuple[Flight, ...]]:
        flight.allowed = time_left()
        return _led.set((*_led.get(), flight))

    def _failed(self, flight: Flight, error: Exception) -> Kept | None:
        """Land with a failure, unless an answer stands in for it."""
        kept = self._stand_in(flight, error)
        if kept is None and _is_gone(error):
            self._machine.store_failure(flight, _bare_copy(error), self._now())
        self._machine.fail(flight, kept or Failed(error), self._now())
        return kept

    def _stand_in(self, flight: Flight, error: Exception) -> Kept | None:
        return self._machine.stand_in(flight.key, self._now()) if self._fallback.answers(error) else None

    # ... and others wait for it.

    def _follow(self, flight: Flight) -> tuple[Any, str] | None:
        """Wait for somebody else's flight; None when another look tells more."""
        woken = threading.Event()
        follower = Follower(woken.set)
        left = max(0.0, time_left())
        if not self._machine.follow(flight, follower):
            return None
        patience = self._patience(flight)
        try:
            woken.wait(min(left, patience))
        finally:
            self._machine.leave(flight, follower)
        return self._followed(flight, follower, left, out_of_time=left <= patience)

    async def _follow_async(self, flight: Flight) -> tuple[Any, str] | None:
        import asyncio  # noqa: PLC0415  whoever is here has a loop; importing hormesis must not pay for it

        woken = asyncio.Event()
        follower = Follower(functools.partial(_wake, asyncio.get_running_loop(), woken))
        left = max(0.0, time_left())
        if not self._machine.follow(flight, follower):
            return None
        patience = self._patience(flight)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, patience)):
                    await woken.wait()
        finally:
            self._machine.leave(flight, follower)
        return self._followed(flight, follower, left, out_of_time=left <= patience)

    def _patience(self, flight: Flight) -> float:
        """The seconds after which a flight is taken for lost."""
        return max(0.0, flight.began + self._machine.terms.flight_max - self._now())

    def _followed(
        self, flight: Flight, follower: Follower, left: float, *, out_of_time: bool
    ) -> tuple[Any, str] | None:
        """What a follower gets when it has waited; None when it is to look again."""
        outcome, follower.outcome = follower.outcome, None
        try:
            if isinstance(outcome, Failed):
                if isinstance(outcome.error, DeadlineExceeded) and time_left() > flight.allowed:
                    return None
                raise _copy_of(outcome.error) or outcome.error
            if outcome is not None:
                return self._hand_out(outcome)
        finally:
            del outcome  # or an exception would keep its own traceback alive, and this frame with it
        if flight.landed or not out_of_time:
            return None
        self._teller.tell(TimeoutHit, Slot.DEADLINE.key, limit=left)
        kept = self._stand_in(flight, DeadlineExceeded(self._policy, left))
        if kept is None:
            raise DeadlineExceeded(self._policy, left)
        return self._hand_out(kept)

    # What callers get.

    def _hand_out(self, kept: Kept) -> tuple[Any, str]:
        source = "cache" if kept.fresh else "stale"
        note_answer(Answer(self._policy, source, kept.age))
        self._teller.tell(CacheAnswered, _PART, source=source, age=kept.age)
        return kept.value, source

    def _remembered(self, found: Remembered) -> Exception:
        """Make what is raised of a failure that is remembered."""
        self._teller.tell(CacheAnswered, _PART, source="cache", age=found.age)
        error = _copy_of(found.error) or found.error
        error.add_note(f"hormesis: policy {self._policy!r} remembers this from {format_seconds(found.age)} ago")
        return error

    # Refreshing in the background.

    def _refresh(self, flight: Flight, ask: Callable[[], Any]) -> None:
        """Begin a refresh in a thread, if there is one to spare."""
        with self._lock:
            busy = self._threads >= _THREADS_MAX
            self._threads += not busy
        if busy:
            self._machine.abandon(flight)
            return
        context = contextvars.copy_context()

        def work() -> None:
            context.run(self._refresh_here, flight, ask)

        try:
            threading.Thread(target=work, name=f"hormesis-{self._policy}-refresh", daemon=True).start()
        except RuntimeError:  # the system has no more threads, or the interpreter is about to end
            self._thread_ended(flight)

    def _refresh_here(self, flight: Flight, ask: Callable[[], Any]) -> None:
        try:
            with self._in_the_background(flight):
                value = ask()
            self._machine.store(flight, value, self._now())
        except Exception as error:
            self._refresh_failed(flight, error)
            _free(error)
        finally:
            self._thread_ended(flight)

    def _thread_ended(self, flight: Flight) -> None:
        with self._lock:
            self._threads -= 1
        self._machine.abandon(flight)

    def _refresh_async(self, flight: Flight, ask: Callable[[], Awaitable[Any]]) -> None:
        """Begin a refresh in a task, if there is room for one."""
        from asyncio import get_running_loop  # noqa: PLC0415

        for dead in [task for task in list(self._tasks) if task.get_loop().is_closed()]:
            self._forget(dead)
        if len(self._tasks) >= _TASKS_MAX:
            self._machine.abandon(flight)
            return
        task = get_running_loop().create_task(self._refresh_there(flight, ask))
        self._tasks.add(task)
        _kept.add(task)
        task.add_done_callback(functools.partial(self._task_ended, flight))

    async def _refresh_there(self, flight: Flight, ask: Callable[[], Awaitable[Any]]) -> None:
        try:
            with self._in_the_background(flight):
                value = await ask()
            self._machine.store(flight, value, self._now())
        except Exception as error:
            self._refresh_failed(flight, error)
            await _free_async(error)

    def _task_ended(self, flight: Flight, task: asyncio.Task[Any]) -> None:
        self._forget(task)
        # One that was cancelled, perhaps before it had begun, has not landed its flight.
        self._machine.abandon(flight)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        _kept.discard(task)

    @contextlib.contextmanager
    def _in_the_background(self, flight: Flight) -> Iterator[None]:
        """Leave the caller's deadline behind, and what it takes note of; the context is a copy already."""
        limit = min(self._limit, self._machine.terms.flight_max)
        DeadlineScope(self._policy, self._clock, self._now() + limit, limit)
        self._take_off(flight)
        with answers():
            yield

    def _refresh_failed(self, flight: Flight, error: Exception) -> None:
        """Land with a failure that nobody asked for; the answer that is kept stands in as before."""
        with contextlib.suppress(Exception):  # what an author's predicate raises is for a caller to hear, not for us
            if _is_gone(error) and not self._fallback.answers(error):
                self._machine.store_failure(flight, _bare_copy(error), self._now())
            # What an unwanted result holds is freed, so it is no outcome for others.
            outcome = None if isinstance(error, UnwantedResult) else Failed(error)
            self._machine.fail(flight, outcome, self._now())
            if self._teller.listening:
                self._teller.tell(RefreshFailed, _PART, kind=classify(error).value, error=type(error).__name__)


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop, which a wait would block, and with it perhaps what is waited for."""
    module = sys.modules.get("asyncio")
    return module is not None and module._get_running_loop() is not None


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # a loop that was closed while a call waited takes that call with it
        loop.call_soon_threadsafe(woken.set)


def _free(error: Exception) -> object:
    """Free what an unwanted result holds that nobody gets; it may return something to await."""
    if isinstance(error, UnwantedResult) and error.dispose is not None:
        with contextlib.suppress(Exception):  # the caller has its answer, and no use for this
            return error.dispose()
    return None


async def _free_async(error: Exception) -> None:
    disposed = _free(error)
    if inspect.isawaitable(disposed):
        with contextlib.suppress(Exception):
            await disposed


def _is_gone(error: Exception) -> bool:
    """Whether a failure says that there is no such thing, or not any more: an old answer would be a wrong one.

    A result that somebody judged is not that clear, and may hold a connection.
    """
    return not isinstance(error, UnwantedResult) and classify(error) is FailureKind.INVALID


def _bare_copy(error: Exception) -> Exception | None:
    """Copy an exception without what ties it to the call that raised it; None where it can't be copied."""
    bare = _copy_of(error)
    if bare is None:
        return None
    bare.__cause__, bare.__suppress_context__ = None, False
    return bare.with_traceback(None)


def _copy_of(error: Exception) -> Exception | None:
    """Copy an exception with its traceback, cause and notes; None where it can't be copied.

    The usual way to copy one calls its class again, with what it keeps as `args`. Where a class takes other arguments
    than those, the copy is made without its `__init__`, which has done what it had to.
    """
    if any(vars(base).get("__slots__") for base in type(error).__mro__):
        return None  # no way of copying knows of its slots
    for make in (copy.copy, _made_again):
        try:
            other = make(error)
        except Exception:  # noqa: S112  the next way, or none
            continue
        if type(other) is type(error) and _same(other.args, error.args):
            notes = getattr(error, "__notes__", None)
            if notes is not None:
                other.__notes__ = list(notes)
            other.__cause__, other.__suppress_context__ = error.__cause__, error.__suppress_context__
            return other.with_traceback(error.__traceback__)
    return None


def _made_again(error: Exception) -> Exception:
    other = type(error).__new__(type(error), *error.args)
    other.args = error.args
    vars(other).update(vars(error))
    return other


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return len(one) == len(other) and all(mine is yours for mine, yours in zip(one, other, strict=True))
