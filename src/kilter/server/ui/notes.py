"""Notes in Markdown as HTML: raw HTML in them is text, and links lead only to web pages and mail."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

NOTE = "mlflow.note.content"
"""The tag that holds a note, of an experiment or of a run: clients of MLflow read and write the same one."""


def rendered(text: str) -> str:
    """Return a note as HTML that is safe to put into a page."""
    return str(_renderer().render(text[:100_000]))


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - 60 modules: a server whose runs have no notes needs none of them

    options = {"html": False, "linkify": False}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).disable("image")
