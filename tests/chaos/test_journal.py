"""The undo journal: whatever is on disk when everything stops, replaying it leaves nothing in force."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hormesis.chaos import journal as module
from hormesis.chaos.journal import Entry, Journal, Ledger, boot_id, recover, replay
from hormesis.chaos.undo import Remove, Request, Run, Signal
from hormesis.errors import ConfigurationError

CRASHING = """
import os, signal, sys
from pathlib import Path
from hormesis.chaos.journal import Journal
from hormesis.chaos.undo import Remove

folder, deadly, counted = Path(sys.argv[1]), int(sys.argv[2]), 0

def counting(name):
    real = getattr(os, name)
    def called(*arguments):
        global counted
        counted += 1
        if counted == deadly:
            if name == "write":  # half of it reaches the disk
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    setattr(os, name, called)

journal = Journal.begin(folder / "undo.jsonl")
counting("write")
counting("fsync")
for name in ("first", "second"):
    entry = journal.enter(name, [Remove(str(folder / name))])
    (folder / name).touch()
    if name == "first":
        (folder / name).unlink()
        journal.tick(entry)
print(counted)
"""


def world(path: Path, data: bytes) -> None:
    """Bring about what was so when so much of a journal was on disk: a file for each fault in force.

    A fault acts only after its whole line is there; what is ticked was undone before the tick was written.
    """
    whole = data.count(b"\n")
    for number, line in enumerate(data.split(b"\n")):
        with suppress(ValueError):
            record = json.loads(line)
            if record["record"] == "fault" and number < whole:
                (path / f"fault{record['id']}").touch()
            elif record["record"] == "undone":
                (path / f"fault{record['id']}").unlink()


def written(tmp_path: Path) -> bytes:
    """Return a journal with three faults, of which the first was undone, and the last is another's word."""
    made = tmp_path / "made.jsonl"
    with Journal.begin(made) as journal:
        entries = [
            journal.enter(f"fault {number}", [Remove(str(tmp_path / f"fault{number}"))], lease=1e9)
            for number in (1, 2, 3)
        ]
        journal.tick(entries[0])
        journal.tick(entries[2], "it hangs")
    return made.read_bytes()


def test_every_prefix(tmp_path: Path) -> None:
    """However much of a journal reached the disk, replaying leaves no fault; replaying again changes nothing."""
    data = written(tmp_path)
    path = tmp_path / "undo.jsonl"
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        world(tmp_path, data[:size])
        in_force = {each.name for each in tmp_path.glob("fault*")}
        with Journal(path, "watchdog") as journal:
            known = {f"fault{entry.id}" for entry in journal.ledger.outstanding}
            assert in_force <= known  # a line of which only the end is missing may be one too many
            done = replay(journal, journal.ledger.outstanding)
            assert [undone.entry.id for undone in done] == sorted((undone.entry.id for undone in done), reverse=True)
            assert not any(undone.why for undone in done)
            assert journal.look().outstanding == []
        assert not list(tmp_path.glob("fault*"))
        with Journal(path) as journal:
            assert journal.ledger.outstanding == []


def test_killed_between_any_two_writes(tmp_path: Path) -> None:
    """A runner killed at any write or sync, or in the middle of one, leaves a journal that undoes all it did."""
    deadly = 0
    while True:
        deadly += 1
        folder = tmp_path / str(deadly)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", CRASHING, str(folder), str(deadly)], capture_output=True, check=False, text=True
        )
        recover(folder / "undo.jsonl")
        assert [each.name for each in folder.iterdir()] == ["undo.jsonl"]
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert deadly == int(done.stdout) + 1 == 7


def test_a_record_is_on_disk_when_it_is_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering returns only after the record is whole and synced."""
    path = tmp_path / "undo.jsonl"
    with Journal.begin(path) as journal:
        seen: list[bytes] = []
        monkeypatch.setattr(os, "fsync", lambda file: seen.append(path.read_bytes()))
        journal.enter("a fault", [Remove("/x")], lease=5.0)
        (record,) = [json.loads(line) for line in seen[0].splitlines()[1:]]
        assert record["what"] == "a fault"
        assert record["lease"] == 5.0
        assert record["undo"] == [{"kind": "remove", "path": "/x"}]


def test_two_writers(tmp_path: Path) -> None:
    """The runner sees what the watchdog undid."""
    path = tmp_path / "undo.jsonl"
    with Journal.begin(path) as runner, Journal(path, "watchdog") as watchdog:
        entry = runner.enter("a fault", [])
        assert watchdog.look().outstanding == [entry]
        watchdog.tick(entry)
        assert runner.look().undone_by(entry.id) == "watchdog"
        assert runner.look().undone_by(7) == ""
        runner.tick(entry)
        assert runner.look().undone_by(entry.id) == "watchdog"


def test_what_can_not_be_undone(tmp_path: Path) -> None:
    """One that can't be undone keeps no other from it, is said with the reason, and stays for the next try."""
    path, flag = tmp_path / "undo.jsonl", tmp_path / "flag"
    with Journal.begin(path) as journal:
        journal.enter("good", [Remove(str(flag))])
        journal.enter("bad", [Run(["sh", "-c", "exit 3"]), Remove(str(flag)), Run(["/no/such"])])
        flag.touch()
        done = replay(journal, journal.ledger.outstanding or journal.look().outstanding)
        assert [undone.entry.what for undone in done] == ["bad", "good"]
        assert "status 3" in done[0].why
        assert "/no/such" in done[0].why
        assert done[1].why == ""
        assert not flag.exists()
        assert [entry.what for entry in journal.look().outstanding] == ["bad"]
    with pytest.raises(ConfigurationError, match=f"hormesis undo {tmp_path}"):
        Journal.begin(path)


