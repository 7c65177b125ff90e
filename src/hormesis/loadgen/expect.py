"""What a full answer must look like: its status, and what stands in it.

A service under stress may answer at once, with 200, and wrongly: another's order, an empty list, a page of excuses. The
check is made on full answers only. One that its service marks as degraded says itself that it is not what was asked
for, and one with another status has failed already.
"""

from __future__ import annotations

import json as json_
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.tables import Settings

__all__ = ["MISSING", "WRONG", "Expect", "at_path"]

WRONG = "wrong answer"
"""The error of an answer with the right status that does not hold what it should."""

MISSING = object()
"""What `at_path` finds where there is nothing."""

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_SHOWN_MAX = 60
"""Characters of an answer that are shown at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect(Settings):
    """What is asked of an answer; all of it must hold.

    Attributes:
        status: The status, or the statuses, of a full answer; None takes 200 to 299. Another one is the error
            `"status 500"`; all that follows, where it does not hold, the error `"wrong answer"`.
        json: By a path into the JSON of the body (`"items.0.sku"` or `"$.items[0].sku"`, `"$"` for all of it): the
            value that must stand there. Texts may hold the request's placeholders: `{"sku": "{sku}"}` asks for what was
            drawn for this arrival, as a text or as a number.
        contains: A text, or several, that must stand in the body.
        matches: A regular expression that must be found in the body.
        header: By name, the value of a header, or what of it stands before the first `;`. It may hold placeholders.

    Raises:
        ConfigurationError: A setting that can't be meant; the error names it.

    >>> expect = Expect(json={"items.0.sku": "{sku}"}, contains="total")
    >>> expect.wrong({}, b'{"items": [{"sku": 7}], "total": 1}', {"sku": "7"})
    ''
    >>> expect.wrong({}, b'{"items": [{"sku": 8}], "total": 1}', {"sku": "7"})
    "json items.0.sku is 8, not '7'"
    """

    status: int | Sequence[int] | None = None
    json: Mapping[str, Any] = field(default_factory=dict)
    contains: str | Sequence[str] = ()
    matches: str | None = None
    header: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", self._statuses())
        object.__setattr__(self, "contains", (self.contains,) if isinstance(self.contains, str) else (*self.contains,))
        if not all(map(_is_text, self.contains)):
            raise ConfigurationError.bad_value("contains", list(self.contains), "a text, or a list of texts")
        for path in self.json:
            steps(path)
        for name, value in self.header.items():
            if not isinstance(value, str):
                raise ConfigurationError.bad_value(f"header.{name}", value, "a text")
        object.__setattr__(self, "header", {name.lower(): value for name, value in self.header.items()})
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                accepted = f"a regular expression ({error})"
                raise ConfigurationError.bad_value("matches", self.matches, accepted) from None

    def _statuses(self) -> tuple[int, ...] | None:
        if self.status is None:
            return None
        statuses = (self.status,) if isinstance(self.status, int) else tuple(self.status)
        if not statuses or any(type(status) is not int or not 100 <= status <= 599 for status in statuses):
            raise ConfigurationError.bad_value("status", self.status, "a status from 100 to 599, or a list")
        return statuses

    @property
    def reads(self) -> bool:
        """Whether more than the status is asked for."""
        return bool(self.json or self.contains or self.matches is not None or self.header)

    def takes(self, status: int) -> bool:
        """Return whether a status is that of a full answer."""
        return status in self.status if isinstance(self.status, tuple) else 200 <= status < 300

    def texts(self) -> Iterator[tuple[str, str]]:
        """Yield every text that may hold placeholders, after the setting that it stands in."""
        for path, value in self.json.items():
            if isinstance(value, str):
                yield f"json.{path}", value
        for name, value in self.header.items():
            yield f"header.{name}", value

    def wrong(self, headers: Mapping[str, str], body: bytes, drawn: Mapping[str, str]) -> str:
        """Return what does not hold, in words; an empty text if all of it does.

        Args:
            headers: The answer's, by their names in small letters.
            body: Its body.
            drawn: What was drawn for the placeholders of this arrival.
        """
        for name, value in self.header.items():
            asked, found = value.format_map(drawn), headers.get(name)
            if found is None:
                return f"header {name} is missing"
            if asked not in (found.strip(), found.partition(";")[0].strip()):
                return f"header {name} is {_shown(found)}, not {asked!r}"
        return self._wrong_text(body) or self._wrong_json(body, drawn)

    def _wrong_text(self, body: bytes) -> str:
        if not self.contains and self.matches is None:
            return ""
        text = body.decode(errors="replace")
        for part in self.contains:
            if part not in text:
                return f"the body is {_shown(text)}, without {part!r}"
        if self.matches is not None and not re.search(self.matches, text):
            return f"the body is {_shown(text)}, which does not match {self.matches!r}"
        return ""

    def _wrong_json(self, body: bytes, drawn: Mapping[str, str]) -> str:
        if not self.json:
            return ""
        try:
            document = json_.loads(body)
        except ValueError:
            return f"the body is {_shown(body.decode(errors='replace'))}, no JSON"
        for path, value in self.json.items():
            asked = value.format_map(drawn) if isinstance(value, str) else value
            found = at_path(document, path)
            if not _same(asked, found, drawn=asked != value):
                return f"json {path} is {_shown(found)}, not {asked!r}"
        return ""


@lru_cache(maxsize=1024)
def steps(path: str) -> tuple[str, ...]:
    """Return the keys and indices of a path.

    Raises:
        ConfigurationError: It is no path.

    >>> steps("$.items[0].sku"), steps("items.0.sku"), steps("$")
    (('items', '0', 'sku'), ('items', '0', 'sku'), ())
    """
    rest = path.removeprefix("$")
    found = list(_STEP.finditer(rest))
    if not path or "".join(step[0] for step in found) != rest or (rest.startswith(".") and rest == path):
        raise ConfigurationError.bad_value("json", path, "paths such as 'items.0.sku', '$.items[0].sku' or '$'")
    return tuple(step[1] or step[2] for step in found)


def at_path(document: object, path: str) -> object:
    """Return what stands at a path in a JSON document, or `MISSING`.

    >>> at_path({"items": [{"sku": 7}]}, "items.0.sku")
    7
    """
    for step in steps(path):
        if isinstance(document, Mapping):
            document = document.get(step, MISSING)
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return MISSING
    return document


def _same(asked: object, found: object, *, drawn: bool) -> bool:
    """Return whether two values are the same; to JSON a truth is no number, and what was drawn has only its text."""
    if drawn and isinstance(found, int | float) and not isinstance(found, bool):
        return asked == str(found)
    if isinstance(asked, bool) or isinstance(found, bool):
        return asked is found
    if isinstance(asked, Mapping) and isinstance(found, Mapping):
        return asked.keys() == found.keys() and all(_same(asked[key], found[key], drawn=False) for key in asked)
    if isinstance(asked, list | tuple) and isinstance(found, list):
        return len(asked) == len(found) and all(_same(*pair, drawn=False) for pair in zip(asked, found, strict=True))
    return asked == found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _shown(found: object) -> str:
    if found is None or found is MISSING:
        return "missing" if found is MISSING else "null"
    text = repr(found)
    return text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "…"
