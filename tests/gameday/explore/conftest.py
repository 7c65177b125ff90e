"""A system to explore, and the generated ones of the benchmark, which is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "explore.py"

EXPERIMENT = """
title = "Shop"
[system.process.shop]
command = "shop {port}"
[system.process.stock]
command = "stock {port}"
[system.edge.stock]
from = "shop"
to = "stock"
env = { STOCK = "http://{host}:{port}" }
[load]
to = "shop"
rate = "10/s"
[[load.request]]
name = "page"
get = "/"
[objective.page]
success = 0.9
[[stress]]
name = "gone"
edge = "stock"
fault = { refuse = true }
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """The file of a shop with one edge, whose commands nobody could start."""
    path = tmp_path / "gameday.toml"
    path.write_text(EXPERIMENT)
    return path


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
