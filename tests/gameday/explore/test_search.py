"""Exploring systems whose failing pairs are hidden: all of them are found, none is invented, and the counts add up."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hormesis.chaos import Bandwidth, BlackHole, Kill, Latency, Pause, Refuse
from hormesis.chaos.faults import Inject
from hormesis.gameday.explore.pruning import Wiring, hides, idle, suspicion
from hormesis.gameday.explore.search import Fate, Search, counts
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial, answered, metered
from hormesis.gameday.results import Verdict

SEEDS = st.integers(0, 10_000)
EDGES = {"a": ("shop", "stock"), "b": ("shop", "till"), "c": ("till", "bank")}
WIRING = Wiring(EDGES, "shop", {("shop", "a"): ["a"], ("shop", "b"): ["b"]})
PLENTY = 1e9


def at(name: str, fault: object = None, where: str = "edge") -> Injection:
    return Injection(where, name, fault or BlackHole())  # type: ignore[arg-type]


def seen(verdict: Verdict = Verdict.SURVIVED, **traffic: float) -> Seen:
    return Seen(verdict=verdict, seconds=10.0, traffic=traffic)


@given(SEEDS)
@settings(max_examples=20)
def test_everything_hidden_is_found_and_nothing_is_invented(worlds: ModuleType, seed: int) -> None:
    """What is found is exactly what fails when everything is tried; so pruning took nothing away that fails."""
    world = worlds.generate(seed, calls=4)
    catalogue = world.catalogue()
    singles, pairs = world.failing(catalogue)
    found = {record.injections for record in worlds.explored(world, worlds.Answers(world), seconds=PLENTY).found}
    assert found == singles | pairs


@given(SEEDS, st.floats(0, 3_000))
@settings(max_examples=20)
def test_counts_add_up_and_the_time_is_kept(worlds: ModuleType, seed: int, seconds: float) -> None:
    """Every single fault and every pair is recorded once, and no trial is begun that does not fit in."""
    world = worlds.generate(seed, calls=4)
    answers = worlds.Answers(world)
    search = worlds.explored(world, answers, seconds=seconds)
    size = len(world.catalogue())
    fates = dict(counts(search.finish()))
    assert len(search.records) == size + size * (size - 1) // 2
    assert sum(fates[fate.value] for fate in Fate) == len(search.records)
    assert sum(count for what, count in fates.items() if ": " in what) == fates["pruned"]
    # Each finding may take its confirmation and a control beyond the time.
    assert sum(13.0 for _ in answers.asked) <= seconds + 13.0 * (2 + 4 * len(search.found)) + 3.0 * len(answers.asked)


@given(SEEDS)
@settings(max_examples=15)
def test_noise_is_not_believed(worlds: ModuleType, seed: int) -> None:
    """With one answer in fifty wrong and one in twenty unclear, nothing is found that does not fail."""
    world = worlds.generate(seed, calls=4)
    singles, pairs = world.failing(world.catalogue())
    answers = worlds.Answers(world, wrong=0.02, unclear=0.05, seed=seed)
    search = worlds.explored(world, answers, seconds=PLENTY)
    found = {record.injections for record in search.found}
    harmless = {each for each in found - singles - pairs if not any((one,) in singles for one in each)}
    assert not harmless
    missed = (singles | pairs) - found
    # By chance none of the controls in a row may have held. Then the search has to end, and says so.
    assert search.drifted or len(missed) <= max(4, len(singles | pairs) // 4)
    again = worlds.explored(world, worlds.Answers(world, wrong=0.02, unclear=0.05, seed=seed), seconds=PLENTY)
    assert {record.injections for record in again.found} == found, "the same noise, the same findings"


def test_noise_seldom_ends_a_search(worlds: ModuleType) -> None:
    """As often as controls are wrong or unclear here, three in a row are a rare thing."""
    drifted = 0
    for seed in range(40):
        world = worlds.generate(seed, calls=4)
        answers = worlds.Answers(world, wrong=0.02, unclear=0.05, seed=seed)
        drifted += worlds.explored(world, answers, seconds=PLENTY).drifted
    assert drifted <= 4


def test_the_suspicious_come_first(worlds: ModuleType) -> None:
    """In systems of eight edges, the last failing pair of places is found in fewer trials than by luck or in order."""
    import random

    chosen = [world for seed in range(8) if (world := worlds.generate(seed, calls=8)).failing(world.catalogue())[1]]
    ours = sum(worlds.needed_by_search(world).places for world in chosen)
    in_order = sum(worlds.needed_in_order(world, None).places for world in chosen)
    by_luck = sum(worlds.needed_in_order(world, random.Random(1)).places for world in chosen)
    assert ours < by_luck < in_order


def explore(catalogue: list[Injection], answer: object, **settings: object) -> Search:
    budget = Budget(PLENTY, 10.0)
    given: dict[str, object] = {"wiring": WIRING, "control": seen(a=100.0, b=100.0), "budget": budget, **settings}
    search = Search(catalogue, **given)  # type: ignore[arg-type]
    answered(metered(search.steps(), given["budget"]), answer)  # type: ignore[arg-type]
    search.finish()
    return search


def test_nothing_passes() -> None:
    """A fault where nothing passes is pruned alone, and tried with one under which something does."""

    def answer(trial: Trial) -> Seen:
        targets = {each.target for each in trial.injections}
        if targets == {"edge a", "edge c"}:
            return seen(Verdict.FAILED)
        return seen(a=0.0 if "edge b" in targets else 100.0, c=100.0 if "edge a" in targets else 0.0, b=100.0)

    a, b, c = at("a"), at("b"), at("c")
    records = explore([a, b, c], answer).records
    assert (records[c,].fate, records[c,].why) == (Fate.PRUNED, "nothing passes there")
    assert records[a, c].fate is Fate.FOUND
    assert records[a, c].suspected == "edge c is used only under edge a: black hole"
    assert records[a, b].why == records[b, c].why == "nothing passes there under the other"


def test_what_fails_alone_is_not_tried_together() -> None:
    """A pair with a fault that fails alone says nothing new."""
    a, b = at("a"), at("b")
    search = explore(
        [a, b], lambda trial: seen(Verdict.FAILED if a in trial.injections else Verdict.SURVIVED, a=1, b=1)
    )
    assert search.records[a, b].why == "one fails alone"
    assert [record.injections for record in search.found] == [(a,)]
    assert search.records[a,].runs == 3


@pytest.mark.parametrize(
    ("answers", "fate", "why"),
    [
        ("FSS", Fate.INCONCLUSIVE, "it failed in 1 of 3 runs only"),
        ("FFSFFS", Fate.FOUND, ""),
        ("FF??FS", Fate.FOUND, ""),
        ("F?S??", Fate.INCONCLUSIVE, "it failed in 1 of 5 runs only"),
        ("FFFFFF", Fate.INCONCLUSIVE, "right after it, the objectives were missed without a fault too"),
        ("FSFSFSFSFSFS", Fate.INCONCLUSIVE, "it failed in 6 of 12 runs only"),
        ("?S", Fate.SURVIVED, ""),
        ("??", Fate.INCONCLUSIVE, ""),
        ("D", Fate.DEGRADED, ""),
    ],
)
def test_a_failure_is_asked_for_again(answers: str, fate: Fate, why: str) -> None:
    """A failure that does not come up again, or comes up without a fault, is no finding; nor is what can't be told."""
    letters = {"F": Verdict.FAILED, "S": Verdict.SURVIVED, "?": Verdict.INCONCLUSIVE, "D": Verdict.DEGRADED}
    script = iter(answers)
    record = explore([at("a")], lambda trial: seen(letters[next(script)], a=1)).records[at("a"),]
    assert (record.fate, record.why) == (fate, why)


