"""Whatever policy is made of whatever parts, and whatever its dependency does: what every policy promises.

Hypothesis makes the policies, the scripts of their dependencies and the moments at which calls come; all of it takes
place on virtual time.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import random
from typing import Any

from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st

import hormesis as hm
from hormesis.events import EventBus
from hormesis.policy.explain import worst_case
from hormesis.testing import ManualClock, Scripted, VirtualClock, run_virtual

SOON = 1e-6
"""What sums of floats may be off by."""


class GoneAway(BaseException):
    """What ends a call that is neither an answer nor a failure."""


ERRORS = (ConnectionResetError, ConnectionRefusedError, TimeoutError, KeyError, ValueError)
KNOWN = (*ERRORS, hm.Rejected, hm.TimedOut)

some_seconds = st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0])
budgets = st.sampled_from([None, 0.2, 1.0])
ons: st.SearchStrategy[Any] = st.sampled_from(["any", "transient", "timeout", ("connect", KeyError), ConnectionError])


def is_none(result: object) -> bool:
    """Say that no answer is a failure."""
    return result is None


on_results = st.sampled_from([None, None, is_none])

# None that a sum of back-offs could meet: which of the two comes first would be a matter of rounding.
deadlines = st.builds(hm.Deadline, st.sampled_from([0.137, 0.271, 0.559, 1.031, 2.077]))
retries = st.builds(
    hm.Retry,
    attempts=st.integers(1, 4),
    on=ons,
    on_result=on_results,
    delay=st.sampled_from([0, 0.1, 0.5]),
    delay_max=some_seconds,
    backoff=st.just("exponential"),
    jitter=st.sampled_from(["none", "full", "equal", "smooth"]),
    budget=budgets,
)
hedges = st.builds(hm.Hedge, st.sampled_from([0.05, 0.2, 0.5]), max_hedges=st.integers(1, 3), budget=budgets)
breakers = st.builds(
    hm.CircuitBreaker,
    failure_rate=st.sampled_from([0.3, 0.5, 1.0]),
    consecutive=st.sampled_from([None, 1, 3]),
    slow_after=st.sampled_from([None, 0.3]),
    window=st.sampled_from([5, "2s"]),
    minimum_calls=st.integers(1, 4),
    open_for=some_seconds,
    probes=st.integers(1, 3),
    probe_expires=some_seconds,
    recover_over=st.sampled_from([None, 0.5]),
    on=ons,
    on_result=on_results,
    ignore=st.sampled_from([None, "timeout"]),
    by=st.sampled_from([None, "host", lambda *args: args]),
    max_keys=st.integers(1, 3),
)
bulkheads = st.builds(
    hm.Bulkhead,
    st.integers(1, 3),
    max_queued=st.integers(0, 2),
    max_wait=some_seconds,
    by=st.sampled_from([None, "host"]),
)
timeouts = st.builds(hm.Timeout, some_seconds, cooperative=st.just(value=True))
caches = st.builds(
    hm.StaleCache,
    fresh=st.sampled_from([0, 0.3, 1.0]),
    stale=st.sampled_from([1.0, 3.0]),
    negative=st.sampled_from([None, 0.5]),
    max_entries=st.integers(1, 3),
    revalidate=st.booleans(),
    early=st.sampled_from([0, 1]),
)
fallbacks = st.builds(
    hm.Fallback,
    value=st.just("instead"),
    cache=st.one_of(st.none(), caches),
    on=st.sampled_from(["any", ("any", "rejected"), "timeout"]),
    on_result=on_results,
    max_concurrent=st.integers(1, 3),
)


@st.composite
def policies(draw: st.DrawFn, *kinds: st.SearchStrategy[Any]) -> dict[str, Any]:
    """What a policy is made from, in the standard order or in one of its own."""
    parts = [draw(kind) for kind in kinds if draw(st.booleans())]
    if draw(st.booleans()):
        return {"parts": parts, "order": "standard"}
    more = [draw(kind) for kind in kinds[1:] if draw(st.booleans())]
    return {"parts": draw(st.permutations(parts + more)), "order": "as given"}


def made_of(made: dict[str, Any], **settings: Any) -> hm.Policy:
    """Make a policy, unless its parts can't work in that order."""
    try:
        return hm.Policy(*made["parts"], order=made["order"], **settings)
    except hm.ConfigurationError:
        assert made["order"] == "as given"
        assume(False)
        raise


outcomes = st.sampled_from(["answer", "answer", None, *ERRORS])
steps = st.tuples(st.sampled_from([0.0, 0.05, 0.3, 0.7, 5.0]), outcomes)
calls = st.lists(st.tuples(st.sampled_from([0.0, 0.05, 0.2, 1.0]), st.sampled_from(["a", "b"])), min_size=1, max_size=6)

