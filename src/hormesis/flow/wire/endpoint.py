"""An ASGI application that streams a source to whoever asks for it, over WebSockets and over requests.

    app.mount("/orders", StreamEndpoint(orders))        # Starlette, FastAPI
    app = StreamEndpoint(orders)                        # or as it is

Each new receiver gets a source of its own. When its connection breaks, the stream is kept for a while, and whoever
knows its name goes on with it: the name can't be guessed, and is the only thing that has to be known.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterable, Callable
from typing import Any
from urllib.parse import parse_qs

from hormesis.core.credit_frames import (
    CREDIT_MAX,
    Code,
    Error,
    Open,
    StreamError,
)
from hormesis.flow.errors import ReaderTooSlow
from hormesis.flow.settings import ITEMS_MAX
from hormesis.flow.wire.asgi import Receive, Scope, Send, answer
from hormesis.flow.wire.channel import AsgiChannel, Channel, Disconnected
from hormesis.flow.wire.frames import decode, encode, with_length
from hormesis.flow.wire.sending import Outlet
from hormesis.patterns.part import whole
from hormesis.units import Duration, seconds

__all__ = ["StreamEndpoint"]

_QUERY_MAX = 1000
"""Bytes of a query that are read at most."""
_NUMBER_DIGITS = 19
_OPENING = 10.0
"""Seconds that a client has for saying what it wants."""


class StreamEndpoint:
    """Streams what a source gives, as fast as each receiver asks for it.

    Args:
        source: Called with the scope of the connection of each new receiver; returns an async iterable for it.
        resume_for: How long a stream is kept whose connection is gone.
        streams_max: Streams that are kept, with and without a connection. Beyond that the oldest without one is
            dropped; while all are in use, further receivers are turned away.
        wait_max: How long a request waits for items at most.
        retry_after: What those who are turned away are told.
        **settings: Those of `Outlet`.

    Raises:
        ConfigurationError: A setting can't be meant.
    """

    def __init__(
        self,
        source: Callable[[Scope], AsyncIterable[Any]],
        *,
        resume_for: Duration = 60.0,
        streams_max: int = 1000,
        # Below what proxies allow an answer that does not come.
        wait_max: Duration = 25.0,
        retry_after: Duration = 5.0,
        **settings: Any,
    ) -> None:
        self._source = source
        self._resume_for = seconds(resume_for, "resume_for")
        self._streams_max = whole("streams_max", streams_max, 1, ITEMS_MAX)
        self._wait_max = seconds(wait_max, "wait_max")
        self._retry_after = seconds(retry_after, "retry_after")
        self._settings = settings
        # By name. Those in use come last, in no order that matters; those without a connection by when they lost it.
        self._outlets: dict[str, _Kept] = {}
        self._closing: set[asyncio.Future[None]] = set()

    @property
    def outlets(self) -> list[Outlet[Any]]:
        """The streams that are kept."""
        return [kept.outlet for kept in self._outlets.values()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection; ASGI servers and frameworks call this."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def aclose(self) -> None:
        """End every stream and its source."""
        kept, self._outlets = list(self._outlets.values()), {}
        for each in kept:
            await each.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        channel = AsgiChannel(receive, send)
        try:
            async with asyncio.timeout(_OPENING):
                first = await channel.receive()
            opening = decode(first, 0)
        except (Disconnected, TimeoutError):
            await channel.close()
            return
        except StreamError as error:
            await _say(channel, Error(error.code, error.message))
            return
        name = opening.stream if isinstance(opening, Open) else ""
        kept = self._kept(name, scope)
        if isinstance(kept, Error):
            await _say(channel, kept)
            return
        await self._serve(kept, _Begun(channel, first), None)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        asked = _asked(scope.get("query_string", b""))
        if method not in ("GET", "DELETE"):
            await answer(send, 405, "a stream is asked for by GET, and given up by DELETE", ("allow", "GET, DELETE"))
        elif isinstance(asked, str):
            await answer(send, 400, asked)
        elif method == "DELETE":
            kept = self._outlets.pop(asked[0].stream, None)
            if kept is not None:
                await kept.close()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            opening, wait = asked
            found = self._kept(opening.stream, scope)
            if isinstance(found, Error) and found.code is Code.REFUSED:
                seconds = str(math.ceil(self._retry_after))
                await answer(send, 503, found.message, ("retry-after", seconds))
                return
            channel = _Answer(opening, receive, send)
            if isinstance(found, Error):
                await _say(channel, found)
                return
            await self._serve(found, channel, min(wait, self._wait_max))

    def _kept(self, name: str, scope: Scope) -> _Kept | Error:
        """Find the stream of a name, or make one for who names none."""
        if name:
            found = self._outlets.get(name)
            return found or Error(Code.LOST, f"the stream {name!r} is not here any more")
        if len(self._outlets) >= self._streams_max:
            unused = (kept for kept in self._outlets.values() if not kept.users)
            idle = min(unused, key=lambda kept: kept.idle_since, default=None)
            if idle is None:
                return Error(Code.REFUSED, "there is no room for another stream now")
            self._drop(idle)
        made = _Kept(Outlet(self._source(scope), **self._settings))
        self._outlets[made.outlet.stream] = made
        return made

    async def _serve(self, kept: _Kept, channel: Channel, wait: float | None) -> None:
        outlet = kept.outlet
        kept.use()
        try:
            with contextlib.suppress(Disconnected, ReaderTooSlow, StreamError):
                if wait is None:
                    await outlet.serve(channel)
                else:
                    await outlet.serve_poll(channel, wait)
        finally:
            kept.leave(self._resume_for, self._drop)
            if outlet.finished or outlet.cancelled:
                self._drop(kept)

    def _drop(self, kept: _Kept) -> None:
        """Forget a stream at once, and close its source as soon as that goes."""
        self._outlets.pop(kept.outlet.stream, None)
        closing = asyncio.ensure_future(kept.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


class _Kept:
    """A stream that is kept, and since when nobody has used it."""

    __slots__ = ("_timer", "idle_since", "outlet", "users")

    def __init__(self, outlet: Outlet[Any]) -> None:
        self.outlet = outlet
        self.users = 0
        self.idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def use(self) -> None:
        """Keep it until `leave`."""
        self.users += 1
        self._stop_timer()

    def leave(self, seconds: float, drop: Callable[[_Kept], None]) -> None:
        """Keep it for so long."""
        self.users -= 1
        if not self.users:
            loop = asyncio.get_running_loop()
            self.idle_since = loop.time()
            self._stop_timer()
            self._timer = loop.call_later(seconds, drop, self)

    async def close(self) -> None:
        """End it."""
        self._stop_timer()
        await self.outlet.aclose()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Begun:
    """A channel whose first message was read already."""

    def __init__(self, channel: Channel, first: bytes) -> None:
        self._channel = channel
        self._first: bytes | None = first
        self.send = channel.send
        self.close = channel.close
        self.abort = channel.abort

    async def receive(self) -> bytes:
        """Return the next message."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._channel.receive()


