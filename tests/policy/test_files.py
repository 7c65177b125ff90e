"""Policies from files: what a good one means, and what is said of a bad one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hormesis as hm
from hormesis.policy import files
from hormesis.policy.files import register_section, schema

Write = Callable[[str], Path]

GOOD = """
[policy.inventory]
deadline = "2s"
retry = { attempts = 3, on = "transient" }
circuit_breaker = { failure_rate = 0.5, slow_after = "300ms", slow_rate = 0.8 }
bulkhead = { max_concurrent = 20, max_queued = 40 }
timeout = "500ms"

[policy.payments]
timeout = { limit = 1, threads = 4 }
fallback = { value = [], on = ["timeout", "rejected"] }
bulkhead = 5
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return the function that writes a policy file."""

    def write(text: str) -> Path:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return path

    return write


def test_a_good_file(write: Write) -> None:
    """A file says what the same policies in code would."""
    policies = hm.load(write(GOOD))
    assert list(policies) == ["inventory", "payments"]
    assert policies["inventory"].name == "inventory"
    assert policies["inventory"].parts == (
        hm.Deadline("2s"),
        hm.Retry(attempts=3, on="transient"),
        hm.CircuitBreaker(failure_rate=0.5, slow_after="300ms", slow_rate=0.8),
        hm.Bulkhead(20, max_queued=40),
        hm.Timeout("500ms"),
    )
    assert policies["payments"].parts == (
        hm.Fallback(value=[], on=("timeout", "rejected")),
        hm.Bulkhead(5),
        hm.Timeout(1, threads=4),
    )


def test_policies_of_a_file_work(write: Write) -> None:
    """What a file describes can be called."""

    def time_out() -> None:
        raise TimeoutError

    policies = hm.load(write(GOOD))
    assert policies["payments"].call(len, "tea") == 3
    assert policies["payments"].with_parts(hm.Timeout(5, cooperative=True)).call(time_out) == []


def test_an_order_as_given(write: Write) -> None:
    """In a file, the order as given is the order of its keys."""
    text = '[policy.a]\norder = "as given"\ntimeout = 5\nretry = { on = "any" }\n'
    assert hm.load(write(text))["a"].parts == (hm.Timeout(5), hm.Retry(on="any"))


def test_a_path_may_be_a_string(write: Write) -> None:
    """`load` takes paths and strings."""
    assert len(hm.load(str(write(GOOD)))) == 2


def test_reading_a_file_again_keeps_the_state(write: Write, machine_of: Any) -> None:
    """With the same registry, policies whose settings stay go on with their state."""
    registry = hm.Registry()
    path = write("[policy.a]\nbulkhead = 1\n[policy.b]\nbulkhead = 1\n")
    before = hm.load(path, registry=registry)
    write("[policy.a]\nbulkhead = 1\n[policy.b]\nbulkhead = 2\n")
    after = hm.load(path, registry=registry)
    machine = {name: machine_of(policy, hm.Bulkhead) for name, policy in after.items()}
    assert machine["a"] is machine_of(before["a"], hm.Bulkhead)
    assert machine["b"].max_concurrent == 2


def test_an_unknown_policy(write: Write) -> None:
    """Asking for a policy that the file has not got names those that it has."""
    policies = hm.load(write(GOOD))
    with pytest.raises(KeyError, match=r"did you mean 'payments'.*known are: inventory, payments"):
        policies["payment"]
    assert "payment" not in policies
    assert policies.get("payment") is None
    assert "inventory, payments" in repr(policies)


BAD = [
    ("", [], "holds no policies; a policy is a table such as [policy.inventory]"),
    ("[policy]", [], "holds no policies"),
    ("x = ", [], "is not TOML"),
    ("[policy.a]\ntimeout = 1\ntimeout = 2", [], "is not TOML: Cannot overwrite a value"),
    ("[policy.a]\n[policy.a]", [], "is not TOML: Cannot declare"),
    ("[polcy.a]", ["'polcy'"], "did you mean 'policy'"),
    ("policy = 3", ["policy is 3"], "a table such as [policy]"),
    ("[policy]\na = 3", ["policy.a is 3"], "a table such as [policy.a]"),
    ('[policy.""]\ntimeout = 1', ["name is ''"], "a non-empty string"),
    ("[policy.a]\ntimout = 1", ["policy.a", "'timout'"], "did you mean 'timeout'"),
    ("[policy.a]\nretry = 3", ["policy.a.retry is 3"], "a table such as retry = {"),
    ("[policy.a]\nretry = { attempts = 3 }", ["policy.a.retry.on"], "is missing"),
    ("[policy.a]\ntimeout = {}", ["policy.a.timeout.limit"], "is missing"),
    (
        '[policy.a]\nretry = { attemps = 3, on = "any" }',
        ["policy.a.retry", "'attemps'"],
        "did you mean 'attempts'?); known are: on, attempts, delay",
    ),
    ('[policy.a]\nretry = { on = "any", _wanted = 3 }', ["'_wanted'"], "known are: on, attempts, delay"),
    ('[policy.a]\nretry = { on = "any", attempts = 0 }', ["policy.a.retry.attempts is 0"], "a whole number from 1"),
    ('[policy.a]\nretry = { on = "any", attempts = "3" }', ["policy.a.retry.attempts is '3'"], "integer"),
    ('[policy.a]\nretry = { on = "any", attempts = true }', ["policy.a.retry.attempts is True"], "integer"),
    ('[policy.a]\nretry = { on = "any", factor = "x" }', ["policy.a.retry.factor is 'x'"], "number"),
    (
        '[policy.a]\nretry = { on = "any", jitter = "big" }',
        ["policy.a.retry.jitter is 'big'"],
        "'full', 'equal', 'none', 'decorrelated' or 'smooth'",
    ),
    ('[policy.a]\nretry = { on = "any", budget = 0 }', ["policy.a.retry.budget is 0.0"], "a share above 0"),
    ('[policy.a]\nretry = { on = "transiet" }', ["policy.a.retry.on", "'transiet'"], "did you mean 'transient'"),
    ("[policy.a]\nretry = { on = 3 }", ["policy.a.retry.on is 3"], "failure kinds (transient, any, "),
    ('[policy.a]\nretry = { on = ["any", 3] }', ["policy.a.retry.on", "3"], "failure kinds (transient, any, "),
    ('[policy.a]\ntimeout = "soon"', ["policy.a.timeout.limit is 'soon'"], "'300ms', '2s', '1m30s'"),
    ("[policy.a]\ntimeout = nan", ["policy.a.timeout.limit is nan"], "'300ms', '2s', '1m30s'"),
    ("[policy.a]\ntimeout = true", ["policy.a.timeout.limit is True"], "number"),
    ("[policy.a]\ntimeout = []", ["policy.a.timeout.limit is []"], "string"),
    ("[policy.a]\ntimeout = { limit = 1, threads = 2.5 }", ["policy.a.timeout.threads is 2.5"], "integer"),
    ('[policy.a]\ntimeout = { limit = 1, cooperative = "no" }', ["policy.a.timeout.cooperative is 'no'"], "boolean"),
    (
        "[policy.a]\ntimeout = { limit = 1, threads = 1, cooperative = true }",
        ["policy.a.timeout", "threads is set"],
        "one of the two",
    ),
    ("[policy.a]\ndeadline = { limit = 1, reserve = 2 }", ["policy.a.deadline.reserve is 2"], "less than the limit"),
    ("[policy.a]\nbulkhead = 0", ["policy.a.bulkhead.max_concurrent is 0"], "a whole number from 1"),
    ("[policy.a]\nbulkhead = 2.5", ["policy.a.bulkhead.max_concurrent is 2.5"], "integer"),
    (
        "[policy.a]\ncircuit_breaker = { failure_rate = 2 }",
        ["policy.a.circuit_breaker.failure_rate is 2"],
        "a share above 0",
    ),
    (
        "[policy.a]\ncircuit_breaker = { window = 5 }",
        ["policy.a.circuit_breaker.minimum_calls is 10"],
        "at most the window of 5 calls",
    ),
    ("[policy.a]\ncircuit_breaker = { window = 2.5 }", ["policy.a.circuit_breaker.window is 2.5"], "integer"),
    ("[policy.a]\nfallback = {}", ["policy.a.fallback"], "a function or a value="),
    ('[policy.a]\nfallback = { function = "f" }', ["policy.a.fallback.function is 'f'"], "callable"),
    ('[policy.a]\norder = "mine"', ["policy.a.order is 'mine'"], "'standard' or 'as given'"),
    ("[policy.a]\norder = []", ["policy.a.order is []"], "'standard' or 'as given'"),
    (
        '[policy.a]\norder = "as given"\nretry = { on = "any" }\nfallback = { value = 1 }',
        ["policy.a", "fallback inside of retry"],
        "put it outside",
    ),
]


@pytest.mark.parametrize(("text", "names", "accepted"), BAD, ids=[text.replace("\n", " ") for text, *_ in BAD])
def test_bad_files(write: Write, text: str, names: list[str], accepted: str) -> None:
    """One message names the file, the key, the value, and what would be accepted."""
    path = write(text)
    with pytest.raises(hm.ConfigurationError) as caught:
        hm.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in (*names, accepted):
        assert part in message


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can't be read: No such file"), (b"\xff\xfe", "is not TOML"), (b"#" * 1_000_001, "larger than 1,000,000")],
    ids=["missing", "not text", "huge"],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, said: str) -> None:
    """A file that is missing, no text, or far too large is refused by name."""
    path = tmp_path / "policies.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(hm.ConfigurationError) as caught:
        hm.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """A directory is refused like any file that can't be read."""
    with pytest.raises(hm.ConfigurationError, match="can't be read"):
        hm.load(tmp_path)


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Register tables for this test only."""
    own: dict[str, Any] = {}
    monkeypatch.setattr(files, "_sections", own)
    return own  # type: ignore[return-value]


def test_tables_of_higher_rooms(write: Write, sections: dict[str, Any]) -> None:
    """A room further up can have a table beside the policies, and its mistakes are told with the file's name."""

    def read(value: object, key: str) -> object:
        if value == {"port": 0}:
            raise hm.ConfigurationError.bad_value(f"{key}.port", 0, "a port from 1")
        return ("read", value)

    register_section("service", read)
    policies = hm.load(write("[service]\nport = 80\n[policy.a]\ntimeout = 1\n"))
    assert policies.sections == {"service": ("read", {"port": 80})}
    assert hm.load(write("[service]\nport = 80\n")).sections
    with pytest.raises(hm.ConfigurationError, match=r"policies\.toml: service\.port is 0; it takes a port from 1"):
        hm.load(write("[service]\nport = 0\n"))
    assert "service" in schema()["properties"]


