"""What both colours of a journey share: the stations on the way, the machines, and what each decision is.

Nothing here waits. `hormesis.policy.journey` is the way itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hormesis.clock import Clock, Random
from hormesis.context import Answer, current_call, current_deadline, left, note_answer
from hormesis.core.admission import Permit, Refusal
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.slots import Slot
from hormesis.errors import DeadlineExceeded, Rejected, TimedOut
from hormesis.events import (
    AttemptFailed,
    CallEnded,
    EventBus,
    FallbackAnswered,
    FallbackFailed,
    RetryScheduled,
    RetryStopped,
    RetrySucceeded,
    TimeoutHit,
)
from hormesis.outcome import Ending, FailureKind, UnwantedResult, classify, retry_after
from hormesis.policy.call import Call, Opened
from hormesis.policy.entrance import Entrance
from hormesis.policy.gate import Gate
from hormesis.policy.scope import DeadlineScope, time_left
from hormesis.policy.telling import Teller
from hormesis.policy.threads import LeftBehind
from hormesis.units import seconds

if TYPE_CHECKING:
    import asyncio

    from hormesis.core.breaker import BreakerMachine
    from hormesis.core.rate_gate import RateGates
    from hormesis.core.retry import RetryBudget
    from hormesis.outcome import OnResult
    from hormesis.patterns.fallback import Fallback
    from hormesis.patterns.retry import Retry
    from hormesis.patterns.timeout import Deadline, Timeout
    from hormesis.policy.caching import Caching
    from hormesis.policy.doors import Doors
    from hormesis.policy.hedging import Hedging
    from hormesis.policy.injecting import Point
    from hormesis.policy.journey import Layer
    from hormesis.policy.processes import Processes
    from hormesis.policy.threads import Threads
    from hormesis.policy.watchdog import Watchdog

__all__ = ["Ground", "Stations", "unwanted"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stations:
    """What there is on the way of a call through one layer; whatever a policy does not have is None.

    Args:
        deadline, fallback, retry, timeout: Settings.
        budget: The retry budget.
        caching: The cache in front of the function, ready to ask.
        fallback_places: Bounds how many fallback functions run at a time.
        hedging: Races attempts.
        doors: The admission parts with their machines.
        workers: Where synchronous functions run, if not in their caller's thread.
        judges: What parts say of results (`on_result`).
        chaos: Where faults are injected.
        inner: The layer that is called in place of the function.
    """

    deadline: Deadline | None = None
    fallback: Fallback | None = None
    fallback_places: BulkheadMachine | None = None
    caching: Caching | None = None
    retry: Retry | None = None
    budget: RetryBudget | None = None
    hedging: Hedging | None = None
    doors: Doors
    timeout: Timeout | None = None
    workers: Threads | Processes | None = None
    judges: tuple[OnResult, ...] = ()
    chaos: Point | None = None
    inner: Layer | None = None


class Ground:
    """Parts of a policy that stand in the standard order, and what they decide about a call.

    Args:
        policy: The policy's name.
        stations: What is on the way.
        outermost: Whether its caller is the user, who gets an unwanted result as the result that it is.
        clock, random: What the world hands in.
        teller, bus: Who tells of what happens, and whom.
    """

    __slots__ = (
        "_limit",
        "_plain",
        "_watchdogs",
        "breaker",
        "budget",
        "bulkhead",
        "bus",
        "caching",
        "chaos",
        "clock",
        "deadline",
        "deposit",
        "doors",
        "entrance",
        "fallback",
        "fallback_places",
        "first_error",
        "first_limit",
        "gates",
        "hedging",
        "inner",
        "judges",
        "keyed",
        "needs_time",
        "now",
        "outermost",
        "plain",
        "policy",
        "random",
        "reserve",
        "retry",
        "teller",
        "timeout",
        "workers",
    )

    shadow = False

    def __init__(
        self,
        policy: str,
        stations: Stations,
        *,
        outermost: bool,
        clock: Clock,
        random: Random,
        teller: Teller,
        bus: EventBus,
    ) -> None:
        self.policy = policy
        self.deadline = stations.deadline
        self.fallback = stations.fallback
        self.fallback_places = stations.fallback_places
        self.reserve = _reserve(stations.deadline, stations.fallback)
        self.caching = stations.caching
        self.retry = stations.retry
        self.budget = stations.budget
        self.hedging = stations.hedging
        self.doors = stations.doors
        self.timeout = stations.timeout
        self.workers = stations.workers
        self.judges = stations.judges
        self.chaos = stations.chaos
        self.inner = stations.inner
        self.outermost = outermost
        self.clock = clock
        self.random = random
        self.teller = teller
        self.entrance = Entrance(policy, clock, self.teller)
        self.now = clock.now
        self.bus = bus
        self._limit = math.inf if self.timeout is None else seconds(self.timeout.limit)
        self._watchdogs: dict[tuple[asyncio.AbstractEventLoop, float], Watchdog] = {}
        # What the express lane looks up.
        self.plain = self._plain = self.doors.plain and not (
            self.shadow or self.inner or self.caching or self.hedging or self.workers
        )
        self.keyed = self.plain and self.doors.keyed
        self.breaker: BreakerMachine | None = None
        self.bulkhead: BulkheadMachine | None = None
        self.gates: RateGates | None = self.doors.gates
        if self.plain and not self.keyed:
            self.breaker, self.bulkhead = self.doors.pick((), {})
        self.deposit: Callable[[], object] = _nothing if self.budget is None else self.budget.deposit
        # The bounds of a first attempt, when no nearer deadline comes with the call.
        whole = math.inf if self.deadline is None else seconds(self.deadline.limit) - self.reserve
        first = min(self._limit, whole)
        self.first_limit = None if first == math.inf else first
        self.first_error = TimedOut if self._limit <= whole else DeadlineExceeded
        self.needs_time = self.first_limit is not None or self.doors.timed
        if self.chaos is not None:
            self.chaos.watch(self._chaos_turned)

    def _chaos_turned(self, on: bool) -> None:
        # The express lane knows nothing of faults, so that a place for them costs nothing while none can be injected.
        self.plain = self._plain and not on

    @property
    def zombies(self) -> int:
        """Threads that were left behind and still go on."""
        in_workers = 0 if self.workers is None else self.workers.zombies
        return in_workers + (0 if self.hedging is None else self.hedging.zombies)

    def snapshot(self) -> dict[str, Any]:
        """What each part holds, as plain data, by its key in a policy file."""
        now = self.now()
        found: dict[str, Any] = {}
        for door in self.doors.doors:
            states = {key: machine.snapshot(now) for key, machine in door.instances()}
            found[door.part.slot.key] = {"keys": states} if door.by_key else states[""]
        if self.budget is not None:
            found[Slot.RETRY.key] = {"budget": self.budget.snapshot()}
        if self.hedging is not None:
            found[Slot.HEDGE.key] = self.hedging.snapshot()
        if self.caching is not None:
            found["cache"] = self.caching.snapshot(now)
        if self.chaos is not None:
            found[Slot.CHAOS.key] = self.chaos.snapshot()
        return found

    def open_deadline(self, deadline: Deadline, call: Call) -> DeadlineScope:
        """Set the deadline that attempts see: ours or the one that travels already, less what the answer needs."""
        limit = seconds(deadline.limit)
        outer = current_deadline.get()
        if outer is not None:
            limit = min(limit, outer[0] - call.began if outer[1] is self.clock else left(outer))
        if limit <= 0 and call.failed is None:
            raise self.cut(0.0, by_deadline=True)
        reserve = max(0.0, min(self.reserve, limit / 2))
        return DeadlineScope(self.policy, self.clock, call.began + limit, limit, reserve=reserve)

    def limit_now(self) -> tuple[float, bool]:
        """The seconds that an attempt has, and whether it is the deadline that bounds them."""
        left = time_left()
        if left <= 0:
            raise self.cut(0.0, by_deadline=True)
        return (left, True) if left < self._limit else (self._limit, False)

    def cut(self, limit: float, *, by_deadline: bool) -> TimedOut:
        """Make the error of an attempt that was cut off after `limit` seconds, and tell of it."""
        part = Slot.DEADLINE if by_deadline else Slot.TIMEOUT
        self.teller.tell(TimeoutHit, part.key, limit=limit)
        error = DeadlineExceeded(self.policy, limit) if by_deadline else TimedOut(self.policy, limit)
        setattr(error, _CUT_BY, id(self))  # a name would not do: policies further in may have the same
        return error

    def judge(self, result: Any) -> None:
        """Raise a result that one of the parts calls a failure, so that it is treated as one."""
        if any(judge(result) for judge in self.judges):
            raise unwanted(result)

    def end_well(self, call: Call, permits: Sequence[Permit], started: float) -> None:
        """End the permits of an attempt that succeeded, or keep them for a call that stays open."""
        if call.opens:
            call.held = permits, started
            return
        call.gate.succeed(permits, started, self.now())
        self.teller.tell_news(call.gate)

    def end_badly(self, call: Call, permits: Sequence[Permit], error: BaseException, started: float) -> None:
        """End the permits of an attempt that failed or was cancelled, as each part sees it."""
        inner, call.inner = call.inner, None
        try:
            if inner is not None:
                inner.end(error)
        finally:
            self._end_permits(call.gate, permits, error, started)
        self._tell_failure(call, error)
        self.teller.tell_news(call.gate)

    def _end_permits(self, gate: Gate, permits: Sequence[Permit], error: BaseException, started: float) -> None:
        """End permits as each part sees it; an author's functions are asked, and whatever they raise, permits end."""
        endings = [Ending.IGNORED] * len(permits)
        again = None
        try:
            endings, again = self._endings(gate, error), retry_after(error)
        finally:
            gate.end(permits, endings, started, self.now(), again)

    def _end_left_behind(
        self, call: Call, permits: Sequence[Permit], left: LeftBehind, started: float
    ) -> BaseException:
        """End what can be ended of an attempt whose thread goes on; returns the error for the caller."""
        error = left.error or TimeoutError()
        endings = [Ending.IGNORED] * len(permits)
        try:
            if left.begun:
                endings = self._endings(call.gate, error)
        finally:
            later = call.gate.end_left_behind(permits, endings, started, self.now())
            left.when_ended(functools.partial(_all, later))
        self._tell_failure(call, error)
        self.teller.tell_news(call.gate)
        return error

    def _endings(self, gate: Gate, error: BaseException) -> list[Ending]:
        """What each part makes of an exception."""
        if (
            isinstance(error, DeadlineExceeded)
            and getattr(error, _CUT_BY, None) == id(self)
            and (self.timeout is not None or error.limit <= 0)
        ):
            return [Ending.IGNORED] * len(gate.entries)
        return [entry.part.ending(error) for entry in gate.entries]

    def _opened(self, call: Call, value: Any) -> Opened[Any]:
        """Hand out a call that stays open, with what ends it."""
        held, inner = call.held, call.inner
        call.args, call.kwargs = (), {}  # or they would live as long as the stream does

        def end(error: BaseException | None) -> None:
            try:
                if inner is not None:
                    inner.end(error)
            finally:
                if held is not None:
                    end_own(error, *held)

        def end_own(error: BaseException | None, permits: Sequence[Permit], started: float) -> None:
            if error is None:
                call.gate.succeed(permits, started, self.now())
                self.teller.tell_news(call.gate)
            else:
                self.end_badly(call, permits, error, started)

        return Opened(value, end)

    def delay_before_next(self, call: Call, error: Exception) -> float | None:
        """Return the back-off before another attempt, or None when there is to be none."""
        retry = self.retry
        if retry is None or not retry.wants(error):
            return None
        if call.delays is None:
            call.delays = retry.delays(self.random)
        delay = call.delays.next(call.attempt, retry_after(error))
        if not current_call.get().repeatable:
            reason = "not safe to repeat"
        elif call.attempt >= retry.attempts:
            reason = "no attempts left"
        elif delay >= time_left():
            reason = "no time left"
        elif self.budget is not None and not self.budget.withdraw():
            reason = "no budget left"
        else:
            self.teller.tell(RetryScheduled, Slot.RETRY.key, attempt=call.attempt, delay=delay)
            return delay
        if retry.attempts > 1:
            self._give_up(error, call.attempt, reason)
        return None

    def last_error(self, call: Call, error: Exception) -> Exception:
        """What the caller gets when no attempt follows: after a retry that was refused, what had failed before."""
        failed = call.failed
        if failed is None or not isinstance(error, Rejected) or (isinstance(failed, UnwantedResult) and failed.freed):
            return error
        self._give_up(failed, call.attempt - 1, f"the next was refused ({error.reason})")
        failed.__cause__ = error
        return failed

    def _give_up(self, error: Exception, attempt: int, reason: str) -> None:
        _note(error, f"hormesis: policy {self.policy!r} gave up after attempt {attempt}: {reason}")
        self.teller.tell(RetryStopped, Slot.RETRY.key, attempt=attempt, reason=reason)

    def _fallback_place(self, error: Exception) -> Permit | None:
        """Take a place for a fallback function; when too many run already, the failure is what the caller gets."""
        if self.fallback_places is None:
            return None
        place = self.fallback_places.acquire(self.now())
        if isinstance(place, Refusal):
            _note(error, f"hormesis: the fallback of policy {self.policy!r} is busy")
            self.teller.tell_rejection(Slot.FALLBACK.key, "", place)
            raise error from error.__cause__
        return place

    def _free_fallback_place(self, place: Permit | None) -> None:
        if self.fallback_places is not None and place is not None:
            self.fallback_places.put_back(place)

    def _answered(self, call: Call, error: Exception, answer: Any) -> Any:
        call.source = "fallback"
        note_answer(Answer(self.policy, "fallback"))
        if self.teller.listening:
            self.teller.tell(FallbackAnswered, Slot.FALLBACK.key, kind=classify(error).value)
        return answer

    def watchdog(self, limit: float, error: type[TimedOut]) -> Watchdog:
        """The watchdog of attempts with this limit on the running loop."""
        from asyncio import get_running_loop  # noqa: PLC0415  whoever is here has a loop

        loop = get_running_loop()
        return self._watchdogs.get((loop, limit)) or self._new_watchdog(loop, limit, error)

    def _new_watchdog(self, loop: asyncio.AbstractEventLoop, limit: float, error: type[TimedOut]) -> Watchdog:
        from hormesis.policy.watchdog import Watchdog  # noqa: PLC0415  it needs asyncio

        for old in [key for key in self._watchdogs if key[0].is_closed()]:
            self._watchdogs.pop(old, None)
        cut = functools.partial(self.cut, limit, by_deadline=error is DeadlineExceeded)
        return self._watchdogs.setdefault((loop, limit), Watchdog(self.clock, limit, cut, loop))

    def watch(self, call: Call) -> Any:
        """What a shadow does in the place of admission; a layer that acts has nothing to do here."""
        return None

    def watched_ended(self, call: Call, watched: Any, error: BaseException | None) -> None:
        """Let the parts of a shadow hear how a block has ended."""

    # What is told.

    def tell_success(self, call: Call) -> None:
        """Tell of an answer that a later attempt brought."""
        if call.attempt > 1:
            self.teller.tell(RetrySucceeded, Slot.RETRY.key, attempt=call.attempt)

    def _tell_failure(self, call: Call, error: BaseException) -> None:
        if self.teller.listening and isinstance(error, Exception) and not isinstance(error, Rejected):
            kind, name = classify(error).value, type(error).__name__
            self.teller.tell(AttemptFailed, "function", attempt=call.attempt, kind=kind, error=name)

    def _tell_no_answer(self, error: Exception, second: Exception) -> None:
        _note(error, f"hormesis: the fallback of policy {self.policy!r} had no answer either: {second!r}")
        if self.teller.listening:
            kind, name = classify(error).value, type(second).__name__
            self.teller.tell(FallbackFailed, Slot.FALLBACK.key, kind=kind, error=name)

    def tell_end(self, call: Call, error: BaseException | None) -> None:
        """Tell those who count every call how this one ended."""
        if self.bus.callers and self.outermost:
            ending, source = "success", call.source
            if error is not None:
                ending, source = _ending_in_words(error), ""
            took = self.now() - call.began
            self.teller.tell(CallEnded, "policy", seconds=took, attempts=call.attempt, ending=ending, source=source)


_CUT_BY = "_hormesis_cut_by"
"""The attribute of a timeout that tells which layer it is of."""

_NOTES_MAX = 8
"""An exception object that is raised again and again must not collect notes for ever."""


def _nothing() -> None:
    """Where there is no budget, a call earns nothing."""


def _reserve(deadline: Deadline | None, fallback: Fallback | None) -> float:
    if deadline is None:
        return 0.0
    if deadline.reserve is not None:
        return seconds(deadline.reserve, zero=True)
    return seconds(deadline.limit) / 10 if fallback is not None and fallback.function is not None else 0.0


def _note(error: Exception, text: str) -> None:
    notes = getattr(error, "__notes__", ())
    if len(notes) < _NOTES_MAX and text not in notes:
        error.add_note(text)


def _ending_in_words(error: BaseException) -> str:
    if not isinstance(error, Exception):
        return "cancelled"
    return "rejected" if classify(error) is FailureKind.REJECTED else "failure"


def unwanted(result: Any) -> UnwantedResult:
    """Make the failure of a result; of what kind it is only the parts that asked can say, to others all is well."""
    return UnwantedResult(result, FailureKind.INVALID)


def _all(steps: Sequence[Callable[[], None]]) -> None:
    for step in steps:
        step()
