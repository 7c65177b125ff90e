"""Pattern 10, inside of the process: a place where faults can be injected, and those that are its own.

A `Chaos` part is a place and no fault: nothing happens there until somebody who has the token switches faults on, for a
while (`hormesis.patterns.chaos_switch`). Then it injects its own, those that a game day doses, and those that a
context or a signed header brings; but never into more than `share_max` of its calls.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from hormesis.core.chaos import ChaosMachine, fold
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.patterns.chaos_switch import ChaosSwitch, chaos_switch
from hormesis.patterns.injection import Injection, Scoped, check_injections, in_force
from hormesis.patterns.part import flag, normalise, share, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import format_seconds

__all__ = ["Chaos", "Per"]

T = TypeVar("T")

Per = Literal["call", "journey"]
"""What has a fate of its own: each attempt, or each request with all that is called on its behalf."""

_SEED_MAX = 2**63 - 1
_INJECTIONS_ACCEPTED = "faults such as { latency = '2s', share = 0.1 }, in a list"


def _several(cls: type[T]) -> type[T]:
    """Let faults be given one after the other, or the settings of one."""
    make: Callable[..., None] = cls.__init__
    own = {field.name for field in dataclasses.fields(Injection)}

    @functools.wraps(make)
    def several(self: T, *injections: object, **settings: Any) -> None:
        of_one = {key: settings.pop(key) for key in list(settings) if key in own}
        if of_one:
            injections = (*injections, Injection(**of_one))
        if injections:
            settings["injections"] = injections
        make(self, **settings)

    cls.__init__ = several  # type: ignore[assignment, method-assign]
    return cls


@_several
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chaos(Settings):
    """Let faults be injected into calls, while a switch is on.

    Args:
        injections: Faults of its own; none: only what game days, contexts and signed headers bring. Each call meets all
            that act on it: latencies add up, and the first that gives an answer gives it.
        share_max: The share of its calls that is touched at most, whoever asks for it.
        seed: Another seed picks other calls.
        per: `"call"`: each attempt has a fate of its own; `"journey"`: all attempts that are made on behalf of one
            request (`request_id()`) have the same.
        envoy: At a service: whether the headers `x-envoy-fault-…` of hops that are trusted are heeded as well.
        switch: What switches it on; None: `hormesis.chaos_switch`, the switch of the process.
        **settings: Those of one `Injection`, in the place of it.

    Raises:
        ConfigurationError: A setting can't be meant, or a fault asks for more than `share_max`.

    >>> Chaos(latency="2s", share=0.1, share_max=0.1).injections[0].share
    0.1
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "arbitrary_types_allowed": True}

    slot: ClassVar[Slot] = Slot.CHAOS

    injections: tuple[Injection, ...] = dataclasses.field(default=(), metadata={ACCEPTED: _INJECTIONS_ACCEPTED})
    # Whoever leaves it there means tests, and lint asks whether they do.
    share_max: float = 1.0
    seed: int = 0
    per: Per = "call"
    # What anybody can write is believed only where it is said.
    envoy: bool = False
    switch: ChaosSwitch | None = dataclasses.field(default=None, repr=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            *injections: Injection,
            share_max: float = 1.0,
            seed: int = 0,
            per: Per = "call",
            envoy: bool = False,
            switch: ChaosSwitch | None = None,
            **settings: Any,
        ) -> None: ...

    def __post_init__(self) -> None:
        normalise(
            self,
            injections=check_injections(self.injections),
            share_max=share("share_max", self.share_max),
            seed=whole("seed", self.seed, 0, _SEED_MAX),
            envoy=flag("envoy", self.envoy),
        )
        if self.per not in get_args(Per):
            raise ConfigurationError.unknown("fate", self.per, get_args(Per), "per")
        if self.switch is not None and not isinstance(self.switch, ChaosSwitch):
            raise ConfigurationError.bad_value("switch", self.switch, "a ChaosSwitch(...), or None for the process's")
        for injection in self.injections:
            if injection.share > self.share_max and injection.calls is None and injection.every is None:
                raise ConfigurationError(
                    f"share is {injection.share:g}, and share_max lets no more than {self.share_max:g} of the calls be "
                    "touched; say a smaller share, or raise share_max",
                    "share",
                )

    @property
    def switched_by(self) -> ChaosSwitch:
        """The switch that it goes by."""
        return chaos_switch if self.switch is None else self.switch

    def machine(self, place: str) -> ChaosMachine:
        """Make what says which calls of a place may be touched."""
        return ChaosMachine(fold(self.seed, place))

    def own(self, place: str, now: float) -> tuple[Scoped, ...]:
        """Put its own faults into force."""
        return in_force(self.injections, at="*", source="settings", now=now, stream=fold(self.seed, place, "rules"))

    def describe(self) -> str:
        """The settings in words, and whether it is on."""
        left = self.switched_by.left
        state = f"on for another {format_seconds(left)}" if left else "off; nothing is injected until it is switched on"
        own = "; ".join(map(str, self.injections)) or "no faults of its own"
        most = "any" if self.share_max == 1 else f"at most {100 * self.share_max:.3g} %"
        return f"{state} ({own}; touches {most} of the calls, drawn by {self.per})"
