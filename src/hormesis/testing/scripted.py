"""A dependency that follows a script, in either colour.

Each call takes the next step of the script, and the last step for ever. A step is

    an answer                      which is returned
    an exception, or its class     which is raised
    a function                     which is called with the call's arguments, and what it returns is a step
    `Scripted.after("2s", step)`   a step that takes its time: on the clock that was handed in, without waiting
    `Scripted.forever`             no answer: the call stays inside until it is cancelled, or `release` is called

It writes down what it was called with, and how many calls were inside at the same time, which is what a test of a
bulkhead wants to know.

What goes wrong with the script itself is a `ScriptError`. It is no `Exception`, so that no retry repeats it and no
fallback answers for it: it reaches the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeAlias

from hormesis.clock import Clock
from hormesis.context import check_deadline, remaining
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import flag, is_async
from hormesis.units import Duration, seconds

__all__ = ["Arguments", "ScriptError", "Scripted"]

Step: TypeAlias = Any
"""See the module's docstring: nearly everything is an answer."""

_ARGUMENTS_MAX = 10_000
"""Calls whose arguments are kept; a test that makes more looks at counts."""

_NESTED_MAX = 100
"""Steps within one step; a function that returns itself would go on for ever."""


class ScriptError(BaseException):
    """A script came to its end, or a call waited inside for longer than any test should."""


class Arguments(NamedTuple):
    """What one call was given."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _After(NamedTuple):
    delay: float
    step: Step


class _Forever:
    """The step that never ends."""

    __slots__ = ()


_FOREVER = _Forever()


class _Held:
    """Calls that stay inside, and the step with which they end together."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []
        self.step: Step = None

    def wait(self, patience: float) -> bool:
        return self._released.wait(patience)

    async def wait_async(self) -> None:
        loop = asyncio.get_running_loop()
        released = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(released.set)

        with self._lock:
            if self._released.is_set():
                return
            self._wakers.append(wake)
        try:
            await released.wait()
        finally:
            with self._lock:
                self._wakers.remove(wake)

    def release(self, step: Step) -> None:
        with self._lock:
            self.step = step
            self._released.set()
            wakers = self._wakers.copy()
        for wake in wakers:
            wake()


