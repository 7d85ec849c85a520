"""The form that asks an endpoint: made from the model's signature, and sent to the front that runs on the store.

What is asked here is a request like any other: it is routed, answered and recorded. The control plane's edge has said before that
the caller may act; the front asks for a key of its own where one was given out.
"""

from __future__ import annotations

import http.client
import math
import re
import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.records import Manifest, Signature
from kilter.server.ui.endpoint_records import Field, Form
from kilter.serving.answering.rows import RowReader

_PLACE = re.compile(r"^(?:rows|instances)\[0\]\.(.+)$")
_TIMEOUT = 15.0
_LARGEST = 1 << 20
_OUTPUTS = {
    "binary": "the probability of the positive class",
    "regression": "a value",
    "multiclass": "a probability for each class",
    "vector": "several values",
}


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form sends.

    Args:
        row: The fields by name, as they were typed; an empty one is missing.
        version: The version that is to answer, or None to be routed like everybody.
        explain: Whether to say what each column added.
        key: An endpoint's key, where one is needed; it is passed on and kept nowhere.
    """

    row: dict[str, str]
    version: int | None = None
    explain: bool = False
    key: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one column added to an answer, and that as a part of the largest."""

    name: str
    value: float
    width: float


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer is what it is.

    Args:
        output: Which of the answer's outputs.
        base: What the model says without knowing anything.
        parts: What each column added, the largest first.
    """

    output: str
    base: float
    parts: tuple[Part, ...]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came back.

    Args:
        id: The prediction's id; empty when there is none.
        values: The answer by output.
        version: Who answered; 0 is the constant.
        arm: ``champion``, ``challenger``, ``direct`` or ``fallback``.
        took_ms: How long it took, from the server's side.
        explanation: Why, when it was asked for.
        unexplained: Why there is no explanation, or empty.
        problem: What is wrong, or empty.
        where: The field that is wrong, or empty.
        allowed: What it may be.
    """

    id: str = ""
    values: dict[str, float] = {}
    version: int | None = None
    arm: str = ""
    took_ms: float = 0.0
    explanation: tuple[Explained, ...] = ()
    unexplained: str = ""
    problem: str = ""
    where: str = ""
    allowed: str = ""


# ---------------------------------------------------------------- pure


def fields(
    signature: Signature, now: datetime, example: Mapping[str, str | float | None] = MappingProxyType({})
) -> tuple[Field, ...]:
    """Return the inputs of a form: key and time, what the model sees, and the entities that features are looked up by.

    Args:
        signature: What the model takes.
        now: What the time begins with.
        example: What the inputs begin with.
    """
    reader = RowReader(signature)
    found: dict[str, Field] = {}
    if reader.key:
        note = "identifies the row; made up when empty"
        found[reader.key] = Field(name=reader.key, kind="text", role="key", note=note)
    if reader.time:
        value = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        note = "what the prediction is for, in UTC"
        found[reader.time] = Field(name=reader.time, kind="time", role="time", note=note, value=value)
    for name in reader.direct:
        known, begins = reader.categorical.get(name), example.get(name)
        value = "" if begins is None else begins if isinstance(begins, str) else f"{begins:.6g}"
        if known is None:
            found[name] = Field(name=name, kind="number", note="a number; missing when empty", value=value)
        else:
            found[name] = Field(name=name, kind="choice" if known else "text", choices=tuple(known), value=value)
    for view in signature.views:
        entity = str(view["entity"])
        if entity not in found:
            found[entity] = Field(name=entity, kind="text", role="entity", note="features are looked up by it")
    return tuple(found.values())


def example_of(manifest: Manifest, data: bytes) -> dict[str, str | float | None]:
    """Return the first example row of a bundle, by column.

    Args:
        manifest: The bundle's manifest.
        data: Its example rows.
    """
    encoding = manifest.signature.encoding
    row = np.frombuffer(data, dtype="<f8", count=len(encoding.names)).tolist()
    found: dict[str, str | float | None] = {}
    for name, value in zip(encoding.names, row, strict=True):
        known = encoding.categories.get(name)
        if not math.isfinite(value):
            found[name] = None
        elif known is None:
            found[name] = value
        else:
            found[name] = known[int(value)] if 0 <= value < len(known) else None
    return found


def output_of(signature: Signature) -> str:
    """Return what an answer is, in words."""
    return _OUTPUTS.get(signature.label, "a value")


