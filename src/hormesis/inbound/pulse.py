"""What comes round while requests are in flight.

The ticks of a load shedder, the signals that feed it, and a look at requests that ought to have ended. Nothing of it is
there while a service is idle: the first request wakes it, and it goes back to sleep by itself.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from hormesis.inbound.passes import Passes
from hormesis.inbound.signals import Longest, LoopLag, ThreadLag, ThreadPoolWait
from hormesis.inbound.signals.lag import EVERY
from hormesis.inbound.signals.tickers import LoopTicker, ThreadTicker
from hormesis.units import seconds

if TYPE_CHECKING:
    from hormesis.inbound.ground import Ground
    from hormesis.inbound.service import Service

__all__ = ["Flight", "LoopPulse", "ThreadPulse"]

_TICK = 0.02
"""Seconds between ticks of a load shedder, which looks at windows of a tenth of a second."""
_LOOK = 0.25
"""Seconds between looks at what ought to have ended, which are timeouts of many seconds."""


class Flight(Protocol):
    """A request in flight, as far as it can be cut off."""

    sending_since: float
    """Since when the server has stood with a part of the answer; infinity while it does not."""

    def cut(self, why: str) -> None:
        """End it from outside."""
        ...


class LoopPulse:
    """Beats on the running loop; all its verbs are for that loop's thread.

    Args:
        service: Whose requests.
        ground: Where they are let in.
    """

    __slots__ = (
        "__weakref__",
        "_look_at",
        "_observe_delay",
        "_probes",
        "_send_timeout",
        "_service",
        "_ticker",
        "flights",
        "ground",
        "loop",
        "passes",
    )

    def __init__(self, service: Service, ground: Ground) -> None:
        self.loop = asyncio.get_running_loop()
        self.ground = ground
        self.flights: set[Flight] = set()
        """What is in flight on this loop."""
        self._service = service
        timeout = service.settings.send_timeout
        self._send_timeout = None if timeout is None else seconds(timeout)
        self._look_at = 0.0
        clock = service.clock
        self._ticker = LoopTicker(
            self._beat,
            every=_LOOK if ground.machine is None else _TICK,
            busy=self._busy,
            clock=clock,
            name="the pulse of a service",
        )
        self._ticker.start()
        self.passes = Passes(every=EVERY)
        """How often a request waits for this loop, and how long."""
        self._probes: list[LoopLag | ThreadPoolWait] = []
        if ground.machine is not None:
            longest = Longest(ground.machine.observe, now=clock.now)
            ground.before.observe = longest.source()
            self._observe_delay = longest.source()
            self._probes = [
                LoopLag(self._observe_lag, busy=self._busy, clock=clock),
                ThreadPoolWait(longest.source(), busy=self._busy, clock=clock),
            ]
            for probe in self._probes:
                probe.start()
        service.counts(self)

    @property
    def asleep(self) -> bool:
        """Whether `wake` would begin anything."""
        return self._ticker.asleep

    def wake(self) -> None:
        """Begin to beat, if it sleeps: something is in flight now, or waits to be."""
        self._ticker.wake()
        for probe in self._probes:
            probe.wake()

    def retire(self) -> None:
        """Make room for the pulse of other settings: what is still in flight is looked after, and nothing measured."""
        for probe in self._probes:
            probe.stop()
        self._probes = []

    def _observe_lag(self, lag: float, times: int) -> None:
        self._observe_delay(self.passes.delay(lag, times), times)

    def _busy(self) -> bool:
        machine = self.ground.machine
        return bool(self.flights) or (machine is not None and machine.in_flight > 0)

    def _beat(self, late: float) -> None:
        self.ground.tick()
        now = self.ground.now()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            self._look(now)

    def _look(self, now: float) -> None:
        over = self._service.leaving.phase == "over"
        if self._send_timeout is None and not over:
            return
        for flight in list(self.flights):
            if over:
                flight.cut("leaving")
            elif self._send_timeout is not None and now - flight.sending_since > self._send_timeout:
                flight.cut("slow")


class ThreadPulse:
    """Beats in a thread of its own; its verbs may be called by any thread.

    Args:
        service: Whose requests.
        ground: Where they are let in.
    """

    __slots__ = ("__weakref__", "_lag", "_ticker", "flights", "ground", "send_timeout")

    def __init__(self, service: Service, ground: Ground) -> None:
        self.ground = ground
        timeout = service.settings.send_timeout
        self.send_timeout = None if timeout is None else seconds(timeout)
        self.flights: set[object] = set()
        """What is in flight in threads."""
        self._ticker: ThreadTicker | None = None
        self._lag: ThreadLag | None = None
        if ground.machine is not None:
            self._ticker = ThreadTicker(ground.tick, every=_TICK, busy=self._busy, name="the pulse of a service")
            longest = Longest(ground.machine.observe, now=service.clock.now)
            ground.before.observe = longest.source()
            self._lag = ThreadLag(longest.source(), busy=self._busy)
            self._ticker.start()
            self._lag.start()
        service.counts(self)

    @property
    def asleep(self) -> bool:
        """Whether `wake` would begin anything."""
        return self._ticker is not None and self._ticker.asleep

    def wake(self) -> None:
        """Begin to beat, if it sleeps."""
        if self._ticker is not None and self._lag is not None:
            self._ticker.wake()
            self._lag.wake()

    def retire(self) -> None:
        """Make room for the pulse of other settings."""
        if self._ticker is not None and self._lag is not None:
            self._ticker.stop()
            self._lag.stop()

    def _busy(self) -> bool:
        machine = self.ground.machine
        return bool(self.flights) or (machine is not None and machine.in_flight > 0)
