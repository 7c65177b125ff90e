"""The client's side of a stream: connect, receive or send, and connect again when the connection breaks.

    ws:, wss:         a WebSocket; frames go both ways, so credit and items don't wait for each other
    http:, https:     requests for so many items after a place, each answered as soon as there are some

Over HTTP a request *is* the credit: `GET ?after=…&items=…&bytes=…` asks for so much and acknowledges what came before,
and its answer ends when the credit is used up or nothing came for a while. Granting by requests beside a long answer
would save round trips, but both must then reach the same process, through whatever balances load in between, and what
a lost one has granted nobody knows. A pull has no state but its position, passes every proxy, and can be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from hormesis.clock import system_random
from hormesis.core.credit_frames import Code, Open, StreamError
from hormesis.core.retry import Backoff, Delays
from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.flow.errors import ReaderTooSlow
from hormesis.flow.wire.channel import Channel, Disconnected, WebSocketsChannel
from hormesis.flow.wire.frames import CONTROL_MAX, ITEM_OVERHEAD, Splitter
from hormesis.flow.wire.receiving import FOR_GOOD, Inlet, Receiving
from hormesis.flow.wire.sending import Outlet
from hormesis.headers import retry_after_of
from hormesis.units import Duration, seconds

__all__ = ["Reconnect", "connect", "receive", "send"]

T = TypeVar("T")

_BETWEEN = 0.1
"""Seconds from a request that brought nothing to the next."""

_OPEN_MAX = 10.0
"""Seconds that a server has for accepting a connection."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reconnect:
    """When to connect again.

    Args:
        delay: How long to wait after the first failure; it doubles from one to the next, with full jitter.
        delay_max: The longest wait.
        give_up: How long to go without a connection before the stream counts as lost; None for ever.
    """

    delay: Duration = 0.1
    # Long enough for a server that has just come back to a thousand clients.
    delay_max: Duration = 10.0
    # A deployment takes a minute.
    give_up: Duration | None = 120.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "delay", seconds(self.delay, "delay"))
        object.__setattr__(self, "delay_max", seconds(self.delay_max, "delay_max"))
        if self.give_up is not None:
            object.__setattr__(self, "give_up", seconds(self.give_up, "give_up"))


@contextlib.asynccontextmanager
async def connect(
    url: str, *, headers: Mapping[str, str] | None = None, message_max: int = CONTROL_MAX, **options: Any
) -> AsyncIterator[Channel]:
    """Connect to a WebSocket, and give the channel.

    Args:
        url: Where, `ws:` or `wss:`.
        headers: Further headers of the request.
        message_max: Bytes of the largest message that is taken; by default that of what is said to a sender.
        **options: Further options of `websockets.connect`.

    Raises:
        Disconnected: It could not be made now.
        ConfigurationError: The server says that it never can.
        MissingExtraError: The library `websockets` is not installed.
    """
    try:
        from websockets.asyncio.client import connect as websocket  # noqa: PLC0415  only this needs it
        from websockets.exceptions import InvalidStatus, WebSocketException  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("a stream over a WebSocket", "websockets") from error
    settings = {
        # Our own signs of life go both ways.
        "ping_interval": None,
        # Compressing what is small costs more than it saves, and what is compressed may be a giant.
        "compression": None,
        "max_size": message_max,
        # What waits here is bounded by what was granted; more than a few would only hide that nobody reads.
        "max_queue": 4,
        "open_timeout": _OPEN_MAX,
    }
    try:
        connection = await websocket(url, additional_headers=headers, **{**settings, **options})
    except InvalidStatus as error:
        status = error.response.status_code
        if not _passes(status):
            raise ConfigurationError(f"{url} answers with status {status}: there is no stream", "url") from error
        raise _failed(error, retry_after_of(error.response.headers.raw_items())) from error
    except (OSError, TimeoutError, WebSocketException) as error:
        raise _failed(error) from error
    try:
        yield WebSocketsChannel(connection)
    finally:
        # Whoever talked has said goodbye; what is left is what could not be said.
        if connection.transport is not None:
            connection.transport.abort()
        await connection.wait_closed()


def receive(
    url: str,
    *,
    reconnect: Reconnect = Reconnect(),
    restart: bool = False,
    wait: Duration = 20.0,
    headers: Mapping[str, str] | None = None,
    client: Any = None,
    **settings: Any,
) -> Receiving[Any]:
    """Receive a stream, no faster than it is processed, over as many connections as it takes.

        async with receive("ws://shop/orders") as orders:
            async for order in orders:
                ...

    Args:
        url: Where: `ws:` or `wss:` for a WebSocket, `http:` or `https:` for requests.
        reconnect: When to connect again.
        restart: Whether to go on with a new stream when the sender does not have this one any more, as after its
            restart. Whatever was not processed of the old one is then lost; without this, that is an error.
        wait: Over HTTP, how long a request waits for items.
        headers: Further headers of each request.
        client: Over HTTP, an `httpx.AsyncClient` to use; by default one of its own.
        **settings: Those of `Inlet`.

    Raises:
        ConfigurationError: The URL or a setting can't be meant.
    """
    inlet: Inlet[Any] = Inlet(**settings)
    if _scheme(url) == "ws":

        async def connection(inlet: Inlet[Any]) -> None:
            largest = max(CONTROL_MAX, ITEM_OVERHEAD + inlet.window.item_bytes_max)
            async with connect(url, headers=headers, message_max=largest) as channel:
                await inlet.run(channel)

        return Receiving(inlet, _Keeper(reconnect, restart, connection))
    poll = _Polling(url, seconds(wait, "wait"), headers, client)
    return Receiving(inlet, _Keeper(reconnect, restart, poll, poll.closing))


