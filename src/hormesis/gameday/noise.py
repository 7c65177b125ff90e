"""What else a machine does while something is measured on it: the noise that every figure has in it.

*Busy* is all that its processors did, for anybody. *Steal* is what they would have done had the machine under a virtual
one not been busy elsewhere: it stops everything at once, the load generator too. Both are shares of all processors
over the time that was measured, by the kernel's own count (`/proc/stat`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os

__all__ = ["Noise", "NoiseMeter"]

_COUNTED = 8
"""user, nice, system, idle, iowait, irq, softirq, steal; what guests took is in user and nice already."""
_IDLE, _WAITING, _STEAL = 3, 4, 7


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What the machine did; not numbers where it does not tell.

    Attributes:
        busy: The share of its processors' time that was worked.
        steal: The share that the machine under it took away.
        load: How many processes were running or waiting for a processor, as the mean of the last minute.
        cores: How many processors there are.
    """

    busy: float = math.nan
    steal: float = math.nan
    load: float = math.nan
    cores: int = 1


class NoiseMeter:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self._before = _ticks()

    def read(self) -> Noise:
        """Return what has been since."""
        passed = [after - before for before, after in zip(self._before, _ticks(), strict=False)]
        busy = steal = load = math.nan
        if len(passed) == _COUNTED and (total := sum(passed)) > 0:
            busy = 1 - (passed[_IDLE] + passed[_WAITING] + passed[_STEAL]) / total
            steal = passed[_STEAL] / total
        with contextlib.suppress(OSError, AttributeError):  # not everywhere
            load = os.getloadavg()[0]
        return Noise(busy=busy, steal=steal, load=load, cores=os.cpu_count() or 1)


def _ticks() -> list[int]:
    with contextlib.suppress(OSError, ValueError), open("/proc/stat", encoding="ascii") as file:
        return [int(each) for each in file.readline().split()[1 : _COUNTED + 1]]
    return []
