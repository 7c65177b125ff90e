"""A client of HTTP/1.1 that gets out of the way: bytes go out, and each request ends in one call.

It is made for measuring. There is no task, future or timer for a request: a connection is an `asyncio.Protocol`, the
parser is llhttp (`httptools`), and an exchange is an object with slots that its connection fills in. It does what it is
told and nothing else: no request is sent twice, no redirect followed, no cookie kept, no proxy of the environment used,
no body unpacked. That makes it several times as fast as the clients that applications use, whose work would otherwise
be taken for the server's.

The time that an exchange may take is its owner's business, who `abandon`s it. That closes its connection: an answer
which nobody waits for any longer must not be taken for the next one's.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable, Collection
from time import monotonic
from typing import cast

from hormesis.errors import MissingExtraError
from hormesis.loadgen.origin import Origin

try:
    import httptools
except ImportError as missing:
    raise MissingExtraError("hormesis.loadgen.http1", "gameday") from missing

__all__ = ["CLIENT_FULL", "UNPROVEN_MAX", "Client", "Exchange", "kind_of"]

CLIENT_FULL = "client full"
"""The error of what this machine, not the service, had no room for."""

IDLE_MAX = 1.0
"""Seconds that an idle connection is kept: less than servers keep it, so that none is used while they close it."""

UNPROVEN_MAX = 64
"""Kept connections that have not answered anything yet at most, unless as many have. A service that stops for a while
would otherwise find a new connection from each caller of that time, and what it costs to accept them all be counted as
its latency, where callers who share connections would just have waited."""

_BODY_MAX = 16 * 1024 * 1024
"""Bytes of a body that are kept for a check at most; an answer that is longer can't be held against anything."""

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EMFILE: CLIENT_FULL,
    errno.ENFILE: CLIENT_FULL,
    errno.EADDRNOTAVAIL: CLIENT_FULL,
    errno.ENOBUFS: CLIENT_FULL,
}


class Exchange:
    """One request on the wire, and what comes back.

    Attributes:
        payload: The bytes of the request.
        head_only: Whether the answer has no body whatever its headers say, as to HEAD.
        keep_body: Whether the body is wanted.
        status: The HTTP status; 0 while none has come.
        headers: Those of the answer that its client was asked to keep, by their names in small letters.
        body: The body, if it is wanted.
    """

    __slots__ = ("_at", "body", "head_only", "headers", "keep_body", "payload", "status")

    def __init__(self, payload: bytes, *, head_only: bool = False, keep_body: bool = False) -> None:
        self.payload = payload
        self.head_only = head_only
        self.keep_body = keep_body
        self.status = 0
        self.headers: dict[str, str] | None = None
        self.body = b""
        self._at: _Connection | asyncio.Task[bool] | None = None


