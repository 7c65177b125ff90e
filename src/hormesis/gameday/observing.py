"""Who is told how a game day goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hormesis.gameday.results import Outcome
from hormesis.loadgen import Samples

__all__ = ["Observer", "Quiet"]


class Observer(Protocol):
    """Told of a game day's steps by its runner. Every call is quick, and none raises."""

    def plan(self, title: str, seconds: float, stresses: Sequence[str], arms: Sequence[str]) -> None:
        """The game day begins, and should take so long."""

    def step(self, text: str) -> None:
        """Something is being done, such as "starting bare: inventory, payments, storefront"."""

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        """A phase begins, and will last so long."""

    def samples(self, arm: str, samples: Samples) -> None:
        """Answers came."""

    def outcome(self, stress: str, outcome: Outcome) -> None:
        """A stress was judged."""

    def close(self) -> None:
        """The game day is over, or was ended."""


class Quiet:
    """Listens, and says nothing."""

    def plan(self, title: str, seconds: float, stresses: Sequence[str], arms: Sequence[str]) -> None:
        """Say nothing."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def phase(self, arm: str, stress: str, phase: str, seconds: float) -> None:
        """Say nothing."""

    def samples(self, arm: str, samples: Samples) -> None:
        """Say nothing."""

    def outcome(self, stress: str, outcome: Outcome) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""
