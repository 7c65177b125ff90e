"""The survival matrix: places by kinds of fault, and in each cell the stresses that were dosed there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from hormesis.gameday.results import StressResult, Verdict

__all__ = ["SYMBOLS", "TOGETHER", "Matrix", "matrix_of", "stresses_by_place"]

T = TypeVar("T")

TOGETHER = "several at once"
"""The column of stresses that dose more than one fault."""

SYMBOLS: Mapping[str, str] = {
    Verdict.SURVIVED: "✓",
    Verdict.DEGRADED: "≈",
    Verdict.FAILED: "✗",
    Verdict.INCONCLUSIVE: "?",
}
"""What a verdict looks like where colours are not seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix(Generic[T]):
    """Places by kinds.

    Attributes:
        kinds: The columns.
        rows: By place, then by kind: what is there.
    """

    kinds: Sequence[str]
    rows: Mapping[str, Mapping[str, Sequence[T]]]


def matrix_of(found: Iterable[tuple[str, str, T]]) -> Matrix[T]:
    """Lay out what was found at each place, with each kind of fault, in the order in which they come."""
    kinds: dict[str, None] = {}
    rows: dict[str, dict[str, list[T]]] = {}
    for place, kind, what in found:
        kinds[kind] = None
        rows.setdefault(place, {}).setdefault(kind, []).append(what)
    together = [kind for kind in kinds if kind == TOGETHER]
    return Matrix([*(kind for kind in kinds if kind != TOGETHER), *together], rows)


def stresses_by_place(stresses: Sequence[StressResult]) -> Matrix[tuple[int, StressResult]]:
    """Lay out the stresses of a game day, each with its number, from 1.

    >>> one = StressResult(name="a", about="", target="edge db", fault="latency 2s", outcomes={}, kinds=["latency"])
    >>> two = StressResult(name="b", about="", target="load", fault="3x the load", outcomes={}, kinds=["spike"])
    >>> found = stresses_by_place([one, two])
    >>> found.kinds, {place: list(row) for place, row in found.rows.items()}
    (['latency', 'spike'], {'edge db': ['latency'], 'load': ['spike']})
    """
    return matrix_of((stress.target, _kind(stress), (n, stress)) for n, stress in enumerate(stresses, 1))


def _kind(stress: StressResult) -> str:
    kinds = stress.kinds or [stress.fault]
    return kinds[0].replace("_", " ") if len(kinds) == 1 else TOGETHER
