"""A door for whoever doses faults from outside, such as a game day's runner: off unless the environment asks for it.

Where `HORMESIS_CHAOS_CONTROL` names a folder and `HORMESIS_CHAOS_TOKEN` holds a token, a process with a `Chaos` part
listens on a port of the loopback interface, and writes it into a file of that folder, `PID.json`. Every process of a
service does so, workers that were forked included.

A conversation is one line of JSON each way, within bounded time and size:

    {"token": "…", "do": "dose", "faults": [{"latency": "2s"}], "at": "payments", "for": "30s", "seed": 7}
    {"token": "…", "do": "undo"}
    {"token": "…", "do": "state"}

The answer has `"done"`, or an `"error"` in words. What is dosed ends by itself, since its lease is this process's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hormesis.errors import ConfigurationError
from hormesis.patterns.chaos_switch import ChaosSwitch, chaos_switch
from hormesis.patterns.injection import Injection

if TYPE_CHECKING:
    import socket

__all__ = ["CONTROL_VARIABLE", "MESSAGE_BYTES", "answer", "listen_if_asked"]

CONTROL_VARIABLE = "HORMESIS_CHAOS_CONTROL"
"""The environment variable that names the folder."""

MESSAGE_BYTES = 65_536
_PATIENCE_SECONDS = 2.0
"""How long one conversation may take."""


class _Door:
    """Where a process listens, if it does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: _Listener | None = None

    def open(self, folder: str) -> None:
        """Listen, unless it does so already."""
        with self._lock:
            if self._listener is None:
                self._listener = _Listener(folder)

    def after_fork(self) -> None:
        """Listen anew: the socket, the file and the conversations are the parent's."""
        self._lock = threading.Lock()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.leave()
            listen_if_asked(chaos_switch)


_door = _Door()


def listen_if_asked(switch: ChaosSwitch) -> None:
    """Begin to listen for the switch of the process, once, if its environment asks for that."""
    folder = os.environ.get(CONTROL_VARIABLE)
    if folder and switch is chaos_switch and switch.token is not None:
        _door.open(folder)


class _Listener:
    """A socket, the file that tells of it, and the thread that answers."""

    def __init__(self, folder: str) -> None:
        import socket  # noqa: PLC0415  hardly any process listens

        self._folder = folder
        self._file = os.path.join(folder, f"{os.getpid()}.json")
        self._server = socket.create_server(("127.0.0.1", 0), backlog=8)
        self._write(self._server.getsockname()[1])
        threading.Thread(target=self._serve, name="hormesis-chaos", daemon=True).start()

    def leave(self) -> None:
        """Let go of what is the parent's, in a process that was forked."""
        self._server.close()

    def _write(self, port: int) -> None:
        import json  # noqa: PLC0415

        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file)  # of an earlier process of this number
        draft = f"{self._file}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"pid": os.getpid(), "port": port}, file)
        os.replace(draft, self._file)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError, ValueError), connection:
                connection.settimeout(_PATIENCE_SECONDS)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        import json  # noqa: PLC0415

        line = connection.makefile("rb").readline(MESSAGE_BYTES)
        try:
            told = answer(chaos_switch, json.loads(line))
        except (ValueError, RecursionError):
            told = {"error": "this is no line of JSON"}
        connection.sendall(json.dumps(told).encode() + b"\n")


def answer(switch: ChaosSwitch, asked: object) -> dict[str, Any]:
    """Do what somebody asks for who has the token, and say what came of it.

    Args:
        switch: What is switched.
        asked: What was asked; see the module's docstring.

    >>> answer(ChaosSwitch("a token of sixteen"), {"do": "undo", "token": "another one"})
    {'error': 'the token is another one than this process has'}
    """
    if not isinstance(asked, Mapping):
        return {"error": "this is no table"}
    try:
        if not switch.allows(asked.get("token")):
            return {"error": "the token is another one than this process has"}
        return {"done": _do(switch, asked)}
    except ConfigurationError as error:
        return {"error": str(error)}


def _do(switch: ChaosSwitch, asked: Mapping[str, Any]) -> object:
    what = asked.get("do")
    if what == "dose":
        faults = asked.get("faults")
        if not isinstance(faults, list):
            raise ConfigurationError.bad_value("faults", faults, "a list of faults")
        at, seed = asked.get("at", "*"), asked.get("seed", 0)
        return switch.dose(*map(Injection.of, faults), at=at, for_=asked.get("for", ""), seed=seed)
    if what == "undo":
        return switch.undo(asked.get("dose"))
    if what == "state":
        return {**switch.snapshot(), "places": switch.places()}
    raise ConfigurationError.unknown("request", what, ("dose", "undo", "state"), "do")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_door.after_fork)
