"""The file: read as JSON or YAML, and refused in one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.chaostoolkit.experiment import is_experiment, read

from .conftest import BREAK, MEND, STEADY, action, experiment, process, python

YAML = """
title: A missing file
description: It is moved, and moved back
steady-state-hypothesis:
  title: It is there
  probes:
  - {type: probe, name: there, tolerance: true,
     provider: {type: python, module: os.path, func: exists, arguments: {path: some.txt}}}
method:
- type: action
  name: move
  provider: {type: process, path: mv, arguments: some.txt other.txt}
"""


def test_json_and_yaml_are_read(workplace: Path) -> None:
    """Both give the same tables."""
    (workplace / "x.yaml").write_text(YAML)
    found = read("x.yaml")
    (workplace / "x.json").write_text(json.dumps(found))
    assert read("x.json") == found
    assert found["method"][0]["provider"]["arguments"] == "some.txt other.txt"
    assert is_experiment("X.YML")
    assert not is_experiment("gameday.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.json: is no JSON: Expecting value"),
        ("[]", "x.json: an experiment is an object"),
        ('{"title": "t"', "x.json: is no JSON: Expecting"),
        ("\xff\xfe", "x.json:"),
    ],
)
def test_what_is_no_json_is_refused(workplace: Path, content: str, message: str) -> None:
    """With the name of the file."""
    (workplace / "x.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigurationError, match=message):
        read("x.json")


@pytest.mark.parametrize("content", ["a: [", "!!python/object/apply:os.system [exit]"])
def test_what_is_no_safe_yaml_is_refused(workplace: Path, content: str) -> None:
    """YAML that would run something is no experiment."""
    (workplace / "x.yaml").write_text(content)
    with pytest.raises(ConfigurationError, match=r"x.yaml: is no YAML: .*"):
        read("x.yaml")


def test_a_missing_file_is_told() -> None:
    """As what it is."""
    with pytest.raises(ConfigurationError, match=r"none.json: can't be read: No such file"):
        read("none.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": ""}, "title is ''; it takes a text"),
        ({"description": None}, "description is None"),
        ({"method": None}, None),
        ({"method": [{"type": "probe"}]}, r"method\[0\].name is None"),
        ({"method": [{"type": "step", "name": "x"}]}, r"method\[0\].type is 'step'; it takes 'probe' or 'action'"),
        ({"method": [{"type": "action", "name": "x"}]}, r"method\[0\].provider is None; it takes an object"),
        ({"method": [action("x", {"type": "pyhton"})]}, r"unknown provider 'pyhton' \(did you mean 'python'\?\)"),
        ({"method": [{"ref": "stedy"}]}, r"unknown activity 'stedy' \(did you mean 'steady'\?\)"),
        ({"method": [action("x", python("nothing"))]}, "the module 'experiments' has no 'nothing'"),
        ({"method": [action("x", python("x", "no.such.module"))]}, "'no.such.module' can't be imported"),
        ({"method": [action("x", python("slow"))]}, "missing a required argument: 'seconds'"),
        ({"method": [action("x", python("slow", seconds=1, fast=2))]}, "unexpected keyword argument 'fast'"),
        ({"method": [action("x", process("no-such-program"))]}, "there is no program 'no-such-program'"),
        ({"method": [action("x", {"type": "http"})]}, r"provider.url is None"),
        ({"method": [action("x", process("true", timeout="1s"))]}, r"provider.timeout is '1s'; it takes a number"),
        ({"method": [{**BREAK, "pauses": {"after": "long"}}]}, r"pauses.after is 'long'"),
        ({"method": [{**BREAK, "background": 1}]}, "background is 1; it takes true or false"),
        ({"rollbacks": [{**MEND, "name": ""}]}, r"rollbacks\[0\].name is ''"),
        (
            {"controls": [{"name": "c", "provider": {"type": "python", "module": "no.such"}}]},
            "'no.such' can't be imported",
        ),
        ({"method": [{**BREAK, "controls": [{"ref": "c"}]}]}, "unknown control 'c'"),
    ],
)
def test_what_cannot_be_meant_is_refused(workplace: Path, changes: dict[str, Any], message: str | None) -> None:
    """With its place in the file and what would do; an empty method is a method."""
    (workplace / "x.json").write_text(json.dumps({**experiment([STEADY]), **changes}))
    if message is None:
        read("x.json")
        return
    with pytest.raises(ConfigurationError, match=message):
        read("x.json")


def test_method_and_tolerance_must_be_there(workplace: Path) -> None:
    """An experiment without a method is a mistake, and so is a probe of the hypothesis without a tolerance."""
    whole = experiment([{key: value for key, value in STEADY.items() if key != "tolerance"}])
    (workplace / "x.json").write_text(json.dumps(whole))
    with pytest.raises(ConfigurationError, match=r"probes\[0\].tolerance is missing"):
        read("x.json")
    del whole["method"], whole["steady-state-hypothesis"]
    (workplace / "x.json").write_text(json.dumps(whole))
    with pytest.raises(ConfigurationError, match="method is missing"):
        read("x.json")
