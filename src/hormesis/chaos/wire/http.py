"""HTTP/1.1 on a connection, read along: which request bytes belong to, and what is done to requests and answers.

Both directions are parsed by h11, a message at a time, and forwarded as the bytes they came in: what no fault strikes
passes unchanged. A request is decided on when its head is whole. Requests that get an answer of ours are not forwarded;
the answer takes its place in the queue of answers, so that pipelined requests are answered in order.

After an upgrade or a CONNECT that was granted, and from the first byte that is no HTTP, bytes pass as they are.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import h11

from hormesis.chaos.faults import Rewrite, Status, Truncate
from hormesis.chaos.faults.aim import Head
from hormesis.chaos.faults.http import pairs
from hormesis.chaos.wire.forces import Strike
from hormesis.chaos.wire.stages import Data, Mark
from hormesis.units import bytes_of

__all__ = ["Conversation", "Out"]

_HEAD_MAX = 64 * 1024
"""Bytes of a head; a longer one is passed on unread."""
_AHEAD_MAX = 64 * 1024
"""Bytes of requests that wait for an upgrade to be decided."""
_QUEUE_MAX = 1000
"""Answers that are waited for; a client that asks for more without reading is made to wait."""
_REASONS = {int(status): status.phrase for status in HTTPStatus}
_REQUEST = re.compile(rb"[A-Z]{1,20} [!-~]+ HTTP/1\.[01]\r?")
_METHOD = re.compile(rb"[A-Z]{0,20}")
_VERSIONS = (b"HTTP/1.1\r", b"HTTP/1.0\r")
_LINE = re.compile(rb"[^\n]*\n")

Out: TypeAlias = Callable[[Data, frozenset[str]], None]


class _Exchange:
    """A request, and its answer.

    Args:
        request: As it was parsed.
        strike: What strikes it.
    """

    __slots__ = ("cut", "method", "ours", "request", "strike", "switches")

    def __init__(self, request: h11.Request, strike: Strike) -> None:
        self.request = request
        self.strike = strike
        self.method = request.method
        self.ours = next((fault for fault in strike.faults if isinstance(fault, Status)), None)
        self.cut = min((bytes_of(f.truncate, least=0) for f in strike.faults if isinstance(f, Truncate)), default=None)
        """Bytes of the answer's body that still pass; None: all."""
        self.switches = request.method == b"CONNECT" or any(name == b"upgrade" for name, _ in request.headers)

    @property
    def asked(self) -> bool:
        """Whether the dependency gets the request."""
        return self.ours is None or self.ours.ask

    @property
    def is_cut(self) -> bool:
        """Whether the answer had more of a body than passes."""
        return self.cut is not None and self.cut < 0

    @property
    def waits(self) -> bool:
        """Whether the client waits for leave to send the body."""
        return b"100-continue" in _tokens(self.request, b"expect")

    @property
    def last(self) -> bool:
        """Whether the connection ends with our answer: the client wants no other, or may never send its body."""
        tokens = _tokens(self.request, b"connection")
        old = self.request.http_version < b"1.1" and b"keep-alive" not in tokens
        return old or b"close" in tokens or self.waits

    def answer(self, fault: Status) -> bytes:
        """Return the answer that a fault gives."""
        body = fault.body.encode()
        bare = fault.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        headers = [(name, str(value)) for name, value in pairs(fault.headers)]
        if body and not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "text/plain; charset=utf-8"))
        if not bare:
            headers.append(("Content-Length", str(len(body))))
        if self.last:
            headers.append(("Connection", "close"))
        elif self.request.http_version < b"1.1":
            headers.append(("Connection", "keep-alive"))
        lines = [f"HTTP/1.1 {fault.status} {_REASONS.get(fault.status, '')}", *(f"{n}: {v}" for n, v in headers)]
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"
        return self.rewritten(head, "downstream") + (b"" if bare or self.method == b"HEAD" else body)

    def rewritten(self, head: bytes, stream: str) -> bytes:
        """Return a head with its headers changed."""
        for fault in self.strike.faults:
            if isinstance(fault, Rewrite) and fault.stream in (stream, "both"):
                head = _rewrite(head, fault)
        return head


