"""The faults a game day can dose, as values.

A fault says *what* goes wrong, never where or when: that is the stress's business. Faults on the wire are put into
force by a `FaultProxy`, faults of a process by a `Process`, the load fault by the load generator. Each is one table in
a file, and one of its keys names it:

    fault = { latency = "2s", jitter = "500ms" }
    fault = { reset = "answer", share = 0.3 }

The set is small on purpose: each fault is a failure that production knows and that a caller sees differently from all
the others. A slow network, a thin one, a partition, a dead port, a connection broken in the middle, a crash, a freeze,
too small a share of the processor, a rush of everybody or of one kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal, TypeAlias, TypeGuard, get_args

from hormesis.errors import ConfigurationError
from hormesis.units import ByteRate, Duration, bytes_per_second, format_seconds, seconds

__all__ = [
    "Bandwidth",
    "BlackHole",
    "Fault",
    "Kill",
    "Latency",
    "LoadFault",
    "Pause",
    "ProcessFault",
    "Refuse",
    "Reset",
    "ResetAt",
    "Spike",
    "Stream",
    "Throttle",
    "WireFault",
    "describe",
    "fault_from",
]

Stream: TypeAlias = Literal["downstream", "upstream", "both"]
"""Which way: `downstream` is the answers (from the dependency to its caller), `upstream` the requests."""

ResetAt: TypeAlias = Literal["answer", "request", "connect"]
"""The moment a connection breaks."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Every byte arrives later than it would; throughput stays.

    Args:
        latency: The delay of each chunk in the direction of `stream`.
        jitter: The delay is drawn evenly from `latency ± jitter`, never below zero; order is kept.
        stream: The direction that is slow.
        share: The part of the connections that is affected.
    """

    latency: Duration
    _: KW_ONLY
    jitter: Duration = 0.0
    stream: Stream = "downstream"
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "latency", seconds(self.latency, "latency"))
        object.__setattr__(self, "jitter", seconds(self.jitter, "jitter", zero=True))
        _check_choice("stream", self.stream, get_args(Stream))
        _check_share(self.share)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """No more than so many bytes a second pass on each affected connection."""

    bandwidth: ByteRate
    _: KW_ONLY
    stream: Stream = "downstream"
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", bytes_per_second(self.bandwidth, "bandwidth"))
        _check_choice("stream", self.stream, get_args(Stream))
        _check_share(self.share)


@dataclass(frozen=True, slots=True)
class BlackHole:
    """A partition: connections stay open and silent, and what was held flows when the network heals."""

    black_hole: bool = True
    _: KW_ONLY
    share: float = 1.0

    def __post_init__(self) -> None:
        _check_true("black_hole", self.black_hole)
        _check_share(self.share)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: connecting is refused, and live connections are reset. It is of the port, so it has no share."""

    refuse: bool = True

    def __post_init__(self) -> None:
        _check_true("refuse", self.refuse)


@dataclass(frozen=True, slots=True)
class Reset:
    """Connections break (TCP RST): live ones at once, new ones at a moment of their life.

    Args:
        reset: `"connect"`, as soon as it is open; `"request"`, at the first bytes of the request, which the dependency
            never sees; `"answer"` (also written `true`), at the first bytes of the answer: the dependency did the work,
            and its caller does not know.
        share: The part that breaks: of the live connections, at once; then of the new ones (`"connect"`), or of the
            requests or answers, one by one, since one connection carries many.
    """

    reset: ResetAt | Literal[True] = "answer"
    _: KW_ONLY
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.reset is True:
            object.__setattr__(self, "reset", "answer")
        _check_choice("reset", self.reset, get_args(ResetAt))
        _check_share(self.share)


@dataclass(frozen=True, slots=True)
class Kill:
    """The process and all it started die at once, without a chance to clean up (SIGKILL)."""

    kill: bool = True

    def __post_init__(self) -> None:
        _check_true("kill", self.kill)


@dataclass(frozen=True, slots=True)
class Pause:
    """The process freezes (SIGSTOP): its port accepts and nobody answers, as on an overcommitted host."""

    pause: bool = True

    def __post_init__(self) -> None:
        _check_true("pause", self.pause)


@dataclass(frozen=True, slots=True)
class Throttle:
    """The process runs only this share of the time, as under a CPU quota or beside a greedy neighbour.

    It is frozen and thawed in turn (SIGSTOP, SIGCONT), ten times a second or, with a share below a tenth, for ten
    milliseconds at a time; between two pauses it is as fast as ever.
    """

    throttle: float

    def __post_init__(self) -> None:
        if not _is_number(self.throttle) or not 0 < self.throttle < 1:
            raise ConfigurationError.bad_value("throttle", self.throttle, "the share of its time, above 0 and below 1")
        object.__setattr__(self, "throttle", float(self.throttle))


