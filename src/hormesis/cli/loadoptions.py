"""The options of `hormesis load` and `hormesis capacity`, apart from what they need to run."""

from __future__ import annotations

import argparse

__all__ = ["add_capacity", "add_load"]


def _quantity(text: str) -> float | str:
    """Take a plain number for one: of seconds, or a second."""
    try:
        return float(text)
    except ValueError:
        return text


def add_load(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    _add_target(parser)
    shape = parser.add_argument_group("what comes when (one of --rate, --step, --trace, --users)")
    shape.add_argument(
        "--rate", type=_quantity, help="an open loop: so many requests a second whatever becomes of them, like 200/s"
    )
    shape.add_argument("--for", type=_quantity, dest="length", metavar="DURATION", help="how long (30s)")
    shape.add_argument(
        "--step", action="append", default=[], metavar="RATE[..RATE]:DURATION", help="a stretch or a ramp; repeatable"
    )
    shape.add_argument(
        "--bursts", metavar="ON/OFF", help="with --rate: for a while, then nothing, and so on, like 1s/4s"
    )
    shape.add_argument("--trace", metavar="FILE", help="as recorded: offsets, CSV, JSON lines or an access log")
    shape.add_argument("--speed", type=float, metavar="FACTOR", help="with --trace: so many times as fast")
    shape.add_argument("--users", type=int, metavar="N", help="a closed loop: N users, who wait for their answers")
    shape.add_argument(
        "--think", type=_quantity, metavar="DURATION", help="with --users: the mean of their pauses (none)"
    )
    result = parser.add_argument_group("what is said of it")
    result.add_argument(
        "--assert", dest="asserts", action="append", default=[], metavar="'p99 < 250ms'", help="must hold; repeatable"
    )
    result.add_argument(
        "--lag-max", type=_quantity, metavar="DURATION", help="send lag (p99) beyond which the run is invalid (50ms)"
    )
    result.add_argument("--json", action="store_true", help="print the results as JSON")
    result.add_argument("--hdr", metavar="FILE", help="write latencies as an HdrHistogram log")
    result.add_argument("--quiet", action="store_true", help="say nothing while it runs")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="generators that share the load (1)")


def add_capacity(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hormesis capacity`."""
    _add_target(parser)
    search = parser.add_argument_group("what is looked for")
    search.add_argument(
        "--within", type=_quantity, default="2m", metavar="TIME", help="how long it may take (%(default)s)"
    )
    search.add_argument("--step", type=_quantity, default="3s", metavar="TIME", help="of one rate (%(default)s)")
    search.add_argument("--from", type=_quantity, dest="first", default="50/s", help="the first rate (%(default)s)")
    search.add_argument("--to", type=_quantity, dest="last", default="100000/s", help="the highest (%(default)s)")
    search.add_argument(
        "--success", type=float, default=0.99, help="share of full answers that must hold (%(default)s)"
    )
    search.add_argument(
        "--p99",
        type=_quantity,
        metavar="DURATION",
        help="bound of it; left out: ten times that of the first rate",
    )
    search.add_argument("--resolution", type=float, default=0.05, help="how finely, as a share (%(default)s)")
    search.add_argument("--json", action="store_true", help="print the results as JSON")
    search.add_argument("--quiet", action="store_true", help="say nothing while it runs")


def _add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is sent and where to."""
    parser.add_argument("target", metavar="URL|FILE", help="what to ask for, or a TOML file with a [load] table")
    parser.add_argument("--url", help="with a file: where its paths go on from")
    parser.add_argument("--method", choices=("GET", "POST", "PUT", "PATCH", "DELETE"), help="with a URL (GET)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="sent with every request; repeatable"
    )
    body = parser.add_mutually_exclusive_group()
    body.add_argument("--body-json", metavar="JSON", help="a body; texts may hold {n} and {uuid}")
    body.add_argument("--body", metavar="TEXT", help="a body, sent as it is")
    parser.add_argument("--expect", action="append", type=int, metavar="STATUS", help="of a full answer (200 to 299)")
    parser.add_argument("--timeout", type=_quantity, metavar="DURATION", help="a caller's patience (10s)")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), help="how requests are spread (poisson)")
    parser.add_argument("--connections", type=int, metavar="N", help="connections at most")
    parser.add_argument("--new-connections", action="store_true", help="one for each request")
    tls = parser.add_mutually_exclusive_group()
    tls.add_argument("--insecure", action="store_true", help="take any certificate")
    tls.add_argument("--ca", metavar="FILE", help="the authority that signed the server's certificate")
    parser.add_argument("--seed", help="the same seed gives the same arrivals")
