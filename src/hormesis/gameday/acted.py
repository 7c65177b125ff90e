"""Which parts of the policies acted, read from the protected processes' own events of that run.

A part *acted* when it did something that the bare call would not have done: it opened, refused, queued, cut off,
retried or answered. Whether that contained the failure is another question, which only taking the part away can answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hormesis.gameday.results import Acted

__all__ = ["EventLog", "summarise"]

_ACTS: Mapping[str, str] = {
    "call_rejected": "refused",
    "waited": "queued",
    "timeout_hit": "cut off",
    "retry_scheduled": "retried",
    "retry_succeeded": "succeeded",
    "retry_stopped": "gave up",
    "hedge_started": "hedged",
    "cache_answered": "answered",
    "fallback_answered": "answered",
    "fallback_failed": "had no answer",
    "flow_paused": "paused",
    "item_dropped": "dropped",
    "reader_disconnected": "disconnected",
}
_STATES: Mapping[str, str] = {
    "open": "opened",
    "half-open": "half-opened",
    "recovering": "recovered in part",
    "closed": "closed",
    "isolated": "was isolated",
    "disabled": "was disabled",
}
_READ_MAX = 64_000_000
"""Bytes of one process's events that are read after a stress; a process that wrote more has made its point."""


class EventLog:
    """Reads a file of JSON lines bit by bit, as its process writes it."""

    def __init__(self, process: str, path: Path) -> None:
        self.process = process
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Mapping[str, Any]]:
        """Yield the events that were written since the last reading; what is no event is passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(_READ_MAX)
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):  # a process that was killed left half a line; or no event at all
                continue
            if isinstance(event, dict) and isinstance(event.get("at"), int | float):
                yield event


def summarise(process: str, events: Iterable[Mapping[str, Any]], dose_start: float, until: float) -> list[Acted]:
    """Count what each part did from the dose on.

    Args:
        process: Whose events they are.
        events: In any order; `at` is monotonic.
        dose_start: Acts before it are no answer to this stress, and are left out.
        until: Nor are those after this.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    first: dict[tuple[str, str], float] = {}
    for event in events:
        act = _STATES.get(str(event.get("after"))) or _ACTS.get(str(event.get("event")))
        at = event["at"]
        if act is None or not dose_start <= at <= until or event.get("shadow"):
            continue  # what a shadow would have done, nobody did
        key = (str(event.get("policy")), str(event.get("part")))
        counts.setdefault(key, Counter())[act] += 1
        first[key] = min(first.get(key, at), at)
    return [
        Acted(process=process, policy=policy, part=part, counts=dict(acts), first=first[policy, part] - dose_start)
        for (policy, part), acts in sorted(counts.items(), key=lambda item: first[item[0]])
    ]
