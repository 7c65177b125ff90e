"""What frees a system that stays broken: the staircase, on systems that are known, and its timing."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.errors import ConfigurationError
from hormesis.gameday.freeing import Freeing, Recent, attempts_each
from hormesis.gameday.metastability import Hysteresis, Metastability, Staircase, State
from hormesis.loadgen import Answer, LoadDriver, LoadSpec, Request, RunResult, Sample, Samples, Segment

SPEC = LoadSpec(
    base_url="http://x", segments=[Segment(10, 10)], requests=[Request("a", path="/")], seed=1, process="constant"
)


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
    recent = Recent(SPEC, 100.0, lambda sample: sample.answer is Answer.FULL)
    assert recent.share(100, 105) == 0.0
    half = [100.05 + i / 10 for i in range(0, 50, 2)]
    recent.take([Sample(at, at, at, 0, Answer.FULL) for at in half])
    assert recent.share(100, 105) == pytest.approx(0.5, abs=0.03)
    recent.take([Sample(at + 0.1, at, at, 0, Answer.FAILED) for at in half])
    assert recent.share(100, 105) == pytest.approx(0.5, abs=0.03)
    assert recent.share(500, 505) == 1.0


def storm(until: float) -> RunResult:
    """A client that comes ten times a second; from 5 s on nothing is answered, and it asks three times.

    Another one, as often, never repeats anything.
    """
    samples, attempts = Samples(), Samples()
    for tick in range(round(until * 10)):
        at, times = tick / 10, 3 if tick >= 50 else 1
        answer = Answer.FAILED if times > 1 else Answer.FULL
        samples.extend(Samples(Sample(at, at, at + 0.3, request, answer) for request in (0, 1)))
        attempts.extend(Samples(Sample(at + n / 10, at, at + 0.1, 0, answer) for n in range(times)))
    return RunResult(
        samples=samples, attempts=attempts, start_at=0, cancelled=False, dropped=0, lag_p50=0, lag_p99=0, lag_max=0
    )


def test_attempts_for_each_request() -> None:
    """What is on the wire for each request that was due, in a time, is the true ratio; of nothing it is one."""
    result = storm(10.0)
    assert attempts_each(result, 0, 5) == pytest.approx(1.0)
    assert attempts_each(result, 6, 9) == pytest.approx((3 + 1) / 2)
    assert attempts_each(result, 20, 30) == 1.0
    assert attempts_each(result) == pytest.approx((100 + 50 + 150) / 200)


def test_the_first_step_has_its_attempts() -> None:
    """The load that was held all along repeats too: its step shows what it came to while it was judged."""

    async def main() -> Hysteresis:
        began = time.monotonic()
        idle = (LoadDriver(), LoadDriver())  # no load but the first is needed, for it is found to be well
        freeing = Freeing(Metastability(every=2), lambda level, number: SPEC, lambda sample: True, idle)
        recent = Recent(SPEC, began, lambda sample: True)
        recent.take([Sample(began + tick / 10, 0, 0, 0, Answer.FULL) for tick in range(100)])
        found = await freeing.follow(recent, began + 0.45, 1.0)
        end = began + 0.45
        result = storm(10.0)
        shifted = RunResult(
            **{
                **{field.name: getattr(result, field.name) for field in dataclasses.fields(result)},
                "samples": Samples(row._replace(intended=row.intended - 9 + end) for row in result.samples),
                "attempts": Samples(row._replace(intended=row.intended - 9 + end) for row in result.attempts),
            }
        )
        return freeing.told(found, shifted)

    found = asyncio.run(main())
    assert [step.attempts for step in found.steps] == [pytest.approx(2.0, abs=0.3)]


def test_the_dose_does_not_count() -> None:
    """The first load is judged by what was due when the system should be back, however long a step is."""
    freeing = Freeing(Metastability(every=10), lambda level, number: SPEC, bool, (LoadDriver(), LoadDriver()))
    assert freeing.window(100.0) == pytest.approx((94.0, 99.4))
    assert freeing.window(100.0, since=97.0) == pytest.approx((97.0, 99.4))
    assert freeing.window(100.0, since=99.9) == pytest.approx((98.9, 99.4))
