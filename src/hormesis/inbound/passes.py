"""How often a request waits for its event loop.

The lag of a loop is what one wait costs. A request waits again each time that it goes on after it has waited for
something else, and before all that when it comes in, for not quite as long. So a service that asks a database four
times in a row waits nearly five times as long as the lag says. A shedder that took the lag alone for the delay would
let in several times too much.

So the suspensions of some requests are counted, by stepping through their coroutines. That is done in `Counted`, which
hands on whatever the coroutine waits for, and whatever comes back. Tasks that an application starts for a request wait
beside each other, and are not counted.
"""

from __future__ import annotations

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
    """The mean number of times that a request waits for the loop.

    >>> passes = Passes()
    >>> passes.mean
    1.8
    >>> for _ in range(100): passes.counted(4)
    >>> round(passes.mean, 1)
    4.8
    """

    __slots__ = ("_begun", "_seen", "mean")

    def __init__(self) -> None:
        self._begun = 0
        self._seen = 0
        self.mean = _COMING_IN + 1
        """When it comes in, and when it has waited for something; until more is known."""

    def wanted(self) -> bool:
        """Whether to count the request that begins now."""
        self._begun += 1
        return self._begun <= _FIRST or self._begun % _EACH == 0

    def counted(self, suspensions: int) -> None:
        """A request has ended that was suspended so often."""
        self._seen += 1
        weight = max(_WEIGHT, 1 / self._seen)
        self.mean += weight * (_COMING_IN + min(suspensions, _SUSPENSIONS_MAX) - self.mean)
