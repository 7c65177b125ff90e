"""The concurrency limit: as many in as its algorithm finds right, and what an ending says of load."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import hormesis as hm
from hormesis.core.admission import NullLock, Permit, Refusal, Transition, Waiter
from hormesis.core.concurrency_limit import ConcurrencyLimitMachine
from hormesis.core.keyed import Keyed
from hormesis.errors import BulkheadFull, ConfigurationError, Overloaded
from hormesis.outcome import Ending, FailureKind, UnwantedResult
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.tables import read
from hormesis.testing import ManualClock, Scripted


def made(*limit: int, **settings: Any) -> ConcurrencyLimitMachine:
    machine = ConcurrencyLimit(*limit, **settings).machine(NullLock())
    assert isinstance(machine, ConcurrencyLimitMachine)
    return machine


def admitted(machine: ConcurrencyLimitMachine, now: float = 0.0) -> Permit:
    permit = machine.acquire(now)
    assert isinstance(permit, Permit)
    return permit


def window(machine: ConcurrencyLimitMachine, began: float, ending: Ending = Ending.SUCCESS, took: float = 0.1) -> None:
    """Let calls fill the limit, and a window go by, in which all end alike."""
    permits = []
    while isinstance(permit := machine.acquire(began), Permit):
        permits.append(permit)
    for permit in permits:
        machine.end(permit, ending, began, began + took)
    machine.put_back(admitted(machine, began + 1.0))


# A limit that is given.


def test_a_fixed_limit_is_a_bulkhead_of_another_name() -> None:
    """So many go in, the next is refused, and whatever ends makes room."""
    machine = made(2)
    permits = [admitted(machine), admitted(machine)]
    assert machine.acquire(0.0) == machine.refusal(0.0) == Refusal("full", None, waitable=False)
    machine.succeed(permits.pop(), 0.0, 1.0)
    machine.end(permits.pop(), Ending.FAILURE, 0.0, 1.0)
    assert machine.refusal(0.0) is None
    assert machine.snapshot(1.0) == {"limit": 2, "factor": 1.0, "in_flight": 0, "queued": 0}
    assert not machine.timed
    assert machine.outbox == []


def test_callers_wait_where_they_may() -> None:
    """First come, first served; who gives up passes a permit on."""
    machine = made(1, max_queued=2, max_wait="3s")
    assert machine.max_wait == 3.0
    permit = admitted(machine)
    assert machine.acquire(0.0) == Refusal("queue full", None, waitable=True)
    first, second, third = (Waiter(lambda: None) for _ in range(3))
    assert machine.enqueue(first) is None
    assert machine.enqueue(second) is None
    assert isinstance(machine.enqueue(third), Refusal)
    machine.put_back(permit)
    assert first.permit is not None
    machine.leave(first)
    assert second.permit is not None
    assert (machine.in_flight, machine.idle(0.0)) == (1, False)


# A limit that finds itself.


def test_it_grows_while_it_is_full_and_calls_are_quick() -> None:
    """Vegas is the default: without a queue at the dependency it grows by six a window."""
    machine = made(start=10)
    window(machine, 0.0)
    window(machine, 2.0)
    assert machine.limit == 22
    assert machine.outbox == [Transition("10", "16", "room for more"), Transition("16", "22", "room for more")]


def test_it_shrinks_while_calls_are_dropped() -> None:
    """Failures that mean "too much" lower it, and it is told why."""
    machine = made(adapt="aimd", start=20)
    for second in (0.0, 2.0):
        window(machine, second, Ending.FAILURE)
    assert machine.limit == 16
    assert machine.outbox == [Transition("20", "18", "drops"), Transition("18", "16", "drops")]


def test_it_shrinks_while_calls_take_longer() -> None:
    """What makes a queue at the dependency lowers it."""
    machine = made(start=10)
    window(machine, 0.0)
    for second in range(2, 12, 2):
        window(machine, second, took=0.9)
    assert machine.limit < 16
    assert machine.outbox[-1].reason == "latency"


@pytest.mark.parametrize("ending", [Ending.IGNORED, Ending.CANCELLED, Ending.ABANDONED])
def test_what_says_nothing_of_load_moves_nothing(ending: Ending) -> None:
    """An error that comes at once must not look like a quick answer, and cancelled is not failed."""
    machine = made(start=20)
    for second in range(0, 40, 2):
        window(machine, second, ending, took=0.001)
    assert machine.limit == 20


def test_an_answer_that_comes_too_late_is_dropped() -> None:
    """With a timeout, a success that took longer counts as too much."""
    machine = made(adapt="aimd", start=20, timeout="500ms")
    window(machine, 0.0, took=0.6)
    assert machine.limit == 18


def test_an_adaptive_limit_of_a_clock_that_stands_still() -> None:
    """A latency is never negative, whatever the clock was like."""
    machine = made(start=20)
    machine.succeed(admitted(machine, 5.0), 6.0, 5.5)
    assert machine.in_flight == 0


def test_only_a_tenth_is_told() -> None:
    """Of a limit that moves by little, nobody hears until it has moved by a tenth."""
    machine = made(adapt="aimd", start=20)
    window(machine, 0.0)
    assert (machine.limit, machine.outbox) == (21, [])
    window(machine, 2.0)
    assert machine.outbox == [Transition("20", "22", "room for more")]


def test_what_is_told_is_bounded() -> None:
    """Where nobody fetches the changes, the latest are kept."""
    machine = made(adapt="aimd", start=1000, limit_max=1000)
    for second in range(0, 100, 2):
        window(machine, second, Ending.FAILURE)
    assert len(machine.outbox) == 16
    assert machine.outbox[-1].after == str(machine.limit)


def test_a_probe_is_told_as_one() -> None:
    """When the limit is halved to learn the baseline, that is no judgement on the dependency."""
    machine = made(start=10, limit_max=10)
    for second in range(0, 122, 2):
        window(machine, second)
    assert Transition("10", "5", "probe") in machine.outbox


def test_a_window_takes_its_time() -> None:
    """Before it is over, and before ten calls have ended, nothing moves."""
    machine = made(adapt="aimd", start=2)
    for _ in range(8):
        machine.succeed(admitted(machine), 0.0, 0.1)
    machine.succeed(admitted(machine, 1.5), 1.5, 1.6)
    assert machine.limit == 2
    machine.succeed(admitted(machine, 1.7), 1.7, 1.8)
    machine.put_back(admitted(machine, 1.95))
    assert machine.limit == 3


def test_a_limit_that_was_learned_is_not_idle() -> None:
    """An instance that has found another limit than it began with is worth keeping."""
    machine = made(adapt="aimd", start=2)
    assert machine.idle(0.0)
    window(machine, 0.0)
    for second in range(1, 20, 2):
        window(machine, second)
    assert machine.in_flight == 0
    assert not machine.idle(30.0)


def test_of_two_threads_one_moves_the_limit() -> None:
    """What another has done meanwhile is not done again."""

    class Overtaken(NullLock):
        """A lock for which, once, somebody else has come first."""

        def __enter__(self) -> bool:
            if armed and armed.pop():
                machine._turn(1.0)
            return True

    armed: list[bool] = []
    machine = ConcurrencyLimit(adapt="aimd", start=20).machine(Overtaken())
    assert isinstance(machine, ConcurrencyLimitMachine)
    for _ in range(20):
        machine.succeed(admitted(machine), 0.0, 0.1)
    armed.append(True)
    machine._turn(1.0)
    assert machine.limit <= 21


def test_what_is_observed_is_bounded() -> None:
    """A window of an hour keeps no more than ten thousand observations."""
    machine = made(adapt="aimd", window="1h")
    for _ in range(10_005):
        machine.succeed(admitted(machine), 0.0, 0.1)
        machine.end(admitted(machine), Ending.FAILURE, 0.0, 0.1)
    assert len(machine._seen) == 10_000


def test_threads_lose_no_place() -> None:
    """Whatever many threads do at once, in the end nobody is in, and there were never more in than may be."""
    machine: Any = ConcurrencyLimit(3, max_queued=0).machine(threading.Lock())
    adaptive: Any = ConcurrencyLimit(adapt="aimd", start=3, limit_max=5, window="1ms").machine(threading.Lock())
    most = []

    def work() -> None:
        for number in range(500):
            for each in (machine, adaptive):
                now = time.monotonic()
                permit = each.acquire(now)
                if isinstance(permit, Permit):
                    most.append(each.in_flight - (5 if each is adaptive else 3))
                    each.end(permit, list(Ending)[number % 5], now, time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (machine.in_flight, adaptive.in_flight) == (0, 0)
    assert max(most) <= 0


# Health.


def test_health_opens_a_part_of_the_limit() -> None:
    """The limit is multiplied by it, and comes back with it."""
    health = [0.5]
    machine = made(20, health=lambda: health[0])
    assert machine.timed
    machine.put_back(admitted(machine, 0.0))
    assert (machine.limit, machine.factor) == (10, 0.5)
    health[0] = 1.0
    machine.put_back(admitted(machine, 0.01))
    assert machine.limit == 10
    machine.put_back(admitted(machine, 0.2))
    assert machine.limit == 20
    assert machine.outbox == [Transition("20", "10", "health"), Transition("10", "20", "health")]


def test_health_is_asked_however_long_a_window_is() -> None:
    """Once a second, where a window takes an hour."""
    asked: list[float] = []
    machine = made(window="1h", health=lambda: asked.append(1.0) or 1.0)
    for tenth in range(101):
        machine.put_back(admitted(machine, tenth / 10))
    assert len(asked) in (10, 11)


def test_health_never_closes_it() -> None:
    """Whether the system is well again shows by what is let in."""
    machine = made(20, health=lambda: 0.0)
    machine.put_back(admitted(machine, 0.0))
    assert machine.limit == 1


def test_health_does_not_change_what_was_found() -> None:
    """A limit that finds itself is held down, and goes on from where it was."""
    machine = made(start=20)
    machine.scale(0.25)
    assert machine.limit == 5
    machine.scale(1.0)
    assert machine.limit == 20
    machine.scale(7.0)
    assert machine.factor == 1.0


@pytest.mark.parametrize(
    ("answer", "said"), [(2.0, "said 2.0"), ("well", "raised"), (None, "raised"), (float("nan"), "said nan")]
)
def test_a_health_that_makes_no_sense_counts_as_well(
    answer: object, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken function breaks no call, and is logged once."""
    machine = made(20, health=lambda: answer)
    with caplog.at_level(logging.WARNING, "hormesis.concurrency_limit"):
        for second in range(3):
            machine.put_back(admitted(machine, second))
    assert machine.limit == 20
    assert len(caplog.records) == 1
    assert said in caplog.text


