"""Game days that can't end in order: whatever happens to the runner, nothing of its faults or processes is left.

Each stress doses faults of all kinds that act outside of the runner at once, on a server that also starts something in
a session of its own, with an empty environment. What a run put into force is read off its undo journal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from hormesis.chaos import marks
from hormesis.gameday.stress import Dose
from hormesis.gameday.system import impossible

pytestmark = pytest.mark.system

PATIENCE = 60.0
WITHIN = 5.0

SERVER = """
import http.server, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass

subprocess.Popen(["setsid", "sleep", "600"], env={})
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

EXPERIMENT = """
title = "A runner in trouble"

[run]
calm = "CALM"
dose = "DOSE"
recovery = "RECOVERY"
detection = "100ms"
recover_within = "100ms"

[system.process.front]
command = "python server.py {port}"
env = { BACK = "{BACK_URL}" }

[system.process.back]
command = "python server.py {port}"

[system.edge.back]
from = "front"
to = "back"
env = { BACK_URL = "http://{host}:{port}" }

[load]
to = "front"
rate = "10/s"
timeout = "200ms"
[[load.request]]
name = "home"
get = "/"

[objective.home]
success = 0.0

[[stress]]
name = "everything"
doses = [
    { edge = "back", fault = { latency = "1s" } },
    { process = "back", fault = { pause = true } },
    { process = "back", fault = { files_left = 3 } },
    DOSES
]
"""

MORE = {
    'process = "front", fault = { reject = true }': {"rule"},
    'process = "front", fault = { clock = "+1h" }': {"clock"},
    "host = true, fault = { disk_full = true }": {"file", "mount"},
    "host = true, fault = { cpu = 1, load = 0.05 }": {"process"},
}
"""Doses that take rights, or programs, and what can be seen of them from outside."""


def possible(*, host: bool) -> dict[str, set[str]]:
    """Return those that this machine can do; in CI all of them. Only one game day at a time has the host."""
    found = {}
    for text, seen in MORE.items():
        reason = impossible(Dose(**tomllib.loads(f"dose = {{ {text} }}")["dose"]))
        if reason is not None:
            assert "HORMESIS_NO_SKIPS" not in os.environ, reason
        elif host or "host" not in text:
            found[text] = seen
    return found


