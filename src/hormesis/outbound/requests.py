"""requests: a policy as an adapter.

`session.mount("https://", PolicyAdapter(policy))`, and each request of the session to such an address is a call of the
policy, redirects included. The retries of urllib3 are off: there is one place that decides.

The answer's raw stream is urllib3's own object. It is made a subclass of its class, which tells when the body was read,
closed, or broke off; all else is as it was.

urllib3 waits for whole blocks of a body, with a timeout for each piece that the socket brings, so one that trickles
could outlast its deadline by far. Where there is one, `Response.content` and its like are given what has come instead,
and the deadline is asked between the pieces. Who calls `raw.read` gets the blocks that are asked for.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hormesis.context import CallFacts, remaining
from hormesis.errors import ConfigurationError, InjectedFault, MissingExtraError
from hormesis.outbound.http import SMALL, Guard, Patience, Reading, Trip, cut, host_label
from hormesis.outcome import FailureKind
from hormesis.policy.injecting import forged, http_status_of, retry_after_headers

try:
    import requests
    import urllib3
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise MissingExtraError("an adapter of requests", "requests") from error

if TYPE_CHECKING:
    from hormesis.policy.policy import Policy

__all__ = ["PolicyAdapter"]

_BLOCK = 16_384

_NO_POOL: Any = "chaos"
"""What stands for a pool in an error that no pool has made."""


class PolicyAdapter(HTTPAdapter):
    """An adapter whose requests go through a policy.

    A fallback function of the policy is called with the `requests.PreparedRequest`, and so is a `by=` function.

    Args:
        policy: Around each request.
        **options: `pool_connections` and `pool_maxsize` of an `HTTPAdapter`.

    Raises:
        ConfigurationError: The policy can't protect what is synchronous; or an option is one that the policy replaces:
            urllib3's retries, and a pool that blocks, whose wait nothing bounds.

    >>> from hormesis import Bulkhead, Policy, Retry
    >>> with requests.Session() as session:
    ...     session.mount("https://", PolicyAdapter(Policy(Retry(on="transient"), Bulkhead(20), name="stock")))
    """

    def __init__(self, policy: Policy, **options: Any) -> None:
        if options.get("max_retries"):
            raise ConfigurationError.bad_value("max_retries", options["max_retries"], "nothing here: use a Retry")
        if options.get("pool_block"):
            raise ConfigurationError.bad_value(
                "pool_block", True, "nothing here: use a Bulkhead, whose waits are bounded"
            )
        self._guard = Guard(policy, requests.Response, synchronous=True)
        super().__init__(**options)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request; a session calls this."""
        guard, trip = self._guard, self._guard.trip()
        rewind = _rewinder(request.body)

        def attempt(request: requests.PreparedRequest) -> requests.Response:
            sent = request.copy()
            sent.headers.update(trip.headers(_lower(request)))
            if trip.again and rewind is not None:
                rewind()
            try:
                response = super(PolicyAdapter, self).send(
                    sent,
                    stream=stream,
                    timeout=_timeout(timeout, remaining()),
                    verify=verify,
                    cert=cert,
                    proxies=None if proxies is None else dict(proxies),
                )
            except Exception as error:
                trip.cut_short(error)
                raise
            response.request = request
            try:
                trip.came(response, response.status_code, response.headers, lambda: _let_go(response))
            finally:
                if trip.abandoned:
                    response.close()
            return response

        forged(attempt, functools.partial(self._injected, trip))
        try:
            with _facts(guard, request, replayable=rewind is not None):
                opened = guard.policy.open(attempt, request)
            handed_out = trip.arrived(opened)
        except BaseException:
            _close(trip.over())
            raise
        raw = handed_out.raw
        if isinstance(raw, urllib3.HTTPResponse) and not raw.closed:
            _watch(raw, trip, opened, _read_timeout(timeout))
        else:
            _release(raw)
            opened.end()
        _close(trip.over(handed_out))
        return handed_out

    def _injected(self, trip: Trip[requests.Response], fault: InjectedFault, args: Sequence[Any]) -> requests.Response:
        """Make of an injected fault what requests would have come to."""
        (request,) = args
        if fault.status is None:
            if fault.kind == FailureKind.CONNECT:
                refused = urllib3.exceptions.NewConnectionError(_NO_POOL, "[Errno 111] Connection refused")
                gave_up = urllib3.exceptions.MaxRetryError(_NO_POOL, str(request.url), refused)
                raise requests.ConnectionError(gave_up, request=request)
            if fault.kind == FailureKind.TIMEOUT:
                raise requests.ReadTimeout("Read timed out.", request=request)
            if fault.kind == FailureKind.UNAVAILABLE:
                reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
                raise requests.ConnectionError(
                    urllib3.exceptions.ProtocolError("Connection aborted.", reset), request=request
                )
        status, headers = http_status_of(fault), retry_after_headers(fault.retry_after)
        raw = urllib3.HTTPResponse(io.BytesIO(), status=status, headers=headers, preload_content=False)
        response = self.build_response(request, raw)
        trip.came(response, status, response.headers, lambda: None)
        return response


def _facts(
    guard: Guard[requests.Response], request: requests.PreparedRequest, *, replayable: bool
) -> contextlib.AbstractContextManager[CallFacts, None]:
    url = urlsplit(str(request.url))
    host = host_label(url.scheme, url.hostname or "", url.port)
    return guard.calling((request.method or "GET").upper(), host, _lower(request), replayable=replayable)


def _lower(request: requests.PreparedRequest) -> set[str]:
    return {name.lower() for name in request.headers}


