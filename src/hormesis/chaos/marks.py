"""Marks: telling which processes are ours, whatever they did to get away.

A server may start workers in sessions of their own (each of PostgreSQL's does that), put itself into the background,
write its title over its environment (PostgreSQL and nginx do), or be given an empty one. What it can't shed is a
resource limit: the kernel hands the limits of a process to all that it starts. So a process is marked by a number that
nobody else uses, in the one limit that means nothing to it: how long a *real-time* task may run without a pause
(`RLIMIT_RTTIME`), here a hundred thousand years. Setting it needs no privilege; `/proc/PID/limits` shows it to all.

The number is that of a run; its last 16 bits say which process of the run. A limit can be lowered by everybody, but
raised only with `CAP_SYS_RESOURCE`, so a run that is itself started by a marked process takes a number below that mark:
there is room for a hundred runs within each other. What such an inner run has marked no longer bears the mark of the
outer one, which finds it as a descendant of what does.

Linux only: elsewhere nothing can be marked, nothing is found, and process groups have to do.

Only the standard library is imported here: the watchdog uses it in a bare interpreter.
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress

__all__ = ["LIMIT", "bears", "find", "kill_all", "member", "new_run", "put", "send", "send_to", "started", "tidy"]

LIMIT: int | None = getattr(resource, "RLIMIT_RTTIME", None)
"""The limit that is the mark; None: this system has none, and nothing can be marked."""
_LINE = b"Max realtime timeout"
_HIGHEST = 1 << 62
_LOWEST = 1 << 40
_MEMBER_BITS = 16
_MEMBERS = (1 << _MEMBER_BITS) - 1
_KILL_PAUSE = 0.01


def new_run() -> int:
    """Return the mark of a run: as a mark to look for, it stands for all of its members."""
    top = _inherited() >> _MEMBER_BITS
    return top - 1 - secrets.randbelow(max(1, top >> 3)) << _MEMBER_BITS


def _inherited() -> int:
    """Return what the marks of a run have to stay below: that of this process, if it bears one."""
    hard = resource.RLIM_INFINITY if LIMIT is None else resource.getrlimit(LIMIT)[1]
    # What is lower than any mark is a limit that somebody meant; below it nothing can be marked.
    return hard if _LOWEST < hard < _HIGHEST else _HIGHEST


def member(run: int, number: int) -> int:
    """Return the mark of one process of a run; `number` is from 1 to 65,535."""
    if not 0 < number <= _MEMBERS:
        raise ValueError(f"a run has up to {_MEMBERS} processes, no number {number}")
    return run | number


def put(pid: int, mark: int) -> None:
    """Mark a child of this process that runs already, and so all that it will start.

    Raises:
        ValueError: It is no child of this process: a mark can't be taken off again, so no stranger gets one.
    """
    if LIMIT is not None and hasattr(resource, "prlimit"):
        if _parent(pid) not in (None, os.getpid()):
            raise ValueError(f"process {pid} is no child of this process, and can't be marked")
        with suppress(OSError, ValueError):
            resource.prlimit(pid, LIMIT, (mark, mark))


def find(mark: int) -> list[int]:
    """Return the numbers of all living processes that bear a mark, or that of any member of a run."""
    return [pid for pid in _all() if bears(pid, mark)]


def bears(pid: int, mark: int) -> bool:
    """Whether a process lives and bears a mark, or that of any member of a run, or was marked by what does."""
    try:
        with open(f"/proc/{pid}/limits", "rb", buffering=0) as file:
            line = file.read(4096).partition(_LINE)[2].split(None, 2)
        hard = int(line[1])
    except (OSError, ValueError, IndexError):
        return False
    mine = hard if mark & _MEMBERS else hard & ~_MEMBERS
    if mine < mark:
        parent = _parent(pid)
        return parent is not None and bears(parent, mark)
    return mine == mark and not _is_dead(pid)


def send(mark: int, number: int, but: Iterable[int] = ()) -> list[int]:
    """Send a signal to all that bear a mark, but some; returns to whom.

    What they start meanwhile gets it too. A number can't be handed to a stranger between the look and the signal.
    """
    told: list[int] = []
    known = set(but)
    while fresh := [pid for pid in find(mark) if pid not in known]:
        known.update(fresh)
        told += send_to(fresh, mark, number)
    return told


def kill_all(mark: int, within: float = 2.0) -> list[int]:
    """Kill all that bear a mark, and wait until they are gone; returns who was killed.

    Raises:
        TimeoutError: Some are still there after `within` seconds.
    """
    killed: list[int] = []
    give_up = time.monotonic() + within
    while found := find(mark):
        killed += [pid for pid in send_to(found, mark, signal.SIGKILL) if pid not in killed]
        if time.monotonic() > give_up:
            raise TimeoutError(f"processes {', '.join(map(str, found))} can't be killed")
        time.sleep(_KILL_PAUSE)
    return killed


def tidy(pids: Iterable[int]) -> None:
    """Remove what libfaketime leaves of processes that were killed: shared memory that bears their number."""
    for pid in pids:
        for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
            with suppress(OSError):
                os.unlink(f"/dev/shm/{name}")  # noqa: S108  # it is there, and nowhere else


def started(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty when there is none, or no way to know."""
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _all() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from (int(name) for name in names if name.isdigit())


def send_to(pids: Iterable[int], mark: int, number: int) -> list[int]:
    """Send a signal to those of some processes that live and bear a mark; returns to whom."""
    if not hasattr(os, "pidfd_open"):  # a kernel or an interpreter that is too old
        ours = [pid for pid in pids if bears(pid, mark)]
        return [pid for pid in ours if _sent(os.kill, pid, number)]
    with ExitStack() as stack:
        handles = {}
        for pid in pids:
            with suppress(OSError):
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
                if bears(pid, mark):  # looked at again, now that the number can't change its owner
                    handles[pid] = handle
        # Only now, for whoever dies no longer tells whose child is whose.
        return [pid for pid, handle in handles.items() if _sent(signal.pidfd_send_signal, handle, number)]


def _sent(send: Callable[[int, int], None], whom: int, number: int) -> bool:
    try:
        send(whom, number)
    except OSError:
        return False
    return True


def _parent(pid: int) -> int | None:
    """Return the number of a process's parent; None when there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if len(fields) > 1 else None


def _is_dead(pid: int) -> bool:
    """Whether it has ended and only waits for its parent to take notice."""
    return _stat(pid)[:1] in ([], ["Z"], ["X"])


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name of the command comes second, in parentheses, and may hold anything, parentheses too.
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
