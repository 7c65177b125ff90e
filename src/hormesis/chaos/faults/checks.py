"""What every fault checks of its settings."""

from __future__ import annotations

from typing import TypeGuard

from hormesis.errors import ConfigurationError

__all__ = ["check_choice", "check_share", "check_true", "is_number", "is_whole"]


def check_share(share: object) -> None:
    """Refuse what is no part of a whole."""
    if not is_number(share) or not 0 < share <= 1:
        raise ConfigurationError.bad_value("share", share, "a part of the connections above 0, up to 1 (all)")


def check_true(key: str, value: object) -> None:
    """Refuse anything but true for a fault that is there or not."""
    if value is not True:
        raise ConfigurationError.bad_value(key, value, "only true: to have no fault, leave it out")


def check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise ConfigurationError.bad_value(key, value, "one of " + ", ".join(map(repr, choices)))


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)
