"""TensorFlow Serving's services, by stubs made of the public messages."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import kilter.serving.grpc.tensorflow  # noqa: F401 - it must not have taken the names

protoc = pytest.importorskip("grpc_tools.protoc")


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """The messages, in protobuf's default pool as a client has them."""
    import grpc_tools

    here, out = Path(__file__).parent, tmp_path_factory.mktemp("stubs") / "set"
    builtin = Path(grpc_tools.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{here}", f"-I{builtin}", "--include_imports", f"--descriptor_set_out={out}"]
    assert protoc.main([*arguments, "tensorflow_serving.proto"]) == 0
    pool = descriptor_pool.Default()
    files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    found = message_factory.GetMessageClassesForFiles([file.name for file in files], pool)
    return {name.removeprefix("tensorflow.serving."): kind for name, kind in found.items()}


@pytest.fixture(scope="module")
def call(facts, stubs):
    with grpc.insecure_channel(facts["grpc"]) as channel:

        def ask(method, request, response):
            service = "ModelService" if method == "GetModelStatus" else "PredictionService"
            path = f"/tensorflow.serving.{service}/{method}"
            asked = channel.unary_unary(path, lambda one: one.SerializeToString(), stubs[response].FromString)
            return asked(request, timeout=10)

        yield ask


@pytest.fixture
def tensor(stubs):
    def make(values, *, dtype=2, field="double_val", shape=None, content=False):
        values = np.asarray(values)
        shape = values.shape if shape is None else shape
        made = stubs["TensorProto"](dtype=dtype, tensor_shape={"dim": [{"size": size} for size in shape]})
        if content:
            made.tensor_content = values.tobytes()
        else:
            getattr(made, field).extend(values.ravel().tolist())
        return made

    return make


def refused(ask):
    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return caught.value.code().name


def values_of(tensor):
    return np.array(tensor.double_val).reshape([one.size for one in tensor.tensor_shape.dim])


def test_predict(call, stubs, tensor, facts):
    rows = facts["rows"]
    for made in (
        tensor(rows),
        tensor(rows, content=True),
        tensor(rows.astype("f4"), dtype=1, field="float_val"),
        tensor(rows.astype("f4"), dtype=1, content=True),
    ):
        request = stubs["PredictRequest"](model_spec={"name": "tree"}, inputs={"input": made})
        found = call("Predict", request, "PredictResponse")
        np.testing.assert_allclose(values_of(found.outputs["value"])[:, 0], facts["tree"], atol=1e-6)
        assert (found.model_spec.name, found.model_spec.version.value) == ("tree", 1)
        assert found.model_spec.signature_name == "serving_default"


def test_columns_text_and_values_that_repeat(call, stubs, tensor, facts):
    city = stubs["TensorProto"](
        dtype=7, tensor_shape={"dim": [{"size": 3}]}, string_val=["Köln".encode(), b"Ulm", b"Rom"]
    )
    inputs = {
        "x": tensor([[0.5], [1.0], [0.5]]),
        "city": city,
        "at": tensor([0], dtype=9, field="int64_val", shape=[3]),
    }
    found = call("Predict", stubs["PredictRequest"](model_spec={"name": "mixed"}, inputs=inputs), "PredictResponse")
    np.testing.assert_allclose(values_of(found.outputs["value"])[:, 0], facts["mixed"], atol=1e-12)


def test_one_output_of_several(call, stubs, tensor, facts):
    request = stubs["PredictRequest"](
        model_spec={"name": "classes"}, inputs={"any name": tensor(facts["rows"])}, output_filter=["2"]
    )
    found = call("Predict", request, "PredictResponse").outputs
    assert list(found) == ["2"]
    np.testing.assert_allclose(values_of(found["2"])[:, 0], facts["classes"][:, 2], atol=1e-12)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ({"version": {"value": 1}}, 0.1),
        ({"version": {"value": 2}}, 0.2),
        ({"version_label": "stable"}, 0.1),
        ({"version_label": "champion"}, 0.1),
        ({"version_label": "canary"}, 0.2),
    ],
)
def test_versions_and_labels(call, stubs, tensor, spec, value):
    request = stubs["PredictRequest"](model_spec={"name": "split", **spec}, inputs={"x": tensor([[1.0]])})
    assert values_of(call("Predict", request, "PredictResponse").outputs["value"]) == value


