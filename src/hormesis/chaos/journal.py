"""The undo journal: how to take back each fault, on disk before the fault acts.

One JSON record a line, appended and synced, never changed. A fault's record says what it is, how to undo it as data
(`undo`), and until when it may act (its *lease*); another record says that it was undone, or why it could not be. So
whatever is on disk when everything stops, a stranger can read off it what may still be in force, and take it back:

- no record of a fault: it never acted;
- a record and no tick: it may act, or may have been undone an instant ago; undoing again changes nothing;
- a record and a tick: it is over;
- half a line at the end: the runner died while it wrote, and what the line was to announce did not happen.

Only the standard library is imported here: the watchdog uses it in a bare interpreter.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hormesis.chaos import marks
from hormesis.chaos.undo import Undo, from_data, to_data
from hormesis.errors import ConfigurationError

__all__ = ["FILE_NAME", "Entry", "Episode", "Journal", "Ledger", "Undone", "boot_id", "history", "recover", "replay"]

FILE_NAME = "undo.jsonl"
"""What the journal is called in the folder of a game day."""

_RECORDS_MAX = 100_000
"""A runner that doses this often in one run is mad: it is refused, so that the journal stays bounded."""


def boot_id() -> str:
    """Return what changes when the machine restarts; empty where there is no way to know."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A fault as the journal knows it.

    Attributes:
        id: Its number in the journal, from 1.
        what: The fault and its place, in words.
        undo: How to take it back, step by step.
        lease: When its time is up, on the monotonic clock of the boot; None: with the end of the runner.
        arm: Whose it is, where several systems are stressed side by side.
    """

    id: int
    what: str
    undo: tuple[Undo, ...]
    lease: float | None = None
    arm: str = ""

    def __str__(self) -> str:
        return _named(self.what, self.arm)


@dataclasses.dataclass(frozen=True, slots=True)
class Undone:
    """What became of an entry: `why` is empty if it was undone, and says else why it could not be."""

    entry: Entry
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A fault from its beginning to its end, for those who look back.

    Attributes:
        what: The fault and its place, in words.
        began: When it was written down, an instant before it acted, on the monotonic clock of the boot.
        ended: When it was undone; None while it was not.
        by: Who undid it: `"runner"`, `"watchdog"`, `"hormesis undo"`; empty while nobody has.
        why: Why it could not be undone when that was tried last; empty when it was.
        arm: Whose it was, where several systems were stressed side by side.
    """

    what: str
    began: float
    ended: float | None = None
    by: str = ""
    why: str = ""
    arm: str = ""

    def __str__(self) -> str:
        return _named(self.what, self.arm)


