"""Protobuf messages of other trackers' files, as classes of a descriptor pool of our own.

A message is written down by the fields that are read; any other field of a file is passed over, as protobuf does. Protobuf's
default pool takes each name once per process: nothing is registered there, so that a client of the same tracker can be loaded
beside it. A map is read as what it is on the wire, a repeated pair.
"""

from __future__ import annotations

import re
from typing import Any, Final

from kilter.core.errors import Damaged, Unavailable

_FIELD: Final = re.compile(r"^(\w+)=(\d+):(\w+)(\*?)(?:\|(\w+))?$")
_SCALARS: Final = frozenset(
    {"bool", "bytes", "double", "float", "int32", "int64", "sint64", "string", "uint32", "uint64"}
)


def classes(package: str, messages: dict[str, str]) -> dict[str, Any]:
    """Return the classes of messages.

    Args:
        package: A name for all of them.
        messages: Per message its fields, ``name=number:type``, with ``*`` when repeated and ``|group`` in a oneof.

    Raises:
        Unavailable: When protobuf isn't installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped] # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(
            "these files are written with protobuf, which is not installed",
            where="import",
            fix="pip install 'kilter[imports]'",
        ) from error
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for title, fields in messages.items():
        message = file.message_type.add(name=title)
        groups: list[str] = []
        for text in fields.split():
            found = _FIELD.match(text)
            assert found is not None, text  # noqa: S101 - the tables of this room
            name, number, kind, repeated, group = found.groups()
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = message.field.add(name=name, number=int(number), label=label)
            if kind in _SCALARS:
                field.type = getattr(kinds, f"TYPE_{kind.upper()}")
            else:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".{package}.{kind}"
            if group:
                if group not in groups:
                    groups.append(group)
                    message.oneof_decl.add(name=group)
                field.oneof_index = groups.index(group)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    made: dict[str, Any] = message_factory.GetMessageClassesForFiles([file.name], pool)
    return {name.removeprefix(f"{package}."): kind for name, kind in made.items()}


def parsed(kind: Any, data: bytes, where: str) -> Any:
    """Return a message.

    Raises:
        Damaged: When the bytes are no such message.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        return kind.FromString(data)
    except DecodeError:
        raise Damaged("a record can't be read", where=where) from None
