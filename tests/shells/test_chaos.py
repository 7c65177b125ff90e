"""Injected faults in a policy, in every colour: what a call meets with, what other parts make of it, and the bounds."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest

import hormesis as hm
from hormesis.testing import ManualClock, VirtualClock, run_virtual

TOKEN = "a token of sixteen"


@pytest.fixture
def switch(heard: Any) -> hm.ChaosSwitch:
    return hm.ChaosSwitch(TOKEN, events=heard.bus)


def policy_of(switch: hm.ChaosSwitch, *injections: hm.Injection, parts: Any = (), **given: Any) -> hm.Policy:
    settings = {key: given.pop(key) for key in ("share_max", "seed", "per") if key in given}
    return hm.Policy(*parts, hm.Chaos(*injections, switch=switch, **settings), name="stock", **given)


def outcome(colour: Any, policy: hm.Policy, dependency: Any) -> Any:
    """What a call comes to: its answer, or the class of what it raises."""
    try:
        return colour.call(policy, dependency)
    except Exception as error:
        return type(error)


# What a call meets with.


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"error": "connect"}, ConnectionRefusedError),
        ({"error": "timeout"}, TimeoutError),
        ({"error": "unavailable"}, ConnectionResetError),
        ({"error": "throttled", "retry_after": 2}, hm.InjectedFault),
        ({"error": "error"}, hm.InjectedFault),
        ({"error": KeyError}, KeyError),
        ({"error": lambda: LookupError("made")}, LookupError),
        ({"status": 503}, hm.InjectedFault),
        ({"result": 0}, 0),
        ({"result": None}, None),
    ],
)
def test_an_answer_in_the_place_of_the_functions(
    colour: Any, dependency: Any, switch: hm.ChaosSwitch, fault: dict[str, Any], expected: Any
) -> None:
    """Errors by kind, by class and made, statuses and results; the function is not called."""
    policy, calls = policy_of(switch, hm.Injection(**fault)), dependency(3)
    assert outcome(colour, policy, calls) == 3
    with switch.enabled("1m"):
        assert outcome(colour, policy, calls) == expected
    assert outcome(colour, policy, calls) == 3
    assert calls.calls == 2


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        *(({"error": kind}, kind) for kind in ("connect", "timeout", "unavailable", "throttled", "error", "invalid")),
        *(({"status": status}, kind) for status, kind in ((503, "unavailable"), (429, "throttled"), (404, "invalid"))),
        ({"status": "RESOURCE_EXHAUSTED"}, "throttled"),
    ],
)
def test_the_kind_of_failure_is_a_real_ones(switch: hm.ChaosSwitch, fault: dict[str, Any], kind: str) -> None:
    """What was injected counts as what it stands for, says so in a note, and asks to come back when that was set."""
    policy = policy_of(switch, hm.Injection(**fault))
    with switch.enabled("1m"), pytest.raises(Exception) as caught:  # noqa: PT011  which one is what is asked
        policy.call(int)
    assert hm.classify(caught.value) == kind
    assert any("injected into 'stock'" in note for note in caught.value.__notes__)


def test_behaviour_comes_before_the_function(colour: Any, dependency: Any, switch: hm.ChaosSwitch) -> None:
    """It is called, may be asynchronous where the call is, and what it raises the caller gets."""
    seen: list[str] = []
    policy = policy_of(switch, hm.Injection(behaviour=colour.paint(lambda: seen.append("behaved")), calls="1"))
    with switch.enabled("1m"):
        assert outcome(colour, policy, dependency(lambda: seen.append("called"))) is None
    assert seen == ["behaved", "called"]
    failing = policy_of(switch, hm.Injection(behaviour=lambda: 1 // 0))  # type: ignore[arg-type, return-value]
    with switch.enabled("1m"):
        assert outcome(colour, failing, dependency(3)) is ZeroDivisionError


def test_an_error_that_is_none(switch: hm.ChaosSwitch) -> None:
    """A function that makes no exception is its author's mistake, and said to be."""
    policy = policy_of(switch, hm.Injection(error=lambda: "no exception"))  # type: ignore[arg-type, return-value]
    with switch.enabled("1m"), pytest.raises(hm.ConfigurationError, match="a function that returns an exception"):
        policy.call(int)


# Latency, on virtual time.


