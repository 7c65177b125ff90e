"""The circuit breaker against a naive model, which keeps lists of outcomes and judges them anew each time."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from hormesis.core.admission import NullLock, Permit, Refusal
from hormesis.core.breaker import BreakerMachine, BreakerState
from hormesis.core.window import CountWindow, TimeWindow
from hormesis.outcome import Ending

WINDOW_SECONDS = 10
SLOW_AFTER = 2
OPEN_FOR = 8
PROBE_EXPIRES = 16
RATES = st.sampled_from([Fraction(1, 10), Fraction(7, 100), Fraction(1, 3), Fraction(1, 2), Fraction(1)])


@dataclasses.dataclass(eq=False)
class Call:
    """One admitted call: what the machine knows it by, and what the model does."""

    permit: Permit
    started: int
    era: int
    is_probe: bool


class BreakerModel(RuleBasedStateMachine):
    """Time goes in whole seconds, so that the windows' tenths are exact."""

    calls = Bundle("calls")

    @initialize(
        count_window=st.one_of(st.none(), st.integers(1, 12)),
        minimum=st.integers(1, 5),
        failure_rate=RATES,
        consecutive=st.one_of(st.none(), st.integers(1, 4)),
        slow_rate=RATES,
        probes=st.integers(1, 4),
    )
    def begin(
        self,
        *,
        count_window: int | None,
        minimum: int,
        failure_rate: Fraction,
        consecutive: int | None,
        slow_rate: Fraction,
        probes: int,
    ) -> None:
        self.count_window, self.minimum, self.probes = count_window, minimum, probes
        self.consecutive = consecutive
        self.failure_rate, self.slow_rate = failure_rate, slow_rate
        self.machine = BreakerMachine(
            window=TimeWindow(float(WINDOW_SECONDS)) if count_window is None else CountWindow(count_window),
            failure_rate=float(failure_rate),
            consecutive=consecutive,
            slow_after=float(SLOW_AFTER),
            slow_rate=float(slow_rate),
            minimum_calls=minimum,
            open_for=float(OPEN_FOR),
            probes=probes,
            probe_expires=float(PROBE_EXPIRES),
            lock=NullLock(),
        )
        self.now = 0
        self.enter(BreakerState.CLOSED)
        self.era = 0
        self.open_until = 0

    def enter(self, state: BreakerState) -> None:
        self.state = state
        self.era = getattr(self, "era", 0) + 1
        self.ended: list[tuple[int, bool, bool]] = []  # when, failed, slow: of this era
        self.out: list[Call] = []  # probes that have not ended
        if state is BreakerState.OPEN:
            self.open_until = self.now + OPEN_FOR

    def in_window(self) -> list[tuple[int, bool, bool]]:
        if self.count_window is not None:
            return self.ended[-self.count_window :]
        return [call for call in self.ended if call[0] > self.now - WINDOW_SECONDS]

    @rule(step=st.integers(1, 20))
    def wait(self, step: int) -> None:
        self.now += step

    @rule(target=calls, several=st.integers(1, 6))
    def ask(self, several: int) -> object:
        return multiple(*filter(None, [self.ask_once() for _ in range(several)]))

    def ask_once(self) -> Call | None:
        self.out = [call for call in self.out if self.now < call.started + PROBE_EXPIRES]
        would_refuse = self.machine.refusal(self.now)
        answer = self.machine.acquire(self.now)
        assert isinstance(answer, Refusal) == (would_refuse is not None)
        if self.state is BreakerState.OPEN and self.now >= self.open_until:
            self.enter(BreakerState.HALF_OPEN)
        if self.state is BreakerState.OPEN:
            assert answer == Refusal("open", self.open_until - self.now)
            return None
        half_open = self.state is BreakerState.HALF_OPEN
        if half_open and len(self.out) + len(self.ended) >= self.probes:
            assert answer == Refusal("half-open")
            return None
        assert isinstance(answer, Permit)
        call = Call(answer, self.now, self.era, half_open)
        if half_open:
            self.out.append(call)
        return call

    @rule(call=calls, ending=st.sampled_from(Ending))
    def end(self, call: Call, ending: Ending) -> None:
        """End a call, perhaps a second time: only permits of the closed state may, being one for all."""
        if ending is Ending.SUCCESS:
            self.machine.succeed(call.permit, call.started, self.now)
        else:
            self.machine.end(call.permit, ending, call.started, self.now)
        if call.era != self.era or (call.is_probe and call not in self.out):
            return
        if call.is_probe:
            self.out.remove(call)
        if ending in (Ending.SUCCESS, Ending.FAILURE):
            failed, slow = ending is Ending.FAILURE, self.now - call.started >= SLOW_AFTER
            self.ended.append((self.now, failed, slow))
            if call.is_probe:
                self.judge_probes()
            else:
                self.judge_window(failed=failed, slow=slow)

    @rule(call=calls)
    def put_back(self, call: Call) -> None:
        self.machine.put_back(call.permit)
        if call in self.out:
            self.out.remove(call)

    def judge_window(self, *, failed: bool, slow: bool) -> None:
        held = self.in_window()
        failures, slow_ones = sum(call[1] for call in held), sum(call[2] for call in held)
        reached = (failed and Fraction(failures, len(held)) >= self.failure_rate) or (
            slow and Fraction(slow_ones, len(held)) >= self.slow_rate
        )
        row = len(list(itertools.takewhile(lambda call: call[1], reversed(self.ended))))
        too_many_in_a_row = failed and self.consecutive is not None and row >= self.consecutive
        if too_many_in_a_row or (len(held) >= self.minimum and reached):
            self.enter(BreakerState.OPEN)

    def judge_probes(self) -> None:
        """Open when the rate is reached however the others end, close when it can't be reached any more."""
        failures, slow = sum(call[1] for call in self.ended), sum(call[2] for call in self.ended)
        to_come = self.probes - len(self.ended)
        if Fraction(failures, self.probes) >= self.failure_rate or Fraction(slow, self.probes) >= self.slow_rate:
            self.enter(BreakerState.OPEN)
        elif (
            Fraction(failures + to_come, self.probes) < self.failure_rate
            and Fraction(slow + to_come, self.probes) < self.slow_rate
        ):
            self.enter(BreakerState.CLOSED)

    @invariant()
    def agrees(self) -> None:
        """State, era and tally are the model's."""
        if not hasattr(self, "machine"):
            return
        assert self.machine.state is self.state
        assert self.machine.era == self.era
        if self.state is BreakerState.CLOSED:
            held = self.in_window()
            tally = (len(held), sum(call[1] for call in held), sum(call[2] for call in held))
            assert self.machine.tally(self.now) == tally


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.__doc__ = "Whatever calls come, end, expire and go stale, the breaker does what the naive model does."
