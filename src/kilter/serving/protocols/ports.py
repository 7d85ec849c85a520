"""What a model takes and gives, as protocols of tensors announce it: names, datatypes and shapes.

Source: Open Inference Protocol v2 (model metadata).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kilter.packaging.records import Signature

KINDS: dict[str, tuple[str, int]] = {
    "BOOL": ("?", 1), "UINT8": ("<u1", 1), "UINT16": ("<u2", 2), "UINT32": ("<u4", 4), "UINT64": ("<u8", 8),
    "INT8": ("<i1", 1), "INT16": ("<i2", 2), "INT32": ("<i4", 4), "INT64": ("<i8", 8),
    "FP16": ("<f2", 2), "FP32": ("<f4", 4), "FP64": ("<f8", 8), "BF16": ("<u2", 2),
}  # fmt: skip
"""Per datatype NumPy's name for it and its size; BYTES, which has none, is not among them."""
BYTES = "BYTES"
_INPUT = "input"


class Port(NamedTuple):
    """One input or output as it is announced; -1 is the number of rows.

    Args:
        name: Its name.
        datatype: Its type.
        shape: Its shape, rows first.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_ports(signature: Signature, direct: Sequence[str]) -> list[Port]:
    """Return the inputs of a model: one tensor when all are numbers, one per column otherwise.

    Args:
        signature: What the model takes.
        direct: Its inputs that are not looked up.
    """
    encoding = signature.encoding
    kinds = dict(zip(encoding.names, encoding.kinds, strict=True))
    if not signature.views and "categorical" not in kinds.values():
        return [Port(_INPUT, signature.dtype, (-1, *(signature.shape or (len(encoding.names),))))]
    ports = [Port(name, BYTES if kinds[name] == "categorical" else signature.dtype, (-1, 1)) for name in direct]
    entities = dict.fromkeys(str(view["entity"]) for view in signature.views)
    known = {port.name for port in ports}
    return ports + [Port(name, BYTES, (-1, 1)) for name in entities if name not in known]


def output_ports(signature: Signature) -> list[Port]:
    """Return the outputs of a model: one tensor with all of them."""
    return [Port(output_name(signature), signature.dtype, (-1, len(signature.outputs)))]


def output_name(signature: Signature | None) -> str:
    """Return the name of the tensor that has all outputs: the output's own, or what they are together."""
    if signature is None:
        return "value"
    if len(signature.outputs) == 1:
        return signature.outputs[0]
    return "probabilities" if signature.label == "multiclass" else "values"
