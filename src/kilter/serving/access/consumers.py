"""The register of consumers: who calls which endpoint, with which kind of program, over which protocol, since when.

A front counts in memory, in a bounded table, and adds its counts to the store's every few seconds: what a crash loses is the
last counts, never a consumer that has called before.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

import msgspec
import sqlalchemy as sa

from kilter.core.clock import Clock
from kilter.engines.sql.database import Database
from kilter.operations.table import operation
from kilter.serving.tables import endpoint_consumers

ANONYMOUS = "anonymous"
OTHER = "other"
MOST = 1_000
"""Consumers that a front tells apart between two writes; those beyond are counted together."""

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("tritonclient", "tritonclient"),
    ("geventhttpclient", "tritonclient"),
    ("kserve", "kserve"),
    ("mlflow", "mlflow"),
    ("boto3", "boto3"),
    ("botocore", "boto3"),
    ("aws-sdk", "aws-sdk"),
    ("google-api", "google-api"),
    ("azure", "azure-sdk"),
    ("databricks", "databricks"),
    ("grpc-python", "grpc-python"),
    ("grpc-go", "grpc-go"),
    ("grpc-java", "grpc-java"),
    ("grpc-node", "grpc-node"),
    ("grpc", "grpc"),
    ("python-requests", "python-requests"),
    ("python-httpx", "python-httpx"),
    ("python-urllib", "python-urllib"),
    ("aiohttp", "aiohttp"),
    ("kilter", "kilter"),
    ("prometheus", "prometheus"),
    ("kube-probe", "kube-probe"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("wrk", "wrk"),
    ("hey/", "hey"),
    ("k6/", "k6"),
    ("locust", "locust"),
    ("postman", "postman"),
    ("go-http-client", "go"),
    ("okhttp", "java"),
    ("java/", "java"),
    ("apache-httpclient", "java"),
    ("node", "node"),
    ("axios", "node"),
    ("undici", "node"),
    ("ruby", "ruby"),
    ("dart", "dart"),
    ("reqwest", "rust"),
    ("dotnet", "dotnet"),
    ("mozilla", "browser"),
)
"""What to look for in a User-Agent, and the family it stands for; the first that is found counts."""


class Consumer(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who calls an endpoint.

    Args:
        loop: The endpoint.
        client: The name of the key; ``token`` for the front's own, ``anonymous`` where none is asked for.
        agent: The family of the program, from its User-Agent.
        protocol: How it speaks: ``predict``, ``v2``, ``v1``, ``grpc``, ...
        requests: How many requests it has sent.
        rows: How many rows they had.
        first_seen: When it called first.
        last_seen: When it called last.
    """

    loop: str
    client: str
    agent: str
    protocol: str
    requests: int
    rows: int
    first_seen: datetime
    last_seen: datetime


@lru_cache(maxsize=256)
def family(agent: bytes) -> str:
    """Return the family of a program by its User-Agent: one of few words, whatever was sent."""
    text = agent[:200].lower().decode("latin-1")
    return next((name for word, name in _FAMILIES if word in text), OTHER if text else "none")


class Seen:
    """What a front has seen since it last told the store; never more than a bound.

    Args:
        most: How many consumers are told apart.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._counts: dict[tuple[str, str, str, str], list[int]] = {}

    def saw(self, loop: str, client: str, agent: bytes, protocol: str, rows: int) -> None:
        """Count a request that was answered.

        Args:
            loop: The endpoint.
            client: The caller's name, or empty.
            agent: Its User-Agent.
            protocol: The protocol it spoke.
            rows: The rows it sent.
        """
        name = (loop, client or ANONYMOUS, family(agent), protocol)
        found = self._counts.get(name)
        if found is None:
            if len(self._counts) >= self._most:
                name = (loop, OTHER, OTHER, OTHER)
            found = self._counts.setdefault(name, [0, 0])
        found[0] += 1
        found[1] += rows

    def take(self) -> dict[tuple[str, str, str, str], list[int]]:
        """Return the counts and begin anew."""
        taken, self._counts = self._counts, {}
        return taken

    def put_back(self, taken: dict[tuple[str, str, str, str], list[int]]) -> None:
        """Add counts again that could not be told."""
        for name, (requests, rows) in taken.items():
            found = self._counts.setdefault(name, [0, 0])
            found[0] += requests
            found[1] += rows


class ConsumerService:
    """The register of a store.

    Args:
        database: The store's metadata.
        clock: The time.
        most: How many consumers of an endpoint are kept; those that were silent longest give way.
    """

    def __init__(self, database: Database, clock: Clock, most: int = MOST) -> None:
        self._database = database
        self._clock = clock
        self._most = most

    @operation
    def of(self, loop: str) -> list[Consumer]:
        """Return who calls an endpoint, the newest first.

        Args:
            loop: The endpoint.
        """
        return self._read(sa.select(endpoint_consumers).where(endpoint_consumers.c.loop == loop))

    @operation
    def all(self) -> list[Consumer]:
        """Return who calls any endpoint, the newest first."""
        return self._read(sa.select(endpoint_consumers))

    @operation(writes=True, repeatable=True)
    def forget(self, loop: str, client: str) -> int:
        """Forget a client of an endpoint that is known to be gone; it comes back when it calls again.

        Args:
            loop: The endpoint.
            client: The client.

        Returns:
            How many entries it had.
        """
        same = (endpoint_consumers.c.loop == loop) & (endpoint_consumers.c.client == client)
        with self._database.transaction() as connection:
            return connection.execute(sa.delete(endpoint_consumers).where(same)).rowcount

    def add(self, counts: dict[tuple[str, str, str, str], list[int]]) -> None:
        """Add what a front has counted.

        Args:
            counts: Requests and rows by endpoint, client, agent and protocol.
        """
        if not counts:
            return
        now = self._clock.now()
        table = endpoint_consumers
        with self._database.transaction() as connection:
            for (loop, client, agent, protocol), (requests, rows) in sorted(counts.items()):
                same = (
                    (table.c.loop == loop)
                    & (table.c.client == client)
                    & (table.c.agent == agent)
                    & (table.c.protocol == protocol)
                )
                more = {"requests": table.c.requests + requests, "rows": table.c.rows + rows, "last_seen": now}
                if connection.execute(sa.update(table).where(same).values(**more)).rowcount == 0:
                    who = {"loop": loop, "client": client, "agent": agent, "protocol": protocol}
                    what = {"requests": requests, "rows": rows, "first_seen": now, "last_seen": now}
                    connection.execute(sa.insert(table).values(**who, **what))
            for loop in {name[0] for name in counts}:
                self._shorten(connection, loop)

    def _shorten(self, connection: sa.Connection, loop: str) -> None:
        table = endpoint_consumers
        query = sa.select(table.c.last_seen).where(table.c.loop == loop).order_by(table.c.last_seen.desc())
        last = connection.execute(query.offset(self._most).limit(1)).scalar()
        if last is not None:
            connection.execute(sa.delete(table).where((table.c.loop == loop) & (table.c.last_seen <= last)))

    def _read(self, query: sa.Select[tuple[object, ...]]) -> list[Consumer]:
        table = endpoint_consumers
        ordered = query.order_by(
            table.c.last_seen.desc(), table.c.loop, table.c.client, table.c.agent, table.c.protocol
        )
        with self._database.reading() as connection:
            rows: Iterable[sa.Row[tuple[object, ...]]] = connection.execute(ordered)
            return [Consumer(**row._mapping) for row in rows]  # noqa: SLF001 - the public way to read a row by name
