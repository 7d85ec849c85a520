"""Named, typed tensors: how REST and gRPC give rows.

Inputs come as one tensor ``[n, columns]`` for a model whose inputs are all numbers, or as one tensor ``[n]`` or ``[n, 1]`` per
column (``BYTES`` for text); beside either, the model's key and time columns and the entities of its features, by name. A
floating NaN is a missing value. Source: Open Inference Protocol v2; binary data as in Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.native import Buffer
from kilter.serving.answering.rows import Given, RowReader, made_up, moment
from kilter.serving.protocols.ports import BYTES, KINDS, input_ports
from kilter.serving.records import Scalar, alike
from kilter.serving.workers.frames import wide

Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = frozenset({"FP16", "FP32", "FP64", "BF16"})
_LARGEST = (1 << 31) - 1


class Tensor(NamedTuple):
    """One tensor as it came.

    Args:
        name: Its name.
        datatype: ``FP64``, ``INT32``, ``BYTES``, ...
        shape: Its shape.
        data: Its values: a list, flat or nested, or little-endian bytes (of BYTES each value after its length, 4 bytes).
        where: How an error calls it: ``inputs[0]``.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[Any] | bytes | memoryview
    where: str


def given(tensors: Sequence[Tensor], reader: RowReader | None, now: datetime, check: Callable[[int], None]) -> Given:
    """Return the rows that tensors hold.

    Args:
        tensors: The inputs.
        reader: The model's reader.
        now: The time of rows that have none.
        check: Refuses a number of rows.

    Raises:
        InvalidInput: It names the input, and says what would have been accepted.
        Unavailable: When there is no model that could say what the tensors mean.
    """
    if reader is None:
        raise Unavailable("no model is loaded that could read tensors", where="model", fix="use /predict/{endpoint}")
    if not tensors:
        raise InvalidInput("there are no inputs", where="inputs", allowed=_allowed(reader))
    if len(tensors) == 1 and not reader.categorical:
        only = tensors[0]
        if only.name not in reader.direct or reader.width == 1:
            count, matrix = _matrix(only, reader)
            check(count)
            return _finish(count, matrix, {}, reader, now)
    return _by_column(tensors, reader, now, check)


def _matrix(tensor: Tensor, reader: RowReader) -> tuple[int, Buffer]:
    """Return the rows of a tensor that has all direct inputs, as the model's matrix; bytes of float32 stay float32."""
    shape, columns = tensor.shape, len(reader.direct)
    if len(shape) == 2:
        fits = shape[1] == columns
    else:
        row = reader.signature.shape
        fits = bool(row) and tuple(shape[1:]) == row
        fits = fits or (columns == 1 and len(shape) == 1)
    if not fits or reader.categorical:
        raise InvalidInput("the input has another shape, or is none of the model's", where=f"{tensor.where}.shape",
                           allowed=_allowed(reader))  # fmt: skip
    count = _length(tensor)
    if columns == reader.width:
        if type(tensor.data) is list:
            return count, _listed(tensor, count * columns)
        if tensor.datatype == "FP32":
            _finite(tensor, count * columns)
            return count, tensor.data  # type: ignore[return-value]  # bytes, as it is no list
        return count, _numbers(tensor, count * columns)
    values = _numbers(tensor, count * columns)
    held = np.full((count, reader.width), np.nan)
    places = [place for place, _ in reader.numeric]
    held[:, places] = np.frombuffer(values, dtype="<f8").reshape(count, columns)
    return count, held.tobytes()


def _by_column(tensors: Sequence[Tensor], reader: RowReader, now: datetime, check: Callable[[int], None]) -> Given:
    columns: dict[str, Tensor] = {}
    whole: Tensor | None = None
    for tensor in tensors:
        if len(tensor.shape) == 2 and tensor.shape[1] != 1 and tensor.name not in reader.direct and whole is None:
            whole = tensor
        elif tensor.name in columns:
            raise InvalidInput("two inputs have the same name", where=f"{tensor.where}.name")
        else:
            columns[tensor.name] = tensor
    count = _length(whole or tensors[0])
    check(count)
    for tensor in columns.values():
        if tuple(tensor.shape) not in {(count,), (count, 1)}:
            raise InvalidInput("the column has another shape", where=f"{tensor.where}.shape", allowed=f"[{count}, 1]")
    held = np.full((count, reader.width), np.nan)
    others: dict[str, Sequence[Scalar]] = {}
    if whole is not None:
        cells = wide(_matrix(whole, reader)[1], count * reader.width)
        held = np.frombuffer(cells, dtype="<f8").reshape(count, reader.width)
    else:
        _place(columns, reader, count, held, others)
    for name, tensor in columns.items():
        if name not in reader.direct:
            others[name] = _scalars(tensor, count)
    return _finish(count, held.tobytes(), others, reader, now)


