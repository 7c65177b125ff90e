"""Probes and invariants: what must hold besides the objectives of the load.

A *probe* looks at the system from outside, over HTTP, in a database, by a command or a function of Python, before the
dose, all along, at its end, or after the undo. An *invariant* looks when everything is over: no charge was made twice,
no order is lost. What either may find is its tolerance (`tolerance`); what takes longer than its timeout is cut off and
counts as a miss.

    [[probe]]
    name = "stock is readable"
    http = "http://{inventory}/healthz"

    [[invariant]]
    name = "no order is lost"
    dsn = "postgresql://postgres@{db}/shop"
    sql = "SELECT count(*) FROM orders"
    tolerance = { min = "{order.full}" }
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from hormesis.errors import ConfigurationError
from hormesis.gameday.tolerance import Tolerance
from hormesis.gameday.topology import NAME
from hormesis.tables import Settings
from hormesis.units import Duration, seconds

__all__ = ["Invariant", "Look", "Moment", "Probe", "filled", "placeholders"]

Moment: TypeAlias = Literal["start", "during", "end", "after"]
"""When a probe looks: at the end of calm, all along, at the end of the dose, and when the system should be back."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z0-9][A-Za-z0-9 _.-]*)\}")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_URL = re.compile(r"https?://[^\s/?#]+[^\s]*")
_EVERY_MIN = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look(Settings):
    """What probes and invariants have in common: where they look, and what they may find.

    In all texts but regular expressions `{NAME}` is the address (`host:port`) of a process, `{NAME.port}` its port,
    `{dir}` the scratch folder, and `{EDGE.edge}` the address of an edge's proxy. `{ROUTE.full}`, `{ROUTE.answered}` and
    `{ROUTE.sent}` are how many requests of a route were fully answered, answered or sent to this arm so far, and
    `{PROBE.held}` is how often a probe found what was asked for.

    Attributes:
        name: What reports call it.
        about: Why, for readers of the report.
        http: A URL; its status is the value (200 to 299, if nothing is asked), its body the document.
        method, headers, json: Of that request.
        sql: A query; the first cell of its first row is the value, the rows (as objects) are the document.
        dsn: Where to: `"postgresql://…"`, or `"sqlite:PATH"`.
        command: A command, without a shell; its exit status is the value (0, if nothing is asked), what it prints the
            document.
        python: A function, `"module:function"`, in the experiment's folder or installed; what it returns is the value
            (true, if nothing is asked) and the document.
        arguments: Given to the function by name.
        tolerance: What it may find; see `hormesis.gameday.tolerance`.
        timeout: How long it may take.
    """

    name: str
    about: str = ""
    http: str | None = None
    method: str = "GET"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    json: Any = None
    sql: str | None = None
    dsn: str | None = None
    command: str | None = None
    python: str | None = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tolerance: Any = None
    timeout: Duration = 2.0

    KINDS: ClassVar[tuple[str, ...]] = ("http", "sql", "command", "python")

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigurationError.bad_value("name", self.name, "a short name of letters, digits, spaces, '_.-'")
        given = [kind for kind in self.KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            named = ", ".join(given) or "none"
            raise ConfigurationError(f"{self.name!r} takes one of {', '.join(self.KINDS)}; it has {named}")
        seconds(self.timeout, "timeout")
        if self.http is not None and not _URL.fullmatch(self.http):
            raise ConfigurationError.bad_value("http", self.http, "a URL such as 'http://{shop}/healthz'")
        if (self.sql is None) != (self.dsn is None):
            raise ConfigurationError(f"{self.name!r} takes sql and dsn together, or neither")
        if self.dsn is not None and not self.dsn.startswith(("sqlite:", "postgresql://", "postgres://")):
            raise ConfigurationError.bad_value("dsn", self.dsn, "'postgresql://…' or 'sqlite:PATH'")
        if self.command is not None:
            try:
                words = shlex.split(self.command)
            except ValueError as error:
                raise ConfigurationError.bad_value("command", self.command, f"a command to run ({error})") from None
            if not words:
                raise ConfigurationError.bad_value("command", self.command, "a command to run")
        if self.python is not None and not _FUNCTION.fullmatch(self.python):
            raise ConfigurationError.bad_value("python", self.python, "'module:function'")
        self.allowed()

    @property
    def kind(self) -> str:
        """How it looks: `"http"`, `"sql"`, `"command"` or `"python"`."""
        return next(kind for kind in self.KINDS if getattr(self, kind) is not None)

    def allowed(self, known: Mapping[str, str] | None = None) -> Tolerance | None:
        """Return what it may find; None for whatever a query gives.

        Args:
            known: What placeholders in it stand for; None leaves them as they are.
        """
        table = self.tolerance
        if table is None:
            default: Any = {"http": {"min": 200, "max": 299}, "command": 0, "python": True, "sql": None}[self.kind]
            return None if default is None else Tolerance(default)
        if known is not None:
            plain = {key: value for key, value in table.items() if key != "matches"} if _is_table(table) else table
            table = {**table, **filled(plain, known)} if _is_table(table) else filled(table, known)
        return Tolerance(table)

    def question(self) -> dict[str, Any]:
        """Return what is asked, for the one who asks; with its placeholders."""
        names: Mapping[str, tuple[str, ...]] = {
            "http": ("http", "method", "headers", "json"),
            "sql": ("sql", "dsn"),
            "command": ("command",),
            "python": ("python", "arguments"),
        }
        return {name: getattr(self, name) for name in names[self.kind]}

    def placeholders(self) -> set[str]:
        """Return the names of all placeholders in it."""
        asked = self.tolerance
        if _is_table(asked):
            asked = {key: value for key, value in asked.items() if key != "matches"}
        return {*placeholders(self.question()), *placeholders(asked)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Look):
    """`[[probe]]`: looks at the system while a stress goes on.

    Attributes:
        when: `"start"` (at the end of calm), `"during"` (all along), `"end"` (at the end of the dose), `"after"` (when
            the fault is undone and the system should be back).
        every: How often it looks, of one that looks all along.
        abort: Whether a miss in the dose ends the dose at once.
    """

    when: Sequence[Moment] = ("start", "after")
    every: Duration = 1.0
    abort: bool = False

    def __post_init__(self) -> None:
        Look.__post_init__(self)
        if seconds(self.every, "every") < _EVERY_MIN:
            raise ConfigurationError.bad_value("every", self.every, f"at least {_EVERY_MIN} s: a look is no load")
        if not self.when:
            raise ConfigurationError.bad_value("when", list(self.when), "at least one of start, during, end, after")
        if self.abort and "during" not in self.when:
            accepted = "'during' among them, since only a look all along can end a dose (abort)"
            raise ConfigurationError.bad_value("when", list(self.when), accepted)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Invariant(Look):
    """`[[invariant]]`: must hold when a stress is over, its fault undone and its load answered."""

    timeout: Duration = 10.0


def filled(value: Any, known: Mapping[str, str]) -> Any:
    """Return a value with the placeholders in all of its texts replaced; a text that is but a number becomes one.

    >>> filled({"min": "{order.full}", "is": [1, "{shop}"]}, {"order.full": "7", "shop": "127.0.0.1:80"})
    {'min': 7, 'is': [1, '127.0.0.1:80']}
    """
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        if whole and known.get(whole[1], "").isdecimal():
            return int(known[whole[1]])
        return _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: filled(each, known) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [filled(each, known) for each in value]
    return value


def placeholders(value: Any) -> Iterator[str]:
    """Yield the names of the placeholders in all texts of a value."""
    if isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)
    elif isinstance(value, Mapping | list | tuple):
        each: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
        for inner in each:
            yield from placeholders(inner)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)
