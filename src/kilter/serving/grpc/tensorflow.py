"""TensorFlow Serving's services: Predict, Classify, Regress, GetModelMetadata and GetModelStatus, without TensorFlow.

An endpoint is a model with one signature, ``serving_default``. Labels are ``champion`` (or ``stable``) and ``challenger`` (or
``canary``). ``Classify`` and ``Regress`` take examples: a feature per column, or one feature with all columns of a row.
Source: https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from kilter.core.errors import InvalidInput, NotFound
from kilter.serving.answering.endpoint import Endpoint
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.intake import Intake, labelled
from kilter.serving.grpc.calls import Method, Turn
from kilter.serving.grpc.messages import call_of, parsed
from kilter.serving.grpc.schema import TENSORFLOW, classes
from kilter.serving.protocols.outputs import Out, check_output, output
from kilter.serving.protocols.ports import BYTES, Port, input_ports, output_ports
from kilter.serving.protocols.tensors import Tensor, given

PREDICTION: Final = "tensorflow.serving.PredictionService"
MODEL: Final = "tensorflow.serving.ModelService"
_CLASSES: Final = classes("tensorflow.serving", TENSORFLOW)
_DEFAULT: Final = "serving_default"
_TYPES: Final = {
    1: ("FP32", "float_val"),
    2: ("FP64", "double_val"),
    3: ("INT32", "int_val"),
    4: ("UINT8", "int_val"),
    5: ("INT16", "int_val"),
    6: ("INT8", "int_val"),
    7: (BYTES, "string_val"),
    9: ("INT64", "int64_val"),
    10: ("BOOL", "bool_val"),
    17: ("UINT16", "int_val"),
    22: ("UINT32", "uint32_val"),
    23: ("UINT64", "uint64_val"),
}
"""Per number of ``tensorflow.DataType`` its name here, and the field that has its values."""
_NUMBERS: Final = {name: number for number, (name, _) in _TYPES.items()}
_LOADING, _AVAILABLE = 20, 30
_PREDICT_METHOD: Final = "tensorflow/serving/predict"
_ANY: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

Read = Callable[[RowReader | None, datetime], Given]


class TensorFlow:
    """The services.

    Args:
        intake: Where requests go.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    def methods(self) -> dict[str, Method]:
        """Return what answers to which path."""
        return {
            f"/{PREDICTION}/Predict": Method(self._predict),
            f"/{PREDICTION}/Classify": Method(self._classify),
            f"/{PREDICTION}/Regress": Method(self._regress),
            f"/{PREDICTION}/GetModelMetadata": Method(self._metadata),
            f"/{MODEL}/GetModelStatus": Method(self._status),
        }

    # ------------------------------------------------------------ predictions

    def _predict(self, turn: Turn, message: bytes) -> None:
        request = parsed(_CLASSES["PredictRequest"], message)
        most = self._intake.limits.body // 8

        def read(reader: RowReader | None, now: datetime) -> Given:
            for name in request.output_filter:
                check_output(name, "output_filter", reader.signature if reader is not None else None)
            tensors = [_tensor(name, request.inputs[name], most) for name in sorted(request.inputs)]
            return given(tensors, reader, now, self._intake.check_rows)

        def answer(found: Answer) -> None:
            response = _CLASSES["PredictResponse"](model_spec=_spec(found))
            for name in request.output_filter or ("",):
                out = output(found, name)
                _write(response.outputs[out.name], out)
            turn.answer(response.SerializeToString())

        self._ask(turn, message, request.model_spec, read, answer)

    def _classify(self, turn: Turn, message: bytes) -> None:
        request = parsed(_CLASSES["ClassificationRequest"], message)

        def answer(found: Answer) -> None:
            response = _CLASSES["ClassificationResponse"](model_spec=_spec(found))
            for scores in _scores(found):
                response.result.classifications.add(classes=[{"label": n, "score": s} for n, s in scores.items()])
            turn.answer(response.SerializeToString())

        self._ask(turn, message, request.model_spec, self._examples(request.input), answer)

    def _regress(self, turn: Turn, message: bytes) -> None:
        request = parsed(_CLASSES["RegressionRequest"], message)
        examples = self._examples(request.input)

        def read(reader: RowReader | None, now: datetime) -> Given:
            if reader is not None and reader.outputs != 1:
                raise InvalidInput("the model answers with several values", where="model_spec", fix="call Predict")
            return examples(reader, now)

        def answer(found: Answer) -> None:
            response = _CLASSES["RegressionResponse"](model_spec=_spec(found))
            for value in found.values:
                response.result.regressions.add(value=value)
            turn.answer(response.SerializeToString())

        self._ask(turn, message, request.model_spec, read, answer)

    def _ask(self, turn: Turn, message: bytes, spec: Any, read: Read, answer: Callable[[Answer], None]) -> None:
        endpoint, version = self._find(spec)
        if spec.signature_name not in {"", _DEFAULT}:
            raise NotFound("there is no such signature", where="model_spec.signature_name", allowed=_DEFAULT)
        call = call_of(turn, message, answer, version=version, protocol="grpc-tensorflow")
        self._intake.take(endpoint, call, read)

    def _examples(self, given_input: Any) -> Read:
        """Return what reads examples."""

        def read(reader: RowReader | None, now: datetime) -> Given:
            kind = given_input.WhichOneof("kind")
            if kind is None:
                raise InvalidInput("there are no examples", where="input", allowed="example_list")
            examples = getattr(given_input, kind)
            context = examples.context.features.feature if kind == "example_list_with_context" else {}
            self._intake.check_rows(len(examples.examples))
            rows = [{**context, **one.features.feature} for one in examples.examples]
            return given(list(_columns(rows, reader)), reader, now, self._intake.check_rows)

        return read

    # ------------------------------------------------------------ how it is

    def _find(self, spec: Any) -> tuple[Endpoint, int | None]:
        """Return who is asked, and the version that alone may answer, if one is named."""
        endpoint = self._intake.endpoint(spec.name)
        choice = spec.WhichOneof("version_choice")
        if choice == "version_label":
            return endpoint, labelled(endpoint, spec.version_label)
        return endpoint, int(spec.version.value) if choice == "version" else None

    def _metadata(self, turn: Turn, message: bytes) -> None:
        request = parsed(_CLASSES["GetModelMetadataRequest"], message)
        if list(request.metadata_field) != ["signature_def"]:
            raise InvalidInput("there is no such metadata", where="metadata_field", allowed="signature_def")
        endpoint, version = self._find(request.model_spec)
        model = self._intake.loaded(endpoint, version)
        signature = _CLASSES["SignatureDef"](method_name=_PREDICT_METHOD)
        response = _CLASSES["GetModelMetadataResponse"](model_spec={"name": endpoint.loop})
        if model is not None:
            for ports, infos in (
                (input_ports(model.reader.signature, model.reader.direct), signature.inputs),
                (output_ports(model.reader.signature), signature.outputs),
            ):
                for port in ports:
                    infos[port.name].CopyFrom(_info(port))
            response.model_spec.version.value = model.version
        signatures = _CLASSES["SignatureDefMap"]()
        signatures.signature_def[_DEFAULT].CopyFrom(signature)
        response.metadata["signature_def"].CopyFrom(
            _CLASSES["Any"](type_url=_ANY, value=signatures.SerializeToString())
        )
        turn.answer(response.SerializeToString())

    def _status(self, turn: Turn, message: bytes) -> None:
        endpoint, version = self._find(parsed(_CLASSES["GetModelStatusRequest"], message).model_spec)
        self._intake.loaded(endpoint, version)
        response = _CLASSES["GetModelStatusResponse"]()
        models = endpoint.active.models if endpoint.active is not None else {}
        for number, model in sorted(models.items(), reverse=True):
            if version in {None, number}:
                state = _AVAILABLE if model.pool.ready else _LOADING
                response.model_version_status.add(version=number, state=state, status={})
        turn.answer(response.SerializeToString())


