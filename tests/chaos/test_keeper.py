"""The keeper, on real processes: when a runner is killed, nothing of its system is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hormesis.chaos import Keeper, keeper, marks

PATIENCE = 10.0

RUNNER = """
import asyncio, signal, sys
from pathlib import Path
from hormesis.chaos import Keeper, Process, ProcessSettings, free_port

CHILD = '''
import subprocess, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
'''

async def main():
    log = Path(sys.argv[1])
    with Keeper() as keeper:
        settings = ProcessSettings("shop", argv=[sys.executable, "-c", CHILD], port=free_port(), log=log)
        process = Process(settings, keeper)
        await process.start()
        while not log.read_text().strip():
            await asyncio.sleep(0.01)
        process.pause()
        print(keeper._process.pid, process.pid, log.read_text().strip(), flush=True)
        while True:  # a signal that comes just before the loop waits is seen when that wait ends
            await asyncio.sleep(0.05)

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background are started without it
asyncio.run(main())
"""


def state(pid: int) -> str:
    """Return the kernel's letter for what a process does; Z for one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"], start_new_session=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runner_dies(tmp_path: Path, number: signal.Signals) -> None:
    """When the runner is killed, its paused child, its grandchild and the keeper itself are gone soon."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path / "log")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as runner:
        assert runner.stdout is not None
        pids = [int(word) for word in runner.stdout.readline().split()]
        assert len(pids) == 3
        until(lambda: [state(pid) for pid in pids[1:]] == ["T", "T"])
        runner.send_signal(number)
        runner.wait()
        until(lambda: all(state(pid) == "Z" for pid in pids))


def test_close_kills_what_is_watched() -> None:
    """At the end the keeper kills what it watches, and nobody else; closing it again changes nothing."""
    watched, stranger = sleeper(), sleeper()
    with Keeper() as kept:
        kept.watch(watched.pid)
        assert watched.poll() is None
    kept.close()
    assert watched.wait(PATIENCE) == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_orphans() -> None:
    """A group whose leader has died and been reaped is killed all the same."""
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as leader:
        assert leader.stdin is not None
        assert leader.stdout is not None
        orphan = int(leader.stdout.readline())
        with Keeper() as kept:
            kept.watch(leader.pid)
            leader.stdin.close()
            leader.wait()
            assert state(orphan) != "Z"
        until(lambda: state(orphan) == "Z")


@pytest.mark.parametrize("forgotten", [False, True])
def test_groups(monkeypatch: pytest.MonkeyPatch, forgotten: bool) -> None:
    """Where nothing can be marked, groups are killed, unless they have ended or somebody else has their number."""
    stranger, ours = sleeper(), sleeper()
    starts = {stranger.pid: iter(["100", "200"]), ours.pid: iter(["100", "100"])}
    monkeypatch.setattr(marks, "started", lambda pid: next(starts[pid]))
    watch = keeper._Watch(marks.new_run(), None)
    watch.hear(f"+{stranger.pid}".encode())
    watch.hear(f"+{ours.pid}".encode())
    if forgotten:
        watch.hear(f"-{ours.pid}".encode())
    watch.hear(b".")
    watch.end()
    assert stranger.poll() is None
    if forgotten:
        ours.kill()
    assert ours.wait(PATIENCE) == -signal.SIGKILL
    stranger.kill()
    stranger.wait()


def test_signals_are_ignored() -> None:
    """Signals that end a terminal's programs don't end the keeper."""
    child = sleeper()
    with Keeper() as kept:
        assert kept._process is not None
        pid = kept._process.pid
        assert os.getsid(pid) == pid
        wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        until(lambda: wanted <= _ignored(pid))
        for number in wanted:
            os.kill(pid, number)
        kept.watch(child.pid)
    assert child.wait(PATIENCE) == -signal.SIGKILL


def _ignored(pid: int) -> set[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return {number for number in range(1, 32) if mask >> (number - 1) & 1}


def test_wrong_order() -> None:
    """A keeper that does not run watches nothing; one that runs is not started again."""
    kept = Keeper()
    child = sleeper()
    with pytest.raises(RuntimeError, match="not running"):
        kept.watch(child.pid)
    assert not marks.bears(child.pid, kept.run)
    with kept, pytest.raises(RuntimeError, match="running already"):
        kept.start()
    assert child.poll() is None
    child.kill()
    child.wait()


def test_strangers() -> None:
    """A process that is no child of the runner is not watched, for its mark could not be taken off again."""
    with Keeper() as kept:
        for stranger in (1, os.getpid(), os.getppid()):
            with pytest.raises(ValueError, match=f"process {stranger} is no child"):
                kept.watch(stranger)
            assert not marks.bears(stranger, kept.run)


def test_needs_nothing_but_the_standard_library() -> None:
    """The watchdog starts in an isolated interpreter, without site packages, and imports no more than it needs."""
    with Keeper() as kept:
        assert kept._process is not None
        words = kept._process.args
    assert isinstance(words, list)
    assert words[1:3] == ["-I", "-S"]
    words = [word.replace("main(*sys.argv[3:])", "print(*sys.modules)") for word in words]
    modules = subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()
    assert not {"asyncio", "http.client", "typing_extensions"} & set(modules)
    assert {name for name in modules if name.startswith("hormesis")} == {
        "hormesis",
        "hormesis.errors",
        "hormesis.chaos",
        "hormesis.chaos.journal",
        "hormesis.chaos.keeper",
        "hormesis.chaos.marks",
        "hormesis.chaos.undo",
    }
