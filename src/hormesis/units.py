"""How people write durations, rates and sizes: `"300ms"`, `"100/s"`, `"64KB"`, or a plain number in base units.

Each parser takes what a user wrote and returns base units (seconds, events a second, bytes, bytes a second). Each is
idempotent, so a setting can be normalised when it is made and read through the same function later.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, TypeAlias

from hormesis.errors import ConfigurationError

__all__ = [
    "ByteRate",
    "Duration",
    "Quota",
    "Rate",
    "Size",
    "bytes_of",
    "bytes_per_second",
    "format_seconds",
    "per_second",
    "quota",
    "seconds",
]

Duration: TypeAlias = float | str
"""Seconds as a number, or a string with a unit: `"300ms"`, `"2s"`, `"1m30s"`, `"1h"`."""

Rate: TypeAlias = float | str
"""Events a second as a number, or a string: `"100/s"`, `"6000/min"`, `"10/h"`."""

ByteRate: TypeAlias = float | str
"""Bytes a second as a number, or a string: `"20KB/s"`, `"1MB/s"` (K = 1000)."""

Size: TypeAlias = int | str
"""Bytes as a whole number, or a string: `"64KB"`, `"512MB"` (K = 1000)."""

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(us|µs|ms|min|s|m|h|d)\s*)")
_RATE = re.compile(rf"{_NUMBER}\s*/\s*(us|µs|ms|min|s|m|h|d)")
_QUOTA = re.compile(rf"{_NUMBER}\s*/\s*(\d+)?\s*(us|µs|ms|min|s|m|h|d)")
_SIZE = re.compile(rf"{_NUMBER}\s*(B|KB|MB|GB)")
_BYTE_RATE = re.compile(rf"{_NUMBER}\s*(B|KB|MB|GB)\s*/\s*s")
_DURATION_MAX = 10 * 365 * 86400.0
"""Ten years: longer than anybody waits, and shorter than what the clocks of the system can be asked for."""
_DECIMALS_MAX = 3
"""Of a count that is no whole number."""
_LONGEST = 40
"""Characters of a unit string that are read at most; longer ones are refused unread."""


def seconds(value: Duration, key: str = "duration", *, zero: bool = False) -> float:
    """Return a duration in seconds.

    Args:
        value: Seconds, or a string with units.
        key: The setting's name, for the error.
        zero: Whether none at all is a meaningful duration here.

    Raises:
        ConfigurationError: The value is negative, not finite, zero where that means nothing, or no duration.

    >>> seconds("300ms"), seconds("1m30s"), seconds(2)
    (0.3, 90.0, 2.0)
    """
    accepted = f"{'seconds from 0' if zero else 'more than 0 seconds'}, as a number or like '300ms', '2s', '1m30s'"
    if isinstance(value, str):
        text = value.strip()
        parts = _DURATION.findall(text) if len(text) <= _LONGEST else []
        if not parts or _DURATION.sub("", text):
            raise ConfigurationError.bad_value(key, value, accepted)
        result = math.fsum(float(number) * _SECONDS[unit] for number, unit in parts)
    else:
        result = _number(value, key, accepted)
    if not 0 <= result < math.inf or (result == 0 and not zero):
        raise ConfigurationError.bad_value(key, value, accepted)
    if result > _DURATION_MAX:
        raise ConfigurationError.bad_value(key, value, f"{accepted}, and ten years at the most")
    return result


def per_second(value: Rate, key: str = "rate") -> float:
    """Return a rate in events a second; zero is refused.

    >>> per_second("100/s"), per_second("6000/min"), per_second(5)
    (100.0, 100.0, 5.0)
    """
    accepted = "a rate above zero, as a number a second or like '100/s', '6000/min'"
    return _rate(value, key, _RATE, accepted, _SECONDS, divide=True)


class Quota(NamedTuple):
    """A rate with its two halves kept apart: 10,000 a day is not what 0.116 a second is.

    Args:
        number: How many, a whole number.
        window: In how many seconds.
        at_once: What was written for a window, rounded up: of `"2.5/s"` it is 3, with a number of 5 in 2 seconds.
        text: As people write it.
    """

    number: int
    window: float
    at_once: int
    text: str


def quota(value: Rate, key: str = "limit") -> Quota:
    """Return a rate as a whole number in a window.

    Args:
        value: So many a second as a number, or a string: `"100/s"`, `"10000/d"`, `"5/10s"`.
        key: The setting's name, for the error.

    Raises:
        ConfigurationError: It is no rate, zero, or has more than three decimals.

    >>> quota("100/s"), quota("5/2min").window, quota("2.5/s").number
    (Quota(number=100, window=1.0, at_once=100, text='100/s'), 120.0, 5)
    """
    accepted = (
        "a rate above zero, as a number a second or like '100/s', '10000/d', '5/10s', with three decimals at most"
    )
    text = value if isinstance(value, str) else f"{_number(value, key, accepted):.12g}/s"
    match = _QUOTA.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise ConfigurationError.bad_value(key, value, accepted)
    whole, _, decimals = match[1].partition(".")
    decimals = decimals.rstrip("0")
    count, parts = int(whole + decimals or "0"), 10 ** len(decimals)
    common = math.gcd(count, parts)
    windows, unit = match[2] or "", match[3]
    window = int(windows or 1) * parts // common * _SECONDS[unit]
    if not count or not 0 < window <= _DURATION_MAX or len(decimals) > _DECIMALS_MAX:
        raise ConfigurationError.bad_value(key, value, accepted)
    written = f"{whole or 0}.{decimals}" if decimals else whole
    return Quota(count // common, window, -(-count // parts), f"{written}/{windows}{unit}")


def bytes_of(value: Size, key: str = "size", *, least: int = 1, most: int = 2**63 - 1, accepted: str = "") -> int:
    """Return a size in bytes.

    Args:
        value: Bytes as a whole number, or a string with a unit; parts of a byte are rounded.
        key: The setting's name, for the error.
        least: The least that means something here.
        most: The most that does.
        accepted: What would do, for the error, where the bounds have better names than their numbers.

    Raises:
        ConfigurationError: It is no size, or out of bounds.

    >>> bytes_of("64KB"), bytes_of("1.5MB"), bytes_of(512)
    (64000, 1500000, 512)
    """
    size = _bytes(value)
    if not least <= size <= most:
        accepted = accepted or f"{least:,} to {most:,} bytes, as a whole number or like '64KB', '1MB'"
        raise ConfigurationError.bad_value(key, value, accepted)
    return round(size)


def _bytes(value: object) -> float:
    """A size as it was written; NaN when it is none."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        return math.nan if match is None else float(match[1]) * _BYTES[match[2]]
    # Kept whole: a float has no room for the last digits of a large one.
    return value if isinstance(value, int) and not isinstance(value, bool) else math.nan


