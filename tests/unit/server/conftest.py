from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import httpx
import msgspec
import pytest

from kilter.core.clock import ManualClock
from kilter.core.errors import Conflict, GateRefused, NotFound
from kilter.engines.sql.database import Database, metadata
from kilter.journal.service import Journal
from kilter.operations.table import operation
from kilter.server.access import Access
from kilter.server.app import Application, Parts, build

TOKEN = "owner-token-of-the-tests"
VIEWER = "viewer-token-of-the-tests"


class Note(msgspec.Struct, frozen=True):
    name: str
    size: int
    at: datetime | None = None


class Notes:
    """A small service with every kind of operation."""

    def __init__(self) -> None:
        self.kept: list[Note] = []
        self.calls = 0

    @operation
    def list(self, limit: int = 10, kind: Literal["short", "long"] | None = None) -> list[Note]:
        """Return notes."""
        lengths = {"short": range(10), "long": range(10, 1000), None: range(-1000, 1000)}[kind]
        return [note for note in self.kept if note.size in lengths][:limit]

    @operation
    def get(self, name: str) -> Note:
        """Return one note."""
        for note in self.kept:
            if note.name == name:
                return note
        raise NotFound("no such note", where="name", fix="list them")

    @operation(writes=True)
    def add(self, note: Note) -> int:
        """Add a note."""
        self.calls += 1
        if note.size < 0:
            raise Conflict("a note can't be smaller than nothing", where="size")
        self.kept.append(note)
        return len(self.kept)

    @operation(writes=True, role="admin")
    def judge(self, name: str) -> None:
        """Refuse a note."""
        raise GateRefused("the gate said no", where=name)

    @operation
    def explode(self) -> int:
        """Fail in a way that nobody meant."""
        raise ZeroDivisionError("secret-of-the-inside")


class Client:
    """Speaks to the application as a browser or a client would, without a socket."""

    def __init__(self, application: Application, notes: Notes, journal: Journal, database: Database) -> None:
        self.application = application
        self.notes = notes
        self.journal = journal
        self.database = database

    async def send(
        self,
        method: str,
        path: str,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> httpx.Response:
        fields = {"host": "127.0.0.1:8700"}
        if token is not None:
            fields["authorization"] = f"Bearer {token}"
        if method == "POST":
            fields["content-type"] = "application/json"
        fields |= headers or {}
        transport = httpx.ASGITransport(app=self.application.asgi, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8700") as client:
            return await client.request(method, path, headers=fields, content=body)


def access(**changes) -> Access:
    fields = {"host": "127.0.0.1", "port": 8700, "tokens": {"admin": TOKEN, "viewer": VIEWER}}
    return Access(**(fields | changes))


@pytest.fixture
def make_client(tmp_path):
    opened = []

    def make(**changes) -> Client:
        database = Database.open(f"sqlite:///{tmp_path}/kilter.db")
        opened.append(database)
        with database.transaction() as connection:
            metadata.create_all(connection)
        clock = ManualClock(datetime(2013, 3, 1, tzinfo=UTC))
        journal, notes = Journal(database, clock), Notes()
        parts = Parts(
            services={"notes": notes}, journal=journal, database=database, access=access(**changes), clock=clock
        )
        return Client(build(parts), notes, journal, database)

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def client(make_client) -> Client:
    return make_client()
