"""Racing attempts: one that is slow gets a rival, and the first answer wins.

A race knows three ends. An attempt *answers*: it has won. One *fails*: while it is alone that is the end, raised at
once, since repeating failures is the retry's business; while rivals run they may still answer, so the failure waits for
them, and no more rivals begin. When all have failed the caller gets the first attempt's failure, with notes of the
others. And one ends in something that is no failure at all, a cancellation or an exit: that ends the race as it would
have ended the call.

A rival that is not let in (the bulkhead is full, the circuit has opened meanwhile) is no failure of the call: it just
does not run.

**Tasks.** Attempts run as tasks, in copies of the caller's context. When one wins, the losers are cancelled *before*
the caller is woken, so a loser that just waits for something has ended, and given its permits back, by the time the
caller goes on. One that takes its time, or ignores its cancellation, is not waited for; it is kept until it has ended.
When the caller is cancelled, all attempts are, and it waits until every one has ended: none is left behind.

**Threads.** Attempts run in daemon threads of a bounded pool. A thread can't be interrupted: losers go on, holding what
they hold, and are counted until they end. A call that finds no thread free is made in the caller's own thread, without
a rival: a busy pool costs the advantage and not the call.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from hormesis.clock import Clock
from hormesis.context import current_call
from hormesis.core.hedge import HedgeMachine
from hormesis.core.retry import RetryBudget
from hormesis.core.slots import Slot
from hormesis.errors import DeadlineExceeded, Rejected
from hormesis.events import HedgeEnded, HedgeStarted, LeftWorkEnded, TimeoutHit, WorkLeftBehind
from hormesis.outcome import UnwantedResult
from hormesis.patterns.hedge import Hedge
from hormesis.policy.scope import time_left
from hormesis.policy.telling import Teller

if TYPE_CHECKING:
    import asyncio

__all__ = ["Hedging"]

T = TypeVar("T")

_IDLE_SECONDS = 10.0
"""A thread that has had nothing to do for so long ends; so do those of policies that nobody has any more."""

_NOTES_MAX = 8
"""An exception that is raised again and again must not collect notes for ever."""

_late: set[asyncio.Future[Any]] = set()
"""Tasks that go on after their race: a loop refers to its tasks weakly, and would let them vanish in the middle."""


class Hedging:
    """Races the attempts of one layer of a policy.

    Args:
        policy: The policy's name.
        settings: The part.
        machine: Its machine.
        retries: The retry budget, on which hedges draw as well; None when there is none.
        clock: The policy's, which tells how long attempts take. What waits for a rival's turn is the loop's own timer,
            or the thread itself.
        teller: Publishes what happens.
    """

    __slots__ = ("_machine", "_max_hedges", "_now", "_policy", "_pool", "_retries", "_teller", "_zombies", "lock")

    def __init__(
        self,
        policy: str,
        settings: Hedge,
        machine: HedgeMachine,
        retries: RetryBudget | None,
        clock: Clock,
        teller: Teller,
    ) -> None:
        self._policy = policy
        self._machine = machine
        self._max_hedges = settings.max_hedges
        self._retries = retries
        self._now = clock.now
        self._teller = teller
        self._pool = None if settings.threads is None else _Pool(f"hormesis-{policy}-hedge", settings.threads)
        self._zombies = 0
        self.lock = threading.Lock()

    def race(self, attempt: Callable[[], T]) -> T:
        """Make an attempt in a thread, and rivals in others when it is slow; return the first answer.

        Raises:
            BaseException: What the attempt raised; when all failed, what the first did.
        """
        delay = self._begin()
        pool = self._pool
        if delay is None or pool is None or not pool.reserve():
            return self._timed(attempt)
        return _ThreadRace(self, pool, attempt, delay).run()

    async def race_async(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make an attempt in a task, and rivals in others when it is slow; return the first answer.

        Raises:
            BaseException: What the attempt raised; when all failed, what the first did.
        """
        delay = self._begin()
        if delay is None:
            return await self.timed_async(attempt)
        return await _TaskRace(self, attempt, delay).run()

    def snapshot(self) -> dict[str, float | int | None]:
        """The state as plain data: the machine's, and how many losers in threads still go on."""
        return {**self._machine.snapshot(), "zombies": self._zombies}

    def _begin(self) -> float | None:
        """Count a call, and return the delay after which it gets a rival; None when it gets none."""
        self._machine.deposit()
        delay = self._machine.delay
        return delay if delay is not None and current_call.get().repeatable and self.worth_waiting(delay) else None

    def _timed(self, attempt: Callable[[], T]) -> T:
        """Make an attempt in this thread, and record how long it takes."""
        if not self._machine.timed:
            return attempt()
        began = self._now()
        try:
            result = attempt()
        except BaseException as error:
            self._record_end(error, began)
            raise
        self._machine.succeeded(self._now() - began)
        return result

    async def timed_async(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make an attempt in this task, and record how long it takes."""
        if not self._machine.timed:
            return await attempt()
        began = self._now()
        try:
            result = await attempt()
        except BaseException as error:
            self._record_end(error, began)
            raise
        self._machine.succeeded(self._now() - began)
        return result

    def _record_end(self, error: BaseException, began: float) -> None:
        if not isinstance(error, Rejected):  # it waited for us, and says nothing of the dependency
            self._machine.ended(self._now() - began)

    # What both kinds of race ask.

    def worth_waiting(self, delay: float) -> bool:
        """Whether the call will have time left when the delay is over."""
        return time_left() > delay

    def may_follow(self, asked: int, failures: Mapping[int, Exception]) -> bool:
        """Whether there may be another rival, after so many were asked for and the attempts that failed."""
        return asked < self._max_hedges and all(
            number > 1 and isinstance(error, Rejected) for number, error in failures.items()
        )

    def rival_begins(self, number: int, delay: float) -> bool:
        """Ask the budgets for a rival, and tell of it."""
        if not self._machine.begin(self._retries):
            return False
        self._teller.tell(HedgeStarted, Slot.HEDGE.key, attempt=number, delay=delay)
        return True

    def failed(self, number: int, error: Exception) -> None:
        """Take note of an attempt that failed."""
        if number > 1 and isinstance(error, Rejected):
            self._machine.was_rejected()

    def won(self, number: int, losers: int) -> None:
        """Take note of a race with rivals that was won."""
        if number > 1:
            self._machine.was_won()
        self._teller.tell(HedgeEnded, Slot.HEDGE.key, attempt=number, losers=losers)

    def out_of_time(self, limit: float) -> DeadlineExceeded:
        """Make the error of a race that the deadline ends, and tell of it."""
        self._teller.tell(TimeoutHit, Slot.DEADLINE.key, limit=limit)
        return DeadlineExceeded(self._policy, limit)

    @property
    def zombies(self) -> int:
        """Losers in threads that still go on."""
        return self._zombies

    # Losers in threads.

    def count_zombies(self, change: int) -> int:
        """Count losers that go on, or one that has ended; the caller holds the lock."""
        self._zombies += change
        return self._zombies

    def left_behind(self, zombies: int) -> None:
        """Tell that losers go on."""
        self._teller.tell(WorkLeftBehind, Slot.HEDGE.key, zombies=zombies)

    def left_ended(self, zombies: int) -> None:
        """Tell that one of them has ended."""
        self._teller.tell(LeftWorkEnded, Slot.HEDGE.key, zombies=zombies)

    def run_in_thread(self, attempt: Callable[[], T], number: int) -> _Report[T]:
        """Make an attempt, and return what came of it, whatever it was."""
        try:
            return _Report(number, self._timed(attempt), None)
        except BaseException as error:  # it is raised in the caller's thread
            return _Report(number, None, error)


class _TaskRace(Generic[T]):
    """The race of one call on one loop."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_begun",
        "_decided",
        "_delay",
        "_failures",
        "_hedging",
        "_loop",
        "_over",
        "_running",
        "_timer",
        "_winner",
    )

    def __init__(self, hedging: Hedging, attempt: Callable[[], Awaitable[T]], delay: float) -> None:
        from asyncio import get_running_loop  # noqa: PLC0415  whoever is here has a loop

        self._hedging = hedging
        self._attempt = attempt
        self._delay = delay
        self._loop = get_running_loop()
        self._decided: asyncio.Future[None] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._running: dict[asyncio.Task[T], int] = {}
        self._failures: dict[int, Exception] = {}
        self._winner: asyncio.Task[T] | None = None
        self._over = False
        self._begun = 0
        self._asked = 0

    async def run(self) -> T:
        """Run the race to its end."""
        from asyncio import CancelledError  # noqa: PLC0415

        self._start()
        self._arm()
        try:
            await self._decided
            if self._winner is not None:
                return self._winner.result()
            raise _take_worst(self._failures)
        except CancelledError:
            self._stop()
            await self._all_ended()
            raise
        except GeneratorExit:  # the loop is gone, or going
            with contextlib.suppress(RuntimeError):
                self._stop()
            raise
        finally:
            self._drop_failures()
            self._winner = None  # or an exception of its would keep its own traceback alive, and this frame with it

    def _start(self) -> None:
        """Begin an attempt, in a copy of the context."""
        self._begun += 1
        task = self._loop.create_task(self._hedging.timed_async(self._attempt))
        self._running[task] = self._begun
        task.add_done_callback(self._ended)

    def _arm(self) -> None:
        """Wait for the next rival's turn, if there is to be one."""
        if self._hedging.may_follow(self._asked, self._failures) and self._hedging.worth_waiting(self._delay):
            self._timer = self._loop.call_later(self._delay, self._due)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        """The attempts are slow: it is a rival's turn."""
        self._timer = None
        if self._decided.done():  # its caller has been cancelled in this very moment
            return
        self._asked += 1
        if self._hedging.rival_begins(self._begun + 1, self._delay):
            self._start()
        self._arm()

    def _ended(self, task: asyncio.Task[T]) -> None:
        """An attempt has ended, in whatever way."""
        number = self._running.pop(task)
        error = None if task.cancelled() else task.exception()
        if self._over:
            self._free(error)
            return
        if not isinstance(error, Exception):
            self._decide(task, number, error)
            return
        self._hedging.failed(number, error)
        self._failures[number] = error
        if not self._hedging.may_follow(self._asked, self._failures):
            self._disarm()
        if not self._running:
            self._over = True
            self._wake()

    def _decide(self, task: asyncio.Task[T], number: int, error: BaseException | None) -> None:
        """End the race with an answer, or with what is neither answer nor failure."""
        self._winner = task
        self._stop()
        if self._begun > 1 and error is None and not task.cancelled():
            self._hedging.won(number, len(self._running))
        self._wake()

    def _wake(self) -> None:
        if not self._decided.done():  # or its caller has been cancelled, and will hear of that
            self._decided.set_result(None)

    def _stop(self) -> None:
        """Cancel whoever still runs, and keep them until they have ended."""
        self._over = True
        self._disarm()
        for task in self._running:
            _keep(task)
            task.cancel()

    async def _all_ended(self) -> None:
        """Wait until every attempt has ended, however often the caller is cancelled."""
        from asyncio import CancelledError, wait  # noqa: PLC0415

        while self._running:
            try:
                await wait(list(self._running))
            except CancelledError:
                self._stop()

    def _drop_failures(self) -> None:
        for error in self._failures.values():
            self._free(error)
        self._failures.clear()

    def _free(self, error: BaseException | None) -> None:
        """Free what an unwanted result holds that nobody gets."""
        disposed = _dispose(error)
        if inspect.isawaitable(disposed):
            _keep(self._loop.create_task(_quietly(disposed)))


