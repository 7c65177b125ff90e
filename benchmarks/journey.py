"""What a protected call costs, against the bare call and against other libraries, in one run.

Each case is timed in short rounds, interleaved with all others, and the fastest round counts: on a shared machine the
minimum is what the code costs, and everything above it is the neighbours. Ratios to the bare call are the result;
nanoseconds are printed for orientation only. Nobody listens to events while it runs, and nothing is talked to.

Our cases are checked before and after: that what was timed really counted its calls and admitted them, and that it acts
when it has to. A peer that is missing, or does not do what it should, is named with the reason.

    python benchmarks/journey.py [--rounds N] [--ours] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import functools
import gc
import itertools
import json
import platform
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import peers

import hormesis as hm
from hormesis.events import bus

_ROUND_SECONDS = 0.002
"""A round is that long: shorter than what a neighbour leaves us of the processor at a time."""

Timed = Callable[[int], float]


def bare() -> int:
    """The synchronous function under every policy."""
    return 1


async def bare_async() -> int:
    """The asynchronous one."""
    return 1


async def suspending() -> int:
    """An asynchronous function that waits once, as whatever does I/O: a timeout is only then more than a thought."""
    await asyncio.sleep(0)
    return 1


@dataclasses.dataclass(slots=True)
class Case:
    """Something to time.

    Args:
        name: What it is.
        timed: Runs it so many times and returns the seconds that took.
        target: Times the bare call that it may cost at most; None where none is named.
        check: Raises unless what was timed is what it claims to be; called when all is timed.
    """

    name: str
    timed: Timed
    target: float | None = None
    check: Callable[[], None] = lambda: None
    calls: int = 1
    best: float = float("inf")


# Ours.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """A policy to time, and its targets in either colour."""

    name: str
    parts: Callable[[bool], list[Any]]
    sync: float | None = None
    colour: float | None = None


def _breaker(**settings: Any) -> hm.CircuitBreaker:
    return hm.CircuitBreaker(**settings)


def _stack(**settings: Any) -> list[Any]:
    return [hm.Retry(on="transient", delay="1ms"), _breaker(**settings), hm.Bulkhead(20)]


def _timeout(sync: bool) -> hm.Timeout:
    return hm.Timeout("1s", cooperative=sync)


OURS = [
    Ours(name="no parts", parts=lambda _: []),
    Ours(name="bulkhead", parts=lambda _: [hm.Bulkhead(20)]),
    Ours(name="retry", parts=lambda _: [hm.Retry(on="transient", delay="1ms")]),
    Ours(name="timeout", parts=lambda sync: [_timeout(sync)]),
    Ours(name="breaker", parts=lambda _: [_breaker()], sync=15),
    Ours(name="breaker, slow calls watched", parts=lambda _: [_breaker(slow_after="1s")], sync=20),
    Ours(name="breaker, time window", parts=lambda _: [_breaker(window="10s")]),
    Ours(name="breaker for each host", parts=lambda _: [_breaker(by="host")]),
    Ours(name="retry + breaker + bulkhead", parts=lambda _: _stack(), sync=20),
    Ours(name="retry + breaker + bulkhead, slow calls watched", parts=lambda _: _stack(slow_after="1s"), sync=25),
    Ours(name="the same with a timeout", parts=lambda sync: [*_stack(), _timeout(sync)], colour=15),
    Ours(name="deadline + all of these", parts=lambda sync: [hm.Deadline("2s"), *_stack(), _timeout(sync)]),
]


def check_counted(policy: hm.Policy) -> None:
    """Make sure that the breaker counted what was timed, and is closed."""
    if policy.part(hm.CircuitBreaker) is None:
        return
    held = policy.snapshot()["parts"]["circuit_breaker"]
    held = held["keys"]["eu-1"] if "keys" in held else held
    assert held["state"] == "closed", held
    assert held["calls"] > 50, held


def check_acts(policy: hm.Policy) -> None:
    """Make sure that each part does what it is there for."""
    if policy.part(hm.Bulkhead) is not None:
        assert call(policy, lambda: policy.snapshot()["parts"]["bulkhead"]["in_flight"]) == 1
    if policy.part(hm.Timeout) is not None:
        left = call(policy, hm.remaining)
        assert left is not None, "no time was set"
        assert 0.9 < left <= 1, left
    if policy.part(hm.Deadline) is not None:
        left = call(policy.with_parts(hm.Timeout("1h", cooperative=True)), hm.remaining)
        assert left is not None, "no deadline was set"
        assert 1.5 < left <= 2, left
    if policy.part(hm.Retry) is not None:
        answers = iter([False, True])
        assert call(policy, lambda: refused_unless(next(answers))), "the retry did not repeat"
    if policy.part(hm.CircuitBreaker) is not None:
        for _ in range(300):
            with contextlib.suppress(ConnectionRefusedError):
                try:
                    call(policy, lambda: refused_unless(False))
                except hm.CircuitOpen:
                    return
        raise AssertionError("the breaker did not open")


def refused_unless(works: bool) -> bool:
    """Raise what is worth a retry, and counts as a failure, unless it works."""
    if not works:
        raise ConnectionRefusedError
    return works


def call(policy: hm.Policy, function: Callable[[], Any]) -> Any:
    """Call a function under a policy, in the colour that the policy can do."""

    async def function_async() -> Any:
        return function()

    timeout = policy.part(hm.Timeout)
    if timeout is None or timeout.cooperative:
        return policy.call(function)
    return asyncio.run(policy.acall(function_async))


def timed(function: Callable[[], int]) -> Timed:
    """Time so many calls of a synchronous function."""

    def run(calls: int) -> float:
        numbers = itertools.repeat(None, calls)
        start = time.perf_counter()
        for _ in numbers:
            function()
        return time.perf_counter() - start

    assert function() == 1
    return run


def timed_async(function: Callable[[], Awaitable[int]], runner: asyncio.Runner) -> Timed:
    """Time so many awaits of an asynchronous function."""

    async def run(calls: int) -> float:
        numbers = itertools.repeat(None, calls)
        start = time.perf_counter()
        for _ in numbers:
            await function()
        return time.perf_counter() - start

    async def once() -> int:
        return await function()

    assert runner.run(once()) == 1
    return lambda calls: runner.run(run(calls))


def rejected_by(protect: Callable[[Callable[[], int]], Any]) -> Callable[[], int]:
    """A call that an open breaker rejects."""
    failing = True

    def fail() -> int:
        assert failing, "the function was reached: the breaker is not open"
        raise ValueError

    protected = protect(fail)
    with contextlib.suppress(Exception):
        protected()
    failing = False

    def rejected() -> int:
        try:
            protected()
        except AssertionError:
            raise
        except Exception:
            return 1
        raise AssertionError("the breaker is not open")

    return rejected


def our_open_breaker(function: Callable[[], int]) -> Any:
    """A breaker that opens at the first failure, for an hour."""
    return hm.Policy(hm.CircuitBreaker(minimum_calls=1, open_for="1h"))(function)


def sync_cases(*, others: bool) -> tuple[list[Case], dict[str, str]]:
    """The synchronous cases, and why others are not among them."""
    cases = [Case("bare call", timed(bare))]
    for each in OURS:
        policy = hm.Policy(*each.parts(True), name="bench")
        check = _check_of(policy)
        cases.append(Case(f"{each.name}: hormesis", timed(policy(bare)), each.sync, check))
    cases.append(Case("rejection, caught: hormesis", timed(rejected_by(our_open_breaker)), 40))
    missing: dict[str, str] = {}
    if others:
        for name, protect in peers.SYNC.items():
            with _told(missing, name):
                cases.append(Case(name, timed(protect(bare))))
        for name, protect in peers.OPEN.items():
            with _told(missing, name):
                cases.append(Case(name, timed(rejected_by(protect))))
    return cases, missing


_TIMED = ("timeout", "the same with a timeout")
"""What is measured around a function that suspends too."""


def async_cases(runner: asyncio.Runner, function: peers.Async, *, others: bool) -> tuple[list[Case], dict[str, str]]:
    """The asynchronous cases around a function, and why others are not among them."""
    waits = function is suspending
    cases = [Case("bare await", timed_async(function, runner))]
    for each in OURS:
        if not waits or each.name in _TIMED:
            policy = hm.Policy(*each.parts(False), name="bench")
            timed_policy = timed_async(policy(function), runner)
            target = None if waits else each.colour  # it is against a call that does nothing
            cases.append(Case(f"{each.name}: hormesis", timed_policy, target, _check_of(policy)))
    missing: dict[str, str] = {}
    standard = {name: make for name, make in peers.ASYNC.items() if "asyncio." in name and "," not in name}
    for name, protect in (peers.ASYNC if others else standard).items():
        with _told(missing, name):
            if not waits or name.partition(": ")[0] in _TIMED:
                cases.append(Case(name, timed_async(runner.run(_made(protect, function)), runner)))
    return cases, missing


def _check_of(policy: hm.Policy) -> Callable[[], None]:
    def check() -> None:
        check_counted(policy)
        check_acts(hm.Policy(*policy.parts, name="check"))  # without the thousands of successes that were timed

    return check


async def _made(protect: Callable[[Any], Any], function: peers.Async) -> Any:
    """Protect a function inside of a loop: some libraries bind to it."""
    return protect(function)


@contextlib.contextmanager
def _told(missing: dict[str, str], name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        missing[name] = f"{type(error).__name__}: {error}"


def measure(cases: list[Case], rounds: int) -> None:
    """Find the seconds that a call of each case takes at best, the cases interleaved."""
    for case in cases:
        while case.timed(case.calls) < _ROUND_SECONDS / 2 and case.calls < 1 << 20:
            case.calls *= 2
    for number in range(rounds):
        # Each round begins elsewhere, so that no case always comes after the same one.
        start = number % len(cases)
        for case in cases[start:] + cases[:start]:
            case.best = min(case.best, case.timed(case.calls) / case.calls)


def rows(cases: list[Case]) -> list[dict[str, Any]]:
    """The results as plain data, those that do the same thing side by side."""
    base = cases[0].best
    found = []
    for case in cases:
        what, _, who = case.name.partition(": ")
        ratio = case.best / base
        met = None if case.target is None else ratio <= case.target
        found.append(
            {"what": what, "who": who, "ns": case.best * 1e9, "ratio": ratio, "target": case.target, "met": met}
        )
    order = {row["what"]: number for number, row in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda row: (order[row["what"]], row["who"] != "hormesis"))


def print_rows(title: str, found: list[dict[str, Any]]) -> None:
    """Print one table."""
    print(f"\n{title:<48}{'by':<52}{'x bare':>8}{'ns':>9}  target")
    before = ""
    for row in found:
        target = "" if row["target"] is None else f"≤ {row['target']:g} {'met' if row['met'] else 'MISSED'}"
        what = row["what"] if row["what"] != before else ""
        before = row["what"]
        print(f"{what:<48}{row['who']:<52}{row['ratio']:>8.1f}{row['ns']:>9.0f}  {target}".rstrip())


# Memory.

_KEYS = 100_000
_MEMORY_TARGET = 60e6


def bytes_of(make: Callable[[], object]) -> int:
    """How much memory what is made takes, as Python's allocators see it."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        assert kept is not None
        return held
    finally:
        tracemalloc.stop()


