"""The options of `hormesis explore`, apart from what runs it, so that other commands need not import that."""

from __future__ import annotations

import argparse

__all__ = ["add_explore"]


def add_explore(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", help="the experiment, a TOML file")
    parser.add_argument("--within", default="15m", metavar="TIME", help="how long it may take (%(default)s)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--singles", action="store_true", help="single faults only")
    only.add_argument("--pairs", action="store_true", help="pairs only, without what single faults would tell of them")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PLACE",
        help="this place, such as 'edge payments'; may be repeated",
    )
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="FAULT",
        help="this kind of fault, such as latency; may be repeated",
    )
    parser.add_argument("--arm", metavar="ARM", help="the arm to explore; the first one that is judged by default")
    parser.add_argument("--seed", type=int, help="instead of the file's; the same seed gives the same arrivals")
    parser.add_argument(
        "--corpus", metavar="DIR", help="try the failures that are kept there first, and keep there what is found"
    )
    parser.add_argument("--policies", metavar="FILE", help="the arm's policy file; the one that it names by default")
    parser.add_argument("--out", default="explore-report", metavar="DIR", help="where logs and data go (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON instead of a table")
