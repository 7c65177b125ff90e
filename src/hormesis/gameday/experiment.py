"""The experiment file: a system, its load, its objectives, and the stresses that it is to live through.

    title = "The shop"
    seed = 7

    [run]                                   # how long each phase of a stress lasts
    calm = "3s"
    dose = "6s"
    recovery = "5s"

    [system.process.shop]                   # a process; {port} is a free one, {dir} a scratch folder
    command = "uvicorn shop:app --port {port}"
    ready = "/healthz"

    [system.edge.payments]                  # a proxy between two processes; its address reaches the caller by env
    from = "shop"
    to = "payments"
    env = { PAYMENTS_URL = "http://{host}:{port}" }

    [load]
    to = "shop"
    rate = "60/s"
    [[load.request]]
    name = "browse"
    get = "/products/{sku}"
    values = { sku = { from = 1, to = 50 } }

    [arm.bare]                              # the same system, set up in different ways
    [arm.protected]
    env = { SHOP_POLICIES = "policies.toml" }
    judged = true

    [objective.browse]                      # what must hold in calm, contained and recovered ...
    success = 0.99
    p99 = "250ms"
    contained = { answered = 0.99 }         # ... unless a phase says otherwise

    [[stress]]
    name = "payments slow"
    edge = "payments"
    fault = { latency = "2s" }

    [[probe]]                               # looked at besides the load
    name = "stock can be read"
    http = "http://{shop}/products/1"

The settings classes are that file, and their docstrings its reference: here, and in `topology` (system and arms),
`load`, `objectives`, `stress` and `dose`, `probes` (probes and invariants), `bounds` (abort, blast radius, budget) and
`metastability`. `load_experiment` reads it and checks what no single table can know: that names refer to something,
that a plan does not contradict itself, and that every stress stays within the blast radius.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hormesis import tables
from hormesis.chaos import Refuse, Spike
from hormesis.chaos.faults import Inject
from hormesis.errors import ConfigurationError
from hormesis.gameday.attached import toxics_of
from hormesis.gameday.bounds import Abort, BlastRadius, Budget, Burn
from hormesis.gameday.injected import INSIDE_MAX
from hormesis.gameday.load import Load, expected, known, streams
from hormesis.gameday.objectives import Limits, Objective
from hormesis.gameday.probes import Invariant, Probe
from hormesis.gameday.results import Phase
from hormesis.gameday.stress import Dose, Stress
from hormesis.gameday.topology import NAME, Arm, Edge, ProcessTable, System
from hormesis.loadgen import ARRIVALS_MAX, LoadSpec, Stream
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, per_second, seconds

__all__ = [
    "Abort",
    "Arm",
    "BlastRadius",
    "Budget",
    "Burn",
    "Dose",
    "Edge",
    "Experiment",
    "Invariant",
    "Probe",
    "ProcessTable",
    "Run",
    "Stress",
    "load_experiment",
    "schema",
]

_BASE = "experiment"
_GRACE = 3.0
"""Seconds that answers may still come in after the last arrival; what is later counts as unfinished."""

_WARM_UP = 1.0
"""Seconds of load that a system gets before its first stress."""

_IN_FLIGHT_MAX = 20_000
"""Requests under way at most: in a black hole every caller of a patience's length waits at the same time."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run(Settings):
    """`[run]`: the course of every stress.

    Attributes:
        calm, dose, recovery: How long each lasts.
        detection: The first part of the dose, in which a system may still find out.
        recover_within: The first part of the recovery, in which it may still come back.
        arms: `"together"`: all arms live through the same seconds, so that the host's noise hits them alike;
            `"in turn"`: one after the other, so that none disturbs another.
        tour: The stresses that a run without further words goes through; left out: all.
        control: Whether each stress has a run of the same load beside it, without any fault. What that misses as well,
            the fault did not do.
        confidence: How sure the interval of a measured value is to hold the true one.
        certain: Whether an objective has held only if the whole interval says so. Few requests can't say that.
    """

    calm: Duration = 3.0
    dose: Duration = 6.0
    recovery: Duration = 5.0
    detection: Duration = 2.0
    recover_within: Duration = 2.0
    arms: Literal["together", "in turn"] = "together"
    tour: Sequence[str] | None = None
    control: bool = False
    confidence: float = 0.95
    certain: bool = False

    def __post_init__(self) -> None:
        for name in ("calm", "dose", "recovery"):
            seconds(getattr(self, name), name)
        for part, whole in (("detection", "dose"), ("recover_within", "recovery")):
            length = seconds(getattr(self, part), part, zero=True)
            if length >= seconds(getattr(self, whole), whole):
                raise ConfigurationError.bad_value(part, getattr(self, part), f"less than the {whole}")
        if not 0.5 <= self.confidence < 1:
            raise ConfigurationError.bad_value("confidence", self.confidence, "a share from 0.5 and below 1")
        if self.tour is not None and not self.tour:
            raise ConfigurationError.bad_value("tour", list(self.tour), "names of stresses; left out: all of them")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Settings):
    """A whole file; see the module's docstring."""

    system: System
    load: Load
    stress: Sequence[Stress]
    title: str = "Game day"
    seed: int = 1
    run: Run = dataclasses.field(default_factory=Run)
    arm: Mapping[str, Arm] = dataclasses.field(default_factory=lambda: {"system": Arm()})
    objective: Mapping[str, Objective] = dataclasses.field(default_factory=dict)
    abort: Abort | None = None
    blast_radius: BlastRadius | None = None
    budget: Budget | None = None
    probe: Sequence[Probe] = ()
    invariant: Sequence[Invariant] = ()

    def __post_init__(self) -> None:
        processes, edges = self.system.process, self.system.edge
        routes = self.routes
        if self.load.url is None:
            known("load.to", "process", self.load.to, processes)
        for name in (*processes, *edges, *self.arm):
            if not NAME.fullmatch(name):
                raise ConfigurationError(f"the name {name!r} takes letters, digits, spaces, '_.-', 64 at most")
        for name, edge in edges.items():
            if edge.proxy is None:
                known(f"system.edge.{name}.from", "process", str(edge.from_), processes)
                if edge.address is None:
                    known(f"system.edge.{name}.to", "process", str(edge.to), processes)
        self.system.check_placeholders(self.arm)
        _unique("load.request", routes)
        _unique("stress", [stress.name for stress in self.stress])
        for route in self.objective:
            known("objective", "request", route, routes)
        for stress in self.stress:
            where = f"stress {stress.name!r}"
            _, length, _ = self.lengths(stress)
            for dose in stress.doses:
                self._check_dose(where, dose)
                if (after := seconds(getattr(dose.what, "after", 0.0), zero=True)) >= length:
                    accepted = f"less than the dose, which lasts {format_seconds(length)}"
                    raise ConfigurationError.bad_value(f"{where}: fault.after", format_seconds(after), accepted)
                if isinstance(dose.what, Inject) and length > INSIDE_MAX:
                    accepted = f"at most {format_seconds(INSIDE_MAX)}: processes keep no injected fault for longer"
                    raise ConfigurationError.bad_value(f"{where}: dose", format_seconds(length), accepted)
            for route in stress.objective:
                known(f"{where}: objective", "request", route, routes)
            for probe in stress.may_miss:
                known(f"{where}: may_miss", "probe", probe, [each.name for each in self.probe])
            if (radius := self.radius(stress)) is not None:
                radius.check_names(routes, list(self.load.client), f"{where}: blast_radius")
                try:
                    radius.check(stress.doses, self.load)
                except ConfigurationError as error:
                    raise ConfigurationError(f"{where} {error.message}", error.key) from None
            count = expected(self.load_under(stress), self.lengths(stress), stress.faults)
            if count > ARRIVALS_MAX:
                accepted = f"a rate that makes at most {ARRIVALS_MAX:,} requests of {where}, not {count:,.0f}"
                raise ConfigurationError.bad_value("load.rate", self.load.rate, accepted)
            try:
                self.load_spec(stress, "http://127.0.0.1")
            except ConfigurationError as error:
                raise ConfigurationError(f"load.{error.message}", f"load.{error.key}") from None
        self._check_probes()
        if not self.stress:
            raise ConfigurationError.bad_value("stress", [], "at least one [[stress]]")
        if not self.arm:
            raise ConfigurationError.bad_value("arm", {}, "at least one [arm.NAME]")
        attached = [f"system.edge.{name}.proxy" for name, edge in edges.items() if edge.proxy is not None]
        if self.load.url is not None:
            attached.insert(0, "load.to")
        if attached and len(self.arm) > 1:
            raise ConfigurationError(
                f"{attached[0]} leads to what runs already, which has one arm, not {len(self.arm)}"
            )
        for name in self.run.tour or ():
            known("run.tour", "stress", name, [stress.name for stress in self.stress])

    def _check_probes(self) -> None:
        """Refuse probes and invariants with the same name, or with placeholders that stand for nothing."""
        looks = [*self.probe, *self.invariant]
        _unique("probe", [look.name for look in looks])
        addresses = [f"{name}{part}" for name in self.system.process for part in ("", ".host", ".port")]
        addresses += [f"{name}.edge" for name, edge in self.system.edge.items() if edge.proxy is None]
        counts = [f"{route}.{what}" for route in self.routes for what in ("full", "answered", "sent")]
        counts += [f"{look.name}.held" for look in looks]
        for look in looks:
            for name in look.placeholders():
                if name not in (names := [*addresses, *counts, "dir"]):
                    key = "invariant" if isinstance(look, Invariant) else "probe"
                    error = ConfigurationError.unknown("placeholder", name, names)
                    raise ConfigurationError(f"{key} {look.name!r}: {error.message}", key)

    def _check_dose(self, where: str, dose: Dose) -> None:
        """Refuse a dose at a place that is not there."""
        if dose.edge is not None:
            known(f"{where}: edge", "edge", dose.edge, self.system.edge)
            if self.system.edge[dose.edge].proxy is not None and not isinstance(dose.what, Refuse):
                try:
                    toxics_of(dose.what, "toxic")  # type: ignore[arg-type]  # only a fault on the wire is on an edge
                except ConfigurationError as error:
                    raise ConfigurationError(f"{where}: {error.message}", error.key) from None
        if dose.process is not None:
            known(f"{where}: process", "process", dose.process, self.system.process)
        if isinstance(fault := dose.what, Spike):
            if fault.request is not None:
                known(f"{where}: fault.request", "request", fault.request, self.routes)
            if fault.client is not None:
                known(f"{where}: fault.client", "client", fault.client, self.load.client)

    @property
    def routes(self) -> list[str]:
        """The names of the requests, by their index in samples."""
        return [request.name for request in self.load.request]

    def radius(self, stress: Stress) -> BlastRadius | None:
        """Return whom a stress may hit, if that is bounded."""
        return stress.blast_radius or self.blast_radius

    def spared(self, stress: Stress) -> set[int]:
        """Return the indices of the requests that must not fail under a stress."""
        radius = self.radius(stress)
        if radius is None:
            return set()
        reached = radius.reaches(self.load)
        return {index for index, route in enumerate(self.routes) if route not in reached}

    @property
    def judged(self) -> list[str]:
        """The arms that decide the exit status."""
        return [name for name, arm in self.arm.items() if (name != "bare" if arm.judged is None else arm.judged)]

    def lengths(self, stress: Stress) -> tuple[float, float, float]:
        """Return the seconds of calm, dose and recovery of a stress."""
        run = self.run
        calm, dose, recovery = (
            seconds(own if own is not None else general)
            for own, general in ((stress.calm, run.calm), (stress.dose, run.dose), (stress.recovery, run.recovery))
        )
        detection, recover_within = self.allowances(stress)
        if dose <= detection or recovery <= recover_within:
            raise ConfigurationError(
                f"stress {stress.name!r}: its dose takes more than its detection, or run.detection, and its recovery "
                "more than its recover_within, or run.recover_within"
            )
        return calm, dose, recovery

    def allowances(self, stress: Stress) -> tuple[float, float]:
        """Return the seconds that a system has to find out, and those that it has to come back."""
        run = self.run
        found_out, back = (
            seconds(own if own is not None else general, zero=True)
            for own, general in ((stress.detection, run.detection), (stress.recover_within, run.recover_within))
        )
        return found_out, back

    def load_under(self, stress: Stress) -> Load:
        """Return the load with a stress's changes to it."""
        return self.load if stress.load is None else stress.load.on(self.load)

    def load_spec(self, stress: Stress, base_url: str, *, dosed: bool = True) -> LoadSpec:
        """Return what the load generator is told for a stress.

        Args:
            stress: Which.
            base_url: Where the load goes.
            dosed: Whether the faults of the load are in it; a control goes without.
        """
        load = self.load_under(stress)
        sources = streams(load, self.lengths(stress), stress.faults if dosed else ())
        # Of the stress and not of the arm: every arm gets the same arrivals, and so does a control.
        return self._spec(load, sources, f"{self.seed}/{stress.name}", base_url)

    def step_spec(self, stress: Stress, base_url: str, *, level: float, length: float, number: int) -> LoadSpec:
        """Return what the load generator is told for a part of the load, held for a while after a stress."""
        load = self.load_under(stress)
        clients = {
            name: dataclasses.replace(client, rate=per_second(client.rate) * level)
            for name, client in load.client.items()
        }
        rate = None if load.rate is None else per_second(load.rate) * level
        part = dataclasses.replace(load, rate=rate, client=clients)
        spec = self._spec(part, streams(part, (length,)), f"{self.seed}/{stress.name}/step {number}", base_url)
        # Its generator is needed again when the step after it has ended.
        return dataclasses.replace(spec, grace=length / 2)

    def warm_up_spec(self, base_url: str) -> LoadSpec:
        """Return what the load generator is told for a system that has just been started."""
        return self._spec(self.load, streams(self.load, (_WARM_UP,)), f"{self.seed}/warm-up/{base_url}", base_url)

    def _spec(self, load: Load, sources: Sequence[Stream], seed: str, base_url: str) -> LoadSpec:
        callers = load.callers()
        return LoadSpec(
            base_url=base_url,
            streams=sources,
            requests=[request.request_of(callers[request.client]) for request in load.request],
            seed=seed,
            timeout=load.timeout,
            grace=_GRACE,
            in_flight_max=_IN_FLIGHT_MAX,
            degraded_header=load.degraded_header,
            keep_alive=load.keep_alive,
        )

    def limits(self, stress: Stress, route: str, phase: Phase) -> Limits:
        """Return what must hold for a route in a phase of a stress."""
        general = self.objective.get(route, Objective()).at(phase)
        own = stress.objective.get(route)
        return general if own is None else general.under(own.at(phase))

    def chosen(self, only: Iterable[str] = (), *, everything: bool = False) -> list[Stress]:
        """Return the stresses of a run: those named, or all, or the tour."""
        names = list(only) or (None if everything else self.run.tour)
        if names is None:
            return list(self.stress)
        for name in names:
            known("--only", "stress", name, [stress.name for stress in self.stress])
        return [stress for stress in self.stress if stress.name in set(names)]


