"""When a dose has to end: answers that fail to come, error budgets that burn, requests that were to be spared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.bounds import Abort, BlastRadius, Budget, Burn
from hormesis.gameday.dose import Dose
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
        ({"routes": ["x"]}, [{"fault": {"spike": 2, "request": "y"}}], "its request 'y' is not among the routes"),
        ({"clients": ["x"]}, [{"fault": {"spike": 2, "client": "y"}}], "its client 'y' is not among the clients"),
    ],
)
def test_blast_radius(radius: dict[str, object], doses: list[dict[str, object]], message: str) -> None:
    """What reaches further than it may is refused before anything starts."""
    bound = BlastRadius(**radius)  # type: ignore[arg-type]
    planned = [Dose(**dose) for dose in doses]  # type: ignore[arg-type]
    if not message:
        bound.check(planned)
        return
    with pytest.raises(ConfigurationError) as caught:
        bound.check(planned)
    assert message in str(caught.value)


def test_whom_a_radius_reaches() -> None:
    """Routes by their name or their client; everybody where nobody is named."""
    routes = {"list": None, "report": "office", "feed": "partner"}
    assert BlastRadius().reaches(routes) == set(routes)
    assert BlastRadius(routes=["list"], clients=["partner"]).reaches(routes) == {"list", "feed"}


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
