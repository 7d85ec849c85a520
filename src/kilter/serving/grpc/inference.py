"""The Open Inference Protocol's service: ``inference.GRPCInferenceService``.

A request's tensors are read by the same code as REST's, and asked at the same endpoints. Answers are raw when the inputs
were, typed otherwise. What Triton has and a front has not (shared memory, trace and log settings) is UNIMPLEMENTED, but for
the lists of what is registered, which are empty.
Source: https://github.com/kserve/open-inference-protocol, https://github.com/triton-inference-server/common/tree/main/protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped]

from kilter.core.errors import InvalidInput, KilterError
from kilter.serving.answering.admission import with_parameters
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.intake import Intake, version_of
from kilter.serving.grpc.calls import Method, Turn
from kilter.serving.grpc.messages import call_of, parsed
from kilter.serving.grpc.schema import INFERENCE, classes
from kilter.serving.protocols.models import Models
from kilter.serving.protocols.outputs import check_output, output
from kilter.serving.protocols.ports import BYTES
from kilter.serving.protocols.tensors import Tensor, given

SERVICE: Final = "inference.GRPCInferenceService"
_CLASSES: Final = classes("inference", INFERENCE)
_INFER, _INFERRED = _CLASSES["ModelInferRequest"], _CLASSES["ModelInferResponse"]
_STREAMED = _CLASSES["ModelStreamInferResponse"]
_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_STREAM_KEY: Final = 0x12  # field 2 of ModelStreamInferResponse, length-delimited


class Inference:
    """The service.

    Args:
        intake: Where requests go.
        ready: Whether the whole front is ready.
    """

    def __init__(self, intake: Intake, ready: Callable[[], bool]) -> None:
        self._intake = intake
        self._models = Models(intake, ready)

    def methods(self) -> dict[str, Method]:
        """Return what answers to which path."""
        found = {"ModelInfer": Method(self.infer), "ModelStreamInfer": Method(self.infer, _wrapped, _failure)}
        models = self._models
        plain: dict[str, Callable[[Any], dict[str, Any]]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": models.ready()},
            "ServerMetadata": lambda _: models.server(),
            "ModelReady": lambda asked: {"ready": models.model_ready(*_which(asked))},
            "ModelMetadata": lambda asked: models.metadata(*_which(asked)),
            "ModelConfig": lambda asked: {"config": models.config(*_which(asked))},
            "ModelStatistics": lambda asked: models.statistics(*_which(asked)),
            "RepositoryIndex": lambda asked: {"models": models.index(ready=asked.ready)},
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **{
                f"{kind}SharedMemory{what}": lambda _: {}
                for kind in ("System", "Cuda")
                for what in ("Status", "Unregister")
            },
        }
        found |= {name: Method(_said(name, say)) for name, say in plain.items()}
        return {f"/{SERVICE}/{name}": method for name, method in found.items()}

    # ------------------------------------------------------------ inference

    def infer(self, turn: Turn, message: bytes) -> None:
        """Answer the rows of a request's tensors."""
        request = parsed(_INFER, message)
        intake = self._intake
        endpoint = intake.endpoint(request.model_name)
        version = version_of(request.model_version) if request.model_version else None

        def read(reader: RowReader | None, now: datetime) -> Given:
            for place, wanted in enumerate(request.outputs):
                check_output(wanted.name, f"outputs[{place}].name", reader.signature if reader is not None else None)
                _classes_of(wanted, place)
            return given(list(_tensors(request)), reader, now, intake.check_rows)

        def answer(found: Answer) -> None:
            turn.answer(_inferred(request, found))

        route = request.parameters["kilter_key"].string_param if "kilter_key" in request.parameters else ""
        call = call_of(turn, message, answer, version=version, route=route)
        if request.parameters:
            call.terms = with_parameters(call.terms, _numbers(request.parameters))
        intake.take(endpoint, call, read)

    # ------------------------------------------------------------ how it is

    def _load(self, request: Any) -> dict[str, Any]:
        self._models.load(request.model_name, dict(request.parameters))
        return {}

    def _unload(self, request: Any) -> dict[str, Any]:
        self._models.unload(request.model_name)
        return {}


