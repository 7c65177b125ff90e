"""The values of an experiment: configuration, secrets, and `${name}` in texts.

A configuration value stands in the file, comes from the environment, or is what a probe says before the experiment
begins. A secret belongs to a group of secrets; an activity names the groups that it is given. `${name}` anywhere in an
activity's arguments, addresses, headers, pauses and tolerances is replaced by the configuration's value or else a
secret's. Where the text is nothing but `${name}`, the value keeps its type. A name that nobody knows stays as it is:
it may be meant for a shell.
"""

from __future__ import annotations

import json
import os
import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hormesis.errors import ConfigurationError

__all__ = ["Table", "Values", "configuration", "convert", "secrets", "variables"]

Table = dict[str, Any]
"""An object of an experiment file, as it is: controls and the journal are given the same one."""

_PLACEHOLDER = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")


def _json(text: str) -> Any:
    return json.loads(text) if text else text


_TYPES: dict[str, Callable[[str], Any]] = {
    "str": str,
    "string": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bytes": str.encode,
    "bool": lambda text: text.lower() not in ("false", "0", "no"),
    "json": _json,
}


class Values:
    """What `${name}` stands for.

    Args:
        configuration: Values by name; they come first.
        secrets: Groups of secrets by name.

    >>> values = Values({"host": "127.0.0.1", "port": 8080}, {"shop": {"token": "t0p"}})
    >>> values.fill({"url": "http://${host}:${port}/", "port": "${port}", "auth": ["Bearer ${token}", "${HOME}"]})
    {'url': 'http://127.0.0.1:8080/', 'port': 8080, 'auth': ['Bearer t0p', '${HOME}']}
    """

    def __init__(self, configuration: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
        self.configuration = dict(configuration)
        self.secrets = dict(secrets)

    def fill(self, value: Any) -> Any:
        """Return a value with every placeholder in it replaced, as deep as it goes.

        Where there are no values at all, nothing is looked at, so `$$` stays what it is to a shell.
        """
        if not self.configuration and not self.secrets:
            return value
        if isinstance(value, str):
            return self._fill_text(value)
        if isinstance(value, Mapping):
            return {key: self.fill(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill(each) for each in value]
        return value

    def groups(self, names: str | Iterable[str]) -> Table:
        """Return the secrets of some groups as one table, which is what a function is given."""
        wanted = [names] if isinstance(names, str) else names
        return {key: value for name in wanted for key, value in dict(self.secrets.get(name) or {}).items()}

    def _fill_text(self, text: str) -> Any:
        groups = [group for group in self.secrets.values() if isinstance(group, Mapping)]
        known = ChainMap(self.configuration, *map(dict, groups))
        whole = _PLACEHOLDER.fullmatch(text)
        if whole is not None and (name := whole[1] or whole[2]) in known:
            return known[name]

        def replace(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            return "$" if name is None else str(known[name]) if name in known else match[0]

        return _PLACEHOLDER.sub(replace, text)


def configuration(tables: Mapping[str, Any], given: Mapping[str, Any]) -> Table:
    """Return the configuration of an experiment; what a probe is to say stays a table of `type = "probe"`.

    Args:
        tables: The file's `configuration`.
        given: Values from the command line, which come first.

    Raises:
        ConfigurationError: A variable of the environment is missing, or is not of the type that is asked for.
    """
    for name in given:
        if name not in tables:
            raise ConfigurationError(f"--var: {ConfigurationError.unknown('configuration', name, tables)}")
    found: Table = {}
    for name, value in tables.items():
        if name in given:
            found[name] = given[name]
        elif isinstance(value, Mapping) and value.get("type") == "env":
            found[name] = _from_environment(value, f"configuration.{name}")
        else:
            found[name] = value
    return found


def secrets(tables: Mapping[str, Any], where: str = "secrets") -> Table:
    """Return the secrets of an experiment.

    Raises:
        ConfigurationError: A variable of the environment is missing, or a secret is kept where it can't be read from.
    """
    found: Table = {}
    for name, value in tables.items():
        key = f"{where}.{name}"
        kind = value.get("type") if isinstance(value, Mapping) else None
        if kind == "env":
            found[name] = _from_environment(value, key)
        elif kind == "vault":
            raise ConfigurationError(
                f"{key} is kept in a vault, which is not read from here; hand it over by the environment: "
                '{"type": "env", "key": "…"}',
                key,
            )
        else:
            found[name] = secrets(value, key) if isinstance(value, Mapping) else value
    return found


def _from_environment(table: Mapping[str, Any], key: str) -> Any:
    variable = table.get("key")
    if not isinstance(variable, str) or not variable:
        raise ConfigurationError.bad_value(f"{key}.key", variable, "the name of a variable of the environment")
    if variable not in os.environ:
        if "default" in table:
            default = table["default"]
            return convert(table.get("env_var_type"), default, key) if isinstance(default, str) else default
        raise ConfigurationError(f"{key} is taken from the environment, where there is no {variable!r}", key)
    return convert(table.get("env_var_type"), os.environ[variable], key)


def convert(kind: str | None, text: str, key: str) -> Any:
    """Return a text as a value of a type: str, int, float, bytes, bool or json.

    Raises:
        ConfigurationError: There is no such type, or the text is none of it.
    """
    if kind is None:
        return text
    if kind not in _TYPES:
        raise ConfigurationError(f"{key}: {ConfigurationError.unknown('type', kind, _TYPES)}", key)
    try:
        return _TYPES[kind](text)
    except ValueError:
        raise ConfigurationError.bad_value(key, text, f"a text that can be read as {kind}") from None


def variables(given: Iterable[str]) -> Table:
    """Return configuration that is given as `name=value` or `name:type=value`.

    >>> variables(["host=127.0.0.1", "port:int=8080"])
    {'host': '127.0.0.1', 'port': 8080}

    Raises:
        ConfigurationError: A text is neither of these.
    """
    found: Table = {}
    for text in given:
        left, equals, value = text.partition("=")
        name, colon, kind = left.partition(":")
        if not equals or not name:
            raise ConfigurationError.bad_value("--var", text, "name=value or name:type=value")
        found[name] = convert(kind if colon else None, value, f"--var {name}")
    return found
