"""A client of one host that costs little: what sends the load must not be what is measured.

HTTP/1.1 over connections that are kept, one request at a time on each, answers with a Content-Length alone: no more
than what our own servers speak. The last connection to become idle is the first to be used. A request whose time is
over closes its connection, as clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Any

__all__ = ["GONE", "TIMED_OUT", "Client"]

TIMED_OUT, GONE = 0, -1
"""Instead of a status: the time was over; there was no connection, or it broke."""

_HEADERS_END = b"\r\n\r\n"
_LENGTH = b"content-length: "


class _Connection(asyncio.Protocol):
    __slots__ = ("answer", "buffer", "client", "expected", "reused", "transport")

    def __init__(self, client: Client) -> None:
        self.client = client
        self.transport: Any = None
        self.buffer = b""
        self.expected = 0
        self.answer: asyncio.Future[int] | None = None
        self.reused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer = buffer = self.buffer + data
        if not self.expected:
            end = buffer.find(_HEADERS_END)
            if end < 0:
                return
            headers = buffer[:end].lower()
            at = headers.find(_LENGTH)
            length = int(headers[at + len(_LENGTH) :].split(b"\r", 1)[0]) if at >= 0 else 0
            self.expected = end + len(_HEADERS_END) + length
        if len(buffer) < self.expected:
            return
        status, self.buffer, self.expected = int(buffer[9:12]), b"", 0
        answer, self.answer = self.answer, None
        self.reused = True
        self.client.idle.append(self)
        if answer is not None and not answer.done():
            answer.set_result(status)

    def connection_lost(self, error: Exception | None) -> None:
        answer, self.answer = self.answer, None
        if answer is not None and not answer.done():
            answer.set_result(GONE)
        elif self in self.client.idle:
            self.client.idle.remove(self)


class Client:
    """Sends requests to a port of this machine.

    Args:
        port: Of the server.
        connections_max: Connections that are open at once at most; a request that needs one more is `GONE`.
    """

    def __init__(self, port: int, connections_max: int = 8000) -> None:
        self._port = port
        self._max = connections_max
        self._open = 0
        self.idle: list[_Connection] = []
        self._loop = asyncio.get_running_loop()

    async def _connect(self) -> _Connection:
        _, connection = await self._loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        return connection

    async def warm(self, connections: int) -> None:
        """Open so many connections beforehand."""
        self.idle.extend([await self._connect() for _ in range(connections)])

    async def get(self, path: str, headers: Mapping[str, str], timeout: float) -> int:
        """Send a request, and return the status of its answer, or `TIMED_OUT` or `GONE`.

        Args:
            path: Where to.
            headers: Besides Host.
            timeout: Seconds from now on.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n".encode()
        due = monotonic() + timeout
        status = await self._send(request, timeout)
        if status is None:  # a connection that had been kept was just being closed
            status = await self._send(request, due - monotonic())
        return GONE if status is None else status

    async def _send(self, request: bytes, timeout: float) -> int | None:
        """Send a request; None when a connection that was used before broke, which says nothing about the server."""
        self._open += 1
        try:
            if self._open > self._max:
                return GONE
            connection = self.idle.pop() if self.idle else None
            if connection is None:
                try:
                    async with asyncio.timeout(timeout):
                        connection = await self._connect()
                except TimeoutError:
                    return TIMED_OUT
                except OSError:
                    return GONE
            connection.answer = answer = self._loop.create_future()
            timer = self._loop.call_later(timeout, self._over, connection, answer)
            connection.transport.write(request)
            try:
                status: int = await answer
            finally:
                timer.cancel()
            return None if status == GONE and connection.reused else status
        finally:
            self._open -= 1

    @staticmethod
    def _over(connection: _Connection, answer: asyncio.Future[int]) -> None:
        if not answer.done():
            answer.set_result(TIMED_OUT)
            connection.answer = None
            connection.transport.abort()

    def close(self) -> None:
        """Close what is idle."""
        for connection in self.idle:
            connection.transport.close()
        self.idle = []
