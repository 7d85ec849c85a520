"""The OpenAPI 3.1 document, made from the table of operations."""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from kilter.operations.arguments import describe_type
from kilter.operations.table import Operation, Registry

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem details; never an echo of what was sent",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "kilter:<code>, the code of the error's class"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "where": {"type": "string"},
        "allowed": {"type": "string"},
        "fix": {"type": "string"},
        "retryable": {"type": "boolean"},
        "request": {"type": "string", "description": "the request's id, as in the server's log"},
    },
}


def openapi(registry: Registry, *, version: str, url: str = "/") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all operations.

    Args:
        registry: The operations.
        version: The version of the API, shown to readers.
        url: Where the server is.
    """
    operations = list(registry)
    kinds = [kind for found in operations for kind in (found.request, found.result)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    paths: dict[str, Any] = {}
    for position, found in enumerate(operations):
        request, result = schemas[2 * position], schemas[2 * position + 1]
        paths[found.path] = _path(found, request, result)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Kilter", "version": version},
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "tags": [{"name": noun} for noun in dict.fromkeys(found.noun for found in operations)],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _path(found: Operation, request: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    common = {
        "tags": [found.noun],
        "summary": found.summary,
        "description": found.doc,
        "x-kilter-role": found.role,
        "responses": {
            "200": {"description": "the result", "content": {"application/json": {"schema": result}}},
            "default": {
                "description": "an error",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    body = {"content": {"application/json": {"schema": request}}, "required": _needs_body(found)}
    post: dict[str, Any] = {**common, "operationId": found.name, "requestBody": body}
    if found.writes:
        post["parameters"] = [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 200},
                "description": "a write that is sent again with the same key is done once and answered alike",
            }
        ]
    if not found.plain:
        return {"post": post}
    return {"get": {**common, "operationId": f"{found.name}.get", "parameters": _query(found)}, "post": post}


def _needs_body(found: Operation) -> bool:
    return any(field.required for field in msgspec.structs.fields(found.request))


def _query(found: Operation) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(found.request, include_extras=True)
    return [
        {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "description": describe_type(hints[field.name]),
            "schema": {"type": "string"},
        }
        for field in msgspec.structs.fields(found.request)
    ]
