"""The whole game day as plain data that JSON can carry.

The keys are the names of the fields in `hormesis.gameday.results`, so one description serves both. What is no number
(the latency of no requests) is null: JSON has no word for it. `"format"` counts up when a key changes its meaning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from hormesis.gameday.report import words
from hormesis.gameday.results import GameDay, Outcome
from hormesis.loadgen import Samples

__all__ = ["as_json"]

_FORMAT = 2


def as_json(gameday: GameDay, *, samples: bool) -> dict[str, Any]:
    """Return everything that was found, ready for `json.dump`.

    Args:
        gameday: The findings.
        samples: Whether to add every request and every attempt of those that are repeated, as columns; times are whole
            microseconds since the load began.
    """
    found = _plain(gameday)
    if samples:
        for stress, plain in zip(gameday.stresses, found["stresses"], strict=True):
            for arm, outcome in stress.outcomes.items():
                plain["outcomes"][arm]["samples"] = _columns(outcome.samples, outcome.started)
                plain["outcomes"][arm]["attempts"] = _columns(outcome.attempts, outcome.started)
    return {"format": _FORMAT, "held": gameday.held, "headline": words.headline(gameday), **found}


def _columns(samples: Samples, start: float) -> dict[str, Any]:
    """Return samples as columns; an error is its index among the kinds of errors."""
    kinds = {kind: code for code, kind in enumerate(samples.error_kinds)}
    return {
        **{
            name: [round((time - start) * 1e6) for time in getattr(samples, name)]
            for name in ("intended", "sent", "done")
        },
        **{name: list(getattr(samples, name)) for name in ("request", "answer", "status")},
        "error": [kinds[samples.error_at(row)] for row in range(len(samples))],
        "error_kinds": list(samples.error_kinds),
    }


def _plain(value: Any) -> Any:
    """Return the value with nothing in it but dicts, lists, strings, numbers and null."""
    if dataclasses.is_dataclass(value):
        raw = ("samples", "attempts") if isinstance(value, Outcome) else ()
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name not in raw}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Iterable):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
