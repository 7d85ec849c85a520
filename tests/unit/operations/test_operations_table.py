from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec
import pytest

from kilter.core.errors import InvalidInput, NotFound
from kilter.operations.openapi import openapi
from kilter.operations.table import collect, operation


class Point(msgspec.Struct, frozen=True):
    x: int
    label: str = ""


class Room:
    @operation
    def list(self, limit: int = 5, kind: Literal["a", "b"] | None = None, at: datetime | None = None) -> list[Point]:
        """Return points.

        In two paragraphs.
        """
        assert kind in {None, "a", "b"}
        return [Point(limit, "" if at is None else at.isoformat())]

    @operation(writes=True, role="admin")
    def put(self, point: Point, tags: dict[str, int] | None = None, names: list[str] | None = None) -> int:
        """Keep a point."""
        return point.x + sum((tags or {}).values()) + len(names or [])

    def inside(self) -> None:
        """Not an operation."""


@pytest.fixture
def registry():
    return collect({"room": Room()})


def test_a_marked_method_is_still_the_method():
    assert Room().list(3) == [Point(3)]
    assert Room().put(Point(1), tags={"a": 2}) == 3


def test_what_is_said_about_an_operation(registry):
    assert [found.name for found in registry] == ["room.list", "room.put"]
    reading, writing = registry
    assert (reading.summary, reading.writes, reading.role, reading.plain) == ("Return points.", False, "viewer", True)
    assert (writing.writes, writing.role, writing.plain, writing.path) == (True, "admin", False, "/api/v1/room/put")
    assert reading.result == list[Point]


def test_calls_through_the_table(registry):
    assert registry.call("room", "list", {}) == [Point(5)]
    assert (
        registry.call("room", "list", {"at": "2013-03-01T00:00:00Z"})[0].label
        == datetime(2013, 3, 1, tzinfo=UTC).isoformat()
    )
    assert registry.call("room", "put", {"point": {"x": 1}, "tags": {"a": 2}, "names": ["n"]}) == 4


def test_text_is_read_leniently(registry):
    read = registry.find("room", "list").call
    assert read({"limit": "7", "kind": "a"}, text=True) == [Point(7)]
    assert read({"limit": ["7"], "kind": ["null"]}, text=True) == [Point(7)]
    put = registry.find("room", "put").call
    assert put({"point": '{"x": 4}', "names": ["a", "b"]}, text=True) == 6
    assert put({"point": '{"x": 4}', "names": "a"}, text=True) == 5
    with pytest.raises(InvalidInput, match=r"\$\.limit"):
        read({"limit": "seven"}, text=True)


SECRET = "s3cret-value"


@pytest.mark.parametrize(
    ("verb", "arguments", "where", "message", "allowed", "fix"),
    [
        ("list", {"limt": 3}, "$", "unknown argument 'limt'", "limit, kind, at", "did you mean 'limit'?"),
        ("list", {f"<b>{SECRET}": 3}, "$", "unknown argument", "limit, kind, at", ""),
        ("list", {"limit": SECRET}, "$.limit", "got str, expected int", "a whole number", ""),
        ("list", {"limit": True}, "$.limit", "got bool, expected int", "a whole number", ""),
        ("list", {"kind": SECRET}, "$.kind", "not one of the allowed values", '"a" or "b" or null', ""),
        ("list", {"at": SECRET}, "$.at", "not a time", "RFC 3339", ""),
        ("put", {}, "$.point", "argument 'point' is missing", "an object with x, label", ""),
        ("put", {"point": {"x": SECRET}}, "$.point.x", "got str, expected int", "a whole number", ""),
        ("put", {"point": {"y": 1, "x": 2}}, "", "", "", ""),
        ("put", {"point": {"x": 1}, "names": [SECRET, 3]}, "$.names[1]", "got int, expected str", "text", ""),
        (
            "put",
            {"point": {"x": 1}, "tags": {SECRET: "no"}},
            "$.tags[...]",
            "got str, expected int",
            "a whole number",
            "",
        ),
    ],
)
def test_wrong_arguments_are_refused_and_not_echoed(registry, verb, arguments, where, message, allowed, fix):
    if not where:  # a Struct of the caller's own decides itself what it does with unknown fields
        assert registry.call("room", verb, arguments) == 2
        return
    with pytest.raises(InvalidInput) as caught:
        registry.call("room", verb, arguments)
    error = caught.value
    assert error.where == where
    assert message in error.message
    assert allowed in error.allowed
    assert error.fix == fix
    assert SECRET not in str(error.problem())


def test_an_unknown_operation_is_named_by_what_is_near(registry):
    with pytest.raises(NotFound, match=r"did you mean 'room\.list'"):
        registry.find("room", "lst")
    with pytest.raises(NotFound):
        registry.find("room", "inside")


def test_what_cannot_be_an_operation_is_told_at_once():
    class Loose:
        @operation
        def all(self, *names: str) -> int:
            return len(names)

    class Bare:
        @operation
        def one(self, name) -> int:
            return len(name)

    with pytest.raises(TypeError, match="named ones"):
        collect({"loose": Loose()})
    with pytest.raises(TypeError, match="annotated"):
        collect({"bare": Bare})


def test_openapi_describes_every_operation(registry):
    document = openapi(registry, version="1")
    assert set(document["paths"]) == {"/api/v1/room/list", "/api/v1/room/put"}
    assert set(document["paths"]["/api/v1/room/put"]) == {"post"}
    assert [one["name"] for one in document["paths"]["/api/v1/room/put"]["post"]["parameters"]] == ["Idempotency-Key"]
    assert [one["name"] for one in document["paths"]["/api/v1/room/list"]["get"]["parameters"]] == [
        "limit",
        "kind",
        "at",
    ]
    text = msgspec.json.encode(document).decode()
    references = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references <= set(document["components"]["schemas"])


def test_every_room_of_the_house_fits_the_table():
    from kilter.loop.remote import SERVICES

    registry = collect(SERVICES)
    assert {found.noun for found in registry} == set(SERVICES)
    assert len(openapi(registry, version="1")["paths"]) == len(registry)
    for found in registry:
        assert found.summary.endswith("."), found.name
        # What takes source text runs it: it is for those who may write, and never a tool or a GET.
        if "source" in found.request.__struct_fields__:
            assert not found.plain, found.name
