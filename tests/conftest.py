"""Fixtures over every engine: SQLite and PostgreSQL, a folder and S3."""

from __future__ import annotations

import gc
import os
import secrets
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from kilter.core.clock import ManualClock
from kilter.engines.objects.store import ObjectStore
from kilter.engines.sql.database import Database
from kilter.engines.tables.store import TableStore
from kilter.journal.service import Journal

POSTGRES = os.environ.get("KILTER_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")


@contextmanager
def _schema(server: str) -> Iterator[str]:
    """Make an empty schema, give the URL of a connection inside it, and drop it afterwards."""
    schema = f"t_{secrets.token_hex(8)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    url = sa.make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    engine.dispose()


def _empty(url: str) -> None:
    """Delete the rows of all tables, those first that refer to others."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
        tables = sa.MetaData()
        tables.reflect(connection)
        deletes = [f'DELETE FROM "{t.name}"' for t in reversed(tables.sorted_tables) if t.name != "alembic_version"]
        connection.exec_driver_sql("; ".join(deletes))
    engine.dispose()


@pytest.fixture
def clock() -> ManualClock:
    """A clock at 1 March 2013 that moves only by hand."""
    return ManualClock(datetime(2013, 3, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """The URL of a PostgreSQL server, or a skip."""
    url = sa.make_url(POSTGRES)
    try:
        socket.create_connection((url.host or "127.0.0.1", url.port or 5432), timeout=2).close()
    except OSError as error:
        pytest.skip(f"PostgreSQL is not reachable at {url.host}:{url.port}: {error}")
    return POSTGRES


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of an empty schema in PostgreSQL, dropped afterwards."""
    with _schema(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kilter.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy, because migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "kilter.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: str) -> Iterator[str]:
    """The URL of a migrated schema in PostgreSQL that the tests of this process use one after the other."""
    with _schema(postgres_server) as url:
        database = Database.open(url)
        database.migrate()
        database.close()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated database without rows, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "kilter.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    url: str = request.getfixturevalue("postgres_migrated")
    _empty(url)
    yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database without rows, on SQLite and on PostgreSQL."""
    database = Database.open(database_url)
    yield database
    database.close()


@pytest.fixture
def journal(database: Database, clock: ManualClock) -> Journal:
    """A journal, on SQLite and on PostgreSQL."""
    return Journal(database, clock)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from moto.server import ThreadedMotoServer
        except ImportError as error:
            pytest.skip(f"moto is not installed: {error}")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket in S3."""
    import httpx

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    bucket = f"kilter-{secrets.token_hex(6)}"
    httpx.put(f"{s3_server}/{bucket}", timeout=30).raise_for_status()
    return f"s3://{bucket}/store?endpoint={s3_server}"


@pytest.fixture(params=["folder", "s3"])
def bytes_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty place for bytes, in a folder and in S3."""
    if request.param == "folder":
        return str(tmp_path / "bytes")
    url: str = request.getfixturevalue("s3_url")
    return url


@pytest.fixture
def objects(bytes_url: str) -> ObjectStore:
    """An empty object store, in a folder and in S3."""
    return ObjectStore.open(bytes_url)


@pytest.fixture
def tables(bytes_url: str) -> TableStore:
    """An empty table store, in a folder and in S3."""
    return TableStore.open(bytes_url)


@pytest.fixture(scope="module", autouse=True)
def _connections_of_mlflow() -> Iterator[None]:
    """MLflow's client leaves its connections to the garbage collector: what a module left goes before the next one begins."""
    yield
    if "mlflow" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
