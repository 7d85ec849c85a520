"""The Open Inference Protocol v2 over REST, with Triton's extensions.

These are binary tensor data, classification, statistics, configuration and repository.

Source: https://github.com/kserve/open-inference-protocol, https://github.com/triton-inference-server/server (docs/protocol).
What Triton has beyond it and a front has not (shared memory, changes of its trace and log settings) is refused, but for the
lists of what is registered, which are empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import msgspec

from kilter.core.errors import InvalidInput
from kilter.serving.answering.admission import with_parameters
from kilter.serving.answering.rows import Given, RowReader
from kilter.serving.front.exchange import Answer
from kilter.serving.front.http import HttpError, Request
from kilter.serving.front.intake import Intake, version_of
from kilter.serving.protocols.calls import call_of, decode, quoted, said, send
from kilter.serving.protocols.models import Models
from kilter.serving.protocols.outputs import Out, check_output, output
from kilter.serving.protocols.ports import KINDS
from kilter.serving.protocols.routes import Route
from kilter.serving.protocols.tensors import Tensor, given

Parameters = dict[str, str | int | float | bool | None]
_BINARY: Final = b"application/octet-stream"
_LENGTH: Final = b"inference-header-content-length"
_SHORT: Final = 1024
"""Bytes up to which a head is remembered."""
_FORM: Final = '{"inputs": [{"name", "shape", "datatype", "data"}]}'


class Input(msgspec.Struct, gc=False, frozen=True):
    """One input of a request."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None = None
    parameters: Parameters | None = None


class Wanted(msgspec.Struct, gc=False, frozen=True):
    """One output that a request asks for."""

    name: str
    parameters: Parameters | None = None


class Inference(msgspec.Struct, gc=False, frozen=True):
    """The body of an inference request."""

    inputs: list[Input]
    id: str = ""
    outputs: list[Wanted] | None = None
    parameters: Parameters | None = None


class Repository(msgspec.Struct):
    """The body of a request about the repository."""

    ready: bool = False
    parameters: dict[str, Any] = {}


_INFERENCE = msgspec.json.Decoder(Inference)
_REPOSITORY = msgspec.json.Decoder(Repository)
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
_TRACE = {"trace_file": "", "trace_level": ["OFF"], "trace_rate": "0", "trace_count": "-1", "log_frequency": "0", "trace_mode": "opentelemetry"}  # fmt: skip
_LOG = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0, "log_format": "default"}  # fmt: skip


def shape(status: int, problem: dict[str, object]) -> tuple[int, object]:
    """Say an error as the protocol does: ``{"error": text}``, the problem's members beside it."""
    return 400 if status == 422 else status, {"error": said(problem), **problem}


