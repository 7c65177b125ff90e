"""Drawing in SVG, with no more than the report's charts need: scales, shapes, and the ticks of an axis.

Shapes are given classes, no colours: the page's style sheet knows how they look in the light, in the dark and on paper.
So a drawing needs no ids either, and many of them can stand on one page. Whatever text is put in is escaped here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeAlias

__all__ = ["Drawing", "Scale", "ticks"]

Point: TypeAlias = tuple[float, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Maps values onto a length of the drawing; what lies outside is drawn at the edge.

    Attributes:
        low, high: The values at both ends.
        start, end: Where these are, in pixels.
        log: Whether equal ratios take equal lengths; both ends are above 0 then.

    >>> Scale(0, 10, 100, 200)(5), round(Scale(0.001, 1, 0, 90, log=True)(0.01), 6), Scale(0, 1, 0, 10)(7)
    (150.0, 30.0, 10.0)
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where a value is."""
        low, high = self.low, self.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low) if high > low else 0.0
        return self.start + share * (self.end - self.start)


def ticks(high: float, wanted: int = 4) -> list[float]:
    """Return round values from 0 up to a value that is above 0, about so many.

    >>> ticks(23.0), ticks(1.0), ticks(180)
    ([0.0, 10.0, 20.0], [0.0, 0.5, 1.0], [0.0, 50.0, 100.0, 150.0])
    """
    power = 10.0 ** math.floor(math.log10(high / wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * wanted >= high * (1 - 1e-9))
    return [round(step * number, 9) for number in range(math.floor(high / step + 1e-9) + 1)]


class Drawing:
    """A picture that grows shape by shape.

    Args:
        width, height: In pixels; on the page it takes the width that it is given.
        label: What those hear who can't see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self._parts = [f'<svg viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{escape(label)}">']

    def line(self, points: Iterable[Point], style: str) -> None:
        """Draw a line through points; it is broken where one is not a number."""
        runs: list[list[Point]] = [[]]
        for point in points:
            if all(map(math.isfinite, point)):
                runs[-1].append(point)
            else:
                runs.append([])
        for run in filter(None, runs):
            # A point alone is a line of no length, which round ends make visible.
            self._path("M" + "L".join(map(_at, run if len(run) > 1 else run * 2)), style)

    def area(self, lower: Sequence[Point], upper: Sequence[Point], style: str) -> None:
        """Fill what lies between two lines."""
        if lower:
            self._path("M" + "L".join(map(_at, [*upper, *reversed(lower)])) + "Z", style)

    def rect(self, left: float, top: float, right: float, bottom: float, style: str, told: str = "") -> None:
        """Draw a rectangle that tells something to who points at it."""
        box = f'x="{_n(left)}" y="{_n(top)}" width="{_n(right - left)}" height="{_n(bottom - top)}"'
        tip = f"><title>{escape(told)}</title></rect>" if told else "/>"
        self._parts.append(f'<rect class="{style}" {box}{tip}')

    def rects(self, boxes: Iterable[tuple[float, float, float, float]], style: str) -> None:
        """Draw many rectangles of one look: left, top, right and bottom of each."""
        steps = [f"M{_at((left, top))}H{_n(right)}V{_n(bottom)}H{_n(left)}Z" for left, top, right, bottom in boxes]
        if steps:
            self._path("".join(steps), style)

    def dot(self, at: Point, radius: float, style: str, told: str = "") -> None:
        """Draw a dot."""
        place = f'cx="{_n(at[0])}" cy="{_n(at[1])}" r="{_n(radius)}"'
        tip = f"><title>{escape(told)}</title></circle>" if told else "/>"
        self._parts.append(f'<circle class="{style}" {place}{tip}')

    def text(self, at: Point, said: str, style: str = "", anchor: str = "start") -> None:
        """Write."""
        place = f'x="{_n(at[0])}" y="{_n(at[1])}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{style}" {place}>{escape(said)}</text>')

    def __str__(self) -> str:
        return "".join(self._parts) + "</svg>"

    def _path(self, steps: str, style: str) -> None:
        self._parts.append(f'<path class="{style}" d="{steps}"/>')


def _at(point: Point) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


def _n(value: float) -> str:
    """Write a coordinate to a tenth of a pixel."""
    return f"{round(value, 1):g}"
