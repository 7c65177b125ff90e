"""What is known before anything starts: the plan, what it touches, and what stands in its way."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday import (
    Abort,
    BlastRadius,
    Budget,
    Burn,
    Edge,
    Experiment,
    GameDay,
    Invariant,
    Load,
    Objective,
    Probe,
    ProcessTable,
    RequestTable,
    Run,
    Stress,
    System,
    as_junit,
)
from hormesis.gameday.lock import locked, touched
from hormesis.gameday.plan import lines, make_plan
from hormesis.gameday.preflight import check
from hormesis.gameday.results import Outcome, Phase, StressResult, Verdict, Window
from hormesis.loadgen import Samples

HERE = Path(__file__).parent

SLOW = Stress(name="slow", edge="back", fault={"latency": "1s"})
GONE = Stress(name="gone", process="back", fault={"kill": True}, about="it crashes")


def experiment(*stresses: Stress, edge: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    """Two processes with an edge between them."""
    back = Edge(**{"from_": "front", "to": "back", "env": {"BACK": "{host}:{port}"}, **(edge or {})})
    whole: dict[str, Any] = {
        "system": System(
            process={name: ProcessTable(command=f"python {name}.py") for name in ("front", "back")}, edge={"back": back}
        ),
        "load": Load(to="front", rate=20, request=[RequestTable(name="browse", get="/")]),
        "stress": stresses or [SLOW, GONE],
        "objective": {"browse": Objective(success=0.99, p99="250ms", throughput="10/s")},
        **changes,
    }
    return Experiment(**whole)


def planned(experiment: Experiment) -> str:
    return "\n".join(lines(asyncio.run(make_plan(experiment, experiment.chosen(), list(experiment.arm)))))


def test_a_plan() -> None:
    """It has what is started, each dose with its place and its undo, the timing, the objectives, and what ends it."""
    said = planned(
        experiment(
            probe=[Probe(name="well", http="http://{front}/", when=["start", "during"])],
            invariant=[Invariant(name="whole", command="true")],
            abort=Abort(answered=0.5, burn=Burn(objective=0.99)),
            budget=Budget(time="10m", failed=500),
            blast_radius=BlastRadius(routes=[]),
        )
    )
    for part in (
        "Game day: 2 stresses on system, seed 1",
        "process front: python front.py",
        "proxy on edge back: front to back",
        "20 requests/s to front: browse",
        "well (http; start, during every 1s; at most 2s)",
        "whole (command; when a stress is over; at most 10s)",
        "a dose, when fewer than 50% are answered over 3s",
        "a dose, when the error budget burns 10 times too fast over 5s and 1s",
        "a dose, when 10% of the requests outside the blast radius fail",
        "  within   no request may fail; it ends when more than 10% of browse fail over 2s",
        "the game day, after 10m",
        "the game day, when 500 requests have failed",
        "1. slow",
        "  dose     edge back: latency 1s",
        "2. gone – it crashes",
        "  phases   calm 3s, detection 2s, contained 4s, recovering 2s, recovered 3s",
        "  expects  browse in contained: success ≥ 99%, throughput ≥ 10/s, p99 ≤ 250ms",
    ):
        assert part in said
    assert said.count("  undo     ") == 2
    assert "CAN'T" not in said


def test_a_plan_is_data() -> None:
    """It can be written as JSON."""
    day = experiment()
    plan = asyncio.run(make_plan(day, day.chosen(), ["system"], repeat=3))
    found = json.loads(json.dumps(dataclasses.asdict(plan)))
    assert found["seconds"] > 3 * 2 * 14
    assert [stress["name"] for stress in found["stresses"]] == ["slow", "gone"]


def test_what_is_touched() -> None:
    """What is on free ports is its own; ports, addresses, proxies and the machine are others' as well."""
    assert touched(experiment(), [SLOW]) == []
    outside = experiment(edge={"to": "127.0.0.1:5432", "port": 7001})
    assert touched(outside, [SLOW]) == ["port 5432", "port 7001"]
    host = Stress(name="busy", host=True, fault={"cpu": 1})
    assert touched(experiment(host), [host]) == ["this machine"]
    attached = Experiment(
        system=System(edge={"db": Edge(proxy="http://127.0.0.1:8474/")}),
        load=Load(to="http://127.0.0.1:8000/shop", rate=1, request=[RequestTable(name="a", get="/")]),
        stress=[Stress(name="slow", edge="db", fault={"latency": 1})],
    )
    assert touched(attached, attached.chosen()) == ["port 8000", "proxy db at port 8474"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("127.0.0.1:5432", "localhost:5432"),
        ("127.0.0.1:5432", "[::1]:5432"),
        ("127.0.0.1:5432", "LOCALHOST.:5432"),
        ("Db.example.com:5432", "db.example.com:5432"),
        ("[2001:db8::0:1]:5432", "[2001:db8::1]:5432"),
    ],
)
def test_the_same_address_in_other_words(one: str, other: str) -> None:
    """Whoever writes an address otherwise means the same system."""
    assert touched(experiment(edge={"to": one}), []) == touched(experiment(edge={"to": other}), [])
    assert touched(experiment(edge={"to": one}), []) != touched(experiment(edge={"to": "10.0.0.1:5432"}), [])


