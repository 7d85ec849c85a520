"""Models both ways between the unmodified MLflow client and Kilter: logged, deployed, asked, and taken back, bit for bit."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from kilter.cli.main import main
from kilter.loop.workspace import Workspace, connect
from kilter.operations.running import RunFolder
from kilter.packaging.bundle import load

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    # the client leaves its kept connections to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
mlflow = pytest.importorskip("mlflow")
request_utils = pytest.importorskip("mlflow.utils.request_utils")
lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")
pandas = pytest.importorskip("pandas")
pytest.importorskip("skops")
linear_model = pytest.importorskip("sklearn.linear_model")

_PATIENCE = 90.0
VIEWER = "viewer-of-the-test"


class Place:
    """A store with a server and a front on it.

    Args:
        store: The store.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._running: list[subprocess.Popen[bytes]] = []
        self.url = self._start("server")
        self.token = RunFolder(store / "run").token()
        self.front = httpx.Client(base_url=self._start("serve"), timeout=30)

    def _start(self, what: str) -> str:
        command = [sys.executable, "-m", "kilter.cli.main", what, "--store", str(self.store), "--port", "0"]
        environment = {**os.environ, "KILTER_VIEWER_TOKEN": VIEWER}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        self._running.append(process)
        folder = RunFolder(self.store / "run")
        deadline = time.monotonic() + _PATIENCE
        while (running := folder.read(what)) is None or running.pid != process.pid:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return running.url

    def kilter(self, *command: str, code: int = 0) -> Any:
        """Run a command of the command line on the store."""
        out, said = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(said):
            try:
                found = main([*command, "--store", str(self.store), "--json"])
            except SystemExit as ended:
                found = ended.code
        assert (found or 0) == code, out.getvalue() + said.getvalue()
        return json.loads(out.getvalue()) if code == 0 else out.getvalue() + said.getvalue()

    def runtime(self, name: str) -> Any:
        """Return the version that an endpoint answers with, loaded in this process."""
        with Workspace.open(self.store) as workspace:
            return load(workspace.models.get(name).bundle, workspace.objects)

    def ask(self, rows: Any, name: str = "asked") -> tuple[list[Any], list[Any]]:
        """Return what the newest version of an endpoint answers to a frame: by MLflow's scoring protocol, and by the Open Inference Protocol."""
        split = json.loads(rows.to_json(orient="split", double_precision=15, index=False))
        split["data"] = rows.astype(object).to_numpy().tolist()
        inputs = [
            {
                "name": column,
                "shape": [len(rows)],
                "datatype": "BYTES" if rows[column].dtype.kind not in "fi" else "FP64",
                "data": rows[column].tolist(),
            }
            for column in rows.columns
        ]
        with Workspace.open(self.store) as workspace:
            version = workspace.models.get(name).version
        path = f"/serving-endpoints/{name}/served-models/{version}/invocations"
        deadline = time.monotonic() + _PATIENCE
        while (answer := self.front.post(path, json={"dataframe_split": split})).status_code in {404, 503}:
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)
        assert answer.status_code == 200, answer.text
        infer = self.front.post(f"/v2/models/{name}/versions/{version}/infer", json={"inputs": inputs})
        assert infer.status_code == 200, infer.text
        return answer.json()["predictions"], infer.json()["outputs"][0]["data"]

    def close(self) -> None:
        """End everything."""
        self.front.close()
        for process in reversed(self._running):
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("models") / "store")
    mlflow.set_tracking_uri(made.url)
    yield made
    made.close()
    with warnings.catch_warnings():  # the client keeps connections for itself, and leaves them to the garbage collector
        warnings.simplefilter("ignore")
        request_utils._cached_get_request_session.cache_clear()
        gc.collect()


@pytest.fixture(autouse=True)
def on_the_server(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", place.token)
    mlflow.set_tracking_uri(place.url)
    mlflow.set_experiment("models")
    yield
    mlflow.autolog(disable=True)
    mlflow.end_run()


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(3)
    frame = pandas.DataFrame(random.normal(size=(300, 3)), columns=["a", "b", "c"])
    return frame, (frame.a + frame.b * frame.c > 0).astype(int)


@pytest.fixture(scope="module")
def texts(data):
    """Rows with a column of text, coded in an order that is not the alphabet's."""
    random = np.random.default_rng(4)
    frame = data[0].copy()
    carriers = np.array(["UA", "DL", "AA", "B6"])[random.integers(0, 4, len(frame))]
    frame["carrier"] = pandas.Categorical(carriers, categories=["UA", "B6", "DL", "AA"])
    return frame, ((frame.a > 0) ^ frame.carrier.isin(["DL", "B6"])).astype(int)


def exactly(found: list[Any], expected: Any) -> None:
    assert np.array_equal(np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64))


