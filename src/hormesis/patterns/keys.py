"""Whose instance a call belongs to: the `by` of parts that have one for each host, tenant, or whatever a call is about.

A key is a label that the surroundings have told (`hormesis.calling(host=…)`, which the integrations do), or what a
function makes of the call's arguments. It names an instance, and appears as a label in metrics: so it is a string of
bounded length, and how many there are is bounded where they are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from hormesis.context import current_call
from hormesis.errors import ConfigurationError
from hormesis.patterns.part import is_async

__all__ = ["BY_ACCEPTED", "By", "KeyOf", "key_of"]

By: TypeAlias = str | Callable[..., object]
"""What a call's key is: a label of `calling`, such as `"host"`, or a function of the call's arguments."""

KeyOf: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], str]
"""Tells the key of a call from its arguments."""

BY_ACCEPTED = "a label of calling(…), such as 'host', or a function that makes a key of the call's arguments"
"""What a `by=` setting takes, in words."""

_KEY_MAX = 200
"""Characters of a key; longer ones are cut, and share an instance with whoever begins the same."""


def key_of(by: object, key: str = "by") -> KeyOf | None:
    """Compile a `by=` setting into what tells the key of a call; None when there are no keys.

    A call without the label has the key `""`. What a function raises, the caller gets.

    Args:
        by: A `By`, or None.
        key: The setting's name, for the error.

    Raises:
        ConfigurationError: It is neither a label nor a function that can be called synchronously.

    >>> whose = key_of(lambda order: order["tenant"])
    >>> whose([{"tenant": "acme"}], {})
    'acme'
    """
    if by is None:
        return None
    if isinstance(by, str):
        if not by.isidentifier():
            raise ConfigurationError.bad_value(key, by, BY_ACCEPTED)
        return _by_label(by)
    if not callable(by) or isinstance(by, type) or is_async(by):
        raise ConfigurationError.bad_value(key, by, BY_ACCEPTED)
    return _by_arguments(by)


def _by_label(label: str) -> KeyOf:
    return lambda args, kwargs: str(current_call.get().labels.get(label, ""))[:_KEY_MAX]  # noqa: ARG005


def _by_arguments(function: Callable[..., object]) -> KeyOf:
    return lambda args, kwargs: str(function(*args, **kwargs))[:_KEY_MAX]
