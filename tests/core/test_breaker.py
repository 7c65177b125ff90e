"""The circuit breaker, one example per transition, and one per way in which a shipped breaker is known to go wrong."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import hormesis as hm
from hormesis.core.admission import NullLock, Permit, Refusal, Transition
from hormesis.core.breaker import BreakerMachine, BreakerState, BreakerTerms
from hormesis.core.window import Tally
from hormesis.outcome import Ending, FailureKind, UnwantedResult

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
RECOVERING, ISOLATED, DISABLED = BreakerState.RECOVERING, BreakerState.ISOLATED, BreakerState.DISABLED
SUCCESS, FAILURE = Ending.SUCCESS, Ending.FAILURE
NEITHER = [Ending.IGNORED, Ending.CANCELLED, Ending.ABANDONED]


class Dice:
    """A source of randomness that always says the same."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def terms(**settings: Any) -> BreakerTerms:
    """Terms that open at half of at least 4 calls, for 10 s, however often, with 3 probes, and nothing else."""
    defaults: dict[str, Any] = {
        "window_calls": None if "window_seconds" in settings else 10,
        "window_seconds": None,
        "failure_rate": 0.5,
        "consecutive": None,
        "quiet": None,
        "slow_after": math.inf,
        "slow_rate": 0.5,
        "minimum_calls": 4,
        "open_for": 10.0,
        "open_for_max": settings.get("open_for", 10.0),
        "retry_after_max": 60.0,
        "probes": 3,
        "probe_expires": 30.0,
        "recover_over": None,
    }
    return BreakerTerms(**(defaults | settings))


def breaker(dice: float = 0.5, **settings: Any) -> BreakerMachine:
    """Make a breaker by these terms."""
    return BreakerMachine(terms(**settings), NullLock(), Dice(dice))


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


def told(machine: BreakerMachine) -> list[Transition]:
    """Take what it has to tell."""
    outbox, machine.outbox = machine.outbox or [], None
    return outbox


def opened(dice: float = 0.5, **settings: Any) -> BreakerMachine:
    """Make a breaker that has opened at 0 s and told of it."""
    machine = breaker(dice, **settings)
    play(machine, *[FAILURE] * machine.terms.minimum_calls)
    assert machine.state is OPEN
    told(machine)
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
    assert told(machine) == [Transition("closed", "open", "3 of 6 calls failed")]


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
    machine = breaker(window_calls=100, minimum_calls=100, failure_rate=failures / 100)
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
    assert told(machine)[-1].reason == "2 of 4 calls were slow"


def test_slow_calls_are_no_matter_unless_asked() -> None:
    """Without `slow_after`, no call is slow."""
    machine = breaker()
    play(machine, *[SUCCESS] * 20, took=3600.0)
    assert machine.tally(0.0) == Tally(calls=10, failures=0, slow=0)


def test_a_window_of_time_forgets() -> None:
    """With a window of time, failures that are long past don't open it."""
    machine = breaker(window_seconds=10.0)
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
    assert told(machine) == [Transition("open", "half-open", "its open time is over")]


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
    assert told(machine)[-1] == Transition("half-open", "closed", "the probes answered")
    assert machine.tally(10.0) == Tally(0, 0, 0)
    play(machine, FAILURE, FAILURE, FAILURE, now=10.0)
    assert machine.state is CLOSED


def test_half_open_to_open_waits_its_full_time_again() -> None:
    """Failed probes open it again, for the whole time from then on."""
    machine = opened()
    play(machine, FAILURE, FAILURE, now=12.0)
    assert told(machine)[-1] == Transition("half-open", "open", "2 of 3 probes failed")
    assert refused(machine, 12.0) == Refusal("open", 10.0)
    admitted(machine, 22.0)


def test_slow_probes_open_it_again() -> None:
    """Probes are judged by the slow rate as well."""
    machine = opened(slow_after=1.0)
    first, second = admitted(machine, 10.0), admitted(machine, 10.0)
    machine.succeed(first, 10.0, 12.0)
    machine.succeed(second, 10.0, 12.0)
    assert told(machine)[-1] == Transition("half-open", "open", "2 of 3 probes were slow")


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
    changes = told(machine)
    assert len(changes) <= 100
    assert changes[-1].after == "open"


