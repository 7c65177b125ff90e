"""From a dose to the act that puts it into force: on a proxy, a process, the machine."""

from __future__ import annotations

import dataclasses
import inspect
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hormesis.chaos import Keeper, Process, describe, marks
from hormesis.chaos.faults import (
    Clock,
    CpuBurn,
    CpuQuota,
    CrashLoop,
    DiskFull,
    Fault,
    FilesLeft,
    Inject,
    Kill,
    Link,
    Loss,
    MemoryHog,
    MemoryLeft,
    Pause,
    PortLoss,
    Reject,
    Restart,
    Spike,
    Throttle,
    Unplug,
)
from hormesis.chaos.host import (
    Act,
    Burn,
    Disk,
    FakeClock,
    Fill,
    Hog,
    Lowered,
    Network,
    PacketLoss,
    Quota,
    RejectPort,
    Skew,
    ThinCable,
    ThinPort,
    Unplugged,
)
from hormesis.chaos.undo import Signal, Undo
from hormesis.gameday.injected import Injected, Inside
from hormesis.gameday.stress import Dose
from hormesis.units import bytes_of, bytes_per_second, seconds

__all__ = ["EdgeProxy", "Grounds", "act_of", "how_undone", "impossible"]


class EdgeProxy(Protocol):
    """A proxy on an edge: ours, or one that runs already and also says how to `undo(fault, name=)` from elsewhere."""

    @property
    def host(self) -> str:
        """Where it listens."""
        ...

    @property
    def port(self) -> int:
        """And on which port."""
        ...

    def apply(self, fault: Any, *, name: str) -> Awaitable[object] | None:
        """Put a fault into force under a name."""

    def lift(self, name: str) -> Awaitable[object] | None:
        """Take it back."""


@dataclasses.dataclass(frozen=True, slots=True)
class Grounds:
    """What an arm has for faults to act on.

    Attributes:
        keeper: Gives marks to neighbours of the system.
        processes: Its processes.
        proxies: The proxies of its edges.
        clocks: The clocks of processes that can be made to jump.
        networks: The networks of processes that have one of their own.
        insides: The doors to the insides of processes that have one.
        disk: The disk of its own that `{dir}` is on, if it is.
    """

    keeper: Keeper
    processes: Mapping[str, Process]
    proxies: Mapping[str, EdgeProxy]
    clocks: Mapping[str, FakeClock] = dataclasses.field(default_factory=dict)
    networks: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    insides: Mapping[str, Inside] = dataclasses.field(default_factory=dict)
    disk: Disk | None = None


class _Doing(Act):
    """Something that the runner does itself, on its loop.

    Args:
        what: It, in words.
        begin, end: What is called; what can be awaited is awaited.
        undo: What a stranger has to do if the runner can't.
    """

    def __init__(
        self, what: str, begin: Callable[[], object], end: Callable[[], object], undo: Sequence[Undo] = ()
    ) -> None:
        self.what = what
        self._begin, self._end = begin, end
        self._undo = undo

    def undo(self) -> Sequence[Undo]:
        """Return what a stranger has to do."""
        return self._undo

    async def begin(self) -> None:
        """Begin."""
        await _done(self._begin())

    async def end(self) -> None:
        """End."""
        await _done(self._end())


def act_of(dose: Dose, name: str, grounds: Grounds, within: float | None = None) -> Act | None:
    """Return what puts a dose into force; None for a dose of the load, which its schedule has already.

    Args:
        dose: The dose.
        name: What a fault on an edge is called there: the same name is the same luck.
        grounds: What it acts on.
        within: Seconds after which it ends in any case, if that is known.
    """
    fault = dose.what
    what = f"{describe(fault)} on {dose.target}"
    match fault:
        case Spike():
            return None
        case Inject():
            inside = grounds.insides.get(dose.process or "")
            return _Missing(what, dose) if inside is None else Injected(what, inside, fault, within)
        case CpuBurn():
            return Burn(grounds.keeper.new_mark(), fault.cpu, fault.load)
        case MemoryHog():
            return Hog(grounds.keeper.new_mark(), fault.memory)
        case DiskFull():
            return Fill(grounds.disk) if grounds.disk is not None else _Missing(what, dose)
        case Loss():
            proxy = grounds.proxies[dose.edge or ""]
            return PacketLoss(dose.target, proxy.port, fault.loss, proxy.host)
    if dose.edge is not None:
        return _on_edge(what, fault, name, grounds.proxies[dose.edge])
    return _on_process(what, dose, grounds)


def _on_edge(what: str, fault: Fault, name: str, proxy: EdgeProxy) -> Act:
    """A fault on the wire ends with the runner, whose proxy it is; one of somebody else's proxy says how to undo it."""
    undo = getattr(proxy, "undo", None)
    steps = [] if undo is None else undo(fault, name=name)
    return _Doing(what, lambda: proxy.apply(fault, name=name), lambda: proxy.lift(name), steps)


