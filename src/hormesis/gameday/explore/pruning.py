"""Which combinations need no trial, because what was seen already answers them; and which come first.

Pairs are many: ten edges and six faults make 60 single faults and 1,620 pairs. Three observations, in the spirit of
lineage-driven fault injection (Alvaro et al., 2015) and of Filibuster's dynamic reduction (Meiklejohn et al., 2021),
answer most of them:

- *Nothing passes there.* If an edge carries nothing while A is on, a fault B on it meets nobody: A with B is A alone.
- *It fails already.* If A alone fails, A with B says nothing new.
- *One hides the other.* Behind a black hole nobody can tell a slow line from a fast one.

The first two hold for what was measured, within one premise: during a dose the system does the same things each time.

What is left is ordered by suspicion. Two faults are worse together than alone where one takes what the other one's
victims fall back on: the edge that carries more under A (retries, a second source), above all one that carries nothing
without A; two places that both already cost answers alone; two edges of one caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hormesis.chaos import BlackHole, Pause, Refuse
from hormesis.chaos.faults import Inject
from hormesis.gameday.explore.trials import Injection, Seen
from hormesis.gameday.results import Verdict

__all__ = ["Suspicion", "Wiring", "hides", "idle", "suspicion"]

_MORE = 1.25
"""An edge that carries so many times what it carries without faults is leant on; less may be chance."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Who calls whom.

    Args:
        edges: By the name of the edge: the process that calls, and the one (or the address) that is called.
        door: The process that the load knocks at.
        guards: By the process and the name of a policy in it: the edges whose calls go through that policy.
    """

    edges: Mapping[str, tuple[str, str]]
    door: str = ""
    guards: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)

    def touching(self, injection: Injection) -> list[str]:
        """Return the edges over which anybody would notice the injection."""
        if injection.where == "edge":
            return [injection.name]
        if isinstance(injection.fault, Inject):
            return list(self.guards.get((injection.name, injection.fault.at), ()))
        if injection.where == "process":
            return [name for name, ends in self.edges.items() if injection.name in ends]
        return []

    def callers(self, injection: Injection) -> set[str]:
        """Return the processes that call where it acts."""
        if injection.where == "edge":
            return {self.edges[injection.name][0]}
        if isinstance(injection.fault, Inject):
            return {injection.name}
        return {caller for caller, called in self.edges.values() if called == injection.name}


def idle(injection: Injection, seen: Seen, wiring: Wiring) -> bool:
    """Whether nothing passed where the injection would act."""
    touching = wiring.touching(injection)
    if injection.target == f"process {wiring.door}":
        return False  # the load comes in there, over no edge
    return bool(touching) and not any(seen.traffic.get(edge, 0.0) for edge in touching)


def hides(one: Injection, other: Injection, wiring: Wiring) -> bool:
    """Whether the first leaves nothing for the second to act on, or the two are the same fault twice.

    >>> from hormesis.chaos import Latency
    >>> wiring = Wiring({"payments": ("shop", "payments")}, "shop")
    >>> slow = Injection("edge", "payments", Latency("2s"))
    >>> hides(Injection("edge", "payments", BlackHole()), slow, wiring)
    True
    >>> hides(Injection("process", "payments", Pause()), slow, wiring)
    True
    """
    if one.target == other.target:
        same = one.kind == other.kind or one.fault == BlackHole()
        return same or one.dose().clashes_with(other.dose())
    if isinstance(one.fault, Pause) and other.where == "edge" and not isinstance(other.fault, Refuse):
        # A line to somebody who does not answer; whether it is slow as well, nobody finds out.
        return wiring.edges[other.name][1] == one.name
    return False


@dataclass(frozen=True, slots=True)
class Suspicion:
    """How likely it is that two faults fail together, on a scale of its own, and why it is thought so."""

    weight: float
    why: str


def suspicion(
    pair: tuple[Injection, Injection], alone: Mapping[Injection, Seen], control: Seen, wiring: Wiring
) -> Suspicion:
    """Say how suspicious a pair is, by what each did alone.

    Args:
        pair: The two.
        alone: What was seen under single faults.
        control: What was seen without any.
        wiring: Who calls whom.
    """
    clues: list[tuple[float, str]] = [(0.0, "not tried yet")]
    for one, other in (pair, pair[::-1]):
        if one in alone:
            clues += _leaning(one, other, alone[one], control, wiring)
    seen = [alone[each] for each in pair if each in alone]
    if len(seen) == 2:
        if all(each.verdict is Verdict.DEGRADED for each in seen):
            clues.append((2.0, "each costs full answers alone"))
        if routes := seen[0].hurt & seen[1].hurt:
            clues.append((1.0, f"both touch {', '.join(sorted(routes))}"))
    if wiring.callers(pair[0]) & wiring.callers(pair[1]):
        clues.append((1.0, "one process calls both"))
    return Suspicion(sum(weight for weight, _ in clues), max(clues)[1])


def _leaning(one: Injection, other: Injection, seen: Seen, control: Seen, wiring: Wiring) -> list[tuple[float, str]]:
    """Clues that the place of the second stands in for that of the first."""
    clues = []
    for edge in set(wiring.touching(other)) - set(wiring.touching(one)):
        now, before = seen.traffic.get(edge, 0.0), control.traffic.get(edge, 0.0)
        if now and not before:
            clues.append((4.0, f"edge {edge} is used only under {one}"))
        elif before and now / before >= _MORE:
            clues.append((3.0, f"edge {edge} carries {now / before:.1f} times as much under {one}"))
    return clues
