"""How many trials an exploration needs, on generated systems whose failing pairs are hidden in them.

A `World` is a random graph of services. Its requests call others in turn, some with something to fall back on. Some
edges don't stand some faults, and a few pairs of faults, each harmless alone, fail together: where a fallback's second
leg breaks with the first, and where a hidden rule says so. The world answers trials as a real system would, with noise
and at a price in seconds, and what really fails in it is known by trying everything without noise.

`python benchmarks/explore.py` compares the order of the search with exhaustive and with random order: on pairs that
share a caller and a manner of failing, and with `--random` on pairs of which nothing tells. Tests of the exploration
use the same worlds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hormesis.chaos import Bandwidth, BlackHole, Kill, Latency, Pause, Refuse, Reset
from hormesis.gameday.explore.pruning import Wiring
from hormesis.gameday.explore.search import Fate, Search
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Steps, Trial, answered, metered
from hormesis.gameday.results import Verdict

FULL, DEGRADED, FAILED = range(3)
EDGE_FAULTS = (BlackHole(), Latency("2s"), Refuse(), Reset(), Bandwidth("1KB/s"))
PROCESS_FAULTS = (Kill(), Pause())
TRIAL_SECONDS = 10.0
RESTART_SECONDS = 3.0

Active: TypeAlias = dict[str, dict[str, Injection]]
"""The injections that act, by target and kind."""


class Node:
    """What a request does at one place."""

    def run(self, calls: Calls) -> int:
        """Do it; returns how it ended."""
        raise NotImplementedError


@dataclass
class Call(Node):
    """Calls another service over an edge, which does something itself."""

    edge: str
    inner: Node | None = None

    def run(self, calls: Calls) -> int:
        """Do it."""
        if not calls.passes(self.edge):
            return FAILED
        return FULL if self.inner is None else self.inner.run(calls)


@dataclass
class InTurn(Node):
    """Does several things, all of which it needs."""

    parts: list[Node]

    def run(self, calls: Calls) -> int:
        """Do it."""
        worst = FULL
        for part in self.parts:
            worst = max(worst, part.run(calls))
            if worst == FAILED:
                break  # the rest is not asked for any more
        return worst


@dataclass
class FirstOf(Node):
    """Tries one thing, and another if that fails; the other may be an older copy, which asks nobody."""

    first: Node
    second: Node | None

    def run(self, calls: Calls) -> int:
        """Do it."""
        ended = self.first.run(calls)
        if ended != FAILED:
            return ended
        return DEGRADED if self.second is None else max(DEGRADED, self.second.run(calls))


@dataclass
class Calls:
    """The calls of one request under some injections: which edges they went over, and what came through."""

    world: World
    active: Active
    sent: dict[str, float] = field(default_factory=dict)

    def passes(self, edge: str) -> bool:
        """Make a call; returns whether its answer came."""
        world, at_edge = self.world, self.active.get(f"edge {edge}", {})
        callee = f"process {world.edges[edge][1]}"
        at_callee = self.active.get(callee, {})
        swallowed = "refuse" in at_edge or "black_hole" in at_edge
        self.sent[edge] = self.sent.get(edge, 0.0) + (0.0 if swallowed else 100.0)
        # Of several faults on one edge the one that lets least through is the one that is met; and on the line to
        # somebody who is frozen only a refusal is.
        kinds = next(({kind} for kind in ("refuse", "black_hole") if kind in at_edge), set(at_edge))
        if "pause" in at_callee:
            kinds &= {"refuse"}
        broken = kinds & world.breaks(f"edge {edge}", at_edge)
        return not broken and (swallowed or not set(at_callee) & world.breaks(callee, at_callee))


@dataclass
class World:
    """A generated system."""

    edges: dict[str, tuple[str, str]] = field(default_factory=dict)
    routes: dict[str, Node] = field(default_factory=dict)
    hurts: dict[str, set[str]] = field(default_factory=dict)
    rules: list[frozenset[tuple[str, str]]] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)
    """The latency from which on an edge is hurt by it."""
    dose_min: float = 0.0
    """How long a dose must last for a rule to matter."""
    fixes: dict[frozenset[tuple[str, str]], set[str]] = field(default_factory=dict)
    """Which changes of the policies mend a rule."""
    prices: dict[str, float] = field(default_factory=dict)
    """What a change costs without a fault, as a share of good answers; 1 makes the objectives fail."""

    @property
    def wiring(self) -> Wiring:
        """Who calls whom."""
        return Wiring(self.edges, "front")

    def catalogue(self) -> list[Injection]:
        """Every fault at every place, kind by kind."""
        processes = sorted({called for _, called in self.edges.values()})
        found = [Injection("edge", edge, fault) for fault in EDGE_FAULTS for edge in self.edges]
        return found + [Injection("process", name, fault) for fault in PROCESS_FAULTS for name in processes]

    def breaks(self, target: str, acting: dict[str, Injection]) -> set[str]:
        """The kinds of fault that break a call there, with those that are strong enough."""
        kinds = set(self.hurts.get(target, ()))
        latency = acting.get("latency")
        strength = getattr(latency.fault, "latency", 0.0) if latency is not None else 0.0
        return kinds - {"latency"} if strength < self.thresholds.get(target, 0.0) else kinds

    def outcome(self, injections: Sequence[Injection], change: str = "", dose: float = 6.0) -> tuple[int, Calls]:
        """How the worst of the routes ends, and what went over which edge."""
        worst, everything = self._routes(injections)
        signatures = frozenset(each.signature for each in injections)
        for rule in self.rules:
            mended = change in self.fixes.get(rule, ())
            if rule <= signatures and not mended and dose >= self.dose_min and self._meet(rule, injections):
                worst = FAILED
        return worst, everything

    def _routes(self, injections: Sequence[Injection]) -> tuple[int, Calls]:
        active: Active = {}
        for each in injections:
            active.setdefault(each.target, {})[each.kind] = each
        calls = Calls(self, active)
        return max(route.run(calls) for route in self.routes.values()), calls

    def _meet(self, rule: frozenset[tuple[str, str]], injections: Sequence[Injection]) -> bool:
        """Whether both faults of a rule meet something: each one's place is in use while the other one acts."""
        pair = [each for each in injections if each.signature in rule]
        for one, other in (pair, pair[::-1]):
            _, calls = self._routes([one])
            if not any(calls.sent.get(edge) for edge in self.wiring.touching(other)):
                return False
            latency = getattr(other.fault, "latency", None)
            if latency is not None and latency < self.thresholds.get(other.target, 0.0):
                return False
        return True

    def failing(self, catalogue: Sequence[Injection]) -> tuple[set[tuple[Injection, ...]], set[tuple[Injection, ...]]]:
        """The single faults that fail, and the pairs of others that do: by trying them all."""
        singles = {(each,) for each in catalogue if self.outcome([each])[0] == FAILED}
        harmless = [each for each in catalogue if (each,) not in singles]
        return singles, {pair for pair in itertools.combinations(harmless, 2) if self.outcome(pair)[0] == FAILED}


