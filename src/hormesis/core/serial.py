"""One at a time, whoever comes: the work of all is done by whoever is at it already.

Two threads that both have something to tell must not tell it at once, nor in the wrong order; and who tells something
to a listener that at once causes something else to be told must not go ever deeper into the stack. Both come to the
same: whoever finds somebody at work leaves word that there is more, and goes on its way.

    if serial.enter():
        while True:
            ...  # do all that there is to do now
            if serial.leave():
                break

No lock is held while the work is done.

Source: the work-in-progress counter of RxJava's drain loops (David Karnok, "Operator concurrency primitives", 2015).
"""

from __future__ import annotations

from hormesis.core.admission import Lock

__all__ = ["Serial"]


class Serial:
    """Lets one worker in, which goes on until there is no more to do.

    Args:
        lock: Guards it.

    >>> from hormesis.core.admission import NullLock
    >>> serial = Serial(NullLock())
    >>> serial.enter(), serial.enter(), serial.leave(), serial.leave()
    (True, False, False, True)
    """

    __slots__ = ("_again", "_busy", "_lock")

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._busy = False
        self._again = False

    def enter(self) -> bool:
        """Whether the work is the caller's; otherwise, whoever is at it will do it as well."""
        with self._lock:
            if self._busy:
                self._again = True
                return False
            self._busy = True
            return True

    def leave(self) -> bool:
        """Whether the work is done; otherwise there is more, and the caller is still at it."""
        with self._lock:
            if self._again:
                self._again = False
                return False
            self._busy = False
            return True

    def abandon(self) -> None:
        """Let somebody else in, after the work has failed."""
        with self._lock:
            self._busy = self._again = False