def test_the_schema_of_a_policy_file() -> None:
    """The schema knows every part and setting, refuses others, and takes plain values for the one obvious setting."""
    whole = schema()
    assert whole["additionalProperties"] is False
    policy = whole["properties"]["policy"]["additionalProperties"]
    assert policy["additionalProperties"] is False
    parts = policy["properties"]
    assert set(parts) == {
        *("deadline", "fallback", "retry", "hedge", "circuit_breaker", "throttle", "rate_limit"),
        *("concurrency_limit", "bulkhead", "timeout", "chaos"),
        *("order", "shadow", "calls", "expects"),
    }
    retry = parts["retry"]
    assert retry["required"] == ["on"]
    assert retry["additionalProperties"] is False
    assert {"attempts", "delay", "jitter", "budget"} <= set(retry["properties"])
    assert not any(name.startswith("_") for name in retry["properties"])
    for part in ("deadline", "timeout", "bulkhead", "chaos"):
        plain, table = parts[part]["anyOf"]
        assert table["type"] == "object"
        assert plain == table["properties"][files._ONE_OBVIOUS[part]]


def test_a_file_needs_the_extra_and_says_so(write: Write) -> None:
    """Without pydantic, the error names the extra that brings it; policies in code work all the same."""
    script = f"""
import sys
sys.modules["pydantic"] = None
import hormesis as hm
assert hm.Policy(hm.Bulkhead(1)).call(len, "tea") == 3
try:
    hm.load({str(write(GOOD))!r})
except hm.MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'hormesis[files]'" in done.stdout