def test_latency_delays_the_call(switch: hm.ChaosSwitch) -> None:
    """Of the two colours, each waits on the policy's clock; latencies of several faults add up."""
    clock = ManualClock()
    policy = policy_of(switch, hm.Injection(latency="2s"), hm.Injection(latency="500ms"), clock=clock)
    with switch.enabled("1m"):
        assert policy.call(len, "tea") == 3
    assert clock.now() == pytest.approx(2.5)

    async def main() -> float:
        began = asyncio.get_running_loop().time()
        with switch.enabled("1m"):
            await policy_of(switch, hm.Injection(latency="2s"), clock=VirtualClock()).acall(asyncio.sleep, 0)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main()) == pytest.approx(2.0, abs=0.01)


def test_jitter_spreads_it(switch: hm.ChaosSwitch) -> None:
    """Latencies are drawn evenly from what was said, and the same again for the same seed."""

    def drawn() -> list[float]:
        clock = ManualClock()
        policy = policy_of(switch, hm.Injection(latency="1s", jitter="500ms"), clock=clock)
        found = []
        with switch.enabled("1m"):
            for _ in range(200):
                before = clock.now()
                policy.call(int)
                found.append(clock.now() - before)
        return found

    found = drawn()
    assert found == pytest.approx(drawn())
    assert 0.5 <= min(found) < 0.55
    assert 1.45 < max(found) <= 1.5
    assert sum(found) / 200 == pytest.approx(1.0, abs=0.05)


def test_a_timeout_cuts_it_short_in_a_task(switch: hm.ChaosSwitch, heard: Any) -> None:
    """The latency is inside of the timeout, which ends it as it would end a slow dependency."""

    async def main() -> None:
        policy = policy_of(
            switch, hm.Injection(latency="30s"), parts=(hm.Timeout("1s"),), clock=VirtualClock(), events=heard.bus
        )
        with switch.enabled("1m"), pytest.raises(hm.TimedOut):
            await policy.acall(asyncio.sleep, 0)
        assert asyncio.get_running_loop().time() == pytest.approx(began + 1, abs=0.01)

    async def outer() -> None:
        nonlocal began
        began = asyncio.get_running_loop().time()
        await main()

    began = 0.0
    run_virtual(outer())
    assert "timeout_hit" in heard.names


@pytest.mark.parametrize("parts", [(hm.Timeout("1s", cooperative=True),), (hm.Deadline("1s"),)])
def test_its_time_cuts_it_short_in_a_thread(switch: hm.ChaosSwitch, parts: tuple[Any, ...]) -> None:
    """In the caller's own thread an injected latency heeds the time that is left, as the function should."""
    clock = ManualClock()
    policy = policy_of(switch, hm.Injection(latency="30s"), parts=parts, clock=clock)
    with switch.enabled("1m"), pytest.raises(hm.TimedOut):
        policy.call(int)
    assert clock.now() == pytest.approx(1.0)


def test_workers_leave_it_behind(switch: hm.ChaosSwitch) -> None:
    """In a thread of a pool, the caller goes on when its time is over, and the thread ends soon after that."""
    policy = policy_of(switch, hm.Injection(latency="30s"), parts=(hm.Timeout("50ms", threads=1),))
    with switch.enabled("1m"), pytest.raises(hm.TimedOut):
        policy.call(int)


def test_it_ends_when_the_switch_is_off(switch: hm.ChaosSwitch) -> None:
    """Who waits already goes on within a moment, and gets the function's answer."""

    async def main() -> None:
        began = asyncio.get_running_loop().time()
        policy = policy_of(switch, hm.Injection(latency="1h"), clock=VirtualClock())
        switch.enable("10m")
        call = asyncio.ensure_future(policy.acall(functools.partial(asyncio.sleep, 0, 3)))
        await asyncio.sleep(10)
        assert not call.done()
        switch.disable()
        assert await call == 3
        assert asyncio.get_running_loop().time() - began < 10.5

    run_virtual(main())


def test_a_dose_that_is_undone_holds_nobody(switch: hm.ChaosSwitch) -> None:
    """Also while something else is still on."""

    async def main() -> None:
        policy = policy_of(switch, clock=VirtualClock())
        switch.enable("10m")
        number = switch.dose(hm.Injection(latency="1h"), for_="10m")
        call = asyncio.ensure_future(policy.acall(functools.partial(asyncio.sleep, 0, 3)))
        await asyncio.sleep(10)
        switch.undo(number)
        assert await call == 3

    run_virtual(main())
    switch.disable()


