"""Faults of a process, as values: what is done to it from outside, or to its calls inside.

A process is anything that a game day starts: a service, a store, a broker. What is done to it is done to all that it
started as well: a server with workers freezes and dies as one.
"""

from __future__ import annotations

import math
import re
import signal
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from hormesis.chaos.faults.checks import check_true, is_number, is_whole
from hormesis.chaos.faults.inside import Inject
from hormesis.errors import ConfigurationError
from hormesis.units import ByteRate, Duration, Size, bytes_of, bytes_per_second, format_seconds, seconds

__all__ = [
    "Clock",
    "CpuQuota",
    "CrashLoop",
    "FilesLeft",
    "Inject",
    "Kill",
    "Link",
    "MemoryLeft",
    "Pause",
    "PortLoss",
    "ProcessFault",
    "Reject",
    "Restart",
    "Throttle",
    "Unplug",
]

_DEADLY = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGABRT", "SIGSEGV", "SIGKILL")
_CLOCK = re.compile(r"([+-])(.+)", re.DOTALL)
_DRIFT_MAX = 100.0
_FILES_MAX = 1_000_000
_QUEUE_LEAST = 70_000
"""Bytes: on the loopback a packet has up to 65,536, and one that never fits is never delivered."""


@dataclass(frozen=True, slots=True)
class Kill:
    """The process and all it started die: at once, without a chance to clean up (SIGKILL), or by a signal.

    Args:
        kill: True, or a signal's name such as `"SIGTERM"`. A process may survive a signal; then that is what is seen.
    """

    kill: bool | str = True

    def __post_init__(self) -> None:
        if self.kill is not True and self.kill not in _DEADLY:
            accepted = "true (at once), or a signal that ends a process: " + ", ".join(_DEADLY)
            raise ConfigurationError.bad_value("kill", self.kill, accepted)

    @property
    def signal(self) -> signal.Signals:
        """The signal that is sent."""
        return signal.SIGKILL if isinstance(self.kill, bool) else signal.Signals[self.kill]

    def __str__(self) -> str:
        return "killed" if self.signal is signal.SIGKILL else f"killed by {self.signal.name}"


@dataclass(frozen=True, slots=True)
class Pause:
    """The process freezes (SIGSTOP): its port accepts and nobody answers, as on an overcommitted host."""

    pause: bool = True

    def __post_init__(self) -> None:
        check_true("pause", self.pause)

    def __str__(self) -> str:
        return "paused"


@dataclass(frozen=True, slots=True)
class Throttle:
    """The process runs only this share of the time, as beside a greedy neighbour.

    It is frozen and thawed in turn (SIGSTOP, SIGCONT), ten times a second or, with a share below a tenth, for ten
    milliseconds at a time; between two pauses it is as fast as ever.
    """

    throttle: float

    def __post_init__(self) -> None:
        if not is_number(self.throttle) or not 0 < self.throttle < 1:
            raise ConfigurationError.bad_value("throttle", self.throttle, "the share of its time, above 0 and below 1")
        object.__setattr__(self, "throttle", float(self.throttle))

    def __str__(self) -> str:
        return f"throttled to {100 * self.throttle:.3g} %"


@dataclass(frozen=True, slots=True)
class CrashLoop:
    """The process dies at once, and again each time it has been up for so long, while the dose lasts.

    One that nobody restarts (no `restart_after`) is started again at once, so that it can crash again.

    Args:
        crash_loop: How long it lives each time.
    """

    crash_loop: Duration

    def __post_init__(self) -> None:
        object.__setattr__(self, "crash_loop", seconds(self.crash_loop, "crash_loop"))

    def __str__(self) -> str:
        return f"crashes every {format_seconds(seconds(self.crash_loop))}"


@dataclass(frozen=True, slots=True)
class Restart:
    """The process is stopped in order and started again, as in a deployment that replaces it.

    Args:
        restart: Only true.
        grace: How long it may take to end before it is killed.
    """

    restart: bool = True
    _: KW_ONLY
    grace: Duration = 5.0

    def __post_init__(self) -> None:
        check_true("restart", self.restart)
        object.__setattr__(self, "grace", seconds(self.grace, "grace"))

    def __str__(self) -> str:
        return "restarted"


@dataclass(frozen=True, slots=True)
class FilesLeft:
    """The process may open only so many files and sockets more (RLIMIT_NOFILE): further ones fail with EMFILE."""

    files_left: int

    def __post_init__(self) -> None:
        left = self.files_left
        if not is_whole(left) or not 0 <= left <= _FILES_MAX:
            raise ConfigurationError.bad_value("files_left", left, f"a whole number from 0 to {_FILES_MAX:,}")

    def __str__(self) -> str:
        return f"{self.files_left} more file descriptors"


