"""The circuit breaker's machine.

    closed ──(failure rate or slow rate reached, minimum calls seen; or so many failures in a row)──► open
    open ──(its time is over, and somebody asks)──► half-open
    half-open ──(enough probes answered well)──► closed
    half-open ──(too many probes failed)──► open

Half-open admits a bounded number of probes and judges them by the same rates, as soon as the verdict is certain:
with 3 probes and a failure rate of 0.5, two failures open it again and two successes close it, whatever the third
says. A probe that is cancelled, ignored or put back frees its place; one that never returns expires and does too.

Each change of state begins a new *era*. A permit belongs to the era in which it was issued, and an outcome from an
older era changes nothing: it speaks of a time that is over.

A permit of the closed state is one shared object, so taking it is one attribute read, and a success is recognised by
identity and counted without a lock. A rate is judged when a failure or a slow call is counted: a plain success never
opens a breaker.

Source: Nygard, *Release It!* (2007), with the sliding windows and judged half-open state of resilience4j.
"""

from __future__ import annotations

import enum
import math

from hormesis.core.admission import Lock, Permit, Refusal, Transition
from hormesis.core.window import Tally, Window
from hormesis.outcome import Ending

__all__ = ["BreakerMachine", "BreakerState"]

_OUTBOX_MAX = 100
"""Changes of state that are kept for publishing; a policy publishes after every call."""