class _Report(NamedTuple, Generic[T]):
    """What came of an attempt in a thread."""

    number: int
    result: T | None
    error: BaseException | None


class _ThreadRace(Generic[T]):
    """The race of one call in threads; the first one's is reserved already."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_begun",
        "_delay",
        "_failures",
        "_hedging",
        "_over",
        "_pool",
        "_reports",
        "_running",
    )

    def __init__(self, hedging: Hedging, pool: _Pool, attempt: Callable[[], T], delay: float) -> None:
        self._hedging = hedging
        self._pool = pool
        self._attempt = attempt
        self._delay = delay
        self._reports: queue.SimpleQueue[_Report[T]] = queue.SimpleQueue()
        self._failures: dict[int, Exception] = {}
        self._over = False
        self._running = 0
        self._begun = 0
        self._asked = 0

    def run(self) -> T:
        """Run the race to its end."""
        try:
            self._start()
            due = time.monotonic() + self._delay
            while self._running:
                report = self._wait(due)
                if report is None:
                    self._due()
                    due = time.monotonic() + self._delay
                    continue
                self._running -= 1
                number, result, error = report
                del report
                try:
                    if error is None:
                        if self._begun > 1:
                            self._hedging.won(number, self._running)
                        return result  # type: ignore[return-value]  # it is only None where the attempt returned that
                    if not isinstance(error, Exception):
                        raise error
                    self._hedging.failed(number, error)
                    self._failures[number] = error
                finally:
                    error = None  # or it would keep its own traceback alive, and this frame with it
            raise _take_worst(self._failures)
        finally:
            self._finish()

    def _start(self) -> None:
        """Begin an attempt in the thread that is reserved, in a copy of the context."""
        self._begun += 1
        self._running += 1
        context = contextvars.copy_context()
        number = self._begun
        self._pool.run(
            lambda: context.run(self._hedging.run_in_thread, self._attempt, number),
            lambda report: context.run(self._report, report),
        )

    def _wait(self, due: float) -> _Report[T] | None:
        """Wait for the next attempt to end; None when it is a rival's turn before."""
        left = max(0.0, due - time.monotonic())
        hedging = self._hedging
        if hedging.may_follow(self._asked, self._failures) and hedging.worth_waiting(left):
            try:
                return self._reports.get(timeout=left)
            except queue.Empty:
                return None
        ends = time_left()
        try:
            return self._reports.get(timeout=None if ends == math.inf else max(0.0, ends))
        except queue.Empty:
            # The attempts go on without their caller, as all that are left behind in threads.
            raise hedging.out_of_time(ends) from None

    def _due(self) -> None:
        """The attempts are slow: it is a rival's turn."""
        self._asked += 1
        if not self._pool.reserve():
            return
        if self._hedging.rival_begins(self._begun + 1, self._delay):
            self._start()
        else:
            self._pool.release()

    def _report(self, report: _Report[T]) -> None:
        """An attempt has ended; called in its thread."""
        with self._hedging.lock:
            if not self._over:
                self._reports.put(report)
                return
            zombies = self._hedging.count_zombies(-1)
        _dispose(report.error)
        self._hedging.left_ended(zombies)

    def _finish(self) -> None:
        """Close the race: what has been reported to nobody is dropped, and who still runs is left behind."""
        late: list[_Report[T]] = []
        with self._hedging.lock:
            self._over = True
            while not self._reports.empty():
                late.append(self._reports.get())
            left = self._running - len(late)
            zombies = self._hedging.count_zombies(left)
        for error in (*self._failures.values(), *(report.error for report in late)):
            _dispose(error)
        self._failures.clear()
        if left:
            self._hedging.left_behind(zombies)


