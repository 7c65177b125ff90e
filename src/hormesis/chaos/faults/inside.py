"""The fault inside of a process, as a value: what its own code is made to meet with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.patterns.injection import Injection
from hormesis.units import seconds

__all__ = ["Inject"]


@dataclass(frozen=True, slots=True)
class Inject:
    """Calls or requests of a process meet with an injected fault, at the places where it has a `Chaos` part.

    Args:
        inject: The settings of an `Injection`, as a table.
        at: The names of the policies and services that it is for; `*` stands for anything.

    >>> str(Inject({"latency": "2s", "share": 0.1}, at="payments"))
    'injects latency 2s on 10 % of calls at payments'
    """

    inject: Mapping[str, Any] | Injection
    _: KW_ONLY
    at: str = "*"

    def __post_init__(self) -> None:
        made = self.inject if isinstance(self.inject, Injection) else Injection.of(self.inject)
        made.as_table()  # what can't be sent is told at once
        object.__setattr__(self, "inject", made)
        at: object = self.at
        if not isinstance(at, str) or not at:
            raise ConfigurationError.bad_value("at", self.at, "names of policies, where '*' stands for anything")

    @property
    def injection(self) -> Injection:
        """The fault itself."""
        assert isinstance(self.inject, Injection)  # noqa: S101  it was made one
        return self.inject

    @property
    def share(self) -> float:
        """The share of the calls that it is for."""
        return self.injection.share

    @property
    def after(self) -> float:
        """The seconds until it acts, from the dose on."""
        return seconds(self.injection.after, zero=True)

    def __hash__(self) -> int:
        return hash((str(self.inject), self.at))

    def __str__(self) -> str:
        where = "" if self.at == "*" else f" at {self.at}"
        return f"injects {self.inject}{where}"