def row_of(asked: Mapping[str, str], form: Form) -> dict[str, str | float | None]:
    """Return a row as the endpoint takes it.

    Raises:
        InvalidInput: When a field is unknown, or a number is none; ``where`` is the field.
    """
    known = {one.name: one for one in form.fields}
    for name in asked:
        if name not in known:
            raise InvalidInput("there is no such field", where=name, allowed=", ".join(known) or "none")
    return {name: _value(field, asked.get(name, "").strip()) for name, field in known.items()}


def _value(field: Field, text: str) -> str | float | None:
    if field.role == "key":
        return text or f"try-{secrets.token_hex(4)}"
    if field.role == "time":
        return text or field.value
    if not text:
        return None
    if field.kind != "number":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput("this is no number", where=field.name, allowed="a finite number, or nothing")
    return value


def explained(document: object) -> tuple[Explained, ...]:
    """Return the first row's explanation from the front's answer, the largest parts first."""
    rows = document.get("explanations") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        return ()
    found = []
    for output, said in rows[0].items():
        parts = sorted(said["contributions"].items(), key=lambda one: (-abs(one[1]), one[0]))
        most = max((abs(value) for _, value in parts), default=0.0) or 1.0
        made = tuple(Part(name=n, value=v, width=round(100 * abs(v) / most, 1)) for n, v in parts)
        found.append(Explained(output=str(output), base=float(said["base"]), parts=made))
    return tuple(found)


def refused(document: object, status: int) -> Tried:
    """Return what a front's refusal says, with the field that it is about."""
    said: dict[str, Any] = document if isinstance(document, dict) else {}
    where = _PLACE.match(str(said.get("where", "")))
    return Tried(
        problem=str(said.get("detail") or said.get("title") or f"the front answered {status}"),
        where=where.group(1) if where else "",
        allowed=str(said.get("allowed", "")),
    )


# ---------------------------------------------------------------- asking


def ask(url: str, form: Form, asked: Asked, token: str = "") -> Tried:
    """Ask a front, and return what it said.

    Args:
        url: The front's address.
        form: The form that was filled in.
        asked: What was filled in.
        token: The front's token, when the caller brings no key.

    Raises:
        Unavailable: When the front can't be reached.
    """
    try:
        row = row_of(asked.row, form)
        secret = _secret(asked.key) or token
    except InvalidInput as error:
        return Tried(problem=error.message, where=error.where, allowed=error.allowed)
    place = "" if asked.version is None else f"/versions/{asked.version}"
    began = time.perf_counter()
    status, document = _post(url, f"/predict/{form.name}{place}", {"rows": [row]}, secret)
    took = round(1000 * (time.perf_counter() - began), 2)
    if status != 200 or not isinstance(document, dict):
        return refused(document, status)
    (said,) = document["predictions"]
    answer = Tried(
        id=said["id"],
        values=said["values"] if "values" in said else {"value": said["value"]},
        version=said["version"],
        arm=said["arm"],
        took_ms=took,
    )
    if not asked.explain:
        return answer
    if said["version"] == 0:
        return msgspec.structs.replace(answer, unexplained="the constant answered, and there is nothing behind it")
    # The version that has answered is the one to be explained, however the row would be routed.
    path = f"/v1/models/{form.name}/versions/{said['version']}:explain"
    status, document = _post(url, path, {"instances": [row]}, secret)
    if status != 200:
        return msgspec.structs.replace(answer, unexplained=refused(document, status).problem)
    return msgspec.structs.replace(answer, explanation=explained(document))


def _secret(key: str) -> str:
    """Return a key that can stand in a header."""
    if not key.isascii() or not key.isprintable():
        raise InvalidInput("that is no key", allowed="printable ASCII characters")
    return key


def _post(url: str, path: str, body: object, secret: str) -> tuple[int, object]:
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT)
    headers = {"content-type": "application/json", "user-agent": "kilter-page"}
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    try:
        connection.request("POST", path, msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        return answer.status, msgspec.json.decode(answer.read(_LARGEST))
    except (OSError, http.client.HTTPException, msgspec.DecodeError, ValueError) as error:
        raise Unavailable(
            "the front can't be reached", where="endpoint", fix="look whether `kilter up` runs"
        ) from error
    finally:
        connection.close()
