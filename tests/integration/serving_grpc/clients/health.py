"""The standard health check, by a client that has the protocol's own names in protobuf's default pool."""

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import kilter.serving.grpc.health  # noqa: F401 - it must not have taken the names


@pytest.fixture(scope="module")
def messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3"
    )
    string, enum = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
    file.message_type.add(name="HealthCheckRequest").field.add(name="service", number=1, type=string, label=1)
    response = file.message_type.add(name="HealthCheckResponse")
    names = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        names.value.add(name=name, number=number)
    kind = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    response.field.add(name="status", number=1, type=enum, label=1, type_name=kind)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClassesForFiles([file.name], descriptor_pool.Default())


def test_the_front_its_services_and_its_endpoints(facts, messages):
    ask, said = (messages[f"grpc.health.v1.HealthCheck{name}"] for name in ("Request", "Response"))
    with grpc.insecure_channel(facts["grpc"]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", ask.SerializeToString, said.FromString)
        for service in ("", "inference.GRPCInferenceService", "tensorflow.serving.PredictionService", "tree"):
            assert check(ask(service=service)).status == 1
        with pytest.raises(grpc.RpcError) as caught:
            check(ask(service="nothing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch", ask.SerializeToString, said.FromString)
        with pytest.raises(grpc.RpcError) as caught:
            list(watch(ask()))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
