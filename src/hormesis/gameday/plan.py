"""What a game day would do: the plan, without anything started (`hormesis gameday --dry-run`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from hormesis.chaos import describe
from hormesis.gameday.experiment import Experiment, Stress
from hormesis.gameday.lock import touched
from hormesis.gameday.objectives import Limits
from hormesis.gameday.preflight import obstacles, planned_seconds
from hormesis.gameday.results import QUANTILES, Phase
from hormesis.gameday.system import how_undone
from hormesis.units import format_seconds, per_second, seconds

__all__ = ["Plan", "PlannedDose", "PlannedStress", "lines", "make_plan"]


@dataclasses.dataclass(frozen=True, slots=True)
class PlannedDose:
    """One dose: where, what, and how it is taken back."""

    target: str
    fault: str
    undo: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStress:
    """One stress.

    Attributes:
        name, about: Its own.
        doses: What is dosed.
        phases: The seconds of each phase.
        objectives: What must hold, by route and phase, in words.
        radius: Whom it may hit, in words; empty where nobody bounds that.
        obstacle: Why this machine can't dose it; empty when it can.
    """

    name: str
    about: str
    doses: Sequence[PlannedDose]
    phases: Mapping[str, float]
    objectives: Mapping[str, str]
    radius: str
    obstacle: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole game day.

    Attributes:
        title, seed: Of the experiment.
        arms: Those that run.
        seconds: How long the stresses take.
        started: What is started for each arm: processes, and proxies on edges.
        touches: What it touches that others could.
        load: The load, in words.
        probes: Each probe and invariant, in words.
        bounds: What ends it early, in words.
        stresses: The stresses, in order.
    """

    title: str
    seed: int
    arms: Sequence[str]
    seconds: float
    started: Sequence[str]
    touches: Sequence[str]
    load: str
    probes: Sequence[str]
    bounds: Sequence[str]
    stresses: Sequence[PlannedStress]

    @property
    def possible(self) -> bool:
        """Whether this machine can dose all of it."""
        return not any(stress.obstacle for stress in self.stresses)


async def make_plan(experiment: Experiment, stresses: Sequence[Stress], arms: Sequence[str], repeat: int = 1) -> Plan:
    """Return what a game day would do."""
    found = {stress.name: why for stress, why in await obstacles(stresses)}
    return Plan(
        title=experiment.title,
        seed=experiment.seed,
        arms=list(arms),
        seconds=repeat * planned_seconds(experiment, stresses, arms),
        started=list(_started(experiment)),
        touches=touched(experiment, stresses),
        load=_load(experiment),
        probes=list(_probes(experiment)),
        bounds=list(_bounds(experiment)),
        stresses=[_stress(experiment, stress, found.get(stress.name, "")) for stress in stresses],
    )


def lines(plan: Plan) -> Iterator[str]:
    """Yield the plan in words."""
    stresses = f"{len(plan.stresses)} {'stress' if len(plan.stresses) == 1 else 'stresses'}"
    yield f"{plan.title}: {stresses} on {' and '.join(plan.arms)}, seed {plan.seed}"
    took = format_seconds(max(1, round(plan.seconds)))
    yield f"It would take about {took}, and the time to start and stop. Nothing is started now."
    parts = {
        "Started for each arm": plan.started,
        "Touched": plan.touches,
        "Load": [plan.load],
        "Probes": plan.probes,
        "Ends early": plan.bounds,
    }
    for title, items in parts.items():
        if items:
            yield ""
            yield title
            yield from (f"  {item}" for item in items)
    for number, stress in enumerate(plan.stresses, 1):
        yield ""
        yield f"{number}. {stress.name}{f' – {stress.about}' if stress.about else ''}"
        for dose in stress.doses:
            yield f"  dose     {dose.target}: {dose.fault}"
            yield f"  undo     {dose.undo}"
        yield "  phases   " + ", ".join(f"{name} {format_seconds(each)}" for name, each in stress.phases.items())
        for where, what in stress.objectives.items():
            yield f"  expects  {where}: {what}"
        if stress.radius:
            yield f"  within   {stress.radius}"
        if stress.obstacle:
            yield f"  CAN'T    {stress.obstacle}"


def _started(experiment: Experiment) -> Iterator[str]:
    for name, table in experiment.system.process.items():
        yield f"process {name}: {' '.join(table.command.split())}"
    for name, edge in experiment.system.edge.items():
        if edge.proxy is None:
            yield f"proxy on edge {name}: {edge.from_} to {edge.to}"


def _load(experiment: Experiment) -> str:
    load = experiment.load
    return f"{load.mean_rate:g} requests/s to {load.to}: {', '.join(experiment.routes)}"


def _probes(experiment: Experiment) -> Iterator[str]:
    for probe in experiment.probe:
        when = ", ".join(f"{each} every {_shown(probe.every)}" if each == "during" else each for each in probe.when)
        yield f"{probe.name} ({probe.kind}; {when}; at most {_shown(probe.timeout)})"
    for invariant in experiment.invariant:
        yield f"{invariant.name} ({invariant.kind}; when a stress is over; at most {_shown(invariant.timeout)})"


def _bounds(experiment: Experiment) -> Iterator[str]:
    if (abort := experiment.abort) is not None:
        if abort.answered is not None:
            yield f"a dose, when fewer than {100 * abort.answered:g}% are answered over {_shown(abort.over)}"
        if (burn := abort.burn) is not None:
            windows = f"{_shown(burn.long)} and {_shown(burn.short)}"
            yield f"a dose, when the error budget burns {burn.rate:g} times too fast over {windows}"
    if (radius := experiment.blast_radius) is not None and (radius.routes is not None or radius.clients is not None):
        yield f"a dose, when {100 * radius.spared:g}% of the requests outside the blast radius fail"
    if (budget := experiment.budget) is not None:
        if budget.time is not None:
            yield f"the game day, after {_shown(budget.time)}"
        if budget.failed is not None:
            yield f"the game day, when {budget.failed:,} requests have failed"


def _stress(experiment: Experiment, stress: Stress, obstacle: str) -> PlannedStress:
    calm, dose, recovery = experiment.lengths(stress)
    found_out, back = experiment.allowances(stress)
    lengths = (calm, found_out, dose - found_out, back, recovery - back)
    radius = experiment.radius(stress)
    apis = {name: edge.proxy for name, edge in experiment.system.edge.items()}
    objectives = {}
    for route in experiment.routes:
        for phase in Phase:
            if said := _limits(experiment.limits(stress, route, phase)):
                objectives[f"{route} in {phase.value}"] = said
    return PlannedStress(
        name=stress.name,
        about=stress.about,
        doses=[
            PlannedDose(each.target, describe(each.what), how_undone(each, apis.get(each.edge or "")))
            for each in stress.doses
        ],
        phases={phase.value: length for phase, length in zip(Phase, lengths, strict=True)},
        objectives=objectives,
        radius="" if radius is None else radius.in_words(experiment.load),
        obstacle=obstacle,
    )


def _limits(limits: Limits) -> str:
    said = []
    for metric, wanted in limits.limits().items():
        if metric in QUANTILES:
            said.append(f"{metric} ≤ {_shown(wanted)}")
        elif metric == "throughput":
            said.append(f"{metric} ≥ {per_second(wanted):g}/s")
        else:
            said.append(f"{metric} ≥ {100 * wanted:g}%")
    return ", ".join(said)


def _shown(duration: float | str) -> str:
    return format_seconds(seconds(duration))
