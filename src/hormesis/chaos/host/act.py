"""What all faults have in common that need the machine's help, and what they share to get it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Coroutine, MutableSequence, Sequence
from typing import Any, TypeVar

from hormesis.chaos.undo import Undo
from hormesis.errors import HormesisError

__all__ = ["Act", "BlockingAct", "FaultFailed", "InheritedAct", "find_program", "needs", "run", "to_the_end"]

T = TypeVar("T")

_WITHIN = 5.0
"""Seconds that one command may take."""
_WHERE = os.pathsep.join(("/usr/sbin", "/sbin", "/usr/bin", "/bin"))
"""Where administrators' programs are, which is not on everybody's PATH."""


class FaultFailed(HormesisError):
    """A fault could not be put into force.

    Args:
        what: The fault and its place.
        reason: What went wrong.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.what} can't be put into force: {self.reason}"


class Act(ABC):
    """A fault at its place, ready to act. `what` says both in words."""

    what: str

    def possible(self) -> str | None:
        """Return why this machine can't do it, and what would change that; None if it can."""
        return None

    @abstractmethod
    def undo(self) -> Sequence[Undo]:
        """Return how to take it back; asked before `begin`, and right whether or how far that has come."""

    @abstractmethod
    async def begin(self) -> None:
        """Put it into force.

        Raises:
            FaultFailed: It can't be.
        """

    async def end(self) -> None:  # noqa: B027  # most keep nothing
        """Let go of what was kept of it in this process, before its undo."""


class BlockingAct(Act):
    """An act that blocks, and is therefore done off the loop, to its end even if that is cancelled."""

    @abstractmethod
    def apply(self) -> None:
        """Put it into force; this may block for seconds.

        Raises:
            FaultFailed: The machine refused.
        """

    def release(self) -> None:  # most keep nothing
        """Let go of what was kept of it in this process, before its undo; this may block for a moment."""

    async def begin(self) -> None:
        """Do what `apply` does."""
        await to_the_end(asyncio.to_thread(self.apply))

    async def end(self) -> None:
        """Do what `release` does."""
        await to_the_end(asyncio.to_thread(self.release))


class InheritedAct(BlockingAct):
    """A fault of the processes that run, with which those that take their place are born.

    Args:
        births: What each new process is born with, such as `Process.births`; None: none comes.
    """

    def __init__(self, births: MutableSequence[str] | None) -> None:
        self._births: MutableSequence[str] = [] if births is None else births
        self._birth: str | None = None

    def hand_on(self, birth: str, *, first: bool = False) -> None:
        """Let new processes be born so, until `end`; first, if it needs what another birth may take, such as a file."""
        self._birth = birth
        self._births.insert(0 if first else len(self._births), birth)

    def release(self) -> None:
        """Let those to come be born without it."""
        if self._birth is not None:
            self._births.remove(self._birth)
            self._birth = None

    async def end(self) -> None:
        """Do what `release` does, on the loop: nobody is being born meanwhile, whom the undo would miss."""
        self.release()


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for something that must not stop half way; cancelled, it is waited for first.

    Whatever is handed in here is bounded in time.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # raised below, by the task itself
            break
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # looked at, so that nobody misses it: the cancellation goes first
        raise cancelled
    return task.result()


def find_program(name: str) -> str | None:
    """Return the path of an administrator's program; None if it isn't installed."""
    return shutil.which(name) or shutil.which(name, path=_WHERE)


def needs(*programs: str, root: bool = True, what: str) -> str | None:
    """Return why something can't be done: it is not Linux, a program is missing, or this is not root; None if it can.

    Args:
        programs: What must be installed.
        root: Whether it takes root.
        what: What can't be done, for the message.
    """
    if sys.platform != "linux":
        return f"{what} works on Linux only"
    for program in programs:
        if find_program(program) is None:
            return f"{what} needs the program {program!r}, which is not installed"
    if root and os.geteuid() != 0:
        return f"{what} needs root, and this is user {os.geteuid()}"
    return None


def run(what: str, *argv: str) -> str:
    """Run a command to the end, and return what it wrote.

    Raises:
        FaultFailed: It could not be run, did not end in time, or ended with another status than 0.
    """
    program = find_program(argv[0]) or argv[0]
    try:
        done = subprocess.run(  # noqa: S603  # no shell, and each argument is ours
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            errors="replace",
            text=True,
            timeout=_WITHIN,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FaultFailed(what, str(error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        raise FaultFailed(what, f"`{' '.join(argv)}`: {said}")
    return done.stdout
