"""The `hormesis` command as shells and CI see it: its exit status, its output, and one line when it can't be done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm

pytestmark = pytest.mark.system

SHOP = Path(__file__).parents[2] / "examples" / "shop"
MODULE = [sys.executable, "-m", "hormesis"]
SCRIPT = [str(Path(sys.executable).with_name("hormesis"))]

# Python's own buffering, as a user has it: some of what happens at the end of a pipe depends on it.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}


def hormesis(*arguments: str, command: list[str] = MODULE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments], cwd=SHOP, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


def refused(*arguments: str) -> str:
    """Return the line with which something is refused: the only one, with exit status 2 and nothing on stdout."""
    result = hormesis(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("hormesis: ")
    return line.removeprefix("hormesis: ")


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
def test_version(command: list[str]) -> None:
    """Both ways to start it are the same command."""
    result = hormesis("--version", command=command)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"hormesis {hm.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["gamedy"], ["gameday"], ["gameday", "gameday.toml", "--seed", "x"]])
def test_wrong_usage(arguments: list[str]) -> None:
    """What is no command, or lacks an argument, is told with the usage, and exit status 2."""
    result = hormesis(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("usage: hormesis")
    assert "Traceback" not in result.stderr


def test_help() -> None:
    """The help names every command."""
    result = hormesis("--help")
    assert result.returncode == 0
    for command in ("gameday", "lint", "explain", "schema"):
        assert command in result.stdout


def test_lint_of_clean_policies() -> None:
    """Clean policies are counted, and exit 0."""
    result = hormesis("lint", "policies.toml")
    assert (result.returncode, result.stdout) == (0, "policies.toml: 3 policies, nothing to object to\n")


def test_lint_of_thoughtless_policies(tmp_path: Path) -> None:
    """Each finding is a line with file, policy and rule, and exit 1."""
    path = tmp_path / "policies.toml"
    path.write_text('[policy.a]\ndeadline = "1s"\ntimeout = "2s"\n[policy.b]\nbulkhead = 3\n[policy.c]\ntimeout = 1\n')
    result = hormesis("lint", str(path))
    assert (result.returncode, result.stderr) == (1, "")
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{path}: policy.a: timeout-beyond-deadline: the timeout of 2s never comes")
    assert second.startswith(f"{path}: policy.b: unbounded-call: ")


@pytest.mark.parametrize("command", ["lint", "explain", "gameday"])
def test_files_that_are_none(tmp_path: Path, command: str) -> None:
    """A file that is missing or broken gives one line that names it, and exit 2."""
    missing, broken = tmp_path / "none.toml", tmp_path / "broken.toml"
    broken.write_text("a = = b")
    assert refused(command, str(missing)) == f"{missing}: can't be read: No such file or directory"
    assert refused(command, str(broken)).startswith(f"{broken}: is not TOML: ")


def test_lint_of_a_mistake(tmp_path: Path) -> None:
    """A setting that can't be meant is told with its key."""
    path = tmp_path / "policies.toml"
    path.write_text("[policy.a]\nretry = { attempts = 0, on = 'any' }\n")
    assert refused("lint", str(path)).startswith(
        f"{path}: policy.a.retry.attempts is 0; it takes a whole number from 1"
    )


def test_explain() -> None:
    """All policies are explained, or those named, in the order named."""
    everything = hormesis("explain", "policies.toml")
    assert everything.returncode == 0
    told = [line for line in everything.stdout.splitlines() if line.startswith("policy ")]
    assert told == [f"policy '{name}', from the outside in:" for name in ("inventory", "reservations", "payments")]
    two = hormesis("explain", "policies.toml", "payments", "inventory").stdout
    assert two.index("policy 'payments'") < two.index("policy 'inventory'")
    assert "policy 'reservations'" not in two
    assert "worst case: an answer or an error after 1.2s" in two


def test_services_are_explained_and_checked(tmp_path: Path) -> None:
    """A file's services are told like its policies, and a mistake in a list of rules is told with what would do."""
    path = tmp_path / "policies.toml"
    path.write_text('[service]\nname = "shop"\nrules = [{ paths = "/orders/*", criticality = "critical" }]\n')
    assert "service 'shop', the way of a request:" in hormesis("explain", str(path)).stdout
    path.write_text('[service]\nrules = [{ path = "/orders/*", criticality = "critical" }]\n')
    told = refused("lint", str(path))
    assert told.startswith(f"{path}: service.rules.0: unknown key 'path' (did you mean 'paths'?); known are: paths, ")


def test_explain_of_an_unknown_policy() -> None:
    """A policy that the file does not have is told with those that it has, before any output."""
    message = refused("explain", "policies.toml", "payments", "inventroy")
    assert message.startswith("policies.toml: unknown policy 'inventroy' (did you mean 'inventory'?); known are: ")


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ([], {"policy", "degradation", "pools", "service"}),
        (["policies"], {"policy", "degradation", "pools", "service"}),
        (
            ["gameday"],
            {"system", "load", "stress", "title", "seed", "run", "arm", "objective", "abort"}
            | {"probe", "invariant", "budget", "blast_radius"},
        ),
    ],
    ids=["default", "policies", "gameday"],
)
def test_schema(arguments: list[str], keys: set[str]) -> None:
    """The schema of each format is JSON, and knows the tables of the format, and no others."""
    result = hormesis("schema", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    schema: dict[str, Any] = json.loads(result.stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == keys
    assert schema["additionalProperties"] is False
    referred = set(re.findall(r'"#/\$defs/(\w+)"', result.stdout))
    assert referred <= set(schema.get("$defs", {}))


def test_schema_of_an_unknown_format() -> None:
    """Another format is refused with those that there are."""
    result = hormesis("schema", "polices")
    assert result.returncode == 2
    assert "choose from" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "rusch"], "--only: unknown stress 'rusch' (did you mean 'rush'?); known are: inventory slow, "),
        (
            ["--arm", "protectd"],
            "--arm: unknown arm 'protectd' (did you mean 'protected'?); known are: bare, protected",
        ),
        (["--out", "gameday.toml/report"], "--out gameday.toml/report: can't be written to: "),
    ],
)
def test_game_days_that_can_not_be_held(arguments: list[str], message: str) -> None:
    """What is asked for is checked before anything is started."""
    assert refused("gameday", "gameday.toml", *arguments).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [["lint", "policies.toml"], ["explain", "policies.toml"], ["schema", "gameday"], ["--version"], ["--help"]],
    ids=lambda arguments: arguments[0],
)
def test_a_reader_who_leaves(arguments: list[str]) -> None:
    """Output into a pipe that nobody reads any more ends as shells expect it, without a word."""
    with subprocess.Popen(
        [*MODULE, *arguments], cwd=SHOP, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before the interpreter has begun
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_first_line_of_much() -> None:
    """`| head -1` gets its line, and the command says nothing about the rest."""
    pipe = f"'{sys.executable}' -m hormesis explain policies.toml | head -1"
    result = subprocess.run(
        ["sh", "-c", pipe], cwd=SHOP, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr) == ("policy 'inventory', from the outside in:\n", "")