class Ledger:
    r"""What a journal says, as its lines come in: a pure reader.

    >>> ledger = Ledger()
    >>> ledger.read(b'{"record": "fault", "id": 1, "what": "pause of shop", "undo": []}\n{"record": "und')
    >>> [entry.what for entry in ledger.outstanding]
    ['pause of shop']
    >>> ledger.read(b'one", "id": 1}\n')
    >>> ledger.outstanding
    []
    """

    def __init__(self) -> None:
        self.pid = 0
        """The runner."""
        self.started = ""
        """When it was started, as `marks.started` says it."""
        self.boot = ""
        """In which boot of the machine that was."""
        self.last = 0
        """The highest number of an entry."""
        self._rest = b""
        self._open: dict[int, Entry] = {}
        self._undone_by: dict[int, str] = {}

    @property
    def outstanding(self) -> list[Entry]:
        """The faults that may be in force, in the order in which they came."""
        return list(self._open.values())

    @property
    def writer_lives(self) -> bool:
        """Whether the runner that writes it is still there."""
        return self.boot == boot_id() and bool(self.started) and marks.started(self.pid) == self.started

    def undone_by(self, id: int) -> str:  # noqa: A002  # the journal's own word
        """Return who undid a fault: `"runner"`, `"watchdog"`, `"hormesis undo"`; empty if nobody has."""
        return self._undone_by.get(id, "")

    def read(self, data: bytes) -> None:
        """Take in what was appended; half a line waits for its other half.

        Raises:
            ConfigurationError: A line is whole and yet no record: another version wrote it, or it is no journal.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # cut short by a crash: what it was to announce never happened
                continue
            try:
                self._take(record)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigurationError(f"this is no record of an undo journal: {line!r} ({error})") from None

    def _take(self, record: dict[str, Any]) -> None:
        match record["record"]:
            case "run":
                self.pid, self.started, self.boot = record["pid"], record["started"], record["boot"]
            case "fault":
                undo = tuple(from_data(table) for table in record["undo"])
                entry = Entry(record["id"], record["what"], undo, record.get("lease"), record.get("arm", ""))
                self._open[entry.id] = entry
                self.last = max(self.last, entry.id)
            case "undone":
                if self._open.pop(record["id"], None) is not None:
                    self._undone_by[record["id"]] = record.get("by", "")


class Journal:
    """A journal that is written to.

    Every method that writes returns once the record is on the disk; it takes well under a millisecond on a good one and
    may take many on a bad one, so a loop calls it in a thread. Methods may be called from several threads.

    Args:
        path: Its file; one that is there is appended to.
        by: Who writes: `"runner"`, `"watchdog"`, `"hormesis undo"`.

    Raises:
        OSError: It can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], by: str = "runner") -> None:
        self.path = Path(path)
        self.by = by
        self.ledger = Ledger()
        self._lock = threading.Lock()
        self._read_to = 0
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._mend()
            self.look()
        except BaseException:
            os.close(self._file)
            raise

    @classmethod
    def begin(cls, path: str | os.PathLike[str]) -> Journal:
        """Begin the journal of a run: an older file with nothing outstanding is replaced.

        Raises:
            ConfigurationError: A fault of an earlier run is outstanding; `recover` first.
            OSError: It can't be written.
        """
        path = Path(path)
        with suppress(FileNotFoundError):
            old = Ledger()
            old.read(path.read_bytes())
            if old.outstanding:
                raise ConfigurationError(
                    f"{path}: faults of an earlier run may still be in force; run `hormesis undo {path.parent}`"
                )
            path.unlink()
        journal = cls(path)
        pid = os.getpid()
        journal._append({"record": "run", "pid": pid, "started": marks.started(pid), "boot": boot_id()})
        with suppress(OSError):  # the name of a new file is as precious as what is in it
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return journal

    def enter(self, what: str, undo: Iterable[Undo], lease: float | None = None, arm: str = "") -> Entry:
        """Write down a fault that is about to act.

        Args:
            what: The fault and its place, in words.
            undo: How to take it back, step by step.
            lease: When its time is up, on the monotonic clock.
            arm: Whose it is, where several systems are stressed side by side.

        Raises:
            OSError: It can't be written: the fault must not act.
        """
        with self._lock:
            entry = Entry(self.ledger.last + 1, what, tuple(undo), lease, arm)
            if entry.id > _RECORDS_MAX:
                raise OSError(f"{self.path} holds {_RECORDS_MAX:,} faults already")
            self.ledger.last = entry.id
        record = {"record": "fault", "id": entry.id, "what": what, "arm": arm, "at": time.monotonic()}
        self._append({**record, "lease": lease, "undo": [to_data(step) for step in entry.undo]})
        return entry

    def tick(self, entry: Entry, why: str = "") -> None:
        """Write down that a fault was undone; or, with a reason, that it could not be.

        Raises:
            OSError: It can't be written.
        """
        record = {"record": "stuck", "why": why} if why else {"record": "undone"}
        self._append({**record, "id": entry.id, "by": self.by, "at": time.monotonic()})

    def look(self) -> Ledger:
        """Read what was appended since, by whomever, and return what the journal says now."""
        with self._lock:
            while data := os.pread(self._file, 1 << 20, self._read_to):
                self._read_to += len(data)
                self.ledger.read(data)
        return self.ledger

    def close(self) -> None:
        """Close the file. Closing twice changes nothing."""
        with self._lock:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            if os.write(self._file, line) < len(line):
                self._mend()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._file)

    def _mend(self) -> None:
        """End a line that was cut short, by a crash or a full disk, so that the next record has one of its own."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")


def history(path: str | os.PathLike[str]) -> list[Episode]:
    """Return every fault of a journal, in the order in which they came.

    Raises:
        OSError: It can't be read.
    """
    episodes: dict[int, Episode] = {}
    for line in Path(path).read_bytes().splitlines():
        with suppress(ValueError, KeyError, TypeError):  # cut short by a crash
            record = json.loads(line)
            match record["record"]:
                case "fault":
                    episodes[record["id"]] = Episode(what=record["what"], began=record["at"], arm=record.get("arm", ""))
                case "undone":
                    ended = {"ended": record["at"], "by": record.get("by", ""), "why": ""}
                    if episodes[record["id"]].ended is None:
                        episodes[record["id"]] = dataclasses.replace(episodes[record["id"]], **ended)
                case "stuck":
                    episodes[record["id"]] = dataclasses.replace(episodes[record["id"]], why=record["why"])
    return list(episodes.values())


def replay(
    journal: Journal, entries: Sequence[Entry], *, rebooted: bool = False, each: Callable[[Undone], None] | None = None
) -> list[Undone]:
    """Undo entries, the last first, and tick each in the journal.

    One that can't be undone keeps no other from it, and stays outstanding.

    Args:
        journal: Where they are from.
        entries: Which of them.
        rebooted: The machine was restarted since: what that took back already is only ticked.
        each: Is told of each as it is done.
    """
    found = []
    for entry in reversed(entries):
        undone = Undone(entry, _undo(entry, rebooted=rebooted))
        with suppress(OSError):  # a full disk must not keep the next fault in force
            journal.tick(entry, undone.why)
        found.append(undone)
        if each is not None:
            each(undone)
    return found


def recover(path: str | os.PathLike[str], by: str = "hormesis undo") -> list[Undone]:
    """Undo what a run left in force, as its journal says; one that left nothing is left at that.

    Raises:
        ConfigurationError: The run goes on, or its journal can't be read.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        journal = Journal(path, by)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror or error}") from error
    with journal:
        ledger = journal.ledger
        if ledger.writer_lives and ledger.pid != os.getpid():
            raise ConfigurationError(
                f"{path.parent}: the game day that writes there goes on (process {ledger.pid}); stop it first"
            )
        return replay(journal, ledger.outstanding, rebooted=ledger.boot != boot_id())


def _named(what: str, arm: str) -> str:
    return f"{what} ({arm})" if arm else what


def _undo(entry: Entry, *, rebooted: bool) -> str:
    """Take an entry back; returns what could not be."""
    troubles = []
    for step in entry.undo:
        if rebooted and not step.lasts:
            continue
        try:
            step.act()
        except Exception as error:  # whatever it is, it must not keep the others in force
            troubles.append(str(error) or type(error).__name__)
    return "; ".join(troubles)