def test_recover(tmp_path: Path) -> None:
    """What a dead runner left is undone once; a folder without a journal has nothing to undo."""
    path, flag = tmp_path / "undo.jsonl", tmp_path / "flag"
    assert recover(path) == []
    code = (
        "import sys; from hormesis.chaos.journal import Journal; from hormesis.chaos.undo import Remove\n"
        "Journal.begin(sys.argv[1]).enter('a flag', [Remove(sys.argv[2])]); open(sys.argv[2], 'w'); print(flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(flag)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None
        runner.stdout.readline()
        with pytest.raises(ConfigurationError, match=f"goes on \\(process {runner.pid}\\)"):
            recover(path)
        runner.kill()
        runner.wait()
    assert flag.exists()
    assert [undone.entry.what for undone in recover(path)] == ["a flag"]
    assert not flag.exists()
    assert recover(path) == []
    Journal.begin(path).close()


def test_after_a_restart_of_the_machine(tmp_path: Path) -> None:
    """What a restart took back is only ticked: its numbers are strangers' now; files and requests are still undone."""
    path, flag = tmp_path / "undo.jsonl", tmp_path / "flag"
    flag.touch()
    with Journal.begin(path) as journal:
        journal.enter("processes", [Signal(1 << 61, signal.SIGKILL, os.getpgid(0), "")])
        journal.enter("a rule", [Run(["sh", "-c", "exit 3"])])
        journal.enter("a flag", [Remove(str(flag))])
    path.write_text(path.read_text().replace(boot_id(), "another"))
    assert [undone.why for undone in recover(path)] == ["", "", ""]
    assert not flag.exists()
    assert recover(path) == []


@pytest.mark.parametrize(
    "record",
    [[], {"record": "run"}, {"record": "fault", "id": 1, "what": "x", "undo": [{"kind": "explode"}]}, 7],
)
def test_no_journal(tmp_path: Path, record: Any) -> None:
    """A whole line that is no record is shown: what it may mean is not guessed."""
    path = tmp_path / "undo.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ConfigurationError, match="no record of an undo journal"):
        recover(path)


def test_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that doses without end is refused."""
    monkeypatch.setattr(module, "_RECORDS_MAX", 2)
    with Journal.begin(tmp_path / "undo.jsonl") as journal:
        for _ in range(2):
            journal.enter("a fault", [])
        with pytest.raises(OSError, match="holds 2 faults"):
            journal.enter("a fault", [])


def test_can_not_be_written(tmp_path: Path) -> None:
    """A journal in a folder that isn't there can't be begun, and one that is a folder can't be read."""
    with pytest.raises(FileNotFoundError):
        Journal.begin(tmp_path / "none" / "undo.jsonl")
    with pytest.raises(ConfigurationError, match="can't be read"):
        recover(tmp_path)


def test_ledger_in_pieces(tmp_path: Path) -> None:
    """A ledger that gets a journal byte by byte says the same in the end as one that gets it whole."""
    data = written(tmp_path)
    whole, pieces = Ledger(), Ledger()
    whole.read(data)
    for byte in data:
        pieces.read(bytes([byte]))
    assert whole.outstanding == pieces.outstanding
    assert [entry.id for entry in whole.outstanding] == [2, 3]
    assert whole.pid == os.getpid()
    assert whole.writer_lives
    assert whole.last == 3
    assert whole.outstanding[0] == Entry(2, "fault 2", (Remove(str(tmp_path / "fault2")),), 1e9)


def test_nothing_waits_for_ever(tmp_path: Path) -> None:
    """Undoing what hangs takes a bounded time."""
    with Journal.begin(tmp_path / "undo.jsonl") as journal:
        began = time.monotonic()
        done = replay(
            journal, [journal.enter("hangs", [Run(["sleep", "60"]), Request("DELETE", "http://127.0.0.1:1/")])]
        )
        assert "did not end within 1 s" in done[0].why
        assert time.monotonic() - began < 3
