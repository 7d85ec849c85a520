"""Long-running operations: each is a line of the registry's history, so it was done when it could first be asked for."""

from __future__ import annotations

from typing import Any

from kilter.registry.records import Change
from kilter.server.google.names import Place
from kilter.server.google.words import time_of

_TYPES = "type.googleapis.com/google.cloud.aiplatform.v1"


def done(place: Place, change: Change) -> dict[str, Any] | None:
    """Return the operation that a change was, or None when none began with it."""
    if change.what == "version":
        return done_of(place, change, change.version or 0 if change.after is not None else 0)
    whole = change.what == "model" and not change.field and change.after is None and change.before is not None
    return done_of(place, change, 0) if whole else None


def done_of(place: Place, change: Change, uploaded: int) -> dict[str, Any]:
    """Return an operation that is done: the upload of a version, or, where that is 0, a deletion."""
    at = time_of(change.at)
    kind = "UploadModelOperationMetadata" if uploaded else "DeleteOperationMetadata"
    response: dict[str, Any] = {"@type": "type.googleapis.com/google.protobuf.Empty"}
    if uploaded:
        response = {
            "@type": f"{_TYPES}.UploadModelResponse",
            "model": place.model(change.model),
            "modelVersionId": str(uploaded),
        }
    return {
        "name": place.operation(change.model, change.id),
        "metadata": {"@type": f"{_TYPES}.{kind}", "genericMetadata": {"createTime": at, "updateTime": at}},
        "done": True,
        "response": response,
    }
