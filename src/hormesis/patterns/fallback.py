"""Pattern 4, fallback: an answer that is worth less, instead of none.

For reads. A fallback that claims a write happened is a lie, and `hormesis lint` can't see that: the author must.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from hormesis.core.slots import Slot
from hormesis.errors import ConfigurationError
from hormesis.outcome import (
    ON_ACCEPTED,
    ON_RESULT_ACCEPTED,
    FailureTest,
    On,
    OnResult,
    UnwantedResult,
    failure_test,
    in_words,
    result_test,
)
from hormesis.patterns.cache import StaleCache
from hormesis.patterns.part import normalise, whole
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
        cache: Keep answers, and hand out older ones; alone, or before the function or the value is asked.
        on: Which failures are answered. The default leaves out `invalid`: a product that does not exist is no outage.
        on_result: Which results are answered as if the call had failed.
        max_concurrent: How many fallback functions run at the same time. The next caller gets the original failure.

    Raises:
        ConfigurationError: None of `function`, `value` and `cache` is given, or both of the first two, or a setting
            can't be meant.

    >>> Fallback(value=[]).describe()
    'answers [] on any, rejected'
    >>> Fallback(cache=StaleCache(fresh="1m")).describe()
    'answers from a cache (fresh for 1m, then up to 1h stale while refreshed in the background) on any, rejected'
    """

    slot: ClassVar[Slot] = Slot.FALLBACK

    function: Callable[..., Any] | None = None
    _: dataclasses.KW_ONLY
    value: Any = _NO_VALUE
    cache: StaleCache | None = None
    on: On = dataclasses.field(default=("any", "rejected"), metadata={ACCEPTED: ON_ACCEPTED})
    on_result: OnResult | None = dataclasses.field(default=None, metadata={ACCEPTED: ON_RESULT_ACCEPTED})
    # When a dependency fails, all of its calls come here at once: what answers in its place must not be the next to
    # drown. A hundred at a time is plenty for what is at hand, and few for what is not.
    max_concurrent: int = 100
    _answers: FailureTest = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        both = self.function is not None and self.value is not _NO_VALUE
        if both or (not self.has_answer and self.cache is None):
            raise ConfigurationError(
                "a fallback takes a function or a value=, one of the two, or a cache=, which goes with both; "
                f"it has {'a function and a value' if both else 'none of them'}"
            )
        if self.function is not None and not callable(self.function):
            raise ConfigurationError.bad_value("function", self.function, "a function; a static answer is value=")
        if self.cache is not None and not isinstance(self.cache, StaleCache):
            raise ConfigurationError.bad_value("cache", self.cache, "a StaleCache(...)")
        result_test(self.on_result)
        whole("max_concurrent", self.max_concurrent, 1)
        normalise(self, _answers=failure_test(self.on))

    @property
    def has_answer(self) -> bool:
        """Whether there is one when the cache has none: a function or a value."""
        return self.function is not None or self.value is not _NO_VALUE

    def answers(self, error: Exception) -> bool:
        """Say whether this failure is answered."""
        if isinstance(error, UnwantedResult) and self.on_result is not None and self.on_result(error.result):
            return True
        return self._answers(error) and not isinstance(error, ConfigurationError)

    def describe(self) -> str:
        """The settings in words."""
        what = [] if self.cache is None else [f"from a cache ({self.cache.describe()})"]
        if self.function is not None:
            what.append(f"by {getattr(self.function, '__name__', 'a function')}()")
        elif self.value is not _NO_VALUE:
            what.append(repr(self.value))
        results = "" if self.on_result is None else " and unwanted results"
        return f"answers {', else '.join(what)} on {in_words(self.on)}{results}"
