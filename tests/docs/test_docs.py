"""Every example runs: of the pages, and of the docstrings."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import hormesis as hm

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
