"""One fault at one place, as a file says it: `{ edge = "payments", fault = { latency = "2s" } }`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from hormesis.chaos import Fault, Kill, LoadFault, ProcessFault, Refuse, Spike, WireFault, fault_from
from hormesis.chaos.faults import Inject
from hormesis.errors import ConfigurationError
from hormesis.tables import Settings

__all__ = ["Dose", "Place", "kind_of", "place_of"]

Place: TypeAlias = Literal["edge", "process", "host", "load"]
"""The kinds of place at which a fault can act."""

_TAKES: Mapping[Place, str] = {
    "edge": 'edge = "…"',
    "process": 'process = "…"',
    "host": "host = true",
    "load": "neither edge nor process (it is a fault of the load)",
}


def place_of(fault: Fault) -> Place:
    """Return the kind of place at which a fault acts."""
    kinds: dict[Place, Any] = {"edge": WireFault, "process": ProcessFault, "load": LoadFault}
    for place, kind in kinds.items():
        if isinstance(fault, get_args(kind) or kind):
            return place
    return "host"


def kind_of(fault: Fault) -> str:
    """Return what kind of fault it is: the key that names it in a file, the one setting that may be given without it.

    >>> kind_of(fault_from({"latency": "2s", "jitter": "300ms"}))
    'latency'
    """
    return next(each.name for each in dataclasses.fields(fault) if not each.kw_only)


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
    def kind(self) -> str:
        """What kind of fault it is, such as `"latency"`."""
        return kind_of(self.what)

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
        if isinstance(mine, Inject) and isinstance(others, Inject):  # there may be one for each policy
            return mine == others
        return type(mine) is type(others) or isinstance(mine, Kill) or isinstance(others, Kill)