@dataclass(frozen=True, slots=True)
class Spike:
    """The load, or a part of it, grows to `spike` times what it was.

    Args:
        spike: The factor.
        request: The name of the request that comes so much more often; None is all of them.
        client: The name of the client who sends so much more; None is all of them.
    """

    spike: float
    _: KW_ONLY
    request: str | None = None
    client: str | None = None

    def __post_init__(self) -> None:
        for key in ("request", "client"):
            value = getattr(self, key)
            if value is not None and not (isinstance(value, str) and value):
                raise ConfigurationError.bad_value(key, value, f"the name of a {key}")
        if self.request is not None and self.client is not None:
            raise ConfigurationError.bad_value("client", self.client, "no client beside a request: one or the other")
        if not _is_number(self.spike) or not 1 < self.spike < math.inf:
            raise ConfigurationError.bad_value("spike", self.spike, "a factor above 1")
        object.__setattr__(self, "spike", float(self.spike))


WireFault: TypeAlias = Latency | Bandwidth | BlackHole | Refuse | Reset
ProcessFault: TypeAlias = Kill | Pause | Throttle
LoadFault: TypeAlias = Spike
Fault: TypeAlias = WireFault | ProcessFault | LoadFault

_KINDS: dict[str, type[Fault]] = {fields(kind)[0].name: kind for kind in get_args(Fault)}


def fault_from(table: Mapping[str, object]) -> Fault:
    """Make a fault from a table of a file: one key says which fault, the others are its settings.

    >>> fault_from({"latency": "2s", "jitter": "500ms"})
    Latency(latency=2.0, jitter=0.5, stream='downstream', share=1.0)

    Raises:
        ConfigurationError: No fault is named, or more than one; a setting is not this fault's, or can't be meant.
    """
    shown = f"fault {dict(table)!r}"
    named = [key for key in table if key in _KINDS]
    if len(named) > 1:
        raise ConfigurationError(f"{shown} mixes {' and '.join(named)}; a stress doses one fault at a time", "fault")
    if not table:
        raise ConfigurationError(f"{shown} is empty; known are: {', '.join(_KINDS)}", "fault")
    if not named:
        settings = {field.name for kind in _KINDS.values() for field in fields(kind)}
        stranger = next((key for key in table if key not in settings), next(iter(table)))
        unknown = ConfigurationError.unknown("fault", stranger, _KINDS)
        raise ConfigurationError(f"{shown}: {unknown}", stranger)
    kind = _KINDS[named[0]]
    known = [field.name for field in fields(kind)]
    for key in table:
        if key not in known:
            unknown = ConfigurationError.unknown(f"setting of the fault {named[0]!r}", key, known)
            raise ConfigurationError(f"{shown}: {unknown}", key)
    first, *_ = known
    rest = {key: value for key, value in table.items() if key != first}
    try:
        return kind(table[first], **rest)  # type: ignore[arg-type]  # each class checks its own values
    except ConfigurationError as error:
        raise ConfigurationError(f"{shown}: {error}", error.key) from None


def describe(fault: Fault) -> str:
    """Say a fault in plain words.

    >>> describe(Latency("2s", jitter="500ms"))
    'latency 2s ± 500ms'
    >>> describe(Reset(share=0.3))
    'resets 30 % of answers'
    >>> describe(Spike(20, request="report"))
    'report x20'
    """
    match fault:
        case Latency():
            jitter = seconds(fault.jitter, zero=True)
            spread = f" ± {format_seconds(jitter)}" if jitter else ""
            return f"latency {format_seconds(seconds(fault.latency))}{spread}{_where(fault.stream, fault.share)}"
        case Bandwidth():
            return f"bandwidth {_format_rate(bytes_per_second(fault.bandwidth))}{_where(fault.stream, fault.share)}"
        case BlackHole():
            return f"black hole{_where('downstream', fault.share)}"
        case Refuse():
            return "refuses connections"
        case Reset():
            share = f"{100 * fault.share:.3g} % of " if fault.share < 1 else ""
            return f"resets {share}{'connections' if fault.reset == 'connect' else f'{fault.reset}s'}"
        case Kill():
            return "killed"
        case Pause():
            return "paused"
        case Throttle():
            return f"throttled to {100 * fault.throttle:.3g} %"
        case Spike():
            return f"{fault.request or fault.client or 'load'} x{fault.spike:.3g}"


def _where(stream: Stream, share: float) -> str:
    """Say what is not as usual: the usual direction is that of the answers, on all connections."""
    way = {"downstream": "", "upstream": " upstream", "both": " both ways"}[stream]
    return way + (f" on {100 * share:.3g} % of connections" if share < 1 else "")


def _format_rate(rate: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if rate >= size:
            return f"{rate / size:.4g}{unit}/s"
    return f"{rate:.4g}B/s"


def _check_share(share: object) -> None:
    if not _is_number(share) or not 0 < share <= 1:
        raise ConfigurationError.bad_value("share", share, "a part of the connections above 0, up to 1 (all)")


def _check_true(key: str, value: object) -> None:
    if value is not True:
        raise ConfigurationError.bad_value(key, value, "only true: to have no fault, leave it out")


def _check_choice(key: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigurationError.bad_value(key, value, "one of " + ", ".join(map(repr, choices)))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