def keyed_breakers(keys: int, *, failed: bool) -> hm.Policy:
    """A policy with a breaker for each of so many hosts, which have all been called."""
    policy = hm.Policy(hm.CircuitBreaker(by=lambda host: host, max_keys=keys), name="keyed")

    def call(host: str) -> int:
        if failed:
            raise ValueError
        return len(host)

    for number in range(keys):
        with contextlib.suppress(ValueError):
            policy.call(call, f"host-{number}")
    return policy


def memory(*, others: bool) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Bytes of a breaker, ours by key and others' as objects."""
    held = bytes_of(lambda: keyed_breakers(_KEYS, failed=False))
    kept = keyed_breakers(100, failed=False).snapshot()["parts"]["circuit_breaker"]["keys"]
    assert len(kept) == 100, len(kept)
    assert all(each["calls"] == 1 for each in kept.values())
    few = 10_000
    hurt = bytes_of(lambda: keyed_breakers(few, failed=True))
    found: list[dict[str, Any]] = [
        {"who": "hormesis, by key (window of 100 calls)", "breakers": _KEYS, "bytes": held, "target": _MEMORY_TARGET},
        {"who": "the same, each after its first failure", "breakers": few, "bytes": hurt, "target": None},
    ]
    missing: dict[str, str] = {}
    for name, make in peers.ONE_BREAKER.items() if others else ():
        with _told(missing, name):
            make()  # what its import takes is not its breaker's
            held = bytes_of(functools.partial(_many, make, few))
            found.append({"who": name, "breakers": few, "bytes": held, "target": None})
    return found, missing


