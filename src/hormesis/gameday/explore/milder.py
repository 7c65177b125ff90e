"""How a fault can be made milder, step by step.

A fault has *knobs*: a number that says how strong it is (how late, how thin, how often). Between the value that is
known to fail and the one at which there is as good as no fault, bisection on a logarithmic scale finds the mildest that
still fails, to within half. Values have two digits, so that what is saved is what was tried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hormesis.chaos import Fault
from hormesis.chaos.faults import Inject
from hormesis.errors import ConfigurationError

__all__ = ["Knob", "Scale", "knobs"]

_CLOSE = 1.5
"""Values whose ratio is no more than this are as good as equal."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What is between two strengths, of which one fails and the other is as good as none.

    Args:
        failing: Known to fail.
        mild: As good as no fault, or known to hold.
        floor: What is subtracted before comparing: the value of no fault at all, for factors 1.
    """

    failing: float
    mild: float
    floor: float = 0.0

    def middle(self) -> float | None:
        """Return the value in the middle, with two digits; None when the two are as good as equal."""
        one, other = self.failing - self.floor, self.mild - self.floor
        if max(one, other) / min(one, other) <= _CLOSE:
            return None
        middle = _two_digits(self.floor + math.sqrt(one * other))
        return middle if min(self.failing, self.mild) < middle < max(self.failing, self.mild) else None

    def narrowed(self, middle: float, *, fails: bool) -> Scale:
        """Return what is left, after the middle was tried."""
        return dataclasses.replace(self, **{"failing" if fails else "mild": middle})


def _two_digits(value: float) -> float:
    return round(value, 1 - math.floor(math.log10(abs(value)))) if value else 0.0


@dataclass(frozen=True, slots=True)
class Knob:
    """One number of a fault.

    Args:
        field: The setting.
        scale: From its value to where the fault is as good as gone.
    """

    field: str
    scale: Scale

    def turned(self, fault: Fault, value: float) -> Fault:
        """Return the fault with another value there."""
        changed: Any = {self.field: value}
        if isinstance(fault, Inject):
            changed = {"inject": dataclasses.replace(fault.injection, **changed)}
        return dataclasses.replace(fault, **changed)


def knobs(fault: Fault) -> Iterator[Knob]:
    """Return the knobs of a fault, the one that matters most first.

    >>> from hormesis.chaos import Kill, Latency
    >>> [knob.field for knob in knobs(Latency("2s", share=0.5))], list(knobs(Kill()))
    (['latency', 'share'], [])
    """
    turned = fault.injection if isinstance(fault, Inject) else fault
    # The setting that names the fault comes first: it is the one without keyword.
    for field in sorted(dataclasses.fields(turned), key=lambda each: bool(each.kw_only)):
        value: Any = getattr(turned, field.name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value:
            continue
        scale = _scale(field.name, float(value))
        knob = None if scale is None or scale.middle() is None else Knob(field.name, scale)
        if knob is not None and _takes(fault, knob):
            yield knob


def _scale(field: str, value: float) -> Scale | None:
    """Return how far a setting can be turned; None for those that make a fault no milder."""
    match field:
        case "latency":
            return Scale(value, min(0.01, value))
        case "share":
            return Scale(value, min(0.01, value))
        case "loss" | "port_loss" | "corrupt":
            return Scale(value, min(0.001, value))
        case "bandwidth" | "link":
            return Scale(value, max(1e9, value))
        case "throttle" | "cpu_quota":
            return Scale(value, max(0.95, value))
        case "spike":
            return Scale(value, min(1.05, value), floor=1.0)
        case _:
            return None


def _takes(fault: Fault, knob: Knob) -> bool:
    """Whether the fault takes what the knob would be turned to; some shares, for instance, are fixed."""
    try:
        knob.turned(fault, knob.scale.middle() or knob.scale.failing)
    except ConfigurationError:
        return False
    return True