class _Answer:
    """The answer to a request as a channel: what the client says is what it asked for, and then nothing more."""

    def __init__(self, opening: Open, receive: Receive, send: Send) -> None:
        self._opening: Open | None = opening
        self._receive = receive
        self._send = send
        self._begun = False
        self._over = False

    async def send(self, data: bytes) -> None:
        """Send a frame, with its length before it."""
        if self._over:
            raise Disconnected("the client is gone")
        try:
            await self._begin()
            await self._send({"type": "http.response.body", "body": with_length(data), "more_body": True})
        except Exception as error:
            self._over = True
            raise Disconnected(str(error) or type(error).__name__) from error

    async def receive(self) -> bytes:
        """Return what was asked for, and then wait for the end of the connection."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            return encode(opening)
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._over = True
        raise Disconnected("the client is gone")

    async def close(self) -> None:
        """End the answer."""
        if not self._over:
            self._over = True
            with contextlib.suppress(Exception):
                await self._begin()
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """Send nothing more: the server breaks the connection off, as the answer has no end."""
        self._over = True

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            headers = [
                (b"content-type", b"application/octet-stream"),
                (b"cache-control", b"no-store, no-transform"),
                (b"x-accel-buffering", b"no"),  # nginx would collect the answer
            ]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})


async def _say(channel: Channel, frame: Error) -> None:
    with contextlib.suppress(Disconnected):
        await channel.send(encode(frame))
    await channel.close()


def _asked(query: bytes) -> tuple[Open, float] | str:
    """Return what a request asks for, and how long it waits; or what is wrong with it."""
    if len(query) > _QUERY_MAX:
        return f"a query of {len(query)} bytes; {_QUERY_MAX} are the most"
    fields = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    numbers = {}
    for name, default in (("after", 0), ("items", 0), ("bytes", 0), ("item_bytes_max", 262_144)):
        text = fields.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_DIGITS and int(text) <= CREDIT_MAX):
            return f"{name} is {text[:40]!r}; it takes a whole number up to 2^63 - 1"
        numbers[name] = int(text)
    try:
        wait = float(fields.get("wait", "0"))
        stream = fields.get("stream", "").encode("ascii").decode()
    except ValueError:
        return "wait takes seconds, and stream a name that was given"
    if not 0 <= wait < math.inf or len(stream) > 64:
        return "wait takes seconds from 0, and stream a name that was given"
    opening = Open(numbers["after"], numbers["items"], numbers["bytes"], numbers["item_bytes_max"], None, stream)
    return opening, wait