# ---------------------------------------------------------------- from MLflow to an endpoint


def test_a_logged_scikit_learn_model_answers(place, data):
    model = linear_model.LogisticRegression().fit(*data)
    logged = mlflow.sklearn.log_model(
        model, name="model", serialization_format="skops", input_example=data[0][:5], pip_requirements=[]
    )
    assert logged.model_uri.startswith("models:/m-")
    place.kilter("deploy", logged.model_uri, "--name", "asked")
    for answers in place.ask(data[0][:20]):
        exactly(answers, model.predict_proba(data[0][:20])[:, 1])


def test_a_logged_xgboost_model_answers(place, data):
    model = xgboost.XGBClassifier(n_estimators=12, max_depth=3, n_jobs=1).fit(*data)
    with mlflow.start_run() as run:
        mlflow.xgboost.log_model(model, name="boosted", input_example=data[0][:5], pip_requirements=[])
    place.kilter("deploy", f"runs:/{run.info.run_id}/boosted", "--name", "asked")
    for answers in place.ask(data[0][:20]):
        exactly(answers, model.predict_proba(data[0][:20])[:, 1])


def test_a_logged_torch_model_is_registered_and_answers(place, data):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Sigmoid()]
    model, rows = torch.nn.Sequential(*layers).eval(), data[0].to_numpy(dtype=np.float32)
    mlflow.pytorch.log_model(
        model,
        name="network",
        input_example=rows[:5],
        serialization_format="pt2",
        pip_requirements=[],
        registered_model_name="network",
    )
    with torch.no_grad():
        expected = model(torch.from_numpy(rows[:20])).numpy()
    loaded = mlflow.pyfunc.load_model("models:/network/1")
    assert loaded.predict(rows[:20]).tobytes() == expected.tobytes()
    place.kilter("deploy", "models:/network/1", "--name", "network-live")
    deadline = time.monotonic() + _PATIENCE
    while not (about := place.front.get("/v2/models/network-live").json()).get("inputs"):
        assert time.monotonic() < deadline, about
        time.sleep(0.05)
    (asked,) = about["inputs"]
    tensor = {
        "name": asked["name"],
        "shape": [20, 3],
        "datatype": asked["datatype"],
        "data": rows[:20].ravel().tolist(),
    }
    answer = place.front.post("/v2/models/network-live/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    found = np.asarray(answer.json()["outputs"][0]["data"], dtype=np.float32)
    assert found.tobytes() == expected.ravel().tobytes()
    answer = place.front.post("/serving-endpoints/network-live/invocations", json={"inputs": rows[:20].tolist()})
    assert answer.status_code == 200, answer.text
    exactly(np.ravel(answer.json()["predictions"]).astype(np.float32).tolist(), expected.ravel())


@pytest.mark.slow  # the client looks for what each model needs in a process of its own
@pytest.mark.parametrize("kind", ["sklearn", "xgboost", "lightgbm"])
def test_what_autologging_left_answers(place, data, kind):
    told = {"serialization_format": "skops"} if kind == "sklearn" else {}
    getattr(mlflow, kind).autolog(log_input_examples=True, silent=True, **told)
    with mlflow.start_run() as run:
        match kind:
            case "sklearn":
                expected = linear_model.LogisticRegression().fit(*data).predict_proba(data[0][:20])[:, 1]
            case "xgboost":
                model = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(*data), 8)
                expected = model.predict(xgboost.DMatrix(data[0][:20]))
            case _:
                given = {"objective": "binary", "num_threads": 1, "verbosity": -1}
                expected = lightgbm.train(given, lightgbm.Dataset(*data), 11).predict(data[0][:20], num_threads=1)
    getattr(mlflow, kind).autolog(disable=True)
    (logged,) = mlflow.search_logged_models(filter_string=f"source_run_id = '{run.info.run_id}'", output_format="list")
    place.kilter("deploy", f"models:/{logged.model_id}", "--name", "asked")
    for answers in place.ask(data[0][:20]):
        exactly(answers, expected)


