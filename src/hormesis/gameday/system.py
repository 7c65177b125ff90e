"""One arm of a game day, running: its processes, a fault proxy on each of its edges, and its load generator.

Every arm has ports, a scratch folder and logs of its own, so arms can run side by side. Whatever was started is stopped
when the block ends, however it ends; and the keeper ends it even if this process is killed.

Faults come into force by the rules of `hormesis.chaos.safety`: how to undo each is on the disk before it acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hormesis.chaos import FaultProxy, Keeper, Process, ProcessSettings, check_port_free, free_port
from hormesis.chaos.faults import Clock, DiskFull, Fault, Inject, Unplug
from hormesis.chaos.host import Act, Disk, FakeClock, Network
from hormesis.chaos.host.act import to_the_end
from hormesis.chaos.safety import Safety
from hormesis.errors import ConfigurationError
from hormesis.gameday.acted import EventLog
from hormesis.gameday.acts import EdgeProxy, Grounds, act_of, how_undone, impossible
from hormesis.gameday.attached import AttachedProxy
from hormesis.gameday.experiment import Experiment, Stress
from hormesis.gameday.injected import Inside
from hormesis.gameday.probing import Probes
from hormesis.gameday.together import together
from hormesis.gameday.topology import filled_in, words_of
from hormesis.loadgen import LoadDriver
from hormesis.telemetry import EVENTS_VARIABLE
from hormesis.units import bytes_of

__all__ = ["ArmSystem", "environment", "how_undone", "impossible", "running"]

A = TypeVar("A", bound=Act)

_HOST = "127.0.0.1"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ArmSystem:
    """The running system of one arm.

    Args:
        arm: Its name.
        grounds: What faults can act on.
        safety: What puts them into force.
    """

    def __init__(self, arm: str, grounds: Grounds, safety: Safety) -> None:
        self.arm = arm
        self.grounds = grounds
        self.safety = safety
        self.processes = grounds.processes
        self.proxies = grounds.proxies
        self.warm = False
        """Whether it has had load since it was started."""
        self.well = True
        """Whether it can live through another stress as if there had been none before."""
        self.events: list[EventLog] = []
        self.driver: LoadDriver
        self.probes: Probes
        self.url = ""
        self._dosed: list[Act] = []

    async def begin_anew(self) -> None:
        """Stop all processes and start them again, so that no stress is judged by what an earlier one left behind.

        Raises:
            ProcessFailed: A process ended early or did not get ready.
        """
        await _stop_all(self.processes)
        for process in self.processes.values():
            await process.start()
        await together(*(process.wait_ready() for process in self.processes.values()))
        self.well, self.warm = True, False

    async def dose(self, stress: Stress, within: float | None = None) -> None:
        """Put a stress's faults into force, one after the other.

        Args:
            stress: The stress.
            within: Seconds after which the watchdog undoes them in any case.

        Raises:
            FaultFailed: This machine can't do one of them; `undo` takes back the others.
        """
        seen: Counter[str] = Counter()
        for dose in stress.doses:
            kind = type(dose.what).__name__.lower()
            place = f"{dose.target} {kind}"
            seen[place] += 1
            act = act_of(dose, kind if seen[place] == 1 else f"{kind}-{seen[place]}", self.grounds, within)
            if act is not None:
                self._dosed.append(act)
                await self.safety.apply(act, within=within)

    async def undo(self) -> None:
        """Take them out of force again, the last first; undoing twice changes nothing.

        Bounded in time, and done to the end if it is cancelled. What can't be undone does not raise: see `left`.
        """
        dosed, self._dosed = self._dosed, []
        await to_the_end(self._lift(dosed))

    async def _lift(self, acts: Sequence[Act]) -> None:
        for act in reversed(acts):
            await self.safety.lift(act)

    @property
    def left(self) -> list[str]:
        """Faults that could not be undone, and why; who was stressed after that was stressed by them too."""
        return self.safety.left

    @property
    def expired(self) -> list[str]:
        """Faults that the watchdog undid before their time, as this process hung: what was measured is not theirs."""
        return self.safety.expired


@contextlib.asynccontextmanager
async def running(
    experiment: Experiment,
    arm: str,
    *,
    folder: Path,
    out: Path,
    scratch: Path,
    keeper: Keeper,
    stresses: Sequence[Stress] | None = None,
) -> AsyncIterator[ArmSystem]:
    """Start an arm's system, wait until all of it is ready, and stop it in the end.

    Args:
        experiment: The file.
        arm: Which of its arms.
        folder: Where its processes run.
        out: Where logs and events go.
        scratch: What `{dir}` stands for.
        keeper: Ends the processes and undoes the faults if this process dies; it must have a journal.
        stresses: Those that are to be dosed, for which it is prepared; all of the file's when left out.

    Raises:
        ConfigurationError: A command is missing, a port is in use, a placeholder is unknown.
        ProcessFailed: A process ended early or did not get ready, or one of its other commands failed.
    """
    async with contextlib.AsyncExitStack() as stack:
        safety = await stack.enter_async_context(Safety(keeper, arm if len(experiment.arm) > 1 else ""))
        setup = _Setup(experiment, arm, folder, out, scratch, experiment.stress if stresses is None else stresses)
        await setup.prepare(safety)
        proxies: dict[str, EdgeProxy] = {}
        for name in experiment.system.edge:
            proxy: EdgeProxy = await stack.enter_async_context(setup.proxy(name))
            proxies[name] = proxy
            setup.edge_is_at(name, proxies[name])
        tables = experiment.system.process
        processes = {name: Process(setup.settings(name), keeper) for name in tables}
        for inside in setup.insides.values():
            stack.callback(inside.remove)
        grounds = Grounds(keeper, processes, proxies, setup.clocks, setup.networks, setup.insides, setup.disk)
        system = ArmSystem(arm, grounds, safety)
        system.events = [EventLog(name, _events_path(out, arm, name)) for name in tables]
        system.url = setup.url()
        system.probes = Probes(
            routes=[request.name for request in experiment.load.request],
            known=setup.addresses(),
            folder=folder,
            env=environment(),
            on_spawn=keeper.watch,
            on_end=keeper.forget,
        )
        stack.push_async_callback(system.probes.stop)
        stack.push_async_callback(_stop_all, processes)
        for process in processes.values():
            await process.set_up()
            await process.start()
        # The generator starts while the services do; each takes about a second of its own.
        system.driver = LoadDriver(on_spawn=keeper.watch)
        stack.push_async_callback(system.driver.stop)
        await together(system.driver.start(), *(process.wait_ready() for process in processes.values()))
        yield system


async def _stop_all(processes: Mapping[str, Process]) -> None:
    await asyncio.gather(*(process.stop() for process in processes.values()))


class _Setup:
    """How an arm is set up: where everything is, and with which variables it runs."""

    def __init__(
        self, experiment: Experiment, arm: str, folder: Path, out: Path, scratch: Path, stresses: Sequence[Stress]
    ) -> None:
        self.experiment = experiment
        self.arm = arm
        self.folder = folder
        self.out = out
        self.scratch = scratch
        self.stresses = stresses
        self.clocks: dict[str, FakeClock] = {}
        self.networks: dict[str, Network] = {}
        self.insides: dict[str, Inside] = {}
        self.disk: Disk | None = None
        self._edges: dict[str, dict[str, str]] = {}
        tables = experiment.system.process
        for name, table in tables.items():
            if table.port is not None:
                check_port_free(_HOST, table.port, f"process {name!r}")
        self.ports = {name: table.port or free_port(_HOST) for name, table in tables.items()}

    async def prepare(self, safety: Safety) -> None:
        """Make what the faults to come need from the start: a disk, networks, clocks that can jump, doors.

        What this machine can't do is left out: the dose that needs it will say so.
        """
        wanted = [(dose.process or "", dose.what) for stress in self.stresses for dose in stress.doses]
        sizes = [bytes_of(fault.size) for _, fault in wanted if isinstance(fault, DiskFull)]
        if sizes:
            self.disk = await _made(safety, Disk(self.scratch, max(sizes)))
        for name in _names(wanted, Unplug):
            network = await _made(safety, Network(f"process {name}"))
            if network is not None:
                self.networks[name] = network
        if FakeClock.possible() is None:
            clocks = self.out / "clocks" / self.arm
            for name in _names(wanted, Clock):
                clocks.mkdir(parents=True, exist_ok=True)
                self.clocks[name] = FakeClock(clocks / name)
        for name in _names(wanted, Inject):
            if name in self.networks:
                raise ConfigurationError(
                    f"process {name!r} can't be unplugged and have faults injected in one game day, since nobody "
                    "reaches it in a network of its own; run one of these stresses with --only"
                )
            self.insides[name] = Inside.made(self.out / "inside" / self.arm / name, self.experiment.seed)

    def host(self, name: str) -> str:
        """Where a process listens."""
        return self.networks[name].inside if name in self.networks else _HOST

    def url(self) -> str:
        """Where the load goes."""
        to = self.experiment.load.to
        return f"http://{self.host(to)}:{self.ports[to]}" if to in self.ports else to.rstrip("/")

    def addresses(self) -> dict[str, str]:
        """What probes can ask for by name."""
        known = {"dir": str(self.scratch)}
        for name, port in self.ports.items():
            host = self.host(name)
            known |= {name: f"{host}:{port}", f"{name}.host": host, f"{name}.port": str(port)}
        return known | {f"{name}.edge": f"{at['host']}:{at['port']}" for name, at in self._edges.items()}

    def proxy(self, name: str) -> FaultProxy | AttachedProxy:
        """Return the proxy of an edge, not started; it listens where its caller can reach it."""
        edge = self.experiment.system.edge[name]
        if edge.proxy is not None:
            return AttachedProxy(name, edge.proxy)
        to = edge.to or ""
        upstream = edge.address or (self.host(to), self.ports[to])
        network = self.networks.get(edge.from_ or "")
        host = _HOST if network is None else network.outside
        return FaultProxy(name, upstream, seed=self.experiment.seed, host=host, port=edge.port or 0)

    def edge_is_at(self, name: str, proxy: EdgeProxy) -> None:
        """Take down where the proxy of an edge listens."""
        self._edges[name] = {"host": proxy.host, "port": str(proxy.port)}

    def settings(self, name: str) -> ProcessSettings:
        """Return how a process is run, and write its files."""
        table = self.experiment.system.process[name]
        where = f"system.process.{name}"
        own = {"port": str(self.ports[name]), "host": self.host(name), "dir": str(self.scratch)}
        edges = {
            key: filled_in(value, self._edges[edge_name], f"system.edge.{edge_name}.env.{key}")
            for edge_name, edge in self.experiment.system.edge.items()
            if edge.from_ == name
            for key, value in edge.env.items()
        }
        known = {**edges, **own}
        arm_env = self.experiment.arm[self.arm].env
        variables = {
            **environment(own["host"]),
            **{key: filled_in(value, known, f"arm.{self.arm}.env.{key}") for key, value in arm_env.items()},
            **{key: filled_in(value, known, f"{where}.env.{key}") for key, value in table.env.items()},
            EVENTS_VARIABLE: str(_events_path(self.out, self.arm, name)),
            **edges,
        }
        if name in self.clocks:
            variables |= self.clocks[name].environment({**os.environ, **variables})
        if name in self.insides:
            variables |= self.insides[name].environment
        for file, text in table.files.items():
            (self.scratch / file).write_text(
                _PLACEHOLDER.sub(lambda match: known.get(match[1], match[0]), text), encoding="utf-8"
            )
        log = self.out / "logs" / self.arm / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        prefix = self.networks[name].prefix if name in self.networks else []

        def words(command: str, key: str) -> list[str]:
            return [*prefix, *words_of(command, known, f"{where}.{key}")]

        return ProcessSettings(
            name,
            argv=words(table.command, "command"),
            port=self.ports[name],
            log=log,
            env=variables,
            cwd=self.folder,
            host=own["host"],
            setup=[words(command, f"setup.{number}") for number, command in enumerate(table.setup)],
            ready=table.ready,
            ready_argv=None if table.ready_command is None else words(table.ready_command, "ready_command"),
            ready_within=table.ready_within,
            stop=table.stop if table.stop.startswith("SIG") else words(table.stop, "stop"),
            restart_after=table.restart_after,
        )


async def _made(safety: Safety, act: A) -> A | None:
    """Make something for the system that lasts as long as it does; None if this machine can't."""
    if await asyncio.to_thread(act.possible) is not None:
        return None
    await safety.apply(act, lease=False)
    return act


def _names(wanted: Sequence[tuple[str, Fault]], kind: type[Fault]) -> list[str]:
    """The processes that get a fault of some kind, each once."""
    return list(dict.fromkeys(name for name, fault in wanted if isinstance(fault, kind)))


def environment(*hosts: str) -> dict[str, str]:
    """What every process gets: the tools of this environment first, and no proxy between it and its own machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    exempt = ",".join(dict.fromkeys(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost", *hosts])))
    return {"PATH": path, "NO_PROXY": exempt, "no_proxy": exempt, "PYTHONUNBUFFERED": "1"}


def _events_path(out: Path, arm: str, process: str) -> Path:
    path = out / "events" / arm / f"{process}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
