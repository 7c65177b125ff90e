"""Marks on real processes: whatever a process does to get away, it is found, and nobody else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hormesis.chaos import marks
from hormesis.chaos.births import spawn

PATIENCE = 10.0

AWAY = {
    "a session of its own": 'setsid sleep 60 & echo $! >"$0"; wait',
    "an empty environment": 'env -i setsid sleep 60 & echo $! >"$0"; wait',
    "an orphan": '(setsid sh -c \'echo $$ >"$0"; exec sleep 60\' "$0" &)',
}


@pytest.fixture
def run() -> Iterator[int]:
    """Return the mark of a run; at the end nothing of it is left."""
    mark = marks.new_run()
    yield mark
    marks.kill_all(mark)


def start(argv: list[str], mark: int) -> subprocess.Popen[bytes]:
    return spawn(argv, mark=mark, start_new_session=True)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("way", AWAY)
def test_no_way_to_get_away(tmp_path: Path, run: int, way: str) -> None:
    """What a marked process started is found and killed, whatever it did to get away."""
    note = tmp_path / "pid"
    with start(["sh", "-c", AWAY[way], str(note)], marks.member(run, 1)) as leader:
        until(lambda: note.exists() and note.read_text().strip())
        pid = int(note.read_text())
        until(lambda: os.getsid(pid) != leader.pid)
        assert pid in marks.find(marks.member(run, 1))
        assert pid in marks.kill_all(run)
    assert marks.find(run) == []
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_text()


def test_a_title_over_the_environment(run: int) -> None:
    """A process that writes its title over its environment, as PostgreSQL and nginx do, is found."""
    code = """
import ctypes, time
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
print("gone", flush=True)
time.sleep(60)
"""
    argv = [sys.executable, "-c", code]
    process = spawn(argv, mark=marks.member(run, 1), stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"gone\n"
        assert not Path(f"/proc/{process.pid}/environ").read_bytes().strip(b"\0")
        assert marks.find(run) == [process.pid]
        process.kill()


def test_members_are_told_apart(run: int) -> None:
    """The mark of a run stands for all of its members; that of a member only for itself; nobody else's for any."""
    first, second = (start(["sleep", "60"], marks.member(run, number)) for number in (1, 2))
    until(lambda: len(marks.find(run)) == 2)
    assert marks.find(marks.member(run, 1)) == [first.pid]
    assert marks.send(marks.member(run, 1), signal.SIGTERM) == [first.pid]
    assert first.wait() == -signal.SIGTERM
    assert marks.find(run) == [second.pid]
    assert marks.find(marks.new_run()) == []
    marks.kill_all(run)
    assert second.wait() == -signal.SIGKILL


INNER = """
import time
from hormesis.chaos import marks
from hormesis.chaos.births import spawn
run = marks.new_run()
child = spawn(["sleep", "60"], mark=marks.member(run, 1), start_new_session=True)
print(run, child.pid, *marks.find(run), flush=True)
time.sleep(60)
"""


def test_a_run_within_a_run(run: int) -> None:
    """A marked process can hold a run of its own; what that has marked belongs to both, and dies with the outer one."""
    outer = marks.member(run, 1)
    argv = [sys.executable, "-c", INNER]
    with spawn(argv, mark=outer, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        inner, pid, *found = map(int, process.stdout.readline().split())
        assert found == [pid]
        assert inner < run
        assert marks.find(inner) == [pid]
        assert set(marks.find(run)) == set(marks.find(outer)) == {process.pid, pid}
        assert marks.find(marks.member(run, 2)) == []
        assert set(marks.kill_all(run)) == {process.pid, pid}
    assert marks.find(inner) == []


@pytest.mark.parametrize(("hard", "below"), [(-1, 1 << 62), (1 << 50, 1 << 50), (200_000, 1 << 62)])
def test_below_what_is_inherited(monkeypatch: pytest.MonkeyPatch, hard: int, below: int) -> None:
    """Marks are below the one that this process bears; a limit that is no mark says nothing."""
    monkeypatch.setattr(marks.resource, "getrlimit", lambda _: (hard, hard))
    for _ in range(100):
        mark = marks.new_run()
        assert below * 6 // 7 < mark < marks.member(mark, 65_535) < below


def test_only_children_are_marked(run: int) -> None:
    """No stranger is marked, and neither is the process itself: a mark can't be taken off."""
    for pid in (1, os.getpid(), os.getppid()):
        with pytest.raises(ValueError, match=f"process {pid} is no child of this process"):
            marks.put(pid, run)
        assert not marks.bears(pid, run)


def test_marked_later(run: int) -> None:
    """A process that runs already can be marked; one that has ended can't, and that is no error."""
    process = subprocess.Popen(["sleep", "60"])
    marks.put(process.pid, run)
    assert marks.find(run) == [process.pid]
    process.kill()
    process.wait()
    marks.put(process.pid, run)
    assert not marks.bears(process.pid, run)


def test_the_dead_are_not_found(run: int) -> None:
    """A process that has ended, but was not reaped yet, is not found: nobody can kill it."""
    process = start(["true"], marks.member(run, 1))
    until(lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    assert marks.find(run) == []
    assert marks.kill_all(run) == []
    process.wait()


def test_what_can_not_be_killed(monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    """When somebody survives, that is said after a bounded time."""
    process = start(["sleep", "60"], marks.member(run, 1))
    monkeypatch.setattr(marks, "send_to", lambda *_: [])
    with pytest.raises(TimeoutError, match=str(process.pid)):
        marks.kill_all(run, within=0.05)
    monkeypatch.undo()
    marks.kill_all(run)
    process.wait()


def test_without_handles_of_processes(monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    """Where a kernel or an interpreter is too old for them, a number has to do."""
    process = start(["sleep", "60"], marks.member(run, 1))
    monkeypatch.delattr(os, "pidfd_open")
    assert marks.send_to([process.pid, os.getpid()], run, signal.SIGTERM) == [process.pid]
    assert process.wait() == -signal.SIGTERM
    assert marks.send_to([process.pid], run, signal.SIGTERM) == []


def test_numbers() -> None:
    """A run has a bounded number of members, and no two runs have the same mark."""
    run = marks.new_run()
    assert marks.member(run, 65_535) != run
    for number in (0, 65_536):
        with pytest.raises(ValueError, match=str(number)):
            marks.member(run, number)
    assert len({marks.new_run() for _ in range(100)}) == 100


def test_tidy() -> None:
    """Shared memory that libfaketime left of a killed process is removed; there may be none."""
    path = Path("/dev/shm/faketime_shm_999999999")
    path.touch()
    try:
        marks.tidy([999999999])
        assert not path.exists()
        marks.tidy([999999999])
    finally:
        with suppress(FileNotFoundError):
            path.unlink()