def _place(
    columns: Mapping[str, Tensor], reader: RowReader, count: int, held: Array, others: dict[str, Sequence[Scalar]]
) -> None:
    for place, name in reader.numeric:
        tensor = columns.get(name)
        if tensor is None:
            raise _lacking(name, reader)
        held[:, place] = np.frombuffer(_numbers(tensor, count), dtype="<f8")
    for name, codes in reader.categorical.items():
        tensor = columns.get(name)
        if tensor is None:
            raise _lacking(name, reader)
        texts = _texts(tensor, count)
        held[:, reader.names.index(name)] = [
            math.nan if text is None else codes.get(str(text), math.nan) for text in texts
        ]
        others[name] = texts


def _finish(
    count: int, matrix: Buffer, others: Mapping[str, Sequence[Scalar]], reader: RowReader, now: datetime
) -> Given:
    keys: Sequence[str]
    times: Sequence[datetime]
    route = ""
    if reader.key and reader.key in others:
        keys = [_key(value, row, reader.key) for row, value in enumerate(others[reader.key])]
    else:
        route, keys = made_up(count)
    if reader.time and reader.time in others:
        times = [moment(value, row, reader.time) for row, value in enumerate(others[reader.time])]
    else:
        times = alike(now, count)
    return Given(count, keys, times, reader, matrix, route, others)


def _key(value: Scalar, row: int, name: str) -> str:
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value)
    raise InvalidInput("a key is neither text nor an integer", where=f"inputs.{name}[{row}]", allowed="BYTES or INT64")


# ---------------------------------------------------------------- values


def _length(tensor: Tensor) -> int:
    """Return the number of rows of a tensor, its shape checked."""
    shape = tensor.shape
    fits = bool(shape)
    for size in shape:
        fits = fits and type(size) is int and 0 <= size <= _LARGEST
    if not fits:
        raise InvalidInput("the shape is none", where=f"{tensor.where}.shape", allowed="rows first, each 0 or more")
    return shape[0]


def _numbers(tensor: Tensor, size: int) -> bytes:
    """Return ``size`` numbers as float64."""
    if type(tensor.data) is list:
        return _listed(tensor, size)
    return _finite(tensor, size).astype("<f8", copy=False).tobytes()


def _finite(tensor: Tensor, size: int) -> Array:
    """Return the ``size`` numbers of a tensor that came as bytes; none of them is infinite."""
    held = _raw(tensor, size)
    if held.dtype.kind == "f" and np.count_nonzero(np.isinf(held)):
        raise InvalidInput(
            "a value is infinite", where=f"{tensor.where}.data", allowed="finite numbers, or NaN: missing"
        )
    return held


def _raw(tensor: Tensor, size: int) -> Array:
    kind = KINDS.get(tensor.datatype)
    if kind is None:
        raise InvalidInput("the datatype is none that a number has", where=f"{tensor.where}.datatype",
                           allowed=", ".join(KINDS))  # fmt: skip
    if len(tensor.data) != size * kind[1]:
        raise InvalidInput(f"there are {len(tensor.data)} bytes of data", where=f"{tensor.where}.data",
                           allowed=f"{size * kind[1]} bytes, as shape and datatype say")  # fmt: skip
    held: Array = np.frombuffer(tensor.data, dtype=kind[0])  # type: ignore[arg-type]
    if tensor.datatype == "BF16":
        return (held.astype("<u4") << 16).view("<f4")
    return held


def _listed(tensor: Tensor, size: int) -> bytes:
    """Return numbers of a JSON list, or of a message's repeated field."""
    data: Any = tensor.data
    if len(data) != size or (data and type(data[0]) is list):
        data = _flat(tensor, data, len(tensor.shape))
    if len(data) != size:
        raise InvalidInput(f"there are {len(data)} values", where=f"{tensor.where}.data",
                           allowed=f"{size} values, as the shape says")  # fmt: skip
    if tensor.datatype not in _FLOATS:
        _check_integers(tensor, data)
    try:
        # array("d"), unlike numpy, refuses the string "5"
        held = array("d", data)
    except (TypeError, OverflowError):
        held = array("d", [_number(value, f"{tensor.where}.data[{place}]") for place, value in enumerate(data)])
    return held.tobytes()


