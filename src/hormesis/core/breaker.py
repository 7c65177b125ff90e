"""The circuit breaker's machine.

    closed ──(failure rate or slow rate reached; or so many failures in a row)──► open
    open ──(its time is over, and somebody asks)──► half-open
    half-open ──(too many probes failed)──► open
    half-open ──(enough probes answered well)──► closed, or recovering where re-opening is graded
    recovering ──(it failed again)──► open
    recovering ──(its share has reached all of the traffic, and somebody asks)──► closed

    any ──(by hand)──► isolated, which refuses everybody; disabled, which admits everybody and counts; or closed

**Low traffic.** A rate means something once the window holds `minimum_calls`. Before that, `quiet` failures in a row
open it as well, or a dead dependency that is asked once a minute would never be found out.

**Open** lasts `open_for` the first time. Each further opening in a row doubles that, up to `open_for_max`, with equal
jitter: the half is sure, the other half is random, and it is never shorter than `open_for`. A row ends when the circuit
stayed closed for longer than it was open last. When a failing dependency said when it wants to be asked again, it stays
open until then at the least, within `retry_after_max`.

**Half-open** admits a bounded number of probes and judges them by the same rates, as soon as the verdict is certain:
with 3 probes and a failure rate of 0.5, two failures open it again and two successes close it, whatever the third
says. A probe that is cancelled, ignored or put back frees its place; one that never returns expires and does too.

**Recovering** admits a share of the traffic that climbs with time, from a tenth to all of it over `recover_over`. The
shares of those who ask add up, and whoever brings the sum to one goes in: evenly spaced, and nothing is left to chance.
A failure (or slow call) halves the progress made, as long as it may mean something: while fewer than `minimum_calls`
have ended, and later when failures reach half of the rate that opens it. A lone failure among many good calls is the
noise of a healthy service; if each set it back, one with much traffic would never recover. The rates that open it are
those of the closed state, from 5 calls on.

Each change of state begins a new *era*. A permit belongs to the era in which it was issued, and an outcome from an
older era changes nothing: it speaks of a time that is over.

A permit of the closed state is one shared object, `passing`, so taking it is one attribute read; it carries the counter
of its era, so a plain success is counted with one call in C, without a lock, and one that comes too late advances a
counter that nobody reads. A rate is judged when a failure or a slow call is counted: a plain success never opens a
breaker. What a healthy breaker does not need (a window, an outbox, the memory of an outage) is made when it is needed,
since there may be a breaker for every host.

Sources: Nygard, *Release It!* (2007); the sliding windows and judged half-open state of resilience4j; failures in a row
and the growing time with equal jitter of Finagle's failure accrual.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

from hormesis.clock import Random
from hormesis.core.admission import Lock, Permit, Refusal, Transition
from hormesis.core.ticks import Ticks, new_counter
from hormesis.core.window import CountWindow, Tally, TimeWindow, Window, reshaped
from hormesis.outcome import Ending

__all__ = ["BreakerMachine", "BreakerState", "BreakerTerms"]

_OUTBOX_MAX = 100
"""Changes of state that are kept for publishing; a policy publishes after every call."""

_SHARE_MIN = 0.1
"""The share of traffic with which recovering begins."""

_RECOVERING_MINIMUM = 5
"""Calls from which recovering judges by rates: an outage that is back should not need the closed state's patience."""

_DOUBLINGS_MAX = 60
"""Any open time has reached its most by then."""

_ROUNDING = 1e-9
"""What sums and products of floats may be off by."""

_NO_ERA = -1
"""The era of a permit that has ended."""


