"""The process that sends the load: `python -m hormesis.loadgen.generator`, driven by `LoadDriver` through its pipes.

It is a process of its own, so that neither the runner's work nor its pauses delay a request. Commands come in as lines
of JSON, `{"run": spec, "start_at": time}` and `{"stop": true}`; reports go out the same way: `{"ready": true}` once,
then for each run `{"started": time}`, `{"samples": columns}` and `{"attempts": columns}` every quarter of a second, and
`{"done": summary}`. When its standard input ends, so does it: the runner is gone.

It is an open loop. A request is sent when it is due, however many are still waiting for answers, and its latency counts
from when it was due: a server that stalls can't hide the requests that it kept from being sent (coordinated omission).
asyncio rounds its timers up to the next millisecond, so each wake-up sends everything that has become due. How late
each request was sent is part of the report: a generator that falls behind measures itself, not the system.

One arrival is one request on the wire, unless its callers are said to repeat it (`Retries`): nothing else is repeated,
no redirect is followed, no proxy of the environment is used, and an answer is done when its body has been read to the
end. Of a request that may be repeated each attempt is reported too. It is one request all the same: its latency runs
from when its first attempt was due to the end of the last, and it is worth what the last attempt brought.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import sys
from array import array
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from hormesis.errors import MissingExtraError
from hormesis.loadgen.histogram import Histogram
from hormesis.loadgen.request import LoadSpec, Request
from hormesis.loadgen.samples import UNFINISHED, Answer, Sample, Samples
from hormesis.loadgen.schedule import merged
from hormesis.loadgen.template import Template
from hormesis.units import seconds

try:
    import aiohttp
    from yarl import URL
except ImportError as missing:
    raise MissingExtraError("hormesis.loadgen.generator", "gameday") from missing

__all__: list[str] = []

_REPORT_EVERY = 0.25
_LEAD = 0.05
"""Seconds from the finished schedule to the first moment of a run that may start as soon as possible."""

_KEEP_ALIVE = 1.0
"""Seconds that an idle connection is kept: less than servers keep it, so that none is used while they close it."""

_COMMAND_MAX = 16 * 1024 * 1024
"""Bytes of a command at most."""

_FILES_MAX = 10_240
"""Open files to ask for: the most that every Unix grants."""

_BATCH_MAX = 2000
"""Samples in one line of a report, so that a line stays far below what the driver reads at once."""

_CLIENT_FULL = "client full"

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.ECONNABORTED: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    # This machine, not the service, has no more connections to give.
    errno.EMFILE: _CLIENT_FULL,
    errno.ENFILE: _CLIENT_FULL,
    errno.EADDRNOTAVAIL: _CLIENT_FULL,
    errno.ENOBUFS: _CLIENT_FULL,
}

Emit = Callable[[dict[str, object]], None]


class _End(NamedTuple):
    """How a request or an attempt ended."""

    answer: Answer
    error: str = ""
    status: int = 0


_UNFINISHED = _End(Answer.FAILED, UNFINISHED)
"""What a cancellation leaves behind."""


class _Run:
    """One run: from the schedule to the summary."""

    def __init__(self, spec: LoadSpec, start_at: float | None, emit: Emit) -> None:
        self._spec = spec
        self._emit = emit
        weights = {request.name: request.weight for request in spec.requests}
        self._offsets, self._mix = merged(spec.sources(), weights, seed=spec.seed)
        self._templates = [Template(request, spec.seed) for request in spec.requests]
        self._start_at = monotonic() + _LEAD if start_at is None else start_at
        self._end_at = self._start_at + spec.duration + seconds(spec.grace, zero=True)
        self._batch = Samples()
        self._attempts = Samples()
        self._lags = array("d")
        self._in_flight = 0
        self._dropped = 0

    async def execute(self) -> None:
        """Send everything that is due, and report; a cancellation ends the run early and is reported too."""
        self._emit({"started": self._start_at})
        reporter = asyncio.create_task(self._report())
        cancelled = False
        try:
            async with _session(keep_alive=self._spec.keep_alive) as session, asyncio.TaskGroup() as calls:
                await self._send(session, calls)
        except asyncio.CancelledError:
            cancelled = True
        finally:
            reporter.cancel()
        self._flush()
        self._emit({"done": self._summary(cancelled)})

    async def _send(self, session: aiohttp.ClientSession, calls: asyncio.TaskGroup) -> None:
        n = 0
        while n < len(self._offsets):
            now = monotonic()
            while n < len(self._offsets) and (intended := self._start_at + self._offsets[n]) <= now:
                if self._in_flight < self._spec.in_flight_max:
                    self._in_flight += 1
                    calls.create_task(self._call(n, intended, session))
                else:
                    self._dropped += 1
                    self._record(n, now, _End(Answer.FAILED, _CLIENT_FULL))
                n += 1
            if n < len(self._offsets):
                await asyncio.sleep(max(0.0, self._start_at + self._offsets[n] - monotonic()))

    async def _call(self, n: int, intended: float, session: aiohttp.ClientSession) -> None:
        sent = monotonic()
        self._lags.append(sent - intended)
        end = _UNFINISHED
        try:
            request = self._spec.requests[self._mix[n]]
            if request.retry is None:
                end = await self._attempt(n, self._patience_ends(request, intended), session)
            else:
                end = await self._repeat(n, intended, request, session)
        finally:
            self._in_flight -= 1
            self._record(n, sent, end)

    def _patience_ends(self, request: Request, intended: float) -> float:
        return intended + seconds(self._spec.timeout if request.timeout is None else request.timeout)

    async def _repeat(self, n: int, intended: float, request: Request, session: aiohttp.ClientSession) -> _End:
        """Attempt a request until an attempt succeeds, none is left, or its caller has no patience left."""
        retry, patience_ends = request.retry, self._patience_ends(request, intended)
        assert retry is not None  # noqa: S101
        due, end = intended, _UNFINISHED
        for left in reversed(range(retry.attempts)):
            sent = monotonic()
            until = patience_ends if retry.timeout is None else min(due + seconds(retry.timeout), patience_ends)
            end = _UNFINISHED
            try:
                end = await self._attempt(n, until, session)
            finally:
                self._attempts.append(Sample(due, sent, monotonic(), self._mix[n], *end))
            due = monotonic() + seconds(retry.delay, zero=True)
            if not (left and request.repeats(end.answer, end.status)) or due >= min(patience_ends, self._end_at):
                break
            await asyncio.sleep(due - monotonic())
        return end

    async def _attempt(self, n: int, until: float, session: aiohttp.ClientSession) -> _End:
        try:
            async with asyncio.timeout_at(min(until, self._end_at)):
                return await self._exchange(n, session)
        except TimeoutError:
            return _End(Answer.FAILED, "timeout") if until <= self._end_at else _UNFINISHED
        except (aiohttp.ClientError, OSError) as failure:
            kind = _kind(failure)
            self._dropped += kind == _CLIENT_FULL
            return _End(Answer.FAILED, kind)

    async def _exchange(self, n: int, session: aiohttp.ClientSession) -> _End:
        index = self._mix[n]
        call = self._templates[index].render(n)
        url = URL(self._spec.base_url + call.path, encoded=True)
        async with session.request(
            call.method, url, headers=call.headers, data=call.body, allow_redirects=False
        ) as response:
            await response.read()
        degraded, retry_after = map(response.headers.get, (self._spec.degraded_header, "retry-after"))
        return _End(*self._spec.requests[index].judge(response.status, degraded, retry_after), response.status)

    def _record(self, n: int, sent: float, end: _End) -> None:
        intended = self._start_at + self._offsets[n]
        self._batch.append(Sample(intended, sent, monotonic(), self._mix[n], *end))
        if max(len(self._batch), len(self._attempts)) >= _BATCH_MAX:
            self._flush()

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_EVERY)
            self._flush()

    def _flush(self) -> None:
        if len(self._batch):
            self._emit({"samples": self._batch.to_wire(self._start_at)})
            self._batch = Samples()
        if len(self._attempts):
            self._emit({"attempts": self._attempts.to_wire(self._start_at)})
            self._attempts = Samples()

    def _summary(self, cancelled: bool) -> dict[str, object]:
        lags = Histogram(self._lags)
        return {
            "lag_p50": lags.quantile(0.5),
            "lag_p99": lags.quantile(0.99),
            "lag_max": lags.quantile(1),
            "dropped": self._dropped,
            "cancelled": cancelled,
        }


def _session(*, keep_alive: bool) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=(
            aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
            if keep_alive
            else aiohttp.TCPConnector(limit=0, force_close=True)
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        # Each call has a deadline of its own; the session's timers would be a second opinion, rounded up.
        timeout=aiohttp.ClientTimeout(),
        headers={"User-Agent": "hormesis-load"},
        auto_decompress=False,
        trust_env=False,
    )
    # aiohttp sends an idempotent request a second time when a kept connection turns out to be closed. That would hide
    # failures and send load that no schedule contains; there is no public setting for it.
    session._retry_connection = False
    return session


def _kind(failure: Exception) -> str:
    if isinstance(failure, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "disconnected"
    if isinstance(failure, ConnectionResetError):
        return "reset"
    if isinstance(failure, OSError):
        return _KINDS.get(failure.errno or 0, "unreachable")
    return "malformed"


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=_COMMAND_MAX)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    reports, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)

    def emit(report: dict[str, object]) -> None:
        reports.write(json.dumps(report, separators=(",", ":")).encode() + b"\n")

    emit({"ready": True})
    async with asyncio.TaskGroup() as runs:
        run: asyncio.Task[None] | None = None
        while line := await commands.readline():
            command = json.loads(line)
            if "run" in command:
                spec = LoadSpec.from_table(command["run"])
                run = runs.create_task(_Run(spec, command["start_at"], emit).execute())
                # A task that is cancelled before its first step would never report; the next line may be a stop.
                await asyncio.sleep(0)
            elif run is not None:
                run.cancel()
        # Nobody is left to wait for answers, and a look-up stuck in a thread must not keep the process.
        os._exit(0)


def _allow_many_connections() -> None:
    """Lift the soft limit on open files, often 1024, which is fewer than the requests that may be under way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    _allow_many_connections()
    asyncio.run(_serve())