async def send(
    url: str,
    source: AsyncIterable[T] | Outlet[T],
    *,
    reconnect: Reconnect = Reconnect(),
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> None:
    """Send what a source gives to a server that receives, as fast as it asks, over as many connections as it takes.

    It returns when the server has processed everything, or wants no more.

    Args:
        url: Where, `ws:` or `wss:`.
        source: What gives the items, or an `Outlet` that stays open.
        reconnect: When to connect again.
        headers: Further headers of each request.
        **settings: Those of `Outlet`.

    Raises:
        Disconnected: There was no connection for too long.
        StreamError: The stream broke for good.
        Exception: What the source raised.
    """
    if _scheme(url) != "ws":
        raise ConfigurationError.bad_value("url", url, "a WebSocket's, ws: or wss:")
    outlet = source if isinstance(source, Outlet) else Outlet(source, **settings)
    tries = _Tries(reconnect)
    try:
        while not outlet.finished and not outlet.cancelled:
            acknowledged = outlet.acknowledged
            try:
                async with connect(url, headers=headers) as channel:
                    tries.connected()
                    await outlet.serve(channel)
            except (Disconnected, ReaderTooSlow, StreamError) as error:
                if isinstance(error, StreamError) and error.code in FOR_GOOD:
                    raise
                if outlet.acknowledged > acknowledged:
                    tries.succeeded()
                await tries.wait(error)
    finally:
        if outlet is not source:
            await outlet.aclose()


class _Tries:
    """Waits from one connection to the next, and gives up in the end."""

    __slots__ = ("_delays", "_failures", "_give_up", "_lost")

    def __init__(self, reconnect: Reconnect) -> None:
        delay, most, give_up = reconnect.delay, reconnect.delay_max, reconnect.give_up
        backoff = Backoff(delay=seconds(delay), growth="exponential", factor=2, delay_max=seconds(most), jitter="full")
        self._delays = Delays(backoff, retry_after_max=60.0, random=system_random())
        self._give_up = None if give_up is None else seconds(give_up)
        self._failures = 0
        self._lost = asyncio.get_running_loop().time()

    def connected(self) -> None:
        """Take note that there is a connection."""
        self._lost = asyncio.get_running_loop().time()

    def succeeded(self) -> None:
        """Take note that the last connection was good for something."""
        self._failures = 0
        self.connected()

    async def wait(self, error: Exception) -> None:
        """Wait before the next connection, or give up."""
        self._failures += 1
        if self._give_up is not None and asyncio.get_running_loop().time() - self._lost >= self._give_up:
            raise error
        await asyncio.sleep(self._delays.next(self._failures, getattr(error, "retry_after", None)))


class _Keeper:
    """Keeps an inlet connected until its stream is over."""

    def __init__(
        self,
        reconnect: Reconnect,
        restart: bool,
        connection: Callable[[Inlet[Any]], Awaitable[None]],
        closing: Callable[[Inlet[Any]], contextlib.AbstractAsyncContextManager[None]] | None = None,
    ) -> None:
        self._reconnect = reconnect
        self._restart = restart
        self._connection = connection
        self._closing = closing

    async def __call__(self, inlet: Inlet[Any]) -> None:
        """Keep it connected."""
        async with contextlib.AsyncExitStack() as stack:
            if self._closing is not None:
                await stack.enter_async_context(self._closing(inlet))
            await self._keep(inlet)

    async def _keep(self, inlet: Inlet[Any]) -> None:
        tries = _Tries(self._reconnect)
        while not inlet.over:
            before = inlet.connections
            try:
                await self._connection(inlet)
            except (Disconnected, ReaderTooSlow, StreamError) as error:
                if inlet.connections > before:
                    tries.succeeded()
                if isinstance(error, StreamError) and error.code is Code.LOST and self._restart:
                    await inlet.restart()
                elif isinstance(error, StreamError) and error.code in FOR_GOOD:
                    raise
                waiting = asyncio.ensure_future(tries.wait(error))
                await _first(waiting, inlet.given_up())
                if not waiting.cancelled():
                    waiting.result()
            else:
                tries.succeeded()


class _Polling:
    """Receives by one request after the other."""

    def __init__(self, url: str, wait: float, headers: Mapping[str, str] | None, client: Any) -> None:
        try:
            import httpx  # noqa: PLC0415  only this needs it
        except ImportError as error:
            raise MissingExtraError("a stream over HTTP", "httpx") from error
        if client is not None and not isinstance(client, httpx.AsyncClient):
            raise ConfigurationError.bad_value("client", client, "an httpx.AsyncClient")
        self._url = url
        self._wait = wait
        # Who compresses on the way would wait until there is enough to compress.
        self._headers = {"accept-encoding": "identity", **(headers or {})}
        self._httpx = httpx
        self._given = client
        self._client: Any = client

    @contextlib.asynccontextmanager
    async def closing(self, inlet: Inlet[Any]) -> AsyncIterator[None]:
        """Make a client if there is none, and in the end tell the server of a stream that is not wanted any more."""
        if self._given is None:
            self._client = self._httpx.AsyncClient()
        try:
            yield
            stream, after = inlet.position
            if stream and inlet.cancelled:
                with contextlib.suppress(self._httpx.HTTPError):
                    parameters = {"stream": stream, "after": str(after)}
                    await self._client.delete(self._url, params=parameters, headers=self._headers, timeout=1.0)
        finally:
            if self._given is None:
                await self._client.aclose()

    async def __call__(self, inlet: Inlet[Any]) -> None:
        """Make one request, when it is time for one."""
        await self._until_due(inlet)
        if inlet.over:
            return
        side = inlet.begin()
        if not inlet.due:
            side.pause()  # it is but a sign of life
        opening = side.next_frame(asyncio.get_running_loop().time())
        if not isinstance(opening, Open):
            return
        request = self._client.stream(
            "GET", self._url, params=self._parameters(opening), headers=self._headers, timeout=self._timeout(inlet)
        )
        began, received = asyncio.get_running_loop().time(), inlet.received
        polling = asyncio.ensure_future(self._request(request, inlet, side))
        await _first(polling, inlet.given_up())
        if not polling.cancelled():
            polling.result()
        if inlet.received == received and not inlet.over:
            # A server that does not wait is not to be asked without a pause.
            await asyncio.sleep(max(0.0, began + _BETWEEN - asyncio.get_running_loop().time()))

    def _parameters(self, opening: Open) -> dict[str, str]:
        numbers = {
            "after": opening.after,
            "items": opening.items,
            "bytes": opening.bytes,
            "item_bytes_max": opening.item_bytes_max,
            "wait": self._wait if opening.items else 0,
        }
        named = {"stream": opening.stream} if opening.stream else {}
        return named | {name: f"{value:g}" if name == "wait" else str(value) for name, value in numbers.items()}

    def _timeout(self, inlet: Inlet[Any]) -> Any:
        return self._httpx.Timeout(_OPEN_MAX, read=self._wait + inlet.patience.silence_max)

    async def _request(self, request: Any, inlet: Inlet[Any], side: Any) -> None:
        splitter = Splitter(inlet.window.item_bytes_max)
        try:
            async with request as response:
                if response.status_code != 200:
                    raise self._refused(response)
                async for chunk in response.aiter_raw():
                    for frame in splitter.feed(chunk):
                        heard = side.receive(frame, asyncio.get_running_loop().time())
                        if heard is not None:
                            inlet.hear(heard)
        except self._httpx.HTTPError as error:
            raise _failed(error) from error
        except StreamError as error:
            inlet.fail(error)
            raise
        if not splitter.empty:
            raise Disconnected("the answer ended in the middle of a frame")
        if side.broken is not None:
            raise side.broken

    def _refused(self, response: Any) -> Exception:
        status = response.status_code
        if not _passes(status):
            return ConfigurationError(f"{self._url} answers with status {status}: there is no stream", "url")
        return _failed(RuntimeError(f"status {status}"), retry_after_of(response.headers.multi_items()))

    async def _until_due(self, inlet: Inlet[Any]) -> None:
        """Wait until there is room for more, or there is something to acknowledge, or it is time for a sign of life."""
        loop = asyncio.get_running_loop()
        sign_of_life = loop.time() + inlet.patience.keepalive
        while not inlet.over and not inlet.due and loop.time() < sign_of_life:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(sign_of_life):
                    await inlet.changed()


async def _first(doing: asyncio.Future[Any], giving_up: Awaitable[None]) -> None:
    """Wait for what is being done, or until it is given up; then it is cancelled."""
    other = asyncio.ensure_future(giving_up)
    try:
        await asyncio.wait([doing, other], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (doing, other):
            each.cancel()
        await asyncio.wait([doing, other])


def _scheme(url: str) -> str:
    scheme = str(url).partition(":")[0].lower()
    if scheme in ("ws", "wss"):
        return "ws"
    if scheme in ("http", "https"):
        return "http"
    raise ConfigurationError.bad_value("url", url, "one that begins with ws:, wss:, http: or https:")


def _passes(status: int) -> bool:
    """Whether an answer says that things may be better later."""
    return status >= 500 or status in (408, 425, 429)


def _failed(error: Exception, retry_after: float | None = None) -> Disconnected:
    made = Disconnected(str(error) or type(error).__name__)
    made.retry_after = retry_after
    return made
