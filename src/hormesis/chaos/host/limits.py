"""Resource limits of a running process, lowered to what it uses now and a little more (prlimit)."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, MutableSequence
from pathlib import Path

from hormesis.chaos import marks
from hormesis.chaos.births import lower
from hormesis.chaos.host.act import FaultFailed, InheritedAct
from hormesis.chaos.undo import Limit

__all__ = ["Lowered"]


class Lowered(InheritedAct):
    """Each process that bears a mark may use only so much more of something than it does now.

    Only the soft limit is lowered, so it takes no privilege to raise it again; a process that raises its own is not
    kept from it. What they start gets the limit of their parent, and what is started in their place the highest of
    their limits: to need less than they did would be no fault of its own.

    Args:
        where: Whose, in words.
        mark: The mark of the process and all it started.
        kind: `"files"` (RLIMIT_NOFILE) or `"memory"` (RLIMIT_AS).
        left: How many more descriptors, or bytes.
        births: What those are born with that are started in their place.
    """

    def __init__(self, where: str, mark: int, kind: str, left: int, births: MutableSequence[str] | None = None) -> None:
        super().__init__(births)
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
        """Lower the limit of each of them, and of those to come."""
        wanted = self._wanted()
        if not wanted:
            raise FaultFailed(self.what, "the process does not run")
        highest = max(wanted.values())
        self.hand_on(lower(self._limit, highest))
        for pid in marks.find(self.mark):  # one may have been started in the meantime
            try:
                self._lower(pid, wanted.get(pid, highest))
            except ProcessLookupError:
                continue
            except (OSError, ValueError) as error:
                raise FaultFailed(self.what, str(error)) from error

    def _wanted(self) -> dict[int, int]:
        """Return the limit for each of them."""
        found = {}
        for pid in marks.find(self.mark):
            try:
                found[pid] = self._ceiling(pid, self.left)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except (OSError, ValueError) as error:
                raise FaultFailed(self.what, str(error)) from error
        return found

    def _lower(self, pid: int, wanted: int) -> None:
        """Lower the limit of a process; one that is lower already stays."""
        soft, hard = resource.prlimit(pid, self._limit)
        if soft == resource.RLIM_INFINITY or wanted < soft:
            resource.prlimit(pid, self._limit, (wanted, hard))


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
