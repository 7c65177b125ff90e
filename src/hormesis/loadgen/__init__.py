"""Open-loop load: requests are sent when they are due, from a process of its own, and counted from when they were due.

A closed loop (a fixed number of clients, each waiting for its answer) sends less exactly when the system is slow, and
so measures its own politeness. Callers in the world don't wait for each other. Here the schedule is computed in advance
from a seed (`schedule`), each arrival's request is drawn from a mix (`Request`, `template`), a generator process sends
them without ever waiting for answers (`generator`), and raw times come back (`Samples`), from which quantiles are read
(`Histogram`). `LoadDriver` is the handle on that process.
"""

from hormesis.loadgen.driver import LAG_MAX, LoadDriver, RunResult
from hormesis.loadgen.expect import WRONG, Expect
from hormesis.loadgen.histogram import Histogram
from hormesis.loadgen.request import LoadSpec, Request, Retries
from hormesis.loadgen.samples import UNFINISHED, Answer, Sample, Samples
from hormesis.loadgen.schedule import (
    ARRIVALS_MAX,
    ArrivalProcess,
    Seed,
    Segment,
    Stream,
    Trace,
    Users,
    arrivals,
    merged,
    pick,
)
from hormesis.loadgen.template import Values

__all__ = [
    "ARRIVALS_MAX",
    "LAG_MAX",
    "UNFINISHED",
    "WRONG",
    "Answer",
    "ArrivalProcess",
    "Expect",
    "Histogram",
    "LoadDriver",
    "LoadSpec",
    "Request",
    "Retries",
    "RunResult",
    "Sample",
    "Samples",
    "Seed",
    "Segment",
    "Stream",
    "Trace",
    "Users",
    "Values",
    "arrivals",
    "merged",
    "pick",
]
