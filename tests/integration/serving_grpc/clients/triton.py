"""Triton's own clients: every call they have; sync, asynchronous, streaming and asyncio."""

import asyncio
import queue

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

import kilter.serving.grpc.inference  # noqa: F401 - our messages and the client's live in one process


@pytest.fixture
def client(facts):
    with triton.InferenceServerClient(facts["grpc"]) as found:
        yield found


def tensor(values, name="input"):
    values = np.asarray(values)
    kind = {"float64": "FP64", "float32": "FP32", "object": "BYTES", "int64": "INT64", "int32": "INT32"}
    found = triton.InferInput(name, list(values.shape), kind[values.dtype.name])
    found.set_data_from_numpy(values)
    return found


def refused(call):
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status(), caught.value.message()


# ---------------------------------------------------------------- inference


def test_rows_in_answers_out(client, facts):
    found = client.infer("tree", [tensor(facts["rows"])], request_id="mine")
    np.testing.assert_allclose(found.as_numpy("value"), facts["tree"][:, None], atol=1e-12)
    said = found.get_response()
    assert (said.model_name, said.model_version, said.id) == ("tree", "1", "mine")
    assert said.parameters["prediction"].string_param.startswith("main-")


@pytest.mark.parametrize("kind", ["float32", "int64", "int32"])
def test_other_types_of_numbers(client, kind):
    rows = np.array([[1, -1, 2, 0]], dtype=kind)
    exact = client.infer("tree", [tensor(rows.astype(float))]).as_numpy("value")
    assert client.infer("tree", [tensor(rows)]).as_numpy("value") == exact


def test_columns_text_keys_and_times(client, facts):
    inputs = [
        tensor(np.array([[0.5], [1.0], [0.5]]), "x"),
        tensor(np.array(["Köln", "Ulm", "Rom"], dtype=object), "city"),
        tensor(np.array(["k1", "k2", "k3"], dtype=object), "id"),
        tensor(np.array([1362132000] * 3, dtype=np.int64), "at"),
    ]
    found = client.infer("mixed", inputs)
    np.testing.assert_allclose(found.as_numpy("value")[:, 0], facts["mixed"], atol=1e-12)


def test_outputs_together_alone_and_as_classes(client, facts):
    outputs = [triton.InferRequestedOutput("probabilities"), triton.InferRequestedOutput("1")]
    found = client.infer("classes", [tensor(facts["rows"])], outputs=outputs)
    np.testing.assert_allclose(found.as_numpy("probabilities"), facts["classes"], atol=1e-12)
    np.testing.assert_allclose(found.as_numpy("1")[:, 0], facts["classes"][:, 1], atol=1e-12)
    best = client.infer(
        "classes", [tensor(facts["rows"])], outputs=[triton.InferRequestedOutput("probabilities", class_count=2)]
    )
    score, index, name = best.as_numpy("probabilities")[0, 0].decode().split(":")
    first = int(np.argmax(facts["classes"][0]))
    assert (int(index), name) == (first, str(first))
    assert float(score) == pytest.approx(facts["classes"][0, first], abs=1e-6)


def test_versions_and_a_routing_key(client):
    one = tensor(np.array([[1.0]]))
    for version, value in (("1", 0.1), ("2", 0.2)):
        found = client.infer("split", [one], model_version=version)
        assert found.as_numpy("value")[0, 0] == value
        assert found.get_response().model_version == version
    for key in ("a", "b", "c"):  # the same key goes the same way, however it is said
        said = [{"headers": {"x-kilter-key": key}}, {"parameters": {"kilter_key": key}}] * 3
        assert len({client.infer("split", [one], **how).as_numpy("value")[0, 0] for how in said}) == 1
    spread = {
        client.infer("split", [one], headers={"x-kilter-key": f"k{n}"}).as_numpy("value")[0, 0] for n in range(40)
    }
    assert spread == {0.1, 0.2}
    long = {"x-kilter-key": "k" * 201}
    assert refused(lambda: client.infer("split", [one], headers=long))[0] == "StatusCode.INVALID_ARGUMENT"


def test_a_repeated_idempotency_key_is_answered_from_the_record(client, facts):
    headers = {"idempotency-key": "once"}
    first, second = (
        client.infer("tree", [tensor(facts["rows"])], headers=headers)
        .get_response()
        .parameters["prediction"]
        .string_param
        for _ in "12"
    )
    assert first == second


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed(client, facts, coding):
    found = client.infer("tree", [tensor(facts["rows"])], compression_algorithm=coding)
    np.testing.assert_allclose(found.as_numpy("value")[:, 0], facts["tree"], atol=1e-12)


def test_many_rows_at_once(client, facts):
    rows = np.tile(facts["rows"], (3000, 1))
    found = client.infer("tree", [tensor(rows)]).as_numpy("value")
    np.testing.assert_allclose(found[:, 0], np.tile(facts["tree"], 3000), atol=1e-12)


def test_asynchronous_calls(client, facts):
    answers = queue.Queue()
    for _ in range(20):
        client.async_infer("tree", [tensor(facts["rows"])], callback=lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=10)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("value")[:, 0], facts["tree"], atol=1e-12)


def test_a_deadline(client, facts):
    assert refused(lambda: client.infer("tree", [tensor(facts["rows"])], client_timeout=1e-6))[0].endswith("EXCEEDED")
    assert client.infer("tree", [tensor(facts["rows"])], client_timeout=10) is not None


