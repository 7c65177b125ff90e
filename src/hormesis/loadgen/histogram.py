"""A histogram of latencies that merges: HdrHistogram, from one microsecond to five minutes, to three digits.

Quantiles of parts can't be averaged; counts in equal buckets can be added. So every phase and process keeps buckets,
and quantiles are read at the end. The buckets and the exported text are HdrHistogram's own (Gil Tene,
https://hdrhistogram.org), so other tools can read what a report holds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hormesis.errors import ConfigurationError, MissingExtraError

try:
    from hdrh.histogram import HdrHistogram
except ImportError as error:
    raise MissingExtraError("hormesis.loadgen.Histogram", "gameday") from error

__all__ = ["Histogram"]

_MICROSECONDS_MAX = 5 * 60 * 1_000_000
_DIGITS = 3


class Histogram:
    """Counts of durations in seconds, each kept to three significant digits.

    A duration outside 1 µs … 5 min counts as the nearest of the two: what takes longer than anyone waits must weigh on
    the quantiles, not vanish from them.

    >>> histogram = Histogram([0.010, 0.020, 0.030, 900])
    >>> histogram.count, round(histogram.quantile(0.5), 3), round(histogram.quantile(1))
    (4, 0.02, 300)
    """

    __slots__ = ("_hdr",)

    def __init__(self, durations: Iterable[float] = ()) -> None:
        self._hdr = HdrHistogram(1, _MICROSECONDS_MAX, _DIGITS)
        self.record_many(durations)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return int(self._hdr.get_total_count())

    def record(self, duration: float) -> None:
        """Count one duration, in seconds."""
        self._hdr.record_value(_microseconds(duration))

    def record_many(self, durations: Iterable[float]) -> None:
        """Count many durations; equal ones cost one look-up."""
        for value, count in Counter(map(_microseconds, durations)).items():
            self._hdr.record_value(value, count)

    def quantile(self, q: float) -> float:
        """Return the seconds that a share `q` of the durations did not exceed; not a number if nothing was recorded.

        A bucket stands for its upper end, so the answer errs by up to a thousandth, and never on the flattering side.

        Raises:
            ConfigurationError: `q` is not from 0 to 1.
        """
        if not 0 <= q <= 1:
            raise ConfigurationError.bad_value("quantile", q, "a share from 0 to 1")
        if not self.count:
            return math.nan
        return float(self._hdr.get_value_at_percentile(q * 100)) / 1e6

    def merge(self, other: Histogram) -> None:
        """Add another histogram's counts to this one."""
        self._hdr.add(other._hdr)

    def to_base64(self) -> str:
        """Return the compressed, base64-encoded form (HdrHistogram V2) that other HdrHistogram tools read."""
        return str(self._hdr.encode().decode("ascii"))

    @classmethod
    def from_base64(cls, text: str) -> Histogram:
        """Return the histogram that `to_base64` wrote."""
        histogram = cls()
        histogram._hdr.decode_and_add(text)
        return histogram


def _microseconds(duration: float) -> int:
    return round(min(max(duration * 1e6, 1), _MICROSECONDS_MAX))
