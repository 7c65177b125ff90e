"""Naming the fix: what contains the failure and costs nothing is named, and nothing else."""

from __future__ import annotations

from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st

from hormesis.chaos import BlackHole
from hormesis.gameday.explore.counterfactual import Counterfactual, Effect, try_changes
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial, answered, metered
from hormesis.gameday.results import Verdict

FAILURE = Trial((Injection("edge", "a", BlackHole()),))


def effects(answers: dict[str, tuple[bool, Seen]], **settings: object) -> Counterfactual:
    """Try changes, given for each (and for none) whether it contains the failure, and what is seen without a fault."""
    result = Counterfactual(FAILURE)

    def answer(trial: Trial) -> Seen:
        contains, without = answers[trial.change]
        if not trial.injections:
            return without
        return seen(Verdict.SURVIVED if contains else Verdict.FAILED)

    changes = [name for name in answers if name]
    answered(try_changes(result, changes, **settings), answer)  # type: ignore[arg-type]
    return result


def seen(verdict: Verdict = Verdict.SURVIVED, **more: float) -> Seen:
    traffic = {"a": more.pop("work", 100.0)}
    return Seen(verdict=verdict, seconds=10.0, traffic=traffic, **{"goodput": 1.0, "p99": 0.1, **more})  # type: ignore[arg-type]


def test_only_what_contains_and_costs_nothing_is_named() -> None:
    """Each way in which a change can disappoint has its own word."""
    result = effects(
        {
            "": (False, seen()),
            "useless": (False, seen()),
            "harmful": (True, seen(Verdict.FAILED)),
            "lossy": (True, seen(goodput=0.95)),
            "slow": (True, seen(p99=0.2)),
            "busy": (True, seen(work=150.0)),
            "good": (True, seen(p99=0.11)),
            "better": (True, seen(p99=0.09)),
        }
    )
    assert [(each.change, each.effect) for each in result.tried] == [
        ("useless", Effect.DOES_NOT),
        ("harmful", Effect.HARMFUL),
        ("lossy", Effect.AT_A_PRICE),
        ("slow", Effect.AT_A_PRICE),
        ("busy", Effect.AT_A_PRICE),
        ("good", Effect.CONTAINS),
        ("better", Effect.CONTAINS),
    ]
    assert [each.change for each in result.named] == ["better", "good"]
    why = {each.change: each.why for each in result.tried}
    assert why["lossy"] == "it costs 5.0 points of goodput without a fault"
    assert why["slow"] == "it adds 100 ms to the p99 without a fault"
    assert why["busy"] == "it makes 1.50 times as many calls without a fault"
    assert str(result.named[1].cost) == "goodput -0.0 points, p99 +10 ms, calls +0 %"


def test_nothing_is_named_where_the_system_does_not_hold_without_a_fault() -> None:
    """Then nobody can tell what a change costs."""
    result = effects({"": (False, seen(Verdict.FAILED)), "any": (True, seen())})
    assert [each.effect for each in result.tried] == [Effect.UNTRIED]


def test_out_of_time() -> None:
    """What there was no time for is told of, and not named."""
    result, budget = Counterfactual(FAILURE), Budget(60.0, 10.0)
    steps = try_changes(result, ["one", "other"], budget=budget)
    answered(metered(steps, budget), lambda trial: seen())
    assert [each.effect for each in result.tried] == [Effect.CONTAINS, Effect.UNTRIED]


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_hidden_fix_is_named(worlds: ModuleType, seed: int) -> None:
    """In a generated system, exactly the changes are named that mend its hidden pair and cost nothing."""
    world = worlds.generate(seed, calls=4, rules=1)
    pairs = [
        pair for pair in world.failing(world.catalogue())[1] if frozenset(e.signature for e in pair) in world.rules
    ]
    if not pairs or world.outcome([])[0] == worlds.FAILED:
        return
    rule = frozenset(each.signature for each in pairs[0])
    mended = worlds.World(**{**vars(world), "rules": []})
    if mended.outcome(pairs[0])[0] == worlds.FAILED:
        return  # its fallbacks fail there as well, and no change of one policy mends that
    world.fixes[rule] = {"cheap", "dear", "deadly"}
    world.prices = {"dear": 0.05, "deadly": 1.0}
    result = Counterfactual(Trial(pairs[0]))
    answered(try_changes(result, ["nothing", "dear", "cheap", "deadly"]), worlds.Answers(world))
    assert [each.change for each in result.named] == ["cheap"]
    effects = {each.change: each.effect for each in result.tried}
    assert effects == {
        "nothing": Effect.DOES_NOT,
        "dear": Effect.AT_A_PRICE,
        "cheap": Effect.CONTAINS,
        "deadly": Effect.DOES_NOT,
    }