# ---------------------------------------------------------------- streams


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client, facts):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(30):
        name = "nothing" if number == 7 else "tree"
        client.async_stream_infer(name, [tensor(facts["rows"])], request_id=str(number))
    for number in range(30):
        result, error = answers.get(timeout=10)
        if number == 7:
            assert "no such endpoint" in error.message()
            continue
        assert error is None
        assert result.get_response().id == str(number)
        np.testing.assert_allclose(result.as_numpy("value")[:, 0], facts["tree"], atol=1e-12)
    client.stop_stream()


def test_the_asyncio_client(facts):
    async def requests():
        for number in range(10):
            yield {"model_name": "tree", "inputs": [tensor(facts["rows"])], "request_id": str(number)}

    async def go():
        async with triton_aio.InferenceServerClient(facts["grpc"]) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("tree", "1")
            found = await asyncio.gather(*(client.infer("tree", [tensor(facts["rows"])]) for _ in range(8)))
            streamed = [pair async for pair in client.stream_infer(requests())]
        assert [error for _, error in streamed] == [None] * 10
        return [*found, *(result for result, _ in streamed)]

    for found in asyncio.run(go()):
        np.testing.assert_allclose(found.as_numpy("value")[:, 0], facts["tree"], atol=1e-12)


# ---------------------------------------------------------------- how it is


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tree")
    assert client.is_model_ready("tree", "1")
    assert refused(lambda: client.is_model_ready("nothing"))[0] == "StatusCode.NOT_FOUND"
    assert refused(lambda: client.is_model_ready("tree", "9"))[0] == "StatusCode.NOT_FOUND"


def test_metadata_and_configuration(client):
    server = client.get_server_metadata()
    assert server.name == "kilter"
    assert "binary_tensor_data" in server.extensions
    found = client.get_model_metadata("mixed", as_json=True)
    assert (found["name"], found["versions"]) == ("mixed", ["1"])
    assert [(one["name"], one["datatype"], one["shape"]) for one in found["inputs"]] == [
        ("x", "FP64", ["-1", "1"]),
        ("city", "BYTES", ["-1", "1"]),
    ]
    config = client.get_model_config("tree").config
    assert (config.name, config.max_batch_size) == ("tree", 10_000)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("input", 12, [4])]
    assert [(one.name, one.data_type, list(one.dims)) for one in config.output] == [("value", 12, [1])]
    assert config.parameters["mode"].string_value == "solo"
    assert config.HasField("dynamic_batching")
    assert list(client.get_model_config("split").config.version_policy.specific.versions) == [1, 2]


def test_statistics(client, facts):
    before = client.get_inference_statistics("tree").model_stats[0].inference_count
    client.infer("tree", [tensor(facts["rows"])])
    found = client.get_inference_statistics("tree").model_stats[0]
    assert found.inference_count == before + 3
    assert found.inference_stats.success.ns > 0
    assert {one.name for one in client.get_inference_statistics().model_stats} >= {"tree", "mixed", "split"}


def test_the_repository(client, facts):
    index = client.get_model_repository_index()
    assert {(one.name, one.version, one.state) for one in index.models} >= {
        ("tree", "1", "READY"),
        ("split", "2", "READY"),
    }
    client.unload_model("classes")
    assert not client.is_model_ready("classes")
    assert refused(lambda: client.infer("classes", [tensor(facts["rows"])]))[0] == "StatusCode.NOT_FOUND"
    client.load_model("classes")
    assert client.is_model_ready("classes")
    assert refused(lambda: client.load_model("classes", config="{}"))[0] == "StatusCode.INVALID_ARGUMENT"
    assert refused(lambda: client.load_model("nothing"))[0] == "StatusCode.NOT_FOUND"


def test_what_is_not_offered_says_so(client):
    assert len(client.get_system_shared_memory_status().regions) == 0
    assert len(client.get_cuda_shared_memory_status().regions) == 0
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    for call in (
        lambda: client.register_system_shared_memory("a", "/b", 8),
        lambda: client.register_cuda_shared_memory("a", b"", 0, 8),
        client.get_trace_settings,
        client.get_log_settings,
    ):
        assert refused(call)[0] == "StatusCode.UNIMPLEMENTED"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (lambda: [tensor(np.zeros((1, 3)))], "inputs[0].shape"),
        (lambda: [tensor(np.zeros((0, 4)))], "no rows"),
        (lambda: [tensor(np.zeros((10_001, 4)))], "10001 rows"),
        (lambda: [tensor(np.full((1, 4), np.inf))], "infinite"),
        (lambda: [tensor(np.array([["secret"] * 4], dtype=object))], "datatype"),
        (lambda: [tensor(np.zeros((1, 1)), "a")], "inputs.b"),
        (lambda: [tensor(np.zeros((1, 1)), "a"), tensor(np.zeros((1, 1)), "a")], "same name"),
    ],
)
def test_bad_tensors_are_refused_by_name_and_never_repeated(client, inputs, text):
    status, message = refused(lambda: client.infer("tree", inputs()))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert text in message
    assert "secret" not in message


def test_bad_outputs_versions_and_names(client, facts):
    rows = [tensor(facts["rows"])]
    wanted = [triton.InferRequestedOutput("secret")]
    status, message = refused(lambda: client.infer("tree", rows, outputs=wanted))
    assert (status, "secret" in message) == ("StatusCode.INVALID_ARGUMENT", False)
    assert refused(lambda: client.infer("tree", rows, model_version="7"))[0] == "StatusCode.NOT_FOUND"
    assert refused(lambda: client.infer("tree", rows, model_version="one"))[0] == "StatusCode.NOT_FOUND"
    assert refused(lambda: client.infer("nothing", rows))[0] == "StatusCode.NOT_FOUND"
    negative = [triton.InferRequestedOutput("value", class_count=-1)]
    assert refused(lambda: client.infer("tree", rows, outputs=negative))[0] == "StatusCode.INVALID_ARGUMENT"
