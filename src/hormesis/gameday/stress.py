"""A stress of an experiment: which faults are dosed, and where.

Most stresses dose one fault, and say it in short:

    [[stress]]
    name = "payments slow"
    edge = "payments"
    fault = { latency = "2s" }

One that doses several at the same time lists them:

    [[stress]]
    name = "payments slow, inventory gone"
    doses = [
        { edge = "payments", fault = { latency = "2s" } },
        { process = "inventory", fault = { kill = true } },
    ]

Either way `Stress.doses` has them all.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from hormesis.chaos import Fault, Kill, LoadFault, ProcessFault, Refuse, Spike, WireFault, describe, fault_from
from hormesis.errors import ConfigurationError
from hormesis.gameday.load import LoadChanges
from hormesis.gameday.objectives import Objective
from hormesis.gameday.topology import NAME
from hormesis.tables import Settings
from hormesis.units import Duration, seconds

__all__ = ["Dose", "Place", "Stress", "place_of"]

Place: TypeAlias = Literal["edge", "process", "host", "load"]
"""The kinds of place at which a fault can act."""

_TAKES: Mapping[Place, str] = {
    "edge": 'edge = "…"',
    "process": 'process = "…"',
    "host": "host = true",
    "load": "neither edge nor process (it is a fault of the load)",
}
_DOSES_MAX = 16


def place_of(fault: Fault) -> Place:
    """Return the kind of place at which a fault acts."""
    kinds: dict[Place, Any] = {"edge": WireFault, "process": ProcessFault, "load": LoadFault}
    for place, kind in kinds.items():
        if isinstance(fault, get_args(kind) or kind):
            return place
    return "host"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dose(Settings):
    """One fault at one place.

    Attributes:
        fault: What is dosed, such as `{ latency = "2s" }`.
        edge, process: Where it acts; neither for a fault of the load.
        host: True for a fault of the machine that the game day runs on.
    """

    fault: Mapping[str, Any]
    edge: str | None = None
    process: str | None = None
    host: bool = False

    def __post_init__(self) -> None:
        try:
            place = place_of(self.what)
        except ConfigurationError as error:
            raise ConfigurationError(error.message, "fault") from None
        named = {"edge": self.edge is not None, "process": self.process is not None, "host": self.host}
        if [name for name, given in named.items() if given] != ([] if place == "load" else [place]):
            raise ConfigurationError(f"its fault {dict(self.fault)!r} takes {_TAKES[place]}", "fault")

    @property
    def what(self) -> Fault:
        """The fault, as a value."""
        return fault_from(self.fault)

    @property
    def target(self) -> str:
        """Where it is dosed, in words: `"edge payments"`, `"process inventory"`, `"host"`, `"load"`."""
        if self.edge is not None:
            return f"edge {self.edge}"
        if self.process is not None:
            return f"process {self.process}"
        return "host" if self.host else "load"

    def clashes_with(self, other: Dose) -> bool:
        """Whether the two can't act at the same time: the same fault twice, or one where the other leaves nothing."""
        mine, others = self.what, other.what
        if self.target != other.target:
            return False
        if isinstance(mine, Spike) and isinstance(others, Spike):
            return (mine.request, mine.client) == (others.request, others.client)
        if self.edge is not None:  # which may have, say, a latency for each direction
            return mine == others or isinstance(mine, Refuse) or isinstance(others, Refuse)
        return type(mine) is type(others) or isinstance(mine, Kill) or isinstance(others, Kill)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stress(Settings):
    """`[[stress]]`: one fault dosed at one place, or several at the same time.

    Attributes:
        name: What tables call it.
        about: Why, for readers of the report.
        edge, process, host, fault: The dose of a stress that has one, in short.
        doses: All doses; they come into force together.
        objective: Changes to the objectives under this stress.
        load: Changes to the load under this stress, from its calm on.
        calm, dose, recovery, detection, recover_within: Its own durations, in place of the run's; `dose` is how long
            all of its doses last.
    """

    name: str
    about: str = ""
    edge: str | None = None
    process: str | None = None
    host: bool = False
    fault: Mapping[str, Any] | None = None
    doses: Sequence[Dose] = ()
    objective: Mapping[str, Objective] = dataclasses.field(default_factory=dict)
    load: LoadChanges | None = None
    calm: Duration | None = None
    dose: Duration | None = None
    recovery: Duration | None = None
    detection: Duration | None = None
    recover_within: Duration | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigurationError.bad_value("name", self.name, "a short name of letters, digits, spaces, '_.-'")
        for name in ("calm", "dose", "recovery"):
            if getattr(self, name) is not None:
                seconds(getattr(self, name), name)
        for name in ("detection", "recover_within"):
            if getattr(self, name) is not None:
                seconds(getattr(self, name), name, zero=True)
        object.__setattr__(self, "doses", self._all_doses())
        for one, other in itertools.combinations(self.doses, 2):
            if one.clashes_with(other):
                both = f"{describe(one.what)} and {describe(other.what)} on {one.target}"
                raise ConfigurationError(f"stress {self.name!r}: {both} can't act at the same time", "doses")

    def _all_doses(self) -> tuple[Dose, ...]:
        in_short = self._dose_in_short()
        doses = tuple(self.doses) or in_short
        if in_short and doses != in_short:
            raise ConfigurationError(f"stress {self.name!r} takes fault or doses, not both", "doses")
        if not 0 < len(doses) <= _DOSES_MAX:
            raise ConfigurationError(f"stress {self.name!r} takes a fault, or 1 to {_DOSES_MAX} doses", "fault")
        return doses

    def _dose_in_short(self) -> tuple[Dose, ...]:
        if self.fault is None:
            if self.edge is not None or self.process is not None or self.host:
                raise ConfigurationError("fault is missing", "fault")
            return ()
        try:
            return (Dose(fault=self.fault, edge=self.edge, process=self.process, host=self.host),)
        except ConfigurationError as error:
            if error.message.startswith("its "):
                raise ConfigurationError(f"stress {self.name!r}: {error.message}", error.key) from None
            raise

    @property
    def faults(self) -> list[Fault]:
        """The faults of all doses, as values."""
        return [dose.what for dose in self.doses]

    @property
    def what(self) -> Fault:
        """The fault of the first dose."""
        return self.doses[0].what

    @property
    def target(self) -> str:
        """Where it is dosed, in words; of several doses, in their order."""
        targets = [dose.target for dose in self.doses]
        return targets[0] if len(set(targets)) == 1 else " + ".join(targets)

    @property
    def described(self) -> str:
        """What is dosed, in words; of several doses, in their order."""
        return " + ".join(describe(fault) for fault in self.faults)