# Other settings while it is in use.


def adopt(machine: Any, *limit: int, **settings: Any) -> bool:
    return ConcurrencyLimit(*limit, **settings).adopt(machine)


def test_other_settings_keep_who_is_in_and_what_was_found() -> None:
    """The same algorithm goes on with its limit, within the new bounds."""
    machine = made(start=10)
    window(machine, 0.0)
    inside = admitted(machine, 2.0)
    assert adopt(machine, start=5, limit_max=200, max_queued=3)
    assert (machine.limit, machine.in_flight) == (16, 1)
    assert adopt(machine, limit_min=20, limit_max=100)
    assert machine.limit == 20
    assert adopt(machine, start=5, limit_max=5)
    assert machine.limit == 5
    machine.succeed(inside, 2.0, 2.1)
    assert machine.in_flight == 0


def test_another_algorithm_goes_on_from_the_limit() -> None:
    """What one has found is where the next begins; a limit that was given is no finding."""
    machine = made(start=10)
    window(machine, 0.0)
    assert adopt(machine, adapt="aimd")
    assert machine.limit == 16
    assert adopt(machine, 7)
    assert (machine.limit, machine.timed) == (7, False)
    assert adopt(machine, start=30)
    assert (machine.limit, machine.timed) == (30, True)


def test_health_that_is_no_longer_watched_holds_nothing_down() -> None:
    """The factor goes with the function that it came of; one that was set from outside stays."""
    machine = made(20, health=lambda: 0.5)
    machine.put_back(admitted(machine))
    assert machine.limit == 10
    assert adopt(machine, 20)
    assert machine.limit == 20
    machine.scale(0.5)
    assert adopt(machine, 30)
    assert machine.limit == 15


