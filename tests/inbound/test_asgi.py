"""What is ASGI's own: WebSockets, lifespans, streams, queues on a loop, clients that do not read, and cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

import hormesis as hm
from hormesis.events import CallEnded, EventBus, Waited
from hormesis.inbound import asgi, current
from hormesis.inbound.drain import Drain
from hormesis.inbound.service import Service
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.patterns.rate_limit import RateLimit
from hormesis.testing import VirtualClock, run_virtual

Message = dict[str, Any]
START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"tea"}


def one_at_a_time(max_queued: int = 0, max_wait: str | None = None, limit: int = 1) -> LoadShedder:
    return LoadShedder(
        limit=limit, limit_min=1, start=1, max_queued=max_queued, max_wait=max_wait, shed_max=1, objective="10s"
    )


def http(path: str = "/", **headers: str) -> Message:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "headers": pairs}
    return {**scope, "client": ("203.0.113.9", 1)}


def websocket(*extensions: str) -> Message:
    scope = {"type": "websocket", "path": "/", "headers": [], "client": None}
    return {**scope, "extensions": {name: {} for name in extensions}}


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Sent(list[Message]):
    """A client: takes what is sent, and says its part."""

    def __init__(self, *says: Message) -> None:
        super().__init__()
        self.says = list(says)

    async def send(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.append(message)

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        return self.says.pop(0)

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self]


def machine(service: Service) -> Any:
    return service.ground.machine


def empty(service: Service) -> bool:
    """Whether nothing of any request is left."""
    found = machine(service).snapshot(0.0)
    return (found["in_flight"], found["queued"], service.busy()) == (0, 0, 0)


def virtual(*parts: Any, **settings: Any) -> Service:
    return Service(*parts, name="shop", clock=VirtualClock(), **settings)


async def tea(scope: Message, receive: Any, send: Any) -> None:
    """An application that takes a second."""
    await asyncio.sleep(1)
    await send(START)
    await send(LAST)


def test_a_request_is_handed_to_the_application() -> None:
    """In its scope, and in the state that frameworks show as `request.state`."""
    found: list[Any] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        found.extend([scope["hormesis"], scope["state"]["hormesis"], scope["state"]["own"], current()])
        await send(START)
        await send(LAST)

    sent = Sent()
    scope = {**http(), "state": {"own": 1}}
    asyncio.run(asgi.Protect(app, Service(name="shop"))(scope, sent.receive, sent.send))
    assert found == [found[0], found[0], 1, found[0]]
    assert sent.types == ["http.response.start", "http.response.body"]
    assert START["headers"] == []


def test_headers_of_a_name_are_all_heard() -> None:
    """As a server would have joined them."""
    found: list[float | None] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        found.append(hm.remaining())
        await send(START)
        await send(LAST)

    scope = http()
    scope["headers"] = [(b"grpc-timeout", b"5S"), (b"grpc-timeout", b"2S"), (b"grpc-timeout", b"9S")]
    asyncio.run(asgi.Protect(app, Service(name="shop"))(scope, receive, Sent().send))
    assert found[0] is not None
    assert 1.0 < found[0] <= 2.0


def test_other_scopes_pass() -> None:
    """What the specification may bring one day is not ours to judge."""
    seen: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(asgi.Protect(app, Service(name="shop"))({"type": "webtransport"}, receive, Sent().send))
    assert seen == ["webtransport"]


def test_a_lifespan_passes_and_its_end_is_the_end_of_readiness() -> None:
    """Also where nobody sent a signal: a server that shuts down does not want requests."""
    service = Service(Drain(signals=()), name="shop")

    async def app(scope: Message, receive: Any, send: Any) -> None:
        for _ in range(2):
            message = await receive()
            assert service.ready == (message["type"] == "lifespan.startup")
            await send({"type": f"{message['type']}.complete"})

    sent = Sent({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    asyncio.run(asgi.Protect(app, service)({"type": "lifespan"}, sent.receive, sent.send))
    assert sent.types == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_next_lifespan_in_a_process_serves_again() -> None:
    """Tests and reloads begin a server after another has left; who was told to leave by hand stays told."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await tea(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            asked = Sent()
            await protected(http(), receive, asked.send)
            statuses.append(asked[0]["status"])

    service = Service(RateLimit("100/s"), name="shop")
    statuses: list[int] = []
    for _ in range(2):
        protected = asgi.Protect(app, service)
        says = Sent({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        asyncio.run(protected({"type": "lifespan"}, says.receive, says.send))
        assert not service.ready
    assert statuses == [200, 200]
    told = Service(name="shop")
    told.drain()
    says = Sent({"type": "lifespan.startup"})
    protected = asgi.Protect(tea_at_once, told)
    asyncio.run(protected({"type": "lifespan"}, says.receive, says.send))
    assert not told.ready


def test_an_application_without_a_lifespan_says_so_itself() -> None:
    """Servers go by the exception."""

    async def app(scope: Message, receive: Any, send: Any) -> None:
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        asyncio.run(asgi.Protect(app, Service(name="shop"))({"type": "lifespan"}, receive, Sent().send))


def test_a_place_is_given_back_with_the_last_part_of_the_answer() -> None:
    """What goes on after that (a background task) keeps no place from those who wait for answers."""
    service = virtual(one_at_a_time())
    states: list[tuple[int, int]] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        def note() -> None:
            states.append((machine(service).in_flight, service.busy()))

        await send(START)
        note()
        await send({"type": "http.response.body", "body": b"t", "more_body": True})
        note()
        await send({"type": "http.response.body", "body": b"ea"})
        note()
        await asyncio.sleep(1)

    run_virtual(asgi.Protect(app, service)(http(), receive, Sent().send))
    assert states == [(1, 1), (1, 1), (0, 0)]


def test_a_websocket_holds_its_place_until_it_ends() -> None:
    """However long it talks; the time of its handshake does not end it."""
    service = virtual(one_at_a_time(), deadline="1s", cancel_late=True)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(6)
        assert hm.remaining() is None
        assert current().remaining() is None
        await receive()

    async def main() -> None:
        protected = asgi.Protect(app, service)
        talk = Sent({"type": "websocket.connect"}, {"type": "websocket.disconnect"})
        task = asyncio.create_task(protected(websocket(), talk.receive, talk.send))
        await asyncio.sleep(3)
        assert machine(service).in_flight == 1
        other = Sent({"type": "websocket.connect"})
        await protected(websocket(), other.receive, other.send)
        assert other == [{"type": "websocket.close", "code": 1013, "reason": "try again later"}]
        await task

    run_virtual(main())
    assert empty(service)


def test_a_websocket_is_refused_by_an_answer_where_the_server_can() -> None:
    """The status, the headers and the problem are the same as for any request."""
    service = Service(RateLimit("1/min"), name="shop")

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    protected = asgi.Protect(app, service)

    async def main() -> list[Sent]:
        talks = [Sent({"type": "websocket.connect"}) for _ in range(2)]
        for talk in talks:
            await protected(websocket("websocket.http.response"), talk.receive, talk.send)
        return talks

    let_in, refused = asyncio.run(main())
    assert let_in.types == ["websocket.accept"]
    assert refused.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert refused[0]["status"] == 429
    assert b"retry-after" in dict(refused[0]["headers"])
    assert json.loads(refused[1]["body"])["status"] == 429


def test_a_websocket_that_is_gone_is_not_refused() -> None:
    """Nobody is there to be told."""
    service = Service(name="shop")
    service.drain()
    talk = Sent({"type": "websocket.disconnect"})
    asyncio.run(asgi.Protect(tea, service)(websocket(), talk.receive, talk.send))
    assert talk == []


@pytest.mark.parametrize(("version", "told"), [("1.0", True), ("1.1", True), ("2", False), ("3", False)])
def test_a_connection_is_closed_where_there_is_such_a_thing(version: str, told: bool) -> None:
    """HTTP/2 and later have no such header, and none may be sent."""
    service = Service(name="shop")
    service.drain()
    sent = Sent()
    asyncio.run(asgi.Protect(tea, service)({**http(), "http_version": version}, receive, sent.send))
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (503, told)


def test_who_waits_is_served_when_there_is_room() -> None:
    """And is told how long it waited, as are those who listen."""
    bus, waited = EventBus(), list[Any]()
    bus.listen(lambda event: waited.append(event) if isinstance(event, Waited) else None)
    service = virtual(one_at_a_time(max_queued=5, max_wait="5s"), events=bus)
    queued: list[float] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        queued.append(current().queued)
        await tea(scope, receive, send)

    async def main() -> list[int]:
        protected = asgi.Protect(app, service)
        clients = [Sent() for _ in range(3)]
        await asyncio.gather(*(protected(http(), receive, client.send) for client in clients))
        return [client[0]["status"] for client in clients]

    assert run_virtual(main()) == [200, 200, 200]
    assert sorted(queued) == [0.0, pytest.approx(1.0), pytest.approx(2.0)]
    assert sorted(event.seconds for event in waited) == [pytest.approx(1.0), pytest.approx(2.0)]
    assert empty(service)


def test_who_has_waited_too_long_is_told_so() -> None:
    """By the longest wait, or by its own deadline, whichever comes first."""
    service = virtual(one_at_a_time(max_queued=5, max_wait="500ms"))

    async def main() -> list[Any]:
        protected = asgi.Protect(tea, service)
        clients = [Sent() for _ in range(3)]
        loop = asyncio.get_running_loop()
        first = asyncio.create_task(protected(http(), receive, clients[0].send))
        await asyncio.sleep(0.1)

        async def wait(client: Sent, **headers: str) -> float:
            began = loop.time()
            await protected(http(**headers), receive, client.send)
            return loop.time() - began

        took = await asyncio.gather(wait(clients[1]), wait(clients[2], grpc_timeout="200m"))
        await first
        return [*took, *(json.loads(client[1]["body"])["detail"] for client in clients[1:])]

    one, other, *details = run_virtual(main())
    assert (one, other) == (pytest.approx(0.5), pytest.approx(0.2))
    assert details == ["waited too long"] * 2
    assert empty(service)


def test_a_limit_that_grows_lets_in_who_waits() -> None:
    """The shedder's ticks go on while requests are in flight, though none comes or ends."""
    service = virtual(
        LoadShedder(start=4, limit_min=4, max_queued=50, max_wait="60s", objective="100s", shed_max=1), deadline=None
    )

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await asyncio.sleep(15)
        await send(START)
        await send(LAST)

    async def main() -> int:
        protected = asgi.Protect(app, service)
        tasks = [asyncio.create_task(protected(http(), receive, Sent().send)) for _ in range(12)]
        await asyncio.sleep(12)
        found: int = machine(service).in_flight
        await asyncio.gather(*tasks)
        return found

    assert run_virtual(main()) > 4


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """The application is cancelled, the answer stays incomplete, and the place is free."""
    service = virtual(one_at_a_time(), send_timeout="10s")
    ended: list[str] = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def never(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.sleep(1e6)

    async def main() -> float:
        await asgi.Protect(app, service)(http(), receive, never)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(10, abs=0.5)
    assert ended == ["cancelled"]
    assert empty(service)


def test_a_client_that_reads_slowly_is_not() -> None:
    """What counts is a single part that stands still, and not how long the whole takes."""
    service = virtual(one_at_a_time(), send_timeout="2s")

    async def app(scope: Message, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(5):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send(LAST)

    taken: list[Message] = []

    async def slowly(message: Message) -> None:
        await asyncio.sleep(1.5)
        taken.append(message)

    run_virtual(asgi.Protect(app, service)(http(), receive, slowly))
    assert len(taken) == 7


def test_a_slow_client_may_be_waited_for_for_ever() -> None:
    """Where the author says so."""
    service = virtual(one_at_a_time(), send_timeout=None)

    async def slowly(message: Message) -> None:
        await asyncio.sleep(5)

    run_virtual(asgi.Protect(tea, service)(http(), receive, slowly))
    assert empty(service)


async def begins_late(scope: Message, receive: Any, send: Any) -> None:
    await asyncio.sleep(5)
    await send(START)


async def takes_long(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await asyncio.sleep(5)
    await send(LAST)


async def swallows(scope: Message, receive: Any, send: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(5)
    await send(START)
    await send(LAST)


async def turns_it_into_something_else(scope: Message, receive: Any, send: Any) -> None:
    try:
        await asyncio.sleep(5)
    except asyncio.CancelledError:
        raise ZeroDivisionError from None


@pytest.mark.parametrize(
    ("app", "sent"),
    [(begins_late, [504]), (takes_long, [200, "incomplete"]), (swallows, [200]), (tea, [200])],
)
def test_an_application_can_be_cancelled_when_it_is_too_late(app: Any, sent: list[Any]) -> None:
    """504 if its answer has not begun; what has begun stays incomplete."""
    service = virtual(one_at_a_time(), deadline="2s", cancel_late=True)
    client = Sent()

    async def main() -> float:
        await asgi.Protect(app, service)(http(), receive, client.send)
        # The task goes on as one that was never cancelled.
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) <= 2.0
    found: list[Any] = [client[0]["status"]]
    if client.types[-1] != "http.response.body":
        found.append("incomplete")
    assert found == sent
    assert empty(service)


def test_what_an_application_makes_of_it_is_its_own() -> None:
    """An exception that it raises when it is cut off goes on as it is."""
    service = virtual(one_at_a_time(), deadline="2s", cancel_late=True)
    with pytest.raises(ZeroDivisionError):
        run_virtual(asgi.Protect(turns_it_into_something_else, service)(http(), receive, Sent().send))
    assert empty(service)


def test_what_is_left_when_the_time_to_leave_is_over_is_cut_off() -> None:
    """503 if the answer has not begun: the process is about to go."""
    service = virtual(one_at_a_time(limit=2), Drain(grace=0, limit="3s", signals=()))
    clients = [Sent(), Sent()]

    async def main() -> float:
        tasks = [
            asyncio.create_task(asgi.Protect(app, service)(http(), receive, client.send))
            for app, client in zip((begins_late, takes_long), clients, strict=True)
        ]
        await asyncio.sleep(0)
        service.drain()
        await asyncio.gather(*tasks)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == pytest.approx(3, abs=0.5)
    assert [client[0]["status"] for client in clients] == [503, 200]
    assert clients[1].types == ["http.response.start"]
    assert empty(service)


def test_endings_are_told_as_they_were() -> None:
    """An error of the server's is a failure; a client that goes away is none."""
    bus, ended = EventBus(), list[str]()
    bus.listen(lambda event: ended.append(event.ending) if isinstance(event, CallEnded) else None, calls=True)
    service = virtual(one_at_a_time(), events=bus)

    async def fails(scope: Message, receive: Any, send: Any) -> None:
        await send({**START, "status": 500})
        await send(LAST)

    async def events(scope: Message, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
        await send(LAST)

    async def main() -> None:
        for app in (tea, fails, events):
            await asgi.Protect(app, service)(http(), receive, Sent().send)
        task = asyncio.create_task(asgi.Protect(tea, service)(http(), receive, Sent().send))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main())
    assert ended == ["success", "failure", "success", "cancelled"]


def test_a_framework_can_answer_by_itself() -> None:
    """Where exceptions don't get past it, its table of exceptions can hold `answer`."""
    service = Service(RateLimit("1/min", by="principal"), name="shop")

    async def app(scope: Message, receive: Any, send: Any) -> None:
        try:
            if scope["path"] == "/ours":
                raise hm.CircuitOpen("payments", "open", 3.0)
            raise ZeroDivisionError
        except Exception as error:
            respond = await asgi.answer(object(), error)
            await respond(scope, receive, send)

    sent = Sent()
    asyncio.run(asgi.Protect(app, service)(http("/ours"), receive, sent.send))
    assert sent[0]["status"] == 503
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asgi.Protect(app, service)(http("/theirs"), receive, sent.send))
    with pytest.raises(hm.CircuitOpen):
        asyncio.run(app(http("/ours"), receive, sent.send))


def test_one_service_serves_several_loops() -> None:
    """One after the other, and with the settings of the moment."""
    service = Service(one_at_a_time(), name="shop")
    protected = asgi.Protect(tea_at_once, service)
    for _ in range(3):
        asyncio.run(protected(http(), receive, Sent().send))
        service.reconfigure(one_at_a_time(limit=2))
        asyncio.run(protected(http(), receive, Sent().send))
        service.reconfigure(one_at_a_time())
    assert empty(service)


async def tea_at_once(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await send(LAST)


Cancel = Callable[["asyncio.Task[Any]", "asyncio.Future[Any] | None"], None]


def while_suspended(task: asyncio.Task[Any], awaited: asyncio.Future[Any] | None) -> None:
    """Cancel a task while it waits."""
    task.cancel()


def while_waking(task: asyncio.Task[Any], awaited: asyncio.Future[Any] | None) -> None:
    """Cancel a task when what it waits for has come, and before it could know."""
    if awaited is None:
        task.cancel()
    else:
        awaited.add_done_callback(lambda _: task.cancel())


@types.coroutine
def cancelled_at(place: int, cancel: Cancel, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel its task at the n-th suspension."""
    task, passed = asyncio.current_task(), 0
    assert task is not None
    resume: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731  replaced after each suspension
    while True:
        try:
            awaited = resume()
        except StopIteration as stop:
            return stop.value
        passed += 1
        if passed == place:
            cancel(task, awaited)
        try:
            yield awaited
        except BaseException as error:
            resume = lambda error=error: coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
        else:
            resume = lambda: coroutine.send(None)  # noqa: E731


async def streams(scope: Message, receive: Any, send: Any) -> None:
    await send(START)
    await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"t", "more_body": True})
    await send({"type": "http.response.body", "body": b"ea"})
    await asyncio.sleep(0.1)


async def talks(scope: Message, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "tea"})
    await receive()


async def refuses(scope: Message, receive: Any, send: Any) -> None:
    raise hm.CircuitOpen("payments", "open")


@pytest.mark.parametrize("cancel", [while_suspended, while_waking])
@pytest.mark.parametrize("app", [streams, talks, refuses, tea])
@pytest.mark.parametrize("waits", [False, True])
def test_nothing_is_left_wherever_it_is_cancelled(cancel: Cancel, app: Any, waits: bool) -> None:
    """At the first suspension, at the second, and so on: no permit, no place in the queue, no request in flight."""

    async def once(place: int) -> bool:
        service = virtual(one_at_a_time(max_queued=1, max_wait="5s"), RateLimit("100/s"), deadline="3s")
        protected = asgi.Protect(app, service)
        others = []
        if waits:
            others.append(asyncio.create_task(asgi.Protect(tea, service)(http(), receive, Sent().send)))
            await asyncio.sleep(0.1)
        client = Sent({"type": "websocket.connect"}, {"type": "websocket.disconnect"})
        scope = websocket() if app is talks else http()
        calling = asyncio.create_task(
            _awaiting(cancelled_at(place, cancel, protected(scope, client.receive, client.send)))
        )
        done = True
        try:
            await calling
        except asyncio.CancelledError:
            done = False
        for other in others:
            await other
        await asyncio.sleep(0)
        assert empty(service), f"left behind when cancelled at suspension {place}"
        assert not machine(service).snapshot(0.0)["queued"]
        return done

    place = 1
    while not run_virtual(once(place)):
        place += 1
    assert place > 1


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable
