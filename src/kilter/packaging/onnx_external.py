"""ONNX graphs whose weights lie in files beside them: taken into the graph, each file by a clean name below its folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper

from kilter.core.errors import Damaged, InvalidInput

_LARGEST = (1 << 31) - (1 << 20)


def inlined(data: bytes, read: Callable[[str], bytes]) -> bytes:
    """Return a graph that holds all of its weights.

    Args:
        data: The graph.
        read: Returns the bytes of a file beside it by its name, and refuses names that lead elsewhere.

    Raises:
        Damaged: When the bytes are no graph, or a weight lies beyond its file's end.
        InvalidInput: When a name leads elsewhere, or the graph would be larger than the format allows.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's own class depends on how it was built
        raise Damaged("the bytes are not an ONNX graph", where="model.onnx") from error
    outside = [one for one in external_data_helper._get_all_tensors(model) if one.data_location == TensorProto.EXTERNAL]  # noqa: SLF001 - weights hide in attributes, too
    if not outside:
        return data
    held: dict[str, bytes] = {}
    size = len(data)
    for tensor in outside:
        said = {entry.key: entry.value for entry in tensor.external_data}
        name = said.get("location", "")
        if name not in held:
            held[name] = read(name)
        piece = _piece(held[name], said, tensor.name)
        size += len(piece)
        if size > _LARGEST:
            raise InvalidInput("the graph and its weights are larger than 2 GiB together", where="model.onnx",
                               fix="export it with 16-bit weights")  # fmt: skip
        tensor.raw_data = piece
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return bytes(model.SerializeToString())


def _piece(held: bytes, said: dict[str, Any], name: str) -> bytes:
    texts = [said.get("offset", "0"), said.get("length", "")]
    if not all(text == "" or (text.isascii() and text.isdigit() and len(text) < 16) for text in texts):
        raise Damaged("a weight's place is no number", where=name)
    start = int(texts[0] or 0)
    length = len(held) - start if texts[1] == "" else int(texts[1])
    if length < 0 or start + length > len(held):
        raise Damaged("a weight lies beyond the end of its file", where=name)
    return held[start : start + length]
