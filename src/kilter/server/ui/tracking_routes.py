"""The routes of the pages of experiments, runs, comparisons and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from litestar import Request, Response

from kilter.core.errors import NotFound
from kilter.loop.workspace import Workspace
from kilter.server.ui.answers import acts, data, html, said, split
from kilter.server.ui.pages import Pages
from kilter.server.ui.previews import image_type

Asked = Request[Any, Any, Any]
Handler = Callable[[Asked], Response[Any]]

_SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
"""Whatever a file of a run says, it may neither run nor reach anything."""


def table(pages: Pages, workspace: Workspace) -> dict[str, Handler]:
    """Return what the addresses of tracking answer."""
    found, models = pages.tracking, pages.models
    return {
        "/experiments": lambda request: html(found.experiments(_query(request))),
        "/experiments.json": lambda request: data(found.cards(_query(request))),
        "/experiments/{name:str}": lambda request: _experiment(pages, request),
        "/experiments/{name:str}/rows.json": lambda request: data(found.rows(said(request, "name"), _query(request))),
        "/experiments/{name:str}/groups.json": lambda request: data(
            found.groups(said(request, "name"), _query(request))
        ),
        "/experiments/{name:str}/runs/{run:str}": _to_run,
        "/runs/{run:str}": lambda request: _run(pages, request),
        "/runs/{run:str}/row.json": lambda request: data(found.row(said(request, "run"), _query(request))),
        "/runs/{run:str}/pulse": lambda request: data(found.run_pulse(said(request, "run"))),
        "/runs/{run:str}/parts/{part:str}": lambda request: html(
            found.run_part(said(request, "run"), said(request, "part"), _query(request))
        ),
        "/runs/{run:str}/preview": lambda request: html(
            found.table_part(said(request, "run"), str(request.query_params.get("file", "")))
        ),
        "/runs/{run:str}/raw": lambda request: _raw(workspace, request),
        "/compare": lambda request: html(found.compare(_query(request))),
        "/compare.json": lambda request: data(found.compare_data(_query(request))),
        "/compare/curves.json": lambda request: data(found.curves(_query(request))),
        "/compare/importance.json": lambda request: data(found.weights(_query(request))),
        "/compare/changed": lambda request: html(found.changed_part(_query(request))),
        "/compare/changed.json": lambda request: data(found.changed(_query(request))),
        "/models": lambda request: html(models.index(_query(request))),
        "/models.json": lambda request: data(models.models(_query(request))),
        "/models/{name:str}": lambda request: _model(pages, request),
        "/models/{name:str}/{version:str}": lambda request: _version(pages, request),
    }


def _query(request: Asked) -> dict[str, Any]:
    return dict(request.query_params)


def _experiment(pages: Pages, request: Asked) -> Response[Any]:
    name, wants_data = split(said(request, "name"))
    if wants_data:
        return data(pages.tracking.table(name, _query(request)))
    return html(pages.tracking.experiment(name, _query(request), acts=acts(request)))


def _to_run(request: Asked) -> Response[Any]:
    target = f"/runs/{quote(said(request, 'run'), safe='')}"
    return Response(b"", status_code=303, headers={"location": target, "cache-control": "no-store"})


def _run(pages: Pages, request: Asked) -> Response[Any]:
    run, wants_data = split(said(request, "run"))
    if wants_data:
        return data(pages.tracking.run_data(run))
    return html(pages.tracking.run(run, _query(request), acts=acts(request)))


def _raw(workspace: Workspace, request: Asked) -> Response[Any]:
    """Send a file as it is: images to be drawn by our pages, everything else only to be kept."""
    run, name = said(request, "run"), str(request.query_params.get("file", ""))
    if not name:
        raise NotFound("the file has no name", where="file", allowed="?file=plots/roc.png")
    body = workspace.runs.artifact(run, name)
    last = quote(name.rpartition("/")[2], safe="")
    return Response(
        body,
        media_type=image_type(name) or "application/octet-stream",
        headers={
            "content-disposition": f"attachment; filename*=UTF-8''{last}",
            "content-security-policy": _SANDBOX,
            "cache-control": "no-store",
        },
    )


def _model(pages: Pages, request: Asked) -> Response[Any]:
    name, wants_data = split(said(request, "name"))
    return data(pages.models.model_data(name)) if wants_data else html(pages.models.model(name, acts=acts(request)))


def _version(pages: Pages, request: Asked) -> Response[Any]:
    version, wants_data = split(said(request, "version"))
    name = said(request, "name")
    if version == "compare":
        query = _query(request)
        return data(pages.models.compare_data(name, query)) if wants_data else html(pages.models.compare(name, query))
    if wants_data:
        return data(pages.models.version_data(name, version))
    return html(pages.models.version(name, version, acts=acts(request)))
