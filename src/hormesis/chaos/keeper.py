"""The watchdog against the end of the runner itself: whatever happens to it, nothing of its faults or system is left.

A runner that dies by SIGKILL cleans nothing up, and what it leaves is worse than a stray server: a *paused* process
holds its port for ever and answers nobody. So the runner starts a keeper, a small process in a session of its own. The
kernel closes the pipe between them when the runner ends, however it ends; the keeper then wakes, kills all processes
that bear the mark of the run (`marks`), undoes every fault that is not ticked in the undo journal (`journal`), the last
first, and says so.

It also looks at the *leases* of the faults. The runner renews them over the pipe while its loop turns; a runner that
hangs renews nothing, and the keeper undoes what has outlived its lease, though the runner lives.

Where nothing can be marked (another system than Linux), the process groups that the runner names over the pipe
(`+PGID`, `-PGID`, a line each) are killed instead. A number in the list may meanwhile belong to somebody else. The
kernel gives no new process a number that a group still bears, so it is enough to compare the start time of the process
that has the number now with that of the leader when it was added: another start time means that our group is long gone.

The keeper runs in an isolated interpreter without site packages and imports nothing but the standard library and what
is written for it: it starts in a few hundredths of a second, and importing the whole package would take many.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from hormesis.chaos import marks
from hormesis.chaos.journal import Entry, Journal, Undone, replay
from hormesis.chaos.undo import Signal

__all__ = ["Keeper", "KeeperDied", "main"]

_CLOSING = 75.0
"""Seconds the keeper has for its last work when the runner closes it; usually it is done in some hundredths."""
_LOOK_EVERY = 0.25
"""Seconds between two looks at the leases."""
_AGAIN = 5.0
"""Seconds until what could not be undone is tried again."""

_BOOT = """
import sys, types
for name, path in zip(("hormesis", "hormesis.chaos"), sys.argv[1:3]):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = [path]
from hormesis.chaos.keeper import main
main(*sys.argv[3:])
"""
"""Makes the packages importable without running them: what they import is not needed here, and takes its time."""


class KeeperDied(OSError):
    """There is no watchdog any more: what is started now would outlive a crash.

    Args:
        number: The number of the error that the pipe to it gives.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "the keeper has died: what is started now would outlive a crash")


class Keeper:
    """The runner's side: starts the watchdog, and tells it what it can't see.

    Processes still watched when it is closed, or when the runner dies, are killed.

    The pipe is inherited by no program that the runner starts, but by a *fork* of it: a runner whose forked child
    outlives it is not missed until that child ends too.

    >>> with Keeper() as keeper:
    ...     child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    ...     keeper.watch(child.pid)
    >>> child.wait()
    -9

    Args:
        journal: The undo journal of the run, which the keeper replays; it is begun when the keeper is started. None:
            there are no faults, only processes.
    """

    def __init__(self, journal: str | os.PathLike[str] | None = None) -> None:
        self.run = marks.new_run()
        """The mark of all that the runner starts."""
        self.journal: Journal | None = None
        """The undo journal, from `start` to `close`."""
        self._path = None if journal is None else Path(journal).absolute()
        self._members = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the watchdog, and begin the journal.

        Raises:
            ConfigurationError: The journal of an earlier run has faults that are not undone.
            OSError: The journal can't be written.
        """
        if self._process is not None:
            raise RuntimeError("the keeper is running already")
        if self._path is not None:
            self.journal = Journal.begin(self._path)
            self.journal.enter("the processes of the run", [Signal(self.run, signal.SIGKILL)])
        packages = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
        self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and our own file
            [sys.executable, "-I", "-S", "-c", _BOOT, *packages, str(self.run), str(self._path or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )

    def new_mark(self) -> int:
        """Return a mark for one more process of the run; what bears it is killed when the runner ends."""
        self._members += 1
        return marks.member(self.run, self._members)

    def watch(self, pgid: int) -> None:
        """Have this child, its group and all that it starts from now on killed if the runner ends.

        Raises:
            KeeperDied: The watchdog has died.
            ValueError: It is no child of this process.
            RuntimeError: The keeper is not running.
        """
        if self._process is None:
            raise RuntimeError("the keeper is not running")
        if not marks.bears(pgid, self.run):
            marks.put(pgid, self.run)
        try:
            self._tell(f"+{pgid}\n")
        except OSError as error:
            raise KeeperDied(error.errno or 0) from error

    def fileno(self) -> int:
        """Return the number of the pipe to it, for a child that tells of itself (`births`).

        Told by the runner afterwards, the keeper would not know of a child that was born in the instant in which the
        runner was killed.

        Raises:
            RuntimeError: The keeper is not running.
        """
        return self._pipe().fileno()

    def forget(self, pgid: int) -> None:
        """Leave this process group alone from now on: it has ended."""
        with suppress(OSError):  # A watchdog that has died harms nobody.
            self._tell(f"-{pgid}\n")

    def renew(self, entry: Entry, lease: float) -> None:
        """Let a fault act until `lease`, on the monotonic clock.

        Raises:
            OSError: The watchdog has died.
        """
        self._tell(f"={entry.id} {lease!r}\n")

    def close(self) -> None:
        """End the watchdog; it kills what is still watched. Closing twice changes nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.write(b".\n")  # an end in order, of which there is nothing to say
            process.stdin.close()
        try:
            process.wait(_CLOSING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def __enter__(self) -> Keeper:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, line: str) -> None:
        """Write a line; the pipe has no buffer on our side, so that a crash in the next instant loses nothing."""
        self._pipe().write(line.encode())

    def _pipe(self) -> IO[bytes]:
        if self._process is None or self._process.stdin is None:
            raise RuntimeError("the keeper is not running")
        return self._process.stdin