def bytes_per_second(value: ByteRate, key: str = "rate") -> float:
    """Return a bandwidth in bytes a second; zero is refused.

    >>> bytes_per_second("20KB/s"), bytes_per_second(512)
    (20000.0, 512.0)
    """
    accepted = "a bandwidth above zero, as bytes a second or like '20KB/s', '1MB/s'"
    return _rate(value, key, _BYTE_RATE, accepted, _BYTES, divide=False)


def _rate(
    value: float | str, key: str, pattern: re.Pattern[str], accepted: str, units: dict[str, float], *, divide: bool
) -> float:
    if isinstance(value, str):
        match = pattern.fullmatch(value.strip()) if len(value) <= _LONGEST else None
        if match is None:
            raise ConfigurationError.bad_value(key, value, accepted)
        number, unit = float(match[1]), units[match[2]]
        result = number / unit if divide else number * unit
    else:
        result = _number(value, key, accepted)
    if not math.isfinite(result) or result <= 0:
        raise ConfigurationError.bad_value(key, value, accepted)
    return result


def _number(value: object, key: str, accepted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError.bad_value(key, value, accepted)
    try:
        return float(value)
    except OverflowError:
        raise ConfigurationError.bad_value(key, value, accepted) from None


def format_seconds(value: float) -> str:
    """Write seconds the way people do.

    >>> format_seconds(0.3), format_seconds(2.0), format_seconds(90), format_seconds(0.00025)
    ('300ms', '2s', '1m30s', '0.25ms')
    """
    if value == 0:
        return "0s"
    if value < 0.9995:
        return f"{value * 1000:.3g}ms"
    if value < 60:
        return f"{value:.3g}s"
    minutes, rest = divmod(value, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest:.3g}s" if rest >= 0.05 else ""]
    return "".join(parts)