def test_settings_go_to_every_key() -> None:
    """Each instance goes on with them, and those that come later are made by them."""
    machines: Any = ConcurrencyLimit(3, by="host").machine(threading.Lock())
    assert isinstance(machines, Keyed)
    first = machines.get("a", lambda: 0.0)
    assert adopt(machines, 5, by="host")
    assert (first.limit, machines.get("b", lambda: 0.0).limit) == (5, 5)


def test_settings_with_other_keys_are_others() -> None:
    """State can't be handed on between instances by one key and by another, or none."""
    one: Any = ConcurrencyLimit(3).machine(threading.Lock())
    machines: Any = ConcurrencyLimit(3, by="host").machine(threading.Lock())
    assert not adopt(one, 3, by="host")
    assert not adopt(machines, 3)
    assert not adopt(machines, 3, by="tenant")


# Settings.


def test_endings() -> None:
    """What means "too much" is a failure; what means nothing of load is ignored."""
    part = ConcurrencyLimit()
    assert part.ending(TimeoutError()) is Ending.FAILURE
    assert part.ending(ConnectionResetError()) is Ending.FAILURE
    assert part.ending(UnwantedResult(None, FailureKind.THROTTLED)) is Ending.FAILURE
    assert part.ending(ConnectionRefusedError()) is Ending.IGNORED
    assert part.ending(KeyError()) is Ending.IGNORED
    assert part.ending(BulkheadFull("inner", "full")) is Ending.IGNORED
    assert part.ending(KeyboardInterrupt()) is Ending.CANCELLED
    everything = ConcurrencyLimit(on=lambda error: True)
    assert everything.ending(KeyError()) is Ending.FAILURE
    assert everything.ending(BulkheadFull("inner", "full")) is Ending.IGNORED


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"limit": 0}, "limit is 0; it takes a whole number from 1"),
        ({"limit": True}, "limit is True"),
        ({"adapt": "vega"}, "unknown algorithm 'vega' (did you mean 'vegas'?)"),
        ({"adapt": []}, "unknown algorithm []"),
        ({"limit": 5, "adapt": "vegas"}, "limit is 5 and adapt is 'vegas'; a limit is given, or finds itself"),
        ({"limit_min": 0}, "limit_min is 0"),
        ({"limit_min": 5, "limit_max": 4}, "limit_max is 4; it takes a whole number from 5"),
        ({"start": 5, "limit_min": 6}, "start is 5; it takes a whole number from 6"),
        ({"start": 2000}, "start is 2000; it takes a whole number from 1 to 1,000"),
        ({"timeout": 0}, "timeout is 0"),
        ({"window": "soon"}, "window is 'soon'"),
        ({"max_queued": -1}, "max_queued is -1"),
        ({"max_wait": -1}, "max_wait is -1"),
        ({"max_keys": 0}, "max_keys is 0"),
        ({"by": "not a label"}, "by is 'not a label'"),
        ({"on": "sometimes"}, "unknown failure kind 'sometimes'"),
        ({"health": 0.5}, "health is 0.5; it takes a synchronous function"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], says: str) -> None:
    """The error names the setting, its value, and what would do."""
    with pytest.raises(ConfigurationError) as caught:
        ConcurrencyLimit(**settings)
    assert says in str(caught.value)


