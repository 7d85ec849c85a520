"""A model that another server answers for, over the Open Inference Protocol v2 (HTTP and JSON).

One call is one request, with one deadline for all of it. A call is never repeated: not when it takes too long, not when
the connection breaks, because the front has other versions to ask, and what waits upstream would only be doubled. A
connection that is kept alive is looked at before it is used again, so that one that has been closed costs nothing.

Source: https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import http.client
import os
import re
import select
import socket
import time
import weakref
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from kilter.core.digests import canonical_json
from kilter.core.errors import Damaged, InvalidInput, NotFound, Unavailable
from kilter.packaging.formats import ModelFile
from kilter.packaging.native import Buffer, ModelSpec, check_model, check_shape
from kilter.packaging.records import LabelKind
from kilter.packaging.trust import require_trust, trust

_DTYPES = {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "INT64": np.int64, "INT32": np.int32,
           "INT16": np.int16, "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_}  # fmt: skip
_LONGEST_SECONDS = 30.0
_REFERENCE = re.compile(r"^env:([A-Za-z_][A-Za-z0-9_]*)$")
_MOST_PER_NUMBER, _MOST_BESIDE = 64, 1 << 20


@dataclass(frozen=True)
class Upstream:
    """A model on another server.

    Args:
        url: The server: ``http://10.0.0.7:8080``.
        model: The model's name there.
        version: Its version there; the server's choice if not said.
        timeout: Seconds that a call may take in all, up to 30.
        token: Where the bearer token is: ``env:NAME``; empty without one.
        output: The output that is answered; the only one, or the first, if not said.
        label: What it answers with.
    """

    url: str
    model: str
    version: str = ""
    timeout: float = 1.0
    token: str = ""
    output: str = ""
    label: LabelKind = "regression"


class _Address(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as it is kept."""

    url: str
    model: str
    version: str
    timeout: float
    token: str
    output: str


class _Tensor(msgspec.Struct):
    name: str = ""
    datatype: str = ""
    shape: list[int] = []
    data: list[Any] = []


class _Metadata(msgspec.Struct):
    inputs: list[_Tensor] = []


class _Answer(msgspec.Struct):
    outputs: list[_Tensor] = []


