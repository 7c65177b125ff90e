"""Reading the fields of a JSON object as Toxiproxy does, and refusing what it would swallow.

Go's decoder, behind which every client was written, takes a key in any case and `null` for "not given"; .NET's client
sends `Name`, Ruby's `"enabled": null`. Keys that nobody knows are left alone here: clients send back what they were
told, and more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hormesis.chaos.toxiproxy.errors import bad_request
from hormesis.errors import ConfigurationError

__all__ = ["NAME_MAX", "Table", "field", "name_of", "object_of"]

T = TypeVar("T")
Table = dict[str, Any]
"""An object of JSON."""

NAME_MAX = 255
"""Characters of a name."""

_NAME = f"a text of 1 to {NAME_MAX} printable characters without '/', which separates them in a path"


def object_of(value: object, what: str) -> Table:
    """Return a JSON object with its keys in lower case, without those that are null.

    Raises:
        ApiError: It is none.
    """
    if not isinstance(value, Mapping):
        raise bad_request(f"{what} is {_short(value)}; it takes an object")
    return {str(key).lower(): each for key, each in value.items() if each is not None}


def field(table: Table, key: str, kind: type[T], default: T) -> T:
    """Return a field of some type, or the default where it is not given.

    Raises:
        ApiError: It is of another type.
    """
    value = table.get(key, default)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        accepted = {str: "a text", bool: "true or false", int: "a whole number"}[kind]
        raise bad_request(ConfigurationError.bad_value(key, value, accepted))
    return value


def name_of(table: Table, default: str = "") -> str:
    """Return the name; empty when there is none.

    Raises:
        ApiError: It can't be one.
    """
    name = field(table, "name", str, default)
    if len(name) > NAME_MAX or "/" in name or not name.isprintable():
        raise bad_request(ConfigurationError.bad_value("name", _short(name), _NAME))
    return name


def _short(value: object, longest: int = 60) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"
