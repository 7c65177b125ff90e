"""The course of an experiment: verdicts, rollbacks, interruptions.

What a test calls "as there" is what chaostoolkit-lib 1.44 does with the same experiment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.chaostoolkit.runner import Experiment, Settings

from .conftest import BREAK, MEND, STEADY, UNBROKEN, Run, action, experiment, probe, process, python

BROKEN = Path("broken")


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # there is no event to wait for
        await asyncio.sleep(0.01)


def statuses(runs: list[dict[str, Any]]) -> list[str]:
    return [run["status"] for run in runs]


def test_a_steady_system_is_held(run: Run) -> None:
    """As there: completed, not deviated, everything in the journal."""
    journal = run(experiment([STEADY], method=[action("nothing", process("true"))], rollbacks=[MEND | {"name": "m"}]))
    table = journal.table
    assert (table["status"], table["deviated"]) == ("completed", False)
    assert table["steady_states"]["before"]["steady_state_met"]
    assert table["steady_states"]["after"]["steady_state_met"]
    ran = table["run"][0]
    assert (ran["status"], ran["activity"]["name"]) == ("succeeded", "nothing")
    assert ran["output"] == {"status": 0, "stdout": "", "stderr": ""}
    assert ran["end"] >= ran["start"] > table["start"]
    assert table["end"] >= ran["end"]
    assert table["duration"] > 0
    assert statuses(table["rollbacks"]) == ["succeeded"]  # a process that ends with another status has run


def test_a_deviation_is_told_and_rolled_back(run: Run) -> None:
    """As there: completed but deviated; ours sees that the rollbacks restored the system."""
    journal = run(experiment([UNBROKEN], method=[BREAK], rollbacks=[MEND]))
    assert (journal.status, journal.deviated, journal.table["held"]) == ("completed", True, False)
    assert not journal.steady_states["after"]["steady_state_met"]
    assert journal.steady_states["restored"]["steady_state_met"]
    assert not BROKEN.exists()


def test_rollbacks_that_restore_nothing_are_no_success(run: Run) -> None:
    """The steady state is verified after them, which it is not there."""
    whole = experiment([UNBROKEN], method=[], rollbacks=[BREAK])
    journal = run(whole)
    assert (journal.status, journal.deviated, journal.table["held"]) == ("completed", False, False)


@pytest.mark.parametrize(
    "gate", [probe("p", process("false"), tolerance=0), probe("p", python("fail"), tolerance=0)], ids=["out", "failed"]
)
def test_nothing_is_done_to_a_system_that_is_not_steady(run: Run, gate: dict[str, Any]) -> None:
    """Failed, and nothing to roll back; there, the first of these ends as completed with exit status 0."""
    journal = run(experiment([gate], method=[BREAK], rollbacks=[MEND]))
    assert (journal.status, journal.deviated, journal.table["held"]) == ("failed", False, False)
    assert (journal.run, journal.rollbacks) == ([], [])
    assert not BROKEN.exists()


def test_a_probe_that_times_out_is_rolled_back(run: Run) -> None:
    """There, the fault stays in place."""
    hanging = probe("hangs", process("sh", ["-c", "[ -e broken ] && sleep 9; exit 0"], timeout=0.3), tolerance=0)
    journal = run(experiment([hanging], method=[BREAK], rollbacks=[MEND]))
    assert (journal.status, journal.deviated) == ("failed", True)
    assert "took too long" in journal.steady_states["after"]["probes"][0]["exception"][-1]
    assert not BROKEN.exists()


@pytest.mark.parametrize("provider", [python("slow", seconds=9), python("stubborn"), process("sleep", ["9"])])
def test_a_timeout_always_holds(run: Run, provider: dict[str, Any]) -> None:
    """Of Python functions too, where it has no effect there, and even of one that catches everything."""
    began = time.monotonic()
    journal = run(experiment(method=[action("slow", {**provider, "timeout": 0.2})]))
    assert time.monotonic() - began < 4
    assert statuses(journal.run) == ["failed"]
    assert journal.status == "completed"


def test_a_failed_action_does_not_end_the_method(run: Run) -> None:
    """As there."""
    journal = run(experiment([STEADY], method=[action("a", python("fail")), BREAK], rollbacks=[MEND]))
    assert statuses(journal.run) == ["failed", "succeeded"]
    assert "RuntimeError: boom" in "".join(journal.run[0]["exception"])
    assert (journal.status, journal.deviated, journal.table["held"]) == ("completed", False, True)


def test_a_failed_rollback_keeps_no_other_from_being_played(run: Run) -> None:
    """As there; but a system that may not be as it was is no success."""
    journal = run(experiment(method=[BREAK], rollbacks=[action("r", python("fail")), MEND]))
    assert statuses(journal.rollbacks) == ["failed", "succeeded"]
    assert (journal.status, journal.table["held"]) == ("completed", False)


@pytest.mark.parametrize(
    "running",
    [python("slow", seconds=20), python("stubborn"), process("sleep", ["20"])],
    ids=["function", "stubborn function", "process"],
)
def test_an_interruption_cuts_off_what_runs_and_rolls_back(run: Run, running: dict[str, Any]) -> None:
    """There, the fault stays in place, or the interruption is taken for a failed action."""

    async def interrupt(experiment: Experiment) -> None:
        await until(BROKEN.exists)
        await asyncio.sleep(0.1)
        experiment.interrupt("Ctrl-C")

    began = time.monotonic()
    journal = run(
        experiment([UNBROKEN], method=[BREAK, action("long", running), BREAK], rollbacks=[MEND]), meanwhile=interrupt
    )
    assert time.monotonic() - began < 5
    assert (journal.status, journal.table["held"]) == ("interrupted", False)
    assert statuses(journal.run) == ["succeeded", "failed"]
    assert statuses(journal.rollbacks) == ["succeeded"]
    assert journal.steady_states["restored"]["steady_state_met"]
    assert not BROKEN.exists()


def test_an_interruption_during_the_rollbacks_cuts_one_and_plays_the_next(run: Run) -> None:
    """A rollback that hangs does not keep the others."""

    async def interrupt(experiment: Experiment) -> None:
        await until(Path("rolling").exists)
        experiment.interrupt("Ctrl-C")

    hanging = action("hangs", process("sh", ["-c", "touch rolling; sleep 20"]))
    journal = run(experiment(method=[BREAK], rollbacks=[hanging, MEND]), meanwhile=interrupt)
    assert statuses(journal.rollbacks) == ["failed", "succeeded"]
    assert journal.status == "interrupted"
    assert not BROKEN.exists()


def test_who_asks_for_it_is_not_rolled_back(run: Run) -> None:
    """As SIGUSR2 does there."""

    async def interrupt(experiment: Experiment) -> None:
        await until(BROKEN.exists)
        experiment.interrupt("SIGUSR2", rollbacks=False)

    journal = run(
        experiment(method=[BREAK, action("s", process("sleep", ["9"]))], rollbacks=[MEND]), meanwhile=interrupt
    )
    assert (journal.status, journal.rollbacks) == ("interrupted", [])
    assert BROKEN.exists()


def test_a_function_may_end_the_experiment(run: Run, workplace: Path) -> None:
    """By leaving, or by the Chaos Toolkit's own exception, which is known by its name."""
    (workplace / "leaving.py").write_text(
        "class InterruptExecution(Exception): ...\n"
        "InterruptExecution.__module__ = 'chaoslib.exceptions'\n"
        "def leave(): raise InterruptExecution('enough')\n"
    )
    for provider in (python("leave", "leaving"), python("exit", "sys")):
        journal = run(experiment(method=[BREAK, action("leave", provider), BREAK], rollbacks=[MEND]))
        assert (journal.status, len(journal.run)) == ("interrupted", 2)
        assert not BROKEN.exists()


