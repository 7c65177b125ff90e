"""Reading settings out of TOML tables, with errors that an operator can act on.

Settings are frozen dataclasses. pydantic reads them as they are and is imported only when a file is loaded, so policies
written in code need nothing but the standard library. What this module adds is the error: one message that names file,
key, value and what would be accepted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import keyword
import os
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from hormesis.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["ACCEPTED", "Settings", "in_file", "read", "read_file", "read_toml", "schema"]

T = TypeVar("T")

ACCEPTED = "accepted"
"""Key of a field's metadata: what it takes, in words, where its type would not tell an operator."""

_UNKNOWN_KEY = "unexpected_keyword_argument"
"""pydantic's name for a key that is no field."""

_FILE_BYTES_MAX = 1_000_000
"""A policy file is a page or two; what is larger was not meant."""


class Settings:
    """The base of settings that can come from a file: a key that is not a field is an error, never ignored."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}


def read_file(path: str | os.PathLike[str], what: str, bytes_max: int = _FILE_BYTES_MAX) -> bytes:
    """Read a file within a bound.

    Args:
        path: Where it is.
        what: What it should be, for the error.
        bytes_max: What is larger was not meant.

    Raises:
        ConfigurationError: There is no such file, it can't be read, or it is larger than that.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > bytes_max:
        raise ConfigurationError(f"{path}: is larger than {bytes_max:,} bytes; that is no {what}")
    return data


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigurationError: There is no such file, it can't be read, or it is not TOML.
    """
    import tomllib  # noqa: PLC0415  policies in code need no parser

    data = read_file(path, "settings file")
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: is not TOML: {error}") from error


@functools.lru_cache(maxsize=64)  # making one takes milliseconds
def _reader(cls: type[T]) -> TypeAdapter[T]:
    """Return pydantic's reader of a settings class.

    Raises:
        MissingExtraError: pydantic is not installed.
    """
    try:
        from pydantic import TypeAdapter  # noqa: PLC0415  only files need it
    except ImportError as error:
        raise MissingExtraError("reading settings from a file", "files") from error
    return TypeAdapter(cls)


def read(cls: type[T], table: object, key: str) -> T:
    """Read one settings object out of a table.

    Args:
        cls: A dataclass that derives from `Settings`.
        table: What stood in the file.
        key: Where it stood, dotted.

    Raises:
        ConfigurationError: Something in it is unknown, missing, or can't be meant; the message names it.
    """
    reader: TypeAdapter[T] = _reader(cls)  # type: ignore[arg-type]  # a class can be hashed, even if its values can't
    from pydantic import ValidationError  # noqa: PLC0415

    table = _with_field_names(cls, table)
    try:
        # As JSON, because only there pydantic's strict mode (no guessing: "3" is no number, true is not 1) takes tables
        # for dataclasses.
        return reader.validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise _explain(cls, table, key, problems) from None


def schema(cls: type[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a settings class; what only code can say (functions, exception types) is left out."""
    reader: TypeAdapter[Any] = _reader(cls)  # type: ignore[arg-type]  # likewise
    from pydantic.json_schema import GenerateJsonSchema  # noqa: PLC0415
    from pydantic_core import PydanticOmit  # noqa: PLC0415

    class WhatJsonCanSay(GenerateJsonSchema):
        def handle_invalid_for_json_schema(self, schema: object, error_info: str) -> NoReturn:
            raise PydanticOmit

    with warnings.catch_warnings():
        # pydantic tells of every default that JSON has no word for; leaving those out is what we want.
        warnings.simplefilter("ignore")
        found: dict[str, Any] = reader.json_schema(schema_generator=WhatJsonCanSay)
    for table in (found, *found.get("$defs", {}).values()):
        if "properties" in table:
            names = dict(zip(table["properties"], _in_file_words(table["properties"]), strict=True))
            table["properties"] = {names[name]: value for name, value in table["properties"].items()}
            table["required"] = [names[name] for name in table.get("required", ())]
    return found


def _with_field_names(cls: Any, table: object) -> object:
    """Give keys that are Python's own words (`from`) the names of their fields (`from_`).

    Only where a class has such a field: below a field that takes any table, the keys are the user's. A key that is
    spelt like the field itself gets one underscore more, and so is as unknown as it should be.
    """
    if isinstance(table, Mapping):
        names = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
        keys = {key: f"{key}_" if f"{key}_" in names or (key in names and key.endswith("_")) else key for key in table}
        return {keys[key]: _with_field_names(_step(cls, keys[key]), value) for key, value in table.items()}
    if isinstance(table, list):
        return [_with_field_names(_step(cls, index), item) for index, item in enumerate(table)]
    return table


