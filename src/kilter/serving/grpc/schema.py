"""The messages of the protocols, as classes of a descriptor pool of our own.

Protobuf's default pool takes each message name once per process, so a server that registered ``inference.ModelInferRequest``
there would break every client library that does the same. Nothing here is registered anywhere else. Messages are written
down by their fields' names, numbers and types, as in the protocols' own files; fields that are neither read nor answered are
left out, and an unknown field of a request is passed over.
Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto,
https://github.com/triton-inference-server/common/tree/main/protobuf,
https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis,
https://github.com/grpc/grpc/blob/master/src/proto/grpc/health/v1/health.proto.
"""

from __future__ import annotations

import re
from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

_FIELD: Final = re.compile(r"^(\w+)=(\d+):(?:map<(\w+),([\w.]+)>|([\w.]+))(\*?)(?:\|(\w+))?$")
_SCALARS: Final = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}

_PARAMETERS = "parameters={}:map<string,InferParameter>"
_CHOICES = (
    "bool_param=1:bool|parameter_choice int64_param=2:int64|parameter_choice string_param=3:string|parameter_choice"
    " double_param=4:double|parameter_choice uint64_param=5:uint64|parameter_choice"
)
_VALUES = "bool_param=1:bool|parameter_choice int64_param=2:int64|parameter_choice string_param=3:string|parameter_choice bytes_param=4:bytes|parameter_choice"
_MODEL = "name=1:string version=2:string"
_TENSOR = "name=1:string datatype=2:string shape=3:int64*"

INFERENCE: Final = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready=1:bool",
    "ModelReadyRequest": _MODEL,
    "ModelReadyResponse": "ready=1:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name=1:string version=2:string extensions=3:string*",
    "ModelMetadataRequest": _MODEL,
    "TensorMetadata": _TENSOR,
    "ModelMetadataResponse": (
        "name=1:string versions=2:string* platform=3:string inputs=4:TensorMetadata* outputs=5:TensorMetadata*"
    ),
    "InferParameter": _CHOICES,
    "InferTensorContents": (
        "bool_contents=1:bool* int_contents=2:int32* int64_contents=3:int64* uint_contents=4:uint32*"
        " uint64_contents=5:uint64* fp32_contents=6:float* fp64_contents=7:double* bytes_contents=8:bytes*"
    ),
    "InferTensor": f"{_TENSOR} {_PARAMETERS.format(4)} contents=5:InferTensorContents",
    "InferRequestedOutputTensor": f"name=1:string {_PARAMETERS.format(2)}",
    "ModelInferRequest": (
        f"model_name=1:string model_version=2:string id=3:string {_PARAMETERS.format(4)}"
        " inputs=5:InferTensor* outputs=6:InferRequestedOutputTensor* raw_input_contents=7:bytes*"
    ),
    "ModelInferResponse": (
        f"model_name=1:string model_version=2:string id=3:string {_PARAMETERS.format(4)}"
        " outputs=5:InferTensor* raw_output_contents=6:bytes*"
    ),
    "ModelStreamInferResponse": "error_message=1:string infer_response=2:ModelInferResponse",
    "ModelConfigRequest": _MODEL,
    "enum DataType": (
        "TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64"
        " TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16"
    ),
    "enum Kind": "KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL",
    "ModelInput": "name=1:string data_type=2:DataType dims=4:int64*",
    "ModelOutput": "name=1:string data_type=2:DataType dims=3:int64*",
    "ModelParameter": "string_value=1:string",
    "ModelInstanceGroup": "name=1:string count=2:int32 kind=4:Kind",
    "ModelDynamicBatching": "preferred_batch_size=1:int32* max_queue_delay_microseconds=2:uint64",
    "SpecificVersions": "versions=1:int64*",
    "ModelVersionPolicy": "specific=3:SpecificVersions|policy",
    "ModelConfig": (
        "name=1:string platform=2:string backend=17:string runtime=25:string version_policy=3:ModelVersionPolicy"
        " max_batch_size=4:int32 input=5:ModelInput* output=6:ModelOutput* instance_group=7:ModelInstanceGroup*"
        " dynamic_batching=11:ModelDynamicBatching parameters=14:map<string,ModelParameter>"
    ),
    "ModelConfigResponse": "config=1:ModelConfig",
    "ModelStatisticsRequest": _MODEL,
    "StatisticDuration": "count=1:uint64 ns=2:uint64",
    "InferStatistics": (
        "success=1:StatisticDuration fail=2:StatisticDuration queue=3:StatisticDuration compute_input=4:StatisticDuration"
        " compute_infer=5:StatisticDuration compute_output=6:StatisticDuration cache_hit=7:StatisticDuration"
        " cache_miss=8:StatisticDuration"
    ),
    "InferBatchStatistics": "batch_size=1:uint64",
    "MemoryUsage": "type=1:string id=2:int64 byte_size=3:uint64",
    "ModelStatistics": (
        "name=1:string version=2:string last_inference=3:uint64 inference_count=4:uint64 execution_count=5:uint64"
        " inference_stats=6:InferStatistics batch_stats=7:InferBatchStatistics* memory_usage=8:MemoryUsage*"
    ),
    "ModelStatisticsResponse": "model_stats=1:ModelStatistics*",
    "RepositoryIndexRequest": "repository_name=1:string ready=2:bool",
    "ModelIndex": "name=1:string version=2:string state=3:string reason=4:string",
    "RepositoryIndexResponse": "models=1:ModelIndex*",
    "ModelRepositoryParameter": _VALUES,
    "RepositoryModelLoadRequest": (
        "repository_name=1:string model_name=2:string parameters=3:map<string,ModelRepositoryParameter>"
    ),
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": (
        "repository_name=1:string model_name=2:string parameters=3:map<string,ModelRepositoryParameter>"
    ),
    "RepositoryModelUnloadResponse": "",
    "SystemSharedMemoryStatusResponse": "",
    "SystemSharedMemoryUnregisterResponse": "",
    "CudaSharedMemoryStatusResponse": "",
    "CudaSharedMemoryUnregisterResponse": "",
}