caller: contextvars.ContextVar[int] = contextvars.ContextVar("caller")


class Seen:
    """What happened to one call."""

    def __init__(self) -> None:
        self.attempts = 0
        self.took = math.inf
        self.outcome: Any = None


def leftovers(policy: hm.Policy) -> list[Any]:
    """Whatever a policy still holds."""
    parts = policy.snapshot()["parts"].values()
    states = [state for part in parts for state in part.get("keys", {"": part}).values()]
    return [
        (key, state[key]) for state in states for key in ("in_flight", "queued", "zombies") if state.get(key, 0) != 0
    ]


@given(
    made=policies(fallbacks, deadlines, retries, hedges, breakers, bulkheads, timeouts),
    script=st.lists(steps, min_size=1, max_size=8),
    calls=calls,
    shadow=st.sampled_from([False, False, False, True]),
    watched=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_what_every_policy_promises(
    *,
    made: dict[str, Any],
    script: list[tuple[float, Any]],
    calls: list[tuple[float, str]],
    shadow: bool,
    watched: bool,
    seed: int,
) -> None:
    """A call ends in a known way, within the time and the attempts that `explain()` says, and leaves nothing."""
    bus = EventBus()
    events: list[Any] = []
    bus.listen(events.append, calls=watched)
    policy = made_of(made, shadow=shadow, clock=VirtualClock(), random=random.Random(seed), events=bus)
    note(policy.explain())
    worst = worst_case(policy.layers)
    seen = [Seen() for _ in calls]
    asked = iter(range(10**6))

    async def function(key: str) -> Any:
        mine = seen[caller.get()]
        mine.attempts += 1
        takes, outcome = script[next(asked) % len(script)]
        await asyncio.sleep(takes)
        if isinstance(outcome, type) and issubclass(outcome, BaseException):
            raise outcome
        return outcome

    async def call(number: int, key: str) -> None:
        caller.set(number)
        mine, loop = seen[number], asyncio.get_running_loop()
        began = loop.time()
        try:
            with hm.calling(host=key):
                mine.outcome = await policy.acall(function, key)
        except KNOWN as error:
            mine.outcome = error
        mine.took = loop.time() - began
        assert hm.remaining() is None

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number, (later, key) in enumerate(calls):
                await asyncio.sleep(later)
                group.create_task(call(number, key))
        await asyncio.sleep(100)
        assert leftovers(policy) == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())
    for mine in seen:
        assert isinstance(mine.outcome, KNOWN) or mine.outcome in ("answer", "instead", None)
        if shadow:
            assert mine.attempts == 1
            assert not isinstance(mine.outcome, hm.HormesisError)
            assert mine.outcome != "instead"
            continue
        assert mine.attempts <= worst.attempts
        assert mine.took <= worst.seconds + SOON
    if watched:
        assert sum(event.name == "call_ended" for event in events) == len(calls)
    assert all(event.shadow is shadow for event in events)


