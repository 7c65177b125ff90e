"""The `hormesis` command.

Exit status: 0 all is well, 1 it ran and something does not hold (an objective, a lint rule), 2 it could not be done as
asked, with one line that says why; 130 and 143 after Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence

import hormesis
from hormesis.cli.exploreoptions import add_explore
from hormesis.cli.gamedayoptions import add_gameday
from hormesis.cli.loadoptions import add_capacity, add_load
from hormesis.errors import HormesisError, MissingExtraError

__all__ = ["main"]

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        try:
            options = _parser().parse_args(argv)
            command: Command = options.command
            return command(options)
        finally:
            sys.stdout.flush()  # so that a reader who has gone is noticed here, and not by Python on its way out
    except HormesisError as error:
        print(f"hormesis: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what Python still has to flush
        return 141
    except OSError as error:
        print(f"hormesis: can't write the output: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("hormesis: interrupted; nothing is left running", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hormesis", description="Protect services with resilience patterns, and prove it under stress."
    )
    parser.add_argument("--version", action="version", version=f"hormesis {hormesis.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    gameday = commands.add_parser("gameday", help="stress a system and see which failure modes it survives")
    add_gameday(gameday)
    gameday.set_defaults(command=_gameday)

    explore = commands.add_parser(
        "explore", help="find what a system does not survive, make it small, and name what contains it"
    )
    add_explore(explore)
    explore.set_defaults(command=_explore)

    proxy = commands.add_parser(
        "proxy", help="put proxies in front of services and faults on them, over Toxiproxy's API"
    )
    proxy.add_argument("--host", default="127.0.0.1", help="where the API listens (%(default)s)")
    proxy.add_argument("--port", type=int, default=8474, help="of the API; 0 is a free one (%(default)s)")
    proxy.add_argument("--config", metavar="FILE", help="proxies to begin with: Toxiproxy's JSON, or TOML")
    proxy.add_argument("--listen", metavar="HOST:PORT", help="of one proxy to begin with; port 0 is a free one")
    proxy.add_argument("--upstream", metavar="HOST:PORT", help="what this proxy stands before")
    proxy.add_argument("--name", help="of this proxy (proxy)")
    proxy.add_argument("--seed", type=int, default=0, help="the same seed strikes the same connections (%(default)s)")
    proxy.add_argument("--token-file", metavar="FILE", help="what clients of the API must show, as a bearer token")
    proxy.add_argument("--ca", metavar="DIR", help="where the test CA of proxies that end TLS is kept")
    proxy.set_defaults(command=_proxy)

    load = commands.add_parser("load", help="send a load to a service, and say what became of it")
    add_load(load)
    load.set_defaults(command=_load)

    capacity = commands.add_parser("capacity", help="find the knee and the breaking point of a service")
    add_capacity(capacity)
    capacity.set_defaults(command=_capacity)

    undo = commands.add_parser("undo", help="take back what a game day left in force that could not end in order")
    undo.add_argument("dir", nargs="?", default="gameday-report", metavar="DIR", help="its --out (%(default)s)")
    undo.set_defaults(command=_undo)

    lint = commands.add_parser("lint", help="find combinations in a policy file that can't work as meant")
    lint.add_argument("file", help="a policy file")
    lint.set_defaults(command=_lint)

    explain = commands.add_parser("explain", help="print policies in words: order, reasons, worst case")
    explain.add_argument("file", help="a policy file")
    explain.add_argument("policy", nargs="*", help="names of policies; all by default")
    explain.set_defaults(command=_explain)

    schema = commands.add_parser("schema", help="print the JSON Schema of a file format, for editors and CI")
    schema.add_argument("format", nargs="?", choices=("policies", "gameday"), default="policies")
    schema.set_defaults(command=_schema)
    return parser


def _gameday(options: argparse.Namespace) -> int:
    _need("gameday", "pydantic", "httptools", "hdrh", "jinja2", "rich")
    from hormesis.cli.gameday import run  # noqa: PLC0415  each command loads only what it needs

    return run(options)


def _explore(options: argparse.Namespace) -> int:
    _need("gameday", "pydantic", "httptools", "hdrh", "rich", "tomlkit")
    from hormesis.cli.explore import run  # noqa: PLC0415

    return run(options)


def _capacity(options: argparse.Namespace) -> int:
    from hormesis.cli.capacity import run  # noqa: PLC0415

    return run(options)


def _load(options: argparse.Namespace) -> int:
    from hormesis.cli.load import run  # noqa: PLC0415

    return run(options)


def _proxy(options: argparse.Namespace) -> int:
    from hormesis.cli.proxy import run  # noqa: PLC0415

    return run(options)


def _undo(options: argparse.Namespace) -> int:
    from hormesis.cli.undo import run  # noqa: PLC0415

    return run(options)


def _need(extra: str, *libraries: str) -> None:
    if any(importlib.util.find_spec(library) is None for library in libraries):
        raise MissingExtraError(f"`hormesis {extra}`", extra)


def _lint(options: argparse.Namespace) -> int:
    from hormesis.cli.policies import lint_file  # noqa: PLC0415

    return lint_file(options.file)


def _explain(options: argparse.Namespace) -> int:
    from hormesis.cli.policies import explain_file  # noqa: PLC0415

    return explain_file(options.file, options.policy)


def _schema(options: argparse.Namespace) -> int:
    from hormesis.cli.policies import print_schema  # noqa: PLC0415

    return print_schema(options.format)
