"""Faults inside of a process, as a game day doses them: at the places where the process has a `Chaos` part.

A process of which a stress wants that is started with two variables, a folder and a token; it, and each worker of it,
then listens for whoever has both (`hormesis.chaos.inside`). A dose has a lease that the process itself keeps, so it
ends even if nobody is left to take it back.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hormesis.chaos.faults import Inject
from hormesis.chaos.host import BlockingAct, FaultFailed
from hormesis.chaos.inside import CONTROL_VARIABLE, TOKEN_VARIABLE, Unreachable, dose, new_token, undo
from hormesis.chaos.undo import Undo

__all__ = ["INSIDE_MAX", "Injected", "Inside"]

_LEASE_MAX = 600.0
"""Seconds that a process keeps a dose at most."""
INSIDE_MAX = _LEASE_MAX - 10
"""Seconds that a dose may last: its lease is a little longer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inside:
    """The door to the inside of a process.

    Attributes:
        folder: Where its processes say on which ports they listen.
        token: What one has to have for it.
        seed: Which calls are picked, where a fault is for some of them.
    """

    folder: Path
    token: str = dataclasses.field(repr=False)
    seed: int = 0

    @classmethod
    def made(cls, folder: Path, seed: int) -> Inside:
        """Make one, for a process that is to be started with its `environment`."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder.resolve(), new_token(), seed)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of the process."""
        return {CONTROL_VARIABLE: str(self.folder), TOKEN_VARIABLE: self.token}

    def remove(self) -> None:
        """Remove the folder, when the process has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Injected(BlockingAct):
    """A fault inside of a process.

    Args:
        what: It and its place, in words.
        inside: The door.
        fault: The fault.
        within: Seconds after which the process ends it by itself; None: as late as it can.
    """

    def __init__(self, what: str, inside: Inside, fault: Inject, within: float | None) -> None:
        self.what = what
        self._inside = inside
        self._fault = fault
        self._lease = min(within or _LEASE_MAX, _LEASE_MAX)

    def undo(self) -> Sequence[Undo]:
        """Return nothing: the process keeps the lease itself, and ends with the runner."""
        return ()

    def apply(self) -> None:
        """Dose every process behind the door.

        Raises:
            FaultFailed: None took it.
        """
        door, fault = self._inside, self._fault
        try:
            dose(door.folder, door.token, fault.injection, at=fault.at, for_=self._lease, seed=door.seed)
        except Unreachable as error:
            missing = "a policy or service of it takes a place for faults, `chaos = []`"
            raise FaultFailed(self.what, f"{error}; {missing}") from error

    def release(self) -> None:
        """Take back all doses of the process.

        Raises:
            Unreachable: It does not answer; then they end by themselves.
        """
        undo(self._inside.folder, self._inside.token)
