"""The platforms' own clients, unmodified: kserve, boto3, mlflow, curl; and their documented requests where a client needs a cloud."""

import importlib.util
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kilter.serving.recording.predictions import PredictionLog, to_frame
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

ROWS = [[0.5, -1.0, 2.0, 0.25], [1.5, 1.0, -2.0, 0.5], [-0.5, 0.0, 0.125, -3.0]]
NAMES = ["a", "b", "c", "d"]
RECORDS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
CITIES = [{"x": 0.5, "city": "Köln"}, {"x": 1.0, "city": "Ulm"}, {"x": 0.5, "city": "Rom"}]


def same(found, expected):
    np.testing.assert_allclose(np.asarray(found, dtype=float), expected, atol=1e-12)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, models):
    """A front with one endpoint, which routes without a name mean, under the environment of a Vertex container."""
    import os

    with RunningFront(tmp_path_factory.mktemp("alone")) as running:
        # the same bundle, from the same bytes
        for path in (models.folder / "objects").rglob("*"):
            if path.is_file():
                target = running.folder / "objects" / path.relative_to(models.folder / "objects")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        running.plan(TrafficPlan(loop="tree", champion=1, bundles={1: models.bundles["tree"]}))
        os.environ |= {"AIP_PREDICT_ROUTE": "/vertex/predict", "AIP_HEALTH_ROUTE": "/vertex/health"}
        try:
            yield running.start()
        finally:
            for name in ("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"):
                del os.environ[name]


# ---------------------------------------------------------------- KServe and TensorFlow Serving


def test_every_call_of_kserves_client(models):
    if importlib.util.find_spec("kserve") is None:
        pytest.skip("kserve is not installed")
    url = str(models.client.base_url)
    calls = Path(__file__).parent / "kserve_calls.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(calls), url, json.dumps(ROWS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["live"], found["ready"], found["model"], found["none"]) == (True, True, True, False)
    assert (found["v1 live"], found["v1 model"]) == (True, True)
    same(found["json"], models.answers)
    same(found["binary"], models.answers)
    assert (found["json id"], found["binary id"]) == ("r-1", "r-1")
    same(found["v1"]["predictions"], models.answers)
    assert "there are no inputs" in found["refused"]
    sums = [
        one["value"]["base"] + sum(one["value"]["contributions"].values()) for one in found["explained"]["explanations"]
    ]
    same(sums, models.answers)
    assert "can't be explained" in found["explain"]


def test_v1_rows_and_columns(models):
    post = models.client.post
    same(post("/v1/models/tree:predict", json={"instances": RECORDS}).json()["predictions"], models.answers)
    named = {name: [row[place] for row in ROWS] for place, name in enumerate(NAMES)}
    same(post("/v1/models/tree:predict", json={"inputs": named}).json()["outputs"], models.answers)
    lists = {name: [[value] for value in values] for name, values in named.items()}
    same(post("/v1/models/tree:predict", json={"inputs": lists}).json()["outputs"], models.answers)
    same(post("/v1/models/tree:predict", json={"inputs": {"input": ROWS}}).json()["outputs"], models.answers)
    same(post("/v1/models/tree:predict", json={"inputs": ROWS}).json()["outputs"], models.answers)
    same(post("/v1/models/classes:predict", json={"instances": ROWS}).json()["predictions"], models.probabilities)
    same(post("/v1/models/mixed:predict", json={"instances": CITIES}).json()["predictions"], models.mixed)
    lists_of_text = [[one["x"], one["city"]] for one in CITIES]
    same(post("/v1/models/mixed:predict", json={"instances": lists_of_text}).json()["predictions"], models.mixed)


