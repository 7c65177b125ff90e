"""What is WSGI's own: iterables that servers forget, close or never begin, threads that wait, and contexts."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import hormesis as hm
from hormesis.inbound import current, wsgi
from hormesis.inbound.request import current_request
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit


def one_at_a_time(max_queued: int = 0, max_wait: str | None = None) -> LoadShedder:
    return LoadShedder(
        limit=1, limit_min=1, start=1, max_queued=max_queued, max_wait=max_wait, shed_max=1, objective="10s"
    )


def environ(path: str = "/", **more: Any) -> dict[str, Any]:
    return {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "REMOTE_ADDR": "203.0.113.9", **more}


class Server:
    """A server's part: what it was told to begin answers with."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.headers: dict[str, str] = {}
        self.written: list[bytes] = []

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self.statuses.append(status)
        self.headers = dict(headers)
        return self.written.append


def tea(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"tea"]


def in_flight(service: Service) -> tuple[int, int]:
    machine = service.ground.machine
    assert machine is not None
    return machine.in_flight, service.busy()


def test_a_server_that_never_begins_to_iterate_gives_the_place_back() -> None:
    """It closes the answer, as it must; or it forgets it, and the next request finds that out."""
    service = Service(one_at_a_time(), name="shop")
    protected = wsgi.Protect(tea, service)
    answer: Any = protected(environ(), Server().start_response)
    assert in_flight(service) == (1, 1)
    answer.close()
    assert in_flight(service) == (0, 0)
    protected(environ(), Server().start_response)
    gc.collect()
    server = Server()
    assert list(protected(environ(), server.start_response)) == [b"tea"]
    assert server.statuses == ["200 OK"]
    assert in_flight(service) == (0, 0)


def test_an_answer_is_forgotten_in_the_middle() -> None:
    """Half of it was sent, then the server lost it."""
    service = Service(one_at_a_time(), name="shop")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"t"
        yield b"ea"

    protected = wsgi.Protect(app, service)
    assert next(iter(protected(environ(), Server().start_response))) == b"t"
    gc.collect()
    assert b"".join(protected(environ(), Server().start_response)) == b"tea"
    assert in_flight(service) == (0, 0)


def test_closing_twice_is_closing_once() -> None:
    """The application's own `close` is called once, and inside."""
    closed: list[str | None] = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(hm.request_id())

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"tea"])

    answer: Any = wsgi.Protect(app, Service(name="shop"))(environ(HTTP_X_REQUEST_ID="r-1"), Server().start_response)
    assert list(answer) == [b"tea"]
    answer.close()
    answer.close()
    assert closed == ["r-1"]


def test_a_close_that_raises_gives_the_place_back() -> None:
    """The exception is the application's."""
    service = Service(one_at_a_time(), name="shop")

    class Body(list[bytes]):
        def close(self) -> None:
            raise ZeroDivisionError

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"tea"])

    answer: Any = wsgi.Protect(app, service)(environ(), Server().start_response)
    with pytest.raises(ZeroDivisionError):
        answer.close()
    assert in_flight(service) == (0, 0)


def test_an_interrupt_gives_the_place_back() -> None:
    """Whatever it is that leaves an application."""
    service = Service(one_at_a_time(), name="shop")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wsgi.Protect(app, service)(environ(), Server().start_response)
    assert in_flight(service) == (0, 0)


