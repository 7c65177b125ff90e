"""Whether what a probe said is within its tolerance.

| tolerance | met by |
|---|---|
| a text, a number, `true`, `false` | the same value; of a request or a process: the same status |
| a list of two | a value between them, both included |
| a list of any other length | one of its values; of a request or a process: a status in it, for two as well |
| `{type: range, range: [low, high]}` | a number between them, both included |
| `{type: regex, pattern}` | a text in which the pattern is found |
| `{type: jsonpath, path, expect?, count?}` | a document in which the path finds something, just that, or so many |
| `{type: probe, provider}` | a probe of its own that is given the value and says yes |

`target` picks a part of the value first: `"body"`, `"stdout"`. A value that can't be compared is not met; it is never
an error.

JSONPath is RFC 9535's, but for filters, which experiments write in the dialect of jsonpath2: `[?(…)]` keeps or drops
the *object* it stands behind (`$.items.*[?(@.id > 1)]`), `=` compares, `and`, `or` and `not` join. Behind a list a
filter looks at its elements, as in the RFC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from numbers import Number
from typing import TYPE_CHECKING, Any

from hormesis.errors import ConfigurationError, MissingExtraError
from hormesis.gameday.chaostoolkit.values import Values

if TYPE_CHECKING:
    import types

__all__ = ["check", "find", "met"]

_KINDS = ("probe", "regex", "jsonpath", "range")
_STRING_OR_EQUALS = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?<![=!<>~])=(?![=~])""")


def check(tolerance: Any, where: str) -> None:
    """Refuse a tolerance that can't be meant; that of a probe is the reader's business.

    Raises:
        ConfigurationError: What is wrong, with the key it stands under.
    """
    if isinstance(tolerance, str | bool | int | float | list):
        return
    if not isinstance(tolerance, Mapping):
        accepted = f"a value, a list of values, or an object whose type is one of {', '.join(_KINDS)}"
        raise ConfigurationError.bad_value(where, tolerance, accepted)
    kind = tolerance.get("type")
    if kind not in _KINDS:
        raise ConfigurationError(f"{where}.type: {ConfigurationError.unknown('tolerance', kind, _KINDS)}", where)
    if kind == "regex":
        _check_regex(tolerance.get("pattern"), f"{where}.pattern")
    elif kind == "range":
        bounds = tolerance.get("range")
        if not (isinstance(bounds, list) and len(bounds) == 2 and all(isinstance(each, Number) for each in bounds)):
            raise ConfigurationError.bad_value(f"{where}.range", bounds, "a list of two numbers")
    elif kind == "jsonpath":
        path = tolerance.get("path")
        if not isinstance(path, str) or not path.strip():
            raise ConfigurationError.bad_value(f"{where}.path", path, "a JSONPath such as '$.items[*].id'")
        if "${" not in path:
            find(path, None, where=f"{where}.path")


def _check_regex(pattern: Any, where: str) -> None:
    try:
        re.compile(pattern)
    except TypeError:
        raise ConfigurationError.bad_value(where, pattern, "a regular expression") from None
    except re.error as error:
        raise ConfigurationError.bad_value(where, pattern, f"a regular expression ({error})") from None


def met(tolerance: Any, value: Any, values: Values) -> bool:
    """Say whether a value is within a tolerance, which is not a probe's."""
    tolerance = values.fill(tolerance)
    if isinstance(tolerance, Mapping):
        return _met_by_kind(tolerance, _target(tolerance, value))
    status = isinstance(value, Mapping) and "status" in value
    if isinstance(tolerance, list):
        if status:
            return value["status"] in tolerance
        return _between(tolerance, value) if len(tolerance) == 2 else value in tolerance
    if status and isinstance(tolerance, int) and not isinstance(tolerance, bool):
        return bool(value["status"] == tolerance)
    return bool(value == tolerance)


def _between(bounds: Sequence[Any], value: Any) -> bool:
    try:
        return bool(bounds[0] <= value <= bounds[1])
    except TypeError:
        return False


def _target(tolerance: Mapping[str, Any], value: Any) -> Any:
    target = tolerance.get("target")
    return value.get(target, value) if target and isinstance(value, Mapping) else value


def _met_by_kind(tolerance: Mapping[str, Any], value: Any) -> bool:
    if tolerance["type"] == "regex":
        return re.search(tolerance["pattern"], _as_text(value)) is not None
    if tolerance["type"] == "range":
        low, high = tolerance["range"]
        try:
            return Decimal(low) <= Decimal(value) <= Decimal(high)
        except (InvalidOperation, TypeError, ValueError):
            return False
    found = find(tolerance["path"], _as_document(value))
    if "expect" in tolerance:
        expected = tolerance["expect"]
        return found == (expected if isinstance(expected, list) else [expected])
    count = tolerance.get("count")
    return len(found) == count if count is not None else bool(found)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _as_document(value: Any) -> Any:
    if isinstance(value, str | bytes):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def find(path: str, document: Any, *, where: str = "path") -> list[Any]:
    """Return what a JSONPath finds in a document.

    >>> find("$.foo.*[?(@.baz)].baz", {"foo": [{"baz": "hello"}, {"bar": 1}, {"baz": "bonjour"}]})
    ['hello', 'bonjour']

    Raises:
        ConfigurationError: It is no JSONPath.
        MissingExtraError: The extra `gameday` is not installed.
    """
    library = _library()
    if not path.startswith("$"):
        raise ConfigurationError.bad_value(where, path, "a JSONPath, which begins with '$'")
    try:
        steps = [(filtering, library.compile(text)) for filtering, text in _steps(path.strip())]
        nodes = [document]
        for filtering, step in steps:
            # A filter is tried on a list of all that it decides about, which is what the RFC has it look at.
            looked_at = [[each for node in nodes for each in _elements(node)]] if filtering else nodes
            nodes = [found for node in looked_at if isinstance(node, dict | list) for found in step.findall(node)]
    except library.JSONPathError as error:
        raise ConfigurationError.bad_value(where, path, f"a JSONPath ({str(error).splitlines()[0]})") from None
    return nodes


def _elements(node: Any) -> list[Any]:
    return node if isinstance(node, list) else [node]


def _steps(path: str) -> Iterator[tuple[bool, str]]:
    """Cut a path into paths, and say which are filters: `$.a.*[?(@.b = 1)].c` is `$.a.*`, `$[?(@.b == 1)]`, `$.c`."""
    step, at = "$", 1
    while at < len(path):
        end = _end_of_bracket(path, at) if path[at] == "[" else at + 1
        if path.startswith("[?", at):
            condition = _STRING_OR_EQUALS.sub(lambda match: match[1] or "==", path[at:end])
            if step.endswith(".."):
                yield False, step + condition
            else:
                if step != "$":
                    yield False, step
                yield True, "$" + condition
            step = "$"
        else:
            step += path[at:end]
        at = end
    if step != "$" or path == "$":
        yield False, step


def _end_of_bracket(path: str, start: int) -> int:
    """Return where the bracket that opens at `start` has been closed; brackets and quotes inside are skipped."""
    depth, quote, at = 0, "", start
    while at < len(path):
        char = path[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char == "[") - (char == "]")
            if depth == 0:
                return at + 1
        at += 1
    return len(path)


def _library() -> types.ModuleType:
    try:
        import jsonpath  # noqa: PLC0415  only a file with such a tolerance needs it
    except ImportError:
        raise MissingExtraError("a tolerance of type jsonpath", "gameday") from None
    return jsonpath