class _Pool:
    """A bounded pool of daemon threads, started as they are needed; a loser must not keep the process from exiting.

    A thread is reserved first and given its work then, so that nothing is ever queued for a thread that is not there.

    Args:
        name: For the threads' names.
        most: Threads at the same time.
    """

    __slots__ = ("_busy", "_idle", "_lock", "_most", "_name", "_queue", "_started")

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = queue.SimpleQueue()
        self._busy = 0
        self._idle = 0
        self._started = 0

    def reserve(self) -> bool:
        """Reserve a thread, if one is free or can be started."""
        with self._lock:
            if self._busy >= self._most:
                return False
            self._busy += 1
            if self._idle:
                self._idle -= 1
                return True
            self._started += 1
            name = f"{self._name}-{self._started}"
        try:
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        except RuntimeError:  # the system has no more threads, or the interpreter is about to end
            with self._lock:
                self._busy -= 1
            return False
        return True

    def release(self) -> None:
        """Give back a thread that got no work."""
        with self._lock:
            self._busy -= 1
            self._idle += 1

    def run(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Have a reserved thread do some work, and hand what it returns to `then` once the thread is free again."""
        self._queue.put((work, then))

    def _serve(self) -> None:
        while True:
            try:
                work, then = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle == 0:
                        continue  # this thread has just been counted on
                    self._idle -= 1
                    return
            outcome = work()
            self.release()
            then(outcome)
            del work, then, outcome  # or an idle thread would hold on to what the last call was about


def _take_worst(failures: dict[int, Exception]) -> Exception:
    """Take out of the failures what the caller gets, with notes of the others: the first's, unless it was refused."""
    # What the dependency said is worth more than that we did not ask it.
    error = failures.pop(min(failures, key=lambda number: (isinstance(failures[number], Rejected), number)))
    for number, other in sorted(failures.items()):
        notes = getattr(error, "__notes__", ())
        if other is not error and not isinstance(other, Rejected) and len(notes) < _NOTES_MAX:
            error.add_note(f"hormesis: attempt {number} of the race failed as well: {other!r}")
    return error


def _dispose(error: BaseException | None) -> object:
    """Free what an unwanted result holds; it may return something to await."""
    if isinstance(error, UnwantedResult):
        with contextlib.suppress(Exception):  # the caller has its answer, and no use for this
            return error.free()
    return None


async def _quietly(disposed: Awaitable[object]) -> None:
    with contextlib.suppress(Exception):
        await disposed


def _keep(task: asyncio.Future[Any]) -> None:
    """Keep a task until it has ended."""
    _late.add(task)
    task.add_done_callback(_late.discard)
