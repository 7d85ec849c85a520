"""Answers as named, typed tensors: how REST and gRPC take them.

Source: Open Inference Protocol v2; classification and binary data as in Triton's extensions.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kilter.core.errors import InvalidInput
from kilter.packaging.records import Signature
from kilter.serving.front.exchange import Answer
from kilter.serving.protocols.ports import BYTES, output_name

_CODES = {"FP64": "d", "FP32": "f"}
_FEW = 16
"""How many numbers Python converts before NumPy has begun to."""


class Out(NamedTuple):
    """One output of an answer.

    Args:
        name: Its name.
        datatype: Its type.
        shape: Its shape.
        values: Its values, row-major: numbers, or bytes when the type is BYTES.
    """

    name: str
    datatype: str
    shape: tuple[int, int]
    values: Sequence[float] | Sequence[bytes]

    def raw(self) -> bytes:
        """Return the values as little-endian bytes."""
        values: Any = self.values
        if self.datatype == BYTES:
            return pack_bytes(values)
        code = _CODES[self.datatype]
        if type(values) is array and values.typecode == code:
            return values.tobytes()
        if len(values) > _FEW:
            return np.asarray(values).astype(code).tobytes()
        return array(code, values).tobytes()


def check_output(name: str, where: str, signature: Signature | None) -> None:
    """Refuse an output that the model doesn't have.

    Raises:
        InvalidInput: It says which there are.
    """
    names = (output_name(signature), *(signature.outputs if signature is not None else ()))
    if name not in names:
        raise InvalidInput("there is no such output", where=where, allowed=", ".join(dict.fromkeys(names)))


def output(answer: Answer, name: str = "", classes: int = 0) -> Out:
    """Return an output of an answer.

    Args:
        answer: The answer.
        name: Which; empty for the one that has all.
        classes: For how many of the best classes to answer with text ``probability:index:name``, as Triton's classification
            extension does; 0 for the numbers themselves.
    """
    signature, width, values = answer.signature, answer.width, answer.values
    datatype = signature.dtype if signature is not None else "FP64"
    whole = output_name(signature)
    if name and name != whole and width > 1:
        values = values[answer.names.index(name) :: width]
        width = 1
    if classes:
        best = min(classes, width)
        names = answer.names if width > 1 else (name or whole,)
        texts = [text for at in range(0, len(values), width) for text in _best(values[at : at + width], names, best)]
        return Out(name or whole, BYTES, (answer.rows, best), texts)
    return Out(name or whole, datatype, (answer.rows, width), values)


def _best(values: Sequence[float], names: Sequence[str], count: int) -> list[bytes]:
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
    return [f"{values[index]:f}:{index}:{names[index]}".encode() for index in order]


def pack_bytes(values: Sequence[bytes]) -> bytes:
    """Return the values of a BYTES tensor as they are sent."""
    return b"".join([struct.pack("<I", len(value)) + value for value in values])
