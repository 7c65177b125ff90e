"""Reading how the system is: processors, memory, pressure, and what a program says of itself.

On Linux all of it is read from `/proc` and the control group (version 2) of the process: in a container, a limit of two
processors and one gigabyte is what there is, whatever the machine has. Elsewhere psutil reads the machine (`pip install
'hormesis[health]'`). What can't be had is said once, in the log, and does not count.

Nothing is read but when somebody asks, at most once in `every`, and by one caller at a time; the others get the factor
as it was. It takes some tens of microseconds.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from hormesis.clock import MONOTONIC, Clock
from hormesis.core.health import HealthMachine
from hormesis.patterns.system_health import SystemHealth
from hormesis.units import seconds

__all__ = ["HealthMonitor"]

Reader = Callable[[float], float | None]
"""Reads a share at a time; None while it can't say yet."""

_STALE = 10
"""Times `every` after which what was counted since the last reading says nothing of now."""

_FILE_MAX = 65_536
"""Bytes of a file of the kernel that are read."""


class _Unreadable(Exception):
    """A reading that can't be had here, and why."""


class HealthMonitor:
    """Says how well the system is: a factor for limits, above 0 and at most 1.

    It is a function: hand it to `ConcurrencyLimit(health=…)`, or to `Degradation.watch` as a source of health.

    Args:
        settings: What is watched.
        clock: The time; for tests.
        root: Where the system's files are; for tests.

    >>> monitor = HealthMonitor(SystemHealth(function=lambda: 0.5))
    >>> monitor()
    0.5
    >>> monitor.snapshot()["worst"]
    'function'
    """

    __slots__ = ("_asking", "_clock", "_due", "_lag", "_lock", "_logged", "_machine", "_readers", "_root", "settings")

    def __init__(
        self, settings: SystemHealth | None = None, *, clock: Clock = MONOTONIC, root: Path = Path("/")
    ) -> None:
        self.settings = SystemHealth() if settings is None else settings
        self._clock = clock
        self._root = root
        self._lock = threading.Lock()
        self._machine: HealthMachine = self.settings.machine(threading.Lock())
        self._due = -math.inf
        self._asking = False
        self._lag = (0.0, 0)
        """The sum of the loop's lags since they were read, and how many there were."""
        self._logged: set[str] = set()
        self._readers: dict[str, Reader] | None = None
        """Made at the first reading."""

    def __call__(self) -> float:
        """Return the factor; reads the system when that is due."""
        now = self._clock.now()
        if now >= self._due:
            self._read(now)
        return self._machine.factor

    def lagged(self, lag: float) -> None:
        """Take a sample of the loop's lag, in seconds; `LoopLag` may report to this."""
        with self._lock:
            total, count = self._lag
            self._lag = total + lag, count + 1

    def snapshot(self) -> dict[str, object]:
        """Return the state as plain data: the `factor`, the `worst` reading, and all `readings`."""
        factor = self()
        return {
            "factor": factor,
            "worst": self._machine.worst,
            "readings": self._machine.readings(self._clock.now()),
        }

    def reconfigure(self, settings: SystemHealth) -> None:
        """Go on with other settings, and with the factor as it is."""
        with self._lock:
            self.settings = settings
            self._machine.become(settings.terms())
            self._readers = None
            self._due = -math.inf

    def _read(self, now: float) -> None:
        with self._lock:
            if self._asking or now < self._due:
                return
            self._asking = True
            self._due = now + seconds(self.settings.every)
            readers = self._readers
            if readers is None:
                readers = self._readers = self._make_readers()
        try:
            self._machine.report({name: self._one(name, reader, now) for name, reader in readers.items()}, now)
        finally:
            self._asking = False

    def _one(self, name: str, reader: Reader, now: float) -> float | None:
        try:
            return reader(now)
        except Exception as error:
            self._say(name, error)
            return None

    def _say(self, name: str, error: Exception) -> None:
        if name in self._logged:
            return
        self._logged.add(name)
        log = logging.getLogger("hormesis.health")
        if isinstance(error, _Unreadable):
            log.warning("health: %s can't be read here, and does not count: %s", name, error)
        else:
            log.warning("health: %s could not be read, and does not count", name, exc_info=error)

    def _make_readers(self) -> dict[str, Reader]:
        settings, stale = self.settings, _STALE * seconds(self.settings.every)
        kernel = _Kernel(self._root)
        made: dict[str, Callable[[], Reader]] = {
            "cpu": lambda: _cpu(kernel, stale),
            "process_cpu": lambda: _Rate(time.process_time, stale),
            "cpu_pressure": lambda: _pressure(kernel, stale),
            "memory": lambda: _memory(kernel),
        }
        readers: dict[str, Reader] = {}
        for name, make in made.items():
            if name in settings.ceilings():
                try:
                    readers[name] = make()
                except Exception as error:
                    self._say(name, error)
        if settings.loop_lag is not None:
            readers["loop_lag"] = self._mean_lag
        if settings.function is not None:
            readers["function"] = _own(settings.function)
        return readers

    def _mean_lag(self, now: float) -> float | None:
        with self._lock:
            (total, count), self._lag = self._lag, (0.0, 0)
        return total / count if count else None


