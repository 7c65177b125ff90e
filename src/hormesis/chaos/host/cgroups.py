"""A CPU quota for a process and all it starts (control groups, version 1, or 2 where the controller is delegated)."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, MutableSequence, Sequence
from contextlib import suppress
from pathlib import Path

from hormesis.chaos.births import join
from hormesis.chaos.host.act import FaultFailed, InheritedAct
from hormesis.chaos.undo import Cgroup

__all__ = ["Quota"]

_PERIOD = 100_000
"""Microseconds in which the quota is given out: the kernel's own default."""
_ROUNDS = 10
"""How often new children are looked for while the group is filled."""


class Quota(InheritedAct):
    """A process group gets no more than so much of the processors; what is started in its place is in it from birth.

    Args:
        where: Whose, in words.
        members: Returns the numbers of its processes.
        processors: How much: 0.2 is a fifth of one.
        mounts: The list of mounted file systems.
        births: What those are born with that are started in their place.
    """

    def __init__(
        self,
        where: str,
        members: Callable[[], Sequence[int]],
        processors: float,
        mounts: str | os.PathLike[str] = "/proc/mounts",
        births: MutableSequence[str] | None = None,
    ) -> None:
        super().__init__(births)
        self.what = f"CPU quota {processors:.3g} on {where}"
        self.members = members
        self.processors = processors
        self._parent, self._version = _hierarchy(mounts)
        self._name = f"hormesis-{secrets.token_hex(6)}"

    def possible(self) -> str | None:
        """Return why this machine can't do it; None if it can."""
        if sys.platform != "linux" or self._parent is None:
            return "a CPU quota needs Linux with the cpu controller of control groups, which is not mounted here"
        if not os.access(self._parent, os.W_OK):
            return f"a CPU quota needs the right to make control groups in {self._parent}: run as root"
        return None

    def undo(self) -> list[Cgroup]:
        """Return how to take it back: the processes return to where they can run freely."""
        return [Cgroup(str(self._group))]

    def apply(self) -> None:
        """Make the group, set its quota, and move the processes into it, with what they start meanwhile."""
        group = self._group
        quota = round(self.processors * _PERIOD)
        try:
            group.mkdir()
            if self._version == 1:
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {_PERIOD}")
            self.hand_on(join(group / "cgroup.procs"), first=True)
            moved: set[int] = set()
            for _ in range(_ROUNDS):
                fresh = set(self.members()) - moved
                if not fresh:
                    break
                for pid in fresh:
                    with suppress(ProcessLookupError):
                        (group / "cgroup.procs").write_text(str(pid))
                moved |= fresh
        except OSError as error:
            raise FaultFailed(self.what, str(error)) from error

    @property
    def _group(self) -> Path:
        return (self._parent or Path("/sys/fs/cgroup")) / self._name


def _hierarchy(mounts: str | os.PathLike[str]) -> tuple[Path | None, int]:
    """Return where groups with a CPU quota can be made, and the version of that hierarchy."""
    with suppress(OSError):
        for line in Path(mounts).read_text(encoding="utf-8").splitlines():
            _, path, kind, options = line.split()[:4]
            if kind == "cgroup" and "cpu" in options.split(","):
                return Path(path), 1
            if kind == "cgroup2":
                controllers = Path(path) / "cgroup.subtree_control"
                with suppress(OSError):
                    if "cpu" in controllers.read_text(encoding="ascii").split():
                        return Path(path), 2
    return None, 0
