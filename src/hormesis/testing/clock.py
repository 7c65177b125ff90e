"""A clock that moves when it is told to, and when somebody sleeps on it.

Nobody waits: a sleep moves the clock by its length and returns. That is right for one caller at a time, in either
colour. Callers that sleep side by side would each move it; they want `hormesis.testing.run_virtual`.

The clock moves what a policy decides by its own clock: back-offs, open circuits, windows and deadlines. What waits for
something else, a queue or a function that is timed, waits in real time.
"""

from __future__ import annotations

import asyncio
import threading

from hormesis.units import Duration, seconds

__all__ = ["ManualClock"]


class ManualClock:
    """A clock for `Policy(clock=...)` that never waits.

    Args:
        start: What it shows at first.

    >>> from hormesis import Policy, Retry
    >>> clock = ManualClock()
    >>> policy = Policy(Retry(on=KeyError, delay="2s", jitter="none"), clock=clock)
    >>> answers = iter([KeyError("not yet"), "tea"])
    >>> def ask() -> str:
    ...     answer = next(answers)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> policy.call(ask), clock.now()
    ('tea', 2.0)
    """

    __slots__ = ("_lock", "_now")

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds that the clock shows."""
        return self._now

    def advance(self, duration: Duration) -> None:
        """Move the clock on.

        Raises:
            ConfigurationError: The duration is negative, or no duration: a monotonic clock does not go back.
        """
        step = seconds(duration, zero=True)
        with self._lock:
            self._now += step

    def sleep(self, seconds: float) -> None:
        """Move the clock on, at once."""
        self.advance(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Let other tasks run once, as any sleep does, and move the clock on."""
        await asyncio.sleep(0)
        self.advance(seconds)
