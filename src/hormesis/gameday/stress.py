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
from typing import Any

from hormesis.chaos import Fault, describe
from hormesis.errors import ConfigurationError
from hormesis.gameday.bounds import BlastRadius
from hormesis.gameday.dose import Dose, place_of
from hormesis.gameday.load import LoadChanges
from hormesis.gameday.metastability import Metastability
from hormesis.gameday.objectives import Objective
from hormesis.gameday.topology import NAME
from hormesis.tables import Settings
from hormesis.units import Duration, seconds

__all__ = ["Dose", "Stress", "place_of"]

_DOSES_MAX = 16


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
        may_miss: The probes that may miss while its dose is in force.
        blast_radius: Whom it may hit, in place of the experiment's.
        metastability: Whether, and how, to find out what frees a system that does not recover by itself.
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
    may_miss: Sequence[str] = ()
    blast_radius: BlastRadius | None = None
    metastability: bool | Metastability = False
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
    def staircase(self) -> Metastability | None:
        """What to do with a system that does not recover by itself; None is nothing."""
        if isinstance(self.metastability, Metastability):
            return self.metastability
        return Metastability() if self.metastability else None

    @property
    def faults(self) -> list[Fault]:
        """The faults of all doses, as values."""
        return [dose.what for dose in self.doses]

    @property
    def target(self) -> str:
        """Where it is dosed, in words; of several doses, in their order."""
        targets = [dose.target for dose in self.doses]
        return targets[0] if len(set(targets)) == 1 else " + ".join(targets)

    @property
    def described(self) -> str:
        """What is dosed, in words; of several doses, in their order."""
        return " + ".join(describe(fault) for fault in self.faults)