def test_a_load_to_the_process_of_another_game_day() -> None:
    """What one has started on a port of its own choice is the same system as what another is attached to there."""
    own = experiment(edge={"port": 7001})
    load = Load(to="http://localhost:7001", rate=1, request=[RequestTable(name="a", get="/")])
    attached = Experiment(system=System(), load=load, stress=[Stress(name="rush", fault={"spike": 2})])
    assert touched(own, []) == touched(attached, []) == ["port 7001"]


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may run as a number that no user has."""
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_123_456_789)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with locked(["port 1"]):
        pass


def test_a_fault_on_somebody_elses_proxy_does_not_end_with_the_runner() -> None:
    """The plan says who takes it off there, and where."""
    attached = Experiment(
        system=System(edge={"db": Edge(proxy="http://127.0.0.1:8474")}),
        load=Load(to="http://127.0.0.1:8000/shop", rate=1, request=[RequestTable(name="a", get="/")]),
        stress=[Stress(name="slow", edge="db", fault={"latency": 1})],
    )
    ours, theirs = planned(experiment()), planned(attached)
    assert "undo     lifted from the proxy; it ends with the runner" in ours
    expected = "taken off the proxy by a request to http://127.0.0.1:8474; by the watchdog if the runner is gone"
    assert f"undo     {expected}" in theirs


def test_two_at_the_same_time() -> None:
    """What one has, another one can't get until it ends; different things are no trouble."""
    with locked(["port 1", "address x:2"]):
        with locked(["port 3"]):
            pass
        busy = "another game day is running on the same system: it has address"
        with pytest.raises(ConfigurationError, match=busy), locked(["port 4", "address x:2"]):
            pass
        with locked(["port 4"]):
            pass
    with locked(["address x:2"]):
        pass


