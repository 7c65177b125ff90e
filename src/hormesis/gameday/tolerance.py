"""What a probe may find, and whether it did: pure, and the same for every kind of probe.

A probe finds a *value* (an HTTP status, the first cell of a query, an exit status, what a function returned) and a
*document* (the body, the rows, the output, the same return value). A tolerance is

- a plain value: what the value must be; a list: the values that will do;
- `{ min = 1, max = 9 }`: bounds of the value, each included;
- `{ matches = "…" }`, `{ contains = "…" }`: a regular expression found in the document's text, or a part of it;
- `{ path = "items.0.state", is = "paid" }`: a place in the document, on which any of the others are asked;
- with several of them, all must hold.

A text of the form `"{order.full}"` stands for a number that is known only when the probe is made.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.loadgen.expect import MISSING, at_path, steps

__all__ = ["Found", "Tolerance", "shortened"]

_KEYS = ("is", "in", "min", "max", "matches", "contains", "path")
_TEXT_SHOWN = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a probe found.

    Attributes:
        value: What plain tolerances are held against.
        document: What paths and texts are looked for in; text that is JSON is read as such when a path is asked.
    """

    value: Any
    document: Any = None


class Tolerance:
    """What will do.

    Args:
        table: As it stands in the file.

    Raises:
        ConfigurationError: It can't be meant.

    >>> Tolerance([200, 204]).miss(Found(503))
    'is 503, not one of 200, 204'
    >>> Tolerance({"path": "stock.0.left", "min": 1}).miss(Found(200, '{"stock": [{"left": 0}]}'))
    'stock.0.left is 0, below 1'
    """

    __slots__ = ("table",)

    def __init__(self, table: object) -> None:
        self.table: Mapping[str, Any]
        if isinstance(table, Mapping):
            self.table = dict(table)
        else:
            plain = isinstance(table, Sequence) and not isinstance(table, str)
            self.table = {"in": list(table)} if plain and isinstance(table, Sequence) else {"is": table}
        self._check()

    def _check(self) -> None:
        for key in self.table:
            if key not in _KEYS:
                raise ConfigurationError.unknown("tolerance", key, _KEYS, "tolerance")
        if not set(self.table) - {"path"}:
            accepted = "a value, a list of them, or a table of min, max, matches, contains, path and is"
            raise ConfigurationError.bad_value("tolerance", dict(self.table), accepted)
        if not isinstance(self.table.get("in", []), list):
            raise ConfigurationError.bad_value("tolerance.in", self.table["in"], "a list of values")
        for key in ("min", "max"):
            bound = self.table.get(key, 0)
            if not (_is_number(bound) or (isinstance(bound, str) and bound.startswith("{"))):
                raise ConfigurationError.bad_value(f"tolerance.{key}", bound, "a number")
        for key in ("matches", "contains", "path"):
            if not isinstance(self.table.get(key, ""), str):
                raise ConfigurationError.bad_value(f"tolerance.{key}", self.table[key], "a text")
        steps(self.table.get("path", "$"))
        try:
            re.compile(self.table.get("matches", ""))
        except re.error as error:
            accepted = f"a regular expression ({error})"
            raise ConfigurationError.bad_value("tolerance.matches", self.table["matches"], accepted) from None

    def miss(self, found: Found) -> str:
        """Say in which way what was found will not do; empty when it will."""
        value, document, what = found.value, found.document, ""
        if (path := self.table.get("path")) is not None:
            value = document = at_path(_as_json(document), path)
            if value is MISSING:
                return f"has nothing at {path}"
            what = f"{path} "
        for key, wanted in self.table.items():
            if wrong := _wrong(key, wanted, value, document):
                return what + wrong
        return ""


def _wrong(key: str, wanted: Any, value: Any, document: Any) -> str:
    shown = shortened(value)
    match key:
        case "is":
            return "" if _same(value, wanted) else f"is {shown}, not {shortened(wanted)}"
        case "in":
            listed = ", ".join(map(shortened, wanted))
            return "" if any(_same(value, each) for each in wanted) else f"is {shown}, not one of {listed}"
        case "min" | "max":
            number = _number(value)
            if number is None:
                return f"is {shown}, no number"
            bound = float(wanted)
            if key == "min":
                return "" if number >= bound else f"is {shown}, below {bound:g}"
            return "" if number <= bound else f"is {shown}, above {bound:g}"
        case "matches":
            return "" if re.search(wanted, _text(document)) else f"is {shortened(document)}, which does not match"
        case "contains":
            return "" if wanted in _text(document) else f"is {shortened(document)}, without {shortened(wanted)}"
        case _:
            return ""


def shortened(value: Any) -> str:
    """Write a value for a message, on one line and not at length."""
    text = value if isinstance(value, str) else _text(value)
    text = " ".join(text.split())
    return text if len(text) <= _TEXT_SHOWN else text[: _TEXT_SHOWN - 1] + "…"


def _same(value: Any, wanted: Any) -> bool:
    """Whether two values are the same; a number is that of its text, as programs print it."""
    if _is_number(wanted) and not isinstance(value, bool):
        return bool(_number(value) == wanted)
    return bool(value == wanted and type(value) is type(wanted))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def _as_json(document: Any) -> Any:
    if not isinstance(document, str):
        return document
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


def _text(document: Any) -> str:
    return document if isinstance(document, str) else json.dumps(document, default=str, ensure_ascii=False)
