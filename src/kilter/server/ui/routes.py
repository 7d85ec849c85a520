"""The routes of the pages. They read; what a page asks for goes to the operations, through the same edge as all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from kilter.core.errors import InvalidInput, KilterError, NotFound
from kilter.loop.workspace import Workspace
from kilter.server.ui import endpoint_routes, tracking_routes
from kilter.server.ui.answers import acts, data, html, said, split
from kilter.server.ui.pages import Pages

Asked = Request[Any, Any, Any]
Handler = Callable[[Asked], Response[Any]]

_FOREVER = {"cache-control": "public, max-age=31536000, immutable", "content-security-policy": "default-src 'none'"}


def routes(workspace: Workspace) -> Sequence[HTTPRouteHandler]:
    """Return the routes of a workspace's pages."""
    pages = Pages(workspace)
    table: dict[str, Handler] = {
        "/": lambda request: _home(pages, request),
        "/loops.json": lambda _: data(workspace.loops.list()),
        "/loops/{name:str}": lambda request: _loop(pages, request),
        "/loops/{name:str}/pulse": lambda request: data(pages.pulse(_name(request))),
        "/loops/{name:str}/parts/{part:str}": lambda request: _part(pages, request),
        "/loops/{name:str}/release": lambda request: html(pages.release(_name(request), acts=acts(request))),
        "/loops/{name:str}/timeline/{before:str}": lambda request: _older(pages, request),
        "/loops/{name:str}/drift/{feature:str}/{day:str}": lambda request: _histogram(pages, request),
        "/loops/{name:str}/versions/{version:str}": lambda request: _version(pages, request),
        **endpoint_routes.table(pages),
        **tracking_routes.table(pages, workspace),
        "/static/{digest:str}/{path:path}": lambda request: _asset(pages, request),
    }
    return [*(_route(path, handler, pages) for path, handler in table.items()), *endpoint_routes.asking(pages)]


def _route(path: str, handler: Handler, pages: Pages) -> HTTPRouteHandler:
    def answer(request: Asked) -> Response[Any]:
        try:
            return handler(request)
        except KilterError as error:
            if "text/html" in request.headers.get("accept", ""):
                return html(pages.error(error), error.status)
            raise

    return HTTPRouteHandler(path, http_method="GET", status_code=200, sync_to_thread=True)(answer)


def _home(pages: Pages, request: Asked) -> Response[Any]:
    names = pages.reader.workspace.loops.ledger.names()
    if len(names) == 1 and "all" not in request.query_params:
        return Response(b"", status_code=303, headers={"location": f"/loops/{names[0]}", "cache-control": "no-store"})
    return html(pages.index())


def _loop(pages: Pages, request: Asked) -> Response[Any]:
    name, wants_data = split(_name(request))
    return data(pages.loop_data(name)) if wants_data else html(pages.loop(name, acts=acts(request)))


def _part(pages: Pages, request: Asked) -> Response[Any]:
    part, wants_data = split(said(request, "part"))
    name = _name(request)
    return data(pages.part_data(name, part)) if wants_data else html(pages.part(name, part, acts=acts(request)))


def _older(pages: Pages, request: Asked) -> Response[Any]:
    place, wants_data = split(said(request, "before"))
    if not place.isdecimal() or len(place) > 17:
        raise InvalidInput("not a place in the journal", where="before", allowed="a whole number")
    name, before = _name(request), int(place)
    return data(pages.older_data(name, before)) if wants_data else html(pages.older(name, before))


def _histogram(pages: Pages, request: Asked) -> Response[Any]:
    day, wants_data = split(said(request, "day"))
    name, feature = _name(request), said(request, "feature")
    if wants_data:
        return data(pages.histogram_data(name, feature, day))
    return html(pages.histogram(name, feature, day))


def _version(pages: Pages, request: Asked) -> Response[Any]:
    version, wants_data = split(said(request, "version"))
    name = _name(request)
    return data(pages.version_data(name, version)) if wants_data else html(pages.version(name, version))


def _asset(pages: Pages, request: Asked) -> Response[Any]:
    if said(request, "digest") != pages.assets.digest:
        raise NotFound("this file belongs to another version of the pages", where="static", fix="load the page again")
    found = pages.assets.get(said(request, "path").lstrip("/"))
    return Response(found.body, media_type=found.media, headers=_FOREVER)


def _name(request: Asked) -> str:
    return said(request, "name")