def _which(request: Any) -> tuple[str, int | None]:
    return request.name, version_of(request.version) if request.version else None


def _numbers(parameters: Any) -> dict[str, object]:
    """Return the parameters that are numbers."""
    kinds = ((name, one, one.WhichOneof("parameter_choice")) for name, one in parameters.items())
    return {name: getattr(one, kind) for name, one, kind in kinds if kind in {"int64_param", "uint64_param"}}


def _said(name: str, say: Callable[[Any], dict[str, Any]]) -> Callable[[Turn, bytes], None]:
    """Return a method that answers at once with fields."""
    request = _CLASSES.get(f"{name}Request", _CLASSES["ServerLiveRequest"])
    response = _CLASSES[f"{name}Response"]

    def handle(turn: Turn, message: bytes) -> None:
        turn.answer(ParseDict(say(parsed(request, message)), response()).SerializeToString())

    return handle


def _tensors(request: Any) -> Iterator[Tensor]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidInput(
            f"there are {len(raws)} raw contents for {len(request.inputs)} inputs",
            where="raw_input_contents",
            allowed="one per input, or none",
        )
    for place, tensor in enumerate(request.inputs):
        where = f"inputs[{place}]"
        contents = tensor.contents if tensor.HasField("contents") else None
        if raws:
            if contents is not None and contents.ByteSize():
                raise InvalidInput(
                    "the input has contents beside the raw ones", where=f"{where}.contents", allowed="none"
                )
            data: Any = raws[place]
        else:
            field = _CONTENTS.get(tensor.datatype)
            if field is None:
                raise InvalidInput("the datatype has no typed contents", where=f"{where}.datatype",
                                   allowed=", ".join(_CONTENTS), fix="send raw_input_contents")  # fmt: skip
            data = list(getattr(contents, field)) if contents is not None else []
        if "shared_memory_region" in tensor.parameters:
            raise InvalidInput("shared memory is not read here", where=f"{where}.parameters", fix="send the contents")
        yield Tensor(tensor.name, tensor.datatype, list(tensor.shape), data, where)


def _inferred(request: Any, answer: Answer) -> bytes:
    """Return an answer as a ModelInferResponse."""
    response = _INFERRED(model_name=answer.batch.loop, model_version=answer.version, id=request.id)
    response.parameters["prediction"].string_param = answer.id(0)
    wanted = [(one.name, _classes_of(one, place)) for place, one in enumerate(request.outputs)] or [("", 0)]
    raw = bool(request.raw_input_contents) or not request.inputs
    for name, best in wanted:
        out = output(answer, name, best)
        tensor = response.outputs.add(name=out.name, datatype=out.datatype, shape=out.shape)
        if raw:
            response.raw_output_contents.append(out.raw())
        else:
            getattr(tensor.contents, _CONTENTS[out.datatype]).extend(out.values)
    return bytes(response.SerializeToString())


def _classes_of(wanted: Any, place: int) -> int:
    if "classification" not in wanted.parameters:
        return 0
    count = int(wanted.parameters["classification"].int64_param)
    if not 0 < count < 1 << 31:
        where = f"outputs[{place}].parameters.classification"
        raise InvalidInput("that is no number of classes", where=where, allowed="1 or more")
    return count


def _wrapped(message: bytes) -> bytes:
    """Return a ModelInferResponse as a message of the stream."""
    size, length = bytearray(), len(message)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return b"%c%b%b" % (_STREAM_KEY, bytes(size), message)


def _failure(error: KilterError, request: bytes) -> bytes:
    """Return an error as a message of the stream, with the id of the request that it answers."""
    answer = _STREAMED(error_message=str(error))
    with suppress(KilterError):
        answer.infer_response.id = parsed(_INFER, request).id
    return bytes(answer.SerializeToString())