def _in_file_words(steps: Iterable[object]) -> list[str]:
    """Undo that in a path of keys."""
    words = [str(step) for step in steps]
    return [word[:-1] if word.endswith("_") and keyword.iskeyword(word.rstrip("_")) else word for word in words]


def in_file(path: str | os.PathLike[str], error: ConfigurationError) -> ConfigurationError:
    """Return the same error with the file's name before it."""
    return ConfigurationError(f"{path}: {error.message}", error.key)


def _explain(cls: type[Any], table: object, key: str, problems: list[Any]) -> ConfigurationError:
    """Make one error of pydantic's list: the first problem, with all that pydantic says about the same place."""
    # A misspelt key is missing as well; that it is unknown says more.
    first = next((problem for problem in problems if problem["type"] == _UNKNOWN_KEY), problems[0])
    path = _path_in(table, first["loc"])
    where = ".".join([*([key] if key else []), *_in_file_words(path)])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigurationError):
        full = ".".join(filter(None, (where, cause.key)))
        if cause.key and cause.message.startswith(cause.key):
            return ConfigurationError(".".join(filter(None, (where, cause.message))), full)
        return ConfigurationError(f"{full}: {cause.message}" if full else cause.message, full)
    if first["type"] == _UNKNOWN_KEY:
        owner = _class_at(cls, path[:-1])
        known = [field.name.removesuffix("_") for field in dataclasses.fields(owner) if field.init] if owner else []
        parent = ".".join(where.split(".")[:-1])
        (name,) = _in_file_words(path[-1:])
        error = ConfigurationError.unknown("key", name, [each for each in known if each])
        return ConfigurationError(f"{parent}: {error.message}" if parent else error.message, where)
    if first["type"] in {"missing", "missing_argument"}:
        missing = ".".join([*([where] if where else []), *_in_file_words(first["loc"][len(path) :])])
        return ConfigurationError(f"{missing} is missing", missing)
    value = first["input"] if path else table
    declared = _declared(cls, path)
    if declared is not None:
        return ConfigurationError(f"{where} is {value!r}; it takes {declared}", where)
    said = dict.fromkeys(p["msg"] for p in problems if _path_in(table, p["loc"]) == path)
    accepted = " or ".join(text.removeprefix("Input should be ").removesuffix(" instance") for text in said)
    return ConfigurationError(f"{where} is {value!r}; it takes {accepted}", where)


def _path_in(table: object, location: Iterable[Any]) -> list[Any]:
    """The part of a location that exists in the data; the rest names branches of a union."""
    path: list[Any] = []
    for step in location:
        if (isinstance(table, Mapping) and step in table) or (
            isinstance(table, list) and isinstance(step, int) and step < len(table)
        ):
            table = table[step]
        else:
            break
        path.append(step)
    return path


def _declared(cls: type[Any], path: Sequence[Any]) -> str | None:
    """What the nearest field on the way to a path says of itself that it takes (`ACCEPTED` in its metadata)."""
    for length in range(len(path), 0, -1):
        owner = _class_at(cls, path[: length - 1])
        for field in dataclasses.fields(owner) if owner else ():
            if field.name == path[length - 1]:
                accepted: str | None = field.metadata.get(ACCEPTED)
                return accepted
    return None


def _class_at(cls: Any, path: Iterable[Any]) -> type[Any] | None:
    """The dataclass that a path of keys leads to."""
    for step in path:
        cls = _step(cls, step)
    return cls if dataclasses.is_dataclass(cls) and isinstance(cls, type) else None


def _step(cls: Any, step: object) -> Any:
    """The type that one key leads to: of a field, or of the values of a mapping or sequence; None when nobody knows."""
    if dataclasses.is_dataclass(cls):
        cls = typing.get_type_hints(cls).get(str(step))
    else:
        members = [member for member in typing.get_args(cls) if member is not ...]  # as in tuple[Rule, ...]
        cls = members[-1] if members else None
    if isinstance(cls, types.UnionType) or typing.get_origin(cls) is typing.Union:
        members = [member for member in typing.get_args(cls) if member is not type(None)]
        cls = next((member for member in members if dataclasses.is_dataclass(member)), members[0])
    return cls
