"""How long work that could go on stands waiting, measured where it waits.

    LoopLag         for the event loop
    ThreadLag       for the interpreter or a processor, in programs of threads
    ThreadPoolWait  for a thread of anyio's pool, or of one that is handed in
    RequestStart    in front of this process, by what a trusted proxy says
    Longest         brings several of them together

Each reports seconds to a function, such as `ShedderMachine.observe`. None does anything before `start`, nor while
nothing is in flight: it goes to sleep when `busy` says so, and whoever lets the first request in calls `wake`. One that
raises is logged once and off: an instrument never breaks a request.

`HealthMonitor` reads how the system is, for limits that heed it.
"""

from hormesis.inbound.signals.health import HealthMonitor
from hormesis.inbound.signals.lag import LoopLag, ThreadLag
from hormesis.inbound.signals.longest import Longest
from hormesis.inbound.signals.pools import ThreadPoolWait
from hormesis.inbound.signals.request_start import RequestStart

__all__ = ["HealthMonitor", "Longest", "LoopLag", "RequestStart", "ThreadLag", "ThreadPoolWait"]
