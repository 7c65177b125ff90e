"""What `import hormesis` gives, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import hormesis

ROOT = Path(__file__).parents[2]
REVIEWED = Path(__file__).with_name("public_names.txt")

WHAT_IMPORTING_DOES = """
import json, sys
events = []
sys.addaudithook(lambda event, args: events.append(event))
before = set(sys.modules)
import hormesis
import threading
print(json.dumps({
    "modules": sorted(set(sys.modules) - before),
    "events": sorted(set(events)),
    "threads": threading.active_count(),
}))
"""


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_names_are_reviewed() -> None:
    """A name becomes public, or ceases to be, by a change of the reviewed list."""
    assert REVIEWED.read_text().splitlines() == hormesis.__all__


def test_public_names_are_sorted_and_there() -> None:
    """Each public name can be imported, and is told once, in its place."""
    assert sorted(set(hormesis.__all__)) == hormesis.__all__
    for name in hormesis.__all__:
        assert hasattr(hormesis, name)


@pytest.fixture(scope="module")
def importing() -> dict[str, Any]:
    """Import the package in a process of its own, and return what that did."""
    done: dict[str, Any] = json.loads(run(sys.executable, "-c", WHAT_IMPORTING_DOES))
    return done


def test_importing_needs_the_standard_library_alone(importing: dict[str, Any]) -> None:
    """Policies in code need nothing that has to be installed."""
    roots = {name.split(".")[0] for name in importing["modules"]}
    assert roots - set(sys.stdlib_module_names) == {"hormesis"}


@pytest.mark.parametrize(
    "module", ["asyncio", "ssl", "pydantic", "logging", "json", "tomllib", "difflib", "subprocess"]
)
def test_importing_is_light(importing: dict[str, Any], module: str) -> None:
    """What only some programs need is imported when they need it."""
    assert module not in importing["modules"]


def test_importing_starts_nothing(importing: dict[str, Any]) -> None:
    """No thread, no socket and no process comes of an import."""
    assert importing["threads"] == 1
    assert not [event for event in importing["events"] if event.startswith(("socket.", "subprocess.", "os.fork"))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel that users install."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out))
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_is_typed_and_whole(wheel: Path) -> None:
    """The wheel tells type checkers that it is typed, and has every module, and nothing but the package."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "hormesis/py.typed" in names
    source = ROOT / "src"
    assert {str(path.relative_to(source)) for path in source.rglob("*.py")} <= names
    assert {name.split("/")[0] for name in names} == {"hormesis", f"hormesis-{hormesis.__version__}.dist-info"}


def test_the_wheel_works_alone(wheel: Path) -> None:
    """With nothing on the path but the standard library and the wheel, a policy protects a call."""
    script = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
import hormesis as hm
assert hm.__file__.startswith({str(wheel)!r})
assert not any("site-packages" in path or path.endswith("/src") for path in sys.path)
print(hm.Policy(hm.Fallback(value=0), hm.CircuitBreaker()).call(lambda: 1 // 0))
"""
    assert run(sys.executable, "-I", "-S", "-c", script) == "0\n"
