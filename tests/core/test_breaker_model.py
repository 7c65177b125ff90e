"""The circuit breaker against a naive model, which keeps lists of outcomes and judges them anew each time."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from hormesis.core.admission import NullLock, Permit, Refusal
from hormesis.core.breaker import BreakerMachine, BreakerState, BreakerTerms
from hormesis.outcome import Ending

WINDOW_SECONDS = 10
SLOW_AFTER = 2
OPEN_FOR = 8
OPEN_FOR_MAX = 40
RETRY_AFTER_MAX = 30
PROBE_EXPIRES = 16
RECOVER_OVER = 20
RATES = st.sampled_from([Fraction(1, 10), Fraction(7, 100), Fraction(1, 3), Fraction(1, 2), Fraction(1)])

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN
RECOVERING, ISOLATED, DISABLED = BreakerState.RECOVERING, BreakerState.ISOLATED, BreakerState.DISABLED


class Dice:
    """A source of randomness whose numbers are exact in binary."""

    def random(self) -> float:
        return 0.5


@dataclasses.dataclass(eq=False)
class Call:
    """One admitted call: what the machine knows it by, and what the model does."""

    permit: Permit
    started: int
    era: int
    state: BreakerState
    ended: bool = False


class BreakerModel(RuleBasedStateMachine):
    """Time goes in whole seconds, so that the windows' tenths are exact."""

    calls = Bundle("calls")

    @initialize(
        count_window=st.one_of(st.none(), st.integers(1, 12)),
        minimum=st.integers(1, 8),
        failure_rate=RATES,
        consecutive=st.one_of(st.none(), st.integers(1, 4)),
        quiet=st.one_of(st.none(), st.integers(1, 4)),
        slow_rate=RATES,
        probes=st.integers(1, 4),
        graded=st.booleans(),
        by_hand=st.booleans(),
    )
    def begin(
        self,
        *,
        count_window: int | None,
        minimum: int,
        failure_rate: Fraction,
        consecutive: int | None,
        quiet: int | None,
        slow_rate: Fraction,
        probes: int,
        graded: bool,
        by_hand: bool,
    ) -> None:
        self.by_hand = by_hand
        self.count_window, self.minimum, self.probes, self.graded = count_window, minimum, probes, graded
        self.consecutive, self.quiet = consecutive, quiet
        self.failure_rate, self.slow_rate = failure_rate, slow_rate
        terms = BreakerTerms(
            window_calls=count_window,
            window_seconds=None if count_window is not None else float(WINDOW_SECONDS),
            failure_rate=float(failure_rate),
            consecutive=consecutive,
            quiet=quiet,
            slow_after=float(SLOW_AFTER),
            slow_rate=float(slow_rate),
            minimum_calls=minimum,
            open_for=float(OPEN_FOR),
            open_for_max=float(OPEN_FOR_MAX),
            retry_after_max=float(RETRY_AFTER_MAX),
            probes=probes,
            probe_expires=float(PROBE_EXPIRES),
            recover_over=float(RECOVER_OVER) if graded else None,
        )
        self.machine = BreakerMachine(terms, NullLock(), Dice())
        self.now = 0
        self.era = -1
        self.forget()
        self.enter(CLOSED)

    def forget(self) -> None:
        self.row: list[Fraction] = []  # how long it was open each time, in the present row of openings
        self.wishes: list[int] = []  # until when the dependency wanted to be left alone

    def enter(self, state: BreakerState) -> None:
        self.state = state
        self.era += 1
        self.ended: list[tuple[int, bool, bool]] = []  # when, failed, slow: of this era
        self.out: list[Call] = []  # probes that have not ended
        self.entered = self.now
        self.progressing_since = Fraction(self.now)
        self.credit = Fraction(9, 10)

    def open(self) -> None:
        self.row = self.present_row()
        lasts = Fraction(OPEN_FOR)
        if self.row:
            grown = min(OPEN_FOR_MAX, OPEN_FOR * 2 ** len(self.row))
            lasts = max(lasts, Fraction(grown, 2) + Fraction(grown, 2) * Fraction(1, 2))
        lasts = max([lasts, *(Fraction(wish - self.now) for wish in self.wishes)])
        self.row.append(lasts)
        self.open_until = self.now + lasts
        self.enter(OPEN)

    def present_row(self) -> list[Fraction]:
        over = self.state is CLOSED and self.row and self.now - self.entered > self.row[-1]
        return [] if over else self.row

    def share(self) -> Fraction:
        progress = min(Fraction(1), (self.now - self.progressing_since) / RECOVER_OVER)
        return Fraction(1, 10) + Fraction(9, 10) * progress

    def in_window(self) -> list[tuple[int, bool, bool]]:
        if self.count_window is not None:
            return self.ended[-self.count_window :]
        return [call for call in self.ended if call[0] > self.now - WINDOW_SECONDS]

    @rule(step=st.integers(1, 20))
    def wait(self, step: int) -> None:
        self.now += step

    @rule(target=calls, several=st.integers(1, 12))
    def ask(self, several: int) -> object:
        return multiple(*filter(None, [self.ask_once() for _ in range(several)]))

    def ask_once(self) -> Call | None:
        self.out = [call for call in self.out if self.now < call.started + PROBE_EXPIRES]
        would_refuse = self.machine.refusal(self.now)
        answer = self.machine.acquire(self.now)
        assert isinstance(answer, Refusal) == (would_refuse is not None)
        expected = self.refusal()
        if expected is not None:
            assert answer == expected == would_refuse
            return None
        assert isinstance(answer, Permit)
        call = Call(answer, self.now, self.era, self.state)
        if self.state is HALF_OPEN:
            self.out.append(call)
        return call

    def refusal(self) -> Refusal | None:
        """What whoever asks now is told, after the changes that asking makes."""
        if self.state is OPEN and self.now >= self.open_until:
            self.enter(HALF_OPEN)
        if self.state is OPEN:
            return Refusal("open", float(self.open_until - self.now))
        if self.state is HALF_OPEN and len(self.out) + len(self.ended) >= self.probes:
            return Refusal("half-open")
        if self.state is ISOLATED:
            return Refusal("isolated")
        if self.state is RECOVERING:
            if self.share() == 1:
                self.enter(CLOSED)
                return None
            self.credit += self.share()
            if self.credit < 1:
                return Refusal("recovering")
            self.credit -= 1
        return None

    @rule(ending=st.sampled_from([Ending.SUCCESS, Ending.FAILURE]), several=st.integers(1, 12))
    def call(self, ending: Ending, several: int) -> None:
        """Let some calls in that end at once, all in the same way."""
        for _ in range(several):
            call = self.ask_once()
            if call is not None:
                self.end(call, ending, None)

    @precondition(lambda self: self.state is OPEN)
    @rule()
    def wait_until_it_is_over(self) -> None:
        self.now = max(self.now, math.ceil(self.open_until))

    @rule(call=calls, ending=st.sampled_from(Ending), wish=st.one_of(st.none(), st.integers(1, 100)))
    def end_one(self, call: Call, ending: Ending, wish: int | None) -> None:
        self.end(call, ending, wish)

    def end(self, call: Call, ending: Ending, wish: int | None) -> None:
        """End a call, perhaps a second time: only permits that are one for all may."""
        if ending is Ending.SUCCESS:
            self.machine.succeed(call.permit, call.started, self.now)
        else:
            self.machine.end(call.permit, ending, call.started, self.now, wish)
        if self.is_over(call):
            return
        self.take_back(call)
        if ending not in (Ending.SUCCESS, Ending.FAILURE):
            return
        failed, slow = ending is Ending.FAILURE, self.now - call.started >= SLOW_AFTER
        if failed and wish is not None:
            self.wishes.append(self.now + min(wish, RETRY_AFTER_MAX))
        self.ended.append((self.now, failed, slow))
        if self.state is HALF_OPEN:
            self.judge_probes()
        elif self.state is not DISABLED:
            self.judge_window(failed=failed, slow=slow)

    def is_over(self, call: Call) -> bool:
        return call.era != self.era or call.ended or (call.state is HALF_OPEN and call not in self.out)

    def take_back(self, call: Call) -> None:
        call.ended = call.state in (HALF_OPEN, RECOVERING)
        if call in self.out:
            self.out.remove(call)

    @rule(call=calls)
    def put_back(self, call: Call) -> None:
        self.machine.put_back(call.permit)
        if not self.is_over(call):
            self.take_back(call)
            if self.state is RECOVERING:
                self.credit = min(Fraction(1), self.credit + 1)

    @precondition(lambda self: self.by_hand)
    @rule(state=st.sampled_from([ISOLATED, DISABLED, CLOSED]))
    def switch(self, state: BreakerState) -> None:
        {ISOLATED: self.machine.isolate, DISABLED: self.machine.disable, CLOSED: self.machine.close}[state](self.now)
        if state is CLOSED or state is not self.state:
            self.forget()
            self.enter(state)

    def judge_window(self, *, failed: bool, slow: bool) -> None:
        held = self.in_window()
        failures, slow_ones = sum(call[1] for call in held), sum(call[2] for call in held)

        def reaches(part: Fraction) -> bool:
            return (failed and Fraction(failures, len(held)) >= self.failure_rate * part) or (
                slow and Fraction(slow_ones, len(held)) >= self.slow_rate * part
            )

        row = len(list(itertools.takewhile(lambda call: call[1], reversed(self.ended))))
        rows = [self.consecutive] + ([self.quiet] if len(held) < self.minimum else [])
        in_a_row = failed and any(most is not None and row >= most for most in rows)
        minimum = min(5, self.minimum) if self.state is RECOVERING else self.minimum
        if in_a_row or (len(held) >= minimum and reaches(Fraction(1))):
            self.open()
        elif self.state is RECOVERING and ((len(held) < self.minimum and (failed or slow)) or reaches(Fraction(1, 2))):
            progress = min(Fraction(RECOVER_OVER), self.now - self.progressing_since)
            self.progressing_since = self.now - progress / 2

    def judge_probes(self) -> None:
        """Open when the rate is reached however the others end, close when it can't be reached any more."""
        failures, slow = sum(call[1] for call in self.ended), sum(call[2] for call in self.ended)
        to_come = self.probes - len(self.ended)
        if Fraction(failures, self.probes) >= self.failure_rate or Fraction(slow, self.probes) >= self.slow_rate:
            self.open()
        elif (
            Fraction(failures + to_come, self.probes) < self.failure_rate
            and Fraction(slow + to_come, self.probes) < self.slow_rate
        ):
            self.enter(RECOVERING if self.graded else CLOSED)

    @invariant()
    def agrees(self) -> None:
        """State, era, tally and all that a snapshot tells are the model's."""
        if not hasattr(self, "machine"):
            return
        assert (self.machine.passing is not None) == (self.state in (CLOSED, DISABLED))
        found = self.machine.snapshot(self.now)
        share = found.pop("share")
        counting = self.state in (CLOSED, DISABLED, RECOVERING)
        held = self.in_window() if counting else []
        assert found == {
            "state": self.state,
            "era": self.era,
            "calls": len(held),
            "failures": sum(call[1] for call in held),
            "slow": sum(call[2] for call in held),
            "retry_after": max(0.0, float(self.open_until - self.now)) if self.state is OPEN else None,
            "openings_in_a_row": len(self.present_row()),
        }
        if self.state is RECOVERING:
            assert abs(share - self.share()) < 1e-9
        else:
            assert share is None


TestBreakerModel = BreakerModel.TestCase
TestBreakerModel.__doc__ = "Whatever calls come, end, expire and go stale, the breaker does what the naive model does."
