"""The processes of a system under test: started, watched, frozen, killed, and always cleaned up.

Each process leads a session of its own, so Ctrl-C in the terminal does not reach it. Every signal here goes to its
whole group, and to what left the group by a session of its own but still bears its mark (`marks`): a server with
workers freezes and dies as one, PostgreSQL and whatever puts itself into the background too.

A process that has ended keeps its number until it is reaped. So its end is only *noticed* first (by a pidfd on Linux);
then what it left behind is killed, and only then is it reaped: no signal can hit a stranger who was given the same
number.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from time import monotonic

from hormesis.chaos import marks
from hormesis.chaos.births import spawn
from hormesis.chaos.keeper import Keeper, KeeperDied
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.units import Duration, seconds

__all__ = ["Process", "ProcessFailed", "ProcessSettings", "check_port_free", "free_port"]

_RESTARTS_MAX = 100
_LOOK_EVERY = 0.05
_FIND_EVERY = 1.0
"""Seconds between two searches for what has left the group of a throttled process."""
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
_PORTS_FROM = 20_000
_PORTS_TRIED = 100
_EPHEMERAL_FROM = 32_768
"""What Linux hands out by itself, unless it is told otherwise; other systems begin higher."""
_SUCCESS = re.compile(rb"HTTP/1\.[01] 2\d\d\b")
_returned: deque[int] = deque(maxlen=1000)
"""Ports that were returned as free, and may not be bound yet."""


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
        host: The address on which it will listen.
        setup: Commands that are run before its first start (`set_up`), one after the other.
        ready: The HTTP path that answers 2xx once it is ready; without one, it is ready when its port accepts.
        ready_argv: A command that ends with status 0 once it is ready, in place of the path.
        ready_within: The time it has for that, and each command for its end.
        stop: How it is asked to end: a signal's name, or a command.
        restart_after: How long after an unexpected end it is started again; left out: it is not.
    """

    name: str
    _: KW_ONLY
    argv: Sequence[str]
    port: int
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    host: str = "127.0.0.1"
    setup: Sequence[Sequence[str]] = ()
    ready: str | None = None
    ready_argv: Sequence[str] | None = None
    ready_within: Duration = 20.0
    stop: str | Sequence[str] = "SIGTERM"
    restart_after: Duration | None = None

    def __post_init__(self) -> None:
        if isinstance(self.argv, str) or not self.argv:
            raise ConfigurationError.bad_value("argv", self.argv, "a command and its arguments, one string each")
        if not 0 < self.port < 65536:
            raise ConfigurationError.bad_value("port", self.port, "a port from 1 to 65535")
        if self.ready is not None and not re.fullmatch(r"/[!-~]*", self.ready):
            raise ConfigurationError.bad_value("ready", self.ready, "an HTTP path like '/healthz'")
        if isinstance(self.stop, str) and self.stop not in signal.Signals.__members__:
            raise ConfigurationError.bad_value(
                "stop", self.stop, "a signal's name like 'SIGTERM', or a command's words"
            )
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
        self.mark = marks.member(marks.new_run(), 1) if keeper is None else keeper.new_mark()
        """What it and all it started bear; see `hormesis.chaos.marks`."""
        self.births: list[str] = []
        """What each new process of it is born with: limits, a control group (see `hormesis.chaos.births`)."""
        self.restarts = 0
        """How often it was started again after an unexpected end, successfully or not."""
        self._keeper = keeper
        self._popen: subprocess.Popen[bytes] | None = None
        self._condemned: subprocess.Popen[bytes] | None = None
        """What was killed, and may not have been seen to be dead."""
        self._supervisor: asyncio.Task[None] | None = None
        self._doing: asyncio.Task[None] | None = None
        """What is being done to it in turns: it is throttled, crashes again and again, or is restarted."""
        self._status: int | None = None

    @property
    def pid(self) -> int | None:
        """Its number, which is its group's too; None when it does not run."""
        return None if self._popen is None else self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it runs (a paused process does)."""
        return self._popen is not None

    def members(self) -> list[int]:
        """Return the numbers of all its processes: itself and what it started."""
        return marks.find(self.mark) or ([] if self._popen is None else [self._popen.pid])

    async def set_up(self) -> None:
        """Run the commands that come before its first start.

        Raises:
            ProcessFailed: One did not end with status 0, or not in time.
            ConfigurationError: There is no such command or directory, or it can't be run.
        """
        for argv in self.settings.setup:
            await self._run(argv, "to set it up")

    async def start(self) -> None:
        """Start it, and watch over it until `stop`.

        Raises:
            ConfigurationError: There is no such command or directory, it can't be run, or somebody listens on its port,
                whose answers would pass for its own.
        """
        settings = self.settings
        if self._supervisor is not None:
            raise RuntimeError(f"process {settings.name!r} was started already")
        _check_port_unused(settings.host, settings.port, f"process {settings.name!r}")
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

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill it and all it started, at once, or by another signal."""
        self._signal(number)

    def pause(self) -> None:
        """Freeze it and all it started (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def throttle(self, share: float) -> None:
        """Let it and all it started run only this share of the time, until `resume`; a restart does not free it."""
        self._do(self._throttle(share), "throttle")

    def crash_loop(self, every: float) -> None:
        """Kill it, and again whenever it has been up for so many seconds, until `resume`."""
        self._do(self._crash(every), "crash loop")

    def restart(self, grace: float) -> None:
        """Stop it in order and start it again, beside what goes on here; `resume` breaks that off."""
        self._do(self._restart(grace), "restart")

    def resume(self) -> None:
        """Let it go on after `pause`, `throttle`, `crash_loop` or `restart` (SIGCONT)."""
        self._stop_doing()
        self._signal(signal.SIGCONT)

    async def recover(self) -> None:
        """Take back all that was done to it here: it goes on, and if it has ended and nobody else will, it is started.

        Raises:
            ConfigurationError: It can't be run any more.
        """
        doing = self._doing
        self.resume()
        if doing is not None:
            await asyncio.wait([doing])
        with suppress(TimeoutError):
            async with asyncio.timeout(_DEATH_WITHIN):
                while self._popen is not None and self._popen is self._condemned:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_EVERY / 5)
        await self._revive()

    async def _revive(self) -> None:
        given_up = self._supervisor is None or self._supervisor.done()
        if not self.running and given_up:
            self._supervisor = None
            await self.start()

    async def stop(self, *, grace: float = 1.0) -> None:
        """End it, paused or not: ask, wait `grace` seconds, kill. One that has ended already is left at that.

        When this is cancelled, it is killed without further waiting.
        """
        self._stop_doing()
        await self._stop(grace)

    async def _stop(self, grace: float) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
        popen = self._popen
        if popen is not None:
            try:
                self._signal(signal.SIGCONT)
                if not await self._ask_to_end(popen, grace):
                    self._signal(signal.SIGKILL)
                    await _ended(popen, within=_DEATH_WITHIN)
            finally:
                self._bury(popen)
        if supervisor is not None:
            await asyncio.wait([supervisor])

    async def _ask_to_end(self, popen: subprocess.Popen[bytes], grace: float) -> bool:
        """Ask it to end, as it wants to be asked; False when it has not after `grace` seconds."""
        stop = self.settings.stop
        if isinstance(stop, str):
            _signal_group(popen.pid, signal.Signals[stop])
            return await _ended(popen, within=grace)
        with suppress(TimeoutError, HormesisError):
            async with asyncio.timeout(grace):
                await self._run(stop, "to stop it")
                return await _ended(popen)
        return False

    def _do(self, what: Coroutine[None, None, None], name: str) -> None:
        self._stop_doing()
        self._doing = asyncio.create_task(what, name=f"{name} of {self.settings.name}")

    def _stop_doing(self) -> None:
        if self._doing is not None:
            self._doing.cancel()
            self._doing = None

    async def _throttle(self, share: float) -> None:
        """Freeze and thaw it; a turn that took too long, as this loop was busy, is made up for by a longer freeze."""
        turn = max(_QUOTA_PERIOD * share, _TURN_LEAST)
        began, ran = monotonic(), turn
        looked, outside = 0.0, list[int]()
        while True:
            if monotonic() - looked > _FIND_EVERY:
                looked, outside = monotonic(), self._outside()
            self._signal_known(signal.SIGSTOP, outside)
            await asyncio.sleep(began + ran / share - monotonic())
            thawed = monotonic()
            self._signal_known(signal.SIGCONT, outside)
            await asyncio.sleep(turn)
            ran += monotonic() - thawed

    async def _crash(self, every: float) -> None:
        while True:
            victim = self._popen
            self._signal(signal.SIGKILL)
            # Whoever buries it and starts it again tells nobody; both may happen in the same instant.
            while self._popen in (victim, None):
                await asyncio.sleep(_LOOK_EVERY / 5)
                if self._popen is None:
                    await self._noting(self._revive())
            await asyncio.sleep(every)

    async def _restart(self, grace: float) -> None:
        await self._stop(grace)
        await self._noting(self.start())

    async def _noting(self, start: Coroutine[None, None, None]) -> None:
        """Start it; that it can't be is written into its log, and seen from outside soon enough."""
        try:
            await start
        except (HormesisError, OSError) as error:
            with suppress(OSError), self.settings.log.open("a") as log:
                log.write(f"{error}\n")

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
            await self._noting(self._spawn_again())  # A command that is just being replaced may be back in a moment.

    async def _spawn_again(self) -> None:
        self._spawn()

    def _spawn(self) -> None:
        """Start it."""
        self._popen = self._launch(self.settings.argv, self.births)

    def _launch(self, argv: Sequence[str], births: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a command of its: in its directory, with its variables, log and mark, and what it is born with."""
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
                return spawn(
                    argv,
                    env={**os.environ, **settings.env},
                    mark=self.mark,
                    keeper=self._keeper,
                    births=births,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=settings.cwd,
                    start_new_session=True,
                )
            except KeeperDied:
                raise
            except OSError as error:
                message = f"{what}: the command {argv[0]!r} can't be run: {error.strerror or error}"
                raise ConfigurationError(message, "command") from error

    async def _run(self, argv: Sequence[str], purpose: str) -> None:
        """Run a command of its to the end."""
        popen = self._launch(argv)
        within = seconds(self.settings.ready_within)
        try:
            ended = await _ended(popen, within=within)
        finally:
            _signal_group(popen.pid, signal.SIGKILL)
            status = popen.wait()
            if self._keeper is not None:
                self._keeper.forget(popen.pid)
        if not ended or status != 0:
            how = f"ended with status {status}" if ended else f"did not end within {within:g} s"
            raise ProcessFailed(self.settings.name, f"needs {argv[0]!r} {purpose}, which {how}", self._last_words())

    def _bury(self, popen: subprocess.Popen[bytes]) -> None:
        """Kill what it left behind, and reap it."""
        if self._popen is not popen:
            return
        self._popen = None
        _signal_group(popen.pid, signal.SIGKILL)
        marks.send(self.mark, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._status = popen.wait(_DEATH_WITHIN)
        marks.tidy([popen.pid])
        if self._keeper is not None:
            self._keeper.forget(popen.pid)

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is not None:
            if number is signal.SIGKILL:
                self._condemned = self._popen
            told = set(self._outside())
            marks.send_to(told, self.mark, number)
            _signal_group(self._popen.pid, number)
            while fresh := set(self._outside()) - told:  # what they start meanwhile gets it too
                told |= fresh
                marks.send_to(fresh, self.mark, number)

    def _signal_known(self, number: signal.Signals, outside: Sequence[int]) -> None:
        """Send a signal to its group and to processes of it that are outside."""
        if self._popen is not None:
            _signal_group(self._popen.pid, number)
            marks.send_to(outside, self.mark, number)

    def _outside(self) -> list[int]:
        """Return the numbers of what it started that has left its group."""
        group = None if self._popen is None else self._popen.pid
        return [pid for pid in marks.find(self.mark) if _group_of(pid) != group]

    async def _answers(self) -> bool:
        """Ask once whether it is ready."""
        host, port = self.settings.host, self.settings.port
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                if self.settings.ready_argv is not None:
                    await self._run(self.settings.ready_argv, "to see whether it is ready")
                    return True
                reader, writer = await asyncio.open_connection(host, port)
                with closing(writer):
                    if self.settings.ready is None:
                        return True
                    question = f"GET {self.settings.ready} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
                    writer.write(question.encode())
                    return _SUCCESS.match(await reader.readline()) is not None
        except (OSError, ValueError, ProcessFailed):  # Nobody there, no answer in time; no HTTP, but an endless line.
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
    """Return a port on which nobody listens just now, and which this function has not returned lately.

    Until it is bound, somebody else can still take it. That is unlikely: it is none of those which the system hands out
    by itself, to connections that go out and to listeners that take any.
    """
    family = _family(host)
    ports = range(_PORTS_FROM, _first_ephemeral())
    for _ in range(_PORTS_TRIED if ports else 0):
        port = ports[secrets.randbelow(len(ports))]
        with suppress(OSError):
            if port not in _returned:
                socket.create_server((host, port), family=family).close()
                _returned.append(port)
                return port
    with socket.create_server((host, 0), family=family) as server:
        return int(server.getsockname()[1])


def _first_ephemeral() -> int:
    """Return the first of the ports that the system hands out by itself."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL_FROM


def check_port_free(host: str, port: int, what: str) -> None:
    """Make sure that `what` can listen on a port.

    Raises:
        ConfigurationError: It can't.
    """
    _check_port_unused(host, port, what)
    if (error := _listening(host, port)) is not None:
        message = f"port {port} of {what} can't be listened on: {error.strerror}"
        raise ConfigurationError(message, "port") from error


def _check_port_unused(host: str, port: int, what: str) -> None:
    """The same, but where `what` may do more than this process, or has a network of its own."""
    error = _listening(host, port)
    if error is not None and error.errno == errno.EADDRINUSE:
        message = f"port {port} of {what} is in use; stop what listens there, or leave it out to have one chosen"
        raise ConfigurationError(message, "port") from error


def _listening(host: str, port: int) -> OSError | None:
    """Return why a port can't be listened on, if that is so."""
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        return error
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _signal_group(group: int, number: signal.Signals) -> None:
    # Some systems answer EPERM, not ESRCH, when only zombies are left in the group.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


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
