"""What is known before anything starts: the plan, what it touches, and what stands in its way."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import Sequence
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
    Stress,
    System,
    as_junit,
)
from hormesis.gameday.lock import locked, touched
from hormesis.gameday.plan import lines, make_plan
from hormesis.gameday.preflight import check
from hormesis.gameday.results import Outcome, Phase, StressResult, Verdict, Window
from hormesis.loadgen import Samples

SLOW = Stress(name="slow", edge="back", fault={"latency": "1s"})
GONE = Stress(name="gone", process="back", fault={"kill": True}, about="it crashes")


def experiment(*stresses: Stress, edge: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    """Two processes with an edge between them."""
    back = Edge(**{"from_": "front", "to": "back", "env": {"BACK": "{host}:{port}"}, **(edge or {})})
    whole: dict[str, Any] = {
        "system": System(
            process={"front": ProcessTable(command="front"), "back": ProcessTable(command="back")}, edge={"back": back}
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
        "process front: front",
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
    assert touched(outside, [SLOW]) == ["address 127.0.0.1:5432", "port 7001"]
    host = Stress(name="busy", host=True, fault={"cpu": 1})
    assert touched(experiment(host), [host]) == ["this machine"]
    attached = Experiment(
        system=System(edge={"db": Edge(proxy="http://127.0.0.1:8474/")}),
        load=Load(to="http://127.0.0.1:8000/shop", rate=1, request=[RequestTable(name="a", get="/")]),
        stress=[Stress(name="slow", edge="db", fault={"latency": 1})],
    )
    assert touched(attached, attached.chosen()) == ["address 127.0.0.1:8000", "proxy db at http://127.0.0.1:8474"]


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
        asyncio.run(check(experiment(edge={"to": address}), [SLOW]))
    with pytest.raises(ConfigurationError, match=rf"system\.edge\.back\.to leads to {address}, which can't be reached"):
        asyncio.run(check(experiment(edge={"to": address}), [SLOW]))


def test_a_budget_too_small() -> None:
    """A budget that has no time for a single stress is a contradiction."""
    with pytest.raises(ConfigurationError, match=r"budget\.time is '5s'; it takes at least 14s"):
        asyncio.run(check(experiment(budget=Budget(time="5s")), [SLOW, GONE]))


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
