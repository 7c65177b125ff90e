"""The fault of the load, as a value."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

from hormesis.chaos.faults.checks import is_number
from hormesis.errors import ConfigurationError

__all__ = ["LoadFault", "Spike"]


@dataclass(frozen=True, slots=True)
class Spike:
    """The load, or a part of it, grows to `spike` times what it was.

    Args:
        spike: The factor.
        request: The name of the request that comes so much more often; None is all of them.
        client: The name of the client who sends so much more; None is all of them.
    """

    spike: float
    _: KW_ONLY
    request: str | None = None
    client: str | None = None

    def __post_init__(self) -> None:
        for key in ("request", "client"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigurationError.bad_value(key, value, f"the name of a {key}")
        if self.request is not None and self.client is not None:
            raise ConfigurationError.bad_value("client", self.client, "no client beside a request: one or the other")
        if not is_number(self.spike) or not 1 < self.spike < math.inf:
            raise ConfigurationError.bad_value("spike", self.spike, "a factor above 1")
        object.__setattr__(self, "spike", float(self.spike))

    def __str__(self) -> str:
        return f"{self.request or self.client or 'load'} x{self.spike:.3g}"


LoadFault: TypeAlias = Spike
"""What the load may be dosed with."""
