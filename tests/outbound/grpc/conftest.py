"""A real gRPC server that does as it is told, and a client of either API whose channel is under a policy."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, Protocol

import grpc
import grpc.aio
import pytest

import hormesis as hm
import hormesis.outbound.grpc_failures
from hormesis.outbound.grpc import PolicyInterceptor, policy_interceptors

PATIENCE = 20.0

Behaviour = Callable[[Iterator[bytes], Any], Iterable[bytes]]


def echo(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Answer each request with itself."""
    yield from requests


@dataclasses.dataclass
class Seen:
    """What the server saw of a call."""

    method: str
    metadata: dict[str, Any]
    time: float | None
    ended: threading.Event = dataclasses.field(default_factory=threading.Event)


class Server:
    """A server on a free port; each call takes the next behaviour of the plan, and then echoes."""

    def __init__(self) -> None:
        self.plan: deque[Behaviour] = deque()
        self.seen: list[Seen] = []
        self.go = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def reset(self) -> None:
        """Let go of calls that hang, and forget what was."""
        self.go.set()
        for seen in self.seen:
            assert seen.ended.wait(PATIENCE)
        self.plan.clear()
        self.seen.clear()
        self.go = threading.Event()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def fails(self, code: grpc.StatusCode, *, after: int = 0, trailing: tuple[tuple[str, str], ...] = ()) -> Behaviour:
        """Fail with a status, after some messages."""

        def behave(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            # gRPC's asynchronous client may report an internal error of its own if it is still sending by then.
            next(requests)
            for number in range(after):
                yield b"%d" % number
            context.set_trailing_metadata(trailing)
            context.abort(code, "as told")

        return behave

    def hangs(self, *, after: int = 0) -> Behaviour:
        """Answer with some messages, and with one more when told to go on, or never when the call is over."""
        go = self.go

        def behave(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for number in range(after):
                yield b"%d" % number
            over = threading.Event()
            context.add_callback(over.set)
            while context.is_active() and not go.wait(0.005):
                pass
            yield b"late"

        return behave

    def run(self, kind: str, method: str, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        seen = Seen(method, dict(context.invocation_metadata()), context.time_remaining())
        context.add_callback(seen.ended.set)
        self.seen.append(seen)
        behave = self.plan.popleft() if self.plan else echo
        yield from behave(requests, context)


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        kind = method.rpartition("/")[2]
        takes, gives = kind.split("_")[:2]

        def stream(requests: Any, context: Any) -> Iterator[bytes]:
            given = requests if takes == "stream" else iter([requests])
            return self._server.run(kind, method, given, context)

        def unary(requests: Any, context: Any) -> bytes:
            return list(stream(requests, context))[-1]

        make = getattr(grpc, f"{takes}_{gives}_rpc_method_handler")
        return make(stream if gives == "stream" else unary)


class Stream(Protocol):
    """A stream of answers that is being read."""

    def next(self) -> bytes | None: ...
    def cancel(self) -> None: ...


class Client(Protocol):
    """A client of one of the two APIs."""

    waits_for: frozenset[str]
    """The kinds of calls whose outcome the policy waits for."""

    def call(
        self,
        kind: str,
        request: bytes = b"a",
        *,
        service: str = "t.T",
        timeout: float | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
    ) -> list[bytes]:
        """Make a call of a kind, and return all of its answers."""
        ...

    def opens(self, kind: str) -> Stream:
        """Open a stream."""
        ...

    def pause(self, seconds: float) -> None:
        """Let time pass for the client."""
        ...

    def close(self) -> None: ...


class BlockingClient:
    waits_for = frozenset({"unary_unary", "unary_stream", "stream_unary"})

    def __init__(self, target: str, policy: hm.Policy, **settings: Any) -> None:
        self.channel = grpc.intercept_channel(grpc.insecure_channel(target), PolicyInterceptor(policy, **settings))

    def call(self, kind: str, request: bytes = b"a", *, service: str = "t.T", **options: Any) -> list[bytes]:
        method = getattr(self.channel, kind)(f"/{service}/{kind}")
        answer = method(iter([request]) if kind.startswith("stream") else request, **options)
        return list(answer) if kind.endswith("stream") else [answer]

    def opens(self, kind: str) -> Stream:
        method = getattr(self.channel, kind)(f"/t.T/{kind}")
        return _BlockingStream(method(iter([b"a"]) if kind.startswith("stream") else b"a"))

    def pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def close(self) -> None:
        self.channel.close()


class _BlockingStream:
    def __init__(self, call: Any) -> None:
        self.call = call

    def next(self) -> bytes | None:
        return next(self.call, None)

    def cancel(self) -> None:
        self.call.cancel()


class AioClient:
    waits_for = frozenset({"unary_unary", "unary_stream"})

    def __init__(self, target: str, policy: hm.Policy, **settings: Any) -> None:
        interceptors = policy_interceptors(policy, **settings)
        self.runner = asyncio.Runner()

        async def connect() -> grpc.aio.Channel:
            return grpc.aio.insecure_channel(target, interceptors=interceptors)

        self.channel = self.runner.run(connect())

    def call(self, kind: str, request: bytes = b"a", *, service: str = "t.T", **options: Any) -> list[bytes]:
        async def make() -> list[bytes]:
            method = getattr(self.channel, kind)(f"/{service}/{kind}")
            call = method(_sent([request]) if kind.startswith("stream") else request, **options)
            return [message async for message in call] if kind.endswith("stream") else [await call]

        return self.runner.run(make(), context=contextvars.copy_context())

    def opens(self, kind: str) -> Stream:
        async def make() -> Any:
            method = getattr(self.channel, kind)(f"/t.T/{kind}")
            return method(_sent([b"a"]) if kind.startswith("stream") else b"a")

        return _AioStream(self.runner, self.runner.run(make()))

    def pause(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    def close(self) -> None:
        self.runner.run(self.channel.close())
        self.runner.close()


class _AioStream:
    def __init__(self, runner: asyncio.Runner, call: Any) -> None:
        self.runner = runner
        self.call = call

    def next(self) -> bytes | None:
        message: Any = self.runner.run(self.call.read())
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        async def cancel() -> None:
            self.call.cancel()
            await asyncio.sleep(0.02)

        self.runner.run(cancel())


async def _sent(requests: Iterable[bytes]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


@pytest.fixture(scope="session")
def running() -> Iterator[Server]:
    """The server, for all tests."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The server, as new."""
    yield running
    running.reset()


Connect = Callable[..., Any]


@pytest.fixture(params=[BlockingClient, AioClient], ids=["blocking", "aio"])
def connect(request: pytest.FixtureRequest, server: Server) -> Iterator[Connect]:
    """Return what makes a client of one of the APIs, under a policy."""
    clients: list[Client] = []

    def make(policy: hm.Policy, **settings: Any) -> Client:
        clients.append(request.param(server.target, policy, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()