WINDOWS = pytest.mark.parametrize("window", [{"window_calls": 10}, {"window_seconds": 10.0}], ids=["calls", "time"])


@WINDOWS
def test_failures_in_a_row(window: dict[str, Any]) -> None:
    """So many failures in a row open it, whatever the minimum of calls; a success between them begins a new row."""
    machine = breaker(**window, consecutive=3, minimum_calls=100)
    play(machine, FAILURE, FAILURE, SUCCESS, FAILURE, FAILURE)
    assert machine.state is CLOSED
    play(machine, Ending.IGNORED, FAILURE)
    assert told(machine) == [Transition("closed", "open", "3 calls failed in a row")]


@WINDOWS
def test_a_row_of_failures_opens_a_quiet_circuit(window: dict[str, Any]) -> None:
    """While the window holds few calls, a row of failures opens it that would not open a busy one."""
    quiet = breaker(**window, quiet=2, minimum_calls=4)
    play(quiet, FAILURE, SUCCESS, FAILURE)
    assert quiet.state is CLOSED
    busy = breaker(**window, quiet=2, minimum_calls=4)
    play(busy, SUCCESS, SUCCESS, SUCCESS, FAILURE, FAILURE)
    assert busy.state is CLOSED
    dead = breaker(**window, quiet=2, minimum_calls=4)
    play(dead, FAILURE, FAILURE)
    assert told(dead) == [Transition("closed", "open", "2 calls failed in a row")]


def test_a_dead_dependency_that_is_asked_once_a_minute_is_found_out() -> None:
    """A window of time may never hold the minimum of calls; the row of failures opens it all the same."""
    machine = breaker(window_seconds=10.0, quiet=3, minimum_calls=4)
    for minute in range(3):
        assert machine.state is CLOSED
        play(machine, FAILURE, now=60.0 * minute)
    assert machine.state is OPEN


def test_a_success_before_the_first_failure_counts() -> None:
    """The window that comes with the first failure knows of the calls before."""
    machine = breaker()
    permit = machine.passing
    assert permit is not None
    for _ in range(4):
        permit.tick()
    play(machine, FAILURE)
    assert machine.tally(0.0) == Tally(calls=5, failures=1, slow=0)


def lasts(machine: BreakerMachine, now: float) -> float:
    """How long it has just opened for."""
    return machine.open_until - now


def fail_probes(machine: BreakerMachine, times: int) -> list[float]:
    """Let it open again so many times, each as soon as its time is over; returns how long it was open each time."""
    found = []
    for _ in range(times):
        now = machine.open_until
        play(machine, FAILURE, FAILURE, now=now)
        found.append(lasts(machine, now))
    return found


def test_the_open_time_grows() -> None:
    """Each further opening in a row doubles the time, up to the most; the first is exactly as set."""
    machine = opened(dice=1.0, open_for=5.0, open_for_max=60.0)
    assert lasts(machine, 0.0) == 5.0
    assert fail_probes(machine, 6) == [10.0, 20.0, 40.0, 60.0, 60.0, 60.0]
    assert machine.snapshot(0.0)["openings_in_a_row"] == 7


@pytest.mark.parametrize(("dice", "times"), [(0.0, [5.0, 10.0, 20.0, 30.0]), (0.5, [7.5, 15.0, 30.0, 45.0])])
def test_the_open_time_is_jittered(dice: float, times: list[float]) -> None:
    """Half of a longer time is sure and half random, so clients that opened together don't come back together."""
    assert fail_probes(opened(dice, open_for=5.0, open_for_max=60.0), 4) == times


def test_jitter_never_undercuts_the_least_open_time() -> None:
    """The most is no multiple of the least here; the open time stays between the two."""
    machine = opened(0.0, open_for=5.0, open_for_max=6.0)
    assert fail_probes(machine, 3) == [5.0, 5.0, 5.0]


