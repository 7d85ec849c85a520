"""The routes of the endpoints' pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from kilter.core.errors import Forbidden, KilterError
from kilter.server.ui.answers import acts, data, html, said, split
from kilter.server.ui.pages import Pages
from kilter.server.ui.trying import Tried

Asked = Request[Any, Any, Any]
Handler = Callable[[Asked], Response[Any]]


def table(pages: Pages) -> dict[str, Handler]:
    """Return what the endpoints' addresses answer."""
    found = pages.endpoints
    return {
        "/endpoints": lambda _: html(found.index()),
        "/endpoints.json": lambda _: data(found.cards()),
        "/endpoints/{name:str}": lambda request: _endpoint(pages, request),
        "/endpoints/{name:str}/pulse": lambda request: data(found.pulse(said(request, "name"), _span(request))),
        "/endpoints/{name:str}/parts/{part:str}": lambda request: _part(pages, request),
        "/endpoints/{name:str}/requests": lambda request: html(
            found.requests(said(request, "name"), dict(request.query_params))
        ),
        "/endpoints/{name:str}/requests.json": lambda request: data(
            found.requests_data(said(request, "name"), dict(request.query_params))
        ),
        "/endpoints/{name:str}/requests/{id:str}": lambda request: _request(pages, request),
        "/endpoints/{name:str}/experiments/{experiment:str}": lambda request: _experiment(pages, request),
    }


def asking(pages: Pages) -> Sequence[HTTPRouteHandler]:
    """Return the one route that is not read: the form that asks an endpoint."""

    async def answer(request: Asked) -> Response[Any]:
        if not acts(request):
            raise Forbidden("only an editor may ask endpoints from here", where="page", fix="`kilter link` opens it")
        name, body = said(request, "name"), await request.body()
        shown = "text/html" in request.headers.get("accept", "")
        try:
            tried = await asyncio.to_thread(pages.endpoints.tried, name, body)
        except KilterError as error:
            if not shown:
                raise
            fix = f" ({error.fix})" if error.fix else ""
            tried = Tried(problem=f"{error.message}{fix}", allowed=error.allowed)
        # A form shows what is wrong beside its fields: that is an answer to whoever looks, and a refusal to a program.
        if shown:
            return html(pages.endpoints.answer(name, tried))
        return data(tried, 422 if tried.problem else 200)

    return [HTTPRouteHandler("/endpoints/{name:str}/try", http_method="POST", status_code=200)(answer)]


def _endpoint(pages: Pages, request: Asked) -> Response[Any]:
    name, wants_data = split(said(request, "name"))
    if wants_data:
        return data(pages.endpoints.data(name, _span(request)))
    return html(pages.endpoints.page(name, _span(request), acts=acts(request)))


def _part(pages: Pages, request: Asked) -> Response[Any]:
    part, wants_data = split(said(request, "part"))
    name = said(request, "name")
    if wants_data:
        return data(pages.endpoints.part_data(name, part, _span(request)))
    return html(pages.endpoints.part(name, part, _span(request)))


def _request(pages: Pages, request: Asked) -> Response[Any]:
    identity, wants_data = split(said(request, "id"))
    name = said(request, "name")
    if wants_data:
        return data(pages.endpoints.request_data(name, identity))
    return html(pages.endpoints.request(name, identity))


def _experiment(pages: Pages, request: Asked) -> Response[Any]:
    experiment, wants_data = split(said(request, "experiment"))
    name = said(request, "name")
    if wants_data:
        return data(pages.endpoints.experiment_data(name, experiment))
    return html(pages.endpoints.experiment(name, experiment))


def _span(request: Asked) -> str:
    return str(request.query_params.get("span", ""))