class OpenInference:
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
        models, known = self._models, "/v2/models/{model}"
        found = [
            *_both(b"POST", "/infer", self.infer),
            *_both(b"GET", "/ready", self._model_ready),
            *_both(b"GET", "", lambda request, *which: _say(request, models.metadata(*_which(*which)))),
            *_both(b"GET", "/config", lambda request, *which: _say(request, models.config(*_which(*which)))),
            *_both(b"GET", "/stats", lambda request, *which: _say(request, models.statistics(*_which(*which)))),
            Route(b"GET", "/v2/models/stats", lambda request: _say(request, models.statistics()), shape),
            Route(
                b"GET", "/v2/models", lambda request: _say(request, {"models": sorted(self._intake.endpoints)}), shape
            ),
            Route(b"GET", "/v2/health/live", lambda request: _say(request, {"live": True}), shape, open=True),
            Route(b"GET", "/v2/health/ready", self._ready, shape, open=True),
            Route(b"GET", "/v2", lambda request: _say(request, models.server()), shape),
            Route(b"POST", "/v2/repository/index", self._index, shape),
            Route(b"POST", "/v2/repository/models/{model}/load", self._load, shape),
            Route(b"POST", "/v2/repository/models/{model}/unload", self._unload, shape),
        ]
        for path in ("/v2/trace/setting", known + "/trace/setting", "/v2/logging"):
            settings = _LOG if path.endswith("logging") else _TRACE
            found.append(Route(b"GET", path, partial(_settings, settings), shape))
            found.append(Route(b"POST", path, partial(_unchanged, settings), shape))
        for kind in ("system", "cuda"):
            base = f"/v2/{kind}sharedmemory"
            for region in ("", "/region/{region}"):
                found.append(Route(b"GET", f"{base}{region}/status", lambda request, *_: _say(request, []), shape))
                found.append(Route(b"POST", f"{base}{region}/unregister", lambda request, *_: _say(request, {}), shape))
                found.append(Route(b"POST", f"{base}{region}/register", _no_memory, shape))
        return found

    # ------------------------------------------------------------ inference

    def infer(self, request: Request, name: str, version: str = "") -> None:
        """Answer the rows of a request's tensors."""
        intake = self._intake
        endpoint = intake.endpoint(name)
        pinned = version_of(version) if version else None
        asked: Inference

        def read(reader: RowReader | None, now: datetime) -> Given:
            nonlocal asked
            asked, spans, rest = _parsed(request, reader)
            if asked.outputs:
                signature = reader.signature if reader is not None else None
                for place, wanted in enumerate(asked.outputs):
                    check_output(wanted.name, f"outputs[{place}].name", signature)
                    _classes_of(wanted, place)
            found = given(_tensors(asked.inputs, spans, rest), reader, now, intake.check_rows)
            if asked.parameters:
                found.route = _route_of(asked.parameters) or found.route
                call.terms = with_parameters(call.terms, asked.parameters)
            return found

        def answer(found: Answer) -> None:
            _answer(request, asked, found)

        call = call_of(request, answer, version=pinned)
        intake.take(endpoint, call, read)

    # ------------------------------------------------------------ how it is

    def _ready(self, request: Request) -> None:
        ready = self._models.ready()
        request.reply.send(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')

    def _model_ready(self, request: Request, *which: str) -> None:
        name, number = _which(*which)
        ready = self._models.model_ready(name, number)
        body = {"name": name, "ready": ready}
        request.reply.send(200 if ready else 503, msgspec.json.encode(body))

    def _index(self, request: Request) -> None:
        body = decode(_REPOSITORY, request.body or b"{}", '{"ready": true}')
        _say(request, self._models.index(ready=body.ready))

    def _load(self, request: Request, name: str) -> None:
        body = decode(_REPOSITORY, request.body or b"{}", "{}")
        self._models.load(name, body.parameters)
        _say(request, {})

    def _unload(self, request: Request, name: str) -> None:
        decode(_REPOSITORY, request.body or b"{}", "{}")
        self._models.unload(name)
        _say(request, {})


def _both(method: bytes, tail: str, handle: Any) -> list[Route]:
    known = "/v2/models/{model}"
    return [Route(method, f"{known}{place}{tail}", handle, shape) for place in ("", "/versions/{version}")]


def _which(name: str, version: str = "") -> tuple[str, int | None]:
    return name, version_of(version) if version else None


def _say(request: Request, value: object) -> None:
    request.reply.send(200, msgspec.json.encode(value))


def _settings(settings: Mapping[str, object], request: Request, *_: str) -> None:
    _say(request, settings)


def _unchanged(settings: Mapping[str, object], request: Request, *_: str) -> None:
    """Take settings that change nothing, which is how a client asks for them; refuse all others."""
    asked = decode(_OBJECT, request.body or b"{}", "{}")
    if any(value is not None and settings.get(name) != value for name, value in asked.items()):
        raise InvalidInput(
            "these settings are not changed over the wire", where="body", fix="start the front with other ones"
        )
    _say(request, settings)


def _no_memory(request: Request, *_: str) -> None:
    del request
    raise HttpError(400, "shared memory is not offered", fix="send the tensors with the request")


# ---------------------------------------------------------------- requests


class Spans(NamedTuple):
    """Where the data of a head's inputs lie in what comes after it.

    Args:
        inputs: Per input its name, datatype, shape, what an error calls it, and where its data begin and end.
        size: How long they are together.
    """

    inputs: tuple[tuple[str, str, list[int], str, int, int], ...]
    size: int


def _parsed(request: Request, reader: RowReader | None) -> tuple[Inference, Spans | None, memoryview]:
    """Return a request's head, where its inputs lie if that is known already, and the binary data after it."""
    body: bytes | memoryview = request.body
    length = request.headers.get(_LENGTH)
    if length is None:
        return decode(_INFERENCE, body, _FORM), None, memoryview(b"")
    if not length.isdigit() or len(length) > 10 or int(length) > len(body):
        raise HttpError(400, "the length of the JSON part is none, or longer than the body",
                        allowed=f"Inference-Header-Content-Length: 0 to {len(body)}")  # fmt: skip
    held, size = memoryview(body), int(length)
    if size == 0:
        return _bare(held, reader), None, held
    if size <= _SHORT:
        return *_head(body[:size]), held[size:]
    return decode(_INFERENCE, held[:size], _FORM), None, held[size:]


@lru_cache(maxsize=256)
def _head(head: bytes) -> tuple[Inference, Spans | None]:
    """Return what a head says that stands before binary data: clients mostly send the same one again."""
    found = decode(_INFERENCE, head, _FORM)
    spans = []
    start = 0
    for place, one in enumerate(found.inputs):
        size = (one.parameters or {}).get("binary_data_size")
        if type(size) is not int or size < 0 or one.data is not None:
            return found, None
        spans.append((one.name, one.datatype, one.shape, f"inputs[{place}]", start, start + size))
        start += size
    return found, Spans(tuple(spans), start)


def _bare(held: memoryview, reader: RowReader | None) -> Inference:
    """Return the head of a request that is nothing but the one tensor's bytes."""
    columns = len(reader.direct) if reader is not None else 1
    kind = reader.signature.dtype if reader is not None else "FP64"
    step = KINDS[kind][1] * columns
    if len(held) % step:
        raise InvalidInput(
            f"there are {len(held)} bytes", where="body", allowed=f"a multiple of {step}: rows of {kind}"
        )
    inner = reader.signature.shape if reader is not None and reader.signature.shape else (columns,)
    head = Input("input", kind, [len(held) // step, *inner], None, {"binary_data_size": len(held)})
    return Inference([head], parameters={"binary_data_output": True})


def _tensors(inputs: Sequence[Input], spans: Spans | None, rest: memoryview) -> list[Tensor]:
    if spans is not None and spans.size == len(rest):
        return [
            Tensor(name, datatype, shape, rest[start:end], where)
            for name, datatype, shape, where, start, end in spans.inputs
        ]
    found: list[Tensor] = []
    start = 0
    for place, one in enumerate(inputs):
        where = f"inputs[{place}]"
        data: list[Any] | memoryview | None = one.data
        if one.parameters is not None:
            size = one.parameters.get("binary_data_size")
            if size is not None:
                if type(size) is not int or not 0 <= size <= len(rest) - start or data is not None:
                    raise InvalidInput(
                        "the size of the binary data is none, goes past the end of the body, or comes beside data",
                        where=f"{where}.parameters.binary_data_size",
                        allowed=f"0 to {len(rest) - start}, without data",
                    )
                data = rest[start : start + size]
                start += size
            elif "shared_memory_region" in one.parameters:
                raise InvalidInput("shared memory is not offered", where=f"{where}.parameters", fix="send the data")
        if data is None:
            raise InvalidInput("the input has no data", where=f"{where}.data", allowed="data, or binary_data_size")
        found.append(Tensor(one.name, one.datatype, one.shape, data, where))
    if start != len(rest):
        raise InvalidInput(
            f"the body has {len(rest) - start} bytes that belong to no input",
            where="inputs.parameters.binary_data_size",
            allowed=f"sizes that add up to {len(rest)}",
        )
    return found


def _route_of(parameters: Parameters) -> str:
    key = parameters.get("kilter_key")
    if key is None:
        return ""
    if type(key) is not str or len(key) > 200:
        raise InvalidInput(
            "the routing key is no text, or too long", where="parameters.kilter_key", allowed="200 characters"
        )
    return key


def _classes_of(wanted: Wanted, place: int) -> int:
    count = (wanted.parameters or {}).get("classification", 0)
    if type(count) is not int or not 0 <= count < 1 << 31:
        raise InvalidInput("that is no number of classes", where=f"outputs[{place}].parameters.classification",
                           allowed="1 or more")  # fmt: skip
    return count


# ---------------------------------------------------------------- answers


def _answer(request: Request, asked: Inference, answer: Answer) -> None:
    """Answer in JSON, in binary, or in both, as the request says for each output."""
    binary = asked.parameters is not None and asked.parameters.get("binary_data_output") is True
    texts: list[str] = []
    raws: list[bytes] = []
    for place, wanted in enumerate(asked.outputs or _ALL):
        options = wanted.parameters
        out = output(answer, wanted.name, _classes_of(wanted, place) if options else 0)
        as_bytes = binary if options is None else options.get("binary_data", binary) is True
        if as_bytes:
            raws.append(out.raw())
            tail = f'"parameters":{{"binary_data_size":{len(raws[-1])}}}'
        else:
            tail = f'"data":[{_listed(out)}]'
        texts.append(f"{_about(out.name, out.datatype, *out.shape)}{tail}}}")
    head = (
        f'{_opening(answer.batch.loop, answer.version, asked.id)}{answer.id(0)}"}},"outputs":[{",".join(texts)}]}}'
    ).encode()
    if not raws:
        send(request, answer, head)
        return
    length = b"inference-header-content-length: %d\r\n" % len(head)
    send(request, answer, b"".join((head, *raws)), _BINARY, length)


@lru_cache(maxsize=1024)
def _about(name: str, datatype: str, rows: int, width: int) -> str:
    """Return how an output begins: all but its data."""
    return f'{{"name":{quoted(name)},"datatype":"{datatype}","shape":[{rows},{width}],'


def _opening(loop: str, version: str, ident: str) -> str:
    """Return how an answer begins, up to its prediction's id."""
    said = f'"id":{quoted(ident)},' if ident else ""
    return f'{{"model_name":"{loop}","model_version":"{version}",{said}"parameters":{{"prediction":"'


_ALL: Final = (Wanted(""),)


def _listed(out: Out) -> str:
    if out.datatype == "BYTES":
        return ",".join([quoted(value.decode("utf-8", "replace")) for value in out.values])  # type: ignore[union-attr]
    return ",".join(map(repr, out.values))