# What the other parts make of it.


def test_other_parts_meet_it_as_real(colour: Any, dependency: Any, switch: hm.ChaosSwitch, heard: Any) -> None:
    """A retry repeats it, a breaker opens on it, a fallback answers for it; each attempt has a fate of its own."""
    parts = (
        hm.Fallback(value="instead"),
        hm.Retry(on="transient", attempts=3, delay=0, budget=None),
        hm.CircuitBreaker(consecutive=4, open_for="1h"),
    )
    policy = policy_of(switch, hm.Injection(error="connect", calls="1-2, 4-6"), parts=parts, events=heard.bus)
    calls = dependency("answer")
    with switch.enabled("1m"):
        assert colour.call(policy, calls) == "answer"
        assert colour.call(policy, calls) == "instead"
        assert policy.breaker().state == "closed"
    failing = policy_of(switch, hm.Injection(error="connect"), parts=parts[2:])
    with switch.enabled("1m"):
        assert [outcome(colour, failing, calls) for _ in range(5)] == [ConnectionRefusedError] * 4 + [hm.CircuitOpen]
    assert calls.calls == 1
    assert heard.names.count("chaos_injected") == 5


def test_permits_are_given_back(colour: Any, dependency: Any, switch: hm.ChaosSwitch) -> None:
    """Whatever is injected, the bulkhead is empty in the end."""
    policy = policy_of(switch, hm.Injection(error="timeout"), parts=(hm.Bulkhead(1),))
    with switch.enabled("1m"):
        for _ in range(3):
            assert outcome(colour, policy, dependency(3)) is TimeoutError
    assert policy.snapshot()["parts"]["bulkhead"]["in_flight"] == 0


def test_streams_fail_to_open(switch: hm.ChaosSwitch) -> None:
    """A call that would stay open meets with faults as any other."""
    policy = policy_of(switch, hm.Injection(error="connect"), parts=(hm.Bulkhead(1),))
    with switch.enabled("1m"), pytest.raises(ConnectionRefusedError):
        policy.open(iter, [1])
    with policy.open(iter, [1]) as opened:
        assert list(opened.value) == [1]


def test_a_shadow_only_tells(colour: Any, dependency: Any, switch: hm.ChaosSwitch, heard: Any) -> None:
    """It says what the call would have met with."""
    policy = policy_of(switch, hm.Injection(error="connect"), shadow=True, events=heard.bus)
    with switch.enabled("1m"):
        assert outcome(colour, policy, dependency(3)) == 3
    (injected,) = [event for event in heard.events if event.name == "chaos_injected"]
    assert injected.shadow


def test_hedges_meet_it_too(switch: hm.ChaosSwitch) -> None:
    """Each rival has a fate of its own: one that is slow is overtaken by one that is not."""

    async def main() -> float:
        policy = policy_of(
            switch, hm.Injection(latency="1h", calls="1"), parts=(hm.Hedge("100ms", budget=None),), clock=VirtualClock()
        )
        began = asyncio.get_running_loop().time()
        with switch.enabled("1m"):
            assert await policy.acall(functools.partial(asyncio.sleep, 0, 3)) == 3
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main()) == pytest.approx(0.1, abs=0.05)


# Who wants it.


def test_a_context_has_faults_of_its_own(colour: Any, dependency: Any, switch: hm.ChaosSwitch, heard: Any) -> None:
    """They act inside of the block, at the places that they are for, and while the switch is on."""
    policy, calls = policy_of(switch, events=heard.bus), dependency(3)
    with hm.injected(error="connect", at="st*"):
        assert outcome(colour, policy, calls) == 3
        with switch.enabled("1m"):
            assert outcome(colour, policy, calls) is ConnectionRefusedError
    with switch.enabled("1m"):
        assert outcome(colour, policy, calls) == 3
        with hm.injected(hm.Injection(error="connect"), at="payments"):
            assert outcome(colour, policy, calls) == 3
        with hm.injected(error="connect", calls="2"), hm.injected(result=0, calls="3"):
            assert [outcome(colour, policy, calls) for _ in range(4)] == [3, ConnectionRefusedError, 0, 3]
    assert [event.source for event in heard.events if event.name == "chaos_injected"] == ["context"] * 3