class _Side:
    """A parser, and the raw bytes that it was fed and has not consumed."""

    def __init__(self, parser: h11.Connection, fed: bytes = b"") -> None:
        self.parser = parser
        self._raw = bytearray()
        if fed:
            self.feed(fed)

    def feed(self, data: bytes) -> None:
        self._raw += data
        self.parser.receive_data(data)

    def next(self) -> tuple[Any, bytes]:
        """Return the next event, and the bytes that it was made of.

        Raises:
            h11.RemoteProtocolError: It is no HTTP.
        """
        event = self.parser.next_event()
        left = len(self.parser.trailing_data[0])
        used = len(self._raw) - left
        raw = bytes(self._raw[:used])
        del self._raw[:used]
        return event, raw

    @property
    def held(self) -> int:
        """Bytes that are not consumed."""
        return len(self._raw)

    @property
    def begins_a_request(self) -> bool:
        """Whether they may be the beginning of a request: h11 would wait for a whole head before it says no."""
        line, end, _ = bytes(self._raw[:_HEAD_MAX]).partition(b"\n")
        if end:
            return _REQUEST.fullmatch(line) is not None
        method, _, rest = line.partition(b" ")
        version = rest.partition(b" ")[2]
        return _METHOD.fullmatch(method) is not None and any(known.startswith(version) for known in _VERSIONS)

    def rest(self) -> bytes:
        """Take all that is not consumed."""
        rest = bytes(self._raw)
        self._raw.clear()
        return rest


class Conversation:
    """The requests and answers of a connection.

    Args:
        strike: Decides on a request by its head; None for what is no request of HTTP.
        up: Takes bytes and marks for the dependency, with the names of the faults that strike them.
        down: The same, for the client.
    """

    def __init__(self, strike: Callable[[Head | None], Strike], up: Out, down: Out) -> None:
        self._strike = strike
        self._up = up
        self._down = down
        self._requests: _Side | None = _Side(_server())
        """None when requests are read no more."""
        self._answers: _Side | None = None
        """None between two answers."""
        self._current: _Exchange | None = None
        """Whose request comes in just now."""
        self._queue: deque[_Exchange] = deque()
        """Whose answers are not whole yet, in order."""
        self._ahead: bytearray | None = None
        """What came after a request to switch protocols, until that is answered."""
        self._opaque = False
        """Whether answers are read no more."""
        self._struck: frozenset[str] = frozenset()
        self.failed = False
        """Whether there were bytes that are no HTTP."""

    @property
    def over(self) -> bool:
        """Whether all that is still to come passes as it is."""
        return self._requests is None and (self._opaque or not self._queue)

    @property
    def waits(self) -> bool:
        """Whether bytes are held because the head of a request is not whole."""
        return self._requests is not None and self._current is None and self._requests.held > 0

    def give_up(self) -> None:
        """Let pass what is held, and all that comes, as bytes that are no HTTP."""
        rest = b"" if self._requests is None else self._requests.rest()
        self._requests = None
        self.failed = True
        self._struck = self._strike(None).names
        self._up(memoryview(rest), self._struck)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        quiet = self._current is None and self._ahead is None and not self._queue
        return quiet and (self._requests is None or not self._requests.held)

    @property
    def full(self) -> bool:
        """Whether no more requests should come in."""
        return len(self._queue) >= _QUEUE_MAX or (self._ahead is not None and len(self._ahead) >= _AHEAD_MAX)

    def asks(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._requests is None:
            self._up(memoryview(data), self._struck)
        elif self._ahead is not None:
            self._ahead += data
        else:
            self._requests.feed(data)
            self._read_requests()

    def asks_no_more(self) -> None:
        """Take the end of the client's bytes."""
        if self._requests is not None and (rest := self._requests.rest()) and self._is_asked:
            self._up(memoryview(rest), self._struck)
        self._up(Mark.END, self._struck)

    def answers(self, data: bytes) -> None:
        """Take bytes of the dependency."""
        while data:
            if self._opaque or not self._queue:
                self._down(memoryview(data), self._struck)
                return
            if self._answers is None:
                self._answers = _Side(_client(self._queue[0].request))
            self._answers.feed(data)
            data = self._read_answer(self._answers, self._queue[0])

    def answers_no_more(self) -> None:
        """Take the end of the dependency's bytes, which may be the end of an answer too."""
        if self._answers is not None:
            self._answers.feed(b"")
            if rest := self._read_answer(self._answers, self._queue[0]):
                self._down(memoryview(rest), self._struck)
        self._down(Mark.END, self._struck)

    @property
    def _is_asked(self) -> bool:
        return self._current is None or self._current.asked

    def _read_requests(self) -> None:
        while self._requests is not None and self._ahead is None:
            try:
                if self._current is None and not self._requests.begins_a_request:
                    raise h11.RemoteProtocolError("no line of a request")
                event, raw = self._requests.next()
            except h11.ProtocolError:
                self.give_up()
                return
            if isinstance(event, h11.Request):
                self._begin(event, raw)
            elif raw and self._is_asked:
                self._up(memoryview(raw), self._struck)
            if isinstance(event, h11.EndOfMessage):
                self._end_request(self._requests.rest())
            elif not isinstance(event, h11.Request | h11.Data):
                return

    def _begin(self, request: h11.Request, raw: bytes) -> None:
        path, _, _ = request.target.decode("latin-1").partition("?")
        strike = self._strike(Head(request.method.decode(), path, _joined(request)))
        self._struck = strike.names
        self._current = exchange = _Exchange(request, strike)
        self._queue.append(exchange)
        if exchange.asked:
            self._up(memoryview(exchange.rewritten(raw, "upstream")), self._struck)
        self._answer_what_is_ours()

    def _end_request(self, rest: bytes) -> None:
        exchange, self._current = self._current, None
        if exchange is not None and exchange.switches and exchange.asked:
            self._ahead = bytearray(rest)
        else:
            self._requests = _Side(_server(), rest)
        self._answer_what_is_ours()

    def _read_answer(self, side: _Side, exchange: _Exchange) -> bytes:
        """Read on in an answer, and return what comes after it when it is whole."""
        names = exchange.strike.names
        while True:
            try:
                event, raw = side.next()
            except h11.ProtocolError:
                self._answers = None
                self._opaque = self.failed = True
                return side.rest()
            granted = (
                isinstance(event, h11.InformationalResponse) and event.status_code == HTTPStatus.SWITCHING_PROTOCOLS
            )
            if isinstance(event, h11.Response):
                granted = exchange.method == b"CONNECT" and event.status_code < 300
                raw = exchange.rewritten(raw, "downstream")
            if exchange.ours is None:
                size = len(event.data) if isinstance(event, h11.Data) else 0
                self._pass(exchange, raw, size)
            elif isinstance(event, h11.EndOfMessage):
                self._answer(exchange, exchange.ours)
            if granted:
                self._switch()
                return side.rest()
            if isinstance(event, h11.Response) and self._ahead is not None:
                ahead, self._ahead = self._ahead, None
                self._requests = _Side(_server(), bytes(ahead))
                self._read_requests()
            if isinstance(event, h11.EndOfMessage):
                self._answers = None
                self._queue.popleft()
                self._struck = names
                self._answer_what_is_ours()
                return side.rest()
            if not isinstance(event, h11.InformationalResponse | h11.Response | h11.Data):
                return b""

    def _pass(self, exchange: _Exchange, raw: bytes, size: int) -> None:
        """Pass a part of an answer on, whose last bytes are so many of its body; those beyond the cut are not."""
        names, cut = exchange.strike.names, exchange.cut
        if cut is not None:
            if exchange.is_cut:
                return
            exchange.cut = cut - size
            raw = raw[: len(raw) - max(0, size - cut)]
        if raw:
            self._down(memoryview(raw), names)
        if exchange.is_cut:
            self._down(Mark.CLOSE, names)

    def _switch(self) -> None:
        """Let everything pass as it is from now on."""
        ahead, self._ahead = self._ahead, None
        self._requests, self._opaque = None, True
        if ahead:
            self._up(memoryview(bytes(ahead)), self._struck)

    def _answer_what_is_ours(self) -> None:
        """Answer those requests whose turn it is and that the dependency doesn't get, once they are whole."""
        while self._queue:
            exchange = self._queue[0]
            if exchange.ours is None or exchange.asked or (exchange is self._current and not exchange.waits):
                return
            self._queue.popleft()
            self._answer(exchange, exchange.ours)

    def _answer(self, exchange: _Exchange, ours: Status) -> None:
        names = exchange.strike.names
        self._down(memoryview(exchange.answer(ours)), names)
        if exchange.last:
            self._down(Mark.CLOSE, names)


def _server() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX)