class Client:
    """Sends exchanges to one origin, each on a connection that is its own for as long as it lasts.

    Where connections are kept, an exchange that finds none idle waits for whichever comes first: the one that is opened
    because of it, or another that becomes free. (A service that stopped for two seconds may have dropped the first
    packet of a connection, which is repeated after one second, and after two more; its caller need not wait so long.)
    Where they are not, a connection is opened for one exchange and for no other.

    Args:
        origin: Where to.
        ended: Called with each exchange when it has ended by itself, and the error: empty if the answer is complete.
        keep_alive: Whether connections are used again.
        connections_max: Connections at most; what finds none waits for one. None is no limit to those that are proven:
            of kept ones, as many again as have answered something may be open, 64 at least, and as many as ever had
            at the same time. Until there has been an answer there is no limit.
        headers: Names of the answers' headers to keep, in small letters.
        tls: How to make TLS connections; None verifies the server by this machine's authorities.

    Attributes:
        waited: Exchanges that were kept back since there were as many connections as there may be.
    """

    def __init__(
        self,
        origin: Origin,
        ended: Callable[[Exchange, str], None],
        *,
        keep_alive: bool,
        connections_max: int | None = None,
        headers: Collection[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.origin = origin
        self.ended = ended
        self.keep_alive = keep_alive
        self.wanted = {name.encode(): name for name in headers}
        self._connections_max = connections_max
        self._tls = (tls or ssl.create_default_context()) if origin.secure else None
        self._loop = asyncio.get_running_loop()
        self._idle: dict[_Connection, float] = {}  # since when; the last one is the last that became idle
        self._waiting: deque[Exchange] = deque()
        self._open: set[_Connection] = set()
        self._connecting: dict[asyncio.Task[bool], None] = {}  # in the order in which they began
        self._addresses: list[str] = []
        self._resolving: asyncio.Task[list[str]] | None = None
        self._proven = self._proven_most = 0
        self._queued = 0  # how many waited when the last exchange had joined them
        self.waited = 0

    @property
    def connections(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open) + len(self._connecting)

    def send(self, exchange: Exchange) -> None:
        """Send a request, at once where a connection is idle."""
        idle = self._idle
        while idle:
            connection, since = idle.popitem()
            if monotonic() - since > IDLE_MAX:
                # The others have been idle for even longer.
                for stale in (connection, *idle):
                    stale.close()
                idle.clear()
            elif connection.usable:
                connection.send(exchange)
                return
        opens = self._may_open() and not self._catching_up()
        self.waited += not opens
        if self.keep_alive or not opens:
            self._waiting.append(exchange)
        self._queued = len(self._waiting)
        if opens:
            self._begin(None if self.keep_alive else exchange)

    def _may_open(self) -> bool:
        connections, proven, most = self.connections, self._proven, self._proven_most
        if self._connections_max is not None and connections >= self._connections_max:
            return False
        unlimited = not self.keep_alive or not most
        return unlimited or connections < most or connections - proven < max(UNPROVEN_MAX, proven)

    def _catching_up(self) -> bool:
        """Whether many wait, but ever fewer: then more connections would only be more work for the service."""
        return UNPROVEN_MAX < len(self._waiting) < self._queued

    def _begin(self, exchange: Exchange | None) -> None:
        """Begin to connect, for one exchange or for whichever waits then."""
        task = self._loop.create_task(self._connect(exchange))
        if exchange is not None:
            exchange._at = task
        self._connecting[task] = None
        task.add_done_callback(self._tried)

    def abandon(self, exchange: Exchange) -> None:
        """Forget an exchange that has not ended; its `ended` is not called."""
        at, exchange._at = exchange._at, None
        if isinstance(at, _Connection):
            at.abandon()
        elif at is not None:
            at.cancel()
        else:
            # Nearly always it is the one that has waited longest.
            self._waiting.remove(exchange)
            if len(self._connecting) > len(self._waiting):
                # It would go on repeating itself, ever more seldom, and keep others from being begun.
                next(iter(self._connecting)).cancel()

    def close(self) -> None:
        """Close every connection at once; exchanges under way are forgotten."""
        self._waiting.clear()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.abandon()
        self._idle.clear()

    def free(self, connection: _Connection) -> None:
        """Take back a connection whose answer is complete."""
        if not connection.proven:
            connection.proven = True
            self._proven += 1
            self._proven_most = max(self._proven, self._proven_most)
        self._use(connection)

    def _use(self, connection: _Connection) -> None:
        """Give a connection to who has waited longest, or keep it."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif connection.usable:
            self._idle[connection] = monotonic()

    def lost(self, connection: _Connection) -> None:
        """Take note that a connection is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)
        self._proven -= connection.proven
        self._next()

    def _next(self) -> None:
        """Begin another connection, if there are more who wait for one, and if there may be another."""
        begun = len(self._connecting) if self.keep_alive else 0
        if len(self._waiting) > begun and self._may_open():
            self._begin(None if self.keep_alive else self._waiting.popleft())

    def _tried(self, task: asyncio.Task[bool]) -> None:
        self._connecting.pop(task, None)
        if task.cancelled() or not task.result():
            self._next()

    async def _connect(self, exchange: Exchange | None) -> bool:
        """Connect, and send what is waiting; returns whether there is a connection."""
        connection = _Connection(self)
        try:
            await self._reach(connection)
        except OSError as failure:
            if exchange is None and self._waiting:
                exchange = self._waiting.popleft()
            if exchange is not None:
                exchange._at = None
                self.ended(exchange, kind_of(failure))
            return False
        except asyncio.CancelledError:
            connection.abandon()
            raise
        self._connecting.pop(cast("asyncio.Task[bool]", asyncio.current_task()))
        if connection.usable:  # it may have been closed already
            self._open.add(connection)
        if exchange is None:
            self._use(connection)
        else:
            connection.send(exchange)
        return True

    async def _reach(self, connection: _Connection) -> None:
        """Connect to the first address that takes it, and begin with that one the next time."""
        addresses = self._addresses or await self._resolve()
        for number, address in enumerate(addresses):
            try:
                await self._loop.create_connection(
                    lambda: connection,
                    address,
                    self.origin.port,
                    ssl=self._tls,
                    server_hostname=self.origin.host if self._tls else None,
                )
            except OSError:
                if number == len(addresses) - 1:
                    raise
            else:
                if number:
                    self._addresses = [address]
                return

    async def _resolve(self) -> list[str]:
        """Look the host up, once for all who ask at the same time."""
        if self._resolving is None:
            self._resolving = self._loop.create_task(self._look_up())
            self._resolving.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            self._addresses = await asyncio.shield(self._resolving)
        except OSError:
            self._resolving = None
            raise
        return self._addresses

    async def _look_up(self) -> list[str]:
        try:
            found = await self._loop.getaddrinfo(self.origin.host, self.origin.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # such as a label that is too long
            raise OSError(str(error)) from None
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Connection(asyncio.Protocol):
    """One connection, with one exchange at a time."""

    __slots__ = ("_client", "_exchange", "_framed", "_headed", "_parser", "_transport", "proven")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headed = False  # the headers of an answer have been read, but not yet all of its body
        self._framed = False  # they say where the body ends
        self.proven = False  # it has answered something

    @property
    def usable(self) -> bool:
        """Whether the connection is open, as far as this side knows."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange) -> None:
        """Write a request; what comes next is its answer."""
        self._exchange = exchange
        exchange._at = self
        if self._transport is None or self._transport.is_closing():
            self._end("disconnected")
        else:
            self._transport.write(exchange.payload)

    def close(self) -> None:
        """Close politely: nothing is under way."""
        self._drop()
        if self._transport is not None:
            self._transport.close()

    def abandon(self) -> None:
        """Close at once, whatever is under way."""
        self._drop()
        if self._transport is not None:
            self._transport.abort()

    def _drop(self) -> None:
        self._exchange = None
        self._parser = None

    # From the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a defect of ours is no defect of the answer
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end("malformed")

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is under way: as complete, if its end was the only thing to tell where the body ends."""
        self._transport = None
        if self._exchange is not None:
            if exc is None and self._headed and not self._framed:
                self._end("")
            else:
                self._end("disconnected" if exc is None else kind_of(exc))
        self._parser = None
        self._client.lost(self)

    # From the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header that somebody wants."""
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True
        if name in self._client.wanted and (exchange := self._exchange) is not None:
            if exchange.headers is None:
                exchange.headers = {}
            exchange.headers[self._client.wanted[name]] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Take the status; what HEAD asks for ends here."""
        exchange, parser = self._exchange, self._parser
        if exchange is None or parser is None:
            return
        exchange.status = parser.get_status_code()
        self._headed = exchange.status >= 200
        if exchange.head_only and self._headed:
            keep = parser.should_keep_alive()
            # Its headers speak of a body that does not come, and this one would wait for it.
            self._parser = httptools.HttpResponseParser(self)
            self._complete(exchange, keep=keep)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body if it is wanted."""
        exchange = self._exchange
        if exchange is not None and exchange.keep_body:
            exchange.body += body
            if len(exchange.body) > _BODY_MAX:
                self._end("answer too large")

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was only the announcement of one."""
        if not self._headed:
            self._framed = False
            return
        exchange, parser = self._exchange, self._parser
        if exchange is not None and parser is not None:
            self._complete(exchange, keep=parser.should_keep_alive())

    def _complete(self, exchange: Exchange, *, keep: bool) -> None:
        self._headed = self._framed = False
        if keep and self._client.keep_alive:
            self._exchange = exchange._at = None
            self._client.free(self)
            self._client.ended(exchange, "")
        else:
            self._end("")

    def _end(self, error: str) -> None:
        """End the exchange, and the connection with it."""
        exchange = self._exchange
        self.close()
        if exchange is not None:
            exchange._at = None
            self._client.ended(exchange, error)


def kind_of(failure: Exception) -> str:
    """Return the kind of a failure in a word or two, for tables."""
    if isinstance(failure, ssl.SSLError):
        return "tls"
    if isinstance(failure, ConnectionResetError):
        return "reset"
    if isinstance(failure, OSError):
        return _KINDS.get(failure.errno or 0, "unreachable")
    return "malformed"
