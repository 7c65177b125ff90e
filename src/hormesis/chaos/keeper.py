"""The watchdog against the end of the runner itself: whatever happens to it, nothing of the system stays behind.

A runner that dies by SIGKILL cleans nothing up, and what it leaves is worse than a stray server: a *paused* process
holds its port for ever and answers nobody. So the runner starts a keeper, a small process in a session of its own, and
tells it over a pipe which process groups exist (`+PGID`, `-PGID`, a line each). The kernel closes the pipe when the
runner ends, however it ends; the keeper then wakes and kills every group that is still listed.

A number in the list may meanwhile belong to somebody else. The kernel gives no new process a number that a group still
bears, so it is enough to compare the start time of the process that has the number now with that of the leader when it
was added: another start time means that our group is long gone. Where there is no `/proc`, the number is trusted.

What left its group by a session of its own is out of reach here, as it is for the runner.

This file is run by its path, not as a module, in an isolated interpreter without site packages: it starts in a few
hundredths of a second, and importing the package would take many. So it imports nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

__all__ = ["Keeper"]

_CLOSING = 5.0
"""Seconds the keeper has for its last work when the runner closes it."""


class Keeper:
    """The runner's side: starts the watchdog, and keeps its list.

    Process groups still watched when it is closed, or when the runner dies, are killed.

    The pipe is inherited by no program that the runner starts, but by a *fork* of it: a runner whose forked child
    outlives it is not missed until that child ends too.

    >>> with Keeper() as keeper:
    ...     child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    ...     keeper.watch(child.pid)
    >>> child.wait()
    -9
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the watchdog."""
        if self._process is not None:
            raise RuntimeError("the keeper is running already")
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and our own file
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )

    def watch(self, pgid: int) -> None:
        """Have this process group killed if the runner ends without saying `forget`.

        Raises:
            OSError: The watchdog has died.
        """
        try:
            self._tell(f"+{pgid}\n")
        except OSError as error:
            raise OSError(error.errno, "the keeper has died: what is started now would outlive a crash") from error

    def watch_me(self) -> None:
        """Watch the calling process's own group.

        For a child between fork and exec (`preexec_fn`): told by the runner afterwards, the keeper would not know of a
        child that was born in the instant in which the runner was killed.
        """
        self._tell(f"+{os.getpid()}\n")

    def forget(self, pgid: int) -> None:
        """Leave this process group alone from now on: it has ended."""
        with suppress(OSError):  # A watchdog that has died harms nobody.
            self._tell(f"-{pgid}\n")

    def close(self) -> None:
        """End the watchdog; it kills what is still watched. Closing twice changes nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_CLOSING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Keeper:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        """Write a line; the pipe has no buffer on our side, so that a crash in the next instant loses nothing."""
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the keeper is not running")
        self._process.stdin.write(line.encode())


def _keep(lines: Iterable[bytes]) -> None:
    """Keep the list until the lines end, then kill what is on it."""
    groups: dict[int, str] = {}
    for line in lines:
        group = int(line[1:])
        if line.startswith(b"+"):
            groups[group] = _started(group)
        else:
            groups.pop(group, None)
    for group, started in groups.items():
        now = _started(group)
        if now in ("", started):
            for number in (signal.SIGCONT, signal.SIGKILL):
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, number)


def _started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty when there is none, or no way to know."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name of the command comes second, in parentheses, and may hold anything, parentheses too.
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _keep(sys.stdin.buffer)


if __name__ == "__main__":
    _main()