@dataclass
class Answers:
    """Answers trials from a world, with noise and at a price.

    Args:
        world: What it is asked of.
        wrong: How often a failure looks like none, or the other way round.
        unclear: How often it can't be told.
        seed: Of the noise.
    """

    world: World
    wrong: float = 0.0
    unclear: float = 0.0
    seed: int = 0
    asked: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def __call__(self, trial: Trial) -> Seen:
        """Answer a trial."""
        self.asked.append(trial)
        ended, calls = self.world.outcome(trial.injections, trial.change, trial.dose or 6.0)
        price = self.world.prices.get(trial.change, 0.0)
        ended = FAILED if price >= 1 else ended
        verdict = (Verdict.SURVIVED, Verdict.DEGRADED, Verdict.FAILED)[ended]
        luck = self._rng.random()
        if luck < self.unclear:
            verdict = Verdict.INCONCLUSIVE
        elif luck < self.unclear + self.wrong:
            verdict = Verdict.SURVIVED if ended == FAILED else Verdict.FAILED
        return Seen(
            verdict=verdict,
            seconds=TRIAL_SECONDS + RESTART_SECONDS * (ended == FAILED),
            traffic=dict(calls.sent),
            goodput=1.0 - price - 0.5 * (ended == FAILED),
            p99=0.05,
        )


