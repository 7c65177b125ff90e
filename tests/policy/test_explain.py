"""`explain()`: the order, its reasons, and a worst case that is never exceeded."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hormesis as hm
from hormesis.patterns.part import Part
from hormesis.policy.explain import amplification, chains, worst_case
from hormesis.testing import VirtualClock, run_virtual

RETRY = hm.Retry(on="any", attempts=3, delay="100ms", delay_max="150ms")


@pytest.mark.parametrize(
    ("parts", "seconds", "attempts", "without_deadline"),
    [
        ([], math.inf, 1, math.inf),
        ([hm.Timeout("1s")], 1.0, 1, 1.0),
        ([hm.Deadline("2s")], 2.0, 1, math.inf),
        ([RETRY], math.inf, 3, math.inf),
        ([RETRY, hm.Timeout("1s")], 3 * 1.0 + 0.1 + 0.15, 3, 3.25),
        ([hm.Timeout("1s"), hm.Bulkhead(1)], 1.0, 1, 1.0),
        ([hm.Timeout("1s"), hm.Bulkhead(1, max_queued=1, max_wait="2s")], 3.0, 1, 3.0),
        ([RETRY, hm.Timeout("1s"), hm.Bulkhead(1, max_queued=1, max_wait="2s")], 3 * 3.0 + 0.25, 3, 9.25),
        ([hm.Deadline("2s"), RETRY, hm.Timeout("1s")], 2.0, 3, 3.25),
        ([hm.Deadline("9s"), RETRY, hm.Timeout("1s")], 3.25, 3, 3.25),
        ([hm.Hedge("200ms"), hm.Timeout("1s")], 1.2, 2, 1.2),
        ([hm.Hedge(max_hedges=2), hm.Timeout("1s")], 3.0, 3, 3.0),
        ([RETRY, hm.Hedge("200ms"), hm.Timeout("1s")], 3 * 1.2 + 0.25, 6, 3.85),
    ],
)
def test_worst_cases(parts: list[Part], seconds: float, attempts: int, without_deadline: float) -> None:
    """Waits, attempts and back-offs add up, and the deadline bounds the sum."""
    cost = worst_case(hm.Policy(*parts).layers)
    assert cost.seconds == pytest.approx(seconds)
    assert cost.attempts == attempts
    assert cost.unbounded_seconds == pytest.approx(without_deadline)


def test_worst_case_of_layers() -> None:
    """An inner layer's worst case is what the outer one times and repeats."""
    policy = hm.Policy(
        hm.Retry(on="any", attempts=2, delay=1), hm.Timeout("2s"), RETRY, hm.Timeout("1s"), order="as given"
    )
    assert worst_case(policy.layers).seconds == pytest.approx(2 * 2.0 + 1)
    assert worst_case(policy.layers).attempts == 6


def test_worst_case_of_a_steep_back_off() -> None:
    """However steep a back-off is, its cap bounds it."""
    retry = hm.Retry(on="any", attempts=1000, delay=1, factor=100, delay_max=2)
    assert worst_case([[retry, hm.Timeout("1s")]]).seconds == pytest.approx(1 + 998 * 2 + 1000)


DURATIONS = st.sampled_from([0.1, 0.5, 1.0, 3.0])


@given(
    timeout=DURATIONS,
    deadline=st.none() | DURATIONS,
    attempts=st.integers(1, 4),
    delay=DURATIONS,
    max_wait=DURATIONS,
    takes=st.lists(DURATIONS, min_size=4, max_size=4),
    busy=DURATIONS,
)
def test_no_call_costs_more_than_its_worst_case(
    *,
    timeout: float,
    deadline: float | None,
    attempts: int,
    delay: float,
    max_wait: float,
    takes: list[float],
    busy: float,
) -> None:
    """Whatever happens, a call takes no longer and attempts no more often than `explain()` says."""
    parts: list[Part] = [
        hm.Retry(on="any", attempts=attempts, delay=delay),
        hm.Bulkhead(1, max_queued=1, max_wait=max_wait),
        hm.Timeout(timeout),
    ]
    if deadline is not None:
        parts.append(hm.Deadline(deadline))
    policy = hm.Policy(*parts, clock=VirtualClock())
    calls = 0

    async def function() -> None:
        nonlocal calls
        calls += 1
        await asyncio.sleep(takes[calls - 1])
        raise ZeroDivisionError

    async def main() -> float:
        loop = asyncio.get_running_loop()
        rival = asyncio.create_task(policy.with_parts(hm.Timeout(100), hm.Deadline(100)).acall(asyncio.sleep, busy))
        await asyncio.sleep(0)
        began = loop.time()
        with contextlib.suppress(hm.HormesisError, ZeroDivisionError):
            await policy.acall(function)
        took = loop.time() - began
        await rival
        return took

    cost = worst_case(policy.layers)
    assert run_virtual(main()) <= cost.seconds + 1e-9
    assert calls <= cost.attempts