def test_the_context_holds_while_the_answer_is_iterated_and_not_after() -> None:
    """Whatever thread iterates it; and what the application sets is its own."""
    own: ContextVar[str] = ContextVar("own", default="none")
    seen: list[object] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        own.set("set")
        start_response("200 OK", [])
        seen.append((hm.request_id(), own.get()))
        yield b"t"
        seen.append((current().request_id, own.get()))
        yield b"ea"

    answer = wsgi.Protect(app, Service(name="shop"))(environ(HTTP_X_REQUEST_ID="r-1"), Server().start_response)
    threads = [threading.Thread(target=lambda: next(iter(answer))) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert seen == [("r-1", "set"), ("r-1", "set")]
    assert (hm.request_id(), own.get(), current_request.get()) == (None, "none", None)


def test_what_is_written_at_once_counts_as_sent() -> None:
    """After that an exception can't become another answer."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"t")
        raise hm.CircuitOpen("payments", "open")

    server = Server()
    with pytest.raises(hm.CircuitOpen):
        wsgi.Protect(app, Service(name="shop"))(environ(), server.start_response)
    assert (server.statuses, server.written) == (["200 OK"], [b"t"])


def test_an_application_may_begin_anew() -> None:
    """It hands its exception on to the server, as the specification has it."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            import sys

            start_response("500 Oh", [], sys.exc_info())
        return [b"oh"]

    server = Server()
    assert list(wsgi.Protect(app, Service(name="shop"))(environ(), server.start_response)) == [b"oh"]
    assert server.statuses == ["200 OK", "500 Oh"]


def test_a_refusal_after_a_head_takes_its_place() -> None:
    """As long as nothing was sent."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        raise hm.CircuitOpen("payments", "open")

    server = Server()
    body = b"".join(wsgi.Protect(app, Service(name="shop"))(environ(), server.start_response))
    assert server.statuses == ["200 OK", "503 Service Unavailable"]
    assert b"temporary-reduced-capacity" in body


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"SCRIPT_NAME": "/shop", "PATH_INFO": "/tea"}, "/shop/tea"),
        ({"PATH_INFO": "/caf\u00c3\u00a9"}, "/caf\u00e9"),
        ({"PATH_INFO": "/\u00ff"}, "/\ufffd"),
        ({"PATH_INFO": ""}, ""),
        ({"PATH_INFO": "/\u4e2d"}, "/?"),
    ],
)
def test_paths_are_read_as_bytes(more: dict[str, str], path: str) -> None:
    """WSGI brings each byte as a letter; what is no UTF-8 is marked."""
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(current().path)
        return tea(environ, start_response)

    list(wsgi.Protect(app, Service(name="shop"))({**environ(), **more}, Server().start_response))
    assert seen == [path]


def test_threads_wait_for_a_place() -> None:
    """First with the one who holds it, then with those who wait."""
    service = Service(one_at_a_time(max_queued=10, max_wait="20s"), name="shop")
    queued: list[float] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        queued.append(current().queued)
        return tea(environ, start_response)

    protected = wsgi.Protect(app, service)
    first: Any = protected(environ(), Server().start_response)
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(protected(environ(), Server().start_response))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    machine = service.ground.machine
    assert machine is not None
    while machine.snapshot(0.0)["queued"] < 5:  # type: ignore[operator]
        threading.Event().wait(0.001)
    first.close()
    for thread in threads:
        thread.join(20)
    assert answers == [b"tea"] * 5
    assert queued[0] == 0.0
    assert all(queued[1:])
    assert in_flight(service) == (0, 0)


def test_a_thread_waits_for_so_long() -> None:
    """Then it is refused, and its place in the queue is gone."""
    service = Service(one_at_a_time(max_queued=10, max_wait="50ms"), name="shop")
    protected = wsgi.Protect(tea, service)
    first: Any = protected(environ(), Server().start_response)
    server = Server()
    assert b"waited too long" in b"".join(protected(environ(), server.start_response))
    assert server.statuses == ["503 Service Unavailable"]
    first.close()
    assert in_flight(service) == (0, 0)


def test_a_socket_that_is_handed_over_gets_a_timeout() -> None:
    """When the answer begins, and not before: the request's own body has its own time."""
    timeouts: list[float] = []

    class Socket:
        def settimeout(self, seconds: float) -> None:
            timeouts.append(seconds)

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        assert timeouts == []
        yield b"tea"

    protected = wsgi.Protect(app, Service(name="shop", send_timeout="5s"))
    list(protected(environ(**{"gunicorn.socket": Socket()}), Server().start_response))
    assert timeouts == [5.0]


def test_a_framework_can_answer_by_itself() -> None:
    """Where exceptions don't get past it, its table of exceptions can hold `answer`."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        error: Exception = (
            hm.CircuitOpen("payments", "open") if environ["PATH_INFO"] == "/ours" else ZeroDivisionError()
        )
        return wsgi.answer(error)(environ, start_response)

    server = Server()
    protected = wsgi.Protect(app, Service(name="shop"))
    assert b"temporary-reduced-capacity" in b"".join(protected(environ("/ours"), server.start_response))
    assert server.statuses == ["503 Service Unavailable"]
    with pytest.raises(ZeroDivisionError):
        protected(environ("/theirs"), server.start_response)
    with pytest.raises(hm.CircuitOpen):
        app(environ("/ours"), server.start_response)


def test_a_request_is_handed_to_the_application() -> None:
    """In its environment."""
    seen: list[object] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        seen.append(environ["hormesis"] is current())
        return tea(environ, start_response)

    list(wsgi.Protect(app, Service(RateLimit("1/s"), name="shop"))(environ(), Server().start_response))
    assert seen == [True]


def test_many_threads_leave_nothing_behind() -> None:
    """However they meet: all are answered or refused, and all places come back."""
    service = Service(
        LoadShedder(limit=3, limit_min=1, start=1, max_queued=2, max_wait="10ms", objective="10s", shed_max=1),
        name="shop",
    )

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"t"
        yield b"ea"

    protected = wsgi.Protect(app, service)
    statuses: list[str] = []

    def client(number: int) -> None:
        for turn in range(30):
            server = Server()
            answer: Any = protected(environ(), server.start_response)
            if (number + turn) % 3:
                list(answer)
            if hasattr(answer, "close"):
                answer.close()
            statuses.extend(server.statuses)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(statuses) <= {"200 OK", "503 Service Unavailable"}
    assert "200 OK" in statuses
    assert in_flight(service) == (0, 0)