def test_nobody_listens() -> None:
    """An edge to an address where nobody listens, and a load to one, are refused before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        asyncio.run(check(experiment(edge={"to": address}), [SLOW], ["system"], HERE))
    with pytest.raises(ConfigurationError, match=rf"system\.edge\.back\.to leads to {address}, which can't be reached"):
        asyncio.run(check(experiment(edge={"to": address}), [SLOW], ["system"], HERE))


def test_a_budget_too_small() -> None:
    """A budget that has no time for a single stress is a contradiction."""
    with pytest.raises(ConfigurationError, match=r"budget\.time is '5s'; it takes at least 14\.4s"):
        asyncio.run(check(experiment(budget=Budget(time="5s")), [SLOW, GONE], ["system"], HERE))
    twice = experiment(budget=Budget(time="15s"), run=Run(control=True))
    with pytest.raises(ConfigurationError, match=r"budget\.time is '15s'; it takes at least 28\.8s"):
        asyncio.run(check(twice, [SLOW], ["system"], HERE))


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ({"command": "no-such-program {port}"}, "process 'front': the command 'no-such-program' can't be run: No such"),
        ({"command": "./run.sh"}, r"process 'front': the command '\./run\.sh' can't be run: No such file"),
        ({"command": "./plain"}, r"process 'front': the command '\./plain' can't be run: Permission denied"),
        ({"command": "python", "stop": "no-such-stop"}, "process 'front': the command 'no-such-stop' can't be run"),
        ({"command": "python", "setup": ["no-such-setup"]}, "the command 'no-such-setup' can't be run"),
        ({"command": "python", "env": {"PATH": "/nowhere"}}, "the command 'python' can't be run"),
    ],
)
def test_a_program_that_is_not_there(tmp_path: Path, process: dict[str, Any], message: str) -> None:
    """It is refused before anything starts, whichever of a process's commands it is for."""
    (tmp_path / "plain").write_text("not to be run")
    day = experiment()
    system = dataclasses.replace(day.system, process={**day.system.process, "front": ProcessTable(**process)})
    with pytest.raises(ConfigurationError, match=message):
        asyncio.run(check(dataclasses.replace(day, system=system), [SLOW], ["system"], tmp_path))


def test_programs_that_come_to_be(tmp_path: Path) -> None:
    """What has a placeholder, or a path and a setup that may make it, is not missed beforehand."""
    front = ProcessTable(command="{dir}/server", setup=["python make.py"])
    day = experiment()
    processes = {"front": front, "back": ProcessTable(command="./made")}
    system = dataclasses.replace(day.system, process=processes)
    asyncio.run(check(dataclasses.replace(day, system=system), [SLOW], ["system"], tmp_path))


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (Invariant(name="i", python="no_such_module:check"), r"invariant 'i': python is '.*'; No module named"),
        (Probe(name="p", python="checks:chek"), "probe 'p': python is 'checks:chek'; module 'checks' has no attribute"),
        (Probe(name="p", python="checks:LIMIT"), "probe 'p': python is 'checks:LIMIT'; that is no function but 3"),
        (Probe(name="p", command="no-such-probe"), "probe 'p': the command 'no-such-probe' can't be run: No such"),
        (Probe(name="p", python="checks:check"), ""),
        (Probe(name="p", python="checks:Checks.check"), ""),
        (Probe(name="p", python="early:check"), ""),  # its module can't be imported before the system is there
    ],
)
def test_a_probe_that_asks_nobody(tmp_path: Path, look: Probe | Invariant, message: str) -> None:
    """What a probe or an invariant can never ask is refused before anything starts, not a failure of the system."""
    (tmp_path / "checks.py").write_text("LIMIT = 3\ndef check(): ...\nclass Checks:\n    check = check\n")
    (tmp_path / "early.py").write_text("import no_such_module\n")
    looks: dict[str, Any] = {"probe": [look]} if isinstance(look, Probe) else {"invariant": [look]}
    day = check(experiment(**looks), [SLOW], ["system"], tmp_path)
    if message:
        with pytest.raises(ConfigurationError, match=message):
            asyncio.run(day)
    else:
        asyncio.run(day)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    (
        {"probe": [Probe(name="p", http="http://{frnt}/")]},
        "probe 'p': unknown placeholder 'frnt' (did you mean 'front'?)",
    ),
    ({"invariant": [Invariant(name="i", command="x {browse.ful}")]}, "invariant 'i': unknown placeholder 'browse.ful'"),
    ({"probe": [Probe(name="p", command="a")] * 2}, "probe: the name 'p' stands twice"),
    ({"blast_radius": BlastRadius(routes=["brows"])}, "blast_radius.routes: unknown request 'brows'"),
    (
        {"blast_radius": BlastRadius(share=0.5)},
        "stress 'slow' reaches beyond the blast radius: latency 1s on edge back",
    ),
    (
        {"blast_radius": BlastRadius(routes=[]), "stress": [Stress(name="rush", fault={"spike": 2})]},
        "stress 'rush' reaches beyond the blast radius: load x2 is aimed at requests of browse; within are none",
    ),
    (
        {
            "system": System(process={}, edge={}),
            "load": Load(to="x", rate=1, request=[RequestTable(name="a", get="/")]),
        },
        "load.to: unknown process 'x'; known are: none",
    ),
]