def explained(*parts: Any, **settings: Any) -> list[str]:
    return hm.Policy(*parts, name="stock", **settings).explain().splitlines()


def test_explaining_names_every_part_in_its_order() -> None:
    """The text goes from the outside in, with each part's settings and the reason of its place."""
    lines = explained(hm.Timeout("1s"), RETRY, hm.CircuitBreaker())
    assert lines[0] == "policy 'stock', from the outside in:"
    numbered = [line for line in lines if line[:3] == "  " + line.strip()[:1] and line.strip()[0].isdigit()]
    assert [line.split(":")[0] for line in numbered] == [
        "  1. retry", "  2. circuit breaker", "  3. timeout", "  4. the function",
    ]  # fmt: skip
    assert hm.Timeout("1s").describe() in numbered[2]
    text = " ".join(" ".join(lines).split())
    assert "outside admission: each attempt asks again to go in" in text
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("parts", "last"),
    [
        (
            [hm.Bulkhead(1)],
            "worst case: no bound in time (no deadline, and an attempt or a fallback without one); 1 attempt a call",
        ),
        ([hm.Timeout("1s")], "worst case: an answer or an error after 1s; 1 attempt a call"),
        (
            [hm.Deadline("2s"), RETRY],
            "worst case: an answer or an error after 2s (without the deadline: no bound); 3 attempts a call",
        ),
        (
            [hm.Deadline("2s"), RETRY, hm.Timeout("1s")],
            "worst case: an answer or an error after 2s (without the deadline: 3.25s); 3 attempts a call",
        ),
    ],
)
def test_explaining_ends_with_the_worst_case(parts: list[Part], last: str) -> None:
    """The last line says what one call can cost in time and attempts."""
    assert explained(*parts)[-1] == last


def test_explaining_a_policy_without_parts() -> None:
    """A policy that does nothing says so."""
    assert explained() == ["policy 'stock' has no parts: it calls the function as it is"]


def test_amplification() -> None:
    """Attempts multiply along the policies that are called inside each other; budgets bound what that comes to."""
    three = hm.Retry(on="transient", attempts=4)
    names = ("front", "middle", "back")
    chain = [hm.Policy(three, name=name) for name in names]
    assert [amplification(chain[:n]).attempts for n in (1, 2, 3)] == [4, 16, 64]
    assert [round(amplification(chain[:n]).with_budgets, 2) for n in (1, 2, 3)] == [1.2, 1.44, 1.73]
    assert amplification(chain).path == names
    unbounded = hm.Policy(hm.Retry(on="transient", attempts=2, budget=None), hm.Hedge("50ms"))
    assert amplification([unbounded])[1:] == (4, pytest.approx(2 * 1.05))


def test_explaining_what_is_called() -> None:
    """A policy that says whom it calls explains each way down."""
    rows, cache = hm.Policy(RETRY, hm.Timeout("1s"), name="rows"), hm.Policy(name="cache")
    stock = hm.Policy(RETRY, hm.Timeout("9s"), name="stock", calls=[rows, cache])
    assert [tuple(each.name for each in chain) for chain in chains(stock)] == [("stock", "rows"), ("stock", "cache")]
    assert stock.explain().splitlines()[-2:] == [
        "in an outage at the end of stock > rows: up to 9 attempts for one call, 1.44 over time with the budgets",
        "in an outage at the end of stock > cache: up to 3 attempts for one call, 1.2 over time with the budgets",
    ]


def test_explaining_a_shadow() -> None:
    """A policy that only watches says so."""
    assert explained(hm.Timeout("1s"), shadow=True)[0].endswith("(a shadow: it watches, and does none of this):")
