"""MLflow's own client and OpenTelemetry's own exporter, unmodified, against a running server: what they traced comes back."""

from __future__ import annotations

import asyncio
import base64
import gc
import gzip
import http.client
import json
import math
import os
import secrets
import subprocess
import sys
import time
from types import ModuleType
from typing import Any

import pytest

from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:mlflow.*"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def mlflow() -> ModuleType:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    return pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("traces") / "store"
    with RunningServer(store, KILTER_VIEWER_TOKEN="viewer-of-the-test") as running:
        yield running.url, running.token
        gc.collect()  # the client's kept connections, while their warnings are still passed over


@pytest.fixture
def client(mlflow, server):
    mlflow.set_tracking_uri(server[0])
    return mlflow.MlflowClient(server[0])


@pytest.fixture
def experiment(mlflow, client, request) -> str:
    number = str(client.create_experiment(f"{request.node.name}-{secrets.token_hex(4)}"))
    mlflow.set_experiment(experiment_id=number)
    return number


@pytest.fixture
def kilter(server):
    connected = connect(server[0], server[1])
    yield connected
    connected.close()


def post(url: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def code_of(mlflow: ModuleType, act: Any) -> tuple[str, str]:
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        act()
    return caught.value.error_code, str(caught.value)


# ---------------------------------------------------------------- MLflow's client


def test_traced_functions_come_back_with_their_spans(mlflow, client, experiment, kilter):
    @mlflow.trace(span_type="TOOL", attributes={"k": "v"})
    def look_up(word: str) -> dict[str, Any]:
        return {"found": word.upper(), "scores": [1, 2.5, None, True]}

    @mlflow.trace
    def answer(question: str) -> str:
        with mlflow.start_span("think", span_type="LLM") as span:
            span.set_inputs({"messages": [{"role": "user", "content": question}]})
            span.set_attributes({"mlflow.chat.tokenUsage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}})
            span.add_event(mlflow.entities.SpanEvent("step", attributes={"n": 1}))
            span.set_outputs(look_up(question))
        mlflow.update_current_trace(
            tags={"env": "prod"}, metadata={"mlflow.trace.session": "s1", "mlflow.trace.user": "ann"}
        )
        return "größer <b>"

    assert answer("why?") == "größer <b>"
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
    info = trace.info
    assert (info.state, info.experiment_id, info.tags["mlflow.traceName"], info.tags["env"]) == (
        "OK",
        experiment,
        "answer",
        "prod",
    )
    assert info.token_usage == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    assert info.trace_metadata["mlflow.trace.session"] == "s1"
    assert info.request_preview == '{"question": "why?"}'
    assert info.execution_duration is not None
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"answer", "think", "look_up"}
    assert spans["answer"].parent_id is None
    assert (spans["think"].parent_id, spans["look_up"].parent_id) == (spans["answer"].span_id, spans["think"].span_id)
    assert (spans["look_up"].span_type, spans["think"].span_type) == ("TOOL", "LLM")
    assert spans["look_up"].outputs == {"found": "WHY?", "scores": [1, 2.5, None, True]}
    assert spans["look_up"].get_attribute("k") == "v"
    assert spans["answer"].outputs == "größer <b>"
    assert [(event.name, event.attributes) for event in spans["think"].events] == [("step", {"n": 1})]
    # the same trace, by our own operations
    own = kilter.traces.get(info.trace_id)
    assert (own.info.name, own.info.spans, own.info.usage["total_tokens"]) == ("answer", 3, 7)
    assert own.spans[0].attributes["mlflow.spanInputs"] == {"question": "why?"}
    # and as the file that older clients read
    data = trace.data
    read = client._tracing_client._download_trace_data(info)
    assert sorted(span.name for span in read.spans) == sorted(span.name for span in data.spans)


def test_an_exception_ends_a_trace_as_an_error(mlflow, experiment):
    @mlflow.trace
    def fails() -> None:
        raise ValueError("no <way>")

    with pytest.raises(ValueError, match="no <way>"):
        fails()
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
    assert trace.info.state == "ERROR"
    span = trace.data.spans[0]
    assert (span.status.status_code, "no <way>" in span.status.description) == ("ERROR", True)
    assert span.events[0].name == "exception"


def test_async_functions_and_generators_are_traced(mlflow, experiment):
    @mlflow.trace
    async def child(n: int) -> int:
        await asyncio.sleep(0.001)
        return n * n

    @mlflow.trace
    async def parent() -> list[int]:
        return list(await asyncio.gather(*(child(n) for n in range(5))))

    assert asyncio.run(parent()) == [0, 1, 4, 9, 16]
    trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
    assert sorted(span.outputs for span in trace.data.spans if span.parent_id) == [0, 1, 4, 9, 16]


def test_a_client_that_logs_beside_its_work_is_read_back(mlflow, experiment, kilter):
    """The client's default: spans and traces leave on threads of their own, in any order."""
    mlflow.config.enable_async_logging(True)
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "true"
    mlflow.tracing.reset()
    try:

        @mlflow.trace
        def work(n: int) -> int:
            with mlflow.start_span("inner") as span:
                span.set_outputs(n)
            return n

        for n in range(20):
            work(n)
        mlflow.flush_trace_async_logging()
    finally:
        os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
        mlflow.config.enable_async_logging(False)
        mlflow.tracing.reset()
    found = mlflow.search_traces(locations=[experiment], return_type="list")
    assert len(found) == 20
    assert {len(trace.data.spans) for trace in found} == {2}
    assert {one.spans for one in kilter.traces.list(among=[int(experiment)]).traces} == {2}


def test_searches_speak_mlflows_grammar(mlflow, client, experiment):
    made = {}
    run = client.create_run(experiment).info.run_id
    for place, name in enumerate(("alpha", "beta", "gamma")):
        with mlflow.start_span(name) as root:
            root.set_inputs({"n": place})
            with mlflow.start_span(f"{name}-model", span_type="LLM", attributes={"model": f"gpt-{place}"}) as span:
                span.set_outputs(f"answer {place}")
            mlflow.update_current_trace(tags={"place": str(place)}, metadata={"m.x": name})
            if place == 2:
                root.set_status("ERROR")
        made[name] = root.trace_id
    client.link_traces_to_run([made["alpha"]], run)
    mlflow.log_feedback(trace_id=made["beta"], name="correct", value="yes")
    mlflow.log_feedback(trace_id=made["gamma"], name="score", value=0.25)
    mlflow.log_expectation(trace_id=made["gamma"], name="wanted", value={"a": [1]})

    def found(text: str, **more: Any) -> list[str]:
        names = {trace: name for name, trace in made.items()}
        traces = mlflow.search_traces(locations=[experiment], filter_string=text, return_type="list", **more)
        return [names[trace.info.trace_id] for trace in traces]

    assert found("", order_by=["timestamp_ms ASC"]) == ["alpha", "beta", "gamma"]
    assert found("") == ["gamma", "beta", "alpha"]
    for text, expected in {
        "status = 'ERROR'": ["gamma"],
        "trace.status != 'ERROR'": ["beta", "alpha"],
        "status IN ('OK', 'ERROR')": ["gamma", "beta", "alpha"],
        "name = 'alpha'": ["alpha"],
        "name LIKE '%a%' AND tags.place = '1'": ["beta"],
        "tag.place != '1'": ["gamma", "alpha"],
        "tags.`place` RLIKE '^[01]$'": ["beta", "alpha"],
        "tags.place IS NULL": [],
        "tags.nothing IS NULL": ["gamma", "beta", "alpha"],
        "metadata.m.x = 'gamma'": ["gamma"],
        "request_metadata.`m.x` ILIKE 'GAM%'": ["gamma"],
        "span.name = 'beta-model'": ["beta"],
        "span.type = 'LLM' AND span.name LIKE 'alpha%'": ["alpha"],
        "span.type = 'LLM' AND span.name = 'alpha'": [],
        "span.attributes.model = 'gpt-1'": ["beta"],
        "span.attributes.model LIKE 'gpt-%' AND status = 'OK'": ["beta", "alpha"],
        "span.status = 'ERROR'": ["gamma"],
        "trace.text LIKE '%answer 1%'": ["beta"],
        f"run_id = '{run}'": ["alpha"],
        "feedback.correct = 'yes'": ["beta"],
        "feedback.score < 0.5": ["gamma"],
        "feedback.score >= 0.5": [],
        "feedback.score IS NOT NULL": ["gamma"],
        "feedback.score IS NULL": ["beta", "alpha"],
        "expectation.wanted LIKE '%a%'": ["gamma"],
        "timestamp_ms > 0 AND execution_time_ms >= 0": ["gamma", "beta", "alpha"],
        "timestamp_ms > 99999999999999": [],
        f"request_id = '{made['beta']}'": ["beta"],
    }.items():
        assert found(text) == expected, text
    assert found("", order_by=["tags.place DESC"]) == ["gamma", "beta", "alpha"]
    assert found("", order_by=["status ASC", "timestamp_ms ASC"]) == ["gamma", "alpha", "beta"]
    pages, token = [], None
    while True:
        page = client.search_traces(locations=[experiment], max_results=2, page_token=token)
        pages.append(len(page))
        token = page.token
        if not token:
            break
    assert pages == [2, 1]
    for text, word in {
        "nonsense": "Invalid clause",
        "foo = 'x'": "Invalid attribute key 'foo'",
        "foo.bar = 'x'": "Invalid entity type 'foo'",
        "status = OK": "quoted",
        "span.size = 'x'": "Invalid span attribute 'size'",
        "feedback.score > 'a'": "numeric value",
        "tags.place RLIKE '(a)\\1'": "no pattern",
        "tags.place RLIKE '(?=a)'": "no pattern",
        "tags.place RLIKE '['": "no pattern",
        "prompt = 'x'": "Expected format",
    }.items():
        code, message = code_of(mlflow, lambda text=text: client.search_traces([experiment], filter_string=text))
        assert (code, word in message) == ("INVALID_PARAMETER_VALUE", True), message


def test_assessments_are_made_changed_overridden_and_taken_back(mlflow, client, experiment):
    with mlflow.start_span("judged") as span:
        span.set_outputs(1)
    trace, source = span.trace_id, mlflow.entities.AssessmentSource("HUMAN", "ann")
    first = mlflow.log_feedback(
        trace_id=trace, name="good", value=True, source=source, rationale="because", metadata={"a": "b"}
    )
    assert first.assessment_id.startswith("a-")
    assert (first.value, first.source.source_id, first.rationale, first.metadata) == (
        True,
        "ann",
        "because",
        {"a": "b"},
    )
    assert mlflow.get_assessment(trace, first.assessment_id).value is True
    changed = mlflow.update_assessment(
        trace, first.assessment_id, mlflow.entities.Feedback("good", value=False, rationale="no", metadata={"c": "d"})
    )
    assert (changed.value, changed.rationale, changed.metadata) == (False, "no", {"a": "b", "c": "d"})
    second = mlflow.override_feedback(trace_id=trace, assessment_id=first.assessment_id, value=3, rationale="sure")
    info = client.get_trace(trace).info
    assert {one.assessment_id: (one.value, one.valid) for one in info.assessments} == {
        first.assessment_id: (False, False),
        second.assessment_id: (3, True),
    }
    wanted = mlflow.log_expectation(trace_id=trace, name="facts", value=["x", {"y": 1}], span_id=span.span_id)
    assert mlflow.get_assessment(trace, wanted.assessment_id).value == ["x", {"y": 1}]
    failed = mlflow.log_feedback(
        trace_id=trace, name="judge", error=mlflow.entities.AssessmentError("RATE_LIMIT", "slow down")
    )
    assert mlflow.get_assessment(trace, failed.assessment_id).error.error_code == "RATE_LIMIT"
    mlflow.delete_assessment(trace, second.assessment_id)
    mlflow.delete_assessment(trace, second.assessment_id)
    assert mlflow.get_assessment(trace, first.assessment_id).valid is True
    assert code_of(mlflow, lambda: mlflow.get_assessment(trace, second.assessment_id))[0] == "RESOURCE_DOES_NOT_EXIST"
    code, message = code_of(mlflow, lambda: mlflow.log_feedback(trace_id="tr-gone", name="x", value=1))
    assert (code, "tr-gone" in message) == ("RESOURCE_DOES_NOT_EXIST", True)


def test_tags_deletes_and_what_is_not_there(mlflow, client, experiment):
    made = []
    for _ in range(3):
        with mlflow.start_span("short") as span:
            pass
        made.append(span.trace_id)
    client.set_trace_tag(made[0], "k", "v")
    assert client.get_trace(made[0]).info.tags["k"] == "v"
    client.delete_trace_tag(made[0], "k")
    assert "k" not in client.get_trace(made[0]).info.tags
    assert code_of(mlflow, lambda: client.delete_trace_tag(made[0], "k"))[0] == "RESOURCE_DOES_NOT_EXIST"
    client.set_trace_tag(made[0], "mlflow.traceName", "other")
    assert client.get_trace(made[0]).info.tags["mlflow.traceName"] == "other"
    code, message = code_of(
        mlflow, lambda: client._tracing_client.store.set_trace_tag(made[0], "mlflow.trace.spansLocation", "x")
    )
    assert (code, "immutable" in message) == ("INVALID_PARAMETER_VALUE", True)
    assert client.delete_traces(experiment, trace_ids=made[:1]) == 1
    assert client.delete_traces(experiment, trace_ids=made[:1]) == 0
    assert client.delete_traces(experiment, max_timestamp_millis=int(time.time() * 1000) + 5000, max_traces=1) == 1
    assert len(client.search_traces([experiment])) == 1
    code, message = code_of(mlflow, lambda: client._tracing_client.get_trace_info(made[0]))
    assert (code, f"'{made[0]}' not found" in message) == ("RESOURCE_DOES_NOT_EXIST", True)
    assert code_of(mlflow, lambda: client.set_trace_tag(made[0], "a", "b"))[0] == "RESOURCE_DOES_NOT_EXIST"


def test_a_file_of_spans_and_a_batch_of_them_are_one_trace(mlflow, client, experiment, kilter):
    with mlflow.start_span("twice") as root, mlflow.start_span("inner", attributes={"n": 1}) as inner:
        inner.set_outputs([1, {"a": None}])
    trace = client.get_trace(root.trace_id)
    before = kilter.traces.get(root.trace_id)
    for _ in range(2):
        client._tracing_client._upload_trace_data(trace.info, trace.data)
    after = kilter.traces.get(root.trace_id)
    assert after.info == before.info
    assert [(s.id, s.parent, s.name, s.start_ns, s.end_ns, s.status) for s in after.spans] == [
        (s.id, s.parent, s.name, s.start_ns, s.end_ns, s.status) for s in before.spans
    ]
    assert after.spans[1].attributes["mlflow.spanOutputs"] == before.spans[1].attributes["mlflow.spanOutputs"]
    # a client of before 3.4 has the file alone
    old = "tr-" + secrets.token_hex(16)
    said = mlflow.entities.TraceInfo(
        trace_id=old,
        trace_location=mlflow.entities.TraceLocation.from_experiment_id(experiment),
        request_time=1_700_000_000_123,
        state=mlflow.entities.trace_state.TraceState.OK,
        execution_duration=1500,
    )
    kept = client._tracing_client.start_trace(said)
    assert (kept.request_time, kept.execution_duration, "mlflow.trace.spansLocation" in kept.tags) == (
        1_700_000_000_123,
        1500,
        False,
    )
    spans = [span.to_dict() for span in trace.data.spans]
    for span in spans:
        span["trace_id"] = base64.b64encode(bytes.fromhex(old[3:])).decode()
        span["attributes"]["mlflow.traceRequestId"] = json.dumps(old)
    client._tracing_client._upload_trace_data(kept, mlflow.entities.TraceData.from_dict({"spans": spans}))
    read = client.get_trace(old)
    assert [span.name for span in read.data.spans] == ["twice", "inner"]
    assert read.info.execution_duration == 1500


def test_datasets_hold_records(mlflow, client, experiment):
    datasets = pytest.importorskip("mlflow.genai.datasets")
    made = datasets.create_dataset(name="golden", experiment_id=[experiment], tags={"team": "ops"})
    rows = [
        {"inputs": {"q": f"question {n}"}, "expectations": {"a": n}, "tags": {"n": str(n)}, "outputs": {"x": [n]}}
        for n in range(5)
    ]
    made.merge_records(rows)
    made.merge_records([{"inputs": {"q": "question 0"}, "expectations": {"b": True}}])
    read = datasets.get_dataset(dataset_id=made.dataset_id)
    records = {record.inputs["q"]: record for record in read._mlflow_dataset.records}
    assert len(records) == 5
    assert records["question 0"].expectations == {"a": 0, "b": True}
    assert records["question 3"].outputs == {"x": [3]}
    assert json.loads(read.schema)["inputs"] == {"q": "string"}
    assert json.loads(read.profile) == {"num_records": 5}
    assert read.experiment_ids == [experiment]
    datasets.set_dataset_tags(dataset_id=made.dataset_id, tags={"stage": "x"})
    assert datasets.get_dataset(dataset_id=made.dataset_id).tags["stage"] == "x"
    datasets.delete_dataset_tag(dataset_id=made.dataset_id, key="stage")
    assert "stage" not in datasets.get_dataset(dataset_id=made.dataset_id).tags
    found = datasets.search_datasets(
        experiment_ids=[experiment], filter_string="name LIKE 'gold%' AND tags.team = 'ops'"
    )
    assert [one.dataset_id for one in found] == [made.dataset_id]
    other = str(client.create_experiment(f"other-{secrets.token_hex(4)}"))
    assert datasets.add_dataset_to_experiments(
        dataset_id=made.dataset_id, experiment_ids=[other]
    ).experiment_ids == sorted([experiment, other], key=int)
    datasets.remove_dataset_from_experiments(dataset_id=made.dataset_id, experiment_ids=[other])
    assert datasets.get_dataset(dataset_id=made.dataset_id).experiment_ids == [experiment]
    assert read.delete_records([record.dataset_record_id for record in records.values()][:2]) == 2
    assert len(datasets.get_dataset(dataset_id=made.dataset_id)._mlflow_dataset.records) == 3
    # traces become records
    with mlflow.start_span("traced") as span:
        span.set_inputs({"q": "from a trace"})
    made.merge_records([client.get_trace(span.trace_id)])
    again = datasets.get_dataset(dataset_id=made.dataset_id)._mlflow_dataset.records
    assert "from a trace" in {record.inputs["q"] for record in again}
    datasets.delete_dataset(dataset_id=made.dataset_id)
    assert code_of(mlflow, lambda: datasets.get_dataset(dataset_id=made.dataset_id))[0] == "RESOURCE_DOES_NOT_EXIST"


def test_metrics_and_correlations_are_answered(mlflow, client, experiment):
    from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType

    for n in range(4):
        with mlflow.start_span("even" if n % 2 == 0 else "odd") as span:
            span.set_attributes(
                {"mlflow.chat.tokenUsage": {"input_tokens": n, "output_tokens": 1, "total_tokens": n + 1}}
            )
            mlflow.update_current_trace(tags={"n": str(n)})
        mlflow.log_feedback(trace_id=span.trace_id, name="ok", value=n > 1)
    store = client._tracing_client.store

    def measured(view, metric, *how, **more):
        points = store.query_trace_metrics([experiment], view, metric, list(how), **more)
        return [(point.dimensions, point.values) for point in points]

    count, average = MetricAggregation(AggregationType.COUNT), MetricAggregation(AggregationType.AVG)
    total, median = MetricAggregation(AggregationType.SUM), MetricAggregation(AggregationType.PERCENTILE, 50)
    assert measured(MetricViewType.TRACES, "trace_count", count, dimensions=["trace_name"]) == [
        ({"trace_name": "even"}, {"COUNT": 2.0}),
        ({"trace_name": "odd"}, {"COUNT": 2.0}),
    ]
    assert measured(MetricViewType.TRACES, "input_tokens", total, median) == [({}, {"SUM": 6.0, "P50.0": 1.5})]
    assert measured(MetricViewType.ASSESSMENTS, "assessment_value", average, dimensions=["assessment_name"]) == [
        ({"assessment_name": "ok"}, {"AVG": 0.5})
    ]
    assert measured(MetricViewType.SPANS, "span_count", count, filters=["span.name = 'odd'"]) == [({}, {"COUNT": 2.0})]
    assert measured(MetricViewType.TRACES, "trace_count", count, filters=["trace.tag.n = '3'"]) == [
        ({}, {"COUNT": 1.0})
    ]
    found = store.calculate_trace_filter_correlation([experiment], "name = 'even'", "tags.n = '0'")
    assert (found.filter1_count, found.filter2_count, found.joint_count, found.total_count) == (2, 1, 1, 4)
    assert found.npmi == pytest.approx(0.5)
    assert math.isnan(store.calculate_trace_filter_correlation([experiment], "name = 'x'", "tags.n = '0'").npmi)


# ---------------------------------------------------------------- OpenTelemetry's exporter


@pytest.mark.parametrize("packed", [False, True])
def test_the_exporter_of_opentelemetry_is_understood(server, client, mlflow, experiment, kilter, packed):
    exporting = pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind, Status, StatusCode

    exporter = exporting.OTLPSpanExporter(
        endpoint=f"{server[0]}/v1/traces",
        headers={"x-mlflow-experiment-id": experiment},
        compression=Compression.Gzip if packed else Compression.NoCompression,
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "shop", "service.version": "1"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("shop.instrument")
    with tracer.start_as_current_span("request <script>", kind=SpanKind.SERVER) as root:
        root.set_attribute("session.id", "s-9")
        with tracer.start_as_current_span("chat gpt-4o", kind=SpanKind.CLIENT) as span:
            span.set_attributes(
                {
                    "gen_ai.operation.name": "chat",
                    "gen_ai.provider.name": "openai",
                    "gen_ai.request.model": "gpt-4o",
                    "gen_ai.usage.input_tokens": 11,
                    "gen_ai.usage.output_tokens": 5,
                    "gen_ai.usage.cache_read.input_tokens": 8,
                    "gen_ai.input.messages": json.dumps(
                        [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
                    ),
                    "gen_ai.response.finish_reasons": ["stop"],
                    "nan": math.nan,
                    "big": 2**62,
                }
            )
            span.add_event("chunk", {"n": 1})
            span.set_status(Status(StatusCode.ERROR, "too slow"))
    provider.shutdown()
    (info,) = kilter.traces.list(among=[int(experiment)]).traces
    assert (info.name, info.state, info.session, info.spans) == ("request <script>", "OK", "s-9", 2)
    assert info.usage == {"input_tokens": 11, "output_tokens": 5, "total_tokens": 16, "cache_read_input_tokens": 8}
    assert (info.tags["service.name"], info.tags["service.version"]) == ("shop", "1")
    assert not [name for name in info.tags if name.startswith("telemetry.sdk")]
    root_span, chat = kilter.traces.get(info.id).spans
    assert (root_span.kind, chat.kind, chat.type, chat.scope) == ("SERVER", "CLIENT", "CHAT_MODEL", "shop.instrument")
    assert chat.parent == root_span.id
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert (chat.attributes["nan"], chat.attributes["big"]) == ("NaN", 2**62)
    assert (chat.status, chat.message, chat.events[0].name) == ("ERROR", "too slow", "chunk")
    # MLflow's client reads it with its own words beside OpenTelemetry's
    read = client.get_trace(info.id)
    seen = next(span for span in read.data.spans if span.parent_id)
    assert (seen.span_type, seen.get_attribute("mlflow.llm.model")) == ("CHAT_MODEL", "gpt-4o")
    assert seen.get_attribute("gen_ai.provider.name") == "openai"
    assert json.loads(seen.inputs)[0]["parts"][0]["content"] == "hi"
    assert read.info.token_usage["cache_read_input_tokens"] == 8
    found = mlflow.search_traces(
        locations=[experiment], filter_string="span.attributes.`gen_ai.request.model` = 'gpt-4o'", return_type="list"
    )
    assert [trace.info.trace_id for trace in found] == [info.id]


def otlp_json(trace: str, span: str, **more: Any) -> dict[str, Any]:
    one = {
        "traceId": trace,
        "spanId": span,
        "name": "json",
        "kind": 3,
        "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000001000000000",
        **more,
    }
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"spans": [one]}]}]}