def test_controls_are_spread_among_the_trials() -> None:
    """After each ten trials there is one without a fault; a single one that fails is asked for again."""
    asked: list[Trial] = []
    verdicts = itertools.chain([Verdict.SURVIVED, Verdict.FAILED], itertools.repeat(Verdict.SURVIVED))

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return seen(Verdict.SURVIVED if trial.injections else next(verdicts), a=1, b=1, c=1)

    faults = (BlackHole(), Latency("1s"), Refuse(), Bandwidth("1KB/s"))
    search = explore([at(edge, fault) for edge in "abc" for fault in faults], answer)
    controls = [number for number, trial in enumerate(asked) if not trial.injections]
    assert controls[:4] == [10, 21, 22, 33]
    assert not search.drifted


def test_a_system_that_drifts_ends_the_search() -> None:
    """Once it fails without a fault too, nothing more is tried, and what was left says why."""
    asked: list[Trial] = []

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return seen(Verdict.SURVIVED if trial.injections else Verdict.FAILED, a=1, b=1, c=1)

    faults = (BlackHole(), Latency("1s"), Refuse(), Bandwidth("1KB/s"))
    search = explore([at(edge, fault) for edge in "abc" for fault in faults], answer)
    assert search.drifted
    assert asked[10:] == [Trial()] * 3
    left_out = {record.why for record in search.records.values() if record.fate is Fate.LEFT_OUT}
    assert left_out == {"the objectives were missed without a fault too"}


