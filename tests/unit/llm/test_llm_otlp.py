"""OpenTelemetry's two forms say the same spans; whatever is cut, twisted or nested without end is refused."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.core.errors import InvalidInput
from kilter.llm.otlp import read_protobuf
from kilter.llm.otlp_json import read_json
from kilter.llm.records import Span, SpanEvent, SpanLink
from kilter.server.otlp import unpacked
from kilter.server.problems import TooLarge


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def part(number: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(number << 3 | 2) + varint(len(data)) + data


def value(given: Any) -> bytes:  # noqa: PLR0911 - one for each kind of value
    if isinstance(given, bool):
        return varint(2 << 3) + varint(int(given))
    if isinstance(given, str):
        return part(1, given)
    if isinstance(given, int):
        return varint(3 << 3) + varint(given)
    if isinstance(given, float):
        return varint(4 << 3 | 1) + struct.pack("<d", given)
    if isinstance(given, list):
        return part(5, b"".join(part(1, value(one)) for one in given))
    if isinstance(given, dict):
        return part(6, pairs(1, given))
    return part(7, given) if isinstance(given, bytes) else b""


def pairs(number: int, given: dict[str, Any]) -> bytes:
    return b"".join(part(number, part(1, name) + part(2, value(one))) for name, one in given.items())


def time(number: int, at: int) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<Q", at)


def request(attributes: dict[str, Any], **more: Any) -> bytes:
    span = part(1, more.get("trace", b"\x01" * 16)) + part(2, more.get("span", b"\x02" * 8))
    span += part(4, more.get("parent", b"\x03" * 8)) + part(5, "name") + varint(6 << 3) + varint(3)
    span += time(7, more.get("start", 5)) + time(8, more.get("end", 9)) + pairs(9, attributes)
    span += part(11, time(1, 7) + part(2, "event") + pairs(3, {"e": 1}))
    span += part(13, part(1, b"\x04" * 16) + part(2, b"\x05" * 8) + pairs(4, {"l": "x"}))
    span += part(15, part(2, "why") + varint(3 << 3) + varint(2)) + varint(99 << 3) + varint(5)
    scoped = part(1, part(1, "scope") + part(2, "1.0")) + part(2, span)
    return part(1, part(1, pairs(1, {"service.name": "s"})) + part(2, scoped))


EXPECTED = Span(
    trace=f"tr-{'01' * 16}",
    id="02" * 8,
    parent="03" * 8,
    name="name",
    start_ns=5,
    end_ns=9,
    status="ERROR",
    message="why",
    kind="CLIENT",
    attributes={"a": "b"},
    events=(SpanEvent(name="event", at_ns=7, attributes={"e": 1}),),
    links=(SpanLink(trace=f"tr-{'04' * 16}", span="05" * 8, attributes={"l": "x"}),),
    resource={"service.name": "s"},
    scope="scope",
)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_a_span_is_read() -> None:
    assert read_protobuf(request({"a": "b"})) == [EXPECTED]


@given(st.dictionaries(st.text(), plain, max_size=6))
def test_any_value_is_read_back(attributes: dict[str, Any]) -> None:
    (span,) = read_protobuf(request(attributes))
    assert span.attributes == attributes


def said(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if isinstance(given, list):
        return {"arrayValue": {"values": [said(one) for one in given]}}
    if isinstance(given, dict):
        return {"kvlistValue": {"values": [{"key": name, "value": said(one)} for name, one in given.items()]}}
    kinds = {bool: "boolValue", str: "stringValue", int: "intValue", float: "doubleValue"}
    return {kinds[type(given)]: str(given) if type(given) is int else given}


@given(st.dictionaries(st.text(), plain, max_size=6))
def test_json_says_the_same(attributes: dict[str, Any]) -> None:
    def listed(given: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"key": name, "value": said(one)} for name, one in given.items()]

    span = {
        "traceId": "01" * 16,
        "spanId": "02" * 8,
        "parentSpanId": "03" * 8,
        "name": "name",
        "kind": "SPAN_KIND_CLIENT",
        "startTimeUnixNano": "5",
        "endTimeUnixNano": 9,
        "attributes": listed(attributes),
        "events": [{"timeUnixNano": "7", "name": "event", "attributes": listed({"e": 1})}],
        "links": [{"traceId": "04" * 16, "spanId": "05" * 8, "attributes": listed({"l": "x"})}],
        "status": {"code": 2, "message": "why"},
        "unknown": {"a": 1},
    }
    scoped = {"scope": {"name": "scope"}, "spans": [span]}
    body = {"resourceSpans": [{"resource": {"attributes": listed({"service.name": "s"})}, "scopeSpans": [scoped]}]}
    assert read_json(json.dumps(body).encode()) == read_protobuf(request(attributes))


def test_numbers_that_json_cannot_say_and_bytes_are_spelled() -> None:
    (span,) = read_protobuf(request({"nan": math.nan, "up": math.inf, "down": [-math.inf], "bytes": b"\x00\xff"}))
    assert span.attributes == {"nan": "NaN", "up": "Infinity", "down": ["-Infinity"], "bytes": "AP8="}


def test_a_text_that_was_cut_within_a_character_does_not_cost_the_batch() -> None:
    body = request({"a": "xy"}).replace(b"xy", b"x\xc3")
    assert read_protobuf(body)[0].attributes == {"a": "x\ufffd"}


def test_every_place_where_a_batch_can_be_cut_is_refused_or_whole() -> None:
    whole = request({"a": "b", "c": [1, {"d": 2.5}]})
    for cut in range(1, len(whole)):
        with pytest.raises(InvalidInput):
            read_protobuf(whole[:cut])
    assert read_protobuf(b"") == []


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_spans_or_are_refused(data: bytes) -> None:
    for read in (read_protobuf, read_json):
        try:
            read(data)
        except InvalidInput:
            continue


@settings(max_examples=300)
@given(st.integers(0, 400), st.integers(0, 255))
def test_any_twisted_byte_is_read_or_refused(place: int, byte: int) -> None:
    whole = bytearray(request({"a": "b", "c": [1, {"d": 2.5}]}))
    whole[place % len(whole)] = byte
    try:
        for span in read_protobuf(bytes(whole)):
            assert len(span.trace) == 35
            assert len(span.id) == 16
    except InvalidInput:
        return


def test_depth_costs_no_stack() -> None:
    deep: Any = "x"
    for _ in range(65):
        deep = [deep]
    with pytest.raises(InvalidInput, match="deep"):
        read_protobuf(request({"a": deep}))
    body = part(1, "x")
    for _ in range(5000):
        body = part(5, part(1, body))
    with pytest.raises(InvalidInput, match="deep"):
        read_protobuf(part(1, part(2, part(2, part(9, part(1, "k") + part(2, body))))))


@pytest.mark.parametrize(
    "wrong",
    [
        {"trace": b"\x01" * 15},
        {"trace": b""},
        {"trace": b"\x00" * 16},
        {"span": b"\x00" * 8},
        {"span": b"\x01" * 9},
        {"parent": b"\x01"},
        {"start": 2**63},
        {"end": 2**64 - 1},
    ],
)
def test_ids_and_times_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="Invalid OpenTelemetry format"):
        read_protobuf(request({}, **wrong))


def test_a_root_may_name_no_parent_or_an_empty_one() -> None:
    assert read_protobuf(request({}, parent=b""))[0].parent is None
    assert read_protobuf(request({}, parent=b"\x00" * 8))[0].parent is None


def test_packed_bodies_are_unpacked_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip
    import zlib

    monkeypatch.setattr("kilter.server.otlp.LARGEST", 1000)
    assert (
        unpacked(b"x", "identity")
        == unpacked(gzip.compress(b"x"), "gzip")
        == unpacked(zlib.compress(b"x"), "deflate")
        == b"x"
    )
    assert unpacked(gzip.compress(b"x" * 1000), "gzip") == b"x" * 1000
    with pytest.raises(TooLarge):
        unpacked(gzip.compress(b"x" * 100_000), "gzip")
    with pytest.raises(InvalidInput):
        unpacked(gzip.compress(b"x" * 500)[:-9], "gzip")
    with pytest.raises(InvalidInput):
        unpacked(b"x", "gzip")
    with pytest.raises(InvalidInput, match="packed in another way"):
        unpacked(b"x", "br")