def test_v1_versions_labels_classes_and_values(models):
    post = models.client.post
    asked = {"instances": [[1.0]]}
    assert post("/v1/models/split/versions/2:predict", json=asked).json() == {"predictions": [0.2]}
    assert post("/v1/models/split/versions/3:predict", json=asked).json() == {"predictions": [0.3]}
    assert post("/v1/models/split/labels/stable:predict", json=asked).json() == {"predictions": [0.1]}
    assert post("/v1/models/split/labels/canary:predict", json=asked).json() == {"predictions": [0.2]}
    assert post("/v1/models/split/versions/9:predict", json=asked).status_code == 404
    assert post("/v1/models/split/labels/other:predict", json=asked).status_code == 404
    found = post("/v1/models/tree:regress", json={"examples": RECORDS}).json()["results"]
    same(found, models.answers)
    context = {"context": {"a": 0.5}, "examples": [{"b": -1.0, "c": 2.0, "d": 0.25}]}
    same(post("/v1/models/tree:regress", json=context).json()["results"], models.answers[:1])
    found = post("/v1/models/classes:classify", json={"examples": RECORDS}).json()["results"]
    assert [name for name, _ in found[0]] == ["0", "1", "2"]
    same([[score for _, score in row] for row in found], models.probabilities)
    assert post("/v1/models/classes:regress", json={"examples": RECORDS}).status_code == 400


