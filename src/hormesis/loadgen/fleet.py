"""Several generators as one: each sends every n-th arrival of the same schedule, and their rows are put together."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable, Iterable
from time import monotonic

from hormesis.loadgen.driver import LoadDriver, RunResult
from hormesis.loadgen.request import LoadSpec
from hormesis.loadgen.samples import Samples

__all__ = ["Fleet"]

_PREPARED = 0.3
"""Seconds that generators have to make their schedules, and what each arrival of it adds."""

_PREPARED_EACH = 3e-6


class Fleet:
    """Runs a load with several generators, one run at a time.

    Args:
        processes: How many.
    """

    def __init__(self, processes: int = 1) -> None:
        self._drivers = [LoadDriver() for _ in range(processes)]
        self._sending = False

    async def __aenter__(self) -> Fleet:
        try:
            await asyncio.gather(*(driver.start() for driver in self._drivers))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.gather(*(driver.stop() for driver in self._drivers))

    async def run(self, spec: LoadSpec, on_samples: Callable[[Samples], None] | None = None) -> RunResult:
        """Run one load to its end.

        Raises:
            HormesisError: As `LoadDriver.run` does; then all generators have been stopped.
        """
        many = len(self._drivers)
        ahead = _PREPARED + _PREPARED_EACH * (0 if math.isnan(spec.expected) else spec.expected)
        start_at = monotonic() + ahead
        self._sending = True
        try:
            async with asyncio.TaskGroup() as group:
                runs = [
                    group.create_task(
                        driver.run(dataclasses.replace(spec, share=(number, many)), on_samples, start_at=start_at)
                    )
                    for number, driver in enumerate(self._drivers)
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            self._sending = False
        return _merged([run.result() for run in runs], closed=spec.users is not None)

    async def cancel(self) -> bool:
        """End the run early, with a result; returns whether there is one under way."""
        sending = self._sending
        if sending:
            await asyncio.gather(*(driver.cancel() for driver in self._drivers))
        return sending


def _merged(results: list[RunResult], *, closed: bool) -> RunResult:
    first = results[0]
    if len(results) == 1:
        return first
    for other in results[1:]:
        first.samples.extend(other.samples)
        first.attempts.extend(other.attempts)
    p50, p99, longest = _worst_lags(results) if closed else _lags_of(first.samples)

    return dataclasses.replace(
        first,
        cancelled=any(result.cancelled for result in results),
        dropped=sum(result.dropped for result in results),
        waited=sum(result.waited for result in results),
        lag_p50=p50,
        lag_p99=p99,
        lag_max=longest,
        wrong={name: wrong for result in reversed(results) for name, wrong in result.wrong.items()},
    )


def _lags_of(samples: Samples) -> tuple[float, float, float]:
    lags = sorted(samples.lags())

    def lag(q: float) -> float:
        return lags[max(0, math.ceil(q * len(lags)) - 1)] if lags else math.nan

    return lag(0.5), lag(0.99), lag(1.0)


def _worst_lags(results: list[RunResult]) -> tuple[float, float, float]:
    """Return the lags of the generator that lagged most; requests don't show those of a closed loop."""

    def worst(lags: Iterable[float]) -> float:
        return max((lag for lag in lags if not math.isnan(lag)), default=math.nan)

    return (
        worst(result.lag_p50 for result in results),
        worst(result.lag_p99 for result in results),
        worst(result.lag_max for result in results),
    )
