"""What the pytest plugin hands to tests: a loop in a thread, and proxies, processes and load with a synchronous face.

Everything runs on one loop in a thread of its own, so it works from synchronous tests and from tests on any loop alike.
A test that serves from its own loop must not block it for as long as load is sent to it: `Load.arun` is awaited there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
import threading
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from hormesis.chaos import FaultProxy, Keeper, Process, ProcessSettings, WireFault, fault_from, free_port
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.loadgen import LoadDriver, LoadSpec, Request, RunResult, Segment
from hormesis.units import Duration, Rate, per_second, seconds

__all__ = ["Laboratory", "Load", "LoopThread", "Proxy", "Service"]

T = TypeVar("T")

_HOST = "127.0.0.1"
_STOP_WITHIN = 10.0
"""Seconds that one thing has to stop after its test."""


class LoopThread:
    """A loop in a thread: what a synchronous caller wants done there is done there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hormesis in tests", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], within: float | None = None) -> T:
        """Run a coroutine to its end and return what it returns.

        A caller that is interrupted by Ctrl-C cancels it, and waits until it has cleaned up.

        Raises:
            TimeoutError: It did not end in time.
        """
        ended = threading.Event()

        async def watched() -> T:
            try:
                async with asyncio.timeout(within):
                    return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(_STOP_WITHIN)
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run a coroutine; what is returned is awaited on the caller's own loop."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_WITHIN)
        if not self._thread.is_alive():
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class Proxy:
    """A fault proxy of a test: callers use its address, and faults act between them and the upstream."""

    def __init__(self, thread: LoopThread, proxy: FaultProxy) -> None:
        self._thread = thread
        self._proxy = proxy

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._proxy.host

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._proxy.port

    @property
    def url(self) -> str:
        """Both, for callers that speak HTTP."""
        return f"http://{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._proxy.connections

    @property
    def affected(self) -> int:
        """Connections that a fault was put on so far."""
        return self._proxy.affected

    def apply(self, fault: WireFault | Mapping[str, Any], *, name: str = "fault") -> None:
        """Put a fault into force now: a fault, or its table as a file has it.

        Raises:
            ConfigurationError: The table is no fault of an edge.
        """
        made = fault_from(fault) if isinstance(fault, Mapping) else fault
        if not isinstance(made, WireFault):
            raise ConfigurationError.bad_value("fault", fault, 'a fault on the wire, such as {"latency": "2s"}')
        self._call(lambda: self._proxy.apply(made, name=name))

    def lift(self, name: str | None = None) -> None:
        """End a fault now, or all of them."""
        self._call(lambda: self._proxy.lift(name))

    @contextlib.contextmanager
    def fault(self, fault: WireFault | Mapping[str, Any], *, name: str = "fault") -> Iterator[None]:
        """Have a fault in force inside a block."""
        self.apply(fault, name=name)
        try:
            yield
        finally:
            self.lift(name)

    def stop(self) -> None:
        """Close the port and all connections; after the test this is done anyway."""
        self._thread.run(self._proxy.stop(), _STOP_WITHIN)
        if self._proxy.active:
            raise HormesisError(f"the proxy {self._proxy.name!r} still has {self._proxy.active} connections")

    def _call(self, verb: Any) -> None:
        async def call() -> None:
            verb()

        self._thread.run(call())


class Service:
    """A process of a test: started, ready, and stopped with all that it started when the test is over."""

    def __init__(self, thread: LoopThread, process: Process) -> None:
        self._thread = thread
        self._process = process

    @property
    def host(self) -> str:
        """Where it listens."""
        return _HOST

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._process.settings.port

    @property
    def url(self) -> str:
        """Both, for callers that speak HTTP."""
        return f"http://{_HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its number; None when it does not run."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """The file that gets what it writes."""
        return self._process.settings.log

    @property
    def running(self) -> bool:
        """Whether it runs; a paused one does."""
        return self._process.running

    def kill(self) -> None:
        """Kill it and all it started, at once."""
        self._call(self._process.kill)

    def pause(self) -> None:
        """Freeze it, until `resume`."""
        self._call(self._process.pause)

    def throttle(self, share: float) -> None:
        """Let it run only this share of the time, until `resume`."""
        self._call(lambda: self._process.throttle(share))

    def resume(self) -> None:
        """Let it go on."""
        self._call(self._process.resume)

    def start(self) -> None:
        """Start it again after `kill` or `stop`, and wait until it is ready.

        Raises:
            ProcessFailed: It ended early or did not get ready; the error has its last lines.
        """
        self._thread.run(self._start())

    def stop(self) -> None:
        """End it in order, paused or not; after the test this is done anyway.

        Raises:
            HormesisError: Something of it is still there.
        """
        self._thread.run(self._process.stop(), _STOP_WITHIN)
        if left := self._process.members():
            raise HormesisError(f"process {self._process.settings.name!r} left behind: {', '.join(map(str, left))}")

    async def _start(self) -> None:
        if self._process.running:
            return
        await self._process.stop()
        await self._process.start()
        await self._process.wait_ready()

    def _call(self, verb: Any) -> None:
        async def call() -> None:
            verb()

        self._thread.run(call())


