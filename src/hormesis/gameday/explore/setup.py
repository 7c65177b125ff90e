"""How trials are set up on a real system: how long they last, and where its policies come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hormesis.chaos.faults import Inject
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment, Run
from hormesis.gameday.explore.catalogue import patience
from hormesis.gameday.explore.fixes import Change, Circumstances, PolicyFile
from hormesis.gameday.explore.trials import Trial
from hormesis.units import per_second, seconds

__all__ = ["Protection", "lengths", "protection", "shortest_dose"]

_REQUESTS = 5.0
"""Requests of each route that a phase should have to be judged by."""

_PHASE_MIN = 1.5
_CONTAINED_MIN = 2.0


def lengths(experiment: Experiment) -> Run:
    """Return phases for trials: as short as the objectives can be judged by, never longer than the game day's own.

    What a system is allowed, to find out and to come back, is not shortened.
    """
    run = experiment.run
    judged = max((_REQUESTS / rate for route, rate in _rates(experiment) if route in experiment.objective), default=0.0)
    calm, dose, recovery = (seconds(each) for each in (run.calm, run.dose, run.recovery))
    found_out, back = seconds(run.detection, zero=True), seconds(run.recover_within, zero=True)
    return dataclasses.replace(
        run,
        calm=round(min(calm, max(_PHASE_MIN, judged)), 2),
        dose=round(min(dose, found_out + max(_CONTAINED_MIN, judged)), 2),
        recovery=round(min(recovery, back + max(_PHASE_MIN, judged)), 2),
        tour=None,
    )


def shortest_dose(run: Run) -> float:
    """Return how short a dose may get: half of what is judged must stay."""
    dose, found_out = seconds(run.dose), seconds(run.detection, zero=True)
    return round((dose + found_out) / 2, 2)


def _rates(experiment: Experiment) -> Iterator[tuple[str, float]]:
    """Yield how many requests a second each route gets."""
    load = experiment.load
    for request in load.request:
        rate = load.rate if request.client is None else load.client[request.client].rate
        weights = sum(other.weight for other in load.request if other.client == request.client)
        if rate is not None and weights:
            yield request.name, per_second(rate) * request.weight / weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """The policy file of an arm.

    Attributes:
        file: The file, and what could be changed in it.
        variables: The variables, of the arm or of processes, by which it reaches them.
        policies: Which policies protect each edge, and each process that edges lead to.
        circumstances: What is known of the calls.
        reading: The routes that only read.
        places: Processes, each with a policy of the file that guards its calls and has a place for injected faults.
    """

    file: PolicyFile
    variables: Mapping[str, str]
    policies: Mapping[str, Sequence[str]]
    circumstances: Circumstances
    reading: frozenset[str]
    places: Sequence[tuple[str, str]]

    def changes(self, trial: Trial, acted: tuple[str, ...], hurt: frozenset[str]) -> list[Change]:
        """Return what could be changed about a failure: at its edges first, then where policies acted.

        Args:
            trial: What fails.
            acted: The policies that did something about it.
            hurt: The routes that suffered.
        """
        protecting = [name for each in trial.injections for name in self.policies.get(each.target, ())]
        protecting += [each.fault.at for each in trial.injections if isinstance(each.fault, Inject)]
        names = dict.fromkeys([*protecting, *acted])
        reads = bool(hurt) and hurt <= self.reading
        return self.file.changes(list(names), dataclasses.replace(self.circumstances, reads=reads))

    def with_file(self, experiment: Experiment, arm: str, path: Path) -> Experiment:
        """Return the experiment with another policy file in the arm."""
        table = experiment.arm[arm]
        changed = {key: str(path) for key in self.variables if key in table.env}
        arms = {**experiment.arm, arm: dataclasses.replace(table, env={**table.env, **changed})}
        processes = {
            name: dataclasses.replace(
                process, env={**process.env, **{key: str(path) for key in self.variables if key in process.env}}
            )
            for name, process in experiment.system.process.items()
        }
        system = dataclasses.replace(experiment.system, process=processes)
        return dataclasses.replace(experiment, arm=arms, system=system)


def protection(
    experiment: Experiment, arm: str, folder: Path, given: str | None, latency: float = 0.05
) -> Protection | None:
    """Find the policy file of an arm; None when nothing tells of one.

    Args:
        experiment: The system.
        arm: The arm.
        folder: Where its processes run.
        given: What somebody said it is, relative to where they are.
        latency: What an answer normally takes.

    Raises:
        ConfigurationError: It can't be read, or no variable names it, so that a changed one would reach nobody.
    """
    table = experiment.arm[arm]
    variables = dict(table.env)
    for process in experiment.system.process.values():
        variables |= process.env
    files = {key: folder / value for key, value in variables.items() if value.endswith(".toml")}
    if given is not None:
        path = Path(given)
    elif table.policies is not None:
        path = folder / table.policies
    else:
        path = next((each for each in files.values() if each.is_file()), folder)
        if path == folder:
            return None
    named = {key: variables[key] for key, each in files.items() if each.resolve() == path.resolve()}
    file = PolicyFile(path)
    if not named:
        message = f"no variable of arm {arm!r} names {path}, so a changed one would not reach its processes"
        raise ConfigurationError(message, "policies")
    protecting: dict[str, list[str]] = {}
    places: dict[tuple[str, str], None] = {}
    for name, edge in experiment.system.edge.items():
        own = edge.policies(name)
        protecting[f"edge {name}"] = own
        places |= {(edge.from_ or "", policy): None for policy in own if policy in file.places}
        protecting.setdefault(f"process {edge.to}", []).extend(own)
    rate = sum(rate for _, rate in _rates(experiment))
    return Protection(
        file=file,
        variables=named,
        policies=protecting,
        circumstances=Circumstances(patience=patience(experiment), rate=rate, latency=latency),
        places=list(places),
        reading=frozenset(request.name for request in experiment.load.request if request.get is not None),
    )
