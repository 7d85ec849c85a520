"""Flows of MLflow's own client, and what a server answered to each of its calls, in a form that two servers can be compared in.

    python tests/integration/mlflow_flows.py http://127.0.0.1:5000 tests/integration/mlflow_answers.json

records the answers of a real ``mlflow server``; the test compares Kilter's with them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"

Flow = Callable[[types.ModuleType, Any, str], None]
FLOWS: dict[str, Flow] = {}
PACKAGES = {"evaluation": ("matplotlib", "pandas", "sklearn", "skops")}
"""What the client needs for a flow beside itself."""
NEEDED = {"registry": "/api/2.0/mlflow/registered-models/search", "traces": "/api/3.0/mlflow/traces/search"}
"""What a server has to know for a flow to be played."""

_TIMES = {
    "start_time", "end_time", "creation_time", "last_update_time", "timestamp", "creation_timestamp_ms",
    "last_updated_timestamp_ms", "creation_timestamp", "last_updated_timestamp", "request_time", "create_time_ms",
}  # fmt: skip
_IDS = {"run_id": "run", "run_uuid": "run", "model_id": "model", "experiment_id": "experiment", "source_run_id": "run"}
_OWN = {"mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "user_id"}
_ABOUT = {"mlflow.user", *(f"mlflow.source.git.{what}" for what in ("branch", "commit", "repoURL"))}
"""Tags that depend on where and by whom a flow is played."""
_MADE_UP = re.compile(r"[a-z]+-[a-z]+-\d{1,3}")
"""What a run is called that nobody gave a name."""
_FILES = "/mlflow-artifacts/artifacts"
_UNORDERED = frozenset({"evaluation"})
"""Flows whose files go and come in any order: as the folder lists them, and several at once."""

_NUMBERED = {
    "run": re.compile(r"(?<![\w-])[0-9a-f]{32}\b|\brun_[0-9a-z]{20,}\b"),
    "model": re.compile(r"\bm-[0-9a-z]{20,}\b"),
}


def flow(act: Flow) -> Flow:
    """Add a flow to the table."""
    FLOWS[act.__name__] = act
    return act


def refused() -> contextlib.AbstractContextManager[None]:
    """Go on after what is refused, by the client or by the server: what was answered is compared, not raised."""
    return contextlib.suppress(Exception)


@flow
def tracking(mlflow: types.ModuleType, client: Any, name: str) -> None:
    mlflow.set_experiment(name)
    with mlflow.start_run(run_name="first", description="about it") as active:
        mlflow.log_param("lr", 0.1)
        mlflow.log_params({"trees": 80, "kind": "tree"})
        mlflow.log_metric("auc", 0.5, step=2**53 + 1, timestamp=1000)
        mlflow.log_metrics(
            {"auc": 0.7, "loss": math.nan, "up": math.inf, "down": -math.inf}, step=2**60, timestamp=1001
        )
        mlflow.set_tag("team", "ops")
        mlflow.set_tags({"gone": "x", "html": "<b>&</b>"})
        mlflow.delete_tag("gone")
        with mlflow.start_run(run_name="child", nested=True):
            mlflow.log_metric("auc", 1, timestamp=1002)
    run = active.info.run_id
    client.get_run(run)
    client.get_metric_history(run, "auc")
    client.get_metric_history(run, "none")
    client.update_run(run, name="renamed")
    client.set_terminated(run, "KILLED")
    client.get_run(run)
    with refused():
        client.log_param(run, "lr", 0.2)
    with refused():
        client.delete_tag(run, "none")


@flow
def artifacts(mlflow: types.ModuleType, client: Any, name: str) -> None:
    run = client.create_run(client.create_experiment(name), run_name="files").info.run_id
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "notes a.txt")
        file.write_text("grüße")
        client.log_artifact(run, str(file))
        client.log_artifact(run, str(file), "deep/er")
        client.list_artifacts(run)
        client.list_artifacts(run, "deep")
        client.list_artifacts(run, "deep/er/notes a.txt")
        client.list_artifacts(run, "nothing")
        client.download_artifacts(run, "deep/er/notes a.txt", folder)
        with refused():
            client.download_artifacts(run, "absent.txt", folder)
    client.log_text(run, "hello", "greeting.txt")
    client.log_dict(run, {"x": [1, 2]}, "d.json")
    client.log_text(run, "replaced", "greeting.txt")
    mlflow.artifacts.load_text(f"{client.get_run(run).info.artifact_uri}/greeting.txt")
    client._tracking_client._get_artifact_repo(run).delete_artifacts("deep")
    client.list_artifacts(run)
    with refused():
        client.list_artifacts("0" * 32)


@flow
def inputs(mlflow: types.ModuleType, client: Any, name: str) -> None:
    entities = mlflow.entities
    run = client.create_run(client.create_experiment(name), run_name="reads").info.run_id
    data = entities.Dataset("rows", "abc123", "local", '{"uri": "x.csv"}', '{"columns": []}', '{"rows": 3}')
    read = entities.DatasetInput(data, [entities.InputTag("mlflow.data.context", "training")])
    client.log_inputs(run, [read])
    client.log_inputs(run, [read])
    client.get_run(run)
    with refused():
        client.log_inputs("0" * 32, [read])


@flow
def models(mlflow: types.ModuleType, client: Any, name: str) -> None:
    experiment = client.create_experiment(name)
    run = client.create_run(experiment, run_name="trains").info.run_id
    made = client.create_logged_model(
        experiment, name="clf", source_run_id=run, tags={"a": "1"}, params={"c": "2"}, model_type="agent"
    )
    model = made.model_id
    client.get_logged_model(model)
    client.log_model_params(model, {"d": "3"})
    client.set_logged_model_tags(model, {"b": "x", "a": "2"})
    client.delete_logged_model_tag(model, "b")
    client.log_outputs(run, [mlflow.entities.LoggedModelOutput(model, step=3)])
    client.log_metric(run, "acc", 0.9, timestamp=1000, step=3, model_id=model)
    client.finalize_logged_model(model, "READY")
    client.get_run(run)
    client.get_logged_model(model)
    client.search_logged_models([experiment], "metrics.acc > 0.5 and name = 'clf'")
    client.search_logged_models(
        [experiment], "params.c = '3'", order_by=[{"field_name": "creation_timestamp", "ascending": False}]
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.txt")
        file.write_text("weights")
        client.log_model_artifact(model, str(file))
    client.list_logged_model_artifacts(model)
    client.delete_logged_model(model)
    for act in (
        lambda: client.get_logged_model(model),
        lambda: client.delete_logged_model(model),
        lambda: client.delete_logged_model_tag("m-" + "0" * 32, "b"),
        lambda: client.set_logged_model_tags("m-" + "0" * 32, {"b": "x"}),
    ):
        with refused():
            act()


@flow
def searching(mlflow: types.ModuleType, client: Any, name: str) -> None:
    del mlflow
    experiment = client.create_experiment(name)
    for place in range(5):
        run = client.create_run(
            experiment, start_time=1000 + place, run_name=f"run-{place}", tags={"team": f"t{place % 2}"}
        )
        client.log_param(run.info.run_id, "depth", place)
        if place:
            client.log_metric(run.info.run_id, "m", place / 10, timestamp=1)
        client.set_terminated(run.info.run_id, "FINISHED" if place else "FAILED", end_time=2000 + place)
    for text, order in (
        ("", None),
        ("metrics.m > 0.15", ["metrics.m ASC"]),
        ("metrics.m <= 0.3 and params.depth != '2'", ["metrics.m DESC"]),
        ("params.depth = '3'", None),
        ("tags.team LIKE 't%'", ["params.depth DESC", "attributes.start_time ASC"]),
        ("tags.team ILIKE 'T1'", ["tags.team ASC"]),
        ("tags.`none` IS NULL", None),
        ("attributes.status = 'FAILED'", None),
        ("attributes.start_time > 1001", ["attributes.start_time DESC"]),
        ("attributes.end_time >= 2003", None),
        ("attributes.run_name IN ('run-1', 'run-2')", ["attributes.run_name DESC"]),
        ("run_name NOT IN ('run-1')", ["run_name ASC"]),
        ("run_id = 'none'", None),
    ):
        with refused():
            client.search_runs([experiment], text, order_by=order)
    page = client.search_runs([experiment], order_by=["metrics.m DESC"], max_results=2)
    page = client.search_runs([experiment], order_by=["metrics.m DESC"], max_results=2, page_token=page.token)
    client.search_runs([experiment], order_by=["metrics.m DESC"], max_results=2, page_token=page.token)
    for text in (
        "nonsense",
        "metrics.m = 'x'",
        "params.depth > 3",
        "params.depth = 3",
        "tags.a ~ 'b'",
        "attributes.none = 'x'",
        "nothing.a = 'x'",
        "metrics.m > 0.1 or metrics.m < 2",
        "metrics.m LIKE 'a'",
        "attributes.status > 'FAILED'",
        "params.depth IN (1)",
        "start_time = 'x'",
    ):
        with refused():
            client.search_runs([experiment], text)
    for order in (["metrics"], ["nothing.m ASC"], ["metrics.m UP"], ["attributes.none"]):
        with refused():
            client.search_runs([experiment], order_by=order)
    for more in ({"max_results": 0}, {"max_results": 50_001}, {"page_token": "no token"}):
        with refused():
            client.search_runs([experiment], **more)
    client.search_experiments(filter_string=f"name = '{name}'")
    client.search_experiments(filter_string=f"name LIKE '{name[:-1]}%' and tags.none = 'x'")
    for text in ("name", "metrics.m > 1", "tags.a > 'b'", "none = 'a'"):
        with refused():
            client.search_experiments(filter_string=text)
    with refused():
        client.search_experiments(order_by=["none ASC"])


@flow
def lifecycle(mlflow: types.ModuleType, client: Any, name: str) -> None:
    experiment = client.create_experiment(name, tags={"k": "v"})
    client.get_experiment(experiment)
    client.get_experiment_by_name(name)
    client.set_experiment_tag(experiment, "k", "w")
    client.set_experiment_tag(experiment, "x", "y")
    client.delete_experiment_tag(experiment, "x")
    run = client.create_run(experiment, run_name="one").info.run_id
    client.delete_run(run)
    client.get_run(run)
    view = mlflow.entities.ViewType
    client.search_runs([experiment])
    client.search_runs([experiment], run_view_type=view.DELETED_ONLY)
    for act in (
        lambda: client.log_metric(run, "m", 1),
        lambda: client.log_param(run, "p", 1),
        lambda: client.set_tag(run, "t", 1),
        lambda: client.update_run(run, "FINISHED"),
        lambda: client.delete_tag(run, "mlflow.runName"),
        lambda: client.create_experiment(name),
        lambda: client.rename_experiment(experiment, "Default"),
        lambda: client.get_experiment("987654321"),
        lambda: client.get_experiment("abc"),
        lambda: client.set_experiment_tag("987654321", "k", "v"),
        lambda: client.delete_experiment_tag(experiment, "none"),
        lambda: client.delete_experiment("987654321"),
        lambda: client.create_run("987654321"),
        lambda: client.create_experiment(" "),
        lambda: client.create_experiment("n" * 501),
    ):
        with refused():
            act()
    client.get_experiment_by_name("there is none of this name")
    client.delete_run(run)
    client.restore_run(run)
    client.restore_run(run)
    client.delete_experiment(experiment)
    client.get_run(run)
    client.get_experiment(experiment)
    for act in (
        lambda: client.delete_experiment(experiment),
        lambda: client.create_run(experiment),
        lambda: client.create_experiment(name),
        lambda: client.set_experiment_tag(experiment, "k", "v"),
        lambda: client.rename_experiment(experiment, f"{name} again"),
    ):
        with refused():
            act()
    client.restore_experiment(experiment)
    client.rename_experiment(experiment, f"{name} renamed")
    client.get_experiment(experiment)
    client.get_run(run)


@flow
def refusals(mlflow: types.ModuleType, client: Any, name: str) -> None:
    """What clients of other languages, and of no kind at all, send."""
    import requests

    del mlflow
    run = client.create_run(client.create_experiment(name), run_name="one").info.run_id
    root = client.tracking_uri + "/api/2.0/mlflow/"
    point = {"run_id": run, "key": "m", "value": 1.0, "timestamp": 1}
    for path, body in (
        ("runs/log-metric", {**point, "step": "5"}),
        ("runs/log-metric", {**point, "value": "NaN"}),
        ("runs/log-metric", {**point, "timestamp": -1}),
        ("runs/log-metric", {**point, "timestamp": "x"}),
        ("runs/log-metric", {**point, "timestamp": None}),
        ("runs/log-metric", {**point, "step": 1.5}),
        ("runs/log-metric", {**point, "key": ""}),
        ("runs/log-metric", {**point, "key": None}),
        ("runs/log-metric", {**point, "key": 5}),
        ("runs/log-metric", {**point, "key": "../x"}),
        ("runs/log-metric", {**point, "key": "/x"}),
        ("runs/log-metric", {**point, "key": "a\tb"}),
        ("runs/log-metric", {**point, "key": "k" * 251}),
        ("runs/log-metric", {**point, "value": None}),
        ("runs/log-metric", {**point, "value": "x"}),
        ("runs/log-metric", {**point, "value": True}),
        ("runs/log-metric", {**point, "run_id": "none"}),
        ("runs/log-metric", {"key": "m"}),
        ("runs/log-parameter", {"run_id": run}),
        ("runs/log-parameter", {"run_id": run, "key": "p"}),
        ("runs/log-parameter", {"run_id": run, "key": "p2", "value": 5}),
        ("runs/log-parameter", {"run_id": run, "key": "a\nb", "value": "x"}),
        ("runs/set-tag", {"run_id": run, "key": "t"}),
        ("runs/set-tag", {"run_id": run, "value": "t"}),
        ("runs/set-tag", {"run_id": run, "key": "t" * 251, "value": "x"}),
        ("runs/log-batch", {"run_id": run}),
        ("runs/log-batch", {"run_id": run, "metrics": "no"}),
        ("runs/log-batch", {"run_id": run, "metrics": [5]}),
        ("runs/log-batch", {"run_id": run, "metrics": [{"key": "m"}]}),
        ("runs/log-batch", {"run_id": run, "metrics": [{**point, "key": "good"}, {**point, "key": "a//b"}]}),
        ("runs/log-batch", {"run_id": run, "params": [{"key": "p", "value": "1"}, {"key": "p", "value": "2"}]}),
        ("runs/log-batch", {"run_id": run, "params": [{"key": "d", "value": "1"}, {"key": "e", "value": "1"}]}),
        ("runs/log-batch", {"run_id": run, "params": [{"key": "d", "value": "2"}, {"key": "e", "value": "2"}]}),
        ("runs/log-batch", {"run_id": run, "params": [{"key": f"p{one}", "value": ""} for one in range(101)]}),
        ("runs/log-batch", {"run_id": run, "tags": [{"key": f"t{one}", "value": ""} for one in range(101)]}),
        ("runs/log-batch", {"run_id": run, "metrics": [{"key": "m", "value": 1, "timestamp": 1}] * 1001}),
        ("runs/update", {"run_id": run, "status": "NONE"}),
        ("runs/update", {"run_id": run, "status": "FINISHED", "end_time": "1234"}),
        ("runs/update", {"status": "FINISHED"}),
        ("runs/create", {"experiment_id": "abc"}),
        ("runs/create", {"experiment_id": "0", "run_name": "a", "tags": [{"key": "mlflow.runName", "value": "b"}]}),
        ("runs/create", {"experiment_id": "0", "start_time": "x"}),
        ("runs/delete", {}),
        ("runs/delete", {"run_id": "none"}),
        ("runs/restore", {"run_id": "none"}),
        ("runs/delete-tag", {"run_id": run}),
        ("runs/search", {"experiment_ids": ["0"], "max_results": -1}),
        ("runs/search", {"experiment_ids": "0"}),
        ("runs/log-model", {"run_id": run, "model_json": "no"}),
        ("runs/log-model", {"run_id": run, "model_json": "{}"}),
        ("runs/log-inputs", {"run_id": run, "datasets": [{"dataset": {"name": "x"}}]}),
        ("runs/log-inputs", {"datasets": []}),
        ("experiments/create", {}),
        ("experiments/create", {"name": 5}),
        ("experiments/create", {"name": ""}),
        ("experiments/update", {"new_name": "x"}),
        ("experiments/delete", {}),
        ("experiments/set-experiment-tag", {"experiment_id": "0"}),
        ("experiments/search", {"max_results": 0}),
        ("experiments/search", {"max_results": 50_001}),
        ("experiments/search", {"max_results": 5, "view_type": "NONE"}),
        ("logged-models", {}),
        ("logged-models/search", {}),
        ("logged-models/search", {"experiment_ids": ["0"], "filter": "nonsense"}),
    ):
        requests.post(root + path, json=body, timeout=60)
    for path in (
        "runs/get",
        "runs/get?run_id=none",
        f"runs/get?run_uuid={run}",
        f"metrics/get-history?run_id={run}",
        "metrics/get-history?run_id=none&metric_key=m",
        f"metrics/get-history?run_id={run}&metric_key=m&max_results=0",
        f"metrics/get-history?run_id={run}&metric_key=m",
        f"metrics/get-history-bulk-interval?run_ids={run}&metric_key=m",
        "metrics/get-history-bulk-interval?metric_key=m",
        f"metrics/get-history-bulk-interval?run_ids={run}&metric_key=m&max_results=2501",
        "experiments/get",
        "experiments/get?experiment_id=x",
        "experiments/get-by-name",
        "experiments/get-by-name?experiment_name=there is none",
        "experiments/search?max_results=x",
        "artifacts/list",
        f"artifacts/list?run_id={run}&path=../x",
        f"artifacts/list?run_id={run}&path=/etc",
    ):
        requests.get(root + path, timeout=60)
    requests.get(client.tracking_uri + "/api/3.0/mlflow/server-info", timeout=60)
    requests.get(client.tracking_uri + "/health", timeout=60)


@flow
def registry(mlflow: types.ModuleType, client: Any, name: str) -> None:
    del mlflow
    model = name.replace(" ", "-")
    run = client.create_run("0", run_name="source").info.run_id
    client.create_registered_model(model, tags={"a": "1"}, description="about it")
    for _ in range(2):
        client.create_model_version(model, f"mlflow-artifacts:/0/{run}/artifacts/m", run, tags={"v": "1"})
    client.get_registered_model(model)
    client.get_model_version(model, "1")
    client.set_registered_model_alias(model, "champion", "2")
    client.get_model_version_by_alias(model, "champion")
    client.set_model_version_tag(model, "1", "k", "v")
    client.delete_model_version_tag(model, "1", "k")
    client.update_model_version(model, "1", "described")
    client.update_registered_model(model, "described too")
    client.search_model_versions(f"name = '{model}'", order_by=["version_number ASC"])
    client.search_registered_models(f"name = '{model}'")
    client.get_model_version_download_uri(model, "1")
    for act in (
        lambda: client.create_registered_model(model),
        lambda: client.get_registered_model("none"),
        lambda: client.get_model_version(model, "9"),
        lambda: client.get_model_version_by_alias(model, "none"),
        lambda: client.set_registered_model_alias(model, "v1", "1"),
    ):
        with refused():
            act()
    client.delete_registered_model_alias(model, "champion")
    client.delete_model_version(model, "1")
    client.rename_registered_model(model, f"{model}-2")
    client.delete_registered_model(f"{model}-2")


@flow
def traces(mlflow: types.ModuleType, client: Any, name: str) -> None:
    experiment = client.create_experiment(name)
    mlflow.search_traces(locations=[experiment], return_type="list")
    with refused():
        client.get_trace("tr-" + "0" * 32)


def _decides(kind: type[Any], coefficients: list[list[float]] | list[float], intercept: Any) -> Any:
    """Return a linear model of scikit-learn that nobody trained: the same numbers on every machine."""
    import numpy as np

    made = kind()
    made.coef_, made.intercept_ = np.array(coefficients), np.array(intercept)
    made.n_features_in_, made.feature_names_in_ = 2, np.array(["a", "b"], dtype=object)
    if kind.__name__ == "LogisticRegression":
        made.classes_, made.n_iter_ = np.arange(max(len(made.intercept_), 2)), np.array([1], dtype=np.int32)
    return made


@flow
def evaluation(mlflow: types.ModuleType, client: Any, name: str) -> None:
    """``mlflow.models.evaluate``: models by their URIs, predictions that are there already, a function, and thresholds."""
    import pandas as pd
    from sklearn.linear_model import LinearRegression, LogisticRegression

    warnings.simplefilter("ignore")
    mlflow.set_experiment(name)
    rows = pd.DataFrame(
        {"a": [0.0, 1, 2, 3, 4, 5, 6, 7], "b": [1.0, 0, 1, 0, 1, 0, 1, 1], "label": [0, 0, 1, 0, 1, 1, 0, 1]}
    )
    named = mlflow.data.from_pandas(rows, source="https://example.org/rows.csv", targets="label", name="rows")
    given = {"pip_requirements": ["scikit-learn"], "serialization_format": "skops"}
    plain = {"default": {"log_explainer": False}}

    def look(run: str) -> None:
        client.get_run(run)
        for folder in ("", "metrics", "validation"):
            client.list_artifacts(run, folder or None)

    with mlflow.start_run(run_name="classifier") as run:
        model = mlflow.sklearn.log_model(_decides(LogisticRegression, [[0.5, 0.25]], [-2.0]), name="clf", **given)
        binary = mlflow.models.evaluate(
            model.model_uri, named, model_type="classifier", evaluators=["default"], evaluator_config=plain
        )
        mlflow.models.evaluate(  # the same once more, of rows without a name, with words before its metrics
            model.model_uri,
            rows,
            targets="label",
            model_type="classifier",
            evaluator_config={"metric_prefix": "again_", "log_explainer": False, "pos_label": 1},
        )
        with refused():
            mlflow.models.evaluate("models:/m-" + "0" * 32, rows, targets="label", model_type="classifier")
    look(run.info.run_id)
    client.get_logged_model(model.model_id)
    with mlflow.start_run(run_name="several classes") as run:
        several = rows.assign(label=[0, 0, 1, 0, 1, 2, 2, 2])
        logged = mlflow.sklearn.log_model(
            _decides(LogisticRegression, [[-1.0, 0.0], [0.0, 0.5], [1.0, 0.0]], [3.5, 0.0, -3.5]), name="many", **given
        )
        mlflow.models.evaluate(
            logged.model_uri,
            several,
            targets="label",
            model_type="classifier",
            evaluator_config={"log_explainer": False},
        )
    look(run.info.run_id)
    with mlflow.start_run(run_name="regressor") as run:
        logged = mlflow.sklearn.log_model(_decides(LinearRegression, [0.125, 0.25], 0.0), name="line", **given)
        line = mlflow.models.evaluate(
            logged.model_uri, named, model_type="regressor", evaluator_config={"log_explainer": False}
        )
        twice = mlflow.models.make_metric(
            eval_fn=lambda predictions, targets: 2.0 * float((predictions - targets).abs().max()),
            greater_is_better=False,
            name="twice",
        )
        mlflow.models.evaluate(
            lambda frame: frame["a"] / 8,
            rows,
            targets="label",
            model_type="regressor",
            extra_metrics=[twice],
            evaluator_config={"metric_prefix": "f_", "log_explainer": False},
        )
    look(run.info.run_id)
    with mlflow.start_run(run_name="predictions") as run:
        known = mlflow.data.from_pandas(
            rows.assign(said=[0, 0, 1, 1, 1, 1, 0, 1]),
            source="https://example.org/said.csv",
            targets="label",
            predictions="said",
            name="said",
        )
        said = mlflow.models.evaluate(data=known, model_type="classifier")
    look(run.info.run_id)
    threshold = mlflow.models.MetricThreshold
    mlflow.validate_evaluation_results({"accuracy_score": threshold(threshold=0.5, greater_is_better=True)}, said)
    for wanted, better in (
        ({"mean_absolute_error": threshold(threshold=0.01, greater_is_better=False)}, line),
        ({"accuracy_score": threshold(min_relative_change=0.9, greater_is_better=True)}, said),
        ({"accuracy_score": threshold(min_absolute_change=0.01, greater_is_better=True)}, said),
        ({"nothing": threshold(threshold=1, greater_is_better=True)}, said),
    ):
        with refused():
            mlflow.validate_evaluation_results(wanted, better, binary)
    mlflow.models.evaluate(data=known, model_type="classifier")  # without a run: it makes one
    client.search_runs(
        [run.info.experiment_id], "metrics.accuracy_score > 0.5", order_by=["metrics.accuracy_score DESC"]
    )
    for text in (
        "dataset.name = 'rows'",
        "dataset.name != 'rows'",
        "datasets.name LIKE 'sa%' and dataset.context = 'eval'",
        "dataset.`digest` IN ('none')",
        "dataset.context NOT IN ('eval')",
        "dataset.context = 'training'",
        "dataset.name ILIKE 'ROWS' and metrics.accuracy_score > 0.5",
        "dataset.source = 'x'",
        "dataset.name > 'rows'",
        "dataset.name = 5",
    ):
        with refused():
            client.search_runs([run.info.experiment_id], text)


class Recorder:
    """Notes what is sent and answered, ids and times replaced by words that are the same on every server."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._known: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def add(self, request: Any, answer: Any) -> None:
        """Note a call."""
        address = urlsplit(request.url)
        kind = answer.headers.get("Content-Type", "")
        told: Any = answer.json() if "json" in kind else "<file>" if answer.status_code == 200 else answer.text
        query = dict(parse_qsl(address.query))
        sent = self.plain(
            {"call": f"{request.method} {unquote(address.path)}", "query": query, "status": answer.status_code}
        )
        if request.method == "PUT" and answer.status_code == 200:
            told = "<taken>"
        self.calls.append({**sent, "answer": self.plain(told)})

    def ordered(self) -> list[dict[str, Any]]:
        """Return the calls, those about files that follow each other by their words, and an answer that was given before as such."""
        found: list[dict[str, Any]] = []
        for files, group in itertools.groupby(self.calls, lambda call: _FILES in call["call"]):
            some = list(group)
            found += sorted(some, key=json.dumps) if files else some
        known: dict[str, Any] = {}
        for place, call in enumerate(found):
            asked = json.dumps([call["call"], call.get("query")])
            if call.get("answer") and known.get(asked) == call["answer"]:
                found[place] = {**call, "answer": "<as before>"}
            known[asked] = call.get("answer")
        return found

    def plain(self, value: Any, key: str = "") -> Any:  # noqa: C901, PLR0911, PLR0912 - one line for each kind of value
        """Return a value in the form that is compared."""
        if isinstance(value, float) and abs(value) < 1e300:
            return float(f"{value:.12g}")  # a logarithm's last digit is the processor's
        if isinstance(value, dict):
            if value.get("source_type") == "code":  # by whom, and in which file
                value = {**value, "source": "<own>"}
            if value.get("key") in _OWN or str(value.get("key", "")).startswith("mlflow.source."):
                return {**value, "value": "<own>"}
            if value.get("key") == "mlflow.datasets":  # the digest of rows looks like the id of a run
                value = {**value, "value": re.sub(r'(?<="hash":")[0-9a-f]{32}', "<hash>", value["value"])}
            if "dataset_inputs" in value:  # there in the order of ids that are made at random
                value = {**value, "dataset_inputs": sorted(value["dataset_inputs"], key=json.dumps)}
            if value.get("path") == "MLmodel":  # it says the ids, which are shorter here than there
                value = {**value, "file_size": "<size>"}
            for name, kind in _IDS.items():
                if isinstance(value.get(name), str) and (kind != "experiment" or value[name].isdecimal()):
                    self._note(value[name], kind)
            # What is empty may be left out.
            found = {name: self.plain(one, name) for name, one in sorted(value.items())}
            return {name: one for name, one in found.items() if one not in ([], {})}
        if isinstance(value, list):
            found = [self.plain(one, key) for one in value]
            found = [one for one in found if not (isinstance(one, dict) and one.get("key") in _ABOUT)]
            keyed = all(isinstance(one, dict) and "key" in one and "run_id" not in one for one in found)
            history = len({one["key"] for one in found}) < len(found) if keyed else True
            return found if history else sorted(found, key=lambda one: str(one["key"]))
        if key in _TIMES and isinstance(value, int) and value > 10**11:
            return "<time>"
        if key in _OWN:
            return "<own>"
        if key in {"next_page_token", "page_token"} and value:
            return "<token>"
        if isinstance(value, str) and _MADE_UP.fullmatch(value):
            return "<made-up name>"
        if key == "message":  # sets are told in any order
            value = re.sub(r"(Valid keys are|not one of|mandatory fields:) .*", r"\1 ...", value)
        return (
            self._named(value, whole=key == "path" or key.startswith("experiment") or key in _IDS)
            if isinstance(value, str)
            else value
        )

    def _note(self, identity: str, kind: str) -> None:
        if identity and identity not in self._known and (kind != "experiment" or len(identity) < 20):
            if kind == "experiment" and identity in {"0", ""}:
                return
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._known[identity] = f"<{kind} {self._counts[kind]}>"

    def _named(self, text: str, *, whole: bool) -> str:
        for kind, pattern in _NUMBERED.items():
            for identity in pattern.findall(text):
                if identity.strip("0"):
                    self._note(identity, kind)
        for identity, name in self._known.items():
            # A number stands for an experiment only where one is meant.
            start = "^|" if whole else ""
            before = (
                rf"(?:{start}(?<=artifacts/)|(?<=artifacts:/)|(?<=id=)|(?<=with id )|(?<=artifact: ')|(?<=experiment ))"
                if identity.isdecimal()
                else ""
            )
            text = re.sub(rf"{before}(?<![\w.-]){re.escape(identity)}(?![\w.-])", name, text)
        return text


