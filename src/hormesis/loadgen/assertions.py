"""What must hold of a run, as people write it: `p99 < 250ms`, `success >= 0.99`, `browse.p99 < 100ms`.

The metrics are `success` (the share of full answers), `answered` (full or degraded), `failed` (the share that failed or
was declined), any quantile (`p50`, `p99.9`), `mean`, `max`, `rate` (arrivals a second) and `throughput` (full answers a
second).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from hormesis.errors import ConfigurationError
from hormesis.loadgen.samples import Answer
from hormesis.loadgen.summary import Numbers, Summary
from hormesis.units import format_seconds, per_second, seconds

__all__ = ["Assertion", "Finding"]

_FORM = re.compile(
    r"\s*(?:(?P<request>.+)\.)?(?P<metric>p\d{1,2}(?:\.\d+)?|[a-z]+)\s*(?P<sign><=|>=|==|<|>)\s*(?P<value>\S.*?)\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": math.isclose,
}
_SHARES: dict[str, Callable[[Numbers], float]] = {
    "success": lambda numbers: numbers.success,
    "answered": lambda numbers: numbers.share(Answer.FULL, Answer.DEGRADED),
    "failed": lambda numbers: numbers.share(Answer.FAILED, Answer.DECLINED),
}
_RATES: dict[str, Callable[[Numbers], float]] = {
    "rate": lambda numbers: numbers.rate,
    "throughput": lambda numbers: numbers.throughput,
}
_TIMES: dict[str, Callable[[Numbers], float]] = {
    "mean": lambda numbers: numbers.mean,
    "max": lambda numbers: numbers.quantile(1.0),
}
_KNOWN = (*_SHARES, "p50", "p99", "p99.9", *_TIMES, *_RATES)
_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of an assertion.

    Attributes:
        text: The assertion.
        value: What was measured; not a number if there was nothing to measure, and then nothing holds.
        found: The same in words.
        held: Whether it held.
    """

    text: str
    value: float
    found: str
    held: bool


@dataclass(frozen=True, slots=True)
class Assertion:
    """A limit for one metric, of the whole load or of one request.

    >>> assertion = Assertion.of("browse.p99 < 250ms", ["browse", "buy"])
    >>> assertion.request, assertion.metric, assertion.limit
    ('browse', 'p99', 0.25)
    """

    text: str
    request: str | None
    metric: str
    sign: str
    limit: float

    @classmethod
    def of(cls, text: str, requests: Collection[str], key: str = "assert") -> Assertion:
        """Read an assertion.

        Args:
            text: As written.
            requests: The names of the load's requests.
            key: The setting's name, for the error.

        Raises:
            ConfigurationError: It is none, or names what there is not.
        """
        parts = _FORM.fullmatch(text)
        if parts is None:
            accepted = "a metric, a sign and a limit, such as 'p99 < 250ms' or 'browse.success >= 0.99'"
            raise ConfigurationError.bad_value(key, text, accepted)
        request, metric = parts["request"], parts["metric"]
        if request is not None and request not in requests:
            error = ConfigurationError.unknown("request", request, requests)
            raise ConfigurationError(f"{key} {text!r}: {error.message}", key)
        if metric not in _KNOWN and not _QUANTILE.fullmatch(metric):
            error = ConfigurationError.unknown("metric", metric, _KNOWN)
            raise ConfigurationError(f"{key} {text!r}: {error.message}", key)
        return cls(text.strip(), request, metric, parts["sign"], _limit(metric, parts["value"], f"{key} {text!r}"))

    @property
    def counts_answers(self) -> bool:
        """Whether it says how many answers there have to be, or may be; quantiles hold of failures as well."""
        return self.metric in _SHARES or self.metric == "throughput"

    def check(self, summary: Summary) -> Finding:
        """Hold it against what a run came to."""
        numbers = summary.total if self.request is None else summary.requests[self.request]
        value = self._measure()(numbers)
        held = not math.isnan(value) and _SIGNS[self.sign](value, self.limit)
        return Finding(self.text, value, self._shown(value), held)

    def _measure(self) -> Callable[[Numbers], float]:
        measure = {**_SHARES, **_RATES, **_TIMES}.get(self.metric)
        if measure is not None:
            return measure
        q = float(self.metric[1:]) / 100
        return lambda numbers: numbers.quantile(q)

    def _shown(self, value: float) -> str:
        if math.isnan(value):
            return "nothing was sent"
        if self.metric in _SHARES:
            return f"{value:.4g}"
        return f"{value:,.4g}/s" if self.metric in _RATES else format_seconds(value)


def _limit(metric: str, text: str, key: str) -> float:
    number = _number(text)
    if metric in _SHARES:
        share = _number(text.removesuffix("%"))
        share = share / 100 if text.endswith("%") else share
        if not 0 <= share <= 1:
            raise ConfigurationError.bad_value(key, text, "a share from 0 to 1, such as 0.99 or '99%'")
        return share
    if metric in _RATES:
        return per_second(text if math.isnan(number) else number, key)
    return seconds(text if math.isnan(number) else number, key, zero=True)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
