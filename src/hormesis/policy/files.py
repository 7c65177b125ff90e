"""Policies from a file.

    [policy.inventory]
    deadline = "2s"
    retry = { attempts = 3, on = "transient" }
    circuit_breaker = { failure_rate = 0.5, slow_after = "300ms" }
    bulkhead = { max_concurrent = 20, max_queued = 40 }
    timeout = "500ms"

Each key of a policy is a part; a value that is no table stands for the part's one obvious setting. The part classes are
read as they are, so a setting added to a class is a setting of the file. Rooms further up register tables of their own
beside `[policy]`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hormesis import tables
from hormesis.errors import ConfigurationError
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.part import Part
from hormesis.patterns.retry import Retry
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.policy import Order, Policy
from hormesis.policy.registry import Registry

__all__ = ["Policies", "load", "register_section", "schema"]

_PARTS: dict[str, type[Any]] = {
    cls.slot.key: cls for cls in (Deadline, Fallback, Retry, CircuitBreaker, Bulkhead, Timeout)
}
_ONE_OBVIOUS = {"deadline": "limit", "timeout": "limit", "bulkhead": "max_concurrent"}
"""The setting that a plain value stands for."""

_ORDERS: tuple[Order, ...] = ("standard", "as given")

_sections: dict[str, Callable[[object, str], object]] = {}


def register_section(name: str, read: Callable[[object, str], object]) -> None:
    """Let policy files have a table beside `[policy]`; `read` takes its value and name, and returns what it means."""
    _sections[name] = read


class Policies(Mapping[str, Policy]):
    """The policies of a file, by name. They share one registry of state.

    `sections` holds what the file's other tables mean, by name.
    """

    def __init__(self, path: Path, policies: Mapping[str, Policy], sections: Mapping[str, object]) -> None:
        self.path = path
        self._policies = dict(policies)
        self.sections = dict(sections)

    def __getitem__(self, name: str) -> Policy:
        """Return a policy.

        Raises:
            KeyError: The file has none of that name; the message names those that it has.
        """
        try:
            return self._policies[name]
        except KeyError:
            error = ConfigurationError.unknown("policy", name, self._policies)
            raise KeyError(f"{self.path}: {error.message}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)

    def __repr__(self) -> str:
        return f"<Policies of {self.path}: {', '.join(self)}>"


def load(path: str | os.PathLike[str], *, registry: Registry | None = None) -> Policies:
    """Read policies from a TOML file.

    Args:
        path: The file.
        registry: Where the state of its policies lives; a new one by default.

    Raises:
        ConfigurationError: There is no such file, or something in it can't be meant. The message names file, key and
            value, and what would be accepted.
        MissingExtraError: The extra `files` is not installed.
    """
    path = Path(path)
    data = tables.read_toml(path)
    registry = registry if registry is not None else Registry()
    try:
        known = ("policy", *_sections)
        for name in data:
            if name not in known:
                raise ConfigurationError.unknown("table", name, known, name)
        policies = {
            name: _policy(name, table, registry) for name, table in _table(data.get("policy", {}), "policy").items()
        }
        sections = {name: _sections[name](value, name) for name, value in data.items() if name != "policy"}
    except ConfigurationError as error:
        raise tables.in_file(path, error) from None
    if not policies and not sections:
        raise ConfigurationError(f"{path}: holds no policies; a policy is a table such as [policy.inventory]")
    return Policies(path, policies, sections)


def _policy(name: str, table: object, registry: Registry) -> Policy:
    key = f"policy.{name}"
    parts: list[Part] = []
    order: Order = "standard"
    for part_key, value in _table(table, key).items():
        if part_key == "order":
            if value not in _ORDERS:
                raise ConfigurationError.bad_value(f"{key}.order", value, " or ".join(map(repr, _ORDERS)))
            order = value
        elif part_key in _PARTS:
            parts.append(_part(part_key, value, f"{key}.{part_key}"))
        else:
            unknown = ConfigurationError.unknown("part", part_key, (*_PARTS, "order"))
            raise ConfigurationError(f"{key}: {unknown.message}", f"{key}.{part_key}")
    try:
        return Policy(*parts, name=name, order=order, registry=registry)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key}: {error.message}", key) from None


def _part(part_key: str, value: object, key: str) -> Part:
    obvious = _ONE_OBVIOUS.get(part_key)
    if not isinstance(value, Mapping):
        if obvious is None:
            raise ConfigurationError.bad_value(key, value, f"a table such as {part_key} = {{ … }}")
        value = {obvious: value}
    part: Part = tables.read(_PARTS[part_key], value, key)
    return part


def _table(value: object, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError.bad_value(key, value, f"a table such as [{key}]")
    return value


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file, for editors and CI."""
    parts: dict[str, Any] = {}
    for key, cls in _PARTS.items():
        table = tables.schema(cls)
        obvious = _ONE_OBVIOUS.get(key)
        parts[key] = {"anyOf": [table["properties"][obvious], table]} if obvious else table
    order = {"enum": list(_ORDERS), "default": _ORDERS[0]}
    policy = {"type": "object", "properties": {**parts, "order": order}, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hormesis policies",
        "type": "object",
        "properties": {
            "policy": {"type": "object", "additionalProperties": policy},
            **{name: {} for name in _sections},
        },
        "additionalProperties": False,
    }