def test_v1_about_models(models):
    get = models.client.get
    assert get("/").json() == {"status": "alive"}
    assert get("/v1/models").json()["models"] == ["classes", "mixed", "split", "tree"]
    status = get("/v1/models/split/versions/2").json()["model_version_status"]
    assert status == [{"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}]
    signature = get("/v1/models/tree/metadata").json()["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["input"]["dtype"] == "DT_DOUBLE"
    assert [one["size"] for one in signature["inputs"]["input"]["tensor_shape"]["dim"]] == ["-1", "4"]
    assert get("/v1/models/none").status_code == 404


# ---------------------------------------------------------------- SageMaker


@pytest.fixture(scope="module")
def runtime(models):
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    return boto3.client(
        "sagemaker-runtime", endpoint_url=str(models.client.base_url), region_name="eu-central-1",
        aws_access_key_id="x", aws_secret_access_key="y", config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip


def test_invoke_endpoint(runtime, models):
    for body, kind in (
        (json.dumps({"instances": ROWS}), "application/json"),
        ("\n".join(",".join(map(str, row)) for row in ROWS), "text/csv"),
    ):
        found = runtime.invoke_endpoint(EndpointName="tree", Body=body, ContentType=kind, CustomAttributes="trace=7")
        same(json.loads(found["Body"].read())["predictions"], models.answers)
        assert (found["InvokedProductionVariant"], found["CustomAttributes"]) == ("v1", "trace=7")
    found = runtime.invoke_endpoint(
        EndpointName="tree", Body=json.dumps(ROWS), ContentType="application/json", Accept="text/csv"
    )
    assert found["ContentType"].startswith("text/csv")
    same([float(line) for line in found["Body"].read().split()], models.answers)


def test_target_variants_name_versions(runtime):
    def answered(**asked):
        found = runtime.invoke_endpoint(EndpointName="split", Body=b"[[1.0]]", ContentType="application/json", **asked)
        return found["InvokedProductionVariant"], json.loads(found["Body"].read())["predictions"]

    assert answered(TargetVariant="v2") == ("v2", [0.2])
    assert answered(TargetVariant="champion") == ("v1", [0.1])
    assert answered(TargetVariant="challenger") == ("v2", [0.2])
    assert answered()[0] in {"v1", "v2"}
    sticky = {answered(SessionId=f"session-{number}")[0] for number in range(20)}
    assert sticky == {"v1", "v2"}
    assert len({answered(SessionId="session-5")[0] for _ in range(5)}) == 1
    with pytest.raises(runtime.exceptions.ClientError, match="not loaded"):
        answered(TargetVariant="v7")


def test_inference_ids_are_keys_and_sessions_begin(runtime, models):
    for rows, name in (([[1.0]], "order-17"), ([[1.0], [2.0]], "order-18")):
        runtime.invoke_endpoint(
            EndpointName="split", Body=json.dumps(rows), ContentType="application/json", InferenceId=name
        )
    log = PredictionLog.open(models.folder / "log")
    keys = to_frame(log.read(), loop="split").filter(pl.col("key").str.starts_with("order-1"))["key"].to_list()
    log.close()
    assert keys == ["order-17", "order-18-0", "order-18-1"]
    found = runtime.invoke_endpoint(
        EndpointName="split", Body="[[1.0]]", ContentType="application/json", SessionId="NEW_SESSION"
    )
    assert len(found["NewSessionId"]) == 32


def test_the_answer_as_a_stream(runtime, models):
    found = runtime.invoke_endpoint_with_response_stream(
        EndpointName="tree", Body=json.dumps({"inputs": ROWS}), ContentType="application/json"
    )
    parts = b"".join(event["PayloadPart"]["Bytes"] for event in found["Body"])
    same(json.loads(parts)["predictions"], models.answers)
    assert found["InvokedProductionVariant"] == "v1"


def test_what_the_service_refuses(runtime):
    error = runtime.exceptions.ClientError
    with pytest.raises(error, match="no such endpoint"):
        runtime.invoke_endpoint(EndpointName="none", Body="[]", ContentType="application/json")
    with pytest.raises(error, match=r"body\[0\]"):
        runtime.invoke_endpoint(EndpointName="tree", Body="[[1]]", ContentType="application/json")
    with pytest.raises(error, match="not offered"):
        runtime.invoke_endpoint(
            EndpointName="tree", Body="[[1]]", ContentType="application/json", TargetModel="x.tar.gz"
        )
    with pytest.raises(error, match="bucket"):
        runtime.invoke_endpoint_async(EndpointName="tree", InputLocation="s3://bucket/key")


# ---------------------------------------------------------------- MLflow and Databricks


def test_mlflows_scoring_client(alone, models):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    code = f"""
import json, numpy as np, pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
client = ScoringServerClient("127.0.0.1", {alone.client.base_url.port})
client.ping()
client.wait_server_ready()
rows = np.array({ROWS})
print(json.dumps([client.get_version(), client.invoke(rows)["predictions"], client.invoke(pd.DataFrame(rows, columns=list("abcd")))["predictions"]]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip("this mlflow has no scoring client")
    assert done.returncode == 0, done.stderr
    version, first, second = json.loads(done.stdout.splitlines()[-1])
    assert version
    same(first, models.answers)
    same(second, models.answers)


BODIES = {
    "dataframe_split": {"columns": NAMES[::-1], "data": [row[::-1] for row in ROWS]},
    "dataframe_records": RECORDS,
    "instances": ROWS,
    "inputs": {name: [row[place] for row in ROWS] for place, name in enumerate(NAMES)},
}


@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("path", ["/invocations", "/serving-endpoints/tree/invocations", "/serving-endpoints/tree/served-models/1/invocations"])  # fmt: skip
def test_mlflows_four_forms(alone, models, form, path):
    answer = alone.client.post(path, json={form: BODIES[form], "params": {}})
    same(answer.json()["predictions"], models.answers)


def test_mlflow_csv_health_and_errors(alone, models):
    table = pl.DataFrame(RECORDS)
    answer = alone.client.post("/invocations", content=table.write_csv(), headers={"content-type": "text/csv"})
    same(answer.json()["predictions"], models.answers)
    assert alone.client.get("/ping").status_code == 200
    assert alone.client.get("/health").status_code == 200
    assert alone.client.get("/version").text
    both = alone.client.post("/invocations", json={"instances": ROWS, "inputs": ROWS})
    assert (both.status_code, both.json()["error_code"]) == (400, "BAD_REQUEST")
    missing = alone.client.post("/invocations", json={"dataframe_records": [{"a": 1}]})
    assert "dataframe_records" in missing.json()["message"] or "rows[0].b" in missing.json()["message"]


def test_paths_without_a_name_need_one_endpoint(models):
    for path in ("/invocations", "/score"):
        answer = models.client.post(path, json={"instances": ROWS})
        assert answer.status_code == 404
        assert "names no endpoint" in answer.text


# ---------------------------------------------------------------- tables of other formats


def test_arrow_and_numpy_bodies(alone, models):
    pytest.importorskip("pyarrow")
    table = pl.DataFrame(RECORDS).select("d", "c", "b", "a")
    stream, file, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    table.write_ipc_stream(stream, compression="uncompressed")
    table.write_ipc(file, compression="uncompressed")
    np.save(array, np.asfortranarray(np.array(ROWS, dtype=np.float32)))
    for kind, body in (
        ("application/vnd.apache.arrow.stream", stream),
        ("application/vnd.apache.arrow.file", file),
        ("application/x-npy", array),
    ):
        answer = alone.client.post("/invocations", content=body.getvalue(), headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        same(answer.json()["predictions"], models.answers)
    for write, kind in ((table.write_ipc_stream, "stream"), (table.write_ipc, "file")):
        packed = io.BytesIO()
        write(packed, compression="zstd")
        headers = {"content-type": f"application/vnd.apache.arrow.{kind}"}
        assert (
            "compressed"
            in alone.client.post("/invocations", content=packed.getvalue(), headers=headers).json()["message"]
        )
    wanted = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    answer = alone.client.post("/invocations", content=array.getvalue(), headers=wanted)
    same(np.load(io.BytesIO(answer.content)), models.answers)
    assert (
        alone.client.post("/invocations", content=b"x", headers={"content-type": "application/x-pickle"}).status_code
        == 415
    )


def test_text_and_times_in_tables(models):
    pytest.importorskip("pyarrow")
    from datetime import UTC, datetime

    at = datetime(2013, 3, 1, 12, 30, 0, 125, tzinfo=UTC)
    table = pl.DataFrame(
        {"id": ["t1", "t2", "t3"], "at": [at] * 3, "x": [0.5, 1.0, 0.5], "city": ["Köln", "Ulm", None]}
    )
    stream = io.BytesIO()
    table.write_ipc_stream(stream)
    kind = {"content-type": "application/vnd.apache.arrow.stream"}
    answer = models.client.post("/serving-endpoints/mixed/invocations", content=stream.getvalue(), headers=kind)
    same(answer.json()["predictions"], models.mixed)
    found = models.endpoints.prediction(answer.headers["x-kilter-prediction"])
    assert (found.key, found.time) == ("t1", at)
    csv = "x,city,id,at\n0.5,Köln,0017,2013-03-01T12:00:00Z\n1.0,Ulm,0018,2013-03-01T12:00:00Z\n0.5,,19,2013-03-01T12:00:00Z\n"
    answer = models.client.post(
        "/serving-endpoints/mixed/invocations", content=csv.encode(), headers={"content-type": "text/csv"}
    )
    same(answer.json()["predictions"], models.mixed)
    assert models.endpoints.prediction(answer.headers["x-kilter-prediction"]).key == "0017"


# ---------------------------------------------------------------- Vertex, Azure, TorchServe, curl


def test_vertex(alone, models):
    found = alone.client.post("/vertex/predict", json={"instances": ROWS, "parameters": {"x": 1}}).json()
    assert list(found) == ["predictions"]
    same(found["predictions"], models.answers)
    assert alone.client.get("/vertex/health").status_code == 200
    base = "/v1/projects/p-1/locations/europe-west3/endpoints/tree"
    found = models.client.post(f"{base}:predict", json={"instances": RECORDS}).json()
    same(found.pop("predictions"), models.answers)
    assert found == {
        "deployedModelId": "1", "model": "projects/p-1/locations/europe-west3/models/tree",
        "modelDisplayName": "tree", "modelVersionId": "1",
    }  # fmt: skip
    same(models.client.post(f"{base}:rawPredict", json={"instances": ROWS}).json()["predictions"], models.answers)
    refused = models.client.post(f"{base}:predict", json={"instances": [[1]]})
    assert refused.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert "instances[0]" in refused.json()["error"]["message"]


def test_azure(alone, models):
    post = alone.client.post
    same(
        post("/score", json={"input_data": {"columns": NAMES, "index": [0, 1, 2], "data": ROWS}}).json(), models.answers
    )
    same(post("/score", json={"input_data": ROWS}).json(), models.answers)
    same(post("/score", json={"data": ROWS}).json(), models.answers)
    same(post("/score", json={"Inputs": {"data": RECORDS}, "GlobalParameters": 1.0}).json()["Results"], models.answers)
    same(post("/score", json={"data": ROWS}, headers={"azureml-model-deployment": "v1"}).json(), models.answers)
    assert post("/score", json={"data": ROWS}, headers={"azureml-model-deployment": "blue"}).status_code == 404
    assert post("/score", json={"rows": ROWS}).json()["error"]["message"]
    assert alone.client.get("/").status_code == 200


def test_torchserve(models):
    post = models.client.post
    same(post("/predictions/tree", json=RECORDS[0]).json(), models.answers[0])
    same(post("/predictions/tree/1", json=ROWS[0]).json(), models.answers[0])
    same(post("/predictions/tree", json=ROWS).json(), models.answers)
    same(post("/predictions/tree", json={"instances": ROWS}).json()["predictions"], models.answers)
    described = models.client.get("/models/tree").json()[0]
    assert (described["modelName"], described["modelVersion"], described["workers"][0]["status"]) == (
        "tree",
        "1",
        "READY",
    )
    assert [one["modelVersion"] for one in models.client.get("/models/split/all").json()] == ["1", "2", "3"]
    assert models.client.get("/ping").json() == {"status": "Healthy"}
    assert post("/predictions/none", json=ROWS).json()["type"] == "ModelNotFoundException"
    assert models.client.post("/models/tree", json={}).status_code == 405


def curl(models, *arguments, body=b""):
    url = str(models.client.base_url)
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", *[one.replace("URL", url) for one in arguments]],
        input=body,
        capture_output=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout


def test_curl(models, tmp_path):
    file = tmp_path / "row.json"
    file.write_text(json.dumps(RECORDS[0]))
    code, answer = curl(models, "URL/predictions/tree", "-T", str(file))
    assert code == 0
    same(json.loads(answer), models.answers[0])
    code, answer = curl(models, "-d", json.dumps({"instances": ROWS}), "URL/v1/models/tree:predict")
    same(json.loads(answer)["predictions"], models.answers)
    code, answer = curl(models, "-X", "POST", "URL/v2/repository/index")
    assert {one["name"] for one in json.loads(answer)} == {"tree", "mixed", "classes", "split"}
    code, answer = curl(models, "--compressed", "URL/v2/models/stats")
    assert json.loads(answer)["model_stats"]
    raw = np.array(ROWS).tobytes()
    headers = ("-H", "Inference-Header-Content-Length: 0", "-H", "Content-Type: application/octet-stream")
    code, answer = curl(models, "--data-binary", "@-", *headers, "URL/v2/models/tree/infer", body=raw)
    head = answer[: answer.index(b"]}") + 2]
    same(np.frombuffer(answer[len(head) :], dtype="<f8"), models.answers)
    code, answer = curl(models, "-d", "{", "URL/v2/models/tree/infer")
    assert code == 22
    assert json.loads(answer)["error"]


def test_a_bomb_is_not_inflated(models):
    bomb = zlib.compress(b"0" * (200 << 20), 9)
    headers = {"content-encoding": "deflate", "content-type": "application/json"}
    answer = models.client.post("/v2/models/tree/infer", content=bomb, headers=headers)
    assert answer.status_code == 413
    assert models.client.get("/livez").status_code == 200


# ---------------------------------------------------------------- asking again


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict/tree", {"rows": RECORDS}),
        ("/v2/models/tree/infer", {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": list(ROWS[0])}],
                                   "id": "mine", "outputs": [{"name": "value"}]}),
        ("/v1/models/tree:predict", {"instances": ROWS}),
        ("/v1/models/tree:predict", {"inputs": {name: [row[i] for row in ROWS] for i, name in enumerate("abcd")}}),
        ("/serving-endpoints/tree/invocations", {"dataframe_records": RECORDS}),
        ("/endpoints/tree/invocations", ROWS),
        ("/predictions/tree", RECORDS[0]),
        ("/predictions/tree", {"instances": ROWS}),
    ],
)  # fmt: skip
def test_what_is_sent_again_is_answered_in_the_same_form(models, path, body):
    headers = {"idempotency-key": f"{path} {sorted(body) if isinstance(body, dict) else 0}"}
    first, again = (models.client.post(path, json=body, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200), (first.text, again.text)
    assert first.content == again.content
