"""The templates of the pages, and how they are filled: whatever is put in is escaped, but for drawings made here."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from hormesis.errors import MissingExtraError
from hormesis.gameday.report import words

try:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as error:
    raise MissingExtraError("hormesis.gameday.report", "gameday") from error

__all__ = ["drawn", "write"]


def drawn(svg: str) -> Markup:
    """Return a drawing of this package as something that is put in as it is: it has escaped its own texts."""
    return Markup(svg)  # noqa: S704


def write(path: str | Path, template: str, **found: Any) -> None:
    """Fill a template, and write the page.

    Raises:
        OSError: It can't be written there.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_source),
    )
    environment.filters["unbroken"] = words.unbroken
    page = environment.get_template(template).render(words=words, **found)
    # A file name may hold bytes that are no text; they must not cost anyone the report.
    Path(path).write_text(page, encoding="utf-8", errors="replace")


def _source(name: str) -> str:
    return files("hormesis.gameday.report").joinpath(name).read_text("utf-8")
