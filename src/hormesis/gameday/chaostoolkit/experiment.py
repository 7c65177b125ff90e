"""The file of an experiment, JSON or YAML: read, and refused where it can't be meant.

It stays the tables that it is made of: controls are handed them and may change them, and the journal holds a copy as it
was. So nothing is turned into classes here; `read` makes sure of what the rest of the package takes for granted. The
functions of Python providers are looked up, which imports their modules, so that a misspelt one is found before
anything is done to the system.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.gameday.chaostoolkit import tolerance
from hormesis.gameday.chaostoolkit.values import Table
from hormesis.tables import read_file

__all__ = ["activity_of", "function_of", "is_experiment", "probes_of", "read", "validate"]

_SUFFIXES = (".json", ".yaml", ".yml")
_PROVIDERS = ("python", "process", "http")
_BYTES_MAX = 10_000_000
"""A file this long was not written as an experiment."""


def is_experiment(path: str | os.PathLike[str]) -> bool:
    """Say by its name whether a file is an experiment of the Chaos Toolkit's.

    >>> is_experiment("experiment.json"), is_experiment("gameday.toml")
    (True, False)
    """
    return Path(path).suffix.lower() in _SUFFIXES


def read(path: str | os.PathLike[str]) -> Table:
    """Read an experiment.

    Raises:
        ConfigurationError: There is no such file, it is neither JSON nor YAML, or something in it can't be meant.
        MissingExtraError: It is YAML, and the extra `gameday` is not installed.
    """
    content = read_file(path, "experiment", _BYTES_MAX)
    try:
        text = content.decode("utf-8-sig")
        experiment = _json(text) if Path(path).suffix.lower() == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: {' '.join(str(error).split())}") from None
    try:
        validate(experiment)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", error.key) from None
    checked: Table = experiment
    return checked


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from None


def _yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415  only a YAML file needs it
    except ImportError:
        raise MissingExtraError("an experiment in YAML", "gameday") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML: {error}") from None


def probes_of(experiment: Table) -> list[Table]:
    """Return the probes of the steady-state hypothesis; none when there is no hypothesis."""
    hypothesis: Table = experiment.get("steady-state-hypothesis") or {}
    probes: list[Table] = hypothesis.get("probes") or []
    return probes


def activity_of(experiment: Table, activity: Table) -> Table:
    """Return what an activity refers to, or itself.

    Raises:
        ConfigurationError: No activity has that name.
    """
    name = activity.get("ref")
    if name is None:
        return activity
    known: dict[str, Table] = {
        each["name"]: each for each in (*(experiment.get("method") or []), *probes_of(experiment)) if "name" in each
    }
    if name not in known:
        raise ConfigurationError.unknown("activity", name, known, "ref")
    return known[name]


def function_of(provider: Table, where: str) -> Callable[..., Any]:
    """Return the function that a Python provider names.

    Raises:
        ConfigurationError: There is no such module, or no such function in it.
    """
    module, name = provider.get("module"), provider.get("func")
    if not isinstance(module, str) or not module:
        raise ConfigurationError.bad_value(f"{where}.module", module, "the dotted name of a module")
    if not isinstance(name, str) or not name:
        raise ConfigurationError.bad_value(f"{where}.func", name, "the name of a function of that module")
    try:
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigurationError(f"{where}.module: {module!r} can't be imported: {error}", where) from None
    except AttributeError:
        raise ConfigurationError(f"{where}.func: the module {module!r} has no {name!r}", where) from None
    if not callable(function):
        raise ConfigurationError(f"{where}.func: {module}.{name} can't be called", where)
    result: Callable[..., Any] = function
    return result


def validate(experiment: Any) -> None:
    """Refuse an experiment that can't be run.

    Raises:
        ConfigurationError: What is wrong, with the key it stands under.
    """
    if not isinstance(experiment, dict):
        raise ConfigurationError("an experiment is an object with a title, a description and a method")
    for name in ("title", "description"):
        if not isinstance(experiment.get(name), str) or not experiment[name]:
            raise ConfigurationError.bad_value(name, experiment.get(name), "a text; every experiment has one")
    for name in ("configuration", "secrets"):
        _table(experiment.get(name) or {}, name)
    hypothesis = experiment.get("steady-state-hypothesis")
    if hypothesis is not None:
        where = "steady-state-hypothesis"
        if not _table(hypothesis, where).get("title"):
            raise ConfigurationError.bad_value(f"{where}.title", hypothesis.get("title"), "a text")
        for probe, place in _list(hypothesis.get("probes") or [], f"{where}.probes"):
            _activity(probe, place)
            if "ref" not in probe:
                if "tolerance" not in probe:
                    raise ConfigurationError(f"{place}.tolerance is missing: what is the probe to say?", place)
                _tolerance(probe["tolerance"], f"{place}.tolerance")
    if "method" not in experiment:
        raise ConfigurationError("method is missing; it may be empty, to look at the steady state alone", "method")
    for name in ("method", "rollbacks"):
        for activity, place in _list(experiment.get(name) or [], name):
            _activity(activity, place)
            activity_of(experiment, activity)
    for control, place in _controls(experiment):
        _control(control, place, [each["name"] for each, _ in _controls(experiment) if "name" in each])


def _table(value: Any, where: str) -> Table:
    if not isinstance(value, dict):
        raise ConfigurationError.bad_value(where, value, "an object")
    return value


def _list(value: Any, where: str) -> Iterator[tuple[Table, str]]:
    """Yield the objects of a list, each with its place in the file."""
    if not isinstance(value, list):
        raise ConfigurationError.bad_value(where, value, "a list")
    for index, each in enumerate(value):
        yield _table(each, f"{where}[{index}]"), f"{where}[{index}]"


def _activity(activity: Table, where: str) -> None:
    if "ref" in activity:
        return
    if activity.get("type") not in ("probe", "action"):
        raise ConfigurationError.bad_value(f"{where}.type", activity.get("type"), "'probe' or 'action'")
    if not isinstance(activity.get("name"), str) or not activity["name"]:
        raise ConfigurationError.bad_value(f"{where}.name", activity.get("name"), "a text")
    if not isinstance(activity.get("background", False), bool):
        raise ConfigurationError.bad_value(f"{where}.background", activity["background"], "true or false")
    pauses = _table(activity.get("pauses") or {}, f"{where}.pauses")
    for key, seconds in [(f"pauses.{when}", pauses.get(when)) for when in ("before", "after")] + [
        ("timeout", activity.get("timeout"))
    ]:
        if not _is_seconds(seconds):
            raise ConfigurationError.bad_value(f"{where}.{key}", seconds, "a number of seconds, or '${name}'")
    _provider(_table(activity.get("provider"), f"{where}.provider"), f"{where}.provider")


def _is_seconds(value: Any) -> bool:
    if isinstance(value, str):
        return value.startswith("${") and value.endswith("}")
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value >= 0)


def _provider(provider: Table, where: str) -> None:
    kind = provider.get("type")
    if kind not in _PROVIDERS:
        raise ConfigurationError(f"{where}.type: {ConfigurationError.unknown('provider', kind, _PROVIDERS)}", where)
    limit = provider.get("timeout")
    if not all(map(_is_seconds, limit if isinstance(limit, list) and len(limit) == 2 else [limit])):
        raise ConfigurationError.bad_value(f"{where}.timeout", limit, "a number of seconds, or '${name}'")
    if kind == "python":
        _check_arguments(function_of(provider, where), provider, where)
    elif kind == "http":
        if not isinstance(provider.get("url"), str) or not provider["url"]:
            raise ConfigurationError.bad_value(f"{where}.url", provider.get("url"), "an address such as 'http://…'")
        _table(provider.get("headers") or {}, f"{where}.headers")
    else:
        path = provider.get("path")
        if not isinstance(path, str) or not path:
            raise ConfigurationError.bad_value(f"{where}.path", path, "a program to run")
        if "${" not in path and shutil.which(os.path.expanduser(path)) is None:
            raise ConfigurationError(f"{where}.path: there is no program {path!r} that can be run", where)


def _check_arguments(function: Callable[..., Any], provider: Table, where: str) -> None:
    """Refuse arguments that the function does not take, where it can be asked."""
    arguments = dict(_table(provider.get("arguments") or {}, f"{where}.arguments"))
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some builtins have none.
        return
    arguments.update({name: None for name in ("configuration", "secrets", "value") if name in signature.parameters})
    try:
        signature.bind(**arguments)
    except TypeError as error:
        name = f"{provider['module']}.{provider['func']}"
        raise ConfigurationError(f"{where}.arguments: {name}{signature}: {error}", where) from None


def _tolerance(value: Any, where: str) -> None:
    tolerance.check(value, where)
    if isinstance(value, Mapping) and value.get("type") == "probe":
        _activity({"name": "tolerance", **value}, where)


def _controls(experiment: Table) -> Iterator[tuple[Table, str]]:
    hypothesis = experiment.get("steady-state-hypothesis") or {}
    yield from _list(experiment.get("controls") or [], "controls")
    yield from _list(hypothesis.get("controls") or [], "steady-state-hypothesis.controls")
    for place, activities in (
        ("steady-state-hypothesis.probes", probes_of(experiment)),
        ("method", experiment.get("method") or []),
        ("rollbacks", experiment.get("rollbacks") or []),
    ):
        for index, activity in enumerate(activities):
            yield from _list(activity.get("controls") or [], f"{place}[{index}].controls")


def _control(control: Table, where: str, known: list[str]) -> None:
    if "ref" in control:
        if control["ref"] not in known:
            raise ConfigurationError(f"{where}: {ConfigurationError.unknown('control', control['ref'], known)}", where)
        return
    if not isinstance(control.get("name"), str) or not control["name"]:
        raise ConfigurationError.bad_value(f"{where}.name", control.get("name"), "a text")
    if control.get("scope") not in (None, "before", "after"):
        raise ConfigurationError.bad_value(f"{where}.scope", control["scope"], "'before' or 'after'")
    provider = _table(control.get("provider"), f"{where}.provider")
    if provider.get("type") != "python":
        raise ConfigurationError.bad_value(f"{where}.provider.type", provider.get("type"), "'python'")
    module = provider.get("module")
    if not isinstance(module, str) or not module:
        raise ConfigurationError.bad_value(f"{where}.provider.module", module, "the dotted name of a module")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{where}.provider.module: {module!r} can't be imported: {error}", where) from None