def test_spans_in_json_are_taken_and_a_repeated_export_doubles_nothing(server, kilter, client):
    experiment = str(client.create_experiment(f"json-{secrets.token_hex(4)}"))
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    attributes = [
        {"key": "a", "value": {"intValue": "-5"}},
        {"key": "b", "value": {"arrayValue": {"values": [{"boolValue": True}, {"doubleValue": 0.5}]}}},
        {"key": "c", "value": {"kvlistValue": {"values": [{"key": "d", "value": {"stringValue": "ü"}}]}}},
        {"key": "gen_ai.usage.input_tokens", "value": {"intValue": 7}},
    ]
    body = json.dumps(otlp_json(trace, span, attributes=attributes, status={"code": 1})).encode()
    for _ in range(3):
        status, answer = post(
            server[0], "/v1/traces", body, Content_Type="application/json", x_mlflow_experiment_id=experiment
        )
        assert (status, answer) == (200, b"{}")
    (info,) = kilter.traces.list(among=[int(experiment)]).traces
    assert (info.id, info.spans, info.usage) == (
        f"tr-{trace}",
        1,
        {"input_tokens": 7, "output_tokens": 0, "total_tokens": 0},
    )
    (read,) = kilter.traces.get(info.id).spans
    assert (read.attributes["a"], read.attributes["b"], read.attributes["c"]) == (-5, [True, 0.5], {"d": "ü"})
    assert (read.kind, read.status, read.end_ns - read.start_ns) == ("CLIENT", "OK", 10**9)


