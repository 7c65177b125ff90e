"""What the tests of this room share: the API as a client sees it, callers of a proxy, a service that echoes."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from hormesis.chaos.toxiproxy import Proxies

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which what should happen at once is given up."""


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


class Api:
    """A server of the API, as any client sees it."""

    def __init__(self, url: str, proxies: Proxies, loop: asyncio.AbstractEventLoop) -> None:
        self.url = url
        self.proxies = proxies
        self.port = urlsplit(url).port or 0
        self._loop = loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, data, {key.replace("_", "-"): value for key, value in headers.items()})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        found = dict(response.getheaders())
        is_json = found.get("Content-Type", "").startswith("application/json")
        return Answer(response.status, json.loads(text) if is_json else text, found)

    def create(self, name: str, upstream: str, **fields: object) -> dict[str, Any]:
        """Have a proxy, and return it as the API shows it."""
        answer = self.ask("POST", "/proxies", {"name": name, "upstream": upstream, **fields})
        assert answer.status == 201, answer
        return answer.body


def dial(listen: str) -> socket.socket:
    """Connect to a proxy."""
    host, _, port = listen.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)


def exchange(caller: socket.socket, data: bytes = b"ping") -> float:
    """Send, get the same back, and return the seconds it took."""
    began = time.perf_counter()
    caller.sendall(data)
    got = b""
    while len(got) < len(data) and (more := caller.recv(65536)):
        got += more
    assert got == data
    return time.perf_counter() - began


def round_trip(listen: str) -> float:
    """The seconds that a new connection needs for one exchange."""
    with dial(listen) as caller:
        return exchange(caller)


def is_up(listen: str) -> bool:
    """Whether somebody listens there."""
    try:
        dial(listen).close()
    except ConnectionRefusedError:
        return False
    return True


def is_broken(caller: socket.socket) -> bool:
    """Whether a connection ends, one way or the other."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def hangs_up(listen: str) -> bool:
    """Whether a proxy ends a new connection; it may be quicker at that than the connecting."""
    try:
        with dial(listen) as caller:
            return is_broken(caller)
    except ConnectionResetError:
        return True


def free_address() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


class NotServing(Exception):
    """The command ended by itself: what it said, and its exit status."""


class Command:
    """A `hormesis proxy` that runs in a process of its own, until the block ends."""

    def __init__(self, *options: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hormesis", "proxy", *options],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        """What it has said: the API, and each proxy it began with."""
        self.errors = ""

    def __enter__(self) -> Command:
        assert self._process.stdout is not None
        self.lines.append(self._process.stdout.readline().rstrip())
        if not self.lines[0]:
            _, self.errors = self._process.communicate(timeout=PATIENCE)
            raise NotServing(self.errors, self._process.returncode)
        self.url = self.lines[0].split()[2].rstrip(",")
        self.port = int(self.url.rpartition(":")[2])
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def read_line(self) -> str:
        """Wait for one more line, and return it."""
        assert self._process.stdout is not None
        self.lines.append(self._process.stdout.readline().rstrip())
        return self.lines[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it with a signal, and return its exit status."""
        if self._process.returncode is None:
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                _, self.errors = self._process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
                raise
        return self._process.returncode


class Echo:
    """A service that sends back what it gets."""

    def __init__(self, stack: ExitStack) -> None:
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        accepting = threading.Thread(target=self._accept, daemon=True)
        accepting.start()
        stack.callback(accepting.join, PATIENCE)
        stack.callback(self._end)

    def _end(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)


class Site(ThreadingHTTPServer):
    """A web service that answers every GET with `fine`."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that a test has broken."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Fine)
        self.address = f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Site:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Fine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"fine")

    def log_message(self, *_: object) -> None:
        """Say nothing."""
