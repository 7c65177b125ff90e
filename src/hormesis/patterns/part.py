"""What the parts of a policy have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from hormesis.clock import Random
from hormesis.core.admission import Admission, Lock
from hormesis.core.keyed import Keyed
from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError, Rejected
from hormesis.outcome import Ending

__all__ = ["AdmissionPart", "Part", "flag", "is_a", "is_async", "needs", "normalise", "number", "share", "whole"]

T = TypeVar("T")


@runtime_checkable
class Part(Protocol):
    """Settings of one pattern; the slot says where it stands in a policy."""

    slot: ClassVar[Slot]

    def describe(self) -> str:
        """The settings in words, for `explain()`."""
        ...


@runtime_checkable
class AdmissionPart(Part, Protocol):
    """A part that decides whether an attempt may go in."""

    rejection: ClassVar[type[Rejected]]

    def machine(self, lock: Lock, random: Random | None = None) -> Admission | Keyed[Any]:
        """Make the machine that these settings describe, or the machines by key."""
        ...

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this."""
        ...


def normalise(settings: object, **values: object) -> None:
    """Set fields of a frozen dataclass in its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def whole(key: str, value: object, least: int, most: int = 1_000_000) -> int:
    """Check a whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigurationError.bad_value(key, value, f"a whole number from {least} to {most:,}")
    return value


def number(key: str, value: object, least: float, most: float) -> float:
    """Check a number in a range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ConfigurationError.bad_value(key, value, f"a number from {least:g} to {most:g}")
    return float(value)


def flag(key: str, value: object) -> bool:
    """Check a yes or no."""
    if not isinstance(value, bool):
        raise ConfigurationError.bad_value(key, value, "True or False")
    return value


def share(key: str, value: object) -> float:
    """Check a share: above 0, at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigurationError.bad_value(key, value, "a share above 0 and at most 1, such as 0.5 for half")
    return float(value)


def needs(key: str, accepted: str) -> Callable[[type[T]], type[T]]:
    """Let a settings class say what a setting takes that has no default and was left out.

    To type checkers it is missing all the same; at run time Python would only say that it is.
    """

    def decorate(cls: type[T]) -> type[T]:
        make: Callable[..., None] = cls.__init__

        @functools.wraps(make)
        def checked(self: T, *args: object, **kwargs: object) -> None:
            if key not in kwargs and not args:
                raise ConfigurationError(f"{key} is missing; it takes {accepted}", key)
            make(self, *args, **kwargs)

        cls.__init__ = checked  # type: ignore[assignment, method-assign]
        return cls

    return decorate


def is_a(test: Callable[[object], bool], function: object) -> bool:
    """Ask about a function, a partial of one, or an object that is called."""
    while isinstance(function, functools.partial | staticmethod):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return test(function) or test(getattr(function, "__call__", None))  # noqa: B004  not whether, but of which kind


def is_async(function: object) -> bool:
    """Whether calling a function gives a coroutine."""
    return is_a(inspect.iscoroutinefunction, function)
