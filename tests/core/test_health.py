"""System health: readings against what they may be, and the factor that limits are multiplied by."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.admission import NullLock
from hormesis.core.health import HealthMachine, HealthTerms
from hormesis.errors import ConfigurationError
from hormesis.patterns.system_health import SystemHealth
from hormesis.tables import read

TERMS = HealthTerms(
    ceilings={"cpu": 0.8, "memory": 0.9}, factor_min=0.1, relief=0.9, recover_over=10, forget_after=5, step=1
)


def made() -> HealthMachine:
    return HealthMachine(TERMS, NullLock())


def test_well_is_one() -> None:
    """Without readings, and with such as are below their ceilings, nothing is held down."""
    machine = made()
    assert machine.settle(0.0) == 1.0
    assert machine.report({"cpu": 0.7, "memory": 0.5}, 1.0) == 1.0
    assert machine.worst == ""


def test_a_strain_lowers_the_factor_by_what_it_is_too_much() -> None:
    """A quarter above the ceiling leaves four fifths, once a step."""
    machine = made()
    assert machine.report({"cpu": 1.0}, 0.0) == pytest.approx(0.8)
    assert machine.report({"cpu": 1.0}, 0.5) == pytest.approx(0.8)
    assert machine.report({"cpu": 1.0}, 1.0) == pytest.approx(0.64)
    assert machine.worst == "cpu"


def test_the_worst_strain_counts() -> None:
    """A memory that is full is not made better by a processor that is idle."""
    machine = made()
    machine.report({"cpu": 0.81, "memory": 0.99}, 0.0)
    assert machine.factor == pytest.approx(0.9 / 0.99)
    assert machine.worst == "memory"


def test_a_step_takes_half_at_most() -> None:
    """However large the strain: one reading may be a mistake."""
    machine = made()
    assert machine.report({"cpu": math.inf}, 0.0) == 0.5


def test_it_never_falls_to_nothing() -> None:
    """What is let in shows whether it is well again."""
    machine = made()
    for second in range(20):
        machine.report({"cpu": 80.0}, second)
    assert machine.factor == 0.1


def test_just_below_the_ceiling_it_stays() -> None:
    """Between relief and ceiling the factor is right as it is."""
    machine = made()
    machine.report({"cpu": 1.0}, 0.0)
    assert machine.report({"cpu": 0.75}, 5.0) == pytest.approx(0.8)
    assert machine.worst == "cpu"


def test_it_rises_slowly() -> None:
    """A tenth a second here, and no more at once, however long nobody asked."""
    machine = made()
    machine.report({"cpu": 1.0}, 0.0)
    assert machine.report({"cpu": 0.1}, 1.0) == pytest.approx(0.9)
    assert machine.report({"cpu": 0.1}, 1.5) == pytest.approx(0.95)
    assert machine.worst == "cpu"
    assert machine.report({"cpu": 0.1}, 100.0) == 1.0
    assert machine.worst == ""


def test_a_silent_reader_is_forgotten() -> None:
    """A reading counts for a while, and then no more, so that a broken reader shuts nobody out for ever."""
    machine = made()
    machine.report({"cpu": 1.0}, 0.0)
    assert machine.readings(4.9) == {"cpu": 1.0}
    machine.report({"cpu": None}, 4.0)
    assert machine.factor == pytest.approx(0.64)
    assert machine.readings(5.0) == {}
    for second in range(5, 15):
        machine.settle(second)
    assert machine.factor == 1.0


def test_a_health_bounds_the_factor() -> None:
    """At a health of 0.3 three tenths are open, at once; and it rises no further than health allows."""
    machine = made()
    assert machine.report({"own": 0.3, "other": 0.6}, 0.0) == 0.3
    assert machine.worst == "own"
    assert machine.report({"own": 0.5, "other": 1.0}, 1.0) == pytest.approx(0.4)
    assert machine.report({"own": 0.5}, 2.0) == 0.5
    assert machine.report({"own": 0.5}, 3.0) == 0.5
    assert machine.worst == "own"
    assert machine.report({"own": 0.0}, 4.0) == 0.1


def test_what_is_no_number_says_nothing() -> None:
    """A reading that can't be compared is none."""
    machine = made()
    assert machine.report({"cpu": math.nan, "own": math.nan}, 0.0) == 1.0
    assert machine.readings(0.0) == {}


def test_readings_are_bounded() -> None:
    """Names without end fill no memory, and those that are known go on being heard."""
    machine = made()
    machine.report({"cpu": 0.1}, 0.0)
    machine.report({str(name): 1.0 for name in range(1000)}, 0.0)
    assert len(machine.readings(0.0)) == 100
    assert machine.report({"cpu": 1.0}, 0.0) == pytest.approx(0.8)