def _number(value: object, where: str) -> float:
    if value is None:
        return math.nan
    if (type(value) is float or type(value) is int or type(value) is bool) and abs(value) < 1 << 63:
        return float(value)
    raise InvalidInput("a value is no number", where=where, allowed="finite numbers, or null: missing")


def _check_integers(tensor: Tensor, data: Sequence[Any]) -> None:
    kind = KINDS.get(tensor.datatype)
    if kind is None:
        raise InvalidInput("the datatype is none that a number has", where=f"{tensor.where}.datatype",
                           allowed=", ".join(KINDS))  # fmt: skip
    if tensor.datatype == "BOOL":
        low, high = 0, 1
    else:
        bounds = np.iinfo(kind[0])
        low, high = int(bounds.min), int(bounds.max)
    for place, value in enumerate(data):
        if (type(value) is not int and type(value) is not bool) or not low <= value <= high:
            raise InvalidInput(f"a value is no {tensor.datatype}", where=f"{tensor.where}.data[{place}]",
                               allowed=f"integers from {low} to {high}")  # fmt: skip


def _flat(tensor: Tensor, data: Any, depth: int) -> list[Any]:
    """Return nested lists as one, row-major; each must be as long as the shape says."""
    shape = tensor.shape
    found = list(data)
    for axis in range(1, depth):
        if not found or type(found[0]) is not list:
            break
        if any(type(one) is not list or len(one) != shape[axis] for one in found):
            raise InvalidInput("the nested lists don't fit the shape", where=f"{tensor.where}.data",
                               allowed=str(list(shape)))  # fmt: skip
        found = [value for one in found for value in one]
    return found


def _texts(tensor: Tensor, size: int) -> list[Scalar]:
    if tensor.datatype != BYTES:
        raise InvalidInput("the column is text", where=f"{tensor.where}.datatype", allowed=BYTES)
    return _scalars(tensor, size)


def _scalars(tensor: Tensor, size: int) -> list[Scalar]:
    """Return a column's values as they would stand in a row."""
    if tensor.datatype != BYTES:
        values = np.frombuffer(_numbers(tensor, size), dtype="<f8").tolist()
        if tensor.datatype in _FLOATS:
            return [None if math.isnan(value) else value for value in values]
        return [int(value) for value in values] if abs(max(values, key=abs, default=0)) < 1 << 53 else _exact(tensor)
    data: Any = tensor.data
    data = _flat(tensor, data, len(tensor.shape)) if type(data) is list else unpack_bytes(data, tensor.where)
    if len(data) != size:
        raise InvalidInput(f"there are {len(data)} values", where=f"{tensor.where}.data",
                           allowed=f"{size} values, as the shape says")  # fmt: skip
    return [_text(value, f"{tensor.where}.data[{place}]") for place, value in enumerate(data)]


def _exact(tensor: Tensor) -> list[Scalar]:
    data = tensor.data
    return list(data) if type(data) is list else _raw(tensor, len(data) // 8).tolist()


def _text(value: object, where: str) -> str | None:
    if value is None or type(value) is str:
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput("the text is not UTF-8", where=where, allowed="UTF-8") from error
    raise InvalidInput("the value is no text", where=where, allowed="a string, or null")


def unpack_bytes(data: bytes | memoryview, where: str) -> list[bytes]:
    """Return the values of a BYTES tensor: each stands after its length, four bytes, little-endian.

    Raises:
        InvalidInput: When a length goes past the end.
    """
    held, start, found = bytes(data), 0, []
    while start < len(held):
        end = start + 4
        size = int.from_bytes(held[start:end], "little")
        start = end + size
        if end > len(held) or start > len(held):
            raise InvalidInput("the lengths of the texts don't fit the data", where=f"{where}.data",
                               allowed="per value its length (4 bytes, little-endian) and its bytes")  # fmt: skip
        found.append(held[end:start])
    return found


def _allowed(reader: RowReader) -> str:
    ports = input_ports(reader.signature, reader.direct)
    if len(ports) == 1:
        return f"one tensor {list(ports[0].shape)}, or one tensor [n, 1] per column"
    return "one tensor [n, 1] per column: " + ", ".join(f"{port.name} {port.datatype}" for port in ports)


def _lacking(name: str, reader: RowReader) -> InvalidInput:
    return InvalidInput("an input is missing", where=f"inputs.{name}", allowed=_allowed(reader))
