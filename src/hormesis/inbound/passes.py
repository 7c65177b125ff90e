"""How often a request waits for its event loop.

The lag of a loop is what one wait costs. A request waits again each time that it goes on after it has waited for
something else, and before all that when it comes in, for not quite as long. So a service that asks a database four
times in a row waits nearly five times as long as the lag says, while there is a queue. A shedder that took the lag
alone for the delay would let in several times too much. But a request that has stood behind one long piece of work does
not meet it a second time: five times the lag of a single one would be far too much. So the delay of a request is the
sum of the lags that it has met in its time.

So the suspensions of some requests are counted, by stepping through their coroutines. That is done in `Counted`, which
hands on whatever the coroutine waits for, and whatever comes back. Tasks that an application starts for a request wait
beside each other, and are not counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Generator
from typing import Any

__all__ = ["Counted", "Passes"]

_COMING_IN = 0.8
"""What the way in costs, in waits."""

_FIRST = 50
"""Requests that are all counted, to begin with."""

_EACH = 8
"""After that one in so many is, since counting costs a microsecond or two."""

_WEIGHT = 0.05
"""The weight of the latest in the mean."""

_SUSPENSIONS_MAX = 100
"""What a request counts for at most; one that goes on and on waits for something else than an answer."""


class Counted:
    """An awaitable that counts its own suspensions.

    Args:
        steps: What to await.

    >>> import asyncio
    >>> counted = Counted(asyncio.sleep(0, "tea"))
    >>> asyncio.run(counted.result()), counted.suspensions
    ('tea', 1)
    """

    __slots__ = ("_steps", "suspensions")

    def __init__(self, steps: Awaitable[Any]) -> None:
        self._steps = steps
        self.suspensions = 0

    async def result(self) -> Any:
        """Await it."""
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        # What is awaited with yields can be thrown into and closed, whatever its type says.
        steps: Any = self._steps.__await__()
        try:
            waits_for = next(steps)
            while True:
                self.suspensions += 1
                try:
                    came = yield waits_for
                except GeneratorExit:
                    steps.close()
                    raise
                except BaseException as error:  # a cancellation is thrown in here
                    waits_for = steps.throw(error)
                else:
                    waits_for = next(steps) if came is None else steps.send(came)
        except StopIteration as done:
            return done.value


class Passes:
    """How long a request waits for the loop in all.

    Args:
        every: Seconds between two samples of the loop's lag.

    >>> passes = Passes(every=0.01)
    >>> for _ in range(100): passes.counted(4, 0.03)
    >>> round(passes.mean, 1)
    4.8
    >>> for _ in range(10): delay = passes.delay(0.05)   # a queue is met at each wait
    >>> round(delay, 2)
    0.24
    """

    __slots__ = ("_begun", "_every", "_lags", "_life", "_seen", "mean")

    def __init__(self, *, every: float) -> None:
        self._every = every
        self._begun = 0
        self._seen = 0
        self._life = every
        self._lags: deque[float] = deque(maxlen=_SUSPENSIONS_MAX + 1)
        self.mean = _COMING_IN + 1
        """The mean number of times that a request waits for the loop.

        Until more is known: when it comes in, and when it has waited for something."""

    def wanted(self) -> bool:
        """Whether to count the request that begins now."""
        self._begun += 1
        return self._begun <= _FIRST or self._begun % _EACH == 0

    def counted(self, suspensions: int, seconds: float) -> None:
        """A request has ended that was suspended so often, and took so long."""
        self._seen += 1
        weight = max(_WEIGHT, 1 / self._seen)
        self.mean += weight * (_COMING_IN + min(suspensions, _SUSPENSIONS_MAX) - self.mean)
        self._life += weight * (seconds - self._life)

    def delay(self, lag: float, times: int = 1) -> float:
        """Return the seconds that a request has waited whose last wait ends with this sample of the lag.

        Going back from it, a request has waited once for each lag that is long, and between two that are short as often
        as its pace lets it. One whose waits lie further apart than the samples has met others than these; then the
        latest stands for them.

        Args:
            lag: The loop's lag, in seconds.
            times: For how many samples it stands. The others would have come while it waited, and met something between
                the lag before and this one: as much in a queue, behind a single piece of work half of it in the mean.
        """
        before = self._lags[0] if self._lags else 0.0
        self._lags.appendleft(lag)
        pace = self._life / self.mean
        delay, left = 0.0, self.mean
        missed = (times - 1) / (2 * times) * (lag - before)
        for each in self._lags:
            waits = min(left, max(1.0, pace / self._every, (self._every + each) / (pace + each)))
            delay += waits * (each - missed)
            missed = 0.0
            left -= waits
            if left <= 0:
                break
        return delay