def test_a_forest_answers(place, data, tmp_path):
    ensemble = pytest.importorskip("sklearn.ensemble")
    model = ensemble.RandomForestClassifier(5, random_state=0, n_jobs=1).fit(*data)
    mlflow.sklearn.save_model(
        model,
        tmp_path / "forest",
        input_example=data[0][:5],
        pip_requirements=[],
        serialization_format="skops",
        skops_trusted_types=["sklearn.tree._tree.Tree"],
    )
    place.kilter("deploy", str(tmp_path / "forest"), "--name", "asked")
    for answers in place.ask(data[0][:20]):
        exactly(answers, model.predict_proba(data[0][:20])[:, 1])
    loaded = mlflow.pyfunc.load_model(exported(place, "asked", tmp_path / "out"))
    exactly(loaded.predict(data[0]), model.predict_proba(data[0])[:, 1])


def test_a_lightgbm_estimator_inside_of_a_skops_file_answers_with_its_own_categories(place, texts):
    model = lightgbm.LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1, min_child_samples=3).fit(*texts)
    logged = mlflow.lightgbm.log_model(
        model, name="with-texts", input_example=texts[0][:2], pip_requirements=[]
    )  # two of four carriers
    place.kilter("deploy", logged.model_uri, "--name", "asked")
    rows = texts[0][:40].assign(carrier=texts[0].carrier.astype(object))
    for answers in place.ask(rows):
        exactly(answers, model.predict_proba(texts[0][:40])[:, 1])


def test_an_xgboost_model_answers_with_the_categories_that_it_keeps(place, texts, tmp_path):
    model = xgboost.XGBClassifier(n_estimators=9, enable_categorical=True, n_jobs=1).fit(*texts)
    mlflow.xgboost.save_model(model, tmp_path / "model", pip_requirements=[])
    rows = texts[0][:40].assign(carrier=texts[0].carrier.astype(object))
    rows[:1].to_csv(tmp_path / "one.csv", index=False)
    place.kilter("deploy", str(tmp_path / "model"), "--name", "asked", "--example", str(tmp_path / "one.csv"))
    for answers in place.ask(rows):
        exactly(answers, model.predict_proba(texts[0][:40])[:, 1])


def test_a_logged_onnx_graph_with_its_weights_beside_it_answers(place, data):
    convert = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    neural = pytest.importorskip("sklearn.neural_network")
    model = neural.MLPClassifier((64,), max_iter=30, random_state=0).fit(data[0].to_numpy(), data[1])
    rows = data[0].to_numpy(dtype=np.float32)
    graph = convert.to_onnx(model, rows[:1], options={"zipmap": False})
    with mlflow.start_run() as run:
        logged = mlflow.onnx.log_model(
            graph, name="graph", input_example=rows[:4], size_threshold=16, pip_requirements=[]
        )
    place.kilter("deploy", logged.model_uri, "--name", "asked")
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: rows[:20]})[1][:, 1]
    frame = pandas.DataFrame(rows[:20].astype(float), columns=[f"x{place}" for place in range(3)])
    for answers in place.ask(frame):
        exactly(answers, expected)
    assert run.info.run_id


def test_a_pipeline_of_text_and_numbers_answers(place, texts):
    compose, preprocessing = pytest.importorskip("sklearn.compose"), pytest.importorskip("sklearn.preprocessing")
    pipeline = pytest.importorskip("sklearn.pipeline")
    rows = texts[0].assign(carrier=texts[0].carrier.astype(object))
    columns = compose.make_column_transformer(
        (preprocessing.OneHotEncoder(handle_unknown="ignore"), ["carrier"]), remainder="passthrough"
    )
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression()).fit(rows, texts[1])
    logged = mlflow.sklearn.log_model(
        model, name="pipeline", serialization_format="skops", input_example=rows[:2], pip_requirements=[]
    )
    place.kilter("deploy", logged.model_uri, "--name", "asked")
    for answers in place.ask(rows[:30]):
        exactly(answers, model.predict_proba(rows[:30])[:, 1])


