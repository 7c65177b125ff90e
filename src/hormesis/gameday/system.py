"""One arm of a game day, running: its processes, a fault proxy on each of its edges, and its load generator.

Every arm has ports, a scratch folder and logs of its own, so arms can run side by side. Whatever was started is stopped
when the block ends, however it ends; and the keeper ends it even if this process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from hormesis.chaos import (
    FaultProxy,
    Keeper,
    Kill,
    Pause,
    Process,
    ProcessSettings,
    Spike,
    Throttle,
    check_port_free,
    free_port,
)
from hormesis.errors import ConfigurationError
from hormesis.gameday.acted import EventLog
from hormesis.gameday.experiment import Experiment, Stress
from hormesis.gameday.together import together
from hormesis.loadgen import LoadDriver
from hormesis.telemetry import EVENTS_VARIABLE

__all__ = ["ArmSystem", "running"]

_HOST = "127.0.0.1"


class ArmSystem:
    """The running system of one arm."""

    def __init__(self, arm: str, processes: Mapping[str, Process], proxies: Mapping[str, FaultProxy]) -> None:
        self.arm = arm
        self.processes = processes
        self.proxies = proxies
        self.warm = False
        """Whether it has had load since it was started."""
        self.well = True
        """Whether it can live through another stress as if there had been none before."""
        self.events: list[EventLog] = []
        self.driver: LoadDriver
        self.url = ""

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

    def dose(self, stress: Stress) -> None:
        """Put a stress's fault into force."""
        fault = stress.what
        if isinstance(fault, Spike):
            return  # the load's schedule has it already
        if isinstance(fault, Kill):
            self.processes[stress.process or ""].kill()
        elif isinstance(fault, Pause):
            self.processes[stress.process or ""].pause()
        elif isinstance(fault, Throttle):
            self.processes[stress.process or ""].throttle(fault.throttle)
        else:
            self.proxies[stress.edge or ""].apply(fault)

    async def undo(self, stress: Stress) -> None:
        """Take it out of force again; undoing twice changes nothing."""
        fault = stress.what
        if isinstance(fault, Spike):
            return
        if isinstance(fault, Kill):
            process = self.processes[stress.process or ""]
            if not process.running and process.settings.restart_after is None:
                await process.stop()
                await process.start()
        elif isinstance(fault, Pause | Throttle):
            self.processes[stress.process or ""].resume()
        else:
            self.proxies[stress.edge or ""].lift()


@contextlib.asynccontextmanager
async def running(
    experiment: Experiment, arm: str, *, folder: Path, out: Path, scratch: Path, keeper: Keeper
) -> AsyncIterator[ArmSystem]:
    """Start an arm's system, wait until all of it is ready, and stop it in the end.

    Args:
        experiment: The file.
        arm: Which of its arms.
        folder: Where its processes run.
        out: Where logs and events go.
        scratch: What `{dir}` stands for.
        keeper: Ends the processes if this one dies.

    Raises:
        ConfigurationError: A command is missing, a port is in use, a placeholder is unknown.
        ProcessFailed: A process ended early or did not get ready.
    """
    tables = experiment.system.process
    for name, table in tables.items():
        if table.port is not None:
            check_port_free(_HOST, table.port, f"process {name!r}")
    ports = {name: table.port or free_port(_HOST) for name, table in tables.items()}
    async with contextlib.AsyncExitStack() as stack:
        proxies: dict[str, FaultProxy] = {}
        for name, edge in experiment.system.edge.items():
            upstream = edge.address or (_HOST, ports[edge.to])
            proxy = FaultProxy(name, upstream, seed=experiment.seed, port=edge.port or 0)
            proxies[name] = await stack.enter_async_context(proxy)
        settings = {
            name: _settings(experiment, arm, name, ports, proxies, folder=folder, out=out, scratch=scratch)
            for name in tables
        }
        processes = {name: Process(each, keeper) for name, each in settings.items()}
        system = ArmSystem(arm, processes, proxies)
        system.events = [EventLog(name, _events_path(out, arm, name)) for name in tables]
        system.url = f"http://{_HOST}:{ports[experiment.load.to]}"
        stack.push_async_callback(_stop_all, processes)
        for process in processes.values():
            await process.start()
        # The generator starts while the services do; each takes about a second of its own.
        system.driver = LoadDriver(on_spawn=keeper.watch)
        stack.push_async_callback(system.driver.stop)
        await together(system.driver.start(), *(process.wait_ready() for process in processes.values()))
        yield system


async def _stop_all(processes: Mapping[str, Process]) -> None:
    await asyncio.gather(*(process.stop() for process in processes.values()))


def _settings(
    experiment: Experiment,
    arm: str,
    name: str,
    ports: Mapping[str, int],
    proxies: Mapping[str, FaultProxy],
    *,
    folder: Path,
    out: Path,
    scratch: Path,
) -> ProcessSettings:
    table = experiment.system.process[name]
    own = {"port": str(ports[name]), "host": _HOST, "dir": str(scratch)}
    where = f"system.process.{name}"
    variables = {
        **_environment(),
        **{key: _fill(value, own, f"arm.{arm}.env.{key}") for key, value in experiment.arm[arm].env.items()},
        **{key: _fill(value, own, f"{where}.env.{key}") for key, value in table.env.items()},
        EVENTS_VARIABLE: str(_events_path(out, arm, name)),
    }
    for edge_name, edge in experiment.system.edge.items():
        if edge.from_ == name:
            address = {"host": proxies[edge_name].host, "port": str(proxies[edge_name].port)}
            for key, value in edge.env.items():
                variables[key] = _fill(value, address, f"system.edge.{edge_name}.env.{key}")
    try:
        words = shlex.split(table.command)
    except ValueError as error:
        raise ConfigurationError(f"{where}.command is {table.command!r}: {error}", f"{where}.command") from None
    argv = [_fill(word, own, f"{where}.command") for word in words]
    log = out / "logs" / arm / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return ProcessSettings(
        name,
        argv=argv,
        port=ports[name],
        log=log,
        env=variables,
        cwd=folder,
        ready=table.ready,
        ready_within=table.ready_within,
        restart_after=table.restart_after,
    )


def _environment() -> dict[str, str]:
    """What every process gets: the tools of this environment first, and no proxy between it and its own machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    exempt = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost"]))
    return {"PATH": path, "NO_PROXY": exempt, "no_proxy": exempt, "PYTHONUNBUFFERED": "1"}


def _events_path(out: Path, arm: str, process: str) -> Path:
    path = out / "events" / arm / f"{process}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _fill(text: str, known: Mapping[str, str], key: str) -> str:
    try:
        return text.format_map(known)
    except (KeyError, IndexError, ValueError):
        accepted = "the placeholders " + ", ".join(f"{{{name}}}" for name in known)
        raise ConfigurationError.bad_value(key, text, accepted) from None