async def _asynchronous() -> float:
    return 1.0


def test_an_asynchronous_health_is_refused() -> None:
    """Nobody could wait for it."""
    with pytest.raises(ConfigurationError, match="a synchronous function"):
        ConcurrencyLimit(health=_asynchronous)  # type: ignore[arg-type]


def test_settings_in_words() -> None:
    """What `explain()` prints."""
    assert ConcurrencyLimit(20, max_queued=5, by="host").describe() == (
        "at most 20 at a time, 5 more wait up to 1s; one for each host, 10,000 at most"
    )
    assert ConcurrencyLimit(adapt="aimd").describe() == (
        "as many at a time as aimd finds right: 20 at first, 1 to 1,000; "
        "timeout, unavailable, throttled tell of too many; none wait"
    )
    assert ConcurrencyLimit(timeout="500ms", by=lambda sku: sku, health=lambda: 1.0).describe() == (
        "as many at a time as vegas finds right: 20 at first, 1 to 1,000, less while the system is unwell; "
        "timeout, unavailable, throttled, and answers after 500ms, tell of too many; none wait; "
        "one for each key, 10,000 at most"
    )


def test_settings_from_a_file() -> None:
    """A table holds all but functions, and what it holds is read as it is in code."""
    table = {"adapt": "aimd", "timeout": "250ms", "limit_max": 200, "on": ["timeout", "throttled"]}
    assert read(ConcurrencyLimit, table, "concurrency_limit") == ConcurrencyLimit(
        adapt="aimd", timeout="250ms", limit_max=200, on=("timeout", "throttled")
    )