def test_pickles_are_refused_with_the_way_out(place, data):
    model = linear_model.LogisticRegression().fit(*data)
    logged = mlflow.sklearn.log_model(
        model, name="pickled", serialization_format="cloudpickle", input_example=data[0][:2], pip_requirements=[]
    )
    said = place.kilter("deploy", logged.model_uri, "--name", "asked", code=2)
    assert "the model is a pickle (cloudpickle)" in said
    assert "model.pkl" in said
    assert "log it again with serialization_format" in said
    # the way out, in a process that trusts the file
    import kilter

    kilter.deploy(mlflow.sklearn.load_model(logged.model_uri), name="asked", example=data[0][:5], store=place.store)
    exactly(place.ask(data[0][:9])[0], model.predict_proba(data[0][:9])[:, 1])


def test_what_is_not_there_is_said(place):
    for uri in ("models:/m-nothing", "runs:/nothing/model", "models:/nobody/1"):
        assert "NotFound" in place.kilter("deploy", uri, "--name", "nothing", code=1)
    assert "names no model" in place.kilter("deploy", "models://profile/x", "--name", "nothing", code=2)


# ---------------------------------------------------------------- from Kilter to MLflow


def exported(place: Place, name: str, folder: Path) -> str:
    place.kilter("export", name, "--target", "mlflow", "--out", str(folder))
    return str(folder)


def test_a_version_is_loaded_by_pyfunc_from_the_server_and_from_a_folder(place, texts, tmp_path):
    import kilter

    model = lightgbm.LGBMClassifier(n_estimators=15, n_jobs=1, verbose=-1, min_child_samples=3).fit(*texts)
    rows = texts[0][:60].assign(carrier=texts[0].carrier.astype(object))
    rows.loc[3, "carrier"] = "ZZ"
    rows.loc[4, ["a", "carrier"]] = None
    kilter.deploy(model, name="flight-delay", example=texts[0][:80], store=place.store)
    runtime = place.runtime("flight-delay")
    expected = runtime.predict(runtime.encoding.rows(rows.astype(object).where(rows.notna(), None).to_dict("records")))
    for uri in ("mlflow-artifacts:/models/flight-delay/1", exported(place, "flight-delay", tmp_path / "out")):
        loaded = mlflow.pyfunc.load_model(uri)
        exactly(loaded.predict(rows), expected)
        exactly(loaded.predict(rows.drop(columns="b")), loaded.predict(rows.assign(b=np.nan)))
        exactly(loaded.predict(loaded.input_example), runtime.manifest.example_values[:5])
        assert [column.name for column in loaded.metadata.get_input_schema()] == ["a", "b", "c", "carrier"]
    # the native flavour codes a frame's categories as the bundle does
    booster = mlflow.lightgbm.load_model(str(tmp_path / "out"))
    known = rows[~rows.carrier.isin(["ZZ"])].dropna().assign(carrier=lambda held: held.carrier.astype("category"))
    exactly(booster.predict(known, num_threads=1), expected[known.index])
    exactly(place.ask(known.assign(carrier=known.carrier.astype(object)), "flight-delay")[0], expected[known.index])


@pytest.mark.parametrize("kind", ["xgboost", "sklearn", "many", "linear", "onnx"])
def test_every_form_goes_back_bit_for_bit(place, data, tmp_path, kind):
    import kilter

    frame, label = data
    match kind:
        case "xgboost":
            model = xgboost.XGBRegressor(n_estimators=7, n_jobs=1).fit(frame, frame.a * 2)
        case "many":
            model = linear_model.LogisticRegression().fit(frame, label + (frame.b > 1))
        case "onnx":
            pytest.importorskip("onnxruntime")
            model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(frame, label)
        case _:
            model = linear_model.LogisticRegression().fit(frame, label)
    name = "kept"
    kilter.deploy(model, name=name, example=frame[:50], store=place.store)
    if kind in {"linear", "onnx"}:
        with Workspace.open(place.store) as workspace:
            from kilter.loop.versions.deploy import release
            from kilter.loop.versions.optimizing import parts_of
            from kilter.packaging.forms import forms_of

            parts = parts_of(workspace, workspace.models.get(name).bundle)
            other = dict(forms_of(parts))["folded" if kind == "linear" else "onnx"]()
            release(workspace, name, other)
    runtime = place.runtime(name)
    uri = exported(place, name, tmp_path / "out")
    expected = runtime.predict(np.ascontiguousarray(frame.to_numpy()))
    loaded = mlflow.pyfunc.load_model(uri)
    exactly(loaded.predict(frame), expected)
    flavors = set(loaded.metadata.flavors) - {"python_function"}
    assert flavors == {"xgboost": {"xgboost"}, "linear": set(), "onnx": {"onnx"}}.get(kind, {"sklearn"})
    match kind:
        case "xgboost":
            exactly(mlflow.xgboost.load_model(uri).inplace_predict(frame.to_numpy()), expected)
        case "many":
            exactly(mlflow.sklearn.load_model(uri).predict_proba(frame), expected)
        case "sklearn":
            exactly(mlflow.sklearn.load_model(uri).predict_proba(frame)[:, 1], expected)