HEALTH: Final = {
    "HealthCheckRequest": "service=1:string",
    "HealthCheckResponse": "status=1:int32",
}

_PREDICT = "inputs=2:map<string,TensorProto> output_filter=3:string*"

TENSORFLOW: Final = {
    "Dim": "size=1:int64 name=2:string",
    "TensorShapeProto": "dim=2:Dim* unknown_rank=3:bool",
    "TensorProto": (
        "dtype=1:int32 tensor_shape=2:TensorShapeProto version_number=3:int32 tensor_content=4:bytes half_val=13:int32*"
        " float_val=5:float* double_val=6:double* int_val=7:int32* string_val=8:bytes* int64_val=10:int64* bool_val=11:bool*"
        " uint32_val=16:uint32* uint64_val=17:uint64*"
    ),
    "Int64Value": "value=1:int64",
    "ModelSpec": (
        "name=1:string version=2:Int64Value|version_choice version_label=4:string|version_choice signature_name=3:string"
    ),
    "PredictRequest": f"model_spec=1:ModelSpec {_PREDICT}",
    "PredictResponse": "outputs=1:map<string,TensorProto> model_spec=2:ModelSpec",
    "TensorInfo": "name=1:string dtype=2:int32 tensor_shape=3:TensorShapeProto",
    "SignatureDef": "inputs=1:map<string,TensorInfo> outputs=2:map<string,TensorInfo> method_name=3:string",
    "SignatureDefMap": "signature_def=1:map<string,SignatureDef>",
    "Any": "type_url=1:string value=2:bytes",
    "GetModelMetadataRequest": "model_spec=1:ModelSpec metadata_field=2:string*",
    "GetModelMetadataResponse": "model_spec=1:ModelSpec metadata=2:map<string,Any>",
    "StatusProto": "error_code=1:int32 error_message=2:string",
    "ModelVersionStatus": "version=1:int64 state=2:int32 status=3:StatusProto",
    "GetModelStatusRequest": "model_spec=1:ModelSpec",
    "GetModelStatusResponse": "model_version_status=1:ModelVersionStatus*",
    "BytesList": "value=1:bytes*",
    "FloatList": "value=1:float*",
    "Int64List": "value=1:int64*",
    "Feature": "bytes_list=1:BytesList|kind float_list=2:FloatList|kind int64_list=3:Int64List|kind",
    "Features": "feature=1:map<string,Feature>",
    "Example": "features=1:Features",
    "ExampleList": "examples=1:Example*",
    "ExampleListWithContext": "examples=1:Example* context=2:Example",
    "Input": "example_list=1:ExampleList|kind example_list_with_context=2:ExampleListWithContext|kind",
    "ClassificationRequest": "model_spec=1:ModelSpec input=2:Input",
    "Class": "label=1:string score=2:float",
    "Classifications": "classes=1:Class*",
    "ClassificationResult": "classifications=1:Classifications*",
    "ClassificationResponse": "result=1:ClassificationResult model_spec=2:ModelSpec",
    "RegressionRequest": "model_spec=1:ModelSpec input=2:Input",
    "Regression": "value=1:float",
    "RegressionResult": "regressions=1:Regression*",
    "RegressionResponse": "result=1:RegressionResult model_spec=2:ModelSpec",
}


def classes(package: str, messages: dict[str, str]) -> dict[str, Any]:
    """Return the classes of a package's messages, from a pool that holds nothing else.

    Args:
        package: Its name.
        messages: Per message its fields, ``name=number:type``, with ``*`` when repeated and ``|group`` in a oneof; per
            ``enum`` its names, from 0.
    """
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    enums = frozenset(name.removeprefix("enum ") for name in messages if name.startswith("enum "))
    for name, fields in messages.items():
        if name.startswith("enum "):
            enum = file.enum_type.add(name=name.removeprefix("enum "))
            for number, value in enumerate(fields.split()):
                enum.value.add(name=value, number=number)
            continue
        message = file.message_type.add(name=name)
        for field in fields.split():
            _add(message, package, field, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    found: dict[str, Any] = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.removeprefix(f"{package}."): kind for name, kind in found.items()}


def _add(message: Any, package: str, text: str, enums: frozenset[str] = frozenset()) -> None:
    """Add a field that is written as ``name=number:type``."""
    found = _FIELD.match(text)
    assert found is not None, text  # noqa: S101 - the tables above
    name, number, key, value, kind, repeated, group = found.groups()
    field = message.field.add(name=name, number=int(number), label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL)
    if repeated or key:
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    if key:
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, package, f"key=1:{key}")
        _add(entry, package, f"value=2:{value}")
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{package}.{message.name}.{entry.name}"
        return
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        kinds = descriptor_pb2.FieldDescriptorProto
        field.type = kinds.TYPE_ENUM if kind in enums else kinds.TYPE_MESSAGE
        field.type_name = f".{package}.{kind}"
    if group:
        groups = [one.name for one in message.oneof_decl]
        if group not in groups:
            groups.append(group)
            message.oneof_decl.add(name=group)
        field.oneof_index = groups.index(group)
