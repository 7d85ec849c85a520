"""Traces over MLflow's wire, version 3."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, cast

import msgspec

from kilter.core.errors import Conflict, InvalidInput, NotFound
from kilter.llm.conventions import decoded
from kilter.llm.gathering import NAME
from kilter.llm.records import Aggregation, State, Trace, TraceInfo, TracePage, View
from kilter.llm.service import MOST_LISTED, TraceService
from kilter.llm.writing import COST, SESSION, TOKEN_USAGE
from kilter.server.mlflow.assessments import read_assessment, shown_assessment
from kilter.server.mlflow.experiments import Experiments
from kilter.server.mlflow.fields import Fields, missing
from kilter.server.mlflow.limits import check_key
from kilter.server.mlflow.problems import INVALID, MISSING, Refused
from kilter.server.mlflow.protojson import duration, moment, read_duration, read_moment, span_of

T = TypeVar("T")

LOCATION = "mlflow.artifactLocation"
SPANS = "mlflow.trace.spansLocation"
_IMMUTABLE = frozenset({SPANS, "mlflow.trace.archiveLocation", "mlflow.trace.archivalFailure"})
_SIZES = "mlflow.trace.sizeStats"
_STATES = {"STATE_UNSPECIFIED", "OK", "ERROR", "IN_PROGRESS"}
_VIEWS = {"1": "TRACES", "2": "SPANS", "3": "ASSESSMENTS"}
_AGGREGATIONS = {"1": "COUNT", "2": "SUM", "3": "AVG", "4": "PERCENTILE", "5": "MIN", "6": "MAX"}
_PAUSES = (0.1, 0.3, 0.6, 1.0)
_MOST_WAITING = 2


class Traces:
    """The calls about traces.

    Args:
        traces: The room's operations.
        experiments: The calls about experiments.
    """

    def __init__(self, traces: TraceService, experiments: Experiments) -> None:
        self._traces = traces
        self._experiments = experiments
        self._waiting = threading.Semaphore(_MOST_WAITING)

    def start(self, fields: Fields) -> dict[str, Any]:
        """``POST traces``: what the client says of a trace as a whole, mostly after its end."""
        if not fields.has("trace"):
            raise missing("trace")
        info = _read_info(fields.one("trace").one("trace_info"), self._experiments)
        try:
            return {"trace": {"trace_info": shown(self._traces.put(info))}}
        except Conflict as error:
            raise Refused(INVALID, str(error)) from None

    def info(self, _fields: Fields, trace: str) -> dict[str, Any]:
        """``GET traces/ID``."""
        return {"trace": {"trace_info": shown(self._known(trace, lambda: self._traces.info(trace)))}}

    def get(self, fields: Fields) -> dict[str, Any]:
        """``GET traces/get``: with its spans; unless a part is enough, only when all of them are here."""
        trace = fields.text("trace_id", required=True)
        found = self._whole(trace) if not fields.flag("allow_partial") else self._read(trace)
        return {"trace": _with_spans(found)}

    def batch(self, fields: Fields) -> dict[str, Any]:
        """``GET traces/batchGet``."""
        asked, among = _asked(fields)
        return {"traces": [_with_spans(found) for found in self._traces.batch(asked, among)]}

    def infos(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/batchGetInfos``."""
        asked, among = _asked(fields)
        return {"trace_infos": [shown(info) for info in self._traces.infos(asked, among)]}

    def search(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/search``."""
        if not fields.has("locations"):
            raise missing("locations")
        asked = [one.one("mlflow_experiment").text("experiment_id") for one in fields.items("locations")]
        page = listed(self._traces, fields, asked)
        answer: dict[str, Any] = {"traces": [shown(info) for info in page.traces]}
        return answer if page.cursor is None else {**answer, "next_page_token": page.cursor}

    def delete(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/delete-traces``."""
        experiment = fields.text("experiment_id", required=True)
        before = fields.integer("max_timestamp_millis") if fields.has("max_timestamp_millis") else None
        most = fields.integer("max_traces") if fields.has("max_traces") else None
        named = fields.texts("request_ids") or fields.texts("trace_ids")
        chosen = numbers([experiment])
        count = searched(lambda: self._traces.delete(chosen[0] if chosen else -1, named, before, most))
        return {"traces_deleted": count}

    def set_tag(self, fields: Fields, trace: str) -> dict[str, Any]:
        """``PATCH traces/ID/tags``."""
        key = fields.text("key", required=True)
        check_key(key, "key", "key")
        _refuse_own(key, "set")
        self._known(trace, lambda: self._traces.tag(trace, {key: fields.text("value")}))
        return {}

    def delete_tag(self, fields: Fields, trace: str) -> dict[str, Any]:
        """``DELETE traces/ID/tags``."""
        key = fields.text("key", required=True)
        _refuse_own(key, "deleted")
        self._known(trace, lambda: self._traces.info(trace))
        try:
            self._traces.untag(trace, key)
        except NotFound:
            raise Refused(MISSING, f"No trace tag with key '{key}' for trace with ID '{trace}'") from None
        return {}

    def link_run(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/link-to-run``."""
        named, run = fields.texts("trace_ids"), fields.text("run_id", required=True)
        if not named:
            raise missing("trace_ids")
        try:
            searched(lambda: self._traces.link_run(run, named))
        except NotFound:
            raise Refused(MISSING, f"Run with id={run} not found") from None
        return {}

    def link_prompts(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/link-prompts``."""
        trace = fields.text("trace_id", required=True)
        named = [
            (one.text("name", required=True), one.text("version", required=True))
            for one in fields.items("prompt_versions")
        ]
        if not named:
            raise missing("prompt_versions")
        self._known(trace, lambda: self._traces.link_prompts(trace, named))
        return {}

    def metrics(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/metrics``."""
        among = _experiments(fields)
        view = _named(fields, "view_type", _VIEWS)
        metric = fields.text("metric_name", required=True)
        aggregations = [
            Aggregation(
                type=cast("Any", _named(one, "aggregation_type", _AGGREGATIONS)),
                percentile=one.number("percentile_value") if one.has("percentile_value") else None,
            )
            for one in fields.items("aggregations")
        ]
        if not aggregations:
            raise missing("aggregations")

        def optional(name: str) -> int | None:
            return fields.integer(name) if fields.has(name) else None

        interval, start, end = (optional(name) for name in ("time_interval_seconds", "start_time_ms", "end_time_ms"))
        if interval and (start is None or end is None):
            raise Refused(INVALID, "start_time_ms and end_time_ms are required if time_interval_seconds is set")
        found = searched(
            lambda: self._traces.measure(
                among,
                cast("View", view),
                metric,
                aggregations,
                fields.texts("dimensions"),
                fields.texts("filters"),
                interval or None,
                start,
                end,
                min(fields.integer("max_results", 1000, least=1), 1000),
            )
        )
        points = [{"metric_name": metric, "dimensions": one.dimensions, "values": one.values} for one in found]
        return {"data_points": points}

    def correlation(self, fields: Fields) -> dict[str, Any]:
        """``POST traces/calculate-filter-correlation``."""
        among = _experiments(fields)
        first, second = (fields.text(name, required=True) for name in ("filter_string1", "filter_string2"))
        found = searched(lambda: self._traces.correlate(among, first, second, fields.text("base_filter")))
        return {
            "npmi": "NaN" if found.npmi is None else found.npmi,
            "npmi_smoothed": "NaN" if found.smoothed is None else found.smoothed,
            "filter1_count": found.first,
            "filter2_count": found.second,
            "joint_count": found.joint,
            "total_count": found.total,
        }

    # ------------------------------------------------------------ within

    def _read(self, trace: str) -> Trace:
        try:
            return self._traces.get(trace)
        except NotFound:
            raise Refused(MISSING, f"Trace with ID {trace} is not found.") from None

    def _whole(self, trace: str) -> Trace:
        """Return a trace once all its spans are here; a client's own spans may still be on their way."""
        found = self._read(trace)
        if _is_whole(found):
            return found
        if self._waiting.acquire(blocking=False):  # those that wait never take all threads
            try:
                for pause in _PAUSES:
                    time.sleep(pause)
                    found = self._read(trace)
                    if _is_whole(found):
                        return found
            finally:
                self._waiting.release()
        raise Refused(MISSING, f"Trace with ID {trace} is not fully exported yet, please try again later.")

    @staticmethod
    def _known(trace: str, act: Callable[[], T]) -> T:
        try:
            return act()
        except NotFound:
            raise Refused(MISSING, f"Trace with ID '{trace}' not found.") from None


def searched(act: Callable[[], T]) -> T:
    """Run what can refuse its filter; the refusal's own words are shown, as MLflow's are."""
    try:
        return act()
    except InvalidInput as error:
        raise Refused(INVALID, error.message) from None


def listed(traces: TraceService, fields: Fields, experiments: Sequence[str]) -> TracePage:
    """Return the page of traces that a search asks for.

    Args:
        traces: The room's operations.
        fields: The call's fields.
        experiments: Whose traces, as the call names them.
    """
    limit = fields.integer("max_results", 100, least=1)
    if limit > MOST_LISTED:
        raise Refused(
            INVALID,
            f"Invalid value {limit} for parameter 'max_results' supplied. It must be at most {MOST_LISTED}, but got value {limit}",
        )
    return searched(
        lambda: traces.list(
            filter=fields.text("filter"),
            order=fields.texts("order_by"),
            limit=limit,
            cursor=fields.text("page_token") or None,
            among=numbers(experiments),
        )
    )


def shown(info: TraceInfo) -> dict[str, Any]:
    """Return a trace as MLflow shows it."""
    tags = {**info.tags, LOCATION: f"mlflow-artifacts:/{info.experiment}/traces/{info.id}/artifacts"}
    if info.name is not None:
        tags[NAME] = info.name
    if info.spans:
        tags[SPANS] = "TRACKING_STORE"
    metadata = dict(info.metadata)
    if info.session is not None:
        metadata[SESSION] = info.session
    if info.usage:
        metadata[TOKEN_USAGE] = msgspec.json.encode(info.usage).decode()
    if info.cost:
        metadata[COST] = msgspec.json.encode(info.cost).decode()
    found: dict[str, Any] = {
        "trace_id": info.id,
        "trace_location": {
            "type": "MLFLOW_EXPERIMENT",
            "mlflow_experiment": {"experiment_id": str(info.experiment)},
        },
        "request_time": moment(info.request_ms),
        "state": info.state,
        "trace_metadata": metadata,
        "tags": tags,
        "assessments": [shown_assessment(one) for one in info.assessments],
    }
    optional = {
        "client_request_id": info.client_id,
        "request_preview": info.request,
        "response_preview": info.response,
        "execution_duration": None if info.duration_ms is None else duration(info.duration_ms),
    }
    return {**found, **{name: value for name, value in optional.items() if value is not None}}


def numbers(texts: Sequence[str]) -> list[int]:
    """Return the experiments that texts name by their numbers; what is no number names none."""
    return [int(text) for text in texts if text.isdecimal() and len(text) < 19]


def _with_spans(found: Trace) -> dict[str, Any]:
    return {"trace_info": shown(found.info), "spans": [span_of(span) for span in found.spans]}


def _is_whole(found: Trace) -> bool:
    stats = decoded(found.info.metadata.get(_SIZES))
    expected = stats.get("num_spans", 0) if isinstance(stats, dict) else 0
    return bool(found.spans) and (not isinstance(expected, int) or len(found.spans) >= expected)


def _read_info(said: Fields, experiments: Experiments) -> TraceInfo:
    trace = said.text("trace_id", required=True, path="trace_info.trace_id")
    experiment = said.one("trace_location").one("mlflow_experiment").text("experiment_id", required=True)
    state = said.text("state") or "STATE_UNSPECIFIED"
    if state not in _STATES:
        raise Refused(INVALID, f"Invalid value {state[:60]!r} for parameter 'state' supplied.")
    length = said.given.get("execution_duration", said.given.get("executionDuration"))
    tags = {key: value for key, value in _texts(said, "tags").items() if key not in _IMMUTABLE | {LOCATION}}
    return TraceInfo(
        id=trace,
        experiment=experiments.active(experiment).number,
        request_ms=read_moment(said.given.get("request_time", said.given.get("requestTime")), "request_time"),
        duration_ms=None if length is None else read_duration(length, "execution_duration"),
        state=cast("State", state),
        client_id=said.optional("client_request_id"),
        request=said.optional("request_preview"),
        response=said.optional("response_preview"),
        tags=tags,
        metadata=_texts(said, "trace_metadata"),
        assessments=tuple(read_assessment(one, trace) for one in said.items("assessments")),
    )


def _texts(said: Fields, name: str) -> dict[str, str]:
    found = said.one(name).given
    for value in found.values():
        if not isinstance(value, str):
            raise Refused(
                INVALID, f"Invalid value {str(value)[:60]} for parameter '{name}' supplied: texts are expected."
            )
    return dict(found)


def _asked(fields: Fields) -> tuple[list[str], list[int] | None]:
    asked = fields.texts("trace_ids")
    if not asked:
        raise missing("trace_ids")
    return asked, numbers(fields.texts("experiment_ids")) if "experiment_ids" in fields.given else None


def _experiments(fields: Fields) -> list[int]:
    asked = fields.texts("experiment_ids")
    if not asked:
        raise missing("experiment_ids")
    return numbers(asked)


def _named(fields: Fields, name: str, words: dict[str, str]) -> str:
    """Return a word of an enumeration, which may come as its number."""
    said = str(fields.integer(name)) if fields.whole(name) else fields.text(name, required=True)
    word = words.get(said, said)
    if word not in words.values():
        raise Refused(INVALID, f"Invalid value {said[:60]!r} for parameter '{name}' supplied.")
    return word


def _refuse_own(key: str, done: Literal["set", "deleted"]) -> None:
    if key in _IMMUTABLE:
        raise Refused(INVALID, f"Tag '{key}' is immutable and cannot be {done} on a trace.")