def test_what_is_no_batch_of_spans_is_refused_and_changes_nothing(server, kilter, client):
    experiment = str(client.create_experiment(f"bad-{secrets.token_hex(4)}"))
    good = otlp_json(secrets.token_hex(16), secrets.token_hex(8))
    proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    request = proto.ExportTraceServiceRequest()
    one = request.resource_spans.add().scope_spans.add().spans.add()
    one.trace_id, one.span_id, one.name = b"\x01" * 16, b"\x02" * 8, "x"
    attribute = one.attributes.add()
    attribute.key, attribute.value.string_value = "k", "v" * 1000
    whole = request.SerializeToString()
    deep = attribute.value
    for _ in range(90):
        deep = deep.array_value.values.add()
    nested = request.SerializeToString()
    attribute.value.string_value = "v"
    one.span_id = b"\x02" * 7
    short = request.SerializeToString()
    one.span_id, one.trace_id = b"\x02" * 8, b"\x00" * 16
    zero = request.SerializeToString()

    def but(**more: Any) -> bytes:
        changed = json.loads(json.dumps(good))
        changed["resourceSpans"][0]["scopeSpans"][0]["spans"][0] |= more
        return json.dumps(changed).encode()

    value = b'{"arrayValue":{"values":[' * 10_000 + b"]}}" * 10_000
    deep_json = but(attributes=[{"key": "k", "value": 0}]).replace(b'"value": 0', b'"value": ' + value)
    bomb = gzip.compress(b"\x00" * (300 << 20), 9)
    assert len(bomb) < 1 << 20
    pb, js = "application/x-protobuf", "application/json"
    for body, kind, more in (
        *((whole[:cut], pb, {}) for cut in (1, 3, 10, 30, 200, len(whole) - 1)),
        (b"\xff" * 100, pb, {}),
        (nested, pb, {}),
        (short, pb, {}),
        (zero, pb, {}),
        (b"{", js, {}),
        (b"[]", js, {}),
        (deep_json, js, {}),
        (b"[" * 10_000, js, {}),
        (but(traceId="xyz"), js, {}),
        (but(traceId="00" * 16), js, {}),
        (but(spanId=""), js, {}),
        (but(spanId=5), js, {}),
        (but(startTimeUnixNano="-1"), js, {}),
        (but(startTimeUnixNano=str(2**64)), js, {}),
        (but(attributes=[{"key": "k", "value": {"intValue": "1e5"}}]), js, {}),
        (but(attributes=[{"key": "k", "value": {"doubleValue": 0}}]).replace(b"0}}]", b"NaN}}]"), js, {}),
        (bomb, pb, {"Content_Encoding": "gzip"}),
        (gzip.compress(whole)[:-20], pb, {"Content_Encoding": "gzip"}),
        (whole, pb, {"Content_Encoding": "gzip"}),
        (whole, pb, {"Content_Encoding": "br"}),
        (whole, "text/plain", {}),
        (whole, pb, {"x_mlflow_experiment_id": "999999"}),
        (whole, pb, {"x_mlflow_experiment_id": "nine"}),
        (whole, pb, {"x_mlflow_run_id": "no-such-run"}),
    ):
        headers = {"Content_Type": kind, "x_mlflow_experiment_id": experiment, **more}
        status, answer = post(server[0], "/v1/traces", body, **headers)
        assert 400 <= status < 500, (status, body[:60], answer)
        assert json.loads(answer), body[:60]
        assert kilter.traces.list(among=[int(experiment)]).traces == (), body[:60]
    assert post(server[0], "/v1/traces", whole, Content_Type=pb, x_mlflow_experiment_id=experiment) == (200, b"")
    assert len(kilter.traces.list(among=[int(experiment)]).traces) == 1