def _on_process(what: str, dose: Dose, grounds: Grounds) -> Act:
    name, fault = dose.process or "", dose.what
    process = grounds.processes[name]
    settings, where = process.settings, dose.target
    network = grounds.networks.get(name)
    device = "lo" if network is None else network.outer

    def doing(begin: Callable[[], object], *undo: Undo) -> Act:
        return _Doing(what, begin, process.recover, undo)

    def thaw() -> Signal:
        group = process.pid or 0
        return Signal(process.mark, signal.SIGCONT, group, marks.started(group))

    match fault:
        case Kill():
            return doing(lambda: process.kill(fault.signal))
        case CrashLoop():
            return doing(lambda: process.crash_loop(seconds(fault.crash_loop)))
        case Restart():
            return doing(lambda: process.restart(seconds(fault.grace)))
        case Pause():
            return doing(process.pause, thaw())
        case Throttle():
            return doing(lambda: process.throttle(fault.throttle), thaw())
        case CpuQuota():
            quota = Quota(where, process.members, fault.cpu_quota, births=process.births)
            if quota.possible() is None or fault.cpu_quota >= 1:
                return quota
            return doing(lambda: process.throttle(fault.cpu_quota), thaw())
        case FilesLeft():
            return Lowered(where, process.mark, "files", fault.files_left, process.births)
        case MemoryLeft():
            return Lowered(where, process.mark, "memory", bytes_of(fault.memory_left, least=0), process.births)
        case Clock():
            clock = grounds.clocks.get(name)
            return _Missing(what, dose) if clock is None else Skew(where, clock, fault.shift, fault.rate)
        case Reject():
            return RejectPort(where, settings.port, settings.host, device)
        case PortLoss():
            return PacketLoss(where, settings.port, fault.port_loss, settings.host, device)
        case Link():
            rate, queue = bytes_per_second(fault.link), bytes_of(fault.queue)
            if network is not None:
                return ThinCable(where, network, rate, queue)
            return ThinPort(where, settings.port, rate, queue)
        case Unplug():
            return _Missing(what, dose) if network is None else Unplugged(where, network)
    raise TypeError(f"{fault!r} is no fault of a process")


class _Missing(Act):
    """A fault for which the system was not prepared when it was started, since this machine can't."""

    def __init__(self, what: str, dose: Dose) -> None:
        self.what = what
        self._dose = dose

    def possible(self) -> str | None:
        """Return why it can't be done."""
        return impossible(self._dose) or "the system was started without what it takes"

    def undo(self) -> Sequence[Undo]:
        """Return nothing."""
        return ()

    async def begin(self) -> None:
        """It never comes to this."""


def impossible(dose: Dose) -> str | None:
    """Return why this machine can't do a dose, and what would change that; None if it can.

    Nothing has to run for it, and nothing is changed.
    """
    fault = dose.what
    match fault:
        case Loss() | Reject() | PortLoss():
            return RejectPort(dose.target, 1).possible()
        case Link():
            return ThinPort(dose.target, 1, bytes_per_second(fault.link), bytes_of(fault.queue)).possible()
        case Unplug():
            return Network(dose.target).possible()
        case CpuQuota() if fault.cpu_quota >= 1:  # less can be had by freezing and thawing
            return Quota(dose.target, list, fault.cpu_quota).possible()
        case FilesLeft():
            return Lowered(dose.target, 0, "files", 0).possible()
        case MemoryLeft():
            return Lowered(dose.target, 0, "memory", 0).possible()
        case Clock():
            return FakeClock.possible()
        case MemoryHog():
            return Hog(0, fault.memory).possible()
        case DiskFull():
            return Disk(Path(), 1).possible()
    return None


def how_undone(dose: Dose, proxy: str | None = None) -> str:
    """Say how a dose is taken back, for a plan.

    Args:
        dose: The dose.
        proxy: The API of the proxy that its edge goes over, if that is somebody else's.

    >>> how_undone(Dose(process="shop", fault={"pause": True}))
    'thawed (SIGCONT); by the watchdog if the runner is gone'
    """
    watchdog = "by the watchdog if the runner is gone"
    match dose.what:
        case Spike():
            return "ends with its schedule"
        case Kill() | CrashLoop() | Restart():
            return "started again if nobody else does; nothing of it outlives the runner"
        case Pause() | Throttle():
            return f"thawed (SIGCONT); {watchdog}"
        case CpuQuota():
            return f"taken out of its control group; {watchdog}"
        case FilesLeft() | MemoryLeft():
            return f"its limit is set back; {watchdog}"
        case Clock():
            return f"its clock is set right; {watchdog}"
        case Loss() | Reject() | PortLoss():
            return f"the rules of the firewall are deleted; {watchdog}"
        case Link():
            return f"the queues are removed; {watchdog}"
        case Unplug():
            return f"the cable is plugged in; {watchdog}"
        case CpuBurn() | MemoryHog():
            return f"the neighbours are killed; {watchdog}"
        case DiskFull():
            return f"the disk is emptied; {watchdog}"
        case Inject():
            return "taken back inside of the process, which ends it by itself when its time is up"
    if proxy is not None:
        return f"taken off the proxy by a request to {proxy}; {watchdog}"
    return "lifted from the proxy; it ends with the runner"


async def _done(result: object) -> None:
    if inspect.isawaitable(result):
        await result
