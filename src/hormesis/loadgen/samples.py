"""What became of each arrival: one row of raw times in typed columns, in the order in which answers came.

Raw rows cost a few dozen bytes and can be cut at any moment afterwards: a phase of a game day, a kind of request, an
outcome. Histograms are made from them when the cut is known. Every arrival that was due has exactly one row, however it
ended; of a run that was cancelled, every arrival that was sent before.

All times are seconds on the monotonic clock, which every process of the machine shares, so they can be compared with
the times of faults and of other processes' events.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple, TypeAlias

__all__ = ["UNFINISHED", "Answer", "Sample", "Samples", "Wire"]

UNFINISHED = "unfinished"
"""The error of what still waited for an answer when its run was over."""

Wire: TypeAlias = dict[str, list[int] | list[str]]
"""Columns between two processes: times in whole microseconds since the run's start."""


class Answer(IntEnum):
    """How an arrival ended."""

    FULL = 0
    """The status that was asked for, and all of the body."""
    DEGRADED = 1
    """As full, but marked by the service as less than what was asked for."""
    FAILED = 2
    """Anything else: another status, a broken connection, no answer in time."""
    DECLINED = 3
    """Failed, but honestly: a 429 or 503 that says when to come back."""

    @property
    def served(self) -> bool:
        """Whether the caller got what it came for, in full or in part."""
        return self in (Answer.FULL, Answer.DEGRADED)


class Sample(NamedTuple):
    """One arrival; or one attempt of an arrival that is repeated, which is due when it is decided on.

    Attributes:
        intended: When it was due.
        sent: When it was handed to the client, which is later if the generator is late.
        done: When the last byte of the answer was there, or when it failed.
        request: The index of its request in the mix.
        answer: Full, degraded, failed or declined.
        error: Why it failed, in words fit for a table (`"refused"`, `"status 500"`, `"declined 503"`); empty if it
            didn't.
        status: The HTTP status; 0 when none came.
    """

    intended: float
    sent: float
    done: float
    request: int
    answer: Answer
    error: str = ""
    status: int = 0

    @property
    def latency(self) -> float:
        """The seconds from when the caller meant to call, which is what a caller waits."""
        return self.done - self.intended


class Samples:
    """Samples in columns, which may be read but not written from outside."""

    __slots__ = ("_codes", "_error", "answer", "done", "error_kinds", "intended", "request", "sent", "status")

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.intended = array("d")
        self.sent = array("d")
        self.done = array("d")
        self.request = array("H")
        self.answer = array("B")
        self.status = array("H")
        self.error_kinds: list[str] = [""]
        self._codes = {"": 0}
        self._error = array("H")
        for sample in samples:
            self.append(sample)

    def __len__(self) -> int:
        return len(self.intended)

    def __iter__(self) -> Iterator[Sample]:
        return map(self._sample, range(len(self)))

    def _sample(self, i: int) -> Sample:
        error = self.error_kinds[self._error[i]]
        return Sample(
            self.intended[i], self.sent[i], self.done[i], self.request[i], Answer(self.answer[i]), error, self.status[i]
        )

    def append(self, sample: Sample) -> None:
        """Add one sample."""
        self.intended.append(sample.intended)
        self.sent.append(sample.sent)
        self.done.append(sample.done)
        self.request.append(sample.request)
        self.answer.append(sample.answer)
        self.status.append(sample.status)
        self._error.append(self._code(sample.error))

    def extend(self, other: Samples) -> None:
        """Add all samples of another store, of the same mix."""
        self.intended.extend(other.intended)
        self.sent.extend(other.sent)
        self.done.extend(other.done)
        self.request.extend(other.request)
        self.answer.extend(other.answer)
        self.status.extend(other.status)
        codes = [self._code(kind) for kind in other.error_kinds]
        self._error.extend(codes[code] for code in other._error)

    def between(self, start: float, end: float) -> Samples:
        """Return the samples that were due from `start` up to, but not at, `end`."""
        return Samples(self._sample(i) for i, intended in enumerate(self.intended) if start <= intended < end)

    def latencies(self) -> array[float]:
        """Return the seconds from intended to done of every sample."""
        return array("d", (done - intended for intended, done in zip(self.intended, self.done, strict=True)))

    def lags(self) -> array[float]:
        """Return the seconds by which each sample was sent late."""
        return array("d", (sent - intended for intended, sent in zip(self.intended, self.sent, strict=True)))

    def _code(self, error: str) -> int:
        code = self._codes.get(error)
        if code is None:
            code = self._codes[error] = len(self.error_kinds)
            self.error_kinds.append(error)
        return code

    def to_wire(self, start_at: float) -> Wire:
        """Return the columns as JSON can carry them."""
        return {
            "intended": _micros(self.intended, start_at),
            "sent": _micros(self.sent, start_at),
            "done": _micros(self.done, start_at),
            "request": self.request.tolist(),
            "answer": self.answer.tolist(),
            "status": self.status.tolist(),
            "error": self._error.tolist(),
            "error_kinds": self.error_kinds,
        }

    @classmethod
    def from_wire(cls, wire: Wire, start_at: float) -> Samples:
        """Return the samples of `to_wire` with the same start, to the microsecond."""
        samples = cls()
        for name in ("intended", "sent", "done"):
            getattr(samples, name).extend(start_at + int(micros) / 1e6 for micros in wire[name])
        for name in ("request", "answer", "status"):
            getattr(samples, name).extend(wire[name])
        codes = [samples._code(str(kind)) for kind in wire["error_kinds"]]
        samples._error.extend(codes[int(code)] for code in wire["error"])
        return samples


def _micros(times: array[float], start_at: float) -> list[int]:
    return [round((time - start_at) * 1e6) for time in times]