def test_a_clock_that_goes_back_does_no_harm() -> None:
    """Threads may come with times that are out of order."""
    machine = made()
    machine.report({"cpu": 1.0}, 10.0)
    assert machine.report({"cpu": 0.1}, 9.0) == pytest.approx(0.8)


def test_other_terms_keep_the_factor() -> None:
    """Within their bounds."""
    machine = made()
    machine.report({"own": 0.1}, 0.0)
    machine.become(SystemHealth(factor_min=0.4).terms())
    assert machine.factor == 0.4


def test_a_limit_settles_where_the_processors_are_busy_and_not_more() -> None:
    """Held down by the factor, a service that could use twice its processors comes to just below the ceiling."""
    machine = SystemHealth(cpu=0.8, memory=None).machine(NullLock())
    factor, used = 1.0, []
    for half_seconds in range(400):
        cpu = min(1.0, 2.0 * factor)
        used.append(cpu)
        factor = machine.report({"cpu": cpu}, half_seconds / 2)
    assert min(used[40:]) >= 0.7
    assert max(used[40:]) <= 0.82
    assert max(used[-100:]) - min(used[-100:]) < 0.12


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(["cpu", "memory", "own"]), st.none() | st.floats()), st.floats(0, 10)
        ),
        max_size=30,
    )
)
def test_a_factor_is_always_one(reports: list[tuple[dict[str, float | None], float]]) -> None:
    """Whatever is read, it is between its bounds, and back at 1 once all is silent for long enough."""
    machine, now = made(), 0.0
    for readings, passed in reports:
        now += passed
        assert 0.1 <= machine.report(readings, now) <= 1.0
    for _ in range(20):
        now += 1
        machine.settle(now)
    assert machine.factor == 1.0


# Settings.


def test_defaults_watch_processors_and_memory() -> None:
    """And nothing that is a matter of taste."""
    assert SystemHealth().ceilings() == {"cpu": 0.95, "memory": 0.9}


def test_settings_in_words() -> None:
    """All that is watched, and that something is always open."""
    everything = SystemHealth(process_cpu=1.5, cpu_pressure=0.5, loop_lag="100ms", function=lambda: 1.0)
    assert everything.describe() == (
        "less while the processors are above 95% or the process uses more than 1.5 processors or work waits for a "
        "processor more than 50% of the time or memory is above 90% or the loop lags by more than 100ms or its own "
        "function says so, and 10% at least"
    )
    assert SystemHealth(cpu=None, memory=None).describe() == "nothing is watched"
    assert everything.ceilings() == {
        "cpu": 0.95,
        "process_cpu": 1.5,
        "cpu_pressure": 0.5,
        "memory": 0.9,
        "loop_lag": 0.1,
    }


def test_settings_make_a_machine() -> None:
    """It falls at most every two readings."""
    machine = SystemHealth(cpu=0.8, every="1s").machine(NullLock())
    assert machine.report({"cpu": 1.0}, 0.0) == pytest.approx(0.8)
    assert machine.report({"cpu": 1.0}, 1.0) == pytest.approx(0.8)
    assert machine.report({"cpu": 1.0}, 2.0) == pytest.approx(0.64)


def test_settings_from_a_file() -> None:
    """A table holds all but functions."""
    assert read(SystemHealth, {"cpu": 0.8, "loop_lag": "50ms"}, "health") == SystemHealth(cpu=0.8, loop_lag=0.05)


async def _asynchronous() -> float:
    return 1.0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cpu": 0}, "cpu is 0; it takes a share"),
        ({"memory": 1.5}, "memory is 1.5"),
        ({"cpu_pressure": "much"}, "cpu_pressure is 'much'"),
        ({"process_cpu": 0}, "process_cpu is 0; it takes a number from 0.01"),
        ({"loop_lag": 0}, "loop_lag is 0"),
        ({"function": 1.0}, "function is 1.0; it takes a synchronous function"),
        ({"function": _asynchronous}, "a synchronous function"),
        ({"every": 0}, "every is 0"),
        ({"recover_over": -1}, "recover_over is -1"),
        ({"forget_after": "500ms"}, "forget_after is 0.5; it takes more than every (500ms)"),
        ({"factor_min": 0}, "factor_min is 0"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], says: str) -> None:
    """The error names the setting, its value, and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        SystemHealth(**settings)
    assert says in str(caught.value)
