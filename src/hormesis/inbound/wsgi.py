"""The inbound journey as WSGI middleware: for Flask, Django, Pyramid, or a plain application.

    application = Protect(get_wsgi_application(), service)        # Django
    app.wsgi_app = Protect(app.wsgi_app, service)                 # Flask

**How long a request is in.** Its permit is held until the server has taken the last part of its answer, or closes the
answer, as it must when the client goes away. An answer that a server forgets, and never closes, gives its permit back
when it is collected as garbage.

**The context** (deadline, request id, labels, `current()`) holds for the application and for everything that its answer
does while it is iterated and closed, and for nothing after that: threads are used again.

**A client that does not read** stands in the server's way, which no middleware can step into. Under gunicorn, which
hands its socket over, the socket gets the `send_timeout`; elsewhere it is the server's own setting.

Source: PEP 3333.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, TypeAlias

from hormesis.context import current_call, current_deadline
from hormesis.inbound.answers import Answer
from hormesis.inbound.ground import Ground
from hormesis.inbound.pulse import ThreadPulse
from hormesis.inbound.request import Request, current_request
from hormesis.inbound.service import Given, Service, service_of
from hormesis.inbound.standing import stand
from hormesis.patterns.injection import current_injections

__all__ = ["Protect", "answer"]

Environ: TypeAlias = MutableMapping[str, Any]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

KEY = "hormesis"
"""Where an environment holds the request."""

_NOT_PREFIXED = ("content-type", "content-length")
_GUNICORN = "gunicorn.socket"
_REASONS = {200: "OK", 429: "Too Many Requests", 503: "Service Unavailable", 504: "Gateway Timeout"}


class Protect:
    """Middleware around a WSGI application.

    Args:
        app: The application.
        service: A `Service`, or the path of a policy file that has one.
        name: Which, where the file has several.

    Raises:
        ConfigurationError: The service can't be meant.

    >>> def app(environ, start_response):
    ...     start_response("200 OK", [])
    ...     return [b"tea"]
    >>> Protect(app, Service(name="shop")).service
    <Service 'shop': no parts>
    """

    __slots__ = ("_forgotten", "_keys", "_keys_of", "_lock", "_pulse", "app", "service")

    def __init__(self, app: App, service: Given, *, name: str | None = None) -> None:
        self.app = app
        self.service: Service = service_of(service, name)
        self._keys: list[tuple[str, str]] = []
        self._keys_of: frozenset[str] | None = None
        self._pulse: ThreadPulse | None = None
        self._lock = threading.Lock()
        self._forgotten: deque[_Flight] = deque()
        # Here a server has its handlers of signals, unless it loads applications before it forks.
        self.service.watch_signals()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request."""
        service = self.service
        if not service.watches_signals:
            service.watch_signals()
        ground = service.ground
        path = _path(environ)
        if path == ground.ready_path:
            return _respond(environ, start_response, ground.readiness())
        if self._forgotten:
            self._settle()
        request = self._arrive(ground, path, environ)
        refused = ground.examine(request) or ground.admit(request)
        if refused is not None and refused.refusal.waitable:
            refused = stand(ground, request, self.pulse(ground).wake)
        if refused is not None:
            return _respond(environ, start_response, ground.answer(request, refused))
        return _Flight(self.app, ground, request, start_response, self.pulse(ground), self._forgotten).serve(environ)

    def _arrive(self, ground: Ground, path: str, environ: Environ) -> Request:
        if ground.headers is not self._keys_of:
            self._keys = [(_key(name), name) for name in ground.headers]
            self._keys_of = ground.headers
        found = {name: environ[key] for key, name in self._keys if key in environ}
        return ground.arrive(environ["REQUEST_METHOD"], path, environ.get("REMOTE_ADDR", ""), found, environ)

    def pulse(self, ground: Ground) -> ThreadPulse:
        """Return what beats while requests are in flight."""
        pulse = self._pulse
        if pulse is None or pulse.ground is not ground:
            with self._lock:
                pulse = self._pulse
                if pulse is None or pulse.ground is not ground:
                    if pulse is not None:
                        pulse.retire()
                    pulse = self._pulse = ThreadPulse(self.service, ground)
        return pulse

    def _settle(self) -> None:
        """End the requests whose answers were forgotten."""
        while self._forgotten:
            try:
                flight = self._forgotten.popleft()
            except IndexError:
                return  # another thread has taken it
            flight.end("cancelled")