def test_what_was_exported_is_deployed_again(place, data, tmp_path):
    import kilter

    model = lightgbm.LGBMRegressor(n_estimators=5, verbose=-1, n_jobs=1).fit(data[0], data[0].a)
    made = kilter.deploy(model, name="kept", example=data[0][:10], store=place.store)
    exported(place, "kept", tmp_path / "out")
    for source in (
        str(tmp_path / "out"),
        f"models:/kept/{made.version}",
        "models:/kept@champion",
        f"mlflow-artifacts:/models/kept/{made.version}",
    ):
        again = place.kilter("deploy", source, "--name", "again")
        assert again["flavor"] == "lightgbm-text"
        exactly(place.runtime("again").predict(data[0].to_numpy()), model.predict(data[0]))


def test_the_folders_of_versions_are_read_only_and_for_operators(place, data):
    import kilter

    model = linear_model.LinearRegression().fit(data[0], data[0].a)
    number = kilter.deploy(model, name="kept", example=data[0][:10], store=place.store).version
    proxy = f"{place.url}/api/2.0/mlflow-artifacts/artifacts"
    bearer = {"Authorization": f"Bearer {place.token}"}
    asked = httpx.Client(timeout=30)
    found = asked.get(f"{proxy}/models/kept/{number}/MLmodel", headers=bearer)
    assert found.status_code == 200
    assert b"python_function" in found.content
    looking = {"Authorization": f"Bearer {VIEWER}"}
    assert asked.get(f"{proxy}/models/kept/{number}/MLmodel", headers=looking).status_code == 403
    listed = asked.get(proxy, params={"path": f"models/kept/{number}"}, headers=bearer).json()["files"]
    assert {file["path"] for file in listed} >= {"MLmodel", "code", "model.skops", "requirements.txt"}
    for method, path in (("PUT", f"models/kept/{number}/MLmodel"), ("DELETE", f"models/kept/{number}/MLmodel")):
        assert asked.request(method, f"{proxy}/{path}", headers=bearer).status_code == 400
    for path in (f"models/kept/{number + 1}/MLmodel", "models/nobody/1/MLmodel", f"models/kept/{number}/else"):
        assert asked.get(f"{proxy}/{path}", headers=bearer).status_code == 404
    assert asked.get(f"{proxy}/models/kept/{number}/%2e%2e/%2e%2e/x", headers=bearer).status_code == 400
    asked.close()


def test_a_bundle_of_the_store_is_the_same_through_the_server(place, data):
    import kilter

    model = linear_model.LinearRegression().fit(data[0], data[0].a)
    made = kilter.deploy(model, name="kept", example=data[0][:10], store=place.store)
    with connect(place.url, place.token) as there:
        assert there.models.get("kept").bundle == made.bundle


def test_a_registered_version_answers(place, data):
    model = linear_model.LogisticRegression().fit(*data)
    mlflow.sklearn.log_model(
        model,
        name="m",
        serialization_format="skops",
        input_example=data[0][:5],
        registered_model_name="by-hand",
        pip_requirements=[],
    )
    mlflow.MlflowClient().set_registered_model_alias("by-hand", "best", "1")
    for uri in ("models:/by-hand/1", "models:/by-hand@best"):
        place.kilter("deploy", uri, "--name", "asked")
        for answers in place.ask(data[0][:20]):
            exactly(answers, model.predict_proba(data[0][:20])[:, 1])
    import kilter

    made = kilter.deploy(model, name="kept", example=data[0][:10], store=place.store)
    loaded = mlflow.pyfunc.load_model(f"models:/kept/{made.version}")
    exactly(loaded.predict(data[0]), model.predict_proba(data[0])[:, 1])
    again = place.kilter("deploy", f"models:/kept/{made.version}", "--name", "again")
    assert again["bundle"] == made.bundle