class _Watch:
    """The watchdog's side: what it knows, and what it does."""

    def __init__(self, run: int, journal: Journal | None) -> None:
        self.run = run
        self.journal = journal
        self.in_order = False
        self._groups: dict[int, str] = {}
        self._leases: dict[int, float] = {}

    def hear(self, line: bytes) -> None:
        """Take in a line from the runner."""
        word = line[1:].split()
        match line[:1]:
            case b"+":
                self._groups[int(word[0])] = marks.started(int(word[0]))
            case b"-":
                self._groups.pop(int(word[0]), None)
            case b"=":
                self._leases[int(word[0])] = float(word[1])
            case b".":
                self.in_order = True

    def look(self) -> None:
        """Undo what has outlived its lease."""
        if self.journal is None:
            return
        now = time.monotonic()
        over = [
            entry
            for entry in self.journal.look().outstanding
            if entry.lease is not None and self._leases.get(entry.id, entry.lease) < now
        ]
        if over:
            done = replay(self.journal, over)
            _say("the lease of a fault ran out, and the runner did not end it", done)
            for undone in done:  # what could not be undone is tried again
                self._leases[undone.entry.id] = now + _AGAIN

    def end(self) -> None:
        """Kill what still runs, so that it does no more damage; then undo all that is left."""
        left = marks.find(self.run)
        with suppress(TimeoutError):
            marks.tidy({*left, *marks.kill_all(self.run)})
        for group, started in self._groups.items():
            if marks.started(group) in ("", started):
                for number in (signal.SIGCONT, signal.SIGKILL):
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(group, number)
        done: list[Undone] = []
        if self.journal is not None:
            outstanding = self.journal.look().outstanding
            if self.in_order and len(outstanding) == 1:  # that of the processes, which it has stopped
                self.journal.by = "runner"
            done = replay(self.journal, outstanding)
        if not self.in_order:
            _say(f"the runner has died; {len(left)} processes were left behind and are killed", done)
        elif len(done) > 1:
            _say("the runner has left faults in force", done)


def _say(why: str, done: list[Undone]) -> None:
    """Tell the terminal, if there still is one."""
    lines = [f"hormesis watchdog: {why}"]
    for undone in done:
        lines.append(f"  {'NOT undone' if undone.why else 'undone'}: {undone.entry}")
        if undone.why:
            lines.append(f"    {undone.why}")
    with suppress(OSError):
        os.write(2, ("\n".join(lines) + "\n").encode())


def main(run: str, path: str) -> None:
    """Watch until the runner ends: the whole life of the watchdog's process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    watch = _Watch(int(run), Journal(path, "watchdog") if path else None)
    rest = b""
    while True:
        if select.select([0], [], [], _LOOK_EVERY if path else None)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                watch.hear(line)
        watch.look()
    watch.end()
