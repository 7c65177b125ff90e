"""Pattern 2, bulkhead: one dependency can't take all of the callers with it.

The machine is in `hormesis.core.bulkhead`. Around it there are three walls to choose from, each thicker and dearer than
the one before:

    a semaphore    bounds how many are in; a function runs in its caller's thread, or as its task
    threads        synchronous functions run in threads of their own, so that a caller can stop waiting for one
    processes      they run in processes of their own: what crashes, leaks or never ends can be killed, and takes
                   nothing with it
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Any, ClassVar, Literal

from hormesis.core.admission import Lock
from hormesis.core.bulkhead import BulkheadMachine
from hormesis.core.keyed import Keyed
from hormesis.core.slots import Slot
from hormesis.errors import BulkheadFull, ConfigurationError, Rejected
from hormesis.outcome import Ending
from hormesis.patterns.keys import BY_ACCEPTED, By, key_of
from hormesis.patterns.part import normalise, whole
from hormesis.tables import ACCEPTED, Settings
from hormesis.units import Duration, Size, bytes_of, format_seconds, seconds

__all__ = ["Bulkhead", "Workers"]

Workers = Literal["threads", "processes"]
"""Where the synchronous functions of a bulkhead run, if not in their callers' threads."""

_WORKERS_MAX = {"threads": 10_000, "processes": 1_000}
"""More workers than that are a mistake in a setting, and not what a machine can carry."""

_MEMORY_LEAST = 64 * 10**6
"""An interpreter with this library takes a third of that, and what is protected needs some as well."""

_MEMORY_ACCEPTED = "at least 64 MB, as bytes or like '512MB', '2GB'"


