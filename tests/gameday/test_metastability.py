"""What frees a system that stays broken: the staircase, on systems that are known, and its timing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.errors import ConfigurationError
from hormesis.gameday.freeing import Recent
from hormesis.gameday.metastability import Hysteresis, Metastability, Staircase, State
from hormesis.loadgen import Answer, LoadSpec, Request, Sample, Segment


class Stubborn:
    """A system with two states: it breaks above one load, and recovers only below a lower one."""

    def __init__(self, breaks: float, recovers: float) -> None:
        self.breaks, self.recovers = breaks, recovers
        self.broken = True

    def good(self, level: float) -> float:
        if self.broken:
            self.broken = level > self.recovers
        else:
            self.broken = level > self.breaks
        return 0.1 if self.broken else 1.0


def freed(system: Stubborn, settings: Metastability) -> Hysteresis:
    stairs = Staircase(settings, calm_good=1.0)
    steps = 0
    while stairs.level is not None:
        stairs.saw(system.good(stairs.level))
        steps += 1
        assert steps < 200
    return stairs.found


@given(st.floats(0.05, 1.5), st.floats(0.05, 1.5), st.floats(0.3, 0.9), st.floats(0.05, 0.5))
def test_a_staircase_ends_and_tells_the_truth(one: float, other: float, step: float, least: float) -> None:
    """Whatever the system, it ends; it recovers at a load at which the system does, within a step of the highest."""
    recovers, breaks = min(one, other), max(one, other)
    found = freed(Stubborn(breaks, recovers), Metastability(step=step, least=least))
    assert found.steps[0].level == 1.0
    if recovers >= 1.0:
        assert (found.state, found.gap) == (State.RECOVERED, 0.0)
    elif found.recovers_at is None:
        assert found.state is State.STUCK
        assert recovers < least / step + 1e-9
        assert found.gap == 1.0
    else:
        assert found.state is State.METASTABLE
        assert recovers * step - 1e-9 <= found.recovers_at <= recovers
        assert (found.breaks_at is None) == (breaks >= 1.0)
        if found.breaks_at is not None:
            assert breaks < found.breaks_at <= breaks / step + 1e-9


def test_what_is_well_enough() -> None:
    """A system is well again when good answers are nine tenths as frequent as in calm."""
    stairs = Staircase(Metastability(), calm_good=0.8)
    stairs.saw(0.72)
    assert (stairs.level, stairs.found.state) == (None, State.RECOVERED)
    with pytest.raises(RuntimeError, match="has ended"):
        stairs.saw(1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 1.0}, "step is 1.0; it takes a share from 0.1 to 0.95"),
        ({"least": 0}, "least is 0; it takes a share above 0 and below 1"),
        ({"every": "1s"}, "every is '1s'; it takes at least 2 s"),
    ],
)
def test_settings_that_can_not_be_meant(settings: dict[str, object], message: str) -> None:
    """What can't be meant is refused when it is made."""
    with pytest.raises(ConfigurationError) as caught:
        Metastability(**settings)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_what_was_due_and_is_not_answered_is_not_good() -> None:
    """The share is of what was due by the schedule, answered or not, so silence is no good sign."""
    spec = LoadSpec(
        base_url="http://x", segments=[Segment(10, 10)], requests=[Request("a", path="/")], seed=1, process="constant"
    )
    recent = Recent(spec, 100.0, lambda sample: sample.answer is Answer.FULL)
    assert recent.share(100, 105) == 0.0
    half = [100.05 + i / 10 for i in range(0, 50, 2)]
    recent.take([Sample(at, at, at, 0, Answer.FULL) for at in half])
    assert recent.share(100, 105) == pytest.approx(0.5, abs=0.03)
    recent.take([Sample(at + 0.1, at, at, 0, Answer.FAILED) for at in half])
    assert recent.share(100, 105) == pytest.approx(0.5, abs=0.03)
    assert recent.share(500, 505) == 1.0
