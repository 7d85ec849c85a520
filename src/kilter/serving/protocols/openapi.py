"""The typed JSON API as OpenAPI, made from each loaded model's signature: ``GET /openapi.json``.

Rows are described column by column: what a model takes as numbers, which texts it knows, what identifies a row and when it is for.
Source: OpenAPI Specification 3.1.0; its schemas are JSON Schema 2020-12.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from kilter.packaging.records import Signature
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.front.active import Loaded
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake
from kilter.serving.protocols.models import kilter_version
from kilter.serving.protocols.routes import Route

_NUMBER: Final = {"type": ["number", "boolean", "null"]}
_PROBLEM: Final = {
    "type": "object",
    "description": "What went wrong (RFC 9457): the place, what is allowed there, and what to do.",
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail", "where", "allowed", "fix")},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
    },
    "required": ["type", "title", "status", "detail"],
}
_REFUSALS: Final = {
    "400": "The body is not JSON.",
    "401": "The token is missing or wrong.",
    "404": "There is no such endpoint or version.",
    "413": "The body has too many bytes or rows.",
    "415": "The body is not declared as JSON.",
    "422": "A row has a wrong value, or lacks a column.",
    "429": "Too many rows wait at this endpoint.",
    "503": "No model can answer now.",
}
_HEADERS: Final = (
    ("Idempotency-Key", "The same key and body get the same answer, and one record."),
    ("X-Kilter-Key", "Routes all rows of the request together, always to the same version."),
    ("X-Request-Timeout", "After how many milliseconds the answer is of no use."),
)


class OpenApi:
    """The document.

    Args:
        intake: Where the endpoints are.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def routes(self) -> list[Route]:
        """Return its route."""
        return [Route(b"GET", "/openapi.json", self._send)]

    def _send(self, request: Request) -> None:
        request.reply.send(200, msgspec.json.encode(self.document()))

    def document(self) -> dict[str, Any]:
        """Return the document as it is now: a new plan may change it."""
        paths: dict[str, Any] = {}
        schemas: dict[str, Any] = {"Problem": _PROBLEM}
        for name, endpoint in sorted(self._intake.endpoints.items()):
            model = self._intake.loaded(endpoint)
            schemas[f"{name}.Row"] = _row(model)
            schemas[f"{name}.Prediction"] = _prediction(model)
            paths[f"/predict/{name}"] = {"post": _operation(name, endpoint, self._intake.limits.rows)}
        return {
            "openapi": "3.1.0",
            "info": {"title": "Kilter endpoints", "version": kilter_version()},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
            "security": [{"token": []}, {}],
        }


def _operation(name: str, endpoint: Endpoint, most: int) -> dict[str, Any]:
    plan = endpoint.active.plan if endpoint.active is not None else None
    version = f" Version {plan.champion} answers." if plan is not None and plan.champion is not None else ""
    rows = {"type": "array", "minItems": 1, "maxItems": most, "items": {"$ref": f"#/components/schemas/{name}.Row"}}
    predictions = {"type": "array", "items": {"$ref": f"#/components/schemas/{name}.Prediction"}}
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "operationId": f"predict_{name.replace('-', '_')}",
        "summary": f"Predict with {name}.",
        "description": f"Each row is answered by the version that it is routed to.{version}",
        "parameters": [
            {"name": header, "in": "header", "description": text, "schema": {"type": "string", "maxLength": 200}}
            for header, text in _HEADERS
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _object(rows=rows)}}},
        "responses": {
            "200": {
                "description": "One prediction per row, in the order of the rows.",
                "content": {"application/json": {"schema": _object(model={"const": name}, predictions=predictions)}},
            },
            **{status: {"description": text, "content": problem} for status, text in _REFUSALS.items()},
        },
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _row(model: Loaded | None) -> dict[str, Any]:
    """Return the schema of a row; columns that it doesn't name are passed over."""
    if model is None:
        return {"type": "object", "description": "Whatever it holds, the endpoint's constant answers."}
    reader, signature = model.reader, model.reader.signature
    properties: dict[str, Any] = {}
    if reader.key:
        properties[reader.key] = {"type": ["string", "integer"], "description": "Identifies the row."}
    if reader.time:
        properties[reader.time] = {
            "description": "What the prediction is for: RFC 3339, or seconds since 1970.",
            "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}],
        }
    required = list(properties)
    for name in reader.direct:
        codes = reader.categorical.get(name)
        properties[name] = _NUMBER if codes is None else _text(list(codes))
        required.append(name)
    for view in signature.views:
        entity = str(view["entity"])
        properties.setdefault(
            entity, {"type": ["string", "integer", "null"], "description": "Features are looked up by it."}
        )
    return {"type": "object", "properties": properties, "required": list(dict.fromkeys(required))}


def _text(known: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["string", "null"], "description": "Another text counts as missing."}
    return schema | ({"examples": known[:20]} if known else {})


def _prediction(model: Loaded | None) -> dict[str, Any]:
    signature = model.reader.signature if model is not None else None
    said = _outputs(signature)
    common = {
        "id": {"type": "string", "description": "Names the prediction in the log."},
        **said,
        "version": {"type": "integer", "description": "Who answered; 0 is the endpoint's constant."},
        "arm": {"type": "string", "description": "champion, challenger, direct (a named version), or fallback"},
    }
    return {"type": "object", "properties": common, "required": list(common)}


def _outputs(signature: Signature | None) -> dict[str, Any]:
    number: dict[str, Any] = {"type": "number"}
    if signature is None or len(signature.outputs) == 1:
        if signature is not None and signature.label == "binary":
            number |= {"minimum": 0, "maximum": 1, "description": "The probability of the positive class."}
        return {"value": number}
    return {"values": _object(**{name: {"type": "number"} for name in signature.outputs})}