def test_growth_never_overflows() -> None:
    """After very many openings it still opens for the most."""
    machine = opened(1.0, open_for=5.0, open_for_max=60.0)
    assert fail_probes(machine, 2000)[-1] == 60.0


@pytest.mark.parametrize(("closed_for", "then"), [(5.0, 10.0), (5.1, 5.0)])
def test_a_row_of_openings_ends_after_a_good_while(closed_for: float, then: float) -> None:
    """Once it stayed closed for longer than it was open last, the time begins to grow anew."""
    machine = opened(1.0, open_for=5.0, open_for_max=60.0)
    play(machine, SUCCESS, SUCCESS, now=5.0)
    assert machine.snapshot(5.0)["openings_in_a_row"] == 1
    now = 5.0 + closed_for
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE, now=now)
    assert lasts(machine, now) == then


def fail(machine: BreakerMachine, now: float, retry_after: float | None) -> None:
    machine.end(admitted(machine, now), FAILURE, now, now, retry_after)


@pytest.mark.parametrize(
    ("asked", "open_for"),
    [(None, 10.0), (3.0, 10.0), (25.0, 25.0), (60.0, 60.0), (3600.0, 60.0), (math.inf, 60.0), (math.nan, 10.0)],
)
def test_a_wish_to_be_left_alone_is_heeded(asked: float | None, open_for: float) -> None:
    """A Retry-After makes it stay open that long at the least, within the most that is heeded."""
    machine = breaker(minimum_calls=1)
    fail(machine, 0.0, asked)
    assert refused(machine, 0.0) == Refusal("open", open_for)


def test_an_earlier_wish_is_heeded_too() -> None:
    """A Retry-After that came with a failure before the opening one counts, as far as it is still to come."""
    machine = breaker(minimum_calls=3)
    fail(machine, 0.0, 40.0)
    fail(machine, 1.0, 2.0)
    fail(machine, 5.0, None)
    assert refused(machine, 5.0) == Refusal("open", 35.0)
    late = breaker(minimum_calls=2)
    fail(late, 0.0, 40.0)
    fail(late, 39.0, None)
    assert refused(late, 39.0) == Refusal("open", 10.0)


def test_a_wish_of_a_probe_is_heeded() -> None:
    """A probe's Retry-After keeps it open as well."""
    machine = opened(probes=1)
    fail(machine, 10.0, 30.0)
    assert refused(machine, 10.0) == Refusal("open", 30.0)


def test_wishes_of_calls_that_do_not_count_are_none() -> None:
    """A success, an ignored call or one of an older era can't prolong an outage."""
    machine = breaker(minimum_calls=4)
    stale = admitted(machine)
    for ending in (SUCCESS, Ending.IGNORED, Ending.CANCELLED):
        machine.end(admitted(machine), ending, 0.0, 0.0, 50.0)
    play(machine, FAILURE, FAILURE, FAILURE)
    machine.end(stale, FAILURE, 0.0, 0.0, 50.0)
    assert refused(machine, 0.0) == Refusal("open", 10.0)


def recovering(**settings: Any) -> BreakerMachine:
    """Make a breaker that recovers over 90 s, beginning at 10 s."""
    machine = opened(probes=1, **({"recover_over": 90.0, "minimum_calls": 4} | settings))
    play(machine, SUCCESS, now=10.0)
    assert machine.state is RECOVERING
    return machine


def asked(machine: BreakerMachine, times: int, now: float) -> list[bool]:
    """Ask so often at a moment; says who was let in."""
    return [isinstance(machine.acquire(now), Permit) for _ in range(times)]


def share(machine: BreakerMachine, now: float) -> float:
    found: float = machine.snapshot(now)["share"]
    return round(found, 6)


def test_half_open_to_recovering() -> None:
    """Where re-opening is graded, good probes begin a recovery, and it tells of it."""
    machine = recovering()
    assert told(machine)[-1] == Transition("half-open", "recovering", "the probes answered")


