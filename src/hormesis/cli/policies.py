"""`hormesis lint`, `explain` and `schema`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hormesis.errors import ConfigurationError
from hormesis.inbound.service import Service
from hormesis.outbound import pools as _pools  # noqa: F401  a policy file may have a table of those
from hormesis.policy import files
from hormesis.policy.lint import lint

__all__ = ["explain_file", "lint_file", "print_schema"]


def lint_file(path: str) -> int:
    """Print what is thoughtless in a policy file; the status is 1 when there is anything."""
    policies = files.load(path)
    findings = [finding for policy in policies.values() for finding in lint(policy)]
    for finding in findings:
        print(f"{path}: policy.{finding.policy}: {finding.rule}: {finding.message}")
    count = len(policies)
    if not findings:
        print(f"{path}: {count} polic{'y' if count == 1 else 'ies'}, nothing to object to")
    return 1 if findings else 0


def explain_file(path: str, names: Sequence[str]) -> int:
    """Print policies and services in words."""
    policies = files.load(path)
    explained = {name: policy.explain() for name, policy in policies.items()}
    services: Any = policies.sections.get("service", {})
    explained |= {name: Service.of_file(policies, name).explain() for name in services}
    for name in names:
        if name not in explained:
            raise ConfigurationError(f"{path}: {ConfigurationError.unknown('policy', name, explained)}")
    print("\n\n".join(explained[name] for name in (names or explained)))
    return 0


def print_schema(of: str) -> int:
    """Print a JSON Schema."""
    if of == "gameday":
        from hormesis.gameday import experiment  # noqa: PLC0415  it needs the extra `gameday`

        print(json.dumps(experiment.schema(), indent=2))
    else:
        print(json.dumps(files.schema(), indent=2))
    return 0
