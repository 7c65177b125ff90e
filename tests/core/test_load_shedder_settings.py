"""The settings of a load shedder: what can be meant, what is made of it, and how it is told."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from hormesis.core.latency_limits import AIMD, Gradient2, Vegas
from hormesis.core.limits import Fixed, QueueDelay
from hormesis.core.shedder import ShedderTerms, ShedPermit
from hormesis.errors import ConfigurationError, Overloaded
from hormesis.patterns.load_shedder import LoadShedder
from hormesis.priority import Criticality
from hormesis.tables import read


def test_the_defaults_are_enough() -> None:
    """Nothing has to be said; what is said of time may be words."""
    shedder = LoadShedder()
    assert shedder._terms() == ShedderTerms(
        objective=0.25,
        quantile=0.99,
        max_queued=200,
        max_wait=None,
        shed_max=0.98,
        window=0.1,
        window_calls=1,
        most=10_000,
    )
    assert LoadShedder(objective="1s", max_wait="50ms")._terms().max_wait == 0.05
    assert LoadShedder.rejection is Overloaded
    assert pickle.loads(pickle.dumps(shedder)) == shedder


@pytest.mark.parametrize(
    ("limit", "kind", "window"),
    [
        ("queue delay", QueueDelay, 0.1),
        ("vegas", Vegas, 1.0),
        ("gradient2", Gradient2, 1.0),
        ("aimd", AIMD, 1.0),
        (7, Fixed, 1.0),
    ],
)
def test_how_the_limit_is_found(limit: Any, kind: type[Any], window: float) -> None:
    """Each way has its algorithm, with the bounds that were given, and windows that mean something to it."""
    shedder = LoadShedder(limit=limit, start=10, limit_min=5, limit_max=50)
    algorithm: Any = shedder.algorithm()
    assert type(algorithm) is kind
    assert shedder._terms().window == window
    if kind is Fixed:
        assert (algorithm.limit, shedder._terms().most) == (7.0, 7)
    else:
        assert (algorithm.limit, algorithm.least, algorithm.most, shedder._terms().most) == (10.0, 5, 50, 50)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"objective": 0}, "objective is 0"),
        ({"objective": "soon"}, "objective is 'soon'"),
        ({"quantile": 0.4}, "quantile is 0.4; it takes a share of the answers from 0.5 to 0.999"),
        ({"quantile": 1}, "quantile is 1; it takes"),
        ({"quantile": True}, "quantile is True; it takes"),
        ({"quantile": "0.99"}, "quantile is '0.99'; it takes"),
        ({"quantile": None}, "quantile is None; it takes"),
        ({"quantile": float("nan")}, "quantile is nan; it takes"),
        (
            {"limit": "codel"},
            "limit is 'codel'; it takes 'queue delay', 'vegas', 'gradient2', 'aimd', or a whole number",
        ),
        ({"limit": 0}, "limit is 0; it takes a whole number from 1"),
        ({"limit": 2.5}, "limit is 2.5"),
        ({"limit": True}, "limit is True"),
        ({"limit": None}, "limit is None"),
        ({"limit_min": 0}, "limit_min is 0"),
        ({"limit_max": 3}, "limit_max is 3"),
        ({"start": 3}, "start is 3; it takes a whole number from 4 to 10,000"),
        ({"start": 300, "limit_max": 200}, "start is 300"),
        ({"max_queued": -1}, "max_queued is -1; it takes a whole number from 0 to 100,000"),
        ({"max_wait": "-1s"}, "max_wait is '-1s'"),
        ({"shed_max": 0}, "shed_max is 0"),
        ({"shed_max": 1.5}, "shed_max is 1.5"),
    ],
)
def test_what_cannot_be_meant(settings: dict[str, Any], said: str) -> None:
    """The error shows the setting, its value and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        LoadShedder(**settings)
    assert said in str(caught.value)
    assert caught.value.key == next(iter(settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "answers within 250ms: a limit found by queue delay, 200 more wait"),
        ({"limit": 30, "max_queued": 0}, "answers within 250ms: at most 30 in flight, none wait"),
        (
            {"objective": "1s", "limit": "vegas", "max_wait": "100ms"},
            "answers within 1s: a limit found by vegas, 200 more wait up to 100ms",
        ),
    ],
)
def test_in_words(settings: dict[str, Any], said: str) -> None:
    """It tells what it aims at, how, and who waits."""
    assert LoadShedder(**settings).describe() == said


def test_at_most_so_many_are_at_most_so_many() -> None:
    """A number that stays is not exceeded for what matters more, also in an overload."""
    machine = LoadShedder(limit=10, max_queued=0, shed_max=1.0).machine(now=0.0)
    now, most = 0.0, 0
    permits: list[tuple[float, ShedPermit]] = []
    for number in range(3000):
        now += 0.002
        while permits and permits[0][0] <= now:
            machine.end(permits.pop(0)[1], now, good=True)
        said = machine.admit(Criticality(number % 4), number * 0.618 % 1, "", now)
        if isinstance(said, ShedPermit):
            permits.append((now + 0.1, said))
        most = max(most, machine.in_flight)
    assert machine.overloaded
    assert most == 10


def test_it_is_told_the_time_of_its_clock() -> None:
    """A machine that is told nothing of the time begins now."""
    machine = LoadShedder().machine()
    assert machine.due > 0.1
    assert LoadShedder().machine(now=0.0).due == pytest.approx(0.1)


def test_other_settings_go_on_with_the_machine() -> None:
    """Who is in stays in, and what was found is kept, within the new bounds."""
    machine = LoadShedder(start=40).machine(now=0.0)
    permit = machine.admit(Criticality.DEFAULT, 0.5, "", 0.0)
    assert isinstance(permit, ShedPermit)
    assert LoadShedder(objective="1s", limit_max=30).adopt(machine)
    assert (machine.limit, machine.in_flight, machine.terms.objective) == (30.0, 1, 1.0)
    assert LoadShedder(limit=3).adopt(machine)
    machine.end(permit, 0.1, good=True)
    assert (machine.limit, machine.in_flight, machine.terms.most) == (3.0, 0, 3)


def test_a_table_says_the_same() -> None:
    """What a file says is what code says, with words for numbers where it likes."""
    table = {"objective": "400ms", "limit": "vegas", "max_queued": 50, "shed_max": 0.9}
    assert read(LoadShedder, table, "load_shedder") == LoadShedder(
        objective=0.4, limit="vegas", max_queued=50, shed_max=0.9
    )
    assert read(LoadShedder, {"limit": 5}, "load_shedder").limit == 5
