"""The circuit breaker, one example per transition, and one per way in which a shipped breaker is known to go wrong."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.core.admission import NullLock, Permit, Refusal, Transition
from hormesis.core.breaker import BreakerMachine, BreakerState
from hormesis.core.window import CountWindow, Tally, TimeWindow
from hormesis.outcome import Ending

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
SUCCESS, FAILURE = Ending.SUCCESS, Ending.FAILURE
NEITHER = [Ending.IGNORED, Ending.CANCELLED, Ending.ABANDONED]


def breaker(**settings: Any) -> BreakerMachine:
    """Make a breaker that opens at 2 failures of at least 4 calls, for 10 s, with 3 probes."""
    defaults: dict[str, Any] = {
        "window": CountWindow(10),
        "failure_rate": 0.5,
        "consecutive": None,
        "slow_after": None,
        "slow_rate": 0.5,
        "minimum_calls": 4,
        "open_for": 10.0,
        "probes": 3,
        "probe_expires": 30.0,
        "lock": NullLock(),
    }
    return BreakerMachine(**(defaults | settings))


def admitted(machine: BreakerMachine, now: float = 0.0) -> Permit:
    permit = machine.acquire(now)
    assert isinstance(permit, Permit)
    return permit


def refused(machine: BreakerMachine, now: float = 0.0) -> Refusal:
    """Ask both ways; they must agree."""
    refusal = machine.acquire(now)
    assert isinstance(refusal, Refusal)
    assert machine.refusal(now) == refusal
    return refusal


def play(machine: BreakerMachine, *endings: Ending, now: float = 0.0, took: float = 0.0) -> None:
    """Let one call after the other in, and end each at `now`."""
    for ending in endings:
        machine.end(admitted(machine, now - took), ending, now - took, now)


def opened(**settings: Any) -> BreakerMachine:
    """Make a breaker that has opened at 0 s and told of it."""
    machine = breaker(**settings)
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE)
    assert machine.state is OPEN
    machine.outbox.clear()
    return machine


def test_closed_lets_everybody_in() -> None:
    """A closed breaker refuses nobody, however many are in."""
    machine = breaker()
    assert all(isinstance(machine.acquire(0.0), Permit) for _ in range(1000))
    assert machine.refusal(0.0) is None


def test_closed_to_open_by_failures() -> None:
    """It opens with the failure that reaches the rate, and says how many failed."""
    machine = breaker()
    play(machine, SUCCESS, SUCCESS, SUCCESS, FAILURE, FAILURE)
    assert machine.state is CLOSED
    play(machine, FAILURE)
    assert machine.state is OPEN
    assert list(machine.outbox) == [Transition("closed", "open", "3 of 6 calls failed")]


def test_no_verdict_before_the_minimum_of_calls() -> None:
    """A rate means nothing while the window holds fewer calls than the minimum."""
    machine = breaker(minimum_calls=4)
    play(machine, FAILURE, FAILURE, FAILURE)
    assert machine.state is CLOSED
    play(machine, FAILURE)
    assert machine.state is OPEN


def test_a_success_never_opens() -> None:
    """A plain success that completes the minimum opens nothing: the next failure does."""
    machine = breaker(minimum_calls=4)
    play(machine, FAILURE, FAILURE, FAILURE, SUCCESS)
    assert machine.state is CLOSED
    play(machine, FAILURE)
    assert machine.state is OPEN


@pytest.mark.parametrize("failures", [7, 14, 28, 29, 55])
def test_a_rate_is_reached_exactly(failures: int) -> None:
    """With a rate of 0.07, seven failures in a hundred calls open it: no rounding of floats gets in the way."""
    machine = breaker(window=CountWindow(100), minimum_calls=100, failure_rate=failures / 100)
    play(machine, *[SUCCESS] * (100 - failures), *[FAILURE] * (failures - 1))
    assert machine.state is CLOSED
    play(machine, FAILURE)
    assert machine.state is OPEN


def test_closed_to_open_by_slow_calls() -> None:
    """Slow calls open it at a rate of their own, even when they succeed."""
    machine = breaker(slow_after=0.3, slow_rate=0.5)
    play(machine, SUCCESS, SUCCESS, took=0.29)
    play(machine, SUCCESS, took=0.3)
    assert machine.state is CLOSED
    play(machine, SUCCESS, took=0.3)
    assert machine.state is OPEN
    assert machine.outbox[-1].reason == "2 of 4 calls were slow"


def test_slow_calls_are_no_matter_unless_asked() -> None:
    """Without `slow_after`, no call is slow."""
    machine = breaker()
    play(machine, *[SUCCESS] * 20, took=3600.0)
    assert machine.tally(0.0) == Tally(calls=10, failures=0, slow=0)


def test_a_window_of_time_forgets() -> None:
    """With a window of time, failures that are long past don't open it."""
    machine = breaker(window=TimeWindow(10.0))
    play(machine, FAILURE, FAILURE, FAILURE, now=0.0)
    play(machine, FAILURE, now=20.0)
    assert machine.state is CLOSED
    play(machine, FAILURE, FAILURE, FAILURE, now=21.0)
    assert machine.state is OPEN


