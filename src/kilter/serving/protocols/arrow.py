"""Bodies in Arrow's IPC format, stream or file, read by pyarrow (``kilter[arrow]``).

What is sent by strangers is checked before it is read: buffers that are compressed inside could hold anything, so they are refused;
a whole body may be compressed by its Content-Encoding, which has a bound. Source: Arrow columnar format, sections on IPC.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import polars as pl

from kilter.core.errors import InvalidInput, KilterError
from kilter.serving.front.http import HttpError

_MAGIC: Final = b"ARROW1"
_BLOCK: Final = struct.Struct("<q16x")
_DICTIONARY = 2
"""The type of a message."""
_DICTIONARIES, _RECORD_BATCHES = 2, 3
"""Fields of a file's footer."""
_FORM: Final = "an Arrow IPC stream or file, its buffers not compressed"


def read(body: bytes, wanted: Sequence[str], check: Callable[[int], None]) -> pl.DataFrame:
    """Return the columns of a body that a model asks for; all of them, when it asks for none.

    Args:
        body: The body.
        wanted: The names that the model knows.
        check: Refuses a number of rows.

    Raises:
        HttpError: 415 when pyarrow is not installed, 413 when there are too many rows.
        InvalidInput: When the body can't be read.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra, and heavy: only who sends Arrow waits for it
    except ImportError as error:
        raise HttpError(
            415, "Arrow is not read here", allowed="other types", fix="pip install kilter[arrow]"
        ) from error
    data = pa.py_buffer(body)
    file = body.startswith(_MAGIC)
    try:
        messages = (
            (pa.ipc.read_message(data[place:]) for place in _blocks(body))
            if file
            else pa.ipc.MessageReader.open_stream(data)
        )
        for message in messages:
            if message.type in {"record batch", "dictionary"} and _compressed(message.metadata.to_pybytes()):
                raise InvalidInput("the buffers are compressed", where="body", allowed=_FORM,
                                   fix="write the data uncompressed, or compress the whole body: Content-Encoding: gzip")  # fmt: skip
        table = (pa.ipc.open_file if file else pa.ipc.open_stream)(data).read_all()
        check(table.num_rows)
        names = [name for name in table.column_names if name in wanted]
        if len(set(names)) != len(names):
            raise InvalidInput("two columns have the same name", where="body", allowed=_FORM)
        table = table.select(names or list(range(min(table.num_columns, len(wanted) + 1))))
        table.validate(full=True)
        return _frame(table)
    except KilterError:
        raise
    except (
        pa.ArrowException,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        struct.error,
        MemoryError,
    ) as error:
        raise InvalidInput("the body is no Arrow data", where="body", allowed=_FORM) from error


def _frame(table: Any) -> pl.DataFrame:
    found = pl.from_arrow(table)
    if not isinstance(found, pl.DataFrame):
        raise TypeError
    return found


def _blocks(body: bytes) -> list[int]:
    """Return where the messages of a file lie, by the flatbuffer ``Footer`` at its end.

    Not every writer repeats the schema at the beginning, so a file can't be taken for a stream with something around it.
    """
    (size,) = struct.unpack_from("<i", body, len(body) - len(_MAGIC) - 4)
    footer = body[len(body) - len(_MAGIC) - 4 - size : len(body) - len(_MAGIC) - 4]
    root = int.from_bytes(footer[:4], "little")
    found: list[int] = []
    for number in (_DICTIONARIES, _RECORD_BATCHES):
        vector = _field(footer, root, number)
        if vector:
            vector += int.from_bytes(footer[vector : vector + 4], "little")
            count = int.from_bytes(footer[vector : vector + 4], "little")
            found += [place for (place,) in _BLOCK.iter_unpack(footer[vector + 4 : vector + 4 + count * _BLOCK.size])]
    return found


def _compressed(head: bytes) -> bool:
    """Say whether a message's buffers are compressed, by its head: the flatbuffer of a ``Message``."""
    message = int.from_bytes(head[:4], "little")
    kind, header = _field(head, message, 1), _field(head, message, 2)
    if not header:
        return False
    batch = header + int.from_bytes(head[header : header + 4], "little")
    if kind and head[kind] == _DICTIONARY:
        inner = _field(head, batch, 1)
        if not inner:
            return False
        batch = inner + int.from_bytes(head[inner : inner + 4], "little")
    return bool(_field(head, batch, 3))


def _field(head: bytes, table: int, number: int) -> int:
    """Return where a table's field lies; 0 when it isn't there."""
    (back,) = struct.unpack_from("<i", head, table)
    names = table - back
    (size,) = struct.unpack_from("<H", head, names)
    place = 4 + 2 * number
    if place + 2 > size:
        return 0
    (offset,) = struct.unpack_from("<H", head, names + place)
    return table + offset if offset else 0
