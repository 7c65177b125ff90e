"""What a game day found: plain values, made by the runner, judged by `verdict`, read by every report.

Times are monotonic seconds; those of phases and timelines are relative to the start of the stress's load, so that the
arms can be laid over each other.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence

from hormesis.chaos.journal import Episode
from hormesis.gameday.metastability import Hysteresis
from hormesis.gameday.noise import Noise
from hormesis.loadgen import Samples

__all__ = [
    "QUANTILES",
    "SHARES",
    "Acted",
    "Bin",
    "Check",
    "GameDay",
    "Outcome",
    "Phase",
    "ProbeResult",
    "RouteStats",
    "StressResult",
    "Verdict",
    "Window",
]


SHARES = ("success", "answered", "honest")
"""The metrics that are shares of the requests; each counts what the one before it counts, and more."""

QUANTILES = {"p50": 0.5, "p99": 0.99}
"""The metrics that are quantiles of the latency."""


class Phase(enum.StrEnum):
    """The parts of a stress, in order.

    The dose falls into *detection*, in which a system may still find out, and *contained*, in which it should have the
    damage within bounds; the time after it into *recovering*, which a system is allowed, and *recovered*.
    """

    CALM = "calm"
    DETECTION = "detection"
    CONTAINED = "contained"
    RECOVERING = "recovering"
    RECOVERED = "recovered"


class Verdict(enum.StrEnum):
    """What a stress says of an arm."""

    SURVIVED = "survived"
    """It held its objectives with full answers."""
    DEGRADED = "degraded"
    """It held its objectives, but some answers were degraded, or declined with a time to come back."""
    FAILED = "failed"
    """It missed an objective."""
    INCONCLUSIVE = "inconclusive"
    """It can't be told: not steady before the dose, too few requests, or a load generator that lagged."""

    @property
    def held(self) -> bool:
        """Whether the objectives held."""
        return self in (Verdict.SURVIVED, Verdict.DEGRADED)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """A phase in time, relative to the start of the stress's load."""

    start: float
    end: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteStats:
    """The requests of one route (or of all) that were due in one phase.

    Attributes:
        requests: How many.
        full, degraded, declined, failed: How they ended; declined is by a 429 or 503 that said when to come back.
        good: Full answers inside the route's objective.
        p50, p99: Latency in seconds from the intended start, failures included; not a number without requests.
        errors: How many failed, or were declined, of each kind.
        attempts: Requests on the wire that were sent in the phase: more than requests where callers repeat them.
        histogram: The latencies, as HDR in base64.
        seconds: How long the phase was.
    """

    requests: int
    full: int
    degraded: int
    declined: int
    failed: int
    good: int
    p50: float
    p99: float
    errors: Mapping[str, int]
    attempts: int
    histogram: str
    seconds: float = math.nan


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One objective, held against what was measured.

    Attributes:
        route: The request's name.
        phase: When.
        metric: `"success"`, `"answered"`, `"honest"` (shares, at least), `"throughput"` (full answers a second, at
            least) or `"p50"`, `"p99"` (seconds, at most).
        wanted: The objective.
        measured: What was measured.
        requests: From how many requests.
        held: Whether what was measured is within it; None when there were too few requests to say.
        low, high: The confidence interval of what was measured; not a number where there is none.
    """

    route: str
    phase: Phase
    metric: str
    wanted: float
    measured: float
    requests: int
    held: bool | None
    low: float = math.nan
    high: float = math.nan

    @property
    def certain(self) -> bool:
        """Whether the whole interval is on the side of the objective on which the measured value is."""
        if self.held is None or math.isnan(self.low):
            return self.held is not None
        if self.metric in QUANTILES:
            return self.high <= self.wanted if self.held else self.low > self.wanted
        return self.low >= self.wanted if self.held else self.high < self.wanted


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One look of a probe or an invariant.

    Attributes:
        probe: Its name.
        phase: When it looked.
        at: Seconds from the load's start.
        took: How long it took, in seconds.
        said: What was wrong; empty when it found what was asked for.
        judged: Whether it counts: not while the system may still find out, or come back.
        invariant: Whether it is an invariant, which is looked at when all is over.
    """

    probe: str
    phase: Phase
    at: float
    took: float
    said: str
    judged: bool = True
    invariant: bool = False

    @property
    def held(self) -> bool:
        """Whether it found what was asked for."""
        return not self.said

    @property
    def described(self) -> str:
        """What was found, in words."""
        when = "after the run" if self.invariant else f"in {self.phase}"
        return f"{'invariant' if self.invariant else 'probe'} {self.probe!r} {self.said or 'held'} {when}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Acted:
    """What one part of a policy did during a stress, from the protected processes' own events.

    Attributes:
        process: Which process it was in.
        policy: The policy's name.
        part: The part's key, such as `"circuit_breaker"`.
        counts: How often it did what: `"opened"`, `"refused"`, `"cut off"`, `"retried"`, `"answered"`, …
        first: Seconds from the dose's start to its first act; negative before it.
    """

    process: str
    policy: str
    part: str
    counts: Mapping[str, int]
    first: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """A slice of the timeline: requests due in `[at, at + width)`, per second, and their latency.

    `sent` is what went over the wire in that time, repeated requests included.
    """

    at: float
    offered: float
    good: float
    full: float
    degraded: float
    declined: float
    failed: float
    sent: float
    p50: float
    p99: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a stress did to one arm.

    Attributes:
        arm: Its name.
        phases: When each phase was.
        stats: By phase, then by route; the route `""` is all of them.
        checks: Every objective, held or missed.
        verdict: The conclusion.
        reasons: Why, in sentences, most important first.
        recovered_after: Seconds from the dose's end until answers were as in calm again; None when they never were.
        acted: What the parts of its policies did.
        aborted: Why the dose was ended early; empty when it was not.
        lag_p99: The load generator's own send lag in seconds; infinite when it could not send all that was due.
        timeline: Slices of `bin_width` seconds.
        samples: Every request.
        attempts: Every attempt of the requests whose callers repeat them.
        probes: What probes and invariants found.
        ended: What became of processes that ended by themselves, in sentences.
        hysteresis: What freed it, where that was asked; None where it was not.
    """

    arm: str
    phases: Mapping[Phase, Window]
    stats: Mapping[Phase, Mapping[str, RouteStats]]
    checks: Sequence[Check]
    verdict: Verdict
    reasons: Sequence[str]
    recovered_after: float | None
    acted: Sequence[Acted]
    aborted: str
    lag_p99: float
    timeline: Sequence[Bin]
    bin_width: float
    samples: Samples
    attempts: Samples
    started: float
    """When the load began, monotonic."""
    probes: Sequence[ProbeResult] = ()
    ended: Sequence[str] = ()
    hysteresis: Hysteresis | None = None

    @property
    def steady(self) -> bool:
        """Whether it was back to normal after the undo: answers as in calm, processes up, and every probe content."""
        after = [probe for probe in self.probes if probe.phase is Phase.RECOVERED and probe.judged]
        return self.recovered_after is not None and not self.ended and all(probe.held for probe in after)

    @property
    def dosed(self) -> Window:
        """The dose, from its beginning to its end."""
        return Window(self.phases[Phase.DETECTION].start, self.phases[Phase.CONTAINED].end)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StressResult:
    """One stress: what was dosed, and what it did to each arm."""

    name: str
    """What tables call it; of one that ran several times, with its number."""
    about: str
    """Why this stress, in the experiment's words; may be empty."""
    target: str
    """Where it was dosed: `"edge payments"`, `"process inventory"`, `"load"`."""
    fault: str
    """The fault in plain words."""
    outcomes: Mapping[str, Outcome]
    stress: str = ""
    """Its name in the experiment, where that is another."""
    doses: Sequence[tuple[str, str]] = ()
    """Each target with its fault, in words."""
    controls: Mapping[str, Outcome] = dataclasses.field(default_factory=dict)
    """What the same load without any fault did to each arm, where that was asked."""
    kinds: Sequence[str] = ()
    """The kind of each dose's fault, such as `"latency"`."""
    noise: Noise | None = None
    """What else went on on the machine."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GameDay:
    """A whole game day.

    Attributes:
        title, file, seed: Of the experiment.
        version: Of Hormesis.
        began: Wall-clock time, ISO 8601.
        seconds: How long it took.
        rate: The load in requests a second.
        routes: The names of the requests, by their index in samples.
        arms: The names of the arms, in order.
        judged: Those whose objectives decide the exit status.
        stresses: The results, in the order in which they ran.
        left_out: Stresses of the file that this run did not take in.
        host: What the machine is, in a few words.
        ended: Why it ended before all that was to be run had been; empty when it did not.
        undo_log: Every fault that was put into force, and its end, in seconds since the game day began.
        started: When it began, monotonic.
        confidence: How sure the intervals of the checks are to hold the true value.
    """

    title: str
    file: str
    seed: int
    version: str
    began: str
    seconds: float
    rate: float
    routes: Sequence[str]
    arms: Sequence[str]
    judged: Sequence[str]
    stresses: Sequence[StressResult]
    left_out: Sequence[str]
    host: str
    ended: str = ""
    undo_log: Sequence[Episode] = ()
    started: float = 0.0
    confidence: float = 0.95

    @property
    def held(self) -> bool:
        """Whether every judged arm held its objectives under every stress; where none ran, nothing was shown."""
        return bool(self.stresses and self.judged) and all(
            stress.outcomes[arm].verdict.held for stress in self.stresses for arm in self.judged
        )