def test_open_refuses_and_says_when_to_come_back() -> None:
    """An open breaker refuses at once, with the time that is left of it."""
    machine = opened()
    assert refused(machine, 0.0) == Refusal("open", 10.0)
    assert refused(machine, 7.5) == Refusal("open", 2.5)


def test_open_to_half_open() -> None:
    """When its time is over, whoever asks first makes it half-open; looking alone changes nothing."""
    machine = opened()
    assert machine.refusal(10.0) is None
    assert machine.state is OPEN
    admitted(machine, 10.0)
    assert machine.state is HALF_OPEN
    assert list(machine.outbox) == [Transition("open", "half-open", "its open time is over")]


def test_half_open_admits_no_more_than_its_probes() -> None:
    """Ten callers that come at once in half-open get three probes between them."""
    machine = opened(probes=3)
    answers = [machine.acquire(10.0) for _ in range(10)]
    assert sum(isinstance(answer, Permit) for answer in answers) == 3
    assert refused(machine, 10.0) == Refusal("half-open", None)


def test_half_open_judges_no_more_than_its_probes() -> None:
    """A judged probe's place is not given away again while the verdict is open."""
    machine = opened(probes=3)
    first, second, third = (admitted(machine, 10.0) for _ in range(3))
    machine.end(first, SUCCESS, 10.0, 10.1)
    refused(machine, 10.2)
    machine.end(second, FAILURE, 10.0, 10.3)
    refused(machine, 10.4)
    machine.succeed(third, 10.0, 10.5)
    assert machine.state is CLOSED


@pytest.mark.parametrize(
    ("probes", "rate", "endings", "state"),
    [
        (3, 0.5, [SUCCESS], HALF_OPEN),
        (3, 0.5, [SUCCESS, SUCCESS], CLOSED),
        (3, 0.5, [FAILURE], HALF_OPEN),
        (3, 0.5, [FAILURE, FAILURE], OPEN),
        (3, 0.5, [FAILURE, SUCCESS, SUCCESS], CLOSED),
        (3, 0.5, [FAILURE, SUCCESS, FAILURE], OPEN),
        (1, 0.5, [SUCCESS], CLOSED),
        (1, 0.01, [FAILURE], OPEN),
        (4, 1.0, [SUCCESS], CLOSED),
        (4, 1.0, [FAILURE, FAILURE, FAILURE, FAILURE], OPEN),
        (10, 0.3, [FAILURE, FAILURE, FAILURE], OPEN),
        (10, 0.3, [SUCCESS] * 7, HALF_OPEN),
        (10, 0.3, [SUCCESS] * 8, CLOSED),
    ],
)
def test_the_verdict_of_probes(probes: int, rate: float, endings: list[Ending], state: BreakerState) -> None:
    """Probes are judged by the failure rate, as soon as the rest can't change the verdict."""
    machine = opened(probes=probes, failure_rate=rate)
    play(machine, *endings, now=10.0)
    assert machine.state is state


def test_half_open_to_closed_starts_a_new_window() -> None:
    """After the probes have answered it is closed, tells of it, and remembers nothing of before."""
    machine = opened()
    play(machine, SUCCESS, SUCCESS, now=10.0)
    assert machine.outbox[-1] == Transition("half-open", "closed", "the probes answered")
    assert machine.tally(10.0) == Tally(0, 0, 0)
    play(machine, FAILURE, FAILURE, FAILURE, now=10.0)
    assert machine.state is CLOSED


def test_half_open_to_open_waits_its_full_time_again() -> None:
    """Failed probes open it again, for the whole time from then on."""
    machine = opened()
    play(machine, FAILURE, FAILURE, now=12.0)
    assert machine.outbox[-1] == Transition("half-open", "open", "2 of 3 probes failed")
    assert refused(machine, 12.0) == Refusal("open", 10.0)
    admitted(machine, 22.0)


def test_slow_probes_open_it_again() -> None:
    """Probes are judged by the slow rate as well."""
    machine = opened(slow_after=1.0)
    first, second = admitted(machine, 10.0), admitted(machine, 10.0)
    machine.succeed(first, 10.0, 12.0)
    machine.succeed(second, 10.0, 12.0)
    assert machine.outbox[-1] == Transition("half-open", "open", "2 of 3 probes were slow")


@pytest.mark.parametrize("ending", NEITHER)
def test_what_is_neither_success_nor_failure_while_closed(ending: Ending) -> None:
    """A call that was cancelled, ignored or abandoned counts neither way."""
    machine = breaker()
    play(machine, *[ending] * 100)
    assert machine.state is CLOSED
    assert machine.tally(0.0) == Tally(0, 0, 0)


@pytest.mark.parametrize("ending", NEITHER)
def test_a_probe_without_a_verdict_gives_its_place_back(ending: Ending) -> None:
    """A probe that was cancelled or ignored neither closes nor opens it, and another may go in its place."""
    machine = opened(probes=1)
    for _ in range(5):
        play(machine, ending, now=10.0)
        assert machine.state is HALF_OPEN
    play(machine, SUCCESS, now=10.0)
    assert machine.state is CLOSED


