"""What a game day may cost: when a dose is ended early, whom it may hit, and how much the whole may use up.

All three are checked before anything starts, as far as the plan tells, and watched while it runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from hormesis.chaos import describe
from hormesis.errors import ConfigurationError
from hormesis.gameday.aimed import aimed_at
from hormesis.gameday.dose import Dose
from hormesis.gameday.load import Load, known
from hormesis.tables import Settings
from hormesis.units import Duration, format_seconds, seconds

__all__ = ["Abort", "BlastRadius", "Budget", "Burn"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Burn(Settings):
    """`burn = { … }` of `[abort]`: the dose ends when it uses up the error budget too fast.

    The error budget is what the objective leaves to fail; the burn rate says how many times faster than that requests
    fail. It has to be that fast over two windows: over the long one, so that a blip ends nothing, and over the short
    one, so that what is over already does not either (*The Site Reliability Workbook*, chapter 5).

    Attributes:
        objective: The share of answered requests that is promised, such as 0.99.
        rate: So many times faster than the promise allows.
        long, short: The two windows.
    """

    objective: float
    rate: float = 10.0
    long: Duration = 5.0
    short: Duration = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.objective < 1:
            raise ConfigurationError.bad_value("objective", self.objective, "a share above 0 and below 1")
        # Faster than everything failing nothing can burn.
        fastest = 1 / (1 - self.objective)
        if not 1 <= self.rate <= fastest + 1e-9:
            accepted = f"a factor from 1 to {fastest:.4g}, at which every request fails"
            raise ConfigurationError.bad_value("rate", self.rate, accepted)
        if seconds(self.short, "short") > seconds(self.long, "long"):
            raise ConfigurationError.bad_value("short", self.short, "no more than the long window")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Abort(Settings):
    """`[abort]`: when a dose is ended early, whatever is under way.

    Attributes:
        answered: Fewer answers than this share, full or degraded, ...
        over: ... among the requests that ended in so long a time, end the dose at once.
        burn: An error budget that burns too fast does, too.
        then: `"next"` lets the arm recover and goes on with the next stress, `"stop"` ends the game day.
    """

    answered: float | None = None
    over: Duration = 3.0
    burn: Burn | None = None
    then: Literal["next", "stop"] = "next"

    def __post_init__(self) -> None:
        if self.answered is not None and not 0 < self.answered <= 1:
            raise ConfigurationError.bad_value("answered", self.answered, "a share above 0 and at most 1")
        if self.answered is None and self.burn is None:
            raise ConfigurationError("takes answered, burn or both", "answered")
        seconds(self.over, "over")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlastRadius(Settings):
    """`[blast_radius]`, or `blast_radius = { … }` of a stress: whom a stress may hit.

    Attributes:
        share: The part of an edge's connections or requests, or of a process's calls, that a fault may strike. One that
            strikes all, because it can't do otherwise or isn't told to, needs 1.
        edges, processes: How many of each may be hit at the same time.
        host: Whether the machine itself may.
        routes, clients: The requests, and the clients, that may fail under it. A fault that is aimed at others is
            refused; when more than a few requests of anybody else fail all the same, the dose is ended.
        spared: The share of those others that may fail all the same, over `over`.
        over: For how long.
    """

    share: float = 1.0
    edges: int = 1
    processes: int = 1
    host: bool = False
    routes: Sequence[str] | None = None
    clients: Sequence[str] | None = None
    spared: float = 0.1
    over: Duration = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigurationError.bad_value("share", self.share, "a share above 0 and at most 1")
        for name in ("edges", "processes"):
            if getattr(self, name) < 0:
                raise ConfigurationError.bad_value(name, getattr(self, name), "a whole number from 0")
        if not 0 <= self.spared < 1:
            raise ConfigurationError.bad_value("spared", self.spared, "a share from 0 and below 1")
        seconds(self.over, "over")

    def check_names(self, routes: Sequence[str], clients: Sequence[str], where: str) -> None:
        """Refuse routes and clients that the load does not have."""
        for name in self.routes or ():
            known(f"{where}.routes", "request", name, routes)
        for name in self.clients or ():
            known(f"{where}.clients", "client", name, clients)

    def check(self, doses: Sequence[Dose], load: Load) -> None:
        """Refuse doses that reach further.

        Raises:
            ConfigurationError: They do; the message says in which way, and what would do.
        """
        for kind, most in (("edge", self.edges), ("process", self.processes)):
            hit = sorted({dose.target for dose in doses if getattr(dose, kind) is not None})
            if len(hit) > most:
                raise _beyond(f"{' and '.join(hit)} can't be hit at the same time where {kind} takes at most {most}")
        for dose in doses:
            said = describe(dose.what) if dose.target == "load" else f"{describe(dose.what)} on {dose.target}"
            if dose.host and not self.host:
                raise _beyond(f"{describe(dose.what)} hits the whole machine, which takes host = true")
            partial = dose.edge is not None or dose.process is not None
            if partial and (share := _share(dose)) > self.share:
                raise _beyond(f"{said} has a share of {share:g}, at most {self.share:g}")
            reached = self.reaches(load)
            others = [route for route in aimed_at(dose.what, load) or () if route not in reached]
            if others:
                inside = f"those of {' and '.join(reached)}" if reached else "none"
                raise _beyond(f"{said} is aimed at requests of {' and '.join(others)}; within are {inside}")

    def reaches(self, load: Load) -> list[str]:
        """Return the routes that may fail: those that are named, and those of the clients that are."""
        return [
            each.name
            for each in load.request
            if (self.routes is None and self.clients is None)
            or each.name in (self.routes or ())
            or each.client in (self.clients or ())
        ]

    def in_words(self, load: Load) -> str:
        """Say what a stress is held to."""
        said = []
        if self.share < 1:
            said.append(f"at most {100 * self.share:g}% of an edge's connections or requests, or of a process's calls")
        if self.routes is not None or self.clients is not None:
            reached = self.reaches(load)
            others = [each.name for each in load.request if each.name not in reached]
            said.append(f"only {' and '.join(reached)} may fail" if reached else "no request may fail")
            if others:
                most, over = f"{100 * self.spared:g}%", format_seconds(seconds(self.over))
                said.append(f"it ends when more than {most} of {' and '.join(others)} fail over {over}")
        return "; ".join(said)


def _share(dose: Dose) -> float:
    """Return the part of an edge or of a process's calls that a fault may strike; all, where it has none."""
    return float(getattr(dose.what, "share", 1.0))


def _beyond(why: str) -> ConfigurationError:
    return ConfigurationError(f"reaches beyond the blast radius: {why}", "blast_radius")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Settings):
    """`[budget]`: what the whole game day may use up.

    Attributes:
        time: How long its stresses may take; those for which no time is left are left out.
        failed: How many requests may fail, of all arms together; the game day ends when they have.
    """

    time: Duration | None = None
    failed: int | None = None

    def __post_init__(self) -> None:
        if self.time is not None:
            seconds(self.time, "time")
        if self.failed is not None and self.failed < 1:
            raise ConfigurationError.bad_value("failed", self.failed, "a whole number from 1")
        if self.time is None and self.failed is None:
            raise ConfigurationError("takes time, failed or both", "time")
