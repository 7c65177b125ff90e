"""What a run came to, in numbers: for the whole load, and for each request of the mix.

Latencies count from when a request was due, and of every arrival, however it ended: the time that its caller waited.
Quantiles are those of the rows themselves, not of buckets.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hormesis.loadgen.driver import LAG_MAX, RunResult
from hormesis.loadgen.request import LoadSpec
from hormesis.loadgen.samples import Answer, Samples
from hormesis.units import format_seconds

__all__ = ["Numbers", "Summary", "summarise"]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Numbers of one request, or of all.

    Attributes:
        seconds: How long the run sent.
        answers: How many arrivals ended in which way.
        latencies: Of every arrival, in seconds, in order of length.
        errors: How many failed of what, the commonest first.
    """

    seconds: float
    answers: Mapping[Answer, int]
    latencies: Sequence[float]
    errors: Mapping[str, int]

    @property
    def requests(self) -> int:
        """Arrivals, sent or not."""
        return len(self.latencies)

    def share(self, *answers: Answer) -> float:
        """Return the share of arrivals that ended in one of these ways; not a number if there were none."""
        return sum(self.answers.get(answer, 0) for answer in answers) / self.requests if self.requests else math.nan

    @property
    def success(self) -> float:
        """The share of full answers."""
        return self.share(Answer.FULL)

    @property
    def rate(self) -> float:
        """Arrivals a second."""
        return self.requests / self.seconds if self.seconds else math.nan

    @property
    def throughput(self) -> float:
        """Full answers a second."""
        return self.answers.get(Answer.FULL, 0) / self.seconds if self.seconds else math.nan

    @property
    def mean(self) -> float:
        """The mean latency."""
        return math.fsum(self.latencies) / self.requests if self.requests else math.nan

    def quantile(self, q: float) -> float:
        """Return the seconds that a share `q` of the arrivals did not exceed; not a number if there were none."""
        return self.latencies[max(0, math.ceil(q * self.requests) - 1)] if self.requests else math.nan

    def to_table(self) -> dict[str, object]:
        """Return them as JSON can carry them; what is not a number is null."""
        latency = {"mean": self.mean, **{name: self.quantile(q) for name, q in QUANTILES.items()}}
        return {
            "requests": self.requests,
            **{answer.name.lower(): self.answers.get(answer, 0) for answer in Answer},
            "success": _plain(self.success),
            "answered": _plain(self.share(Answer.FULL, Answer.DEGRADED)),
            "rate": _plain(self.rate),
            "throughput": _plain(self.throughput),
            "latency": {name: _plain(value) for name, value in latency.items()},
            "errors": dict(self.errors),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run came to.

    Attributes:
        spec: The load.
        result: Of its run; of several generators, merged.
        total: Numbers of all requests.
        requests: Numbers of each, by name.
        lag_max: Seconds of send lag (p99) up to which the run counts.
    """

    spec: LoadSpec
    result: RunResult
    total: Numbers
    requests: Mapping[str, Numbers]
    lag_max: float

    @property
    def coordinated(self) -> bool:
        """Whether the load was a closed loop, which asks less when the service is slow."""
        return self.spec.users is not None

    @property
    def invalid(self) -> list[str]:
        """Why the run says nothing of the service: reasons in words, none if it does."""
        reasons = []
        if self.result.dropped:
            reasons.append(f"{self.result.dropped:,} requests were not sent: the generator had no room for them")
        if self.result.lag_p99 > self.lag_max:
            lag, bound = format_seconds(self.result.lag_p99), format_seconds(self.lag_max)
            what = "one moment in a hundred was noticed" if self.coordinated else "one request in a hundred was sent"
            reasons.append(f"the generator lagged: {what} {lag} late or more, above {bound}")
        return reasons

    @property
    def fruitless(self) -> str:
        """Say that not one request was answered, in full or in part; empty if one was."""
        if not self.total.requests:
            return "no request was due"
        served = self.total.share(Answer.FULL, Answer.DEGRADED)
        return "" if served else f"not one of {self.total.requests:,} requests was answered as asked for"

    def to_table(self) -> dict[str, object]:
        """Return it as JSON can carry it."""
        result = self.result
        return {
            "format": "hormesis-load/1",
            "url": self.spec.base_url,
            "loop": "closed" if self.coordinated else "open",
            "coordinated": self.coordinated,
            "seed": self.spec.seed,
            "seconds": self.total.seconds,
            "interrupted": result.cancelled,
            "valid": not self.invalid,
            "invalid": self.invalid,
            "generator": {
                "lag": {name: _plain(getattr(result, f"lag_{name}")) for name in ("p50", "p99", "max")},
                "dropped": result.dropped,
                "waited": result.waited,
                "processes": self.spec.share[1],
            },
            "total": self.total.to_table(),
            "requests": {name: numbers.to_table() for name, numbers in self.requests.items()},
            "wrong": dict(result.wrong),
        }


def summarise(spec: LoadSpec, result: RunResult, *, lag_max: float = LAG_MAX) -> Summary:
    """Sum up a run."""
    seconds = spec.duration
    if result.cancelled:
        seconds = max(result.samples.intended, default=result.start_at) - result.start_at
    names = [request.name for request in spec.requests]
    return Summary(
        spec=spec,
        result=result,
        total=numbers(result.samples, seconds),
        requests={name: numbers(result.samples, seconds, index) for index, name in enumerate(names)},
        lag_max=lag_max,
    )


def numbers(samples: Samples, seconds: float, request: int | None = None) -> Numbers:
    """Return the numbers of some samples, or of those of one request."""
    rows = range(len(samples)) if request is None else [i for i, each in enumerate(samples.request) if each == request]
    latencies = samples.latencies()
    errors = Counter(map(samples.error_at, rows))
    del errors[""]
    return Numbers(
        seconds=seconds,
        answers=Counter(Answer(answer) for answer in map(samples.answer.__getitem__, rows)),
        latencies=array("d", sorted(map(latencies.__getitem__, rows))),
        errors=dict(errors.most_common()),
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
