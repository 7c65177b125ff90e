"""The scenarios on real processes: who asks, how much, and what happens meanwhile.

Rates are multiples of the capacity C that is measured first; times are short, since the machine is real. A run begins
with a calm of two seconds, as a service does that has been up for a while, then comes the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hormesis.priority import Criticality

__all__ = ["SCENARIOS", "Change", "Retries", "Scenario", "Stream"]

CALM = 2.0
OVERLOAD = 9.0
MEASURED = 5.0
"""Seconds at the end of a phase that count; what comes before is for finding the limit."""

BY_LATENCY = ("vegas", "gradient2", "aimd")
LIMITS = ("fixed", "hormesis", *BY_LATENCY)
EVERYTHING = ("none", *LIMITS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Independent clients of one kind.

    Args:
        name: What the report calls it.
        segments: Pairs of seconds, and the rate as a multiple of the capacity.
        criticality: Of its requests.
        tenant: Whose they are.
        calls: How many calls of the service behind one request to the service in front makes; 0: there is none in
            front.
    """

    name: str = "all"
    segments: Sequence[tuple[float, float]]
    criticality: Criticality = Criticality.DEFAULT
    tenant: str = ""
    calls: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """For a time, requests need `work` times the processor time, and wait `io` seconds more."""

    begin: float
    end: float
    work: float = 1.0
    io: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """What clients do that are not answered.

    Args:
        clients: How many there are; each has a budget of its own.
        timeout: Seconds that one attempt waits.
        attempts: At most, the first one included.
    """

    clients: int = 50
    timeout: float = 1.0
    attempts: int = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What happens to a service.

    Args:
        what: In a line.
        streams: Who asks.
        end: Seconds that it lasts.
        step: When what is measured begins.
        until: When its phase ends, in which goodput settles; None: at the end.
        measured: Its last seconds, that goodput is measured over.
        changes: What happens to the service.
        had: What can be had of a capacity of 1: less where requests are journeys of several calls.
        fixed: Limits of which the best is found.
        slo: Seconds within which an answer is good.
        slowing: What each request in flight above twenty adds to every request's work, as a share of it.
        retries: What clients do that are not answered; None: nothing.
        arms: What is tried on it when nobody asks for anything else.
    """

    what: str
    streams: Sequence[Stream]
    end: float = CALM + OVERLOAD
    step: float = CALM
    until: float | None = None
    measured: float = MEASURED
    changes: Sequence[Change] = ()
    had: float = 1.0
    fixed: Sequence[int] = (26, 30, 34)
    slo: float = 0.250
    slowing: float = 0.0
    retries: Retries | None = None
    arms: Sequence[str] = EVERYTHING


def _stepping(to: float) -> Sequence[Stream]:
    return [Stream(segments=[(CALM, 0.5), (OVERLOAD, to)])]


def _fan_out(calls: int) -> Scenario:
    return Scenario(
        what=f"a service calls this one {calls} times in a row for each request; together twice the capacity",
        streams=[Stream(segments=[(CALM, 0.5 / calls), (OVERLOAD, 2.0 / calls)], calls=calls)],
        had=1.0 / calls,
        arms=EVERYTHING if calls == 4 else ("fixed", "hormesis"),
    )


def _priorities() -> Scenario:
    background = [
        Stream(
            name="background",
            # One offers ten times what each of the five others does; together 0.1 to 2.45 times the capacity.
            segments=[(CALM, 0.1 * share), (3.0, 1.0 * share), (OVERLOAD, 2.45 * share)],
            criticality=Criticality.BACKGROUND,
            tenant=f"t{number}",
        )
        for number, share in enumerate([10 / 15] + [1 / 15] * 5)
    ]
    critical = Stream(
        name="critical", segments=[(CALM + 3.0 + OVERLOAD, 0.55)], criticality=Criticality.CRITICAL, tenant="shop"
    )
    return Scenario(
        what="critical requests for .55 of the capacity, background work of six tenants rising to three times in all",
        streams=[critical, *background],
        step=CALM + 3.0,
        end=CALM + 3.0 + OVERLOAD,
        measured=7.0,
    )


def _metastable(load: float) -> Scenario:
    calm, trigger, after = 4.0, 5.0, 11.0
    return Scenario(
        what=f"50 clients that retry, at {load:g} of the capacity, which falls to 30 % for {trigger:g} s",
        streams=[Stream(segments=[(calm + trigger + after, load)])],
        changes=[Change(begin=calm, end=calm + trigger, work=1 / 0.3)],
        step=calm + trigger,
        end=calm + trigger + after,
        measured=5.0,
        retries=Retries(),
        fixed=(26,),
        arms=("none", "fixed", "hormesis"),
    )


SCENARIOS: dict[str, Scenario] = {
    "S1-1.2x": Scenario(what="half of the capacity, then 1.2 times", streams=_stepping(1.2)),
    "S1-2x": Scenario(what="half of the capacity, then twice", streams=_stepping(2.0)),
    "S1-3x": Scenario(what="half of the capacity, then 3 times", streams=_stepping(3.0), arms=LIMITS),
    "S1-10x": Scenario(what="half of the capacity, then 10 times", streams=_stepping(10.0)),
    "S1u": Scenario(
        what="as S1-2x, and each request in flight above 20 makes all of them 1 % dearer",
        streams=_stepping(2.0),
        slowing=0.01,
        arms=LIMITS,
        fixed=(22, 26, 30),
    ),
    "S2": Scenario(
        what="at twice the capacity, which then halves",
        streams=[Stream(segments=[(CALM, 0.5), (4.0 + OVERLOAD, 2.0)])],
        changes=[Change(begin=CALM + 4.0, end=1e9, work=2.0)],
        step=CALM + 4.0,
        end=CALM + 4.0 + OVERLOAD,
        fixed=(12, 14, 17),
    ),
    "S3": Scenario(
        what="at twice the capacity, when a dependency becomes 90 ms slower",
        streams=[Stream(segments=[(CALM, 0.5), (4.0 + OVERLOAD, 2.0)])],
        changes=[Change(begin=CALM + 4.0, end=1e9, io=0.090)],
        step=CALM + 4.0,
        end=CALM + 4.0 + OVERLOAD,
        slo=0.350,
        arms=LIMITS,
        fixed=(38, 44, 50),
    ),
    "F1": _fan_out(1),
    "F2": _fan_out(2),
    "F3": _fan_out(3),
    "F4": _fan_out(4),
    "B": Scenario(
        what="half of the capacity, 1.4 times, and half again",
        streams=[Stream(segments=[(CALM, 0.5), (OVERLOAD, 1.4), (4.0, 0.5)])],
        end=CALM + OVERLOAD + 4.0,
        until=CALM + OVERLOAD,
        measured=OVERLOAD + 4.0,
    ),
    "P": _priorities(),
    "R-.7": _metastable(0.7),
    "R-.85": _metastable(0.85),
}
