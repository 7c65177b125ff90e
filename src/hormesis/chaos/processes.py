"""The processes of a system under test: started, watched, frozen, killed, and always cleaned up.

Each process leads a session of its own, so its process group is exactly what it started, Ctrl-C in the terminal does
not reach it, and every signal here goes to the whole group: a server with workers freezes and dies as one.

A process that has ended keeps its number until it is reaped. So its end is only *noticed* first (by a pidfd on Linux);
then what it left behind in its group is killed, and only then is it reaped: no signal can hit a stranger who was given
the same number.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from time import monotonic

from hormesis.chaos.keeper import Keeper
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.units import Duration, seconds

__all__ = ["Process", "ProcessFailed", "ProcessSettings", "check_port_free", "free_port"]

_RESTARTS_MAX = 100
_LOOK_EVERY = 0.05
_ANSWER_WITHIN = 2.0
"""Seconds that one question whether a process is ready may take."""
_QUOTA_PERIOD = 0.1
"""Seconds in which a throttled process gets its share of the time once: the period of the kernel's own CPU quotas."""
_TURN_LEAST = 0.01
"""Seconds that it runs in one go at the least: in less it might not even get to a processor. A smaller share makes the
period longer."""
_DEATH_WITHIN = 5.0
"""Seconds after which a process that was killed has ended, unless it hangs in the kernel."""
_LOG_LINES = 20
_LOG_BYTES = 16 * 1024
_SUCCESS = re.compile(rb"HTTP/1\.[01] 2\d\d\b")