def test_recovering_begins_with_one_in_ten() -> None:
    """The first who asks goes in, then every tenth, evenly spaced; the others are refused."""
    machine = recovering()
    assert asked(machine, 30, 10.0) == ([True] + [False] * 9) * 3
    admitted(machine, 10.0)
    assert refused(machine, 10.0) == Refusal("recovering", None)


@pytest.mark.parametrize(("now", "admitted_of_100"), [(10.0, 10), (20.0, 20), (55.0, 55), (99.9, 99)])
def test_the_share_climbs_with_time(now: float, admitted_of_100: int) -> None:
    """From a tenth to all of it, in a straight line."""
    machine = recovering()
    assert sum(asked(machine, 100, now)) == pytest.approx(admitted_of_100, abs=1)
    assert share(machine, now) == pytest.approx(0.1 + (now - 10.0) / 100)


def test_recovering_to_closed() -> None:
    """When the share has reached all of the traffic, whoever asks finds it closed."""
    machine = recovering()
    told(machine)
    assert machine.refusal(100.0) is None
    assert machine.state is RECOVERING
    admitted(machine, 100.0)
    assert told(machine) == [Transition("recovering", "closed", "the share of traffic reached all of it")]
    assert machine.snapshot(100.0)["share"] is None


def let_in(machine: BreakerMachine, now: float) -> Permit:
    """Ask until somebody goes in."""
    return next(answer for answer in iter(lambda: machine.acquire(now), None) if isinstance(answer, Permit))


def test_a_failure_while_recovering_halves_the_progress() -> None:
    """The share falls back by half of what it had climbed, and climbs again from there."""
    machine = recovering()
    machine.end(let_in(machine, 50.0), FAILURE, 50.0, 50.0)
    assert machine.state is RECOVERING
    assert share(machine, 50.0) == 0.3
    assert share(machine, 60.0) == 0.4
    machine.end(let_in(machine, 60.0), FAILURE, 60.0, 60.0)
    assert share(machine, 60.0) == 0.25


def test_a_slow_call_while_recovering_halves_the_progress() -> None:
    """Slow calls set it back like failures; one that is both, once."""
    machine = recovering(slow_after=1.0)
    machine.end(let_in(machine, 49.0), SUCCESS, 49.0, 50.0)
    assert share(machine, 50.0) == 0.3
    machine.end(let_in(machine, 49.0), FAILURE, 49.0, 50.0)
    assert share(machine, 50.0) == 0.2


def test_noise_does_not_keep_it_from_recovering() -> None:
    """One failure in a hundred calls, as a healthy service has it, sets nothing back once calls are many."""
    machine, now = recovering(window_calls=100, minimum_calls=10), 10.0
    for call in range(20_000):
        now += 0.01
        permit = machine.acquire(now)
        if machine.state is CLOSED:
            break
        if isinstance(permit, Permit):
            machine.end(permit, FAILURE if call % 100 == 99 else SUCCESS, now, now)
    assert machine.state is CLOSED
    assert now == pytest.approx(100.0, abs=1)


def test_many_failures_set_it_back_even_among_many_calls() -> None:
    """Half of the rate that opens it is more than noise."""
    machine = recovering(window_calls=100, minimum_calls=10)
    for _ in range(30):
        machine.end(let_in(machine, 55.0), SUCCESS, 55.0, 55.0)
    for _ in range(9):
        machine.end(let_in(machine, 55.0), FAILURE, 55.0, 55.0)
    assert share(machine, 55.0) == 0.55
    machine.end(let_in(machine, 55.0), FAILURE, 55.0, 55.0)
    assert share(machine, 55.0) == 0.325


@pytest.mark.parametrize(("minimum", "needed"), [(2, 2), (10, 5)])
def test_recovering_to_open(minimum: int, needed: int) -> None:
    """The closed state's rates open it again, from five calls on; the time it stays open grows."""
    machine = recovering(minimum_calls=minimum, window_calls=10, open_for_max=60.0)
    for _ in range(needed):
        assert machine.state is RECOVERING
        machine.end(let_in(machine, 20.0), FAILURE, 20.0, 20.0)
    assert told(machine)[-1] == Transition("recovering", "open", f"{needed} of {needed} calls failed")
    assert lasts(machine, 20.0) == 15.0


