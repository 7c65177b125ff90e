"""Whose a request is, and how much it matters: rules over what is known of it before anybody has looked into it.

Each rule has criteria, all of which must hold, and says something: a criticality, a tenant, a client, a cost. Rules are
asked in their order, and the first that holds wins. One that `goes_on` leaves what it does not say to those after it,
which see the tenant that it has told: so some rules may tell tenants by their keys, and others what a route is worth.

API keys are compared by their SHA-256, so that settings hold no secret; a key is in no event, log or label. A key that
no rule knows says nothing: otherwise whoever invents keys would have as many clients' shares.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hormesis.errors import ConfigurationError
from hormesis.inbound.origin import Network, Origin, networks
from hormesis.patterns.part import flag, normalise, whole
from hormesis.priority import Criticality
from hormesis.tables import ACCEPTED, Settings

__all__ = ["Classifier", "Rule", "Verdict", "digest"]

_ENTRIES_MAX = 1000
_TEXT_MAX = 200
_VALUE_MAX = 1024
"""Characters of a header that are looked at; longer ones match no pattern."""
_KEY_MAX = 4096
"""Characters of an API key; what is longer is none."""
_COST_MAX = 1_000_000

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PIECES = re.compile(r"(\{[A-Za-z_][A-Za-z0-9_]*\}|\*)")
_PATH = re.compile(r"\*|/(?:[^*{}]|\{[A-Za-z_][A-Za-z0-9_]*\})*\*?")

_PATHS_ACCEPTED = "paths such as '/orders', '/orders/{id}' (one segment) or '/admin/*' (all below)"
_KEYS_ACCEPTED = "what hormesis.inbound.digest(key) returns, such as 'sha256:9f86…': settings hold no secrets"


def digest(key: str) -> str:
    """Return what stands for an API key in a rule.

    >>> digest("s3cret")[:15]
    'sha256:1ec1c26b'
    """
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule(Settings):
    """What is said of requests that meet all of the criteria; one without criteria is met by all.

    Criteria are plural, and any of their values will do; a single one may stand for itself. What is said is singular.

    Args:
        paths: Where the request goes: `"/orders"`, `"/orders/{id}"` for any one segment, `"/admin/*"` for all below.
        methods: Its method.
        headers: Headers and what they must hold, where `*` stands for anything.
        api_keys: Digests of API keys, as `digest` makes them.
        tenants: Tenants that an earlier rule, or a trusted hop, has told.
        networks: Where the client is: networks, addresses, or `"unix"`.
        criticality: How much it matters: `"critical"`, `"default"`, `"sheddable"` or `"background"`.
        tenant: Whom it is for.
        client: Who asks, where clients are counted.
        cost: What it takes out of rate limits; 1 for all others, 0 for what is free.
        goes_on: Whether later rules are asked as well, for what this one does not say.

    Raises:
        ConfigurationError: A criterion can't be meant, or nothing is said.

    >>> Rule("/checkout/*", methods="POST", criticality="critical").describe()
    "paths '/checkout/*', methods 'POST': criticality critical"
    """

    paths: tuple[str, ...] | str = dataclasses.field(default=(), metadata={ACCEPTED: _PATHS_ACCEPTED})
    _: dataclasses.KW_ONLY
    methods: tuple[str, ...] | str = ()
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    api_keys: tuple[str, ...] | str = dataclasses.field(default=(), metadata={ACCEPTED: _KEYS_ACCEPTED})
    tenants: tuple[str, ...] | str = ()
    networks: tuple[str, ...] | str = ()
    criticality: str | None = None
    tenant: str | None = None
    client: str | None = None
    cost: int | None = None
    # One rule for one kind of request is what can be read.
    goes_on: bool = False

    def __post_init__(self) -> None:
        for key in ("paths", "methods", "api_keys", "tenants", "networks"):
            normalise(self, **{key: _texts(key, getattr(self, key))})
        for path in self.paths:
            if not _PATH.fullmatch(path):
                raise ConfigurationError.bad_value("paths", path, _PATHS_ACCEPTED)
        for method in self.methods:
            if not _TOKEN.fullmatch(method):
                raise ConfigurationError.bad_value("methods", method, "methods such as 'GET'")
        normalise(self, methods=tuple(method.upper() for method in self.methods), headers=_headers(self.headers))
        for key in self.api_keys:
            if not _DIGEST.fullmatch(key):
                # Not shown, since it may be the key itself.
                raise ConfigurationError(f"api_keys holds what is no digest; it takes {_KEYS_ACCEPTED}", "api_keys")
        networks(self.networks, "networks")
        flag("goes_on", self.goes_on)
        self._check_what_is_said()

    def _check_what_is_said(self) -> None:
        if self.criticality is not None:
            normalise(self, criticality=Criticality.of(self.criticality).word)
        for key in ("tenant", "client"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX):
                raise ConfigurationError.bad_value(key, value, f"a name of up to {_TEXT_MAX} characters")
        if self.cost is not None:
            whole("cost", self.cost, 0, _COST_MAX)
        if self.criticality is None and self.tenant is None and self.client is None and self.cost is None:
            raise ConfigurationError("the rule says nothing; it takes a criticality, tenant, client or cost", "rules")

    def describe(self) -> str:
        """The rule in words."""
        criteria = [
            f"{key} {', '.join(map(repr, values))}"
            for key in ("paths", "methods", "tenants", "networks")
            if (values := getattr(self, key))
        ]
        criteria += [f"header {name} like {value!r}" for name, value in self.headers.items()]
        if self.api_keys:
            criteria.append(f"one of {len(self.api_keys)} API keys" if len(self.api_keys) > 1 else "an API key")
        said = [
            f"{key} {value}"
            for key in ("criticality", "tenant", "client", "cost")
            if (value := getattr(self, key)) is not None
        ]
        return f"{', '.join(criteria) or 'all'}: {', '.join(said)}{', and on' if self.goes_on else ''}"


def _texts(key: str, values: object) -> tuple[str, ...]:
    if isinstance(values, str):
        values = (values,)
    if not isinstance(values, list | tuple) or len(values) > _ENTRIES_MAX:
        raise ConfigurationError.bad_value(key, values, f"a text, or up to {_ENTRIES_MAX} of them")
    for value in values:
        if not isinstance(value, str) or not 0 < len(value) <= _TEXT_MAX:
            raise ConfigurationError.bad_value(key, value, f"texts of up to {_TEXT_MAX} characters")
    return tuple(values)


def _headers(headers: object) -> dict[str, str]:
    accepted = "a table of header names, each to what it must hold, such as { x-client = 'batch-*' }"
    if not isinstance(headers, Mapping) or len(headers) > _ENTRIES_MAX:
        raise ConfigurationError.bad_value("headers", headers, accepted)
    for name, pattern in headers.items():
        fits = isinstance(pattern, str) and len(pattern) <= _TEXT_MAX
        if not isinstance(name, str) or not _TOKEN.fullmatch(name) or not fits:
            raise ConfigurationError.bad_value("headers", headers, accepted)
    return {name.lower(): pattern for name, pattern in headers.items()}


class Verdict(NamedTuple):
    """What the rules say of a request; None where none says anything."""

    criticality: Criticality | None = None
    tenant: str | None = None
    client: str | None = None
    cost: int | None = None


_NOTHING = Verdict()


class _Compiled:
    """A rule as it is asked."""

    __slots__ = (
        "client",
        "cost",
        "criticality",
        "goes_on",
        "headers",
        "keys",
        "matches",
        "methods",
        "networks",
        "rest",
        "tenant",
        "tenants",
    )

    def __init__(self, rule: Rule) -> None:
        self.matches: Callable[[str], Any] | None = _path_pattern(rule.paths).fullmatch if rule.paths else None
        self.methods = frozenset(rule.methods)
        self.headers = [(name, re.compile(fnmatch.translate(glob)).match) for name, glob in rule.headers.items()]
        self.keys = frozenset(rule.api_keys)
        self.tenants = frozenset(rule.tenants)
        self.networks: Sequence[Network | None] = networks(rule.networks, "networks")
        self.rest = bool(self.headers or self.keys or self.tenants or self.networks)
        """Whether there is more to ask than path and method."""
        self.criticality = None if rule.criticality is None else Criticality.of(rule.criticality)
        self.tenant, self.client, self.cost = rule.tenant, rule.client, rule.cost
        self.goes_on = rule.goes_on

    def holds(self, found: Mapping[str, str], key: str | None, tenant: str | None, origin: Origin) -> bool:
        """Whether the criteria beside path and method hold."""
        if self.keys and key not in self.keys:
            return False
        if self.tenants and tenant not in self.tenants:
            return False
        for name, matches in self.headers:
            value = found.get(name)
            if value is None or len(value) > _VALUE_MAX or not matches(value):
                return False
        return not self.networks or _inside(origin, self.networks)


def _path_pattern(paths: Iterable[str]) -> re.Pattern[str]:
    def one(path: str) -> str:
        return "".join(
            (".*" if piece == "*" else "[^/]+") if _PIECES.fullmatch(piece) else re.escape(piece)
            for piece in _PIECES.split(path)
        )

    return re.compile("|".join(map(one, paths)), re.DOTALL)


def _inside(origin: Origin, where: Sequence[Network | None]) -> bool:
    address = origin.number
    if address is None:
        return None in where
    return any(each is not None and each.version == address.version and address in each for each in where)


class Classifier:
    """Asks rules.

    Args:
        rules: In their order.
        key_header: The header, in lower case, that holds an API key.

    >>> from hormesis.inbound.origin import Trust
    >>> classifier = Classifier([Rule("/reports/*", criticality="background")], key_header="x-api-key")
    >>> origin = Trust(trusted=(), proxies=(), header=None).origin("203.0.113.9", None)
    >>> classifier.ask("GET", "/reports/2026", {}, origin).criticality
    <Criticality.BACKGROUND: 3>
    """

    __slots__ = ("_key_header", "_rules", "_with_keys", "headers")

    def __init__(self, rules: Iterable[Rule], *, key_header: str) -> None:
        self._rules = [_Compiled(rule) for rule in rules]
        self._with_keys = any(rule.keys for rule in self._rules)
        self._key_header = key_header
        self.headers = frozenset(
            [name for rule in self._rules for name, _ in rule.headers] + ([key_header] if self._with_keys else [])
        )
        """The headers that rules want to see, in lower case."""

    def ask(
        self, method: str, path: str, found: Mapping[str, str], origin: Origin, tenant: str | None = None
    ) -> Verdict:
        """Ask the rules.

        Args:
            method: In capitals.
            path: Without the query.
            found: The headers that rules want to see, as far as they are there, by name in lower case.
            origin: Where the request comes from.
            tenant: What a trusted hop says.
        """
        criticality = client = cost = None
        key = self._key_in(found) if self._with_keys else None
        said = tenant is not None
        for rule in self._rules:
            if rule.methods and method not in rule.methods:
                continue
            if rule.matches is not None and rule.matches(path) is None:
                continue
            if rule.rest and not rule.holds(found, key, tenant, origin):
                continue
            said = True
            if criticality is None:
                criticality = rule.criticality
            if tenant is None:
                tenant = rule.tenant
            if client is None:
                client = rule.client
            if cost is None:
                cost = rule.cost
            if not rule.goes_on:
                break
        # Most requests meet no rule.
        return Verdict(criticality, tenant, client, cost) if said else _NOTHING

    def _key_in(self, found: Mapping[str, str]) -> str | None:
        key = found.get(self._key_header)
        if key is None or len(key) > _KEY_MAX:
            return None
        if key[:7].lower() == "bearer ":
            key = key[7:].strip(" ")
        # A digest's prefix tells nobody the key, so looking it up in a set gives nothing away by the time it takes.
        return digest(key)
