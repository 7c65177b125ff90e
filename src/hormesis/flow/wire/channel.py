"""A connection over which messages of bytes go, whichever library has made it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol, TypeAlias

from hormesis.core.credit_frames import Code, StreamError
from hormesis.errors import ConfigurationError, HormesisError

__all__ = ["AsgiChannel", "Channel", "Disconnected", "WebSocketsChannel", "channel_of"]

_TOO_BIG = 1009
"""The code with which a connection is closed over a message that is too big."""

Message: TypeAlias = MutableMapping[str, Any]
"""A message of ASGI."""


class Disconnected(HormesisError, ConnectionError):
    """The connection ended before the stream did; what is not acknowledged is sent again over the next one.

    Args:
        reason: How, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after: float | None = None
        """Seconds after which the peer wants to be asked again; None when it said nothing."""

    def __str__(self) -> str:
        return f"the connection ended before the stream did: {self.reason}"


class Channel(Protocol):
    """A connection that keeps messages whole and in order."""

    async def send(self, data: bytes, /) -> None:
        """Send a message; waits while the peer does not read.

        Raises:
            Disconnected: The connection has ended.
        """
        ...

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            Disconnected: The connection has ended.
            StreamError: The peer has sent what is no message of a stream.
        """
        ...

    async def close(self) -> None:
        """End the connection in peace; twice is once."""
        ...

    def abort(self) -> None:
        """End the connection at once, whatever waits to be sent."""
        ...


class AsgiChannel:
    """The server's side of a WebSocket, by the two functions that ASGI gives; it must have been accepted.

    Args:
        receive: What gives the next message of ASGI.
        send: What takes one.
    """

    __slots__ = ("_closed", "_receive", "_send")

    def __init__(self, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._closed = False

    async def send(self, data: bytes) -> None:
        """Send a message."""
        if self._closed:
            raise Disconnected("it is closed")
        try:
            await self._send({"type": "websocket.send", "bytes": data})
        except Exception as error:
            # Each server has an exception of its own for a peer that is gone.
            self._closed = True
            raise Disconnected(str(error) or type(error).__name__) from error

    async def receive(self) -> bytes:
        """Return the next message."""
        if self._closed:
            raise Disconnected("it is closed")
        try:
            message = await self._receive()
        except Exception as error:
            self._closed = True
            raise Disconnected(str(error) or type(error).__name__) from error
        if message["type"] != "websocket.receive":
            self._closed = True
            raise Disconnected(f"the peer closed it with code {message.get('code', 1005)}")
        data = message.get("bytes")
        return data if data is not None else (message.get("text") or "").encode()

    async def close(self) -> None:
        """End the connection in peace."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(Exception):
                await self._send({"type": "websocket.close", "code": 1000})

    def abort(self) -> None:
        """Send nothing more; the server ends the connection when the application does."""
        self._closed = True


class WebSocketsChannel:
    """A connection of the library `websockets`, of either side.

    Args:
        connection: The connection.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def send(self, data: bytes) -> None:
        """Send a message."""
        try:
            await self._connection.send(data)
        except Exception as error:
            raise Disconnected(str(error) or type(error).__name__) from error

    async def receive(self) -> bytes:
        """Return the next message."""
        try:
            return bytes(await self._connection.recv(decode=False))
        except Exception as error:
            if getattr(getattr(error, "sent", None), "code", None) == _TOO_BIG:
                raise StreamError(Code.PROTOCOL, "a message came that is larger than the largest item") from error
            raise Disconnected(str(error) or type(error).__name__) from error

    async def close(self) -> None:
        """End the connection in peace."""
        with contextlib.suppress(Exception):
            await self._connection.close()

    def abort(self) -> None:
        """End the connection at once."""
        transport: asyncio.Transport | None = self._connection.transport
        if transport is not None:
            transport.abort()


def channel_of(connection: Any) -> Channel:
    """Return the channel that a connection is: a `Channel`, a WebSocket of Starlette or FastAPI, or of `websockets`.

    Raises:
        ConfigurationError: It is none of these.
    """
    if isinstance(connection, AsgiChannel | WebSocketsChannel) or hasattr(connection, "abort"):
        return connection  # type: ignore[no-any-return]
    if hasattr(connection, "recv") and hasattr(connection, "send"):
        return WebSocketsChannel(connection)
    if hasattr(connection, "receive") and hasattr(connection, "send"):
        return AsgiChannel(connection.receive, connection.send)
    raise ConfigurationError.bad_value(
        "connection", connection, "a WebSocket of Starlette, FastAPI or websockets, or a Channel"
    )