@pytest.mark.parametrize(("changes", "message"), PROBLEMS, ids=[message[:30] for _, message in PROBLEMS])
def test_plans_that_contradict_themselves(changes: dict[str, Any], message: str) -> None:
    """A plan that can't be meant is refused, and says why."""
    with pytest.raises(ConfigurationError) as caught:
        experiment(**changes)
    assert message in str(caught.value)


def test_what_runs_already_has_one_arm() -> None:
    """Arms are ways to start a system, so what runs already has one."""
    from hormesis.gameday import Arm

    load = Load(to="http://127.0.0.1:8000", rate=1, request=[RequestTable(name="browse", get="/")])
    rush = Stress(name="rush", fault={"spike": 2})
    with pytest.raises(ConfigurationError, match=r"load\.to leads to what runs already, which has one arm, not 2"):
        Experiment(system=System(), load=load, stress=[rush], arm={"a": Arm(), "b": Arm()})


ARMS = ("bare", "system")


def outcome(verdict: Verdict, reasons: Sequence[str] = ()) -> Outcome:
    return Outcome(
        arm="system",
        phases={Phase.CALM: Window(0, 3), Phase.RECOVERED: Window(9, 14)},
        stats={},
        checks=[],
        verdict=verdict,
        reasons=reasons,
        recovered_after=0.0,
        acted=[],
        aborted="",
        lag_p99=0.001,
        timeline=[],
        bin_width=0.5,
        samples=Samples(),
        attempts=Samples(),
        started=0.0,
    )


def test_junit() -> None:
    """A case for each stress of each judged arm: failures, errors where it can't be told, and what was left out."""
    verdicts = {
        "slow": outcome(Verdict.SURVIVED),
        "gone": outcome(Verdict.FAILED, ["browse success 50% <in> contained", "and more"]),
        "odd": outcome(Verdict.INCONCLUSIVE, ["the load generator lagged\x00"]),
    }
    day = GameDay(
        title="Two & two",
        file="x.toml",
        seed=7,
        version="1",
        began="2026-01-01T00:00:00+00:00",
        seconds=60.0,
        rate=20.0,
        routes=["browse"],
        arms=list(ARMS),
        judged=["system"],
        stresses=[
            StressResult(
                name=name, about="", target="edge back", fault="latency", outcomes={"system": found, "bare": found}
            )
            for name, found in verdicts.items()
        ],
        left_out=["rush"],
        host="a host",
        ended="interrupted by SIGINT",
    )
    suites = ET.fromstring(as_junit(day))
    assert suites.attrib | {"time": ""} == {
        "name": "Two & two",
        "time": "",
        "tests": "5",
        "failures": "1",
        "errors": "2",
    }
    (suite,) = suites
    assert suite.attrib["skipped"] == "1"
    assert float(suite.attrib["time"]) == sum(float(case.attrib["time"]) for case in suite.iter("testcase"))
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert list(cases) == ["slow", "gone", "odd", "rush", "the whole game day"]
    assert cases["gone"][0].attrib == {"message": "browse success 50% <in> contained", "type": "failed"}
    assert [cases[name][0].tag for name in cases] == ["system-out", "failure", "error", "skipped", "error"]
