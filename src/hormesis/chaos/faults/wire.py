"""Faults on the wire, as values: what a `FaultProxy` does to the connections of an edge."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias, get_args

from hormesis.chaos.faults.checks import check_choice, check_share, check_true
from hormesis.units import ByteRate, Duration, bytes_per_second, format_seconds, seconds

__all__ = ["Bandwidth", "BlackHole", "Latency", "Refuse", "Reset", "ResetAt", "Stream", "WireFault"]

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
        check_choice("stream", self.stream, get_args(Stream))
        check_share(self.share)

    def __str__(self) -> str:
        jitter = seconds(self.jitter, zero=True)
        spread = f" ± {format_seconds(jitter)}" if jitter else ""
        return f"latency {format_seconds(seconds(self.latency))}{spread}{_where(self.stream, self.share)}"


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """No more than so many bytes a second pass on each affected connection."""

    bandwidth: ByteRate
    _: KW_ONLY
    stream: Stream = "downstream"
    share: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", bytes_per_second(self.bandwidth, "bandwidth"))
        check_choice("stream", self.stream, get_args(Stream))
        check_share(self.share)

    def __str__(self) -> str:
        rate = _format_rate(bytes_per_second(self.bandwidth))
        return f"bandwidth {rate}{_where(self.stream, self.share)}"


@dataclass(frozen=True, slots=True)
class BlackHole:
    """A partition: connections stay open and silent, and what was held flows when the network heals."""

    black_hole: bool = True
    _: KW_ONLY
    share: float = 1.0

    def __post_init__(self) -> None:
        check_true("black_hole", self.black_hole)
        check_share(self.share)

    def __str__(self) -> str:
        return f"black hole{_where('downstream', self.share)}"


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody listens: connecting is refused, and live connections are reset. It is of the port, so it has no share."""

    refuse: bool = True

    def __post_init__(self) -> None:
        check_true("refuse", self.refuse)

    def __str__(self) -> str:
        return "refuses connections"


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
        check_choice("reset", self.reset, get_args(ResetAt))
        check_share(self.share)

    def __str__(self) -> str:
        share = f"{100 * self.share:.3g} % of " if self.share < 1 else ""
        return f"resets {share}{'connections' if self.reset == 'connect' else f'{self.reset}s'}"


def _where(stream: Stream, share: float) -> str:
    """Say what is not as usual: the usual direction is that of the answers, on all connections."""
    way = {"downstream": "", "upstream": " upstream", "both": " both ways"}[stream]
    return way + (f" on {100 * share:.3g} % of connections" if share < 1 else "")


def _format_rate(rate: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if rate >= size:
            return f"{rate / size:.4g}{unit}/s"
    return f"{rate:.4g}B/s"


WireFault: TypeAlias = Latency | Bandwidth | BlackHole | Refuse | Reset
