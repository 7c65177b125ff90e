"""Numbers as people write them: which are in a set, and what is no set."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hormesis.core.ordinals import Ordinals
from hormesis.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "members"),
    [
        (3, [3]),
        ("3", [3]),
        ("1-2", [1, 2]),
        ("9-", [9, 10, 11, 12]),
        ("every 5", [5, 10]),
        ("every 5, 1", [1, 5, 10]),
        (" 2 - 3 ,7", [2, 3, 7]),
    ],
)
def test_members(text: Any, members: list[int]) -> None:
    """Numbers, ranges, and every n-th; spaces don't matter."""
    assert [number for number in range(1, 13) if number in Ordinals(text)] == members


@pytest.mark.parametrize(
    "text", ["", "0", "2-1", "every 0", "every", "1,", "-1", -1, 1.5, True, None, "1, " * 400 + "1"]
)
def test_what_is_no_set(text: Any) -> None:
    """What can't be meant is refused, with the setting, the value and what would do."""
    with pytest.raises(ConfigurationError, match=r"^requests is .* it takes numbers from 1 such as") as caught:
        Ordinals(text, "requests")
    assert caught.value.key == "requests"


@given(st.text(max_size=50) | st.integers() | st.none())
def test_any_text(text: Any) -> None:
    """Whatever is given, it is a set of numbers from 1, or one clear error."""
    with contextlib.suppress(ConfigurationError):
        assert 0 not in Ordinals(text)
