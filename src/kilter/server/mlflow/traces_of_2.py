"""Traces as clients before MLflow 3 begin, end, get and search them."""

from __future__ import annotations

import secrets
from typing import Any, cast

from kilter.core.errors import NotFound
from kilter.llm.records import State, TraceInfo
from kilter.llm.service import TraceService
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.traces import LOCATION, SPANS, listed, shown

_STATES = {"TRACE_STATUS_UNSPECIFIED": "STATE_UNSPECIFIED", "OK": "OK", "ERROR": "ERROR", "IN_PROGRESS": "IN_PROGRESS"}
_STATES |= {str(place): state for place, state in enumerate(tuple(_STATES.values()))}
_STATUS = {"STATE_UNSPECIFIED": "TRACE_STATUS_UNSPECIFIED"}
_OWN = frozenset({LOCATION, SPANS})


class TracesOf2:
    """The calls about traces of version 2 of the wire.

    Args:
        traces: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, traces: TraceService, experiments: Experiments) -> None:
        self._traces = traces
        self._experiments = experiments

    def start(self, fields: Fields) -> dict[str, Any]:
        """``POST traces``: a trace begins, and the server says what it is called."""
        made = self._traces.put(
            TraceInfo(
                id=f"tr-{secrets.token_hex(16)}",
                experiment=self._experiments.active(fields.text("experiment_id", required=True)).number,
                request_ms=fields.integer("timestamp_ms"),
                metadata=_pairs(fields, "request_metadata"),
                tags=_pairs(fields, "tags"),
            )
        )
        return {"trace_info": _shown(made)}

    def end(self, fields: Fields, trace: str) -> dict[str, Any]:
        """``PATCH traces/ID``: it has ended; what is said of it comes to what was said before."""
        before = self._info(trace)
        said = str(fields.integer("status")) if fields.whole("status") else fields.text("status", required=True)
        if said not in _STATES:
            raise Refused(INVALID, f"Invalid value {said[:60]} for parameter 'status' supplied.")
        end = fields.integer("timestamp_ms", required=True)
        if end < before.request_ms:
            raise Refused(INVALID, f"Invalid value {end} for parameter 'timestamp_ms' supplied: the trace began later.")
        after = self._traces.put(
            TraceInfo(
                id=trace,
                experiment=before.experiment,
                request_ms=before.request_ms,
                duration_ms=end - before.request_ms,
                state=cast("State", _STATES[said]),
                client_id=before.client_id,
                metadata=_pairs(fields, "request_metadata"),
                tags=_pairs(fields, "tags"),
            )
        )
        return {"trace_info": _shown(after)}

    def info(self, _fields: Fields, trace: str) -> dict[str, Any]:
        """``GET traces/ID/info``."""
        return {"trace_info": _shown(self._info(trace))}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``GET traces``."""
        asked = fields.texts("experiment_ids")
        if not asked:
            raise missing("experiment_ids")
        page = listed(self._traces, fields, asked)
        answer: dict[str, Any] = {"traces": [_shown(info) for info in page.traces]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def _info(self, trace: str) -> TraceInfo:
        try:
            return self._traces.info(trace)
        except NotFound:
            raise Refused(MISSING, f"Trace with ID '{trace}' not found.") from None


def _shown(info: TraceInfo) -> dict[str, Any]:
    of_3 = shown(info)
    return {
        "request_id": info.id,
        "experiment_id": str(info.experiment),
        "timestamp_ms": info.request_ms,
        "execution_time_ms": info.duration_ms or 0,
        "status": _STATUS.get(info.state, info.state),
        "request_metadata": [{"key": key, "value": value} for key, value in of_3["trace_metadata"].items()],
        "tags": [{"key": key, "value": value} for key, value in of_3["tags"].items()],
    }


def _pairs(fields: Fields, name: str) -> dict[str, str]:
    found = {one.text("key", required=True): one.text("value") for one in fields.items(name)}
    return {key: value for key, value in found.items() if key not in _OWN}
