"""One call under one policy: a table of scenarios, run in every colour."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pytest

import hormesis as hm
from hormesis.patterns.part import Part
from hormesis.testing import ManualClock

RESET = ConnectionResetError
BOOM = ZeroDivisionError
GONE = functools.partial(hm.Rejected, "elsewhere", "full")

RETRY = hm.Retry(attempts=3, on="transient", delay="100ms", jitter="none")
THIRD_SUCCEEDS = ["attempt_failed", "retry_scheduled", "attempt_failed", "retry_scheduled", "retry_succeeded"]
THREE_FAIL = ["attempt_failed", "retry_scheduled"] * 2 + ["attempt_failed", "retry_stopped"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """A policy, what the dependency does, and what must come of it."""

    promise: str
    parts: Sequence[Part] = ()
    order: Any = "standard"
    steps: Sequence[Any]
    answer: Any = None
    error: type[Exception] | None = None
    note: str = ""
    calls: int = 1
    slept: float = 0.0
    events: Sequence[str] = ()


def fails(error: Exception) -> Any:
    """Return a fallback function that raises."""

    def fallback(*args: object) -> Any:
        raise error

    return fallback


SCENARIOS = [
    Scenario(promise="a success is passed through, in silence", steps=[3], answer=3),
    Scenario(promise="None is an answer too", steps=[None], answer=None),
    Scenario(promise="a failure is passed through", steps=[BOOM], error=BOOM, events=["attempt_failed"]),
    Scenario(
        promise="a healthy call passes every part in silence",
        parts=[
            hm.Fallback(value=0),
            hm.Deadline("5s"),
            RETRY,
            hm.CircuitBreaker(),
            hm.Bulkhead(1),
            hm.Timeout("5s", threads=1),
        ],
        steps=[3],
        answer=3,
    ),
    Scenario(
        promise="transient failures are retried after a growing delay",
        parts=[RETRY],
        steps=[RESET, RESET, 3],
        answer=3,
        calls=3,
        slept=0.1 + 0.2,
        events=THIRD_SUCCEEDS,
    ),
    Scenario(
        promise="when all attempts have failed, the last real exception comes out, with a note",
        parts=[RETRY],
        steps=[TimeoutError, TimeoutError, RESET],
        error=RESET,
        note="gave up after attempt 3: no attempts left",
        calls=3,
        slept=0.1 + 0.2,
        events=THREE_FAIL,
    ),
    Scenario(
        promise="what is not worth a retry is not repeated",
        parts=[RETRY],
        steps=[BOOM],
        error=BOOM,
        events=["attempt_failed"],
    ),
    Scenario(
        promise="rejections are never repeated, whatever on= says",
        parts=[hm.Retry(on=("any", "rejected", hm.Rejected))],
        steps=[GONE],
        error=hm.Rejected,
    ),
    Scenario(
        promise="nothing is slept that the deadline leaves no time for",
        parts=[hm.Deadline("1s"), hm.Retry(on="transient", delay="2s", jitter="none")],
        steps=[RESET],
        error=RESET,
        note="gave up after attempt 1: no time left",
        events=["attempt_failed", "retry_stopped"],
    ),
    Scenario(
        promise="a fallback value answers for a failure",
        parts=[hm.Fallback(value=[])],
        steps=[BOOM],
        answer=[],
        events=["attempt_failed", "fallback_answered"],
    ),
    Scenario(
        promise="None can be the fallback",
        parts=[hm.Fallback(value=None)],
        steps=[BOOM],
        answer=None,
        events=["attempt_failed", "fallback_answered"],
    ),
    Scenario(
        promise="a fallback function answers for a failure, with the call's arguments",
        parts=[hm.Fallback(lambda sku: f"old {sku}")],
        steps=[BOOM],
        answer="old tea",
        events=["attempt_failed", "fallback_answered"],
    ),
    Scenario(
        promise="a fallback answers for a rejection",
        parts=[hm.Fallback(value=0)],
        steps=[GONE],
        answer=0,
        events=["fallback_answered"],
    ),
    Scenario(
        promise="a fallback leaves alone what it is not for",
        parts=[hm.Fallback(value=0, on="timeout")],
        steps=[BOOM],
        error=BOOM,
        events=["attempt_failed"],
    ),
    Scenario(
        promise="a fallback answers once, after all retries",
        parts=[RETRY, hm.Fallback(value=0)],
        steps=[RESET],
        answer=0,
        calls=3,
        slept=0.1 + 0.2,
        events=[*THREE_FAIL, "fallback_answered"],
    ),
    Scenario(
        promise="when the fallback fails, the caller gets the original failure, with a note",
        parts=[hm.Fallback(fails(KeyError("no copy")))],
        steps=[BOOM],
        error=BOOM,
        note="the fallback of policy 'p' had no answer either: KeyError('no copy')",
        events=["attempt_failed", "fallback_failed"],
    ),
    Scenario(
        promise="in an order as given, a retry outside a retry multiplies",
        parts=[
            hm.Retry(on="any", attempts=2, delay=0, budget=None),
            hm.Timeout("5s", threads=1),
            hm.Retry(on="any", attempts=3, delay=0, budget=None),
        ],
        order="as given",
        steps=[BOOM],
        error=BOOM,
        note="gave up after attempt 3: no attempts left",
        calls=6,
        events=[*THREE_FAIL, "attempt_failed", "retry_scheduled", *THREE_FAIL, "attempt_failed", "retry_stopped"],
    ),
    Scenario(
        promise="in an order as given, a breaker outside a retry sees only the end of it",
        parts=[hm.CircuitBreaker(minimum_calls=1, failure_rate=0.1), RETRY],
        order="as given",
        steps=[RESET, RESET, 3],
        answer=3,
        calls=3,
        slept=0.1 + 0.2,
        events=THIRD_SUCCEEDS,
    ),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.promise)
def test_one_call(scenario: Scenario, colour: Any, dependency: Any, heard: Any) -> None:
    """The promise of each scenario holds, in answer, calls, sleep and events."""
    parts = [paint(part, colour) for part in scenario.parts]
    clock, called = ManualClock(), dependency(*scenario.steps)
    policy = hm.Policy(*parts, name="p", order=scenario.order, clock=clock, events=heard.bus)

    if scenario.error is None:
        assert colour.call(policy, called, "tea") == scenario.answer
    else:
        with pytest.raises(scenario.error) as caught:
            colour.call(policy, called, "tea")
        assert caught.value is called.raised[-1]
        assert_noted(caught.value, scenario.note)

    assert called.calls == scenario.calls
    assert clock.now() == pytest.approx(scenario.slept)
    assert heard.names == list(scenario.events)


def paint(part: Part, colour: Any) -> Part:
    """Give a fallback function the colour of the call."""
    if isinstance(part, hm.Fallback) and part.function is not None:
        return hm.Fallback(colour.paint(part.function), on=part.on)
    return part


def assert_noted(error: BaseException, note: str) -> None:
    notes = getattr(error, "__notes__", [])
    assert any(note in text for text in notes) if note else not notes
