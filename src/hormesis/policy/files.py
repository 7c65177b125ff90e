"""Policies from a file.

    [policy.inventory]
    deadline = "2s"
    retry = { attempts = 3, on = "transient" }
    circuit_breaker = { failure_rate = 0.5, slow_after = "300ms" }
    bulkhead = { max_concurrent = 20, max_queued = 40 }
    timeout = "500ms"

Each key of a policy is a part, or one of `order`, `shadow`, `calls` and `expects`, as `Policy` takes them. A value that
is no table stands for the part's one obvious setting. The part classes are read as they are, so a setting added to a
class is a setting of the file. Rooms further up register tables of their own beside `[policy]`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from hormesis import tables
from hormesis.errors import ConfigurationError
from hormesis.patterns.bulkhead import Bulkhead
from hormesis.patterns.chaos import Chaos
from hormesis.patterns.circuit_breaker import CircuitBreaker
from hormesis.patterns.concurrency_limit import ConcurrencyLimit
from hormesis.patterns.degradation import DegradationSettings
from hormesis.patterns.fallback import Fallback
from hormesis.patterns.hedge import Hedge
from hormesis.patterns.part import Part, flag
from hormesis.patterns.rate_limit import RateLimit
from hormesis.patterns.retry import Retry
from hormesis.patterns.throttle import Throttle
from hormesis.patterns.timeout import Deadline, Timeout
from hormesis.policy.arrangement import Order
from hormesis.policy.expected import Expected
from hormesis.policy.policy import Policy
from hormesis.policy.registry import Registry
from hormesis.units import seconds

__all__ = ["Policies", "load", "register_section", "schema"]

_PARTS: dict[str, type[Any]] = {
    cls.slot.key: cls
    for cls in (
        Deadline,
        Fallback,
        Retry,
        Hedge,
        CircuitBreaker,
        Throttle,
        RateLimit,
        ConcurrencyLimit,
        Bulkhead,
        Timeout,
        Chaos,
    )
}
_ONE_OBVIOUS = {
    "deadline": "limit",
    "hedge": "delay",
    "rate_limit": "limits",
    "concurrency_limit": "limit",
    "bulkhead": "max_concurrent",
    "timeout": "limit",
    "chaos": "injections",
}
"""The setting that a plain value stands for."""

_ORDERS: tuple[Order, ...] = ("standard", "as given")
_NOT_PARTS = ("order", "shadow", "calls", "expects")
"""The keys of a policy that are no parts."""

Read = Callable[[object, str], object]
_sections: dict[str, tuple[Read, Callable[[], dict[str, Any]]]] = {}


def register_section(name: str, read: Read, schema: Callable[[], dict[str, Any]] = dict) -> None:
    """Let policy files have a table beside `[policy]`.

    Args:
        name: What it is called.
        read: Takes its value and name, and returns what it means.
        schema: Makes its JSON Schema; by default one that accepts anything.
    """
    _sections[name] = (read, schema)


register_section(
    "degradation",
    functools.partial(tables.read, DegradationSettings),
    functools.partial(tables.schema, DegradationSettings),
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Spec:
    """One policy as it stands in a file."""

    parts: tuple[Part, ...]
    order: Order = "standard"
    shadow: bool = False
    calls: tuple[str, ...] = ()
    expects: Expected | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Content:
    """A whole file: its policies, those that are called first, and what its other tables mean."""

    specs: Mapping[str, _Spec]
    sections: Mapping[str, object]


class Policies(Mapping[str, Policy]):
    """The policies of a file, by name. They share one registry of state.

    `sections` holds what the file's other tables mean, by name.
    """

    def __init__(self, path: Path, content: _Content, registry: Registry) -> None:
        self.path = path
        self._registry = registry
        self._lock = threading.Lock()
        self._policies: dict[str, Policy] = {}
        self.sections: dict[str, object] = {}
        self._become(content)

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

    def reload(self) -> list[str]:
        """Read the file again, and give the policies that are in use what it says now; their state is kept.

        Policies are matched by name. A policy object that somebody holds, and a function that it decorates, go on with
        the new settings from the next call on. One that the file no longer has goes on with the old ones.

        Returns:
            The names of the policies that are other or new now.

        Raises:
            ConfigurationError: As when it was loaded first; then nothing has changed.
        """
        content = _read(self.path)
        with self._lock:
            return self._become(content)

    def reload_on_change(self, *, every: float | str = 1.0) -> Callable[[], None]:
        """Look at the file from time to time, and reload it when it has changed; returns a function that stops that.

        A daemon thread looks. A file that can't be meant is logged once, and the settings stay as they were.

        Args:
            every: How often it looks.
        """
        from hormesis.policy.watching import watch_file  # noqa: PLC0415  most files are read once

        return watch_file(self.path, self.reload, seconds(every, "every"))

    def _become(self, content: _Content) -> list[str]:
        # Whatever can be wrong is found on policies of its own, before anything in use is touched.
        self._made(content, Registry(), {})
        changed = [name for name, spec in content.specs.items() if not self._is(name, spec)]
        self._policies = self._made(content, self._registry, self._policies)
        self.sections = dict(content.sections)
        return changed

    def _is(self, name: str, spec: _Spec) -> bool:
        known = self._policies.get(name)
        return known is not None and spec == _Spec(
            _sorted(known.parts, spec.parts),
            known.order,
            known.shadow,
            tuple(called.name for called in known.calls),
            known.expects,
        )

    def _made(self, content: _Content, registry: Registry, known: Mapping[str, Policy]) -> dict[str, Policy]:
        made: dict[str, Policy] = {}
        for name in _called_first(content.specs):
            spec = content.specs[name]
            calls = [made[called] for called in spec.calls]
            try:
                policy = known.get(name)
                if policy is None:
                    policy = Policy(
                        *spec.parts,
                        name=name,
                        order=spec.order,
                        shadow=spec.shadow,
                        calls=calls,
                        expects=spec.expects,
                        registry=registry,
                    )
                else:
                    policy.take_over(spec.parts, spec.order, shadow=spec.shadow, calls=calls, expects=spec.expects)
            except ConfigurationError as error:
                message = f"{self.path}: policy.{name}: {error.message}"
                raise ConfigurationError(message, f"policy.{name}") from None
            made[name] = policy
        return {name: made[name] for name in content.specs}


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
    return Policies(path, _read(path), registry if registry is not None else Registry())


def _read(path: Path) -> _Content:
    data = tables.read_toml(path)
    try:
        known = ("policy", *_sections)
        for name in data:
            if name not in known:
                raise ConfigurationError.unknown("table", name, known, name)
        specs = {name: _spec(name, table) for name, table in _table(data.get("policy", {}), "policy").items()}
        _called_first(specs)
        sections = {name: _sections[name][0](value, name) for name, value in data.items() if name != "policy"}
    except ConfigurationError as error:
        raise tables.in_file(path, error) from None
    if not specs and not sections:
        raise ConfigurationError(f"{path}: holds no policies; a policy is a table such as [policy.inventory]")
    return _Content(specs, sections)


def _spec(name: str, table: object) -> _Spec:
    key = f"policy.{name}"
    parts: list[Part] = []
    others: dict[str, Any] = {}
    for part_key, value in _table(table, key).items():
        if part_key == "order":
            if value not in _ORDERS:
                raise ConfigurationError.bad_value(f"{key}.order", value, " or ".join(map(repr, _ORDERS)))
            others["order"] = value
        elif part_key == "shadow":
            others["shadow"] = flag(f"{key}.shadow", value)
        elif part_key == "calls":
            if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                raise ConfigurationError.bad_value(f"{key}.calls", value, "a list of names of policies of this file")
            others["calls"] = tuple(value)
        elif part_key == "expects":
            others["expects"] = tables.read(Expected, value, f"{key}.expects")
        elif part_key in _PARTS:
            parts.append(_part(part_key, value, f"{key}.{part_key}"))
        else:
            unknown = ConfigurationError.unknown("part", part_key, (*_PARTS, *_NOT_PARTS))
            raise ConfigurationError(f"{key}: {unknown.message}", f"{key}.{part_key}")
    return _Spec(tuple(parts), **others)


def _called_first(specs: Mapping[str, _Spec]) -> list[str]:
    """The names of policies, each after those that it calls."""
    for name, spec in specs.items():
        for called in spec.calls:
            if called not in specs:
                unknown = ConfigurationError.unknown("policy", called, specs)
                raise ConfigurationError(f"policy.{name}.calls: {unknown.message}", f"policy.{name}.calls")
    try:
        return list(TopologicalSorter({name: spec.calls for name, spec in specs.items()}).static_order())
    except CycleError as error:
        circle = " > ".join(reversed(error.args[1]))
        raise ConfigurationError(f"policies call each other in a circle: {circle}", "policy") from None


def _sorted(parts: Sequence[Part], like: Sequence[Part]) -> tuple[Part, ...]:
    """Parts in the order in which a file names them; a policy sorts them."""
    return tuple(sorted(parts, key=lambda part: like.index(part) if part in like else len(like)))


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
    others = {
        "order": order,
        "shadow": {"type": "boolean", "default": False},
        "calls": {"type": "array", "items": {"type": "string"}},
        "expects": tables.schema(Expected),
    }
    policy = {"type": "object", "properties": {**parts, **others}, "additionalProperties": False}
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hormesis policies",
        "type": "object",
        "properties": {
            "policy": {"type": "object", "additionalProperties": policy},
            **{name: schema_of() for name, (_, schema_of) in _sections.items()},
        },
        "additionalProperties": False,
    }
    definitions: dict[str, Any] = {}
    _hoist(whole, definitions)
    return {**whole, "$defs": definitions} if definitions else whole


def _hoist(schema: object, into: dict[str, Any]) -> None:
    """Move the definitions of tables to where their references look for them: to the root."""
    if isinstance(schema, dict):
        into.update(schema.pop("$defs", {}))
    for value in list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _hoist(value, into)
