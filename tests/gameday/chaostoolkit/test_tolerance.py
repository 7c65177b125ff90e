"""Tolerances; the verdicts are those of chaostoolkit-lib 1.44 unless a test says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.chaostoolkit.tolerance import check, find, met
from hormesis.gameday.chaostoolkit.values import Values

EXITED = {"status": 2, "stdout": "welcome=hello\n", "stderr": ""}
ANSWER = {"status": 200, "headers": {}, "body": {"foo": [{"baz": "hello"}, {"baz": "bonjour"}], "n": 3}}


@pytest.mark.parametrize(
    ("tolerance", "value", "within"),
    [
        (3, 3, True),
        (3, 3.0, True),
        (3, "3", False),
        ("x", "x", True),
        ("x", None, False),
        (True, True, True),
        (True, 1, True),
        (2, EXITED, True),
        (0, EXITED, False),
        ([4, 9], 5, True),
        ([4, 9], 10, False),
        ([4, 5, 9], 5, True),
        ([4, 5, 9], 6, False),
        ([1, 2, 3], EXITED, True),
        ([1, 3], EXITED, False),
        ({"type": "regex", "pattern": "welcome=h.*", "target": "stdout"}, EXITED, True),
        ({"type": "regex", "pattern": "^elcome", "target": "stdout"}, EXITED, False),
        ({"type": "range", "range": [6.4, 7.5]}, 6.4, True),
        ({"type": "range", "range": [6.4, 7.5]}, 7.6, False),
        ({"type": "range", "range": [6, 8]}, "7", True),
        ({"type": "range", "range": [6, 8]}, "x", False),
        ({"type": "range", "range": [0, 2], "target": "status"}, EXITED, True),
        (
            {"type": "jsonpath", "path": "$.foo.*[?(@.baz)].baz", "expect": ["hello", "bonjour"], "target": "body"},
            ANSWER,
            True,
        ),
        ({"type": "jsonpath", "path": "$.foo.*[?(@.baz)].baz", "count": 2, "target": "body"}, ANSWER, True),
        ({"type": "jsonpath", "path": "$.foo[*].baz", "count": 3, "target": "body"}, ANSWER, False),
        ({"type": "jsonpath", "path": "$.n", "expect": 3, "target": "body"}, ANSWER, True),
        ({"type": "jsonpath", "path": "$.none", "target": "body"}, ANSWER, False),
        ({"type": "jsonpath", "path": "$.a.b", "expect": 1}, '{"a": {"b": 1}}', True),
        ({"type": "jsonpath", "path": "$.a"}, "no json", False),
    ],
)
def test_verdicts(tolerance: Any, value: Any, within: bool) -> None:
    """The kinds of tolerance, met and not met."""
    check(tolerance, "tolerance")
    assert met(tolerance, value, Values({}, {})) is within


@pytest.mark.parametrize(
    ("tolerance", "value"),
    [
        ([1, 2], "a"),
        ([1, 2], None),
        ({"type": "range", "range": [1, 2]}, None),
        ({"type": "regex", "pattern": "x"}, None),
        ({"type": "regex", "pattern": "x"}, 5),
    ],
)
def test_what_cannot_be_compared_is_not_met(tolerance: Any, value: Any) -> None:
    """Where chaostoolkit-lib ends with a TypeError, and no rollback is played."""
    assert met(tolerance, value, Values({}, {})) is False


def test_placeholders_are_filled_in() -> None:
    """A tolerance may depend on configuration, in the type that it has there."""
    values = Values({"wanted": 5, "word": "hell"}, {})
    assert met("${wanted}", 5, values)
    assert met({"type": "regex", "pattern": "${word}o", "target": "stdout"}, EXITED, values)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", [{"items": [{"id": 1, "tags": ["p"]}, {"id": 2, "tags": []}], "one": {"id": 3}}]),
        ("$.items[*].id", [1, 2]),
        ("$.items[-1:].id", [2]),
        ("$['items'][0]['id']", [1]),
        ("$..id", [1, 2, 3]),
        ("$.items.*[?(@.id > 1)].id", [2]),
        ("$.items[*][?(@.id = 1)].id", [1]),
        ("$.items[?(@.id == 1)].id", [1]),
        ("$.one[?(@.id = 3)].id", [3]),
        ("$.one[?(@.id = 4)].id", []),
        ('$.items[?(@.tags[0] = "p" and @.id <= 1)].id', [1]),
        ("$..[?(@.id > 2)].id", [3]),
    ],
)
def test_paths(path: str, found: list[Any]) -> None:
    """Filters in either dialect: behind a list they choose elements, behind an object they keep or drop it."""
    document = {"items": [{"id": 1, "tags": ["p"]}, {"id": 2, "tags": []}], "one": {"id": 3}}
    assert find(path, document) == found


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        (None, "tolerance is None; it takes a value"),
        ({"type": "regexp"}, r"unknown tolerance 'regexp' \(did you mean 'regex'\?\)"),
        ({"type": "regex", "pattern": "("}, r"tolerance.pattern is '\('; it takes a regular expression"),
        ({"type": "regex"}, "tolerance.pattern is None"),
        ({"type": "range", "range": [1]}, "it takes a list of two numbers"),
        ({"type": "jsonpath", "path": ""}, "it takes a JSONPath such as"),
        ({"type": "jsonpath", "path": "$.a["}, r"tolerance.path is '\$.a\['; it takes a JSONPath"),
        ({"type": "jsonpath", "path": "a.b"}, r"which begins with '\$'"),
    ],
)
def test_a_tolerance_that_cannot_be_meant_is_refused(tolerance: Any, message: str) -> None:
    """Before anything is done to the system."""
    with pytest.raises(ConfigurationError, match=message):
        check(tolerance, "tolerance")
