"""The v1 prediction protocol, as KServe and TensorFlow Serving speak it over REST.

Sources: https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol,
https://www.tensorflow.org/tfx/serving/api_rest.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from kilter.core.errors import InvalidInput
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer, Explanation
from kilter.serving.front.http import Request
from kilter.serving.front.intake import Intake, labelled, version_of
from kilter.serving.protocols.answers import listed
from kilter.serving.protocols.bodies import Check, columns, instances, json_body
from kilter.serving.protocols.calls import call_of, quoted, said, send
from kilter.serving.protocols.models import Models
from kilter.serving.protocols.ports import Port
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tables import ask

_DTYPES = {"FP64": "DT_DOUBLE", "FP32": "DT_FLOAT", "BYTES": "DT_STRING"}


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as the protocol does: ``{"error": text}``, the problem's members beside it."""
    return 400 if status == 422 else status, {"error": said(problem), **problem}


class PredictV1:
    """The protocol.

    Args:
        intake: Where requests go.
        models: What is said about models.
    """

    def __init__(self, intake: Intake, models: Models) -> None:
        self._intake = intake
        self._models = models

    def routes(self) -> list[Route]:
        """Return its routes."""
        known = "/v1/models/{model}"
        verbs = {"predict": self.predict, "classify": self.classify, "regress": self.regress, "explain": self.explain}
        found = [
            Route(b"GET", "/", _alive, shape, open=True),
            Route(b"GET", "/v1/models", self._list, shape),
        ]
        for place in ("", "/versions/{version}", "/labels/{label}"):
            by_label = place.startswith("/labels")
            found.append(Route(b"GET", known + place, partial(self._status, by_label), shape))
            found.append(Route(b"GET", f"{known}{place}/metadata", partial(self._metadata, by_label), shape))
            found += [
                Route(b"POST", f"{known}{place}:{verb}", partial(handle, by_label), shape)
                for verb, handle in verbs.items()
            ]
        return found

    # ------------------------------------------------------------ inference

    def predict(self, by_label: bool, request: Request, *which: str) -> None:
        """Answer ``instances`` with ``predictions``, and ``inputs`` with ``outputs``."""
        name, number = self._which(by_label, *which)
        member = "predictions"

        def form(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
            nonlocal member
            given, member = _rows(body, reader, now, check)
            return given

        def answer(found: Answer) -> None:
            send(request, found, f'{{"{member}":{listed(found)}}}'.encode())

        ask(self._intake, self._intake.endpoint(name), request, form, answer, version=number)

    def classify(self, by_label: bool, request: Request, *which: str) -> None:
        """Answer examples with each class and its score."""

        def answer(found: Answer) -> None:
            names, width, values = [quoted(one) for one in found.names], found.width, found.values
            if len(names) != width:
                names = [f'"{place}"' for place in range(width)]
            rows = [
                ",".join([f"[{n},{v!r}]" for n, v in zip(names, values[at : at + width], strict=True)])
                for at in range(0, len(values), width)
            ]
            send(request, found, f'{{"results":[{",".join([f"[{row}]" for row in rows])}]}}'.encode())

        self._examples(by_label, request, which, answer)

    def regress(self, by_label: bool, request: Request, *which: str) -> None:
        """Answer examples with a value each."""

        def answer(found: Answer) -> None:
            if found.width != 1:
                error = InvalidInput("the model has several outputs", where="path", fix="use :predict or :classify")
                request.reply.fail(error)
                return
            send(request, found, f'{{"results":{listed(found)}}}'.encode())

        self._examples(by_label, request, which, answer)

    def explain(self, by_label: bool, request: Request, *which: str) -> None:
        """Answer ``instances`` with what each column adds to each output, before the link: log odds for probabilities."""
        name, number = self._which(by_label, *which)
        intake = self._intake

        def read(reader: RowReader | None, now: datetime) -> Given:
            return _rows(json_body(request.body), reader, now, intake.check_rows)[0]

        def answer(found: Explanation) -> None:
            request.reply.send(200, msgspec.json.encode({"explanations": explained(found)}))

        call = call_of(request, _unasked, version=number)
        intake.explain(intake.endpoint(name), call, read, answer)

    def _examples(self, by_label: bool, request: Request, which: tuple[str, ...], answer: Any) -> None:
        name, number = self._which(by_label, *which)

        def form(body: Any, reader: RowReader | None, now: datetime, check: Check) -> Given:
            if type(body) is not dict or type(body.get("examples")) is not list:
                raise InvalidInput("there are no examples", where="examples", allowed='{"examples": [{column: value}]}')
            context = body.get("context") or {}
            if type(context) is not dict or any(type(one) is not dict for one in body["examples"]):
                raise InvalidInput(
                    "an example, or the context, is no object", where="examples", allowed="{column: value}"
                )
            return instances([{**context, **one} for one in body["examples"]], "examples", reader, now, check)

        ask(self._intake, self._intake.endpoint(name), request, form, answer, version=number)

    # ------------------------------------------------------------ how it is

    def _which(self, by_label: bool, name: str, version: str = "") -> tuple[str, int | None]:
        if not version:
            return name, None
        return name, labelled(self._intake.endpoint(name), version) if by_label else version_of(version)

    def _list(self, request: Request) -> None:
        request.reply.send(200, msgspec.json.encode({"models": sorted(self._intake.endpoints)}))

    def _status(self, by_label: bool, request: Request, *which: str) -> None:
        name, number = self._which(by_label, *which)
        endpoint, _ = self._models.find(name, number)
        ready = self._models.model_ready(name, number)
        active = endpoint.active
        versions = [
            {
                "version": str(one),
                "state": "AVAILABLE" if model.ready else "LOADING",
                "status": {"error_code": "OK", "error_message": ""},
            }
            for one, model in sorted(active.models.items() if active is not None else ())
            if number in {None, one}
        ]
        body = {"name": name, "ready": ready, "model_version_status": versions}
        request.reply.send(200 if ready else 503, msgspec.json.encode(body))

    def _metadata(self, by_label: bool, request: Request, *which: str) -> None:
        name, number = self._which(by_label, *which)
        found = self._models.metadata(name, number)
        _, model = self._models.find(name, number)
        signature = {
            "inputs": {one["name"]: _tensor(Port(**one)) for one in found["inputs"]},
            "outputs": {one["name"]: _tensor(Port(**one)) for one in found["outputs"]},
            "method_name": "tensorflow/serving/predict",
        }
        body = {
            "model_spec": {"name": name, "signature_name": "", "version": str(model.version) if model else "0"},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
        request.reply.send(200, msgspec.json.encode(body))


def _rows(body: Any, reader: RowReader | None, now: datetime, check: Check) -> tuple[Given, str]:
    """Return the rows of a request, and the member of the answer that they are answered in."""
    if type(body) is not dict or ("instances" in body) == ("inputs" in body):
        raise InvalidInput("the body has neither rows nor columns, or both", where="body",
                           allowed='{"instances": [...]}, or {"inputs": {column: [...]}}')  # fmt: skip
    if "instances" in body:
        return instances(body["instances"], "instances", reader, now, check), "predictions"
    inputs = body["inputs"]
    if type(inputs) is dict:
        return columns(inputs, "inputs", reader, now, check), "outputs"
    return instances(inputs, "inputs", reader, now, check), "outputs"


def explained(found: Explanation) -> list[dict[str, object]]:
    """Return an explanation as JSON values: per row and output the base, and each column's contribution by name."""
    names, outputs = found.signature.encoding.names, found.signature.outputs
    step, values = len(names) + 1, found.values
    rows: list[dict[str, object]] = []
    for start in range(0, len(values), step * len(outputs)):
        row: dict[str, object] = {}
        for place, output in enumerate(outputs):
            held = values[start + place * step : start + (place + 1) * step]
            row[output] = {"base": held[-1], "contributions": dict(zip(names, held, strict=False))}
        rows.append(row)
    return rows


def _unasked(answer: Answer) -> None:
    """Take no answer: an explanation is none."""


def _alive(request: Request) -> None:
    request.reply.send(200, b'{"status":"alive"}')


def _tensor(port: Port) -> dict[str, object]:
    dims = [{"size": str(size), "name": ""} for size in port.shape]
    return {
        "dtype": _DTYPES.get(port.datatype, "DT_DOUBLE"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": port.name,
    }
