"""What a protected call costs, against the bare call, in one run.

Each case is timed in short rounds, interleaved with all others, and the fastest round counts: on a shared machine the
minimum is what the code costs, and everything above it is the neighbours. Ratios to the bare call are the result;
nanoseconds are printed for orientation only.

    python benchmarks/journey.py [--rounds N] [--calls N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import time
from collections.abc import Awaitable, Callable

import hormesis as hm

Timed = Callable[[int], float]


def bare() -> int:
    """The synchronous function under every policy."""
    return 1


async def bare_async() -> int:
    """The asynchronous one."""
    return 1


def policies(*, sync: bool) -> dict[str, hm.Policy]:
    """The combinations that are measured."""
    breaker, bulkhead, retry = hm.CircuitBreaker(), hm.Bulkhead(20), hm.Retry(on="transient")
    timeout = hm.Timeout("1s", cooperative=sync)
    return {
        "no parts": hm.Policy(),
        "breaker": hm.Policy(breaker),
        "breaker, time window": hm.Policy(hm.CircuitBreaker(window="10s")),
        "breaker, slow calls watched": hm.Policy(hm.CircuitBreaker(slow_after="1s")),
        "bulkhead": hm.Policy(bulkhead),
        "retry": hm.Policy(retry),
        "retry + breaker + bulkhead": hm.Policy(retry, breaker, bulkhead),
        "retry + breaker + bulkhead + timeout": hm.Policy(retry, breaker, bulkhead, timeout),
        "deadline + all of these": hm.Policy(hm.Deadline("2s"), retry, breaker, bulkhead, timeout),
    }


def open_breaker() -> Callable[[], int]:
    """A call that an open breaker rejects."""
    policy = hm.Policy(hm.CircuitBreaker(minimum_calls=1, open_for="1h"))

    def fail() -> int:
        raise ValueError

    with contextlib.suppress(ValueError):
        policy.call(fail)
    protected = policy(bare)

    def rejected() -> int:
        try:
            return protected()
        except hm.CircuitOpen:
            return 0

    return rejected


def timed(function: Callable[[], int]) -> Timed:
    """Time so many calls of a synchronous function."""

    def run(calls: int) -> float:
        numbers = range(calls)
        start = time.perf_counter()
        for _ in numbers:
            function()
        return time.perf_counter() - start

    return run


def timed_async(function: Callable[[], Awaitable[int]]) -> Timed:
    """Time so many awaits of an asynchronous function."""

    async def run(calls: int) -> float:
        numbers = range(calls)
        start = time.perf_counter()
        for _ in numbers:
            await function()
        return time.perf_counter() - start

    return lambda calls: asyncio.run(run(calls))


async def with_asyncio_timeout() -> int:
    """The standard library's timeout alone, for comparison."""
    async with asyncio.timeout(1):
        return await bare_async()


def measure(cases: dict[str, Timed], rounds: int, calls: int) -> dict[str, float]:
    """Return the seconds a call of each case takes at best, the cases interleaved."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, case in cases.items():
            best[name] = min(best[name], case(calls) / calls)
    return best


def report(title: str, best: dict[str, float]) -> None:
    """Print the ratios to the first case."""
    base = next(iter(best.values()))
    print(f"\n{title:<42}{'x bare':>8}{'ns':>10}")
    for name, seconds in best.items():
        print(f"{name:<42}{seconds / base:>8.1f}{seconds * 1e9:>10.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=5000)
    options = parser.parse_args()
    print(f"CPython {platform.python_version()}, best of {options.rounds} rounds of {options.calls} calls")
    sync = {"bare call": timed(bare)}
    sync |= {name: timed(policy(bare)) for name, policy in policies(sync=True).items()}
    sync["open breaker, rejection caught"] = timed(open_breaker())
    report("synchronous", measure(sync, options.rounds, options.calls))
    colour = {"bare await": timed_async(bare_async)}
    colour |= {name: timed_async(policy(bare_async)) for name, policy in policies(sync=False).items()}
    colour["asyncio.timeout alone"] = timed_async(with_asyncio_timeout)
    report("asynchronous", measure(colour, options.rounds, options.calls))


if __name__ == "__main__":
    main()
