"""The floors of the design, enforced: imports go down only, and the machines know nothing of the world."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "hormesis"

FLOORS = [
    ["errors", "units", "outcome", "clock", "events", "context", "headers", "priority", "tables", "version"],
    ["core"],
    ["patterns"],
    ["policy"],
    ["stores"],
    ["idempotency", "sessions", "config", "flow"],
    ["inbound", "outbound", "telemetry", "testing"],
    ["chaos", "loadgen", "sim"],
    ["gameday"],
    ["learn", "envoy", "console"],
    ["cli"],
    ["__main__"],
]
"""The table of the design. The vocabulary on the lowest floor is one room in several files."""

FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACE = "__init__"
"""The package itself: it shows what the rooms make, and only the command looks at it. The version is its own."""

NOT_IN_CORE = {"asyncio", "logging", "os", "random", "socket", "threading", "time"}
NOT_MONOTONIC = {"time", "time_ns", "now", "utcnow", "today"}
"""Functions of `time` and `datetime` that read the wall clock."""


class Import(NamedTuple):
    """One import statement: which room it is in, what it imports, and where it stands."""

    importer: str
    imported: str
    place: str


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def names_imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """All modules that a file imports, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "hormesis":
                yield from ((f"hormesis.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno


def imports_within() -> list[Import]:
    """Every import of one part of the package by another."""
    found = []
    for path in modules():
        for name, line in names_imported(ast.parse(path.read_text())):
            package, _, rest = name.partition(".")
            if package == "hormesis" and rest != "__version__":
                imported = rest.split(".")[0]
                found.append(Import(room_of(path), imported if imported in FLOOR else FACE, f"{path}:{line}"))
    return found


def test_every_room_has_a_floor() -> None:
    """A new room has its place in the design, and in this table, before it has code."""
    rooms = {room_of(path) for path in modules()} - {FACE}
    assert rooms <= set(FLOOR)


def test_imports_go_down() -> None:
    """No room imports from a floor above it, or from another room on its own; on the lowest, all are one room."""
    wrong = [
        f"{each.place}: {each.importer} imports {each.imported}"
        for each in imports_within()
        if each.importer != FACE
        and each.imported not in (each.importer, FACE)
        and FLOOR[each.imported] >= max(1, FLOOR[each.importer])
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_imports_the_face() -> None:
    """A room imports from where a thing is made, so that what it needs can be read off its imports."""
    wrong = [
        each.place for each in imports_within() if each.imported == FACE and each.importer not in ("cli", "__main__")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.stem)
def test_the_machines_know_nothing_of_the_world(path: Path) -> None:
    """Nothing in core/ imports time, randomness, threads, loops, logs, sockets or the system."""
    imported = {name.split(".")[0] for name, _ in names_imported(ast.parse(path.read_text()))}
    assert not imported & NOT_IN_CORE


@pytest.mark.parametrize("room", ["core", "patterns", "policy", "context.py", "clock.py", "events.py"])
def test_no_wall_clock(room: str) -> None:
    """What decides about calls never reads a clock that people can set."""
    for path in [PACKAGE / room] if room.endswith(".py") else sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                wall = node.value.id in ("time", "datetime", "date") and node.attr in NOT_MONOTONIC
                assert not wall, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    """A module opens with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text()))
