"""Changes of a policy file: each is valid, leaves everything else as it is, and can be applied as a diff."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.explore.fixes import Circumstances, PolicyFile

TEXT = """\
# The policies of a shop.

[policy.stock]  # reads
deadline = "2s"
timeout = "300ms"  # fifteen times an answer

[policy.stock.circuit_breaker]
# Half of the calls.
failure_rate = 0.5
minimum_calls = 10

# Money.
[policy.till]
retry = { attempts = 3, on = "transient" }  # under a key
bulkhead = 10
"""


@pytest.fixture
def file(tmp_path: Path) -> PolicyFile:
    path = tmp_path / "policies.toml"
    path.write_text(TEXT)
    return PolicyFile(path)


def changes(file: PolicyFile, *policies: str, **about: object) -> dict[str, str]:
    found = file.changes(policies or ("stock", "till"), Circumstances(**about))  # type: ignore[arg-type]
    return {change.name: file.diff(change) for change in found}


def lines(diff: str) -> list[str]:
    return [line for line in diff.splitlines() if line[0] in "+-" and line[:3] not in ("+++", "---")]


def test_tuning_changes_one_line(file: PolicyFile) -> None:
    """The comment behind a setting stays."""
    diff = changes(file)["stock: timeout 150ms instead of 300ms"]
    assert lines(diff) == [
        '-timeout = "300ms"  # fifteen times an answer',
        '+timeout = "150ms"  # fifteen times an answer',
    ]
    diff = changes(file)["till: retry with 4 attempts instead of 3"]
    assert lines(diff)[1] == '+retry = { attempts = 4, on = "transient" }  # under a key'


def test_adding_adds_one_line(file: PolicyFile) -> None:
    """A new part stands with the policy's own settings, before its tables."""
    found = changes(file, patience=0.4, rate=50.0)
    assert lines(found["till: a timeout of 200ms"]) == ['+timeout = "200ms"']
    retry = found["stock: a retry, two attempts"]
    assert lines(retry) == ['+retry = { attempts = 2, on = "transient" }']
    assert " [policy.stock.circuit_breaker]" in retry.partition("+retry")[2]


def test_taking_away_leaves_the_next_comment(file: PolicyFile) -> None:
    """A table goes with its own comments, and the comment on what comes next stays."""
    diff = changes(file)["stock: no circuit breaker"]
    # Which of two blank lines a diff calls the removed one is its own business.
    assert [line for line in lines(diff) if line != "-"] == [
        "-[policy.stock.circuit_breaker]",
        "-# Half of the calls.",
        "-failure_rate = 0.5",
        "-minimum_calls = 10",
    ]
    assert lines(changes(file)["till: no bulkhead"]) == ["-bulkhead = 10"]


def test_older_answers_are_offered_to_reads_only(file: PolicyFile) -> None:
    """A cache before a write would be a lie."""
    assert not any("older answers" in name for name in changes(file))
    assert any("older answers" in name for name in changes(file, reads=True))


def test_what_lint_objects_to_is_no_candidate(file: PolicyFile) -> None:
    """A timeout beyond its deadline can't work, so it is not tried."""
    assert "stock: timeout 600ms instead of 300ms" in changes(file)
    longer = file.path.with_name("longer.toml")
    longer.write_text(TEXT.replace('"300ms"', '"1500ms"'))
    assert "stock: timeout 3s instead of 1.5s" not in changes(PolicyFile(longer))


def test_every_change_applies(file: PolicyFile, tmp_path: Path) -> None:
    """Each diff, given to `patch`, makes the file that was tried, and changes one policy only."""
    before = tomllib.loads(TEXT)["policy"]
    for change in file.changes(["stock", "till"], Circumstances(reads=True)):
        copy = tmp_path / "applied" / "policies.toml"
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(TEXT)
        subprocess.run(["patch", "-p1"], input=file.diff(change), text=True, cwd=copy.parent, check=True, stdout=-3)
        assert copy.read_text() == change.text
        after = tomllib.loads(change.text)["policy"]
        assert sum(before[name] != after[name] for name in before) == 1


def test_removals_come_last(file: PolicyFile) -> None:
    """What is most promising comes first."""
    names = list(changes(file))
    taken = [name for name in names if ": no " in name]
    assert names[-len(taken) :] == taken
    assert names[0].startswith("stock: timeout")


def test_a_service_without_a_shedder_gets_one(tmp_path: Path) -> None:
    """What comes in can be protected as well as what goes out."""
    path = tmp_path / "policies.toml"
    path.write_text('[service]\nname = "shop"\n\n' + TEXT)
    assert lines(changes(PolicyFile(path), patience=0.25)["service: a load shedder"]) == [
        '+load_shedder = { objective = "250ms" }'
    ]


def test_a_shedder_that_turned_requests_away_is_tuned_first(tmp_path: Path) -> None:
    """Where it did not act, it comes after the parts of policies."""
    path = tmp_path / "policies.toml"
    shedder = 'load_shedder = { objective = "400ms", limit_min = 12 }'
    path.write_text(f'[service]\nname = "shop"\n{shedder}\n\n' + TEXT)
    found = changes(PolicyFile(path), "stock", "shop")
    tuned = [
        "service: load shedder for answers within 800ms instead of 400ms",
        "service: load shedder that always lets in 18 instead of 12",
    ]
    assert list(found)[:2] == tuned
    assert lines(found[tuned[1]]) == [f"-{shedder}", "+" + shedder.replace("12", "18")]
    assert lines(found["service: no load shedder"]) == [f"-{shedder}"]
    assert next(iter(changes(PolicyFile(path), "stock"))) not in tuned


def test_bad_files(tmp_path: Path) -> None:
    """A policy file that can't be meant is named."""
    path = tmp_path / "policies.toml"
    with pytest.raises(ConfigurationError, match=r"policies\.toml: can't be read"):
        PolicyFile(path)
    path.write_text("[policy.stock]\ntimeout = -1\n")
    with pytest.raises(ConfigurationError, match="timeout"):
        PolicyFile(path)
