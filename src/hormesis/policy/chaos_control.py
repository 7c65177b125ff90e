"""A door for whoever doses faults from outside, such as a game day's runner: off unless the environment asks for it.

Where `HORMESIS_CHAOS_CONTROL` names a folder and `HORMESIS_CHAOS_TOKEN` holds a token, a process with a `Chaos` part
listens on a port of the loopback interface, and writes it into a file of that folder, `PID.json`. Every process of a
service does so, workers that were forked included.

A conversation is three lines, within bounded time and size: a challenge, what is asked for, signed with the token and
good for this challenge alone (`hormesis.core.signed`), and the answer in JSON. So the token never travels, and whoever
has listened can't ask again.

    {"do": "dose", "faults": [{"latency": "2s"}], "at": "payments", "for": "30s", "seed": 7}
    {"do": "undo"}
    {"do": "state"}

The answer has `"done"`, or an `"error"` in words. What is dosed ends by itself, since its lease is this process's.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hormesis.core.signed import MESSAGE_MAX, read_signed, sign
from hormesis.errors import ConfigurationError
from hormesis.patterns.chaos_switch import ChaosSwitch, chaos_switch
from hormesis.patterns.injection import Injection

if TYPE_CHECKING:
    import socket

__all__ = ["CONTROL_VARIABLE", "MESSAGE_BYTES", "answer", "ask", "listen_if_asked"]

CONTROL_VARIABLE = "HORMESIS_CHAOS_CONTROL"
"""The environment variable that names the folder."""

MESSAGE_BYTES = 65_536
"""An answer is no longer."""

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
            with contextlib.suppress(OSError), connection:
                connection.settimeout(_PATIENCE_SECONDS)
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        import json  # noqa: PLC0415
        import secrets  # noqa: PLC0415

        challenge = secrets.token_hex(16)
        connection.sendall(challenge.encode() + b"\n")
        line = connection.makefile("rb").readline(MESSAGE_MAX + 1)
        told = answer(chaos_switch, challenge, line.decode("ascii", "replace").strip())
        connection.sendall(json.dumps(told).encode() + b"\n")


def answer(switch: ChaosSwitch, challenge: str, asked: str) -> dict[str, Any]:
    """Do what somebody asks for who has the token, and say what came of it.

    Args:
        switch: What is switched.
        challenge: What the message must be for.
        asked: The signed message; see the module's docstring.

    >>> answer(ChaosSwitch("a token of sixteen"), "1", "undo")
    {'error': 'malformed: it takes a message that is signed with the token of this process'}
    """
    token = switch.token
    # The challenge bounds its time, so there is no clock that it could go by.
    said = "forged" if token is None else read_signed(token, challenge, asked, now=0.0)
    if isinstance(said, str):
        return {"error": f"{said}: it takes a message that is signed with the token of this process"}
    try:
        return {"done": _do(switch, said)}
    except ConfigurationError as error:
        return {"error": str(error)}


def ask(token: str, challenge: str, asked: Mapping[str, Any]) -> bytes:
    """Write the message that `answer` reads, as a line."""
    return sign(token, challenge, asked, expires=1.0, number="").encode() + b"\n"


def _do(switch: ChaosSwitch, asked: Mapping[str, Any]) -> object:
    what = asked.get("do")
    if what == "dose":
        faults = asked.get("faults")
        if not isinstance(faults, list):
            raise ConfigurationError.bad_value("faults", faults, "a list of faults")
        at, seed = asked.get("at", "*"), asked.get("seed", 0)
        return switch.dose(*map(Injection.of, faults), at=at, for_=asked.get("for", ""), seed=seed)
    if what == "undo":
        switch.undo(asked.get("dose"))
        return True
    if what == "state":
        return {**switch.snapshot(), "places": switch.places()}
    raise ConfigurationError.unknown("request", what, ("dose", "undo", "state"), "do")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_door.after_fork)
