"""Changes to a policy file that may contain a failure: one part of one policy added, removed or tuned.

The file is edited as text that stays as it is: comments, order and spacing of all that is not changed are kept, so the
change can be shown, and applied, as a diff of a few lines. Every candidate is loaded and linted before it is offered;
what a policy file does not take, and combinations that can't work as meant, are no candidates.
"""

from __future__ import annotations

import difflib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hormesis.errors import HormesisError, MissingExtraError
from hormesis.inbound import service as _service  # noqa: F401  a policy file may have a table of those
from hormesis.outbound import pools as _pools  # noqa: F401  and of these
from hormesis.policy import files
from hormesis.policy.lint import Finding, lint
from hormesis.units import format_seconds, seconds

__all__ = ["Change", "Circumstances", "PolicyFile"]

Table: TypeAlias = Mapping[str, Any]
Settings: TypeAlias = dict[str, Any] | str | float

_TUNED = (0.5, 2.0)
"""Factors by which a limit is made shorter and longer."""

_ROOM = 1.5
"""How much more room a new bulkhead has than what a calm day needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What is known of the calls that a policy protects, for settings of parts that it has not got.

    Attributes:
        patience: How long a caller waits for an answer under the objectives, in seconds.
        rate: Requests a second.
        latency: What an answer normally takes.
        reads: Whether only reading requests were hurt, so that an older answer may do.
    """

    patience: float = 1.0
    rate: float = 10.0
    latency: float = 0.1
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a policy file.

    Args:
        name: What tables call it, such as `"inventory: timeout 150ms instead of 300ms"`.
        text: The whole file with it.
    """

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class _Edit:
    """One part with other settings; None takes it away."""

    part: str
    settings: Settings | None
    words: str


class PolicyFile:
    """A policy file, and the changes that could be made to it.

    Args:
        path: The file.

    Raises:
        ConfigurationError: It can't be read, or something in it can't be meant.
        MissingExtraError: The extra `gameday` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._objections = _objections(files.load(self.path))
        self.text = self.path.read_text(encoding="utf-8")

    @property
    def policies(self) -> list[str]:
        """The names of its policies."""
        return list(_parsed(self.text).get("policy", {}))

    @property
    def places(self) -> list[str]:
        """The names of those that have a place for injected faults."""
        return [name for name, table in _parsed(self.text).get("policy", {}).items() if "chaos" in table]

    def changes(self, policies: Sequence[str], circumstances: Circumstances) -> list[Change]:
        """Return what could be changed in these policies, and in the service, the most promising first.

        Args:
            policies: Whose parts, the service's name among them where it acted; names that the file has not got are
                passed over.
            circumstances: For the settings of new parts.
        """
        tables = _parsed(self.text)
        edits: list[tuple[tuple[str, ...], _Edit]] = [
            (("policy", name), edit)
            for name in policies
            if name in tables.get("policy", {})
            for edit in _edits(tables["policy"][name], circumstances)
        ]
        if (service := tables.get("service")) is not None:
            shedding = _load_shedder("load_shedder", service.get("load_shedder"), circumstances)
            edits += [(("service",), edit) for edit in shedding]
        acting = service is not None and service.get("name") in policies
        # What helps most policies most often comes first for all of them, and taking a part away last; before all comes
        # the shedder that turned requests away.
        ranks = ["load_shedder", *_PARTS] if acting else [*_PARTS, "load_shedder"]
        edits.sort(key=lambda each: (each[1].settings is None, ranks.index(each[1].part)))
        made = (self._made(where, edit) for where, edit in edits)
        return [change for change in made if change is not None]

    def diff(self, change: Change) -> str:
        """Return a change as a unified diff of the file."""
        name = self.path.name
        lines = difflib.unified_diff(
            self.text.splitlines(keepends=True), change.text.splitlines(keepends=True), f"a/{name}", f"b/{name}"
        )
        return "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)

    def _made(self, where: Sequence[str], edit: _Edit) -> Change | None:
        text = _edited(self.text, where, edit)
        if not self._sound(text):
            return None
        return Change(f"{where[-1]}: {edit.words}", text)

    def _sound(self, text: str) -> bool:
        """Whether a changed file can be loaded, and lint objects to nothing that it does not object to already."""
        # Beside the file itself, since what it says may be relative to it.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.path.name
            copy.write_text(text, encoding="utf-8")
            try:
                objections = _objections(files.load(copy))
            except HormesisError:
                return False
        return objections <= self._objections


def _objections(policies: files.Policies) -> set[tuple[str, str]]:
    found: list[Finding] = [finding for policy in policies.values() for finding in lint(policy)]
    return {(finding.policy, finding.rule) for finding in found}


def _edits(table: Table, circumstances: Circumstances) -> Iterator[_Edit]:
    """Yield what could be done to the parts of a policy."""
    for part, edits_of in _PARTS.items():
        yield from edits_of(part, table.get(part), circumstances)


def _duration(part: str, now: Any, about: Circumstances) -> Iterator[_Edit]:
    """A limit of time: another one, one where there is none, or none."""
    words = part.replace("_", " ")
    if now is None:
        limit = about.patience if part == "deadline" else max(about.patience / 2, 2 * about.latency)
        yield _Edit(part, format_seconds(limit), f"a {words} of {format_seconds(limit)}")
        return
    limit = seconds(now["limit"] if isinstance(now, Mapping) else now)
    for factor in _TUNED:
        other = format_seconds(limit * factor)
        settings: Settings = {**now, "limit": other} if isinstance(now, Mapping) else other
        yield _Edit(part, settings, f"{words} {other} instead of {format_seconds(limit)}")
    yield _Edit(part, None, f"no {words}")


