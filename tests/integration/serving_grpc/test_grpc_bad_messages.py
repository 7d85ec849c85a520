"""Whatever a message says, it is answered with a code that puts the fault where it is, and never with what was sent."""

import json
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kilter.serving.grpc import inference, tensorflow
from kilter.serving.records import TrafficPlan
from kilter.testing.front import RunningFront

INFER = inference._CLASSES["ModelInferRequest"]
PREDICT, REGRESS = (tensorflow._CLASSES[name] for name in ("PredictRequest", "RegressionRequest"))
FAULTS = {"DEADLINE_EXCEEDED", "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED"}


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    with RunningFront(tmp_path_factory.mktemp("grpc-bad"), grpc_port=0) as front:
        front.plan(TrafficPlan(loop="late", champion=1, bundles={1: front.constant(0.5, ("x", "y"))}, fallback=0.9))
        front.start()
        port = json.loads(Path(front.config.announce).read_text())["grpc_port"]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

            def status(path, message):
                call = channel.unary_unary(path).future(message, timeout=10)
                if call.exception() is None:
                    return "OK"
                assert "secret" not in call.details()
                assert len(call.details()) < 400
                return call.code().name

            yield status


text = st.sampled_from(["", "late", "x", "y", "input", "value", "1", "0", "-1", "secret", "sécret", "id", "at"])
longs = st.sampled_from([0, 1, 2, 3, -1, 5, 1 << 31, (1 << 63) - 1, -(1 << 63)])
shapes = st.sampled_from([[1, 2], [1], [1, 1], [2, 2], [2, 1], [2]]) | st.lists(longs, max_size=3)
columns = st.sampled_from(["x", "y", "input"]) | text
versions = st.sampled_from(["", "", "1", "1"]) | text
parameter = st.one_of(
    st.builds(lambda value: {"int64_param": value}, longs), st.builds(lambda value: {"string_param": value}, text),
    st.builds(lambda value: {"double_param": value}, st.floats()), st.just({"bool_param": True}), st.just({}),
)  # fmt: skip
parameters = st.dictionaries(
    st.sampled_from(["classification", "timeout", "priority", "kilter_key", "shared_memory_region", "secret"]),
    parameter,
    max_size=2,
)
contents = st.fixed_dictionaries(
    {},
    optional={
        "fp64_contents": st.lists(st.floats(), max_size=4),
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "int64_contents": st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=4),
        "int_contents": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4),
        "bool_contents": st.lists(st.booleans(), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=8), max_size=4),
    },
)
kinds = st.sampled_from(
    ["FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT8", "UINT64", "BOOL", "BYTES", "", "secret"]
)
inputs = st.fixed_dictionaries(
    {"name": columns, "datatype": kinds, "shape": shapes},
    optional={"contents": contents, "parameters": parameters},
)
requests = st.fixed_dictionaries(
    {"model_name": st.sampled_from(["late"] * 9 + ["secret"]), "inputs": st.lists(inputs, max_size=3)},
    optional={
        "model_version": versions,
        "id": text,
        "parameters": parameters,
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.just("value") | text}, optional={"parameters": parameters}), max_size=2
        ),
        "raw_input_contents": st.lists(st.binary(min_size=16, max_size=16) | st.binary(max_size=40), max_size=3),
    },
)
quiet = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quiet
@given(request=requests)
def test_no_inference_request_is_a_mistake_of_the_server(ask, request):
    for one in (request, *request["inputs"], *request.get("outputs", [])):
        one["parameters"] = {name: inference._CLASSES["InferParameter"](**value) for name, value in one.get("parameters", {}).items()}  # fmt: skip
    assert ask("/inference.GRPCInferenceService/ModelInfer", INFER(**request).SerializeToString()) in FAULTS


@quiet
@given(
    path=st.sampled_from(
        [f"/{inference.SERVICE}/{name}" for name in (
            "ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex",
            "RepositoryModelLoad", "ServerLive", "TraceSetting", "SystemSharedMemoryRegister",
        )]
        + [f"/{tensorflow.PREDICTION}/{name}" for name in ("Predict", "Classify", "Regress", "GetModelMetadata")]
        + [f"/{tensorflow.MODEL}/GetModelStatus", "/grpc.health.v1.Health/Check", "/secret/secret"]
    ),
    message=st.binary(max_size=60),
)  # fmt: skip
def test_no_bytes_are_a_mistake_of_the_server(ask, path, message):
    assert ask(path, message) in FAULTS


tensors = st.builds(
    lambda dtype, sizes, fields: {"dtype": dtype, "tensor_shape": {"dim": [{"size": size} for size in sizes]}, **fields},
    st.sampled_from([1, 2, 3, 7, 9, 10]) | st.integers(-1, 30), shapes,
    st.fixed_dictionaries({}, optional={
        "double_val": st.lists(st.floats(), max_size=3), "float_val": st.lists(st.floats(width=32), max_size=3),
        "int_val": st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=3), "bool_val": st.lists(st.booleans(), max_size=3),
        "string_val": st.lists(st.binary(max_size=6), max_size=3), "tensor_content": st.binary(max_size=24),
    }),
)  # fmt: skip


@quiet
@given(named=st.dictionaries(columns, tensors, max_size=3), wanted=st.lists(st.just("value") | text, max_size=2))
def test_no_tensors_of_tensorflow_are_a_mistake_of_the_server(ask, named, wanted):
    made = {name: tensorflow._CLASSES["TensorProto"](**tensor) for name, tensor in named.items()}
    request = PREDICT(model_spec={"name": "late"}, output_filter=wanted)
    for name, tensor in made.items():
        request.inputs[name].CopyFrom(tensor)
    assert ask(f"/{tensorflow.PREDICTION}/Predict", request.SerializeToString()) in FAULTS


features = st.one_of(
    st.builds(lambda v: {"float_list": {"value": v}}, st.lists(st.floats(width=32), min_size=1, max_size=2)),
    st.builds(lambda v: {"int64_list": {"value": v}}, st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=1)),
    st.builds(lambda v: {"bytes_list": {"value": v}}, st.lists(st.binary(max_size=6), max_size=1)),
    st.just({}),
)


@quiet
@given(
    rows=st.lists(st.dictionaries(columns, features, max_size=3), min_size=1, max_size=2),
    method=st.sampled_from(["Regress", "Classify"]),
)
def test_no_examples_are_a_mistake_of_the_server(ask, rows, method):
    request = REGRESS(model_spec={"name": "late"})
    for row in rows:
        example = request.input.example_list.examples.add()
        for name, feature in row.items():
            example.features.feature[name].CopyFrom(tensorflow._CLASSES["Feature"](**feature))
    assert ask(f"/{tensorflow.PREDICTION}/{method}", request.SerializeToString()) in FAULTS