def _rewinder(body: Any) -> Callable[[], object] | None:
    """Return what makes a body ready to be sent again, or None when it can be sent only once."""
    if body is None or isinstance(body, str | bytes | bytearray):
        return _nothing
    try:
        if not body.seekable():
            return None
        return functools.partial(body.seek, body.tell())
    except Exception:  # a generator, or somebody else's file that does not say
        return None


def _nothing() -> None:
    """What is to be done with bytes."""


def _timeout(own: Any, left: float | None) -> Any:
    """Cut a timeout, in any of the forms that requests takes; what is no timeout requests itself refuses."""
    if left is None:
        return own
    if isinstance(own, urllib3.Timeout):
        timeout = own.clone()
    elif isinstance(own, tuple):
        if len(own) != 2:
            return own
        timeout = urllib3.Timeout(connect=own[0], read=own[1])
    else:
        timeout = urllib3.Timeout(connect=own, read=own)
    total = timeout.total
    timeout.total = cut(float(total) if isinstance(total, int | float) else None, left)
    return timeout


def _read_timeout(own: Any) -> float | None:
    """The time that the user gives each read of a body."""
    if isinstance(own, urllib3.Timeout):
        own = own.read_timeout if own.total is None else own.total
    elif isinstance(own, tuple):
        own = own[1]
    return float(own) if isinstance(own, int | float) else None


class _Watch:
    """What is known of a body that is being read."""

    __slots__ = ("depth", "own", "reading", "released", "trip")

    def __init__(self, trip: Trip[requests.Response], reading: Reading, own: float | None) -> None:
        self.trip = trip
        self.reading = reading
        self.own = own
        self.depth = 0
        self.released = False

    @contextlib.contextmanager
    def block(self, raw: urllib3.HTTPResponse) -> Iterator[None]:
        """Read a block; urllib3's own ways to read call each other."""
        self.depth += 1
        try:
            if self.depth == 1:
                self.trip.check()
                _give(raw, cut(self.own, self.trip.left()))
            yield
        except BaseException as error:
            with contextlib.suppress(Exception):
                raw.close()
            self.trip.failed(self.reading, error)
        finally:
            self.depth -= 1
        if self.released and not self.depth:
            self.reading.end()

    def release(self, *, garbage: bool = False) -> None:
        """The connection was given back; a block that breaks off gives it back before it says so."""
        self.released = True
        if not self.depth:
            if garbage:
                self.reading.forget()
            else:
                self.reading.end()


def _give(raw: urllib3.HTTPResponse, timeout: float | None) -> None:
    """Set the timeout of the next reads. A connection that ends with its answer is not ours any more, and keeps its."""
    sock = getattr(raw.connection, "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.settimeout(timeout)


def _watch(raw: urllib3.HTTPResponse, trip: Trip[requests.Response], opened: Any, own: float | None) -> None:
    vars(raw)["_hormesis"] = _Watch(trip, trip.reading(raw, opened), own)
    raw.__class__ = _watched(type(raw))


_END: Any = object()


@functools.cache
def _watched(base: type[Any]) -> type[Any]:
    """Make the class of watched streams of a class."""

    class Watched(base):  # type: ignore[misc]
        _hormesis: _Watch

        def read(self, *args: Any, **options: Any) -> Any:
            with self._hormesis.block(self):
                return super().read(*args, **options)

        def read1(self, *args: Any, **options: Any) -> Any:
            with self._hormesis.block(self):
                return super().read1(*args, **options)

        def stream(self, amt: int | None = 65_536, decode_content: bool | None = None) -> Generator[bytes, None, None]:
            if self._hormesis.trip.left() == math.inf or (self.chunked and self.supports_chunked_reads()):
                yield from super().stream(amt, decode_content)
                return
            while True:
                piece = self.read1(amt, decode_content)
                if piece:
                    yield piece
                elif self.isclosed():
                    return

        def read_chunked(self, *args: Any, **options: Any) -> Generator[bytes, None, None]:
            chunks = super().read_chunked(*args, **options)
            while True:
                with self._hormesis.block(self):
                    chunk = next(chunks, _END)
                if chunk is _END:
                    return
                yield chunk

        def release_conn(self) -> None:
            super().release_conn()
            self._hormesis.release()

        def close(self) -> None:
            super().close()
            # How CPython says that it is the collector which closes.
            self._hormesis.release(garbage=getattr(self, "_finalizing", False))

    Watched.__name__ = Watched.__qualname__ = base.__name__
    return Watched


def _let_go(response: requests.Response) -> None:
    """Read what is small and comes at once, so that the connection can be used again; else close it."""
    raw = response.raw
    if not isinstance(raw, urllib3.HTTPResponse) or raw.closed:
        _release(raw)
        return
    patience = Patience()
    kept = bytearray()
    body: io.RawIOBase | io.BytesIO = _LetGo()
    try:
        while len(kept) <= SMALL and (left := patience.left()) > 0:
            _give(raw, left)
            block = raw.read1(_BLOCK, decode_content=False)
            kept += block
            if not block and raw.isclosed():
                body = io.BytesIO(kept)
                break
    except Exception:
        # It broke off. What it was a failure of is known already.
        return
    finally:
        response.raw = urllib3.HTTPResponse(
            body=body,
            headers=raw.headers,
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=False,
        )
        with contextlib.suppress(Exception):
            raw.close()
            raw.release_conn()


class _LetGo(io.RawIOBase):
    """The body of an answer whose place another attempt took, and which was too long to keep."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        raise OSError("this answer was let go when another attempt began, which then was refused")

    read1 = read


def _close(responses: Iterable[requests.Response]) -> None:
    """Close what nobody will read."""
    for response in responses:
        with contextlib.suppress(Exception):
            response.close()


def _release(raw: Any) -> None:
    """Give the connection back of an answer that has no body (any more)."""
    if isinstance(raw, urllib3.HTTPResponse):
        raw.release_conn()