class Runner:
    """A game day, running."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        host: bool = True,
        calm: str = "20s",
        dose: str = "20s",
        recovery: str = "20s",
    ) -> None:
        self.doses = possible(host=host)
        doses = "\n    ".join(f"{{ {each} }}," for each in self.doses)
        text = EXPERIMENT.replace("CALM", calm).replace("DOSES", doses).replace("DOSE", dose)
        file = folder / f"{name}.toml"
        file.write_text(text.replace("RECOVERY", recovery))
        self.out = folder / name
        self.said = folder / f"{name}.stderr"
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hormesis", "gameday", file.name, "--out", str(self.out)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )

    @property
    def stderr(self) -> str:
        return self.said.read_text()

    @property
    def records(self) -> list[Any]:
        text = (self.out / "undo.jsonl").read_text() if (self.out / "undo.jsonl").exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    @property
    def mark(self) -> int:
        """The mark of all that it started; 0 while it has started nothing."""
        return next((each["undo"][0]["mark"] for each in self.records if each["record"] == "fault"), 0)

    def wait_for(self, moment: str) -> None:
        until(
            lambda: moment in self.stderr or self.process.poll() is not None,
            lambda: f"not {moment!r}: {self.stderr}",
            PATIENCE,
        )
        assert moment in self.stderr

    def in_force(self) -> list[str]:
        """What of all that its journal announces is there now, outside of the runner."""
        found = [f"process {pid}" for pid in marks.find(self.mark)] if self.mark else []
        rules = subprocess.run(["iptables", "-S"], capture_output=True, check=False, text=True).stdout
        mounts = Path("/proc/mounts").read_text()
        for record in self.records:
            for step in record.get("undo", []):
                match step:
                    case {"kind": "run", "argv": [*_, path]} if path in mounts.split():
                        found.append(f"mount {path}")
                    case {"kind": "run", "argv": argv}:
                        found += [f"rule {word}" for word in argv if word.startswith("hormesis-") and word in rules]
                    case {"kind": "write", "path": path, "text": text}:
                        with suppress(FileNotFoundError):
                            if Path(path).read_text() != text:
                                found.append(f"clock {path}")
                    case {"kind": "remove", "path": path} if Path(path).exists():
                        found.append(f"file {path}")
        return found

    def faults_in_force(self) -> list[str]:
        """The same, without the processes that go on while the runner lives."""
        frozen = [f"frozen {pid}" for pid in marks.find(self.mark) if is_frozen(pid)]
        return [each for each in self.in_force() if each.split()[0] not in ("process", "mount")] + frozen

    def wait_until_gone(self) -> None:
        """Wait until it has ended, nothing of it is left, all is ticked, and the terminal was told."""

        def gone() -> bool:
            faults = {record["id"] for record in self.records if record["record"] == "fault"}
            ticked = {record["id"] for record in self.records if record["record"] == "undone"}
            told = not faults or "undone" in self.stderr
            return self.process.poll() is not None and not self.in_force() and faults == ticked and told

        until(gone, lambda: (self.in_force(), self.records, self.stderr), WITHIN)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def is_frozen(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def until(condition: Callable[[], object], words: Callable[[], object], within: float) -> None:
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, words()
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "server.py").write_text(SERVER)
    yield tmp_path
    for path in tmp_path.glob("*/undo.jsonl"):  # what a failed test left
        subprocess.run([sys.executable, "-m", "hormesis", "undo", str(path.parent)], check=False)


MOMENTS = {"starting": "starting", "calm": "calm for", "dose": "the dose begins", "recovery": "the dose has ended"}


@pytest.mark.parametrize("phase", MOMENTS)
def test_killed(folder: Path, phase: str) -> None:
    """Killed in any phase: within 5 s no fault and no process is left, and it says so."""
    lengths = {"dose": {"calm": "400ms"}, "recovery": {"calm": "400ms", "dose": "400ms"}}.get(phase, {})
    expected = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    if phase in ("starting", "recovery"):  # the other signals have a test of the command's there
        expected = {signal.SIGKILL: -9}
    with ExitStack() as stack:
        runners = {number: Runner(folder, number.name, host=number is signal.SIGKILL, **lengths) for number in expected}
        for runner in runners.values():
            stack.callback(runner.close)
        for number, runner in runners.items():
            runner.wait_for(MOMENTS[phase])
            if phase == "dose":
                seen = set[str]().union(*runner.doses.values())
                assert seen <= {each.split()[0] for each in runner.in_force()}
            runner.process.send_signal(number)
            runner.wait_until_gone()
            assert runner.process.wait() == expected[number]
            assert "Traceback" not in runner.stderr
            if number is not signal.SIGKILL:
                assert "every fault is undone and every process is stopped" in runner.stderr
            elif runner.records:
                assert "the runner has died" in runner.stderr


def test_frozen(folder: Path) -> None:
    """A runner that hangs in the dose has its faults undone within 5 s, though it lives; then it is killed."""
    with ExitStack() as stack:
        runner = Runner(folder, "frozen", calm="300ms")
        stack.callback(runner.close)
        runner.wait_for("the dose begins")
        assert runner.faults_in_force()
        runner.process.send_signal(signal.SIGSTOP)
        until(lambda: not runner.faults_in_force(), runner.faults_in_force, WITHIN)
        until(lambda: "the lease of a fault ran out" in runner.stderr, lambda: runner.stderr, WITHIN)
        assert marks.find(runner.mark)
        runner.process.kill()
        until(lambda: not runner.in_force(), runner.in_force, WITHIN)


def test_the_target_dies(folder: Path) -> None:
    """When the target dies in the dose, the game day goes on to its end, and leaves nothing."""
    with ExitStack() as stack:
        runner = Runner(folder, "target", calm="300ms", dose="1s", recovery="600ms")
        stack.callback(runner.close)
        runner.wait_for("the dose begins")
        for pid in marks.find(runner.mark):
            if is_frozen(pid):
                os.kill(pid, signal.SIGKILL)
        assert runner.process.wait(PATIENCE) in (0, 1)
        assert (runner.out / "report.json").exists()
        assert runner.in_force() == []
        assert "Traceback" not in runner.stderr


def test_the_watchdog_dies_too(folder: Path) -> None:
    """When runner and watchdog are both killed, `hormesis undo` takes all back; again, there is nothing to undo."""

    def undo(path: Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "hormesis", "undo", str(path)]
        return subprocess.run(argv, capture_output=True, check=False, text=True)

    with ExitStack() as stack:
        runner = Runner(folder, "both", calm="300ms")
        stack.callback(runner.close)
        runner.wait_for("the dose begins")
        refused = undo(runner.out)
        assert refused.returncode == 2
        assert f"goes on (process {runner.process.pid})" in refused.stderr
        for pid in children(runner.process.pid):
            if str(runner.out / "undo.jsonl") in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        runner.process.kill()
        runner.process.wait()
        assert runner.faults_in_force()
        done = undo(runner.out)
        assert done.returncode == 0, done.stdout
        assert "undone: paused on process back" in done.stdout
        assert runner.in_force() == []
        again = undo(runner.out)
        assert (again.returncode, "nothing to undo" in again.stdout) == (0, True)
        missing = undo(folder / "nowhere")
        assert missing.returncode == 2
        assert "there is no folder" in missing.stderr


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(path.parent.name))
    return found