def test_labels_choose_calls(colour: Any, dependency: Any, switch: hm.ChaosSwitch) -> None:
    """What `calling` has told, and how much the request matters."""
    where = {"host": "eu-*", "criticality": "background"}
    policy, calls = policy_of(switch, hm.Injection(error="connect", where=where)), dependency(3)
    with switch.enabled("1m"):
        assert outcome(colour, policy, calls) == 3
        with hm.calling(host="eu-1"):
            assert outcome(colour, policy, calls) == 3
            with hm.calling(criticality="background"):
                assert outcome(colour, policy, calls) is ConnectionRefusedError


def test_a_journey_has_one_fate(switch: hm.ChaosSwitch) -> None:
    """With `per="journey"`, all attempts on behalf of a request have the same; without an id each has its own."""
    policy = policy_of(switch, hm.Injection(result=0, share=0.5), per="journey")
    with switch.enabled("1m"):
        for number in range(50):
            with hm.calling(request_id=f"r-{number}"):
                assert len({policy.call(int, 1) for _ in range(5)}) == 1
        assert {policy.call(int, 1) for _ in range(50)} == {0, 1}


def test_the_same_seed_picks_the_same_calls(switch: hm.ChaosSwitch) -> None:
    """Each time it is enabled the same calls meet with the same; with another seed, others."""
    policy = policy_of(switch, hm.Injection(result=0, share=0.3))
    others = policy_of(switch, hm.Injection(result=0, share=0.3), seed=1)

    def run(policy: hm.Policy) -> list[int]:
        with switch.enabled("1m"):
            return [policy.call(int, 1) for _ in range(200)]

    first = run(policy)
    assert first == run(policy) != run(others)
    assert 40 <= first.count(0) <= 80


# The bounds.


@pytest.mark.parametrize("share_max", [0.1, 1.0])
def test_no_more_than_the_share_is_touched(switch: hm.ChaosSwitch, share_max: float) -> None:
    """By whatever: a context, a dose, a bound of the part, and one of the switch."""
    policy = policy_of(switch, share_max=share_max)

    def touched() -> int:
        return sum(policy.call(int, 1) == 0 for _ in range(2000))

    switch.enable("1m", share_max=0.3)
    switch.dose(hm.Injection(result=0), for_="1m")
    with hm.injected(result=0):
        assert abs(touched() - 2000 * min(share_max, 0.3)) < 60
    switch.disable()


def test_a_fault_that_asks_for_more_than_its_place_allows() -> None:
    """It is refused when it is written down."""
    with pytest.raises(hm.ConfigurationError, match=r"share is 0\.5, and share_max lets no more than 0\.1"):
        hm.Chaos(error="connect", share=0.5, share_max=0.1)