def test_settings_can_be_replaced() -> None:
    """A frozen value makes another."""
    assert dataclasses.replace(ConcurrencyLimit(adapt="aimd"), adapt=None, limit=5).describe() == (
        "at most 5 at a time, none wait"
    )


# In a policy.


def test_a_policy_refuses_what_is_too_much() -> None:
    """The next call beyond the limit raises `Overloaded`, and the function is not touched."""
    policy = hm.Policy(ConcurrencyLimit(1), name="stock")
    with policy.attempts().__iter__().__next__(), pytest.raises(Overloaded) as caught:
        policy.call(len, "tea")
    assert (caught.value.policy, caught.value.reason) == ("stock", "full")
    assert policy.call(len, "tea") == 3


def test_a_policy_learns_of_its_calls() -> None:
    """Timeouts of a dependency lower the limit that a policy has for it."""
    clock = ManualClock()
    stock = Scripted(Scripted.after("90ms", TimeoutError()), clock=clock)
    policy = hm.Policy(ConcurrencyLimit(adapt="aimd"), name="stock", clock=clock)
    for _ in range(24):
        with pytest.raises(TimeoutError):
            policy.call(stock.call)
    assert policy.snapshot()["parts"]["concurrency_limit"]["limit"] == 16


class Model(RuleBasedStateMachine):
    """A limit under calls, waiters, other settings and health, against a count of who is in."""

    @initialize(limit=st.none() | st.integers(1, 5), queued=st.integers(0, 3))
    def begin(self, limit: int | None, queued: int) -> None:
        self.now = 0.0
        self.queued = queued
        self.machine = ConcurrencyLimit(limit, start=3, limit_max=8, max_queued=queued, window=0.5).machine(NullLock())
        assert isinstance(self.machine, ConcurrencyLimitMachine)
        self.inside: list[tuple[Permit, float]] = []
        self.waiters: list[Waiter] = []

    def collect(self) -> None:
        for waiter in list(self.waiters):
            permit = waiter.taken()
            if permit is not None:
                self.waiters.remove(waiter)
                self.inside.append((permit, self.now))

    @rule(passed=st.floats(0, 2))
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @rule()
    def call(self) -> None:
        would = self.machine.refusal(self.now)
        limit = self.machine.limit
        got = self.machine.acquire(self.now)
        if isinstance(got, Permit):
            self.inside.append((got, self.now))
            assert len(self.inside) <= max(limit, self.machine.limit)
        else:
            assert would is not None or self.machine.limit < limit
            assert len(self.inside) + len(self.waiters) >= self.machine.limit
            if got.waitable:
                waiter = Waiter(lambda: None)
                assert self.machine.enqueue(waiter) is None
                self.waiters.append(waiter)
        self.collect()

    @precondition(lambda self: self.inside)
    @rule(which=st.integers(0, 100), ending=st.sampled_from(list(Ending)))
    def end(self, which: int, ending: Ending) -> None:
        permit, began = self.inside.pop(which % len(self.inside))
        self.machine.end(permit, ending, began, self.now)
        self.collect()

    @precondition(lambda self: self.waiters)
    @rule(which=st.integers(0, 100))
    def give_up(self, which: int) -> None:
        self.machine.leave(self.waiters.pop(which % len(self.waiters)))
        self.collect()

    @rule(factor=st.floats(0, 1))
    def health_changes(self, factor: float) -> None:
        self.machine.scale(factor)
        self.collect()

    @rule(limit=st.none() | st.integers(1, 8), adapt=st.sampled_from([None, "aimd", "gradient2"]))
    def other_settings(self, limit: int | None, adapt: Any) -> None:
        adapt = None if limit is not None else adapt
        settings = ConcurrencyLimit(limit, adapt=adapt, start=3, limit_max=8, max_queued=self.queued, window=0.5)
        assert settings.adopt(self.machine)
        self.collect()

    @invariant()
    def counts_agree(self) -> None:
        snapshot = self.machine.snapshot(self.now)
        assert snapshot["in_flight"] == len(self.inside)
        assert snapshot["queued"] == len(self.waiters)
        assert 1 <= snapshot["limit"] <= 8
        if self.waiters:
            assert len(self.inside) >= snapshot["limit"], "nobody waits while there is room"


TestModel = Model.TestCase