def test_what_cant_be_used_is_told_one_status_and_nothing_is_a_success(server, experiment):
    """OTLP/HTTP: data that is invalid for good is 400; a request without telemetry succeeds. Where MLflow's server differs, see the docs."""
    proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

    def spans(trace: bytes = b"\x05" * 16, span: bytes = b"\x06" * 8, count: int = 1) -> bytes:
        request = proto.ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        for _ in range(count):
            scope.spans.add(trace_id=trace, span_id=span, name="s", start_time_unix_nano=1, end_time_unix_nano=2)
        return request.SerializeToString()

    pb, js = "application/x-protobuf", "application/json"
    for body, kind, more, wanted in (
        (spans(), "text/plain", {}, 400),
        (spans(), "application/octet-stream", {}, 400),
        (spans(), "", {}, 400),
        (spans(), pb, {"Content_Encoding": "br"}, 400),
        (spans(), pb, {"Content_Encoding": "gzip"}, 400),
        (spans(trace=b""), pb, {}, 400),
        (spans(span=b""), pb, {}, 400),
        (spans(trace=b"\x00" * 16), pb, {}, 400),
        (spans(span=b"\x00" * 8), pb, {}, 400),
        (spans(), pb, {"x_mlflow_experiment_id": "nine"}, 400),
        (spans(), pb, {"x_mlflow_experiment_id": "999999"}, 404),
        (b"", pb, {"x_mlflow_experiment_id": "999999"}, 400),
        (b"{}", js, {"x_mlflow_experiment_id": "999999"}, 400),
        (spans(count=0), pb, {"x_mlflow_experiment_id": "999999"}, 400),
        (spans(count=0), pb, {"x_mlflow_experiment_id": "nine"}, 400),
        (b"", pb, {}, 200),
        (b"{}", js, {}, 200),
        (spans(count=0), pb, {}, 200),
    ):
        headers = {"Content_Type": kind, "x_mlflow_experiment_id": experiment, **more}
        status, answer = post(server[0], "/v1/traces", body, **headers)
        assert status == wanted, (body[:20], headers, answer)
    connection = http.client.HTTPConnection(server[0].removeprefix("http://"), timeout=20)
    connection.request("PUT", "/v1/traces", spans(), {"Content-Type": "text/plain"})
    assert connection.getresponse().status == 405
    connection.close()


