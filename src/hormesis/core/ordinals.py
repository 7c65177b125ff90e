"""Which of things that are counted from 1, as people write it: the n-th, ranges of them, every so-many-th."""

from __future__ import annotations

import math
import re

from hormesis.errors import ConfigurationError

__all__ = ["ORDINALS_ACCEPTED", "Ordinals"]

ORDINALS_ACCEPTED = "numbers from 1 such as '3', '1-2', '10-', 'every 5', or several of them with commas between"
"""What an `Ordinals` takes, in words."""

_TEXT_MAX = 1000
_PIECE = re.compile(r"(\d{1,9})(?:\s*(-)\s*(\d{1,9})?)?|every\s+(\d{1,9})")


class Ordinals:
    """A set of numbers from 1: `"3"`, `"1-2"`, `"5-"`, `"every 10"`, `"1-2, every 10"`.

    Args:
        text: As people write it; a number alone may be one.
        key: The setting's name, for the error.

    Raises:
        ConfigurationError: It can't be meant.

    >>> some = Ordinals("1-2, every 10")
    >>> [number for number in range(1, 25) if number in some]
    [1, 2, 10, 20]
    """

    __slots__ = ("_pieces", "text")

    def __init__(self, text: object, key: str = "calls") -> None:
        refusal = ConfigurationError.bad_value(key, text, ORDINALS_ACCEPTED)
        if isinstance(text, int) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str) or len(text) > _TEXT_MAX:
            raise refusal
        self.text = text
        self._pieces: list[tuple[int, float, int]] = []  # from, up to, step
        for piece in text.split(","):
            match = _PIECE.fullmatch(piece.strip())
            if match is None:
                raise refusal
            first, dash, last, every = match.groups()
            low, step = int(first or 1), int(every or 1)
            high = float(last) if last else math.inf if dash or every else low
            if low < 1 or high < low or step < 1:
                raise refusal
            self._pieces.append((low, high, step))

    def __contains__(self, number: int) -> bool:
        return any(low <= number <= high and number % step == 0 for low, high, step in self._pieces)