class _Flight:
    """A request on its way through the application: the answer, as its server iterates over it."""

    __slots__ = (
        "_app",
        "_body",
        "_context",
        "_forgotten",
        "_good",
        "_ground",
        "_iterator",
        "_over",
        "_pulse",
        "_request",
        "_sent",
        "_socket",
        "_start_response",
        "_whole",
    )

    def __init__(
        self,
        app: App,
        ground: Ground,
        request: Request,
        start_response: StartResponse,
        pulse: ThreadPulse,
        forgotten: deque[_Flight],
    ) -> None:
        self._app = app
        self._ground = ground
        self._request = request
        self._start_response = start_response
        self._pulse = pulse
        self._forgotten = forgotten
        self._context = contextvars.copy_context()
        self._body: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self._socket: Any = None
        self._good = False
        self._sent = False
        """Whether a part of the answer was handed to the server, so that its head can't be another any more."""
        self._whole = False
        self._over = False

    def serve(self, environ: Environ) -> Iterable[bytes]:
        """Let the application serve it."""
        pulse = self._pulse
        # Not this object itself: who forgets the answer must not be kept from forgetting it.
        pulse.flights.add(self._request)
        if pulse.asleep:
            pulse.wake()
        environ[KEY] = self._request
        self._socket = environ.get(_GUNICORN) if pulse.send_timeout is not None else None
        try:
            self._body = self._context.run(self._call, environ)
        except Exception as error:
            body = self._instead(error)
            if body is None:
                self.end("")
                raise
            self._body = () if environ["REQUEST_METHOD"] == "HEAD" else (body,)
        except BaseException:
            self.end("cancelled")
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = self._context.run(iter, self._body)
            part: bytes = self._context.run(next, self._iterator)
        except StopIteration:
            self._whole = True
            self.end("")
            raise
        except Exception as error:
            body = self._instead(error)
            if body is None:
                raise
            self._iterator = iter(())
            part = body
        if part and not self._sent:
            self._sending()
        return part

    def close(self) -> None:
        """End it; servers call this when they are done with the answer, whole or not."""
        body, self._body = self._body, ()
        try:
            close = getattr(body, "close", None)
            if close is not None:
                self._context.run(close)
        finally:
            self.end("" if self._whole or not self._good else "cancelled")

    def __del__(self) -> None:
        # The collector may come while a lock is held that ending takes; so it only leaves word.
        if not self._over:
            self._forgotten.append(self)

    def end(self, ending: str) -> None:
        """End it, once: its permit, and its being in flight."""
        if not self._over:
            self._over = True
            self._pulse.flights.discard(self._request)
            self._ground.ended(self._request, good=self._good, ending=ending)

    def _call(self, environ: Environ) -> Iterable[bytes]:
        ground, request = self._ground, self._request
        current_call.set(ground.facts(request))
        current_request.set(request)
        deadline = ground.deadline(request)
        if deadline is not None:
            current_deadline.set(deadline)
        if ground.chaos is not None:
            if request.faults:
                current_injections.set((*current_injections.get(), *request.faults))
            plan = ground.plan(request)
            if plan is not None:
                from hormesis.inbound.injecting import meet_wsgi  # noqa: PLC0415  whoever has a place for faults has it

                return meet_wsgi(ground.chaos, plan, self._app, environ, self._start)
        return self._app(environ, self._start)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
        """Take note of the head of the answer, and add what we tell."""
        self._good = not status.startswith("5")
        told = list(headers)
        names = {name.lower() for name, _ in headers}
        if "x-request-id" not in names:
            told.append(("x-request-id", self._request.request_id))
        if self._ground.tells_limits and "ratelimit" not in names:
            standing = self._ground.standing(self._request)
            if standing is not None:
                told += [("ratelimit-policy", standing[0]), ("ratelimit", standing[1])]
        write = self._start_response(status, told, exc_info) if exc_info else self._start_response(status, told)

        def write_on(data: bytes) -> object:
            self._sending()
            return write(data)

        return write_on

    def _sending(self) -> None:
        self._sent = True
        if self._socket is not None:
            self._socket.settimeout(self._pulse.send_timeout)

    def _instead(self, error: Exception) -> bytes | None:
        """Begin an answer for an exception of ours, if that is still possible; returns its body."""
        self._good = False
        if self._sent:
            return None
        answer = self._ground.answer_error(self._request, error)
        if answer is None:
            return None
        self._start_response(*_head(answer), sys.exc_info())
        return answer.body


def answer(error: Exception) -> App:
    """Answer an exception of ours; for a framework's own table of exceptions, where they do not get past it.

        app.register_error_handler(hm.Rejected, hm.wsgi.answer)        # Flask
        app.register_error_handler(hm.TimedOut, hm.wsgi.answer)

    Args:
        error: The exception.
    """

    def respond(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        served = environ.get(KEY)
        made = None
        if isinstance(served, Request) and isinstance(served.service, Ground):
            made = served.service.answer_error(served, error)
        if made is None:
            raise error
        return _respond(environ, start_response, made)

    return respond


def _respond(environ: Environ, start_response: StartResponse, answer: Answer) -> Iterable[bytes]:
    """Send an answer of ours."""
    start_response(*_head(answer))
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]


def _head(answer: Answer) -> tuple[str, list[tuple[str, str]]]:
    # What is hop by hop is the server's business in WSGI; most servers close their connections by themselves when they
    # are told to leave.
    headers = [header for header in answer.headers if header[0] != "connection"]
    return f"{answer.status} {_REASONS[answer.status]}", headers


def _key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if name in _NOT_PREFIXED else f"HTTP_{key}"


def _path(environ: Environ) -> str:
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    if path.isascii():
        return path
    # The bytes of the request line, each as the letter of its number.
    return path.encode("latin-1", "replace").decode("utf-8", "replace")