class BreakerState(enum.StrEnum):
    """The three states of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class _Probe(Permit):
    """Leave to try whether the dependency is back; it expires."""

    __slots__ = ("expires",)

    def __init__(self, era: int, expires: float) -> None:
        super().__init__(era)
        self.expires = expires


class BreakerMachine:
    """Refuses calls to a dependency that fails; see the module's docstring for its states.

    Args:
        window: Where outcomes are counted while closed.
        failure_rate: Share of failed calls, in (0, 1], at which it opens.
        consecutive: Failures in a row at which it opens, whatever the minimum of calls; None for no such rule.
        slow_after: Seconds from which a call counts as slow; None to watch no durations.
        slow_rate: Share of slow calls, in (0, 1], at which it opens.
        minimum_calls: Calls that the window must hold before any rate means something.
        open_for: Seconds that it stays open.
        probes: Calls that half-open admits and judges.
        probe_expires: Seconds after which a probe that has not ended gives its place to another.
        lock: Guards everything but permits of the closed state and their successes.
    """

    __slots__ = (
        "_failures_to_open",
        "_lock",
        "_pass",
        "_probe_expires",
        "_probes",
        "_probes_failed",
        "_probes_judged",
        "_probes_out",
        "_probes_slow",
        "_slow_to_open",
        "_window",
        "consecutive",
        "era",
        "failure_rate",
        "minimum_calls",
        "open_for",
        "open_until",
        "outbox",
        "slow_after",
        "slow_rate",
        "state",
        "timed",
    )

    holds_place = False

    def __init__(
        self,
        *,
        window: Window,
        failure_rate: float,
        consecutive: int | None,
        slow_after: float | None,
        slow_rate: float,
        minimum_calls: int,
        open_for: float,
        probes: int,
        probe_expires: float,
        lock: Lock,
    ) -> None:
        self.failure_rate = failure_rate
        self.consecutive = consecutive
        self.slow_after = slow_after
        self.slow_rate = slow_rate
        self.minimum_calls = minimum_calls
        self.open_for = open_for
        self.timed = window.timed or slow_after is not None
        self._window = window
        self._probes = probes
        self._probe_expires = probe_expires
        self._failures_to_open = _share_of(failure_rate, probes)
        self._slow_to_open = _share_of(slow_rate, probes) if slow_after is not None else probes + 1
        self._lock = lock
        # A list, since an empty deque takes ten times the memory, and there may be a breaker for every host.
        self.outbox: list[Transition] = []
        self.era = 0
        self.state = BreakerState.CLOSED
        self.open_until = -math.inf
        self._pass: Permit | None = Permit(self.era)
        self._forget_probes()

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because the circuit is open or has no probe to spare."""
        permit = self._pass
        if permit is not None:
            return permit
        if now < self.open_until:
            return Refusal("open", self.open_until - now)
        with self._lock:
            # The state may have changed between the look and the lock.
            if self._pass is not None:
                return self._pass
            refusal = self._refusal(now)
            if refusal is not None:
                return refusal
            if self.state is BreakerState.OPEN:
                self._enter(BreakerState.HALF_OPEN, "its open time is over")
            probe = _Probe(self.era, now + self._probe_expires)
            self._probes_out[probe] = None
            return probe

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        if self._pass is not None:
            return None
        with self._lock:
            return self._refusal(now)

    def put_back(self, permit: Permit) -> None:
        """Return a permit that was never used."""
        if isinstance(permit, _Probe):
            with self._lock:
                self._probes_out.pop(permit, None)

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success."""
        if (
            permit is self._pass
            and now < self._window.ticks_until
            and (self.slow_after is None or now - started < self.slow_after)
        ):
            self._window.tick()
            return
        self.end(permit, Ending.SUCCESS, started, now)

    def end(
        self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None
    ) -> None:
        """End a permit in any way; one from an older era, or one that has ended already, changes nothing."""
        with self._lock:
            if permit is self._pass:
                self._count(ending, started, now)
            elif isinstance(permit, _Probe) and permit in self._probes_out:
                del self._probes_out[permit]
                self._judge_probe(ending, started, now)

    def tally(self, now: float) -> Tally:
        """Return what the window holds."""
        with self._lock:
            return self._window.tally(now)

    def _count(self, ending: Ending, started: float, now: float) -> None:
        if ending is not Ending.SUCCESS and ending is not Ending.FAILURE:
            return
        failed = ending is Ending.FAILURE
        slow = self._is_slow(started, now)
        tally = self._window.record(now, failed=failed, slow=slow)
        if failed and self.consecutive is not None and self._window.in_a_row >= self.consecutive:
            self._open(now, f"{self._window.in_a_row} calls failed in a row")
            return
        if tally.calls < self.minimum_calls:
            return
        if failed and tally.failures >= _share_of(self.failure_rate, tally.calls):
            self._open(now, f"{tally.failures} of {tally.calls} calls failed")
        elif slow and tally.slow >= _share_of(self.slow_rate, tally.calls):
            self._open(now, f"{tally.slow} of {tally.calls} calls were slow")

    def _judge_probe(self, ending: Ending, started: float, now: float) -> None:
        if ending is not Ending.SUCCESS and ending is not Ending.FAILURE:
            return
        failed = ending is Ending.FAILURE
        slow = self._is_slow(started, now)
        self._probes_judged += 1
        self._probes_failed += failed
        self._probes_slow += slow
        to_come = self._probes - self._probes_judged
        if self._probes_failed >= self._failures_to_open:
            self._open(now, f"{self._probes_failed} of {self._probes} probes failed")
        elif self._probes_slow >= self._slow_to_open:
            self._open(now, f"{self._probes_slow} of {self._probes} probes were slow")
        elif (
            self._probes_failed + to_come < self._failures_to_open and self._probes_slow + to_come < self._slow_to_open
        ):
            self._enter(BreakerState.CLOSED, "the probes answered")

    def _is_slow(self, started: float, now: float) -> bool:
        return self.slow_after is not None and now - started >= self.slow_after

    def _open(self, now: float, reason: str) -> None:
        self.open_until = now + self.open_for
        self._enter(BreakerState.OPEN, reason)

    def _enter(self, state: BreakerState, reason: str) -> None:
        self.outbox.append(Transition(self.state, state, reason))
        if len(self.outbox) > _OUTBOX_MAX:
            del self.outbox[0]
        self.state = state
        self.era += 1
        self._forget_probes()
        if state is BreakerState.CLOSED:
            self._window.clear()
            self._pass = Permit(self.era)
        else:
            self._pass = None

    def _refusal(self, now: float) -> Refusal | None:
        if self.state is BreakerState.CLOSED:
            return None
        if self.state is BreakerState.OPEN:
            return Refusal("open", self.open_until - now) if now < self.open_until else None
        self._expire_probes(now)
        if len(self._probes_out) + self._probes_judged < self._probes:
            return None
        return Refusal("half-open", None)

    def _expire_probes(self, now: float) -> None:
        """Take back the places of probes that never returned: abandoned, which speaks neither for nor against."""
        while self._probes_out:
            oldest = next(iter(self._probes_out))
            if now < oldest.expires:
                return
            del self._probes_out[oldest]

    def _forget_probes(self) -> None:
        self._probes_out: dict[_Probe, None] = {}
        self._probes_judged = self._probes_failed = self._probes_slow = 0


def _share_of(rate: float, calls: int) -> int:
    """The smallest number of calls that is at least this share of all, whatever floats make of the product."""
    return max(1, math.ceil(rate * calls - 1e-9))
