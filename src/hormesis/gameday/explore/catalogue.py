"""Which faults an exploration doses: for every edge, process and place inside the ways in which they fail differently.

How strong a fault is follows from the experiment: an answer is late when it comes after the patience that the
objectives allow, a line is thin when it carries a tenth of what it carries in calm. A stress of the experiment's own
file says better than any default what is to be expected at its place, so it takes the default's place. No default
strikes a larger share than the blast radius allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hormesis.chaos import Bandwidth, BlackHole, Fault, Kill, Latency, Pause, Refuse, Reset
from hormesis.chaos.faults import Inject
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Experiment
from hormesis.gameday.explore.pruning import Wiring
from hormesis.gameday.explore.trials import Injection
from hormesis.gameday.results import Phase
from hormesis.units import seconds

__all__ = ["catalogue", "chosen", "patience", "wiring"]

_PATIENCE = 1.0
"""Seconds that a caller waits where no objective tells."""

_LATE = 2.0
"""Patiences after which an answer comes that is late for certain."""

_THIN = 0.1
"""The share of the usual answers for which a thin line has room."""

_THINNEST = 100.0
"""Bytes a second at least: less is a black hole."""


def wiring(experiment: Experiment) -> Wiring:
    """Return who calls whom in an experiment."""
    edges = {name: (edge.from_ or "", edge.to or "") for name, edge in experiment.system.edge.items()}
    guards: dict[tuple[str, str], list[str]] = {}
    for name, edge in experiment.system.edge.items():
        for policy in edge.policies(name):
            guards.setdefault((edge.from_ or "", policy), []).append(name)
    return Wiring(edges, experiment.load.to, guards)


def patience(experiment: Experiment) -> float:
    """Return the longest latency that an objective allows in calm, in seconds."""
    limits = (objective.at(Phase.CALM) for objective in experiment.objective.values())
    allowed = [seconds(limit.p99) for limit in limits if limit.p99 is not None]
    return max(allowed, default=_PATIENCE)


def catalogue(
    experiment: Experiment, answers: Mapping[str, float], places: Sequence[tuple[str, str]] = ()
) -> list[Injection]:
    """Return the single faults to explore, kind by kind, so that every place is met early.

    The process that the load knocks at is left out: without it nobody can answer, and no policy of anybody's helps.
    Calls that it makes itself are another matter.

    Args:
        experiment: The system, its objectives, and stresses of its own.
        answers: Bytes a second that come back on each edge in calm.
        places: Processes, each with a policy of it that has a place for faults.
    """
    own = {each.signature: each for each in _single_stresses(experiment)}
    chosen = [own.pop(each.signature, each) for each in _defaults(experiment, answers, places)]
    return chosen + list(own.values())


def chosen(injections: Sequence[Injection], only: Sequence[str], kinds: Sequence[str]) -> list[Injection]:
    """Return those at some places and of some kinds; all when none is named.

    Raises:
        ConfigurationError: There is no such place, or no such kind there.
    """
    places, known = ({each.target for each in injections}, {each.kind for each in injections})
    for option, what, names, accepted in (("--only", "place", only, places), ("--kind", "kind of fault", kinds, known)):
        for name in names:
            if name not in accepted:
                raise ConfigurationError(f"{option}: {ConfigurationError.unknown(what, name, sorted(accepted))}")
    return [each for each in injections if each.target in (only or places) and each.kind in (kinds or known)]


def _defaults(
    experiment: Experiment, answers: Mapping[str, float], places: Sequence[tuple[str, str]]
) -> Iterator[Injection]:
    share = 1.0 if experiment.blast_radius is None else experiment.blast_radius.share
    late = Latency(round(_LATE * patience(experiment), 3), share=share)
    on_edges: tuple[Fault, ...] = (BlackHole(share=share), late, Refuse(), Reset("answer", share=share))
    in_processes: tuple[Fault, ...] = (Kill(), Pause())
    for fault in on_edges:
        for name in experiment.system.edge:
            yield Injection("edge", name, fault)
    inner = [name for name in experiment.system.process if name != experiment.load.to]
    for fault in in_processes:
        for name in inner:
            yield Injection("process", name, fault)
    # An error that nobody expects, and so nobody repeats: the wire can't do that.
    for injected in ({"error": "error", "share": share}, {"latency": late.latency, "share": share}):
        for name, policy in places:
            yield Injection("process", name, Inject(injected, at=policy))
    for name in experiment.system.edge:
        yield Injection("edge", name, Bandwidth(round(max(_THINNEST, _THIN * answers.get(name, 0.0)))))


def _single_stresses(experiment: Experiment) -> Iterator[Injection]:
    """Yield what the file's own stresses dose at edges and inner processes, with the usual load and one at a time."""
    for stress in experiment.stress:
        injections = [Injection.of(dose) for dose in stress.doses]
        if len(injections) == 1 and stress.load is None:
            injection = injections[0]
            if injection.where in ("edge", "process") and injection.target != f"process {experiment.load.to}":
                yield injection
