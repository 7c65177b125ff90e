"""The looks of one stress: when each probe is due, what it found, and in which phase that was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from hormesis.gameday.probes import Invariant, Look, Moment, Probe
from hormesis.gameday.probing import Probes
from hormesis.gameday.results import Phase, ProbeResult, Window
from hormesis.gameday.together import together
from hormesis.units import seconds

__all__ = ["Looks"]

_PHASES: Mapping[Moment, Phase] = {"start": Phase.CALM, "end": Phase.CONTAINED, "after": Phase.RECOVERED}
_LENIENT = (Phase.DETECTION, Phase.RECOVERING)
"""In these a system may still find out, or come back."""


class _Seen(NamedTuple):
    look: Look
    at: float
    took: float
    said: str
    phase: Phase | None


class Looks:
    """Makes the looks of one arm under one stress.

    Args:
        probes: Which, at the stress's different moments.
        invariants: Which, when all is over.
        prober: What looks.
        started: When the load begins, monotonic.
        on_miss: Called when a probe has missed that looks all along.
        may_miss: The probes that may miss while the dose is in force.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        invariants: Sequence[Invariant],
        prober: Probes,
        started: float,
        on_miss: Callable[[Probe, str], None],
        may_miss: Collection[str] = (),
    ) -> None:
        self._probes, self._invariants = probes, invariants
        self._prober = prober
        self._started = started
        self._on_miss = on_miss
        self._may_miss = may_miss
        self._seen: list[_Seen] = []

    async def at(self, moment: Moment) -> bool:
        """Look with all probes that are due at a moment, at the same time, and return whether all held."""
        due = [probe for probe in self._probes if moment in probe.when]
        found = await together(*(self._look(probe, _PHASES[moment]) for probe in due))
        return not any(found)

    async def all_along(self) -> None:
        """Look with those that do so all along, until this is cancelled."""
        await together(*(self._again(probe) for probe in self._probes if "during" in probe.when))

    async def when_over(self) -> None:
        """Look whether the invariants hold."""
        await together(*(self._look(invariant, Phase.RECOVERED) for invariant in self._invariants))

    async def _again(self, probe: Probe) -> None:
        await asyncio.sleep(max(0.0, self._started - time.monotonic()))
        while True:
            due = time.monotonic() + seconds(probe.every)
            if said := await self._look(probe, None):
                self._on_miss(probe, said)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _look(self, look: Look, phase: Phase | None) -> str:
        at = time.monotonic() - self._started
        said, took = await self._prober.look(look)
        self._seen.append(_Seen(look, at, took, said, phase))
        return said

    def results(self, phases: Mapping[Phase, Window]) -> list[ProbeResult]:
        """Return what was found, in the order in which it was looked for.

        Args:
            phases: When each phase was.
        """
        found = []
        for seen in sorted(self._seen, key=lambda seen: seen.at):
            phase = seen.phase or _phase_of(seen, phases)
            lenient = phase in _LENIENT or (phase is Phase.CONTAINED and seen.look.name in self._may_miss)
            found.append(
                ProbeResult(
                    probe=seen.look.name,
                    phase=phase,
                    at=seen.at,
                    took=seen.took,
                    said=seen.said,
                    judged=not lenient,
                    invariant=isinstance(seen.look, Invariant),
                )
            )
        return found


def _phase_of(seen: _Seen, phases: Mapping[Phase, Window]) -> Phase:
    """Return the phase in which a look began; as with requests, one that the dose overtook belongs to detection."""
    phase = next((each for each in Phase if seen.at < phases[each].end), Phase.RECOVERED)
    overtaken = phase is Phase.CALM and seen.at + seen.took >= phases[Phase.CALM].end
    return Phase.DETECTION if overtaken else phase