def test_what_the_corpus_knows_is_not_searched() -> None:
    """Neither a known failure nor a pair that holds it is tried again."""
    a, b, c = at("a"), at("b"), at("a", Latency("2s"))
    asked: list[Trial] = []

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return seen(a=1, b=1)

    known = [frozenset([a.signature]), frozenset([b.signature, c.signature])]
    records = explore([a, b, c], answer, known=known).records
    assert [records[a,].why, records[a, b].why, records[b, c].why] == ["known from the corpus"] * 3
    assert all(a not in trial.injections for trial in asked)


def test_beyond_the_blast_radius() -> None:
    """What may not act is not tried."""
    a, b = at("a"), at("b")
    asked: list[Trial] = []

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return seen(a=1, b=1)

    records = explore([a, b], answer, allowed=lambda combination: len(combination) < 2).records
    assert (records[a, b].fate, records[a, b].why) == (Fate.PRUNED, "beyond the blast radius")
    assert asked == [Trial((a,)), Trial((b,))]


def test_interrupted() -> None:
    """Whenever an exploration is cut off, every combination still has its record."""
    catalogue = [at("a"), at("b"), at("c"), at("a", Latency("2s"))]
    for answers in range(9):
        search = Search(catalogue, wiring=WIRING, control=seen(a=1, b=1, c=1), budget=Budget(PLENTY, 1.0))
        steps = search.steps()
        next(steps)
        for _ in range(answers):
            steps.send(seen(a=1, b=1, c=1))
        steps.close()
        search.finish()
        assert len(search.records) == 4 + 6
        tried = sum(record.fate.tried for record in search.records.values())
        assert tried == answers
        assert set(dict(counts(search.finish()))) >= {"survived", "left out"}


def test_without_pairs_or_without_singles() -> None:
    """Either can be left out."""
    a, b = at("a"), at("b")
    assert set(explore([a, b], lambda trial: seen(a=1, b=1), pairs=False).records) == {(a,), (b,)}
    assert set(explore([a, b], lambda trial: seen(a=1, b=1), singles=False).records) == {(a, b)}


def test_a_reserve_is_left_for_findings() -> None:
    """The more is found, the more time is left for what comes after."""
    catalogue = [at(edge, fault) for edge in "ab" for fault in (BlackHole(), Latency("1s"), Refuse())]
    budget = Budget(150.0, 10.0)
    answers = itertools.chain([Verdict.FAILED] * 3, itertools.repeat(Verdict.SURVIVED))
    explore(catalogue, lambda trial: seen(next(answers), a=1, b=1), budget=budget, reserve=lambda found: 5 * found)
    assert budget.spent == 100.0


