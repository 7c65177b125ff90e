"""What is printed: it fits the terminal, and says what is certain and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hormesis.gameday.experiment import load_experiment
from hormesis.gameday.explore.expedition import Expedition
from hormesis.gameday.explore.show import as_json, print_exploration
from hormesis.gameday.explore.trials import Seen, Trial, answered
from hormesis.gameday.results import Verdict


@pytest.fixture
def expedition(experiment: Path) -> Expedition:
    return Expedition(load_experiment(experiment), "system", file=experiment, out=experiment.parent, within=1e4)


def printed(expedition: Expedition, width: int, verdicts: dict[str, Verdict]) -> list[str]:
    """Explore a system that answers as told, by the kind of fault, and return what is printed."""

    def answer(trial: Trial) -> Seen:
        kind = trial.injections[0].kind if trial.injections else ""
        verdict = verdicts.get(kind, Verdict.SURVIVED) if len(trial.injections) < 2 else Verdict.SURVIVED
        return Seen(verdict=verdict, seconds=5.0, traffic={"stock": 10.0}, goodput=0.99, p99=0.05)

    answered(expedition.hunt.steps(), answer)
    console = Console(width=width)
    with console.capture() as captured:
        print_exploration(expedition, console)
    return captured.get().splitlines()


def test_a_matrix_where_it_fits_and_a_list_where_not(expedition: Expedition) -> None:
    """A word is never cut."""
    wide = printed(expedition, 120, {"latency": Verdict.DEGRADED})
    (edge,) = [line for line in wide if line.startswith("edge stock")]
    assert edge.split()[2:] == ["survived", "survived", "degraded", "survived", "survived"]
    narrow = printed(expedition, 60, {"latency": Verdict.DEGRADED})
    assert any(line.split() == ["edge", "stock", "survived", "black", "hole,", "refuse,", "reset,"] for line in narrow)
    assert any(line.split() == ["degraded", "latency"] for line in narrow)
    assert all(len(line) <= 60 for line in narrow)
    assert not any("…" in line for line in [*wide, *narrow])


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        ({}, "Nothing was found that it does not survive."),
        (
            {"latency": Verdict.INCONCLUSIVE},
            "Nothing was found that it does not survive, but 1 of the 16 that were tried can't be told.",
        ),
        ({"": Verdict.FAILED}, "It does not hold its objectives without a fault, so nothing more can be found out:"),
    ],
)
def test_the_conclusion(expedition: Expedition, verdicts: dict[str, Verdict], said: str) -> None:
    """What can't be told is no success, and is said."""
    assert said in printed(expedition, 120, verdicts)


def test_controls_are_told(expedition: Expedition) -> None:
    """How steady it was without a fault is in the table's head, and in the data."""
    lines = printed(expedition, 120, {})
    found: dict[str, Any] = as_json(expedition)
    count = len(found["controls"])
    assert count == 2
    assert f"{count} runs without a fault in between, of which {count} held: goodput 99.0 %, p99 50 ms" in lines
