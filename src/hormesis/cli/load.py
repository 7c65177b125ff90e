"""`hormesis load`: send a load, and say what became of it.

The exit status is 0 if all assertions hold, 1 if one doesn't, if not one request was answered, or if the run says
nothing because its generator lagged, and 2 if it could not be done as asked. Ctrl-C ends the load and prints what it
came to so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from hormesis.cli.loadfile import bursts_of, steps_of, table_of
from hormesis.cli.loadprogress import progress
from hormesis.cli.shell import off_signals, on_signals
from hormesis.errors import ConfigurationError, HormesisError
from hormesis.loadgen import LoadSpec, RunResult
from hormesis.loadgen.assertions import Assertion, Finding
from hormesis.loadgen.fleet import Fleet
from hormesis.loadgen.run import tls_of
from hormesis.loadgen.summary import QUANTILES, Numbers, Summary, summarise
from hormesis.units import format_seconds, seconds

__all__ = ["interruptible", "reach", "run"]

T = TypeVar("T")

_REACH_WITHIN = 5.0
_PROCESSES_MAX = 64
_ERRORS_SHOWN = 8


def run(options: argparse.Namespace) -> int:
    """Send the load; 0 only if the run is valid, something was answered, and every assertion holds."""
    if not 1 <= options.processes <= _PROCESSES_MAX:
        accepted = f"a whole number from 1 to {_PROCESSES_MAX}"
        raise ConfigurationError.bad_value("--processes", options.processes, accepted)
    table, url = table_of(
        options,
        rate=options.rate,
        for_=options.length,
        steps=steps_of(options.step),
        bursts=bursts_of(options.bursts),
        trace=options.trace,
        speed=options.speed,
        users=options.users,
        think=options.think,
        lag_max=options.lag_max,
    )
    spec = table.spec(url)
    names = [request.name for request in spec.requests]
    assertions = [Assertion.of(text, names) for text in table.assert_]
    assertions += [Assertion.of(text, names, "--assert") for text in options.asserts]
    with _output(options.hdr) as hdr:
        result, interrupted_by = asyncio.run(_send(spec, options.processes, quiet=options.quiet))
        if result is None:
            print("hormesis: interrupted before anything was sent", file=sys.stderr)
            return 128 + interrupted_by
        spec = dataclasses.replace(spec, share=(0, options.processes))
        summary = summarise(spec, result, lag_max=seconds(table.lag_max))
        findings = [assertion.check(summary) for assertion in assertions]
        # Whoever says how many answers there may be has said what is to be thought of none.
        fruitless = "" if any(assertion.counts_answers for assertion in assertions) else summary.fruitless
        held = not (summary.invalid or fruitless) and all(finding.held for finding in findings)
        if options.json:
            print(json.dumps(_as_json(summary, findings, held=held), indent=2))
        else:
            _print(summary, findings)
            if fruitless:
                print(f"FAILED: {fruitless}")
        if hdr is not None:
            from hormesis.loadgen.hdrlog import write_hdr_log  # noqa: PLC0415  the one thing that needs HdrHistogram

            write_hdr_log(hdr, result.samples, result.start_at, names)
    if interrupted_by:
        print("hormesis: interrupted; nothing is left running", file=sys.stderr)
        return 128 + interrupted_by
    return 0 if held else 1


async def _send(spec: LoadSpec, processes: int, *, quiet: bool) -> tuple[RunResult | None, int]:
    fleet = Fleet(processes)

    async def send() -> RunResult:
        await reach(spec)
        async with fleet:
            with progress(spec, quiet=quiet) as watch:
                return await fleet.run(spec, watch)

    return await interruptible(send(), fleet.cancel)


async def interruptible(
    main: Coroutine[Any, Any, T], cancel: Callable[[], Coroutine[Any, Any, bool]]
) -> tuple[T | None, int]:
    """Run to the end, or until a signal asks for one.

    Args:
        main: What is run.
        cancel: Ends it early with a result, and returns whether there will be one.

    Returns:
        The result, or None if there is none; and the signal, or 0.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(main)
    received: list[int] = []
    stopping: list[asyncio.Task[None]] = []

    async def end() -> None:
        if not await cancel():
            task.cancel()

    def stop(number: int) -> None:
        if not received:
            received.append(number)
            stopping.append(loop.create_task(end()))

    on_signals(stop)
    try:
        result = await task
    except (asyncio.CancelledError, HormesisError):
        if not received:
            raise
        return None, received[0]
    finally:
        await asyncio.gather(*stopping)
        off_signals()
    return result, (received[0] if received else 0)