@given(
    made=policies(fallbacks, deadlines, retries, breakers, bulkheads, timeouts),
    script=st.lists(steps, min_size=1, max_size=8),
    pauses=st.lists(st.sampled_from([0.0, 0.2, 1.0]), min_size=1, max_size=8),
    outer=st.sampled_from([None, 0.33, 1.7]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_function_that_heeds_its_time_is_bounded_too(
    *, made: dict[str, Any], script: list[tuple[float, Any]], pauses: list[float], outer: float | None
) -> None:
    """A synchronous function that heeds `remaining()` ends within the same time and attempts, and the caller's own."""
    clock = ManualClock()
    # A refresh in a thread of its own would move the one clock that there is.
    assume(not any(part.cache and part.cache.revalidate for part in made["parts"] if isinstance(part, hm.Fallback)))
    assume(not any(part.cache and part.cache.early for part in made["parts"] if isinstance(part, hm.Fallback)))
    policy = made_of(made, clock=clock, random=random.Random(1), events=EventBus())
    note(policy.explain())
    worst = worst_case(policy.layers)
    dependency = Scripted(*(Scripted.after(*step) for step in script), clock=clock, cooperative=True)
    for pause in pauses:
        clock.advance(pause)
        began, calls_before = clock.now(), dependency.calls
        with contextlib.ExitStack() as stack:
            if outer is not None:
                stack.enter_context(hm.deadline(outer, clock=clock))
            stack.enter_context(contextlib.suppress(*KNOWN))
            assert policy.call(dependency.call, "a") in ("answer", "instead", None)
        assert clock.now() - began <= min(worst.seconds, math.inf if outer is None else outer) + SOON
        assert dependency.calls - calls_before <= worst.attempts
        assert hm.remaining() is None
    assert leftovers(policy) == []


@given(
    made=policies(fallbacks, deadlines, retries, breakers, bulkheads, timeouts),
    script=st.lists(st.sampled_from(["answer", None, *ERRORS, GoneAway]), min_size=1, max_size=8),
    pauses=st.lists(st.tuples(st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from(["a", "b"])), min_size=1, max_size=12),
    shadow=st.sampled_from([False, False, True]),
    watched=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_both_colours_agree(
    *,
    made: dict[str, Any],
    script: list[Any],
    pauses: list[tuple[float, str]],
    shadow: bool,
    watched: bool,
    seed: int,
) -> None:
    """Where time passes between calls alone, threads and tasks see the same answers, failures, notes and events."""
    # A refresh in a thread of its own, and one in a task, come when they come.
    for part in made["parts"]:
        assume(not (isinstance(part, hm.Fallback) and part.cache is not None and part.cache.revalidate))
        assume(not (isinstance(part, hm.Fallback) and part.cache is not None and part.cache.early))
    heard: list[list[Any]] = []
    for asynchronous in (False, True):
        bus, clock = EventBus(), ManualClock()
        told: list[Any] = []
        heard.append(told)
        bus.listen(lambda event, told=told: told.append(event.as_dict()), calls=watched)  # type: ignore[misc]
        policy = made_of(made, shadow=shadow, clock=clock, random=random.Random(seed), events=bus)
        run = _all_async if asynchronous else _all_sync
        run(policy, clock, script, pauses, told)
        assert leftovers(policy) == []
        told.append(policy.snapshot())
    assert heard[0] == heard[1]


def _step(script: list[Any], asked: Any) -> Any:
    outcome = script[next(asked) % len(script)]
    if isinstance(outcome, type) and issubclass(outcome, BaseException):
        raise outcome
    return outcome


def _how(error: BaseException) -> list[Any]:
    return [type(error), error.args, getattr(error, "__notes__", []), type(error.__cause__)]


def _all_sync(policy: hm.Policy, clock: ManualClock, script: list[Any], pauses: list[Any], told: list[Any]) -> None:
    asked = iter(range(10**6))

    def function(key: str) -> Any:
        return _step(script, asked)

    for pause, key in pauses:
        clock.advance(pause)
        try:
            with hm.calling(host=key):
                told.append(policy.call(function, key))
        except (*KNOWN, GoneAway) as error:
            told.append(_how(error))


def _all_async(policy: hm.Policy, clock: ManualClock, script: list[Any], pauses: list[Any], told: list[Any]) -> None:
    asked = iter(range(10**6))

    async def function(key: str) -> Any:
        await asyncio.sleep(0)
        return _step(script, asked)

    async def main() -> None:
        for pause, key in pauses:
            clock.advance(pause)
            try:
                with hm.calling(host=key):
                    told.append(await policy.acall(function, key))
            except (*KNOWN, GoneAway) as error:
                told.append(_how(error))

    asyncio.run(main())


@given(
    parts=st.tuples(deadlines, retries, breakers, bulkheads, timeouts).flatmap(
        lambda every: st.sets(st.integers(0, 4)).map(lambda chosen: [every[place] for place in sorted(chosen)])
    ),
    script=st.lists(st.sampled_from(["answer", *ERRORS, GoneAway]), min_size=1, max_size=8),
    pauses=st.lists(st.tuples(st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from(["a", "b"])), min_size=1, max_size=12),
    asynchronous=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=100)
def test_blocks_and_functions_agree(
    *, parts: list[Any], script: list[Any], pauses: list[tuple[float, str]], asynchronous: bool, seed: int
) -> None:
    """A block of code under a policy has the attempts, failures, notes and events that a function would have."""
    assume(not any(callable(getattr(part, "by", None)) for part in parts))  # a block has no arguments
    heard: list[list[Any]] = []
    for run in (_all_sync, _all_blocks_async if asynchronous else _all_blocks):
        bus, clock = EventBus(), ManualClock()
        told: list[Any] = []
        heard.append(told)
        bus.listen(lambda event, told=told: told.append(event.as_dict()))  # type: ignore[misc]
        policy = hm.Policy(*parts, clock=clock, random=random.Random(seed), events=bus)
        run(policy, clock, script, pauses, told)
        assert leftovers(policy) == []
        told.append(policy.snapshot())
    assert heard[0] == heard[1]


def _all_blocks(policy: hm.Policy, clock: ManualClock, script: list[Any], pauses: list[Any], told: list[Any]) -> None:
    asked = iter(range(10**6))
    for pause, key in pauses:
        clock.advance(pause)
        try:
            with hm.calling(host=key):
                answer = None
                for attempt in policy.attempts():
                    with attempt:
                        answer = _step(script, asked)
                told.append(answer)
        except (*KNOWN, GoneAway) as error:
            told.append(_how(error))


def _all_blocks_async(
    policy: hm.Policy, clock: ManualClock, script: list[Any], pauses: list[Any], told: list[Any]
) -> None:
    asked = iter(range(10**6))

    async def main() -> None:
        for pause, key in pauses:
            clock.advance(pause)
            try:
                with hm.calling(host=key):
                    answer = None
                    async for attempt in policy.attempts():
                        async with attempt:
                            answer = _step(script, asked)
                    told.append(answer)
            except (*KNOWN, GoneAway) as error:
                told.append(_how(error))

    asyncio.run(main())


class Response:
    """What an unwanted result holds, and who has it."""

    def __init__(self) -> None:
        self.freed = 0
        self.returned = False

    def free(self) -> None:
        self.freed += 1


@given(
    made=policies(fallbacks, deadlines, retries, hedges, breakers, bulkheads, timeouts),
    script=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.3, 1.5]), st.booleans(), st.booleans()), min_size=1, max_size=8
    ),
    calls=calls,
    patience=st.sampled_from([None, 0.2, 0.7]),
)
@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_every_unwanted_result_is_returned_or_freed(
    *,
    made: dict[str, Any],
    script: list[tuple[float, bool, bool]],
    calls: list[tuple[float, str]],
    patience: float | None,
) -> None:
    """A response that nobody wants is what the caller gets, or it is freed, once; also when the caller gives up."""
    policy = made_of(made, clock=VirtualClock(), events=EventBus())
    note(policy.explain())
    responses: list[Response] = []
    asked = iter(range(10**6))

    async def function(key: str) -> Any:
        takes, fails, good = script[next(asked) % len(script)]
        await asyncio.sleep(takes)
        if good:
            return "answer"
        if fails:
            raise ConnectionResetError
        responses.append(Response())
        raise hm.UnwantedResult(responses[-1], hm.FailureKind.UNAVAILABLE, dispose=responses[-1].free)

    async def call(key: str) -> None:
        try:
            async with asyncio.timeout(patience):
                result = await policy.acall(function, key)
        except (*KNOWN, TimeoutError):
            return
        if isinstance(result, Response):
            result.returned = True

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for later, key in calls:
                await asyncio.sleep(later)
                group.create_task(call(key))
        await asyncio.sleep(100)

    run_virtual(main())
    for response in responses:
        # Callers that share a failure may each free it; closing twice is harmless, and closing too early is not.
        assert (response.freed == 0) is response.returned


