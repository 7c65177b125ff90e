"""A run as a log of histograms: the text format that HdrHistogram's own tools and plotters read.

A line is a second of the run, with the histogram of what was due in it; of a load with several requests, a line is of
one of them, and has its name as a tag. Values are nanoseconds, as those tools take them to be; the maximum that a line
shows is in milliseconds.

Source: HdrHistogram's `HistogramLogWriter` (Gil Tene, https://hdrhistogram.org).
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from hormesis.errors import MissingExtraError
from hormesis.loadgen.samples import Samples

try:
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogWriter
except ImportError as error:
    raise MissingExtraError("hormesis.loadgen.hdrlog", "gameday") from error

__all__ = ["write_hdr_log"]

_NANOSECONDS = 1_000_000_000
_LONGEST = 3600 * _NANOSECONDS
_DIGITS = 3
_UNTAGGED = re.compile(r"[,\s]")


def write_hdr_log(file: TextIO, samples: Samples, start_at: float, names: Sequence[str]) -> None:
    """Write the latencies of a run.

    Args:
        file: Where to.
        samples: The run's.
        start_at: The monotonic time at which it began.
        names: Of its requests; what a tag can't hold becomes `_`.

    Raises:
        OSError: The file can't be written.
    """
    began = time.time() - (time.monotonic() - start_at)
    log = HistogramLogWriter(file)
    log.output_comment("[Logged by hormesis load]")
    log.output_log_format_version()
    log.output_comment(f"[StartTime: {began:.3f} (seconds since epoch), {_date(began)}]")
    log.output_legend()
    by_line: dict[tuple[int, int], Counter[int]] = {}
    for due, done, request in zip(samples.intended, samples.done, samples.request, strict=True):
        latency = round(min(max((done - due) * _NANOSECONDS, 1), _LONGEST))
        by_line.setdefault((max(0, int(due - start_at)), request), Counter())[latency] += 1
    tags = [f"Tag={_UNTAGGED.sub('_', name)}," for name in names] if len(names) > 1 else [""]
    histogram = HdrHistogram(1, _LONGEST, _DIGITS)
    for (second, request), latencies in sorted(by_line.items()):
        histogram.reset()
        for latency, count in latencies.items():
            histogram.record_value(latency, count)
        encoded = histogram.encode().decode("ascii")
        highest = histogram.get_max_value() / 1e6
        file.write(f"{tags[request]}{second:.3f},1.000,{highest:.3f},{encoded}\n")


def _date(seconds: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime(seconds))