def _unique(key: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{key}: the name {name!r} stands twice; names are unique", key)


def load_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Read an experiment file.

    A file that says `experiment = "other.toml"` is that other one, with its own top-level tables in the place of those
    there; its processes run in the other one's folder. So a stress can have a file of its own, and what an exploration
    of that has kept can, too.

    Raises:
        ConfigurationError: There is no such file, or something in it can't be meant; the message names file, key and
            value, and what would be accepted.
        MissingExtraError: The extra `gameday` is not installed.
    """
    try:
        return tables.read(Experiment, _table(Path(path)), "")
    except ConfigurationError as error:
        if error.message.startswith(str(path)):
            raise
        raise tables.in_file(path, error) from None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of an experiment file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **tables.schema(Experiment)}


def folder_of(path: str | os.PathLike[str]) -> Path:
    """The folder in which an experiment's processes run."""
    path = Path(path).resolve()
    while path.is_file() and (other := tables.read_toml(path).get(_BASE)) is not None:  # no file if built in code
        path = (path.parent / str(other)).resolve()
    return path.parent


def _table(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """Read a file, over the one that it is based on."""
    table = tables.read_toml(path)
    if _BASE not in table:
        return table
    other = table.pop(_BASE)
    if not isinstance(other, str):
        raise ConfigurationError.bad_value(_BASE, other, "the path of another experiment file")
    above = (*above, path.resolve())
    if (path.parent / other).resolve() in above:
        raise ConfigurationError(f"{_BASE} is {other!r}, which leads round in a circle", _BASE)
    base = _table(path.parent / other, above)
    if "stress" in table and "run" not in table and isinstance(run := base.get("run"), dict):
        run.pop("tour", None)  # it names the other file's stresses
    return {**base, **table}
