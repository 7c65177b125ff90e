"""Starting commands that are marked, known to the keeper, and under limits before their first instruction.

None of it can be done afterwards: a runner killed in the instant after a start would leave a process that nobody knows
of. Nor is a fork of the runner (`preexec_fn`) the place for it: other threads run here, and a library may wake up in
the fork and end it, as gRPC's does in one start of a hundred, in one of ten beside a busy `grpc.aio`. So each command
begins its life as a small program (`born`), which takes a hundredth of a second or two.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from hormesis.chaos import marks
from hormesis.chaos.born import KEEPER_HAS_DIED
from hormesis.chaos.keeper import Keeper, KeeperDied

__all__ = ["Birth", "join", "lower", "spawn"]

_WITHIN = 20.0
"""Seconds within which the command has begun, on a machine that still does anything."""
_NEWS_MAX = 100


def lower(limit: int, value: int) -> str:
    """Return the birth with a soft resource limit; one that is lower already stays."""
    return f"lower {limit} {value}"


def join(procs: str | os.PathLike[str]) -> str:
    """Return the birth in a control group, if there still is one; `procs` is its list of processes."""
    return f"join {os.fspath(procs)}"


class Birth:
    r"""One start of a command, by whatever starts programs.

    >>> import resource
    >>> with Birth(["echo", "alive"], births=[lower(resource.RLIMIT_NOFILE, 100)]) as birth:
    ...     process = subprocess.Popen(birth.argv, pass_fds=birth.pass_fds, stdout=subprocess.PIPE)
    ...     birth.begun()
    >>> process.communicate()[0]
    b'alive\n'

    Args:
        argv: The command's words.
        env: The command's variables; None: those of this process.
        mark: What it shall bear; see `hormesis.chaos.marks`.
        keeper: Who shall know of it.
        births: What else it is born with, each made by a function of this module.

    Raises:
        ValueError: A word or a variable holds a NUL byte, which no command can be given, or there is no word at all.
        OSError: No file or pipe is to be had.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str] | None = None,
        *,
        mark: int | None = None,
        keeper: Keeper | None = None,
        births: Sequence[str] = (),
    ) -> None:
        if not argv:
            raise ValueError("there is no command: its list of words is empty")
        marked = [] if mark is None or marks.LIMIT is None else [f"mark {marks.LIMIT} {mark}"]
        variables = [f"{name}={value}" for name, value in (os.environ if env is None else env).items()]
        parts = ([*marked, *births], [os.fspath(word) for word in argv], variables)
        fields = [os.fsencode(field) for part in ([str(len(part)) for part in parts], *parts) for field in part]
        if any(b"\0" in field for field in fields):
            raise ValueError("a command's words and variables can't hold NUL bytes")
        pipe = -1 if keeper is None else keeper.fileno()
        self._told = _file()
        try:
            self._told.write(b"".join(field + b"\0" for field in fields))
            self._told.seek(0)
            self._report, self._reporter = os.pipe()
        except BaseException:
            self._told.close()
            raise
        numbers = (self._told.fileno(), self._reporter, pipe)
        self.argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("born.py")), *map(str, numbers)]
        """What is to be started."""
        self.pass_fds = tuple(number for number in numbers if number >= 0)
        """The files that it inherits."""

    def begun(self) -> None:
        """Wait until the command runs, or until it is clear that it does not.

        Raises:
            OSError: It can't be run; the number says why.
            KeeperDied: Nobody would clean it up.
            TimeoutError: Nothing was heard of it for 20 seconds.
        """
        os.close(self._reporter)
        self._reporter = -1
        poll = select.poll()  # `select` takes no numbers above 1023
        poll.register(self._report, select.POLLIN)
        if not poll.poll(1000 * _WITHIN):
            raise TimeoutError(f"nothing was heard of it for {_WITHIN:g} s")
        news = os.read(self._report, _NEWS_MAX)
        if news.startswith(KEEPER_HAS_DIED):
            raise KeeperDied(int(news[1:]))
        if news:
            raise OSError(int(news), os.strerror(int(news)))

    def __enter__(self) -> Birth:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._told.close()
        for number in (self._report, self._reporter):
            if number >= 0:
                os.close(number)


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    mark: int | None = None,
    keeper: Keeper | None = None,
    births: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    start_new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command; returns when it runs.

    Args:
        argv: The command's words.
        env: Its variables; None: those of this process.
        mark: What it shall bear.
        keeper: Who shall know of it.
        births: What else it is born with.
        cwd: The folder that it runs in; as for the rest, see `subprocess.Popen`.
        stdin: What it reads.
        stdout: Where it writes.
        stderr: Where it writes what goes wrong.
        start_new_session: Whether it leads a session of its own.

    Raises:
        OSError: As by `Birth` and its `begun`.
        ValueError: It is no command.
    """
    with Birth(argv, env, mark=mark, keeper=keeper, births=births) as birth:
        popen = subprocess.Popen(  # noqa: S603  # to run the user's command is what this is for
            birth.argv,
            pass_fds=birth.pass_fds,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
        )
        try:
            birth.begun()
        except BaseException:
            popen.kill()
            with popen:  # closes its pipes, and reaps it
                raise
        return popen


def _file() -> IO[bytes]:
    """Return a nameless file; in memory where that can be, for a disk may be full."""
    in_memory = getattr(os, "memfd_create", None)
    return tempfile.TemporaryFile() if in_memory is None else os.fdopen(in_memory("hormesis"), "w+b")