@dataclass(frozen=True, slots=True)
class MemoryLeft:
    """The process may have only so much more memory (RLIMIT_AS): asking for more fails, as when there is none."""

    memory_left: Size

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory_left", bytes_of(self.memory_left, "memory_left", least=0))

    def __str__(self) -> str:
        return f"{format_bytes(bytes_of(self.memory_left, least=0))} more memory"


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The process and all it started get no more than so much of the processors (a CPU quota of a control group).

    Args:
        cpu_quota: In processors: 0.2 is a fifth of one, 2 is two.
    """

    cpu_quota: float

    def __post_init__(self) -> None:
        if not is_number(self.cpu_quota) or not 0.01 <= self.cpu_quota <= 1024:
            raise ConfigurationError.bad_value("cpu_quota", self.cpu_quota, "processors, from 0.01 to 1024")
        object.__setattr__(self, "cpu_quota", float(self.cpu_quota))

    def __str__(self) -> str:
        return f"CPU quota {self.cpu_quota:.3g}"


@dataclass(frozen=True, slots=True)
class Clock:
    """The process's clock jumps, and back when it ends; monotonic clocks go on as they are (libfaketime).

    Args:
        clock: By how much, with its sign: `"+1h"`, `"-30s"`; `"+0s"` only with a rate.
        rate: How fast it has run since the process was started: 2 is twice as fast. Waits by `select` and `poll` get
            shorter by as much.
    """

    clock: str
    _: KW_ONLY
    rate: float = 1.0

    def __post_init__(self) -> None:
        clock: object = self.clock
        match = _CLOCK.fullmatch(clock) if isinstance(clock, str) else None
        accepted = "a duration with its sign, like '+1h' or '-30s'"
        if match is None:
            raise ConfigurationError.bad_value("clock", self.clock, accepted)
        try:
            shift = seconds(match[2], zero=True)
        except ConfigurationError:
            raise ConfigurationError.bad_value("clock", self.clock, accepted) from None
        if not is_number(self.rate) or not 1 / _DRIFT_MAX <= self.rate <= _DRIFT_MAX:
            accepted = f"a factor from {1 / _DRIFT_MAX:g} to {_DRIFT_MAX:g}"
            raise ConfigurationError.bad_value("rate", self.rate, accepted)
        if shift == 0 and self.rate == 1:
            raise ConfigurationError.bad_value("clock", self.clock, "a shift, or a rate beside it")
        object.__setattr__(self, "rate", float(self.rate))

    @property
    def shift(self) -> float:
        """By how many seconds it jumps."""
        return float(f"{self.clock[0]}1") * seconds(self.clock[1:], zero=True)

    def __str__(self) -> str:
        jump = f"clock {self.clock[0]}{format_seconds(abs(self.shift))}" if self.shift else "clock"
        return jump + (f" x{self.rate:.3g}" if self.rate != 1 else "")


@dataclass(frozen=True, slots=True)
class Reject:
    """A firewall resets what comes to the process's port, from everybody: new connections and live ones."""

    reject: bool = True

    def __post_init__(self) -> None:
        check_true("reject", self.reject)

    def __str__(self) -> str:
        return "port rejected by a firewall"


@dataclass(frozen=True, slots=True)
class PortLoss:
    """Packets to and from the process's port are lost, for everybody; all of them (1.0) is a firewall that drops."""

    port_loss: float

    def __post_init__(self) -> None:
        if not is_number(self.port_loss) or not 0 < self.port_loss <= 1 or math.isnan(self.port_loss):
            raise ConfigurationError.bad_value("port_loss", self.port_loss, "a share of the packets above 0, up to 1")
        object.__setattr__(self, "port_loss", float(self.port_loss))

    def __str__(self) -> str:
        return f"its port loses {100 * self.port_loss:.3g} % of packets"


@dataclass(frozen=True, slots=True)
class Link:
    """All that goes to and from the process's port shares one thin link, on which a queue builds up.

    The `bandwidth` of an edge is for each connection; here they hurt each other.

    Args:
        link: What the link carries each way.
        queue: How much may wait for it; more is lost. It must hold a packet, which has up to 64 KB here.
    """

    link: ByteRate
    _: KW_ONLY
    queue: Size = 200_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "link", bytes_per_second(self.link, "link"))
        object.__setattr__(self, "queue", bytes_of(self.queue, "queue", least=_QUEUE_LEAST, most=1 << 30))

    def __str__(self) -> str:
        return f"link {format_bytes(bytes_per_second(self.link))}/s"


@dataclass(frozen=True, slots=True)
class Unplug:
    """The cable of the process's own network is pulled: nothing arrives, nothing is refused, in either direction.

    The process is started in a network of its own for that: it has to listen on `{host}`, which is no loopback then,
    and reaches others over its edges only.
    """

    unplug: bool = True

    def __post_init__(self) -> None:
        check_true("unplug", self.unplug)

    def __str__(self) -> str:
        return "unplugged"


def format_bytes(size: float) -> str:
    """Write bytes the way people do.

    >>> format_bytes(50_000_000), format_bytes(1500), format_bytes(12)
    ('50MB', '1.5KB', '12B')
    """
    for unit, whole in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= whole:
            return f"{size / whole:.4g}{unit}"
    return f"{size:.4g}B"


ProcessFault: TypeAlias = (
    Kill
    | Pause
    | Throttle
    | CrashLoop
    | Restart
    | FilesLeft
    | MemoryLeft
    | CpuQuota
    | Clock
    | Reject
    | PortLoss
    | Link
    | Unplug
    | Inject
)
"""What a process may be dosed with."""