class ProcessFailed(HormesisError):
    """A process ended, or did not become ready in time.

    Args:
        process: Its name.
        reason: What happened.
        log: The last lines it wrote.
    """

    def __init__(self, process: str, reason: str, log: str = "") -> None:
        super().__init__(process, reason, log)
        self.process = process
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        last = f"; the last it wrote:\n{self.log}" if self.log else "; it wrote nothing"
        return f"process {self.process!r} {self.reason}{last}"


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How a process is run.

    Args:
        name: Its name, for errors.
        argv: The command and its arguments, as they are: no shell reads them.
        port: The port it will listen on, on this machine.
        log: The file that gets what it writes, appended.
        env: Variables on top of the runner's own.
        cwd: Where it runs; the runner's own directory when left out.
        ready: The HTTP path that answers 2xx once it is ready; without one, it is ready when its port accepts.
        ready_within: The time it has for that.
        restart_after: How long after an unexpected end it is started again; left out: it is not.
    """

    name: str
    _: KW_ONLY
    argv: Sequence[str]
    port: int
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    ready: str | None = None
    ready_within: Duration = 20.0
    restart_after: Duration | None = None

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv:
            raise ConfigurationError.bad_value("argv", self.argv, "a command and its arguments, one string each")
        if not 0 < self.port < 65536:
            raise ConfigurationError.bad_value("port", self.port, "a port from 1 to 65535")
        if self.ready is not None and not re.fullmatch(r"/[!-~]*", self.ready):
            raise ConfigurationError.bad_value("ready", self.ready, "an HTTP path like '/healthz'")
        object.__setattr__(self, "ready_within", seconds(self.ready_within, "ready_within"))
        if self.restart_after is not None:
            object.__setattr__(self, "restart_after", seconds(self.restart_after, "restart_after", zero=True))


class Process:
    """A process of the system under test.

    Args:
        settings: How it is run.
        keeper: Who cleans it up if the runner dies.
    """

    def __init__(self, settings: ProcessSettings, keeper: Keeper | None = None) -> None:
        self.settings = settings
        self.restarts = 0
        """How often it was started again after an unexpected end, successfully or not."""
        self._keeper = keeper
        self._popen: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._throttling: asyncio.Task[None] | None = None
        self._status: int | None = None

    @property
    def pid(self) -> int | None:
        """Its number, which is its group's too; None when it does not run."""
        return None if self._popen is None else self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it runs (a paused process does)."""
        return self._popen is not None

    async def start(self) -> None:
        """Start it, and watch over it until `stop`.

        Raises:
            ConfigurationError: There is no such command or directory, or it can't be run.
        """
        if self._supervisor is not None:
            raise RuntimeError(f"process {self.settings.name!r} was started already")
        self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"supervisor of {self.settings.name}")

    async def wait_ready(self) -> None:
        """Wait until it answers.

        One that is down just now, but is to be restarted, is waited for.

        Raises:
            ProcessFailed: It ended while it was waited for, or it is not ready in time.
        """
        was_running = self.running
        within = seconds(self.settings.ready_within)
        try:
            async with asyncio.timeout(within):
                while not (await self._answers() and self.running):
                    given_up = self._supervisor is None or self._supervisor.done()
                    if not self.running and (was_running or given_up):
                        reason = f"ended before it was ready (exit status {self._status})"
                        raise ProcessFailed(self.settings.name, reason, self._last_words())
                    was_running = self.running
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise ProcessFailed(self.settings.name, f"is not ready after {within:g} s", self._last_words()) from None

    def kill(self) -> None:
        """Kill it and all it started, at once (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it and all it started (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def throttle(self, share: float) -> None:
        """Let it and all it started run only this share of the time, until `resume`; a restart does not free it."""
        self._stop_throttling()
        self._throttling = asyncio.create_task(self._throttle(share), name=f"throttle of {self.settings.name}")

    def resume(self) -> None:
        """Let it go on after `pause` or `throttle` (SIGCONT)."""
        self._stop_throttling()
        self._signal(signal.SIGCONT)

    async def stop(self, *, grace: float = 1.0) -> None:
        """End it, paused or not: ask, wait `grace` seconds, kill. One that has ended already is left at that.

        When this is cancelled, it is killed without further waiting.
        """
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
        self._stop_throttling()
        popen = self._popen
        if popen is not None:
            try:
                self._signal(signal.SIGCONT)
                self._signal(signal.SIGTERM)
                if not await _ended(popen, within=grace):
                    self._signal(signal.SIGKILL)
                    await _ended(popen, within=_DEATH_WITHIN)
            finally:
                self._bury(popen)
        if supervisor is not None:
            await asyncio.wait([supervisor])

    def _stop_throttling(self) -> None:
        if self._throttling is not None:
            self._throttling.cancel()
            self._throttling = None

    async def _throttle(self, share: float) -> None:
        """Freeze and thaw it; a turn that took too long, as this loop was busy, is made up for by a longer freeze."""
        turn = max(_QUOTA_PERIOD * share, _TURN_LEAST)
        began, ran = monotonic(), turn
        while True:
            self._signal(signal.SIGSTOP)
            await asyncio.sleep(began + ran / share - monotonic())
            thawed = monotonic()
            self._signal(signal.SIGCONT)
            await asyncio.sleep(turn)
            ran += monotonic() - thawed

    async def _supervise(self) -> None:
        """See it end, and start it again; ends when there is nothing more to do."""
        while True:
            if self._popen is not None:
                await _ended(self._popen)
                self._bury(self._popen)
            if self.settings.restart_after is None or self.restarts >= _RESTARTS_MAX:
                return
            await asyncio.sleep(seconds(self.settings.restart_after, zero=True))
            self.restarts += 1
            try:
                self._spawn()
            except (HormesisError, OSError) as error:  # A command that is just being replaced may be back in a moment.
                with suppress(OSError), self.settings.log.open("a") as log:
                    log.write(f"{error}\n")

    def _spawn(self) -> None:
        """Start it; it tells the keeper of itself before it becomes the command."""
        settings = self.settings
        what = f"process {settings.name!r}"
        if settings.cwd is not None and not settings.cwd.is_dir():
            raise ConfigurationError(f"{what}: there is no directory {str(settings.cwd)!r} to run in", "cwd")
        try:
            log = settings.log.open("ab")
        except OSError as error:
            raise ConfigurationError(
                f"{what}: can't write its log {str(settings.log)!r}: {error.strerror}", "log"
            ) from error
        with log:
            try:
                popen = subprocess.Popen(  # noqa: S603  # to run the user's command is what this is for
                    settings.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=settings.cwd,
                    env={**os.environ, **settings.env},
                    start_new_session=True,
                    # All it does is one write: nothing that a thread of ours could have locked at the fork.
                    preexec_fn=None if self._keeper is None else self._keeper.watch_me,  # noqa: PLW1509
                )
            except OSError as error:
                message = f"{what}: the command {settings.argv[0]!r} can't be run: {error.strerror}"
                raise ConfigurationError(message, "command") from error
        self._popen = popen
        if self._keeper is not None:
            try:
                self._keeper.watch(popen.pid)  # it told of itself; a keeper that has died is noticed here
            except BaseException:
                self._bury(popen)
                raise

    def _bury(self, popen: subprocess.Popen[bytes]) -> None:
        """Kill what it left behind, and reap it."""
        if self._popen is not popen:
            return
        self._popen = None
        _signal_group(popen.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._status = popen.wait(_DEATH_WITHIN)
        if self._keeper is not None:
            self._keeper.forget(popen.pid)

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            _signal_group(self._popen.pid, number)

    async def _answers(self) -> bool:
        """Ask once whether it is ready."""
        port = self.settings.port
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with closing(writer):
                    if self.settings.ready is None:
                        return True
                    question = (
                        f"GET {self.settings.ready} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
                    )
                    writer.write(question.encode())
                    return _SUCCESS.match(await reader.readline()) is not None
        except (OSError, ValueError):  # Nobody there, no answer in time; no HTTP, but a line without end.
            return False

    def _last_words(self) -> str:
        """Return the last lines of the log."""
        try:
            with self.settings.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_LOG_LINES:])


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port on which nobody listens just now; until it is bound, somebody else can still take it."""
    with socket.create_server((host, 0), family=_family(host)) as server:
        port: int = server.getsockname()[1]
        return port


def check_port_free(host: str, port: int, what: str) -> None:
    """Make sure that `what` can listen on a port.

    Raises:
        ConfigurationError: It can't.
    """
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        message = f"port {port} of {what} can't be listened on: {error.strerror}"
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} of {what} is in use; stop what listens there, or leave it out to have one chosen"
        raise ConfigurationError(message, "port") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _signal_group(group: int, number: signal.Signals) -> None:
    # Some systems answer EPERM, not ESRCH, when only zombies are left in the group.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


async def _ended(popen: subprocess.Popen[bytes], within: float | None = None) -> bool:
    """Wait for the end of a process; False when the time is over first."""
    try:
        async with asyncio.timeout(within):
            await _end_of(popen)
    except TimeoutError:
        return False
    return True


async def _end_of(popen: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a process, without reaping it where there is a pidfd."""
    try:
        pidfd = os.pidfd_open(popen.pid)
    except (AttributeError, OSError):  # Another system; no file descriptor left; or it has been reaped already.
        while popen.poll() is None:  # noqa: ASYNC110  # there is no event to wait for
            await asyncio.sleep(_LOOK_EVERY)
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