def test_one_fault_hides_another() -> None:
    """Behind a black hole, a closed port or a frozen process, other faults of the same line make no difference."""
    slow, thin, closed = at("b", Latency("2s")), at("b", Bandwidth("1KB/s")), at("b", Refuse())
    frozen, dead = at("till", Pause(), "process"), at("till", Kill(), "process")
    assert hides(at("b"), slow, WIRING)
    assert hides(closed, slow, WIRING)
    assert hides(frozen, slow, WIRING)
    assert hides(slow, at("b", Latency("1s")), WIRING)
    assert hides(dead, frozen, WIRING)
    assert not hides(slow, thin, WIRING)
    assert not hides(at("b", BlackHole(share=0.5)), slow, WIRING)
    assert not hides(frozen, closed, WIRING)
    assert not hides(frozen, at("a", Latency("2s")), WIRING)
    assert not hides(dead, slow, WIRING)


def test_idle() -> None:
    """A process is idle when nothing passes on any of its edges; the one the load knocks at never is."""
    nothing = seen()
    assert idle(at("a"), nothing, WIRING)
    assert idle(at("till", Kill(), "process"), nothing, WIRING)
    assert not idle(at("till", Kill(), "process"), seen(c=1.0), WIRING)
    assert not idle(at("shop", Kill(), "process"), nothing, WIRING)
    assert not idle(at("batch", Kill(), "process"), nothing, WIRING), "what has no edges may work all the same"
    assert idle(INSIDE_A, seen(b=1.0), WIRING)
    assert not idle(INSIDE_A, seen(a=1.0), WIRING)


INSIDE_A, INSIDE_B = (at("shop", Inject({"error": "error"}, at=name), "process") for name in "ab")


def test_places_inside_of_a_process() -> None:
    """Two policies of a process are two places; each is leant on, and idle, with the edge that its calls go over."""
    late = at("shop", Inject({"latency": 1}, at="a"), "process")
    assert {each.signature for each in (INSIDE_A, INSIDE_B, late)} == {
        ("process shop at a", "inject_error"),
        ("process shop at b", "inject_error"),
        ("process shop at a", "inject_latency"),
    }
    assert not hides(INSIDE_A, INSIDE_B, WIRING)
    assert hides(INSIDE_A, at("shop", Inject({"error": "timeout"}, at="a"), "process"), WIRING)
    assert hides(at("shop", Pause(), "process"), at("a", Latency(1)), Wiring(EDGES | {"a": ("x", "shop")}))
    control, plain = seen(a=100.0, b=100.0), seen(a=0.0, b=230.0)
    leaning = suspicion((INSIDE_A, INSIDE_B), {INSIDE_A: plain, INSIDE_B: control}, control, WIRING)
    assert leaning.why.startswith("edge b carries 2.3 times as much under process shop at a: injects error")


def test_suspicion_grows_with_clues() -> None:
    """Leaning on the other's place weighs more than degraded answers, and those more than one caller."""
    a, b, c = at("a"), at("b"), at("c")
    control = seen(a=100.0, b=100.0, c=100.0)
    plain = seen(a=100.0, b=100.0, c=100.0)
    degraded = seen(Verdict.DEGRADED, a=100.0, b=100.0, c=100.0)
    assert suspicion((b, c), {b: plain, c: plain}, control, WIRING).why == "not tried yet"
    together = suspicion((a, b), {a: plain, b: plain}, control, WIRING)
    assert together.why == "one process calls both"
    costly = suspicion((a, b), {a: degraded, b: degraded}, control, WIRING)
    assert costly.why == "each costs full answers alone"
    leaning = suspicion((a, b), {a: seen(a=0.0, b=230.0), b: plain}, control, WIRING)
    assert leaning.why == "edge b carries 2.3 times as much under edge a: black hole"
    assert together.weight < costly.weight < leaning.weight
