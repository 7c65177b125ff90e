"""Shrinking: what comes out is the least that fails, has been seen to fail, and does not depend on luck."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.chaos import Bandwidth, BlackHole, Kill, Latency, Reset, Spike, Throttle
from hormesis.chaos.faults import Inject
from hormesis.gameday.explore.milder import knobs
from hormesis.gameday.explore.shrink import Shrunk, shrink
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial, answered, metered
from hormesis.gameday.results import Verdict

PLACES = [Injection("edge", f"e{number}", BlackHole()) for number in range(12)]


def seen(fails: object) -> Seen:
    return Seen(verdict=Verdict.FAILED if fails else Verdict.SURVIVED, seconds=10.0)


def run(trial: Trial, fails: object, **settings: object) -> tuple[Shrunk, list[Trial]]:
    asked: list[Trial] = []

    def answer(each: Trial) -> Seen:
        asked.append(each)
        return seen(fails(each))  # type: ignore[operator]

    given: dict[str, object] = {"length": 6.0, "length_min": 6.0, "repeats": 1, **settings}
    return answered(shrink(trial, **given), answer), asked  # type: ignore[arg-type]


@given(st.sets(st.sampled_from(range(12)), min_size=1), st.data())
def test_fewest_faults(needed: set[int], data: st.DataObject) -> None:
    """Of many faults, exactly those remain that it takes."""
    more = data.draw(st.sets(st.sampled_from(range(12))))
    whole = Trial(tuple(PLACES[number] for number in needed | more))
    culprits = {PLACES[number] for number in needed}
    shrunk, asked = run(whole, lambda trial: culprits <= set(trial.injections))
    if any(PLACES[number].fault.share < 1 for number in needed):
        pytest.fail("the share was not to shrink")
    assert {each.signature for each in shrunk.trial.injections} == {each.signature for each in culprits}
    assert shrunk.runs == len(asked) <= 4 * 12 * 12


@given(st.floats(0.02, 2.0), st.floats(0.5, 6.0))
def test_mildest_and_shortest(threshold: float, least: float) -> None:
    """Latency and length end within half of where the failure begins."""
    slow, gone = Injection("edge", "a", Latency(2.0)), Injection("process", "b", Kill())

    def fails(trial: Trial) -> bool:
        latency = next((each.fault.latency for each in trial.injections if each.kind == "latency"), 0.0)
        together = len(trial.injections) == 2
        return together and float(latency) >= threshold and (trial.dose is None or trial.dose >= least)

    shrunk, _ = run(Trial((slow, gone)), fails, length_min=0.5)
    latency = next(each.fault.latency for each in shrunk.trial.injections if each.kind == "latency")
    assert threshold <= latency <= max(1.55 * threshold, 0.02)
    length = 6.0 if shrunk.trial.dose is None else shrunk.trial.dose
    assert least <= length <= max(1.55 * least, 0.5)


@pytest.mark.parametrize(
    ("fault", "field", "fails_to", "milder"),
    [
        (Reset(), "share", 0.2, False),
        (Bandwidth("1KB/s"), "bandwidth", 50_000.0, True),
        (Throttle(0.05), "throttle", 0.4, True),
        (Spike(20), "spike", 3.0, False),
        (Inject({"latency": 4.0, "share": 1.0}), "latency", 0.3, False),
        (Inject({"error": "error"}), "share", 0.2, False),
    ],
)
def test_every_kind_of_knob(fault: object, field: str, fails_to: float, milder: bool) -> None:
    """A share shrinks, a bandwidth and a throttle grow, a factor comes down towards one."""
    injected = isinstance(fault, Inject)
    where = "process" if injected else {"bandwidth": "edge", "share": "edge", "throttle": "process"}.get(field, "load")

    def value_of(trial: Trial) -> float:
        found = trial.injections[0].fault
        return float(getattr(found.injection if isinstance(found, Inject) else found, field))

    def fails(trial: Trial) -> bool:
        value = value_of(trial)
        return bool(value <= fails_to if milder else value >= fails_to)

    shrunk, _ = run(Trial((Injection(where, "x" * (where != "load"), fault),)), fails)  # type: ignore[arg-type]
    value = value_of(shrunk.trial)
    assert fails(shrunk.trial)
    assert 1 / 1.6 <= value / fails_to <= 1.6


@given(st.integers(0, 10_000))
def test_noise_never_makes_it_too_small(seed: int) -> None:
    """Whatever came out failed as often in a row as was asked for; without noise it is always the least."""
    rng = random.Random(seed)
    culprits = set(PLACES[:2])
    tried: dict[Trial, list[bool]] = {}

    def fails(trial: Trial) -> bool:
        result = (culprits <= set(trial.injections)) is (rng.random() > 0.1)
        tried.setdefault(trial, []).append(result)
        return result

    shrunk, _ = run(Trial(tuple(PLACES[:5])), fails, repeats=3)
    if shrunk.steps:
        assert tried[shrunk.trial][-3:] == [True] * 3


def test_what_is_known_to_hold_is_not_asked() -> None:
    """A pair whose members survived alone is the least at once."""
    pair = Trial((Injection("process", "a", Kill()), Injection("process", "b", Kill())))
    shrunk, asked = run(pair, lambda trial: False, holds=[frozenset([each]) for each in pair.injections])
    assert (shrunk.trial, shrunk.runs, asked) == (pair, 0, [])
    assert shrunk.seen is None


def test_out_of_time() -> None:
    """When the time is up, it stays as small as it is."""
    budget = Budget(100.0, 10.0)
    steps = shrink(Trial(tuple(PLACES)), length=6.0, length_min=1.0, budget=budget, repeats=1)
    shrunk = answered(metered(steps, budget), lambda trial: seen(PLACES[0] in trial.injections))
    assert budget.spent <= 100.0
    assert 1 <= len(shrunk.trial.injections) < 12


def test_steps_are_told() -> None:
    """What was taken away can be read."""
    slow, gone = Injection("edge", "a", Latency(2.0)), Injection("process", "b", Kill())
    shrunk, _ = run(Trial((slow, gone)), lambda trial: "latency" in str(trial) or "a" in str(trial))
    assert shrunk.steps[0] == "without process b: killed"
    assert shrunk.steps[1].startswith("edge a: latency ")


def test_knobs() -> None:
    """Faults that are there or not have none; each other one is turned towards no fault."""
    assert not list(knobs(Kill()))
    assert [knob.field for knob in knobs(Latency("2s"))] == ["latency", "share"]
    assert not list(knobs(Latency("5ms", share=0.01)))
