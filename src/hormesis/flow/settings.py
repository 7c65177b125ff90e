"""How settings of this room are read: sizes, shares of a bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized

from hormesis.core.hysteresis import Hysteresis
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import number
from hormesis.units import Size, bytes_of

__all__ = ["BYTES_MAX", "ITEMS_MAX", "Size", "byte_size", "marks", "measured", "size_of"]

ITEMS_MAX = 10_000_000
"""More items than that in one place are a mistake in a setting: what refers to them alone takes a gigabyte."""

BYTES_MAX = 2**40
"""A terabyte; what is larger was not meant."""


def byte_size(value: Size, key: str) -> int:
    """Return a size in bytes.

    Raises:
        ConfigurationError: It is no size, or not from 1 byte to a terabyte.

    >>> byte_size("64KB", "max_bytes"), byte_size(512, "max_bytes")
    (64000, 512)
    """
    accepted = "1 byte to 1,000 GB, as a whole number or like '64KB', '1MB'"
    return bytes_of(value, key, most=BYTES_MAX, accepted=accepted)


def size_of(item: Sized) -> int:
    """The size of what has a length in bytes, such as `bytes`; the default where bytes are bounded."""
    return len(item)


def measured(size: Callable[..., object], item: object) -> int:
    """Return an item's size in bytes.

    Raises:
        ConfigurationError: The function says something that can't be a size, or nothing for such an item.
    """
    try:
        found = size(item)
    except TypeError as error:
        raise ConfigurationError(
            f"size says nothing of a {type(item).__name__} ({error}); give it a function that tells an item's bytes",
            "size",
        ) from error
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise ConfigurationError(
            f"size says {found!r} of a {type(item).__name__}; it has to tell bytes, a whole number from 0", "size"
        )
    return found


def marks(pause_at: float | None, resume_at: float | None, max_items: int, max_bytes: int | None) -> Hysteresis | None:
    """Turn shares of the bounds into marks; None when there are to be none.

    Raises:
        ConfigurationError: The shares can't be meant.

    >>> found = marks(0.8, 0.5, 10, None)
    >>> found.high, found.low
    (8, 5)
    """
    if pause_at is None:
        if resume_at is not None:
            raise ConfigurationError(f"resume_at is {resume_at!r} and pause_at is not set; it takes both", "pause_at")
        return None
    high = number("pause_at", pause_at, 0.001, 1.0)
    low = number("resume_at", high / 2 if resume_at is None else resume_at, 0.0, 1.0)
    if low >= high:
        raise ConfigurationError.bad_value("resume_at", resume_at, f"a share below that of pause_at, {high:g}")
    high_items = max(1, math.ceil(high * max_items))
    return Hysteresis(
        high=high_items,
        low=min(math.floor(low * max_items), high_items - 1),
        high_bytes=None if max_bytes is None else max(1, math.ceil(high * max_bytes)),
        low_bytes=None if max_bytes is None else math.floor(low * max_bytes),
    )
