"""Pattern 4, fallback: an answer that is worth less, instead of none.

For reads. A fallback that claims a write happened is a lie, and `hormesis lint` can't see that: the author must.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.outcome import ON_ACCEPTED, FailureTest, On, failure_test, in_words
from hormesis.patterns.part import normalise
from hormesis.tables import ACCEPTED, Settings

__all__ = ["Fallback"]


class _NoValue:
    """Stands for a value that was not given, since None is one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "no value"


_NO_VALUE = _NoValue()


@dataclasses.dataclass(frozen=True, slots=True)
class Fallback(Settings):
    """Answer in place of a call that failed or was refused.

    Args:
        function: Called with the arguments of the protected function, and may be asynchronous where that is. If it
            raises, the caller gets the original failure.
        value: A static answer instead.
        on: Which failures are answered. The default leaves out `invalid`: a product that does not exist is no outage.

    Raises:
        ConfigurationError: Neither or both of `function` and `value` are given, or `on` can't be meant.

    >>> Fallback(value=[]).describe()
    'answers [] on any, rejected'
    """

    slot: ClassVar[Slot] = Slot.FALLBACK

    function: Callable[..., Any] | None = None
    _: dataclasses.KW_ONLY
    value: Any = _NO_VALUE
    on: On = dataclasses.field(default=("any", "rejected"), metadata={ACCEPTED: ON_ACCEPTED})
    _answers: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (self.function is None) == (self.value is _NO_VALUE):
            raise ConfigurationError("a fallback takes a function or a value=, one of the two")
        if self.function is not None and not callable(self.function):
            raise ConfigurationError.bad_value("function", self.function, "a function; a static answer is value=")
        normalise(self, _answers=failure_test(self.on))

    def answers(self, error: Exception) -> bool:
        """Say whether this failure is answered."""
        return self._answers(error) and not isinstance(error, ConfigurationError)

    def describe(self) -> str:
        """The settings in words."""
        what = (
            f"{self.value!r}" if self.function is None else f"by {getattr(self.function, '__name__', 'a function')}()"
        )
        return f"answers {what} on {in_words(self.on)}"
