"""What an answer must hold: found where it is said to be, and told in words where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.loadgen import Expect
from hormesis.loadgen.expect import MISSING, at_path

BODY = b'{"total": 3.0, "ok": true, "none": null, "items": [{"sku": 7, "name": "tea"}], "a.b": {"0": "zero"}}'


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("total", 3),
        ("items.0.sku", 7),
        ("$.items[0].name", "tea"),
        ("items[0]", {"sku": 7, "name": "tea"}),
        ("none", None),
        ("items.1", MISSING),
        ("items.sku", MISSING),
        ("total.x", MISSING),
        ("nope", MISSING),
    ],
)
def test_a_path_leads_to_one_place(path: str, found: object) -> None:
    """Keys and indices are steps; where there is nothing, that is what is found."""
    document = {"total": 3, "none": None, "items": [{"sku": 7, "name": "tea"}]}
    assert at_path(document, path) == found


@pytest.mark.parametrize("path", ["", ".a", "a..b", "a[", "a[x]", "a.", "$x."])
def test_what_is_no_path_is_refused(path: str) -> None:
    """The error shows the path and what one looks like."""
    with pytest.raises(ConfigurationError, match=r"json is .* paths such as"):
        Expect(json={path: 1})


@pytest.mark.parametrize(
    ("expect", "wrong"),
    [
        ({"json": {"total": 3, "ok": True, "none": None}}, ""),
        ({"json": {"$.items[0]": {"sku": 7, "name": "tea"}}}, ""),
        ({"json": {"items": [{"sku": 7, "name": "tea"}]}}, ""),
        ({"json": {"items.0.sku": "{sku}", "items.0.name": "{name}"}}, ""),
        ({"json": {"items.0.sku": "7"}}, "json items.0.sku is 7, not '7'"),
        ({"json": {"items.0.name": "{sku}"}}, "json items.0.name is 'tea', not '7'"),
        ({"json": {"ok": 1}}, "json ok is True, not 1"),
        ({"json": {"total": True}}, "json total is 3.0, not True"),
        ({"json": {"items": []}}, "json items is [{'sku': 7, 'name': 'tea'}], not []"),
        ({"json": {"items.3": 1}}, "json items.3 is missing, not 1"),
        ({"contains": ["tea", '"ok": true'], "matches": r"sku\W+\d"}, ""),
        ({"contains": "coffee"}, "without 'coffee'"),
        ({"matches": "^tea"}, "which does not match '^tea'"),
        ({"header": {"Content-Type": "application/json", "X-Sku": "{sku}"}}, ""),
        ({"header": {"content-type": "application/json; charset=utf-8"}}, ""),
        ({"header": {"content-type": "text/html"}}, "header content-type is 'application/json; charset=utf-8', not"),
        ({"header": {"etag": "1"}}, "header etag is missing"),
    ],
)
def test_what_does_not_hold_is_told(expect: dict[str, Any], wrong: str) -> None:
    """Values in JSON keep their type, what was drawn has only its text, and the first thing that is wrong is named."""
    headers = {"content-type": "application/json; charset=utf-8", "x-sku": "7"}
    told = Expect(**expect).wrong(headers, BODY, {"sku": "7", "name": "tea"})
    assert wrong in told
    assert bool(told) == bool(wrong)


def test_what_is_not_json_is_wrong() -> None:
    """A page where JSON was expected is shown, cut to a line's length."""
    told = Expect(json={"a": 1}).wrong({}, b"<html>" + b"x" * 500, {})
    assert told.endswith("no JSON")
    assert len(told) < 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"status": 99}, "status is 99"),
        ({"status": []}, r"status is \[\]"),
        ({"contains": [""]}, "contains"),
        ({"matches": "("}, r"matches is '\('; it takes a regular expression"),
        ({"header": {"a": 1}}, "header.a is 1"),
    ],
)
def test_an_expectation_that_can_not_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    """The error names the setting and the value."""
    with pytest.raises(ConfigurationError, match=message):
        Expect(**settings)