def test_recovering_to_open_by_slow_calls() -> None:
    """So does the slow rate."""
    machine = recovering(slow_after=1.0)
    for _ in range(4):
        machine.succeed(let_in(machine, 20.0), 18.0, 20.0)
    assert told(machine)[-1].reason == "4 of 4 calls were slow"


def test_a_share_that_was_not_used_is_given_back() -> None:
    """Who is put back, because another part refused, leaves its turn to the next, and to one only."""
    machine = recovering()
    for _ in range(5):
        machine.put_back(admitted(machine, 10.0))
    assert asked(machine, 11, 10.0) == [True] + [False] * 8 + [True, False]


def test_a_share_ends_once() -> None:
    """A permit of the recovery that has ended changes nothing when it ends again, or is put back then."""
    machine = recovering()
    permit = admitted(machine, 55.0)
    machine.end(permit, FAILURE, 55.0, 55.0)
    machine.end(permit, FAILURE, 55.0, 55.0)
    machine.put_back(permit)
    assert machine.tally(55.0) == Tally(1, 1, 0)
    assert not isinstance(machine.acquire(55.0), Permit)


@pytest.mark.parametrize("ending", NEITHER)
def test_what_is_neither_success_nor_failure_while_recovering(ending: Ending) -> None:
    """It sets nothing back and counts neither way."""
    machine = recovering()
    machine.end(let_in(machine, 55.0), ending, 55.0, 55.0)
    assert share(machine, 55.0) == 0.55
    assert machine.tally(55.0) == Tally(0, 0, 0)


def test_stale_outcomes_do_not_set_a_recovery_back() -> None:
    """Calls of the closed state and probes that end while it recovers change nothing."""
    machine = breaker(probes=2, failure_rate=1.0, recover_over=90.0)
    stale = admitted(machine)
    play(machine, FAILURE, FAILURE, FAILURE, FAILURE)
    late, good = admitted(machine, 10.0), admitted(machine, 10.0)
    machine.succeed(good, 10.0, 10.0)
    assert machine.state is RECOVERING
    for permit in (stale, late):
        machine.end(permit, FAILURE, 0.0, 55.0)
        machine.put_back(permit)
    assert share(machine, 55.0) == 0.55
    assert machine.tally(55.0) == Tally(0, 0, 0)


def test_a_clock_that_was_read_late_makes_no_progress_negative() -> None:
    """Threads read the clock before they ask, so the time may seem to go back."""
    machine = recovering()
    machine.end(let_in(machine, 9.0), FAILURE, 9.0, 9.0)
    assert share(machine, 9.0) == 0.1


EVERY_STATE = pytest.mark.parametrize("state", BreakerState)


def in_state(state: BreakerState) -> BreakerMachine:
    """Make a breaker that is in some state at 10 s."""
    if state is RECOVERING:
        return recovering()
    machine = breaker() if state in {CLOSED, ISOLATED, DISABLED} else opened()
    if state is HALF_OPEN:
        admitted(machine, 10.0)
    if state is ISOLATED:
        machine.isolate(10.0)
    if state is DISABLED:
        machine.disable(10.0)
    assert machine.state is state
    return machine


@EVERY_STATE
def test_isolate(state: BreakerState) -> None:
    """From any state, by hand: it refuses everybody for as long as nobody closes it."""
    machine = in_state(state)
    told(machine)
    machine.isolate(10.0)
    assert told(machine) == ([] if state is ISOLATED else [Transition(state, "isolated", "isolated by hand")])
    assert refused(machine, 1e9) == Refusal("isolated", None)
    assert machine.snapshot(1e9)["retry_after"] is None


