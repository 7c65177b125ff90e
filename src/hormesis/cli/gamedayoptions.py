"""The options of `hormesis gameday`, apart from what it needs to run, so that `--help` is quick."""

from __future__ import annotations

import argparse

from hormesis.cli.chaostoolkit import add_chaostoolkit

__all__ = ["add_gameday"]


def add_gameday(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("file", help="the experiment, a TOML file; or one of the Chaos Toolkit's, JSON or YAML")
    add("--seed", type=int, help="instead of the file's; the same seed gives the same arrivals and doses")
    add("--only", action="append", default=[], metavar="STRESS", help="run this stress; may be repeated")
    add("--all", action="store_true", help="run every stress of the file, not just its tour")
    add("--arm", action="append", default=[], metavar="ARM", help="run this arm; may be repeated")
    add("--repeat", type=int, default=1, metavar="N", help="run the stresses so often, each round from another seed")
    add("--corpus", metavar="DIR", help="run the failures first that `hormesis explore --corpus` has kept there")
    add("--dry-run", action="store_true", help="print the plan, and start nothing")
    add("--out", default="gameday-report", metavar="DIR", help="where the report goes (%(default)s)")
    add("--junit", metavar="FILE", help="write the results as JUnit XML too")
    add("--json", action="store_true", help="print the results as JSON instead of a table")
    add_chaostoolkit(parser)
