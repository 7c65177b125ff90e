"""The page of an exploration shows what became of every fault, and what each change does about a failure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hormesis.chaos.journal import FILE_NAME, Journal
from hormesis.gameday.experiment import load_experiment
from hormesis.gameday.explore.expedition import Expedition
from hormesis.gameday.explore.trials import Seen, Trial, answered
from hormesis.gameday.report.exploration import write_exploration
from hormesis.gameday.results import Verdict

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "gameday.toml"


def seen(verdict: Verdict, goodput: float = 1.0, reasons: tuple[str, ...] = ()) -> Seen:
    edges: dict[str, float] = dict.fromkeys(("inventory", "payments", "fulfilment"), 1000.0)
    return Seen(
        verdict=verdict,
        seconds=10.0,
        traffic=edges,
        answers=edges,
        goodput=goodput,
        p99=0.05,
        reasons=reasons,
        hurt=frozenset({"product"} if verdict is Verdict.FAILED else ()),
        acted=("inventory",),
    )


def explored(
    tmp_path: Path, *, fails: str, mended_by: str = "timeout", reason: str = "product <b>late</b>"
) -> Expedition:
    """An exploration of the shop in which one kind of fault fails, and some changes mend it."""
    expedition = Expedition(
        load_experiment(SHOP),
        "protected",
        file=SHOP,
        out=tmp_path,
        within=100_000,
        only=["edge inventory", "edge payments"],
        pairs=False,
    )

    def answer(trial: Trial) -> Seen:
        hit = any(each.kind == fails and each.name == "inventory" for each in trial.injections)
        if hit and mended_by not in trial.change:
            return seen(Verdict.FAILED, 0.25, (reason,))
        return seen(Verdict.DEGRADED if trial.injections else Verdict.SURVIVED, 0.9 if trial.injections else 1.0)

    answered(expedition.hunt.steps(), answer)
    return expedition


def page_of(expedition: Expedition, tmp_path: Path) -> tuple[str, str]:
    """The page as it is, and its text."""
    path = tmp_path / "explore.html"
    write_exploration(expedition, path)
    html = path.read_text("utf-8")
    body = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
    return html, " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_a_finding_is_told_from_the_failure_to_its_fix(tmp_path: Path) -> None:
    """The matrix, the failure, each change with what it does under the fault and costs without, and the diff."""
    expedition = explored(tmp_path, fails="black_hole")
    (finding,) = expedition.hunt.findings
    html, said = page_of(expedition, tmp_path)
    assert "protected does not survive 1 combination of faults." in said
    assert "product &lt;b&gt;late&lt;/b&gt;" in html
    assert "<b>late" not in html
    assert "✗ failed 25 %" in said
    assert finding.fixes is not None
    for named in finding.fixes.named:
        assert named.change in said.replace("&#34;", '"')
    assert "25 % 90 % goodput" in said
    proposal = expedition.proposal(finding)
    assert proposal is not None
    assert "<ins>+" in html
    assert f"Proposed: {proposal.change}" in said
    assert 'class="better"' in html
    assert not re.search(r'(?:src|href)="(?!#)', html)


def test_nothing_found_is_said_as_it_is(tmp_path: Path) -> None:
    """That all of it held is claimed only where it did; a system that is unwell by itself is no survivor."""
    _, said = page_of(explored(tmp_path, fails="nothing"), tmp_path)
    assert "protected survives all that was tried." in said
    unrun = Expedition(load_experiment(SHOP), "protected", file=SHOP, out=tmp_path, within=1000)
    _, said = page_of(unrun, tmp_path)
    assert "does not hold its objectives without a fault" in said
    answered(unrun.hunt.steps(), lambda trial: seen(Verdict.FAILED, 0.1, ("never well",)))
    _, said = page_of(unrun, tmp_path)
    assert "never well" in said


def test_the_undo_log_is_on_the_page(tmp_path: Path) -> None:
    """Every fault of the journal is there, and what was not undone stands out."""
    with Journal.begin(tmp_path / FILE_NAME) as journal:
        journal.tick(journal.enter("latency on edge inventory", []))
        journal.enter("pause of payments", [])
    _, said = page_of(explored(tmp_path, fails="nothing"), tmp_path)
    assert "2 entries, 1 entry not undone" in said
    assert re.search(r"latency on edge inventory [\d.]+ ms by the runner", said)


def test_a_page_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """A bad path is the caller's to handle."""
    with pytest.raises(OSError, match="absent"):
        write_exploration(explored(tmp_path, fails="nothing"), tmp_path / "absent" / "page.html")