class Load:
    """The load generator of a session: an open loop, from a process of its own."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory

    def __call__(
        self, load: LoadSpec | str, *, rate: Rate = "20/s", for_: Duration = "2s", **request: Any
    ) -> RunResult:
        """Send load, and return what became of it.

        Args:
            load: All about it; or just an address, which is sent one kind of request.
            rate: Of requests to that address.
            for_: How long they are sent.
            request: What else there is to say of them; see `hormesis.loadgen.Request`.

        Raises:
            HormesisError: The generator could not keep up, so its figures would be its own.
        """
        return self._laboratory.thread.run(self._run(self._spec(load, rate, for_, request)))

    async def arun(
        self, load: LoadSpec | str, *, rate: Rate = "20/s", for_: Duration = "2s", **request: Any
    ) -> RunResult:
        """Do the same without blocking the loop of the test."""
        return await self._laboratory.thread.submit(self._run(self._spec(load, rate, for_, request)))

    def _spec(self, load: LoadSpec | str, rate: Rate, length: Duration, request: dict[str, Any]) -> LoadSpec:
        if isinstance(load, LoadSpec):
            return load
        parts = urlsplit(load)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return LoadSpec(
            base_url=f"{parts.scheme}://{parts.netloc}",
            segments=[Segment(seconds(length), per_second(rate))],
            requests=[Request("request", path=path, **request)],
            seed=self._laboratory.seed,
        )

    async def _run(self, spec: LoadSpec) -> RunResult:
        result = await (await self._laboratory.driver()).run(spec)
        if result.saturated:
            raise HormesisError(
                f"the load generator could not keep up: p99 send lag {result.lag_p99 * 1000:.0f} ms, "
                f"{result.dropped} arrivals not sent; its figures would be its own, not the service's"
            )
        return result


class Laboratory:
    """What a session of tests has one of: the loop, the watchdog, the load generator.

    Args:
        seed: What faults and load are drawn from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.thread = LoopThread()
        self._keeper = Keeper()
        self._keeper.start()
        self._driver: LoadDriver | None = None

    def proxy(
        self, upstream: str | int | tuple[str, int], *, name: str = "proxy", seed: int | None = None, port: int = 0
    ) -> Proxy:
        """Start a fault proxy.

        Args:
            upstream: Where it passes connections on to: an address such as `"127.0.0.1:5432"` or `"http://…"`, a pair
                of host and port, or a port of this machine.
            name: What its fortune is drawn for, and errors call it.
            seed: In place of the session's.
            port: Where it listens; 0 for a free port.

        Raises:
            ConfigurationError: The upstream is no address, or the port is in use.
        """
        proxy = FaultProxy(name, _address(upstream), seed=self.seed if seed is None else seed, port=port)
        self.thread.run(proxy.start())
        return Proxy(self.thread, proxy)

    def service(
        self,
        command: str | Sequence[str],
        *,
        folder: Path,
        name: str = "service",
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ready: str | None = None,
        ready_within: Duration = 20.0,
        restart_after: Duration | None = None,
    ) -> Service:
        """Start a process and wait until it is ready.

        Args:
            command: What to run, without a shell; `{host}`, `{port}` and `{dir}` (a folder of the test) are filled in.
            folder: That folder; its log goes there too.
            name: What errors and logs call it.
            port: Where it listens; left out: a free port.
            env: Variables for it, with the same placeholders.
            cwd: Where it runs; left out: here.
            ready: The HTTP path that answers 2xx once it is ready; left out: its port accepts.
            ready_within: The time it has for that.
            restart_after: How long after an unexpected end it is started again; left out: it is not.

        Raises:
            ConfigurationError: There is no such command, or something in it can't be meant.
            ProcessFailed: It ended early or did not get ready; the error has its last lines.
        """
        port = port or free_port(_HOST)
        known = {"host": _HOST, "port": str(port), "dir": str(folder)}
        words = shlex.split(command) if isinstance(command, str) else command
        settings = ProcessSettings(
            name,
            argv=[_fill(word, known) for word in words],
            port=port,
            log=folder / f"{name}.log",
            env={**_environment(), **{key: _fill(value, known) for key, value in (env or {}).items()}},
            cwd=None if cwd is None else Path(cwd),
            ready=ready,
            ready_within=ready_within,
            restart_after=restart_after,
        )
        process = Process(settings, self._keeper)
        service = Service(self.thread, process)
        try:
            service.start()
        except BaseException:
            with contextlib.suppress(HormesisError, TimeoutError):
                service.stop()
            raise
        return service

    async def driver(self) -> LoadDriver:
        """Return the load generator, started."""
        if self._driver is None:
            driver = LoadDriver(on_spawn=self._keeper.watch)
            await driver.start()
            self._driver = driver
        return self._driver

    def close(self) -> None:
        """Stop everything."""
        try:
            if self._driver is not None:
                self.thread.run(self._driver.stop(), _STOP_WITHIN)
        finally:
            self.thread.close()
            self._keeper.close()


def _address(upstream: str | int | tuple[str, int]) -> tuple[str, int]:
    if isinstance(upstream, int):
        return _HOST, upstream
    if not isinstance(upstream, str):
        return upstream
    parts = urlsplit(upstream if "://" in upstream else f"//{upstream}")
    port = None
    with contextlib.suppress(ValueError):
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if port is None or not parts.hostname:
        raise ConfigurationError.bad_value("upstream", upstream, "an address such as '127.0.0.1:5432'")
    return parts.hostname, port


def _fill(text: str, known: Mapping[str, str]) -> str:
    for name, value in known.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _environment() -> dict[str, str]:
    """The tools of this environment first, and no proxy between a process and its own machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "PYTHONUNBUFFERED": "1"}
