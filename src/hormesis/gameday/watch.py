"""Looks at the answers as they come in, and says when a dose has to end: pure, with the time as an input."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import Protocol

from hormesis.gameday.bounds import Abort, BlastRadius, Burn
from hormesis.loadgen import Sample
from hormesis.units import format_seconds, seconds

__all__ = ["Failures", "Watch"]

REQUESTS_MIN = 10
"""Fewer requests are no reason to end a dose."""


class _Rule(Protocol):
    def take(self, sample: Sample) -> None: ...
    def says(self, now: float) -> str: ...


class Watch:
    """All the reasons to end a dose early.

    Args:
        abort: The abort conditions, if there are any.
        blast_radius: Whom the stress may hit, if that is bounded.
        spared: The indices of the requests that must not fail under it.
        since: When the dose began.
    """

    def __init__(
        self, abort: Abort | None, blast_radius: BlastRadius | None, spared: Collection[int], since: float
    ) -> None:
        rules: list[_Rule] = []
        if abort is not None and abort.answered is not None:
            rules.append(_Answered(abort.answered, seconds(abort.over), since))
        if abort is not None and abort.burn is not None:
            rules.append(_Burning(abort.burn, since))
        if blast_radius is not None and spared:
            rules.append(_Spared(blast_radius, spared, since))
        self._rules = rules

    def take(self, samples: Iterable[Sample], now: float) -> str:
        """Look at a batch, and return the reason to end the dose; empty when there is none."""
        for sample in samples:
            for rule in self._rules:
                rule.take(sample)
        return next(filter(None, (rule.says(now) for rule in self._rules)), "")


class Failures:
    """Counts the requests of a game day that fail, against its budget.

    >>> from hormesis.loadgen import Answer
    >>> failures = Failures(1)
    >>> failures.take([Sample(0, 0, 1, 0, Answer.FAILED)] * 2)
    >>> failures.spent
    '2 requests have failed, and the budget is 1'
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def take(self, samples: Iterable[Sample]) -> None:
        """Look at a batch."""
        self._count += sum(not sample.answer.served for sample in samples)

    @property
    def spent(self) -> str:
        """Say that the budget is used up; empty as long as it is not."""
        return f"{self._count} requests have failed, and the budget is {self._most}" if self._count > self._most else ""


class _Window:
    """How many requests ended in the last so many seconds, and how many of them were answered."""

    def __init__(self, length: float, since: float, least: int = REQUESTS_MIN) -> None:
        self.length = length
        self._least = least
        self._since = since
        self._ended: deque[tuple[float, bool]] = deque()
        self.answered = 0

    def take(self, sample: Sample) -> None:
        self._ended.append((sample.done, sample.answer.served))
        self.answered += sample.answer.served

    def count(self, now: float) -> int:
        """Forget what is too old, and return how many are left."""
        while self._ended and self._ended[0][0] < now - self.length:
            self.answered -= self._ended.popleft()[1]
        return len(self._ended)

    def failing(self, now: float) -> float:
        """Return the share that was not answered; not a number as long as the window is not full or says too little."""
        count = self.count(now)
        if now - self._since < self.length or count < self._least:
            return math.nan
        return 1 - self.answered / count


class _Answered:
    def __init__(self, least: float, over: float, since: float) -> None:
        self._least, self._window = least, _Window(over, since)

    def take(self, sample: Sample) -> None:
        self._window.take(sample)

    def says(self, now: float) -> str:
        if not self._window.failing(now) > 1 - self._least:
            return ""
        answered = f"{self._window.answered} of {self._window.count(now)} requests were answered"
        return f"{answered} in {self._window.length:g} s (abort below {100 * self._least:.4g}%)"


class _Burning:
    def __init__(self, burn: Burn, since: float) -> None:
        self._burn = burn
        # The short window only has to show that it is not over; few requests do.
        self._windows = [_Window(seconds(burn.long), since), _Window(seconds(burn.short), since, least=1)]

    def take(self, sample: Sample) -> None:
        for window in self._windows:
            window.take(sample)

    def says(self, now: float) -> str:
        allowed = 1 - self._burn.objective
        rates = [window.failing(now) / allowed for window in self._windows]
        # What fails at exactly the rate reaches it, whatever a division leaves of it.
        if not all(rate >= self._burn.rate - 1e-9 for rate in rates):
            return ""
        long, short = rates
        windows = [format_seconds(window.length) for window in self._windows]
        return (
            f"the error budget of {100 * allowed:.4g}% burns {long:.3g} times too fast over {windows[0]} and "
            f"{short:.3g} times over {windows[1]} (abort from {self._burn.rate:g})"
        )


class _Spared:
    def __init__(self, radius: BlastRadius, spared: Collection[int], since: float) -> None:
        self._most, self._spared = radius.spared, frozenset(spared)
        self._window = _Window(seconds(radius.over), since)

    def take(self, sample: Sample) -> None:
        if sample.request in self._spared:
            self._window.take(sample)

    def says(self, now: float) -> str:
        failing = self._window.failing(now)
        if not failing > self._most:
            return ""
        return (
            f"{100 * failing:.4g}% of the requests outside the blast radius failed in {self._window.length:g} s "
            f"(at most {100 * self._most:.4g}%)"
        )