def test_a_probe_that_was_not_used_gives_its_place_back() -> None:
    """A probe that is put back, because another part refused, leaves its place to the next."""
    machine = opened(probes=1)
    probe = admitted(machine, 10.0)
    refused(machine, 10.0)
    machine.put_back(probe)
    admitted(machine, 10.0)


def test_a_pass_that_was_not_used_leaves_no_trace() -> None:
    """Putting back a permit of the closed state changes nothing."""
    machine = breaker()
    machine.put_back(admitted(machine))
    assert machine.tally(0.0) == Tally(0, 0, 0)


def test_a_hung_probe_expires() -> None:
    """A probe that never returns gives its place to another when it expires, and is not judged if it returns then."""
    machine = opened(probes=1, probe_expires=30.0)
    hung = admitted(machine, 10.0)
    refused(machine, 39.9)
    second = admitted(machine, 40.0)
    machine.end(hung, FAILURE, 10.0, 41.0)
    assert machine.state is HALF_OPEN
    machine.end(second, SUCCESS, 40.0, 42.0)
    assert machine.state is CLOSED


def test_only_the_expired_probes_give_their_place() -> None:
    """Probes expire each at its own time."""
    machine = opened(probes=2, probe_expires=30.0)
    admitted(machine, 10.0)
    admitted(machine, 20.0)
    refused(machine, 39.0)
    admitted(machine, 40.0)
    refused(machine, 49.0)
    admitted(machine, 50.0)


def test_stale_outcomes_do_not_judge_half_open() -> None:
    """What a call that was admitted while closed says when it ends while half-open changes nothing."""
    machine = breaker(probes=1)
    stale = [admitted(machine) for _ in range(10)]
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE)
    probe = admitted(machine, 10.0)
    for permit in stale[:5]:
        machine.succeed(permit, 0.0, 10.5)
    for permit in stale[5:]:
        machine.end(permit, FAILURE, 0.0, 10.5)
    assert machine.state is HALF_OPEN
    machine.succeed(probe, 10.0, 11.0)
    assert machine.state is CLOSED


def test_stale_outcomes_do_not_count_in_the_next_closed_state() -> None:
    """Calls from before an outage that end after it say nothing of the time after it."""
    machine = breaker()
    stale = [admitted(machine) for _ in range(20)]
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE)
    play(machine, SUCCESS, SUCCESS, now=10.0)
    assert machine.state is CLOSED
    for permit in stale:
        machine.end(permit, FAILURE, 0.0, 11.0)
    assert machine.state is CLOSED
    assert machine.tally(11.0) == Tally(0, 0, 0)


def test_probes_of_an_earlier_half_open_do_not_count_in_a_later_one() -> None:
    """A probe belongs to its own era."""
    machine = opened(probes=3)
    late = admitted(machine, 10.0)
    play(machine, FAILURE, FAILURE, now=10.0)
    first = admitted(machine, 20.0)
    machine.succeed(late, 10.0, 20.1)
    machine.succeed(first, 20.0, 20.2)
    assert machine.state is HALF_OPEN


def test_a_permit_ends_once() -> None:
    """A probe that has ended already changes nothing when it ends again."""
    machine = opened(probes=3)
    probe = admitted(machine, 10.0)
    machine.end(probe, FAILURE, 10.0, 10.0)
    machine.end(probe, FAILURE, 10.0, 10.0)
    assert machine.state is HALF_OPEN


def test_each_change_of_state_is_a_new_era() -> None:
    """Eras number the changes of state."""
    machine = breaker()
    assert machine.era == 0
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE)
    play(machine, SUCCESS, SUCCESS, now=10.0)
    assert machine.era == 3
    assert admitted(machine, 10.0).era == 3


def test_the_outbox_is_bounded() -> None:
    """Changes of state that nobody fetches don't pile up."""
    machine = opened(probes=1)
    for turn in range(1, 500):
        play(machine, FAILURE, now=10.0 * turn)
    assert len(machine.outbox) <= 100
    assert machine.outbox[-1].after == "open"


@pytest.mark.parametrize("window", [CountWindow(10), TimeWindow(10.0)], ids=["calls", "time"])
def test_failures_in_a_row(window: Any) -> None:
    """So many failures in a row open it, whatever the minimum of calls; a success between them begins a new row."""
    machine = breaker(window=window, consecutive=3, minimum_calls=100)
    for ending in (Ending.FAILURE, Ending.FAILURE, Ending.SUCCESS, Ending.FAILURE, Ending.FAILURE):
        machine.end(taken(machine), ending, 0.0, 0.0)
    assert machine.state is BreakerState.CLOSED
    machine.end(taken(machine), Ending.IGNORED, 0.0, 0.0)
    machine.end(taken(machine), Ending.FAILURE, 0.0, 0.0)
    assert machine.outbox == [Transition("closed", "open", "3 calls failed in a row")]


def taken(machine: BreakerMachine) -> Permit:
    permit = machine.acquire(0.0)
    assert isinstance(permit, Permit)
    return permit
