"""Recorded traffic, read from a file: when each request came, and which one it was where the record says so.

Four forms are told apart by their first line:

- *offsets*: one number a line, seconds;
- *CSV*: `offset,request`, with or without a header that names the columns (`offset`, `time`, `at` or `timestamp`;
  `request` or `name`);
- *JSON lines*: objects with such keys;
- *access logs* in the common or combined format of Apache and nginx.

Offsets may be counted from anywhere, the Unix epoch included: the first arrival is the start. Lines may be out of
order, as those of access logs are, which are written when a request ends. An access log knows whole seconds only, so
the requests of one second are spread evenly over it, in the order of their lines.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from hormesis.errors import ConfigurationError
from hormesis.loadgen.schedule import ARRIVALS_MAX, Trace

__all__ = ["read_trace"]

Row: TypeAlias = tuple[float, str | None]
"""A moment, and the name of a request if there is one."""

_MOMENTS = ("offset", "time", "at", "timestamp")
_NAMES = ("request", "name")
_LOGGED = re.compile(r"^\S+ .*?\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]")
_SHOWN_MAX = 60
_SPAN_MAX = 7 * 86_400
"""Seconds that a trace may take; a longer one was most likely recorded in other units."""


def read_trace(path: str | os.PathLike[str], *, speed: float = 1.0) -> Trace:
    """Read a recorded trace.

    Args:
        path: The file.
        speed: How many times as fast as it was recorded it is to be replayed.

    Raises:
        ConfigurationError: The file can't be read, holds no arrivals or too many, takes longer than a week, or has a
            line that is none.
    """
    if isinstance(speed, bool) or not 0 < speed < math.inf:
        raise ConfigurationError.bad_value("speed", speed, "a number above 0")
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            rows = list(_rows(file))
    except OSError as error:
        raise ConfigurationError(f"{path}: can't be read: {error.strerror or error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}") from None
    if not rows:
        raise ConfigurationError(f"{path}: holds no arrivals")
    rows.sort(key=lambda row: row[0])
    named = [name for _, name in rows if name is not None]
    if 0 < len(named) < len(rows):
        nameless = len(rows) - len(named)
        raise ConfigurationError(f"{path}: {nameless} of {len(rows)} arrivals name no request; all of them do, or none")
    first, span = rows[0][0], (rows[-1][0] - rows[0][0]) / speed
    if not span <= _SPAN_MAX:
        raise ConfigurationError(
            f"{path}: takes {span:,.6g} s; up to {_SPAN_MAX:,} are replayed (its times are read as seconds)"
        )
    return Trace([round((moment - first) / speed, 6) for moment, _ in rows], named)


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    full = ((number, line) for number, line in numbered if line and not line.startswith("#"))
    for number, line in full:
        read, is_header = _reader(line)
        everything = full if is_header else _again((number, line), full)
        if read is _from_log:
            yield from _spread(everything)
        else:
            for count, (at, each) in enumerate(everything):
                if count == ARRIVALS_MAX:
                    raise ConfigurationError(f"holds more than {ARRIVALS_MAX:,} arrivals")
                yield _read(read, at, each)


def _again(first: tuple[int, str], rest: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _reader(line: str) -> tuple[Callable[[str], Row], bool]:
    """Return what reads lines like the first one, and whether that one is a header."""
    if line.startswith("{"):
        return _from_json, False
    if _LOGGED.match(line):
        return _from_log, False
    cells = [cell.strip().lower() for cell in _cells(line)]
    moment = next((cells.index(name) for name in _MOMENTS if name in cells), None)
    if moment is not None:
        return _from_csv(moment, next((cells.index(name) for name in _NAMES if name in cells), None)), True
    return _from_csv(0, 1 if len(cells) > 1 else None), False


def _read(read: Callable[[str], Row], number: int, line: str) -> Row:
    try:
        moment, name = read(line)
    except (ValueError, KeyError, IndexError, TypeError):
        moment, name = math.nan, None
    if not math.isfinite(moment):
        shown = line if len(line) <= _SHOWN_MAX else line[:_SHOWN_MAX] + "…"
        raise ConfigurationError(f"line {number} is {shown!r}; it takes seconds, and perhaps the name of a request")
    return moment, name


def _cells(line: str) -> list[str]:
    return next(csv.reader([line]), [])


def _from_csv(moment: int, name: int | None) -> Callable[[str], Row]:
    def read(line: str) -> Row:
        cells = _cells(line)
        return float(cells[moment]), None if name is None else cells[name].strip() or None

    return read


def _from_json(line: str) -> Row:
    row: dict[str, Any] = json.loads(line)
    moment = next(row[key] for key in (*_MOMENTS, "") if key in row or not key)
    return float(moment), next((str(row[key]) for key in _NAMES if row.get(key) is not None), None)


def _from_log(line: str) -> Row:
    found = _LOGGED.match(line)
    if found is None:
        raise ValueError(line)
    return datetime.strptime(found[1], "%d/%b/%Y:%H:%M:%S %z").timestamp(), None


def _spread(lines: Iterable[tuple[int, str]]) -> Iterator[Row]:
    """Spread the requests of each logged second over it."""
    moments: list[float] = []
    for number, line in lines:
        if len(moments) == ARRIVALS_MAX:
            raise ConfigurationError(f"holds more than {ARRIVALS_MAX:,} arrivals")
        moments.append(_read(_from_log, number, line)[0])
    yield from ((moment, None) for moment in _evenly(moments))


def _evenly(moments: Sequence[float]) -> Iterator[float]:
    all_of, so_far = Counter(moments), Counter[float]()
    for moment in moments:
        yield moment + so_far[moment] / all_of[moment]
        so_far[moment] += 1
