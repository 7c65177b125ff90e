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
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

from hormesis.errors import ConfigurationError
from hormesis.loadgen.schedule import Seed
from hormesis.priority import Criticality, priority_headers

if TYPE_CHECKING:
    from hormesis.loadgen.origin import Origin
    from hormesis.loadgen.request import Request

__all__ = ["BUILT_IN", "Template", "Values", "choices", "names_in", "strings_in"]

BUILT_IN = ("n", "uuid")
"""The placeholders that need no declaration."""

_QUOTED = "quoted "
"""Before the name of a placeholder: its value as a path has it."""
_LENGTH = "length of the body"
_WITH_BODY = ("POST", "PUT", "PATCH")

Values: TypeAlias = Sequence[str | int | float] | Mapping[str, int]
"""What a placeholder is drawn from: a list, a `range`, or a range as a file writes it, `{from = 1, to = 50}`."""


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
    """A request compiled for a run: `payload(n)` are the bytes that arrival `n` sends.

    What is the same for all arrivals is written once; of a request without placeholders that is all of it.

    Args:
        request: The request.
        seed: The run's.
        origin: Where it goes.
        keep_alive: Whether the connection is for others as well.
    """

    __slots__ = ("_body", "_constant", "_fields", "_head", "_seed", "_values")

    def __init__(self, request: Request, seed: Seed, origin: Origin, *, keep_alive: bool) -> None:
        self._values = {name: choices(values, name) for name, values in request.values.items()}
        self._seed = seed
        self._fields = sorted(request.placeholders())
        self._body = request.json
        self._constant = None if request.body is None else request.body.encode()
        if self._body is not None and not any(map(_names, strings_in(self._body))):
            self._constant = self._written_body({})
        self._head = self._written_head(request, origin, keep_alive=keep_alive)
        if not self._fields:
            whole = self.payload(0)
            self._head, self._constant = "", whole

    def _written_head(self, request: Request, origin: Origin, *, keep_alive: bool) -> str:
        headers = {
            "Host": _escaped(origin.host_header),
            "User-Agent": "hormesis-load",
            "Accept": "*/*",
            "Connection": "keep-alive" if keep_alive else "close",
        }
        if origin.authorization is not None:
            headers["Authorization"] = origin.authorization
        if request.json is not None:
            headers["Content-Type"] = "application/json"
        if request.priority is not None:
            headers |= priority_headers(Criticality.of(request.priority))
        if self._constant is not None:
            headers["Content-Length"] = str(len(self._constant))
        elif request.json is not None:
            headers["Content-Length"] = f"{{{_LENGTH}}}"
        elif request.method in _WITH_BODY:
            headers["Content-Length"] = "0"
        own = {name.lower() for name in request.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in own} | dict(request.headers)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{request.method} {_escaped(origin.path)}{_in_path(request.path)} HTTP/1.1\r\n{lines}\r\n"

    def payload(self, n: int) -> bytes:
        """Return the bytes of the request of the arrival `n`."""
        if not self._head:
            return self._constant or b""
        drawn = self.drawn(n)
        body = self._constant or (b"" if self._body is None else self._written_body(drawn))
        written = {**drawn, _LENGTH: str(len(body))}
        for name, value in drawn.items():
            written[_QUOTED + name] = quote(value, safe="")
        return self._head.format_map(written).encode() + body

    def _written_body(self, drawn: Mapping[str, str]) -> bytes:
        return json.dumps(_render(self._body, drawn)).encode()

    def drawn(self, n: int) -> dict[str, str]:
        """Return what each placeholder of the request is in the arrival `n`."""
        return {name: self._draw(n, name) for name in self._fields}

    def _draw(self, n: int, name: str) -> str:
        if name in self._values:
            values = self._values[name]
            # The high bits of a product spread a 64-bit hash evenly over any length.
            return str(values[int.from_bytes(self._hash(n, name, 8)) * len(values) >> 64])
        return str(n) if name == "n" else str(uuid.UUID(bytes=self._hash(n, name, 16), version=4))

    def _hash(self, n: int, name: str, size: int) -> bytes:
        return blake2b(f"{self._seed}/{n}/{name}".encode(), digest_size=size).digest()


def _names(text: str) -> set[str]:
    return names_in(text, "json")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _in_path(path: str) -> str:
    """Return a path in which each placeholder names the quoted form of its value."""
    parts = string.Formatter().parse(path)
    return "".join(_escaped(text) + ("" if name is None else f"{{{_QUOTED}{name}}}") for text, name, _, _ in parts)


def _render(body: object, drawn: Mapping[str, str]) -> object:
    if isinstance(body, str):
        return body.format_map(drawn)
    if isinstance(body, Mapping):
        return {_render(key, drawn): _render(value, drawn) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_render(value, drawn) for value in body]
    return body