def as_model(upstream: Upstream) -> ModelFile:
    """Return an upstream as a model that can be packaged; its address is trusted on this machine from now on.

    Raises:
        InvalidInput: When its address, its timeout or its token can't be used.
    """
    parts = urlsplit(upstream.url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise InvalidInput(
            "this is no server's address", where="upstream.url", allowed="http://HOST:PORT, without user or query"
        )
    if not 0 < upstream.timeout <= _LONGEST_SECONDS:
        raise InvalidInput(
            f"{upstream.timeout} seconds", where="upstream.timeout", allowed=f"up to {_LONGEST_SECONDS:g}"
        )
    if upstream.token and not _REFERENCE.fullmatch(upstream.token):
        raise InvalidInput("the token is not a reference", where="upstream.token", allowed="env:NAME")
    if not upstream.model:
        raise InvalidInput("no model is named", where="upstream.model")
    data = canonical_json(
        _Address(
            url=upstream.url.rstrip("/"),
            model=upstream.model,
            version=upstream.version,
            timeout=float(upstream.timeout),
            token=upstream.token,
            output=upstream.output,
        )
    )
    trust(data)
    return ModelFile("remote", data, "msgspec", upstream.label)


class UpstreamModel:
    """A connection to an upstream.

    Args:
        spec: What goes in and out.
        data: Its address, as :func:`as_model` wrote it.

    Raises:
        Damaged: When the bytes are no address.
        Forbidden: When they are not trusted here.
        InvalidInput: When the model there takes other inputs.
        Unavailable: When the server doesn't answer.
    """

    def __init__(self, spec: ModelSpec, data: bytes) -> None:
        require_trust(data, "an upstream")
        try:
            self._address = msgspec.json.decode(data, type=_Address)
        except msgspec.MsgspecError as error:
            raise Damaged("the bytes are not an upstream's address", where="model.json") from error
        self._spec = spec
        version = f"/versions/{quote(self._address.version, safe='')}" if self._address.version else ""
        parts = urlsplit(self._address.url)
        self._path = f"{parts.path}/v2/models/{quote(self._address.model, safe='')}{version}"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port)
        weakref.finalize(self, self._connection.close)
        self._headers = {"Content-Type": "application/json", **_authorization(self._address.token)}
        self._inputs = self._asked()

    def predict(self, data: Buffer, rows: int, columns: int) -> bytes:
        """Return a row-major float64 matrix of ``rows`` x outputs for one of ``rows`` x ``columns``."""
        check_shape(self._spec, data, rows, columns)
        if not rows:
            return b""
        matrix = np.frombuffer(data, dtype="<f8").reshape(rows, columns)
        body = msgspec.json.encode({"inputs": self._tensors(matrix)})
        most = rows * max(self._spec.outputs, 1) * _MOST_PER_NUMBER + _MOST_BESIDE
        content = self._call("POST", f"{self._path}/infer", body, most)
        try:
            outputs = msgspec.json.decode(content, type=_Answer).outputs
            wanted = self._address.output
            found = next((one for one in outputs if one.name == wanted or not wanted), None)
            if found is None:
                raise InvalidInput("the upstream's answer has no such output", where="upstream.output")
            values = np.array(found.data, dtype=np.float64).reshape(rows, -1)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Unavailable("the upstream's answer can't be read", where=self._address.url) from error
        if values.shape[1] == 2 and self._spec.output == "probability":
            values = values[:, 1:]
        check_model(self._spec, columns, values.shape[1])
        return np.ascontiguousarray(values, dtype="<f8").tobytes()

    def _asked(self) -> list[_Tensor]:
        """Return the inputs that the model there takes.

        Raises:
            InvalidInput: When they are not those of the signature.
        """
        try:
            inputs = msgspec.json.decode(self._call("GET", self._path, b"", _MOST_BESIDE), type=_Metadata).inputs
        except msgspec.MsgspecError as error:
            raise Unavailable("the upstream's metadata can't be read", where=self._address.url) from error
        if len(inputs) == 1 and inputs[0].datatype in _DTYPES:
            return inputs
        missing = [one.name for one in inputs if one.name not in self._spec.names]
        if missing or not inputs:
            raise InvalidInput(f"the upstream takes {', '.join(missing[:5]) or 'no inputs'}", where="upstream",
                               allowed=", ".join(self._spec.names[:20]))  # fmt: skip
        return inputs

    def _tensors(self, matrix: np.ndarray[Any, np.dtype[np.float64]]) -> list[dict[str, Any]]:
        rows, columns = matrix.shape
        if len(self._inputs) == 1 and self._inputs[0].datatype in _DTYPES:
            only = self._inputs[0]
            held: list[Any] = matrix.astype(_DTYPES[only.datatype]).ravel().tolist()
            shape = [rows, *(self._spec.shape or (columns,))]
            return [{"name": only.name, "shape": shape, "datatype": only.datatype, "data": held}]
        tensors = []
        for one in self._inputs:
            column = matrix[:, self._spec.names.index(one.name)]
            known = self._spec.categories.get(one.name)
            if known is None:
                values: list[Any] = column.astype(_DTYPES.get(one.datatype, np.float64)).tolist()
            else:
                values = [known[int(code)] if code >= 0 else "" for code in column.tolist()]
            shape = [rows, 1] if len(one.shape) > 1 else [rows]
            tensors.append({"name": one.name, "shape": shape, "datatype": one.datatype, "data": values})
        return tensors

    def _call(self, method: str, path: str, body: bytes, most: int) -> bytes:
        """Send one request, once, and return the body of its answer.

        Raises:
            InvalidInput: When the upstream refuses it.
            Unavailable: When it does not answer well, or not in time.
        """
        due = time.monotonic() + self._address.timeout
        connection = self._connection
        try:
            if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
                connection.close()  # the other side has hung up since
            connection.timeout = self._address.timeout
            connection.request(method, path, body, self._headers)
            status, content = self._answered(connection, most, due)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            reason = "in time" if isinstance(error, TimeoutError) else f"({type(error).__name__})"
            raise Unavailable(f"the upstream did not answer {reason}", where=self._address.url) from error
        if status == 200:
            return content
        if status == 404:
            raise NotFound("the upstream has no such model", where=self._address.url)
        if 400 <= status < 500 and status not in {408, 425, 429}:
            raise InvalidInput(f"the upstream refused the rows with {status}", where=self._address.url)
        raise Unavailable(f"the upstream answered with {status}", where=self._address.url)

    @staticmethod
    def _answered(connection: http.client.HTTPConnection, most: int, due: float) -> tuple[int, bytes]:
        """Read the answer piece by piece, so that one that trickles in has no more time than one that hangs."""

        def wait() -> None:
            left = due - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock: socket.socket | None = connection.sock
            if sock is not None:
                sock.settimeout(left)

        wait()
        response = connection.getresponse()
        found = bytearray()
        while True:
            wait()
            piece = response.read1(65536)
            if not piece:
                response.close()  # some versions of http.client leave that to whoever reads by pieces
                return response.status, bytes(found)
            found += piece
            if len(found) > most:
                raise http.client.HTTPException("the answer is too long")


def _authorization(reference: str) -> dict[str, str]:
    named = _REFERENCE.fullmatch(reference) if reference else None
    if named is None:
        return {}
    token = os.environ.get(named.group(1), "")
    if not token:
        raise NotFound(f"the environment variable {named.group(1)} is not set", where="upstream.token")
    return {"Authorization": f"Bearer {token}"}
