"""What separate connection pools keep from the critical path, on a real PostgreSQL.

Reporting holds every connection that it can get, in waits (`pg_sleep`). Critical calls, 20 ms of server time each, are
measured in three worlds: *calm*, with no reporting; *separate*, each class with its own pool; and *shared*, the same
number of connections in one pool. The worlds take turns in short rounds, and the best round of each counts: on a shared
machine that is what the pools do, and what is above it is the neighbours.

    python benchmarks/pools.py [--rounds N] [--seconds S] [--conninfo CONNINFO]

Without a connection string it starts a PostgreSQL of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import sqlalchemy as sa

from hormesis.context import calling
from hormesis.outbound.pools import ConnectionPools
from hormesis.outcome import FailureKind, classify

Query = Callable[[float], object]
"""Holds a connection of the current class's pool for so many seconds."""

CRITICAL, REPORTING = 6, 4
CRITICAL_CALLERS, REPORTING_CALLERS = 4, 12
"""Callers of reporting are more than all connections, so that they hold whatever they can reach."""
CRITICAL_TIME, REPORTING_TIME = 0.02, 0.5
"""Seconds that a call holds its connection."""
REPORTING_PAUSE = 0.01
"""Seconds between two reports of one caller. Without it, a shared pool of SQLAlchemy starves the others altogether: who
returns a connection takes it again before a waiter has woken."""
SETTLED = 0.1
"""Seconds that reporting has to take its connections before the measurement begins."""

SEPARATE = ConnectionPools({"critical": CRITICAL, "reporting": REPORTING}, wait="5s")
SHARED = ConnectionPools({"shared": CRITICAL + REPORTING}, wait="5s")


@dataclasses.dataclass
class Measured:
    """The 99th percentile of critical calls in each world, in seconds, at best; and how many calls were measured."""

    calm: float = math.inf
    separate: float = math.inf
    shared: float = math.inf
    calls: int = 0

    @property
    def separate_ratio(self) -> float:
        """What reporting costs the critical path when the pools are separate."""
        return self.separate / self.calm

    @property
    def shared_ratio(self) -> float:
        """What it costs when they share one."""
        return self.shared / self.calm


def sqlalchemy_query(conninfo: str, pools: ConnectionPools) -> AbstractContextManager[Query]:
    """Query through engines of SQLAlchemy."""
    engines = pools.sqlalchemy(sa.URL.create("postgresql+psycopg", query=as_query(conninfo)))
    sleep = sa.text("SELECT pg_sleep(:seconds)")

    def query(seconds: float) -> None:
        with engines.current.connect() as connection:
            connection.execute(sleep, {"seconds": seconds})

    return _closing(engines.close, query)


@contextlib.contextmanager
def psycopg_query(conninfo: str, pools: ConnectionPools) -> Iterator[Query]:
    """Query through pools of psycopg."""
    with pools.psycopg(conninfo) as by_class:

        def query(seconds: float) -> None:
            with by_class.current.connection() as connection:
                connection.execute("SELECT pg_sleep(%s)", [seconds])

        yield query


QUERIES: dict[str, Callable[[str, ConnectionPools], AbstractContextManager[Query]]] = {
    "sqlalchemy": sqlalchemy_query,
    "psycopg": psycopg_query,
}


def as_query(conninfo: str) -> dict[str, str]:
    """A connection string of libpq as the query of a URL."""
    return dict(word.split("=", 1) for word in conninfo.split())


@contextlib.contextmanager
def _closing(close: Callable[[], None], query: Query) -> Iterator[Query]:
    try:
        yield query
    finally:
        close()


@contextlib.contextmanager
def callers(number: int, call: Callable[[], object]) -> Iterator[None]:
    """Let so many threads call again and again, until the block ends."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            call()

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def traffic(name: str | None) -> AbstractContextManager[object]:
    """Name the class of the calls inside the block, if there are classes."""
    return contextlib.nullcontext() if name is None else calling(traffic=name)


@contextlib.contextmanager
def suppress_rejection() -> Iterator[None]:
    """Go on when the pool had no connection to give in time."""
    try:
        yield
    except Exception as error:
        if classify(error) is not FailureKind.REJECTED:
            raise


def critical_times(query: Query, seconds: float, name: str | None) -> list[float]:
    """Return how long each critical call took, connection included."""
    times: list[float] = []

    def call() -> None:
        with traffic(name):
            start = time.perf_counter()
            with suppress_rejection():
                query(CRITICAL_TIME)
            # A call that got no connection would have taken longer still.
            times.append(time.perf_counter() - start)

    with callers(CRITICAL_CALLERS, call):
        time.sleep(seconds)
    return times


def beside_reporting(query: Query, seconds: float, critical: str | None, reporting: str | None) -> list[float]:
    """The same, while reporting holds what it can get."""

    def report() -> None:
        with traffic(reporting), suppress_rejection():
            query(REPORTING_TIME)
        time.sleep(REPORTING_PAUSE)

    with callers(REPORTING_CALLERS, report):
        time.sleep(SETTLED)
        return critical_times(query, seconds, critical)


def p99(times: list[float]) -> float:
    """The 99th percentile, by nearest rank."""
    return sorted(times)[math.ceil(0.99 * len(times)) - 1]


def measure(conninfo: str, library: str, rounds: int, seconds: float) -> Measured:
    """Measure the three worlds in turns."""
    make = QUERIES[library]
    measured = Measured()
    with make(conninfo, SEPARATE) as separate, make(conninfo, SHARED) as shared:
        # All connections of the critical path are opened before anything is timed.
        critical_times(separate, 2 * CRITICAL_TIME, "critical")
        for _ in range(rounds):
            calm_times = critical_times(separate, seconds, "critical")
            separate_times = beside_reporting(separate, seconds, "critical", "reporting")
            shared_times = beside_reporting(shared, seconds, None, None)
            measured.calm = min(measured.calm, p99(calm_times))
            measured.separate = min(measured.separate, p99(separate_times))
            measured.shared = min(measured.shared, p99(shared_times))
            measured.calls += len(calm_times) + len(separate_times) + len(shared_times)
    return measured


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.6, help="length of a round in each world")
    parser.add_argument("--conninfo", help="a PostgreSQL that is there already")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        conninfo = options.conninfo
        if conninfo is None:
            import servers  # noqa: PLC0415  only a server of our own needs its programs

            conninfo = stack.enter_context(servers.postgresql())
        print(f"p99 of critical calls, best of {options.rounds} rounds of {options.seconds:g} s in each world")
        print(f"{'':<12}{'calm':>10}{'separate':>10}{'shared':>10}{'separate/calm':>15}{'shared/calm':>13}{'calls':>8}")
        for library in QUERIES:
            m = measure(conninfo, library, options.rounds, options.seconds)
            row = "".join(f"{1000 * value:>7.1f} ms" for value in (m.calm, m.separate, m.shared))
            print(f"{library:<12}{row}{m.separate_ratio:>15.2f}{m.shared_ratio:>13.1f}{m.calls:>8}")


if __name__ == "__main__":
    main()