def play(url: str, names: list[str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Play the flows against a server, and return what it answered; those are left out whose calls it doesn't know."""
    import mlflow
    import requests

    send = requests.adapters.HTTPAdapter.send
    found: dict[str, list[dict[str, Any]]] = {}
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    for name in names or list(FLOWS):
        needed = NEEDED.get(name)
        if needed:
            asked = requests.get(url + needed, timeout=60)
            if asked.status_code == 404 and "traces" not in name:
                continue
            if "traces" in name and requests.post(url + needed, json={}, timeout=60).status_code == 404:
                continue
        recorder = Recorder()

        def recorded(adapter: Any, request: Any, *rest: Any, recorder: Recorder = recorder, **more: Any) -> Any:
            try:
                answer = send(adapter, request, *rest, **more)
            except requests.exceptions.RetryError:
                recorder.calls.append({"call": f"{request.method} {urlsplit(request.url).path}", "status": 500})
                raise
            recorder.add(request, answer)
            return answer

        requests.adapters.HTTPAdapter.send = recorded
        try:
            # The same words each time, and yet a name that nobody has: what is between the brackets is taken out again.
            title = f"flow {name} ({os.urandom(4).hex()})"
            FLOWS[name](mlflow, mlflow.MlflowClient(url), title)
        finally:
            requests.adapters.HTTPAdapter.send = send
        text = (
            json.dumps(recorder.ordered() if name in _UNORDERED else recorder.calls)
            .replace(title, f"flow {name}")
            .replace(title.replace(" ", "-"), f"flow-{name}")
        )
        text = text.replace(title.split("(")[1].rstrip(")"), "x").replace(url, "<url>")
        found[name] = json.loads(text)
    return found


if __name__ == "__main__":
    import requests

    version = requests.get(f"{sys.argv[1]}/version", timeout=60).text
    answers = {"flows": play(sys.argv[1], sys.argv[3:] or None)}
    lines = [
        f'  "{name}": [\n' + ",\n".join(f"   {json.dumps(call, ensure_ascii=False)}" for call in calls) + "\n  ]"
        for name, calls in answers["flows"].items()
    ]
    Path(sys.argv[2]).write_text(f'{{"version": "{version}", "flows": {{\n' + ",\n".join(lines) + "\n}}\n")
