"""Controls: who is told what, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import BREAK, MEND, STEADY, Run, action, experiment, process

MODULE = """
from pathlib import Path

def told(*words):
    with Path("told").open("a") as file:
        print(*words, file=file)

def configure_control(configuration, secrets, experiment, word): told("configure", word)
def cleanup_control(): told("clean up")
def before_experiment_control(context, **more): told("before experiment", context["title"])
def after_experiment_control(context, state, **more): told("after experiment", state["status"])
def before_hypothesis_control(context, word, **more): told("before hypothesis", word)
def after_hypothesis_control(context, state, **more): told("after hypothesis", state["steady_state_met"])
def before_method_control(context, configuration, **more): told("before method", configuration["w"])
def after_method_control(context, state, **more): told("after method", len(state))
def before_rollback_control(context, **more): told("before rollback")
def after_rollback_control(context, state, **more): told("after rollback", len(state))
def before_activity_control(context, **more): told("before", context["name"])
def after_activity_control(context, state, **more): told("after", context["name"], state["status"])
"""
ENDING = """
class InterruptExecution(Exception): ...
InterruptExecution.__module__ = "chaoslib.exceptions"

def before_activity_control(context, **more):
    if context["name"] == "second":
        raise InterruptExecution("enough")
    raise RuntimeError("a control that fails")
"""


def control(module: str = "watching", **more: object) -> dict[str, object]:
    return {"name": module, "provider": {"type": "python", "module": module, "arguments": {"word": "${w}"}}, **more}


@pytest.fixture(autouse=True)
def modules(workplace: Path) -> None:
    """Modules of controls."""
    (workplace / "watching.py").write_text(MODULE)
    (workplace / "ending.py").write_text(ENDING)


def told() -> list[str]:
    return Path("told").read_text().splitlines()


def test_a_control_is_told_everything(run: Run) -> None:
    """In the order of chaostoolkit-lib 1.44, and of the look after the rollbacks, which is ours."""
    run(experiment([STEADY], method=[BREAK], rollbacks=[MEND], controls=[control()], configuration={"w": "word"}))
    steady = ["before hypothesis word", "before steady", "after steady succeeded", "after hypothesis True"]
    assert told() == [
        "configure word",
        "before experiment A test",
        *steady,
        "before method word",
        "before break",
        "after break succeeded",
        "after method 1",
        *steady,
        "before rollback",
        "before mend",
        "after mend succeeded",
        "after rollback 1",
        *steady,
        "after experiment completed",
        "clean up",
    ]


def test_a_control_may_be_for_some_activities_and_one_side_only(run: Run) -> None:
    """`scope`, `automatic` and `ref`."""
    watched = {**BREAK, "controls": [{"ref": "watching"}]}
    run(
        experiment(
            method=[watched, action("other", process("true"))],
            controls=[control(automatic=False, scope="after")],
            configuration={"w": "x"},
        )
    )
    assert told() == ["configure x", "after break succeeded", "after experiment completed", "clean up"]


def test_a_control_that_fails_stops_nothing_and_one_that_asks_for_it_ends_all(run: Run) -> None:
    """The rollbacks are played then; chaostoolkit-lib leaves them out."""
    other = action("second", process("touch", ["second"]))
    journal = run(
        experiment(method=[BREAK, other], rollbacks=[MEND], controls=[control("ending")], configuration={"w": "x"})
    )
    assert (journal.status, len(journal.run)) == ("interrupted", 1)
    assert not Path("second").exists()
    assert not Path("broken").exists()