def _client(request: h11.Request) -> h11.Connection:
    """Make what reads the answer to a request: it must know the request to know where the answer ends."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_MAX)
    headers = [(name, value) for name, value in request.headers if name in {b"upgrade", b"connection"}]
    connection.send(h11.Request(method=request.method, target=request.target, headers=[(b"host", b""), *headers]))
    connection.send(h11.EndOfMessage())
    return connection


def _joined(request: h11.Request) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _tokens(request: h11.Request, name: bytes) -> set[bytes]:
    values = (value for key, value in request.headers if key == name)
    return {token.strip().lower() for value in values for token in value.split(b",")}


def _rewrite(head: bytes, fault: Rewrite) -> bytes:
    """Change the headers of a head, and leave all else as it is, byte for byte."""
    changed = {
        name.lower().encode("latin-1") for name, value in pairs(fault.rewrite) if value is False or not fault.add
    }
    start, *lines = _LINE.findall(head)
    kept, dropping = [start], False
    for line in lines[:-1]:
        if not line.startswith((b" ", b"\t")):  # else it goes on with the one before
            dropping = line.partition(b":")[0].strip().lower() in changed
        if not dropping:
            kept.append(line)
    kept += [f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs(fault.rewrite) if value is not False]
    return b"".join([*kept, *lines[-1:]])