@EVERY_STATE
def test_disable(state: BreakerState) -> None:
    """From any state, by hand: it admits everybody, counts, and never opens."""
    machine = in_state(state)
    told(machine)
    machine.disable(10.0)
    assert told(machine) == ([] if state is DISABLED else [Transition(state, "disabled", "disabled by hand")])
    play(machine, *[FAILURE] * 50, SUCCESS, now=10.0)
    assert machine.state is DISABLED
    assert machine.passing is not None
    assert machine.tally(10.0) == Tally(10, 9, 0)


@EVERY_STATE
def test_close(state: BreakerState) -> None:
    """From any state, by hand: it is closed, and has forgotten what it had counted and how often it had opened."""
    machine = in_state(state)
    told(machine)
    before = machine.era
    machine.close(10.0)
    assert told(machine) == ([] if state is CLOSED else [Transition(state, "closed", "closed by hand")])
    assert machine.state is CLOSED
    assert machine.era == before + 1
    assert machine.snapshot(10.0)["openings_in_a_row"] == 0
    assert machine.idle(10.0)


def test_what_was_under_way_when_it_was_closed_by_hand_does_not_count() -> None:
    """Closing forgets, also what has not been told yet."""
    machine = breaker()
    stale = admitted(machine)
    machine.close(0.0)
    for _ in range(9):
        machine.end(stale, FAILURE, 0.0, 0.0)
    assert machine.tally(0.0) == Tally(0, 0, 0)


@EVERY_STATE
def test_passing_is_the_permit_of_those_states_that_admit_everybody(state: BreakerState) -> None:
    """The express lane finds a permit while closed or disabled, and has to ask otherwise."""
    machine = in_state(state)
    assert (machine.passing is not None) == (state in {CLOSED, DISABLED})
    if machine.passing is not None:
        assert machine.acquire(10.0) is machine.passing


def test_a_tick_counts_a_success_of_its_own_era() -> None:
    """One that comes after a change of state is counted where nobody looks."""
    machine = breaker()
    permit = machine.passing
    assert permit is not None
    permit.tick()
    assert machine.tally(0.0).calls == 1
    machine.close(0.0)
    permit.tick()
    assert machine.tally(0.0).calls == 0


def test_timed() -> None:
    """Only windows of time and breakers that watch durations want to be told the times of a success."""
    assert not breaker().timed
    assert breaker(window_seconds=10.0).timed
    assert breaker(slow_after=1.0).timed


