"""How a load goes, while it goes: a few lines redrawn in place on a terminal, a line now and then elsewhere.

All of it goes to stderr, so that stdout stays free for the results.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic

from hormesis.loadgen import Answer, LoadSpec, Samples
from hormesis.units import format_seconds

__all__ = ["progress"]

_REDRAW_EVERY = 0.5
_LINE_EVERY = 5.0
_LAST_SECONDS = 2.0


class _Seen:
    """What has come in so far, and in the last seconds."""

    def __init__(self, spec: LoadSpec) -> None:
        self._length = spec.duration
        self._began = monotonic()
        self._batches: deque[tuple[float, Samples]] = deque()
        self.total = self.failed = 0

    def __call__(self, samples: Samples) -> None:
        self._batches.append((monotonic(), samples))
        self.total += len(samples)
        self.failed += len(samples) - samples.answer.count(Answer.FULL) - samples.answer.count(Answer.DEGRADED)

    def line(self) -> str:
        """Return where it stands, in a line."""
        now = monotonic()
        while self._batches and self._batches[0][0] < now - _LAST_SECONDS:
            self._batches.popleft()
        latencies = sorted(latency for _, batch in self._batches for latency in batch.latencies())
        passed = min(now - self._began, self._length)
        span = min(_LAST_SECONDS, max(now - self._began, 0.1))
        parts = [
            f"{passed:3.0f} s of {self._length:.0f}",
            f"{self.total:,} answered",
            f"{len(latencies) / span:,.0f}/s",
        ]
        if latencies:
            p50, p99 = (latencies[int(q * (len(latencies) - 1))] for q in (0.5, 0.99))
            parts.append(f"p50 {format_seconds(p50)}, p99 {format_seconds(p99)}")
        parts.append(f"{self.failed:,} failed")
        return "  ".join(parts)


@contextlib.contextmanager
def progress(spec: LoadSpec, *, quiet: bool) -> Iterator[Callable[[Samples], None] | None]:
    """Show how a load goes; gives what takes its samples, if anything does."""
    if quiet:
        yield None
        return
    seen = _Seen(spec)
    terminal = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    with _redrawn(seen) if terminal else contextlib.nullcontext(_print) as show:
        teller = asyncio.get_running_loop().create_task(_tell(seen, show, _REDRAW_EVERY if terminal else _LINE_EVERY))
        try:
            yield seen
        finally:
            teller.cancel()


async def _tell(seen: _Seen, show: Callable[[str], None], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        show(seen.line())


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _redrawn(seen: _Seen) -> Iterator[Callable[[str], None]]:
    from rich.console import Console  # noqa: PLC0415  a terminal alone needs it
    from rich.live import Live  # noqa: PLC0415

    with Live(seen.line(), console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield lambda line: live.update(line, refresh=True)