def _many(make: Callable[[], object], number: int) -> list[object]:
    return [make() for _ in range(number)]


def print_memory(found: list[dict[str, Any]]) -> None:
    """Print the table of memory."""
    print(f"\n{'memory':<44}{'breakers':>10}{'MB':>8}{'bytes each':>12}  target")
    for row in found:
        target = ""
        if row["target"] is not None:
            met = "met" if row["bytes"] <= row["target"] else "MISSED"
            target = f"≤ {row['target'] / 1e6:g} MB {met}"
        each = row["bytes"] / row["breakers"]
        print(f"{row['who']:<44}{row['breakers']:>10,}{row['bytes'] / 1e6:>8.1f}{each:>12.0f}  {target}".rstrip())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--ours", action="store_true", help="leave the other libraries out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    options = parser.parse_args()
    others = not options.ours
    assert not bus.listeners, "somebody listens: that would be measured too"
    print(f"CPython {platform.python_version()}, best of {options.rounds} rounds of about 2 ms each")
    with hm.calling(host="eu-1"), asyncio.Runner() as runner:
        sync, missing = sync_cases(others=others)
        colour, missing_async = async_cases(runner, bare_async, others=others)
        waiting, _ = async_cases(runner, suspending, others=others)
        cases = sync + colour + waiting
        measure(cases, options.rounds)
        for case in cases:
            case.check()
    tables = {
        "synchronous": rows(sync),
        "asynchronous": rows(colour),
        "asynchronous, suspending once": rows(waiting),
    }
    for title, found in tables.items():
        print_rows(title, found)
    for title in ("asynchronous", "asynchronous, suspending once"):
        ours, theirs = (_ratio(tables[title], what, who) for what, who in _BELOW)
        print(
            f"\n{title}: the stack with a timeout costs {ours / theirs:.2f} of asyncio.timeout alone (target: below 1)"
        )
    held, missing_memory = memory(others=others)
    print_memory(held)
    absent = missing | {f"{name} (async)": why for name, why in missing_async.items()} | missing_memory
    for name, why in absent.items():
        print(f"not measured: {name}: {why}")
    if options.json is not None:
        results = {**tables, "memory": held, "not measured": absent, "python": platform.python_version()}
        options.json.write_text(json.dumps(results, indent=2) + "\n")


_BELOW = [("the same with a timeout", "hormesis"), ("timeout", "asyncio.timeout")]


def _ratio(found: list[dict[str, Any]], what: str, who: str) -> float:
    return next(float(row["ratio"]) for row in found if (row["what"], row["who"]) == (what, who))


if __name__ == "__main__":
    main()