async def reach(spec: LoadSpec) -> None:
    """Connect once: whether anybody is there is said before a load is sent at nobody.

    Raises:
        ConfigurationError: Nobody is, or it is not to be trusted.
    """
    origin = spec.origin
    tls = tls_of(spec) or origin.secure
    try:
        async with asyncio.timeout(_REACH_WITHIN):
            _, writer = await asyncio.open_connection(origin.host, origin.port, ssl=tls or None)
    except TimeoutError:
        reason = f"no connection within {_REACH_WITHIN:g} s"
    except ConnectionError as error:
        # What asyncio says of a refused connection is how it was called.
        reason = os.strerror(error.errno) if error.errno else str(error)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    else:
        writer.close()
        return
    raise ConfigurationError(f"{spec.base_url}: can't be reached: {reason}")


@contextlib.contextmanager
def _output(name: str | None) -> Iterator[TextIO | None]:
    """Open the file of the histograms before anything is sent."""
    if name is None:
        yield None
        return
    if importlib.util.find_spec("hdrh") is None:
        from hormesis.loadgen import hdrlog  # noqa: F401, PLC0415  says what is missing
    try:
        file = open(name, "w", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise ConfigurationError(f"--hdr {name}: can't be written: {error.strerror or error}") from error
    with file:
        yield file


def _as_json(summary: Summary, findings: Sequence[Finding], *, held: bool) -> dict[str, object]:
    asserted = [
        {"assert": each.text, "held": each.held, "value": None if math.isnan(each.value) else each.value}
        for each in findings
    ]
    return {**summary.to_table(), "assertions": asserted, "held": held}


def _print(summary: Summary, findings: Sequence[Finding]) -> None:
    spec, result, total = summary.spec, summary.result, summary.total
    kind = "closed loop, coordinated: users wait for their answers" if summary.coordinated else "open loop"
    print(f"{spec.base_url}  {kind}, {total.seconds:.3g} s, seed {spec.seed}\n")
    rows = [["", "requests", "rate/s", "full/s", "success", *QUANTILES]]
    rows += [_row("all", total)] if len(summary.requests) > 1 else []
    rows += [_row(name, numbers) for name, numbers in summary.requests.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join([row[0].ljust(len(first)), *others]).rstrip())
    print()
    if total.errors:
        shown = [f"{kind} {count:,}" for kind, count in list(total.errors.items())[:_ERRORS_SHOWN]]
        print(f"failed: {', '.join(shown)}{', …' if len(total.errors) > _ERRORS_SHOWN else ''}")
    for name, wrong in result.wrong.items():
        print(f"first wrong answer of {name}: {wrong}")
    if not math.isnan(result.lag_p99):
        lags = {"p50": result.lag_p50, "p99": result.lag_p99, "max": result.lag_max}
        print(f"send lag: {', '.join(f'{name} {format_seconds(lag)}' for name, lag in lags.items())}")
    if result.waited:
        print(f"{result.waited:,} requests waited for a connection, which is part of their latency")
    width = max((len(finding.text) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.text.ljust(width)}  {'held  ' if finding.held else 'MISSED'}  {finding.found}")
    for reason in summary.invalid:
        print(f"INVALID: {reason}; this run does not measure the service")


def _row(name: str, numbers: Numbers) -> list[str]:
    if not numbers.requests:
        return [name, "0", *("-" for _ in range(3 + len(QUANTILES)))]
    rates = ["-" if math.isnan(rate) else f"{rate:,.1f}" for rate in (numbers.rate, numbers.throughput)]
    counts = [f"{numbers.requests:,}", *rates, f"{numbers.success:.4f}"]
    return [name, *counts, *(format_seconds(numbers.quantile(q)) for q in QUANTILES.values())]
