"""Notes in Markdown as HTML: raw HTML in them is text, and links lead only to web pages and mail."""

from __future__ import annotations

from markdown_it import MarkdownIt

NOTE = "mlflow.note.content"
"""The tag that holds a note, of an experiment or of a run: clients of MLflow read and write the same one."""

_RENDERER = (
    MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"]).disable("image")
)


def rendered(text: str) -> str:
    """Return a note as HTML that is safe to put into a page."""
    return str(_RENDERER.render(text[:100_000]))
