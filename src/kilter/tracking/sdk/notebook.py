"""What a notebook shows of a run, and what a terminal is told."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Mapping

_MOST = 20


def quiet() -> bool:
    """Say whether the user wants to read nothing but warnings: ``KILTER_QUIET=1``."""
    return os.environ.get("KILTER_QUIET", "").strip().lower() not in {"", "0", "false", "no", "off"}


def tell(text: str) -> None:
    """Write a line where it disturbs nobody who reads the program's output."""
    if quiet() or sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):  # closed: then nobody reads it
        return


def card(
    run: str,
    experiment: str,
    name: str,
    status: str,
    page: str,
    params: Mapping[str, object],
    last: Mapping[str, float],
) -> str:
    """Return a run as HTML."""
    title = html.escape(name or run)
    head = (
        f'<a href="{html.escape(page)}" target="_blank">{title}</a>'
        if page.startswith(("http://", "https://"))
        else title
    )
    lines = [
        '<div style="font-family:system-ui,sans-serif;border:1px solid #8884;border-radius:6px;padding:8px 12px;display:inline-block">',
        f"<div><b>{head}</b> · {html.escape(experiment)} · {html.escape(status)} <code>{html.escape(run)}</code></div>",
    ]
    lines += _table("metrics", {key: f"{value:.6g}" for key, value in last.items()})
    lines += _table("params", {key: str(value)[:200] for key, value in params.items()})
    return "".join([*lines, "</div>"])


def _table(title: str, values: Mapping[str, str]) -> list[str]:
    if not values:
        return []
    rows = [
        f'<tr><td style="text-align:left">{html.escape(key)}</td><td style="text-align:right"><code>{html.escape(value)}</code></td></tr>'
        for key, value in list(values.items())[:_MOST]
    ]
    more = f"<tr><td colspan=2>and {len(values) - _MOST} more</td></tr>" if len(values) > _MOST else ""
    return [f'<table style="margin-top:6px"><tr><th colspan=2>{title}</th></tr>', *rows, more, "</table>"]
