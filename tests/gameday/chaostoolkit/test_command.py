"""`hormesis gameday experiment.json`: exit status, journal, and what is left when it is ended from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hormesis.cli import main

from .conftest import BREAK, MEND, STEADY, UNBROKEN, action, experiment, probe, process, python


def write(whole: dict[str, Any], name: str = "experiment.json") -> None:
    Path(name).write_text(json.dumps(whole))


def journal() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/journal.json").read_text())
    return found


def test_an_experiment_that_held(capsys: pytest.CaptureFixture[str]) -> None:
    """0, a journal, and words on both outputs; nothing else is left."""
    write(experiment([UNBROKEN], method=[action("a", process("echo", "${word}"))], configuration={"word": "one"}))
    assert main(["gameday", "experiment.json", "--out", "out", "--var", "word=two"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "ended: completed"
    assert "action: a" in err.splitlines()
    assert journal()["run"][0]["output"]["stdout"] == "two\n"
    assert sorted(os.listdir("out")) == [".lock", "journal.json", "undo.jsonl"]


def test_a_deviation_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    """As there; what was not met is said."""
    write(experiment([UNBROKEN], method=[BREAK], rollbacks=[MEND]))
    assert main(["gameday", "experiment.json", "--out", "out"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["ended: deviated", "  the steady state was not met after the method: unbroken"]


def test_the_journal_may_be_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """For machines."""
    write(experiment([STEADY]))
    assert main(["gameday", "experiment.json", "--out", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == journal()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.json"], "none.json: can't be read: No such file"),
        (["experiment.json", "--var", "x"], "--var is 'x'; it takes name=value"),
        (["experiment.json", "--var", "x=1"], "unknown configuration 'x'"),
        (["experiment.json", "--seed", "0"], "--seed is for game days (TOML), and this is an experiment of the Chaos"),
        (["gameday.toml", "--fail-fast"], "--fail-fast is for experiments of the Chaos Toolkit (JSON, YAML), and"),
        (["experiment.json", "--rollback-strategy", "sometimes"], "rollbacks: unknown strategy 'sometimes'"),
        (["experiment.json", "--out", "experiment.json/x"], "can't be written to: Not a directory"),
    ],
)
def test_bad_input_is_2_and_nothing_is_done(capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    """One message."""
    write(experiment([STEADY], method=[BREAK]))
    assert main(["gameday", "--out", "out", *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("broken").exists()


def test_a_request_is_a_provider(serving: str) -> None:
    """Status, headers and body; a refused connection is a failed probe."""
    ask = {"type": "http", "url": "${url}/thing", "headers": {"X-Token": "${token}"}, "timeout": 5}
    body = {"type": "jsonpath", "path": "$.method", "expect": "POST", "target": "body"}
    post = {**ask, "method": "post", "headers": {"Content-Type": "application/json"}, "arguments": {"a": "${url}"}}
    write(
        experiment(
            [
                probe("get", {**ask, "arguments": {"q": ["1", "2"]}}, tolerance=200),
                probe("post", post, tolerance=body),
            ],
            method=[probe("hang", {**ask, "url": "${url}/hang", "timeout": 0.3})],
            configuration={"url": serving},
            secrets={"shop": {"token": "t"}},
        )
    )
    assert main(["gameday", "experiment.json", "--out", "out"]) == 0
    get, post = (run["output"] for run in journal()["steady_states"]["before"]["probes"])
    assert get["body"] == {"method": "GET", "path": "/thing?q=1&q=2", "token": "t", "body": ""}
    assert json.loads(post["body"]["body"]) == {"a": serving}
    assert get["headers"]["Content-Type"] == "application/json"
    assert journal()["run"][0]["status"] == "failed"
    assert "took too long" in journal()["run"][0]["exception"][-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_whatever_ends_it_the_rollbacks_are_played(
    number: signal.Signals, status: int, until: Callable[[Callable[[], object]], None]
) -> None:
    """Within five seconds no fault and no process is left, and the journal says that it was interrupted."""
    long = action("long", process("sh", ["-c", "echo $$ > pid; exec sleep 60"]))
    mend = [MEND, action("again", python("say", value=1))]
    write(experiment([UNBROKEN], method=[BREAK, long], rollbacks=mend))
    command = [sys.executable, "-m", "hormesis", "gameday", "experiment.json", "--out", "out"]
    with Path("err").open("wb") as err, subprocess.Popen(command, stdout=err, stderr=err) as running:
        until(lambda: Path("pid").exists() and Path("pid").read_text().strip())
        pid = int(Path("pid").read_text())
        sent = time.monotonic()
        running.send_signal(number)
        assert running.wait(10) == status
    until(lambda: not Path("out/rollbacks.json").exists())
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert time.monotonic() - sent < 5
    assert not Path("broken").exists()
    found = journal()
    assert (found["status"], [run["status"] for run in found["rollbacks"]]) == ("interrupted", ["succeeded"] * 2)
    assert found["steady_states"]["restored"]["steady_state_met"]
    if number == signal.SIGKILL:
        assert "undone: the rollbacks of the experiment" in Path("err").read_text()
