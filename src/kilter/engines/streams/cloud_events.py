"""Messages as CloudEvents in JSON, for a broker that has no place for an id and a reason beside the bytes.

A value that is a JSON object is the event's ``data``, byte for byte; any other one is its ``data_base64``.

Source: CloudEvents 1.0 with its JSON format, and its extension for partitioning.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import msgspec

from kilter.engines.streams.port import Outgoing

_NOTHING = msgspec.Raw()


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event; its key is bytes where it is no text."""

    specversion: str
    type: str
    source: str
    id: str
    partitionkey: str = ""
    partitionkeybytes: bytes = b""
    reason: str = ""
    data: msgspec.Raw = _NOTHING
    data_base64: bytes = b""


_BEGINS = b'{"specversion":"1.0","type":"kilter.message"'
_DECODER = msgspec.json.Decoder(_Event)
_ENCODER = msgspec.json.Encoder()


class Written(NamedTuple):
    """A message that was written as an event.

    Args:
        id: What it was made of, and for whom.
        key: Its key; may be empty.
        value: Its bytes.
        reason: Why it is a dead letter; empty otherwise.
    """

    id: str
    key: bytes
    value: bytes
    reason: str


def encode(message: Outgoing) -> bytes:
    """Return a message as an event."""
    key = _text(message.key)
    plain = _is_object(message.value)
    return _ENCODER.encode(
        _Event(
            specversion="1.0",
            type="kilter.message",
            source="kilter",
            id=message.id,
            partitionkey=key or "",
            partitionkeybytes=message.key if key is None else b"",
            reason=message.reason,
            data=msgspec.Raw(message.value) if plain else _NOTHING,
            data_base64=b"" if plain else message.value,
        )
    )


def decode(data: bytes) -> Written | None:
    """Return the message that an event of ours is; None for anything else."""
    with suppress(msgspec.MsgspecError):  # one that only begins like ours
        if data.startswith(_BEGINS):
            event = _DECODER.decode(data)
            key = event.partitionkey.encode() or event.partitionkeybytes
            return Written(event.id, key, bytes(event.data) or event.data_base64, event.reason)
    return None


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _is_object(value: bytes) -> bool:
    """Return whether bytes are a JSON object from the first to the last."""
    if value[:1] != b"{" or value[-1:] != b"}" or _text(value) is None:
        return False
    try:
        msgspec.json.decode(value)
    except msgspec.DecodeError:
        return False
    return True
