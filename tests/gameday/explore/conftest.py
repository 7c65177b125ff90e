"""The generated systems of the benchmark, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "explore.py"


@pytest.fixture(scope="session")
def worlds() -> ModuleType:
    """What generates systems with failures hidden in them, and answers trials from them."""
    name = "hormesis_benchmarks_explore"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
