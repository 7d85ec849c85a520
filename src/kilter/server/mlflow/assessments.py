"""Assessments over MLflow's wire: feedback, expectations and issues."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.llm.assessing import SOURCES
from kilter.llm.records import Assessment, AssessmentKind
from kilter.llm.service import TraceService
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.problems import EXISTS, INVALID, MISSING, Refused
from kilter.server.mlflow.protojson import moment, read_moment, whole

_FORMAT = "JSON_FORMAT"
_SOURCE_NUMBERS = {"0": "SOURCE_TYPE_UNSPECIFIED", "1": "HUMAN", "2": "LLM_JUDGE", "3": "CODE"}
_CAPITAL = re.compile(r"(?<!^)([A-Z])")


class Assessments:
    """The calls about assessments.

    Args:
        traces: The room's operations.
    """

    def __init__(self, traces: TraceService) -> None:
        self._traces = traces

    def create(self, fields: Fields, trace: str) -> dict[str, Any]:
        """``POST traces/ID/assessments``."""
        if not fields.has("assessment"):
            raise missing("assessment")
        said = read_assessment(fields.one("assessment"), trace)
        try:
            made = self._traces.assess(trace, said)
        except NotFound as error:
            raise self._missing(trace, error) from None
        except Conflict as error:
            raise Refused(EXISTS, error.message) from None
        except InvalidInput as error:
            raise Refused(INVALID, f"{error.where}: {error.message}") from None
        return {"assessment": shown_assessment(made)}

    def get(self, _fields: Fields, trace: str, assessment: str) -> dict[str, Any]:
        """``GET traces/ID/assessments/ID``."""
        try:
            return {"assessment": shown_assessment(self._traces.assessment(trace, assessment))}
        except NotFound as error:
            raise self._missing(trace, error) from None

    def update(self, fields: Fields, trace: str, assessment: str) -> dict[str, Any]:
        """``PATCH traces/ID/assessments/ID``: what the mask names."""
        if not fields.has("assessment"):
            raise missing("assessment")
        said = fields.one("assessment")
        change: dict[str, Any] = {}
        for name in _mask(fields.given.get("update_mask", fields.given.get("updateMask"))):
            if name == "assessment_name":
                change["name"] = said.text("assessment_name", required=True)
            elif name in {"expectation", "feedback"}:
                found = read_assessment(Fields({**said.given, "assessment_name": "x", "source": {}}), trace)
                change[found.kind] = found.value
                change |= {"error": found.error} if found.kind == "feedback" else {}
            elif name == "rationale":
                change["rationale"] = said.text("rationale")
            elif name == "metadata":
                change["metadata"] = {key: str(value) for key, value in said.one("metadata").given.items()}
            elif name == "valid":
                change["valid"] = said.flag("valid", default=True)
        try:
            return {"assessment": shown_assessment(self._traces.change_assessment(trace, assessment, change))}
        except NotFound as error:
            raise self._missing(trace, error) from None
        except InvalidInput as error:
            raise Refused(INVALID, error.message) from None

    def delete(self, _fields: Fields, trace: str, assessment: str) -> dict[str, Any]:
        """``DELETE traces/ID/assessments/ID``."""
        try:
            self._traces.withdraw_assessment(trace, assessment)
        except NotFound as error:
            raise self._missing(trace, error) from None
        return {}

    @staticmethod
    def _missing(trace: str, error: NotFound) -> Refused:
        known = error.where == "assessments"
        return Refused(MISSING, error.message if known else f"Trace with ID '{trace}' not found.")


def read_assessment(said: Fields, trace: str) -> Assessment:
    """Return an assessment as a request says it.

    Raises:
        Refused: When it is none.
    """
    kinds: list[AssessmentKind] = [
        kind for kind in ("feedback", "expectation", "issue") if said.given.get(kind) is not None
    ]
    if len(kinds) != 1:
        raise Refused(INVALID, "Exactly one of `expectation`, `feedback`, or `issue` should be specified.")
    kind = kinds[0]
    value, error = _value(said.one(kind), kind)
    source = said.one("source")
    told = source.given.get("source_type", source.given.get("sourceType")) or "SOURCE_TYPE_UNSPECIFIED"
    of = _SOURCE_NUMBERS.get(str(told), str(told))
    if of not in SOURCES:
        raise Refused(INVALID, f"Invalid value {of[:60]!r} for parameter 'source_type' supplied.")
    metadata = {key: str(text) for key, text in said.one("metadata").given.items()}
    created, changed = (_moment(said, name) for name in ("create_time", "last_update_time"))
    return Assessment(
        id=said.text("assessment_id"),
        name=said.text("assessment_name", required=True),
        kind=kind,
        value=value,
        source_type=of,
        source=source.text("source_id") or "default",
        trace=trace,
        span=said.text("span_id"),
        rationale=said.optional("rationale"),
        metadata=metadata,
        error=error,
        overrides=said.text("overrides"),
        valid=said.flag("valid", default=True),
        created_ms=created,
        changed_ms=changed,
    )


def shown_assessment(found: Assessment) -> dict[str, Any]:
    """Return an assessment as MLflow shows it."""
    answer: dict[str, Any] = {
        "assessment_id": found.id,
        "assessment_name": found.name,
        "trace_id": found.trace,
        "source": {"source_type": found.source_type, "source_id": found.source},
        "create_time": moment(found.created_ms or 0),
        "last_update_time": moment(found.changed_ms or 0),
        "metadata": found.metadata,
        "valid": found.valid,
    }
    if found.kind == "feedback":
        answer["feedback"] = {"value": found.value, **({"error": found.error} if found.error else {})}
    elif found.kind == "issue":
        answer["issue"] = {"issue_name": found.value if isinstance(found.value, str) else ""}
    elif found.value is None or isinstance(found.value, bool | int | float | str):
        answer["expectation"] = {"value": found.value}
    else:
        text = msgspec.json.encode(found.value).decode()
        answer["expectation"] = {"serialized_value": {"serialization_format": _FORMAT, "value": text}}
    optional = {"span_id": found.span or None, "rationale": found.rationale, "overrides": found.overrides or None}
    return {**answer, **{name: value for name, value in optional.items() if value is not None}}


def _value(said: Fields, kind: str) -> tuple[Any, dict[str, Any] | None]:
    if kind == "issue":
        return said.text("issue_name"), None
    if kind == "expectation" and said.has("serialized_value"):
        within = said.one("serialized_value")
        if within.text("serialization_format") != _FORMAT:
            form = within.text("serialization_format")[:40]
            raise Refused(INVALID, f"Unknown serialization format: {form}. Only JSON_FORMAT is supported.")
        try:
            return msgspec.json.decode(within.text("value")), None
        except (msgspec.MsgspecError, RecursionError):
            raise Refused(INVALID, "Invalid value for parameter 'serialized_value' supplied: it is no JSON.") from None
    error = dict(said.one("error").given) if said.has("error") else None
    return whole(said.given.get("value")), error


def _moment(said: Fields, name: str) -> int | None:
    value = said.given.get(name)
    return None if value is None else read_moment(value, name)


def _mask(value: Any) -> list[str]:
    """Return the fields of a mask, which comes as one text: ``assessmentName,feedback``."""
    if isinstance(value, dict):
        value = ",".join(str(path) for path in value.get("paths", ()))
    if not isinstance(value, str) or not value:
        raise missing("update_mask")
    return [_CAPITAL.sub(r"_\1", path).lower() for path in value.split(",")]
