"""What a rate limit costs, against the bare call and against `limits`, in one run; and what a million keys take.

As in `journey.py`: short rounds, interleaved, and the fastest counts. Every case grants what it is asked, but for one,
and is checked afterwards: that what was timed was counted, and that the limit refuses once it is used up.

    python benchmarks/rate_limit.py [--rounds N] [--keys N] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import importlib
import itertools
import json
import platform
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from journey import Case, bare, bare_async, measure, print_rows, rows, timed, timed_async

import hormesis as hm
from hormesis.core.admission import NullLock
from hormesis.core.rate_limit import RateLimiter

_PLENTY = "1000000/s"
"""A rate that no case reaches: what is timed is the granting."""
_DAY = "900000000/d"
_KEYS = [f"client-{number}" for number in range(1000)]
_MEMORY_TARGET = 300.0


def granted(take: Callable[[], object]) -> Callable[[], int]:
    """A call that a limit grants, as journey's timing wants it."""

    def call() -> int:
        if not take():
            raise AssertionError("the limit is used up, and what was timed is how it refuses")
        return 1

    return call


def counted(limit: Any, key: str) -> Callable[[], None]:
    """Make sure that a limiter of ours counts, and refuses what is too much."""

    def check() -> None:
        before = limit.standings(key)[0]
        assert before.quota == 1_000_000, before
        while limit.try_acquire(key, cost=1000):
            pass
        assert not limit.try_acquire(key, cost=1_000_000)

    return check


def refuses(policy: hm.Policy, *args: Any) -> Callable[[], None]:
    """Make sure that a policy of the same limit refuses once it is used up."""

    def check() -> None:
        small = hm.Policy(hm.RateLimit("2/h", by=policy.parts[0].by))  # type: ignore[attr-defined]
        refused = 0
        for _ in range(3):
            try:
                small.call(_take_any, *args)
            except hm.RateLimited:
                refused += 1
        assert refused == 1, refused

    return check


def _take_any(*args: Any) -> int:
    return 1 if len(args) < 9 else 0


def ours_by_hand() -> list[Case]:
    """A limiter that is asked by hand."""
    one, by_key, many = (hm.RateLimit(_PLENTY).limiter() for _ in range(3))
    several, window = hm.RateLimit(_PLENTY, _DAY).limiter(), hm.RateLimit(_PLENTY, algorithm="sliding window").limiter()
    keys = itertools.cycle(_KEYS).__next__
    return [
        Case("one limit: hormesis", timed(_truth(one.try_acquire)), 15, counted(one, "")),
        Case(
            "one key: hormesis",
            timed(_truth(functools.partial(by_key.try_acquire, "acme"))),
            30,
            counted(by_key, "acme"),
        ),
        Case(
            "a thousand keys: hormesis", timed(_truth(lambda: many.try_acquire(keys()))), None, counted(many, _KEYS[0])
        ),
        Case("a second and a day: hormesis", timed(_truth(several.try_acquire)), None, counted(several, "")),
        Case("sliding window: hormesis", timed(_truth(window.try_acquire)), None, counted(window, "")),
    ]


def _truth(take: Callable[[], bool]) -> Any:
    """What journey times must return 1, and True does."""
    return take


def ours_in_policies() -> list[Case]:
    """A policy around a call."""
    plain, keyed = hm.Policy(hm.RateLimit(_PLENTY)), hm.Policy(hm.RateLimit(_PLENTY, by=_whose))
    stack = hm.Policy(
        hm.Retry(on="transient"), hm.CircuitBreaker(), hm.RateLimit(_PLENTY), hm.Bulkhead(20), name="stack"
    )
    protected = keyed(_take_any)
    return [
        Case("no parts, around a call: hormesis", timed(hm.Policy()(bare))),
        Case("one limit, around a call: hormesis", timed(plain(bare)), None, refuses(plain)),
        Case("one key, around a call: hormesis", timed(lambda: protected("acme")), None, refuses(keyed, "acme")),
        Case("retry + breaker + limit + bulkhead: hormesis", timed(stack(bare))),
        Case("refused, caught: hormesis", timed(refused)),
    ]


def _whose(key: str) -> str:
    return key


_used_up = hm.Policy(hm.RateLimit("1/d"), name="used up")


@_used_up
def _never() -> int:
    return 1


def refused() -> int:
    """A call that the limit refuses."""
    try:
        return _never()
    except hm.RateLimited:
        return 1


