"""The same behind real servers, of tasks, threads and processes, on real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PATIENCE = 20.0

pytestmark = pytest.mark.system


class Server:
    """A server process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def ask(self, path: str = "/", *, timeout: float = PATIENCE) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.ask("/state")[2])
        return state

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        return self.process.wait(PATIENCE)


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return the function that starts a server; all of them are stopped in the end."""
    started: list[Server] = []

    def begin(*command: str, **environment: str) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", *(part.format(port=port) for part in command)],
                cwd=HERE / "served",
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        server = Server(process, port, log)
        started.append(server)
        give_up = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if server.ask("/readyz", timeout=1)[0] == 200:
                    return server
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.02)

    yield begin
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE)


UVICORN = ("uvicorn", "asgi_app:app", "--port", "{port}", "--log-level", "warning")
GUNICORN = ("gunicorn", "wsgi_app:app", "-b", "127.0.0.1:{port}", "--log-level", "warning")
SYNC = (*GUNICORN, "-w", "1")
GTHREAD = (*GUNICORN, "-w", "1", "-k", "gthread", "--threads", "4")
PRELOAD = (*GTHREAD, "--preload", "-c", "gunicorn_conf.py")
SYNC_PRELOAD = (*SYNC, "--preload")

SERVERS = {
    "uvicorn": UVICORN,
    "gunicorn sync": SYNC,
    "gunicorn gthread": GTHREAD,
    "gunicorn gthread --preload": PRELOAD,
    "gunicorn sync --preload": SYNC_PRELOAD,
}


@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS)
def test_a_server_protects_and_leaves(start: Start, command: tuple[str, ...]) -> None:
    """Limits hold; on SIGTERM readiness turns first, all is served for the grace, what is in flight ends, then it."""
    server = start(*command)
    assert [server.ask("/limited")[0] for _ in range(4)] == [200, 200, 200, 429]
    status, headers, _ = server.ask("/limited")
    assert (status, headers["content-type"]) == (429, "application/problem+json")
    assert server.ask()[1]["x-request-id"]
    state = server.state()
    assert (state["in_flight"], state["parts"]["load_shedder"]["in_flight"]) == (1, 1)
    assert state["pid"] != server.process.pid or "uvicorn" in command
    if "--preload" in command:
        assert state["made_in"] == server.process.pid

    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(server.ask("/slow?1.5")[0]))
    if command not in (SYNC, SYNC_PRELOAD):
        slow.start()
        give_up = time.monotonic() + PATIENCE
        while server.state()["in_flight"] < 2:
            assert time.monotonic() < give_up
    server.terminate()
    give_up = time.monotonic() + PATIENCE
    while server.ask("/readyz")[0] == 200:
        assert time.monotonic() < give_up
    assert server.ask()[0] == 200
    if slow.ident is not None:
        slow.join(PATIENCE)
        assert answers == [200], server.log.read_text()
    assert server.ended() in (0, -signal.SIGTERM), server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def test_a_second_signal_does_not_wait(start: Start) -> None:
    """Somebody in a hurry gets what the server does on a signal, at once."""
    server = start(*UVICORN, GRACE="60s")
    server.terminate()
    give_up = time.monotonic() + PATIENCE
    while server.ask("/readyz")[0] == 200:
        assert time.monotonic() < give_up
    server.terminate()
    assert server.ended() in (0, -signal.SIGTERM)


def granted_by_two(server: Server) -> int:
    """How much two processes grant of a limit of three each; asks until both have answered often enough."""
    give_up = time.monotonic() + PATIENCE
    pids: list[int] = []
    while len(set(pids)) < 2 or min(pids.count(pid) for pid in pids) < 2:
        pids.append(server.state()["pid"])
        assert time.monotonic() < give_up, server.log.read_text()
    statuses: list[int] = []
    while statuses.count(200) < 6 or len(statuses) < 20:
        statuses.append(server.ask("/limited")[0])
        assert time.monotonic() < give_up, statuses
    return statuses.count(200)


def test_workers_have_limits_of_their_own(start: Start) -> None:
    """Two processes let in twice as much, start clean, and leave as one does."""
    server = start(*UVICORN, "--workers", "2")
    assert granted_by_two(server) == 6
    server.terminate()
    assert server.ended() in (0, -signal.SIGTERM)


def test_prefork_workers_start_clean(start: Start) -> None:
    """Of an application that was loaded before the fork, each worker has a state of its own."""
    assert granted_by_two(start(*GUNICORN, "-w", "2", "--preload")) == 6


def not_reading(port: int, path: str) -> socket.socket:
    """Ask for more than anybody's buffers hold, and read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


@pytest.mark.parametrize("command", [UVICORN, GTHREAD], ids=["uvicorn", "gunicorn gthread"])
def test_clients_that_never_read_are_cut_off(start: Start, command: tuple[str, ...]) -> None:
    """They take places for so long, and no longer."""
    server = start(*command)
    clients = [not_reading(server.port, "/endless") for _ in range(2)]
    try:
        if command is UVICORN:
            give_up = time.monotonic() + PATIENCE
            while server.ask("/")[0] != 503:
                assert time.monotonic() < give_up
        give_up = time.monotonic() + PATIENCE
        while True:
            status, _, body = server.ask("/state")
            if status == 200 and json.loads(body)["in_flight"] == 1:
                break
            assert time.monotonic() < give_up, server.log.read_text()
            time.sleep(0.05)
    finally:
        for client in clients:
            client.close()


def test_a_server_without_handlers_ends_what_is_in_flight(start: Start) -> None:
    """Where the system itself would end the process, it waits for its answers, and then ends as it would have."""
    server = start("wsgiref_server", "{port}")
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(server.ask("/slow?1")[0]))
    slow.start()
    give_up = time.monotonic() + PATIENCE
    while "slow" not in server.log.read_text():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    server.terminate()
    slow.join(PATIENCE)
    assert answers == [200]
    assert server.ended() == -signal.SIGTERM


def shake_hands(port: int) -> tuple[socket.socket, str]:
    """Begin a WebSocket; returns it, and the status line of the answer."""
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    client.sendall(
        b"GET /talk HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    answer = b""
    while b"\r\n" not in answer and (part := client.recv(4096)):
        answer += part
    return client, answer.split(b"\r\n")[0].decode()


def test_websockets_hold_their_places(start: Start) -> None:
    """While they are open there is no room for a third, which is told so before it is accepted."""
    server = start(*UVICORN)
    first, status = shake_hands(server.port)
    second, _ = shake_hands(server.port)
    assert "101" in status
    refused, status = shake_hands(server.port)
    assert "503" in status
    for client in (first, second, refused):
        client.close()
    give_up = time.monotonic() + PATIENCE
    while server.ask()[0] != 200:
        assert time.monotonic() < give_up
        time.sleep(0.02)
