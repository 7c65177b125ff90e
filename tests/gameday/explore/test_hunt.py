"""The whole hunt on generated systems: what is found is made small, and what mends it is named."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hormesis.chaos import BlackHole, Latency
from hormesis.gameday.explore.hunt import Finding, Hunt, Replay, Stage
from hormesis.gameday.explore.pruning import Wiring
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial, answered
from hormesis.gameday.results import Verdict

A = Injection("edge", "a", BlackHole())
B = Injection("edge", "b", Latency(2.0))
WIRING = Wiring({"a": ("shop", "stock"), "b": ("shop", "till")}, "shop")


def seen(fails: bool = False) -> Seen:
    verdict = Verdict.FAILED if fails else Verdict.SURVIVED
    return Seen(verdict=verdict, seconds=10.0, traffic={"a": 1.0, "b": 1.0})


def hunt(**given: object) -> Hunt:
    settings: dict[str, object] = {"wiring": WIRING, "budget": Budget(1e6, 10.0), "length": 4.0, "length_min": 3.0}
    return Hunt(catalogue=lambda control: [A, B], **{**settings, **given})  # type: ignore[arg-type]


def together(trial: Trial) -> Seen:
    """Both at once fail, unless the change called "mended" is made."""
    return seen(len(trial.injections) == 2 and trial.change != "mended")


def test_from_the_pair_to_its_fix() -> None:
    """A pair is found, made mild and short, told of, and mended."""
    told: list[Finding] = []
    whole = hunt(changes_for=lambda trial, seen, helped: ["useless", "mended"], found=told.append)
    answered(whole.steps(), together)
    (finding,) = whole.findings
    assert told == [finding]
    assert finding.injections == (A, B)
    assert [each.signature for each in finding.least.injections] == [A.signature, B.signature]
    assert finding.least.dose == 3.0
    assert finding.fixes is not None
    assert [each.change for each in finding.fixes.named] == ["mended"]
    assert whole.stage is Stage.OVER


def test_the_corpus_comes_first() -> None:
    """What is known is tried before anything else, and not searched for again; what holds now is said."""
    asked: list[Trial] = []

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return together(trial)

    milder = Trial((A, Injection("edge", "b", Latency(0.5))))
    whole = hunt(corpus=[("pair.toml", milder), ("old.toml", Trial((A,)))])
    answered(whole.steps(), answer)
    assert asked[:4] == [Trial(), milder, milder, Trial((A,))]
    assert [each.outcome for each in whole.replayed] == [Replay.FAILS, Replay.HOLDS]
    (finding,) = whole.findings
    assert (finding.known, finding.least) == ("pair.toml", milder)
    assert {record.why for record in whole.records if len(record.injections) == 2} == {"known from the corpus"}


def test_a_system_that_does_not_hold_without_a_fault() -> None:
    """Then nothing can be found out, and nothing is tried."""
    asked: list[Trial] = []

    def answer(trial: Trial) -> Seen:
        asked.append(trial)
        return seen(True)

    whole = hunt()
    answered(whole.steps(), answer)
    assert not whole.steady
    assert asked == [Trial()] * 5
    assert not whole.findings


def test_nothing_is_made_of_a_failure_of_its_own() -> None:
    """A system that fails without a fault while a failure is shrunk: the failure stays as it was found."""
    told: list[Finding] = []
    whole = hunt(changes_for=lambda trial, seen, helped: ["mended"], found=told.append)

    def answer(trial: Trial) -> Seen:
        return seen(len(trial.injections) == 2 or whole.stage is Stage.SHRINKING)

    answered(whole.steps(), answer)
    (finding,) = whole.findings
    assert finding.least == Trial((A, B))
    assert finding.fixes is None
    assert not told
    assert not whole.steady


@pytest.mark.parametrize(
    ("answers", "survived", "unclear"),
    [("SSSS", True, 0), ("DDDD", True, 0), ("S?S?S", False, 1), ("S?SSS", True, 0), ("SFFFFF", False, 1)],
)
def test_what_is_no_success(answers: str, survived: bool, unclear: int) -> None:
    """All that was tried must have been seen to hold; what can't be told has not been."""
    letters = {"S": Verdict.SURVIVED, "D": Verdict.DEGRADED, "F": Verdict.FAILED, "?": Verdict.INCONCLUSIVE}
    script = itertools.chain(answers, itertools.cycle("S"))

    def answer(trial: Trial) -> Seen:
        return Seen(verdict=letters[next(script)], seconds=10.0, traffic={"a": 1.0, "b": 1.0})

    whole = hunt()
    answered(whole.steps(), answer)
    assert (whole.survived, whole.unclear) == (survived, unclear)


def test_no_time_is_no_success() -> None:
    """Where nothing was tried, nothing was shown."""
    whole = hunt(budget=Budget(12.0, 10.0))
    answered(whole.steps(), together)
    assert (whole.steady, whole.tried, whole.survived) == (True, 0, False)


def test_broken_off_anywhere() -> None:
    """Whenever it is broken off, what was found by then is there."""
    for answers in range(100):
        whole = hunt(changes_for=lambda trial, seen, helped: ["mended"])
        steps = whole.steps()
        trial = next(steps)
        try:
            for _ in range(answers):
                trial = steps.send(together(trial))
        except StopIteration:
            break
        steps.close()
        assert len(whole.records) in (0, 3)
        assert len(whole.findings) <= 1
    else:
        raise AssertionError("it never came to its end")


@given(st.integers(0, 10_000), st.floats(100, 3_000))
@settings(max_examples=20)
def test_the_time_is_kept(worlds: ModuleType, seed: int, within: float) -> None:
    """However much there is to find, the time is exceeded by a few trials at most; the same seed finds the same."""

    def run() -> tuple[list[str], float]:
        world = worlds.generate(seed, calls=4)
        budget = Budget(within, 10.0)
        whole = Hunt(
            catalogue=lambda control: world.catalogue(),
            wiring=world.wiring,
            budget=budget,
            length=6.0,
            length_min=2.0,
            changes_for=lambda trial, seen, helped: ["one", "other"],
        )
        answered(whole.steps(), worlds.Answers(world))
        return [str(finding.least) for finding in whole.findings], budget.spent

    found, spent = run()
    assert spent <= within + 10 * 13.0
    assert run() == (found, spent)
