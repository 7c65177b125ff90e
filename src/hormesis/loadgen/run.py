"""One run of a load: everything is sent when it is due, and every arrival ends in one row.

Arrivals come from a *source*: the schedule of an open loop, computed in advance, or the users of a closed one. What
happens to an arrival is the same for both: its request is sent; the answer, a broken connection or its deadline ends
the attempt; callers who repeat begin another; and its end is recorded.

The open loop never waits for answers, and asyncio rounds its timers up to the next millisecond, so each wake-up sends
everything that has become due by then. How late each request was sent is recorded too: a generator that falls behind
measures itself, not the system. In a closed loop, where requests wait for the generator too, it is asked by the clock.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
from array import array
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from time import monotonic
from typing import Protocol

from hormesis.errors import ConfigurationError
from hormesis.loadgen.alarm import Alarm
from hormesis.loadgen.deadlines import Deadlines
from hormesis.loadgen.expect import WRONG
from hormesis.loadgen.http1 import CLIENT_FULL, Client, Exchange
from hormesis.loadgen.metronome import Metronome
from hormesis.loadgen.request import LoadSpec, Request
from hormesis.loadgen.samples import UNFINISHED, Answer, Samples
from hormesis.loadgen.schedule import ARRIVALS_MAX, Users
from hormesis.loadgen.template import Template
from hormesis.units import seconds

__all__ = ["Report", "Run", "authority", "tls_of"]

_REPORT_EVERY = 0.25
_LEAD = 0.05
"""Seconds from the finished schedule to the first moment of a run that may start as soon as possible."""

_TOGETHER = 0.0001
"""Seconds in which what becomes due is sent together: waking up costs more than sending."""

_BATCH_MAX = 20_000
"""Samples in one report at most."""

Report = Callable[[str, Samples], None]
"""Takes new rows, under "samples" or "attempts"."""


class _Call(Exchange):
    """An attempt of an arrival; most arrivals have one.

    Attributes:
        n: The number of the arrival.
        index: Its request in the mix.
        intended, sent: When the arrival was due and when it was sent.
        due, began: The same of this attempt.
        until: When its deadline is.
        left: Attempts that may follow.
        user: Of a closed loop, whose it is.
        ended: Whether it is over.
    """

    __slots__ = ("began", "due", "ended", "index", "intended", "left", "n", "sent", "until", "user")

    n: int
    index: int
    intended: float
    sent: float
    due: float
    began: float
    until: float
    left: int
    user: int
    ended: bool


class _Source(Protocol):
    """Where arrivals come from."""

    done: bool

    def begin(self) -> None:
        """Send from now on."""

    def stop(self) -> None:
        """Send nothing more."""

    def ended(self, user: int, answered: bool) -> None:
        """Take note that an arrival is over, and whether there was an answer."""


class Run:
    """Runs a load once.

    Args:
        spec: The load.
        start_at: The monotonic time that its schedule counts from; None is as soon as it is made.
        report: Takes the rows, a few times a second.
    """

    def __init__(self, spec: LoadSpec, start_at: float | None, report: Report) -> None:
        self._spec = spec
        self._report = report
        origin = spec.origin
        self._templates = [
            Template(request, spec.seed, origin, keep_alive=spec.keep_alive) for request in spec.requests
        ]
        self._patience = [
            seconds(spec.timeout if request.timeout is None else request.timeout) for request in spec.requests
        ]
        expectations = [request.expected for request in spec.requests]
        self._reads = [expected.reads for expected in expectations]
        self._degraded = spec.degraded_header.lower()
        wanted = {self._degraded, "retry-after", *(name for expected in expectations for name in expected.header)}
        self._client = Client(
            origin,
            self._answered,
            keep_alive=spec.keep_alive,
            connections_max=spec.connections,
            headers=wanted,
            tls=tls_of(spec),
        )
        self._deadlines = Deadlines[_Call](self._expired)
        self._pauses: dict[_Call, asyncio.TimerHandle] = {}
        self._samples, self._attempts = Samples(), Samples()
        self._lags = array("d")
        self._in_flight = 0
        self._dropped = 0
        self._wrong: dict[str, str] = {}
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        schedule = None if spec.users is not None else spec.schedule()
        self.start_at = monotonic() + _LEAD if start_at is None else start_at
        self._end_at = self.start_at + spec.duration + seconds(spec.grace, zero=True)
        self._source: _Source = (
            _OpenLoop(schedule, spec.share, self.start_at, self._arrive)
            if schedule is not None
            else _ClosedLoop(spec, self.start_at, self._arrive, self._lags.append)
        )

    async def execute(self) -> dict[str, object]:
        """Send everything that is due, and return the summary; a cancellation ends the run early."""
        cancelled = False
        self._source.begin()
        try:
            while not self._finished():
                # A quarter of a second, and not until the run is over, whose end an answer brings about.
                await asyncio.wait([self._over], timeout=_REPORT_EVERY)
                self._flush()
        except asyncio.CancelledError:
            cancelled = True
        finally:
            self._close()
        self._flush()
        return self._summary(cancelled)

    def _finished(self) -> bool:
        return self._source.done and not self._in_flight

    def _close(self) -> None:
        """End everything; what has not ended by itself is unfinished."""
        self._source.stop()
        now = monotonic()
        for call in self._deadlines:
            call.ended = True
            if self._spec.requests[call.index].retry is not None:
                self._note_attempt(call, now, Answer.FAILED, UNFINISHED)
            self._record(call, now, Answer.FAILED, UNFINISHED)
        for call, timer in self._pauses.items():
            timer.cancel()
            self._record(call, now, Answer.FAILED, UNFINISHED)
        self._pauses.clear()
        self._deadlines.close()
        self._client.close()

    # The life of an arrival.

    def _arrive(self, n: int, index: int, intended: float, user: int = 0) -> None:
        sent = monotonic()
        if self._in_flight >= self._spec.in_flight_max:
            self._dropped += 1
            self._samples.add(intended, sent, sent, index, Answer.FAILED, CLIENT_FULL)
            self._source.ended(user, False)
            return
        self._in_flight += 1
        if self._spec.users is None:
            self._lags.append(sent - intended)
        retry = self._spec.requests[index].retry
        self._attempt(n, index, intended, sent, intended, sent, 0 if retry is None else retry.attempts - 1, user)

    def _attempt(
        self, n: int, index: int, intended: float, sent: float, due: float, began: float, left: int, user: int
    ) -> None:
        request = self._spec.requests[index]
        call = _Call(
            self._templates[index].payload(n), head_only=request.method == "HEAD", keep_body=self._reads[index]
        )
        call.n, call.index, call.intended, call.sent = n, index, intended, sent
        call.due, call.began, call.left, call.user, call.ended = due, began, left, user, False
        until = intended + self._patience[index]
        if request.retry is not None and request.retry.timeout is not None:
            until = min(until, due + seconds(request.retry.timeout))
        call.until = until
        self._deadlines.add(min(until, self._end_at), call)
        self._client.send(call)

    def _answered(self, call: Exchange, error: str) -> None:
        """Judge what an attempt has come to."""
        assert isinstance(call, _Call)  # noqa: S101
        if error:
            self._dropped += error == CLIENT_FULL
            self._end(call, Answer.FAILED, error)
            return
        request = self._spec.requests[call.index]
        if call.headers is None and not self._reads[call.index] and request.expected.takes(call.status):
            self._end(call, Answer.FULL, "")
            return
        headers = call.headers or {}
        answer, kind = request.judge(call.status, headers.get(self._degraded), headers.get("retry-after"))
        if answer is Answer.FULL and self._reads[call.index]:
            wrong = request.expected.wrong(headers, call.body, self._templates[call.index].drawn(call.n))
            if wrong:
                self._wrong.setdefault(request.name, wrong)
                answer, kind = Answer.FAILED, WRONG
        self._end(call, answer, kind)

    def _expired(self, call: _Call) -> None:
        self._client.abandon(call)
        self._end(call, Answer.FAILED, "timeout" if call.until <= self._end_at else UNFINISHED)

    def _end(self, call: _Call, answer: Answer, error: str) -> None:
        """End an attempt, and with it the arrival, unless its caller goes on."""
        call.ended = True
        now = monotonic()
        request = self._spec.requests[call.index]
        if request.retry is not None:
            self._note_attempt(call, now, answer, error)
            if error != UNFINISHED and self._goes_on(call, request, now, answer):
                return
        self._record(call, now, answer, error)
        self._source.ended(call.user, error != UNFINISHED)
        if self._finished() and not self._over.done():
            self._over.set_result(None)

    def _goes_on(self, call: _Call, request: Request, now: float, answer: Answer) -> bool:
        """Begin the next attempt, now or after a pause, if there is to be one."""
        assert request.retry is not None  # noqa: S101
        due = now + seconds(request.retry.delay, zero=True)
        patience_ends = call.intended + self._patience[call.index]
        if not (call.left and request.repeats(answer, call.status)) or due >= min(patience_ends, self._end_at):
            return False
        loop = asyncio.get_running_loop()
        self._pauses[call] = loop.call_later(due - now, self._again, call, due)
        return True

    def _again(self, call: _Call, due: float) -> None:
        del self._pauses[call]
        now = monotonic()
        # The loop's timers are right to a millisecond, and may be early: what is sent already is due already.
        self._attempt(call.n, call.index, call.intended, call.sent, min(due, now), now, call.left - 1, call.user)

    def _note_attempt(self, call: _Call, now: float, answer: Answer, error: str) -> None:
        self._attempts.add(call.due, call.began, now, call.index, answer, error, call.status)

    def _record(self, call: _Call, now: float, answer: Answer, error: str) -> None:
        self._in_flight -= 1
        self._samples.add(call.intended, call.sent, now, call.index, answer, error, call.status)
        if len(self._samples.done) >= _BATCH_MAX:
            self._flush()

    # What is told.

    def _flush(self) -> None:
        if len(self._samples):
            self._report("samples", self._samples)
            self._samples = Samples()
        if len(self._attempts):
            self._report("attempts", self._attempts)
            self._attempts = Samples()

    def _summary(self, cancelled: bool) -> dict[str, object]:
        lags = sorted(self._lags)
        return {
            "lag_p50": _quantile(lags, 0.5),
            "lag_p99": _quantile(lags, 0.99),
            "lag_max": _quantile(lags, 1.0),
            "dropped": self._dropped,
            "waited": self._client.waited,
            "cancelled": cancelled,
            "wrong": self._wrong,
        }


class _OpenLoop:
    """Arrivals by schedule, whatever becomes of them."""

    def __init__(
        self,
        schedule: tuple[array[float], array[int]],
        share: tuple[int, int],
        start_at: float,
        arrive: Callable[[int, int, float], None],
    ) -> None:
        self._offsets, self._mix = schedule
        self._n, self._step = share
        self._start_at = start_at
        self._arrive = arrive
        self._alarm = Alarm(self._send)
        self.done = False

    def begin(self) -> None:
        """Send from now on."""
        self._send()

    def stop(self) -> None:
        """Send nothing more."""
        self.done = True
        self._alarm.close()

    def ended(self, user: int, answered: bool) -> None:
        """Nothing follows from an end: that makes the loop open."""

    def _send(self) -> None:
        """Send everything that is due by now; what becomes due meanwhile waits for the answers that came meanwhile."""
        offsets, mix, n, total = self._offsets, self._mix, self._n, len(self._offsets)
        passed = monotonic() - self._start_at
        while n < total and (offset := offsets[n]) <= passed:
            self._arrive(n, mix[n], self._start_at + offset)
            n += self._step
        self._n = n
        if n < total:
            self._alarm.set(max(self._start_at + offsets[n], monotonic() + _TOGETHER))
        else:
            self.done = True


class _ClosedLoop:
    """Users who ask, wait for the answer, think, and ask again."""

    def __init__(
        self,
        spec: LoadSpec,
        start_at: float,
        arrive: Callable[[int, int, float, int], None],
        lagged: Callable[[float], None],
    ) -> None:
        users = spec.users
        assert isinstance(users, Users)  # noqa: S101
        self._users = range(spec.share[0], users.count, spec.share[1])
        self._n, self._step = spec.share
        self._think = seconds(users.think, zero=True)
        self._even = spec.process == "constant"
        self._until = start_at + seconds(users.seconds)
        self._start_at = start_at
        self._arrive = arrive
        self._rng = random.Random(f"{spec.seed}/users/{spec.share[0]}")
        self._weights = list(accumulate(request.weight for request in spec.requests))
        self._loop = asyncio.get_running_loop()
        self._active = len(self._users)
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._metronome = Metronome(start_at, self._until, lagged)
        self.done = not self._active

    def begin(self) -> None:
        """Let every user begin after a pause of its own, so that they don't ask in step."""
        self._metronome.begin()
        for user in self._users:
            self._ask_at(user, self._start_at + self._think * self._rng.random())

    def stop(self) -> None:
        """Send every user home."""
        self.done = True
        self._metronome.stop()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def ended(self, user: int, answered: bool) -> None:
        """Let the user think, and ask again; one who was not answered because the run is over has nothing to add."""
        if self.done or not answered:
            self._leave()
            return
        pause = self._think if self._even else self._rng.expovariate(1.0) * self._think
        self._ask_at(user, monotonic() + pause)

    def _ask_at(self, user: int, due: float) -> None:
        if due >= self._until or self._n >= ARRIVALS_MAX:
            self._leave()
        else:
            # Never at once, not even without a pause: the end of one request must not be the caller of the next.
            self._timers[user] = self._loop.call_later(max(0.0, due - monotonic()), self._ask, user, due)

    def _ask(self, user: int, due: float) -> None:
        del self._timers[user]
        index = bisect(self._weights, self._rng.random() * self._weights[-1], hi=len(self._weights) - 1)
        n, self._n = self._n, self._n + self._step
        # Its timer may have been early, by less than a millisecond: what is sent now is due now.
        self._arrive(n, index, min(due, monotonic()), user)

    def _leave(self) -> None:
        self._active -= 1
        self.done = self.done or not self._active


def tls_of(spec: LoadSpec) -> ssl.SSLContext | None:
    """Return how a load's server must prove who it is; None is as this machine asks of all.

    Raises:
        ConfigurationError: The file of its authority can't be read.
    """
    if spec.verify is True or not spec.origin.secure:
        return None
    if spec.verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    return authority(spec.verify, "verify")


def authority(file: str, key: str) -> ssl.SSLContext:
    """Return what trusts the certificates that the authority in a file has signed.

    Raises:
        ConfigurationError: The file can't be read, or holds none.
    """
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        accepted = f"a file with certificates ({reason or error})"
        raise ConfigurationError.bad_value(key, file, accepted) from None


def _quantile(values: list[float], q: float) -> float:
    return values[max(0, math.ceil(q * len(values)) - 1)] if values else math.nan
