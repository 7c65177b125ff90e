"""What frees a system that does not recover by itself: loads held one after the other, without a pause between them.

A pause would be the lowest load of all, and would free what the steps are to measure. So two load generators take
turns: the next load begins in the instant in which the one before ends, while answers to that still come in. What comes
next is decided a moment before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import NamedTuple

from hormesis.gameday.metastability import Hysteresis, Metastability, Staircase
from hormesis.loadgen import LoadDriver, LoadSpec, RunResult, Sample, Samples, merged
from hormesis.units import seconds

__all__ = ["Freeing", "Recent", "attempts_each", "ready_to_free"]

_LEAD = 0.4
"""Seconds before a load begins at which it has to be known."""

_SETTLING = 0.4
"""The part of each step that is left out at its beginning: a load takes a while to be felt."""

_ANSWERING = 0.2
"""Seconds that the last requests that count have to be answered."""

_JUDGED_MIN = 0.5
"""Seconds by which a load is judged at the least."""


class Recent:
    """Which requests were due when, by the schedule, and which were well answered, so far."""

    def __init__(self, spec: LoadSpec, started: float, good: Callable[[Sample], bool]) -> None:
        self._due, _ = merged(
            spec.sources(), {request.name: request.weight for request in spec.requests}, seed=spec.seed
        )
        self._started = started
        self._good_test = good
        self._good: list[float] = []

    def take(self, samples: Iterable[Sample]) -> None:
        """Look at answers."""
        self._good += [sample.intended for sample in samples if self._good_test(sample)]

    def share(self, start: float, end: float) -> float:
        """Return the share of what was due from `start` to `end` that is well answered by now; 1 if nothing was due."""
        due = sum(start <= self._started + offset < end for offset in self._due)
        return min(1.0, sum(start <= at < end for at in self._good) / due) if due else 1.0


class _Held(NamedTuple):
    recent: Recent
    run: asyncio.Task[RunResult]


class Freeing:
    """Goes down with the load until a system is well again, and up again.

    Args:
        settings: How far and how long.
        spec_of: What the generators are told, by the load as a share of the normal one, and the step's number.
        good: Whether an answer is a good one.
        drivers: Two load generators that are running and idle.
    """

    def __init__(
        self,
        settings: Metastability,
        spec_of: Callable[[float, int], LoadSpec],
        good: Callable[[Sample], bool],
        drivers: tuple[LoadDriver, LoadDriver],
    ) -> None:
        self._settings = settings
        self._every = seconds(settings.every)
        self._spec_of, self._good, self._drivers = spec_of, good, drivers
        self._first = (-math.inf, math.inf)

    def window(self, until: float, since: float = -math.inf) -> tuple[float, float]:
        """Return the part of the step that ends then by which it is judged; of what was before `since` nothing."""
        end = until - _LEAD - _ANSWERING
        return min(max(until - (1 - _SETTLING) * self._every, since), end - _JUDGED_MIN), end

    async def follow(self, recent: Recent, until: float, calm_good: float) -> Hysteresis:
        """Judge the load that is held until then, and hold others from then on if the system is not well.

        How often requests of that first load were attempted is known when it has ended: see `told`.

        Args:
            recent: Of the load that is held.
            until: When that ends, monotonic; it has to be some seconds from now.
            calm_good: The share of good answers in calm.
        """
        stairs = Staircase(self._settings, calm_good)
        window = self._first = self.window(until, time.monotonic())
        held: list[_Held] = []
        try:
            while True:
                await asyncio.sleep(until - _LEAD - time.monotonic())
                stairs.saw(recent.share(*window))
                if stairs.level is None:
                    break
                recent = self._hold(stairs.level, held, until)
                until += self._every
                window = self.window(until)
            attempts = [attempts_each(await each.run) for each in held]
        finally:
            for each in held:
                each.run.cancel()
            await asyncio.gather(*(each.run for each in held), return_exceptions=True)
        found = stairs.found
        steps = [dataclasses.replace(step, attempts=each) for step, each in zip(found.steps[1:], attempts, strict=True)]
        return dataclasses.replace(found, steps=(found.steps[0], *steps))

    def told(self, found: Hysteresis, result: RunResult) -> Hysteresis:
        """Return what was found, with how often requests of the first load were attempted while it was judged."""
        first, *others = found.steps
        first = dataclasses.replace(first, attempts=attempts_each(result, *self._first))
        return dataclasses.replace(found, steps=(first, *others))

    def _hold(self, level: float, held: list[_Held], start: float) -> Recent:
        spec = self._spec_of(level, len(held))
        recent = Recent(spec, start, self._good)
        driver = self._drivers[len(held) % 2]
        held.append(_Held(recent, asyncio.create_task(driver.run(spec, on_samples=recent.take, start_at=start))))
        return recent


def attempts_each(result: RunResult, start: float = -math.inf, end: float = math.inf) -> float:
    """Return the requests on the wire, from `start` to `end`, for each that was due then; 1 if none was."""
    repeated = set(result.attempts.request)
    due, sent = _within(result.samples, start, end), _within(result.attempts, start, end)
    once = sum(request not in repeated for request in due)
    return (once + len(sent)) / len(due) if due else 1.0


def _within(samples: Samples, start: float, end: float) -> list[int]:
    """Return of which request each sample is that was due from `start` to `end`."""
    return [request for at, request in zip(samples.intended, samples.request, strict=True) if start <= at < end]


@contextlib.asynccontextmanager
async def ready_to_free(on_spawn: Callable[[int], None]) -> AsyncIterator[tuple[LoadDriver, LoadDriver]]:
    """Start the two load generators, and stop them in the end."""
    async with LoadDriver(on_spawn=on_spawn) as one, LoadDriver(on_spawn=on_spawn) as other:
        yield one, other
