"""When a dose has to end: answers that fail to come, error budgets that burn, requests that were to be spared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.bounds import Abort, BlastRadius, Budget, Burn
from hormesis.gameday.dose import Dose
from hormesis.gameday.load import Client, Load, RequestTable
from hormesis.gameday.watch import Watch
from hormesis.loadgen import Answer, Sample


def answers(share: float, start: float, end: float, *, rate: int = 20, request: int = 0) -> Iterator[Sample]:
    """Requests that end evenly in a time, of which this share was answered, evenly too."""
    count = round((end - start) * rate)
    for i in range(count):
        at = start + i / rate
        well = int((i + 1) * share) > int(i * share)
        yield Sample(at, at, at, request, Answer.FULL if well else Answer.FAILED)


def first_said(watch: Watch, samples: list[Sample]) -> tuple[float, str]:
    """When it first says that the dose has to end, and why."""
    for sample in samples:
        if said := watch.take([sample], sample.done):
            return sample.done, said
    return float("inf"), ""


def test_too_few_answers() -> None:
    """A dose ends when too few were answered, over the whole window, and not before it is full."""
    watch = Watch(Abort(answered=0.5, over=2), None, (), 0.0)
    at, said = first_said(watch, [*answers(0.4, 0, 5)])
    assert 1.9 < at < 2.2
    assert said.endswith("requests were answered in 2 s (abort below 50%)")
    assert first_said(Watch(Abort(answered=0.5, over=2), None, (), 0.0), [*answers(0.6, 0, 5)])[1] == ""


def test_too_few_requests_end_nothing() -> None:
    """A handful of failures is no reason."""
    watch = Watch(Abort(answered=0.5, over=2), None, (), 0.0)
    assert first_said(watch, [*answers(0, 0, 10, rate=4)])[1] == ""


BURN = Burn(objective=0.99, rate=10, long=4, short=1)


def test_a_burning_budget() -> None:
    """It takes both windows: the long one at ten times the pace, and the short one still."""
    at, said = first_said(Watch(Abort(burn=BURN), None, (), 0.0), [*answers(0.5, 0, 10)])
    assert 3.9 < at < 4.2
    assert said.startswith("the error budget of 1% burns ")
    assert said.endswith("(abort from 10)")
    assert first_said(Watch(Abort(burn=BURN), None, (), 0.0), [*answers(0.95, 0, 10)])[1] == ""


def test_a_blip_that_is_over_burns_nothing() -> None:
    """What failed for a moment and is well again does not end a dose, though the long window still remembers it."""
    blip = [*answers(0.0, 0, 2), *answers(1.0, 2, 10)]
    assert first_said(Watch(Abort(burn=BURN), None, (), 0.0), blip)[1] == ""


def test_who_is_to_be_spared() -> None:
    """A dose ends when requests outside the blast radius fail, whatever happens to those inside."""
    radius = BlastRadius(routes=["report"], spared=0.1, over=2)
    inside = [*answers(0.0, 0, 5, request=1)]
    assert first_said(Watch(None, radius, {0}, 0.0), inside)[1] == ""
    both = sorted([*inside, *answers(0.8, 0, 5, request=0)], key=lambda sample: sample.done)
    at, said = first_said(Watch(None, radius, {0}, 0.0), both)
    assert 1.9 < at < 2.3
    assert said.endswith("of the requests outside the blast radius failed in 2 s (at most 10%)")


LOAD = Load(
    to="a",
    rate=10,
    client={"office": Client(rate=1, headers={"X-Who": "office"})},
    request=[
        RequestTable(name="list", get="/items/{n}?all=1"),
        RequestTable(name="feed", get="/feed"),
        RequestTable(name="report", get="/report", client="office"),
    ],
)


def inject(**where: str) -> dict[str, object]:
    return {"process": "a", "fault": {"inject": {"latency": 1, "where": where}}}


LATE, HALF = {"latency": 1}, {"latency": 1, "share": 0.5}


@pytest.mark.parametrize(
    ("radius", "doses", "message"),
    [
        ({}, [{"edge": "a", "fault": LATE}], ""),
        (
            {},
            [{"edge": "a", "fault": LATE}, {"edge": "b", "fault": LATE}],
            "edge a and edge b can't be hit at the same",
        ),
        ({"edges": 2}, [{"edge": "a", "fault": LATE}, {"edge": "b", "fault": LATE}], ""),
        ({"processes": 0}, [{"process": "a", "fault": {"kill": True}}], "process a can't be hit"),
        ({"share": 0.5}, [{"edge": "a", "fault": HALF}], ""),
        ({"share": 0.4}, [{"edge": "a", "fault": HALF}], "has a share of 0.5, at most 0.4"),
        ({"share": 0.4}, [{"edge": "a", "fault": {"refuse": True}}], "has a share of 1, at most 0.4"),
        ({"share": 0.4}, [{"process": "a", "fault": {"inject": {"latency": 1}}}], "has a share of 1, at most 0.4"),
        ({"share": 0.4}, [{"process": "a", "fault": {"inject": {"latency": 1, "share": 0.4}}}], ""),
        ({}, [{"host": True, "fault": {"cpu": 1}}], "hits the whole machine, which takes host = true"),
        ({"host": True}, [{"host": True, "fault": {"cpu": 1}}], ""),
        ({"share": 0.4}, [{"process": "a", "fault": {"pause": True}}], "has a share of 1, at most 0.4"),
        ({"routes": ["feed"]}, [{"fault": {"spike": 2, "request": "list"}}], "of list; within are those of feed"),
        ({"routes": ["list"]}, [{"fault": {"spike": 2}}], "aimed at requests of feed and report; within are those of"),
        ({"routes": ["list"]}, [{"fault": {"spike": 2, "client": "office"}}], "of report; within are those of list"),
        ({"clients": ["office"]}, [{"fault": {"spike": 2, "request": "feed"}}], "of feed; within are those of report"),
        ({"clients": ["office"]}, [{"fault": {"spike": 2, "request": "report"}}], ""),
        ({"routes": []}, [{"fault": {"spike": 2}}], "within are none"),
        ({"routes": ["feed"]}, [{"edge": "a", "fault": {"status": 503, "route": "GET /items/*"}}], "requests of list"),
        ({"routes": ["list"]}, [{"edge": "a", "fault": {"status": 503, "route": "GET /items/{id}"}}], ""),
        ({"routes": ["list"]}, [{"edge": "a", "fault": {"status": 503, "header": "X-Who: off*"}}], "of report"),
        ({"clients": ["office"]}, [{"edge": "a", "fault": {"status": 503, "header": "X-Who: off*"}}], ""),
        ({"routes": ["list"]}, [{"edge": "a", "fault": {"status": 503, "route": "/internal"}}], ""),
        ({"routes": ["list"]}, [{"edge": "a", "fault": LATE}], ""),
        ({"routes": ["list"]}, [inject(path="/feed*")], "of feed; within"),
        ({"routes": ["list"]}, [inject(path="/feed*", method="POST")], ""),
        ({"routes": ["list"]}, [inject(client="office")], "of report; within"),
        ({"clients": ["office"]}, [inject(client="office")], ""),
        ({"routes": ["list"]}, [inject(host="feed")], ""),
    ],
)
def test_blast_radius(radius: dict[str, object], doses: list[dict[str, object]], message: str) -> None:
    """What reaches further than it may is refused before anything starts."""
    bound = BlastRadius(**radius)  # type: ignore[arg-type]
    planned = [Dose(**dose) for dose in doses]  # type: ignore[arg-type]
    if not message:
        bound.check(planned, LOAD)
        return
    with pytest.raises(ConfigurationError) as caught:
        bound.check(planned, LOAD)
    assert message in str(caught.value)


def test_whom_a_radius_reaches() -> None:
    """Routes by their name or their client; everybody where nobody is named."""
    assert BlastRadius().reaches(LOAD) == ["list", "feed", "report"]
    assert BlastRadius(routes=["list"], clients=["office"]).reaches(LOAD) == ["list", "report"]


def test_what_a_stress_is_held_to() -> None:
    """A plan says whom it may hit, whom not, and when it ends for that; nothing where nobody is spared."""
    assert BlastRadius(edges=3).in_words(LOAD) == ""
    assert BlastRadius(share=0.2, clients=["office"], routes=["feed"]).in_words(LOAD) == (
        "at most 20% of an edge's connections or requests, or of a process's calls; only feed and report may fail; "
        "it ends when more than 10% of list fail over 2s"
    )
    assert BlastRadius(routes=[]).in_words(LOAD).startswith("no request may fail; it ends when more than 10% of list")


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        (Abort, {}, "takes answered, burn or both"),
        (Burn, {"objective": 1.0}, "objective is 1.0; it takes a share above 0 and below 1"),
        (Burn, {"objective": 0.9, "rate": 11}, "rate is 11; it takes a factor from 1 to 10"),
        (Burn, {"objective": 0.9, "long": 1, "short": 2}, "short is 2; it takes no more than the long window"),
        (BlastRadius, {"share": 0}, "share is 0; it takes a share above 0 and at most 1"),
        (BlastRadius, {"edges": -1}, "edges is -1; it takes a whole number from 0"),
        (BlastRadius, {"spared": 1}, "spared is 1; it takes a share from 0 and below 1"),
        (Budget, {}, "takes time, failed or both"),
        (Budget, {"failed": 0}, "failed is 0; it takes a whole number from 1"),
        (Budget, {"time": 0}, "time is 0; it takes more than 0 seconds"),
    ],
)
def test_bounds_that_can_not_be_meant(kind: type, table: dict[str, object], message: str) -> None:
    """What can't be meant is refused when it is made."""
    with pytest.raises(ConfigurationError) as caught:
        kind(**table)
    assert message in str(caught.value)
