"""How the routes of the pages answer: HTML, data, and who asked for what."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response

from kilter.server.edge import ROLE

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere."""

_HTML = {"content-security-policy": POLICY, "cache-control": "no-store"}


def html(text: str, status: int = 200) -> Response[Any]:
    """Answer with a page, or with a part of one."""
    return Response(text.encode(), status_code=status, media_type="text/html; charset=utf-8", headers=_HTML)


def data(value: object, status: int = 200) -> Response[Any]:
    """Answer with what a page shows, as JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status_code=status, media_type="application/json", headers={"cache-control": "no-store"})


def acts(request: Request[Any, Any, Any]) -> bool:
    """Return whether whoever asks may change something."""
    return request.scope.get(ROLE) not in {None, "viewer"}


def said(request: Request[Any, Any, Any], parameter: str) -> str:
    """Return a part of the address."""
    return str(request.path_params[parameter])


def split(text: str) -> tuple[str, bool]:
    """Return the name, and whether its data is wanted rather than its page."""
    return (text.removesuffix(".json"), True) if text.endswith(".json") else (text, False)
