"""Faults by the rules: the undo is on the disk before the fault acts, the fault has a lease, and its end is certain.

For every fault: write into the journal how to undo it; put it into force; renew its lease while this loop turns; undo
it by what the journal says; tick it there. A loop that hangs renews nothing, and then the watchdog undoes the fault.
What acts in this process the watchdog can't reach: that is lifted here, as soon as the loop turns again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from contextlib import suppress
from types import TracebackType

from hormesis.chaos.host.act import Act, FaultFailed, to_the_end
from hormesis.chaos.journal import Entry, Journal, replay
from hormesis.chaos.keeper import Keeper
from hormesis.errors import HormesisError

__all__ = ["LEASE", "Safety"]

LEASE = 3.5
"""Seconds that a fault may act after the last sign of life of the runner's loop."""
_RENEW_EVERY = 1.0


@dataclasses.dataclass(slots=True)
class _Held:
    """A fault in force: its entry in the journal, when its time is up in any case, and up to when it has its lease."""

    entry: Entry
    until: float | None
    lease: float | None
    begun: bool = False


class Safety:
    """Puts faults into force and takes them back; as a context, it leaves none.

    All is done from one loop. Faults stay in force until they are lifted, the block ends, their time is up, or the
    runner dies or hangs.

    Args:
        keeper: The watchdog, running, with a journal.
        arm: Whose faults these are, for the journal, where several systems are stressed side by side.
    """

    def __init__(self, keeper: Keeper, arm: str = "") -> None:
        self.keeper = keeper
        self.arm = arm
        self.expired: list[str] = []
        """What was undone before it was lifted, as its time was up or this loop hung."""
        self.left: list[str] = []
        """What could not be undone, and why."""
        self._held: dict[Act, _Held] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Safety:
        self._renewing = asyncio.create_task(self._renew(), name="leases of faults")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.lift_all()
        finally:
            if self._renewing is not None:
                self._renewing.cancel()
                await asyncio.wait([self._renewing])

    @property
    def in_force(self) -> list[str]:
        """The faults in force, in words."""
        return [act.what for act in self._held]

    async def apply(self, act: Act, *, within: float | None = None, lease: bool = True) -> None:
        """Put a fault into force.

        Args:
            act: The fault at its place.
            within: Seconds after which the watchdog undoes it in any case; None: as long as this loop turns.
            lease: False for what lasts as long as the runner, such as a network made for the system.

        Raises:
            FaultFailed: The machine can't do it, or did not; nothing of it is left then.
            OSError: Its undo could not be written down.
        """
        await to_the_end(self._apply(act, within, lease))

    async def lift(self, act: Act) -> None:
        """Take a fault back; one that is not in force is left at that.

        Bounded in time, and done to the end if it is cancelled. What can't be undone is noted in `left`, for the
        watchdog to try again at the runner's end.
        """
        await to_the_end(self._lift(act))

    async def lift_all(self) -> None:
        """Take all faults back, the last first."""
        for act in reversed(list(self._held)):
            await self.lift(act)

    async def _apply(self, act: Act, within: float | None, lease: bool) -> None:
        reason = await asyncio.to_thread(act.possible)
        if reason is not None:
            raise FaultFailed(act.what, reason)
        now = time.monotonic()
        until = None if within is None else now + within
        deadline = min(now + LEASE, until or now + LEASE) if lease else None
        entry = await asyncio.to_thread(lambda: self._journal.enter(act.what, act.undo(), deadline, self.arm))
        self._held[act] = held = _Held(entry, until, deadline)
        try:
            await act.begin()
            held.begun = True
        except BaseException:
            await self._lift(act)
            raise

    async def _lift(self, act: Act, *, expired: bool = False) -> None:
        held = self._held.pop(act, None)
        if held is None:
            return
        try:
            await act.end()
        except (HormesisError, OSError) as error:
            self.left.append(f"{act.what}: {error}")
        finally:
            await asyncio.to_thread(self._undo, held.entry, expired)

    def _undo(self, entry: Entry, expired: bool) -> None:
        journal = self._journal
        if expired or journal.look().undone_by(entry.id) == "watchdog":
            self.expired.append(entry.what)
        self.left += [f"{entry.what}: {undone.why}" for undone in replay(journal, [entry]) if undone.why]

    async def _renew(self) -> None:
        """Renew the leases of what is in force, for as long as this loop turns, and lift what has none any more."""
        while True:
            await asyncio.sleep(_RENEW_EVERY)
            now = time.monotonic()
            over: list[Act] = []
            for act, held in self._held.items():
                if held.lease is None:
                    continue
                if held.lease <= now:
                    over += [act] if held.begun else []
                    continue
                held.lease = min(now + LEASE, held.until or now + LEASE)
                with suppress(OSError):  # the watchdog has died; then nobody asks for a lease either
                    self.keeper.renew(held.entry, held.lease)
            for act in reversed(over):
                await to_the_end(self._lift(act, expired=True))

    @property
    def _journal(self) -> Journal:
        if self.keeper.journal is None:
            raise RuntimeError("the keeper has no journal, or is not running")
        return self.keeper.journal