every_part = st.one_of(fallbacks, deadlines, retries, hedges, breakers, bulkheads, timeouts)


@given(
    parts=st.lists(every_part, max_size=7, unique_by=lambda part: part.slot),
    changes=st.lists(
        st.tuples(st.sampled_from([0.05, 0.2, 1.0]), every_part, st.sampled_from([None, None, True, False])), max_size=6
    ),
    script=st.lists(steps, min_size=1, max_size=8),
    calls=calls,
    watched=st.booleans(),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_other_settings_while_calls_are_under_way(
    *,
    parts: list[Any],
    changes: list[tuple[float, Any, bool | None]],
    script: list[tuple[float, Any]],
    calls: list[tuple[float, str]],
    watched: bool,
) -> None:
    """Whatever a policy is turned into meanwhile, every call ends in a known way, once, and leaves nothing."""
    bus = EventBus()
    events: list[Any] = []
    bus.listen(events.append, calls=watched)
    policy = hm.Policy(*parts, clock=VirtualClock(), random=random.Random(1), events=bus)
    asked = iter(range(10**6))

    async def function(key: str) -> Any:
        takes, outcome = script[next(asked) % len(script)]
        await asyncio.sleep(takes)
        if isinstance(outcome, type) and issubclass(outcome, BaseException):
            raise outcome
        return outcome

    async def call(key: str) -> None:
        with contextlib.suppress(*KNOWN), hm.calling(host=key):
            assert await policy.acall(function, key) in ("answer", "instead", None)
        assert hm.remaining() is None

    async def change() -> None:
        for later, part, shadow in changes:
            await asyncio.sleep(later)
            policy.reconfigure(part, shadow=shadow)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(change())
            for later, key in calls:
                await asyncio.sleep(later)
                group.create_task(call(key))
        await asyncio.sleep(100)
        assert leftovers(policy) == []
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main())
    if watched:
        assert sum(event.name == "call_ended" for event in events) == len(calls)
