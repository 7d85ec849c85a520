"""Triton's own clients over HTTP, unmodified: sync, asynchronous and asyncio; every call they have."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kilter.serving.recording.predictions import PredictionLog, to_frame

triton = pytest.importorskip("tritonclient.http")
from tritonclient.utils import InferenceServerException  # noqa: E402

COLUMNS = ("a", "b", "c", "d")
ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [1.5, 1.0, -2.0, 0.5], [-0.5, 0.0, 0.125, -3.0]])


@pytest.fixture
def client(models):
    with triton.InferenceServerClient(models.address) as found:
        yield found


def tensor(values, *, name="input", binary=True):
    values = np.asarray(values)
    kind = {
        "float64": "FP64",
        "float32": "FP32",
        "object": "BYTES",
        "int64": "INT64",
        "int32": "INT32",
        "float16": "FP16",
    }
    found = triton.InferInput(name, list(values.shape), kind[values.dtype.name])
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def wanted(name, **options):
    return triton.InferRequestedOutput(name, **options)


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", [None, True, False])
def test_rows_in_answers_out_in_json_and_in_binary(client, models, binary_in, outputs):
    asked = None if outputs is None else [wanted("value", binary_data=outputs)]
    found = client.infer("tree", [tensor(ROWS, binary=binary_in)], outputs=asked, request_id='an "id"')
    np.testing.assert_allclose(found.as_numpy("value"), models.answers[:, None], atol=1e-12)
    said = found.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("tree", "1", 'an "id"')
    prediction = models.endpoints.prediction(said["parameters"]["prediction"])
    assert prediction.value == pytest.approx(models.answers[0], abs=1e-12)
    assert prediction.inputs == dict(zip(COLUMNS, ROWS[0], strict=True))


@pytest.mark.parametrize(
    ("kind", "binary"),
    [("float32", True), ("float32", False), ("float16", True), ("int64", True), ("int64", False), ("int32", True)],
)
def test_other_types_of_numbers(client, kind, binary):
    rows = np.array([[1, -1, 2, 0]], dtype=kind)
    exact = client.infer("tree", [tensor(rows.astype(float))]).as_numpy("value")
    assert client.infer("tree", [tensor(rows, binary=binary)]).as_numpy("value") == exact


@pytest.mark.parametrize(("endpoint", "columns"), [("tree", 4), ("split", 1)])
def test_float32_and_float64_at_once_are_answered_and_recorded_as_what_they_are(models, endpoint, columns):
    random = np.random.default_rng(5)
    asked = [
        random.normal(size=(int(count), columns)).astype(kind)
        for kind in ("float32", "float64")
        for count in random.integers(1, 40, 30)
    ]

    def ask(values):
        with triton.InferenceServerClient(models.address) as one:
            found = one.infer(endpoint, [tensor(values)])
            return values, found.as_numpy("value"), found.get_response()["parameters"]["prediction"]

    with ThreadPoolExecutor(8) as threads:
        for values, answers, prediction in threads.map(ask, asked[::2] + asked[1::2]):
            front, position, start = prediction.split("-")
            keys = []
            for row in {0, len(values) - 1}:
                found = models.endpoints.prediction(f"{front}-{position}-{int(start, 16) + row:x}")
                assert list(found.inputs.values()) == values[row].astype(float).tolist()
                assert found.value == answers[row, 0]
                keys.append(found.key)
            if len(values) > 1:
                assert keys == [f"{keys[0].removesuffix('-0')}-{row:x}" for row in (0, len(values) - 1)]


def test_one_tensor_per_column_of_numbers(client, models):
    columns = [tensor(ROWS[:, [place]], name=name, binary=place % 2 == 0) for place, name in enumerate(COLUMNS)]
    found = client.infer("tree", columns[::-1], outputs=[wanted("value")])
    np.testing.assert_allclose(found.as_numpy("value")[:, 0], models.answers, atol=1e-12)


@pytest.mark.parametrize("binary", [True, False])
def test_text_columns_keys_and_times(client, models, binary):
    inputs = [
        tensor(np.array([[0.5], [1.0], [0.5]]), name="x", binary=binary),
        tensor(np.array(["Köln", "Ulm", "Rom"], dtype=object), name="city", binary=binary),
        tensor(np.array(["k1", "k2", "k3"], dtype=object), name="id", binary=binary),
        tensor(np.array([1362132000] * 3, dtype=np.int64), name="at", binary=binary),
    ]
    found = client.infer("mixed", inputs)
    np.testing.assert_allclose(found.as_numpy("value")[:, 0], models.mixed, atol=1e-12)
    prediction = models.endpoints.prediction(found.get_response()["parameters"]["prediction"])
    assert (prediction.key, prediction.time.timestamp()) == ("k1", 1362132000)
    assert prediction.inputs == {"x": 0.5, "city": "Köln"}


def test_keys_may_be_left_out_and_nan_is_missing(client, models):
    found = client.infer("mixed", [tensor([[np.nan]], name="x"), tensor(np.array(["Ulm"], dtype=object), name="city")])
    prediction = models.endpoints.prediction(found.get_response()["parameters"]["prediction"])
    assert prediction.inputs == {"x": None, "city": "Ulm"}
    assert prediction.key


def test_several_outputs_together_alone_and_as_classes(client, models):
    asked = [wanted("probabilities"), wanted("1", binary_data=False)]
    found = client.infer("classes", [tensor(ROWS)], outputs=asked)
    np.testing.assert_allclose(found.as_numpy("probabilities"), models.probabilities, atol=1e-12)
    np.testing.assert_allclose(found.as_numpy("1")[:, 0], models.probabilities[:, 1], atol=1e-12)
    for binary in (True, False):
        best = client.infer(
            "classes", [tensor(ROWS)], outputs=[wanted("probabilities", class_count=2, binary_data=binary)]
        )
        said = best.as_numpy("probabilities")
        assert said.shape == (3, 2)
        score, index, name = (said[0, 0].decode() if isinstance(said[0, 0], bytes) else said[0, 0]).split(":")
        first = int(np.argmax(models.probabilities[0]))
        assert (int(index), name) == (first, str(first))
        assert float(score) == pytest.approx(models.probabilities[0, first], abs=1e-6)


@pytest.mark.parametrize("request_coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_coding", [None, "gzip", "deflate"])
def test_compressed_both_ways(client, models, request_coding, response_coding):
    found = client.infer(
        "tree",
        [tensor(ROWS)],
        request_compression_algorithm=request_coding,
        response_compression_algorithm=response_coding,
    )
    np.testing.assert_allclose(found.as_numpy("value")[:, 0], models.answers, atol=1e-12)


def test_asynchronous_calls_of_the_client(client, models):
    pending = [client.async_infer("tree", [tensor(ROWS[[place]])]) for place in (0, 1, 2, 0)]
    values = [one.get_result().as_numpy("value")[0, 0] for one in pending]
    np.testing.assert_allclose(values, models.answers[[0, 1, 2, 0]], atol=1e-12)


def test_the_asyncio_client(models):
    aio = pytest.importorskip("tritonclient.http.aio")

    async def go():
        client = aio.InferenceServerClient(models.address)
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("tree", "1")
        assert (await client.get_server_metadata())["name"] == "kilter"
        assert (await client.get_model_metadata("tree"))["versions"] == ["1"]
        assert (await client.get_model_config("tree"))["max_batch_size"] == 10_000
        assert await client.get_model_repository_index()
        assert (await client.get_inference_statistics("tree"))["model_stats"]
        answers = await asyncio.gather(*(client.infer("tree", [tensor(ROWS)]) for _ in range(8)))
        await client.close()
        return answers

    for found in asyncio.run(go()):
        np.testing.assert_allclose(found.as_numpy("value")[:, 0], models.answers, atol=1e-12)


# ---------------------------------------------------------------- versions and routing


def test_a_named_version_answers_and_is_recorded_as_asked_for(client, models):
    for version, value in (("1", 0.1), ("2", 0.2), ("3", 0.3)):
        found = client.infer("split", [tensor([[1.0]])], model_version=version)
        assert found.as_numpy("value").tolist() == [[value]]
        assert found.get_response()["model_version"] == version
        prediction = models.endpoints.prediction(found.get_response()["parameters"]["prediction"])
        assert (prediction.arm, prediction.version) == ("direct", int(version))
    with pytest.raises(InferenceServerException, match="version") as caught:
        client.infer("split", [tensor([[1.0]])], model_version="4")
    assert caught.value.status() == "404"


def test_a_routing_key_makes_a_request_sticky(client):
    def versions(asked):
        return {
            client.infer("split", [tensor(np.ones((4, 1)))], **asked).get_response()["model_version"] for _ in range(6)
        }

    by_header = [versions({"headers": {"X-Kilter-Key": f"user-{number}"}}) for number in range(8)]
    by_parameter = [versions({"parameters": {"kilter_key": f"user-{number}"}}) for number in range(8)]
    assert all(len(found) == 1 for found in by_header)
    assert by_header == by_parameter
    assert {version for found in by_header for version in found} == {"1", "2"}


def test_whole_requests_are_routed_together_and_the_record_says_by_what(client, models):
    found = client.infer("split", [tensor(np.ones((5, 1)))], headers={"X-Kilter-Key": "whole-session"})
    log = PredictionLog.open(models.folder / "log")
    frame = to_frame(log.read(), loop="split").filter(route="whole-session")
    log.close()
    assert frame.height == 5
    assert frame["key"].n_unique() == 5
    assert frame["id"][0] == found.get_response()["parameters"]["prediction"]


# ---------------------------------------------------------------- about models


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tree")
    assert client.is_model_ready("tree", "1")
    assert not client.is_model_ready("none")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    tree = client.get_model_metadata("tree")
    assert tree["inputs"] == [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}]
    assert tree["outputs"] == [{"name": "value", "datatype": "FP64", "shape": [-1, 1]}]
    assert client.get_model_metadata("tree", "1")["versions"] == ["1"]
    assert client.get_model_metadata("split")["versions"] == ["1", "2", "3"]
    mixed = client.get_model_metadata("mixed")
    assert [(one["name"], one["datatype"]) for one in mixed["inputs"]] == [("x", "FP64"), ("city", "BYTES")]
    config = client.get_model_config("classes")
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP64", "dims": [4]}]
    assert config["output"] == [{"name": "probabilities", "data_type": "TYPE_FP64", "dims": [3]}]
    with pytest.raises(InferenceServerException, match="no such endpoint"):
        client.get_model_config("none")


def test_statistics(client):
    before = client.get_inference_statistics("tree", "1")["model_stats"][0]
    client.infer("tree", [tensor(ROWS)])
    after = client.get_inference_statistics("tree")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 3
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert after["last_inference"] >= before["last_inference"]
    assert {one["name"] for one in client.get_inference_statistics()["model_stats"]} == {
        "tree",
        "mixed",
        "classes",
        "split",
    }


def test_the_repository(client):
    index = client.get_model_repository_index()
    assert {"name": "tree", "version": "1", "state": "READY", "reason": ""} in index
    client.load_model("tree")
    client.unload_model("classes")
    assert not client.is_model_ready("classes")
    assert (
        next(one for one in client.get_model_repository_index() if one["name"] == "classes")["state"] == "UNAVAILABLE"
    )
    with pytest.raises(InferenceServerException, match="unloaded"):
        client.infer("classes", [tensor(ROWS)])
    client.load_model("classes")
    assert client.infer("classes", [tensor(ROWS)]).as_numpy("probabilities").shape == (3, 3)
    with pytest.raises(InferenceServerException, match="no such endpoint"):
        client.load_model("none")
    with pytest.raises(InferenceServerException, match="can't be brought"):
        client.load_model("tree", config=json.dumps({"max_batch_size": 1}))


def test_settings_and_shared_memory_are_shown_and_not_changed(client):
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_trace_settings("tree")["trace_level"] == ["OFF"]
    assert client.get_log_settings()["log_info"] is True
    assert client.update_log_settings({"log_info": True})["log_info"] is True
    with pytest.raises(InferenceServerException, match="not changed"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="not offered"):
        client.register_system_shared_memory("region", "/key", 64)
    with pytest.raises(InferenceServerException, match="not offered"):
        client.register_cuda_shared_memory("region", b"handle", 0, 64)
    asked = triton.InferInput("input", [1, 4], "FP64")
    asked.set_shared_memory("region", 32)
    with pytest.raises(InferenceServerException, match="shared memory"):
        client.infer("tree", [asked])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ([np.ones((1, 3))], "inputs[0].shape"),
        ([np.ones(4)], "inputs[0].shape"),
        ([np.ones((0, 4))], "rows"),
        ([np.array([["x"] * 4], dtype=object)], "inputs[0].datatype"),
        ([np.array([[1.0, np.inf, 0.0, 0.0]])], "inputs[0].data"),
        ([np.ones((1, 4)), np.ones((1, 4))], "inputs[1]"),
    ],
)
def test_a_wrong_tensor_is_refused_by_name(client, inputs, field):
    with pytest.raises(InferenceServerException) as caught:
        client.infer("tree", [tensor(one) for one in inputs])
    assert field in caught.value.message()
    assert caught.value.status() == "400"


def test_a_wrong_output_or_column_is_refused_by_name(client):
    with pytest.raises(InferenceServerException, match=r"outputs\[0\].name"):
        client.infer("tree", [tensor(ROWS)], outputs=[wanted("nothing")])
    with pytest.raises(InferenceServerException, match=r"inputs\.city"):
        client.infer("mixed", [tensor([[1.0]], name="x")])
    with pytest.raises(InferenceServerException, match=r"inputs\[1\].datatype"):
        client.infer("mixed", [tensor([[1.0]], name="x"), tensor([[1.0]], name="city")])
    with pytest.raises(InferenceServerException, match=r"inputs\[1\].shape"):
        client.infer("mixed", [tensor([[1.0]], name="x"), tensor(np.array([CITY] * 2, dtype=object), name="city")])


CITY = "Ulm"
