"""A timer that is right to some microseconds, where the loop's own are right to a millisecond.

Event loops round their timers to milliseconds, since that is what `epoll_wait` takes. A generator on such a timer sends
late by half a millisecond on average, and latencies from the intended time contain that; or it asks again and again,
and takes a core away from the system that it measures. Linux can have a file descriptor become readable at a moment
(`timerfd`, exact to the kernel's high-resolution timers), which every loop can wait for. Elsewhere the loop's timer has
to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

__all__ = ["Alarm"]

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)
_ABSOLUTE = 1
_SOONEST = 1e-6
"""Seconds: a moment of zero would stop the timer."""


class Alarm:
    """Calls `ring` at a moment of the monotonic clock, never before it.

    There is one moment at a time; another one takes its place.
    """

    __slots__ = ("_fd", "_loop", "_ring", "_timer")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _create()
        if self._fd is not None:
            self._loop.add_reader(self._fd, self._readable)

    def set(self, moment: float) -> None:
        """Ring at a moment; one that has passed is now."""
        if self._fd is not None:
            _settime(self._fd, max(moment, _SOONEST))
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, moment - time.monotonic()), self._ring)

    def close(self) -> None:
        """Never ring again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _readable(self) -> None:
        try:
            if self._fd is not None:
                os.read(self._fd, 8)
        except BlockingIOError:  # it was set anew in the meantime
            return
        self._ring()


if sys.version_info >= (3, 13) and hasattr(os, "timerfd_create"):

    def _create() -> int | None:
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=_NONBLOCK_CLOEXEC)

    def _settime(fd: int, moment: float) -> None:
        os.timerfd_settime(fd, flags=_ABSOLUTE, initial=moment)

elif sys.platform == "linux":

    class _Spec(ctypes.Structure):
        """The C structure `itimerspec`: how often, and when first; seconds and nanoseconds."""

        _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "first_s", "first_ns")]

    _libc = ctypes.CDLL(None, use_errno=True)
    _spec = _Spec()
    _spec_address = ctypes.byref(_spec)

    def _create() -> int | None:
        fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        return fd if fd >= 0 else None

    def _settime(fd: int, moment: float) -> None:
        whole = int(moment)
        _spec.first_s, _spec.first_ns = whole, int((moment - whole) * 1e9)
        _libc.timerfd_settime(fd, _ABSOLUTE, _spec_address, None)

else:

    def _create() -> int | None:
        return None

    def _settime(fd: int, moment: float) -> None:
        raise NotImplementedError