def generate(seed: int, *, calls: int = 6, rules: int = 2, alike: bool = True) -> World:
    """Make a world: about so many calls, and so many hidden pairs on top of those that its fallbacks make.

    Args:
        seed: The same seed makes the same world.
        calls: How many edges, about.
        rules: How many pairs are hidden.
        alike: Whether these share a caller and a manner of failing, which the search looks for. If not, any two faults
            of edges fail together, which nothing tells of.
    """
    rng = random.Random(seed)
    world = World()
    while len(world.edges) < calls:
        world.routes[f"route {len(world.routes)}"] = _part(world, rng, "front", calls, depth=0)
    for target in [f"process {called}" for _, called in world.edges.values()]:
        world.hurts.setdefault(target, {"kill", "pause"} if rng.random() < 0.3 else set())
    hide = _hide_alike if alike else _hide_at_random
    hide(world, rng, rules)
    return world


def _part(world: World, rng: random.Random, caller: str, calls: int, *, depth: int) -> Node:
    luck = rng.random()
    if luck < 0.45 or depth >= 2 or len(world.edges) >= calls:
        return _call(world, rng, caller, calls, depth=depth, hurt=0.15)
    if luck < 0.65:
        first = _call(world, rng, caller, calls, depth=depth, hurt=0.9)
        second = None if rng.random() < 0.4 else _call(world, rng, caller, calls, depth=depth, hurt=0.9)
        return FirstOf(first, second)
    return InTurn([_part(world, rng, caller, calls, depth=depth + 1) for _ in range(rng.randint(2, 3))])


def _call(world: World, rng: random.Random, caller: str, calls: int, *, depth: int, hurt: float) -> Call:
    name = f"s{len(world.edges)}"
    world.edges[f"{caller}-{name}"] = (caller, name)
    kinds = [fault.__class__ for fault in EDGE_FAULTS]
    chosen = rng.sample(kinds, rng.randint(1, 4)) if rng.random() < hurt else []
    names = {Injection("edge", "x", fault).kind for fault in EDGE_FAULTS if fault.__class__ in chosen}
    world.hurts[f"edge {caller}-{name}"] = names
    goes_on = depth < 2 and len(world.edges) < calls and rng.random() < 0.4
    inner = _part(world, rng, name, calls, depth=depth + 1) if goes_on else None
    return Call(f"{caller}-{name}", inner)


def _hide_alike(world: World, rng: random.Random, count: int) -> None:
    """Pairs of edges that fail together: a pool, or a budget of retries, that two edges of a caller share.

    A pool runs full when both keep callers waiting, a budget is used up when both break.
    """
    harmless = _harmless_at_edges(world)
    edges = list(itertools.combinations(world.edges, 2))
    shared = [pair for pair in edges if len({world.edges[edge][0] for edge in pair}) == 1]
    for one, other in rng.sample(shared, min(count, len(shared))):
        kinds = rng.choice(({"latency", "black_hole", "bandwidth"}, {"refuse", "reset"}))
        there = [[each for each in harmless if each.name == edge and each.kind in kinds] for edge in (one, other)]
        world.rules += [frozenset([a.signature, b.signature]) for a, b in itertools.product(*there)]


def _hide_at_random(world: World, rng: random.Random, count: int) -> None:
    """Pairs of single faults at two edges, wherever they are and whatever they do."""
    pairs = itertools.combinations(_harmless_at_edges(world), 2)
    apart = [pair for pair in pairs if pair[0].name != pair[1].name]
    for one, other in rng.sample(apart, min(count, len(apart))):
        world.rules.append(frozenset([one.signature, other.signature]))