def test_activities_in_the_background_run_beside_the_others(run: Run) -> None:
    """As there: the method goes on meanwhile, and waits for them in the end."""
    slow = action("slow", process("sh", ["-c", "sleep 0.4; touch late"]), background=True)
    journal = run(experiment(method=[slow, action("quick", process("test", ["!", "-e", "late"]))]))
    assert [run["output"]["status"] for run in journal.run] == [0, 0]
    assert Path("late").exists()


def test_pauses_are_kept(run: Run) -> None:
    """Before and after, also by configuration."""
    paused = {**BREAK, "pauses": {"before": 0.1, "after": "${wait}"}}
    journal = run(experiment(method=[paused, {"ref": "break"}], configuration={"wait": 0.1}))
    assert journal.run[1]["start"] > journal.run[0]["end"]
    assert journal.table["duration"] > 0.4


def test_values_reach_activities(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are filled in; functions that want configuration and secrets are given them."""
    monkeypatch.setenv("TOKEN", "t")
    given = {**python("given"), "secrets": ["shop"]}
    journal = run(
        experiment(
            [probe("p", python("say", value="${n}"), tolerance="${n}")],
            method=[
                action("given", given),
                action("echo", process("echo", "${word} x")),
                action("e", process("echo", {"-n": "a"})),
            ],
            configuration={"n": 5, "word": {"type": "probe", "name": "w", "provider": process("echo", ["hello"])}},
            secrets={"shop": {"token": {"type": "env", "key": "TOKEN"}}},
        ),
    )
    outputs = [run["output"] for run in journal.run]
    assert outputs[0] == {"configuration": {"n": 5, "word": "hello"}, "secrets": {"token": "t"}}
    assert [output["stdout"] for output in outputs[1:]] == ["hello x\n", "a"]
    assert journal.run[1]["activity"]["provider"]["arguments"] == "${word} x"


def test_configuration_that_cannot_be_had_ends_it_before_it_begins(run: Run) -> None:
    """There, the experiment goes on with `${word}` in place of the word."""
    word = {"type": "probe", "name": "w", "provider": process("sh", ["-c", "echo no >&2; exit 4"])}
    with pytest.raises(ConfigurationError, match=r"configuration.word: its probe ended with status 4: no"):
        run(experiment(method=[BREAK], configuration={"word": word}))
    assert not BROKEN.exists()


@pytest.mark.parametrize(
    ("wanted", "provider", "held"),
    [
        (4, python("judge", wanted=4), True),
        (4, python("judge", wanted=5), False),
        (4, python("fail"), False),
        (4, process("sh", {"-c": "exit 1"}), False),
        (4, process("true", []), True),
    ],
)
def test_a_tolerance_may_be_a_probe(run: Run, wanted: int, provider: dict[str, Any], held: bool) -> None:
    """It is given the value; one that is a process says yes with status 0 (there, with any)."""
    judged = probe("p", python("say", value=wanted), tolerance={"type": "probe", "name": "t", "provider": provider})
    assert run(experiment([judged])).table["held"] is held


@pytest.mark.parametrize(
    ("rollbacks", "played"), [("default", True), ("always", True), ("never", False), ("deviated", False)]
)
def test_rollback_strategies(run: Run, rollbacks: str, played: bool) -> None:
    """Of the file's `runtime`, or given."""
    whole = experiment([STEADY], rollbacks=[action("r", process("true"))])
    assert bool(run(whole, rollbacks=rollbacks).rollbacks) is played
    assert bool(run(whole | {"runtime": {"rollbacks": {"strategy": rollbacks}}}).rollbacks) is played


@pytest.mark.parametrize(
    ("strategy", "looks"),
    [
        ("default", (True, True)),
        ("before-method-only", (True, False)),
        ("after-method-only", (False, True)),
        ("skip", (False, False)),
    ],
)
def test_hypothesis_strategies(run: Run, strategy: str, looks: tuple[bool, bool]) -> None:
    """As there."""
    states = run(experiment([STEADY]), hypothesis=strategy).steady_states
    assert (states["before"] is not None, states["after"] is not None) == looks


def test_fail_fast_ends_a_running_action(run: Run) -> None:
    """There, the action runs to its end."""
    began = time.monotonic()
    journal = run(
        experiment([UNBROKEN], method=[BREAK, action("long", process("sleep", ["20"]))], rollbacks=[MEND]),
        hypothesis="continuously",
        frequency=0.05,
        fail_fast=True,
    )
    assert time.monotonic() - began < 5
    assert (journal.status, journal.deviated) == ("failed", True)
    assert [state["steady_state_met"] for state in journal.steady_states["during"]][-1] is False
    assert not BROKEN.exists()


def test_a_deviation_during_the_method_is_one(run: Run) -> None:
    """There, it is told only by what is looked at after the method."""
    method = [BREAK, action("wait", process("sleep", ["0.4"])), MEND]
    journal = run(experiment([UNBROKEN], method=method), hypothesis="during-method-only", frequency=0.05)
    assert (journal.status, journal.deviated, journal.table["held"]) == ("completed", True, False)


def test_an_output_that_json_does_not_know_is_told_in_words(run: Run, workplace: Path) -> None:
    """The journal is written whatever functions return."""
    (workplace / "odd.py").write_text(
        "import datetime\n"
        "def some(): return {'when': datetime.date(2020, 1, 2), 'what': b'x', 'kinds': {1}, 'o': object, (1, 2): 3}\n"
        "def itself():\n    x = []\n    x.append(x)\n    return x\n"
    )
    journal = run(experiment(method=[action("a", python("some", "odd"))]))
    assert '"when": "2020-01-02"' in journal.to_json()
    journal = run(experiment(method=[action("a", python("itself", "odd"))]))
    assert '"output": "[[...]]"' in journal.to_json()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"hypothesis": "continously"},
            r"hypothesis: unknown strategy 'continously' \(did you mean 'continuously'\?\)",
        ),
        ({"rollbacks": "sometimes"}, "rollbacks: unknown strategy 'sometimes'"),
        ({"frequency": 0}, "frequency is 0; it takes a number of seconds above 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str) -> None:
    """With what would do."""
    with pytest.raises(ConfigurationError, match=message):
        Settings.of({}, **settings)
