"""A span's attributes, events and links as one text; values that are too long for a row lie in the object store, the same bytes once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from kilter.core.errors import Damaged
from kilter.llm.records import Span, SpanEvent, SpanLink

LONG_CONTENT = 64 << 10
LONG_VALUE = 16 << 10
SHOWN = 1000
_NUL = "\x00"
_INSTEAD = "\ufffd"


class Content(msgspec.Struct, omit_defaults=True):
    """What a row keeps of a span beside its columns.

    Args:
        attributes: As they were sent; of a value that lies elsewhere, its beginning.
        events: What happened within it.
        links: Other spans that it has to do with.
        kind: OpenTelemetry's kind.
        message: What went wrong.
        resource: Who recorded it.
        scope: The instrumentation that recorded it.
        kept: Of each attribute that lies in the object store, the digest of its value in JSON.
    """

    attributes: dict[str, Any] = {}
    events: tuple[SpanEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()
    kind: str = "INTERNAL"
    message: str = ""
    resource: dict[str, Any] = {}
    scope: str = ""
    kept: dict[str, str] = {}


_ENCODE = msgspec.json.Encoder().encode
_DECODER = msgspec.json.Decoder(Content)


def packed(span: Span, keep: Callable[[bytes], str]) -> str:
    """Return the text of a span.

    Args:
        span: The span.
        keep: Keeps bytes and returns their digest.
    """
    content = Content(span.attributes, span.events, span.links, span.kind, span.message, span.resource, span.scope)
    data = _ENCODE(content)
    if b"\\u0000" in data:  # no database takes it in a text that is searched
        content = _DECODER.decode(_ENCODE(cleaned(msgspec.to_builtins(content))))
        data = _ENCODE(content)
    if len(data) > LONG_CONTENT:
        content.attributes, content.kept = _parted(content.attributes, keep)
        data = _ENCODE(content)
    return data.decode()


def unpacked(text: str, fetch: Callable[[str], bytes] | None) -> Content:
    """Return what a text says, whole; without ``fetch``, of long values their beginning only.

    Raises:
        Damaged: When the text is not one of a span.
    """
    try:
        content = _DECODER.decode(text)
        if fetch is not None:
            for name, digest in content.kept.items():
                content.attributes[name] = msgspec.json.decode(fetch(digest))
    except msgspec.MsgspecError as error:
        raise Damaged("a span can't be read back", where="traces", fix="send the trace again") from error
    return content


def cleaned(value: Any) -> Any:
    """Return a plain value without the character NUL, which PostgreSQL takes in no text."""
    if isinstance(value, str):
        return value.replace(_NUL, _INSTEAD)
    if isinstance(value, dict):
        return {cleaned(name): cleaned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(one) for one in value]
    return value


def _parted(attributes: dict[str, Any], keep: Callable[[bytes], str]) -> tuple[dict[str, Any], dict[str, str]]:
    here: dict[str, Any] = {}
    kept: dict[str, str] = {}
    for name, value in attributes.items():
        data = _ENCODE(value)
        if len(data) > LONG_VALUE:
            kept[name] = keep(data)
            text = value if isinstance(value, str) else data[: 4 * SHOWN].decode("utf-8", "ignore")
            here[name] = text[:SHOWN]
        else:
            here[name] = value
    return here, kept
