"""The system of an experiment: its processes, the edges between them, and the arms in which it is set up.

These are the tables `[system.process.NAME]`, `[system.edge.NAME]` and `[arm.NAME]` of the file.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import signal
from collections.abc import Mapping, Sequence

from hormesis.errors import ConfigurationError
from hormesis.tables import Settings
from hormesis.units import Duration, seconds

__all__ = ["FILE_NAME", "NAME", "Arm", "Edge", "ProcessTable", "System", "filled_in", "words_of"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")
"""What processes, edges, arms and stresses may be called: names that are also safe as those of files."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
"""What a file in a scratch folder may be called."""

_API = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_ADDRESS = re.compile(r"([^\s/]+):(\d{1,5})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTable(Settings):
    """`[system.process.NAME]`: a process of the system.

    Commands run without a shell. In all of them, in `env` and in `files`, `{port}`, `{host}` and `{dir}` (a scratch
    folder, empty at first) are filled in, and the variables that the process's edges give it, such as `{DB_PORT}`. In
    `files` any other brace stays as it is, since configuration files are full of them.

    Attributes:
        command: What to run.
        setup: Commands to run first, one after the other, such as one that makes a database; each must end with status
            0. They run once, before the first start.
        files: Files to write into `{dir}` before that, by their names.
        env: Variables for it and for its other commands.
        ready: The HTTP path that answers 2xx once it is ready; without one, it is ready when its port accepts.
        ready_command: A command that ends with status 0 once it is ready, in place of the path.
        ready_within: The time it has for that, and each of the commands before it.
        stop: How it is ended in order: a signal such as `"SIGINT"`, or a command. What is left is killed.
        restart_after: How long after an unexpected end it is started again; left out: only when its stress is over.
        port: A port of its own choice; left out: a free one.
    """

    command: str
    setup: Sequence[str] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ready: str | None = None
    ready_command: str | None = None
    ready_within: Duration = 20.0
    stop: str = "SIGTERM"
    restart_after: Duration | None = None
    port: int | None = None

    def __post_init__(self) -> None:
        named = {"command": self.command, "ready_command": self.ready_command, "stop": self.stop}
        named |= {f"setup.{number}": command for number, command in enumerate(self.setup)}
        for name, command in named.items():
            if command is not None and (not command.strip() or "\0" in command):
                raise ConfigurationError.bad_value(name, command, "a command to run")
        if self.stop.startswith("SIG") and self.stop not in signal.Signals.__members__:
            signals = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGKILL")
            raise ConfigurationError.unknown("signal", self.stop, signals, "stop")
        for name in self.files:
            if not FILE_NAME.fullmatch(name):
                raise ConfigurationError.bad_value(f"files.{name}", name, "a plain file name, such as 'nginx.conf'")
        _check_env(self.env)
        if self.ready is not None and not self.ready.startswith("/"):
            raise ConfigurationError.bad_value("ready", self.ready, "an HTTP path like '/healthz'")
        if self.ready is not None and self.ready_command is not None:
            raise ConfigurationError.bad_value(
                "ready_command", self.ready_command, "no ready beside it: one or the other"
            )
        seconds(self.ready_within, "ready_within")
        if self.restart_after is not None:
            seconds(self.restart_after, "restart_after", zero=True)
        _check_port(self.port)

    def commands(self) -> dict[str, str]:
        """Return all of its commands, by their keys."""
        found = {"command": self.command, **{f"setup.{number}": each for number, each in enumerate(self.setup)}}
        if self.ready_command is not None:
            found["ready_command"] = self.ready_command
        if not self.stop.startswith("SIG"):
            found["stop"] = self.stop
        return found


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Settings):
    """`[system.edge.NAME]`: who calls whom, over a proxy that can fail.

    An edge of a system that runs already may go over a proxy that does, too: `proxy` is then all that it needs.

    Attributes:
        from_: The process that calls.
        to: The process that is called, or `host:port` of something that runs already.
        env: How the proxy's address reaches the caller; `{host}` and `{port}` are the proxy's.
        proxy: The address of a proxy's API that speaks Toxiproxy's, such as `"http://127.0.0.1:8474"`; the proxy there
            has the edge's name.
        port: A port of its own choice for the proxy; left out: a free one.
        policy: The policy, or policies, of the caller that protect this edge; left out: the one of the edge's own name.
    """

    from_: str | None = None
    to: str | None = None
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    proxy: str | None = None
    port: int | None = None
    policy: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.proxy is not None:
            self._check_attached(self.proxy)
            return
        for name, value in (("from", self.from_), ("to", self.to), ("env", self.env)):
            if not value:
                raise ConfigurationError(f"{name} is missing", name)
        if self.address is None and ":" in (self.to or ""):
            accepted = "a process, or an address such as '127.0.0.1:5432'"
            raise ConfigurationError.bad_value("to", self.to, accepted)
        _check_env(self.env)
        _check_port(self.port)

    def _check_attached(self, proxy: str) -> None:
        if not _API.fullmatch(proxy):
            raise ConfigurationError.bad_value("proxy", proxy, "the address of an API, such as 'http://127.0.0.1:8474'")
        for name, value in (("env", self.env), ("port", self.port)):
            if value:
                accepted = "nothing beside proxy, which has an address already"
                raise ConfigurationError.bad_value(name, value, accepted)

    @property
    def address(self) -> tuple[str, int] | None:
        """Where the called one listens; None when it is a process of the system."""
        match = _ADDRESS.fullmatch(self.to or "")
        return (match[1].strip("[]"), int(match[2])) if match and 0 < int(match[2]) < 65536 else None

    def policies(self, name: str) -> list[str]:
        """Return the policies of the caller that protect it, if it is called `name`."""
        own = self.policy or name
        return [own] if isinstance(own, str) else list(own)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class System(Settings):
    """`[system]`: the processes and the edges between them; no processes for a system that runs already."""

    process: Mapping[str, ProcessTable] = dataclasses.field(default_factory=dict)
    edge: Mapping[str, Edge] = dataclasses.field(default_factory=dict)

    def check_placeholders(self, arms: Mapping[str, Arm]) -> None:
        """Refuse commands and variables with placeholders that stand for nothing."""
        for name, edge in self.edge.items():
            for key, value in edge.env.items():
                filled_in(value, {"host": "0", "port": "0"}, f"system.edge.{name}.env.{key}")
        for name, table in self.process.items():
            given = [key for edge in self.edge.values() if edge.from_ == name for key in edge.env]
            known = dict.fromkeys([*given, "port", "host", "dir"], "0")
            for key, command in table.commands().items():
                words_of(command, known, f"system.process.{name}.{key}")
            variables = {f"system.process.{name}.env.{key}": value for key, value in table.env.items()}
            for arm, own in arms.items():
                variables |= {f"arm.{arm}.env.{key}": value for key, value in own.env.items()}
            for key, value in variables.items():
                filled_in(value, known, key)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arm(Settings):
    """`[arm.NAME]`: one way to set the system up.

    Attributes:
        env: Variables for all of its processes.
        judged: Whether the exit status depends on it; left out: every arm but the one called `bare`.
        policies: The policy file that protects it, relative to the experiment's folder, for those who look for the
            policy of an edge; it reaches the processes by `env`.
    """

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    judged: bool | None = None
    policies: str | None = None

    def __post_init__(self) -> None:
        _check_env(self.env)


def _check_env(env: Mapping[str, str]) -> None:
    """Refuse variables that no process can be given."""
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ConfigurationError.bad_value(f"env.{name}", value, "a name without '=', and no NUL in either")


def _check_port(port: int | None) -> None:
    if port is not None and not 0 < port < 65536:
        raise ConfigurationError.bad_value("port", port, "a port from 1 to 65535")


def words_of(command: str, known: Mapping[str, str], key: str) -> list[str]:
    """Split a command into its words, and fill in what its placeholders stand for."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError(f"{key} is {command!r}: {error}", key) from None
    return [filled_in(word, known, key) for word in words]


def filled_in(text: str, known: Mapping[str, str], key: str) -> str:
    """Fill in what the placeholders of a text stand for."""
    try:
        return text.format_map(known)
    except (AttributeError, LookupError, TypeError, ValueError):
        accepted = "the placeholders " + ", ".join(f"{{{name}}}" for name in known)
        raise ConfigurationError.bad_value(key, text, accepted) from None