@EVERY_STATE
def test_a_snapshot_is_plain_data(state: BreakerState) -> None:
    """It says what state it is in and what it holds, and can be written as JSON."""
    found = in_state(state).snapshot(10.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["state"] == state.value


def test_what_a_snapshot_tells() -> None:
    """What was counted while closed, the time that is left of an opening, and that looking changes nothing."""
    machine = breaker(slow_after=1.0)
    play(machine, SUCCESS, SUCCESS)
    play(machine, FAILURE, took=1.0)
    closed = {"state": "closed", "era": 0, "calls": 3, "failures": 1, "slow": 1}
    nothing = {"retry_after": None, "openings_in_a_row": 0, "share": None}
    assert machine.snapshot(0.0) == machine.snapshot(0.0) == closed | nothing
    machine = opened()
    assert machine.snapshot(4.0)["retry_after"] == 6.0
    assert machine.snapshot(14.0)["retry_after"] == 0.0


def test_idle() -> None:
    """It would be no loss to forget a breaker that is closed and remembers no failure."""
    machine = breaker(window_seconds=10.0)
    play(machine, SUCCESS, SUCCESS)
    assert machine.idle(0.0)
    play(machine, FAILURE)
    assert not machine.idle(0.0)
    assert machine.idle(20.0)
    wished = breaker(window_seconds=10.0)
    fail(wished, 0.0, 60.0)
    assert not wished.idle(20.0)
    assert wished.idle(60.0)


@pytest.mark.parametrize("state", [OPEN, HALF_OPEN, RECOVERING, ISOLATED, DISABLED])
def test_not_idle(state: BreakerState) -> None:
    """Any state but closed is something to remember."""
    assert not in_state(state).idle(10.0)


def test_a_row_of_openings_is_not_idle() -> None:
    """Whoever has just closed remembers that it was open."""
    machine = opened()
    play(machine, SUCCESS, SUCCESS, now=10.0)
    assert not machine.idle(20.0)
    assert machine.idle(20.1)


@EVERY_STATE
def test_other_terms_keep_the_state(state: BreakerState) -> None:
    """State, era, open time and row are kept when it goes on by other terms."""
    machine = in_state(state)
    kept = [machine.state, machine.era, machine.open_until, machine.snapshot(10.0)["openings_in_a_row"]]
    machine.reconfigure(terms(failure_rate=0.9, window_seconds=30.0, slow_after=2.0, open_for=100.0, probes=1))
    assert [machine.state, machine.era, machine.open_until, machine.snapshot(10.0)["openings_in_a_row"]] == kept
    assert machine.timed


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ({"window_calls": 10}, {"window_calls": 20}, Tally(5, 3, 0)),
        ({"window_calls": 10}, {"window_calls": 4}, Tally(4, 2, 0)),
        ({"window_seconds": 10.0}, {"window_seconds": 30.0}, Tally(5, 3, 0)),
        ({"window_calls": 10}, {"window_seconds": 10.0}, Tally(0, 0, 0)),
        ({"window_seconds": 10.0}, {"window_calls": 10}, Tally(0, 0, 0)),
        ({"window_calls": 10}, {"window_calls": 10, "failure_rate": 0.9}, Tally(5, 3, 0)),
    ],
)
def test_other_terms_keep_what_was_counted(before: dict[str, Any], after: dict[str, Any], kept: Tally) -> None:
    """A window of the same kind keeps the latest of what it holds; one of another kind starts empty."""
    machine = breaker(**before, minimum_calls=10)
    play(machine, FAILURE, SUCCESS, FAILURE, SUCCESS, FAILURE)
    old = admitted(machine)
    machine.reconfigure(terms(**after, minimum_calls=10))
    assert machine.tally(0.0) == kept
    machine.end(old, FAILURE, 0.0, 0.0)
    assert machine.tally(0.0).calls == min(kept.calls + 1, after.get("window_calls", 100))


@pytest.mark.parametrize(
    ("after", "kept", "then"),
    [({"window_calls": 3}, Tally(3, 0, 0), Tally(3, 1, 0)), ({"window_seconds": 10.0}, Tally(0, 0, 0), Tally(2, 1, 0))],
)
def test_a_healthy_breaker_goes_on_with_other_terms(after: dict[str, Any], kept: Tally, then: Tally) -> None:
    """Successes that were counted before there was any window are in the new one, if it is of the same kind."""
    machine = breaker()
    play(machine, *[SUCCESS] * 5)
    machine.reconfigure(terms(**after))
    assert machine.tally(0.0) == kept
    play(machine, SUCCESS, FAILURE)
    assert machine.tally(0.0) == then


def test_fewer_probes_don_t_leave_it_half_open() -> None:
    """Probes that were judged by the old terms are forgotten, or none might ever be admitted again."""
    machine = opened(probes=5)
    play(machine, SUCCESS, now=10.0)
    machine.reconfigure(terms(probes=1))
    play(machine, SUCCESS, now=10.0)
    assert machine.state is CLOSED


def test_a_recovery_that_is_no_longer_graded_is_over() -> None:
    """Whoever asks next finds it closed."""
    machine = recovering()
    machine.reconfigure(terms())
    machine.end(let_in(machine, 10.0), FAILURE, 10.0, 10.0)
    assert machine.state is CLOSED


