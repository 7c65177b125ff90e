"""A scripted HTTP server on a real socket, for tests of the load generator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

import pytest


class Call(NamedTuple):
    """A request as the server read it, and the connection that it came on."""

    target: str
    head: str
    body: bytes
    writer: asyncio.StreamWriter


Handler = Callable[[Call], Awaitable[bytes | None]]
"""Answers a call with the bytes to send; None closes the connection, politely or as the handler left it."""

Serve = Callable[[Handler], AbstractAsyncContextManager[str]]


async def _calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            answer = await handler(Call(head.split(" ", 2)[1], head, body, writer))
            if answer is None:
                return
            writer.write(answer)
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


@asynccontextmanager
async def _serve(handler: Handler) -> AsyncIterator[str]:
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_calls(reader, writer, handler))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


@pytest.fixture
def serve() -> Serve:
    """Return the context manager that serves a handler and gives the base URL."""
    return _serve


@pytest.fixture
def ok() -> Callable[..., bytes]:
    """Return the function that writes an answer."""

    def write(status: int = 200, headers: str = "", body: bytes = b"{}") -> bytes:
        return f"HTTP/1.1 {status} X\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return write
