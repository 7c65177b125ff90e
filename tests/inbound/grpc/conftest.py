"""A real gRPC server of either API, under a service, whose behaviours a test hands in."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio
import pytest

from hormesis.inbound.grpc import AsyncProtect, Protect
from hormesis.inbound.service import Service

PATIENCE = 20.0

Kind = tuple[bool, bool]
"""Whether requests are a stream, and whether answers are."""

_MAKE = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Methods(grpc.GenericRpcHandler):
    """Behaviours by the full names of their methods."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[Kind, Callable[..., Any]]] = {}

    def service(self, handler_call_details: Any) -> Any:
        found = self.known.get(handler_call_details.method)
        return None if found is None else _MAKE[found[0]](found[1])


class Server:
    """A server of the synchronous API."""

    def __init__(self, service: Service) -> None:
        self.methods = Methods()
        threads = futures.ThreadPoolExecutor(8)
        self._server = grpc.server(threads, interceptors=[Protect(service, threads=threads)])
        self._server.add_generic_rpc_handlers((self.methods,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def serve(self, behave: Callable[..., Any], kind: Kind = (False, False), name: str = "/shop.Shop/Call") -> None:
        self.methods.known[name] = kind, behave

    def stop(self) -> None:
        self._server.stop(None).wait()


class AsyncServer:
    """A server of the asynchronous API, on a loop of its own; behaviours are made asynchronous."""

    def __init__(self, service: Service) -> None:
        self.methods = Methods()
        self.target = ""
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(service,))
        self._thread.start()
        assert self._started.wait(PATIENCE)

    def _run(self, service: Service) -> None:
        asyncio.run(self._serve(service))

    async def _serve(self, service: Service) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._server = grpc.aio.server(interceptors=[AsyncProtect(service)])
        self._server.add_generic_rpc_handlers((self.methods,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._started.set()
        await self._stop.wait()
        await self._server.stop(None)

    def serve(self, behave: Callable[..., Any], kind: Kind = (False, False), name: str = "/shop.Shop/Call") -> None:
        if inspect.isgeneratorfunction(behave):
            behave = _generator(behave)
        elif not inspect.iscoroutinefunction(behave):
            behave = _coroutine(behave)
        self.methods.known[name] = kind, behave

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)


class _Blocking:
    """The context of the asynchronous API as a synchronous behaviour knows it."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def abort(self, code: Any, details: str) -> None:
        raise Aborts(code, details)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Aborts(Exception):
    """A behaviour wants its call aborted."""


def _coroutine(behave: Callable[..., Any]) -> Callable[..., Any]:
    async def coroutine(request: Any, context: Any) -> Any:
        if hasattr(request, "__aiter__"):
            request = iter([each async for each in request])
        try:
            found = behave(request, _Blocking(context))
            return await found if inspect.isawaitable(found) else found
        except Aborts as wanted:
            await context.abort(*wanted.args)

    return coroutine


def _generator(behave: Callable[..., Any]) -> Callable[..., Any]:
    async def generator(request: Any, context: Any) -> Any:
        if hasattr(request, "__aiter__"):
            request = iter([each async for each in request])
        for message in behave(request, _Blocking(context)):
            if isinstance(message, threading.Event):
                await asyncio.to_thread(message.wait, PATIENCE)
            else:
                yield message

    return generator


@pytest.fixture(params=["blocking", "aio"])
def server_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Service], Any]]:
    """Return the function that starts a server under a service, of one API after the other."""
    started: list[Any] = []

    def start(service: Service) -> Any:
        server = Server(service) if request.param == "blocking" else AsyncServer(service)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()
