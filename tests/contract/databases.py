"""Databases of other people that tests read and write: SQLite, PostgreSQL and MariaDB, each empty and dropped afterwards."""

import os
import secrets
import socket
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

MARIADB = os.environ.get("KILTER_TEST_MARIADB", "mariadb://root@127.0.0.1:3306")
POSTGRES = os.environ.get("KILTER_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
KINDS = ("sqlite", "postgresql", "mariadb")


@contextmanager
def database(kind, folder):
    """Give the address of an empty database, or skip the test."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'other.db'}"
        return
    server = sa.make_url(POSTGRES if kind == "postgresql" else MARIADB)
    try:
        socket.create_connection((server.host, server.port), timeout=2).close()
    except OSError as error:
        pytest.skip(f"{kind} is not reachable at {server.host}:{server.port}: {error}")
    if kind == "mariadb":
        pytest.importorskip("pymysql")
        server = server.set(drivername="mariadb+pymysql")
    name = f"t{secrets.token_hex(6)}"
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    address = server.set(drivername=kind, database=name)
    try:
        yield address.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            force = " WITH (FORCE)" if kind == "postgresql" else ""
            connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
        engine.dispose()


def engine_of(address):
    """Return an engine of our own beside the one that is tested."""
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
    url = sa.make_url(address)
    return sa.create_engine(url.set(drivername=drivers[url.drivername]), poolclass=sa.NullPool)


def run(address, *statements):
    """Run statements in a database of the tests."""
    with engine_of(address).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows_of(address, query):
    """Return what a query gives."""
    with engine_of(address).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]