def test_the_same_terms_change_nothing() -> None:
    """A reload that changed nothing forgets no probe."""
    machine = opened()
    probe = admitted(machine, 10.0)
    machine.reconfigure(terms())
    machine.end(probe, FAILURE, 10.0, 10.0)
    play(machine, FAILURE, now=10.0)
    assert machine.state is OPEN


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quiet": 0}, "quiet is 0; it takes a whole number from 1"),
        ({"quiet": True}, "quiet is True"),
        ({"consecutive": -1}, "consecutive is -1"),
        ({"open_for": 0}, "open_for is 0"),
        ({"open_for_max": "4s"}, r"open_for_max is 4.0; it takes at least open_for \(5s\)"),
        ({"open_for_max": "soon"}, "open_for_max is 'soon'"),
        ({"retry_after_max": 0}, "retry_after_max is 0"),
        ({"recover_over": -1}, "recover_over is -1"),
        ({"recover_over": 0}, "recover_over is 0"),
        ({"max_keys": 0}, "max_keys is 0"),
        ({"on_result": 503}, "on_result is 503; it takes a function"),
        ({"minimum_calls": 200}, "minimum_calls is 200; it takes at most the window of 100 calls"),
        ({"failure_rate": 0}, "failure_rate is 0"),
        ({"probes": 0}, "probes is 0"),
    ],
)
def test_settings_that_can_t_be_meant(settings: dict[str, Any], message: str) -> None:
    """They are refused when made, with the value and what would do."""
    with pytest.raises(hm.ConfigurationError, match=message):
        hm.CircuitBreaker(**settings)


@pytest.mark.parametrize(
    ("settings", "most"), [({}, 60.0), ({"open_for": 100}, 100.0), ({"open_for_max": "10s"}, 10.0)]
)
def test_the_longest_open_time_fits_the_first(settings: dict[str, Any], most: float) -> None:
    """Unless it is set, it is a minute, or the first open time where that is longer."""
    assert hm.CircuitBreaker(**settings).terms().open_for_max == most


@pytest.mark.parametrize(
    ("settings", "quiet"), [({}, 5), ({"minimum_calls": 5}, None), ({"quiet": None}, None), ({"quiet": 3}, 3)]
)
def test_the_rule_for_quiet_circuits_matters_below_the_minimum(settings: dict[str, Any], quiet: int | None) -> None:
    """Where the minimum of calls is as low, it says nothing of its own."""
    assert hm.CircuitBreaker(**settings).terms().quiet == quiet


def test_what_it_says_of_itself() -> None:
    """Each setting that is not as usual is in the description."""
    described = hm.CircuitBreaker(
        quiet=3, open_for_max="20s", recover_over="30s", by="host", consecutive=8, max_keys=500
    ).describe()
    assert described == (
        "opens when 50% of the last 100 calls fail (from 10 calls on, or 3 in a row before that), or when 8 fail in a "
        "row, for 5s up to 20s; then 3 probes, and a share of traffic that climbs over 30s; one for each host, 500 at "
        "most"
    )
    assert hm.CircuitBreaker(by=len).describe().endswith("; one for each key, 10,000 at most")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (UnwantedResult(503), FAILURE),
        (UnwantedResult(503, FailureKind.INVALID), FAILURE),
        (UnwantedResult(404, FailureKind.INVALID), SUCCESS),
        (UnwantedResult(404, FailureKind.UNAVAILABLE), FAILURE),
        (UnwantedResult(503, FailureKind.REJECTED), Ending.IGNORED),
        (UnwantedResult(503, FailureKind.THROTTLED), Ending.IGNORED),
        (KeyboardInterrupt(), Ending.CANCELLED),
    ],
)
def test_results_that_count(error: BaseException, ending: Ending) -> None:
    """Its own `on_result` decides, and else the kind: a result that only another part calls a failure is an answer."""
    part = hm.CircuitBreaker(on_result=lambda status: status == 503, ignore="throttled")
    assert part.ending(error) is ending


def test_the_default_dice_are_shared() -> None:
    """A machine that is given no randomness makes do."""
    machine = hm.CircuitBreaker(minimum_calls=1).machine(NullLock())
    assert isinstance(machine, BreakerMachine)
    play(machine, FAILURE)
    play(machine, FAILURE, FAILURE, now=5.0)
    assert 5.0 <= lasts(machine, 5.0) <= 10.0
