"""Faults on the wire, as values: what a `FaultProxy` does to the bytes and connections of an edge.

All have the settings of `hormesis.chaos.faults.aim` besides their own: whom they strike, and when. Those that can
strike single requests as well (`requests`, `route`, `header`) are `ByRequest`. Where Toxiproxy has a toxic of the
same kind, the fault has its name and its meaning.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias, get_args

from hormesis.chaos.faults.aim import ByConnection, ByRequest, Windowed
from hormesis.chaos.faults.checks import check_choice, check_true, is_number
from hormesis.errors import ConfigurationError
from hormesis.units import ByteRate, Duration, Size, bytes_of, bytes_per_second, format_seconds, seconds

__all__ = [
    "Bandwidth",
    "BlackHole",
    "Corrupt",
    "Latency",
    "LimitData",
    "Loss",
    "Refuse",
    "Reset",
    "ResetAt",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Stream",
    "Timeout",
]

Stream: TypeAlias = Literal["downstream", "upstream", "both"]
"""Which way: `downstream` is the answers (from the dependency to its caller), `upstream` the requests."""

ResetAt: TypeAlias = Literal["answer", "request", "connect"]
"""The moment a connection breaks."""

_PIECE_MAX = 1_000_000


@dataclass(frozen=True, slots=True, repr=False)
class Latency(ByRequest):
    """Every byte arrives later than it would; throughput stays.

    Args:
        latency: The delay of each chunk in the direction of `stream`; zero only beside a jitter.
        jitter: The delay is drawn evenly from `latency ± jitter`, never below zero; order is kept.
        stream: The direction that is slow.

    >>> print(Latency("2s", jitter="500ms", route="POST /orders"))
    latency 2s ± 500ms on requests of POST /orders
    """

    latency: Duration
    _: KW_ONLY
    jitter: Duration = 0.0
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "jitter", seconds(self.jitter, "jitter", zero=True))
        object.__setattr__(self, "latency", seconds(self.latency, "latency", zero=bool(self.jitter)))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        jitter = seconds(self.jitter, zero=True)
        spread = f" ± {format_seconds(jitter)}" if jitter else ""
        return f"latency {format_seconds(seconds(self.latency, zero=True))}{spread}{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Bandwidth(ByRequest):
    """No more than so many bytes a second pass on each affected connection."""

    bandwidth: ByteRate
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bandwidth", bytes_per_second(self.bandwidth, "bandwidth"))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        rate = _format_bytes(bytes_per_second(self.bandwidth))
        return f"bandwidth {rate}/s{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class BlackHole(ByRequest):
    """A partition: connections stay open and silent, and what was held flows when the network heals.

    Args:
        black_hole: True.
        stream: The direction in which nothing passes.
    """

    black_hole: bool = True
    _: KW_ONLY
    stream: Stream = "both"

    def __post_init__(self) -> None:
        check_true("black_hole", self.black_hole)
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        return f"black hole{'' if self.stream == 'both' else f' {self.stream}'}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Refuse(Windowed):
    """Nobody listens: connecting is refused, and live connections are reset. It is of the port, so it has no share."""

    refuse: bool = True

    def __post_init__(self) -> None:
        check_true("refuse", self.refuse)
        self._check_aim()

    def __str__(self) -> str:
        return f"refuses connections{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Reset(ByRequest):
    """Connections break (TCP RST): live ones at once, new ones at a moment of their life.

    Where it picks requests (`requests`, `route`, `header`), live connections break at such a request, and not before.

    Args:
        reset: `"connect"`, as soon as it is open; `"request"`, at the first bytes of the request, which the dependency
            never sees; `"answer"` (also written `true`), at the first bytes of the answer: the dependency did the work,
            and its caller does not know.
        share: The part that breaks: of the live connections, at once; then of the new ones (`"connect"`), or of the
            requests or answers, one by one, since one connection carries many.
    """

    reset: ResetAt | Literal[True] = "answer"

    def __post_init__(self) -> None:
        if self.reset is True:
            object.__setattr__(self, "reset", "answer")
        check_choice("reset", self.reset, get_args(ResetAt))
        self._check_aim()
        for key in ("requests", "route", "header") if self.reset == "connect" else ():
            if getattr(self, key) is not None:
                raise ConfigurationError.bad_value(key, getattr(self, key), 'a reset at "request" or "answer"')

    @property
    def picks_requests(self) -> bool:
        """Whether it strikes single requests, and not connections."""
        return self.reset != "connect"

    def __str__(self) -> str:
        share = f"{100 * self.share:.3g} % of " if self.share < 1 else ""
        return (
            f"resets {share}{'connections' if self.reset == 'connect' else f'{self.reset}s'}{self._whom(share=False)}"
        )


@dataclass(frozen=True, slots=True, repr=False)
class ResetPeer(ByConnection):
    """Connections are reset so long after they were opened, or after the fault found them open; idle ones too.

    Args:
        reset_peer: Seconds until then; 0: at once.
        stream: The direction whose bytes are dropped in the meantime.
    """

    reset_peer: Duration
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "reset_peer", seconds(self.reset_peer, "reset_peer", zero=True))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        wait = seconds(self.reset_peer, zero=True)
        return f"resets connections{f' after {format_seconds(wait)}' if wait else ''}{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Timeout(ByConnection):
    """Bytes are dropped, and so long after that began the connection is closed.

    A connection that has lost bytes is closed as well when the fault is lifted: a stream with a hole is none.

    Args:
        timeout: Seconds of silence until it closes, from when the connection was opened or the fault found it open; 0:
            it stays open, and silent, until the fault is lifted.
        stream: The direction whose bytes are dropped.
    """

    timeout: Duration
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "timeout", seconds(self.timeout, "timeout", zero=True))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        wait = seconds(self.timeout, zero=True)
        closing = f", closed after {format_seconds(wait)}" if wait else ""
        return f"drops data{_way(self.stream)}{closing}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class SlowClose(ByConnection):
    """The end of the stream comes late: whoever waits for it to know that an answer is whole waits longer."""

    slow_close: Duration
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slow_close", seconds(self.slow_close, "slow_close", zero=True))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        wait = format_seconds(seconds(self.slow_close, zero=True))
        return f"closes {wait} late{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Slicer(ByRequest):
    """Bytes come in small pieces, as if every packet held a few of them.

    Args:
        slicer: The average size of a piece.
        variation: Sizes are drawn evenly from `slicer ± variation`; less than `slicer`.
        delay: Seconds between one piece and the next.
        stream: The direction that is cut up.
    """

    slicer: Size
    _: KW_ONLY
    variation: Size = 0
    delay: Duration = 0.0
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        size = bytes_of(self.slicer, "slicer", most=_PIECE_MAX)
        object.__setattr__(self, "slicer", size)
        accepted = f"bytes from 0 to less than the average, which is {size}"
        spread = bytes_of(self.variation, "variation", least=0, most=size - 1, accepted=accepted)
        object.__setattr__(self, "variation", spread)
        object.__setattr__(self, "delay", seconds(self.delay, "delay", zero=True))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        size, spread = bytes_of(self.slicer), bytes_of(self.variation, least=0)
        delay = seconds(self.delay, zero=True)
        pause = f", {format_seconds(delay)} apart" if delay else ""
        pieces = f"{_format_bytes(size)}{f' ± {_format_bytes(spread)}' if spread else ''}"
        return f"pieces of {pieces}{pause}{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class LimitData(ByConnection):
    """So many bytes pass on each affected connection, from when the fault is on it; then the connection is closed."""

    limit_data: Size
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit_data", bytes_of(self.limit_data, "limit_data", least=0))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        return f"closes after {_format_bytes(bytes_of(self.limit_data, least=0))}{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Corrupt(ByRequest):
    """Single bits of the stream are flipped, which no checksum of TCP catches: it happened before the packet was made.

    Args:
        corrupt: The part of the bytes in which a bit is flipped.
        stream: The direction that is damaged.
    """

    corrupt: float
    _: KW_ONLY
    stream: Stream = "downstream"

    def __post_init__(self) -> None:
        _check_part("corrupt", self.corrupt, "a part of the bytes above 0, up to 1 (each)")
        object.__setattr__(self, "corrupt", float(self.corrupt))
        _check_stream(self.stream)
        self._check_aim()

    def __str__(self) -> str:
        return f"corrupts {100 * self.corrupt:.3g} % of bytes{_way(self.stream)}{self._whom()}"


@dataclass(frozen=True, slots=True, repr=False)
class Loss:
    """Packets on the way to and from the edge's port are lost at random, and TCP has to send them again.

    This is done by the kernel's firewall, as root (`hormesis.chaos.host`); a proxy can't lose packets.

    Args:
        loss: The part of the packets that is lost; all of them is a cut cable.
    """

    loss: float

    def __post_init__(self) -> None:
        _check_part("loss", self.loss, "a part of the packets above 0, up to 1 (all)")
        object.__setattr__(self, "loss", float(self.loss))

    def __repr__(self) -> str:
        return f"Loss({self.loss!r})"

    def __str__(self) -> str:
        return f"loses {100 * self.loss:.3g} % of packets"


def _check_stream(stream: object) -> None:
    check_choice("stream", stream, get_args(Stream))


def _check_part(key: str, value: object, accepted: str) -> None:
    if not is_number(value) or not 0 < value <= 1 or math.isnan(value):
        raise ConfigurationError.bad_value(key, value, accepted)


def _way(stream: Stream) -> str:
    """Say which direction; the usual one is that of the answers."""
    return {"downstream": "", "upstream": " upstream", "both": " both ways"}[stream]


def _format_bytes(size: float) -> str:
    for unit, whole in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= whole:
            return f"{size / whole:.4g}{unit}"
    return f"{size:.4g}B"
