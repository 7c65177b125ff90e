"""What a policy is made of, and policies whose back-offs take no time.

A test that a policy is what it should be catches the setting that somebody changed for an afternoon. Parts are compared
as values: `assert_has(policy, Timeout, limit="500ms")` holds for a limit of 0.5.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

from hormesis.errors import ConfigurationError
from hormesis.patterns.part import Part
from hormesis.patterns.retry import Retry
from hormesis.policy.policy import Policy

__all__ = ["assert_has", "assert_parts", "no_waiting"]

PartOf = TypeVar("PartOf", bound=Part)


def assert_parts(policy: Policy, *parts: Part) -> None:
    """Check that a policy is made of these parts, with these settings, and of no others.

    The order is that of the policy where it was made with `order="as given"`, and of no matter otherwise.

    Raises:
        AssertionError: It is not; the message names each setting that differs.

    >>> from hormesis import Timeout
    >>> policy = Policy(Retry(on="transient"), Timeout("1s"), name="stock")
    >>> assert_parts(policy, Timeout(1), Retry(on="transient"))
    >>> assert_parts(policy, Timeout("2s"))
    Traceback (most recent call last):
    AssertionError: policy 'stock':
      timeout.limit is 1.0, not 2.0
      retry should not be there: Retry(on='transient', ...
    """
    expected = list(parts) if policy.order == "as given" else _sorted(parts)
    actual = list(policy.parts)
    if actual == expected:
        return
    problems: list[str] = []
    unmatched = list(actual)
    for part in expected:
        same = [each for each in unmatched if type(each) is type(part)]
        if not same:
            problems.append(f"{part.slot.key} is missing: {part!r}")
            continue
        nearest = min(same, key=lambda each: len(_differences(each, part)))
        unmatched.remove(nearest)
        problems += _differences(nearest, part)
    problems += [f"{part.slot.key} should not be there: {part!r}" for part in unmatched]
    if not problems:
        order = ", ".join(part.slot.key for part in expected)
        problems = [f"the order is {', '.join(part.slot.key for part in actual)}, not {order}"]
    raise _failure(policy, problems)


def assert_has(policy: Policy, kind: type[PartOf], **settings: Any) -> PartOf:
    """Check that a policy has a part of this class with these settings; others may be as they like. Returns the part.

    Raises:
        AssertionError: It has not; the message names each setting that differs.
        ConfigurationError: The part has no such setting, or the value can't be meant.

    >>> from hormesis import Timeout
    >>> assert_has(Policy(Timeout("500ms")), Timeout, limit=0.5).threads is None
    True
    """
    known = _settings(kind)
    for setting in settings:
        if setting not in known:
            raise ConfigurationError.unknown(f"setting of {kind.__name__}", setting, known)
    candidates = [part for part in policy.parts if isinstance(part, kind)]
    if not candidates:
        has = ", ".join(type(part).__name__ for part in policy.parts) or "no parts"
        raise _failure(policy, [f"has no {kind.__name__}; it has {has}"])
    differences = [_differences(part, _with(part, settings)) for part in candidates]
    best = min(range(len(candidates)), key=lambda i: len(differences[i]))
    if differences[best]:
        raise _failure(policy, differences[best])
    return candidates[best]


@contextlib.contextmanager
def no_waiting(*policies: Policy, attempts: int | None = None) -> Iterator[None]:
    """Let the retries of policies follow at once, inside the block; also of functions that they decorate.

    For tests of code whose policies have no clock of the test's own. Everything else is as it was: attempts, budgets,
    breakers. The policies publish that they are reconfigured when the block begins and when it ends.

    Args:
        *policies: Those that are not to wait.
        attempts: How many attempts there are meanwhile, if that is to be another number too; 1 switches retries off.

    >>> policy = Policy(Retry(on="transient", delay="1h"))
    >>> stock = iter([ConnectionRefusedError(), 3])
    >>> def ask() -> int:
    ...     answer = next(stock)
    ...     if isinstance(answer, Exception):
    ...         raise answer
    ...     return answer
    >>> with no_waiting(policy):
    ...     policy.call(ask)
    3
    """
    with contextlib.ExitStack() as stack:
        for policy in policies:
            parts = policy.parts
            _become(policy, tuple(_impatient(part, attempts) for part in parts))
            stack.callback(_become, policy, parts)
        yield


def _become(policy: Policy, parts: tuple[Part, ...]) -> None:
    policy.take_over(parts, policy.order, shadow=policy.shadow, calls=policy.calls, expects=policy.expects)


def _impatient(part: Part, attempts: int | None) -> Part:
    if not isinstance(part, Retry):
        return part
    attempts = part.attempts if attempts is None else attempts
    return dataclasses.replace(part, attempts=attempts, delay=0, delay_max=0, retry_after_max=0)


def _sorted(parts: tuple[Part, ...]) -> list[Part]:
    return sorted(parts, key=lambda part: part.slot.position)


def _settings(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


def _with(part: Any, settings: dict[str, Any]) -> Any:
    return dataclasses.replace(part, **settings)


def _differences(actual: Part, expected: Part) -> list[str]:
    """The settings in which two parts of one class differ, in words."""
    if actual == expected:
        return []
    pairs = {name: (getattr(actual, name), getattr(expected, name)) for name in _settings(type(actual))}
    return [f"{actual.slot.key}.{name} is {a!r}, not {b!r}" for name, (a, b) in pairs.items() if a != b]


def _failure(policy: Policy, problems: list[str]) -> AssertionError:
    return AssertionError(f"policy {policy.name!r}:\n" + "\n".join(f"  {problem}" for problem in problems))
