"""How a fault is taken back, as data.

A fault is undone by whoever is still there: the runner, the watchdog after the runner's death, `hormesis undo` after
the death of both. So how to undo it is not a method of the fault but a value that can be written down before the fault
acts, and be carried out by a stranger. Carrying it out twice, or when the fault never came into force, changes nothing.

Only the standard library is imported here: the watchdog uses it in a bare interpreter.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeAlias

from hormesis.chaos import marks

__all__ = [
    "PROXY_TOKEN",
    "Cgroup",
    "Limit",
    "NotUndone",
    "Remove",
    "Request",
    "Run",
    "Signal",
    "Undo",
    "Write",
    "authorization",
    "from_data",
    "to_data",
]

PROXY_TOKEN = "HORMESIS_PROXY_TOKEN"  # noqa: S105  the name of it
"""The variable with the token of a proxy's API: what `hormesis proxy` asks for, and what a game day shows."""

_WITHIN = 1.0
"""Seconds that one command or request may take, if nothing else is said: what hangs must not keep the others from being
undone in time."""


class NotUndone(Exception):
    """Something could not be taken back; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """A signal to marked processes: SIGCONT thaws them; SIGKILL ends them and waits for that.

    Args:
        mark: Who gets it (`marks`).
        number: The signal.
        group: Their process group, for systems without marks; 0 when there is none.
        started: When the leader of the group was started: a group with another leader is somebody else's.
    """

    kind: ClassVar[str] = "signal"
    lasts: ClassVar[bool] = False
    mark: int
    number: int
    group: int = 0
    started: str = ""

    def __str__(self) -> str:
        return f"{signal.Signals(self.number).name} to its processes"

    def act(self) -> None:
        """Carry it out."""
        if self.group and marks.started(self.group) in ("", self.started):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, self.number)
        if self.number != signal.SIGKILL:
            marks.send(self.mark, self.number)
            return
        try:
            marks.tidy(marks.kill_all(self.mark))
        except TimeoutError as error:
            raise NotUndone(str(error)) from None


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """A soft resource limit of marked processes, set back to what it was.

    Args:
        mark: Whose limit.
        resource: Which, as the kernel counts them.
        soft: What it was; -1 is no limit.
    """

    kind: ClassVar[str] = "limit"
    lasts: ClassVar[bool] = False
    mark: int
    resource: int
    soft: int

    def __str__(self) -> str:
        return f"resource limit {self.resource} back to {'none' if self.soft < 0 else self.soft}"

    def act(self) -> None:
        """Carry it out."""
        for pid in marks.find(self.mark):
            with suppress(ProcessLookupError):
                _, hard = resource.prlimit(pid, self.resource)
                soft = self.soft if hard == resource.RLIM_INFINITY or 0 <= self.soft <= hard else hard
                resource.prlimit(pid, self.resource, (soft, hard))


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A command, run without a shell.

    Args:
        argv: The command and its arguments.
        gone: What it says, in part, when there is nothing to undo any more: that is no failure.
        within: How many seconds it may take; then it is killed.
    """

    kind: ClassVar[str] = "run"
    lasts: ClassVar[bool] = False
    argv: Sequence[str]
    gone: Sequence[str] = ()
    within: float = _WITHIN

    def __str__(self) -> str:
        return " ".join(self.argv)

    def act(self) -> None:
        """Carry it out."""
        try:
            done = subprocess.run(  # noqa: S603  # written down by the runner, in a folder of its own
                list(self.argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self.within,
                check=False,
                text=True,
                errors="replace",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise NotUndone(f"`{self}` did not end within {self.within:g} s") from None
        said = (done.stderr or done.stdout).strip()
        if done.returncode != 0 and not any(part in said for part in self.gone):
            raise NotUndone(f"`{self}` ended with status {done.returncode}: {said}")


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """A file that is there still is overwritten with what was in it."""

    kind: ClassVar[str] = "write"
    lasts: ClassVar[bool] = True
    path: str
    text: str

    def __str__(self) -> str:
        return f"write {self.path}"

    def act(self) -> None:
        """Carry it out."""
        with suppress(FileNotFoundError), open(self.path, "r+", encoding="utf-8") as file:
            file.write(self.text)
            file.truncate()


@dataclasses.dataclass(frozen=True, slots=True)
class Remove:
    """A file is deleted."""

    kind: ClassVar[str] = "remove"
    lasts: ClassVar[bool] = True
    path: str

    def __str__(self) -> str:
        return f"delete {self.path}"

    def act(self) -> None:
        """Carry it out."""
        with suppress(FileNotFoundError):
            os.unlink(self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class Cgroup:
    """The processes of a control group go back to its parent, and the group is removed."""

    kind: ClassVar[str] = "cgroup"
    lasts: ClassVar[bool] = False
    path: str

    def __str__(self) -> str:
        return f"remove control group {self.path}"

    def act(self) -> None:
        """Carry it out."""
        parent = os.path.join(os.path.dirname(self.path), "cgroup.procs")
        for _ in range(100):  # what its processes start meanwhile is in it as well
            try:
                with open(os.path.join(self.path, "cgroup.procs"), encoding="ascii") as file:
                    pids = file.read().split()
                for pid in pids:
                    with suppress(ProcessLookupError), open(parent, "w", encoding="ascii") as file:
                        file.write(pid)
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            else:
                return
        raise NotUndone(f"the control group {self.path} does not get empty")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, such as the DELETE of a toxic; that nothing is there any more (404) is well.

    Args:
        method: Its method.
        url: Where to; `http` or `https`, and no proxy on the way.
        headers: Its headers.
        body: Its body.
        token: The variable of the environment with the token to show (`Authorization: Bearer …`), if it is set there.
            A journal lies about for years, so the token itself is not in it.
    """

    kind: ClassVar[str] = "request"
    lasts: ClassVar[bool] = True
    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: str = ""
    token: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.url}"

    def act(self) -> None:
        """Carry it out."""
        from http import client  # noqa: PLC0415  only few need it, and it takes longer than all else here
        from urllib.parse import urlsplit  # noqa: PLC0415

        parts = urlsplit(self.url)
        kind = client.HTTPSConnection if parts.scheme == "https" else client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_WITHIN)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            headers = {**self.headers, **authorization(self.token)}
            connection.request(self.method, target, self.body.encode() or None, headers)
            status = connection.getresponse().status
        except (OSError, client.HTTPException) as error:
            raise NotUndone(f"{self}: {str(error) or type(error).__name__}") from None
        finally:
            connection.close()
        if status != 404 and not 200 <= status < 300:
            wanted = f"; the token that it takes is read from {self.token}" if self.token and status == 401 else ""
            raise NotUndone(f"{self} was answered {status}{wanted}")


def authorization(variable: str) -> dict[str, str]:
    """Return the header that shows the token in a variable of the environment; none where there is no token."""
    token = os.environ.get(variable, "").strip() if variable else ""
    return {"Authorization": f"Bearer {token}"} if token and token.isascii() and token.isprintable() else {}


Undo: TypeAlias = Signal | Limit | Run | Write | Remove | Cgroup | Request
"""One step of taking a fault back: `act()` carries it out, `str()` says it; `lasts` tells whether what it takes back
outlives a restart of the machine."""

_KINDS: dict[str, type[Undo]] = {kind.kind: kind for kind in (Signal, Limit, Run, Write, Remove, Cgroup, Request)}


def to_data(undo: Undo) -> dict[str, Any]:
    """Return an undo as a table that JSON can hold."""
    return {"kind": undo.kind, **dataclasses.asdict(undo)}


def from_data(table: Mapping[str, Any]) -> Undo:
    """Make an undo from its table.

    Raises:
        ValueError: It is none.
    """
    try:
        settings = dict(table)
        return _KINDS[settings.pop("kind")](**settings)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{dict(table)!r} is no undo: {error}") from None
