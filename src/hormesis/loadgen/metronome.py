"""How late a generator is, asked by the clock alone: for loads whose own requests can't tell.

In a closed loop the next request is due when the answer to the last one has been read. A generator that stands still,
or has too much to do, reads it late, and sends the next one in time: hardly any request is ever late, though all of the
measured latencies are the generator's. That is coordinated omission on the other side of the wire. So the lag is taken
at moments that are fixed beforehand, and depend on no answer.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from hormesis.loadgen.alarm import Alarm

__all__ = ["Metronome"]

_EVERY = 0.01
"""Seconds between two moments."""

_BEATS_MAX = 100_000
"""Moments of one run; a longer run has them further apart."""


class Metronome:
    """Tells at regular moments how long after them it is called.

    All moments that it missed count, each with its own lateness, as the requests of an open loop do: a share of the
    moments is a share of the time.

    Args:
        start_at: When it begins, on the monotonic clock.
        until: When it ends.
        note: Takes the seconds that each moment was noticed late.
    """

    __slots__ = ("_alarm", "_every", "_next", "_note", "_until")

    def __init__(self, start_at: float, until: float, note: Callable[[float], None]) -> None:
        self._every = max(_EVERY, (until - start_at) / _BEATS_MAX)
        self._next = start_at
        self._until = until
        self._note = note
        self._alarm = Alarm(self._beat)

    def begin(self) -> None:
        """Beat from now on."""
        self._beat()

    def stop(self) -> None:
        """Beat no more; what was missed up to now counts."""
        self._catch_up()
        self._until = self._next
        self._alarm.close()

    def _beat(self) -> None:
        self._catch_up()
        if self._next < self._until:
            self._alarm.set(self._next)

    def _catch_up(self) -> None:
        now = monotonic()
        while self._next < min(now, self._until):
            self._note(now - self._next)
            self._next += self._every
