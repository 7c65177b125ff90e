"""A real PostgreSQL and a real Redis for the tests of this room, and what the benchmarks do with them."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Load a script of the benchmarks; they are no package."""
    full = f"hormesis_benchmarks_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.fixture(scope="session")
def pools_benchmark() -> ModuleType:
    """What measures pools."""
    return load("pools")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The connection string of a PostgreSQL that is ours."""
    with load("servers").postgresql() as conninfo:
        yield conninfo


@pytest.fixture(scope="session")
def postgresql_url(postgresql: str) -> str:
    """The same for SQLAlchemy."""
    host = dict(word.split("=", 1) for word in postgresql.split())["host"]
    return f"postgresql+psycopg://postgres@/postgres?host={host}"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that is ours."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(load("servers").redis())
        except FileNotFoundError as missing:
            pytest.skip(str(missing))
        yield url
