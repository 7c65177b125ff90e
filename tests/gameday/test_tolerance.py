"""What a probe may find, and how it is said when it found something else."""

from __future__ import annotations

from typing import Any

import pytest

from hormesis.errors import ConfigurationError
from hormesis.gameday.tolerance import Found, Tolerance

ORDERS = '{"orders": [{"id": 7, "state": "paid"}, {"id": 8, "state": "open"}], "total": 2}'


@pytest.mark.parametrize(
    ("tolerance", "value", "document", "miss"),
    [
        (200, 200, "", ""),
        (200, 503, "", "is 503, not 200"),
        (2, "2", "", ""),
        (True, True, True, ""),
        (True, 1, 1, "is 1, not true"),
        (1, True, True, "is true, not 1"),
        ("well", "well", "well", ""),
        ("well", "ill", "ill", "is ill, not well"),
        ([200, 204], 204, "", ""),
        ([200, 204], 500, "", "is 500, not one of 200, 204"),
        ({"min": 1, "max": 3}, 3, "", ""),
        ({"min": 1}, 0, "", "is 0, below 1"),
        ({"max": 3}, 3.5, "", "is 3.5, above 3"),
        ({"min": 1}, None, None, "is null, no number"),
        ({"min": 1}, "many", "", "is many, no number"),
        ({"matches": "^ok"}, 0, "ok then", ""),
        ({"matches": "^ok"}, 0, "not ok", "is not ok, which does not match"),
        ({"contains": "paid"}, 200, ORDERS, ""),
        ({"contains": "lost"}, 200, "all is\nwell", "is all is well, without lost"),
        ({"path": "orders.1.state", "is": "open"}, 200, ORDERS, ""),
        ({"path": "$.orders[0].state", "in": ["open"]}, 200, ORDERS, "$.orders[0].state is paid, not one of open"),
        ({"path": "total", "min": 3}, 200, ORDERS, "total is 2, below 3"),
        ({"path": "orders.5", "is": 1}, 200, ORDERS, "has nothing at orders.5"),
        ({"path": "total", "is": 1}, 200, "<html>", "has nothing at total"),
        ({"path": "total", "min": 1, "max": 1}, 200, ORDERS, "total is 2, above 1"),
        ({"path": "$", "is": 12}, 0, "12\n", ""),
    ],
)
def test_tolerances(tolerance: Any, value: Any, document: Any, miss: str) -> None:
    """Each kind takes what it should, and names what it found instead."""
    assert Tolerance(tolerance).miss(Found(value, document)) == miss


@pytest.mark.parametrize(
    ("tolerance", "message"),
    [
        ({"mni": 1}, "unknown tolerance 'mni' (did you mean 'min'?)"),
        ({}, "tolerance is {}; it takes a value, a list of them, or a table"),
        ({"path": "a.b"}, "it takes a value, a list of them, or a table"),
        ({"min": "much"}, "tolerance.min is 'much'; it takes a number"),
        ({"max": True}, "tolerance.max is True; it takes a number"),
        ({"matches": "("}, "tolerance.matches is '('; it takes a regular expression"),
        ({"in": 3}, "tolerance.in is 3; it takes a list of values"),
        ({"contains": 3}, "tolerance.contains is 3; it takes a text"),
    ],
)
def test_tolerances_that_can_not_be_meant(tolerance: Any, message: str) -> None:
    """What can't be meant is refused when it is made."""
    with pytest.raises(ConfigurationError) as caught:
        Tolerance(tolerance)
    assert message in str(caught.value)


def test_long_findings_are_shortened() -> None:
    """Nothing floods a line."""
    assert len(Tolerance("x").miss(Found("y" * 500))) < 100
