"""The runner's handle on the load generator's process.

The generator lives in a session of its own, so that Ctrl-C reaches only the runner, and it ends when the runner does,
because the pipe on its standard input then closes. One run happens at a time; `cancel` ends it early and keeps the
process for the next one. Whatever goes wrong inside a run (the generator crashes or hangs, the caller is cancelled, its
callback raises) ends in the same place: the process is killed and reaped before the error leaves `run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import IO, Any, Self

from hormesis.errors import ConfigurationError, HormesisError, MissingExtraError
from hormesis.loadgen.request import LoadSpec
from hormesis.loadgen.samples import Samples
from hormesis.units import seconds

__all__ = ["LAG_MAX", "LoadDriver", "RunResult"]

LAG_MAX = 0.05
"""Seconds of send lag (p99) beyond which the generator, not the system, was measured."""

_START_WITHIN = 30.0
_OVERDUE = 30.0
"""Seconds that a run may last beyond its own end, schedule-making included, before the generator counts as hung."""

_CANCEL_WITHIN = 2.0
_REPORT_MAX = 4 * 1024 * 1024
_LAST_LINES = 20
_LAST_BYTES = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run of the load came to.

    Attributes:
        samples: One row for each arrival.
        attempts: One row for each attempt of the requests that their callers repeat; of all others the sample is the
            one attempt.
        start_at: The monotonic time that the schedule counted from.
        cancelled: Whether the run was ended early.
        dropped: Arrivals that were not sent because the generator had no room left; they failed as "client full".
        lag_p50: The median send lag, in seconds from when a request was due to when it was sent (not a number if
            nothing was sent). Of a closed loop it is that of a clock: how late the generator notices fixed moments.
        lag_p99: Its 99th percentile.
        lag_max: Its maximum.
        waited: Requests that were kept back because as many connections were open as may be; that is part of their
            latency.
        wrong: By the name of a request, what was wrong with the first answer that did not hold what it should.
    """

    samples: Samples
    attempts: Samples
    start_at: float
    cancelled: bool
    dropped: int
    lag_p50: float
    lag_p99: float
    lag_max: float
    waited: int = 0
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def saturated(self) -> bool:
        """Whether the generator could not keep its schedule, which makes the run's latencies its own."""
        return self.dropped > 0 or self.lag_p99 > LAG_MAX