def test_examples_are_classified_and_regressed(call, stubs, facts):
    names = "abcd"
    examples = [
        {
            "features": {
                "feature": {name: {"float_list": {"value": [value]}} for name, value in zip(names, row, strict=True)}
            }
        }
        for row in facts["rows"]
    ]
    request = stubs["RegressionRequest"](model_spec={"name": "tree"}, input={"example_list": {"examples": examples}})
    found = call("Regress", request, "RegressionResponse").result.regressions
    np.testing.assert_allclose([one.value for one in found], facts["tree"], rtol=1e-6)
    whole = [{"features": {"feature": {"x": {"float_list": {"value": row}}}}} for row in facts["rows"]]
    request = stubs["ClassificationRequest"](
        model_spec={"name": "classes"}, input={"example_list": {"examples": whole}}
    )
    found = call("Classify", request, "ClassificationResponse").result.classifications
    assert [one.label for one in found[0].classes] == ["0", "1", "2"]
    np.testing.assert_allclose([[one.score for one in row.classes] for row in found], facts["classes"], rtol=1e-6)
    context = {"features": {"feature": {"d": {"float_list": {"value": [0.25]}}}}}
    del examples[0]["features"]["feature"]["d"]
    shared = {"example_list_with_context": {"examples": examples[:1], "context": context}}
    request = stubs["RegressionRequest"](model_spec={"name": "tree"}, input=shared)
    found = call("Regress", request, "RegressionResponse").result.regressions
    assert found[0].value == pytest.approx(facts["tree"][0], rel=1e-6)
    text = {"x": {"float_list": {"value": [0.5]}}, "city": {"bytes_list": {"value": ["Köln".encode()]}}}
    request = stubs["RegressionRequest"](
        model_spec={"name": "mixed"}, input={"example_list": {"examples": [{"features": {"feature": text}}]}}
    )
    assert call("Regress", request, "RegressionResponse").result.regressions[0].value == pytest.approx(
        facts["mixed"][0]
    )


def test_metadata_and_status(call, stubs):
    request = stubs["GetModelMetadataRequest"](model_spec={"name": "mixed"}, metadata_field=["signature_def"])
    found = call("GetModelMetadata", request, "GetModelMetadataResponse")
    signatures = stubs["SignatureDefMap"]()
    assert found.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def["serving_default"]
    assert {name: one.dtype for name, one in signature.inputs.items()} == {"x": 2, "city": 7}
    assert [one.size for one in signature.outputs["value"].tensor_shape.dim] == [-1, 1]
    request = stubs["GetModelStatusRequest"](model_spec={"name": "split"})
    found = call("GetModelStatus", request, "GetModelStatusResponse").model_version_status
    assert [(one.version, one.state, one.status.error_code) for one in found] == [(2, 30, 0), (1, 30, 0)]
    request = stubs["GetModelStatusRequest"](model_spec={"name": "split", "version": {"value": 2}})
    assert len(call("GetModelStatus", request, "GetModelStatusResponse").model_version_status) == 1


def test_what_is_refused(call, stubs, tensor, facts):
    rows = tensor(facts["rows"])

    def predict(inputs=None, **spec):
        request = stubs["PredictRequest"](model_spec={"name": "tree", **spec}, inputs=inputs or {"input": rows})
        return refused(lambda: call("Predict", request, "PredictResponse"))

    assert predict(name="nothing") == "NOT_FOUND"
    assert predict(version={"value": 9}) == "NOT_FOUND"
    assert predict(version={"value": -1}) == "NOT_FOUND"
    assert predict(version_label="secret") == "NOT_FOUND"
    assert predict(signature_name="secret") == "NOT_FOUND"
    for wrong in (
        tensor([1.0], shape=[1 << 40, 4]),
        tensor([1.0], shape=[-1, 4]),
        tensor([1.0], shape=[1, 3]),
        tensor(facts["rows"], dtype=8),
        tensor([1.0], shape=[]),
        tensor(facts["rows"], shape=[2, 4]),
        stubs["TensorProto"](),
    ):
        assert predict({"input": wrong}) == "INVALID_ARGUMENT"
    empty = stubs["RegressionRequest"](model_spec={"name": "tree"})
    assert refused(lambda: call("Regress", empty, "RegressionResponse")) == "INVALID_ARGUMENT"
    two = {"features": {"feature": {"a": {"float_list": {"value": [1, 2]}}}}}
    several = stubs["RegressionRequest"](model_spec={"name": "tree"}, input={"example_list": {"examples": [two]}})
    assert refused(lambda: call("Regress", several, "RegressionResponse")) == "INVALID_ARGUMENT"
    whole = {"features": {"feature": {"x": {"float_list": {"value": [1, 2, 3, 4]}}}}}
    classes = stubs["RegressionRequest"](model_spec={"name": "classes"}, input={"example_list": {"examples": [whole]}})
    assert refused(lambda: call("Regress", classes, "RegressionResponse")) == "INVALID_ARGUMENT"
    asked = stubs["GetModelMetadataRequest"](model_spec={"name": "tree"}, metadata_field=["secret"])
    assert refused(lambda: call("GetModelMetadata", asked, "GetModelMetadataResponse")) == "INVALID_ARGUMENT"
    assert refused(lambda: call("MultiInference", asked, "GetModelMetadataResponse")) == "UNIMPLEMENTED"
