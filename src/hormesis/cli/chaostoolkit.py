"""`hormesis gameday` with an experiment of the Chaos Toolkit's: its options, and how it is run."""

from __future__ import annotations

import argparse

__all__ = ["add_chaostoolkit", "run"]


def add_chaostoolkit(parser: argparse.ArgumentParser) -> None:
    """Add the options that only such an experiment has."""
    add = parser.add_argument_group("experiments of the Chaos Toolkit (JSON, YAML)").add_argument
    add("--var", action="append", default=[], metavar="NAME[:TYPE]=VALUE", help="configuration in place of the file's")
    add("--hypothesis-strategy", metavar="STRATEGY", help="when to look at the steady state: 'continuously', …")
    add("--hypothesis-frequency", type=float, metavar="SECONDS", help="between two looks during the method (1)")
    add("--fail-fast", action="store_true", default=None, help="end the method with the first look that finds it lost")
    add("--rollback-strategy", metavar="STRATEGY", help="when to roll back: 'always', 'never', 'deviated'")


def run(options: argparse.Namespace) -> int:
    """Run it; 0 only if it ran to its end and the steady state held."""
    from hormesis.cli.shell import folder  # noqa: PLC0415  --help needs none of it
    from hormesis.gameday.chaostoolkit import plan_of, run_file  # noqa: PLC0415

    if options.dry_run:
        print("\n".join(plan_of(options.file)))
        return 0
    with folder(options.out) as out:
        return run_file(
            options.file,
            out,
            given=options.var,
            as_data=options.json,
            hypothesis=options.hypothesis_strategy,
            rollbacks=options.rollback_strategy,
            frequency=options.hypothesis_frequency,
            fail_fast=options.fail_fast,
        )
