"""Pipes through which the kernel moves bytes from one socket to another without showing them to us.

They are lent to a lane that carries much, and come back empty. So ten thousand idle connections need none, and the
number of files is bounded; who gets none copies.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

__all__ = ["CAN_SPLICE", "FLAGS", "PIPE_SIZE", "Pipe", "Pipes"]

CAN_SPLICE = hasattr(os, "splice")
"""Whether this system and this Python can."""
FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK if CAN_SPLICE else 0
PIPE_SIZE = 1024 * 1024

_LENT_MAX = 256
_KEPT_MAX = 8


class Pipe:
    """A pipe, and how many bytes are in it."""

    __slots__ = ("held", "reader", "writer")

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        # The kernel grants every user only so much of large pipes; a small one will do.
        with suppress(OSError):
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)

    def empty(self) -> bytes:
        """Take out what is in it."""
        parts = []
        while self.held:
            parts.append(os.read(self.reader, self.held))
            self.held -= len(parts[-1])
        return b"".join(parts)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pipes of a loop."""

    def __init__(self) -> None:
        self._kept: list[Pipe] = []
        self._lent = 0

    def borrow(self) -> Pipe | None:
        """Lend a pipe, if one is to be had."""
        if self._lent >= _LENT_MAX:
            return None
        try:
            pipe = self._kept.pop() if self._kept else Pipe()
        except OSError:  # no file is left
            return None
        self._lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one that holds something is closed."""
        self._lent -= 1
        if pipe.held or len(self._kept) >= _KEPT_MAX:
            pipe.close()
        else:
            self._kept.append(pipe)

    def close(self) -> None:
        """Close the pipes that are kept."""
        while self._kept:
            self._kept.pop().close()
