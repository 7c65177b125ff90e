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
from typing import Any, NamedTuple, TypeAlias

__all__ = ["UNFINISHED", "Answer", "Sample", "Samples", "Wire"]

UNFINISHED = "unfinished"
"""The error of what still waited for an answer when its run was over."""

Wire: TypeAlias = tuple[dict[str, Any], bytes]
"""Columns between two processes of a machine: what they are, as JSON can carry it, and their bytes."""

_COLUMNS = ("intended", "sent", "done", "request", "answer", "status", "_error")


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
        answer, error = Answer(self.answer[i]), self.error_at(i)
        return Sample(self.intended[i], self.sent[i], self.done[i], self.request[i], answer, error, self.status[i])

    def error_at(self, i: int) -> str:
        """Return why a row failed; empty if it did not."""
        return self.error_kinds[self._error[i]]

    def append(self, sample: Sample) -> None:
        """Add one sample."""
        self.add(*sample)

    def add(
        self, intended: float, sent: float, done: float, request: int, answer: Answer, error: str = "", status: int = 0
    ) -> None:
        """Add what would be one sample, without the cost of making it."""
        self.intended.append(intended)
        self.sent.append(sent)
        self.done.append(done)
        self.request.append(request)
        self.answer.append(answer)
        self.status.append(status)
        self._error.append(self._code(error))

    def extend(self, other: Samples) -> None:
        """Add all samples of another store, of the same mix."""
        self.intended.extend(other.intended)
        self.sent.extend(other.sent)
        self.done.extend(other.done)
        self.request.extend(other.request)
        self.answer.extend(other.answer)
        self.status.extend(other.status)
        codes = array("H", map(self._code, other.error_kinds))
        same = codes == array("H", range(len(codes)))
        self._error.extend(other._error if same else array("H", (codes[code] for code in other._error)))

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

    def to_wire(self) -> Wire:
        """Return the columns for another process."""
        columns = [getattr(self, name) for name in _COLUMNS]
        return {"rows": len(self), "error_kinds": self.error_kinds}, b"".join(column.tobytes() for column in columns)

    @classmethod
    def from_wire(cls, wire: Wire) -> Samples:
        """Return the samples of `to_wire`."""
        about, data = wire
        samples, view, start = cls(), memoryview(data), 0
        for name in _COLUMNS:
            column: array[float] = getattr(samples, name)
            end = start + about["rows"] * column.itemsize
            column.frombytes(view[start:end])
            start = end
        samples.error_kinds = about["error_kinds"]
        samples._codes = {kind: code for code, kind in enumerate(samples.error_kinds)}
        return samples
