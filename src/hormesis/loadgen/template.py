"""Requests written with `{placeholders}`, and what is drawn for each arrival.

A placeholder names one of the request's declared `values`, or one of two that are always there: `{n}`, the number of
the arrival, and `{uuid}`, an id of its own for each arrival (an order's id, an idempotency key). What is drawn is a
pure function of the seed, the arrival's number and the placeholder's name (a hash, no generator whose state could
move), so a value doesn't change because another request joined the mix. Within one arrival a placeholder has one value:
the `{uuid}` of the path is the `{uuid}` of the header.

Texts follow `str.format`, so a literal brace is doubled (`{{`).
"""

from __future__ import annotations

import json
import string
import uuid
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import quote

from hormesis.errors import ConfigurationError
from hormesis.loadgen.schedule import Seed
from hormesis.priority import PRIORITY, Criticality, priority_headers

if TYPE_CHECKING:
    from hormesis.loadgen.request import Request

__all__ = ["BUILT_IN", "Rendered", "Template", "Values", "choices", "names_in", "strings_in"]

BUILT_IN = ("n", "uuid")
"""The placeholders that need no declaration."""

Values: TypeAlias = Sequence[str | int | float] | Mapping[str, int]
"""What a placeholder is drawn from: a list, a `range`, or a range as a file writes it, `{from = 1, to = 50}`."""


class Rendered(NamedTuple):
    """One arrival's request, ready to be sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None


def names_in(text: str, key: str) -> set[str]:
    """Return the names of the placeholders in a text.

    Raises:
        ConfigurationError: A brace without its partner, or a placeholder that is more than a name.

    >>> sorted(names_in("/products/{sku}?page={n}", "path"))
    ['n', 'sku']
    """
    refused = ConfigurationError.bad_value(key, text, "text with {names} in braces; a literal brace is doubled ('{{')")
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        raise refused from None
    names = {name for _, name, _, _ in parts if name is not None}
    if not all(name.isidentifier() for name in names) or any(form or conversion for *_, form, conversion in parts):
        raise refused
    return names


def choices(values: Values, key: str) -> Sequence[str | int | float]:
    """Return what a placeholder is drawn from, as a tuple or a range.

    Raises:
        ConfigurationError: There is nothing to draw, or something that would not fit into a header.

    >>> choices({"from": 1, "to": 50}, "sku")
    range(1, 51)
    """
    result: Sequence[str | int | float] = ()
    if isinstance(values, Mapping):
        first, last = values.get("from"), values.get("to")
        if set(values) == {"from", "to"} and type(first) is int and type(last) is int:
            result = range(first, last + 1)
    elif isinstance(values, range):
        result = values if values.step == 1 else ()
    elif isinstance(values, list | tuple) and all(_fits(value) for value in values):
        result = tuple(values)
    if not result:
        accepted = "a list of texts or numbers without line breaks, or {from = 1, to = 50}"
        raise ConfigurationError.bad_value(key, values, accepted)
    return result


def _fits(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool) and not set("\r\n\0") & set(str(value))


def strings_in(body: object) -> Iterator[str]:
    """Yield every text in a JSON body, keys included."""
    if isinstance(body, str):
        yield body
    elif isinstance(body, Mapping):
        for key, value in body.items():
            yield from strings_in(key)
            yield from strings_in(value)
    elif isinstance(body, list | tuple):
        for value in body:
            yield from strings_in(value)


class Template:
    """A request compiled for a run: `render(n)` is what arrival `n` sends."""

    __slots__ = ("_body", "_fields", "_headers", "_method", "_path", "_seed", "_values")

    def __init__(self, request: Request, seed: Seed) -> None:
        self._method = request.method
        self._path = request.path
        self._headers = dict(request.headers)
        self._body = request.json
        self._values = {name: choices(values, name) for name, values in request.values.items()}
        self._seed = seed
        self._fields = sorted(request.placeholders())
        if self._body is not None and not any(name.lower() == "content-type" for name in self._headers):
            self._headers["Content-Type"] = "application/json"
        if request.priority is not None and not any(name.lower() == PRIORITY for name in self._headers):
            self._headers |= priority_headers(Criticality.of(request.priority))

    def render(self, n: int) -> Rendered:
        """Return the request of the arrival `n`."""
        drawn = {name: self._draw(n, name) for name in self._fields}
        quoted = {name: quote(value, safe="") for name, value in drawn.items()}
        body = None if self._body is None else json.dumps(_render(self._body, drawn)).encode()
        headers = {name: value.format_map(drawn) for name, value in self._headers.items()}
        return Rendered(self._method, self._path.format_map(quoted), headers, body)

    def _draw(self, n: int, name: str) -> str:
        if name in self._values:
            values = self._values[name]
            # The high bits of a product spread a 64-bit hash evenly over any length.
            return str(values[int.from_bytes(self._hash(n, name, 8)) * len(values) >> 64])
        return str(n) if name == "n" else str(uuid.UUID(bytes=self._hash(n, name, 16), version=4))

    def _hash(self, n: int, name: str, size: int) -> bytes:
        return blake2b(f"{self._seed}/{n}/{name}".encode(), digest_size=size).digest()


def _render(body: object, drawn: Mapping[str, str]) -> object:
    if isinstance(body, str):
        return body.format_map(drawn)
    if isinstance(body, Mapping):
        return {_render(key, drawn): _render(value, drawn) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_render(value, drawn) for value in body]
    return body
