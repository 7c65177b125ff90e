"""Concurrency limits against a dependency that can do so much and no more: who keeps it busy, and its answers in time.

The dependency is that of the tables in `docs/patterns/concurrency-limit.md`: each call waits 90 ms for something (log-
normal, cv .3), then for one of two servers, first come, first served, who takes 10 ms (exponential). So it can do 200
calls a second, and takes about 100 ms for one while it does less. Running this file prints those tables.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from hormesis.core.admission import NullLock, Permit
from hormesis.core.concurrency_limit import ConcurrencyLimitMachine
from hormesis.outcome import Ending
from hormesis.patterns.concurrency_limit import ConcurrencyLimit

CAPACITY = 200.0
IO, SPREAD = 0.090, 0.3
SERVICE = 0.010
SERVERS = 2


class Scenario(NamedTuple):
    """What is offered, and what changes."""

    load: float = 2.0
    """What is offered after `calm`, as a multiple of the capacity."""
    objective: float = 0.25
    calm: float = 20.0
    changes_at: float = math.inf
    slower_io: float = 0.0
    """Seconds that a call waits longer from then on."""
    slower_service: float = 1.0
    """By how much the servers are slower from then on."""
    contention: bool = False
    """Whether each call beyond the twentieth makes all of them slower by a hundredth."""
    errors: float = 0.0
    """The share of calls that fail with a 503, whatever the load."""
    until: float = 80.0
    counts_from: float = 50.0


class Outcome(NamedTuple):
    """What came of it, from `counts_from` on."""

    goodput: float
    """Answers within the objective, as a share of what could have been answered."""
    limit: float
    good_of: Sequence[float]
    """The goodput of each client."""


def simulate(scenario: Scenario, *clients: ConcurrencyLimit, seed: int = 1, joins: Sequence[float] = ()) -> Outcome:
    """Run clients of one dependency, each with a limit of its own; each offers an even share of the load."""
    chance = random.Random(seed)
    sigma = math.sqrt(math.log(1 + SPREAD**2))
    mu = math.log(IO) - sigma**2 / 2
    machines = [settings.machine(NullLock()) for settings in clients]
    assert all(isinstance(machine, ConcurrencyLimitMachine) for machine in machines)
    events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
    order = itertools.count()
    waiting: deque[tuple[int, Permit, float]] = deque()
    good = [0] * len(clients)
    busy = inside = 0

    def at(when: float, step: Callable[..., None], *facts: Any) -> None:
        heapq.heappush(events, (when, next(order), step, facts))

    def arrive(now: float, client: int) -> None:
        nonlocal inside
        rate = CAPACITY * (0.5 if now < scenario.calm else scenario.load) / len(clients)
        at(now + chance.expovariate(rate), arrive, client)
        permit = machines[client].acquire(now)
        if isinstance(permit, Permit):
            inside += 1
            slower = scenario.slower_io if now >= scenario.changes_at else 0.0
            at(now + chance.lognormvariate(mu, sigma) + slower, queue, client, permit, now)

    def queue(now: float, client: int, permit: Permit, began: float) -> None:
        waiting.append((client, permit, began))
        serve(now)

    def serve(now: float) -> None:
        nonlocal busy
        while waiting and busy < SERVERS:
            busy += 1
            takes = chance.expovariate(1 / SERVICE)
            if scenario.contention:
                takes *= 1 + 0.01 * max(0, inside - 20)
            if now >= scenario.changes_at:
                takes *= scenario.slower_service
            at(now + takes, answer, *waiting.popleft())

    def answer(now: float, client: int, permit: Permit, began: float) -> None:
        nonlocal busy, inside
        busy -= 1
        inside -= 1
        if scenario.errors and chance.random() < scenario.errors:
            machines[client].end(permit, Ending.FAILURE, began, now)
        else:
            machines[client].succeed(permit, began, now)
            good[client] += now >= scenario.counts_from and now - began <= scenario.objective
        serve(now)

    for client in range(len(clients)):
        at(joins[client] if joins else 0.0, arrive, client)
    while events[0][0] < scenario.until:
        now, _, step, facts = heapq.heappop(events)
        step(now, *facts)
    slowed = scenario.slower_service if scenario.changes_at < math.inf else 1.0
    possible = CAPACITY / slowed * (scenario.until - scenario.counts_from)
    shares = [count / possible for count in good]
    return Outcome(sum(shares), sum(machine.limit for machine in machines), shares)


S1 = Scenario()
S1_LITTLE_MORE = Scenario(load=1.2)
S1_CONTENTION = Scenario(contention=True)
S2 = Scenario(changes_at=40, slower_service=2.0, until=140, counts_from=110)
S3 = Scenario(changes_at=40, slower_io=0.09, objective=0.35, until=180, counts_from=150)

VEGAS = ConcurrencyLimit()
GRADIENT2 = ConcurrencyLimit(adapt="gradient2", limit_min=20, limit_max=200)


def aimd(timeout: float) -> ConcurrencyLimit:
    return ConcurrencyLimit(adapt="aimd", timeout=timeout)


SCENARIOS = {
    "2x": S1,
    "1.2x": S1_LITTLE_MORE,
    "2x, contention": S1_CONTENTION,
    "2x, half the servers": S2,
    "2x, 90 ms slower": S3,
    "2x, 1 % errors": Scenario(errors=0.01),
}
LIMITS: dict[str, Callable[[Scenario], ConcurrencyLimit]] = {
    "vegas": lambda scenario: VEGAS,
    "aimd, timeout = objective": lambda scenario: aimd(scenario.objective),
    "aimd, timeout = 2 x objective": lambda scenario: aimd(2 * scenario.objective),
    "gradient2": lambda scenario: GRADIENT2,
    "fixed 30": lambda scenario: ConcurrencyLimit(30),
    "fixed 60": lambda scenario: ConcurrencyLimit(60),
    "none": lambda scenario: ConcurrencyLimit(1_000_000),
}


def minutes(scenario: Scenario) -> Scenario:
    """The same at the length of the tables: a minute of calm, changes after five, and 100 s that count."""
    changes = 300.0 if scenario.changes_at < math.inf else math.inf
    until = 500.0 if scenario.changes_at < math.inf else 400.0
    return scenario._replace(calm=60.0, changes_at=changes, until=until, counts_from=until - 100)


def test_vegas_finds_its_limit() -> None:
    """At twice the load, and at a little too much, nearly all that the dependency can do is answered in time."""
    assert simulate(S1, VEGAS).goodput > 0.85
    assert simulate(S1_LITTLE_MORE, VEGAS).goodput > 0.85


def test_vegas_follows_a_dependency_that_can_do_less() -> None:
    """When its servers become half as fast, the limit follows; one that was right before is far too high."""
    assert simulate(S2, VEGAS).goodput > 0.85
    assert simulate(S2, ConcurrencyLimit(30)).goodput < 0.5


def test_vegas_is_not_misled_by_a_dependency_that_only_takes_longer() -> None:
    """A latency that is longer for good is learned as the new baseline, so that it is kept busy again."""
    outcome = simulate(S3, VEGAS)
    assert outcome.goodput > 0.75
    assert outcome.limit > 30


def test_vegas_is_not_misled_by_failures_that_mean_nothing() -> None:
    """A call in a hundred that fails anyway does not shut the dependency out."""
    assert simulate(SCENARIOS["2x, 1 % errors"], VEGAS).goodput > 0.85


def test_aimd_is_as_good_as_its_timeout() -> None:
    """With the objective as timeout it beats all others; with twice that, hardly an answer comes in time."""
    assert simulate(S1, aimd(0.25)).goodput > 0.9
    late = S1._replace(until=140, counts_from=110)
    assert simulate(late, aimd(0.5)).goodput < 0.3


def test_gradient2_absorbs_an_overload() -> None:
    """What lasts becomes its baseline, and after a few minutes most answers come too late."""
    assert simulate(minutes(S1), GRADIENT2).goodput < 0.4


def test_without_a_limit_nothing_is_answered_in_time() -> None:
    """All are served in the end, and nobody waits for it."""
    assert simulate(S1, ConcurrencyLimit(1_000_000)).goodput < 0.05


@pytest.mark.parametrize("settings", [VEGAS, aimd(0.25)], ids=["vegas", "aimd"])
def test_clients_of_one_dependency_share_it(settings: ConcurrencyLimit) -> None:
    """Two that know nothing of each other keep it busy together, and neither starves."""
    outcome = simulate(S1, settings, settings)
    assert outcome.goodput > 0.85
    assert min(outcome.good_of) > 0.3


def test_a_seed_is_a_run() -> None:
    """The same seed makes the same run, to the last call."""
    short = S1._replace(until=30, counts_from=20)
    assert simulate(short, VEGAS, seed=7) == simulate(short, VEGAS, seed=7)
    assert simulate(short, VEGAS, seed=7) != simulate(short, VEGAS, seed=8)


if __name__ == "__main__":
    for name, limit in LIMITS.items():
        row = [simulate(minutes(scenario), limit(scenario)) for scenario in SCENARIOS.values()]
        print(f"| {name} |", " | ".join(f"{outcome.goodput:.2f}".removeprefix("0") for outcome in row), "|")  # noqa: T201