def test_a_viewer_reads_and_foreign_pages_do_nothing(server):
    body = json.dumps(otlp_json(secrets.token_hex(16), secrets.token_hex(8))).encode()
    place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    asked = json.dumps({"locations": [place]}).encode()
    search, js = "/api/3.0/mlflow/traces/search", "application/json"
    before = json.loads(post(server[0], search, asked, Content_Type=js)[1]).get("traces", [])
    for wrong, status in (
        ({"Authorization": "Bearer viewer-of-the-test"}, 403),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Origin": "http://evil.example"}, 403),
        ({"Host": "evil.example"}, 403),
    ):
        assert post(server[0], "/v1/traces", body, Content_Type=js, **wrong)[0] == status
    viewer = {"Content_Type": js, "Authorization": "Bearer viewer-of-the-test"}
    assert post(server[0], search, asked, **viewer) == post(server[0], search, asked, Content_Type=js)
    for path in ("traces", "traces/delete-traces", "datasets/create", "traces/tr-x/assessments"):
        assert post(server[0], f"/api/3.0/mlflow/{path}", b"{}", **viewer)[0] == 403
    assert json.loads(post(server[0], search, asked, **viewer)[1]).get("traces", []) == before


def test_the_command_line_lists_shows_follows_and_deletes(server, kilter, mlflow, experiment):
    with mlflow.start_span("shown\x1b[31m") as root, mlflow.start_span("below"):
        pass

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "kilter.cli.main", "traces", *arguments, "--store", server[0]],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KILTER_TOKEN": server[1], "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = json.loads(run("list", "--filter", "name LIKE 'shown%'", "--json"))
    assert [one["id"] for one in listed["traces"]] == [root.trace_id]
    assert root.trace_id in run("list")
    drawn = run("show", root.trace_id)
    assert "\x1b" not in drawn
    assert "\n  below" in drawn
    assert json.loads(run("show", root.trace_id, "--json"))["info"]["spans"] == 2
    assert json.loads(run("delete", root.trace_id, "--json")) == {"deleted": 1}
    with mlflow.start_span("old"):
        pass
    name = mlflow.get_experiment(experiment).name
    assert json.loads(run("delete", "--experiment", name, "--older", "1h", "--json")) == {"deleted": 0}
    time.sleep(1.1)
    assert json.loads(run("delete", "--experiment", name, "--older", "1s", "--json")) == {"deleted": 1}
    following = subprocess.Popen(
        [sys.executable, "-m", "kilter.cli.main", "traces", "follow", "--count", "1", "--json", "--store", server[0]],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "KILTER_TOKEN": server[1]},
    )
    deadline = time.monotonic() + 30
    while following.poll() is None:
        assert time.monotonic() < deadline
        with mlflow.start_span("followed"):
            pass
        time.sleep(0.3)
    assert json.loads(following.communicate()[0])["name"] == "followed"
