"""The schema: made by the migrations or at once, the same both ways, undone and made again."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

import kilter
from kilter.core.errors import Conflict
from kilter.engines.sql.database import Database, metadata
from kilter.engines.sql.migrations.draft import draft
from kilter.engines.sql.migrations.upgrade import configuration, downgrade, upgrade
from kilter.engines.sql.migrations.versions import HEAD, REVISIONS, TABLES

FIX = """
The tables of the code and the migrations differ. These operations are missing: put them into a new step in
src/kilter/engines/sql/migrations/versions (or, before the first release, into v0001_initial.py), and name the step in
REVISIONS there:

"""


@pytest.fixture(autouse=True)
def _all_rooms():
    importlib.import_module("kilter.engines.sql.tables")
    for path in Path(kilter.__file__).parent.glob("*/tables.py"):
        if path.parent.name != "testing":
            importlib.import_module(f"kilter.{path.parent.name}.tables")


@pytest.fixture
def store(empty_url):
    database = Database.open(empty_url)
    yield database
    database.close()


def shape(connection):
    """Everything that a database knows of its tables."""
    inspector = sa.inspect(connection)
    found = {}
    for table in sorted(inspector.get_table_names()):
        found[table] = {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], str(c["default"])) for c in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table),
            "foreign": sorted(inspector.get_foreign_keys(table), key=str),
            "unique": sorted(inspector.get_unique_constraints(table), key=str),
            "checks": sorted(inspector.get_check_constraints(table), key=str),
            "indexes": sorted(inspector.get_indexes(table), key=str),
        }
    return found


def rows(connection):
    """What lies in the tables from the beginning; when it was put there is the store's own."""
    tables = sa.MetaData()
    tables.reflect(connection)
    return {
        name: [
            {column: value for column, value in row.items() if not column.endswith("_at")}
            for row in connection.execute(sa.select(table)).mappings()
        ]
        for name, table in tables.tables.items()
    }


def drop(store):
    """Drop everything, whoever made it."""
    with store.transaction() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        tables.drop_all(connection)


def test_the_migrations_make_the_tables_of_the_code(store):
    upgrade(store)
    with store.reading() as connection:
        missing = draft(connection, metadata)
        assert not missing, FIX + missing
        migrated, first = shape(connection), rows(connection)
    drop(store)
    store.migrate()
    with store.reading() as connection:
        created, made = shape(connection), rows(connection)
    assert sorted(migrated) == sorted(created)
    for table, expected in created.items():
        assert migrated[table] == expected, f"{FIX}table {table}"
    assert made == first
    assert made["alembic_version"] == [{"version_num": HEAD}]
    assert [row["id"] for row in made["experiments"]] == [0]


def test_whoever_knows_all_tables_makes_a_new_store_without_alembic(empty_url):
    assert len(metadata.tables) == TABLES, "write into versions/__init__.py how many tables there are now"
    code = (
        "import sys; from kilter.engines.sql.database import metadata; from kilter.loop.workspace import Database;"
        "d = Database.open(sys.argv[1]); d.migrate(); d.close(); assert 'alembic' not in sys.modules;"
        "print(*sorted(metadata.tables))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, empty_url], check=True, timeout=60, capture_output=True, text=True
    )
    assert ran.stdout.split() == sorted(metadata.tables)


def test_whoever_knows_a_part_of_the_tables_makes_all_of_them(store, empty_url):
    code = "import sys; from kilter.engines.sql.database import Database; Database.open(sys.argv[1]).migrate()"
    subprocess.run([sys.executable, "-c", code, empty_url], check=True, timeout=60)
    with store.reading() as connection:
        assert draft(connection, metadata) == ""


def test_a_new_store_is_made_whole_or_not_at_all(store, monkeypatch):
    def fail(*_args, **_options):
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("kilter.engines.sql.migrations.fresh._VERSIONS.create", fail)
        with pytest.raises(ZeroDivisionError):
            store.migrate()
    with store.reading() as connection:
        assert sa.inspect(connection).get_table_names() == []
    store.migrate()
    with store.reading() as connection:
        assert draft(connection, metadata) == ""


def test_up_and_down_and_up(store):
    store.migrate()
    with store.reading() as connection:
        first = shape(connection)
    assert len(first) > 10
    downgrade(store)
    with store.reading() as connection:
        assert list(shape(connection)) == ["alembic_version"]
    store.migrate()
    with store.reading() as connection:
        assert shape(connection) == first


def test_every_step_is_named_in_order():
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        script = ScriptDirectory.from_config(configuration(connection))
        steps = [step.revision for step in script.walk_revisions()]
    engine.dispose()
    assert tuple(reversed(steps)) == REVISIONS
    assert script.get_current_head() == HEAD


def test_migrating_again_changes_nothing_and_needs_no_alembic(store, empty_url):
    store.migrate()
    store.migrate()
    code = (
        "import sys; from kilter.engines.sql.database import Database;"
        "d = Database.open(sys.argv[1]); d.migrate(); d.close(); assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, empty_url], check=True, timeout=60)


MIGRATOR = """
import sys
from kilter.engines.sql.database import Database
database = Database.open(sys.argv[1])
print("ready", flush=True)
database.migrate()
database.close()
"""


KNOWING = f"import kilter.loop.workspace{MIGRATOR}"
"""One that knows all tables, and makes them at once."""


@pytest.mark.slow
@pytest.mark.parametrize("together", [(MIGRATOR,) * 3, (KNOWING,) * 3, (MIGRATOR, KNOWING, KNOWING)])
def test_processes_that_start_together_migrate_once(store, empty_url, together):
    migrators = [subprocess.Popen([sys.executable, "-c", code, empty_url]) for code in together]
    assert [migrator.wait(120) for migrator in migrators] == [0] * 3
    with store.reading() as connection:
        assert draft(connection, metadata) == ""
        assert len(rows(connection)["experiments"]) == 1


@pytest.mark.crash
@pytest.mark.slow
def test_kill_9_during_a_migration_leaves_all_or_nothing(store, empty_url):
    """The step is one transaction, on SQLite as well."""
    seen = set()
    for delay in (0.0, 0.5, 0.9, 1.3):
        migrator = subprocess.Popen([sys.executable, "-c", MIGRATOR, empty_url], stdout=subprocess.PIPE)
        migrator.stdout.readline()
        time.sleep(delay)
        os.kill(migrator.pid, signal.SIGKILL)
        migrator.wait()
        migrator.stdout.close()
        with store.reading() as connection:
            tables = set(sa.inspect(connection).get_table_names())
        assert not tables or set(metadata.tables) <= tables
        seen.add(bool(tables))
        if tables:
            downgrade(store)
            with store.transaction() as connection:
                connection.execute(sa.text("DROP TABLE alembic_version"))
    store.migrate()
    with store.reading() as connection:
        assert draft(connection, metadata) == ""


def test_tables_of_someone_else_are_left_alone(store):
    with store.transaction() as connection:
        connection.execute(sa.text("CREATE TABLE journal (entry TEXT)"))
    with pytest.raises(Conflict, match="table 'journal' already"):
        store.migrate()
    with store.reading() as connection:
        assert sa.inspect(connection).get_table_names() == ["journal"]
