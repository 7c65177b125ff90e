"""Resource limits of a running process, lowered to what it uses now and a little more (prlimit)."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from hormesis.chaos import marks
from hormesis.chaos.host.act import BlockingAct, FaultFailed
from hormesis.chaos.undo import Limit

__all__ = ["Lowered"]


class Lowered(BlockingAct):
    """Each process that bears a mark may use only so much more of something than it does now.

    Only the soft limit is lowered, so it takes no privilege to raise it again; a process that raises its own is not
    kept from it. What they start gets the limit of their parent.

    Args:
        where: Whose, in words.
        mark: The mark of the process and all it started.
        kind: `"files"` (RLIMIT_NOFILE) or `"memory"` (RLIMIT_AS).
        left: How many more descriptors, or bytes.
    """

    def __init__(self, where: str, mark: int, kind: str, left: int) -> None:
        self._limit, self._ceiling, unit = _KINDS[kind]
        self.what = f"{left:,} more {unit} on {where}"
        self.mark = mark
        self.left = left

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return None if sys.platform == "linux" else "limits of a running process can be changed on Linux only"

    def undo(self) -> list[Limit]:
        """Return how to take it back: the limit that the first of them has now."""
        for pid in marks.find(self.mark):
            try:
                soft, _ = resource.prlimit(pid, self._limit)
            except OSError:
                continue
            return [Limit(self.mark, self._limit, soft)]
        return []

    def apply(self) -> None:
        """Lower the limit of each of them."""
        found = marks.find(self.mark)
        if not found:
            raise FaultFailed(self.what, "the process does not run")
        for pid in found:
            try:
                soft, hard = resource.prlimit(pid, self._limit)
                wanted = self._ceiling(pid, self.left)
                if soft == resource.RLIM_INFINITY or wanted < soft:
                    resource.prlimit(pid, self._limit, (wanted, hard))
            except ProcessLookupError:
                continue
            except (OSError, ValueError) as error:
                raise FaultFailed(self.what, str(error)) from error


def _files(pid: int, left: int) -> int:
    """Return the limit that leaves so many: it bounds numbers of descriptors, and the lowest free one comes first."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    limit = 0
    while left > 0 or limit in taken:
        left -= limit not in taken
        limit += 1
    return limit


def _memory(pid: int, left: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE") + left


_KINDS: dict[str, tuple[int, Callable[[int, int], int], str]] = {
    "files": (resource.RLIMIT_NOFILE, _files, "file descriptors"),
    "memory": (resource.RLIMIT_AS, _memory, "bytes of memory"),
}