class BreakerState(enum.StrEnum):
    """The states of a circuit."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    RECOVERING = "recovering"
    ISOLATED = "isolated"
    DISABLED = "disabled"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BreakerTerms:
    """What a breaker goes by: one object for all breakers of the same settings.

    Args:
        window_calls: The window as a number of the latest calls, or None ...
        window_seconds: ... as a time; one of the two is given.
        failure_rate: Share of failed calls, in (0, 1], at which it opens.
        consecutive: Failures in a row at which it opens, whatever the window holds; None for no such rule.
        quiet: Failures in a row at which it opens while the window holds fewer than `minimum_calls`; None for no such
            rule.
        slow_after: Seconds from which a call counts as slow; infinite to watch no durations.
        slow_rate: Share of slow calls, in (0, 1], at which it opens.
        minimum_calls: Calls that the window must hold before any rate means something.
        open_for: Seconds that it stays open the first time.
        open_for_max: Seconds that this grows to; from `open_for`.
        retry_after_max: Seconds for which a dependency's own wish keeps it open at most.
        probes: Calls that half-open admits and judges.
        probe_expires: Seconds after which a probe that has not ended gives its place to another.
        recover_over: Seconds from a tenth of the traffic to all of it; None to close at once.
    """

    window_calls: int | None
    window_seconds: float | None
    failure_rate: float
    consecutive: int | None
    quiet: int | None
    slow_after: float
    slow_rate: float
    minimum_calls: int
    open_for: float
    open_for_max: float
    retry_after_max: float
    probes: int
    probe_expires: float
    recover_over: float | None

    @property
    def timed(self) -> bool:
        """Whether a success must tell its times."""
        return self.window_seconds is not None or self.slow_after < math.inf

    @property
    def ticks_until(self) -> float:
        """Until when successes may be counted by a tick while there is no window yet."""
        return -math.inf if self.window_calls is None else math.inf

    def window(self, ticks: Ticks) -> Window:
        """Make a window over all calls that have drawn from a counter."""
        if self.window_calls is not None:
            return CountWindow(self.window_calls, ticks)
        assert self.window_seconds is not None  # noqa: S101  one of the two is given
        return TimeWindow(self.window_seconds, ticks)


class _Pass(Permit):
    """Leave to call while closed or disabled: one for all, with the counter of its era."""

    __slots__ = ("tick",)

    def __init__(self, era: int) -> None:
        super().__init__(era)
        self.tick = new_counter()


class _Probe(Permit):
    """Leave to try whether the dependency is back; it expires."""

    __slots__ = ("expires",)

    def __init__(self, era: int, expires: float) -> None:
        super().__init__(era)
        self.expires = expires


class _Share(Permit):
    """Leave to be part of the share that recovering admits."""

    __slots__ = ()


class _Probes:
    """The probes of one half-open state, in the order in which they went out."""

    __slots__ = ("failed", "judged", "out", "slow")

    def __init__(self) -> None:
        self.out: dict[_Probe, None] = {}
        self.judged = self.failed = self.slow = 0

    def expire(self, now: float) -> None:
        """Take back the places of probes that never returned: abandoned, which speaks neither for nor against."""
        while self.out:
            oldest = next(iter(self.out))
            if now < oldest.expires:
                return
            del self.out[oldest]


class _Ramp:
    """How far recovering has come, and the sum of the shares of those who asked."""

    __slots__ = ("credit", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        # Whoever asks first goes in.
        self.credit = 1.0 - _SHARE_MIN

    def progress(self, now: float, over: float | None) -> float:
        """The progress made, from 0 to 1."""
        return 1.0 if over is None else min(1.0, max(0.0, (now - self.since) / over))

    def share(self, now: float, over: float | None) -> float:
        """The share of traffic that is admitted."""
        return _SHARE_MIN + (1.0 - _SHARE_MIN) * self.progress(now, over)

    def fall_back(self, now: float, over: float | None) -> None:
        """Lose half of the progress."""
        self.since = now - self.progress(now, over) / 2 * (over or 0.0)

    def put_back(self) -> None:
        """Let the next in for one that did not go; no more than one, or unused shares would become a burst."""
        self.credit = min(1.0, self.credit + 1.0)


class _Outage:
    """What is remembered from one opening to the next."""

    __slots__ = ("closed_since", "lasts", "openings", "until")

    def __init__(self) -> None:
        self.openings = 0
        self.lasts = 0.0
        self.closed_since = -math.inf
        # The latest moment at which the dependency said that it wants to be asked again.
        self.until = -math.inf


class BreakerMachine:
    """Refuses calls to a dependency that fails; see the module's docstring for its states.

    Args:
        terms: What it goes by.
        lock: Guards everything but permits of the closed state and their successes. Machines may share one.
        random: Jitters the open time.
    """

    __slots__ = (
        "_lock",
        "_outage",
        "_probes",
        "_ramp",
        "_random",
        "_ticks_until",
        "_window",
        "era",
        "open_until",
        "outbox",
        "passing",
        "state",
        "terms",
        "timed",
    )

    holds_place = False

    def __init__(self, terms: BreakerTerms, lock: Lock, random: Random) -> None:
        self.terms = terms
        self.timed = terms.timed
        self._lock = lock
        self._random = random
        self.outbox: list[Transition] | None = None
        self.era = 0
        self.state = BreakerState.CLOSED
        self.open_until = -math.inf
        self._ticks_until = terms.ticks_until
        self._window: Window | None = None
        self._outage: _Outage | None = None
        self._probes: _Probes | None = None
        self._ramp: _Ramp | None = None
        self.passing: _Pass | None = _Pass(0)

    def acquire(self, now: float) -> Permit | Refusal:
        """Take a permit, or be refused because the circuit is open or has no place to spare."""
        permit = self.passing
        if permit is not None:
            return permit
        open_until = self.open_until
        if now < open_until:
            return Refusal("open", open_until - now)
        with self._lock:
            # The state may have changed between the look and the lock.
            if self.passing is not None:
                return self.passing
            if self._ramp is not None:
                return self._ask_for_share(self._ramp, now)
            refusal = self._refusal(now)
            if refusal is not None:
                return refusal
            probes = self._probes
            if probes is None:
                probes = _Probes()
                self._enter(BreakerState.HALF_OPEN, "its open time is over", probes=probes)
            probe = _Probe(self.era, now + self.terms.probe_expires)
            probes.out[probe] = None
            return probe

    def refusal(self, now: float) -> Refusal | None:
        """Say whether `acquire` would refuse."""
        if self.passing is not None:
            return None
        with self._lock:
            return self._refusal(now)

    def put_back(self, permit: Permit) -> None:
        """Return a permit that was never used."""
        if permit.__class__ is _Pass:
            return
        with self._lock:
            if self._take_back(permit) and self._ramp is not None:
                self._ramp.put_back()

    def succeed(self, permit: Permit, started: float, now: float) -> None:
        """End a permit as success."""
        passing = self.passing
        if (
            passing is not None
            and permit is passing
            and now < self._ticks_until
            and now - started < self.terms.slow_after
        ):
            passing.tick()
            return
        self.end(permit, Ending.SUCCESS, started, now)

    def end(self, permit: Permit, ending: Ending, started: float, now: float, retry_after: float | None = None) -> None:
        """End a permit in any way; one from an older era, or one that has ended already, changes nothing.

        Args:
            permit: What `acquire` gave.
            ending: How the attempt ended.
            started: When it went in.
            now: When it ended.
            retry_after: Seconds after which the failing dependency wants to be asked again.
        """
        with self._lock:
            if permit is not self.passing and not self._take_back(permit):
                return
            if ending is not Ending.SUCCESS and ending is not Ending.FAILURE:
                return
            failed = ending is Ending.FAILURE
            slow = now - started >= self.terms.slow_after
            if failed and retry_after is not None:
                self._heed(now, retry_after)
            if self._probes is not None:
                self._judge_probe(self._probes, now, failed=failed, slow=slow)
            else:
                self._count(now, failed=failed, slow=slow)

    def isolate(self, now: float) -> None:
        """Refuse every call until it is closed by hand."""
        self._switch(BreakerState.ISOLATED)

    def disable(self, now: float) -> None:
        """Admit every call, and count, until it is closed by hand."""
        self._switch(BreakerState.DISABLED)

    def close(self, now: float) -> None:
        """Close it from whatever state, and forget all that it remembers."""
        with self._lock:
            self._outage = None
            self._enter(BreakerState.CLOSED, "closed by hand")

    def reconfigure(self, terms: BreakerTerms) -> None:
        """Go on by other terms, with the state as it is.

        A window keeps what it holds of what the new one looks at; one of another kind starts empty. Probes that are
        out are not judged any more: the new terms get a verdict of their own.
        """
        with self._lock:
            if terms == self.terms:
                return
            before, self.terms = self.terms, terms
            if (terms.window_calls, terms.window_seconds) != (before.window_calls, before.window_seconds):
                window = self._window
                if window is None and (terms.window_calls is None) is not (before.window_calls is None):
                    window = self._new_window(before)
                if window is not None:
                    self._window = reshaped(window, calls=terms.window_calls, seconds=terms.window_seconds)
                self._ticks_until = terms.ticks_until
            self.timed = terms.timed
            if self._probes is not None:
                self._probes = _Probes()

    def idle(self, now: float) -> bool:
        """Whether it would be no loss to forget it: closed, and no failure is remembered."""
        if self.state is not BreakerState.CLOSED:
            return False
        with self._lock:
            if self._window is not None:
                tally = self._window.tally(now)
                if tally.failures or tally.slow:
                    return False
            return self._openings(now) == 0 and (self._outage is None or self._outage.until <= now)

    def tally(self, now: float) -> Tally:
        """Return what the window holds; nothing while it is open or half-open."""
        with self._lock:
            return self._tally(now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return what it holds as plain data.

        Returns:
            `state`, `era`, `calls`, `failures` and `slow` (what the window holds), `retry_after` (seconds that it stays
            open; None in other states), `openings_in_a_row`, and `share` (of traffic, while recovering; else None).
        """
        with self._lock:
            tally = self._tally(now)
            ramp, terms = self._ramp, self.terms
            return {
                "state": self.state.value,
                "era": self.era,
                "calls": tally.calls,
                "failures": tally.failures,
                "slow": tally.slow,
                "retry_after": max(0.0, self.open_until - now) if self.state is BreakerState.OPEN else None,
                "openings_in_a_row": self._openings(now),
                "share": None if ramp is None else ramp.share(now, terms.recover_over),
            }

    # What follows wants the lock held.

    def _refusal(self, now: float) -> Refusal | None:
        if self.passing is not None:
            return None
        if self._probes is not None:
            self._probes.expire(now)
            full = len(self._probes.out) + self._probes.judged >= self.terms.probes
            return Refusal("half-open", None) if full else None
        if self._ramp is not None:
            over = self.terms.recover_over
            admits = self._ramp.progress(now, over) >= 1 or self._ramp.credit + self._ramp.share(now, over) >= _ONE
            return None if admits else Refusal("recovering", None)
        if self.state is BreakerState.ISOLATED:
            return Refusal("isolated", None)
        return Refusal("open", self.open_until - now) if now < self.open_until else None

    def _ask_for_share(self, ramp: _Ramp, now: float) -> Permit | Refusal:
        over = self.terms.recover_over
        if ramp.progress(now, over) >= 1:
            return self._closed(now, "the share of traffic reached all of it")
        ramp.credit += ramp.share(now, over)
        if ramp.credit < _ONE:
            return Refusal("recovering", None)
        ramp.credit -= 1.0
        return _Share(self.era)

    def _take_back(self, permit: Permit) -> bool:
        """End a permit that is not shared; False when it ended before, or its era did."""
        if permit.era != self.era:
            return False
        if isinstance(permit, _Probe):
            if self._probes is None or permit not in self._probes.out:
                return False
            del self._probes.out[permit]
        permit.era = _NO_ERA
        return True

    def _count(self, now: float, *, failed: bool, slow: bool) -> None:
        """Count a call of the closed, disabled or recovering state."""
        if self._window is None:
            self._window = self._new_window(self.terms)
        window = self._window
        tally = window.record(now, failed=failed, slow=slow)
        self._ticks_until = window.ticks_until
        if self.state is BreakerState.DISABLED or not (failed or slow):
            return
        reason = self._verdict(tally, window.in_a_row, failed=failed, slow=slow)
        if reason is not None:
            self._open(now, reason)
        elif self._ramp is not None and self._is_setback(tally, failed=failed, slow=slow):
            self._ramp.fall_back(now, self.terms.recover_over)

    def _verdict(self, tally: Tally, in_a_row: int, *, failed: bool, slow: bool) -> str | None:
        """Why it is to open, if it is."""
        terms = self.terms
        if failed:
            row = [terms.consecutive, terms.quiet if tally.calls < terms.minimum_calls else None]
            if any(most is not None and in_a_row >= most for most in row):
                return f"{in_a_row} calls failed in a row"
        minimum = terms.minimum_calls if self._ramp is None else min(terms.minimum_calls, _RECOVERING_MINIMUM)
        if tally.calls < minimum:
            return None
        if failed and tally.failures >= _share_of(terms.failure_rate, tally.calls):
            return f"{tally.failures} of {tally.calls} calls failed"
        if slow and tally.slow >= _share_of(terms.slow_rate, tally.calls):
            return f"{tally.slow} of {tally.calls} calls were slow"
        return None

    def _is_setback(self, tally: Tally, *, failed: bool, slow: bool) -> bool:
        """Whether a bad call while recovering means more than the noise of a healthy service."""
        terms = self.terms
        return (
            tally.calls < terms.minimum_calls
            or (failed and tally.failures >= _share_of(terms.failure_rate / 2, tally.calls))
            or (slow and tally.slow >= _share_of(terms.slow_rate / 2, tally.calls))
        )

    def _judge_probe(self, probes: _Probes, now: float, *, failed: bool, slow: bool) -> None:
        terms = self.terms
        probes.judged += 1
        probes.failed += failed
        probes.slow += slow
        to_come = terms.probes - probes.judged
        failures_to_open = _share_of(terms.failure_rate, terms.probes)
        # Without a duration to watch no probe is slow, so however many are to come can't reach this.
        slow_to_open = _share_of(terms.slow_rate, terms.probes) if terms.slow_after < math.inf else terms.probes + 1
        if probes.failed >= failures_to_open:
            self._open(now, f"{probes.failed} of {terms.probes} probes failed")
        elif probes.slow >= slow_to_open:
            self._open(now, f"{probes.slow} of {terms.probes} probes were slow")
        elif probes.failed + to_come < failures_to_open and probes.slow + to_come < slow_to_open:
            if terms.recover_over is None:
                self._closed(now, "the probes answered")
            else:
                self._enter(BreakerState.RECOVERING, "the probes answered", ramp=_Ramp(now))

    def _heed(self, now: float, retry_after: float) -> None:
        """Remember that the dependency wants to be left alone for so many seconds."""
        if retry_after > 0:
            outage = self._remember()
            outage.until = max(outage.until, now + min(retry_after, self.terms.retry_after_max))

    def _open(self, now: float, reason: str) -> None:
        terms, outage = self.terms, self._remember()
        outage.openings = self._openings(now) + 1
        lasts = terms.open_for
        if outage.openings > 1:
            grown = min(terms.open_for_max, lasts * 2.0 ** min(outage.openings - 1, _DOUBLINGS_MAX))
            lasts = max(lasts, grown / 2 + grown / 2 * self._random.random())
        outage.lasts = max(lasts, outage.until - now)
        self._enter(BreakerState.OPEN, reason, open_until=now + outage.lasts)

    def _closed(self, now: float, reason: str) -> Permit:
        self._remember().closed_since = now
        self._enter(BreakerState.CLOSED, reason)
        assert self.passing is not None  # noqa: S101  it is closed
        return self.passing

    def _openings(self, now: float) -> int:
        """Openings in the present row."""
        outage = self._outage
        if outage is None:
            return 0
        over = self.state is BreakerState.CLOSED and now - outage.closed_since > outage.lasts
        return 0 if over else outage.openings

    def _remember(self) -> _Outage:
        if self._outage is None:
            self._outage = _Outage()
        return self._outage

    def _switch(self, state: BreakerState) -> None:
        with self._lock:
            if self.state is not state:
                self._outage = None
                self._enter(state, f"{state.value} by hand")

    def _enter(
        self,
        state: BreakerState,
        reason: str,
        *,
        open_until: float = -math.inf,
        probes: _Probes | None = None,
        ramp: _Ramp | None = None,
    ) -> None:
        if state is not self.state:
            self._tell(Transition(self.state, state, reason))
        self.state = state
        self.era += 1
        self._probes, self._ramp, self._window = probes, ramp, None
        self._ticks_until = self.terms.ticks_until
        self.open_until = open_until
        # Last, since others look at it without the lock, and then count on the rest.
        passes = state is BreakerState.CLOSED or state is BreakerState.DISABLED
        self.passing = _Pass(self.era) if passes else None

    def _tell(self, change: Transition) -> None:
        if self.outbox is None:
            self.outbox = []
        self.outbox.append(change)
        if len(self.outbox) > _OUTBOX_MAX:
            del self.outbox[0]

    def _new_window(self, terms: BreakerTerms) -> Window:
        return terms.window(Ticks(None if self.passing is None else self.passing.tick))

    def _tally(self, now: float) -> Tally:
        if self.passing is None and self._ramp is None:
            return Tally(0, 0, 0)
        if self._window is None:
            self._window = self._new_window(self.terms)
        tally = self._window.tally(now)
        self._ticks_until = self._window.ticks_until
        return tally


_ONE = 1.0 - _ROUNDING


def _share_of(rate: float, calls: int) -> int:
    """The smallest number of calls that is at least this share of all, whatever floats make of the product."""
    return max(1, math.ceil(rate * calls - _ROUNDING))