# ---------------------------------------------------------------- tensors


def _tensor(name: str, tensor: Any, most: int) -> Tensor:
    """Return a TensorProto; values that are left out at its end are the last one again, as the format has it."""
    datatype, field = _TYPES.get(tensor.dtype, ("", ""))
    if not field:
        raise InvalidInput("the dtype is none that is read here", where="inputs.dtype",
                           allowed=", ".join(f"{number} ({kind})" for number, (kind, _) in _TYPES.items()))  # fmt: skip
    shape, size = [int(one.size) for one in tensor.tensor_shape.dim], 1
    for length in shape:
        size *= max(length, 0)
    if size > most:
        raise InvalidInput("the tensor is too large", where="inputs.tensor_shape", allowed=f"{most} values")
    data: Any = tensor.tensor_content or list(getattr(tensor, field))
    if isinstance(data, list) and 0 < len(data) < size:
        data += data[-1:] * (size - len(data))
    return Tensor(name, datatype, shape, data, "inputs")


def _write(tensor: Any, out: Out) -> None:
    number = _NUMBERS[out.datatype]
    tensor.dtype = number
    for length in out.shape:
        tensor.tensor_shape.dim.add(size=length)
    getattr(tensor, _TYPES[number][1]).extend(out.values)


def _info(port: Port) -> Any:
    shape = {"dim": [{"size": length} for length in port.shape]}
    return _CLASSES["TensorInfo"](name=f"{port.name}:0", dtype=_NUMBERS[port.datatype], tensor_shape=shape)


def _spec(answer: Answer) -> Any:
    spec = _CLASSES["ModelSpec"](name=answer.batch.loop, signature_name=_DEFAULT)
    if answer.version:
        spec.version.value = int(answer.version)
    return spec


# ---------------------------------------------------------------- examples


def _columns(rows: list[dict[str, Any]], reader: RowReader | None) -> Iterable[Tensor]:
    """Return the columns that examples hold."""
    wide = len(reader.direct) if reader is not None else 0
    for name in sorted({name for row in rows for name in row}):
        values = [_values(row.get(name)) for row in rows]
        if len(rows[0]) == 1 and wide > 1 and all(len(one) == wide for one in values):
            yield Tensor(name, "FP64", [len(rows), wide], [value for one in values for value in one], "input.examples")
            continue
        if any(len(one) > 1 for one in values):
            raise InvalidInput("a feature has several values", where="input.examples",
                               allowed="one value per column, or one feature with all columns")  # fmt: skip
        column = [one[0] if one else None for one in values]
        text = any(isinstance(value, bytes) for value in column)
        yield Tensor(name, BYTES if text else "FP64", [len(rows), 1], column, "input.examples")


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind") if feature is not None else None
    return list(getattr(feature, kind).value) if kind is not None else []


def _scores(answer: Answer) -> Iterable[Mapping[str, float]]:
    """Yield per row the score of each class; a probability alone is that of class 1, and leaves the rest to class 0."""
    values, width, names = answer.values, answer.width, answer.names
    binary = width == 1 and (answer.signature is None or answer.signature.label == "binary")
    for start in range(0, len(values), width):
        row = values[start : start + width]
        yield {"0": 1.0 - row[0], "1": row[0]} if binary else dict(zip(names, row, strict=True))