@dataclasses.dataclass(frozen=True, slots=True)
class Bulkhead(Settings):
    """Let a bounded number of calls in at a time, and a bounded number wait for a bounded time.

    Args:
        max_concurrent: Attempts that run at the same time, over all threads and tasks of this process.
        max_queued: Callers that may wait, first come, first served; the next raises `BulkheadFull`.
        max_wait: How long a caller waits at most; its deadline may cut that short.
        workers: Where synchronous functions run. None: in the caller's thread. `"threads"`: in `max_concurrent` daemon
            threads of this bulkhead's own, with the caller's context variables. `"processes"`: in as many processes;
            functions must then stand in a module, arguments and results must pickle, and of the context only the
            deadline, the labels and the request id are carried.
        memory_max: What a worker process may hold, in bytes or as a string (`"512MB"`). A call that wants more gets a
            `MemoryError`; a worker that keeps three quarters of it after a call is replaced.
        calls_max: Calls after which a worker process is replaced, against what leaks slowly.
        by: What to have an instance for each of: a label of `calling(…)`, such as `"host"`, or a function that makes a
            key of the call's arguments.
        max_keys: Instances that are kept at most; the least recently used go first.

    Raises:
        ConfigurationError: A setting can't be meant.

    >>> Bulkhead(20, max_queued=40).max_wait
    1.0
    >>> Bulkhead(4, workers="processes", memory_max="512MB").memory_bytes
    512000000
    """

    slot: ClassVar[Slot] = Slot.BULKHEAD
    rejection: ClassVar[type[Rejected]] = BulkheadFull

    max_concurrent: int
    _: dataclasses.KW_ONLY
    # No queue unless asked for: refusing at once is the honest default, since a queue hides an overload as latency.
    max_queued: int = 0
    # A second in our own queue is already an outage to whoever waits.
    max_wait: Duration = 1.0
    # A semaphore costs next to nothing. A thread costs a hand-over, and a process a copy of all that goes in and out.
    workers: Workers | None = None
    # How much is too much depends on the work alone.
    memory_max: Size | None = dataclasses.field(default=None, metadata={ACCEPTED: _MEMORY_ACCEPTED})
    calls_max: int | None = None
    by: By | None = dataclasses.field(default=None, metadata={ACCEPTED: BY_ACCEPTED})
    # More tenants than that at once are a fleet's, and a few megabytes.
    max_keys: int = 10_000

    def __post_init__(self) -> None:
        if self.workers not in (None, *_WORKERS_MAX):
            raise ConfigurationError.bad_value("workers", self.workers, "'threads', 'processes' or nothing")
        most = 1_000_000 if self.workers is None else _WORKERS_MAX[self.workers]
        whole("max_concurrent", self.max_concurrent, 1, most)
        whole("max_queued", self.max_queued, 0)
        whole("max_keys", self.max_keys, 1)
        normalise(self, max_wait=seconds(self.max_wait, "max_wait"))
        self._check_processes()
        key_of(self.by)
        if self.by is not None and self.workers is not None:
            # One pool for each key would bound nothing, and one for all keys would let one key starve the others.
            raise ConfigurationError(
                f"workers is {self.workers!r} and by is set; a bulkhead has workers, or an instance for each key: "
                "nest a policy with workers in one with by",
                "by",
            )

    def _check_processes(self) -> None:
        if self.memory_max is not None:
            least, accepted = _MEMORY_LEAST, _MEMORY_ACCEPTED
            normalise(self, memory_max=bytes_of(self.memory_max, "memory_max", least=least, accepted=accepted))
        if self.calls_max is not None:
            whole("calls_max", self.calls_max, 1, 1_000_000_000)
        for key in ("memory_max", "calls_max"):
            value = getattr(self, key)
            if value is not None and self.workers != "processes":
                raise ConfigurationError(f"{key} is {value!r}; it takes workers='processes', which it bounds", key)

    @property
    def memory_bytes(self) -> int | None:
        """What a worker process may hold, in bytes; None when nothing bounds it."""
        return None if self.memory_max is None else bytes_of(self.memory_max, "memory_max")

    def machine(self, lock: Lock, random: object = None) -> BulkheadMachine | Keyed[BulkheadMachine]:
        """Make the machine that these settings describe, or a machine for each key if they have `by`.

        Args:
            lock: A lock of its own.
            random: Nothing here is left to chance.
        """
        if self.by is None:
            return self._one(lock)
        return Keyed(self._another, self.max_keys, lock=lock, by=self.by)

    def adopt(self, machine: Any) -> bool:
        """Let what another bulkhead's settings made go on with these; False when its keys are others.

        Args:
            machine: What `machine` of those settings returned.
        """
        change = functools.partial(
            BulkheadMachine.reconfigure,
            max_concurrent=self.max_concurrent,
            max_queued=self.max_queued,
            max_wait=seconds(self.max_wait),
        )
        if isinstance(machine, BulkheadMachine) and self.by is None:
            change(machine)
            return True
        if not isinstance(machine, Keyed) or self.by is None or machine.by != self.by:
            return False
        # In this order: an instance that is made meanwhile is made by these settings, or found among the others.
        machine.remake(self._another, self.max_keys)
        for instance in machine.values():
            change(instance)
        return True

    def _another(self) -> BulkheadMachine:
        return self._one(threading.Lock())

    def _one(self, lock: Lock) -> BulkheadMachine:
        return BulkheadMachine(
            max_concurrent=self.max_concurrent,
            max_queued=self.max_queued,
            max_wait=seconds(self.max_wait),
            lock=lock,
        )

    def ending(self, error: BaseException) -> Ending:
        """Say how an attempt ended that raised this; a place is free again either way."""
        return Ending.FAILURE if isinstance(error, Exception) else Ending.CANCELLED

    def describe(self) -> str:
        """The settings in words."""
        queue = "none wait"
        if self.max_queued:
            queue = f"{self.max_queued} more wait up to {format_seconds(seconds(self.max_wait))}"
        whose = ""
        if self.by is not None:
            whose = f"; one for each {self.by if isinstance(self.by, str) else 'key'}, {self.max_keys:,} at most"
        return f"at most {self.max_concurrent} at a time, {queue}{self._workers_in_words()}{whose}"

    def _workers_in_words(self) -> str:
        if self.workers is None:
            return ""
        bounds = []
        if self.memory_bytes is not None:
            bounds.append(f"{self.memory_bytes / 1e6:.4g} MB each")
        if self.calls_max is not None:
            bounds.append(f"replaced after {self.calls_max:,} calls")
        within = f" ({', '.join(bounds)})" if bounds else ""
        return f"; synchronous functions in {self.workers} of its own{within}"