class _Rate:
    """How fast something grows that only counts up, between two readings."""

    __slots__ = ("_at", "_count", "_scale", "_stale", "_value")

    def __init__(self, count: Callable[[], float], stale: float, scale: float = 1.0) -> None:
        self._count = count
        self._scale = scale
        self._stale = stale
        self._at = -math.inf
        self._value = 0.0

    def __call__(self, now: float) -> float | None:
        value = self._count()
        passed, grown = now - self._at, value - self._value
        self._at, self._value = now, value
        if not 0 < passed <= self._stale or grown < 0:
            return None
        return grown / passed * self._scale


class _Kernel:
    """The files of Linux that tell of processors and memory.

    Args:
        root: `/`, or where a test has put its own.
    """

    __slots__ = ("_proc", "_unified", "groups")

    def __init__(self, root: Path) -> None:
        self._proc = root / "proc"
        self._unified = root / "sys/fs/cgroup"
        self.groups = self._groups()
        """The control groups that this process is in, from its own to the outermost; none without version 2."""

    def has(self, name: str) -> bool:
        """Whether `/proc` has a file."""
        return (self._proc / name).is_file()

    def read(self, name: str) -> str:
        """Read a file of `/proc`."""
        return _text(self._proc / name)

    def nearest(self, name: str) -> Path | None:
        """The file of that name of the innermost control group that has it."""
        return next((group / name for group in self.groups if (group / name).is_file()), None)

    def _groups(self) -> tuple[Path, ...]:
        if not (self._unified / "cgroup.controllers").is_file():
            return ()
        lines = self.read("self/cgroup").splitlines() if self.has("self/cgroup") else []
        own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
        # In a container the path may be one of the host's, which isn't there; then the root is the container's own.
        group = self._unified / own.lstrip("/")
        if ".." in group.parts or not group.is_dir():
            group = self._unified
        found = [group]
        while found[-1] != self._unified:
            found.append(found[-1].parent)
        return tuple(found)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_FILE_MAX).decode()


def _value(text: str, key: str) -> float:
    """The number after a key of a file of lines such as `usage_usec 12`, or `MemTotal:  12 kB`."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].rstrip(":") == key:
            return float(words[1])
    raise _Unreadable(f"there is no {key}")


def _cpu(kernel: _Kernel, stale: float) -> Reader:
    """The share of the processors that is used: of those that the control group may have, or of the machine's."""
    quotas = [(quota, group) for group in kernel.groups if (quota := _quota(group)) < _processors()]
    if quotas:
        quota, group = min(quotas, key=lambda each: each[0])
        return _Rate(lambda: _value(_text(group / "cpu.stat"), "usage_usec"), stale, 1e-6 / quota)
    if kernel.has("stat"):
        return _busy_share(kernel, stale)
    psutil = _psutil()
    psutil.cpu_percent()  # the first one only begins to count
    return lambda now: psutil.cpu_percent() / 100  # noqa: ARG005


