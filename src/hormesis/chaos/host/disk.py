"""A small disk of its own (tmpfs) for the files of the system under test, and the fault that fills it.

The disk is mounted before the system starts, so that what it writes is on it; to fill it hurts nobody else.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hormesis.chaos.host.act import BlockingAct, FaultFailed, find_program, needs, run
from hormesis.chaos.undo import Remove, Run

__all__ = ["Disk", "Fill"]

_FILLER = ".hormesis-full"
_CHUNKS = (1 << 20, 1 << 12)
"""It is filled with large pieces while they fit, then with small ones, down to the last page."""


class Disk(BlockingAct):
    """A disk of its own at a folder, which must be empty: what is in it would be hidden.

    Args:
        path: The folder.
        size: How many bytes fit on it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.what = f"a disk of its own at {path}"
        self.path = path
        self.size = size

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return needs("mount", "umount", what="a disk of its own")

    def undo(self) -> list[Run]:
        """Return how to take it back; it goes at once, and its files with it when the last who has them open ends."""
        umount = find_program("umount") or "umount"
        return [Run([umount, "-l", str(self.path)], gone=("not mounted", "no mount point", "not found"))]

    def apply(self) -> None:
        """Mount it."""
        if any(self.path.iterdir()):
            raise FaultFailed(self.what, "the folder is not empty")
        options = f"size={self.size},mode=0755,nosuid,nodev"
        run(self.what, "mount", "-t", "tmpfs", "-o", options, "hormesis", str(self.path))


class Fill(BlockingAct):
    """The disk has no room left.

    Args:
        disk: Which.
    """

    def __init__(self, disk: Disk) -> None:
        self.what = f"the disk at {disk.path} is full"
        self.disk = disk

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        return self.disk.possible()

    def undo(self) -> list[Remove]:
        """Return how to take it back."""
        return [Remove(str(self.disk.path / _FILLER))]

    def apply(self) -> None:
        """Fill it; never any other than the disk that was made for it."""
        if not os.path.ismount(self.disk.path):
            raise FaultFailed(self.what, "it is no disk of its own")
        file = os.open(self.disk.path / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            end = 0
            for chunk in _CHUNKS:
                try:
                    while end <= self.disk.size:
                        os.posix_fallocate(file, end, chunk)
                        end += chunk
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise FaultFailed(self.what, str(error)) from error
        finally:
            os.close(file)