def _retry(part: str, now: Any, _about: Circumstances) -> Iterator[_Edit]:
    if now is None:
        yield _Edit(part, {"attempts": 2, "on": "transient"}, "a retry, two attempts")
        return
    attempts = int(now.get("attempts", 3))
    yield _Edit(part, {**now, "attempts": attempts + 1}, f"retry with {attempts + 1} attempts instead of {attempts}")
    yield _Edit(part, None, "no retry")


def _circuit_breaker(part: str, now: Any, about: Circumstances) -> Iterator[_Edit]:
    if now is None:
        settings = {"failure_rate": 0.5, "window": 20, "minimum_calls": 10, "open_for": "1s"}
        yield _Edit(part, settings, "a circuit breaker")
        return
    calls = int(now.get("minimum_calls", 10))
    if calls > 2:
        words = f"circuit breaker after {calls // 2} calls instead of {calls}"
        yield _Edit(part, {**now, "minimum_calls": calls // 2}, words)
    if now.get("slow_after") is None:
        slow = format_seconds(about.patience / 2)
        yield _Edit(part, {**now, "slow_after": slow}, f"circuit breaker that minds answers slower than {slow}")
    yield _Edit(part, None, "no circuit breaker")


def _bulkhead(part: str, now: Any, about: Circumstances) -> Iterator[_Edit]:
    if now is None:
        room = max(4, round(_ROOM * about.rate * max(about.latency, about.patience / 4)))
        yield _Edit(part, {"max_concurrent": room, "max_queued": room}, f"a bulkhead of {room}")
        return
    table = dict(now) if isinstance(now, Mapping) else {"max_concurrent": now}
    room = int(table["max_concurrent"])
    for other in (max(1, room // 2), room * 2):
        yield _Edit(part, {**table, "max_concurrent": other}, f"bulkhead of {other} instead of {room}")
    yield _Edit(part, None, "no bulkhead")


def _fallback(part: str, now: Any, about: Circumstances) -> Iterator[_Edit]:
    if now is None and about.reads:
        settings = {"cache": {"fresh": "1s", "stale": "1h", "revalidate": False}}
        yield _Edit(part, settings, "a fallback to older answers (if it is a read)")


def _load_shedder(part: str, now: Any, about: Circumstances) -> Iterator[_Edit]:
    if now is None:
        yield _Edit(part, {"objective": format_seconds(about.patience)}, "a load shedder")
        return
    if "objective" in now:
        longer, usual = format_seconds(2 * seconds(now["objective"])), format_seconds(seconds(now["objective"]))
        yield _Edit(part, {**now, "objective": longer}, f"load shedder for answers within {longer} instead of {usual}")
    if "limit_min" in now:
        least = int(now["limit_min"])
        more = 3 * least // 2
        yield _Edit(part, {**now, "limit_min": more}, f"load shedder that always lets in {more} instead of {least}")
    yield _Edit(part, None, "no load shedder")


_Edits: TypeAlias = Callable[[str, Any, Circumstances], Iterator[_Edit]]
_PARTS: Mapping[str, _Edits] = {
    "timeout": _duration,
    "circuit_breaker": _circuit_breaker,
    "fallback": _fallback,
    "retry": _retry,
    "bulkhead": _bulkhead,
    "deadline": _duration,
}
"""The most promising first."""


def _parsed(text: str) -> Any:
    """Parse a file so that it can be written as it was."""
    try:
        import tomlkit  # noqa: PLC0415  only those who look for a fix need it
    except ImportError as error:
        raise MissingExtraError("editing a policy file", "gameday") from error
    return tomlkit.parse(text)


def _edited(text: str, where: Sequence[str], edit: _Edit) -> str:
    """Return the file with one part changed, and everything else as it was."""
    import tomlkit  # noqa: PLC0415

    document = tomlkit.parse(text)
    table: Any = document
    for key in where:
        table = table[key]
    now: Any = table.get(edit.part)
    if edit.settings is None:
        without = _without_table(text, f"[{'.'.join((*where, edit.part))}]")
        table.remove(edit.part)
        if tomlkit.parse(without) == document:
            return without
    elif isinstance(edit.settings, dict) and isinstance(now, Mapping):
        settings = table[edit.part]
        for key, value in edit.settings.items():
            if settings.get(key) != value:
                settings[key] = value
    elif isinstance(edit.settings, dict):
        table[edit.part] = _inline(edit.settings)
    else:
        table[edit.part] = edit.settings
    return tomlkit.dumps(document)


def _inline(settings: Mapping[str, Any]) -> Any:
    """Return an inline table, spaced as people write it."""
    import tomlkit  # noqa: PLC0415

    return tomlkit.parse(f"it = {_written(settings)}\n")["it"]


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_written(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def _without_table(text: str, header: str) -> str:
    """Return the file without a table under a header of its own, but with the comment on what comes next.

    Where there is no such header, it is the file as it was.
    """
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.strip() == header), None)
    if start is None:
        return text
    rest = enumerate(lines[start + 1 :], start + 1)
    end = next((number for number, line in rest if line.lstrip().startswith("[")), len(lines))
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    if start and not lines[start - 1].strip():
        start -= 1  # and the blank line before it
    return "".join(lines[:start] + lines[end:])
