"""The vocabulary of an exploration: injections, trials, and what was seen.

Exploring, shrinking and looking for a fix are conversations with a system that answers slowly and not always alike.
Each is a generator here that yields a `Trial` and is sent what was `Seen`, so none of them knows whether a real system,
a recording or a simulated world answers.

    steps = shrink(trial, ...)
    seen = ask(next(steps))         # and so on: `answered` does it, `metered` counts what it costs
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from hormesis.chaos import Fault, describe
from hormesis.chaos.faults import Inject
from hormesis.gameday.dose import Dose, Place, kind_of, place_of
from hormesis.gameday.results import Verdict

__all__ = [
    "Budget",
    "Injection",
    "Seen",
    "Steps",
    "Trial",
    "answered",
    "failed",
    "held",
    "held_without_fault",
    "metered",
    "repeatedly",
]

T = TypeVar("T")

_UNCLEAR_MAX = 2
"""How many answers that can't be told are asked for again before the question is given up."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault at one place.

    Inside of a process the place is the policy at which its calls meet with it: two of them are two places.

    Args:
        where: What kind of place.
        name: Which edge or process; empty for the host and the load.
        fault: What goes wrong there.

    >>> from hormesis.chaos import Latency
    >>> str(Injection("edge", "payments", Latency("2s")))
    'edge payments: latency 2s'
    """

    where: Place
    name: str
    fault: Fault

    @classmethod
    def of(cls, dose: Dose) -> Injection:
        """Return the dose of an experiment as an injection."""
        return cls(place_of(dose.what), dose.edge or dose.process or "", dose.what)

    @property
    def target(self) -> str:
        """Where it acts, in the words of the report."""
        place = f"{self.where} {self.name}" if self.name else self.where
        return f"{place} at {self.fault.at}" if isinstance(self.fault, Inject) else place

    @property
    def kind(self) -> str:
        """What kind of fault it is: the key that names it in a file; of what is injected, with what that is."""
        kind = kind_of(self.fault)
        return f"{kind}_{self.fault.injection.kind}" if isinstance(self.fault, Inject) else kind

    @property
    def signature(self) -> tuple[str, str]:
        """Where and what kind, however strong."""
        return self.target, self.kind

    def dose(self) -> Dose:
        """Return it as the dose of an experiment."""
        return Dose(
            fault=_table(self.fault),
            edge=self.name if self.where == "edge" else None,
            process=self.name if self.where == "process" else None,
            host=self.where == "host",
        )

    def __str__(self) -> str:
        return f"{self.target}: {describe(self.fault)}"


def _table(fault: Fault) -> dict[str, object]:
    """Return a fault as the table of a file: what names it, and what is not as usual."""
    key = kind_of(fault)
    table: dict[str, object] = {key: fault.injection.as_table() if isinstance(fault, Inject) else getattr(fault, key)}
    for each in dataclasses.fields(fault):
        value = getattr(fault, each.name)
        usual = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        if each.init and each.name != key and value != usual:
            table[each.name] = value
    return table


@dataclass(frozen=True, slots=True)
class Trial:
    """One question to the system: some injections at the same time, for a while; none is a control.

    Args:
        injections: What is dosed; their order means nothing.
        change: The name of a change to the policies under which the system is asked; empty for none.
        dose: How long the dose lasts, in seconds; None for as long as all trials' do.
    """

    injections: tuple[Injection, ...] = ()
    change: str = ""
    dose: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "injections", tuple(sorted(self.injections, key=str)))

    def without_faults(self) -> Trial:
        """Return its control: the same change, nothing dosed."""
        return Trial((), self.change)

    def __str__(self) -> str:
        what = " + ".join(map(str, self.injections)) or "no fault"
        return f"{what}, with {self.change}" if self.change else what


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a trial showed.

    Attributes:
        verdict: Whether the objectives held.
        seconds: What it took, starting anew included.
        traffic: Bytes a second that each edge carried to its dependency during the dose.
        answers: Bytes a second that came back.
        goodput: Share of the requests due during the dose that were answered in full, in time.
        p99: Their latency in seconds.
        attempts: Requests on the wire for each that was due.
        hurt: The routes of which fewer were answered in full than without a fault.
        acted: The policies of which a part acted.
        reasons: Why this verdict, most important first.
    """

    verdict: Verdict
    seconds: float
    traffic: Mapping[str, float] = field(default_factory=dict)
    answers: Mapping[str, float] = field(default_factory=dict)
    goodput: float = 1.0
    p99: float = 0.0
    attempts: float = 1.0
    hurt: frozenset[str] = frozenset()
    acted: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


Steps: TypeAlias = Generator[Trial, Seen, T]
"""A conversation: trials out, what was seen in, and a conclusion at the end."""


def failed(seen: Seen) -> bool:
    """Whether an objective was missed."""
    return seen.verdict is Verdict.FAILED


def held(seen: Seen) -> bool:
    """Whether the objectives held."""
    return seen.verdict.held


def repeatedly(trial: Trial, wanted: Callable[[Seen], bool], times: int) -> Steps[list[Seen] | None]:
    """Ask the same until it has come out as wanted so many times; once otherwise is a no.

    Returns:
        What was seen, or None: it came out otherwise, or could not be told for too often.
    """
    found: list[Seen] = []
    unclear = 0
    while len(found) < times:
        seen = yield trial
        if wanted(seen):
            found.append(seen)
        elif seen.verdict is Verdict.INCONCLUSIVE and unclear < _UNCLEAR_MAX:
            unclear += 1
        else:
            return None
    return found


def held_without_fault(tries: int) -> Steps[Seen | None]:
    """Ask for a control until one holds.

    Returns:
        What was seen, or None: none of so many held.
    """
    for _ in range(tries):
        seen = yield Trial()
        if held(seen):
            return seen
    return None


class Budget:
    """The time that trials may take, and what they took.

    Args:
        seconds: All of it.
        trial: What one trial is thought to take, until some have been seen.
    """

    def __init__(self, seconds: float, trial: float) -> None:
        self.seconds = seconds
        self.spent = 0.0
        self.trials = 0
        self._expected = trial

    @property
    def trial(self) -> float:
        """What one trial takes, by those that were seen."""
        return self.spent / self.trials if self.trials else self._expected

    def take(self, seconds: float) -> None:
        """Count a trial."""
        self.spent += seconds
        self.trials += 1

    def has_room(self, trials: float = 1) -> bool:
        """Whether so many more trials fit in."""
        return self.spent + trials * self.trial <= self.seconds


def metered(steps: Steps[T], budget: Budget) -> Steps[T]:
    """Pass a conversation on, and count what its trials take."""
    try:
        trial = next(steps)
        while True:
            seen = yield trial
            budget.take(seen.seconds)
            trial = steps.send(seen)
    except StopIteration as stop:
        conclusion: T = stop.value
        return conclusion
    finally:
        steps.close()


def answered(steps: Steps[T], answer: Callable[[Trial], Seen]) -> T:
    """Hold a conversation with a function that answers, and return what it came to."""
    try:
        trial = next(steps)
        while True:
            trial = steps.send(answer(trial))
    except StopIteration as stop:
        conclusion: T = stop.value
        return conclusion