class Scripted:
    """A dependency that answers, fails, and takes its time, as its script says; see the module's docstring.

    Hand `call` to what makes synchronous calls, and `acall` to what makes asynchronous ones.

    Args:
        *steps: What its calls do, one after the other; the last step repeats.
        strict: Whether a call after the last step is a `ScriptError` instead.
        clock: What delays pass on. Asynchronous calls may do without: they sleep on their loop.
        cooperative: Whether synchronous calls heed their deadline, as a function under a cooperative timeout does.
        patience: Real time for which synchronous calls stay inside at the most, and `wait_until_inside` waits.

    Raises:
        ConfigurationError: There are no steps.

    >>> from hormesis import Policy, Retry
    >>> from hormesis.testing import ManualClock
    >>> clock = ManualClock()
    >>> stock = Scripted(ConnectionRefusedError, Scripted.after("2s", 3), clock=clock)
    >>> policy = Policy(Retry(on="transient", delay="1s", jitter="none"), clock=clock)
    >>> policy.call(stock.call, "tea"), clock.now()
    (3, 3.0)
    >>> stock.calls, stock.arguments[0].args
    (2, ('tea',))
    """

    forever: ClassVar[_Forever] = _FOREVER
    """The step that never ends by itself."""

    def __init__(
        self,
        *steps: Step,
        strict: bool = False,
        clock: Clock | None = None,
        cooperative: bool = False,
        patience: Duration = 10.0,
    ) -> None:
        if not steps:
            raise ConfigurationError("a script takes at least one step; for calls that return nothing that is None")
        self._steps = steps
        self._strict = flag("strict", strict)
        self._clock = clock
        self._cooperative = flag("cooperative", cooperative)
        self._patience = seconds(patience, "patience")
        self._changed = threading.Condition()
        self._held = _Held()
        self.calls = 0
        """Calls that came in."""
        self.inside = 0
        """Calls that are inside now."""
        self.most_inside = 0
        """The most that were inside at the same time."""
        self.cancelled = 0
        """Calls that were cancelled inside."""
        self.arguments: deque[Arguments] = deque(maxlen=_ARGUMENTS_MAX)
        """What the calls were given, oldest first."""

    @staticmethod
    def after(delay: Duration, step: Step) -> Step:
        """Return a step that takes so long before it does what `step` says.

        >>> Scripted(Scripted.after("300ms", "tea"), clock=None).calls
        0
        """
        return _After(seconds(delay, "delay", zero=True), step)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Be called, by a synchronous caller."""
        with self._being_inside(Arguments(args, kwargs)) as first:
            step = first
            for _ in range(_NESTED_MAX):
                if isinstance(step, _After):
                    self._pass_time(step.delay)
                    step = step.step
                elif step is _FOREVER:
                    step = self._stay()
                elif _is_function(step):
                    step = step(*args, **kwargs)
                else:
                    return _play(step)
        raise ScriptError(f"a step led to {_NESTED_MAX} others, and still to no answer")

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Be called, by an asynchronous caller."""
        with self._being_inside(Arguments(args, kwargs)) as first:
            step = first
            for _ in range(_NESTED_MAX):
                if isinstance(step, _After):
                    await (asyncio.sleep if self._clock is None else self._clock.sleep_async)(step.delay)
                    step = step.step
                elif step is _FOREVER:
                    held = self._held
                    await held.wait_async()
                    step = held.step
                elif _is_function(step):
                    step = await step(*args, **kwargs) if is_async(step) else step(*args, **kwargs)
                else:
                    return _play(step)
        raise ScriptError(f"a step led to {_NESTED_MAX} others, and still to no answer")

    def release(self, step: Step = None) -> None:
        """End the calls that stay inside for ever, each with this step; later calls stay again."""
        held, self._held = self._held, _Held()
        held.release(step)

    def wait_until_inside(self, calls: int = 1) -> None:
        """Block the thread until so many calls are inside at the same time.

        Raises:
            ScriptError: There were fewer for all of `patience`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.inside >= calls, self._patience):
                raise ScriptError(f"{self.inside} calls are inside after {self._patience:g} s, not {calls}")

    @contextlib.contextmanager
    def _being_inside(self, arguments: Arguments) -> Iterator[Step]:
        with self._changed:
            number = self.calls
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.arguments.append(arguments)
            self._changed.notify_all()
        try:
            if self._strict and number >= len(self._steps):
                raise ScriptError(f"call {number + 1} came, and the script ends after {len(self._steps)}")
            yield self._steps[min(number, len(self._steps) - 1)]
        except asyncio.CancelledError:
            with self._changed:
                self.cancelled += 1
            raise
        finally:
            with self._changed:
                self.inside -= 1
                self._changed.notify_all()

    def _pass_time(self, delay: float) -> None:
        if self._clock is None:
            raise ScriptError("a step takes its time in a synchronous call, so the script needs a clock=")
        left = remaining() if self._cooperative else None
        self._clock.sleep(delay if left is None else max(0.0, min(delay, left)))
        if left is not None:
            check_deadline()

    def _stay(self) -> Step:
        """Stay inside a synchronous call, and return the step with which it goes on."""
        left = remaining() if self._cooperative else None
        if left is not None:
            self._pass_time(left)
        held = self._held
        if not held.wait(self._patience):
            raise ScriptError(f"a synchronous call stayed inside for {self._patience:g} s; let it go with release()")
        return held.step


def _is_function(step: Step) -> bool:
    return callable(step) and not (isinstance(step, type) and issubclass(step, BaseException))


def _play(step: Step) -> Any:
    if isinstance(step, BaseException) or (isinstance(step, type) and issubclass(step, BaseException)):
        raise step
    return step
