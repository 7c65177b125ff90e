"""Every example runs, of pages and docstrings; every file that is shown can be read; every link leads somewhere."""

from __future__ import annotations

import doctest
import importlib
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import hormesis as hm
from hormesis.chaos.toxiproxy import Toxic, read_proxies
from hormesis.cli.loadfile import LoadTable
from hormesis.gameday.experiment import load_experiment
from hormesis.tables import read

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page, and the line on which its text begins."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def is_policy_file(self) -> bool:
        return self.language == "toml" and "[policy" in self.text


def blocks(page: Path) -> list[Block]:
    text = page.read_text() if page.exists() else ""
    return [
        Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"])
        for match in _BLOCK.finditer(text)
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES_WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after the other, with the policy file that was shown last."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.is_policy_file:
            (tmp_path / "policies.toml").write_text(block.text)
        elif block.language == "python":
            # Blank lines before it, so that a traceback shows the page's own line.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


POLICY_FILES = [block for page in PAGES for block in blocks(page) if block.is_policy_file]


@pytest.mark.parametrize("block", POLICY_FILES, ids=lambda block: f"{name(block.page)}:{block.line}")
def test_the_policies_of_a_page_load(block: Block, tmp_path: Path) -> None:
    """A policy file that is shown is one that loads."""
    path = tmp_path / "policies.toml"
    path.write_text(block.text)
    assert hm.load(path)


SYSTEM = """
[system.process]
shop = { command = "shop {port}" }
payments = { command = "payments {port}" }
db = { command = "db {port}" }
[system.edge]
payments = { from = "shop", to = "payments", env = { PAYMENTS = "{port}" } }
extra = { from = "shop", to = "db", env = { EXTRA = "{port}" } }
"""
LOAD = """
[load]
to = "shop"
rate = "10/s"
request = [{ name = "order", get = "/" }, { name = "product", get = "/" }, { name = "home", get = "/" }]
[[stress]]
name = "rush"
fault = { spike = 2 }
"""
"""What a part of a game day's file is shown without."""

GAMEDAY_FILES = [
    block
    for page in PAGES
    for block in blocks(page)
    if block.language == "toml" and re.search(r"^\[+(stress|invariant|system)", block.text, re.MULTILINE)
]


@pytest.mark.parametrize("block", GAMEDAY_FILES, ids=lambda block: f"{name(block.page)}:{block.line}")
def test_the_game_days_of_a_page_load(block: Block, tmp_path: Path) -> None:
    """A part of a game day's file that is shown is one that loads, with what it is shown without."""
    shown = tomllib.loads(block.text)
    whole = tmp_path / "gameday.toml"
    attached = "system" in shown and "process" not in shown["system"]
    whole.write_text(LOAD if attached else SYSTEM + LOAD)
    part = tmp_path / "part" / "file.toml"
    part.parent.mkdir()
    based = "" if "experiment" in shown else 'experiment = "../gameday.toml"\n'
    text = block.text
    if attached:
        text += 'rate = "10/s"\nrequest = [{ name = "home", get = "/" }]\n'
    part.write_text(based + text)
    assert load_experiment(part)


def test_the_other_files_of_pages_load(tmp_path: Path) -> None:
    """A list of proxies, and a load."""
    path = tmp_path / "file.toml"
    (proxies,) = (block for block in blocks(ROOT / "docs/chaos/proxy.md") if block.language == "toml")
    path.write_text(proxies.text)
    (proxy,) = read_proxies(path)
    assert isinstance(proxy, dict)
    assert [Toxic.from_json(toxic).name for toxic in proxy["toxics"]] == ["latency_downstream"]
    (load,) = (block for block in blocks(ROOT / "docs/chaos/load.md") if block.language == "toml")
    assert read(LoadTable, tomllib.loads(load.text)["load"], "load").request


_LINK = re.compile(r"\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as its readers' programs make them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(page))}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """The file is there, and so is the heading."""
    for path, anchor in _LINK.findall(prose(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


MODULES = [
    path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted((ROOT / "src" / "hormesis").rglob("*.py"))
    if path.name != "__main__.py"
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(module: str) -> None:
    """What a docstring shows is what happens."""
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0