def _quota(group: Path) -> float:
    """Processors that a control group may use; infinity when nothing bounds it."""
    path = group / "cpu.max"
    if not path.is_file() or not (group / "cpu.stat").is_file():
        return math.inf
    most, _, period = _text(path).partition(" ")
    return math.inf if most.strip() == "max" else float(most) / float(period or 100_000)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy_share(kernel: _Kernel, stale: float) -> Reader:
    total, idle = _Rate(lambda: _ticks(kernel)[0], stale), _Rate(lambda: _ticks(kernel)[1], stale)

    def read(now: float) -> float | None:
        passed, unused = total(now), idle(now)
        if not passed or unused is None:
            return None
        return min(1.0, max(0.0, 1 - unused / passed))

    return read


def _ticks(kernel: _Kernel) -> tuple[float, float]:
    """Ticks of all processors since the start, and of those the idle ones; guests are counted as users already."""
    words = kernel.read("stat").partition("\n")[0].split()[1:9]
    numbers = [float(word) for word in words]
    return sum(numbers), sum(numbers[3:5])


def _pressure(kernel: _Kernel, stale: float) -> Reader:
    """The share of the time in which something waits for a processor."""
    own = kernel.nearest("cpu.pressure")
    if own is None and not kernel.has("pressure/cpu"):
        raise _Unreadable("the kernel tells of no pressure (PSI is in Linux from 4.20, where it is switched on)")

    def total() -> float:
        text = kernel.read("pressure/cpu") if own is None else _text(own)
        for line in text.splitlines():
            if line.startswith("some "):
                return float(line.rpartition("total=")[2])
        raise _Unreadable("there is no line of what some work waited")

    return _Rate(total, stale, 1e-6)


def _memory(kernel: _Kernel) -> Reader:
    """The share of memory that is used: of the tightest limit of a control group, or of the machine's."""
    limits = [(limit, group) for group in kernel.groups if (limit := _memory_limit(group)) < math.inf]
    if limits:
        limit, group = min(limits, key=lambda each: each[0])
        return lambda now: _used(group) / limit  # noqa: ARG005
    if kernel.has("meminfo"):
        return lambda now: _used_of_machine(kernel)  # noqa: ARG005
    psutil = _psutil()
    return lambda now: psutil.virtual_memory().percent / 100  # noqa: ARG005


def _memory_limit(group: Path) -> float:
    path = group / "memory.max"
    if not path.is_file() or not (group / "memory.current").is_file():
        return math.inf
    most = _text(path).strip()
    return math.inf if most == "max" else max(1.0, float(most))


def _used(group: Path) -> float:
    """Bytes that a control group uses, without what the kernel would give back when asked (cached files)."""
    current = float(_text(group / "memory.current"))
    stat = group / "memory.stat"
    return max(0.0, current - _value(_text(stat), "inactive_file")) if stat.is_file() else current


def _used_of_machine(kernel: _Kernel) -> float:
    text = kernel.read("meminfo")
    return 1 - _value(text, "MemAvailable") / _value(text, "MemTotal")


def _psutil() -> ModuleType:
    try:
        import psutil  # noqa: PLC0415  only where there is no /proc
    except ImportError:
        raise _Unreadable("there is no /proc; pip install 'hormesis[health]'") from None
    found: ModuleType = psutil
    return found


def _own(function: Callable[[], float | None]) -> Reader:
    def read(now: float) -> float | None:  # noqa: ARG001
        health = function()
        if health is None:
            return None
        if isinstance(health, bool) or not 0 <= health <= 1:
            raise _Unreadable(f"it said {health!r}, which is not from 0 to 1")
        return float(health)

    return read