def _harmless_at_edges(world: World) -> list[Injection]:
    return [each for each in world.catalogue() if world.outcome([each])[0] != FAILED and each.where == "edge"]


def in_order(catalogue: Sequence[Injection], rng: random.Random | None) -> Iterator[tuple[Injection, ...]]:
    """Every single fault and every pair, in the order of the catalogue or shuffled."""
    everything = [*itertools.combinations(catalogue, 1), *itertools.combinations(catalogue, 2)]
    if rng is not None:
        rng.shuffle(everything)
    return iter(everything)


def explored(world: World, answers: Answers, *, seconds: float, confirm: int = 3) -> Search:
    """Explore a world to the end, or until the time is up."""
    budget = Budget(seconds, TRIAL_SECONDS)
    search = Search(world.catalogue(), wiring=world.wiring, control=answers(Trial()), budget=budget, confirm=confirm)
    steps: Steps[None] = metered(search.steps(), budget)
    answered(steps, answers)
    search.finish()
    return search


@dataclass
class Needed:
    """Trials that it took until every pair of places that fails was found once, and until the end."""

    places: int
    everything: int


def _places(pair: Sequence[Injection]) -> frozenset[str]:
    return frozenset(each.target for each in pair)


def needed_by_search(world: World) -> Needed:
    """Explore, with every answer believed at once."""
    answers = Answers(world)
    search = explored(world, answers, seconds=1e9, confirm=1)
    left = {_places(pair) for pair in world.failing(world.catalogue())[1]}
    places = 0
    tried = [record for record in search.records.values() if record.fate.tried]
    order = {trial.injections: number for number, trial in reversed(list(enumerate(answers.asked, 1)))}
    for record in tried:
        if record.fate is Fate.FOUND and _places(record.injections) in left and len(record.injections) == 2:
            left.discard(_places(record.injections))
            places = max(places, order[Trial(record.injections).injections])
    assert not left
    return Needed(places, len(answers.asked))


def needed_in_order(world: World, rng: random.Random | None) -> Needed:
    """Try everything."""
    pairs = world.failing(world.catalogue())[1]
    left = {_places(pair) for pair in pairs}
    places = number = 0
    for number, combination in enumerate(in_order(world.catalogue(), rng), 1):
        if left and len(combination) == 2 and combination in pairs:
            left.discard(_places(combination))
            places = number if not left else places
    return Needed(places, number)


def table(sizes: Sequence[int], worlds: int, *, alike: bool) -> Iterator[str]:
    """Compare the orders on so many worlds of each size: medians."""
    yield "| edges | combinations | | trials to the last pair of places | trials in all |"
    yield "|---|---|---|---|---|"
    for calls in sizes:
        generated = (generate(seed, calls=calls, alike=alike) for seed in range(worlds))
        chosen = [world for world in generated if world.failing(world.catalogue())[1]]
        size = statistics.median(len(list(in_order(world.catalogue(), None))) for world in chosen)
        for name, how in (
            ("in order", lambda world: needed_in_order(world, None)),
            ("shuffled", lambda world: needed_in_order(world, random.Random(1))),
            ("explored", needed_by_search),
        ):
            runs = [how(world) for world in chosen]
            places = statistics.median(run.places for run in runs)
            everything = statistics.median(run.everything for run in runs)
            yield f"| {calls} | {size:.0f} | {name} | {places:.0f} | {everything:.0f} |"


def main() -> None:
    """Print a table of the documentation."""
    parser = argparse.ArgumentParser(description="Compare the order of the search with others, on generated systems.")
    parser.add_argument("--random", action="store_true", help="hide pairs at random, of which nothing tells")
    parser.add_argument("--edges", type=int, nargs="+", default=[4, 6, 8, 12], help="sizes of systems")
    parser.add_argument("--systems", type=int, default=20, help="how many of each size (%(default)s)")
    options = parser.parse_args()
    for line in table(options.edges, options.systems, alike=not options.random):
        print(line, flush=True)


if __name__ == "__main__":
    main()
