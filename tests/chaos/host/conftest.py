"""What the tests of host faults share: a fault that acts for a while, and a process to act on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from hormesis.chaos import marks
from hormesis.chaos.births import spawn
from hormesis.chaos.host import BlockingAct

Acting = Callable[[BlockingAct], AbstractContextManager[None]]
Start = Callable[..., subprocess.Popen[bytes]]


@contextmanager
def _acting(act: BlockingAct) -> Iterator[None]:
    """Put a fault into force and take it back twice; what this machine can't do is skipped, but never in CI."""
    reason = act.possible()
    if reason is not None:
        assert "HORMESIS_NO_SKIPS" not in os.environ, reason
        pytest.skip(reason)
    undo = act.undo()
    try:
        act.apply()
        yield
    finally:
        for _ in range(2):
            for step in undo:
                step.act()
        act.release()


@pytest.fixture
def acting() -> Acting:
    """Return the context in which a fault acts."""
    return _acting


@pytest.fixture
def mark() -> Iterator[int]:
    """Return the mark of a process; what bears it is killed at the end."""
    mark = marks.member(marks.new_run(), 1)
    yield mark
    marks.kill_all(mark)


@pytest.fixture
def start(mark: int) -> Iterator[Start]:
    """Return the function that starts a marked process which runs Python code, and waits for its first line."""
    started = []

    def run(code: str, *prefix: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        process = spawn(
            [*prefix, sys.executable, "-c", code],
            env={**os.environ, **(env or {})},
            mark=mark,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        marks.tidy([process.pid])
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port that sends back what it is sent, on as many connections as come."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