def test_nothing_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off by default; a token comes from the environment or from code, and a wrong or short one is refused unshown."""
    monkeypatch.delenv("HORMESIS_CHAOS_TOKEN", raising=False)
    switch = hm.ChaosSwitch()
    policy = policy_of(switch, hm.Injection(error="connect"))
    dosing = functools.partial(switch.dose, hm.Injection(latency=1), for_=1)
    for switching in (functools.partial(switch.enable, "1m"), dosing):
        with pytest.raises(hm.ConfigurationError, match="set HORMESIS_CHAOS_TOKEN in the environment"):
            switching()
    assert policy.call(int) == 0
    monkeypatch.setenv("HORMESIS_CHAOS_TOKEN", "a secret")
    with pytest.raises(hm.ConfigurationError, match="HORMESIS_CHAOS_TOKEN takes a text of 16") as caught:
        switch.enable("1m")
    assert "a secret" not in str(caught.value)
    monkeypatch.setenv("HORMESIS_CHAOS_TOKEN", TOKEN)
    with pytest.raises(hm.ConfigurationError, match="the token is another one"):
        switch.enable("1m", token="another token of 16")
    switch.enable("1m", token=TOKEN)
    with pytest.raises(ConnectionRefusedError):
        policy.call(int)
    switch.disable()
    monkeypatch.delenv("HORMESIS_CHAOS_TOKEN")
    switch.enable("1m", token="handed in by code")
    assert switch.on


def test_the_lease_ends_by_itself(heard: Any) -> None:
    """Nobody has to be there for it; and it is no longer than the switch allows."""
    clock = ManualClock()
    switch = hm.ChaosSwitch(TOKEN, for_max="5m", clock=clock, events=heard.bus)
    policy = policy_of(switch, hm.Injection(error="connect"))
    switch.enable("60s")
    clock.advance("59s")
    assert switch.left == pytest.approx(1)
    with pytest.raises(ConnectionRefusedError):
        policy.call(int)
    clock.advance("1s")
    assert not switch.on
    assert policy.call(int) == 0
    assert policy.top.plain
    assert [event.reason for event in heard.events] == ["enabled for 1m", "the time is over"]
    with pytest.raises(hm.ConfigurationError, match="for_ is '6m'; it takes at most 5m"):
        switch.enable("6m")


def test_doses_end_one_by_one() -> None:
    """Each has a lease, and names a place that there is."""
    clock = ManualClock()
    switch = hm.ChaosSwitch(TOKEN, clock=clock)
    policy = policy_of(switch, hm.Injection(result=-1))
    short = switch.dose(hm.Injection(result=1), for_="10s")
    switch.dose(hm.Injection(result=2), at="stock", for_="20s")
    assert policy.call(int) == 1
    switch.undo(short)
    assert policy.call(int) == 2  # and never the part's own, which nobody has enabled
    clock.advance("20s")
    assert policy.call(int) == 0
    with pytest.raises(hm.ConfigurationError, match=r"unknown place with a Chaos part 'stok' \(did you mean 'stock'"):
        switch.dose(hm.Injection(result=1), at="stok", for_="1s")
    with pytest.raises(hm.ConfigurationError, match="0 faults are given"):
        switch.dose(for_="1s")


def test_off_is_the_express_lane(switch: hm.ChaosSwitch) -> None:
    """A policy with a place for faults is the same policy while none can be injected, also after a reload."""
    policy = policy_of(switch, hm.Injection(result=0), parts=(hm.CircuitBreaker(), hm.Bulkhead(1)))
    assert policy.top.plain
    with switch.enabled("1m"):
        assert not policy.top.plain
        policy.reconfigure(hm.Bulkhead(2))
        assert not policy.top.plain
    assert policy.top.plain
    policy.reconfigure(hm.Chaos(switch=switch))
    assert policy.top.plain


# What it says of itself.


def test_what_is_told(switch: hm.ChaosSwitch, heard: Any) -> None:
    """Each fault is an event; the snapshot counts them, and explain says whether it is on."""
    policy = policy_of(switch, hm.Injection(latency=0.001, error="connect"), events=heard.bus)
    assert "chaos: off; nothing is injected" in policy.explain()
    with switch.enabled("1m"):
        with pytest.raises(ConnectionRefusedError):
            policy.call(int)
        assert "chaos: on for another" in policy.explain()
        held = policy.snapshot()["parts"]["chaos"]
        assert (held["on"], held["injected"]) == (True, {"error": 1})
    on, injected, failed, off = heard.events
    assert (on.name, on.before, on.after, off.before, off.after) == ("chaos_switched", "off", "on", "on", "off")
    assert (injected.fault, injected.kind, injected.source) == ("latency 1ms and error connect", "error", "settings")
    assert injected.delay == pytest.approx(0.001)
    assert failed.name == "attempt_failed"


# Where it can't stand.


def test_where_it_can_not_stand() -> None:
    """Nothing is inside of it, no function is in another process, and no block can be kept from running."""
    chaos = hm.Chaos()
    with pytest.raises(hm.ConfigurationError, match="no part can stand inside of it"):
        hm.Policy(chaos, hm.Timeout(1), order="as given")
    with pytest.raises(hm.ConfigurationError, match="the function runs in another"):
        hm.Policy(chaos, hm.Bulkhead(1, workers="processes"))
    with pytest.raises(hm.ConfigurationError, match="a block can't be kept from running"):
        hm.Policy(chaos).attempts()
    assert hm.Policy(hm.Retry(on="any"), hm.Timeout(1), chaos, order="as given").parts[-1] is chaos
