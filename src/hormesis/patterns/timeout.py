"""Pattern 3, first half: how long an attempt may take, and how long the whole call.

`Timeout` is per attempt, `Deadline` for everything. Both travel: what is called further in sees the nearer of the two
through `hormesis.remaining()`.

Asynchronous functions are cancelled when their time is over. A thread can't be interrupted, and nothing here pretends
that it can: on a synchronous function a `Timeout` needs either `threads`, so that the caller at least stops waiting
while the thread goes on (and keeps its permits), or `cooperative=True`, when the function promises to heed
`hormesis.remaining()` itself. A `Deadline` bounds what we do ourselves (waits, back-offs, further attempts) in
either colour, and cuts an attempt short wherever a timeout could.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import flag, normalise, whole
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Deadline", "Timeout"]


@dataclasses.dataclass(frozen=True, slots=True)
class Timeout(Settings):
    """Bound each attempt in time; raises `TimedOut`.

    Args:
        limit: How long an attempt may take, waiting for admission not included.
        threads: For synchronous functions: run them in a pool of so many threads, and stop waiting when time is over.
            A thread that is left behind keeps its bulkhead permit until it really ends. When all threads are busy,
            attempts wait for one within their time.
        cooperative: For synchronous functions: run them in the calling thread, and trust them to heed
            `hormesis.remaining()`.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Timeout("500ms").limit
    0.5
    """

    slot: ClassVar[Slot] = Slot.TIMEOUT

    limit: Duration
    _: dataclasses.KW_ONLY
    threads: int | None = None
    cooperative: bool = False

    def __post_init__(self) -> None:
        normalise(self, limit=seconds(self.limit, "limit"))
        flag("cooperative", self.cooperative)
        if self.threads is not None:
            whole("threads", self.threads, 1, 10_000)
            if self.cooperative:
                raise ConfigurationError("cooperative is true and threads is set; a timeout takes one of the two")

    def describe(self) -> str:
        """The settings in words."""
        how = f", synchronous functions in {self.threads} threads" if self.threads else ""
        how = ", heeded by the function itself when it is synchronous" if self.cooperative else how
        return f"{format_seconds(seconds(self.limit))} an attempt{how}"


@dataclasses.dataclass(frozen=True, slots=True)
class Deadline(Settings):
    """Bound the whole call in time: waits, attempts, back-offs and the fallback; raises `DeadlineExceeded`.

    A deadline that is already travelling with the call and is nearer wins.

    Args:
        limit: The time for everything.
        reserve: What is kept of it for the fallback: attempts end that much earlier. None keeps a tenth when the policy
            has a fallback function, and nothing when it has none.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Deadline("2s").limit
    2.0
    """

    slot: ClassVar[Slot] = Slot.DEADLINE

    limit: Duration
    _: dataclasses.KW_ONLY
    reserve: Duration | None = None

    def __post_init__(self) -> None:
        limit = seconds(self.limit, "limit")
        reserve = None if self.reserve is None else seconds(self.reserve, "reserve", zero=True)
        if reserve is not None and reserve >= limit:
            raise ConfigurationError.bad_value("reserve", self.reserve, f"less than the limit of {self.limit}")
        normalise(self, limit=limit, reserve=reserve)

    def describe(self) -> str:
        """The settings in words."""
        kept = f", {format_seconds(seconds(self.reserve))} of them kept for the answer" if self.reserve else ""
        return f"{format_seconds(seconds(self.limit))} for the whole call{kept}"