class LoadDriver:
    """Starts the load generator, runs loads with it, and leaves nothing behind.

    One task starts it and runs loads; while a run is under way, other tasks may `cancel` or `stop` it.

    Args:
        on_spawn: Called with the process id, which is also its process group's, as soon as it exists.

    >>> from hormesis.loadgen import LoadSpec, Request, Segment
    >>> async def main():
    ...     spec = LoadSpec(base_url="http://127.0.0.1:8000", segments=[Segment("10s", "200/s")],
    ...                     requests=[Request("browse", path="/products")], seed=1)
    ...     async with LoadDriver() as driver:
    ...         return await driver.run(spec)
    """

    def __init__(self, *, on_spawn: Callable[[int], None] | None = None) -> None:
        self._on_spawn = on_spawn
        self._generator: _Generator | None = None
        self._over: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the process and wait until it takes commands.

        Raises:
            MissingExtraError: The client library is not installed.
            HormesisError: It ended at once, or did not get ready; the message has its last lines.
        """
        if self._generator is not None:
            raise HormesisError("the load generator is already running")
        if importlib.util.find_spec("httptools") is None:
            raise MissingExtraError("the load generator", "gameday")
        self._generator = await _Generator.spawn()
        try:
            if self._on_spawn is not None:
                self._on_spawn(self._generator.pid)
            async with asyncio.timeout(_START_WITHIN):
                await self._generator.receive()
        except BaseException as error:
            await self._end()
            if isinstance(error, TimeoutError):
                raise HormesisError(f"the load generator was not ready within {_START_WITHIN:.0f} s") from None
            raise

    async def run(
        self,
        spec: LoadSpec,
        on_samples: Callable[[Samples], None] | None = None,
        *,
        start_at: float | None = None,
    ) -> RunResult:
        """Run one load to its end, and return what became of every arrival.

        Args:
            spec: The load.
            on_samples: Called with each batch of new samples, a few times a second, as answers come in.
            start_at: The monotonic time from which the schedule counts; None is as soon as the schedule is made.

        Raises:
            HormesisError: The generator isn't running, has another run, crashed or hung. After an error, a cancellation
                included, the generator has been stopped; `start` begins anew.
        """
        generator = self._generator
        if generator is None:
            raise HormesisError("the load generator is not running; start it first")
        if self._over is not None:
            raise HormesisError("the load generator has a run under way; it does one at a time")
        self._over = asyncio.Event()
        ahead = 0.0 if start_at is None else max(0.0, start_at - monotonic())
        limit = asyncio.timeout(ahead + spec.duration + seconds(spec.grace, zero=True) + _OVERDUE)
        try:
            async with limit:
                generator.send({"run": spec.to_table(), "start_at": start_at})
                return await _collect(generator, on_samples)
        except BaseException:
            await self._end()
            if limit.expired():
                raise HormesisError("the load generator hangs: its run should have ended long ago") from None
            raise
        finally:
            self._over.set()
            self._over = None

    async def cancel(self) -> None:
        """End the run that is under way, if there is one; its `run` returns what there was, marked as cancelled.

        Requests that still wait for an answer are cut off as "unfinished". A generator that doesn't obey within two
        seconds is killed, and `run` raises.
        """
        over, generator = self._over, self._generator
        if over is None or generator is None:
            return
        generator.send({"stop": True})
        try:
            async with asyncio.timeout(_CANCEL_WITHIN):
                await over.wait()
        except TimeoutError:
            generator.kill()
            await over.wait()

    async def stop(self) -> None:
        """Kill the process and reap it; a run that is under way raises. Stopping twice is fine."""
        if self._over is None:
            await self._end()
            return
        # The run reads the pipes, so the run sees the end, and reaps.
        if self._generator is not None:
            self._generator.kill()
        await self._over.wait()

    async def _end(self) -> None:
        generator, self._generator = self._generator, None
        if generator is not None:
            generator.kill()
            # The process is as good as dead; a second cancellation must not leave it unreaped.
            await asyncio.shield(generator.reap())


async def _collect(generator: _Generator, on_samples: Callable[[Samples], None] | None) -> RunResult:
    first = await generator.receive()
    if "refused" in first:
        raise ConfigurationError(first["refused"])
    samples, attempts = Samples(), Samples()
    while "done" not in (report := await generator.receive()):
        data = await generator.receive_bytes(report["bytes"])
        if "attempts" in report:
            attempts.extend(Samples.from_wire((report["attempts"], data)))
            continue
        batch = Samples.from_wire((report["samples"], data))
        samples.extend(batch)
        if on_samples is not None:
            on_samples(batch)
    return RunResult(samples=samples, attempts=attempts, start_at=first["started"], **report["done"])


class _Generator:
    """The process and its pipes: lines of JSON in and out, and a file for its last words."""

    __slots__ = ("_commands", "_errors", "_process", "_reports")

    def __init__(self, process: Process, errors: IO[bytes]) -> None:
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        self._process = process
        self._commands: StreamWriter = process.stdin
        self._reports: StreamReader = process.stdout
        self._errors = errors

    @classmethod
    async def spawn(cls) -> _Generator:
        # A file, unlike a pipe, needs nobody to read it and can't block the one who writes.
        errors = tempfile.TemporaryFile()  # noqa: SIM115  # It is closed when the process is reaped.
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "hormesis.loadgen.generator"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=errors,
                limit=_REPORT_MAX,
                start_new_session=True,
            )
        except BaseException:
            errors.close()
            raise
        return cls(process, errors)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: dict[str, object]) -> None:
        self._commands.write(json.dumps(command).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        line = await self._reports.readline()
        if not line.endswith(b"\n"):
            raise await self._death()
        report: dict[str, Any] = json.loads(line)
        return report

    async def receive_bytes(self, size: int) -> bytes:
        try:
            return await self._reports.readexactly(size)
        except asyncio.IncompleteReadError:
            raise await self._death() from None

    async def _death(self) -> HormesisError:
        code = await self._process.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return HormesisError(f"the load generator ended unexpectedly ({how}){self._last_lines()}")

    def _last_lines(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _LAST_BYTES))
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return "".join(f"\n  {line}" for line in lines)

    def kill(self) -> None:
        # Not `Process.kill`, which polls first: that may take the exit status away from asyncio's own watcher, and a
        # crash would then be told as "exit status 255".
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """Wait for the end of the killed process, which asyncio sees only when all of its output has been read."""
        self._commands.close()
        while await self._reports.read(_REPORT_MAX):
            pass
        await self._process.wait()
        self._errors.close()
