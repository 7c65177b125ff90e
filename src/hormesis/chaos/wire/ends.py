"""The two ends of a connection: sockets as the lanes see them, with TLS or without.

An end with TLS is a socket and a machine between two buffers (`ssl.SSLObject`). All that comes in is decrypted at once
and handed on, so nothing readable ever hides behind a socket that is not; what is encrypted and not yet sent is
`unsent`, and goes first.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from hormesis.chaos.wire.poller import Poller, Watch

__all__ = ["AGAIN", "End", "TlsEnd"]

AGAIN = (BlockingIOError, InterruptedError)
"""What is raised where there is nothing to be read, or no room to write."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST instead of FIN."""
_CHUNK = 64 * 1024
_UNPACED = b"reno"
"""The congestion control that every kernel has and allows everybody."""


class End:
    """One side of a connection.

    Args:
        sock: Its socket, open.
        poller: Who says when it is ready.
    """

    spliceable = True
    """Whether the bytes of the socket are the bytes of the stream."""
    unsent = False
    """Whether bytes that were taken are not sent yet."""
    ended = False
    """Whether the peer has said its last, beside what is still to be read."""

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.fd = sock.fileno()
        self.watch = Watch(poller, self.fd)
        self.recv_into: Callable[[memoryview], int] = sock.recv_into
        """Read into a buffer, and return how many bytes; 0 at the end."""
        self.send: Callable[[memoryview], int] = sock.send
        """Take bytes to be sent, and return how many."""

    @property
    def buffered(self) -> bool:
        """Whether there may be something to read though the socket has nothing."""
        return False

    def open(self) -> bool:
        """Go on with what must be agreed before bytes can travel, and say whether it is done.

        Raises:
            OSError: It can't be.
        """
        return True

    def flush(self) -> bool:
        """Send what is unsent, and say whether nothing is left."""
        return True

    def end(self) -> None:
        """Say the last to the peer, and hear it still."""
        self.sock.shutdown(socket.SHUT_WR)

    def unpace(self) -> None:
        """Send without pauses to a peer on this machine; to be called once the connection stands.

        The host's congestion control may pace what is sent (BBR does), by a timer of the kernel. That is kind to a
        network. Where there is none it takes a third of the throughput.
        """
        if self.sock.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_CONGESTION"):
            return
        with suppress(OSError):  # It may have broken already, which whoever reads it will see.
            if self.sock.getsockname()[0] == self.sock.getpeername()[0]:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)

    def close(self) -> None:
        """Close."""
        self.watch.stop()
        self.sock.close()

    def reset(self) -> None:
        """Break: the peer gets RST."""
        with suppress(OSError):  # It may have broken already, and some systems then refuse.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.watch.stop()
        self.sock.close()


class TlsEnd(End):
    """One side of a connection, with TLS.

    Args:
        sock: Its socket, open.
        poller: Who says when it is ready.
        context: Certificates, and what is to be verified.
        server_name: Of the server, where the peer is one; None where the peer is a client.
    """

    spliceable = False

    def __init__(
        self, sock: socket.socket, poller: Poller, context: ssl.SSLContext, server_name: str | None = None
    ) -> None:
        super().__init__(sock, poller)
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._pending = memoryview(b"")
        self._said_goodbye = False
        server = server_name is None
        self._tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=server_name)
        self.recv_into = self._recv_into
        self.send = self._send

    @property
    def buffered(self) -> bool:
        """Whether bytes came that are not decrypted yet."""
        return self._in.pending > 0

    def open(self) -> bool:
        """Go on with the handshake."""
        self._fill()
        if self.ended:
            raise ConnectionResetError("the peer ended the connection before TLS was agreed on")
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()  # an alert, too, where it fails
        return True

    def flush(self) -> bool:
        """Send what is encrypted."""
        while self._pending or self._out.pending:
            if not self._pending:
                self._pending = memoryview(self._out.read(_CHUNK))
            try:
                self._pending = self._pending[self.sock.send(self._pending) :]
            except AGAIN:
                break
        self.unsent = bool(self._pending or self._out.pending)
        return not self.unsent

    def end(self) -> None:
        """Say so in TLS first."""
        self._say_goodbye()
        super().end()

    def close(self) -> None:
        """Say so in TLS first, if it can be done at once."""
        self._say_goodbye()
        super().close()

    def _say_goodbye(self) -> None:
        self._said_goodbye = True
        with suppress(OSError):  # It does not wait for the peer's, and nobody is there to hear of what fails.
            self._tls.unwrap()
        with suppress(OSError):
            self.flush()

    def _recv_into(self, buffer: memoryview) -> int:
        self._fill()
        size = 0
        try:
            while size < len(buffer):
                # Into a buffer it reads how many bytes, and no bytes, whatever its type says.
                read = cast(int, self._tls.read(len(buffer) - size, buffer[size:]))  # pyright: ignore[reportArgumentType]
                if not read:
                    self.ended = True
                    break
                size += read
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            if not self._said_goodbye:
                raise
            self.ended = True  # OpenSSL reads no more after a farewell of both sides, and some peers say no more.
        if self._out.pending:
            self.flush()
        if not size and not self.ended:
            raise BlockingIOError
        return size

    def _send(self, data: memoryview) -> int:
        if self.unsent and not self.flush():
            raise BlockingIOError
        size = self._tls.write(data[:_CHUNK])
        self.flush()
        return size

    def _fill(self) -> None:
        try:
            data = self.sock.recv(_CHUNK)
        except AGAIN:
            return
        if data:
            self._in.write(data)
        else:
            self.ended = True
            self._in.write_eof()