def peers() -> tuple[list[Case], dict[str, str]]:
    """The library `limits` in memory, or why it is not here."""
    try:
        limits, storage, strategies = map(importlib.import_module, ("limits", "limits.storage", "limits.strategies"))
    except ImportError as error:
        return [], {"limits": str(error)}
    item = limits.RateLimitItemPerSecond(1_000_000)
    keys = itertools.cycle(_KEYS).__next__
    found = []
    for what, kind in (
        ("fixed", strategies.FixedWindowRateLimiter),
        ("two counters", strategies.SlidingWindowCounterRateLimiter),
    ):
        one = kind(storage.MemoryStorage())
        found.append(Case(f"one key: limits, {what}", timed(granted(functools.partial(one.hit, item, "acme")))))
        many = kind(storage.MemoryStorage())
        found.append(
            Case(f"a thousand keys: limits, {what}", timed(granted(functools.partial(_hit_next, many, item, keys))))
        )
    # It remembers each call, so it gets a limit of the size that people set.
    small = limits.RateLimitItemPerSecond(1000)
    moving = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
    found.append(Case("sliding window: limits, each call remembered", timed(functools.partial(_hit, moving, small))))
    return found, {}


def _hit_next(limiter: Any, item: Any, keys: Callable[[], str]) -> bool:
    answer: bool = limiter.hit(item, keys())
    return answer


def _hit(limiter: Any, item: Any) -> int:
    limiter.hit(item, "acme")
    return 1


def colour_cases(runner: asyncio.Runner) -> list[Case]:
    """The same around an asynchronous call."""
    plain, keyed = hm.Policy(hm.RateLimit(_PLENTY)), hm.Policy(hm.RateLimit(_PLENTY, by="host"))
    return [
        Case("bare await", timed_async(bare_async, runner)),
        Case("no parts: hormesis", timed_async(hm.Policy()(bare_async), runner)),
        Case("one limit: hormesis", timed_async(plain(bare_async), runner)),
        Case("one for each host: hormesis", timed_async(keyed(bare_async), runner)),
    ]


# Memory, and how long a call may take when there are many keys.


def _limiter(*limits: str, keys: int, **settings: Any) -> RateLimiter:
    return hm.RateLimit(*limits, max_keys=keys, **settings).core(NullLock())


_KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "a bucket": (("100/s",), {}),
    "two buckets, of a second and a day": (("100/s", "10000/d"), {}),
    "a sliding window": (("100/s",), {"algorithm": "sliding window"}),
    "a fixed window": (("100/s",), {"algorithm": "fixed window"}),
}


def memory(keys: int) -> list[dict[str, Any]]:
    """Bytes of a key when so many have spent something, their names included."""
    found = []
    for what, (limits, settings) in _KINDS.items():
        gc.collect()
        tracemalloc.start()
        limiter = _limiter(*limits, keys=keys, **settings)
        for number in range(keys):
            assert limiter.take(f"client-{number:08}", 1, 1000.0) is None
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(limiter) == keys, len(limiter)
        assert limiter.standings("client-00000000", 1000.0)[-1].remaining == limiter.limits[-1].capacity - 1
        found.append({"what": what, "keys": keys, "bytes": held / keys, "target": _MEMORY_TARGET})
    return found


def pauses(keys: int) -> dict[str, float]:
    """Seconds of processor time that a newcomer takes, on average and at the worst, before and at the bound."""
    limiter = _limiter("100/s", keys=keys)
    found: dict[str, float] = {}
    for when, name in (("filling up", "client"), ("at the bound", "other")):
        took = []
        for number in range(keys if name == "client" else keys // 4):
            key = f"{name}-{number:08}"
            began = time.thread_time()
            limiter.take(key, 1, 1000.0)
            took.append(time.thread_time() - began)
        found[f"{when}, mean"] = sum(took) / len(took)
        found[f"{when}, worst"] = max(took)
    assert len(limiter) <= keys
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, best of {options.rounds} rounds of about 2 ms each")
    with hm.calling(host="eu-1"), asyncio.Runner() as runner:
        others, missing = peers()
        sync = [Case("bare call", timed(bare)), *ours_by_hand(), *ours_in_policies(), *others]
        colour = colour_cases(runner)
        measure(sync + colour, options.rounds)
        for case in sync + colour:
            case.check()
    tables = {"a decision": rows(sync), "asynchronous": rows(colour)}
    for title, found in tables.items():
        print_rows(title, found)
    held = memory(options.keys)
    print(f"\n{'memory':<48}{'keys':>12}{'bytes each':>12}  target")
    for row in held:
        met = "met" if row["bytes"] <= row["target"] else "MISSED"
        print(f"{row['what']:<48}{row['keys']:>12,}{row['bytes']:>12.0f}  ≤ {row['target']:g} {met}")
    took = pauses(options.keys)
    print(f"\n{'a key that is new, of processor time':<48}{'us':>12}")
    for what, seconds in took.items():
        print(f"{what:<48}{seconds * 1e6:>12.1f}")
    for name, why in missing.items():
        print(f"not measured: {name}: {why}")
    if options.json is not None:
        results = {**tables, "memory": held, "pauses": took, "not measured": missing}
        options.json.write_text(json.dumps(results | {"python": platform.python_version()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
