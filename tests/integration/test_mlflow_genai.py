"""MLflow's evaluation of applications on language models, unmodified, against a running server: scorers of code, and no model."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from types import ModuleType
from typing import Any

import pytest

from kilter.loop.workspace import connect
from kilter.testing.server import RunningServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # the client's own, and its kept connections
]

ROWS: list[dict[str, Any]] = [
    {
        "inputs": {"q": "capital of France?"},
        "outputs": "Paris",
        "expectations": {"expected_response": "Paris"},
    },
    {
        "inputs": {"q": "capital of Italy?"},
        "outputs": "Milano!",
        "expectations": {"expected_response": "Rome"},
        "tags": {"k": "v"},
    },
]
ASKED = [{name: value for name, value in row.items() if name != "outputs"} for row in ROWS]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RunningServer(tmp_path_factory.mktemp("genai") / "store") as running:
        yield running


@pytest.fixture
def mlflow(server) -> ModuleType:
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ENABLE_ASYNC_TRACE_LOGGING="false", TQDM_DISABLE="1")
    found = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.genai")
    pytest.importorskip("pandas")
    found.set_tracking_uri(server.url)
    return found


@pytest.fixture
def experiment(mlflow, request) -> str:
    return str(mlflow.set_experiment(f"{request.node.name}-{secrets.token_hex(4)}").experiment_id)


@pytest.fixture
def scorers(mlflow) -> list[Any]:
    from mlflow.genai.scorers import RegexMatch, ResponseLength, scorer

    @scorer
    def exact(outputs: str, expectations: dict[str, Any]) -> bool:
        return outputs == expectations["expected_response"]

    @scorer(aggregations=["mean", "max"])
    def length(outputs: str) -> int:
        return len(outputs)

    @scorer
    def two() -> list[Any]:
        feedback = mlflow.entities.Feedback
        return [feedback(name="said", value="yes", rationale="so"), feedback(name="number", value=0.5)]

    @scorer
    def breaks() -> None:
        raise ValueError("no")

    return [exact, length, two, breaks, RegexMatch(pattern="^P"), ResponseLength(max_length=6)]


SCORES = {
    "exact/mean": 0.5,
    "length/mean": 6.0,
    "length/max": 7.0,
    "said/mean": 1.0,
    "number/mean": 0.5,
    "regex_match/mean": 0.5,
    "response_length/mean": 0.5,
}


def judged(mlflow: ModuleType, result: Any) -> list[Any]:
    """Return the traces of an evaluation, whose scores its run has."""
    assert mlflow.get_run(result.run_id).data.metrics == result.metrics
    return list(mlflow.search_traces(run_id=result.run_id, return_type="list"))


@pytest.mark.parametrize("form", ["list", "frame"])
def test_answers_are_judged(mlflow, experiment, scorers, form):
    import pandas as pd

    result = mlflow.genai.evaluate(data=ROWS if form == "list" else pd.DataFrame(ROWS), scorers=scorers)
    assert result.metrics == SCORES
    traces = judged(mlflow, result)
    assert sorted(trace.info.response_preview for trace in traces) == ['"Milano!"', '"Paris"']
    for trace in traces:
        names = Counter(one.name for one in trace.info.assessments)
        assert names == Counter(
            ["expected_response", "exact", "length", "said", "number", "breaks", "regex_match", "response_length"]
        )
        (broken,) = (one for one in trace.info.assessments if one.name == "breaks")
        assert (broken.error.error_code, broken.error.error_message) == ("SCORER_ERROR", "no")
    assert sorted(result.result_df["exact/value"]) == [False, True]


def test_what_a_function_answers_is_judged(mlflow, experiment, scorers):
    @mlflow.trace
    def answer(q: str) -> str:
        with mlflow.start_span("look up", span_type="TOOL") as span:
            span.set_inputs({"q": q})
        if "Italy" in q:
            raise ValueError("never heard of it")
        return "Paris"

    traces = judged(mlflow, mlflow.genai.evaluate(data=ASKED, scorers=scorers[1:], predict_fn=answer))
    assert sorted(trace.info.state.value for trace in traces) == ["ERROR", "OK"]
    assert {"look up"} <= {span.name for span in traces[0].data.spans}


def test_traces_and_datasets_are_judged(mlflow, experiment, scorers):
    for question in ("one", "two"):
        with mlflow.start_span("root") as span:
            span.set_inputs({"q": question})
            span.set_outputs("Paris")
        mlflow.log_expectation(trace_id=span.trace_id, name="expected_response", value="Paris")
    for form in ("pandas", "list"):
        found = mlflow.search_traces(locations=[experiment], return_type=form)
        result = mlflow.genai.evaluate(data=found, scorers=scorers)
        assert (result.metrics["exact/mean"], result.metrics["regex_match/mean"]) == (1.0, 1.0)
        assert len(judged(mlflow, result)) == 2
    datasets = mlflow.genai.datasets
    made = datasets.create_dataset(name=f"cities-{experiment}", experiment_id=[experiment])
    made = made.merge_records(ASKED).merge_records(mlflow.search_traces(locations=[experiment]))
    read = datasets.get_dataset(dataset_id=made.dataset_id)
    assert Counter(map(str, read.to_df()["source_type"])) == {"HUMAN": 2, "TRACE": 2}
    result = mlflow.genai.evaluate(data=read, scorers=scorers[1:3], predict_fn=lambda q: q.upper())
    assert max(trace.data.spans[0].outputs for trace in judged(mlflow, result)) == "TWO"
    assert [one.dataset.source_type for one in mlflow.get_run(result.run_id).inputs.dataset_inputs] != []


def test_what_is_said_is_changed_overridden_and_taken_back(mlflow, experiment):
    with mlflow.start_span("root") as span:
        span.set_outputs("x")
    trace = span.trace_id
    human = mlflow.entities.AssessmentSource("HUMAN", "ana")
    good = mlflow.log_feedback(trace_id=trace, name="good", value=True, rationale="r", source=human)
    score = mlflow.log_feedback(trace_id=trace, name="score", value=0.25)
    mlflow.log_feedback(trace_id=trace, name="wrong", error=ValueError("x"))
    changed = mlflow.entities.Feedback(name="good", value=False, rationale="changed")
    mlflow.update_assessment(trace_id=trace, assessment_id=good.assessment_id, assessment=changed)
    over = mlflow.override_feedback(trace_id=trace, assessment_id=score.assessment_id, value=0.75, source=human)
    said = {one.assessment_id: one for one in mlflow.get_trace(trace).info.assessments}
    assert (said[good.assessment_id].value, said[good.assessment_id].rationale) == (False, "changed")
    assert (said[score.assessment_id].valid, said[over.assessment_id].valid) == (False, True)
    mlflow.delete_assessment(trace_id=trace, assessment_id=over.assessment_id)
    mlflow.delete_assessment(trace_id=trace, assessment_id=good.assessment_id)
    left = mlflow.get_trace(trace).info.assessments
    assert [(one.name, one.valid) for one in left] == [("score", True), ("wrong", True)]


def test_scorers_are_registered(mlflow, server, experiment, scorers):
    from mlflow.genai.scorers import Guidelines, RegexMatch, delete_scorer, get_scorer, list_scorers

    assert list_scorers() == []
    RegexMatch(pattern="^P").register()
    RegexMatch(pattern="^Q").register()
    scorers[-1].register(name="short")
    Guidelines(name="kind", guidelines="be kind", model="openai:/gpt-4").register()
    assert sorted(one.name for one in list_scorers()) == ["kind", "regex_match", "short"]
    assert (get_scorer(name="regex_match").pattern, get_scorer(name="regex_match", version=1).pattern) == ("^Q", "^P")
    result = mlflow.genai.evaluate(data=ROWS, scorers=[get_scorer(name="short"), get_scorer(name="regex_match")])
    assert result.metrics == {"short/mean": 0.5, "regex_match/mean": 0.0}
    (said, *_) = (one for trace in judged(mlflow, result) for one in trace.info.assessments if one.name == "short")
    assert said.metadata["mlflow.assessment.scorerVersion"] == "1"
    with pytest.raises(mlflow.MlflowException, match="carries Python"):
        scorers[0].register()
    with pytest.raises(mlflow.MlflowException, match="RESOURCE_DOES_NOT_EXIST"):
        get_scorer(name="none")
    with pytest.raises(mlflow.MlflowException, match="does not run them"):
        get_scorer(name="short").start(sampling_config=mlflow.genai.scorers.ScorerSamplingConfig(sample_rate=0.5))
    delete_scorer(name="regex_match", version=2)
    assert get_scorer(name="regex_match").pattern == "^P"
    delete_scorer(name="short", version="all")
    with connect(server.url, server.token) as kilter:
        held = kilter.scorers.list([int(experiment)]).scorers
    assert [(one.name, one.version) for one in held] == [("kind", 1), ("regex_match", 1)]
