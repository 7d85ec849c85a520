"""What lies in a buffer: one record for each thing that the store is told."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

import msgspec

from kilter.core.errors import Damaged
from kilter.tracking.records import DatasetInput, Status


class Start(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="start", omit_defaults=True):
    """The first record: which run this is, and where it belongs.

    Args:
        run: The run's id, made by its own process.
        store: The folder or the address of the server that it is sent to.
        at: When it began.
        process: The id of the process that writes.
        experiment: What it belongs to.
        name: What people call it.
        params: What it is given.
        tags: What people say about it.
        seed: Its seed.
        code_digest: Digest of its source.
        data_digest: Digest of its data.
        environment: Digest of its lock.
        resumed: The run is there already and goes on.
        joined: Another process of the run: it neither starts nor ends it.
    """

    run: str
    store: str
    at: datetime
    process: int
    experiment: str = "default"
    name: str = ""
    params: dict[str, Any] = {}
    tags: dict[str, str] = {}
    seed: int | None = None
    code_digest: str = ""
    data_digest: str = ""
    environment: str = ""
    resumed: bool = False
    joined: bool = False


class Points(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="points"):
    """Points of metrics, packed as ``tracking/columns.py`` says."""

    names: list[str]
    counts: list[int]
    data: bytes


class Params(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="params"):
    """Parameters."""

    values: dict[str, Any]


class Tags(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="tags"):
    """Tags."""

    values: dict[str, str]


class File(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="file"):
    """A file of the run; ``copy`` is what its bytes are called beside the log."""

    name: str
    digest: str
    size: int
    copy: str


class Data(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="data"):
    """Data that the run read."""

    dataset: DatasetInput


class Model(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="model"):
    """A model that the run made: the files below a folder of its artifacts."""

    name: str
    type: str
    path: str
    step: int = 0
    params: dict[str, str] = {}
    tags: dict[str, str] = {}


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="finish"):
    """The last record."""

    status: Status
    at: datetime
    reason: str = ""


Record: TypeAlias = Start | Points | Params | Tags | File | Data | Model | Finish

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encoded(record: Record) -> bytes:
    """Return a record as bytes."""
    return _ENCODER.encode(record)


def decoded(data: bytes) -> Record:
    """Return the record that bytes say.

    Raises:
        Damaged: When they say none.
    """
    try:
        return _DECODER.decode(data)
    except msgspec.MsgspecError as error:
        raise Damaged(
            f"a record can't be read: {error}", where="buffer", fix="was it written by a newer Kilter?"
        ) from None
