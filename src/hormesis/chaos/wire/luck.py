"""Luck that repeats: numbers drawn from a hash of what they decide about, so that the same seed gives the same run."""

from __future__ import annotations

from hormesis.core.chaos import draw, fold

__all__ = ["luck"]


def luck(*key: object) -> float:
    """Draw a number in [0, 1) from a key, always the same one.

    >>> luck(1, "payments", "slow", 7) == luck(1, "payments", "slow", 7) != luck(2, "payments", "slow", 7)
    True
    """
    return draw(fold(*key), 0)
