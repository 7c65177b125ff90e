"""Pause above one mark, resume below another: a switch that does not flutter.

With a single mark, a level that stands at it turns the flow off and on with every item, and each turn is a message to
whoever sends. Between two marks there is room: the flow pauses once the level has risen to `high`, and goes on only
when it has fallen to `low`.

    running --- level >= high ---> paused
    paused  --- level <= low  ---> running

With marks for bytes as well, either reaching its high mark pauses, and both have to be low again.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Hysteresis", "Turned"]

Turned: TypeAlias = Literal["pause", "resume"] | None
"""What a change of the level means for whoever sends; None when it means nothing."""


class Hysteresis:
    """Says when a level that moves is a reason to pause, and when to go on.

    Nothing is locked here: the owner of the level calls it where it changes the level.

    Args:
        high: Items at which to pause.
        low: Items at which to go on; below `high`.
        high_bytes, low_bytes: The same for bytes; None when they don't count.

    Attributes:
        paused: Whether it is paused.

    >>> marks = Hysteresis(high=3, low=1)
    >>> [marks.update(level) for level in (1, 2, 3, 4, 2, 3, 1, 0)]
    [None, None, 'pause', None, None, None, 'resume', None]
    """

    __slots__ = ("high", "high_bytes", "low", "low_bytes", "paused")

    def __init__(self, *, high: int, low: int, high_bytes: int | None = None, low_bytes: int | None = None) -> None:
        self.high = high
        self.low = low
        self.high_bytes = high_bytes
        self.low_bytes = low_bytes
        self.paused = False

    def update(self, items: int, size: int = 0) -> Turned:
        """Take the level, in items and in bytes, and say what it means.

        Args:
            items: Items that stand waiting.
            size: Their bytes.
        """
        if self.paused:
            if items > self.low or (self.low_bytes is not None and size > self.low_bytes):
                return None
            self.paused = False
            return "resume"
        if items < self.high and (self.high_bytes is None or size < self.high_bytes):
            return None
        self.paused = True
        return "pause"
