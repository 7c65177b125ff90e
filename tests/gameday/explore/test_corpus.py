"""The corpus: what is kept is what failed, whatever was dosed; and `hormesis gameday` can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hormesis.chaos import Bandwidth, BlackHole, Fault, Kill, Latency, Reset, Spike, Throttle
from hormesis.chaos.faults import Inject
from hormesis.cli import main
from hormesis.errors import ConfigurationError
from hormesis.gameday.experiment import Run, load_experiment
from hormesis.gameday.explore.corpus import load_corpus, save_case
from hormesis.gameday.explore.trials import Injection, Trial

RUN = Run(calm=1.5, dose=4.0, recovery=3.5)


@pytest.mark.parametrize(
    "trial",
    [
        Trial((Injection("edge", "stock", Latency(0.25, jitter=0.1, share=0.5)),), dose=2.5),
        Trial((Injection("edge", "stock", BlackHole()), Injection("process", "stock", Throttle(0.2)))),
        Trial((Injection("edge", "stock", Reset("request")), Injection("edge", "stock", Bandwidth(1000)))),
        Trial((Injection("process", "stock", Kill()), Injection("load", "", Spike(3, request="page"))), dose=3.0),
        Trial((Injection("process", "stock", Inject({"latency": 1, "where": {"host": "eu-*"}}, at="till")),), dose=3.0),
    ],
    ids=str,
)
def test_what_is_saved_is_what_failed(experiment: Path, trial: Trial) -> None:
    """A case is read as it was written, also by the game day."""
    case = save_case(experiment.parent / "corpus", trial, experiment=experiment, seed=7, run=RUN, about='It "fails".')
    (read,) = load_corpus(experiment.parent / "corpus")
    assert read == case
    assert read.trial.injections == trial.injections
    assert read.trial.dose == (trial.dose or 4.0)
    assert (read.experiment, read.seed) == (experiment.resolve(), 7)
    loaded = load_experiment(case.path)
    assert loaded.seed == 7
    assert [dose.target for dose in loaded.stress[0].doses] == [each.dose().target for each in trial.injections]
    assert loaded.lengths(loaded.stress[0]) == (1.5, trial.dose or 4.0, 3.5)


def test_what_is_found_again_takes_its_own_place(experiment: Path) -> None:
    """A milder form of a known failure replaces it; another failure does not."""
    folder = experiment.parent / "corpus"
    for fault in (Latency(2.0), Latency(0.5), BlackHole()):
        trial = Trial((Injection("edge", "stock", fault),))
        save_case(folder, trial, experiment=experiment, seed=7, run=RUN, about="x")
    names = [(case.path.name, str(case.trial)) for case in load_corpus(folder)]
    assert names == [
        ("edge-stock-black_hole.toml", "edge stock: black hole"),
        ("edge-stock-latency.toml", "edge stock: latency 500ms"),
    ]
    assert not list(folder.glob("*.new"))


def kept(experiment: Path, fault: Fault, edge: str = "stock") -> None:
    trial = Trial((Injection("edge", edge, fault),), dose=2.5)
    save_case(experiment.parent / "corpus", trial, experiment=experiment, seed=7, run=RUN, about="x")


def test_the_game_day_replays_it_first(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its cases come before the file's own stresses, each with the lengths with which it failed."""
    kept(experiment, BlackHole())
    kept(experiment, Latency(0.5))
    folder = experiment.parent / "corpus"
    save_case(folder, Trial((Injection("edge", "till", Reset()),)), experiment="other.toml", seed=7, run=RUN, about="x")
    arguments = ["gameday", str(experiment), "--corpus", str(folder), "--dry-run", "--json"]
    main(arguments)
    stresses = json.loads(capsys.readouterr().out)["stresses"]
    assert [each["name"] for each in stresses] == [
        "corpus 1 - edge stock black_hole",
        "corpus 2 - edge stock latency",
        "gone",
    ]
    assert [each["phases"]["calm"] for each in stresses] == [1.5, 1.5, 3.0]


def test_a_case_of_a_place_that_is_gone(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, and nothing is started."""
    kept(experiment, BlackHole(), edge="till")
    for command in ("gameday", "explore"):
        arguments = [command, str(experiment), "--corpus", str(experiment.parent / "corpus")]
        assert main([*arguments, "--out", str(experiment.parent / "out")]) == 2
        message = capsys.readouterr().err
        assert "edge-till-black_hole.toml: " in message
        assert "unknown edge 'till'" in message
        assert message.count("\n") == 1


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """The first exploration makes it."""
    assert load_corpus(tmp_path / "corpus") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "experiment"),
        ('experiment = "x"\nseed = 1\nstress = []', "a case holds one"),
        ("[", "is not TOML"),
        ('experiment = "x"\nseed = 1\n[[stress]]\nname = "a"\nedge = "e"\nfault = { latncy = 1 }', "latency"),
    ],
)
def test_bad_cases(tmp_path: Path, text: str, message: str) -> None:
    """A case that can't be meant is named."""
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_corpus(tmp_path)
    assert "bad.toml" in str(caught.value)
